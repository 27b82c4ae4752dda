"""Mean, variance and extremes of each feature, of rows that come in pieces."""

from dataclasses import dataclass, fields

import numpy as np

from streamgmm.core.structures import Array
from streamgmm.errors import ParameterError


@dataclass(frozen=True, eq=False)
class FeatureMoments:
    """Weight, mean, scatter and extremes of D features; a monoid. NaN stands for no value.

    Attributes
    ----------
    weights : ndarray of shape (D,)
        Summed weight of the values.
    means : ndarray of shape (D,)
        0 for a feature without values.
    scatters : ndarray of shape (D,)
        Σ w (x - mean)².
    smallest, largest : ndarray of shape (D,)
        inf and -inf for a feature without values.

    References
    ----------
    Chan, Golub & LeVeque (1983), Algorithms for computing the sample variance.
    """

    weights: Array
    means: Array
    scatters: Array
    smallest: Array
    largest: Array

    def check(self) -> None:
        """Refuse arrays that are not valid moments; a file may hold such arrays.

        Raises
        ------
        ParameterError
            If a shape is wrong, or a weight or a moment cannot be one.
        """
        shapes = {getattr(self, field.name).shape for field in fields(self)}
        is_sound = shapes == {(self.weights.size,)} and np.isfinite(self.means).all()
        if not (is_sound and np.all(self.weights >= 0.0) and np.all(self.scatters >= 0.0)):
            raise ParameterError("these arrays are no moments of features")

    @classmethod
    def of(cls, columns: Array, weights: Array | None = None) -> "FeatureMoments":
        """Return the moments of some rows.

        Parameters
        ----------
        columns : ndarray of shape (D, n)
            The rows, transposed.
        weights : ndarray of shape (n,), optional
            Positive; 1 if not given.
        """
        row_weights = np.ones(columns.shape[1]) if weights is None else weights
        with np.errstate(invalid="ignore"):
            smallest = columns.min(axis=1, initial=np.inf)
        if np.isnan(smallest).any():
            missing = np.isnan(columns)
            return cls._of_seen(columns, ~missing * row_weights, missing)
        total = float(row_weights.sum())
        means = columns @ row_weights / (total or 1.0)
        deviations = columns - means[:, np.newaxis]
        # Correct the rounding error of the mean. Far from 0 it can exceed the deviations.
        shifts = deviations @ row_weights / (total or 1.0)
        weighted = deviations if weights is None else deviations * row_weights
        scatters = np.einsum("dn,dn->d", weighted, deviations) - total * np.square(shifts)
        return cls(
            np.full(len(columns), total),
            means + shifts,
            np.maximum(scatters, 0.0),
            smallest,
            columns.max(axis=1, initial=-np.inf),
        )

    @classmethod
    def _of_seen(cls, columns: Array, weights: Array, missing: Array) -> "FeatureMoments":
        """Return the moments of columns (D, n) with weights (D, n), 0 where a value is missing."""
        totals = weights.sum(axis=1)
        divisors = np.where(totals > 0.0, totals, 1.0)
        values = np.where(missing, 0.0, columns)
        means = np.einsum("dn,dn->d", weights, values) / divisors
        deviations = np.where(missing, 0.0, columns - means[:, np.newaxis])
        weighted = weights * deviations
        shifts = weighted.sum(axis=1) / divisors
        scatters = np.einsum("dn,dn->d", weighted, deviations) - totals * np.square(shifts)
        return cls(
            totals,
            means + shifts,
            np.maximum(scatters, 0.0),
            np.where(missing, np.inf, columns).min(axis=1),
            np.where(missing, -np.inf, columns).max(axis=1),
        )

    @property
    def variances(self) -> Array:
        """Weighted variances (D,); NaN for a feature without values."""
        seen = self.weights > 0.0
        found: Array = np.where(seen, self.scatters / np.where(seen, self.weights, 1.0), np.nan)
        return found

    def merge(self, other: "FeatureMoments") -> "FeatureMoments":
        """Return the moments of the rows of both operands."""
        totals = self.weights + other.weights
        part = other.weights / np.where(totals > 0.0, totals, 1.0)
        shifts = other.means - self.means
        return FeatureMoments(
            totals,
            self.means + part * shifts,
            self.scatters + other.scatters + self.weights * part * np.square(shifts),
            np.minimum(self.smallest, other.smallest),
            np.maximum(self.largest, other.largest),
        )
