"""The M-step of covariances of low rank, from moments along a basis for each component.

The products of a component's second moments S with a basis A (D × W) determine one EM step of
factor analysis, if A spans Ψ⁻¹Λ. With directions to spare they also determine most of S: its
Nyström form S A (Aᵀ S A)⁻¹ Aᵀ S, and its diagonal is known. What remains of S does not act on A,
and is taken for noise between the other directions. So more EM steps follow from the same pass over
the data. The first one is exact, hence a fixed point of all steps is one of EM.

References
----------
Ghahramani & Hinton (1996), The EM algorithm for mixtures of factor analyzers.
Meng & Rubin (1993), Maximum likelihood estimation via the ECM algorithm.
Halko, Martinsson & Tropp (2011), Finding structure with randomness.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from streamgmm.core.structures.covariance_update import CovarianceUpdate
from streamgmm.core.structures.low_rank_factors import factors_of, gains_of, projections_of
from streamgmm.core.structures.matrices import Array

if TYPE_CHECKING:
    from streamgmm.core.statistics import Statistics

#: Directions of a basis in addition to the rank.
SPARE_DIRECTIONS = 8
# Least noise variance, as a part of a column's variance in the component: below it densities would
# lose more than half of their digits.
_LEAST_NOISE = 1e-10
# Least noise variance, as a part of the variance of all the data, and of the rounding of the data.
_LEAST_OF_SPREAD, _VISIBLE = 1e-12, 16.0
# Singular values of a basis, and eigenvalues of moments along it, that count as 0; over the
# largest.
_LEAST_LENGTH, _LEAST_MOMENT = 1e-9, 1e-12
# Steps that find the noise between the directions of no basis.
_REST_STEPS = 5
# Steps of factor analysis on the moments of one pass.
_N_STEPS = 60
# Size of directions that fill up a basis, beside those that moments show.
_FILLING = 1e-6


def n_spare(rank: int, n_features: int) -> int:
    """Return the number of directions of a basis in addition to the rank."""
    return min(SPARE_DIRECTIONS, n_features - rank) if rank else 0


def bases_of(frame_factors: Array, rank: int) -> Array:
    """Return the bases (C, D, W) of a frame: V of the factors, then the directions to spare.

    Directions that are 0 in all components are skipped.
    """
    spare, factors = parted(frame_factors, rank)
    projections = projections_of(factors)
    return np.concatenate([projections, spare], axis=2) if spare.any() else projections


def parted(frame_factors: Array, rank: int) -> tuple[Array, Array]:
    """Return the directions to spare of a frame, and its stored factors."""
    first = frame_factors.shape[2] - rank - 1
    return frame_factors[:, :, :first], frame_factors[:, :, first:]


@dataclass(frozen=True, eq=False)
class SecondMoments:
    """Central second moments S of a component, divided by its count, as far as a basis shows them.

    In units of the noise of the basis, S = F Fᵀ + (I - Q Qᵀ) diag(δ) (I - Q Qᵀ).

    Attributes
    ----------
    squares : ndarray of shape (D,)
        The diagonal of S.
    units : ndarray of shape (D,)
        Standard deviations of the noise.
    span : ndarray of shape (D, W)
        Q, orthonormal.
    visible : ndarray of shape (D, W)
        F.
    rest : ndarray of shape (D,)
        δ.
    """

    squares: Array
    units: Array
    span: Array
    visible: Array
    rest: Array

    @classmethod
    def of(cls, basis: Array, squares: Array, products: Array, units: Array) -> "SecondMoments":
        """Return the moments with known products S A (D, W) with a basis A (D, W)."""
        left, lengths, right = np.linalg.svd(basis * units[:, np.newaxis], full_matrices=False)
        is_long = lengths > _LEAST_LENGTH * lengths.max(initial=0.0)
        span = left[:, is_long]
        images = products / units[:, np.newaxis] @ (right[is_long].T / lengths[is_long])
        inner = span.T @ images
        sizes, vectors = np.linalg.eigh(0.5 * (inner + inner.T))
        is_large = sizes > _LEAST_MOMENT * sizes.max(initial=0.0)
        visible = images @ (vectors[:, is_large] / np.sqrt(sizes[is_large]))
        hidden = squares / np.square(units) - np.square(visible).sum(axis=1)
        return cls(squares, units, span, visible, _rest(np.maximum(hidden, 0.0), span))

    def times(self, vectors: Array) -> Array:
        """Return S times vectors (D, n)."""
        units = self.units[:, np.newaxis]
        scaled = vectors * units
        outside = scaled - self.span @ (self.span.T @ scaled)
        noise = self.rest[:, np.newaxis] * outside
        noise -= self.span @ (self.span.T @ noise)
        found: Array = units * (self.visible @ (self.visible.T @ scaled) + noise)
        return found

    def directions(self, loadings: Array, noise: Array, count: int) -> Array:
        """Return the leading directions (D, count) beside the loadings, as parts of a basis."""
        roots = np.sqrt(noise)[:, np.newaxis]
        filling = _filling(len(noise), count)
        seen = self.visible * (self.units[:, np.newaxis] / roots)
        seen = np.concatenate([seen, _FILLING * filling], axis=1)
        span = np.linalg.qr(loadings / roots)[0]
        seen -= span @ (span.T @ seen)
        found: Array = np.linalg.svd(seen, full_matrices=False)[0][:, :count] / roots
        return found


def refined(moments: SecondMoments, loadings: Array, noise: Array) -> tuple[Array, Array]:
    """Return loadings and noise variances after EM steps of factor analysis on second moments.

    Parameters
    ----------
    moments : SecondMoments
    loadings : ndarray of shape (D, R)
    noise : ndarray of shape (D,)
    """
    nothing = np.zeros_like(noise)
    return _further_steps(moments, loadings, noise, nothing, _LEAST_NOISE * moments.squares)


def first_directions(frame_factors: Array, count: int) -> Array:
    """Return directions (K, D, count) for bases of stored factors of which no moments are known."""
    d = frame_factors.shape[1]
    return _filling(d, count) / frame_factors[:, :, -1:]


def _filling(n_features: int, count: int) -> Array:
    """Return directions (D, count), the same each time."""
    drawn: Array = np.random.RandomState(0).standard_normal((n_features, count))
    return drawn / math.sqrt(n_features)


def _rest(hidden: Array, span: Array) -> Array:
    """Return δ (D,) so that (I - Q Qᵀ) diag(δ) (I - Q Qᵀ) has nearly this diagonal."""
    shares = np.square(span).sum(axis=1)
    if span.shape[1] == len(hidden):
        return np.zeros_like(hidden)
    # Exact if all are equal.
    rest: Array = hidden / np.maximum(1.0 - shares, _LEAST_LENGTH)
    for _ in range(_REST_STEPS):
        inner = span.T @ (rest[:, np.newaxis] * span)
        found = rest * (1.0 - 2.0 * shares) + ((span @ inner) * span).sum(axis=1)
        rest = rest * np.divide(hidden, found, out=np.zeros_like(found), where=found > 0.0)
    return rest


@dataclass(frozen=True)
class FactorUpdate(CovarianceUpdate):
    """EM steps of factor analysis for each component, from the moments of its rows.

    The E-step is that of the factors under which the moments were taken. The rows are widened by
    the ridge, as for other structures, and no noise variance is below the ridge.

    Attributes
    ----------
    statistics : Statistics
    offsets, shifts : ndarray of shape (K, D)
        As for :meth:`~streamgmm.core.structures.low_rank.LowRank.updates`.
    is_complete : bool
        Whether more steps follow the first one, on the moments as far as the basis shows them.
    """

    statistics: "Statistics"
    offsets: Array
    shifts: Array
    is_complete: bool

    def apply(
        self, resolution: Array, ridge: Array, spread: Array, covariances: Array, factors: Array
    ) -> list[int]:
        widened = []
        for k in self.components.tolist():
            basis, stored, squares, products = component_moments(
                self.statistics, k, covariances.shape[2] - 1, self.offsets[k], self.shifts[k]
            )
            loadings, noise = _first_step(stored, squares, products, ridge)
            least = np.maximum(
                _LEAST_NOISE * (squares + ridge),
                _LEAST_OF_SPREAD * spread + np.square(_VISIBLE * resolution[k]),
            )
            noise, floor = np.maximum(noise, ridge), np.maximum(least, ridge)
            if np.any(noise < least):
                noise = np.maximum(noise, least)
                widened.append(k)
            elif self.is_complete:
                moments = SecondMoments.of(basis, squares, products, stored[:, -1])
                loadings, noise = _further_steps(moments, loadings, noise, ridge, floor)
            covariances[k, :, :-1], covariances[k, :, -1] = loadings, noise
            factors[k] = factors_of(covariances[k : k + 1])[0]
        return widened


def component_moments(
    statistics: "Statistics", k: int, rank: int, offset: Array, shift: Array
) -> tuple[Array, Array, Array, Array]:
    """Return the basis of a component, its factor, and its moments divided by its count.

    Parameters
    ----------
    statistics : Statistics
    k : int
    rank : int
    offset : ndarray of shape (D,)
        Mean of the rows about the component's origin.
    shift : ndarray of shape (D,)
        Difference of the mean of the rows from the mean that moments are taken about.

    Returns
    -------
    basis : ndarray of shape (D, W)
    factor : ndarray of shape (D, R + 1)
    squares : ndarray of shape (D,)
    products : ndarray of shape (D, W)
    """
    frame, d = statistics.frame, statistics.frame.n_features
    position = int(np.searchsorted(frame.centred, k))
    own = frame.factors[position : position + 1]
    basis, factor = bases_of(own, rank)[0], parted(own, rank)[1][0]
    moments = statistics.moments[k, 1 + d :] / statistics.counts[k]
    squares = np.maximum(moments[:d] - (np.square(offset) - np.square(shift)), 0.0)
    products = moments[d : (1 + basis.shape[1]) * d].reshape(-1, d).T.copy()
    products -= np.outer(offset, offset @ basis)
    products += np.outer(shift, shift @ basis)
    return basis, factor, squares, products


def _first_step(
    factor: Array, squares: Array, products: Array, ridge: Array
) -> tuple[Array, Array]:
    """Return the loadings and the noise variances of an EM step from the factor of a basis."""
    projections = projections_of(factor[np.newaxis])[0]
    shrinkage = 1.0 / (1.0 + gains_of(factor[np.newaxis])[0])
    # Moments of the rows with the expected factors, and second moments of the factors.
    own = products[:, : len(shrinkage)] + ridge[:, np.newaxis] * projections
    across = own * shrinkage
    inner = (projections.T @ across) * shrinkage[:, np.newaxis]
    inner = 0.5 * (inner + inner.T) + np.diag(np.square(shrinkage))
    loadings = np.linalg.solve(inner, across.T).T
    return loadings, squares + ridge - (loadings * across).sum(axis=1)


def _further_steps(
    moments: SecondMoments, loadings: Array, noise: Array, ridge: Array, floor: Array
) -> tuple[Array, Array]:
    """Return loadings and noise variances after EM steps on moments."""
    squares, best = moments.squares + ridge, -np.inf
    found = loadings, noise
    for _ in range(_N_STEPS):
        scaled = loadings / noise[:, np.newaxis]
        precisions = np.eye(loadings.shape[1]) + loadings.T @ scaled
        covariances = np.linalg.inv(precisions)
        across = (moments.times(scaled) + ridge[:, np.newaxis] * scaled) @ covariances
        size = np.log(noise).sum() + np.linalg.slogdet(precisions)[1]
        value = -0.5 * float(size + (squares / noise).sum() - (scaled * across).sum())
        if not value >= best:
            break
        found = loadings, noise
        best = value
        inner = covariances @ (scaled.T @ across) + covariances
        loadings = np.asarray(np.linalg.solve(0.5 * (inner + inner.T), across.T).T, np.float64)
        noise = np.maximum(squares - (loadings * across).sum(axis=1), floor)
    return found
