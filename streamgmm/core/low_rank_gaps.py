"""Rows that lack values, under covariances of low rank.

For observed values u_o of a residual, with C = I + Λ_oᵀ Ψ_o⁻¹ Λ_o, the factors have the mean
C⁻¹ Λ_oᵀ Ψ_o⁻¹ u_o and the covariance C⁻¹, and the missing values are Λ_m z plus noise. No matrix of
D × D is formed.

References
----------
Ghahramani & Hinton (1996), The EM algorithm for mixtures of factor analyzers.
Ghahramani & Jordan (1994), Supervised learning from incomplete data via an EM approach.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamgmm.core.frame import Frame
from streamgmm.core.kernels.log_joint import NOISE
from streamgmm.core.parameters import Parameters
from streamgmm.core.statistics import Statistics
from streamgmm.core.structures import Array, solve
from streamgmm.core.structures.low_rank_update import bases_of

# Values of the largest array of a block of rows, and rows of a block.
_BLOCK_VALUES, _MOST_ROWS = 1 << 16, 1024


@dataclass(frozen=True, eq=False)
class _Given:
    """One component given the observed values of n rows.

    Attributes
    ----------
    log_joint : ndarray of shape (n,)
    expected : ndarray of shape (n, D)
        Residuals: the observed ones, and the expected ones of missing values.
    inverse_roots : ndarray of shape (n, R, R)
        Inverse Cholesky factors of C.
    log_determinants : ndarray of shape (n,)
        ln |C|.
    """

    log_joint: Array
    expected: Array
    inverse_roots: Array
    log_determinants: Array


@dataclass(frozen=True, eq=False)
class LowRankGaps:
    """A mixture of low rank, prepared for rows that lack some values.

    Attributes
    ----------
    parameters : Parameters
    frame : Frame
        Its factors and means say how moments are taken.
    log_offsets : ndarray of shape (K,)
        ln π_k, or what replaces it.
    limit : float
        Rows that hold a larger value are skipped.
    is_hard : bool
    """

    parameters: Parameters
    frame: Frame
    log_offsets: Array
    limit: float
    is_hard: bool

    def statistics(self, rows: Array, weights: Array) -> Statistics:
        """Return expected statistics of rows (n, D) with gaps; weights (n,), or none."""
        total = Statistics.zero(self.frame, self.parameters.n_components)
        for block in self._blocks(len(rows)):
            own = weights[block] if weights.size else np.ones(len(rows[block]))
            total = total.merge(self._block_statistics(rows[block], own))
        return total

    def posteriors(
        self, rows: Array, with_responsibilities: bool, with_missing_values: bool
    ) -> tuple[Array, NDArray[np.int64], Array, Array]:
        """Return scores (n,), labels (n,), responsibilities (n, K) and expected values (n, D).

        Responsibilities and expected values have no rows if they are not asked for. Rows that
        overflow have the score -inf.
        """
        n, k = len(rows), self.parameters.n_components
        scores, labels = np.full(n, -np.inf), np.full(n, int(np.argmax(self.parameters.weights)))
        unsound = self.parameters.weights
        if self.parameters.noise is not None:
            labels, unsound = np.full(n, NOISE), np.zeros(k)
        responsibilities = np.empty((n if with_responsibilities else 0, k))
        values = np.empty((n if with_missing_values else 0, self.parameters.n_features))
        for block in self._blocks(n):
            part, is_sound = self._sound(rows[block])
            given = self._given(part)
            log_joint = self._log_joint(part, given)
            own_scores, shares = _normalized(log_joint)
            scores[block] = np.where(is_sound, own_scores, -np.inf)
            labels[block] = np.where(is_sound, _labels(log_joint, k), labels[block])
            shares = np.where(is_sound[:, np.newaxis], shares[:, :k], unsound)
            if with_responsibilities:
                responsibilities[block] = shares
            if with_missing_values:
                values[block] = sum(
                    shares[:, [j]] * (one.expected + self.parameters.means[j])
                    for j, one in enumerate(given)
                )
        return scores, labels.astype(np.int64), responsibilities, values

    def _blocks(self, n_rows: int) -> list[slice]:
        rank = self.parameters.structure.rank
        width = max(self.parameters.n_features, rank**2) * self.parameters.n_components
        size = max(1, min(_MOST_ROWS, _BLOCK_VALUES // width))
        return [slice(start, start + size) for start in range(0, n_rows, size)]

    def _sound(self, rows: Array) -> tuple[Array, NDArray[np.bool_]]:
        """Return the rows without values that overflow, and which rows held none."""
        with np.errstate(invalid="ignore"):
            is_sound = np.asarray(~(np.abs(rows) > self.limit).any(axis=1))
        return np.where(is_sound[:, np.newaxis], rows, np.nan), is_sound

    def _given(self, rows: Array) -> list[_Given]:
        """Return each component given the observed values of rows; NaN is a missing value."""
        is_seen = ~np.isnan(rows)
        return [self._one_given(k, rows, is_seen) for k in range(self.parameters.n_components)]

    def _log_joint(self, rows: Array, given: list[_Given]) -> Array:
        """Return log-joint densities (n, K) of observed values, with that of noise at the end."""
        parts = [one.log_joint for one in given]
        noise = self.parameters.noise
        if noise is not None:
            parts.append(noise.log_joint + np.isnan(rows) @ noise.log_ranges)
        return np.stack(parts, axis=1)

    def _one_given(self, k: int, rows: Array, is_seen: NDArray[np.bool_]) -> _Given:
        stored, mean = self.parameters.covariances[k], self.parameters.means[k]
        loadings, noise = stored[:, :-1], stored[:, -1]
        n, rank = len(rows), loadings.shape[1]
        residuals = np.where(is_seen, rows - mean, 0.0)
        products = loadings[:, :, np.newaxis] * loadings[:, np.newaxis, :]
        of_seen = (is_seen / noise) @ products.reshape(-1, rank**2)
        matrices = np.eye(rank) + of_seen.reshape(n, rank, rank)
        roots = np.linalg.cholesky(matrices).astype(np.float64, copy=False)
        inverse_roots = solve(roots, np.broadcast_to(np.eye(rank), (n, rank, rank)))
        scaled = (residuals / noise) @ loadings
        along = np.einsum("nij,nj->ni", inverse_roots, scaled)
        factors = np.einsum("nij,ni->nj", inverse_roots, along)
        log_determinants = 2.0 * np.log(np.diagonal(roots, axis1=1, axis2=2)).sum(axis=1)
        squares = (np.square(residuals) / noise).sum(axis=1) - np.square(along).sum(axis=1)
        constants = np.where(is_seen, np.log(noise) + math.log(2.0 * math.pi), 0.0).sum(axis=1)
        log_joint = self.log_offsets[k] - 0.5 * (constants + log_determinants + squares)
        expected = np.where(is_seen, residuals, factors @ loadings.T)
        return _Given(log_joint, expected, inverse_roots, log_determinants)

    def _block_statistics(self, rows: Array, weights: Array) -> Statistics:
        part, is_sound = self._sound(rows)
        given = self._given(part)
        log_joint = self._log_joint(part, given)
        scores, shares = _normalized(log_joint)
        if self.is_hard:
            labels = _labels(log_joint, len(given))
            scores = log_joint.max(axis=1)
            shares = (labels[:, np.newaxis] == np.arange(len(given))).astype(np.float64)
        own = np.where(is_sound, weights, 0.0)
        shares = shares * own[:, np.newaxis]
        is_missing = np.isnan(part)
        sums = [
            self._moments(k, one, shares[:, k], is_missing & is_sound[:, np.newaxis])
            for k, one in enumerate(given)
        ]
        entropies = [entropy for _, entropy in sums]
        if self.parameters.noise is not None:
            of_noise = own - shares[:, : len(given)].sum(axis=1)
            entropies.append(float(of_noise @ (is_missing @ self.parameters.noise.log_ranges)))
        n_overflowing = int((~is_sound).sum())
        return Statistics(
            self.frame,
            np.stack([moments for moments, _ in sums]),
            np.empty((0, 0)),
            log_likelihood=float(own @ np.where(is_sound, scores, 0.0)),
            weight=float(own.sum()),
            n_rows=len(rows) - n_overflowing,
            n_overflowing=n_overflowing,
            conditional_entropy=math.fsum(entropies),
        )

    def _moments(
        self, k: int, given: _Given, shares: Array, is_missing: NDArray[np.bool_]
    ) -> tuple[Array, float]:
        """Return the expected moments of a component, and Σγ times the conditional entropies."""
        stored = self.parameters.covariances[k]
        loadings, noise = stored[:, :-1], stored[:, -1]
        position = int(np.searchsorted(self.frame.centred, k))
        basis = bases_of(self.frame.factors[position : position + 1], stored.shape[1] - 1)[0]
        values = given.expected + (self.parameters.means[k] - self.frame.means[position])
        weighted = values * shares[:, np.newaxis]
        gaps = is_missing * shares[:, np.newaxis]
        # Covariances of the missing values: Λ_m C⁻¹ Λ_mᵀ + Ψ_m.
        n, d, rank = *gaps.shape, loadings.shape[1]
        inverses = np.swapaxes(given.inverse_roots, 1, 2) @ given.inverse_roots
        of_gaps = (gaps.T @ inverses.reshape(n, -1)).reshape(d, rank, rank)
        n_gaps = gaps.sum(axis=0)
        squares = np.einsum("nd,nd->d", weighted, values) + n_gaps * noise
        squares += np.einsum("dij,di,dj->d", of_gaps, loadings, loadings)
        products = weighted.T @ (values @ basis)
        inner = loadings[:, :, np.newaxis] * basis[:, np.newaxis, :]
        across = inverses @ (is_missing @ inner.reshape(d, -1)).reshape(n, rank, -1)
        of_rows = (gaps.T @ across.reshape(n, -1)).reshape(d, rank, -1)
        products += np.einsum("dir,di->dr", of_rows, loadings)
        products += n_gaps[:, np.newaxis] * noise[:, np.newaxis] * basis
        moments = np.zeros(self.parameters.structure.n_moments(d))
        seen = (np.array([shares.sum()]), weighted.sum(axis=0), squares, products.T.ravel())
        moments[: sum(part.size for part in seen)] = np.concatenate(seen)
        whole = np.eye(loadings.shape[1]) + (loadings.T / noise) @ loadings
        widths = np.where(is_missing, np.log(2.0 * math.pi * math.e * noise), 0.0).sum(axis=1)
        entropies = 0.5 * (widths + np.linalg.slogdet(whole)[1] - given.log_determinants)
        return moments, float(shares @ np.where(is_missing.any(axis=1), entropies, 0.0))


def _labels(log_joint: Array, n_components: int) -> NDArray[np.int64]:
    """Return the component of the largest log-joint density (n,), or NOISE."""
    largest = log_joint.argmax(axis=1)
    return np.where(largest < n_components, largest, NOISE)


def _normalized(log_joint: Array) -> tuple[Array, Array]:
    """Return log-sums (n,) and responsibilities (n, K) of log-joint densities."""
    largest = log_joint.max(axis=1, keepdims=True)
    shares = np.exp(log_joint - largest)
    totals = shares.sum(axis=1, keepdims=True)
    scores: Array = (largest + np.log(totals))[:, 0]
    return scores, shares / totals
