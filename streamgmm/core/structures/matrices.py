"""Operations on stacks of matrices, in blocks of bounded memory."""

import functools
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import blas, lapack

Array = NDArray[np.float64]

#: Size of the blocks in which operations on all matrices of a mixture are done, so that their
#: temporary arrays do not grow with the number of components.
BLOCK_BYTES = 1 << 21
# Columns from which one call per matrix costs less than one factorisation of the whole stack.
_WIDE = 32
# Columns up to which triangles are copied with indices, which take the memory of a matrix.
_MOST_INDEXED = 512
# Columns of a triangle that LAPACK inverts at once.
_MOST_AT_ONCE = 64


@functools.lru_cache(maxsize=8)
def upper_triangle(n_features: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return rows and columns of the upper triangle of a (D, D) matrix, with its diagonal."""
    rows, columns = np.triu_indices(n_features)
    return rows.astype(np.int64), columns.astype(np.int64)


def symmetric(upper: Array, n_features: int) -> Array:
    """Return matrices (k, D, D) from their upper triangles (k, D (D + 1) / 2), by rows."""
    if n_features <= _MOST_INDEXED:
        return np.take(upper, _indices_in_triangle(n_features), axis=1)
    matrices = np.empty((len(upper), n_features, n_features))
    for i, part in enumerate(_lines_of_triangle(n_features)):
        matrices[:, i, i:] = upper[:, part]
        matrices[:, i:, i] = upper[:, part]
    return matrices


def triangles(matrices: Array) -> Array:
    """Return the upper triangles (k, D (D + 1) / 2), by rows, of matrices (k, D, D)."""
    n, d = matrices.shape[:2]
    if d <= _MOST_INDEXED:
        return np.take(matrices.reshape(n, -1), _indices_of_triangle(d), axis=1)
    upper = np.empty((n, d * (d + 1) // 2))
    for i, part in enumerate(_lines_of_triangle(d)):
        upper[:, part] = matrices[:, i, i:]
    return upper


@functools.lru_cache(maxsize=8)
def _indices_of_triangle(n_features: int) -> NDArray[np.intp]:
    """Return where the values of the upper triangle are in a matrix."""
    rows, columns = np.triu_indices(n_features)
    return rows * n_features + columns


@functools.lru_cache(maxsize=8)
def _indices_in_triangle(n_features: int) -> NDArray[np.intp]:
    """Return where the values of a symmetric matrix are in its upper triangle, (D, D)."""
    rows, columns = np.triu_indices(n_features)
    indices = np.empty((n_features, n_features), dtype=np.intp)
    indices[rows, columns] = indices[columns, rows] = np.arange(len(rows))
    return indices


def _lines_of_triangle(n_features: int) -> Iterator[slice]:
    """Yield where the lines of the upper triangle are among its values."""
    start = 0
    for length in range(n_features, 0, -1):
        yield slice(start, start + length)
        start += length


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
    inverse: Array = np.tril(factors)
    with np.errstate(over="ignore", invalid="ignore"):
        for index in np.ndindex(inverse.shape[:-2]):
            _invert(inverse[index])
    return inverse


def _invert(matrix: Array) -> None:
    """Invert a lower triangular matrix (D, D) in place, by halves."""
    n = len(matrix)
    if n <= _MOST_AT_ONCE:
        # A row-major lower triangle is LAPACK's (column-major) upper one, transposed.
        inverse, info = lapack.dtrtri(matrix.T, lower=0)
        if info != 0:
            raise np.linalg.LinAlgError("a covariance factor is singular")
        matrix[:] = inverse.T
        return
    upper, lower = slice(None, n // 2), slice(n // 2, None)
    _invert(matrix[upper, upper])
    _invert(matrix[lower, lower])
    # Products of matrices take less time than LAPACK's inverse.
    matrix[lower, upper] = -(matrix[lower, lower] @ matrix[lower, upper] @ matrix[upper, upper])


def cholesky(matrices: Array) -> Array:
    """Return the Cholesky factors of symmetric matrices (..., D, D).

    Raises
    ------
    numpy.linalg.LinAlgError
        If a matrix is not positive definite.
    """
    if matrices.shape[-1] < _WIDE:
        return np.linalg.cholesky(matrices).astype(np.float64, copy=False)
    factors = np.array(matrices, dtype=np.float64, order="C")
    for index in np.ndindex(factors.shape[:-2]):
        _, info = lapack.dpotrf(factors[index].T, lower=0, clean=1, overwrite_a=1)
        if info != 0:
            raise np.linalg.LinAlgError("a covariance is not positive definite")
    return factors


def product(factors: Array, values: Array) -> Array:
    """Return L B for lower triangular factors L (..., D, D) and values B (..., D, n)."""
    if factors.shape[-1] < _WIDE:
        found: Array = factors @ values
        return found
    return _by_triangles(blas.dtrmm, factors, values)


def solve(factors: Array, values: Array) -> Array:
    """Return L⁻¹ B for lower triangular factors L (..., D, D) and values B (..., D, n).

    Pivots of LU factorisation may underflow where standard deviations differ by more than the range
    of float64; L itself is never singular.
    """
    if factors.shape[-1] >= _WIDE:
        return _by_triangles(blas.dtrsm, factors, values)
    try:
        return np.linalg.solve(factors, values).astype(np.float64, copy=False)
    except np.linalg.LinAlgError:
        return _substituted(factors, values)


def products_with_transposed(matrices: Array) -> Array:
    """Return the symmetric matrices A Aᵀ of matrices A (k, D, n)."""
    found: Array = matrices @ np.swapaxes(matrices, 1, 2)
    if not np.array_equal(found, np.swapaxes(found, 1, 2)):
        # BLAS may sum the products of both triangles in another order.
        found = 0.5 * (found + np.swapaxes(found, 1, 2))
    return found


def _by_triangles(routine: Callable[..., Array], factors: Array, values: Array) -> Array:
    """Return L B or L⁻¹ B by a routine of BLAS for triangular matrices."""
    shape = np.broadcast_shapes(factors.shape[:-2], values.shape[:-2])
    found = np.array(np.broadcast_to(values, (*shape, *values.shape[-2:])), np.float64, order="C")
    factors = np.broadcast_to(factors, (*shape, *factors.shape[-2:]))
    for index in np.ndindex(shape):
        # Row-major L and B are the (column-major) transposed ones of BLAS, which has Bᵀ Lᵀ.
        routine(1.0, factors[index].T, found[index].T, side=1, lower=0, overwrite_b=1)
    return found


def _substituted(factors: Array, values: Array) -> Array:
    """Return L⁻¹ B by forward substitution."""
    shape = np.broadcast_shapes(factors.shape[:-2], values.shape[:-2])
    found = np.broadcast_to(values, (*shape, *values.shape[-2:])).astype(np.float64)
    for i in range(factors.shape[-1]):
        done = (factors[..., i, np.newaxis, :i] @ found[..., :i, :])[..., 0, :]
        found[..., i, :] = (found[..., i, :] - done) / factors[..., i, i, np.newaxis]
    return found


def weighted_sums(shares: Array, values: Array) -> Array:
    """Return the sums (K, m) of values (n, m) with weights (K, n), in the order of the rows."""
    found: Array = np.einsum("kn,nm->km", shares, values)
    return found


def relative_ridge(ridge: float | Array) -> tuple[float, float | Array]:
    """Return the largest entry of a ridge, and the entries relative to it.

    If all entries are equal, the second result is exactly 1.
    """
    largest = float(np.max(ridge))
    return largest, ridge / largest if largest > 0.0 else 1.0
