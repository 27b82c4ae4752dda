"""Outputs appear whole under their name, or what was there stays."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from streamgmm.errors import OutputError
from streamgmm.protocols import Region
from streamgmm.sinks import ArraySink, open_sink


def contents(path: Path) -> Any:
    return np.load(path) if path.suffix == ".npy" else zarr.open_array(path, mode="r")[:]


def boxes(shape: tuple[int, ...], sizes: tuple[int, ...]) -> list[Region]:
    """A grid cut into boxes of some size, those at the ends smaller."""
    cuts = [
        [slice(start, min(start + size, length)) for start in range(0, length, size)]
        for length, size in zip(shape, sizes, strict=True)
    ]
    return list(product(*cuts))


def sink_of(path: Path | str, n: int = 10) -> AbstractContextManager[ArraySink]:
    """A sink of numbers in parts of four."""
    return open_sink(path, (n,), np.dtype("f8"), boxes((n,), (4,)), (4,))


def write(path: Path | str, values: np.ndarray, sizes: tuple[int, ...] = (4,)) -> None:
    regions = boxes(values.shape[: len(sizes)], sizes)
    with open_sink(path, values.shape, values.dtype, regions, sizes) as sink:
        for region in regions:
            sink.write(region, flat(values[region], len(sizes)))


def flat(values: np.ndarray, n_dims: int) -> np.ndarray:
    """Values of a box as they are computed: a row for each of its samples."""
    return values.reshape(-1, *values.shape[n_dims:])


def test_an_array_is_filled_in_any_order() -> None:
    values = np.arange(20.0).reshape(10, 2)
    sink = ArraySink(np.zeros((10, 2)))
    for start in (6, 0, 3):
        stop = min(start + 4, 10)
        sink.write((slice(start, stop),), values[start:stop])
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
    with pytest.raises(error), sink_of(path) as sink:
        sink.write((slice(0, 5),), np.zeros(5))
        raise error
    assert [p.name for p in tmp_path.iterdir()] == ([path.name] if there_before else [])
    if there_before:
        np.testing.assert_array_equal(contents(path), np.full(10, 7.0))


@pytest.mark.parametrize("suffix", [".npy", ".zarr"])
def test_nothing_has_the_name_before_the_end(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"out{suffix}"
    with sink_of(path) as sink:
        assert not path.exists()
        sink.write((slice(0, 10),), np.zeros(10))
    assert path.exists()


@pytest.mark.parametrize("suffix", [".npy", ".zarr"])
def test_places_that_cannot_be_written(suffix: str, tmp_path: Path) -> None:
    with (
        pytest.raises(OutputError, match=rf"missing/out\{suffix} cannot be written"),
        sink_of(tmp_path / "missing" / f"out{suffix}"),
    ):
        pytest.fail("opened")
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(OutputError, match="cannot be written"),
        sink_of(tmp_path / "file" / f"out{suffix}"),
    ):
        pytest.fail("opened")
    folder = tmp_path / f"folder{suffix}"
    folder.mkdir()
    (folder / "precious.txt").write_text("kept")
    with (
        pytest.raises(OutputError, match="is a directory but no Zarr array"),
        sink_of(folder),
    ):
        pytest.fail("opened")
    assert (folder / "precious.txt").read_text() == "kept"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", folder.name]


@pytest.mark.parametrize("name", ["out.csv", "out", "out.npz"])
def test_suffixes_are_checked(name: str, tmp_path: Path) -> None:
    with (
        pytest.raises(OutputError, match=r"path ending in \.npy or \.zarr"),
        sink_of(tmp_path / name),
    ):
        pytest.fail("opened")


def test_urls_are_refused_with_what_to_do_instead() -> None:
    url = "s3://user:secret@bucket/labels.zarr"
    with pytest.raises(OutputError, match="to_zarr takes URLs") as error, sink_of(url):
        pytest.fail("opened")
    assert "secret" not in str(error.value)


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
        sink_of(path),
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
    regions = [(slice(start, stop),) for start, stop in pairwise(boundaries)]
    values = np.random.default_rng(1).normal(size=(boundaries[-1], 2))
    path = tmp_path / "out.zarr"
    with (
        open_sink(path, values.shape, values.dtype, regions, (8,)) as sink,
        ThreadPoolExecutor(8) as threads,
    ):
        list(threads.map(lambda region: sink.write(region, values[region]), regions))
    np.testing.assert_array_equal(contents(path), values)


@pytest.mark.parametrize("suffix", [".npy", ".zarr"])
@pytest.mark.parametrize("n_outputs", [None, 3])
def test_grids_keep_their_shape(suffix: str, n_outputs: int | None, tmp_path: Path) -> None:
    shape = (5, 7, 9) if n_outputs is None else (5, 7, 9, n_outputs)
    values = np.random.default_rng(0).normal(size=shape)
    path = tmp_path / f"out{suffix}"
    write(path, values, (2, 3, 9))
    np.testing.assert_array_equal(contents(path), values)


def test_a_box_is_a_chunk_of_its_own(tmp_path: Path) -> None:
    """Or it would be read, changed and written once for each box in it."""
    dims = ("time", "lat", "component")
    regions = boxes((5, 7), (2, 3))
    path = tmp_path / "out.zarr"
    with open_sink(path, (5, 7, 4), np.dtype("f4"), regions, (2, 3), dims):
        pass
    array = zarr.open_array(path, mode="r")
    assert array.chunks == (2, 3, 4)
    assert array.metadata.dimension_names == dims


@pytest.mark.parametrize("suffix", [".npy", ".zarr"])
def test_an_output_that_is_deleted_while_it_is_written_is_an_error(
    suffix: str, tmp_path: Path
) -> None:
    path = tmp_path / f"out{suffix}"
    with pytest.raises(OutputError, match=f"out{suffix}"), sink_of(path) as sink:
        sink.write((slice(0, 4),), np.ones(4))
        shutil.rmtree(tmp_path / f"out{suffix}.part")
        sink.write((slice(4, 8),), np.ones(4))
    assert not path.exists()


@pytest.mark.parametrize("suffix", [".npy", ".zarr"])
def test_an_output_stays_in_one_folder_if_the_process_goes_to_another(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    with sink_of(f"out{suffix}") as sink:
        sink.write((slice(0, 4),), np.ones(4))
        monkeypatch.chdir(tmp_path / "elsewhere")
        sink.write((slice(4, 10),), np.ones(6))
    np.testing.assert_array_equal(contents(tmp_path / f"out{suffix}"), np.ones(10))
    assert not list((tmp_path / "elsewhere").iterdir())
