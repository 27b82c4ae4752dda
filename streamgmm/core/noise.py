"""Noise: a component of a mixture whose density is constant.

The density is that of a uniform distribution in a box with sides along the columns. It holds
outside of the box, too, so no row is impossible, but the mixture is no density over all of space.
For a row with missing values it is the uniform density of the observed values.

References
----------
Banfield & Raftery (1993), Model-based Gaussian and non-Gaussian clustering.
Coretto & Hennig (2016), Robust improper maximum likelihood.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamgmm.core.structures.matrices import Array
from streamgmm.errors import DataError, ParameterError
from streamgmm.options import NoiseName

#: The setting of estimators: no noise, a box to be found among the rows, or the log density.
NoiseSetting = NoiseName | float | None

# The weight that the noise begins with.
_FIRST_WEIGHT = 0.05
# Part of the rows beyond each side of the box; the outermost row is always beyond.
_BEYOND = 0.001
#: The box of noise of which only the density is known.
NO_BOX = np.empty((2, 0))


@dataclass(frozen=True, eq=False)
class Noise:
    """The noise component of a mixture.

    Attributes
    ----------
    weight : float
        Its part of the rows, π_0.
    log_density : float
        The logarithm of its density, -ln V with the volume V of the box; NaN as long as the box is
        not known.
    box : ndarray of shape (2, D), or (2, 0)
        Lower and upper limits of each column; none if only the density is known.
    """

    weight: float
    log_density: float
    box: Array

    @classmethod
    def begun(cls, setting: NoiseSetting) -> "Noise | None":
        """Return the noise that a fit begins with; of "uniform" the box is yet to be found."""
        if setting is None:
            return None
        density = math.nan if isinstance(setting, str) else float(setting)
        return cls(_FIRST_WEIGHT, density, NO_BOX)

    @classmethod
    def in_box(cls, weight: float, box: Array) -> "Noise":
        """Return noise that is uniform in a box."""
        return cls(weight, -float(np.log(box[1] - box[0]).sum()), box)

    @classmethod
    def among(cls, rows: NDArray[Any], weights: Array, names: Sequence[str] | None) -> "Noise":
        """Return the noise that a fit begins with, in the box of sampled rows.

        The limits of each column are its quantiles 0.001 and 0.999 among the rows; the outermost
        row at each side is always excluded.

        Parameters
        ----------
        rows : ndarray of shape (m, D)
            NaN where a value is missing.
        weights : ndarray of shape (m,)
            Positive.
        names : sequence of str, optional
            Names of the columns, for messages.

        Raises
        ------
        DataError
            If the values of a column are equal but for few rows.
        """
        box = np.array([_limits(rows[:, j], weights) for j in range(rows.shape[1])]).T
        flat = np.flatnonzero(~(box[1] > box[0]))
        if flat.size:
            columns: Sequence[Any] = range(rows.shape[1]) if names is None else names
            raise DataError(
                f"column(s) {', '.join(str(columns[j]) for j in flat.tolist())} have one value in "
                "nearly all rows, so uniform noise has no volume; exclude them, or give the log "
                "density of the noise as a number: noise=-10.0"
            )
        return cls.in_box(_FIRST_WEIGHT, box)

    @property
    def setting(self) -> NoiseSetting:
        """The setting of an estimator that gives such noise."""
        return "uniform" if self.has_box else self.log_density

    @property
    def is_known(self) -> bool:
        """Whether the density is known."""
        return not math.isnan(self.log_density)

    @property
    def has_box(self) -> bool:
        """Whether the box is known, and not only its volume."""
        return bool(self.box.shape[1] > 0)

    @property
    def log_joint(self) -> float:
        """ln(π_0 / V); -inf without weight."""
        return math.log(self.weight) + self.log_density if self.weight > 0.0 else -math.inf

    @property
    def log_ranges(self) -> Array:
        """Logarithms (D,) of the widths of the box."""
        found: Array = np.log(self.box[1] - self.box[0])
        return found

    @property
    def centre(self) -> Array:
        """Centre (D,) of the box, the mean of the noise."""
        found: Array = self.box.mean(axis=0)
        return found

    def of_weight(self, weight: float) -> "Noise":
        """Return the same noise with another weight."""
        return replace(self, weight=weight)

    def of_features(self, features: NDArray[np.intp]) -> "Noise":
        """Return the noise of some columns, whatever the others are.

        Raises
        ------
        ParameterError
            If only the density is known.
        """
        self.require_box("has no distribution of some columns")
        return Noise.in_box(self.weight, self.box[:, features])

    def require_box(self, consequence: str) -> None:
        """Refuse noise of which only the density is known.

        Parameters
        ----------
        consequence : str
            What is impossible, for the message.

        Raises
        ------
        ParameterError
        """
        if not self.has_box:
            raise ParameterError(
                f"noise={self.log_density:g} is a density without a box, and {consequence}; fit "
                "with noise='uniform'"
            )

    def check(self) -> None:
        """Refuse values that are no noise; a file may hold such values.

        Raises
        ------
        ParameterError
        """
        if not 0.0 <= self.weight < 1.0 or not math.isfinite(self.log_density):
            raise ParameterError(
                f"the noise has weight {self.weight!r} and log density {self.log_density!r}"
            )
        if self.box.ndim != 2 or len(self.box) != 2 or not np.all(np.isfinite(self.box)):
            raise ParameterError("the box of the noise has no lower and upper limits")
        if not np.all(self.box[1] > self.box[0]):
            raise ParameterError("the box of the noise is empty")


def check_noise(setting: Any) -> None:
    """Refuse a setting that is no noise.

    Raises
    ------
    ParameterError
        If it is another text, or no finite number.
    """
    is_number = isinstance(setting, Real) and not isinstance(setting, bool)
    if setting not in (None, "uniform") and not (is_number and math.isfinite(setting)):
        raise ParameterError(
            f"noise is {setting!r}; give 'uniform', None, or a finite number, the log density of "
            "the noise"
        )


def _limits(column: NDArray[Any], weights: Array) -> tuple[float, float]:
    """Return the limits of a column of the box."""
    has_value = ~np.isnan(column)
    values, weights = column[has_value].astype(np.float64), weights[has_value]
    if values.size < 3:
        return 0.0, 0.0
    order = np.argsort(values, kind="stable")
    values, ends = values[order], np.cumsum(weights[order])
    last = values.size - 1
    beyond = _BEYOND * ends[-1]
    low = int(np.searchsorted(ends, beyond, side="right"))
    high = int(np.searchsorted(ends, ends[-1] - beyond, side="left"))
    low, high = min(max(low, 1), last - 1), max(min(high, last - 1), 1)
    return float(values[low]), float(values[high])
