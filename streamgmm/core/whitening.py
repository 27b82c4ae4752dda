"""Moments in the coordinates of each component: whitened, about its mean.

In these coordinates a component that fits its rows has mean 0 and covariance I for every scale, so
moments of different components are comparable.
"""

from dataclasses import dataclass, replace

import numpy as np

from streamgmm.core.frame import Frame
from streamgmm.core.parameters import Parameters
from streamgmm.core.statistics import Statistics
from streamgmm.core.structures import STRUCTURES, Array, CovarianceStructure


@dataclass(frozen=True, eq=False)
class Whitening:
    """The map from whitened residuals y = L⁻¹ (x - μ) to coordinates u of a frame: u = a + T y.

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
        """Return the whitening by the components of a mixture."""
        return cls(frame, frame.coordinates(parameters.means), frame.relative_factors(parameters))

    def of_statistics(self, statistics: Statistics) -> tuple[Array, Array]:
        """Return moments and scatter of y from statistics in the frame; undo :meth:`in_frame`.

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
        found[:, 1 : 1 + d] = self._structure.solved(t, shifted)
        found[:, 1 + d :], scatter = self._structure.whitened_moments(
            t, a, counts, shifted, raw, statistics.scatter
        )
        return found, scatter

    def in_frame(self, moments: Array, scatter: Array) -> Statistics:
        """Return the statistics from moments of y.

        Parameters
        ----------
        moments : ndarray of shape (K, M)
            Moments of y, in the order of :class:`Statistics`.
        scatter : ndarray of shape (D, D), or (0, 0)
            Tied: Σ_k Σγyyᵀ.

        Returns
        -------
        Statistics
            Statistics without log-likelihood and counts of rows.
        """
        a, t, d = self.places, self.factors, self.frame.n_features
        counts, first, own = moments[:, :1], moments[:, 1 : 1 + d], moments[:, 1 + d :]
        found = Statistics.zero(self.frame, len(moments))
        moved = self._structure.product(t, first)
        found.moments[:, :1] = counts
        found.moments[:, 1 : 1 + d] = counts * a + moved
        found.moments[:, 1 + d :], found.scatter[:] = self._structure.framed_moments(
            t, a, counts, moved, own, scatter
        )
        return found

    def standard(self, counts: Array) -> Statistics:
        """Return the expected statistics of counts (K,) of rows from each component."""
        d = self.frame.n_features
        moments = np.zeros_like(Statistics.zero(self.frame, len(counts)).moments)
        moments[:, 0] = counts
        second, scatter = self._structure.unit_moments(d)
        moments[:, 1 + d :] = counts[:, np.newaxis] * second
        return self.in_frame(moments, counts.sum() * scatter)

    @property
    def _structure(self) -> CovarianceStructure:
        return STRUCTURES[self.frame.covariance_type]


def expected(parameters: Parameters, frame: Frame, counts: Array) -> Statistics:
    """Return the expected statistics of counts (K,) of rows from each component of a mixture."""
    moments = parameters.structure.expected_moments(parameters, frame, counts)
    if moments is None:
        return Whitening.of(parameters, frame).standard(counts)
    return replace(Statistics.zero(frame, len(counts)), moments=moments)


def carried(statistics: Statistics, parameters: Parameters, frame: Frame) -> Statistics:
    """Return the same statistics in the coordinates of another frame.

    Covariances of low rank have moments along few directions, which depend on the frame: along
    other directions, moments are those that the known ones determine, if the rest is noise.

    Parameters
    ----------
    statistics : Statistics
    parameters : Parameters
        A mixture close to the M-step of the statistics. Moments are converted through residuals
        from this mixture, which are small numbers for every component.
    frame : Frame
        A frame of the same covariance type.
    """
    carried_moments = STRUCTURES[frame.covariance_type].carried_moments(statistics, frame)
    if carried_moments is not None:
        return replace(statistics, frame=frame, moments=carried_moments)
    moments, scatter = Whitening.of(parameters, statistics.frame).of_statistics(statistics)
    found = Whitening.of(parameters, frame).in_frame(moments, scatter)
    return replace(statistics, frame=frame, moments=found.moments, scatter=found.scatter)
