"""The search for the number of components and the structure: passes, choices, and shared passes.

``python -m benchmarks.selection [--rows 1e6] [--only passes choices sharing clusters] [--small]
[--save]``

1. Searches of stored rows: passes over the data, and time beside fits of each complete candidate
   alone. Each complete candidate is compared with a separate fit from the same start.
2. Choices: the winner of the search, and the best of separate fits by scikit-learn with 10
   restarts for each candidate, for a suite of populations.
3. Sharing: a pass for 32 mixtures and 32 passes for one, of compressed data. ``d`` is what a pass
   takes to read and decode, ``c`` what one mixture takes to compute. These are seconds of the
   processor, because a pass reads ahead while it computes.
4. Clusters that are not Gaussian: the choices of BIC, ICL and merged components.
"""

import argparse
import math
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import sklearn.mixture
import zarr
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning

import streamgmm
from benchmarks.planted import Problem
from benchmarks.reads.cells import Planted
from benchmarks.reporting import Table, report
from streamgmm import GaussianMixture, GaussianMixtureSearch
from streamgmm.algorithms.reads.reader import Reader, StatisticsRequest
from streamgmm.core.frame import Frame
from streamgmm.core.parameters import Parameters
from streamgmm.core.statistics import Statistics
from streamgmm.errors import DegenerateComponentWarning
from streamgmm.executors.threads import ThreadExecutor
from streamgmm.options import CovarianceType
from streamgmm.protocols import Source
from streamgmm.sources.array import ArraySource

Rows = NDArray[np.float64]

_PARTS = ("passes", "choices", "sharing", "clusters")
_TYPES: tuple[CovarianceType, ...] = ("full", "tied", "diag", "spherical")
_CHUNK_ROWS = 50_000
# Number of decimals of the values. Measured values have few, so they compress well.
_DECIMALS = 3
# Separations of means (Dasgupta), and components with features, of the suite of choices.
_SEPARATIONS, _SIZES = (1.0, 2.0, 3.0), ((2, 2), (3, 2), (4, 3), (5, 4))
_RESTARTS = 10
# Of the distribution of unequal weights; standard deviation of the means of structured mixtures.
_UNEVEN, _SPREAD = 1.0, 4.0
_SAME, _TIE = "the same", "a tie"
_MIXTURES, _ROUNDS = 32, 3
# Student-t rows of clusters, and the distance of these.
_DEGREES_OF_FREEDOM, _APART = 6.0, 12.0


def stored(folder: Path, rows: Rows) -> str:
    """Write rows as a Zarr array that zstd compresses, and return its path."""
    path = str(folder / f"{len(rows)}.zarr")
    zarr.create_array(
        path,
        data=rows.round(_DECIMALS),
        chunks=(_CHUNK_ROWS, rows.shape[1]),
        compressors=zarr.codecs.ZstdCodec(level=3),
    )
    return path


def searched(
    path: str, name: str, sizes: Sequence[int], kinds: Sequence[CovarianceType], n_rows: int
) -> list[str]:
    """Return the row of a search: passes, seconds, and the differences from separate fits."""
    settings: dict[str, Any] = {"covariance_type": kinds, "random_state": 0}
    start = time.perf_counter()
    search = GaussianMixtureSearch(sizes, **settings).fit(path)
    seconds = time.perf_counter() - start
    # With one iteration the candidates end with the parameters that their passes begin with.
    starts = GaussianMixtureSearch(sizes, max_iter=1, **settings).fit(path).estimators_
    results = search.cv_results_
    tol = min(search.tol, 0.5 * math.log(n_rows) / n_rows)
    alone, largest, n_reads = 0.0, 0.0, 0.0
    complete = np.flatnonzero(results["status"] == "complete")
    for i in complete:
        k, kind = results["param_n_components"][i], str(results["param_covariance_type"][i])
        start = time.perf_counter()
        one = GaussianMixture(k, covariance_type=kind, tol=tol, random_state=0).fit(path)
        alone, n_reads = alone + time.perf_counter() - start, n_reads + one.n_reads_
        given = {
            "weights_init": starts[i].weights_,
            "means_init": starts[i].means_,
            "precisions_init": starts[i].precisions_,
        }
        same = GaussianMixture(k, covariance_type=kind, tol=tol, random_state=0, **given).fit(path)
        found = results["log_likelihood"][i] / n_rows
        largest = max(largest, abs(found - same.lower_bound_) / tol)
    best = search.best_params_
    status = [
        f"{(results['status'] == kind).sum()} {kind}" for kind in np.unique(results["status"])
    ]
    return [
        name,
        str(len(results["status"])),
        ", ".join(status),
        f"{best['covariance_type']}, {best['n_components']}",
        f"{search.n_reads_:.2f}",
        f"{seconds:.1f}",
        f"{alone:.1f} ({n_reads:.0f} passes)",
        f"{largest:.2f}",
    ]


