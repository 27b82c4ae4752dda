"""A conjugate prior of three lines is enough for every algorithm to find its optimum."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from streamgmm.algorithms.batch.accelerated_em import accelerated_em
from streamgmm.algorithms.batch.auto import fit_in_few_reads, survey_for_fit
from streamgmm.algorithms.batch.em import Fit, expectation_maximization
from streamgmm.algorithms.batch.sample_fit import Informant, Settings
from streamgmm.algorithms.reads.reader import Reader
from streamgmm.algorithms.sampling.initialization import Start
from streamgmm.algorithms.stream.stepwise_em import Schedule, Stepwise
from streamgmm.core.fitted_model import StopReason
from streamgmm.core.objective import Objective, PseudoRows
from streamgmm.core.parameters import Parameters
from streamgmm.core.structures import Array
from streamgmm.events import Listener
from streamgmm.executors.threads import ThreadExecutor
from streamgmm.options import CovarianceType, Missing
from streamgmm.protocols import Chunk
from streamgmm.sources.sample import SampleSource
from tests.core.cases import ALL_TYPES, LOW_RANK, draw, random_parameters


@dataclass(frozen=True)
class Wishart:
    n_rows: float
    scatter: Array

    def pseudo_rows(self, parameters: Parameters) -> PseudoRows:
        return PseudoRows(weights=2.0, covariances=self.n_rows, scatter=self.scatter)


@dataclass(frozen=True)
class Normal:
    """A prior of the means too, and none of the weights."""

    rows: Array

    def pseudo_rows(self, parameters: Parameters) -> PseudoRows:
        spread = np.cov(self.rows.T)
        if not parameters.structure.has_directions:
            spread = np.diagonal(spread)
        return PseudoRows(
            means=2.0, centres=self.rows.mean(axis=0), covariances=30.0, scatter=6.0 * spread
        )


def problem(covariance_type: CovarianceType, n: int = 2000) -> tuple[Array, Parameters]:
    """Rows of overlapping components, one of which has few, and a start."""
    rng = np.random.default_rng(4)
    truth = random_parameters(rng, covariance_type, 4, 2, spread=3.0)
    weights = np.array([0.4, 0.35, 0.22, 0.03])
    truth = Parameters.create(covariance_type, weights, truth.means, truth.covariances)
    start = Parameters.create(
        covariance_type,
        np.full(4, 0.25),
        truth.means + 0.2 * rng.normal(size=truth.means.shape),
        truth.covariances,
    )
    return draw(rng, truth, n), start


def wishart(covariance_type: CovarianceType, n_rows: float = 100.0) -> Wishart:
    scatter = n_rows * np.array([[0.5, 0.2], [0.2, 1.5]])
    is_matrix = covariance_type in ("full", "tied")
    return Wishart(n_rows, scatter if is_matrix else np.diagonal(scatter))


def fit(
    rows: Array,
    start: Parameters,
    objective: Objective,
    *,
    is_accelerated: bool,
    is_informed: bool = True,
    missing: Missing = "error",
    **settings: Any,
) -> Fit:
    weights = np.ones(len(rows))
    with ThreadExecutor(1) as executor:
        reader = Reader(SampleSource(rows, weights, missing), executor, lambda event: None)
        if not is_accelerated:
            return expectation_maximization(reader, start, objective=objective, **settings)
        informant = Informant.among(rows, weights, 30) if is_informed else None
        return accelerated_em(reader, start, objective=objective, informed_by=informant, **settings)


@pytest.mark.parametrize("covariance_type", ALL_TYPES)
@pytest.mark.parametrize("name", ["wishart", "normal"])
@pytest.mark.parametrize("is_informed", [True, False])
@pytest.mark.parametrize("missing", ["error", "em"])
def test_accelerated_em_ends_where_em_ends(
    covariance_type: CovarianceType, name: str, is_informed: bool, missing: Missing
) -> None:
    rows, start = problem(covariance_type)
    prior = wishart(covariance_type) if name == "wishart" else Normal(rows)
    if missing == "em":
        rows = rows.copy()
        rows[::5, 0] = rows[1::7, 1] = np.nan
        rows = rows[~np.isnan(rows).all(axis=1)]
    objective = Objective(prior=prior)
    shared: dict[str, Any] = {"objective": objective, "missing": missing}
    plain = fit(rows, start, is_accelerated=False, tol=1e-12, max_iter=5000, **shared)
    shared |= {"is_accelerated": True, "is_informed": is_informed}
    found = fit(rows, start, tol=1e-8, max_iter=300, **shared)
    assert plain.reason is StopReason.TOLERANCE
    assert found.converged
    assert found.n_iterations < plain.n_iterations
    assert found.value == pytest.approx(plain.value, abs=1e-6)
    np.testing.assert_allclose(found.parameters.means, plain.parameters.means, atol=2e-2)


@pytest.mark.parametrize("covariance_type", [*ALL_TYPES, LOW_RANK])
@pytest.mark.parametrize("is_accelerated", [False, True])
@pytest.mark.parametrize("name", ["wishart", "normal"])
def test_the_value_never_falls(
    covariance_type: CovarianceType, is_accelerated: bool, name: str
) -> None:
    rows, start = problem(covariance_type)
    objective = Objective(prior=wishart(covariance_type) if name == "wishart" else Normal(rows))
    found = fit(rows, start, objective, is_accelerated=is_accelerated, tol=0.0, max_iter=40)
    assert len(found.values) == len(found.log_likelihoods) > 5
    assert all(after >= before - 1e-11 for before, after in pairwise(found.values))
    assert found.value > found.values[0] + 1e-3


@pytest.mark.parametrize("covariance_type", [*ALL_TYPES, LOW_RANK])
def test_a_strong_prior_lowers_the_log_likelihood(covariance_type: CovarianceType) -> None:
    """An algorithm that compared log-likelihoods would refuse to go there."""
    rows, start = problem(covariance_type)
    best = fit(rows, start, Objective(), is_accelerated=True, tol=1e-6, max_iter=100)
    objective = Objective(prior=wishart(covariance_type, 2000.0))
    found = fit(rows, best.parameters, objective, is_accelerated=True, tol=1e-6, max_iter=100)
    assert found.converged
    assert found.log_likelihood < best.log_likelihood - 0.01
    assert found.value > found.values[0] + 0.01


@pytest.mark.parametrize("covariance_type", ALL_TYPES)
def test_the_search_and_few_passes_find_the_optimum_of_em(covariance_type: CovarianceType) -> None:
    rows, truth = problem(covariance_type, 6000)
    objective = Objective(prior=wishart(covariance_type, 30.0))
    weights = np.ones(len(rows))
    settings = Settings(4, covariance_type, "kmeans", objective, 1)
    random = np.random.RandomState(0)
    with ThreadExecutor(2) as executor:

        def open_rows(rows: Array, weights: Array, listener: Listener) -> Reader:
            return Reader(SampleSource(rows, weights), executor, listener)

        reader = open_rows(rows, weights, lambda event: None)
        survey = survey_for_fit(reader, 4, settings.n_parameters(2), random)
        found = fit_in_few_reads(
            reader,
            open_rows,
            settings,
            Start(),
            survey,
            tol=1e-8,
            max_iter=200,
            random=random,
        )
    plain = fit(rows, found.parameters, objective, is_accelerated=False, tol=1e-13, max_iter=3000)
    assert found.converged
    assert found.value == pytest.approx(plain.value, abs=1e-6)
    # The search has found an optimum that is no worse than the one beside the truth.
    other = fit(rows, truth, objective, is_accelerated=True, tol=1e-8, max_iter=300)
    assert found.value > other.value - 1e-6


@pytest.mark.parametrize("covariance_type", [*ALL_TYPES, LOW_RANK])
def test_a_component_of_one_row_does_not_collapse(covariance_type: CovarianceType) -> None:
    rows, start = problem(covariance_type)
    rows = np.vstack([rows, [[60.0, -60.0]]])
    means = start.means.copy()
    means[3] = rows[-1]
    start = Parameters.create(covariance_type, start.weights, means, start.covariances)
    objective = Objective(prior=Normal(rows[:-1]))
    for is_accelerated in (False, True):
        found = fit(rows, start, objective, is_accelerated=is_accelerated, tol=1e-7, max_iter=300)
        assert not found.degenerate
        assert found.converged


@pytest.mark.parametrize("covariance_type", ALL_TYPES)
def test_stepwise_em_has_the_prior_in_every_step(covariance_type: CovarianceType) -> None:
    rows, start = problem(covariance_type)
    objective = Objective(prior=wishart(covariance_type))
    model = Stepwise.fitted(start, Chunk(rows, range(len(rows))), Schedule(1e9, 0.6), objective)
    step = fit(rows, start, objective, is_accelerated=False, tol=0.0, max_iter=1)
    np.testing.assert_allclose(model.parameters.covariances, step.parameters.covariances)
    found = model.expectation("error").statistics(rows)
    after = model.joined(found).stepped()
    expected = objective.maximize(model.total.merge(found), model.parameters).parameters
    np.testing.assert_array_equal(after.parameters.covariances, expected.covariances)
