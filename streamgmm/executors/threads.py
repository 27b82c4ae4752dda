"""Local threads: each reads a chunk and computes it, while its values are in the cache.

Kernels release Python's lock, so threads are enough, and chunks need not be copied to other
processes. There is one thread more than may compute at once. While some threads wait for a disk,
all cores have work; if no thread waits, hardly more threads run than there are cores.
"""

import copy
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager
from queue import SimpleQueue
from typing import Any, Self

import joblib
from numpy.typing import NDArray

from streamgmm.errors import ParameterError
from streamgmm.events import Listener
from streamgmm.executors.blas import single_threaded_blas
from streamgmm.executors.chunk_writing import write_chunk
from streamgmm.executors.memory import Budget, sample_bytes
from streamgmm.executors.merge_tree import MergeTree, tree_depth
from streamgmm.executors.nesting import in_dask_task
from streamgmm.executors.side_by_side import side_by_side
from streamgmm.protocols import (
    Chunk,
    Job,
    M,
    S,
    Sink,
    Source,
    StoredSource,
    V,
    Work,
    all_chunks,
    chunks_done,
    regions_of,
    unwritten_chunks,
)

# Bound on the search for the number of threads that fit in memory, which is linear.
_MOST_THREADS = 4096


def check_n_jobs(n_jobs: int | None) -> None:
    """Refuse a number of threads that is 0, or larger than any computer can use.

    Raises
    ------
    ParameterError
    """
    if n_jobs == 0:
        raise ParameterError("n_jobs is 0; give 1 or more, or remove it for all cores")
    if n_jobs is not None and abs(n_jobs) > _MOST_THREADS:
        raise ParameterError(
            f"n_jobs is {n_jobs}; give at most {_MOST_THREADS}, or remove it for all cores"
        )


def thread_count(n_jobs: int | None) -> int:
    """Return the number of threads: n_jobs, or the number of processors of the process.

    Within a task of Dask the default is one, because Dask computes as many tasks at once as there
    are processors.

    Raises
    ------
    ParameterError
        If n_jobs is 0, or larger than any computer can use.
    """
    check_n_jobs(n_jobs)
    if n_jobs is None and in_dask_task():
        return 1
    return int(joblib.effective_n_jobs(-1 if n_jobs is None else n_jobs))


def _depth(source: Source) -> int:
    return tree_depth(len(all_chunks(source)))


