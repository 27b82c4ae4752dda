"""The base of all transformers, which are fitted to any source and map the rows of any source."""

from abc import abstractmethod
from numbers import Integral, Real
from typing import Any, ClassVar, Self

import numpy as np

from streamgmm.algorithms.reads.usable_rows import refuse_values
from streamgmm.estimators.row_estimator import listener_of
from streamgmm.estimators.validation import (
    HasMethods,
    StrOptions,
    check_is_fitted,
    check_settings,
    in_container,
)
from streamgmm.options import Missing
from streamgmm.preprocessing.deferred import Deferred, PassSettings
from streamgmm.preprocessing.maps import Inverse
from streamgmm.protocols import Source, all_chunks
from streamgmm.sources.array import ArraySource
from streamgmm.sources.columns import check_features
from streamgmm.sources.open import is_in_memory, is_source, open_source
from streamgmm.sources.transformed import KnownTransform, Transform, transformed
from streamgmm.sources.weighted import WeightedSource

#: Constraints on the settings that all transformers have.
RESOURCES: dict[str, list[Any]] = {
    "copy": ["boolean"],
    "executor": [StrOptions({"auto", "threads", "dask"}), HasMethods("scheduler_info")],
    "n_jobs": [Integral, None],
    "memory_limit": [Real, str, None],
    "callbacks": ["array-like", callable],
    "verbose": ["verbose"],
}


class LazyTransformer:
    """Fit to rows of any source, and map rows of any source as they are read.

    A subclass also derives from scikit-learn's mixins and from
    :class:`streamgmm.estimators.row_estimator.DataEstimator`, in this order. Its settings include
    ``executor``, ``n_jobs``, ``memory_limit``, ``callbacks`` and ``verbose``.
    """

    #: Treatment of rows with NaN among rows in memory: "em" takes them.
    _missing_in_memory: ClassVar[Missing] = "error"
    _settles_maps = False
    _deferred: Deferred[Any]

    @abstractmethod
    def _fitted_to(self, source: Source) -> Deferred[Any]:
        """Return the map that follows from the rows of a source."""

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "_deferred")

    def fit(self, X: Any, y: Any = None) -> Self:
        """Fit to the rows of X.

        Of data that are not in memory, metadata are read at once. The pass over the rows is made
        when an attribute is asked for or mapped rows are read; transformers of one pipeline share
        it.

        Parameters
        ----------
        X : array-like, path or Source of shape (n_samples, n_features)
            Anything that :func:`streamgmm.open` takes.
        y : Ignored

        Returns
        -------
        self : transformer

        Raises
        ------
        DataError
            If the data cannot be used; of data that are not in memory, also when the pass is made.
        ParameterError
            If a setting is not valid.
        MemoryLimitError
            If the pass does not fit in the memory limit.
        """
        self._fit(X, None)
        return self

    def fit_transform(self, X: Any, y: Any = None) -> Any:
        """Fit to the rows of X and map them.

        Parameters
        ----------
        X : array-like, path or Source of shape (n_samples, n_features)
        y : Ignored

        Returns
        -------
        rows : as for :meth:`transform`

        Raises
        ------
        StreamGMMError
            As :meth:`fit` and :meth:`transform`.
        """
        return self._output(X, self._fit(X, None), self._deferred)

    def transform(self: Any, X: Any) -> Any:
        """Map the rows of X.

        Parameters
        ----------
        X : array-like, path or Source of shape (n_samples, n_features)

        Returns
        -------
        rows : ndarray, data frame or Source
            For an array in memory an array: float32 if the data are float32 or float16, else
            float64. For a data frame an array too, or the container that ``set_output`` names. For
            all other data, memory maps included, a source that maps its rows as they are read, with
            the weights, the treatment of missing values and the samples of the data.

        Raises
        ------
        DataError
            If the data cannot be used or have other columns than those fitted.
        """
        check_is_fitted(self)
        return self._output(X, self._open(X, None, reset=False), self._deferred)

    def _fit(self: Any, X: Any, sample_weight: Any) -> Source:
        """Fit to a source, and return it."""
        check_settings(self)
        source: Source = self._open(X, sample_weight, reset=True)
        deferred = self._fitted_to(source)
        if is_in_memory(X):
            self._settle(source, deferred)
        self._deferred = deferred
        return source

    def _settle(self, source: Source, deferred: Deferred[Any]) -> None:
        """Compute the map of rows in memory, where waiting saves no pass and hides errors."""
        _ = deferred.row_map

    def _pass_settings(self: Any) -> PassSettings:
        return PassSettings(self.executor, self.n_jobs, self.memory_limit, listener_of(self))

    def _output(self, X: Any, source: Source, transform: Transform) -> Any:
        """Return the mapped rows of a source, in the container that X asks for."""
        rows = mapped_as_given(X, source, transform, self._missing_in_memory)
        if isinstance(rows, np.ndarray):
            return in_container("transform", rows, X, self)
        return rows

    @property
    def _row_map(self) -> Any:
        check_is_fitted(self)
        return self._deferred.row_map


class InvertibleTransformer(LazyTransformer):
    """A transformer that maps rows back, too."""

    def inverse_transform(self: Any, X: Any) -> Any:
        """Return the rows that mapped rows stand for.

        Parameters
        ----------
        X : array-like, path or Source of shape (n_samples, n_outputs)

        Returns
        -------
        rows : ndarray or Source of shape (n_samples, n_features)
            For an array or a data frame in memory an array, for all other data a source.

        Raises
        ------
        DataError
            If the data cannot be used, or have another number of columns.
        """
        check_is_fitted(self)
        source, row_map = open_source(X), self._row_map
        check_features(source, row_map.n_outputs, None, f"the output of {type(self).__name__}")
        names = getattr(self, "feature_names_in_", None)
        inverse = Inverse(row_map, self.n_features_in_)
        known = KnownTransform(inverse, None if names is None else names.tolist())
        return mapped_as_given(X, source, known, self._missing_in_memory)


def mapped_as_given(X: Any, source: Source, transform: Transform, missing: Missing) -> Any:
    """Return mapped rows of a source: an array for rows in memory, and a source for others.

    Parameters
    ----------
    X : array-like, path or Source
        The data as they were given.
    source : Source
        The same, opened.
    transform : Transform
    missing : {"error", "em"}
        "em" takes NaN among rows in memory.

    Raises
    ------
    NotFiniteError
        If rows in memory hold values that cannot be used.
    """
    found = transformed(source, [transform])
    # A memory map may be larger than the memory, so it is a source as files are.
    rows_alone = source.unweighted if isinstance(source, WeightedSource) else source
    if is_source(X) or not isinstance(rows_alone, ArraySource):
        return found
    rows = np.empty((source.n_rows, found.n_features), found.dtype)
    for i in all_chunks(source):
        refuse_values(source.read(i), missing)
        rows[source.boundaries[i] : source.boundaries[i + 1]] = found.read(i).rows
    return rows
