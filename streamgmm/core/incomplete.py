"""The E-step over chunks in which rows may lack values: NaN stands for a missing one.

The likelihood of a row is that of its observed values. This gives maximum likelihood if values are
missing at random: the observed values may decide which values are missing, but the missing values
may not.
"""

from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from streamgmm.core.e_step import EStep, Posterior, require_shapes, writable
from streamgmm.core.frame import Frame
from streamgmm.core.kernels.incomplete import (
    KEPT,
    gaps_workspace,
    incomplete_posteriors,
    incomplete_statistics,
)
from streamgmm.core.kernels.low_rank import LowRankCoefficients
from streamgmm.core.kernels.structs import Struct
from streamgmm.core.kernels.tiles import PANEL, STRIDE
from streamgmm.core.kernels.totals import CONDITIONAL_ENTROPY, named
from streamgmm.core.low_rank_gaps import LowRankGaps
from streamgmm.core.noise import Noise
from streamgmm.core.parameters import Parameters
from streamgmm.core.statistics import Statistics
from streamgmm.core.structures import STRUCTURES, Array
from streamgmm.core.whitening import Whitening
from streamgmm.options import Arithmetic


@dataclass(frozen=True, eq=False)
class IncompleteExpectation:
    """A mixture prepared for rows with and without gaps; build with :meth:`prepare`.

    Attributes
    ----------
    complete : EStep
        For the rows without gaps.
    gaps : Whitening or LowRankGaps
        For the rows with gaps.
    noise : Noise or None
        The noise of the mixture.

    References
    ----------
    Ghahramani & Jordan (1994), Supervised learning from incomplete data via an EM approach.
    """

    complete: EStep
    gaps: Whitening | LowRankGaps
    noise: Noise | None = None

    @classmethod
    def prepare(
        cls,
        parameters: Parameters,
        frame: Frame,
        arithmetic: Arithmetic = "auto",
        log_offsets: Array | None = None,
        is_hard: bool = False,
    ) -> "IncompleteExpectation":
        """Prepare a mixture as :meth:`streamgmm.core.e_step.EStep.prepare` does.

        Raises
        ------
        ParameterError
            Also if the mixture has noise of which only the density is known.
        """
        if parameters.noise is not None:
            parameters.noise.require_box("its density of some columns is not known")
        complete = EStep.prepare(parameters, frame, arithmetic, log_offsets, is_hard)
        if not isinstance(complete.coefficients, LowRankCoefficients):
            return cls(complete, Whitening.of(parameters, frame), parameters.noise)
        if log_offsets is None:
            with np.errstate(divide="ignore"):
                log_offsets = np.log(parameters.weights)
        limit = complete.coefficients.limit
        gaps = LowRankGaps(parameters, frame, log_offsets, limit, is_hard)
        return cls(complete, gaps, parameters.noise)

    @property
    def has_noise(self) -> bool:
        """Whether the mixture has a component of constant density."""
        return self.complete.has_noise

    def statistics(self, rows: NDArray[np.generic], weights: Array | None = None) -> Statistics:
        """Return the sufficient statistics of a chunk, expected given the observed values.

        Parameters
        ----------
        rows : ndarray of shape (n, D)
            Any real type and memory layout; NaN where a value is missing.
        weights : ndarray of shape (n,), optional

        Returns
        -------
        Statistics
            Rows without any value are counted in ``n_missing`` and skipped.
        """
        found = self.complete.statistics(rows, weights)
        if not found.n_missing:
            return found
        chosen = _by_gaps(rows)
        row_weights = np.empty(0) if weights is None else np.asarray(weights, np.float64)[chosen]
        if isinstance(self.gaps, LowRankGaps):
            incomplete = self.gaps.statistics(rows[chosen].astype(np.float64), row_weights)
            without = replace(incomplete, n_not_finite=-chosen.size, n_missing=-chosen.size)
            return found.merge(without)
        sums, totals = self.complete.new_sums(), np.zeros(CONDITIONAL_ENTROPY + 1)
        with self.complete.lent_workspace() as work, self._lent_gaps() as gaps:
            incomplete_statistics(
                rows[chosen].astype(np.float64),
                row_weights,
                writable(self.complete.order),
                self.complete.coefficient_struct,
                self.complete.is_hard,
                work,
                gaps,
                sums,
                totals,
            )
        moments, scatter = sums
        incomplete = replace(
            self._in_frame(moments, scatter[0]),
            **named(totals[:CONDITIONAL_ENTROPY]),
            n_not_finite=-chosen.size,
            n_missing=-chosen.size,
            conditional_entropy=float(totals[CONDITIONAL_ENTROPY]),
        )
        return found.merge(incomplete)

    def posterior(
        self, rows: NDArray[np.generic], with_responsibilities: bool = False
    ) -> Posterior:
        """Return the log-density of the observed values, label and, if asked for, responsibilities.

        Parameters
        ----------
        rows : ndarray of shape (n, D)
            Any real type and memory layout; NaN where a value is missing.
        with_responsibilities : bool

        Returns
        -------
        Posterior
            Rows without any value are among those that are not finite.
        """
        found = self.complete.posterior(rows, with_responsibilities)
        if not found.n_not_finite:
            return found
        chosen = _by_gaps(rows)
        scores, labels, responsibilities, _ = self._incomplete(rows[chosen], with_responsibilities)
        found.scores[chosen] = scores
        found.labels[chosen] = labels
        if with_responsibilities:
            found.responsibilities[chosen] = responsibilities
        return replace(found, n_not_finite=found.n_not_finite - chosen.size)

    def impute(self, rows: NDArray[np.generic]) -> Array:
        """Return the rows with missing values replaced by their expectation given the others.

        Parameters
        ----------
        rows : ndarray of shape (n, D)
            Any real type and memory layout; NaN where a value is missing.

        Returns
        -------
        ndarray of shape (n, D), float64
            In rows without any value, and in rows that overflow, the mean of the mixture replaces
            missing values. The mean of noise is the centre of its box.
        """
        require_shapes(self.complete.frame, rows)
        filled = rows.astype(np.float64)
        chosen = _by_gaps(rows)
        scores, _, shares, expected = self._incomplete(rows[chosen], self.has_noise, True)
        if self.noise is not None:
            expected += (1.0 - shares.sum(axis=1, keepdims=True)) * self.noise.centre
        is_sound = np.isfinite(scores)
        chosen, expected = chosen[is_sound], expected[is_sound]
        filled[chosen] = np.where(np.isnan(filled[chosen]), expected, filled[chosen])
        rest = np.flatnonzero(np.isnan(filled).any(axis=1))
        means = self.complete.coefficients.means[:, : rows.shape[1]]
        mean = self.complete.weights[self.complete.order] @ means
        if self.noise is not None:
            mean = mean + self.noise.weight * self.noise.centre
        filled[rest] = np.where(np.isnan(filled[rest]), mean, filled[rest])
        return filled

    def _incomplete(
        self,
        rows: NDArray[np.generic],
        with_responsibilities: bool = False,
        with_missing_values: bool = False,
    ) -> tuple[Array, NDArray[np.int64], Array, Array]:
        if isinstance(self.gaps, LowRankGaps):
            return self.gaps.posteriors(
                rows.astype(np.float64), with_responsibilities, with_missing_values
            )
        n, d = rows.shape
        posteriors = self.complete.new_posteriors(n, with_responsibilities)
        imputed = np.zeros((n if with_missing_values else 0, d))
        with self.complete.lent_workspace() as work, self._lent_gaps() as gaps:
            incomplete_posteriors(
                rows.astype(np.float64),
                writable(self.complete.weights),
                writable(self.complete.order),
                self.complete.coefficient_struct,
                work,
                gaps,
                posteriors,
                imputed,
            )
        return *posteriors, imputed

    def _lent_gaps(self) -> AbstractContextManager[Struct]:
        """Give this thread what rows with gaps need besides, until the context ends."""
        shape = self.complete.coefficients.means.shape
        return self.complete.scratch.lent("gaps", lambda: Struct(gaps_workspace(*shape)))

    def _in_frame(self, moments: Array, scatter: Array) -> Statistics:
        """Return statistics from the sums of the kernel, with the components in their own order."""
        order, d = self.complete.order, self.complete.frame.n_features
        placed = np.zeros((len(self.complete.weights), moments.shape[1]))
        placed[order] = moments
        structure = STRUCTURES[self.complete.frame.covariance_type]
        assert isinstance(self.gaps, Whitening)
        return self.gaps.in_frame(placed, structure.scatter_from(scatter, d))


