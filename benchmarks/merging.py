"""Merged models that were trained separately, compared with a batch fit to all their rows.

``python -m benchmarks.merging [--rows 2e4] [--small] [--save]``

Streams come from one population, or from different parts of it. Their models are fitted well, or by
plain EM from a start at random rows. All models are scored on held-out rows of all streams. The
table also shows models from pairing the components one to one, by the assignment of least total
cost, with the same costs as merging.
"""

import argparse
import warnings
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from sklearn.exceptions import ConvergenceWarning

from benchmarks.reads.cells import Planted
from benchmarks.reporting import Table, report
from streamgmm import GaussianMixture, OnlineGaussianMixture
from streamgmm.core.e_step import EStep
from streamgmm.core.frame import Frame
from streamgmm.core.mixtures.reduction import merged_pairs, merging_bounds
from streamgmm.core.mixtures.sampling import draw
from streamgmm.core.parameters import Parameters

Rows = NDArray[np.float64]
Fit = Callable[[Rows, int, int], GaussianMixture]

_HELD_OUT = 50_000
# Separation of means (Dasgupta), components, features.
_POPULATIONS = [(2.0, 16, 8), (1.0, 16, 8), (0.5, 8, 4)]


def rows_of(mixture: Parameters, components: Sequence[int], n_rows: int, seed: int) -> Rows:
    """Return rows of some components of a mixture, in random order."""
    own = list(components)
    weights = mixture.weights[own] / mixture.weights[own].sum()
    part = Parameters.create("full", weights, mixture.means[own], mixture.covariances[own])
    random = np.random.default_rng(seed)
    return random.permutation(draw(part, n_rows, random)[0])


def well(rows: Rows, n_components: int, seed: int) -> GaussianMixture:
    return GaussianMixture(n_components, random_state=seed).fit(rows)


def poorly(rows: Rows, n_components: int, seed: int) -> GaussianMixture:
    return GaussianMixture(
        n_components, algorithm="em", init_params="random_from_data", random_state=seed
    ).fit(rows)


def one_to_one(models: Sequence[GaussianMixture]) -> Parameters:
    """Pair the components of models of equal numbers of rows, one model after the other."""
    merged = models[0]._parameters()
    for n, model in enumerate(models[1:], 1):
        k, other = merged.n_components, model.fitted_model_.parameters
        both = Parameters.create(
            "full",
            np.concatenate([n * merged.weights, other.weights]) / (n + 1),
            np.concatenate([merged.means, other.means]),
            np.concatenate([merged.covariances, other.covariances]),
        )
        first, second = linear_sum_assignment(merging_bounds(both)[:k, k:])
        merged = merged_pairs(both, first, k + second)
    return merged


def compared(name: str, streams: Sequence[Rows], held_out: Rows, k: int, fit: Fit) -> list[str]:
    """Return a row: distances of models of streams, and of merged ones, from a batch fit."""
    models = [fit(rows, k, seed) for seed, rows in enumerate(streams)]
    merged = OnlineGaussianMixture.merged(models)
    paired = one_to_one(models)
    best = GaussianMixture(k, random_state=0, tol=1e-6).fit(np.concatenate(streams)).score(held_out)
    alone = [model.score(held_out) for model in models]
    expectation = EStep.prepare(paired, Frame.of(paired))
    scores = [
        *(max(alone), min(alone), merged.score(held_out)),
        expectation.statistics(held_out).mean_log_likelihood,
    ]
    short = [f"{best - score:.5f}" for score in scores]
    return [name, str(len(models)), f"{best:.4f}", *short, f"{merged.merging_loss_:.4f}"]


def table(separation: float, k: int, d: int, n_rows: int) -> Table:
    """Return a table of all kinds of streams of a population."""
    mixture = Planted(separation, k, d).mixture
    whole, part, half = range(k), 2 * k // 3, k // 2
    cases: list[tuple[str, list[Sequence[int]], Fit]] = [
        ("the same components", [whole] * 2, well),
        ("the same components", [whole] * 8, well),
        ("two thirds of the components each", [range(part), range(k - part, k)], well),
        ("half of the components each", [range(half), range(half, k)], well),
        ("the same components, poor models", [whole] * 2, poorly),
        ("the same components, poor models", [whole] * 8, poorly),
    ]
    cells = []
    for name, parts, fit in cases:
        streams = [rows_of(mixture, own, n_rows, seed) for seed, own in enumerate(parts)]
        each = _HELD_OUT // len(parts)
        held_out = [rows_of(mixture, own, each, 1000 + seed) for seed, own in enumerate(parts)]
        cells.append(compared(name, streams, np.concatenate(held_out), k, fit))
    header = ["streams of", "models", "batch fit to all", "short of it: best model"]
    header += ["poorest model", "merged", "paired one to one", "merging_loss_"]
    size = f"{n_rows:,} rows of {d} features a stream, K = {k}"
    return Table(header, cells, f"{size}, means {separation:g} apart (Dasgupta); nats per row.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=float, default=2e4, help="of each stream")
    parser.add_argument("--small", action="store_true", help="few rows")
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    # Poor models may end without convergence.
    warnings.simplefilter("ignore", ConvergenceWarning)
    n_rows, populations = (
        (2000, [(2.0, 4, 2)]) if options.small else (int(options.rows), _POPULATIONS)
    )
    tables = [table(*population, n_rows) for population in populations]
    command = f"python -m benchmarks.merging --rows {options.rows:g}"
    report("merging", command, tables, options.save and not options.small)


if __name__ == "__main__":
    main()
