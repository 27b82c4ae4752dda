"""Time of fits to small and to wide data, and of a prediction for one row, beside scikit-learn's.

``python -m benchmarks.small_data [--rounds 15] [--small] [--save]``

Rows are isotropic clusters, of standard deviation 2 (``sklearn.datasets.make_blobs``). Both
libraries have their defaults and the same random state. Each round fits with one and then with the
other; the times are medians over rounds, and the ratio is the median of the rounds' ratios. That of
this package should not have a lower log-likelihood by more than 1e-3 nats per row.
"""

import argparse
import math
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import sklearn.mixture
from sklearn.datasets import load_iris, make_blobs

import streamgmm
from benchmarks.reporting import Table, report
from streamgmm.options import CovarianceType

_TIMES = ("streamgmm, ms", "scikit-learn, ms", "ratio")
# Starts of the fits to iris.
_RESTARTS = 20


@dataclass(frozen=True)
class Cell:
    """A fit: rows, features, components, structure."""

    n_rows: int
    n_features: int
    n_components: int
    covariance_type: CovarianceType = "full"

    @property
    def rows(self) -> Any:
        """Shape (n_rows, n_features)."""
        return make_blobs(
            self.n_rows,
            self.n_features,
            centers=self.n_components,
            cluster_std=2.0,
            random_state=0,
        )[0]

    def model(self, kind: Any) -> Any:
        """Return the model of a library."""
        return kind(self.n_components, covariance_type=self.covariance_type, random_state=0)

    def __str__(self) -> str:
        return f"{self.covariance_type}, {self.n_rows} × {self.n_features}, K = {self.n_components}"


_SMALL = (Cell(100, 2, 2), Cell(600, 2, 5), Cell(5000, 2, 5), Cell(300, 20, 3))
_WIDE = (
    Cell(200, 100, 2),
    Cell(1000, 200, 4),
    Cell(400, 384, 2),
    Cell(200, 300, 2),
    Cell(300, 1600, 2, "diag"),
    Cell(300, 5000, 2, "diag"),
)


def seconds(function: Callable[[], object]) -> float:
    """Return the wall time of a call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def side_by_side(
    ours: Callable[[], object], theirs: Callable[[], object], n_rounds: int
) -> tuple[float, float, float]:
    """Return the median times of two calls, and the median of their ratios."""
    ours(), theirs()
    rounds = [(seconds(ours), seconds(theirs)) for _ in range(n_rounds)]
    own, other = (statistics.median(column) for column in zip(*rounds, strict=True))
    return own, other, statistics.median(one / two for one, two in rounds)


def fits(cells: tuple[Cell, ...], n_rounds: int) -> Table:
    """Return the times of fits and their log-likelihoods."""
    table, ratios = [], []
    for cell in cells:
        rows = cell.rows
        ours, theirs = (
            cell.model(kind)
            for kind in (streamgmm.GaussianMixture, sklearn.mixture.GaussianMixture)
        )
        own, other, ratio = side_by_side(
            lambda ours=ours, rows=rows: ours.fit(rows),
            lambda theirs=theirs, rows=rows: theirs.fit(rows),
            n_rounds,
        )
        ratios.append(ratio)
        scores = ours.score(rows), theirs.score(rows)
        times = [f"{1e3 * own:.1f}", f"{1e3 * other:.1f}", f"{ratio:.2f}"]
        table.append([str(cell), *times, *(f"{score:.4f}" for score in scores)])
    mean = math.exp(statistics.fmean(map(math.log, ratios)))
    return Table(
        ["fit", *_TIMES, "streamgmm, nats per row", "scikit-learn, nats per row"],
        table,
        f"The geometric mean of the ratios is {mean:.2f}.",
    )


def one_row(n_rounds: int) -> Table:
    """Return the times of predictions for one row."""
    cell = _SMALL[1]
    rows = cell.rows
    ours, theirs = (
        cell.model(kind).fit(rows)
        for kind in (streamgmm.GaussianMixture, sklearn.mixture.GaussianMixture)
    )
    own, other, ratio = side_by_side(
        lambda: ours.predict(rows[:1]), lambda: theirs.predict(rows[:1]), 20 * n_rounds
    )
    cells = [str(cell), f"{1e3 * own:.2f}", f"{1e3 * other:.2f}", f"{ratio:.2f}"]
    return Table(["predict of one row", *_TIMES], [cells])


def iris() -> Table:
    """Return the log-likelihood of the best of several starts."""
    rows = load_iris().data
    model = streamgmm.GaussianMixture(
        3, covariance_type="diag", n_init=_RESTARTS, random_state=0
    ).fit(rows)
    return Table(
        ["data", "log-likelihood, nats"],
        [[f"iris, diag, K = 3, n_init = {_RESTARTS}", f"{len(rows) * model.score(rows):.3f}"]],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--small", action="store_true", help="few fits, and few rounds")
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    # Some fits have fewer rows than they need.
    warnings.simplefilter("ignore")
    cells, n_rounds = _SMALL + _WIDE, options.rounds
    if options.small:
        cells, n_rounds = _SMALL[:2], 3
    tables = [fits(cells, n_rounds), one_row(n_rounds), iris()]
    command = f"python -m benchmarks.small_data --rounds {options.rounds}"
    report("small_data", command, tables, options.save)


if __name__ == "__main__":
    main()
