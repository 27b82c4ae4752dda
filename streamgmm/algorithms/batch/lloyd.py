"""K-means: the limit of a mixture with equal weights and one small variance for all components.

With weights and variance held fixed, classification EM is Lloyd's algorithm. Each pass over the
data assigns every row to its nearest centre, and returns the sums that give the new centres.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from streamgmm.algorithms.reads.reader import Reader
from streamgmm.algorithms.sampling.initialization import seed_centres
from streamgmm.algorithms.sampling.row_sample import RowSample, sample_rows, sample_size
from streamgmm.algorithms.sampling.systematic_sample import draw_systematic
from streamgmm.core.e_step import EStep, scratch_bytes
from streamgmm.core.frame import Frame
from streamgmm.core.parameters import Parameters
from streamgmm.core.statistics import Statistics
from streamgmm.core.structures import Array
from streamgmm.events import (
    Event,
    Listener,
    ReadDone,
    RoundDone,
    SampleStep,
    StageStarted,
    StartBegun,
    StartDone,
)
from streamgmm.protocols import Chunk, Source, Work, all_chunks

# Rows of restarts: least number, and number per cluster. Swaps use this many times as many.
_FEWEST_ROWS, _ROWS_PER_CLUSTER, _MORE_ROWS = 4096, 50, 4
# Number of restarts, the best ones, whose centres are swapped.
_CONTINUED = 3
# Iterations of a restart, after a swap, and of the best centres on the whole sample.
_SHORT, _SWAPPED, _LONG = 10, 5, 30
# Number of rows up to which all data are searched. For larger data a sample reads at most one of
# this many parts of the data, in at least this many ranges.
_ALL_ROWS, _PART_OF_DATA, _FEWEST_RANGES = 1 << 16, 8, 64
# Largest number of swaps of centres, least gain of a swap as a part of the inertia, and number of
# distances that are held at once.
_MOST_SWAPS, _LEAST_GAIN, _BLOCK_DISTANCES = 16, 1e-6, 1 << 18
# Largest gain of a second centre in a cluster, as a part of the inertia of the cluster.
_LARGEST_PART = 2.0 / 3.0
# Smallest unit of squared distances, as a part of the variance of the columns.
_LEAST_UNIT = 1e-14


@dataclass(frozen=True, eq=False)
class Metric:
    """A frame for distances, and a unit in which errors of squared distances are bounded.

    Attributes
    ----------
    frame : Frame
    unit : float
        A power of four, so that division by it is exact.
    """

    frame: Frame
    unit: float

    @classmethod
    def of(
        cls, rows: Array, weights: Array, centres: Array, dtype: np.dtype[np.generic]
    ) -> "Metric":
        """Return the metric for rows (m, D), with weights (m,), and their centres (K, D).

        The origin is the mean of the rows, and the unit about their mean squared distance.
        """
        d = rows.shape[1]
        mean = np.average(rows, axis=0, weights=weights)
        variance = float(np.average(np.square(rows - mean).mean(axis=1), weights=weights))
        variance = variance if 0.0 < variance < math.inf else 1.0
        one = Parameters.create("spherical", [1.0], mean[np.newaxis], [variance])
        frame = Frame.of(one, dtype)
        about_origin = cls(frame, _power_of_four(d * variance))
        found = about_origin.expectation(centres).statistics(rows, weights)
        own = about_origin.inertia(found, centres) / found.weight
        return cls(frame, _power_of_four(max(own, _LEAST_UNIT * d * variance)))

    def parameters(self, centres: Array) -> Parameters:
        """Return the mixture whose hard assignment assigns rows to the nearest centre."""
        k = len(centres)
        weights = np.full(k, 1.0 / k)
        width = np.full(k, math.sqrt(self.unit))
        return Parameters("spherical", weights, centres, np.square(width), width)

    @property
    def offset(self) -> float:
        """Log-weight of each component for which its density at the mean is 1, up to rounding."""
        d = self.frame.n_features
        return 0.5 * d * (math.log(self.unit) + math.log(2.0 * math.pi))

    def offsets_of(self, centres: Array) -> Array:
        """Return the offset of each of the centres (K, D)."""
        return np.full(len(centres), self.offset)

    def expectation(self, centres: Array) -> EStep:
        """Return the E-step that assigns rows to centres (K, D)."""
        offsets = self.offsets_of(centres)
        return EStep.prepare(
            self.parameters(centres), self.frame, log_offsets=offsets, is_hard=True
        )

    def inertia(self, statistics: Statistics, centres: Array) -> float:
        """Return Σ w ‖x - c‖² of the rows of statistics, each to its nearest centre."""
        nats = statistics.log_likelihood - statistics.weight * self._rest(centres)
        return max(0.0, -2.0 * self.unit * nats)

    def squares(self, scores: Array, centres: Array) -> Array:
        """Return ‖x - c‖² from the scores (n,) of an assignment."""
        found: Array = np.maximum(-2.0 * self.unit * (scores - self._rest(centres)), 0.0)
        return found

    def _rest(self, centres: Array) -> float:
        """Return the log-density at a mean, which is 0 up to rounding."""
        return float(self.expectation(centres[:1]).coefficients.constants[0])

    def means(self, statistics: Statistics, centres: Array) -> tuple[Array, NDArray[np.intp]]:
        """Return the means (K, D) of the rows of each centre, and the centres without rows."""
        counts = statistics.counts
        alive = np.flatnonzero(counts > 0.0)
        d = self.frame.n_features
        offsets = np.zeros_like(centres)
        offsets[alive] = statistics.moments[alive, 1 : 1 + d] / counts[alive, np.newaxis]
        moved = centres.copy()
        moved[alive] = self.frame.points(offsets)[alive]
        return moved, np.flatnonzero(counts <= 0.0)

    def variance(self, statistics: Statistics) -> float:
        """Return the mean variance of the columns over all rows of statistics."""
        d, total = self.frame.n_features, statistics.counts.sum()
        sums, squares = statistics.moments[:, 1 : 1 + d].sum(axis=0), statistics.moments[:, 1 + d]
        scatter = max(float(squares.sum() - sums @ sums / total), 0.0)
        return float(np.square(self.frame.scale[0]) * scatter / (total * d))


@dataclass(frozen=True, eq=False)
class Clustering:
    """The result of Lloyd's algorithm.

    Attributes
    ----------
    centres : ndarray of shape (K, D)
    inertia : float
        Σ w ‖x - c‖² over all rows, each to its nearest centre.
    inertias : list of float
        Inertia of the centres at the beginning of each iteration.
    counts : ndarray of shape (K,)
        Weight of the rows of each centre.
    n_iterations : int
    converged : bool
        Whether no assignment changed, or centres moved by less than the tolerance.
    """

    centres: Array
    inertia: float
    inertias: list[float]
    counts: Array
    n_iterations: int
    converged: bool


@dataclass(frozen=True, eq=False)
class Farthest:
    """The rows that are farthest from their centres, the farthest first; a monoid.

    Attributes
    ----------
    size : int
        Largest number of rows.
    rows : ndarray of shape (m, D)
    weights, squares : ndarray of shape (m,)
        Squared distances.
    labels, index : ndarray of shape (m,), int64
        Nearest centre, and position among all rows.
    """

    size: int
    rows: Array
    weights: Array
    squares: Array
    labels: NDArray[np.int64]
    index: NDArray[np.int64]

    def merge(self, other: "Farthest") -> "Farthest":
        """Return the farthest rows of both operands."""
        joined = [
            np.concatenate([getattr(self, name), getattr(other, name)])
            for name in ("rows", "weights", "squares", "labels", "index")
        ]
        order = np.lexsort((joined[4], -joined[2]))[: self.size]
        rows, weights, squares, labels, index = (values[order] for values in joined)
        return Farthest(self.size, rows, weights, squares, labels, index)


def lloyd(
    reader: Reader,
    start: Array,
    metric: Metric,
    *,
    tol: float,
    max_iter: int,
    is_scored: bool = True,
) -> Clustering:
    """Move centres to the means of their rows until they no longer change.

    The iterates, the stopping rule and the number of iterations are those of scikit-learn. A centre
    without rows moves to the row that is farthest from its own centre, which takes one more pass.

    Parameters
    ----------
    reader : Reader
        A reader with hard assignment and the offsets of the metric.
    start : ndarray of shape (K, D)
    metric : Metric
    tol : float
        Sum of squared changes of the centres, relative to the mean variance of the columns, at
        which the iteration ends. The iteration also ends when no assignment changes.
    max_iter : int
        At least 1.
    is_scored : bool
        Whether a last pass computes the inertia of the returned centres; otherwise the inertia is
        that of the previous centres.

    Returns
    -------
    Clustering

    References
    ----------
    Lloyd (1982), Least squares quantization in PCM.
    """
    centres, converged, is_same = start, False, False
    inertias: list[float] = []
    last: Statistics | None = None
    tolerance = 0.0
    for iteration in range(1, max_iter + 1):
        found = _assigned(reader, "iteration", centres, metric, iteration, last)
        inertias.append(metric.inertia(found, centres))
        moved, empty = metric.means(found, centres)
        if last is None:
            tolerance = tol * metric.variance(found)
        # In the same frame, the same assignment gives the same sums, to the last bit.
        is_same = last is not None and np.array_equal(found.moments, last.moments)
        if empty.size:
            moved = _relocated(reader, found, centres, moved, empty, metric)
        shift = float(np.square(moved - centres).sum())
        last = found
        is_same = is_same or shift == 0.0
        converged = is_same or shift <= tolerance
        centres = moved
        if converged:
            break
    if last is not None and is_scored and not is_same:
        last = _assigned(reader, "inertia", centres, metric, len(inertias), last)
        return Clustering(
            centres,
            metric.inertia(last, centres),
            inertias,
            last.counts,
            len(inertias),
            converged,
        )
    counts = np.zeros(len(centres)) if last is None else last.counts
    return Clustering(centres, inertias[-1], inertias, counts, len(inertias), converged)


def _assigned(
    reader: Reader,
    purpose: str,
    centres: Array,
    metric: Metric,
    iteration: int,
    last: Statistics | None,
) -> Statistics:
    return reader.statistics(
        purpose,
        metric.parameters(centres),
        frame=metric.frame,
        iteration=iteration,
        previous=math.nan if last is None else last.mean_log_likelihood,
    )


def _relocated(
    reader: Reader,
    found: Statistics,
    centres: Array,
    moved: Array,
    empty: NDArray[np.intp],
    metric: Metric,
) -> Array:
    """Return centres after those without rows moved to the farthest rows.

    Each such row is removed from the mean of its former centre.
    """
    state = metric.expectation(centres), metric, centres, len(empty)
    d = metric.frame.n_features
    value = 8 * len(empty) * (d + 4)
    work = Work(scratch_bytes("spherical", *centres.shape) + 4 * value, value)
    farthest = reader.kept(
        Farthest, lambda: reader.reduce("relocation", Farthest, _find_farthest, state, work)
    )
    counts, moved = found.counts.copy(), moved.copy()
    for k, row, w, square, old in zip(
        empty, farthest.rows, farthest.weights, farthest.squares, farthest.labels, strict=False
    ):
        # If all rows lie on centres, there are fewer different rows than clusters.
        if square > 0.0:
            moved[k] = row
            if counts[old] > w:
                moved[old] += w * (moved[old] - row) / (counts[old] - w)
                counts[old] -= w
    return moved


def _find_farthest(state: tuple[EStep, Metric, Array, int], chunk: Chunk) -> Farthest:
    expectation, metric, centres, size = state
    said = expectation.assignment(chunk.rows)
    squares = metric.squares(said.scores, centres)
    weights = np.ones(len(squares)) if chunk.weights is None else chunk.weights
    chosen = np.flatnonzero(np.isfinite(said.scores) & (weights > 0.0))
    chosen = chosen[np.argsort(-squares[chosen], kind="stable")[:size]]
    return Farthest(
        size,
        chunk.rows[chosen].astype(np.float64),
        weights[chosen],
        squares[chosen],
        said.labels[chosen],
        np.asarray(chunk.index)[chosen],
    )


def sample_for_clusters(
    reader: Reader, n_clusters: int, random: np.random.RandomState, is_search: bool
) -> RowSample:
    """Return rows from all over the data for a search, or a few rows for a metric.

    Rows in memory are sampled without a counted pass.

    Parameters
    ----------
    reader : Reader
    n_clusters : int
    random : numpy.random.RandomState
    is_search : bool

    Raises
    ------
    NotFiniteError
        If the rows hold infinity, or NaN that is not skipped.
    """
    source = reader.source
    seed = int(random.randint(2**31))
    size = cluster_sample_size(source, n_clusters, reader.executor.sample_bytes)
    if source.read_bytes == 0:
        reader = Reader(source, reader.executor, lambda event: None, journal=reader.journal)

    def look() -> RowSample:
        if not is_search:
            every = all_chunks(source)
            some = sorted({every[0], every[len(every) // 2], every[-1]})
            few = sample_rows(reader, seed, min(size, _FEWEST_ROWS), some)
            return few if len(few) else sample_rows(reader, seed, size)
        most_read = source.n_rows // _PART_OF_DATA
        found = None
        if size < source.n_rows:
            found = draw_systematic(reader, "sample", seed, size, most_read, _FEWEST_RANGES)
        return sample_rows(reader, seed, size) if found is None else found.sample

    return reader.kept(RowSample, look)


def cluster_sample_size(source: Source, n_clusters: int, most_bytes: int) -> int:
    """Return the number of rows that are searched: all rows if they are few."""
    n_rows, d = source.n_rows, source.n_features
    if n_rows <= _ALL_ROWS and 8 * n_rows * d <= most_bytes:
        return n_rows
    return sample_size(n_rows, d, 8, n_clusters * d, most_bytes)


def search_bytes(n_sample: int, n_clusters: int, n_features: int) -> int:
    """Return the memory that the sample and a search among its rows take."""
    part = min(n_sample, _MORE_ROWS * max(_FEWEST_ROWS, _ROWS_PER_CLUSTER * n_clusters))
    sample = n_sample * (8 * n_features + 64)
    rows = part * (8 * (6 * n_features + 4) + 64)
    centres = 8 * n_clusters * n_features * 16
    seeds = 8 * part * 4 * (2 + int(math.log(n_clusters)))
    return sample + rows + centres + seeds + 8 * 4 * _BLOCK_DISTANCES


def search_centres(
    sample: RowSample,
    open_rows: Callable[[Array, Array, Metric, Listener], Reader],
    n_clusters: int,
    seeds: Callable[[Array, Array], Array],
    n_init: int,
    random: np.random.RandomState,
    dtype: np.dtype[np.generic],
    tol: float,
    notify: Listener,
) -> Array:
    """Search the rows of a sample for centres of small inertia.

    First, Lloyd's algorithm makes short runs from several seeds on few rows. Then, in the best
    results and on more rows, centres whose removal costs little are moved to clusters of large
    inertia. The last iterations use all rows of the sample.

    Parameters
    ----------
    sample : RowSample
    open_rows : callable
        Returns a reader of rows (m, D) in memory with weights (m,), for a metric and a listener.
    n_clusters : int
    seeds : callable
        Returns centres (K, D) to begin with, from rows and weights.
    n_init : int
        Number of short runs.
    random : numpy.random.RandomState
    dtype : dtype
        Type of the data.
    tol : float
        As for :func:`lloyd`.
    notify : callable
        Called with the events of the search.

    Returns
    -------
    centres : ndarray of shape (K, D)
        Ordered by the first column, then by the others.
    """
    sample = replace(sample, rows=sample.rows.astype(np.float64, copy=False))
    n_few = max(_FEWEST_ROWS, _ROWS_PER_CLUSTER * n_clusters)
    few, more = sample.part(n_few), sample.part(_MORE_ROWS * n_few)
    notify(StageStarted("clusters", len(sample), n_clusters))
    steps = itertools.count(1)

    def step(event: Event) -> None:
        if isinstance(event, ReadDone):
            notify(SampleStep("clusters", next(steps)))

    def run(part: RowSample, start: Array, most: int) -> Clustering:
        metric = Metric.of(part.rows, part.weights, start, dtype)
        reader = open_rows(part.rows, part.weights, metric, step)
        return lloyd(reader, start, metric, tol=tol, max_iter=most)

    def begun() -> list[Clustering]:
        found: list[Clustering] = []
        for number in range(1, n_init + 1):
            notify(StartBegun(number, n_init))
            found.append(run(few, seeds(few.rows, few.weights), _SHORT))
            notify(StartDone(number, n_init, inertia=min(map(inertia, found))))
        return found

    def after_swaps(best: Clustering) -> Clustering:
        n_swaps, n_failed = max(1, n_clusters // 8), 0
        for number in range(1, _MOST_SWAPS + 1 if n_clusters > 1 else 1):
            n_tried = n_swaps
            swapped = _swapped(more, best.centres, n_swaps, n_failed, random)
            if swapped is None:
                break
            found = run(more, swapped, _SWAPPED)
            if found.inertia < (1.0 - _LEAST_GAIN) * best.inertia:
                best, n_failed = found, 0
            elif n_swaps > 1:
                n_swaps //= 2
            else:
                n_failed += 1
            notify(RoundDone(number, n_tried, inertia=best.inertia))
        return best

    def inertia(found: Clustering) -> float:
        return found.inertia

    runs = sorted(begun(), key=inertia)[:_CONTINUED]
    ends = [after_swaps(run(more, one.centres, _SWAPPED)) for one in runs]
    centres = run(sample, min(ends, key=inertia).centres, _LONG).centres
    # Labels do not depend on the run that was the best.
    ordered: Array = centres[np.lexsort(centres.T[::-1])]
    return ordered


def _swapped(
    part: RowSample,
    centres: Array,
    most: int,
    first: int,
    random: np.random.RandomState,
) -> Array | None:
    """Return centres after some cheap ones moved to clusters of large inertia.

    The cost of removing a centre is the increase of its rows' distances to the next centre. A
    second centre may gain about two thirds of the inertia of a cluster, if this is really two
    clusters. The clusters of largest inertia come first, after skipping ``first`` that have been
    tried. Return None if no swap can gain.
    """
    rows, weights = part.rows, part.weights
    k = len(centres)
    origin = centres.mean(axis=0)
    c = centres - origin
    constants = np.square(c).sum(axis=1)
    labels, own, cost = (np.empty(len(rows), t) for t in (np.intp, float, float))
    size = max(1, _BLOCK_DISTANCES // k)
    for start in range(0, len(rows), size):
        block = slice(start, start + size)
        x = rows[block] - origin
        squares = constants - 2.0 * (x @ c.T)
        two = np.partition(squares, 1, axis=1)[:, :2]
        labels[block] = squares.argmin(axis=1)
        own[block] = np.maximum(two[:, 0] + np.square(x).sum(axis=1), 0.0)
        cost[block] = two[:, 1] - two[:, 0]
    inertia = np.bincount(labels, weights * own, k)
    missed = np.bincount(labels, weights * cost, k)
    givers, takers = np.argsort(missed, kind="stable"), np.argsort(-inertia, kind="stable")
    found, n_moved = centres.copy(), 0
    used: set[int] = set()
    for giver, taker in zip(givers[:most], takers[first : first + most], strict=False):
        if giver in used or taker in used or missed[giver] >= _LARGEST_PART * inertia[taker]:
            break
        used |= {int(giver), int(taker)}
        members = np.flatnonzero(labels == taker)
        share = weights[members] * own[members]
        chosen = random.choice(members, p=share / share.sum())
        found[giver] = rows[chosen]
        n_moved += 1
    return found if n_moved else None


def _power_of_four(value: float) -> float:
    """Return the power of four that is nearest to a positive value, on a logarithmic scale."""
    return float(4.0 ** round(0.5 * math.log2(value)))


def seeder(
    n_clusters: int, method: str, random: np.random.RandomState
) -> Callable[[Array, Array], Array]:
    """Return a function that draws first centres by a method of :func:`seed_centres`.

    Greedy k-means++ begins at similar centres again and again, so each third start draws rows at
    random.
    """
    methods = itertools.cycle([method, method, "random"])

    def seeds(rows: Array, weights: Array) -> Array:
        return seed_centres(rows, weights, n_clusters, next(methods), random)  # type: ignore[arg-type]

    return seeds
