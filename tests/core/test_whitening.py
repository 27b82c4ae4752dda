"""Moments in the coordinates of components: there and back, and what they are of rows."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamgmm.core.frame import Frame
from streamgmm.core.maximization import maximize
from streamgmm.core.parameters import Parameters
from streamgmm.core.structures import upper_triangle
from streamgmm.core.whitening import Whitening, carried
from streamgmm.options import CovarianceType
from tests import naive
from tests.core.cases import TYPES, draw, prepare, random_parameters


@given(
    st.sampled_from(TYPES),
    st.integers(1, 4),
    st.integers(1, 4),
    st.sampled_from([0.0, 10.0, 1e5]),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=60)
def test_there_and_back(covariance_type: Any, k: int, d: int, apart: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    parameters = random_parameters(rng, covariance_type, k, d, spread=1.0 + apart)
    statistics = prepare(parameters).statistics(draw(rng, parameters, 40 * k))
    whitening = Whitening.of(parameters, statistics.frame)
    moments, scatter = whitening.of_statistics(statistics)
    found = whitening.in_frame(moments, scatter)
    for one, other in ((found.moments, statistics.moments), (found.scatter, statistics.scatter)):
        largest = np.abs(other).max(initial=1.0)
        np.testing.assert_allclose(one, other, rtol=0.0, atol=1e-13 * largest)
    again = whitening.of_statistics(found)
    # Near the origin of the frame; far from it what is small is a difference of what is large.
    if apart < 100.0:
        np.testing.assert_allclose(again[0], moments, rtol=0.0, atol=1e-9)
        np.testing.assert_allclose(again[1], scatter, rtol=0.0, atol=1e-9)


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("place", [0.0, 1e7])
def test_they_are_moments_of_whitened_rows(covariance_type: CovarianceType, place: float) -> None:
    rng = np.random.default_rng(0)
    parameters = random_parameters(rng, covariance_type, 3, 2)
    means = parameters.means.copy()
    # A component so far away uses the centred form.
    means[2] += place
    parameters = Parameters.create(
        covariance_type, parameters.weights, means, parameters.covariances
    )
    assert Frame.of(parameters).centred.size == (place > 0.0)
    rows = draw(rng, parameters, 300)
    statistics = prepare(parameters).statistics(rows)
    moments, scatter = Whitening.of(parameters, statistics.frame).of_statistics(statistics)
    model = naive.of(parameters)
    gamma = naive.responsibilities(rows, model)
    total = np.zeros((2, 2), dtype=np.longdouble)
    for k in range(3):
        y = naive.solve_lower(model.factors[k], (naive.extended(rows) - model.means[k]).T).T
        second = (gamma[:, k, np.newaxis] * y).T @ y
        total += second
        expected = {
            "full": second[upper_triangle(2)],
            "tied": np.empty(0),
            "diag": np.diagonal(second),
            "spherical": np.trace(second)[np.newaxis],
        }[covariance_type]
        own = np.concatenate([[gamma[:, k].sum()], gamma[:, k] @ y, expected])
        np.testing.assert_allclose(moments[k], own.astype(float), rtol=0.0, atol=1e-6)
    if covariance_type == "tied":
        np.testing.assert_allclose(scatter, total.astype(float), rtol=1e-6)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_statistics_are_carried_to_another_frame(covariance_type: CovarianceType) -> None:
    """As sums in extended precision would be there, from rows."""
    rng = np.random.default_rng(0)
    parameters = random_parameters(rng, covariance_type, 3, 2)
    means = parameters.means + np.array([[0.0], [0.0], [1e6]])
    far = Parameters.create(covariance_type, parameters.weights, means, parameters.covariances)
    rows = draw(rng, parameters, 300)
    statistics = prepare(parameters).statistics(rows)
    # Another origin, another scale, and a component in the centred form.
    frame = replace(Frame.of(far), means=far.means[Frame.of(far).centred] - 1e6 + 0.25)
    frame = replace(frame, origin=frame.origin + 0.5, scale=frame.scale * 4.0)
    found = carried(statistics, parameters, frame)
    assert frame.centred.tolist() == [2]
    assert found.frame is frame
    assert (found.n_rows, found.weight) == (statistics.n_rows, statistics.weight)
    assert found.log_likelihood == statistics.log_likelihood
    model = naive.of(parameters)
    gamma = naive.responsibilities(rows, model)
    origins = frame._origins(3)
    total = np.zeros((2, 2), dtype=np.longdouble)
    for k in range(3):
        basis = np.diag(frame.scale)
        if covariance_type == "tied":
            basis = frame.factors[0]
        elif k == 2:
            basis = frame.factors[0] if covariance_type == "full" else np.diag(frame.factors[0])
        u = naive.solve_lower(naive.extended(basis), (naive.extended(rows) - origins[k]).T).T
        second = (gamma[:, k, np.newaxis] * u).T @ u
        total += second
        expected = {
            "full": second[upper_triangle(2)],
            "tied": np.empty(0),
            "diag": np.diagonal(second),
            "spherical": np.trace(second)[np.newaxis],
        }[covariance_type]
        own = np.concatenate([[gamma[:, k].sum()], gamma[:, k] @ u, expected]).astype(float)
        np.testing.assert_allclose(found.moments[k], own, rtol=1e-11, atol=1e-11 * own.max())
    if covariance_type == "tied":
        np.testing.assert_allclose(found.scatter, total.astype(float), rtol=1e-11)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_standard_statistics_are_those_of_the_mixture(covariance_type: CovarianceType) -> None:
    rng = np.random.default_rng(0)
    parameters = random_parameters(rng, covariance_type, 3, 2)
    whitening = Whitening.of(parameters, Frame.of(parameters))
    found = maximize(whitening.standard(1000.0 * parameters.weights), parameters).parameters
    np.testing.assert_allclose(found.weights, parameters.weights, rtol=1e-12)
    np.testing.assert_allclose(found.means, parameters.means, rtol=1e-12)
    np.testing.assert_allclose(found.covariances, parameters.covariances, rtol=1e-11)
