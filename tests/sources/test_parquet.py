"""Parquet files keep the promises of a source, however many there are and whatever they hold."""

import os
import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from streamgmm import GaussianMixture
from streamgmm import open as open_data
from streamgmm.errors import DataError
from streamgmm.sources.parquet import ParquetSource
from streamgmm.sources.remote import retrying
from streamgmm.testing.sources import SourceCase, SourceConformance, table

# Enough for chunks of 65536 rows and a remainder.
N, D = 80_000, 3


def columns(rows: np.ndarray, is_null: np.ndarray | None = None) -> pa.Table:
    masks = [None] * rows.shape[1] if is_null is None else is_null.T
    return pa.table(
        {
            f"c{d}": pa.array(np.ascontiguousarray(values), mask=mask)
            for d, (values, mask) in enumerate(zip(rows.T, masks, strict=True))
        }
    )


def lists(rows: np.ndarray, kind: str = "list", is_null: np.ndarray | None = None) -> pa.Array:
    n, width = rows.shape
    values = pa.array(rows.ravel(), mask=None if is_null is None else is_null.ravel())
    if kind == "fixed":
        return pa.FixedSizeListArray.from_arrays(values, width)
    offsets = np.arange(n + 1) * width
    if kind == "large":
        return pa.LargeListArray.from_arrays(pa.array(offsets), values)
    return pa.ListArray.from_arrays(pa.array(offsets.astype("i4")), values)


def nulls(*shape: int) -> np.ndarray:
    return np.random.default_rng(3).random(shape) < 0.1


# What is written, and the rows to be read.
Content = tuple[pa.Table, np.ndarray]


def plain(dtype: Any = "f8", n: int = N, d: int = D) -> Content:
    rows = table(n, d, dtype)
    return columns(rows), rows


def with_nulls(dtype: Any, read_as: Any) -> Content:
    rows, is_null = table(N, D, dtype), nulls(N, D)
    return columns(rows, is_null), np.where(is_null, np.nan, rows).astype(read_as)


def one_column_of_lists(kind: str, dtype: Any) -> Content:
    rows = table(N, D, dtype)
    return pa.table({"e": lists(rows, kind)}), rows


def with_null_lists(kind: str, dtype: Any, read_as: Any) -> Content:
    rows, is_null = table(N, D, dtype), nulls(N)
    expected = np.where(is_null[:, None], np.nan, rows).astype(read_as)
    written = lists(rows, kind)
    return pa.table({"e": pc.if_else(is_null, pa.scalar(None, written.type), written)}), expected


def with_null_elements(kind: str, dtype: Any, read_as: Any) -> Content:
    rows, is_null = table(N, D, dtype), nulls(N, D)
    expected = np.where(is_null, np.nan, rows).astype(read_as)
    return pa.table({"e": lists(rows, kind, is_null)}), expected


def lists_among_numbers() -> Content:
    flag, small, embedded = table(N, 1, "?"), table(N, 1, "i2"), table(N, D, "f4")
    written = pa.table({"flag": flag[:, 0], "e": lists(embedded, "fixed"), "small": small[:, 0]})
    return written, np.column_stack([flag, embedded, small])


def numbers_of_many_types() -> Content:
    dtypes = ["i1", "u1", "i2", "u2", "i4", "u4", "f2", "f4", "?"]
    each = [table(N, 1, dtype)[:, 0] for dtype in dtypes]
    rows = np.column_stack([values.astype("f8") for values in each])
    return pa.table(dict(zip(dtypes, each, strict=True))), rows


def required(dtype: Any) -> Content:
    written, rows = plain(dtype)
    return written.cast(pa.schema([field.with_nullable(False) for field in written.schema])), rows


def names_with_dots() -> Content:
    rows = table(N, 1 + D)
    return pa.table({"a": lists(rows[:, 1:]), "a.b": rows[:, 0]}), np.roll(rows, -1, axis=1)


