"""Where predictions go, chunk by chunk: an array in memory, a ``.npy`` file, a Zarr array.

Files are written beside their final name and take it when they are whole, so that an
interrupted write leaves what was there before.
"""

import json
import os
import shutil
import threading
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamgmm.errors import OutputError
from streamgmm.protocols import Region, region_shape


class ArraySink:
    """Writes into an array that slices like NumPy's: of the samples' shape, or theirs and (M,)."""

    def __init__(self, array: Any) -> None:
        self.array = array

    def write(self, region: Region, values: NDArray[Any]) -> None:
        """Store the values of a box of samples, (n,) or (n, M), in C order over the box."""
        self.array[region] = values.reshape(region_shape(region) + values.shape[1:])


class _LockedSink(ArraySink):
    """Writes one part at a time, because two may share a stored chunk."""

    def __init__(self, array: Any) -> None:
        super().__init__(array)
        self._lock = threading.Lock()

    def write(self, region: Region, values: NDArray[Any]) -> None:
        """Store the values of a box of samples."""
        with self._lock:
            super().write(region, values)


def _is_zarr_array(folder: Path) -> bool:
    metadata = folder / "zarr.json"
    if not metadata.exists():
        return (folder / ".zarray").exists()
    try:
        return bool(json.loads(metadata.read_bytes())["node_type"] == "array")
    except (OSError, ValueError, LookupError, TypeError):
        return False


def check_target(target: Path) -> None:
    """Refuse what has the name already and is not to be replaced.

    Raises
    ------
    OutputError
        If it is a directory but no Zarr array, or a file that is named like a Zarr array.
    """
    if target.is_dir():
        if target.suffix != ".zarr" or not _is_zarr_array(target):
            raise OutputError(f"{target} is a directory but no Zarr array; it will not be replaced")
    elif target.suffix == ".zarr" and (target.exists() or target.is_symlink()):
        raise OutputError(f"{target} is a file, not a Zarr array; it will not be replaced")


@contextmanager
def open_sink(
    path: str | os.PathLike[str],
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    regions: Iterable[Region],
    piece_shape: tuple[int, ...],
    dimension_names: Sequence[str] | None = None,
) -> Iterator[ArraySink]:
    """A sink that becomes the file or Zarr array ``path`` when the block ends well.

    Parameters
    ----------
    path : path-like
        Ends in ``.npy`` or ``.zarr``. A file or Zarr array that is there is replaced, at the end.
    shape : tuple of int
        Of the samples, or theirs and (M,).
    dtype : dtype
    regions : iterable of tuple of slice
        The box of samples of each chunk.
    piece_shape : tuple of int
        Sizes of the boxes of samples that are written at once; a Zarr array is stored in these.
    dimension_names : sequence of str, optional
        Of a Zarr array.

    Raises
    ------
    OutputError
        If the suffix is another, the place cannot be written, or something else is there.
    """
    target = Path(path)
    if target.suffix not in (".npy", ".zarr"):
        raise OutputError(f"{target}: predictions are written to a path ending in .npy or .zarr")
    check_target(target)
    is_shared = any(
        along.start % size
        for region in regions
        for along, size in zip(region, piece_shape, strict=True)
    )
    unfinished = target.with_name(f".{uuid.uuid4().hex[:8]}.{target.name}")
    try:
        with _explained(target):
            array = _create(unfinished, shape, dtype, piece_shape, dimension_names)
        yield _LockedSink(array) if is_shared else ArraySink(array)
        with _explained(target):
            _publish(array, unfinished, target)
    finally:
        with suppress(OSError):
            _remove(unfinished)


@contextmanager
def _explained(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(f"{target} cannot be written: {error}") from error


def _create(
    path: Path,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    piece_shape: tuple[int, ...],
    dimension_names: Sequence[str] | None,
) -> Any:
    if path.suffix == ".npy":
        array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
        # A sparse file would meet a full disk as a bus error, when the rows are written.
        if hasattr(os, "posix_fallocate"):
            with path.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        return array
    import zarr

    # Zarr creates missing folders; a mistyped one should be an error here as for files.
    path.parent.resolve(strict=True)
    return zarr.create_array(
        str(path),
        shape=shape,
        dtype=dtype,
        chunks=piece_shape + shape[len(piece_shape) :],
        dimension_names=dimension_names,
        zarr_format=3,
    )


def _publish(array: Any, unfinished: Path, target: Path) -> None:
    """Give the finished array its name; what had the name before goes last."""
    if unfinished.suffix == ".npy":
        array.flush()
    if not target.is_dir():
        unfinished.replace(target)
        return
    former = target.with_name(f"{unfinished.name}.former")
    target.rename(former)
    try:
        unfinished.rename(target)
    except BaseException:
        former.rename(target)
        raise
    _remove(former)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
