"""Tied diagonal covariances: all components have the same variance for each feature."""

from typing import TYPE_CHECKING

import numpy as np

from streamgmm.core.structures.covariance_update import CovarianceUpdate, separate
from streamgmm.core.structures.diag import DiagonalMoments
from streamgmm.core.structures.matrices import Array
from streamgmm.core.structures.scale_structure import own_scales
from streamgmm.core.structures.shared_covariance import PooledScales
from streamgmm.core.structures.structure import Components, Pooling
from streamgmm.options import CovarianceType

if TYPE_CHECKING:
    from streamgmm.core.parameters import Parameters
    from streamgmm.core.statistics import Statistics


class TiedDiag(PooledScales, DiagonalMoments):
    """One diagonal (D,); mclust calls the structure EEI.

    References
    ----------
    Celeux & Govaert (1995), Gaussian parsimonious clustering models, model [λB].
    """

    pooling = Pooling(components=True, columns=False)

    def shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        return (n_features,)

    def n_parameters(self, n_components: int, n_features: int) -> int:
        return n_features

    def stacked(self, stored: Array, n_components: int, n_features: int) -> Array:
        return np.repeat(stored[np.newaxis], n_components, axis=0)

    def stored(self, stacked: Array) -> Array:
        found: Array = stacked[0]
        return found

    def pooled_type(self, covariance_type: CovarianceType) -> CovarianceType:
        return "diag"

    def repeated(self, stored: Array, n_components: int) -> Array:
        return self.stacked(stored, n_components, stored.size)

    def pooled(self, parameters: "Parameters") -> tuple[Array, Array]:
        covariances: Array = parameters.weights @ parameters.covariances
        return covariances, np.sqrt(covariances)

    def updates(
        self, statistics: "Statistics", alive: Components, offsets: Array, shifts: Array
    ) -> list[CovarianceUpdate]:
        frame, d = statistics.frame, statistics.frame.n_features
        counts = statistics.counts[alive, np.newaxis]
        units = np.square(own_scales(frame, statistics.n_components)[alive])
        raw = statistics.moments[alive, 1 + d :]
        central = raw - counts * (np.square(offsets[alive]) - np.square(shifts[alive]))
        raw, central = ((a * units).sum(axis=0) / counts.sum() for a in (raw, central))

        def route(_: slice, ridge: Array) -> tuple[Array, Array]:
            return separate(raw, central, np.ones(d), ridge)

        return [CovarianceUpdate(np.array([0]), [route])]

    def tangent_scales(self, n_features: int) -> tuple[Array, Array]:
        return np.empty(0), np.full(n_features, np.sqrt(0.5))

    def n_shared(self, n_features: int) -> int:
        return n_features

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
        covariances += ((weighted * deviations).sum(axis=0) + count * unseen) / total
