"""Decide which rows take part: one rule for surveys, samples, passes over the data and streams."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamgmm.core.accuracy import LARGEST_VALUE
from streamgmm.core.structures import Array
from streamgmm.errors import DataError, NotFiniteError
from streamgmm.events import SkippedRows
from streamgmm.options import Missing
from streamgmm.protocols import Chunk, Source

# Moments underflow if the weights of all rows sum to less.
_LEAST_WEIGHT = 1e-100
# Rows of weight 0 are examined in blocks of this many rows.
_BLOCK_ROWS = 1 << 12
# Number of values whose positions are in a message.
_SHOWN = 5


def all_within(values: NDArray[Any]) -> bool:
    """Return whether no square of the values can overflow; False if a value is NaN."""
    with np.errstate(invalid="ignore"):
        lowest, highest = values.min(initial=0.0), values.max(initial=0.0)
    # Narrower types cannot represent the limit.
    return float(lowest) >= -LARGEST_VALUE and float(highest) <= LARGEST_VALUE


def require_weight(weight: float, source: Source, skipped: SkippedRows) -> None:
    """Raise an error if the rows that take part have no weight, or too little for sums with it.

    Parameters
    ----------
    weight : float
        Sum of the weights of the rows that take part.
    source : Source
    skipped : SkippedRows
        Rows that do not take part.

    Raises
    ------
    DataError
    """
    if not weight > 0.0:
        raise DataError(
            f"no row of {source.name} that can be used has a weight above zero: "
            f"{skipped.n_weightless} row(s) have weight 0, {skipped.n_overflowing} were skipped "
            f"because their squares overflow, {skipped.n_missing} because they hold "
            f"{'nothing but ' * (source.missing == 'em')}NaN; give one row or more a positive "
            "weight"
        )
    check_weight(weight)


def check_weight(weight: float) -> None:
    """Raise an error if the weights of all rows sum to so little that sums with them underflow.

    Raises
    ------
    DataError
        If the sum is too small, but not all weights are 0.
    """
    if 0.0 < weight < _LEAST_WEIGHT:
        raise DataError(
            f"sample_weight sums to {weight:g}, so little that sums of weighted values underflow; "
            "divide all weights by their mean"
        )


def is_refused(rows: NDArray[Any], missing: Missing) -> NDArray[np.bool_]:
    """Return which values cannot be used: infinity, and NaN unless ``missing`` allows it."""
    # Kernels convert values to float64, where large values of a wider type become infinite.
    values = rows.astype(np.float64, copy=False)
    return ~np.isfinite(values) if missing == "error" else np.isinf(values)


def lacks_values(rows: NDArray[Any], missing: Missing) -> NDArray[np.bool_]:
    """Return which rows are skipped for lack of values, (n,)."""
    if missing == "error":
        return np.zeros(len(rows), dtype=np.bool_)
    absent = np.isnan(rows)
    found: NDArray[np.bool_] = absent.all(axis=1) if missing == "em" else absent.any(axis=1)
    return found


@dataclass(frozen=True, eq=False)
class RowUse:
    """The rows of a block that take part in a fit, and the reasons to skip the others.

    Each row that does not take part has one reason: the first that holds, in the order below.

    Attributes
    ----------
    refused : ndarray of bool of shape (n,)
        Rows that hold a value that cannot be used. A pass over all data raises an error for them.
    lacking : ndarray of bool of shape (n,)
        Rows that are skipped for lack of values.
    overflowing : ndarray of bool of shape (n,)
        Rows with a value whose square overflows.
    weightless : ndarray of bool of shape (n,)
        Rows of weight 0.
    """

    refused: NDArray[np.bool_]
    lacking: NDArray[np.bool_]
    overflowing: NDArray[np.bool_]
    weightless: NDArray[np.bool_]

    @classmethod
    def of(cls, rows: NDArray[Any], weights: Array | None, missing: Missing) -> "RowUse | None":
        """Examine the rows (n, D) of a block; None if all take part."""
        is_weighted = weights is None or bool(np.all(weights > 0.0))
        if is_weighted and all_within(rows):
            return None
        with np.errstate(over="ignore", invalid="ignore"):
            values = rows.astype(np.float64, copy=False)
        refused = np.asarray(is_refused(values, missing).any(axis=1))
        lacking = ~refused & lacks_values(values, missing)
        has_values = ~refused & ~lacking
        overflowing = has_values & (np.abs(values) > LARGEST_VALUE).any(axis=1)
        weightless = np.zeros(len(rows), dtype=np.bool_)
        if weights is not None:
            weightless = has_values & ~overflowing & (weights == 0.0)
        return cls(refused, lacking, overflowing, weightless)

    @property
    def used(self) -> NDArray[np.bool_]:
        """Rows (n,) that take part."""
        return ~(self.refused | self.lacking | self.overflowing | self.weightless)

    @property
    def skipped(self) -> SkippedRows:
        """Counts of the rows that are skipped."""
        counts = (self.overflowing, self.lacking, self.weightless)
        return SkippedRows(*(int(np.count_nonzero(rows)) for rows in counts))


def usable_part(chunk: Chunk, missing: Missing) -> tuple[Chunk, SkippedRows]:
    """Return the rows of a chunk that take part, and count those that are skipped."""
    use = RowUse.of(chunk.rows, chunk.weights, missing)
    if use is None:
        return chunk, SkippedRows()
    used = use.used
    weights = None if chunk.weights is None else chunk.weights[used]
    rows = chunk.rows[used].astype(np.float64, copy=False)
    return Chunk(rows, np.asarray(chunk.index)[used], weights), use.skipped


def count_weightless(chunk: Chunk, missing: Missing) -> int:
    """Count the rows of weight 0 whose values could be used."""
    if chunk.weights is None or np.all(chunk.weights > 0.0):
        return 0
    index = np.flatnonzero(chunk.weights == 0.0)
    blocks = (index[i : i + _BLOCK_ROWS] for i in range(0, len(index), _BLOCK_ROWS))
    uses = (RowUse.of(chunk.rows[block], chunk.weights[block], missing) for block in blocks)
    return sum(use.skipped.n_weightless for use in uses if use is not None)


def refuse_values(chunk: Chunk, missing: Missing, consequence: str = "") -> None:
    """Raise an error if a chunk holds values that cannot be used.

    Parameters
    ----------
    chunk : Chunk
    missing : {"error", "drop", "em"}
    consequence : str
        A sentence for the message.

    Raises
    ------
    NotFiniteError
    """
    if all_within(chunk.rows):
        return
    found = NotFinite.among(chunk, missing)
    if found.n_values:
        raise NotFiniteError(found.message("Input", len(chunk.rows), missing, consequence))


@dataclass(frozen=True)
class NotFinite:
    """Values that cannot be used: how many, in how many rows, and where the first ones are.

    Attributes
    ----------
    n_values, n_rows : int
    first : tuple of (int, int)
        Row and column of the first of these values.
    """

    n_values: int
    n_rows: int
    first: tuple[tuple[int, int], ...]

    @classmethod
    def among(cls, chunk: Chunk, missing: Missing) -> "NotFinite":
        """Find the values of a chunk that cannot be used."""
        bad = is_refused(chunk.rows, missing)
        rows, columns = np.nonzero(bad)
        index: NDArray[np.int64] = np.asarray(chunk.index)
        first = zip(index[rows[:_SHOWN]].tolist(), columns[:_SHOWN].tolist(), strict=True)
        return cls(int(bad.sum()), int(bad.any(axis=1).sum()), tuple(first))

    def merge(self, other: "NotFinite") -> "NotFinite":
        """Return the values of both operands."""
        first = tuple(sorted(self.first + other.first)[:_SHOWN])
        return NotFinite(self.n_values + other.n_values, self.n_rows + other.n_rows, first)

    def message(self, name: str, n_rows: int, missing: Missing, consequence: str = "") -> str:
        """Return the error message: which values, where they are, and how to handle them."""
        kind, remedy = "infinity", "Set these values to NaN, or correct them"
        if missing == "error":
            kind = "NaN or infinity"
            remedy = (
                "Drop or fill these rows first, or skip those with NaN by "
                "streamgmm.open(..., missing='drop'), or use their other values by missing='em'"
            )
        first = ", ".join(f"row {row} column {column}" for row, column in self.first)
        more = ", ..." if self.n_values > len(self.first) else ""
        said = f"{consequence} " if consequence else ""
        return (
            f"{name} contains {kind}: {self.n_values} value(s) in {self.n_rows} of {n_rows} rows; "
            f"the first: {first}{more}. {said}{remedy}."
        )
