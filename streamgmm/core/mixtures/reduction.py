"""Mixture reduction: merge components of a mixture."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from streamgmm.core.parameters import Parameters
from streamgmm.core.structures import Array
from streamgmm.core.structures.matrices import BLOCK_BYTES

# Nearest components among which each one finds a partner to be merged with.
_NEIGHBOURS = 32


def merging_bounds(parameters: Parameters) -> Array:
    """Bound (K, K) the cost of merging two components, in nats per row; inf on the diagonal.

    ½ ((π_i + π_j) ln|Σ_ij| - π_i ln|Σ_i| - π_j ln|Σ_j|) with Σ_ij the covariance of both together
    bounds the Kullback-Leibler divergence from the mixture to the one with the two merged.

    References
    ----------
    Runnalls (2007), Kullback-Leibler approach to Gaussian mixture reduction, equation 21.
    """
    k = parameters.n_components
    bounds = np.full((k, k), np.inf)
    for i in range(k - 1):
        # One component with all later ones: covariances of all pairs may not fit in memory.
        others = np.arange(i + 1, k)
        own = np.full_like(others, i)
        bounds[i, others] = bounds[others, i] = _bounds_of(parameters, own, others)
    return bounds


def merging_partners(parameters: Parameters) -> NDArray[np.intp]:
    """Return the partner of each component for which the bound is least, (K,).

    If there are many components, the partner is among those whose means are nearest, in units of
    the covariance that components have on average. A single component is its own partner.
    """
    k, d = parameters.means.shape
    if k <= _NEIGHBOURS + 1:
        found: NDArray[np.intp] = np.argmin(merging_bounds(parameters), axis=1)
        return found
    structure = parameters.structure
    stacked = parameters.stacked(parameters.factors)
    centred = parameters.means - parameters.shares @ parameters.means
    factor = structure.mean_factor(stacked, parameters.shares)
    whitened = structure.solved_rows(centred, factor, 0)
    neighbours = np.asarray(KDTree(whitened).query(whitened, _NEIGHBOURS + 1)[1])
    partners = np.empty(k, dtype=np.intp)
    size = max(1, BLOCK_BYTES // (8 * d * neighbours.shape[1]))
    for start in range(0, k, size):
        own = np.arange(start, min(start + size, k))
        others = neighbours[own]
        first = np.repeat(own, others.shape[1])
        bounds = _bounds_of(parameters, first, others.ravel()).reshape(others.shape)
        # Components with equal means may come before a component itself.
        bounds[others == own[:, np.newaxis]] = np.inf
        partners[own] = others[np.arange(len(own)), np.argmin(bounds, axis=1)]
    return partners


def _bounds_of(parameters: Parameters, first: NDArray[np.intp], second: NDArray[np.intp]) -> Array:
    """Return bounds on the cost of merging the components of each pair, (n,)."""
    return parameters.structure.merging_costs(
        parameters, first, second, lambda one, other: merged_pairs(parameters, one, other)
    )


def merged_pairs(
    parameters: Parameters, first: NDArray[np.intp], second: NDArray[np.intp]
) -> Parameters:
    """Return a mixture of pairs, each as one Gaussian with the mean and covariance of both.

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
    """Merge the pair of components of least cost until ``n_components`` are left.

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
        Index of the group of each component.

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
            own = np.full_like(others, i)
            bounds[i, others] = bounds[others, i] = _bounds_of(parameters, own, others)
    return parameters, groups


def _with_merged(parameters: Parameters, i: int, j: int) -> Parameters:
    """Return the mixture after component j is merged into component i."""
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
