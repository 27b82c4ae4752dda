"""Zarr arrays keep the promises of a source, however they are stored."""

import itertools
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from zarr.codecs import BloscCodec, GzipCodec, TransposeCodec, ZstdCodec
from zarr.storage import LocalStore, MemoryStore, ZipStore

from streamgmm import open as open_data
from streamgmm.errors import DataError
from tests.sources.conformance import Case, SourceConformance, table

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
    def case(self, request: pytest.FixtureRequest, tmp_path: Path) -> Case:
        array, rows = store(tmp_path / "x.zarr", request.param)
        return Case(open_data(array), rows)


class TestZarrPath(SourceConformance):
    @pytest.fixture(params=["v3 whole rows", "v2 default", "v3 sharded", "v2 big-endian"])
    def case(self, request: pytest.FixtureRequest, tmp_path: Path) -> Case:
        _, rows = store(tmp_path / "x.zarr", request.param)
        return Case(open_data(str(tmp_path / "x.zarr")), rows)

    def test_it_travels_by_its_path(self, tmp_path: Path) -> None:
        store(tmp_path / "x.zarr", "v3 whole rows")
        assert len(pickle.dumps(open_data(tmp_path / "x.zarr"))) < 20_000


class TestZarrWithinAGroup(SourceConformance):
    @pytest.fixture(params=[2, 3])
    def case(self, request: pytest.FixtureRequest, tmp_path: Path) -> Case:
        # No .zarr suffix: it is known by what is in it.
        group = zarr.create_group(tmp_path / "store", zarr_format=request.param)
        rows = table(N, D)
        group.create_array("a/b", data=rows, chunks=(1000, D))
        return Case(open_data(tmp_path / "store" / "a" / "b"), rows)


class TestZarrWithMissingChunks(SourceConformance):
    @pytest.fixture(params=[2, 3])
    def case(self, request: pytest.FixtureRequest, tmp_path: Path) -> Case:
        array = zarr.create_array(
            tmp_path / "x.zarr",
            shape=(N, D),
            chunks=(1000, D),
            dtype="f8",
            fill_value=-1.5,
            zarr_format=request.param,
        )
        rows = np.full((N, D), -1.5)
        rows[3000:5000] = array[3000:5000] = table(2000, D)
        return Case(open_data(array), rows)


class TestZarrZipFile(SourceConformance):
    @pytest.fixture
    def case(self, request: pytest.FixtureRequest, tmp_path: Path) -> Case:
        rows = table(N, D)
        with ZipStore(tmp_path / "x.zip", mode="w") as written:
            zarr.create_array(written, data=rows, chunks=(1000, D))
        opened = ZipStore(tmp_path / "x.zip", mode="r")
        request.addfinalizer(opened.close)
        return Case(open_data(zarr.open_array(opened, mode="r")), rows)


class TestZarrInMemory(SourceConformance):
    @pytest.fixture
    def case(self, request: pytest.FixtureRequest, tmp_path: Path) -> Case:
        rows = table(N, D)
        return Case(open_data(zarr.create_array(MemoryStore(), data=rows, chunks=(1000, D))), rows)


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
@pytest.mark.parametrize("value", [-9999, 1e20])
def test_numbers_for_missing_values_are_refused(
    key: str, value: float, zarr_format: Any, tmp_path: Path
) -> None:
    array = zarr.create_array(
        tmp_path / "x.zarr",
        shape=(N, D),
        dtype="f8",
        zarr_format=zarr_format,
        attributes={key: value},
    )
    with pytest.raises(DataError, match=rf"x\.zarr marks missing values by a number .*{key}"):
        open_data(array)


@pytest.mark.parametrize("value", [np.nan, "NaN", None])
def test_missing_values_that_are_nan_need_no_decoding(value: Any) -> None:
    attributes = {"_FillValue": value, "missing_value": value}
    array = zarr.create_array(MemoryStore(), data=table(N, D), attributes=attributes)
    assert open_data(array).n_rows == N


def test_memory_that_runs_out_is_no_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_data(zarr.create_array(MemoryStore(), data=table(N, D)))

    def full(array: Any, selection: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(zarr.Array, "__getitem__", full)
    with pytest.raises(MemoryError):
        source.read(0)
