"""Put the components of a mixture in the order of those of another: labels keep their meaning."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from streamgmm.core.covariance import Array, blocks, log_determinants
from streamgmm.core.parameters import Parameters

# What nothing can cost: some pairs are too far apart for their distance to be squared.
_MOST = 1e9


def aligned(parameters: Parameters, reference: Parameters) -> Parameters:
    """Return a mixture with its components in the order of those of another one.

    Components are paired so that merging the two of each pair would cost least in all. The cost
    grows as the logarithm of a distance, so that a component which is where it was keeps its
    partner, however far another has moved.

    Parameters
    ----------
    parameters, reference : Parameters
        Of the same size and covariance type.

    References
    ----------
    Runnalls (2007), Kullback-Leibler approach to Gaussian mixture reduction, equation 21.
    Kuhn (1955), The Hungarian method for the assignment problem.
    """
    _, order = linear_sum_assignment(merging_costs(reference, parameters))
    return _reordered(parameters, order)


def by_first_rows(parameters: Parameters, labels: NDArray[np.int64]) -> Parameters:
    """Return a mixture with its components in the order in which rows show them.

    Parameters
    ----------
    parameters : Parameters
    labels : ndarray of shape (n,), int64
        Components of the rows of a stream, from its beginning. Components without a row come last.
    """
    first_rows = np.full(parameters.n_components, len(labels))
    components, found = np.unique(labels, return_index=True)
    first_rows[components] = found
    return _reordered(parameters, np.argsort(first_rows, kind="stable"))


def _reordered(parameters: Parameters, order: NDArray[np.intp]) -> Parameters:
    """Return a mixture with its components in another order."""
    covariances, factors = parameters.covariances, parameters.factors
    if parameters.covariance_type != "tied":
        covariances, factors = covariances[order], factors[order]
    return replace(
        parameters,
        weights=parameters.weights[order],
        means=parameters.means[order],
        covariances=covariances,
        factors=factors,
    )


def merging_costs(first: Parameters, second: Parameters) -> Array:
    """Return the cost (K, K) of merging a component of each of two mixtures, with equal weights.

    ½ ln|Σ| - ¼ ln|Σ_i| - ¼ ln|Σ_j| with Σ the covariance of both together: nats per row.
    """
    k, d = first.means.shape
    shape = (k, d, d) if first.structure.is_triangular else (k, d)
    inverse = np.broadcast_to(first.stacked(first.inverse_factors), shape)
    factors = np.broadcast_to(second.stacked(second.factors), shape)
    sizes = np.broadcast_to(log_determinants(second.structure, factors), k)
    costs = np.empty((k, k))
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        for i in range(k):
            for block in blocks(k, d):
                # In coordinates in which component i of the first mixture has covariance I.
                moved = second.means[block] - first.means[i]
                if first.structure.is_triangular:
                    own = inverse[i] @ factors[block]
                    apart = 0.5 * (moved @ inverse[i].T)
                    both = 0.5 * (np.eye(d) + own @ np.swapaxes(own, 1, 2))
                    both += apart[:, :, np.newaxis] * apart[:, np.newaxis, :]
                    widths = np.linalg.slogdet(both)[1]
                else:
                    own, apart = inverse[i] * factors[block], 0.5 * inverse[i] * moved
                    widths = np.log(0.5 * (1.0 + own**2) + apart**2).sum(axis=1)
                costs[i, block] = 0.5 * widths
        costs -= 0.5 * (sizes + log_determinants(first.structure, inverse)[:, np.newaxis])
    return np.nan_to_num(costs, nan=_MOST, posinf=_MOST, neginf=-_MOST)
