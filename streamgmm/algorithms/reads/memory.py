"""Memory that the process which drives a fit takes, beside the chunks that it reads.

The bytes of each stage follow from the shape of the mixture and of the sample. They are upper
bounds, so that a fit that is accepted keeps its limit. If a limit is below the memory of all the
work, :func:`affordable` chooses less work, by the limit and the shapes alone. The free memory of
the moment never changes the result of a fit.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from streamgmm.core.e_step import statistics_bytes
from streamgmm.core.structures import STRUCTURES, CovarianceStructure
from streamgmm.options import CovarianceType

_VALUE = 8
# Number of block-sized arrays that an operation on all covariances has in memory at once, and
# number of arrays of shape (K, D).
_BLOCK_ARRAYS, _ROW_ARRAYS = 20, 12
# Index, hash, weight and stratum of a sampled row, and copies of them.
_OTHER_BYTES = 64
# Blocks of responsibilities, of distances and of columns, each with copies.
_FIXED_BYTES = 24 << 20
# Bytes that a thread holds while it computes means over rows; see ``split_merge``.
_MEANS_BYTES = 12 << 20
# Bytes of a responsibility that is kept with its row; how many a row has on average, at most.
_SHARE_BYTES, _SHARES_OF_ROW = 12, 8
# Bytes of the matrix of distances between the worst explained rows, with flags.
_WORST_BYTES = 10 << 20
# Bytes of responsibilities of informing rows: a dense block with flags, see ``search``.
_SHARES_BYTES = 3 << 24
# Rows that are drawn from a pool of mixtures; see ``core.merging``.
_DRAWN_ROWS = 1 << 13
# Number of vectors with an entry for each parameter, while a step is computed.
_VECTORS = 12
# Bytes of the interpreter, libraries and compiled kernels that choices assume.
_PROCESS_BYTES = 400 << 20


@dataclass(frozen=True)
class Effort:
    """The size of the work in memory.

    Attributes
    ----------
    order : int
        Earlier passes that Anderson extrapolation keeps.
    splits : bool
        Whether components are split and merged.
    informing_part : int
        Information uses one of this many parts of the bytes that rows may take.
    starting_part : int
        Starts, and split and merge, use one of this many parts of the sampled rows.
    n_threads : int
        Threads whose memory is counted for the work on a sample. The number does not depend on the
        machine, so that a fit does not.
    """

    order: int = 8
    splits: bool = True
    informing_part: int = 1
    starting_part: int = 1
    n_threads: int = 2

    @property
    def corrects(self) -> bool:
        """Whether steps of low rank are corrected with the sample."""
        return self.order > 0


#: The efforts between which a limit decides, the largest first.
EFFORTS = tuple(
    Effort(order, splits, part, starting_part)
    for splits in (True, False)
    for starting_part in (1, 4)
    for order, part in ((8, 1), (4, 1), (2, 2), (1, 4))
)
# Those of mixtures without splits and merges, and without information. The least is EM's own steps.
_EFFORTS_WITHOUT_SPLITS = (
    *(Effort(order, starting_part=part) for part in (1, 4) for order in (8, 4, 2)),
    Effort(0, starting_part=4),
    Effort(0, starting_part=4, n_threads=1),
)


@dataclass(frozen=True)
class MixtureBytes:
    """Sizes of the objects that are made from a mixture.

    Attributes
    ----------
    covariance_type : {"full", "tied", "diag", "spherical", "tied_diag", "tied_spherical"}
    n_components, n_features : int
    missing : bool
        Whether rows may lack values.
    """

    covariance_type: CovarianceType
    n_components: int
    n_features: int
    missing: bool = False

    @property
    def _structure(self) -> CovarianceStructure:
        return STRUCTURES[self.covariance_type]

    @property
    def rows(self) -> int:
        """An array of shape (K, D)."""
        return _VALUE * self.n_components * self.n_features

    @property
    def matrices(self) -> int:
        """Covariances, or their factors, in stacked form."""
        return _VALUE * self._structure.n_factor_values(self.n_components, self.n_features)

    @property
    def statistics(self) -> int:
        """Statistics; a vector with an entry for each parameter takes as much."""
        return statistics_bytes(self.covariance_type, self.n_components, self.n_features)

    @property
    def bare(self) -> int:
        """Parameters: covariances, factors, means."""
        return 2 * self.matrices + self.rows

    @property
    def parameters(self) -> int:
        """Parameters with their inverse factors."""
        return self.bare + self.matrices

    @property
    def frame(self) -> int:
        """Own means and factors of all components, and what says which moments are taken."""
        shape = self._structure.frame_factor_shape(self.n_components, self.n_features)
        return _VALUE * math.prod(shape) + self.rows

    @property
    def expectation(self) -> int:
        """A mixture prepared for the E-step: coefficients, bases, whitened means."""
        whitening = self.matrices + self.rows if self.missing else 0
        order = self.matrices  # Factors in the order of the kernels.
        return 2 * self.statistics + order + self.frame + 3 * self.rows + whitening

    @property
    def temporaries(self) -> int:
        """Temporary arrays of an operation on all covariances, one block of them at a time."""
        block = self._structure.block_values(self.n_components, self.n_features)
        return _BLOCK_ARRAYS * _VALUE * block + self.rows if block else _ROW_ARRAYS * self.rows

    @property
    def mean_factor(self) -> int:
        """The mean factor of the components: a QR factorisation of all their factors."""
        return self._structure.n_mean_arrays() * self.matrices

    @property
    def scoring(self) -> int:
        """Return the bytes of a pass that only scores rows, and of its results."""
        return self.matrices + self.frame + self.expectation + self.temporaries

    @property
    def merging(self) -> int:
        """Return the bytes of merging a pool of this size, and of measuring the loss on rows."""
        bounds = 4 * _VALUE * self.n_components**2
        # The pool and the reduced mixture, and their copies without a component.
        reduced = 4 * self.bare + self.matrices + self.temporaries + bounds
        carried = 3 * self.frame + 3 * self.statistics
        rows = 4 * _VALUE * _DRAWN_ROWS * self.n_features
        measured = 2 * self.parameters + 2 * self.expectation + self.temporaries + rows
        return self.bare + self.mean_factor + max(reduced + carried, measured) + _FIXED_BYTES

    def em(self, read: int) -> int:
        """Return the bytes of plain EM: three mixtures, two frames, statistics, and a pass."""
        step = max(self.expectation + read, self.parameters + self.temporaries)
        last = self.frame + self.statistics
        if not self._structure.moments_depend_on_parameters:
            # Moments of all components in several frames.
            last *= 2
        return 2 * self.bare + self.matrices + last + step


@dataclass(frozen=True)
class FitMemory:
    """Memory of the stages of a fit in the process that drives it.

    Attributes
    ----------
    mixture : MixtureBytes
    n_sample : int
        Rows of the sample.
    itemsize : int
        Bytes of a sampled value.
    n_init : int
    n_starts : int
        Mixtures of starts that are held at once.
    few : int
        Rows that starts use.
    n_splitting : int
        Rows with which components are split and merged.
    n_informing : int
        Rows that inform steps.
    is_informed : bool
        Whether these are enough for all parameters, so that information is estimated.
    informing_bytes : int
        Most bytes of the data that information keeps of these rows.
    scratch : int
        Bytes of a thread that computes, with its own statistics.
    n_pilot : int
        Rows of the pilot sample.
    """

    mixture: MixtureBytes
    n_sample: int
    itemsize: int
    n_init: int
    n_starts: int
    few: int
    n_splitting: int
    n_informing: int
    is_informed: bool
    informing_bytes: int
    scratch: int
    n_pilot: int = 0

    @property
    def efforts(self) -> tuple[Effort, ...]:
        """The efforts between which a limit decides, the largest first."""
        return _EFFORTS_WITHOUT_SPLITS if self._is_extrapolated else EFFORTS

    def during_passes(self, effort: Effort) -> int:
        """Return what is held during a pass over all the data."""
        reading, _ = self._in_few_passes(0, effort, self.mixture.bare)
        return self._sample + reading

    def between_passes(self, effort: Effort) -> int:
        """Return what is held between two passes over all the data."""
        _, advancing = self._in_few_passes(0, effort, self.mixture.bare)
        if self._is_extrapolated and effort.corrects:
            advancing += self._correction(effort)
        return self._sample + advancing

    def search(self, effort: Effort) -> int:
        """Return the bytes that are held before these passes: first the pilot, then the sample."""
        return max(self._pilot, self._sample + self._search(effort))

    @property
    def plain_passes(self) -> int:
        """Bytes that plain EM holds during passes over all data, with sample and the best fit."""
        best = 0
        if self.n_init > 1:
            best = self.mixture.parameters + self.mixture.statistics + self.mixture.frame
        return self._rows(self.n_sample) + _FIXED_BYTES + best + self.mixture.em(0)

    @property
    def plain_start(self) -> int:
        """Bytes that plain EM holds before its passes over all data."""
        start = self._initialize(self.n_sample, self.mixture)
        return self._rows(self.n_sample) + _FIXED_BYTES + start

    @property
    def _sample(self) -> int:
        is_copied = self.mixture.missing or self.n_informing < self.n_sample
        informing = is_copied * self.n_informing * (self._row + _VALUE)
        return self._rows(self.n_sample) + informing + _FIXED_BYTES

    @property
    def _row(self) -> int:
        return self.mixture.n_features * self.itemsize

    def _rows(self, n: int) -> int:
        return n * (self._row + _OTHER_BYTES)

    @property
    def _is_extrapolated(self) -> bool:
        """Whether parameters are extrapolated, because moments depend on them."""
        return STRUCTURES[self.mixture.covariance_type].moments_depend_on_parameters

    def _read(self, effort: Effort) -> int:
        """Return the bytes of a pass over the sample, on all threads."""
        return effort.n_threads * self.scratch + 6 * self.mixture.statistics

    def _in_few_passes(self, read: int, effort: Effort, start: int) -> tuple[int, int]:
        """Return what a fit holds during a pass that takes ``read``, and between two."""
        method = self._extrapolated if self._is_extrapolated else self._accelerated
        return method(read, effort, start)

    def _initialize(self, n: int, mixture: MixtureBytes) -> int:
        """Return the bytes to compute parameters of clusters: centred rows, and deviations."""
        d = mixture.n_features
        width = 2 * d if mixture.missing else d + 1
        masks = d * (3 if mixture.missing else 1)
        rows = n * (_VALUE * (width + 3 * d) + masks + _OTHER_BYTES)
        return rows + mixture.parameters + mixture.temporaries + 2 * mixture.rows

    @property
    def _pilot(self) -> int:
        """A rough mixture of the pilot sample, before there is another sample."""
        one = self.mixture
        rough = MixtureBytes("diag", one.n_components, one.n_features, one.missing)
        rows = self.n_pilot * (_VALUE * one.n_features + _OTHER_BYTES)
        return _FIXED_BYTES + rows + max(self._initialize(self.n_pilot, rough), rough.em(0))

    def start(self, n_rows: int, effort: Effort) -> int:
        """Return the bytes of one start from some rows: parameters of clusters, or EM."""
        return max(self._initialize(n_rows, self.mixture), self.mixture.em(self._read(effort)))

    def _search(self, effort: Effort) -> int:
        """Return the bytes of starts, split and merge, and convergence on the sample."""
        starts = self.n_starts * self.mixture.bare
        few = min(self.few, self.n_sample) // effort.starting_part
        first = starts + self._rows(few) + self.start(few, effort)
        converged = max(self._in_few_passes(self._read(effort), effort, self._restarts))
        if self._is_extrapolated or not effort.splits:
            return max(first, converged)
        return max(first, converged, self._splitting(starts, effort))

    @property
    def _restarts(self) -> int:
        """The mixtures of all restarts, and inverse factors of two that are compared."""
        one = self.mixture
        return self.n_init * one.bare + 2 * min(self.n_init - 1, 1) * one.parameters

    def _splitting(self, starts: int, effort: Effort) -> int:
        """Return the bytes of split and merge: halves of all components, and changed mixtures."""
        one = self.mixture
        size = min(self.n_splitting, self.n_sample) // effort.starting_part
        parts = MixtureBytes(
            one.covariance_type, 2 * one.n_components + 4, one.n_features, one.missing
        )
        as_double = size * _VALUE * one.n_features if self.itemsize < _VALUE else 0
        # The starts, and where EM leads from them.
        begun = 2 * starts + self._restarts
        held = begun + self._rows(size) + as_double + one.bare + one.parameters
        factor = one.mean_factor + 3 * size * _VALUE * one.n_features
        own = self._read(effort)
        read = 2 * own + effort.n_threads * 2 * parts.statistics
        # Responsibilities by row and by component, and the rows to which halves are fitted.
        shares = 3 * _SHARE_BYTES * size * min(one.n_components, _SHARES_OF_ROW)
        copied = 2 * size * self._row
        means = parts.bare + parts.expectation + one.expectation + one.matrices + parts.matrices
        means += shares + copied + parts.statistics
        return held + max(
            self._initialize(size, parts),
            factor + _WORST_BYTES,
            parts.em(read),
            means + effort.n_threads * _MEANS_BYTES,
            # Pairs of components, and the mixture in which they replace components.
            parts.bare + one.bare + max(one.bare + one.temporaries, one.em(own)),
        )

    def _accelerated(self, read: int, effort: Effort, start: int) -> tuple[int, int]:
        """Return what accelerated EM holds during a pass that takes ``read``, and between two.

        It is the best point, the next one, and the iterates before them.
        """
        one = self.mixture
        vector = one.statistics
        information, building = self._information(effort)
        point = one.parameters + one.statistics + vector + information
        iterates = (effort.order + 1) * (one.statistics + vector)
        # The next point, in addition to the best one and the step to the next one.
        reading = (
            one.parameters
            + vector
            + max(
                one.expectation + read,
                one.statistics + one.parameters + 2 * vector + one.temporaries,
                one.statistics + one.parameters + vector + building,
            )
        )
        # EM's own step; then the solver's vectors, or the proposals of scoring and of extrapolation
        # with their statistics.
        advancing = one.parameters + max(
            _VECTORS * vector * self.is_informed,
            2 * one.bare + 4 * one.statistics + 4 * vector + one.matrices + one.temporaries,
        )
        held = start + iterates + 2 * one.frame + point
        return held + reading, held + advancing

    def _extrapolated(self, read: int, effort: Effort, start: int) -> tuple[int, int]:
        """Return what EM with extrapolated parameters holds: see :meth:`_accelerated`.

        It is the best point, the next one, and the iterates before them, each with its image.
        """
        one = self.mixture
        vector = one.matrices + one.rows
        point = one.bare + one.statistics + one.frame
        # Of the coordinates two arrays are kept.
        iterates = (2 * (effort.order + 1) + 2) * vector * (effort.order > 0)
        held = start + point + iterates
        reading = one.bare + one.expectation + read
        # Another point with both of its steps; or iterates as a matrix, and its decomposition.
        advancing = max(
            point + 2 * one.matrices + 2 * one.bare + one.temporaries,
            (2 * effort.order + 4) * vector * (effort.order > 0) + one.bare,
        )
        return held + reading, held + advancing

    def _correction(self, effort: Effort) -> int:
        """Return the bytes of a correction with the sample, beside the point that it begins from.

        It has iterates of its own, and three mixtures.
        """
        one = self.mixture
        vector = one.matrices + one.rows
        held = 3 * one.parameters + one.statistics + one.frame + 5 * vector
        held += 2 * (effort.order + 1) * vector
        extrapolated = 2 * (effort.order + 1) * vector
        return held + max(one.expectation + self._read(effort), extrapolated + one.temporaries)

    def _information(self, effort: Effort) -> tuple[int, int]:
        """Return the bytes kept for informing rows, and the additional bytes to compute them."""
        one = self.mixture
        if not self.is_informed:
            return 0, 0
        n_shares = self.n_informing * one.n_components
        most = n_shares * _VALUE * (one.n_features + 2)
        kept = min(most, self.informing_bytes // effort.informing_part)
        # A dense block with flags; then the entries that matter, joined and ordered by component.
        responsibilities = min(_SHARES_BYTES, 2 * _VALUE * n_shares)
        responsibilities += _VALUE * kept // (one.n_features + 2)
        # The rows, and the residuals of one component, in float64, with copies. Each row
        # belongs to at least one component.
        rows = min(self.n_informing * _VALUE * one.n_features, kept)
        return kept, kept + responsibilities + 4 * rows


def affordable(
    limit: int | None, needs: Callable[[Effort], int], efforts: Sequence[Effort] = EFFORTS
) -> Effort:
    """Choose the largest effort that fits in a limit.

    Parameters
    ----------
    limit : int, optional
        Bytes that the process may hold; None for no limit.
    needs : callable
        Returns the bytes that a fit with an effort takes, passes included.
    efforts : sequence of Effort
        The efforts to choose from, the largest first.

    Returns
    -------
    Effort
        The smallest effort, if none fits.
    """
    if limit is None:
        return efforts[0]
    room = limit - _PROCESS_BYTES
    return next((effort for effort in efforts if needs(effort) <= room), efforts[-1])
