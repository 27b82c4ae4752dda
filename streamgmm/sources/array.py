"""Arrays in memory, memory-mapped arrays and ``.npy`` files."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from streamgmm.errors import DataError
from streamgmm.protocols import Chunk
from streamgmm.sources.layout import check_table, regular_boundaries, rows_per_chunk


class ArraySource:
    """Rows of a NumPy array; chunks are views.

    Chunks of a memory-mapped array are copied as they are read, so that reading is done
    ahead of computing.

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

    def __init__(self, array: NDArray[Any], name: str = "X") -> None:
        check_table(name, array.shape, array.dtype)
        self.name = name
        self._array = array
        self.n_rows: int = array.shape[0]
        self.n_features: int = array.shape[1]
        self.dtype: np.dtype[Any] = array.dtype
        self._chunk_rows = rows_per_chunk(self.n_features)
        self.boundaries: Sequence[int] = regular_boundaries(self.n_rows, self._chunk_rows)
        self._is_mapped = isinstance(array, np.memmap)

    @property
    def read_bytes(self) -> int:
        """Bytes of a chunk if it is copied, else 0."""
        if not self._is_mapped:
            return 0
        return self._chunk_rows * self.n_features * self.dtype.itemsize

    def read(self, i: int) -> Chunk:
        """Chunk i."""
        start, stop = self.boundaries[i], self.boundaries[i + 1]
        rows = self._array[start:stop]
        return Chunk(np.array(rows) if self._is_mapped else rows, range(start, stop))


class NpyFileSource:
    """Rows of a ``.npy`` file, read chunk by chunk and never mapped.

    Parameters
    ----------
    path : path-like

    Raises
    ------
    DataError
        If the file is no ``.npy`` file, is shorter than its header says, or is no table of real
        numbers.
    """

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._path = path
        try:
            with path.open("rb") as file:
                shape, self._is_fortran, self.dtype = _read_header(file)
                self._offset = file.tell()
        except (ValueError, OSError) as error:
            raise DataError(f"{path} is not a .npy file that can be read: {error}") from None
        check_table(self.name, shape, self.dtype)
        self.n_rows, self.n_features = shape
        expected = self._offset + self.n_rows * self._row_bytes
        if path.stat().st_size < expected:
            raise DataError(
                f"{path} is truncated: it holds {path.stat().st_size} bytes, "
                f"its header announces {expected}; write or copy it again"
            )
        self._chunk_rows = rows_per_chunk(self.n_features)
        self.boundaries: Sequence[int] = regular_boundaries(self.n_rows, self._chunk_rows)

    @cached_property
    def _row_bytes(self) -> int:
        return self.n_features * self.dtype.itemsize

    @property
    def read_bytes(self) -> int:
        """Bytes of a chunk."""
        return self._chunk_rows * self._row_bytes

    def read(self, i: int) -> Chunk:
        """Chunk i."""
        start, stop = self.boundaries[i], self.boundaries[i + 1]
        if not self._is_fortran:
            values = self._read_values(start * self.n_features, (stop - start) * self.n_features)
            rows = values.reshape(-1, self.n_features)
        else:
            columns = [
                self._read_values(d * self.n_rows + start, stop - start)
                for d in range(self.n_features)
            ]
            rows = np.stack(columns).T
        return Chunk(rows, range(start, stop))

    def _read_values(self, first: int, count: int) -> NDArray[Any]:
        offset = self._offset + first * self.dtype.itemsize
        values = np.fromfile(self._path, dtype=self.dtype, count=count, offset=offset)
        if values.size != count:
            raise DataError(f"{self._path} became shorter while it was read")
        return values


def _read_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(file)
    if version == (2, 0):
        return np.lib.format.read_array_header_2_0(file)
    raise ValueError(f"format version {version} is not supported")
