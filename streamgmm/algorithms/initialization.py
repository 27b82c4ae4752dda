"""Where EM starts: centres from a sample in memory, and what they say of the other parameters."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from streamgmm.algorithms.survey import RowSample
from streamgmm.core.covariance import STRUCTURES, Array, CovarianceType, cholesky
from streamgmm.core.parameters import Parameters, covariances_from_precisions
from streamgmm.errors import DataError

_KMEANS_ITERATIONS = 100
_KMEANS_TOLERANCE = 1e-4
_BLOCK_ROWS = 4096
# Added to the variances of components, as a part of the sample's, where reg_covar does not keep
# them from being singular.
_SMALLEST_VARIANCE = 1e-6


@dataclass(frozen=True, eq=False)
class Start:
    """What the caller knows of the parameters beforehand; None for what is to be found.

    Attributes
    ----------
    weights : ndarray of shape (K,), or None
    means : ndarray of shape (K, D), or None
    precisions : ndarray, or None
        Inverse covariances in the shape of the covariance type.
    """

    weights: Array | None = None
    means: Array | None = None
    precisions: Array | None = None

    def complete(self, covariance_type: CovarianceType) -> Parameters | None:
        """The parameters, if all of them are known.

        Raises
        ------
        ParameterError
            If they are not those of a mixture.
        """
        if self.weights is None or self.means is None or self.precisions is None:
            return None
        return Parameters.from_precisions(
            covariance_type, self.weights, self.means, self.precisions
        )


def initialize(
    sample: RowSample,
    n_components: int,
    covariance_type: CovarianceType,
    method: str,
    reg_covar: float,
    known: Start,
    random: np.random.RandomState,
) -> Parameters:
    """Starting parameters from a sample of rows.

    Parameters
    ----------
    sample : RowSample
    n_components : int
    covariance_type : {"full", "tied", "diag", "spherical"}
    method : {"kmeans", "k-means++", "random_from_data", "random"}
        Clusters of k-means; rows nearest to centres that k-means++ seeds, or to random rows; or
        rows dealt out at random.
    reg_covar : float
        Added to the diagonal of each covariance.
    known : Start
        Replaces what was found.
    random : numpy.random.RandomState

    Returns
    -------
    start : Parameters

    Raises
    ------
    DataError
        If the sample has fewer rows than there are components.
    ParameterError
        If what is known does not fit the data.
    """
    if len(sample.rows) < n_components:
        raise DataError(
            f"only {len(sample.rows)} row(s) have a positive weight and squares that do not "
            f"overflow, fewer than n_components = {n_components}"
        )
    centre = sample.rows.mean(axis=0)
    rows = sample.rows - centre
    labels = _METHODS[method](rows, sample.weights, n_components, random)
    means, counts = _cluster_means(rows, sample.weights, labels, n_components)
    covariances = _cluster_covariances(covariance_type, rows, sample.weights, labels, means)
    covariances, factors = _regular(covariance_type, covariances, reg_covar, rows)

    weights = counts / counts.sum() if known.weights is None else known.weights
    means = means + centre if known.means is None else known.means
    if known.precisions is not None:
        covariances, factors = covariances_from_precisions(
            covariance_type, known.precisions, means.shape
        )
    return Parameters.create(covariance_type, weights, means, covariances, factors)


def _regular(
    covariance_type: CovarianceType, covariances: Array, reg_covar: float, rows: Array
) -> tuple[Array, Array]:
    """Covariances with reg_covar on the diagonal, or with more if that is not enough; factors."""
    structure = STRUCTURES[covariance_type]
    ridge = np.full(rows.shape[1], reg_covar)
    if reg_covar > 0.0:
        regular = _add_to_diagonal(covariance_type, covariances, ridge)
        with contextlib.suppress(np.linalg.LinAlgError):
            return regular, cholesky(structure, regular)
    floor = np.maximum(ridge, _SMALLEST_VARIANCE * _typical_variances(rows))
    regular = _add_to_diagonal(covariance_type, covariances, floor)
    return regular, cholesky(structure, regular)


def _cluster_means(
    rows: Array, weights: Array, labels: NDArray[np.intp], n_components: int
) -> tuple[Array, Array]:
    """Weighted means (K, D) and counts (K,) of labelled rows; 0 for an empty cluster."""
    counts: Array = np.bincount(labels, weights, n_components).astype(np.float64)
    starts = np.arange(len(rows) + 1)
    members = scipy.sparse.csc_array((weights, labels, starts), (n_components, len(rows)))
    means: Array = members @ rows / np.where(counts > 0.0, counts, 1.0)[:, np.newaxis]
    return means, counts


def _cluster_covariances(
    covariance_type: CovarianceType,
    rows: Array,
    weights: Array,
    labels: NDArray[np.intp],
    means: Array,
) -> Array:
    """Covariances of labelled rows about the means, cluster by cluster; 0 for an empty one."""
    n_components, n_features = means.shape
    found = np.zeros(STRUCTURES[covariance_type].shape(n_components, n_features))
    order = np.argsort(labels, kind="stable")
    stops = np.cumsum(np.bincount(labels, minlength=n_components))
    for k, own in enumerate(np.split(order, stops[:-1])):
        deviations = rows[own] - means[k]
        weighted = deviations * weights[own, np.newaxis]
        count = weights[own].sum() or 1.0
        if covariance_type == "full":
            found[k] = weighted.T @ deviations / count
        elif covariance_type == "tied":
            found += weighted.T @ deviations / weights.sum()
        else:
            variances = (weighted * deviations).sum(axis=0) / count
            found[k] = variances.mean() if covariance_type == "spherical" else variances
    return found


def _add_to_diagonal(covariance_type: CovarianceType, covariances: Array, values: Array) -> Array:
    """Covariances with values (D,) added to their diagonals."""
    if STRUCTURES[covariance_type].is_triangular:
        return covariances + np.diag(values)
    return covariances + (values.mean() if covariance_type == "spherical" else values)


def _typical_variances(rows: Array) -> Array:
    """Squared interquartile ranges (D,), which outliers do not move; never 0."""
    lower, upper = np.quantile(rows, (0.25, 0.75), axis=0)
    squared = np.square(upper - lower)
    squared = np.where(squared > 0.0, squared, rows.var(axis=0))
    positive = squared[squared > 0.0]
    typical: Array = np.where(squared > 0.0, squared, positive.min() if positive.size else 1.0)
    return typical


def _squared_distances(rows: Array, squares: Array, centres: Array) -> Array:
    """‖x - c‖² (n, K), of rows whose ‖x‖² are given."""
    cross = rows @ centres.T
    distances: Array = squares[:, np.newaxis] - 2.0 * cross + np.square(centres).sum(axis=1)
    return np.maximum(distances, 0.0)


def _seed_centres(
    rows: Array, weights: Array, n_components: int, random: np.random.RandomState
) -> Array:
    """Greedy k-means++ (Arthur & Vassilvitskii 2007): the best of several draws for each centre."""
    squares = np.square(rows).sum(axis=1)
    n_trials = 2 + int(np.log(n_components))
    first = random.choice(len(rows), p=weights / weights.sum())
    chosen = [int(first)]
    closest = _squared_distances(rows, squares, rows[chosen])[:, 0]
    for _ in range(1, n_components):
        potential = np.cumsum(closest * weights)
        draws = random.uniform(size=n_trials) * potential[-1]
        candidates = np.minimum(np.searchsorted(potential, draws), len(rows) - 1)
        distances = np.minimum(
            closest[:, np.newaxis], _squared_distances(rows, squares, rows[candidates])
        )
        best = int(np.argmin(weights @ distances))
        chosen.append(int(candidates[best]))
        closest = distances[:, best]
    return rows[chosen]


def _nearest(rows: Array, centres: Array) -> tuple[NDArray[np.intp], Array]:
    """Label of, and squared distance to, each row's nearest centre."""
    labels = np.empty(len(rows), dtype=np.intp)
    nearest = np.empty(len(rows))
    # Block by block: all distances at once would be the largest array of a fit.
    for start in range(0, len(rows), _BLOCK_ROWS):
        block = slice(start, start + _BLOCK_ROWS)
        squares = np.square(rows[block]).sum(axis=1)
        distances = _squared_distances(rows[block], squares, centres)
        labels[block] = np.argmin(distances, axis=1)
        nearest[block] = distances[np.arange(len(squares)), labels[block]]
    return labels, nearest


