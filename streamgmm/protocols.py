"""The protocols between the parts: sources give chunks, executors compute, sinks store.

A source declares its size before anything is computed, and gives its chunks in any order. An
executor applies a function to every chunk, and merges or writes the values. It reports progress by
:mod:`streamgmm.events`.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, Self, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from streamgmm.core.data_description import DataDescription
from streamgmm.events import ChunkDone, Listener, ReadDone
from streamgmm.options import Missing

#: A box of samples: a slice along each of their dimensions.
Region = tuple[slice, ...]


@dataclass(frozen=True, eq=False)
class Chunk:
    """Some rows of the data.

    Attributes
    ----------
    rows : ndarray of shape (n, D)
        Values in the type of the data.
    index : range or ndarray of shape (n,), int64
        Position of each row in the data.
    weights : ndarray of shape (n,), float64, or None
        Row weights; None if each is 1.
    """

    rows: NDArray[Any]
    index: range | NDArray[np.int64]
    weights: NDArray[np.float64] | None = None

    def part(self, start: int, stop: int) -> "Chunk":
        """Return the rows from start to stop, as a view."""
        weights = None if self.weights is None else self.weights[start:stop]
        return Chunk(self.rows[start:stop], self.index[start:stop], weights)


@dataclass(frozen=True)
class Work:
    """Memory in bytes that a job takes beside the chunks themselves.

    Attributes
    ----------
    thread : int
        Each thread that computes, its own value included.
    value : int
        Each value that waits to be merged.
    together : int
        All threads and values together, in addition to the bytes for each of them.
    driver : int
        The process that drives the work, in addition to all of these: parameters, samples and the
        algebra between passes. It counts if this process has a memory limit.
    """

    thread: int = 0
    value: int = 0
    together: int = 0
    driver: int = 0

    def __add__(self, other: "Work") -> "Work":
        """Return the memory of a job that does the work of two."""
        return Work(
            self.thread + other.thread,
            self.value + other.value,
            self.together + other.together,
            self.driver + other.driver,
        )


NO_WORK = Work()


S = TypeVar("S")
V = TypeVar("V")


@dataclass(frozen=True, eq=False)
class Job(Generic[S, V]):
    """The computation on each chunk: function(state, chunk).

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

    Sources are picklable; each process opens the files that it reads.

    Attributes
    ----------
    missing : {"error", "drop", "em"}
        Treatment of rows that hold NaN. Chunks contain these rows unchanged, and NaN for values
        that the data mask or mark as missing; "error" refuses to read such values.
    feature_names : sequence of str, or None
        Names of the columns, if they have any.
    """

    missing: Missing
    feature_names: Sequence[str] | None

    @property
    def name(self) -> str:
        """Name of the data in messages."""

    @property
    def location(self) -> Path | None:
        """Path of the data on disk; None if they are not on disk."""

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
        """Cumulative numbers of rows: entry i counts the rows before chunk i; the last entry is N.

        Unless the source is a :class:`GridSource`, chunk i holds the rows from entry i to entry
        i + 1.
        """

    @property
    def read_bytes(self) -> int:
        """Largest memory in bytes to read and hold one chunk; 0 if the data are in memory."""

    def read(self, i: int) -> Chunk:
        """Return chunk i."""


def row_bytes(source: Source) -> int:
    """Return the size of the values of a row, as stored in memory."""
    return source.n_features * source.dtype.itemsize


def locations_of(source: Source) -> Sequence[Path]:
    """Return where the data are on disk: one location, several, or none."""
    if isinstance(source, ScatteredSource):
        return source.locations
    return [] if source.location is None else [source.location]


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
    """Return the number of rows in some chunks of a source."""
    return sum(source.boundaries[i + 1] - source.boundaries[i] for i in chunks)


@runtime_checkable
class GridSource(Source, Protocol):
    """A source whose samples lie on a grid; each chunk is a box of the grid.

    Rows are in C order over the sample dimensions, within a chunk and in the data. Each dimension
    is cut into intervals of any lengths. There is one box for each combination of intervals; boxes
    are numbered in C order.
    """

    @property
    def sample_dims(self) -> tuple[str, ...]:
        """Names of the sample dimensions."""

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Sizes of the sample dimensions; their product is N."""

    def region(self, i: int) -> Region:
        """Return the box of chunk i along the sample dimensions."""


