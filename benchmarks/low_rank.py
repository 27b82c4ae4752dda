"""Covariances of low rank compared with other types, the cost of a pass, and its memory.

``python -m benchmarks.low_rank [--rows 40000] [--components 8] [--small] [--save]``

The rows of the first table are patches of scikit-learn's two sample photographs, 8 × 8 pixels of 3
colours, in units of the largest pixel: 192 columns. The same patches are held out for all types,
and for the mixtures of scikit-learn with the same number of components. These get rows of float64,
because rows of float32 can make its matrices singular; their passes are iterations. The second
table has patches of 16 × 16 pixels, 768 columns, half as many rows, and half as many components.
The loss is the held-out log-likelihood of full covariances of this package less that of the line,
divided by the number of columns.

The third table is the passes of fits to patches of one colour, with many rows for each parameter of
a component: all passes, and those to a value near the end. The end is that of a fit that continues
for 40 passes at most, with a tolerance a hundredth as large.

The fourth table is a pass over standard normal rows in memory, on one thread, in turns with the
matrix product of NumPy of the same type; the figures are medians of processor seconds and of their
ratios. Full covariances are measured on an eighth of the rows. The flops of a pass are those of its
matrix products. For a row and component of low rank these are 2 (R + 2) D for the density, 2 S D
for S directions to spare, and 2 (R + S + 2) D for the moments; no such pair is skipped.

The fifth table is the peak memory of a process (ru_maxrss) that fits generated rows under a memory
limit, with two passes. The command fails if it is above the limit.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_sample_images
from sklearn.mixture import GaussianMixture as Peer
from threadpoolctl import threadpool_limits

from benchmarks.reporting import Table, report
from streamgmm import GaussianMixture
from streamgmm.core.e_step import EStep
from streamgmm.core.frame import Frame
from streamgmm.core.parameters import Parameters
from streamgmm.core.structures.low_rank import structure_name
from streamgmm.core.structures.low_rank_factors import joined
from streamgmm.core.structures.low_rank_update import n_spare
from streamgmm.events import ReadDone
from streamgmm.executors.memory import parse_bytes

# One patch in this many is held out.
_HELD_OUT = 5
_RANKS = (8, 16, 32, 64)
# Fits with many rows: rows, pixels of a side, components, rank.
_SHAPES = ((1_000_000, 8, 4, 4), (1_500_000, 8, 8, 8), (600_000, 6, 16, 4))
# Passes and matrix products, in turns, and the size of the latter.
_REPEATS, _SIZE = 7, 1024

_FIT = """
import json, resource, sys, time, warnings
import numpy as np
from benchmarks.low_rank import mixture
from streamgmm import GaussianMixture
from streamgmm.sources.generated import GeneratedSource
warnings.simplefilter("ignore")
(n, d, k, rank), limit, algorithm = json.loads(sys.argv[1]), *sys.argv[2:]
source = GeneratedSource(mixture("low_rank", d, k, rank), n, dtype=np.float32)
model = GaussianMixture(
    k, covariance_type="low_rank", rank=rank, algorithm=algorithm, max_iter=1, tol=0.0,
    random_state=0, memory_limit=limit,
)
start = time.perf_counter()
model.fit(source)
seconds = time.perf_counter() - start
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, model.n_reads_, seconds)
"""


def patches(n_rows: int, side: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return patches (n, 3 side²) to fit, and others to score."""
    values = _drawn([(image, ()) for image in load_sample_images().images], n_rows, side)
    return values[n_rows // _HELD_OUT :], values[: n_rows // _HELD_OUT]


def patches_of_one_colour(n_rows: int, side: int) -> NDArray[np.float32]:
    """Return patches (n, side²) of the colours of the photographs, one at a time."""
    images = load_sample_images().images
    return _drawn([(image, (colour,)) for image in images for colour in range(3)], n_rows, side)


def _drawn(
    parts: Sequence[tuple[NDArray[np.uint8], tuple[int, ...]]], n_rows: int, side: int
) -> NDArray[np.float32]:
    """Return patches from all over some photographs, each of all colours or of some."""
    windows = [
        np.lib.stride_tricks.sliding_window_view(
            image[:, :, list(colours)] if colours else image, (side, side), axis=(0, 1)
        )
        for image, colours in parts
    ]
    n_windows = [window.shape[0] * window.shape[1] for window in windows]
    ends = np.cumsum(n_windows)
    chosen = np.random.default_rng(0).choice(ends[-1], n_rows, replace=False)
    n_columns = windows[0][0, 0].size
    values = np.empty((n_rows, n_columns), np.float32)
    for own, window in enumerate(windows):
        first = ends[own] - n_windows[own]
        places = np.flatnonzero((chosen >= first) & (chosen < ends[own]))
        lines, columns = np.divmod(chosen[places] - first, window.shape[1])
        values[places] = window[lines, columns].reshape(len(places), n_columns)
    return values / np.float32(255.0)


def quality(
    n_rows: int, side: int, n_components: int, ranks: tuple[int, ...], max_iter: int
) -> Table:
    """Return a table of held-out log-likelihoods and seconds of fits."""
    fitted, held_out = patches(n_rows, side)
    settings: list[dict[str, Any]] = [
        {"covariance_type": "diag"},
        *({"covariance_type": "low_rank", "rank": rank} for rank in ranks),
        {"covariance_type": "tied"},
        {"covariance_type": "full"},
    ]
    found = [
        _quality(GaussianMixture, fitted, held_out, n_components, max_iter, setting)
        for setting in settings
    ]
    found += [
        _quality(Peer, fitted, held_out, n_components, max_iter, {"covariance_type": kind})
        for kind in ("diag", "tied", "full")
    ]
    full = found[len(settings) - 1].held_out
    rows = [
        [
            one.name,
            f"{one.n_parameters:,}",
            f"{one.fitted:.1f}",
            f"{one.held_out:.1f}",
            f"{(full - one.held_out) / fitted.shape[1]:.3f}",
            f"{one.n_passes:.3g}",
            f"{one.seconds:.1f}",
        ]
        for one in found
    ]
    header = ["covariances", "parameters", "fitted, nats/row", "held out, nats/row"]
    header += ["loss, nats/row and column", "passes", "s"]
    caption = (
        f"{len(fitted):,} patches of {side} × {side} × 3 to fit, {len(held_out):,} held out, "
        f"K = {n_components}"
    )
    return Table(header, rows, caption)


@dataclass(frozen=True)
class _Quality:
    name: str
    n_parameters: int
    fitted: float
    held_out: float
    n_passes: float
    seconds: float


def _quality(
    kind: type[Any],
    fitted: NDArray[np.float32],
    held_out: NDArray[np.float32],
    n_components: int,
    max_iter: int,
    setting: dict[str, Any],
) -> _Quality:
    """Fit a mixture of this package or of scikit-learn, and say how well it predicts."""
    model = kind(n_components, random_state=0, max_iter=max_iter, **setting)
    is_own = kind is GaussianMixture
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if is_own:
            # Kernels are compiled before the time is taken.
            GaussianMixture(1, algorithm="em", max_iter=1, **setting).fit(fitted[:2000])
        else:
            fitted, held_out = fitted.astype(np.float64), held_out.astype(np.float64)
        start = time.perf_counter()
        model.fit(fitted)
        seconds = time.perf_counter() - start
    name = " ".join(str(value) for value in setting.values())
    return _Quality(
        name if is_own else f"scikit-learn {name}",
        model.n_parameters_ if is_own else model._n_parameters(),
        model.score(fitted),
        model.score(held_out),
        model.n_reads_ if is_own else model.n_iter_,
        seconds,
    )


def passes(shapes: Sequence[tuple[int, int, int, int]], tolerance: float, max_iter: int) -> Table:
    """Return a table of the passes of fits to patches of one colour.

    Parameters
    ----------
    shapes : sequence of tuple of int
        Rows, pixels of a side, components and rank.
    tolerance : float
        Nats per row.
    max_iter : int
    """
    rows = []
    for n_rows, side, k, rank in shapes:
        values = patches_of_one_colour(n_rows, side)
        done: list[ReadDone] = []
        model = GaussianMixture(
            k,
            covariance_type="low_rank",
            rank=rank,
            tol=tolerance,
            max_iter=max_iter,
            random_state=0,
            callbacks=[lambda event, kept=done: kept.append(event)],
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            start = time.perf_counter()
            model.fit(values)
            seconds = time.perf_counter() - start
            n_passes, reached = model.n_reads_, model.lower_bound_
            model.set_params(callbacks=(), warm_start=True, tol=tolerance / 100.0)
            end = model.fit(values).lower_bound_
        visits = [one for one in done if isinstance(one, ReadDone) and one.iteration]
        near = next(
            (i for i, one in enumerate(visits) if one.log_likelihood >= end - tolerance), None
        )
        of_parameter = n_rows * k / model.n_parameters_
        line = [f"{n_rows:,}", str(side**2), str(k), str(rank), f"{of_parameter:,.0f}"]
        line += [f"{n_passes:.3g}", f"{end - reached:.4f}"]
        before = n_passes - len(visits)
        line += ["never" if near is None else f"{before + near + 1:.3g}", f"{seconds:.0f}"]
        rows.append(line)
    header = ["rows", "columns", "K", "rank", "rows K/p", "passes", "below the end, nats/row"]
    header += [f"passes to {tolerance:g} of the end", "s"]
    return Table(header, rows, f"Patches of one colour, tol = {tolerance:g}")


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


def cost(n_features: int, numbers: Sequence[int], rank: int, n_rows: int) -> Table:
    """Return a table of the seconds of a pass on one thread, for some numbers of components."""
    flops = {
        "diag": 8 * n_features,
        f"low_rank {rank}": 4 * n_features * (rank + n_spare(rank, n_features) + 2),
        "full": 2 * n_features**2,
    }
    found = []
    for k in numbers:
        for dtype in (np.float32, np.float64):
            rows = np.random.default_rng(1).normal(size=(n_rows, n_features)).astype(dtype)
            # Full covariances of many components would take minutes.
            names = [name for name in flops if name != "full" or k == min(numbers)]
            cells = {name: pass_cell(name, rows, k, rank, flops[name]) for name in names}
            for name, (seconds, part) in cells.items():
                line = [name, str(k), np.dtype(dtype).name, f"{seconds:.2f}"]
                line += [f"{n_rows * k * flops[name] / seconds / 1e9:.1f}", f"{part:.2f}"]
                line.append(f"{cells['full'][0] / seconds:.1f}" if "full" in cells else "")
                found.append(line)
    header = ["covariances", "K", "rows", "s", "Gflops/s", "of products", "times as fast as full"]
    return Table(header, found, f"{n_rows:,} rows × {n_features} columns, one thread")


def pass_cell(
    name: str, rows: NDArray[np.floating], k: int, rank: int, flops: int
) -> tuple[float, float]:
    """Return the seconds of a pass over rows, and its rate over that of matrix products."""
    part = 8 if name == "full" else 1
    parameters = mixture(name.split()[0], rows.shape[1], k, rank)
    frame = Frame.of(parameters, rows.dtype).with_directions(parameters)
    prepared = EStep.prepare(parameters, frame)
    own = rows[::part]
    seconds, ratio = beside_products(
        lambda: prepared.statistics(own), len(own) * k * flops, rows.dtype
    )
    return part * seconds, ratio


def beside_products(call: Callable[[], object], flops: float, dtype: Any) -> tuple[float, float]:
    """Return the median seconds of a call, and of its rate over that of matrix products."""
    a, b = np.random.default_rng(0).normal(size=(2, _SIZE, _SIZE)).astype(dtype)
    call()
    seconds, parts = [], []
    with threadpool_limits(1, user_api="blas"):
        a @ b
        for _ in range(_REPEATS):
            of_product = processor_seconds(lambda: a @ b)
            seconds.append(processor_seconds(call))
            parts.append(flops / seconds[-1] * of_product / (2.0 * _SIZE**3))
    return statistics.median(seconds), statistics.median(parts)


def processor_seconds(call: Callable[[], object]) -> float:
    """Return the processor seconds of a call."""
    start = time.process_time()
    call()
    return time.process_time() - start


def memory(
    n_rows: int,
    n_features: int,
    n_components: int,
    rank: int,
    limit: str,
    algorithms: Sequence[str],
) -> Table:
    """Return a table of the peak memory of fits, each in a process of its own.

    Raises
    ------
    RuntimeError
        If a peak is above the limit.
    """
    shape = n_rows, n_features, n_components, rank
    found = []
    # Kernels are compiled in another process, because compiling takes memory too.
    _measured((2000, 64, 2, 4), "16GiB", "auto")
    for algorithm in algorithms:
        peak, n_passes, seconds = _measured(shape, limit, algorithm)
        if peak > parse_bytes(limit):
            raise RuntimeError(f"the process took {peak / 2**20:.0f} MiB under a limit of {limit}")
        line = [algorithm, f"{n_rows:,}", str(n_features), str(n_components), str(rank), limit]
        found.append([*line, f"{peak / 2**20:.0f}", f"{n_passes:.3g}", f"{seconds:.0f}"])
    header = ["algorithm", "rows", "columns", "K", "rank", "limit", "peak, MiB", "passes", "s"]
    return Table(header, found, "Generated rows of float32")


def _measured(
    shape: tuple[int, int, int, int], limit: str, algorithm: str
) -> tuple[float, float, float]:
    """Return the peak memory of a fit in a process of its own, its passes and its seconds."""
    command = [sys.executable, "-c", _FIT, json.dumps(shape), limit, algorithm]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    peak, n_passes, seconds = map(float, output.split()[-3:])
    return peak, n_passes, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=lambda text: int(float(text)), default=40_000)
    parser.add_argument("--components", type=int, default=8)
    parser.add_argument("--small", action="store_true", help="few rows, few columns")
    parser.add_argument("--save", action="store_true", help="write the tables to results")
    chosen = parser.parse_args()
    if chosen.small:
        tables = [
            quality(1500, 8, 2, (4,), 5),
            passes([(20_000, 4, 2, 2)], 1e-2, 5),
            cost(64, (2, 4), 4, 2048),
            memory(2000, 64, 4, 2, "1GiB", ["em", "auto"]),
        ]
    else:
        tables = [
            quality(chosen.rows, 8, chosen.components, _RANKS, 100),
            quality(chosen.rows // 2, 16, chosen.components // 2, _RANKS, 100),
            passes(_SHAPES, 1e-3, 40),
            cost(768, (16, 64), 16, 4096),
            memory(1_000_000, 1536, 64, 16, "1GiB", ["em", "auto"]),
        ]
    command = f"python -m benchmarks.low_rank --rows {chosen.rows} --components {chosen.components}"
    report("low_rank", command, tables, chosen.save)


if __name__ == "__main__":
    main()
