"""Outputs of labelled data: xarray opens them, with the coordinates of the data."""

import shutil
from pathlib import Path
from typing import Any

import dask.array
import fsspec
import numpy as np
import pandas
import pytest
import xarray
import zarr

import streamgmm
from streamgmm import GaussianMixture, KMeans
from streamgmm.errors import DataError, OutputError, ParameterError
from streamgmm.events import ChunkDone, Event
from streamgmm.sinks import file

SIZES = {"time": 24, "lat": 12, "lon": 16}
CHUNKS = (8, 4, 16)
# What zarr-python says of any store that xarray writes, if it holds text.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Consolidated metadata"),
    pytest.mark.filterwarnings("ignore:The data type"),
]


def climate(with_land: bool = True) -> xarray.Dataset:
    """Two variables of two regimes, with land, times in a calendar, and coordinates of any kind."""
    random = np.random.default_rng(0)
    shape = tuple(SIZES.values())
    is_warm = np.arange(shape[1])[:, np.newaxis] > 5
    t = 10.0 * is_warm + random.normal(size=shape)
    q = 3.0 * is_warm + random.normal(size=shape)
    if with_land:
        t[:, 2:4, 5:9] = np.nan
    dims = tuple(SIZES)
    data = xarray.Dataset(
        {"t": (dims, t.astype("f4")), "q": (dims, q.astype("f4"))},
        coords={
            "time": pandas.date_range("2020-01-31T06", periods=shape[0], freq="7h"),
            "lat": ("lat", np.linspace(-60.0, 60.0, shape[1]), {"units": "degrees_north"}),
            "height": (("lat", "lon"), random.normal(size=shape[1:])),
            "season": ("time", np.array(["cold", "warm"])[np.arange(shape[0]) % 2]),
            "run": 3,
        },
        attrs={"title": "a made-up climate", "Conventions": "CF-1.8"},
    )
    data["t"].attrs.update(units="K", standard_name="air_temperature")
    data["q"].attrs.update(units="kg kg-1", valid_range=np.array([-90.0, 90.0], "f4"))
    data["time"].encoding["units"] = "hours since 1900-01-01"
    return data


def store(folder: Path, data: xarray.Dataset | None = None, **settings: Any) -> Path:
    data = climate() if data is None else data
    encoding = {name: {"chunks": CHUNKS} for name in ("t", "q")}
    data.to_zarr(folder / "data.zarr", encoding=encoding, **settings)
    return folder / "data.zarr"


@pytest.fixture(scope="module")
def fitted() -> GaussianMixture:
    return GaussianMixture(2, random_state=0).fit(streamgmm.open(climate(), missing="drop"))


def opened(path: Path | str) -> Any:
    return streamgmm.open(path, variables=["t", "q"], missing="drop")


def written(out: Path | str, **settings: Any) -> xarray.Dataset:
    """What xarray finds in an output, without the marks of what is not there."""
    location, _, group = str(out).partition("::/")
    if location.endswith(".nc"):
        found = xarray.open_dataset(location, **settings)
    else:
        found = xarray.open_zarr(location, group=group or None, **settings)
    return found.load()


OUTPUTS = ["out.zarr", "out.nc", "data.zarr::/labels"]


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("consolidated", [True, False])
@pytest.mark.parametrize("name", OUTPUTS)
def test_labels_are_what_is_predicted_in_memory(
    name: str, consolidated: bool, zarr_format: Any, fitted: GaussianMixture, tmp_path: Path
) -> None:
    source = opened(store(tmp_path, consolidated=consolidated, zarr_format=zarr_format))
    expected = fitted.predict(source)
    out = f"{tmp_path}/{name}"
    settings: dict[str, Any] = {} if "::" not in name or consolidated else {"consolidated": False}
    assert fitted.predict(source, out=out) == out
    found = written(out, **settings)["component"]
    assert (expected == -1).any()
    # By CF, values that mark rows without a label are NaN when they are read.
    xarray.testing.assert_identical(found.fillna(-1), expected.load())
    assert found.encoding["dtype"] == np.int8
    assert found.encoding["_FillValue"] == -1
    stored = written(out, **settings, mask_and_scale=False)["component"]
    assert stored.dtype == np.int8
    np.testing.assert_array_equal(stored.attrs["flag_values"], [0, 1])
    assert stored.attrs["flag_meanings"] == "component_0 component_1"
    assert found["time"].encoding["units"] == "hours since 1900-01-01"
    # A second call replaces its own output.
    assert fitted.predict(source, out=out) == out
    assert not list(tmp_path.glob("*.part"))
    data = written(tmp_path / "data.zarr", consolidated=consolidated)
    xarray.testing.assert_identical(data, climate().load())


