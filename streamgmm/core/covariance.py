"""The four covariance structures: one table entry for each.

An entry says how a structure is stored, factored, counted and evaluated; whoever needs to
know what "full", "tied", "diag" or "spherical" means asks :data:`STRUCTURES` and branches
no further.

Σ_k = L_k L_kᵀ throughout, with L_k lower triangular. A factor is stored like the
covariances: full (K, D, D), tied (D, D), diag (K, D), spherical (K,).
"""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import lapack

from streamgmm.core.kernels.log_joint import DIAG, FULL, SPHERICAL, TIED

CovarianceType = Literal["full", "tied", "diag", "spherical"]
Array = NDArray[np.float64]

#: Size of the blocks in which operations on all matrices of a mixture are done, so that their
#: temporary arrays do not grow with the number of components.
BLOCK_BYTES = 1 << 21


@dataclass(frozen=True)
class CovarianceStructure:
    """What distinguishes one covariance type from another.

    K is the number of components, D of features.
    """

    code: int
    """The type's number in compiled kernels."""
    is_triangular: bool
    """Whether factors are lower triangular matrices; else they are scales."""
    shape: Callable[[int, int], tuple[int, ...]]
    """Shape of the covariances, of (K, D)."""
    n_parameters: Callable[[int, int], int]
    """Free parameters in the covariances, of (K, D)."""
    n_moments: Callable[[int], int]
    """F, the number of features, and of sufficient statistics of a component, of D."""
    features: Callable[[int], NDArray[np.int64]]
    """The coordinates whose products the features are, (F, 2), of D; see the kernels."""
    stacked: Callable[[Array, int, int], Array]
    """Covariances or factors, with (K, D), as matrices (K or 1, D, D) or scales (K, D)."""


# Coordinates are (1, z_1, ... z_D), and for spherical covariances ‖z‖² as well.


def _triangle_features(n_features: int) -> NDArray[np.int64]:
    return np.stack(upper_triangle(1 + n_features), axis=1)


def _linear_features(n_coordinates: int) -> NDArray[np.int64]:
    coordinates = np.arange(n_coordinates)
    return np.stack([np.zeros_like(coordinates), coordinates], axis=1)


def _square_features(n_features: int) -> NDArray[np.int64]:
    return np.repeat(1 + np.arange(n_features), 2).reshape(-1, 2)


def _triangle(n_features: int) -> int:
    return n_features * (n_features + 1) // 2


