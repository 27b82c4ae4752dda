"""A Dask cluster: its workers read, compute and merge chunks, a group of them in each task.

Dask does all the scheduling. One task for each group keeps the load of the scheduler small for any
number of chunks. The state and the source, which all groups need, are tasks too: they reach each
worker once, and can be computed again if a worker dies. Values merge on the workers, by the same
tree as on local threads, and only the merged value comes back.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, Self

from dask.optimization import cull
from dask.utils import funcname
from distributed import worker_client
from numpy.typing import NDArray

from streamgmm.dask_graph import Task, TaskRef
from streamgmm.events import Listener
from streamgmm.executors.cluster.chunk_groups import MOST_GROUPS, groups_of
from streamgmm.executors.cluster.client import Cluster
from streamgmm.executors.cluster.tasks import (
    MERGED_AT_ONCE,
    Graph,
    Key,
    Writing,
    apply,
    reduce,
    write,
)
from streamgmm.executors.cluster.worker_memory import WorkerMemory
from streamgmm.executors.memory import Budget, sample_bytes
from streamgmm.executors.nesting import in_worker_task
from streamgmm.protocols import (
    Job,
    LazySource,
    M,
    S,
    SharedSink,
    Sink,
    Source,
    Work,
    all_chunks,
    chunks_done,
    regions_of,
    sample_shape,
    unwritten_chunks,
)

# Number of chunks whose values are fetched together to be written.
_BATCH = 32
# Memory for the data sent and received in a pass, with copies, in sizes of a value.
_SHIPPED_VALUES = 12


class DistributedExecutor:
    """Computes groups of chunks as tasks of a cluster.

    Within a task of a worker, the executor releases the thread of this task, so that other tasks
    can run there. When it is closed, it waits for a free thread.

    Parameters
    ----------
    client : distributed.Client
    memory_limit : int or str, optional
        Limit of this process, which holds samples; the workers have their own limits.
    """

    def __init__(self, client: Any, memory_limit: int | float | str | None = None) -> None:
        self._budget = Budget.of(memory_limit, 1)
        self.memory_limit = None if memory_limit is None else self._budget.limit
        self.sample_bytes = sample_bytes(memory_limit)
        self._cluster = Cluster(client)
        self._has_read = False
        # By identity. The source is held so that no other object can get the same identity.
        self._shipped: dict[int, tuple[Source, Any]] = {}
        self._lazy: dict[int, tuple[Source, Sequence[Any]]] = {}
        self._place = ExitStack()

    def __enter__(self) -> Self:
        if in_worker_task():
            self._place.enter_context(worker_client())
        return self

    def __exit__(self, *exception: object) -> None:
        self._shipped.clear()
        self._lazy.clear()
        self._place.close()

    def map_reduce(
        self,
        source: Source,
        job: Job[S, M],
        listener: Listener,
        chunks: Sequence[int] | None = None,
    ) -> M:
        """Merge the values of a job over chunks; see :class:`streamgmm.protocols.Executor`.

        Raises
        ------
        MemoryLimitError
            If a worker's memory limit does not hold a chunk for each of its threads.
        ClusterError
            If the cluster is lost, or workers die again and again.
        """
        chosen = all_chunks(source) if chunks is None else chunks
        graph = Graph(job.purpose, job.function, job.state, job.number)

        def notify(group: Sequence[int], future: Any) -> None:
            listener(chunks_done(source, group))

        with self._cluster.explained(source):
            merged: M = self._merged(source, graph, job.work, chosen, notify)
        return merged

    def map_write(
        self,
        source: Source,
        job: Job[S, NDArray[Any]],
        sink: Sink,
        listener: Listener,
        piece_shape: tuple[int, ...] | None = None,
    ) -> None:
        """Write the values of a job for all chunks; see :class:`streamgmm.protocols.Executor`.

        Workers write by themselves if the sink allows it; otherwise this process writes.

        Raises
        ------
        MemoryLimitError
            If a worker's memory limit does not hold a chunk for each of its threads.
        ClusterError
            If the cluster is lost, or workers die again and again.
        """
        chunks = unwritten_chunks(source, sink)
        name = funcname(job.function)

        with self._cluster.explained(source):
            if isinstance(sink, SharedSink) and (writer := sink.writer()) is not None:
                writing = Writing(job, writer, piece_shape, sample_shape(source))

                def notify(group: Sequence[int], future: Any) -> None:
                    for i, digest in zip(group, future.result().digests, strict=True):
                        sink.finish_elsewhere(i, digest)
                    listener(chunks_done(source, group))

                if chunks:
                    self._merged(source, Graph(name, write, writing), job.work, chunks, notify)
                return
            for batch in groups_of(chunks, _BATCH):
                graph = Graph(name, job.function, job.state)
                self._write_here(source, graph, job.work, batch, sink, listener)

    def check_memory(
        self, source: Source, work: Work, at_limit: Callable[[int], Sequence[Work]] | None = None
    ) -> None:
        """Refuse a pass for which a worker, or this process, has too little memory.

        Raises
        ------
        MemoryLimitError
            If the memory is too small; the message gives the sizes.
        """
        self._budget.require_driver(source, work, at_limit, _SHIPPED_VALUES)
        with self._cluster.explained(source):
            memory = self._cluster.memory
        memory.require(source, work)

    def _merged(
        self,
        source: Source,
        graph: Graph,
        work: Work,
        chosen: Sequence[int],
        notify: Callable[[Sequence[int], Any], None],
    ) -> Any:
        """Return the merged value of chunks; report groups of chunks as they finish."""
        memory = self._cluster.memory
        size = memory.group_size(source, len(chosen))
        levels = graph.merged(self._leaves(graph, source, work, chosen, size, memory))
        # The number of reported groups is bounded.
        height = next(h for h, level in enumerate(levels) if len(level) <= MOST_GROUPS)
        groups = groups_of(chosen, size * MERGED_AT_ONCE**height)
        group_of = dict(zip(levels[height], groups, strict=True))
        (root,) = levels[-1]
        merged = None
        with self._cluster.computing(source, graph, list({**group_of, root: None})) as done:
            for future in done:
                if future.key in group_of:
                    notify(group_of[future.key], future)
                if future.key == root:
                    merged = future.result()
        return merged

    def _write_here(
        self,
        source: Source,
        graph: Graph,
        work: Work,
        chunks: Sequence[int],
        sink: Sink,
        listener: Listener,
    ) -> None:
        """Fetch and write the values of chunks in this process; report each finished chunk."""
        region_of = regions_of(source)
        leaves = self._leaves(graph, source, work, chunks, 1, self._cluster.memory)
        chunk_of = dict(zip(leaves, chunks, strict=True))
        with self._cluster.computing(source, graph, leaves) as done:
            for future in done:
                i = chunk_of[future.key]
                sink.write(region_of(i), future.result())
                sink.finish(i)
                listener(chunks_done(source, [i]))

    def _leaves(
        self,
        graph: Graph,
        source: Source,
        work: Work,
        chosen: Sequence[int],
        size: int,
        memory: WorkerMemory,
    ) -> list[Key]:
        """Return the tasks that compute groups of ``size`` chunks.

        Raises
        ------
        MemoryLimitError
            Before the first pass, if a worker has too little memory.
        """
        # After the first pass, an estimate of a later pass must not discard finished work.
        if not self._has_read:
            memory.require(source, work, size)
            self._has_read = True
        if isinstance(source, LazySource):
            return self._lazy_leaves(graph, source, chosen)
        ahead = source.read_bytes > 0 and memory.holds_two_chunks(source, work, size)
        if id(source) not in self._shipped:
            self._shipped[id(source)] = source, self._cluster.hold(source)
        shipped = TaskRef(self._shipped[id(source)][1].key)
        return [
            graph.add("group", n, reduce, graph.job, shipped, group, ahead)
            for n, group in enumerate(groups_of(chosen, size))
        ]

    def _lazy_leaves(self, graph: Graph, source: LazySource, chosen: Sequence[int]) -> list[Key]:
        """Return a task for each chunk, to be computed on the worker that holds the chunk."""
        if id(source) not in self._lazy:
            self._lazy[id(source)] = source, source.lazy_chunks()
        chunks = self._lazy[id(source)][1]
        tasks = chunks[0].__dask_graph__()
        graph.tasks.update(tasks)
        leaves = []
        for n, i in enumerate(chosen):
            key = graph.add("chunk", n, apply, graph.job, TaskRef(chunks[i].key))
            # Fusing saves a task of the scheduler.
            graph.tasks[key] = Task.fuse(tasks[chunks[i].key], graph.tasks[key], key=key)
            leaves.append(key)
        graph.tasks, _ = cull(graph.tasks, leaves)  # type: ignore[no-untyped-call]
        return leaves
