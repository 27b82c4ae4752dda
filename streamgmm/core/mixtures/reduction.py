"""Components that are merged into one: mixture reduction."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from streamgmm.core.covariance import Array, blocks, log_determinants, triangular
from streamgmm.core.parameters import Parameters


def merging_bounds(parameters: Parameters) -> Array:
    """Bound (K, K) on what merging two components costs, in nats a row; inf on the diagonal.

    ½ ((π_i + π_j) ln|Σ_ij| - π_i ln|Σ_i| - π_j ln|Σ_j|) with Σ_ij the covariance of both together:
    bounds the Kullback-Leibler divergence from the mixture to the one with the two merged.

    References
    ----------
    Runnalls (2007), Kullback-Leibler approach to Gaussian mixture reduction, equation 21.
    """
    k = parameters.n_components
    bounds = np.full((k, k), np.inf)
    for i in range(k - 1):
        # One with all later ones at a time: covariances of all pairs may be too many for memory.
        others = np.arange(i + 1, k)
        bounds[i, others] = bounds[others, i] = _bounds_of(parameters, i, others)
    return bounds


def _bounds_of(parameters: Parameters, i: int, others: NDArray[np.intp]) -> Array:
    """What merging a component with each of some others costs at most, (n,)."""
    weights = parameters.weights
    both = weights[i] + weights[others]
    bounds: Array
    if parameters.covariance_type == "tied":
        # The covariance that all share would be widened: ½ π_i π_j / (π_i + π_j) d² to first
        # order.
        whitening = parameters.stacked(parameters.inverse_factors)[0]
        moved = (parameters.means[i] - parameters.means[others]) @ whitening.T
        costs = 0.5 * weights[i] * weights[others] * np.square(moved).sum(axis=1)
        bounds = np.divide(costs, both, out=np.zeros_like(costs), where=both > 0.0)
    else:
        own, wide = _log_determinants(parameters), _merged_determinants(parameters, i, others)
        bounds = 0.5 * (both * wide - weights[i] * own[i] - weights[others] * own[others])
    return bounds


def _merged_determinants(parameters: Parameters, i: int, others: NDArray[np.intp]) -> Array:
    """ln|Σ_ij| (n,) of a component merged with each of some others."""
    is_full = parameters.covariance_type == "full"
    parts = blocks(len(others), parameters.n_features) if is_full else [slice(None)]
    return np.concatenate(
        [
            _log_determinants(merged_pairs(parameters, np.full_like(own, i), own))
            for own in (others[part] for part in parts)
        ]
    )


def _log_determinants(parameters: Parameters) -> Array:
    """ln|Σ_k|, (K,) or (1,)."""
    stacked = parameters.stacked(parameters.factors)
    return 2.0 * log_determinants(parameters.structure, stacked)


def merged_pairs(
    parameters: Parameters, first: NDArray[np.intp], second: NDArray[np.intp]
) -> Parameters:
    """A mixture of pairs of components, each as one Gaussian with the mean and covariance of both.

    Weights are those of the pairs among all pairs: (π_i + π_j) over their sum. The covariance of
    tied components stays as it is.

    Parameters
    ----------
    parameters : Parameters
    first, second : ndarray of shape (n,), int
    """
    kind = parameters.covariance_type
    sums = parameters.weights[first] + parameters.weights[second]
    share = np.divide(
        parameters.weights[first], sums, out=np.full_like(sums, 0.5), where=sums > 0.0
    )[:, np.newaxis]
    means = share * parameters.means[first] + (1.0 - share) * parameters.means[second]
    apart = np.sqrt(share * (1.0 - share)) * (parameters.means[first] - parameters.means[second])
    covariances, factors = parameters.covariances, parameters.factors
    if kind == "full":
        covariances, factors = _merged_matrices(factors, share[:, 0], apart, first, second)
    elif kind != "tied":
        moved = np.square(apart) if kind == "diag" else np.square(apart).mean(axis=1)
        parts = share if kind == "diag" else share[:, 0]
        covariances = parts * covariances[first] + (1.0 - parts) * covariances[second] + moved
        factors = np.sqrt(covariances)
    total = sums.sum()
    weights = sums / total if total > 0.0 else np.full_like(sums, 1.0 / len(sums))
    return Parameters.create(kind, weights, means, covariances, factors)


def _merged_matrices(
    factors: Array,
    share: Array,
    apart: Array,
    first: NDArray[np.intp],
    second: NDArray[np.intp],
) -> tuple[Array, Array]:
    """Return covariances and factors (n, D, D) of pairs of components."""
    shape = len(first), *factors.shape[1:]
    covariances, merged = np.empty(shape), np.empty(shape)
    for block in blocks(*shape[:2]):
        parts = share[block, np.newaxis, np.newaxis]
        roots = [
            np.sqrt(parts) * np.swapaxes(factors[first[block]], 1, 2),
            np.sqrt(1.0 - parts) * np.swapaxes(factors[second[block]], 1, 2),
            apart[block, np.newaxis, :],
        ]
        own = triangular(np.concatenate(roots, axis=1))
        covariances[block], merged[block] = own @ np.swapaxes(own, 1, 2), own
    return covariances, merged


def reduce_components(
    parameters: Parameters, n_components: int
) -> tuple[Parameters, NDArray[np.intp]]:
    """Merge the two components whose merging costs least, until so many are left.

    Parameters
    ----------
    parameters : Parameters
    n_components : int
        At least 1.

    Returns
    -------
    reduced : Parameters
        Each component has the mean and covariance of a group of components; the covariance of tied
        ones stays as it is.
    groups : ndarray of shape (K,), int
        By component the one that it has become part of.

    References
    ----------
    Runnalls (2007), Kullback-Leibler approach to Gaussian mixture reduction.
    """
    groups = np.arange(parameters.n_components)
    bounds = merging_bounds(parameters)
    while len(bounds) > n_components:
        i, j = sorted(int(k) for k in np.unravel_index(np.argmin(bounds), bounds.shape))
        parameters = _with_merged(parameters, i, j)
        groups[groups == j] = i
        groups[groups > j] -= 1
        bounds = np.delete(np.delete(bounds, j, axis=0), j, axis=1)
        others = np.delete(np.arange(len(bounds)), i)
        if others.size:
            bounds[i, others] = bounds[others, i] = _bounds_of(parameters, i, others)
    return parameters, groups


def _with_merged(parameters: Parameters, i: int, j: int) -> Parameters:
    """With a component i that is i and j, and without j."""
    both = merged_pairs(parameters, np.array([i]), np.array([j]))

    def replaced(own: Array, merged: Array) -> Array:
        left = own.copy()
        left[i] = merged[0]
        return np.delete(left, j, axis=0)

    weights = replaced(parameters.weights, parameters.weights[[i, j]].sum(keepdims=True))
    means = replaced(parameters.means, both.means)
    if parameters.covariance_type == "tied":
        return replace(parameters, weights=weights, means=means)
    covariances = replaced(parameters.covariances, both.covariances)
    factors = replaced(parameters.factors, both.factors)
    return replace(
        parameters, weights=weights, means=means, covariances=covariances, factors=factors
    )
