"""Accelerated EM: no step is a loss; it tells what it read, and stops where little remains."""

import itertools
import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from streamgmm.algorithms.batch.accelerated_em import accelerated_em
from streamgmm.algorithms.batch.em import Fit, expectation_maximization
from streamgmm.algorithms.batch.sample_fit import Informant
from streamgmm.algorithms.reads.reader import Reader, StatisticsRequest
from streamgmm.core.e_step import EStep
from streamgmm.core.fitted_model import StopReason
from streamgmm.core.objective import Objective
from streamgmm.core.parameters import Parameters
from streamgmm.core.statistics import Statistics
from streamgmm.core.structures import Array
from streamgmm.events import ComponentsDegenerate, Event, ReadDone, StepScored
from streamgmm.executors.threads import ThreadExecutor
from streamgmm.options import CovarianceType
from streamgmm.testing.chunked import ChunkedSource
from tests import naive
from tests.core.cases import TYPES, draw, em_step, prepare, random_parameters


class WatchedReader(Reader):
    """A reader that keeps the parameters of its passes.

    A pass that is made again in better coordinates counts once.
    """

    def answered(self, request: StatisticsRequest) -> Statistics:
        if request.purpose == "iteration":
            self.asked.append(request.parameters)
        return super().answered(request)

    @cached_property
    def asked(self) -> list[Parameters]:
        return []


@dataclass(frozen=True)
class Run:
    """A fit, the reads it took, and the parameters that each of them was made with."""

    fit: Fit
    reads: list[ReadDone]
    parameters: list[Parameters]
    events: list[Event]


