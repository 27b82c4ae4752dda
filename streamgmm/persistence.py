"""Models and results on disk: npz archives of arrays and one JSON header, without pickle.

The header names the writer of the file and the version of the format. A file is written beside its
final name, and gets this name when it is complete.
"""

import contextlib
import functools
import hashlib
import json
import os
import re
import reprlib
import stat
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import (
    IO,
    Any,
    Literal,
    Protocol,
    TypeVar,
    cast,
    get_args,
    get_origin,
    get_type_hints,
    runtime_checkable,
)

import numpy as np
import xxhash
from numpy.typing import NDArray

from streamgmm.archive import Archive, Declared
from streamgmm.core.statistics import SCALARS, Statistics
from streamgmm.core.structures import STRUCTURES
from streamgmm.core.structures.low_rank import structure_of_name
from streamgmm.errors import ModelFileError, OutputError
from streamgmm.options import CovarianceType
from streamgmm.paths import local_path, open_regular, refuse_special, why_absent, writing

FORMAT = "streamgmm"
VERSION = 1
#: Suffix of a file that is being written beside its final name.
UNFINISHED = ".part"
_HEADER, _DIGEST = "header", "digest"
# Entries of a header that are not in the digest.
_NOT_COVERED = ("format", "version", "settings", _DIGEST)
# Bounds on a header: its bytes, its depth of nesting, and the memory of its objects, which is
# estimated from the number of entries.
_LONGEST_HEADER, _DEEPEST = 64 << 20, 32
_BYTES_PER_ENTRY, _MOST_BYTES, _MOST_TIMES = 128, 32 << 20, 2
#: Errors that decoding raises for content of the wrong kind.
WRONG_CONTENT = (
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)
# Longest name, in bytes, that is extended for a file beside it; most file systems allow 255.
_LONGEST_STEM = 200

V = TypeVar("V")

#: Function that refuses a header and declared arrays, before any array is read.
Check = Callable[[Mapping[str, Any], Mapping[str, Declared]], None]


@dataclass(frozen=True)
class Record:
    """The content of a file.

    Attributes
    ----------
    header : dict
        JSON values.
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
    header[_DIGEST] = _digest(header, record.arrays)
    text = np.frombuffer(json.dumps(header).encode(), dtype=np.uint8)
    np.savez(file, allow_pickle=False, **{_HEADER: text}, **record.arrays)


def write_whole(
    target: Path, write: Callable[[IO[bytes]], object], *, private: bool = False
) -> None:
    """Write a file atomically: the file is the old one or the new one, never half of one.

    A symbolic link is followed. A file that is replaced keeps its mode and, where the system
    permits it, its owner. A new file has the mode that the umask allows.

    Parameters
    ----------
    target : Path
    write : callable
        Writes the content into an open file.
    private : bool
        Whether only its owner may read a new file.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    target = Path(os.path.realpath(target)) if target.is_symlink() else target
    refuse_special(target)
    unfinished = target.with_name(f".{stem(target)}.{uuid.uuid4().hex[:8]}{UNFINISHED}")
    try:
        with writing(target):
            with _create(unfinished, target, private) as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(target)
            _sync_folder(target.parent)
    finally:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)


def _create(path: Path, target: Path, private: bool) -> IO[bytes]:
    """Create a file that will replace the target, with the mode and the owner of the target."""
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
    """Return the name of a file, or a digest of the name if it is too long to extend."""
    name = os.fsencode(target.name)
    return target.name if len(name) <= _LONGEST_STEM else hashlib.sha256(name).hexdigest()


