"""A sample of rows that fits in memory, and how many rows it should have.

Rows are chosen by a hash of their position, so a sample depends on neither chunks nor threads,
and rows stored in any order are sampled alike.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamgmm.algorithms.reads.reader import Reader, refuse_not_finite
from streamgmm.algorithms.reads.usable_rows import RowUse, is_refused
from streamgmm.core.structures import Array
from streamgmm.errors import DataError
from streamgmm.options import Missing
from streamgmm.protocols import Chunk, Work, row_count

_ALL_HASHES = np.uint64(2**64 - 1)
# One of this many rows of a sample is reserved for rows that are badly explained.
_RESERVED = 8
# Bytes that are kept with a row: position, hash, weight and stratum. While samples are joined, also
# bytes of indices and of copies of these arrays.
_OTHER_BYTES = 25
_JOINING_BYTES = 32

_MOST_ROWS = 1 << 16
_MOST_BYTES = 32 << 20
#: A fit to fewer sampled rows saves too little time, ...
FEWEST_SAMPLED = 1 << 14
# ... or is far from that to all rows.
_FEWEST_PER_PARAMETER = 4
_ROWS_PER_PARAMETER = 2000
# Values of which all may be in the sample.
_FEW_VALUES = 1 << 23
# Parts with fewer rows than this are joined.
_FEW_ROWS = 4096


def sample_size(
    n_rows: int, n_features: int, itemsize: int, n_parameters: int, most_bytes: int
) -> int:
    """Return the size of the sample to which a mixture is fitted before passes over all rows.

    Parameters
    ----------
    n_rows, n_features : int
        N and D.
    itemsize : int
        Bytes of a value in the sample.
    n_parameters : int
        Free parameters p of the mixture.
    most_bytes : int
        Size that the sample may have.

    Returns
    -------
    int
        2000 per parameter. Of more than 2²³ values, not more than an eighth of all rows, or four
        rows per parameter if these are more.
    """
    fewest = max(FEWEST_SAMPLED, _FEWEST_PER_PARAMETER * n_parameters)
    most = n_rows if n_rows * n_features <= _FEW_VALUES else n_rows // 8
    wanted = max(fewest, min(most, _ROWS_PER_PARAMETER * n_parameters))
    return max(1, min(n_rows, wanted, most_bytes // (n_features * itemsize)))


def expected_shortfall(n_rows: int, size: int, n_parameters: int) -> float:
    """Return the expected loss on all rows of an estimate from a sample, p/2 (1/m - 1/N).

    Parameters
    ----------
    n_rows, size : int
        N and m.
    n_parameters : int
        Free parameters p.

    Returns
    -------
    float
        The loss in nats per row, if the model is right.

    References
    ----------
    Wilks (1938), The large-sample distribution of the likelihood ratio.
    """
    return 0.5 * n_parameters * (1.0 / size - 1.0 / n_rows)


@dataclass(frozen=True)
class SampleDesign:
    """The rule by which a sample takes rows.

    Attributes
    ----------
    seed : int
        Below 2**32.
    size : int
        Largest number of rows.
    dtype : dtype
        Type of the sampled rows.
    largest_hash : uint64
        Rows with a larger hash are not taken, unless they are badly explained.
    spare : float
        Number of rows that are kept until the end of the pass, divided by ``size``.
    """

    seed: int
    size: int
    dtype: np.dtype[Any]
    largest_hash: np.uint64 = _ALL_HASHES
    spare: float = 1.0

    @classmethod
    def among(
        cls, n_rows: float, size: int, seed: int, dtype: np.dtype[Any], spare: float = 1.0
    ) -> "SampleDesign":
        """Return the design of a sample of ``size`` rows among ``n_rows`` usable rows.

        Rows with large hashes need not be kept during the pass. The limit leaves a margin of six
        standard deviations, times ``spare`` if ``n_rows`` is uncertain.
        """
        part = spare * (size + 6.0 * math.sqrt(size) + 6.0) / max(n_rows, 1.0)
        largest = _ALL_HASHES if part >= 1.0 else np.uint64(part * 2.0**64)
        return cls(seed, size, dtype, largest, spare)

    @property
    def takes_all(self) -> bool:
        """Whether no hash is too large."""
        return bool(self.largest_hash == _ALL_HASHES)

    def work(self, n_features: int, stratified: bool = False) -> Work:
        """Return the memory that it takes to read the sample."""
        row_bytes = n_features * self.dtype.itemsize + _OTHER_BYTES
        sample_bytes = self.size * row_bytes
        # Joining two samples makes a third.
        joining_bytes = sample_bytes + 2 * self.size * _JOINING_BYTES
        if self.takes_all:
            return Work(sample_bytes + joining_bytes, sample_bytes)
        # Samples that wait to be merged hold different rows. The number of all rows with small
        # enough hashes is hardly larger than the number that is kept.
        reserved_bytes = self.n_reserved * row_bytes if stratified else 0
        carried_bytes = math.ceil(self.spare * sample_bytes)
        return Work(0, reserved_bytes, carried_bytes + joining_bytes)

    @property
    def n_reserved(self) -> int:
        """Number of rows reserved for rows that are badly explained."""
        return self.size // _RESERVED

    def draw(
        self, chunk: Chunk, missing: Missing, is_unexplained: NDArray[np.bool_] | None = None
    ) -> "Draw":
        """Return the rows that the sample takes from the usable rows of a chunk.

        Parameters
        ----------
        chunk : Chunk
        missing : {"error", "drop", "em"}
            Treatment of rows with NaN: "drop" skips them, "em" skips rows without any value.
        is_unexplained : ndarray of shape (n,), optional
            The rows that are badly explained.
        """
        index = chunk.index
        if isinstance(index, range):
            index = np.arange(index.start, index.stop)
        hashes = hash_positions(index, self.seed)
        is_taken = hashes <= self.largest_hash
        if is_unexplained is None:
            is_unexplained = np.zeros(len(hashes), dtype=np.bool_)
        is_taken |= is_unexplained
        taken = np.flatnonzero(is_taken)
        weights = None if chunk.weights is None else chunk.weights[taken]
        rows = chunk.rows[taken]
        use = RowUse.of(rows, weights, missing)
        if use is not None:
            # Refused rows stay, because the check of the sample reports them.
            taken = taken[use.used | use.refused]
        taken = taken[self.kept(hashes[taken], is_unexplained[taken])]
        if len(taken) < len(rows):
            rows = chunk.rows[taken]
        sample = RowSample(
            index[taken],
            hashes[taken],
            rows.astype(self.dtype, copy=False),
            np.ones(len(taken)) if chunk.weights is None else chunk.weights[taken],
            is_unexplained[taken],
        )
        return Draw(self, (sample,))

    def kept(
        self, hashes: NDArray[np.uint64], is_unexplained: NDArray[np.bool_]
    ) -> NDArray[np.intp]:
        """Return the indices of the rows that a sample keeps, in their order.

        A part of the sample is reserved for badly explained rows. All other rows, and badly
        explained rows beyond the reserved number, share the rest. The smallest hashes have
        priority in each part.
        """
        if self.takes_all and len(hashes) <= self.size:
            return np.arange(len(hashes))
        first = np.flatnonzero(is_unexplained)
        first = first[_smallest(hashes[first], self.n_reserved)]
        is_other = hashes <= self.largest_hash
        is_other[first] = False
        others = np.flatnonzero(is_other)
        others = others[_smallest(hashes[others], self.size - len(first))]
        is_kept = np.zeros(len(hashes), dtype=np.bool_)
        is_kept[first] = is_kept[others] = True
        return np.flatnonzero(is_kept)


@dataclass(frozen=True, eq=False)
class RowSample:
    """Sampled rows.

    Attributes
    ----------
    index : ndarray of shape (m,), int64
        Position of each row in the whole.
    hashes : ndarray of shape (m,), uint64
    rows : ndarray of shape (m, D)
    weights : ndarray of shape (m,)
    is_unexplained : ndarray of shape (m,), bool
        The rows that are badly explained: those of the second stratum.
    """

    index: NDArray[np.int64]
    hashes: NDArray[np.uint64]
    rows: NDArray[Any]
    weights: Array
    is_unexplained: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.index)

    def check(self) -> None:
        """Refuse arrays that are not a sample; a file may hold such arrays.

        Raises
        ------
        DataError
            If shapes do not agree, or a weight or a row cannot be one of a sample.
        """
        shapes = {np.shape(a) for a in (self.index, self.hashes, self.weights, self.is_unexplained)}
        is_sound = (
            shapes == {(len(self),)}
            and np.ndim(self.rows) == 2
            and len(self.rows) == len(self)
            and np.all(self.index >= 0)
            and np.all((self.weights >= 0.0) & (self.weights < np.inf))
            and not np.isinf(self.rows).any()
        )
        if not is_sound:
            raise DataError("these arrays are no sample of rows")

    def part(self, size: int) -> "RowSample":
        """Return fewer rows, from all over the sample, that represent all of it.

        The part has ``size`` rows of the first stratum, and up to half as many of the second one.
        Rows of the second stratum have small weights, and a few of them would miss rare kinds.
        """
        strata = [np.flatnonzero(self.is_unexplained == which) for which in (False, True)]
        sizes = [min(size, len(strata[0])), min(size // 2, len(strata[1]))]
        if sum(sizes) == len(self):
            return self
        chosen = [
            indices[np.arange(n) * len(indices) // max(n, 1)]
            for indices, n in zip(strata, sizes, strict=True)
        ]
        factors = [len(indices) / max(n, 1) for indices, n in zip(strata, sizes, strict=True)]
        indices = np.concatenate(chosen)
        order = np.argsort(indices)
        taken = self.take(indices[order])
        return replace(taken, weights=taken.weights * np.repeat(factors, sizes)[order])

    def take(self, places: NDArray[np.intp]) -> "RowSample":
        """Return some of the rows."""
        return RowSample(
            self.index[places],
            self.hashes[places],
            self.rows[places],
            self.weights[places],
            self.is_unexplained[places],
        )


@dataclass(frozen=True, eq=False)
class Draw:
    """The rows that a sample takes from some chunks, in parts; a monoid.

    Rows are copied only if some of them are dropped, or if they are few.

    Attributes
    ----------
    design : SampleDesign
    parts : tuple of RowSample
    """

    design: SampleDesign
    parts: tuple[RowSample, ...]

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def merge(self, other: "Draw") -> "Draw":
        """Return the rows that are taken from the chunks of both operands."""
        both = Draw(self.design, self.parts + other.parts)
        if _FEW_ROWS <= len(both) <= self.design.size:
            return both
        return Draw(self.design, (both._joined(),))

    def sample(self) -> RowSample:
        """Return the rows that the sample keeps, ordered by position; chunks may have any order."""
        joined = self._joined()
        is_ordered = np.all(joined.index[1:] > joined.index[:-1])
        return joined if is_ordered else joined.take(np.argsort(joined.index))

    def _joined(self) -> RowSample:
        """Return the rows that the sample keeps, in one part."""
        if len(self.parts) == 1:
            return self.parts[0]
        hashes, is_unexplained = self._all("hashes"), self._all("is_unexplained")
        kept = self.design.kept(hashes, is_unexplained)
        ends = np.cumsum([len(part) for part in self.parts])
        places = np.split(kept, np.searchsorted(kept, ends[:-1]))
        own = [
            place - (end - len(part))
            for part, end, place in zip(self.parts, ends, places, strict=True)
        ]
        first = self.parts[0].rows
        rows = np.empty((len(kept), first.shape[1]), first.dtype)
        outs = np.split(rows, np.cumsum([len(place) for place in own])[:-1])
        for part, place, out in zip(self.parts, own, outs, strict=True):
            # With mode="clip" NumPy makes no third copy.
            np.take(part.rows, place, axis=0, out=out, mode="clip")
        index, weights = self._all("index")[kept], self._all("weights")[kept]
        return RowSample(index, hashes[kept], rows, weights, is_unexplained[kept])

    def _all(self, name: str) -> NDArray[Any]:
        return np.concatenate([getattr(part, name) for part in self.parts])


def _smallest(hashes: NDArray[np.uint64], size: int) -> NDArray[np.intp]:
    """Return the indices of the smallest hashes, at most ``size``."""
    if len(hashes) <= size:
        return np.arange(len(hashes))
    return np.argpartition(hashes, size)[:size]


def hash_positions(index: NDArray[np.int64], seed: int) -> NDArray[np.uint64]:
    """Hash row positions with SplitMix64 (Steele, Lea & Flood 2014)."""
    golden = 0x9E3779B97F4A7C15
    offset = np.uint64((seed * golden + golden) % 2**64)
    z = index.astype(np.uint64) * np.uint64(golden) + offset
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def default_sample_size(n_rows: int, n_features: int) -> int:
    """Return the size of the sample that starts plain EM: 65536 rows, or 32 MiB if fewer."""
    return min(n_rows, _MOST_ROWS, max(1024, _MOST_BYTES // (8 * n_features)))


def sample_rows(
    reader: Reader, seed: int, most_rows: int | None = None, chunks: Sequence[int] | None = None
) -> RowSample:
    """Draw a uniform sample of rows in one pass, as float64, in the order of the data.

    Parameters
    ----------
    reader : Reader
    seed : int
        Below 2**32.
    most_rows : int, optional
        By default 65536, or as many as fit in 32 MiB.
    chunks : sequence of int, optional
        Chunks to read; all by default.

    Returns
    -------
    RowSample
        All rows if there are at most ``most_rows``. Rows of weight 0, rows whose squares overflow
        and, depending on ``source.missing``, rows with NaN or without any value are skipped.

    Raises
    ------
    NotFiniteError
        If sampled rows hold infinity, or NaN that is not skipped.
    """
    source = reader.source
    size = default_sample_size(source.n_rows, source.n_features)
    if most_rows is not None:
        size = min(source.n_rows, most_rows)
    dtype = np.dtype(np.float64)
    # If rows may lack weight or hold NaN, the number of usable rows is unknown, and every hash is
    # allowed.
    is_known = not source.has_weights and source.missing == "error"
    n_read = source.n_rows if chunks is None else row_count(source, chunks)
    n_rows = n_read if is_known else size
    design = SampleDesign.among(n_rows, size, seed, dtype)
    state = design, source.missing
    drawn = reader.reduce("sample", Draw, _draw, state, design.work(source.n_features), chunks)
    return checked(drawn.sample(), reader)


def _draw(state: tuple[SampleDesign, Missing], chunk: Chunk) -> Draw:
    design, missing = state
    return design.draw(chunk, missing)


def checked(sample: RowSample, reader: Reader) -> RowSample:
    """Return a sample whose values can be used.

    Raises
    ------
    NotFiniteError
        If the sample holds infinity, or NaN that is not skipped.
    """
    if is_refused(sample.rows, reader.source.missing).any():
        refuse_not_finite(reader.source, reader.executor)
    return sample
