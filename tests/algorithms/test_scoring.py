"""Fisher scoring: its steps solve what a dense solver solves, and its forecasts are the model's."""

import math
from dataclasses import replace

import numpy as np
import pytest

from streamgmm.algorithms.batch.trust_region import score
from streamgmm.core.e_step import EStep
from streamgmm.core.frame import Frame
from streamgmm.core.information import Information, Tangent
from streamgmm.core.structures import Array
from streamgmm.options import CovarianceType
from tests.core.cases import TYPES, draw, random_parameters


def some_information(covariance_type: CovarianceType, spread: float = 1.5) -> Information:
    rng = np.random.default_rng(0)
    parameters = random_parameters(rng, covariance_type, 3, 2, spread=spread)
    rows = draw(rng, parameters, 2000)
    frame = Frame.of(parameters)
    found = EStep.prepare(parameters, frame).posterior(rows, with_responsibilities=True)
    tangent = Tangent(parameters, frame)
    information = Information.estimate(tangent, rows, np.ones(len(rows)), found.responsibilities)
    # As that of a prior: so there is information along all directions.
    return replace(information, added=0.1 * tangent.free)


def dense(information: Information) -> Array:
    n = information.tangent.free.size
    matrix = np.stack([information.product(unit) for unit in np.eye(n)], axis=1)
    return 0.5 * (matrix + matrix.T)


def some_gradient(information: Information, seed: int, size: float) -> Array:
    """As a mixture near by would have."""
    free = information.tangent.free
    away = np.random.default_rng(seed).normal(size=free.size) * free
    found = information.product(away)
    return size * found / np.linalg.norm(found)


def rough_gradient(information: Information, seed: int, size: float) -> Array:
    """Much of it along directions of which little is known: it takes many products."""
    free = information.tangent.free
    found = np.random.default_rng(seed).normal(size=free.size) * free
    own = information.tangent.split(found)[0]
    roots = np.sqrt(information.tangent.parameters.weights)
    own[:, 0] -= roots * (roots @ own[:, 0])
    gradient: Array = size * found / np.linalg.norm(found)
    return gradient


def model_gain(matrix: Array, gradient: Array, step: Array) -> float:
    return float(gradient @ step - 0.5 * step @ matrix @ step)


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("seed", range(3))
def test_steps_solve_for_all_but_a_tenth_of_the_gradient(
    covariance_type: CovarianceType, seed: int
) -> None:
    information = some_information(covariance_type)
    matrix = dense(information)
    gradient = some_gradient(information, seed, 1e-3)
    found = score(information, gradient, radius=math.inf)
    assert not found.is_cut
    assert np.linalg.norm(gradient - matrix @ found.step) <= 0.1001 * np.linalg.norm(gradient)
    assert found.predicted == found.remaining
    assert found.predicted == pytest.approx(model_gain(matrix, gradient, found.step), rel=1e-4)
    exact = np.linalg.lstsq(matrix, gradient)[0]
    whole = model_gain(matrix, gradient, exact)
    # What conjugate gradients leave is the part that pays least.
    assert 0.8 * whole < found.remaining <= 1.0001 * whole


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("seed", range(3))
def test_it_ends_with_the_first_product_that_leaves_and_adds_little(
    covariance_type: CovarianceType, seed: int
) -> None:
    information = some_information(covariance_type, spread=0.7)
    matrix = dense(information)
    gradient = rough_gradient(information, seed, 1e-3)
    found = score(information, gradient, radius=math.inf)
    assert found.n_products > 2
    steps = [
        score(information, gradient, radius=math.inf, most_products=n)
        for n in range(found.n_products + 1)
    ]
    assert [step.n_products for step in steps] == list(range(found.n_products + 1))
    gains = np.array([step.remaining for step in steps])
    np.testing.assert_array_less(0.0, np.diff(gains))
    remainders = np.array([np.linalg.norm(gradient - matrix @ step.step) for step in steps])
    leaves_little = remainders <= 0.1 * np.linalg.norm(gradient)
    adds_little = np.diff(gains, prepend=-math.inf) <= 0.05 * gains
    assert list(np.flatnonzero(leaves_little & adds_little)) == [found.n_products]
    np.testing.assert_array_equal(steps[-1].step, found.step)


