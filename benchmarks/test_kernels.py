"""Kernels on one chunk, on one thread: timings to compare over time.

``python -m pytest benchmarks --benchmark-only [--benchmark-autosave] [--benchmark-compare]``

Run as tests, on few rows, by ``python -m pytest benchmarks --benchmark-disable --rows 256``.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.planted import Problem
from streamgmm.core.e_step import EStep
from streamgmm.core.frame import Frame
from streamgmm.executors.blas import single_threaded_blas
from streamgmm.options import CovarianceType

SHAPES: list[tuple[CovarianceType, int, int]] = [
    ("full", 2, 8),
    ("full", 8, 16),
    ("full", 32, 32),
    ("full", 128, 32),
    ("diag", 16, 64),
    ("diag", 128, 128),
    ("tied", 32, 32),
    ("spherical", 16, 64),
]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    with single_threaded_blas():
        yield


@pytest.fixture(params=["float64", "float32"])
def dtype(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(params=SHAPES, ids=lambda shape: "-".join(map(str, shape)))
def problem(request: pytest.FixtureRequest, dtype: str, n_rows: int) -> Problem:
    covariance_type, d, k = request.param
    return Problem(covariance_type, n_rows, d, k, dtype)


@pytest.fixture
def expectation(problem: Problem) -> EStep:
    start = problem.start
    return EStep.prepare(start, Frame.of(start, problem.dtype))


def test_statistics(benchmark: BenchmarkFixture, problem: Problem, expectation: EStep) -> None:
    statistics = benchmark(expectation.statistics, problem.rows)
    assert statistics.n_rows == problem.n_rows


@pytest.mark.parametrize("with_responsibilities", [False, True], ids=["scores", "proba"])
def test_posterior(
    benchmark: BenchmarkFixture,
    problem: Problem,
    expectation: EStep,
    with_responsibilities: bool,
) -> None:
    posterior: Any = benchmark(expectation.posterior, problem.rows, with_responsibilities)
    assert np.all(np.isfinite(posterior.scores))