FILES: dict[str, tuple[Callable[[], Content], dict[str, Any]]] = {
    "one row group": (plain, {}),
    "small row groups": (plain, {"row_group_size": 20_000}),
    "large row groups": (plain, {"row_group_size": 70_000}),
    "one row": (lambda: plain(n=1), {}),
    "one column": (lambda: plain(d=1), {"row_group_size": 40_000}),
    "many columns": (lambda: plain("f4", 5000, 300), {"row_group_size": 900}),
    "uncompressed": (plain, {"compression": "none", "use_dictionary": False}),
    "zstd": (plain, {"compression": "zstd", "data_page_version": "2.0"}),
    "with checksums": (plain, {"write_page_checksum": True}),
    "float32": (lambda: plain("f4"), {}),
    "float16": (lambda: plain("f2"), {}),
    "int8": (lambda: plain("i1"), {}),
    "uint16": (lambda: plain("u2"), {}),
    "int64": (lambda: plain("i8"), {}),
    "uint64": (lambda: plain("u8"), {}),
    "bool": (lambda: plain("?"), {}),
    "many types": (numbers_of_many_types, {"row_group_size": 30_000}),
    "names with dots": (names_with_dots, {}),
    "null float64": (lambda: with_nulls("f8", "f8"), {"row_group_size": 20_000}),
    "null float32": (lambda: with_nulls("f4", "f4"), {}),
    "null int32": (lambda: with_nulls("i4", "f8"), {"row_group_size": 20_000}),
    "null uint8": (lambda: with_nulls("u1", "f8"), {}),
    "null bool": (lambda: with_nulls("?", "f8"), {}),
    "required int32": (lambda: required("i4"), {"write_statistics": False}),
    "lists": (lambda: one_column_of_lists("list", "f4"), {"row_group_size": 20_000}),
    "large lists": (lambda: one_column_of_lists("large", "f8"), {}),
    "fixed lists": (lambda: one_column_of_lists("fixed", "f4"), {"row_group_size": 20_000}),
    "lists of int32": (lambda: one_column_of_lists("list", "i4"), {}),
    "fixed lists of bool": (lambda: one_column_of_lists("fixed", "?"), {}),
    "lists among numbers": (lists_among_numbers, {"row_group_size": 20_000}),
    "null lists": (lambda: with_null_lists("list", "f4", "f4"), {"row_group_size": 20_000}),
    "null large lists of int32": (lambda: with_null_lists("large", "i4", "f8"), {}),
    "null fixed lists": (lambda: with_null_lists("fixed", "f8", "f8"), {}),
    "lists of null float32": (lambda: with_null_elements("list", "f4", "f4"), {}),
    "fixed lists of null int8": (lambda: with_null_elements("fixed", "i1", "f8"), {}),
    "lists of null bool": (lambda: with_null_elements("list", "?", "f8"), {}),
}


def write(path: Path, name: str) -> np.ndarray:
    make, settings = FILES[name]
    written, rows = make()
    pq.write_table(written, path, **settings)
    return rows


class TestParquetFile(SourceConformance):
    @pytest.fixture(params=FILES)
    def case(self, request: pytest.FixtureRequest, tmp_path: Path) -> SourceCase:
        rows = write(tmp_path / "x.parquet", request.param)
        return SourceCase(ParquetSource(tmp_path / "x.parquet"), rows)


@pytest.fixture
def memory() -> Iterator[str]:
    """URL of a folder in memory."""
    yield "memory://tables"
    fsspec.filesystem("memory").rm("/tables", recursive=True)


def write_tree(root: Path) -> np.ndarray:
    """Files of several types, one of them empty, and some that are no part of the table."""
    rows = table(N, D, "f4").astype("f8")
    parts = {
        "a.parquet": columns(rows[:40_000].astype("f4")),
        "b.parq": columns(rows[:0].astype("i8")),
        "b/c.pq": columns(rows[40_000:45_000]),
        "b/d.parquet": columns(rows[45_000:]).select(["c2", "c0", "c1"]),
        "b/_delta_log/e.parquet": columns(rows),
        ".f.parquet": columns(rows),
    }
    for name, part in parts.items():
        (root / name).parent.mkdir(exist_ok=True, parents=True)
        pq.write_table(part, root / name, row_group_size=30_000)
    for name in ("_metadata", "b/_SUCCESS", "b/read.me"):
        (root / name).touch()
    return rows


