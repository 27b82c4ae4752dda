"""Columns of mean 0 and variance 1: scikit-learn's StandardScaler over every source."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import OneToOneFeatureMixin, TransformerMixin

from streamgmm.algorithms.reads.moments import MomentsFound
from streamgmm.core.structures import Array
from streamgmm.errors import DataError
from streamgmm.estimators.row_estimator import DataEstimator
from streamgmm.events import Event
from streamgmm.options import Missing
from streamgmm.preprocessing.deferred import Deferred, Question
from streamgmm.preprocessing.maps import Scaling
from streamgmm.preprocessing.transformer import RESOURCES, InvertibleTransformer
from streamgmm.protocols import Source

# Larger sums of weights stay floats.
_LARGEST_WHOLE = 2.0**53


class StandardScaler(
    InvertibleTransformer,
    OneToOneFeatureMixin,  # type: ignore[misc]
    TransformerMixin,  # type: ignore[misc]
    DataEstimator,
):
    """Subtract the mean of each column and divide by its standard deviation.

    Arguments, attributes and their meanings are those of
    :class:`sklearn.preprocessing.StandardScaler`. Data may be an array, or anything that
    :func:`streamgmm.open` reads chunk by chunk: then the rows are scaled as they are read, and
    nothing is stored. NaN is no value: it is ignored by :meth:`fit` and stays NaN.

    Parameters
    ----------
    copy : bool, default=True
        Ignored, for compatibility with scikit-learn: data are never changed.
    with_mean : bool, default=True
        Whether the mean is subtracted.
    with_std : bool, default=True
        Whether columns are divided by their standard deviation.
    executor : "auto", "threads", "dask" or distributed.Client, default="auto"
        Where chunks are computed; as for :class:`streamgmm.GaussianMixture`.
    n_jobs : int, default=None
        Local threads; None for all cores.
    memory_limit : int or str, default=None
        Bytes that the process may hold ("4GiB").
    callbacks : sequence of callables, default=()
        Called with each :class:`streamgmm.events.Event` of a pass.
    verbose : int, default=0
        1 writes a line for each pass over the data to standard error.

    Attributes
    ----------
    mean_ : ndarray of shape (n_features,) or None
        None if neither ``with_mean`` nor ``with_std``.
    var_ : ndarray of shape (n_features,) or None
        Variances, with the number of rows as the divisor; None without ``with_std``.
    scale_ : ndarray of shape (n_features,) or None
        Standard deviations, and 1 for columns of equal values; None without ``with_std``.
    n_samples_seen_ : int, float or ndarray of shape (n_features,)
        Number of rows, or the sum of their weights; one for each column if values are missing.
    n_features_in_ : int
    feature_names_in_ : ndarray of shape (n_features,)
        Only if the data had column names that are all strings.

    See Also
    --------
    sklearn.preprocessing.StandardScaler : The same for arrays in memory.

    Examples
    --------
    >>> import numpy as np
    >>> from streamgmm.preprocessing import StandardScaler
    >>> X = np.array([[0.0, 5.0], [2.0, 5.0]])
    >>> scaler = StandardScaler().fit(X)
    >>> scaler.mean_, scaler.scale_
    (array([1., 5.]), array([1., 1.]))
    >>> scaler.transform(X)
    array([[-1.,  0.],
           [ 1.,  0.]])
    """

    _parameter_constraints: dict[str, list[Any]] = {  # noqa: RUF012 - scikit-learn's own form
        "with_mean": ["boolean"],
        "with_std": ["boolean"],
        **RESOURCES,
    }
    _missing_in_memory: ClassVar[Missing] = "em"

    def __init__(
        self,
        *,
        copy: bool = True,
        with_mean: bool = True,
        with_std: bool = True,
        executor: Any = "auto",
        n_jobs: int | None = None,
        memory_limit: int | str | None = None,
        callbacks: Sequence[Callable[[Event], None]] = (),
        verbose: int = 0,
    ) -> None:
        self.copy = copy
        self.with_mean = with_mean
        self.with_std = with_std
        self.executor = executor
        self.n_jobs = n_jobs
        self.memory_limit = memory_limit
        self.callbacks = callbacks
        self.verbose = verbose

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Find the mean and the standard deviation of each column.

        Of data that are not in memory, metadata are read at once. The pass over the rows is made
        when an attribute is asked for or scaled rows are read; transformers of one pipeline share
        it.

        Parameters
        ----------
        X : array-like, path or Source of shape (n_samples, n_features)
            Anything that :func:`streamgmm.open` takes. Rows with a value whose square overflows are
            skipped, with a warning.
        y : Ignored
        sample_weight : array-like of shape (n_samples,) or str, default=None
            Row weights; a weight of 2 counts a row twice.

        Returns
        -------
        self : StandardScaler

        Raises
        ------
        DataError
            If the data cannot be used: infinity, wrong shape or type, a column without values. Of
            data that are not in memory, also when the pass is made.
        ParameterError
            If a setting is not valid.
        MemoryLimitError
            If the pass does not fit in the memory limit.
        """
        self._fit(X, sample_weight)
        return self

    def fit_transform(self, X: Any, y: Any = None, sample_weight: Any = None) -> Any:
        """Fit to the rows of X and scale them.

        Parameters
        ----------
        X : array-like, path or Source of shape (n_samples, n_features)
        y : Ignored
        sample_weight : array-like of shape (n_samples,) or str, default=None

        Returns
        -------
        rows : as for :meth:`transform`

        Raises
        ------
        StreamGMMError
            As :meth:`fit` and :meth:`transform`.
        """
        return self._output(X, self._fit(X, sample_weight), self._deferred)

    def _fitted_to(self, source: Source) -> Deferred[Scaling]:
        find = partial(_scaling, self.with_mean, self.with_std)
        question = Question(source, find, is_joint=False, settings=self._pass_settings())
        return Deferred(question, source.n_features)

    @property
    def mean_(self) -> NDArray[np.float64] | None:
        """Mean of each column."""
        row_map: Scaling = self._row_map
        return row_map.mean if row_map.with_mean or row_map.with_std else None

    @property
    def var_(self) -> NDArray[np.float64] | None:
        """Variance of each column."""
        row_map: Scaling = self._row_map
        return row_map.variance if row_map.with_std else None

    @property
    def scale_(self) -> NDArray[np.float64] | None:
        """Divisor of each column."""
        row_map: Scaling = self._row_map
        return row_map.scale if row_map.with_std else None

    @property
    def n_samples_seen_(self) -> int | float | Array:
        """Number of rows, or the sum of their weights."""
        counts: Any = self._row_map.counts
        if np.array_equal(counts, np.round(counts)) and counts.max() < _LARGEST_WHOLE:
            counts = counts.astype(np.int64)
        found: int | float | Array = counts if np.ptp(counts) else counts[0].item()
        return found

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


def _scaling(with_mean: bool, with_std: bool, source: Source, found: MomentsFound) -> Scaling:
    """Return the scaling of the rows of a source.

    Raises
    ------
    DataError
        If a column has no value.
    """
    columns = found.moments.columns
    empty = np.flatnonzero(columns.weights == 0.0).tolist()
    if empty:
        names = source.feature_names or [str(i) for i in range(source.n_features)]
        raise DataError(
            f"{source.name} has no value in {source.n_rows} rows of column(s) "
            f"{', '.join(names[i] for i in empty)}; exclude them"
        )
    return Scaling.of(columns, with_mean, with_std)
