"""Starts of EM: centres from a sample in memory, and the parameters of their clusters."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Literal

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from streamgmm.algorithms.reads.usable_rows import check_weight
from streamgmm.core.accuracy import LARGEST_VALUE
from streamgmm.core.e_step import writable
from streamgmm.core.kernels.lloyd import lloyd_iterations
from streamgmm.core.noise import Noise
from streamgmm.core.objective import Objective
from streamgmm.core.parameters import Parameters
from streamgmm.core.structures import STRUCTURES, Array
from streamgmm.errors import DataError
from streamgmm.options import CovarianceType

#: Iterations of k-means.
MOST_ITERATIONS = 100
_KMEANS_TOLERANCE = 1e-4
# Products of an iteration for which calls of NumPy take most of the time, and columns up to which
# they do.
_FEW_PRODUCTS, _FEW_COLUMNS = 1 << 20, 64
# Weights of rows in clusters up to which products with a sparse matrix take longer.
_FEW_MEMBERS = 1 << 15
# Centres that are chosen between two reports.
_CENTRES_IN_STEP = 64
# Rows per component of a start from few rows.
_FEW_PER_COMPONENT = 5
# Fewest rows among which k-means++ chooses centres, and fewest for each centre. Most iterations use
# these rows; one in four may follow on all rows.
_FEWEST_SEEDING, _SEEDING_PER_CENTRE, _PART_ON_ALL = 16384, 16, 4
# Number of distances that are held at once; they stay in the cache of a core.
_BLOCK_DISTANCES = 1 << 17
# Number of values in a block of columns.
_BLOCK_COLUMN_VALUES = 1 << 20
# Added to the variances of components, as a part of the sample's variances, if they are singular in
# spite of the ridge.
_SMALLEST_VARIANCE = 1e-6
# Added too, as a part of the variances themselves, because rounding may make correlations exceed 1.
_ROUNDING = 1e-10


@dataclass(frozen=True, eq=False)
class Start:
    """Parameters that the caller gives; None for those that are to be found.

    Attributes
    ----------
    weights : ndarray of shape (K,), or None
    means : ndarray of shape (K, D), or None
    covariances : ndarray, or None
        As the covariance type stores them.
    factors : ndarray, or None
        Factors of the covariances; computed from them by default.
    """

    weights: Array | None = None
    means: Array | None = None
    covariances: Array | None = None
    factors: Array | None = None

    @property
    def is_empty(self) -> bool:
        """Whether nothing is given."""
        return self.weights is None and self.means is None and self.covariances is None

    def complete(self, covariance_type: CovarianceType) -> Parameters | None:
        """Return the parameters, if all of them are known.

        Raises
        ------
        ParameterError
            If they are not the parameters of a mixture.
        """
        if self.weights is None or self.means is None or self.covariances is None:
            return None
        return Parameters.create(
            covariance_type, self.weights, self.means, self.covariances, self.factors
        )


@dataclass(frozen=True, eq=False)
class _Rows:
    """Rows of a sample about their mean, of which values may be missing.

    Attributes
    ----------
    values : ndarray of shape (n, D)
        0 where a value is missing.
    seen : ndarray of shape (n, D), or None
        1 where there is a value, else 0; None if no value is missing.
    weights : ndarray of shape (n,)
    centre : ndarray of shape (D,)
        Mean that was subtracted from the data.
    """

    values: Array
    seen: Array | None
    weights: Array
    centre: Array

    @classmethod
    def of(cls, rows: Array, weights: Array, is_centred: bool = False) -> "_Rows":
        """Return the rows about their mean, or about 0; NaN stands for a missing value."""
        centre = rows.mean(axis=0, dtype=np.float64)
        # A mean is NaN if a value is.
        if not np.isnan(centre).any():
            if is_centred:
                return cls(rows, None, weights, np.zeros(rows.shape[1]))
            return cls(rows - centre, None, weights, centre)
        centre = np.nanmean(rows, axis=0)
        missing = np.isnan(rows)
        values = rows - centre
        values[missing] = 0.0
        return cls(values, np.where(missing, 0.0, 1.0), weights, centre)

    def __len__(self) -> int:
        return len(self.values)

    @property
    def is_complete(self) -> bool:
        """Whether no value is missing."""
        return self.seen is None

    def part(self, places: NDArray[np.intp]) -> "_Rows":
        """Return some of the rows, about the same centre."""
        seen = None if self.seen is None else self.seen[places]
        return _Rows(self.values[places], seen, self.weights[places], self.centre)

    @cached_property
    def squares(self) -> Array:
        """‖x‖² of the observed values, (n,)."""
        found: Array = np.einsum("nd,nd->n", self.values, self.values)
        return found

    def variances(self) -> Array:
        """Return the variance of each feature, (D,)."""
        if self.seen is None:
            # The mean is 0, but for rounding.
            found: Array = np.einsum("nd,nd->d", self.values, self.values) / len(self)
            return found
        return self.by_columns(lambda values: np.nanvar(values, axis=0))

    def by_columns(self, function: Callable[[Array], Array]) -> Array:
        """Join the results (..., d) of a function of columns (n, d); NaN is a missing value.

        The function is called with some columns at a time, to avoid copies of all rows.
        """
        n_features = len(self.centre)
        # NumPy sums a single column in another order.
        size = max(2, _BLOCK_COLUMN_VALUES // max(len(self), 1))
        edges = [*range(0, max(n_features - 1, 1), size), n_features]
        parts = []
        for start, stop in pairwise(edges):
            own = self.values[:, start:stop]
            if self.seen is not None:
                own = np.where(self.seen[:, start:stop] > 0.0, own, np.nan)
            parts.append(function(own))
        return np.concatenate(parts, axis=-1)


@dataclass(frozen=True)
class _Lloyd:
    """How long k-means runs.

    Attributes
    ----------
    most_iterations : int
    on_step : callable
        Called after each iteration, and after each part of the choice of centres.
    """

    most_iterations: int
    on_step: Callable[[], None]


def initialize(
    rows: Array,
    weights: Array,
    n_components: int,
    covariance_type: CovarianceType,
    method: str,
    objective: Objective,
    known: Start,
    random: np.random.RandomState,
    scales: Array | None = None,
    most_iterations: int = MOST_ITERATIONS,
    on_step: Callable[[], None] = lambda: None,
) -> Parameters:
    """Return the starting parameters from a sample of rows.

    Parameters
    ----------
    rows : ndarray of shape (m, D)
        NaN where a value is missing.
    weights : ndarray of shape (m,)
    n_components : int
    covariance_type : {"full", "tied", "diag", "spherical", "tied_diag", "tied_spherical"}
    method : {"kmeans", "k-means++", "random_from_data", "random"}
        "kmeans" takes the clusters of k-means, "k-means++" and "random_from_data" the rows nearest
        to seeds of k-means++ or to random rows, "random" assigns rows at random.
    objective : Objective
        Its ridge is added to the diagonal of each covariance. If it has noise, so has the start,
        and rows beyond the box of the noise are not used.
    known : Start
        Parameters that replace the found ones.
    random : numpy.random.RandomState
    scales : ndarray of shape (D,), optional
        Units of the columns in which distances are measured; those of the data by default.
    most_iterations : int
        Iterations of k-means.
    on_step : callable
        Called after each iteration of k-means, and after each part of the choice of its centres.

    Returns
    -------
    start : Parameters

    Raises
    ------
    DataError
        If the sample has fewer rows than there are components, or no value of a feature.
    ParameterError
        If the known parameters do not fit the data.
    """
    check_weight(float(weights.sum()))
    if len(rows) < n_components:
        raise DataError(
            f"only {len(rows)} row(s) have a weight above zero and squares that do not "
            f"overflow, fewer than n_components = {n_components}"
        )
    empty = empty_columns(rows)
    if empty.size:
        raise DataError(
            f"column(s) {', '.join(map(str, empty))} hold nothing but NaN in {len(rows)} "
            "sampled rows; exclude them"
        )
    rows, weights = _within_box(rows, weights, n_components, objective.noise)
    centred = _Rows.of(rows, weights)
    measured = centred
    if scales is not None:
        measured = _Rows.of(np.clip(rows / scales, -LARGEST_VALUE, LARGEST_VALUE), weights)
    lloyd = _Lloyd(most_iterations, on_step)
    labels = _METHODS[method](measured, n_components, random, lloyd)
    found = _parameters(centred, labels, n_components, covariance_type, objective)
    if known.is_empty:
        return found
    covariances: Array = found.covariances
    factors: Array | None = found.factors
    if known.covariances is not None:
        covariances, factors = known.covariances, known.factors
    start = Parameters.create(
        covariance_type,
        found.shares if known.weights is None else known.weights,
        found.means if known.means is None else known.means,
        covariances,
        factors,
    )
    return start.with_noise(objective.noise)


def empty_columns(rows: Array) -> NDArray[np.intp]:
    """Return the columns in which rows (n, D) hold nothing but NaN; all columns of no rows."""
    # A column without values has none in the first row.
    empty = np.flatnonzero(np.isnan(rows[:1]).all(axis=0))
    return empty[np.isnan(rows[:, empty]).all(axis=0)]


def _within_box(
    rows: Array, weights: Array, n_components: int, noise: Noise | None
) -> tuple[Array, Array]:
    """Return the rows in the box of the noise, as far as they are enough: others are noise."""
    if noise is None or not noise.has_box:
        return rows, weights
    is_within = ~((rows < noise.box[0]) | (rows > noise.box[1])).any(axis=1)
    has_values = ~np.isnan(rows[is_within]).all(axis=0)
    if is_within.sum() < n_components or not has_values.all():
        return rows, weights
    return rows[is_within], weights[is_within]


def seed_centres(
    rows: Array,
    weights: Array,
    n_clusters: int,
    method: Literal["k-means++", "random"],
    random: np.random.RandomState,
) -> Array:
    """Choose the rows with which clusters begin.

    Parameters
    ----------
    rows : ndarray of shape (m, D)
        Without NaN, at least as many as there are clusters.
    weights : ndarray of shape (m,)
        Not all 0.
    n_clusters : int
    method : {"k-means++", "random"}
        Greedy k-means++ (Arthur & Vassilvitskii 2007), or rows drawn by their weights.
    random : numpy.random.RandomState

    Returns
    -------
    centres : ndarray of shape (n_clusters, D)
    """
    if method == "k-means++":
        measured = _Rows.of(rows, weights)
        return _seed_centres(measured, n_clusters, random) + measured.centre
    has_weight = np.flatnonzero(weights)
    share = weights[has_weight] / weights.sum()
    replaces = has_weight.size < n_clusters
    chosen = random.choice(has_weight, size=n_clusters, replace=replaces, p=share)
    found: Array = rows[chosen].astype(np.float64)
    return found


def parameters_of_clusters(
    rows: Array,
    weights: Array,
    labels: NDArray[np.intp],
    n_components: int,
    covariance_type: CovarianceType,
    objective: Objective,
    is_centred: bool = False,
    spread: Callable[[], Array] | None = None,
) -> Parameters:
    """Return the weights, means and covariances of labelled rows.

    Parameters
    ----------
    rows : ndarray of shape (n, D)
        NaN where a value is missing.
    weights : ndarray of shape (n,)
    labels : ndarray of shape (n,), int
    n_components : int
    covariance_type : {"full", "tied", "diag", "spherical", "tied_diag", "tied_spherical"}
    objective : Objective
        Its ridge is added to the diagonal of each covariance.
    is_centred : bool
        Whether the rows lie about 0, so that none of their digits are lost in sums.
    spread : callable, optional
        Returns the rows (n, D) whose spread gives the least variances, if these are needed; the
        same rows by default.
    """
    own = _Rows.of(rows, weights, is_centred)
    return _parameters(own, labels, n_components, covariance_type, objective, spread)


def _parameters(
    rows: _Rows,
    labels: NDArray[np.intp],
    n_components: int,
    covariance_type: CovarianceType,
    objective: Objective,
    spread: Callable[[], Array] | None = None,
) -> Parameters:
    means, counts = _cluster_means(rows, labels, n_components)
    covariances = _cluster_covariances(covariance_type, rows, labels, means)
    covariances, factors = _regular(covariance_type, covariances, objective, rows, spread)
    found = Parameters.create(
        covariance_type, counts / counts.sum(), means + rows.centre, covariances, factors
    )
    return objective.begun(found, counts).with_noise(objective.noise)


def _regular(
    covariance_type: CovarianceType,
    covariances: Array,
    objective: Objective,
    rows: _Rows,
    spread: Callable[[], Array] | None,
) -> tuple[Array, Array]:
    """Return covariances with the ridge, or a larger value if needed, and their factors."""
    structure = STRUCTURES[covariance_type]
    ridge = np.full(rows.values.shape[1], objective.reg_covar)
    if np.all(ridge > 0.0):
        regular = structure.with_ridge(covariances, ridge)
        with contextlib.suppress(np.linalg.LinAlgError):
            return regular, structure.cholesky(regular)
    typical = _typical_variances(rows if spread is None else _Rows.of(spread(), rows.weights))
    if typical.min() < np.finfo(np.float64).tiny:
        raise np.linalg.LinAlgError("squares of deviations vanish")
    floor = np.maximum(ridge, _SMALLEST_VARIANCE * typical)
    regular = structure.with_ridge(covariances, floor)
    regular = structure.with_rounding(regular, _ROUNDING)
    return regular, structure.cholesky(regular)


def _cluster_means(rows: _Rows, labels: NDArray[np.intp], n_components: int) -> tuple[Array, Array]:
    """Return weighted means (K, D) and counts (K,) of labelled rows; means without values are 0."""
    counts: Array = np.bincount(labels, rows.weights, n_components).astype(np.float64)
    members = _members(rows, labels, n_components)
    seen = counts[:, np.newaxis] if rows.seen is None else members @ rows.seen
    return members @ rows.values / np.where(seen > 0.0, seen, 1.0), counts


def _members(
    rows: _Rows, labels: NDArray[np.intp], n_components: int
) -> Array | scipy.sparse.csc_array:
    """Return the weight of each row in each cluster, (K, n)."""
    if n_components * len(rows) <= _FEW_MEMBERS:
        members = np.zeros((n_components, len(rows)))
        members[labels, np.arange(len(rows))] = rows.weights
        return members
    starts = np.arange(len(rows) + 1)
    return scipy.sparse.csc_array((rows.weights, labels, starts), (n_components, len(rows)))


def _cluster_covariances(
    covariance_type: CovarianceType, rows: _Rows, labels: NDArray[np.intp], means: Array
) -> Array:
    """Return covariances of labelled rows about the means, cluster by cluster; 0 for an empty one.

    Variances are those of the observed values. A feature without values in a cluster gets the
    variance of all rows.
    """
    n_components, n_features = means.shape
    structure = STRUCTURES[covariance_type]
    found = np.zeros(structure.shape(n_components, n_features))
    order = ordered(labels, n_components)
    sizes = np.bincount(labels, minlength=n_components)
    stops = np.cumsum(sizes)
    overall = np.zeros(n_features) if rows.is_complete else rows.variances()
    is_weighted = bool(np.any(rows.weights != 1.0))
    # The memory of one array for all clusters need not be mapped again and again.
    buffer = np.empty((int(sizes.max()), n_features))
    unseen, total = np.zeros(n_features), rows.weights.sum()
    for k, own in enumerate(np.split(order, stops[:-1])):
        weights = rows.weights[own]
        count = weights.sum() or 1.0
        deviations = np.take(rows.values, own, axis=0, out=buffer[: len(own)], mode="clip")
        deviations -= means[k]
        if rows.seen is not None:
            # A congruence: matrices stay positive semidefinite.
            part = weights @ rows.seen[own] / count
            deviations *= rows.seen[own] / np.sqrt(np.where(part > 0.0, part, 1.0))
            unseen = np.where(part > 0.0, 0.0, overall)
        weighted = deviations * weights[:, np.newaxis] if is_weighted else deviations
        structure.add_cluster(found, k, weighted, deviations, count, unseen, total)
    return found


def ordered(labels: NDArray[np.intp], n_labels: int) -> NDArray[np.intp]:
    """Return the places (n,) of labels below a number by label, those of each in their order."""
    # Numbers of two bytes are sorted digit by digit.
    return np.argsort(labels.astype(np.uint16) if n_labels <= 1 << 16 else labels, kind="stable")


def _typical_variances(rows: _Rows) -> Array:
    """Return the squared interquartile ranges (D,), which outliers do not move; never 0."""
    lower, upper = rows.by_columns(lambda own: np.nanquantile(own, (0.25, 0.75), axis=0))
    squared = np.square(upper - lower)
    squared = np.where(squared > 0.0, squared, rows.variances())
    positive = squared[squared > 0.0]
    typical: Array = np.where(squared > 0.0, squared, positive.min() if positive.size else 1.0)
    return typical


def _squared_distances(rows: _Rows, centres: Array) -> Array:
    """Return ‖x - c‖² (K, n) of observed values."""
    distances: Array = (-2.0 * centres) @ rows.values.T
    # In place, because passes over this many values cost more than the product.
    distances += _squares_of(centres, rows.seen).T
    distances += rows.squares
    return np.maximum(distances, 0.0, out=distances)


def _squares_of(centres: Array, seen: Array | None) -> Array:
    """Return ‖c‖² (n, K) of the values of centres that rows have too; (1, K) if these have all."""
    squares = np.square(centres)
    found: Array = squares.sum(axis=1)[np.newaxis] if seen is None else seen @ squares.T
    return found


def _seed_centres(
    rows: _Rows,
    n_components: int,
    random: np.random.RandomState,
    on_step: Callable[[], None] = lambda: None,
) -> Array:
    """Draw centres by greedy k-means++ (Arthur & Vassilvitskii 2007): the best of several draws.

    Missing values of a centre are those of the mean of all rows.
    """
    values, weights = rows.values, rows.weights
    n_trials = 2 + int(np.log(n_components))
    first = random.choice(len(rows), p=weights / weights.sum())
    chosen = [int(first)]
    closest = _squared_distances(rows, values[chosen])[0]
    for number in range(1, n_components):
        if number % _CENTRES_IN_STEP == 0:
            on_step()
        potential = np.cumsum(closest * weights)
        draws = random.uniform(size=n_trials) * potential[-1]
        candidates = np.minimum(np.searchsorted(potential, draws), len(rows) - 1)
        distances = _squared_distances(rows, values[candidates])
        np.minimum(distances, closest, out=distances)
        best = int(np.argmin(distances @ weights))
        chosen.append(int(candidates[best]))
        closest = distances[best]
    return values[chosen]


def _nearest(rows: _Rows, centres: Array) -> NDArray[np.intp]:
    """Return the label of each row's nearest centre."""
    labels = np.empty(len(rows), dtype=np.intp)
    size = max(1, _BLOCK_DISTANCES // len(centres))
    squares = _squares_of(centres, None)
    is_narrow = rows.seen is None and centres.shape[1] < len(centres)
    factors = np.hstack([-2.0 * centres, squares.T]).T if is_narrow else -2.0 * centres.T
    for start in range(0, len(rows), size):
        block = slice(start, start + size)
        values = rows.values[block]
        if is_narrow:
            # A column of 1 takes less time than a sum with all distances.
            distances = np.column_stack([values, np.ones(len(values))]) @ factors
        else:
            distances = values @ factors
            distances += squares if rows.seen is None else _squares_of(centres, rows.seen[block])
        np.argmin(distances, axis=1, out=labels[block])
    return labels


def _farthest(rows: _Rows, centres: Array, labels: NDArray[np.intp], size: int) -> NDArray[np.intp]:
    """Return the rows that are farthest from their centres, (size,)."""
    deviations = rows.values - centres[labels]
    if rows.seen is not None:
        deviations *= rows.seen
    distances = np.square(deviations).sum(axis=1)
    return np.argsort(distances)[::-1][:size]


def _kmeans(
    rows: _Rows, n_components: int, random: np.random.RandomState, lloyd: _Lloyd
) -> NDArray[np.intp]:
    """Return the clusters of Lloyd's k-means, from k-means++ centres.

    Many rows only refine what some of them have come to. Missing values are ignored as in k-POD
    (Chi, Chi & Baraniuk 2016).
    """
    tolerance = _KMEANS_TOLERANCE * float(rows.variances().mean())
    n_values = n_components * rows.values.size
    if rows.is_complete and n_values <= _FEW_PRODUCTS and rows.values.shape[1] <= _FEW_COLUMNS:
        centres = _seed_centres(rows, n_components, random, lloyd.on_step)
        found: NDArray[np.intp] = lloyd_iterations(
            rows.values, writable(rows.weights), centres, lloyd.most_iterations, tolerance
        )
        return found
    few = _seeding_rows(rows, n_components, random)
    centres = _seed_centres(few, n_components, random, lloyd.on_step)
    if few is not rows:
        centres, _ = _moved_centres(few, centres, lloyd, tolerance)
        lloyd = replace(lloyd, most_iterations=-(-lloyd.most_iterations // _PART_ON_ALL))
    return _moved_centres(rows, centres, lloyd, tolerance)[1]


def _seeding_rows(rows: _Rows, n_components: int, random: np.random.RandomState) -> _Rows:
    """Return random rows, as many as centres need; all if these are hardly more.

    Also all if random rows have little of the weight.
    """
    size = max(_FEWEST_SEEDING, _SEEDING_PER_CENTRE * n_components)
    if len(rows) < 2 * size:
        return rows
    few = rows.part(random.choice(len(rows), size=size, replace=False))
    return few if 2 * few.weights.mean() > rows.weights.mean() else rows


def _moved_centres(
    rows: _Rows, centres: Array, lloyd: _Lloyd, tolerance: float
) -> tuple[Array, NDArray[np.intp]]:
    """Return centres (K, D) that hardly move any more, and the label of each row's nearest."""
    before: NDArray[np.intp] | None = None
    for _ in range(lloyd.most_iterations):
        labels = _nearest(rows, centres)
        if before is not None and np.array_equal(labels, before):
            return centres, labels
        before = labels
        moved, counts = _cluster_means(rows, labels, len(centres))
        empty = np.flatnonzero(counts == 0.0)
        if empty.size:
            # Empty clusters continue from the rows that are farthest from their centres.
            moved[empty] = rows.values[_farthest(rows, centres, labels, empty.size)]
        shift = float(np.square(moved - centres).sum())
        centres = moved
        lloyd.on_step()
        if shift <= tolerance:
            break
    return centres, _nearest(rows, centres)


def _kmeans_plusplus(
    rows: _Rows, n_components: int, random: np.random.RandomState, lloyd: _Lloyd
) -> NDArray[np.intp]:
    few = _seeding_rows(rows, n_components, random)
    return _nearest(rows, _seed_centres(few, n_components, random, lloyd.on_step))


def _random_from_data(
    rows: _Rows, n_components: int, random: np.random.RandomState, lloyd: _Lloyd
) -> NDArray[np.intp]:
    chosen = random.choice(len(rows), size=n_components, replace=False)
    return _nearest(rows, rows.values[chosen])


def _kmeans_of_few(
    rows: _Rows, n_components: int, random: np.random.RandomState, lloyd: _Lloyd
) -> NDArray[np.intp]:
    """Return the nearest centre of k-means on a few rows, drawn anew for each call."""
    size = min(_FEW_PER_COMPONENT * n_components, len(rows))
    few = rows.part(random.choice(len(rows), size=size, replace=False))
    means, counts = _cluster_means(few, _kmeans(few, n_components, random, lloyd), n_components)
    return _nearest(rows, means[counts > 0.0])


def _random(
    rows: _Rows, n_components: int, random: np.random.RandomState, lloyd: _Lloyd
) -> NDArray[np.intp]:
    """Assign rows in random order and in turn, so that each component gets rows."""
    return random.permutation(len(rows)) % n_components


_METHODS: dict[str, Callable[..., NDArray[np.intp]]] = {
    "kmeans": _kmeans,
    "k-means++": _kmeans_plusplus,
    "random_from_data": _random_from_data,
    "random": _random,
    "kmeans of few rows": _kmeans_of_few,
}

#: Methods of restarts, which differ from each other.
VARIED_METHODS = ("k-means++", "random_from_data", "kmeans of few rows", "random")
