"""The tasks of a pass on a cluster: graphs on the client, functions on the workers."""

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, Self

import numpy as np
from dask.sizeof import sizeof
from distributed import get_worker
from numpy.typing import NDArray

from streamgmm.core.statistics import Statistics
from streamgmm.dask_graph import Task, TaskRef
from streamgmm.errors import DataError
from streamgmm.executors.blas import single_threaded_blas
from streamgmm.executors.chunk_writing import write_chunk
from streamgmm.executors.cluster.chunk_groups import groups_of, reduce_group
from streamgmm.executors.merge_tree import MergeTree
from streamgmm.protocols import Chunk, Job, M, S, Source, Writer, region_at

#: Values that one task merges: a power of two, so that they are a complete subtree.
MERGED_AT_ONCE = 8

Key = tuple[str, int]


class Graph:
    """Tasks that apply a function with a state, under unique names.

    Parameters
    ----------
    purpose : str
        Purpose of the work, for the dashboard.
    function : callable
    state : object
    number : int
        Number of the pass.

    Attributes
    ----------
    tasks : dict
    job : TaskRef
        The function and the state.
    """

    def __init__(
        self, purpose: str, function: Callable[..., Any], state: Any, number: int = 0
    ) -> None:
        self._name = f"streamgmm-{purpose.strip('_').replace('_', '-')}"
        # Dask shows names up to the first word that has digits.
        self._token = f"{number}-{uuid.uuid4().hex}"
        self.tasks: dict[Any, Any] = {}
        self.job = TaskRef(self.add("job", 0, given, (function, state)))

    def add(self, kind: str, number: int, function: Callable[..., Any], *arguments: Any) -> Key:
        """Add a task, and return its key."""
        key = (f"{self._name}-{kind}-{self._token}", number)
        self.tasks[key] = Task(key, function, *arguments)
        return key

    def merged(self, leaves: list[Key]) -> list[list[Key]]:
        """Return the levels of a tree of tasks that merge leaves, from the leaves to the root."""
        levels = [leaves]
        while len(levels[-1]) > 1:
            kind = f"merge-{len(levels)}"
            parts = groups_of(levels[-1], MERGED_AT_ONCE)
            levels.append(
                [self.add(kind, n, _merge, *map(TaskRef, part)) for n, part in enumerate(parts)]
            )
        return levels


# On the workers -------------------------------------------------------------------------


def _size_of_statistics(value: Statistics) -> int:
    """Return the size of statistics for Dask, which does not count arrays within objects."""
    return sum(part.nbytes for part in vars(value).values() if isinstance(part, np.ndarray))


sizeof.register(Statistics, _size_of_statistics)  # type: ignore[no-untyped-call]


def given(value: S) -> S:
    """Return the value itself, as a task that can be computed again."""
    return value


def apply(job: tuple[Callable[[S, Chunk], Any], S], chunk: Chunk) -> Any:
    """Return the value of a chunk, from a function and its state."""
    function, state = job
    with single_threaded_blas():
        return function(state, chunk)


def reduce(
    job: tuple[Callable[[S, Chunk], M], S], source: Source, chunks: Sequence[int], ahead: bool
) -> M:
    """Return the merged value of a group of chunks.

    See :func:`streamgmm.executors.cluster.chunk_groups.reduce_group`.

    Raises
    ------
    DataError
        If the data are at a path that does not exist on this worker.
    """
    function, state = job
    _require_data(source)
    with single_threaded_blas():
        return reduce_group(function, state, source, chunks, ahead)


@dataclass(frozen=True)
class Writing(Generic[S]):
    """Arguments of a task that writes; see :meth:`DistributedExecutor.map_write`."""

    job: Job[S, NDArray[Any]]
    writer: Writer
    piece_shape: tuple[int, ...] | None
    sample_shape: tuple[int, ...]


@dataclass(frozen=True)
class Written:
    """Chunks that have been written.

    Attributes
    ----------
    digests : tuple of bytes
        Digests of the boxes of the chunks, in their order.
    """

    digests: tuple[bytes, ...]

    def merge(self, other: Self) -> Self:
        """Return the chunks of both operands."""
        return replace(self, digests=self.digests + other.digests)


def write(writing: Writing[Any], chunk: Chunk) -> Written:
    """Write the values of a chunk, and force them to the disk."""
    if not len(chunk.rows):
        return Written((b"",))
    job, region = writing.job, region_at(chunk.index, writing.sample_shape)
    write_chunk(job.function, job.state, chunk, region, writing.piece_shape, writing.writer.write)
    return Written(tuple(writing.writer.sync([region])))


def _merge(*values: M) -> M:
    tree: MergeTree[M] = MergeTree(len(values))
    with single_threaded_blas():
        for index, value in enumerate(values):
            tree.add(index, value)
    return tree.result


def _require_data(source: Source) -> None:
    """Refuse data at a path that does not exist on this worker.

    Some formats treat missing files as chunks without values.

    Raises
    ------
    DataError
        If there is no such path.
    """
    if source.location is not None and not source.location.exists():
        raise DataError(
            f"{source.location} is not there on worker {get_worker().address}; put {source.name} "
            "where all workers find it under the same path or URL, or read it with "
            "executor='threads'"
        )
