"""A sink for outputs on the disk, which get their name when they are complete."""

import hashlib
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
from streamgmm.protocols import Layout, Region, Writer
from streamgmm.sinks.array import ArraySink
from streamgmm.sinks.form import Form, Stored
from streamgmm.sinks.npy import NpyForm
from streamgmm.sinks.part import Part, open_part
from streamgmm.urls import is_url, split

# Seconds between two times that data are forced to the disk. A crash loses little more work.
_SYNC_SECONDS = 5.0


class FileSink(ArraySink):
    """Writes into an unfinished output, and journals the chunks that are on the disk.

    Parameters
    ----------
    stored : Stored
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
        stored: Stored,
        part: Part,
        regions: Sequence[Region],
        is_shared: bool,
        done: set[int],
    ) -> None:
        super().__init__(stored)
        self._part = part
        self._regions = regions
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
        """Return a writer for other processes; None if only this process can write."""
        writer: Writer | None = self.array.writer()
        return writer

    def sync(self) -> None:
        """Force written data to the disk, and journal the chunks that are finished by this."""
        with self._syncing, writing(self._part.target):
            with self._noting:
                regions, self._written = self._written, []
                finished, self._finished = self._finished, {}
            self.array.sync(regions)
            self._part.add(
                {i: digest or self.array.digest(self._regions[i]) for i, digest in finished.items()}
            )


def check_target(target: str | os.PathLike[str]) -> None:
    """Refuse a target that exists and must not be replaced.

    Outputs of labelled data are compared more closely when they are opened.

    Raises
    ------
    OutputError
        If the target is a directory but no Zarr store, a file that is named like a Zarr array, a
        device or a pipe.
    """
    location, inner = split(os.fspath(target))
    path = Path(location)
    refuse_special(path)
    if inner is not None:
        return
    if path.is_dir():
        from streamgmm.sinks.zarr import has_metadata

        if path.suffix != ".zarr" or not has_metadata(path):
            raise OutputError(f"{path} is a directory but no Zarr array; it will not be replaced")
    elif path.suffix == ".zarr" and (path.exists() or path.is_symlink()):
        raise OutputError(f"{path} is a file, not a Zarr array; it will not be replaced")


def load_library(path: str | os.PathLike[str], layout: Layout | None = None) -> None:
    """Import the library that writes a path, before the memory of the process is measured."""
    if layout is not None and not os.fspath(path).endswith(".npy"):
        import streamgmm.sinks.labelled
    elif os.fspath(path).endswith(".zarr"):
        import streamgmm.sinks.zarr  # noqa: F401


def _followed(target: Path) -> Path:
    """Return the target of a symbolic link, if it is of the same kind; keep the link."""
    real = Path(os.path.realpath(target)) if target.is_symlink() else target
    return real if real.suffix == target.suffix else target


def _form_of(
    path: str | os.PathLike[str],
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    piece_shape: tuple[int, ...],
    dimension_names: Sequence[str] | None,
    layout: Layout | None,
) -> Form:
    """Return the form of the output at a local path.

    Raises
    ------
    OutputError
        If there is none for this path.
    """
    location, inner = split(os.fspath(path))
    # Absolute, so that a change of the working directory does not matter.
    target = local_path(location, OutputError, "predictions").absolute()
    if layout is None and (inner is not None or target.suffix == ".nc"):
        raise OutputError(
            f"{path} is for predictions of labelled data (xarray, or Zarr groups and netCDF files "
            "opened with variables=); of other data they are written to a path ending in .npy or "
            ".zarr"
        )
    if target.suffix not in (".npy", ".zarr", ".nc"):
        raise OutputError(
            f"{target}: predictions are written to a path ending in .npy or .zarr, those of "
            "labelled data also in .nc"
        )
    if target.suffix == ".npy" and inner is None:
        return NpyForm(_followed(target), shape, dtype)
    if layout is None:
        from streamgmm.sinks.zarr import ZarrForm

        # A link is refused before it is followed, if there is nothing at its end.
        ZarrForm(target, shape, dtype, piece_shape, dimension_names).check_target()
        return ZarrForm(_followed(target), shape, dtype, piece_shape, dimension_names)
    from streamgmm.sinks.labelled import labelled_form

    return labelled_form(_followed(target), inner, layout, dtype, piece_shape)


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
    layout: Layout | None = None,
) -> Iterator[ArraySink]:
    """Yield a sink that becomes the file, Zarr array or group ``path`` when the block ends well.

    Until then the output grows in the folder ``<path>.part``. If the block fails and the output has
    a fingerprint, this folder remains with the finished chunks.

    Parameters
    ----------
    path : path-like
        Ends in ``.npy`` or ``.zarr``. With a layout it may also end in ``.nc``, be a URL, or name a
        group of a Zarr store, ``store.zarr::/group``. At the end, an existing file, Zarr array or
        group that this function wrote is replaced.
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
    layout : Layout, optional
        Variables and coordinates of labelled data, which become a Zarr group or a netCDF file.

    Raises
    ------
    OutputError
        If the suffix is unknown, the path cannot be written, another process writes it, the path
        holds something else, or the unfinished output is a different one.
    """
    boxes = list(regions)
    chunks, is_shared = _chunking(boxes, piece_shape)
    if is_url(os.fspath(path)):
        if layout is None:
            raise OutputError(
                "predictions are written to a path, not to a URL; to store them elsewhere, give "
                "the data as a Dask array: what is predicted is one too, and its to_zarr takes "
                "URLs; or give them as labelled data"
            )
        from streamgmm.sinks.remote import open_remote_sink

        with open_remote_sink(
            os.fspath(path), layout, dtype, piece_shape, is_shared, resume
        ) as remote:
            yield remote
        return
    form = _form_of(path, shape, dtype, piece_shape, dimension_names, layout)
    form.check_target()
    whole = {
        **(fingerprint or {}),
        "chunks": chunks,
        "output shape": list(shape),
        "output dtype": dtype.str,
    }
    if layout is not None:
        whole["labels and attributes"] = layout.digest
    with ExitStack() as stack:
        with writing(form.target):
            part = stack.enter_context(open_part(form))
            is_begun = resume and part.resume(whole)
            found = _taken_up(form, part, boxes, is_shared) if is_begun else None
            if found is None:
                part.clear()
                stored, done = form.create(part.unfinished, is_shared), set[int]()
                part.begin(whole, form.layout_digest(part.unfinished))
            else:
                stored, done = found
        sink = FileSink(stored, part, boxes, is_shared, done)
        try:
            yield sink
            with writing(form.target):
                sink.sync()
                part.publish(form.finished(part.unfinished))
                form.published()
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


def _taken_up(
    form: Form, part: Part, regions: Sequence[Region], is_shared: bool
) -> tuple[Stored, set[int]] | None:
    """Open an unfinished output, and find the chunks that match the journal.

    Returns
    -------
    stored, done : Stored and set of int, or None
        None if everything has to be written again.
    """
    if form.layout_digest(part.unfinished) != part.layout:
        return None
    stored = form.open(part.unfinished, is_shared)
    done = set()
    for i, region in enumerate(regions):
        try:
            digest = stored.digest(region)
        except Exception:  # noqa: BLE001 - a damaged stored chunk can fail in any way
            return None
        if digest == part.digests.get(i):
            done.add(i)
        else:
            stored.remove(region)
    part.digests = {i: part.digests[i] for i in done}
    return stored, done
