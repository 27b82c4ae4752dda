"""Dask arrays: each block of rows is a chunk, and stays a task until a scheduler runs it."""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import dask.array
import numpy as np
from dask.delayed import Delayed, delayed
from numpy.typing import NDArray

from streamgmm.errors import DataError
from streamgmm.protocols import Chunk
from streamgmm.sources.layout import check_table
from streamgmm.sources.weighted import check_weights, weighted


class DaskSource:
    """Rows of a Dask array, block by block; blocks along columns are joined.

    Parameters
    ----------
    array : dask.array.Array of shape (N, D)
    weights : array of shape (N,), optional
        Row weights: a Dask array, or anything that slices to numbers.

    Raises
    ------
    DataError
        If the array is no table of real numbers, its chunk sizes are not known, or the weights do
        not match.
    """

    def __init__(self, array: dask.array.Array, weights: Any = None) -> None:
        self.name = f"the Dask array {array.name}"
        if any(np.isnan(size) for size in array.shape):
            raise DataError(
                f"{self.name} has unknown chunk sizes; call X.compute_chunk_sizes() first "
                "(for a DataFrame, X.to_dask_array(lengths=True))"
            )
        check_table(self.name, array.shape, array.dtype)
        self._array: Any = array.rechunk({1: -1})  # type: ignore[no-untyped-call]
        self.n_rows, self.n_features = (int(size) for size in array.shape)
        self.dtype: np.dtype[Any] = array.dtype
        self.boundaries: Sequence[int] = [0, *accumulate(self._array.chunks[0])]
        self._weights = None if weights is None else check_weights(weights, self)

    @property
    def read_bytes(self) -> int:
        """Bytes of the largest block, and as much again to compute it."""
        largest = int(max(self._array.chunks[0]))
        return 2 * largest * self.n_features * self.dtype.itemsize

    def lazy_chunks(self) -> list[Delayed]:
        """A task for each chunk."""
        make = delayed(_chunk, pure=False)
        blocks = self._array.to_delayed().ravel()
        return [
            make(block, start, self._weights_of(i))
            for i, (block, start) in enumerate(zip(blocks, self.boundaries, strict=False))
        ]

    def read(self, i: int) -> Chunk:
        """Chunk i."""
        block = self._array.blocks[i].compute()
        weights = self._weights_of(i)
        return _chunk(block, self.boundaries[i], None if weights is None else np.asarray(weights))

    def _weights_of(self, i: int) -> Any:
        if self._weights is None:
            return None
        return self._weights[self.boundaries[i] : self.boundaries[i + 1]]


def _chunk(block: NDArray[Any], start: int, weights: NDArray[Any] | None) -> Chunk:
    chunk = Chunk(np.asarray(block), range(start, start + len(block)))
    return chunk if weights is None else weighted(chunk, weights, start)