def sample_dims(source: Source) -> tuple[str, ...]:
    """Return the names of the dimensions of the samples of any source."""
    return source.sample_dims if isinstance(source, GridSource) else ("sample",)


def sample_shape(source: Source) -> tuple[int, ...]:
    """Return the shape of the samples of any source; (N,) if they lie on no grid."""
    return source.sample_shape if isinstance(source, GridSource) else (source.n_rows,)


def regions_of(source: Source) -> Callable[[int], Region]:
    """Return a function that gives the box of a chunk by its number, for any source."""
    if isinstance(source, GridSource):
        return source.region
    boundaries = source.boundaries
    return lambda i: (slice(boundaries[i], boundaries[i + 1]),)


def region_shape(region: Region) -> tuple[int, ...]:
    """Return the lengths of a box."""
    return tuple(along.stop - along.start for along in region)


def is_contiguous(region: Region, shape: tuple[int, ...]) -> bool:
    """Return whether the samples of a box are consecutive in C order."""
    return len(_span(region, shape)) == math.prod(region_shape(region))


def has_contiguous_chunks(source: GridSource) -> bool:
    """Return whether the samples of each chunk are consecutive in C order.

    It is enough to test the largest box. Along the dimensions before the first one where it has
    more than one sample, all boxes have one sample. Along the later dimensions, boxes are whole.
    """
    largest = int(np.argmax(np.diff(source.boundaries)))
    return is_contiguous(source.region(largest), source.sample_shape)


def positions(region: Region, shape: tuple[int, ...]) -> range | NDArray[np.int64]:
    """Return the positions of the samples of a box, in C order; a range if they are consecutive."""
    if is_contiguous(region, shape):
        return _span(region, shape)
    return np.ravel_multi_index(tuple(np.ogrid[region]), shape).ravel()


def region_at(places: range | NDArray[np.int64], shape: tuple[int, ...]) -> Region:
    """Return the box whose samples have these positions, one or more, in C order."""
    first, last = (np.unravel_index(int(places[end]), shape) for end in (0, -1))
    return tuple(slice(int(i), int(j) + 1) for i, j in zip(first, last, strict=True))


def _span(region: Region, shape: tuple[int, ...]) -> range:
    """Return the range from the first sample of a box to its last, in C order."""
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


@dataclass(frozen=True)
class Output:
    """The type and the description of what is found of each row.

    Attributes
    ----------
    dtype : dtype
        Type in memory.
    dim : str or None
        Name of the dimension that several values of a row lie along.
    names : sequence
        Their labels along it.
    stored_dtype : dtype or None
        Type at a path; None if it is the same.
    name : str
        Name of the variable.
    attributes : mapping of str to JSON values
        Its description, by the conventions for climate data (CF).
    no_value : int or None
        Value of rows that have none; None for NaN.
    is_rows : bool
        Whether the values are those of the features.
    """

    dtype: np.dtype[Any]
    dim: str | None = None
    names: Sequence[int | str] = ()
    stored_dtype: np.dtype[Any] | None = None
    name: str = "values"
    attributes: Mapping[str, Any] = field(default_factory=dict)
    no_value: int | None = None
    is_rows: bool = False

    @property
    def length(self) -> int | None:
        """Number of values of a row; None for a single one without a dimension of its own."""
        return None if self.dim is None else len(self.names)


@runtime_checkable
class LabelledSource(Source, Protocol):
    """A source whose rows have coordinates along named dimensions."""

    def labelled(self, values: NDArray[Any], output: Output) -> Any:
        """Return values of all samples, (*shape) or (*shape, K), in the container of the data."""


@dataclass(frozen=True)
class Variable:
    """A variable of an output that holds several.

    Attributes
    ----------
    name : str
    dims : tuple of str
    shape : tuple of int
    part : int, slice or None
        Which of the values of a sample it holds: one, some, or all that there are.
    attributes : mapping of str to JSON values
    """

    name: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    part: int | slice | None
    attributes: Mapping[str, Any]

    def values_of(self, values: Any) -> Any:
        """Return the values of a box of samples that it holds, in its own dimensions."""
        return values_held(values, self.part, self.shape[values.ndim - 1 :])


