"""Random rows from a mixture."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from streamgmm.core.kernels.log_joint import NOISE
from streamgmm.core.noise import Noise
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
        Component that each row was drawn from, in ascending order; -1 for noise, which comes first.

    Raises
    ------
    ParameterError
        If the mixture has noise of which only the density is known.
    """
    if parameters.noise is not None:
        return _draw_with_noise(parameters, parameters.noise, n_rows, random)
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


def _draw_with_noise(
    parameters: Parameters,
    noise: Noise,
    n_rows: int,
    random: np.random.Generator | np.random.RandomState,
) -> tuple[Array, NDArray[np.int64]]:
    """Draw rows from the box of the noise, and from the components."""
    noise.require_box("no rows can be drawn from it")
    n_noise = int(random.binomial(n_rows, min(noise.weight, 1.0)))
    low, high = noise.box
    rows = low + (high - low) * random.uniform(size=(n_noise, parameters.n_features))
    components = replace(parameters, weights=parameters.shares, noise=None)
    others, labels = draw(components, n_rows - n_noise, random)
    return np.concatenate([rows, others]), np.concatenate([np.full(n_noise, NOISE), labels])
