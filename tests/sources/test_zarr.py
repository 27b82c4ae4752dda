"""Zarr arrays keep the promises of a source, however they are stored."""

import asyncio
import itertools
import os
import pickle
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from zarr.buffer.cpu import NDBuffer
from zarr.codecs import BloscCodec, GzipCodec, TransposeCodec, ZstdCodec
from zarr.core.codec_pipeline import BatchedCodecPipeline
from zarr.registry import register_pipeline
from zarr.storage import LocalStore, MemoryStore, WrapperStore, ZipStore

from streamgmm import open as open_data
from streamgmm.errors import DataError
from streamgmm.testing.sources import SourceCase, SourceConformance, table

N, D = 10_000, 4

LAYOUTS: dict[str, dict[str, Any]] = {
    "v3 whole rows": {"chunks": (1000, D)},
    "v3 remainder": {"chunks": (768, D)},
    "v3 column chunks": {"chunks": (1000, 1)},
    "v3 uneven column chunks": {"chunks": (999, 3)},
    "v3 tiny chunks": {"chunks": (3, D), "n": 500},
    "v3 one huge chunk": {"chunks": (N, D)},
    "v3 chunks larger than the array": {"chunks": (10 * N, 2 * D)},
    "v3 sharded": {"chunks": (100, D), "shards": (5000, D)},
    "v3 sharded by columns": {"chunks": (100, 1), "shards": (2000, 2)},
    "v3 zstd": {"chunks": (1000, D), "compressors": ZstdCodec(level=3)},
    "v3 gzip": {"chunks": (1000, D), "compressors": GzipCodec(level=1)},
    "v3 blosc": {"chunks": (1000, D), "compressors": BloscCodec(cname="lz4")},
    "v3 uncompressed": {"chunks": (1000, D), "compressors": None},
    "v3 Fortran": {"chunks": (1000, D), "filters": [TransposeCodec(order=(1, 0))]},
    "v2 default": {"chunks": (1000, D), "zarr_format": 2},
    "v2 column chunks": {"chunks": (1000, 1), "zarr_format": 2},
    "v2 Fortran": {"chunks": (1000, D), "zarr_format": 2, "order": "F"},
    "v2 big-endian": {"chunks": (1000, D), "zarr_format": 2, "dtype": ">f8"},
    "v3 float32": {"chunks": (1000, D), "dtype": "f4"},
    "v3 float16": {"chunks": (1000, D), "dtype": "f2"},
    "v3 int16": {"chunks": (1000, D), "dtype": "i2"},
    "v3 uint8": {"chunks": (1000, D), "dtype": "u1"},
    "v3 bool": {"chunks": (1000, D), "dtype": "?"},
    "v3 many chunks of rows": {"chunks": (50_000, D), "n": 180_000, "dtype": "f4"},
}


def store(path: Path, layout: str) -> tuple[Any, np.ndarray]:
    settings = {**LAYOUTS[layout]}
    rows = table(settings.pop("n", N), D, settings.pop("dtype", "f8"))
    array = zarr.create_array(path, shape=rows.shape, dtype=rows.dtype, **settings)
    array[:] = rows
    return array, rows


class TestZarrArray(SourceConformance):
    @pytest.fixture(params=LAYOUTS)
    def case(self, request: pytest.FixtureRequest, tmp_path: Path) -> SourceCase:
        array, rows = store(tmp_path / "x.zarr", request.param)
        return SourceCase(open_data(array), rows)


class TestZarrPath(SourceConformance):
    @pytest.fixture(params=["v3 whole rows", "v2 default", "v3 sharded", "v2 big-endian"])
    def case(self, request: pytest.FixtureRequest, tmp_path: Path) -> SourceCase:
        _, rows = store(tmp_path / "x.zarr", request.param)
        return SourceCase(open_data(str(tmp_path / "x.zarr")), rows)

    def test_it_travels_by_its_path(self, tmp_path: Path) -> None:
        store(tmp_path / "x.zarr", "v3 whole rows")
        assert len(pickle.dumps(open_data(tmp_path / "x.zarr"))) < 20_000


class TestZarrWithinAGroup(SourceConformance):
    @pytest.fixture(params=[2, 3])
    def case(self, request: pytest.FixtureRequest, tmp_path: Path) -> SourceCase:
        # No .zarr suffix: it is known by what is in it.
        group = zarr.create_group(tmp_path / "store", zarr_format=request.param)
        rows = table(N, D)
        group.create_array("a/b", data=rows, chunks=(1000, D))
        return SourceCase(open_data(tmp_path / "store" / "a" / "b"), rows)


