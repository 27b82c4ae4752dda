"""Every kind of data: opened, fitted and predicted in its own kind, with the labels of its rows."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dask.array
import duckdb
import h5py
import numpy as np
import pandas
import polars
import pyarrow
import pyarrow.dataset
import pyarrow.parquet
import pytest
import xarray
import zarr
from numpy.typing import NDArray
from zarr.storage import MemoryStore, ZipStore

import streamgmm
from streamgmm import GaussianMixture, OnlineGaussianMixture
from streamgmm.errors import StreamGMMError

Rows = NDArray[np.float64]
N, NAMES = 400, ["a", "b", "c"]
SHAPE, DIMS = (10, 8, 5), ("time", "lat", "lon")
TABLE = Path(__file__).parents[1] / "docs" / "reference" / "inputs.md"
# What `predict` returns for each kind.
ARRAY, SERIES, POLARS = np.ndarray, pandas.Series, polars.Series
ARROW, LABELLED, LAZY = pyarrow.ChunkedArray, xarray.DataArray, dask.array.Array


def rows() -> Rows:
    random = np.random.default_rng(0)
    return random.normal(size=(N, 3)) + 12.0 * (np.arange(N)[:, np.newaxis] % 2)


def mixture() -> GaussianMixture:
    return GaussianMixture(
        2, covariance_type="diag", means_init=[[0.0] * 3, [12.0] * 3], random_state=0
    )


@pytest.fixture(scope="module")
def expected() -> Rows:
    labels = mixture().fit(rows()).predict(rows())
    np.testing.assert_array_equal(labels, np.arange(N) % 2)
    return labels


@dataclass(frozen=True)
class Kind:
    """A kind of data.

    Attributes
    ----------
    make : callable
        Makes data of the rows, in a folder.
    result : type
        Type of the labels that ``predict`` returns; a path for data that are named.
    options : dict
        Options of ``streamgmm.open``.
    is_lazy : bool
        Whether the labels are lazy.
    needs : str
        A library that has to be there.
    """

    make: Callable[[Path], Any]
    result: type = Path
    options: dict[str, Any] = field(default_factory=dict)
    is_lazy: bool = False
    needs: str = "numpy"


def npy(folder: Path) -> Path:
    np.save(folder / "x.npy", rows())
    return folder / "x.npy"


def shards(folder: Path) -> list[Path]:
    for i in range(4):
        np.save(folder / f"part-{i}.npy", rows()[100 * i : 100 * (i + 1)])
    return sorted(folder.glob("part-*.npy"))


def folder_of(make: Callable[[Path], Any]) -> Callable[[Path], Path]:
    def made(folder: Path) -> Path:
        make(folder)
        return folder

    return made


def zarr_array(**settings: Any) -> Callable[[Path], Path]:
    def made(folder: Path) -> Path:
        zarr.create_array(folder / "x.zarr", data=rows(), **{"chunks": (64, 3), **settings})
        return folder / "x.zarr"

    return made


def open_zarr(folder: Path) -> Any:
    return zarr.open_array(zarr_array()(folder), mode="r")


def zarr_member(folder: Path) -> str:
    zarr.create_group(folder / "x.zarr").create_array("inner/x", data=rows(), chunks=(64, 3))
    return f"{folder / 'x.zarr'}::/inner/x"


def zarr_zip(folder: Path) -> Path:
    store = ZipStore(folder / "x.zip", mode="w")
    zarr.create_array(store, data=rows(), chunks=(64, 3))
    store.close()
    return folder / "x.zip"


def zarr_in_memory(folder: Path) -> MemoryStore:
    store = MemoryStore()
    zarr.create_array(store, data=rows(), chunks=(64, 3))
    return store


def at_memory_url(folder: Path) -> str:
    url = f"memory://{folder.name}/x.zarr"
    zarr.create_array(url, data=rows(), chunks=(64, 3))
    return url


def zipped_npy(folder: Path) -> str:
    npy(folder)
    shutil.make_archive(str(folder / "archive"), "zip", folder, "x.npy")
    return f"zip://x.npy::file://{folder}/archive.zip"


def hdf5(name: str, path: str = "x", **settings: Any) -> Callable[[Path], str]:
    def made(folder: Path) -> str:
        with h5py.File(folder / name, "w", **settings) as file:
            file.create_dataset(path, data=rows(), chunks=(64, 3))
        return f"{folder / name}::/{path}"

    return made


def open_hdf5(folder: Path) -> h5py.Dataset:
    hdf5("x.h5")(folder)
    return h5py.File(folder / "x.h5")["x"]


def columns() -> dict[str, Rows]:
    return dict(zip(NAMES, rows().T, strict=True))


def table() -> pyarrow.Table:
    return pyarrow.table(columns())


def parquet(name: str) -> Callable[[Path], Path]:
    def made(folder: Path) -> Path:
        pyarrow.parquet.write_table(table(), folder / name, row_group_size=100)
        return folder / name

    return made


def parquet_files(folder: Path) -> Path:
    (folder / "parts").mkdir()
    for i in range(4):
        part = table().slice(100 * i, 100)
        pyarrow.parquet.write_table(part, folder / "parts" / f"{i}.parquet")
    return folder / "parts"


def parquet_lists(folder: Path) -> Path:
    lists = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(rows().ravel()), 3)
    pyarrow.parquet.write_table(pyarrow.table({"embedding": lists}), folder / "x.parquet")
    return folder / "x.parquet"


def hive(folder: Path) -> pyarrow.dataset.Dataset:
    parts = pyarrow.dataset.partitioning(pyarrow.schema([("year", pyarrow.int64())]), flavor="hive")
    years = table().append_column("year", pyarrow.array(np.repeat([2019, 2020], N // 2)))
    pyarrow.dataset.write_dataset(years, folder / "hive", format="parquet", partitioning=parts)
    return pyarrow.dataset.dataset(folder / "hive", partitioning=parts)


def dataset(file_format: str) -> Callable[[Path], pyarrow.dataset.Dataset]:
    def made(folder: Path) -> pyarrow.dataset.Dataset:
        pyarrow.dataset.write_dataset(table(), folder / "set", format=file_format)
        return pyarrow.dataset.dataset(folder / "set", format=file_format)

    return made


def delta(folder: Path) -> Any:
    import deltalake

    deltalake.write_deltalake(str(folder / "delta"), table())
    return deltalake.DeltaTable(str(folder / "delta"))


def lance_dataset(folder: Path) -> Any:
    import lance

    return lance.write_dataset(table(), str(folder / "x.lance"))


def hugging_face(folder: Path) -> Any:
    import datasets

    return datasets.Dataset(table())


def cubes(**coords: Any) -> xarray.Dataset:
    variables = {name: (DIMS, column.reshape(SHAPE)) for name, column in columns().items()}
    return xarray.Dataset(variables, {"lat": np.linspace(-70.0, 70.0, 8), **coords})


def stored(engine: str, name: str) -> Callable[[Path], Path]:
    def made(folder: Path) -> Path:
        cubes().to_netcdf(folder / name, engine=engine)
        return folder / name

    return made


def years(folder: Path) -> list[Path]:
    for i in range(2):
        part = cubes(time=np.arange(10)).isel(time=slice(5 * i, 5 * i + 5))
        part.to_netcdf(folder / f"{i}.nc", engine="h5netcdf")
    return [folder / "0.nc", folder / "1.nc"]


def several(folder: Path) -> xarray.Dataset:
    return xarray.open_mfdataset(
        years(folder), combine="nested", concat_dim="time", engine="h5netcdf"
    )


def zarr_group(zarr_format: Any) -> Callable[[Path], Path]:
    def made(folder: Path) -> Path:
        cubes().to_zarr(folder / "x.zarr", zarr_format=zarr_format, consolidated=False)
        return folder / "x.zarr"

    return made


def opened_group(folder: Path) -> xarray.Dataset:
    return xarray.open_zarr(zarr_group(3)(folder), consolidated=False)


def along_bands() -> xarray.DataArray:
    return xarray.DataArray(rows().reshape(20, 20, 3), dims=("y", "x", "band"))


def with_cftime(folder: Path) -> xarray.Dataset:
    times = xarray.date_range("2001-01-01", periods=10, calendar="360_day", use_cftime=True)
    return cubes(time=times)


def geotiff(folder: Path) -> xarray.DataArray:
    import rasterio
    import rioxarray

    bands = rows().reshape(20, 20, 3).transpose(2, 0, 1)
    grid = {"width": 20, "height": 20, "count": 3, "dtype": "float64"}
    place = rasterio.transform.from_origin(0.0, 20.0, 1.0, 1.0)
    with rasterio.open(
        folder / "x.tif", "w", driver="GTiff", crs="EPSG:4326", transform=place, **grid
    ) as file:
        file.write(bands)
    return rioxarray.open_rasterio(folder / "x.tif")


def icechunk_session(folder: Path) -> Any:
    import icechunk

    repository = icechunk.Repository.create(icechunk.in_memory_storage())
    session = repository.writable_session("main")
    cubes().to_zarr(session.store, zarr_format=3, consolidated=False)
    session.commit("The cubes")
    return repository.readonly_session("main")


def references(folder: Path) -> Path:
    from kerchunk.hdf import SingleHdf5ToZarr

    file = stored("h5netcdf", "x.nc")(folder)
    (folder / "references.json").write_text(json.dumps(SingleHdf5ToZarr(str(file)).translate()))
    return folder / "references.json"


def manifest_store(folder: Path) -> Any:
    from obspec_utils.registry import ObjectStoreRegistry
    from obstore.store import LocalStore
    from virtualizarr.parsers import HDFParser

    file = stored("h5netcdf", "x.nc")(folder)
    registry = ObjectStoreRegistry({"file://": LocalStore()})
    return HDFParser()(url=f"file://{file}", registry=registry)


VARIABLES = {"variables": NAMES}
KINDS: dict[str, Kind] = {
    "NumPy array": Kind(lambda folder: rows(), ARRAY),
    "Fortran-ordered array": Kind(lambda folder: np.asfortranarray(rows()), ARRAY),
    "masked array": Kind(lambda folder: np.ma.masked_array(rows()), ARRAY),
    "memory map": Kind(lambda folder: np.load(npy(folder), mmap_mode="r"), ARRAY),
    "list of lists": Kind(lambda folder: rows().tolist(), ARRAY),
    "`.npy` file": Kind(npy),
    "list of `.npy` files": Kind(shards),
    "folder of `.npy` files": Kind(folder_of(shards)),
    "pattern of `.npy` files": Kind(lambda folder: str(shards(folder)[0].parent / "part-?.npy")),
    "`.npy` file without its suffix": Kind(lambda folder: npy(folder).rename(folder / "x.bin")),
    "`.npy` file at `file://`": Kind(lambda folder: f"file://{npy(folder)}"),
    "`.npy` file in a zip archive, `zip://`": Kind(zipped_npy),
    "Zarr array, format 2": Kind(zarr_array(zarr_format=2)),
    "Zarr array, format 3": Kind(zarr_array()),
    "sharded Zarr array": Kind(zarr_array(shards=(128, 3))),
    "Zarr array in a group, `x.zarr::/inner/x`": Kind(zarr_member),
    "Zarr array at a URL, `memory://`": Kind(at_memory_url),
    "Zarr array in a zip file": Kind(zarr_zip),
    "open `zarr.Array`": Kind(
        lambda folder: zarr.open_array(zarr_array()(folder), mode="r"), ARRAY
    ),
    "store of Zarr": Kind(zarr_in_memory, ARRAY),
    "variables of a Zarr group, format 2": Kind(zarr_group(2), options=VARIABLES),
    "variables of a Zarr group, format 3": Kind(zarr_group(3), options=VARIABLES),
    "Icechunk session": Kind(icechunk_session, LABELLED, VARIABLES, needs="icechunk"),
    "store of an Icechunk session": Kind(
        lambda folder: icechunk_session(folder).store, LABELLED, VARIABLES, needs="icechunk"
    ),
    "JSON references of kerchunk": Kind(references, options=VARIABLES, needs="kerchunk"),
    "manifest store of VirtualiZarr": Kind(
        manifest_store, LABELLED, VARIABLES, needs="virtualizarr"
    ),
    "HDF5 file": Kind(hdf5("x.h5", "group/data")),
    "open `h5py.Dataset`": Kind(open_hdf5, ARRAY),
    "`.h5ad` file": Kind(hdf5("x.h5ad", "X")),
    "`.mat` file of version 7.3": Kind(hdf5("x.mat", userblock_size=512)),
    "netCDF-3 file": Kind(stored("scipy", "x3.nc"), options=VARIABLES),
    "netCDF-4 file": Kind(stored("netcdf4", "x4.nc"), options=VARIABLES, needs="netCDF4"),
    "list of netCDF files": Kind(years, options=VARIABLES),
    "xarray `Dataset`": Kind(lambda folder: cubes(), LABELLED),
    "xarray `Dataset` of Dask arrays": Kind(
        lambda folder: cubes().chunk({"time": 3}), LABELLED, is_lazy=True
    ),
    "`xarray.open_zarr`": Kind(opened_group, LABELLED, VARIABLES, is_lazy=True),
    "`xarray.open_mfdataset`": Kind(several, LABELLED, is_lazy=True),
    "xarray `DataArray`": Kind(lambda folder: along_bands(), LABELLED, {"feature_dim": "band"}),
    "xarray `DataArray` of Dask arrays": Kind(
        lambda folder: along_bands().chunk({"y": 5}),
        LABELLED,
        {"feature_dim": "band"},
        is_lazy=True,
    ),
    "xarray with times of cftime": Kind(with_cftime, LABELLED, needs="cftime"),
    "GeoTIFF by rioxarray": Kind(geotiff, LABELLED, {"feature_dim": "band"}, needs="rioxarray"),
    "Dask array": Kind(
        lambda folder: dask.array.from_array(rows(), chunks=(64, 3)), LAZY, is_lazy=True
    ),
    "pandas `DataFrame`": Kind(lambda folder: pandas.DataFrame(columns()), SERIES),
    "polars `DataFrame`": Kind(lambda folder: polars.DataFrame(columns()), POLARS),
    "pyarrow `Table`": Kind(lambda folder: table(), ARROW),
    "pyarrow `RecordBatch`": Kind(lambda folder: table().to_batches()[0], ARROW),
    "pyarrow `Dataset` of Parquet": Kind(dataset("parquet"), ARROW),
    "pyarrow `Dataset` of Arrow files": Kind(dataset("ipc"), ARROW),
    "pyarrow `Dataset` with hive partitions": Kind(hive, ARROW, {"columns": NAMES}),
    "`deltalake.DeltaTable`": Kind(delta, ARROW, needs="deltalake"),
    "its `to_pyarrow_dataset()`": Kind(
        lambda folder: delta(folder).to_pyarrow_dataset(), ARROW, needs="deltalake"
    ),
    "Lance dataset": Kind(lance_dataset, ARROW, needs="lance"),
    "Hugging Face `Dataset`": Kind(hugging_face, ARROW, needs="datasets"),
    "Parquet file": Kind(parquet("x.parquet")),
    "folder of Parquet files": Kind(parquet_files),
    "pattern of Parquet files": Kind(lambda folder: f"{parquet_files(folder)}/*.parquet"),
    "Parquet file without its suffix": Kind(parquet("x.bin"), options={"format": "parquet"}),
    "Parquet column of lists": Kind(parquet_lists),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::PendingDeprecationWarning")
@pytest.mark.parametrize("name", KINDS)
def test_each_kind_is_opened_fitted_and_predicted(
    name: str, expected: Rows, tmp_path: Path
) -> None:
    kind = KINDS[name]
    pytest.importorskip(kind.needs)
    data = kind.make(tmp_path)
    source = streamgmm.open(data, **kind.options)
    assert (source.n_rows, source.n_features) == (N, 3)
    model = mixture().fit(source)
    np.testing.assert_allclose(model.means_, mixture().fit(rows()).means_, rtol=1e-9)
    if kind.result is Path:
        found = model.predict(source, out=tmp_path / "labels.npy")
        assert isinstance(found, Path)
        labels: Any = np.load(found)
    else:
        labels = model.predict(source)
        assert isinstance(labels, kind.result)
        values = labels.data if kind.result is LABELLED else labels
        assert isinstance(values, LAZY) == kind.is_lazy
    np.testing.assert_array_equal(np.asarray(labels).ravel(), expected)


@pytest.mark.parametrize("kind", ["session", "references"])
def test_variables_of_other_stores_are_found_by_name(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("icechunk" if kind == "session" else "kerchunk")
    data = icechunk_session(tmp_path) if kind == "session" else references(tmp_path)
    model = mixture().fit(streamgmm.open(cubes(), variables=["c", "a", "b"]))
    assert model.score(data) == pytest.approx(model.score(cubes()[["c", "a", "b"]]))


def test_outputs_may_be_given_as_file_urls_too(tmp_path: Path) -> None:
    model = mixture().set_params(checkpoint=f"file://{tmp_path}/checkpoint").fit(rows())
    assert (tmp_path / "checkpoint" / "model.gmm").exists()
    url = f"file://{tmp_path}/model.gmm"
    model.save(url)
    streamgmm.load(url).predict(rows(), out=f"file://{tmp_path}/labels.npy")
    expected = model.predict(rows())
    np.testing.assert_array_equal(np.load(tmp_path / "labels.npy"), expected)
    mixture().fit(cubes()).predict(cubes(), out=f"file://{tmp_path}/labels.zarr")
    found = xarray.open_zarr(tmp_path / "labels.zarr")["component"]
    np.testing.assert_array_equal(found.values.ravel(), expected)


STREAMS: dict[str, Callable[[], Any]] = {
    "pyarrow `RecordBatchReader`": lambda: table().to_reader(100),
    "DuckDB relation": lambda: duckdb.from_arrow(table()),
}


@pytest.mark.parametrize("name", STREAMS)
def test_streams_are_learned_once(name: str, expected: Rows) -> None:
    model = OnlineGaussianMixture(2, random_state=0, init_size=100)
    found = model.partial_fit(STREAMS[name]()).predict(table())
    assert isinstance(found, pyarrow.ChunkedArray)
    labels = found.to_numpy()
    np.testing.assert_array_equal(labels == labels[0], expected == expected[0])


def lazy_frame(folder: Path) -> Any:
    parquet("x.parquet")(folder)
    return polars.scan_parquet(folder / "x.parquet")


def icechunk_folder(folder: Path) -> Path:
    icechunk = pytest.importorskip("icechunk")
    for name in ("snapshots", "manifests", "transactions", "refs", "chunks"):
        (folder / "repository" / name).mkdir(parents=True)
    assert icechunk.local_filesystem_storage
    return folder / "repository"


def icechunk_repository(folder: Path) -> Any:
    icechunk = pytest.importorskip("icechunk")
    return icechunk.Repository.create(icechunk.in_memory_storage())


def virtual_dataset(folder: Path) -> Any:
    virtualizarr = pytest.importorskip("virtualizarr")
    return manifest_store(folder).to_virtual_dataset() if virtualizarr else None


def numpy_archive(folder: Path) -> Path:
    np.savez(folder / "x.npz", x=rows())
    return folder / "x.npz"


def sparse_matrix(folder: Path) -> Any:
    import scipy.sparse

    return scipy.sparse.csr_array(rows())


def delta_folder(folder: Path) -> Path:
    pytest.importorskip("deltalake")
    delta(folder)
    return folder / "delta"


# Kinds that cannot be read, with the way out that the error says.
REFUSED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "polars `LazyFrame`": (lazy_frame, r"collect\(\)|sink_parquet"),
    "relation of DuckDB in `fit`": (
        lambda folder: STREAMS["DuckDB relation"](),
        r"X\.df\(\).*write_parquet",
    ),
    "record batch reader in `fit`": (lambda folder: table().to_reader(), r"X\.read_all\(\)"),
    "sparse matrix of SciPy": (sparse_matrix, r"toarray\(\)|dense"),
    "`.npz` file": (numpy_archive, r"np\.load|numpy\.load"),
    "folder of an Icechunk repository": (icechunk_folder, "readonly_session"),
    "Icechunk repository": (icechunk_repository, "readonly_session"),
    "virtual dataset of VirtualiZarr": (virtual_dataset, "to_kerchunk"),
    "folder of a Delta table": (delta_folder, "DeltaTable"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_kinds_are_refused_with_the_way_out(name: str, tmp_path: Path) -> None:
    make, way_out = REFUSED[name]
    with pytest.raises(StreamGMMError, match=way_out):
        mixture().fit(make(tmp_path))


def result_of(kind: Kind) -> str:
    """Return what `predict` returns, as the table in the documentation says it."""
    if kind.result is Path:
        return "path of `out=`"
    names = {ARRAY: "NumPy array", SERIES: "pandas `Series`", POLARS: "polars `Series`"}
    names |= {ARROW: "pyarrow `ChunkedArray`", LABELLED: "`DataArray`", LAZY: "Dask array"}
    return f"lazy {names[kind.result]}" if kind.is_lazy else names[kind.result]


def test_the_table_of_the_documentation_lists_these_kinds() -> None:
    lines = [f"| {name} | {result_of(kind)} |" for name, kind in KINDS.items()]
    lines += [f"| {name}, by `partial_fit` | pyarrow `ChunkedArray` |" for name in STREAMS]
    assert len(lines) >= 40
    assert "\n".join(lines) in TABLE.read_text(), "\n".join(["", *lines])
