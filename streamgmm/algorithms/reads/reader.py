"""Passes over the data: each is numbered, timed, announced and kept in the history."""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn

import numpy as np

from streamgmm.algorithms.reads.partial_reads import complete
from streamgmm.algorithms.reads.usable_rows import NotFinite, count_weightless, require_weight
from streamgmm.core import incomplete
from streamgmm.core.e_step import scratch_bytes, statistics_bytes
from streamgmm.core.expectation import Expectation, prepare
from streamgmm.core.frame import Frame
from streamgmm.core.incomplete import IncompleteExpectation
from streamgmm.core.noise import Noise
from streamgmm.core.parameters import Parameters
from streamgmm.core.statistics import Statistics
from streamgmm.core.structures import STRUCTURES, Array
from streamgmm.errors import NotFiniteError
from streamgmm.events import Event, Listener, ReadDone, ReadStarted, SampleStage, SkippedRows
from streamgmm.options import Arithmetic, CovarianceType, Missing
from streamgmm.protocols import (
    Chunk,
    Executor,
    Job,
    Journal,
    M,
    PartialRead,
    S,
    Sink,
    Source,
    V,
    Work,
    all_chunks,
    chunks_done,
    row_bytes,
    row_count,
    unwritten_chunks,
)

#: Function that returns the part of a chunk that statistics are computed from.
ChunkPart = Callable[[Chunk], Chunk]

# Largest difference of parameters that count as equal, in standard deviations and as a part of
# weights. Other processors may round differently.
_SAME = 1e-6


@dataclass(frozen=True, eq=False)
class Reading:
    """The statistics of a pass over all rows, with their parameters.

    Attributes
    ----------
    parameters : Parameters
    statistics : Statistics
    """

    parameters: Parameters
    statistics: Statistics

    def is_of(self, parameters: Parameters) -> bool:
        """Return whether the pass was made with these parameters, up to rounding."""
        own = self.parameters
        if own.covariance_type != parameters.covariance_type or (
            own.means.shape != parameters.means.shape
        ):
            return False
        inverse = own.stacked(own.inverse_factors)
        moved = own.structure.product(inverse, parameters.means - own.means)
        widened = own.structure.relative_changes(own, parameters.factors)
        weights = parameters.weights - own.weights
        if not _has_same_noise(parameters.noise, own.noise):
            return False
        return bool(
            np.all(np.abs(moved) <= _SAME)
            and np.all(np.abs(widened) <= _SAME)
            and np.all(np.abs(weights) <= _SAME * own.weights)
        )


def _has_same_noise(one: Noise | None, other: Noise | None) -> bool:
    """Return whether two mixtures have the same noise, up to rounding, or none."""
    if one is None or other is None:
        return one is other
    return (
        abs(one.weight - other.weight) <= _SAME * other.weight
        and math.isclose(one.log_density, other.log_density, rel_tol=_SAME, abs_tol=_SAME)
        and one.box.shape == other.box.shape
        and bool(np.allclose(one.box, other.box, rtol=_SAME, atol=0.0))
    )


@dataclass(frozen=True, eq=False)
class SharedReading:
    """Results of a pass over all rows for the parameters of several mixtures.

    Attributes
    ----------
    readings : tuple of Reading
    """

    readings: tuple[Reading, ...]

    def is_of(self, mixtures: Sequence[Parameters]) -> bool:
        """Return whether it was made with these mixtures, but for rounding."""
        return len(self.readings) == len(mixtures) and all(
            reading.is_of(own) for reading, own in zip(self.readings, mixtures, strict=True)
        )


@dataclass(frozen=True, eq=False)
class StatisticsRequest:
    """A pass over all rows for the sufficient statistics under given parameters.

    Attributes
    ----------
    purpose : str
        Purpose, for the history.
    parameters : Parameters
    frame : Frame
        Coordinates of the statistics.
    iteration : int
        Number of the iteration, for the history.
    previous : float
        Mean log-likelihood from which the gain is counted, for the history.
    accepts : callable
        Returns whether the parameters are accepted given their statistics, for the history.
    remaining : float
        Gain that is predicted to remain after the previous pass, nats per row.
    """

    purpose: str
    parameters: Parameters
    frame: Frame
    iteration: int = 0
    previous: float = math.nan
    accepts: Callable[[Statistics], bool] = lambda found: True
    remaining: float = math.inf


@dataclass(frozen=True, eq=False)
class SeveralStatistics:
    """Statistics of the same rows under several mixtures.

    Attributes
    ----------
    parts : tuple of Statistics
    """

    parts: tuple[Statistics, ...]

    def merge(self, other: "SeveralStatistics") -> "SeveralStatistics":
        """Return the statistics of the rows of both operands."""
        pairs = zip(self.parts, other.parts, strict=True)
        return SeveralStatistics(tuple(own.merge(another) for own, another in pairs))


