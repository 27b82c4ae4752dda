"""A digest of rows: the same for the same numbers, whatever their type and their chunks."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from streamgmm.protocols import Chunk

# Rows that are converted at once stay in the processor's cache.
_BLOCK_BYTES = 1 << 18


class RowDigest:
    """Of rows that are added chunk by chunk, with their weights.

    It tells batches apart that differ by mistake, not by design: it is no cryptographic digest,
    but takes next to no time beside learning.
    """

    def __init__(self) -> None:
        self._rows, self._weights = xxhash.xxh3_128(), xxhash.xxh3_128()
        self._n_features = 0

    def add(self, chunk: Chunk) -> None:
        """Take in the rows that come next."""
        n_rows, self._n_features = chunk.rows.shape
        step = max(1, _BLOCK_BYTES // (8 * self._n_features))
        for start in range(0, n_rows, step):
            part = chunk.part(start, min(start + step, n_rows))
            self._rows.update(_as_bytes(part.rows))
            # Rows without weights count as those of weight 1 do.
            weights = np.ones(len(part.rows)) if part.weights is None else part.weights
            self._weights.update(_as_bytes(weights))

    def added(self, chunks: Iterator[Chunk]) -> Iterator[Chunk]:
        """The chunks, each taken in before it is used."""
        for chunk in chunks:
            self.add(chunk)
            yield chunk

    def text(self, before: str = "") -> str:
        """The digest, of what came before too if its digest is given."""
        parts = self._rows.hexdigest(), self._weights.hexdigest(), str(self._n_features)
        return xxhash.xxh3_128_hexdigest(" ".join((before, *parts)).encode())


def _as_bytes(values: NDArray[Any]) -> memoryview:
    return np.ascontiguousarray(values, dtype="<f8").data.cast("B")
