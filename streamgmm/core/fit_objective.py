"""The objective of a fit; data complete the settings that depend on them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from streamgmm.core.data_moments import DataMoments
from streamgmm.core.noise import Noise
from streamgmm.core.objective import Objective
from streamgmm.core.objective import Prior as MixturePrior
from streamgmm.core.parameters import Fixed
from streamgmm.core.priors import PriorSetting, completed_prior
from streamgmm.core.ridge import FitRidge
from streamgmm.core.structures import Array


@dataclass(eq=False)
class FitObjective:
    """The objective of a fit; rows complete the ridge, the prior and the noise.

    Attributes
    ----------
    ridge : FitRidge
    fixed : collection of {"weights", "means", "covariances"}, or mapping of these to masks
    prior : None, str, Prior or an object with ``pseudo_rows``
    noise : Noise or None
        The noise that the fit begins with; its box may wait for rows.
    names : sequence of str, optional
        Names of the columns, for messages.
    """

    ridge: FitRidge
    fixed: Fixed = frozenset()
    prior: PriorSetting = None
    noise: Noise | None = None
    names: Sequence[str] | None = None
    _completed: MixturePrior | None = field(default=None, init=False)

    @property
    def lacks_rows(self) -> bool:
        """Whether the prior or the noise still waits for rows."""
        return self._lacks_prior or self.lacks_noise

    @property
    def _lacks_prior(self) -> bool:
        return self.prior is not None and self._completed is None

    @property
    def lacks_noise(self) -> bool:
        """Whether the box of the noise still waits for rows."""
        return self.noise is not None and not self.noise.is_known

    @property
    def known(self) -> Objective:
        """The objective; all its parts must have been given or found."""
        if self.lacks_rows:
            raise RuntimeError("the prior or the noise is used before rows were sampled")
        return Objective(self.ridge.known, self.fixed, self._completed, self.noise)

    def complete(self, rows: NDArray[Any], weights: Array) -> None:
        """Find in rows the moments that the prior needs, and the box of the noise.

        Parameters
        ----------
        rows : ndarray of shape (m, D)
            NaN where a value is missing.
        weights : ndarray of shape (m,)
            Positive.

        Raises
        ------
        DataError
            If a column has no width for the box of the noise.
        """
        if self._lacks_prior:
            moments = DataMoments.of(rows, weights, self.ridge.covariance_type)
            self._completed = completed_prior(self.prior, moments)
        if self.lacks_noise:
            self.noise = Noise.among(rows, weights, self.names)

    def settle(self, rows: NDArray[Any], weights: Array) -> Objective:
        """Return the objective; rows determine the parts that are not known yet.

        The parameters and errors are those of :meth:`complete`.
        """
        self.ridge.settle(rows, weights)
        self.complete(rows, weights)
        return self.known