# Paths within the tree, and the rows that they stand for.
PATHS = {
    "": slice(0, N),
    "b": slice(40_000, N),
    "a.parquet": slice(0, 40_000),
    "*.parquet": slice(0, 40_000),
    "?": slice(40_000, N),
    "b/[a-c].*": slice(40_000, 45_000),
    "**/*.p*q*": slice(0, N),
}


class TestParquetFiles(SourceConformance):
    @pytest.fixture(params=PATHS)
    def case(self, request: pytest.FixtureRequest, tmp_path: Path) -> SourceCase:
        rows = write_tree(tmp_path)[PATHS[request.param]]
        if request.param in ("a.parquet", "*.parquet"):
            rows = rows.astype("f4")
        return SourceCase(ParquetSource(f"{tmp_path}/{request.param}"), rows)


class TestParquetAtAUrl(SourceConformance):
    @pytest.fixture(params=["", "a.parquet", "b/[a-c].*"])
    def case(self, request: pytest.FixtureRequest, tmp_path: Path, memory: str) -> SourceCase:
        rows = write_tree(tmp_path)[PATHS[request.param]]
        if request.param == "a.parquet":
            rows = rows.astype("f4")
        fsspec.filesystem("memory").put(f"{tmp_path}/", "/tables", recursive=True)
        source = ParquetSource(f"{memory}/{request.param}", storage_options={})
        assert source.location is None
        return SourceCase(source, rows)


class TestSelectedColumns(SourceConformance):
    @pytest.fixture
    def case(self, request: pytest.FixtureRequest, tmp_path: Path) -> SourceCase:
        rows = table(N, D)
        written = columns(rows).append_column("name", pa.array(["text"] * N))
        pq.write_table(written, tmp_path / "x.parquet")
        return SourceCase(open_data(tmp_path / "x.parquet", columns=["c2", "c0"]), rows[:, [2, 0]])


class TestListsOfSeveralFiles(SourceConformance):
    @pytest.fixture
    def case(self, request: pytest.FixtureRequest, tmp_path: Path) -> SourceCase:
        rows = table(N, D, "f4").astype("f8")
        parts = {
            # The first list that tells a length is in the second row of the second file.
            "a": pa.ListArray.from_pandas([None] * 2000, type=pa.list_(pa.float32())),
            "b": pa.array([None, rows[2001].tolist()], pa.large_list(pa.float64())),
            "c": lists(rows[2002:]),
        }
        for name, part in parts.items():
            pq.write_table(pa.table({"e": part}), tmp_path / f"{name}.parquet")
        rows[:2001] = np.nan
        return SourceCase(ParquetSource(tmp_path), rows)


def test_what_the_source_is_called(tmp_path: Path) -> None:
    write_tree(tmp_path)
    for path, location in {
        "a.parquet": tmp_path / "a.parquet",
        "b": tmp_path / "b",
        "*.parquet": None,
    }.items():
        source = ParquetSource(tmp_path / path)
        assert source.name == str(tmp_path / path)
        assert source.location == location


def test_features_have_names(tmp_path: Path) -> None:
    written, _ = lists_among_numbers()
    pq.write_table(written, tmp_path / "x.parquet")
    source = open_data(tmp_path / "x.parquet")
    assert source.feature_names == ["flag", "e[0]", "e[1]", "e[2]", "small"]
    chosen = open_data(tmp_path / "x.parquet", columns=["small", "flag"])
    assert chosen.feature_names == ["small", "flag"]


