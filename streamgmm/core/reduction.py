"""Components that are merged into one: mixture reduction."""

import numpy as np
from numpy.typing import NDArray

from streamgmm.core.covariance import Array, log_determinants
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
    first, second = np.triu_indices(k, 1)
    bounds = np.full((k, k), np.inf)
    if first.size == 0:
        return bounds
    inverse = parameters.stacked(parameters.inverse_factors)
    own = np.broadcast_to(-2.0 * log_determinants(parameters.structure, inverse), k)
    weights = parameters.weights
    both = weights[first] + weights[second]
    merged = merged_pairs(parameters, first, second)
    if parameters.covariance_type == "tied":
        # The covariance that all share would be widened: ½ π_i π_j / (π_i + π_j) d² to first order.
        moved = (parameters.means[first] - parameters.means[second]) @ inverse[0].T
        distances = np.square(moved).sum(axis=1)
        costs = 0.5 * weights[first] * weights[second] * distances
        costs = np.divide(costs, both, out=np.zeros_like(costs), where=both > 0.0)
    else:
        stacked = merged.stacked(merged.inverse_factors)
        wide = -2.0 * log_determinants(merged.structure, stacked)
        costs = 0.5 * (both * wide - weights[first] * own[first] - weights[second] * own[second])
    bounds[first, second] = bounds[second, first] = costs
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
    if kind == "tied":
        covariances, factors = parameters.covariances, parameters.factors
    elif kind == "full":
        factors = _joint_factors(
            parameters.factors[first], parameters.factors[second], share, apart
        )
        covariances = factors @ np.swapaxes(factors, 1, 2)
    else:
        own, other = parameters.covariances[first], parameters.covariances[second]
        between = apart**2 if kind == "diag" else np.square(apart).mean(axis=1)
        part = share if kind == "diag" else share[:, 0]
        covariances = part * own + (1.0 - part) * other + between
        factors = np.sqrt(covariances)
    return Parameters.create(kind, sums / sums.sum(), means, covariances, factors)


def _joint_factors(own: Array, other: Array, share: Array, apart: Array) -> Array:
    """Factors (n, D, D) of a Σ_i + (1 - a) Σ_j + d dᵀ from those of Σ_i and Σ_j.

    Without forming what may be singular to rounding: Rᵀ of the QR decomposition of the roots.
    """
    part = np.sqrt(share)[:, :, np.newaxis]
    rest = np.sqrt(1.0 - share)[:, :, np.newaxis]
    roots = np.concatenate([part * own, rest * other, apart[:, :, np.newaxis]], axis=2)
    factors = np.swapaxes(np.linalg.qr(np.swapaxes(roots, 1, 2), mode="r"), 1, 2)
    signs = np.sign(np.diagonal(factors, axis1=1, axis2=2))
    return np.ascontiguousarray(factors * signs[:, np.newaxis, :])
