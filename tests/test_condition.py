"""What a fitted mixture is worth is said: degenerate components, narrow columns, few rows."""

import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import streamgmm
from streamgmm import GaussianMixture, OnlineGaussianMixture
from streamgmm.errors import (
    DegenerateComponentWarning,
    FewRowsWarning,
    LeftOutRowsWarning,
    RidgeWarning,
)
from streamgmm.estimators import condition, online_mixture
from streamgmm.estimators.condition import warn_of_few_rows
from streamgmm.events import Event, ReadStarted, RowsLearned, SkippedRows
from tests.core.cases import TYPES

Rows = NDArray[np.float64]
Warned = list[warnings.WarningMessage]

both_algorithms = pytest.mark.parametrize("algorithm", ["auto", "em"])


def warned(call: Callable[[], Any]) -> Warned:
    """The warnings of a call."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        call()
    return found


def messages(found: Warned, category: type[Warning]) -> list[str]:
    return [str(warning.message) for warning in found if warning.category is category]


def lonely(n: int = 145) -> Rows:
    """Rows of which one is far from all others."""
    rows = np.random.default_rng(0).normal(size=(n, 3))
    rows[0] = 30.0
    return rows


def blobs(n: int = 2000, d: int = 2) -> Rows:
    random = np.random.default_rng(1)
    rows: Rows = random.normal(size=(n, d)) + 8.0 * random.integers(0, 2, (n, 1))
    return rows


def narrow(n: int = 2000) -> Rows:
    """Two groups in a column of small units, one constant column."""
    random = np.random.default_rng(2)
    flux = 5e-5 * (random.normal(size=n) * 0.1 + random.integers(0, 2, n))
    rows: Rows = np.c_[random.normal(size=n), flux, np.full(n, 7.0)]
    return rows


# Degenerate components


@pytest.mark.parametrize(
    "model",
    [
        GaussianMixture(5, random_state=0, reg_covar=1e-6),
        GaussianMixture(5, random_state=0, reg_covar=1e-6, algorithm="em"),
        OnlineGaussianMixture(5, random_state=0, reg_covar=1e-6),
    ],
)
def test_a_component_of_one_row_is_named(model: Any) -> None:
    X = lonely()
    found = warned(lambda: model.fit(X))
    (message,) = messages(found, DegenerateComponentWarning)
    alone = int(model.predict(X[:1])[0])
    assert f"no more rows than the 3 column(s): component(s) {alone} (1 row(s))" in message
    ridge = "variance 1e-06 in column(s) 0, 1, 2, of which 1e-06 is reg_covar"
    assert f"mostly ridge: component(s) {alone} ({ridge})" in message
    assert "Reduce n_components, or fit more rows" in message
    assert Path(found[0].filename) == Path(__file__)


def test_fewer_components_or_more_rows_help() -> None:
    X = lonely()
    with pytest.warns(DegenerateComponentWarning):
        GaussianMixture(5, random_state=0).fit(X)
    assert not warned(lambda: GaussianMixture(1, random_state=0).fit(X))
    more = np.concatenate([X, 30.0 + np.random.default_rng(1).normal(size=(50, 3))])
    model = GaussianMixture(2, random_state=0)
    assert not warned(lambda: model.fit(more))


@both_algorithms
@pytest.mark.parametrize("weight", [2, 4])
def test_repeated_rows_and_integer_weights_have_the_same_verdict(
    algorithm: str, weight: int
) -> None:
    X, weights = lonely(), np.random.default_rng(3).integers(1, 4, 145)
    # Two rows of a component are no more than the three columns, four are.
    weights[0] = weight
    start = {
        "weights_init": [0.01, 0.99],
        "means_init": [[30.0] * 3, [0.0] * 3],
        "precisions_init": np.repeat([np.eye(3)], 2, axis=0),
    }
    model = GaussianMixture(2, algorithm=algorithm, **start)
    (by_weight,) = messages(
        warned(lambda: model.fit(X, sample_weight=weights)), DegenerateComponentWarning
    )
    (by_rows,) = messages(
        warned(lambda: model.fit(np.repeat(X, weights, axis=0))), DegenerateComponentWarning
    )
    assert by_weight == by_rows
    assert ("(2 row(s))" in by_rows) == (weight == 2)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_more_components_than_distinct_rows(covariance_type: Any) -> None:
    X = np.resize(np.random.default_rng(0).normal(size=(3, 2)), (300, 2))
    given = {"covariance_type": covariance_type, "random_state": 0, "reg_covar": 1e-6}
    for model in (
        GaussianMixture(6, **given),
        GaussianMixture(6, **given, algorithm="em"),
        OnlineGaussianMixture(6, **given),
    ):
        (message,) = messages(warned(lambda m=model: m.fit(X)), DegenerateComponentWarning)
        weightless = np.flatnonzero(model.weights_ == 0.0).tolist()
        named = f"weight 0: component(s) {', '.join(map(str, weightless[:3]))}"
        assert (named in message) == bool(weightless)
    assert not messages(
        warned(lambda: GaussianMixture(1, **given).fit(X)), DegenerateComponentWarning
    )


@both_algorithms
def test_a_component_of_weight_0_is_named(algorithm: str) -> None:
    start = {
        "weights_init": [0.5, 0.5, 0.0],
        "means_init": [[0.0] * 2, [8.0] * 2, [0.0] * 2],
        "precisions_init": np.repeat([np.eye(2)], 3, axis=0),
    }
    with pytest.warns(DegenerateComponentWarning, match=r"weight 0: component\(s\) 2"):
        GaussianMixture(3, algorithm=algorithm, **start).fit(blobs())


def test_many_components_are_counted() -> None:
    X = np.random.default_rng(0).normal(size=(60, 5))
    found = warned(lambda: GaussianMixture(30, covariance_type="diag", random_state=0).fit(X))
    (message,) = messages(found, DegenerateComponentWarning)
    assert message.count("row(s))") == 3
    n_named = int(message.partition(" more of the mixture")[0].rpartition(" ")[2]) + 20
    assert 20 < n_named <= 30
    assert message.partition("row(s)) and ")[2]


# Narrow columns


@pytest.mark.parametrize(
    "model",
    [
        GaussianMixture(2, random_state=0, reg_covar=1e-6),
        GaussianMixture(2, random_state=0, reg_covar=1e-6, algorithm="em"),
        OnlineGaussianMixture(2, random_state=0, reg_covar=1e-6),
    ],
)
@pytest.mark.parametrize("covariance_type", ["full", "tied", "diag"])
def test_a_narrow_column_is_named_and_a_constant_one_is_not(
    model: Any, covariance_type: str
) -> None:
    model.set_params(covariance_type=covariance_type)
    X = pandas.DataFrame(narrow(), columns=["t", "flux", "flag"])  # type: ignore[arg-type]
    found = warned(lambda: model.fit(X))
    (message,) = messages(found, RidgeWarning)
    found_variance = re.search(r"flux \(variance (\S+), ridge 1e-06\)", message)
    assert found_variance is not None
    # The last rows of a stream may not be part of a step yet.
    assert float(found_variance[1]) == pytest.approx(X["flux"].var(ddof=0), rel=0.01)
    assert "flag" not in message
    assert ", t (" not in message
    (degenerate,) = messages(found, DegenerateComponentWarning)
    assert " in column(s) flux, of which 1e-06 is reg_covar" in degenerate


@pytest.mark.parametrize("algorithm", ["auto", "em"])
@pytest.mark.parametrize("remedy", ["a smaller reg_covar", "scale the column(s)", "auto"])
def test_the_remedies_for_a_narrow_column_help(algorithm: str, remedy: str) -> None:
    X = narrow()[:, :2]
    model = GaussianMixture(2, random_state=0, algorithm=algorithm, reg_covar=1e-6)
    (message,) = messages(warned(lambda: model.fit(X)), RidgeWarning)
    assert (remedy in message) == (remedy != "auto" or algorithm == "auto")
    if remedy == "auto":
        if algorithm == "em":
            return
        model.set_params(reg_covar="auto")
    elif remedy == "a smaller reg_covar":
        model.set_params(reg_covar=1e-16)
    else:
        X = X / X.std(axis=0)
    assert not warned(lambda: model.fit(X))


def test_columns_are_not_narrow_where_covariances_are_held() -> None:
    start = {
        "means_init": [[0.0] * 2, [1.0] * 2],
        "precisions_init": np.repeat([np.eye(2)], 2, axis=0),
    }
    model = GaussianMixture(2, fixed=["covariances"], reg_covar=1e6, random_state=0, **start)
    assert not warned(lambda: model.fit(blobs()))


# Few rows


class Stopped(Exception):
    """The fit has begun its work."""


def stop(event: Event) -> None:
    if isinstance(event, ReadStarted):
        raise Stopped


@both_algorithms
@pytest.mark.parametrize(
    ("k", "shape", "parts"),
    [
        (16, (4000, 64), ["4,000 row(s)", "34,319 free", "'diag' (2,063", "'tied' (3,119"]),
        (64, (6000, 767), ["6,000 row(s)", "18,898,943 free"]),
    ],
)
def test_few_rows_are_said_before_the_first_pass(
    algorithm: str, k: int, shape: tuple[int, int], parts: list[str]
) -> None:
    X = np.broadcast_to(np.random.default_rng(0).normal(size=(shape[0], 1)), shape)
    model = GaussianMixture(k, algorithm=algorithm, callbacks=[stop])
    with pytest.raises(Stopped), pytest.warns(FewRowsWarning) as found:
        model.fit(X)
    (message,) = messages(list(found), FewRowsWarning)
    for part in parts:
        assert part in message
    assert message.endswith("more rows")


@given(
    k=st.integers(1, 30),
    d=st.integers(1, 30),
    weight=st.floats(1.0, 3000.0),
    covariance_type=st.sampled_from(TYPES),
)
def test_each_remedy_for_few_rows_helps(
    k: int, d: int, weight: float, covariance_type: Any
) -> None:
    def message(k: int, covariance_type: Any, weight: float) -> str | None:
        model = GaussianMixture(k, covariance_type=covariance_type)
        found = messages(
            warned(lambda: warn_of_few_rows(model, d, weight, is_weighted=False)), FewRowsWarning
        )
        return found[0] if found else None

    text = message(k, covariance_type, weight)
    if text is None:
        return
    for simpler in ("diag", "tied", "spherical"):
        if f"covariance_type='{simpler}'" in text:
            assert message(k, simpler, weight) is None
    if "at most " in text:
        most = int(text.partition("at most ")[2].split()[0])
        assert 1 <= most < k
        assert message(most, covariance_type, weight) is None
        assert message(most + 1, covariance_type, weight) is not None
    needed = int(text.partition("the mixture has ")[2].split()[0].replace(",", ""))
    assert message(k, covariance_type, float(needed)) is None


@both_algorithms
@pytest.mark.parametrize("stored", [False, True])
def test_rows_with_weights_count_by_their_weights(
    algorithm: str, stored: bool, tmp_path: Path
) -> None:
    X = blobs(200)

    def fit(weight: float) -> list[str]:
        weights: Any = np.full(len(X), weight)
        if stored:
            path = tmp_path / f"{weight}.zarr"
            zarr.create_array(path, data=weights)
            weights = path
        model = GaussianMixture(2, random_state=0, algorithm=algorithm)
        return messages(warned(lambda: model.fit(X, sample_weight=weights)), FewRowsWarning)

    (message,) = fit(0.05)
    assert "the weights of the rows sum to 10, but the mixture has 11 free parameters" in message
    assert "weights that sum to the number of rows" in message
    assert fit(1.0) == []


def test_rows_that_are_skipped_do_not_count() -> None:
    X = blobs(50)
    X[:45] = np.nan
    data = streamgmm.open(X, missing="drop")
    found = warned(lambda: GaussianMixture(1, random_state=0).fit(data))
    assert not messages(found, FewRowsWarning)
    X[:47] = np.nan
    data = streamgmm.open(X, missing="drop")
    (message,) = messages(
        warned(lambda: GaussianMixture(1, random_state=0).fit(data)), FewRowsWarning
    )
    assert "there are 3 row(s), but the mixture has 5 free parameters" in message


# Streams


def test_a_stream_is_reported_when_something_is_new() -> None:
    X = lonely(4000)
    model = OnlineGaussianMixture(3, random_state=0, init_size=400)
    found = warned(lambda: [model.partial_fit(X[i : i + 20]) for i in range(0, 4000, 20)])
    # Twenty rows are fewer than 29 parameters, and this is said once.
    assert len(messages(found, FewRowsWarning)) == 1
    said = messages(found, DegenerateComponentWarning)
    assert said
    assert all(before != after for before, after in pairwise(said))
    assert len(said) <= 12


def test_few_rows_more_are_not_examined(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    examine = condition.condition_of

    def counted(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        return examine(*arguments, **options)

    monkeypatch.setattr(online_mixture, "condition_of", counted)
    model = OnlineGaussianMixture(2, random_state=0, init_size=2000).partial_fit(blobs(2000))
    assert len(calls) == 1
    before = model.n_steps_
    for i in range(300):
        model.partial_fit(blobs(10) + 0.01 * i)
    n_steps = model.n_steps_ - before
    assert 0 < n_steps < 30
    assert len(calls) == 1 + n_steps


def test_what_was_reported_of_a_stream_is_forgotten_by_fit() -> None:
    model = OnlineGaussianMixture(5, random_state=0)
    for _ in range(2):
        with pytest.warns(DegenerateComponentWarning):
            model.fit(lonely())


def test_merged_and_updated_models_are_reported(tmp_path: Path) -> None:
    with pytest.warns(DegenerateComponentWarning):
        part = GaussianMixture(5, random_state=0, reg_covar=1e-6).fit(lonely())
    with pytest.warns(DegenerateComponentWarning, match=r"no more rows than the 3 column\(s\)"):
        OnlineGaussianMixture.merged([part])
    with pytest.warns(DegenerateComponentWarning, match=r"no more rows than the 3 column\(s\)"):
        OnlineGaussianMixture.from_batch(part)
    path = tmp_path / "model.gmm"
    OnlineGaussianMixture(5, random_state=0).save(path)
    for seed in range(2):
        # Each update is a report of its own.
        with pytest.warns(DegenerateComponentWarning):
            streamgmm.update(path, lonely() + 1e-3 * seed, batch_id=seed)


# Criteria with weights


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32 - 1), covariance_type=st.sampled_from(TYPES))
def test_criteria_of_integer_weights_are_those_of_repeated_rows(
    seed: int, covariance_type: Any
) -> None:
    random = np.random.default_rng(seed)
    X, weights = random.normal(size=(60, 2)), random.integers(0, 4, 60)
    weights[0] = 1
    model = GaussianMixture(1, covariance_type=covariance_type).fit(blobs(100))
    repeated = np.repeat(X, weights, axis=0)
    for criterion in (model.score, model.bic, model.aic):
        expected = criterion(repeated)
        assert criterion(X, sample_weight=weights) == pytest.approx(expected, rel=1e-12)
    n, p = len(repeated), model.fitted_model_.parameters.n_parameters()
    deviance = -2.0 * float(model.score_samples(repeated).sum())
    assert model.bic(repeated) == pytest.approx(deviance + p * np.log(n), rel=1e-12)
    assert model.aic(repeated) == pytest.approx(deviance + 2 * p, rel=1e-12)


def test_criteria_of_stored_rows_and_weights(tmp_path: Path) -> None:
    import dask.array

    X, weights = blobs(300), np.random.default_rng(0).uniform(0.5, 2.0, 300)
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "w.npy", weights)
    model = GaussianMixture(2, random_state=0).fit(X)
    expected = model.bic(X, sample_weight=weights)
    n = weights.sum()
    deviance = -2.0 * float(weights @ model.score_samples(X))
    assert expected == pytest.approx(deviance + 11 * np.log(n), rel=1e-12)
    lazy = dask.array.from_array(X, chunks=(100, 2))
    for data, given_weights in (
        (tmp_path / "x.npy", tmp_path / "w.npy"),
        (lazy, weights),
        (lazy, dask.array.from_array(weights, chunks=100)),
        (streamgmm.open(X, sample_weight=weights), None),
    ):
        assert model.bic(data, sample_weight=given_weights) == pytest.approx(expected, rel=1e-12)
        found = model.aic(data, sample_weight=given_weights)
        assert found == pytest.approx(deviance + 22, rel=1e-12)


def test_the_command_line_prints_criteria_of_weighted_rows(tmp_path: Path) -> None:
    X, weights = blobs(300), np.random.default_rng(0).uniform(0.5, 2.0, 300)
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "w.npy", weights)
    model = GaussianMixture(2, random_state=0).fit(X)
    model.save(tmp_path / "model.gmm")
    out, err = command("score", "model.gmm", "x.npy", "--sample-weight", "w.npy", folder=tmp_path)
    printed = {name: float(value) for name, value, *_ in map(str.split, out.splitlines())}
    assert printed["bic"] == pytest.approx(model.bic(X, sample_weight=weights), rel=1e-9)
    assert printed["aic"] == pytest.approx(model.aic(X, sample_weight=weights), rel=1e-9)
    assert "warning" not in err


def command(*arguments: str, folder: Path) -> tuple[str, str]:
    """Standard output and standard error of a command that succeeds."""
    found = subprocess.run(
        [sys.executable, "-m", "streamgmm", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    return found.stdout, found.stderr


def test_the_command_line_reports_what_a_model_is_worth(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", lonely())
    options = ("-k", "5", "--seed", "0", "--reg-covar", "1e-6")
    _, err = command("fit", "x.npy", "-o", "model.gmm", *options, folder=tmp_path)
    assert "warning: component(s)" in err
    assert "no more rows than the 3 column(s): component(s)" in err
    _, err = command("info", "model.gmm", folder=tmp_path)
    assert "no more rows than the 3 column(s): component(s)" in err
    _, err = command("update", "stream.gmm", "x.npy", "-k", "5", "--seed", "0", folder=tmp_path)
    assert "no more rows than the 3 column(s): component(s)" in err
    np.save(tmp_path / "few.npy", lonely(40))
    _, err = command("fit", "few.npy", "-o", "few.gmm", *options, folder=tmp_path)
    assert "warning: there are 40 row(s), but the mixture has 49 free parameters" in err


# Skipped rows


def spoilt(n: int = 400) -> tuple[Rows, Rows, SkippedRows]:
    """Rows and weights, of which some take no part."""
    rows, weights = blobs(n), np.ones(n)
    rows[:3] = 1e300
    rows[5:9, 0] = np.nan
    weights[20:40] = 0.0
    # What is skipped for its values is not counted for its weight again.
    weights[[0, 5]] = 0.0
    return rows, weights, SkippedRows(3, 4, 20)


def test_skipped_rows_have_one_wording() -> None:
    assert str(SkippedRows(1200, 4, 20)) == (
        "1,224 row(s) skipped: 1,200 whose squares overflow, 4 for lack of values, 20 of weight 0"
    )
    assert str(SkippedRows(0, 0, 2)) == "2 row(s) skipped: 2 of weight 0"


@both_algorithms
@pytest.mark.parametrize("missing", ["drop", "em"])
def test_skipped_rows_of_a_fit_are_in_its_history(algorithm: str, missing: Any) -> None:
    X, weights, expected = spoilt()
    X[5:9] = np.nan
    data = streamgmm.open(X, missing=missing, sample_weight=weights)
    model = GaussianMixture(2, random_state=0, algorithm=algorithm)
    with pytest.warns(LeftOutRowsWarning, match=r"3 row\(s\) skipped: 3 whose squares overflow"):
        model.fit(data)
    last = model.history_[-1]
    counted = SkippedRows(last["n_overflowing"], last["n_missing"], last["n_weightless"])
    assert counted == expected
    assert last["n_rows"] - last["n_weightless"] == len(X) - expected.n_rows


@pytest.mark.parametrize("init_size", [100, 1000])
@pytest.mark.parametrize("batch", [7, 50, 400])
def test_skipped_rows_of_a_stream_are_counted(init_size: int, batch: int, tmp_path: Path) -> None:
    X, weights, expected = spoilt()
    model = OnlineGaussianMixture(2, random_state=0, init_size=init_size, n_jobs=1)
    found = warned(
        lambda: [
            model.partial_fit(
                streamgmm.open(
                    X[i : i + batch], missing="drop", sample_weight=weights[i : i + batch]
                )
            )
            for i in range(0, len(X), batch)
        ]
    )
    assert model.skipped_rows_ == {"n_overflowing": 3, "n_missing": 4, "n_weightless": 20}
    assert model.n_samples_seen_ == len(X) - expected.n_rows
    said = messages(found, LeftOutRowsWarning)
    assert "3 whose squares overflow" in said[0]
    # A batch of which no row counts is reported, though its weights are as they were given.
    assert len(said) == (3 if batch == 7 else 1)
    assert all("no row could be used; 7 row(s) skipped: 7 of weight 0" in m for m in said[1:])
    model.save(tmp_path / "model.gmm")
    assert streamgmm.load(tmp_path / "model.gmm").skipped_rows_ == model.skipped_rows_


@pytest.mark.parametrize(
    ("remedy", "change"),
    [
        ("remove these rows", lambda X: X[3:]),
        ("NaN with missing='drop'", lambda X: streamgmm.open(_cleaned(X), missing="drop")),
        ("'em'", lambda X: streamgmm.open(_cleaned(X), missing="em")),
    ],
)
def test_the_remedies_for_rows_that_overflow_help(
    remedy: str, change: Callable[[Rows], Any]
) -> None:
    X = blobs(400)
    X[:3] = 1e300
    for model in (GaussianMixture(2, random_state=0), OnlineGaussianMixture(2, random_state=0)):
        with pytest.warns(LeftOutRowsWarning, match=remedy):
            model.fit(X)
        assert not warned(lambda m=model: m.fit(change(X)))
        with pytest.warns(LeftOutRowsWarning, match="and the score is -inf"):
            assert model.score(X) == -np.inf
        assert not warned(lambda m=model: m.score(change(X)))


def _cleaned(X: Rows) -> Rows:
    return np.where(np.abs(X) > 1e100, np.nan, X)


@pytest.mark.parametrize(
    ("weights", "value", "reason", "remedy"),
    [
        (0.0, 1.0, "of weight 0", "positive weights"),
        (1.0, np.nan, "for lack of values", "Fill the missing values"),
        (1.0, 1e300, "whose squares overflow", "remove these rows"),
    ],
)
def test_a_batch_without_a_usable_row_is_reported(
    weights: float, value: float, reason: str, remedy: str
) -> None:
    good = blobs(500)
    model = OnlineGaussianMixture(2, random_state=0, init_size=200).partial_fit(good)
    bad = streamgmm.open(
        np.full((30, 2), value), missing="drop", sample_weight=np.full(30, weights)
    )
    message = rf"no row could be used; 30 row\(s\) skipped: 30 {reason}.*{remedy}"
    before = model.means_
    with pytest.warns(LeftOutRowsWarning, match=message):
        model.partial_fit(bad)
    assert model.n_samples_seen_ == 500
    np.testing.assert_array_equal(model.means_, before)
    assert not warned(
        lambda: model.partial_fit(streamgmm.open(good[:30], sample_weight=np.ones(30)))
    )


@pytest.mark.parametrize("batch_id", [None, "a"])
@pytest.mark.parametrize("init_size", [100, 1000])
def test_updates_count_the_rows_that_were_learned(
    tmp_path: Path, batch_id: str | None, init_size: int
) -> None:
    X, weights, expected = spoilt()
    path = tmp_path / "model.gmm"
    OnlineGaussianMixture(2, random_state=0, init_size=init_size).save(path)
    events: list[Event] = []
    with pytest.warns(LeftOutRowsWarning, match="3 whose squares overflow"):
        streamgmm.update(
            path, X, batch_id, sample_weight=weights, missing="drop", callbacks=[events.append]
        )
    (learned,) = [event for event in events if isinstance(event, RowsLearned)]
    assert learned.n_rows == learned.n_samples == 373
    assert learned.skipped == expected


def test_the_command_line_counts_skipped_rows(tmp_path: Path) -> None:
    X, weights, _ = spoilt()
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "w.npy", weights)
    described = ("--missing", "drop", "--sample-weight", "w.npy")
    text = "27 row(s) skipped: 3 whose squares overflow, 4 for lack of values, 20 of weight 0"
    out, err = command(
        "update", "m.gmm", "x.npy", "-k", "2", "--seed", "0", *described, folder=tmp_path
    )
    assert f"373 new rows, {text}; 2 components" in out
    assert f"373 rows learned, 373 in all; {text}" in err
    assert "warning: 27 row(s) skipped" in err
    out, _ = command("info", "m.gmm", folder=tmp_path)
    assert text in out
    options = ("-o", "b.gmm", "-k", "2", "--seed", "0")
    out, err = command("fit", "x.npy", *options, *described, folder=tmp_path)
    assert text in out.splitlines()[0]
    assert f"rows surveyed, {text}; sample of 373" in err
    out, err = command("score", "b.gmm", "x.npy", *described, folder=tmp_path)
    assert f"{text}, and the score is -inf" in err
    assert "log-likelihood -inf" in out
