"""Time and memory of an iteration against rows, components, features and threads.

``python -m benchmarks.scale [--largest 1e9] [--small] [--save]``

Rows are streamed: a source returns one generated chunk repeatedly, with increasing row numbers.
Drawing each chunk anew would take longer than the E-step, and would not change the measurement.
Each point is measured in its own process. Its peak memory is the figure of the operating system
(VmHWM), with interpreter and imports (matplotlib too).
"""

import argparse
import multiprocessing
import statistics
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.planted import Problem
from benchmarks.reporting import Table, new_figure, report
from streamgmm.executors.threads import thread_count
from streamgmm.options import Missing
from streamgmm.protocols import Chunk
from streamgmm.sources.layout import regular_boundaries, rows_per_chunk

# A short iteration is repeated, up to this work in total and this number of times.
_FLOPS_IN_ALL = 100_000_000_000
_FEWEST_ITERATIONS, _MOST_ITERATIONS = 3, 100
_SHRINK = 100


class ReplayedSource:
    """A source of N rows that repeats one generated chunk."""

    has_weights = False
    name = "replayed rows"
    location = None
    missing: Missing = "error"
    feature_names = None
    # The chunk is in memory, so reading it takes no memory.
    read_bytes = 0

    def __init__(self, problem: Problem) -> None:
        self.n_rows, self.n_features = problem.n_rows, problem.n_features
        chunk_rows = min(rows_per_chunk(problem.n_features), problem.n_rows)
        self._rows = replace(problem, n_rows=chunk_rows).rows
        self.dtype: np.dtype[Any] = self._rows.dtype
        self.boundaries: Sequence[int] = regular_boundaries(problem.n_rows, chunk_rows)

    def read(self, i: int) -> Chunk:
        """Return chunk i."""
        start, stop = self.boundaries[i], self.boundaries[i + 1]
        return Chunk(self._rows[: stop - start], range(start, stop))


@dataclass(frozen=True)
class Point:
    """The measurements of one process.

    Attributes
    ----------
    varied : str
        The varied size of its series: "rows", "components", "features" or "threads".
    seconds : float
        Median duration of the iterations.
    peak : int
        Bytes.
    """

    varied: str
    problem: Problem
    threads: int
    seconds: float = 0.0
    peak: int = 0

    @property
    def size(self) -> int:
        """Value of the varied size."""
        problem = self.problem
        return {
            "rows": problem.n_rows,
            "components": problem.n_components,
            "features": problem.n_features,
            "threads": self.threads,
        }[self.varied]

    @property
    def row_seconds(self) -> float:
        """Seconds of an iteration per row."""
        return self.seconds / self.problem.n_rows


def points(largest: int, threads: int) -> list[Point]:
    """Return all points to measure."""
    base = Problem("full", 1_000_000, 8, 8)
    rows = [10**power for power in range(5, 15) if 10**power < largest]
    components = [2**power for power in range(9)]
    features = [2**power for power in range(1, 8)]
    return [
        *(Point("rows", replace(base, n_rows=n), threads) for n in [*rows, largest]),
        *(Point("components", replace(base, n_components=k), threads) for k in components),
        *(
            Point("features", replace(base, n_rows=200_000, n_features=d), threads)
            for d in features
        ),
        *(Point("threads", base, n) for n in range(1, threads + 1)),
    ]


def shrunk(point: Point) -> Point:
    """Return the point with few rows."""
    return replace(
        point, problem=replace(point.problem, n_rows=max(1000, point.problem.n_rows // _SHRINK))
    )


def measured(point: Point) -> Point:
    """Measure a fit in its own process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(_measure, point).result()


def _measure(point: Point) -> Point:
    warnings.simplefilter("ignore")
    problem = point.problem
    iterations = max(_FEWEST_ITERATIONS, min(_FLOPS_IN_ALL // problem.flops, _MOST_ITERATIONS))
    model = problem.model(max_iter=iterations, n_jobs=point.threads).fit(ReplayedSource(problem))
    # The first iteration may compile or load kernels.
    seconds = statistics.median(read["seconds"] for read in model.history_[1:])
    return replace(point, seconds=seconds, peak=_peak_bytes())


def _peak_bytes() -> int:
    """Return the peak memory of this process since it started this program."""
    status = Path("/proc/self/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def exponent(found: Sequence[Point], value: Callable[[Point], float]) -> float:
    """Return the slope of a line through the logarithms of size and value."""
    sizes = np.log([point.size for point in found])
    slope, _ = np.polyfit(sizes, np.log([value(point) for point in found]), 1)
    return float(slope)


def exponents(found: Sequence[Point]) -> Table:
    """Return a table of the growth of seconds and memory with each size."""
    rows = []
    for varied in ("rows", "components", "features", "threads"):
        series = [point for point in found if point.varied == varied]
        if len(series) > 1:
            time = exponent(series, lambda point: point.seconds)
            memory = exponent(series, lambda point: point.peak)
            rows.append([varied, f"{time:.3f}", f"{memory:.3f}"])
    header = ["size", "exponent of the seconds", "exponent of the peak memory"]
    return Table(header, rows, "Fitted powers: 1 is proportional, 0 is constant.")


def measurements(found: Sequence[Point]) -> Table:
    """Return a table with a row for each point."""
    header = ["varied", "data", "threads", "s per iteration", "ns per row", "peak, MiB"]
    rows = [
        [
            point.varied,
            str(point.problem),
            str(point.threads),
            f"{point.seconds:.4g}",
            f"{point.row_seconds * 1e9:.1f}",
            f"{point.peak / 2**20:.0f}",
        ]
        for point in found
    ]
    return Table(header, rows)


def plot(found: Sequence[Point]) -> Figure:
    """Plot time and memory against rows, and time per row against the other sizes."""
    figure = new_figure(9.0, 7.0)
    (time, memory), (components, features) = figure.subplots(2, 2)
    _plot_series(time, found, "rows", lambda point: point.seconds, "seconds per iteration")
    _plot_series(memory, found, "rows", lambda point: point.peak / 2**20, "peak memory, MiB")
    memory.set_ylim(1.0, 1e4)
    for axes, varied in ((components, "components"), (features, "features")):
        _plot_series(
            axes, found, varied, lambda point: point.row_seconds * 1e9, "ns per row and iteration"
        )
    return figure


def _plot_series(
    axes: Axes,
    found: Sequence[Point],
    varied: str,
    value: Callable[[Point], float],
    label: str,
) -> None:
    series = [point for point in found if point.varied == varied]
    axes.loglog([point.size for point in series], [value(point) for point in series], "o-")
    axes.set_xlabel(varied)
    axes.set_ylabel(label)
    axes.grid(alpha=0.3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--largest", type=float, default=1e9, help="rows")
    parser.add_argument("--small", action="store_true", help="few rows")
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    wanted = points(int(options.largest), thread_count(None))
    found = [measured(shrunk(point) if options.small else point) for point in wanted]
    tables = [exponents(found), measurements(found)]
    command = f"python -m benchmarks.scale --largest {options.largest:g}"
    report("scale", command, tables, options.save and not options.small, plot(found))


if __name__ == "__main__":
    main()
