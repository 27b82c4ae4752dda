"""Marginals and conditionals, against the densities that define them."""

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from streamgmm.core.mixtures.conditioning import conditional, marginal
from streamgmm.core.parameters import Parameters
from streamgmm.core.structures import Array
from streamgmm.errors import ParameterError
from streamgmm.options import CovarianceType
from tests import naive
from tests.core.cases import TYPES, draw, random_parameters


def scores(rows: Array, parameters: Parameters) -> Array:
    return naive.scores(rows, naive.of(parameters)).astype(np.float64)


@pytest.mark.parametrize("covariance_type", TYPES)
@given(seed=st.integers(0, 2**32 - 1), d=st.integers(2, 5), k=st.integers(1, 4), data=st.data())
@settings(max_examples=25)
def test_a_joint_density_is_marginal_times_conditional(
    covariance_type: CovarianceType, seed: int, d: int, k: int, data: st.DataObject
) -> None:
    rng = np.random.default_rng(seed)
    parameters = random_parameters(rng, covariance_type, k, d)
    row = draw(rng, parameters, 1)
    count = data.draw(st.integers(1, d - 1))
    chosen = rng.permutation(d)[:count]
    rest = np.setdiff1d(np.arange(d), chosen)
    own = marginal(parameters, chosen)
    others = conditional(parameters, chosen, row[0, chosen])
    assert own.covariance_type == others.covariance_type == covariance_type
    product = scores(row[:, chosen], own) + scores(row[:, rest], others)
    np.testing.assert_allclose(product, scores(row, parameters), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_a_marginal_has_the_parts_of_means_and_covariances(covariance_type: CovarianceType) -> None:
    rng = np.random.default_rng(0)
    parameters = random_parameters(rng, covariance_type, 3, 4)
    chosen = np.array([3, 1])
    own = naive.of(marginal(parameters, chosen))
    whole = naive.of(parameters)
    np.testing.assert_array_equal(own.means, whole.means[:, chosen])
    expected = whole.matrices[:, chosen[:, np.newaxis], chosen]
    np.testing.assert_allclose(own.matrices.astype(float), expected.astype(float), rtol=1e-13)


def test_a_conditional_is_what_integration_gives() -> None:
    rng = np.random.default_rng(1)
    parameters = random_parameters(rng, "full", 2, 2, spread=1.0)
    value = 0.7
    others = conditional(parameters, np.array([1]), np.array([value]))

    def joint(x: float) -> float:
        return float(np.exp(scores(np.array([[x, value]]), parameters))[0])

    total = scipy.integrate.quad(joint, -30.0, 30.0)[0]
    mean = scipy.integrate.quad(lambda x: x * joint(x), -30.0, 30.0)[0] / total
    assert (others.weights @ others.means)[0] == pytest.approx(mean, rel=1e-7)


def test_a_narrow_ridge_keeps_its_digits() -> None:
    factor = np.array([[1.0, 0.0], [1.0, 1e-7]])
    parameters = Parameters.create(
        "full", [1.0], [[0.0, 0.0]], [factor @ factor.T], factor[np.newaxis]
    )
    others = conditional(parameters, np.array([0]), np.array([0.5]))
    assert others.means[0, 0] == pytest.approx(0.5, rel=1e-15)
    assert others.covariances[0, 0, 0] == pytest.approx(1e-14, rel=1e-9)


def test_values_beyond_all_reason() -> None:
    parameters = random_parameters(np.random.default_rng(2), "diag", 2, 3)
    with pytest.raises(ParameterError, match="none explains them; check their units"):
        conditional(parameters, np.array([0]), np.array([1e200]))


def test_a_far_value_leaves_the_nearest_component() -> None:
    parameters = Parameters.create("spherical", [0.5, 0.5], [[0.0, 0.0], [10.0, 5.0]], [1.0, 1.0])
    others = conditional(parameters, np.array([0]), np.array([1000.0]))
    np.testing.assert_array_equal(others.weights, [0.0, 1.0])
    drawn = scipy.stats.norm(5.0, 1.0)
    assert scores(np.array([[4.0]]), others)[0] == pytest.approx(drawn.logpdf(4.0), rel=1e-12)
