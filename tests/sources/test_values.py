"""Masks, marks of missing values, packing and valid ranges, in every container and in weights."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import dask
import dask.array
import h5py
import numpy as np
import pytest
import scipy.sparse
import xarray
import zarr
from numpy.typing import NDArray
from zarr.storage import MemoryStore

from streamgmm import GaussianMixture
from streamgmm import open as open_data
from streamgmm.errors import DataError
from streamgmm.options import Missing
from streamgmm.protocols import LazySource
from streamgmm.sources.values import NO_RULES, ValueRules, usable
from tests.sources.conformance import MarkedCase, MissingValuesConformance

N, D = 60, 2
MARK, OTHER_MARK = -9999.0, 1e20


def rows_with_nan() -> NDArray[np.float64]:
    """Rows of two blobs of whole numbers, three of them with missing values."""
    rng = np.random.default_rng(0)
    rows = np.rint(rng.normal(0.0, 9.0, (N, D))) + np.where(np.arange(N) % 2, 100.0, 200.0)[:, None]
    rows[[5, 17, 40], [0, 1, 0]] = np.nan
    return rows


ROWS = rows_with_nan()
DIMS = ("sample", "feature")


def marked(mark: float, dtype: str = "f8", *, two: bool = False) -> NDArray[Any]:
    stored = np.where(np.isnan(ROWS), mark, ROWS)
    if two:
        stored[17, 1] = OTHER_MARK
    return stored.astype(dtype)


def masked(dtype: str = "f8") -> Any:
    return np.ma.masked_array(marked(7.0, dtype), np.isnan(ROWS))


def through_xarray(folder: Path, zarr_format: Any, dtype: str, mark: float) -> Path:
    data = xarray.Dataset({"t": (DIMS, ROWS)})
    encoding = {"t": {"_FillValue": mark, "dtype": dtype}}
    data.to_zarr(folder / "v.zarr", zarr_format=zarr_format, encoding=encoding, consolidated=False)
    return folder / "v.zarr"


def zarr_array(stored: NDArray[Any], **settings: Any) -> Any:
    array = zarr.create_array(
        MemoryStore(), shape=stored.shape, dtype=stored.dtype, chunks=(20, D), **settings
    )
    array[:] = stored
    return array


def hdf5(folder: Path, stored: NDArray[Any], fillvalue: Any = None, **attributes: Any) -> Path:
    with h5py.File(folder / "x.h5", "w") as file:
        data = file.create_dataset("data", data=stored, chunks=(20, D), fillvalue=fillvalue)
        data.attrs.update(attributes)
    return folder / "x.h5"


def netcdf_of_default_fill_values(folder: Path) -> Path:
    stored = xarray.Dataset({"t": (DIMS, marked(9.969209968386869e36))})
    stored.to_netcdf(folder / "x.nc", engine="h5netcdf", encoding={"t": {"_FillValue": None}})
    return folder / "x.nc"


def lazy(stored: Any, chunks: Any = (20, D)) -> Any:
    return dask.array.from_array(stored, chunks=chunks)


FILL = "3 marked by fill_value -9999"
CASES: dict[str, Callable[[Path], tuple[Any, str]]] = {
    "masked array": lambda _: (masked(), "3 masked"),
    "masked integers": lambda _: (masked("i4"), "3 masked"),
    "masked float32": lambda _: (masked("f4"), "3 masked"),
    "Dask": lambda _: (lazy(masked()), r"\d masked"),
    "Dask integers": lambda _: (lazy(masked("i2")), r"\d masked"),
    "Dask columns": lambda _: (lazy(masked(), (20, 1)), r"\d masked"),
    "Dask expression": lambda _: (
        dask.array.ma.masked_equal(lazy(marked(MARK)), MARK).rechunk((7, D)),
        r"\d masked",
    ),
    "Zarr format 2 of xarray": lambda folder: (
        through_xarray(folder, 2, "f8", MARK) / "t",
        FILL,
    ),
    "Zarr format 2 of xarray, integers": lambda folder: (
        through_xarray(folder, 2, "i2", 0) / "t",
        "3 marked by fill_value 0",
    ),
    "Zarr format 3 of xarray": lambda folder: (
        through_xarray(folder, 3, "f8", MARK) / "t",
        "3 marked by _FillValue -9999",
    ),
    "Zarr format 3 of xarray, float32": lambda folder: (
        through_xarray(folder, 3, "f4", OTHER_MARK) / "t",
        "3 marked by _FillValue 1",
    ),
    "Zarr format 3 of xarray, integers": lambda folder: (
        through_xarray(folder, 3, "i4", -1) / "t",
        "3 marked by _FillValue -1",
    ),
    "Zarr format 2": lambda _: (
        zarr_array(marked(MARK), zarr_format=2, fill_value=MARK),
        FILL,
    ),
    "Zarr format 3": lambda _: (zarr_array(marked(MARK, "i2"), fill_value=-9999), FILL),
    "Zarr attributes": lambda _: (
        zarr_array(
            marked(MARK, two=True),
            attributes={"_FillValue": MARK, "missing_value": [MARK, OTHER_MARK]},
        ),
        r"2 marked by _FillValue -9999.0, 1 marked by missing_value 1e\+20",
    ),
    "Zarr big-endian": lambda _: (
        zarr_array(marked(MARK, ">f4"), zarr_format=2, attributes={"missing_value": MARK}),
        "3 marked by missing_value -9999.0",
    ),
    "HDF5 _FillValue": lambda folder: (
        hdf5(folder, marked(MARK), _FillValue=np.array([MARK])),
        "3 marked by _FillValue -9999.0",
    ),
    "HDF5 marks": lambda folder: (
        hdf5(folder, marked(MARK, "f4", two=True), missing_value=np.array([MARK, OTHER_MARK])),
        "2 marked by missing_value -9999.0, 1 marked by missing_value 1",
    ),
    "HDF5 integers": lambda folder: (
        hdf5(folder, marked(-1, "i8"), missing_value=np.int64(-1)),
        "3 marked by missing_value -1",
    ),
    "HDF5 fill value": lambda folder: (hdf5(folder, marked(MARK), fillvalue=MARK), FILL),
    "HDF5 valid range": lambda folder: (
        hdf5(folder, marked(OTHER_MARK), valid_range=np.array([-500.0, 500.0])),
        "3 above valid_max 500",
    ),
    "HDF5 valid minimum": lambda folder: (
        hdf5(folder, marked(-1, "i2"), valid_min=np.int16(0)),
        "3 below valid_min 0",
    ),
    "xarray, not decoded": lambda _: (
        xarray.DataArray(marked(MARK), dims=DIMS, attrs={"_FillValue": MARK}),
        "3 marked by _FillValue -9999.0",
    ),
    "xarray of masked Dask blocks": lambda _: (
        xarray.DataArray(
            lazy(marked(MARK)).map_blocks(
                np.ma.masked_equal, MARK, dtype="f8", meta=np.empty((0, 0))
            ),
            dims=DIMS,
        ),
        # Lazy predictions name those of one block.
        r"[123] masked",
    ),
    "xarray, opened without decoding": lambda folder: (
        xarray.open_zarr(
            through_xarray(folder, 3, "i4", -1), mask_and_scale=False, consolidated=False
        ).t,
        "3 marked by _FillValue -1",
    ),
    "xarray of a netCDF file": lambda folder: (
        xarray.open_dataset(netcdf_of_default_fill_values(folder), engine="h5netcdf").t,
        "3 marked by fill_value 9.96",
    ),
}
LABELLED: dict[str, Callable[[Path], Path]] = {
    "netCDF default fill values": netcdf_of_default_fill_values,
    "Zarr format 3 fill value": lambda folder: fill_value_of_a_group(folder),
}


def fill_value_of_a_group(folder: Path) -> Path:
    group = zarr.create_group(folder / "g.zarr")
    array = group.create_array(
        "t", shape=(N, D), dtype="f8", fill_value=9.969209968386869e36, dimension_names=DIMS
    )
    array[:] = marked(9.969209968386869e36)
    return folder / "g.zarr"


@pytest.fixture(autouse=True)
def synchronous() -> Any:
    with dask.config.set(scheduler="synchronous"):
        yield


class TestMissingValues(MissingValuesConformance):
    @pytest.fixture(params=CASES)
    def case(self, request: pytest.FixtureRequest, tmp_path: Path) -> MarkedCase:
        data, said = CASES[request.param](tmp_path)
        return MarkedCase(data, ROWS, said)


class TestMissingValuesOfVariables(MissingValuesConformance):
    @pytest.fixture(params=LABELLED)
    def case(self, request: pytest.FixtureRequest, tmp_path: Path) -> MarkedCase:
        options = {"variables": ["t"], "feature_dim": "feature"}
        said = "3 marked by fill_value 9.96"
        return MarkedCase(LABELLED[request.param](tmp_path), ROWS, said, options)


def test_the_remedy_of_a_refusal_helps(tmp_path: Path) -> None:
    path = hdf5(tmp_path, marked(MARK), _FillValue=MARK)
    with pytest.raises(DataError, match=r"missing='drop'.* missing='em'"):
        GaussianMixture().fit(open_data(path))
    for missing in ("drop", "em"):
        GaussianMixture().fit(open_data(path, missing=missing))


STORED = np.arange(2.0 * N).reshape(N, D)


@pytest.mark.parametrize("missing", ["error", "drop"])
@pytest.mark.parametrize(
    "make",
    [
        lambda _: np.ma.masked_array(STORED, np.zeros((N, D), dtype=bool)),
        lambda _: zarr_array(STORED, fill_value=MARK),
        lambda _: zarr_array(STORED, attributes={"scale_factor": 1.0, "add_offset": [0.0]}),
        lambda _: zarr_array(STORED, attributes={"_Unsigned": "true", "_FillValue": "NaN"}),
        lambda folder: hdf5(folder, STORED, scale_factor=np.float32(1), add_offset=np.array([0])),
        lambda folder: hdf5(folder, STORED, missing_value=np.array([MARK, np.nan]), fillvalue=1.0),
        # Bounds of integers belong to packed values.
        lambda folder: hdf5(folder, STORED, valid_range=np.array([0, 3], dtype="i2")),
        lambda folder: hdf5(folder, STORED, valid_min=np.nan, valid_max="3"),
        lambda _: xarray.DataArray(
            STORED, dims=DIMS, attrs={"scale_factor": 1.0, "add_offset": 0.0, "_FillValue": MARK}
        ),
        # A computation hands the attributes on.
        lambda _: xarray.DataArray(STORED, dims=DIMS, attrs={"valid_max": 3.0}) + 0.0,
    ],
)
def test_what_marks_no_value_changes_nothing(
    make: Callable[[Path], Any], missing: Any, tmp_path: Path
) -> None:
    source = open_data(make(tmp_path), missing=missing)
    rows = np.concatenate([source.read(i).rows for i in range(len(source.boundaries) - 1)])
    np.testing.assert_array_equal(rows, STORED)


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("dtype", ["f4", "i2", "u1", "?"])
@pytest.mark.parametrize("fill_value", [0, 1])
def test_rows_that_were_never_written(zarr_format: Any, dtype: str, fill_value: int) -> None:
    array = zarr.create_array(
        MemoryStore(), shape=(N, D), dtype=dtype, fill_value=fill_value, zarr_format=zarr_format
    )
    assert (open_data(array).read(0).rows == fill_value).all()


def test_bytes_of_netcdf_files_have_no_fill_value(tmp_path: Path) -> None:
    rows = np.full((N, D), 255, dtype="u1")
    path = hdf5(tmp_path, rows, fillvalue=255)
    np.testing.assert_array_equal(open_data(path).read(0).rows, rows)


@pytest.mark.parametrize("attributes", [{"scale_factor": 0.1}, {"_Unsigned": "true"}])
def test_packed_values_are_refused_unless_xarray_decodes_them(
    attributes: dict[str, Any], tmp_path: Path
) -> None:
    path = hdf5(tmp_path, np.full((N, D), -2, dtype="i2"), **attributes)
    message = rf"x\.h5::/data holds packed values .*{next(iter(attributes))}.*with xarray"
    with pytest.raises(DataError, match=message):
        open_data(path)
    decoded = open_data(path, variables=["data"], feature_dim="phony_dim_1").read(0).rows
    expected = -2 * 0.1 if "scale_factor" in attributes else 65534
    np.testing.assert_allclose(decoded, expected)


def weights_with_marks(kind: str, folder: Path) -> Any:
    """Weights of which number 7 is missing."""
    values = np.arange(1.0, N + 1)
    is_missing = np.arange(N) == 7
    stored = np.where(is_missing, MARK, values)
    if kind == "masked array":
        return np.ma.masked_array(values, is_missing)
    if kind == "Dask":
        return dask.array.from_array(np.ma.masked_array(values, is_missing), chunks=20)
    if kind == "Zarr":
        return zarr.create_array(MemoryStore(), data=stored, attributes={"_FillValue": MARK})
    if kind == "Zarr path":
        array = zarr.create_array(folder / "w.zarr", shape=N, dtype="f8", fill_value=MARK)
        array[:] = stored
        return folder / "w.zarr"
    if kind == "HDF5":
        file = h5py.File(folder / "w.h5", "w")
        file.create_dataset("w", data=stored).attrs["_FillValue"] = MARK
        return file["w"]
    attributes = {"missing_value": MARK}
    return xarray.DataArray(stored, dims=("sample",), attrs=attributes)


@pytest.mark.parametrize("data", ["array", "dask", "zarr", "xarray"])
@pytest.mark.parametrize("missing", ["error", "drop"])
@pytest.mark.parametrize("kind", ["masked array", "Dask", "Zarr", "Zarr path", "HDF5", "xarray"])
def test_weights_may_not_be_missing(kind: str, missing: Any, data: str, tmp_path: Path) -> None:
    rows = {
        "array": STORED,
        "dask": lazy(STORED),
        "zarr": zarr_array(STORED),
        "xarray": xarray.DataArray(STORED, dims=DIMS),
    }[data]
    message = r"sample_weight(: .* 1 missing value\(s\) .*row 7.*| has 1 masked value)"
    with pytest.raises(DataError, match=message):
        GaussianMixture().fit(
            open_data(rows, missing=missing, sample_weight=weights_with_marks(kind, tmp_path))
        )


@pytest.mark.parametrize("attributes", [{"scale_factor": 0.5}, {"add_offset": 1.0}])
@pytest.mark.parametrize("kind", ["zarr", "zarr path", "h5py", "xarray"])
def test_packed_weights_are_refused(kind: str, attributes: dict[str, Any], tmp_path: Path) -> None:
    stored = np.ones(N, dtype="i2")
    weights: Any
    if kind.startswith("zarr"):
        weights = zarr.create_array(tmp_path / "w.zarr", data=stored, attributes=attributes)
        weights = weights if kind == "zarr" else tmp_path / "w.zarr"
    elif kind == "h5py":
        weights = h5py.File(tmp_path / "w.h5", "w").create_dataset("w", data=stored)
        weights.attrs.update(attributes)
    else:
        weights = xarray.DataArray(stored, dims=("sample",), attrs=attributes)
    with pytest.raises(DataError, match="holds packed values"):
        open_data(STORED, sample_weight=weights)


@pytest.mark.parametrize("dtype", ["c16", "U3", "M8[s]"])
@pytest.mark.parametrize("kind", ["array", "dask", "xarray"])
def test_weights_that_are_no_real_numbers(kind: str, dtype: str) -> None:
    values: Any = np.zeros(N, dtype=dtype)
    if kind == "dask":
        values = dask.array.from_array(values, chunks=20)
    elif kind == "xarray":
        values = xarray.DataArray(values, dims=("sample",))
    with pytest.raises(DataError, match="sample_weight has dtype"):
        open_data(STORED, sample_weight=values)


WRONG_BLOCKS: dict[str, tuple[Callable[[NDArray[Any]], Any], str]] = {
    "rows": (lambda block: block[:3], r"shape \(3, [12]\)"),
    "no columns": (lambda block: block[:, :0], r"shape \(20, 0\)"),
    "vector": (lambda block: block[:, 0], r"shape \(20,\)"),
    "kind of type": (lambda block: block.astype("i8"), "dtype int64"),
    "sparse": (scipy.sparse.csr_matrix, "csr_matrix, not as a NumPy array; .*toarray"),
    "list": (lambda block: block.tolist(), "list, not as a NumPy array; .*numpy.asarray"),
}


@pytest.mark.parametrize("chunks", [(20, D), (20, 1)])
@pytest.mark.parametrize("what", WRONG_BLOCKS)
def test_blocks_that_are_not_what_was_announced(what: str, chunks: Any) -> None:
    change, said = WRONG_BLOCKS[what]
    model = GaussianMixture().fit(STORED)
    data = lazy(STORED, chunks).map_blocks(change, dtype="f8", meta=np.empty((0, 0)))
    message = rf"rows \d+ to \d+.*{said}"
    with pytest.raises(DataError, match=message):
        GaussianMixture().fit(data)
    with pytest.raises(DataError, match=message):
        model.predict(data).compute()
    source = open_data(data)
    assert isinstance(source, LazySource)
    with pytest.raises(DataError, match=message):
        dask.compute(source.lazy_chunks()[0])
    with pytest.raises(DataError, match="rows 0 to 20"):
        source.read(0)
    labelled = xarray.DataArray(data, dims=DIMS)
    with pytest.raises(DataError, match="sample 0 to"):
        open_data(labelled).read(0)


def test_sparse_blocks_are_taken_once_they_are_converted() -> None:
    sparse = lazy(STORED).map_blocks(scipy.sparse.csr_matrix, dtype="f8", meta=np.empty((0, 0)))
    dense = sparse.map_blocks(lambda block: block.toarray(), dtype="f8", meta=np.empty((0, 0)))
    np.testing.assert_array_equal(
        GaussianMixture().fit(dense).means_, GaussianMixture().fit(lazy(STORED)).means_
    )


def test_masked_integers_that_nothing_announced() -> None:
    def mask(block: NDArray[Any]) -> Any:
        return np.ma.masked_greater(block, 100)

    data = lazy(STORED.astype("i4")).map_blocks(mask, dtype="i4", meta=np.empty((0, 0), "i4"))
    with pytest.raises(DataError, match=r"masked values of type int32.*X\.astype\(float\)"):
        open_data(data, missing="drop").read(2)
    rows = open_data(data.astype(float), missing="drop").read(2).rows
    np.testing.assert_array_equal(rows, np.where(STORED[40:] > 100, np.nan, STORED[40:]))


def test_values_of_which_none_is_missing_are_not_copied() -> None:
    rules = ValueRules(marks=(("_FillValue", np.float64(MARK)),), valid_max=np.float64(1e3))
    for missing in get_args(Missing):
        assert usable(STORED, rules, missing, "X", range(N)) is STORED
        assert usable(STORED, NO_RULES, missing, "X", range(N)) is STORED
