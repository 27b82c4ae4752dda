"""Labelled arrays keep the promises of a source, in memory and from stores, lazily and by Dask."""

import pickle
import sys
import threading
import tracemalloc
from collections.abc import Callable
from itertools import combinations, product
from pathlib import Path
from typing import Any

import dask.array
import h5py
import numpy as np
import pandas
import pytest
import xarray
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from zarr.storage import MemoryStore

import streamgmm
from streamgmm import GaussianMixture
from streamgmm import open as open_data
from streamgmm.algorithms.sampling.systematic_sample import _chunks_of
from streamgmm.errors import DataError
from streamgmm.sources.weighted import WeightedSource
from streamgmm.sources.xarray import XarraySource, open_netcdf, open_zarr, weights_of
from streamgmm.testing.sources import SourceCase, SourceConformance
from tests.sources.test_zarr import CountingStore, chunk_files

# Of three features a chunk has at most 65536 rows: 12 times, with a remainder.
SIZES = {"time": 40, "lat": 60, "lon": 90}
# One time makes more than two chunks.
LARGE = {"time": 3, "lat": 210, "lon": 700}
NAMES = ("t", "q", "u")


def values(shape: tuple[int, ...], dtype: Any = "f8", seed: int = 0) -> NDArray[Any]:
    rng = np.random.default_rng(seed)
    if np.dtype(dtype).kind == "f":
        return rng.normal(size=shape).astype(dtype)
    return rng.integers(0, 100, shape).astype(dtype)


def grid(
    sizes: dict[str, int] = SIZES, dtypes: tuple[str, ...] = ("f8", "f8", "f8")
) -> xarray.Dataset:
    """A variable of each type, with labels along all dimensions."""
    shape = tuple(sizes.values())
    return xarray.Dataset(
        {
            name: (tuple(sizes), values(shape, dtype, seed))
            for seed, (name, dtype) in enumerate(zip(NAMES, dtypes, strict=False))
        },
        coords={dim: np.linspace(-1, 1, size) for dim, size in sizes.items()},
    )


def table_of(data: xarray.Dataset) -> NDArray[Any]:
    """What the source must give, by NumPy."""
    dims = next(iter(data.data_vars.values())).dims
    columns = [data[name].transpose(*dims).values.ravel() for name in data.data_vars]
    return np.ascontiguousarray(np.stack(columns, axis=1))


class TestDatasetInMemory(SourceConformance):
    @pytest.fixture(params=["f8 f8 f8", "f4 f4", "f4 f8 i2", "i2 u1", "f2", "? f4", ">f8 >f4"])
    def case(self, request: pytest.FixtureRequest, tmp_path: Path) -> SourceCase:
        data = grid(dtypes=tuple(request.param.split()))
        return SourceCase(XarraySource(data), table_of(data))


class TestShapes(SourceConformance):
    @pytest.fixture(
        params=[
            {"x": 150_000},
            {"x": 1},
            {"x": 300, "y": 700},
            LARGE,
            {"time": 1, **LARGE},
            {"member": 2, "time": 1, "lat": 300, "lon": 700},
            {"time": 1, "lat": 1, "lon": 200_000},
        ],
        ids=str,
    )
    def case(self, request: pytest.FixtureRequest, tmp_path: Path) -> SourceCase:
        data = grid(request.param)
        return SourceCase(XarraySource(data), table_of(data))


class TestTransposedVariables(SourceConformance):
    @pytest.fixture(params=["memory", "zarr", "dask"])
    def case(self, request: pytest.FixtureRequest, tmp_path: Path) -> SourceCase:
        data = grid()
        data["q"] = data["q"].transpose("lon", "time", "lat")
        data["u"] = data["u"].transpose("lat", "lon", "time")
        rows = table_of(data)
        if request.param != "memory":
            chunks = {"t": {"chunks": (7, 60, 90)}, "q": {"chunks": (90, 7, 30)}}
            data = stored(data, tmp_path, chunks, **READERS[request.param])
        return SourceCase(XarraySource(data), rows)


class TestSomeVariables(SourceConformance):
    @pytest.fixture
    def case(self, request: pytest.FixtureRequest, tmp_path: Path) -> SourceCase:
        data = grid()
        data["time_bounds"] = ("time", "bound"), np.zeros((SIZES["time"], 2))
        return SourceCase(XarraySource(data, ["u", "t"]), table_of(data[["u", "t"]]))


def levels(order: tuple[str, ...], dtype: str = "f8") -> xarray.DataArray:
    sizes = {"time": 30, "level": 4, "lat": 50, "lon": 90}
    return xarray.DataArray(
        values(tuple(sizes[dim] for dim in order), dtype),
        dims=order,
        coords={"level": [850, 700, 500, 300]},
        name="t",
    )


LEVEL_ORDERS = {
    "last": ("time", "lat", "lon", "level"),
    "first": ("level", "time", "lat", "lon"),
    "middle": ("time", "level", "lat", "lon"),
}


class TestFeatureDimOfADataArray(SourceConformance):
    @pytest.fixture(params=LEVEL_ORDERS)
    def case(self, request: pytest.FixtureRequest, tmp_path: Path) -> SourceCase:
        array = levels(LEVEL_ORDERS[request.param])
        rows = array.transpose("time", "lat", "lon", "level").values.reshape(-1, 4)
        return SourceCase(XarraySource(array, feature_dim="level"), np.ascontiguousarray(rows))


class TestFeatureDimOfADatasetFromAStore(SourceConformance):
    @pytest.fixture(params=["zarr", "dask"])
    def case(self, request: pytest.FixtureRequest, tmp_path: Path) -> SourceCase:
        data = xarray.Dataset(
            {
                "t": levels(LEVEL_ORDERS["middle"], "f4"),
                "p": (("time", "lat", "lon"), values((30, 50, 90), "f4", 1)),
                "q": levels(LEVEL_ORDERS["last"], "f4") + np.float32(1),
            }
        )
        rows = np.concatenate(
            [
                data[name].transpose("time", "lat", "lon", ...).values.reshape(30 * 50 * 90, -1)
                for name in data.data_vars
            ],
            axis=1,
        )
        opened = stored(data, tmp_path, {"t": {"chunks": (4, 2, 50, 90)}}, **READERS[request.param])
        return SourceCase(XarraySource(opened, feature_dim="level"), rows)


class TestTableInMemory(SourceConformance):
    @pytest.fixture(params=["C", "F", "every other", "big-endian"])
    def case(self, request: pytest.FixtureRequest, tmp_path: Path) -> SourceCase:
        rows = values((150_000, 4))
        given = {
            "C": rows,
            "F": np.asfortranarray(rows),
            "every other": np.repeat(rows, 2, axis=1)[:, ::2],
            "big-endian": rows.astype(">f8"),
        }[request.param]
        return SourceCase(XarraySource(xarray.DataArray(given)), rows)


# Chunks of time, latitude and longitude for each variable.
CHUNKS: dict[str, Any] = {
    "one time": [(1, 60, 90)] * 3,
    "a few times": [(5, 60, 90)] * 3,
    "many times": [(37, 60, 90)] * 3,
    "one chunk": [(40, 60, 90)] * 3,
    "tiles": [(10, 20, 30)] * 3,
    "different": [(4, 60, 90), (8, 30, 90), (40, 60, 10)],
}
READERS: dict[str, dict[str, Any]] = {"zarr": {"chunks": None}, "dask": {"chunks": {}}}


