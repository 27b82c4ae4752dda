"""Components that are merged into one: mixture reduction."""

import numpy as np
from numpy.typing import NDArray

from streamgmm.core.covariance import Array, log_determinants, triangular
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
    inverse = parameters.stacked(parameters.inverse_factors)
    own = np.broadcast_to(-2.0 * log_determinants(parameters.structure, inverse), k)
    weights = parameters.weights
    for i in range(k - 1):
        # One with all later ones at a time: covariances of all pairs may be too many for memory.
        others = np.arange(i + 1, k)
        both = weights[i] + weights[others]
        if parameters.covariance_type == "tied":
            # The covariance that all share would be widened: ½ π_i π_j / (π_i + π_j) d² to first
            # order.
            moved = (parameters.means[i] - parameters.means[others]) @ inverse[0].T
            costs = 0.5 * weights[i] * weights[others] * np.square(moved).sum(axis=1)
            costs = np.divide(costs, both, out=np.zeros_like(costs), where=both > 0.0)
        else:
            merged = merged_pairs(parameters, np.full_like(others, i), others)
            wide = 2.0 * log_determinants(merged.structure, merged.stacked(merged.factors))
            costs = 0.5 * (both * wide - weights[i] * own[i] - weights[others] * own[others])
        bounds[i, others] = bounds[others, i] = costs
    return bounds


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
        parts = share[:, :, np.newaxis]
        roots = [
            np.sqrt(parts) * np.swapaxes(factors[first], 1, 2),
            np.sqrt(1.0 - parts) * np.swapaxes(factors[second], 1, 2),
            apart[:, np.newaxis, :],
        ]
        factors = triangular(np.concatenate(roots, axis=1))
        covariances = factors @ np.swapaxes(factors, 1, 2)
    elif kind != "tied":
        moved = np.square(apart) if kind == "diag" else np.square(apart).mean(axis=1)
        parts = share if kind == "diag" else share[:, 0]
        covariances = parts * covariances[first] + (1.0 - parts) * covariances[second] + moved
        factors = np.sqrt(covariances)
    total = sums.sum()
    weights = sums / total if total > 0.0 else np.full_like(sums, 1.0 / len(sums))
    return Parameters.create(kind, weights, means, covariances, factors)