def discard_unfinished(target: Path) -> None:
    """Remove files that killed processes left beside a file that no process is writing."""
    unfinished = re.compile(rf"\.{re.escape(stem(target))}\.[0-9a-f]{{8}}{re.escape(UNFINISHED)}")
    for path in target.parent.iterdir():
        if unfinished.fullmatch(path.name):
            path.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    # Some network file systems do not support this; the file itself is already on the disk.
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def read_record(path: str | os.PathLike[str], check: Check | None = None) -> Record:
    """Read a record.

    Parameters
    ----------
    path : path-like
    check : callable, optional
        As for :func:`load_record`.

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
        with open_regular(target) as file:
            return load_record(file, str(target), check)
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
        with open_regular(path) as file, Archive(file, str(path)) as archive:
            return _header(str(path), archive)
    except OSError as error:
        raise ModelFileError(f"{path} cannot be read: {error}") from None


def load_record(
    file: IO[bytes], name: str, check: Check | None = None, *, needs_digest: bool = False
) -> Record:
    """Read a record from a file that is open.

    Parameters
    ----------
    file : binary file
    name : str
        The name of the file in messages.
    check : callable, optional
        Refuses a header and the arrays that the file declares, by a ValueError, a TypeError or a
        KeyError, before any array is read.
    needs_digest : bool
        Whether files without a digest, which release 0.1 wrote, are refused.

    Raises
    ------
    ModelFileError
        If the file is damaged, of another kind, or written by a newer version.
    """
    with Archive(file, name) as archive:
        header = _header(name, archive)
        digest = header.pop(_DIGEST, None)
        declared = {part: what for part, what in archive.declared.items() if part != _HEADER}
        if check is not None:
            with refusing(name):
                check(header, declared)
        arrays = {part: archive.read(part) for part in declared}
    if (needs_digest or digest is not None) and digest != _digest(header, arrays):
        raise ModelFileError(
            f"{name} is damaged or was changed: its content does not match its digest; restore it "
            "or fit again"
        )
    native = {
        part: array.astype(array.dtype.newbyteorder("="), copy=False)
        for part, array in arrays.items()
    }
    return Record(header, native)


@contextmanager
def refusing(name: str) -> Iterator[None]:
    """Raise errors of the content of a file as errors that name the file.

    Raises
    ------
    ModelFileError
    """
    try:
        yield
    except ModelFileError:
        raise
    except WRONG_CONTENT as error:
        what = f"it lacks {error}" if isinstance(error, KeyError) else error
        raise ModelFileError(f"{name} is damaged: {what}") from error


def _header(path: str, archive: Archive) -> dict[str, Any]:
    header = None
    declared = archive.declared.get(_HEADER)
    if declared is not None and declared.dtype == np.uint8:
        if declared.n_bytes > _LONGEST_HEADER:
            raise ModelFileError(f"{path} is damaged: its header has {declared.n_bytes} bytes")
        with contextlib.suppress(ValueError):
            header = _parsed(archive.read(_HEADER).tobytes(), path)
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise ModelFileError(f"{path} is not a streamgmm model file; name a file that save() wrote")
    version = header.get("version")
    if type(version) is not int or not 1 <= version <= VERSION:
        shown = reprlib.repr(version).strip("'")
        raise ModelFileError(
            f"{path} is in format version {shown}; this release reads up to {VERSION}: "
            "upgrade streamgmm"
        )
    return header


def _parsed(text: bytes, path: str) -> Any:
    """Parse JSON, with bounds on the memory of its objects.

    Raises
    ------
    ValueError
        If the text is not JSON.
    ModelFileError
        If the JSON is nested too deeply, or has too many entries.
    """
    n_entries = text.count(b",") + text.count(b"[") + text.count(b"{")
    too_large = ModelFileError(f"{path} is damaged: its header is nested too deeply or too large")
    if n_entries * _BYTES_PER_ENTRY > _MOST_BYTES + _MOST_TIMES * len(text):
        raise too_large
    try:
        value = json.loads(text)
    except RecursionError:
        raise too_large from None
    level = [value]
    for _ in range(_DEEPEST):
        level = [
            child
            for parent in level
            if isinstance(parent, dict | list)
            for child in (parent.values() if isinstance(parent, dict) else parent)
        ]
        if not level:
            return value
    raise too_large


def _digest(header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> str:
    """Return a digest of the arrays and of the header without the settings.

    The digest detects damage and accidental changes. It does not prove who wrote a file.
    """
    covered = {name: value for name, value in header.items() if name not in _NOT_COVERED}
    digest = xxhash.xxh3_128(json.dumps(covered).encode())
    for name in sorted(arrays):
        array = np.asarray(arrays[name])
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def pack_statistics(statistics: Statistics) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Return statistics as header entries and arrays; :func:`unpack_statistics` undoes this.

    The covariance type of the frame is stored with the numbers of the statistics.
    """
    header, arrays = pack(statistics)
    frame = header.pop("frame")
    return header | frame, arrays


