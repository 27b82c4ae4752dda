"""The estimator: scikit-learn's results where it has them, and the limits of what it accepts."""

import pickle
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import dask.array
import numpy as np
import pandas
import pytest
import sklearn.mixture
import zarr
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError

from streamgmm import GaussianMixture, load
from streamgmm import open as open_data
from streamgmm.algorithms.reads.reader import Reader
from streamgmm.algorithms.sampling.row_sample import sample_rows
from streamgmm.core.parameters import Parameters
from streamgmm.errors import (
    DataError,
    DegenerateComponentWarning,
    LeftOutRowsWarning,
    MemoryLimitError,
    NotFiniteError,
    OutputError,
    ParameterError,
)
from streamgmm.events import (
    ChunkDone,
    ComponentsDegenerate,
    Event,
    FitStarted,
    ReadDone,
    ReadStarted,
    SampleStage,
    StageStarted,
    StepScored,
    SurveyDone,
)
from streamgmm.executors.threads import ThreadExecutor
from streamgmm.options import CovarianceType
from streamgmm.testing.chunked import ChunkedSource
from tests.core.cases import ALL_TYPES, TYPES, draw, random_parameters

K, D, N = 3, 2, 3000

both_algorithms = pytest.mark.parametrize("algorithm", ["auto", "em"])


def planted(covariance_type: CovarianceType, n: int = N, seed: int = 0) -> NDArray[np.float64]:
    rng = np.random.default_rng(seed)
    return draw(rng, random_parameters(rng, covariance_type, K, D), n)


def start_of(covariance_type: CovarianceType, seed: int = 1) -> dict[str, Any]:
    """Arguments that fix a start."""
    rng = np.random.default_rng(seed)
    parameters = random_parameters(rng, covariance_type, K, D)
    return {
        "n_components": K,
        "covariance_type": covariance_type,
        "weights_init": parameters.weights,
        "means_init": parameters.means,
        "precisions_init": parameters.precisions,
    }


def stop_early(model: Any, X: Any, **arguments: Any) -> Any:
    """Fit, expecting max_iter to end it."""
    with pytest.warns(ConvergenceWarning):
        return model.fit(X, **arguments)


