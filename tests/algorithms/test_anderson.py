"""Anderson extrapolation: exact for affine maps, and true to the sums of the data."""

import numpy as np
import pytest

from streamgmm.algorithms.batch.anderson import Anderson
from streamgmm.core.frame import Frame
from streamgmm.core.information import Tangent
from streamgmm.core.maximization import maximize
from streamgmm.core.parameters import Parameters
from streamgmm.core.statistics import Statistics
from streamgmm.core.structures import Array
from tests.core.cases import TYPES, draw, prepare, random_parameters


def as_statistics(state: Array) -> Statistics:
    """Statistics of one spherical component in one dimension, with a state as its moments."""
    parameters = Parameters.create("spherical", [1.0], [[0.0]], [1.0])
    return Statistics(Frame.of(parameters), state[np.newaxis].copy(), np.empty((0, 0)))


def contraction(rates: tuple[float, float, float]) -> tuple[Array, Array]:
    """A matrix of these rates of convergence along directions askew, and a fixed point."""
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(3, 3)) + 2.0 * np.eye(3)
    return directions @ np.diag(rates) @ np.linalg.inv(directions), rng.normal(size=3)


@pytest.mark.parametrize(
    ("rates", "n_steps"),
    [((0.9, 0.5, -0.3), 4), ((0.99, 0.9, 0.9), 3), ((0.7, 0.7, 0.7), 2), ((1.5, 0.2, 0.2), 3)],
)
def test_a_linear_map_is_solved_in_as_many_steps_as_it_has_rates(
    rates: tuple[float, float, float], n_steps: int
) -> None:
    matrix, fixed_point = contraction(rates)
    anderson = Anderson(3)
    state = fixed_point + np.array([1.0, -2.0, 0.5])
    errors = []
    for _ in range(n_steps):
        image = fixed_point + matrix @ (state - fixed_point)
        state = anderson.extrapolate(as_statistics(image), image - state).moments[0]
        errors.append(np.abs(state - fixed_point).max())
    assert errors[-1] < 1e-9
    assert min(errors[:-1]) > 1e-2


def test_only_so_many_steps_are_remembered() -> None:
    matrix, fixed_point = contraction((0.9, 0.5, -0.3))

    def error(order: int) -> float:
        anderson = Anderson(order)
        state = fixed_point + np.array([1.0, -2.0, 0.5])
        for n in range(6):
            assert len(anderson) == min(n, order + 1)
            image = fixed_point + matrix @ (state - fixed_point)
            state = anderson.extrapolate(as_statistics(image), image - state).moments[0]
        return float(np.abs(state - fixed_point).max())

    # Without memory it is the map itself, whose slowest rate is 0.9.
    assert error(0) > 0.1
    assert error(3) < 1e-9 < error(1) < error(0)


def test_the_first_step_is_the_maps_own() -> None:
    anderson = Anderson(5)
    image = as_statistics(np.array([1.0, 2.0, 3.0]))
    assert anderson.extrapolate(image, np.ones(3)) is image
    anderson.clear()
    assert len(anderson) == 0
    assert anderson.extrapolate(image, np.ones(3)) is image


@pytest.mark.parametrize("covariance_type", TYPES)
def test_sums_of_the_data_are_kept(covariance_type: str) -> None:
    rng = np.random.default_rng(1)
    rows = draw(rng, random_parameters(rng, "full", 3, 2, spread=1.5), 500)
    start = random_parameters(rng, covariance_type, 3, 2, spread=1.5)  # type: ignore[arg-type]
    frame = Frame.of(start)
    tangent, anderson = Tangent(start, frame), Anderson(4)
    expected = prepare(start).statistics(rows)
    parameters, before = start, np.zeros(tangent.free.size)
    for _ in range(5):
        image = type(prepare(start)).prepare(parameters, frame).statistics(rows)
        coordinates = tangent.gradient(image)
        found = anderson.extrapolate(image, coordinates - before)
        # Count, sums and sums of squares do not depend on who has the share in which row.
        np.testing.assert_allclose(found.moments.sum(axis=0), expected.moments.sum(axis=0))
        np.testing.assert_allclose(found.scatter, expected.scatter)
        assert (found.n_rows, found.weight) == (500, 500.0)
        # Each from EM's own step, so that all of them can be told to be of a mixture.
        before, parameters = coordinates, maximize(image, parameters).parameters
    assert not np.allclose(found.moments, image.moments)