@pytest.mark.parametrize("suffix", ["zarr", "nc"])
def test_each_kind_of_prediction_has_its_name(
    suffix: str, fitted: GaussianMixture, tmp_path: Path
) -> None:
    source = opened(store(tmp_path))
    for method, name in (("predict_proba", "responsibility"), ("score_samples", "log_density")):
        expected = getattr(fitted, method)(source)
        found = written(getattr(fitted, method)(source, out=tmp_path / f"{name}.{suffix}"))
        assert found.attrs["title"] == "a made-up climate"
        xarray.testing.assert_identical(found[name], expected.load())
        small = tmp_path / f"small {name}.{suffix}"
        found = written(getattr(fitted, method)(source, out=small, dtype="float32"))
        assert found[name].dtype == np.float32
        np.testing.assert_allclose(found[name], expected, rtol=1e-6, atol=1e-30)
    assert found[name].dims == ("time", "lat", "lon")


@pytest.mark.parametrize("suffix", ["zarr", "nc"])
def test_imputed_variables_have_their_own_names(
    suffix: str, fitted: GaussianMixture, tmp_path: Path
) -> None:
    source = opened(store(tmp_path))
    expected = fitted.impute(source)
    found = written(fitted.impute(source, out=tmp_path / f"filled.{suffix}"))
    del found.attrs["streamgmm_output"]
    xarray.testing.assert_identical(found, expected.load())
    for name in ("t", "q"):
        assert found[name].attrs["units"] == climate()[name].attrs["units"]
        given = climate()[name]
        assert found[name].notnull().all()
        xarray.testing.assert_equal(found[name].where(given.notnull()), given)
    assert "valid_range" not in found["q"].attrs


