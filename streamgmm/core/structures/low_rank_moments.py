"""Second moments of components of low rank along bases, and covariances that are sums of others.

Statistics hold, of a matrix S of second moments, its diagonal and its products with the basis of
the frame. Both are linear in S, so those of a sum of matrices add.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from streamgmm.core.structures.low_rank_factors import joined
from streamgmm.core.structures.low_rank_update import (
    SecondMoments,
    bases_of,
    component_moments,
    refined,
)
from streamgmm.core.structures.matrices import Array

if TYPE_CHECKING:
    from streamgmm.core.frame import Frame
    from streamgmm.core.parameters import Parameters
    from streamgmm.core.statistics import Statistics

# Directions in addition to the rank, and products, that find the leading ones of many.
_SPARE, _N_PRODUCTS = 8, 4


@dataclass(frozen=True, eq=False)
class BasisMoments:
    """The second moments of matrices (K, D, D) in a frame, which are not formed.

    Attributes
    ----------
    bases : ndarray of shape (K, D, W)
        Directions of the frame.
    n_values : int
        Number of second moments of a component.
    """

    bases: Array
    n_values: int

    @classmethod
    def of(cls, frame: "Frame", rank: int, n_values: int) -> "BasisMoments":
        """Return the second moments in a frame in which each component has a basis."""
        return cls(bases_of(frame.factors, rank), n_values)

    def outer(self, left: Array, right: Array) -> Array:
        """Return those of l rᵀ, (K, M), of vectors (K, D)."""
        along = np.einsum("kd,kdw->kw", right, self.bases)
        return self._joined(left * right, along[:, :, np.newaxis] * left[:, np.newaxis, :])

    def diagonal(self, diagonals: Array) -> Array:
        """Return those of diagonal matrices, (K, M), given as (K, D)."""
        products = np.swapaxes(self.bases * diagonals[:, :, np.newaxis], 1, 2)
        return self._joined(diagonals, products)

    def covariance(self, covariances: Array) -> Array:
        """Return those of stored covariances, (K, M)."""
        loadings, noise = covariances[:, :, :-1], covariances[:, :, -1]
        along = np.swapaxes(self.bases, 1, 2) @ loadings
        squares = np.square(loadings).sum(axis=2)
        return self.diagonal(noise) + self._joined(squares, along @ np.swapaxes(loadings, 1, 2))

    def _joined(self, squares: Array, products: Array) -> Array:
        """Return second moments of a diagonal (K, D) and products (K, W, D); the rest is 0."""
        found = np.zeros((len(squares), self.n_values))
        d = squares.shape[1]
        found[:, :d] = squares
        found[:, d : d + products[0].size] = products.reshape(len(squares), -1)
        return found


def reexpressed(statistics: "Statistics", rank: int, frame: "Frame") -> Array:
    """Return moments (K, M) of statistics along the bases of another frame, about its origins.

    Counts, sums and squares are exact. Products with directions that the old basis does not span
    are those of the Nyström form of :class:`SecondMoments`.

    Parameters
    ----------
    statistics : Statistics
    rank : int
    frame : Frame
        A frame with the same components.
    """
    d, found = frame.n_features, np.zeros_like(statistics.moments)
    counts = statistics.counts
    found[:, 0] = counts
    bases = bases_of(frame.factors, rank)
    offsets = np.zeros_like(frame.means)
    alive = counts > 0.0
    offsets[alive] = statistics.moments[alive, 1 : 1 + d] / counts[alive, np.newaxis]
    means = frame.coordinates(statistics.frame.points(offsets))
    for k in np.flatnonzero(alive).tolist():
        basis, factor, squares, products = component_moments(
            statistics, k, rank, offsets[k], np.zeros(d)
        )
        moments = SecondMoments.of(basis, squares, products, factor[:, -1])
        along = moments.times(bases[k]) + np.outer(means[k], means[k] @ bases[k])
        values = np.concatenate([means[k], squares + np.square(means[k]), along.T.ravel()])
        found[k, 1 : 1 + values.size] = counts[k] * values
    return found


def standard(parameters: "Parameters", frame: "Frame", counts: Array) -> Array:
    """Return the expected moments (K, M) of counts (K,) of rows from each component."""
    structure = parameters.structure
    own = BasisMoments.of(
        frame, structure.rank, structure.n_moments(frame.n_features) - 1 - frame.n_features
    )
    means = frame.coordinates(parameters.means)
    second = own.covariance(parameters.covariances) + own.outer(means, means)
    moments = np.concatenate([np.ones((len(means), 1)), means, second], axis=1)
    found: Array = counts[:, np.newaxis] * moments
    return found


def condensed(loadings: Array, noise: Array, rank: int) -> Array:
    """Return a covariance (D, R + 1), as it is stored, that is near to L Lᵀ + diag(ψ).

    Steps of factor analysis from the leading directions lower the Kullback-Leibler divergence.

    Parameters
    ----------
    loadings : ndarray of shape (D, W)
        L.
    noise : ndarray of shape (D,)
        ψ.
    rank : int
        R.
    """
    if loadings.shape[1] <= rank:
        padding = np.zeros((len(noise), rank - loadings.shape[1]))
        found = np.concatenate([loadings, padding], axis=1), noise
    else:
        units = np.sqrt(noise)[:, np.newaxis]
        scaled = loadings / units
        leading = _leading(scaled, rank)
        kept = leading @ (leading.T @ scaled)
        hidden = np.square(scaled - kept).sum(axis=1)
        sizes = np.sqrt(np.square(leading.T @ scaled).sum(axis=1))
        start = units * leading * sizes, noise * (1.0 + hidden)
        squares = np.square(loadings).sum(axis=1) + noise
        moments = SecondMoments(squares, units[:, 0], leading[:, :0], scaled, np.ones_like(noise))
        found = refined(moments, *start)
    stored: Array = joined(found[0][np.newaxis], found[1][np.newaxis])[0]
    return stored


def _leading(loadings: Array, rank: int) -> Array:
    """Return the leading left singular vectors (D, R) of loadings (D, W)."""
    d, width = loadings.shape
    found = loadings
    if width > rank + _SPARE and d > rank + _SPARE:
        found = loadings @ np.random.RandomState(0).standard_normal((width, rank + _SPARE))
        for _ in range(_N_PRODUCTS):
            basis = np.linalg.qr(found)[0]
            found = loadings @ (loadings.T @ basis)
        basis = np.linalg.qr(found)[0]
        found = basis @ np.linalg.svd(basis.T @ loadings, full_matrices=False)[0]
        return np.asarray(found[:, :rank], np.float64)
    return np.asarray(np.linalg.svd(found, full_matrices=False)[0][:, :rank], np.float64)
