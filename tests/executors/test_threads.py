"""Local threads: the promises of an executor, reading ahead, and the memory limit."""

import gc
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from streamgmm.errors import MemoryLimitError, ParameterError
from streamgmm.executors.memory import process_bytes
from streamgmm.executors.threads import ThreadExecutor
from streamgmm.protocols import Chunk, Executor, Job, Work
from streamgmm.sinks import ArraySink
from streamgmm.testing.chunked import ChunkedSource
from streamgmm.testing.executors import (
    ExecutorConformance,
    Total,
    doubled,
    fail_at_row_50,
    ignore,
    rows,
    total,
)
from tests.executors.processes import own_threads


class TestThreads(ExecutorConformance):
    @pytest.fixture(params=[1, 2, 8])
    def executor(self, request: pytest.FixtureRequest) -> Iterator[Executor]:
        with ThreadExecutor(request.param) as executor:
            yield executor
        assert own_threads() == []


class TestThreadsWithChunksInMemory(ExecutorConformance):
    """Sources that cost nothing to read are read by the threads that compute."""

    @pytest.fixture(params=[1, 2])
    def executor(
        self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
    ) -> Iterator[Executor]:
        monkeypatch.setattr(ChunkedSource.__init__, "__kwdefaults__", self.free_to_read())
        with ThreadExecutor(request.param) as executor:
            yield executor

    @staticmethod
    def free_to_read() -> dict[str, Any]:
        return {"boundaries": None, "weights": None, "read_bytes": 0}


@pytest.mark.parametrize("n_jobs", [1, 2, 3])
def test_few_chunks_are_in_memory_at_once(n_jobs: int) -> None:
    source = ChunkedSource(rows(500), 2)
    with ThreadExecutor(n_jobs) as executor:
        executor.map_reduce(source, Job(total, None), ignore)
        gc.collect()
        assert source.n_reads == 250
        assert source.n_live == 0
        assert 1 <= source.most_live <= n_jobs + 1
        executor.map_write(source, Job(doubled, 1.0), ArraySink(np.empty((500, 1))), ignore)
    assert source.most_live <= n_jobs + 1


class PrefetchedSource(ChunkedSource):
    """Notes which chunks were to be fetched."""

    def __init__(self, n_rows: int, chunk_rows: int) -> None:
        super().__init__(rows(n_rows), chunk_rows)
        self.fetched: list[int] = []

    def prefetch(self, i: int) -> None:
        self.fetched.append(i)


@pytest.mark.parametrize("n_jobs", [1, 3])
def test_chunks_are_fetched_while_others_are_computed(n_jobs: int) -> None:
    source = PrefetchedSource(100, 5)
    with ThreadExecutor(n_jobs) as executor:
        executor.map_reduce(source, Job(total, None), ignore)
    # The first ones are read at once; one thread more reads than computes.
    assert sorted(source.fetched) == list(range(n_jobs + 1, 20))


@pytest.mark.parametrize("fitting", [1, 2, 4])
def test_the_memory_limit_bounds_chunks(fitting: int) -> None:
    chunk_bytes = 1 << 30
    source = ChunkedSource(rows(200), 2, read_bytes=chunk_bytes)
    # Half a chunk to spare, for what the process itself takes meanwhile.
    limit = process_bytes() + int((fitting + 0.5) * chunk_bytes)
    with ThreadExecutor(4, limit) as executor:
        assert executor.map_reduce(source, Job(total, None), ignore).value == 19900.0
    assert source.n_reads == 100
    assert source.most_live <= fitting


def test_what_cannot_fit_is_told_before_any_read() -> None:
    source = ChunkedSource(rows(200), 2, read_bytes=2 << 30)
    limit = process_bytes() + (1 << 30)
    with ThreadExecutor(2, limit) as executor:
        with pytest.raises(
            MemoryLimitError,
            match=r"chunked data cannot be read within memory_limit = .*2 GiB are for one chunk",
        ):
            executor.map_reduce(source, Job(total, None), ignore)
        with pytest.raises(MemoryLimitError, match="one chunk"):
            executor.map_write(source, Job(doubled, 1.0), ArraySink(np.empty((200, 1))), ignore)
    assert source.n_reads == 0


@pytest.mark.parametrize("read_bytes", [0, 1000])
def test_work_that_cannot_fit_is_told_before_any_read(read_bytes: int) -> None:
    source = ChunkedSource(rows(200), 2, read_bytes=read_bytes)
    with ThreadExecutor(2, process_bytes() + (1 << 30)) as executor:
        with pytest.raises(MemoryLimitError, match=r"for what is computed on 2 thread\(s\)"):
            executor.map_reduce(source, Job(total, None, Work(1 << 29, 1 << 29)), ignore)
        assert source.n_reads == 0
        executor.map_reduce(source, Job(total, None, Work(1 << 20, 1 << 20)), ignore)


class LockStep:
    """Events by which a test decides who goes first."""

    def __init__(self) -> None:
        self.computing = threading.Event()
        self.read_meanwhile = threading.Event()


