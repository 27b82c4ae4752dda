"""Dask without a cluster: each chunk is a task of the active scheduler.

Dask does all the scheduling. Statistics merge in tasks too, by the same tree as on local
threads. For clusters see ``distributed``.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Self

import dask.base
import dask.system
import numpy as np
from dask.delayed import Delayed, delayed
from numpy.typing import NDArray

from streamgmm.events import Listener
from streamgmm.executors.blas import single_threaded_blas
from streamgmm.executors.memory import Budget, sample_bytes
from streamgmm.executors.merge_tree import MergeTree, tree_depth
from streamgmm.executors.nesting import in_local_task
from streamgmm.protocols import (
    Chunk,
    Job,
    LazySource,
    M,
    S,
    Sink,
    Source,
    Work,
    all_chunks,
    chunks_done,
    positions,
    regions_of,
    unwritten_chunks,
)

# Number of chunks whose values are fetched together to be written.
_BATCH = 32


class DaskExecutor:
    """Computes chunks as tasks of Dask's active scheduler.

    Parameters
    ----------
    memory_limit : int or str, optional
        Limit of this process, which holds parameters and samples. Dask uses as many threads as fit
        in the limit, unless the user gave Dask a pool.
    """

    def __init__(self, memory_limit: int | float | str | None = None) -> None:
        self._budget = Budget.of(memory_limit, dask.system.CPU_COUNT)
        self.memory_limit = None if memory_limit is None else self._budget.limit
        self.sample_bytes = sample_bytes(memory_limit)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def map_reduce(
        self,
        source: Source,
        job: Job[S, M],
        listener: Listener,
        chunks: Sequence[int] | None = None,
    ) -> M:
        """Merge the values of a job over chunks; see :class:`streamgmm.protocols.Executor`.

        Dask decides which chunks are in memory together. The job's work bounds the number of
        threads.
        """
        chosen = all_chunks(source) if chunks is None else chunks
        tree: MergeTree[_Node] = MergeTree(len(chosen))
        for index, task in enumerate(_tasks(source, chosen, job.function, job.state)):
            tree.add(index, _Node(task))
        merged: M = _compute([tree.result.task], self._threads(source, job.work))[0]
        listener(chunks_done(source, chosen))
        return merged

    def map_write(
        self,
        source: Source,
        job: Job[S, NDArray[Any]],
        sink: Sink,
        listener: Listener,
        piece_shape: tuple[int, ...] | None = None,
    ) -> None:
        """Write the values of a job for all chunks; see :class:`streamgmm.protocols.Executor`."""
        chunks = unwritten_chunks(source, sink)
        tasks = _tasks(source, chunks, job.function, job.state)
        region_of = regions_of(source)
        threads = self._threads(source, job.work)
        for first in range(0, len(chunks), _BATCH):
            batch = slice(first, first + _BATCH)
            for i, values in zip(chunks[batch], _compute(tasks[batch], threads), strict=True):
                sink.write(region_of(i), values)
                sink.finish(i)
        listener(chunks_done(source, chunks))

    def check_memory(
        self, source: Source, work: Work, at_limit: Callable[[int], Sequence[Work]] | None = None
    ) -> None:
        """Refuse a pass if there is a memory limit and one chunk does not fit in it.

        Raises
        ------
        MemoryLimitError
            If the memory is too small; the message gives the sizes.
        """
        if self._budget.drives:
            n_values = _values(source)
            if not self._affordable(source, work).holds(source, work, n_values, 1):
                self._budget.require_chunks(source, work, n_values, at_limit=at_limit)

    def _affordable(self, source: Source, work: Work) -> Budget:
        """Return the budget with as many threads as have memory for a chunk each."""
        each = replace(work, thread=work.thread + source.read_bytes)
        return self._budget.with_threads_that_fit(source, each, _values(source))

    def _threads(self, source: Source, work: Work) -> dict[str, int]:
        """Return the number of threads for Dask, if it is limited."""
        if not self._budget.drives:
            return {}
        return {"num_workers": self._affordable(source, work).n_threads}


def _values(source: Source) -> int:
    """Return how many values wait to be merged, two per level: Dask's order is not strict."""
    return 2 * tree_depth(len(all_chunks(source)))


