"""What the seams speak: data come as chunks from a source, work is done by an executor.

A source says how large it is before anything is computed and gives its chunks in any order. An
executor applies a function to every chunk and merges or writes what comes back. Whatever happens on
the way it tells as :mod:`streamgmm.events`.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, Self, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from streamgmm.events import ChunkDone, Listener, ReadDone
from streamgmm.options import Missing

#: What is done with rows that hold NaN: refuse them, skip them, or use their other values.

#: A box of samples: a slice along each of their dimensions.
Region = tuple[slice, ...]


@dataclass(frozen=True, eq=False)
class Chunk:
    """Some rows of the data.

    Attributes
    ----------
    rows : ndarray of shape (n, D)
        In the data's own type.
    index : range or ndarray of shape (n,), int64
        Position of each row in the whole.
    weights : ndarray of shape (n,), float64, or None
        Row weights; None for 1.
    """

    rows: NDArray[Any]
    index: range | NDArray[np.int64]
    weights: NDArray[np.float64] | None = None

    def part(self, start: int, stop: int) -> "Chunk":
        """Return its rows from start to stop, as a view."""
        weights = None if self.weights is None else self.weights[start:stop]
        return Chunk(self.rows[start:stop], self.index[start:stop], weights)


@dataclass(frozen=True)
class Work:
    """Memory in bytes that work on chunks takes beside the chunks themselves.

    Attributes
    ----------
    thread : int
        Each thread that computes, its own value included.
    value : int
        Each value that waits to be merged.
    together : int
        All of these, beside what is counted for each.
    driver : int
        The process that drives the work, beside all of these: parameters, samples and the algebra
        between passes. It counts where that process has a memory limit.
    """

    thread: int = 0
    value: int = 0
    together: int = 0
    driver: int = 0


NO_WORK = Work()


S = TypeVar("S")
V = TypeVar("V")


@dataclass(frozen=True, eq=False)
class Job(Generic[S, V]):
    """What is computed of each chunk: function(state, chunk).

    Attributes
    ----------
    function : callable
        Pure and picklable.
    state : object
        First argument of each call; sent once to each process.
    work : Work
        Memory that the job takes.
    purpose : str
        Purpose of the pass over the data, as in :class:`ReadStarted`; the dashboard of a cluster
        shows it.
    number : int
        Number of the pass.
    """

    function: "Callable[[S, Chunk], V]"
    state: S
    work: Work = NO_WORK
    purpose: str = "read"
    number: int = 0


class Source(Protocol):
    """Rows that can be read again and again, chunk by chunk.

    Sources are picklable; what they read from is opened where it is read.

    Attributes
    ----------
    missing : {"error", "drop", "em"}
        What is done with rows that hold NaN. Chunks hold them as they are, and NaN for values
        that the data mask or mark as missing; "error" refuses to read these.
    feature_names : sequence of str, or None
        Names of the columns, if they have any.
    """

    missing: Missing
    feature_names: Sequence[str] | None

    @property
    def name(self) -> str:
        """What a message calls the data."""

    @property
    def location(self) -> Path | None:
        """Where the data are on disk; None if nowhere."""

    @property
    def n_rows(self) -> int:
        """N."""

    @property
    def n_features(self) -> int:
        """D."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values, as chunks hold them."""

    @property
    def has_weights(self) -> bool:
        """Whether chunks carry row weights."""

    @property
    def boundaries(self) -> Sequence[int]:
        """Rows in all chunks before each one, in reading order, then N: cumulative counts.

        Of a source that is no :class:`GridSource` chunk i holds the rows from entry i to i + 1.
        """

    @property
    def read_bytes(self) -> int:
        """Most memory in bytes that reading and holding one chunk takes; 0 if it is in memory."""

    def read(self, i: int) -> Chunk:
        """Return chunk i."""


def row_bytes(source: Source) -> int:
    """Return the size of the values of a row, as stored in memory."""
    return source.n_features * source.dtype.itemsize


def data_bytes(source: Source) -> int:
    """Return the size of all values of a source, as stored in memory."""
    return source.n_rows * row_bytes(source)


def all_chunks(source: Source) -> range:
    """Return the numbers of all chunks of a source."""
    return range(len(source.boundaries) - 1)


def chunks_of(source: Source) -> Iterator["Chunk"]:
    """Return the chunks of a source, one after the other."""
    return (source.read(i) for i in all_chunks(source))


def row_count(source: Source, chunks: Iterable[int]) -> int:
    """Return the rows in some chunks of a source."""
    return sum(source.boundaries[i + 1] - source.boundaries[i] for i in chunks)


