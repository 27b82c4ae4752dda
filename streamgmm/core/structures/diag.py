"""Diagonal covariances: each component has a variance for each feature."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from streamgmm.core.kernels.kinds import DIAG
from streamgmm.core.structures.covariance_update import CovarianceUpdate, separate
from streamgmm.core.structures.matrices import Array, weighted_sums
from streamgmm.core.structures.own_covariances import OwnCovariances
from streamgmm.core.structures.scale_structure import ScaleStructure, own_scales
from streamgmm.core.structures.structure import Components, Pooling, Single

if TYPE_CHECKING:
    from streamgmm.core.parameters import Parameters
    from streamgmm.core.statistics import Statistics


class DiagonalMoments(ScaleStructure):
    """Second moments are the diagonals of Σγuuᵀ, (K, D)."""

    code = DIAG
    sklearn_type = "diag"

    def n_moments(self, n_features: int) -> int:
        return 1 + 2 * n_features

    def features(self, n_features: int) -> NDArray[np.int64]:
        coordinates = np.arange(1 + n_features)
        linear = np.stack([np.zeros_like(coordinates), coordinates], axis=1)
        squares = np.repeat(1 + np.arange(n_features), 2).reshape(-1, 2)
        return np.vstack([linear, squares])

    def moments_of(self, rows: Array, shares: Array) -> Array:
        sums = [shares.sum(axis=1, keepdims=True)]
        sums += [weighted_sums(shares, values) for values in (rows, np.square(rows))]
        return np.concatenate(sums, axis=1)

    def whitened_moments(
        self,
        factors: Array,
        means: Array,
        counts: Array,
        shifted: Array,
        raw: Array,
        scatter: Array,
    ) -> tuple[Array, Array]:
        second = (raw - counts * means**2 - 2.0 * means * shifted) / factors**2
        return second, np.empty((0, 0))

    def framed_moments(
        self, factors: Array, means: Array, counts: Array, moved: Array, own: Array, scatter: Array
    ) -> tuple[Array, Array]:
        second = counts * means**2 + 2.0 * means * moved + factors**2 * own
        return second, np.empty((0, 0))

    def as_moments(self, stacked: Array, n_components: int) -> tuple[Array, Array]:
        return stacked, np.empty((0, 0))

    def unit_moments(self, n_features: int) -> tuple[Array, Array]:
        return np.ones(n_features), np.empty((0, 0))

    def ridge_moments(self, stacked_inverse: Array, ridge: float | Array) -> tuple[Array, Array]:
        return ridge * stacked_inverse**2, np.empty((0, 0))

    def with_ridge(self, covariances: Array, values: Array) -> Array:
        return covariances + values

    def row_squares(self, residuals: Single) -> Single:
        squares: Single = (residuals**2 - 1.0) * np.sqrt(0.5, dtype=np.float32)
        return squares


class Diag(OwnCovariances, DiagonalMoments):
    """Covariances (K, D)."""

    pooling = Pooling(components=False, columns=False)

    def shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        return n_components, n_features

    def n_parameters(self, n_components: int, n_features: int) -> int:
        return n_components * n_features

    def updates(
        self, statistics: "Statistics", alive: Components, offsets: Array, shifts: Array
    ) -> list[CovarianceUpdate]:
        frame, d = statistics.frame, statistics.frame.n_features
        raw = statistics.moments[alive, 1 + d :] / statistics.counts[alive, np.newaxis]
        central = raw - np.square(offsets[alive]) + np.square(shifts[alive])
        scales = own_scales(frame, statistics.n_components)[alive]

        def route(k: slice, ridge: Array) -> tuple[Array, Array]:
            return separate(raw[k], central[k], scales[k], ridge)

        return [CovarianceUpdate(alive, [route])]

    def tangent_scales(self, n_features: int) -> tuple[Array, Array]:
        return np.full(n_features, np.sqrt(0.5)), np.empty(0)

    def merged_pairs(
        self,
        parameters: "Parameters",
        share: Array,
        apart: Array,
        first: Components,
        second: Components,
    ) -> tuple[Array, Array]:
        own = parameters.covariances
        covariances = share * own[first] + (1.0 - share) * own[second] + np.square(apart)
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
        covariances[k] = np.einsum("nd,nd->d", weighted, deviations) / count + unseen