def test_the_index_of_a_frame_is_no_feature(tmp_path: Path) -> None:
    frame = pd.DataFrame({"a": [1.0, 2.0, 3.0, 4.0], "id": [7, 3, 5, 4]})
    frame[frame.a != 3].to_parquet(tmp_path / "unnamed.parquet")
    frame.set_index("id").to_parquet(tmp_path / "named.parquet")
    frame.to_parquet(tmp_path / "range.parquet")
    assert "__index_level_0__" in pq.read_schema(tmp_path / "unnamed.parquet").names
    assert ParquetSource(tmp_path / "unnamed.parquet").feature_names == ["a", "id"]
    assert ParquetSource(tmp_path / "named.parquet").feature_names == ["a"]
    assert ParquetSource(tmp_path / "range.parquet").feature_names == ["a", "id"]
    asked_for = ParquetSource(tmp_path / "named.parquet", ["id", "a"])
    np.testing.assert_array_equal(asked_for.read(0).rows, frame[["id", "a"]])


@pytest.mark.parametrize("settings", [{}, {"compression": "zstd"}, {"use_dictionary": False}])
def test_rows_are_those_that_arrow_reads(settings: dict[str, Any], tmp_path: Path) -> None:
    written, _ = numbers_of_many_types()
    pq.write_table(written, tmp_path / "x.parquet", row_group_size=30_000, **settings)
    source = ParquetSource(tmp_path / "x.parquet")
    read = pq.read_table(tmp_path / "x.parquet")
    expected = np.column_stack([column.to_numpy() for column in read.columns])
    np.testing.assert_array_equal(
        np.concatenate([chunk.rows for chunk in SourceConformance.chunks(source)]), expected
    )


def test_null_float16_is_nan(tmp_path: Path) -> None:
    written, rows = with_nulls("f2", "f2")
    pq.write_table(written, tmp_path / "x.parquet")
    source = ParquetSource(tmp_path / "x.parquet")
    assert source.dtype == np.float16
    np.testing.assert_array_equal(source.read(0).rows, rows[: source.boundaries[1]])


@pytest.mark.parametrize("dtype", ["i2", "?"])
@pytest.mark.parametrize("make", [columns, lambda rows: pa.table({"e": lists(rows)})])
def test_integers_that_may_be_null_are_float64(make: Any, dtype: str, tmp_path: Path) -> None:
    rows = table(100, D, dtype)
    pq.write_table(make(rows), tmp_path / "x.parquet", write_statistics=False)
    assert ParquetSource(tmp_path / "x.parquet").dtype == np.float64
    pq.write_table(make(rows), tmp_path / "x.parquet")
    assert ParquetSource(tmp_path / "x.parquet").dtype == np.dtype(dtype)


