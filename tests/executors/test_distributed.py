"""A Dask cluster keeps the promises of an executor, and more: what it sends, bears and says."""

import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dask
import dask.array
import distributed
import numpy as np
import pytest
import zarr
from numpy.typing import NDArray

from streamgmm import GaussianMixture
from streamgmm import open as open_data
from streamgmm.errors import (
    ClusterError,
    DataError,
    MemoryLimitError,
    OutputError,
    ParameterError,
)
from streamgmm.events import CheckpointWritten, ChunkDone, Event, ReadStarted
from streamgmm.executors.cluster.chunk_groups import group_size
from streamgmm.executors.cluster.executor import DistributedExecutor
from streamgmm.executors.dask import DaskExecutor
from streamgmm.executors.select import open_executor
from streamgmm.executors.threads import ThreadExecutor
from streamgmm.persistence import Record, read_record
from streamgmm.protocols import Chunk, Executor, Job, Region, Work, positions, region_at
from streamgmm.sinks import ArraySink
from streamgmm.sinks.zarr import BoxWriter, StoredArrays
from streamgmm.sources.zarr import ZarrSource
from streamgmm.testing.chunked import ChunkedSource
from streamgmm.testing.executors import (
    ExecutorConformance,
    Text,
    bracketed,
    first_column,
    first_row,
    ignore,
    rows,
    total,
)
from tests.core.cases import draw, random_parameters
from tests.failures.cluster import FAILURES, Outcome, bits, cluster_of, fit
from tests.failures.sources import FatalSource, LoggedSource, PatientSource

# What hangs is an error, which shows where.
_LONGEST_SECONDS = 60


