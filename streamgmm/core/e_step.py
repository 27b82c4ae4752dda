"""The E-step: a mixture prepared for evaluation, and its results for a chunk of rows."""

import functools
import math
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamgmm.core.accuracy import DENSITY_TOLERANCE, LARGEST_VALUE, SINGLE_TOLERANCE
from streamgmm.core.frame import ACCUMULATION_LENGTH, Frame
from streamgmm.core.kernels.hard import assignment, comparison, hard_step
from streamgmm.core.kernels.kinds import LOW_RANK, TIED
from streamgmm.core.kernels.log_joint import (
    Coefficients,
    n_kept_lines,
    workspace,
)
from streamgmm.core.kernels.low_rank import (
    LowRankCoefficients,
    LowRankSums,
    low_rank_single,
    low_rank_step,
    low_rank_sums,
    low_rank_workspace,
)
from streamgmm.core.kernels.mixture import e_step
from streamgmm.core.kernels.panels import WHOLE_FEATURES
from streamgmm.core.kernels.products import ROWS_AT_ONCE
from streamgmm.core.kernels.screening import (
    LARGEST_COEFFICIENT,
    MANY_FEATURES,
    SINGLE_OVER_DOUBLE,
)
from streamgmm.core.kernels.single import single_statistics, single_workspace
from streamgmm.core.kernels.structs import Struct
from streamgmm.core.kernels.tiles import BLOCK, FORMS, SINGLE_LANES, SPARE_FEATURES, STRIDE
from streamgmm.core.kernels.totals import N_NOT_FINITE, N_TOTALS, named
from streamgmm.core.low_rank_coefficients import (
    bears_single_products,
    low_rank_coefficients,
    single_low_rank,
)
from streamgmm.core.parameters import Parameters
from streamgmm.core.scratch import Scratch
from streamgmm.core.statistics import Statistics
from streamgmm.core.structures import STRUCTURES, Array, blocks, upper_triangle
from streamgmm.core.structures.low_rank_update import bases_of
from streamgmm.errors import DataError, ParameterError
from streamgmm.options import Arithmetic, CovarianceType

# Error of a covariance, relative to itself, from sums in float32 ...
_SINGLE_COVARIANCE_TOLERANCE = 1e-4
# ... of this length: first rows in each lane of a vector are summed, then lanes.
_SINGLE_LENGTH = ROWS_AT_ONCE / SINGLE_LANES + math.log2(SINGLE_LANES)
# Terms of the densities of a row, for each coordinate, above which it pays to find in float32 which
# of them matter.
_LONG = 120
# Rows of a type that kernels do not read are cast in pieces of this many bytes.
_CAST_BYTES = 1 << 20

# Rows without weights count as rows of weight 1.
_NO_WEIGHTS = np.empty(0)
_NO_POSTERIORS = np.empty(0), np.empty(0, dtype=np.int64), np.empty((0, 0))


@dataclass(frozen=True, eq=False)
class Posterior:
    """The density, label and responsibilities of each of n rows under a mixture.

    Attributes
    ----------
    scores : ndarray of shape (n,)
        ln p(x), nats; -inf for rows that overflow.
    labels : ndarray of shape (n,), int64
        Component of largest responsibility; -1 for noise.
    responsibilities : ndarray of shape (n, K), or (0, K) if not asked for
    n_not_finite : int
        Rows that hold NaN or infinity; their entries have no meaning.
    """

    scores: Array
    labels: NDArray[np.int64]
    responsibilities: Array
    n_not_finite: int


