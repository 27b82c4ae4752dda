"""The description of the data travels with the model: new data are found and checked by it."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import xarray

import streamgmm
from streamgmm import GaussianMixture, OnlineGaussianMixture
from streamgmm.core.data_description import DataDescription
from streamgmm.errors import DataError, ModelFileError
from streamgmm.persistence import Record, read_record, write_record

SIZES = {"time": 12, "lat": 6, "lon": 5}


def month(seed: int = 0, **units: str) -> xarray.Dataset:
    """Variables with and without levels; one more that is no feature; land."""
    random = np.random.default_rng(seed)
    shape = tuple(SIZES.values())
    t = random.normal(size=(3, *shape)) + 9.0 * (np.arange(6) > 2)[:, np.newaxis]
    t[:, :, 1, 2] = np.nan
    return xarray.Dataset(
        {
            "quality": (tuple(SIZES), np.ones(shape)),
            "p": (tuple(SIZES), random.normal(size=shape), {"units": units.get("p", "hPa")}),
            "t": (("level", *SIZES), t, {"units": units.get("t", "K")}),
        },
        coords={"level": ("level", [850, 500, 200], {"units": units.get("level", "hPa")})},
    )


DESCRIBED: dict[str, Any] = {"variables": ["t", "p"], "feature_dim": "level", "missing": "drop"}


@pytest.fixture(scope="module")
def fitted() -> GaussianMixture:
    return GaussianMixture(2, random_state=0).fit(streamgmm.open(month(), **DESCRIBED))


def stored(data: xarray.Dataset, folder: Path, suffix: str) -> Path:
    path = folder / f"next.{suffix}"
    if suffix == "nc":
        data.to_netcdf(path, engine="h5netcdf")
    else:
        data.to_zarr(path, consolidated=False)
    return path


@pytest.mark.parametrize("suffix", ["zarr", "nc"])
@pytest.mark.parametrize("kind", ["batch", "online"])
def test_the_next_month_needs_no_description(
    suffix: str, kind: str, fitted: GaussianMixture, tmp_path: Path
) -> None:
    model = fitted if kind == "batch" else OnlineGaussianMixture.from_batch(fitted)
    model.save(tmp_path / "model.gmm")
    model = streamgmm.load(tmp_path / "model.gmm")
    assert model.data_description_ == DataDescription(
        variables=("t", "p"),
        feature_dim="level",
        levels=(850.0, 500.0, 200.0),
        units={"t": "K", "p": "hPa", "level": "hPa"},
        missing="drop",
    )
    # In another order in the store, beside other variables.
    path = stored(month(1), tmp_path, suffix)
    expected = model.predict(streamgmm.open(month(1), **DESCRIBED))
    assert (expected == -1).any()
    model.predict(path, out=tmp_path / "labels.zarr")
    found = xarray.open_zarr(tmp_path / "labels.zarr")["component"].load()
    xarray.testing.assert_equal(found.fillna(-1), expected)
    assert model.score(path) == pytest.approx(model.score(streamgmm.open(path, **DESCRIBED)))
    xarray.testing.assert_equal(model.predict(month(1)), expected)


def test_variables_are_matched_by_name(fitted: GaussianMixture) -> None:
    other = {**DESCRIBED, "variables": ["p", "t"]}
    for weights in (None, np.ones(SIZES["lat"] * 60)):
        source = streamgmm.open(month(1), sample_weight=weights, **other)
        expected = fitted.predict(streamgmm.open(month(1), **DESCRIBED))
        xarray.testing.assert_equal(fitted.predict(source), expected)
        assert source.feature_names is not None
        assert source.feature_names[0] == "p"
        filled = fitted.impute(source)
        xarray.testing.assert_allclose(filled["p"], month(1)["p"])


def test_other_data_are_refused_with_what_differs(fitted: GaussianMixture, tmp_path: Path) -> None:
    for data, message in (
        (month().drop_vars("p"), r"no variable 'p'; it has: .*quality"),
        (month(t="degC"), "t of .* is in degC, but the model was fitted to K; convert"),
        (month(level="Pa"), "level of .* is in Pa, but the model was fitted to hPa"),
        (month().sel(level=[850, 200, 500]), r"level of .* is 850, 200, 500, .*sel\(level=\[850,"),
        (month().isel(level=[0, 1]), r"level of .* is 850, 500, but the model was fitted to 850"),
    ):
        for given in (data, stored(data, tmp_path, "zarr")):
            with pytest.raises(DataError, match=message):
                fitted.score(given)
        shutil.rmtree(tmp_path / "next.zarr")
    # Data that do not say their units are not compared.
    silent = month()
    del silent["t"].attrs["units"]
    assert fitted.score(silent) == fitted.score(month())


def test_columns_of_a_table_are_found_by_name(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(200, 3))
    frame = pandas.DataFrame(rows, columns=["a", "b", "c"])
    model = GaussianMixture(2, random_state=0).fit(streamgmm.open(frame, columns=["c", "a"]))
    frame[["b", "a", "c"]].to_parquet(tmp_path / "next.parquet")
    model.save(tmp_path / "model.gmm")
    model = GaussianMixture.load(tmp_path / "model.gmm")
    out = model.predict(tmp_path / "next.parquet", out=tmp_path / "labels.npy")
    np.testing.assert_array_equal(np.load(out), model.predict(frame[["c", "a"]]))


def test_models_of_plain_rows_describe_little(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(200, 3))
    model = GaussianMixture().fit(rows)
    assert model.data_description_ == DataDescription()
    np.save(tmp_path / "x.npy", rows)
    assert model.score(tmp_path / "x.npy") == pytest.approx(model.score(rows))
    assert not hasattr(model.marginal([0]), "data_description_")


@pytest.mark.parametrize(
    "entry",
    [
        3,
        {"variables": "t"},
        {"variables": [3]},
        {"levels": [None]},
        {"levels": [float("nan")]},
        {"units": ["K"]},
        {"units": {"t": 3}},
        {"missing": "fill"},
        {"feature_dim": 3},
        {"path": "/etc/passwd"},
    ],
)
def test_descriptions_in_files_are_checked(
    entry: Any, fitted: GaussianMixture, tmp_path: Path
) -> None:
    fitted.save(tmp_path / "model.gmm")
    record = read_record(tmp_path / "model.gmm")
    header = {name: x for name, x in record.header.items() if name != "digest"}
    assert json.loads(json.dumps(header["data"])) == header["data"]
    write_record(tmp_path / "bad.gmm", Record({**header, "data": entry}, record.arrays))
    with pytest.raises(ModelFileError, match="bad"):
        streamgmm.load(tmp_path / "bad.gmm")
    # Files of older releases have none.
    del header["data"]
    write_record(tmp_path / "old.gmm", Record(header, record.arrays))
    assert not hasattr(streamgmm.load(tmp_path / "old.gmm"), "data_description_")
