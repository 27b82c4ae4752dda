"""The record of scores is bounded and whole; a fall of them is told, and chance is not."""

import numpy as np
import pytest

from streamgmm.algorithms.stream.change_detection import ChangeTest, Score, ScoreRecord


def test_a_record_has_an_entry_for_each_score_until_there_are_many() -> None:
    record = ScoreRecord()
    for i in range(1000):
        record = record.add(Score(10.0, float(i)))
    assert [entry.log_likelihood for entry in record.all_entries] == list(range(1000))


@pytest.mark.parametrize("growth", [1.0, 1.0005])
def test_a_record_stays_short_and_loses_nothing(growth: float) -> None:
    record, weight, longest = ScoreRecord(), 1.0, 0
    weights = []
    for _ in range(20_000):
        record = record.add(Score(weight, -2.0 * weight))
        weights.append(weight)
        weight *= growth
        longest = max(longest, len(record.all_entries))
    assert longest <= 1024
    assert len(record.all_entries) > 200
    assert sum(entry.weight for entry in record.all_entries) == pytest.approx(sum(weights))
    assert {round(entry.mean, 9) for entry in record.all_entries} == {-2.0}


def blocks_until_told(test: ChangeTest, means: np.ndarray, weight: float) -> int | None:
    for i, mean in enumerate(means):
        test = test.add(Score(weight, weight * mean))
        if test.is_change:
            return i + 1
    return None


def after(means: np.ndarray, weight: float = 100.0) -> ChangeTest:
    test = ChangeTest()
    for mean in means:
        test = test.add(Score(weight, weight * mean))
    return test


def test_mean_and_variance_are_those_of_the_blocks() -> None:
    means = np.random.default_rng(0).normal(-5.0, 0.2, 1000)
    test = after(means)
    assert test.mean == pytest.approx(means.mean(), abs=1e-3)
    assert test.variance == pytest.approx(100.0 * means.var(), rel=0.02)


@pytest.mark.parametrize("fall", [3.0, 10.0, 1e6])
def test_a_fall_is_told_within_a_few_blocks(fall: float) -> None:
    rng = np.random.default_rng(0)
    test = after(rng.normal(-5.0, 0.2, 200))
    assert not test.is_change
    n_blocks = blocks_until_told(test, rng.normal(-5.0 - 0.2 * fall, 0.2, 20), 100.0)
    assert n_blocks is not None
    assert 3 <= n_blocks <= 10


def test_a_rise_is_no_alarm() -> None:
    rng = np.random.default_rng(0)
    test = after(rng.normal(-5.0, 0.2, 200))
    assert blocks_until_told(test, rng.normal(-1.0, 0.2, 200), 100.0) is None


@pytest.mark.parametrize("far", [10.0, 1e9])
def test_single_blocks_of_outliers_are_no_alarm(far: float) -> None:
    rng = np.random.default_rng(0)
    means = rng.normal(-5.0, 0.2, 2000)
    means[100::40] -= far
    assert blocks_until_told(ChangeTest(), means, 100.0) is None


def test_chance_raises_no_alarm() -> None:
    rng = np.random.default_rng(0)
    # Skewed as scores are, and blocks of few rows.
    means = -rng.chisquare(8, (100_000, 20)).mean(axis=1)
    assert blocks_until_told(ChangeTest(), means, 20.0) is None
