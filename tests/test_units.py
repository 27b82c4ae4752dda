"""Columns in units of their own: what is added to variances is small beside each of them."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import sklearn.mixture
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import adjusted_rand_score

import streamgmm
from benchmarks.units import EXAMPLES, Example, companies, moisture_flux, row
from streamgmm import GaussianMixture, OnlineGaussianMixture
from streamgmm.errors import CheckpointError, DegenerateComponentWarning, ParameterError
from streamgmm.events import Event, SampleStage
from streamgmm.options import CovarianceType
from streamgmm.persistence import Record, read_record, write_record
from streamgmm.testing.chunked import ChunkedSource
from tests.core.cases import TYPES
from tests.test_online import batches, moved, stream

# Some rows are few, and some ridges large: what is said of them is tested elsewhere.
pytestmark = [
    pytest.mark.filterwarnings(f"ignore::streamgmm.errors.{name}")
    for name in ("FewRowsWarning", "RidgeWarning", "DegenerateComponentWarning")
]

Rows = NDArray[np.float64]


def rule(rows: Rows) -> Rows:
    """A millionth of the variance that the quartiles tell of, at most 1e-6; by NumPy."""
    lower, upper = np.nanquantile(rows, [0.25, 0.75], axis=0)
    ridge: Rows = 1e-6 * np.minimum(1.0, np.square((upper - lower) / 1.349))
    return ridge


def narrow(n: int = 2000, seed: int = 0) -> Rows:
    """Two blobs; the second column is of variance 1e-8."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, n)
    return rng.normal(size=(n, 2)) * [2.0, 2e-5] + np.outer(labels, [8.0, 2e-4])


def start_of(model: Any) -> dict[str, Any]:
    return {
        "n_components": len(model.weights_),
        "covariance_type": model.covariance_type,
        "weights_init": model.weights_,
        "means_init": model.means_,
        "precisions_init": model.precisions_,
    }


def agreement(example: Example, model: Any) -> float:
    return float(adjusted_rand_score(example.labels, model.predict(example.rows)))


# What is found


@pytest.mark.parametrize("draw", EXAMPLES, ids=lambda draw: draw.__name__)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_units_make_no_difference(draw: Callable[[], Example], seed: int) -> None:
    example = draw()
    model = GaussianMixture(random_state=seed)
    found = example.agreement(model, example.rows)
    assert model.converged_
    np.testing.assert_allclose(model.reg_covar_, rule(example.rows), rtol=1e-9)
    expected = example.agreement(GaussianMixture(random_state=seed), example.standardised)
    assert expected > 0.6
    assert found == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("covariance_type", ["tied", "diag"])
def test_units_make_no_difference_to_other_structures(covariance_type: CovarianceType) -> None:
    for example in (moisture_flux(), companies()):
        settings: dict[str, Any] = {"covariance_type": covariance_type, "random_state": 0}
        found, expected = (
            example.agreement(GaussianMixture(**settings), rows)
            for rows in (example.rows, example.standardised)
        )
        assert found == pytest.approx(expected, abs=0.01)


def test_a_ridge_for_other_units_hides_the_classes() -> None:
    example = moisture_flux()
    model = GaussianMixture(random_state=0, reg_covar=1e-6)
    assert example.agreement(model, example.rows) < 0.01
    assert float(row("flux", example, range(1))[-1]) > 0.95


def test_weights_and_missing_values_are_no_hindrance() -> None:
    example = moisture_flux()
    rng = np.random.default_rng(0)
    weights = rng.uniform(0.5, 1.5, len(example.rows))
    weights[rng.random(len(weights)) < 0.1] = 0.0
    model = GaussianMixture(2, random_state=0).fit(example.rows, sample_weight=weights)
    assert agreement(example, model) > 0.95
    gaps = example.rows.copy()
    gaps[rng.random(gaps.shape) < 0.05] = np.nan
    model = GaussianMixture(2, random_state=0).fit(streamgmm.open(gaps, missing="em"))
    np.testing.assert_allclose(model.reg_covar_, rule(gaps), rtol=1e-9)
    assert agreement(example, model) > 0.95


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_any_width_of_floats(dtype: Any) -> None:
    example = moisture_flux()
    model = GaussianMixture(2, random_state=0).fit(example.rows.astype(dtype))
    np.testing.assert_allclose(model.reg_covar_, rule(example.rows), rtol=1e-5)
    assert agreement(example, model) > 0.95


