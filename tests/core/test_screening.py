"""Pairs of row and component that are ruled out, skipped, or left in float32.

What is ruled out or skipped must not change anything; what is left in float32 must be
within its bounds. Each test shows that it happened.
"""

from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamgmm.core.e_step import EStep
from streamgmm.core.frame import Frame
from streamgmm.core.kernels.screening import FEW, MANY_FEATURES
from streamgmm.core.kernels.tiles import BLOCK
from streamgmm.core.maximization import maximize
from streamgmm.core.noise import NO_BOX, Noise
from streamgmm.core.parameters import Parameters
from streamgmm.core.statistics import Statistics
from streamgmm.core.structures import Array
from streamgmm.options import CovarianceType
from tests import naive
from tests.core.cases import TYPES, draw, random_parameters

# Enough features, and components, that looking for shares pays.
SIZES = {"full": 16, "tied": 130, "diag": 70, "spherical": 130}
MANY = {"full": 20, "tied": 124, "diag": 64, "spherical": 124}


def expectation(parameters: Parameters, arithmetic: str) -> EStep:
    return EStep.prepare(parameters, Frame.of(parameters), arithmetic)  # type: ignore[arg-type]


def assert_same_sums(one: Statistics, other: Statistics) -> None:
    assert np.array_equal(one.moments, other.moments)
    assert np.array_equal(one.scatter, other.scatter)
    assert one.log_likelihood == other.log_likelihood
    assert (one.weight, one.n_rows) == (other.weight, other.n_rows)


def separated(
    covariance_type: CovarianceType, k: int, seed: int = 0, spread: float = 8.0
) -> tuple[Parameters, Array]:
    rng = np.random.default_rng(seed)
    drawn = random_parameters(rng, covariance_type, k, SIZES[covariance_type], spread)
    # Equal weights, so that no component has more than few rows of a block.
    weights = np.full(k, 1.0 / k)
    parameters = Parameters.create(covariance_type, weights, drawn.means, drawn.covariances)
    return parameters, draw(rng, parameters, 3 * BLOCK + 100)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_screening_changes_no_bit(covariance_type: CovarianceType) -> None:
    k = MANY[covariance_type]
    parameters, rows = separated(covariance_type, k)
    found = expectation(parameters, "auto").statistics(rows)
    plain = expectation(parameters, "float64").statistics(rows)
    assert_same_sums(found, plain)
    assert found.n_screened > 0.8 * len(rows) * k
    assert plain.n_screened == plain.n_single == found.n_single == 0
    assert found.n_passed_over == plain.n_passed_over > 0.8 * len(rows) * k


@pytest.mark.parametrize("covariance_type", TYPES)
def test_screening_changes_no_bit_beside_noise_and_a_heavy_component(
    covariance_type: CovarianceType,
) -> None:
    k = MANY[covariance_type]
    parameters, rows = separated(covariance_type, k, seed=1)
    rng = np.random.default_rng(1)
    # Most rows belong to one component, whose tile is computed as a whole, and some to none.
    rows[1::2] = rng.permutation(rows[1::2])[0] + rng.normal(size=rows[1::2].shape)
    rows[5::50] *= 3.0
    rows[7], rows[BLOCK + 9, 3] = np.nan, 1e200
    weights = np.full(k, 0.4 / k)
    nearest = np.square(parameters.means - rows[1]).sum(axis=1).argmin()
    weights[nearest] += 0.5
    parameters = Parameters.create(
        covariance_type,
        weights,
        parameters.means,
        parameters.covariances,
        noise=Noise(0.1, -4.0 * rows.shape[1], NO_BOX),
    )
    row_weights = rng.uniform(0.0, 2.0, len(rows))
    found = expectation(parameters, "auto").statistics(rows, row_weights)
    plain = expectation(parameters, "float64").statistics(rows, row_weights)
    assert_same_sums(found, plain)
    assert found.n_screened > 0.5 * len(rows) * k
    assert found.n_passed_over == plain.n_passed_over
    assert 0.0 < found.weight - found.counts.sum() < 0.5 * found.weight


@pytest.mark.parametrize("covariance_type", TYPES)
def test_few_components_are_not_screened(covariance_type: CovarianceType) -> None:
    # A product with few components takes less time than looking for their rows.
    parameters, rows = separated(covariance_type, 8)
    found = expectation(parameters, "auto").statistics(rows)
    assert found.n_screened == 0
    assert_same_sums(found, expectation(parameters, "float64").statistics(rows))


