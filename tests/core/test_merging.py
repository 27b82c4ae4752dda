"""Mixtures of different rows as one: nothing of the rows is lost, and what is the same meets."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamgmm.core.fitted_model import FittedModel
from streamgmm.core.mixtures.merging import merge_mixtures, merging_loss, pooled
from streamgmm.core.objective import Objective
from streamgmm.core.parameters import Parameters
from streamgmm.core.statistics import COUNTS
from streamgmm.core.structures import Array
from streamgmm.options import CovarianceType
from tests import naive
from tests.core.cases import TYPES, covariances_for, draw, em_step, prepare, random_parameters

types = st.sampled_from(TYPES)
seeds = st.integers(0, 2**32 - 1)


def fitted(parameters: Parameters, rows: Array, weights: Array | None = None) -> FittedModel:
    """What one EM step finds, and what it found it from."""
    statistics = prepare(parameters).statistics(rows, weights)
    return FittedModel(em_step(rows, parameters, row_weights=weights).parameters, statistics)


def several(covariance_type: CovarianceType, seed: int, apart: float = 0.0) -> list[FittedModel]:
    """Mixtures of different numbers of components, places and rows."""
    rng = np.random.default_rng(seed)
    parts = []
    for k in (2, 3, 2):
        parameters = random_parameters(rng, covariance_type, k, 2, spread=3.0 + apart)
        rows = draw(rng, parameters, int(rng.integers(100, 400)))
        parts.append(fitted(parameters, rows, rng.uniform(0.5, 2.0, len(rows))))
    return parts


def in_order(parameters: Parameters) -> dict[str, Array]:
    """Parameters, with components ordered by their means."""
    order = np.lexsort(parameters.means.T)
    is_tied = parameters.covariance_type == "tied"
    covariances = parameters.covariances if is_tied else parameters.covariances[order]
    return {
        "weights": parameters.weights[order],
        "means": parameters.means[order],
        "covariances": covariances,
    }


def assert_close(one: Parameters, other: Parameters, tolerance: float) -> None:
    for (name, mine), its in zip(in_order(one).items(), in_order(other).values(), strict=True):
        np.testing.assert_allclose(mine, its, rtol=tolerance, atol=tolerance, err_msg=name)


def second_moments(covariance_type: CovarianceType, parameters: Parameters) -> Array:
    """E xxᵀ, as far as a covariance type says it."""
    model = naive.of(parameters)
    raw = np.zeros((2, 2), dtype=np.longdouble)
    for weight, mean, matrix in zip(model.weights, model.means, model.matrices, strict=True):
        raw += weight * (matrix + np.outer(mean, mean))
    if covariance_type == "spherical":
        return np.trace(raw)[np.newaxis]
    return np.diagonal(raw) if covariance_type == "diag" else raw


@given(types, seeds, st.integers(1, 7), st.sampled_from([0.0, 1e6]))
@settings(max_examples=60)
def test_nothing_of_the_rows_is_lost(kind: Any, seed: int, k: int, apart: float) -> None:
    parts = several(kind, seed, apart)
    merged = merge_mixtures(parts, k, Objective())
    pool = pooled(parts)
    assert merged.parameters.n_components == merged.statistics.n_components == k
    weight = sum(part.statistics.weight for part in parts)
    assert merged.statistics.weight == pytest.approx(weight, rel=1e-14)
    assert merged.statistics.counts.sum() == pytest.approx(weight, rel=1e-12)
    for name in ("log_likelihood", *COUNTS):
        total = sum(getattr(part.statistics, name) for part in parts)
        assert getattr(merged.statistics, name) == pytest.approx(total, rel=1e-12)
    mean = pool.weights @ pool.means
    scale = np.abs(pool.means).max()
    np.testing.assert_allclose(
        merged.parameters.weights @ merged.parameters.means, mean, atol=1e-11 * scale
    )
    np.testing.assert_allclose(
        second_moments(kind, merged.parameters).astype(float),
        second_moments(kind, pool).astype(float),
        rtol=1e-9,
        atol=1e-11 * scale**2,
    )


@given(types, seeds, st.permutations(range(3)))
@settings(max_examples=40)
def test_the_order_does_not_matter(kind: Any, seed: int, order: list[int]) -> None:
    parts = several(kind, seed)
    one, other = (
        merge_mixtures(own, 3, Objective(1e-6)) for own in (parts, [parts[i] for i in order])
    )
    assert_close(one.parameters, other.parameters, 1e-9)


@given(types, seeds, st.integers(2, 4))
@settings(max_examples=40)
def test_a_mixture_merged_with_itself_is_itself_of_more_rows(
    kind: Any, seed: int, times: int
) -> None:
    part = several(kind, seed)[1]
    merged = merge_mixtures([part] * times, 3, Objective())
    assert_close(merged.parameters, part.parameters, 1e-9)
    assert merged.statistics.weight == pytest.approx(times * part.statistics.weight)
    assert merging_loss([part] * times, merged.parameters) == pytest.approx(0.0, abs=1e-9)


def separated(covariance_type: CovarianceType, seed: int, chosen: list[int]) -> Parameters:
    """Some of six components that have no row in common, in an order of their own."""
    rng = np.random.default_rng(seed)
    means = 1000.0 * np.stack([np.arange(6.0), np.arange(6.0) ** 2], axis=1)[chosen]
    covariances = covariances_for(np.random.default_rng(9), covariance_type, 6, 2)
    if covariance_type != "tied":
        covariances = covariances[chosen]
    return Parameters.create(covariance_type, rng.dirichlet(np.full(4, 9.0)), means, covariances)


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("others", [[3, 1, 0, 2], [5, 2, 4, 3]])
def test_of_separate_clusters_it_is_what_one_pass_over_all_rows_finds(
    covariance_type: CovarianceType, others: list[int]
) -> None:
    mixtures = [separated(covariance_type, i, own) for i, own in enumerate(([0, 1, 2, 3], others))]
    rows = [draw(np.random.default_rng(i), one, 500 + i) for i, one in enumerate(mixtures)]
    parts = [fitted(*pair) for pair in zip(mixtures, rows, strict=True)]
    n_seen = len({0, 1, 2, 3, *others})
    merged = merge_mixtures(parts, n_seen, Objective())
    everything = np.concatenate(rows)
    # With responsibilities of 0 and 1 EM is where it leads at once.
    single = em_step(everything, merged.parameters).parameters
    assert_close(merged.parameters, single, 1e-9)
    expectation = prepare(merged.parameters)
    counts = expectation.statistics(everything).counts
    np.testing.assert_allclose(merged.statistics.counts, counts, rtol=1e-12)
    assert merging_loss(parts, merged.parameters) < 0.02


@pytest.mark.parametrize("covariance_type", TYPES)
def test_too_few_components_cost_what_they_lose(covariance_type: CovarianceType) -> None:
    mixtures = [
        separated(covariance_type, i, own) for i, own in enumerate(([0, 1, 2, 3], [2, 3, 4, 5]))
    ]
    parts = [
        fitted(one, draw(np.random.default_rng(i), one, 500)) for i, one in enumerate(mixtures)
    ]
    losses = [
        merging_loss(parts, merge_mixtures(parts, k, Objective()).parameters)
        for k in range(6, 2, -1)
    ]
    assert losses[0] < 0.02
    assert all(more > less + 0.1 for less, more in pairwise(losses))


@pytest.mark.parametrize("covariance_type", TYPES)
def test_the_loss_is_the_divergence_from_all_components(covariance_type: CovarianceType) -> None:
    rng = np.random.default_rng(3)
    parts = []
    for _ in range(2):
        parameters = random_parameters(rng, covariance_type, 3, 1)
        parts.append(fitted(parameters, draw(rng, parameters, 300)))
    merged = merge_mixtures(parts, 2, Objective()).parameters
    points = np.linspace(-40.0, 40.0, 20_001)
    p, q = (naive.scores(points[:, np.newaxis], naive.of(one)) for one in (pooled(parts), merged))
    differences, densities = (p - q).astype(float), np.exp(p).astype(float)
    exact = np.trapezoid(densities * differences, points)
    variance = np.trapezoid(densities * differences**2, points) - exact**2
    assert abs(merging_loss(parts, merged) - exact) < 4.0 * np.sqrt(variance / 8192)
