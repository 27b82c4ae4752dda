"""Arrays in memory, memory-mapped arrays and ``.npy`` files keep the promises of a source."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streamgmm import open as open_data
from streamgmm.errors import DataError
from streamgmm.testing.sources import SourceCase, SourceConformance, table

# Enough for chunks of 65536 rows and a remainder.
N = 150_000


class TestArray(SourceConformance):
    @pytest.fixture(
        params=["f8 C", "f8 F", "f4 C", "f4 F", "f2 C", "i2 C", "u1 F", "? C", ">f8 C", "i8 C"]
    )
    def case(self, request: pytest.FixtureRequest, tmp_path: Path) -> SourceCase:
        dtype, order = request.param.split()
        rows = table(N, 3, dtype)
        return SourceCase(open_data(np.asarray(rows, order=order)), rows)

    def test_chunks_are_views(self) -> None:
        rows = table(N, 3)
        source = open_data(rows)
        assert source.read_bytes == 0
        assert np.shares_memory(source.read(1).rows, rows)


class TestStridedArray(SourceConformance):
    @pytest.fixture(params=["reversed", "every other", "columns", "broadcast", "one row"])
    def case(self, request: pytest.FixtureRequest, tmp_path: Path) -> SourceCase:
        rows = table(N, 4)
        view = {
            "reversed": rows[::-1],
            "every other": rows[::2],
            "columns": rows[:, 1::2],
            "broadcast": np.broadcast_to(rows[0], (N, 4)),
            "one row": rows[:1],
        }[request.param]
        return SourceCase(open_data(view), np.ascontiguousarray(view))


class TestMemmap(SourceConformance):
    @pytest.fixture(params=["C", "F"])
    def case(self, request: pytest.FixtureRequest, tmp_path: Path) -> SourceCase:
        rows = table(N, 3, "f4")
        path = tmp_path / "x.bin"
        written = np.memmap(path, "f4", "w+", shape=rows.shape, order=request.param)
        written[:] = rows
        written.flush()
        return SourceCase(
            open_data(np.memmap(path, "f4", "r", shape=rows.shape, order=request.param)), rows
        )

    def test_chunks_are_copies(self, tmp_path: Path) -> None:
        np.save(tmp_path / "x.npy", table(N, 3))
        mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
        source = open_data(mapped)
        chunk = source.read(0)
        assert not isinstance(chunk.rows, np.memmap)
        assert not np.shares_memory(chunk.rows, mapped)
        assert source.read_bytes == chunk.rows.nbytes

    def test_a_map_travels_by_its_path(self, tmp_path: Path) -> None:
        np.save(tmp_path / "x.npy", table(N, 3))
        source = open_data(np.load(tmp_path / "x.npy", mmap_mode="r"))
        assert len(pickle.dumps(source)) < 10_000


class TestNpyFile(SourceConformance):
    @pytest.fixture(
        params=["f8 C", "f8 F", "f4 F", ">f8 C", ">i4 F", "i2 C", "u1 C", "? C", "f2 F"]
    )
    def case(self, request: pytest.FixtureRequest, tmp_path: Path) -> SourceCase:
        dtype, order = request.param.split()
        rows = table(N, 3, dtype)
        np.save(tmp_path / "x.npy", np.asarray(rows, order=order))
        return SourceCase(open_data(tmp_path / "x.npy"), rows)

    def test_it_travels_by_its_path(self, tmp_path: Path) -> None:
        np.save(tmp_path / "x.npy", table(N, 3))
        assert len(pickle.dumps(open_data(tmp_path / "x.npy"))) < 10_000


class TestNpyFileOfVersionTwo(SourceConformance):
    @pytest.fixture
    def case(self, request: pytest.FixtureRequest, tmp_path: Path) -> SourceCase:
        rows = table(1000, 2)
        with (tmp_path / "x.npy").open("wb") as file:
            np.lib.format.write_array(file, rows, version=(2, 0))
        return SourceCase(open_data(str(tmp_path / "x.npy")), rows)


def test_version_three_is_read_or_refused(tmp_path: Path) -> None:
    with (tmp_path / "x.npy").open("wb") as file:
        np.lib.format.write_array(file, table(10, 2), version=(3, 0))
    with pytest.raises(DataError, match=r"x\.npy .*version \(3, 0\)"):
        open_data(tmp_path / "x.npy")


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("cut", [1, 8, 5_000])
def test_truncated_files_are_refused_when_opened(tmp_path: Path, order: Any, cut: int) -> None:
    path = tmp_path / "x.npy"
    np.save(path, np.asarray(table(1000, 3), order=order))
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.truncate(size - cut)
    with pytest.raises(DataError, match=rf"x\.npy is truncated: .*{size - cut} bytes.*{size}"):
        open_data(path)


@pytest.mark.parametrize("size", [0, 5, 9, 40])
def test_files_cut_within_the_header_are_refused(tmp_path: Path, size: int) -> None:
    path = tmp_path / "x.npy"
    np.save(path, table(1000, 3))
    with path.open("r+b") as file:
        file.truncate(size)
    with pytest.raises(DataError, match=r"x\.npy is not a \.npy file"):
        open_data(path)


@pytest.mark.parametrize("order", ["C", "F"])
def test_files_that_shrink_while_they_are_read(tmp_path: Path, order: Any) -> None:
    path = tmp_path / "x.npy"
    np.save(path, np.asarray(table(N, 3), order=order))
    source = open_data(path)
    with path.open("r+b") as file:
        file.truncate(100_000)
    with pytest.raises(DataError, match=r"x\.npy became shorter"):
        source.read(len(source.boundaries) - 2)


def test_files_that_vanish_while_they_are_read(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    np.save(path, table(100, 3))
    source = open_data(path)
    path.unlink()
    with pytest.raises((DataError, OSError), match=r"x\.npy"):
        source.read(0)


def test_pickled_objects_are_refused_unread(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return (pytest.fail, ("a pickle was loaded",))

    rows = np.empty((2, 2), dtype=object)
    rows[:] = Trap()
    np.save(tmp_path / "x.npy", rows, allow_pickle=True)
    with pytest.raises(DataError, match="object"):
        open_data(tmp_path / "x.npy")


@pytest.mark.parametrize("n_features", [1, 4, 31, 300, 5000])
def test_chunks_have_a_size_that_suits_threads(n_features: int) -> None:
    source = open_data(np.broadcast_to(np.float64(1), (500_000, n_features)))
    rows = source.boundaries[1]
    assert 1024 <= rows <= 65536
    assert rows % 1024 == 0
    assert rows == 1024 or rows * n_features * 8 <= 2 << 20
    assert set(np.diff(source.boundaries[:-1])) == {rows}
