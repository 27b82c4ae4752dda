"""What all fitted mixtures do: predict, score, draw rows, and be saved."""

import hashlib
import os
import textwrap
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from numbers import Integral
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self, TypeVar, overload

import numpy as np
from numpy.typing import NDArray
from sklearn.base import DensityMixin

from streamgmm.algorithms.reads import prediction
from streamgmm.algorithms.reads.memory import MixtureBytes
from streamgmm.algorithms.reads.reader import (
    Reader,
    gap_bytes,
    prepare,
)
from streamgmm.core.criteria import Criteria, mean_score
from streamgmm.core.e_step import EStep, scratch_bytes
from streamgmm.core.fitted_model import FittedModel
from streamgmm.core.frame import Frame
from streamgmm.core.incomplete import IncompleteExpectation
from streamgmm.core.mixtures.alignment import aligned_fit
from streamgmm.core.mixtures.conditioning import conditional, marginal
from streamgmm.core.mixtures.sampling import draw
from streamgmm.core.parameters import Parameters
from streamgmm.core.statistics import Statistics
from streamgmm.core.structures import STRUCTURES, Array, CovarianceStructure
from streamgmm.core.structures.low_rank import joined, structure_name
from streamgmm.errors import ModelFileError, OutputError, ParameterError
from streamgmm.estimators.condition import warn_of_skipped_rows
from streamgmm.estimators.matrices import matrices_on_access
from streamgmm.estimators.outputs import (
    Output,
)
from streamgmm.estimators.records import to_record
from streamgmm.estimators.row_estimator import RowEstimator, listener_of
from streamgmm.estimators.summary import component_table, describe
from streamgmm.estimators.validation import (
    check_is_fitted,
    check_random_state,
)
from streamgmm.executors.blas import single_threaded_blas
from streamgmm.executors.select import open_executor
from streamgmm.model_files import held, replace_model
from streamgmm.options import CovarianceType, Missing
from streamgmm.paths import local_path
from streamgmm.persistence import Record
from streamgmm.protocols import (
    Chunk,
    Source,
)

#: The path of an output, in the type in which it was given.
OutputPath = TypeVar("OutputPath", bound=str | os.PathLike[str])
#: Data whose predictions are NumPy arrays.
InMemory = NDArray[Any] | Sequence[Sequence[float]]
# Size of a mixture up to which it is kept as it was prepared for predictions.
_KEPT_BYTES = 1 << 16