def test_features_along_a_dimension_keep_it_when_they_are_imputed(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    values = random.normal(size=(3, 40, 6)).astype("f4")
    values[1, 7, 2] = np.nan
    data = xarray.Dataset(
        {"t": (("level", "time", "lat"), values), "p": (("time", "lat"), 2.0 * values[0])},
        coords={"level": ("level", [850, 500, 200], {"units": "hPa"})},
    )
    source = streamgmm.open(data, feature_dim="level", missing="em")
    found = GaussianMixture().fit(source).impute(source)
    xarray.testing.assert_allclose(found.where(data.notnull()), data.transpose(*found.dims))
    assert found["t"].dims == ("time", "lat", "level")
    out = GaussianMixture().fit(source).impute(source, out=tmp_path / "out.zarr")
    xarray.testing.assert_equal(written(out), found)
    one = GaussianMixture().fit(streamgmm.open(data["t"], feature_dim="level", missing="em"))
    array = one.impute(streamgmm.open(data["t"], feature_dim="level"))
    assert array.name == "t"
    xarray.testing.assert_equal(array["level"], data["level"])


def test_a_box_of_the_data_keeps_its_own_coordinates(
    fitted: GaussianMixture, tmp_path: Path
) -> None:
    box = {"time": slice(5, 19), "lat": slice(3, None), "lon": slice(2, 11)}
    data = xarray.open_zarr(store(tmp_path), chunks=None).isel(box)[["t", "q"]]
    source = streamgmm.open(data, missing="drop")
    found = written(fitted.predict(source, out=tmp_path / "out.zarr"))["component"]
    xarray.testing.assert_identical(found.fillna(-1), fitted.predict(source).load())
    xarray.testing.assert_identical(found["time"], climate()["time"].isel(time=box["time"]))
    whole = fitted.predict(opened(tmp_path / "data.zarr"))
    xarray.testing.assert_equal(found.fillna(-1), whole.isel(box).load())


@pytest.mark.parametrize("suffix", ["zarr", "nc"])
def test_times_of_other_calendars_survive(
    suffix: str, fitted: GaussianMixture, tmp_path: Path
) -> None:
    times = xarray.date_range("2000-02-28", periods=24, freq="D", calendar="360_day")
    data = climate().assign_coords(time=times)
    path = store(tmp_path, data)
    found = written(fitted.predict(opened(path), out=tmp_path / f"out.{suffix}"))
    assert found["time"].encoding["calendar"] == "360_day"
    assert found["time"].values.tolist() == times.tolist()
    # Units that the times are no whole numbers of are given up, not the times.
    data = climate().assign_coords(time=climate()["time"] + np.timedelta64(1001, "ms"))
    data["time"].encoding["units"] = "days since 2000-01-01"
    source = streamgmm.open(data, missing="drop")
    found = written(fitted.predict(source, out=tmp_path / f"fine.{suffix}"))
    xarray.testing.assert_equal(found["time"], data["time"])


def test_predictions_of_lazy_data_are_lazy(fitted: GaussianMixture) -> None:
    def refuse(block: Any) -> Any:
        raise AssertionError("computed")

    data = climate()
    lazy = data.chunk(time=7, lat=5, lon=16)
    for method in ("predict", "predict_proba", "score_samples", "impute"):
        expected = getattr(fitted, method)(streamgmm.open(data, missing="drop"))
        found = getattr(fitted, method)(streamgmm.open(lazy, missing="drop"))
        assert all(map(dask.is_dask_collection, (found, found)))
        xarray.testing.assert_allclose(found.compute(), expected)
        xarray.testing.assert_identical(found.coords.to_dataset(), expected.coords.to_dataset())
    assert found["t"].chunksizes["time"] == (7, 7, 7, 3)
    dims, shape = tuple(SIZES), tuple(SIZES.values())
    never = dask.array.zeros(shape, chunks=CHUNKS, dtype="f4").map_blocks(refuse, dtype="f4")
    data = xarray.Dataset({"t": (dims, never), "q": (dims, never)})
    assert fitted.predict(data).dtype == np.int64
    weighted = streamgmm.open(data, sample_weight=np.ones(never.size))
    assert dask.is_dask_collection(fitted.predict(weighted))


def test_lazy_predictions_refuse_missing_values(fitted: GaussianMixture) -> None:
    with pytest.raises(DataError, match="NaN"):
        fitted.predict(streamgmm.open(climate().chunk(time=7), missing="error")).compute()


def test_other_data_are_never_replaced(fitted: GaussianMixture, tmp_path: Path) -> None:
    path = store(tmp_path)
    source = opened(path)
    other = streamgmm.open(climate(), missing="drop")
    climate().to_zarr(tmp_path / "other.zarr")
    climate().to_netcdf(tmp_path / "other.nc", engine="h5netcdf")
    (tmp_path / "text.nc").write_text("precious")
    (tmp_path / "folder.zarr").mkdir()
    for out in (
        path,
        tmp_path / "other.zarr",
        tmp_path / "other.nc",
        tmp_path / "text.nc",
        tmp_path / "folder.zarr",
        f"{path}::/t",
        f"{path}::/t/labels",
        f"{path}::/missing/labels",
        f"{tmp_path}/missing.zarr::/labels",
        f"{tmp_path}/other.nc::/labels",
    ):
        for rows in (source, other):
            with pytest.raises(OutputError):
                fitted.predict(rows, out=out)
    fitted.predict(source, out=tmp_path / "out.zarr")
    # Another program has added a variable.
    extra = climate()[["t"]].drop_vars([*climate().coords]).rename(t="mine")
    extra.to_zarr(tmp_path / "out.zarr", mode="a")
    with pytest.raises(OutputError, match="it will not be replaced"):
        fitted.predict(source, out=tmp_path / "out.zarr")
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(
        ["data.zarr", "folder.zarr", "other.nc", "other.zarr", "out.zarr", "text.nc"]
    )
    for name in ("data.zarr", "other.zarr", "other.nc"):
        xarray.testing.assert_identical(written(tmp_path / name), climate().load())


def test_a_bare_array_of_an_earlier_output_is_replaced(
    fitted: GaussianMixture, tmp_path: Path
) -> None:
    zarr.create_array(tmp_path / "out.zarr", data=np.zeros(3))
    fitted.predict(opened(store(tmp_path)), out=tmp_path / "out.zarr")
    assert "component" in written(tmp_path / "out.zarr")


def test_names_that_are_taken_are_refused(tmp_path: Path) -> None:
    data = climate(with_land=False)
    model = GaussianMixture(2, random_state=0).fit(data)
    with pytest.raises(OutputError, match=r"rename\(component="):
        model.predict(data.assign_coords(component=4), out=tmp_path / "out.zarr")
    with pytest.raises(DataError, match=r"rename\(component="):
        model.predict_proba(data.rename(lat="component"))
    stacked = data.stack(place=("lat", "lon"))
    with pytest.raises(OutputError, match="reset_index"):
        model.predict(stacked, out=tmp_path / "out.zarr")
    assert not list(tmp_path.iterdir())


def test_types_of_labels_are_chosen_within_reason(fitted: GaussianMixture, tmp_path: Path) -> None:
    source = streamgmm.open(climate(), missing="drop")
    rows = np.random.default_rng(0).normal(size=(20, 2))
    for dtype in ("int8", np.int32, "int64"):
        assert fitted.predict(source, dtype=dtype).dtype == dtype
        out = fitted.predict(source, out=tmp_path / "o.zarr", dtype=dtype)
        assert written(out, mask_and_scale=False)["component"].dtype == dtype
    fitted = GaussianMixture(2, random_state=0).fit(rows)
    assert np.load(fitted.predict(rows, out=tmp_path / "o.npy")).dtype == np.int8
    assert np.load(fitted.predict(rows, out=tmp_path / "o.npy", dtype="int64")).dtype == np.int64
    for dtype in ("uint8", float, "int3", object):
        with pytest.raises(ParameterError, match="dtype"):
            fitted.predict(rows, dtype=dtype)
    with pytest.raises(ParameterError, match="float32 or float64"):
        fitted.score_samples(rows, dtype="float16")
    means = np.arange(200.0)[:, np.newaxis]
    many = KMeans(200, init=means, max_iter=1).fit(means)
    assert np.load(many.predict(means, out=tmp_path / "o.npy")).dtype == np.int16
    with pytest.raises(ParameterError, match="at least 16 bits"):
        many.predict(means, dtype="int8")
    lazy = dask.array.from_array(rows, chunks=5)
    assert fitted.predict(lazy, dtype="int8").compute().dtype == np.int8


@pytest.mark.parametrize("name", OUTPUTS)
def test_interrupted_outputs_continue(
    name: str, fitted: GaussianMixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file, "_SYNC_SECONDS", 0.0)
    # Boxes of several chunks, so that there is something left to do.
    monkeypatch.setattr("streamgmm.sources.xarray.rows_per_chunk", lambda d, n=1: n)
    path = store(tmp_path)
    out = f"{tmp_path}/{name}"
    n_done = 0

    def stop(event: Event) -> None:
        nonlocal n_done
        n_done += isinstance(event, ChunkDone)
        if n_done == 4:
            raise KeyboardInterrupt

    model = GaussianMixture.from_fitted_model(fitted.fitted_model_, n_jobs=1, callbacks=[stop])
    with pytest.raises(KeyboardInterrupt):
        model.predict(opened(path), out=out)
    (part,) = tmp_path.glob("*.part")
    kept = tmp_path.parent / f"{tmp_path.name}-kept"
    shutil.copytree(part, kept)
    (tmp_path / "later").mkdir()
    later = climate().assign_coords(time=climate()["time"] + np.timedelta64(1, "h"))
    with pytest.raises(OutputError, match=r"labels and attributes|data was"):
        model.predict(opened(store(tmp_path / "later", later)), out=out, resume=True)
    n_rows = []
    counting = [lambda event: n_rows.append(event.n_rows if isinstance(event, ChunkDone) else 0)]
    model.set_params(callbacks=counting)
    model.predict(opened(path), out=out, resume=True)
    whole = fitted.predict(opened(path)).load()
    assert 0 < sum(n_rows) < whole.size
    xarray.testing.assert_identical(written(out)["component"].fillna(-1), whole)
    # Whatever is damaged is found: a coordinate, the metadata of a variable, values.
    folder = "labels" if "::" in name else "variables.zarr" if name.endswith("nc") else name
    for damaged in ("lat/c/0", "component/zarr.json", "component/c/0/0/0"):
        shutil.rmtree(part, ignore_errors=True)
        shutil.copytree(kept, part)
        content = bytearray((part / folder / damaged).read_bytes())
        content[len(content) // 2] ^= 0xFF
        (part / folder / damaged).write_bytes(content)
        model.predict(opened(path), out=out, resume=True)
        xarray.testing.assert_identical(written(out)["component"].fillna(-1), whole)
    xarray.testing.assert_identical(written(path), climate().load())


def test_outputs_at_a_url(fitted: GaussianMixture, tmp_path: Path) -> None:
    source = opened(store(tmp_path))
    expected = fitted.predict(source).load()
    url = "memory://labels/out.zarr"
    for _ in range(2):
        assert fitted.predict(source, out=url) == url
        found = xarray.open_zarr(url).load()
        xarray.testing.assert_identical(found["component"].fillna(-1), expected)
    filesystem = fsspec.filesystem("memory")
    assert not [name for name in filesystem.find("labels") if "unfinished" in name]
    climate().to_zarr("memory://labels/data.zarr")
    fitted.predict(source, out="memory://labels/data.zarr::/labels")
    found = xarray.open_zarr("memory://labels/data.zarr", group="labels").load()
    xarray.testing.assert_identical(found["component"].fillna(-1), expected)
    xarray.testing.assert_identical(
        xarray.open_zarr("memory://labels/data.zarr").load(), climate().load()
    )
    filesystem.pipe_file("labels/else/x.txt", b"precious")
    for name in ("data.zarr", "else.nc", "no.zarr::/labels", "data.zarr::/t"):
        with pytest.raises(OutputError):
            fitted.predict(source, out=f"memory://labels/{name}")
    with pytest.raises(ParameterError, match="resume"):
        fitted.predict(source, out=url, resume=True)

    def stop(event: Event) -> None:
        if isinstance(event, ChunkDone):
            raise KeyboardInterrupt

    model = GaussianMixture.from_fitted_model(fitted.fitted_model_, callbacks=[stop])
    with pytest.raises(KeyboardInterrupt):
        model.predict(source, out="memory://labels/never.zarr")
    assert not filesystem.exists("labels/never.zarr")
    filesystem.rm("labels", recursive=True)
