"""Local paths: refuse values that are not paths, and explain why a path cannot be opened."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from streamgmm.errors import OutputError, ParameterError, StreamGMMError


def local_path(path: object, error: type[StreamGMMError], purpose: str) -> Path:
    """Return the path of a local file or folder; refuse values that are not local paths.

    Parameters
    ----------
    path : object
        Value that a caller gave as a path.
    error : type
        Type of the error for text that is not a local path.
    purpose : str
        Purpose of the file, in the plural, such as "model files".

    Raises
    ------
    ParameterError
        If the value is neither text nor path-like.
    """
    if not isinstance(path, str | os.PathLike) or isinstance(text := os.fspath(path), bytes):
        raise ParameterError(f"{path!r} is not a path; give the path of a file as text")
    if not text:
        raise error("the path is empty; name a file")
    if "\0" in text:
        raise error(f"{text!r} cannot be a path: it holds a NUL character; remove it")
    text = text.removeprefix("file://")
    if "://" in text:
        raise error(
            f"{text} is a URL, but {purpose} are on local disks; give a path without ://, and "
            "copy the file from or to the URL"
        )
    return Path(text)


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading; refuse a device, a pipe or a socket, and never wait for it.

    Raises
    ------
    OSError
        If the file is not regular, or cannot be opened.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError("it is a directory")
    raise OSError("it is no regular file, but a device or a pipe")


def refuse_special(path: Path) -> None:
    """Refuse to replace a device, a pipe or a socket by a file.

    Raises
    ------
    OutputError
        If the path names one.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        raise OutputError(f"{path} is a device or a pipe and will not be replaced; name a file")


@contextmanager
def writing(target: Path) -> Iterator[None]:
    """Raise errors of the file system as errors that name the file being written.

    Raises
    ------
    OutputError
    """
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        reason = why_absent(target.parent) or error
        raise OutputError(f"{target} cannot be written: {reason}") from error


def why_absent(path: Path) -> str | None:
    """Return why a local path cannot be opened, and what to do; None if it can be."""
    text = str(path)
    if "\0" in text:
        return f"{text!r} cannot be a path: it holds a NUL character; remove it"
    try:
        path.stat()
    except PermissionError:
        return f"{path}: permission denied; ask its owner for the right to read it"
    except (FileNotFoundError, NotADirectoryError):
        return f"{path}: no such file or directory; {_hint(path)}"
    except OSError as error:
        return f"{path} cannot be opened ({error.strerror}); check the path"
    return None


def _hint(path: Path) -> str:
    if path.is_symlink():
        return f"it is a link to {path.readlink()}, which does not exist; restore that file"
    if path.parts and path.parts[0].startswith("~"):
        return f"~ is not replaced by a home directory here; write {_expanded(path)}"
    if not path.is_absolute():
        return f"check the path, which begins in the working directory {Path.cwd()}"
    return "check the path"


def _expanded(path: Path) -> str:
    try:
        return str(path.expanduser())
    except RuntimeError:
        return "the whole path"
