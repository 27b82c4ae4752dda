"""Mixtures with a component of constant density, compared with SciPy row by row."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import scipy.special
import scipy.stats
from numpy.typing import NDArray

from streamgmm.core.criteria import Criteria
from streamgmm.core.e_step import EStep
from streamgmm.core.frame import Frame
from streamgmm.core.incomplete import IncompleteExpectation
from streamgmm.core.information import Information, Tangent
from streamgmm.core.mixtures.conditioning import conditional, marginal
from streamgmm.core.noise import NO_BOX, Noise
from streamgmm.core.objective import Objective, PseudoRows
from streamgmm.core.parameters import Parameters
from streamgmm.core.priors import ConjugatePrior, DataMoments, Prior
from streamgmm.core.structures import STRUCTURES
from streamgmm.core.structures.low_rank_factors import joined
from streamgmm.errors import DataError, ParameterError
from streamgmm.options import CovarianceType
from streamgmm.persistence import pack, unpack
from tests.core.cases import ALL_TYPES

D, K, WEIGHT = 3, 4, 0.15
BOX = np.array([[-15.0, -14.0, -13.0], [15.0, 14.0, 17.0]])
Rows = NDArray[Any]


def mixture(covariance_type: CovarianceType, seed: int = 0) -> Parameters:
    rng = np.random.default_rng(seed)
    roots = rng.normal(size=(K, D, D))
    full = roots @ roots.transpose(0, 2, 1) + np.eye(D)
    covariances = {
        "full": full,
        "tied": full[0],
        "diag": np.einsum("kii->ki", full),
        "spherical": full[:, 0, 0],
        "tied_diag": np.diag(full[0]),
        "tied_spherical": full[0, 0, 0],
        "low_rank(1)": joined(roots[:, :, :1], np.ones((K, D))),
    }[covariance_type]
    weights = (1.0 - WEIGHT) * np.array([0.1, 0.2, 0.3, 0.4])
    noise = Noise.in_box(WEIGHT, BOX)
    return Parameters.create(
        covariance_type, weights, 5.0 * rng.normal(size=(K, D)), covariances, noise=noise
    )


def matrices(parameters: Parameters) -> Rows:
    stacked = parameters.stacked(parameters.covariances)
    dense = parameters.structure.dense(stacked, range(parameters.n_features))
    shape = parameters.n_components, parameters.n_features, parameters.n_features
    return np.broadcast_to(dense, shape)


def rows_of(parameters: Parameters, n: int = 2000, gaps: float = 0.0) -> Rows:
    rng = np.random.default_rng(1)
    parts = [
        rng.multivariate_normal(mean, covariance, n // 5)
        for mean, covariance in zip(parameters.means, matrices(parameters), strict=True)
    ]
    rows = np.vstack([*parts, rng.uniform(*BOX, size=(n // 5, D))])
    rows[rng.random(rows.shape) < gaps] = np.nan
    return rows[~np.isnan(rows).all(axis=1)]


def log_joint(parameters: Parameters, rows: Rows) -> Rows:
    """Return ln π_k p_k of the observed values, the noise last."""
    covariances = matrices(parameters)
    assert parameters.noise is not None
    found = np.empty((len(rows), parameters.n_components + 1))
    patterns, which = np.unique(~np.isnan(rows), axis=0, return_inverse=True)
    for number, pattern in enumerate(patterns):
        own, chosen = np.flatnonzero(pattern), np.flatnonzero(which.ravel() == number)
        values = rows[np.ix_(chosen, own)]
        found[chosen, -1] = np.log(parameters.noise.weight) - np.log(np.ptp(BOX, axis=0)[own]).sum()
        for k, (weight, mean) in enumerate(zip(parameters.weights, parameters.means, strict=True)):
            density = scipy.stats.multivariate_normal(mean[own], covariances[k][np.ix_(own, own)])
            found[chosen, k] = np.log(weight) + density.logpdf(values)
    return found


def prepared(parameters: Parameters, gaps: float, **options: Any) -> EStep | IncompleteExpectation:
    kind = IncompleteExpectation if gaps else EStep
    return kind.prepare(parameters, Frame.of(parameters), **options)


@pytest.mark.parametrize("gaps", [0.0, 0.3])
@pytest.mark.parametrize("covariance_type", [*ALL_TYPES, "low_rank(1)"])
def test_rows_have_the_density_of_the_components_and_the_noise(
    covariance_type: CovarianceType, gaps: float
) -> None:
    parameters = mixture(covariance_type)
    rows = rows_of(parameters, gaps=gaps)
    joint = log_joint(parameters, rows)
    scores = scipy.special.logsumexp(joint, axis=1)
    shares = np.exp(joint - scores[:, np.newaxis])
    labels = np.where(joint.argmax(axis=1) == K, -1, joint.argmax(axis=1))

    expectation = prepared(parameters, gaps)
    found = expectation.posterior(rows, with_responsibilities=True)
    np.testing.assert_allclose(found.scores, scores, atol=1e-9)
    np.testing.assert_allclose(found.responsibilities, shares[:, :K], atol=1e-9)
    np.testing.assert_array_equal(found.labels, labels)

    weights = np.random.default_rng(2).uniform(0.5, 2.0, len(rows))
    statistics = expectation.statistics(rows, weights)
    assert statistics.weight == pytest.approx(weights.sum())
    assert statistics.log_likelihood == pytest.approx(weights @ scores)
    np.testing.assert_allclose(statistics.counts, weights @ shares[:, :K])
    criteria = Criteria.of(statistics, parameters)
    entropy = -(weights @ scipy.special.xlogy(shares, shares)).sum()
    assert criteria.entropy == pytest.approx(entropy)
    without = STRUCTURES[covariance_type].n_parameters(K, D) + K - 1 + K * D
    assert criteria.n_parameters == without + 1

    hard = prepared(parameters, gaps, is_hard=True).statistics(rows, weights)
    assert hard.log_likelihood == pytest.approx(weights @ joint.max(axis=1))
    is_own = labels >= 0
    np.testing.assert_allclose(hard.counts, np.bincount(labels[is_own], weights[is_own], K))
    if not gaps:
        assigned = EStep.prepare(parameters, Frame.of(parameters), is_hard=True).assignment(rows)
        np.testing.assert_array_equal(assigned.labels, labels)
        np.testing.assert_allclose(assigned.scores, joint.max(axis=1), atol=1e-9)
        single = prepared(parameters, gaps, arithmetic="float32").statistics(rows, weights)
        assert single.log_likelihood == pytest.approx(weights @ scores, rel=1e-4)


@pytest.mark.parametrize("covariance_type", ALL_TYPES)
def test_the_gradient_is_the_step_of_em(covariance_type: CovarianceType) -> None:
    parameters, objective = mixture(covariance_type), Objective()
    rows = rows_of(parameters)
    expectation = EStep.prepare(parameters, Frame.of(parameters))
    statistics = expectation.statistics(rows)
    tangent = Tangent(parameters, expectation.frame)
    gradient = objective.gradient(tangent, statistics)
    moved = tangent.moved(gradient, statistics)
    np.testing.assert_allclose(moved.moments[:, : 1 + D], statistics.moments[:, : 1 + D], atol=1e-6)
    np.testing.assert_allclose(moved.moments.sum(axis=0), statistics.moments.sum(axis=0))
    np.testing.assert_allclose(moved.scatter, statistics.scatter)
    maximum = objective.maximize(statistics, parameters).parameters
    assert maximum.noise is not None
    expected = 1.0 - statistics.counts.sum() / len(rows)
    assert maximum.noise.weight == pytest.approx(expected)

    # Along any direction the likelihood changes as the gradient says.
    direction = direction_of(tangent, len(gradient))

    def value(step: float) -> float:
        image = tangent.moved(step * direction, statistics)
        other = objective.maximize(image, parameters).parameters
        found = EStep.prepare(other, Frame.of(other)).statistics(rows)
        return found.mean_log_likelihood

    slope = (value(1e-4) - value(-1e-4)) / 2e-4
    assert slope == pytest.approx(float(gradient @ direction), rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("covariance_type", ALL_TYPES)
def test_information_is_what_em_leaves_of_a_step(covariance_type: CovarianceType) -> None:
    parameters = mixture(covariance_type)
    rows = rows_of(parameters)
    expectation = EStep.prepare(parameters, Frame.of(parameters))
    tangent = Tangent(parameters, expectation.frame)
    shares = expectation.posterior(rows, with_responsibilities=True).responsibilities
    shares = np.column_stack([shares, 1.0 - shares.sum(axis=1)])
    information = Information.estimate(tangent, rows, np.ones(len(rows)), shares)
    statistics = expectation.statistics(rows)
    objective = Objective(noise=parameters.noise)

    def image(step: Rows) -> Rows:
        moved = tangent.moved(step, statistics)
        start = objective.maximize(moved, parameters).parameters
        found = EStep.prepare(start, expectation.frame).statistics(rows)
        return tangent.gradient(found)

    h = 1e-4
    direction = direction_of(tangent, len(tangent.free))
    lost = (image(h * direction) - image(-h * direction)) / (2.0 * h)
    found = information.product(direction)
    np.testing.assert_allclose(found, direction - lost, rtol=0.0, atol=0.03)
    assert np.linalg.norm(lost) > 0.05


@pytest.mark.parametrize("covariance_type", ALL_TYPES)
def test_squared_gradients_are_information_too(covariance_type: CovarianceType) -> None:
    parameters = mixture(covariance_type)
    rows = rows_of(parameters)[::19]
    expectation = EStep.prepare(parameters, Frame.of(parameters))
    tangent = Tangent(parameters, expectation.frame)
    shares = expectation.posterior(rows, with_responsibilities=True).responsibilities
    shares = np.column_stack([shares, 1.0 - shares.sum(axis=1)])
    information = Information.estimate(tangent, rows, np.ones(len(rows)), shares, is_squared=True)
    direction = direction_of(tangent, len(tangent.free))
    # Where a component has few rows, a part of the information of labelled rows is added.
    damping = 1.0 - np.square(information.certainty)
    found = direction @ (information.product(direction) - damping * direction)
    gradients = [tangent.gradient(expectation.statistics(row[np.newaxis])) for row in rows]
    expected = np.mean([(gradient @ direction) ** 2 for gradient in gradients])
    assert found == pytest.approx(expected, rel=0.02)


def direction_of(tangent: Tangent, size: int) -> Rows:
    """Return a direction along which all weights together do not change."""
    direction = 0.3 * np.random.default_rng(3).normal(size=size)
    own, _ = tangent.split(direction)
    noise = tangent.noise_of(direction)
    roots = np.sqrt([*tangent.parameters.weights, WEIGHT])
    changes = np.append(own[:, 0], noise)
    changes -= roots * (changes @ roots)
    own[:, 0], noise[:] = changes[:-1], changes[-1]
    return direction


class WithCounts(ConjugatePrior):
    """A conjugate prior that adds rows to the counts of the weights, too."""

    def pseudo_rows(self, parameters: Parameters) -> PseudoRows:
        return replace(super().pseudo_rows(parameters), weights=30.0)


@pytest.mark.parametrize("covariance_type", ["full", "tied", "diag", "tied_spherical"])
def test_em_with_a_prior_never_lowers_the_objective(covariance_type: CovarianceType) -> None:
    parameters = mixture(covariance_type)
    rows = rows_of(parameters)
    moments = DataMoments.of(rows, np.ones(len(rows)), covariance_type)
    objective = Objective(prior=WithCounts(Prior(mean_precision_prior=50.0), moments))
    values = []
    for _ in range(15):
        statistics = EStep.prepare(parameters, Frame.of(parameters)).statistics(rows)
        values.append(objective.value(statistics, parameters))
        parameters = objective.maximize(statistics, parameters).parameters
        assert parameters.noise is not None
        assert parameters.weights.sum() + parameters.noise.weight == pytest.approx(1.0)
    assert np.all(np.diff(values) > -1e-12)
    for _ in range(300):
        again = EStep.prepare(parameters, statistics.frame).statistics(rows)
        parameters = objective.maximize(again, parameters).parameters
    tangent = Tangent(parameters, statistics.frame)
    again = EStep.prepare(parameters, statistics.frame).statistics(rows)
    assert np.abs(objective.gradient(tangent, again)).max() < 1e-6


def test_imputed_values_are_those_of_components_and_noise() -> None:
    parameters = mixture("full")
    rows = rows_of(parameters, 300, gaps=0.3)
    joint = log_joint(parameters, rows)
    shares = scipy.special.softmax(joint, axis=1)
    covariances = matrices(parameters)
    found = IncompleteExpectation.prepare(parameters, Frame.of(parameters)).impute(rows)
    for i in np.flatnonzero(np.isnan(rows).any(axis=1)):
        own, lacking = np.flatnonzero(~np.isnan(rows[i])), np.flatnonzero(np.isnan(rows[i]))
        expected = shares[i, K] * BOX.mean(axis=0)[lacking]
        for k in range(K):
            cross = covariances[k][np.ix_(lacking, own)]
            within = covariances[k][np.ix_(own, own)]
            deviation = np.linalg.solve(within, rows[i, own] - parameters.means[k, own])
            expected += shares[i, k] * (parameters.means[k, lacking] + cross @ deviation)
        np.testing.assert_allclose(found[i, lacking], expected, atol=1e-8)


def test_marginal_and_conditional_densities_are_those_of_the_whole() -> None:
    parameters = mixture("full")
    rows = rows_of(parameters, 200)
    scores = {}
    for name, features in {"all": [0, 1, 2], "given": [2], "rest": [0, 1]}.items():
        part = np.full_like(rows, np.nan)
        part[:, features] = rows[:, features]
        scores[name] = scipy.special.logsumexp(log_joint(parameters, part), axis=1)
    own = marginal(parameters, np.array([1, 0]))
    found = EStep.prepare(own, Frame.of(own)).posterior(rows[:, [1, 0]]).scores
    np.testing.assert_allclose(found, scores["rest"])
    for i in range(0, len(rows), 20):
        own = conditional(parameters, np.array([2]), rows[i, 2:])
        found = EStep.prepare(own, Frame.of(own)).posterior(rows[i : i + 1, :2]).scores
        np.testing.assert_allclose(found, scores["all"][i] - scores["given"][i], atol=1e-9)


def test_outermost_rows_do_not_set_the_box() -> None:
    rows = np.linspace(0.0, 1.0, 101)[:, np.newaxis] * [1.0, -2.0]
    rows[17] = 1e30, -1e30
    box = Noise.among(rows, np.ones(101), None).box
    np.testing.assert_allclose(box, [[0.01, -2.0], [1.0, -0.02]])
    # A heavy row of a small sample is excluded, too.
    weights = np.where(np.arange(101) == 17, 1000.0, 1.0)
    assert Noise.among(rows, weights, None).box.max() < 1e30


def test_the_box_has_the_weighted_quantiles() -> None:
    rng = np.random.default_rng(0)
    rows, weights = rng.normal(size=(20_000, 1)), rng.uniform(0.1, 3.0, 20_000)
    low, high = Noise.among(rows, weights, None).box[:, 0]
    assert weights[rows[:, 0] < low].sum() == pytest.approx(0.001 * weights.sum(), rel=0.2)
    assert weights[rows[:, 0] > high].sum() == pytest.approx(0.001 * weights.sum(), rel=0.2)


def test_a_column_of_one_value_has_no_box() -> None:
    rows = np.ones((50, 2))
    rows[:, 0] = np.arange(50)
    with pytest.raises(DataError, match="depth"):
        Noise.among(rows, np.ones(50), ["time", "depth"])


def test_what_is_no_noise_is_refused() -> None:
    weights, means = [0.5, 0.5], np.zeros((2, D))
    with pytest.raises(ParameterError, match="with that of the noise"):
        Parameters.create("spherical", weights, means, [1, 1], noise=Noise.in_box(0.1, BOX))
    with pytest.raises(ParameterError, match="columns"):
        Parameters.create("spherical", [0.9], np.zeros((1, 2)), [1], noise=Noise.in_box(0.1, BOX))
    for wrong in (Noise(1.5, 0.0, NO_BOX), Noise(0.1, np.nan, NO_BOX), Noise(0.1, 0.0, BOX[::-1])):
        with pytest.raises(ParameterError):
            wrong.check()


@pytest.mark.parametrize("noise", [None, Noise.in_box(WEIGHT, BOX), Noise(WEIGHT, -7.0, NO_BOX)])
def test_parameters_with_noise_are_packed_and_unpacked(noise: Noise | None) -> None:
    weights = [1.0 - (0.0 if noise is None else noise.weight)]
    parameters = Parameters.create("diag", weights, np.zeros((1, D)), np.ones((1, D)), noise=noise)
    found = unpack(Parameters, *pack(parameters)).noise
    if noise is None:
        assert found is None
        return
    assert found is not None
    assert (found.weight, found.log_density) == (noise.weight, noise.log_density)
    np.testing.assert_array_equal(found.box, noise.box)
