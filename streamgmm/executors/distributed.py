"""A Dask cluster: its workers read, compute and merge chunks, a group of them in each task.

Dask schedules; nothing here does. One task for each group keeps the scheduler's part small,
however many chunks there are. What all groups need, the state and the source, are tasks too:
they reach each worker once, and a worker that dies takes nothing along that cannot be computed
again. Values merge on the workers, by the same tree as on local threads, and one comes back.
"""

import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from typing import Any, Self

import dask
import dask.base
from dask._task_spec import Task, TaskRef
from dask.optimization import cull
from dask.utils import funcname, parse_timedelta
from distributed import Client, KilledWorker
from distributed.protocol import pickle
from numpy.typing import NDArray

from streamgmm.errors import ClusterError, ParameterError, StreamGMMError
from streamgmm.executors.groups import MOST_GROUPS, group_size, groups_of
from streamgmm.executors.memory import Budget, sample_bytes
from streamgmm.executors.merging import tree_depth
from streamgmm.executors.tasks import (
    MERGED_AT_ONCE,
    Graph,
    Key,
    Writing,
    apply,
    given,
    reduce,
    write,
)
from streamgmm.protocols import (
    NO_WORK,
    Chunk,
    LazySource,
    Listener,
    M,
    S,
    SharedSink,
    Sink,
    Source,
    Work,
    all_chunks,
    chunks_done,
    data_bytes,
    regions_of,
    sample_shape,
    unwritten_chunks,
)

# Chunks whose values are brought here at once to be written.
_BATCH = 32
# How often a task is tried again that failed by an error.
_RETRIES = 2
# Of a worker's memory limit. Above it Dask writes to disk, and soon gives the worker no more work.
_USABLE_PART = 0.7
# How long to wait for a worker when there is none.
_PATIENCE = "5 minutes"
# Between two looks at a cluster that says nothing.
_SECONDS_BETWEEN_LOOKS = 5.0


