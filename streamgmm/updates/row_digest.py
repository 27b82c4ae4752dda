"""A digest of rows: the same for the same numbers, whatever their type and their chunks."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from streamgmm.protocols import Chunk

#: Digests of this version begin with its number; those of version 1 have none.
VERSION = 2
_PREFIX = f"{VERSION}:"
# Rows that are converted at once stay in the processor's cache.
_BLOCK_BYTES = 1 << 18


def version_of(text: str | None) -> int:
    """Return the version of the rule by which a digest was made; the current one without one."""
    return VERSION if text is None or text.startswith(_PREFIX) else 1


class RowDigest:
    """Computes the digest of rows that are added chunk by chunk, with their weights.

    It distinguishes batches that differ by mistake, not by design: it is no cryptographic digest,
    but takes next to no time beside learning.

    Parameters
    ----------
    version : int
        Version of the rule. By version 2 equal numbers have equal digests: -0.0 is 0.0, and each
        NaN is the same. By version 1 they differ as their bits do.
    """

    def __init__(self, version: int = VERSION) -> None:
        self._as_bytes = _as_bytes if version == 1 else _as_canonical_bytes
        self._prefix = "" if version == 1 else _PREFIX
        self._rows, self._weights = xxhash.xxh3_128(), xxhash.xxh3_128()
        self._n_features = 0

    def add(self, chunk: Chunk) -> None:
        """Take in the rows that come next."""
        n_rows, self._n_features = chunk.rows.shape
        step = max(1, _BLOCK_BYTES // (8 * self._n_features))
        for start in range(0, n_rows, step):
            part = chunk.part(start, min(start + step, n_rows))
            self._rows.update(self._as_bytes(part.rows))
            # Rows without weights count as those of weight 1 do.
            weights = np.ones(len(part.rows)) if part.weights is None else part.weights
            self._weights.update(self._as_bytes(weights))

    def added(self, chunks: Iterator[Chunk]) -> Iterator[Chunk]:
        """Yield the chunks, each taken in before it is used."""
        for chunk in chunks:
            self.add(chunk)
            yield chunk

    def text(self, before: str = "") -> str:
        """Return the digest, of what came before too if its digest is given."""
        parts = self._rows.hexdigest(), self._weights.hexdigest(), str(self._n_features)
        return self._prefix + xxhash.xxh3_128_hexdigest(" ".join((before, *parts)).encode())


def _as_bytes(values: NDArray[Any]) -> memoryview:
    return np.ascontiguousarray(values, dtype="<f8").data.cast("B")


def _as_canonical_bytes(values: NDArray[Any]) -> memoryview:
    """Return the bytes of numbers, the same bytes for equal numbers and for each NaN."""
    # Signalling NaN count as invalid; to add 0.0 makes 0.0 of -0.0.
    with np.errstate(invalid="ignore"):
        numbers = np.add(values, 0.0, dtype="<f8", casting="unsafe")
        has_nan = np.isnan(numbers.min())
    if has_nan:
        numbers[np.isnan(numbers)] = np.nan
    return _as_bytes(numbers)
