"""Write Zarr arrays box by box, and force them to the disk."""

import json
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
from streamgmm.protocols import Region, values_held
from streamgmm.sinks.array import ArraySink
from streamgmm.sinks.digest import files_digest, metadata_digest, values_digest
from streamgmm.sinks.form import Form
from streamgmm.sinks.part import sync

#: Files by which a folder is known as a Zarr array or group.
METADATA = ("zarr.json", ".zarray", ".zgroup")
#: Index of the values of a sample that an array holds: one, some, or all.
Held = int | slice | None


class ZarrForm(Form):
    """A Zarr array.

    Parameters
    ----------
    target : Path
    shape : tuple of int
    dtype : dtype
    piece_shape : tuple of int
        Sizes of the stored chunks along the samples.
    dimension_names : sequence of str, optional
    """

    def __init__(
        self,
        target: Path,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        piece_shape: tuple[int, ...],
        dimension_names: Sequence[str] | None,
    ) -> None:
        super().__init__(target)
        self._shape, self._dtype = shape, dtype
        self._chunks = piece_shape + shape[len(piece_shape) :]
        self._dimension_names = dimension_names

    def check_target(self) -> None:
        """Refuse to replace anything but a Zarr array.

        Raises
        ------
        OutputError
        """
        refuse_other_than_array(self.target)

    def create(self, path: Path, is_shared: bool) -> "StoredArrays":
        """Make the array, in boxes of samples."""
        # Zarr creates missing folders. A mistyped folder must be an error, as it is for files.
        path.parent.resolve(strict=True)
        array: zarr.Array[Any] = zarr.create_array(
            store_in(path, is_shared),
            shape=self._shape,
            dtype=self._dtype,
            chunks=self._chunks,
            dimension_names=self._dimension_names,
            zarr_format=3,
        )
        sync(path / "zarr.json")
        sync(path)
        return StoredArrays(path, [(array, None)], is_shared)

    def open(self, path: Path, is_shared: bool) -> "StoredArrays":
        """Open what :meth:`create` made, to continue writing."""
        array = zarr.open_array(store_in(path, is_shared), mode="r+")
        return StoredArrays(path, [(array, None)], is_shared)

    def layout_digest(self, path: Path) -> str:
        """Return the digest of the metadata."""
        return metadata_digest(path, ["zarr.json"]) if (path / "zarr.json").exists() else ""


def refuse_other_than_array(target: Path) -> None:
    """Refuse to replace anything but a Zarr array.

    Raises
    ------
    OutputError
        If the target is a directory but no Zarr array, or a file.
    """
    if target.is_dir():
        if not is_zarr_array(target):
            raise OutputError(f"{target} is a directory but no Zarr array; it will not be replaced")
    elif target.exists() or target.is_symlink():
        raise OutputError(f"{target} is a file, not a Zarr array; it will not be replaced")


def is_zarr_array(folder: Path) -> bool:
    """Return whether a folder is a Zarr array, by its metadata."""
    metadata = folder / "zarr.json"
    if not metadata.exists():
        return (folder / ".zarray").exists()
    try:
        return bool(json.loads(metadata.read_bytes())["node_type"] == "array")
    except (OSError, ValueError, LookupError, TypeError):
        return False


