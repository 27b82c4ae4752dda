"""Data sets of pyarrow and Lance: tables of many files, with their filters and partition keys."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset
from numpy.typing import NDArray

from streamgmm.errors import DataError
from streamgmm.options import Missing
from streamgmm.protocols import Chunk, Output
from streamgmm.sources.columns import feature_names, refuse_duplicates
from streamgmm.sources.described import Described
from streamgmm.sources.frame import as_arrow, chosen_columns
from streamgmm.sources.layout import (
    check_table,
    name_of_several,
    naming_place,
    naming_rows,
    rows_per_chunk,
)
from streamgmm.sources.named_weights import ColumnWeights, Convert

# Copies of a table: decoded, in the buffer of pyarrow's scanner, and stored.
_COPIES = 3


class DatasetSource(Described):
    """Rows of a data set, in groups of whole row groups of its Parquet files.

    Files of other kinds than Parquet and Lance are a chunk each. Files follow one another in the
    order of the data set. Its filter holds: rows that it excludes are no rows of the source. They
    are counted when the source is made, by a pass over the columns of the filter.

    Parameters
    ----------
    dataset : pyarrow.dataset.Dataset
        A data set of files, a union of such, one that ``deltalake`` makes, or a lance.LanceDataset.
        Keys of partitions are columns. A column that a file lacks is null there.
    columns : sequence of str, optional
        Columns of numbers that are the features; all by default.

    Raises
    ------
    DataError
        If a column is not there, or does not hold real numbers, or two have the same name; if the
        files cannot be read.

    Attributes
    ----------
    location : Path or None
        The file, if there is one alone and it is on disk.
    dtype : dtype
        Type of all columns together, as NumPy combines them. Integers and booleans are float64
        unless the schema says that none is null; null is NaN.
    """

    chosen_by = "columns"
    has_weights = False
    missing: Missing = "error"

    def __init__(
        self, dataset: pyarrow.dataset.Dataset, columns: Sequence[str] | None = None
    ) -> None:
        self.name = _name(dataset)
        self._schema = dataset.schema
        refuse_duplicates(self.name, self._schema.names)
        self._columns = chosen_columns(self._schema.empty_table(), columns, "X").names
        self.feature_names: Sequence[str] | None = feature_names(self.name, self._columns)
        self.n_features = len(self._columns)
        fields = [self._schema.field(name) for name in self._columns]
        # A type is needed even without columns; then the shape is refused.
        self.dtype: np.dtype[Any] = np.result_type(np.bool_, *map(_dtype, fields))
        with naming_place(self.name, "its files"):
            self._parts = _parts(dataset, self._columns, rows_per_chunk(max(self.n_features, 1)))
        self.boundaries: Sequence[int] = [0, *np.cumsum([p.n_rows for p in self._parts]).tolist()]
        self.n_rows: int = self.boundaries[-1]
        check_table(self.name, (self.n_rows, self.n_features), self.dtype)
        self.location = _location(dataset)

    @property
    def read_bytes(self) -> int:
        """Bytes of a chunk: assembled, and decoded with the rows that the filter excludes."""
        row_bytes = self.n_features * self.dtype.itemsize
        decoded_bytes = sum(_width(self._schema.field(name)) for name in self._columns)
        return max(
            part.n_rows * row_bytes + _COPIES * part.n_stored_rows * decoded_bytes
            for part in self._parts
        )

    def names(self) -> list[str]:
        """Return the names of all columns."""
        return list(self._schema.names)

    def chosen(self) -> list[str]:
        """Return the names of the columns that are features."""
        return self._columns

    def weights_named(self, name: str, convert: Convert) -> ColumnWeights:
        """Return a column, converted, as weights of the rows.

        Raises
        ------
        DataError
            If it does not hold real numbers.
        """
        column = copy(self)
        column._columns = chosen_columns(self._schema.empty_table(), [name], "X").names
        column.feature_names, column.n_features = [name], 1
        column.dtype = _dtype(self._schema.field(name))
        return ColumnWeights(column, convert)

    def read(self, i: int) -> Chunk:
        """Return chunk i."""
        start, stop = self.boundaries[i], self.boundaries[i + 1]
        with naming_rows(self.name, start, stop):
            table = self._parts[i].table(self._columns)
            rows = chosen_columns(table, self._columns, self.name).values()
        if len(rows) != stop - start:
            raise DataError(
                f"{self.name}: there are {len(rows)} rows where rows {start} to {stop} were; it "
                "was changed after it was opened; open it again"
            )
        return Chunk(rows.astype(self.dtype, copy=False), range(start, stop))

    def labelled(self, values: NDArray[Any], output: Output) -> Any:
        """Return values of the rows, (N,) or (N, M), as a pyarrow.ChunkedArray or a Table."""
        return as_arrow(values, output.names)


def of_delta_table(table: Any) -> Any:
    """Return the data set of pyarrow that holds the current rows of a ``deltalake.DeltaTable``.

    Raises
    ------
    DataError
        If it is no such table, or pyarrow cannot read it.
    """
    name = f"X, of type {type(table).__qualname__} of deltalake,"
    if not hasattr(table, "to_pyarrow_dataset"):
        raise DataError(f"{name} cannot be read; give a deltalake.DeltaTable")
    try:
        return table.to_pyarrow_dataset()
    except Exception as error:
        raise DataError(
            f"{name} cannot be read as a data set of pyarrow ({error}); write its current rows: "
            "pyarrow.dataset.write_dataset(X.scan(), base_dir='current', format='parquet')"
        ) from error


def rows_in_memory(dataset: pyarrow.dataset.Dataset) -> Any:
    """Return the rows of a data set that holds them in memory as a table; None for others."""
    is_in_memory = isinstance(dataset, pyarrow.dataset.InMemoryDataset)
    return dataset.to_table() if is_in_memory else None


@dataclass(frozen=True, eq=False)
class _Part:
    """Rows of a data set that are read at once.

    Attributes
    ----------
    fragment : pyarrow.dataset.Fragment
        A file, or some row groups of one.
    options : dict of str to object
        Options of the scanner that reads the rows.
    n_rows : int
        Rows that the filter of the data set keeps.
    n_stored_rows : int
        Rows that are decoded.
    """

    fragment: Any
    options: dict[str, Any]
    n_rows: int
    n_stored_rows: int

    def table(self, columns: list[str]) -> Any:
        """Return some columns of the rows."""
        return self.fragment.scanner(columns=columns, **self.options).to_table()


def _parts(dataset: Any, columns: list[str], most_rows: int) -> list[_Part]:
    """Return the parts of a data set, in its order; parts without rows are skipped."""
    kind = type(dataset).__module__.partition(".")[0]
    if kind == "lance":
        return list(_lance_parts(dataset, most_rows))
    # The public method gives no fragments of a data set with a filter.
    chosen = (dataset._scan_options or {}).get("filter")
    options = {"schema": dataset.schema, "filter": chosen, "use_threads": False}

    def parts_of(fragment: Any) -> list[_Part]:
        _refuse_keys_in_files(fragment, columns)
        if isinstance(fragment, pyarrow.dataset.ParquetFileFragment):
            return list(_parquet_parts(fragment, options, most_rows))
        n_rows = fragment.scanner(columns=[], **options).count_rows()
        n_stored = n_rows if chosen is None else fragment.count_rows()
        return [_Part(fragment, options, n_rows, n_stored)] if n_rows else []

    with ThreadPoolExecutor() as threads:
        found = threads.map(parts_of, dataset._get_fragments(chosen))
        return [part for parts in found for part in parts]


def _parquet_parts(fragment: Any, options: dict[str, Any], most_rows: int) -> Iterator[_Part]:
    """Yield neighbouring row groups of a Parquet file, joined up to the size of a chunk."""
    joined: list[int] = []
    n_joined = n_stored = 0
    for group in fragment.row_groups:
        n_rows = group.num_rows
        if options["filter"] is not None:
            alone = fragment.subset(row_group_ids=[group.id])
            n_rows = alone.scanner(columns=[], **options).count_rows()
        if n_rows == 0:
            continue
        if joined and n_joined + n_rows > most_rows:
            yield _Part(fragment.subset(row_group_ids=joined), options, n_joined, n_stored)
            joined, n_joined, n_stored = [], 0, 0
        joined.append(group.id)
        n_joined += n_rows
        n_stored += group.num_rows
    if joined:
        yield _Part(fragment.subset(row_group_ids=joined), options, n_joined, n_stored)


def _refuse_keys_in_files(fragment: Any, columns: Sequence[str]) -> None:
    """Refuse features that are partition keys and columns of a file, too.

    pyarrow gives the key for each value of such a column.

    Raises
    ------
    DataError
    """
    keys = pyarrow.dataset.get_partition_keys(fragment.partition_expression)
    taken = sorted({*keys} & {*columns} & {*fragment.physical_schema.names})
    if taken:
        raise DataError(
            f"{fragment.path} has a column {taken[0]!r}, which is also a partition key, and its "
            "values may differ; exclude it by columns=, or open the data set without this key"
        )


def _lance_parts(dataset: Any, most_rows: int) -> Iterator[_Part]:
    """Yield the rows of a data set of Lance in parts of the size of a chunk.

    Raises
    ------
    DataError
        If the data set has options that choose rows.
    """
    if dataset._default_scan_options:
        raise DataError(
            "X is a lance.LanceDataset with default_scan_options, which are not taken; open it "
            "without them, or give X.to_table()"
        )
    for fragment in dataset.get_fragments():
        n_rows = fragment.count_rows()
        for start in range(0, n_rows, most_rows):
            n = min(most_rows, n_rows - start)
            yield _Part(fragment, {"offset": start, "limit": n}, n, n)


def _dtype(field: Any) -> np.dtype[Any]:
    """Return the NumPy type of the numbers in a column, nulls included."""
    types = pa.types
    is_float = types.is_floating(field.type)
    may_be_null = field.nullable or not (
        types.is_integer(field.type) or types.is_boolean(field.type)
    )
    if may_be_null and not is_float:
        return np.dtype(np.float64)
    dtype: np.dtype[Any] = np.dtype(field.type.to_pandas_dtype())
    return dtype


def _width(field: Any) -> int:
    """Return the bytes of a value of a column, as decoded; a validity bit counts as one."""
    return 1 + (0 if pa.types.is_null(field.type) else -(-field.type.bit_width // 8))


def _files(dataset: Any) -> list[str]:
    children = getattr(dataset, "children", None)
    if children is not None:
        return [file for child in children for file in _files(child)]
    return [*getattr(dataset, "files", ())]


def _name(dataset: Any) -> str:
    """Return what messages call a data set."""
    files = _files(dataset)
    if not files:
        return str(getattr(dataset, "uri", "X"))
    return f"data set of {name_of_several(files)}"


def _location(dataset: Any) -> Path | None:
    files = _files(dataset)
    is_one = len(files) == 1 and Path(files[0]).is_file()
    return Path(files[0]) if is_one else None
