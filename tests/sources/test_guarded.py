"""A Zarr array that was moved, deleted or replaced is an error, never its fill value."""

import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask
import dask.array
import fsspec
import h5py
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import xarray
import zarr
from zarr.storage import FsspecStore, LocalStore, MemoryStore, ZipStore

from streamgmm import GaussianMixture
from streamgmm import open as open_data
from streamgmm.errors import DataError
from streamgmm.events import Event, ReadStarted
from streamgmm.protocols import Source
from streamgmm.testing.sources import table

N, D = 300, 2
ROWS = table(N, D)
GONE = r"x\.zarr.* is no longer there; it was moved or deleted"
LABELS = {"variables": ["t"], "feature_dim": "feature"}


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    with dask.config.set(scheduler="synchronous"):
        yield


def array(zarr_format: Any = 3, **settings: Any) -> None:
    settings = {"chunks": (100, D), **settings}
    zarr.create_array("x.zarr", data=ROWS, zarr_format=zarr_format, **settings)


def group(zarr_format: Any = 3) -> None:
    data = xarray.Dataset({"t": (("sample", "feature"), ROWS)})
    encoding = {"t": {"chunks": (100, D)}}
    data.to_zarr("x.zarr", zarr_format=zarr_format, encoding=encoding, consolidated=False)


def of_array(open_it: Callable[[], Any], **settings: Any) -> Callable[[], Source]:
    def make() -> Source:
        array(**settings)
        return open_data(open_it())

    return make


def of_group(open_it: Callable[[], Any], **options: Any) -> Callable[[], Source]:
    def make() -> Source:
        group()
        return open_data(open_it(), **options)

    return make


def weighted() -> Source:
    zarr.create_array("x.zarr", data=np.ones(N), chunks=(100,))
    return open_data(ROWS, sample_weight="x.zarr")


def weighted_by_xarray() -> Source:
    xarray.Dataset({"w": ("sample", np.ones(N))}).to_zarr("x.zarr", consolidated=False)
    weights = xarray.open_zarr("x.zarr", consolidated=False, chunks=None).w
    rows = xarray.DataArray(ROWS, dims=("sample", "feature"))
    return open_data(rows, sample_weight=weights)


def relative() -> Any:
    return zarr.open_array(LocalStore("x.zarr", read_only=True), mode="r")


SOURCES: dict[str, Callable[[], Source]] = {
    "path": of_array(lambda: "x.zarr"),
    "format 2": of_array(lambda: Path("x.zarr"), zarr_format=2),
    "shards": of_array(lambda: "x.zarr", chunks=(50, 1), shards=(100, D)),
    "array": of_array(relative),
    "path within a group": of_group(lambda: "x.zarr", path="t"),
    "variables": of_group(lambda: "x.zarr", **LABELS),
    "labelled array": of_group(lambda: "x.zarr::/t", feature_dim="feature"),
    "group": of_group(lambda: zarr.open_group("x.zarr", mode="r"), **LABELS),
    "xarray": of_group(lambda: xarray.open_zarr("x.zarr", consolidated=False).t),
    "xarray without Dask": of_group(
        lambda: xarray.open_zarr("x.zarr", consolidated=False, chunks=None), **LABELS
    ),
    "Dask": of_array(lambda: dask.array.from_zarr("x.zarr")),
    "Dask from an array": of_array(lambda: dask.array.from_array(relative(), chunks=(100, D)) + 0),
    "Dask of xarray": of_group(lambda: xarray.open_zarr("x.zarr", consolidated=False).t.data),
    "weights": weighted,
    "weights of xarray": weighted_by_xarray,
}


@pytest.mark.parametrize("kind", SOURCES)
class TestStoresThatAreGone:
    @pytest.mark.parametrize("is_moved", [True, False])
    def test_they_are_an_error(self, kind: str, is_moved: bool) -> None:
        source = SOURCES[kind]()
        travelled = pickle.loads(pickle.dumps(source))
        model = GaussianMixture().fit(ROWS)
        np.testing.assert_array_equal(source.read(0).rows, ROWS[: source.boundaries[1]])
        if is_moved:
            Path("x.zarr").rename("y.zarr")
        else:
            shutil.rmtree("x.zarr")
        for data in (source, travelled):
            with pytest.raises(DataError, match=GONE):
                GaussianMixture().fit(data)
            with pytest.raises(DataError, match=GONE):
                model.score(data)

    def test_another_folder_finds_the_same_rows(self, kind: str, tmp_path: Path) -> None:
        source = SOURCES[kind]()
        expected = GaussianMixture().fit(source).means_
        (tmp_path / "elsewhere").mkdir()
        os.chdir(tmp_path / "elsewhere")
        for data in (source, pickle.loads(pickle.dumps(source))):
            np.testing.assert_array_equal(GaussianMixture().fit(data).means_, expected)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("path", "x.zarr"),
        ("format 2", "x.zarr"),
        ("shards", "x.zarr"),
        ("array", "x.zarr"),
        ("path within a group", "x.zarr/t"),
        ("variables", "x.zarr/t"),
        ("labelled array", "x.zarr/t"),
        ("group", "x.zarr/t"),
        ("xarray", "x.zarr/t"),
        ("Dask from an array", "x.zarr"),
        ("weights", "x.zarr"),
        ("weights of xarray", "x.zarr/w"),
    ],
)
@pytest.mark.parametrize("change", ["shape", "dtype"])
def test_another_array_in_its_place_is_an_error(kind: str, name: str, change: str) -> None:
    source = SOURCES[kind]()
    shutil.rmtree("x.zarr")
    other = np.ones(N) if "weights" in kind else ROWS
    other = other[:-1] if change == "shape" else other.astype("i8")
    chunks = (100, D)[: other.ndim]
    zarr.create_array(name, data=other, chunks=chunks, zarr_format=2 if "2" in kind else 3)
    with pytest.raises(DataError, match="was replaced by another array after it was opened"):
        for i in range(len(source.boundaries) - 1):
            source.read(i)


