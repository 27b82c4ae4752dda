"""Principal components: scikit-learn's PCA over every source."""

from collections.abc import Callable, Sequence
from functools import partial
from numbers import Integral, Real
from typing import Any

import numpy as np
import scipy.linalg
from numpy.typing import NDArray
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin

from streamgmm.algorithms.reads.moments import MomentsFound
from streamgmm.core.row_moments import JointMoments
from streamgmm.core.structures import Array
from streamgmm.errors import DataError, NotFiniteError, ParameterError
from streamgmm.estimators.row_estimator import DataEstimator
from streamgmm.estimators.validation import Interval, RealNotInt
from streamgmm.events import Event
from streamgmm.preprocessing.deferred import Deferred, Question
from streamgmm.preprocessing.maps import Projection
from streamgmm.preprocessing.transformer import RESOURCES, InvertibleTransformer
from streamgmm.protocols import Source

#: Names of projected columns are this and their numbers, as in scikit-learn.
PREFIX = "pca"


class PCA(
    InvertibleTransformer,
    ClassNamePrefixFeaturesOutMixin,  # type: ignore[misc]
    TransformerMixin,  # type: ignore[misc]
    DataEstimator,
):
    """Project rows on the directions of largest variance.

    Arguments, attributes and their meanings are those of :class:`sklearn.decomposition.PCA`. Data
    may be an array, or anything that :func:`streamgmm.open` reads chunk by chunk: then the rows are
    projected as they are read, and nothing is stored. Components are eigenvectors of the covariance
    of all rows; the entry of largest absolute value of each is positive.

    Parameters
    ----------
    n_components : int, float or None, default=None
        Number of components; or, if between 0 and 1, the part of the variance that the components
        explain at least; by default all, at most as many as rows.
    copy : bool, default=True
        Ignored, for compatibility with scikit-learn: data are never changed.
    whiten : bool, default=False
        Whether projected columns are divided by their standard deviations.
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
    components_ : ndarray of shape (n_components, n_features)
        Directions, by decreasing variance.
    explained_variance_ : ndarray of shape (n_components,)
        Variance along each, with the number of rows less 1 as the divisor.
    explained_variance_ratio_ : ndarray of shape (n_components,)
        The same as parts of the variance along all directions.
    singular_values_ : ndarray of shape (n_components,)
        Of the centred rows.
    mean_ : ndarray of shape (n_features,)
    n_components_ : int
    noise_variance_ : float
        Mean variance along the other directions.
    n_samples_ : int
        Rows that were used.
    n_features_in_ : int
    feature_names_in_ : ndarray of shape (n_features,)
        Only if the data had column names that are all strings.

    See Also
    --------
    sklearn.decomposition.PCA : The same for arrays in memory.

    Notes
    -----
    Row weights of a source count: a row of weight 2 is two rows. Rows with NaN are refused, unless
    the data were opened with ``missing="drop"``, which skips them.

    References
    ----------
    Chan, Golub & LeVeque (1983), Algorithms for computing the sample variance.
    Tipping & Bishop (1999), Mixtures of probabilistic principal component analyzers.

    Examples
    --------
    >>> import numpy as np
    >>> from streamgmm.preprocessing import PCA
    >>> X = np.array([[0.0, 0.0], [1.0, 2.0], [2.0, 4.0], [3.0, 6.0]])
    >>> pca = PCA(0.9).fit(X)
    >>> pca.n_components_, pca.explained_variance_ratio_.round(6)
    (1, array([1.]))
    >>> pca.transform(X).round(3)
    array([[-3.354],
           [-1.118],
           [ 1.118],
           [ 3.354]])
    """

    _parameter_constraints: dict[str, list[Any]] = {  # noqa: RUF012 - scikit-learn's own form
        "n_components": [
            Interval(Integral, 1, None, closed="left"),
            Interval(RealNotInt, 0, 1, closed="neither"),
            None,
        ],
        "whiten": ["boolean"],
        **RESOURCES,
    }

    def __init__(
        self,
        n_components: int | float | None = None,
        *,
        copy: bool = True,
        whiten: bool = False,
        executor: Any = "auto",
        n_jobs: int | None = None,
        memory_limit: int | str | None = None,
        callbacks: Sequence[Callable[[Event], None]] = (),
        verbose: int = 0,
    ) -> None:
        self.n_components = n_components
        self.copy = copy
        self.whiten = whiten
        self.executor = executor
        self.n_jobs = n_jobs
        self.memory_limit = memory_limit
        self.callbacks = callbacks
        self.verbose = verbose

    def _fitted_to(self, source: Source) -> Deferred[Projection]:
        number = self.n_components
        n_outputs = None
        if isinstance(number, Integral):
            n_outputs = int(number)
            _check_number(n_outputs, source.n_rows, source)
        find = partial(_projection, number, self.whiten)
        question = Question(source, find, is_joint=True, settings=self._pass_settings())
        return Deferred(question, n_outputs, PREFIX)

    @property
    def components_(self) -> NDArray[np.float64]:
        """Directions, by decreasing variance."""
        found: Array = self._row_map.components
        return found

    @property
    def explained_variance_(self) -> NDArray[np.float64]:
        """Variance along each component."""
        found: Array = self._row_map.explained_variance
        return found

    @property
    def explained_variance_ratio_(self) -> NDArray[np.float64]:
        """Part of the variance along each component."""
        found: Array = self._row_map.explained_variance_ratio
        return found

    @property
    def singular_values_(self) -> NDArray[np.float64]:
        """Singular values of the centred rows."""
        found: Array = self._row_map.singular_values
        return found

    @property
    def mean_(self) -> NDArray[np.float64]:
        """Mean of each column."""
        found: Array = self._row_map.mean
        return found

    @property
    def n_components_(self) -> int:
        """Number of components."""
        found: int = self._row_map.n_outputs
        return found

    @property
    def noise_variance_(self) -> float:
        """Mean variance along the other directions."""
        found: float = self._row_map.noise_variance
        return found

    @property
    def n_samples_(self) -> int:
        """Number of rows that were used."""
        found: int = self._row_map.n_rows
        return found

    @property
    def _n_features_out(self) -> int:
        return self.n_components_

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