@dataclass
class Reader:
    """Passes over one source with one executor, and their history.

    Attributes
    ----------
    source : Source
    executor : Executor
    listener : callable
        Called with every event.
    arithmetic : {"auto", "float64", "float32"}
        Arithmetic of densities; see :meth:`streamgmm.core.e_step.EStep.prepare`.
    history : list of ReadDone
        Every pass over the data so far.
    journal : Journal or None
        Keeps results, and holds the results of an interrupted fit.
    driver_bytes : int
        Memory that this process needs in addition to passes for statistics. Passes that draw
        samples come before this memory is used.
    is_hard : bool
        Whether statistics count each row wholly for its component of largest density.
    log_offsets : ndarray of shape (K,), or None
        Replace ln π_k in the densities; see :meth:`streamgmm.core.e_step.EStep.prepare`.
    stages : list of SampleStage
        Every stage of the work on a sample so far.
    """

    source: Source
    executor: Executor
    listener: Listener
    arithmetic: Arithmetic = "auto"
    history: list[ReadDone] = field(default_factory=list)
    journal: Journal | None = None
    driver_bytes: int = 0
    is_hard: bool = False
    log_offsets: Array | None = None
    stages: list[SampleStage] = field(default_factory=list)

    def notify(self, event: Event) -> None:
        """Pass an event to the listener, and keep the stages of the work on a sample."""
        if isinstance(event, SampleStage):
            self.stages.append(event)
        self.listener(event)

    @property
    def n_reads(self) -> float:
        """Number of passes over the data, partial ones as fractions; an int if it is whole."""
        total = math.fsum(read.part for read in self.history)
        return int(total) if total.is_integer() else total

    def kept(
        self,
        kind: type[V],
        find: Callable[[], V],
        is_asked: Callable[[V], bool] = lambda value: True,
    ) -> V:
        """Return the next result from the journal; if there is none, compute and keep it.

        Parameters
        ----------
        kind : type
            A dataclass.
        find : callable
            Computes the result.
        is_asked : callable
            Returns whether a kept result is the one that is needed now.

        Raises
        ------
        CheckpointError
            If the next result of the journal is another one.
        """
        recalled = None if self.journal is None else self.journal.recall(kind, is_asked)
        if recalled is not None:
            value, reads = recalled
            self.history.extend(reads)
            return value
        n_before = len(self.history)
        value = find()
        if self.journal is not None:
            self.journal.keep(value, self.history[n_before:])
        return value

    def reduce(
        self,
        purpose: str,
        kind: type[M],
        function: Callable[[S, Chunk], M],
        state: S,
        work: Work,
        chunks: Sequence[int] | None = None,
        entry: Callable[[M], Mapping[str, Any]] = lambda value: {},
    ) -> M:
        """Make a pass over chunks for other values than statistics alone.

        Parameters
        ----------
        purpose : str
            For the history.
        kind : type
            The dataclass that the function returns.
        function, state, work
            As for :class:`streamgmm.protocols.Job`.
        chunks : sequence of int, optional
            All chunks by default.
        entry : callable, optional
            Returns other values for the history, given the result.
        """
        value, n_rows, seconds = self._timed(purpose, kind, function, state, work, chunks)
        self._record(purpose, n_rows, seconds, part=n_rows / self.source.n_rows, **entry(value))
        return value

    def statistics(
        self, purpose: str, parameters: Parameters, *, frame: Frame | None = None, **history: Any
    ) -> Statistics:
        """Pass over all rows for the sufficient statistics under given parameters.

        Parameters
        ----------
        purpose : str
            For the history.
        parameters : Parameters
        frame : Frame, optional
            Coordinates of the statistics; by default those that suit the parameters.
        **history
            Other attributes of a :class:`StatisticsRequest`.

        Returns
        -------
        Statistics

        Raises
        ------
        NotFiniteError, DataError, CheckpointError
            As :meth:`answered`.
        """
        frame = frame or Frame.of(parameters, self.source.dtype)
        return self.answered(StatisticsRequest(purpose, parameters, frame, **history))

    def answered(self, request: StatisticsRequest) -> Statistics:
        """Make the pass that a fit asks for.

        Returns
        -------
        Statistics
            Statistics, possibly from the journal. Their coordinates may differ from the requested
            ones by rounding.

        Raises
        ------
        NotFiniteError
            If rows hold NaN or infinity.
        DataError
            If no row has weight.
        CheckpointError
            If the journal continues with other parameters.
        """
        parameters = request.parameters

        def read() -> Reading:
            return Reading(parameters, self._statistics(request))

        return self.kept(Reading, read, lambda reading: reading.is_of(parameters)).statistics

    def answered_together(
        self, requests: Sequence[StatisticsRequest], parts: Sequence[ChunkPart | None] | None = None
    ) -> tuple[Statistics, ...]:
        """Answer several fits by one pass: each chunk is read once.

        The statistics equal those of one pass for each request, to the last bit; they may come from
        the journal. The history gets one entry, with the largest log-likelihood.

        Parameters
        ----------
        requests : sequence of StatisticsRequest
        parts : sequence of callable, optional
            For each request the part of a chunk that it is about: the rows with other weights. None
            for the chunk itself.

        Raises
        ------
        NotFiniteError, DataError, CheckpointError
            As :meth:`answered`.
        """
        mixtures = [one.parameters for one in requests]
        chosen = [None] * len(requests) if parts is None else parts

        def read() -> SharedReading:
            found = self._shared_statistics(requests, chosen)
            return SharedReading(tuple(map(Reading, mixtures, found)))

        shared = self.kept(SharedReading, read, lambda reading: reading.is_of(mixtures))
        return tuple(reading.statistics for reading in shared.readings)

    def _shared_statistics(
        self, requests: Sequence[StatisticsRequest], parts: Sequence[ChunkPart | None]
    ) -> tuple[Statistics, ...]:
        """Make the pass that several fits ask for together."""
        prepared = [self.prepared(one) for one in requests]
        mixtures = tuple(zip(prepared, parts, strict=True))
        sizes = [(p.covariance_type, p.n_components) for p in (one.parameters for one in requests)]
        work = replace(shared_work(self.source, sizes), driver=self.driver_bytes)
        found, _, seconds = self._timed("shared", SeveralStatistics, _several, mixtures, work)
        for part in found.parts:
            self._require_usable(part)
        best = max(found.parts, key=lambda part: part.mean_log_likelihood)
        self._record(
            "shared",
            best.n_rows,
            seconds,
            iteration=max(one.iteration for one in requests),
            log_likelihood=best.mean_log_likelihood,
            n_overflowing=best.n_overflowing,
            n_missing=self._n_missing(best),
            n_weightless=best.n_weightless,
        )
        return found.parts

    def _require_usable(self, found: Statistics) -> None:
        """Refuse rows that are not finite, and rows without weight.

        Raises
        ------
        NotFiniteError, DataError
        """
        n_missing = self._n_missing(found)
        if found.n_not_finite > n_missing:
            refuse_not_finite(self.source, self.executor)
        skipped = SkippedRows(found.n_overflowing, n_missing, found.n_weightless)
        require_weight(found.weight, self.source, skipped)

    def _n_missing(self, found: Statistics) -> int:
        """Return the number of rows that were skipped for lack of values."""
        return 0 if self.source.missing == "error" else found.n_missing

    def prepared(self, request: StatisticsRequest) -> Expectation:
        """Return the mixture of a request, prepared for the rows."""
        return prepare(
            request.parameters,
            request.frame,
            self.source.missing,
            self.arithmetic,
            self.log_offsets,
            self.is_hard,
            n_rows=self.source.n_rows,
        )

    def _statistics(self, request: StatisticsRequest) -> Statistics:
        parameters = request.parameters
        expectation = self.prepared(request)
        work = statistics_work(self.source, parameters.covariance_type, parameters.n_components)
        work = replace(work, driver=self.driver_bytes)
        found, _, seconds = self._timed(
            request.purpose, Statistics, chunk_statistics, expectation, work
        )
        self._require_usable(found)
        self._record(request.purpose, found.n_rows, seconds, **self.entry_of(request, found))
        return found

    def entry_of(self, request: StatisticsRequest, found: Statistics) -> dict[str, Any]:
        """Return what the history says of the statistics that answer a request."""
        mean, previous = found.mean_log_likelihood, request.previous
        n_pairs = self.source.n_rows * request.parameters.n_components
        return {
            "iteration": request.iteration,
            "log_likelihood": mean,
            "gain": mean - previous if math.isfinite(previous) else math.nan,
            "n_overflowing": found.n_overflowing,
            "n_centred": request.frame.centred.size,
            "arithmetic": "float32" if found.n_single else "float64",
            "screened": found.n_screened / n_pairs,
            "passed_over": found.n_passed_over / n_pairs,
            "n_missing": self._n_missing(found),
            "accepted": request.accepts(found),
            "n_weightless": found.n_weightless,
        }

    def _timed(
        self,
        purpose: str,
        kind: type[M],
        function: Callable[[S, Chunk], M],
        state: S,
        work: Work,
        chunks: Sequence[int] | None = None,
    ) -> tuple[M, int, float]:
        """Return the merged value, the rows that were read, and the seconds that it took."""
        source = self.source
        chosen = all_chunks(source) if chunks is None else chunks
        n_read = row_count(source, chosen)
        number = len(self.history) + 1
        job = Job(function, state, work, purpose, number)
        n_bytes = n_read * row_bytes(source)
        self.notify(ReadStarted(number, purpose, n_read, len(chosen), n_bytes))
        begun: PartialRead[M] = PartialRead()
        keep: Callable[[PartialRead[M]], None] = _ignore
        interval = math.inf
        if self.journal is not None:
            begun, keep = self.journal.partial_read(number, kind, (purpose, state, chosen))
            interval = self.journal.interval
        if begun.n_chunks:
            self.listener(chunks_done(source, chosen[: begun.n_chunks]))

        def read(segment: Sequence[int]) -> M:
            return self.executor.map_reduce(source, job, self.listener, segment)

        value, seconds = complete(begun, chosen, read, keep, interval)
        return value, n_read, seconds

    def _record(self, purpose: str, n_rows: int, seconds: float, **values: Any) -> None:
        done = ReadDone(len(self.history) + 1, purpose, n_rows, seconds, **values)
        self.history.append(done)
        self.notify(done)