def stored(
    data: xarray.Dataset,
    folder: Path,
    encoding: Any = None,
    zarr_format: Any = 3,
    **how: Any,
) -> xarray.Dataset:
    """The same, written to a Zarr store and opened."""
    path = folder / "x.zarr"
    data.to_zarr(path, encoding=encoding, zarr_format=zarr_format, consolidated=False)
    return reopened(folder, **how)[list(data.data_vars)]


def reopened(folder: Path, **how: Any) -> xarray.Dataset:
    return xarray.open_dataset(folder / "x.zarr", engine="zarr", consolidated=False, **how)


@pytest.mark.parametrize("reader", READERS)
class TestZarr(SourceConformance):
    @pytest.fixture(params=CHUNKS)
    def case(self, request: pytest.FixtureRequest, tmp_path: Path, reader: str) -> SourceCase:
        data = grid(dtypes=("f4", "f4", "f4"))
        encoding = {
            name: {"chunks": chunks}
            for name, chunks in zip(NAMES, CHUNKS[request.param], strict=True)
        }
        return SourceCase(
            XarraySource(stored(data, tmp_path, encoding, **READERS[reader])), table_of(data)
        )


@pytest.mark.parametrize("reader", READERS)
class TestTilesOfLargeSlabs(SourceConformance):
    @pytest.fixture(params=[(1, 210, 700), (1, 40, 700), (1, 21, 350), (3, 50, 50)], ids=str)
    def case(self, request: pytest.FixtureRequest, tmp_path: Path, reader: str) -> SourceCase:
        data = grid(LARGE)
        encoding = {name: {"chunks": request.param} for name in NAMES}
        return SourceCase(
            XarraySource(stored(data, tmp_path, encoding, **READERS[reader])), table_of(data)
        )


class TestDaskArraysOfAnyChunks(SourceConformance):
    @pytest.fixture(params=[(7, 60, 90), ((1, 30, 9), 60, 45), (40, 60, 90), "mixed"])
    def case(self, request: pytest.FixtureRequest, tmp_path: Path) -> SourceCase:
        data = grid()
        rows = table_of(data)
        if request.param == "mixed":
            data["q"] = data["q"].chunk(time=9)
        else:
            data = data.chunk(dict(zip(SIZES, request.param, strict=True)))
        return SourceCase(XarraySource(data), rows)


PACKING = {"dtype": "int16", "scale_factor": 0.01, "add_offset": 5.0, "_FillValue": -32768}


def with_gaps() -> xarray.Dataset:
    data = grid()
    return data.where(data["t"] > -1.5)


class TestPackedValues(SourceConformance):
    @pytest.fixture(params=["zarr 2", "zarr 3", "dask 2", "dask 3"])
    def case(self, request: pytest.FixtureRequest, tmp_path: Path) -> SourceCase:
        reader, zarr_format = request.param.split()
        encoding = {name: {**PACKING, "chunks": (6, 60, 90)} for name in NAMES}
        opened = stored(
            with_gaps(), tmp_path, encoding, zarr_format=int(zarr_format), **READERS[reader]
        )
        rows = table_of(opened.load().copy(deep=True))
        assert rows.dtype.kind == "f"
        assert 0 < np.isnan(rows).sum() < rows.size / 2
        return SourceCase(XarraySource(reopened(tmp_path, **READERS[reader]), NAMES), rows)


class TestNetcdf(SourceConformance):
    @pytest.fixture(params=["contiguous", "chunked", "packed", "dask"])
    def case(self, request: pytest.FixtureRequest, tmp_path: Path) -> SourceCase:
        data, path = grid(dtypes=("f4", "f4", "f4")), tmp_path / "x.nc"
        encoding: dict[str, Any] = {"chunksizes": (6, 60, 90)}
        if request.param == "packed":
            encoding = {**encoding, **PACKING}
        if request.param == "contiguous":
            encoding = {}
        data.to_netcdf(path, engine="h5netcdf", encoding=dict.fromkeys(NAMES, encoding))
        with xarray.open_dataset(path, engine="h5netcdf", chunks=None) as loaded:
            rows = table_of(loaded.load())
        chunks: Any = {} if request.param == "dask" else None
        opened = xarray.open_dataset(path, engine="h5netcdf", chunks=chunks)
        request.addfinalizer(opened.close)
        return SourceCase(XarraySource(opened), rows)


class TestWeighted(SourceConformance):
    @pytest.fixture(
        params=[(), ("lat",), ("time",), ("lon", "lat"), ("time", "lon"), ("lon", "time", "lat")],
        ids=str,
    )
    def case(self, request: pytest.FixtureRequest, tmp_path: Path) -> SourceCase:
        data, weights = grid(), weights_along(request.param)
        source = XarraySource(data)
        expected = weights.broadcast_like(data["t"]).transpose(*SIZES).values.ravel()
        return SourceCase(
            WeightedSource(source, weights_of(source, weights)), table_of(data), expected
        )


def weights_along(dims: tuple[str, ...], sizes: dict[str, int] = SIZES) -> xarray.DataArray:
    shape = tuple(sizes[dim] for dim in dims)
    return xarray.DataArray(values(shape, "f8", 7) ** 2, dims=dims)


@pytest.mark.parametrize("sample_dims", [("time", "lat", "lon"), ("lon", "time", "lat")])
def test_rows_are_those_of_a_stacked_array(sample_dims: tuple[str, ...]) -> None:
    data = grid().transpose(*sample_dims)
    source = XarraySource(data)
    stacked = data.to_stacked_array("feature", sample_dims=sample_dims)
    assert source.sample_dims == stacked.dims[:-1]
    assert source.sample_shape == stacked.shape[:-1]
    rows = np.concatenate([chunk.rows for chunk in SourceConformance.chunks(source)])
    np.testing.assert_array_equal(rows.reshape(stacked.shape), stacked.values)


def test_values_in_memory_make_slabs(tmp_path: Path) -> None:
    opened = stored(grid(), tmp_path, {name: {"chunks": (40, 10, 10)} for name in NAMES})
    assert XarraySource(opened).box_shape == (40, 10, 90)
    assert XarraySource(opened.load()).box_shape == XarraySource(grid()).box_shape == (12, 60, 90)


def test_what_is_read_has_its_place_among_the_samples() -> None:
    data = grid()
    source = XarraySource(data)
    rows = np.concatenate([chunk.rows for chunk in SourceConformance.chunks(source)])
    written = xarray.DataArray(rows[:, 1].reshape(source.sample_shape), dims=source.sample_dims)
    xarray.testing.assert_equal(written, data["q"].drop_vars(list(SIZES)))


def test_variables_are_the_names_of_features() -> None:
    assert XarraySource(grid()).feature_names == ["t", "q", "u"]
    assert XarraySource(grid(), ["u", "t"]).feature_names == ["u", "t"]


def test_labels_are_the_names_of_features() -> None:
    array = levels(LEVEL_ORDERS["middle"])
    assert XarraySource(array, feature_dim="level").feature_names == ["850", "700", "500", "300"]
    data = xarray.Dataset({"t": array, "p": array[:, 0].drop_vars("level")})
    names = ["t[850]", "t[700]", "t[500]", "t[300]", "p"]
    assert XarraySource(data, feature_dim="level").feature_names == names