@pytest.fixture(autouse=True)
def ends() -> Iterator[None]:
    def give_up(*_: object) -> None:
        raise TimeoutError(f"not done after {_LONGEST_SECONDS} s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(_LONGEST_SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    with cluster_of(2, memory_limit="2GiB") as client:
        yield client


class TestDistributed(ExecutorConformance):
    @pytest.fixture
    def executor(self, client: Any) -> Iterator[Executor]:
        with DistributedExecutor(client) as executor:
            yield executor


def test_the_executor_follows_the_data(client: Any) -> None:
    table = ChunkedSource(rows(10), 5)
    lazy = dask.array.from_array(rows(10), chunks=(5, 1))

    with open_executor("auto", table) as chosen:
        assert isinstance(chosen, ThreadExecutor)
    with open_executor("auto", open_data(lazy)) as chosen:
        assert isinstance(chosen, DaskExecutor)
    with open_executor("dask", table) as chosen:
        assert isinstance(chosen, DaskExecutor)
        with dask.config.set(scheduler="synchronous"):
            assert chosen.map_reduce(table, Job(total, None), ignore).value == 45.0
    with open_executor(client, table) as chosen:
        assert isinstance(chosen, DistributedExecutor)
        assert chosen.map_reduce(table, Job(total, None), ignore).value == 45.0
    with pytest.raises(ParameterError, match="executor is 'spark'"):
        open_executor("spark", table)


@pytest.mark.parametrize("algorithm", ["auto", "em"])
def test_a_client_is_a_setting_of_the_estimator(client: Any, algorithm: str) -> None:
    X = np.random.default_rng(0).normal(size=(3000, 2)) + np.repeat([[0, 0], [9, 9]], 1500, axis=0)
    lazy = dask.array.from_array(X, chunks=(1000, 2))
    remote = GaussianMixture(2, random_state=0, executor=client, algorithm=algorithm).fit(lazy)
    with dask.config.set(scheduler="synchronous"):
        local = GaussianMixture(2, random_state=0, algorithm=algorithm).fit(lazy)
    np.testing.assert_array_equal(remote.means_, local.means_)
    np.testing.assert_array_equal(remote.covariances_, local.covariances_)
    assert remote.lower_bounds_ == local.lower_bounds_
    in_memory = GaussianMixture(
        2, random_state=0, executor=client, max_iter=2, tol=9e9, algorithm=algorithm
    ).fit(X)
    # A gain takes two iterations, what is predicted to remain one.
    assert in_memory.n_reads_ == {"em": 3, "auto": 2}[algorithm]


# Groups ---------------------------------------------------------------------------------


@pytest.mark.parametrize("n_threads", [0, 1, 2, 64, 1000, 100_000])
@pytest.mark.parametrize("n_chunks", [1, 2, 127, 128, 129, 1000, 100_000, 10**8])
def test_groups_are_complete_subtrees_enough_and_not_too_many(
    n_chunks: int, n_threads: int
) -> None:
    size = group_size(n_chunks, n_threads)
    n_groups = -(-n_chunks // size)
    assert size & (size - 1) == 0
    assert n_groups <= 4096
    assert size == 1 or n_groups >= min(8 * n_threads, 2048)
    assert size == 1 or n_groups >= 32


@pytest.mark.parametrize("n_chunks", [129, 300, 1025])
def test_values_merge_by_the_fixed_tree_in_groups_too(client: Any, n_chunks: int) -> None:
    source = ChunkedSource(rows(n_chunks), 1)
    with DistributedExecutor(client) as executor:
        found = executor.map_reduce(source, Job(first_row, "c"), ignore)
    assert found.value == bracketed([f"c{i}" for i in range(n_chunks)])


def test_chunks_are_told_of_as_groups_end(client: Any) -> None:
    events: list[Any] = []
    with DistributedExecutor(client) as executor:
        executor.map_reduce(ChunkedSource(rows(1000), 2), Job(total, None), events.append)
    assert {event.n_rows for event in events} == {16, 8}
    assert len(events) == 63


# What is sent ---------------------------------------------------------------------------


def table_of(n_rows: int) -> NDArray[np.float64]:
    rng = np.random.default_rng(0)
    return draw(rng, random_parameters(rng, "full", 3, 2, spread=1.0), n_rows)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """100,000 rows in 100 stored chunks, of which three make a chunk of a source."""
    path = tmp_path_factory.mktemp("cluster") / "x.zarr"
    array = zarr.create_array(path, shape=(100_000, 2), chunks=(20_000, 2), dtype="f8")
    array[:] = table_of(100_000)
    return path


def received(client: Any) -> Counter[str]:
    """How often each key was got by a worker from another one."""

    def log(dask_worker: Any) -> list[str]:
        return [
            str(key) for transfer in dask_worker.transfer_incoming_log for key in transfer["keys"]
        ]

    return sum((Counter(keys) for keys in client.run(log).values()), Counter())


class Sized:
    """A state that is as large as it says."""

    def __init__(self, n_bytes: int) -> None:
        self.values = np.ones(n_bytes // 8)


def sized_total(state: Sized, chunk: Chunk) -> Text:
    return Text("" if state.values[0] else "?")


def test_the_state_reaches_each_worker_once_a_read(client: Any) -> None:
    # So large that Dask would warn of it.
    state, source = Sized(12_000_000), ChunkedSource(rows(600), 1)
    with DistributedExecutor(client) as executor:
        for _ in range(2):
            before = received(client)
            executor.map_reduce(source, Job(sized_total, state), ignore)
            found = received(client) - before
            # One worker was given it, and the other one asked for it.
            assert [n for key, n in found.items() if "streamgmm-read-job" in key] == [1]
            assert sum(n for key, n in found.items() if "streamgmm-source" in key) <= 1


def test_chunks_that_the_cluster_holds_are_computed_where_they_are(client: Any) -> None:
    # Each worker holds every other chunk, and takes none of those that wait for the other one.
    workers = list(client.scheduler_info()["workers"])
    lazy = dask.array.from_array(rows(4000, 50), chunks=(100, 50), inline_array=True)
    with dask.annotate(workers=lambda key: workers[key[1] % 2]):
        held = client.persist(lazy, optimize_graph=False)
    with client.as_current():
        distributed.wait(held)
    source = open_data(held)
    before = received(client)
    with without_stealing(client), DistributedExecutor(client) as executor:
        found = executor.map_reduce(source, Job(first_row, "c"), ignore)
        assert found.value == bracketed([f"c{100 * i}" for i in range(40)])
        found = executor.map_reduce(source, Job(first_row, "c"), ignore, chunks=[7, 4])
        assert found.value == "(c700c400)"
    # By chance 20; Dask sends one where it reckons that the other worker is free sooner.
    assert len([key for key in received(client) - before if held.name in key]) < 10


@contextmanager
def without_stealing(client: Any) -> Iterator[None]:
    """While this lasts, no worker that idles is given tasks of another one."""

    async def stop(dask_scheduler: Any) -> None:
        await dask_scheduler.extensions["stealing"].stop()

    async def start(dask_scheduler: Any) -> None:
        await dask_scheduler.extensions["stealing"].start()

    client.run_on_scheduler(stop)
    try:
        yield
    finally:
        client.run_on_scheduler(start)


# Which executor -------------------------------------------------------------------------


def test_an_active_client_reads_what_its_workers_can_read(
    client: Any, stored: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "streamgmm")
    in_memory = table_of(1000)
    lazy = dask.array.from_array(in_memory, chunks=(500, 2))
    with client.as_current():
        for executor, data, kind in [
            ("auto", stored, DistributedExecutor),
            ("auto", lazy, DistributedExecutor),
            ("dask", in_memory, DistributedExecutor),
            ("auto", in_memory, ThreadExecutor),
            ("auto", np.load(saved(stored.parent, in_memory), mmap_mode="r")[5:], ThreadExecutor),
            ("threads", stored, ThreadExecutor),
        ]:
            with open_executor(executor, open_data(data)) as chosen:
                assert type(chosen) is kind, (executor, type(data))
        with (
            dask.config.set(scheduler="synchronous"),
            open_executor("auto", open_data(lazy)) as chosen,
        ):
            assert type(chosen) is DaskExecutor
    with open_executor("auto", open_data(stored)) as chosen:
        assert type(chosen) is ThreadExecutor
    assert f"{stored} is computed on a Dask cluster: <Client" in caplog.messages[0].replace(
        "file://", ""
    )
    assert "X is computed on local threads: workers of <Client" in caplog.messages[3]


def saved(folder: Path, array: NDArray[Any]) -> Path:
    path = folder / "x.npy"
    np.save(path, array)
    return path


def test_a_source_that_cannot_be_sent_is_refused(client: Any) -> None:
    source = ChunkedSource(rows(10), 5)
    source.handle = threading.Lock()  # type: ignore[attr-defined]
    with (
        DistributedExecutor(client) as executor,
        pytest.raises(ParameterError, match=r"chunked data cannot be sent to workers .*threads"),
    ):
        executor.map_reduce(source, Job(total, None), ignore)


def test_a_path_that_workers_have_not_is_refused(client: Any, stored: Path) -> None:
    source = open_data(stored)
    assert isinstance(source, ZarrSource)
    # As if it were on this machine only; Zarr would give zeros.
    source.location = stored.with_name("elsewhere.zarr")
    with (
        DistributedExecutor(client) as executor,
        pytest.raises(DataError, match=r"elsewhere\.zarr is not there on worker tcp://"),
    ):
        executor.map_reduce(source, Job(total, None), ignore)


def test_work_that_cannot_fit_is_told_before_any_read(client: Any, tmp_path: Path) -> None:
    source = LoggedSource(tmp_path, 100, read_bytes=1 << 30)
    with DistributedExecutor(client) as executor:
        executor.map_reduce(source, Job(total, None), ignore)
        source.read_bytes = 2 << 30
        message = r"within 70% of the memory limit of worker tcp://.* = 1.4 GiB: it takes 2\..* GiB"
        with pytest.raises(MemoryLimitError, match=message):
            executor.check_memory(source, Work())
    n_reads = len(source.reads())
    with (
        DistributedExecutor(client) as executor,
        pytest.raises(MemoryLimitError, match="2 GiB are for one chunk"),
    ):
        executor.map_reduce(source, Job(total, None), ignore)
    assert len(source.reads()) == n_reads


# Failures -------------------------------------------------------------------------------


@pytest.mark.parametrize("failure", FAILURES)
def test_failures_change_no_bit_or_are_named(failure: str, client: Any, tmp_path: Path) -> None:
    assert FAILURES[failure](tmp_path, client) == Outcome(has_struck=True, is_borne=True)


def test_a_chunk_that_cannot_be_decoded_is_named(client: Any, tmp_path: Path) -> None:
    path = tmp_path / "x.zarr"
    zarr.create_array(path, shape=(100_000, 2), chunks=(20_000, 2), dtype="f8")[:] = 1.0
    (path / "c" / "3" / "0").write_bytes(b"no chunk")
    with (
        DistributedExecutor(client) as executor,
        pytest.raises(DataError, match=r"x\.zarr: rows 60000 to 100000 cannot be read or decoded"),
    ):
        executor.map_reduce(open_data(path), Job(total, None), ignore)


def test_work_that_kills_workers_is_given_up(tmp_path: Path) -> None:
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 1}),
        cluster_of(2) as client,
        DistributedExecutor(client) as executor,
        pytest.raises(ClusterError, match=r"2 workers died .* the same part of chunked data"),
    ):
        executor.map_reduce(FatalSource(tmp_path, 100), Job(total, None), ignore)


