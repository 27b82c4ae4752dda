"""Rates of a pass over the data, as parts of the rates of the machine.

``python -m benchmarks.roofline [--threads 2] [--small] [--save]``

There are four tables. The rate of NumPy's matrix product is the roof of arithmetic. An E-step is
two products of 2·N·K·F flops each, where F is the number of moments of a component. The rate of an
E-step is this count over the seconds of a pass over data in memory, from the history of a fit. The
seconds include exponentials, features, threads and merging; the count does not. Components without
a share in a row are skipped in part, so the count is an upper bound, and the rate may exceed the
roof. The rate is most meaningful if components overlap, so that nothing is skipped. The third table
is on reading; see :mod:`benchmarks.reading`. The last one has full covariances of many columns in
the expanded and in the centred form, on overlapping components; see :mod:`benchmarks.wide`.
"""

import argparse
import statistics
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from threadpoolctl import threadpool_info, threadpool_limits

from benchmarks import reading, wide
from benchmarks.machine import keep_to_cores
from benchmarks.planted import Problem
from benchmarks.reporting import Table, new_figure, report
from streamgmm.core.structures import STRUCTURES
from streamgmm.options import CovarianceType

DTYPES = ("float64", "float32")
# Seconds of a pass at the rate of the matrix product; they determine the number of rows.
_PASS_SECONDS = 0.25
_MOST_PASS_SECONDS = 4.0
# Bounds on the size of the data: each thread has several chunks, and the data fit in memory.
_FEWEST_ROWS, _FEWEST_VALUES = 16_384, 1 << 21
_MOST_ROWS, _MOST_VALUES = 4_000_000, 16_000_000
# Rounds of the same cell on one thread and on all, in turns.
_ROUNDS = 2
_PASSES = 2

Shape = tuple[CovarianceType, int, int]


def shapes() -> list[Shape]:
    """Return covariance type, D and K of the cells."""
    full: list[Shape] = [
        ("full", d, k)
        for d in (2, 8, 16, 32, 64, 128, 256)
        for k in (1, 8, 32, 128)
        if k == 32 or d in (2, 8, 32, 128)
    ]
    others: list[Shape] = [
        (covariance_type, d, k)
        for covariance_type in ("diag", "tied", "spherical")
        for d, k in ((8, 8), (16, 64), (32, 32), (128, 128), (768, 1024))
    ]
    return full + others


SMALL_SHAPES: list[Shape] = [("full", 8, 8), ("diag", 16, 64), ("tied", 16, 8), ("spherical", 8, 8)]
# In the other cells few components have a share in a row, but rarely a single one.
SPREAD_SHAPES: list[Shape] = [("full", 32, 32), ("full", 32, 128), ("full", 128, 32)]
SPREADS = {0.3: "overlapping", 30.0: "well separated"}


@dataclass(frozen=True)
class Roof:
    """Rates of the matrix product, flops per second.

    Attributes
    ----------
    rates : dict
        Rates by precision and threads.
    """

    size: int
    rates: dict[tuple[str, int], float]

    def best_of(self, other: "Roof") -> "Roof":
        """Return the higher rate of two measurements for each entry."""
        return Roof(
            self.size, {key: max(rate, other.rates[key]) for key, rate in self.rates.items()}
        )


@dataclass(frozen=True)
class Pass:
    """The measurements of one cell.

    Attributes
    ----------
    route : str
        Arithmetic of densities.
    screened, passed_over : float
        Parts of all pairs of row and component that were not evaluated in float64, and not summed.
    seconds : dict
        Seconds by number of threads.
    """

    problem: Problem
    route: str
    screened: float
    passed_over: float
    seconds: dict[int, float]

    def rate(self, threads: int) -> float:
        """Return the flops per second."""
        return self.problem.flops / self.seconds[threads]


def measure_roof(size: int, threads: Sequence[int], repeats: int = 5) -> Roof:
    """Measure products of square matrices, and return the best rates."""
    random = np.random.default_rng(0)
    rates = {}
    for dtype in DTYPES:
        a, b = random.normal(size=(2, size, size)).astype(dtype)
        out = np.empty_like(a)
        for n in threads:
            with threadpool_limits(n, user_api="blas"):
                seconds = min(_product_seconds(a, b, out) for _ in range(repeats))
            rates[dtype, n] = 2.0 * size**3 / seconds
    return Roof(size, rates)


def _product_seconds(a: np.ndarray, b: np.ndarray, out: np.ndarray) -> float:
    start = time.perf_counter()
    np.matmul(a, b, out=out)
    return time.perf_counter() - start


