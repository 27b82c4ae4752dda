"""The algebra of covariances of low rank: loadings, noise variances, and stored factors.

Covariances are stored as (K, D, R + 1): the loadings Λ, then the noise variances ψ. With
Ψ^(-1/2) Λ = U diag(s) Oᵀ, U orthonormal, a factor of Σ is Ψ^(1/2) (I + U diag(g) Uᵀ), where
g = √(1 + s²) - 1. It is stored as U diag(√g), then √ψ. The inverse of a factor is
(I - U diag(h) Uᵀ) Ψ^(-1/2) with h = g / (1 + g), stored as U diag(√h), then -ψ^(-1/2). The
negative last column shows that it is an inverse.
"""

import numpy as np

from streamgmm.core.structures.matrices import Array


def joined(loadings: Array, noise_variances: Array) -> Array:
    """Return stored covariances from loadings (K, D, R) and noise variances (K, D)."""
    return np.concatenate([loadings, noise_variances[:, :, np.newaxis]], axis=2)


def loadings_of(covariances: Array) -> Array:
    """Return the loadings (K, D, R) of stored covariances."""
    return np.ascontiguousarray(covariances[:, :, :-1])


def noise_variances_of(covariances: Array) -> Array:
    """Return the noise variances (K, D) of stored covariances."""
    return np.ascontiguousarray(covariances[:, :, -1])


def dense_covariances(covariances: Array) -> Array:
    """Return matrices (K, D, D) of stored covariances."""
    loadings = covariances[:, :, :-1]
    found = loadings @ np.swapaxes(loadings, 1, 2)
    diagonal = np.arange(found.shape[1])
    found[:, diagonal, diagonal] += covariances[:, :, -1]
    return found


def dense_precisions(factors: Array) -> Array:
    """Return the inverses (K, D, D) of the covariances with stored factors."""
    projections = projections_of(factors)
    found = -projections @ np.swapaxes(projections, 1, 2)
    diagonal = np.arange(found.shape[1])
    found[:, diagonal, diagonal] += 1.0 / np.square(factors[:, :, -1])
    return found


def projections_of(factors: Array) -> Array:
    """Return V (K, D, R) of stored factors, with Σ⁻¹ = Ψ⁻¹ - V Vᵀ."""
    gains = gains_of(factors)[:, np.newaxis, :]
    found: Array = factors[:, :, :-1] * (np.sqrt(2.0 + gains) / (1.0 + gains))
    return found / factors[:, :, -1:]


def gains_of(factors: Array) -> Array:
    """Return g (K, R) of stored factors, or h of inverse ones: squared lengths of the columns."""
    found: Array = np.square(factors[:, :, :-1]).sum(axis=1)
    return found


def factors_of(covariances: Array) -> Array:
    """Return stored factors of stored covariances.

    Raises
    ------
    numpy.linalg.LinAlgError
        If a noise variance is not positive, or a value is not finite.
    """
    noise = covariances[:, :, -1]
    if not np.all(noise > 0.0):
        raise np.linalg.LinAlgError("a noise variance is not positive")
    roots = np.sqrt(noise)[:, :, np.newaxis]
    directions, sizes, _ = np.linalg.svd(covariances[:, :, :-1] / roots, full_matrices=False)
    # g = √(1 + s²) - 1, which is s² / (1 + √(1 + s²)).
    scales = sizes / np.sqrt(1.0 + np.hypot(1.0, sizes))
    # Fewer columns than the rank have fewer directions.
    found = np.zeros_like(covariances, dtype=np.float64)
    found[:, :, : sizes.shape[1]] = directions * scales[:, np.newaxis, :]
    found[:, :, -1:] = roots
    return found
