"""Components move to where they are lacking, and nowhere else."""

import tracemalloc
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamgmm.algorithms.batch.em import Fit, expectation_maximization
from streamgmm.algorithms.batch.few_rows import FewRows
from streamgmm.algorithms.batch.rows_in_memory import Rows
from streamgmm.algorithms.batch.split_merge import Moved, longest_axis, split_and_merge
from streamgmm.algorithms.reads.reader import Reader
from streamgmm.algorithms.sampling.initialization import parameters_of_clusters
from streamgmm.core.e_step import EStep
from streamgmm.core.frame import Frame
from streamgmm.core.objective import Objective
from streamgmm.core.parameters import Parameters
from streamgmm.core.structures import Array
from streamgmm.events import Event
from streamgmm.executors.threads import ThreadExecutor
from streamgmm.options import CovarianceType, Missing
from streamgmm.sources.sample import SampleSource
from tests.core.cases import SHARED_TYPES, TYPES, covariances_for, draw, random_parameters


def in_memory(
    executor: ThreadExecutor, rows: Array, weights: Array | None = None, missing: Missing = "error"
) -> Rows:
    weights = np.ones(len(rows)) if weights is None else weights
    reader = Reader(SampleSource(rows, weights, missing), executor, lambda event: None)
    return Rows(reader, rows, weights)


def em(rows: Rows, start: Parameters, steps: int, reg_covar: float = 0.0) -> Fit:
    return expectation_maximization(
        rows.reader, start, tol=0.0, max_iter=steps, objective=Objective(reg_covar)
    )


def log_likelihood(rows: Rows, parameters: Parameters) -> float:
    return em(rows, parameters, 1).log_likelihood


def moved(rows: Rows, fit: Fit, reg_covar: float = 0.0) -> Fit:
    return split_and_merge(rows, Moved(fit), objective=Objective(reg_covar)).fit


def clusters(covariance_type: CovarianceType) -> Parameters:
    """Three clusters far apart."""
    covariances = covariances_for(np.random.default_rng(0), covariance_type, 3, 2)
    means = [[0.0, 0.0], [40.0, 0.0], [40.0, 25.0]]
    return Parameters.create(covariance_type, [0.4, 0.3, 0.3], means, 0.25 * covariances)


def poor_start(truth: Parameters) -> Parameters:
    """Two components on the first cluster, one between the two others."""
    means = [[-0.3, 0.0], [0.3, 0.0], [40.0, 12.5]]
    covariances = truth.covariances.copy()
    if truth.covariance_type in ("full", "diag"):
        covariances[2] = np.diag([1.0, 160.0]) if truth.covariance_type == "full" else [1.0, 160.0]
    elif truth.covariance_type == "spherical":
        covariances[2] = 80.0
    return Parameters.create(truth.covariance_type, [0.2, 0.2, 0.6], means, covariances)


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("gaps", [False, True])
def test_a_component_that_is_one_too_many_goes_where_one_is_lacking(
    covariance_type: CovarianceType, gaps: bool
) -> None:
    truth = clusters(covariance_type)
    rng = np.random.default_rng(1)
    rows = draw(rng, truth, 3000)
    if gaps:
        # Not the whole row.
        rows[np.arange(0, 3000, 7), rng.integers(0, 2, 429)] = np.nan
    with ThreadExecutor(1) as executor:
        sample = in_memory(executor, rows, missing="em" if gaps else "error")
        stuck = em(sample, poor_start(truth), 60)
        best = em(sample, truth, 60)
        # EM does not get out.
        assert stuck.log_likelihood < best.log_likelihood - 0.2
        found = moved(sample, stuck)
        assert found.log_likelihood > best.log_likelihood - 1e-3
    order = np.lexsort(found.parameters.means.round().T)
    np.testing.assert_allclose(
        found.parameters.means[order], truth.means[np.lexsort(truth.means.T)], atol=0.3
    )


@pytest.mark.parametrize("covariance_type", ["full", "diag", "spherical"])
def test_rows_of_more_weight_draw_components(covariance_type: CovarianceType) -> None:
    truth = clusters(covariance_type)
    rows = draw(np.random.default_rng(2), truth, 1500)
    # The two other clusters count for little, beside a first one in two halves.
    weights = np.where(rows[:, 0] > 20.0, 1e-4, 1.0)
    rows[:, 1] += np.where((rows[:, 0] < 20.0) & (np.arange(1500) % 2 == 0), 12.0, 0.0)
    with ThreadExecutor(1) as executor:
        sample = in_memory(executor, rows, weights)
        start = em(sample, poor_start(truth), 20)
        found = moved(sample, start).parameters
    assert found.weights.sum() == pytest.approx(1.0)
    for place in ([0.0, 0.0], [0.0, 12.0]):
        assert np.linalg.norm(found.means - place, axis=1).min() < 0.5