def run(
    rows: NDArray[np.floating],
    start: Parameters,
    *,
    weights: Array | None = None,
    informed: bool = True,
    n_jobs: int = 1,
    **arguments: Any,
) -> Run:
    arguments = {"tol": 1e-5, "max_iter": 200, **arguments}
    objective = Objective(arguments.pop("reg_covar", 0.0), frozenset(arguments.pop("fixed", ())))
    own = np.ones(len(rows)) if weights is None else weights
    informant = Informant(rows.astype(np.float64), own) if informed else None
    events: list[Event] = []
    source = ChunkedSource(rows, max(1, len(rows) // 5), weights=weights)
    with ThreadExecutor(n_jobs) as executor:
        reader = WatchedReader(source, executor, events.append)
        fit = accelerated_em(reader, start, objective=objective, informed_by=informant, **arguments)
    # A read that is made again in better coordinates counts once.
    last = {read.iteration: read for read in reader.history}
    return Run(fit, list(last.values()), reader.asked, events)


def planted(
    covariance_type: CovarianceType, spread: float, n: int = 4000, seed: int = 0
) -> tuple[Array, Parameters]:
    """Rows, and a start in the basin of what they were drawn from."""
    rng = np.random.default_rng(seed)
    truth = random_parameters(rng, covariance_type, 3, 2, spread=spread)
    start = Parameters.create(
        covariance_type,
        np.full(3, 1 / 3),
        truth.means + 0.3 * rng.normal(size=(3, 2)),
        truth.covariances,
    )
    return draw(rng, truth, n), start


def optimum(rows: Array, start: Parameters, weights: Array | None = None) -> float:
    """The log-likelihood that plain EM from there ends at."""
    source = ChunkedSource(rows, weights=weights)
    with ThreadExecutor(2) as executor:
        reader = Reader(source, executor, lambda event: None)
        found = expectation_maximization(
            reader, start, tol=1e-13, max_iter=5000, objective=Objective()
        )
    return found.log_likelihood


def gained(
    rows: Array,
    old: naive.Mixture,
    new: naive.Mixture,
    reg_covar: float | Array,
    weights: Array | None,
) -> float:
    """What a step gains: of log-likelihood, less what the ridge holds against the covariances.

    That is ½ Σ_k π_k (tr R Σ_k⁻¹ of the new ones - of the old), R = diag(reg_covar), with the mean
    of both π_k.
    """
    change = naive.mean_log_likelihood(rows, new, weights) - naive.mean_log_likelihood(
        rows, old, weights
    )
    precisions = [np.linalg.inv(model.matrices.astype(np.float64)) for model in (old, new)]
    ridges = np.eye(rows.shape[1]) * reg_covar
    traces = [np.trace(ridges @ own, axis1=1, axis2=2) for own in precisions]
    mean_weights = 0.5 * (old.weights + new.weights)
    return float(change) - 0.5 * float(mean_weights @ (traces[1] - traces[0]))


def assert_truthful(
    found: Run, rows: Array, reg_covar: float | Array = 0.0, weights: Array | None = None
) -> None:
    """What was accepted was no loss, what was rejected would have been; the end was evaluated."""
    best: Parameters | None = None
    accepted = []
    assert len(found.reads) == len(found.parameters) == found.fit.n_iterations
    for read, parameters in zip(found.reads, found.parameters, strict=True):
        rounding = 1e-10 * max(1.0, abs(read.log_likelihood))
        gain = math.inf
        if best is not None:
            gain = gained(rows, naive.of(best), naive.of(parameters), reg_covar, weights)
        if read.accepted:
            assert gain >= -rounding
            best = parameters
            accepted.append((read.log_likelihood, parameters))
        else:
            assert gain < rounding
    assert found.fit.log_likelihoods == [value for value, _ in accepted]
    assert found.fit.parameters is accepted[-1][1]
    statistics = found.fit.statistics
    assert statistics is not None
    assert statistics.mean_log_likelihood == found.fit.log_likelihood
    expected = naive.mean_log_likelihood(rows, naive.of(found.fit.parameters), weights)
    assert found.fit.log_likelihood == pytest.approx(float(expected), abs=1e-9)


def datasets(rng: np.random.Generator) -> dict[str, Array]:
    return {
        "clusters": draw(rng, random_parameters(rng, "full", 3, 2), 200),
        "overlapping": draw(rng, random_parameters(rng, "full", 3, 2, spread=0.7), 200),
        "noise": rng.uniform(size=(200, 2)),
        "far": draw(rng, random_parameters(rng, "diag", 3, 2), 200) + 1e6,
        "heavy tails": rng.standard_t(1.5, size=(200, 2)),
        "groups apart": np.vstack([rng.normal(size=(100, 2)), rng.normal(size=(100, 2)) + 1e4]),
    }


@given(
    st.sampled_from(TYPES),
    st.sampled_from(sorted(datasets(np.random.default_rng(0)))),
    st.sampled_from([0.0, 1e-6, 0.1]),
    st.booleans(),
    st.booleans(),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=60)
def test_no_step_is_a_loss(
    covariance_type: Any,
    dataset: str,
    reg_covar: float,
    informed: bool,
    weighted: bool,
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    rows = datasets(rng)[dataset]
    spread = rows.var(axis=0)
    covariances: Array = {
        "full": np.tile(np.diag(spread), (3, 1, 1)),
        "tied": np.diag(spread),
        "diag": np.tile(spread, (3, 1)),
        "spherical": np.full(3, spread.mean()),
    }[covariance_type]
    start = Parameters.create(
        covariance_type, [0.2, 0.3, 0.5], rows[rng.choice(len(rows), 3, False)], covariances
    )
    weights = rng.uniform(0.5, 1.5, len(rows)) if weighted else None
    arguments: dict[str, Any] = {"informed": informed, "tol": 0.0, "max_iter": 12}
    found = run(rows, start, weights=weights, reg_covar=reg_covar, **arguments)
    if found.fit.degenerate:
        # Widening a component is a step away from the maximum.
        return
    assert_truthful(found, rows, reg_covar, weights)


def plain_em(rows: Array, start: Parameters, **arguments: Any) -> Fit:
    with ThreadExecutor(2) as executor:
        reader = Reader(ChunkedSource(rows), executor, lambda event: None)
        return expectation_maximization(reader, start, objective=Objective(), **arguments)


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize(("informed", "spread"), [(True, 4.0), (True, 1.5), (False, 4.0)])
def test_what_is_left_is_about_the_tolerance_at_most(
    covariance_type: CovarianceType, informed: bool, spread: float
) -> None:
    rows, start = planted(covariance_type, spread)
    highest = optimum(rows, start)
    for tol in (1e-3, 1e-5, 1e-7):
        found = run(rows, start, informed=informed, tol=tol)
        assert_truthful(found, rows)
        assert found.fit.converged
        # What is predicted is that of a log-likelihood that is quadratic.
        assert highest - found.fit.log_likelihood < 2.0 * tol
        after = em_step(rows, found.fit.parameters).parameters
        gain = prepare(after).statistics(rows).mean_log_likelihood - found.fit.log_likelihood
        assert -1e-13 < gain < tol


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("seed", [1, 2])
def test_without_information_it_does_not_stop_before_em_would(
    covariance_type: CovarianceType, seed: int
) -> None:
    # Reads alone do not show all directions in which something is left.
    rows, start = planted(covariance_type, 1.5, seed=seed)
    for tol in (1e-4, 1e-5, 1e-6):
        found = run(rows, start, informed=False, tol=tol, max_iter=1000)
        assert_truthful(found, rows)
        assert found.fit.converged
        plain = plain_em(rows, start, tol=tol, max_iter=1000)
        assert found.fit.log_likelihood > plain.log_likelihood - 0.1 * tol


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize(("informed", "seed", "fewer"), [(True, 0, 20), (False, 1, 2)])
def test_it_takes_far_fewer_reads_than_em(
    covariance_type: CovarianceType, informed: bool, seed: int, fewer: int
) -> None:
    rows, start = planted(covariance_type, 1.0, seed=seed)
    watched = run(rows, start, informed=informed, tol=1e-6)
    found = watched.fit
    assert informed == any(isinstance(event, StepScored) for event in watched.events)
    # Of plain EM, as many as it takes to come as far.
    plain = plain_em(rows, start, tol=0.0, max_iter=500).log_likelihoods
    n_plain = 1 + int(np.searchsorted(plain, found.log_likelihood))
    assert fewer * found.n_iterations < n_plain


@pytest.mark.parametrize("covariance_type", TYPES)
def test_the_end_is_what_a_fresh_read_finds(covariance_type: CovarianceType) -> None:
    rows, start = planted(covariance_type, 1.5)
    found = run(rows, start).fit
    assert found.statistics is not None
    again = EStep.prepare(found.parameters, found.statistics.frame)
    chunks = [again.statistics(part) for part in np.split(rows, 5)]
    merged = chunks[0]
    for chunk in chunks[1:]:
        merged = merged.merge(chunk)
    np.testing.assert_allclose(merged.moments, found.statistics.moments, rtol=1e-12)
    assert merged.mean_log_likelihood == pytest.approx(found.log_likelihood, abs=1e-13)
    assert prepare(found.parameters).statistics(rows).mean_log_likelihood == pytest.approx(
        found.log_likelihood, abs=1e-12
    )


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("informed", [True, False])
@pytest.mark.parametrize("fixed", [("weights",), ("means",), ("covariances",)])
def test_what_is_held_fixed_stays(
    covariance_type: CovarianceType, informed: bool, fixed: Any
) -> None:
    rows, start = planted(covariance_type, 1.5)
    found = run(rows, start, informed=informed, fixed=fixed, tol=1e-6)
    assert_truthful(found, rows)
    assert found.fit.converged
    for name in fixed:
        np.testing.assert_array_equal(getattr(found.fit.parameters, name), getattr(start, name))
    step = em_step(rows, found.fit.parameters, fixed=fixed).parameters
    gain = prepare(step).statistics(rows).mean_log_likelihood - found.fit.log_likelihood
    assert gain < 1e-6


@pytest.mark.parametrize(
    ("covariance_type", "ridge"),
    [
        *itertools.product(TYPES, [1e-6, 0.1]),
        *itertools.product(["full", "tied", "diag"], [(0.5, 0.01)]),
    ],
)
def test_a_ridge_ends_where_em_with_it_does(
    covariance_type: CovarianceType, ridge: float | tuple[float, ...]
) -> None:
    reg_covar = ridge if isinstance(ridge, float) else np.array(ridge)
    rows, start = planted(covariance_type, 4.0)
    found = run(rows, start, reg_covar=reg_covar, tol=1e-9)
    assert_truthful(found, rows, reg_covar)
    assert found.fit.converged
    plain = start
    for _ in range(500):
        plain = em_step(rows, plain, reg_covar=reg_covar).parameters
    # A fixed point of EM, of which the other is a neighbour.
    after = em_step(rows, plain, reg_covar=reg_covar).parameters
    assert naive.distance(after, naive.of(plain)) < 1e-12
    assert naive.distance(found.fit.parameters, naive.of(plain)) < 2e-4


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("informed", [True, False])
def test_a_start_at_the_optimum_takes_few_reads(
    covariance_type: CovarianceType, informed: bool
) -> None:
    rows, start = planted(covariance_type, 4.0)
    first = run(rows, start, tol=1e-10).fit
    found = run(rows, first.parameters, informed=informed, tol=1e-6).fit
    assert found.converged
    assert found.n_iterations <= (1 if informed else 2)
    if informed:
        assert found.parameters is first.parameters


def test_a_fit_says_why_it_ended() -> None:
    rows, start = planted("full", 4.0)
    first = run(rows, start, tol=1e-10).fit
    assert first.reason is StopReason.TOLERANCE
    assert run(rows, first.parameters, tol=1e-2).fit.reason is StopReason.STATIONARY


@pytest.mark.parametrize("informed", [True, False])
def test_no_tolerance_ends_with_the_iterations(informed: bool) -> None:
    rows, start = planted("full", 1.0)
    found = run(rows, start, informed=informed, tol=0.0, max_iter=9).fit
    assert found.reason is StopReason.LIMIT
    assert not found.converged
    assert found.n_iterations == 9


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("informed", [True, False])
def test_no_tolerance_at_the_optimum_does_no_harm(
    covariance_type: CovarianceType, informed: bool
) -> None:
    rows, start = planted(covariance_type, 4.0)
    found = run(rows, start, informed=informed, tol=0.0, max_iter=80)
    assert_truthful(found, rows)
    assert found.fit.log_likelihood == pytest.approx(optimum(rows, start), abs=1e-11)


def test_no_iterations_leave_the_start() -> None:
    rows, start = planted("full", 1.0)
    found = run(rows, start, max_iter=0)
    assert found.fit.parameters is start
    assert found.fit.statistics is None
    assert not found.fit.converged
    assert found.reads == []


@pytest.mark.parametrize("informed", [True, False])
def test_one_iteration_evaluates_the_start(informed: bool) -> None:
    rows, start = planted("full", 1.0)
    found = run(rows, start, informed=informed, max_iter=1).fit
    assert found.parameters is start
    assert not found.converged
    expected = prepare(start).statistics(rows).mean_log_likelihood
    assert found.log_likelihood == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("informed", [True, False])
def test_components_without_mass_are_left_behind(
    covariance_type: CovarianceType, informed: bool
) -> None:
    rows, start = planted(covariance_type, 2.0)
    means = start.means.copy()
    means[2] = 1e9
    away = Parameters.create(covariance_type, start.weights, means, start.covariances)
    found = run(rows, away, informed=informed, tol=1e-6)
    assert found.fit.degenerate == {2}
    assert found.fit.parameters.weights[2] == 0.0
    assert found.fit.converged
    degenerate = [event for event in found.events if isinstance(event, ComponentsDegenerate)]
    assert [event.empty for event in degenerate] == [(2,)]
    two = start.weights[:2] / start.weights[:2].sum()
    covariances = start.covariances if covariance_type == "tied" else start.covariances[:2]
    without = Parameters.create(covariance_type, two, start.means[:2], covariances)
    highest = optimum(rows, without)
    assert highest - 2e-6 < found.fit.log_likelihood < highest + 1e-9


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("informed", [True, False])
@pytest.mark.parametrize("reg_covar", [0.0, 1e-6])
def test_a_collapse_ends_well(
    covariance_type: CovarianceType, informed: bool, reg_covar: float
) -> None:
    rng = np.random.default_rng(0)
    # Half of the rows are one point, where a component without a ridge may become as narrow as
    # it likes.
    rows = np.concatenate([rng.normal(size=(200, 2)), np.full((200, 2), 3.0)])
    start = random_parameters(rng, covariance_type, 2, 2)
    start = Parameters.create(
        covariance_type, [0.5, 0.5], [[0.0, 0.0], [3.0, 3.0]], start.covariances
    )
    found = run(rows, start, informed=informed, reg_covar=reg_covar, max_iter=60)
    parameters = found.fit.parameters
    assert np.isfinite(parameters.covariances).all()
    assert math.isfinite(found.fit.log_likelihood)
    np.testing.assert_allclose(parameters.means, [[0.0, 0.0], [3.0, 3.0]], atol=0.3)
    if reg_covar == 0.0 and covariance_type != "tied":
        assert found.fit.degenerate == {1}
