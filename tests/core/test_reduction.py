"""Merged components: moments as those of both, costs as bounds on what is lost."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamgmm.core.mixtures.reduction import (
    merged_pairs,
    merging_bounds,
    merging_partners,
    reduce_components,
)
from streamgmm.core.parameters import Parameters
from streamgmm.core.structures import Array
from streamgmm.options import CovarianceType
from tests import naive
from tests.core.cases import ALL_TYPES, TYPES, covariances_for, random_parameters


@pytest.mark.parametrize("covariance_type", TYPES)
def test_merged_pairs_have_the_moments_of_both(covariance_type: CovarianceType) -> None:
    parameters = random_parameters(np.random.default_rng(0), covariance_type, 4, 3)
    first, second = np.array([0, 1, 0]), np.array([1, 3, 2])
    merged = merged_pairs(parameters, first, second)
    own, model = naive.of(merged), naive.of(parameters)
    pairs = model.weights[first] + model.weights[second]
    np.testing.assert_allclose(
        own.weights.astype(float), (pairs / pairs.sum()).astype(float), rtol=1e-14
    )
    for p, (i, j) in enumerate(zip(first, second, strict=True)):
        a, b = model.weights[[i, j]] / pairs[p]
        mean = a * model.means[i] + b * model.means[j]
        # E xxᵀ - E x E xᵀ of the two.
        raw = sum(
            part * (model.matrices[k] + np.outer(model.means[k], model.means[k]))
            for part, k in ((a, i), (b, j))
        )
        central = raw - np.outer(mean, mean)
        expected = {
            "full": central,
            "tied": model.matrices[0],
            "diag": np.diag(np.diag(central)),
            "spherical": np.trace(central) / 3 * np.eye(3),
        }[covariance_type]
        np.testing.assert_allclose(own.means[p].astype(float), mean.astype(float), atol=1e-13)
        np.testing.assert_allclose(
            own.matrices[p].astype(float), expected.astype(float), rtol=1e-12, atol=1e-12
        )


@pytest.mark.parametrize("covariance_type", TYPES)
def test_identical_components_merge_for_nothing(covariance_type: CovarianceType) -> None:
    one = random_parameters(np.random.default_rng(1), covariance_type, 1, 3)
    count = 1 if covariance_type == "tied" else 3
    covariances = np.repeat(one.stacked(one.covariances), count, axis=0)
    if covariance_type == "tied":
        covariances = covariances[0]
    elif covariance_type == "spherical":
        covariances = covariances[:, 0]
    weights, means = [0.2, 0.3, 0.5], np.repeat(one.means, 3, axis=0)
    bounds = merging_bounds(Parameters.create(covariance_type, weights, means, covariances))
    np.testing.assert_array_equal(np.diagonal(bounds), np.inf)
    np.testing.assert_allclose(bounds[~np.eye(3, dtype=bool)], 0.0, atol=1e-13)


def test_components_on_one_ridge_are_merged() -> None:
    # Covariances that are singular to rounding; their factors are not.
    factors = np.array([[[1.0, 0.0], [1.0, 1e-9]], [[2.0, 0.0], [2.0, 1e-9]]])
    covariances = factors @ np.swapaxes(factors, 1, 2)
    means = [[0.0, 0.0], [3.0, 3.0]]
    parameters = Parameters.create("full", [0.5, 0.5], means, covariances, factors)
    merged = merged_pairs(parameters, np.array([0]), np.array([1]))
    wide = np.sqrt(0.5 * 1.0 + 0.5 * 4.0 + 2.25)
    np.testing.assert_allclose(merged.factors, [[[wide, 0.0], [wide, 1e-9]]], rtol=1e-6)
    expected = np.log(wide) - 0.5 * np.log(2.0)
    assert merging_bounds(parameters)[0, 1] == pytest.approx(expected, rel=1e-6)


def divergence(parameters: Parameters, merged: Parameters) -> float:
    """∫ p ln (p / q) of two mixtures in one dimension."""
    deviations = np.sqrt(parameters.stacked(parameters.covariances).ravel())
    low = (parameters.means[:, 0] - 12.0 * deviations).min()
    high = (parameters.means[:, 0] + 12.0 * deviations).max()
    points = np.linspace(low, high, 20_001)
    p, q = (naive.scores(points[:, np.newaxis], naive.of(m)) for m in (parameters, merged))
    return float(np.trapezoid((np.exp(p) * (p - q)).astype(float), points))


def with_merged(parameters: Parameters, i: int, j: int) -> Parameters:
    """The mixture with one Gaussian in the place of two."""
    both = merged_pairs(parameters, np.array([i]), np.array([j]))
    others = [k for k in range(parameters.n_components) if k not in (i, j)]

    def joined(own: Array, merged: Array) -> Array:
        return np.concatenate([own[others], merged])

    weight = parameters.weights[[i, j]].sum(keepdims=True)
    return Parameters.create(
        parameters.covariance_type,
        joined(parameters.weights, weight),
        joined(parameters.means, both.means),
        joined(parameters.covariances, both.covariances),
    )


@given(st.sampled_from(["full", "diag", "spherical"]), st.integers(0, 2**32 - 1))
@settings(max_examples=30)
def test_costs_bound_the_divergence(covariance_type: Any, seed: int) -> None:
    parameters = random_parameters(np.random.default_rng(seed), covariance_type, 3, 1)
    bounds = merging_bounds(parameters)
    np.testing.assert_array_equal(bounds, bounds.T)
    for i, j in ((0, 1), (0, 2), (1, 2)):
        lost = divergence(parameters, with_merged(parameters, i, j))
        assert -1e-9 < lost <= bounds[i, j] + 1e-9


def test_the_cost_of_tied_components_is_what_widening_all_would_lose_to_first_order() -> None:
    def bound(apart: float) -> tuple[float, float]:
        means = np.array([[0.0, 0.0], [apart, -apart], [9.0, 9.0]])
        parameters = Parameters.create("tied", [0.1, 0.3, 0.6], means, [[2.0, 0.5], [0.5, 1.0]])
        spread = 0.1 * 0.3 / 0.4 * np.outer(means[1], means[1])
        wider = np.linalg.slogdet(parameters.covariances + spread)[1]
        exact = 0.5 * (wider - np.linalg.slogdet(parameters.covariances)[1])
        return float(merging_bounds(parameters)[0, 1]), float(exact)

    for apart in (1e-1, 1e-2, 1e-3):
        found, exact = bound(apart)
        assert found == pytest.approx(exact, rel=apart)


def test_components_without_weight_merge_for_nothing() -> None:
    parameters = random_parameters(np.random.default_rng(2), "full", 3, 2)
    weights = [0.0, 0.4, 0.6]
    parameters = Parameters.create("full", weights, parameters.means, parameters.covariances)
    bounds = merging_bounds(parameters)
    np.testing.assert_allclose(bounds[0, 1:], 0.0, atol=1e-14)
    merged = merged_pairs(parameters, np.array([0]), np.array([1]))
    np.testing.assert_allclose(merged.means, parameters.means[1:2])
    np.testing.assert_allclose(merged.covariances, parameters.covariances[1:2])


def test_one_component_has_nothing_to_merge_with() -> None:
    parameters = random_parameters(np.random.default_rng(3), "full", 1, 2)
    np.testing.assert_array_equal(merging_bounds(parameters), [[np.inf]])


@pytest.mark.parametrize("covariance_type", TYPES)
def test_a_reduced_mixture_has_the_moments_of_its_groups(covariance_type: CovarianceType) -> None:
    parameters = random_parameters(np.random.default_rng(4), covariance_type, 7, 2)
    reduced, groups = reduce_components(parameters, 3)
    assert sorted(set(groups.tolist())) == [0, 1, 2]
    for g in range(3):
        own = groups == g
        weight = parameters.weights[own].sum()
        mean = parameters.weights[own] @ parameters.means[own] / weight
        assert reduced.weights[g] == pytest.approx(weight)
        np.testing.assert_allclose(reduced.means[g], mean, atol=1e-13)
    if covariance_type == "tied":
        np.testing.assert_array_equal(reduced.covariances, parameters.covariances)
    same, own_groups = reduce_components(parameters, 7)
    np.testing.assert_array_equal(same.means, parameters.means)
    np.testing.assert_array_equal(own_groups, np.arange(7))


def test_each_step_of_a_reduction_costs_least() -> None:
    parameters = random_parameters(np.random.default_rng(5), "full", 6, 2)
    for k in range(6, 1, -1):
        own, _ = reduce_components(parameters, k)
        following, _ = reduce_components(parameters, k - 1)
        bounds = merging_bounds(own)
        i, j = sorted(np.unravel_index(np.argmin(bounds), bounds.shape))
        expected = with_merged(own, int(i), int(j))
        order, its = np.lexsort(following.means.T), np.lexsort(expected.means.T)
        np.testing.assert_allclose(following.means[order], expected.means[its], rtol=1e-12)
        np.testing.assert_allclose(
            following.covariances[order], expected.covariances[its], rtol=1e-12
        )


@pytest.mark.parametrize("covariance_type", ALL_TYPES)
def test_partners_of_many_components_are_those_of_all_pairs(
    covariance_type: CovarianceType,
) -> None:
    rng = np.random.default_rng(9)
    k, d = 70, 3
    covariances = 0.1 * covariances_for(rng, covariance_type, k, d)
    means = rng.normal(size=(k, d)) * 3.0
    means[60:] = means[0]
    weights = rng.dirichlet(np.full(k, 20.0))
    parameters = Parameters.create(covariance_type, weights, means, covariances)
    partners, bounds = merging_partners(parameters), merging_bounds(parameters)
    found = bounds[np.arange(k), partners]
    assert not (partners == np.arange(k)).any()
    # A far component of little weight may be cheaper; it is for few of them.
    assert (found <= bounds.min(axis=1) * (1.0 + 1e-12)).mean() > 0.9
    assert np.all(found <= 2.0 * bounds.min(axis=1) + 1e-12)


def test_partners_of_few_components_are_those_of_all_pairs() -> None:
    parameters = random_parameters(np.random.default_rng(10), "full", 5, 2)
    expected = np.argmin(merging_bounds(parameters), axis=1)
    np.testing.assert_array_equal(merging_partners(parameters), expected)
    single = random_parameters(np.random.default_rng(10), "full", 1, 2)
    np.testing.assert_array_equal(merging_partners(single), [0])


def test_pairs_of_many_components_are_not_all_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(11)
    parameters = random_parameters(rng, "diag", 400, 2, spread=20.0)
    n_pairs = []

    def counted(_: Any, first: Any, second: Any) -> Parameters:
        n_pairs.append(len(first))
        return merged_pairs(parameters, first, second)

    monkeypatch.setattr("streamgmm.core.mixtures.reduction.merged_pairs", counted)
    merging_partners(parameters)
    assert sum(n_pairs) <= 33 * 400
    # Few calls, of many pairs each.
    assert len(n_pairs) < 10