def test_mixtures_that_are_mostly_centred_are_not_screened() -> None:
    rng = np.random.default_rng(4)
    parameters = random_parameters(rng, "full", 32, 16, 8.0)
    frame = Frame.of(parameters)
    assert EStep.prepare(parameters, frame).coefficients.theta_single.size
    half = replace(
        frame, centred=np.arange(20), means=parameters.means[:20], factors=parameters.factors[:20]
    )
    prepared = EStep.prepare(parameters, half)
    assert len(prepared.coefficients.theta) == 12
    assert not prepared.coefficients.theta_single.size


@pytest.mark.parametrize("covariance_type", TYPES)
def test_sums_of_few_rows_are_right(covariance_type: CovarianceType) -> None:
    parameters, rows = separated(covariance_type, 20)
    statistics = expectation(parameters, "auto").statistics(rows)
    assert statistics.n_passed_over > 0
    step = maximize(statistics, parameters, reg_covar=1e-3).parameters
    assert naive.distance(step, naive.em_step(rows, naive.of(parameters), 1e-3)) < 1e-9


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.5, 1.5, 2.5, 4.0, 8.0]), st.booleans())
def test_screening_changes_no_bit_of_any_mixture(seed: int, spread: float, weigh: bool) -> None:
    rng = np.random.default_rng(seed)
    k = int(rng.integers(6, 40))
    parameters = random_parameters(rng, "full", k, 15, spread)
    # One component with most of the rows, so that its tile is computed as a whole.
    heavy = np.full(k, 0.3 / (k - 1))
    heavy[int(rng.integers(k))] = 0.7
    parameters = Parameters.create("full", heavy, parameters.means, parameters.covariances)
    rows = draw(rng, parameters, int(rng.integers(1, 3 * BLOCK)))
    rows[rng.integers(len(rows))] += rng.normal(size=15) * 10.0 ** rng.integers(0, 12)
    weights = rng.uniform(0.0, 2.0, len(rows)) if weigh else None
    assert_same_sums(
        expectation(parameters, "auto").statistics(rows, weights),
        expectation(parameters, "float64").statistics(rows, weights),
    )


def test_overlapping_components_are_not_screened_again_and_again() -> None:
    rng = np.random.default_rng(5)
    parameters = random_parameters(rng, "full", 12, 16, 0.3)
    rows = draw(rng, parameters, 20 * BLOCK)
    found = expectation(parameters, "auto").statistics(rows)
    assert_same_sums(found, expectation(parameters, "float64").statistics(rows))
    assert found.n_screened == 0
    assert found.n_passed_over < 0.2 * len(rows) * 12


def test_few_features_are_not_screened() -> None:
    rng = np.random.default_rng(6)
    parameters = random_parameters(rng, "full", 20, 3, 50.0)
    prepared = expectation(parameters, "auto")
    assert prepared.coefficients.theta.shape[1] < MANY_FEATURES
    found = prepared.statistics(draw(rng, parameters, 2000))
    assert found.n_screened == found.n_passed_over == 0


def test_predictions_are_screened_too() -> None:
    parameters, rows = separated("full", 20)
    found = expectation(parameters, "auto").posterior(rows, with_responsibilities=True)
    plain = expectation(parameters, "float64").posterior(rows, with_responsibilities=True)
    assert np.array_equal(found.scores, plain.scores)
    assert np.array_equal(found.labels, plain.labels)
    np.testing.assert_allclose(found.responsibilities, plain.responsibilities, rtol=0, atol=1e-40)


def test_components_on_the_centred_route_sum_few_rows() -> None:
    rng = np.random.default_rng(8)
    parameters = random_parameters(rng, "full", 20, 16, 1e5)
    rows = draw(rng, parameters, 2 * BLOCK)
    prepared = expectation(parameters, "auto")
    assert prepared.frame.centred.size == 20
    statistics = prepared.statistics(rows)
    assert statistics.n_passed_over > 0.9 * len(rows) * 20
    step = maximize(statistics, parameters, reg_covar=1e-3).parameters
    assert naive.distance(step, naive.em_step(rows, naive.of(parameters), 1e-3)) < 1e-9


