"""Stepwise EM: what is forgotten, how it is averaged, and in which coordinates it is kept."""

import math

import numpy as np
import pytest

from streamgmm.algorithms.stream.stepwise_em import Schedule, Stepwise
from streamgmm.core.frame import Frame
from streamgmm.core.maximization import maximize
from streamgmm.core.objective import Objective
from streamgmm.core.parameters import Parameters
from streamgmm.options import CovarianceType
from streamgmm.protocols import Chunk
from tests.core.cases import TYPES, draw, random_parameters


def begun(
    parameters: Parameters, n_rows: int, schedule: Schedule, seed: int = 0, reg_covar: float = 0.0
) -> Stepwise:
    rows = draw(np.random.default_rng(seed), parameters, n_rows)
    return Stepwise.fitted(parameters, Chunk(rows, range(n_rows)), schedule, Objective(reg_covar))


def mixture(covariance_type: CovarianceType = "full") -> Parameters:
    return random_parameters(np.random.default_rng(5), covariance_type, 3, 2)


@pytest.mark.parametrize("new", [1.0, 10.0, 1000.0])
def test_rows_count_alike_until_the_offset(new: float) -> None:
    schedule = Schedule(5000.0, 0.6)
    assert schedule.kept(1000.0, 1000.0, new) == 1.0
    assert schedule.memory(3000.0) == 3000.0
    assert not schedule.averages(5000.0)


def test_memory_grows_as_the_decay_says() -> None:
    schedule = Schedule(100.0, 0.7)
    assert schedule.memory(100_000.0) == pytest.approx(100.0 * 1000.0**0.7)
    weight, n_rows = 100.0, 100.0
    while n_rows < 100_000.0:
        weight = schedule.kept(weight, n_rows, 5.0) * weight + 5.0
        n_rows += 5.0
    assert weight == pytest.approx(schedule.memory(n_rows))


@pytest.mark.parametrize("size", [1.0, 7.0, 100.0])
def test_a_half_life_is_what_it_says_for_any_batches(size: float) -> None:
    schedule = Schedule(1e9, 0.6, half_life=700.0)
    old = 1000.0
    for i in range(int(700.0 / size)):
        old *= schedule.kept(old, 1000.0 + i * size, size)
    assert old == pytest.approx(500.0)
    assert schedule.memory(1e6) == pytest.approx(700.0 / math.log(2.0))
    assert not schedule.averages(1e12)


def test_a_batch_larger_than_all_that_is_remembered_replaces_it() -> None:
    assert Schedule(10.0, 0.6).kept(10.0, 10.0, 1e6) == 0.0


def test_a_step_is_em_on_all_rows_while_none_is_forgotten() -> None:
    parameters = mixture()
    model = begun(parameters, 2000, Schedule(1e9, 0.6))
    rows = draw(np.random.default_rng(1), parameters, 500)
    found = model.expectation("error").statistics(rows)
    model = model.joined(found)
    expected = maximize(model.total.merge(found), model.parameters).parameters
    for estimate in (model.estimate, model.stepped().parameters):
        np.testing.assert_array_equal(estimate.means, expected.means)
        np.testing.assert_array_equal(estimate.covariances, expected.covariances)


def test_the_average_weighs_totals_by_the_rows_before_them() -> None:
    """Against the sum written down: weights grow as the number of rows since the offset."""
    parameters = mixture()
    model = begun(parameters, 1000, Schedule(1000.0, 0.6))
    totals = []
    for seed in range(200):
        rows = draw(np.random.default_rng(seed), parameters, 50)
        model = model.joined(model.expectation("error").statistics(rows)).stepped()
        totals.append(model.total.moments / model.total.weight)
    assert model.average is not None
    assert model.average.frame is model.total.frame
    since = np.arange(1.0, 201.0)
    expected = np.average(totals, axis=0, weights=since - 1.0)
    np.testing.assert_allclose(
        model.average.moments / model.average.weight, expected, rtol=0.02, atol=1e-3
    )
    assert model.average.weight == pytest.approx(0.5 * 200 * 50)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_what_moves_out_of_its_frame_is_carried_to_another(
    covariance_type: CovarianceType,
) -> None:
    """Rows that come to lie far away, and far closer together, beside their weighted moments."""
    wide = random_parameters(np.random.default_rng(5), covariance_type, 1, 2)
    narrow = Parameters.create(
        covariance_type, wide.weights, wide.means + 1e4, wide.covariances * 1e-6
    )
    model = begun(wide, 2000, Schedule(1e9, 0.6, half_life=200.0))
    first = model.total.frame
    rows = draw(np.random.default_rng(1), narrow, 70 * 200)
    for batch in np.split(rows, 70):
        model = model.joined(model.expectation("error").statistics(batch)).stepped()
    frame = model.total.frame
    assert frame is not first
    assert frame is model.recent.frame
    assert frame.resolves(model.parameters)
    weights = np.repeat(0.5 ** np.arange(69.0, -1.0, -1.0), 200).astype(np.longdouble)
    mean = weights @ rows / weights.sum()
    apart = rows - mean
    covariance = ((weights * apart.T) @ apart / weights.sum()).astype(float)
    np.testing.assert_allclose(model.parameters.means[0], mean.astype(float), rtol=1e-12)
    expected = {
        "full": covariance,
        "tied": covariance,
        "diag": np.diagonal(covariance),
        "spherical": np.trace(covariance) / 2.0,
    }[covariance_type]
    found = model.parameters.stacked(model.parameters.covariances)[0]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_reseeded_components_are_where_they_are_put(covariance_type: CovarianceType) -> None:
    parameters = mixture(covariance_type)
    model = begun(parameters, 3000, Schedule(1e9, 0.6))
    place = np.array([30.0, -30.0])
    found = model.reseeded({1: (place, 0.05)}).parameters
    np.testing.assert_allclose(found.means[1], place, atol=1e-9)
    rest = np.delete(model.total.counts, 1).sum()
    assert found.weights[1] == pytest.approx(150.0 / (150.0 + rest))
    if covariance_type != "tied":
        # What tied components share holds the rows that the component had before.
        own = np.average(model.parameters.covariances, axis=0, weights=model.parameters.weights)
        np.testing.assert_allclose(found.covariances[1], own, rtol=1e-9)
        np.testing.assert_allclose(found.covariances[0], model.parameters.covariances[0])


def test_components_with_next_to_no_rows_are_starved() -> None:
    parameters = mixture()
    model = begun(parameters, 3000, Schedule(1e9, 0.6))
    assert model.starved().size == 0
    model.total.moments[2] *= 1e-3
    assert model.starved().tolist() == [2]
    assert Frame.of(model.parameters).resolves(model.parameters)