@dataclass(frozen=True, eq=False)
class EStep:
    """A mixture prepared for the E-step in a frame; build with :meth:`prepare`.

    Attributes
    ----------
    frame : Frame
    weights : ndarray of shape (K,)
    order : ndarray of shape (K',), int64
        The components of non-zero weight: those in the expanded form, then the centred ones.
    coefficients : Coefficients or LowRankCoefficients
        Coefficients of these components, in this order.
    sums_single : bool
        Whether statistics may be summed in float32.
    is_hard : bool
        Whether statistics count a row wholly for its component of largest density.
    has_noise : bool
        Whether the mixture has a component of constant density.
    keeps_residuals : bool
        Whether the origins and bases of centred components are their means and factors. The
        residuals of their densities are then those of their moments.
    """

    frame: Frame
    weights: Array
    order: NDArray[np.int64]
    coefficients: Coefficients | LowRankCoefficients
    sums_single: bool = False
    is_hard: bool = False
    has_noise: bool = False
    keeps_residuals: bool = False

    @classmethod
    def prepare(
        cls,
        parameters: Parameters,
        frame: Frame,
        arithmetic: Arithmetic = "auto",
        log_offsets: Array | None = None,
        is_hard: bool = False,
    ) -> "EStep":
        """Prepare a mixture for evaluation in a frame.

        Parameters
        ----------
        parameters : Parameters
        frame : Frame
        arithmetic : {"auto", "float64", "float32"}
            With "auto" or "float32" and covariances of low rank, the statistics of rows of float32
            are computed in float32 where errors of densities stay below 0.001 nats and those of an
            EM step below 1e-5; densities of rows are always float64. With "auto" and other
            covariances, densities and sums are float64 wherever a component may have a share in a
            row; float32 may find the rows in which it has none. With "float64", float32 is not used
            at all. With "float32", densities are float32 wherever their error is bounded by 0.001
            nats. Sums of some hundred rows are float32 too where the relative error of covariances
            is bounded by 1e-4 and the mixture has no noise. With hard assignment "float32" is the
            same as "auto", because an error in a density could change a label.
        log_offsets : ndarray of shape (K,), optional
            Replace ln π_k in the log-joint densities; -inf for a component that takes no part.
        is_hard : bool
            Whether statistics count each row wholly for the component of the largest log-joint
            density; among equal densities, for the component of the lowest number. The
            log-likelihood is then Σ w max_k ln π_k p_k(x).

        Raises
        ------
        ParameterError
            If the offsets are not K numbers below infinity, or all are -inf.

        References
        ----------
        Celeux & Govaert (1992), A classification EM algorithm for clustering and two stochastic
        versions.
        """
        if log_offsets is None:
            with np.errstate(divide="ignore"):
                log_offsets = np.log(parameters.weights)
        else:
            _require_offsets(log_offsets, parameters.n_components)
        if is_hard and arithmetic == "float32":
            arithmetic = "auto"
        alive = log_offsets > -np.inf
        if parameters.structure.code == LOW_RANK:
            order = np.flatnonzero(alive)
            found = low_rank_coefficients(parameters, frame, order, log_offsets)
            sums_single = (
                arithmetic != "float64"
                and not is_hard
                and bears_single_products(parameters, frame, found)
            )
            return cls(
                frame,
                parameters.weights,
                order,
                found,
                sums_single,
                is_hard,
                has_noise=parameters.noise is not None,
            )
        noise = parameters.noise
        is_centred = np.zeros(parameters.n_components, dtype=bool)
        is_centred[frame.centred] = True
        packed = np.flatnonzero(alive & ~is_centred)
        order = np.concatenate([packed, np.flatnonzero(alive & is_centred)])
        d = parameters.n_features
        structure = parameters.structure
        stacked = parameters.stacked(parameters.inverse_factors)
        log_factors = structure.log_determinants(stacked)
        constants = log_offsets + log_factors - 0.5 * d * math.log(2.0 * math.pi)
        centres = (parameters.means - frame.origin) / frame.scale
        form = structure.coefficients(
            constants[packed], stacked, packed, frame.scale, centres[packed]
        )
        is_in_place = np.array_equal(order, np.arange(parameters.n_components))
        limit = _overflow_limit(stacked, frame.scale)
        bases = frame.inverse_factors
        centred = order[packed.size :]
        # Centred components without weight are skipped, so their bases are skipped too.
        indices = np.searchsorted(frame.centred, centred)
        is_whole = indices.size == frame.centred.size
        factors = structure.kernel_factors(stacked, None if is_in_place else order)
        bases = structure.kernel_factors(bases, None if is_whole else indices)
        coefficients = Coefficients(
            kind=structure.code,
            features=_features(parameters.covariance_type, d),
            scatter_features=_scatter_features(structure.n_scatter(d)),
            origin=frame.origin,
            inverse_scale=1.0 / frame.scale,
            whitener=form.whitener,
            theta=np.ascontiguousarray(form.theta),
            theta_single=_single(form.theta, parameters.means.shape, arithmetic, is_hard),
            single_tolerance=SINGLE_TOLERANCE if arithmetic == "float32" else 0.0,
            means=parameters.means[order],
            factors=factors,
            constants=constants[order],
            origins=frame.means[indices],
            bases=bases,
            has_own_basis=structure.is_own_basis(frame.factors, parameters.factors),
            limit=limit,
            tolerance=DENSITY_TOLERANCE,
            log_noise=-math.inf if noise is None else noise.log_joint,
            log_ranges=np.empty(0) if noise is None else noise.log_ranges,
        )
        # Sums in float32 have no place for noise.
        sums_single = (
            arithmetic == "float32" and noise is None and _bears_single_sums(frame, parameters)
        )
        return cls(
            frame,
            parameters.weights,
            order,
            coefficients,
            sums_single,
            is_hard,
            noise is not None,
            keeps_residuals=structure.code <= TIED
            and np.array_equal(frame.means[indices], parameters.means[centred])
            and np.array_equal(bases, factors[-len(bases) :]),
        )

    def gathered(self, components: NDArray[np.intp]) -> "EStep":
        """Return the E-step of some of the components alone, with their weights and no noise.

        Parameters
        ----------
        components : ndarray of shape (k,), int
            In ascending order.

        Returns
        -------
        EStep
            Its statistics are in the frame that :meth:`Frame.gathered` returns.
        """
        whole = self.writable_coefficients
        n_packed = len(whole.theta)
        indices = np.flatnonzero(self._positions[components] >= 0)
        places = self._positions[components][indices]
        # Components in the expanded form come first here too.
        in_order = np.argsort(places)
        indices, places = indices[in_order], places[in_order]
        packed, centred = places[places < n_packed], places[places >= n_packed]
        is_shared = whole.kind == TIED
        coefficients = whole._replace(
            theta=whole.theta[packed],
            theta_single=whole.theta_single[packed]
            if whole.theta_single.size
            else whole.theta_single,
            means=whole.means[places],
            factors=whole.factors if is_shared else whole.factors[places],
            constants=whole.constants[places],
            origins=whole.origins[centred - n_packed],
            bases=whole.bases if is_shared else whole.bases[centred - n_packed],
            log_noise=-math.inf,
            log_ranges=np.empty(0),
        )
        found = replace(
            self,
            frame=self.frame.gathered(components),
            weights=self.weights[components],
            order=indices.astype(np.int64),
            coefficients=coefficients,
            has_noise=False,
        )
        # Rows of agreeing arrays agree too, and are copies in the right layout.
        found.__dict__["writable_coefficients"] = coefficients
        return found

    @functools.cached_property
    def _positions(self) -> NDArray[np.int64]:
        """Position of each component among the coefficients, -1 for those without weight."""
        positions = np.full(len(self.weights), -1, dtype=np.int64)
        positions[self.order] = np.arange(len(self.order))
        return positions

    def statistics(self, rows: NDArray[np.generic], weights: Array | None = None) -> Statistics:
        """Return the sufficient statistics of a chunk of rows.

        Parameters
        ----------
        rows : ndarray of shape (n, D)
            Any real type and memory layout.
        weights : ndarray of shape (n,), optional
            Row weights; 1 if not given.

        Returns
        -------
        Statistics
            In this object's frame. Rows that overflow, or hold NaN or infinity, are counted
            but take no part.
        """
        row_weights = (
            _NO_WEIGHTS if weights is None else writable(np.asarray(weights, dtype=np.float64))
        )
        require_shapes(self.frame, rows, row_weights)
        if isinstance(self.coefficients, LowRankCoefficients):
            return self._low_rank_statistics(rows, row_weights)
        # Floats of another byte order are converted as a whole. Pieces would change the order of
        # sums and so the last digits, but the byte order must not change a result.
        if rows.dtype.kind == "f":
            rows = rows.astype(rows.dtype.newbyteorder("="), copy=False)
        first, *others = (
            self._as_statistics(*self._sums(part, row_weights[start:stop]))
            for start, stop, part in _castable(rows)
        )
        return functools.reduce(Statistics.merge, others, first)

    def _sums(self, part: NDArray[np.floating], row_weights: Array) -> tuple[Array, Array, Array]:
        """Return the moments, scatter and totals of rows of a type that kernels read."""
        coefficients = self.coefficient_struct
        sums, totals = self.new_sums(), np.zeros(N_TOTALS)
        with self.lent_workspace() as work:
            if self.sums_single:
                with self.scratch.lent("float32", self._new_single_workspace) as single:
                    single_statistics(part, row_weights, coefficients, work, single, sums, totals)
            else:
                priors, order = writable(self.weights), writable(self.order)
                arguments = part, row_weights, priors, order, coefficients, work
                if self.is_hard:
                    with self.scratch.lent("labels", self._new_hard_workspace) as own:
                        hard_step(*arguments, *own, sums, totals, _NO_POSTERIORS[:2])
                else:
                    e_step(*arguments, sums, totals, _NO_POSTERIORS)
        moments, scatter = sums
        return moments, scatter[0], totals

    def new_sums(self) -> tuple[Array, Array]:
        """Return moments and scatter of no rows, as kernels add to them."""
        assert isinstance(self.coefficients, Coefficients)
        k, n_moments = len(self.coefficients.means), self.coefficients.theta.shape[1]
        n_scatter = len(self.coefficients.scatter_features) - SPARE_FEATURES
        return np.zeros((k, n_moments)), np.zeros((1, n_scatter))

    def new_posteriors(
        self, n_rows: int, with_responsibilities: bool
    ) -> tuple[Array, NDArray[np.int64], Array]:
        """Return scores, labels and responsibilities that a kernel is to fill."""
        n_described = n_rows if with_responsibilities else 0
        shares = np.zeros((n_described, len(self.weights)))
        return np.empty(n_rows), np.empty(n_rows, dtype=np.int64), shares

    @functools.cached_property
    def scratch(self) -> Scratch:
        """The scratch of threads that run kernels with these coefficients."""
        c = self.coefficients
        n_bytes = scratch_bytes(self.frame.covariance_type, *c.means.shape)
        if isinstance(c, LowRankCoefficients):
            sizes = c.rank, c.width, c.centre.size, c.loadings.size > 0
            return Scratch((sizes, c.means.shape, c.log_noise), n_bytes)
        numbers = c.kind, len(c.theta_single) > 0, self.keeps_residuals, c.log_noise
        return Scratch((numbers, c.means.shape, c.theta.shape, c.origins.shape), n_bytes)

    def lent_workspace(self) -> AbstractContextManager[Struct]:
        """Give this thread a workspace for blocks of rows, until the context ends."""
        return self.scratch.lent("blocks", self._new_workspace)

    def _new_workspace(self) -> Struct:
        coefficients = self.writable_coefficients
        if isinstance(coefficients, LowRankCoefficients):
            return Struct(low_rank_workspace(coefficients))
        n_kept = n_kept_lines(*coefficients.origins.shape) if self.keeps_residuals else 0
        return Struct(workspace(coefficients, n_kept))

    def _new_single_workspace(self) -> Struct:
        if isinstance(self.coefficients, LowRankCoefficients):
            return Struct(low_rank_workspace(self._single_coefficients))
        return Struct(single_workspace(len(self.coefficients.means)))

    def _new_hard_workspace(self) -> tuple[Struct, Struct, Struct]:
        own = assignment(len(self.coefficients.means))
        return Struct(own), Struct(comparison(np.float64)), Struct(comparison(np.float32))

    @functools.cached_property
    def coefficient_struct(self) -> Struct:
        """The coefficients as compiled code reads them."""
        return Struct(self.writable_coefficients)

    def __getstate__(self) -> dict[str, Any]:
        # What is computed from the fields is computed again where it is needed.
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def _low_rank_statistics(self, rows: NDArray[np.generic], row_weights: Array) -> Statistics:
        """Return the sufficient statistics of a chunk of rows under covariances of low rank."""
        if rows.dtype.kind == "f":
            rows = rows.astype(rows.dtype.newbyteorder("="), copy=False)
        if self.sums_single and rows.dtype == np.float32:
            return self._single_low_rank_statistics(rows, row_weights)
        first, *others = (
            self._as_low_rank_statistics(
                *self._low_rank_step(part, row_weights[start:stop], _NO_POSTERIORS)
            )
            for start, stop, part in _castable(rows)
        )
        return functools.reduce(Statistics.merge, others, first)

    def _single_low_rank_statistics(self, rows: NDArray[Any], row_weights: Array) -> Statistics:
        """Return the sufficient statistics of rows of float32, from products in float32.

        Products with the few rows that need more digits are in float64.
        """
        coefficients = self._single_coefficients
        k, width, d = len(coefficients.means), coefficients.width, self.frame.n_features
        sums, totals = low_rank_sums(k, width, d), np.zeros(N_TOTALS)
        is_left = np.zeros(len(rows), dtype=np.bool_)
        with self.scratch.lent("float32", self._new_single_workspace) as work:
            low_rank_single(rows, row_weights, Struct(coefficients), work, sums, totals, is_left)
        found = self._as_low_rank_statistics(self._about_exact_origins(sums), totals)
        if not is_left.any():
            return found
        own = row_weights[is_left] if row_weights.size else row_weights
        return found.merge(
            replace(self, sums_single=False)._low_rank_statistics(rows[is_left], own)
        )

    @functools.cached_property
    def _single_coefficients(self) -> LowRankCoefficients:
        """The coefficients in float32, in the memory layout that kernels are compiled for."""
        return single_low_rank(self.writable_coefficients, writable(self.frame.origin))

    def _about_exact_origins(self, sums: LowRankSums) -> LowRankSums:
        """Return sums about the frame's origins from those about origins of float32."""
        rounded, d = self._single_coefficients, self.frame.n_features
        own = np.searchsorted(self.frame.centred, self.order)
        moved = self.frame.means[own] - (rounded.centre + rounded.origins[:, :d])
        linear = sums.linear.reshape(len(own), -1, d)
        for k, shift in enumerate(moved):
            basis = bases_of(self.frame.factors[own[k] : own[k] + 1], rounded.rank)[0]
            first, count = linear[k, 0].copy(), sums.counts[k]
            # x - o = u - shift, for each row and in its products with the basis.
            along = shift @ basis
            linear[k, 1:] -= np.outer(along, first)
            linear[k, 1:] -= np.outer(first @ basis - count * along, shift)
            linear[k, 0] -= count * shift
            sums.squares[k] -= shift * (2.0 * first - count * shift)
        return sums

    def _as_low_rank_statistics(self, sums: LowRankSums, totals: Array) -> Statistics:
        """Return statistics from the sums of the kernel."""
        d, zero = self.frame.n_features, Statistics.zero(self.frame, len(self.weights))
        linear = sums.linear.reshape(len(self.order), -1)
        n_seen = d + linear.shape[1]
        for i, k in enumerate(self.order.tolist()):
            own = zero.moments[k]
            own[0], own[1 : 1 + d] = sums.counts[i], linear[i, :d]
            own[1 + d : 1 + 2 * d] = sums.squares[i]
            own[1 + 2 * d : 1 + n_seen] = linear[i, d:]
        return Statistics(self.frame, zero.moments, zero.scatter, **named(totals))

    def _low_rank_step(
        self,
        part: NDArray[np.floating],
        row_weights: Array,
        posteriors: tuple[Array, NDArray[np.int64], Array],
    ) -> tuple[LowRankSums, Array]:
        """Return sums and totals of rows, or fill posteriors if they have entries."""
        coefficients = self.writable_coefficients
        k = 0 if posteriors[0].size else len(coefficients.means)
        sums = low_rank_sums(k, coefficients.width, self.frame.n_features)
        totals = np.zeros(N_TOTALS)
        with self.lent_workspace() as work:
            low_rank_step(
                part,
                row_weights,
                writable(self.weights),
                writable(self.order),
                self.coefficient_struct,
                self.is_hard,
                work,
                sums,
                totals,
                posteriors,
            )
        return sums, totals

    def _low_rank_posterior(
        self, rows: NDArray[np.generic], with_responsibilities: bool
    ) -> Posterior:
        """Return what :meth:`posterior` and :meth:`assignment` do, for covariances of low rank."""
        parts = []
        for _, _, part in _castable(rows):
            posteriors = self.new_posteriors(len(part), with_responsibilities)
            _, totals = self._low_rank_step(part, _NO_WEIGHTS, posteriors)
            parts.append(Posterior(*posteriors, int(totals[N_NOT_FINITE])))
        return _joined(parts)

    def _as_statistics(self, moments: Array, scatter: Array, totals: Array) -> Statistics:
        """Return statistics from the sums of the kernel, with the components in their own order."""
        scatter = STRUCTURES[self.frame.covariance_type].scatter_from(
            scatter, self.frame.n_features
        )
        placed = moments
        if not self._is_in_place:
            placed = np.zeros((len(self.weights), moments.shape[1]))
            placed[self.order] = moments
        found = Statistics(self.frame, placed, scatter, **named(totals))
        assert isinstance(self.coefficients, Coefficients)
        if found.n_single == 0 or found.n_single < found.n_rows * len(self.coefficients.theta):
            return found
        lost = self._lost_to_coefficients(moments)
        return replace(found, log_likelihood=found.log_likelihood + lost)

    @property
    def _no_sums(self) -> tuple[Array, Array]:
        """Moments and scatter, for kernels that are not to sum anything."""
        moments, scatter = self.new_sums()
        return moments[:0], scatter

    @functools.cached_property
    def _is_in_place(self) -> bool:
        """Whether the coefficients have the components in their own order."""
        return np.array_equal(self.order, np.arange(len(self.weights)))

    def _lost_to_coefficients(self, moments: Array) -> float:
        """Return the part of the log-likelihood that rounding of coefficients to float32 lost.

        Rounding errors of rows average out; those of coefficients are the same for all rows.
        """
        assert isinstance(self.coefficients, Coefficients)
        theta, single = self.coefficients.theta, self.coefficients.theta_single
        return float(np.sum((theta - single) * moments[: len(theta), : theta.shape[1]]))

    def posterior(
        self, rows: NDArray[np.generic], with_responsibilities: bool = False
    ) -> Posterior:
        """Return the log-density, label and, if asked for, responsibilities of each row.

        Parameters
        ----------
        rows : ndarray of shape (n, D)
            Any real type and memory layout.
        with_responsibilities : bool
        """
        require_shapes(self.frame, rows)
        if isinstance(self.coefficients, LowRankCoefficients):
            return replace(self, is_hard=False)._low_rank_posterior(rows, with_responsibilities)
        coefficients, sums = self.coefficient_struct, self._no_sums
        priors, order = writable(self.weights), writable(self.order)
        parts = []
        for _, _, part in _castable(rows):
            posteriors, totals = (
                self.new_posteriors(len(part), with_responsibilities),
                np.zeros(N_TOTALS),
            )
            with self.lent_workspace() as work:
                e_step(
                    part, _NO_WEIGHTS, priors, order, coefficients, work, sums, totals, posteriors
                )
            parts.append(Posterior(*posteriors, int(totals[N_NOT_FINITE])))
        return _joined(parts)

    def assignment(self, rows: NDArray[np.generic]) -> Posterior:
        """Return the label of each row by hard assignment, and its log-joint density.

        Parameters
        ----------
        rows : ndarray of shape (n, D)
            Any real type and memory layout.

        Returns
        -------
        Posterior
            Its scores are max_k ln π_k p_k(x), the noise included. Among equal densities the
            lowest number is the label.
        """
        require_shapes(self.frame, rows)
        if isinstance(self.coefficients, LowRankCoefficients):
            return replace(self, is_hard=True)._low_rank_posterior(rows, False)
        coefficients, sums = self.coefficient_struct, self._no_sums
        priors, order = writable(self.weights), writable(self.order)
        parts = []
        for _, _, part in _castable(rows):
            posteriors, totals = self.new_posteriors(len(part), False), np.zeros(N_TOTALS)
            arguments = part, _NO_WEIGHTS, priors, order, coefficients
            with (
                self.lent_workspace() as work,
                self.scratch.lent("labels", self._new_hard_workspace) as own,
            ):
                hard_step(*arguments, work, *own, sums, totals, posteriors[:2])
            parts.append(Posterior(*posteriors, int(totals[N_NOT_FINITE])))
        return _joined(parts)

    @functools.cached_property
    def writable_coefficients(self) -> Any:
        """The coefficients in the memory layout that kernels are compiled for.

        Raises
        ------
        ParameterError
            If their shapes do not agree.
        """
        if isinstance(self.coefficients, LowRankCoefficients):
            _require_low_rank_agreement(self.coefficients, self.order, len(self.weights))
        else:
            _require_agreement(self.coefficients, self.order, len(self.weights))
        arrays: dict[str, Any] = {
            name: writable(value)
            for name, value in self.coefficients._asdict().items()
            if isinstance(value, np.ndarray)
        }
        return self.coefficients._replace(**arrays)


