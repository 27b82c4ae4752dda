"""Data frames of several libraries keep the promises of a source."""

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import narwhals
import numpy as np
import pandas
import polars
import pyarrow
import pytest
from numpy.typing import NDArray

from streamgmm import open as open_data
from streamgmm.errors import DataError, DataTypeError
from streamgmm.testing.sources import SourceCase, SourceConformance, table

N = 1000
NAMES = ["a", "b", "c"]

Frame = Callable[[dict[str, NDArray[Any]]], Any]


def nullable(columns: dict[str, NDArray[Any]]) -> pandas.DataFrame:
    return pandas.DataFrame({name: pandas.array(values) for name, values in columns.items()})


def arrow_backed(columns: dict[str, NDArray[Any]]) -> pandas.DataFrame:
    return pyarrow.table(columns).to_pandas(types_mapper=pandas.ArrowDtype)


def chunked(columns: dict[str, NDArray[Any]]) -> pyarrow.Table:
    whole = pyarrow.table(columns)
    return pyarrow.concat_tables([whole.slice(0, 300), whole.slice(300)])


FRAMES: dict[str, Frame] = {
    "pandas": pandas.DataFrame,
    "pandas nullable": nullable,
    "pandas with Arrow": arrow_backed,
    "polars": polars.DataFrame,
    "polars in chunks": lambda columns: polars.concat(
        [polars.DataFrame(columns)[:300], polars.DataFrame(columns)[300:]], rechunk=False
    ),
    "pyarrow": pyarrow.table,
    "pyarrow in chunks": chunked,
    "record batch": pyarrow.record_batch,
    "narwhals": lambda columns: narwhals.from_native(polars.DataFrame(columns)),
}


class TestFrames(SourceConformance):
    @pytest.fixture(
        params=[(kind, dtype) for kind in FRAMES for dtype in ("f8", "f4", "i4", "u1", "?")],
        ids=" ".join,
    )
    def case(self, request: pytest.FixtureRequest, tmp_path: Path) -> SourceCase:
        kind, dtype = request.param
        rows = table(N, 3, dtype)
        frame = FRAMES[kind](dict(zip(NAMES, rows.T, strict=True)))
        return SourceCase(open_data(frame), rows)


@pytest.mark.parametrize("kind", FRAMES)
@pytest.mark.parametrize(
    ("dtypes", "common"),
    [
        (("f4", "f4", "f4"), "f4"),
        (("i8", "f8", "?"), "f8"),
        (("?", "i2", "?"), "i2"),
        (("f4", "i8", "f4"), "f8"),
        (("u1", "i1", "?"), "i2"),
    ],
)
def test_columns_of_several_types_have_their_common_type(
    kind: str, dtypes: tuple[str, ...], common: str
) -> None:
    columns = {
        name: table(N, 1, dtype, seed)[:, 0]
        for seed, (name, dtype) in enumerate(zip(NAMES, dtypes, strict=True))
    }
    source = open_data(FRAMES[kind](columns))
    assert source.dtype == np.dtype(common)
    assert source.feature_names == NAMES
    expected = np.column_stack([column.astype(common) for column in columns.values()])
    np.testing.assert_array_equal(source.read(0).rows, expected)


NULLS: dict[str, Any] = {
    "pandas nullable": pandas.DataFrame(
        {
            "int": pandas.array([1, None, 3], "Int64"),
            "bool": pandas.array([True, None, False], "boolean"),
            "float": pandas.array([0.5, None, 1.5], "Float64"),
        }
    ),
    "pandas objects": pandas.DataFrame(
        {
            "int": [1, None, 3],
            "bool": [True, pandas.NA, False],
            "float": [Decimal("0.5"), None, 1.5],
        },
        dtype=object,
    ),
    "polars": polars.DataFrame(
        {"int": [1, None, 3], "bool": [True, None, False], "float": [0.5, None, 1.5]}
    ),
    "decimals of polars": polars.DataFrame(
        {
            "int": polars.Series([1, None, 3], dtype=polars.Int128),
            "bool": [True, None, False],
            "float": [Decimal("0.5"), None, Decimal("1.5")],
        }
    ),
    "pyarrow": pyarrow.table(
        {"int": [1, None, 3], "bool": [True, None, False], "float": [0.5, None, 1.5]}
    ),
    "decimals of pyarrow": pyarrow.table(
        {
            "int": pyarrow.array([1, None, 3], pyarrow.uint8()),
            "bool": [True, None, False],
            "float": [Decimal("0.5"), None, Decimal("1.5")],
        }
    ),
}
NULLS["pandas with Arrow"] = NULLS["decimals of pyarrow"].to_pandas(types_mapper=pandas.ArrowDtype)
NULLS["record batch"] = NULLS["pyarrow"].to_batches()[0]


