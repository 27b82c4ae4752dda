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
from streamgmm.executors.memory import Budget, process_bytes, resolve_limit
from streamgmm.executors.merging import MergeTree, tree_depth
from streamgmm.protocols import NO_WORK, Chunk, ChunkDone, Listener, M, S, Sink, Source, Work


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


def _depth(source: Source) -> int:
    return tree_depth(len(source.boundaries) - 1)


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
        self._budget = Budget(resolve_limit(memory_limit), process_bytes(), self.n_threads)
        self._has_read = False
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
        work: Work = NO_WORK,
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
            work,
        )
        return tree.result

    def map_write(
        self,
        source: Source,
        function: Callable[[S, Chunk], NDArray[Any]],
        state: S,
        sink: Sink,
        listener: Listener,
        work: Work = NO_WORK,
        piece_rows: int | None = None,
    ) -> None:
        """Write function(state, chunk) for all chunks; see :class:`streamgmm.protocols.Executor`.

        Raises
        ------
        MemoryLimitError
            If the memory limit does not hold even one chunk.
        """

        def write(i: int, chunk: Chunk) -> None:
            start, n = source.boundaries[i], len(chunk.rows)
            for first in range(0, n, piece_rows or max(n, 1)):
                piece = chunk.part(first, min(first + (piece_rows or n), n))
                rows = range(start + first, start + first + len(piece.rows))
                sink.write(rows, function(state, piece))

        self._for_each(source, write, listener, work)

    def check_memory(self, source: Source, work: Work) -> None:
        """Refuse a read for which the memory limit does not hold even one chunk.

        Raises
        ------
        MemoryLimitError
            With the sizes.
        """
        self._budget.require_a_chunk(source, work, _depth(source))

    def _for_each(
        self,
        source: Source,
        consume: Callable[[int, Chunk], None],
        listener: Listener,
        work: Work,
    ) -> None:
        """Call consume(i, chunk) for every chunk, with a bounded number of chunks in memory."""
        sizes = np.diff(source.boundaries)
        row_bytes = source.n_features * source.dtype.itemsize
        # What has been read is not thrown away for a tight estimate of a later read.
        if not self._has_read:
            self.check_memory(source, work)
        most = 3 * self.n_threads
        window = max(self._budget.chunks_in_flight(source, work, _depth(source), most), 1)
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
        self._has_read = True

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
