"""Tables and the figure of what has been found."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from benchmarks.reads.cells import Cell
from benchmarks.reads.measure import PATIENCE, Found
from benchmarks.reads.records import Record
from benchmarks.reads.ways import WAYS
from benchmarks.reporting import Table, new_figure

#: Cells and what is known of them.
Results = Sequence[tuple[Cell, Record]]

GAPS = (1e-2, 1e-3, 1e-4, 1e-5)
# Held-out log-likelihoods that are lower by less, nats per row, are as good.
_AS_GOOD = 1e-3
# The figure shows gaps down to this one.
_SMALLEST_GAP = 1e-7


def tables(results: Results) -> list[Table]:
    """All of them."""
    counted = _counted(results)
    return [summary(counted), beside_scikit_learn(counted), details(results), *missing(results)]


def _counted(results: Results) -> Results:
    return [(cell, record) for cell, record in results if cell.is_counted]


def summary(results: Results) -> Table:
    """A row for each way: what it takes."""
    gaps = [f"median passes to {gap:.0e}" for gap in GAPS]
    header = ["way", "cells", *gaps, "90 % to 1e-03", "passes in all", "rows computed / N"]
    rows = []
    for way in _tried(results):
        records = [record for _, record in results if way in record.found]
        reads = [[record.reads_to(way, gap) for record in records] for gap in GAPS]
        found = [record.found[way] for record in records]
        rows.append(
            [
                way,
                str(len(records)),
                *(_reads(_quantile(each, 0.5)) for each in reads),
                _reads(_quantile(reads[GAPS.index(1e-3)], 0.9)),
                _reads(_quantile([one.n_reads for one in found], 0.5)),
                _number(_quantile([one.visits_a_row for one in found], 0.5), ".1f"),
            ]
        )
    caption = (
        "Passes until the log-likelihood is within the named nats per row of the best known, in "
        f"cells with {results[0][0].counted_from:,} rows or more for each parameter, and medians "
        "over whole fits."
    )
    return Table(header, rows, caption)


def beside_scikit_learn(results: Results) -> Table:
    """Return a table of the quality and the time of default fits."""
    speedups = [record.speedup for _, record in results if not math.isnan(record.speedup)]
    timings = [record.timing for _, record in results if record.timing is not None]
    given_up = [timing for timing in timings if timing.scikit_learn is None]
    rows = []
    for n_starts, gains in _held_out_gains(results):
        best = f"scikit-learn's best of {n_starts}"
        share = np.mean([gain >= -_AS_GOOD for gain in gains])
        label = f"held-out log-likelihood of auto at most 1e-3 below {best}, or above"
        rows.append([label, str(len(gains)), f"{share:.0%}"])
        share = np.mean([gain > _AS_GOOD for gain in gains])
        rows.append([f"more than 1e-3 above {best}", str(len(gains)), f"{share:.0%}"])
    if speedups:
        label = "seconds of scikit-learn's default fit over those of auto, median"
        rows.append([label, str(len(speedups)), f"{np.median(speedups):.1f}"])
        label = f"of these, scikit-learn given up at {PATIENCE:.0f} times, which are counted"
        rows.append([label, str(len(timings)), str(len(given_up))])
    return Table(["in the same cells", "cells", ""], rows)


def _held_out_gains(results: Results) -> list[tuple[int, list[float]]]:
    """Return numbers of starts, and the gains of auto on the best of them, cell by cell."""
    gains: dict[int, list[float]] = {}
    for _, record in results:
        if not math.isnan(record.held_out_gain):
            n_starts = record.found["scikit-learn"].n_starts
            gains.setdefault(n_starts, []).append(record.held_out_gain)
    return sorted(gains.items(), reverse=True)


def details(results: Results) -> Table:
    """A row for each cell."""
    tried = _tried(results)
    header = ["cell", "rows", "rows a parameter", *tried, "held out", "collapsed"]
    rows = [
        [
            cell.name,
            f"{cell.n_rows:,}",
            f"{cell.n_rows / cell.n_parameters:,.0f}",
            *(_reads_in_cell(record, way) for way in tried),
            _number(record.held_out_gain, "+.4f"),
            " ".join(str(one.n_collapsed) for one in record.found.values()),
            *_seconds(record),
        ]
        for cell, record in results
        if record.found
    ]
    caption = (
        "Reads to within 1e-3 and to within 1e-5; log-likelihood on held-out rows, auto's less "
        "that of scikit-learn's best; collapsed components of each way; seconds of default fits."
    )
    return Table([*header, "scikit-learn, s", "auto, s", "ratio"], rows, caption)


def missing(results: Results) -> list[Table]:
    """Return a table of the cells and ways that have not been measured, of the ways tried."""
    rows = []
    tried = _tried(results)
    for cell, record in results:
        lacking = [way for way in tried if way not in record.found]
        if record.timing is None:
            lacking.append("timing")
        if lacking:
            is_all = len(lacking) > len(tried)
            rows.append([cell.name, "all" if is_all else ", ".join(lacking)])
    return [Table(["cell", "not measured"], rows)] if rows else []


def plot(results: Results) -> Figure:
    """Draw the loss of each way after each pass, in the cells that the summary counts."""
    counted = _counted(results)
    figure = new_figure(8.0, 5.0)
    axes = figure.add_subplot()
    for place, way in enumerate(_tried(counted)):
        _plot_gaps(axes, counted, way, f"C{place}")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("passes over the data")
    axes.set_ylabel("nats per row below the best known: median, 90 %")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside upper center", ncols=3, frameon=False)
    return figure


def _plot_gaps(axes: Axes, results: Results, way: str, colour: str) -> None:
    """Median over cells, and dashed what nine in ten are below."""
    records = [record for _, record in results if way in record.found]
    last = max(record.found[way].n_reads for record in records)
    reads = np.arange(1.0, last + 1.0)
    gaps = [record.best_known - highest_after(reads, record.found[way]) for record in records]
    shown = np.maximum(gaps, _SMALLEST_GAP)
    median, most = np.quantile(shown, (0.5, 0.9), axis=0, method="inverted_cdf")
    axes.step(reads, median, where="post", color=colour, label=way)
    axes.step(reads, most, where="post", color=colour, linestyle="--", linewidth=1.0)


def highest_after(reads: NDArray[np.float64], found: Found) -> NDArray[np.float64]:
    """Return the highest log-likelihood after these numbers of passes; -inf before the first."""
    highest = np.maximum.accumulate([-np.inf, *found.log_likelihoods])
    return highest[np.searchsorted(found.reads, reads, side="right")]


def _tried(results: Results) -> list[str]:
    """Ways that were tried in any cell."""
    return [way.name for way in WAYS if any(way.name in record.found for _, record in results)]


def _reads_in_cell(record: Record, way: str) -> str:
    if way not in record.found:
        return "–"
    return ", ".join(_reads(record.reads_to(way, gap)) for gap in (1e-3, 1e-5))


def _seconds(record: Record) -> list[str]:
    if record.timing is None:
        return ["–", "–", "–"]
    other = record.timing.scikit_learn
    ours = record.timing.ours
    if other is None:
        return [f"> {PATIENCE * ours:.3g}", f"{ours:.3g}", f"> {PATIENCE:.1f}"]
    return [f"{other:.3g}", f"{ours:.3g}", f"{record.speedup:.1f}"]


def _quantile(values: Sequence[float], part: float) -> float:
    """One of the values, infinity among them."""
    return float(np.quantile(values, part, method="inverted_cdf"))


def _reads(count: float) -> str:
    return "never" if math.isinf(count) else f"{count:.4g}"


def _number(value: float, form: str) -> str:
    return "–" if math.isnan(value) else format(value, form)
