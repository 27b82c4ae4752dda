"""Models and results on disk: npz archives of arrays and one JSON header, without pickle.

The header says what wrote the file and in which version of the format; a file is written beside
its final name and takes it when it is whole.
"""

import contextlib
import hashlib
import json
import os
import re
import stat
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import IO, Any, TypeVar, get_args, get_origin, get_type_hints

import numpy as np
from numpy.typing import NDArray

from streamgmm.core.frame import Frame
from streamgmm.core.statistics import COUNTS, Statistics
from streamgmm.errors import ModelFileError, OutputError
from streamgmm.paths import local_path, why_absent

FORMAT = "streamgmm"
VERSION = 1
#: Suffix of a file that is being written beside its final name.
UNFINISHED = ".part"
_HEADER = "header"
# Bytes of a name to which more is added for a file beside it; most file systems take 255.
_LONGEST_STEM = 200

V = TypeVar("V")


@dataclass(frozen=True)
class Record:
    """What a file holds.

    Attributes
    ----------
    header : dict
        Whatever JSON can say.
    arrays : dict of str to ndarray
    """

    header: Mapping[str, Any]
    arrays: Mapping[str, NDArray[Any]]


def write_record(path: str | os.PathLike[str], record: Record) -> None:
    """Write a record, atomically: the file is the old one or the new one, never half of one.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    target = local_path(path, OutputError, "model files")
    if target.is_dir():
        raise OutputError(f"{target} cannot be written: it is a directory; name a file in it")
    write_whole(target, lambda file: save_record(file, record))


def save_record(file: IO[bytes], record: Record) -> None:
    """Write a record into a file that is open."""
    header = {"format": FORMAT, "version": VERSION, **record.header}
    text = np.frombuffer(json.dumps(header).encode(), dtype=np.uint8)
    np.savez(file, allow_pickle=False, **{_HEADER: text}, **record.arrays)


def write_whole(
    target: Path, write: Callable[[IO[bytes]], object], *, private: bool = False
) -> None:
    """Write a file atomically: the file is the old one or the new one, never half of one.

    A symbolic link is followed. A file that is replaced keeps its mode and, where the system
    permits it, its owner. A new file has the mode that the umask leaves.

    Parameters
    ----------
    target : Path
    write : callable
        Write the content into a file that is open.
    private : bool
        Whether only its owner may read a new file.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    target = Path(os.path.realpath(target)) if target.is_symlink() else target
    unfinished = target.with_name(f".{stem(target)}.{uuid.uuid4().hex[:8]}{UNFINISHED}")
    try:
        with _create(unfinished, target, private) as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(target)
        _sync_folder(target.parent)
    except OSError as error:
        reason = why_absent(target.parent) or error
        raise OutputError(f"{target} cannot be written: {reason}") from error
    finally:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)


def _create(path: Path, target: Path, private: bool) -> IO[bytes]:
    """Create a file that is to replace the target, with the mode and the owner of the target."""
    former = target.stat() if target.is_file() else None
    mode = 0o600 if private or former is not None else 0o666
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    if former is not None:
        # Only a privileged process may give a file to another owner.
        with contextlib.suppress(PermissionError):
            os.fchown(descriptor, former.st_uid, former.st_gid)
        os.fchmod(descriptor, stat.S_IMODE(former.st_mode))
    return os.fdopen(descriptor, "wb")


def stem(target: Path) -> str:
    """Return the name of a file, or a digest of it where a longer name would not fit."""
    name = os.fsencode(target.name)
    return target.name if len(name) <= _LONGEST_STEM else hashlib.sha256(name).hexdigest()


def discard_unfinished(target: Path) -> None:
    """Remove what killed processes left beside a file that no process is writing."""
    unfinished = re.compile(rf"\.{re.escape(stem(target))}\.[0-9a-f]{{8}}{re.escape(UNFINISHED)}")
    for path in target.parent.iterdir():
        if unfinished.fullmatch(path.name):
            path.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    # Some network file systems cannot; the file itself is safe already.
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def read_record(path: str | os.PathLike[str]) -> Record:
    """Read a record.

    Raises
    ------
    ModelFileError
        If there is no such file, it is damaged, of another kind, or written by a newer version.
    """
    target = local_path(path, ModelFileError, "model files")
    reason = why_absent(target)
    if reason is not None:
        raise ModelFileError(reason)
    try:
        with target.open("rb") as file:
            return load_record(file, str(target))
    except IsADirectoryError:
        raise ModelFileError(
            f"{target} is a directory, not a model file; name the .gmm file in it"
        ) from None
    except OSError as error:
        raise ModelFileError(f"{target} cannot be read: {error}") from None


def read_header(path: Path) -> Mapping[str, Any]:
    """Read the header of a record without its arrays.

    Raises
    ------
    ModelFileError
        If the file cannot be read, or is no record.
    """
    try:
        with path.open("rb") as file, np.lib.npyio.NpzFile(file, allow_pickle=False) as archive:
            text = archive[_HEADER]
    except Exception as error:  # noqa: BLE001 - raised again
        # A damaged archive can fail in any way that its reader can.
        raise ModelFileError(f"{path} is damaged or no model file ({error})") from None
    return _header(str(path), text)


