"""The covariance of low rank that is nearest to a matrix: factor analysis of a known covariance.

With M = Ψ^(-1/2) S Ψ^(-1/2) the best loadings for noise variances ψ follow from the leading
eigenvalues λ of M above 1. What remains, twice the Kullback-Leibler divergence, is the sum of
λ - ln λ - 1 over the other eigenvalues. It is minimised over ln ψ by the method of Levenberg and
Marquardt, which converges fast where S is of low rank plus a diagonal.

References
----------
Jöreskog (1967), Some contributions to maximum likelihood factor analysis, Psychometrika 32.
Clarke (1970), A rapidly convergent method for maximum-likelihood factor analysis.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamgmm.core.structures.low_rank_factors import joined
from streamgmm.core.structures.matrices import Array

# Least noise variance, as a part of the variance of a column.
_LEAST_NOISE = 1e-10
# Steps: at most, at least, and the sum of D³ over all steps for columns between these.
_MOST_STEPS, _FEWEST_STEPS, _WORK = 200, 20, 1e10
# Damping of the first step, its changes after a step, and the least and the largest one.
_DAMPING, _LESS, _MORE, _LEAST, _MOST = 1e-3, 0.1, 10.0, 1e-7, 1e8
# The largest change of ln ψ in a step.
_LARGEST_STEP = 3.0
# Remaining divergence that is rounding, and a gain, as a part of it, that is small.
_EXACT, _SMALL_GAIN = 1e-18, 1e-9
# Starts in addition to the first one, and a divergence that needs no more of them.
_N_OTHERS, _CLOSE = 8, 1e-13


@dataclass(frozen=True, eq=False)
class _Point:
    """Noise variances of a correlation matrix, and what they leave.

    Attributes
    ----------
    logs : ndarray of shape (D,)
        ln ψ.
    sizes : ndarray of shape (D,)
        Eigenvalues λ, ascending.
    vectors : ndarray of shape (D, D)
    is_rest : ndarray of shape (D,), bool
        Which eigenvalues the loadings do not explain.
    value : float
        Twice the divergence.
    """

    logs: Array
    sizes: Array
    vectors: Array
    is_rest: NDArray[np.bool_]
    value: float

    @classmethod
    def of(cls, correlations: Array, logs: Array, rank: int) -> "_Point":
        """Return what logarithms of noise variances leave of a correlation matrix."""
        roots = np.exp(0.5 * logs)
        sizes, vectors = np.linalg.eigh(correlations / roots / roots[:, np.newaxis])
        is_rest = sizes <= 1.0
        is_rest[: len(sizes) - rank] = True
        rest = np.maximum(sizes[is_rest], np.finfo(np.float64).tiny)
        value = float((rest - np.log(rest) - 1.0).sum())
        return cls(logs, sizes, vectors, is_rest, value)

    def loadings(self, rank: int) -> Array:
        """Return the best loadings (D, R) for these noise variances."""
        chosen = slice(len(self.sizes) - rank, None)
        lengths = np.sqrt(np.maximum(self.sizes[chosen] - 1.0, 0.0))
        found: Array = self.vectors[:, chosen] * lengths * np.exp(0.5 * self.logs)[:, np.newaxis]
        return found


def nearest_covariance(matrix: Array, precision: Array, rank: int) -> Array:
    """Return the covariance (D, R + 1), as it is stored, that is nearest to a matrix.

    Parameters
    ----------
    matrix : ndarray of shape (D, D)
        A covariance.
    precision : ndarray of shape (D, D)
        Its inverse.
    rank : int
        R.
    """
    d = len(matrix)
    deviations = np.sqrt(np.diagonal(matrix))
    correlations = matrix / deviations / deviations[:, np.newaxis]
    # A noise variance is at most that of a column given the others.
    most = 1.0 / (np.diagonal(precision) * np.diagonal(matrix))
    starts = [np.full(d, 1.0 - 0.5 * rank / d)]
    # Where the rank is nearly what the columns allow, other starts may lead to other optima.
    n_spare = (d - rank) ** 2 - (d + rank)
    if n_spare < d * rank:
        drawn = np.random.RandomState(0).uniform(size=(_N_OTHERS, d))
        starts.extend(drawn)
    best: _Point | None = None
    for parts in starts:
        found = _minimum(correlations, np.log(np.maximum(parts * most, _LEAST_NOISE)), rank)
        if best is None or found.value < best.value:
            best = found
        if best.value < _CLOSE:
            break
    assert best is not None
    loadings = best.loadings(rank) * deviations[:, np.newaxis]
    noise = np.exp(best.logs) * np.square(deviations)
    stored: Array = joined(loadings[np.newaxis], noise[np.newaxis])[0]
    return stored


def _minimum(correlations: Array, logs: Array, rank: int) -> _Point:
    """Return the minimum of the divergence that a start leads to."""
    least = np.log(_LEAST_NOISE)
    point, damping = _Point.of(correlations, logs, rank), _DAMPING
    n_steps = min(_MOST_STEPS, max(_FEWEST_STEPS, int(_WORK / len(logs) ** 3)))
    for _ in range(n_steps):
        if point.value < _EXACT:
            break
        rest = point.vectors[:, point.is_rest]
        gradient = np.square(rest) @ (1.0 - point.sizes[point.is_rest])
        hessian = np.square(rest @ rest.T)
        is_free = (point.logs > least) | (gradient < 0.0)
        found = point
        while is_free.any() and damping < _MOST and not found.value < point.value:
            step = _damped_step(hessian[np.ix_(is_free, is_free)], gradient[is_free], damping)
            moved = point.logs.copy()
            moved[is_free] = np.maximum(moved[is_free] + step, least)
            found = _Point.of(correlations, moved, rank)
            damping *= _MORE
        gain, point = point.value - found.value, found
        if not gain > _SMALL_GAIN * point.value:
            break
        damping = max(damping * _LESS / _MORE, _LEAST)
    return point


def _damped_step(hessian: Array, gradient: Array, damping: float) -> Array:
    """Return a step of Levenberg and Marquardt, of bounded length in each logarithm."""
    diagonal = np.diagonal(hessian)
    damped = hessian + np.diag(damping * diagonal + np.finfo(np.float64).eps)
    step = -np.linalg.solve(damped, gradient)
    return np.asarray(np.clip(step, -_LARGEST_STEP, _LARGEST_STEP), np.float64)
