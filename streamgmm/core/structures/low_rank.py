"""Low-rank covariances: Σ_k = Λ_k Λ_kᵀ + diag(ψ_k), mixtures of factor analysers.

:mod:`~streamgmm.core.structures.low_rank_factors` says how covariances and factors are stored,
:mod:`~streamgmm.core.structures.low_rank_update` has the M-step.

References
----------
Ghahramani & Hinton (1996), The EM algorithm for mixtures of factor analyzers.
Meng & van Dyk (1997), The EM algorithm: an old folk-song sung to a fast new tune.
"""

import functools
import math
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from streamgmm.core.kernels.kinds import LOW_RANK
from streamgmm.core.kernels.low_rank import rows_in_block
from streamgmm.core.kernels.panels import DIRECTIONS, WHOLE_FEATURES
from streamgmm.core.kernels.tiles import STRIDE
from streamgmm.core.structures.covariance_update import CovarianceUpdate
from streamgmm.core.structures.full import Full
from streamgmm.core.structures.low_rank_factors import (
    dense_covariances,
    factors_of,
    gains_of,
    joined,
    projections_of,
)
from streamgmm.core.structures.low_rank_moments import condensed, reexpressed, standard
from streamgmm.core.structures.low_rank_nearest import nearest_covariance
from streamgmm.core.structures.low_rank_prior import LowRankPriorRows
from streamgmm.core.structures.low_rank_update import (
    FactorUpdate,
    SecondMoments,
    component_moments,
    first_directions,
    n_spare,
)
from streamgmm.core.structures.matrices import BLOCK_BYTES, Array, solve
from streamgmm.core.structures.own_covariances import OwnCovariances
from streamgmm.core.structures.structure import (
    Components,
    CovarianceStructure,
    MergePairs,
    PriorRows,
    unsupported,
)
from streamgmm.errors import ParameterError
from streamgmm.options import CovarianceType

if TYPE_CHECKING:
    from streamgmm.core.frame import Frame
    from streamgmm.core.objective import PseudoRows
    from streamgmm.core.parameters import Parameters
    from streamgmm.core.statistics import Statistics

#: The value of ``covariance_type`` that asks for these covariances, of any rank.
LOW_RANK_TYPE: CovarianceType = "low_rank"
#: The rank if none is given, unless fewer columns allow less.
DEFAULT_RANK = 8

# The structure of one rank goes by the name "low_rank(8)".
_NAMED = re.compile(r"low_rank\((0|[1-9]\d{0,5})\)")
# Start: the least part of a column's variance that is noise, directions in addition to the rank,
# and products with the covariance that find the leading directions.
_NOISE_PART, _SPARE_DIRECTIONS, _N_PRODUCTS = 0.05, 8, 4
# A direction of a start explains at least this part of the variance of a column.
_LEAST_EXPLAINED = 1e-3
# Length of directions that take the place of loadings of 0.
_LEAST_LENGTH = 1e-9


def largest_rank(n_features: int) -> int:
    """Return the largest rank of which loadings and noise variances can be told apart.

    That is the largest integer R with (D - R)² ≥ D + R.

    References
    ----------
    Ledermann (1937), On the rank of the reduced correlational matrix in multiple-factor analysis.
    """
    rank = max(0, math.floor((2 * n_features + 1 - math.sqrt(8 * n_features + 1)) / 2) - 1)
    while (n_features - rank - 1) ** 2 >= n_features + rank + 1 and rank + 1 < n_features:
        rank += 1
    return rank


def structure_name(covariance_type: str, rank: int | None, n_features: int) -> CovarianceType:
    """Return the name of the structure of a covariance type and a rank.

    Parameters
    ----------
    covariance_type : str
    rank : int or None
        Of "low_rank". None for 8, or for the largest possible rank if that is smaller.
    n_features : int
        D.

    Raises
    ------
    ParameterError
        If the rank is too large, or is given for covariances that have none.

    Examples
    --------
    >>> from streamgmm.core.structures.low_rank import structure_name
    >>> structure_name("low_rank", None, 64), structure_name("diag", None, 64)
    ('low_rank(8)', 'diag')
    """
    if covariance_type != LOW_RANK_TYPE:
        if rank is not None:
            raise ParameterError(
                f"rank is {rank}, but only covariance_type='low_rank' has a rank, not "
                f"{covariance_type!r}; leave rank at None, or choose 'low_rank'"
            )
        return cast(CovarianceType, covariance_type)
    most = largest_rank(n_features)
    if rank is not None and not 0 <= rank <= most:
        raise ParameterError(
            f"rank is {rank}, but with {n_features} column(s) loadings and noise variances can "
            f"only be told apart up to rank {most}; give a rank of at most {most}, or use "
            "covariance_type='full'"
        )
    return cast(CovarianceType, f"low_rank({min(DEFAULT_RANK, most) if rank is None else rank})")


