"""Read untrusted archives of arrays: the declared sizes bound each read.

An archive is a zip file of ``.npy`` members, as :func:`numpy.savez` writes it. Names, types, shapes
and sizes of all members can be checked before the values of any array are read.
Pickled objects are never read.
"""

import math
import re
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import IO, Any, Self

import numpy as np
from numpy.typing import NDArray

from streamgmm.errors import ModelFileError

_SUFFIX = ".npy"
# Version 1.0 of the .npy format.
_MAGIC = b"\x93NUMPY\x01\x00"
# Type descriptions that NumPy writes for booleans, integers and floats. Lengths are below 2^63.
_DESCRIPTION = re.compile(
    rb"\{'descr': '([<>|][biuf]\d{1,2})', 'fortran_order': (True|False), "
    rb"'shape': \(((?:\d{1,18}(?:, ?|(?=\))))*)\), \} *\n"
)
# Number of bytes that are read at once. The list of all members must be shorter, too.
_READ_BYTES = 1 << 19
# Other methods can expand a few bytes without a bound.
_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
# Arrays may take this multiple of the bytes of the archive, plus this number of bytes: parameters
# and statistics do not compress well.
_MOST_TIMES, _MOST_BYTES = 100, 64 << 20


@dataclass(frozen=True)
class Declared:
    """The type and the shape that an archive declares for an array.

    Attributes
    ----------
    dtype : dtype
    shape : tuple of int
    """

    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    @property
    def n_bytes(self) -> int:
        """Bytes of the values."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class _Member:
    """An array whose type description has been read, and whose values come next."""

    declared: Declared
    is_fortran: bool
    values: IO[bytes]


class Archive:
    """The members of an archive, open for reading.

    Parameters
    ----------
    file : binary file
        A seekable file, open for reading; it stays open.
    name : str
        The name of the file in messages.

    Raises
    ------
    ModelFileError
        If the file is no archive of arrays, is damaged, or declares more data than it can hold.
    """

    def __init__(self, file: IO[bytes], name: str) -> None:
        self._name = name
        with _explained(name):
            self._archive = zipfile.ZipFile(_BoundedFile(file))
        self._members: dict[str, _Member] = {}
        with _explained(name):
            for info in self._archive.infolist():
                member = info.filename.removesuffix(_SUFFIX)
                if member == info.filename or member in self._members:
                    raise ValueError(f"{info.filename[:80]!r} is no array, or is there twice")
                self._members[member] = _open(self._archive, info)
            n_bytes = sum(member.declared.n_bytes for member in self._members.values())
            size = file.seek(0, 2)
            if n_bytes > _MOST_TIMES * size + _MOST_BYTES:
                raise ValueError(f"its {size} bytes declare arrays of {n_bytes} bytes")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for member in self._members.values():
            member.values.close()
        self._archive.close()

    @property
    def declared(self) -> Mapping[str, Declared]:
        """The declared type and shape of each array, by name."""
        return {name: member.declared for name, member in self._members.items()}

    def read(self, name: str) -> NDArray[Any]:
        """Read the values of an array, once.

        Raises
        ------
        ModelFileError
            If the values are damaged.
        """
        member = self._members[name]
        shape = member.declared.shape
        with _explained(self._name):
            flat = np.empty(math.prod(shape), member.declared.dtype)
            view = flat.view(np.uint8).data
            for start in range(0, len(view), _READ_BYTES):
                part = view[start : start + _READ_BYTES]
                if _fill(part, member.values) < len(part):
                    raise EOFError(f"{name} is shorter than its header says")
            # The zip reader compares the checksum at the end of the member.
            if member.values.read(1):
                raise ValueError(f"{name} is longer than its header says")
        if member.is_fortran:
            return flat.reshape(shape[::-1]).transpose()
        return flat.reshape(shape)


class _BoundedFile:
    """A file that bounds the number of bytes of one read."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int = -1) -> bytes:
        if size > _READ_BYTES:
            raise ValueError("its list of members is too long")
        return self._file.read(size if size >= 0 else _READ_BYTES)

    def seekable(self) -> bool:
        return True


def _open(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> _Member:
    """Open a member and read its type description.

    Raises
    ------
    ValueError
        If the member holds other values than real numbers, or its size differs from the declared
        one.
    """
    if info.compress_type not in _COMPRESSIONS:
        raise ValueError(f"{info.filename[:80]!r} is compressed in an unknown way")
    values = archive.open(info)
    start = values.read(len(_MAGIC) + 2)
    text = values.read(int.from_bytes(start[len(_MAGIC) :], "little"))
    description = _DESCRIPTION.fullmatch(text)
    if not start.startswith(_MAGIC) or description is None:
        raise ValueError(f"{info.filename[:80]!r} is no array of real numbers")
    dtype, order, lengths = description.groups()
    shape = tuple(map(int, lengths.replace(b",", b" ").split()))
    declared = Declared(np.dtype(dtype.decode()), shape)
    if declared.n_bytes != info.file_size - len(start) - len(text):
        raise ValueError(f"{info.filename[:80]!r} has another size than it declares")
    return _Member(declared, order == b"True", values)


def _fill(part: memoryview, file: IO[bytes]) -> int:
    """Fill memory from a file up to its end, and return the number of bytes."""
    n_filled = 0
    while n_filled < len(part):
        content = file.read(len(part) - n_filled)
        if not content:
            break
        part[n_filled : n_filled + len(content)] = content
        n_filled += len(content)
    return n_filled


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Raise errors of an archive as errors that say what to do."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - raised again, with what to do
        # A damaged archive can fail in any way that its reader can.
        raise ModelFileError(
            f"{name} is damaged or no model file ({error}); restore it or fit again"
        ) from None
