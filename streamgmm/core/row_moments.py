"""Moments of rows that come in pieces: of each column, and of all columns together.

Both are summed about the mean of each piece, and pieces merge about their common mean. So a mean
that is far larger than the deviations from it costs no digits.
"""

from dataclasses import dataclass

import numpy as np

from streamgmm.core.feature_moments import FeatureMoments
from streamgmm.core.structures import Array


@dataclass(frozen=True, eq=False)
class JointMoments:
    """Weight, mean and scatter of rows that lack no value; a monoid.

    Attributes
    ----------
    n_rows : int
    weight : float
        Sum of the weights of the rows.
    mean : ndarray of shape (D,)
        0 if there are no rows.
    scatter : ndarray of shape (D, D)
        Σ w (x - mean) (x - mean)ᵀ.

    References
    ----------
    Chan, Golub & LeVeque (1983), Algorithms for computing the sample variance.
    """

    n_rows: int
    weight: float
    mean: Array
    scatter: Array

    @classmethod
    def of(cls, columns: Array, weights: Array | None, mean: Array) -> "JointMoments":
        """Return the moments of some rows about their mean.

        Parameters
        ----------
        columns : ndarray of shape (D, n)
            The rows, transposed.
        weights : ndarray of shape (n,), or None
            1 if not given.
        mean : ndarray of shape (D,)
            Mean of the rows.
        """
        deviations = columns - mean[:, np.newaxis]
        weighted = deviations if weights is None else deviations * weights
        n = columns.shape[1]
        weight = float(n) if weights is None else float(weights.sum())
        return cls(n, weight, mean, weighted @ deviations.T)

    def merge(self, other: "JointMoments") -> "JointMoments":
        """Return the moments of the rows of both operands."""
        weight = self.weight + other.weight
        part = other.weight / weight if weight > 0.0 else 0.0
        shift = other.mean - self.mean
        return JointMoments(
            self.n_rows + other.n_rows,
            weight,
            self.mean + part * shift,
            self.scatter + other.scatter + (self.weight * part) * np.outer(shift, shift),
        )

    def mapped(self, shift: Array, matrix: Array) -> "JointMoments":
        """Return the moments of the rows (x - shift) matrix, for a matrix (D, R)."""
        scatter = matrix.T @ self.scatter @ matrix
        return JointMoments(
            self.n_rows, self.weight, (self.mean - shift) @ matrix, 0.5 * (scatter + scatter.T)
        )

    @property
    def columns(self) -> FeatureMoments:
        """The moments of each column; extremes are not known, and are NaN."""
        unknown = np.full(len(self.mean), np.nan)
        return FeatureMoments(
            np.full(len(self.mean), self.weight),
            self.mean,
            np.maximum(np.diagonal(self.scatter), 0.0),
            unknown,
            unknown,
        )


@dataclass(frozen=True, eq=False)
class RowMoments:
    """Moments of each column, of all its values, and of rows that lack no value; a monoid.

    Attributes
    ----------
    columns : FeatureMoments
    joint : JointMoments or None
        None if they were not asked for.
    """

    columns: FeatureMoments
    joint: JointMoments | None

    @classmethod
    def of(cls, columns: Array, weights: Array | None, is_joint: bool) -> "RowMoments":
        """Return the moments of some rows.

        Parameters
        ----------
        columns : ndarray of shape (D, n)
            The rows, transposed; NaN stands for no value.
        weights : ndarray of shape (n,), or None
            1 if not given.
        is_joint : bool
            Whether moments of all columns together are asked for.
        """
        own = FeatureMoments.of(columns, weights)
        if not is_joint:
            return cls(own, None)
        # A sum is NaN if a value is, and is faster than a test of each value.
        if not np.isnan(columns.sum()):
            return cls(own, JointMoments.of(columns, weights, own.means))
        complete = ~np.isnan(columns).any(axis=0)
        chosen = columns[:, complete]
        chosen_weights = None if weights is None else weights[complete]
        mean = FeatureMoments.of(chosen, chosen_weights).means
        return cls(own, JointMoments.of(chosen, chosen_weights, mean))

    def merge(self, other: "RowMoments") -> "RowMoments":
        """Return the moments of the rows of both operands."""
        joint = None
        if self.joint is not None and other.joint is not None:
            joint = self.joint.merge(other.joint)
        return RowMoments(self.columns.merge(other.columns), joint)