def values_held(values: Any, part: int | slice | None, inner_shape: tuple[int, ...]) -> Any:
    """Return some of the values of a box of samples, in the dimensions that they have there.

    Parameters
    ----------
    values : array of shape (*box, M), or (*box,) if part is None
    part : int, slice or None
        As in :class:`Variable`.
    inner_shape : tuple of int
        Sizes of the further dimensions, of which M is the product.

    Returns
    -------
    array of shape (*box, *inner_shape)
    """
    if part is None:
        return values
    return values[..., part].reshape(*values.shape[:-1], *inner_shape)


@dataclass(frozen=True, eq=False)
class Layout:
    """The variables of an output of labelled data, and everything that describes them.

    Attributes
    ----------
    described : object
        An xarray.Dataset with the coordinates and the attributes, without the variables.
    variables : sequence of Variable
    no_value : int or None
        As in :class:`Output`.
    digest : str
        Digest of the coordinates and attributes.
    """

    described: Any
    variables: Sequence[Variable]
    no_value: int | None
    digest: str


@runtime_checkable
class CoordinateSource(GridSource, Protocol):
    """A source on a grid with coordinates, whose predictions can be written with these."""

    def layout(self, output: Output) -> Layout | None:
        """Return the variables of a written output; None if the data have no coordinates."""

    def lazy_rows(self) -> Any:
        """Return the features of all samples as a lazy array, (*sample_shape, D), or None."""


@runtime_checkable
class DescribingSource(Source, Protocol):
    """A source that says how its data were described, and compares data with such a description."""

    def data_description(self) -> DataDescription | None:
        """Return the variables, labels and units of the features; None if they have none."""

    def like(self, description: DataDescription) -> Self:
        """Return the same data with the features in the order of a description.

        Raises
        ------
        DataError
            If labels along the features or units differ.
        """


@runtime_checkable
class ScatteredSource(Source, Protocol):
    """A source in several files, of which ``location`` is the first."""

    @property
    def locations(self) -> Sequence[Path]:
        """Where the files are on disk."""


@runtime_checkable
class StoredSource(Source, Protocol):
    """A source in files, which the operating system can fetch ahead of the computation."""

    def prefetch(self, i: int) -> None:
        """Begin to fetch the files of chunk i into the page cache; do not wait for them."""


class Monoid(Protocol):
    """A value that merges with others in any grouping, in the order of the chunks."""

    def merge(self, other: Self) -> Self:
        """Return the value for the rows of both operands."""


class Sink(Protocol):
    """Storage for one value, or one row of values, for each row of data."""

    def has(self, i: int) -> bool:
        """Return whether an earlier call has stored the values of chunk i."""

    def write(self, region: Region, values: NDArray[Any]) -> None:
        """Store the values of a box of samples, (n,) or (n, M), in C order over the box."""

    def finish(self, i: int) -> None:
        """Record that all of chunk i has been written."""


class Writer(Protocol):
    """A writer that other processes use for a sink; picklable."""

    def write(self, region: Region, values: NDArray[Any]) -> None:
        """Store the values of a box of samples, as the sink does."""

    def sync(self, regions: Sequence[Region]) -> Sequence[bytes]:
        """Write the data of some boxes through to the disk, and return digests of these boxes."""


@runtime_checkable
class SharedSink(Sink, Protocol):
    """A sink into which other processes may write."""

    def writer(self) -> Writer | None:
        """Return their writer; None if only this process can write this output."""

    def finish_elsewhere(self, i: int, digest: bytes) -> None:
        """Record that another process has written chunk i, with the digest of its box."""


def unwritten_chunks(source: Source, sink: Sink) -> list[int]:
    """Return the chunks of a source whose values a sink does not have."""
    return [i for i in all_chunks(source) if not sink.has(i)]


M = TypeVar("M", bound=Monoid)


def chunks_done(source: Source, chunks: Iterable[int]) -> ChunkDone:
    """Return the event for chunks that have been read and computed."""
    n_rows = row_count(source, chunks)
    return ChunkDone(n_rows, n_rows * row_bytes(source))