class TestZarrWithMissingChunks(SourceConformance):
    @pytest.fixture(params=[2, 3])
    def case(self, request: pytest.FixtureRequest, tmp_path: Path) -> SourceCase:
        array = zarr.create_array(
            tmp_path / "x.zarr",
            shape=(N, D),
            chunks=(1000, D),
            dtype="f8",
            fill_value=1.0,
            zarr_format=request.param,
        )
        rows = np.full((N, D), 1.0)
        rows[3000:5000] = array[3000:5000] = table(2000, D)
        return SourceCase(open_data(array), rows)


class TestZarrZipFile(SourceConformance):
    @pytest.fixture
    def case(self, request: pytest.FixtureRequest, tmp_path: Path) -> SourceCase:
        rows = table(N, D)
        with ZipStore(tmp_path / "x.zip", mode="w") as written:
            zarr.create_array(written, data=rows, chunks=(1000, D))
        opened = ZipStore(tmp_path / "x.zip", mode="r")
        request.addfinalizer(opened.close)
        return SourceCase(open_data(zarr.open_array(opened, mode="r")), rows)


class TestZarrInMemory(SourceConformance):
    @pytest.fixture
    def case(self, request: pytest.FixtureRequest, tmp_path: Path) -> SourceCase:
        rows = table(N, D)
        return SourceCase(
            open_data(zarr.create_array(MemoryStore(), data=rows, chunks=(1000, D))), rows
        )


class TestZarrInAStoreOfAnotherKind(SourceConformance):
    @pytest.fixture(params=[D, 1])
    def case(self, request: pytest.FixtureRequest, tmp_path: Path) -> SourceCase:
        rows, chunks = table(N, D), (1000, request.param)
        array = zarr.create_array(WrapperStore(MemoryStore()), data=rows, chunks=chunks)
        return SourceCase(open_data(array), rows)