@runtime_checkable
class GridSource(Source, Protocol):
    """A source whose samples lie on a grid, of which each chunk is a box.

    Rows are in C order over the sample dimensions, within a chunk and in the whole. Boxes lie in
    rows and columns: each dimension is cut at edges of its own, at any distance from each other,
    and there is a box for each combination of intervals, numbered in C order.
    """

    @property
    def sample_dims(self) -> tuple[str, ...]:
        """Names of the dimensions along which samples are."""

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Their sizes, of which N is the product."""

    def region(self, i: int) -> Region:
        """Return the box of chunk i along the sample dimensions."""


def sample_dims(source: Source) -> tuple[str, ...]:
    """Return the names of the dimensions of the samples of any source."""
    return source.sample_dims if isinstance(source, GridSource) else ("sample",)


def sample_shape(source: Source) -> tuple[int, ...]:
    """Return the shape of the samples of any source; (N,) if they lie on no grid."""
    return source.sample_shape if isinstance(source, GridSource) else (source.n_rows,)


def regions_of(source: Source) -> Callable[[int], Region]:
    """Return what gives the box of each chunk of any source, by the chunk's number."""
    if isinstance(source, GridSource):
        return source.region
    boundaries = source.boundaries
    return lambda i: (slice(boundaries[i], boundaries[i + 1]),)


def region_shape(region: Region) -> tuple[int, ...]:
    """Return the lengths of a box."""
    return tuple(along.stop - along.start for along in region)


def is_contiguous(region: Region, shape: tuple[int, ...]) -> bool:
    """Return whether the samples of a box follow each other among all, in C order."""
    return len(_span(region, shape)) == math.prod(region_shape(region))


def has_contiguous_chunks(source: GridSource) -> bool:
    """Return whether the samples of each chunk follow each other among all, in C order.

    If those of the largest box do, those of all boxes do: before the first dimension along which
    it has more than one sample all boxes have one, and after that dimension they are whole.
    """
    largest = int(np.argmax(np.diff(source.boundaries)))
    return is_contiguous(source.region(largest), source.sample_shape)


def positions(region: Region, shape: tuple[int, ...]) -> range | NDArray[np.int64]:
    """Places of the samples of a box among all, in C order: a range if they follow each other."""
    if is_contiguous(region, shape):
        return _span(region, shape)
    return np.ravel_multi_index(tuple(np.ogrid[region]), shape).ravel()


def region_at(places: range | NDArray[np.int64], shape: tuple[int, ...]) -> Region:
    """Return the box whose samples have these places among all, one or more, in C order."""
    first, last = (np.unravel_index(int(places[end]), shape) for end in (0, -1))
    return tuple(slice(int(i), int(j) + 1) for i, j in zip(first, last, strict=True))


def _span(region: Region, shape: tuple[int, ...]) -> range:
    """From the first sample of a box to its last, in C order."""
    corners = ([along.start for along in region], [along.stop - 1 for along in region])
    first, last = (int(np.ravel_multi_index(corner, shape)) for corner in corners)
    return range(first, last + 1)


@runtime_checkable
class LazySource(Source, Protocol):
    """A source whose chunks are tasks of a scheduler."""

    @property
    def array(self) -> Any:
        """The lazy array, (N, D), in one block along the columns."""

    def holds_futures(self) -> bool:
        """Return whether a cluster holds some of the values, which only its client can get."""

    def lazy_chunks(self) -> Sequence[Any]:
        """Return a task for each chunk."""


@runtime_checkable
class LabelledSource(Source, Protocol):
    """A source whose rows have a place along named dimensions."""

    def labelled(self, values: NDArray[Any], dim: str | None, names: Sequence[int | str]) -> Any:
        """What was found of all samples, of their shape or theirs and (K,), in the data's form."""


@runtime_checkable
class StoredSource(Source, Protocol):
    """A source in files, which the system can fetch while processors are at work."""

    def prefetch(self, i: int) -> None:
        """Have the files of chunk i fetched into the page cache, without waiting for them."""


class Monoid(Protocol):
    """Values that merge, in any grouping but in the order of the chunks."""

    def merge(self, other: Self) -> Self:
        """Return the value of both sides' rows."""


class Sink(Protocol):
    """Where one value (or one row of values) for each row of data is written."""

    def has(self, i: int) -> bool:
        """Return whether values of chunk i are there from a call before, and not to be computed."""

    def write(self, region: Region, values: NDArray[Any]) -> None:
        """Store the values of a box of samples, (n,) or (n, M), in C order over the box."""

    def finish(self, i: int) -> None:
        """Take note that all of chunk i has been written."""


class Writer(Protocol):
    """What writes into a sink from other processes; picklable."""

    def write(self, region: Region, values: NDArray[Any]) -> None:
        """Store the values of a box of samples, as the sink does."""

    def sync(self, regions: Sequence[Region]) -> Sequence[bytes]:
        """Have what was written of some boxes on the disk, and return digests of them."""


