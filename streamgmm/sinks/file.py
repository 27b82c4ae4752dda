"""Sinks for ``.npy`` files and Zarr arrays, which get their name when they are complete."""

import hashlib
import json
import math
import os
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamgmm.errors import OutputError
from streamgmm.paths import local_path, refuse_special, writing
from streamgmm.protocols import Region, Writer
from streamgmm.sinks.array import ArraySink
from streamgmm.sinks.digest import layout_digest, values_digest
from streamgmm.sinks.part import Part, open_part, sync

# Seconds between two times that data are forced to the disk. A crash loses little more work.
_SYNC_SECONDS = 5.0


class FileSink(ArraySink):
    """Writes into an unfinished file or Zarr array, and journals the chunks that are on the disk.

    Parameters
    ----------
    array : numpy.memmap or zarr.Array
    part : Part
    regions : sequence of tuple of slice
        The box of samples of each chunk.
    is_shared : bool
        Whether two boxes may share a stored chunk, and so must be written one at a time.
    done : set of int
        Chunks that an earlier call has stored.
    """

    def __init__(
        self,
        array: Any,
        part: Part,
        regions: Sequence[Region],
        is_shared: bool,
        done: set[int],
    ) -> None:
        super().__init__(array)
        self._part = part
        self._regions = regions
        self._is_shared = is_shared
        self._done = done
        self._writing = threading.Lock() if is_shared else nullcontext()
        self._syncing, self._noting = threading.Lock(), threading.Lock()
        self._written: list[Region] = []
        self._finished: dict[int, bytes | None] = {}
        self._next_sync = time.monotonic() + _SYNC_SECONDS

    def has(self, i: int) -> bool:
        """Return whether an earlier call has stored chunk i."""
        return i in self._done

    def write(self, region: Region, values: NDArray[Any]) -> None:
        """Store the values of a box of samples."""
        with self._writing, writing(self._part.target):
            super().write(region, values)
        with self._noting:
            self._written.append(region)

    def finish(self, i: int) -> None:
        """Record that all of chunk i has been written; force data to the disk at intervals."""
        self._note(i, None)

    def finish_elsewhere(self, i: int, digest: bytes) -> None:
        """Record that another process has written chunk i and forced it to the disk."""
        self._note(i, digest)

    def _note(self, i: int, digest: bytes | None) -> None:
        with self._noting:
            self._finished[i] = digest
            is_due = time.monotonic() >= self._next_sync
            if is_due:
                self._next_sync = math.inf
        if is_due:
            self.sync()
            self._next_sync = time.monotonic() + _SYNC_SECONDS

    def writer(self) -> Writer | None:
        """Return a writer for other processes; None for ``.npy`` and for shared stored chunks."""
        if self._is_shared or isinstance(self.array, np.memmap):
            return None
        from streamgmm.sinks.zarr import BoxWriter

        return BoxWriter(self.array, self._part.unfinished)

    def sync(self) -> None:
        """Force written data to the disk, and journal the chunks that are finished by this."""
        with self._syncing, writing(self._part.target):
            with self._noting:
                regions, self._written = self._written, []
                finished, self._finished = self._finished, {}
            if isinstance(self.array, np.memmap):
                self.array.flush()
            else:
                from streamgmm.sinks.zarr import sync_boxes

                sync_boxes(self.array, self._part.unfinished, regions)
            self._part.add({i: digest or self._digest(i) for i, digest in finished.items()})

    def _digest(self, i: int) -> bytes:
        return _stored_digest(self.array, self._part.unfinished, self._regions[i], self._is_shared)


def _is_zarr_array(folder: Path) -> bool:
    metadata = folder / "zarr.json"
    if not metadata.exists():
        return (folder / ".zarray").exists()
    try:
        return bool(json.loads(metadata.read_bytes())["node_type"] == "array")
    except (OSError, ValueError, LookupError, TypeError):
        return False


def check_target(target: Path) -> None:
    """Refuse a target that exists and must not be replaced.

    Raises
    ------
    OutputError
        If the target is a directory but no Zarr array, a file that is named like a Zarr array, a
        device or a pipe.
    """
    refuse_special(target)
    if target.is_dir():
        if target.suffix != ".zarr" or not _is_zarr_array(target):
            raise OutputError(f"{target} is a directory but no Zarr array; it will not be replaced")
    elif target.suffix == ".zarr" and (target.exists() or target.is_symlink()):
        raise OutputError(f"{target} is a file, not a Zarr array; it will not be replaced")


def load_library(path: str | os.PathLike[str]) -> None:
    """Import the library that writes a path, before the memory of the process is measured."""
    if os.fspath(path).endswith(".zarr"):
        import streamgmm.sinks.zarr  # noqa: F401


def _followed(target: Path) -> Path:
    """Return the target of a symbolic link, if it is of the same kind; keep the link."""
    real = Path(os.path.realpath(target)) if target.is_symlink() else target
    return real if real.suffix == target.suffix else target


