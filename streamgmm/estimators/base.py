"""The base of all mixtures: prediction, scores, drawing of rows, and saving."""

import hashlib
import os
import textwrap
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from numbers import Integral
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self, overload

import numpy as np
from numpy.typing import NDArray
from sklearn.base import DensityMixin

from streamgmm.algorithms.reads import component_sketch, prediction
from streamgmm.algorithms.reads.component_sketch import (
    SketchQuestion,
    sketch_bytes,
    sketch_chunk,
)
from streamgmm.algorithms.reads.memory import MixtureBytes
from streamgmm.algorithms.reads.reader import (
    Reader,
    announced,
    gap_bytes,
    refuse_not_finite,
)
from streamgmm.core.component_statistics import ComponentStatistics
from streamgmm.core.criteria import Criteria
from streamgmm.core.e_step import scratch_bytes
from streamgmm.core.expectation import Expectation, prepare
from streamgmm.core.few_rows_e_step import are_few_for
from streamgmm.core.fitted_model import FittedModel
from streamgmm.core.frame import Frame
from streamgmm.core.incomplete import IncompleteExpectation
from streamgmm.core.mixtures.alignment import aligned_fit
from streamgmm.core.mixtures.conditioning import conditional, marginal
from streamgmm.core.mixtures.sampling import draw
from streamgmm.core.noise import NO_BOX, Noise
from streamgmm.core.parameters import Parameters
from streamgmm.core.statistics import Statistics
from streamgmm.core.structures import STRUCTURES, Array, CovarianceStructure
from streamgmm.core.structures.low_rank import structure_name
from streamgmm.core.structures.low_rank_factors import joined
from streamgmm.errors import ModelFileError, NotFiniteError, OutputError, ParameterError
from streamgmm.estimators.condition import warn_of_skipped_rows
from streamgmm.estimators.data_types import InMemory, OutputPath, PandasFrame
from streamgmm.estimators.matrices import matrices_on_access
from streamgmm.estimators.predictions import MixturePredictions
from streamgmm.estimators.records import to_record
from streamgmm.estimators.row_estimator import RowEstimator, notified
from streamgmm.estimators.summary import component_table, describe
from streamgmm.estimators.validation import (
    check_is_fitted,
    check_random_state,
)
from streamgmm.executors.blas import single_threaded_blas
from streamgmm.executors.select import open_executor
from streamgmm.model_files import held, replace_model
from streamgmm.options import CovarianceType, Missing
from streamgmm.packages import needed_by
from streamgmm.paths import local_path
from streamgmm.persistence import Record
from streamgmm.protocols import Chunk, Job, Output, Source, Work
from streamgmm.sinks import ArraySink
from streamgmm.sources.columns import chosen_columns
from streamgmm.sources.open import open_beside

if TYPE_CHECKING:
    import pandas as pd

# Size of a mixture up to which it is kept as it was prepared for predictions.
_KEPT_BYTES = 1 << 16
#: Fitted attributes that only a mixture with noise has.
NOISE_ATTRIBUTES = ("noise_weight_", "noise_log_density_", "noise_box_")


class MixtureEstimator(
    MixturePredictions,
    DensityMixin,  # type: ignore[misc]
    RowEstimator,
):
    """Predictions, scores, samples and files, from the attributes that a fit leaves.

    A subclass fits; its settings include ``n_components``, ``covariance_type``, ``reg_covar``,
    ``fixed``, ``random_state``, ``executor``, ``n_jobs``, ``memory_limit``, ``verbose``,
    ``verbose_interval`` and ``callbacks``.
    """

    #: Files that the model was loaded from or saved to, and the digest of their content then.
    known_files_: Mapping[str, str | None] = MappingProxyType({})
    #: Rank of covariances of low rank, as it is asked for.
    rank: int | None = None
    covariances_ = matrices_on_access(
        "covariances_", "Covariances of the components; those of low rank are computed each time."
    )
    precisions_ = matrices_on_access(
        "precisions_", "Inverse covariances; those of low rank are computed each time."
    )
    precisions_cholesky_ = matrices_on_access(
        "precisions_cholesky_",
        "Upper factors U of the precisions, P = U Uᵀ; those of low rank are computed each time.",
    )

    @property
    @abstractmethod
    def fitted_model_(self) -> FittedModel:
        """The fitted mixture as a plain value.

        Raises
        ------
        NotFittedError
            If there is none.
        """

    def _asked_structure(self, n_features: int) -> CovarianceType:
        """Return the name of the covariance structure that the settings ask for.

        Raises
        ------
        ParameterError
            If the covariances cannot have the rank that is asked for.
        """
        return structure_name(self.covariance_type, self.rank, n_features)

    def _mixture(self) -> Self:
        check_is_fitted(self)
        return self

    @abstractmethod
    def _as_batch(self, fitted: FittedModel) -> "MixtureEstimator":
        """Return a batch model of another mixture, with the settings of this model."""

    @overload
    def impute(self, X: Any, *, out: OutputPath, resume: bool = False) -> OutputPath: ...

    @overload
    def impute(self, X: InMemory, *, resume: bool = False) -> NDArray[Any]: ...

    @overload
    def impute(self, X: PandasFrame, *, resume: bool = False) -> "pd.DataFrame": ...

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
            As for :meth:`predict`; of labelled data the store holds the variables of the data.
        resume : bool, default=False
            As for :meth:`predict`.

        Returns
        -------
        filled : ndarray or lazy dask.array.Array of shape (n_samples, n_features), or the path \
