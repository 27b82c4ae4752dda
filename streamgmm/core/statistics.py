"""Sufficient statistics of a mixture, for one chunk or for many chunks together.

Statistics form a commutative monoid: statistics of disjoint rows in one frame add. They are the
unit that is sent, saved and summed.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from streamgmm.core.frame import Frame
from streamgmm.core.parameters import require_values
from streamgmm.core.structures import STRUCTURES, Array
from streamgmm.errors import ParameterError
from streamgmm.options import CovarianceType

#: Fields of statistics that count rows, or pairs of row and component.
COUNTS = (
    "n_rows",
    "n_overflowing",
    "n_not_finite",
    "n_passed_over",
    "n_screened",
    "n_single",
    "n_missing",
    "n_weightless",
)

#: Fields of statistics that are numbers.
SCALARS = ("log_likelihood", "weight", "conditional_entropy", *COUNTS)

# Part of all rows by which the count of a component may be below 0.
_ROUNDING = 1e-6


def sum_shapes(
    covariance_type: CovarianceType, n_components: int, n_features: int
) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the arrays of sums of statistics, by name."""
    structure = STRUCTURES[covariance_type]
    n_lines = structure.n_scatter(n_features)
    moments = n_components, structure.n_moments(n_features)
    return {"moments": moments, "scatter": (n_lines, n_lines)}


@dataclass(frozen=True, eq=False)
class Statistics:
    """Responsibility-weighted moments of rows, in the coordinates u of a frame.

    Attributes
    ----------
    frame : Frame
    moments : ndarray of shape (K, M)
        For each component N_k = Σγ, Σγu (D), then M - 1 - D second moments of the structure.
    scatter : ndarray of shape (D, D), or (0, 0)
        Σ_k Σγuuᵀ, for structures that need no other second moments.
    log_likelihood : float
        Σ w ln p(x), nats.
    weight : float
        Σ w over the rows that are included.
    n_rows : int
        Rows that are included.
    n_overflowing : int
        Rows skipped because their squares overflow.
    n_not_finite : int
        Rows skipped because they hold NaN or infinity.
    n_passed_over : int
        Pairs of row and component that were not summed, because the responsibility is negligible.
    n_screened : int
        Pairs that float32 showed to be negligible.
    n_single : int
        Pairs whose density was computed in float32.
    n_missing : int
        Rows among ``n_not_finite`` that hold no infinity.
    n_weightless : int
        Rows among ``n_rows`` of weight 0.
    conditional_entropy : float
        Σ w Σ_k γ h_k, nats: h_k is the entropy of the missing values of a row in component k, given
        its observed values.
    """

    frame: Frame
    moments: Array
    scatter: Array
    log_likelihood: float = 0.0
    weight: float = 0.0
    n_rows: int = 0
    n_overflowing: int = 0
    n_not_finite: int = 0
    n_passed_over: int = 0
    n_screened: int = 0
    n_single: int = 0
    n_missing: int = 0
    n_weightless: int = 0
    conditional_entropy: float = 0.0

    @classmethod
    def zero(cls, frame: Frame, n_components: int) -> "Statistics":
        """Return the statistics of no rows: the neutral element of :meth:`merge`."""
        shapes = sum_shapes(frame.covariance_type, n_components, frame.n_features)
        return cls(frame, np.zeros(shapes["moments"]), np.zeros(shapes["scatter"]))

    @property
    def n_components(self) -> int:
        """K."""
        return len(self.moments)

    def reordered(self, order: NDArray[np.intp]) -> "Statistics":
        """Return the statistics of the same mixture with its components in another order."""
        return replace(self, frame=self.frame.reordered(order), moments=self.moments[order])

    def check(self) -> None:
        """Refuse values that are not valid statistics; a file may hold such values.

        Raises
        ------
        ParameterError
            If a shape or a type is wrong, a sum is not finite, or a count is negative.
        """
        frame = self.frame
        frame.check_for(self.n_components)
        shapes = sum_shapes(frame.covariance_type, self.n_components, frame.n_features)
        for name, shape in shapes.items():
            require_values(name, getattr(self, name), shape)
        sums = [self.log_likelihood, self.conditional_entropy, self.weight]
        numbers = [*sums, *(getattr(self, name) for name in COUNTS)]
        if not all(type(number) in (int, float) and math.isfinite(number) for number in numbers):
            raise ParameterError(f"not all counts and sums are finite numbers: {numbers}")
        # Differences of statistics leave rounding errors.
        fewest = -_ROUNDING * self.weight
        if self.weight < 0.0 or min(numbers[3:]) < 0 or np.any(self.counts < fewest):
            raise ParameterError("statistics have a negative count or weight")

    @property
    def counts(self) -> Array:
        """N_k, (K,)."""
        return self.moments[:, 0]

    @property
    def mean_log_likelihood(self) -> float:
        """Nats per row (a unit of weight)."""
        return self.log_likelihood / self.weight if self.weight > 0.0 else -np.inf

    def merge(self, other: "Statistics") -> "Statistics":
        """Return the statistics of the rows of both operands.

        Raises
        ------
        ValueError
            If the frames differ.
        """
        self._refuse_other_frame(other)
        # All fields are written out, because a stream merges often: a loop over names would take as
        # long as a small E-step.
        return Statistics(
            self.frame,
            self.moments + other.moments,
            self.scatter + other.scatter,
            self.log_likelihood + other.log_likelihood,
            self.weight + other.weight,
            self.n_rows + other.n_rows,
            self.n_overflowing + other.n_overflowing,
            self.n_not_finite + other.n_not_finite,
            self.n_passed_over + other.n_passed_over,
            self.n_screened + other.n_screened,
            self.n_single + other.n_single,
            self.n_missing + other.n_missing,
            self.n_weightless + other.n_weightless,
            self.conditional_entropy + other.conditional_entropy,
        )

    def subtract(self, other: "Statistics") -> "Statistics":
        """Return the statistics of the rows of this operand that are not in the other one.

        Raises
        ------
        ValueError
            If the frames differ.
        """
        self._refuse_other_frame(other)
        sums = ("moments", "scatter", *SCALARS)
        return replace(self, **{name: getattr(self, name) - getattr(other, name) for name in sums})

    def scale(self, factor: float) -> "Statistics":
        """Return the statistics of the same rows with all weights multiplied by a factor."""
        return replace(
            self,
            moments=self.moments * factor,
            scatter=self.scatter * factor,
            log_likelihood=self.log_likelihood * factor,
            weight=self.weight * factor,
            conditional_entropy=self.conditional_entropy * factor,
        )

    def _refuse_other_frame(self, other: "Statistics") -> None:
        if not self.frame.is_same_as(other.frame):
            raise ValueError("statistics in different frames cannot be combined")
