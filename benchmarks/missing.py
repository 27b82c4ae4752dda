"""Rows with missing values: their cost compared with complete rows, and their information.

``python -m benchmarks.missing [--pairs 5] [--samples 40] [--small] [--save]``

Cost is the ratio of seconds per pass of the same rows with and without gaps, measured in turns.
Information is measured by fits to many samples of one planted mixture, in which 30 % of the values
are missing: at random, but more often where the first value is large. Errors of the estimates are
in standard errors, from the spread over samples.
"""

import argparse
import statistics
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning

import streamgmm
from benchmarks.planted import Problem
from benchmarks.reporting import Table, report
from streamgmm import GaussianMixture
from streamgmm.core.mixtures.sampling import draw
from streamgmm.core.parameters import Parameters
from streamgmm.core.structures import STRUCTURES

Rows = NDArray[Any]
READS = 3


def one_value(rows: Rows, random: np.random.Generator) -> Rows:
    """A tenth of the rows lack one value."""
    chosen = np.flatnonzero(random.random(len(rows)) < 0.1)
    gaps = rows.copy()
    gaps[chosen, random.integers(0, rows.shape[1], chosen.size)] = np.nan
    return gaps


def some_values(rows: Rows, random: np.random.Generator) -> Rows:
    """A tenth of the rows lack 30 % of their values."""
    is_chosen = random.random((len(rows), 1)) < 0.1
    return np.where(is_chosen & (random.random(rows.shape) < 0.3), np.nan, rows)


def many_values(rows: Rows, random: np.random.Generator) -> Rows:
    """All rows lack 30 % of their values."""
    return np.where(random.random(rows.shape) < 0.3, np.nan, rows)


KINDS: tuple[Callable[..., Rows], ...] = (one_value, some_values, many_values)


def seconds_a_read(problem: Problem, rows: Rows) -> float:
    """Return the median over the passes of a fit with ``missing="em"``."""
    model = problem.model(max_iter=READS).fit(streamgmm.open(rows, missing="em"))
    return statistics.median(read["seconds"] for read in model.history_)


def cost(problem: Problem, pairs: int) -> list[str]:
    """Return the cells of a problem: ratios of rows with each kind of gaps to complete rows."""
    random = np.random.default_rng(0)
    complete = problem.rows
    cells = []
    for kind in KINDS:
        gaps = kind(complete, random)
        seconds_a_read(problem, gaps)
        ratios = [
            seconds_a_read(problem, gaps) / seconds_a_read(problem, complete) for _ in range(pairs)
        ]
        cells.append(f"{statistics.median(ratios):.1f} ({min(ratios):.1f}–{max(ratios):.1f})")
    return cells


def worth(covariance_type: Any, n_rows: int, n_samples: int) -> list[list[str]]:
    """Return the cells of ``missing="em"`` and of ``missing="drop"``."""
    planted = Problem(covariance_type, n_rows, 8, 2).planted
    start = {
        "weights_init": planted.weights,
        "means_init": planted.means,
        "precisions_init": planted.precisions,
    }
    random = np.random.default_rng(0)
    estimates: dict[str, list[NDArray[np.float64]]] = {"em": [], "drop": []}
    n_complete = 0
    for _ in range(n_samples):
        rows, _ = draw(planted, n_rows, random)
        part = np.where(rows[:, :1] > planted.means[:, 0].mean(), 0.38, 0.31)
        rows[:, 1:][random.random((n_rows, 7)) < part] = np.nan
        n_complete += int((~np.isnan(rows).any(axis=1)).sum())
        for missing, found in estimates.items():
            model = GaussianMixture(
                2,
                covariance_type=covariance_type,
                algorithm="em",
                tol=1e-9,
                reg_covar=0.0,
                max_iter=1000,
                **start,
            ).fit(streamgmm.open(rows, missing=missing))  # type: ignore[arg-type]
            found.append(flat(model.fitted_model_.parameters))
    truth = flat(planted)
    reference = np.std(estimates["em"], axis=0, ddof=1)
    rows_kept = {"em": 1.0, "drop": n_complete / (n_rows * n_samples)}
    table = []
    for missing, found in estimates.items():
        errors = np.array(found) - truth
        deviations = errors.std(axis=0, ddof=1)
        bias = np.abs(errors.mean(axis=0)) / (deviations / np.sqrt(n_samples))
        table.append(
            [
                covariance_type,
                f'"{missing}"',
                f"{rows_kept[missing]:.1%}",
                f"{(np.abs(errors) < 3.0 * reference).mean():.1%}",
                f"{bias.max():.1f}",
                f"{np.median(deviations / reference):.1f}",
            ]
        )
    return table


def flat(parameters: Parameters) -> NDArray[np.float64]:
    """Return all means and (each once) covariances."""
    covariances = parameters.covariances
    if parameters.structure.has_directions:
        upper = np.triu_indices(parameters.n_features)
        covariances = covariances[..., upper[0], upper[1]]
    return np.concatenate([parameters.means.ravel(), covariances.ravel()])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--samples", type=int, default=40)
    parser.add_argument("--small", action="store_true", help="few rows")
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)
    n_rows = 50_000 if options.small else 500_000
    shapes = [(8, 4), (8, 16)] if options.small else [(8, 4), (8, 16), (8, 64), (32, 32)]
    problems = [
        Problem(covariance_type, n_rows * 8 // d, d, k)
        for covariance_type in STRUCTURES
        for d, k in shapes
    ]
    costs = Table(
        ["rows, components", *(str(kind.__doc__).rstrip(".").lower() for kind in KINDS)],
        [[str(problem), *cost(problem, options.pairs)] for problem in problems],
        'Seconds per pass with `missing="em"`, over those of complete rows.',
    )
    size = 2_000 if options.small else 20_000
    values = Table(
        [
            "type",
            "missing=",
            "rows used",
            'estimates within 3 standard errors of "em"',
            "largest bias, standard errors of the mean over samples",
            'standard errors, over those of "em"',
        ],
        [row for t in STRUCTURES for row in worth(t, size, options.samples)],
        f"Means and covariances of {options.samples} fits to {size:,} × 8 rows each, K = 2.",
    )
    command = f"python -m benchmarks.missing --pairs {options.pairs} --samples {options.samples}"
    report("missing", command, [costs, values], options.save)


if __name__ == "__main__":
    main()
