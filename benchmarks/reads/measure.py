"""Results of a way in a cell, and times of default fits by scikit-learn and this package."""

import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import sklearn.mixture

from benchmarks.reads.cells import Rows
from benchmarks.reads.ways import REG_COVAR, Way, beginning_at, result
from streamgmm import GaussianMixture
from streamgmm.core.parameters import Parameters

# A fit of scikit-learn is given up after this many times the seconds of ours.
PATIENCE = 25.0
_LONG: dict[str, Any] = {"algorithm": "auto", "tol": 1e-7, "max_iter": 20}
# Of reg_covar: a component that is narrower than this along some direction has collapsed.
_NARROW = 10.0
# Digits of log-likelihoods that are kept.
_DIGITS = 8


@dataclass(frozen=True)
class Found:
    """The result of a way in a cell; other fields are those of its first run.

    Attributes
    ----------
    reads, log_likelihoods, n_reads
        As in :class:`benchmarks.reads.ways.Run`.
    visits_a_row : float
    n_collapsed : int
        Components of its best result that collapsed; the rest is without them.
    n_starts : int
    held_out : float
        Log-likelihood of rows that were not fitted, nats per row, of its best result.
    limit : float
        Log-likelihood that accelerated EM comes to from its best result.
    """

    reads: list[float]
    log_likelihoods: list[float]
    n_reads: float
    visits_a_row: float
    n_collapsed: int
    n_starts: int
    held_out: float
    limit: float

    def reads_to(self, log_likelihood: float) -> float:
        """Reads up to the first that found so much; infinity if none did."""
        enough = (
            n
            for n, value in zip(self.reads, self.log_likelihoods, strict=True)
            if value >= log_likelihood
        )
        return next(enough, np.inf)


@dataclass(frozen=True)
class Timing:
    """Wall time of whole fits with default settings, one after the other.

    Attributes
    ----------
    scikit_learn : float or None
        None if it was given up, after :data:`PATIENCE` times as long as ours.
    ours : float
    """

    scikit_learn: float | None
    ours: float


def find(
    way: Way, rows: Rows, held_out: Rows, n_components: int, restarts: int, threads: int
) -> Found:
    """Fit, and see where accelerated EM would come to from there."""
    seeds = range(restarts if way.is_restarted else 1)
    runs = [way.fit(rows, n_components, seed, threads) for seed in seeds]
    ends = [without_collapsed(run.parameters, len(rows)) for run in runs]
    best = max(ends, key=lambda end: score(end, rows, threads))
    continued = GaussianMixture(
        best.n_components, reg_covar=REG_COVAR, n_jobs=threads, **_LONG, **beginning_at(best)
    ).fit(rows)
    limit = without_collapsed(result(continued), len(rows))
    first = runs[0]
    return Found(
        list(first.reads),
        [round(value, _DIGITS) for value in first.log_likelihoods],
        first.n_reads,
        first.row_visits / len(rows),
        n_components - best.n_components,
        len(runs),
        score(best, held_out, threads),
        score(limit, rows, threads),
    )


def without_collapsed(parameters: Parameters, n_rows: int) -> Parameters:
    """The mixture of the components that are neither singular nor of fewer rows than they span."""
    variances = np.linalg.eigvalsh(parameters.covariances).min(axis=1)
    is_sound = (variances >= _NARROW * REG_COVAR) & (
        parameters.weights * n_rows >= parameters.n_features + 1
    )
    weights = parameters.weights[is_sound]
    return Parameters.create(
        "full",
        weights / weights.sum(),
        parameters.means[is_sound],
        parameters.covariances[is_sound],
    )


def score(parameters: Parameters, rows: Rows, threads: int) -> float:
    """Mean log-likelihood of rows."""
    model = GaussianMixture(
        parameters.n_components, max_iter=0, n_jobs=threads, **beginning_at(parameters)
    )
    return float(model.fit(rows).score(rows))


def time_defaults(rows: Rows, n_components: int, threads: int) -> Timing:
    """Fit by scikit-learn and by this package, each as it is by default but for the seed."""
    settings: dict[str, Any] = {"n_components": n_components, "random_state": 0}
    ours = GaussianMixture(n_jobs=threads, **settings)
    # Kernels are compiled or loaded.
    ours.fit(rows[: 100 * n_components])
    own_seconds = _seconds(ours, rows)
    other = _Impatient(**settings)
    other.deadline = time.perf_counter() + PATIENCE * own_seconds
    try:
        seconds = _seconds(other, rows)
    except TimeoutError:
        seconds = None
    return Timing(seconds, own_seconds)


class _Impatient(sklearn.mixture.GaussianMixture):  # type: ignore[misc]
    """Begins no iteration after a deadline."""

    deadline = math.inf

    def _e_step(self, *arguments: Any, **keywords: Any) -> Any:
        if time.perf_counter() > self.deadline:
            raise TimeoutError
        return super()._e_step(*arguments, **keywords)


def _seconds(model: Any, rows: Rows) -> float:
    start = time.perf_counter()
    model.fit(rows)
    return time.perf_counter() - start