def test_integers() -> None:
    rows = np.random.default_rng(0).integers(0, 2, (1000, 2)) * [1, 1000]
    model = GaussianMixture(1).fit(rows)
    np.testing.assert_allclose(model.reg_covar_, [(1 / 1.349) ** 2 * 1e-6, 1e-6], rtol=1e-9)


def test_blobs_are_found_as_with_one_small_number() -> None:
    rng = np.random.default_rng(0)
    centres = rng.uniform(0.0, 1e6, (20, 2))
    rows = centres[np.arange(4000) % 20] + rng.normal(scale=100.0, size=(4000, 2))
    default, given = (
        GaussianMixture(20, random_state=0, **settings).fit(rows)
        for settings in ({}, {"reg_covar": 1e-6})
    )
    assert default.reg_covar_.tolist() == [1e-6, 1e-6]
    for name in ("weights_", "means_", "covariances_", "precisions_cholesky_"):
        np.testing.assert_array_equal(getattr(default, name), getattr(given, name))
    assert default.lower_bounds_ == given.lower_bounds_


def test_one_value_does_not_set_the_ridge() -> None:
    rows = narrow(1001)
    expected = rule(rows)
    rows[500, 1] = 1e30
    # One component is of this row alone.
    with pytest.warns(DegenerateComponentWarning):
        model = GaussianMixture(3, random_state=0).fit(rows)
    np.testing.assert_allclose(model.reg_covar_, expected, rtol=0.01)
    assert model.covariances_[:, 1, 1].min() < 1e-7


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("algorithm", ["auto", "em"])
def test_hard_columns_end_in_no_error(covariance_type: CovarianceType, algorithm: str) -> None:
    rng = np.random.default_rng(0)
    rows = np.column_stack(
        [
            1e9 + rng.normal(scale=1e-6, size=600),
            np.full(600, 0.1),
            np.where(rng.random(600) < 0.1, rng.exponential(1e-7, 600), 0.0),
            rng.normal(scale=1e-150, size=600),
            rng.normal(size=600),
        ]
    )
    model = GaussianMixture(
        2, covariance_type=covariance_type, algorithm=algorithm, random_state=0, tol=1.0
    )
    with warnings.catch_warnings():
        # Components may collapse onto so few distinct values.
        warnings.simplefilter("ignore")
        model.fit(rows)
    assert np.isfinite(model.precisions_cholesky_).all()


@pytest.mark.parametrize("n", [2, 3])
def test_a_few_rows(n: int) -> None:
    rows = np.array([[1.0, 1e-9], [2.0, 2e-9], [4.0, 2e-9]])[:n]
    model = GaussianMixture(1).fit(rows)
    np.testing.assert_allclose(model.reg_covar_[0], rule(rows)[0], rtol=1e-9)
    assert 0.0 < model.reg_covar_[1] < 1e-24


# Which rows say it, and when


def test_plain_em_takes_scikit_learns_number() -> None:
    model = GaussianMixture(2, algorithm="em", random_state=0).fit(narrow())
    assert model.reg_covar_.tolist() == [1e-6, 1e-6]
    given = GaussianMixture(2, algorithm="em", random_state=0, reg_covar=1e-6).fit(narrow())
    np.testing.assert_array_equal(model.covariances_, given.covariances_)


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("n", [3000, 90_000])
def test_a_given_start_has_rows_of_its_own(in_memory: bool, n: int) -> None:
    rows = narrow(n)
    start = start_of(GaussianMixture(2, random_state=0).fit(rows))
    data = rows if in_memory else ChunkedSource(rows, 100)
    model = GaussianMixture(**start, random_state=0).fit(data)
    np.testing.assert_allclose(model.reg_covar_, rule(rows), rtol=0.1)
    if n == 3000:
        np.testing.assert_allclose(model.reg_covar_, rule(rows), rtol=1e-9)
        purposes = [read["purpose"] for read in model.history_]
        # Rows in memory are at hand without a pass.
        assert purposes == (["sample"] if not in_memory else []) + ["iteration"] * model.n_iter_
    if isinstance(data, ChunkedSource):
        assert data.n_reads == pytest.approx(model.n_reads_ * data.n_chunks)
    elif n == 3000:
        other = GaussianMixture(**start, random_state=0).fit(ChunkedSource(rows, 100))
        np.testing.assert_array_equal(model.reg_covar_, other.reg_covar_)
    # A ridge that is known needs no rows.
    given = GaussianMixture(**start, random_state=0, reg_covar=model.reg_covar_).fit(data)
    np.testing.assert_array_equal(given.covariances_, model.covariances_)


