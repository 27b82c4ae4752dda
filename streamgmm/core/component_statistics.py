"""Means and quantiles of variables within each component."""

from collections.abc import Sequence
from dataclasses import dataclass

from streamgmm.core.structures import Array


@dataclass(frozen=True, eq=False)
class ComponentStatistics:
    """Means and quantiles of M variables, weighted by the responsibilities of K components.

    Attributes
    ----------
    names : sequence of str
        Names of the variables.
    weights : ndarray of shape (K, M)
        Sum of the responsibilities, times the row weights, of the rows that have a value.
    means : ndarray of shape (K, M)
        NaN where the weight is 0.
    probabilities : ndarray of shape (Q,)
    quantiles : ndarray of shape (Q, K, M)
        Smallest values that at least this part of the weight does not exceed, but for the error.
    relative_error : float
        Largest relative error of a quantile. Values below 1e-300 count as 0.
    """

    names: Sequence[str]
    weights: Array
    means: Array
    probabilities: Array
    quantiles: Array
    relative_error: float
