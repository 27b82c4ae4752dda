"""Zarr arrays, formats 2 and 3, open or by path or URL."""

import asyncio
import base64
import os
import struct
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal
from zipfile import is_zipfile

import numcodecs.errors
import numpy as np
import zarr
import zarr.errors
from numpy.typing import NDArray
from zarr.abc.store import Store
from zarr.buffer.cpu import NDBuffer
from zarr.storage import FsspecStore, LocalStore, MemoryStore, ZipStore

from streamgmm.errors import DataError
from streamgmm.options import Missing
from streamgmm.packages import needed_by
from streamgmm.protocols import Chunk
from streamgmm.sources.choosing import StoredArray, how_to_choose
from streamgmm.sources.described import Described
from streamgmm.sources.guarded import ArrayV2Metadata, guarded_array
from streamgmm.sources.layout import (
    check_table,
    naming_rows,
    regular_boundaries,
    rows_per_chunk,
)
from streamgmm.sources.remote.event_loop import OneThreadLoop, in_event_loop
from streamgmm.sources.values import ValueRules, marking_fill_value, usable, value_rules
from streamgmm.urls import FetchError, is_url, without_credentials

# Errors of the two formats of Zarr for a codec that is not installed.
_UNKNOWN_CODEC = (numcodecs.errors.UnknownCodecError, zarr.errors.UnknownCodecError)
# Stores that answer at once. Other stores need many concurrent requests.
_NEAR = (LocalStore, MemoryStore, ZipStore)