@pytest.mark.parametrize("radius", [1e-3, math.inf])
def test_work_is_bounded(radius: float) -> None:
    information = some_information("full", spread=0.7)
    gradient = rough_gradient(information, 0, 1.0)
    whole = score(information, gradient, radius=radius)
    found = score(information, gradient, radius=radius, most_products=3)
    assert found.n_products == 3 < whole.n_products
    assert found.is_cut == whole.is_cut == (radius < math.inf)
    assert 0.0 < found.remaining < whole.remaining
    none = score(information, gradient, radius=radius, most_products=0)
    assert (none.predicted, none.remaining, none.n_products) == (0.0, 0.0, 0)
    assert not none.step.any()


@pytest.mark.parametrize("covariance_type", TYPES)
def test_gradients_along_one_direction_are_solved_exactly(covariance_type: CovarianceType) -> None:
    information = some_information(covariance_type)
    values, vectors = np.linalg.eigh(dense(information))
    for place in (len(values) // 2, -1):
        gradient = 1e-3 * vectors[:, place]
        found = score(information, gradient, radius=math.inf)
        assert found.n_products == 1
        np.testing.assert_allclose(
            found.step, gradient / values[place], rtol=0.0, atol=1e-4 * 1e-3 / values[place]
        )


def test_directions_without_information_end_the_solution() -> None:
    information = some_information("full", spread=0.7)
    free = information.tangent.free
    for added in (-0.2, -2.0):
        flat = replace(information, added=added * free)
        values, vectors = np.linalg.eigh(dense(flat))
        gradient = 1e-3 * (vectors[:, 0] + vectors[:, -1])
        assert values[0] < 0.0
        found = score(flat, gradient, radius=math.inf)
        assert 1 <= found.n_products < len(values)
        # It gains as where there is a fiftieth of the information of labelled rows, at most.
        assert 0.0 < gradient @ found.step <= 50.0 * gradient @ gradient
        assert 0.0 < found.remaining <= 25.0 * gradient @ gradient
        inside = score(flat, gradient, radius=1e-4)
        assert inside.is_cut
        assert information.tangent.size(inside.step) == pytest.approx(1e-4, rel=2e-3)


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("radius", [0.001, 0.1, 0.5])
def test_no_component_moves_further_than_the_trust_region(
    covariance_type: CovarianceType, radius: float
) -> None:
    information = some_information(covariance_type)
    matrix = dense(information)
    gradient = some_gradient(information, 0, 1.0)
    free = score(information, gradient, radius=math.inf)
    assert information.tangent.size(free.step) > radius
    found = score(information, gradient, radius=radius)
    assert found.is_cut
    assert information.tangent.size(found.step) == pytest.approx(radius, rel=2e-3)
    assert found.predicted == pytest.approx(model_gain(matrix, gradient, found.step), rel=1e-4)
    assert 0.0 < found.predicted < found.remaining
    # Of the whole solution, not of what lies in the region.
    assert found.remaining == free.remaining


def test_outside_of_the_region_only_what_is_asked_for_is_found_out() -> None:
    information = some_information("full", spread=0.7)
    gradient = some_gradient(information, 0, 1.0)
    whole = score(information, gradient, radius=1e-3)
    found = score(information, gradient, radius=1e-3, enough=0.5 * whole.remaining)
    assert found.n_products < whole.n_products
    assert found.remaining > 0.5 * whole.remaining
    np.testing.assert_array_equal(found.step, whole.step)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_nothing_to_gain_is_no_step(covariance_type: CovarianceType) -> None:
    information = some_information(covariance_type)
    found = score(information, np.zeros(information.tangent.free.size), radius=0.5)
    assert not found.step.any()
    assert (found.predicted, found.remaining, found.n_products) == (0.0, 0.0, 0)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_what_is_held_fixed_does_not_move(covariance_type: CovarianceType) -> None:
    information = some_information(covariance_type)
    tangent = replace(information.tangent, fixed=("weights", "covariances"))
    held = replace(information, tangent=tangent)
    gradient = some_gradient(held, 0, 1e-3)
    step = score(held, gradient, radius=math.inf).step
    assert step.any()
    np.testing.assert_array_equal(step[tangent.free == 0.0], 0.0)


def test_a_product_that_is_no_number_ends_it() -> None:
    information = some_information("diag")
    gradient = some_gradient(information, 0, 1e-3)
    information.members[0].features[0, 1] = np.nan
    found = score(information, gradient, radius=math.inf)
    assert found.n_products == 1
    assert not found.step.any()
