"""Where predictions go, chunk by chunk: an array in memory, a ``.npy`` file, a Zarr array.

Files are written beside their final name and take it when they are whole, so that an
interrupted write leaves what was there before.
"""

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamgmm.errors import OutputError
from streamgmm.protocols import Sink


class ArraySink:
    """Writes into an array of shape (N,) or (N, M) that slices like NumPy's."""

    def __init__(self, array: Any) -> None:
        self.array = array

    def write(self, chunk_rows: range, values: NDArray[Any]) -> None:
        """Store the values of the rows of one chunk."""
        self.array[chunk_rows.start : chunk_rows.stop] = values


@contextmanager
def open_sink(
    path: str | os.PathLike[str], shape: tuple[int, ...], dtype: np.dtype[Any], chunk_rows: int
) -> Iterator[Sink]:
    """A sink that becomes the file or Zarr array ``path`` when the block ends well.

    Parameters
    ----------
    path : path-like
        Ends in ``.npy`` or ``.zarr``. A file or Zarr array that is there is replaced, at the end.
    shape : tuple of int
    dtype : dtype
    chunk_rows : int
        Rows that are written at once, so that no two writers share a Zarr chunk.

    Raises
    ------
    OutputError
        If the suffix is another, the place cannot be written, or something else is there.
    """
    target = Path(path)
    if target.suffix not in (".npy", ".zarr"):
        raise OutputError(f"{target}: predictions are written to a path ending in .npy or .zarr")
    if target.is_dir() and not any((target / name).exists() for name in ("zarr.json", ".zarray")):
        raise OutputError(f"{target} is a directory but no Zarr array; it will not be replaced")
    unfinished = target.with_name(f".{uuid.uuid4().hex[:8]}.{target.name}")
    try:
        with _explained(target):
            array = _create(unfinished, shape, dtype, chunk_rows)
        yield ArraySink(array)
        with _explained(target):
            _publish(array, unfinished, target)
    finally:
        _remove(unfinished)


@contextmanager
def _explained(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(f"{target} cannot be written: {error}") from error


def _create(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any], chunk_rows: int) -> Any:
    if path.suffix == ".npy":
        return np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    import zarr

    # Zarr creates missing folders; a mistyped one should be an error here as for files.
    path.parent.resolve(strict=True)
    chunks = (chunk_rows, *shape[1:])
    return zarr.create_array(str(path), shape=shape, dtype=dtype, chunks=chunks)


def _publish(array: Any, unfinished: Path, target: Path) -> None:
    """Give the finished array its name; what had the name before goes last."""
    if unfinished.suffix == ".npy":
        array.flush()
    if not target.is_dir():
        unfinished.replace(target)
        return
    former = target.with_name(f"{unfinished.name}.former")
    target.rename(former)
    unfinished.rename(target)
    _remove(former)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
