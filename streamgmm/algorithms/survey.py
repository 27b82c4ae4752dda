"""The first read: a sample of rows that fits in memory."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamgmm.algorithms.reading import Reader, is_left_out, is_refused, refuse_not_finite
from streamgmm.core.covariance import Array
from streamgmm.protocols import Chunk, Missing, Work

_MOST_ROWS = 1 << 16
# Squares of larger values may overflow; the rows that hold them take no part in a fit either.
_LARGEST_VALUE = 1e140
_MOST_BYTES = 32 << 20


@dataclass(frozen=True, eq=False)
class RowSample:
    """The rows whose hash is smallest, at most ``size`` of them; a monoid.

    Attributes
    ----------
    size : int
    index : ndarray of shape (m,), int64
        Position of each row in the whole.
    hashes : ndarray of shape (m,), uint64
    rows : ndarray of shape (m, D)
    weights : ndarray of shape (m,)
    """

    size: int
    index: NDArray[np.int64]
    hashes: NDArray[np.uint64]
    rows: Array
    weights: Array

    def merge(self, other: "RowSample") -> "RowSample":
        """The sample of both sides' rows."""
        both = RowSample(
            self.size,
            np.concatenate([self.index, other.index]),
            np.concatenate([self.hashes, other.hashes]),
            np.concatenate([self.rows, other.rows]),
            np.concatenate([self.weights, other.weights]),
        )
        return both._chosen(_smallest(both.hashes, self.size))

    def in_order(self) -> "RowSample":
        """The same rows by their position; chunks need not follow each other."""
        return self._chosen(np.argsort(self.index))

    def _chosen(self, places: NDArray[np.intp]) -> "RowSample":
        return RowSample(
            self.size,
            self.index[places],
            self.hashes[places],
            self.rows[places],
            self.weights[places],
        )


def _smallest(hashes: NDArray[np.uint64], size: int) -> NDArray[np.intp]:
    """Places of the smallest hashes, at most ``size``, in their order."""
    if len(hashes) <= size:
        return np.arange(len(hashes))
    return np.sort(np.argpartition(hashes, size)[:size])


def sample_rows(reader: Reader, seed: int) -> RowSample:
    """Read everything once and keep a uniform sample of rows, as float64, in their order.

    Rows are chosen by a hash of their position, so the sample depends on neither chunks nor
    threads, and rows stored in any order are sampled alike.

    Parameters
    ----------
    reader : Reader
    seed : int
        Below 2**32.

    Returns
    -------
    RowSample
        Up to 65536 rows or 32 MiB; all rows if there are no more than that. Rows of weight 0,
        rows whose squares overflow and, if the source says so, rows with NaN (or without any
        value) are left out.

    Raises
    ------
    NotFiniteError
        If sampled rows hold NaN that is not to be left out, or infinity.
    """
    n_rows, n_features = reader.source.n_rows, reader.source.n_features
    size = min(n_rows, _MOST_ROWS, max(1024, _MOST_BYTES // (8 * n_features)))
    # Rows with larger hashes need not be carried along: six standard deviations are kept. How
    # many rows have weight, or no NaN, is not known beforehand: no hash is too large then.
    part = (size + 6.0 * math.sqrt(size) + 6.0) / n_rows
    source = reader.source
    all_rows = part >= 1.0 or source.has_weights or source.missing != "error"
    threshold = None if all_rows else np.uint64(part * 2.0**64)
    # Samples that wait to be merged are of different rows; of all rows that are below the
    # threshold there are hardly more than one sample holds.
    sample_bytes = 8 * size * (n_features + 3)
    work = Work(2 * sample_bytes, sample_bytes if threshold is None else 0)
    state = seed, size, threshold, source.missing
    sample = reader.reduce("sample", _sample_chunk, state, work)
    if is_refused(sample.rows, source.missing).any():
        refuse_not_finite(reader.source, reader.executor)
    return sample.in_order()


def _sample_chunk(state: tuple[int, int, np.uint64 | None, Missing], chunk: Chunk) -> RowSample:
    seed, size, threshold, missing = state
    index = chunk.index
    if isinstance(index, range):
        index = np.arange(index.start, index.stop)
    hashes = _hash(index, seed)
    is_eligible = np.full(len(hashes), True) if threshold is None else hashes <= threshold
    if chunk.weights is not None:
        is_eligible &= chunk.weights > 0.0
    if missing != "error":
        is_eligible &= ~is_left_out(chunk.rows, missing)
    eligible = np.flatnonzero(is_eligible)
    eligible = eligible[_smallest(hashes[eligible], size)]
    rows = chunk.rows[eligible].astype(np.float64)
    overflowing = np.any((np.abs(rows) > _LARGEST_VALUE) & np.isfinite(rows), axis=1)
    eligible, rows = eligible[~overflowing], rows[~overflowing]
    weights = np.ones(len(rows)) if chunk.weights is None else chunk.weights[eligible]
    return RowSample(size, index[eligible], hashes[eligible], rows, weights)


def _hash(index: NDArray[np.int64], seed: int) -> NDArray[np.uint64]:
    """SplitMix64 (Steele, Lea & Flood 2014) of row positions."""
    golden = 0x9E3779B97F4A7C15
    offset = np.uint64((seed * golden + golden) % 2**64)
    z = index.astype(np.uint64) * np.uint64(golden) + offset
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
