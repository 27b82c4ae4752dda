"""Cost of a Dask cluster: overhead over local threads, bytes sent, and gain of a second worker.

``python -m benchmarks.cluster [--chunks 100000] [--gigabytes 4] [--small] [--save]``

The cluster consists of processes of this machine with one thread each; the scheduler is in this
process. Passes are made on local threads and on a cluster, in turns, with one cluster at a time.
The tables show seconds, and seconds of all processors together, which other programs disturb less.
Workers are configured to keep the memory that they free.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import dask
import numpy as np
import psutil
from distributed.protocol import serialize
from distributed.protocol.utils import nbytes

from benchmarks.planted import Problem, planted_mixture
from benchmarks.reporting import Table, report
from benchmarks.scale import ReplayedSource
from streamgmm.algorithms.reads.reader import Reader
from streamgmm.core.parameters import Parameters
from streamgmm.events import Event
from streamgmm.executors.cluster.chunk_groups import group_size
from streamgmm.executors.cluster.executor import DistributedExecutor
from streamgmm.executors.threads import ThreadExecutor
from streamgmm.protocols import Chunk, Executor, Job, Source
from streamgmm.sources.generated import GeneratedSource
from tests.failures.cluster import cluster_of

_WORKERS = 2
_CHUNK_ROWS, _N_FEATURES, _N_COMPONENTS = 1000, 8, 4
_STATE_BYTES = 64 << 20
_ROUNDS, _SMALL_ROUNDS = 3, 1
# Thresholds above which glibc returns freed memory: at the end of the heap, and for single arrays.
_MEMORY = {"MALLOC_TRIM_THRESHOLD_": 1 << 27, "MALLOC_MMAP_THRESHOLD_": 1 << 25}


def ignore(event: Event) -> None:
    pass


@dataclass(frozen=True)
class Cost:
    """Elapsed seconds, and seconds of all processors."""

    clock: float
    processors: float


@contextmanager
def alike_cluster(n_workers: int) -> Iterator[Any]:
    """Yield a client of processes that keep freed memory, as this process does.

    By default Dask's workers return free memory at the end of the heap at once, and glibc then does
    not adapt to blocks that are requested repeatedly. New memory for each chunk takes a tenth of
    the time of a chunk of megabytes, and a fifth of the time of a small chunk.
    """
    environment = {f"distributed.nanny.pre-spawn-environ.{k}": v for k, v in _MEMORY.items()}
    with dask.config.set(environment), cluster_of(n_workers) as client:
        yield client


def processor_seconds() -> float:
    """Return the processor seconds of this process and its running children."""
    own = psutil.Process()
    times = [process.cpu_times() for process in [own, *own.children(recursive=True)]]
    return sum(t.user + t.system for t in times)


def cost_of(work: Callable[[], Any]) -> Cost:
    """Return the cost of some work."""
    processors, clock = processor_seconds(), time.perf_counter()
    work()
    return Cost(time.perf_counter() - clock, processor_seconds() - processors)


def read(source: Source, executor: Executor, parameters: Parameters) -> Any:
    """Return the statistics of all rows."""
    return Reader(source, executor, ignore).statistics("iteration", parameters)


def cost_on_threads(n: int, source: Source, small: Source, parameters: Parameters) -> Cost:
    """Return the cost of a pass on threads, after a small pass that loads the kernels."""
    with ThreadExecutor(n) as executor:
        read(small, executor, parameters)
        return cost_of(lambda: read(source, executor, parameters))


def cost_on_workers(
    n: int, source: Source, small: Source, parameters: Parameters, of_a_core: bool = False
) -> Cost:
    """Return the cost of a pass on a new cluster.

    The event loops of idle workers take some percent of a core, so there is no other cluster. With
    ``of_a_core`` each worker runs on one core only, as the workers of a large cluster do.
    """
    with alike_cluster(n) as client, DistributedExecutor(client) as executor:
        if of_a_core:
            workers = client.scheduler_info()["workers"]
            for address, core in zip(workers, sorted(os.sched_getaffinity(0)), strict=False):
                client.run(_keep_to, core, workers=[address])
        read(small, executor, parameters)
        return cost_of(lambda: read(source, executor, parameters))


def _keep_to(core: int) -> None:
    for thread in psutil.Process().threads():
        os.sched_setaffinity(thread.id, [core])


# Overhead -------------------------------------------------------------------------------


def generated(n_chunks: int) -> GeneratedSource:
    mixture = planted_mixture(_N_FEATURES, _N_COMPONENTS)
    return GeneratedSource(mixture, n_chunks * _CHUNK_ROWS, chunk_rows=_CHUNK_ROWS)


def overhead(n_chunks: int, rounds: int) -> list[str]:
    """Return a row of the table: a pass on threads and one on a cluster, in turns."""
    source, small = generated(n_chunks), generated(_WORKERS)
    pairs = [
        (
            cost_on_threads(_WORKERS, source, small, source.parameters),
            cost_on_workers(_WORKERS, source, small, source.parameters),
        )
        for _ in range(rounds)
    ]
    local, remote = zip(*pairs, strict=True)
    n_groups = -(-n_chunks // group_size(n_chunks, _WORKERS))
    return [
        f"{n_chunks:,}",
        f"{n_groups:,}",
        *(f"{statistics.median(cost.clock for cost in kind):.2f}" for kind in (local, remote)),
        _ratio([(a.clock, b.clock) for a, b in pairs]),
        _ratio([(a.processors, b.processors) for a, b in pairs]),
    ]


def _ratio(pairs: Sequence[tuple[float, float]]) -> str:
    """Return the median and the range of second over first."""
    ratios = sorted(second / first for first, second in pairs)
    return f"{statistics.median(ratios):.2f} ({ratios[0]:.2f}–{ratios[-1]:.2f})"


# Single costs ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Nothing:
    """A value without content."""

    def merge(self, other: Self) -> Self:
        return self


def look(state: Any, chunk: Chunk) -> Nothing:
    """Do nothing with a chunk."""
    return Nothing()


@dataclass(frozen=True)
class Parts:
    """Costs of the parts of a pass in which nothing is computed, in elapsed seconds.

    Attributes
    ----------
    read : float
        A pass over one chunk.
    group, chunk : float
        One more group, its share of merges included; one more chunk in a group.
    sent : float
        Sending a state of the size that the table names.
    """

    read: float
    group: float
    chunk: float
    sent: float
    sent_bytes: int = _STATE_BYTES

    @property
    def rows(self) -> list[list[str]]:
        """Return the rows of the table."""
        return [
            ["a read of one chunk", f"{1e3 * self.read:.1f} ms"],
            ["a group, its share of merges included", f"{1e3 * self.group:.2f} ms"],
            ["a chunk in a group", f"{1e6 * self.chunk:.1f} µs"],
            [f"a state of {self.sent_bytes >> 20} MiB", f"{1e3 * self.sent:.0f} ms"],
        ]


def measure_parts(client: Any, n_chunks: int, rounds: int) -> Parts:
    """Measure passes in which nothing is computed, over ``n_chunks`` chunks and fewer."""
    small = Problem("full", n_chunks, 1, 1)
    few, many = _tiny(small, 128), _tiny(small, n_chunks)
    state = np.zeros(_STATE_BYTES // 8)

    def seconds(source: Source, state: Any) -> float:
        with DistributedExecutor(client) as executor:
            executor.map_reduce(source, Job(look, state), ignore)
            return statistics.median(
                cost_of(lambda: executor.map_reduce(source, Job(look, state), ignore)).clock
                for _ in range(rounds + 1)
            )

    one, groups, chunks = (seconds(s, None) for s in (_tiny(small, 1), few, many))
    sent = seconds(_tiny(small, 1), state) - one
    n_groups = -(-n_chunks // group_size(n_chunks, _WORKERS))
    per_group = (groups - one) / 127
    per_chunk = max(chunks - one - n_groups * per_group, 0.0) / n_chunks
    return Parts(one, per_group, per_chunk, max(sent, 0.0))


def _tiny(problem: Problem, n_chunks: int) -> ReplayedSource:
    """Return a source with chunks of one row."""
    source = ReplayedSource(problem)
    source.n_rows, source.boundaries = n_chunks, range(n_chunks + 1)
    return source


# Bytes ----------------------------------------------------------------------------------


def sent_bytes(client: Any, n_components: int, n_features: int) -> list[str]:
    """Return a row of the table: bytes that cross the network in a pass."""
    problem = Problem("full", 200_000, n_features, n_components)
    source = ReplayedSource(problem)

    def sent(dask_worker: Any) -> list[tuple[bool, str, int]]:
        """Return transfers: whether to a worker, their kind, and their bytes."""
        return [
            (transfer["who"] is not None, str(key), size)
            for transfer in dask_worker.transfer_outgoing_log
            for key, size in transfer["keys"].items()
        ]

    with DistributedExecutor(client) as executor:
        read(source, executor, problem.start)
        before = client.run(sent)
        found = read(source, executor, problem.start)
        after = client.run(sent)
    transfers = [one for worker, log in after.items() for one in log[len(before[worker]) :]]
    n_jobs = sum(to_worker and "-job-" in key for to_worker, key, _ in transfers)
    between, collected = (
        sum(size for to_worker, _, size in transfers if to_worker is wanted)
        for wanted in (True, False)
    )
    one = sum(map(nbytes, serialize(found)[1]))
    return [
        f"{n_features}, K = {n_components}",
        f"{one / 1e6:.3f}",
        str(n_jobs + 1),
        f"{between / 1e6:.3f}",
        f"{collected / 1e6:.3f}",
    ]


# Efficiency -----------------------------------------------------------------------------


def efficiency(gigabytes: float, rounds: int) -> list[list[str]]:
    """Return rows of the table: a pass by one and two workers, and by as many threads."""
    base = Problem("full", 200_000, 32, 32)
    n_rows = int(gigabytes * 1e9 / 8 / base.n_features)
    source = ReplayedSource(Problem("full", n_rows, base.n_features, base.n_components))
    kinds = {
        "threads": cost_on_threads,
        "workers": cost_on_workers,
        "workers of a core each": partial(cost_on_workers, of_a_core=True),
    }
    rows = []
    for kind, cost in kinds.items():
        rounds_of = [
            tuple(cost(n, source, ReplayedSource(base), base.start).clock for n in (1, 2))
            for _ in range(rounds)
        ]
        one, two = zip(*rounds_of, strict=True)
        rows.append(
            [
                kind,
                f"{statistics.median(one):.2f}",
                f"{statistics.median(two):.2f}",
                _ratio(list(zip(two, one, strict=True))),
            ]
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chunks", type=int, default=100_000)
    parser.add_argument("--gigabytes", type=float, default=4.0)
    parser.add_argument("--small", action="store_true", help="few chunks, one round")
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    # Processor time has a resolution of 0.01 s, and fewer chunks may take less.
    chunks, gigabytes = (10_000, 0.1) if options.small else (options.chunks, options.gigabytes)
    rounds = _SMALL_ROUNDS if options.small else _ROUNDS
    overheads = [overhead(n, rounds) for n in (chunks // 100, chunks // 10, chunks)]
    with alike_cluster(_WORKERS) as client:
        parts = measure_parts(client, chunks, rounds)
        sizes = [sent_bytes(client, k, d) for k, d in ((8, 8), (32, 32), (32, 128))]
    tables = [
        Table(
            [
                "chunks",
                "groups",
                "threads, s",
                "cluster, s",
                "cluster / threads",
                "processor time, cluster / threads",
            ],
            overheads,
            f"A pass over chunks of {_CHUNK_ROWS} generated rows of {_N_FEATURES} features, "
            f"K = {_N_COMPONENTS}: {_WORKERS} threads, and {_WORKERS} workers of one thread.",
        ),
        Table(["part", "takes"], parts.rows, "Costs of a pass in which nothing is computed."),
        Table(
            [
                "features",
                "one statistic, MB",
                "workers given the state",
                "between workers, MB",
                "collected, MB",
            ],
            sizes,
            "Bytes that cross the network in a pass over 200,000 rows, full covariances, "
            f"{_WORKERS} workers. Workers send each other the state, and statistics of groups to "
            "merge; the process that fits collects the result.",
        ),
        Table(
            ["kind", "one, s", "two, s", "times as fast"],
            efficiency(gigabytes, rounds),
            f"A pass over {gigabytes:g} GB, full, 32 features, K = 32. A worker of a core runs "
            "on this core only; the scheduler shares the cores with the workers.",
        ),
    ]
    command = f"python -m benchmarks.cluster --chunks {chunks} --gigabytes {gigabytes:g}"
    report("cluster", command, tables, options.save and not options.small)


if __name__ == "__main__":
    main()