def _kmeans(
    rows: Array, weights: Array, n_components: int, random: np.random.RandomState
) -> NDArray[np.intp]:
    """Clusters of Lloyd's k-means, from k-means++ centres."""
    centres = _seed_centres(rows, weights, n_components, random)
    tolerance = _KMEANS_TOLERANCE * rows.var(axis=0).mean()
    for _ in range(_KMEANS_ITERATIONS):
        labels, distances = _nearest(rows, centres)
        moved, counts = _cluster_means(rows, weights, labels, n_components)
        # An empty cluster goes on from one of the rows that are served worst.
        empty = np.flatnonzero(counts == 0.0)
        moved[empty] = rows[np.argsort(distances)[::-1][: empty.size]]
        shift = float(np.square(moved - centres).sum())
        centres = moved
        if shift <= tolerance:
            break
    return _nearest(rows, centres)[0]


def _kmeans_plusplus(
    rows: Array, weights: Array, n_components: int, random: np.random.RandomState
) -> NDArray[np.intp]:
    return _nearest(rows, _seed_centres(rows, weights, n_components, random))[0]


def _random_from_data(
    rows: Array, weights: Array, n_components: int, random: np.random.RandomState
) -> NDArray[np.intp]:
    chosen = random.choice(len(rows), size=n_components, replace=False)
    return _nearest(rows, rows[chosen])[0]


def _random(
    rows: Array, weights: Array, n_components: int, random: np.random.RandomState
) -> NDArray[np.intp]:
    """Rows dealt out in random order, so that no component goes without."""
    return random.permutation(len(rows)) % n_components


_METHODS: dict[str, Callable[..., NDArray[np.intp]]] = {
    "kmeans": _kmeans,
    "k-means++": _kmeans_plusplus,
    "random_from_data": _random_from_data,
    "random": _random,
}
