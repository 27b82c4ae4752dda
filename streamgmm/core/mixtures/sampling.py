"""Random rows from a mixture."""

import numpy as np
from numpy.typing import NDArray

from streamgmm.core.parameters import Parameters
from streamgmm.core.structures import Array


def draw(
    parameters: Parameters, n_rows: int, random: np.random.Generator | np.random.RandomState
) -> tuple[Array, NDArray[np.int64]]:
    """Draw independent rows from a mixture, grouped by component.

    Parameters
    ----------
    parameters : Parameters
    n_rows : int
    random : numpy.random.Generator or numpy.random.RandomState

    Returns
    -------
    rows : ndarray of shape (n_rows, D)
    labels : ndarray of shape (n_rows,)
        Component that each row was drawn from, in ascending order.
    """
    # The generators refuse weights whose sum exceeds 1 by rounding.
    counts = random.multinomial(n_rows, parameters.weights / parameters.weights.sum())
    labels = np.repeat(np.arange(parameters.n_components), counts)
    noise = random.standard_normal((n_rows, parameters.n_features))
    factors = parameters.stacked(parameters.factors)
    stops = np.cumsum(counts)
    for k, (start, stop) in enumerate(zip(stops - counts, stops, strict=True)):
        own = noise[start:stop]
        own[:] = parameters.structure.scaled_rows(own, factors, k)
        own += parameters.means[k]
    return noise, labels
