"""A fitted mixture as a plain value, and why its fit ended."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from streamgmm.core.criteria import Criteria
from streamgmm.core.data_description import DataDescription
from streamgmm.core.parameters import Parameters
from streamgmm.core.statistics import Statistics
from streamgmm.core.structures import Array
from streamgmm.errors import ParameterError


class StopReason(Enum):
    """Why a fit ended."""

    TOLERANCE = "tolerance"
    """The last gain, or the gain that is predicted to remain, is below the tolerance."""
    STATIONARY = "stationary"
    """The gradient is zero, but for a negligible part of the tolerance."""
    STALLED = "stalled"
    """Several passes over the data have together gained less than the tolerance."""
    LOSS = "loss"
    """EM's own step lowers the objective by the tolerance or more."""
    LIMIT = "limit"
    """The largest number of iterations was reached first, or the fit has not ended yet."""


@dataclass(frozen=True, eq=False)
class FittedModel:
    """A fitted mixture, the statistics of its rows, and how it was found.

    Attributes
    ----------
    parameters : Parameters
    statistics : Statistics or None
        Moments of the rows that the mixture was fitted to, component by component; None if it was
        derived from another mixture, converted, or not iterated.
    reg_covar : ndarray of shape (D,), or None
        Value that was added to the diagonal entry of each column; None if no rule has decided it.
    feature_names : ndarray of str of shape (D,), or None
    history : tuple of dict
        One entry for each pass over the data, or for each segment of a stream.
    n_reads : float
        Passes over the data, partial ones as fractions.
    reason : StopReason or None
        Why the fit ended; None if it is not known, or there was no fit.
    converged : bool
    n_iterations : int
    log_likelihood : float
        Mean log-likelihood of the rows, nats per row; NaN if it is not known.
    log_likelihoods : tuple of float
        Mean log-likelihood of the rows at each iteration.
    is_hard : bool
        Whether each row was assigned to one component, and the log-likelihoods are those of
        classification.
    criteria : Criteria or None
        Criteria of the parameters on the rows; None if no pass over the data has evaluated them.
    sample_history : tuple of dict
        One entry for each stage of the work on a sample in memory.
    data : DataDescription or None
        How the data were described; None if it is not known.
    provenance : mapping of str to JSON values, or None
        Data, versions, machine and date of the fit; None if they are not known.
    """

    parameters: Parameters
    statistics: Statistics | None = None
    reg_covar: Array | None = None
    feature_names: Any = None
    history: tuple[Mapping[str, Any], ...] = ()
    n_reads: float = 0.0
    reason: StopReason | None = None
    converged: bool = False
    n_iterations: int = 0
    log_likelihood: float = math.nan
    log_likelihoods: tuple[float, ...] = ()
    is_hard: bool = False
    criteria: Criteria | None = None
    sample_history: tuple[Mapping[str, Any], ...] = ()
    data: DataDescription | None = None
    provenance: Mapping[str, Any] | None = None

    def require_statistics(self, name: str) -> Statistics:
        """Return the statistics, or refuse a mixture that has none.

        Parameters
        ----------
        name : str
            Name of the mixture in the message.

        Raises
        ------
        ParameterError
        """
        if self.statistics is None:
            raise ParameterError(
                f"{name} has no statistics to continue from: it was converted, derived or fitted "
                "with max_iter=0; fit it to data"
            )
        return self.statistics
