"""Seconds per EM iteration beside scikit-learn: same data, same start, alternating.

``python -m benchmarks.peers [--pairs 5] [--threads 2] [--small] [--save]``
"""

import argparse
import statistics
import time
import warnings

import numpy as np
import sklearn.mixture
from threadpoolctl import threadpool_limits

from benchmarks.planted import planted_mixture, planted_rows
from benchmarks.reporting import report
from streamgmm import GaussianMixture
from streamgmm.core.covariance import CovarianceType
from streamgmm.protocols import Event, ReadDone

# (covariance type, rows, features, components)
CELLS: list[tuple[CovarianceType, int, int, int]] = [
    ("full", 1_000_000, 2, 8),
    ("full", 500_000, 8, 16),
    ("full", 200_000, 32, 32),
    ("full", 50_000, 128, 32),
    ("diag", 500_000, 16, 64),
    ("tied", 200_000, 32, 32),
    ("spherical", 500_000, 16, 64),
]
ITERATIONS = 3


def cell(
    covariance_type: CovarianceType,
    shape: tuple[int, int, int],
    pairs: int,
    threads: int,
) -> list[str]:
    """A row of the table: medians over pairs of runs of a few iterations each."""
    rows = planted_rows(*shape, covariance_type)
    planted = planted_mixture(shape[1], shape[2], covariance_type)
    noise = np.random.default_rng(2).normal(0.0, 0.3, planted.means.shape)
    settings = {
        "n_components": shape[2],
        "covariance_type": covariance_type,
        "weights_init": planted.weights,
        "means_init": planted.means + noise,
        "precisions_init": planted.precisions,
        "init_params": "random_from_data",
        "tol": 0.0,
        "max_iter": ITERATIONS + 1,
        "random_state": 0,
    }
    _our_iteration(rows, settings, threads)
    ours, theirs = [], []
    for _ in range(pairs):
        ours.append(_our_iteration(rows, settings, threads))
        theirs.append(_scikit_learn_iteration(rows, settings, threads))
    ours_bound, theirs_bound = ours[0][1], theirs[0][1]
    if not np.isclose(ours_bound, theirs_bound, rtol=1e-9):
        raise AssertionError(f"log-likelihoods differ: {ours_bound} and {theirs_bound}")
    ratios = [their[0] / our[0] for our, their in zip(ours, theirs, strict=True)]
    n, d, k = shape
    return [
        f"{covariance_type}, {n:,} × {d}, K = {k}",
        f"{statistics.median(seconds for seconds, _ in ours):.4f}",
        f"{statistics.median(seconds for seconds, _ in theirs):.3f}",
        f"{statistics.median(ratios):.1f}",
        f"{min(ratios):.1f} to {max(ratios):.1f}",
    ]


def _our_iteration(rows: np.ndarray, settings: dict, threads: int) -> tuple[float, float]:
    """Median seconds from the end of one iteration to the end of the next; log-likelihood."""
    moments: list[float] = []

    def watch(event: Event) -> None:
        if isinstance(event, ReadDone):
            moments.append(time.perf_counter())

    model = GaussianMixture(**settings, n_jobs=threads, callbacks=[watch]).fit(rows)
    return statistics.median(np.diff(moments)), model.lower_bound_


def _scikit_learn_iteration(rows: np.ndarray, settings: dict, threads: int) -> tuple[float, float]:
    """Median seconds of an E-step and an M-step; log-likelihood."""
    moments: list[float] = []

    class Watched(sklearn.mixture.GaussianMixture):
        def _m_step(self, *arguments: object, **keywords: object) -> None:
            super()._m_step(*arguments, **keywords)
            moments.append(time.perf_counter())

    with threadpool_limits(threads):
        model = Watched(**settings).fit(rows)
    return statistics.median(np.diff(moments)), model.lower_bound_


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--small", action="store_true", help="a hundredth of the rows, one pair")
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    table = []
    for covariance_type, n, d, k in CELLS:
        shape = (n // 100, d, k) if options.small else (n, d, k)
        pairs = 1 if options.small else options.pairs
        table.append(cell(covariance_type, shape, pairs, options.threads))
    header = ["data", "streamgmm, s", "scikit-learn, s", "ratio (median of pairs)", "range"]
    command = f"python -m benchmarks.peers --pairs {options.pairs} --threads {options.threads}"
    report("peers", command, header, table, options.save and not options.small)


if __name__ == "__main__":
    main()