class _Node:
    """A task whose value is a monoid; merging two tasks makes a third one."""

    def __init__(self, task: Delayed) -> None:
        self.task = task

    def merge(self, other: "_Node") -> "_Node":
        return _Node(delayed(_merge, pure=False)(self.task, other.task))


def _compute(tasks: list[Delayed], threads: dict[str, int]) -> tuple[Any, ...]:
    """Compute tasks by Dask's active scheduler; within a task, compute in this thread."""
    # The calling task may hold the only thread of the pool.
    how: dict[str, Any] = {"scheduler": "synchronous"} if in_local_task() else threads
    return tuple(dask.base.compute(*tasks, **how))  # type: ignore[no-untyped-call]


def _merge(left: M, right: M) -> M:
    return left.merge(right)


def _tasks(
    source: Source, chosen: Sequence[int], function: Callable[[S, Chunk], Any], state: S
) -> list[Delayed]:
    """Return a task for each chosen chunk."""
    shared_state = delayed(state, pure=False, traverse=False)
    if isinstance(source, LazySource):
        lazy = source.lazy_chunks()
        chunks = [lazy[i] for i in chosen]
    else:
        shared_source = delayed(source, pure=False, traverse=False)
        read = delayed(_read, pure=False)
        chunks = [read(shared_source, i) for i in chosen]
    apply = delayed(_apply, pure=False)
    return [apply(function, shared_state, chunk) for chunk in chunks]


def _read(source: Source, i: int) -> Chunk:
    return source.read(i)


def _apply(function: Callable[[S, Chunk], Any], state: S, chunk: Chunk) -> Any:
    with single_threaded_blas():
        return function(state, chunk)


def map_rows(
    array: Any,
    function: Callable[[S, Chunk], NDArray[Any]],
    state: S,
    dtype: np.dtype[Any],
    n_outputs: int | None,
) -> Any:
    """Return a lazy Dask array of function(state, chunk), block by block.

    Parameters
    ----------
    array : dask.array.Array of shape (N, D) or (*sample_shape, D)
        The array, in one block along the columns.
    function : callable
        Returns an array of shape (n,), or (n, n_outputs).
    state : object
    dtype : dtype
        Type of the result.
    n_outputs : int, optional
        None for one value of each sample.

    Returns
    -------
    dask.array.Array
        Array of the shape of the samples, or this shape and (n_outputs,), chunked along the samples
        like the input.
    """
    columns = array.ndim - 1
    shape: dict[str, Any] = (
        {"drop_axis": columns}
        if n_outputs is None
        else {"chunks": (*array.chunks[:-1], (n_outputs,))}
    )
    ndim = columns + (n_outputs is not None)
    return array.map_blocks(
        _rows_of_block,
        function,
        delayed(state, pure=False, traverse=False),
        dtype,
        array.shape[:-1],
        dtype=dtype,
        meta=np.empty((0,) * ndim, dtype=dtype),
        **shape,
    )


def _rows_of_block(
    block: NDArray[Any],
    function: Callable[[S, Chunk], NDArray[Any]],
    state: S,
    dtype: np.dtype[Any],
    sample_shape: tuple[int, ...],
    block_info: Any = None,
) -> NDArray[Any]:
    # Dask passes block_info by name; entry 0 is that of the first argument.
    region = tuple(slice(*along) for along in block_info[0]["array-location"][:-1])
    samples = block.shape[:-1]
    if not math.prod(samples):
        return np.empty(block_info[None]["chunk-shape"], dtype)
    rows = np.asarray(block).reshape(-1, block.shape[-1])
    found = np.asarray(_apply(function, state, Chunk(rows, positions(region, sample_shape))))
    return found.astype(dtype, copy=False).reshape(*samples, *found.shape[1:])