def test_a_start_that_is_kept_has_no_ridge() -> None:
    start = start_of(GaussianMixture(2, random_state=0).fit(narrow()))
    model = GaussianMixture(**start, max_iter=0).fit(narrow())
    assert not hasattr(model, "reg_covar_")
    assert model.to_sklearn().reg_covar == sklearn.mixture.GaussianMixture().reg_covar
    model.set_params(warm_start=True, max_iter=100).fit(narrow())
    np.testing.assert_allclose(model.reg_covar_, rule(narrow()), rtol=1e-9)


@pytest.mark.parametrize("algorithm", ["auto", "em"])
def test_a_warm_start_keeps_the_ridge(algorithm: str) -> None:
    model = GaussianMixture(2, random_state=0, warm_start=True).fit(narrow())
    before = model.reg_covar_
    model.set_params(algorithm=algorithm).fit(2.0 * narrow(seed=1))
    np.testing.assert_array_equal(model.reg_covar_, before)
    model.set_params(reg_covar=0.25).fit(narrow())
    assert model.reg_covar_.tolist() == [0.25, 0.25]
    model.set_params(reg_covar="auto", warm_start=False, algorithm="auto").fit(narrow())
    np.testing.assert_array_equal(model.reg_covar_, before)


def test_a_fit_that_fails_leaves_the_ridge() -> None:
    model = GaussianMixture(2, random_state=0).fit(narrow())
    before = model.reg_covar_
    with pytest.raises(ValueError, match="NaN"):
        model.fit(np.full((100, 2), np.nan))
    assert model.reg_covar_ is before


def test_fixed_covariances_and_part_of_a_survey() -> None:
    rows = narrow(40_000)
    start = start_of(GaussianMixture(2, random_state=0).fit(rows))
    fixed = {"precisions_init": start["precisions_init"], "fixed": ("covariances",)}
    model = GaussianMixture(2, random_state=0, **fixed).fit(rows)
    np.testing.assert_allclose(model.precisions_, start["precisions_init"], rtol=1e-9)
    np.testing.assert_allclose(model.reg_covar_, rule(rows), rtol=0.1)
    source = ChunkedSource(rows, 500)
    model = GaussianMixture(2, random_state=0, survey_part=0.5).fit(source)
    np.testing.assert_allclose(model.reg_covar_, rule(rows), rtol=0.1)


# One number for each column


@pytest.mark.parametrize("algorithm", ["auto", "em"])
@pytest.mark.parametrize("covariance_type", ["full", "tied", "diag"])
def test_a_ridge_for_each_column(covariance_type: CovarianceType, algorithm: str) -> None:
    """Scaled rows with a scaled ridge end in the scaled mixture; powers of two round nothing."""
    rows = narrow() * [1.0, 2.0**14]
    scales = np.array([2.0**10, 2.0**-20])
    start = start_of(GaussianMixture(2, covariance_type=covariance_type, random_state=0).fit(rows))
    moved = {**start, "means_init": start["means_init"] * scales}
    inverse = 1.0 / scales
    factors = {
        "diag": inverse**2,
        "full": np.outer(inverse, inverse),
        "tied": np.outer(inverse, inverse),
    }
    moved["precisions_init"] = start["precisions_init"] * factors[covariance_type]
    settings: dict[str, Any] = {"algorithm": algorithm, "tol": 1e-10, "random_state": 0}
    ridge = np.array([0.3, 0.01])
    one = GaussianMixture(**start, **settings, reg_covar=ridge).fit(rows)
    other = GaussianMixture(**moved, **settings, reg_covar=ridge * scales**2).fit(rows * scales)
    np.testing.assert_allclose(other.means_, one.means_ * scales, rtol=1e-6)
    np.testing.assert_allclose(
        other.covariances_ * factors[covariance_type], one.covariances_, rtol=1e-5, atol=1e-7
    )
    np.testing.assert_array_equal(one.reg_covar_, ridge)
    swapped = GaussianMixture(**start, **settings, reg_covar=ridge[::-1]).fit(rows)
    assert not np.allclose(swapped.covariances_, one.covariances_, rtol=1e-3)


