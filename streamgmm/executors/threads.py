"""Local threads: some read and decode ahead, others compute.

Kernels hold no lock while they compute, so threads are enough, and chunks need not be
copied to other processes.
"""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Self

import joblib
import numpy as np
from numpy.typing import NDArray

from streamgmm.errors import ParameterError
from streamgmm.executors.blas import single_threaded_blas
from streamgmm.executors.memory import chunks_in_flight, resolve_limit
from streamgmm.executors.merging import MergeTree
from streamgmm.protocols import Chunk, ChunkDone, Listener, M, S, Sink, Source


def thread_count(n_jobs: int | None) -> int:
    """Threads to compute with: n_jobs, or as many as the process may run on.

    Raises
    ------
    ParameterError
        If n_jobs is 0.
    """
    if n_jobs == 0:
        raise ParameterError("n_jobs is 0; give 1 or more, or None for all cores")
    return int(joblib.effective_n_jobs(-1 if n_jobs is None else n_jobs))


class ThreadExecutor:
    """Computes chunks on local threads; a context manager that owns them.

    Parameters
    ----------
    n_jobs : int, optional
        Threads that compute; as many again read ahead. By default as many as there are cores.
    memory_limit : int or str, optional
        Bytes that the process may hold. By default most of what is free.
    """

    def __init__(
        self, n_jobs: int | None = None, memory_limit: int | float | str | None = None
    ) -> None:
        self.n_threads = thread_count(n_jobs)
        self.memory_limit = resolve_limit(memory_limit)
        self._workers = ThreadPoolExecutor(self.n_threads, "streamgmm-compute")
        self._readers = ThreadPoolExecutor(self.n_threads, "streamgmm-read")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        for pool in (self._readers, self._workers):
            pool.shutdown(wait=True, cancel_futures=True)

    def map_reduce(
        self,
        source: Source,
        function: Callable[[S, Chunk], M],
        state: S,
        listener: Listener,
        work_bytes: int = 0,
    ) -> M:
        """Merge function(state, chunk) over all chunks; see :class:`streamgmm.protocols.Executor`.

        Raises
        ------
        MemoryLimitError
            If the memory limit does not hold even one chunk.
        """
        tree: MergeTree[M] = MergeTree(len(source.boundaries) - 1)
        self._for_each(
            source,
            lambda i, chunk: tree.add(i, function(state, chunk)),
            listener,
            work_bytes,
            tree.depth,
        )
        return tree.result

    def map_write(
        self,
        source: Source,
        function: Callable[[S, Chunk], NDArray[Any]],
        state: S,
        sink: Sink,
        listener: Listener,
        work_bytes: int = 0,
    ) -> None:
        """Write function(state, chunk) for all chunks; see :class:`streamgmm.protocols.Executor`.

        Raises
        ------
        MemoryLimitError
            If the memory limit does not hold even one chunk.
        """

        def write(i: int, chunk: Chunk) -> None:
            rows = range(source.boundaries[i], source.boundaries[i + 1])
            sink.write(rows, function(state, chunk))

        self._for_each(source, write, listener, work_bytes, 0)

    def _for_each(
        self,
        source: Source,
        consume: Callable[[int, Chunk], None],
        listener: Listener,
        work_bytes: int,
        n_values: int,
    ) -> None:
        """Call consume(i, chunk) for every chunk, with a bounded number of chunks in memory."""
        sizes = np.diff(source.boundaries)
        row_bytes = source.n_features * source.dtype.itemsize
        window = chunks_in_flight(
            source, self.memory_limit, self.n_threads, work_bytes, n_values, 3 * self.n_threads
        )
        in_memory = source.read_bytes == 0

        def compute(i: int, reading: Future[Chunk] | None) -> None:
            consume(i, source.read(i) if reading is None else reading.result())

        running: deque[tuple[int, Future[None], Future[Chunk] | None]] = deque()

        def finish_oldest() -> None:
            i, computing, _ = running[0]
            computing.result()
            running.popleft()
            listener(ChunkDone(int(sizes[i]), int(sizes[i]) * row_bytes))

        with single_threaded_blas():
            try:
                for i in range(len(sizes)):
                    if len(running) == window:
                        finish_oldest()
                    reading = None if in_memory else self._readers.submit(source.read, i)
                    running.append((i, self._workers.submit(compute, i, reading), reading))
                while running:
                    finish_oldest()
            finally:
                self._abandon(running)

    @staticmethod
    def _abandon(
        running: deque[tuple[int, Future[None], Future[Chunk] | None]],
    ) -> None:
        """After a failure or an interrupt: wait for what has begun, so that nothing outlives us."""
        for _, computing, reading in running:
            computing.cancel()
            if reading is not None:
                reading.cancel()
        for _, computing, _ in running:
            if not computing.cancelled():
                computing.exception()