DRIVER = """
import sys
import distributed
from tests.executors.test_distributed import fit_until_killed

with distributed.Client(sys.argv[1]) as client:
    fit_until_killed(client, sys.argv[2])
"""


def fit_until_killed(client: Any, folder: str) -> None:
    """A fit that ends with its process, when a third of its first iteration is kept."""
    purpose = ""

    def watch(event: Event) -> None:
        nonlocal purpose
        if isinstance(event, ReadStarted):
            purpose = event.purpose
        elif isinstance(event, CheckpointWritten) and purpose == "iteration":
            partial = kept_read(Path(folder))
            if partial is not None and partial.header["n_chunks"] > 20:
                os.kill(os.getpid(), signal.SIGKILL)

    source = LoggedSource(Path(folder), 60)
    kept = Path(folder, "checkpoint")
    fit(source, executor=client, callbacks=[watch], checkpoint=kept, checkpoint_interval=1e-9)


def kept_read(folder: Path) -> Record | None:
    """What the checkpoint in a folder has of a read that is not complete."""
    return next(map(read_record, (folder / "checkpoint").glob("read-*")), None)


def test_a_fit_whose_process_is_killed_within_a_read_goes_on_there(
    client: Any, tmp_path: Path
) -> None:
    source = LoggedSource(tmp_path, 60)
    expected = fit(source, n_jobs=2)
    driver = subprocess.run(
        [sys.executable, "-c", DRIVER, client.scheduler.address, str(tmp_path)],
        cwd=Path(__file__).parents[2],
        check=False,
    )
    assert driver.returncode == -signal.SIGKILL
    partial = kept_read(tmp_path)
    assert partial is not None
    n_kept = partial.header["n_chunks"]
    assert 20 < n_kept < 60
    # Workers end what they have begun.
    wait_for_no_tasks(client)
    n_before = len(source.reads())
    model = GaussianMixture(3, random_state=0, tol=1e-5, executor=client)
    found = model.set_params(checkpoint=tmp_path / "checkpoint").fit(source, resume=True)
    assert bits(found) == bits(expected)
    # The first reads are a survey, and the iteration that was interrupted.
    n_whole = len(expected.history_) - 2
    assert len(source.reads()) - n_before == 60 - n_kept + 60 * n_whole
    assert [r["n_rows"] for r in found.history_] == [r["n_rows"] for r in expected.history_]
    assert found.n_reads_ == expected.n_reads_


