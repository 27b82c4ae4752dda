"""Features along several dimensions: a feature for each combination of their entries."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import xarray
from click.testing import CliRunner
from numpy.typing import NDArray

import streamgmm
from streamgmm import GaussianMixture
from streamgmm.cli import commands
from streamgmm.core.data_description import DataDescription
from streamgmm.errors import DataError, ModelFileError
from streamgmm.persistence import read_record, write_record

DIMS = ["level", "band"]
LEVELS = [850.0, 500.0, 200.0]
NAMES = [f"level={level}, band={band}" for level in LEVELS for band in (1, 2)]


def profiles(seed: int = 0) -> xarray.Dataset:
    """Two variables along levels and bands, which are stored in different orders."""
    random = np.random.default_rng(seed)
    is_warm = 6.0 * (np.arange(8) > 3)
    t = random.normal(size=(2, 40, 3, 8)) + is_warm
    u = random.normal(size=(40, 8, 3, 2)) + np.arange(2.0)
    return xarray.Dataset(
        {
            "t": (("band", "time", "level", "lat"), t, {"units": "K"}),
            "u": (("time", "lat", "level", "band"), u, {"units": "m s-1"}),
        },
        {
            "level": ("level", LEVELS, {"units": "hPa"}),
            "band": [1, 2],
            "time": np.arange(40),
        },
    )


def rows_of(data: xarray.Dataset, names: list[str]) -> NDArray[np.float64]:
    order = ["time", "lat", *DIMS]
    columns = [data[name].transpose(*order).values.reshape(320, 6) for name in names]
    return np.concatenate(columns, axis=1)


@pytest.fixture(scope="module")
def fitted() -> GaussianMixture:
    return GaussianMixture(2, random_state=0).fit(streamgmm.open(profiles(), feature_dim=DIMS))


@pytest.mark.parametrize("kind", ["memory", "dask", "zarr", "netcdf"])
def test_rows_hold_the_product_of_the_dimensions(kind: str, tmp_path: Path) -> None:
    data: Any = profiles()
    if kind == "dask":
        data = data.chunk({"time": 20, "lat": 8, "level": 1, "band": 2})
    elif kind == "zarr":
        data.chunk({"time": 20, "level": 2}).to_zarr(tmp_path / "x.zarr", consolidated=False)
        data = tmp_path / "x.zarr"
    elif kind == "netcdf":
        data.to_netcdf(tmp_path / "x.nc", engine="h5netcdf")
        data = tmp_path / "x.nc"
    source = streamgmm.open(data, feature_dim=DIMS)
    assert source.feature_names == [f"{name}[{one}]" for name in "tu" for one in NAMES]
    chunks = [source.read(i) for i in range(len(source.boundaries) - 1)]
    rows = np.empty((320, 12))
    for chunk in chunks:
        rows[np.asarray(chunk.index)] = chunk.rows
    expected = rows_of(profiles(), ["t", "u"])
    if streamgmm.open(data, feature_dim=DIMS).sample_dims == ("lat", "time"):
        expected = expected.reshape(40, 8, 12).swapaxes(0, 1).reshape(320, 12)
    np.testing.assert_array_equal(rows, expected)


def test_each_stored_chunk_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from zarr.storage import LocalStore

    profiles().chunk({"time": 20, "level": 2}).to_zarr(tmp_path / "x.zarr", consolidated=False)
    source = streamgmm.open(tmp_path / "x.zarr", variables=["t"], feature_dim=DIMS)
    keys, get = list[str](), LocalStore.get

    async def counted(self: Any, key: str, *args: Any, **options: Any) -> Any:
        keys.append(key)
        return await get(self, key, *args, **options)

    monkeypatch.setattr(LocalStore, "get", counted)
    for i in range(len(source.boundaries) - 1):
        source.read(i)
    read = [key for key in keys if "/c/" in key]
    assert sorted(read) == sorted({*read})
    assert len(read) == 2 * 2


def test_an_array_in_memory_is_read_without_a_copy() -> None:
    array = profiles()["u"]
    source = streamgmm.open(array, feature_dim=DIMS)
    assert source.feature_names == NAMES
    assert np.shares_memory(source.read(0).rows, array.values)
    bare = streamgmm.open(xarray.DataArray(array.values), feature_dim=["dim_2", "dim_3"])
    assert bare.feature_names is None
    np.testing.assert_array_equal(bare.read(0).rows, source.read(0).rows)
    # A dimension without labels is counted.
    some = streamgmm.open(array.drop_vars("band"), feature_dim=DIMS)
    assert some.feature_names[:2] == ["level=850.0, band=0", "level=850.0, band=1"]


def test_one_dimension_may_be_a_sequence_too() -> None:
    data = profiles().isel(band=0, drop=True)
    one, other = (streamgmm.open(data, feature_dim=dim) for dim in ("level", ["level"]))
    assert one.feature_names == other.feature_names
    assert one.feature_names[0] == "t[850.0]"


def test_variables_may_lack_one_of_the_dimensions() -> None:
    data = profiles().assign(p=profiles()["t"].isel(band=0, drop=True))
    source = streamgmm.open(data, variables=["p", "u"], feature_dim=DIMS)
    assert source.feature_names[:4] == [
        *(f"p[level={level}]" for level in LEVELS),
        f"u[{NAMES[0]}]",
    ]
    found = GaussianMixture().fit(source)
    parameters = found.to_xarray()
    assert parameters["means"].dims == ("component", "feature")
    assert parameters["variable"].values.tolist() == ["p"] * 3 + ["u"] * 6
    xarray.testing.assert_allclose(
        found.impute(source)["p"], data["p"].transpose("time", "lat", ...)
    )


def test_the_description_travels_with_the_model(fitted: GaussianMixture, tmp_path: Path) -> None:
    fitted.save(tmp_path / "model.gmm")
    model = streamgmm.load(tmp_path / "model.gmm")
    assert model.data_description_ == DataDescription(
        variables=("t", "u"),
        feature_dim=("level", "band"),
        levels=((850.0, 500.0, 200.0), (1.0, 2.0)),
        units={"t": "K", "u": "m s-1", "level": "hPa"},
    )
    assert model.data_description_.labels["band"] == (1.0, 2.0)
    profiles(1)[["u", "t"]].to_zarr(tmp_path / "next.zarr", consolidated=False)
    model.predict(tmp_path / "next.zarr", out=tmp_path / "labels.zarr")
    found = xarray.open_zarr(tmp_path / "labels.zarr")["component"].load()
    frame = pandas.DataFrame(rows_of(profiles(1), ["t", "u"]), columns=model.feature_names_in_)
    expected = fitted.predict(frame).to_numpy().reshape(40, 8)
    np.testing.assert_array_equal(found.transpose("time", "lat"), expected)


def test_other_labels_or_another_order_are_refused(fitted: GaussianMixture) -> None:
    for data, message in (
        (profiles().sel(band=[2, 1]), r"band of .* is 2, 1, .*sel\(band=\[1, 2"),
        (profiles().isel(level=[0, 1]), "level of .* is 850, 500, but the model was fitted to 850"),
        (profiles().drop_vars("band"), "band of .* is 0, 1, but"),
        (
            streamgmm.open(profiles(), feature_dim=DIMS[::-1]),
            r"lie along band, level, .* feature_dim=\['level', 'band'\]",
        ),
    ):
        with pytest.raises(DataError, match=message):
            fitted.predict(data)


@pytest.mark.parametrize("is_lazy", [False, True])
def test_parameters_and_filled_values_have_the_dimensions(
    is_lazy: bool, fitted: GaussianMixture, tmp_path: Path
) -> None:
    parameters = fitted.to_xarray()
    assert parameters["means"].dims == ("component", "variable", "level", "band")
    assert parameters["level"].attrs["units"] == "hPa"
    cell = {"variable": "u", "level": 500.0, "band": 2}
    np.testing.assert_array_equal(parameters["means"].sel(cell), fitted.means_[:, 9])
    other = {"variable_2": "t", "level_2": 850.0, "band_2": 1}
    found = parameters["covariances"].sel({**cell, **other})
    np.testing.assert_array_equal(found, fitted.covariances_[:, 9, 0])

    data = profiles()
    data["t"][0, 2, 1, 5] = np.nan
    chunked = data.chunk({"time": 20, "level": 2}) if is_lazy else data
    source = streamgmm.open(chunked, feature_dim=DIMS, missing="em")
    filled = fitted.impute(source)
    assert filled["t"].dims == (*source.sample_dims, *DIMS)
    assert filled["t"].attrs == {"units": "K"}
    assert filled["band"].values.tolist() == [1, 2]
    known = data["t"].notnull()
    assert not filled["t"].isnull().any()
    xarray.testing.assert_allclose(
        filled["t"].where(known).transpose(*data["t"].dims).load(), data["t"]
    )
    for name in ("filled.zarr", "filled.nc"):
        fitted.impute(source, out=tmp_path / name)
        with xarray.open_dataset(tmp_path / name) as written:
            xarray.testing.assert_allclose(written["t"].load(), filled["t"].load())
            xarray.testing.assert_allclose(written["u"].load(), filled["u"].load())


def test_the_command_line_takes_several_dimensions(tmp_path: Path) -> None:
    profiles().to_zarr(tmp_path / "x.zarr", consolidated=False)
    store, model = str(tmp_path / "x.zarr"), str(tmp_path / "model.gmm")
    arguments = ["fit", store, "-k", "2", "-o", model, "--feature-dim", "level,band", "-q"]
    result = CliRunner().invoke(commands.main, [*arguments, "--variables", "t"])
    assert result.exit_code == 0, result.output
    assert streamgmm.load(model).n_features_in_ == 6
    result = CliRunner().invoke(commands.main, ["score", model, store])
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize(
    ("dims", "message"),
    [
        (["level", "level"], "more than one .* 'level'"),
        (["level", "x"], "no dimension 'x'"),
        (["level"], "different dimensions|say by feature_dim"),
        (["level", "band", "time", "lat"], "no dimension along which there are samples"),
    ],
)
def test_dimensions_that_cannot_be_those_of_features_are_refused(
    dims: list[str], message: str
) -> None:
    data = profiles().assign(p=profiles()["t"].isel(band=0, drop=True))
    with pytest.raises(DataError, match=message):
        streamgmm.open(data, feature_dim=dims)


@pytest.mark.parametrize(
    "entry",
    [
        {"feature_dim": ["level", "level"]},
        {"feature_dim": ["level", 3]},
        {"levels": [[850.0], [1.0, [2.0]]]},
        {"levels": [[850.0, 500.0]]},
        {"levels": [850.0, 500.0]},
        {"feature_dim": "level"},
    ],
)
def test_descriptions_in_files_are_checked(
    entry: dict[str, Any], fitted: GaussianMixture, tmp_path: Path
) -> None:
    fitted.save(tmp_path / "model.gmm")
    record = read_record(tmp_path / "model.gmm")
    header = {name: x for name, x in record.header.items() if name != "digest"}
    header["data"] = {**header["data"], **entry}
    write_record(tmp_path / "bad.gmm", replace(record, header=header))
    with pytest.raises(ModelFileError, match="bad"):
        streamgmm.load(tmp_path / "bad.gmm")