def require_shapes(frame: Frame, rows: NDArray[np.generic], weights: Array = _NO_WEIGHTS) -> None:
    """Refuse rows and weights of wrong shapes, because kernels do not check bounds.

    Raises
    ------
    DataError
    """
    n_features = frame.n_features
    if rows.ndim != 2 or rows.shape[1] != n_features:
        raise DataError(f"rows have shape {rows.shape}, the mixture {n_features} features")
    if weights.size and weights.shape != rows.shape[:1]:
        raise DataError(f"weights have shape {weights.shape}, rows {rows.shape}")


def _joined(parts: list[Posterior]) -> Posterior:
    """Return the posteriors of the rows of all parts together."""
    if len(parts) == 1:
        return parts[0]
    return Posterior(
        np.concatenate([part.scores for part in parts]),
        np.concatenate([part.labels for part in parts]),
        np.concatenate([part.responsibilities for part in parts]),
        sum(part.n_not_finite for part in parts),
    )


def _require_offsets(log_offsets: Array, n_components: int) -> None:
    """Refuse offsets that exclude all components, or are not numbers below infinity.

    Raises
    ------
    ParameterError
    """
    is_sound = log_offsets.shape == (n_components,) and bool(np.all(log_offsets < np.inf))
    if not is_sound or bool(np.all(log_offsets == -np.inf)):
        raise ParameterError(
            f"log_offsets have shape {log_offsets.shape}; give {n_components} number(s) below "
            "infinity, not all of them -inf"
        )


