"""The search over numbers of components and structures, against separate fits."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from sklearn.base import clone
from sklearn.datasets import load_iris

import streamgmm
from streamgmm import GaussianMixture, GaussianMixtureSearch
from streamgmm.algorithms.reads.reader import Reader, StatisticsRequest
from streamgmm.core.frame import Frame
from streamgmm.core.mixtures.splitting import split_component
from streamgmm.core.structures import Array
from streamgmm.errors import (
    DataError,
    FewRowsWarning,
    MemoryLimitError,
    MemoryLimitWarning,
    ParameterError,
)
from streamgmm.events import ReadStarted
from streamgmm.executors.threads import ThreadExecutor
from streamgmm.options import CovarianceType
from streamgmm.sources.array import ArraySource
from tests.core.cases import ALL_TYPES, draw, random_parameters

DATA = Path(__file__).parent / "data"
EXACT = ("log_likelihood", "bic", "aic", "icl", "entropy", "n_parameters")


@pytest.fixture(scope="module")
def rows() -> Array:
    rng = np.random.default_rng(0)
    return rng.normal(size=(600, 2)) + np.array([[0.0, 0.0], [8.0, 0.0], [0.0, 8.0]] * 200)


@pytest.fixture(scope="module")
def search(rows: Array) -> GaussianMixtureSearch:
    return GaussianMixtureSearch(
        [1, 2, 3, 4], covariance_type=["full", "diag", "tied"], random_state=0
    ).fit(rows)


def test_the_best_is_that_of_the_data(search: GaussianMixtureSearch, rows: Array) -> None:
    table, best = search.cv_results_, search.best_index_
    assert search.best_params_["n_components"] == 3
    assert search.best_estimator_ is search.estimators_[best]
    assert search.best_score_ == search.cv_results_["bic"].min() == table["bic"][best]
    assert search.best_score_ == pytest.approx(search.best_estimator_.bic(rows), rel=1e-12)
    assert table["rank_criterion"][best] == 1
    assert not table["degenerate"][best]
    assert search.n_features_in_ == 2
    for name in ("predict", "predict_proba", "score_samples"):
        found = getattr(search, name)(rows)
        np.testing.assert_array_equal(found, getattr(search.best_estimator_, name)(rows))
    assert search.score(rows) == search.best_estimator_.score(rows)


def test_the_table_is_that_of_the_models(search: GaussianMixtureSearch, rows: Array) -> None:
    table = search.cv_results_
    # With one component the covariances of tied and full are the same.
    assert len(search.estimators_) == 11
    assert all(len(column) == 11 for column in table.values())
    for i, model in enumerate(search.estimators_):
        if table["status"][i] != "complete":
            assert table["rank_criterion"][i] == table["rank_criterion"].max()
            continue
        assert table["param_n_components"][i] == model.n_components
        assert table["param_covariance_type"][i] == model.covariance_type
        assert table["bic"][i] == pytest.approx(model.bic(rows), rel=1e-12)
        assert table["aic"][i] == pytest.approx(model.aic(rows), rel=1e-12)
        assert table["icl"][i] == pytest.approx(model.icl(rows), rel=1e-10)
        assert table["log_likelihood"][i] == pytest.approx(600 * model.score(rows), rel=1e-12)
        assert table["n_parameters"][i] == model.n_parameters_
        counts = model.predict_proba(rows).sum(axis=0)
        assert table["smallest_component_rows"][i] == pytest.approx(counts.min(), rel=1e-6)
    assert np.all(table["log_likelihood_std_error"] == 0.0)
    assert np.all(table["predicted_remaining_gain"][table["status"] == "complete"] < 600 * 1e-3)


def test_the_likelihood_does_not_fall_with_components(search: GaussianMixtureSearch) -> None:
    table = search.cv_results_
    for kind in ("full", "diag", "tied"):
        own = (table["param_covariance_type"] == kind) & (table["status"] == "complete")
        assert np.all(np.diff(table["log_likelihood"][own]) >= -1e-6 * 600)


def test_every_model_is_as_good_as_a_fit_of_its_own(
    search: GaussianMixtureSearch, rows: Array
) -> None:
    for model, status in list(zip(search.estimators_, search.cv_results_["status"], strict=True))[
        2::4
    ]:
        alone = GaussianMixture(
            model.n_components, covariance_type=model.covariance_type, random_state=0
        ).fit(rows)
        if status == "complete":
            assert model.lower_bound_ >= alone.lower_bound_ - 2e-3


def test_passes_are_shared(search: GaussianMixtureSearch) -> None:
    assert search.history_[0]["purpose"] == "survey"
    assert search.n_reads_ == len(search.history_) <= 4


def test_statistics_of_a_shared_pass_have_the_bits_of_separate_passes() -> None:
    rng = np.random.default_rng(1)
    mixtures = [random_parameters(rng, kind, k, 3) for kind in ALL_TYPES for k in (1, 4)]
    source = ArraySource(draw(rng, mixtures[0], 5000))
    source.boundaries = np.array([0, 700, 2900, 5000])
    started: list[Any] = []
    with ThreadExecutor(2) as executor:
        reader = Reader(source, executor, started.append)
        requests = [
            StatisticsRequest("x", one, Frame.of(one), 0, np.nan, lambda found: True)
            for one in mixtures
        ]
        together = reader.answered_together(requests)
        n_shared = sum(isinstance(event, ReadStarted) for event in started)
        separate = [reader.answered(request) for request in requests]
    assert n_shared == 1
    for own, other in zip(together, separate, strict=True):
        np.testing.assert_array_equal(own.moments, other.moments)
        np.testing.assert_array_equal(own.scatter, other.scatter)
        assert own.log_likelihood == other.log_likelihood


def test_data_on_disk_weights_and_missing_values(rows: Array, tmp_path: Path) -> None:
    stored = zarr.create_array(tmp_path / "x.zarr", shape=rows.shape, chunks=(100, 2), dtype="f8")
    gaps = np.random.default_rng(2).random(rows.shape) < 0.1
    gaps[:, 0] &= ~gaps[:, 1]
    stored[:] = np.where(gaps, np.nan, rows)
    weights = np.random.default_rng(3).integers(1, 3, len(rows))
    source = streamgmm.open(tmp_path / "x.zarr", missing="em")
    settings: dict[str, Any] = {"covariance_type": "diag", "random_state": 0}
    found = GaussianMixtureSearch([2, 3], **settings).fit(source, sample_weight=weights)
    assert found.best_params_ == {"n_components": 3, "covariance_type": "diag"}
    expected = found.best_estimator_.bic(source, sample_weight=weights)
    assert found.best_score_ == pytest.approx(expected, rel=1e-12)
    again = GaussianMixtureSearch([2, 3], n_jobs=1, **settings).fit(source, sample_weight=weights)
    np.testing.assert_array_equal(again.best_estimator_.means_, found.best_estimator_.means_)
    found.predict(source, out=tmp_path / "labels.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "labels.npy"), found.predict(source))


def test_hopeless_candidates_make_no_pass() -> None:
    """The sample is smaller than the data, so it forecasts with an error."""
    rng = np.random.default_rng(4)
    n = 300_000
    rows = (rng.normal(size=(n, 2)) + 12.0 * rng.integers(0, 2, (n, 2))).astype(np.float32)
    source = ArraySource(rows)
    found = GaussianMixtureSearch([1, 4, 5], covariance_type="spherical", random_state=0).fit(
        source
    )
    table = found.cv_results_
    assert found.best_params_["n_components"] == 4
    assert table["status"][0] == "pruned"
    assert table["predicted_remaining_gain"][0] == np.inf
    assert table["rank_criterion"][0] == table["rank_criterion"].max()
    exact = GaussianMixture(1, covariance_type="spherical").fit(source)
    error = table["log_likelihood_std_error"][0]
    assert error > 0.0
    assert abs(table["log_likelihood"][0] - n * exact.lower_bound_) < 5.0 * error
    assert table["bic"].argmin() == found.best_index_
    # The best is known to a few nats, although tol of all rows is 300 nats.
    assert table["status"][1] == "complete"
    assert table["predicted_remaining_gain"][1] < np.log(n)


def test_rows_of_no_weight_prune_no_candidate_of_small_data(rows: Array) -> None:
    weights = np.arange(len(rows)) % 2
    search = GaussianMixtureSearch([1, 2, 6], covariance_type="diag", random_state=0)
    found = search.fit(rows, sample_weight=weights)
    assert set(found.cv_results_["status"]) == {"complete"}


def test_degenerate_models_are_not_chosen() -> None:
    rng = np.random.default_rng(5)
    # Many rows of one value: a component on them has no width.
    rows = np.vstack([rng.normal(size=(150, 2)), np.full((4, 2), 9.0)])
    found = GaussianMixtureSearch([1, 2, 3], covariance_type="full", random_state=0).fit(rows)
    table = found.cv_results_
    assert table["degenerate"].any()
    assert not table["degenerate"][found.best_index_]
    assert table["bic"].argmin() != found.best_index_


def test_iris_has_the_published_values() -> None:
    """The values of mclust: VVV with 2 components, EEE with 3."""
    rows = load_iris().data
    found = GaussianMixtureSearch(
        [2, 3], covariance_type=("full", "tied"), random_state=0, n_init=2, tol=1e-6
    ).fit(rows)
    bic = bic_of(found)
    assert bic["full", 2] <= 574.02 + 0.02
    assert bic["full", 3] <= 580.84 + 0.02
    assert bic["tied", 3] <= 632.96 + 0.02
    assert found.best_params_ == {"n_components": 2, "covariance_type": "full"}


def test_faithful_has_the_published_values() -> None:
    """The values of mclust: EEE with 3 components is chosen before VVV with 2."""
    rows = np.loadtxt(DATA / "faithful.csv", delimiter=",", skiprows=3)
    found = GaussianMixtureSearch(
        range(1, 5), covariance_type=("full", "tied"), random_state=0
    ).fit(rows)
    bic = bic_of(found)
    assert bic["full", 2] == pytest.approx(2322.192, abs=0.02)
    assert 2314.29 <= bic["tied", 3] <= 2314.316 + 0.02
    assert found.best_params_ == {"n_components": 3, "covariance_type": "tied"}


def test_acidity_has_the_published_values() -> None:
    """The values of mclust's vignette: E with 2 components, ℓ = -185.9493, BIC 392.0723."""
    rows = np.loadtxt(DATA / "acidity.csv", skiprows=3, ndmin=2)
    found = GaussianMixtureSearch(
        range(1, 5), covariance_type=("full", "tied"), random_state=0, tol=1e-6
    ).fit(rows)
    assert found.best_params_ == {"n_components": 2, "covariance_type": "tied"}
    assert bic_of(found)["tied", 2] == pytest.approx(392.0723, abs=0.001)
    assert found.best_estimator_.score(rows) * len(rows) == pytest.approx(-185.9493, abs=0.001)