@pytest.mark.parametrize("kind", NULLS)
def test_null_is_nan(kind: str) -> None:
    source = open_data(NULLS[kind])
    assert source.dtype == np.float64
    expected = [[1.0, 1.0, 0.5], [np.nan] * 3, [3.0, 0.0, 1.5]]
    np.testing.assert_array_equal(source.read(0).rows, expected)


@pytest.mark.parametrize(
    "column",
    [
        pandas.Series([0.5, None], dtype="Float32").to_frame("a"),
        polars.DataFrame({"a": [0.5, None]}, schema={"a": polars.Float32}),
        pyarrow.table({"a": pyarrow.array([0.5, None], pyarrow.float32())}),
    ],
    ids=["pandas", "polars", "pyarrow"],
)
def test_single_precision_with_null_stays_single(column: Any) -> None:
    source = open_data(column)
    assert source.dtype == np.float32
    np.testing.assert_array_equal(source.read(0).rows, [[0.5], [np.nan]])


@pytest.mark.parametrize(
    "frame",
    [
        pandas.DataFrame({"a": [1.0, 2.0], "b": [None, None]}, dtype=object),
        pandas.DataFrame({"a": [1.0, 2.0], "b": [None, None]}),
        polars.DataFrame({"a": [1.0, 2.0], "b": [None, None]}),
        pyarrow.table({"a": [1.0, 2.0], "b": [None, None]}),
    ],
    ids=["pandas objects", "pandas", "polars", "pyarrow"],
)
def test_a_column_that_is_all_null_is_missing_values(frame: Any) -> None:
    np.testing.assert_array_equal(open_data(frame).read(0).rows, [[1.0, np.nan], [2.0, np.nan]])


def test_sparse_columns_of_pandas_are_dense_rows() -> None:
    frame = pandas.DataFrame({"a": pandas.arrays.SparseArray([0.0, 2.0]), "b": [3, 4]})
    np.testing.assert_array_equal(open_data(frame).read(0).rows, [[0.0, 3.0], [2.0, 4.0]])


def test_a_frame_of_one_type_is_not_copied() -> None:
    rows = table(N, 3)
    frame = pandas.DataFrame(rows, columns=NAMES, copy=False)
    assert np.shares_memory(open_data(frame).read(0).rows, rows)
    column = polars.DataFrame({"a": rows[:, 0]})
    assert np.shares_memory(open_data(column).read(0).rows, column["a"].to_numpy())


@pytest.mark.parametrize("dtype", ["Int64", "UInt64"])
def test_large_integers_are_those_of_an_array(dtype: str) -> None:
    values = np.array([2**53 + 1, 2**62 + 3], dtype.lower())
    source = open_data(pandas.DataFrame({"a": pandas.array(values, dtype)}))
    assert source.dtype == values.dtype
    np.testing.assert_array_equal(source.read(0).rows[:, 0], values)


OTHERS = {
    "text": ["x", "y"],
    "text among numbers": [1.0, "y"],
    "time": pandas.to_datetime(["2020", "2021"]),
    "duration": pandas.to_timedelta([1, 2]),
    "category": pandas.Categorical([1, 2]),
    "complex": np.array([1j, 2j]),
    "period": pandas.period_range("2020", periods=2),
    "list": [[1.0], [2.0]],
    "bytes": [b"x", b"y"],
}
OTHER_FRAMES = {
    **{
        f"pandas {kind}": pandas.DataFrame({"good": [1.0, 2.0], "bad one": pandas.Series(values)})
        for kind, values in OTHERS.items()
    },
    **{
        f"polars {kind}": polars.DataFrame({"good": [1.0, 2.0], "bad one": values})
        for kind, values in {
            "text": ["x", "y"],
            "time": polars.Series([0, 1], dtype=polars.Datetime),
            "date": polars.Series([0, 1], dtype=polars.Date),
            "category": polars.Series(["x", "y"], dtype=polars.Categorical),
            "list": [[1.0], [2.0]],
            "array": polars.Series([[1.0], [2.0]], dtype=polars.Array(polars.Float64, 1)),
            "struct": [{"x": 1}, {"x": 2}],
            "binary": [b"x", b"y"],
            "object": polars.Series([{1}, {2}], dtype=polars.Object),
        }.items()
    },
    **{
        f"pyarrow {kind}": pyarrow.table({"good": [1.0, 2.0], "bad one": values})
        for kind, values in {
            "text": pyarrow.array(["x", "y"]),
            "time": pyarrow.array([0, 1], pyarrow.timestamp("s")),
            "category": pyarrow.array([1, 2]).dictionary_encode(),
            "list": pyarrow.array([[1.0], [2.0]]),
            "struct": pyarrow.array([{"x": 1}, {"x": 2}]),
        }.items()
    },
}


