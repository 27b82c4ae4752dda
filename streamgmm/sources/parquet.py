"""Tables in Parquet files, on disk or at a URL."""

import math
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs
import pyarrow.parquet as pq
from fsspec.core import has_magic
from fsspec.implementations.local import LocalFileSystem
from numpy.typing import NDArray

from streamgmm.errors import DataError
from streamgmm.options import Missing
from streamgmm.packages import needed_by
from streamgmm.protocols import Chunk
from streamgmm.sources.described import Described
from streamgmm.sources.layout import check_table, name_of_several, rows_per_chunk
from streamgmm.sources.named_weights import ColumnWeights, Convert
from streamgmm.sources.table_formats import LOGS, folders_above, refuse_table_with_log
from streamgmm.urls import (
    PARQUET_SUFFIXES,
    FetchError,
    is_url,
    without_credentials,
)

if TYPE_CHECKING:
    from streamgmm.sources.remote.filesystem import RetryingFileSystem

# To look for the first list of a column without reading a whole row group.
_BUFFER_BYTES = 1 << 16
# Gaps between columns up to this size are fetched with them, which saves requests.
_READ_AHEAD_BYTES = 1 << 18
# Bytes that are decoded before they are copied, while they are in the processor's cache.
_BLOCK_BYTES = 1 << 19
# Bytes beside each value for its nesting: two numbers of two bytes.
_NESTING_BYTES = 4


