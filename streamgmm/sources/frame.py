"""Data frames of pandas, polars and pyarrow: columns are features, null is NaN.

Other libraries that Narwhals knows work alike, and so do tables in memory that give their rows by
the Arrow PyCapsule interface.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import narwhals as nw
import numpy as np
from narwhals.exceptions import DuplicateError
from numpy.typing import NDArray

from streamgmm.errors import DataError, DataTypeError
from streamgmm.packages import needed_by
from streamgmm.protocols import Output
from streamgmm.sources.array import ArraySource
from streamgmm.sources.arraylike import is_lazy_table
from streamgmm.sources.columns import feature_names
from streamgmm.sources.layout import naming_place
from streamgmm.sources.named_weights import Convert
from streamgmm.sources.objects import as_floats, index_of_other

# Names of columns that a message lists.
_MOST_SHOWN = 10


class FrameSource(ArraySource):
    """Rows of a data frame, or of some of its columns.

    Parameters
    ----------
    frame : pandas.DataFrame, polars.DataFrame, pyarrow.Table or pyarrow.RecordBatch
        Or any other table with the method ``__arrow_c_stream__``, of which a table of pyarrow is
        made. Columns are booleans, integers, floats, decimals, or objects that are real numbers.
    columns : sequence of str, optional
        The columns that are features, in this order; all by default.
    name : str
        What messages call it.

    Raises
    ------
    DataError
        If a column is not there, or does not hold real numbers, or two have the same name.
    """

    chosen_by = "columns"

    def __init__(self, frame: Any, columns: Sequence[str] | None = None, name: str = "X") -> None:
        columns_of_frame = chosen_columns(frame, columns, name)
        super().__init__(columns_of_frame.values(), name)
        self.feature_names = feature_names(name, columns_of_frame.names)
        self._kind = columns_of_frame.kind
        self._index = columns_of_frame.index
        self._columns: ChosenColumns | None = columns_of_frame

    def __copy__(self) -> "FrameSource":
        # In this process all data remain available; pickling drops them.
        found = type(self).__new__(type(self))
        found.__dict__.update(self.__dict__)
        return found

    def __getstate__(self) -> dict[str, Any]:
        # Another process gets the features alone.
        return {**self.__dict__, "_columns": None}

    def names(self) -> list[Any]:
        """Return the names of all columns of the data frame."""
        return [] if self._columns is None else self._columns.all_names

    def chosen(self) -> list[Any]:
        """Return the names of the columns that are features."""
        return [] if self._columns is None else self._columns.names

    def weights_named(self, name: str, convert: Convert) -> NDArray[Any]:
        """Return a column of the data frame, converted, as weights of the rows."""
        assert self._columns is not None
        return convert(self._columns.column(name, self.name))

    def labelled(self, values: NDArray[Any], output: Output) -> Any:
        """Return values of the rows, (N,) or (N, M), in the library of the data frame.

        They are a Series, or a DataFrame with the given names of columns; for pyarrow a
        ChunkedArray or a Table. Those of pandas have the index of the rows.
        """
        return as_frame(self._kind, values, output.names, self._index)


@dataclass(frozen=True, eq=False)
class ChosenColumns:
    """Columns of a data frame that hold real numbers.

    Attributes
    ----------
    names : list
    """

    names: list[Any]
    _table: "nw.DataFrame[Any]"

    @property
    def kind(self) -> Any:
        """The library of the data frame, as Narwhals knows it."""
        return self._table.implementation

    @property
    def index(self) -> Any:
        """Index of the rows of a pandas.DataFrame; None for other data frames."""
        return self._table.to_native().index if self.kind.is_pandas() else None

    @property
    def all_names(self) -> list[Any]:
        """Names of all columns of the data frame."""
        return list(self._table.columns)

    def column(self, name: str, frame: str) -> NDArray[Any]:
        """Return the values of one column of the data frame, (N,).

        Raises
        ------
        DataError
            If it does not hold real numbers.
        """
        return series_values(self._table[name].to_native(), f"column {name!r} of {frame}")

    def values(self) -> NDArray[Any]:
        """Return the values, (N, D), in their common NumPy type; null is NaN."""
        known = dict(zip(self._table.columns, self._table.iter_columns(), strict=True))
        is_all = self.names == list(known)
        return _values(self._table, [known[name] for name in self.names], is_all)


def chosen_columns(frame: Any, columns: Sequence[str] | None, name: str) -> ChosenColumns:
    """Return columns of a data frame, in the order in which they are named; all by default.

    Raises
    ------
    DataError
        If a column is not there, or does not hold real numbers, or two have the same name.
    """
    table = _narwhals_frame(frame, name)
    known = dict(zip(table.columns, table.iter_columns(), strict=True))
    chosen = list(known) if columns is None else list(columns)
    absent = [column for column in chosen if column not in known]
    if absent:
        raise DataError(f"{name} has no column {', '.join(map(repr, absent))}; it has {[*known]}")
    _refuse_other_columns(known, chosen, name)
    return ChosenColumns(chosen, table)


def as_frame(kind: Any, values: NDArray[Any], names: Sequence[int | str], index: Any = None) -> Any:
    """Return values of rows, (N,) or (N, M), as a Series or a DataFrame of a library.

    Parameters
    ----------
    kind : narwhals.Implementation
    values : ndarray
    names : sequence
        Names of M columns. Only pandas has names that are numbers; others get their text.
    index : pandas.Index, optional
        Index of the rows, for pandas.
    """
    if kind.is_pandas():
        import pandas

        if values.ndim == 1:
            return pandas.Series(values, index=index)
        return pandas.DataFrame(values, index=index, columns=list(names))
    if values.ndim == 1:
        return nw.new_series("", values, backend=kind).to_native()
    columns = {str(name): column for name, column in zip(names, values.T, strict=True)}
    return nw.from_dict(columns, backend=kind).to_native()


def as_arrow(values: NDArray[Any], names: Sequence[int | str]) -> Any:
    """Return values of rows, (N,) or (N, M), as a ChunkedArray or a Table of pyarrow."""
    return as_frame(nw.Implementation.PYARROW, values, names)


def is_frame(data: Any) -> bool:
    """Return whether data are a data frame whose rows are in memory, or give all at once."""
    return _is_table(data) or (is_arrow_stream(data) and not is_lazy_table(data))


def is_arrow_stream(data: Any) -> bool:
    """Return whether data are no data frame, but give rows by the Arrow PyCapsule interface."""
    has_stream = hasattr(type(data), "__arrow_c_stream__")
    return has_stream and not is_series(data) and not _is_table(data)


def _is_table(data: Any) -> bool:
    """Return whether data are a known kind of table whose rows are in memory."""
    return bool(nw.dependencies.is_into_dataframe(data)) or _is_convertible(data)


def is_series(data: Any) -> bool:
    """Return whether data are one column of a data frame."""
    return bool(nw.dependencies.is_into_series(data))


def series_values(series: Any, name: str) -> NDArray[Any]:
    """Convert one column to a NumPy array, without a copy where possible.

    Parameters
    ----------
    series : pandas.Series, polars.Series or pyarrow.ChunkedArray
        It holds booleans, integers, floats, decimals, or objects that are real numbers.
    name : str
        What messages call it.

    Returns
    -------
    ndarray of shape (n_rows,)
        Null is NaN; integers, booleans and decimals are float64 if one of them is null.

    Raises
    ------
    DataError
        If it does not hold real numbers.
    """
    column = nw.from_native(series, series_only=True)
    other = _other_type(column)
    if other is not None:
        raise DataError(f"{name} has type {other}; give real numbers")
    return _column_values(column)


def _narwhals_frame(frame: Any, name: str) -> "nw.DataFrame[Any]":
    """Return a data frame with an interface that does not depend on its library.

    Raises
    ------
    DataError
        If two columns have the same name.
    """
    table = frame if nw.dependencies.is_into_dataframe(frame) else _arrow_table(frame, name)
    try:
        return nw.from_native(table, eager_only=True)
    except DuplicateError as error:
        raise DataError(
            f"{name} has more than one column with the same name; rename the columns first. {error}"
        ) from error


def arrow_reader(stream: Any, name: str) -> Any:
    """Return pyarrow's reader of a table that gives its rows by the Arrow PyCapsule interface.

    Parameters
    ----------
    stream : object with the method ``__arrow_c_stream__``
    name : str
        What messages call it.

    Raises
    ------
    DataTypeError
        If the stream does not consist of columns.
    MissingPackageError
        If pyarrow is not installed.
    """
    with needed_by(f"{name} is of type {type(stream).__name__}, and its Arrow stream"):
        import pyarrow
    try:
        return pyarrow.RecordBatchReader.from_stream(stream)
    except Exception as error:
        raise DataTypeError(
            f"{name} is of type {type(stream).__name__}, and its Arrow stream cannot be read as a "
            f"table ({type(error).__name__}: {error}); give a table of pyarrow"
        ) from error


def _is_convertible(data: Any) -> bool:
    """Return whether data are no stream, but rows in memory of which pyarrow makes a table."""
    package = type(data).__module__.partition(".")[0]
    if package == "pyarrow":
        import pyarrow

        return isinstance(data, pyarrow.RecordBatch)
    return package == "datasets" and (_is_data_set(data) or hasattr(data, "table"))


def _is_data_set(data: Any) -> bool:
    """Return whether data are a data set of Hugging Face that knows how many rows it has."""
    is_sized = hasattr(data, "__len__") and not isinstance(data, Mapping)
    return is_sized and hasattr(data, "with_format")


def _arrow_table(data: Any, name: str) -> Any:
    """Return a table of pyarrow with all rows of data that are no data frame.

    Raises
    ------
    DataError
        If their stream cannot be read.
    """
    if not _is_convertible(data):
        reader = arrow_reader(data, name)
        with naming_place(name, "its Arrow stream"):
            return reader.read_all()
    if _is_data_set(data):
        # The table may have an index that selects and orders its rows.
        return data.with_format("arrow")[:]
    if hasattr(data, "table"):
        return data.table
    import pyarrow

    return pyarrow.Table.from_batches([data])


def _refuse_other_columns(
    known: "dict[Any, nw.Series[Any]]", chosen: Sequence[Any], name: str
) -> None:
    """Refuse columns that do not hold real numbers.

    Raises
    ------
    DataError
    """
    types = {column: _other_type(known[column]) for column in chosen}
    others = [f"{column!r} ({kind})" for column, kind in types.items() if kind is not None]
    if not others:
        return
    numbers = [column for column, kind in types.items() if kind is None]
    way_out = "convert them to numbers first"
    if numbers and all(isinstance(column, str) for column in numbers):
        listed = ", ".join(map(repr, numbers)) if len(numbers) <= _MOST_SHOWN else "..."
        way_out += f", or exclude them: streamgmm.open({name}, columns=[{listed}])"
    raise DataError(
        f"{name} has columns that do not hold real numbers: {', '.join(others[:_MOST_SHOWN])}"
        f"{', ...' if len(others) > _MOST_SHOWN else ''}; {way_out}"
    )


def _other_type(column: "nw.Series[Any]") -> str | None:
    """Return the type of a column in words if it does not hold real numbers, else None."""
    dtype, native = column.dtype, column.to_native()
    if dtype.is_numeric() or dtype == nw.Boolean:
        return None
    kind = str(native.type if hasattr(native, "type") else native.dtype)
    if _holds_objects(column):
        objects = column.to_numpy()
        index = index_of_other(objects)
        if index is None:
            return None
        return f"{kind}, {type(objects[index]).__qualname__} in row {index[0]}"
    if dtype == nw.Unknown and (_is_null(column) or column.to_numpy().dtype.kind in "buif"):
        return None
    return kind


def _column_values(column: "nw.Series[Any]") -> NDArray[Any]:
    """Return the values of a column of real numbers as a NumPy array; null is NaN."""
    if _holds_objects(column):
        return as_floats(column.to_numpy())
    has_null = column.null_count() > 0
    is_float_by_cast = column.dtype in (nw.Decimal, nw.Int128, nw.UInt128)
    if is_float_by_cast or (has_null and not column.dtype.is_float()):
        column = column.cast(nw.Float64)
    values: NDArray[Any] = column.to_numpy()
    return values


def _holds_objects(column: "nw.Series[Any]") -> bool:
    # Narwhals takes pandas columns of objects for text if these are strings or all missing.
    return column.dtype == nw.Object or getattr(column.to_native(), "dtype", None) == np.dtype("O")


def _is_null(column: "nw.Series[Any]") -> bool:
    return column.null_count() == len(column)


def _values(
    table: "nw.DataFrame[Any]", columns: "list[nw.Series[Any]]", is_all: bool
) -> NDArray[Any]:
    """Return the values of columns, (N, D), in their common NumPy type."""
    if is_all and table.implementation.is_pandas():
        native = table.to_native()
        types = set(native.dtypes)
        # Columns of one NumPy type may lie in one block, which need not be copied.
        if len(types) == 1 and all(isinstance(t, np.dtype) and t.kind != "O" for t in types):
            block: NDArray[Any] = native.to_numpy()
            return block
    arrays = [_column_values(column) for column in columns]
    if len(arrays) == 1:
        return arrays[0].reshape(-1, 1)
    dtype = np.result_type(*arrays) if arrays else np.dtype(np.float64)
    values = np.empty((len(table), len(arrays)), dtype, order="F")
    for j, array in enumerate(arrays):
        values[:, j] = array
    return values
