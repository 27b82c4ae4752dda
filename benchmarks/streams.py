"""Learning from a stream: speed, accuracy, and the response to a change.

``python -m benchmarks.streams [--rows 1e6] [--stationary 1e7] [--seeds 10] [--small] [--save]``

Speed is that of ``partial_fit``, batch by batch. It is compared with the E-step alone on one
thread, scikit-learn's MiniBatchKMeans, its GaussianMixture fitted again to each batch from the
previous parameters, and river's KMeans if it is installed (``pip install -e '.[benchmarks]'``).
Models are scored on held-out rows, and compared with a batch fit to all rows; after a change, with
the mixture from which the new rows are drawn.
"""

import argparse
import importlib.util
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
import sklearn.mixture
from numpy.typing import NDArray
from sklearn.cluster import MiniBatchKMeans
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits

from benchmarks.planted import planted_mixture
from benchmarks.reads.cells import Planted
from benchmarks.reporting import Table, report
from streamgmm import GaussianMixture, OnlineGaussianMixture
from streamgmm.core.e_step import EStep
from streamgmm.core.frame import Frame
from streamgmm.core.mixtures.sampling import draw
from streamgmm.core.parameters import Parameters
from streamgmm.core.structures.low_rank import structure_name
from streamgmm.core.structures.low_rank_factors import joined

Rows = NDArray[np.float64]
Learn = Callable[[Rows], Any]

_HELD_OUT = 100_000
_SEPARATION, _N_COMPONENTS, _N_FEATURES = 2.0, 16, 8
# Covariances of low rank have more columns than the directions of their moments.
_RANK, _LOW_RANK_COMPONENTS, _LOW_RANK_FEATURES = 4, 8, 32
# Approximate seconds of timing for each way of learning, and seconds of a segment; the best counts.
_SECONDS, _SEGMENT = 1.5, 0.05
# Rows that are learned before timing, and rows of the first search among them.
_WARM_UP, _INIT_SIZE = 100_000, 1 << 14


def shuffled(mixture: Parameters, n_rows: int, seed: int) -> Rows:
    """Return rows of a mixture in random order."""
    random = np.random.default_rng(seed)
    rows, _ = draw(mixture, n_rows, random)
    return rows[random.permutation(n_rows)]


def batches(rows: Rows, size: int) -> Iterator[Rows]:
    """Yield the rows in batches of a size."""
    return (rows[start : start + size] for start in range(0, len(rows), size))


def learned(model: OnlineGaussianMixture, rows: Rows, size: int) -> OnlineGaussianMixture:
    """Return the model after it has learned the rows."""
    for batch in batches(rows, size):
        model.partial_fit(batch)
    return model


def mean_score(mixture: Parameters, rows: Rows) -> float:
    """Return the mean score of rows under a mixture."""
    return EStep.prepare(mixture, Frame.of(mixture)).statistics(rows).mean_log_likelihood


def seconds_a_batch(learn: Learn, rows: Rows, size: int) -> float:
    """Return the seconds per batch of the fastest segment of a stream."""
    stream = iter(())  # type: Iterator[Rows]
    best, begin = np.inf, time.perf_counter()
    while np.isinf(best) or time.perf_counter() - begin < _SECONDS:
        start, n_batches = time.perf_counter(), 0
        while n_batches == 0 or time.perf_counter() - start < _SEGMENT:
            batch = next(stream, None)
            if batch is None or len(batch) < size:
                stream = batches(rows, size)
                batch = next(stream)
            learn(batch)
            n_batches += 1
        best = min(best, (time.perf_counter() - start) / n_batches)
    return best


def ways(rows: Rows, n_components: int, size: int) -> dict[str, Learn]:
    """Return functions that learn a batch, by name, after their first batches."""
    online = OnlineGaussianMixture(n_components, init_size=_INIT_SIZE, random_state=0)
    online.partial_fit(rows[:_WARM_UP])
    parameters = online.fitted_model_.parameters
    expectation = EStep.prepare(parameters, Frame.of(parameters))
    found: dict[str, Learn] = {
        "streamgmm": online.partial_fit,
        "E-step alone": expectation.statistics,
    }
    means = MiniBatchKMeans(n_components, random_state=0, n_init=1).partial_fit(rows[:_WARM_UP])
    found["MiniBatchKMeans"] = means.partial_fit
    if size >= 100 * n_components:
        again = sklearn.mixture.GaussianMixture(n_components, warm_start=True, random_state=0)
        found["GaussianMixture, refitted"] = again.fit(rows[:_WARM_UP]).fit
    if importlib.util.find_spec("river"):
        from river.cluster import KMeans

        river = KMeans(n_components, seed=0)

        def learn_each(batch: Rows) -> None:
            for row in batch.tolist():
                river.learn_one(dict(enumerate(row)))

        learn_each(rows[:100])
        found["river's KMeans"] = learn_each
    return found


