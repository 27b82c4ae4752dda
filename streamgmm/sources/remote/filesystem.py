"""Files at URLs, by whatever fsspec reads them; what fails now and then is tried again.

All kinds of remote data are fetched through one file system, :class:`RetryingFileSystem`. It
tries each single request again, so that of many requests for a chunk those that
succeeded are not repeated.
"""

import asyncio
import atexit
import re
import threading
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal
from weakref import WeakKeyDictionary

import aiohttp
from fsspec.asyn import AsyncFileSystem
from fsspec.core import url_to_fs
from fsspec.implementations.cached import CachingFileSystem, SimpleCacheFileSystem
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.http import HTTPFile, HTTPFileSystem
from fsspec.spec import AbstractBufferedFile

from streamgmm.errors import DataError
from streamgmm.packages import missing_module, missing_package
from streamgmm.sources.remote.event_loop import OneThreadLoop, in_event_loop
from streamgmm.sources.remote.retrying import (
    NO_FILE,
    async_tries,
    causes_of,
    given_up,
    may_pass,
    status_of,
    told,
    tries,
)
from streamgmm.urls import FetchError, MissingFileError, without_credentials

#: Seconds without data from a server after which a request ends.
STALL_SECONDS = 30.0

_DENIED = (401, 403, 407)

# The loop runs in the calling thread, in one thread at a time.
_thread_loop = OneThreadLoop()
_thread_lock = threading.Lock()
atexit.register(_thread_loop.close)


class RetryingFileSystem(AsyncFileSystem):  # type: ignore[misc]
    """Reads from another file system, and tries again what failed for a reason that may pass.

    Connections that break, answers that are cut short, servers that are silent, overloaded or
    out of order may be well the next time. Made by :func:`open_filesystem`.

    Parameters
    ----------
    fs : fsspec.asyn.AsyncFileSystem
    query : str
        What signs a URL; it goes to the server and is no part of paths.
    users : tuple of str
        Users and passwords that paths may hold, as they are not to be shown.
    **settings
        Those of any asynchronous file system.

    Raises
    ------
    FetchError
        By each method that reads, if it failed for good.
    """

    cachable = False

    def __init__(
        self, fs: Any, query: str = "", users: tuple[str, ...] = (), **settings: Any
    ) -> None:
        super().__init__(**settings)
        self._fs, self._query, self._users = fs, query, users
        # s3fs repeats requests itself, quickly; each of our attempts would be several of these.
        if hasattr(fs, "retries"):
            fs.retries = 1

    def url(self, path: str) -> str:
        """Return what messages call a file."""
        return self._shown(self._fs.unstrip_protocol(path))

    def file(self, path: str) -> "RemoteFile":
        """Return a file of it.

        Raises
        ------
        FetchError
            If it cannot be found, or its server does not say how long it is.
        """
        size = self.info(path)["size"]
        if size is None:
            raise FetchError(
                f"{self.url(path)} cannot be read in parts, because its server does not say how "
                "long it is; copy the file, or put simplecache:: before its URL"
            )
        return RemoteFile(self, path, size)

    def _shown(self, text: str) -> str:
        for user in self._users:
            text = text.replace(user, "")
        return without_credentials(text)

    async def _cat_file(
        self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any
    ) -> bytes:
        content: bytes = await self._tried(path, self._content, path + self._query, start, end)
        return content

    async def _info(self, path: str, **kwargs: Any) -> Any:
        info = await self._tried(path, self._fs._info, path + self._query, **kwargs)
        return {**info, "name": path} if self._query else info

    async def _ls(self, path: str, detail: bool = True, **kwargs: Any) -> Any:
        return await self._tried(path, self._fs._ls, path, detail=detail, **kwargs)

    async def _glob(self, path: str, maxdepth: int | None = None, **kwargs: Any) -> Any:
        return await self._tried(path, self._fs._glob, path, maxdepth=maxdepth, **kwargs)

    def _open(
        self, path: str, mode: str = "rb", in_thread: bool = False, **settings: Any
    ) -> "_RemoteBuffer":
        kind = _ThreadBuffer if in_thread else _RemoteBuffer
        return kind(self, path, mode, in_thread=in_thread, **settings)

    def on(self, loop: asyncio.AbstractEventLoop) -> "RetryingFileSystem":
        """Return the same file system, with connections of its own that belong to a loop."""
        fs = type(self._fs)(*self._fs.storage_args, **{**self._fs.storage_options, "loop": loop})
        return RetryingFileSystem(fs=fs, query=self._query, users=self._users, loop=loop)

    async def _content(self, path: str, start: int | None, end: int | None) -> bytes:
        """Return a file, or its bytes from start to end."""
        if start is None or end is None:
            whole: bytes = await self._fs._cat_file(path, start=start, end=end)
            return whole
        if isinstance(self._fs, HTTPFileSystem):
            # Before the answer is read, check whether the server sends parts of files.
            file = HTTPFile(
                self._fs,
                path,
                session=await self._fs.set_session(),
                size=end,
                cache_type="none",
                **self._fs.kwargs,
            )
            part: bytes = await file.async_fetch_range(start, end)
        else:
            part = await self._fs._cat_file(path, start=start, end=end)
        if len(part) != end - start:
            raise ConnectionError(f"{len(part)} bytes came of {end - start}")
        return part

    async def _tried(
        self, path: str, function: Callable[..., Awaitable[Any]], *args: Any, **kwargs: Any
    ) -> Any:
        """Return what a function gives that reads a file, called again while it may succeed."""
        url = self.url(path)

        async def request() -> Any:
            return await function(*args, **kwargs)

        calls = async_tries(url, self._reason)
        try:
            return await calls(request)
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever a backend raises is explained
            failure = self._failure(url, error)
        # Raised outside, because the chained traceback would show what the message hides.
        raise failure

    def _failure(self, url: str, error: Exception) -> FetchError:
        """Return what to raise when a request failed for good."""
        causes, reason = causes_of(error), self._reason(error)
        status = status_of(causes)
        if status in (404, 410) or (status is None and isinstance(causes[0], NO_FILE)):
            return MissingFileError(f"there is no file {url}")
        lacks_credentials = "Credential" in type(causes[0]).__name__
        if status in _DENIED or isinstance(causes[0], PermissionError) or lacks_credentials:
            return FetchError(
                f"{url} is not open to you ({reason}); give what it needs by storage_options="
            )
        if may_pass(error):
            return FetchError(given_up(url, reason))
        return FetchError(f"{url} cannot be read ({reason})")

    def _reason(self, error: BaseException | None) -> str:
        return self._shown(told(error))