@pytest.mark.parametrize("kind", ["path", "variables", "xarray", "Dask", "weights"])
def test_a_store_that_is_deleted_during_a_fit(kind: str) -> None:
    source = SOURCES[kind]()

    def delete(event: Event) -> None:
        if isinstance(event, ReadStarted) and event.number > 1:
            shutil.rmtree("x.zarr", ignore_errors=True)

    with pytest.raises(DataError, match="is no longer there"):
        GaussianMixture(3, algorithm="em", tol=0.0, max_iter=20, callbacks=delete).fit(source)


def test_a_store_in_memory_that_was_emptied() -> None:
    store = MemoryStore()
    source = open_data(zarr.create_array(store, data=ROWS))
    store._store_dict.clear()
    with pytest.raises(DataError, match="is no longer there"):
        source.read(0)


def test_a_store_of_fsspec_that_was_emptied() -> None:
    filesystem = fsspec.filesystem("memory")
    store = FsspecStore.from_url("memory://x.zarr")
    source = open_data(zarr.create_array(store, data=ROWS))
    np.testing.assert_array_equal(source.read(0).rows, ROWS)
    filesystem.rm("/x.zarr", recursive=True)
    with pytest.raises(DataError, match=GONE):
        source.read(0)


def unwritten(store: Any) -> Any:
    array = zarr.create_array(store, shape=(N, D), chunks=(100, D), dtype="f8", fill_value=0.0)
    array[:100] = ROWS[:100]
    return array


@pytest.mark.parametrize("kind", ["local", "memory", "zip", "fsspec"])
def test_chunks_that_were_never_written_keep_the_fill_value(kind: str) -> None:
    stores = {
        "local": lambda: LocalStore("x.zarr"),
        "memory": MemoryStore,
        "zip": lambda: ZipStore("x.zip", mode="w"),
        "fsspec": lambda: FsspecStore.from_url("memory://unwritten.zarr"),
    }
    store: Any = stores[kind]()
    source = open_data(unwritten(store))
    np.testing.assert_array_equal(source.read(0).rows[:100], ROWS[:100])
    np.testing.assert_array_equal(source.read(0).rows[100:], 0.0)
    store.close()


def test_rows_that_are_appended_change_nothing() -> None:
    array()
    source = open_data("x.zarr")
    zarr.open_array("x.zarr", mode="r+").append(np.zeros((100, D)))
    np.testing.assert_array_equal(source.read(0).rows, ROWS)


def test_metadata_are_not_read_again_while_chunks_are_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    array()
    source = open_data("x.zarr")
    keys: list[str] = []
    get = LocalStore.get

    async def recorded(self: LocalStore, key: str, *arguments: Any, **settings: Any) -> Any:
        keys.append(key)
        return await get(self, key, *arguments, **settings)

    monkeypatch.setattr(LocalStore, "get", recorded)
    source.read(0)
    assert sorted(keys) == ["c/0/0", "c/1/0", "c/2/0"]


def npy(folder: Path) -> tuple[Any, Path]:
    np.save("x.npy", ROWS)
    return "x.npy", folder / "x.npy"


def mapped(folder: Path) -> tuple[Any, Path]:
    np.save("x.npy", ROWS)
    return np.load("x.npy", mmap_mode="r"), folder / "x.npy"


def hdf5(folder: Path) -> tuple[Any, Path]:
    with h5py.File("x.h5", "w") as file:
        file["data"] = ROWS
    return "x.h5", folder / "x.h5"


def parquet(folder: Path) -> tuple[Any, Path]:
    columns = {"a": ROWS[:, 0], "b": ROWS[:, 1]}
    pyarrow.parquet.write_table(pyarrow.table(columns), "x.parquet")
    return "x.parquet", folder / "x.parquet"


FILES = {"npy": npy, "map": mapped, "HDF5": hdf5, "Parquet": parquet}


@pytest.mark.parametrize("kind", FILES)
def test_files_are_found_from_another_folder_until_they_are_gone(kind: str, tmp_path: Path) -> None:
    data, path = FILES[kind](tmp_path)
    travelled = pickle.dumps(open_data(data))
    (tmp_path / "elsewhere").mkdir()
    os.chdir(tmp_path / "elsewhere")
    np.testing.assert_array_equal(pickle.loads(travelled).read(0).rows, ROWS)
    path.unlink()
    with pytest.raises(DataError, match=path.name):
        pickle.loads(travelled).read(0)


def test_another_npy_file_in_its_place_is_an_error() -> None:
    np.save("x.npy", ROWS)
    source = open_data("x.npy")
    np.save("x.npy", np.zeros((2 * N, D + 1), dtype="f4"))
    with pytest.raises(DataError, match=r"x\.npy was replaced by another file"):
        source.read(0)


def test_a_weight_file_is_found_from_another_folder(tmp_path: Path) -> None:
    np.save("w.npy", np.arange(N))
    source = open_data(ROWS, sample_weight="w.npy")
    (tmp_path / "elsewhere").mkdir()
    os.chdir(tmp_path / "elsewhere")
    np.testing.assert_array_equal(source.read(0).weights, np.arange(N))
