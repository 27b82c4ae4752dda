"""Storage of the files of a checkpoint: a folder of this machine, or a prefix of URLs."""

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import IO, Any, Protocol

from streamgmm.errors import OutputError
from streamgmm.locks import locked
from streamgmm.model_files import content_of, held, refuse_loss
from streamgmm.packages import missing_module, missing_package, needed_by
from streamgmm.paths import local_path, open_regular
from streamgmm.persistence import write_whole
from streamgmm.urls import is_url, without_credentials

#: The file that a process locks while it uses a folder.
LOCK = "lock"


def place_at(location: str | os.PathLike[str]) -> "Place":
    """Return the storage at a path or a URL."""
    path = os.fspath(location)
    if is_url(path):
        return _Prefix(path)
    return _Folder(local_path(path.removeprefix("file://"), OutputError, "checkpoints"))


class Place(Protocol):
    """Storage of files by name."""

    def names(self) -> set[str]:
        """Return the names of the files."""

    def held(self) -> AbstractContextManager[object]:
        """Return a context in which this process alone uses the storage, and may write."""

    def write(self, name: str, write: Callable[[IO[bytes]], object]) -> int:
        """Write a file, and return its size."""

    def write_model(self, name: str, write: Callable[[IO[bytes]], object]) -> None:
        """Write the file of a model, which other processes may write too."""

    def reading(self, name: str) -> AbstractContextManager[IO[bytes]]:
        """Return a file, open for reading."""

    def remove(self, name: str) -> None:
        """Remove a file, if it exists."""


class _Folder:
    """A folder on this machine."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._model_content: str | None = None

    def __str__(self) -> str:
        return str(self._path)

    def names(self) -> set[str]:
        try:
            return {path.name for path in self._path.iterdir()}
        except FileNotFoundError:
            return set()
        except OSError as error:
            raise OutputError(f"{self} cannot be a checkpoint: {error}") from error

    @contextmanager
    def held(self) -> Iterator[None]:
        lock = self._path / LOCK
        with ExitStack() as stack:
            try:
                self._path.mkdir(mode=0o700, exist_ok=True)
                stack.enter_context(locked(lock))
            except TimeoutError:
                raise OutputError(
                    f"{self} is the checkpoint of another process that runs, which has {lock} "
                    "locked; wait for it, or name another"
                ) from None
            except OSError as error:
                raise OutputError(f"{self} cannot be written: {error}") from error
            yield

    def write(self, name: str, write: Callable[[IO[bytes]], object]) -> int:
        # Samples of the rows are among the results.
        write_whole(self._path / name, write, private=True)
        return (self._path / name).stat().st_size

    def write_model(self, name: str, write: Callable[[IO[bytes]], object]) -> None:
        path = self._path / name
        with held(path):
            refuse_loss(path, self._model_content)
            self.write(name, write)
            self._model_content = content_of(path)

    def reading(self, name: str) -> AbstractContextManager[IO[bytes]]:
        try:
            return open_regular(self._path / name)
        except OSError as error:
            raise OutputError(f"{self._path / name} cannot be read: {error}") from error

    def remove(self, name: str) -> None:
        try:
            (self._path / name).unlink(missing_ok=True)
        except OSError as error:
            raise OutputError(f"{self._path / name} cannot be removed: {error}") from error


class _Prefix:
    """A prefix of URLs, by fsspec; files are written and read as a whole."""

    def __init__(self, url: str) -> None:
        self._url = without_credentials(url.rstrip("/"))
        with needed_by(self._url):
            from fsspec.core import url_to_fs

            from streamgmm.sources.remote.retrying import told, tries
        self._told = told
        self._tries = tries(self._url, told)
        self._filesystem, self._path = self._tried(url_to_fs, url.rstrip("/"))

    def __str__(self) -> str:
        return self._url

    def names(self) -> set[str]:
        return {path.rpartition("/")[2] for path in self._tried(self._paths)}

    def _paths(self) -> list[str]:
        self._filesystem.invalidate_cache()
        try:
            paths: list[str] = self._filesystem.ls(self._path, detail=False)
        except FileNotFoundError:
            return []
        return paths

    def held(self) -> AbstractContextManager[object]:
        return nullcontext()

    def write(self, name: str, write: Callable[[IO[bytes]], object]) -> int:
        with tempfile.NamedTemporaryFile() as file:
            write(file)
            file.flush()
            self._tried(self._filesystem.put_file, file.name, f"{self._path}/{name}")
            return Path(file.name).stat().st_size

    def write_model(self, name: str, write: Callable[[IO[bytes]], object]) -> None:
        self.write(name, write)

    @contextmanager
    def reading(self, name: str) -> Iterator[IO[bytes]]:
        with tempfile.NamedTemporaryFile() as file:
            self._tried(self._filesystem.get_file, f"{self._path}/{name}", file.name)
            with Path(file.name).open("rb") as copied:
                yield copied

    def remove(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._tries(self._filesystem.rm_file, f"{self._path}/{name}")

    def _tried(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        try:
            return self._tries(function, *args, **kwargs)
        except Exception as error:  # noqa: BLE001 - every error of a backend is explained
            module = missing_module(error)
            failure = (
                OutputError(f"{self} cannot be used as a checkpoint ({self._told(error)})")
                if module is None
                else missing_package(self._url, module)
            )
        # Raised outside, because the chained traceback would show what the message hides.
        raise failure
