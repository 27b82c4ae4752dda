"""K-means compared with scikit-learn: seconds of a pass, and inertia of whole fits.

``python -m benchmarks.kmeans [--pairs 5] [--small] [--save]``

The first table compares a pass of :class:`streamgmm.KMeans` with a Lloyd iteration of scikit-learn,
from the same centres, on two threads, in turns: the seconds of many iterations less those of one.
The second table is on whole fits of 100,000 rows of the cells of :mod:`benchmarks.reads` with up to
32 clusters: inertia relative to the best of ten fits of scikit-learn, and the number of passes.
"""

import argparse
import statistics
import time
import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans as SklearnKMeans
from threadpoolctl import threadpool_limits

from benchmarks.reads.cells import Cell, small_suite, suite
from benchmarks.reporting import Table, report
from streamgmm import KMeans

_THREADS, _ITERATIONS = 2, 10
_MOST_CLUSTERS, _CELL_ROWS, _FEW_ROWS = 32, 100_000, 5_000


def planted(k: int, d: int, n: int, spread: float) -> NDArray[np.float64]:
    """Return rows of clusters whose centres spread by some standard deviations of a cluster."""
    rng = np.random.default_rng(k)
    centres = rng.normal(size=(k, d)) * spread
    return centres[rng.integers(0, k, n)] + rng.normal(size=(n, d))


def seconds_of(make: object, start: NDArray[np.float64], rows: NDArray[np.float64]) -> float:
    """Return the seconds of an iteration."""
    taken = []
    for n_iterations in (1, 1 + _ITERATIONS):
        begin = time.perf_counter()
        make(start, n_iterations).fit(rows)  # type: ignore[operator]
        taken.append(time.perf_counter() - begin)
    return (taken[1] - taken[0]) / _ITERATIONS


def own(start: NDArray[np.float64], n_iterations: int) -> KMeans:
    return KMeans(len(start), init=start, max_iter=n_iterations, tol=0.0, n_jobs=_THREADS)


def theirs(start: NDArray[np.float64], n_iterations: int) -> SklearnKMeans:
    return SklearnKMeans(
        len(start), init=start, n_init=1, max_iter=n_iterations, tol=0.0, algorithm="lloyd"
    )


def passes(n_rows: int, pairs: int) -> Table:
    """Return a table of seconds of a pass at D = 16, K = 256."""
    rows = planted(256, 16, n_rows, 1.0)
    start = rows[:256].copy()
    seconds = [
        (seconds_of(own, start, rows), seconds_of(theirs, start, rows)) for _ in range(pairs)
    ]
    ratios = [a / b for a, b in seconds]
    a, b = (statistics.median(column) for column in zip(*seconds, strict=True))
    cells = [f"{n_rows:,}", f"{a:.4f}", f"{b:.4f}"]
    cells += [f"{statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})"]
    return Table(["rows", "streamgmm, s", "scikit-learn, s", "ratio"], [cells])


def fits(cells: Sequence[Cell], n_rows: int) -> Table:
    """Return a table of inertia and seconds of whole fits."""
    lines, ratios = [], []
    for cell in cells:
        rows = cell.population.rows(n_rows)
        k = cell.n_components
        begin = time.perf_counter()
        found = KMeans(k, random_state=0, n_jobs=_THREADS).fit(rows)
        middle = time.perf_counter()
        best = SklearnKMeans(k, n_init=10, random_state=0).fit(rows)
        end = time.perf_counter()
        ratios.append(found.inertia_ / best.inertia_)
        lines.append(
            [
                cell.name,
                f"{ratios[-1]:.5f}",
                f"{found.n_reads_:g}",
                f"{middle - begin:.2f}",
                f"{end - middle:.2f}",
            ]
        )
    header = ["cell", "inertia over the best of ten", "passes", "streamgmm, s", "ten starts, s"]
    caption = (
        f"Inertia over the best of ten: median {statistics.median(ratios):.5f}, "
        f"largest {max(ratios):.5f}, in {len(ratios)} cells of {n_rows:,} rows."
    )
    return Table(header, lines, caption)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--small", action="store_true", help="few rows")
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    cells = [cell for cell in suite() if cell.n_components <= _MOST_CLUSTERS]
    with threadpool_limits(_THREADS):
        # Kernels are compiled, or loaded, before the first timing.
        KMeans(2, n_jobs=_THREADS).fit(planted(2, 2, 100, 5.0))
        tables = [
            passes(20_000 if options.small else 200_000, 1 if options.small else options.pairs),
            fits(small_suite(), _FEW_ROWS) if options.small else fits(cells, _CELL_ROWS),
        ]
    command = f"python -m benchmarks.kmeans --pairs {options.pairs}"
    report("kmeans", command, tables, options.save)


if __name__ == "__main__":
    main()