``out``
            In the type of the data if that is floating. A missing value is the mean of its
            conditional distribution, over all components; in rows without any value, the mean of
            the mixture. The mean of noise is the centre of its box. Of a data frame a data frame,
            of an xarray Dataset a Dataset with the same variables, of a DataArray a DataArray.

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
        output = Output(prediction.imputed_type(source.dtype), "feature", list(names), is_rows=True)
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
            The same mixture and history; of a stream the present mixture.

        Raises
        ------
        ParameterError
            If the reference is something else, or the two do not match.

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
            If there is no such feature, one is named twice, or the model has noise without a box.

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
            If there is no such feature, none is left, a value is not finite or far too large,
            or the model has noise without a box.

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

        Examples
        --------
        >>> import numpy as np
        >>> from streamgmm import GaussianMixture
        >>> X = np.array([[0.0], [1], [2], [10], [11], [12]])
        >>> gm = GaussianMixture(2, covariance_type="tied", random_state=0).fit(X)
        >>> gm.bic(X) < GaussianMixture().fit(X).bic(X)
        True
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

        Examples
        --------
        >>> import numpy as np
        >>> from streamgmm import GaussianMixture
        >>> X = np.array([[0.0], [1], [2], [10], [11], [12]])
        >>> gm = GaussianMixture(2, covariance_type="tied", random_state=0).fit(X)
        >>> gm.aic(X) < GaussianMixture().fit(X).aic(X)
        True
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
            notified(self) as listener,
            open_executor(self.executor, source, self.n_jobs, self.memory_limit) as executor,
            single_threaded_blas(),
        ):
            k, d = self.means_.shape
            sizes = MixtureBytes(self._structure_name, k, d, source.missing == "em")
            reader = Reader(source, executor, listener, driver_bytes=sizes.scoring)
            found = reader.statistics("score", self._parameters())
        warn_of_skipped_rows(reader.history[-1].skipped, source.n_rows, ", and the score is -inf")
        return found

    def component_statistics(
        self,
        X: Any,
        of: Any,
        *,
        quantiles: Sequence[float] = (0.25, 0.5, 0.75),
        relative_error: float = 1e-3,
        sample_weight: Any = None,
    ) -> ComponentStatistics:
        """Return means and quantiles of other variables within each component, from one pass.

        Each row counts for a component as much as its responsibility.

        Parameters
        ----------
        X : array-like, path or Source of shape (n_samples, n_features)
            The features of the mixture.
        of : str, sequence of str, or array of shape (n_samples,) or (n_samples, n_variables)
            The other variables: names of columns, variables or coordinates of the data, or values.
            NaN and values that are marked as missing are skipped.
        quantiles : sequence of float, default=(0.25, 0.5, 0.75)
        relative_error : float, default=1e-3
            Largest relative error of the quantiles, which come from a histogram whose bins have
            this width; means have none. A smaller one takes more memory.
        sample_weight : array-like of shape (n_samples,) or str, default=None

        Returns
        -------
        statistics : ComponentStatistics
            With ``names``, ``weights``, ``means``, ``quantiles`` and ``relative_error``.

        Raises
        ------
        DataError
            If the data cannot be used, or hold no such variable.
        ParameterError
            If a quantile is not between 0 and 1, or the error not between 1e-6 and 0.5.

        References
        ----------
        Masson, Rim & Lee (2019), DDSketch: a fast and fully-mergeable quantile sketch with
        relative-error guarantees.

        Examples
        --------
        >>> import numpy as np
        >>> from streamgmm import GaussianMixture
        >>> X = np.random.default_rng(0).normal(size=(2000, 1)) + [[-9], [9]] * 1000
        >>> gm = GaussianMixture(2, random_state=0).fit(X)
        >>> rain = np.tile([1.0, 5.0], 1000)
        >>> found = gm.component_statistics(X, of=rain)
        >>> sorted(found.means[:, 0].round(2).tolist())
        [1.0, 5.0]
        """
        check_is_fitted(self)
        probabilities = np.atleast_1d(np.asarray(quantiles, dtype=np.float64))
        if probabilities.ndim != 1 or not ((probabilities >= 0) & (probabilities <= 1)).all():
            raise ParameterError(f"quantiles is {quantiles!r}; give numbers from 0 to 1")
        if not 1e-6 <= relative_error <= 0.5:
            raise ParameterError(
                f"relative_error is {relative_error!r}; give a number from 1e-06 to 0.5"
            )
        source = self._open(X, sample_weight, reset=False)
        names, beside = open_beside(source, of)
        mixture = prediction.Question(self._prepared(beside), source.missing)
        question = SketchQuestion(mixture, source.n_features, relative_error)
        k = len(self.weights_)
        n_bytes = sketch_bytes(k, len(names))
        scratch = self._scratch_bytes(source) + component_sketch.scratch_bytes(k)
        work = Work(scratch + n_bytes, n_bytes)
        nothing = ArraySink(np.empty(0))
        with (
            notified(self) as listener,
            open_executor(self.executor, beside, self.n_jobs, self.memory_limit) as executor,
        ):
            try:
                with announced(listener, "component statistics", beside, nothing):
                    found = executor.map_reduce(beside, Job(sketch_chunk, question, work), listener)
            except NotFiniteError:
                refuse_not_finite(source, executor)
        weights, sums = found.sums
        with np.errstate(invalid="ignore", divide="ignore"):
            means = sums / weights
        values = found.quantiles(probabilities, relative_error)
        return ComponentStatistics(names, weights, means, probabilities, values, relative_error)

    def sample(self, n_samples: int = 1) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Draw rows from the fitted mixture.

        Parameters
        ----------
        n_samples : int, default=1

        Returns
        -------
        X : ndarray of shape (n_samples, n_features)
            Grouped by component. Noise comes first, from its box.
        y : ndarray of shape (n_samples,)
            The component of each; -1 for noise.

        Raises
        ------
        ParameterError
            If ``n_samples`` is less than 1, or the model has noise without a box: its ``noise`` is
            a number.

        Examples
        --------
        >>> import numpy as np
        >>> from streamgmm import GaussianMixture
        >>> X = np.array([[0.0], [1], [2], [10], [11], [12]])
        >>> gm = GaussianMixture(2, covariance_type="tied", random_state=0).fit(X)
        >>> rows, components = gm.sample(100)
        >>> rows.shape, components.shape
        ((100, 1), (100,))
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
        names = getattr(self, "feature_names_in_", None)
        known = None if names is None else names.tolist()
        return np.array(chosen_columns(features, self.n_features_in_, known), dtype=np.intp)

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

    def _prepared(self, source: Source) -> Expectation:
        arrays = [np.asarray(array, dtype=np.float64, order="C") for array in self._stored_arrays()]
        noise = self._noise()
        if noise is not None:
            arrays += [np.array([noise.weight, noise.log_density]), noise.box]
        structure = STRUCTURES[self._structure_name]
        # Mixtures for few rows and for many are prepared once each.
        shape = source.n_rows, source.n_features
        n_rows = 1 if are_few_for(structure, shape, len(self.weights_)) else None
        settings = self._structure_name, source.dtype, source.missing, n_rows
        if sum(array.nbytes for array in arrays) > _KEPT_BYTES:
            return _prepared_from(*settings, *arrays)
        # Users may assign attributes, so the values themselves are the key.
        values = ((array.shape, array.tobytes()) for array in arrays)
        return _kept(structure, *settings, *values)

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

    def _scratch_bytes(self, source: Source) -> int:
        k = len(self.weights_)
        scratch = scratch_bytes(self._structure_name, *self.means_.shape)
        return scratch + gap_bytes(source, k) + prediction.entropy_bytes(k)

    def _digest(self) -> str:
        """Return a digest of what predictions depend on."""
        digest = hashlib.sha256(self._structure_name.encode())
        values = [*self._stored_arrays()]
        values += [getattr(self, name) for name in NOISE_ATTRIBUTES if hasattr(self, name)]
        for array in values:
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
            self._noise(),
        )

    def _noise(self) -> Noise | None:
        """Return the noise of the fitted mixture, from the attributes."""
        if not hasattr(self, "noise_weight_"):
            return None
        weight = float(self.noise_weight_)
        if hasattr(self, "noise_box_"):
            return Noise.in_box(weight, np.asarray(self.noise_box_, dtype=np.float64))
        return Noise(weight, float(self.noise_log_density_), NO_BOX)

    @property
    def _structure_name(self) -> CovarianceType:
        """The name of the covariance structure of the fitted mixture, with its rank."""
        rank = np.shape(self.loadings_)[2] if hasattr(self, "loadings_") else None
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
            An existing file is replaced, except in two cases: it was changed after this model was
            loaded from it or saved to it, or :func:`streamgmm.update` has learned rows in it that
            this model has not.

        Raises
        ------
        OutputError
            If the file cannot be written, or must not be replaced.

        Examples
        --------
        >>> import tempfile
        >>> from pathlib import Path
        >>> import numpy as np
        >>> from streamgmm import GaussianMixture, load
        >>> path = Path(tempfile.mkdtemp()) / "model.gmm"
        >>> GaussianMixture().fit(np.arange(10.0).reshape(5, 2)).save(path)
        >>> load(path)
        GaussianMixture()
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
            own = f"{kind}.load or " if isinstance(model, MixtureEstimator) else ""
            raise ModelFileError(
                f"{path} holds a model of class {kind}; load it by {own}streamgmm.load"
            )
        return model

    def summary(self) -> str:
        """Return the fitted mixture as text of lines of at most 80 characters.

        The first lines say what was fitted and how it went. A table follows: a line for each
        feature with the mean, and the standard deviation in parentheses, of each component. The
        components are listed by weight, the largest first, under the label that :meth:`predict`
        gives.

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

    def to_xarray(self) -> Any:
        """Return the parameters as an xarray Dataset, with the labels and units of the data.

        Returns
        -------
        parameters : xarray.Dataset
            ``weights`` (component), ``means`` and ``covariances``. The features lie along
            ``variable``, along the feature dimension of the data, or along both: (component,
            variable, level). If only some variables have the feature dimension, or the data are no
            labelled ones, they lie along ``feature``. The columns of matrices lie along dimensions
            with ``_2`` at the end of the name. A model of low rank has ``loadings``, whose last
            dimension is ``factor``, and ``noise_variances`` in their place. The coordinate
            ``component`` is the label that :meth:`predict` gives; ``label`` is its name in
            ``flag_meanings``; ``units`` are those of the variables.

        Raises
        ------
        MissingPackageError
            If xarray is not installed.

        Examples
        --------
        >>> import numpy as np
        >>> import xarray
        >>> from streamgmm import GaussianMixture
        >>> t = xarray.DataArray(np.arange(9.0), dims="time", attrs={"units": "K"})
        >>> gm = GaussianMixture().fit(xarray.Dataset({"t": t, "q": 2 * t**2}))
        >>> gm.to_xarray()["means"].sel(variable="t").values
        array([4.])
        """
        check_is_fitted(self)
        with needed_by("to_xarray"):
            from streamgmm.estimators.labelled_parameters import parameters_dataset
        return parameters_dataset(self.fitted_model_)

    def _record(self) -> Record:
        check_is_fitted(self)
        return to_record(self)


def _names_of(fitted: FittedModel) -> list[str] | None:
    return None if fitted.feature_names is None else [*fitted.feature_names]


def _prepared_from(
    covariance_type: CovarianceType,
    dtype: np.dtype[Any],
    missing: Missing,
    n_rows: int | None,
    *arrays: Array,
) -> Expectation:
    """Return a mixture prepared for rows of a type, from the attributes of a fit."""
    weights, means, covariances, factors, *of_noise = arrays
    noise = Noise(float(of_noise[0][0]), float(of_noise[0][1]), of_noise[1]) if of_noise else None
    with single_threaded_blas():
        parameters = Parameters.from_precisions_cholesky(
            covariance_type, weights, means, covariances, factors, noise
        )
        return prepare(parameters, Frame.of(parameters, dtype), missing, n_rows=n_rows)


@lru_cache(maxsize=16)
def _kept(
    structure: CovarianceStructure,
    covariance_type: CovarianceType,
    dtype: np.dtype[Any],
    missing: Missing,
    n_rows: int | None,
    *values: tuple[tuple[int, ...], bytes],
) -> Expectation:
    """Return what :func:`_prepared_from` returns, from the shapes and the bytes of the arrays.

    A model that predicts a few rows at a time is prepared once. The structure is that of the
    covariance type; another one may be registered under the same name.
    """
    arrays = (np.frombuffer(content).reshape(shape) for shape, content in values)
    return _prepared_from(covariance_type, dtype, missing, n_rows, *arrays)
