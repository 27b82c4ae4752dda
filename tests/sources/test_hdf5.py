"""HDF5 datasets keep the promises of a source, however they are stored."""

import io
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from copy import copy
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from streamgmm.errors import DataError
from streamgmm.protocols import Source
from streamgmm.sources.hdf5 import Hdf5Source
from streamgmm.testing.sources import SourceCase, SourceConformance, table

N, D = 10_000, 4

LAYOUTS: dict[str, dict[str, Any]] = {
    "contiguous": {},
    "contiguous in many chunks": {"n": 150_000},
    "whole rows": {"chunks": (1000, D)},
    "remainder": {"chunks": (768, D)},
    "column chunks": {"chunks": (1000, 1)},
    "uneven column chunks": {"chunks": (999, 3)},
    "tiny chunks": {"chunks": (3, D), "n": 500},
    "one huge chunk": {"chunks": (N, D)},
    "chunks larger than the array": {"chunks": (2 * N, 2 * D), "maxshape": (None, None)},
    "chunks chosen by HDF5": {"chunks": True},
    "many chunks of rows": {"chunks": (50_000, D), "n": 180_000, "dtype": "f4"},
    "gzip": {"chunks": (1000, D), "compression": "gzip"},
    "gzip, shuffled": {"chunks": (1000, D), "compression": "gzip", "shuffle": True},
    "gzip, column chunks": {"chunks": (2500, 1), "compression": "gzip", "shuffle": True},
    "gzip, chunks larger than the array": {
        "chunks": (2 * N, 2 * D),
        "maxshape": (None, None),
        "compression": "gzip",
        "shuffle": True,
    },
    "gzip, big-endian int16": {"chunks": (4000, D), "compression": "gzip", "dtype": ">i2"},
    "gzip, checksums": {"chunks": (1000, D), "compression": "gzip", "fletcher32": True},
    "lzf": {"chunks": (1000, D), "compression": "lzf", "dtype": "?"},
    "lzf, shuffled": {"chunks": (1000, D), "compression": "lzf", "shuffle": True},
    "checksums": {"chunks": (1000, D), "fletcher32": True},
    "float32": {"dtype": "f4", "chunks": (1000, D)},
    "float16": {"dtype": "f2", "chunks": (1000, D)},
    "big-endian": {"dtype": ">f8", "chunks": (1000, D)},
    "big-endian contiguous": {"dtype": ">f4"},
    "int8": {"dtype": "i1"},
    "int64": {"dtype": "i8", "chunks": (1000, D)},
    "uint16": {"dtype": "u2"},
    "bool": {"dtype": "?", "chunks": (1000, D)},
}


def store(path: Path, layout: str = "whole rows", name: str = "group/data") -> NDArray[Any]:
    """Write rows into a file that may be there already, and give them."""
    settings = {**LAYOUTS[layout]}
    rows = table(settings.pop("n", N), D, settings.pop("dtype", "f8"))
    with h5py.File(path, "a") as file:
        file.create_dataset(name, data=rows, **settings)
    return rows


class TestHdf5Path(SourceConformance):
    @pytest.fixture(params=LAYOUTS)
    def case(self, request: pytest.FixtureRequest, tmp_path: Path) -> SourceCase:
        rows = store(tmp_path / "x.h5", request.param)
        return SourceCase(Hdf5Source.from_path(tmp_path / "x.h5", "/group/data"), rows)

    def test_it_travels_by_its_path(self, tmp_path: Path) -> None:
        store(tmp_path / "x.h5", "whole rows")
        assert len(pickle.dumps(Hdf5Source.from_path(tmp_path / "x.h5", None))) < 10_000


class TestOpenDataset(SourceConformance):
    @pytest.fixture(params=["contiguous", "column chunks", "gzip", "bool"])
    def case(self, request: pytest.FixtureRequest, tmp_path: Path) -> SourceCase:
        rows = store(tmp_path / "x.h5", request.param)
        # Only the source holds on to the file.
        return SourceCase(Hdf5Source(h5py.File(tmp_path / "x.h5")["group/data"]), rows)


class TestClosedDataset(SourceConformance):
    @pytest.fixture(params=["contiguous", "gzip"])
    def case(self, request: pytest.FixtureRequest, tmp_path: Path) -> SourceCase:
        rows = store(tmp_path / "x.h5", request.param)
        with h5py.File(tmp_path / "x.h5") as file:
            source = Hdf5Source(file["group/data"])
        return SourceCase(source, rows)