class ParquetSource(Described):
    """Rows of numbers in Parquet files, in groups of whole row groups.

    Files follow one another in the order of their paths. The source is pickled with what their
    footers say; they are opened where they are read.

    Parameters
    ----------
    path : str, Path or sequence of these
        A file, a folder, a glob pattern, or a URL of one of these; of several, one after the other.
        Of a folder all ``.parquet``, ``.parq`` and ``.pq`` files in it and below are read. What has
        a name that begins with ``_`` or ``.`` is skipped, and links to folders are not followed.
    columns : sequence of str, optional
        Columns of numbers, or of lists of numbers, whose elements are features. By default all
        columns of all files but the index of a DataFrame.
    storage_options : mapping, optional
        What a URL needs, credentials for instance; fsspec's options for its protocol.
    is_any_suffix : bool
        Whether files of a folder are Parquet whatever their suffix.

    Raises
    ------
    DataError
        If there are no such files or one cannot be read, if a file lacks a column that others
        have or that was asked for, or if a column holds no numbers; if columns are not chosen, and
        integers, which may be an identifier, stand beside lists, or lists have different lengths
        in different columns; on reading also if lists have
        different lengths.

    Attributes
    ----------
    feature_names : list of str
        Names of columns; of lists ``column[0]``, ``column[1]`` and so on.
    location : Path or None
        The file or folder; None if it is a pattern or not on disk.
    dtype : dtype
        Of all columns together, as NumPy combines them. Integers and booleans are float64 unless
        statistics say that none is null; null is NaN.
    read_bytes : int
        Bytes of a chunk: assembled, decoded and as stored.
    """

    chosen_by = "columns"
    has_weights = False
    missing: Missing = "error"

    def __init__(
        self,
        path: str | Path | Sequence[str | Path],
        columns: Sequence[str] | None = None,
        storage_options: Mapping[str, Any] | None = None,
        is_any_suffix: bool = False,
    ) -> None:
        given = [path] if isinstance(path, str | Path) else path
        self.name = name_of_several([without_credentials(str(one)) for one in given])
        places: list[tuple[Any, str]] = []
        for one in given:
            with _explained(f"{without_credentials(str(one))} cannot be opened"):
                filesystem, root = _filesystem(str(one), storage_options)
                paths = _find_files(filesystem, root, is_any_suffix)
            if not paths:
                raise DataError(
                    f"{without_credentials(str(one))} holds no Parquet files "
                    f"({', '.join(PARQUET_SUFFIXES)}); check the path, and quote a pattern in a "
                    "shell"
                )
            places += [(filesystem, path) for path in paths]
        is_local = isinstance(filesystem, LocalFileSystem) and len(given) == 1
        self.location = Path(root) if is_local and Path(root).exists() else None
        with ThreadPoolExecutor() as threads:
            files = list(threads.map(_described, *zip(*places, strict=True)))
        chosen = _all_columns(files) if columns is None else columns
        for file in files:
            file.check(chosen)
        if columns is None:
            _refuse_identifiers(self.name, files[0], chosen)
        self._widths = {name: self._width(name, files) for name in chosen}
        if columns is None:
            _refuse_several_lengths(self.name, self._widths)
        self._widest = max((width or 1 for width in self._widths.values()), default=0)
        self.feature_names: Sequence[str] | None = _feature_names(self._widths)
        self.n_features = len(self.feature_names)
        self.n_rows: int = sum(sum(file.row_counts) for file in files)
        # A type is needed even without columns; then the shape is refused.
        dtypes = [file.dtype(name) for file in files for name in self._widths]
        self.dtype: np.dtype[Any] = np.result_type(np.bool_, *dtypes)
        check_table(self.name, (self.n_rows, self.n_features), self.dtype)
        self._parts, self.boundaries = _join(files, rows_per_chunk(self.n_features))
        self.read_bytes: int = max(map(self._most_bytes, range(len(self._parts))))

    def read(self, i: int) -> Chunk:
        """Return chunk i."""
        start, stop = self.boundaries[i], self.boundaries[i + 1]
        file, _ = self._parts[i]
        with (
            _explained(f"{file.name}: rows {start} to {stop} cannot be read or decoded"),
            _opened(file) as opened,
        ):
            rows = self._rows(opened, i)
        return Chunk(rows, range(start, stop))

    def names(self) -> list[str]:
        """Return the names of all columns of the first file."""
        return list(self._parts[0][0].schema.names)

    def chosen(self) -> list[str]:
        """Return the names of the columns that are features."""
        return list(self._widths)

    def weights_named(self, name: str, convert: Convert) -> ColumnWeights:
        """Return a column of numbers, converted, as weights of the rows.

        Raises
        ------
        DataError
            If a file lacks the column, or it holds no numbers.
        """
        files = list(dict.fromkeys(file for file, _ in self._parts))
        for file in files:
            file.check([name])
        if any(_is_list(file.schema.field(name).type) for file in files):
            raise DataError(f"{self.name}: column {name!r} holds lists, which are no row weights")
        column = copy(self)
        column._widths, column._widest = {name: None}, 1
        column.feature_names, column.n_features = [name], 1
        column.dtype = np.result_type(*(file.dtype(name) for file in files))
        column.missing = "drop"
        column.read_bytes = max(map(column._most_bytes, range(len(self._parts))))
        return ColumnWeights(column, convert)

    def _width(self, name: str, files: "Sequence[_File]") -> int | None:
        """Return the length of the lists in a column; None if it holds numbers.

        Raises
        ------
        DataError
            If files differ in it.
        """
        kinds = [file.schema.field(name).type for file in files]
        with_lists = [file for file, kind in zip(files, kinds, strict=True) if _is_list(kind)]
        if not with_lists:
            return None
        sizes = [kind.list_size for kind in kinds if pa.types.is_fixed_size_list(kind)]
        width = sizes[0] if sizes else self._first_length(name, with_lists)
        for file, kind in zip(files, kinds, strict=True):
            is_fixed = pa.types.is_fixed_size_list(kind)
            if not _is_list(kind) or (is_fixed and kind.list_size != width):
                raise DataError(
                    f"{file.name}: column {name!r} has type {kind}, but in another file it "
                    f"holds lists of {width} numbers"
                )
        return width

    def _first_length(self, name: str, files: "Sequence[_File]") -> int:
        """Return the length of the first list that has any elements."""
        for file in files:
            with (
                _explained(f"{file.name}: column {name!r} cannot be read or decoded"),
                _opened(file, _BUFFER_BYTES) as opened,
            ):
                for batch in opened.iter_batches(1024, columns=[name], use_threads=False):
                    lengths = pc.list_value_length(batch.column(name))
                    first = next(filter(None, lengths.to_pylist()), None)
                    if first:
                        return int(first)
        raise DataError(f"{self.name}: column {name!r} holds no lists of numbers")

    def _rows(self, opened: Any, i: int) -> NDArray[Any]:
        """Return the rows of a chunk; of a single column they stay where they were decoded."""
        columns = self._columns(opened, i)
        if len(self._widths) == 1:
            return next(columns).astype(self.dtype, copy=False)
        shape = self.boundaries[i + 1] - self.boundaries[i], self.n_features
        # Arrow keeps memory that was used before; the first use of fresh pages takes longer.
        memory = pa.allocate_buffer(math.prod(shape) * self.dtype.itemsize)
        # Numbers are joined fastest column by column, lists row by row.
        order: Literal["C", "F"] = "F" if len(self._widths) == self.n_features else "C"
        rows = np.frombuffer(memory, self.dtype).reshape(shape, order=order)
        first = 0
        for values in columns:
            rows[:, first : first + values.shape[1]] = values
            first += values.shape[1]
        return rows

    def _columns(self, opened: Any, i: int) -> Iterator[NDArray[Any]]:
        """Yield the columns of a chunk, each (n, width), a few of them decoded at once."""
        start, stop = self.boundaries[i], self.boundaries[i + 1]
        file, row_groups = self._parts[i]
        names, n_at_once = list(self._widths), self._columns_at_once(stop - start)
        for first in range(0, len(names), n_at_once):
            block = names[first : first + n_at_once]
            table = opened.read_row_groups(row_groups, block, use_threads=False)
            if len(table) != stop - start:
                raise ValueError(f"there are {len(table)}")
            for name in block:
                yield self._values(table.column(name), name, file, start)

    def _columns_at_once(self, n_rows: int) -> int:
        """Return the number of columns that the processor's cache holds until they are copied."""
        column_bytes = n_rows * self._widest * self.dtype.itemsize
        return min(max(1, _BLOCK_BYTES // column_bytes), len(self._widths))

    def _most_bytes(self, i: int) -> int:
        """Return the most memory in bytes that reading a chunk takes."""
        n_rows = self.boundaries[i + 1] - self.boundaries[i]
        file, row_groups = self._parts[i]
        n_columns = self._columns_at_once(n_rows)
        stored_bytes = n_columns * file.stored_bytes(row_groups, self._widths)
        # Memory for what is decoded grows by doubling.
        decoded_bytes = (
            n_rows * n_columns * self._widest * 2 * (self.dtype.itemsize + _NESTING_BYTES)
        )
        n_assembled = n_rows * self.n_features if len(self._widths) > 1 else 0
        return n_assembled * self.dtype.itemsize + decoded_bytes + stored_bytes

    def _values(self, column: Any, name: str, file: "_File", start: int) -> NDArray[Any]:
        """Return the values of a column, (n, width), without a copy if none is null.

        Raises
        ------
        DataError
            If a list has another length, or null is among numbers of which none can be NaN.
        """
        width, numbers = self._widths[name], column
        if width is not None:
            lengths = pc.list_value_length(column)
            ragged = pc.index(pc.not_equal(lengths, width), True).as_py()
            if ragged >= 0:
                raise DataError(
                    f"{file.name}: column {name!r} holds a list of {lengths[ragged]} numbers in "
                    f"row {start + ragged}, where others have {width}"
                )
            numbers = pc.list_flatten(column)
        if self.dtype.kind != "f" and (column.null_count or numbers.null_count):
            raise DataError(
                f"{file.name}: column {name!r} holds null among rows {start} to "
                f"{start + len(column)}, though its statistics say that none is"
            )
        if numbers.null_count:
            # This is faster than the conversion to NumPy, which does not support booleans.
            floating = numbers.cast(pa.from_numpy_dtype(self.dtype), safe=False)
            numbers = pc.fill_null(floating, math.nan)
        values: NDArray[Any] = numbers.to_numpy().reshape(-1, width or 1)
        if len(values) == len(column):
            return values
        rows = np.full((len(column), values.shape[1]), np.nan, self.dtype)
        rows[pc.is_valid(column).to_numpy()] = values
        return rows


@dataclass(frozen=True, eq=False)
class _File:
    """A Parquet file and what its footer says.

    Attributes
    ----------
    place : str or RemoteFile
        Its path, or the file at a URL.
    name : str
        What messages call it.
    metadata : pyarrow.parquet.FileMetaData
    schema : pyarrow.Schema
        Its columns; those that are nested have several leaves, which are what is stored.
    """

    place: Any
    name: str
    metadata: Any = None
    schema: Any = None

    @property
    def row_counts(self) -> list[int]:
        """Rows of each row group."""
        return [self.metadata.row_group(g).num_rows for g in range(self.metadata.num_row_groups)]

    def check(self, names: Sequence[str]) -> None:
        """Refuse to read columns that are not there or are no numbers.

        Raises
        ------
        DataError
            If there is such a one.
        """
        for name in names:
            n_found = len(self.schema.get_all_field_indices(name))
            if n_found == 0:
                held = ", ".join(self.schema.names) or "none"
                raise DataError(f"{self.name} has no column {name!r}; its columns are {held}")
            if n_found > 1:
                raise DataError(f"{self.name} has {n_found} columns {name!r}; rename them first")
            kind = self.schema.field(name).type
            if not _is_number(_element(kind)):
                raise DataError(
                    f"{self.name}: column {name!r} has type {kind}, not numbers or lists of "
                    "numbers; exclude it by naming the others: columns=[...]"
                )

    def dtype(self, name: str) -> np.dtype[Any]:
        """Return the type of the numbers in a column, nulls included."""
        dtype: np.dtype[Any] = np.dtype(_element(self.schema.field(name).type).to_pandas_dtype())
        if dtype.kind == "f" or not self._may_hold_null(name):
            return dtype
        return np.dtype(np.float64)

    def stored_bytes(self, row_groups: Iterable[int], names: Iterable[str]) -> int:
        """Return the bytes of the largest column in row groups, as stored and decompressed."""
        most = 0
        for name in names:
            stored = [
                self.metadata.row_group(g).column(leaf)
                for g in row_groups
                for leaf in self._leaves[name]
            ]
            compressed = sum(part.total_compressed_size for part in stored)
            most = max(most, compressed + max(part.total_uncompressed_size for part in stored))
        return most

    def _may_hold_null(self, name: str) -> bool:
        """Return whether null may be in a column, as far as it is known without reading."""
        row_groups = [g for g, n in enumerate(self.row_counts) if n > 0]
        for leaf in self._leaves[name]:
            if self.metadata.schema.column(leaf).max_definition_level == 0:
                continue
            for g in row_groups:
                statistics = self.metadata.row_group(g).column(leaf).statistics
                if statistics is None or not statistics.has_null_count or statistics.null_count:
                    return True
        return False

    @cached_property
    def _leaves(self) -> dict[str, list[int]]:
        """Leaves of each column.

        Names may hold the dot that divides levels, so some may be those of a namesake too.
        """
        leaves = defaultdict(list)
        for leaf in range(len(self.metadata.schema)):
            levels = self.metadata.schema.column(leaf).path.split(".")
            for n in range(len(levels)):
                leaves[".".join(levels[: n + 1])].append(leaf)
        return leaves


# A file, and row groups of it that are read at once.
_Part = tuple[_File, list[int]]


def _filesystem(
    location: str, storage_options: Mapping[str, Any] | None
) -> "tuple[LocalFileSystem | RetryingFileSystem, str]":
    """Return the file system that holds a path or URL, and the path within it."""
    if not is_url(location):
        return LocalFileSystem(), LocalFileSystem._strip_protocol(location)
    # Only URLs need the packages that read them.
    with needed_by(without_credentials(location)):
        from streamgmm.sources.remote.filesystem import open_filesystem

    return open_filesystem(location, storage_options)


def _described(filesystem: "LocalFileSystem | RetryingFileSystem", path: str) -> "_File":
    """Return a file and what its footer says."""
    is_local = isinstance(filesystem, LocalFileSystem)
    name = _shown(filesystem, path)
    with _explained(f"{name} cannot be opened as a Parquet file"):
        place = path if is_local else filesystem.file(path)
        with _opened(_File(place, name)) as opened:
            return _File(place, name, opened.metadata, opened.schema_arrow)


def _opened(file: "_File", buffer_size: int = 0) -> Any:
    is_local = isinstance(file.place, str)
    return pq.ParquetFile(
        file.place if is_local else file.place.open(read_ahead=_READ_AHEAD_BYTES),
        metadata=file.metadata,
        filesystem=pyarrow.fs.LocalFileSystem() if is_local else None,
        buffer_size=buffer_size,
        pre_buffer=False,
        page_checksum_verification=True,
    )


@contextmanager
def _explained(what: str) -> Iterator[None]:
    """Raise an error again with the operation that failed."""
    try:
        yield
    except (DataError, MemoryError):
        raise
    except FetchError as error:
        raise DataError(f"{what} ({error})") from error
    except Exception as error:
        raise DataError(f"{what} ({type(error).__name__}: {error})") from error


def _find_files(filesystem: Any, root: str, is_any_suffix: bool) -> list[str]:
    """Return the paths of the files that a path, a folder or a pattern stands for.

    Raises
    ------
    DataError
        If files are those of a table with a log of its own.
    """
    try:
        found = [filesystem.info(root)]
    except FileNotFoundError:
        if not has_magic(root):
            raise
        found = _matches(filesystem, root)
    else:
        if found[0]["type"] != "directory":
            return [found[0]["name"]]
        _refuse_tables_above(filesystem, root)
    paths: set[str] = set()
    for entry in found:
        is_folder = entry["type"] == "directory"
        name = entry["name"]
        paths.update(_files_in(filesystem, name, is_any_suffix) if is_folder else [name])
    return sorted(paths)


def _matches(filesystem: Any, pattern: str) -> list[Any]:
    """Return the entries of files and folders that match a pattern."""
    matches = filesystem.glob(pattern, detail=True)
    fixed = re.split(r"[*?[]", pattern)[0].rpartition("/")[0]
    found = {path: entry for path, entry in matches.items() if not _is_hidden(path[len(fixed) :])}
    _refuse_tables_above(filesystem, f"{fixed}/*")
    between = {
        folder
        for path in found
        for folder in folders_above(path)
        if len(folder.strip("/")) > len(fixed.strip("/"))
    }
    for folder in sorted(between):
        _refuse_table(filesystem, folder, _names_in(filesystem, folder))
    return [*found.values()]


def _refuse_table(filesystem: Any, folder: str, names: Collection[str]) -> None:
    """Refuse a folder of these names if it is a table with a log of its own."""
    refuse_table_with_log(
        folder,
        LOGS.intersection(names),
        partial(_names_in, filesystem),
        partial(_shown, filesystem),
    )


def _refuse_tables_above(filesystem: Any, path: str) -> None:
    """Refuse what lies in a table with a log of its own."""

    def names_in(folder: str) -> list[str]:
        try:
            return _names_in(filesystem, folder)
        except (FetchError, PermissionError):
            # Who may read a folder need not have the right to list those above it.
            return []

    for folder in folders_above(path):
        refuse_table_with_log(folder, LOGS, names_in, partial(_shown, filesystem))


def _names_in(filesystem: Any, folder: str) -> list[str]:
    """Return the names in a folder; none if there is no such folder."""
    try:
        paths = filesystem.ls(folder, detail=False)
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [path.rstrip("/").rpartition("/")[2] for path in paths]


def _shown(filesystem: "LocalFileSystem | RetryingFileSystem", path: str) -> str:
    """Return what messages call a path of a file system."""
    return path if isinstance(filesystem, LocalFileSystem) else filesystem.url(path)


def _files_in(filesystem: Any, folder: str, is_any_suffix: bool) -> Iterator[str]:
    """Yield the paths of the Parquet files in a folder and below it.

    The file system's own search would pass over folders that it may not list.
    """
    entries = filesystem.ls(folder, detail=True)
    _refuse_table(
        filesystem, folder, [entry["name"].rstrip("/").rpartition("/")[2] for entry in entries]
    )
    for entry in entries:
        path = entry["name"].rstrip("/")
        if path == folder.rstrip("/") or _is_hidden(path[len(folder) :]):
            continue
        if entry["type"] == "directory":
            yield from _files_in(filesystem, path, is_any_suffix)
        elif is_any_suffix or path.endswith(PARQUET_SUFFIXES):
            yield path


def _is_hidden(path: str) -> bool:
    return any(part.startswith(("_", ".")) for part in path.split("/"))


def _all_columns(files: Sequence[_File]) -> list[str]:
    """Return the names of the columns of all files, without indices of DataFrames."""
    names: dict[str, None] = {}
    for file in files:
        index = (file.schema.pandas_metadata or {}).get("index_columns", [])
        names.update((name, None) for name in file.schema.names if name not in index)
    return list(names)


def _refuse_identifiers(name: str, file: _File, columns: Sequence[str]) -> None:
    """Refuse integers of 32 or 64 bits beside lists, unless the columns were chosen.

    Raises
    ------
    DataError
    """
    kinds = {column: file.schema.field(column).type for column in columns}
    with_lists = [column for column, kind in kinds.items() if _is_list(kind)]
    integers = [
        column
        for column, kind in kinds.items()
        if pa.types.is_integer(kind) and kind.bit_width >= 32
    ]
    if with_lists and integers:
        raise DataError(
            f"{name} has lists of numbers ({', '.join(with_lists)}) beside integers "
            f"({', '.join(integers)}), which may be an identifier; name the columns that are "
            f"features: columns={with_lists}"
        )


def _refuse_several_lengths(name: str, widths: Mapping[str, int | None]) -> None:
    """Refuse columns with lists of different lengths, unless the columns were chosen.

    Raises
    ------
    DataError
    """
    lengths = {column: width for column, width in widths.items() if width is not None}
    if len({*lengths.values()}) > 1:
        found = ", ".join(f"{width} in {column}" for column, width in lengths.items())
        raise DataError(
            f"{name} has lists of different lengths: {found}, which may be different embeddings; "
            f"name the columns that are features: columns={[*lengths][:1]}"
        )


def _feature_names(widths: Mapping[str, int | None]) -> list[str]:
    return [
        feature
        for name, width in widths.items()
        for feature in ([name] if width is None else (f"{name}[{j}]" for j in range(width)))
    ]


def _join(files: Sequence[_File], most_rows: int) -> tuple[list[_Part], list[int]]:
    """Return the parts of neighbouring row groups; the first row of each part, then N."""
    parts: list[_Part] = []
    boundaries = [0]
    for file in files:
        for row_group, n in enumerate(file.row_counts):
            if n == 0:
                continue
            is_neighbour = bool(parts) and parts[-1][0] is file
            if is_neighbour and boundaries[-1] - boundaries[-2] + n <= most_rows:
                parts[-1][1].append(row_group)
                boundaries[-1] += n
            else:
                parts.append((file, [row_group]))
                boundaries.append(boundaries[-1] + n)
    return parts, boundaries


def _element(kind: Any) -> Any:
    """Return the type of the numbers in a column of some type: of lists that of their elements."""
    return kind.value_type if _is_list(kind) else kind


def _is_list(kind: Any) -> bool:
    types = pa.types
    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def _is_number(kind: Any) -> bool:
    types = pa.types
    return bool(types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind))
