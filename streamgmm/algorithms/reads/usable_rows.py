"""Decide which rows take part: one rule for surveys, samples, passes over the data and streams."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamgmm.core.e_step import LARGEST_VALUE
from streamgmm.core.structures import Array
from streamgmm.errors import DataError
from streamgmm.events import SkippedRows
from streamgmm.options import Missing
from streamgmm.protocols import Chunk

# Of rows whose weights sum to less, the moments underflow.
_LEAST_WEIGHT = 1e-100
# Rows of weight 0 are examined so many at a time.
_BLOCK_ROWS = 1 << 12


def all_within(values: NDArray[Any]) -> bool:
    """Whether the squares of all values surely do not overflow; False if one is NaN."""
    with np.errstate(invalid="ignore"):
        lowest, highest = values.min(initial=0.0), values.max(initial=0.0)
    # The limit is no number of the narrower types.
    return float(lowest) >= -LARGEST_VALUE and float(highest) <= LARGEST_VALUE


def check_weight(weight: float) -> None:
    """Raise an error if the weights of all rows sum to so little that sums with them underflow.

    Raises
    ------
    DataError
        If they do, and are not all 0.
    """
    if 0.0 < weight < _LEAST_WEIGHT:
        raise DataError(
            f"sample_weight sums to {weight:g}, so little that sums of weighted values underflow; "
            "divide all weights by their mean"
        )


def is_refused(rows: NDArray[Any], missing: Missing) -> NDArray[np.bool_]:
    """Values of rows that cannot be used: infinity, and NaN unless that is provided for."""
    # As kernels see them: a wider type may hold what float64 cannot.
    values = rows.astype(np.float64, copy=False)
    return ~np.isfinite(values) if missing == "error" else np.isinf(values)


def is_left_out(rows: NDArray[Any], missing: Missing) -> NDArray[np.bool_]:
    """Rows (n,) that take no part for lack of values."""
    lacking = np.isnan(rows)
    found: NDArray[np.bool_] = lacking.all(axis=1) if missing == "em" else lacking.any(axis=1)
    return found


def unusable(rows: Array, missing: Missing) -> NDArray[np.bool_]:
    """Which rows (n, D) overflow, which lack values and which are refused, (3, n)."""
    refused = is_refused(rows, missing).any(axis=1)
    lacking = ~refused & (False if missing == "error" else is_left_out(rows, missing))
    overflowing = ~refused & ~lacking & (np.abs(rows) > LARGEST_VALUE).any(axis=1)
    return np.stack([overflowing, lacking, refused])


def skipped_rows(chunk: Chunk, missing: Missing) -> SkippedRows:
    """Count the rows of a chunk that take no part, by reason; no value is refused."""
    rows = chunk.rows.astype(np.float64, copy=False)
    n_weightless = count_weightless(chunk, missing)
    if all_within(rows):
        return SkippedRows(n_weightless=n_weightless)
    overflowing, lacking, _ = unusable(rows, missing).sum(axis=1).tolist()
    return SkippedRows(overflowing, lacking, n_weightless)


def usable_part(chunk: Chunk, missing: Missing) -> tuple[Chunk, SkippedRows]:
    """Return the rows of a chunk that take part, and count the others; no value is refused."""
    is_whole = chunk.weights is None or bool(np.all(chunk.weights > 0.0))
    if is_whole and all_within(chunk.rows):
        return chunk, SkippedRows()
    with np.errstate(over="ignore"):
        rows = chunk.rows.astype(np.float64, copy=False)
    takes_part = ~unusable(rows, missing).any(axis=0)
    if chunk.weights is not None:
        takes_part &= chunk.weights > 0.0
    weights = None if chunk.weights is None else chunk.weights[takes_part]
    index = np.asarray(chunk.index)[takes_part]
    return Chunk(rows[takes_part], index, weights), skipped_rows(chunk, missing)


def count_weightless(chunk: Chunk, missing: Missing) -> int:
    """Count the rows of weight 0 whose values could be used."""
    if chunk.weights is None or np.all(chunk.weights > 0.0):
        return 0
    places = np.flatnonzero(chunk.weights == 0.0)
    blocks = (places[i : i + _BLOCK_ROWS] for i in range(0, len(places), _BLOCK_ROWS))
    return sum(
        int(np.sum(~unusable(chunk.rows[block].astype(np.float64), missing).any(axis=0)))
        for block in blocks
    )
