"""Weights that data hold themselves, and weights of rows that take no part."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask.array
import numpy as np
import pandas
import polars
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import xarray
from click.testing import CliRunner

import streamgmm
from streamgmm import GaussianMixture, OnlineGaussianMixture
from streamgmm.cli import commands
from streamgmm.errors import DataError, ParameterError

RNG = np.random.default_rng(0)
N = 2000
COLUMNS = {
    "a": RNG.normal(size=N),
    "b": RNG.normal(size=N),
    "w": RNG.integers(0, 4, N).astype(float),
    "lat": np.linspace(-90.0, 90.0, N),
}
FEATURES = np.column_stack([COLUMNS["a"], COLUMNS["b"]])
COSINE = np.cos(np.deg2rad(COLUMNS["lat"]))


def columns(*names: str) -> dict[str, Any]:
    return {name: COLUMNS[name] for name in names}


def parquet(folder: Path, values: dict[str, Any]) -> Path:
    pq.write_table(pa.table(values), folder / "x.parquet", row_group_size=300)
    return folder / "x.parquet"


def netcdf(folder: Path, values: dict[str, Any]) -> str:
    dataset(values).to_netcdf(folder / "x.nc", engine="h5netcdf")
    return str(folder / "x.nc")


def dataset(values: dict[str, Any]) -> xarray.Dataset:
    return xarray.Dataset({name: ("row", column) for name, column in values.items()})


TABLES: dict[str, Callable[[Path, dict[str, Any]], Any]] = {
    "pandas": lambda folder, values: pandas.DataFrame(values),
    "polars": lambda folder, values: polars.DataFrame(values),
    "pyarrow": lambda folder, values: pa.table(values),
    "Parquet": parquet,
    "data set": lambda folder, values: ds.dataset(parquet(folder, values)),
    "xarray": lambda folder, values: dataset(values),
    "Dask in xarray": lambda folder, values: dataset(values).chunk(row=500),
}


@pytest.mark.parametrize("kind", TABLES)
@pytest.mark.parametrize("name", ["w", "lat"])
def test_a_column_is_the_weights_and_no_feature(kind: str, name: str, tmp_path: Path) -> None:
    data = TABLES[kind](tmp_path, columns("a", name, "b"))
    weights, values = name, COLUMNS["w"]
    if name == "lat":
        weights, values = streamgmm.cos_latitude("lat"), COSINE
    source = streamgmm.open(data, sample_weight=weights)
    assert source.feature_names == ["a", "b"]
    chunks = [source.read(i) for i in range(len(source.boundaries) - 1)]
    np.testing.assert_array_equal(np.concatenate([chunk.rows for chunk in chunks]), FEATURES)
    np.testing.assert_allclose(np.concatenate([c.weights for c in chunks]), values, atol=1e-15)
    copy = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(copy.read(0).weights, chunks[0].weights)
    expected = GaussianMixture(random_state=0).fit(FEATURES, sample_weight=values)
    found = GaussianMixture(random_state=0).fit(data, sample_weight=weights)
    np.testing.assert_allclose(found.means_, expected.means_, rtol=1e-9)
    assert found.feature_names_in_.tolist() == ["a", "b"]
    score = found.score(data, sample_weight=weights)
    assert score == pytest.approx(expected.score(FEATURES, sample_weight=values), rel=1e-9)


def test_entrances_of_streams(tmp_path: Path) -> None:
    data = pandas.DataFrame(columns("a", "b", "w"))
    online = OnlineGaussianMixture(init_size=100).partial_fit(data, sample_weight="w")
    assert online.n_samples_seen_ == COLUMNS["w"].sum()
    path = parquet(tmp_path, columns("a", "b", "w"))
    updated = streamgmm.update(tmp_path / "m.gmm", path, sample_weight="w", n_components=1)
    assert updated.n_samples_seen_ == COLUMNS["w"].sum()


def test_chosen_features_stay(tmp_path: Path) -> None:
    data = TABLES["Parquet"](tmp_path, columns("a", "b", "w"))
    source = streamgmm.open(data, columns=["b"], sample_weight="w")
    assert source.feature_names == ["b"]
    opened = streamgmm.open(data, columns=["b"])
    np.testing.assert_array_equal(
        streamgmm.open(opened, sample_weight="w").read(0).weights, source.read(0).weights
    )
    for fail in (
        lambda: streamgmm.open(data, columns=["b", "w"], sample_weight="w"),
        lambda: GaussianMixture().fit(streamgmm.open(data), sample_weight="w"),
    ):
        with pytest.raises(ParameterError, match=r"feature of .* and its weights.*columns=\["):
            fail()


def test_a_grid_is_weighted_by_a_coordinate(tmp_path: Path) -> None:
    latitudes = np.array([-90.0, -45.0, 0.0, 45.0, 90.0], dtype="f4")
    values = ("time", "lat", "lon"), RNG.normal(size=(3, 5, 4))
    area = "lat", np.arange(5.0)
    grid = xarray.Dataset({"t": values, "q": values}, {"lat": latitudes, "area": area})
    grid.to_netcdf(tmp_path / "grid.nc", engine="h5netcdf")
    cosine = np.broadcast_to(np.cos(np.deg2rad(latitudes.astype(float)))[:, None], (3, 5, 4))
    for data in (grid, grid.chunk(time=1), tmp_path / "grid.nc"):
        opened = streamgmm.open(
            data, variables=["t", "q"], sample_weight=streamgmm.cos_latitude("lat")
        )
        weights = np.concatenate(
            [opened.read(i).weights for i in range(len(opened.boundaries) - 1)]
        )
        np.testing.assert_allclose(weights, cosine.ravel(), atol=1e-7)
        assert weights.min() == 0.0 or weights.min() < 1e-7
        opened = streamgmm.open(data, variables=["t", "q"], sample_weight="area")
        assert opened.read(0).weights.max() == 4.0
    with pytest.raises(DataError, match=r"dimensions"):
        streamgmm.open(grid["t"], feature_dim="lat", sample_weight="lat").read(0)


def test_names_that_are_none_or_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    frame = pandas.DataFrame(columns("a", "b", "w"))
    with pytest.raises(DataError, match=r"holds no 'v' and no such path; it holds a, b, w"):
        GaussianMixture().fit(frame, sample_weight="v")
    with pytest.raises(DataError, match=r"holds no 'v'; it holds a, b, w"):
        GaussianMixture().fit(frame, sample_weight=streamgmm.cos_latitude("v"))
    with pytest.raises(DataError, match="no names"):
        GaussianMixture().fit(FEATURES, sample_weight=streamgmm.cos_latitude("lat"))
    np.save("w.npy", 2.0 * COLUMNS["w"])
    np.testing.assert_array_equal(
        streamgmm.open(frame[["a"]], sample_weight="w.npy").read(0).weights, 2.0 * COLUMNS["w"]
    )
    Path("w.npy").rename("w")
    with pytest.raises(ParameterError, match=r"both a part of X and a file; give './w'"):
        GaussianMixture().fit(frame, sample_weight="w")
    for weights, factor in (("./w", 2.0), (frame["w"], 1.0)):
        source = streamgmm.open(frame[["a", "b"]], sample_weight=weights)
        np.testing.assert_array_equal(source.read(0).weights, factor * COLUMNS["w"])
    Path("w").unlink()
    text = pandas.DataFrame({"a": [1.0, 2.0], "w": ["x", "y"]})
    with pytest.raises(DataError, match="column 'w' of X has type"):
        streamgmm.open(text, columns=["a"], sample_weight="w")
    with pytest.raises(ParameterError, match="give it as text"):
        streamgmm.cos_latitude(3)  # type: ignore[arg-type]


def test_what_is_no_latitude(tmp_path: Path) -> None:
    for kind in ("pandas", "Parquet", "xarray"):
        data = TABLES[kind](tmp_path, {"a": np.ones(2), "lat": np.array([0.0, 91.0])})
        with pytest.raises(DataError, match=r"lat holds 91\.0, which is no latitude in degrees"):
            GaussianMixture().fit(data, sample_weight=streamgmm.cos_latitude("lat"))


@pytest.mark.parametrize("kind", ["numpy", "dask", "xarray"])
def test_weights_of_rows_that_are_skipped_do_not_matter(kind: str) -> None:
    rows, weights = FEATURES.copy(), np.ones(N)
    rows[3, 0] = rows[7] = np.nan
    weights[[3, 7]] = np.nan
    kept = np.delete(rows, [3, 7], axis=0)
    expected = GaussianMixture(random_state=0).fit(kept).means_

    def given(values: Any) -> Any:
        if kind == "dask":
            return dask.array.from_array(values, chunks=(500, *values.shape[1:]))
        return xarray.DataArray(values) if kind == "xarray" else values

    source = streamgmm.open(given(rows), missing="drop", sample_weight=given(weights))
    found = GaussianMixture(random_state=0).fit(source)
    np.testing.assert_allclose(found.means_, expected, rtol=1e-9)
    # Of a row with some values "em" takes those, so it needs its weight.
    weights[3] = 1.0
    source = streamgmm.open(given(rows), missing="em", sample_weight=given(weights))
    assert source.read(0).weights[7] == 0.0
    weights[3] = np.nan
    source = streamgmm.open(given(rows), missing="em", sample_weight=given(weights))
    with pytest.raises(DataError, match="the first is nan at row 3"):
        source.read(0)
    weights[[3, 7, 9]] = 1.0, 1.0, np.nan
    source = streamgmm.open(given(rows), missing="drop", sample_weight=given(weights))
    with pytest.raises(DataError, match="the first is nan at row 9"):
        source.read(0)


def test_rounding_below_zero_is_zero() -> None:
    weights = np.cos(np.deg2rad(np.array([0.0, 90.0], dtype="f4")))
    assert weights[1] < 0.0
    source = streamgmm.open(np.ones((2, 1)), sample_weight=weights)
    np.testing.assert_array_equal(source.read(0).weights, [1.0, 0.0])
    with pytest.raises(DataError, match="negative"):
        streamgmm.open(np.ones((2, 1)), sample_weight=np.array([1.0, -1e-6])).read(0)


def test_the_command_line_names_weights(tmp_path: Path) -> None:
    path = parquet(tmp_path, columns("a", "b", "lat", "w"))
    for name, values, others in (("w", COLUMNS["w"], "a,b"), ("cos(lat)", COSINE, "a,b")):
        words = ["fit", str(path), "-k", "1", "-o", str(tmp_path / "m.gmm"), "-q"]
        words += ["--columns", others, "--sample-weight", name]
        assert CliRunner().invoke(commands.main, words, catch_exceptions=False).exit_code == 0
        found = streamgmm.load(tmp_path / "m.gmm").means_
        np.testing.assert_allclose(found[0], np.average(FEATURES, axis=0, weights=values))
