"""The condition of a mixture: which components and columns the data say too little of."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamgmm.core.condition import examine
from streamgmm.core.feature_moments import FeatureMoments
from streamgmm.core.parameters import Parameters
from streamgmm.core.structures import STRUCTURES
from streamgmm.options import CovarianceType
from tests.core.cases import TYPES

K, D = 3, 4
RIDGE = 1e-6


def mixture(covariance_type: CovarianceType, **changes: Any) -> Parameters:
    """A healthy mixture of unit variances, with changes."""
    shape = STRUCTURES[covariance_type].shape(K, D)
    is_matrix = STRUCTURES[covariance_type].has_directions
    covariances = np.broadcast_to(np.eye(D), shape) if is_matrix else np.ones(shape)
    given = {
        "weights": np.full(K, 1 / K),
        "means": 10.0 * np.arange(K * D).reshape(K, D),
        "covariances": covariances.copy(),
    }
    return Parameters.create(covariance_type, **{**given, **changes})


def set_variance(parameters: Parameters, k: int, column: int, variance: float) -> Parameters:
    covariances = parameters.covariances.copy()
    place = {
        "full": (k, column, column),
        "tied": (column, column),
        "diag": (k, column),
        "spherical": (k,),
    }[parameters.covariance_type]
    covariances[place] = variance
    return Parameters.create(
        parameters.covariance_type, parameters.weights, parameters.means, covariances
    )


@pytest.mark.parametrize("covariance_type", TYPES)
def test_a_healthy_mixture_has_no_findings(covariance_type: CovarianceType) -> None:
    found = examine(mixture(covariance_type), np.full(K, 100.0), np.full(D, RIDGE))
    assert not found.findings
    assert found.components == ()
    assert not examine(mixture(covariance_type), None, np.zeros(D)).findings


@pytest.mark.parametrize("covariance_type", TYPES)
def test_components_without_weight_and_of_few_rows(covariance_type: CovarianceType) -> None:
    parameters = mixture(covariance_type, weights=[0.0, 0.01, 0.99])
    found = examine(parameters, np.array([0.0, D, 500.0]), np.full(D, RIDGE))
    assert found.findings == {("weight", 0), ("rows", 1)}
    assert [component.n_rows for component in found.components] == [None, D]
    more = examine(parameters, np.array([0.0, D + 0.5, 500.0]), np.full(D, RIDGE))
    assert more.findings == {("weight", 0)}
    assert examine(parameters, None, np.full(D, RIDGE)).findings == {("weight", 0)}


def test_lost_components_are_named_with_other_reasons() -> None:
    parameters = mixture("diag", weights=[0.0, 0.5, 0.5])
    found = examine(parameters, np.array([0.0, 9.0, 9.0]), np.zeros(D), lost={0, 2})
    assert found.findings == {("weight", 0), ("lost", 0), ("lost", 2)}


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("factor", [1.9, 2.1])
def test_a_variance_that_is_mostly_ridge(covariance_type: CovarianceType, factor: float) -> None:
    parameters = set_variance(mixture(covariance_type), 1, 2, factor * RIDGE)
    found = examine(parameters, np.full(K, 100.0), np.full(D, RIDGE))
    named = [component.number for component in found.components]
    if factor > 2.0:
        assert named == []
        return
    assert named == ([0, 1, 2] if covariance_type == "tied" else [1])
    share = found.components[0].ridge
    assert share is not None
    assert not share.is_direction
    assert share.columns.tolist() == ([0, 1, 2, 3] if covariance_type == "spherical" else [2])
    np.testing.assert_allclose(share.variances, factor * RIDGE, rtol=1e-12)
    np.testing.assert_array_equal(share.ridges, RIDGE)


def test_each_column_has_its_own_ridge() -> None:
    ridge = np.array([1e-12, 1e-6, 1e3, 0.0])
    covariances = np.full((K, D), 1e4)
    covariances[2] = [1.5e-12, 2.5e-6, 1.5e3, 1e-30]
    found = examine(mixture("diag", covariances=covariances), None, ridge)
    (component,) = found.components
    assert component.number == 2
    assert component.ridge is not None
    assert component.ridge.columns.tolist() == [0, 2]


def test_a_constant_column_is_no_fault() -> None:
    parameters = set_variance(mixture("diag"), 1, 2, RIDGE)
    means = np.zeros((K, D))
    for k in range(K):
        parameters = set_variance(parameters, k, 2, RIDGE)
    means[:, 0] = [-10.0, 0.0, 10.0]
    means[:, 2] = 1234.5678
    constant = mixture("diag", means=means, covariances=parameters.covariances)
    assert not examine(constant, None, np.full(D, RIDGE)).findings
    # The same variance with means that differ is that of a column which the ridge blurs.
    means[:, 2] += [0.0, 1e-4, 2e-4]
    blurred = mixture("diag", means=means, covariances=parameters.covariances)
    found = examine(blurred, None, np.full(D, RIDGE))
    assert found.findings == {("column", 2), *(("ridge", k) for k in range(K))}
    np.testing.assert_allclose(found.columns.variances, 1e-8 * 2 / 3, rtol=1e-6)
    # Moments of the rows say more than the mixture.
    rows = np.random.default_rng(0).normal(size=(D, 50))
    rows[2] = 3.0
    found = examine(blurred, None, np.full(D, RIDGE), columns=FeatureMoments.of(rows))
    assert not found.findings


@pytest.mark.parametrize(("variance", "is_narrow"), [(0.99e-4, True), (1.01e-4, False)])
def test_a_column_below_a_hundred_ridges_is_narrow(variance: float, is_narrow: bool) -> None:
    rows = np.random.default_rng(0).normal(size=(D, 500))
    rows[1] *= np.sqrt(variance) / rows[1].std()
    found = examine(mixture("full"), None, np.full(D, RIDGE), columns=FeatureMoments.of(rows))
    assert found.findings == ({("column", 1)} if is_narrow else set())
    if is_narrow:
        np.testing.assert_allclose(found.columns.variances, variance)
        np.testing.assert_array_equal(found.columns.ridges, RIDGE)


@pytest.mark.parametrize("covariance_type", ["full", "tied"])
def test_a_direction_that_is_mostly_ridge(covariance_type: CovarianceType) -> None:
    covariance = np.eye(D)
    covariance[:2, :2] = [[1.0, 2.0], [2.0, 4.0]]
    covariance += RIDGE * np.eye(D)
    covariances = np.stack([np.eye(D), covariance, np.eye(D)])
    if covariance_type == "tied":
        covariances = covariance
    found = examine(mixture(covariance_type, covariances=covariances), None, np.full(D, RIDGE))
    named = [component.number for component in found.components]
    assert named == ([0, 1, 2] if covariance_type == "tied" else [1])
    share = found.components[-1].ridge
    assert share is not None
    assert share.is_direction
    assert share.columns.tolist() == [0, 1]
    np.testing.assert_allclose(share.variances, RIDGE, rtol=1e-6)


def test_a_direction_in_which_all_data_are_narrow_is_no_fault() -> None:
    covariance = np.eye(D)
    covariance[:2, :2] = [[1.0, 2.0], [2.0, 4.0]]
    means = np.zeros((K, D))
    means[:, :2] = [[-5.0, -10.0], [0.0, 0.0], [5.0, 10.0]]
    covariances = np.repeat([covariance + RIDGE * np.eye(D)], K, axis=0)
    parameters = mixture("full", means=means, covariances=covariances)
    assert not examine(parameters, None, np.full(D, RIDGE)).findings


@given(
    st.lists(st.floats(1e-9, 1.0), min_size=D, max_size=D),
    st.integers(0, 2**32 - 1),
    st.sampled_from(["full", "tied"]),
)
def test_a_component_with_a_direction_below_two_ridges_is_found(
    variances: list[float], seed: int, covariance_type: CovarianceType
) -> None:
    vectors, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(D, D)))
    covariance = (vectors * variances) @ vectors.T
    covariance = 0.5 * (covariance + covariance.T)
    covariances = np.repeat([covariance], K, axis=0) if covariance_type == "full" else covariance
    parameters = mixture(covariance_type, covariances=covariances)
    smallest = float(np.linalg.eigvalsh(covariance)[0])
    if abs(smallest - 2 * RIDGE) < 1e-3 * RIDGE:
        return
    found = examine(parameters, None, np.full(D, RIDGE))
    # The means lie far apart along one line, so that only a direction across it is narrow for all.
    line = parameters.means[1] - parameters.means[0]
    is_across = abs(line @ np.linalg.eigh(covariance)[1][:, 0]) < 0.1
    if not is_across:
        assert bool(found.components) == (smallest < 2 * RIDGE)
