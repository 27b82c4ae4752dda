"""Float32 compared with float64: speed, and loss of digits.

``python -m benchmarks.arithmetic [--pairs 9] [--small] [--save]``

The benchmark measures seconds of one chunk of float32 rows, with ``arithmetic="float32"`` and
``"float64"`` in turns on one thread. Means have a standard deviation of 1 or 3. Variances are near
1; the smallest is 0.1. The second table has ``"auto"``, which gives the same bits as ``"float64"``,
for well separated components of many columns, where float32 rules out most pairs.
"""

import argparse
import statistics
import time

import numpy as np

from benchmarks.planted import Problem
from benchmarks.reporting import Table, report
from streamgmm.core.e_step import EStep
from streamgmm.core.frame import Frame
from streamgmm.core.maximization import maximize
from streamgmm.core.parameters import Parameters

SHAPES = (("full", 2, 8), ("full", 4, 16), ("full", 8, 16), ("tied", 8, 16), ("diag", 16, 64))
SHAPES += (("spherical", 16, 64),)
SEPARATED = ((64, 256), (128, 256), (256, 512))


def whitened_difference(found: Parameters, reference: Parameters) -> float:
    """Return the largest element of L⁻¹ (Σ' - Σ) L⁻ᵀ over components."""
    inverse = reference.stacked(reference.inverse_factors)
    change = found.stacked(found.covariances) - reference.stacked(reference.covariances)
    if not reference.structure.has_directions:
        return float(np.abs(change * inverse**2).max())
    return float(np.abs(inverse @ change @ np.swapaxes(inverse, 1, 2)).max())


def measured(problem: Problem, pairs: int) -> list[str]:
    """Return the cells of a problem."""
    start, rows = problem.start, problem.rows
    frame = Frame.of(start, rows.dtype)
    single, double = (EStep.prepare(start, frame, a) for a in ("float32", "float64"))
    found, reference = single.statistics(rows), double.statistics(rows)
    ratios = speeds(single, double, rows, pairs)
    n_pairs = problem.n_rows * problem.n_components
    likelihood = found.mean_log_likelihood - reference.mean_log_likelihood
    steps = (maximize(s, start).parameters for s in (found, reference))
    return [
        str(problem),
        f"{problem.spread:g}",
        f"{found.n_single / n_pairs:.0%}",
        "float32" if single.sums_single and found.n_single else "float64",
        f"{statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})",
        f"{abs(likelihood):.0e}",
        f"{whitened_difference(*steps):.0e}",
    ]


def speeds(one: EStep, other: EStep, rows: np.ndarray, pairs: int) -> list[float]:
    """Return how many times as fast as another an E-step is, measured in turns."""
    ratios = []
    for _ in range(pairs):
        seconds = []
        for expectation in (one, other):
            begin = time.perf_counter()
            expectation.statistics(rows)
            seconds.append(time.perf_counter() - begin)
        ratios.append(seconds[1] / seconds[0])
    return ratios


def screened(n_rows: int, d: int, k: int, pairs: int) -> list[str]:
    """Return the cells of well separated components with diagonal covariances."""
    problem = Problem("diag", n_rows, d, k)
    start, rows = problem.start, problem.rows
    frame = Frame.of(start, rows.dtype)
    auto, double = (EStep.prepare(start, frame, a) for a in ("auto", "float64"))
    found, reference = auto.statistics(rows), double.statistics(rows)
    is_equal = np.array_equal(found.moments, reference.moments)
    is_equal &= found.log_likelihood == reference.log_likelihood
    ratios = speeds(auto, double, rows, pairs)
    return [
        str(problem),
        f"{found.n_screened / (n_rows * k):.1%}",
        "yes" if is_equal else "no",
        f"{statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--small", action="store_true", help="few rows")
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    n_rows = 8_192 if options.small else 65_536
    rows = [
        measured(Problem(kind, n_rows, d, k, "float32", spread), options.pairs)  # type: ignore[arg-type]
        for spread in (1.0, 3.0)
        for kind, d, k in SHAPES
    ]
    header = ["data", "spread of means", "densities in float32", "sums", "times as fast"]
    header += ["log-likelihood differs by, nats per row", "covariances after a step by, whitened"]
    many = 2048 if options.small else 16_384
    shapes = SEPARATED[: 1 if options.small else None]
    separated = [screened(many, d, k, options.pairs) for d, k in shapes]
    columns = ["data, well separated", "ruled out by float32", "same bits", "times as fast"]
    tables = [Table(header, rows), Table(columns, separated)]
    command = f"python -m benchmarks.arithmetic --pairs {options.pairs}"
    report("arithmetic", command, tables, options.save)


if __name__ == "__main__":
    main()