class StaysHere(SourceConformance):
    """A source that only the process reads that has made it."""

    def test_it_travels(self, case: SourceCase) -> None:
        with pytest.raises(DataError, match=r"only by the process that opened .* give its path"):
            pickle.dumps(case.source)

    def test_a_copy_is_another_description_of_the_same(self, case: SourceCase) -> None:
        described = copy(case.source)
        described.missing = "drop"
        assert case.source.missing == "error"
        stop = case.source.boundaries[1]
        np.testing.assert_array_equal(described.read(0).rows, case.rows[:stop])


class TestFileInMemory(StaysHere):
    @pytest.fixture(params=["core", "object"])
    def case(self, request: pytest.FixtureRequest, tmp_path: Path) -> SourceCase:
        rows = table(N, D)
        if request.param == "core":
            file = h5py.File("x.h5", "w", driver="core", backing_store=False)
        else:
            file = h5py.File(io.BytesIO(), "w")
        source = Hdf5Source(file.create_dataset("data", data=rows, chunks=(1000, D)))
        assert source.location is None
        return SourceCase(source, rows)


class TestFileOpenForWriting(StaysHere):
    @pytest.fixture(params=["contiguous", "whole rows", "gzip"])
    def case(self, request: pytest.FixtureRequest, tmp_path: Path) -> SourceCase:
        rows = table(N, D)
        file = h5py.File(tmp_path / "x.h5", "w")
        data = file.create_dataset("data", data=rows, **LAYOUTS[request.param])
        # Not in the file yet.
        rows[10:20] = data[10:20] = 7.0
        return SourceCase(Hdf5Source(data), rows)


class TestRowsThatWereNeverWritten(SourceConformance):
    @pytest.fixture(params=["contiguous", "whole rows", "gzip", "gzip, column chunks"])
    def case(self, request: pytest.FixtureRequest, tmp_path: Path) -> SourceCase:
        rows = np.full((N, D), 1.0)
        with h5py.File(tmp_path / "x.h5", "w") as file:
            settings = {"dtype": "f8", "fillvalue": 1.0, **LAYOUTS[request.param]}
            data = file.create_dataset("data", (N, D), **settings)
            rows[3000:5000] = data[3000:5000] = table(2000, D)
        return SourceCase(Hdf5Source.from_path(tmp_path / "x.h5", "data"), rows)


class TestChunksThatAreNotCompressed(SourceConformance):
    @pytest.fixture
    def case(self, request: pytest.FixtureRequest, tmp_path: Path) -> SourceCase:
        rows = store(tmp_path / "x.h5", "gzip")
        with h5py.File(tmp_path / "x.h5", "a") as file:
            rows[1000:2000] = table(1000, D, seed=1)
            without_gzip = 0b1
            file["group/data"].id.write_direct_chunk(
                (1000, 0), rows[1000:2000].tobytes(), without_gzip
            )
        return SourceCase(Hdf5Source.from_path(tmp_path / "x.h5", None), rows)


class TestTypesThatNumpyHasNot(SourceConformance):
    @pytest.fixture
    def case(self, request: pytest.FixtureRequest, tmp_path: Path) -> SourceCase:
        rows = table(N, D, "i4") >> 8
        stored_type = h5py.h5t.STD_I32LE.copy()
        stored_type.set_precision(24)
        with h5py.File(tmp_path / "x.h5", "w") as file:
            settings = {**LAYOUTS["gzip"], "dtype": h5py.Datatype(stored_type)}
            file.create_dataset("data", data=rows, **settings)
        return SourceCase(Hdf5Source.from_path(tmp_path / "x.h5", None), rows)


class TestLinksAndVirtualDatasets(SourceConformance):
    @pytest.fixture(params=["soft link", "external link", "virtual"])
    def case(self, request: pytest.FixtureRequest, tmp_path: Path) -> SourceCase:
        rows = store(tmp_path / "stored.h5", "gzip")
        with h5py.File(tmp_path / "x.h5", "w") as file:
            if request.param == "virtual":
                layout = h5py.VirtualLayout((N, D), "f8")
                layout[:] = h5py.VirtualSource(tmp_path / "stored.h5", "group/data", (N, D))
                file.create_virtual_dataset("data", layout)
            else:
                file["data"] = h5py.ExternalLink(str(tmp_path / "stored.h5"), "/group/data")
            file["link"] = h5py.SoftLink("/data")
        name = "link" if request.param == "soft link" else "data"
        return SourceCase(Hdf5Source.from_path(tmp_path / "x.h5", name), rows)