def _require_agreement(
    coefficients: Coefficients, order: NDArray[np.int64], n_components: int
) -> None:
    """Refuse coefficients whose shapes do not agree, because kernels do not check bounds.

    Raises
    ------
    ParameterError
    """
    c, d = coefficients, coefficients.origin.size
    k, (n_packed, n_moments) = len(c.means), c.theta.shape
    # Kernels read one matrix for all components, or a matrix or a line of scales for each.
    n_matrices, n_lines = (1 if c.kind == TIED else k), (d if c.kind <= TIED else 1)
    n_bases = 1 if c.kind == TIED else k - n_packed
    expected = {
        "features": (n_moments + SPARE_FEATURES, 2),
        "origin": (d,),
        "inverse_scale": (d,),
        "whitener": (d, d) if c.kind == TIED else (0, 0),
        "theta_single": (min(len(c.theta_single), 1) * n_packed, n_moments),
        "means": (k, d),
        "factors": (n_matrices, n_lines, d),
        "constants": (k,),
        "origins": (k - n_packed, d),
        "bases": (n_bases, n_lines, d),
        "log_ranges": (d if c.log_ranges.size else 0,),
    }
    _require_expected(c, expected, order, n_components)


def _require_low_rank_agreement(
    coefficients: LowRankCoefficients, order: NDArray[np.int64], n_components: int
) -> None:
    """Refuse coefficients whose shapes do not agree, as :func:`_require_agreement` does."""
    c, d = coefficients, coefficients.centre.size
    k = len(c.means)
    whole = d + -d % WHOLE_FEATURES
    expected: dict[str, tuple[int, ...]] = {
        "means": (k, whole),
        "precisions": (k, whole),
        "projections": (k * c.rank * d,),
        "constants": (k,),
        "positions": (k,),
        "shrinkages": (k, c.rank),
        "loadings": ((1 + int(c.positions.max(initial=-1))) * c.rank * d,),
        "origins": (k, whole),
        "leading": (k * c.rank * d if c.leading.size else 0,),
        "spare": (k * (c.width - c.rank) * d,),
    }
    _require_expected(c, expected, order, n_components)


