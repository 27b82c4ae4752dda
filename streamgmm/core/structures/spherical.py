"""Spherical covariances: each component has one variance."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from streamgmm.core.kernels.kinds import SPHERICAL
from streamgmm.core.structures.covariance_update import CovarianceUpdate, separate
from streamgmm.core.structures.matrices import Array
from streamgmm.core.structures.own_covariances import OwnCovariances
from streamgmm.core.structures.scale_structure import ScaleStructure, own_scales
from streamgmm.core.structures.structure import Components, Pooling, Single

if TYPE_CHECKING:
    from streamgmm.core.parameters import Parameters
    from streamgmm.core.statistics import Statistics


class SphericalMoments(ScaleStructure):
    """Second moments are the traces of Σγuuᵀ, (K, 1). Columns share one unit."""

    code = SPHERICAL
    sklearn_type = "spherical"

    def n_moments(self, n_features: int) -> int:
        return 2 + n_features

    def features(self, n_features: int) -> NDArray[np.int64]:
        coordinates = np.arange(2 + n_features)
        return np.stack([np.zeros_like(coordinates), coordinates], axis=1)

    def frame_scale(self, scale: Array) -> Array:
        return np.full_like(scale, np.median(scale))

    def joint_variances(self, variances: Array) -> Array:
        return np.full_like(variances, variances.mean())

    def shared_ridge(self, ridge: Array) -> Array:
        return np.full_like(ridge, ridge.min())

    def whitened_moments(
        self,
        factors: Array,
        means: Array,
        counts: Array,
        shifted: Array,
        raw: Array,
        scatter: Array,
    ) -> tuple[Array, Array]:
        along = (counts * means**2 + 2.0 * means * shifted).sum(axis=1, keepdims=True)
        return (raw - along) / factors[:, :1] ** 2, np.empty((0, 0))

    def framed_moments(
        self, factors: Array, means: Array, counts: Array, moved: Array, own: Array, scatter: Array
    ) -> tuple[Array, Array]:
        along = (counts * means**2 + 2.0 * means * moved).sum(axis=1, keepdims=True)
        return along + factors[:, :1] ** 2 * own, np.empty((0, 0))

    def as_moments(self, stacked: Array, n_components: int) -> tuple[Array, Array]:
        return stacked.sum(axis=1, keepdims=True), np.empty((0, 0))

    def unit_moments(self, n_features: int) -> tuple[Array, Array]:
        return np.full(1, float(n_features)), np.empty((0, 0))

    def ridge_moments(self, stacked_inverse: Array, ridge: float | Array) -> tuple[Array, Array]:
        return self.as_moments(ridge * stacked_inverse**2, len(stacked_inverse))

    def with_ridge(self, covariances: Array, values: Array) -> Array:
        found: Array = covariances + values.mean()
        return found

    def row_squares(self, residuals: Single) -> Single:
        d = residuals.shape[1]
        norms = (residuals**2).sum(axis=1, keepdims=True)
        squares: Single = (norms - d) * np.sqrt(0.5 / d, dtype=np.float32)
        return squares


class Spherical(OwnCovariances, SphericalMoments):
    """Covariances (K,)."""

    pooling = Pooling(components=False, columns=True)

    def shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        return (n_components,)

    def n_parameters(self, n_components: int, n_features: int) -> int:
        return n_components

    def stacked(self, stored: Array, n_components: int, n_features: int) -> Array:
        return np.repeat(stored[:, np.newaxis], n_features, axis=1)

    def stored(self, stacked: Array) -> Array:
        return stacked[:, 0]

    def resolution(self, rounding: Array) -> Array:
        found: Array = rounding.min(axis=1)
        return found

    def updates(
        self, statistics: "Statistics", alive: Components, offsets: Array, shifts: Array
    ) -> list[CovarianceUpdate]:
        frame, d = statistics.frame, statistics.frame.n_features
        raw = statistics.moments[alive, 1 + d] / (d * statistics.counts[alive])
        moved = np.square(shifts[alive]) - np.square(offsets[alive])
        central = raw + moved.mean(axis=1)
        scales = own_scales(frame, statistics.n_components)[alive, 0]

        def route(k: slice, ridge: Array) -> tuple[Array, Array]:
            return separate(raw[k], central[k], scales[k], ridge[0])

        return [CovarianceUpdate(alive, [route])]

    def tangent_scales(self, n_features: int) -> tuple[Array, Array]:
        return np.full(1, np.sqrt(0.5 / n_features)), np.empty(0)

    def merged_pairs(
        self,
        parameters: "Parameters",
        share: Array,
        apart: Array,
        first: Components,
        second: Components,
    ) -> tuple[Array, Array]:
        own, parts = parameters.covariances, share[:, 0]
        moved = np.square(apart).mean(axis=1)
        covariances = parts * own[first] + (1.0 - parts) * own[second] + moved
        return covariances, np.sqrt(covariances)

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
        covariances[k] = ((weighted * deviations).sum(axis=0) / count + unseen).mean()