def sized(shape: Shape, dtype: str, rate: float, spread: float, small: bool) -> Problem | None:
    """Return a problem of suitable duration; None if even the fewest rows take too long."""
    covariance_type, d, k = shape
    fewest = max(_FEWEST_ROWS, _FEWEST_VALUES // d)
    problem = Problem(covariance_type, fewest, d, k, dtype, spread)
    row_seconds = problem.flops / fewest / rate
    if fewest * row_seconds > _MOST_PASS_SECONDS:
        return None
    most = fewest if small else min(_MOST_ROWS, _MOST_VALUES // d)
    return replace(problem, n_rows=max(fewest, min(int(_PASS_SECONDS / row_seconds), most)))


def measure_pass(problem: Problem, threads: Sequence[int]) -> Pass:
    """Measure the median seconds of a pass, on each number of threads in turns."""
    seconds: dict[int, list[float]] = {n: [] for n in threads}
    last: dict[str, Any] = {}
    for _ in range(_ROUNDS):
        for n in threads:
            arithmetic = "auto" if problem.dtype == "float64" else "float32"
            model = problem.model(max_iter=_PASSES, n_jobs=n, arithmetic=arithmetic).fit(
                problem.rows
            )
            reads = [read for read in model.history_ if read["purpose"] == "iteration"]
            seconds[n] += [read["seconds"] for read in reads]
            last = reads[-1]
    medians = {n: statistics.median(times) for n, times in seconds.items()}
    return Pass(problem, last["arithmetic"], last["screened"], last["passed_over"], medians)


def roof_table(roof: Roof, threads: int) -> Table:
    """Return the table of rates of the matrix product, with its libraries."""
    libraries = "; ".join(
        f"{info['internal_api']} {info['version']}, kernels for {info.get('architecture')}"
        for info in threadpool_info()
        if info["user_api"] == "blas"
    )
    rows = [
        [
            f"{dtype}, {roof.size} × {roof.size}",
            f"{roof.rates[dtype, 1] / 1e9:.1f}",
            f"{roof.rates[dtype, threads] / 1e9:.1f}",
            f"{roof.rates[dtype, threads] / roof.rates[dtype, 1]:.2f}",
        ]
        for dtype in DTYPES
    ]
    header = ["matrix product", "GF/s, 1 thread", f"GF/s, {threads} threads", "scaling"]
    return Table(header, rows, f"The roof. BLAS libraries in the process: {libraries}.")


def pass_table(passes: Sequence[Pass], roof: Roof, threads: int) -> Table:
    """Return the table of rates of the E-step beside the roof of its arithmetic."""
    header = ["data", "rows", "arithmetic", "s", "GF/s", "of the product", "of it, 1 thread"]
    header += ["scaling", "the product's", "ruled out", "skipped"]
    return Table(header, [_pass_row(one, roof, threads) for one in passes], "E-steps.")


def _pass_row(one: Pass, roof: Roof, threads: int) -> list[str]:
    spread = SPREADS.get(one.problem.spread)
    roofs = {n: roof.rates[one.route, n] for n in (1, threads)}
    return [
        f"{one.problem}{f', {spread}' if spread else ''}",
        one.problem.dtype,
        one.route,
        f"{one.seconds[threads]:.4g}",
        f"{one.rate(threads) / 1e9:.1f}",
        f"{one.rate(threads) / roofs[threads]:.0%}",
        f"{one.rate(1) / roofs[1]:.0%}",
        f"{one.seconds[1] / one.seconds[threads]:.2f}",
        f"{roofs[threads] / roofs[1]:.2f}",
        f"{one.screened:.0%}",
        f"{one.passed_over:.0%}",
    ]


def plot(
    passes: Sequence[Pass], reads: Sequence[reading.Reading], roof: Roof, threads: int
) -> Figure:
    """Plot fractions of the roof against the work per row, and fractions of the reading bound."""
    figure = new_figure(9.0, 7.0)
    panels = figure.subplots(2, 2, sharey="row")
    for axes, dtype in zip(panels[0], DTYPES, strict=True):
        _plot_passes(axes, [one for one in passes if one.problem.dtype == dtype], roof, threads)
        axes.set_title(f"E-step, {dtype} rows")
    panels[0, 0].set_ylabel("rate / matrix product's")
    panels[0, 0].legend(frameon=False)
    for axes, state in zip(panels[1], reading.STATES, strict=True):
        reading.plot(axes, [one for one in reads if one.state == state])
        axes.set_title(f"fit, files {state}")
    panels[1, 0].invert_yaxis()
    panels[1, 0].legend(frameon=False)
    return figure


def _plot_passes(axes: Axes, passes: Sequence[Pass], roof: Roof, threads: int) -> None:
    for i, covariance_type in enumerate(STRUCTURES):
        own = [one for one in passes if one.problem.covariance_type == covariance_type]
        axes.plot(
            [one.problem.flops / one.problem.n_rows for one in own],
            [one.rate(threads) / roof.rates[one.route, threads] for one in own],
            "o",
            color=f"C{i}",
            label=covariance_type,
        )
    axes.axhline(1.0, color="black", linewidth=1.0)
    axes.set_xscale("log")
    axes.set_ylim(bottom=0.0)
    axes.set_xlabel("flops per row, 4 K F")
    axes.grid(alpha=0.3)


def measure_passes(roof: Roof, threads: int, small: bool) -> list[Pass]:
    """Measure all cells."""
    spreads = [(shape, Problem.spread) for shape in (SMALL_SHAPES if small else shapes())]
    if not small:
        spreads += [(shape, spread) for spread in SPREADS for shape in SPREAD_SHAPES]
    problems = [
        sized(shape, dtype, roof.rates[dtype, threads], spread, small)
        for shape, spread in spreads
        for dtype in DTYPES
        if dtype == "float64" or shape[2] >= 32
    ]
    counts = sorted({1, threads})
    return [measure_pass(problem, counts) for problem in problems if problem is not None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--small", action="store_true", help="few cells, few rows")
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    keep_to_cores(options.threads)
    warnings.simplefilter("ignore")
    counts = sorted({1, options.threads})
    size = 512 if options.small else 2560
    roof = measure_roof(size, counts)
    passes = measure_passes(roof, options.threads, options.small)
    # The speed of processors varies; the roof is the best measurement.
    roof = roof.best_of(measure_roof(size, counts))
    reads = reading.measure(options.threads, options.small)
    tables = [
        roof_table(roof, options.threads),
        pass_table(passes, roof, options.threads),
        reading.table(reads),
        wide.table(options.threads, options.small),
    ]
    command = f"python -m benchmarks.roofline --threads {options.threads}"
    figure = plot(passes, reads, roof, options.threads)
    report("roofline", command, tables, options.save and not options.small, figure)


if __name__ == "__main__":
    main()