class CountingStore(LocalStore):
    """Keeps account of what is asked for."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.n_fetched: Counter[str] = Counter()
        self.n_bytes = 0
        self.threads: set[int] = set()

    async def get(self, key: str, *arguments: Any, **settings: Any) -> Any:
        content = await super().get(key, *arguments, **settings)
        self.n_fetched[key] += 1
        self.n_bytes += 0 if content is None else len(content)
        self.threads.add(threading.get_ident())
        return content


@pytest.mark.parametrize(
    "layout",
    ["v3 whole rows", "v3 zstd", "v3 column chunks", "v3 many chunks of rows", "v2 default"],
)
def test_each_stored_chunk_is_fetched_once_a_read(layout: str, tmp_path: Path) -> None:
    store(tmp_path, layout)
    counting = CountingStore(tmp_path, read_only=True)
    source = open_data(zarr.open_array(counting, mode="r"))
    counting.n_fetched.clear()
    SourceConformance.chunks(source)
    fetched = {tmp_path / key: n for key, n in counting.n_fetched.items()}
    assert fetched == dict.fromkeys(chunk_files(tmp_path), 1)


def test_of_shards_each_byte_is_fetched_once_and_an_index_once_a_chunk(tmp_path: Path) -> None:
    rows = table(400_000, D)
    zarr.create_array(tmp_path, data=rows, chunks=(1000, D), shards=(200_000, D))
    counting = CountingStore(tmp_path, read_only=True)
    source = open_data(zarr.open_array(counting, mode="r"))
    counting.n_bytes = 0
    n_chunks = len(SourceConformance.chunks(source))
    stored = sum(path.stat().st_size for path in chunk_files(tmp_path))
    index_bytes = 200 * 16 + 4
    # A chunk may lie in two shards.
    assert stored <= counting.n_bytes + 2 * index_bytes
    assert counting.n_bytes <= stored + 2 * n_chunks * index_bytes


def test_a_chunk_is_read_and_decoded_by_the_thread_that_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, rows = store(tmp_path, "v3 column chunks")
    counting = CountingStore(tmp_path, read_only=True)
    source = open_data(zarr.open_array(counting, mode="r"))
    counting.threads.clear()

    def refuse(*arguments: Any) -> None:
        raise AssertionError("work was handed to another thread")

    monkeypatch.setattr("concurrent.futures.ThreadPoolExecutor.submit", refuse)
    np.testing.assert_array_equal(source.read(0).rows, rows)
    assert counting.threads == {threading.get_ident()}


def test_chunks_can_be_read_within_an_event_loop(tmp_path: Path) -> None:
    array, rows = store(tmp_path, "v3 whole rows")
    source = open_data(array)

    async def read() -> Any:
        return source.read(0).rows

    np.testing.assert_array_equal(asyncio.run(read()), rows)


def test_rows_of_one_stored_chunk_are_not_copied() -> None:
    array = zarr.create_array(
        MemoryStore(), data=table(150_000, D), chunks=(70_000, D), compressors=None
    )
    source = open_data(array)
    # The store's own memory, also of the last chunk, which is not full.
    for i in range(3):
        assert np.shares_memory(source.read(i).rows, source.read(i).rows)


def test_chunks_of_few_columns_are_put_together_column_by_column() -> None:
    array = zarr.create_array(MemoryStore(), data=table(N, D), chunks=(1000, 1))
    assert open_data(array).read(0).rows.flags.f_contiguous


class DirectPipeline(BatchedCodecPipeline):
    """Fills an array in C order itself, as pipelines of compiled code do."""

    async def read(self, batch_info: Any, out: Any, drop_axes: Any = ()) -> None:
        values = out.as_ndarray_like()
        assert values.flags.c_contiguous
        await super().read(batch_info, NDBuffer.from_numpy_array(values), drop_axes)


@pytest.mark.parametrize("n_columns", [1, D])
def test_other_codec_pipelines_may_be_chosen(n_columns: int, tmp_path: Path) -> None:
    rows = table(N, D)
    zarr.create_array(tmp_path, data=rows, chunks=(1000, n_columns))
    register_pipeline(DirectPipeline)
    path = f"{DirectPipeline.__module__}.{DirectPipeline.__qualname__}"
    with zarr.config.set({"codec_pipeline.path": path}):
        source = open_data(tmp_path)
        np.testing.assert_array_equal(source.read(0).rows, rows)


@pytest.mark.parametrize("stored_rows", [1, 7, 1000, 65536, 100_000])
def test_no_stored_chunk_is_read_twice(stored_rows: int) -> None:
    n = 300_000
    array = zarr.create_array(
        MemoryStore(), shape=(n, D), chunks=(stored_rows, D), dtype="f8", compressors=None
    )
    boundaries = np.array(open_data(array).boundaries)
    assert np.all(boundaries[:-1] % stored_rows == 0)
    assert boundaries[1] == max(stored_rows, 65536 // stored_rows * stored_rows)


def test_inner_chunks_of_shards_are_read() -> None:
    array = zarr.create_array(
        MemoryStore(), shape=(400_000, D), chunks=(1000, D), shards=(400_000, D), dtype="f8"
    )
    source = open_data(array)
    assert source.boundaries[1] == 65_000
    assert source.read_bytes < array.nbytes


def chunk_files(root: Path) -> list[Path]:
    return sorted(
        path
        for path in root.rglob("*")
        if path.is_file() and path.name not in ("zarr.json", ".zarray", ".zattrs")
    )


# Of Blosc only the empty chunk: its decoder does not compare a chunk's length with the one in
# its header, so whether a shortened chunk is noticed depends on what lies behind it in memory.
@pytest.mark.parametrize(
    ("layout", "keep"),
    [
        *itertools.product(["v3 zstd", "v2 default", "v3 uncompressed"], [0.0, 0.001, 0.7]),
        ("v3 blosc", 0.0),
    ],
)
def test_damaged_chunks_are_named(layout: str, keep: float, tmp_path: Path) -> None:
    store(tmp_path / "x.zarr", layout)
    damaged = chunk_files(tmp_path / "x.zarr")[3]
    content = damaged.read_bytes()
    damaged.write_bytes(content[: int(keep * len(content))])
    source = open_data(tmp_path / "x.zarr")
    with pytest.raises(DataError, match=r"x\.zarr: rows 0 to 10000 cannot be read or decoded"):
        for i in range(len(source.boundaries) - 1):
            source.read(i)


def test_damaged_shards_are_named(tmp_path: Path) -> None:
    store(tmp_path / "x.zarr", "v3 sharded")
    damaged = chunk_files(tmp_path / "x.zarr")[0]
    damaged.write_bytes(damaged.read_bytes()[:-3])
    with pytest.raises(DataError, match=r"x\.zarr: rows 0 to 10000 cannot be read"):
        open_data(tmp_path / "x.zarr").read(0)


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("content", ["", "{", "{}", "[]", '{"zarr_format": 9}'])
def test_damaged_metadata_are_named(zarr_format: Any, content: str, tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "x.zarr", shape=(N, D), dtype="f8", zarr_format=zarr_format)
    (tmp_path / "x.zarr" / (".zarray" if zarr_format == 2 else "zarr.json")).write_text(content)
    with pytest.raises(DataError, match=r"x\.zarr"):
        open_data(tmp_path / "x.zarr")


def test_a_store_object_may_be_given_by_its_array(tmp_path: Path) -> None:
    rows = table(100, D)
    array = zarr.create_array(LocalStore(tmp_path / "named"), data=rows)
    assert "named" in open_data(array).name


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("key", ["_FillValue", "missing_value"])
@pytest.mark.parametrize("value", [-9999, 1e20, [-9999.0, 1e20]])
def test_marks_that_no_value_equals_change_nothing(key: str, value: Any, zarr_format: Any) -> None:
    rows = table(N, D)
    array = zarr.create_array(
        MemoryStore(), data=rows, zarr_format=zarr_format, attributes={key: value}
    )
    np.testing.assert_array_equal(open_data(array).read(0).rows, rows)


@pytest.mark.parametrize("value", [np.nan, "NaN", None])
def test_missing_values_that_are_nan_need_no_decoding(value: Any) -> None:
    attributes = {"_FillValue": value, "missing_value": value}
    array = zarr.create_array(MemoryStore(), data=table(N, D), attributes=attributes)
    assert open_data(array).n_rows == N


def test_memory_that_runs_out_is_no_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_data(zarr.create_array(MemoryStore(), data=table(N, D)))

    def full(*arguments: Any, **settings: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(MemoryStore, "get", full)
    with pytest.raises(MemoryError):
        source.read(0)


@pytest.fixture
def hinted(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Files that the system was asked to fetch."""
    files: list[Path] = []
    advise = os.posix_fadvise

    def recorded(descriptor: int, offset: int, length: int, advice: int) -> None:
        assert advice == os.POSIX_FADV_WILLNEED
        files.append(Path(f"/proc/self/fd/{descriptor}").readlink())
        advise(descriptor, offset, length, advice)

    monkeypatch.setattr(os, "posix_fadvise", recorded)
    return files