def statistics_work(source: Source, covariance_type: CovarianceType, n_components: int) -> Work:
    """Return the memory that a pass for the statistics of a mixture takes."""
    shape = n_components, source.n_features
    value = statistics_bytes(covariance_type, *shape)
    return Work(
        scratch_bytes(covariance_type, *shape)
        + gap_bytes(source, n_components)
        + swapped_bytes(source)
        + STRUCTURES[covariance_type].n_sums() * value,
        value,
    )


def shared_work(source: Source, sizes: Iterable[tuple[CovarianceType, int]]) -> Work:
    """Return the memory that a pass for mixtures of some structures and sizes takes.

    Each chunk is evaluated with one mixture after the other.
    """
    works = [statistics_work(source, kind, k) for kind, k in sizes]
    values = sum(work.value for work in works)
    return Work(max(work.thread for work in works) + 3 * values, values)


def swapped_bytes(source: Source) -> int:
    """Return the memory that the values of a chunk take in this machine's byte order."""
    if source.dtype.isnative or source.dtype.kind != "f":
        return 0
    return int(max(np.diff(source.boundaries))) * row_bytes(source)


def gap_bytes(source: Source, n_components: int) -> int:
    """Return the memory that work on the rows with gaps of a chunk takes."""
    if source.missing != "em":
        return 0
    n_rows = int(max(np.diff(source.boundaries)))
    return incomplete.gap_bytes(n_components, source.n_features, n_rows)