@pytest.mark.parametrize("n_features", [1, 3, 40])
@pytest.mark.parametrize("stored_rows", [7, 1000, 65_536, 100_000])
def test_small_row_groups_are_read_together(
    stored_rows: int, n_features: int, tmp_path: Path
) -> None:
    n = 30 * stored_rows if stored_rows < 1000 else 150_000
    written = columns(np.zeros((n, n_features), "f4"))
    for name in "ab":
        pq.write_table(written, tmp_path / f"{name}.parquet", row_group_size=stored_rows)
    boundaries = np.array(ParquetSource(tmp_path).boundaries)
    most = (2 << 20) // (8 * n_features) // 1024 * 1024
    most = max(min(most, 65_536) // stored_rows, 1) * stored_rows
    assert boundaries.tolist() == [*range(0, n, most), *range(n, 2 * n, most), 2 * n]


def test_empty_row_groups_are_passed_over(tmp_path: Path) -> None:
    written, rows = plain("i4", 100)
    with pq.ParquetWriter(tmp_path / "x.parquet", written.schema) as writer:
        for part in (written[:0], written[:40], written[:0], written[40:], written[:0]):
            writer.write_table(part)
    source = ParquetSource(tmp_path / "x.parquet")
    assert list(source.boundaries) == [0, 100]
    assert source.dtype == np.int32
    np.testing.assert_array_equal(source.read(0).rows, rows)


@pytest.mark.parametrize("kind", ["list", "fixed"])
def test_a_single_column_of_lists_is_not_copied(kind: str, tmp_path: Path) -> None:
    written, _ = one_column_of_lists(kind, "f4")
    pq.write_table(written, tmp_path / "x.parquet")
    source = ParquetSource(tmp_path / "x.parquet")
    before = pa.total_allocated_bytes()
    chunk = source.read(0)
    assert chunk.rows.base is not None
    assert chunk.rows.nbytes <= pa.total_allocated_bytes() - before <= 1.1 * chunk.rows.nbytes


def test_numbers_are_put_together_column_by_column(tmp_path: Path) -> None:
    written, _ = plain()
    pq.write_table(written, tmp_path / "x.parquet")
    assert ParquetSource(tmp_path / "x.parquet").read(0).rows.flags.f_contiguous


@pytest.mark.parametrize("name", FILES)
def test_no_more_memory_is_taken_than_announced(name: str, tmp_path: Path) -> None:
    write(tmp_path / "x.parquet", name)
    source = ParquetSource(tmp_path / "x.parquet")
    usual = pa.default_memory_pool()
    for i in range(len(source.boundaries) - 1):
        counting = pa.proxy_memory_pool(usual)
        pa.set_memory_pool(counting)
        try:
            source.read(i)
        finally:
            pa.set_memory_pool(usual)
        # Buffers have a least size.
        assert 0 < counting.max_memory() <= source.read_bytes + (64 << 10)


def test_threads_read_files_of_many_row_groups_at_once(tmp_path: Path) -> None:
    rows = table(90_000, 20, "f4")
    for i in range(3):
        part = columns(rows[i * 30_000 : (i + 1) * 30_000])
        pq.write_table(part, tmp_path / f"{i}.parquet", row_group_size=7000)
    source = ParquetSource(tmp_path)
    with ThreadPoolExecutor(8) as threads:
        for _ in range(5):
            chunks = list(threads.map(source.read, range(len(source.boundaries) - 1)))
            np.testing.assert_array_equal(np.concatenate([chunk.rows for chunk in chunks]), rows)


def test_it_travels_by_its_footers(tmp_path: Path) -> None:
    written, _ = plain()
    pq.write_table(written, tmp_path / "x.parquet")
    assert len(pickle.dumps(ParquetSource(tmp_path / "x.parquet"))) < 10_000


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="open files are not listed")
def test_no_file_stays_open(tmp_path: Path) -> None:
    write_tree(tmp_path)
    source = ParquetSource(tmp_path)
    SourceConformance.chunks(source)
    opened = [os.path.realpath(link) for link in Path("/proc/self/fd").iterdir()]
    assert not any(path.startswith(str(tmp_path)) for path in opened)


@pytest.mark.parametrize("name", ["small row groups", "fixed lists", "null float64"])
def test_a_mixture_is_fitted(name: str, tmp_path: Path) -> None:
    rows = write(tmp_path / "x.parquet", name)
    source = open_data(tmp_path / "x.parquet", missing="drop")
    model = GaussianMixture(1).fit(source)
    np.testing.assert_allclose(model.means_[0], np.nanmean(rows, axis=0), atol=0.01)
    np.testing.assert_array_equal(model.feature_names_in_, source.feature_names)


