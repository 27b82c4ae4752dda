"""The first pass: moments of the features, and a sample of rows that includes rare ones.

The sample has two strata: rows that the mixture of a pilot explains, and rows that it explains
badly. Of the few rows of the second stratum a larger part is taken, with smaller weights.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamgmm.algorithms.reads.reader import (
    Reader,
    StatisticsRequest,
    chunk_statistics,
    refuse_not_finite,
    statistics_work,
)
from streamgmm.algorithms.reads.usable_rows import RowUse
from streamgmm.algorithms.sampling.pilot import Explanation, Pilot, explained, take_pilot
from streamgmm.algorithms.sampling.row_sample import (
    Draw,
    RowSample,
    SampleDesign,
)
from streamgmm.algorithms.sampling.systematic_sample import spread_chunks
from streamgmm.core.e_step import scratch_bytes
from streamgmm.core.expectation import Expectation
from streamgmm.core.feature_moments import FeatureMoments
from streamgmm.core.frame import Frame
from streamgmm.core.parameters import Parameters
from streamgmm.core.statistics import Statistics
from streamgmm.core.structures import Array
from streamgmm.errors import DataError
from streamgmm.events import SkippedRows, SurveyDone
from streamgmm.options import CovarianceType, Missing
from streamgmm.protocols import Chunk, Source, Work, all_chunks, row_count

# Rows that are kept, divided by the size of the sample, if only a pilot estimates how many are
# usable.
_SPARE = 2.0
# Bytes of the blocks in which rows are examined, as float64.
_BLOCK_BYTES = 1 << 20
# Number of arrays of a block that are in memory at once.
_BLOCKS = 6
# Bytes for each row of a chunk: hashes, positions, scores, labels and strata.
_ROW_BYTES = 64


@dataclass(frozen=True, eq=False)
class Survey:
    """The results of the first pass.

    Attributes
    ----------
    n_rows : int
        Rows that were read.
    skipped : SkippedRows
        Rows among these that were skipped.
    n_unexplained : int
        Number of usable rows that the pilot's mixture explains badly.
    moments : FeatureMoments
        Moments of the usable rows.
    sample : RowSample
        Sampled rows in the order of the data. The weight of a row is its own weight, times the
        number of rows of its stratum per sampled row. All weights therefore sum to about the weight
        of all usable rows, whether they were read or not.
    statistics : Statistics, optional
        Statistics of all rows under the parameters that were asked for.
    """

    n_rows: int
    skipped: SkippedRows
    n_unexplained: int
    moments: FeatureMoments
    sample: RowSample
    statistics: Statistics | None = None

    def check(self) -> None:
        """Refuse moments and a sample of different numbers of columns; a file may hold such values.

        Raises
        ------
        DataError
        """
        if self.sample.rows.shape[1:] != self.moments.means.shape:
            raise DataError("the moments and the sample have different numbers of columns")


def survey(reader: Reader, size: int, seed: int, n_components: int, part: float = 1.0) -> Survey:
    """Survey the data in one pass, after a pilot sample of a small part of them.

    The sampled rows do not depend on chunks, threads and scheduler, if ``part`` is 1 and chunks are
    small enough for the same pilot.

    Parameters
    ----------
    reader : Reader
    size : int
        Largest number of rows of the sample. The sample may be smaller if rows are skipped or have
        no weight, and the pilot underestimates their number.
    seed : int
        Below 2**32.
    n_components : int
        Components of the pilot's mixture.
    part : float
        About this part of the chunks is read, spread over the data, but at least as many rows as
        the sample has.

    Returns
    -------
    Survey
        Sampled rows are float32 if the data are of floating type and no wider, else float64.

    Raises
    ------
    NotFiniteError
        If rows hold infinity, or NaN that is not skipped.
    MemoryLimitError
        If the sample does not fit in memory.
    """
    source = reader.source
    chunks = _chosen_chunks(source, size, part, seed)
    n_rows = source.n_rows if chunks is None else row_count(source, chunks)
    pilot = take_pilot(reader, seed, n_components) if size < n_rows else None
    found = _survey(reader, size, seed, pilot, chunks)
    if size < source.n_rows:
        return found
    return replace(found, sample=explained(found.sample, source, seed, n_components))


def survey_with_statistics(
    reader: Reader, size: int, seed: int, pilot: Pilot, parameters: Parameters
) -> Survey:
    """Survey the data in one pass that also collects the statistics of a mixture.

    Parameters, results and errors are those of :func:`survey`; the pilot sample has been taken.
    """
    frame = Frame.of(parameters, reader.source.dtype).with_directions(parameters)
    request = StatisticsRequest("survey", parameters, frame, iteration=1)
    return _survey(reader, size, seed, pilot, None, request)


def _survey(
    reader: Reader,
    size: int,
    seed: int,
    pilot: Pilot | None,
    chunks: list[int] | None,
    request: StatisticsRequest | None = None,
) -> Survey:
    """Survey some chunks, or all; a request asks for statistics."""
    source = reader.source
    n_rows = source.n_rows if chunks is None else row_count(source, chunks)
    explanation = None if pilot is None else pilot.explanation
    design = _design(source, size, seed, n_rows, pilot)
    work = _work(design, source, explanation)
    expectation = None
    if request is not None:
        expectation = reader.prepared(request)
        work = _with_statistics(work, source, request.parameters)
    reader.executor.check_memory(source, work)
    state = _State(design, explanation, source.missing, expectation)

    def record(found: _Found) -> dict[str, Any]:
        if request is None or found.statistics is None:
            return {}
        return reader.entry_of(request, found.statistics)

    found = reader.reduce("survey", _Found, _survey_chunk, state, work, chunks, record)
    totals = found.totals
    if totals.n_refused:
        refuse_not_finite(source, reader.executor)
    scale = source.n_rows / max(n_rows, 1)
    return Survey(
        n_rows,
        totals.skipped,
        int(totals.n_used[1]),
        totals.moments,
        _weighted(found.draw.sample(), scale * totals.n_used),
        found.statistics,
    )


def refuse_unseen_features(found: Survey, source: Source) -> None:
    """Refuse a survey in which a feature has no value in any sampled row.

    Raises
    ------
    DataError
        If a feature has no value.
    """
    n_sampled = len(found.sample)
    if not n_sampled:
        return
    # A feature without values has none in the first row.
    is_unseen = np.isnan(found.sample.rows[0])
    is_unseen[is_unseen] = np.isnan(found.sample.rows[:, is_unseen]).all(axis=0)
    for is_named, what in (
        (is_unseen & (found.moments.weights == 0.0), f"no value in {found.n_rows} rows"),
        (is_unseen, f"values in so few rows that none of the {n_sampled} sampled ones has any"),
    ):
        indices: list[int] = np.flatnonzero(is_named).tolist()
        if indices:
            names = ", ".join(_feature_names(source)[index] for index in indices)
            raise DataError(f"{source.name} has {what} of column(s) {names}; exclude them")


def _feature_names(source: Source) -> Sequence[str]:
    return source.feature_names or [str(index) for index in range(source.n_features)]


def report(found: Survey, source: Source, shortfall: float) -> SurveyDone:
    """Return the event of a survey, with the expected loss of its sample."""
    moments = found.moments
    return SurveyDone(
        found.n_rows,
        found.skipped.n_overflowing,
        found.skipped.n_missing,
        found.skipped.n_weightless,
        len(found.sample),
        int(found.sample.is_unexplained.sum()),
        shortfall,
        _feature_names(source),
        moments.smallest,
        moments.largest,
        moments.means,
        np.sqrt(moments.variances),
        _total_weight(found, source),
    )


def _total_weight(found: Survey, source: Source) -> float:
    """Estimate the weight of all usable rows from the surveyed ones."""
    surveyed = float(found.n_rows - found.skipped.n_rows)
    if source.has_weights:
        surveyed = float(found.moments.weights.max(initial=0.0))
    return surveyed * source.n_rows / max(found.n_rows, 1)


def sample_dtype(source: Source) -> np.dtype[Any]:
    """Return the type of sampled rows: float32 where that holds all values, else float64."""
    is_small = source.dtype.kind == "f" and source.dtype.itemsize <= 4
    return np.dtype(np.float32 if is_small else np.float64)


def _chosen_chunks(source: Source, size: int, part: float, seed: int) -> list[int] | None:
    """Return one chunk of each of as many segments as are needed; None for all chunks."""
    n_chunks = len(all_chunks(source))
    n_chosen = math.ceil(n_chunks * min(max(part, size / source.n_rows), 1.0))
    if n_chosen >= n_chunks:
        return None
    return spread_chunks(source, n_chosen, seed)


def _design(source: Source, size: int, seed: int, n_rows: int, pilot: Pilot | None) -> SampleDesign:
    """Return the design of the sample of ``n_rows`` rows."""
    dtype = sample_dtype(source)
    size = min(size, n_rows)
    if not source.has_weights and source.missing == "error":
        return SampleDesign.among(n_rows, size, seed, dtype)
    # Neighbouring rows are often similar, so the estimate of the pilot may be far off.
    n_usable = 0.0 if pilot is None else pilot.usable * n_rows
    return SampleDesign.among(n_usable, size, seed, dtype, _SPARE)


def _work(design: SampleDesign, source: Source, explanation: Explanation | None) -> Work:
    """Return the memory that the pass takes."""
    if explanation is None:
        return _sampling_work(design, source, is_stratified=False)
    expectation = explanation.expectation
    shape = len(expectation.weights), source.n_features
    scores = scratch_bytes(expectation.frame.covariance_type, *shape)
    return _sampling_work(design, source, is_stratified=True, scores=scores)


def _sampling_work(
    design: SampleDesign, source: Source, *, is_stratified: bool, scores: int = 0
) -> Work:
    d = source.n_features
    sample = design.work(d, is_stratified)
    largest = int(max(np.diff(source.boundaries)))
    block = _BLOCKS * max(_BLOCK_BYTES, 8 * d)
    return replace(sample, thread=sample.thread + block + _ROW_BYTES * largest + scores)


def _with_statistics(work: Work, source: Source, parameters: Parameters) -> Work:
    """Return the memory of a pass that also collects statistics."""
    return work + statistics_work(source, parameters.covariance_type, parameters.n_components)


def survey_work(
    source: Source,
    size: int,
    covariance_type: CovarianceType,
    n_components: int,
    with_statistics: bool,
) -> Work:
    """Return the largest memory that a survey may take, for any result of its pilot."""
    is_stratified = size < source.n_rows
    design = _design(source, size, 0, source.n_rows, Pilot(1.0, None) if is_stratified else None)
    kind: CovarianceType = covariance_type if with_statistics else "diag"
    scores = scratch_bytes(kind, n_components, source.n_features) if is_stratified else 0
    work = _sampling_work(design, source, is_stratified=is_stratified, scores=scores)
    if not with_statistics:
        return work
    return work + statistics_work(source, covariance_type, n_components)


def _weighted(sample: RowSample, n_rows: Array) -> RowSample:
    """Return the sample with weights such that its rows stand for all rows of their strata."""
    strata = sample.is_unexplained.astype(np.intp)
    n_sampled = np.bincount(strata, minlength=2)
    if np.all(n_sampled > 0):
        factors = n_rows / n_sampled
    else:
        # One stratum, or a stratum of which no row was sampled by chance.
        factors = np.full(2, n_rows.sum() / max(len(sample), 1))
    return replace(sample, weights=sample.weights * factors[strata])


@dataclass(frozen=True, eq=False)
class _State:
    """The arguments of the survey of each chunk."""

    design: SampleDesign
    explanation: Explanation | None
    missing: Missing
    expectation: Expectation | None


@dataclass(frozen=True, eq=False)
class _Totals:
    """Counts and sums of a survey; a monoid.

    Attributes
    ----------
    moments : FeatureMoments
    n_used : ndarray of shape (2,), float
        Rows that take part, by stratum.
    skipped : SkippedRows
    n_refused : int
        Rows with values that cannot be used.
    """

    moments: FeatureMoments
    n_used: Array
    skipped: SkippedRows
    n_refused: int

    def merge(self, other: "_Totals") -> "_Totals":
        return _Totals(
            self.moments.merge(other.moments),
            self.n_used + other.n_used,
            self.skipped + other.skipped,
            self.n_refused + other.n_refused,
        )


@dataclass(frozen=True, eq=False)
class _Found:
    """The results for some rows; a monoid."""

    totals: _Totals
    draw: Draw
    statistics: Statistics | None

    def merge(self, other: "_Found") -> "_Found":
        statistics = None
        if self.statistics is not None and other.statistics is not None:
            statistics = self.statistics.merge(other.statistics)
        return _Found(self.totals.merge(other.totals), self.draw.merge(other.draw), statistics)


def _survey_chunk(state: _State, chunk: Chunk) -> _Found:
    n, d = chunk.rows.shape
    is_unexplained = np.zeros(n, dtype=np.bool_)
    if state.explanation is not None:
        is_unexplained = state.explanation.is_unexplained(chunk.rows)
    step = max(1, _BLOCK_BYTES // (8 * d))
    blocks = (slice(start, start + step) for start in range(0, max(n, 1), step))
    totals = functools.reduce(
        _Totals.merge,
        (
            _block_totals(
                chunk.rows[block],
                None if chunk.weights is None else chunk.weights[block],
                is_unexplained[block],
                state.missing,
            )
            for block in blocks
        ),
    )
    drawn = state.design.draw(chunk, state.missing, is_unexplained)
    if state.expectation is None:
        return _Found(totals, drawn, None)
    return _Found(totals, drawn, chunk_statistics(state.expectation, chunk))


def _block_totals(
    rows: NDArray[Any], weights: Array | None, is_unexplained: NDArray[np.bool_], missing: Missing
) -> _Totals:
    n, d = rows.shape
    # Sums along the longer axis of contiguous memory are faster.
    if d > n:
        columns = np.ascontiguousarray(rows, dtype=np.float64).T
    else:
        columns = np.ascontiguousarray(rows.T, dtype=np.float64)
    skipped, n_refused = SkippedRows(), 0
    use = RowUse.of(columns.T, weights, missing)
    if use is not None:
        used, skipped, n_refused = use.used, use.skipped, int(np.count_nonzero(use.refused))
        weights = None if weights is None else weights[used]
        columns, is_unexplained = columns[:, used], is_unexplained[used]
    n_used = np.bincount(is_unexplained, minlength=2).astype(np.float64)
    return _Totals(FeatureMoments.of(columns, weights), n_used, skipped, n_refused)