def test_names_and_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = store(Path("x.h5"))
    source = Hdf5Source.from_path("x.h5", "group/data")
    assert source.name == "x.h5::/group/data"
    assert source.location == tmp_path / "x.h5"
    pickled = pickle.dumps(source)
    monkeypatch.chdir("/")
    np.testing.assert_array_equal(pickle.loads(pickled).read(0).rows, rows)


@pytest.mark.parametrize("path", ["x.h5", "x.hdf5", "x.nc", "x"])
def test_the_only_table_of_a_file_needs_no_name(path: str, tmp_path: Path) -> None:
    rows = store(tmp_path / path)
    with h5py.File(tmp_path / path, "a") as file:
        file["labels"] = np.zeros(N)
        file["images"] = np.zeros((3, 4, 5))
        file["texts"] = [["a", "b"]]
        file["number"] = 1.0
        file["nothing"] = h5py.Empty("f8")
    source = Hdf5Source.from_path(tmp_path / path, None)
    assert source.name.endswith(f"{path}::/group/data")
    np.testing.assert_array_equal(source.read(0).rows, rows)


class TestWhatIsNoTable:
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        store(tmp_path / "x.h5", name="a/one")
        store(tmp_path / "x.h5", name="two")
        return tmp_path / "x.h5"

    HELD = (
        r"there are /a/one \(10000, 4\), /two \(10000, 4\); "
        r"name one of them, as in \S*x\.h5::/a/one$"
    )

    def test_a_file_of_several_tables(self, path: Path) -> None:
        with pytest.raises(DataError, match=rf"x\.h5 holds 2 two-dimensional .*; {self.HELD}"):
            Hdf5Source.from_path(path, None)

    def test_a_name_that_is_not_there(self, path: Path) -> None:
        with pytest.raises(DataError, match=rf"x\.h5::three is not a dataset; {self.HELD}"):
            Hdf5Source.from_path(path, "three")

    def test_a_group(self, path: Path) -> None:
        with pytest.raises(DataError, match=rf"x\.h5::/a is not a dataset; {self.HELD}"):
            Hdf5Source.from_path(path, "/a")

    def test_an_open_file(self, path: Path) -> None:
        with (
            h5py.File(path) as file,
            pytest.raises(DataError, match=rf"x\.h5::/ is a group, not a dataset; {self.HELD}"),
        ):
            Hdf5Source(file)

    def test_an_open_group_tells_what_it_holds_itself(self, path: Path) -> None:
        with h5py.File(path) as file, pytest.raises(DataError, match="there are /a/one") as error:
            Hdf5Source(file["a"])
        assert "/two" not in str(error.value)

    def test_a_file_without_datasets(self, tmp_path: Path) -> None:
        h5py.File(tmp_path / "x.h5", "w").close()
        with pytest.raises(DataError, match=r"holds 0 two-dim.*; there are no datasets in it$"):
            Hdf5Source.from_path(tmp_path / "x.h5", None)

    def test_a_closed_dataset(self, path: Path) -> None:
        with h5py.File(path) as file:
            dataset = file["two"]
        with pytest.raises(DataError, match="the HDF5 dataset is closed"):
            Hdf5Source(dataset)

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            (np.zeros(5), r"Expected 2D array .*x\.h5::/bad has shape \(5,\); reshape"),
            (np.zeros((5, 2, 2)), r"Expected 2D array .*has shape \(5, 2, 2\)"),
            (1.0, r"Expected 2D array .*has shape \(\)"),
            (h5py.Empty("f8"), r"Expected 2D array .*has shape \(\)"),
            (np.zeros((0, 2)), r"x\.h5::/bad has 0 sample"),
            (np.zeros((5, 0)), r"0 feature\(s\) .*x\.h5::/bad"),
            (np.zeros((5, 2), "c16"), r"Complex data not supported: .*x\.h5::/bad"),
            (np.zeros((5, 2), [("a", "f8"), ("b", "i4")]), r"not real numbers: .*x\.h5::/bad has"),
            (np.zeros((5, 2), "S3"), r"not real numbers: .*x\.h5::/bad has dtype \|S3"),
            ([["a", "b"]], r"not numbers: .*x\.h5::/bad has dtype object"),
        ],
    )
    def test_other_shapes_and_types(self, values: Any, message: str, path: Path) -> None:
        with h5py.File(path, "a") as file:
            file["bad"] = values
        with pytest.raises(DataError, match=message):
            Hdf5Source.from_path(path, "bad")