def fit_quietly(model: Any, X: Any, **arguments: Any) -> Any:
    """Fit, whether it converges or not."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(X, **arguments)


def assert_same_parameters(left: Any, right: Any, tolerance: float = 1e-9) -> None:
    for name in ("weights_", "means_", "covariances_", "precisions_", "precisions_cholesky_"):
        np.testing.assert_allclose(
            getattr(left, name), getattr(right, name), rtol=tolerance, atol=tolerance, err_msg=name
        )


# The same start gives scikit-learn's fit


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("max_iter", [1, 5, 30])
def test_iterates_are_sklearns(covariance_type: CovarianceType, max_iter: int) -> None:
    X = planted(covariance_type)
    settings = {**start_of(covariance_type), "max_iter": max_iter, "tol": 0.0}
    ours = stop_early(GaussianMixture(**settings, algorithm="em"), X)
    theirs = stop_early(sklearn.mixture.GaussianMixture(**settings), X)
    assert_same_parameters(ours, theirs)
    np.testing.assert_allclose(ours.lower_bounds_, theirs.lower_bounds_, rtol=0, atol=1e-9)
    assert ours.n_iter_ == theirs.n_iter_ == max_iter
    assert not ours.converged_


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("tol", [1e-2, 1e-5])
def test_convergence_is_sklearns(covariance_type: CovarianceType, tol: float) -> None:
    X = planted(covariance_type)
    settings = {**start_of(covariance_type), "tol": tol, "max_iter": 500}
    ours = GaussianMixture(**settings, algorithm="em").fit(X)
    theirs = sklearn.mixture.GaussianMixture(**settings).fit(X)
    assert ours.n_iter_ == theirs.n_iter_ > 1
    assert ours.converged_ is theirs.converged_ is True
    np.testing.assert_allclose(ours.lower_bounds_, theirs.lower_bounds_, rtol=0, atol=1e-9)
    assert ours.lower_bound_ == ours.lower_bounds_[-1]
    assert_same_parameters(ours, theirs)


# A ridge of 0.5 is more than a hundredth of the variances.
@pytest.mark.filterwarnings("ignore::streamgmm.errors.RidgeWarning")
@pytest.mark.parametrize("reg_covar", [0.0, 0.5])
def test_reg_covar_is_sklearns(reg_covar: float) -> None:
    X = planted("full")
    settings = {**start_of("full"), "reg_covar": reg_covar, "max_iter": 3, "tol": 0.0}
    ours = stop_early(GaussianMixture(**settings, algorithm="em"), X)
    assert_same_parameters(ours, stop_early(sklearn.mixture.GaussianMixture(**settings), X))


# Predictions


@pytest.mark.parametrize("covariance_type", TYPES)
def test_predictions_are_sklearns(covariance_type: CovarianceType) -> None:
    X = planted(covariance_type)
    ours = GaussianMixture(**start_of(covariance_type)).fit(X)
    theirs = ours.to_sklearn()
    fresh = planted(covariance_type, 500, seed=7)
    np.testing.assert_array_equal(ours.predict(fresh), theirs.predict(fresh))
    np.testing.assert_allclose(
        ours.predict_proba(fresh), theirs.predict_proba(fresh), rtol=1e-9, atol=1e-12
    )
    np.testing.assert_allclose(ours.score_samples(fresh), theirs.score_samples(fresh), rtol=1e-11)
    assert ours.score(fresh) == pytest.approx(theirs.score(fresh), rel=1e-12)
    assert ours.aic(fresh) == pytest.approx(theirs.aic(fresh), rel=1e-12)
    assert ours.bic(fresh) == pytest.approx(theirs.bic(fresh), rel=1e-12)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_sklearn_round_trip(covariance_type: CovarianceType) -> None:
    X = planted(covariance_type)
    theirs = sklearn.mixture.GaussianMixture(K, covariance_type=covariance_type, random_state=0)
    theirs.fit(X)
    ours = GaussianMixture.from_sklearn(theirs)
    np.testing.assert_array_equal(ours.predict(X), theirs.predict(X))
    np.testing.assert_allclose(ours.score_samples(X), theirs.score_samples(X), rtol=1e-11)
    assert ours.n_reads_ == 0
    back = ours.to_sklearn()
    assert back.get_params() == theirs.get_params()
    for name, value in vars(theirs).items():
        if name.endswith("_"):
            np.testing.assert_array_equal(getattr(back, name), value, err_msg=name)


def test_conversion_copies() -> None:
    ours = GaussianMixture(K, random_state=0).fit(planted("full"))
    theirs = ours.to_sklearn()
    theirs.means_[:] = 0.0
    theirs.lower_bounds_.append(0.0)
    assert np.abs(ours.means_).max() > 0.0
    assert len(ours.lower_bounds_) == ours.n_iter_


def test_feature_names_survive_conversion() -> None:
    frame = pandas.DataFrame(planted("full"), columns=["a", "b"])
    theirs = GaussianMixture(K, random_state=0).fit(frame).to_sklearn()
    assert theirs.feature_names_in_.tolist() == ["a", "b"]


@pytest.mark.parametrize("covariance_type", TYPES)
def test_samples_have_the_moments_of_the_mixture(covariance_type: CovarianceType) -> None:
    model = GaussianMixture(**start_of(covariance_type)).fit(planted(covariance_type))
    model.random_state = 5
    rows, labels = model.sample(40_000)
    assert rows.shape == (40_000, D)
    assert np.all(np.diff(labels) >= 0)
    for k in range(K):
        own = rows[labels == k]
        share = len(own) / len(rows)
        assert share == pytest.approx(model.weights_[k], abs=0.015)
        covariance = {
            "full": lambda k: model.covariances_[k],
            "tied": lambda k: model.covariances_,
            "diag": lambda k: np.diag(model.covariances_[k]),
            "spherical": lambda k: model.covariances_[k] * np.eye(D),
        }[covariance_type](k)
        deviations = np.sqrt(np.diag(covariance))
        # Five standard errors.
        assert np.all(
            np.abs(own.mean(axis=0) - model.means_[k]) < 5 * deviations / np.sqrt(len(own))
        )
        error = (np.cov(own.T) - covariance) / np.outer(deviations, deviations)
        assert np.all(np.abs(error) < 5 * np.sqrt(2 / len(own)))


def test_sample_obeys_random_state_and_refuses_none() -> None:
    model = GaussianMixture(K, random_state=3).fit(planted("full"))
    np.testing.assert_array_equal(model.sample(20)[0], model.sample(20)[0])
    with pytest.raises(ParameterError, match="at least 1"):
        model.sample(0)


METHODS = ("predict", "predict_proba", "score_samples")


@pytest.mark.parametrize("covariance_type", ALL_TYPES)
def test_few_rows_in_memory_are_predicted_at_once_and_alike(
    covariance_type: CovarianceType, monkeypatch: pytest.MonkeyPatch
) -> None:
    X = planted("full")
    model = GaussianMixture(K, covariance_type=covariance_type, algorithm="em", max_iter=2)
    model = fit_quietly(model, X)
    with_events = clone(model).set_params(callbacks=[lambda event: None])
    vars(with_events).update({k: v for k, v in vars(model).items() if k.endswith("_")})
    frame = pandas.DataFrame(X[:9], columns=["a", "b"], index=np.arange(9) * 2)
    all_rows = (X[:1], X[:700], X[:3].astype(np.float32), X[:3].astype(int), X.tolist())

    def values(one: GaussianMixture) -> list[Any]:
        found = [getattr(one, method)(rows) for method in METHODS for rows in all_rows]
        with pytest.warns(UserWarning, match="feature names"):
            return [*found, one.predict(frame).rename(None).reset_index().to_numpy()]

    expected = values(with_events)
    with monkeypatch.context() as patched:
        # No threads, no sink.
        patched.setattr("streamgmm.estimators.row_estimator.open_executor", None)
        found = values(model)
    for own, other in zip(found, expected, strict=True):
        assert own.dtype == other.dtype
        np.testing.assert_array_equal(own, other)


def test_rows_that_are_predicted_at_once_are_checked_as_all_are() -> None:
    X = planted("full")
    model = fit_quietly(GaussianMixture(K, algorithm="em", max_iter=1), X)
    with pytest.raises(
        NotFiniteError, match=r"1 value\(s\) in 1 of 2 rows; the first: row 1 column 0"
    ):
        model.predict([[0.0, 1.0], [np.nan, 1.0]])
    with pytest.raises(DataError, match="features"):
        model.predict(X[:1, :1])
    for name, value in (("n_jobs", 0), ("executor", "none"), ("callbacks", [1])):
        with pytest.raises(ParameterError, match=name.rstrip("s")):
            clone_fitted(model).set_params(**{name: value}).predict(X[:1])
    with pytest.raises(MemoryLimitError):
        clone_fitted(model).set_params(memory_limit=1).predict(X[:1])


def clone_fitted(model: GaussianMixture) -> Any:
    return pickle.loads(pickle.dumps(model))


@pytest.mark.parametrize("covariance_type", ["full", "diag"])
def test_predictions_follow_attributes_that_are_changed(covariance_type: CovarianceType) -> None:
    X = planted("full")[:5]
    model = GaussianMixture(K, covariance_type=covariance_type, algorithm="em", max_iter=1)
    model = fit_quietly(model, planted("full"))
    attributes = {*model.__dict__}
    before = model.predict_proba(X)
    kept = model.weights_.copy()
    model.weights_[:] = [0.98, 0.01, 0.01]
    changed = model.predict_proba(X)
    assert not np.allclose(before, changed)
    theirs = model.to_sklearn().predict_proba(X)
    np.testing.assert_allclose(changed, theirs, rtol=1e-9, atol=1e-12)
    model.weights_ = kept
    np.testing.assert_array_equal(model.predict_proba(X), before)
    assert model.__dict__.keys() == attributes


def test_fit_predict_is_fit_then_predict() -> None:
    X = planted("full")
    labels = GaussianMixture(K, random_state=0).fit_predict(X)
    np.testing.assert_array_equal(labels, GaussianMixture(K, random_state=0).fit(X).predict(X))


@pytest.mark.parametrize("method", ["predict", "predict_proba", "score", "score_samples", "bic"])
def test_unfitted_is_an_error(method: str) -> None:
    with pytest.raises(NotFittedError):
        getattr(GaussianMixture(), method)(planted("full"))


@pytest.mark.parametrize("fixed", [("weights",), ("means",), ("means", "covariances")])
def test_bic_counts_free_parameters_only(fixed: tuple[str, ...]) -> None:
    X = planted("full")
    model = GaussianMixture(**start_of("full"), fixed=fixed).fit(X)
    sizes = {"weights": K - 1, "means": K * D, "covariances": K * D * (D + 1) // 2}
    n_free = sum(size for name, size in sizes.items() if name not in fixed)
    deviance = -2 * len(X) * model.score(X)
    assert model.bic(X) == pytest.approx(deviance + n_free * np.log(len(X)), rel=1e-13)
    assert model.aic(X) == pytest.approx(deviance + 2 * n_free, rel=1e-13)


# Row weights


@both_algorithms
@pytest.mark.parametrize("covariance_type", TYPES)
def test_integer_weights_are_repeated_rows(algorithm: str, covariance_type: CovarianceType) -> None:
    X = planted(covariance_type, 1000)
    weights = np.random.default_rng(3).integers(0, 4, len(X))
    settings = {**start_of(covariance_type), "algorithm": algorithm, "max_iter": 10, "tol": 0.0}
    weighted = fit_quietly(GaussianMixture(**settings), X, sample_weight=weights)
    repeated = fit_quietly(GaussianMixture(**settings), np.repeat(X, weights, axis=0))
    assert_same_parameters(weighted, repeated, 1e-10)
    np.testing.assert_allclose(weighted.lower_bounds_, repeated.lower_bounds_, rtol=0, atol=1e-10)
    assert weighted.score(X, sample_weight=weights) == pytest.approx(
        weighted.score(np.repeat(X, weights, axis=0)), abs=1e-12
    )


@both_algorithms
@pytest.mark.parametrize("init_params", ["kmeans", "k-means++", "random", "random_from_data"])
def test_scaled_weights_change_nothing(algorithm: str, init_params: str) -> None:
    X = planted("full")
    weights = np.random.default_rng(0).uniform(0.5, 2.0, len(X))
    one, other = (
        GaussianMixture(K, random_state=0, init_params=init_params, algorithm=algorithm).fit(
            X, sample_weight=w
        )
        for w in (weights, 1024.0 * weights)
    )
    assert_same_parameters(one, other, 1e-10)


def test_weights_may_be_a_series_and_rows_a_frame() -> None:
    X = planted("full")
    frame = pandas.DataFrame(X, columns=["a", "b"], index=np.arange(len(X))[::-1])
    weights = pandas.Series(np.random.default_rng(0).uniform(size=len(X)), index=frame.index)
    ours = GaussianMixture(**start_of("full")).fit(frame, sample_weight=weights)
    plain = GaussianMixture(**start_of("full")).fit(X, sample_weight=weights.to_numpy())
    assert_same_parameters(ours, plain, 0.0)
    assert ours.feature_names_in_.tolist() == ["a", "b"]
    with pytest.warns(UserWarning, match="does not have valid feature names"):
        ours.predict(X)
    with pytest.raises(ValueError, match="feature names should match"):
        ours.predict(frame.rename(columns={"a": "c"}))
    ours.fit(X)
    assert not hasattr(ours, "feature_names_in_")


@both_algorithms
@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (-np.ones(N), "[Nn]egative"),
        (np.full(N, np.nan), "NaN"),
        (np.full(N, np.inf), "inf"),
        (np.zeros(N), "weight"),
        (np.ones(N - 1), str(N - 1)),
        (np.ones((N, 2)), "1D|1-D|shape"),
    ],
)
@pytest.mark.parametrize("kind", ["ndarray", "zarr", "dask"])
def test_bad_weights(algorithm: str, weights: NDArray[np.float64], message: str, kind: str) -> None:
    X = planted("full")
    data = {
        "ndarray": lambda: X,
        "zarr": lambda: zarr.array(X),
        "dask": lambda: dask.array.from_array(X, chunks=(1000, D)),
    }[kind]()
    for settings in ({"n_components": K, "random_state": 0}, start_of("full")):
        with pytest.raises(ValueError, match=message):
            GaussianMixture(**settings, algorithm=algorithm).fit(data, sample_weight=weights)


# Starts


@both_algorithms
@pytest.mark.parametrize("init_params", ["kmeans", "k-means++", "random_from_data"])
@pytest.mark.parametrize("covariance_type", TYPES)
def test_starts_find_separate_clusters(
    algorithm: str, covariance_type: CovarianceType, init_params: str
) -> None:
    rng = np.random.default_rng(0)
    centres = np.array([[0.0, 0.0], [30.0, 0.0], [0.0, 30.0]])
    X = centres[rng.integers(0, 3, 900)] + rng.normal(size=(900, 2))
    model = GaussianMixture(
        3,
        covariance_type=covariance_type,
        init_params=init_params,
        random_state=0,
        n_init=5,
        algorithm=algorithm,
    ).fit(X)
    found = model.means_[np.argsort(model.means_ @ [1.0, 2.0])]
    np.testing.assert_allclose(found, centres, atol=0.3)


def test_random_responsibilities_start_at_the_mean() -> None:
    X = planted("full")
    model = stop_early(
        GaussianMixture(
            K, init_params="random", random_state=0, max_iter=1, tol=0.0, algorithm="em"
        ),
        X,
    )
    np.testing.assert_allclose(model.means_, np.tile(X.mean(axis=0), (K, 1)), atol=0.3)
    assert len(np.unique(model.means_[:, 0])) == K


def test_the_best_start_is_kept() -> None:
    X = planted("full", 400)
    settings = {
        "n_components": 6,
        "init_params": "random_from_data",
        "max_iter": 40,
        "algorithm": "em",
    }
    events: list[Event] = []
    model = GaussianMixture(**settings, n_init=6, random_state=0, callbacks=[events.append])
    # Whether the best start converges is not what is tested.
    fit_quietly(model, X)
    reads = [event for event in events if isinstance(event, ReadDone) and event.iteration]
    ends = [
        read
        for read, after in zip(reads, [*reads[1:], None], strict=True)
        if after is None or after.iteration == 1
    ]
    assert len(ends) == 6
    bounds = [end.log_likelihood for end in ends]
    assert len(set(bounds)) > 1
    assert model.lower_bound_ == max(bounds)
    assert model.n_iter_ == ends[int(np.argmax(bounds))].iteration


def test_partly_given_starts() -> None:
    X = planted("full")
    given = start_of("full")
    del given["precisions_init"], given["weights_init"]
    model = GaussianMixture(**given, random_state=0, max_iter=0, algorithm="em").fit(X)
    np.testing.assert_array_equal(model.means_, given["means_init"])
    assert model.covariances_.shape == (K, D, D)


@both_algorithms
def test_given_means_say_which_component_is_which(algorithm: str) -> None:
    rng = np.random.default_rng(0)
    centres = np.array([[30.0, 0.0], [0.0, 0.0], [0.0, 30.0]])
    X = centres[rng.integers(0, 3, 900)] + rng.normal(size=(900, 2))
    model = GaussianMixture(3, means_init=centres, random_state=0, algorithm=algorithm).fit(X)
    np.testing.assert_allclose(model.means_, centres, atol=0.3)


def test_no_reads_after_the_survey_leave_what_the_sample_says() -> None:
    X = planted("full")
    model = GaussianMixture(K, random_state=0, max_iter=0).fit(X)
    assert (model.n_iter_, model.n_reads_, model.lower_bounds_) == (0, 1, [])
    assert model.lower_bound_ == -np.inf
    assert not model.converged_
    # All rows are in the sample.
    assert model.score(X) > GaussianMixture(K, random_state=0, algorithm="em").fit(X).score(X)


@both_algorithms
def test_no_iterations_give_the_start(algorithm: str) -> None:
    settings = start_of("full")
    model = GaussianMixture(**settings, max_iter=0, algorithm=algorithm).fit(planted("full"))
    np.testing.assert_array_equal(model.means_, settings["means_init"])
    np.testing.assert_array_equal(model.weights_, settings["weights_init"])
    np.testing.assert_allclose(model.precisions_, settings["precisions_init"], rtol=1e-12)
    assert (model.n_iter_, model.n_reads_, model.lower_bounds_) == (0, 0, [])
    assert model.lower_bound_ == -np.inf
    assert not model.converged_
    assert model.predict(planted("full", 10)).shape == (10,)


@pytest.mark.parametrize("random_start", [False, True])
def test_warm_start_goes_on(random_start: bool) -> None:
    X = planted("full")
    settings = {"n_components": K, "random_state": 0} if random_start else start_of("full")
    settings["algorithm"] = "em"
    whole = stop_early(GaussianMixture(**settings, max_iter=7, tol=0.0), X)
    parts = stop_early(GaussianMixture(**settings, max_iter=3, tol=0.0, warm_start=True), X)
    first_bounds = parts.lower_bounds_
    parts.set_params(max_iter=4)
    stop_early(parts, X)
    assert_same_parameters(parts, whole, 1e-12)
    np.testing.assert_allclose(first_bounds + parts.lower_bounds_, whole.lower_bounds_, rtol=1e-12)


def test_warm_start_needs_no_survey() -> None:
    X = planted("full")
    model = fit_quietly(GaussianMixture(K, random_state=0, max_iter=1, warm_start=True), X)
    before = model.lower_bound_
    model.set_params(max_iter=30, tol=1e-8)
    model.fit(X)
    assert {read["purpose"] for read in model.history_} == {"iteration"}
    # Parameters that are kept were read with, so the next fit begins with what this one ended.
    assert model.lower_bounds_[0] == before
    assert np.all(np.diff(model.lower_bounds_) > -1e-12)


@both_algorithms
def test_warm_start_of_a_converged_fit_soon_stops(algorithm: str) -> None:
    X = planted("full")
    model = GaussianMixture(K, random_state=0, warm_start=True, algorithm=algorithm).fit(X)
    before = model.lower_bound_
    model.fit(X)
    # The gain of one step tells plain EM; what remains takes two to predict.
    assert model.n_iter_ <= {"em": 1, "auto": 2}[algorithm]
    assert model.converged_
    assert model.lower_bound_ >= before


def test_warm_start_with_other_settings_is_an_error() -> None:
    X = planted("full")
    model = GaussianMixture(K, random_state=0, warm_start=True).fit(X)
    with pytest.raises(ValueError, match=r"n_components|warm_start"):
        clone_with(model, n_components=K + 1).fit(X)
    with pytest.raises(ValueError, match=r"covariance_type|warm_start|shape"):
        clone_with(model, covariance_type="diag").fit(X)
    with pytest.raises(ValueError, match="feature"):
        clone_with(model).fit(np.hstack([X, X]))


def clone_with(model: GaussianMixture, **settings: Any) -> GaussianMixture:
    """A fitted copy with other settings."""
    copy: GaussianMixture = pickle.loads(pickle.dumps(model))
    return copy.set_params(**settings)


# Parameters held fixed


@both_algorithms
@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("fixed", ["weights", "means", "covariances"])
def test_fixed_parameters_stay(algorithm: str, covariance_type: CovarianceType, fixed: str) -> None:
    X = planted(covariance_type)
    start = start_of(covariance_type)
    model = GaussianMixture(**start, fixed=[fixed], algorithm=algorithm).fit(X)
    free = GaussianMixture(**start, algorithm=algorithm).fit(X)
    names = {"weights": "weights_init", "means": "means_init", "covariances": "precisions_init"}
    for name, argument in names.items():
        attribute = "precisions_" if name == "covariances" else f"{name}_"
        if name == fixed:
            np.testing.assert_allclose(getattr(model, attribute), start[argument], rtol=1e-12)
        else:
            assert np.abs(getattr(model, attribute) - start[argument]).max() > 1e-3
        assert np.abs(getattr(free, attribute) - start[argument]).max() > 1e-3
    assert np.all(np.diff(model.lower_bounds_) > -1e-6)


@both_algorithms
def test_fixed_means_give_covariances_about_them(algorithm: str) -> None:
    X = planted("full")
    mean = np.array([[1.0, -2.0]])
    model = GaussianMixture(
        means_init=mean, fixed=("means",), reg_covar=0.0, algorithm=algorithm
    ).fit(X)
    np.testing.assert_array_equal(model.means_, mean)
    np.testing.assert_allclose(model.covariances_[0], (X - mean).T @ (X - mean) / N, rtol=1e-12)


@pytest.mark.parametrize("fixed", ["means", "covariances"])
def test_fixed_needs_a_value(fixed: str) -> None:
    with pytest.raises(ParameterError, match=f"fixed holds '{fixed}', so .*_init must be given"):
        GaussianMixture(K, fixed=(fixed,)).fit(planted("full"))


@pytest.mark.parametrize("fixed", [("mean",), "means"])
def test_fixed_names_are_checked(fixed: Any) -> None:
    with pytest.raises(ValueError, match="fixed"):
        GaussianMixture(**start_of("full"), fixed=fixed).fit(planted("full"))


# Account of reads


@both_algorithms
def test_reads_are_counted(algorithm: str) -> None:
    X = planted("full")
    source = ChunkedSource(X, 500)
    model = GaussianMixture(K, random_state=0, n_init=2, algorithm=algorithm).fit(source)
    assert source.n_reads == model.n_reads_ * source.n_chunks
    assert len(model.history_) == model.n_reads_
    purposes = [read["purpose"] for read in model.history_]
    assert purposes[0] == {"em": "sample", "auto": "survey"}[algorithm]
    assert set(purposes[1:]) == {"iteration"}
    assert [read["number"] for read in model.history_] == list(range(1, model.n_reads_ + 1))
    assert all(read["n_rows"] == N for read in model.history_)
    before = source.n_reads
    model.score(source)
    assert source.n_reads == before + source.n_chunks


def test_a_pilot_counts_as_the_part_that_it_reads() -> None:
    X = planted("full", 80_000)
    source = ChunkedSource(X, 50)
    model = GaussianMixture(K, random_state=0).fit(source)
    pilot, survey, *iterations = model.history_
    assert (pilot["purpose"], survey["purpose"]) == ("pilot", "survey")
    assert 0.0 < pilot["part"] < 1.0 / 12.0
    assert all(read["part"] == 1.0 for read in (survey, *iterations))
    assert len(iterations) == model.n_iter_
    assert source.n_reads == pytest.approx(model.n_reads_ * source.n_chunks)


def test_the_survey_may_read_a_part_of_the_data() -> None:
    X = planted("full", 80_000)
    source = ChunkedSource(X, 100)
    model = GaussianMixture(K, random_state=0, survey_part=0.3).fit(source)
    survey = next(read for read in model.history_ if read["purpose"] == "survey")
    assert survey["part"] == pytest.approx(0.3, abs=0.01)
    assert source.n_reads == pytest.approx(model.n_reads_ * source.n_chunks)
    whole = GaussianMixture(K, random_state=0).fit(X)
    assert model.lower_bound_ == pytest.approx(whole.lower_bound_, abs=1e-3)


def test_the_log_likelihood_is_that_of_the_parameters_or_of_those_before() -> None:
    X = planted("full")
    model = stop_early(GaussianMixture(**start_of("full"), max_iter=3, tol=0.0), X)
    assert model.lower_bound_ == pytest.approx(model.score(X), abs=1e-12)
    model.set_params(algorithm="em")
    stop_early(model, X)
    assert model.lower_bound_ < model.score(X) - 1e-6


def test_a_given_start_needs_no_read() -> None:
    source = ChunkedSource(planted("full"), 500)
    model = stop_early(
        GaussianMixture(**start_of("full"), max_iter=4, tol=0.0, algorithm="em"), source
    )
    assert model.n_reads_ == 4
    assert source.n_reads == 4 * source.n_chunks
    assert [read["iteration"] for read in model.history_] == [1, 2, 3, 4]
    assert [read["log_likelihood"] for read in model.history_] == model.lower_bounds_
    gains = [read["gain"] for read in model.history_]
    np.testing.assert_allclose(gains[1:], np.diff(model.lower_bounds_), rtol=0, atol=1e-15)


@both_algorithms
def test_callbacks_hear_of_everything(algorithm: str) -> None:
    events: list[Event] = []
    others: list[Event] = []
    source = ChunkedSource(planted("full"), 700)
    model = GaussianMixture(
        K,
        random_state=0,
        callbacks=(events.append, others.append),
        n_jobs=2,
        algorithm=algorithm,
    )
    model.fit(source)
    assert events == others
    size = events.pop(0)
    assert isinstance(size, FitStarted)
    assert (size.n_rows, size.n_features, size.n_components) == (N, D, K)
    assert size.n_parameters == model.fitted_model_.parameters.n_parameters()
    assert (size.n_bytes, size.n_operations) == (N * D * 8, 4 * N * K * (1 + D + D * (D + 1) // 2))
    assert 0 < size.work_bytes < 1 << 20
    if algorithm == "auto":
        # Between the survey and the first iteration.
        first = next(i for i, event in enumerate(events) if isinstance(event, SurveyDone))
        last = max(i for i, event in enumerate(events) if isinstance(event, SampleStage)) + 1
        surveyed, *work = events[first:last]
        del events[first:last]
        stages = [event for event in work if isinstance(event, SampleStage)]
        assert isinstance(surveyed, SurveyDone)
        assert (surveyed.n_rows, surveyed.n_sampled, surveyed.shortfall) == (N, N, 0.0)
        assert [stage.name for stage in stages] == ["starts", "split and merge", "EM"]
        assert all(stage.n_rows == N and stage.n_row_visits > N for stage in stages)
        begun = [(stage.name, stage.n_rows) for stage in work if isinstance(stage, StageStarted)]
        assert begun == [(stage.name, stage.n_rows) for stage in stages]
        # How far to go may be said between iterations.
        events = [event for event in events if not isinstance(event, StepScored)]
    starts = [i for i, event in enumerate(events) if isinstance(event, ReadStarted)]
    ends = [*starts[1:], len(events)]
    assert starts[0] == 0
    assert len(starts) == model.n_reads_
    for number, (begin, end) in enumerate(zip(starts, ends, strict=True), start=1):
        begun, *chunks, done = events[begin:end]
        assert isinstance(begun, ReadStarted)
        assert isinstance(done, ReadDone)
        assert begun.number == done.number == number
        assert begun.purpose == done.purpose
        assert (begun.n_rows, begun.n_chunks, begun.n_bytes) == (N, 5, N * D * 8)
        assert all(isinstance(chunk, ChunkDone) for chunk in chunks)
        assert sum(chunk.n_rows for chunk in chunks) == N
        assert sum(chunk.n_bytes for chunk in chunks) == N * D * 8


def test_callbacks_may_be_one_function() -> None:
    events: list[Event] = []
    GaussianMixture(callbacks=events.append).fit(planted("full", 100))
    assert events


def test_an_error_in_a_callback_ends_the_fit() -> None:
    def refuse(event: Event) -> None:
        raise LookupError("enough")

    with pytest.raises(LookupError, match="enough"):
        GaussianMixture(callbacks=[refuse]).fit(planted("full", 100))


@pytest.mark.parametrize(("verbose", "interval"), [(0, 1), (1, 1), (1, 3), (2, 3)])
def test_verbose_writes_lines_to_stderr(
    verbose: int, interval: int, capfd: pytest.CaptureFixture[str]
) -> None:
    settings = {**start_of("full"), "max_iter": 7, "tol": 0.0, "algorithm": "em"}
    stop_early(
        GaussianMixture(**settings, verbose=verbose, verbose_interval=interval), planted("full")
    )
    out, err = capfd.readouterr()
    assert out == ""
    reads = 7 if verbose == 2 or interval == 1 else 3
    # Besides, one line on the whole fit.
    assert len(err.splitlines()) == (1 + reads if verbose else 0)


# Degenerate data


@both_algorithms
@pytest.mark.parametrize("covariance_type", TYPES)
def test_components_without_mass(algorithm: str, covariance_type: CovarianceType) -> None:
    X = planted(covariance_type)
    settings = start_of(covariance_type)
    settings["means_init"] = settings["means_init"].copy()
    settings["means_init"][1] = 1e8
    events: list[Event] = []
    with pytest.warns(DegenerateComponentWarning, match=r"component\(s\) 1 "):
        model = GaussianMixture(**settings, callbacks=[events.append], algorithm=algorithm).fit(X)
    assert model.weights_[1] == 0.0
    np.testing.assert_array_equal(model.means_[1], [1e8, 1e8])
    assert model.weights_.sum() == pytest.approx(1.0)
    degenerate = [event for event in events if isinstance(event, ComponentsDegenerate)]
    assert [event.empty for event in degenerate] == [(1,)]
    assert degenerate[0].number == 1
    assert set(model.predict(X)) <= {0, 2}
    assert np.all(np.isfinite(model.score_samples(X)))
    assert np.all(model.predict_proba(X)[:, 1] == 0.0)
    rows, labels = model.sample(50)
    assert 1 not in labels
    assert np.all(np.isfinite(rows))


@both_algorithms
@pytest.mark.parametrize("covariance_type", ["full", "diag", "spherical"])
def test_collapsed_components(algorithm: str, covariance_type: CovarianceType) -> None:
    rng = np.random.default_rng(0)
    X = np.vstack([rng.normal(size=(300, D)), np.full((100, D), 20.0)])
    with pytest.warns(DegenerateComponentWarning, match="collapsed"):
        model = GaussianMixture(
            2,
            covariance_type=covariance_type,
            reg_covar=0.0,
            random_state=0,
            algorithm=algorithm,
        ).fit(X)
    narrow = int(np.argmax(model.means_[:, 0]))
    np.testing.assert_allclose(model.means_[narrow], 20.0, rtol=1e-9)
    np.testing.assert_allclose(model.weights_[narrow], 0.25, rtol=1e-6)
    assert np.all(np.isfinite(model.score_samples(X)))


@both_algorithms
@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("reg_covar", [0.0, 1e-6])
@pytest.mark.parametrize(
    "X",
    [
        pytest.param(np.full((50, 2), 3.0), id="all rows equal"),
        pytest.param(np.zeros((50, 2)), id="all rows 0"),
        pytest.param(np.c_[np.arange(50.0), np.full(50, 7.0)], id="a constant column"),
        pytest.param(np.arange(50.0)[:, np.newaxis], id="one column"),
        pytest.param(np.eye(2) * 5, id="two rows, two components"),
        pytest.param(np.c_[np.arange(50.0), 2 * np.arange(50.0)], id="collinear columns"),
        pytest.param(np.c_[np.arange(50.0), np.arange(50.0)[::-1]] + 1e15, id="far away"),
    ],
)
@pytest.mark.parametrize("init_params", ["kmeans", "k-means++", "random", "random_from_data"])
# Two rows are fewer than the parameters.
@pytest.mark.filterwarnings("ignore::streamgmm.errors.FewRowsWarning")
def test_degenerate_data_end_well(
    algorithm: str,
    covariance_type: CovarianceType,
    reg_covar: float,
    X: NDArray[np.float64],
    init_params: str,
) -> None:
    model = GaussianMixture(
        2,
        covariance_type=covariance_type,
        reg_covar=reg_covar,
        init_params=init_params,
        random_state=0,
        max_iter=20,
        algorithm=algorithm,
    )
    with warnings.catch_warnings():
        # What is warned of is tested above; here any data end in a usable model.
        warnings.simplefilter("ignore", DegenerateComponentWarning)
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(X)
    assert model.weights_.sum() == pytest.approx(1.0)
    for name in ("means_", "covariances_", "precisions_", "precisions_cholesky_"):
        assert np.all(np.isfinite(getattr(model, name))), name
    scores = model.score_samples(X)
    assert np.all(np.isfinite(scores))
    assert np.all(np.abs(model.predict_proba(X).sum(axis=1) - 1.0) < 1e-9)


def hard_data(kind: str) -> NDArray[np.float64]:
    rng = np.random.default_rng(0)
    shape = (3000, 3)
    return {
        "mostly zeros": lambda: np.where(rng.random(shape) < 0.97, 0.0, rng.normal(size=shape)),
        "zeros and ones": lambda: rng.integers(0, 2, shape).astype(float),
        "tails without moments": lambda: rng.standard_t(1, size=shape) ** 5,
        "units far apart": lambda: rng.normal(size=shape) * [1e-100, 1.0, 1e100],
        "one direction": lambda: rng.normal(size=(3000, 1)) * [1e-9, 1.0, 1e9],
    }[kind]()


@both_algorithms
@pytest.mark.parametrize("covariance_type", ["full", "tied", "diag"])
@pytest.mark.parametrize("init_params", ["kmeans", "random"])
@pytest.mark.parametrize(
    "kind",
    ["mostly zeros", "zeros and ones", "tails without moments", "units far apart", "one direction"],
)
def test_hard_data_end_well(
    algorithm: str, covariance_type: CovarianceType, init_params: str, kind: str
) -> None:
    model = GaussianMixture(
        8,
        covariance_type=covariance_type,
        reg_covar=0.0,
        init_params=init_params,
        random_state=0,
        max_iter=15,
        algorithm=algorithm,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DegenerateComponentWarning)
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(hard_data(kind))
    assert np.isfinite(model.lower_bound_)
    for name in ("means_", "covariances_", "precisions_"):
        assert np.all(np.isfinite(getattr(model, name))), name


@both_algorithms
# Components of one row each are what is asked for.
@pytest.mark.filterwarnings("ignore::streamgmm.errors.FewRowsWarning")
@pytest.mark.filterwarnings("ignore::streamgmm.errors.DegenerateComponentWarning")
def test_as_many_components_as_rows(algorithm: str) -> None:
    X = np.random.default_rng(0).normal(size=(5, 2)) * 10
    model = GaussianMixture(5, random_state=0, algorithm=algorithm).fit(X)
    assert len(set(model.predict(X))) == 5
    np.testing.assert_allclose(model.weights_, 0.2)


def two_groups(n: int, d: int = 3) -> NDArray[np.float64]:
    rng = np.random.default_rng(1)
    return rng.normal(size=(n, d)) + 6.0 * rng.integers(0, 2, (n, 1))


# More rows than a sample takes, so that pilot and survey see them too.
MANY = 40_000


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize(
    "X",
    [
        pytest.param(np.full((MANY, 3), 0.1), id="all rows equal"),
        pytest.param(np.resize(two_groups(3), (MANY, 3)), id="fewer distinct rows than components"),
        pytest.param(np.where([0, 1, 0], 1e9, two_groups(MANY)), id="a constant column"),
        pytest.param(two_groups(MANY, 1), id="one column"),
        pytest.param(two_groups(MANY) + 1e8, id="a large offset"),
        pytest.param(
            (two_groups(MANY) + 1e8).astype("f4"), id="an offset of which digits are lost"
        ),
        pytest.param(two_groups(MANY).astype("f4"), id="float32"),
        pytest.param(two_groups(MANY).astype("i4"), id="integers"),
        pytest.param(two_groups(MANY) > 0.0, id="flags"),
    ],
)
def test_awkward_data_end_well_in_few_reads(
    covariance_type: CovarianceType, X: NDArray[Any]
) -> None:
    model = GaussianMixture(5, covariance_type=covariance_type, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DegenerateComponentWarning)
        model.fit(X)
    assert model.converged_
    assert model.n_reads_ < 25
    assert np.isfinite(model.lower_bound_)
    for name in ("weights_", "means_", "covariances_", "precisions_cholesky_"):
        assert np.all(np.isfinite(getattr(model, name))), name


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("n", range(2, 11))
# Any number of rows ends in a model; that few rows are reported is tested in test_condition.py.
@pytest.mark.filterwarnings("ignore::streamgmm.errors.FewRowsWarning")
def test_very_few_rows(covariance_type: CovarianceType, n: int) -> None:
    X = two_groups(n)
    for k in {1, 2, n}:
        model = GaussianMixture(k, covariance_type=covariance_type, random_state=0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DegenerateComponentWarning)
            model.fit(X)
        assert model.converged_
        assert np.isfinite(model.score_samples(X)).all()


@pytest.mark.parametrize("tol", [0.0, 1e-16])
def test_a_tolerance_that_cannot_be_met_ends_with_the_iterations(tol: float) -> None:
    model = GaussianMixture(2, random_state=0, tol=tol, max_iter=30)
    with warnings.catch_warnings():
        # It may end before, where nothing is gained any more.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(two_groups(MANY))
    assert model.n_iter_ <= 30
    best = GaussianMixture(2, random_state=0, tol=1e-9).fit(two_groups(MANY))
    assert model.lower_bound_ > best.lower_bound_ - 1e-6


# Five rows of weight 2 are ten rows, fewer than the parameters, and few for each component.
@pytest.mark.filterwarnings("ignore::streamgmm.errors.FewRowsWarning")
@pytest.mark.filterwarnings("ignore::streamgmm.errors.DegenerateComponentWarning")
def test_few_rows_with_weight() -> None:
    X, weights = two_groups(MANY), np.zeros(MANY)
    weights[::8000] = 2.0
    model = GaussianMixture(2, random_state=0).fit(X, sample_weight=weights)
    same = GaussianMixture(2, random_state=0).fit(X[::8000])
    assert model.lower_bound_ == pytest.approx(same.lower_bound_, abs=1e-6)
    with pytest.raises(
        DataError, match=r"only 5 row.s. have a weight above zero .* n_components = 6"
    ):
        GaussianMixture(6, random_state=0).fit(X, sample_weight=weights)


@both_algorithms
@pytest.mark.parametrize("covariance_type", TYPES)
def test_far_from_the_origin(algorithm: str, covariance_type: CovarianceType) -> None:
    X = planted(covariance_type)
    offset = 2.0**20
    # So that the rows are the same but for the offset.
    X = np.round(X * 2**20) / 2**20
    start = {**start_of(covariance_type), "algorithm": algorithm, "max_iter": 10, "tol": 0.0}
    moved_start = {**start, "means_init": np.round(start["means_init"] * 2**20) / 2**20 + offset}
    start["means_init"] = moved_start["means_init"] - offset
    near = fit_quietly(GaussianMixture(**start), X)
    far = fit_quietly(GaussianMixture(**moved_start), X + offset)
    np.testing.assert_allclose(far.weights_, near.weights_, rtol=0, atol=1e-8)
    np.testing.assert_allclose(far.means_ - offset, near.means_, rtol=0, atol=1e-8)
    np.testing.assert_allclose(far.covariances_, near.covariances_, rtol=0, atol=1e-8)
    np.testing.assert_allclose(far.lower_bounds_, near.lower_bounds_, rtol=0, atol=1e-8)


@both_algorithms
@pytest.mark.parametrize("covariance_type", TYPES)
def test_rows_that_overflow_are_left_out(algorithm: str, covariance_type: CovarianceType) -> None:
    X = planted(covariance_type)
    spoilt = np.vstack([X[:1000], [[1e200, 0.0], [0.0, -1e300]], X[1000:]])
    start = start_of(covariance_type)
    with pytest.warns(LeftOutRowsWarning, match=r"2 row\(s\)"):
        model = GaussianMixture(**start, algorithm=algorithm).fit(spoilt)
    clean = GaussianMixture(**start, algorithm=algorithm).fit(X)
    assert_same_parameters(model, clean, 1e-10)
    assert model.history_[-1]["n_overflowing"] == 2
    assert model.history_[-1]["n_rows"] == N
    scores = model.score_samples(spoilt)
    assert np.all(scores[1000:1002] == -np.inf)
    assert np.all(np.isfinite(np.delete(scores, [1000, 1001])))
    np.testing.assert_allclose(model.predict_proba(spoilt)[1000], model.weights_, rtol=1e-12)
    with pytest.warns(LeftOutRowsWarning, match=r"2 row\(s\) skipped: .* the score is -inf"):
        assert model.score(spoilt) == -np.inf


@both_algorithms
@pytest.mark.parametrize("init_params", ["kmeans", "k-means++", "random", "random_from_data"])
def test_rows_that_overflow_in_the_sample(algorithm: str, init_params: str) -> None:
    X = planted("full")
    spoilt = np.vstack([X, [[1e200, 0.0]]])
    with pytest.warns(LeftOutRowsWarning, match=r"1 row\(s\)"):
        model = GaussianMixture(
            K, random_state=0, init_params=init_params, algorithm=algorithm
        ).fit(spoilt)
    assert np.all(np.abs(model.means_) < 100)
    assert np.all(model.weights_ > 0.01)


# Bad input


def as_kind(X: NDArray[Any], kind: str, folder: Path) -> Any:
    """The same rows as another kind of data."""
    if kind == "ndarray":
        return X
    if kind == "npy":
        np.save(folder / "x.npy", X)
        return folder / "x.npy"
    if kind == "dask":
        return dask.array.from_array(X, chunks=(20_000, 1))
    array = zarr.create_array(
        folder / "x.zarr", shape=X.shape, chunks=(20_000, X.shape[1]), dtype=X.dtype
    )
    array[:] = X
    return array if kind == "zarr" else str(folder / "x.zarr")


KINDS = ("ndarray", "npy", "zarr", "zarr path", "dask")


@both_algorithms
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", ["in the sample", "outside the sample"])
def test_not_finite_values_are_located(
    algorithm: str, kind: str, place: str, tmp_path: Path
) -> None:
    n = 70_000
    X = np.arange(n, dtype=np.float64)[:, np.newaxis] % 1000 + [0.0, 1.0, 2.0]
    positions = open_data(np.arange(n, dtype=np.float64)[:, np.newaxis])
    with ThreadExecutor(1) as executor:
        seed = int(np.random.RandomState(0).randint(2**31))
        sampled = sample_rows(Reader(positions, executor, lambda event: None), seed).rows
    is_sampled = np.isin(np.arange(n), sampled[:, 0])
    assert is_sampled.sum() == 1 << 16
    first, second = np.flatnonzero(is_sampled == (place == "in the sample"))[[40, -40]]
    X[first, 1], X[second, [0, 2]] = np.nan, (np.inf, -np.inf)
    events: list[Event] = []
    model = GaussianMixture(2, random_state=0, callbacks=[events.append], algorithm=algorithm)
    message = (
        r"contains NaN or infinity: 3 value\(s\) in 2 of 70000 rows; the first: "
        rf"row {first} column 1, row {second} column 0, row {second} column 2\. "
    )
    with pytest.raises(NotFiniteError, match=message):
        model.fit(as_kind(X, kind, tmp_path))
    purposes = [event.purpose for event in events if isinstance(event, ReadStarted)]
    if algorithm == "em":
        assert purposes == (["sample"] if place == "in the sample" else ["sample", "iteration"])
    else:
        # Whatever the sample holds.
        assert purposes in (["survey"], ["pilot", "survey"])


@both_algorithms
def test_many_not_finite_values_are_not_all_listed(algorithm: str) -> None:
    X = planted("full")
    X[10:20] = np.nan
    with pytest.raises(NotFiniteError, match=r"20 value\(s\) in 10 of .* row 12 column 0, \.\.\."):
        GaussianMixture(K, algorithm=algorithm).fit(X)


@pytest.mark.parametrize("method", ["predict", "predict_proba", "score_samples", "score"])
@pytest.mark.parametrize("kind", ["ndarray", "zarr"])
def test_predictions_of_nan_are_refused(method: str, kind: str, tmp_path: Path) -> None:
    model = GaussianMixture(K, random_state=0).fit(planted("full"))
    bad = planted("full")
    bad[77, 1] = np.nan
    with pytest.raises(NotFiniteError, match=rf"1 value\(s\) in 1 of {N} rows.* row 77 column 1"):
        getattr(model, method)(as_kind(bad, kind, tmp_path))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("X", "message"),
    [
        (np.zeros(10), "Expected 2D array"),
        (np.zeros((10, 2, 2)), "dim|2D array"),
        (np.zeros((0, 2)), r"0 sample\(s\)"),
        (np.zeros((10, 0)), r"0 feature\(s\)"),
        (np.zeros((3, 2)), "n_samples >= n_components|minimum of"),
        (np.zeros((10, 2), dtype=complex), "Complex data not supported"),
    ],
)
def test_shapes_and_types_are_checked(
    kind: str, X: NDArray[Any], message: str, tmp_path: Path
) -> None:
    if kind.startswith("zarr"):
        chunks = tuple(max(1, size) for size in X.shape)
        data: Any = zarr.create_array(
            tmp_path / "x.zarr", shape=X.shape, chunks=chunks, dtype=X.dtype
        )
        data = data if kind == "zarr" else str(tmp_path / "x.zarr")
    elif kind == "dask":
        data = dask.array.from_array(X, chunks=-1)
    else:
        data = as_kind(X, kind, tmp_path)
    with pytest.raises(ValueError, match=message):
        GaussianMixture(4).fit(data)


@pytest.mark.parametrize("kind", ["ndarray", "npy", "dask"])
@pytest.mark.parametrize(
    "X", [np.full((10, 2), "a", dtype=object), np.full((10, 2), "abc")], ids=["object", "text"]
)
def test_what_is_no_number_is_refused(kind: str, X: NDArray[Any], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"string|real numbers|not numbers|Object arrays"):
        GaussianMixture().fit(as_kind(X, kind, tmp_path))


@pytest.mark.parametrize("kind", ["ndarray", "npy", "zarr", "dask"])
def test_other_columns_than_fitted(kind: str, tmp_path: Path) -> None:
    model = GaussianMixture(K, random_state=0).fit(planted("full"))
    data = as_kind(np.zeros((10, 3)), kind, tmp_path)
    with pytest.raises(ValueError, match="has 3 features, but GaussianMixture is expecting 2"):
        model.score(data)
    with pytest.raises(ValueError, match="has 3 features, but GaussianMixture is expecting 2"):
        model.predict(data)


def test_missing_and_unknown_paths(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"missing\.npy: no such file"):
        GaussianMixture().fit(tmp_path / "missing.npy")
    with pytest.raises(DataError, match=r"missing\.zarr: no such file"):
        GaussianMixture().fit(str(tmp_path / "missing.zarr"))
    (tmp_path / "x.csv").write_text("1,2\n")
    with pytest.raises(DataError, match=r"x\.csv is neither a \.npy file nor a Zarr array"):
        GaussianMixture().fit(tmp_path / "x.csv")
    (tmp_path / "x.npy").write_bytes(b"no array")
    with pytest.raises(DataError, match=r"x\.npy is not a \.npy file"):
        GaussianMixture().fit(tmp_path / "x.npy")
    (tmp_path / "empty.zarr").mkdir()
    with pytest.raises(DataError, match=r"empty\.zarr cannot be opened as a Zarr array"):
        GaussianMixture().fit(tmp_path / "empty.zarr")
    (tmp_path / "folder.npy").mkdir()
    with pytest.raises(DataError, match=r"folder\.npy"):
        GaussianMixture().fit(tmp_path / "folder.npy")


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_zarr_group_lists_its_arrays(zarr_format: Any, tmp_path: Path) -> None:
    group = zarr.create_group(tmp_path / "g.zarr", zarr_format=zarr_format)
    group.create_array("rows", shape=(10, 2), dtype="f8")
    group.create_group("inner").create_array("other", shape=(7, 3), dtype="f4")
    with pytest.raises(DataError, match=r"is a Zarr group.* inner/other \(7, 3\), rows \(10, 2\)"):
        GaussianMixture().fit(tmp_path / "g.zarr")
    with pytest.raises(DataError, match=r"is a Zarr group"):
        GaussianMixture().fit(group)
    GaussianMixture().fit(tmp_path / "g.zarr" / "rows")


def test_packed_zarr_values_are_refused(tmp_path: Path) -> None:
    array = zarr.create_array(tmp_path / "p.zarr", shape=(10, 2), dtype="i2")
    array.attrs["scale_factor"] = 0.1
    with pytest.raises(DataError, match=r"packed values .*scale_factor"):
        GaussianMixture().fit(array)


def test_unknown_dask_chunks_say_how_to_know_them() -> None:
    X = dask.array.from_array(planted("full"), chunks=(1000, D))
    filtered = X[X[:, 0] > 0]
    with pytest.raises(DataError, match="compute_chunk_sizes"):
        GaussianMixture().fit(filtered)
    assert GaussianMixture().fit(filtered.compute_chunk_sizes()).n_features_in_ == D


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n_components", 0),
        ("covariance_type", "round"),
        ("tol", -1.0),
        ("reg_covar", -1e-6),
        ("max_iter", -1),
        ("n_init", 0),
        ("init_params", "best"),
        ("n_jobs", 0),
        ("executor", "spark"),
        ("memory_limit", "much"),
        ("algorithm", "vb"),
        ("survey_part", 0.0),
        ("survey_part", 1.5),
    ],
)
def test_settings_are_checked(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=name):
        GaussianMixture(**{name: value}).fit(planted("full", 100))


@both_algorithms
@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("weights_init", [0.5, 0.6], "sum to 1|sum"),
        ("weights_init", [-0.5, 1.5], "negative"),
        ("weights_init", [1.0], "shape"),
        ("means_init", [[0.0, 0.0]], "shape"),
        ("means_init", [[0.0, np.nan], [1.0, 1.0]], "NaN"),
        ("precisions_init", np.zeros((2, 2)), "shape"),
        ("precisions_init", np.array([[[1.0, 2], [2, 1]]] * 2), "positive definite"),
        ("precisions_init", np.array([[[1.0, 0.5], [0.1, 1]]] * 2), "symmetric"),
    ],
)
def test_starts_are_checked_before_iterating(
    algorithm: str, name: str, value: Any, message: str
) -> None:
    source = ChunkedSource(planted("full", 100))
    with pytest.raises(ValueError, match=message):
        GaussianMixture(2, **{name: value}, algorithm=algorithm).fit(source)
    # The sample may be read; iterations may not begin.
    assert source.n_reads <= source.n_chunks


@both_algorithms
def test_precisions_from_an_inverse_are_symmetric_enough(algorithm: str) -> None:
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    covariance = (basis * np.geomspace(1.0, 1e4, 6)) @ basis.T
    precision = np.linalg.inv(covariance)
    precision[0, 1] += 1e-17
    model = GaussianMixture(
        1,
        precisions_init=precision[np.newaxis],
        fixed=["covariances"],
        random_state=0,
        algorithm=algorithm,
    )
    model.fit(rng.normal(size=(100, 6)))
    np.testing.assert_allclose(model.covariances_[0], covariance, rtol=1e-9, atol=1e-9)


def test_memory_limit_is_told_before_any_read() -> None:
    source = ChunkedSource(planted("full"), 500)
    with pytest.raises(MemoryLimitError, match=r"memory_limit = 976\.6 KiB"):
        GaussianMixture(K, memory_limit="1 MB").fit(source)
    assert source.n_reads == 0


# Containers


@both_algorithms
@pytest.mark.parametrize("dtype", ["f4", "i2", "u1", "?", "f2", ">f8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_types_and_layouts_give_the_fit_of_their_values(
    algorithm: str, dtype: str, order: Any
) -> None:
    X = np.asarray(planted("full") * 4 + 20, dtype=dtype, order=order)
    given = {**start_of("full"), "algorithm": algorithm, "max_iter": 5}
    given["means_init"] = np.array([[0.1, 0.2], [10.0, 20.0], [30.0, 20.0]])
    with warnings.catch_warnings():
        # Booleans are degenerate data.
        warnings.simplefilter("ignore", DegenerateComponentWarning)
        warnings.simplefilter("ignore", ConvergenceWarning)
        ours = GaussianMixture(**given).fit(X)
        exact = GaussianMixture(**given).fit(X.astype("f8", order="C"))
    assert_same_parameters(ours, exact, 1e-9)
    np.testing.assert_array_equal(ours.predict(X), exact.predict(X.astype("f8")))


@both_algorithms
@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_data_give_the_same_fit(algorithm: str, kind: str, tmp_path: Path) -> None:
    X = planted("full", 50_000)
    data = as_kind(X, kind, tmp_path)
    settings = {**start_of("full"), "max_iter": 5, "tol": 0.0, "algorithm": algorithm}
    expected = fit_quietly(GaussianMixture(**settings), X)
    found = fit_quietly(GaussianMixture(**settings), data)
    assert_same_parameters(found, expected, 1e-10)
    # A random start too: the sample of plain EM does not depend on the layout. That of the survey
    # does in part, and where the fit ends only to the tolerance.
    settings = {"n_components": K, "random_state": 0, "algorithm": algorithm}
    expected = GaussianMixture(**settings).fit(X)
    found = GaussianMixture(**settings).fit(data)
    if algorithm == "em":
        assert_same_parameters(found, expected, 1e-10)
    assert found.lower_bound_ == pytest.approx(expected.lower_bound_, abs=1e-3)


@pytest.mark.parametrize("method", ["predict", "predict_proba", "score_samples"])
def test_paths_need_an_output(method: str, tmp_path: Path) -> None:
    X = planted("full")
    model = GaussianMixture(K, random_state=0).fit(X)
    path = as_kind(X, "npy", tmp_path)
    with pytest.raises(ParameterError, match="give out="):
        getattr(model, method)(path)
    for name in ("out.npy", "out.zarr"):
        out = tmp_path / name
        assert getattr(model, method)(path, out=out) == out
        written = np.load(out) if out.suffix == ".npy" else zarr.open_array(out, mode="r")[:]
        np.testing.assert_array_equal(written, getattr(model, method)(X))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.npy", "out.zarr", "x.npy"]


@pytest.mark.parametrize("kind", ["npy", "zarr", "zarr path"])
def test_the_input_is_never_the_output(kind: str, tmp_path: Path) -> None:
    X = planted("full")
    model = GaussianMixture(K, random_state=0).fit(X)
    data = as_kind(X, kind, tmp_path)
    path = tmp_path / ("x.npy" if kind == "npy" else "x.zarr")
    with pytest.raises(OutputError, match="write somewhere else"):
        model.predict(data, out=path)
    kept = np.load(path) if kind == "npy" else zarr.open_array(path, mode="r")[:]
    np.testing.assert_array_equal(kept, X)


def test_a_failed_prediction_leaves_the_old_output(tmp_path: Path) -> None:
    X = planted("full")
    model = GaussianMixture(K, random_state=0).fit(X)
    out = tmp_path / "out.npy"
    model.predict(X, out=out)
    before = out.read_bytes()
    X[2000, 0] = np.nan
    with pytest.raises(NotFiniteError, match="row 2000 column 0"):
        model.predict(X, out=out)
    assert out.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["out.npy"]


# Dask


def raises_if_computed(block: NDArray[Any]) -> NDArray[Any]:
    raise AssertionError("computed")


PREDICTIONS: Sequence[tuple[str, type, Callable[[int], tuple[int, ...]]]] = (
    ("predict", np.int64, lambda n: (n,)),
    ("predict_proba", np.float64, lambda n: (n, K)),
    ("score_samples", np.float64, lambda n: (n,)),
)


@pytest.mark.parametrize(("method", "dtype", "shape"), PREDICTIONS)
def test_dask_predictions_are_lazy(
    method: str, dtype: type, shape: Callable[[int], tuple[int, ...]]
) -> None:
    X = planted("full")
    model = GaussianMixture(K, random_state=0).fit(X)
    chunked = dask.array.from_array(X, chunks=((1000, 0, 1500, 500), (1, 1)))
    trap = chunked.map_blocks(raises_if_computed, dtype=X.dtype, meta=np.empty((0, 0)))
    lazy = getattr(model, method)(trap)
    assert lazy.shape == shape(N)
    assert lazy.dtype == dtype
    assert lazy.chunks[0] == (1000, 0, 1500, 500)
    assert isinstance(lazy._meta, np.ndarray)
    assert lazy._meta.dtype == dtype
    assert lazy._meta.ndim == len(shape(N))
    with pytest.raises(AssertionError, match="computed"):
        lazy.compute(scheduler="synchronous")
    computed = getattr(model, method)(chunked).compute(scheduler="synchronous")
    assert computed.dtype == dtype
    np.testing.assert_array_equal(computed, getattr(model, method)(X))


def test_dask_predictions_combine_with_dask() -> None:
    X = planted("full")
    model = GaussianMixture(K, random_state=0).fit(X)
    lazy = dask.array.from_array(X, chunks=(1000, D))
    labels = model.predict(lazy)
    counts = dask.array.bincount(labels, minlength=K).compute(scheduler="synchronous")
    np.testing.assert_array_equal(counts, np.bincount(model.predict(X), minlength=K))
    kept = lazy[labels == 0].compute(scheduler="synchronous")
    np.testing.assert_array_equal(kept, X[model.predict(X) == 0])


def test_dask_predictions_keep_the_model_they_were_made_with() -> None:
    X = planted("full")
    model = GaussianMixture(K, random_state=0).fit(X)
    lazy = model.score_samples(dask.array.from_array(X, chunks=(1000, D)))
    expected = model.score_samples(X)
    model.fit(X[:100] + 50)
    np.testing.assert_array_equal(lazy.compute(scheduler="synchronous"), expected)


def test_dask_predictions_of_rows_not_yet_counted() -> None:
    X = planted("full")
    model = GaussianMixture(K, random_state=0).fit(X)
    lazy = dask.array.from_array(X, chunks=(1000, D))
    filtered = lazy[lazy[:, 0] > 0]
    with pytest.raises(DataError, match="compute_chunk_sizes"):
        model.predict(filtered)


@pytest.mark.parametrize("suffix", [".npy", ".zarr"])
@pytest.mark.parametrize("executor", ["auto", "threads"])
def test_dask_predictions_to_a_file(suffix: str, executor: str, tmp_path: Path) -> None:
    X = planted("full")
    model = GaussianMixture(K, random_state=0, executor=executor).fit(X)
    uneven = dask.array.from_array(X, chunks=((0, 700, 11, 1289, 1000), (D,)))
    out = tmp_path / f"labels{suffix}"
    model.predict(uneven, out=out)
    written = np.load(out) if suffix == ".npy" else zarr.open_array(out, mode="r")[:]
    np.testing.assert_array_equal(written, model.predict(X))


# The estimator as an object


def test_pickle_keeps_everything() -> None:
    X = planted("full")
    model = GaussianMixture(K, random_state=0).fit(X)
    copy = pickle.loads(pickle.dumps(model))
    assert copy.get_params() == model.get_params()
    # NaN equals itself in what repr says.
    assert repr(copy.history_) == repr(model.history_)
    np.testing.assert_array_equal(copy.score_samples(X), model.score_samples(X))


def test_clone_is_unfitted_and_fits_alike() -> None:
    X = planted("full")
    model = GaussianMixture(K, random_state=0, fixed=(), memory_limit="4GiB").fit(X)
    copy = clone(model)
    assert copy.get_params() == model.get_params()
    assert not hasattr(copy, "means_")
    assert_same_parameters(copy.fit(X), model, 0.0)


def test_assigned_attributes_are_used() -> None:
    X = planted("diag")
    settings = start_of("diag")
    parameters = Parameters.from_precisions(
        "diag", settings["weights_init"], settings["means_init"], settings["precisions_init"]
    )
    model = GaussianMixture(K, covariance_type="diag")
    model.weights_, model.means_ = parameters.weights, parameters.means
    model.covariances_ = parameters.covariances
    model.precisions_cholesky_ = parameters.precisions_cholesky
    model.n_features_in_ = D
    started = GaussianMixture(**settings, max_iter=0).fit(X)
    np.testing.assert_array_equal(model.score_samples(X), started.score_samples(X))


def test_a_fit_that_failed_leaves_no_trap() -> None:
    rng = np.random.default_rng(0)
    model = GaussianMixture(2, random_state=0).fit(rng.normal(size=(500, 3)))
    wide = rng.normal(size=(5000, 64))
    wide[3, 3] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        model.fit(wide)
    with pytest.raises(ValueError, match="features"):
        model.predict(np.nan_to_num(wide))


@pytest.mark.parametrize("jump", [1e4, 1e6])
def test_one_iteration_is_exact_for_a_component_that_jumps(jump: float) -> None:
    rng = np.random.default_rng(0)
    X = np.concatenate([rng.normal(size=500), 1e6 + jump + rng.normal(size=500)])[:, np.newaxis]
    start = {
        "weights_init": [0.5, 0.5],
        "means_init": [[0.0], [1e6]],
        "precisions_init": np.ones((2, 1, 1)),
    }
    with pytest.warns(ConvergenceWarning):
        model = GaussianMixture(2, reg_covar=0.0, max_iter=1, algorithm="em", **start).fit(X)
    expected = X[500:, 0].astype(np.longdouble).var()
    assert abs(model.covariances_[1, 0, 0] - expected) < 1e-9 * expected
    assert [read["purpose"] for read in model.history_] == ["iteration", "refinement"]
    assert [read["iteration"] for read in model.history_] == [1, 1]


@both_algorithms
@pytest.mark.parametrize("scale", [1e5, 1e6])
# Twenty components among 60 rows start somewhere.
@pytest.mark.filterwarnings("ignore::streamgmm.errors.FewRowsWarning")
def test_few_rows_a_component_in_large_units_still_start(algorithm: str, scale: float) -> None:
    X = scale * np.random.default_rng(2).normal(size=(60, 5))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.simplefilter("ignore", DegenerateComponentWarning)
        model = GaussianMixture(20, random_state=0, algorithm=algorithm).fit(X)
    assert np.isfinite(model.lower_bound_)


def test_fit_predict_of_a_path(tmp_path: Path) -> None:
    X = np.random.default_rng(0).normal(size=(500, 2))
    np.save(tmp_path / "x.npy", X)
    events: list[object] = []
    model = GaussianMixture(2, random_state=0, callbacks=[events.append])
    with pytest.raises(ValueError, match="out="):
        model.fit_predict(tmp_path / "x.npy")
    assert events == []
    out = model.fit_predict(tmp_path / "x.npy", out=tmp_path / "labels.npy")
    np.testing.assert_array_equal(np.load(out), model.predict(X))


def test_only_gaussian_mixtures_come_from_scikit_learn() -> None:
    X = np.random.default_rng(0).normal(size=(100, 2))
    other = sklearn.mixture.BayesianGaussianMixture(n_components=2, random_state=0).fit(X)
    with pytest.raises(ValueError, match="BayesianGaussianMixture is not"):
        GaussianMixture.from_sklearn(other)


@pytest.mark.parametrize("arithmetic", ["auto", "float64", "float32"])
def test_the_history_says_which_way_densities_were_computed(arithmetic: str) -> None:
    rng = np.random.default_rng(0)
    means = 8.0 * rng.normal(size=(16, 16))
    rows = means[rng.integers(16, size=3000)] + rng.normal(size=(3000, 16))
    start = {"weights_init": np.full(16, 1 / 16), "means_init": means}
    start["precisions_init"] = np.tile(np.eye(16), (16, 1, 1))
    model = GaussianMixture(16, arithmetic=arithmetic, max_iter=2, tol=0.0, **start)
    with pytest.warns(ConvergenceWarning):
        model.fit(rows)
    for read in model.history_:
        assert read["arithmetic"] == "float64"
        assert (read["screened"] > 0.5) == (arithmetic != "float64")
        assert read["passed_over"] > 0.5
    with pytest.warns(ConvergenceWarning):
        plain = GaussianMixture(16, arithmetic="float64", max_iter=2, tol=0.0, **start).fit(rows)
    assert np.array_equal(model.covariances_, plain.covariances_)


def test_float32_densities_when_they_are_asked_for() -> None:
    rows = np.random.default_rng(0).normal(size=(2000, 2)).astype(np.float32)
    model = GaussianMixture(2, arithmetic="float32", random_state=0).fit(rows)
    plain = GaussianMixture(2, random_state=0).fit(rows)
    assert model.history_[-1]["arithmetic"] == "float32"
    assert plain.history_[-1]["arithmetic"] == "float64"
    assert 0.0 < abs(model.lower_bound_ - plain.lower_bound_) < 1e-5


def test_an_arithmetic_that_there_is_not() -> None:
    with pytest.raises(ValueError, match="'arithmetic' parameter"):
        GaussianMixture(arithmetic="float16").fit(np.zeros((3, 1)))


@pytest.mark.parametrize("covariance_type", TYPES)
def test_marginals_and_conditionals_are_models(
    covariance_type: CovarianceType, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(500, 3)) + 5.0 * rng.integers(0, 2, (500, 1))
    frame = pandas.DataFrame(rows, columns=["a", "b", "c"])
    model = GaussianMixture(2, covariance_type=covariance_type, random_state=0).fit(frame)
    own = model.marginal(["c", "a"])
    assert own.feature_names_in_.tolist() == ["c", "a"]
    np.testing.assert_array_equal(own.means_, model.means_[:, [2, 0]])
    by_number = model.marginal([2, 0])
    np.testing.assert_array_equal(own.covariances_, by_number.covariances_)
    others = model.conditional({"b": 5.0})
    assert others.feature_names_in_.tolist() == ["a", "c"]
    assert others.weights_.max() > 0.99
    # Both predict, draw rows, and are saved like any model.
    both = own.score_samples(frame[["c", "a"]]) + 0.0
    assert np.isfinite(both).all()
    others.save(tmp_path / "others.gmm")
    again = load(tmp_path / "others.gmm")
    rest = frame[["a", "c"]]
    np.testing.assert_array_equal(again.predict(rest), others.predict(rest))
    assert again.sample(5)[0].shape == (5, 2)


def test_features_that_are_not_there() -> None:
    model = GaussianMixture().fit(np.random.default_rng(0).normal(size=(50, 3)))
    for features in ([3], [-1], ["a"], [0, 0], [], [1.5]):
        with pytest.raises(ParameterError, match="not columns of the model"):
            model.marginal(features)  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="not columns of the model"):
        model.conditional({})
    with pytest.raises(ParameterError, match="not finite"):
        model.conditional({0: np.nan})
    with pytest.raises(ParameterError, match="all features are given"):
        model.conditional({0: 0.0, 1: 0.0, 2: 0.0})