def test_one_variance_takes_the_smallest() -> None:
    settings: dict[str, Any] = {"covariance_type": "spherical", "random_state": 0}
    rows = narrow() * [1.0, 1e4]
    one, other = (
        GaussianMixture(2, **settings, reg_covar=ridge).fit(rows) for ridge in (0.25, [0.5, 0.25])
    )
    np.testing.assert_array_equal(one.covariances_, other.covariances_)
    assert other.reg_covar_.tolist() == [0.25, 0.25]
    default = GaussianMixture(2, **settings).fit(narrow())
    np.testing.assert_allclose(default.reg_covar_, rule(narrow()).min(), rtol=1e-9)


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("algorithm", ["auto", "em"])
def test_equal_entries_are_one_number(covariance_type: CovarianceType, algorithm: str) -> None:
    rows = narrow() * [1.0, 1e5]
    settings: dict[str, Any] = {"covariance_type": covariance_type, "algorithm": algorithm}
    for value in (1e-6, 0.3):
        one, other = (
            GaussianMixture(2, random_state=0, reg_covar=ridge, **settings).fit(rows)
            for ridge in (value, [value, value])
        )
        np.testing.assert_array_equal(one.precisions_cholesky_, other.precisions_cholesky_)
        np.testing.assert_array_equal(one.covariances_, other.covariances_)


@pytest.mark.parametrize("estimator", [GaussianMixture, OnlineGaussianMixture])
@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([1e-6], r"shape \(1,\)"),
        ([1e-6, -1.0], r"column\(s\) b \(-1\)"),
        (np.array([np.nan, 1.0]), r"column\(s\) a \(nan\)"),
        (-1.0, "reg_covar"),
        (np.nan, "reg_covar"),
        (np.inf, "reg_covar"),
        ("other", "reg_covar"),
        (None, "reg_covar"),
    ],
)
def test_wrong_numbers_are_refused(estimator: Any, value: Any, message: str) -> None:
    frame = pandas.DataFrame(narrow(100), columns=["a", "b"])
    with pytest.raises(ValueError, match=message):
        estimator(2, reg_covar=value).fit(frame)
    if np.ndim(value):
        with pytest.raises(ParameterError, match=message):
            estimator(2, reg_covar=value).fit(frame)


def test_settings_are_kept_as_they_are() -> None:
    ridge = np.array([1e-6, 1e-12])
    for estimator in (GaussianMixture, OnlineGaussianMixture):
        model = estimator(2, reg_covar=ridge)
        assert model.get_params()["reg_covar"] is ridge
        np.testing.assert_array_equal(clone(model).reg_covar, ridge)
        assert estimator().reg_covar == "auto"
        assert repr(model)
    assert model.fit(narrow()).reg_covar is ridge


# Other models


@pytest.mark.parametrize("setting", ["auto", 1e-12, [1e-6, 1e-13]])
@pytest.mark.parametrize("estimator", [GaussianMixture, OnlineGaussianMixture])
def test_files_hold_setting_and_ridge(estimator: Any, setting: Any, tmp_path: Path) -> None:
    model = estimator(2, reg_covar=setting, random_state=0).fit(narrow())
    model.save(tmp_path / "m.gmm")
    loaded = streamgmm.load(tmp_path / "m.gmm")
    np.testing.assert_array_equal(loaded.reg_covar_, model.reg_covar_)
    np.testing.assert_array_equal(loaded.reg_covar, setting)
    assert type(loaded.reg_covar) is (np.ndarray if np.ndim(setting) else type(setting))
    loaded.save(tmp_path / "n.gmm")
    again = streamgmm.load(tmp_path / "n.gmm")
    np.testing.assert_array_equal(again.reg_covar_, model.reg_covar_)
    if isinstance(model, OnlineGaussianMixture):
        for one in (model, again):
            one.partial_fit(narrow(seed=1))
        np.testing.assert_array_equal(again.covariances_, model.covariances_)


