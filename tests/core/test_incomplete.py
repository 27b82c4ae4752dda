"""Rows with gaps: the textbook's conditional means and covariances, in extended precision."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from streamgmm.core.e_step import EStep
from streamgmm.core.frame import Frame
from streamgmm.core.incomplete import IncompleteExpectation
from streamgmm.core.maximization import maximize
from streamgmm.core.parameters import Parameters
from streamgmm.core.structures import Array
from streamgmm.options import CovarianceType
from tests import naive
from tests.core.cases import TYPES, draw, random_parameters, rotation


def with_gaps(rng: np.random.Generator, rows: Array, part: float = 0.3) -> Array:
    """Rows of which some values are missing, but never all of a row."""
    gaps = rng.random(rows.shape) < part
    gaps[np.arange(len(rows)), rng.integers(0, rows.shape[1], len(rows))] = False
    return np.where(gaps, np.nan, rows)


def prepared(parameters: Parameters) -> IncompleteExpectation:
    return IncompleteExpectation.prepare(parameters, Frame.of(parameters))


def assert_agrees(rows: Array, parameters: Parameters, weights: Array | None = None) -> None:
    """All that is said of rows is that of the oracle, to 1e-9."""
    model = naive.of(parameters)
    expectation = prepared(parameters)
    joint = naive.incomplete_log_joint(rows, model)
    scores = np.logaddexp.reduce(joint, axis=1)
    posterior = expectation.posterior(rows, with_responsibilities=True)
    np.testing.assert_allclose(posterior.scores, scores.astype(float), rtol=1e-9, atol=1e-9)
    shares = np.exp(joint - scores[:, np.newaxis]).astype(float)
    np.testing.assert_allclose(posterior.responsibilities, shares, atol=1e-9)
    np.testing.assert_array_equal(posterior.labels, posterior.responsibilities.argmax(axis=1))

    found = expectation.statistics(rows, weights)
    step, log_likelihood = naive.incomplete_em_step(rows, model, weights)
    assert found.log_likelihood == pytest.approx(float(log_likelihood), rel=1e-9)
    assert naive.distance(maximize(found, parameters).parameters, step) < 1e-9

    expected = np.zeros(rows.shape, np.longdouble)
    for n, row in enumerate(naive.extended(rows)):
        for k in range(parameters.n_components):
            filled, _ = naive.completed(row, model.means[k], model.matrices[k])
            expected[n] += shares[n, k] * filled
    units = np.sqrt(np.diagonal(model.matrices, axis1=1, axis2=2)).min(axis=0)
    assert (np.abs(expectation.impute(rows) - expected) / units).max() < 1e-8


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize(("k", "d"), [(1, 2), (3, 4), (5, 7)])
def test_ordinary_mixtures(covariance_type: CovarianceType, k: int, d: int) -> None:
    rng = np.random.default_rng(k * 100 + d)
    parameters = random_parameters(rng, covariance_type, k, d)
    assert_agrees(with_gaps(rng, draw(rng, parameters, 150)), parameters)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_weights(covariance_type: CovarianceType) -> None:
    rng = np.random.default_rng(0)
    parameters = random_parameters(rng, covariance_type, 3, 4)
    rows = with_gaps(rng, draw(rng, parameters, 120))
    assert_agrees(rows, parameters, rng.uniform(0.0, 3.0, 120))


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize(("offset", "spread"), [(1e4, 3.0), (0.0, 1e4)])
def test_narrow_and_far_components(
    covariance_type: CovarianceType, offset: float, spread: float
) -> None:
    rng = np.random.default_rng(1)
    parameters = random_parameters(rng, covariance_type, 3, 4, spread)
    parameters = Parameters.create(
        covariance_type, parameters.weights, parameters.means + offset, parameters.covariances
    )
    assert_agrees(with_gaps(rng, draw(rng, parameters, 150)), parameters)


@pytest.mark.parametrize("covariance_type", ["full", "tied"])
@pytest.mark.parametrize("ratio", [1e-3, 1e-6])
def test_strong_correlations(covariance_type: CovarianceType, ratio: float) -> None:
    rng = np.random.default_rng(2)
    d = 4
    deviations = np.geomspace(1.0, ratio, d)
    count = 2 if covariance_type == "full" else 1
    roots = np.stack([rotation(d, rng) * deviations for _ in range(count)])
    factors = np.linalg.cholesky(np.eye(d)) * np.ones((count, 1, 1))
    for i, root in enumerate(roots):
        triangle = np.linalg.qr(root.T, mode="r")
        factors[i] = (triangle * np.sign(np.diagonal(triangle))[:, np.newaxis]).T
    covariances = factors @ np.swapaxes(factors, 1, 2)
    if covariance_type == "tied":
        covariances, factors = covariances[0], factors[0]
    parameters = Parameters.create(
        covariance_type, [0.4, 0.6], rng.normal(size=(2, d)), covariances, factors
    )
    rows = with_gaps(rng, draw(rng, parameters, 100))
    expectation = prepared(parameters)
    joint = naive.incomplete_log_joint(rows, naive.of(parameters))
    scores = np.logaddexp.reduce(joint, axis=1).astype(float)
    np.testing.assert_allclose(expectation.posterior(rows).scores, scores, rtol=1e-9, atol=1e-8)
    found = maximize(expectation.statistics(rows), parameters).parameters
    step, _ = naive.incomplete_em_step(rows, naive.of(parameters))
    # In the new covariance's own units, in which its narrowest direction counts as much.
    for k, factor in enumerate(found.stacked(found.factors)):
        relative = naive.solve_lower(step.factors[k], naive.extended(factor))
        np.testing.assert_allclose((relative @ relative.T).astype(float), np.eye(d), atol=1e-7)


@pytest.mark.parametrize("covariance_type", TYPES)
@given(data=st.data())
@settings(max_examples=20)
def test_any_gaps(covariance_type: CovarianceType, data: st.DataObject) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    k, d = data.draw(st.integers(1, 4)), data.draw(st.integers(2, 5))
    parameters = random_parameters(rng, covariance_type, k, d)
    rows = draw(rng, parameters, data.draw(st.integers(1, 12)))
    expectation = prepared(parameters)
    rows = with_gaps(rng, rows, data.draw(st.floats(0.0, 1.0)))
    found = expectation.statistics(rows)
    joint = naive.incomplete_log_joint(rows, naive.of(parameters))
    log_likelihood = float(np.logaddexp.reduce(joint, axis=1).sum())
    assert found.log_likelihood == pytest.approx(log_likelihood, rel=1e-10, abs=1e-10)
    # Rows in another order, and split in any place, say the same.
    order = rng.permutation(len(rows))
    cut = data.draw(st.integers(0, len(rows)))
    parts = [expectation.statistics(part) for part in (rows[order[:cut]], rows[order[cut:]])]
    merged = parts[0].merge(parts[1])
    np.testing.assert_allclose(merged.moments, found.moments, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(merged.scatter, found.scatter, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize(("n", "k", "d"), [(3000, 2, 3), (400, 40, 70)])
def test_many_blocks_and_features(covariance_type: CovarianceType, n: int, k: int, d: int) -> None:
    rng = np.random.default_rng(3)
    parameters = random_parameters(rng, covariance_type, k, d)
    rows = with_gaps(rng, draw(rng, parameters, n))
    expectation = prepared(parameters)
    found = expectation.statistics(rows)
    assert found.n_rows == n
    assert found.weight == n
    parts = [expectation.statistics(rows[i : i + 37]) for i in range(0, n, 37)]
    total = sum(part.log_likelihood for part in parts)
    assert found.log_likelihood == pytest.approx(total, rel=1e-12)
    np.testing.assert_allclose(found.moments, sum(p.moments for p in parts), atol=1e-9 * n)
    some = slice(0, n, n // 5)
    joint = naive.incomplete_log_joint(rows[some], naive.of(parameters))
    scores = np.logaddexp.reduce(joint, axis=1).astype(float)
    np.testing.assert_allclose(expectation.posterior(rows).scores[some], scores, rtol=1e-11)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_components_without_weight_have_no_part(covariance_type: CovarianceType) -> None:
    rng = np.random.default_rng(4)
    parameters = random_parameters(rng, covariance_type, 3, 4)
    rows = with_gaps(rng, draw(rng, parameters, 50))
    weights = np.array([0.3, 0.0, 0.7])
    parameters = Parameters.create(
        covariance_type, weights, parameters.means, parameters.covariances
    )
    found = prepared(parameters).statistics(rows)
    assert not found.moments[1].any()
    posterior = prepared(parameters).posterior(rows, with_responsibilities=True)
    assert not posterior.responsibilities[:, 1].any()
    assert not (posterior.labels == 1).any()


@pytest.mark.parametrize("covariance_type", TYPES)
def test_log_likelihood_never_falls(covariance_type: CovarianceType) -> None:
    for seed in range(5):
        rng = np.random.default_rng(seed)
        truth = random_parameters(rng, covariance_type, 3, 5)
        rows = with_gaps(rng, draw(rng, truth, 400), 0.4)
        parameters = random_parameters(rng, covariance_type, 3, 5)
        last = -math.inf
        for _ in range(40):
            found = prepared(parameters).statistics(rows)
            assert found.mean_log_likelihood >= last - 1e-13 * abs(last)
            last = found.mean_log_likelihood
            parameters = maximize(found, parameters).parameters


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.longdouble])
def test_other_types(dtype: Any) -> None:
    rng = np.random.default_rng(5)
    parameters = random_parameters(rng, "full", 3, 4)
    rows = with_gaps(rng, draw(rng, parameters, 200)).astype(dtype)
    ours = prepared(parameters).statistics(rows)
    wide = prepared(parameters).statistics(rows.astype(np.float64))
    np.testing.assert_allclose(ours.moments, wide.moments, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("layout", ["F", "strided", "read-only"])
def test_other_layouts(layout: str) -> None:
    rng = np.random.default_rng(6)
    parameters = random_parameters(rng, "tied", 3, 4)
    rows = with_gaps(rng, draw(rng, parameters, 200))
    other: NDArray[np.float64] = rows
    if layout == "F":
        other = np.asfortranarray(rows)
    elif layout == "strided":
        other = np.repeat(rows, 2, axis=1)[:, ::2]
    else:
        other = rows.copy()
        other.setflags(write=False)
    expectation = prepared(parameters)
    ours, theirs = (expectation.statistics(r) for r in (other, rows))
    np.testing.assert_array_equal(ours.moments, theirs.moments)
    np.testing.assert_array_equal(expectation.impute(other), expectation.impute(rows))


@pytest.mark.parametrize("covariance_type", TYPES)
def test_rows_that_cannot_be_used_are_told_apart(covariance_type: CovarianceType) -> None:
    rng = np.random.default_rng(7)
    parameters = random_parameters(rng, covariance_type, 3, 4)
    rows = draw(rng, parameters, 6)
    rows[1, 0] = np.nan
    rows[2] = np.nan
    rows[3, :2] = np.nan, np.inf
    rows[4, :2] = np.nan, 1e200
    rows[5, 1] = 1e200
    expectation = prepared(parameters)
    found = expectation.statistics(rows)
    assert (found.n_rows, found.n_overflowing, found.n_not_finite, found.n_missing) == (2, 2, 2, 1)
    assert np.isfinite(found.moments).all()
    sound = expectation.statistics(rows[:2])
    np.testing.assert_allclose(found.moments, sound.moments, rtol=1e-12)
    posterior = expectation.posterior(rows, with_responsibilities=True)
    assert posterior.n_not_finite == 2
    assert posterior.scores[4] == -np.inf
    np.testing.assert_array_equal(posterior.responsibilities[4], parameters.weights)
    mean = parameters.weights @ parameters.means
    filled = expectation.impute(rows[[1, 2, 4]])
    np.testing.assert_allclose(filled[1], mean, rtol=1e-12)
    np.testing.assert_allclose(filled[2], [mean[0], 1e200, *rows[4, 2:]], rtol=1e-12)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_rows_without_gaps_are_as_ever(covariance_type: CovarianceType) -> None:
    rng = np.random.default_rng(8)
    parameters = random_parameters(rng, covariance_type, 3, 4)
    rows = draw(rng, parameters, 200)
    plain = EStep.prepare(parameters, Frame.of(parameters))
    np.testing.assert_array_equal(
        prepared(parameters).statistics(rows).moments, plain.statistics(rows).moments
    )
    np.testing.assert_array_equal(prepared(parameters).impute(rows), rows)