def public_type(name: str) -> CovarianceType:
    """Return the covariance type of the name of a structure, without its rank."""
    return LOW_RANK_TYPE if _NAMED.fullmatch(name) else cast(CovarianceType, name)


@functools.lru_cache(maxsize=64)
def structure_of_name(name: str) -> "LowRank | None":
    """Return the structure of a name such as "low_rank(8)"; None for another name."""
    found = _NAMED.fullmatch(name)
    return LowRank(int(found[1])) if found else None


class LowRank(OwnCovariances):
    """Loadings of one rank and noise variances, (K, D, R + 1) together.

    The moments of a component are those of residuals u = x - o from its own origin: N, Σγu (D),
    Σγu² (D) and, for each direction a of the frame's basis, Σγ (aᵀu) u (D). The basis is V of the
    factors and some directions to spare, which may be 0. V depends on the parameters.

    Parameters
    ----------
    rank : int
        R.
    """

    code = LOW_RANK
    sklearn_type = "full"
    has_directions = False
    has_dependent_columns = True
    moments_depend_on_parameters = True

    def __init__(self, rank: int) -> None:
        self.rank = rank

    # Storage

    def shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        return n_components, n_features, self.rank + 1

    def prior_shape(self, n_features: int) -> tuple[int, ...]:
        return (n_features,)

    def n_parameters(self, n_components: int, n_features: int) -> int:
        # Rotations of the loadings are the same covariance.
        of_loadings = n_features * self.rank - self.rank * (self.rank - 1) // 2
        return n_components * (of_loadings + n_features)

    def n_factor_values(self, n_components: int, n_features: int) -> int:
        return n_components * n_features * (self.rank + 1)

    # Algebra

    def cholesky(self, covariances: Array) -> Array:
        if covariances.ndim == 2:
            factors: Array = factors_of(covariances[np.newaxis])[0]
            return factors
        return factors_of(covariances)

    def invert(self, factors: Array) -> Array:
        gains = gains_of(factors)[:, np.newaxis, :]
        is_inverse = factors[:, :, -1:] < 0.0
        scales = 1.0 / np.sqrt(np.where(is_inverse, 1.0 - gains, 1.0 + gains))
        return np.concatenate([factors[:, :, :-1] * scales, -1.0 / factors[:, :, -1:]], axis=2)

    def factors_from_stored(self, covariances: Array, precisions_cholesky: Array) -> Array:
        return factors_of(covariances)

    def transposed(self, factors: Array) -> Array:
        return factors

    @property
    def precision_form(self) -> CovarianceStructure:
        return Full()

    def from_precisions(self, precisions: Array) -> tuple[Array, Array]:
        found = np.empty((*precisions.shape[:2], self.rank + 1))
        for k, precision in enumerate(precisions):
            matrices, _ = self.precision_form.from_precisions(precision[np.newaxis])
            found[k] = nearest_covariance(matrices[0], precision, self.rank)
        return found, factors_of(found)

    def start_of_fit(
        self, covariances: Array, factors: Array, is_free: NDArray[np.bool_]
    ) -> tuple[Array, Array]:
        # EM never changes loadings of 0.
        found = covariances.copy()
        filling = _LEAST_LENGTH * np.random.RandomState(0).standard_normal(found[0, :, :-1].shape)
        for k in np.flatnonzero(is_free).tolist():
            roots = np.sqrt(found[k, :, -1:])
            directions, sizes, _ = np.linalg.svd(
                found[k, :, :-1] / roots + filling, full_matrices=False
            )
            if np.any(np.square(sizes) < _LEAST_EXPLAINED):
                sizes = np.maximum(sizes, math.sqrt(_LEAST_EXPLAINED))
                found[k, :, :-1] = roots * directions * sizes
        return found, factors_of(found)

    def widths(self, factors: Array) -> Array:
        return np.asarray(factors[..., -1])

    def symmetrized(self, values: Array, tolerance: float) -> Array | None:
        return values

    def variances(self, stacked_covariances: Array) -> Array:
        loadings = stacked_covariances[:, :, :-1]
        found: Array = np.square(loadings).sum(axis=2) + stacked_covariances[:, :, -1]
        return found

    def log_determinants(self, stacked_factors: Array) -> Array:
        is_inverse = stacked_factors[:, 0, -1] < 0.0
        signs = np.where(is_inverse, -1.0, 1.0)[:, np.newaxis]
        scales = np.log(np.abs(stacked_factors[:, :, -1])).sum(axis=1)
        found: Array = scales + np.log1p(signs * gains_of(stacked_factors)).sum(axis=1)
        return found

    def product(self, stacked_factors: Array, vectors: Array) -> Array:
        return np.concatenate(
            [
                self.scaled_rows(vectors[k : k + 1], stacked_factors, k)
                for k in range(len(stacked_factors))
            ]
        )

    def solved(self, stacked_factors: Array, vectors: Array) -> Array:
        return self.product(self.invert(stacked_factors), vectors)

    def scaled_rows(self, rows: Array, stacked_factors: Array, component: int) -> Array:
        columns, scales = stacked_factors[component, :, :-1], stacked_factors[component, :, -1]
        if scales[0] > 0.0:
            widened: Array = (rows + (rows @ columns) @ columns.T) * scales
            return widened
        own = rows * -scales
        narrowed: Array = own - (own @ columns) @ columns.T
        return narrowed

    def solved_rows(self, rows: Array, stacked_factors: Array, component: int) -> Array:
        return self.scaled_rows(rows, self.invert(stacked_factors[component, np.newaxis]), 0)

    def deviations(self, stacked_factors: Array) -> Array:
        columns, gains = stacked_factors[:, :, :-1], gains_of(stacked_factors)[:, np.newaxis, :]
        widths = 1.0 + (np.square(columns) * (2.0 + gains)).sum(axis=2)
        found: Array = stacked_factors[:, :, -1] * np.sqrt(widths)
        return found

    def pair_log_determinants(
        self, first: "Parameters", i: int, second: "Parameters", components: slice
    ) -> Array:
        # ½ (Σ_i + Σ_j) + ¼ d dᵀ is of low rank plus a diagonal, too.
        own, others = first.covariances[i], second.covariances[components]
        n, d = len(others), first.n_features
        noise = 0.5 * (own[:, -1] + others[:, :, -1])
        own_loadings = np.broadcast_to(own[:, :-1], (n, d, self.rank))
        moved = (second.means[components] - first.means[i])[:, :, np.newaxis]
        loadings = [own_loadings, others[:, :, :-1], np.sqrt(0.5) * moved]
        columns = np.sqrt(0.5 / noise)[:, :, np.newaxis] * np.concatenate(loadings, axis=2)
        inner = np.eye(columns.shape[2]) + np.swapaxes(columns, 1, 2) @ columns
        found: Array = np.linalg.slogdet(inner)[1] + np.log(noise).sum(axis=1)
        return found - 2.0 * self.log_determinants(first.factors[i : i + 1])

    def dense(self, stacked_covariances: Array, columns: Sequence[int]) -> Array:
        return dense_covariances(stacked_covariances[:, list(columns)])

    def longest_axis(self, stacked_factors: Array, component: int) -> Array:
        own = self.covariances_of(stacked_factors[component, np.newaxis])[0]
        loadings, noise = own[:, :-1], own[:, -1]
        if self.rank == 0:
            return super().longest_axis(np.sqrt(noise)[np.newaxis], 0)
        # The leading direction of the loadings, which the noise hardly turns.
        direction = np.linalg.svd(loadings, full_matrices=False)[0][:, 0]
        variance = np.square(direction @ loadings).sum() + np.square(direction) @ noise
        axis: Array = np.sqrt(variance) * direction
        return axis

    def ridge_traces(self, stacked_inverse: Array, ridge: float | Array) -> Array:
        # Σ⁻¹ = Ψ⁻¹ - V Vᵀ: squared lengths of the lines of Ψ^(-1/2) (I - U h (2 - h) Uᵀ) Ψ^(-1/2).
        columns, gains = stacked_inverse[:, :, :-1], gains_of(stacked_inverse)[:, np.newaxis, :]
        parts = 1.0 - (np.square(columns) * (2.0 - gains)).sum(axis=2)
        found: Array = (np.square(stacked_inverse[:, :, -1]) * parts * ridge).sum(axis=1)
        return found

    # Marginal and conditional distributions

    def reordered(self, stacked_factors: Array, features: NDArray[np.intp]) -> Array:
        return factors_of(self.covariances_of(stacked_factors)[:, features])

    def conditioned(
        self, stacked_factors: Array, n_given: int, deviations: Array
    ) -> tuple[Array, Array, Array, Array]:
        covariances = self.covariances_of(stacked_factors)
        given, others = covariances[:, :n_given], covariances[:, n_given:]
        own = factors_of(given)
        # The factors z given these features have precision I + Λᵀ Ψ⁻¹ Λ.
        scaled = given[:, :, :-1] / given[:, :, -1:]
        precisions = np.eye(self.rank) + np.swapaxes(scaled, 1, 2) @ given[:, :, :-1]
        roots = np.linalg.cholesky(precisions).astype(np.float64, copy=False)
        loadings = np.swapaxes(solve(roots, np.swapaxes(others[:, :, :-1], 1, 2)), 1, 2)
        along = solve(roots, np.einsum("kgr,kg->kr", scaled, deviations)[:, :, np.newaxis])
        rest = factors_of(joined(loadings, others[:, :, -1]))
        return own, self.solved(own, deviations), (loadings @ along)[:, :, 0], rest

    def reduced(
        self, covariance_type: CovarianceType, covariances: Array, factors: Array
    ) -> tuple[CovarianceType, Array, Array]:
        if self.rank <= largest_rank(covariances.shape[1]):
            return covariance_type, covariances, factors
        matrices = dense_covariances(covariances)
        return "full", matrices, np.linalg.cholesky(matrices).astype(np.float64, copy=False)

    def covariances_of(self, stacked_factors: Array) -> Array:
        gains = gains_of(stacked_factors)[:, np.newaxis, :]
        roots = stacked_factors[:, :, -1:]
        loadings = stacked_factors[:, :, :-1] * np.sqrt(2.0 + gains) * roots
        return np.concatenate([loadings, np.square(roots)], axis=2)

    # Moments

    def n_moments(self, n_features: int) -> int:
        return 1 + (2 + self.rank + n_spare(self.rank, n_features)) * n_features

    def scratch_lines(self, n_components: int, n_features: int) -> int:
        width = self.rank + n_spare(self.rank, n_features)
        # The rows, twice, and differences from them; then what is known of each component.
        values = 3 * rows_in_block(n_features, 8) * (n_features + WHOLE_FEATURES)
        # Blocks of float32 have the most rows.
        of_row = n_components * (2 + width) + self.rank + DIRECTIONS
        values += rows_in_block(n_features, 4) * of_row
        return 8 + math.ceil(values / STRIDE)

    def n_sums(self) -> int:
        # The kernel has one level of sums. The statistics of a chunk are merged without them.
        return 2

    # Frame

    def frame_factor_shape(self, n_centred: int, n_features: int) -> tuple[int, ...]:
        return n_centred, n_features, n_spare(self.rank, n_features) + self.rank + 1

    def frame_factors(self, stacked_factors: Array, centred: Components) -> Array:
        # Directions of 0: none.
        own = stacked_factors[centred]
        none = np.zeros((*own.shape[:2], n_spare(self.rank, own.shape[1])))
        return np.concatenate([none, own], axis=2)

    def with_directions(
        self, frame_factors: Array, parameters: "Parameters", known: "Statistics | None"
    ) -> Array:
        count = n_spare(self.rank, parameters.n_features)
        found = frame_factors.copy()
        found[:, :, :count] = first_directions(frame_factors, count)
        if known is None or count == 0:
            return found
        d = parameters.n_features
        for k in np.flatnonzero(known.counts > 0.0).tolist():
            offset = known.moments[k, 1 : 1 + d] / known.counts[k]
            basis, factor, squares, products = component_moments(
                known, k, self.rank, offset, np.zeros_like(offset)
            )
            moments = SecondMoments.of(basis, squares, products, factor[:, -1])
            own = parameters.covariances[k]
            found[k, :, :count] = moments.directions(own[:, :-1], own[:, -1], count)
        return found

    def expected_moments(self, parameters: "Parameters", frame: "Frame", counts: Array) -> Array:
        return standard(parameters, frame, counts)

    def carried_moments(self, statistics: "Statistics", frame: "Frame") -> Array:
        return reexpressed(statistics, self.rank, frame)

    def displacements(self, frame: "Frame", u: Array) -> Array:
        return u.copy()

    def coordinates(self, frame: "Frame", displacements: Array) -> Array:
        return displacements.copy()

    def magnified(self, frame: "Frame", parameters: "Parameters", displacements: Array) -> Array:
        # Moments are always about the component's own origin.
        found = np.full_like(displacements, np.inf)
        own = frame.centred
        variances = self.variances(parameters.covariances[own])
        found[own] = np.sqrt(1.0 + np.square(displacements[own]) / variances)
        return found

    # M-step

    def updates(
        self, statistics: "Statistics", alive: Components, offsets: Array, shifts: Array
    ) -> list[CovarianceUpdate]:
        return [FactorUpdate(alive, (), statistics, offsets, shifts, False)]

    def complete_updates(
        self, statistics: "Statistics", alive: Components, offsets: Array, shifts: Array
    ) -> list[CovarianceUpdate]:
        return [FactorUpdate(alive, (), statistics, offsets, shifts, True)]

    def update_views(self, covariances: Array, factors: Array) -> tuple[Array, Array]:
        return covariances, factors

    # Whitened coordinates, gradient and information

    def relative_changes(self, parameters: "Parameters", factors: Array) -> Array:
        # ‖P Pᵀ - Q Qᵀ‖², the same for all rotations of the columns.
        own, other = parameters.factors[:, :, :-1], factors[:, :, :-1]
        squares = [
            np.square(np.swapaxes(a, 1, 2) @ b).sum(axis=(1, 2))
            for a, b in ((own, own), (other, other), (own, other))
        ]
        apart = np.maximum(squares[0] + squares[1] - 2.0 * squares[2], 0.0)
        turned = np.sqrt(apart) / (1.0 + np.sqrt(squares[0]))
        widened = factors[:, :, -1] / parameters.factors[:, :, -1] - 1.0
        return np.column_stack([turned, widened])

    def squared_distances(
        self,
        statistics: "Statistics",
        parameters: "Parameters",
        whitened: Callable[[], tuple[Array, Array]],
    ) -> float:
        d, k = parameters.n_features, parameters.n_components
        counts, first = statistics.counts, statistics.moments[:, 1 : 1 + d]
        squares = statistics.moments[:, 1 + d : 1 + 2 * d]
        products = statistics.moments[:, 1 + 2 * d :].reshape(k, -1, d)[:, : self.rank]
        shifts = parameters.means - statistics.frame.means
        projections = projections_of(parameters.factors)
        along = np.einsum("kd,kdr->kr", shifts, projections)
        squares = squares - 2.0 * shifts * first + counts[:, np.newaxis] * np.square(shifts)
        of_noise = (squares / parameters.covariances[:, :, -1]).sum()
        of_loadings = np.einsum("krd,kdr->", products, projections)
        of_loadings -= 2.0 * np.einsum("kr,kd,kdr->", along, first, projections)
        of_loadings += (counts[:, np.newaxis] * np.square(along)).sum()
        return float(of_noise - of_loadings)

    # Reduction

    def merging_costs(
        self, parameters: "Parameters", first: Components, second: Components, merged: MergePairs
    ) -> Array:
        # The covariance of a pair is of low rank plus a diagonal, too: no matrices are formed.
        weights = parameters.weights
        both = weights[first] + weights[second]
        share = np.divide(weights[first], both, out=np.full_like(both, 0.5), where=both > 0.0)
        apart = parameters.means[first] - parameters.means[second]
        apart *= np.sqrt(share * (1.0 - share))[:, np.newaxis]
        own = 2.0 * self.log_determinants(parameters.factors)
        wide = np.empty(len(first))
        for block in self._blocks_of_pairs(len(first), parameters.n_features):
            loadings, noise = self._of_pairs(
                parameters, share[block, np.newaxis], apart[block], first[block], second[block]
            )
            scaled = loadings / np.sqrt(noise)[:, :, np.newaxis]
            inner = np.eye(scaled.shape[2]) + np.swapaxes(scaled, 1, 2) @ scaled
            wide[block] = np.linalg.slogdet(inner)[1] + np.log(noise).sum(axis=1)
        of_both = weights[first] * own[first] + weights[second] * own[second]
        found: Array = 0.5 * (both * wide - of_both)
        return found

    def merged_pairs(
        self,
        parameters: "Parameters",
        share: Array,
        apart: Array,
        first: Components,
        second: Components,
    ) -> tuple[Array, Array]:
        found = np.empty(self.shape(len(first), parameters.n_features))
        for block in self._blocks_of_pairs(len(first), parameters.n_features):
            loadings, noise = self._of_pairs(
                parameters, share[block], apart[block], first[block], second[block]
            )
            pairs = zip(loadings, noise, strict=True)
            found[block] = [condensed(*pair, self.rank) for pair in pairs]
        return found, factors_of(found)

    def average(self, covariances: Array, weights: Array) -> Array:
        parts = weights / weights.sum()
        loadings = covariances[:, :, :-1] * np.sqrt(parts)[:, np.newaxis, np.newaxis]
        d = covariances.shape[1]
        together = np.swapaxes(loadings, 0, 1).reshape(d, -1)
        return condensed(together, parts @ covariances[:, :, -1], self.rank)

    def mean_factor(self, stacked_factors: Array, weights: Array) -> Array:
        mean = self.average(self.covariances_of(stacked_factors), weights)
        return factors_of(mean[np.newaxis])

    def _of_pairs(
        self,
        parameters: "Parameters",
        share: Array,
        apart: Array,
        first: Components,
        second: Components,
    ) -> tuple[Array, Array]:
        """Return loadings (n, D, 2 R + 1) and noise variances (n, D) of pairs of components.

        The parameters are those of :meth:`merged_pairs`.
        """
        one, other = parameters.covariances[first], parameters.covariances[second]
        part = share[:, :, np.newaxis]
        loadings = np.concatenate(
            [
                np.sqrt(part) * one[:, :, :-1],
                np.sqrt(1.0 - part) * other[:, :, :-1],
                apart[:, :, np.newaxis],
            ],
            axis=2,
        )
        return loadings, share * one[:, :, -1] + (1.0 - share) * other[:, :, -1]

    def _blocks_of_pairs(self, n_pairs: int, n_features: int) -> list[slice]:
        """Split pairs of components into blocks of bounded memory."""
        size = max(1, BLOCK_BYTES // (8 * n_features * (2 * self.rank + 1)))
        return [slice(start, start + size) for start in range(0, n_pairs, size)]

    # Initialization

    def add_cluster(
        self,
        covariances: Array,
        k: int,
        weighted: Array,
        deviations: Array,
        count: float,
        unseen: Array,
        total: float,
    ) -> None:
        variances = (weighted * deviations).sum(axis=0) / count + unseen
        roots = np.sqrt(np.where(variances > 0.0, variances, 1.0))
        sizes, directions = self._leading(weighted, deviations, roots, count)
        n_rest = max(1, int((variances > 0.0).sum()) - self.rank)
        rest = max(0.0, (variances > 0.0).sum() - sizes.sum()) / n_rest
        explained = np.maximum(sizes - rest, _LEAST_EXPLAINED)
        loadings = directions * np.sqrt(explained)
        shares = np.square(loadings).sum(axis=1)
        # Loadings that would explain nearly all of a column are shortened.
        shortened = np.sqrt(np.minimum(1.0, (1.0 - _NOISE_PART) / np.maximum(shares, 1e-300)))
        loadings *= (shortened * roots)[:, np.newaxis]
        covariances[k, :, :-1] = loadings
        covariances[k, :, -1] = np.where(
            variances > 0.0, variances - np.square(loadings).sum(axis=1), 0.0
        )

    def _leading(
        self, weighted: Array, deviations: Array, roots: Array, count: float
    ) -> tuple[Array, Array]:
        """Return the leading eigenvalues (R,) and eigenvectors (D, R) of a correlation matrix."""
        d = len(roots)
        width = min(d, self.rank + _SPARE_DIRECTIONS)
        # The same directions for all clusters: a start depends on its rows alone.
        basis = np.random.RandomState(0).standard_normal((d, width))
        for _ in range(_N_PRODUCTS):
            basis = np.linalg.qr(basis)[0]
            seen = deviations @ (basis / roots[:, np.newaxis])
            image = (weighted.T @ seen) / (count * roots[:, np.newaxis])
            inner, last, basis = basis.T @ image, basis, image
        sizes, vectors = np.linalg.eigh(0.5 * (inner + inner.T))
        chosen = slice(None, -self.rank - 1, -1)
        return np.maximum(sizes[chosen], 0.0), (last @ vectors)[:, chosen]

    def with_ridge(self, covariances: Array, values: Array) -> Array:
        found = covariances.copy()
        found[:, :, -1] += values
        return found

    def with_rounding(self, covariances: Array, part: float) -> Array:
        return self.with_ridge(covariances, part * self.variances(covariances))

    # Priors

    def prior_rows(self, rows: "PseudoRows", parameters: "Parameters") -> PriorRows:
        return LowRankPriorRows.of(rows, parameters)

    def widened_start(self, rows: "PseudoRows", start: "Parameters", counts: Array) -> "Parameters":
        return LowRankPriorRows.of(rows, start).widened(counts)

    # Condition

    def most_undetermined_rows(self, n_features: int) -> int:
        # The mean and the factors of the rows leave one more for the noise of each column.
        return min(n_features, self.rank + 2)

    def narrow_columns(
        self, stacked_covariance: Array, limits: Array, columns: NDArray[np.intp]
    ) -> NDArray[np.intp]:
        # A direction in more columns than factors can be orthogonal to all loadings.
        parts = stacked_covariance[columns, -1] / limits[columns]
        least = np.argsort(parts, kind="stable")[: self.rank + 1]
        return np.sort(columns[least[parts[least] < 1.0]])

    def variances_along(self, stacked_covariances: Array, direction: Array) -> Array:
        along = np.einsum("kdr,d->kr", stacked_covariances[:, :, :-1], direction)
        of_noise = stacked_covariances[:, :, -1] @ np.square(direction)
        found: Array = np.square(along).sum(axis=1) + of_noise
        return found

    def block_values(self, n_components: int, n_features: int) -> int:
        return n_features * (n_spare(self.rank, n_features) + self.rank + 1)

    def n_mean_arrays(self) -> int:
        return 4

    # Operations that these covariances do not have

    precisions = unsupported(LOW_RANK_TYPE, "precisions in the form of the covariances")
    composed = unsupported(LOW_RANK_TYPE, "products of factors")
    singular_values = unsupported(LOW_RANK_TYPE, "the alignment of mixtures")
    merged_log_determinants = unsupported(LOW_RANK_TYPE, "products of factors")
    features = unsupported(LOW_RANK_TYPE, "features that do not depend on the parameters")
    relative_factors = unsupported(LOW_RANK_TYPE, "whitened moments")
    whitened_moments = unsupported(LOW_RANK_TYPE, "whitened moments")
    framed_moments = unsupported(LOW_RANK_TYPE, "whitened moments")
    as_moments = unsupported(LOW_RANK_TYPE, "whitened moments")
    unit_moments = unsupported(LOW_RANK_TYPE, "whitened moments")
    coefficients = unsupported(LOW_RANK_TYPE, "the expanded form")
    kernel_factors = unsupported(LOW_RANK_TYPE, "the expanded form")
    ridge_moments = unsupported(LOW_RANK_TYPE, "gradients")
    tangent_scales = unsupported(LOW_RANK_TYPE, "gradients")
    row_features = unsupported(LOW_RANK_TYPE, "the information of rows")
    along = unsupported(LOW_RANK_TYPE, "the information of rows")
    gathered = unsupported(LOW_RANK_TYPE, "the information of rows")
