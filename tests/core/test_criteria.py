"""Information criteria from statistics, against sums over rows in extended precision."""

import numpy as np
import pytest
import scipy.special

from streamgmm.core.criteria import Criteria, assignment_entropy
from streamgmm.core.frame import Frame
from streamgmm.core.incomplete import IncompleteExpectation
from streamgmm.core.parameters import Parameters
from streamgmm.core.structures import Array
from streamgmm.options import CovarianceType
from tests import naive
from tests.core.cases import ALL_TYPES, draw, prepare, random_parameters


def entropy(responsibilities: Array, weights: Array) -> float:
    """Return -Σ w Σ_k γ ln γ."""
    gamma = np.asarray(responsibilities, dtype=np.float64)
    return float(-(weights @ scipy.special.xlogy(gamma, gamma)).sum())


@pytest.mark.parametrize("covariance_type", ALL_TYPES)
@pytest.mark.parametrize(("offset", "spread"), [(0.0, 1.0), (1e6, 2.0), (0.0, 1e4)])
def test_entropy_is_that_of_the_responsibilities(
    covariance_type: CovarianceType, offset: float, spread: float
) -> None:
    """Far and narrow components use the centred form."""
    rng = np.random.default_rng(1)
    own = random_parameters(rng, covariance_type, 4, 3, spread)
    parameters = Parameters.create(
        covariance_type, own.weights, own.means + offset, own.covariances
    )
    rows, weights = draw(rng, parameters, 1500), rng.uniform(0.0, 3.0, 1500)
    found = prepare(parameters, rows).statistics(rows, weights)
    gamma = naive.responsibilities(rows, naive.of(parameters))
    assert assignment_entropy(found, parameters) == pytest.approx(
        entropy(gamma, weights), rel=1e-8, abs=1e-5
    )


@pytest.mark.parametrize("covariance_type", ALL_TYPES)
def test_entropy_of_rows_with_missing_values(covariance_type: CovarianceType) -> None:
    rng = np.random.default_rng(2)
    parameters = random_parameters(rng, covariance_type, 3, 4, spread=1.0)
    rows = draw(rng, parameters, 300)
    gaps = rng.random(rows.shape) < 0.3
    gaps[np.arange(150), rng.integers(0, 4, 150)] = False
    rows, weights = np.where(gaps, np.nan, rows), rng.uniform(0.5, 2.0, 300)
    expectation = IncompleteExpectation.prepare(parameters, Frame.of(parameters))
    seen = ~np.isnan(rows).all(axis=1)
    found = expectation.statistics(rows[:200], weights[:200]).merge(
        expectation.statistics(rows[200:], weights[200:])
    )
    joint = naive.incomplete_log_joint(rows[seen], naive.of(parameters)).astype(float)
    gamma = scipy.special.softmax(joint, axis=1)
    expected = entropy(gamma, weights[seen])
    assert assignment_entropy(found, parameters) == pytest.approx(expected, rel=1e-9)
    # Weights and differences of statistics scale and subtract as the sums over rows do.
    both = found.scale(3.0).subtract(found)
    assert assignment_entropy(both, parameters) == pytest.approx(2.0 * expected, rel=1e-9)


def test_a_component_without_weight_has_no_part() -> None:
    parameters = Parameters.create("diag", [0.5, 0.5, 0.0], np.eye(3, 2), np.ones((3, 2)))
    rows = np.random.default_rng(3).normal(size=(100, 2))
    gamma = naive.responsibilities(rows, naive.of(parameters))
    found = assignment_entropy(prepare(parameters, rows).statistics(rows), parameters)
    assert found == pytest.approx(entropy(gamma, np.ones(100)), rel=1e-10)


def test_one_component_leaves_no_doubt() -> None:
    rng = np.random.default_rng(4)
    parameters = random_parameters(rng, "full", 1, 3)
    rows = draw(rng, parameters, 400)
    found = Criteria.of(prepare(parameters, rows).statistics(rows), parameters)
    assert found.entropy == pytest.approx(0.0, abs=1e-9)
    assert found.icl == pytest.approx(found.bic, abs=1e-8)
    assert found.n_parameters == 3 + 6


def test_rows_that_overflow_leave_no_finite_criterion() -> None:
    parameters = Parameters.create("full", [1.0], np.zeros((1, 2)), np.eye(2)[np.newaxis])
    rows = np.array([[0.0, 1.0], [1e200, 0.0], [1.0, 1.0]])
    found = Criteria.of(prepare(parameters, rows).statistics(rows), parameters)
    assert (found.aic, found.bic, found.icl) == (np.inf, np.inf, np.inf)
    assert found.n_rows == 3.0