def refuse_not_finite(source: Source, executor: Executor) -> NoReturn:
    """Count NaN (if refused) and infinity in all the data; raise an error with their positions.

    Raises
    ------
    NotFiniteError
    """
    found = executor.map_reduce(source, Job(_find_not_finite, source.missing), _ignore)
    raise NotFiniteError(found.message(f"Input {source.name}", source.n_rows, source.missing))


@contextmanager
def announced(listener: Listener, purpose: str, source: Source, sink: Sink) -> Iterator[None]:
    """Announce a pass outside a fit, without a number, over chunks that a sink does not have."""
    chunks = unwritten_chunks(source, sink)
    n_rows = row_count(source, chunks)
    listener(ReadStarted(0, purpose, n_rows, len(chunks), n_rows * row_bytes(source)))
    start = time.perf_counter()
    yield
    seconds = time.perf_counter() - start
    listener(ReadDone(0, purpose, n_rows, seconds))


def _ignore(_: object) -> None:
    pass


def chunk_statistics(expectation: Expectation, chunk: Chunk) -> Statistics:
    """Return the sufficient statistics of a chunk, with the count of its rows of weight 0."""
    found = expectation.statistics(chunk.rows, chunk.weights)
    missing: Missing = "em" if isinstance(expectation, IncompleteExpectation) else "drop"
    n_weightless = count_weightless(chunk, missing)
    return replace(found, n_weightless=n_weightless) if n_weightless else found


def _several(
    mixtures: tuple[tuple[Expectation, ChunkPart | None], ...], chunk: Chunk
) -> SeveralStatistics:
    return SeveralStatistics(tuple(_part_statistics(*one, chunk) for one in mixtures))


def _part_statistics(expectation: Expectation, part: ChunkPart | None, chunk: Chunk) -> Statistics:
    """Return the statistics of a part of a chunk; rows of weight 0 are those of the chunk."""
    if part is None:
        return chunk_statistics(expectation, chunk)
    own = part(chunk)
    found = expectation.statistics(own.rows, own.weights)
    missing: Missing = "em" if isinstance(expectation, IncompleteExpectation) else "drop"
    return replace(found, n_weightless=count_weightless(chunk, missing))


def _find_not_finite(missing: Missing, chunk: Chunk) -> NotFinite:
    return NotFinite.among(chunk, missing)