@functools.lru_cache(maxsize=8)
def upper_triangle(n_features: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows and columns of the upper triangle of a (D, D) matrix, its diagonal too, by rows."""
    rows, columns = np.triu_indices(n_features)
    return rows.astype(np.int64), columns.astype(np.int64)


def symmetric(upper: Array, n_features: int) -> Array:
    """Matrices (k, D, D) from their upper triangles (k, D (D + 1) / 2), by rows."""
    matrices = np.empty((len(upper), n_features, n_features))
    rows, columns = upper_triangle(n_features)
    matrices[:, rows, columns] = upper
    matrices[:, columns, rows] = upper
    return matrices


STRUCTURES: dict[str, CovarianceStructure] = {
    "full": CovarianceStructure(
        code=FULL,
        is_triangular=True,
        shape=lambda k, d: (k, d, d),
        n_parameters=lambda k, d: k * _triangle(d),
        n_moments=lambda d: 1 + d + _triangle(d),
        features=_triangle_features,
        stacked=lambda array, k, d: array,
    ),
    "tied": CovarianceStructure(
        code=TIED,
        is_triangular=True,
        shape=lambda k, d: (d, d),
        n_parameters=lambda k, d: _triangle(d),
        n_moments=lambda d: 1 + d,
        features=lambda d: _linear_features(1 + d),
        stacked=lambda array, k, d: array[np.newaxis],
    ),
    "diag": CovarianceStructure(
        code=DIAG,
        is_triangular=False,
        shape=lambda k, d: (k, d),
        n_parameters=lambda k, d: k * d,
        n_moments=lambda d: 1 + 2 * d,
        features=lambda d: np.vstack([_linear_features(1 + d), _square_features(d)]),
        stacked=lambda array, k, d: array,
    ),
    "spherical": CovarianceStructure(
        code=SPHERICAL,
        is_triangular=False,
        shape=lambda k, d: (k,),
        n_parameters=lambda k, d: k,
        n_moments=lambda d: 2 + d,
        features=lambda d: _linear_features(2 + d),
        stacked=lambda array, k, d: np.repeat(array[:, np.newaxis], d, axis=1),
    ),
}


def blocks(n_matrices: int, n_features: int) -> Iterator[slice]:
    """Split matrices (n, D, D) into blocks of bounded size.

    Yields
    ------
    slice
        At least one matrix each.
    """
    size = max(1, BLOCK_BYTES // (8 * n_features**2))
    return (slice(start, start + size) for start in range(0, n_matrices, size))


def cholesky(structure: CovarianceStructure, covariances: Array) -> Array:
    """Factors L with Σ = L Lᵀ, stored like the covariances.

    Raises
    ------
    numpy.linalg.LinAlgError
        If a covariance is not positive definite.
    """
    if structure.is_triangular:
        factors: Array = np.linalg.cholesky(covariances).astype(np.float64, copy=False)
        return factors
    if not np.all(covariances > 0.0):
        raise np.linalg.LinAlgError("a variance is not positive")
    return np.sqrt(covariances)


def triangular(roots: Array) -> Array:
    """Factors L (k, D, D), L Lᵀ = Rᵀ R, of roots R (k, n, D); positive where R has full rank.

    They are found without the products, in which small standard deviations would drown.
    """
    factors = np.swapaxes(np.linalg.qr(roots, mode="r"), 1, 2)
    signs = np.sign(np.diagonal(factors, axis1=1, axis2=2))
    return np.ascontiguousarray(factors * signs[:, np.newaxis, :])


def invert(structure: CovarianceStructure, factors: Array) -> Array:
    """Inverse factors W = L⁻¹, stored like the factors."""
    if not structure.is_triangular:
        return 1.0 / factors
    inverse = np.empty_like(factors)
    for index in np.ndindex(factors.shape[:-2]):
        # A row-major lower triangle is LAPACK's (column-major) upper one, transposed.
        transposed, info = lapack.dtrtri(factors[index].T, lower=0)
        if info != 0:
            raise np.linalg.LinAlgError("a covariance factor is singular")
        inverse[index] = np.tril(transposed.T)
    return inverse


def solve(factors: Array, values: Array) -> Array:
    """Return L⁻¹ B for triangular factors L (..., D, D) and values B (..., D, n).

    Pivots of LU factorisation may underflow where standard deviations differ by more than the range
    of float64; L itself is never singular.
    """
    try:
        return np.linalg.solve(factors, values).astype(np.float64, copy=False)
    except np.linalg.LinAlgError:
        return _substituted(factors, values)


def _substituted(factors: Array, values: Array) -> Array:
    """Return L⁻¹ B by forward substitution."""
    shape = np.broadcast_shapes(factors.shape[:-2], values.shape[:-2])
    found = np.broadcast_to(values, (*shape, *values.shape[-2:])).astype(np.float64)
    for i in range(factors.shape[-1]):
        done = (factors[..., i, np.newaxis, :i] @ found[..., :i, :])[..., 0, :]
        found[..., i, :] = (found[..., i, :] - done) / factors[..., i, i, np.newaxis]
    return found


def log_determinants(structure: CovarianceStructure, stacked_factors: Array) -> Array:
    """ln |L_k| (K,) or (1,) of stacked factors."""
    diagonals = (
        np.diagonal(stacked_factors, axis1=-2, axis2=-1)
        if structure.is_triangular
        else stacked_factors
    )
    logarithms: Array = np.log(diagonals).sum(axis=-1)
    return logarithms


def variances(structure: CovarianceStructure, stacked_covariances: Array) -> Array:
    """Marginal variances (K, D) or (1, D) of stacked covariances."""
    if structure.is_triangular:
        return np.diagonal(stacked_covariances, axis1=-2, axis2=-1)
    return stacked_covariances
