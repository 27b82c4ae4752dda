"""One library on one problem, in a process of its own: how fast it is, and where it ends."""

import math
import multiprocessing
import resource
import signal
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Self, TypeVar

import numpy as np
import psutil
from numpy.typing import NDArray
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

from benchmarks.peers.libraries import Fitted, Library
from benchmarks.planted import Problem
from streamgmm.options import CovarianceType

# Iterations of a run from which a run of one iteration is subtracted.
MANY = 4
# What hangs is ended.
_MOST_SECONDS = 300
# Seconds for which a short run is repeated.
_LEAST_SECONDS = 1.0
# A library that takes longer to warm up is timed in one pair only.
_PATIENCE = 60.0
_SCORED_ROWS = 2000
# Difference in nats per row that rounding explains.
_TOLERANCE = {"float64": 1e-6, "float32": 1e-3}

T = TypeVar("T")


@dataclass
class Result:
    """The result of one library for one problem.

    Attributes
    ----------
    fitted : Fitted or None
        After :data:`MANY` iterations; None if it failed.
    log_likelihood : float
        Of that, nats per row.
    seconds : list of float
        Per iteration; one for each pair.
    failure : str
        Why there is nothing else.
    """

    library: Library
    problem: Problem
    fitted: Fitted | None = None
    log_likelihood: float = math.nan
    seconds: list[float] = field(default_factory=list)
    failure: str = ""

    @property
    def median(self) -> float:
        """Median seconds per iteration."""
        return statistics.median(self.seconds) if self.seconds else math.nan

    def ratios(self, other: "Result") -> list[float]:
        """Its seconds over the other's, pair by pair."""
        return [mine / its for mine, its in zip(self.seconds, other.seconds, strict=False)]

    def remark(self, reference: "Result") -> str:
        """Return a remark on what is not as expected; empty if nothing."""
        if self.failure or self.fitted is None:
            return self.failure
        differs = not self._ends_as(reference)
        if self.fitted.iterations == MANY and not differs:
            return ""
        remark = f"ended after {self.fitted.iterations} iterations"
        if differs:
            remark += (
                f", log-likelihood {self.log_likelihood:.4f} instead of "
                f"{reference.log_likelihood:.4f}"
            )
        return remark

    def _ends_as(self, reference: "Result") -> bool:
        tolerance = _TOLERANCE[self.problem.dtype]
        return abs(self.log_likelihood - reference.log_likelihood) <= tolerance


class Processes:
    """A process for each library, started when it is needed, and again if it died."""

    def __init__(self) -> None:
        self._pools: dict[str, ProcessPoolExecutor] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        for pool in self._pools.values():
            pool.shutdown()

    def call(self, function: Callable[..., T], library: Library, *arguments: Any) -> T:
        """function(library, ...) in the process of the library."""
        if library.name not in self._pools:
            context = multiprocessing.get_context("spawn")
            limit = psutil.virtual_memory().available // 2
            self._pools[library.name] = ProcessPoolExecutor(1, context, _prepare, (limit,))
        try:
            pool = self._pools[library.name]
            return pool.submit(_in_time, function, library, *arguments).result()
        except BrokenProcessPool:
            del self._pools[library.name]
            raise


def _in_time(function: Callable[..., T], *arguments: Any) -> T:
    """Call a function; the process ends if that takes too long."""
    signal.alarm(_MOST_SECONDS)
    value = function(*arguments)
    signal.alarm(0)
    return value


def _prepare(limit: int) -> None:
    # What needs more memory than there is fails by itself, and takes nothing else down.
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    # That a few iterations are too few is known.
    warnings.simplefilter("ignore")


def compare(
    problem: Problem, libraries: list[Library], processes: Processes, pairs: int, threads: int
) -> list[Result]:
    """Time libraries in turn, in several rounds."""
    results = [Result(library, problem) for library in libraries]
    quick = [_warm_up(result, processes, threads) for result in results]
    for pair in range(pairs):
        for result, is_quick in zip(results, quick, strict=True):
            if not result.failure and (is_quick or pair == 0):
                _time_once(result, processes, threads)
    return results


def mean_log_likelihood(
    covariance_type: CovarianceType, fitted: Fitted, rows: NDArray[np.floating]
) -> float:
    """Nats per row, by SciPy in float64."""
    rows = rows.astype(np.float64)
    covariances = np.asarray(fitted.covariances, dtype=np.float64)
    each = [covariances] * len(fitted.means) if covariance_type == "tied" else covariances
    densities = [
        np.log(weight) + multivariate_normal.logpdf(rows, mean, covariance)
        for weight, mean, covariance in zip(fitted.weights, fitted.means, each, strict=True)
    ]
    return float(np.mean(logsumexp(densities, axis=0)))


def _warm_up(result: Result, processes: Processes, threads: int) -> bool:
    """Fit once, keep where it ends, and say whether it was quick."""
    start = time.perf_counter()
    with _failure_noted(result):
        result.fitted, result.log_likelihood = processes.call(
            _evaluate, result.library, result.problem, threads
        )
    return time.perf_counter() - start < _PATIENCE


def _time_once(result: Result, processes: Processes, threads: int) -> None:
    with _failure_noted(result):
        result.seconds.append(
            processes.call(_seconds_per_iteration, result.library, result.problem, threads)
        )


@contextmanager
def _failure_noted(result: Result) -> Iterator[None]:
    try:
        yield
    except BrokenProcessPool:
        result.failure = f"its process died, or took more than {_MOST_SECONDS} s"
    except Exception as error:  # noqa: BLE001 - whatever it is, it goes into the table
        reason = str(error).partition("\n")[0][:60]
        result.failure = f"failed: {type(error).__name__} {reason}"


def _evaluate(library: Library, problem: Problem, threads: int) -> tuple[Fitted, float]:
    # A compiler may have something to do for either number of iterations.
    library.fit(problem, 1, threads)
    fitted = library.fit(problem, MANY, threads)
    scored = problem.rows[:_SCORED_ROWS]
    return fitted, mean_log_likelihood(problem.covariance_type, fitted, scored)


def _seconds_per_iteration(library: Library, problem: Problem, threads: int) -> float:
    """Median over iterations, of runs until enough time has passed."""
    found: list[float] = []
    start = time.perf_counter()
    while not found or time.perf_counter() - start < _LEAST_SECONDS:
        many, many_seconds = _timed(library, problem, MANY, threads)
        if many.ends:
            found += np.diff(many.ends).tolist()
            continue
        few, few_seconds = _timed(library, problem, 1, threads)
        between = many.iterations - few.iterations
        found.append((many_seconds - few_seconds) / between if between else math.nan)
    return statistics.median(found)


def _timed(
    library: Library, problem: Problem, iterations: int, threads: int
) -> tuple[Fitted, float]:
    start = time.perf_counter()
    fitted = library.fit(problem, iterations, threads)
    return fitted, time.perf_counter() - start