@given(st.sampled_from(TYPES), st.integers(2, 5), st.integers(0, 2**32 - 1))
@settings(max_examples=30)
def test_split_and_merge_never_lowers_the_log_likelihood(
    covariance_type: Any, k: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    rows = draw(rng, random_parameters(rng, "full", 4, 2, spread=3.0), 400)
    start = Parameters.create(
        covariance_type,
        np.full(k, 1.0 / k),
        rows[rng.choice(len(rows), k, replace=False)],
        covariances_for(rng, covariance_type, k, 2),
    )
    with ThreadExecutor(1) as executor:
        sample = in_memory(executor, rows, rng.uniform(0.5, 1.5, len(rows)))
        fit = em(sample, start, 8)
        found = moved(sample, fit)
        if found.degenerate:
            # Widening a component that has collapsed is a step away from the maximum.
            return
        before = log_likelihood(sample, fit.parameters)
        assert log_likelihood(sample, found.parameters) >= before - 1e-12 * abs(before)
        # What is told is of parameters that lie behind it.
        assert log_likelihood(sample, found.parameters) >= found.log_likelihood - 1e-12


@pytest.mark.parametrize("covariance_type", TYPES)
def test_a_good_fit_is_left_alone(covariance_type: CovarianceType) -> None:
    truth = clusters(covariance_type)
    rows = draw(np.random.default_rng(3), truth, 2000)
    with ThreadExecutor(1) as executor:
        sample = in_memory(executor, rows)
        fit = em(sample, truth, 30)
        found = moved(sample, fit)
    np.testing.assert_allclose(found.parameters.means, fit.parameters.means, atol=1e-6)


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("n_distinct", [1, 2, 4])
def test_few_distinct_rows_do_no_harm(covariance_type: CovarianceType, n_distinct: int) -> None:
    points = np.random.default_rng(4).normal(size=(n_distinct, 2)) * 10.0
    rows = np.repeat(points, 200 // n_distinct, axis=0)
    start = Parameters.create(
        covariance_type,
        np.full(4, 0.25),
        np.resize(points, (4, 2)),
        covariances_for(np.random.default_rng(5), covariance_type, 4, 2),
    )
    with ThreadExecutor(1) as executor:
        sample = in_memory(executor, rows)
        fit = em(sample, start, 5, reg_covar=1e-6)
        found = moved(sample, fit, reg_covar=1e-6).parameters
    assert np.isfinite(found.means).all()
    scores = EStep.prepare(found, Frame.of(found)).posterior(rows).scores
    assert np.isfinite(scores).all()


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("gaps", [False, True])
def test_rows_in_blocks_say_what_they_say_together(
    covariance_type: CovarianceType, gaps: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth = clusters(covariance_type)
    rng = np.random.default_rng(6)
    rows, weights = draw(rng, truth, 2000), rng.uniform(0.5, 2.0, 2000)
    if gaps:
        rows[np.arange(0, 2000, 7), rng.integers(0, 2, 286)] = np.nan
    with ThreadExecutor(1) as executor:
        sample = in_memory(executor, rows, weights, missing="em" if gaps else "error")
        stuck = em(sample, poor_start(truth), 20)
        together = moved(sample, stuck).parameters
        # Seven rows at a time, or so.
        monkeypatch.setattr("streamgmm.algorithms.batch.rows_in_memory._BLOCK_BYTES", 8 * 6 * 64)
        apart = moved(sample, stuck).parameters
    assert np.linalg.norm(together.means - stuck.parameters.means) > 1.0
    for name in ("weights", "means", "covariances"):
        np.testing.assert_allclose(
            getattr(apart, name), getattr(together, name), rtol=1e-7, atol=1e-9
        )


@pytest.mark.parametrize("covariance_type", ["diag", "spherical", *SHARED_TYPES])
def test_many_features_of_diagonal_covariances_take_no_memory_for_their_pairs(
    covariance_type: CovarianceType,
) -> None:
    # One component on two clusters, and two on the third one.
    d, rng = 2500, np.random.default_rng(7)
    rows = rng.normal(size=(60, d))
    rows += np.repeat(rng.normal(size=(3, d)), 20, axis=0)
    labels = np.repeat([0, 0, 1], 20)
    labels[40:50] = 2
    start = parameters_of_clusters(rows, np.ones(60), labels, 3, covariance_type, Objective(1e-6))
    with ThreadExecutor(1) as executor:
        sample = in_memory(executor, rows)
        tracemalloc.start()
        fit = em(sample, start, 1, reg_covar=1e-6)
        _, of_a_pass = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        found = moved(sample, fit, reg_covar=1e-6).parameters
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    # A matrix of pairs of features alone takes 48 MiB.
    assert peak - of_a_pass < 16 * rows.nbytes < 0.4 * 8 * d**2
    assert np.isfinite(found.means).all()


@pytest.mark.parametrize(("n_rows", "d"), [(2000, 200), (40, 300), (0, 300)])
def test_the_longest_axis_of_many_features_is_near_the_first_principal_one(
    n_rows: int, d: int
) -> None:
    rng = np.random.default_rng(8)
    axis = rng.normal(size=d) / np.sqrt(d)
    rows = rng.normal(size=(n_rows, d)) + 6.0 * rng.normal(size=(n_rows, 1)) * axis
    found = longest_axis(rows)
    assert found.shape == (d,)
    if n_rows:
        principal = np.linalg.svd(rows, full_matrices=False)[2][0]
        assert abs(found @ principal) / np.linalg.norm(found) > 0.999
    np.testing.assert_array_equal(longest_axis(np.zeros((3, d))), np.zeros(d))


def test_a_component_without_a_row_of_its_own_is_not_split() -> None:
    # The second component has a share in rows, the largest one in none; the third has no weight.
    rows = draw(np.random.default_rng(9), clusters("diag"), 2000)
    start = Parameters.create(
        "diag",
        [0.6, 0.05, 0.0, 0.35],
        [[0.0, 0.0], [0.0, 0.0], [5.0, 5.0], [40.0, 12.5]],
        [[1.0, 1.0], [1.0, 1.0], [1.0, 1.0], [1.0, 160.0]],
    )
    with ThreadExecutor(1) as executor:
        sample = in_memory(executor, rows)
        fit = em(sample, start, 1)
        found = moved(sample, fit)
        assert found.log_likelihood > fit.log_likelihood + 0.1
    assert np.isfinite(found.parameters.means).all()


@pytest.mark.parametrize("covariance_type", ["full", "diag", "spherical"])
def test_two_components_that_are_alike_are_replaced_by_halves_of_one(
    covariance_type: CovarianceType,
) -> None:
    """No pair is left beside a component of two, so that the halves replace both."""
    rng = np.random.default_rng(0)
    rows = np.concatenate([rng.normal(0.0, 1.0, (500, 2)), rng.normal(0.0, 0.01, (500, 2))])
    covariances: Array = {
        "full": np.tile(0.5 * np.eye(2), (2, 1, 1)),
        "diag": np.full((2, 2), 0.5),
        "spherical": np.full(2, 0.5),
    }[covariance_type]
    means = [[0.01, 0.0], [-0.01, 0.0]]
    with ThreadExecutor(1) as executor:
        few = in_memory(executor, rows)
        stuck = em(few, Parameters.create(covariance_type, [0.5, 0.5], means, covariances), 1)
        found = moved(few, stuck)
    widths = np.sort(
        found.parameters.stacked(found.parameters.factors).max(
            axis=(1, -1) if covariance_type == "full" else 1
        )
    )
    np.testing.assert_allclose(widths, [0.01, 1.0], rtol=0.1)
    np.testing.assert_allclose(found.parameters.weights, 0.5, atol=0.03)


@pytest.mark.parametrize("is_few", [True, False])
def test_em_that_has_settled_does_not_begin_again(is_few: bool) -> None:
    rng = np.random.default_rng(0)
    truth = clusters("full")
    values = draw(rng, truth, 200)
    objective = Objective()
    events: list[Event] = []
    with ThreadExecutor(1) as executor:
        few = FewRows.of(values, np.ones(200), "full", objective) if is_few else None
        rows = replace(in_memory(executor, values), few=few).with_listener(events.append)
        settled = rows.short_run(truth, 100, objective=objective)
        assert settled.converged
        n_events = len(events)
        assert rows.continued(settled, 5, objective=objective) is settled
        assert len(events) == n_events > 0
        # Nothing is known of parameters alone.
        again = rows.short_run(settled.parameters, 5, objective=objective)
        assert again is not settled
        assert again.value == pytest.approx(settled.value, abs=1e-5)
