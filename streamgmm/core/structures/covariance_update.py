"""Compute covariances from central moments, and widen those that are singular."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamgmm.core.structures.matrices import (
    BLOCK_BYTES,
    Array,
    cholesky,
    diagonals,
    product,
    products_with_transposed,
    triangular,
)

# Relative rounding error of a variance that is computed as a difference of second moments.
_ROUNDING = 1e-13
# A collapsed covariance is widened by the first of these that makes it positive definite, in units
# of the variances of all the data.
_FLOORS = (1e-12, 1e-8, 1e-4, 1.0)
# Least standard deviation of such a covariance, in roundings of the data.
_VISIBLE = 16.0
# Least pivot of a Cholesky factorisation, as a part of the diagonal element. Below it the rounding
# of elements, about 1e-16, is more than 1e-12 of a covariance.
_LEAST_PIVOT = 1e-4


@dataclass(frozen=True)
class CovarianceUpdate:
    """The computation of the covariances of some components from their central moments.

    Attributes
    ----------
    components : ndarray of shape (k,), int
    routes : sequence of callables
        Functions of (indices among the components, ridge (D,)) that return covariances and
        factors, the ridge added to the diagonals. A function raises LinAlgError if one is not
        positive definite; then all components take the next route, if the ridge is positive.
    """

    components: NDArray[np.intp]
    routes: Sequence[Callable[[slice, Array], tuple[Array, Array]]]

    def apply(
        self, resolution: Array, ridge: Array, spread: Array, covariances: Array, factors: Array
    ) -> list[int]:
        """Write stored covariances and factors; return the components that had to be widened.

        The floor is relative to the spread of all the data, variances (D,). Widths of components
        are not used, because other components may collapse too.
        """
        resolution = resolution[self.components]
        n, size = self.components.size, _rows_of_block(covariances)
        try:
            self._write(range(0, n, size), size, ridge, resolution, covariances, factors)
        except np.linalg.LinAlgError:
            return [
                int(k)
                for i, k in enumerate(self.components)
                if self._widen(i, spread, ridge, resolution, covariances, factors)
            ]
        return []

    def _write(
        self,
        starts: range,
        size: int,
        ridge: Array,
        resolution: Array,
        covariances: Array,
        factors: Array,
    ) -> None:
        """Write components of some blocks; raise if one is narrower than the data's rounding."""
        for route in self.routes:
            try:
                for start in starts:
                    block = slice(start, start + size)
                    own = self.components[block]
                    covariances[own], factors[own] = route(block, ridge)
                break
            except np.linalg.LinAlgError:
                if route is self.routes[-1] or not np.all(ridge > 0.0):
                    raise
        chosen = slice(starts.start, starts.stop)
        widths = diagonals(factors) if factors.ndim == 3 else factors
        if np.any(widths[self.components[chosen]] <= resolution[chosen]):
            raise np.linalg.LinAlgError("a standard deviation is below the data's rounding")

    def _widen(
        self,
        i: int,
        spread: Array,
        ridge: Array,
        resolution: Array,
        covariances: Array,
        factors: Array,
    ) -> bool:
        """Write one component, with the smallest floor that makes it positive definite."""
        visible = np.square(_VISIBLE * resolution[i])
        floors = [floor * spread + visible for floor in _FLOORS]
        for added in (np.zeros_like(ridge), *floors):
            try:
                self._write(range(i, i + 1), 1, ridge + added, resolution, covariances, factors)
            except np.linalg.LinAlgError:
                continue
            return bool(np.any(added > 0.0))
        raise np.linalg.LinAlgError("a covariance is not finite")