@runtime_checkable
class SharedSink(Sink, Protocol):
    """A sink into which other processes may write."""

    def writer(self) -> Writer | None:
        """Return what they write with; None if this output must be written here."""

    def finish_elsewhere(self, i: int, digest: bytes) -> None:
        """Take note that another process has written chunk i, with the digest of its box."""


def unwritten_chunks(source: Source, sink: Sink) -> list[int]:
    """Return the chunks of a source of which a sink has not the values."""
    return [i for i in all_chunks(source) if not sink.has(i)]


M = TypeVar("M", bound=Monoid)


def chunks_done(source: Source, chunks: Iterable[int]) -> ChunkDone:
    """Return what is told of chunks that have been read and computed."""
    n_rows = row_count(source, chunks)
    return ChunkDone(n_rows, n_rows * row_bytes(source))


@dataclass(frozen=True, eq=False)
class PartialRead(Generic[M]):
    """What the first chunks of a pass have come to.

    Attributes
    ----------
    n_chunks : int
    values : tuple of Monoid
        Of complete subtrees of the tree by which values merge: as many chunks each as the binary
        digits of ``n_chunks`` say, the most first.
    seconds : float
        That it took.
    """

    n_chunks: int = 0
    values: tuple[M, ...] = ()
    seconds: float = 0.0


class Journal(Protocol):
    """What a fit has found, in order; kept as it comes, and recalled by the fit that continues."""

    @property
    def interval(self) -> float:
        """Seconds after which a pass that continues is kept; infinity if it is not."""

    def recall(
        self, kind: type[V], is_asked: Callable[[V], bool]
    ) -> tuple[V, Sequence[ReadDone]] | None:
        """Return the next result and the passes that it took; None if there are no more.

        Parameters
        ----------
        kind : type
            A dataclass.
        is_asked : callable
            Whether a result answers what is asked now.

        Raises
        ------
        CheckpointError
            If the next result is of another kind, is not what is asked, or cannot be read.
        """

    def keep(self, value: Any, reads: Sequence[ReadDone]) -> None:
        """Keep a result and the passes that it took, which need no more be kept in parts.

        Raises
        ------
        OutputError
            If it cannot be written.
        """

    def partial_read(
        self, number: int, kind: type[M], identity: Any
    ) -> tuple[PartialRead[M], Callable[[PartialRead[M]], None]]:
        """Return what was kept of a pass that was not completed, and what keeps more of it.

        Parameters
        ----------
        number : int
            Of the pass.
        kind : type
            A dataclass: what the pass gives.
        identity : object
            All that decides what it gives.

        Returns
        -------
        begun : PartialRead
            Of no chunk, if nothing was kept.
        keep : callable
            Keeps what the pass has come to, in place of what was kept of it before; raises
            OutputError if it cannot be written.

        Raises
        ------
        CheckpointError
            If what was kept cannot be read.
        """


class Executor(Protocol):
    """Where chunks are turned into values."""

    @property
    def sample_bytes(self) -> int:
        """Most memory of this process that a sample of rows may take."""

    @property
    def memory_limit(self) -> int | None:
        """Bytes that this process may hold; None if it has no limit of its own."""

    def check_memory(
        self, source: Source, work: Work, at_limit: Callable[[int], Sequence[Work]] | None = None
    ) -> None:
        """Raise :class:`streamgmm.errors.MemoryLimitError` if a pass would not fit in memory.

        Parameters
        ----------
        source : Source
        work : Work
        at_limit : callable, optional
            Returns all works that have to fit under another memory limit, so that the message can
            name the smallest limit that holds them; by default the same work under any limit.
        """

    def map_reduce(
        self,
        source: Source,
        job: Job[S, M],
        listener: Listener,
        chunks: Sequence[int] | None = None,
    ) -> M:
        """Merge the values of a job over chunks, by a tree fixed by their number alone.

        Parameters
        ----------
        source : Source
            With one chunk or more.
        job : Job
            Its values have a method ``merge``.
        listener : callable
            Called for each chunk that is done.
        chunks : sequence of int, optional
            One or more, in the order in which their values merge; by default all.
        """

    def map_write(
        self,
        source: Source,
        job: Job[S, NDArray[Any]],
        sink: Sink,
        listener: Listener,
        piece_shape: tuple[int, ...] | None = None,
    ) -> None:
        """Write the values of a job into the sink, for all chunks that it has not.

        Parameters
        ----------
        source, listener
            As for :meth:`map_reduce`.
        job : Job
            Its values are arrays with a row for each row.
        sink : Sink
        piece_shape : tuple of int, optional
            Sizes of the boxes that are computed and written at once: 1 along the first sample
            dimensions, some along one, all of a chunk along the others. By default a chunk.
        """
