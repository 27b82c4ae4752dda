"""Predicted cost of fits to terabytes, from the cost of parts on this machine.

``python -m benchmarks.sizing [--terabytes 1 10 100] [--components 32] [--features 32]
[--cores 64] [--reads 4] [--small] [--save]``

The cost has four parts. The E-steps of all rows are shared by the cores. The wait for the last
group is at most the E-steps of one group. The scheduler takes time for each group, as if no other
work ran in parallel. The start of a pass sends the state from worker to worker, and doubles the
number of reached workers each time. A fit is ``--reads`` such passes: a survey, and iterations,
whose number ``benchmarks.reads`` measures. Storage is assumed to be as fast as the cores; the table
shows the speed that this needs.

The seconds of a row are measured on one thread, with components that overlap, so that none is
skipped. The other parts are measured on a cluster of two workers of this machine. The last table
compares the prediction for a pass on this cluster with its measured time.
"""

import argparse
import math
import statistics
from dataclasses import dataclass

from benchmarks.cluster import Parts, alike_cluster, cost_of, measure_parts, read
from benchmarks.planted import Problem
from benchmarks.reporting import Table, report
from benchmarks.scale import ReplayedSource
from streamgmm.algorithms.reads.reader import statistics_work
from streamgmm.executors.cluster.chunk_groups import group_size
from streamgmm.executors.cluster.executor import DistributedExecutor
from streamgmm.executors.threads import ThreadExecutor
from streamgmm.sources.layout import rows_per_chunk

_WORKERS = 2
_OVERLAPPING = 0.1
_CHUNKS, _SMALL_CHUNKS = 10_000, 500
_ROWS, _SMALL_ROWS = 4_000_000, 200_000
_ROUNDS, _SMALL_ROUNDS = 3, 1
# Memory of a worker's interpreter and imports.
_WORKER_BYTES = 400e6


@dataclass(frozen=True)
class Size:
    """A pass over rows on cores.

    Attributes
    ----------
    row_seconds : float
        Duration of the E-step of a row, on one core.
    parts : Parts
        Costs of a pass in addition to the E-steps.
    """

    n_rows: int
    n_features: int
    n_components: int
    n_cores: int
    row_seconds: float
    parts: Parts

    @property
    def n_bytes(self) -> int:
        return 8 * self.n_rows * self.n_features

    @property
    def n_chunks(self) -> int:
        return -(-self.n_rows // rows_per_chunk(self.n_features))

    @property
    def group_chunks(self) -> int:
        return group_size(self.n_chunks, self.n_cores)

    @property
    def n_groups(self) -> int:
        return -(-self.n_chunks // self.group_chunks)

    @property
    def work_bytes(self) -> tuple[int, int]:
        """Bytes of a thread, and of one statistic."""
        few = Problem("full", 1000, self.n_features, self.n_components)
        work = statistics_work(ReplayedSource(few), "full", self.n_components)
        return work.thread, work.value

    @property
    def compute_seconds(self) -> float:
        return self.n_rows * self.row_seconds / self.n_cores

    @property
    def seconds(self) -> float:
        """Predicted seconds of a pass."""
        group_rows = min(self.group_chunks * rows_per_chunk(self.n_features), self.n_rows)
        sent = self.parts.sent * self.work_bytes[1] / self.parts.sent_bytes
        return (
            self.compute_seconds
            + group_rows * self.row_seconds
            + self.n_groups * self.parts.group
            + self.n_chunks * self.parts.chunk / self.n_cores
            + self.parts.read
            + sent * math.log2(self.n_cores)
        )

    def row(self, reads: int) -> list[str]:
        """Return the row of the table."""
        thread, value = self.work_bytes
        chunk = 8 * rows_per_chunk(self.n_features) * self.n_features
        # Each statistic of a group is sent at most once, and the state is sent once to each worker.
        between = reads * (self.n_groups + self.n_cores) * value
        memory = _WORKER_BYTES + thread + 2 * chunk + 8 * value
        hours = reads * self.seconds / 3600
        return [
            f"{self.n_bytes / 1e12:g} TB",
            f"{self.n_rows:.2g}",
            f"{self.n_groups:,}",
            f"{self.seconds / 60:.1f}",
            f"{self.compute_seconds / self.seconds:.0%}",
            f"{hours:.1f}",
            f"{hours * self.n_cores:,.0f}",
            f"{self.n_bytes / self.seconds / 1e9:.1f}",
            f"{reads * self.n_bytes / 1e12:g}",
            f"{between / 1e9:.1f}",
            f"{memory / 1e9:.1f}",
        ]


def row_seconds(problem: Problem, rounds: int) -> float:
    """Return the seconds of the E-step of a row on one thread."""
    source = ReplayedSource(problem)
    with ThreadExecutor(1) as executor:
        read(source, executor, problem.start)
        costs = [cost_of(lambda: read(source, executor, problem.start)) for _ in range(rounds)]
    return statistics.median(cost.processors for cost in costs) / problem.n_rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--terabytes", type=float, nargs="+", default=[1.0, 10.0, 100.0])
    parser.add_argument("--components", type=int, default=32)
    parser.add_argument("--features", type=int, default=32)
    parser.add_argument("--cores", type=int, default=64)
    parser.add_argument("--reads", type=int, default=4)
    parser.add_argument("--small", action="store_true", help="few rows, one round")
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    is_small = options.small
    rounds = _SMALL_ROUNDS if is_small else _ROUNDS
    n_rows = _SMALL_ROWS if is_small else _ROWS
    shape = options.features, options.components
    problem = Problem("full", n_rows, *shape, spread=_OVERLAPPING)
    with alike_cluster(_WORKERS) as client:
        parts = measure_parts(client, _SMALL_CHUNKS if is_small else _CHUNKS, rounds)
        with DistributedExecutor(client) as executor:
            source = ReplayedSource(problem)
            read(source, executor, problem.start)
            seconds_of_a_row = row_seconds(problem, rounds)
            measured = statistics.median(
                cost_of(lambda: read(source, executor, problem.start)).clock for _ in range(rounds)
            )
    predicted = Size(n_rows, *shape, _WORKERS, seconds_of_a_row, parts)
    sizes = [
        Size(int(1e12 * n / 8 / options.features), *shape, options.cores, seconds_of_a_row, parts)
        for n in options.terabytes
    ]
    tables = [
        Table(
            [
                "data",
                "rows",
                "groups",
                "a read, minutes",
                "of it E-steps",
                "fit, hours",
                "core-hours",
                "from storage, GB/s",
                "from storage, TB",
                "between workers, GB",
                "memory a core, GB",
            ],
            [size.row(options.reads) for size in sizes],
            f"Full covariances, {options.features} features, K = {options.components}, "
            f"{options.cores} cores in workers of one thread, {options.reads} passes.",
        ),
        Table(
            ["part", "takes"],
            [["the E-step of a row, one thread", f"{1e9 * seconds_of_a_row:.0f} ns"], *parts.rows],
            "Measured cost of the parts on this machine.",
        ),
        Table(
            ["rows", "workers", "predicted, s", "measured, s"],
            [[f"{n_rows:,}", str(_WORKERS), f"{predicted.seconds:.2f}", f"{measured:.2f}"]],
            "A pass on a cluster of this machine: prediction and measurement.",
        ),
    ]
    asked = " ".join(f"{n:g}" for n in options.terabytes)
    command = (
        f"python -m benchmarks.sizing --terabytes {asked} --components {options.components} "
        f"--features {options.features} --cores {options.cores} --reads {options.reads}"
    )
    report("sizing", command, tables, options.save and not options.small)


if __name__ == "__main__":
    main()
