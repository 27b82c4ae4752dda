"""Operations of this version compared with another one, in alternating pairs.

``python -m benchmarks.versions CHECKOUT [--pairs 15] [--only NAME] [--small] [--save]``

CHECKOUT is the folder of the other version's files; ``git worktree add --detach CHECKOUT COMMIT``
makes one. Each version runs in its own process, which prepares an operation once and then repeats
it. The two processes take turns. A ratio is this version's seconds over the other's in one pair.
The table shows the median ratio and a 95 % interval of the median, from order statistics.

An operation that takes little time is repeated within its turn. A pass is that of one thread over
rows in memory.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from scipy.stats import binom

_ROOT = Path(__file__).parent.parent
_LEVEL = 0.95
_STRUCTURES = ("full", "tied", "diag", "spherical")
# Least seconds of a turn of a short operation.
_LEAST_SECONDS = 0.05


def _mixture(covariance_type: str, d: int, k: int) -> tuple[Any, np.ndarray]:
    """Return parameters and 40,000 rows drawn from them, without other modules of benchmarks."""
    from streamgmm.core.parameters import Parameters

    random = np.random.default_rng(0)
    means = 2.0 * random.normal(size=(k, d))
    variances = random.uniform(0.5, 2.0, (k, d))
    labels = random.integers(k, size=40_000)
    rows = means[labels] + np.sqrt(variances[labels]) * random.normal(size=(len(labels), d))
    covariances = {
        "full": variances[:, :, np.newaxis] * np.eye(d),
        "tied": variances.mean(axis=0) * np.eye(d),
        "diag": variances,
        "spherical": variances.mean(axis=1),
    }[covariance_type]
    return Parameters.create(covariance_type, np.full(k, 1.0 / k), means, covariances), rows


def _pass(covariance_type: str, dtype: str) -> Callable[[], object]:
    from streamgmm.core.frame import Frame

    try:
        from streamgmm.core.e_step import EStep as Expectation
    except ImportError:
        from streamgmm.core.expectation import Expectation
    parameters, rows = _mixture(covariance_type, 16, 32)
    frame = Frame.of(parameters)
    rows = rows.astype(dtype)

    def run() -> object:
        return Expectation.prepare(parameters, frame).statistics(rows)

    return run


def _gaps() -> Callable[[], object]:
    from streamgmm.core.frame import Frame
    from streamgmm.core.incomplete import IncompleteExpectation

    parameters, rows = _mixture("full", 8, 8)
    rows = rows[:4000].copy()
    rows[np.random.default_rng(1).random(rows.shape) < 0.2] = np.nan
    frame = Frame.of(parameters)
    return lambda: IncompleteExpectation.prepare(parameters, frame).statistics(rows)


def _fitted() -> tuple[Any, np.ndarray]:
    from streamgmm import GaussianMixture

    _, rows = _mixture("full", 8, 16)
    return GaussianMixture(16, random_state=0, max_iter=2).fit(rows), rows


def _save(folder: Path) -> Callable[[], object]:
    model, _ = _fitted()
    return lambda: model.save(folder / "model.gmm")


def _load(folder: Path) -> Callable[[], object]:
    import streamgmm

    model, _ = _fitted()
    model.save(folder / "model.gmm")
    return lambda: streamgmm.load(folder / "model.gmm")


def _update(folder: Path, n_rows: int) -> Callable[[], object]:
    import streamgmm

    model, rows = _fitted()
    path, numbers = folder / "model.gmm", iter(range(10**9))
    streamgmm.OnlineGaussianMixture.from_batch(model).save(path)
    return lambda: streamgmm.update(path, rows[:n_rows], batch_id=next(numbers))


def _predict(folder: Path, name: str) -> Callable[[], object]:
    model, rows = _fitted()
    data = folder / "rows.npy"
    np.save(data, np.tile(rows, (25, 1)))
    return lambda: model.predict(data, out=folder / name)


def _operations(folder: Path) -> dict[str, Callable[[], Callable[[], object]]]:
    """Return the functions that prepare operations, by name."""
    passes = {
        f"pass {kind} {dtype}": lambda kind=kind, dtype=dtype: _pass(kind, dtype)
        for kind in _STRUCTURES
        for dtype in ("float64", "float32")
    }
    return {
        **passes,
        "pass full with gaps": _gaps,
        "save": lambda: _save(folder),
        "load": lambda: _load(folder),
        "update, 1 row": lambda: _update(folder, 1),
        "update, 10,000 rows": lambda: _update(folder, 10_000),
        "predict, out .npy": lambda: _predict(folder, "labels.npy"),
        "predict, out .zarr": lambda: _predict(folder, "labels.zarr"),
    }


def work(name: str) -> None:
    """Prepare an operation, run it for each line of input, and print the seconds."""
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        run = _operations(Path(folder))[name]()
        run()
        start = time.perf_counter()
        run()
        n_times = max(1, round(_LEAST_SECONDS / (time.perf_counter() - start)))
        print(json.dumps(n_times), flush=True)
        for line in sys.stdin:
            n_times = json.loads(line)
            start = time.perf_counter()
            for _ in range(n_times):
                run()
            print(json.dumps((time.perf_counter() - start) / n_times), flush=True)


class _Version:
    """A process that runs an operation of one version."""

    def __init__(self, checkout: Path, name: str) -> None:
        own = Path(__file__).resolve()
        environment = {**os.environ, "PYTHONPATH": str(checkout)}
        # Each version keeps machine code in its own folder.
        environment.pop("NUMBA_CACHE_DIR", None)
        self._process = subprocess.Popen(
            [sys.executable, str(own), "--work", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=checkout,
            env=environment,
            text=True,
        )
        self.n_times: int = self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"the process ended with {self._process.wait()}")
        return json.loads(line)

    def seconds(self, n_times: int) -> float:
        """Return the mean seconds of some runs of the operation."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{n_times}\n")
        self._process.stdin.flush()
        found: float = self._answer()
        return found

    def end(self) -> None:
        """End the process."""
        self._process.communicate()