def _require_expected(
    coefficients: Coefficients | LowRankCoefficients,
    expected: dict[str, tuple[int, ...]],
    order: NDArray[np.int64],
    n_components: int,
) -> None:
    """Refuse arrays of other shapes than expected, and an order that is none of components."""
    wrong = [name for name, shape in expected.items() if getattr(coefficients, name).shape != shape]
    k = len(coefficients.means)
    is_placed = order.shape == (k,) and bool(np.all((order >= 0) & (order < n_components)))
    if wrong or not is_placed:
        raise ParameterError(f"a mixture has arrays of other shapes than its frame: {wrong}")


def scratch_bytes(covariance_type: CovarianceType, n_components: int, n_features: int) -> int:
    """Return the memory that a kernel takes for the blocks of a chunk."""
    n_lines = STRUCTURES[covariance_type].scratch_lines(n_components, n_features)
    return 8 * STRIDE * n_lines + statistics_bytes(covariance_type, n_components, n_features)


def statistics_bytes(covariance_type: CovarianceType, n_components: int, n_features: int) -> int:
    """Return the memory that the statistics of a mixture take."""
    structure = STRUCTURES[covariance_type]
    n_scatter = structure.n_scatter(n_features) ** 2
    return 8 * (n_components * structure.n_moments(n_features) + n_scatter)


