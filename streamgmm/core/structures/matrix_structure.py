"""The operations of structures whose factors are lower triangular matrices."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from streamgmm.core.kernels.log_joint import n_kept_lines
from streamgmm.core.structures.matrices import (
    BLOCK_BYTES,
    Array,
    blocks,
    cholesky,
    diagonals,
    inverse_triangular,
    outer,
    product,
    relative_ridge,
    solve,
    triangular,
    upper_triangle,
)
from streamgmm.core.structures.structure import Components, CovarianceStructure, Single


class MatrixStructure(CovarianceStructure):
    """Covariances with entries for each pair of features."""

    has_directions = True
    has_dependent_columns = True

    def cholesky(self, covariances: Array) -> Array:
        return cholesky(covariances)

    def invert(self, factors: Array) -> Array:
        return inverse_triangular(factors)

    def precisions(self, inverse_factors: Array) -> Array:
        return np.swapaxes(inverse_factors, -1, -2) @ inverse_factors

    def transposed(self, factors: Array) -> Array:
        return np.ascontiguousarray(np.swapaxes(factors, -1, -2))

    def from_precisions(self, precisions: Array) -> tuple[Array, Array]:
        inverse = self.invert(self.cholesky(precisions))
        covariances = np.swapaxes(inverse, -1, -2) @ inverse
        return covariances, self.cholesky(covariances)

    def widths(self, factors: Array) -> Array:
        return diagonals(factors)

    def symmetrized(self, values: Array, tolerance: float) -> Array | None:
        transposed = np.swapaxes(values, -1, -2)
        roots = np.sqrt(np.abs(diagonals(values)))
        sizes = roots[..., :, np.newaxis] * roots[..., np.newaxis, :]
        if np.any(np.abs(values - transposed) > tolerance * sizes):
            return None
        found: Array = 0.5 * (values + transposed)
        return found

    def variances(self, stacked_covariances: Array) -> Array:
        return diagonals(stacked_covariances)

    def log_determinants(self, stacked_factors: Array) -> Array:
        found: Array = np.log(diagonals(stacked_factors)).sum(axis=-1)
        return found

    def product(self, stacked_factors: Array, vectors: Array) -> Array:
        return (stacked_factors @ vectors[:, :, np.newaxis])[:, :, 0]

    def solved(self, stacked_factors: Array, vectors: Array) -> Array:
        return solve(stacked_factors, vectors[:, :, np.newaxis])[:, :, 0]

    def composed(self, left: Array, right: Array) -> Array:
        return left @ right

    def scaled_rows(self, rows: Array, stacked_factors: Array, component: int) -> Array:
        found: Array = rows @ stacked_factors[component % len(stacked_factors)].T
        return found

    def solved_rows(self, rows: Array, stacked_factors: Array, component: int) -> Array:
        return solve(stacked_factors[component % len(stacked_factors)], rows.T).T

    def deviations(self, stacked_factors: Array) -> Array:
        found: Array = np.linalg.norm(stacked_factors, axis=-1)
        return found

    def singular_values(self, left: Array, right: Array) -> Array:
        return np.concatenate(
            [
                np.linalg.svd(left[block] @ right[block], compute_uv=False)
                for block in blocks(len(left), left.shape[-1])
            ]
        )

    def merged_log_determinants(self, factors: Array, moved: Array) -> Array:
        both = 0.5 * (np.eye(moved.shape[1]) + factors @ np.swapaxes(factors, 1, 2)) + outer(moved)
        found: Array = np.linalg.slogdet(both)[1]
        return found

    def dense(self, stacked_covariances: Array, columns: Sequence[int]) -> Array:
        chosen = list(columns)
        return stacked_covariances[..., chosen][:, chosen]

    def reordered(self, stacked_factors: Array, features: NDArray[np.intp]) -> Array:
        # Rᵀ of the lines of L = Rᵀ Qᵀ has their products, and keeps the digits of L.
        triangles = np.linalg.qr(np.swapaxes(stacked_factors[:, features], 1, 2), mode="r")
        signs = np.sign(np.diagonal(triangles, axis1=1, axis2=2))
        return np.swapaxes(triangles * signs[:, :, np.newaxis], 1, 2)

    def conditioned(
        self, stacked_factors: Array, n_given: int, deviations: Array
    ) -> tuple[Array, Array, Array, Array]:
        g, factors = n_given, stacked_factors
        own, across, rest = factors[:, :g, :g], factors[:, g:, :g], factors[:, g:, g:]
        y = solve(own, deviations[:, :, np.newaxis])
        return own, y[:, :, 0], (across @ y)[:, :, 0], rest

    def covariances_of(self, stacked_factors: Array) -> Array:
        products = stacked_factors @ np.swapaxes(stacked_factors, 1, 2)
        return 0.5 * (products + np.swapaxes(products, 1, 2))

    def scratch_lines(self, n_components: int, n_features: int) -> int:
        return super().scratch_lines(n_components, n_features) + n_kept_lines(
            n_components, n_features
        )

    def kernel_factors(self, stacked: Array, components: Components | None) -> Array:
        return stacked if components is None else stacked[components]

    def row_features(self, residuals: Single) -> Single:
        found: Single = np.concatenate(
            [np.ones((len(residuals), 1), dtype=np.float32), residuals], axis=1
        )
        return found

    def with_ridge(self, covariances: Array, values: Array) -> Array:
        return covariances + np.diag(values)

    def with_rounding(self, covariances: Array, part: float) -> Array:
        widened = diagonals(covariances)[..., np.newaxis] * np.eye(covariances.shape[-1])
        return covariances + part * widened

    def block_values(self, n_components: int, n_features: int) -> int:
        values = self.n_factor_values(n_components, n_features)
        return max(n_features**2, min(BLOCK_BYTES // 8, values))


def triangle_scales(n_features: int) -> Array:
    """Return 1 over the standard deviations of the upper triangle of yyᵀ: √2 on the diagonal."""
    rows, columns = upper_triangle(n_features)
    return np.where(rows == columns, np.sqrt(0.5), 1.0)


def quadratic_along(features: Single, linear: Single, upper: Single) -> Single:
    """Return the products of 1, y and the triangle of yyᵀ - I with coordinates, (n,)."""
    residuals = features[:, 1:]
    form = _matrix(upper, residuals.shape[1])
    # With five columns, OpenBLAS 0.3.31 with AVX-512 also multiplies unused values on the stack.
    # The products are right, but such a value may be a signalling NaN.
    with np.errstate(invalid="ignore"):
        found: Single = features @ linear
    found += np.einsum("ni,ni->n", residuals @ form, residuals) - np.trace(form)
    return found


def quadratic_sums(features: Single, parts: Single) -> tuple[Single, Single]:
    """Return sums of 1 and y, and of the scaled triangle of yyᵀ - I, weighted by parts (n,)."""
    linear = (parts @ features).astype(np.float32, copy=False)
    residuals = features[:, 1:]
    d = residuals.shape[1]
    squares = (residuals * parts[:, np.newaxis]).T @ residuals
    squares -= parts.sum() * np.eye(d, dtype=np.float32)
    rows, columns = upper_triangle(d)
    upper = squares[rows, columns] * triangle_scales(d).astype(np.float32)
    return linear, upper.astype(np.float32, copy=False)


def _matrix(upper: Single, n_features: int) -> Single:
    """Return the matrix A such that yᵀ A y - tr A is the product of yyᵀ - I with coordinates."""
    rows, columns = upper_triangle(n_features)
    matrix = np.empty((n_features, n_features), dtype=np.float32)
    matrix[rows, columns] = matrix[columns, rows] = upper * np.where(
        rows == columns, np.sqrt(0.5), 0.5
    )
    return matrix


def about(counts: Array, a: Array, moved: Array) -> Array:
    """Return N a aᵀ + a bᵀ + b aᵀ (k, D, D) for the sums b of deviations from a."""
    half = 0.5 * counts * a + moved
    product = a[:, :, np.newaxis] * half[:, np.newaxis, :]
    return product + np.swapaxes(product, 1, 2)


def rescaled(t: Array, matrices: Array) -> Array:
    """Return T A Tᵀ of symmetric matrices A (k, D, D)."""
    if is_identity(t):
        return matrices
    found: Array = product(t, np.swapaxes(product(t, matrices), 1, 2))
    return found


def unscaled(t: Array, matrices: Array) -> Array:
    """Return T⁻¹ A T⁻ᵀ of symmetric matrices A (k, D, D)."""
    if is_identity(t):
        return matrices
    half = solve(t, matrices)
    return solve(t, np.swapaxes(half, 1, 2))


def magnified(
    inverse: Array, bases: Array, inverse_bases: Array, factors: Array, displacements: Array
) -> Array:
    """Return |L⁻¹ B| s (k, D) for triangular bases B, with s_d² the second moment of u_d."""
    if len(bases) == 1:
        # One basis for all: factored once.
        distances = solve(bases[0], displacements.T).T
    else:
        distances = solve(bases, displacements[:, :, np.newaxis])[:, :, 0]
    own_spread = relative(bases, inverse_bases, factors)
    spread: Array = np.sqrt(np.square(own_spread).sum(axis=-1) + np.square(distances))
    if is_identity(own_spread):
        return spread
    magnifier = np.abs(product(inverse, bases))
    found: Array = (magnifier @ spread[:, :, np.newaxis])[:, :, 0]
    return found


def relative(bases: Array, inverse_bases: Array, factors: Array) -> Array:
    """Return B⁻¹ L (k, D, D); exactly I for the factors themselves."""
    # Most matrices differ in the first lines.
    is_same = np.array_equal(bases[:, :2], factors[:, :2]) and np.array_equal(bases, factors)
    if is_same:
        return np.broadcast_to(np.eye(bases.shape[-1]), factors.shape)
    return product(inverse_bases, factors)


def is_identity(matrices: Array) -> bool:
    """Return whether all matrices (k, D, D) are exactly I."""
    # Most matrices differ in the diagonal.
    return bool(np.all(diagonals(matrices) == 1.0)) and np.array_equal(
        matrices, np.broadcast_to(np.eye(matrices.shape[-1]), matrices.shape)
    )


def mean_of_factors(stacked_factors: Array, weights: Array) -> Array:
    """Return the factor (D, D) of the weighted mean of covariances with factors (K, D, D)."""
    roots = np.sqrt(weights)[:, np.newaxis, np.newaxis] * np.swapaxes(stacked_factors, 1, 2)
    found: Array = triangular(roots.reshape(1, -1, stacked_factors.shape[-1]))[0]
    return found


def ridge_matrices(stacked_inverse: Array, ridge: float | Array) -> Array:
    """Return W diag(ridge) Wᵀ (K or 1, D, D)."""
    largest, relative = relative_ridge(ridge)
    roots = stacked_inverse * np.sqrt(relative)
    return largest * (roots @ np.swapaxes(roots, 1, 2))