class ZarrSource(Described):
    """Rows of a two-dimensional Zarr array, in groups of whole stored chunks.

    Parameters
    ----------
    array : zarr.Array of shape (N, D)
        Chunked in any way, along columns too; of a sharded array inner chunks are read.

    Raises
    ------
    DataError
        If the array is no table of real numbers or holds packed values; on reading also if values
        are missing and may not be, or the array is no longer in its store.

    Attributes
    ----------
    location : Path or None
        The directory of the array; None if its store is no directory.
    """

    has_weights = False
    missing: Missing = "error"
    feature_names: Sequence[str] | None = None

    def __init__(self, array: "zarr.Array[Any]") -> None:
        self.name = without_credentials(str(array.store_path))
        check_table(self.name, array.shape, np.dtype(array.dtype))
        self._rules = rules_of(array)
        self._array = guarded_array(array)
        self._is_near = isinstance(array.store, _NEAR)
        self.location = (
            array.store.root.absolute() / array.path
            if isinstance(array.store, LocalStore)
            else None
        )
        self.n_rows, self.n_features = array.shape
        self._stored_dtype = np.dtype(array.dtype)
        self._chunk_rows = rows_per_chunk(self.n_features, min(array.chunks[0], self.n_rows))
        self.boundaries: Sequence[int] = regular_boundaries(self.n_rows, self._chunk_rows)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values, as chunks hold them."""
        return self._rules.dtype(self._stored_dtype, self.missing)

    @property
    def read_bytes(self) -> int:
        """Bytes of a chunk: assembled, decoded and compressed, and of finding missing values."""
        n_values = self._chunk_rows * self.n_features
        stored_bytes = 3 * n_values * self._stored_dtype.itemsize
        return stored_bytes + self._rules.work_bytes(n_values, self.dtype)

    def read(self, i: int) -> Chunk:
        """Return chunk i."""
        start, stop = self.boundaries[i], self.boundaries[i + 1]
        with naming_rows(self.name, start, stop, "; the store may be damaged"):
            stored = self._read_rows(start, stop)
        index = range(start, stop)
        return Chunk(usable(stored, self._rules, self.missing, self.name, index), index)

    def prefetch(self, i: int) -> None:
        """Have the files of chunk i fetched from disk, without waiting for them.

        Many small files keep a disk waiting between them, as one large file does not. Shards
        hold other chunks too, and may be of any size; so they are left alone.
        """
        if self.location is None or self._array.shards is not None:
            return
        stored_rows, stored_columns = self._array.chunks
        first, last = self.boundaries[i] // stored_rows, self.boundaries[i + 1] - 1
        for row in range(first, last // stored_rows + 1):
            for column in range(-(-self.n_features // stored_columns)):
                key = self._array.metadata.encode_chunk_key((row, column))
                _prefetch_file(self.location / key)

    def _read_rows(self, start: int, stop: int) -> NDArray[Any]:
        """Return the rows from start to stop; see :class:`_Rows` and :class:`OneThreadLoop`."""
        # Chunks of few columns are joined fastest column by column.
        order: Literal["C", "F"] = "C" if self._array.chunks[1] >= self.n_features else "F"
        rows = _Rows((stop - start, self.n_features), self._stored_dtype, order)
        selection = (slice(start, stop), slice(None))
        if self._is_near and not in_event_loop():
            reading = self._array.async_array.get_orthogonal_selection(selection, out=rows)
            with asyncio.Runner(loop_factory=OneThreadLoop) as runner:
                runner.run(reading)
        else:
            self._array.get_orthogonal_selection(selection, out=rows)
        return rows.as_numpy_array()


def rules_of(array: "zarr.Array[Any]") -> ValueRules:
    """Return the rules by which values of an array are missing.

    The fill value is a mark where xarray takes it for one: in format 2, if xarray wrote the array.
    Elsewhere it is one unless it is 0, 1, NaN or infinity.

    Raises
    ------
    DataError
        If the array holds packed values.
    """
    attributes = decoded_attributes(array)
    is_of_xarray = isinstance(array.metadata, ArrayV2Metadata) and "_ARRAY_DIMENSIONS" in attributes
    fill_value = array.fill_value if is_of_xarray else marking_fill_value(array.fill_value)
    name = without_credentials(str(array.store_path))
    return value_rules(name, np.dtype(array.dtype), attributes, fill_value)


def decoded_attributes(array: "zarr.Array[Any]") -> dict[str, Any]:
    """Return the attributes of an array; xarray writes the mark of real numbers as text."""
    attributes: dict[str, Any] = dict(array.attrs)
    mark = attributes.get("_FillValue")
    if isinstance(mark, str) and np.dtype(array.dtype).kind == "f":
        with suppress(ValueError, struct.error):
            attributes["_FillValue"] = struct.unpack("<d", base64.b64decode(mark, validate=True))[0]
    return attributes


def _prefetch_file(path: Path) -> None:
    """Have a file fetched into the page cache, without waiting for it.

    Nothing happens where the system takes no such hint, or there is no such file: a chunk that
    was never written holds the fill value.
    """
    if not hasattr(os, "posix_fadvise"):
        return
    try:
        file = path.open("rb", buffering=0)
    except OSError:
        return
    with file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)


class _Rows(NDBuffer):
    """The buffer into which Zarr reads rows.

    If one stored chunk holds all of them they stay where they were decoded; only rows of
    several chunks are copied, into one array.

    Parameters
    ----------
    shape : tuple of int
    dtype : dtype
    order : "C" or "F"
        Of the array into which Zarr's own codec pipeline copies chunks. Other pipelines fill an
        array in C order themselves.
    """

    def __init__(
        self, shape: tuple[int, int], dtype: np.dtype[Any], order: Literal["C", "F"]
    ) -> None:
        self._shape, self._dtype, self._order = shape, dtype, order
        self._values: NDArray[Any] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return self._shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self._dtype

    @property
    def _data(self) -> NDArray[Any]:  # type: ignore[override]
        return self._made("C")

    def _made(self, order: Literal["C", "F"]) -> NDArray[Any]:
        """Return the array, made when it is first needed."""
        if self._values is None:
            self._values = np.empty(self._shape, self._dtype, order)
        return self._values

    def __setitem__(self, key: Any, value: Any) -> None:
        if isinstance(value, NDBuffer) and value.shape == self._shape:
            decoded = value.as_numpy_array()
            if decoded.dtype == self._dtype and decoded.flags.aligned:
                self._values = decoded
                return
        self._made(self._order)
        super().__setitem__(key, value)


class RemoteStore(FsspecStore):
    """A store at a URL, which messages call by that."""

    def __str__(self) -> str:
        return str(self.fs.url(self.path))

    __repr__ = __str__


def store_at(
    location: str, storage_options: Mapping[str, Any] | None = None
) -> "str | ZipStore | RemoteStore":
    """Return the store at a path or URL; Zarr opens folders by itself.

    A file is an archive, or says where the chunks of a store are.

    Raises
    ------
    DataError
        If there is no file system for a URL.
    """
    if not is_url(location):
        file = Path(location).absolute()
        if not file.is_file():
            return location
        if is_zipfile(file):
            return ZipStore(file, mode="r")
        location = f"reference://::file://{file}"
    with needed_by(without_credentials(location)):
        from streamgmm.sources.remote.filesystem import open_filesystem

    filesystem, path = open_filesystem(location, storage_options, asynchronous=True)
    return RemoteStore(filesystem, read_only=True, path=path.rstrip("/"))


def open_array(
    data: "str | Path | zarr.Array[Any] | zarr.Group | Store",
    path: str | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> "zarr.Array[Any]":
    """Open an array of any dimension to read it.

    Parameters
    ----------
    data : str, Path, zarr.Array, zarr.Group or zarr.abc.store.Store
        A path or URL of a store, of a group or array within one, or what is open already.
    path : str, optional
        The array within the store or group.
    storage_options : mapping, optional
        For a URL.

    Raises
    ------
    DataError
        If there is none; of a group, the message says which arrays it holds.
    """
    if isinstance(data, zarr.Array):
        return data
    node = open_node(data, path, storage_options, "a Zarr array")
    if isinstance(node, zarr.Group):
        raise _not_one_array(node)
    array: zarr.Array[Any] = node
    return array


def open_node(
    data: "str | Path | zarr.Group | Store",
    path: str | None,
    storage_options: Mapping[str, Any] | None,
    expected: str,
) -> "zarr.Array[Any] | zarr.Group":
    """Open an array or a group to read it.

    Parameters
    ----------
    data, path, storage_options : as for :func:`open_array`
    expected : str
        What there should be, for a message.

    Raises
    ------
    DataError
        If there is neither.
    """
    node: Any = data
    location = without_credentials(str(data))
    named = location if path is None else f"{path} in {location}"
    try:
        if not isinstance(data, zarr.Group):
            store = store_of(data) or store_at(str(data), storage_options)
            node = zarr.open(store, mode="r")
        node = node if path is None else node[path.strip("/")]
    except FetchError as error:
        raise DataError(f"{named} cannot be opened: {error}") from error
    except DataError:
        raise
    except FileNotFoundError as error:
        raise DataError(
            f"{named} cannot be opened as {expected}: there is no file zarr.json, .zarray or "
            ".zgroup in it"
        ) from error
    except Exception as error:
        is_codec = isinstance(error, _UNKNOWN_CODEC)
        advice = "; install the package that provides this codec" if is_codec else ""
        raise DataError(f"{named} cannot be opened as {expected}: {error}{advice}") from error
    opened: zarr.Array[Any] | zarr.Group = node
    return opened


def store_of(data: Any) -> Store | None:
    """Return what is a store of Zarr, or has one, as a session of Icechunk; None of a path.

    Raises
    ------
    DataError
        For a repository of Icechunk, whose session has the store.
    """
    if isinstance(data, Store):
        return data
    if type(data).__module__.partition(".")[0] != "icechunk":
        return None
    store = getattr(data, "store", None)
    if isinstance(store, Store):
        return store
    raise DataError(
        f"X is of type {type(data).__qualname__} of Icechunk; give a session of the repository, "
        "which says the version: repository.readonly_session('main')"
    )


def _not_one_array(group: zarr.Group) -> DataError:
    members = sorted(group.members(max_depth=None))
    arrays = [_described(key, member) for key, member in members if isinstance(member, zarr.Array)]
    held = ", ".join(f"{array.path} {array.shape}" for array in arrays) or "no arrays"
    advice = f"; {how_to_choose(arrays, 'path={!r}'.format)}" if arrays else ""
    named = without_credentials(str(group.store_path))
    return DataError(f"{named} is a Zarr group, not an array; it holds {held}{advice}")


def _described(path: str, array: "zarr.Array[Any]") -> StoredArray:
    """Return what the metadata of an array say of it."""
    # Format 3 has a place for them, and xarray keeps them in an attribute of format 2.
    names = getattr(array.metadata, "dimension_names", None) or array.attrs.get("_ARRAY_DIMENSIONS")
    dims = tuple(names) if isinstance(names, Sequence) and None not in names else None
    name = path.rpartition("/")[2]
    return StoredArray(path, array.shape, array.dtype, dims, dims == (name,))
