"""Put the components of a mixture in the order of those of another: labels keep their meaning."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from streamgmm.core.fitted_model import FittedModel
from streamgmm.core.parameters import Parameters
from streamgmm.core.structures import Array, blocks

# Cost of pairs that are too far apart for their distance to be squared.
_MOST = 1e9


def aligned(parameters: Parameters, reference: Parameters) -> Parameters:
    """Return a mixture with its components in the order of those of another one.

    Components are paired such that the sum of the costs of merging each pair is least. The cost
    grows as the logarithm of a distance. A component that did not move therefore keeps its partner,
    even if another component moved far.

    Parameters
    ----------
    parameters, reference : Parameters
        Mixtures of the same size and covariance type.

    References
    ----------
    Runnalls (2007), Kullback-Leibler approach to Gaussian mixture reduction, equation 21.
    Kuhn (1955), The Hungarian method for the assignment problem.
    """
    return _reordered(parameters, _order(parameters, reference))


def aligned_fit(fitted: FittedModel, reference: Parameters) -> FittedModel:
    """Return a fitted mixture, with its statistics, in the order of the components of another.

    Parameters
    ----------
    fitted : FittedModel
    reference : Parameters
        As for :func:`aligned`.
    """
    order = _order(fitted.parameters, reference)
    statistics = fitted.statistics
    return replace(
        fitted,
        parameters=_reordered(fitted.parameters, order),
        statistics=None if statistics is None else statistics.reordered(order),
    )


def _order(parameters: Parameters, reference: Parameters) -> NDArray[np.intp]:
    """Return the number of the component that takes each place, so that pairs cost least."""
    _, order = linear_sum_assignment(merging_costs(reference, parameters))
    return np.asarray(order, dtype=np.intp)


def by_first_rows(parameters: Parameters, labels: NDArray[np.int64]) -> Parameters:
    """Return a mixture with its components in the order of their first rows.

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
    structure = parameters.structure
    return replace(
        parameters,
        weights=parameters.weights[order],
        means=parameters.means[order],
        covariances=structure.taken(parameters.covariances, order),
        factors=structure.taken(parameters.factors, order),
    )


def merging_costs(first: Parameters, second: Parameters) -> Array:
    """Return the cost (K, K) of merging a component of each of two mixtures, with equal weights.

    ½ ln|Σ| - ¼ ln|Σ_i| - ¼ ln|Σ_j| with Σ the covariance of both together: nats per row.
    """
    k, d = first.means.shape
    structure = first.structure
    sizes, own_sizes = (
        structure.log_determinants(one.stacked(one.factors)) for one in (second, first)
    )
    costs = np.empty((k, k))
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        for i in range(k):
            for block in blocks(k, d):
                costs[i, block] = 0.5 * structure.pair_log_determinants(first, i, second, block)
        # Determinants that all components share have one entry.
        costs -= 0.5 * (sizes - own_sizes[:, np.newaxis])
    return np.nan_to_num(costs, nan=_MOST, posinf=_MOST, neginf=-_MOST)