class DistributedExecutor:
    """Computes groups of chunks as tasks of a cluster.

    Parameters
    ----------
    client : distributed.Client
    memory_limit : int or str, optional
        Of this process, which holds samples; the workers have limits of their own.

    Notes
    -----
    When there is no worker it waits for one, as long as Dask's own setting
    ``distributed.scheduler.no-workers-timeout`` says, or for five minutes.
    """

    def __init__(self, client: Any, memory_limit: int | float | str | None = None) -> None:
        self.sample_bytes = sample_bytes(memory_limit)
        self._client = client
        self._has_read = False
        self._address = client.scheduler.address
        setting = dask.config.get("distributed.scheduler.no-workers-timeout", None)
        self._patience: float = parse_timedelta(setting or _PATIENCE)
        # By identity, with what is held so that no other source can have it.
        self._shipped: dict[int, tuple[Source, Any]] = {}
        self._lazy: dict[int, tuple[Source, Sequence[Any]]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._shipped.clear()
        self._lazy.clear()

    def map_reduce(
        self,
        source: Source,
        function: Callable[[S, Chunk], M],
        state: S,
        listener: Listener,
        work: Work = NO_WORK,
        chunks: Sequence[int] | None = None,
        purpose: str = "read",
        number: int = 0,
    ) -> M:
        """Merge function(state, chunk) over chunks; see :class:`streamgmm.protocols.Executor`.

        Raises
        ------
        MemoryLimitError
            If a worker's memory limit does not hold a chunk for each of its threads.
        ClusterError
            If the cluster is lost, or workers die again and again.
        """
        chosen = all_chunks(source) if chunks is None else chunks
        graph = Graph(purpose, function, state, number)

        def tell(group: Sequence[int]) -> None:
            listener(chunks_done(source, group))

        with self._explained(source):
            merged: M = self._merged(source, graph, work, chosen, tell)
        return merged

    def map_write(
        self,
        source: Source,
        function: Callable[[S, Chunk], NDArray[Any]],
        state: S,
        sink: Sink,
        listener: Listener,
        work: Work = NO_WORK,
        piece_shape: tuple[int, ...] | None = None,
    ) -> None:
        """Write function(state, chunk) of all chunks; see :class:`streamgmm.protocols.Executor`.

        Workers write by themselves if the sink allows it, else values come here to be written.

        Raises
        ------
        MemoryLimitError
            If a worker's memory limit does not hold a chunk for each of its threads.
        ClusterError
            If the cluster is lost, or workers die again and again.
        """
        chunks = unwritten_chunks(source, sink)
        name = funcname(function)

        def tell(group: Sequence[int]) -> None:
            for i in group:
                sink.finish(i)
            listener(chunks_done(source, group))

        writer = sink.writer() if isinstance(sink, SharedSink) else None
        with self._explained(source):
            if writer is None:
                for batch in groups_of(chunks, _BATCH):
                    graph = Graph(name, function, state)
                    self._write_here(source, graph, work, batch, sink, tell)
            elif chunks:
                job = Writing(function, state, writer, piece_shape, sample_shape(source))
                self._merged(source, Graph(name, write, job), work, chunks, tell)

    def check_memory(self, source: Source, work: Work) -> None:
        """Refuse a read for which a worker has not the memory.

        Raises
        ------
        MemoryLimitError
            With the sizes.
        """
        with self._explained(source):
            budgets = self._budgets()
        size = _size_of_groups(source, len(all_chunks(source)), budgets)
        _require_memory(budgets, source, work, size)

    @contextmanager
    def _explained(self, source: Source) -> Iterator[None]:
        """Say of a cluster that fails what happened, and what to do.

        Raises
        ------
        ClusterError
            If the cluster is lost, or workers die again and again.
        """
        try:
            yield
        except KilledWorker as error:
            raise ClusterError(
                f"{error.allowed_failures + 1} workers died one after the other while they "
                f"computed the same part of {source.name}; they may have been out of memory: see "
                "their logs, and give them more memory or fewer threads, or store the array in "
                "smaller chunks"
            ) from error
        except Exception as error:
            is_ours = isinstance(error, StreamGMMError)
            if is_ours or not (isinstance(error, CancelledError) or self._is_lost()):
                raise
            raise ClusterError(
                f"the connection to the scheduler {self._address} was lost while {source.name} "
                "was read; see its log, and begin again with another cluster"
            ) from error

    def _is_lost(self) -> bool:
        return bool(self._client.status != "running")

    def _budgets(self) -> list[Budget]:
        """What each worker may hold, and what it holds beside data that Dask can write to disk."""
        workers = self._client.scheduler_info(n_workers=-1)["workers"]
        return [
            Budget(
                int(_USABLE_PART * worker["memory_limit"]) or sys.maxsize,
                max(worker["metrics"]["memory"] - worker["metrics"]["managed_bytes"], 0),
                worker["nthreads"],
                f"{_USABLE_PART:.0%} of the memory limit of worker {address}",
            )
            for address, worker in workers.items()
        ]

    def _merged(
        self,
        source: Source,
        graph: Graph,
        work: Work,
        chosen: Sequence[int],
        tell: Callable[[Sequence[int]], None],
    ) -> Any:
        """The merged value of chunks; groups of them are told of as they are done."""
        budgets = self._budgets()
        size = _size_of_groups(source, len(chosen), budgets)
        levels = graph.merged(self._leaves(graph, source, work, chosen, size, budgets))
        # The number of those that are told of is bounded.
        height = next(h for h, level in enumerate(levels) if len(level) <= MOST_GROUPS)
        groups = groups_of(chosen, size * MERGED_AT_ONCE**height)
        group_of = dict(zip(levels[height], groups, strict=True))
        (root,) = levels[-1]
        merged = None
        with self._computing(source, graph, list({**group_of, root: None})) as done:
            for future in done:
                if future.key in group_of:
                    tell(group_of[future.key])
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
        tell: Callable[[Sequence[int]], None],
    ) -> None:
        """Write the values of chunks, which come here; each chunk is told of as it is done."""
        region_of = regions_of(source)
        leaves = self._leaves(graph, source, work, chunks, 1, self._budgets())
        chunk_of = dict(zip(leaves, chunks, strict=True))
        with self._computing(source, graph, leaves) as done:
            for future in done:
                i = chunk_of[future.key]
                sink.write(region_of(i), future.result())
                tell([i])

    def _leaves(
        self,
        graph: Graph,
        source: Source,
        work: Work,
        chosen: Sequence[int],
        size: int,
        budgets: Sequence[Budget],
    ) -> list[Key]:
        """Tasks that compute groups of so many chunks.

        Raises
        ------
        MemoryLimitError
            Before the first of all reads, if a worker has not the memory.
        """
        # What has been read is not thrown away for a tight estimate of a later read.
        if not self._has_read:
            _require_memory(budgets, source, work, size)
            self._has_read = True
        if isinstance(source, LazySource):
            return self._lazy_leaves(graph, source, chosen)
        ahead = source.read_bytes > 0 and all(
            _holds_two_chunks(budget, source, work, size) for budget in budgets
        )
        shipped = TaskRef(self._future_of(source).key)
        return [
            graph.add("group", n, reduce, graph.job, shipped, group, ahead)
            for n, group in enumerate(groups_of(chosen, size))
        ]

    def _lazy_leaves(self, graph: Graph, source: LazySource, chosen: Sequence[int]) -> list[Key]:
        """A task for each chunk, to be computed where the chunk is."""
        if id(source) not in self._lazy:
            self._lazy[id(source)] = source, source.lazy_chunks()
        chunks = self._lazy[id(source)][1]
        tasks = chunks[0].__dask_graph__()
        graph.tasks.update(tasks)
        leaves = []
        for n, i in enumerate(chosen):
            key = graph.add("chunk", n, apply, graph.job, TaskRef(chunks[i].key))
            # One task less for the scheduler.
            graph.tasks[key] = Task.fuse(tasks[chunks[i].key], graph.tasks[key], key=key)
            leaves.append(key)
        graph.tasks, _ = cull(graph.tasks, leaves)  # type: ignore[no-untyped-call]
        return leaves

    def _future_of(self, source: Source) -> Any:
        """The source as a task, which stays as long as the executor.

        Raises
        ------
        ParameterError
            If it cannot be pickled.
        """
        if id(source) not in self._shipped:
            key = f"streamgmm-source-{uuid.uuid4().hex}"
            try:
                with _graphs_of_any_size():
                    future = self._client.submit(given, source, key=key)
            except TypeError as error:
                raise ParameterError(
                    f"{source.name} cannot be sent to workers ({error}); give its path or URL, or "
                    "read it with executor='threads'"
                ) from error
            self._shipped[id(source)] = source, future
        return self._shipped[id(source)][1]

    @contextmanager
    def _computing(
        self, source: Source, graph: Graph, keys: Sequence[Key]
    ) -> Iterator[Iterator[Any]]:
        """Futures of some tasks as they are done; what is not done at the end is dropped."""
        with _graphs_of_any_size():
            futures = self._client.get(graph.tasks, list(keys), sync=False, retries=_RETRIES)
        pending = {future.key: future for future in futures}
        del futures
        try:
            yield self._done(source, pending)
        finally:
            # The scheduler drops what nobody waits for; to ask it to cancel drops our connection.
            for future in pending.values():
                future.release()

    def _done(self, source: Source, pending: dict[Key, Any]) -> Iterator[Any]:
        """Take futures from those that are pending, as they are done."""
        done: SimpleQueue[Any] = SimpleQueue()
        for future in pending.values():
            future.add_done_callback(done.put)
        last_seen = time.monotonic()
        while pending:
            try:
                future = done.get(timeout=min(_SECONDS_BETWEEN_LOOKS, self._patience))
            except Empty:
                if self._client.nthreads():
                    last_seen = time.monotonic()
                if time.monotonic() - last_seen > self._patience:
                    raise ClusterError(
                        f"the cluster of {self._address} has had no worker for "
                        f"{self._patience:g} s while {source.name} was read; start workers, and "
                        "begin again"
                    ) from None
                continue
            last_seen = time.monotonic()
            if not future.done():
                # Lost with its worker in the meantime, it is computed again.
                future.add_done_callback(done.put)
                continue
            if future.status != "finished":
                # Raises what went wrong.
                future.result()
            yield future
            # What nobody holds gives way on the workers, once it is merged.
            pending.pop(future.key).release()