def speed(shapes: Sequence[tuple[int, int]], sizes: Sequence[int]) -> Table:
    """Return a table with a row for each shape and size of batches."""
    names = list(ways(shuffled(planted_mixture(2, 2), 2 * _WARM_UP, 0), 2, 1000))
    cells = []
    for n_features, n_components in shapes:
        rows = shuffled(planted_mixture(n_features, n_components), 4 * _WARM_UP, 0)
        for size in sizes:
            found = ways(rows, n_components, size)
            with threadpool_limits(1):
                seconds = {n: seconds_a_batch(learn, rows, size) for n, learn in found.items()}
            rates = [f"{size / seconds[n]:.3g}" if n in seconds else "" for n in names]
            call = f"{1e6 * seconds['streamgmm']:.0f}"
            part = f"{seconds['E-step alone'] / seconds['streamgmm']:.2f}"
            cells.append([str(n_features), str(n_components), f"{size:,}", call, part, *rates])
    header = ["features", "components", "rows per batch", "µs per batch", "of the E-step's rate"]
    header += [f"{name}, rows/s" for name in names]
    caption = "One thread, full covariances, after the searches at the beginning of a stream."
    if importlib.util.find_spec("river"):
        caption += f" river {version('river')}."
    else:
        caption += " river is not installed: `pip install -e '.[benchmarks]'`."
    return Table(header, cells, caption)