class StoredArrays:
    """The values of samples in one or several Zarr arrays below a folder.

    It may be sent to any process that can open the folder.

    Parameters
    ----------
    folder : Path or None
        None if they are in no file system of this machine; then boxes are only written.
    arrays : sequence of tuple of zarr.Array and int, slice or None
        Each array, and which of the values of a sample it holds.
    is_shared : bool
        Whether two boxes may share a stored chunk.
    """

    def __init__(
        self, folder: Path | None, arrays: "Sequence[tuple[zarr.Array[Any], Held]]", is_shared: bool
    ) -> None:
        self._arrays, self._is_shared = arrays, is_shared
        self._folder = folder or Path()

    def __setitem__(self, region: Region, values: NDArray[Any]) -> None:
        """Store the values of a box of samples."""
        for array, part in self._arrays:
            array[region] = values_held(values, part, array.shape[len(region) :])

    def sync(self, regions: Sequence[Region]) -> None:
        """Force the stored chunks of boxes of samples, and their names, to the disk.

        Raises
        ------
        OutputError
            If the output is no longer in its folder.
        """
        folder = self._folder
        if not has_metadata(folder):
            raise OutputError(f"{folder} was moved or deleted while it was written; write it again")
        files = {folder / key for region in regions for key in self._keys(region)}
        # A stored chunk that holds only the fill value has no file.
        found = [file for file in files if file.exists()]
        for file in found:
            sync(file)
        inner = {
            parent for file in found for parent in file.parents if parent.is_relative_to(folder)
        }
        for parent in inner:
            sync(parent)

    def digest(self, region: Region) -> bytes:
        """Return the digest of a box of samples, as it is stored."""
        # Files that hold other boxes too change when those boxes are written.
        if self._is_shared:
            return values_digest(region, (np.asarray(array[region]) for array, _ in self._arrays))
        return files_digest(region, self._folder, self._keys(region))

    def remove(self, region: Region) -> None:
        """Remove the stored chunks of a box, if they hold no other box."""
        # Zarr reads a stored chunk before it writes a part of it.
        if not self._is_shared:
            for key in self._keys(region):
                (self._folder / key).unlink(missing_ok=True)

    def writer(self) -> "BoxWriter | None":
        """Return a writer for other processes; None if boxes share stored chunks."""
        return None if self._is_shared else BoxWriter(self, self._folder)

    def _keys(self, region: Region) -> list[str]:
        """Return the keys of the stored chunks that hold a box; an empty box has none."""
        return [key for array, _ in self._arrays for key in _keys(array, region)]


class BoxWriter:
    """Writes boxes of samples that share no stored chunk, in any process that can open the array.

    Parameters
    ----------
    stored : StoredArrays
    folder : Path
        Folder of the output.
    """

    def __init__(self, stored: StoredArrays, folder: Path) -> None:
        self._stored, self._folder = stored, folder

    def write(self, region: Region, values: NDArray[Any]) -> None:
        """Store the values of a box of samples.

        Raises
        ------
        OutputError
            If there is no such output in the file system of this machine.
        """
        # Zarr would create the folder, on a machine where nobody reads it.
        if not has_metadata(self._folder):
            raise OutputError(
                f"{self._folder} is not there on {platform.node()}, which is to write into it; "
                "give out= a path that all workers share, or compute with executor='threads'"
            )
        with writing(self._folder):
            ArraySink(self._stored).write(region, values)

    def sync(self, regions: Sequence[Region]) -> list[bytes]:
        """Force the stored chunks of boxes to the disk, and return digests of the boxes."""
        with writing(self._folder):
            self._stored.sync(regions)
        return [self._stored.digest(region) for region in regions]


def has_metadata(folder: Path) -> bool:
    """Return whether a folder is a Zarr array or group."""
    return any((folder / name).exists() for name in METADATA)


def _keys(array: "zarr.Array[Any]", region: Region) -> Iterable[str]:
    if any(part.start == part.stop for part in region):
        return
    along = [
        range(part.start // size, -(-part.stop // size))
        for part, size in zip(region, array.chunks, strict=False)
    ]
    along += [range(1)] * (array.ndim - len(region))
    for place in product(*along):
        key = array.metadata.encode_chunk_key(place)
        yield f"{array.path}/{key}" if array.path else key


def store_in(folder: Path, is_shared: bool) -> LocalStore:
    """Return a store in a folder; if boxes share stored chunks, it is one that is always whole."""
    return SyncedStore(folder) if is_shared else LocalStore(folder)


class SyncedStore(LocalStore):
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