def test_packed_values_are_refused(tmp_path: Path) -> None:
    store(tmp_path / "x.h5")
    with h5py.File(tmp_path / "x.h5", "a") as file:
        file["group/data"].attrs.update(scale_factor=0.1, add_offset=3.0)
    message = r"x\.h5::/group/data holds packed values .*scale_factor, add_offset"
    with pytest.raises(DataError, match=message):
        Hdf5Source.from_path(tmp_path / "x.h5", None)


@pytest.mark.parametrize("key", ["_FillValue", "missing_value"])
@pytest.mark.parametrize("mark", [np.array([-9999.0]), 1e20, np.int16(-1), [7.0, 1e20]])
def test_marks_that_no_value_equals_change_nothing(key: str, mark: Any, tmp_path: Path) -> None:
    rows = store(tmp_path / "x.h5")
    with h5py.File(tmp_path / "x.h5", "a") as file:
        file["group/data"].attrs[key] = mark
    np.testing.assert_array_equal(Hdf5Source.from_path(tmp_path / "x.h5", None).read(0).rows, rows)


@pytest.mark.parametrize("value", [np.nan, np.array([np.nan], "f4"), "none"])
def test_missing_values_that_are_nan_need_no_decoding(value: Any, tmp_path: Path) -> None:
    store(tmp_path / "x.h5")
    with h5py.File(tmp_path / "x.h5", "a") as file:
        file["group/data"].attrs["_FillValue"] = value
    assert Hdf5Source.from_path(tmp_path / "x.h5", None).n_rows == N