@dataclass(frozen=True, eq=False)
class PartialRead(Generic[M]):
    """The merged values of the first chunks of a pass.

    Attributes
    ----------
    n_chunks : int
    values : tuple of Monoid
        Values of complete subtrees of the merge tree. The binary digits of ``n_chunks`` give
        their numbers of chunks, the largest first.
    seconds : float
        Duration so far.
    """

    n_chunks: int = 0
    values: tuple[M, ...] = ()
    seconds: float = 0.0


class Journal(Protocol):
    """The results of a fit in order: kept one by one, and recalled by a fit that is resumed."""

    @property
    def interval(self) -> float:
        """Seconds between two records of an unfinished pass; infinity for no records."""

    def recall(
        self, kind: type[V], is_asked: Callable[[V], bool]
    ) -> tuple[V, Sequence[ReadDone]] | None:
        """Return the next result and the passes that it took; None if there are no more.

        Parameters
        ----------
        kind : type
            A dataclass.
        is_asked : callable
            Return whether a result is the one that the fit needs now.

        Raises
        ------
        CheckpointError
            If the next result is of another kind or another fit, or cannot be read.
        """

    def keep(self, value: Any, reads: Sequence[ReadDone]) -> None:
        """Keep a result and the passes that it took; remove the parts of these passes.

        Raises
        ------
        OutputError
            If the result cannot be written.
        """

    def partial_read(
        self, number: int, kind: type[M], identity: Any
    ) -> tuple[PartialRead[M], Callable[[PartialRead[M]], None]]:
        """Return the recorded part of an unfinished pass, and a function that records more of it.

        Parameters
        ----------
        number : int
            Number of the pass.
        kind : type
            The dataclass of its value.
        identity : object
            Everything that determines its value.

        Returns
        -------
        begun : PartialRead
            The recorded part; it has no chunks if nothing was recorded.
        keep : callable
            Replaces the recorded part; raises OutputError if it cannot be written.

        Raises
        ------
        CheckpointError
            If the recorded part cannot be read.
        """


class Executor(Protocol):
    """A way to compute the values of chunks: threads, a scheduler or a cluster."""

    @property
    def sample_bytes(self) -> int:
        """Largest memory in bytes of this process for a sample of rows."""

    @property
    def memory_limit(self) -> int | None:
        """Memory limit of this process in bytes; None if it has none."""

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
            A source with at least one chunk.
        job : Job
            Its values have a method ``merge``.
        listener : callable
            Called for each finished chunk.
        chunks : sequence of int, optional
            At least one chunk, in the order in which the values merge; by default all chunks.
        """

    def map_write(
        self,
        source: Source,
        job: Job[S, NDArray[Any]],
        sink: Sink,
        listener: Listener,
        piece_shape: tuple[int, ...] | None = None,
    ) -> None:
        """Write the values of a job into the sink, for all chunks that the sink does not have.

        Parameters
        ----------
        source, listener
            As for :meth:`map_reduce`.
        job : Job
            Its values are arrays with a row for each row.
        sink : Sink
        piece_shape : tuple of int, optional
            Sizes of the boxes that are computed and written together: 1 along the first sample
            dimensions, any size along the next one, and the size of a chunk along the others. By
            default a whole chunk.
        """


@runtime_checkable
class LocalExecutor(Executor, Protocol):
    """An executor on threads of this process, which can do other work too."""

    def in_calling_thread(self) -> Executor:
        """Return this executor, whose passes over rows in memory stay in the calling thread."""

    def side_by_side(
        self,
        functions: Sequence[Callable[[Listener], V]],
        source: Source,
        listener: Listener,
        work: Work,
    ) -> AbstractContextManager[Sequence[Callable[[], V]]]:
        """Run functions side by side, on as many threads as fit in memory.

        Parameters
        ----------
        functions : sequence of callable
            Each takes a listener. Threads take them in their order.
        source : Source
            Rows in memory with which they work.
        listener : callable
            Receives the reports of a function while its result is waited for, in the calling
            thread.
        work : Work
            The memory of one function, as that of a thread.

        Returns
        -------
        context manager
            Gives a function for each of the functions, which waits once for its result. Functions
            whose results have not been asked for when the context ends come to an end without.
        """