def writable(array: NDArray[Any]) -> NDArray[Any]:
    """Return the array in the layout that kernels are compiled for: C-ordered, writable, aligned.

    Arrays that came from another process or a memory map may be read-only, and begin anywhere.
    """
    if array.flags.carray:
        # NumPy finds the same, but takes ten times as long.
        return array
    return np.require(array, requirements=["C", "W", "A"])


def _single(
    theta: Array, shape: tuple[int, ...], arithmetic: Arithmetic, is_hard: bool
) -> NDArray[np.float32]:
    """Return coefficients in float32; none if not wanted, not worthwhile, or too large.

    Hard assignment needs few densities in float64, so float32 is worthwhile for few features too.
    Else the product has to take longer than the search of the rows in which a component may have a
    share, and the copies of the coordinates of these rows; and it has to be most of the work of a
    mixture of this shape, (K, D).
    """
    (n_packed, n_moments), (n_components, n_features) = theta.shape, shape
    is_long = n_moments >= MANY_FEATURES and n_packed * n_moments >= _LONG * n_features
    is_most = 2 * n_packed >= n_components
    pays = n_packed >= FORMS and (is_hard or (is_long and is_most))
    wanted = arithmetic == "float32" or (arithmetic == "auto" and pays)
    fits = bool(np.abs(theta).max(initial=0.0) <= LARGEST_COEFFICIENT)
    return theta[: len(theta) if wanted and fits else 0].astype(np.float32, order="C")


