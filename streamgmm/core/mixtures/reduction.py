"""Components that are merged into one: mixture reduction."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from streamgmm.core.parameters import Parameters
from streamgmm.core.structures import Array


def merging_bounds(parameters: Parameters) -> Array:
    """Bound (K, K) on what merging two components costs, in nats per row; inf on the diagonal.

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
    """Return what merging a component with each of some others costs at most, (n,)."""
    return parameters.structure.merging_costs(
        parameters, i, others, lambda first, second: merged_pairs(parameters, first, second)
    )


def merged_pairs(
    parameters: Parameters, first: NDArray[np.intp], second: NDArray[np.intp]
) -> Parameters:
    """A mixture of pairs of components, each as one Gaussian with the mean and covariance of both.

    Weights are those of the pairs among all pairs: (π_i + π_j) over their sum. A covariance that
    all components share stays as it is.

    Parameters
    ----------
    parameters : Parameters
    first, second : ndarray of shape (n,), int
    """
    sums = parameters.weights[first] + parameters.weights[second]
    share = np.divide(
        parameters.weights[first], sums, out=np.full_like(sums, 0.5), where=sums > 0.0
    )[:, np.newaxis]
    means = share * parameters.means[first] + (1.0 - share) * parameters.means[second]
    apart = np.sqrt(share * (1.0 - share)) * (parameters.means[first] - parameters.means[second])
    covariances, factors = parameters.structure.merged_pairs(
        parameters, share, apart, first, second
    )
    total = sums.sum()
    weights = sums / total if total > 0.0 else np.full_like(sums, 1.0 / len(sums))
    return Parameters.create(parameters.covariance_type, weights, means, covariances, factors)


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
        Each component has the mean and covariance of a group of components; a covariance that all
        share stays as it is.
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

    structure = parameters.structure

    def replaced(own: Array, merged: Array) -> Array:
        left = own.copy()
        left[i] = merged[0]
        return np.delete(left, j, axis=0)

    def stored(own: Array, merged: Array) -> Array:
        first = np.array([0])
        values = structure.taken(merged, first)
        return structure.without(structure.replaced(own, np.array([i]), values), j)

    return replace(
        parameters,
        weights=replaced(parameters.weights, parameters.weights[[i, j]].sum(keepdims=True)),
        means=replaced(parameters.means, both.means),
        covariances=stored(parameters.covariances, both.covariances),
        factors=stored(parameters.factors, both.factors),
    )
