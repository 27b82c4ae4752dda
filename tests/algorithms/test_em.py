"""EM: when it stops, what it keeps, and what it tells."""

import math
from typing import Any

import numpy as np
import pytest
import sklearn.mixture
from numpy.typing import NDArray

from streamgmm.algorithms.batch.em import Fit, expectation_maximization
from streamgmm.algorithms.reads.reader import Reader
from streamgmm.core.fitted_model import StopReason
from streamgmm.core.objective import Objective
from streamgmm.core.parameters import Parameters
from streamgmm.errors import DataError
from streamgmm.events import ComponentsDegenerate, Event
from streamgmm.executors.threads import ThreadExecutor
from streamgmm.testing.chunked import ChunkedSource
from tests.core.cases import TYPES, draw, random_parameters


def planted() -> NDArray[np.float64]:
    rng = np.random.default_rng(0)
    return draw(rng, random_parameters(rng, "full", 3, 2, spread=1.5), 2000)


def first() -> Parameters:
    return random_parameters(np.random.default_rng(1), "full", 3, 2, spread=1.5)


def run(
    start: Parameters,
    source: ChunkedSource | None = None,
    events: list[Event] | None = None,
    **settings: Any,
) -> Fit:
    arguments = {"tol": 1e-4, "max_iter": 200, "objective": Objective(), **settings}
    told: list[Event] = [] if events is None else events
    with ThreadExecutor(1) as executor:
        reader = Reader(source or ChunkedSource(planted(), 600), executor, told.append)
        return expectation_maximization(reader, start, **arguments)


def test_it_keeps_the_mixture_of_its_last_pass_if_asked() -> None:
    with_step, without = run(first()), run(first(), keeps_evaluated=True)
    assert without.converged and without.log_likelihoods == with_step.log_likelihoods
    again = run(without.parameters, max_iter=1)
    assert abs(again.value - without.value) < 1e-12
    assert run(with_step.parameters, max_iter=1).value > without.value


@pytest.mark.parametrize("tol", [1e-1, 1e-3, 1e-5])
def test_it_stops_where_scikit_learn_stops(tol: float) -> None:
    start = first()
    found = run(start, tol=tol)
    theirs = sklearn.mixture.GaussianMixture(
        3,
        tol=tol,
        max_iter=200,
        reg_covar=0.0,
        weights_init=start.weights,
        means_init=start.means,
        precisions_init=start.precisions,
    ).fit(planted())
    assert found.converged
    assert len(found.log_likelihoods) == theirs.n_iter_
    np.testing.assert_allclose(found.log_likelihoods, theirs.lower_bounds_, rtol=0, atol=1e-10)


def test_it_stops_at_the_first_small_gain() -> None:
    found = run(first())
    gains = np.diff(found.log_likelihoods)
    assert abs(gains[-1]) < 1e-4
    assert np.all(np.abs(gains[:-1]) >= 1e-4)
    assert found.log_likelihood == found.log_likelihoods[-1]


def test_no_gain_is_below_a_tolerance_of_0() -> None:
    found = run(first(), tol=0.0, max_iter=7)
    assert not found.converged
    assert len(found.log_likelihoods) == 7


@pytest.mark.parametrize("covariance_type", TYPES)
def test_the_likelihood_never_falls(covariance_type: Any) -> None:
    start = random_parameters(np.random.default_rng(1), covariance_type, 3, 2)
    found = run(start, tol=0.0, max_iter=60)
    assert np.all(np.diff(found.log_likelihoods) > -1e-13)


def test_no_iterations_leave_the_start() -> None:
    start = first()
    source = ChunkedSource(planted(), 600)
    found = run(start, source, max_iter=0)
    for name in ("weights", "means", "covariances", "factors"):
        assert getattr(found.parameters, name) is getattr(start, name)
    assert found.statistics is None
    assert found.log_likelihood == -math.inf
    assert source.n_reads == 0


def test_going_on_counts_from_the_gain_before() -> None:
    whole = run(first(), tol=0.0, max_iter=10)
    head = run(first(), tol=0.0, max_iter=4)
    tail = run(head.parameters, tol=0.0, max_iter=6, previous=head.log_likelihood)
    np.testing.assert_array_equal(tail.parameters.means, whole.parameters.means)
    assert head.log_likelihoods + tail.log_likelihoods == whole.log_likelihoods
    # A first gain below the tolerance ends it at once.
    again = run(whole.parameters, tol=10.0, previous=whole.log_likelihood)
    assert again.converged
    assert len(again.log_likelihoods) == 1


def test_the_statistics_are_those_of_the_last_parameters() -> None:
    found = run(first(), tol=0.0, max_iter=3)
    assert found.statistics is not None
    np.testing.assert_allclose(found.statistics.counts / 2000, found.parameters.weights, rtol=1e-13)
    assert found.statistics.n_rows == 2000
    assert found.statistics.mean_log_likelihood == found.log_likelihood


def test_components_without_mass_are_told_of_once() -> None:
    start = first()
    means = start.means.copy()
    means[2] = 1e9
    away = Parameters.create("full", start.weights, means, start.covariances)
    events: list[Event] = []
    found = run(away, events=events)
    degenerate = [event for event in events if isinstance(event, ComponentsDegenerate)]
    assert [(event.number, event.empty) for event in degenerate] == [(1, (2,))]
    assert found.degenerate == {2}
    assert found.parameters.weights[2] == 0.0


def test_no_usable_weight_is_an_error() -> None:
    source = ChunkedSource(planted(), 600, weights=np.zeros(2000))
    with pytest.raises(DataError, match=r"chunked data .* has a weight above zero: 2000 row"):
        run(first(), source)
    overflowing = ChunkedSource(np.full((50, 2), 1e300))
    with pytest.raises(DataError, match="50 were skipped because their squares overflow"):
        run(first(), overflowing)


def test_a_fit_says_why_it_ended() -> None:
    assert run(first()).reason is StopReason.TOLERANCE
    unfinished = run(first(), tol=0.0, max_iter=3)
    assert unfinished.reason is StopReason.LIMIT
    assert not unfinished.converged
    assert run(first(), max_iter=0).reason is StopReason.LIMIT
