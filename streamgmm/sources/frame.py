"""Data frames of pandas, polars and pyarrow: columns are features, null is NaN.

Other libraries that Narwhals knows work alike.
"""

from collections.abc import Sequence
from typing import Any

import narwhals as nw
import numpy as np
from narwhals.exceptions import DuplicateError
from numpy.typing import NDArray

from streamgmm.errors import DataError
from streamgmm.sources.array import ArraySource
from streamgmm.sources.columns import feature_names
from streamgmm.sources.objects import as_floats, index_of_other

# Names of columns that a message lists.
_MOST_SHOWN = 10


class FrameSource(ArraySource):
    """Rows of a data frame, or of some of its columns.

    Parameters
    ----------
    frame : pandas.DataFrame, polars.DataFrame, pyarrow.Table or pyarrow.RecordBatch
        Columns are booleans, integers, floats, decimals, or objects that are real numbers.
    columns : sequence of str, optional
        The columns that are features, in this order; all by default.
    name : str
        What messages call it.

    Raises
    ------
    DataError
        If a column is not there, or does not hold real numbers, or two have the same name.
    """

    def __init__(self, frame: Any, columns: Sequence[str] | None = None, name: str = "X") -> None:
        table = _narwhals_frame(frame, name)
        known = dict(zip(table.columns, table.iter_columns(), strict=True))
        chosen = list(known) if columns is None else list(columns)
        absent = [column for column in chosen if column not in known]
        if absent:
            raise DataError(
                f"{name} has no column {', '.join(map(repr, absent))}; it has {[*known]}"
            )
        _refuse_other_columns(known, chosen, name)
        is_all = chosen == list(known)
        super().__init__(_values(table, [known[column] for column in chosen], is_all), name)
        self.feature_names = feature_names(name, chosen)
        self._index = table.to_native().index if table.implementation.is_pandas() else None

    def labelled(self, values: NDArray[Any], dim: str | None, names: Sequence[int | str]) -> Any:
        """Return values of the rows, (N,) or (N, M), with the index of the rows if they have one.

        For a pandas.DataFrame that is a Series, or a DataFrame with the given names of columns.
        """
        if self._index is None:
            return values
        import pandas

        if values.ndim == 1:
            return pandas.Series(values, index=self._index)
        return pandas.DataFrame(values, index=self._index, columns=list(names))


def is_frame(data: Any) -> bool:
    """Return whether data are a data frame whose rows are in memory."""
    return bool(nw.dependencies.is_into_dataframe(_table_of_batch(data)))


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
    try:
        return nw.from_native(_table_of_batch(frame), eager_only=True)
    except DuplicateError as error:
        raise DataError(
            f"{name} has more than one column with the same name; rename the columns first. {error}"
        ) from error


def _table_of_batch(data: Any) -> Any:
    """Return a pyarrow.RecordBatch as a table, and other data as they are."""
    if type(data).__module__.partition(".")[0] != "pyarrow":
        return data
    import pyarrow

    is_batch = isinstance(data, pyarrow.RecordBatch)
    return pyarrow.Table.from_batches([data]) if is_batch else data


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
