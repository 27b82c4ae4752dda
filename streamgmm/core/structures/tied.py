"""Tied covariances: all components have the same matrix."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from streamgmm.core.kernels.kinds import TIED
from streamgmm.core.structures.covariance_update import (
    CovarianceUpdate,
    spectral_factor,
    whitened,
    whitened_factor,
)
from streamgmm.core.structures.matrices import Array, blocks, solve, symmetric, upper_triangle
from streamgmm.core.structures.matrix_structure import (
    MatrixStructure,
    about,
    magnified,
    mean_of_factors,
    quadratic_along,
    quadratic_sums,
    relative,
    rescaled,
    ridge_matrices,
    triangle_scales,
    unscaled,
)
from streamgmm.core.structures.shared_covariance import SharedCovariance
from streamgmm.core.structures.structure import CoefficientForm, Components, Pooling, Single
from streamgmm.options import CovarianceType

if TYPE_CHECKING:
    from streamgmm.core.frame import Frame
    from streamgmm.core.parameters import Parameters
    from streamgmm.core.statistics import Statistics


class Tied(SharedCovariance, MatrixStructure):
    """One covariance (D, D); the scatter is Σ_k Σγuuᵀ. All bases of a frame are one matrix."""

    code = TIED
    sklearn_type = "tied"
    pooling = Pooling(components=True, columns=False)

    def shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        return n_features, n_features

    def n_parameters(self, n_components: int, n_features: int) -> int:
        return n_features * (n_features + 1) // 2

    def n_factor_values(self, n_components: int, n_features: int) -> int:
        return n_features**2

    def stacked(self, stored: Array, n_components: int, n_features: int) -> Array:
        return stored[np.newaxis]

    def stored(self, stacked: Array) -> Array:
        found: Array = stacked[0]
        return found

    def pooled_type(self, covariance_type: CovarianceType) -> CovarianceType:
        return "full"

    def repeated(self, stored: Array, n_components: int) -> Array:
        return np.repeat(stored[np.newaxis], n_components, axis=0)

    def pooled(self, parameters: "Parameters") -> tuple[Array, Array]:
        factor = mean_of_factors(parameters.factors, parameters.weights)
        return factor @ factor.T, factor

    def mean_factor(self, stacked_factors: Array, weights: Array) -> Array:
        return stacked_factors

    def n_mean_arrays(self) -> int:
        return 4

    def n_moments(self, n_features: int) -> int:
        return 1 + n_features

    def features(self, n_features: int) -> NDArray[np.int64]:
        coordinates = np.arange(1 + n_features)
        return np.stack([np.zeros_like(coordinates), coordinates], axis=1)

    def n_scatter(self, n_features: int) -> int:
        return n_features

    def scatter_from(self, upper: Array, n_features: int) -> Array:
        found: Array = symmetric(upper[np.newaxis], n_features)[0]
        return found

    def frame_origin(
        self, parameters: "Parameters", median: Callable[[Array, Array], Array]
    ) -> Array:
        # The median in whitened coordinates follows a narrow direction that all components share.
        whitened_means = parameters.means @ parameters.inverse_factors.T
        origin: Array = parameters.factors @ median(whitened_means, parameters.weights)
        return origin

    def frame_factor_shape(self, n_centred: int, n_features: int) -> tuple[int, ...]:
        return 1, n_features, n_features

    def frame_factors(self, stacked_factors: Array, centred: Components) -> Array:
        return stacked_factors

    def taken_frame_factors(self, factors: Array, indices: Components) -> Array:
        return factors

    def displacements(self, frame: "Frame", u: Array) -> Array:
        moved: Array = u @ frame.factors[0].T
        return moved

    def coordinates(self, frame: "Frame", displacements: Array) -> Array:
        return solve(frame.factors[0], displacements.T).T

    def relative_factors(self, frame: "Frame", stacked_factors: Array) -> Array:
        return relative(frame.factors, frame.inverse_factors, stacked_factors)

    def magnified(self, frame: "Frame", parameters: "Parameters", displacements: Array) -> Array:
        inverse = parameters.stacked(parameters.inverse_factors)
        factors = parameters.stacked(parameters.factors)
        return magnified(inverse, frame.factors, frame.inverse_factors, factors, displacements)

    def coefficients(
        self,
        constants: Array,
        stacked_inverse: Array,
        components: Components,
        scale: Array,
        centres: Array,
    ) -> CoefficientForm:
        # In whitened rows every component has covariance I: c - ½‖m‖² + m·y, less -½‖y‖².
        whitener = stacked_inverse[0] * scale
        means = centres @ whitener.T
        offsets = constants - 0.5 * np.square(means).sum(axis=1)
        return CoefficientForm(np.hstack([offsets[:, np.newaxis], means]), whitener)

    def kernel_factors(self, stacked: Array, components: Components | None) -> Array:
        return stacked

    def is_own_basis(self, bases: Array, factors: Array) -> bool:
        return np.array_equal(bases[0], factors)

    def updates(
        self, statistics: "Statistics", alive: Components, offsets: Array, shifts: Array
    ) -> list[CovarianceUpdate]:
        counts, frame = statistics.counts, statistics.frame
        raw = statistics.scatter
        central = raw - (offsets.T * counts) @ offsets + (shifts.T * counts) @ shifts
        raw, central = (a[np.newaxis] / counts.sum() for a in (raw, central))
        routes = [
            lambda _, ridge, f=factor: whitened(
                raw, central, frame.factors, frame.inverse_factors, ridge, f
            )
            for factor in (whitened_factor, spectral_factor)
        ]
        return [CovarianceUpdate(np.array([0]), routes)]

    def whitened_moments(
        self,
        factors: Array,
        means: Array,
        counts: Array,
        shifted: Array,
        raw: Array,
        scatter: Array,
    ) -> tuple[Array, Array]:
        matrices = scatter - _about_together(counts, means, shifted)
        return raw, unscaled(factors, matrices[np.newaxis])[0]

    def framed_moments(
        self, factors: Array, means: Array, counts: Array, moved: Array, own: Array, scatter: Array
    ) -> tuple[Array, Array]:
        return own, rescaled(factors, scatter[np.newaxis])[0] + _about_together(
            counts, means, moved
        )

    def as_moments(self, stacked: Array, n_components: int) -> tuple[Array, Array]:
        return np.empty((n_components, 0)), stacked.sum(axis=0)

    def unit_moments(self, n_features: int) -> tuple[Array, Array]:
        return np.empty(0), np.eye(n_features)

    def ridge_moments(self, stacked_inverse: Array, ridge: float | Array) -> tuple[Array, Array]:
        # No component has second moments of its own.
        return np.empty((1, 0)), ridge_matrices(stacked_inverse, ridge)[0]

    def tangent_scales(self, n_features: int) -> tuple[Array, Array]:
        return np.empty(0), triangle_scales(n_features)

    def to_coordinates(
        self, moments: Array, scatter: Array, n_features: int
    ) -> tuple[Array, Array]:
        return moments, scatter[upper_triangle(n_features)]

    def from_coordinates(
        self, own: Array, shared: Array, weights: Array, n_features: int
    ) -> tuple[Array, Array]:
        return own, symmetric(shared[np.newaxis], n_features)[0]

    def n_shared(self, n_features: int) -> int:
        return n_features * (n_features + 1) // 2

    def along(self, features: Single, own: Single, shared: Single, root: np.float32) -> Single:
        return quadratic_along(features, own, shared * root)

    def gathered(
        self, features: Single, parts: Single, root: np.float32, n_own: int
    ) -> tuple[Single, Single]:
        linear, upper = quadratic_sums(features, parts)
        return linear, (upper * root).astype(np.float32)

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
        covariances += (weighted.T @ deviations + np.diag(count * unseen)) / total


def _about_together(counts: Array, a: Array, moved: Array) -> Array:
    """Return the sum of N a aᵀ + a bᵀ + b aᵀ over the components, (D, D), in their order."""
    first, *others = blocks(*a.shape)
    found: Array = about(counts[first], a[first], moved[first]).sum(axis=0)
    for block in others:
        more = about(counts[block], a[block], moved[block])
        found = np.concatenate([found[np.newaxis], more]).sum(axis=0)
    return found
