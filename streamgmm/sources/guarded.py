"""Zarr arrays that refuse to be read when they are no longer in their store.

Zarr gives the fill value for a chunk that is absent. Of an array that was moved, deleted or
replaced after it was opened all chunks may be absent.
"""

import json
import logging
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.abc.store import ByteRequest, Store
from zarr.buffer import default_buffer_prototype

# The one module that uses private interfaces of Zarr.
from zarr.core.array import AsyncArray
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.core.metadata import ArrayV2Metadata as ArrayV2Metadata
from zarr.core.metadata import ArrayV3Metadata as ArrayV3Metadata
from zarr.storage import LocalStore, StorePath, WrapperStore

from streamgmm.errors import DataError
from streamgmm.urls import without_credentials

_logger = logging.getLogger("streamgmm")
_Metadata = ArrayV2Metadata | ArrayV3Metadata


def guarded_array(array: "zarr.Array[Any]") -> "zarr.Array[Any]":
    """Return the same array, to be read through a :class:`GuardedStore`.

    A local store is named by its absolute path from here on.
    """
    if isinstance(array.store, GuardedStore):
        return array
    store = array.store
    if isinstance(store, LocalStore) and not store.root.is_absolute():
        store = copy(store)
        store.root = store.root.absolute()
    guard = GuardedStore(store, array.path, array.metadata)
    return zarr.Array(AsyncArray(array.metadata, StorePath(guard, array.path), array.config))


def guarded(lazy: Any) -> Any:
    """Return lazy values with every Zarr array in them guarded: a Zarr array, or xarray's of one.

    Values of another kind are returned as they are.
    """
    if isinstance(lazy, zarr.Array):
        return guarded_array(lazy)
    if type(lazy).__module__.partition(".")[0] != "xarray":
        return lazy
    if type(lazy).__name__ == "ZarrArrayWrapper":
        return type(lazy)(guarded_array(lazy.get_array()))
    # Adapters of xarray hold each other: lazy indexing, decoding, caching.
    inner = getattr(lazy, "array", None)
    found = guarded(inner)
    if found is inner:
        return lazy
    adapter = copy(lazy)
    adapter.array = found
    return adapter


class GuardedStore(WrapperStore[Store]):
    """A store from which one array is read.

    A chunk that is absent has the metadata of the array looked for. In a local store they are
    looked for whenever their file has changed, which costs no request.

    Parameters
    ----------
    store : Store
    path : str
        Path of the array within it.
    metadata : ArrayV2Metadata or ArrayV3Metadata
        Metadata of the array when it was opened.

    Raises
    ------
    DataError
        On reading, if the array is not there any more, or another one is.
    """

    def __init__(self, store: Store, path: str, metadata: _Metadata) -> None:
        super().__init__(store)
        self._path, self._metadata = path, metadata
        name = ".zarray" if metadata.zarr_format == 2 else "zarr.json"
        self._key = f"{path}/{name}" if path else name
        self._file = store.root / self._key if isinstance(store, LocalStore) else None
        self._seen = None if self._file is None else _signature(self._file)
        self._has_reported = False

    def __str__(self) -> str:
        return str(self._store)

    def __repr__(self) -> str:
        return repr(self._store)

    def _with_store(self, store: Store) -> "GuardedStore":
        return GuardedStore(store, self._path, self._metadata)

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Return the content of a key, None if it is absent though the array is there."""
        content = await self._store.get(key, prototype, byte_range)
        signature = None if self._file is None else _signature(self._file)
        if content is None or signature != self._seen:
            await self._check()
            self._seen = signature
        if content is None:
            self._report_absent_chunk(key)
        return content

    def _report_absent_chunk(self, key: str) -> None:
        """Log that a chunk is not stored, once for an array: it may not be written yet."""
        fill_value = self._metadata.fill_value
        if self._has_reported or fill_value is None or not np.isfinite(fill_value):
            return
        self._has_reported = True
        name = without_credentials(str(StorePath(self._store, self._path)))
        _logger.warning(
            "%s has chunks that are not stored (%s is the first); their values are the fill value "
            "%s. If the array is still being written, wait for its end",
            name,
            key,
            fill_value,
        )

    async def _check(self) -> None:
        """Refuse to continue if the array is not in the store, or not as it was."""
        stored = await self._store.get(self._key, default_buffer_prototype())
        name = without_credentials(str(StorePath(self._store, self._path)))
        if stored is None:
            raise DataError(
                f"{name} is no longer there; it was moved or deleted after it was opened. Open it "
                "again where it is now"
            )
        if not _is_same(self._metadata, json.loads(stored.to_bytes())):
            raise DataError(
                f"{name} was replaced by another array after it was opened; open it again"
            )


def _signature(file: Path) -> tuple[int, int, int] | None:
    """Return numbers that change when a file is replaced; None if it is absent."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _is_same(metadata: _Metadata, stored: dict[str, Any]) -> bool:
    """Return whether stored metadata describe the same array, which may have grown."""
    if stored.get("zarr_format") != metadata.zarr_format:
        return False
    now = type(metadata).from_dict({**stored, "attributes": {}})
    has_rows = now.shape[:1] >= metadata.shape[:1] and now.shape[1:] == metadata.shape[1:]
    return has_rows and _layout(now) == _layout(metadata)


def _layout(metadata: _Metadata) -> dict[str, Any]:
    """Return what decides how stored bytes become values."""
    described = metadata.to_dict()
    for key in ("attributes", "consolidated_metadata", "dimension_names", "fill_value", "shape"):
        described.pop(key, None)
    return described
