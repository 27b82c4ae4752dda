"""Row weights beside any source."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamgmm.errors import DataError
from streamgmm.protocols import Chunk, LabelledSource, Source, StoredSource
from streamgmm.sources.layout import naming_rows

# Squares of weights, and sums of them, must not overflow.
_LARGEST = 1e100


class WeightedSource:
    """A source whose chunks carry row weights.

    Parameters
    ----------
    source : Source
    weights : array of shape (N,)
        Anything that slices to numbers: NumPy, memory map, Zarr, Dask. It is read chunk by
        chunk, beside the rows.

    Raises
    ------
    DataError
        If the shape is not (N,) or the source has weights already; on reading, if a weight is
        negative, NaN or above 1e100.
    """

    has_weights = True

    def __init__(self, source: Source, weights: Any) -> None:
        if isinstance(source, WeightedSource):
            raise weighted_twice(source.name)
        self._source = source
        self._stored = source if isinstance(source, StoredSource) else None
        self._weights = check_weights(weights, source)
        self.name: str = source.name
        self.n_rows, self.n_features = source.n_rows, source.n_features
        self.dtype, self.boundaries = source.dtype, source.boundaries
        self.missing, self.feature_names = source.missing, source.feature_names

    @property
    def location(self) -> Path | None:
        """Where the rows are on disk; None if nowhere."""
        return self._source.location

    @property
    def read_bytes(self) -> int:
        """Bytes of a chunk and its weights."""
        largest = max(np.diff(self.boundaries))
        is_view = type(self._weights) is np.ndarray and self._weights.dtype == np.float64
        return self._source.read_bytes + (0 if is_view else 16 * int(largest))

    def prefetch(self, i: int) -> None:
        """Have the rows of chunk i fetched from disk, if they are on one."""
        if self._stored is not None:
            self._stored.prefetch(i)

    def labelled(self, values: NDArray[Any]) -> Any:
        """What was found of all rows, in the form that the data have."""
        source = self._source
        return source.labelled(values) if isinstance(source, LabelledSource) else values

    def read(self, i: int) -> Chunk:
        """Chunk i."""
        chunk = self._source.read(i)
        start, stop = self.boundaries[i], self.boundaries[i + 1]
        if chunk.weights is not None:
            raise weighted_twice(self.name)
        with naming_rows("sample_weight", start, stop):
            weights = np.asarray(self._weights[start:stop])
        return weighted(chunk, weights, start)


def check_weights(weights: Any, source: Source) -> Any:
    """The weights, if they are one real number for each row.

    Raises
    ------
    DataError
        If they are not.
    """
    if weights.shape != (source.n_rows,):
        raise DataError(
            f"sample_weight has shape {weights.shape}; expected ({source.n_rows},), "
            f"one weight for each row of {source.name}"
        )
    if np.dtype(weights.dtype).kind not in "buif":
        raise DataError(f"sample_weight has dtype {weights.dtype}; expected real numbers")
    return weights


def weighted_twice(name: str) -> DataError:
    """What to raise if weights are given to a source that has weights."""
    return DataError(f"{name} has weights already; give sample_weight once")


def weighted(chunk: Chunk, weights: NDArray[Any], start: int) -> Chunk:
    """The chunk with its weights, the first of which is that of row ``start``.

    Raises
    ------
    DataError
        If a weight is negative, NaN or above 1e100.
    """
    values = np.asarray(weights, dtype=np.float64)
    bad = ~((values >= 0.0) & (values <= _LARGEST))
    if bad.any():
        first = int(np.argmax(bad))
        raise DataError(
            f"sample_weight holds {int(bad.sum())} value(s) that are negative, NaN or above "
            f"{_LARGEST:g} among rows {start} to {start + len(values)}; the first is "
            f"{values[first]} at row {start + first}"
        )
    return Chunk(chunk.rows, chunk.index, values)