def test_older_files_hold_one_number(tmp_path: Path) -> None:
    batch = GaussianMixture(2, reg_covar=1e-3, random_state=0).fit(narrow())
    batch.save(tmp_path / "batch.gmm")
    record = read_record(tmp_path / "batch.gmm")
    arrays = {name: array for name, array in record.arrays.items() if name != "reg_covar_"}
    write_record(tmp_path / "batch.gmm", Record(record.header, arrays))
    loaded = streamgmm.load(tmp_path / "batch.gmm")
    assert loaded.reg_covar_.tolist() == [1e-3, 1e-3]

    online = OnlineGaussianMixture(2, reg_covar=1e-3, random_state=0).fit(narrow())
    online.save(tmp_path / "online.gmm")
    record = read_record(tmp_path / "online.gmm")
    header = json.loads(json.dumps(dict(record.header)))
    header["plan"]["reg_covar"] = 1e-3
    arrays = {name: array for name, array in record.arrays.items() if name != "model.reg_covar"}
    assert len(arrays) == len(record.arrays) - 1
    write_record(tmp_path / "online.gmm", Record(header, arrays))
    stored = streamgmm.load(tmp_path / "online.gmm")
    assert stored.reg_covar_.tolist() == [1e-3, 1e-3]
    for one in (online, stored):
        one.partial_fit(narrow(seed=1))
    np.testing.assert_array_equal(stored.covariances_, online.covariances_)


def test_derived_models_have_their_columns_entries() -> None:
    frame = pandas.DataFrame(
        np.column_stack([narrow(), narrow(seed=1)[:, 0]]), columns=["a", "b", "c"]
    )
    ridge = [1e-6, 1e-14, 1e-3]
    for model in (
        GaussianMixture(2, reg_covar=ridge, random_state=0).fit(frame),
        OnlineGaussianMixture(2, reg_covar=ridge, random_state=0).fit(frame),
    ):
        part = model.marginal(["c", "b"])
        assert part.reg_covar_.tolist() == [1e-3, 1e-14]
        # Which can be fitted.
        assert part.fit(frame[["c", "b"]]).reg_covar_.tolist() == [1e-3, 1e-14]
        assert model.conditional({"b": 0.0}).reg_covar_.tolist() == [1e-6, 1e-3]
    model = GaussianMixture(2, random_state=0).fit(frame)
    assert model.marginal([1]).reg_covar_.tolist() == [model.reg_covar_[1]]


def test_scikit_learn_has_one_number() -> None:
    model = GaussianMixture(2, random_state=0).fit(narrow())
    converted = model.to_sklearn()
    assert converted.reg_covar == model.reg_covar_.min() < 1e-13
    assert converted.set_params(warm_start=True, max_iter=3, tol=1.0).fit(narrow())
    back = GaussianMixture.from_sklearn(converted)
    assert back.reg_covar_.tolist() == [converted.reg_covar] * 2


def test_a_stream_has_the_ridge_of_its_search() -> None:
    example = moisture_flux(n=20_000)
    model = OnlineGaussianMixture(random_state=0, init_size=4000).set_params(n_components=2)
    for start in range(0, 20_000, 500):
        model.partial_fit(example.rows[start : start + 500])
        if start < 4000:
            # Fewer rows have been searched.
            assert np.all(model.reg_covar_ <= 1e-6)
    np.testing.assert_allclose(model.reg_covar_, rule(example.rows[:4000]), rtol=1e-9)
    assert agreement(example, model) > 0.95
    # However it is cut.
    whole = OnlineGaussianMixture(2, random_state=0, init_size=4000).fit(example.rows)
    np.testing.assert_array_equal(whole.reg_covar_, model.reg_covar_)


