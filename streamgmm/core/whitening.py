"""Moments in the coordinates of each component: whitened, about its mean.

There a component that fits its rows has mean 0 and covariance I, whatever its own scale, and the
numbers of different components compare.
"""

from dataclasses import dataclass

import numpy as np

from streamgmm.core.covariance import Array, symmetric, upper_triangle
from streamgmm.core.frame import Frame
from streamgmm.core.parameters import Parameters
from streamgmm.core.statistics import Statistics


@dataclass(frozen=True, eq=False)
class Whitening:
    """How coordinates u of a frame follow from whitened residuals y = L⁻¹ (x - μ): u = a + T y.

    Attributes
    ----------
    frame : Frame
    places : ndarray of shape (K, D)
        a, the means in the coordinates of the frame.
    factors : ndarray, stacked (K or 1, D, D) or (K, D)
        T, the covariances' factors in these coordinates.
    """

    frame: Frame
    places: Array
    factors: Array

    @classmethod
    def of(cls, parameters: Parameters, frame: Frame) -> "Whitening":
        """That of a mixture's components."""
        return cls(frame, frame.coordinates(parameters.means), frame.relative_factors(parameters))

    def in_frame(self, moments: Array, scatter: Array) -> Statistics:
        """Statistics from moments of y.

        Parameters
        ----------
        moments : ndarray of shape (K, M)
            Of y; otherwise as those of :class:`Statistics`.
        scatter : ndarray of shape (D, D), or (0, 0)
            Tied: Σ_k Σγyyᵀ.

        Returns
        -------
        Statistics
            Without log-likelihood and counts of rows.
        """
        a, t, d = self.places, self.factors, self.frame.n_features
        counts, first, own = moments[:, :1], moments[:, 1 : 1 + d], moments[:, 1 + d :]
        found = Statistics.zero(self.frame, len(moments))
        moved = (t @ first[:, :, np.newaxis])[:, :, 0] if t.ndim == 3 else t * first
        found.moments[:, :1] = counts
        found.moments[:, 1 : 1 + d] = counts * a + moved
        second = found.moments[:, 1 + d :]
        if self.frame.covariance_type == "full":
            rows, columns = upper_triangle(d)
            matrices = t @ symmetric(own, d) @ np.swapaxes(t, 1, 2) + _about(counts, a, moved)
            second[:] = matrices[:, rows, columns]
        elif self.frame.covariance_type == "tied":
            found.scatter[:] = t[0] @ scatter @ t[0].T + _about(counts, a, moved).sum(axis=0)
        elif self.frame.covariance_type == "diag":
            second[:] = counts * a**2 + 2.0 * a * moved + t**2 * own
        else:
            along = (counts * a**2 + 2.0 * a * moved).sum(axis=1, keepdims=True)
            second[:] = along + t[:, :1] ** 2 * own
        return found


def _about(counts: Array, a: Array, moved: Array) -> Array:
    """N a aᵀ + a bᵀ + b aᵀ (k, D, D) for the sums b of what is added to a."""
    half = 0.5 * counts * a + moved
    product = a[:, :, np.newaxis] * half[:, np.newaxis, :]
    return product + np.swapaxes(product, 1, 2)