def passes(folder: Path, n_rows: int, most: int) -> Table:
    """Return the table of searches of stored rows."""
    planted = Planted(2.0, 5, 8)
    path = stored(folder, planted.rows(n_rows))
    few = [*range(2, 2 + most // 2)]
    cells = [
        searched(path, f"K = 1 to {most}, full", range(1, most + 1), ("full",), n_rows),
        searched(path, f"K = 2 to {few[-1]}, 4 structures", few, _TYPES, n_rows),
    ]
    header = [
        "candidates",
        "number",
        "status",
        "choice",
        "passes",
        "s",
        "complete candidates alone, s",
        "largest difference from fits of the same start, in tol",
    ]
    size = f"{n_rows:,} × 8 rows of 5 planted components, Zarr with zstd"
    return Table(header, cells, f"{size}.")


@dataclass(frozen=True)
class Cell:
    """Rows of the suite of choices, and the candidates for them.

    Attributes
    ----------
    name : str
    draw : callable
        Takes a number of rows, and returns rows.
    n_components : int
        Of the truth; candidates have from 1 to two more.
    n_rows : int
    types : tuple of str
        Structures to choose among.
    """

    name: str
    draw: Callable[[int], Rows]
    n_components: int
    n_rows: int
    types: tuple[CovarianceType, ...] = ("full", "diag")


def planted_cell(planted: Planted, name: str, n_rows: int) -> Cell:
    """Return a cell of rows about planted means."""
    k, d = planted.n_components, planted.n_features
    name = f"{name}separation {planted.separation:g}, k = {k}, D = {d}"
    return Cell(name, planted.rows, k, n_rows)


def suite(is_small: bool) -> list[Cell]:
    """Return the cells for which winners are compared."""
    if is_small:
        return [planted_cell(Planted(_SEPARATIONS[1], *_SIZES[0]), "", 2_000)]
    few, some, many = 500, 2_000, 20_000
    cells = [
        planted_cell(Planted(separation, *size), "", n_rows)
        for n_rows, separations, sizes in (
            (few, _SEPARATIONS, _SIZES),
            (some, _SEPARATIONS, _SIZES),
            (many, _SEPARATIONS[:2], _SIZES[:3]),
        )
        for separation in separations
        for size in sizes
    ]
    for n_rows in (few, some):
        for k, d in _SIZES[:3]:
            cells.append(planted_cell(Planted(3.0, k, d, shape="student"), "t rows, ", n_rows))
        for k, d in _SIZES[1:]:
            uneven = Planted(2.0, k, d, concentration=_UNEVEN)
            cells.append(planted_cell(uneven, "unequal weights, ", n_rows))
        cells.append(planted_cell(Planted(1.0, 3, 8), "", n_rows))
        for kind, types in (("tied", ("tied", "full")), ("spherical", ("spherical", "diag"))):
            for k, d in _SIZES[1:3]:
                cells.append(structured_cell(kind, types, k, d, n_rows))
    return cells


def structured_cell(
    kind: CovarianceType, types: tuple[CovarianceType, ...], k: int, d: int, n_rows: int
) -> Cell:
    """Return a cell of rows of a mixture with a structure."""

    def draw(n_rows: int) -> Rows:
        return Problem(kind, n_rows, d, k, spread=_SPREAD).rows

    return Cell(f"{kind}, k = {k}, D = {d}", draw, k, n_rows, types)


def choices(is_small: bool) -> Table:
    """Return the table of winners beside the best of separate fits."""
    compared = [chosen(cell, 2 if is_small else _RESTARTS) for cell in suite(is_small)]
    header = [
        "population",
        "rows",
        "search",
        "BIC",
        "separate fits",
        "their BIC above that of the search",
        "winner",
    ]
    return Table(header, compared, tally([cell[-1] for cell in compared]))


def tally(winners: Sequence[str]) -> str:
    """Return how many winners are the same."""
    counts = {kind: winners.count(kind) for kind in (_SAME, _TIE)}
    n_good, n = sum(counts.values()), len(winners)
    return (
        f"BIC chooses among K = 1 to k + 2 and two structures. The same winner, or a tie, in "
        f"{n_good} of {n} cells ({n_good / n:.0%}): the same in {counts[_SAME]}; in {counts[_TIE]} "
        "the search reports that the winner of the separate fits is not resolved from its own."
    )


def chosen(cell: Cell, n_restarts: int) -> list[str]:
    """Return the row of a population."""
    n_rows = cell.n_rows
    rows = cell.draw(n_rows)
    sizes = range(1, cell.n_components + 3)
    search = GaussianMixtureSearch(sizes, covariance_type=cell.types, random_state=0).fit(rows)
    tol = min(search.tol, 0.5 * math.log(n_rows) / n_rows)
    found = {}
    for kind in cell.types:
        for size in sizes:
            bic = separate(rows, size, kind, n_restarts, tol)
            if bic is not None:
                found[kind, size] = bic
    kind, size = min(found, key=lambda candidate: found[candidate])
    own = search.best_params_
    above = found[kind, size] - search.best_score_
    if own == {"n_components": size, "covariance_type": kind}:
        winner = _SAME
    elif not is_resolved(search, kind, size):
        winner = _TIE
    else:
        winner = "that of the search is better" if above > 0.0 else "that of the search is worse"
    return [
        cell.name,
        f"{n_rows:,}",
        f"{own['covariance_type']}, {own['n_components']}",
        f"{search.best_score_:.1f}",
        f"{kind}, {size}",
        f"{above:+.2f}",
        winner,
    ]


def separate(
    rows: Rows, size: int, kind: CovarianceType, n_restarts: int, tol: float
) -> float | None:
    """Return the BIC of the best of several starts of scikit-learn, or None if it is degenerate.

    Its parameters converge further, with the ridge and the tolerance of the search.
    """
    settings: dict[str, Any] = {"covariance_type": kind, "random_state": 1}
    best = sklearn.mixture.GaussianMixture(size, n_init=n_restarts, tol=1e-4, **settings).fit(rows)
    model = GaussianMixture(
        size,
        weights_init=best.weights_,
        means_init=best.means_,
        precisions_init=best.precisions_,
        tol=tol,
        **settings,
    )
    with warnings.catch_warnings(record=True) as reports:
        warnings.simplefilter("always")
        model.fit(rows)
    is_degenerate = any(report.category is DegenerateComponentWarning for report in reports)
    return None if is_degenerate else model.bic_


def is_resolved(search: GaussianMixtureSearch, kind: CovarianceType, size: int) -> bool:
    """Return whether a search tells a candidate apart from its best."""
    results = search.cv_results_
    is_it = (results["param_covariance_type"] == kind) & (results["param_n_components"] == size)
    # One component shares its covariance with no other, so that candidate may be missing.
    return bool(results["resolved"][is_it].all())


def mixtures(rows: Rows) -> list[Parameters]:
    """Return mixtures of all structures with 1, 2, … components, about some rows."""
    found = []
    for i in range(_MIXTURES):
        k, kind = 1 + i // len(_TYPES), _TYPES[i % len(_TYPES)]
        model = GaussianMixture(k, covariance_type=kind, max_iter=1, algorithm="em", random_state=0)
        found.append(model.fit(rows).fitted_model_.parameters)
    return found


def sharing(folder: Path, n_rows: int) -> Table:
    """Return the table of a pass for many mixtures, compared with a pass for each of them."""
    rows = Planted(2.0, 5, 8).rows(n_rows)
    source = streamgmm.open(stored(folder, rows))
    memory = ArraySource(rows.round(_DECIMALS))
    models = mixtures(rows[:2000])
    together, separate, decoding, computing = [], [], [], []
    for _ in range(_ROUNDS):
        with ThreadExecutor(1) as executor:
            seconds, shared = timed(source, executor, models, is_shared=True)
            together.append(seconds)
            seconds, single = timed(source, executor, models, is_shared=False)
            separate.append(seconds)
            computing.append(timed(memory, executor, models, is_shared=False)[0] / len(models))
        start = time.process_time()
        for i in range(len(source.boundaries) - 1):
            source.read(i)
        decoding.append(time.process_time() - start)
        is_same = all(
            np.array_equal(one.moments, other.moments)
            and np.array_equal(one.scatter, other.scatter)
            and one.log_likelihood == other.log_likelihood
            for one, other in zip(shared, single, strict=True)
        )
        if not is_same:
            raise SystemExit("a shared pass gave other statistics than passes of their own")
    d, c, n = float(np.median(decoding)), float(np.median(computing)), len(models)
    ratio = float(np.median(np.array(separate) / together))
    bound = n * (d + c) / (d + n * c)
    cell = [
        f"{n_rows:,} × 8",
        f"{d:.3f}",
        f"{c:.4f}",
        f"{np.median(together):.2f}",
        f"{np.median(separate):.2f}",
        f"{ratio:.2f}",
        f"{bound:.2f}",
        f"{ratio / bound:.2f}",
        "yes",
    ]
    header = [
        "rows",
        "d, s",
        "c, s",
        "one pass for all, s",
        "a pass for each, s",
        "ratio",
        f"{n} (d + c) / (d + {n} c)",
        "part of it",
        "same bits",
    ]
    caption = (
        f"{n} mixtures of 1 to 8 components and 4 structures; seconds of the processor, median of "
        f"{_ROUNDS} rounds."
    )
    return Table(header, [cell], caption)


def timed(
    source: Source, executor: ThreadExecutor, models: Sequence[Parameters], is_shared: bool
) -> tuple[float, list[Statistics]]:
    """Return the seconds of the processor of passes for some mixtures, and the statistics."""
    reader = Reader(source, executor, lambda event: None)
    requests = [
        StatisticsRequest("iteration", model, Frame.of(model, source.dtype)) for model in models
    ]
    start = time.process_time()
    if is_shared:
        found = [*reader.answered_together(requests)]
    else:
        found = [reader.answered(request) for request in requests]
    return time.process_time() - start, found


def clusters(is_small: bool) -> Table:
    """Return the table of choices for clusters of Student-t rows."""
    cells = []
    for n_rows in (1000,) if is_small else (1000, 10_000, 100_000):
        random = np.random.default_rng(0)
        means = np.array([[0.0, 0.0], [_APART, 0.0], [0.0, _APART]])
        heavy = np.sqrt(_DEGREES_OF_FREEDOM / random.chisquare(_DEGREES_OF_FREEDOM, n_rows))
        rows = random.normal(size=(n_rows, 2)) * heavy[:, np.newaxis]
        rows += means[random.integers(0, 3, n_rows)]
        found = {
            criterion: GaussianMixtureSearch(
                range(1, 10), covariance_type="full", criterion=criterion, random_state=0
            ).fit(rows)
            for criterion in ("bic", "icl")
        }
        merged = found["bic"].best_estimator_.merged_components(rows)
        cells.append(
            [
                f"{n_rows:,}",
                str(found["bic"].best_params_["n_components"]),
                str(found["icl"].best_params_["n_components"]),
                str(merged.n_clusters),
            ]
        )
    header = ["rows", "components by BIC", "components by ICL", "clusters of merged components"]
    caption = (
        f"Three clusters of Student-t rows with {_DEGREES_OF_FREEDOM:g} degrees of freedom, means "
        f"{_APART:g} apart, D = 2."
    )
    return Table(header, cells, caption)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=float, default=1e6)
    parser.add_argument("--only", nargs="+", choices=_PARTS, default=_PARTS)
    parser.add_argument("--small", action="store_true", help="few rows, few candidates")
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)
    n_rows = 20_000 if options.small else int(options.rows)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "sharing").mkdir()
        parts = {
            "passes": lambda: passes(folder, n_rows, 4 if options.small else 12),
            "choices": lambda: choices(options.small),
            "sharing": lambda: sharing(folder / "sharing", n_rows),
            "clusters": lambda: clusters(options.small),
        }
        tables = [parts[part]() for part in options.only]
    command = f"python -m benchmarks.selection --rows {options.rows:g}"
    if len(options.only) < len(_PARTS):
        command += f" --only {' '.join(options.only)}"
    report("selection", command, tables, options.save and not options.small)


if __name__ == "__main__":
    main()
