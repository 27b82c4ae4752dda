"""Covariances of low rank compared with other types, and the cost of a pass.

``python -m benchmarks.low_rank [--rows 40000] [--components 8] [--small] [--save]``

The rows of the first table are patches of scikit-learn's two sample photographs, 8 × 8 pixels of 3
colours, in units of the largest pixel: 192 columns. The same patches are held out for all types.
The second table is a pass over standard normal rows in memory, on one thread, beside the matrix
products of NumPy. Full covariances are measured on an eighth of the rows. The flops of a pass are
those of its matrix products, 4 (R + 1) D for a row and component of low rank.
"""

import argparse
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_sample_images
from threadpoolctl import threadpool_limits

from benchmarks.reporting import Table, report
from benchmarks.roofline import measure_roof
from streamgmm import GaussianMixture
from streamgmm.core.e_step import EStep
from streamgmm.core.frame import Frame
from streamgmm.core.parameters import Parameters
from streamgmm.core.structures.low_rank import structure_name
from streamgmm.core.structures.low_rank_factors import joined

_SIDE = 8
# One patch in this many is held out.
_HELD_OUT = 5
_RANKS = (8, 16, 32, 64)
_REPEATS = 5


def patches(n_rows: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return patches (n, 192) to fit, and others to score."""
    images = load_sample_images().images
    windows = [
        np.lib.stride_tricks.sliding_window_view(image, (_SIDE, _SIDE), axis=(0, 1))
        for image in images
    ]
    n_of = [window.shape[0] * window.shape[1] for window in windows]
    chosen = np.random.default_rng(0).choice(sum(n_of), n_rows, replace=False)
    rows = []
    for index in chosen.tolist():
        own = int(index >= n_of[0])
        line, column = divmod(index - own * n_of[0], windows[own].shape[1])
        rows.append(windows[own][line, column].ravel())
    values = np.stack(rows).astype(np.float32) / 255.0
    return values[n_rows // _HELD_OUT :], values[: n_rows // _HELD_OUT]


def quality(n_rows: int, n_components: int, ranks: tuple[int, ...], max_iter: int) -> Table:
    """Return a table of held-out log-likelihoods and seconds of fits."""
    fitted, held_out = patches(n_rows)
    settings: list[dict[str, Any]] = [
        {"covariance_type": "diag"},
        *({"covariance_type": "low_rank", "rank": rank} for rank in ranks),
        {"covariance_type": "tied"},
        {"covariance_type": "full"},
    ]
    rows = []
    for setting in settings:
        # Kernels are compiled before the time is taken.
        model = GaussianMixture(n_components, random_state=0, max_iter=max_iter, **setting)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            GaussianMixture(1, algorithm="em", max_iter=1, **setting).fit(fitted[:500])
            start = time.perf_counter()
            model.fit(fitted)
        seconds = time.perf_counter() - start
        name = " ".join(str(value) for value in setting.values())
        rows.append(
            [
                name,
                f"{model.n_parameters_:,}",
                f"{model.score(fitted):.1f}",
                f"{model.score(held_out):.1f}",
                f"{model.n_reads_:.3g}",
                f"{seconds:.1f}",
            ]
        )
    header = ["covariances", "parameters", "fitted, nats/row", "held out, nats/row", "passes", "s"]
    caption = f"{len(fitted):,} patches to fit, {len(held_out):,} held out, K = {n_components}"
    return Table(header, rows, caption)


def mixture(covariance_type: str, n_features: int, n_components: int, rank: int) -> Parameters:
    """Return a mixture near the standard normal distribution."""
    random = np.random.default_rng(0)
    shape = n_components, n_features
    means = random.normal(scale=0.02, size=shape)
    loadings = random.normal(scale=0.02, size=(*shape, rank))
    name = structure_name("low_rank", rank, n_features)
    covariances: Any = joined(loadings, np.ones(shape))
    if covariance_type == "diag":
        name, covariances = "diag", np.ones(shape)
    elif covariance_type == "full":
        name, covariances = "full", np.broadcast_to(np.eye(n_features), (*shape, n_features))
    weights = np.full(n_components, 1.0 / n_components)
    return Parameters.create(name, weights, means, covariances)


def cost(n_features: int, n_components: int, rank: int, n_rows: int) -> Table:
    """Return a table of the seconds of a pass on one thread."""
    rows = np.random.default_rng(1).normal(size=(n_rows, n_features)).astype(np.float32)
    pairs = n_rows * n_components
    with threadpool_limits(1, user_api="blas"):
        roof = measure_roof(1024, [1])
        rates = roof.rates["float32", 1], roof.rates["float64", 1]
        found = []
        for name, flops, part in (
            ("diag", 8 * n_features, 1),
            (f"low_rank {rank}", 4 * n_features * (rank + 1), 1),
            ("full", 2 * n_features**2, 8),
        ):
            parameters = mixture(name.split()[0], n_features, n_components, rank)
            prepared = EStep.prepare(parameters, Frame.of(parameters, np.float32))
            seconds = part * median_seconds(lambda e=prepared, n=part: e.statistics(rows[::n]))
            rate = pairs * flops / seconds
            found.append(
                [
                    name,
                    f"{seconds:.2f}",
                    f"{rate / 1e9:.1f}",
                    f"{rate / rates[0]:.2f}",
                    f"{rate / rates[1]:.2f}",
                ]
            )
    header = ["covariances", "s", "Gflops/s", "of float32 products", "of float64 products"]
    caption = (
        f"{n_rows:,} rows of float32 × {n_features}, K = {n_components}, computed in float64; "
        f"matrix products in float32 {rates[0] / 1e9:.0f}, in float64 {rates[1] / 1e9:.0f} Gflops/s"
    )
    return Table(header, found, caption)


def median_seconds(call: Callable[[], object]) -> float:
    """Return the median seconds of some calls after a first one."""
    call()
    seconds = []
    for _ in range(_REPEATS):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=lambda text: int(float(text)), default=40_000)
    parser.add_argument("--components", type=int, default=8)
    parser.add_argument("--small", action="store_true", help="few rows, few columns")
    parser.add_argument("--save", action="store_true", help="write the tables to results")
    chosen = parser.parse_args()
    if chosen.small:
        tables = [quality(1500, 2, (4,), 5), cost(64, 2, 4, 2048)]
    else:
        tables = [
            quality(chosen.rows, chosen.components, _RANKS, 100),
            cost(768, 16, 16, 8192),
        ]
    command = f"python -m benchmarks.low_rank --rows {chosen.rows} --components {chosen.components}"
    report("low_rank", command, tables, chosen.save)


if __name__ == "__main__":
    main()
