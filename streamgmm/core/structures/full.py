"""Full covariances: each component has a matrix of its own."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from streamgmm.core.kernels.kinds import FULL
from streamgmm.core.structures.covariance_update import (
    CovarianceUpdate,
    scaled,
    spectral_factor,
    whitened,
    whitened_factor,
)
from streamgmm.core.structures.matrices import (
    Array,
    blocks,
    outer,
    solve,
    symmetric,
    triangles,
    triangular,
    upper_triangle,
    weighted_sums,
)
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
from streamgmm.core.structures.own_covariances import OwnCovariances
from streamgmm.core.structures.structure import CoefficientForm, Components, Pooling, Single

if TYPE_CHECKING:
    from streamgmm.core.frame import Frame
    from streamgmm.core.parameters import Parameters
    from streamgmm.core.statistics import Statistics


class Full(OwnCovariances, MatrixStructure):
    """Covariances (K, D, D); second moments are the upper triangles of Σγuuᵀ."""

    code = FULL
    sklearn_type = "full"
    pooling = Pooling(components=False, columns=False)

    def shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        return n_components, n_features, n_features

    def n_parameters(self, n_components: int, n_features: int) -> int:
        return n_components * (n_features * (n_features + 1) // 2)

    def n_factor_values(self, n_components: int, n_features: int) -> int:
        return n_components * n_features**2

    def mean_factor(self, stacked_factors: Array, weights: Array) -> Array:
        return mean_of_factors(stacked_factors, weights)[np.newaxis]

    def n_mean_arrays(self) -> int:
        return 5

    def n_moments(self, n_features: int) -> int:
        return 1 + n_features + n_features * (n_features + 1) // 2

    def features(self, n_features: int) -> NDArray[np.int64]:
        return np.stack(upper_triangle(1 + n_features), axis=1)

    def moments_of(self, rows: Array, shares: Array) -> Array:
        sums = [shares.sum(axis=1, keepdims=True), weighted_sums(shares, rows)]
        # Line by line of the upper triangle, whose products for all rows take more memory.
        sums += [
            weighted_sums(shares * column, rows[:, i:]) for i, column in enumerate(rows.T.copy())
        ]
        return np.concatenate(sums, axis=1)

    def frame_factors(self, stacked_factors: Array, centred: Components) -> Array:
        if centred.size == len(stacked_factors):
            # All of them: they are not copied.
            return stacked_factors
        return stacked_factors[centred]

    def frame_factor_shape(self, n_centred: int, n_features: int) -> tuple[int, ...]:
        return n_centred, n_features, n_features

    def displacements(self, frame: "Frame", u: Array) -> Array:
        moved = u * frame.scale
        moved[frame.centred] = np.einsum("kij,kj->ki", frame.factors, u[frame.centred])
        return moved

    def coordinates(self, frame: "Frame", displacements: Array) -> Array:
        u = displacements / frame.scale
        own = displacements[frame.centred]
        u[frame.centred] = solve(frame.factors, own[:, :, np.newaxis])[:, :, 0]
        return u

    def relative_factors(self, frame: "Frame", stacked_factors: Array) -> Array:
        own = relative(
            frame.factors, frame.inverse_factors, self.frame_factors(stacked_factors, frame.centred)
        )
        if len(own) == len(stacked_factors):
            return own
        found = stacked_factors / frame.scale[:, np.newaxis]
        found[frame.centred] = own
        return found

    def magnified(self, frame: "Frame", parameters: "Parameters", displacements: Array) -> Array:
        inverse = parameters.inverse_factors
        # A diagonal basis cancels.
        spread = np.sqrt(self.variances(parameters.covariances) + np.square(displacements))
        found = np.empty_like(spread)
        packed = np.setdiff1d(np.arange(len(spread)), frame.centred)
        for block in blocks(packed.size, frame.n_features):
            k = packed[block]
            found[k] = np.einsum("kij,kj->ki", np.abs(inverse[k]), spread[k])
        for block in blocks(frame.centred.size, frame.n_features):
            k = frame.centred[block]
            found[k] = magnified(
                inverse[k],
                frame.factors[block],
                frame.inverse_factors[block],
                parameters.factors[k],
                displacements[k],
            )
        return found

    def coefficients(
        self,
        constants: Array,
        stacked_inverse: Array,
        components: Components,
        scale: Array,
        centres: Array,
    ) -> CoefficientForm:
        n, d = centres.shape
        upper = upper_triangle(d)
        # Off the diagonal z_i z_j stands once for P_ij and P_ji.
        halves = np.where(upper[0] == upper[1], -0.5, -1.0)
        theta = np.empty((n, 1 + d + len(halves)))
        for block in blocks(n, d):
            factors = stacked_inverse[components[block]] * scale
            residuals = np.einsum("kij,kj->ki", factors, centres[block])
            theta[block, 0] = constants[block] - 0.5 * np.square(residuals).sum(axis=1)
            transposed = np.swapaxes(factors, 1, 2)
            theta[block, 1 : 1 + d] = np.einsum("kij,kj->ki", transposed, residuals)
            theta[block, 1 + d :] = halves * triangles(transposed @ factors)
        return CoefficientForm(theta, np.empty((0, 0)))

    def updates(
        self, statistics: "Statistics", alive: Components, offsets: Array, shifts: Array
    ) -> list[CovarianceUpdate]:
        frame, d = statistics.frame, statistics.frame.n_features
        is_centred = np.isin(alive, frame.centred)
        packed, centred = alive[~is_centred], alive[is_centred]

        def moments(components: Components) -> tuple[Array, Array]:
            """Return mean second moments of each component's rows, about origin and mean."""
            raw = symmetric(statistics.moments[components, 1 + d :], d)
            raw /= statistics.counts[components, np.newaxis, np.newaxis]
            central = raw - outer(offsets[components])
            if np.any(shifts):
                central += outer(shifts[components])
            return raw, central

        def by_scales(k: slice, ridge: Array) -> tuple[Array, Array]:
            return scaled(*moments(packed[k]), frame.scale, ridge)

        def by_bases(
            k: slice,
            ridge: Array,
            factor: Callable[[Array, Array, Array, Array], Array],
            is_packed: bool,
        ) -> tuple[Array, Array]:
            components = (packed if is_packed else centred)[k]
            raw, central = moments(components)
            if is_packed:
                bases, inverse = (
                    np.broadcast_to(np.diag(scale), central.shape)
                    for scale in (frame.scale, 1.0 / frame.scale)
                )
            else:
                own = np.searchsorted(frame.centred, components)
                bases, inverse = frame.factors[own], frame.inverse_factors[own]
            return whitened(raw, central, bases, inverse, ridge, factor)

        # If rounding has made T indefinite by more than the ridge, roots of T omit the negative
        # part.
        of_packed, of_centred = (
            [
                partial(by_bases, factor=factor, is_packed=is_packed)
                for factor in (whitened_factor, spectral_factor)
            ]
            for is_packed in (True, False)
        )
        updates = [
            CovarianceUpdate(packed, [by_scales, *of_packed]),
            CovarianceUpdate(centred, of_centred),
        ]
        return [update for update in updates if update.components.size]

    def whitened_moments(
        self,
        factors: Array,
        means: Array,
        counts: Array,
        shifted: Array,
        raw: Array,
        scatter: Array,
    ) -> tuple[Array, Array]:
        d = means.shape[1]
        second = np.empty_like(raw)
        for block in blocks(len(raw), d):
            own = symmetric(raw[block], d) - about(counts[block], means[block], shifted[block])
            second[block] = triangles(unscaled(factors[block], own))
        return second, np.empty((0, 0))

    def framed_moments(
        self, factors: Array, means: Array, counts: Array, moved: Array, own: Array, scatter: Array
    ) -> tuple[Array, Array]:
        d = means.shape[1]
        second = np.empty_like(own)
        for block in blocks(len(own), d):
            matrices = rescaled(factors[block], symmetric(own[block], d))
            matrices = matrices + about(counts[block], means[block], moved[block])
            second[block] = triangles(matrices)
        return second, np.empty((0, 0))

    def as_moments(self, stacked: Array, n_components: int) -> tuple[Array, Array]:
        return triangles(stacked), np.empty((0, 0))

    def unit_moments(self, n_features: int) -> tuple[Array, Array]:
        return np.eye(n_features)[upper_triangle(n_features)], np.empty((0, 0))

    def ridge_moments(self, stacked_inverse: Array, ridge: float | Array) -> tuple[Array, Array]:
        return self.as_moments(ridge_matrices(stacked_inverse, ridge), len(stacked_inverse))

    def tangent_scales(self, n_features: int) -> tuple[Array, Array]:
        return triangle_scales(n_features), np.empty(0)

    def along(self, features: Single, own: Single, shared: Single, root: np.float32) -> Single:
        width = features.shape[1]
        return quadratic_along(features, own[:width], own[width:])

    def gathered(
        self, features: Single, parts: Single, root: np.float32, n_own: int
    ) -> tuple[Single, Single]:
        own = np.concatenate(quadratic_sums(features, parts)).astype(np.float32)
        return own, np.empty(0, dtype=np.float32)

    def blocks_of_pairs(self, n_pairs: int, n_features: int) -> Iterable[slice]:
        return blocks(n_pairs, n_features)

    def merged_pairs(
        self,
        parameters: "Parameters",
        share: Array,
        apart: Array,
        first: Components,
        second: Components,
    ) -> tuple[Array, Array]:
        shape = len(first), *parameters.factors.shape[1:]
        covariances, factors = np.empty(shape), np.empty(shape)
        for block in blocks(*shape[:2]):
            parts = share[block, :, np.newaxis]
            roots = [
                np.sqrt(parts) * np.swapaxes(parameters.factors[first[block]], 1, 2),
                np.sqrt(1.0 - parts) * np.swapaxes(parameters.factors[second[block]], 1, 2),
                apart[block, np.newaxis, :],
            ]
            own = triangular(np.concatenate(roots, axis=1))
            covariances[block], factors[block] = own @ np.swapaxes(own, 1, 2), own
        return covariances, factors

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
        covariances[k] = weighted.T @ deviations
        covariances[k] /= count
        own = np.arange(len(unseen))
        covariances[k, own, own] += unseen
