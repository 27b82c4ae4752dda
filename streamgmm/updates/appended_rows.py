"""Tables that grow: which rows lie where, what the last of them are, and where pieces end."""

from bisect import bisect_right
from collections import deque
from collections.abc import Iterator
from itertools import pairwise

from streamgmm.errors import DataError
from streamgmm.protocols import Chunk, Source
from streamgmm.updates.row_digest import VERSION, RowDigest

# Bytes of growing data that are learned between two saves.
_PIECE_BYTES = 64 << 20
# Number of rows before the new ones that must not have changed.
_LATEST_ROWS = 64


class OrderedRows:
    """The rows of a table, which lie one after the other.

    The chunk that was read last is kept: new rows begin where it ended.

    Parameters
    ----------
    source : Source
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self._kept: tuple[int, Chunk] | None = None

    def between(self, start: int, stop: int) -> Iterator[Chunk]:
        """Yield the rows from start to stop.

        Raises
        ------
        DataError
            If chunks are boxes of rows that do not follow each other.
        """
        boundaries = self.source.boundaries
        i = bisect_right(boundaries, start) - 1
        while i < len(boundaries) - 1 and boundaries[i] < stop:
            first, last = boundaries[i], boundaries[i + 1]
            yield self._chunk(i).part(max(start - first, 0), min(stop, last) - first)
            i += 1

    def _chunk(self, i: int) -> Chunk:
        if self._kept is not None and self._kept[0] == i:
            return self._kept[1]
        self._kept = None
        chunk = self.source.read(i)
        boundaries, index = self.source.boundaries, chunk.index
        if not isinstance(index, range) or index != range(boundaries[i], boundaries[i + 1]):
            raise DataError(
                f"{self.source.name} is stored in boxes of rows that do not follow each other, so "
                "new rows cannot be distinguished from old ones; give the rows in batches with a "
                "batch_id"
            )
        self._kept = i, chunk
        return chunk


class LatestRows:
    """The last few of rows that pass."""

    def __init__(self) -> None:
        self._chunks: list[Chunk] = []

    @staticmethod
    def first(n_rows: int) -> int:
        """Return the index of the first of the latest rows, after ``n_rows`` rows."""
        return max(n_rows - _LATEST_ROWS, 0)

    def followed(self, chunks: Iterator[Chunk]) -> Iterator[Chunk]:
        """Yield the chunks, of which copies of the last rows are kept."""
        for chunk in chunks:
            yield chunk
            self._chunks.append(_copied(chunk, self.first(len(chunk.rows))))
            surplus = sum(len(kept.rows) for kept in self._chunks) - _LATEST_ROWS
            while surplus > 0:
                oldest = self._chunks.pop(0)
                if len(oldest.rows) > surplus:
                    self._chunks.insert(0, _copied(oldest, surplus))
                surplus -= len(oldest.rows)

    def digest(self, version: int = VERSION) -> str:
        """Return the digest of these rows, by a version of the rule."""
        digest = RowDigest(version)
        for chunk in self._chunks:
            digest.add(chunk)
        return digest.text()


def _copied(chunk: Chunk, start: int) -> Chunk:
    """Return the rows of a chunk from start, without the memory of the others."""
    part = chunk.part(start, len(chunk.rows))
    weights = None if part.weights is None else part.weights.copy()
    return Chunk(part.rows.copy(), part.index, weights)


def ends_of_pieces(source: Source) -> list[int]:
    """Return the rows before the end of each piece, which is some whole chunks."""
    boundaries = source.boundaries
    largest = max(after - before for before, after in pairwise(boundaries))
    n_chunks = max(1, _PIECE_BYTES // (8 * source.n_features * largest))
    return [*boundaries[n_chunks:-1:n_chunks], source.n_rows]


def content_digest(source: Source, version: int) -> str:
    """Return the digest of all rows of a table, as if it had been learned from its beginning."""
    rows, text = OrderedRows(source), ""
    for start, stop in pairwise([0, *ends_of_pieces(source)]):
        digest = RowDigest(version)
        deque(digest.added(rows.between(start, stop)), maxlen=0)
        text = digest.text(text)
    return text
