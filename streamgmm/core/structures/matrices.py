"""Operations on stacks of matrices, in blocks of bounded memory."""

import functools
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import lapack

Array = NDArray[np.float64]

#: Size of the blocks in which operations on all matrices of a mixture are done, so that their
#: temporary arrays do not grow with the number of components.
BLOCK_BYTES = 1 << 21
# Columns from which one call per matrix costs less than one factorisation of the whole stack.
_WIDE = 32


@functools.lru_cache(maxsize=8)
def upper_triangle(n_features: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return rows and columns of the upper triangle of a (D, D) matrix, with its diagonal."""
    rows, columns = np.triu_indices(n_features)
    return rows.astype(np.int64), columns.astype(np.int64)


def symmetric(upper: Array, n_features: int) -> Array:
    """Return matrices (k, D, D) from their upper triangles (k, D (D + 1) / 2), by rows."""
    matrices = np.empty((len(upper), n_features, n_features))
    rows, columns = upper_triangle(n_features)
    matrices[:, rows, columns] = upper
    matrices[:, columns, rows] = upper
    return matrices


def blocks(n_matrices: int, n_features: int) -> Iterator[slice]:
    """Split matrices (n, D, D) into blocks of bounded size.

    Yields
    ------
    slice
        At least one matrix each.
    """
    size = max(1, BLOCK_BYTES // (8 * n_features**2))
    return (slice(start, start + size) for start in range(0, n_matrices, size))


def diagonals(matrices: Array) -> Array:
    """Return the diagonals (..., D) of matrices (..., D, D)."""
    return np.diagonal(matrices, axis1=-2, axis2=-1)


def outer(vectors: Array) -> Array:
    """Return v vᵀ (k, D, D) of vectors (k, D)."""
    return vectors[:, :, np.newaxis] * vectors[:, np.newaxis, :]


def triangular(roots: Array) -> Array:
    """Return factors L (k, D, D), L Lᵀ = Rᵀ R, of roots R (k, n, D).

    The diagonals are positive if R has full rank. The products are not formed, because they lose
    small standard deviations.
    """
    factors = np.swapaxes(np.linalg.qr(roots, mode="r"), 1, 2)
    signs = np.sign(np.diagonal(factors, axis1=1, axis2=2))
    return np.ascontiguousarray(factors * signs[:, np.newaxis, :])


def inverse_triangular(factors: Array) -> Array:
    """Return the inverses of lower triangular matrices (..., D, D).

    Raises
    ------
    numpy.linalg.LinAlgError
        If a matrix is singular.
    """
    inverse = np.empty_like(factors)
    for index in np.ndindex(factors.shape[:-2]):
        # A row-major lower triangle is LAPACK's (column-major) upper one, transposed.
        transposed, info = lapack.dtrtri(factors[index].T, lower=0)
        if info != 0:
            raise np.linalg.LinAlgError("a covariance factor is singular")
        inverse[index] = transposed.T
    matrices = inverse.reshape(-1, *inverse.shape[-2:])
    for block in blocks(len(matrices), inverse.shape[-1]):
        matrices[block] = np.tril(matrices[block])
    return inverse


def solve(factors: Array, values: Array) -> Array:
    """Return L⁻¹ B for lower triangular factors L (..., D, D) and values B (..., D, n).

    Pivots of LU factorisation may underflow where standard deviations differ by more than the range
    of float64; L itself is never singular.
    """
    if factors.shape[-1] >= _WIDE:
        return _solved_one_by_one(factors, values)
    try:
        return np.linalg.solve(factors, values).astype(np.float64, copy=False)
    except np.linalg.LinAlgError:
        return _substituted(factors, values)


def _solved_one_by_one(factors: Array, values: Array) -> Array:
    """Return L⁻¹ B by LAPACK's routine for triangular matrices."""
    shape = np.broadcast_shapes(factors.shape[:-2], values.shape[:-2])
    found = np.empty((*shape, *values.shape[-2:]))
    factors = np.broadcast_to(factors, (*shape, *factors.shape[-2:]))
    values = np.broadcast_to(values, found.shape)
    for index in np.ndindex(shape):
        # A row-major lower triangle is LAPACK's (column-major) upper one, transposed.
        found[index], _ = lapack.dtrtrs(factors[index].T, values[index], lower=0, trans=1)
    return found


def _substituted(factors: Array, values: Array) -> Array:
    """Return L⁻¹ B by forward substitution."""
    shape = np.broadcast_shapes(factors.shape[:-2], values.shape[:-2])
    found = np.broadcast_to(values, (*shape, *values.shape[-2:])).astype(np.float64)
    for i in range(factors.shape[-1]):
        done = (factors[..., i, np.newaxis, :i] @ found[..., :i, :])[..., 0, :]
        found[..., i, :] = (found[..., i, :] - done) / factors[..., i, i, np.newaxis]
    return found


def relative_ridge(ridge: float | Array) -> tuple[float, float | Array]:
    """Return the largest entry of a ridge, and the entries relative to it.

    If all entries are equal, the second result is exactly 1.
    """
    largest = float(np.max(ridge))
    return largest, ridge / largest if largest > 0.0 else 1.0