# What is seen ---------------------------------------------------------------------------


def names_of(client: Any, state: str) -> set[str]:
    """Prefixes of the tasks that the scheduler has in some states."""

    def look(dask_scheduler: Any) -> set[str]:
        tasks = dask_scheduler.tasks.values()
        return {task.prefix.name for task in tasks if task.state in state.split()}

    return client.run_on_scheduler(look)


def wait_for_no_tasks(client: Any, but: Collection[str] = ()) -> None:
    """Wait until the scheduler has no tasks but those of some names."""
    deadline = time.monotonic() + 30
    while names_of(client, "processing waiting queued memory") - set(but):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_an_interrupt_leaves_nothing_on_the_cluster(client: Any, tmp_path: Path) -> None:
    source = PatientSource(tmp_path, 400)

    def interrupt(event: Event) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    with DistributedExecutor(client) as executor:
        with pytest.raises(KeyboardInterrupt):
            executor.map_reduce(source, Job(total, None), interrupt)
        # What runs already continues to the end of its group.
        (tmp_path / "joined").touch()
        wait_for_no_tasks(client, {"streamgmm-source"})
        assert executor.map_reduce(source, Job(total, None), ignore) is not None
    assert len({i for i, _ in source.reads()}) == 400


def test_tasks_have_names_for_people(client: Any) -> None:
    with DistributedExecutor(client) as executor:
        source = ChunkedSource(rows(100), 1)
        executor.map_reduce(source, Job(first_row, "", purpose="iteration", number=3), ignore)
        executor.map_write(source, Job(first_column, None), ArraySink(np.empty(100)), ignore)
    prefixes = client.run_on_scheduler(lambda dask_scheduler: set(dask_scheduler.task_prefixes))
    ours = {f"streamgmm-iteration-{kind}" for kind in ("job", "group", "merge")}
    assert prefixes >= {"streamgmm-source", "streamgmm-first-column-group", *ours}
    keys = client.run_on_scheduler(lambda dask_scheduler: str(dask_scheduler.transition_log))
    assert "streamgmm-iteration-group-3-" in keys


