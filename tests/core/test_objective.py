"""The objective: its value, its M-step and its gradient, with a prior and without."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from streamgmm.core.information import Information, Tangent
from streamgmm.core.maximization import maximize
from streamgmm.core.objective import Objective, PseudoRows
from streamgmm.core.parameters import Parameters
from streamgmm.core.structures import Array
from streamgmm.errors import ParameterError
from streamgmm.options import CovarianceType, ParameterName
from tests import naive
from tests.core.cases import ALL_TYPES, TYPES, prepare, unit_covariances
from tests.core.test_information import FIXED, moved_along, some_mixture, some_step, with_rows


@dataclass(frozen=True)
class Given:
    """The same pseudo-rows for every mixture."""

    rows: PseudoRows

    def pseudo_rows(self, parameters: Parameters) -> PseudoRows:
        return self.rows


def some_rows(covariance_type: CovarianceType, k: int = 5, d: int = 2) -> PseudoRows:
    """Pseudo-rows that differ between components, and weigh about as much as a component."""
    rng = np.random.default_rng(9)
    roots = rng.normal(size=(k, d, d))
    scatter = roots @ np.swapaxes(roots, 1, 2) * 20.0
    n_rows: float | Array = rng.uniform(5.0, 20.0, k)
    if covariance_type.endswith(("diag", "spherical")):
        scatter = np.diagonal(scatter, axis1=1, axis2=2)
    if covariance_type.startswith("tied"):
        scatter, n_rows = scatter[0], 15.0
    return PseudoRows(
        weights=rng.uniform(1.0, 10.0, k),
        means=rng.uniform(1.0, 10.0, k),
        centres=rng.normal(size=(k, d)),
        covariances=n_rows,
        scatter=scatter,
    )


def matrices_of(rows: PseudoRows, covariance_type: str) -> tuple[Array, Array]:
    """Λ (J, D, D) and ν (J,) of the covariances that there are."""
    scatter = np.asarray(rows.scatter)
    if covariance_type.startswith("tied"):
        scatter = scatter[np.newaxis]
    if covariance_type.endswith(("diag", "spherical")):
        scatter = scatter[:, :, np.newaxis] * np.eye(scatter.shape[-1])
    return scatter, np.full(len(scatter), rows.covariances)


def log_density(rows: PseudoRows, model: naive.Mixture) -> Any:
    """The log density of the conjugate prior, term by term, in extended precision."""
    scatter, n_rows = matrices_of(rows, model.covariance_type)
    total = np.sum(rows.weights * np.log(model.weights / model.weights.sum()))
    for k, factor in enumerate(model.factors):
        away = naive.solve_lower(factor, (model.means - rows.centres)[k, :, np.newaxis])
        total -= rows.means[k] * (away**2).sum() / 2  # type: ignore[index]
    for j in range(len(scatter)):
        factor = model.factors[j]
        inverse = naive.solve_lower(factor, np.eye(len(factor), dtype=np.longdouble))
        total -= n_rows[j] * np.log(np.diagonal(factor)).sum()
        total -= np.trace(inverse @ scatter[j] @ inverse.T) / 2
    return total


def without_empty(covariance_type: CovarianceType) -> Parameters:
    """A mixture whose components all have weight."""
    parameters = some_mixture(covariance_type, np.random.default_rng(2))
    return replace(parameters, weights=np.array([0.1, 0.15, 0.2, 0.25, 0.3]))


def posterior_mode(
    rows: Array, row_weights: Array, model: naive.Mixture, prior: PseudoRows, fixed: Collection[str]
) -> naive.Mixture:
    """One step of EM with a conjugate prior, from the textbook."""
    shares = naive.responsibilities(rows, model) * row_weights[:, np.newaxis]
    counts = shares.sum(axis=0)
    scatter, n_rows = matrices_of(prior, model.covariance_type)
    weights = counts + prior.weights
    sums = shares.T @ naive.extended(rows) + np.transpose(prior.means * np.transpose(prior.centres))
    means = sums / (counts + prior.means)[:, np.newaxis]
    if "means" in fixed:
        means = model.means
    spreads = []
    for k, mean in enumerate(means):
        away, below = rows - mean, (mean - prior.centres)[k]
        spread = (shares[:, k, np.newaxis] * away).T @ away
        spreads.append(spread + prior.means[k] * np.outer(below, below))  # type: ignore[index]
    pooled = np.stack(spreads)
    if model.covariance_type.startswith("tied"):
        pooled = np.tile((pooled.sum(axis=0) + scatter[0]) / (counts.sum() + n_rows[0]), (5, 1, 1))
    else:
        pooled = (pooled + scatter) / (counts + n_rows)[:, np.newaxis, np.newaxis]
    if model.covariance_type.endswith(("diag", "spherical")):
        variances = np.diagonal(pooled, axis1=1, axis2=2)
        if model.covariance_type.endswith("spherical"):
            variances = np.tile(variances.mean(axis=1, keepdims=True), (1, 2))
        pooled = variances[:, :, np.newaxis] * np.eye(2)
    return naive.Mixture(
        model.covariance_type,
        model.weights if "weights" in fixed else weights / weights.sum(),
        means,
        model.factors if "covariances" in fixed else naive.cholesky(pooled),
    )


@pytest.mark.parametrize("covariance_type", ALL_TYPES)
def test_without_a_prior_the_value_is_the_mean_log_likelihood(
    covariance_type: CovarianceType,
) -> None:
    tangent, _, _, statistics = with_rows(covariance_type, 0)
    objective = Objective(0.3)
    assert objective.value(statistics, tangent.parameters) == statistics.mean_log_likelihood
    gradient = objective.gradient(tangent, statistics)
    np.testing.assert_array_equal(gradient, tangent.gradient(statistics, 0.3))
    assert objective.step(tangent, statistics, gradient) is gradient


@pytest.mark.parametrize("covariance_type", ALL_TYPES)
def test_the_value_is_log_likelihood_and_log_density(covariance_type: CovarianceType) -> None:
    _, rows, weights, _ = with_rows(covariance_type, 0)
    parameters, prior = without_empty(covariance_type), some_rows(covariance_type)
    statistics = prepare(parameters).statistics(rows, weights)
    model = naive.of(parameters)
    expected = naive.mean_log_likelihood(rows, model, weights)
    expected += log_density(prior, model) / weights.sum()
    found = Objective(prior=Given(prior)).value(statistics, parameters)
    assert found == pytest.approx(float(expected), abs=1e-12)


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("fixed", FIXED)
def test_the_gradient_is_that_of_the_value(
    covariance_type: CovarianceType, fixed: tuple[ParameterName, ...]
) -> None:
    _, rows, weights, _ = with_rows(covariance_type, 0)
    parameters, prior = without_empty(covariance_type), some_rows(covariance_type)
    statistics = prepare(parameters).statistics(rows, weights)
    tangent = Tangent(parameters, statistics.frame, fixed)
    objective = Objective(fixed=frozenset(fixed), prior=Given(prior))
    gradient = objective.gradient(tangent, statistics)

    def value(model: naive.Mixture) -> Any:
        model = model._replace(weights=model.weights / model.weights.sum())
        return naive.mean_log_likelihood(rows, model, weights) + log_density(prior, model) / (
            weights.sum()
        )

    def difference(step: Array, h: float) -> Any:
        one, other = (value(moved_along(tangent, side * h * step)) for side in (1.0, -1.0))
        return (one - other) / (2 * naive.extended(h))

    for seed in range(6):
        step = some_step(tangent, seed)
        expected = (4 * difference(step, 5e-4) - difference(step, 1e-3)) / 3
        assert gradient @ step == pytest.approx(float(expected), abs=1e-9)


@pytest.mark.parametrize("covariance_type", ALL_TYPES)
@pytest.mark.parametrize("place", [0.0, 1e5])
@pytest.mark.parametrize("fixed", FIXED)
def test_the_maximum_is_the_posterior_mode(
    covariance_type: CovarianceType, place: float, fixed: tuple[ParameterName, ...]
) -> None:
    _, rows, weights, _ = with_rows(covariance_type, 0)
    prior, parameters = some_rows(covariance_type), without_empty(covariance_type)
    rows, parameters = rows + place, replace(parameters, means=parameters.means + place)
    prior = replace(prior, centres=prior.centres + place)
    statistics = prepare(parameters).statistics(rows, weights)
    objective = Objective(fixed=frozenset(fixed), prior=Given(prior))
    found = objective.maximize(statistics, parameters)
    expected = posterior_mode(rows, weights, naive.of(parameters), prior, fixed)
    assert naive.distance(found.parameters, expected) < 1e-9
    assert naive.distance(found.parameters, naive.of(parameters)) > 1e-2


@pytest.mark.parametrize("covariance_type", ALL_TYPES)
@pytest.mark.parametrize("reg_covar", [0.0, 0.3])
@pytest.mark.parametrize("fixed", [(), ("means",), ("covariances",), ("means", "covariances")])
def test_the_step_is_that_of_em(
    covariance_type: CovarianceType, reg_covar: float, fixed: tuple[ParameterName, ...]
) -> None:
    _, rows, weights, _ = with_rows(covariance_type, 2)
    parameters = without_empty(covariance_type)
    statistics = prepare(parameters).statistics(rows, weights)
    tangent = Tangent(parameters, statistics.frame, fixed)
    objective = Objective(reg_covar, frozenset(fixed), Given(some_rows(covariance_type)))
    gradient = objective.gradient(tangent, statistics)
    step = objective.step(tangent, statistics, gradient)
    assert gradient @ step > 0.0
    found = maximize(tangent.moved(step, statistics), parameters, fixed=fixed)
    expected = objective.maximize(statistics, parameters)
    assert naive.distance(found.parameters, naive.of(expected.parameters)) < 1e-9


@pytest.mark.parametrize("covariance_type", ALL_TYPES)
@pytest.mark.parametrize("reg_covar", [0.0, 0.3])
def test_em_ascends_what_gains_are_counted_in(
    covariance_type: CovarianceType, reg_covar: float
) -> None:
    _, rows, weights, _ = with_rows(covariance_type, 0)
    objective = Objective(reg_covar, prior=Given(some_rows(covariance_type)))
    old = without_empty(covariance_type)
    before = prepare(old).statistics(rows, weights)
    gains = []
    for _ in range(200):
        new = objective.maximize(before, old).parameters
        after = prepare(new).statistics(rows, weights)
        gains.append(objective.gain(before, old, after, new))
        old, before = new, after
    assert min(gains) > -1e-12
    assert sum(gains[-5:]) < 1e-3 < gains[0]
    assert np.abs(objective.gradient(Tangent(old, before.frame), before)).max() < 1e-2


@pytest.mark.parametrize("covariance_type", ALL_TYPES)
def test_pseudo_rows_of_a_component_are_rows_of_it(covariance_type: CovarianceType) -> None:
    """Rows that only one component explains have the same effect as pseudo-rows like them."""
    rng = np.random.default_rng(0)
    one, more = rng.normal(size=(60, 2)), rng.normal(size=(40, 2)) + 0.3
    covariances = unit_covariances(covariance_type, 1, 2)
    start = Parameters.create(covariance_type, [1.0], [[0.0, 0.0]], covariances)
    away = more - more.mean(axis=0)
    scatter = away.T @ away
    is_matrix = covariance_type in ("full", "tied")
    prior = PseudoRows(
        means=40.0,
        centres=more.mean(axis=0),
        covariances=40.0,
        scatter=scatter if is_matrix else np.diagonal(scatter),
    )
    found = Objective(prior=Given(prior)).maximize(prepare(start).statistics(one), start)
    expected = naive.em_step(np.vstack([one, more]), naive.of(start))
    assert naive.distance(found.parameters, expected) < 1e-12


@pytest.mark.parametrize("covariance_type", ALL_TYPES)
def test_scatter_of_another_shape_is_refused(covariance_type: CovarianceType) -> None:
    tangent, _, _, statistics = with_rows(covariance_type, 0)
    scatter = np.ones(2) if covariance_type in ("full", "tied") else np.eye(2) + 1.0
    objective = Objective(prior=Given(PseudoRows(scatter=scatter)))
    with pytest.raises(ParameterError, match="the scatter of the prior has shape"):
        objective.value(statistics, tangent.parameters)


@pytest.mark.parametrize("covariance_type", ALL_TYPES)
def test_the_information_with_a_prior_is_the_curvature_of_the_value(
    covariance_type: CovarianceType,
) -> None:
    """Of components far apart, that a strong prior keeps wider than their rows."""
    rng = np.random.default_rng(0)
    means = np.array([[0.0, 0.0], [60.0, 0.0]])
    rows = np.vstack([mean + rng.normal(size=(4000, 2)) for mean in means])
    is_matrix = covariance_type in ("full", "tied")
    n_rows = 8000.0 if covariance_type.startswith("tied") else 4000.0
    scatter = 2.0 * n_rows * (np.eye(2) if is_matrix else np.ones(2))
    prior = PseudoRows(1000.0, 2000.0, means, n_rows, scatter)
    objective = Objective(prior=Given(prior))
    covariances = unit_covariances(covariance_type, 2, 2)
    start = Parameters.create(covariance_type, [0.5, 0.5], means, covariances)
    for _ in range(3):
        statistics = prepare(start).statistics(rows)
        start = objective.maximize(statistics, start).parameters
    statistics = prepare(start).statistics(rows)
    tangent = Tangent(start, statistics.frame)
    shares = prepare(start).posterior(rows, with_responsibilities=True).responsibilities
    assert shares is not None
    own = Information.estimate(tangent, rows, np.ones(len(rows)), shares)
    information = objective.informed(own, statistics)

    def value(step: Array) -> float:
        moved = maximize(tangent.moved(step, statistics), start).parameters
        return objective.value(prepare(moved).statistics(rows), moved)

    h = 1e-2
    for seed in range(6):
        step = some_step(tangent, seed)
        curvature = (2.0 * value(0.0 * step) - value(h * step) - value(-h * step)) / h**2
        assert step @ information.product(step) == pytest.approx(curvature, rel=0.15)
        # The rows alone show much less.
        assert step @ own.product(step) < 0.8 * curvature