@pytest.mark.parametrize("kind", OTHER_FRAMES)
def test_columns_that_hold_no_numbers_are_named(kind: str) -> None:
    frame = OTHER_FRAMES[kind]
    with pytest.raises(DataError, match=r"'bad one' \(.+\).*columns=\['good'\]") as raised:
        open_data(frame)
    assert "'good' (" not in str(raised.value)
    source = open_data(frame, columns=["good"])
    np.testing.assert_array_equal(source.read(0).rows, [[1.0], [2.0]])


@pytest.mark.parametrize(
    "frame",
    [
        pandas.DataFrame(np.ones((3, 3)), columns=["a", "b", "a"]),
        pandas.DataFrame(np.ones((3, 3)), columns=[7, "b", 7]),
        pyarrow.Table.from_arrays([pyarrow.array([1.0])] * 2, names=["a", "a"]),
        pyarrow.RecordBatch.from_arrays([pyarrow.array([1.0])] * 2, names=["a", "a"]),
    ],
    ids=["pandas", "numbers", "pyarrow", "record batch"],
)
def test_two_columns_with_the_same_name_are_refused(frame: Any) -> None:
    with pytest.raises(DataError, match=r"same name(.|\n)*(a|7)"):
        open_data(frame)


@pytest.mark.parametrize("kind", FRAMES)
def test_columns_are_chosen_by_name(kind: str) -> None:
    rows = table(N, 3)
    frame = FRAMES[kind](dict(zip(NAMES, rows.T, strict=True)))
    source = open_data(frame, columns=["c", "a"])
    assert source.feature_names == ["c", "a"]
    np.testing.assert_array_equal(source.read(0).rows, rows[:, [2, 0]])
    with pytest.raises(DataError, match=r"X has no column 'x'; it has \['a', 'b', 'c'\]"):
        open_data(frame, columns=["a", "x"])
    with pytest.raises(DataError, match="columns has more than one column with the name 'a'"):
        open_data(frame, columns=["a", "a"])


def test_only_strings_are_names_of_features() -> None:
    rows = np.ones((2, 2))
    levels = pandas.MultiIndex.from_tuples([("a", "x"), ("a", "y")])
    for columns in (None, [3, 5], levels):
        assert open_data(pandas.DataFrame(rows, columns=columns)).feature_names is None
    mixed = pandas.DataFrame(rows, columns=["a", 1])
    with pytest.raises(DataTypeError, match=r"Feature names are only supported if .*astype\(str\)"):
        open_data(mixed)
    mixed.columns = mixed.columns.astype(str)
    assert open_data(mixed).feature_names == ["a", "1"]


def test_columns_may_have_the_names_of_methods() -> None:
    frame = pandas.DataFrame({"boundaries": [1.0, 2.0], "read": [3.0, 4.0], "columns": [5.0, 6.0]})
    frame.attrs["units"] = "m"
    source = open_data(frame)
    assert source.feature_names == ["boundaries", "read", "columns"]
    np.testing.assert_array_equal(source.read(0).rows, [[1.0, 3.0, 5.0], [2.0, 4.0, 6.0]])


def test_tables_without_rows_or_columns_are_refused() -> None:
    for frame in (pandas.DataFrame({"a": []}, dtype=float), polars.DataFrame({"a": []})):
        with pytest.raises(DataError, match=r"0 sample\(s\)"):
            open_data(frame)
    with pytest.raises(DataError, match=r"0 feature\(s\)"):
        open_data(pandas.DataFrame(index=range(3)))
