"""Zarr arrays, formats 2 and 3, open or by path or URL."""

import asyncio
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.buffer.cpu import NDBuffer
from zarr.storage import FsspecStore, LocalStore, MemoryStore, ZipStore

from streamgmm.errors import DataError
from streamgmm.protocols import Chunk, Missing
from streamgmm.sources.layout import (
    check_table,
    naming_rows,
    refuse_packed,
    regular_boundaries,
    rows_per_chunk,
)
from streamgmm.sources.loops import OneThreadLoop, in_event_loop
from streamgmm.sources.urls import FetchError, is_url, without_credentials

# Stores that answer at once. Of others many requests should be under way.
_NEAR = (LocalStore, MemoryStore, ZipStore)


class ZarrSource:
    """Rows of a two-dimensional Zarr array, in groups of whole stored chunks.

    Parameters
    ----------
    array : zarr.Array of shape (N, D)
        Chunked in any way, along columns too; of a sharded array inner chunks are read.

    Raises
    ------
    DataError
        If the array is no table of real numbers, holds packed values, or marks missing values by
        a number.

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
        refuse_packed(self.name, array.attrs)
        self._array = array
        self.location = (
            array.store.root / array.path if isinstance(array.store, LocalStore) else None
        )
        self.n_rows, self.n_features = array.shape
        self.dtype = np.dtype(array.dtype)
        chunk_rows = rows_per_chunk(self.n_features, min(array.chunks[0], self.n_rows))
        self._chunk_bytes = chunk_rows * self.n_features * self.dtype.itemsize
        self.boundaries: Sequence[int] = regular_boundaries(self.n_rows, chunk_rows)

    @property
    def read_bytes(self) -> int:
        """Bytes of a chunk: assembled, decoded and compressed."""
        return 3 * self._chunk_bytes

    def read(self, i: int) -> Chunk:
        """Chunk i."""
        start, stop = self.boundaries[i], self.boundaries[i + 1]
        with naming_rows(self.name, start, stop, "; the store may be damaged"):
            rows = self._read_rows(start, stop)
        return Chunk(rows, range(start, stop))

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
        """Rows from start to stop; see :class:`_Rows` and :class:`OneThreadLoop`."""
        # Chunks of few columns are put together quickest column by column.
        order: Literal["C", "F"] = "C" if self._array.chunks[1] >= self.n_features else "F"
        rows = _Rows((stop - start, self.n_features), self.dtype, order)
        selection = (slice(start, stop), slice(None))
        if isinstance(self._array.store, _NEAR) and not in_event_loop():
            reading = self._array.async_array.get_orthogonal_selection(selection, out=rows)
            with asyncio.Runner(loop_factory=OneThreadLoop) as runner:
                runner.run(reading)
        else:
            self._array.get_orthogonal_selection(selection, out=rows)
        return rows.as_numpy_array()


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
    """Where Zarr puts the rows that it reads.

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
        """The array, made when it is first needed."""
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
) -> "str | RemoteStore":
    """The store at a path or URL; Zarr opens paths by itself.

    Raises
    ------
    DataError
        If there is no file system for a URL.
    """
    if not is_url(location):
        return location
    from streamgmm.sources.remote import open_filesystem

    filesystem, path = open_filesystem(location, storage_options, asynchronous=True)
    return RemoteStore(filesystem, read_only=True, path=path.rstrip("/"))


def open_array(
    data: "str | Path | zarr.Array[Any] | zarr.Group",
    path: str | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> "zarr.Array[Any]":
    """Open an array of any dimension to read it.

    Parameters
    ----------
    data : str, Path, zarr.Array or zarr.Group
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
    data: "str | Path | zarr.Group",
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
            node = zarr.open(store_at(str(data), storage_options), mode="r")
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
        raise DataError(f"{named} cannot be opened as {expected}: {error}") from error
    opened: zarr.Array[Any] | zarr.Group = node
    return opened


def _not_one_array(group: zarr.Group) -> DataError:
    arrays = sorted(
        f"{key} {member.shape}"
        for key, member in group.members(max_depth=None)
        if isinstance(member, zarr.Array)
    )
    held = ", ".join(arrays) or "no arrays"
    return DataError(
        f"{group.store_path} is a Zarr group, not an array; it holds {held}; name one of them "
        "by path=, or several that share their dimensions by variables="
    )
