"""Where EM starts: centres from a sample in memory, and what they say of the other parameters."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamgmm.algorithms.survey import RowSample
from streamgmm.core.covariance import STRUCTURES, Array, CovarianceType
from streamgmm.core.parameters import Parameters, covariances_from_precisions
from streamgmm.errors import DataError, ParameterError

_KMEANS_ITERATIONS = 100
_KMEANS_TOLERANCE = 1e-4
# Variance, as a part of the sample's, that a component's is not allowed to start below when no
# reg_covar keeps it from 0.
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
        random responsibilities.
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
            f"only {len(sample.rows)} row(s) with positive weight, "
            f"fewer than n_components = {n_components}"
        )
    centre = sample.rows.mean(axis=0)
    rows = sample.rows - centre
    responsibilities = _METHODS[method](rows, sample.weights, n_components, random)
    responsibilities *= sample.weights[:, np.newaxis]
    counts = np.maximum(responsibilities.sum(axis=0), np.finfo(np.float64).tiny)
    means = responsibilities.T @ rows / counts[:, np.newaxis]
    covariances = _covariances(covariance_type, rows, responsibilities, means)
    floor = reg_covar or _SMALLEST_VARIANCE * _typical_variance(rows)
    covariances = _add_to_diagonal(covariance_type, covariances, floor)

    weights = counts / counts.sum() if known.weights is None else known.weights
    means = means + centre if known.means is None else known.means
    factors = None
    if known.precisions is not None:
        covariances, factors = covariances_from_precisions(
            covariance_type, known.precisions, (n_components, rows.shape[1])
        )
    if means.shape != (n_components, rows.shape[1]):
        raise ParameterError(
            f"means_init has shape {means.shape}; expected {(n_components, rows.shape[1])}"
        )
    return Parameters.create(covariance_type, weights, means, covariances, factors)


def _covariances(
    covariance_type: CovarianceType, rows: Array, responsibilities: Array, means: Array
) -> Array:
    """Covariances about the means, component by component."""
    n_components, n_features = means.shape
    counts = np.maximum(responsibilities.sum(axis=0), np.finfo(np.float64).tiny)
    shape = STRUCTURES[covariance_type].shape(n_components, n_features)
    found = np.zeros(shape)
    for k in range(n_components):
        own = responsibilities[:, k] > 0.0
        deviations = rows[own] - means[k]
        weighted = deviations * responsibilities[own, k, np.newaxis]
        if covariance_type == "full":
            found[k] = weighted.T @ deviations / counts[k]
        elif covariance_type == "tied":
            found += weighted.T @ deviations / counts.sum()
        else:
            variances = (weighted * deviations).sum(axis=0) / counts[k]
            found[k] = variances.mean() if covariance_type == "spherical" else variances
    return found


def _add_to_diagonal(covariance_type: CovarianceType, covariances: Array, value: float) -> Array:
    if STRUCTURES[covariance_type].is_triangular:
        return covariances + value * np.eye(covariances.shape[-1])
    return covariances + value


def _typical_variance(rows: Array) -> float:
    """Mean squared interquartile range of the features, which outliers do not move."""
    lower, upper = np.quantile(rows, (0.25, 0.75), axis=0)
    squared = float(np.square(upper - lower).mean()) or float(rows.var(axis=0).mean())
    return squared or 1.0


def _one_hot(labels: NDArray[np.intp], n_components: int) -> Array:
    responsibilities = np.zeros((len(labels), n_components))
    responsibilities[np.arange(len(labels)), labels] = 1.0
    return responsibilities


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
    distances = _squared_distances(rows, np.square(rows).sum(axis=1), centres)
    labels = np.argmin(distances, axis=1)
    return labels, distances[np.arange(len(rows)), labels]


def _kmeans(rows: Array, weights: Array, n_components: int, random: np.random.RandomState) -> Array:
    """Responsibilities (n, K), 0 or 1, of Lloyd's k-means from k-means++ centres."""
    centres = _seed_centres(rows, weights, n_components, random)
    tolerance = _KMEANS_TOLERANCE * rows.var(axis=0).mean()
    for _ in range(_KMEANS_ITERATIONS):
        labels, distances = _nearest(rows, centres)
        responsibilities = _one_hot(labels, n_components) * weights[:, np.newaxis]
        counts = responsibilities.sum(axis=0)
        moved = responsibilities.T @ rows / np.where(counts > 0.0, counts, 1.0)[:, np.newaxis]
        # An empty cluster goes on from one of the rows that are served worst.
        empty = np.flatnonzero(counts == 0.0)
        moved[empty] = rows[np.argsort(distances)[::-1][: empty.size]]
        shift = float(np.square(moved - centres).sum())
        centres = moved
        if shift <= tolerance:
            break
    return _one_hot(_nearest(rows, centres)[0], n_components)


def _kmeans_plusplus(
    rows: Array, weights: Array, n_components: int, random: np.random.RandomState
) -> Array:
    centres = _seed_centres(rows, weights, n_components, random)
    return _one_hot(_nearest(rows, centres)[0], n_components)


def _random_from_data(
    rows: Array, weights: Array, n_components: int, random: np.random.RandomState
) -> Array:
    chosen = random.choice(len(rows), size=n_components, replace=False)
    return _one_hot(_nearest(rows, rows[chosen])[0], n_components)


def _random(rows: Array, weights: Array, n_components: int, random: np.random.RandomState) -> Array:
    responsibilities: Array = random.uniform(size=(len(rows), n_components))
    normalised: Array = responsibilities / responsibilities.sum(axis=1, keepdims=True)
    return normalised


_METHODS: dict[str, Callable[[Array, Array, int, np.random.RandomState], Array]] = {
    "kmeans": _kmeans,
    "k-means++": _kmeans_plusplus,
    "random_from_data": _random_from_data,
    "random": _random,
}
