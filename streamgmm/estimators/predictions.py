"""What a fitted mixture says of rows: labels, responsibilities, densities and scores."""

import os
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import NDArray

from streamgmm.algorithms.reads import prediction
from streamgmm.core.criteria import mean_score
from streamgmm.estimators.data_types import InMemory, OutputPath, PandasFrame
from streamgmm.estimators.outputs import labels_output, numbers_output

if TYPE_CHECKING:
    import pandas as pd

    from streamgmm.estimators.base import MixtureEstimator


class MixturePredictions(ABC):
    """Predictions and scores of an estimator that has a fitted mixture, or is one."""

    @abstractmethod
    def _mixture(self) -> "MixtureEstimator":
        """Return the fitted mixture.

        Raises
        ------
        NotFittedError
            If there is none.
        """

    @overload
    def predict(
        self, X: Any, *, out: OutputPath, resume: bool = False, dtype: Any = None
    ) -> OutputPath: ...

    @overload
    def predict(self, X: InMemory, *, resume: bool = False) -> NDArray[np.int64]: ...

    @overload
    def predict(
        self, X: PandasFrame, *, resume: bool = False, dtype: Any = None
    ) -> "pd.Series[int]": ...

    @overload
    def predict(
        self, X: Any, *, out: None = None, resume: bool = False, dtype: Any = None
    ) -> Any: ...

    def predict(
        self,
        X: Any,
        *,
        out: str | os.PathLike[str] | None = None,
        resume: bool = False,
        dtype: Any = None,
    ) -> Any:
        """Return the component of largest responsibility of each row.

        Of a mixture with noise the label -1 stands for noise, and -2 for rows that are skipped
        because they lack values. Otherwise -1 stands for such rows.

        Parameters
        ----------
        X : array-like, path or Source of shape (n_samples, n_features)
        out : path-like, default=None
            A ``.npy`` or ``.zarr`` path to write to, chunk by chunk; needed if X is a path. Of
            labelled data the Zarr store holds the variable ``component`` with the coordinates
            of the data, for ``xarray.open_zarr``; ``out`` may also be a ``.nc`` file, a group of a
            store that exists, such as ``"store.zarr::/labels"``, or the URL of a Zarr store. Until
            it is whole a local output grows in the folder ``<out>.part``, which stays if the write
            is interrupted.
        resume : bool, default=False
            Whether to continue what an interrupted call of the same model and data has left in that
            folder; otherwise it is discarded. If there is nothing, all is computed.
        dtype : dtype-like, default=None
            A signed integer type for the labels. By default int64 in memory, and at a path the
            smallest one that holds them.

        Returns
        -------
        labels : ndarray or lazy dask.array.Array of shape (n_samples,), or the path ``out``
            Of a data frame a Series of its library, of xarray data a DataArray with the dimensions
            and coordinates of the samples, lazy if they are Dask arrays.

        Raises
        ------
        DataError
            If the data cannot be used or have other columns than those fitted.
        OutputError
            If ``out`` cannot be written, another process is writing it, or the output to resume
            was begun with another model or other data.

        Examples
        --------
        >>> import numpy as np
        >>> from streamgmm import GaussianMixture
        >>> X = np.array([[0.0], [1], [2], [10], [11], [12]])
        >>> gm = GaussianMixture(2, covariance_type="tied", random_state=0).fit(X)
        >>> labels = gm.predict(X)
        >>> bool(labels[0] == labels[1] != labels[5])
        True
        """
        mixture = self._mixture()
        has_noise = mixture._noise() is not None
        output = labels_output("component", len(mixture.weights_), dtype, has_noise)
        return mixture._predicted(X, prediction.labels, output, out, resume)

    @overload
    def predict_proba(
        self, X: Any, *, out: OutputPath, resume: bool = False, dtype: Any = None
    ) -> OutputPath: ...

    @overload
    def predict_proba(self, X: InMemory, *, resume: bool = False) -> NDArray[np.float64]: ...

    @overload
    def predict_proba(
        self, X: PandasFrame, *, resume: bool = False, dtype: Any = None
    ) -> "pd.DataFrame": ...

    @overload
    def predict_proba(
        self, X: Any, *, out: None = None, resume: bool = False, dtype: Any = None
    ) -> Any: ...

    def predict_proba(
        self,
        X: Any,
        *,
        out: str | os.PathLike[str] | None = None,
        resume: bool = False,
        dtype: Any = None,
    ) -> Any:
        """Return the posterior probability (responsibility) of each component for each row.

        Of a mixture with noise the probabilities of a row sum to 1 less that of the noise.

        Parameters
        ----------
        X : array-like, path or Source of shape (n_samples, n_features)
        out : path-like, default=None
            A ``.npy`` or ``.zarr`` path to write to, chunk by chunk; needed if X is a path. Of
            labelled data the Zarr store holds the variable ``responsibility`` with the coordinates
            of the data, for ``xarray.open_zarr``; ``out`` may also be a ``.nc`` file, a group of a
            store that exists, such as ``"store.zarr::/labels"``, or the URL of a Zarr store. Until
            it is whole a local output grows in the folder ``<out>.part``, which stays if the write
            is interrupted.
        resume : bool, default=False
            Whether to continue what an interrupted call of the same model and data has left in that
            folder; otherwise it is discarded. If there is nothing, all is computed.
        dtype : dtype-like, default=None
            float32 or float64, the default.

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

        Examples
        --------
        >>> import numpy as np
        >>> from streamgmm import GaussianMixture
        >>> X = np.array([[0.0], [1], [2], [10], [11], [12]])
        >>> gm = GaussianMixture(2, covariance_type="tied", random_state=0).fit(X)
        >>> gm.predict_proba(X).shape
        (6, 2)
        """
        mixture = self._mixture()
        output = numbers_output(
            "responsibility",
            {"long_name": "posterior probability of each component", "units": "1"},
            dtype,
            dim="component",
            length=len(mixture.weights_),
        )
        return mixture._predicted(X, prediction.responsibilities, output, out, resume)

    @overload
    def score_samples(
        self, X: Any, *, out: OutputPath, resume: bool = False, dtype: Any = None
    ) -> OutputPath: ...

    @overload
    def score_samples(self, X: InMemory, *, resume: bool = False) -> NDArray[np.float64]: ...

    @overload
    def score_samples(
        self, X: PandasFrame, *, resume: bool = False, dtype: Any = None
    ) -> "pd.Series[float]": ...

    @overload
    def score_samples(
        self, X: Any, *, out: None = None, resume: bool = False, dtype: Any = None
    ) -> Any: ...

    def score_samples(
        self,
        X: Any,
        *,
        out: str | os.PathLike[str] | None = None,
        resume: bool = False,
        dtype: Any = None,
    ) -> Any:
        """Return the log-density of each row.

        Parameters
        ----------
        X : array-like, path or Source of shape (n_samples, n_features)
        out : path-like, default=None
            A ``.npy`` or ``.zarr`` path to write to, chunk by chunk; needed if X is a path. Of
            labelled data the Zarr store holds the variable ``log_density`` with the coordinates
            of the data, for ``xarray.open_zarr``; ``out`` may also be a ``.nc`` file, a group of a
            store that exists, such as ``"store.zarr::/labels"``, or the URL of a Zarr store. Until
            it is whole a local output grows in the folder ``<out>.part``, which stays if the write
            is interrupted.
        resume : bool, default=False
            Whether to continue what an interrupted call of the same model and data has left in that
            folder; otherwise it is discarded. If there is nothing, all is computed.
        dtype : dtype-like, default=None
            float32 or float64, the default.

        Returns
        -------
        log_density : ndarray or lazy dask.array.Array of shape (n_samples,), or the path ``out``
            As for :meth:`predict`.
            Nats; -inf for rows whose squares overflow. Noise adds its constant density everywhere,
            outside of its box, too.

        Raises
        ------
        DataError
            If the data cannot be used or have other columns than those fitted.
        OutputError
            As for :meth:`predict`.

        Examples
        --------
        >>> import numpy as np
        >>> from streamgmm import GaussianMixture
        >>> gm = GaussianMixture().fit(np.array([[-1.0], [1]]))
        >>> gm.score_samples([[0.0]]).round(3)
        array([-0.919])
        """
        attributes = {"long_name": "log-density of each sample, in nats", "units": "1"}
        output = numbers_output("log_density", attributes, dtype)
        return self._mixture()._predicted(X, prediction.scores, output, out, resume)

    def entropy_samples(
        self,
        X: Any,
        *,
        out: str | os.PathLike[str] | None = None,
        resume: bool = False,
        dtype: Any = None,
    ) -> Any:
        """Return the entropy of the assignment of each row: how uncertain its label is.

        Parameters
        ----------
        X : array-like, path or Source of shape (n_samples, n_features)
        out : path-like, default=None
            As for :meth:`predict`; of labelled data the store holds the variable ``entropy``.
        resume : bool, default=False
            As for :meth:`predict`.
        dtype : dtype-like, default=None
            float32 or float64, the default.

        Returns
        -------
        entropy : ndarray or lazy dask.array.Array of shape (n_samples,), or the path ``out``
            -Σ_k γ_k ln γ_k of the responsibilities γ, in nats: 0 where one component is certain,
            ln K where all are alike. NaN for skipped rows. Other containers as for :meth:`predict`.

        Raises
        ------
        DataError
            If the data cannot be used or have other columns than those fitted.
        OutputError
            As for :meth:`predict`.

        References
        ----------
        Celeux & Soromenho (1996), An entropy criterion for assessing the number of clusters in a
        mixture model.

        Examples
        --------
        >>> import numpy as np
        >>> from streamgmm import GaussianMixture
        >>> X = np.random.default_rng(0).normal(size=(2000, 1)) + [[-3], [3]] * 1000
        >>> gm = GaussianMixture(2, random_state=0).fit(X)
        >>> gm.entropy_samples([[-3.0], [0.0]]).round(1)
        array([0. , 0.7])
        """
        attributes = {
            "long_name": "entropy of the assignment of each sample, in nats",
            "units": "1",
        }
        output = numbers_output("entropy", attributes, dtype)
        return self._mixture()._predicted(X, prediction.entropies, output, out, resume)

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

        Examples
        --------
        >>> import numpy as np
        >>> from streamgmm import GaussianMixture
        >>> X = np.array([[-1.0], [1]])
        >>> gm = GaussianMixture().fit(X)
        >>> bool(gm.score(X) == gm.score_samples(X).mean())
        True
        """
        return mean_score(self._mixture()._scored(X, sample_weight))