@contextmanager
def open_sink(
    path: str | os.PathLike[str],
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    regions: Iterable[Region],
    piece_shape: tuple[int, ...],
    dimension_names: Sequence[str] | None = None,
    fingerprint: Mapping[str, Any] | None = None,
    resume: bool = False,
) -> Iterator[FileSink]:
    """Yield a sink that becomes the file or Zarr array ``path`` when the block ends well.

    Until then the output grows in the folder ``<path>.part``. If the block fails and the output has
    a fingerprint, this folder remains with the finished chunks.

    Parameters
    ----------
    path : path-like
        Ends in ``.npy`` or ``.zarr``. At the end, an existing file or Zarr array is replaced.
    shape : tuple of int
        Shape of the samples, or this shape and (M,).
    dtype : dtype
    regions : iterable of tuple of slice
        The box of samples of each chunk.
    piece_shape : tuple of int
        Sizes of the boxes of samples that are written at once; stored chunks of a Zarr array have
        this shape.
    dimension_names : sequence of str, optional
        Names of the dimensions of a Zarr array.
    fingerprint : mapping of str to JSON values, optional
        Everything that determines the values; without it an unfinished output is not kept.
    resume : bool
        Whether to continue an unfinished output of the same fingerprint, if there is one; otherwise
        it is discarded. Damaged chunks are written again.

    Raises
    ------
    OutputError
        If the suffix is unknown, the path cannot be written, another process writes it, the path
        holds something else, or the unfinished output is a different one.
    """
    if "://" in os.fspath(path):
        raise OutputError(
            "predictions are written to a path, not to a URL; to store them elsewhere, give the "
            "data as a Dask array: what is predicted is one too, and its to_zarr takes URLs"
        )
    # Absolute, so that a change of the working directory does not matter.
    target = local_path(path, OutputError, "predictions").absolute()
    if target.suffix not in (".npy", ".zarr"):
        raise OutputError(f"{target}: predictions are written to a path ending in .npy or .zarr")
    check_target(target)
    target = _followed(target)
    boxes = list(regions)
    chunks, is_shared = _chunking(boxes, piece_shape)
    whole = {
        **(fingerprint or {}),
        "chunks": chunks,
        "output shape": list(shape),
        "output dtype": dtype.str,
    }
    with ExitStack() as stack:
        with writing(target):
            part = stack.enter_context(open_part(target))
            n_bytes = math.prod(shape) * dtype.itemsize
            is_begun = resume and part.resume(whole)
            found = _taken_up(part, boxes, is_shared, n_bytes) if is_begun else None
            if found is None:
                part.clear()
                array, done = (
                    _create(part.unfinished, shape, dtype, piece_shape, dimension_names, is_shared),
                    set[int](),
                )
                part.begin(whole, layout_digest(part.unfinished, n_bytes))
            else:
                array, done = found
        sink = FileSink(array, part, boxes, is_shared, done)
        try:
            yield sink
            with writing(target):
                sink.sync()
                part.publish()
        except BaseException as error:
            # The error that ended the block is raised, even if this fails.
            with suppress(OSError):
                sink.sync()
            if fingerprint is None or not part.digests:
                part.clear()
            else:
                error.add_note(
                    f"What has been written is kept in {part.folder}; the same call with "
                    "resume=True continues from there."
                )
            raise


def _chunking(regions: Iterable[Region], piece_shape: tuple[int, ...]) -> tuple[str, bool]:
    """Return a digest of the boxes of chunks, and whether two of them may share a stored chunk."""
    digest, is_shared = hashlib.sha256(), False
    for region in regions:
        digest.update(np.array([(along.start, along.stop) for along in region]).tobytes())
        is_shared |= any(
            along.start % size for along, size in zip(region, piece_shape, strict=True)
        )
    return digest.hexdigest(), is_shared


def _create(
    path: Path,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    piece_shape: tuple[int, ...],
    dimension_names: Sequence[str] | None,
    is_shared: bool,
) -> Any:
    if path.suffix == ".zarr":
        from streamgmm.sinks.zarr import create_array

        return create_array(path, shape, dtype, piece_shape, dimension_names, is_shared)
    array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    # With a sparse file, a full disk would cause a bus error while rows are written.
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    array.flush()
    sync(path)
    return array


def _taken_up(
    part: Part, regions: Sequence[Region], is_shared: bool, n_bytes: int
) -> tuple[Any, set[int]] | None:
    """Open an unfinished output, and find the chunks that match the journal.

    Returns
    -------
    array, done : array and set of int, or None
        None if everything has to be written again.
    """
    if layout_digest(part.unfinished, n_bytes) != part.layout:
        return None
    array = _open(part.unfinished, is_shared)
    done = set()
    for i, region in enumerate(regions):
        try:
            digest = _stored_digest(array, part.unfinished, region, is_shared)
        except Exception:  # noqa: BLE001 - a damaged stored chunk can fail in any way
            return None
        if digest == part.digests.get(i):
            done.add(i)
        elif not is_shared and not isinstance(array, np.memmap):
            from streamgmm.sinks.zarr import remove_box

            # Zarr reads a stored chunk before it writes a part of it.
            remove_box(array, part.unfinished, region)
    part.digests = {i: part.digests[i] for i in done}
    return array, done


def _stored_digest(array: Any, path: Path, region: Region, is_shared: bool) -> bytes:
    """Return the digest of a box of samples, as it is stored."""
    # Files that hold other boxes too change when those boxes are written.
    if isinstance(array, np.memmap) or is_shared:
        return values_digest(region, array[region])
    from streamgmm.sinks.zarr import box_digest

    return box_digest(array, path, region)


def _open(path: Path, is_shared: bool) -> Any:
    """Open the array that :func:`_create` made, to continue writing."""
    if path.suffix == ".zarr":
        from streamgmm.sinks.zarr import open_array

        return open_array(path, is_shared)
    return np.lib.format.open_memmap(path, mode="r+")
