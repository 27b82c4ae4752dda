"""A conjugate prior of three lines is enough for every algorithm to find its optimum."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from streamgmm.algorithms.batch.accelerated_em import accelerated_em
from streamgmm.algorithms.batch.auto import fit_in_few_reads, survey_for_fit
from streamgmm.algorithms.batch.em import Fit, StopReason, expectation_maximization
from streamgmm.algorithms.batch.sample_fit import Informant, Settings
from streamgmm.algorithms.reads.reader import Reader
from streamgmm.algorithms.sampling.initialization import Start
from streamgmm.algorithms.stream.stepwise_em import Schedule, Stepwise
from streamgmm.core.covariance import Array, CovarianceType
from streamgmm.core.objective import Objective, PseudoRows
from streamgmm.core.parameters import Parameters
from streamgmm.executors.threads import ThreadExecutor
from streamgmm.protocols import Chunk, Missing
from streamgmm.sources.sample import SampleSource
from tests.core.cases import TYPES, draw, random_parameters


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
        if not parameters.structure.is_triangular:
            spread = np.diagonal(spread)
        return PseudoRows(
            means=20.0, centres=self.rows.mean(axis=0), covariances=30.0, scatter=10.0 * spread
        )


def problem(covariance_type: CovarianceType, n: int = 2000) -> tuple[Array, Parameters]:
    """Rows of overlapping components, one of which has few, and a start."""
    rng = np.random.default_rng(4)
    truth = random_parameters(rng, covariance_type, 4, 2, spread=2.0)
    weights = np.array([0.4, 0.35, 0.24, 0.01])
    truth = Parameters.create(covariance_type, weights, truth.means, truth.covariances)
    start = Parameters.create(
        covariance_type,
        np.full(4, 0.25),
        truth.means + 0.3 * rng.normal(size=truth.means.shape),
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
        return accelerated_em(
            reader, start, objective=objective, informed_by=informant, **settings
        )


@pytest.mark.parametrize("covariance_type", TYPES)
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
    found = fit(
        rows,
        start,
        is_accelerated=True,
        is_informed=is_informed,
        tol=1e-8,
        max_iter=300,
        **shared,
    )
    print(covariance_type, name, is_informed, missing, plain.n_iterations, found.n_iterations, found.reason, plain.reason, found.value - plain.value, found.log_likelihood-plain.log_likelihood)
    assert plain.reason is StopReason.TOLERANCE
    assert found.converged
    assert found.n_iterations < plain.n_iterations
    assert found.value == pytest.approx(plain.value, abs=1e-6)
    np.testing.assert_allclose(found.parameters.means, plain.parameters.means, atol=2e-2)
