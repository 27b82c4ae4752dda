"""Benchmarks mark a library that did other work, and compare what gives the same rows."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.peers.libraries import LIBRARIES, Fitted
from benchmarks.peers.measure import MANY, Result, mean_log_likelihood
from benchmarks.planted import Problem
from benchmarks.rare import measured
from benchmarks.scale import Point, ReplayedSource, exponent
from benchmarks.sources import STORAGES, STORED_ROWS, Comparison, Storage, compare, sample_rows
from streamgmm.core.covariance import STRUCTURES, CovarianceType
from tests.sources.conformance import Case, SourceConformance


def result(log_likelihood: float, iterations: int = MANY, dtype: str = "float64") -> Result:
    nothing = np.empty(0)
    fitted = Fitted(nothing, nothing, nothing, iterations, dtype)
    problem = Problem("full", 100, 2, 2, dtype)
    return Result(LIBRARIES[0], problem, fitted, log_likelihood)


def test_the_same_end_needs_no_remark() -> None:
    assert result(-2.0 + 1e-9).remark(result(-2.0)) == ""
    assert result(-2.0 + 1e-4, dtype="float32").remark(result(-2.0)) == ""


def test_another_end_is_marked() -> None:
    remark = result(-2.1).remark(result(-2.0))
    assert remark == "ended after 4 iterations, log-likelihood -2.1000 instead of -2.0000"
    assert result(-2.0 + 1e-4).remark(result(-2.0))


def test_a_stop_before_the_end_is_marked() -> None:
    assert result(-2.0, iterations=2).remark(result(-2.0)) == "ended after 2 iterations"


def test_a_failure_is_the_remark() -> None:
    failed = Result(LIBRARIES[0], Problem("full", 100, 2, 2), failure="failed: ValueError")
    assert failed.remark(result(-2.0)) == "failed: ValueError"


@pytest.mark.parametrize("covariance_type", STRUCTURES)
def test_the_log_likelihood_is_that_of_the_model(covariance_type: CovarianceType) -> None:
    problem = Problem(covariance_type, 500, 3, 4)
    start = problem.start
    fitted = Fitted(start.weights, start.means, start.covariances, MANY, "float64")
    expected = problem.model(max_iter=0).fit(problem.rows).score(problem.rows)
    found = mean_log_likelihood(covariance_type, fitted, problem.rows)
    assert found == pytest.approx(expected, rel=1e-12)


class TestReplayed(SourceConformance):
    @pytest.fixture
    def case(self, request: pytest.FixtureRequest, tmp_path: Path) -> Case:
        problem = Problem("full", 100_000, 8, 2)
        source = ReplayedSource(problem)
        chunk = source.read(0).rows
        repeats = -(-problem.n_rows // len(chunk))
        return Case(source, np.tile(chunk, (repeats, 1))[: problem.n_rows])


def test_exponents_are_those_of_powers() -> None:
    series = [
        Point("rows", Problem("full", n, 2, 2), 1, seconds=3e-9 * n, peak=10**8)
        for n in (10**3, 10**5, 10**6)
    ]
    assert exponent(series, lambda point: point.seconds) == pytest.approx(1.0)
    assert exponent(series, lambda point: point.peak) == pytest.approx(0.0, abs=1e-12)


def test_rare_rows_are_counted() -> None:
    found = measured(1_000_000, n_features=2, n_components=4, weight=2e-4, size=2000)
    assert found.n_expected == 200.0
    # A uniform sample has none of them, or one.
    assert found.n_sampled > 10
    assert found.weight == pytest.approx(200.0, rel=0.5)


@pytest.mark.parametrize("storage", STORAGES, ids=lambda storage: storage.name)
def test_sources_and_libraries_give_the_same_rows(storage: Storage, tmp_path: Path) -> None:
    source, read = storage.stored(tmp_path, sample_rows(2 * STORED_ROWS))
    ends = source.boundaries
    for i in range(len(ends) - 1):
        rows = source.read(i).rows
        assert np.isnan(rows).any() == (storage.part_of_nulls > 0.0)
        np.testing.assert_array_equal(rows, np.column_stack(read(ends[i], ends[i + 1])))


def test_a_comparison_has_every_round_but_the_first() -> None:
    found = compare(STORAGES[0], sample_rows(STORED_ROWS), [1, 2], rounds=3)
    assert all(len(found.own[n]) == len(found.library[n]) == 3 for n in (1, 2))
    assert len(found.ratios(1)) == 3
    assert found.ratios(1) == sorted(found.ratios(1))


def test_a_ratio_above_1_is_a_source_that_is_quicker() -> None:
    found = Comparison(STORAGES[0], 600, own={1: [2.0, 3.0]}, library={1: [4.0, 3.0]})
    assert found.ratios(1) == [1.0, 2.0]
    assert found.rate(1) == 240.0