def test_galaxies_have_the_published_values() -> None:
    """mclust has 446.983 for V with 4 components; V with 3 components is better."""
    rows = np.loadtxt(DATA / "galaxies.csv", skiprows=4, ndmin=2) / 1000.0
    found = GaussianMixtureSearch(
        [3, 4], covariance_type="full", random_state=0, n_init=3, tol=1e-6
    ).fit(rows)
    bic = bic_of(found)
    assert bic["full", 4] <= 446.9829 + 0.02
    assert found.best_params_ == {"n_components": 3, "covariance_type": "full"}
    assert found.best_score_ == bic["full", 3] <= 446.9829


def test_sizes_that_memory_cannot_hold_are_skipped() -> None:
    rows = np.random.default_rng(0).normal(size=(20_000, 60))
    search = GaussianMixtureSearch(
        [1, 20_000], covariance_type="full", memory_limit="2GiB", n_jobs=2, random_state=0
    )
    with pytest.warns(MemoryLimitWarning, match="n_components 20000 skipped"):
        search.fit(rows)
    assert search.cv_results_["param_n_components"].tolist() == [1]
    with pytest.raises(MemoryLimitError):
        search.set_params(n_components=20_000).fit(rows)


def bic_of(found: GaussianMixtureSearch) -> dict[tuple[str, int], float]:
    """The BIC of each candidate, by covariance type and number of components."""
    table = found.cv_results_
    types, sizes = table["param_covariance_type"].tolist(), table["param_n_components"].tolist()
    return dict(zip(zip(types, sizes, strict=True), table["bic"].tolist(), strict=True))


