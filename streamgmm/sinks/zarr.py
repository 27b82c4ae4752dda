"""Write Zarr arrays box by box, and force them to the disk."""

import os
import platform
import uuid
from collections.abc import Iterable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.abc.buffer import Buffer
from zarr.storage import LocalStore

from streamgmm.errors import OutputError
from streamgmm.paths import writing
from streamgmm.protocols import Region
from streamgmm.sinks.array import ArraySink
from streamgmm.sinks.digest import files_digest
from streamgmm.sinks.part import sync


def create_array(
    folder: Path,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    piece_shape: tuple[int, ...],
    dimension_names: Sequence[str] | None,
    is_shared: bool,
) -> "zarr.Array[Any]":
    """Return a new array, stored in boxes of samples; see :func:`streamgmm.sinks.open_sink`."""
    # Zarr creates missing folders. A mistyped folder must be an error, as it is for files.
    folder.parent.resolve(strict=True)
    array: zarr.Array[Any] = zarr.create_array(
        _store(folder, is_shared),
        shape=shape,
        dtype=dtype,
        chunks=piece_shape + shape[len(piece_shape) :],
        dimension_names=dimension_names,
        zarr_format=3,
    )
    sync(folder / "zarr.json")
    sync(folder)
    return array


def open_array(folder: Path, is_shared: bool) -> "zarr.Array[Any]":
    """Open an array that :func:`create_array` made, to continue writing."""
    return zarr.open_array(_store(folder, is_shared), mode="r+")


class BoxWriter:
    """Writes boxes of samples that share no stored chunk, in any process that can open the array.

    Parameters
    ----------
    array : zarr.Array
        Made by :func:`create_array`.
    folder : Path
        Folder of the array.
    """

    def __init__(self, array: "zarr.Array[Any]", folder: Path) -> None:
        self._sink = ArraySink(array)
        self._folder = folder

    def write(self, region: Region, values: NDArray[Any]) -> None:
        """Store the values of a box of samples.

        Raises
        ------
        OutputError
            If there is no such array in the file system of this machine.
        """
        # Zarr would create the folder, on a machine where nobody reads it.
        if not (self._folder / "zarr.json").exists():
            raise OutputError(
                f"{self._folder} is not there on {platform.node()}, which is to write into it; "
                "give out= a path that all workers share, or compute with executor='threads'"
            )
        with writing(self._folder):
            self._sink.write(region, values)

    def sync(self, regions: Sequence[Region]) -> list[bytes]:
        """Force the stored chunks of boxes to the disk, and return digests of the boxes."""
        with writing(self._folder):
            sync_boxes(self._sink.array, self._folder, regions)
        return [box_digest(self._sink.array, self._folder, region) for region in regions]


def sync_boxes(array: "zarr.Array[Any]", folder: Path, regions: Iterable[Region]) -> None:
    """Force the stored chunks of boxes of samples, and their names, to the disk.

    Raises
    ------
    OutputError
        If the array is no longer in its folder.
    """
    if not (folder / "zarr.json").exists():
        raise OutputError(f"{folder} was moved or deleted while it was written; write it again")
    files = {folder / key for region in regions for key in _keys(array, region)}
    # A stored chunk that holds only zeros has no file.
    found = [file for file in files if file.exists()]
    for file in found:
        sync(file)
    inner = {parent for file in found for parent in file.parents if parent.is_relative_to(folder)}
    for parent in inner:
        sync(parent)


def box_digest(array: "zarr.Array[Any]", folder: Path, region: Region) -> bytes:
    """Return the digest of the stored chunks of a box, which hold no other box."""
    return files_digest(region, (folder / key for key in _keys(array, region)))


def remove_box(array: "zarr.Array[Any]", folder: Path, region: Region) -> None:
    """Remove the stored chunks of a box of samples."""
    for key in _keys(array, region):
        (folder / key).unlink(missing_ok=True)


def _keys(array: "zarr.Array[Any]", region: Region) -> Iterable[str]:
    """Return the keys of the stored chunks that hold a box; an empty box has none."""
    if any(part.start == part.stop for part in region):
        return ()
    along = [
        range(part.start // size, -(-part.stop // size))
        for part, size in zip(region, array.chunks, strict=False)
    ]
    along += [range(1)] * (array.ndim - len(region))
    return map(array.metadata.encode_chunk_key, product(*along))


def _store(folder: Path, is_shared: bool) -> LocalStore:
    return _SyncedStore(folder) if is_shared else LocalStore(folder)


class _SyncedStore(LocalStore):
    """A store that forces files to the disk before they replace others.

    If boxes share stored chunks, a replaced file may hold journalled boxes.
    """

    async def set(self, key: str, value: Buffer) -> None:
        """Store a value atomically, even if the power is cut."""
        path = self.root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")
        with unfinished.open("wb") as file:
            file.write(value.as_buffer_like())
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
