"""How covariances follow from central moments, and what is done where they are singular."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamgmm.core.structures.matrices import BLOCK_BYTES, Array, diagonals, triangular

# Rounding leaves about this much of a second moment when the variance that is taken from it is 0.
_ROUNDING = 1e-13
# What a collapsed covariance is widened by, in variances of all the data: the first that makes it
# positive definite.
_FLOORS = (1e-12, 1e-8, 1e-4, 1.0)
# Roundings of the data that such a covariance spans at least.
_VISIBLE = 16.0


@dataclass(frozen=True)
class CovarianceUpdate:
    """How the covariances of some components follow from their central moments.

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

        A component's own width is no measure of what is narrow, nor are those of others if they
        collapse one after the other. The measure is the spread of all the data, variances (D,).
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
        """Write the components of some blocks, unless they are narrower than the data can be."""
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
    """Return how many components are updated at once."""
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
    return covariances, cholesky_roots(covariances)


def whitened(
    raw: Array, central: Array, bases: Array, ridge: Array, root: Callable[[Array], Array]
) -> tuple[Array, Array]:
    """Return Σ = B T Bᵀ + diag(ridge) and its factor, which keeps the digits of B.

    T and B have shape (k, D, D). The factor is that of (B root(T), diag(√ridge)).
    """
    # Each coordinate may be of several columns.
    _require_spread(diagonals(raw), diagonals(central), ridge.min())
    spread = bases @ root(central)
    ridges = np.broadcast_to(np.diag(np.sqrt(ridge)), spread.shape)
    stacked = np.concatenate([np.swapaxes(spread, 1, 2), ridges], axis=1)
    factors = triangular(stacked)
    if not np.all(diagonals(factors) > 0.0):
        raise np.linalg.LinAlgError("a covariance factor is singular")
    covariances = factors @ np.swapaxes(factors, 1, 2)
    return 0.5 * (covariances + np.swapaxes(covariances, 1, 2)), factors


def cholesky_roots(matrices: Array) -> Array:
    """Return lower triangular roots of matrices (k, D, D)."""
    return np.linalg.cholesky(matrices).astype(np.float64, copy=False)


def spectral_roots(matrices: Array) -> Array:
    """Return roots R (k, D, D), R Rᵀ = T, of symmetric matrices T without their negative part."""
    eigenvalues, vectors = np.linalg.eigh(matrices)
    roots: Array = vectors * np.sqrt(np.maximum(eigenvalues, 0.0))[:, np.newaxis, :]
    return roots


def _require_spread(raw: Array, central: Array, ridge: Array | float) -> None:
    """Refuse variances that are nothing but rounding, where no ridge stands in for them."""
    if np.any((central <= _ROUNDING * raw) & (np.asarray(ridge) == 0.0)):
        raise np.linalg.LinAlgError("a variance is 0 to rounding")
