"""Rows of a source with other variables of the same samples beside them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamgmm.errors import DataError
from streamgmm.options import Missing
from streamgmm.protocols import (
    Chunk,
    Source,
    locations_of,
    regions_of,
    sample_shape,
)
from streamgmm.sources.described import Described
from streamgmm.sources.layout import naming_rows
from streamgmm.sources.values import ValueRules, usable


class BesideSource(Described):
    """Rows of a source, and behind them the values of other variables, as float64.

    Parameters
    ----------
    source : Source
    others : sequence of tuple of str, array and ValueRules
        For each variable its name, its values of shape (N,) or of the shape of the samples, and the
        rules by which they are missing; missing values are NaN.

    Raises
    ------
    DataError
        If a variable does not have a real number for each row.
    """

    feature_names: Sequence[str] | None = None

    def __init__(self, source: Source, others: Sequence[tuple[str, Any, ValueRules]]) -> None:
        self._source, self._others = source, others
        for name, values, _ in others:
            if values.shape not in ((source.n_rows,), sample_shape(source)):
                raise DataError(
                    f"{name} has shape {values.shape}; expected ({source.n_rows},), one value for "
                    f"each row of {source.name}"
                )
            if np.dtype(values.dtype).kind not in "buif":
                raise DataError(f"{name} has dtype {values.dtype}; give real numbers")
        self.name = source.name
        self.n_rows, self.n_features = source.n_rows, source.n_features + len(others)
        self.boundaries = source.boundaries
        self.missing: Missing = source.missing
        self.has_weights = source.has_weights
        self.dtype = np.dtype(np.float64)

    @property
    def location(self) -> Path | None:
        """Location of the rows on disk; None if they are not on disk."""
        return self._source.location

    @property
    def locations(self) -> Sequence[Path]:
        """Locations of the files of the rows on disk."""
        return locations_of(self._source)

    @property
    def read_bytes(self) -> int:
        """Bytes of a chunk, and of the values that it is put together from."""
        n_rows = int(max(np.diff(self.boundaries)))
        return self._source.read_bytes + 8 * n_rows * (self.n_features + 3)

    def read(self, i: int) -> Chunk:
        """Return chunk i."""
        chunk = self._source.read(i)
        rows = np.empty((len(chunk.rows), self.n_features))
        rows[:, : self._source.n_features] = chunk.rows
        region = regions_of(self._source)(i)
        index = chunk.index
        for column, (name, values, rules) in enumerate(self._others, self._source.n_features):
            with naming_rows(name, int(index[0]), int(index[-1]) + 1):
                if values.shape == sample_shape(self._source):
                    part = values[region]
                else:
                    own = slice(index.start, index.stop) if isinstance(index, range) else index
                    part = values[own]
                part = part.compute() if hasattr(part, "dask") else part
                rows[:, column] = _numbers(part, rules, name, index)
        return Chunk(rows, index, chunk.weights)


def _numbers(
    part: Any, rules: ValueRules, name: str, index: range | NDArray[np.int64]
) -> NDArray[Any]:
    if isinstance(part, np.ma.MaskedArray):
        part = np.ma.filled(part.astype(np.float64), np.nan)
    values = np.asarray(part)
    return usable(values.reshape(-1), rules, "drop", name, index)
