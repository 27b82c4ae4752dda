"""The objective of a fit; data complete the settings that depend on them."""

from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from streamgmm.core.data_moments import DataMoments
from streamgmm.core.objective import Objective
from streamgmm.core.objective import Prior as MixturePrior
from streamgmm.core.parameters import Fixed
from streamgmm.core.priors import PriorSetting, completed_prior
from streamgmm.core.ridge import FitRidge
from streamgmm.core.structures import Array


@dataclass(eq=False)
class FitObjective:
    """The objective of a fit; rows complete the ridge and the prior where these depend on data.

    Attributes
    ----------
    ridge : FitRidge
    fixed : collection of {"weights", "means", "covariances"}, or mapping of these to masks
    prior : None, str, Prior or an object with ``pseudo_rows``
    """

    ridge: FitRidge
    fixed: Fixed = frozenset()
    prior: PriorSetting = None
    _completed: MixturePrior | None = field(default=None, init=False)

    @property
    def lacks_prior(self) -> bool:
        """Whether the prior still waits for rows."""
        return self.prior is not None and self._completed is None

    @property
    def known(self) -> Objective:
        """The objective; all its parts must have been given or found."""
        if self.lacks_prior:
            raise RuntimeError("the prior is used before rows were sampled")
        return Objective(self.ridge.known, self.fixed, self._completed)

    def complete_prior(self, rows: NDArray[Any], weights: Array) -> None:
        """Compute from rows the moments that the prior needs.

        Parameters
        ----------
        rows : ndarray of shape (m, D)
            NaN where a value is missing.
        weights : ndarray of shape (m,)
            Positive.
        """
        if self.lacks_prior:
            moments = DataMoments.of(rows, weights, self.ridge.covariance_type)
            self._completed = completed_prior(self.prior, moments)

    def settle(self, rows: NDArray[Any], weights: Array) -> Objective:
        """Return the objective; rows determine the parts that are not known yet.

        The parameters are those of :meth:`complete_prior`.
        """
        self.ridge.settle(rows, weights)
        self.complete_prior(rows, weights)
        return self.known