def test_a_mixture_that_replaces_another_has_a_ridge_of_its_own() -> None:
    model = OnlineGaussianMixture(3, random_state=0, init_size=500, half_life=500)
    before = stream(6000) * [1.0, 1e-5]
    after = moved(stream(6000)) * [1.0, 1e-8] + [0.0, 1e-3]
    for batch in batches(before, 250):
        model.partial_fit(batch)
    np.testing.assert_allclose(model.reg_covar_, rule(before[:500]), rtol=1e-9)
    assert model.changes_ == []
    for batch in batches(after, 250):
        model.partial_fit(batch)
    assert len(model.changes_) == 1
    np.testing.assert_allclose(model.reg_covar_, rule(after), rtol=0.3)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_updates_keep_the_ridge(covariance_type: CovarianceType, tmp_path: Path) -> None:
    batch = GaussianMixture(2, covariance_type=covariance_type, random_state=0).fit(narrow())
    batch.save(tmp_path / "m.gmm")
    updated = streamgmm.update(tmp_path / "m.gmm", narrow(seed=1))
    np.testing.assert_array_equal(updated.reg_covar_, batch.reg_covar_)
    assert updated.reg_covar == "auto"
    again = streamgmm.update(tmp_path / "m.gmm", narrow(seed=2), reg_covar="auto")
    np.testing.assert_array_equal(again.reg_covar_, batch.reg_covar_)
    with pytest.raises(ParameterError, match="reg_covar is 'auto' and not 1e-06"):
        streamgmm.update(tmp_path / "m.gmm", narrow(seed=2), reg_covar=1e-6)
    polished = again.to_batch(warm_start=True)
    np.testing.assert_array_equal(polished.reg_covar_, batch.reg_covar_)
    np.testing.assert_array_equal(polished.fit(narrow()).reg_covar_, batch.reg_covar_)


def test_updates_take_one_number_for_each_column(tmp_path: Path) -> None:
    ridge = [1e-6, 1e-13]
    for _ in range(2):
        model = streamgmm.update(tmp_path / "m.gmm", narrow(), n_components=2, reg_covar=ridge)
    assert model.reg_covar_.tolist() == ridge
    with pytest.raises(ParameterError, match="reg_covar is "):
        streamgmm.update(tmp_path / "m.gmm", narrow(), reg_covar=[1e-6, 1e-12])
    batch = GaussianMixture(2, random_state=0).fit(narrow())
    assert OnlineGaussianMixture.from_batch(batch, reg_covar=ridge).reg_covar_.tolist() == ridge


def test_merged_models_have_the_smallest_ridge() -> None:
    rows = narrow()
    models = [
        GaussianMixture(2, random_state=0).fit(rows * scales)
        for scales in ([1.0, 1.0], [0.1, 10.0], [1.0, 0.5])
    ]
    merged = OnlineGaussianMixture.merged(models, n_components=4)
    expected = np.min([model.reg_covar_ for model in models], axis=0)
    np.testing.assert_array_equal(merged.reg_covar_, expected)
    assert np.all(expected < 5e-7)
    other = OnlineGaussianMixture.merged(models[::-1], n_components=4)
    np.testing.assert_array_equal(other.reg_covar_, expected)
    given = OnlineGaussianMixture.merged(models, n_components=4, reg_covar=1e-3)
    assert given.reg_covar_.tolist() == [1e-3, 1e-3]


# Checkpoints and the command line


def test_an_interrupted_fit_continues_with_its_ridge(tmp_path: Path) -> None:
    rows = narrow(4000)
    settings: dict[str, Any] = {"random_state": 0, "tol": 1e-9, "checkpoint": tmp_path / "c"}

    def stop(event: Event) -> None:
        if isinstance(event, SampleStage) and event.name == "EM":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        GaussianMixture(3, **settings, callbacks=[stop]).fit(rows)
    with pytest.raises(CheckpointError, match="reg_covar was 'auto' and is "):
        GaussianMixture(3, **settings, reg_covar=[1e-6, 1e-12]).fit(rows, resume=True)
    resumed = GaussianMixture(3, **settings).fit(rows, resume=True)
    whole = GaussianMixture(3, random_state=0, tol=1e-9).fit(rows)
    np.testing.assert_array_equal(resumed.reg_covar_, whole.reg_covar_)
    np.testing.assert_array_equal(resumed.covariances_, whole.covariances_)


def test_the_best_model_so_far_has_the_ridge(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    model = GaussianMixture(2, random_state=0, tol=0.0, max_iter=2, checkpoint=folder)
    with pytest.warns(ConvergenceWarning):
        model.fit(narrow())
    stored = streamgmm.load(folder / "model.gmm")
    np.testing.assert_array_equal(stored.reg_covar_, model.reg_covar_)