def compared(other: Path, name: str, pairs: int) -> list[str]:
    """Return a row of the table."""
    versions = [_Version(checkout, name) for checkout in (_ROOT, other)]
    n_times = max(version.n_times for version in versions)
    found = []
    for number in range(pairs):
        order = versions if number % 2 else versions[::-1]
        seconds = {id(version): version.seconds(n_times) for version in order}
        found.append([seconds[id(version)] for version in versions])
    for version in versions:
        version.end()
    own, theirs = map(median, zip(*found, strict=True))
    ratios = sorted(mine / its for mine, its in found)
    # The median lies between these order statistics with the probability of the level.
    low = int(binom.ppf((1.0 - _LEVEL) / 2.0, pairs, 0.5))
    interval = f"{ratios[max(low - 1, 0)]:.2f} to {ratios[min(pairs - low, pairs - 1)]:.2f}"
    return [name, f"{1e3 * theirs:.2f}", f"{1e3 * own:.2f}", f"{median(ratios):.3f}", interval]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkout", type=Path, nargs="?")
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--only", default="", help="operations whose name begins with it")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--save", action="store_true")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work is not None:
        work(options.work)
        return
    from benchmarks.reporting import Table, report

    # With --small this version is compared with itself.
    other = _ROOT if options.small else options.checkout.resolve()
    pairs = 1 if options.small else options.pairs
    names = [name for name in _operations(Path()) if name.startswith(options.only)]
    rows = [compared(other, name, pairs) for name in names]
    header = ["operation", "other, ms", "this, ms", "ratio", "interval"]
    command = f"python -m benchmarks.versions CHECKOUT --pairs {pairs}"
    report("versions", command, [Table(header, rows)], options.save)


if __name__ == "__main__":
    main()