def load_record(file: IO[bytes], name: str) -> Record:
    """Read a record from a file that is open; messages name it as is said.

    Raises
    ------
    ModelFileError
        If it is damaged, of another kind, or written by a newer version.
    """
    try:
        with np.lib.npyio.NpzFile(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except Exception as error:  # noqa: BLE001 - raised again, with what to do
        # A damaged archive can fail in any way that its reader can.
        raise ModelFileError(
            f"{name} is damaged or no model file ({error}); restore it or fit again"
        ) from None
    header = _header(name, arrays.pop(_HEADER, None))
    return Record(header, arrays)


def _header(path: str, text: NDArray[Any] | None) -> dict[str, Any]:
    try:
        header = json.loads(text.tobytes()) if isinstance(text, np.ndarray) else None
    except ValueError:
        header = None
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise ModelFileError(f"{path} is not a streamgmm model file; name a file that save() wrote")
    version = header.get("version")
    if not isinstance(version, int) or version > VERSION:
        raise ModelFileError(
            f"{path} is in format version {version}; this release reads up to {VERSION}: "
            "upgrade streamgmm"
        )
    return header


_SCALARS = ("log_likelihood", "weight", *COUNTS)
_FRAME_ARRAYS = ("origin", "scale", "centred", "means", "factors")


def pack_statistics(statistics: Statistics) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Statistics as a part of a header and arrays; undone by :func:`unpack_statistics`."""
    header = {name: getattr(statistics, name) for name in _SCALARS}
    header["covariance_type"] = statistics.frame.covariance_type
    arrays = {f"frame.{name}": getattr(statistics.frame, name) for name in _FRAME_ARRAYS}
    return header, {**arrays, "moments": statistics.moments, "scatter": statistics.scatter}


def unpack_statistics(header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Statistics:
    """Statistics from what :func:`pack_statistics` made of them."""
    frame = Frame(header["covariance_type"], *(arrays[f"frame.{name}"] for name in _FRAME_ARRAYS))
    # Files of release 0.1 have fewer counts.
    scalars = {name: header.get(name, 0) for name in _SCALARS}
    return Statistics(frame, arrays["moments"], arrays["scatter"], **scalars)


def prefixed(prefix: str, arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Arrays of a part, under names of their own in the whole."""
    return {prefix + name: array for name, array in arrays.items()}


def without_prefix(prefix: str, arrays: Mapping[str, Any]) -> dict[str, Any]:
    """The arrays of a part of the whole."""
    return {
        name.removeprefix(prefix): array
        for name, array in arrays.items()
        if name.startswith(prefix)
    }


def pack(value: Any) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """A dataclass of arrays, plain values and more of its kind as a part of a header and arrays.

    Undone by :func:`unpack`.
    """
    header: dict[str, Any] = {}
    arrays: dict[str, NDArray[Any]] = {}
    for name in (field.name for field in fields(value)):
        content = getattr(value, name)
        if isinstance(content, np.ndarray):
            arrays[name] = content
        elif is_dataclass(content):
            header[name], own = pack(content)
            arrays |= prefixed(f"{name}.", own)
        elif isinstance(content, tuple) and any(map(is_dataclass, content)):
            header[name], own = pack_all(content)
            arrays |= prefixed(f"{name}.", own)
        elif isinstance(content, np.dtype):
            header[name] = content.str
        else:
            header[name] = content.item() if isinstance(content, np.generic) else content
    return header, arrays


def pack_all(values: Sequence[Any]) -> tuple[list[dict[str, Any]], dict[str, NDArray[Any]]]:
    """Dataclasses of one kind as a part of a header and arrays; undone by :func:`unpack_all`."""
    packed = [pack(value) for value in values]
    arrays: dict[str, NDArray[Any]] = {}
    for place, (_, own) in enumerate(packed):
        arrays |= prefixed(f"{place}.", own)
    return [header for header, _ in packed], arrays


def unpack(kind: type[V], header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> V:
    """The dataclass that :func:`pack` took apart.

    Raises
    ------
    KeyError, TypeError
        If something is missing or of the wrong kind.
    """
    values: dict[str, Any] = {}
    for name, content in get_type_hints(kind).items():
        own = without_prefix(f"{name}.", arrays)
        if get_origin(content) is tuple and is_dataclass(get_args(content)[0]):
            values[name] = unpack_all(get_args(content)[0], header[name], own)
        elif get_origin(content) is np.dtype:
            values[name] = np.dtype(header[name])
        elif isinstance(content, type) and is_dataclass(content):
            values[name] = unpack(content, header[name], own)
        elif isinstance(content, type) and issubclass(content, np.generic):
            values[name] = content(header[name])
        else:
            values[name] = arrays[name] if name in arrays else header[name]
    return kind(**values)


def unpack_all(
    kind: type[V], headers: Sequence[Mapping[str, Any]], arrays: Mapping[str, NDArray[Any]]
) -> tuple[V, ...]:
    """The dataclasses of one kind that :func:`pack_all` took apart.

    Raises
    ------
    KeyError, TypeError
        If something is missing or of the wrong kind.
    """
    return tuple(
        unpack(kind, header, without_prefix(f"{place}.", arrays))
        for place, header in enumerate(headers)
    )