def gap_bytes(n_components: int, n_features: int, n_rows: int) -> int:
    """Return the memory that n rows with gaps, and a kernel for blocks of them, take."""
    rows = 24 * n_features * n_rows
    kept = max(KEPT, n_components * n_features * PANEL)
    return rows + 8 * (kept + 2 * n_features**2 + 3 * STRIDE * n_features)


def _by_gaps(rows: NDArray[np.generic]) -> NDArray[np.intp]:
    """Return the indices of the rows that lack some values, ordered by their gaps."""
    with np.errstate(over="ignore", invalid="ignore"):
        # The product is NaN for each row with a NaN, and for few other rows.
        doubtful = np.flatnonzero(np.isnan(rows @ np.ones(rows.shape[1], rows.dtype)))
    values = rows[doubtful].astype(np.float64)
    gaps = _as_words(np.isnan(values))
    nothing = _as_words(np.ones((1, rows.shape[1]), dtype=np.bool_))
    lacks_some = gaps.any(axis=1) & (gaps != nothing).any(axis=1) & ~np.isinf(values).any(axis=1)
    order = np.lexsort(gaps[lacks_some].T)
    return np.asarray(doubtful[lacks_some][order], dtype=np.intp)


def _as_words(flags: NDArray[np.bool_]) -> NDArray[np.uint64]:
    """Return the flags (n, D) as bits of whole words (n, D / 64)."""
    packed = np.packbits(flags, axis=1)
    padding = -packed.shape[1] % 8
    return np.pad(packed, [(0, 0), (0, padding)]).view(np.uint64)
