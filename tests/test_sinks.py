"""Outputs appear whole under their name, or what was there stays."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from streamgmm.errors import OutputError
from streamgmm.sinks import ArraySink, open_sink


def contents(path: Path) -> Any:
    return np.load(path) if path.suffix == ".npy" else zarr.open_array(path, mode="r")[:]


def parts(n: int) -> list[int]:
    return [*range(0, n, 4), n]


def write(path: Path | str, values: np.ndarray, boundaries: Sequence[int] | None = None) -> None:
    boundaries = boundaries or parts(len(values))
    with open_sink(path, values.shape, values.dtype, boundaries) as sink:
        for start, stop in pairwise(boundaries):
            sink.write(range(start, stop), values[start:stop])


def test_an_array_is_filled_in_any_order() -> None:
    values = np.arange(20.0).reshape(10, 2)
    sink = ArraySink(np.zeros((10, 2)))
    for start in (6, 0, 3):
        stop = min(start + 4, 10)
        sink.write(range(start, stop), values[start:stop])
    np.testing.assert_array_equal(sink.array, values)


@pytest.mark.parametrize("suffix", [".npy", ".zarr"])
@pytest.mark.parametrize("shape", [(10,), (10, 3), (1, 1)])
@pytest.mark.parametrize("dtype", ["i8", "i1", "f8"])
def test_files_hold_what_was_written(
    suffix: str, shape: tuple[int, ...], dtype: str, tmp_path: Path
) -> None:
    values = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    path = tmp_path / f"out{suffix}"
    write(str(path), values)
    np.testing.assert_array_equal(contents(path), values)
    assert contents(path).dtype == values.dtype
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", [".npy", ".zarr"])
def test_outputs_are_replaced(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"out{suffix}"
    write(path, np.zeros(10))
    write(path, np.ones((7, 2)))
    np.testing.assert_array_equal(contents(path), np.ones((7, 2)))
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", [".npy", ".zarr"])
@pytest.mark.parametrize("there_before", [False, True])
@pytest.mark.parametrize("error", [LookupError, KeyboardInterrupt])
def test_failures_leave_what_was_there(
    suffix: str, there_before: bool, error: type[BaseException], tmp_path: Path
) -> None:
    path = tmp_path / f"out{suffix}"
    if there_before:
        write(path, np.full(10, 7.0))
    with pytest.raises(error), open_sink(path, (10,), np.dtype("f8"), parts(10)) as sink:
        sink.write(range(5), np.zeros(5))
        raise error
    assert [p.name for p in tmp_path.iterdir()] == ([path.name] if there_before else [])
    if there_before:
        np.testing.assert_array_equal(contents(path), np.full(10, 7.0))


@pytest.mark.parametrize("suffix", [".npy", ".zarr"])
def test_nothing_has_the_name_before_the_end(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"out{suffix}"
    with open_sink(path, (10,), np.dtype("f8"), parts(10)) as sink:
        assert not path.exists()
        sink.write(range(10), np.zeros(10))
    assert path.exists()


@pytest.mark.parametrize("suffix", [".npy", ".zarr"])
def test_places_that_cannot_be_written(suffix: str, tmp_path: Path) -> None:
    shape, dtype = (10,), np.dtype("f8")
    with (
        pytest.raises(OutputError, match=rf"missing/out\{suffix} cannot be written"),
        open_sink(tmp_path / "missing" / f"out{suffix}", shape, dtype, parts(10)),
    ):
        pytest.fail("opened")
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(OutputError, match="cannot be written"),
        open_sink(tmp_path / "file" / f"out{suffix}", shape, dtype, parts(10)),
    ):
        pytest.fail("opened")
    folder = tmp_path / f"folder{suffix}"
    folder.mkdir()
    (folder / "precious.txt").write_text("kept")
    with (
        pytest.raises(OutputError, match="is a directory but no Zarr array"),
        open_sink(folder, shape, dtype, parts(10)),
    ):
        pytest.fail("opened")
    assert (folder / "precious.txt").read_text() == "kept"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", folder.name]


@pytest.mark.parametrize("name", ["out.csv", "out", "out.npz"])
def test_suffixes_are_checked(name: str, tmp_path: Path) -> None:
    with (
        pytest.raises(OutputError, match=r"path ending in \.npy or \.zarr"),
        open_sink(tmp_path / name, (10,), np.dtype("f8"), parts(10)),
    ):
        pytest.fail("opened")


def test_zarr_groups_and_npy_folders_are_not_replaced(tmp_path: Path) -> None:
    group = zarr.create_group(tmp_path / "g.zarr")
    group.create_array("precious", data=np.arange(5))
    with pytest.raises(OutputError, match=r"g\.zarr"):
        write(tmp_path / "g.zarr", np.zeros(10))
    np.testing.assert_array_equal(
        zarr.open_array(tmp_path / "g.zarr" / "precious")[:], np.arange(5)
    )
    zarr.create_array(tmp_path / "x.npy", data=np.arange(5))
    with pytest.raises(OutputError, match=r"x\.npy"):
        write(tmp_path / "x.npy", np.zeros(10))
    assert (tmp_path / "x.npy" / "zarr.json").exists()


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"node_type": 1}', "\xff"])
def test_folders_with_damaged_metadata_are_not_replaced(content: str, tmp_path: Path) -> None:
    folder = tmp_path / "out.zarr"
    folder.mkdir()
    (folder / "zarr.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(OutputError, match="is a directory but no Zarr array"):
        write(folder, np.zeros(10))
    assert (folder / "zarr.json").read_bytes() == content.encode("latin-1")


def test_an_array_whose_attributes_speak_of_groups_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "out.zarr"
    zarr.create_array(path, data=np.zeros(3), attributes={"kind": "group"})
    write(path, np.ones(10))
    np.testing.assert_array_equal(contents(path), np.ones(10))


@pytest.mark.parametrize("kind", ["file", "dangling link"])
def test_files_named_like_zarr_arrays_are_refused_before_the_work(
    kind: str, tmp_path: Path
) -> None:
    path = tmp_path / "out.zarr"
    path.write_text("precious") if kind == "file" else path.symlink_to(tmp_path / "nowhere")
    with (
        pytest.raises(OutputError, match=r"out\.zarr is a file, not a Zarr array"),
        open_sink(path, (10,), np.dtype("f8"), parts(10)),
    ):
        pytest.fail("opened")
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_chunks_do_not_straddle_writes(tmp_path: Path) -> None:
    write(tmp_path / "out.zarr", np.zeros((10, 3)))
    assert zarr.open_array(tmp_path / "out.zarr", mode="r").chunks == (4, 3)


def test_uneven_parts_may_be_written_at_once(tmp_path: Path) -> None:
    """A Zarr chunk is read, changed and written; two writers in one must not interfere."""
    sizes = np.random.default_rng(0).integers(0, 9, 400)
    boundaries = [0, *np.cumsum(sizes).tolist()]
    values = np.random.default_rng(1).normal(size=(boundaries[-1], 2))
    path = tmp_path / "out.zarr"
    with (
        open_sink(path, values.shape, values.dtype, boundaries) as sink,
        ThreadPoolExecutor(8) as threads,
    ):
        ranges = [range(start, stop) for start, stop in pairwise(boundaries)]
        list(threads.map(lambda rows: sink.write(rows, values[rows.start : rows.stop]), ranges))
    np.testing.assert_array_equal(contents(path), values)
