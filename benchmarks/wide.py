"""The E-step with full covariances of many columns, relative to the matrix product.

The flops of a row and component are 2 D²: D² for a product with a triangular factor and D² for one
triangle of the second moments. Rows are in chunks as in a fit, and sums of chunks are merged. Each
chunk is computed beside a matrix product, because the speed of processors varies. With condition
number 10 all components take the expanded form, with 10,000 the centred one.
"""

import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial, reduce

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.reporting import Table
from streamgmm.core.e_step import EStep
from streamgmm.core.frame import Frame
from streamgmm.core.parameters import Parameters
from streamgmm.core.statistics import Statistics
from streamgmm.core.structures import Array

CELLS = tuple((d, k, c) for c in (10.0, 1e4) for d, k in ((256, 16), (768, 4), (768, 8)))
SMALL_CELLS = ((64, 4, 10.0), (64, 4, 1e6))
_CHUNK_ROWS = 1024
_ROUNDS = 5


def correlated(n_features: int, n_components: int, condition: float) -> Parameters:
    """Return overlapping components with covariances of a condition number, in random axes."""
    random = np.random.default_rng(0)
    variances = np.geomspace(1.0 / np.sqrt(condition), np.sqrt(condition), n_features)
    covariances = np.empty((n_components, n_features, n_features))
    for k in range(n_components):
        axes = np.linalg.qr(random.normal(size=(n_features, n_features)))[0]
        whole = (axes * variances) @ axes.T
        covariances[k] = 0.5 * (whole + whole.T)
    means = random.normal(scale=0.01 / np.sqrt(n_features), size=(n_components, n_features))
    weights = np.full(n_components, 1.0 / n_components)
    return Parameters.create("full", weights, means, covariances)


def table(threads: int, small: bool) -> Table:
    """Return the table of all cells, on one thread and on several."""
    counts = sorted({1, threads})
    header = ["D", "K", "condition", "form", "rows skipped"]
    for n in counts:
        header += [f"µs per row, {n} thread{'s' * (n > 1)}", "of the product"]
    rows = [_row(*cell, counts, 2 if small else 8) for cell in (SMALL_CELLS if small else CELLS)]
    return Table(header, rows, "E-steps with full covariances, float64.")


def _row(d: int, k: int, condition: float, counts: list[int], chunks: int) -> list[str]:
    parameters = correlated(d, k, condition)
    frame = Frame.of(parameters)
    expectation = EStep.prepare(parameters, frame, "float64")
    rows = np.random.default_rng(1).normal(size=(chunks * _CHUNK_ROWS, d))
    found = _pass(expectation, rows, map)
    cells = []
    for n in counts:
        seconds, part = _measured(expectation, rows, n, 2.0 * d * d * k * len(rows))
        cells += [f"{1e6 * seconds / len(rows):.1f}", f"{part:.0%}"]
    form = "centred" if frame.centred.size == k else "expanded"
    skipped = f"{found.n_passed_over / (k * len(rows)):.0%}"
    return [str(d), str(k), f"{condition:g}", form, skipped, *cells]


def _pass(expectation: EStep, rows: Array, mapped: Callable[..., object]) -> Statistics:
    """Return the statistics of all rows, chunk by chunk."""
    chunks = [rows[start : start + _CHUNK_ROWS] for start in range(0, len(rows), _CHUNK_ROWS)]
    return reduce(Statistics.merge, mapped(expectation.statistics, chunks))  # type: ignore[arg-type]


def _measured(expectation: EStep, rows: Array, n: int, flops: float) -> tuple[float, float]:
    """Return the best seconds of a pass, and the median part of the rate of a product beside it."""
    size = min(1024, 4 * rows.shape[1])
    square = np.random.default_rng(2).normal(size=(size, size))
    product = partial(np.matmul, square, square, out=np.empty_like(square))
    seconds, parts = [], []
    with threadpool_limits(n, user_api="blas"), ThreadPoolExecutor(n) as pool:
        for _ in range(_ROUNDS):
            roof = 2.0 * size**3 / min(_seconds(product) for _ in range(3))
            seconds.append(_seconds(partial(_pass, expectation, rows, pool.map)))
            parts.append(flops / seconds[-1] / roof)
    return min(seconds), statistics.median(parts)


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
