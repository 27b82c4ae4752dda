"""Scoring: the step that information and gradient call for."""

import math
from dataclasses import dataclass

import numpy as np

from streamgmm.core.information import Information, Tangent
from streamgmm.core.structures import Array

#: Largest number of products with the information for a step, which may save a pass over all rows.
MOST_PRODUCTS = 60
# Of the gradient, what a solution may leave; of its gain, what the last product may have added.
_REMAINDER, _LAST_PART = 0.1, 0.05
# Least information along a direction, as a part of that of labelled rows. Less may be by chance: of
# few rows it may even be negative.
_LEAST_INFORMATION = 0.02
# Of the square of that remainder, what is as good as nothing.
_NOTHING = 1e-6


@dataclass(frozen=True, eq=False)
class Scoring:
    """A step along a gradient.

    Attributes
    ----------
    step : ndarray of shape (p,)
        The solution, or where its path leaves the trust region.
    is_cut : bool
        Whether it does.
    predicted : float
        What the step would gain, nats per row, if the log-likelihood were quadratic.
    remaining : float
        What the whole solution would, or as much of it as was found.
    n_products : int
        Of information and vectors.
    is_flat : bool
        Whether it ends at a direction of hardly any information.
    """

    step: Array
    is_cut: bool = False
    predicted: float = math.inf
    remaining: float = math.inf
    n_products: int = 0
    is_flat: bool = False


def score(
    information: Information,
    gradient: Array,
    radius: float,
    enough: float = math.inf,
    most_products: int = MOST_PRODUCTS,
) -> Scoring:
    """Solve (I - J) c = g by conjugate gradients within a trust region.

    A direction of hardly any information ends the solution.

    Parameters
    ----------
    information : Information
    gradient : ndarray of shape (p,)
    radius : float
        How far a component may move, in its own standard deviations.
    enough : float
        Outside of the region the solution is of interest only for what remains to be gained, and
        only until that is known to be more than this.
    most_products : int
        Of information and vectors.

    Returns
    -------
    Scoring

    References
    ----------
    Steihaug (1983), The conjugate gradient method and trust regions in large scale optimization.
    """
    tangent = information.tangent
    solution, gain, added = np.zeros_like(gradient), 0.0, 0.0
    cut: tuple[Array, float] | None = None
    remainder, direction = gradient.copy(), gradient.copy()
    squared = float(remainder @ remainder)
    limit = _REMAINDER**2 * squared
    n_products, is_flat = 0, False
    while n_products < most_products:
        is_solved = squared <= limit and added <= _LAST_PART * gain
        if is_solved or squared <= _NOTHING * limit or (cut is not None and gain > enough):
            break
        image = information.product(direction)
        n_products += 1
        curvature = float(direction @ image)
        least = _LEAST_INFORMATION * float(direction @ direction)
        if not math.isfinite(curvature):
            break
        # Squared gradients show how little it is.
        is_flat = curvature < least and not (information.is_squared and curvature > 0.0)
        length = squared / (least if is_flat else curvature)
        move = length * direction
        if cut is None and tangent.size(solution + move) > radius:
            part = _part_inside(tangent, solution, move, radius)
            cut = solution + part * move, gain + length * squared * part * (1.0 - 0.5 * part)
        added = 0.5 * length * squared
        solution, gain = solution + move, gain + added
        if is_flat:
            break
        remainder = remainder - length * image
        previous, squared = squared, float(remainder @ remainder)
        direction = remainder + (squared / previous) * direction
    step, predicted = (solution, gain) if cut is None else cut
    return Scoring(step, cut is not None, predicted, gain, n_products, is_flat)


def _part_inside(tangent: Tangent, start: Array, move: Array, radius: float) -> float:
    """Return the part of a move from start at which the trust region ends."""
    inside, outside = 0.0, 1.0
    for _ in range(20):
        middle = 0.5 * (inside + outside)
        if tangent.size(start + middle * move) > radius:
            outside = middle
        else:
            inside = middle
    return inside
