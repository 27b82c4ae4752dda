"""Frames: where moments are summed, and when they cannot determine what was found."""

import numpy as np
import pytest

from streamgmm.core.frame import Frame
from streamgmm.core.parameters import Parameters
from streamgmm.errors import DataError
from tests.core.cases import TYPES, prepare, random_parameters


@pytest.mark.parametrize("covariance_type", TYPES)
def test_a_mixture_is_resolved_by_its_own_frame(covariance_type: str) -> None:
    for seed in range(5):
        rng = np.random.default_rng(seed)
        parameters = random_parameters(rng, covariance_type, 4, 3, spread=10.0 ** (2 * seed))
        assert Frame.of(parameters).resolves(parameters)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_scales_are_powers_of_two_and_one_far_component_moves_nothing(covariance_type: str) -> None:
    rng = np.random.default_rng(0)
    near = random_parameters(rng, covariance_type, 4, 3)
    means = near.means.copy()
    means[0] = 1e12
    far = Parameters.create(covariance_type, near.weights, means, near.covariances)
    for frame in map(Frame.of, (near, far)):
        mantissas, _ = np.frexp(frame.scale)
        assert np.all(mantissas == 0.5)
        assert np.all(np.abs(frame.origin) < 100.0)
        assert np.all((frame.scale > 1e-3) & (frame.scale < 1e3))


@pytest.mark.parametrize("jump", [1e4, 1e5, 1e6])
def test_a_component_that_jumps_from_its_own_mean_is_not_resolved(jump: float) -> None:
    before = Parameters.create("full", [0.5, 0.5], [[0.0], [1e6]], np.ones((2, 1, 1)))
    after = Parameters.create("full", [0.5, 0.5], [[0.0], [1e6 + jump]], np.ones((2, 1, 1)))
    frame = Frame.of(before)
    assert frame.centred.tolist() == [1]
    assert frame.resolves(before)
    assert not frame.resolves(after)


def test_rows_of_another_width_are_refused() -> None:
    expectation = prepare(random_parameters(np.random.default_rng(0), "full", 2, 3))
    for rows in (np.zeros((5, 2)), np.zeros((5, 4)), np.zeros(3)):
        with pytest.raises(DataError, match="mixture 3 features"):
            expectation.statistics(rows)
        with pytest.raises(DataError, match="mixture 3 features"):
            expectation.posterior(rows)