# For each file system a lock, or one for each file of those that keep each file by itself.
_locks: "WeakKeyDictionary[Any, dict[str | None, threading.Lock]]" = WeakKeyDictionary()


class _ThreadedFileSystem(AsyncFileSystem):  # type: ignore[misc]
    """Reads from a file system without coroutines, in threads, by one call at a time.

    Threads that read from a tar archive at once move each other's position in it, and those that
    ask a cache for one file at once see what another has written of it so far.

    Parameters
    ----------
    fs : fsspec.AbstractFileSystem
    **settings
        Those of any asynchronous file system.
    """

    cachable = False

    def __init__(self, fs: Any, **settings: Any) -> None:
        super().__init__(**settings)
        self._fs = fs
        self.protocol = fs.protocol
        self._strip_protocol = fs._strip_protocol

    async def _cat_file(
        self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any
    ) -> Any:
        return await self._call(self._fs.cat_file, path, start=start, end=end, **kwargs)

    async def _info(self, path: str, **kwargs: Any) -> Any:
        return await self._call(self._fs.info, path, **kwargs)

    async def _ls(self, path: str, detail: bool = True, **kwargs: Any) -> Any:
        return await self._call(self._fs.ls, path, detail=detail, **kwargs)

    async def _glob(self, path: str, maxdepth: int | None = None, **kwargs: Any) -> Any:
        return await self._call(self._fs.glob, path, maxdepth=maxdepth, **kwargs)

    async def _call(self, function: Callable[..., Any], path: str, **kwargs: Any) -> Any:
        """Call a function of the file system in a thread, when no other call is under way."""
        file = path if isinstance(self._fs, SimpleCacheFileSystem) else None
        lock = _locks.setdefault(self._fs, {}).setdefault(file, threading.Lock())

        def call() -> Any:
            with lock:
                return function(path, **kwargs)

        return await asyncio.to_thread(call)


class _RemoteBuffer(AbstractBufferedFile):  # type: ignore[misc]
    """A file that is open; it fetches bytes by :meth:`RetryingFileSystem._cat_file`."""

    def __repr__(self) -> str:
        # HDF5 uses it as the name of the file.
        return str(self.fs.url(self.path))

    __str__ = __repr__


class _ThreadBuffer(_RemoteBuffer):
    """A file that is open; it fetches bytes in the thread that asks for them.

    h5py holds a lock while it waits for them. Threads in which garbage is collected may need that
    lock, and so it must not be such a thread that h5py waits for.
    """

    def _fetch_range(self, start: int, end: int) -> Any:
        # One loop cannot run within another: that of a notebook, for instance.
        if in_event_loop():
            return super()._fetch_range(start, end)
        with _thread_lock:
            content = self.fs.on(_thread_loop)._cat_file(self.path, start, end)
            return _thread_loop.run_until_complete(content)