@pytest.mark.parametrize("count", [0, 1, 15, 16, 17, FEW - 1, FEW, FEW + 1, BLOCK])
def test_any_number_of_rows_with_a_share(count: int) -> None:
    # So many rows of the one block belong to component 0, the others to component 1.
    rng = np.random.default_rng(count)
    means = np.zeros((8, 16))
    means[:, 0] = 100.0 * np.arange(8)
    parameters = Parameters.create("full", np.full(8, 0.125), means, np.tile(np.eye(16), (8, 1, 1)))
    rows = rng.normal(size=(BLOCK, 16))
    rows[count:, 0] += 100.0
    rows = rng.permutation(rows)
    for arithmetic in ("auto", "float64"):
        statistics = expectation(parameters, arithmetic).statistics(rows)
        exact = naive.responsibilities(rows, naive.of(parameters)).sum(axis=0).astype(float)
        np.testing.assert_allclose(statistics.counts, exact, rtol=1e-12, atol=1e-30)
        assert abs(statistics.counts[0] - count) < 1e-9


# float32 --------------------------------------------------------------------------------


@pytest.mark.parametrize("covariance_type", TYPES)
def test_densities_in_float32_are_within_their_bounds(covariance_type: CovarianceType) -> None:
    rng = np.random.default_rng(11)
    parameters = random_parameters(rng, covariance_type, 5, 2, 2.0)
    rows = draw(rng, parameters, 4000).astype(np.float32)
    statistics = expectation(parameters, "float32").statistics(rows)
    assert statistics.n_single == len(rows) * 5
    model = naive.of(parameters)
    mean = float(naive.mean_log_likelihood(rows, model))
    error = abs(statistics.mean_log_likelihood - mean)
    assert 0.0 < error < 1e-5
    step = maximize(statistics, parameters).parameters
    assert naive.distance(step, naive.em_step(rows, model)) < 1e-4
    scores = expectation(parameters, "float32").posterior(rows).scores
    assert 1e-9 < np.abs(scores - naive.scores(rows, model)).max() < 1e-3


@given(st.integers(0, 2**32 - 1), st.sampled_from(TYPES), st.floats(0.0, 5.0))
def test_float32_is_never_wrong_by_more_than_its_tolerance(
    seed: int, covariance_type: CovarianceType, distance: float
) -> None:
    rng = np.random.default_rng(seed)
    k, d = int(rng.integers(1, 9)), int(rng.integers(1, 9))
    parameters = random_parameters(rng, covariance_type, k, d)
    rows = draw(rng, parameters, 300)
    rows[::7] *= 10.0**distance
    scores = expectation(parameters, "float32").posterior(rows).scores
    exact = naive.scores(rows, naive.of(parameters))
    assert np.abs(scores - exact).max() < 1e-3


def test_densities_that_float32_cannot_hold_are_float64() -> None:
    parameters, rows = separated("full", 20)
    rows *= 30.0
    found = expectation(parameters, "float32").statistics(rows)
    plain = expectation(parameters, "float64").statistics(rows)
    assert found.n_single == 0
    assert_same_sums(found, plain)


def test_counts_merge_and_subtract() -> None:
    parameters, rows = separated("full", 20)
    prepared = expectation(parameters, "auto")
    one, other = prepared.statistics(rows[:700]), prepared.statistics(rows[700:])
    merged = one.merge(other)
    assert merged.n_screened == one.n_screened + other.n_screened > 0
    assert merged.n_passed_over == one.n_passed_over + other.n_passed_over > 0
    undone = merged.subtract(other)
    counts = [field.name for field in fields(one) if field.name.startswith("n_")]
    assert all(getattr(undone, name) == getattr(one, name) for name in counts)


@pytest.mark.parametrize("covariance_type", ["diag", "spherical"])
def test_float32_is_used_for_unit_vectors(covariance_type: CovarianceType) -> None:
    # Each coordinate is large in some row of a block, but in no row are all of them.
    rng = np.random.default_rng(9)
    k, d = 8, 64
    means = rng.normal(size=(k, d))
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    shape = (k, d) if covariance_type == "diag" else (k,)
    parameters = Parameters.create(
        covariance_type, np.full(k, 1 / k), means, np.full(shape, 0.25 / d)
    )
    rows = draw(rng, parameters, 2 * BLOCK)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    single = expectation(parameters, "float32")
    found = single.statistics(rows)
    assert found.n_single == len(rows) * k
    exact = naive.scores(rows, naive.of(parameters))
    assert np.abs(single.posterior(rows).scores - exact).max() < 1e-3