def distances(n_rows: int, n_seeds: int) -> Table:
    """Return a table of the distance of one and two passes from a batch fit, for each seed."""
    mixture = Planted(_SEPARATION, _N_COMPONENTS, _N_FEATURES).mixture
    held_out = shuffled(mixture, _HELD_OUT, 10_000)
    cells = []
    for seed in range(n_seeds):
        rows = shuffled(mixture, n_rows, seed)
        batch = GaussianMixture(_N_COMPONENTS, random_state=seed, tol=1e-6).fit(rows)
        best = batch.score(held_out)
        model = OnlineGaussianMixture(_N_COMPONENTS, random_state=seed)
        found = []
        seen = 0
        for stop in [n_rows // 30, n_rows // 10, n_rows // 3, n_rows]:
            learned(model, rows[seen:stop], 1000)
            seen = stop
            found.append(best - model.score(held_out))
        learned(model, rows, 1000)
        found.append(best - model.score(held_out))
        cells.append([str(seed), f"{best:.5f}", *(f"{value:.1e}" for value in found)])
    header = ["seed", "batch fit"]
    header += [f"short of it after {n_rows // part:,}" for part in (30, 10, 3, 1)]
    header += ["after a second pass"]
    return Table(header, cells, f"{_described(n_rows)}, in batches of 1000; nats per row.")


def batch_sizes(n_rows: int, sizes: Sequence[int]) -> Table:
    """Return a table of the same rows in batches of several sizes."""
    mixture = Planted(_SEPARATION, _N_COMPONENTS, _N_FEATURES).mixture
    held_out, rows = shuffled(mixture, _HELD_OUT, 10_000), shuffled(mixture, n_rows, 0)
    best = GaussianMixture(_N_COMPONENTS, random_state=0, tol=1e-6).fit(rows).score(held_out)
    cells = []
    for size in sizes:
        start = time.perf_counter()
        model = learned(OnlineGaussianMixture(_N_COMPONENTS, random_state=0), rows, size)
        seconds = time.perf_counter() - start
        short = best - model.score(held_out)
        cells.append([f"{size:,}", f"{short:.1e}", f"{seconds:.2f}"])
    header = ["rows per batch", "short of the batch fit", "seconds, searches too"]
    return Table(header, cells, f"{_described(n_rows)}; nats per row.")


def recovery(half_lives: Sequence[int]) -> Table:
    """Return a table on changes: delay of the report, and distance from the new optimum."""
    before = Planted(_SEPARATION, _N_COMPONENTS, _N_FEATURES).mixture
    changes = {
        "all means elsewhere": before.means[::-1] * np.resize([1.0, -1.0], _N_FEATURES),
        "half of the means elsewhere": np.vstack([-before.means[:8], before.means[8:]]),
        "all means by 0.3": before.means + 0.3,
    }
    cells = []
    for name, means in changes.items():
        after = Parameters.create("full", before.weights, means, before.covariances)
        held_out = shuffled(after, _HELD_OUT, 10_000)
        best = mean_score(after, held_out)
        for half_life in half_lives:
            model = OnlineGaussianMixture(_N_COMPONENTS, half_life=half_life, random_state=0)
            learned(model, shuffled(before, 10 * half_life, 1), 1000)
            n_before = model.n_samples_seen_
            found = []
            for part in range(5):
                learned(model, shuffled(after, half_life, 2 + part), 1000)
                found.append(f"{best - model.score(held_out):.1e}")
            told = [change - n_before for change in model.changes_ if change > n_before]
            alarm = f"{told[0] / half_life:.2f}" if told else "not detected"
            cells.append([name, f"{half_life:,}", alarm, *found])
    header = ["change", "half-life h, rows", "detected after, h"]
    header += [f"short of the new optimum after {part} h" for part in range(1, 6)]
    return Table(header, cells, "Nats per row, compared with the mixture of the rows.")


def alarms(n_rows: int, half_lives: Sequence[int | None]) -> Table:
    """Return a table of changes that are reported in a stream that does not change."""
    step, cells = 100_000, []
    for shape in ("gaussian", "student"):
        population = Planted(_SEPARATION, 8, 4, shape=shape)  # type: ignore[arg-type]
        rows = population.rows(min(n_rows, 2_000_000))
        random = np.random.default_rng(0)
        for half_life in half_lives:
            model = OnlineGaussianMixture(8, half_life=half_life, random_state=0)
            for _ in range(n_rows // step):
                model.partial_fit(rows[random.integers(len(rows), size=step)])
            cells.append([shape, str(half_life), f"{n_rows:,}", str(len(model.changes_))])
    return Table(["rows", "half-life", "rows seen", "false alarms"], cells)


def low_rank_distances(n_rows: int, n_seeds: int) -> Table:
    """Return a table of streams of low rank, and of merged halves, for each seed."""
    kind: dict[str, Any] = {"covariance_type": "low_rank", "rank": _RANK}
    rng = np.random.default_rng(0)
    shape = _LOW_RANK_COMPONENTS, _LOW_RANK_FEATURES
    mixture = Parameters.create(
        structure_name("low_rank", _RANK, _LOW_RANK_FEATURES),
        np.full(_LOW_RANK_COMPONENTS, 1.0 / _LOW_RANK_COMPONENTS),
        rng.normal(size=shape),
        joined(rng.normal(size=(*shape, _RANK)), rng.uniform(0.25, 1.0, shape)),
    )
    held_out = shuffled(mixture, _HELD_OUT, 10_000)
    cells = []
    for seed in range(n_seeds):
        rows = shuffled(mixture, n_rows, seed)

        def batch(part: Rows, seed: int) -> GaussianMixture:
            model = GaussianMixture(_LOW_RANK_COMPONENTS, random_state=seed, tol=1e-6, **kind)
            return model.fit(part)

        best = batch(rows, seed).score(held_out)
        model = OnlineGaussianMixture(_LOW_RANK_COMPONENTS, random_state=seed, **kind)
        found, seen = [], 0
        for stop in [n_rows // 10, n_rows // 3, n_rows]:
            learned(model, rows[seen:stop], 1000)
            seen = stop
            found.append(best - model.score(held_out))
        merged = OnlineGaussianMixture.merged([batch(rows[i::2], seed + i) for i in range(2)])
        found += [best - merged.score(held_out), merged.merging_loss_]
        cells.append([str(seed), f"{best:.5f}", *(f"{value:.1e}" for value in found)])
    header = ["seed", "batch fit"]
    header += [f"short of it after {n_rows // part:,}" for part in (10, 3, 1)]
    header += ["merged halves short of it", "merging loss"]
    caption = (
        f"Covariances of rank {_RANK}: {n_rows:,} rows of {_LOW_RANK_FEATURES} features, "
        f"K = {_LOW_RANK_COMPONENTS}, in batches of 1000; nats per row."
    )
    return Table(header, cells, caption)


def _described(n_rows: int) -> str:
    shape = f"{_N_FEATURES} features, K = {_N_COMPONENTS}"
    return f"{n_rows:,} rows of {shape}, means {_SEPARATION:g} apart (Dasgupta), in random order"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=float, default=1e6)
    parser.add_argument("--stationary", type=float, default=1e7, help="rows without a change")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--small", action="store_true", help="few rows")
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    # A refit may end without convergence.
    warnings.simplefilter("ignore", ConvergenceWarning)
    if options.small:
        tables = [
            speed([(2, 4)], [1, 1000]),
            distances(60_000, 1),
            batch_sizes(60_000, [1000, 60_000]),
            recovery([10_000]),
            alarms(200_000, [5000]),
            low_rank_distances(60_000, 1),
        ]
    else:
        n_rows = int(options.rows)
        tables = [
            speed([(2, 8), (8, 16), (32, 32)], [1, 100, 1000, 10_000, 100_000]),
            distances(n_rows, options.seeds),
            batch_sizes(n_rows, [100, 1000, 10_000, 100_000, n_rows]),
            recovery([20_000, 100_000]),
            alarms(int(options.stationary), [None, 100_000, 10_000, 2000]),
            low_rank_distances(n_rows, options.seeds),
        ]
    sizes = f"--rows {options.rows:g} --stationary {options.stationary:g} --seeds {options.seeds}"
    command = f"python -m benchmarks.streams {sizes}"
    report("streams", command, tables, options.save and not options.small)


if __name__ == "__main__":
    main()
