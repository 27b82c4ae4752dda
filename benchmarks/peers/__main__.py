"""The command of this package."""

import argparse
import math
import statistics
from collections.abc import Collection, Sequence
from dataclasses import replace

from matplotlib.figure import Figure

from benchmarks.machine import keep_to_cores
from benchmarks.peers.libraries import LIBRARIES, OURS, Library
from benchmarks.peers.measure import Processes, Result, compare
from benchmarks.planted import Problem
from benchmarks.reporting import Table, new_figure, report

PROBLEMS = [
    Problem("full", 1_000_000, 2, 8),
    Problem("full", 500_000, 8, 16),
    Problem("full", 200_000, 32, 32),
    Problem("full", 200_000, 32, 32, "float32"),
    Problem("full", 50_000, 128, 32),
    Problem("full", 50_000, 128, 32, "float32"),
    Problem("diag", 500_000, 16, 64),
    Problem("diag", 200_000, 16, 256),
    Problem("tied", 200_000, 32, 32),
    Problem("spherical", 500_000, 16, 64),
]


def small(problem: Problem) -> Problem:
    """Return the problem with few rows, but enough for full rank of every component."""
    least = 2 * problem.n_components * problem.n_features
    return replace(problem, n_rows=max(problem.n_rows // 100, least))


def summary(cells: Sequence[list[Result]]) -> Table:
    """Ours beside the fastest of the others, a row for each problem."""
    header = ["data", "rows", "arithmetic", "streamgmm, s", "fastest other", "s", "ratio", "range"]
    return Table([*header, "remark"], [row for cell in cells for row in _summary(cell)])


def _summary(cell: list[Result]) -> list[list[str]]:
    ours = cell[0]
    others = [result for result in cell if _is_other(result) and not math.isnan(result.median)]
    if not others:
        return []
    fastest = min(others, key=lambda result: result.median)
    data = [str(ours.problem), ours.problem.dtype, _arithmetic(ours)]
    timing = [_seconds(ours), fastest.library.name, _seconds(fastest), *_ratio(fastest, ours)]
    return [[*data, *timing, fastest.remark(ours)]]


def details(cells: Sequence[list[Result]]) -> Table:
    """A row for each problem and library."""
    header = ["data", "rows", "library", "arithmetic", "s", "ratio", "range", "remark"]
    rows = [
        [
            str(result.problem),
            result.problem.dtype,
            result.library.name,
            _arithmetic(result),
            _seconds(result),
            *_ratio(result, cell[0]),
            result.remark(cell[0]),
        ]
        for cell in cells
        for result in cell
    ]
    return Table(header, rows, "Ratios are to the first line of the same data.")


def not_installed(libraries: Collection[Library]) -> list[Table]:
    """Return a table of the libraries that were not compared, and how to install them."""
    rows = [
        [library.name, f"`pip install {library.install}`"]
        for library in libraries
        if not library.is_installed
    ]
    return [Table(["not installed", "to install"], rows)] if rows else []


def plot(cells: Sequence[list[Result]]) -> Figure:
    """Ratios and their ranges: a line for each problem, a colour for each library."""
    figure = new_figure(8.0, 1.2 + 0.45 * len(cells))
    axes = figure.add_subplot()
    for place, library in enumerate(LIBRARIES):
        colour, offset = f"C{place}", 0.1 * (place - (len(LIBRARIES) - 1) / 2)
        found = [
            (i, result.ratios(cell[0]))
            for i, cell in enumerate(cells)
            for result in cell
            if result.library.name == library.name and result.ratios(cell[0])
        ]
        heights = [i + offset for i, _ in found]
        lows, highs = [min(ratios) for _, ratios in found], [max(ratios) for _, ratios in found]
        medians = [statistics.median(ratios) for _, ratios in found]
        axes.hlines(heights, lows, highs, colour)
        axes.plot(medians, heights, "o", color=colour, label=library.name)
    axes.axvline(1.0, color="black", linewidth=1.0)
    labels = [f"{cell[0].problem}, {cell[0].problem.dtype}" for cell in cells]
    axes.set_yticks(range(len(cells)), labels)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel("seconds per EM iteration over streamgmm's")
    axes.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside upper center", ncols=len(LIBRARIES), frameon=False)
    return figure


def is_wrong(result: Result, reference: Result) -> bool:
    """Return whether there is a remark on streamgmm or scikit-learn, where none is allowed."""
    return result.library.adapter in ("ours", "scikit_learn") and bool(result.remark(reference))


def _is_other(result: Result) -> bool:
    return result.library not in OURS


def _arithmetic(result: Result) -> str:
    return result.fitted.arithmetic if result.fitted else "–"


def _seconds(result: Result) -> str:
    return f"{result.median:.4g}" if result.seconds else "–"


def _ratio(result: Result, ours: Result) -> list[str]:
    """Median and range of the ratios."""
    ratios = result.ratios(ours)
    if not ratios:
        return ["–", "–"]
    return [f"{statistics.median(ratios):.2f}", f"{min(ratios):.2f} to {max(ratios):.2f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--small", action="store_true", help="few rows, one pair")
    parser.add_argument("--save", action="store_true")
    parser.add_argument("--peers", default=None, help="some of the libraries, with commas between")
    options = parser.parse_args()
    keep_to_cores(options.threads)
    names = options.peers.split(",") if options.peers else [peer.name for peer in LIBRARIES]
    peers = [library for library in LIBRARIES if library.name in names]
    pairs = 1 if options.small else options.pairs
    problems = list(map(small, PROBLEMS)) if options.small else PROBLEMS
    present = [library for library in [*OURS, *peers] if library.is_installed]
    with Processes() as processes:
        cells = [
            compare(
                problem,
                [library for library in present if library.can_fit(problem)],
                processes,
                pairs,
                options.threads,
            )
            for problem in problems
        ]
    command = f"python -m benchmarks.peers --pairs {options.pairs} --threads {options.threads}"
    tables = [summary(cells), details(cells), *not_installed(peers)]
    report("peers", command, tables, options.save and not options.small, plot(cells))
    wrong = [result for cell in cells for result in cell if is_wrong(result, cell[0])]
    if wrong:
        raise SystemExit("streamgmm and scikit-learn did not do the same work; see the remarks")


if __name__ == "__main__":
    main()