def test_a_performance_report_shows_what_a_fit_did(client: Any, tmp_path: Path) -> None:
    with client.as_current(), distributed.performance_report(tmp_path / "report.html"):
        fit(LoggedSource(tmp_path, 200), executor=client)
    report = (tmp_path / "report.html").read_text()
    for purpose in ("survey", "iteration"):
        assert f"streamgmm-{purpose}-group" in report


# Predictions ----------------------------------------------------------------------------


def test_predictions_are_written_by_the_workers(client: Any, stored: Path, tmp_path: Path) -> None:
    model = fit(stored, n_jobs=2)
    expected = model.predict_proba(stored, out=tmp_path / "expected.zarr")
    model.set_params(executor=client)
    n_before = gathered(client)
    found = model.predict_proba(stored, out=tmp_path / "found.zarr")
    np.testing.assert_array_equal(zarr.open_array(found)[:], zarr.open_array(expected)[:])
    n_bytes = zarr.open_array(found).nbytes
    assert gathered(client) - n_before < n_bytes / 20
    # A .npy file is written here.
    model.predict_proba(stored, out=tmp_path / "found.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "found.npy"), zarr.open_array(expected)[:])
    assert gathered(client) - n_before >= n_bytes


def gathered(client: Any) -> int:
    """Bytes that workers have given away."""
    return sum(client.run(lambda dask_worker: dask_worker.transfer_outgoing_bytes_total).values())


def test_interrupted_predictions_go_on_where_they_were(
    client: Any, stored: Path, tmp_path: Path
) -> None:
    def interrupt(event: Event) -> None:
        if isinstance(event, ChunkDone):
            raise KeyboardInterrupt

    model = fit(stored, n_jobs=2)
    expected = model.predict(table_of(100_000))
    out = tmp_path / "labels.zarr"
    model.set_params(executor=client, callbacks=[interrupt])
    with pytest.raises(KeyboardInterrupt):
        model.predict(stored, out=out)
    n_rows: list[int] = []

    def count(event: Event) -> None:
        n_rows.extend([event.n_rows] if isinstance(event, ReadStarted) else [])

    model.set_params(callbacks=[count]).predict(stored, out=out, resume=True)
    assert 0 < n_rows[0] < 100_000
    np.testing.assert_array_equal(zarr.open_array(out)[:], expected)


@pytest.mark.parametrize(
    "region",
    [
        (slice(3, 7), slice(0, 5), slice(0, 6)),
        (slice(3, 4), slice(1, 4), slice(0, 6)),
        (slice(2, 7), slice(1, 4), slice(5, 6)),
        (slice(0, 1), slice(0, 1), slice(0, 1)),
    ],
)
def test_a_box_follows_from_the_places_of_its_samples(region: Region) -> None:
    shape = (8, 5, 6)
    assert region_at(positions(region, shape), shape) == region


def test_workers_write_only_where_the_output_is(tmp_path: Path) -> None:
    path = tmp_path / "x.zarr"
    array = zarr.create_array(path, shape=(10,), chunks=(5,), dtype="f8")
    writer = BoxWriter(StoredArrays(path, [(array, None)], False), path)
    region = (slice(5, 10),)
    writer.write(region, np.arange(5.0))
    writer.sync([region])
    np.testing.assert_array_equal(array[:], [0, 0, 0, 0, 0, 0, 1, 2, 3, 4])
    # As on a machine that has not the file system.
    shutil.rmtree(tmp_path / "x.zarr")
    with pytest.raises(OutputError, match=r"x\.zarr is not there on .* that all workers share"):
        writer.write(region, np.arange(5.0))
    assert not (tmp_path / "x.zarr").exists()
