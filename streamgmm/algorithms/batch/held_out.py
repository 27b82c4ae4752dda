"""Rows that are held out of fits, and how mixtures that were fitted to the others predict them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from streamgmm.algorithms.reads.prediction import Question, scores
from streamgmm.algorithms.reads.reader import Reader, gap_bytes, refuse_not_finite
from streamgmm.algorithms.sampling.row_sample import RowSample, hash_positions
from streamgmm.core.e_step import scratch_bytes
from streamgmm.core.expectation import prepare
from streamgmm.core.frame import Frame
from streamgmm.core.parameters import Parameters
from streamgmm.core.structures import Array
from streamgmm.errors import DataError, NotFiniteError
from streamgmm.protocols import Chunk, Source, Work

# Hashes of positions.
_N_HASHES = 2.0**64


@dataclass(frozen=True)
class RowSplit:
    """A split of the rows: some are held out, the others are fitted to.

    A hash of its position decides for each row, so neither chunks nor threads matter. Splits of the
    same seed with different numbers hold out different rows, as long as there are enough rows.

    Attributes
    ----------
    seed : int
        Below 2**32.
    part : float
        Of the rows, that is held out.
    number : int
        Of the split, from 0.
    """

    seed: int
    part: float
    number: int

    def is_held_out(self, index: range | NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return whether rows at some positions are held out."""
        if isinstance(index, range):
            index = np.arange(index.start, index.stop)
        first = np.uint64((self.number * self.part) % 1.0 * _N_HASHES)
        # Differences of hashes begin anew after the largest one.
        found: NDArray[np.bool_] = hash_positions(index, self.seed) - first < np.uint64(
            self.part * _N_HASHES
        )
        return found

    def fitted(self, chunk: Chunk) -> Chunk:
        """Return a chunk in which the rows that are held out have the weight 0."""
        weights = np.ones(len(chunk.rows)) if chunk.weights is None else chunk.weights
        return replace(chunk, weights=np.where(self.is_held_out(chunk.index), 0.0, weights))

    def held_out(self, chunk: Chunk) -> Chunk:
        """Return the rows of a chunk that are held out."""
        places = np.flatnonzero(self.is_held_out(chunk.index))
        weights = None if chunk.weights is None else chunk.weights[places]
        return Chunk(chunk.rows[places], np.asarray(chunk.index)[places], weights)

    def of_sample(self, sample: RowSample) -> tuple[RowSample, RowSample]:
        """Return the rows of a sample that are fitted to, and those that are held out."""
        is_held_out = self.is_held_out(sample.index)
        return sample.take(np.flatnonzero(~is_held_out)), sample.take(np.flatnonzero(is_held_out))


@dataclass(frozen=True, eq=False)
class HeldOutSums:
    """Sums over the scores of held-out rows under C mixtures; a monoid.

    Attributes
    ----------
    weight : float
        Σ w.
    totals : ndarray of shape (C,)
        Σ w s, with the scores s = ln p(x).
    squares : ndarray of shape (C + 1, C + 1)
        Σ w² z zᵀ, with z = (1, s).
    """

    weight: float
    totals: Array
    squares: Array

    @classmethod
    def of(cls, scores: Array, weights: Array) -> "HeldOutSums":
        """Return the sums for scores (n, C) and weights (n,) of rows."""
        weighted = weights[:, np.newaxis] * np.column_stack([np.ones(len(scores)), scores])
        return cls(float(weights.sum()), weights @ scores, weighted.T @ weighted)

    def check(self) -> None:
        """Refuse sums of different numbers of mixtures, as a file may hold them.

        Raises
        ------
        DataError
        """
        size = len(self.totals) + 1
        if self.totals.ndim != 1 or self.squares.shape != (size, size) or not self.weight >= 0.0:
            raise DataError("these arrays are no sums over held-out rows")

    def merge(self, other: "HeldOutSums") -> "HeldOutSums":
        """Return the sums for the rows of both."""
        return HeldOutSums(
            self.weight + other.weight, self.totals + other.totals, self.squares + other.squares
        )

    @property
    def means(self) -> Array:
        """Mean score of each mixture, nats per row."""
        found: Array = self.totals / self.weight
        return found

    @property
    def std_errors(self) -> Array:
        """Standard errors of the means, (C,)."""
        return np.array([self._error(np.eye(len(self.totals))[c]) for c in self._columns])

    @property
    def difference_errors(self) -> Array:
        """Standard errors of the differences of two means, (C, C)."""
        units = np.eye(len(self.totals))
        return np.array(
            [[self._error(units[c] - units[e]) for e in self._columns] for c in self._columns]
        )

    @property
    def _columns(self) -> range:
        return range(len(self.totals))

    def _error(self, direction: Array) -> float:
        """Return the standard error of a combination of the means."""
        deviation = np.concatenate([[-direction @ self.means], direction])
        return float(np.sqrt(max(deviation @ self.squares @ deviation, 0.0)) / self.weight)