class TestWhatIsNoTableOfNumbers:
    @pytest.mark.parametrize(
        ("values", "kind"),
        [
            (pa.array(["a", "b"]), "string"),
            (pa.array([1, 2], pa.timestamp("us")), r"timestamp\[us\]"),
            (pa.array([1, 2], pa.date32()), r"date32\[day\]"),
            (pa.array([1, 2]).cast(pa.decimal128(21, 2)), r"decimal128\(21, 2\)"),
            (pa.array(["a", "b"]).dictionary_encode(), "dictionary<.*>"),
            (pa.array([{"x": 1.0}, {"x": 2.0}]), "struct<x: double>"),
            (pa.array([[("k", 1.0)], []], pa.map_(pa.string(), pa.float64())), "map<.*>"),
            (pa.array([[[1.0]], [[2.0]]]), "list<element: list<element: double>>"),
            (pa.array([["a"], ["b"]]), "list<element: string>"),
            (pa.nulls(2), "null"),
        ],
    )
    def test_other_types_are_named(self, values: pa.Array, kind: str, tmp_path: Path) -> None:
        pq.write_table(pa.table({"a": [1.0, 2.0], "b": values}), tmp_path / "x.parquet")
        with pytest.raises(DataError, match=rf"x\.parquet: column 'b' has type {kind}, not num"):
            ParquetSource(tmp_path / "x.parquet")
        assert ParquetSource(tmp_path / "x.parquet", ["a"]).n_features == 1

    def test_other_types_in_one_of_many_files_are_named(self, tmp_path: Path) -> None:
        pq.write_table(pa.table({"a": [1.0]}), tmp_path / "1.parquet")
        pq.write_table(pa.table({"a": ["b"]}), tmp_path / "2.parquet")
        with pytest.raises(DataError, match=r"2\.parquet: column 'a' has type string"):
            ParquetSource(tmp_path)

    @pytest.mark.parametrize("order", [("1", "2"), ("2", "1")])
    def test_columns_that_one_of_many_files_lacks(
        self, order: tuple[str, str], tmp_path: Path
    ) -> None:
        whole, part = order
        pq.write_table(pa.table({"a": [1.0], "b": [1.0]}), tmp_path / f"{whole}.parquet")
        pq.write_table(pa.table({"a": [1.0], "c d": [1.0]}), tmp_path / f"{part}.parquet")
        with pytest.raises(
            DataError, match=r"\.parquet has no column '(b|c d)'; its columns are a"
        ):
            ParquetSource(tmp_path)
        with pytest.raises(DataError, match=rf"{part}\.parquet has no column 'b'"):
            ParquetSource(tmp_path, ["a", "b"])
        assert ParquetSource(tmp_path, ["a"]).n_rows == 2

    def test_columns_of_the_same_name(self, tmp_path: Path) -> None:
        written = pa.Table.from_arrays([pa.array([1.0])] * 2, ["a", "a"])
        pq.write_table(written, tmp_path / "x.parquet")
        with pytest.raises(DataError, match=r"x\.parquet has 2 columns 'a'"):
            ParquetSource(tmp_path / "x.parquet")

    def test_no_columns(self, tmp_path: Path) -> None:
        pq.write_table(pa.table({"a": [1.0]}), tmp_path / "x.parquet")
        with pytest.raises(DataError, match=r"0 feature\(s\) .*x\.parquet"):
            ParquetSource(tmp_path / "x.parquet", [])

    def test_no_rows(self, tmp_path: Path) -> None:
        pq.write_table(pa.table({"a": pa.array([], pa.float32())}), tmp_path / "x.parquet")
        with pytest.raises(DataError, match=r"x\.parquet has 0 sample\(s\)"):
            ParquetSource(tmp_path / "x.parquet")

    @pytest.mark.parametrize("first", [[1.0, 2.0], None, []])
    @pytest.mark.parametrize("ragged", [[1.0], [], [1.0, 2.0, 3.0]])
    def test_lists_of_another_length(self, first: Any, ragged: Any, tmp_path: Path) -> None:
        regular = pa.array([[1.0, 2.0]] * 50, pa.list_(pa.float64()))
        odd = pa.array([[1.0, 2.0], None, ragged, ragged], regular.type)
        for name, part in {"1": regular, "2": odd}.items():
            pq.write_table(pa.table({"a": [0.0] * len(part), "e": part}), tmp_path / f"{name}.pq")
        source = ParquetSource(tmp_path)
        assert source.read(0).rows.shape == (50, 3)
        with pytest.raises(
            DataError,
            match=rf"2\.pq: column 'e' holds a list of {len(ragged)} numbers in row 52, "
            "where others have 2",
        ):
            source.read(1)

    def test_an_empty_list_comes_first(self, tmp_path: Path) -> None:
        pq.write_table(pa.table({"e": [[], [1.0, 2.0]]}), tmp_path / "x.pq")
        with pytest.raises(DataError, match=r"a list of 0 numbers in row 0, where others have 2"):
            ParquetSource(tmp_path).read(0)

    def test_lists_without_numbers(self, tmp_path: Path) -> None:
        empty = pa.array([[], None], pa.list_(pa.float64()))
        pq.write_table(pa.table({"a": [1.0, 2.0], "e": empty}), tmp_path / "x.parquet")
        with pytest.raises(DataError, match=r"column 'e' holds no lists of numbers"):
            ParquetSource(tmp_path / "x.parquet")

    @pytest.mark.parametrize("other", [[1.0, 2.0], lists(np.zeros((2, 3)), "fixed")])
    @pytest.mark.parametrize("kind", ["list", "fixed"])
    def test_lists_that_are_others_in_another_file(
        self, kind: str, other: Any, tmp_path: Path
    ) -> None:
        pq.write_table(pa.table({"e": lists(np.zeros((2, 2)), kind)}), tmp_path / "1.parquet")
        pq.write_table(pa.table({"e": other}), tmp_path / "2.parquet")
        with pytest.raises(DataError, match=r"[12]\.parquet.* column 'e'"):
            source = ParquetSource(tmp_path)
            source.read(0)

    def test_null_that_statistics_deny(self, tmp_path: Path) -> None:
        path = tmp_path / "x.parquet"
        rows, is_null = table(1000, 1, "i4"), nulls(1000, 1)
        settings: dict[str, Any] = {"compression": "none", "use_dictionary": False}
        pq.write_table(columns(rows), path, **settings)
        source = ParquetSource(path)
        pq.write_table(columns(rows, is_null), path, **settings)
        with pytest.raises(DataError, match=r"x\.parquet: column 'c0' holds null among rows 0 to"):
            source.read(0)


