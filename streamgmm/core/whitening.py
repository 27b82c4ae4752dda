"""Moments in the coordinates of each component: whitened, about its mean.

There a component that fits its rows has mean 0 and covariance I, whatever its own scale, and the
numbers of different components compare.
"""

from dataclasses import dataclass, replace

import numpy as np

from streamgmm.core.covariance import Array, blocks, solve, symmetric, upper_triangle
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

    def of_statistics(self, statistics: Statistics) -> tuple[Array, Array]:
        """Moments and scatter of y from statistics in the frame; the inverse of :meth:`in_frame`.

        Returns
        -------
        moments : ndarray of shape (K, M)
        scatter : ndarray of shape (D, D), or (0, 0)
        """
        a, t, d = self.places, self.factors, self.frame.n_features
        counts, first = statistics.counts[:, np.newaxis], statistics.moments[:, 1 : 1 + d]
        raw = statistics.moments[:, 1 + d :]
        shifted = first - counts * a
        found = np.empty_like(statistics.moments)
        found[:, :1] = counts
        if t.ndim == 3:
            found[:, 1 : 1 + d] = solve(t, shifted[:, :, np.newaxis])[:, :, 0]
        else:
            found[:, 1 : 1 + d] = shifted / t
        second = found[:, 1 + d :]
        scatter = np.empty((0, 0))
        if self.frame.covariance_type == "full":
            rows, columns = upper_triangle(d)
            for block in blocks(len(raw), d):
                about = _about(counts[block], a[block], shifted[block])
                matrices = symmetric(raw[block], d) - about
                second[block] = _unscaled(t[block], matrices)[:, rows, columns]
        elif self.frame.covariance_type == "tied":
            matrices = statistics.scatter - _about_together(counts, a, shifted)
            scatter = _unscaled(t, matrices[np.newaxis])[0]
        elif self.frame.covariance_type == "diag":
            second[:] = (raw - counts * a**2 - 2.0 * a * shifted) / t**2
        else:
            along = (counts * a**2 + 2.0 * a * shifted).sum(axis=1, keepdims=True)
            second[:] = (raw - along) / t[:, :1] ** 2
        return found, scatter

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
            for block in blocks(len(own), d):
                widened = t[block] @ symmetric(own[block], d) @ np.swapaxes(t[block], 1, 2)
                matrices = widened + _about(counts[block], a[block], moved[block])
                second[block] = matrices[:, rows, columns]
        elif self.frame.covariance_type == "tied":
            found.scatter[:] = t[0] @ scatter @ t[0].T + _about_together(counts, a, moved)
        elif self.frame.covariance_type == "diag":
            second[:] = counts * a**2 + 2.0 * a * moved + t**2 * own
        else:
            along = (counts * a**2 + 2.0 * a * moved).sum(axis=1, keepdims=True)
            second[:] = along + t[:, :1] ** 2 * own
        return found

    def standard(self, counts: Array) -> Statistics:
        """Statistics of so many rows (K,) of each component, distributed just as it says."""
        d = self.frame.n_features
        moments = np.zeros_like(Statistics.zero(self.frame, len(counts)).moments)
        moments[:, 0] = counts
        scatter = np.empty((0, 0))
        if self.frame.covariance_type == "full":
            rows, columns = upper_triangle(d)
            moments[:, 1 + d :][:, rows == columns] = counts[:, np.newaxis]
        elif self.frame.covariance_type == "tied":
            scatter = counts.sum() * np.eye(d)
        elif self.frame.covariance_type == "diag":
            moments[:, 1 + d :] = counts[:, np.newaxis]
        else:
            moments[:, 1 + d] = d * counts
        return self.in_frame(moments, scatter)


def _about(counts: Array, a: Array, moved: Array) -> Array:
    """N a aᵀ + a bᵀ + b aᵀ (k, D, D) for the sums b of what is added to a."""
    half = 0.5 * counts * a + moved
    product = a[:, :, np.newaxis] * half[:, np.newaxis, :]
    return product + np.swapaxes(product, 1, 2)


def _about_together(counts: Array, a: Array, moved: Array) -> Array:
    """Sum these matrices over the components, (D, D), in their order."""
    first, *others = blocks(*a.shape)
    found: Array = _about(counts[first], a[first], moved[first]).sum(axis=0)
    for block in others:
        more = _about(counts[block], a[block], moved[block])
        found = np.concatenate([found[np.newaxis], more]).sum(axis=0)
    return found


def _unscaled(t: Array, matrices: Array) -> Array:
    """T⁻¹ A T⁻ᵀ of symmetric matrices A (k, D, D)."""
    half = solve(t, matrices)
    return solve(t, np.swapaxes(half, 1, 2))


def carried(statistics: Statistics, parameters: Parameters, frame: Frame) -> Statistics:
    """The same statistics in the coordinates of another frame.

    Parameters
    ----------
    statistics : Statistics
    parameters : Parameters
        Close to what the statistics say: moments go over by way of residuals from it, in which
        those of every component are small numbers.
    frame : Frame
        Of the same covariance type.
    """
    moments, scatter = Whitening.of(parameters, statistics.frame).of_statistics(statistics)
    found = Whitening.of(parameters, frame).in_frame(moments, scatter)
    return replace(statistics, frame=frame, moments=found.moments, scatter=found.scatter)
