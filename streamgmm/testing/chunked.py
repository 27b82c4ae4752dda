"""An array in chunks of any size that counts how it is read."""

import threading
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from streamgmm.options import Missing
from streamgmm.protocols import Chunk


class ChunkedSource:
    """A source whose chunks are copies, so that live chunks can be counted.

    Parameters
    ----------
    array : array-like of shape (n_rows, n_features)
    chunk_rows : int, default=None
        Rows of each chunk but the last; None for a single chunk.
    boundaries : sequence of int, default=None
        First rows of the chunks and the number of rows, in place of ``chunk_rows``.
    weights : ndarray of shape (n_rows,), default=None
    read_bytes : int, default=None
        Memory that a chunk takes while it is read; None for the size of the largest chunk.

    Attributes
    ----------
    n_reads : int
        Chunks read so far.
    n_live, most_live : int
        Chunks whose rows are in memory now, and the largest number of them so far.

    Examples
    --------
    >>> import numpy as np
    >>> from streamgmm import GaussianMixture
    >>> from streamgmm.testing import ChunkedSource
    >>> source = ChunkedSource(np.random.default_rng(0).normal(size=(100, 2)), 30)
    >>> gm = GaussianMixture().fit(source)
    >>> source.n_reads >= source.n_chunks
    True
    """

    def __init__(
        self,
        array: ArrayLike,
        chunk_rows: int | None = None,
        *,
        boundaries: Sequence[int] | None = None,
        weights: NDArray[np.float64] | None = None,
        read_bytes: int | None = None,
    ) -> None:
        self._array: NDArray[Any] = np.asarray(array)
        self.missing: Missing = "error"
        self.feature_names: Sequence[str] | None = None
        self._weights = weights
        self.name = "chunked data"
        self.location = None
        self.has_weights = weights is not None
        self.n_rows, self.n_features = self._array.shape
        self.dtype = self._array.dtype
        if boundaries is None:
            boundaries = [*range(0, self.n_rows, chunk_rows or self.n_rows), self.n_rows]
        self.boundaries = boundaries
        largest = int(max(np.diff(boundaries)))
        own_bytes = largest * self.n_features * self.dtype.itemsize
        self.read_bytes = own_bytes if read_bytes is None else read_bytes
        self.n_reads = self.n_live = self.most_live = 0
        self._lock = threading.Lock()

    @property
    def n_chunks(self) -> int:
        """Number of chunks."""
        return len(self.boundaries) - 1

    def read(self, i: int) -> Chunk:
        """Return a chunk, and count it.

        Parameters
        ----------
        i : int

        Returns
        -------
        chunk : Chunk

        Examples
        --------
        >>> from streamgmm.testing import ChunkedSource
        >>> ChunkedSource([[1.0], [2.0], [3.0]], 2).read(1).rows
        array([[3.]])
        """
        start, stop = self.boundaries[i], self.boundaries[i + 1]
        rows = self._array[start:stop].copy()
        with self._lock:
            self.n_reads += 1
            self.n_live += 1
            self.most_live = max(self.most_live, self.n_live)
        weakref.finalize(rows, self._forget)
        weights = None if self._weights is None else self._weights[start:stop]
        return Chunk(rows, range(start, stop), weights)

    def _forget(self) -> None:
        with self._lock:
            self.n_live -= 1

    def __getstate__(self) -> dict[str, Any]:
        state = vars(self).copy()
        del state["_lock"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._lock = threading.Lock()