def test_structures_that_coincide_are_fitted_once() -> None:
    rows = np.random.default_rng(6).normal(size=(200, 1))
    found = GaussianMixtureSearch([1, 2], covariance_type=ALL_TYPES, random_state=0).fit(rows)
    table = found.cv_results_
    names = zip(table["param_covariance_type"], table["param_n_components"], strict=True)
    assert sorted(names) == [("full", 1), ("full", 2), ("tied", 2)]


@pytest.mark.parametrize("criterion", ["aic", "icl"])
def test_criteria(rows: Array, criterion: Any) -> None:
    found = GaussianMixtureSearch(
        [2, 3, 4], covariance_type="spherical", criterion=criterion, random_state=2
    ).fit(rows)
    complete = found.cv_results_["status"] == "complete"
    assert found.best_score_ == found.cv_results_[criterion][complete].min()
    assert found.best_score_ == pytest.approx(getattr(found.best_estimator_, criterion)(rows))


@pytest.mark.parametrize("covariance_type", ALL_TYPES)
def test_halves_of_a_component_are_where_it_was(covariance_type: CovarianceType) -> None:
    parameters = random_parameters(np.random.default_rng(7), covariance_type, 3, 2)
    for k in range(3):
        found = split_component(parameters, k)
        found.check()
        assert found.n_components == 4
        assert found.weights[k] == found.weights[-1] == 0.5 * parameters.weights[k]
        middle = 0.5 * (found.means[k] + found.means[-1])
        np.testing.assert_allclose(middle, parameters.means[k], atol=1e-12)
        assert not np.allclose(found.means[k], found.means[-1])


