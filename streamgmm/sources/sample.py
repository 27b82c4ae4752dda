"""Rows in memory with their weights, in small chunks."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamgmm.options import Missing
from streamgmm.protocols import Chunk
from streamgmm.sources.described import Described
from streamgmm.sources.layout import regular_boundaries, rows_per_chunk

# Number of chunks that keeps threads busy even with few rows, unless chunks would be too small.
_CHUNKS = 16
_FEWEST_ROWS, _FEWEST_VALUES = 2048, 1 << 14


class SampleSource(Described):
    """Some rows of other data, held in memory.

    Parameters
    ----------
    rows : ndarray of shape (m, D)
    weights : ndarray of shape (m,)
    missing : {"error", "drop", "em"}
        What is done with rows that hold NaN.
    """

    name = "the sample"
    location = None
    has_weights = True
    read_bytes = 0
    feature_names: Sequence[str] | None = None

    def __init__(
        self, rows: NDArray[Any], weights: NDArray[np.float64], missing: Missing = "error"
    ) -> None:
        self._rows, self._weights = rows, weights
        self.missing = missing
        self.n_rows, self.n_features = rows.shape
        self.dtype: np.dtype[Any] = rows.dtype
        fewest = max(_FEWEST_ROWS, _FEWEST_VALUES // self.n_features)
        n_chunks = min(max(self.n_rows // fewest, 1), _CHUNKS)
        share = max(-(-self.n_rows // n_chunks), 1)
        chunk_rows = min(share, rows_per_chunk(self.n_features))
        self.boundaries: Sequence[int] = regular_boundaries(self.n_rows, chunk_rows)

    def read(self, i: int) -> Chunk:
        """Return chunk i."""
        start, stop = self.boundaries[i], self.boundaries[i + 1]
        return Chunk(self._rows[start:stop], range(start, stop), self._weights[start:stop])