@dataclass(frozen=True, eq=False)
class RemoteFile:
    """A file at a URL; picklable, and opened where it is read.

    Attributes
    ----------
    filesystem : RetryingFileSystem
    path : str
        Within the file system.
    size : int
        In bytes.
    """

    filesystem: RetryingFileSystem
    path: str
    size: int

    @classmethod
    def at(cls, url: str, storage_options: Mapping[str, Any] | None = None) -> "RemoteFile":
        """Return the file at a URL.

        Raises
        ------
        DataError
            If it cannot be found.
        """
        filesystem, path = open_filesystem(url, storage_options)
        try:
            return filesystem.file(path)
        except FetchError as error:
            raise DataError(f"{without_credentials(url)} cannot be opened: {error}") from error

    def __str__(self) -> str:
        return self.filesystem.url(self.path)

    def open(
        self, mode: Literal["rb"] = "rb", read_ahead: int = 0, *, in_thread: bool = False
    ) -> Any:
        """Open it to read bytes.

        Parameters
        ----------
        mode : "rb"
        read_ahead : int
            Bytes that are fetched beyond those asked for, and kept until the next read.
        in_thread : bool
            Whether bytes are fetched in the thread that reads, which no other waits for then.
        """
        return self.filesystem.open(
            self.path,
            mode,
            block_size=read_ahead,
            cache_type="readahead" if read_ahead else "none",
            size=self.size,
            in_thread=in_thread,
        )


def open_filesystem(
    url: str, storage_options: Mapping[str, Any] | None = None, *, asynchronous: bool = False
) -> tuple[RetryingFileSystem, str]:
    """Return the file system that a URL names, and the path within it.

    Parameters
    ----------
    url : str
        Chained ones too.
    storage_options : mapping, optional
        fsspec's options for its protocol.
    asynchronous : bool
        Whether it is called from an event loop.

    Raises
    ------
    DataError
        If there is no such file system or it does not take the options.
    """
    options = _with_timeouts(url, storage_options or {})
    # A folder of a file system may be one of a file system that is not asynchronous.
    if asynchronous and not url.startswith("dir://"):
        options["asynchronous"] = True
    shown, failure = without_credentials(url), None
    try:
        # An archive within a chain is opened now.
        fs, path = tries(shown, told)(url_to_fs, url, **options)
    except Exception as error:  # noqa: BLE001 - whatever a backend raises is explained
        failure = _no_filesystem(url, error)
    if failure is not None:
        raise failure
    query = ""
    if path.startswith(("http://", "https://")):
        path = path.partition("#")[0]
        path, mark, query = path.partition("?")
        query = mark + query
    # File systems that wrap another one report its properties as their own.
    if not fs.async_impl or isinstance(fs, (CachingFileSystem, DirFileSystem)):
        fs = _ThreadedFileSystem(fs=fs, asynchronous=asynchronous)
    users = tuple(re.findall(r"://([^/\s]*@)", url))
    return RetryingFileSystem(fs=fs, query=query, users=users, asynchronous=asynchronous), path


def _no_filesystem(url: str, error: Exception) -> DataError:
    """Return the error for a URL whose file system cannot be made."""
    shown = without_credentials(url)
    module = missing_module(error)
    if module is not None:
        return missing_package(shown, module)
    is_unknown = "Protocol not known" in str(error)
    advice = "; check it, or install the package that reads such URLs through fsspec"
    return DataError(f"{shown} cannot be opened ({told(error)}){advice if is_unknown else ''}")


def _with_timeouts(url: str, storage_options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options with which silent servers time out, and no request is made twice.

    Other backends than these have limits of their own.
    """
    patience = aiohttp.ClientTimeout(
        total=None, sock_connect=STALL_SECONDS, sock_read=STALL_SECONDS
    )
    ours: dict[str, dict[str, dict[str, Any]]] = {
        "http": {"client_kwargs": {"timeout": patience}},
        "s3": {
            "config_kwargs": {
                "connect_timeout": STALL_SECONDS,
                "read_timeout": STALL_SECONDS,
                "retries": {"total_max_attempts": 1},
            }
        },
    }
    ours["https"], ours["s3a"] = ours["http"], ours["s3"]
    options = dict(storage_options)
    for i, link in enumerate(url.split("::")):
        protocol = link.partition("://")[0]
        for name, settings in ours.get(protocol, {}).items():
            # Options of the first link stand by themselves, others under their protocol.
            if i > 0:
                options[protocol] = {**options.get(protocol, {})}
            place = options if i == 0 else options[protocol]
            place[name] = {**settings, **place.get(name, {})}
    return options