def _rows_of_block(covariances: Array) -> int:
    """Return the number of components that are updated at once."""
    return max(1, BLOCK_BYTES // covariances[:1].nbytes)


def separate(
    raw: Array, central: Array, scales: Array, ridge: Array | float
) -> tuple[Array, Array]:
    """Return variances s² T + ridge and their roots."""
    _require_spread(raw, central, ridge)
    variances: Array = np.maximum(central, 0.0) * np.square(scales) + ridge
    return variances, np.sqrt(variances)


def scaled(raw: Array, central: Array, scale: Array, ridge: Array) -> tuple[Array, Array]:
    """Return Σ = diag(s) T diag(s) + diag(ridge) and its factor; T (k, D, D), s (D,)."""
    _require_spread(diagonals(raw), diagonals(central), ridge)
    covariances: Array = central * np.outer(scale, scale) + np.diag(ridge)
    return covariances, cholesky(covariances)


def whitened(
    raw: Array,
    central: Array,
    bases: Array,
    inverse: Array,
    ridge: Array,
    factor: Callable[[Array, Array, Array, Array], Array],
) -> tuple[Array, Array]:
    """Return Σ = B T Bᵀ + diag(ridge) and its factor, which keeps the digits of B.

    T, B and B⁻¹ have shape (k, D, D); ``factor`` is :func:`whitened_factor` or
    :func:`spectral_factor`.
    """
    # A coordinate may combine several columns.
    _require_spread(diagonals(raw), diagonals(central), ridge.min())
    factors = factor(central, bases, inverse, ridge)
    if not np.all(diagonals(factors) > 0.0):
        raise np.linalg.LinAlgError("a covariance factor is singular")
    return products_with_transposed(factors), factors


def whitened_factor(central: Array, bases: Array, inverse: Array, ridge: Array) -> Array:
    """Return the factors of B T Bᵀ + diag(ridge), of whitened moments T.

    The factor is B C with the factor C of T + W Wᵀ, W = B⁻¹ diag(√ridge), where T may be singular.
    If rounding of this sum matters in C, it is the factor of (B root(T), diag(√ridge)) instead.
    """
    roots = _roots_of_sum(central, inverse, ridge)
    if roots is None:
        return _stacked_factor(cholesky(central), bases, ridge)
    return product(bases, roots)


def _roots_of_sum(central: Array, inverse: Array, ridge: Array) -> Array | None:
    """Return the factors of T + W Wᵀ, or None if rounding matters in one of them."""
    with np.errstate(over="ignore", invalid="ignore"):
        added = inverse * np.sqrt(ridge)
        sums = central + added @ np.swapaxes(added, 1, 2)
    if not np.isfinite(sums).all():
        return None
    try:
        roots = cholesky(sums)
    except np.linalg.LinAlgError:
        return None
    is_resolved = np.square(diagonals(roots)) > _LEAST_PIVOT * diagonals(sums)
    return roots if np.all(is_resolved) else None


def spectral_factor(central: Array, bases: Array, inverse: Array, ridge: Array) -> Array:
    """Return the factors of B T Bᵀ + diag(ridge) for the part of T that is not negative."""
    return _stacked_factor(spectral_roots(central), bases, ridge)


def _stacked_factor(roots: Array, bases: Array, ridge: Array) -> Array:
    """Return the factors of (B R, diag(√ridge))."""
    spread = bases @ roots
    ridges = np.broadcast_to(np.diag(np.sqrt(ridge)), spread.shape)
    return triangular(np.concatenate([np.swapaxes(spread, 1, 2), ridges], axis=1))


def spectral_roots(matrices: Array) -> Array:
    """Return roots R (k, D, D), R Rᵀ = T, of symmetric matrices T without their negative part."""
    eigenvalues, vectors = np.linalg.eigh(matrices)
    roots: Array = vectors * np.sqrt(np.maximum(eigenvalues, 0.0))[:, np.newaxis, :]
    return roots


def _require_spread(raw: Array, central: Array, ridge: Array | float) -> None:
    """Refuse variances that are only rounding, if the ridge is 0."""
    if np.any((central <= _ROUNDING * raw) & (np.asarray(ridge) == 0.0)):
        raise np.linalg.LinAlgError("a variance is 0 to rounding")