@contextmanager
def _graphs_of_any_size() -> Iterator[None]:
    """Dask advises against large graphs; states of many components are large."""
    with dask.config.set({"distributed.admin.large-graph-warning-threshold": sys.maxsize}):
        yield


def _size_of_groups(source: Source, n_chunks: int, budgets: Sequence[Budget]) -> int:
    """Chunks in a group; each of a lazy source is by itself, to be computed where it is."""
    if isinstance(source, LazySource):
        return 1
    return group_size(n_chunks, sum(budget.n_threads for budget in budgets))


def _values_at_once(budget: Budget, size: int) -> int:
    """Values that may wait on a worker to be merged."""
    return budget.n_threads * max(tree_depth(size), MERGED_AT_ONCE)


def _require_memory(budgets: Sequence[Budget], source: Source, work: Work, size: int) -> None:
    for budget in budgets:
        budget.require_chunks(source, work, _values_at_once(budget, size), budget.n_threads)


def _holds_two_chunks(budget: Budget, source: Source, work: Work, size: int) -> bool:
    """Whether each thread of a worker may read a chunk while it computes another."""
    most = 2 * budget.n_threads
    return budget.chunks_in_flight(source, work, _values_at_once(budget, size), most) == most


# Which cluster, and for what data -------------------------------------------------------


def active_client() -> Any:
    """The client of the cluster that Dask computes on by default; None if it does not."""
    scheduler = dask.base.get_scheduler()  # type: ignore[no-untyped-call]
    owner = getattr(scheduler, "__self__", None)
    return owner if isinstance(owner, Client) else None


def can_be_read_elsewhere(source: Source) -> bool:
    """Whether workers get the data of a source without their being sent.

    Of what is sent arrays make no copy for the answer.
    """
    if isinstance(source, LazySource):
        return True
    buffers: list[Any] = []
    try:
        header = pickle.dumps(source, buffer_callback=buffers.append)  # type: ignore[no-untyped-call]
    except Exception:  # noqa: BLE001 - whatever cannot be pickled cannot be sent
        return False
    n_bytes = len(header) + sum(buffer.raw().nbytes for buffer in buffers)
    return bool(2 * n_bytes < data_bytes(source))
