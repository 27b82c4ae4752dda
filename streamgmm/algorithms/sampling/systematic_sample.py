"""A systematic sample: ranges of rows, or chunks, from all over the data; few rows are read."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamgmm.algorithms.reads.reader import Reader
from streamgmm.algorithms.reads.usable_rows import RowUse
from streamgmm.algorithms.sampling.row_sample import (
    Draw,
    RowSample,
    SampleDesign,
    checked,
    hash_positions,
)
from streamgmm.options import Missing
from streamgmm.protocols import Chunk, GridSource, Source, Work, all_chunks, row_count

# Least number of ranges, and number of rows of a range if there are more ranges.
_RANGES, _ROWS_OF_RANGE = 64, 64


@dataclass(frozen=True, eq=False)
class SystematicSample:
    """Rows of a systematic sample.

    Attributes
    ----------
    sample : RowSample
        Sampled rows that can be used.
    usable : float
        Their part of all sampled rows.
    """

    sample: RowSample
    usable: float


def draw_systematic(
    reader: Reader, purpose: str, seed: int, size: int, most_read: int, fewest_ranges: int = 1
) -> SystematicSample | None:
    """Sample ranges of rows from all over the data.

    The beginnings of the ranges follow from the number of rows and the seed alone. If the chunks
    that hold the ranges have more rows than may be read, there are fewer and longer ranges. Every
    chunk counts as a whole, also in memory, so that the sample depends on the layout and not on the
    container.

    Parameters
    ----------
    reader : Reader
    purpose : str
        Purpose, for the history.
    seed : int
        Below 2**32.
    size : int
        Rows in all ranges.
    most_read : int
        Rows that may be read for them.
    fewest_ranges : int
        Least number of ranges.

    Returns
    -------
    SystematicSample or None
        None if fewer ranges than that may be read.

    Raises
    ------
    NotFiniteError
        If the rows hold infinity, or NaN that is not skipped.
    """
    source = reader.source
    places = _places(source, size, most_read, fewest_ranges, seed)
    if places is None:
        return None
    positions, chunks = places
    design = SampleDesign(seed, len(positions), np.dtype(np.float64))
    # The rows that chunks hold are together no more than all rows of the sample.
    work = Work(together=2 * (design.work(source.n_features).thread + positions.nbytes))
    state = design, positions, source.missing
    drawn = reader.reduce(purpose, Draw, _rows_at, state, work, chunks)
    sample = checked(drawn.sample(), reader)
    return SystematicSample(sample, len(sample) / len(positions))


def spread_chunks(source: Source, n_chosen: int, seed: int) -> list[int]:
    """Return one chunk of each of as many segments of the data."""
    edges = len(all_chunks(source)) * np.arange(n_chosen + 1) // n_chosen
    offsets = hash_positions(edges[:-1], seed) % np.diff(edges).astype(np.uint64)
    chosen: list[int] = (edges[:-1] + offsets.astype(np.int64)).tolist()
    return chosen


def draw_from_chunks(
    reader: Reader, purpose: str, seed: int, size: int, chunks: Sequence[int]
) -> SystematicSample:
    """Sample rows of some chunks.

    Parameters
    ----------
    reader : Reader
    purpose : str
        Purpose, for the history.
    seed : int
        Below 2**32.
    size : int
        Largest number of rows.
    chunks : sequence of int

    Returns
    -------
    SystematicSample

    Raises
    ------
    NotFiniteError
        If the sampled rows hold infinity, or NaN that is not skipped.
    """
    source = reader.source
    n_rows = row_count(source, chunks)
    # Where rows may be skipped it is not known how many can be used, so every hash is allowed.
    is_known = not source.has_weights and source.missing == "error"
    dtype = np.dtype(np.float64)
    design = SampleDesign.among(n_rows if is_known else size, min(size, n_rows), seed, dtype)
    work = design.work(source.n_features)
    drawn = reader.reduce(purpose, _Counted, _counted, (design, source.missing), work, chunks)
    return SystematicSample(checked(drawn.draw.sample(), reader), drawn.n_used / max(n_rows, 1))


@dataclass(frozen=True, eq=False)
class _Counted:
    """Rows that are drawn, and the number of rows that can be used; a monoid."""

    draw: Draw
    n_used: int

    def merge(self, other: "_Counted") -> "_Counted":
        return _Counted(self.draw.merge(other.draw), self.n_used + other.n_used)


def _counted(state: tuple[SampleDesign, Missing], chunk: Chunk) -> _Counted:
    design, missing = state
    use = RowUse.of(chunk.rows, chunk.weights, missing)
    n_used = len(chunk.rows) if use is None else int(np.count_nonzero(use.used))
    return _Counted(design.draw(chunk, missing), n_used)


def _places(
    source: Source, size: int, most_read: int, fewest_ranges: int, seed: int
) -> tuple[NDArray[np.int64], list[int]] | None:
    """Return positions of the rows and the chunks that hold them; None if these are too many."""
    n_ranges = max(_RANGES, size // _ROWS_OF_RANGE)
    while n_ranges >= fewest_ranges:
        positions = _positions(source.n_rows, n_ranges, size, seed)
        chunks = _chunks_of(source, positions)
        if row_count(source, chunks) <= most_read:
            return positions, chunks
        n_ranges //= 2
    return None


def _positions(n_rows: int, n_ranges: int, size: int, seed: int) -> NDArray[np.int64]:
    """Return the positions of the rows of ranges, one at a random start in each segment."""
    length = size // n_ranges
    segments = n_rows * np.arange(n_ranges + 1) // n_ranges
    free = np.diff(segments) - length + 1
    jitter = hash_positions(np.arange(n_ranges), seed) % free.astype(np.uint64)
    starts = segments[:-1] + jitter.astype(np.int64)
    found: NDArray[np.int64] = (starts[:, np.newaxis] + np.arange(length)).ravel()
    return found


def _chunks_of(source: Source, positions: NDArray[np.int64]) -> list[int]:
    """Return the chunks that hold rows, in ascending order."""
    if not isinstance(source, GridSource):
        return _distinct(np.searchsorted(source.boundaries, positions, side="right") - 1)
    # Boxes form a grid, so the first sample of a box is given by one start along each dimension.
    regions = (source.region(i) for i in all_chunks(source))
    corners = np.array([[along.start for along in region] for region in regions])
    edges = [np.unique(starts) for starts in corners.T]
    own_corners = tuple(
        starts[np.searchsorted(starts, indices, side="right") - 1]
        for starts, indices in zip(
            edges, np.unravel_index(positions, source.sample_shape), strict=True
        )
    )
    shape = source.sample_shape
    firsts = np.ravel_multi_index(tuple(corners.T), shape)
    wanted = np.ravel_multi_index(own_corners, shape)
    return _distinct(np.flatnonzero(np.isin(firsts, wanted)))


def _distinct(numbers: NDArray[np.intp]) -> list[int]:
    found: list[int] = np.unique(numbers).tolist()
    return found


def _rows_at(state: tuple[SampleDesign, NDArray[np.int64], Missing], chunk: Chunk) -> Draw:
    """Return the rows of a chunk that are at given positions, and can be used."""
    design, positions, missing = state
    if isinstance(chunk.index, range):
        first, last = np.searchsorted(positions, (chunk.index.start, chunk.index.stop))
        index = positions[first:last]
        indices = index - chunk.index.start
    else:
        indices = np.flatnonzero(np.isin(chunk.index, positions))
        index = chunk.index[indices]
    weights = None if chunk.weights is None else chunk.weights[indices]
    return design.draw(Chunk(chunk.rows[indices], index, weights), missing)
