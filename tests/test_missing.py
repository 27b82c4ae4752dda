"""Rows with missing values: excluded from a fit and counted, or used for the values that they have.

In either case they keep their places in predictions.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask.array
import numpy as np
import pandas
import pytest
import xarray
import zarr
from numpy.typing import NDArray

import streamgmm
from streamgmm import GaussianMixture
from streamgmm.core.e_step import EStep
from streamgmm.core.frame import Frame
from streamgmm.core.parameters import Parameters
from streamgmm.errors import DataError, NotFiniteError, ParameterError
from streamgmm.options import CovarianceType
from tests.core.cases import TYPES, covariances_for, draw, random_parameters

N, D = 5000, 3


def rows_with_gaps(part: float = 0.3) -> NDArray[np.float64]:
    random = np.random.default_rng(0)
    rows = random.normal(size=(N, D)) + 6.0 * random.integers(0, 2, (N, 1))
    rows[random.random(rows.shape) < part] = np.nan
    return rows


def complete(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    return rows[~np.isnan(rows).any(axis=1)]


def start(covariance_type: CovarianceType = "full", **settings: Any) -> GaussianMixture:
    precisions: Any = {
        "full": np.tile(np.eye(D), (2, 1, 1)),
        "tied": np.eye(D),
        "diag": np.ones((2, D)),
        "spherical": np.ones(2),
    }[covariance_type]
    return GaussianMixture(
        2,
        covariance_type=covariance_type,
        weights_init=[0.5, 0.5],
        means_init=[[0.0] * D, [6.0] * D],
        precisions_init=precisions,
        tol=1e-9,
        **settings,
    )


def as_npy(rows: NDArray[Any], folder: Path) -> Any:
    np.save(folder / "x.npy", rows)
    return folder / "x.npy"


def as_zarr(rows: NDArray[Any], folder: Path) -> Any:
    zarr.create_array(folder / "x.zarr", data=rows, chunks=(700, 2))
    return folder / "x.zarr"


KINDS: dict[str, Callable[[NDArray[Any], Path], Any]] = {
    "array": lambda rows, folder: rows,
    "npy": as_npy,
    "zarr": as_zarr,
    "dask": lambda rows, folder: dask.array.from_array(rows, chunks=(900, 2)),
}


@pytest.mark.parametrize("covariance_type", ["full", "tied", "diag", "spherical"])
@pytest.mark.parametrize("part", [0.001, 0.3])
def test_a_fit_is_that_of_the_complete_rows(covariance_type: CovarianceType, part: float) -> None:
    rows = rows_with_gaps(part)
    model = start(covariance_type).fit(streamgmm.open(rows, missing="drop"))
    expected = start(covariance_type).fit(complete(rows))
    for name in ("weights_", "means_", "covariances_"):
        np.testing.assert_allclose(getattr(model, name), getattr(expected, name), rtol=1e-10)
    assert model.n_iter_ == expected.n_iter_
    assert model.lower_bound_ == pytest.approx(expected.lower_bound_, rel=1e-12)
    n_complete = len(complete(rows))
    assert {read["n_rows"] for read in model.history_} == {n_complete}
    assert {read["n_missing"] for read in model.history_} == {N - n_complete}


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_data(kind: str, tmp_path: Path) -> None:
    rows = rows_with_gaps()
    source = streamgmm.open(KINDS[kind](rows, tmp_path), missing="drop")
    model = start().fit(source)
    expected = start().fit(complete(rows))
    np.testing.assert_allclose(model.means_, expected.means_, rtol=1e-10)

    incomplete = np.isnan(rows).any(axis=1)
    labels = np.asarray(model.predict(source))
    np.testing.assert_array_equal(labels[~incomplete], expected.predict(complete(rows)))
    np.testing.assert_array_equal(labels[incomplete], -1)
    for method in ("score_samples", "predict_proba"):
        values = np.asarray(getattr(model, method)(source))
        ours = getattr(model, method)(complete(rows))
        np.testing.assert_allclose(values[~incomplete], ours, rtol=1e-12, atol=1e-12)
        assert np.isnan(values[incomplete]).all()
    assert model.score(source) == pytest.approx(model.score(complete(rows)), rel=1e-12)
    assert model.bic(source) == pytest.approx(model.bic(complete(rows)), rel=1e-12)


@pytest.mark.parametrize("suffix", [".npy", ".zarr"])
def test_labels_on_disk(suffix: str, tmp_path: Path) -> None:
    rows = rows_with_gaps()
    source = streamgmm.open(rows, missing="drop")
    model = start().fit(source)
    out = tmp_path / f"labels{suffix}"
    model.predict(source, out=out)
    written = np.load(out) if suffix == ".npy" else zarr.open_array(out)[:]
    assert written.dtype == np.int8
    np.testing.assert_array_equal(written, model.predict(source))


def test_starts_are_made_of_complete_rows() -> None:
    rows = rows_with_gaps(0.6)
    source = streamgmm.open(rows, missing="drop")
    model = GaussianMixture(2, random_state=0).fit(source)
    assert sorted(model.means_[:, 0].round()) == [0.0, 6.0]


def test_weights_belong_to_their_rows() -> None:
    rows = rows_with_gaps()
    weights = np.random.default_rng(1).integers(0, 4, N).astype(float)
    model = start().fit(streamgmm.open(rows, missing="drop", sample_weight=weights))
    kept = ~np.isnan(rows).any(axis=1)
    expected = start().fit(rows[kept], sample_weight=weights[kept])
    np.testing.assert_allclose(model.means_, expected.means_, rtol=1e-10)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_other_types(dtype: Any) -> None:
    rows = rows_with_gaps().astype(dtype)
    model = start().fit(streamgmm.open(rows, missing="drop"))
    expected = start().fit(complete(rows.astype(np.float64)))
    np.testing.assert_allclose(model.means_, expected.means_, rtol=1e-9)


def test_infinity_is_refused_all_the_same() -> None:
    rows = rows_with_gaps()
    rows[1234] = [1.0, np.nan, -np.inf]
    source = streamgmm.open(rows, missing="drop")
    message = r"contains infinity: 1 value\(s\) in 1 of 5000 rows; the first: row 1234 column 2"
    with pytest.raises(NotFiniteError, match=message):
        start().fit(source)
    with pytest.raises(NotFiniteError, match="contains infinity"):
        GaussianMixture(2, random_state=0).fit(source)
    model = start().fit(complete(rows_with_gaps()))
    with pytest.raises(NotFiniteError, match="infinity: 1 value"):
        model.predict(source)


def test_the_default_refuses_and_says_how_to_go_on() -> None:
    with pytest.raises(NotFiniteError, match=r"skip those with NaN by .*missing='drop'"):
        start().fit(rows_with_gaps())


def test_values_are_used_where_they_are(tmp_path: Path) -> None:
    rows = rows_with_gaps()
    rows[17] = np.nan
    expected = start().fit(streamgmm.open(rows, missing="em"))
    n_empty = int(np.isnan(rows).all(axis=1).sum())
    assert {read["n_rows"] for read in expected.history_} == {N - n_empty}
    assert {read["n_missing"] for read in expected.history_} == {n_empty}
    assert np.diff(expected.lower_bounds_).min() > -1e-9
    for kind, made in KINDS.items():
        source = streamgmm.open(made(rows, tmp_path), missing="em")
        model = start().fit(source)
        np.testing.assert_allclose(model.means_, expected.means_, rtol=1e-10, err_msg=kind)
        labels = np.asarray(model.predict(source))
        is_empty = np.isnan(rows).all(axis=1)
        np.testing.assert_array_equal(labels == -1, is_empty)
        scores = np.asarray(model.score_samples(source))
        np.testing.assert_array_equal(np.isnan(scores), is_empty)
        assert model.score(source) == pytest.approx(scores[~is_empty].mean(), rel=1e-12)
        filled = np.asarray(model.impute(source))
        np.testing.assert_array_equal(filled[~np.isnan(rows)], rows[~np.isnan(rows)])
        assert np.isfinite(filled).all()


@pytest.mark.parametrize("covariance_type", TYPES)
def test_incomplete_rows_lead_to_the_truth(covariance_type: CovarianceType) -> None:
    # Values after the first are missing at random, more of them where the first is large.
    d, n, n_samples = 8, 8000, 20
    rng = np.random.default_rng(5)
    means = np.array([[0.0], [3.0]]) * np.ones(d)
    truth = Parameters.create(
        covariance_type, [0.4, 0.6], means, covariances_for(rng, covariance_type, 2, d)
    )
    settings: Any = {
        "weights_init": truth.weights,
        "means_init": truth.means,
        "precisions_init": truth.precisions,
        "covariance_type": covariance_type,
        "tol": 1e-8,
        "reg_covar": 0.0,
        "max_iter": 500,
    }
    found: dict[str, list[NDArray[np.float64]]] = {"em": [], "drop": []}
    n_complete = 0
    for _ in range(n_samples):
        rows = draw(rng, truth, n)
        part = np.where(rows[:, :1] > 2.0, 0.38, 0.31)
        rows[:, 1:][rng.random((n, d - 1)) < part] = np.nan
        n_complete += len(complete(rows))
        for missing, estimates in found.items():
            model = GaussianMixture(2, **settings).fit(streamgmm.open(rows, missing=missing))
            estimates.append(model.means_.ravel())
    assert n_complete < 0.06 * n * n_samples
    errors = {name: np.array(values) - truth.means.ravel() for name, values in found.items()}
    deviations = {name: error.std(axis=0, ddof=1) for name, error in errors.items()}
    em = errors["em"].mean(axis=0) / (deviations["em"] / np.sqrt(n_samples))
    assert np.abs(em).max() < 3.0
    assert (np.abs(errors["em"]) < 3.0 * deviations["em"]).mean() > 0.98
    # What is left of the rows is few and no fair sample.
    drop = errors["drop"].mean(axis=0) / (deviations["drop"] / np.sqrt(n_samples))
    assert np.abs(drop).max() > 5.0
    assert np.median(deviations["drop"] / deviations["em"]) > 2.0


@pytest.mark.parametrize("init_params", ["kmeans", "k-means++", "random_from_data", "random"])
@pytest.mark.parametrize("covariance_type", TYPES)
def test_starts_are_made_of_incomplete_rows(
    covariance_type: CovarianceType, init_params: str
) -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(2000, 12)) + 8.0 * rng.integers(0, 2, (2000, 1))
    rows[rng.random(rows.shape) < 0.4] = np.nan
    assert len(complete(rows)) < 20
    source = streamgmm.open(rows, missing="em")
    model = GaussianMixture(
        2, covariance_type=covariance_type, init_params=init_params, random_state=0
    ).fit(source)
    assert np.isfinite(model.lower_bound_)
    if init_params == "kmeans":
        np.testing.assert_allclose(np.sort(model.means_[:, 3]), [0.0, 8.0], atol=0.2)


def test_a_feature_without_values() -> None:
    rows = rows_with_gaps()
    rows[:, 1] = np.nan
    with pytest.raises(DataError, match=r"no value in \d+ rows of column\(s\) 1"):
        GaussianMixture(2).fit(streamgmm.open(rows, missing="em"))


def test_a_feature_that_one_component_never_shows() -> None:
    rows = complete(rows_with_gaps())
    rows[rows[:, 0] > 3.0, 1] = np.nan
    model = GaussianMixture(2, random_state=0).fit(streamgmm.open(rows, missing="em"))
    assert model.converged_
    assert np.isfinite(model.covariances_).all()


def test_imputed_values_are_the_best_guess() -> None:
    rng = np.random.default_rng(1)
    truth = Parameters.create(
        "full", [0.5, 0.5], [[0.0] * D, [6.0] * D], covariances_for(rng, "full", 2, D)
    )
    rows = draw(rng, truth, 4000)
    model = GaussianMixture(2, random_state=0).fit(rows)
    gaps = rng.random(rows.shape) < 0.3
    filled = model.impute(np.where(gaps, np.nan, rows))
    squares = np.square(filled - rows)[gaps].mean()
    assert squares < 0.7 * np.square(rows.mean(axis=0) - rows)[gaps].mean()
    assert filled.dtype == np.float64
    single = np.where(gaps, np.nan, rows).astype(np.float32)
    assert model.impute(single).dtype == np.float32
    integers = rows.round().astype(np.int32)
    np.testing.assert_array_equal(model.impute(integers), integers)
    with pytest.raises(NotFiniteError, match="infinity"):
        model.impute([[np.inf, 0.0, np.nan]])
    with pytest.raises(ValueError, match="4 features"):
        model.impute(np.zeros((2, D + 1)))


def test_imputed_rows_on_disk(tmp_path: Path) -> None:
    rows = rows_with_gaps()
    model = start().fit(streamgmm.open(rows, missing="em"))
    np.save(tmp_path / "x.npy", rows)
    out = tmp_path / "filled.npy"
    assert model.impute(tmp_path / "x.npy", out=out) == out
    np.testing.assert_array_equal(np.load(out), model.impute(rows))


def test_imputed_rows_keep_their_labels() -> None:
    rows = rows_with_gaps()
    frame = pandas.DataFrame(rows, columns=["a", "b", "c"], index=np.arange(N) + 7)
    model = start().fit(streamgmm.open(frame, missing="em"))
    expected = start().fit(streamgmm.open(rows, missing="em")).impute(rows)
    for given in (frame, streamgmm.open(frame)):
        filled = model.impute(given)
        pandas.testing.assert_index_equal(filled.index, frame.index)
        assert list(filled.columns) == ["a", "b", "c"]
        np.testing.assert_array_equal(filled, expected)
    labels = model.predict(streamgmm.open(frame, missing="em"))
    pandas.testing.assert_index_equal(labels.index, frame.index)
    dataset = xarray.Dataset(
        {name: (("y", "x"), rows[:, d].reshape(50, -1)) for d, name in enumerate("abc")},
        coords={"y": np.arange(50) * 2.0},
    )
    gridded = model.impute(dataset)
    assert list(gridded.data_vars) == ["a", "b", "c"]
    assert gridded["b"].dims == ("y", "x")
    np.testing.assert_array_equal(gridded["b"], expected[:, 1].reshape(50, -1))
    np.testing.assert_array_equal(gridded.y, dataset.y)


def test_dask_rows_are_imputed_lazily() -> None:
    rows = rows_with_gaps()
    model = start().fit(streamgmm.open(rows, missing="em"))
    lazy = model.impute(dask.array.from_array(rows, chunks=(900, 2)))
    assert isinstance(lazy, dask.array.Array)
    np.testing.assert_allclose(lazy.compute(), model.impute(rows), rtol=1e-12)


def test_what_is_left_out_is_told_apart() -> None:
    rows = np.zeros((6, D))
    rows[1, 0] = np.nan
    rows[2] = [np.nan, np.inf, 0.0]
    rows[3, 1] = np.inf
    rows[4, 2] = 1e200
    parameters = start(max_iter=0).fit(complete(rows_with_gaps()))._parameters()
    found = EStep.prepare(parameters, Frame.of(parameters)).statistics(rows)
    assert (found.n_rows, found.n_overflowing) == (2, 1)
    assert (found.n_not_finite, found.n_missing) == (3, 1)


# Ten rows are fewer than the parameters, whatever they hold.
@pytest.mark.filterwarnings("ignore::streamgmm.errors.FewRowsWarning")
def test_nothing_is_left() -> None:
    source = streamgmm.open(np.full((10, D), np.nan), missing="drop")
    with pytest.raises(DataError, match="10 because they hold NaN"):
        start().fit(source)
    with pytest.raises(DataError, match="10 because they hold NaN"):
        GaussianMixture(2).fit(source)


def test_what_may_be_done_is_checked() -> None:
    wrong: Any = "ignore"
    with pytest.raises(ParameterError, match="missing is 'ignore'; choose one of error, drop, em"):
        streamgmm.open(np.zeros((3, 1)), missing=wrong)


def test_a_source_keeps_what_it_was_told() -> None:
    source = streamgmm.open(rows_with_gaps(), missing="drop")
    assert streamgmm.open(source).missing == "drop"
    assert streamgmm.open(source, sample_weight=np.ones(N)).missing == "drop"
    assert streamgmm.open(source, missing="error").missing == "error"
    assert source.missing == "drop"


# Columns and rows of which little is known --------------------------------------------------------


def two_clusters(n: int) -> NDArray[np.float64]:
    random = np.random.default_rng(6)
    return random.normal(size=(n, D)) + 4.0 * random.integers(0, 2, (n, 1))


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("n_values", [3, 40])
def test_a_column_of_few_values_is_fitted(covariance_type: CovarianceType, n_values: int) -> None:
    rows = two_clusters(30_000)
    seen = np.linspace(0, 29_999, n_values).astype(int)
    column = rows[seen, 2]
    rows[:, 2] = np.nan
    rows[seen, 2] = column
    # Short runs on a part of the sample see none of them, or one.
    model = GaussianMixture(2, covariance_type=covariance_type, random_state=0)
    model.fit(streamgmm.open(rows, missing="em"))
    assert model.converged_
    assert np.isfinite(model.lower_bound_)
    for values in (model.weights_, model.means_, model.covariances_):
        assert np.isfinite(values).all()
    others = np.sort(model.means_[:, 0])
    np.testing.assert_allclose(others, [0.0, 4.0], atol=0.2)


@pytest.mark.parametrize(
    ("n_values", "message"),
    [
        (0, r"no value in 300000 rows of column\(s\) b; exclude"),
        (2, r"values in so few rows that none of the \d+ sampled ones has any of column\(s\) b"),
    ],
)
def test_a_column_of_which_the_sample_has_no_value_is_refused(n_values: int, message: str) -> None:
    values = two_clusters(300_000)
    values[n_values:, 1] = np.nan
    frame = pandas.DataFrame(values, columns=["a", "b", "c"])
    with pytest.raises(DataError, match=message):
        GaussianMixture(2, random_state=0).fit(streamgmm.open(frame, missing="em"))


def test_where_most_rows_have_gaps_the_fit_goes_on_to_the_end() -> None:
    rng = np.random.default_rng(7)
    rows = draw(rng, random_parameters(rng, "full", 4, 4, spread=2.5), 100_000)
    rows[rng.random(rows.shape) < 0.6] = np.nan
    source = streamgmm.open(rows, missing="em")
    model = GaussianMixture(4, random_state=0, tol=1e-5).fit(source)
    assert model.converged_
    settings: Any = {
        "weights_init": model.weights_,
        "means_init": model.means_,
        "precisions_init": model.precisions_,
    }
    em = GaussianMixture(4, algorithm="em", tol=1e-8, max_iter=1000, **settings).fit(source)
    # So few rows are whole that what remains is told from past gains alone, a few times too low.
    assert em.lower_bound_ - model.lower_bound_ < 3e-5


def test_masked_values_are_imputed() -> None:
    """The mask of an array says which values are missing, as NaN does."""
    rows = np.random.default_rng(0).normal(size=(200, 2)) @ [[1.0, 0.8], [0.0, 0.6]]
    masked = np.ma.masked_greater(rows, 1.5)
    model = GaussianMixture().fit(rows)
    found = model.impute(masked)
    np.testing.assert_array_equal(found, model.impute(masked.filled(np.nan)))
    np.testing.assert_array_equal(found[~masked.mask], rows[~masked.mask])
    assert np.isfinite(found).all()
