"""The M-step: from sufficient statistics to the parameters that maximise the likelihood.

Covariances are formed in the frame's coordinates u = B⁻¹ (x - o) and carried back as
Σ = B T Bᵀ, their factors with them: in whitened coordinates T is close to the identity, so
that even a standard deviation 1e8 times smaller than another keeps its digits.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamgmm.core.frame import Frame
from streamgmm.core.parameters import PARAMETER_NAMES, Fixed, Parameters, held_components
from streamgmm.core.statistics import Statistics
from streamgmm.core.structures import Array

# A component with less mass than this, in rows, counts as empty.
_FEWEST_ROWS = 10.0 * np.finfo(np.float64).eps
# Least rounding of data. With it neither precisions nor whitened rows overflow where data are 0.
_LEAST_ROUNDING = 1e-130


@dataclass(frozen=True)
class Maximum:
    """The result of an M-step.

    Attributes
    ----------
    parameters : Parameters
    empty : tuple of int
        Components without mass. Their weight becomes 0; their mean and covariance do not change.
    collapsed : tuple of int
        Components whose covariance was singular and was widened (all of them for tied).
    """

    parameters: Parameters
    empty: tuple[int, ...] = ()
    collapsed: tuple[int, ...] = ()


def maximize(
    statistics: Statistics,
    previous: Parameters,
    *,
    reg_covar: float | Array = 0.0,
    fixed: Fixed = (),
    is_complete: bool = False,
) -> Maximum:
    """Return the parameters that maximise the expected log-likelihood of the statistics.

    Parameters
    ----------
    statistics : Statistics
    previous : Parameters
        Source of fixed parameters, and of the parameters of components without mass.
    reg_covar : float or ndarray of shape (D,)
        Added to the diagonal of each covariance, in squared units of the columns.
    fixed : collection of {"weights", "means", "covariances"}, or mapping of these to masks
        Parameters that keep their previous values. Free weights share the rest. If some weights
        are held, a mixture with noise keeps all of them.
    is_complete : bool
        Whether covariances go further than EM's own step, where the statistics show the way.

    Returns
    -------
    Maximum

    References
    ----------
    Bishop, Pattern Recognition and Machine Learning (2006), equations 9.24 to 9.27.
    """
    frame = statistics.frame
    counts = np.where(_has_mass(statistics), statistics.counts, 0.0)
    alive = np.flatnonzero(counts)
    offsets = np.zeros_like(previous.means)
    offsets[alive] = statistics.moments[alive, 1 : 1 + frame.n_features]
    offsets[alive] /= counts[alive, np.newaxis]

    k = previous.n_components
    has_held_weight, has_held_mean, has_held_covariance = (
        held_components(fixed, name, k) for name in PARAMETER_NAMES
    )
    weights, noise = previous.weights, previous.noise
    if noise is None:
        weights = _maximal_weights(counts, previous.weights, has_held_weight)
    elif counts.any() and not has_held_weight.any():
        # Rows that no component holds are noise.
        total = max(statistics.weight, counts.sum())
        weights = counts / total
        noise = noise.of_weight(float((total - counts.sum()) / total))
    means = previous.means.copy()
    moving = alive[~has_held_mean[alive]]
    means[moving] = frame.points(offsets)[moving]
    # Differences of the rows' mean from the mean about which the covariance is taken.
    shifts = np.zeros_like(offsets)
    if has_held_mean.any():
        shifts[has_held_mean] = (offsets - frame.coordinates(means))[has_held_mean]
    covariances, factors = previous.covariances, previous.factors
    collapsed: list[int] = []
    alive = alive[~has_held_covariance[alive]]
    if alive.size:
        structure = previous.structure
        covariances, factors = np.array(covariances), np.array(factors)
        resolution = structure.resolution(_rounding(frame, means))
        ridge = np.full(frame.n_features, reg_covar)
        spread = _overall_variances(previous)
        views = structure.update_views(covariances, factors)
        updates = structure.complete_updates if is_complete else structure.updates
        for update in updates(statistics, alive, offsets, shifts):
            widened = update.apply(resolution, ridge, spread, *views)
            collapsed += structure.updated_components(widened, alive)
    empty = np.flatnonzero((counts <= 0.0) & (previous.weights > 0.0))
    return Maximum(
        Parameters(frame.covariance_type, weights, means, covariances, factors, noise),
        tuple(empty.tolist()),
        tuple(collapsed),
    )


def _maximal_weights(counts: Array, previous: Array, is_held: NDArray[np.bool_]) -> Array:
    """Return the weights: those that are not held are as the counts, and sum to what is left."""
    if not is_held.any() and counts.any():
        weights: Array = counts / counts.sum()
        return weights
    weights, free = previous.copy(), ~is_held
    if counts[free].any():
        weights[free] = counts[free] * (previous[free].sum() / counts[free].sum())
    return weights


def _has_mass(statistics: Statistics) -> NDArray[np.bool_]:
    """Return whether a component has more than a few roundoffs of a row, (K,).

    With less mass, its mean and covariance would be those of the nearest row alone. The threshold
    is that of scikit-learn's M-step.
    """
    row = statistics.weight / max(statistics.n_rows, 1)
    mass: NDArray[np.bool_] = statistics.counts > _FEWEST_ROWS * row
    return mass


def _overall_variances(parameters: Parameters) -> Array:
    """Return variances (D,) of the whole mixture, equal where columns share one variance."""
    structure, weights = parameters.structure, parameters.shares
    own = structure.variances(parameters.stacked(parameters.covariances))
    deviations = parameters.means - weights @ parameters.means
    return structure.joint_variances(weights @ (own + np.square(deviations)))


def _rounding(frame: Frame, means: Array) -> Array:
    """Return the rounding of the data about the means, (K, D)."""
    eps = np.finfo(np.float64).eps
    rounding: Array = np.maximum(eps * (np.abs(means) + frame.scale), _LEAST_ROUNDING)
    return rounding
