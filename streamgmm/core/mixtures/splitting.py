"""Split a component of a mixture into two, along its longest axis."""

from dataclasses import replace

import numpy as np

from streamgmm.core.parameters import Parameters


def split_component(parameters: Parameters, k: int, apart: float = 0.5) -> Parameters:
    """Return a mixture in which two halves replace a component.

    The halves have half the weight and the covariance of the component. Their means lie apart along
    its direction of largest variance.

    Parameters
    ----------
    parameters : Parameters
    k : int
        Number of the component.
    apart : float
        Distance of the two means from the old one, in standard deviations. A smaller
        distance keeps the density closer to the old one.
    """
    structure, d = parameters.structure, parameters.n_features
    stacked = parameters.stacked(parameters.factors)
    shift = apart * structure.longest_axis(stacked, k)
    order = np.append(np.arange(parameters.n_components), k)
    weights, means = parameters.weights[order], parameters.means[order]
    weights[[k, -1]] *= 0.5
    means[k] -= shift
    means[-1] += shift
    covariances, factors = parameters.covariances, parameters.factors
    if not structure.n_shared(d):
        covariances, factors = covariances[order], factors[order]
    return replace(
        parameters, weights=weights, means=means, covariances=covariances, factors=factors
    )
