"""Write ``.npy`` files."""

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from streamgmm.protocols import Region
from streamgmm.sinks.digest import values_digest
from streamgmm.sinks.form import Form
from streamgmm.sinks.part import sync

# Metadata of a file are smaller than this.
_MOST_HEADER_BYTES = 1 << 16


class NpyForm(Form):
    """A ``.npy`` file.

    Parameters
    ----------
    target : Path
    shape : tuple of int
    dtype : dtype
    """

    def __init__(self, target: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        super().__init__(target)
        self._shape, self._dtype = shape, dtype

    def create(self, path: Path, is_shared: bool) -> "_Values":
        """Make the file, and room for all its values."""
        array = np.lib.format.open_memmap(path, mode="w+", dtype=self._dtype, shape=self._shape)
        # With a sparse file, a full disk would cause a bus error while rows are written.
        if hasattr(os, "posix_fallocate"):
            with path.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        array.flush()
        sync(path)
        return _Values(array)

    def open(self, path: Path, is_shared: bool) -> "_Values":
        """Open what :meth:`create` made, to continue writing."""
        return _Values(np.lib.format.open_memmap(path, mode="r+"))

    def layout_digest(self, path: Path) -> str:
        """Return the digest of the header; the values come last."""
        n_value_bytes = math.prod(self._shape) * self._dtype.itemsize
        n_header_bytes = path.stat().st_size - n_value_bytes
        if not 0 < n_header_bytes < _MOST_HEADER_BYTES:
            return ""
        with path.open("rb") as file:
            return xxhash.xxh3_128_hexdigest(file.read(n_header_bytes))


class _Values:
    """The values of a memory map."""

    def __init__(self, array: "np.memmap[Any, Any]") -> None:
        self._array = array

    def __setitem__(self, region: Region, values: NDArray[Any]) -> None:
        self._array[region] = values

    def sync(self, regions: Sequence[Region]) -> None:
        self._array.flush()

    def digest(self, region: Region) -> bytes:
        return values_digest(region, [self._array[region]])

    def remove(self, region: Region) -> None:
        """Keep the values: they are written over."""

    def writer(self) -> None:
        """Return None: a memory map belongs to its process."""
