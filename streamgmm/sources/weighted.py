"""Row weights beside any source."""

from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamgmm.core.accuracy import LARGEST_VALUE
from streamgmm.core.data_description import DataDescription
from streamgmm.errors import DataError
from streamgmm.options import Missing
from streamgmm.protocols import (
    Chunk,
    CoordinateSource,
    DescribingSource,
    GridSource,
    LabelledSource,
    Layout,
    Output,
    Region,
    Source,
    StoredSource,
    has_contiguous_chunks,
    locations_of,
    sample_dims,
    sample_shape,
)
from streamgmm.sources.described import Described
from streamgmm.sources.layout import naming_rows
from streamgmm.sources.values import NO_RULES, WEIGHT_REMEDY, ValueRules, usable

# Sums of weights times squares of values must not overflow.
_LARGEST = 1e30
# Largest amount by which the cosine of 90° is below 0 in float32.
_ROUNDING = 1e-7


class WeightedSource(Described):
    """A source whose chunks carry row weights.

    Parameters
    ----------
    source : Source
    weights : array of shape (N,), or of that of the samples
        Anything that slices to numbers: NumPy, memory map, Zarr, Dask. It is read chunk by
        chunk, beside the rows; if it has the shape (N,) and chunks are no ranges of rows, it is
        read at once and held.
    rules : ValueRules
        Rules by which weights are missing.

    Raises
    ------
    DataError
        If the shape is another or the source has weights already; on reading, if a weight is
        missing, negative, NaN or above 1e30.
    """

    has_weights = True

    def __init__(self, source: Source, weights: Any, rules: ValueRules = NO_RULES) -> None:
        if isinstance(source, WeightedSource):
            raise weighted_twice(source.name)
        self._source = source
        self._stored = source if isinstance(source, StoredSource) else None
        self._grid = source if isinstance(source, GridSource) else None
        self._weights, self._rules = check_weights(weights, source), rules
        self.name: str = source.name
        self.n_rows, self.n_features = source.n_rows, source.n_features
        self.boundaries, self.feature_names = source.boundaries, source.feature_names
        self.sample_dims, self.sample_shape = sample_dims(source), sample_shape(source)
        self._has_ranges = self._grid is None or has_contiguous_chunks(self._grid)
        is_flat = len(weights.shape) == 1
        if not self._has_ranges and is_flat and not isinstance(weights, np.ndarray):
            self._weights = _loaded(weights[:])

    @property
    def unweighted(self) -> Source:
        """The rows without their weights."""
        return self._source

    @property
    def missing(self) -> Missing:
        """Treatment of rows that hold NaN, as the source of the rows says."""
        return self._source.missing

    @missing.setter
    def missing(self, missing: Missing) -> None:
        # Others may use the same source.
        self._source = copy(self._source)
        self._source.missing = missing

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the rows."""
        return self._source.dtype

    @property
    def location(self) -> Path | None:
        """Location of the rows on disk; None if they are not on disk."""
        return self._source.location

    @property
    def locations(self) -> Sequence[Path]:
        """Locations of the files of the rows on disk."""
        return locations_of(self._source)

    @property
    def total_weight(self) -> float | None:
        """Sum of the weights, if these are in memory."""
        is_array = type(self._weights) is np.ndarray
        return float(self._weights.sum(dtype=np.float64)) if is_array else None

    @property
    def read_bytes(self) -> int:
        """Bytes of a chunk and its weights."""
        largest = max(np.diff(self.boundaries))
        is_array = type(self._weights) is np.ndarray and self._weights.dtype == np.float64
        is_view = is_array and self._has_ranges
        column_bytes = getattr(self._weights, "read_bytes", 0)
        return self._source.read_bytes + column_bytes + (0 if is_view else 16 * int(largest))

    def region(self, i: int) -> Region:
        """Return the box of chunk i along the sample dimensions."""
        if self._grid is not None:
            return self._grid.region(i)
        return (slice(self.boundaries[i], self.boundaries[i + 1]),)

    def prefetch(self, i: int) -> None:
        """Have the rows of chunk i fetched from disk, if they are on one."""
        if self._stored is not None:
            self._stored.prefetch(i)

    def labelled(self, values: NDArray[Any], output: Output) -> Any:
        """Return what was found of all samples, in the form that the data have."""
        source = self._source
        return source.labelled(values, output) if isinstance(source, LabelledSource) else values

    def layout(self, output: Output) -> Layout | None:
        """Return the variables of a written output, as the source of the rows describes them."""
        source = self._source
        return source.layout(output) if isinstance(source, CoordinateSource) else None

    def data_description(self) -> DataDescription | None:
        """Return how the source of the rows is described."""
        source = self._source
        return source.data_description() if isinstance(source, DescribingSource) else None

    def like(self, description: DataDescription) -> "WeightedSource":
        """Return the same data with the features in the order of a description."""
        if not isinstance(self._source, DescribingSource):
            return self
        source = copy(self)
        source._source = self._source.like(description)
        source.feature_names = source._source.feature_names
        return source

    def lazy_rows(self) -> Any:
        """Return the features of all samples as a lazy array, or None."""
        source = self._source
        return source.lazy_rows() if isinstance(source, CoordinateSource) else None

    def read(self, i: int) -> Chunk:
        """Return chunk i."""
        chunk = self._source.read(i)
        if chunk.weights is not None:
            raise weighted_twice(self.name)
        index = chunk.index
        with naming_rows("sample_weight", int(index[0]), int(index[-1]) + 1):
            if self._weights.shape == self.sample_shape:
                weights = _loaded(self._weights[self.region(i)]).reshape(-1)
            else:
                rows = slice(index.start, index.stop) if isinstance(index, range) else index
                weights = _loaded(self._weights[rows])
        return weighted(chunk, weights, self._rules, self.missing)


def _loaded(weights: Any) -> Any:
    """Return weights in memory, as Dask computes them if they are lazy; masks stay."""
    return weights.compute() if hasattr(weights, "dask") else weights


def check_weights(weights: Any, source: Source) -> Any:
    """Return the weights, if they are one real number for each row, (N,) or in the samples' shape.

    Raises
    ------
    DataError
        If they are not.
    """
    if weights.shape not in ((source.n_rows,), sample_shape(source)):
        raise DataError(
            f"sample_weight has shape {weights.shape}; expected ({source.n_rows},), "
            f"one weight for each row of {source.name}"
        )
    if np.dtype(weights.dtype).kind not in "buif":
        raise DataError(f"sample_weight has dtype {weights.dtype}; expected real numbers")
    return weights


def weighted_twice(name: str) -> DataError:
    """Return what to raise if weights are given to a source that has weights."""
    return DataError(f"{name} has weights already; give sample_weight once")


def weighted(
    chunk: Chunk, weights: Any, rules: ValueRules = NO_RULES, missing: Missing = "error"
) -> Chunk:
    """Return the chunk with the weights of its rows.

    A weight that is NaN or missing is 0 where its row is skipped anyway. A weight that is below 0
    by no more than the rounding of float32 is 0.

    Raises
    ------
    DataError
        If a weight of another row is missing, negative, NaN or above 1e30.
    """
    rules = replace(rules, may_be_masked=True)
    stored = usable(weights, rules, "drop", "sample_weight", chunk.index, WEIGHT_REMEDY)
    values = np.asarray(stored, dtype=np.float64)
    bad = ~((values >= 0.0) & (values <= _LARGEST))
    if bad.any():
        harmless = (values < 0.0) & (values >= -_ROUNDING)
        absent = np.flatnonzero(np.isnan(values))
        harmless[absent] = _are_skipped(chunk.rows[absent], missing)
        values, bad = np.where(harmless, 0.0, values), bad & ~harmless
    if bad.any():
        # The mark of a missing weight is reported first.
        usable(weights, rules, "error", "sample_weight", chunk.index, WEIGHT_REMEDY)
        first = int(np.argmax(bad))
        raise DataError(
            f"sample_weight holds {int(bad.sum())} value(s) that are negative, NaN or above "
            f"{_LARGEST:g} among rows {chunk.index[0]} to {chunk.index[-1] + 1}; the first is "
            f"{values[first]} at row {chunk.index[first]}; divide all weights by their mean "
            "if they are large, and give 0 for rows that are not to count"
        )
    return Chunk(chunk.rows, chunk.index, values)


def _are_skipped(rows: NDArray[Any], missing: Missing) -> NDArray[np.bool_]:
    """Return which rows take no part whatever their weights are: for lack of values, or overflow.

    Rows with NaN that "error" refuses are refused as rows, by an error of their own.
    """
    values = rows.astype(np.float64, copy=False)
    absent = np.isnan(values)
    lacking = absent.all(axis=1) if missing == "em" else absent.any(axis=1)
    overflowing = (np.abs(values) > LARGEST_VALUE).any(axis=1)
    return np.asarray(np.logical_or(lacking, overflowing))