class TestWhatCannotBeRead:
    def test_no_such_file(self, tmp_path: Path, memory: str) -> None:
        for path in (f"{tmp_path}/x.parquet", f"{memory}/x.parquet"):
            fsspec.filesystem("memory").mkdirs("/tables", exist_ok=True)
            with pytest.raises(DataError, match=r"tables/x|x\.parquet cannot be opened \(FileNotF"):
                ParquetSource(path)

    @pytest.mark.parametrize("path", ["", "*.parquet", "_*"])
    def test_no_parquet_files(self, path: str, tmp_path: Path) -> None:
        (tmp_path / "below").mkdir()
        (tmp_path / "below" / "read.me").touch()
        pq.write_table(pa.table({"a": [1.0]}), tmp_path / "_x.parquet")
        with pytest.raises(DataError, match=r"holds no Parquet files \(\.parquet, \.parq, \.pq\)"):
            ParquetSource(f"{tmp_path}/{path}")

    @pytest.mark.parametrize("content", [b"", b"PAR1", b"no such thing", bytes(1000)])
    def test_no_parquet_in_one_of_many_files(self, content: bytes, tmp_path: Path) -> None:
        pq.write_table(pa.table({"a": [1.0]}), tmp_path / "1.parquet")
        (tmp_path / "2.parquet").write_bytes(content)
        with pytest.raises(
            DataError, match=r"2\.parquet cannot be opened as a Parquet file \(Arrow"
        ):
            ParquetSource(tmp_path)

    def test_protocols_that_are_not_known(self) -> None:
        with pytest.raises(DataError, match=r"nothing://x cannot be opened \(ValueError: Protocol"):
            ParquetSource("nothing://x")

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
    def test_what_may_not_be_read(self, tmp_path: Path) -> None:
        write_tree(tmp_path)
        (tmp_path / "b").chmod(0)
        with pytest.raises(DataError, match="PermissionError"):
            ParquetSource(tmp_path)
        (tmp_path / "b").chmod(0o700)
        (tmp_path / "b" / "d.parquet").chmod(0)
        with pytest.raises(DataError, match=r"d\.parquet cannot be opened .*PermissionError"):
            ParquetSource(tmp_path)

    @pytest.mark.parametrize("cut", [1, 8, 1000, 500_000])
    def test_truncated_files(self, cut: int, tmp_path: Path) -> None:
        path = tmp_path / "x.parquet"
        write(path, "small row groups")
        content = path.read_bytes()
        source = ParquetSource(path)
        path.write_bytes(content[:-cut])
        with pytest.raises(DataError, match=r"x\.parquet cannot be opened as a Parquet file"):
            ParquetSource(path)
        # What was opened before finds it out as soon as there are rows missing.
        last = len(source.boundaries) - 2
        start, stop = source.boundaries[last:]
        if cut < 100_000:
            return
        with pytest.raises(
            DataError, match=rf"x\.parquet: rows {start} to {stop} cannot be read or decoded \("
        ):
            source.read(last)

    @pytest.mark.parametrize("name", ["zstd", "with checksums"])
    def test_damaged_pages(self, name: str, tmp_path: Path) -> None:
        path = tmp_path / "x.parquet"
        rows = write(path, name)
        content = bytearray(path.read_bytes())
        content[100_000:100_100] = bytes(100)
        path.write_bytes(content)
        source = ParquetSource(path)
        with pytest.raises(DataError, match=rf"x\.parquet: rows 0 to {len(rows)} cannot be read"):
            source.read(0)

    def test_files_that_vanish(self, tmp_path: Path, memory: str) -> None:
        fsspec.filesystem("memory").mkdirs("/tables", exist_ok=True)
        for path, why in (
            (f"{tmp_path}/x.parquet", "FileNotFoundError: "),
            (f"{memory}/x.parquet", "there is no file memory:///tables/x.parquet"),
        ):
            with fsspec.open(path, "wb") as file:
                pq.write_table(pa.table({"a": [1.0, 2.0]}), file)
            source = ParquetSource(path)
            fsspec.core.url_to_fs(path)[0].rm(path)
            with pytest.raises(
                DataError, match=rf"x\.parquet: rows 0 to 2 cannot .* \({why}"
            ) as caught:
                source.read(0)
            # Whoever would try again can tell what it was.
            assert isinstance(caught.value.__cause__, OSError)

    def test_files_that_become_shorter(self, tmp_path: Path) -> None:
        path = tmp_path / "x.parquet"
        settings: dict[str, Any] = {"compression": "none", "use_dictionary": False}
        pq.write_table(pa.table({"a": np.zeros(1000)}), path, **settings)
        source = ParquetSource(path)
        pq.write_table(pa.table({"a": np.zeros(900)}), path, **settings)
        with pytest.raises(
            DataError, match=r"x\.parquet: rows 0 to 1000 cannot be read or decoded"
        ):
            source.read(0)

    def test_lists_that_cannot_be_read_when_the_source_is_opened(self, tmp_path: Path) -> None:
        path = tmp_path / "x.parquet"
        write(path, "lists")
        content = bytearray(path.read_bytes())
        content[4:1000] = bytes(996)
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"x\.parquet: column 'e' cannot be read or decoded"):
            ParquetSource(path)

    def test_memory_that_runs_out_is_no_damage(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write(tmp_path / "x.parquet", "one row")
        source = ParquetSource(tmp_path / "x.parquet")

        def full(*arguments: Any, **settings: Any) -> Any:
            raise pa.ArrowMemoryError("malloc of size 64 failed")

        monkeypatch.setattr(pq.ParquetFile, "read_row_groups", full)
        with pytest.raises(MemoryError):
            source.read(0)


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("ftp://me:secret@127.0.0.1:1/x.parquet", "ftp://127.0.0.1:1/x.parquet"),
        ("ftp://me:sec@ret@127.0.0.1:1/x.parquet", "ftp://127.0.0.1:1/x.parquet"),
        ("http://secret@127.0.0.1:1/x.parquet?sig=secret", "http://127.0.0.1:1/x.parquet"),
        ("memory://me:secret@tables/x.parquet", "memory://tables/x.parquet"),
        ("simplecache::memory://secret@tables/*.parquet", "simplecache::memory://tables/*.parquet"),
    ],
)
def test_credentials_are_told_to_nobody(
    url: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retrying, "BACK_OFF_SECONDS", 0.0)
    with pytest.raises(DataError) as caught:
        ParquetSource(url)
    assert str(caught.value).startswith(name)
    error: BaseException | None = caught.value
    while error is not None:
        assert "ret" not in str(error)
        error = error.__cause__ or error.__context__
