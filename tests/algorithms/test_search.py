"""The work in memory: from a sample of rows to the optimum that all rows are near."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import sklearn.datasets
import sklearn.mixture
from numpy.typing import NDArray

from streamgmm.algorithms.batch.sample_fit import Informant, Search, Settings
from streamgmm.algorithms.reads.reader import Reader
from streamgmm.algorithms.sampling.initialization import Start, initialize
from streamgmm.algorithms.sampling.row_sample import RowSample
from streamgmm.core.frame import Frame
from streamgmm.core.information import Tangent
from streamgmm.core.objective import Objective
from streamgmm.core.parameters import Parameters
from streamgmm.core.structures import Array
from streamgmm.errors import DataError
from streamgmm.events import Event, SampleStage, SampleStep, StartDone
from streamgmm.executors.threads import ThreadExecutor
from streamgmm.options import CovarianceType, Missing
from streamgmm.sources.sample import SampleSource
from tests import naive
from tests.core.cases import TYPES, covariances_for, draw, em_step, prepare, random_parameters
from tests.executors.processes import own_threads


def as_sample(
    rows: Array, weights: Array | None = None, is_unexplained: NDArray[np.bool_] | None = None
) -> RowSample:
    n = len(rows)
    return RowSample(
        np.arange(n),
        np.arange(n).astype(np.uint64),
        rows,
        np.ones(n) if weights is None else weights,
        np.zeros(n, dtype=np.bool_) if is_unexplained is None else is_unexplained,
    )


def search(
    sample: RowSample,
    k: int,
    covariance_type: CovarianceType,
    *,
    seed: int = 0,
    n_jobs: int = 2,
    tol: float = 1e-6,
    known: Start | None = None,
    missing: Missing = "error",
    events: list[Event] | None = None,
    **settings: Any,
) -> Parameters:
    arguments: dict[str, Any] = {
        "init_params": "kmeans",
        "objective": Objective(1e-6),
        "n_init": 1,
        **settings,
    }
    told: list[Event] = [] if events is None else events
    with ThreadExecutor(n_jobs) as executor:
        return Search(
            lambda rows, weights, listener: Reader(
                SampleSource(rows, weights, missing), executor, listener
            ),
            Settings(k, covariance_type, **arguments),
            known or Start(),
            Informant.among(sample.rows, sample.weights, 60),
            np.random.RandomState(seed),
            Reader(SampleSource(sample.rows, sample.weights, missing), executor, told.append),
        ).run(sample, tol)


def planted(covariance_type: CovarianceType, k: int = 8, n: int = 8000) -> tuple[Array, Parameters]:
    """Clusters on a grid, some of them many times as heavy as others."""
    rng = np.random.default_rng(0)
    means = 12.0 * np.stack([np.arange(k) % 3, np.arange(k) // 3], axis=1)
    weights = 0.6 ** np.arange(k)
    covariances = covariances_for(rng, covariance_type, k, 2)
    truth = Parameters.create(covariance_type, weights / weights.sum(), means, covariances)
    return draw(rng, truth, n), truth


def log_likelihood(rows: Array, parameters: Parameters) -> float:
    return prepare(parameters).statistics(rows).mean_log_likelihood


@pytest.mark.parametrize("covariance_type", TYPES)
def test_planted_clusters_are_found_from_any_seed(covariance_type: CovarianceType) -> None:
    rows, truth = planted(covariance_type)
    for seed in range(4):
        found = search(as_sample(rows), 8, covariance_type, seed=seed)
        distances = np.linalg.norm(found.means[:, np.newaxis] - truth.means, axis=2)
        np.testing.assert_array_less(distances.min(axis=0), 1.0)
        assert log_likelihood(rows, found) > log_likelihood(rows, truth)
        # Converged: EM has next to nothing to add.
        after = em_step(rows, found, reg_covar=1e-6).parameters
        assert log_likelihood(rows, after) - log_likelihood(rows, found) < 1e-6


@pytest.mark.parametrize("covariance_type", TYPES)
def test_threads_do_not_matter(covariance_type: CovarianceType) -> None:
    rows, _ = planted(covariance_type)
    one, other = (
        search(as_sample(rows), 8, covariance_type, seed=1, n_jobs=n_jobs) for n_jobs in (1, 4)
    )
    for name in ("weights", "means", "covariances", "factors"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def without_times(events: list[Event]) -> list[Event]:
    """The events, those of stages without the time that these took."""
    return [
        replace(event, seconds=0.0) if isinstance(event, SampleStage) else event for event in events
    ]


@pytest.mark.parametrize("case", ["overlapping", "apart", "float32", "gaps", "restarts"])
def test_starts_side_by_side_come_to_the_same_with_the_same_reports(
    case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = planted("full", n=4200)[0] if case == "apart" else without_clusters(4200)
    if case == "float32":
        rows = rows.astype(np.float32)
    if case == "gaps":
        rows[::5, 0] = np.nan
    found: list[tuple[Parameters, list[Event]]] = []
    # One after the other, then side by side.
    for least_apart, least_spread, n_jobs in (
        (1 << 40, 1 << 40, 1),
        (1 << 40, 0, 2),
        (0, 1 << 40, 2),
        (0, 1 << 40, 8),
    ):
        monkeypatch.setattr("streamgmm.algorithms.batch.sample_fit._LEAST_APART", least_apart)
        monkeypatch.setattr("streamgmm.algorithms.batch.sample_fit._LEAST_SPREAD", least_spread)
        # Two runs that come to the same are enough here.
        monkeypatch.setattr("streamgmm.algorithms.batch.sample_fit._MANY_VALUES", 1)
        events: list[Event] = []
        end = search(
            as_sample(rows),
            3 if case == "gaps" else 5,
            "full",
            n_jobs=n_jobs,
            tol=1e-2,
            missing="em" if case == "gaps" else "error",
            n_init=2 if case == "restarts" else 1,
            events=events,
        )
        found.append((end, without_times(events)))
    (expected, reports), *others = found
    assert any(isinstance(event, StartDone) for event in reports)
    for own, own_reports in others:
        for name in ("weights", "means", "covariances", "factors"):
            np.testing.assert_array_equal(getattr(own, name), getattr(expected, name))
        assert own_reports == reports
    assert own_threads() == []


class Enough(BaseException):
    """Raised by a listener, as an interrupt is."""


@pytest.mark.parametrize("n_events", [1, 12, 24])
def test_an_interrupt_leaves_no_thread(n_events: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamgmm.algorithms.batch.sample_fit._LEAST_APART", 0)

    class Limited(list[Event]):
        def append(self, event: Event) -> None:
            super().append(event)
            if len(self) == n_events:
                raise Enough

    events = Limited()
    with pytest.raises(Enough):
        search(as_sample(without_clusters(9000)), 8, "full", n_jobs=4, events=events)
    assert len(events) == n_events
    assert own_threads() == []


@pytest.mark.parametrize("n_jobs", [1, 4])
def test_an_error_in_one_start_is_that_of_the_search(
    n_jobs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamgmm.algorithms.batch.sample_fit._LEAST_APART", 0)
    states: list[int] = []

    def failing(rows: Array, weights: Array, *arguments: Any) -> Parameters:
        random = arguments[5]
        states.append(random.get_state()[1][0])
        if len(states) == 3:
            raise ArithmeticError("the third start fails")
        return initialize(rows, weights, *arguments)

    monkeypatch.setattr("streamgmm.algorithms.batch.sample_fit.initialize", failing)
    with pytest.raises(ArithmeticError, match="third"):
        search(as_sample(without_clusters(9000)), 5, "diag", n_jobs=n_jobs)
    # Each start has random numbers of its own.
    assert len(set(states)) == len(states) >= 3
    assert own_threads() == []


def test_weights_count() -> None:
    rows, truth = planted("full")
    # The lightest clusters count most.
    labels = prepare(truth).posterior(rows).labels
    weights = (1.0 / truth.weights)[labels]
    found = search(as_sample(rows, weights), 8, "full")
    np.testing.assert_allclose(found.weights, 1 / 8, atol=0.02)


def without_clusters(n: int) -> Array:
    """Rows on which EM continues for long."""
    return np.random.default_rng(1).uniform(size=(n, 2))


def test_stages_are_told_of() -> None:
    rows = without_clusters(40_000)
    events: list[Event] = []
    search(as_sample(rows), 8, "full", events=events)
    stages = [event for event in events if isinstance(event, SampleStage)]
    assert [stage.name for stage in stages] == ["starts", "split and merge", "EM"]
    assert [stage.n_rows for stage in stages] == [4096, 2 * 4096, 40_000]
    # Six runs of four steps, three of which continue for eight.
    assert stages[0].n_row_visits == 4096 * (6 * 4 + 3 * 8)
    assert all(stage.n_row_visits > stage.n_rows for stage in stages[1:])


@pytest.mark.parametrize(
    "covariance_type, d, n_rows, names",
    [
        # A component is to have three rows for each of its (D + 2) (D + 1) / 2 moments over D.
        ("full", 30, 90, ["starts", "EM"]),
        ("full", 30, 110, ["starts", "split and merge", "EM"]),
        ("diag", 30, 30, ["starts", "split and merge", "EM"]),
    ],
)
def test_few_rows_are_worth_one_start(
    covariance_type: CovarianceType, d: int, n_rows: int, names: list[str]
) -> None:
    rows = np.random.default_rng(1).normal(size=(n_rows, d))
    rows[::2] += 3.0
    events: list[Event] = []
    search(as_sample(rows), 2, covariance_type, events=events)
    stages = [event for event in events if isinstance(event, SampleStage)]
    assert [stage.name for stage in stages] == names
    if len(names) == 2:
        # One run of four steps at most, which continues for eight.
        assert stages[0].n_row_visits <= n_rows * (4 + 8)


def test_runs_end_where_they_have_settled() -> None:
    rows, _ = planted("full")
    events: list[Event] = []
    search(as_sample(rows), 8, "full", events=events)
    starts = next(event for event in events if isinstance(event, SampleStage))
    # Two steps of each show that it gains nothing.
    assert 4096 * (6 + 3) * 2 <= starts.n_row_visits < 4096 * (6 * 4 + 3 * 8)


def test_badly_explained_rows_are_shown_to_every_stage() -> None:
    # A cluster of a two-thousandth of the weight, of whose rows 3000 were taken: of 4096 rows
    # that are drawn by weight it would have two.
    rng = np.random.default_rng(1)
    common, _ = planted("full", k=4, n=40_000)
    rare = rng.normal([-60.0, 60.0], 1.0, size=(3000, 2))
    order = rng.permutation(43_000)
    rows = np.concatenate([common, rare])[order]
    is_rare = order >= 40_000
    weights = np.where(is_rare, 20.0 / 3000, 1.0)
    events: list[Event] = []
    found = search(as_sample(rows, weights, is_rare), 5, "full", events=events)
    stages = [event for event in events if isinstance(event, SampleStage)]
    assert [stage.n_rows for stage in stages] == [4096 + 2048, 2 * 4096 + 3000, 43_000]
    distances = np.linalg.norm(found.means - [-60.0, 60.0], axis=1)
    assert distances.min() < 0.1
    assert found.weights[distances.argmin()] == pytest.approx(20.0 / 40_020, rel=1e-3)


def test_more_starts_are_more_runs() -> None:
    rows = without_clusters(4_200)
    events: list[Event] = []
    search(as_sample(rows), 8, "diag", n_init=3, tol=1e-2, events=events)
    starts = next(event for event in events if isinstance(event, SampleStage))
    assert starts.n_row_visits == 4096 * (18 * 4 + 9 * 8)


def test_what_is_known_is_kept() -> None:
    rows, truth = planted("full")
    events: list[Event] = []
    found = search(
        as_sample(rows),
        8,
        "full",
        known=Start(means=truth.means),
        objective=Objective(1e-6, frozenset({"means"})),
        events=events,
    )
    np.testing.assert_array_equal(found.means, truth.means)
    # Components that are held cannot be moved.
    stages = [event for event in events if isinstance(event, SampleStage)]
    assert [stage.name for stage in stages] == ["starts", "EM"]
    assert naive.distance(found, naive.of(truth)) < 0.3


@pytest.mark.parametrize("covariance_type", TYPES)
def test_rows_with_gaps(covariance_type: CovarianceType) -> None:
    rows, truth = planted(covariance_type, k=4, n=4000)
    rng = np.random.default_rng(1)
    rows[np.arange(0, 4000, 5), rng.integers(0, 2, 800)] = np.nan
    found = search(as_sample(rows), 4, covariance_type, missing="em", tol=1e-4)
    distances = np.linalg.norm(found.means[:, np.newaxis] - truth.means, axis=2)
    np.testing.assert_array_less(distances.min(axis=0), 1.0)


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("n_distinct", [1, 3])
def test_more_components_than_distinct_rows(
    covariance_type: CovarianceType, n_distinct: int
) -> None:
    points = 5.0 * np.random.default_rng(2).normal(size=(n_distinct, 2))
    rows = np.repeat(points, 300, axis=0)
    found = search(as_sample(rows), 5, covariance_type)
    assert np.isfinite(log_likelihood(rows, found))
    places = found.means[found.weights > 1e-3]
    distances = np.linalg.norm(places[:, np.newaxis] - points, axis=2)
    np.testing.assert_array_less(distances.min(axis=1), 1e-2)
    assert found.weights.sum() == pytest.approx(1.0)


def test_fewer_rows_than_components_are_refused() -> None:
    with pytest.raises(DataError):
        search(as_sample(np.random.default_rng(3).normal(size=(3, 2))), 5, "full")


# Rows that inform --------------------------------------------------------------------------------


def test_informing_rows_are_complete_and_from_all_over() -> None:
    rows = np.random.default_rng(4).normal(size=(100_000, 2))
    rows[:50_000:2, 0] = np.nan
    weights = np.arange(1.0, 100_001.0)
    few = Informant.among(rows, weights, 10)
    assert few.rows.shape == (4096, 2)
    many = Informant.among(rows, weights, 200)
    assert many.rows.shape == (10_000, 2)
    assert not np.isnan(many.rows).any()
    np.testing.assert_array_equal(rows[many.weights.astype(int) - 1], many.rows)
    # A third of the complete rows are in the first half.
    assert (many.weights <= 50_000).mean() == pytest.approx(1 / 3, abs=0.01)
    everything = Informant.among(rows[::1000], weights[::1000], 200)
    assert len(everything.rows) == (~np.isnan(rows[::1000])).all(axis=1).sum()


@pytest.mark.parametrize(
    ("n_rows", "expected"), [(1_000, 4_096), (112_000, 7_000), (10_000_000, 50_000)]
)
def test_of_fewer_rows_fewer_inform(n_rows: int, expected: int) -> None:
    rows = np.zeros((60_000, 1))
    found = Informant.among(rows, np.ones(60_000), 1_000, n_rows=n_rows)
    assert len(found.rows) == expected


def test_few_complete_rows_do_not_speak_for_the_others() -> None:
    rows = np.random.default_rng(4).normal(size=(20_000, 2))
    rows[:15_000, 0] = np.nan
    assert len(Informant.among(rows, np.ones(20_000), 10).rows) == 4096
    rows[:15_100, 0] = np.nan
    assert len(Informant.among(rows, np.ones(20_000), 10).rows) == 0


def test_too_few_rows_inform_of_nothing() -> None:
    parameters = random_parameters(np.random.default_rng(5), "full", 3, 2)
    tangent = Tangent(parameters, Frame.of(parameters))
    rows = draw(np.random.default_rng(6), parameters, 18)
    assert Informant(rows[:17], np.ones(17))(tangent, False) is None
    assert Informant(rows, np.ones(18))(tangent, False) is not None
    # Of fewer parameters they tell.
    held = replace(tangent, fixed=("covariances",))
    assert Informant(rows[:9], np.ones(9))(held, False) is not None


def test_informing_rows_may_be_many(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    parameters = random_parameters(rng, "full", 3, 2)
    rows, weights = draw(rng, parameters, 5000), rng.uniform(0.5, 2.0, 5000)
    tangent = Tangent(parameters, Frame.of(parameters))
    vector = rng.normal(size=len(tangent.free))
    whole = Informant(rows, weights)(tangent, False)
    # As many as are looked at at once: here, in blocks.
    monkeypatch.setattr("streamgmm.algorithms.batch.sample_fit._SHARES_AT_ONCE", 1000)
    found = Informant(rows, weights)(tangent, False)
    few = Informant(rows, weights, most_bytes=100_000)(tangent, False)
    assert whole is not None
    assert found is not None
    assert few is not None
    np.testing.assert_allclose(found.product(vector), whole.product(vector), rtol=0, atol=1e-5)
    # Rows of one component are not kept.
    assert len(found.weights) == len(whole.weights) < 5000
    assert 0.2 < len(few.weights) / len(whole.weights) < 0.8
    error = np.linalg.norm(few.product(vector) - whole.product(vector))
    # What fewer rows say differs, but not in size.
    assert error < 0.3 * np.linalg.norm(whole.product(vector))


# Restarts ----------------------------------------------------------------------------------------


def test_restarts_find_an_optimum_that_kmeans_never_leads_to() -> None:
    rows = sklearn.datasets.load_iris().data
    known = sklearn.mixture.GaussianMixture(
        3,
        covariance_type="diag",
        init_params="random_from_data",
        n_init=12,
        random_state=0,
        tol=1e-6,
    ).fit(rows)
    found = search(as_sample(rows), 3, "diag", n_init=6)
    best = len(rows) * log_likelihood(rows, found)
    assert best == pytest.approx(-306.860, abs=2e-3)
    assert best > len(rows) * known.score(rows) - 2e-3


def test_a_restart_that_ends_with_a_degenerate_component_is_not_preferred() -> None:
    # One in five flowers has the same width of petals, 0.2 cm: a component that has all of these
    # and nothing else has a variance that is the ridge.
    rows = sklearn.datasets.load_iris().data[:, 2:]
    one, several = (search(as_sample(rows), 3, "diag", n_init=n_init) for n_init in (1, 4))
    assert several.covariances.min() > 1e-3
    assert log_likelihood(rows, several) > log_likelihood(rows, one) - 1e-6
    narrow = np.isclose(rows[:, 1], 0.2)
    degenerate = em_step(rows, one_more(narrow, rows), reg_covar=1e-6).parameters
    assert log_likelihood(rows, degenerate) > log_likelihood(rows, several)


def one_more(is_first: NDArray[np.bool_], rows: Array) -> Parameters:
    """A mixture of three components, the first of some rows alone."""
    others = rows[~is_first]
    groups = [rows[is_first], others[others[:, 0] < 2.5], others[others[:, 0] >= 2.5]]
    return Parameters.create(
        "diag",
        np.array([len(group) for group in groups]) / len(rows),
        np.array([group.mean(axis=0) for group in groups]),
        np.array([group.var(axis=0) + 1e-6 for group in groups]),
    )


def test_many_components_have_one_start_for_each_restart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("streamgmm.algorithms.batch.budget._MANY_COMPONENTS", 16)
    rows = without_clusters(400)
    visits = {}
    for k, n_init in ((15, 1), (16, 2)):
        events: list[Event] = []
        # With weights that are held there are no splits and merges.
        search(
            as_sample(rows),
            k,
            "spherical",
            n_init=n_init,
            tol=1e-1,
            known=Start(weights=np.full(k, 1.0 / k)),
            objective=Objective(1e-6, frozenset({"weights"})),
            events=events,
        )
        stage = next(event for event in events if isinstance(event, SampleStage))
        visits[k, n_init] = stage.n_row_visits / len(rows)
    assert visits == {(15, 1): 6 * 4 + 3 * 8, (16, 2): 2 * (4 + 8)}


def test_a_single_start_goes_on_with_splits_and_merges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamgmm.algorithms.batch.budget._MANY_COMPONENTS", 16)
    events: list[Event] = []
    search(as_sample(without_clusters(2_000)), 16, "spherical", tol=1e-1, events=events)
    stages = [event for event in events if isinstance(event, SampleStage)]
    assert [stage.name for stage in stages] == ["starts", "split and merge", "EM"]
    assert stages[0].n_row_visits == 4 * stages[0].n_rows


def test_a_long_iteration_reports_that_it_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def steps(seconds: float) -> list[SampleStep]:
        monkeypatch.setattr("streamgmm.algorithms.batch.sample_fit._SECONDS", seconds)
        events: list[Event] = []
        search(as_sample(without_clusters(2_000)), 9, "spherical", tol=1e-1, events=events)
        return [event for event in events if isinstance(event, SampleStep)]

    usual, more = steps(math.inf), steps(0.0)
    for stage in ("starts", "split and merge", "EM"):
        before, after = ([s for s in found if s.stage == stage] for found in (usual, more))
        ended = [step for step in after if math.isfinite(step.log_likelihood)]
        assert ended == [step for step in before if math.isfinite(step.log_likelihood)]
        assert sorted({step.number for step in after} - {0}) == [s.number for s in before]
    assert len(more) > len(usual)
