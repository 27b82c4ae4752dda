"""The default way to fit: few reads, rare components found, the same everywhere."""

import threading
from typing import Any

import dask
import dask.array
import numpy as np
import pytest
from numpy.typing import NDArray

from streamgmm import GaussianMixture
from streamgmm.core.parameters import Parameters
from streamgmm.core.structures import Array
from streamgmm.errors import LeftOutRowsWarning
from streamgmm.events import Event, ReadStarted, SampleStage, SurveyDone
from streamgmm.options import CovarianceType
from streamgmm.testing.chunked import ChunkedSource
from tests.core.cases import TYPES, covariances_for, draw, em_step, prepare, random_parameters
from tests.executors.processes import own_threads


def as_start(parameters: Parameters) -> dict[str, Any]:
    """The settings by which an estimator starts with full covariances."""
    return {
        "weights_init": parameters.weights,
        "means_init": parameters.means,
        "precisions_init": np.linalg.inv(parameters.covariances),
    }


def in_many_chunks(rows: Array) -> ChunkedSource:
    """Return rows in chunks so small that ranges from all over the data are a small part."""
    return ChunkedSource(rows, len(rows) // 1000)


def fit(data: Any, k: int, covariance_type: CovarianceType = "full", **settings: Any) -> Any:
    arguments: dict[str, Any] = {"random_state": 0, "tol": 1e-6, "algorithm": "auto", **settings}
    return GaussianMixture(k, covariance_type=covariance_type, **arguments).fit(data)


def with_rare(seed: int = 0) -> tuple[NDArray[np.float64], Parameters]:
    """A million rows, a hundred of them in a cluster of their own far away, sorted by cluster."""
    rng = np.random.default_rng(seed)
    means = [[0.0, 0.0], [5.0, 0.0], [0.0, 6.0], [30.0, -30.0]]
    weights = [0.5, 0.3, 0.2 - 1e-4, 1e-4]
    truth = Parameters.create("full", weights, means, covariances_for(rng, "full", 4, 2))
    n_rare = 100
    counts = [500_000, 300_000, 200_000 - n_rare, n_rare]
    parts = []
    for k, count in enumerate(counts):
        one = Parameters.create("full", [1.0], truth.means[[k]], truth.covariances[[k]])
        parts.append(draw(rng, one, count))
    return np.concatenate(parts), truth


def mean_log_likelihood(model: GaussianMixture, rows: Array) -> float:
    parameters = Parameters.create(
        model.covariance_type, model.weights_, model.means_, model.covariances_
    )
    return prepare(parameters).statistics(rows).mean_log_likelihood


def assert_optimal(model: GaussianMixture, rows: Array, tol: float) -> None:
    """EM from there adds next to nothing, and what is told is what is kept."""
    parameters = Parameters.create(
        model.covariance_type, model.weights_, model.means_, model.covariances_
    )
    start = prepare(parameters).statistics(rows).mean_log_likelihood
    assert model.lower_bound_ == pytest.approx(start, abs=1e-11)
    for _ in range(100):
        parameters = em_step(rows, parameters, reg_covar=1e-6).parameters
    assert prepare(parameters).statistics(rows).mean_log_likelihood - start < tol


@pytest.mark.parametrize("order", ["sorted", "shuffled"])
def test_a_component_of_one_row_in_ten_thousand_is_found(order: str) -> None:
    rows, truth = with_rare()
    if order == "shuffled":
        rows = np.random.default_rng(1).permutation(rows)
    for seed in range(2):
        model = fit(in_many_chunks(rows), 4, random_state=seed)
        distances = np.linalg.norm(model.means_[:, np.newaxis] - truth.means, axis=2)
        nearest = distances.argmin(axis=0)
        assert sorted(nearest) == [0, 1, 2, 3]
        np.testing.assert_array_less(distances.min(axis=0), [0.02, 0.02, 0.02, 0.7])
        assert model.weights_[nearest[3]] == pytest.approx(1e-4, rel=0.1)
        assert model.converged_
        # The pilot is a sixteenth of the data.
        assert model.n_reads_ <= 5 + 1 / 16


@pytest.mark.parametrize("covariance_type", TYPES)
def test_few_reads_lead_to_the_optimum(covariance_type: CovarianceType) -> None:
    rng = np.random.default_rng(2)
    rows = draw(rng, random_parameters(rng, covariance_type, 4, 3, spread=2.5), 150_000)
    model = fit(in_many_chunks(rows), 4, covariance_type, tol=1e-7)
    assert model.converged_
    assert model.n_reads_ <= 15
    assert_optimal(model, rows, 1e-6)
    reads = model.history_
    assert [read["purpose"] for read in reads[:2]] == ["pilot", "survey"]
    assert all(read["purpose"] == "iteration" for read in reads[2:])
    # The survey evaluates the mixture of the pilot.
    accepted = [r["log_likelihood"] for r in reads[1:] if r["accepted"]]
    assert accepted == model.lower_bounds_
    assert model.lower_bound_ == max(accepted)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_threads_and_schedulers_give_the_same_bits(covariance_type: CovarianceType) -> None:
    rng = np.random.default_rng(3)
    rows = draw(rng, random_parameters(rng, covariance_type, 3, 2, spread=1.5), 60_000)
    source = ChunkedSource(rows, 7_000)

    def bits(model: Any) -> tuple[Any, ...]:
        arrays = (model.weights_, model.means_, model.covariances_, model.precisions_cholesky_)
        return *(array.tobytes() for array in arrays), *model.lower_bounds_, model.n_reads_

    expected = bits(fit(source, 3, covariance_type, n_jobs=1))
    for n_jobs in (2, 4):
        assert bits(fit(source, 3, covariance_type, n_jobs=n_jobs)) == expected, n_jobs
    lazy = dask.array.from_array(rows, chunks=(7_000, 2))
    for scheduler in ("synchronous", "threads"):
        with dask.config.set(scheduler=scheduler):
            assert bits(fit(lazy, 3, covariance_type)) == expected, scheduler


@pytest.mark.parametrize("covariance_type", TYPES)
def test_other_layouts_agree_to_the_tolerance(covariance_type: CovarianceType) -> None:
    rng = np.random.default_rng(4)
    rows = draw(rng, random_parameters(rng, covariance_type, 3, 2, spread=2.0), 60_000)
    found = [
        fit(ChunkedSource(rows, chunk_rows), 3, covariance_type).lower_bound_
        for chunk_rows in (60_000, 9_999, 1_000)
    ]
    np.testing.assert_allclose(found, found[0], rtol=0.0, atol=2e-6)


def test_a_sample_that_says_too_little_costs_reads_not_the_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # As if the rows had many values.
    monkeypatch.setattr("streamgmm.algorithms.sampling.row_sample._FEW_VALUES", 1 << 20)
    # 359 parameters from an eighth of 140,000 rows: short by a thousand tolerances.
    rng = np.random.default_rng(5)
    rows = draw(rng, random_parameters(rng, "full", 8, 8, spread=2.5), 140_000)
    taken: list[SurveyDone] = []

    def watch(event: Event) -> None:
        if isinstance(event, SurveyDone):
            taken.append(event)

    model = fit(rows, 8, tol=1e-5, callbacks=[watch])
    (sample,) = taken
    assert sample.n_sampled < 20_000
    assert sample.shortfall > 500e-5
    # The first read of all rows finds what the sample lacked; what follows makes up for it.
    gained = model.lower_bound_ - model.lower_bounds_[0]
    assert 0.3 * sample.shortfall < gained < 3.0 * sample.shortfall
    assert model.converged_
    assert_optimal(model, rows, 5e-5)


# Components share rows, or have none.
@pytest.mark.filterwarnings("ignore::streamgmm.errors.DegenerateComponentWarning")
@pytest.mark.parametrize("covariance_type", TYPES)
def test_more_components_than_distinct_rows(covariance_type: CovarianceType) -> None:
    points = 5.0 * np.random.default_rng(6).normal(size=(3, 2))
    rows = np.repeat(points, 500, axis=0)
    model = fit(rows, 5, covariance_type)
    assert np.isfinite(model.lower_bound_)
    used = model.means_[model.weights_ > 1e-3]
    distances = np.linalg.norm(used[:, np.newaxis] - points, axis=2)
    np.testing.assert_array_less(distances.min(axis=1), 1e-2)


@pytest.mark.parametrize("during", ["survey", "stage", "iteration"])
def test_an_error_in_a_callback_leaves_nothing_behind(during: str) -> None:
    rng = np.random.default_rng(7)
    rows = draw(rng, random_parameters(rng, "full", 3, 2), 60_000)
    source = ChunkedSource(rows, 5_000)

    def fail(event: Event) -> None:
        if during == "stage":
            found = isinstance(event, SampleStage) and event.name == "split and merge"
        else:
            found = isinstance(event, ReadStarted) and event.purpose == during
        if found:
            raise RuntimeError("no more")

    before = threading.active_count()
    model = GaussianMixture(3, random_state=0, callbacks=[fail])
    with pytest.raises(RuntimeError, match="no more"):
        model.fit(source)
    assert own_threads() == []
    assert threading.active_count() == before
    assert not hasattr(model, "means_")
    assert not hasattr(model, "history_")
    again = model.set_params(callbacks=()).fit(source)
    fresh = GaussianMixture(3, random_state=0).fit(source)
    np.testing.assert_array_equal(again.means_, fresh.means_)


def test_the_survey_reports_what_it_found() -> None:
    rng = np.random.default_rng(10)
    rows = rng.normal([1.0, 0.0, 5.0], [0.5, 0.0, 2.0], size=(50_000, 3))
    rows[::1000, 2] = np.nan
    rows[1::1000] = 1e200
    weights = np.where(np.arange(50_000) % 100 == 2, 0.0, 2.0)
    heard: list[SurveyDone] = []

    def watch(event: Event) -> None:
        if isinstance(event, SurveyDone):
            heard.append(event)

    source = ChunkedSource(rows, 500, weights=weights)
    source.missing, source.feature_names = "drop", ["a", "b", "c"]
    with pytest.warns(LeftOutRowsWarning):
        GaussianMixture(2, random_state=0, callbacks=[watch]).fit(source)
    (found,) = heard
    assert (found.n_rows, found.n_overflowing, found.n_missing) == (50_000, 50, 50)
    assert found.n_weightless == 500
    # 2,000 for each of 19 parameters.
    assert found.n_sampled == 38_000
    assert found.constant_features == ["b"]
    used = rows[(weights > 0.0) & (np.arange(50_000) % 1000 > 1)]
    np.testing.assert_array_equal(found.smallest, used.min(axis=0))
    np.testing.assert_array_equal(found.largest, used.max(axis=0))
    np.testing.assert_allclose(found.means, used.mean(axis=0), rtol=1e-9)
    np.testing.assert_allclose(found.deviations, used.std(axis=0), rtol=1e-9)


# From a start that is given -----------------------------------------------------------------------


def with_start() -> tuple[Array, Parameters]:
    """Rows of components that overlap, and a start from which EM is long on its way."""
    rng = np.random.default_rng(8)
    truth = random_parameters(rng, "full", 4, 2, spread=2.5)
    means = truth.means + rng.normal(size=truth.means.shape)
    start = Parameters.create("full", np.full(4, 0.25), means, 2.0 * truth.covariances)
    return draw(rng, truth, 200_000), start


@pytest.mark.parametrize("order", ["shuffled", "sorted"])
@pytest.mark.parametrize("chunk_rows", [50, 50_000])
def test_a_given_start_is_soon_at_an_optimum(order: str, chunk_rows: int) -> None:
    rows, start = with_start()
    if order == "sorted":
        rows = rows[np.argsort(rows[:, 0])]
    source = ChunkedSource(rows, chunk_rows)
    model = fit(source, 4, **as_start(start))
    sample, *iterations = model.history_
    assert sample["purpose"] == "sample"
    # A sample of many small chunks; few large ones are all read, for a sample that is no worse.
    if chunk_rows == 50:
        assert 0.0 < sample["part"] < 0.125
    else:
        assert sample["part"] == 1.0
    assert source.n_reads == pytest.approx(model.n_reads_ * source.n_chunks)
    assert [read["purpose"] for read in iterations] == ["iteration"] * model.n_iter_
    assert model.converged_
    # Ranges of sorted rows say less of all rows.
    assert model.n_iter_ <= (60 if order == "sorted" and chunk_rows == 50 else 25)
    assert_optimal(model, rows, 1e-5)
    # The start itself is evaluated first.
    assert model.lower_bounds_[0] == pytest.approx(
        prepare(start).statistics(rows).mean_log_likelihood
    )
    # Of EM's own iterations many more than the reads stop short of it.
    em = fit(rows, 4, algorithm="em", tol=1e-6, **as_start(start))
    assert em.n_reads_ > model.n_reads_
    assert em.lower_bound_ < model.lower_bound_ - 5e-5


def test_going_on_from_the_end_takes_one_read() -> None:
    rows, start = with_start()
    source = ChunkedSource(rows, 50)
    model = fit(source, 4, warm_start=True, **as_start(start))
    before = model.lower_bound_
    model.fit(source)
    assert model.n_iter_ == 1
    assert 1.0 < model.n_reads_ < 1.125
    assert model.lower_bound_ == pytest.approx(before, abs=1e-12)


def test_few_rows_are_read_from_the_start_on() -> None:
    rows, start = with_start()
    model = fit(rows[:20_000], 4, **as_start(start))
    assert {read["purpose"] for read in model.history_} == {"iteration"}
    assert model.converged_


def test_rows_in_the_order_of_their_clusters_do_no_harm() -> None:
    # Each range that is looked at shows one cluster.
    rng = np.random.default_rng(9)
    truth = random_parameters(rng, "full", 3, 2, spread=6.0)
    rows = draw(rng, truth, 160_000)
    labels = prepare(truth).posterior(rows).labels
    start = Parameters.create("full", np.full(3, 1 / 3), truth.means + 0.5, 1.5 * truth.covariances)
    order = np.argsort(labels, kind="stable")
    model = fit(rows[order], 3, **as_start(start))
    assert model.converged_
    assert_optimal(model, rows, 1e-5)
