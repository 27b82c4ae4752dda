"""A glance at the data before they are surveyed: which rows does a rough mixture explain badly.

A component that holds a hundred-thousandth of all rows has next to none of a uniform sample. But
its rows are among those that a mixture of the large components explains badly. Few rows are; what
counts as badly, a few thousand rows from all over the data tell.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamgmm.algorithms.initialization import Start, initialize
from streamgmm.algorithms.reading import Reader, prepare
from streamgmm.algorithms.row_sample import Draw, RowSample, SampleDesign, checked, hash_positions
from streamgmm.core.covariance import Array
from streamgmm.core.expectation import Expectation
from streamgmm.core.frame import Frame
from streamgmm.core.maximization import maximize
from streamgmm.core.parameters import Parameters
from streamgmm.protocols import Chunk, GridSource, Missing, Source, Work, all_chunks, row_count

_MOST_ROWS, _FEWEST_ROWS = 4096, 512
_MOST_RANGES = 64
# At most so much of the data is read for a pilot: one part in so many.
_PART = 12
# Part of the pilot that lies below the threshold: one row in so many.
_BELOW = 512
# A component has so many of the pilot's rows, or explains nothing.
_ROWS_PER_COMPONENT = 16
_ITERATIONS = 10
# Scores of one row that is read in different company differ by less, relative to their size or 1.
_SCORE_MARGIN = 1e-6


@dataclass(frozen=True, eq=False)
class Explanation:
    """A rough mixture, and the score below which it explains a row badly.

    Attributes
    ----------
    expectation : Expectation
    threshold : float
        Nats.
    """

    expectation: Expectation
    threshold: float

    def is_unexplained(self, rows: NDArray[np.generic]) -> NDArray[np.bool_]:
        """Whether each row (n, D) is badly explained; rows with gaps are not.

        Which rows go by which route through the kernels, and so the last digits of a score, depend
        on the rows of the same block. What lies near the threshold is decided row by row.
        """
        found = self.expectation.posterior(rows)
        distances = found.scores - self.threshold
        unexplained: NDArray[np.bool_] = distances < 0.0
        for i in np.flatnonzero(np.abs(distances) <= _margin(self.threshold)):
            alone = self.expectation.posterior(rows[[i]].astype(np.float64))
            unexplained[i] = alone.scores[0] < self.threshold
        if found.n_not_finite:
            # Densities of fewer values are of another unit.
            unexplained &= ~np.isnan(rows).any(axis=1)
        return unexplained


@dataclass(frozen=True)
class Pilot:
    """What a glance at the data found.

    Attributes
    ----------
    usable : float
        Part of the rows that can be used: those with weight and without what is left out.
    explanation : Explanation or None
        None if the rows do not tell which ones are badly explained.
    """

    usable: float
    explanation: Explanation | None


def take_pilot(reader: Reader, seed: int, n_components: int) -> Pilot | None:
    """Look at ranges of rows from all over the data.

    Where they begin follows from the number of rows and the seed alone. There are 64; fewer,
    if the chunks that hold them were more than a twelfth of the data.

    Parameters
    ----------
    reader : Reader
    seed : int
        Below 2**32.
    n_components : int
        Most components of the rough mixture.

    Returns
    -------
    Pilot or None
        None if even one range would take too much, or the data have too few rows.

    Raises
    ------
    NotFiniteError
        If the rows hold NaN that is not to be left out, or infinity.
    """
    source = reader.source
    places = _places(source, seed)
    if places is None:
        return None
    positions, chunks = places
    # Of what is in memory nothing but the rows themselves is looked at.
    n_rows = len(positions) if source.read_bytes == 0 else None
    design = SampleDesign(seed, len(positions), np.dtype(np.float64))
    work = Work(2 * (design.work(source.n_features).value + positions.nbytes))
    state = design, positions, source.missing
    drawn = reader.reduce("pilot", _rows_at, state, work, chunks, n_rows)
    sample = checked(drawn.sample(), reader)
    return Pilot(len(sample) / len(positions), _explain(sample, n_components, seed, source))


def _places(source: Source, seed: int) -> tuple[NDArray[np.int64], list[int]] | None:
    """Positions of the rows, and the chunks that hold them; None if these are too many."""
    most = source.n_rows // _PART
    if most < _FEWEST_ROWS:
        return None
    n_ranges = _MOST_RANGES
    while n_ranges:
        positions = _positions(source.n_rows, n_ranges, min(_MOST_ROWS, most), seed)
        chunks = _chunks_of(source, positions)
        if source.read_bytes == 0 or row_count(source, chunks) <= most:
            return positions, chunks
        n_ranges //= 2
    return None


def _positions(n_rows: int, n_ranges: int, size: int, seed: int) -> NDArray[np.int64]:
    """Rows of ranges at even spacing, each at a random place of its own stretch."""
    length = size // n_ranges
    stretches = n_rows * np.arange(n_ranges + 1) // n_ranges
    free = np.diff(stretches) - length + 1
    jitter = hash_positions(np.arange(n_ranges), seed) % free.astype(np.uint64)
    starts = stretches[:-1] + jitter.astype(np.int64)
    found: NDArray[np.int64] = (starts[:, np.newaxis] + np.arange(length)).ravel()
    return found


def _chunks_of(source: Source, positions: NDArray[np.int64]) -> list[int]:
    """The chunks that hold rows, in ascending order."""
    if not isinstance(source, GridSource):
        return _distinct(np.searchsorted(source.boundaries, positions, side="right") - 1)
    # Boxes lie in rows and columns, so the first sample of each is that of one along each
    # dimension.
    regions = (source.region(i) for i in all_chunks(source))
    corners = np.array([[along.start for along in region] for region in regions])
    edges = [np.unique(starts) for starts in corners.T]
    own_corners = tuple(
        starts[np.searchsorted(starts, places, side="right") - 1]
        for starts, places in zip(
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
    """The rows of a chunk that are at given positions, and can be used."""
    design, positions, missing = state
    if isinstance(chunk.index, range):
        first, last = np.searchsorted(positions, (chunk.index.start, chunk.index.stop))
        index = positions[first:last]
        places = index - chunk.index.start
    else:
        places = np.flatnonzero(np.isin(chunk.index, positions))
        index = chunk.index[places]
    weights = None if chunk.weights is None else chunk.weights[places]
    return design.draw(Chunk(chunk.rows[places], index, weights), missing)


def _explain(sample: RowSample, n_components: int, seed: int, source: Source) -> Explanation | None:
    """What a rough mixture of the rows explains; None if there are too few."""
    has_gaps = np.isnan(sample.rows).any(axis=1)
    if len(sample) - has_gaps.sum() < _FEWEST_ROWS or np.isnan(sample.rows).all(axis=0).any():
        return None
    mixture = _rough_mixture(sample, n_components, seed, source.missing)
    expectation = Expectation.prepare(mixture, Frame.of(mixture, source.dtype))
    threshold = _low_score(expectation.posterior(sample.rows[~has_gaps]).scores)
    return None if threshold is None else Explanation(expectation, threshold)


def _rough_mixture(sample: RowSample, n_components: int, seed: int, missing: Missing) -> Parameters:
    """Components of diagonal covariances that have more than a few rows."""
    k = max(1, min(n_components, len(sample) // _ROWS_PER_COMPONENT))
    random = np.random.RandomState(seed)
    parameters = initialize(
        sample.rows, sample.weights, k, "diag", "k-means++", 0.0, Start(), random
    )
    for _ in range(_ITERATIONS):
        expectation = prepare(parameters, Frame.of(parameters), missing)
        found = expectation.statistics(sample.rows, sample.weights)
        parameters = maximize(found, parameters).parameters
    kept = parameters.weights >= min(_ROWS_PER_COMPONENT / len(sample), parameters.weights.max())
    weights = parameters.weights[kept]
    return Parameters.create(
        "diag", weights / weights.sum(), parameters.means[kept], parameters.covariances[kept]
    )


def _low_score(scores: Array) -> float | None:
    """A score below which few rows lie, in a gap between two of them; None if there is no gap.

    Were it the score of a row, all rows that are equal would lie on the threshold.
    """
    ordered = np.sort(scores)[: len(scores) // _BELOW + 1]
    upper = ordered[1:]
    # What overflows has no score.
    lower = np.maximum(ordered[:-1], upper - 1.0)
    gaps = np.flatnonzero(upper - lower > 4.0 * _margin(upper))
    return float(0.5 * (lower + upper)[gaps[-1]]) if gaps.size else None


def _margin(score: Array | float) -> Array | float:
    return _SCORE_MARGIN * np.maximum(np.abs(score), 1.0)