@pytest.mark.parametrize("stored_rows", [1, 7, 1000, 65536, 100_000])
@pytest.mark.parametrize("n_columns", [1, D])
def test_no_stored_chunk_is_read_twice(stored_rows: int, n_columns: int, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("data", (300_000, D), "f8", chunks=(stored_rows, n_columns))
    source = Hdf5Source.from_path(tmp_path / "x.h5", None)
    boundaries = np.array(source.boundaries)
    assert np.all(boundaries[:-1] % stored_rows == 0)
    assert boundaries[1] == max(stored_rows, 65536 // stored_rows * stored_rows)
    stored_bytes = 8 * stored_rows * n_columns
    assert source.read_bytes == boundaries[1] * D * 8 + 2 * stored_bytes


def test_rows_that_were_never_written_and_have_no_fill_value_are_the_same_each_time(
    tmp_path: Path,
) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("data", (N, D), "f8", chunks=(1000, D), fill_time="never")
    source = Hdf5Source.from_path(tmp_path / "x.h5", None)
    np.full((N, D), 7.0)  # What memory it comes from holds something else.
    np.testing.assert_array_equal(source.read(0).rows, 0.0)


class TestBadFiles:
    def test_no_file(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"x\.h5 cannot be opened .*No such file"):
            Hdf5Source.from_path(tmp_path / "x.h5", None)

    @pytest.mark.parametrize("content", [b"", b"x" * 5000])
    def test_another_kind_of_file(self, content: bytes, tmp_path: Path) -> None:
        (tmp_path / "x.h5").write_bytes(content)
        with pytest.raises(DataError, match=r"x\.h5 cannot be opened .*signature not found"):
            Hdf5Source.from_path(tmp_path / "x.h5", None)

    def test_a_folder(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"cannot be opened as an HDF5 file: (.|\n)*directory"):
            Hdf5Source.from_path(tmp_path, None)

    @pytest.mark.parametrize("layout", ["contiguous", "gzip", "many chunks of rows"])
    @pytest.mark.parametrize("keep", [9, 20, 60, 0.3, 0.999])
    def test_truncated_files(self, layout: str, keep: float, tmp_path: Path) -> None:
        store(tmp_path / "x.h5", layout)
        size = (tmp_path / "x.h5").stat().st_size
        os.truncate(tmp_path / "x.h5", keep if keep >= 1 else int(keep * size))
        with pytest.raises(DataError, match=r"x\.h5 cannot be opened as an HDF5 file: Unable to"):
            Hdf5Source.from_path(tmp_path / "x.h5", None)

    @pytest.mark.skipif(not hasattr(os, "seteuid"), reason="all may read all files")
    def test_no_permission(self, tmp_path: Path) -> None:
        store(tmp_path / "x.h5")
        (tmp_path / "x.h5").chmod(0)
        user = os.geteuid()
        if user == 0:
            os.seteuid(65534)
        try:
            with pytest.raises(DataError, match=r"x\.h5 cannot be opened .*Permission denied"):
                Hdf5Source.from_path(tmp_path / "x.h5", None)
        finally:
            os.seteuid(user)

    def test_a_filter_that_is_not_installed(self, tmp_path: Path) -> None:
        settings = {"compression": 32099, "allow_unknown_filter": True}
        with h5py.File(tmp_path / "x.h5", "w") as file:
            data = file.create_dataset("data", (N, D), "f8", chunks=(1000, D), **settings)
            data.id.write_direct_chunk((0, 0), b"encoded")
        with pytest.raises(DataError, match=r"x\.h5::/data is stored by the HDF5 filter 32099"):
            Hdf5Source.from_path(tmp_path / "x.h5", None)

    @pytest.mark.parametrize(
        "layout", ["gzip", "checksums", "gzip, column chunks", "gzip, checksums"]
    )
    def test_damaged_chunks(self, layout: str, tmp_path: Path) -> None:
        store(tmp_path / "x.h5", layout)
        with h5py.File(tmp_path / "x.h5") as file:
            chunk = file["group/data"].id.get_chunk_info(3)
        with (tmp_path / "x.h5").open("r+b") as content:
            content.seek(chunk.byte_offset + 10)
            content.write(b"\xff" * (chunk.size // 2))
        source = Hdf5Source.from_path(tmp_path / "x.h5", None)
        with pytest.raises(
            DataError,
            match=r"x\.h5::/group/data: rows 0 to 10000 cannot be read or decoded \(OSError: ",
        ):
            source.read(0)

    def test_damaged_attributes(self, tmp_path: Path) -> None:
        store(tmp_path / "x.h5")
        with h5py.File(tmp_path / "x.h5", "a") as file:
            file["group/data"].attrs["_FillValue"] = np.nan
        content = (tmp_path / "x.h5").read_bytes()
        (tmp_path / "x.h5").write_bytes(content.replace(b"_FillValue", b"_Fi\0lValue"))
        with pytest.raises(DataError, match=r"x\.h5::/group/data cannot be opened as an HDF5"):
            Hdf5Source.from_path(tmp_path / "x.h5", None)


class TestFilesThatChange:
    def test_cut(self, tmp_path: Path) -> None:
        store(tmp_path / "x.h5", "contiguous in many chunks")
        source = Hdf5Source.from_path(tmp_path / "x.h5", None)
        os.truncate(tmp_path / "x.h5", 3_000_000)
        with pytest.raises(DataError, match=r"x\.h5 became shorter while it was read"):
            source.read(2)

    def test_removed(self, tmp_path: Path) -> None:
        store(tmp_path / "x.h5")
        source = Hdf5Source.from_path(tmp_path / "x.h5", None)
        (tmp_path / "x.h5").unlink()
        with pytest.raises(DataError, match=r"x\.h5.*rows 0 to 10000 .*No such file"):
            source.read(0)
        with pytest.raises(DataError, match=r"x\.h5 cannot be opened .*No such file"):
            pickle.loads(pickle.dumps(source)).read(0)

    @pytest.mark.parametrize(
        "other", [table(N + 1, D), table(N, D + 1), table(N, D, "f4"), np.zeros(N)]
    )
    def test_replaced(self, other: NDArray[Any], tmp_path: Path) -> None:
        store(tmp_path / "x.h5", name="data")
        pickled = pickle.dumps(Hdf5Source.from_path(tmp_path / "x.h5", None))
        with h5py.File(tmp_path / "x.h5", "w") as file:
            file["data"] = other
        with pytest.raises(DataError, match=r"x\.h5::/data was replaced by another table"):
            pickle.loads(pickled).read(0)

    def test_dataset_removed(self, tmp_path: Path) -> None:
        store(tmp_path / "x.h5", name="data")
        pickled = pickle.dumps(Hdf5Source.from_path(tmp_path / "x.h5", None))
        with h5py.File(tmp_path / "x.h5", "w") as file:
            file["other"] = table(N, D)
        with pytest.raises(DataError, match=r"::/data is not a dataset; there are /other"):
            pickle.loads(pickled).read(0)


@contextmanager
def writer(path: Path) -> Iterator[None]:
    """Another process that has the file open for writing."""
    script = f"import h5py, sys; file = h5py.File({str(path)!r}, 'a'); print('open'); input()"
    with subprocess.Popen(
        [sys.executable, "-u", "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        yield
        process.communicate("\n")


def test_a_file_that_is_being_written_is_refused(tmp_path: Path) -> None:
    store(tmp_path / "x.h5")
    with writer(tmp_path / "x.h5"):
        message = r"x\.h5 is locked, most likely by a process that writes to it; wait until"
        with pytest.raises(DataError, match=message):
            Hdf5Source.from_path(tmp_path / "x.h5", None)
    assert Hdf5Source.from_path(tmp_path / "x.h5", None).n_rows == N


def test_memory_that_runs_out_is_no_damage(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("data", (1, 1 << 50), "f8", chunks=(1, 1024))
    with pytest.raises(MemoryError):
        Hdf5Source.from_path(tmp_path / "x.h5", None).read(0)


def test_a_dataset_in_memory_cannot_be_read_once_it_is_closed() -> None:
    with h5py.File(io.BytesIO(), "w") as file:
        source = Hdf5Source(file.create_dataset("data", data=table(N, D)))
    with pytest.raises(DataError, match="can be read only while it is open"):
        source.read(0)


def test_threads_may_open_at_once(tmp_path: Path) -> None:
    rows = store(tmp_path / "x.h5", "gzip")
    pickled = pickle.dumps(Hdf5Source.from_path(tmp_path / "x.h5", None))
    n_threads = 8
    for _ in range(20):
        source, ready = pickle.loads(pickled), threading.Barrier(n_threads)

        def read(_: int, source: Source = source, ready: threading.Barrier = ready) -> Any:
            ready.wait()
            return source.read(0).rows

        with ThreadPoolExecutor(n_threads) as threads:
            for values in threads.map(read, range(n_threads)):
                np.testing.assert_array_equal(values, rows)


def _report(function: Any, results: Any) -> None:
    try:
        results.put(function())
    except Exception as error:  # noqa: BLE001 - whatever it is, it goes to who asked
        results.put(error)


def in_child(function: Any) -> Any:
    """What a function gives or raises in a forked process."""
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    child = context.Process(target=_report, args=(function, results))
    child.start()
    result = results.get()
    child.join()
    assert child.exitcode == 0
    return result


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not fork")
@pytest.mark.filterwarnings("ignore:.*use of fork\\(\\):DeprecationWarning")
class TestForkedProcesses:
    @pytest.mark.parametrize("layout", ["contiguous", "gzip"])
    def test_they_open_the_file_themselves(self, layout: str, tmp_path: Path) -> None:
        rows = store(tmp_path / "x.h5", layout)
        source = Hdf5Source.from_path(tmp_path / "x.h5", None)
        np.testing.assert_array_equal(source.read(0).rows, rows)

        def read() -> Any:
            return os.getpid(), source.read(0).rows, source._handle._opened[0]

        child, values, opened_by = in_child(read)
        assert opened_by == child != os.getpid()
        np.testing.assert_array_equal(values, rows)
        np.testing.assert_array_equal(source.read(0).rows, rows)

    def test_a_file_in_memory_stays_in_its_process(self) -> None:
        file = h5py.File(io.BytesIO(), "w")
        source = Hdf5Source(file.create_dataset("data", data=table(N, D)))
        error = in_child(lambda: source.read(0))
        assert isinstance(error, DataError)
        assert "only by the process that opened it" in str(error)
        assert source.read(0).rows.shape == (N, D)

    def test_parents_and_children_read_at_once(self, tmp_path: Path) -> None:
        rows = store(tmp_path / "x.h5", "gzip")
        source = Hdf5Source.from_path(tmp_path / "x.h5", None)
        context = multiprocessing.get_context("fork")
        results = context.SimpleQueue()
        reading = (lambda: [source.read(0).rows for _ in range(20)][-1], results)
        children = [context.Process(target=_report, args=reading) for _ in range(3)]
        for child in children:
            child.start()
        for _ in range(20):
            np.testing.assert_array_equal(source.read(0).rows, rows)
        for _ in children:
            np.testing.assert_array_equal(results.get(), rows)
        for child in children:
            child.join()