class MixtureEstimator(DensityMixin, RowEstimator):  # type: ignore[misc]
    """Predictions, scores, samples and files, from the attributes that a fit leaves.

    A subclass fits; its settings include ``n_components``, ``covariance_type``, ``reg_covar``,
    ``fixed``, ``random_state``, ``executor``, ``n_jobs``, ``memory_limit``, ``verbose``,
    ``verbose_interval`` and ``callbacks``.
    """

    #: Files that the model was loaded from or saved to, and a digest of what they held then.
    known_files_: Mapping[str, str | None] = MappingProxyType({})
    #: Rank of covariances of low rank, as it is asked for and as it was fitted.
    rank: int | None = None
    rank_: int
    covariances_ = matrices_on_access("covariances_")
    precisions_ = matrices_on_access("precisions_")
    precisions_cholesky_ = matrices_on_access("precisions_cholesky_")

    @property
    @abstractmethod
    def fitted_model_(self) -> FittedModel:
        """The fitted mixture as a plain value.

        Raises
        ------
        NotFittedError
            If there is none.
        """

    @abstractmethod
    def _as_batch(self, fitted: FittedModel) -> "MixtureEstimator":
        """Return a batch model of another mixture, with the settings of this model."""

    @overload
    def predict(self, X: Any, *, out: OutputPath, resume: bool = False) -> OutputPath: ...

    @overload
    def predict(self, X: InMemory, *, resume: bool = False) -> NDArray[np.int64]: ...

    @overload
    def predict(self, X: Any, *, out: None = None, resume: bool = False) -> Any: ...

    def predict(
        self, X: Any, *, out: str | os.PathLike[str] | None = None, resume: bool = False
    ) -> Any:
        """Return the component of largest responsibility of each row.

        Parameters
        ----------
        X : array-like, path or Source of shape (n_samples, n_features)
        out : path-like, default=None
            A ``.npy`` or ``.zarr`` path to write to, chunk by chunk; needed if X is a path. Of
            labelled data what is written has the shape of the samples. Until it is whole it grows
            in the folder ``<out>.part``, which stays if the write is interrupted.
        resume : bool, default=False
            Whether to continue what an interrupted call of the same model and data has left in that
            folder; otherwise it is discarded. If there is nothing, all is computed.

        Returns
        -------
        labels : ndarray or lazy dask.array.Array of shape (n_samples,), or the path ``out``
            Of a data frame a Series of its library, of xarray data a DataArray with the dimensions
            and coordinates of the samples.

        Raises
        ------
        DataError
            If the data cannot be used or have other columns than those fitted.
        OutputError
            If ``out`` cannot be written, another process is writing it, or what is to be resumed
            was begun with another model or other data.
        """
        return self._predicted(X, prediction.labels, Output(np.dtype(np.int64)), out, resume)

    @overload
    def predict_proba(self, X: Any, *, out: OutputPath, resume: bool = False) -> OutputPath: ...

    @overload
    def predict_proba(self, X: InMemory, *, resume: bool = False) -> NDArray[np.float64]: ...

    @overload
    def predict_proba(self, X: Any, *, out: None = None, resume: bool = False) -> Any: ...

    def predict_proba(
        self, X: Any, *, out: str | os.PathLike[str] | None = None, resume: bool = False
    ) -> Any:
        """Return the posterior probability (responsibility) of each component for each row.

        Parameters
        ----------
        X : array-like, path or Source of shape (n_samples, n_features)
        out : path-like, default=None
            A ``.npy`` or ``.zarr`` path to write to, chunk by chunk; needed if X is a path. Of
            labelled data what is written has the shape of the samples. Until it is whole it grows
            in the folder ``<out>.part``, which stays if the write is interrupted.
        resume : bool, default=False
            Whether to continue what an interrupted call of the same model and data has left in that
            folder; otherwise it is discarded. If there is nothing, all is computed.

        Returns
        -------
        responsibilities : ndarray or lazy dask.array.Array of shape (n_samples, n_components), \
or the path ``out``

        Raises
        ------
        DataError
            If the data cannot be used or have other columns than those fitted.
        OutputError
            As for :meth:`predict`.
        """
        check_is_fitted(self)
        output = Output(np.dtype(np.float64), "component", range(len(self.weights_)))
        return self._predicted(X, prediction.responsibilities, output, out, resume)

    @overload
    def score_samples(self, X: Any, *, out: OutputPath, resume: bool = False) -> OutputPath: ...

    @overload
    def score_samples(self, X: InMemory, *, resume: bool = False) -> NDArray[np.float64]: ...

    @overload
    def score_samples(self, X: Any, *, out: None = None, resume: bool = False) -> Any: ...

    def score_samples(
        self, X: Any, *, out: str | os.PathLike[str] | None = None, resume: bool = False
    ) -> Any:
        """Return the log-density of each row.

        Parameters
        ----------
        X : array-like, path or Source of shape (n_samples, n_features)
        out : path-like, default=None
            A ``.npy`` or ``.zarr`` path to write to, chunk by chunk; needed if X is a path. Of
            labelled data what is written has the shape of the samples. Until it is whole it grows
            in the folder ``<out>.part``, which stays if the write is interrupted.
        resume : bool, default=False
            Whether to continue what an interrupted call of the same model and data has left in that
            folder; otherwise it is discarded. If there is nothing, all is computed.

        Returns
        -------
        log_density : ndarray or lazy dask.array.Array of shape (n_samples,), or the path ``out``
            As for :meth:`predict`.
            Nats; -inf for rows whose squares overflow.

        Raises
        ------
        DataError
            If the data cannot be used or have other columns than those fitted.
        OutputError
            As for :meth:`predict`.
        """
        return self._predicted(X, prediction.scores, Output(np.dtype(np.float64)), out, resume)

    @overload
    def impute(self, X: Any, *, out: OutputPath, resume: bool = False) -> OutputPath: ...

    @overload
    def impute(self, X: InMemory, *, resume: bool = False) -> NDArray[Any]: ...

    @overload
    def impute(self, X: Any, *, out: None = None, resume: bool = False) -> Any: ...

    def impute(
        self, X: Any, *, out: str | os.PathLike[str] | None = None, resume: bool = False
    ) -> Any:
        """Return the rows with missing values (NaN) replaced by their expectation.

        Parameters
        ----------
        X : array-like, path or Source of shape (n_samples, n_features)
        out : path-like, default=None
            A ``.npy`` or ``.zarr`` path to write to, chunk by chunk; needed if X is a path.
        resume : bool, default=False
            As for :meth:`predict`.

        Returns
        -------
        filled : ndarray or lazy dask.array.Array of shape (n_samples, n_features), or the path \
``out``
            In the type of the data if that is floating. A missing value is the mean of its
            conditional distribution, over all components; in rows without any value, the mean of
            the mixture. Of a data frame a data frame, of xarray data a DataArray with the features
            along the dimension ``feature``.

        Raises
        ------
        DataError
            If the data cannot be used or have other columns than those fitted.

        References
        ----------
        Ghahramani & Jordan (1994), Supervised learning from incomplete data via an EM approach.

        Examples
        --------
        >>> import numpy as np
        >>> from streamgmm import GaussianMixture
        >>> X = np.array([[0.0, 1], [1, 2], [2, 3], [3, 4], [4, 5.2]])
        >>> GaussianMixture().fit(X).impute([[np.nan, 3]]).round(1)
        array([[2., 3.]])
        """
        check_is_fitted(self)
        source = self._open(X, None, reset=False, missing="em")
        with single_threaded_blas():
            parameters = self._parameters()
            frame = Frame.of(parameters, source.dtype)
            expectation = IncompleteExpectation.prepare(parameters, frame)
        names = getattr(self, "feature_names_in_", range(source.n_features))
        output = Output(prediction.imputed_type(source.dtype), "feature", list(names))
        return self._map_rows(X, source, prediction.imputed, expectation, output, out, resume)

    def aligned(self, reference: "MixtureEstimator") -> Any:
        """Return this mixture with its components in the order of those of another one.

        Label k of the result then means what label k of the reference means, as far as the two
        mixtures agree. Components are paired so that merging the two of each pair would cost least
        in all; each is paired, however far it is from its partner.

        Parameters
        ----------
        reference : GaussianMixture or OnlineGaussianMixture
            Fitted, with as many components, the same covariance type and the same columns.

        Returns
        -------
        model : GaussianMixture
            The same mixture and history; of a stream the mixture as it is now.

        Raises
        ------
        ParameterError
            If the reference is something else, or the two do not go together.

        References
        ----------
        Runnalls (2007), Kullback-Leibler approach to Gaussian mixture reduction, equation 21.
        Kuhn (1955), The Hungarian method for the assignment problem.

        Examples
        --------
        >>> import numpy as np
        >>> from streamgmm import GaussianMixture
        >>> X = np.random.default_rng(0).normal(size=(2000, 1)) + [[-5], [5]] * 1000
        >>> monday = GaussianMixture(2, random_state=0).fit(X)
        >>> tuesday = GaussianMixture(2, random_state=1).fit(-X)
        >>> bool((np.sign(tuesday.aligned(monday).means_) == np.sign(monday.means_)).all())
        True
        """
        check_is_fitted(self)
        if not isinstance(reference, MixtureEstimator):
            raise ParameterError(
                f"reference is a {type(reference).__name__}; give a fitted GaussianMixture or "
                "OnlineGaussianMixture"
            )
        check_is_fitted(reference)
        fitted, other = self.fitted_model_, reference.fitted_model_
        for what, own, wanted in (
            ("components", len(self.weights_), len(reference.weights_)),
            ("covariance type", self.covariance_type, reference.covariance_type),
            ("number of columns", self.n_features_in_, reference.n_features_in_),
            ("columns", _names_of(fitted), _names_of(other)),
        ):
            if own != wanted and None not in (own, wanted):
                raise ParameterError(
                    f"the {what} of the model and of the reference differ: {own} and {wanted}; "
                    "align models of one kind"
                )
        with single_threaded_blas():
            return self._as_batch(aligned_fit(fitted, other.parameters))

    def marginal(self, features: Sequence[int | str]) -> Any:
        """Return the distribution of some of the features, whatever the others are.

        Parameters
        ----------
        features : sequence of int or str
            Columns, by number or by name.

        Returns
        -------
        model : GaussianMixture
            Of these features, in this order. It has no history and no statistics.

        Raises
        ------
        ParameterError
            If there is no such feature, or one is named twice.

        References
        ----------
        Bishop, Pattern Recognition and Machine Learning (2006), equation 2.98.

        Examples
        --------
        >>> import numpy as np
        >>> from streamgmm import GaussianMixture
        >>> X = np.array([[0.0, 1], [1, 2], [2, 3], [3, 4], [4, 5]])
        >>> GaussianMixture().fit(X).marginal([1]).means_
        array([[3.]])
        """
        check_is_fitted(self)
        chosen = self._columns(features)
        return self._derived(marginal(self._parameters(), chosen), chosen)

    def conditional(
        self, given: Mapping[int, float] | Mapping[str, float] | Mapping[int | str, float]
    ) -> Any:
        """Return the distribution of the other features where some have known values.

        Parameters
        ----------
        given : mapping of int or str to float
            Values of columns, by number or by name.

        Returns
        -------
        model : GaussianMixture
            Of the other features, in their order; ``weights_`` are the responsibilities for the
            values. It has no history and no statistics.

        Raises
        ------
        ParameterError
            If there is no such feature, none is left, or a value is not finite or beyond all
            reason.

        References
        ----------
        Bishop, Pattern Recognition and Machine Learning (2006), equations 2.81, 2.82.

        Examples
        --------
        >>> import numpy as np
        >>> from streamgmm import GaussianMixture
        >>> X = np.array([[0.0, 1], [1, 2], [2, 3], [3, 4], [4, 5]])
        >>> GaussianMixture().fit(X).conditional({0: 3.0}).means_.round(3)
        array([[4.]])
        """
        check_is_fitted(self)
        if not isinstance(given, Mapping):
            raise ParameterError(f"given is {given!r}; give a dict of columns and their values")
        chosen = self._columns(list(given))
        try:
            values = np.array([float(value) for value in given.values()])
        except (TypeError, ValueError):
            raise ParameterError(
                f"given holds values that are not numbers: {dict(given)}"
            ) from None
        if not np.isfinite(values).all():
            raise ParameterError(f"given holds values that are not finite: {dict(given)}")
        rest = np.setdiff1d(np.arange(self.n_features_in_), chosen)
        if not rest.size:
            raise ParameterError("all features are given, none is left to have a distribution")
        return self._derived(conditional(self._parameters(), chosen, values), rest)

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """Return the mean log-density of the rows.

        Parameters
        ----------
        X : array-like, path or Source of shape (n_samples, n_features)
        y : Ignored
        sample_weight : array-like of shape (n_samples,) or str, default=None

        Returns
        -------
        log_likelihood : float
            Nats per row (a unit of weight); -inf, with a warning, if a row's squares overflow.

        Raises
        ------
        DataError
            If the data cannot be used or have other columns than those fitted.
        """
        return mean_score(self._scored(X, sample_weight))

    def bic(self, X: Any, sample_weight: Any = None) -> float:
        """Return the Bayesian information criterion on X; lower is better.

        Parameters
        ----------
        X : array-like, path or Source of shape (n_samples, n_features)
        sample_weight : array-like of shape (n_samples,) or str, default=None
            Row weights; a weight of 2 counts a row twice.

        Returns
        -------
        bic : float
            -2 ln L + p ln n, for p free parameters and n rows; of rows with weights n is the sum
            of the weights, and ln L the sum of the weighted log-densities.
        """
        return self.criteria(X, sample_weight).bic

    def aic(self, X: Any, sample_weight: Any = None) -> float:
        """Return the Akaike information criterion on X; lower is better.

        Parameters
        ----------
        X : array-like, path or Source of shape (n_samples, n_features)
        sample_weight : array-like of shape (n_samples,) or str, default=None
            Row weights; a weight of 2 counts a row twice.

        Returns
        -------
        aic : float
            -2 ln L + 2 p, for p free parameters; ln L as for :meth:`bic`.
        """
        return self.criteria(X, sample_weight).aic

    def icl(self, X: Any, sample_weight: Any = None) -> float:
        """Return the integrated completed likelihood criterion on X; lower is better.

        BIC asks how many Gaussians describe the density; ICL asks how many clusters there are. It
        adds twice the entropy of the assignment, so components that overlap cost more.

        Parameters
        ----------
        X : array-like, path or Source of shape (n_samples, n_features)
        sample_weight : array-like of shape (n_samples,) or str, default=None
            Row weights; a weight of 2 counts a row twice.

        Returns
        -------
        icl : float
            BIC + 2 H, where H = -Σ w Σ_k γ ln γ is the entropy of the responsibilities γ.

        References
        ----------
        Biernacki, Celeux & Govaert (2000), Assessing a mixture model for clustering with the
        integrated completed likelihood. McLachlan & Peel (2000), Finite Mixture Models, chapter 6.

        Examples
        --------
        >>> import numpy as np
        >>> from streamgmm import GaussianMixture
        >>> X = np.array([[0.0], [1], [2], [10], [11], [12]])
        >>> gm = GaussianMixture(2, random_state=0, covariance_type="tied").fit(X)
        >>> bool(gm.icl(X) >= gm.bic(X))
        True
        """
        return self.criteria(X, sample_weight).icl

    def criteria(self, X: Any, sample_weight: Any = None) -> Criteria:
        """Return the log-likelihood of the rows and all information criteria, from one pass.

        Parameters
        ----------
        X : array-like, path or Source of shape (n_samples, n_features)
        sample_weight : array-like of shape (n_samples,) or str, default=None
            Row weights; a weight of 2 counts a row twice.

        Returns
        -------
        criteria : Criteria
            With ``log_likelihood``, ``entropy``, ``n_parameters``, ``bic``, ``aic`` and ``icl``.

        Raises
        ------
        DataError
            If the data cannot be used or have other columns than those fitted.

        Examples
        --------
        >>> import numpy as np
        >>> from streamgmm import GaussianMixture
        >>> X = np.arange(10.0).reshape(5, 2)
        >>> gm = GaussianMixture().fit(X)
        >>> gm.criteria(X).bic == gm.bic(X)
        True
        """
        found = self._scored(X, sample_weight)
        with single_threaded_blas():
            return Criteria.of(found, self._parameters(), self.fixed)

    def _scored(self, X: Any, sample_weight: Any = None) -> Statistics:
        """Return the statistics of all rows, from one pass."""
        check_is_fitted(self)
        source = self._open(X, sample_weight, reset=False)
        with (
            open_executor(self.executor, source, self.n_jobs, self.memory_limit) as executor,
            single_threaded_blas(),
        ):
            k, d = self.means_.shape
            sizes = MixtureBytes(self._structure_name, k, d, source.missing == "em")
            reader = Reader(source, executor, listener_of(self), driver_bytes=sizes.scoring)
            found = reader.statistics("score", self._parameters())
        warn_of_skipped_rows(reader.history[-1].skipped, source.n_rows, ", and the score is -inf")
        return found

    def sample(self, n_samples: int = 1) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Draw rows from the fitted mixture.

        Parameters
        ----------
        n_samples : int, default=1

        Returns
        -------
        X : ndarray of shape (n_samples, n_features)
            Grouped by component.
        y : ndarray of shape (n_samples,)
            The component of each.

        Raises
        ------
        ParameterError
            If ``n_samples`` is less than 1.
        """
        check_is_fitted(self)
        is_number = isinstance(n_samples, Integral) and not isinstance(n_samples, bool)
        if not is_number or n_samples < 1:
            raise ParameterError(
                f"Invalid value for 'n_samples': {n_samples!r}. It must be an int of at least 1."
            )
        return draw(self._parameters(), n_samples, check_random_state(self.random_state))

    def _columns(self, features: Sequence[int | str]) -> NDArray[np.intp]:
        """Return the numbers of columns that are given by number or name."""
        if not isinstance(features, Iterable) or isinstance(features, str):
            raise ParameterError(f"features is {features!r}; give a list of columns of the model")
        names = getattr(self, "feature_names_in_", np.empty(0, dtype=object)).tolist()
        numbers = [names.index(f) if f in names else f for f in features]
        unknown = [f for f in numbers if f not in range(self.n_features_in_)]
        if unknown or not numbers or len(set(numbers)) < len(numbers):
            known = f", or names: {', '.join(names)}" if names else ""
            raise ParameterError(
                f"features {list(features)} are not columns of the model, each once; choose "
                f"numbers from 0 to {self.n_features_in_ - 1}{known}"
            )
        return np.array(numbers, dtype=np.intp)

    def _derived(self, parameters: Parameters, features: NDArray[np.intp]) -> "MixtureEstimator":
        """Return a model of the same settings with other parameters, of some of the features."""
        own = self.fitted_model_
        names, ridge = own.feature_names, own.reg_covar
        fitted = FittedModel(
            parameters,
            reg_covar=None if ridge is None else ridge[features],
            feature_names=None if names is None else names[features],
            converged=own.converged,
            n_iterations=own.n_iterations,
        )
        model = self._as_batch(fitted)
        # The values that were held are those of other features.
        model.set_params(weights_init=None, means_init=None, precisions_init=None, fixed=())
        if np.ndim(self.reg_covar):
            model.set_params(reg_covar=np.asarray(self.reg_covar)[features])
        return model

    def _prepared(self, source: Source) -> EStep | IncompleteExpectation:
        arrays = [np.asarray(array, dtype=np.float64, order="C") for array in self._stored_arrays()]
        settings = self._structure_name, source.dtype, source.missing
        if sum(array.nbytes for array in arrays) > _KEPT_BYTES:
            return _prepared_from(*settings, *arrays)
        # Attributes may be assigned by hand, and so the values themselves are what is looked up.
        values = ((array.shape, array.tobytes()) for array in arrays)
        return _kept(STRUCTURES[settings[0]], *settings, *values)

    def _predicted(
        self,
        X: Any,
        function: Callable[[prediction.Question, Chunk], NDArray[Any]],
        output: Output,
        out: str | os.PathLike[str] | None,
        resume: bool,
    ) -> Any:
        check_is_fitted(self)
        source = self._open(X, None, reset=False)
        question = prediction.Question(self._prepared(source), source.missing)
        return self._map_rows(X, source, function, question, output, out, resume)

    @property
    def _n_labels(self) -> int:
        return len(self.weights_)

    def _scratch_bytes(self, source: Source) -> int:
        scratch = scratch_bytes(self._structure_name, *self.means_.shape)
        return scratch + gap_bytes(source, len(self.weights_))

    def _digest(self) -> str:
        """Return a digest of what predictions depend on."""
        digest = hashlib.sha256(self._structure_name.encode())
        for array in self._stored_arrays():
            digest.update(np.ascontiguousarray(array, dtype=np.float64).tobytes())
        return digest.hexdigest()

    def _parameters(self) -> Parameters:
        """Return the fitted attributes as parameters; they may have been assigned by hand."""
        weights, means, covariances, precisions_cholesky = self._stored_arrays()
        return Parameters.from_precisions_cholesky(
            self._structure_name,
            weights,
            means,
            covariances,
            np.asarray(precisions_cholesky, dtype=np.float64, order="C"),
        )

    @property
    def _structure_name(self) -> CovarianceType:
        """The name of the covariance structure of the fitted mixture, with its rank."""
        rank = self.rank_ if hasattr(self, "loadings_") else None
        return structure_name(self.covariance_type, rank, self.means_.shape[1])

    def _stored_arrays(self) -> tuple[Array, Array, Array, Array]:
        """Return weights, means, covariances and factors of precisions as parameters do."""
        if hasattr(self, "loadings_"):
            own = joined(np.asarray(self.loadings_), np.asarray(self.noise_variances_))
            return self.weights_, self.means_, own, own
        return self.weights_, self.means_, self.covariances_, self.precisions_cholesky_

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the fitted model to a ``.gmm`` file, atomically.

        Settings that a file cannot hold (callbacks, a client, a RandomState, a prior that is an
        object of another class than :class:`streamgmm.Prior`) are left at their defaults.
        Writers of one file wait for each other.

        Parameters
        ----------
        path : path-like
            A file that is there is replaced, except in two cases: it was changed after this model
            was loaded from it or saved to it, or :func:`streamgmm.update` has learned there what
            this model does not know.

        Raises
        ------
        OutputError
            If the file cannot be written, or is not to be replaced.
        """
        target = Path(os.path.realpath(local_path(path, OutputError, "model files")))
        with held(target):
            replace_model(target, self._record(), self)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Load a model of this class, as :func:`streamgmm.load` does.

        Parameters
        ----------
        path : path-like
            A file that :meth:`save` wrote.

        Returns
        -------
        model : of this class

        Raises
        ------
        ModelFileError
            If the file is missing, damaged, written by a newer version, or holds a model of
            another class.

        Examples
        --------
        >>> import tempfile
        >>> from pathlib import Path
        >>> import numpy as np
        >>> from streamgmm import GaussianMixture
        >>> path = Path(tempfile.mkdtemp()) / "model.gmm"
        >>> GaussianMixture().fit(np.arange(10.0).reshape(5, 2)).save(path)
        >>> GaussianMixture.load(path).means_
        array([[4., 5.]])
        """
        from streamgmm.estimators.loading import load

        model = load(path)
        if not isinstance(model, cls):
            kind = type(model).__name__
            raise ModelFileError(
                f"{path} holds a model of class {kind}; load it by {kind}.load or streamgmm.load"
            )
        return model

    def summary(self) -> str:
        """Return the fitted mixture as text of lines of at most 80 characters.

        The first lines say what was fitted and how it went. A table follows: a line for each
        feature with the mean, and the standard deviation in parentheses, of each component.

        Returns
        -------
        summary : str

        Examples
        --------
        >>> import numpy as np
        >>> from streamgmm import GaussianMixture
        >>> gm = GaussianMixture(algorithm="em").fit(np.arange(10.0).reshape(5, 2))
        >>> print(gm.summary().splitlines()[-1].split())
        ['1', '5', '(2.83)']
        """
        fitted = self.fitted_model_
        heading = textwrap.fill(describe(fitted), 80)
        return f"{heading}\n\n{component_table(fitted)}"

    def _record(self) -> Record:
        check_is_fitted(self)
        return to_record(self)


def _names_of(fitted: FittedModel) -> list[str] | None:
    return None if fitted.feature_names is None else [*fitted.feature_names]


def _prepared_from(
    covariance_type: CovarianceType, dtype: np.dtype[Any], missing: Missing, *arrays: Array
) -> EStep | IncompleteExpectation:
    """Return a mixture prepared for rows of a type, from the attributes of a fit."""
    with single_threaded_blas():
        parameters = Parameters.from_precisions_cholesky(covariance_type, *arrays)
        return prepare(parameters, Frame.of(parameters, dtype), missing)


@lru_cache(maxsize=16)
def _kept(
    structure: CovarianceStructure,
    covariance_type: CovarianceType,
    dtype: np.dtype[Any],
    missing: Missing,
    *values: tuple[tuple[int, ...], bytes],
) -> EStep | IncompleteExpectation:
    """Return what :func:`_prepared_from` returns, from the shapes and the bytes of the arrays.

    A model that predicts a few rows at a time is prepared once. The structure is that of the
    covariance type; another one may be registered under the same name.
    """
    arrays = (np.frombuffer(content).reshape(shape) for shape, content in values)
    return _prepared_from(covariance_type, dtype, missing, *arrays)
