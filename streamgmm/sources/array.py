"""Arrays in memory, memory-mapped arrays and ``.npy`` files, on disk or at a URL."""

import math
import mmap
from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from streamgmm.errors import DataError
from streamgmm.options import Missing
from streamgmm.protocols import Chunk
from streamgmm.sources.described import Described
from streamgmm.sources.layout import (
    check_table,
    naming_rows,
    regular_boundaries,
    rows_per_chunk,
)
from streamgmm.sources.values import ValueRules, usable
from streamgmm.urls import FetchError

if TYPE_CHECKING:
    from streamgmm.sources.remote.filesystem import RemoteFile


# At a URL the header of a .npy file is fetched at once.
_HEADER_BYTES = 1024


class ArraySource(Described):
    """Rows of a NumPy array; chunks are views.

    Chunks of an array that is a part of a memory map are copied as they are read, so that
    reading is done ahead of computing. Masked values of a masked array are missing.

    Parameters
    ----------
    array : ndarray of shape (N, D)
    name : str
        What messages call it.

    Raises
    ------
    DataError
        If the array is no table of real numbers.
    """

    has_weights = False
    missing: Missing = "error"
    feature_names: Sequence[str] | None = None

    def __init__(self, array: NDArray[Any], name: str = "X") -> None:
        check_table(name, array.shape, array.dtype)
        self.name = name
        file = getattr(array, "filename", None)
        self.location = None if file is None else Path(file)
        self._array = array
        self.n_rows: int = array.shape[0]
        self.n_features: int = array.shape[1]
        self._stored_dtype: np.dtype[Any] = array.dtype
        self._rules = ValueRules(may_be_masked=isinstance(array, np.ma.MaskedArray))
        self._chunk_rows = rows_per_chunk(self.n_features)
        self.boundaries: Sequence[int] = regular_boundaries(self.n_rows, self._chunk_rows)
        self._is_mapped = isinstance(array, np.memmap)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values, as chunks hold them."""
        return self._rules.dtype(self._stored_dtype, self.missing)

    @property
    def read_bytes(self) -> int:
        """Bytes of a chunk if it is copied, else 0."""
        n_values = self._chunk_rows * self.n_features
        copied_bytes = n_values * self.dtype.itemsize if self._is_mapped else 0
        return copied_bytes + self._rules.work_bytes(n_values, self.dtype)

    def read(self, i: int) -> Chunk:
        """Return chunk i."""
        index = range(self.boundaries[i], self.boundaries[i + 1])
        rows = self._array[index.start : index.stop]
        stored = np.array(rows) if self._is_mapped else rows
        return Chunk(usable(stored, self._rules, self.missing, self.name, index), index)


class FileArray:
    """An array in a file, of which parts are read and which is never mapped.

    It is pickled as the name of the file, not as the data.

    Parameters
    ----------
    file : Path or RemoteFile
    dtype : dtype
    shape : tuple of int
    offset : int
        Where in the file the first value is, in bytes.
    is_fortran : bool
        Whether values run down the columns.
    header : bytes
        Bytes that a file on disk begins with, for as long as it is this file.

    Raises
    ------
    DataError
        If the file is too short to hold it.
    """

    def __init__(
        self,
        file: "Path | RemoteFile",
        dtype: np.dtype[Any],
        shape: tuple[int, ...],
        offset: int,
        is_fortran: bool,
        header: bytes = b"",
    ) -> None:
        self.file, self.dtype, self.shape = file, dtype, shape
        self._header = header
        self._offset, self._is_fortran = offset, is_fortran
        self._row_values = math.prod(shape[1:])
        n_bytes = file.stat().st_size if isinstance(file, Path) else file.size
        expected = offset + math.prod(shape) * dtype.itemsize
        # Python objects are stored in other sizes; they are no numbers anyway.
        if n_bytes < expected and not dtype.hasobject:
            raise DataError(
                f"{file} is truncated: it holds {n_bytes} bytes, "
                f"its header announces {expected}; write or copy it again"
            )

    @classmethod
    def from_npy(cls, file: "Path | RemoteFile") -> "FileArray":
        """Return the array in a ``.npy`` file.

        Raises
        ------
        DataError
            If it is no such file, holds Python objects, or as in the class.
        """
        try:
            header = file.open("rb") if isinstance(file, Path) else file.open("rb", _HEADER_BYTES)
            with header:
                shape, is_fortran, dtype = _read_header(header)
                offset = header.tell()
                header.seek(0)
                first_bytes = header.read(offset) if isinstance(file, Path) else b""
        except FetchError as error:
            raise DataError(f"{file} cannot be opened: {error}") from None
        except (ValueError, OSError) as error:
            raise DataError(f"{file} is not a .npy file that can be read: {error}") from None
        return cls(file, dtype, shape, offset, is_fortran, first_bytes)

    def __getitem__(self, place: slice | tuple[slice, ...]) -> NDArray[Any]:
        """Return rows from start to stop, without a step, or a box within them.

        Raises
        ------
        DataError
            If they cannot be read.
        """
        if isinstance(place, tuple):
            return self[place[0]][slice(None), *place[1:]]
        start, stop, _ = place.indices(self.shape[0])
        shape = (stop - start, *self.shape[1:])
        values = np.empty(shape, self.dtype, order="F" if self._is_fortran else "C")
        with naming_rows(str(self.file), start, stop), self.file.open("rb") as file:
            if self._header and file.read(len(self._header)) != self._header:
                raise DataError(
                    f"{self.file} was replaced by another file after it was opened; open it again"
                )
            if self._is_fortran:
                for d, column in enumerate(values.reshape(len(values), -1, order="F").T):
                    self._fill(column, file, d * self.shape[0] + start)
            else:
                self._fill(values, file, start * self._row_values)
        return values

    def _fill(self, values: NDArray[Any], file: Any, first: int) -> None:
        """Read contiguous values that begin with the given one of the file."""
        file.seek(self._offset + first * self.dtype.itemsize)
        if file.readinto(values.view(np.uint8).data) != values.nbytes:
            raise DataError(f"{self.file} became shorter while it was read")


class FileSource(Described):
    """Rows of an array in a file, read chunk by chunk.

    Build with :meth:`from_npy` or :meth:`from_memmap`.

    Parameters
    ----------
    array : FileArray of shape (N, D)

    Raises
    ------
    DataError
        If the array is no table of real numbers.

    Attributes
    ----------
    location : Path or None
        The file; None if it is at a URL.
    """

    has_weights = False
    missing: Missing = "error"
    feature_names: Sequence[str] | None = None

    def __init__(self, array: FileArray) -> None:
        self.name = str(array.file)
        check_table(self.name, array.shape, array.dtype)
        self.location = array.file if isinstance(array.file, Path) else None
        self.n_rows, self.n_features = array.shape
        self.dtype = array.dtype
        self._array = array
        self._chunk_rows = rows_per_chunk(self.n_features)
        self.boundaries: Sequence[int] = regular_boundaries(self.n_rows, self._chunk_rows)

    @classmethod
    def from_npy(cls, file: "Path | RemoteFile") -> "FileSource":
        """Return the array in a ``.npy`` file.

        Raises
        ------
        DataError
            If it is no such file, or as in the class.
        """
        return cls(FileArray.from_npy(file))

    @classmethod
    def from_memmap(cls, array: "np.memmap[Any, Any]") -> "FileSource | None":
        """Return the file behind a memory map; None if it cannot be read instead of the map.

        It cannot if the map is a part of another one (its offset is not known), is private, or its
        file has another name now.
        """
        is_whole = isinstance(array.base, mmap.mmap)
        if not is_whole or array.mode == "c" or array.filename is None:
            return None
        path = Path(array.filename)
        if array.ndim != 2 or not path.is_file():
            return None
        is_fortran = array.flags.f_contiguous and not array.flags.c_contiguous
        return cls(FileArray(path, array.dtype, array.shape, array.offset, is_fortran))

    @property
    def read_bytes(self) -> int:
        """Bytes of a chunk, and of what comes from a URL before it is put in its place."""
        n_copies = 1 if self.location is not None else 2
        return n_copies * self._chunk_rows * self.n_features * self.dtype.itemsize

    def read(self, i: int) -> Chunk:
        """Return chunk i."""
        start, stop = self.boundaries[i], self.boundaries[i + 1]
        return Chunk(self._array[start:stop], range(start, stop))


def _read_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(file)
    if version == (2, 0):
        return np.lib.format.read_array_header_2_0(file)
    raise ValueError(f"format version {version} is not supported")