def _check_number(n_components: int, n_rows: int, source: Source) -> None:
    """Refuse more components than the rows have dimensions.

    Raises
    ------
    ParameterError
    """
    most = min(n_rows, source.n_features)
    if n_components > most:
        raise ParameterError(
            f"a PCA of {n_components} components needs as many rows and columns, but {source.name} "
            f"has {n_rows} usable rows and {source.n_features} columns; ask for at most {most}"
        )


def _projection(
    number: int | float | None, whiten: bool, source: Source, found: MomentsFound
) -> Projection:
    """Return the projection on principal components of the rows of a source.

    Raises
    ------
    NotFiniteError
        If rows lack values, and are not to be skipped.
    DataError
        If there is no variance.
    ParameterError
        If there are more components than dimensions.
    """
    if found.n_incomplete and source.missing != "drop":
        raise NotFiniteError(
            f"PCA needs rows that lack no value, but {source.name} contains NaN in "
            f"{found.n_incomplete} of {source.n_rows} rows; skip these rows by "
            "streamgmm.open(..., missing='drop'), or fill the values first"
        )
    joint = found.moments.joint
    assert joint is not None
    if joint.n_rows < 2:
        raise DataError(
            f"{source.name} has {joint.n_rows} usable row(s) (n_samples = {joint.n_rows}), but PCA "
            "needs a variance, and so 2 rows or more"
        )
    if not joint.weight > 1.0:
        raise DataError(
            f"the weights of {source.name} sum to {joint.weight:g}, but a variance needs more than "
            "one row, in units of weight; divide all weights by their mean"
        )
    variances, directions = _principal_axes(joint)
    n_ranks = min(joint.n_rows, len(variances))
    total = float(variances.sum())
    ratios = variances / total if total > 0.0 else np.zeros_like(variances)
    n_components = _number_of_components(number, n_ranks, ratios, total, source, joint.n_rows)
    rest = variances[n_components:n_ranks]
    own = slice(None, n_components)
    return Projection(
        joint.mean,
        directions[own],
        variances[own],
        ratios[own],
        np.sqrt(variances[own] * (joint.weight - 1.0)),
        float(rest.mean()) if rest.size else 0.0,
        joint.n_rows,
        whiten,
    )


def _principal_axes(joint: JointMoments) -> tuple[Array, Array]:
    """Return the variances along the principal axes, the largest first, and the axes as rows.

    As in scikit-learn, the entry of largest absolute value of each axis is positive.
    """
    covariance = joint.scatter / (joint.weight - 1.0)
    values, vectors = scipy.linalg.eigh(0.5 * (covariance + covariance.T))
    variances, directions = np.maximum(values[::-1], 0.0), vectors.T[::-1]
    largest = np.argmax(np.abs(directions), axis=1)
    signs = np.sign(directions[np.arange(len(directions)), largest])
    return variances, directions * signs[:, np.newaxis]


def _number_of_components(
    number: int | float | None,
    n_ranks: int,
    ratios: Array,
    total: float,
    source: Source,
    n_rows: int,
) -> int:
    """Return how many components are kept, of at most ``n_ranks``.

    Raises
    ------
    DataError
        If a part of the variance is asked for where there is none.
    ParameterError
        If there are not as many components as are asked for.
    """
    if number is None:
        return n_ranks
    if isinstance(number, Integral):
        _check_number(int(number), n_rows, source)
        return int(number)
    assert isinstance(number, Real)
    if not total > 0.0:
        raise DataError(
            f"all usable rows of {source.name} are equal, so no number of components explains "
            f"{number:g} of their variance; ask for a number of components instead"
        )
    first = int(np.searchsorted(np.cumsum(ratios[:n_ranks]), number, side="right")) + 1
    return min(first, n_ranks)
