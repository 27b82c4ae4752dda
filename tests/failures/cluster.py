"""Clusters of processes of this machine, and what goes wrong with them in the middle of a fit."""

import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask
import distributed

from streamgmm import GaussianMixture
from streamgmm.errors import ClusterError
from streamgmm.events import ChunkDone, Event, ReadStarted
from tests.failures.sources import DeadlySource, LoggedSource, PatientSource, UnsteadySource

_ROOT = Path(__file__).parents[2]


@contextmanager
def cluster_of(n_workers: int, **settings: Any) -> Iterator[Any]:
    """A client of a cluster of processes of one thread each, whose dashboard has any port."""
    with warnings.catch_warnings():
        # How distributed starts and ends its processes is its own affair.
        warnings.simplefilter("ignore")
        with (
            distributed.LocalCluster(
                n_workers=n_workers,
                threads_per_worker=1,
                processes=True,
                dashboard_address=":0",
                silence_logs=50,
                **settings,
            ) as cluster,
            distributed.Client(cluster, set_as_default=False) as client,
        ):
            yield client


@contextmanager
def processes_of_a_cluster(folder: Path) -> Iterator[tuple[Any, dict[str, Any]]]:
    """A client, and the processes of a scheduler and of a worker that nobody restarts."""
    address = folder / "scheduler.json"
    command = [sys.executable, "-m", "distributed.cli.dask_{}", "--scheduler-file", str(address)]
    options = {"scheduler": ["--port", "0"], "worker": ["--nthreads", "1", "--no-nanny"]}
    started: dict[str, Any] = {}
    try:
        for kind, own in options.items():
            started[kind] = subprocess.Popen(
                [*(part.format(kind) for part in command), "--no-dashboard", *own],
                cwd=_ROOT,
                stderr=subprocess.DEVNULL,
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            while not address.exists():
                time.sleep(0.05)
            with distributed.Client(
                scheduler_file=str(address), set_as_default=False, timeout=5
            ) as client:
                client.wait_for_workers(1)
                yield client, started
    finally:
        for process in started.values():
            process.kill()
            process.wait()


def fit(data: Any, resume: bool = False, **settings: Any) -> GaussianMixture:
    """A fit of a survey and a few iterations."""
    return GaussianMixture(3, random_state=0, tol=1e-5, **settings).fit(data, resume=resume)


def bits(model: GaussianMixture) -> tuple[Any, ...]:
    """All that a fit finds; equal if it is the same to the last bit."""
    arrays = (model.weights_, model.means_, model.covariances_)
    n_rows = [read["n_rows"] for read in model.history_]
    return *(array.tobytes() for array in arrays), *model.lower_bounds_, *n_rows


@dataclass(frozen=True)
class Outcome:
    """What a failure has come to.

    Attributes
    ----------
    has_struck : bool
        Whether it happened as it was meant to.
    is_borne : bool
        Whether the fit came to the bits of one without it, all rows being told of once; or ended
        with the error that names it, and continued to these bits from its checkpoint.
    """

    has_struck: bool
    is_borne: bool


class _Watch:
    """A listener that does something once, when a read of some purpose has come to some part."""

    def __init__(self, purpose: str, part: float, strike: Callable[[], object]) -> None:
        self._purpose, self._part, self._strike = purpose, part, strike
        self.has_struck = False
        self._read = ReadStarted(0, "", 0, 0, 0)
        self._n_rows = 0
        self.told_once = True

    def __call__(self, event: Event) -> None:
        if isinstance(event, ReadStarted):
            self._end_read()
            self._read, self._n_rows = event, 0
        elif isinstance(event, ChunkDone):
            self._n_rows += event.n_rows
        else:
            return
        is_due = self._read.purpose == self._purpose
        if is_due and not self.has_struck and self._n_rows >= self._part * self._read.n_rows:
            self.has_struck = True
            self._strike()

    def _end_read(self) -> None:
        self.told_once &= self._n_rows == self._read.n_rows


def _borne(source: LoggedSource, expected: Any, watch: _Watch, client: Any) -> bool:
    found = fit(source, executor=client, callbacks=[watch])
    watch(ReadStarted(0, "", 0, 0, 0))
    return bits(found) == bits(expected) and watch.told_once


def _worker_killed_in(purpose: str, folder: Path, client: Any) -> Outcome:
    source = DeadlySource(folder, 200)
    expected = fit(source, n_jobs=2)
    watch = _Watch(purpose, 0.0, (folder / "kill").touch)
    is_borne = _borne(source, expected, watch, client)
    return Outcome(watch.has_struck and not (folder / "kill").exists(), is_borne)


def _survey(folder: Path, client: Any) -> Outcome:
    return _worker_killed_in("survey", folder, client)


def _task(folder: Path, client: Any) -> Outcome:
    return _worker_killed_in("iteration", folder, client)


def _uncollected(folder: Path, client: Any) -> Outcome:
    source = LoggedSource(folder, 500)
    expected = fit(source, n_jobs=2)
    n_before = len(source.reads())
    victim = next(iter(client.run(os.getpid).values()))
    watch = _Watch("iteration", 0.7, lambda: os.kill(victim, signal.SIGKILL))
    is_borne = _borne(source, expected, watch, client)
    # What it had computed had to be computed again.
    n_again = len(source.reads()) - 2 * n_before
    return Outcome(watch.has_struck and n_again > 0, is_borne)


class _LateAndUnsteady(PatientSource, UnsteadySource):
    """Waits for a worker, and fails now and then."""


def _late(folder: Path, _: Any) -> Outcome:
    source = _LateAndUnsteady(folder, 200)
    (folder / "joined").touch()
    expected = fit(source, n_jobs=2)
    (folder / "joined").unlink()
    (folder / "reads").write_text("")
    failing = [folder / str(i) for i in range(7, 200, 50)]
    for path in failing:
        path.touch()
    with cluster_of(1) as client:

        def join() -> None:
            client.cluster.scale(2)
            client.wait_for_workers(2)
            (folder / "joined").touch()

        is_borne = _borne(source, expected, _Watch("survey", 0.01, join), client)
        workers = set(client.run(os.getpid).values())
    readers = {process for _, process in source.reads()}
    has_joined = len(workers) == 2 and readers == workers
    return Outcome(has_joined and not any(path.exists() for path in failing), is_borne)


def _lost(victim: str, folder: Path) -> Outcome:
    """A worker, the only one, or the scheduler is killed; nobody starts another one."""
    source = LoggedSource(folder, 200)
    expected = fit(source, n_jobs=2)
    checkpoint = folder / "checkpoint"
    message = {"worker": "has had no worker for 2 s", "scheduler": "the connection"}[victim]
    n_named = 0
    with (
        processes_of_a_cluster(folder) as (client, processes),
        dask.config.set({"distributed.scheduler.no-workers-timeout": "2s"}),
    ):
        watch = _Watch("iteration", 0.01, processes[victim].kill)
        # It does not come back.
        for resume in (False, True):
            try:
                fit(source, resume, executor=client, callbacks=[watch], checkpoint=checkpoint)
            except ClusterError as error:
                n_named += message in str(error)
    n_before = len(source.reads())
    found = fit(source, resume=True, n_jobs=2, checkpoint=checkpoint)
    # The survey was not made again.
    n_reads = (len(source.reads()) - n_before) / 200
    goes_on = bits(found) == bits(expected) and n_reads == len(found.history_) - 1
    return Outcome(watch.has_struck, n_named == 2 and goes_on)


def _no_workers(folder: Path, _: Any) -> Outcome:
    return _lost("worker", folder)


def _no_scheduler(folder: Path, _: Any) -> Outcome:
    return _lost("scheduler", folder)


#: By what is said of them: each takes an empty folder, and a client of a cluster of two workers
#: that are started again when they die.
FAILURES: dict[str, Callable[[Path, Any], Outcome]] = {
    "a worker is killed in a task": _task,
    "a worker is killed before its statistics are collected": _uncollected,
    "a worker is killed in the survey": _survey,
    "a worker joins late, and reads fail now and then": _late,
    "all workers are lost": _no_workers,
    "the scheduler is lost": _no_scheduler,
}