def test_features_without_labels() -> None:
    array = levels(LEVEL_ORDERS["middle"]).drop_vars("level")
    assert XarraySource(array, feature_dim="level").feature_names is None
    source = XarraySource(array.to_dataset(), feature_dim="level")
    assert source.feature_names == ["t[0]", "t[1]", "t[2]", "t[3]"]


def test_names() -> None:
    assert XarraySource(grid()).name == "xarray Dataset (t, q, u)"
    assert XarraySource(grid()["t"][0]).name == "xarray DataArray (t)"
    assert XarraySource(xarray.DataArray(np.zeros((5, 2)))).name == "xarray DataArray (unnamed)"


def test_the_last_of_two_dimensions_is_that_of_features() -> None:
    array = xarray.DataArray(values((1000, 3)), dims=("sample", "band"))
    source = XarraySource(array)
    assert (source.sample_dims, source.n_features) == (("sample",), 3)
    other = XarraySource(array.T, feature_dim="band")
    np.testing.assert_array_equal(source.read(0).rows, other.read(0).rows)


def test_a_table_is_not_copied() -> None:
    array = levels(LEVEL_ORDERS["last"])
    source = XarraySource(array, feature_dim="level")
    assert source.read_bytes == 0
    assert np.shares_memory(source.read(1).rows, array.values)


def test_variables_are_columns_in_one_piece() -> None:
    assert XarraySource(grid()).read(0).rows.flags.f_contiguous


@pytest.mark.parametrize(
    ("sizes", "chunks", "expected"),
    [
        (SIZES, None, [12 * 5400] * 3 + [4 * 5400]),
        (SIZES, (1, 60, 90), [12 * 5400] * 3 + [4 * 5400]),
        (SIZES, (5, 60, 90), [10 * 5400] * 4),
        (SIZES, (30, 60, 90), [30 * 5400, 10 * 5400]),
        (SIZES, (1000, 60, 90), [40 * 5400]),
        (LARGE, None, [93 * 700, 93 * 700, 24 * 700] * 3),
        (LARGE, (1, 40, 100), [80 * 700, 80 * 700, 50 * 700] * 3),
        (LARGE, (1, 210, 100), [210 * 300, 210 * 300, 210 * 100] * 3),
        (LARGE, (2, 40, 100), [2 * 40 * 700] * 5 + [2 * 10 * 700] + [40 * 700] * 5 + [10 * 700]),
        # One time is not much more than a chunk.
        ({"time": 3, "lat": 130, "lon": 700}, None, [130 * 700] * 3),
        ({"a": 2, "b": 2, "c": 100, "d": 1400}, (1, 1, 70, 700), [98_000, 42_000] * 4),
    ],
)
def test_boundaries_are_those_of_stored_chunks(
    sizes: dict[str, int], chunks: Any, expected: list[int]
) -> None:
    data = grid(sizes)
    if chunks is not None:
        data = data.chunk(dict(zip(sizes, chunks, strict=True)))
    assert np.diff(XarraySource(data).boundaries).tolist() == expected


