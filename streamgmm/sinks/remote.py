"""Write the variables of labelled data into a Zarr group at a URL."""

import posixpath
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.abc.buffer import Buffer
from zarr.abc.store import ByteRequest, Store
from zarr.storage import FsspecStore, WrapperStore

from streamgmm.errors import OutputError, ParameterError, StreamGMMError
from streamgmm.packages import needed_by
from streamgmm.protocols import Layout, Region
from streamgmm.sinks.array import ArraySink
from streamgmm.sinks.labelled import (
    consolidate,
    create_group,
    is_consolidated,
    open_variables,
    refuse_other_group,
)
from streamgmm.sinks.zarr import METADATA, StoredArrays
from streamgmm.urls import split, suffix, without_credentials

# Object that exists while an output is unfinished.
_UNFINISHED = "unfinished-streamgmm-output"
# Objects that make a group readable; the main metadata are written last.
_OF_GROUP = (".zattrs", ".zmetadata", ".zgroup", "zarr.json")


class RemoteSink(ArraySink):
    """Writes into a group at a URL.

    Parameters
    ----------
    arrays : StoredArrays
    name : str
        Name of the group in messages.
    is_shared : bool
        Whether two boxes may share a stored chunk, and so must be written one at a time.
    """

    def __init__(self, arrays: StoredArrays, name: str, is_shared: bool) -> None:
        super().__init__(arrays)
        self._name, self._is_shared = name, is_shared
        self._writing = threading.Lock()

    def write(self, region: Region, values: NDArray[Any]) -> None:
        """Store the values of a box of samples."""
        with _naming(self._name):
            if self._is_shared:
                with self._writing:
                    super().write(region, values)
            else:
                super().write(region, values)


@contextmanager
def open_remote_sink(
    url: str,
    layout: Layout,
    dtype: np.dtype[Any],
    piece_shape: tuple[int, ...],
    is_shared: bool,
    resume: bool,
) -> Iterator[RemoteSink]:
    """Yield a sink whose group can be opened when the block has ended well.

    The metadata of the group are written last. An object marks what is unfinished; the next output
    with this URL removes it.

    Parameters
    ----------
    url : str
        Of a store to be made, or of a group of a store that exists: ``s3://bucket/x.zarr::/group``.
    layout, dtype, piece_shape
        As for :func:`streamgmm.sinks.labelled.labelled_form`.
    is_shared : bool
        Whether two boxes may share a stored chunk.
    resume : bool
        Must be False.

    Raises
    ------
    OutputError
        If the group cannot be written, or there is something else.
    ParameterError
        If the caller asks to resume an unfinished output.
    """
    location, group = split(url)
    inner = "" if group is None else group.strip("/")
    name = without_credentials(url)
    if resume:
        raise ParameterError(
            f"{name} is a URL, where unfinished outputs are not resumed; remove resume=True, or "
            "write to a local path"
        )
    if suffix(location) != ".zarr":
        raise OutputError(f"{name}: at URLs predictions are written to Zarr stores, as .zarr")
    with needed_by(name):
        import fsspec.core
    with _naming(name):
        filesystem, root = fsspec.core.url_to_fs(location)
        zarr_format = _format_of_store(location, inner, name) if inner else 3
        target = posixpath.join(root, inner) if inner else root.rstrip("/")
        address = posixpath.join(location, inner) if inner else location
        _clear(filesystem, target, address, name)
        store = _HeldStore(FsspecStore.from_url(address))
        create_group(store, layout, dtype, piece_shape, zarr_format)
        if not inner:
            consolidate(store, zarr_format)
        # Zarr warns of other objects when it looks at a group, as it does until here.
        filesystem.pipe_file(f"{target}/{_UNFINISHED}", b"")
        arrays = StoredArrays(None, open_variables(store, layout, zarr_format), is_shared)
    try:
        yield RemoteSink(arrays, name, is_shared)
    except BaseException:
        with _naming(name):
            filesystem.rm(target, recursive=True)
        raise
    with _naming(name):
        for key in _OF_GROUP:
            if key in store.held:
                filesystem.pipe_file(f"{target}/{key}", store.held[key].to_bytes())
        filesystem.rm_file(f"{target}/{_UNFINISHED}")
        if inner:
            whole = FsspecStore.from_url(location)
            if is_consolidated(whole, zarr_format):
                consolidate(whole, zarr_format)


class _HeldStore(WrapperStore[Store]):
    """A store that holds the metadata of its root group back, so that nobody can open it yet.

    Attributes
    ----------
    held : dict of str to Buffer
    """

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.held: dict[str, Buffer] = {}

    async def set(self, key: str, value: Buffer) -> None:
        if key in _OF_GROUP:
            self.held[key] = value
        else:
            await self._store.set(key, value)

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        if key in _OF_GROUP:
            self.held.setdefault(key, value)
        else:
            await self._store.set_if_not_exists(key, value)

    async def get(
        self, key: str, prototype: Any, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        if key in self.held:
            return self.held[key]
        return await self._store.get(key, prototype, byte_range)

    async def exists(self, key: str) -> bool:
        return key in self.held or await self._store.exists(key)


def _clear(filesystem: Any, target: str, address: str, name: str) -> None:
    """Remove an unfinished or former output; refuse to remove anything else.

    Raises
    ------
    OutputError
    """
    filesystem.invalidate_cache()
    try:
        names = {
            path.rstrip("/").rpartition("/")[2] for path in filesystem.ls(target, detail=False)
        }
    except FileNotFoundError:
        return
    if not names:
        return
    if _UNFINISHED not in names:
        if not names & {*METADATA}:
            raise OutputError(
                f"{name} is no Zarr group, but there are other objects; write somewhere else"
            )
        refuse_other_group(FsspecStore.from_url(address, read_only=True), name)
    filesystem.rm(target, recursive=True)
    filesystem.invalidate_cache()


def _format_of_store(location: str, inner: str, name: str) -> Literal[2, 3]:
    """Return the format of Zarr of a store that exists, which is to hold another group.

    Raises
    ------
    OutputError
        If there is no store, or no group in it that can hold the new one.
    """
    parent = posixpath.dirname(inner)
    try:
        store = FsspecStore.from_url(location, read_only=True)
        group = zarr.open_group(store, path=parent, mode="r", use_consolidated=False)
    except Exception as error:  # noqa: BLE001 - backends raise errors of many kinds
        raise OutputError(
            f"{name}: nothing can be added to {parent or 'the store'}, which is no Zarr group "
            f"({without_credentials(str(error))}); name a store that exists, or write to a store "
            "of its own"
        ) from None
    zarr_format: Literal[2, 3] = group.metadata.zarr_format
    return zarr_format


@contextmanager
def _naming(name: str) -> Iterator[None]:
    """Raise errors of a store as errors that name the output, without credentials.

    Raises
    ------
    OutputError
    """
    failure = None
    try:
        yield
    except StreamGMMError:
        raise
    except Exception as error:  # noqa: BLE001 - every error of a backend is explained
        told = without_credentials(str(error)) or type(error).__name__
        failure = OutputError(f"{name} cannot be written ({told}); check the URL and the rights")
    # Raised outside, because the chained traceback would show what the message hides.
    if failure is not None:
        raise failure