def sample_scores(
    splits: Sequence[RowSplit],
    mixtures: Sequence[Sequence[Parameters]],
    sample: RowSample,
    source: Source,
) -> HeldOutSums:
    """Return the sums over the held-out rows of a sample.

    Parameters
    ----------
    splits : sequence of RowSplit
    mixtures : sequence of sequence of Parameters
        For each split the mixtures that were fitted to the other rows.
    sample : RowSample
    source : Source
        That the sample was taken of.
    """
    questions = _questions(mixtures, source)
    whole = Chunk(sample.rows, sample.index, sample.weights)
    return _chunk_scores((tuple(splits), questions), whole)


def held_out_scores(
    reader: Reader, splits: Sequence[RowSplit], mixtures: Sequence[Sequence[Parameters]]
) -> HeldOutSums:
    """Return the sums over all held-out rows, from one pass over the data.

    Parameters
    ----------
    reader : Reader
    splits : sequence of RowSplit
    mixtures : sequence of sequence of Parameters
        For each split the mixtures that were fitted to the other rows.

    Raises
    ------
    NotFiniteError
        If the rows hold NaN that is not to be skipped, or infinity.
    """
    source = reader.source
    state = tuple(splits), _questions(mixtures, source)
    largest = int(max(np.diff(source.boundaries)))
    scratch = max(
        scratch_bytes(one.covariance_type, one.n_components, source.n_features)
        + gap_bytes(source, one.n_components)
        for own in mixtures
        for one in own
    )
    n_columns = len(mixtures[0])
    rows = largest * (source.n_features * source.dtype.itemsize + 8 * (3 * n_columns + 6))
    value = 8 * (n_columns + 2) ** 2
    work = Work(scratch + rows + 3 * value, value, driver=reader.driver_bytes)

    def read() -> HeldOutSums:
        return reader.reduce("held out", HeldOutSums, _chunk_scores, state, work)

    try:
        return reader.kept(HeldOutSums, read)
    except NotFiniteError:
        refuse_not_finite(source, reader.executor)


_Questions = tuple[tuple[Question, ...], ...]


def _questions(mixtures: Sequence[Sequence[Parameters]], source: Source) -> _Questions:
    return tuple(
        tuple(
            Question(
                prepare(one, Frame.of(one, source.dtype), source.missing, n_rows=source.n_rows),
                source.missing,
            )
            for one in own
        )
        for own in mixtures
    )


def _chunk_scores(state: tuple[tuple[RowSplit, ...], _Questions], chunk: Chunk) -> HeldOutSums:
    return reduce(
        HeldOutSums.merge,
        (_split_scores(split, own, chunk) for split, own in zip(*state, strict=True)),
    )


def _split_scores(split: RowSplit, questions: tuple[Question, ...], chunk: Chunk) -> HeldOutSums:
    rows = split.held_out(chunk)
    found = np.column_stack([scores(question, rows) for question in questions])
    weights = np.ones(len(rows.rows)) if rows.weights is None else rows.weights
    used = np.isfinite(found).all(axis=1) & (weights > 0.0)
    return HeldOutSums.of(found[used], weights[used])
