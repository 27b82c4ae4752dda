"""The search for the number of components and the structure: passes, choices, and shared passes.

``python -m benchmarks.selection [--rows 1e6] [--only passes choices sharing clusters] [--small]
[--save]``

1. Searches of stored rows: passes over the data, and time beside fits of each complete candidate
   alone. Each complete candidate is compared with a separate fit from the same start.
2. Choices: the winner of the search, and the best of separate fits with 10 restarts for each
   candidate, for a suite of planted populations.
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
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning

import streamgmm
from benchmarks.reads.cells import Planted
from benchmarks.reporting import Table, report
from streamgmm import GaussianMixture, GaussianMixtureSearch
from streamgmm.algorithms.reads.reader import Reader, StatisticsRequest
from streamgmm.core.frame import Frame
from streamgmm.core.parameters import Parameters
from streamgmm.core.statistics import Statistics
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
# Separations of means (Dasgupta), components, features and rows of the suite of choices.
_SEPARATIONS, _SIZES, _ROWS = (1.0, 2.0, 3.0), ((2, 2), (3, 2), (4, 3), (5, 4)), (2_000,)
_RESTARTS = 10
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


def choices(is_small: bool) -> Table:
    """Return the table of winners beside the best of separate fits."""
    cells = []
    separations = _SEPARATIONS[1:2] if is_small else _SEPARATIONS
    shapes = _SIZES[:1] if is_small else _SIZES
    n_same = n_cells = 0
    for separation in separations:
        for k, d in shapes:
            for n_rows in _ROWS[:1] if is_small else _ROWS:
                cell, is_same = chosen(separation, k, d, n_rows, 2 if is_small else _RESTARTS)
                cells.append(cell)
                n_same, n_cells = n_same + is_same, n_cells + 1
    header = [
        "population",
        "rows",
        "search",
        "BIC",
        "separate fits",
        "their BIC above that of the search",
    ]
    share = f"The same winner in {n_same} of {n_cells} cells ({n_same / n_cells:.0%})."
    return Table(header, cells, f"BIC chooses among K = 1 to k + 2, full and diag. {share}")


def chosen(
    separation: float, k: int, d: int, n_rows: int, n_restarts: int
) -> tuple[list[str], bool]:
    """Return the row of a population, and whether the winners are the same."""
    rows = Planted(separation, k, d).rows(n_rows)
    sizes, kinds = range(1, k + 3), ("full", "diag")
    search = GaussianMixtureSearch(sizes, covariance_type=kinds, random_state=0).fit(rows)
    tol = min(search.tol, 0.5 * math.log(n_rows) / n_rows)
    degenerate = {
        (str(kind), int(size))
        for kind, size, is_lost in zip(
            search.cv_results_["param_covariance_type"],
            search.cv_results_["param_n_components"],
            search.cv_results_["degenerate"],
            strict=True,
        )
        if is_lost
    }
    found = {}
    for kind in kinds:
        for size in sizes:
            if (kind, size) in degenerate:
                continue
            model = GaussianMixture(
                size, covariance_type=kind, n_init=n_restarts, tol=tol, random_state=1
            )
            found[kind, size] = model.fit(rows).bic_
    kind, size = min(found, key=lambda candidate: found[candidate])
    own = search.best_params_
    is_same = own == {"n_components": size, "covariance_type": kind}
    cell = [
        f"separation {separation:g}, k = {k}, D = {d}",
        f"{n_rows:,}",
        f"{own['covariance_type']}, {own['n_components']}",
        f"{search.best_score_:.1f}",
        f"{kind}, {size}",
        f"{found[kind, size] - search.best_score_:+.2f}",
    ]
    return cell, is_same


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