def test_bad_input(rows: Array) -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"n_components": []}, "n_components"),
        ({"n_components": [0, 1]}, "n_components"),
        ({"n_components": [1.5]}, "n_components"),
        ({"covariance_type": []}, "covariance_type"),
        ({"covariance_type": ["full", "round"]}, "covariance_type"),
        ({"criterion": "mdl"}, "criterion"),
        ({"max_iter": 0}, "max_iter"),
        ({"prior": streamgmm.Prior(mean_prior=[0.0])}, "mean_prior"),
    ]
    for settings, message in wrong:
        with pytest.raises(ParameterError, match=message):
            GaussianMixtureSearch(**settings).fit(rows)
    with pytest.raises(DataError, match="n_samples"):
        GaussianMixtureSearch([7]).fit(rows[:5])
    with pytest.warns(FewRowsWarning, match="n_components 50 skipped"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "component")
        GaussianMixtureSearch([1, 50], covariance_type="diag").fit(rows[:20])
    with pytest.raises(MemoryLimitError):
        GaussianMixtureSearch(3, memory_limit="1MiB").fit(rows)


def test_settings_are_those_of_a_mixture() -> None:
    own = GaussianMixtureSearch().get_params()
    theirs = GaussianMixture().get_params()
    shared = own.keys() & theirs.keys() - {"n_components", "covariance_type"}
    assert {name: own[name] for name in shared} == {name: theirs[name] for name in shared}
    left = {"algorithm", "means_init", "precisions_init", "warm_start", "weights_init"}
    assert theirs.keys() - own.keys() == left
    search = GaussianMixtureSearch(range(2, 4), tol=0.1)
    assert clone(search).get_params() == search.get_params()