def unpack_statistics(header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Statistics:
    """Return statistics from the result of :func:`pack_statistics`.

    Raises
    ------
    KeyError, TypeError, ValueError
        If a value is missing, or is not valid in statistics.
    """
    # Files of release 0.1 have fewer numbers.
    return unpack(Statistics, {**dict.fromkeys(SCALARS, 0), **header, "frame": header}, arrays)


def prefixed(prefix: str, arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arrays of a part, with a prefix to their names."""
    return {prefix + name: array for name, array in arrays.items()}


def without_prefix(prefix: str, arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arrays whose names have a prefix, without the prefix."""
    return {
        name.removeprefix(prefix): array
        for name, array in arrays.items()
        if name.startswith(prefix)
    }


def pack(value: Any) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Return a dataclass as header entries and arrays; :func:`unpack` undoes this.

    Its fields may be arrays, plain values, dataclasses of this kind, and None in place of one.
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
    """Return dataclasses as header entries and arrays; :func:`unpack_all` undoes this."""
    packed = [pack(value) for value in values]
    arrays: dict[str, NDArray[Any]] = {}
    for index, (_, own) in enumerate(packed):
        arrays |= prefixed(f"{index}.", own)
    return [header for header, _ in packed], arrays


@functools.cache
def _field_types(kind: type) -> Mapping[str, Any]:
    """Return the annotated types of the fields of a dataclass."""
    return get_type_hints(kind)


def unpack(kind: type[V], header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> V:
    """Return the dataclass from the result of :func:`pack`.

    A dataclass with a method ``check`` checks itself.

    Raises
    ------
    KeyError, TypeError, ValueError
        If something is missing or of the wrong kind.
    """
    values = {
        name: _unpacked(name, content, header, arrays)
        for name, content in _field_types(cast(Any, kind)).items()
    }
    value = kind(**values)
    if isinstance(value, Checked):
        value.check()
    return value


@runtime_checkable
class Checked(Protocol):
    """A value that refuses invalid content with a ValueError or a TypeError."""

    def check(self) -> None:
        """Refuse wrong content."""


def _unpacked(
    name: str, content: Any, header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]
) -> Any:
    """Return the value of a field of a dataclass, of its annotated type."""
    own = without_prefix(f"{name}.", arrays)
    origin = get_origin(content)
    if content is np.ndarray or origin in (np.ndarray, NDArray):
        return _of_dtype(name, arrays[name], get_args(content))
    if origin is tuple:
        kind: Any = get_args(content)[0]
        if is_dataclass(kind):
            return unpack_all(cast(Any, kind), header[name], own)
        return tuple(_plain(name, kind, one) for one in header[name])
    if origin is np.dtype:
        return _real_dtype(header[name])
    if origin is UnionType and header[name] is not None:
        content = next(filter(is_dataclass, get_args(content)), content)
    if isinstance(content, type) and is_dataclass(content):
        return unpack(content, header[name], own)
    if isinstance(content, type) and issubclass(content, np.generic):
        return content(header[name])
    return _plain(name, content, header[name])


def _of_dtype(name: str, array: NDArray[Any], arguments: tuple[Any, ...]) -> NDArray[Any]:
    """Return the array, if its values have the annotated type; any real type if none is given."""
    # NDArray is ndarray[shape, dtype[type]], and from NumPy 2.5 on an alias: NDArray[type].
    wanted = np.number if not arguments else arguments[-1]
    if get_origin(wanted) is np.dtype:
        wanted = get_args(wanted)[0]
    if issubclass(wanted, np.generic) and not np.issubdtype(array.dtype, wanted):
        raise TypeError(f"{name} holds {array.dtype} and not {np.dtype(wanted)}")
    return array


def _real_dtype(text: str) -> np.dtype[Any]:
    dtype = np.dtype(text)
    if dtype.kind not in "biuf" or dtype.subdtype is not None:
        raise TypeError(f"{dtype} is no type of real numbers")
    return dtype


def _plain(name: str, content: Any, value: Any) -> Any:
    """Return the value, if it is a JSON form of the annotated type."""
    kinds = get_args(content) if get_origin(content) is UnionType else (content,)
    if content == CovarianceType:
        # Users may have registered their own structures.
        is_right = isinstance(value, str) and (
            value in STRUCTURES or structure_of_name(value) is not None
        )
    elif get_origin(content) is Literal:
        is_right = value in get_args(content)
    elif float in kinds:
        is_right = type(value) in (*kinds, int)
    else:
        is_right = type(value) in kinds
    if not is_right:
        raise TypeError(f"{name} is {reprlib.repr(value)}")
    return value


def unpack_all(
    kind: type[V], headers: Sequence[Mapping[str, Any]], arrays: Mapping[str, NDArray[Any]]
) -> tuple[V, ...]:
    """Return the dataclasses of one kind from the result of :func:`pack_all`.

    Raises
    ------
    KeyError, TypeError
        If something is missing or of the wrong kind.
    """
    return tuple(
        unpack(kind, header, without_prefix(f"{index}.", arrays))
        for index, header in enumerate(headers)
    )