class ThreadExecutor:
    """Computes chunks on local threads; a context manager that owns them.

    Parameters
    ----------
    n_jobs : int, optional
        Threads that compute; one more reads ahead. By default as many as there are cores.
    memory_limit : int or str, optional
        Bytes that the process may hold. By default most of the free memory.
    is_checked : bool
        Whether the caller has checked that passes fit in memory. Then no pass is refused, but fewer
        threads compute if memory is short.
    """

    def __init__(
        self,
        n_jobs: int | None = None,
        memory_limit: int | float | str | None = None,
        is_checked: bool = False,
    ) -> None:
        self.n_threads = thread_count(n_jobs)
        self._budget = Budget.of(memory_limit, self.n_threads)
        self.memory_limit = None if memory_limit is None else self._budget.limit
        self.sample_bytes = sample_bytes(memory_limit)
        self._has_read = is_checked
        self._pool = ThreadPoolExecutor(self.n_threads + 1, "streamgmm")
        self._taking = threading.Lock()
        self._spreads = True

    def for_rows_in_memory(self) -> "ThreadExecutor":
        """Return an executor with other threads, and the memory that was measured for this one."""
        found = copy.copy(self)
        found._has_read = True
        found._pool = ThreadPoolExecutor(self.n_threads + 1, "streamgmm")
        found._taking = threading.Lock()
        return found

    def in_calling_thread(self) -> "ThreadExecutor":
        """Return this executor, whose passes over rows in memory stay in the calling thread."""
        found = copy.copy(self)
        found._spreads = False
        return found

    def side_by_side(
        self,
        functions: Sequence[Callable[[Listener], V]],
        source: Source,
        listener: Listener,
        work: Work,
    ) -> AbstractContextManager[Sequence[Callable[[], V]]]:
        """Run functions side by side; see :class:`streamgmm.protocols.LocalExecutor`."""
        n_threads = self._budget.with_threads_that_fit(source, work, 0).n_threads
        return side_by_side(functions, listener, min(n_threads, max(len(functions), 1)))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

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
            If the memory limit does not hold even one chunk.
        """
        chosen = all_chunks(source) if chunks is None else chunks
        tree: MergeTree[M] = MergeTree(len(chosen))
        indices = {i: index for index, i in enumerate(chosen)}
        self._for_each(
            source,
            chosen,
            lambda i, chunk: tree.add(indices[i], job.function(job.state, chunk)),
            listener,
            job.work,
        )
        return tree.result

    def map_write(
        self,
        source: Source,
        job: Job[S, NDArray[Any]],
        sink: Sink,
        listener: Listener,
        piece_shape: tuple[int, ...] | None = None,
    ) -> None:
        """Write the values of a job for all chunks; see :class:`streamgmm.protocols.Executor`.

        Raises
        ------
        MemoryLimitError
            If the memory limit does not hold even one chunk.
        """
        region_of = regions_of(source)

        def write(i: int, chunk: Chunk) -> None:
            write_chunk(job.function, job.state, chunk, region_of(i), piece_shape, sink.write)
            sink.finish(i)

        self._for_each(source, unwritten_chunks(source, sink), write, listener, job.work)

    def check_memory(
        self, source: Source, work: Work, at_limit: Callable[[int], Sequence[Work]] | None = None
    ) -> None:
        """Refuse a pass if not even one chunk on one thread fits in the memory limit.

        Raises
        ------
        MemoryLimitError
            If the memory is too small; the message gives the sizes.
        """
        n_values = _depth(source)
        budget = self._budget.with_threads_that_fit(source, work, n_values)
        if not budget.holds(source, work, n_values, 1):
            self._budget.require_chunks(source, work, n_values, at_limit=at_limit)

    def _for_each(
        self,
        source: Source,
        chunks: Sequence[int],
        consume: Callable[[int, Chunk], None],
        listener: Listener,
        work: Work,
    ) -> None:
        """Call consume(i, chunk) for each of some chunks, with a bounded number in memory.

        Chunks are taken in order. If several fail, the first of them has always begun, and its
        error is raised for any speed of the threads.
        """
        # After the first pass, an estimate of a later pass must not discard finished work.
        if not self._has_read:
            self.check_memory(source, work)
        is_in_memory = source.read_bytes == 0
        budget = self._budget.with_threads_that_fit(source, work, _depth(source))
        is_spread = self._spreads and budget.n_threads > 1
        if len(chunks) == 1 or (is_in_memory and not is_spread):
            # Waking a thread takes longer than computing a small chunk.
            with single_threaded_blas():
                for i in chunks:
                    consume(i, source.read(i))
                    listener(chunks_done(source, [i]))
            self._has_read = True
            return
        # Data in memory need no thread that waits for a disk.
        most = budget.n_threads + (not is_in_memory)
        n_workers = max(budget.chunks_in_flight(source, work, _depth(source), most), 1)
        computing = threading.Semaphore(budget.n_threads)
        # Tested once, because the test examines every attribute of the source.
        prefetch = None
        if not is_in_memory and isinstance(source, StoredSource):
            prefetch = source.prefetch
        waiting = deque(chunks)
        failures: dict[int, BaseException] = {}
        done: SimpleQueue[int | None] = SimpleQueue()

        def take() -> tuple[int, int | None] | None:
            """Return a chunk to compute, and one to fetch ahead for the threads' next turn."""
            with self._taking:
                if not waiting:
                    return None
                ahead = waiting[n_workers] if n_workers < len(waiting) else None
                return waiting.popleft(), ahead

        def stop() -> None:
            with self._taking:
                waiting.clear()

        def process(i: int, ahead: int | None) -> None:
            # The disk fetches this chunk in the meantime.
            if prefetch is not None and ahead is not None:
                prefetch(ahead)
            chunk = source.read(i)
            with computing:
                consume(i, chunk)

        def process_all() -> None:
            for i, ahead in iter(take, None):
                try:
                    process(i, ahead)
                    done.put(i)
                except BaseException as error:  # noqa: BLE001 - raised where it can be seen
                    failures[i] = error
                    stop()
            done.put(None)

        workers: list[Future[None]] = []
        with single_threaded_blas():
            try:
                workers.extend(self._pool.submit(process_all) for _ in range(n_workers))
                for _ in workers:
                    for i in iter(done.get, None):
                        listener(chunks_done(source, [i]))
            finally:
                # After a failure or an interrupt all threads stop.
                stop()
                wait(workers)
        if failures:
            raise failures[min(failures)]
        self._has_read = True
