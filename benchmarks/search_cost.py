"""Cost of the search in memory, in passes over the data, and the optimum that it leads to.

``python -m benchmarks.search_cost [--cells PATTERN] [--small] [--save]``

A *pass's worth* is processor time outside of passes over the data, divided by the processor time of
one pass over all rows in memory, on one thread. The table has it for each stage of the search, for
the work between passes, and in all; then the passes, the longest time between two events, and the
log-likelihood of rows that were not fitted. Components of the planted mixtures overlap where the
spread of their means is 1, and hardly where it is 3; covariances are full in all of them, so
mixtures with diagonal ones are approximations.
"""

import argparse
import re
import statistics
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from benchmarks.machine import keep_to_cores
from benchmarks.planted import planted_mixture
from benchmarks.reads.cells import Rows
from benchmarks.reporting import Table, report
from streamgmm import GaussianMixture
from streamgmm.core.mixtures.sampling import draw
from streamgmm.events import Event, ReadDone, ReadStarted, SampleStage, StageStarted
from streamgmm.executors.warmup import compile_kernels
from streamgmm.options import CovarianceType

_HELD_OUT_ROWS = 20_000
_STAGES = ("starts", "split and merge", "EM")


@dataclass(frozen=True)
class Cell:
    """Rows of a planted mixture, and the mixture that is fitted to them."""

    covariance_type: CovarianceType
    n_rows: int
    n_features: int
    n_components: int
    spread: float

    def __str__(self) -> str:
        return (
            f"{self.covariance_type}, {self.n_rows:,} × {self.n_features}, "
            f"K = {self.n_components}, spread {self.spread:g}"
        )

    def rows(self) -> tuple[Rows, Rows]:
        """Return rows to fit, and rows to score."""
        planted = planted_mixture(self.n_features, self.n_components, "full", spread=self.spread)
        n_all = self.n_rows + _HELD_OUT_ROWS
        random = np.random.default_rng(1)
        rows, _ = draw(planted, n_all, random)
        rows = rows[random.permutation(n_all)]
        return rows[: self.n_rows], rows[self.n_rows :]


CELLS = [
    Cell(covariance_type, n_rows, d, k, spread)
    for covariance_type, n_rows, d, k in (
        ("diag", 1_000_000, 16, 64),
        ("full", 1_000_000, 8, 48),
        ("full", 1_000_000, 16, 128),
        ("diag", 1_000_000, 64, 256),
        ("diag", 1_000_000, 64, 1000),
        ("diag", 131_072, 16, 64),
        ("diag", 20_000, 16, 1000),
    )
    for spread in (3.0, 1.0)
]
SMALL_CELLS: list[Cell] = [
    Cell("diag", 40_000, 4, 8, 3.0),
    Cell("full", 40_000, 3, 4, 1.0),
]


@dataclass
class Watch:
    """Listens to a fit, and measures processor time.

    Attributes
    ----------
    stages : dict
        Seconds of each stage of the search.
    passes : list of float
        Seconds of each pass over the data.
    longest : float
        Largest number of seconds between two events, by the clock.
    """

    stages: dict[str, float] = field(default_factory=dict)
    passes: list[float] = field(default_factory=list)
    longest: float = 0.0
    _started: float = 0.0
    _last: float = field(default_factory=time.perf_counter)

    def __call__(self, event: Event) -> None:
        """Listen to an event."""
        now = time.perf_counter()
        self.longest, self._last = max(self.longest, now - self._last), now
        seconds = time.process_time()
        if isinstance(event, StageStarted | ReadStarted):
            self._started = seconds
        elif isinstance(event, SampleStage):
            spent = self.stages.get(event.name, 0.0)
            self.stages[event.name] = spent + seconds - self._started
        elif isinstance(event, ReadDone):
            self.passes.append(seconds - self._started)


@dataclass(frozen=True)
class Cost:
    """The cost of a fit; times are in seconds of a processor.

    Attributes
    ----------
    of_a_pass : float
    stages : dict
    total : float
    in_passes : float
    n_reads : float
    longest : float
        Largest number of seconds between two events.
    held_out : float
        Log-likelihood, nats per row.
    """

    of_a_pass: float
    stages: dict[str, float]
    total: float
    in_passes: float
    n_reads: float
    longest: float
    held_out: float


def measure(cell: Cell) -> Cost:
    """Fit a mixture on one thread."""
    rows, held_out = cell.rows()
    compile_kernels(rows.dtype.name)
    watch = Watch()
    model = GaussianMixture(
        cell.n_components,
        covariance_type=cell.covariance_type,
        random_state=0,
        n_jobs=1,
        callbacks=[watch],
    )
    start = time.process_time()
    model.fit(rows)
    total = time.process_time() - start
    whole = [
        seconds
        for seconds, read in zip(watch.passes, model.history_, strict=True)
        if read["purpose"] == "iteration"
    ]
    return Cost(
        statistics.median(whole),
        watch.stages,
        total,
        sum(watch.passes),
        model.n_reads_,
        watch.longest,
        model.score(held_out),
    )


def table(costs: Sequence[tuple[Cell, Cost]]) -> Table:
    """Return the table of all cells."""
    header = ["mixture", "s, a pass", *_STAGES, "between passes", "in all", "passes"]
    header += ["s, longest silence", "held out, nats per row"]
    return Table(header, [_line(cell, cost) for cell, cost in costs], "Passes' worth of work.")


def _line(cell: Cell, cost: Cost) -> list[str]:
    stages = [cost.stages.get(name, 0.0) for name in _STAGES]
    outside = cost.total - cost.in_passes
    worth = [seconds / cost.of_a_pass for seconds in (*stages, outside - sum(stages), outside)]
    return [
        str(cell),
        f"{cost.of_a_pass:.3g}",
        *(f"{value:.1f}" for value in worth),
        f"{cost.n_reads:.1f}",
        f"{cost.longest:.1f}",
        f"{cost.held_out:.4f}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", default="", metavar="PATTERN", help="those whose name matches")
    parser.add_argument("--small", action="store_true", help="few cells, few rows")
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    keep_to_cores(1)
    warnings.simplefilter("ignore")
    cells = SMALL_CELLS if options.small else CELLS
    costs = [(cell, measure(cell)) for cell in cells if re.search(options.cells, str(cell))]
    command = "python -m benchmarks.search_cost"
    report("search_cost", command, [table(costs)], options.save and not options.small)


if __name__ == "__main__":
    main()