class SlowToReadSource(ChunkedSource):
    """Chunk 1 says when it begins to be read, and its read ends only when chunk 0 computes."""

    step: LockStep

    def read(self, i: int) -> Chunk:
        if i == 1:
            assert self.step.computing.wait(30)
            self.step.read_meanwhile.set()
        return super().read(i)


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_chunks_are_read_while_others_are_computed(n_jobs: int) -> None:
    source = SlowToReadSource(rows(40), 10)
    source.step = LockStep()

    def compute(_: None, chunk: Chunk) -> Total:
        if chunk.index[0] == 0:
            # Ends only if the next chunk is read in the meantime.
            source.step.computing.set()
            assert source.step.read_meanwhile.wait(30)
        return total(None, chunk)

    with ThreadExecutor(n_jobs) as executor:
        assert executor.map_reduce(source, Job(compute, None), ignore).value == 780.0


class TogetherSource(ChunkedSource):
    """The first reads end only when as many as asked for have begun."""

    barrier: threading.Barrier

    def read(self, i: int) -> Chunk:
        if i < self.barrier.parties:
            self.barrier.wait(30)
        return super().read(i)


@pytest.mark.parametrize("n_jobs", [2, 4])
def test_several_chunks_are_read_at_once(n_jobs: int) -> None:
    source = TogetherSource(rows(100), 10)
    source.barrier = threading.Barrier(n_jobs)
    with ThreadExecutor(n_jobs) as executor:
        assert executor.map_reduce(source, Job(total, None), ignore).value == 4950.0


@pytest.mark.parametrize("n_jobs", [2, 4])
def test_several_chunks_are_computed_at_once(n_jobs: int) -> None:
    barrier = threading.Barrier(n_jobs)

    def compute(_: None, chunk: Chunk) -> Total:
        if chunk.index[0] < 10 * n_jobs:
            barrier.wait(30)
        return total(None, chunk)

    with ThreadExecutor(n_jobs) as executor:
        source = ChunkedSource(rows(100), 10)
        assert executor.map_reduce(source, Job(compute, None), ignore).value == 4950.0


@pytest.mark.parametrize("n_jobs", [1, 2, 3])
def test_no_more_than_asked_for_are_computed_at_once(n_jobs: int) -> None:
    source = ChunkedSource(rows(200), 2)
    lock = threading.Lock()
    counts = {"now": 0, "most": 0}

    def compute(_: None, chunk: Chunk) -> Total:
        with lock:
            counts["now"] += 1
            counts["most"] = max(counts.values())
        value = total(None, chunk)
        with lock:
            counts["now"] -= 1
        return value

    with ThreadExecutor(n_jobs) as executor:
        assert executor.map_reduce(source, Job(compute, None), ignore).value == 19900.0
    assert counts["most"] <= n_jobs


@pytest.mark.parametrize("n_jobs", [2, 3])
def test_of_several_failures_the_first_in_the_data_is_raised(n_jobs: int) -> None:
    later = threading.Event()

    def compute(_: None, chunk: Chunk) -> Total:
        first = chunk.index[0]
        if first == 50:
            assert later.wait(30)
            raise LookupError("row 50")
        if first == 60:
            later.set()
            raise LookupError("row 60")
        return total(None, chunk)

    with (
        ThreadExecutor(n_jobs) as executor,
        pytest.raises(LookupError, match="row 50"),
    ):
        executor.map_reduce(ChunkedSource(rows(1000), 10), Job(compute, None), ignore)


def test_a_failure_waits_for_what_has_begun() -> None:
    source = ChunkedSource(rows(1000), 10)
    running = threading.Semaphore(0)
    counts = {"begun": 0, "ended": 0}
    lock = threading.Lock()

    def compute(_: None, chunk: Chunk) -> Any:
        with lock:
            counts["begun"] += 1
        try:
            if chunk.index[0] > 50:
                running.acquire(timeout=0.2)
            return fail_at_row_50(None, chunk)
        finally:
            with lock:
                counts["ended"] += 1

    with ThreadExecutor(4) as executor:
        with pytest.raises(LookupError, match="row 50"):
            executor.map_reduce(source, Job(compute, None), ignore)
        assert counts["begun"] == counts["ended"] < 100
        assert source.n_reads < 100
    assert own_threads() == []


@pytest.mark.parametrize(("n_jobs", "message"), [(0, "n_jobs is 0")])
def test_thread_counts_are_checked(n_jobs: int, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        ThreadExecutor(n_jobs)


def test_negative_counts_are_joblibs() -> None:
    with ThreadExecutor(None) as every, ThreadExecutor(-1) as also, ThreadExecutor(-2) as less:
        assert every.n_threads == also.n_threads >= 1
        assert less.n_threads == max(1, every.n_threads - 1)


def test_an_executor_for_rows_in_memory_has_threads_of_its_own() -> None:
    source, job = ChunkedSource(rows(50), 2), Job(total, None)
    with ThreadExecutor(2, "64GB") as executor, executor.for_rows_in_memory() as local:
        assert local.n_threads == executor.n_threads
        assert local.memory_limit == executor.memory_limit
        found = [one.map_reduce(source, job, ignore).value for one in (executor, local)]
        assert found == [1225.0, 1225.0]
    assert own_threads() == []