@pytest.mark.skipif(sys.platform != "linux", reason="other systems take no such hints")
class TestPrefetching:
    @pytest.mark.parametrize(
        ("layout", "names"),
        [
            ("v3 many chunks of rows", ["c/1/0"]),
            ("v3 column chunks", [f"c/{i}/{j}" for i in range(10) for j in range(D)]),
            ("v2 default", [f"{i}.0" for i in range(10)]),
            ("v3 chunks larger than the array", ["c/0/0"]),
        ],
    )
    def test_the_files_of_a_chunk_are_asked_for(
        self, layout: str, names: list[str], hinted: list[Path], tmp_path: Path
    ) -> None:
        store(tmp_path, layout)
        source = open_data(tmp_path)
        source.prefetch(min(1, len(source.boundaries) - 2))
        assert hinted == [tmp_path / name for name in names]

    def test_rows_with_weights_are_fetched_too(self, hinted: list[Path], tmp_path: Path) -> None:
        _, rows = store(tmp_path, "v3 many chunks of rows")
        source = open_data(tmp_path, sample_weight=np.ones(len(rows)))
        source.prefetch(2)
        assert hinted == [tmp_path / "c/2/0"]

    def test_nothing_is_asked_for_that_is_in_shards_or_in_memory(
        self, hinted: list[Path], tmp_path: Path
    ) -> None:
        store(tmp_path, "v3 sharded")
        open_data(tmp_path).prefetch(0)
        open_data(zarr.array(table(N, D))).prefetch(0)
        assert hinted == []

    def test_a_chunk_that_is_not_stored_is_no_error(
        self, hinted: list[Path], tmp_path: Path
    ) -> None:
        zarr.create_array(tmp_path, shape=(N, D), chunks=(1000, D), dtype="f8", fill_value=1.0)
        source = open_data(tmp_path)
        source.prefetch(0)
        assert hinted == []
        np.testing.assert_array_equal(source.read(0).rows, 1.0)