@functools.lru_cache(maxsize=8)
def _features(covariance_type: str, n_features: int) -> NDArray[np.int64]:
    """Return the table of features, with the spare entries that kernels read."""
    return _with_spare(STRUCTURES[covariance_type].features(n_features))


@functools.lru_cache(maxsize=8)
def _scatter_features(n_features: int) -> NDArray[np.int64]:
    """Return the table of features of the upper triangle of z zᵀ, with spare entries."""
    return _with_spare(1 + np.stack(upper_triangle(n_features), axis=1))


def _with_spare(features: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.pad(features, [(0, SPARE_FEATURES), (0, 0)])


def _bears_single_sums(frame: Frame, parameters: Parameters) -> bool:
    """Return whether covariances from float32 sums are exact to 1e-4 in every direction."""
    shorter = math.sqrt(_SINGLE_LENGTH / ACCUMULATION_LENGTH)
    errors = frame.covariance_error(parameters) * SINGLE_OVER_DOUBLE * shorter
    return bool(np.all(errors <= _SINGLE_COVARIANCE_TOLERANCE))


def _overflow_limit(inverse: Array, scale: Array) -> float:
    """Return the largest |z| whose residuals can be squared and summed in float64."""
    if inverse.ndim == 2:
        steepest = float(np.abs(inverse * scale).max(initial=1.0))
    else:
        parts = (inverse[block] * scale for block in blocks(len(inverse), len(scale)))
        steepest = max(float(np.abs(part).max(initial=1.0)) for part in parts)
    # In data units a weight times the square of a larger value may overflow.
    largest = LARGEST_VALUE / max(float(scale.max()), 1.0)
    return min(1e140 / (float(len(scale)) * steepest), largest)


def _castable(
    rows: NDArray[np.generic],
) -> Iterator[tuple[int, int, NDArray[np.floating]]]:
    """Yield rows for kernels: float64 and float32 as they are, others cast piece by piece."""
    n, d = rows.shape
    if rows.dtype in (np.float64, np.float32):
        yield 0, n, rows  # type: ignore[misc]
        return
    step = max(BLOCK, _CAST_BYTES // (8 * d) // BLOCK * BLOCK)
    for start in range(0, max(n, 1), step):
        stop = min(start + step, n)
        yield start, stop, rows[start:stop].astype(np.float64)
