"""Tied spherical covariances: all components have the same variance in all directions."""

from typing import TYPE_CHECKING

import numpy as np

from streamgmm.core.structures.covariance_update import CovarianceUpdate, separate
from streamgmm.core.structures.matrices import Array
from streamgmm.core.structures.scale_structure import own_scales
from streamgmm.core.structures.shared_covariance import PooledScales
from streamgmm.core.structures.spherical import SphericalMoments
from streamgmm.core.structures.structure import Components, Pooling
from streamgmm.options import CovarianceType

if TYPE_CHECKING:
    from streamgmm.core.parameters import Parameters
    from streamgmm.core.statistics import Statistics


class TiedSpherical(PooledScales, SphericalMoments):
    """One variance, of shape (); mclust calls the structure EII.

    References
    ----------
    Celeux & Govaert (1995), Gaussian parsimonious clustering models, model [λI].
    """

    pooling = Pooling(components=True, columns=True)

    def shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        return ()

    def n_parameters(self, n_components: int, n_features: int) -> int:
        return 1

    def stacked(self, stored: Array, n_components: int, n_features: int) -> Array:
        return np.full((n_components, n_features), stored)

    def stored(self, stacked: Array) -> Array:
        found: Array = stacked[0, 0]
        return found

    def pooled_type(self, covariance_type: CovarianceType) -> CovarianceType:
        return "spherical"

    def repeated(self, stored: Array, n_components: int) -> Array:
        return np.full(n_components, stored)

    def pooled(self, parameters: "Parameters") -> tuple[Array, Array]:
        covariance: Array = parameters.weights @ parameters.covariances
        return covariance, np.sqrt(covariance)

    def resolution(self, rounding: Array) -> Array:
        found: Array = rounding.min(keepdims=True)[0]
        return found

    def updates(
        self, statistics: "Statistics", alive: Components, offsets: Array, shifts: Array
    ) -> list[CovarianceUpdate]:
        frame, d = statistics.frame, statistics.frame.n_features
        counts = statistics.counts[alive]
        units = np.square(own_scales(frame, statistics.n_components)[alive, 0])
        raw = statistics.moments[alive, 1 + d]
        moved = np.square(shifts[alive]) - np.square(offsets[alive])
        central = raw + counts * moved.sum(axis=1)
        raw, central = (
            np.atleast_1d((a * units).sum() / (d * counts.sum())) for a in (raw, central)
        )

        def route(_: slice, ridge: Array) -> tuple[Array, Array]:
            return separate(raw, central, np.ones(1), ridge[0])

        return [CovarianceUpdate(np.array([0]), [route])]

    def tangent_scales(self, n_features: int) -> tuple[Array, Array]:
        return np.empty(0), np.full(1, np.sqrt(0.5 / n_features))

    def n_shared(self, n_features: int) -> int:
        return 1

    def add_cluster(
        self,
        covariances: Array,
        k: int,
        weighted: Array,
        deviations: Array,
        count: float,
        unseen: Array,
        total: float,
    ) -> None:
        own = ((weighted * deviations).sum(axis=0) + count * unseen) / total
        covariances += own.mean()
