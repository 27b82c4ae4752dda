"""Histograms of variables within each component, with bins of constant relative width."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamgmm.algorithms.reads.prediction import Question, responsibilities
from streamgmm.core.structures import Array
from streamgmm.protocols import Chunk

# Rows whose responsibilities are held at once; magnitudes below the smallest one count as 0.
_ROWS_AT_ONCE, _SMALLEST = 8192, 1e-300
#: Bins for which memory is set aside, of each variable.
EXPECTED_BINS = 1 << 14


@dataclass(frozen=True, eq=False)
class SketchQuestion:
    """The state of a pass: a mixture of the first columns, and the width of the bins.

    Attributes
    ----------
    mixture : Question
    n_features : int
        Columns of the mixture; those behind them are the variables.
    relative_error : float
    """

    mixture: Question
    n_features: int
    relative_error: float


@dataclass(frozen=True, eq=False)
class ComponentSketch:
    """Weights and sums of variables by component, and histograms that merge exactly.

    Attributes
    ----------
    sums : ndarray of shape (2, K, M)
        Sum of the weights, and of the values times these.
    bins : tuple of ndarray of int64
        For each variable the numbers of its bins, in the order of the values.
    counts : tuple of ndarray of shape (K, B)
        For each variable the weight in each bin.

    References
    ----------
    Masson, Rim & Lee (2019), DDSketch: a fast and fully-mergeable quantile sketch with
    relative-error guarantees.
    """

    sums: Array
    bins: tuple[NDArray[np.int64], ...]
    counts: tuple[Array, ...]

    def merge(self, other: "ComponentSketch") -> "ComponentSketch":
        """Return the sketch of the rows of both operands."""
        merged = [
            _merged(*own, *others)
            for own, others in zip(
                zip(self.bins, self.counts, strict=True),
                zip(other.bins, other.counts, strict=True),
                strict=True,
            )
        ]
        return ComponentSketch(
            self.sums + other.sums,
            tuple(bins for bins, _ in merged),
            tuple(counts for _, counts in merged),
        )

    def quantiles(self, probabilities: Array, relative_error: float) -> Array:
        """Return quantiles of shape (Q, K, M); NaN where a component has no weight."""
        k, m = self.sums.shape[1:]
        found = np.full((len(probabilities), k, m), np.nan)
        for j, (bins, counts) in enumerate(zip(self.bins, self.counts, strict=True)):
            values = _values_of(bins, relative_error)
            for i in range(k):
                below = np.cumsum(counts[i])
                if len(below) and below[-1] > 0.0:
                    place = np.searchsorted(below, probabilities * below[-1])
                    found[:, i, j] = values[np.minimum(place, len(values) - 1)]
        return found


def sketch_chunk(question: SketchQuestion, chunk: Chunk) -> ComponentSketch:
    """Return the sketch of a chunk."""
    d = question.n_features
    features = Chunk(chunk.rows[:, :d], chunk.index, chunk.weights)
    others = chunk.rows[:, d:]
    found: ComponentSketch | None = None
    for start in range(0, max(len(others), 1), _ROWS_AT_ONCE):
        part = features.part(start, start + _ROWS_AT_ONCE)
        shares = responsibilities(question.mixture, part)
        # Skipped rows have no component.
        shares[np.isnan(shares)] = 0.0
        if part.weights is not None:
            shares *= part.weights[:, np.newaxis]
        own = _sketch(shares, others[start : start + _ROWS_AT_ONCE], question.relative_error)
        found = own if found is None else found.merge(own)
    assert found is not None
    return found


def sketch_bytes(n_components: int, n_variables: int) -> int:
    """Return the memory of a sketch, as far as it can be expected."""
    return 8 * (n_components + 1) * n_variables * EXPECTED_BINS


def scratch_bytes(n_components: int) -> int:
    """Return the memory that :func:`sketch_chunk` takes in addition to its result."""
    return 4 * 8 * _ROWS_AT_ONCE * (n_components + 1)


def _sketch(shares: Array, values: Array, relative_error: float) -> ComponentSketch:
    k, m = shares.shape[1], values.shape[1]
    sums = np.zeros((2, k, m))
    bins, counts = list[NDArray[np.int64]](), list[Array]()
    for j in range(m):
        is_value = np.isfinite(values[:, j])
        own, x = shares[is_value], values[is_value, j]
        sums[0, :, j], sums[1, :, j] = own.sum(axis=0), x @ own
        found, place = np.unique(_bins_of(x, relative_error), return_inverse=True)
        bins.append(found)
        counts.append(
            np.stack([np.bincount(place, column, minlength=len(found)) for column in own.T])
        )
    return ComponentSketch(sums, tuple(bins), tuple(counts))


def _width(relative_error: float) -> float:
    """Return ln γ, by which the logarithms of the bounds of bins differ."""
    return math.log1p(relative_error) - math.log1p(-relative_error)


def _offset(relative_error: float) -> int:
    """Return a number by which bins of magnitudes above the smallest one are positive."""
    return 1 - math.floor(math.log(_SMALLEST) / _width(relative_error))


def _bins_of(values: Array, relative_error: float) -> NDArray[np.int64]:
    """Return the numbers of the bins of values, in the same order; 0 for zero."""
    magnitudes = np.abs(values)
    is_zero = magnitudes < _SMALLEST
    logarithms = np.log(np.where(is_zero, 1.0, magnitudes))
    numbers = np.ceil(logarithms / _width(relative_error)).astype(np.int64)
    signed = np.sign(values).astype(np.int64) * (numbers + _offset(relative_error))
    return np.asarray(np.where(is_zero, 0, signed))


def _values_of(bins: NDArray[np.int64], relative_error: float) -> Any:
    """Return the value of each bin, within the relative error of all values in it."""
    numbers = np.abs(bins) - _offset(relative_error)
    # The upper bound of a bin, γ^i, times 1 - ε.
    with np.errstate(over="ignore"):
        magnitudes = np.exp(numbers * _width(relative_error)) * (1.0 - relative_error)
    return np.where(bins == 0, 0.0, np.sign(bins) * magnitudes)


def _merged(
    bins: NDArray[np.int64], counts: Array, other_bins: NDArray[np.int64], other_counts: Array
) -> tuple[NDArray[np.int64], Array]:
    union = np.union1d(bins, other_bins)
    merged = np.zeros((len(counts), len(union)))
    merged[:, np.searchsorted(union, bins)] += counts
    merged[:, np.searchsorted(union, other_bins)] += other_counts
    return union, merged