@pytest.mark.parametrize(
    ("sizes", "chunks", "expected"),
    [
        # As a climate store may be: long series of small regions.
        ({"time": 10_000, "lat": 720, "lon": 1440}, (10_000, 10, 10), (10_000, 10, 10)),
        ({"time": 10_000, "lat": 720, "lon": 1440}, (100, 10, 10), (100, 10, 60)),
        ({"time": 10_000, "lat": 720, "lon": 1440}, (10, 90, 1440), (10, 90, 1440)),
        ({"time": 10_000, "lat": 40, "lon": 64}, (10, 10, 64), (20, 40, 64)),
        ({"x": 1000, "y": 1000}, (1000, 7), (1000, 63)),
        ({"x": 1000, "y": 60}, (1000, 7), (1000, 60)),
        ({"x": 1000, "y": 1000}, (7, 1000), (63, 1000)),
    ],
    ids=str,
)
def test_chunks_are_boxes_of_whole_stored_chunks(
    sizes: dict[str, int], chunks: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    lazy = dask.array.zeros(tuple(sizes.values()), chunks=chunks)
    data = xarray.Dataset({name: (tuple(sizes), lazy) for name in NAMES})
    assert XarraySource(data).box_shape == expected


# Coordinates and other variables that cannot be decoded


N_TIMES = 40
#: Attributes and values of a coordinate of time, and what decodes it: nothing, NumPy or cftime.
TIMES: dict[str, tuple[dict[str, Any], Any, str]] = {
    "standard": ({"units": "days since 2000-01-01"}, np.arange(40.0), "numpy"),
    "not in order": ({"units": "days since 2000-01-01"}, np.arange(40.0)[::-1], "numpy"),
    "missing": (
        {"units": "days since 2000-01-01"},
        np.where(np.arange(40) == 7, np.nan, np.arange(40)),
        "numpy",
    ),
    "noleap": ({"units": "days since 2000-01-01", "calendar": "noleap"}, np.arange(40), "cftime"),
    "360 days": (
        {"units": "days since 2000-01-01", "calendar": "360_day"},
        np.arange(40),
        "cftime",
    ),
    "months": ({"units": "months since 2000-01-01"}, np.arange(40.0), ""),
    "no unit": ({"units": "fortnights since whenever"}, np.arange(40.0), ""),
    "unit is a number": ({"units": 7}, np.arange(40.0), ""),
    "no calendar": ({"units": "days since 2000-01-01", "calendar": "martian"}, np.arange(40.0), ""),
    "too late": ({"units": "days since 2000-01-01"}, np.linspace(1e290, 1e300, 40), ""),
    "durations": ({"units": "days"}, np.arange(40.0), ""),
    "texts": ({}, np.array([f"s{i:02}" for i in range(40)]), "numpy"),
}
WRITERS: dict[str, Callable[[xarray.Dataset, Path], None]] = {
    "x.nc": lambda data, path: data.to_netcdf(path, engine="h5netcdf"),
    "v2.zarr": lambda data, path: data.to_zarr(path, zarr_format=2, consolidated=False) and None,
    "v3.zarr": lambda data, path: data.to_zarr(path, zarr_format=3, consolidated=False) and None,
}


def with_times(attributes: dict[str, Any], times: Any) -> xarray.Dataset:
    shape = N_TIMES, 100
    return xarray.Dataset(
        {name: (("time", "x"), values(shape, seed=seed)) for seed, name in enumerate("tq")},
        coords={"time": ("time", times, attributes)},
    )


@pytest.mark.parametrize("has_cftime", [True, False])
@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("kind", TIMES)
@pytest.mark.filterwarnings("ignore:The codec `vlen-utf8`", "ignore:The data type")
def test_times_are_labels_and_no_more(
    kind: str, name: str, has_cftime: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attributes, times, decoder = TIMES[kind]
    data = with_times(attributes, times)
    WRITERS[name](data, tmp_path / name)
    if not has_cftime:
        monkeypatch.setitem(sys.modules, "cftime", None)
        monkeypatch.setattr(xarray.coding.times, "cftime", None)
    source = open_data(tmp_path / name, variables=["t", "q"])
    labels = fitted(source).predict(source)
    assert labels.shape == (N_TIMES, 100)
    if decoder == "numpy" or (decoder == "cftime" and has_cftime):
        engine = "h5netcdf" if name == "x.nc" else "zarr"
        options = {} if name == "x.nc" else {"consolidated": False}
        with xarray.open_dataset(
            tmp_path / name, engine=engine, decode_timedelta=False, **options
        ) as opened:
            xarray.testing.assert_identical(labels["time"], opened["time"].load())
    else:
        np.testing.assert_array_equal(labels["time"].values, times)
        assert labels["time"].attrs == attributes


def fitted(source: Any) -> GaussianMixture:
    model = GaussianMixture(2, random_state=0, algorithm="em", max_iter=2, tol=9e9)
    return model.fit(source)


#: Variables that xarray cannot decode, or not without a warning.
UNDECODABLE: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "scale factor": ("time", np.arange(40), {"scale_factor": "many"}),
    "two fill values": ("time", np.arange(40.0), {"_FillValue": 1.0, "missing_value": 2.0}),
    "time": ("time", np.arange(40.0), {"units": "months since never"}),
    "characters": (("time", "n"), np.full((40, 3), b"a"), {"_Encoding": "no encoding"}),
}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("kind", UNDECODABLE)
@pytest.mark.filterwarnings("ignore:The data type")
def test_other_variables_are_not_decoded(kind: str, name: str, tmp_path: Path) -> None:
    data = with_times({}, np.arange(40.0))
    rows = table_of(data)
    data["z"] = UNDECODABLE[kind]
    WRITERS[name](data, tmp_path / name)
    source = open_data(tmp_path / name, variables=["t", "q"])
    np.testing.assert_array_equal(source.read(0).rows, rows)
    fitted(source).predict(source)


@pytest.mark.parametrize("name", WRITERS)
def test_a_feature_that_cannot_be_decoded_is_refused(name: str, tmp_path: Path) -> None:
    data = with_times({}, np.arange(40.0))
    data["z"] = ("time", "x"), np.ones((40, 100)), {"scale_factor": "many"}
    WRITERS[name](data, tmp_path / name)
    for variables in (["t", "z"], None):
        with pytest.raises(DataError, match=r"^z of .* cannot be decoded .*variables="):
            open_data(tmp_path / name, variables=variables, feature_dim=None if variables else "x")
    # What the message advises.
    open_data(tmp_path / name, variables=["t", "q"])
    opener = xarray.open_zarr if name != "x.nc" else xarray.open_dataset
    options: dict[str, Any] = {"consolidated": False} if name != "x.nc" else {"engine": "h5netcdf"}
    with opener(tmp_path / name, mask_and_scale=False, **options) as opened:
        with pytest.raises(DataError, match="packed"):
            open_data(opened, variables=["t", "z"])
        del opened["z"].attrs["scale_factor"]
        assert open_data(opened, variables=["t", "z"]).n_features == 2


def test_times_of_data_that_are_open_stay_as_they_are(tmp_path: Path) -> None:
    data = with_times({"units": "days since 2000-01-01"}, np.arange(40.0))
    data.to_netcdf(tmp_path / "x.nc", engine="h5netcdf")
    with xarray.open_dataset(
        tmp_path / "x.nc", engine="h5netcdf", decode_times=False, chunks=None
    ) as opened:
        labels = fitted(opened).predict(opened)
        xarray.testing.assert_identical(labels["time"], opened["time"])


# Chunks of different lengths


def compute_counts(data: xarray.Dataset, source: XarraySource) -> dict[str, list[int]]:
    """How often each chunk of each variable is computed in a pass over the source."""
    counts = {
        str(name): np.zeros(array.data.numblocks, dtype=int)
        for name, array in data.data_vars.items()
    }
    lock = threading.Lock()

    def counted(block: NDArray[Any], name: str, block_info: Any = None) -> NDArray[Any]:
        with lock:
            counts[name][tuple(block_info[0]["chunk-location"])] += 1
        return block

    watched = data.copy()
    for name, array in data.data_vars.items():
        lazy = array.data.map_blocks(
            counted, str(name), dtype=array.dtype, meta=np.empty((0,) * array.ndim, array.dtype)
        )
        watched[name] = array.dims, lazy
    other = XarraySource(watched)
    assert list(other.boundaries) == list(source.boundaries)
    SourceConformance.chunks(other)
    return {name: found.ravel().tolist() for name, found in counts.items()}


def chunked(chunks: dict[str, Any], sizes: dict[str, int] = LARGE) -> xarray.Dataset:
    """Variables of different chunks, each given along all dimensions."""
    return xarray.Dataset(
        {
            name: (
                tuple(sizes),
                dask.array.zeros(tuple(sizes.values()), chunks=own),
            )
            for name, own in chunks.items()
        }
    )


YEARS = {"time": 365, "lat": 20, "lon": 30}
MONTHS = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


@pytest.mark.parametrize(
    "chunks",
    [
        {"t": (MONTHS, 20, 30)},
        {"t": (MONTHS, (5, 15), (3, 20, 7))},
        {"t": (MONTHS, (15, 5), 30), "q": (MONTHS, (15, 5), 30)},
        # The ends of months are ends of quarters.
        {"t": (MONTHS, 20, 30), "q": ((90, 91, 92, 92), 20, 30)},
        # No box of the longest chunk ends where both variables have an end.
        {"t": ((100, 200, 65), 20, 30), "q": ((200, 100, 65), 20, 30)},
        {"t": ((1, 364), 20, 30)},
        {"t": ((364, 1), 20, 30), "q": (365, 20, (10, 5, 15))},
        {"t": (365, 20, (10, 5, 15)), "q": (365, (3, 17), 30)},
    ],
    ids=str,
)
@pytest.mark.parametrize("chunk_rows", [1, 5_000, 65_536])
def test_each_chunk_is_computed_once_in_a_pass(
    chunks: dict[str, Any], chunk_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streamgmm.sources.layout, "_FEWEST_ROWS", 1)
    monkeypatch.setattr(streamgmm.sources.layout, "_MOST_ROWS", chunk_rows)
    data = chunked(chunks, YEARS)
    found = compute_counts(data, XarraySource(data))
    assert found == {name: [1] * len(counts) for name, counts in found.items()}


def test_boxes_stay_small_where_ends_of_chunks_never_meet() -> None:
    sizes = {"time": 1000, "lat": 210, "lon": 700}
    data = chunked(
        {"t": ((3, *[7] * 142, 3), 210, 700), "q": ((5, *[7] * 142, 1), 210, 700)}, sizes
    )
    source = XarraySource(data)
    # Only where both end may a box be longer than a chunk.
    assert source.box_shape[0] <= 4 * 7
    assert np.median(np.diff(source.boundaries)) == 7 * 210 * 700
    # Each box reads parts of two chunks of one of them, at most.
    found = compute_counts(data, source)
    assert max(map(max, found.values())) <= 2


@pytest.mark.parametrize("engine", ["h5netcdf", "zarr"])
def test_files_of_different_lengths_are_read_once_in_a_pass(
    engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths, shape = [100, 150, 50, 120], (30, 40)
    paths = [tmp_path / f"{i}.{engine}" for i in range(len(lengths))]
    start = 0
    for path, length in zip(paths, lengths, strict=True):
        part = xarray.Dataset(
            {"t": (("time", "lat", "lon"), values((length, *shape), seed=start))},
            coords={"time": np.arange(start, start + length)},
        )
        part.to_zarr(path, consolidated=False) if engine == "zarr" else part.to_netcdf(
            path, engine="h5netcdf"
        )
        start += length
    wrapper = {
        "h5netcdf": xarray.backends.h5netcdf_.H5NetCDFArrayWrapper,
        "zarr": xarray.backends.zarr.ZarrArrayWrapper,
    }[engine]
    n_read = 0
    lock, read = threading.Lock(), wrapper.__getitem__

    def counted(self: Any, key: Any) -> Any:
        nonlocal n_read
        found = read(self, key)
        with lock:
            n_read += np.size(found) if self.variable_name == "t" else 0
        return found

    if engine == "zarr":
        monkeypatch.setattr(
            wrapper, "variable_name", property(lambda self: self._array.basename), raising=False
        )
    options = {"consolidated": False} if engine == "zarr" else {}
    with xarray.open_mfdataset(paths, engine=engine, chunks={"time": -1}, **options) as data:
        source = XarraySource(data)
        monkeypatch.setattr(wrapper, "__getitem__", counted)
        model = GaussianMixture(2, covariance_type="diag", algorithm="em", max_iter=3, tol=0.0)
        with pytest.warns(ConvergenceWarning):
            model.fit(source)
    n_values = sum(lengths) * shape[0] * shape[1]
    assert n_read / n_values == model.n_reads_


@st.composite
def chunk_lengths(draw: st.DrawFn, size: int) -> int | tuple[int, ...]:
    """Chunks of one length, or of any lengths."""
    if draw(st.booleans()):
        return draw(st.integers(1, size))
    cuts = draw(st.sets(st.integers(1, max(size - 1, 1))))
    return tuple(np.diff(sorted({0, *cuts, size})).tolist())


@given(st.data())
@settings(max_examples=60)
def test_the_boxes_that_hold_samples_are_found(data: st.DataObject) -> None:
    sizes = {f"d{d}": data.draw(st.integers(1, 13)) for d in range(data.draw(st.integers(1, 3)))}
    chunks = tuple(data.draw(chunk_lengths(size)) for size in sizes.values())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streamgmm.sources.layout, "_FEWEST_ROWS", 1)
        patch.setattr(streamgmm.sources.layout, "_MOST_ROWS", data.draw(st.integers(1, 50)))
        source = XarraySource(chunked({"t": chunks}, sizes))
    rows = st.lists(st.integers(0, source.n_rows - 1), min_size=1, unique=True)
    positions = np.array(sorted(data.draw(rows)))
    regions = map(source.region, range(len(source.boundaries) - 1))
    grid = np.arange(source.n_rows).reshape(source.sample_shape)
    expected = [i for i, box in enumerate(regions) if np.isin(grid[box], positions).any()]
    assert _chunks_of(source, positions) == expected


@st.composite
def layouts(draw: st.DrawFn) -> tuple[xarray.Dataset, xarray.DataArray | None]:
    """Variables along one to four dimensions, each chunked and ordered in its own way; weights."""
    n_dims = draw(st.integers(1, 4))
    sizes = {f"d{d}": draw(st.integers(1, 13)) for d in range(n_dims)}
    data = {}
    for seed, name in enumerate(NAMES[: draw(st.integers(1, 3))]):
        dims = draw(st.permutations(list(sizes)))
        chunks = tuple(draw(chunk_lengths(sizes[dim])) for dim in dims)
        array = values(tuple(sizes[dim] for dim in dims), "f8", seed)
        data[name] = dims, dask.array.from_array(array, chunks=chunks)
    along = draw(st.none() | st.lists(st.sampled_from(list(sizes)), unique=True))
    return xarray.Dataset(data), None if along is None else weights_along(tuple(along), sizes)


class Promises(SourceConformance):
    """Of cases that are no fixtures."""

    case: Any = None


@given(layouts(), st.integers(1, 300), st.booleans())
@settings(max_examples=30)
def test_any_layout_gives_the_rows_of_an_array(
    layout: tuple[xarray.Dataset, xarray.DataArray | None], chunk_rows: int, is_flat: bool
) -> None:
    data, along = layout
    with pytest.MonkeyPatch.context() as patch:
        # Or all of it would be one chunk.
        patch.setattr(streamgmm.sources.layout, "_FEWEST_ROWS", 1)
        patch.setattr(streamgmm.sources.layout, "_MOST_ROWS", chunk_rows)
        plain = XarraySource(data)
        rows, shape, dims = table_of(data), plain.sample_shape, plain.sample_dims
        weights: Any = None
        if along is not None:
            whole = along.broadcast_like(data).transpose(*dims).values
            assert whole.shape == shape
            weights = whole.ravel() if is_flat else along
        source = streamgmm.open(plain, sample_weight=weights)
        case = SourceCase(source, rows, None if along is None else whole.ravel())
        for name in dir(SourceConformance):
            if name.startswith("test_") and "threads" not in name:
                getattr(Promises(), name)(case)
        model = GaussianMixture(
            2,
            weights_init=[0.5, 0.5],
            means_init=np.outer([-1, 1], np.ones(source.n_features)),
            precisions_init=[np.eye(source.n_features)] * 2,
        )
        model.n_features_in_ = source.n_features
        model.weights_, model.means_ = np.array(model.weights_init), model.means_init
        model.covariances_ = model.precisions_ = model.precisions_cholesky_ = np.array(
            model.precisions_init
        )
        labels, shares = model.predict(source), model.predict_proba(source)
        assert labels.shape == shape
        assert shares.shape == (*shape, 2)
        np.testing.assert_array_equal(labels.values.ravel(), model.predict(rows))
        np.testing.assert_allclose(
            shares.values.reshape(-1, 2), model.predict_proba(rows), rtol=1e-12
        )


@pytest.mark.parametrize("chunks", [(5, 60, 90), (40, 10, 10), (40, 60, 7), (13, 17, 19), None])
@pytest.mark.parametrize("weight", [None, ("lat",), ("time", "lon"), "flat"], ids=str)
def test_fits_do_not_depend_on_the_direction_of_chunks(chunks: Any, weight: Any) -> None:
    data, rows = grid(), table_of(grid())
    rows[::3] += 6.0
    for d, name in enumerate(NAMES):
        data[name] = data[name].dims, rows[:, d].reshape(tuple(SIZES.values()))
    weights: Any = None
    if weight is not None:
        along = weights_along(tuple(SIZES) if weight == "flat" else weight)
        flat = along.broadcast_like(data["t"]).transpose(*SIZES).values.ravel()
        weights = dask.array.from_array(flat, chunks=5000) if weight == "flat" else along
    lazy = data if chunks is None else data.chunk(dict(zip(SIZES, chunks, strict=True)))

    def fitted(source: Any) -> GaussianMixture:
        return GaussianMixture(2, algorithm="em", random_state=0, tol=1e-4).fit(source)

    found = fitted(streamgmm.open(lazy, sample_weight=weights))
    expected = fitted(streamgmm.open(rows, sample_weight=None if weight is None else flat))
    # Starts are made from a sample: it is the same one, in the same order.
    assert found.n_iter_ == expected.n_iter_
    for name in ("weights_", "means_", "covariances_"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-10)


def test_bad_values_are_named_by_their_place_in_the_whole() -> None:
    data = grid()
    data["q"].values[[3, 8, 39], [50, 4, 59], [80, 7, 89]] = np.nan
    lazy = data.chunk(time=40, lat=60, lon=10)
    first, second, third = (
        t * 5400 + lat * 90 + lon for t, lat, lon in [(3, 50, 80), (8, 4, 7), (39, 59, 89)]
    )
    message = (
        rf"3 of 216000 rows; the first: row {first} column 1, row {second} column 1, row {third}"
    )
    with pytest.raises(DataError, match=message):
        GaussianMixture(2).fit(lazy)
    with pytest.raises(DataError, match=message):
        GaussianMixture(2, random_state=0).fit(grid()).predict(data)


def test_weights_are_read_once_a_read() -> None:
    """Those that several chunks share are read once for all reads."""
    for dims, n_reads in (
        (("time", "lat", "lon"), 2),
        (("lat",), 2),
        (("time", "lon"), 1),
        (("time",), 1),
    ):
        sizes = [SIZES[dim] for dim in dims]
        n_computed = 0

        def counted(block: NDArray[Any]) -> NDArray[Any]:
            nonlocal n_computed
            n_computed += block.size
            return block

        lazy = dask.array.ones(sizes, chunks=10).map_blocks(
            counted, dtype="f8", meta=np.empty((0,) * len(sizes))
        )
        source = XarraySource(grid().chunk(time=40, lat=10, lon=10))
        assert source.box_shape == (40, 10, 90)
        weighted = WeightedSource(source, weights_of(source, xarray.DataArray(lazy, dims=dims)))
        for _ in range(2):
            SourceConformance.chunks(weighted)
        assert n_computed == n_reads * lazy.size


def test_the_longest_chunks_decide() -> None:
    data = grid()
    data["t"] = data["t"].chunk(time=4)
    data["q"] = data["q"].chunk(time=8)
    assert XarraySource(data).boundaries[1] == 8 * 5400


@pytest.mark.parametrize(
    "chunks", [(5, 60, 90), (1, 30, 90), (10, 7, 11), (40, 6, 9), (40, 60, 1), (20, 30, 40)]
)
def test_each_stored_chunk_is_fetched_once_a_read(chunks: Any, tmp_path: Path) -> None:
    stored(grid(), tmp_path, {name: {"chunks": chunks} for name in NAMES})
    root = tmp_path / "x.zarr"
    counting = CountingStore(root, read_only=True)
    opened = xarray.open_dataset(counting, engine="zarr", consolidated=False, chunks=None)
    source = XarraySource(opened)
    counting.n_fetched.clear()
    SourceConformance.chunks(source)
    of_features = [path for path in chunk_files(root) if path.relative_to(root).parts[0] in NAMES]
    assert {root / key: n for key, n in counting.n_fetched.items()} == dict.fromkeys(of_features, 1)


def test_variables_of_dask_are_computed_together() -> None:
    computed: list[int] = []

    def counted(block: NDArray[Any]) -> NDArray[Any]:
        computed.append(len(block))
        return block

    common = dask.array.from_array(values((40, 5400)), chunks=(10, 5400))
    common = common.map_blocks(counted, dtype="f8", meta=np.empty((0, 0)))
    data = xarray.Dataset({"a": (("x", "y"), common), "b": (("x", "y"), 2 * common)})
    SourceConformance.chunks(XarraySource(data))
    assert computed == [10] * 4


def refuse(block: NDArray[Any]) -> NDArray[Any]:
    raise AssertionError("computed")


def refusing(shape: tuple[int, ...], dtype: str = "f8") -> Any:
    lazy = dask.array.zeros(shape, dtype=dtype)
    return lazy.map_blocks(refuse, dtype=dtype, meta=np.empty((0,) * len(shape), dtype))


def test_describing_computes_nothing() -> None:
    data = xarray.Dataset({"t": (("x", "y"), refusing((10, 20)))})
    source = XarraySource(data)
    assert source.read_bytes > 0
    with pytest.raises(
        DataError, match=r"xarray Dataset \(t\): x 0 to 10, y 0 to 20 cannot .*computed"
    ):
        source.read(0)


def test_coordinates_are_left_alone() -> None:
    data = grid().assign_coords(height=(("lat", "lon"), refusing((60, 90))))
    np.testing.assert_array_equal(XarraySource(data).read(0).rows, table_of(data)[: 12 * 5400])


def test_lazy_values_are_not_kept(tmp_path: Path) -> None:
    source = XarraySource(stored(grid(), tmp_path, chunks=None))
    SourceConformance.chunks(source)
    assert len(pickle.dumps(source)) < 20_000


def peak_of_read(source: XarraySource) -> int:
    """The largest memory that reading a chunk takes."""
    tracemalloc.start()
    source.read(0)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return most


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("packing", [{}, PACKING], ids=["values", "packed"])
@pytest.mark.parametrize("n_variables", [1, 3])
def test_a_read_takes_no_more_memory_than_it_says(
    reader: str, packing: dict[str, Any], n_variables: int, tmp_path: Path
) -> None:
    names = NAMES[:n_variables]
    encoding = {name: {"chunks": (20, 60, 90), **packing} for name in names}
    opened = stored(grid()[list(names)], tmp_path, encoding, **READERS[reader])
    source = XarraySource(opened)
    source.read(0)
    # Other threads of the process may allocate meanwhile, so the least of three counts.
    assert min(peak_of_read(source) for _ in range(3)) <= source.read_bytes + 200_000


def test_location_is_where_all_variables_are(tmp_path: Path) -> None:
    data = grid()
    assert XarraySource(data).location is None
    data.to_netcdf(tmp_path / "x.nc", engine="h5netcdf")
    with xarray.open_dataset(tmp_path / "x.nc", engine="h5netcdf") as opened:
        assert XarraySource(opened).location == tmp_path / "x.nc"
        assert XarraySource(opened["t"], feature_dim="lon").location == tmp_path / "x.nc"
    assert XarraySource(stored(data, tmp_path)).location == tmp_path / "x.zarr"


class TestBroadcastWeights:
    @pytest.mark.parametrize(
        "dims", [(), ("lat",), ("lon",), ("lon", "time"), ("time", "lat", "lon")], ids=str
    )
    @pytest.mark.parametrize("how", ["memory", "zarr", "dask"])
    def test_any_box_may_be_sliced(self, dims: Any, how: str, tmp_path: Path) -> None:
        sizes = {"time": 3, "lat": 2, "lon": 4}
        source, given = XarraySource(grid(sizes)), weights_along(dims, sizes)
        expected = np.broadcast_to(
            given.transpose(*(dim for dim in sizes if dim in dims)).values.reshape(
                [size if dim in dims else 1 for dim, size in sizes.items()]
            ),
            tuple(sizes.values()),
        )
        if how != "memory":
            given = stored(given.to_dataset(name="w"), tmp_path, **READERS[how])["w"]
        weights = weights_of(source, given)
        assert weights.shape == (3, 2, 4)
        assert weights.dtype == np.float64
        for region in product(
            *(
                [slice(*bounds) for bounds in combinations(range(size + 1), 2)]
                for size in sizes.values()
            )
        ):
            np.testing.assert_array_equal(weights[region], expected[region])

    def test_they_are_never_all_in_memory(self) -> None:
        sizes = {"time": 1_000_000, "lat": 1000, "lon": 1000}
        lazy = dask.array.zeros(tuple(sizes.values()), dtype="f4", chunks=(1, 1000, 1000))
        source = XarraySource(xarray.Dataset({"t": (tuple(sizes), lazy)}))
        latitude = xarray.DataArray(np.linspace(0, 1, 1000), dims="lat")
        weights = weights_of(source, latitude)
        assert weights.shape == tuple(sizes.values())
        assert len(pickle.dumps(weights)) < 20_000
        region = (slice(987_654, 987_655), slice(3, 4), slice(0, 1000))
        np.testing.assert_array_equal(weights[region], np.full((1, 1, 1000), latitude.values[3]))

    def test_labels_must_be_those_of_the_data(self) -> None:
        data = grid()
        weights = np.cos(data["lat"])
        assert weights_of(XarraySource(data), weights).shape == data["t"].shape
        with pytest.raises(DataError, match=r"different labels along lat; .*drop_vars\('lat'\)"):
            weights_of(XarraySource(data), weights[::-1])

    @pytest.mark.parametrize(
        ("sizes", "message"),
        [
            ({"lat": 59}, r"dimensions \(lat: 59\); expected some of \(time: 40, lat: 60, lon: 90"),
            ({"lat": 60, "level": 2}, r"dimensions \(lat: 60, level: 2\); expected some of"),
        ],
    )
    def test_dimensions_must_be_those_of_samples(self, sizes: Any, message: str) -> None:
        weights = xarray.DataArray(np.ones(tuple(sizes.values())), dims=tuple(sizes))
        with pytest.raises(DataError, match=f"sample_weight has {message}"):
            weights_of(XarraySource(grid()), weights)

    def test_packed_weights(self) -> None:
        weights = weights_along(("lat",)).assign_attrs(scale_factor=0.1)
        with pytest.raises(DataError, match="sample_weight holds packed values"):
            open_data(grid(), sample_weight=weights)

    def test_weights_that_cannot_be_read(self) -> None:
        source = XarraySource(grid())
        weights = weights_of(source, xarray.DataArray(refusing((40, 60)), dims=("time", "lat")))
        with pytest.raises(DataError, match="sample_weight: time 0 to 2, lat 0 to 5, lon 0 to 9 "):
            weights[0:2, 0:5, 0:9]
        with pytest.raises(DataError, match="sample_weight: values cannot be read"):
            weights_of(source, xarray.DataArray(refusing((60,)), dims="lat"))


Refused = tuple[Callable[[], XarraySource], str]
REFUSED: dict[str, Refused] = {
    "one dimension": (
        lambda: XarraySource(grid()["t"][0, 0]),
        r"\(t\) has dimensions \(lon: 90\); .* expand_dims",
    ),
    "three dimensions": (
        lambda: XarraySource(grid()["t"]),
        r"\(time: 40, lat: 60, lon: 90\); say by feature_dim=",
    ),
    "no such feature_dim": (
        lambda: XarraySource(grid()["t"], feature_dim="level"),
        r"DataArray \(t\) has no dimension 'level'; it has \(time: 40, lat",
    ),
    "no such feature_dim of any variable": (
        lambda: XarraySource(grid(), feature_dim="level"),
        r"Dataset \(t, q, u\) has no dimension 'level'",
    ),
    "features alone": (
        lambda: XarraySource(grid()["t"][0, 0], feature_dim="lon"),
        "no dimension along which there are samples",
    ),
    "numbers alone": (
        lambda: XarraySource(xarray.Dataset({"a": 1.0})),
        "no dimension along which there are samples",
    ),
    "no such variables": (
        lambda: XarraySource(grid(), ["t", "v", "w"]),
        "no variable 'v' or 'w'; it has: t, q, u",
    ),
    "an empty Dataset": (
        lambda: XarraySource(xarray.Dataset()),
        "no variables are chosen; the xarray Dataset has: none",
    ),
    "no variables": (lambda: XarraySource(grid(), []), "no variables are chosen; .* has: t, q, u"),
    "variables of an array": (
        lambda: XarraySource(grid()["t"], ["t"], "lon"),
        "variables= chooses from an xarray Dataset",
    ),
    "different dimensions": (
        lambda: XarraySource(grid().assign(p=("time", np.zeros(40)))),
        r"t has \(time: 40, lat: 60, lon: 90\), p has \(time: 40\); choose some",
    ),
    "no samples": (
        lambda: XarraySource(grid({"x": 0, "y": 3})),
        r"t of xarray Dataset \(t, q, u\) has 0 sample",
    ),
    "times": (
        lambda: XarraySource(grid().assign(v=grid()["t"].astype("datetime64[ns]"))),
        r"not real numbers: v of xarray Dataset .* dtype datetime64\[ns\]",
    ),
    "durations": (
        lambda: XarraySource(grid().assign(v=grid()["t"].astype("timedelta64[ns]"))),
        "not real numbers: v of xarray Dataset .* dtype timedelta64",
    ),
    "texts": (
        lambda: XarraySource(grid().assign(v=grid()["t"].astype(str))),
        "not real numbers: v of xarray Dataset .* dtype <U",
    ),
    "objects": (
        lambda: XarraySource(grid().assign(v=grid()["t"].astype(object))),
        "objects are not numbers: v of xarray Dataset",
    ),
    "types of pandas": (
        lambda: XarraySource(
            pandas.DataFrame({"v": pandas.array([1, 2], dtype="Int64")}).to_xarray()
        ),
        r"v of xarray Dataset \(v\) has dtype Int64, which is not one of NumPy's",
    ),
    "complex numbers": (
        lambda: XarraySource(grid().assign(v=grid()["t"] * 1j)),
        "Complex data not supported: v of xarray Dataset",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_no_table_is_refused(what: str) -> None:
    make, message = REFUSED[what]
    with pytest.raises(DataError, match=message):
        make()


def test_packed_values_that_were_not_decoded_are_refused(tmp_path: Path) -> None:
    opened = stored(grid(), tmp_path, {"q": PACKING}, chunks=None, mask_and_scale=False)
    message = r"q of xarray Dataset \(t, q, u\) holds packed values .*scale_factor"
    with pytest.raises(DataError, match=message):
        XarraySource(opened)
    assert XarraySource(reopened(tmp_path, chunks=None)).dtype == np.float64


@pytest.mark.parametrize("reader", READERS)
def test_damaged_chunks_are_named(reader: str, tmp_path: Path) -> None:
    opened = stored(grid(), tmp_path, {"q": {"chunks": (10, 60, 90)}}, **READERS[reader])
    source = XarraySource(opened)
    damaged = tmp_path / "x.zarr" / "q" / "c" / "1" / "0" / "0"
    damaged.write_bytes(damaged.read_bytes()[:1000])
    with pytest.raises(
        DataError, match=r"\(t, q, u\): time 0 to 20, lat 0 to 60, lon 0 to 90 cannot"
    ):
        SourceConformance.chunks(source)


def test_memory_that_runs_out_is_no_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore()
    grid().to_zarr(store, consolidated=False)
    source = XarraySource(xarray.open_dataset(store, engine="zarr", consolidated=False))

    def full(*arguments: Any, **settings: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(MemoryStore, "get", full)
    with pytest.raises(MemoryError):
        source.read(0)


class TestStoresByTheirPath:
    @pytest.fixture(params=[(2, False), (2, True), (3, False)], ids=str)
    def folder(self, request: pytest.FixtureRequest, tmp_path: Path) -> Path:
        zarr_format, consolidated = request.param
        for group in (None, "deep/within"):
            grid().to_zarr(
                tmp_path / "x.zarr",
                group=group,
                mode="a",
                zarr_format=zarr_format,
                consolidated=consolidated,
            )
        if consolidated:
            zarr.consolidate_metadata(tmp_path / "x.zarr")
        return tmp_path / "x.zarr"

    @pytest.mark.parametrize("path", [None, "deep/within", "/deep/within/"])
    def test_zarr(self, folder: Path, path: str | None) -> None:
        for data in (str(folder), zarr.open_group(folder, mode="r")):
            opened = open_zarr(data, path)
            xarray.testing.assert_equal(opened, grid())
            inner = folder if path is None else folder / "deep" / "within"
            assert XarraySource(opened, ["t", "q"]).location == inner

    def test_a_group_within_a_store(self, folder: Path) -> None:
        deep = zarr.open_group(folder, mode="r")["deep"]
        for data, path in (
            (str(folder / "deep" / "within"), None),
            (str(folder / "deep"), "within"),
            (deep, "within"),
            (deep["within"], None),
        ):
            opened = open_zarr(data, path)
            xarray.testing.assert_equal(opened, grid())
            assert XarraySource(opened, ["t"]).location == folder / "deep" / "within"

    @pytest.mark.parametrize("path", ["absent", "deep/absent"])
    def test_what_is_no_group_is_named(self, folder: Path, path: str) -> None:
        with pytest.raises(DataError, match=rf"{path} in .*x\.zarr cannot be opened as a group"):
            open_zarr(str(folder), path)
        with pytest.raises(DataError, match=rf"x\.zarr/{path} cannot be opened as a group"):
            open_zarr(f"{folder}/{path}")

    def test_one_array(self, folder: Path) -> None:
        group = zarr.open_group(folder, mode="r")
        for data, path in ((str(folder), "t"), (f"{folder}/t", None), (group["t"], None)):
            if group.metadata.zarr_format == 2:
                with pytest.raises(DataError, match=r"x\.zarr/t does not name its dimensions \("):
                    open_zarr(data, path)
                continue
            opened = open_zarr(data, path)
            xarray.testing.assert_equal(opened.variable, grid()["t"].variable)
            assert XarraySource(opened, feature_dim="lat").location == folder / "t"

    @pytest.mark.parametrize("path", [None, "deep/within"])
    def test_netcdf(self, tmp_path: Path, path: str | None) -> None:
        file = str(tmp_path / "x.nc")
        grid().to_netcdf(file, engine="h5netcdf", group=path)
        with open_netcdf(file, path) as opened:
            xarray.testing.assert_equal(opened, grid())
            assert XarraySource(opened).location == tmp_path / "x.nc"
        with pytest.raises(DataError, match=r"absent in .*x\.nc cannot be opened"):
            open_netcdf(file, "absent")

    def test_hdf5_without_names_of_dimensions(self, tmp_path: Path) -> None:
        with h5py.File(tmp_path / "x.h5", "w") as file:
            for seed, name in enumerate(NAMES):
                file[name] = values((20, 30), seed=seed)
        with open_netcdf(str(tmp_path / "x.h5")) as opened:
            rows = XarraySource(opened, NAMES).read(0).rows
        expected = np.stack([values((20, 30), seed=seed).ravel() for seed in range(3)], axis=1)
        np.testing.assert_array_equal(rows, expected)

    def test_units_of_time_do_not_make_a_variable_a_duration(self, tmp_path: Path) -> None:
        data = grid()
        data["t"].attrs["units"] = "hours"
        data.to_netcdf(tmp_path / "x.nc", engine="h5netcdf")
        data.to_zarr(tmp_path / "x.zarr", consolidated=False)
        with open_netcdf(str(tmp_path / "x.nc")) as opened:
            assert XarraySource(opened, NAMES).dtype == np.float64
        assert XarraySource(open_zarr(str(tmp_path / "x.zarr")), NAMES).dtype == np.float64

    @pytest.mark.parametrize("open_any", [open_zarr, open_netcdf])
    def test_what_is_not_there(self, open_any: Callable[[str], Any], tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"absent\.any cannot be opened"):
            open_any(str(tmp_path / "absent.any"))


BANDS = ("band", "y", "x")


class TestOneZarrArray(SourceConformance):
    @pytest.fixture(params=[{"chunks": (2, 8, 7)}, {"chunks": (2, 4, 7), "shards": (4, 8, 21)}])
    def case(self, request: pytest.FixtureRequest, tmp_path: Path) -> SourceCase:
        cube = values((4, 30, 21))
        path = tmp_path / "a.zarr"
        zarr.create_array(path, data=cube, dimension_names=BANDS, **request.param)
        source = open_data(path, feature_dim="band")
        assert source.location == path
        return SourceCase(source, cube.reshape(4, -1).T)

    def test_features_may_lie_along_any_dimension(self, tmp_path: Path) -> None:
        cube = values((4, 30, 21))
        array = zarr.create_array(tmp_path / "a.zarr", data=cube, dimension_names=BANDS)
        rows = open_data(array, feature_dim="y").read(0).rows
        np.testing.assert_array_equal(rows, np.moveaxis(cube, 1, -1).reshape(-1, 30))
        with pytest.raises(DataError, match=r"no dimension 'z'; it has \(band: 4, y: 30, x: 21\)"):
            open_data(array, feature_dim="z")
        with pytest.raises(DataError, match="variables= chooses from an xarray Dataset"):
            open_data(array, variables=["band"])

    def test_packed_values_are_decoded(self, tmp_path: Path) -> None:
        stored = np.arange(24, dtype="i2").reshape(2, 3, 4)
        attributes = {"scale_factor": 0.5, "add_offset": 1.0, "_FillValue": 23}
        zarr.create_array(
            tmp_path / "a.zarr", data=stored, dimension_names=BANDS, attributes=attributes
        )
        rows = open_data(tmp_path / "a.zarr", feature_dim="band").read(0).rows
        expected = np.where(stored == 23, np.nan, stored * 0.5 + 1.0).reshape(2, -1).T
        np.testing.assert_array_equal(rows, expected)

    def test_real_numbers_that_stand_for_missing_values(self, tmp_path: Path) -> None:
        data = xarray.Dataset({"a": (BANDS, np.full((2, 3, 4), -9.0))})
        data["a"].encoding["_FillValue"] = -9.0
        data.to_zarr(tmp_path / "x.zarr", zarr_format=3, consolidated=False)
        zarr.open_group(tmp_path / "x.zarr")["a"][:, 0] = -9.0
        rows = open_data(tmp_path / "x.zarr" / "a", feature_dim="band").read(0).rows
        assert np.isnan(rows).all()

    @pytest.mark.parametrize("names", [None, ("band", None, "x")])
    def test_dimensions_without_names(self, names: Any, tmp_path: Path) -> None:
        zarr.create_array(
            tmp_path / "a.zarr", data=values((4, 3, 2)), dimension_names=names, chunks=(4, 3, 2)
        )
        with pytest.raises(
            DataError, match=r"a\.zarr does not name its dimensions \(4, 3, 2\).*dimension_names"
        ):
            open_data(tmp_path / "a.zarr", feature_dim="band")
