"""One pass over the data for the moments that a change of units or of axes follows from."""

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamgmm.algorithms.reads.reader import Reader
from streamgmm.algorithms.reads.usable_rows import RowUse, require_weight
from streamgmm.core.row_moments import RowMoments
from streamgmm.core.structures import Array
from streamgmm.events import SkippedRows
from streamgmm.protocols import Chunk, Source, Work

# Bytes of the blocks in which rows are summed, as float64, and their fewest rows: fewer would cost
# more to merge than to sum.
_BLOCK_BYTES, _FEWEST_ROWS = 1 << 20, 512
# Arrays of a block, and arrays (D, D), that are in memory at once in a thread.
_BLOCKS, _MATRICES = 8, 6


@dataclass(frozen=True, eq=False)
class MomentsFound:
    """Moments of the rows of a pass; a monoid.

    Attributes
    ----------
    moments : RowMoments
        Of rows without infinity and without values whose squares overflow, with a weight above 0.
        NaN is no value.
    n_incomplete : int
        Number of rows that lack all values and, if all columns together were asked for, of rows
        that lack a value.
    skipped : SkippedRows
        The other rows.
    n_refused : int
        Rows with infinity.
    """

    moments: RowMoments
    n_incomplete: int
    skipped: SkippedRows
    n_refused: int

    def merge(self, other: "MomentsFound") -> "MomentsFound":
        """Return the moments of the rows of both operands."""
        return MomentsFound(
            self.moments.merge(other.moments),
            self.n_incomplete + other.n_incomplete,
            self.skipped + other.skipped,
            self.n_refused + other.n_refused,
        )


def read_moments(reader: Reader, is_joint: bool) -> MomentsFound:
    """Pass over all rows for their moments.

    Parameters
    ----------
    reader : Reader
    is_joint : bool
        Whether moments of all columns together are asked for.

    Raises
    ------
    DataError
        If no row that can be used has weight.
    MemoryLimitError
        If the pass does not fit in memory.
    """
    work = moments_work(reader.source, is_joint)
    reader.executor.check_memory(reader.source, work)
    found = reader.reduce("moments", MomentsFound, _chunk_moments, is_joint, work)
    if not found.n_refused:
        weight = float(found.moments.columns.weights.max(initial=0.0))
        require_weight(weight, reader.source, found.skipped)
    return found


def moments_work(source: Source, is_joint: bool) -> Work:
    """Return the memory that a pass for moments takes."""
    d = source.n_features
    value = 8 * (5 * d + (d * d if is_joint else 0))
    block = 8 * d * _block_rows(d)
    return Work(_BLOCKS * block + _MATRICES * value, value, driver=_MATRICES * value)


def _block_rows(n_features: int) -> int:
    return max(_BLOCK_BYTES // (8 * n_features), _FEWEST_ROWS)


def _chunk_moments(is_joint: bool, chunk: Chunk) -> MomentsFound:
    n, d = chunk.rows.shape
    step = _block_rows(d)
    parts = (chunk.part(start, start + step) for start in range(0, max(n, 1), step))
    return functools.reduce(
        MomentsFound.merge, (_block_moments(part.rows, part.weights, is_joint) for part in parts)
    )


def _block_moments(rows: NDArray[Any], weights: Array | None, is_joint: bool) -> MomentsFound:
    # Sums along contiguous memory are faster.
    columns = np.ascontiguousarray(rows.T, dtype=np.float64)
    skipped, n_refused = SkippedRows(), 0
    use = RowUse.of(columns.T, weights, "em")
    if use is not None:
        used, skipped, n_refused = use.used, use.skipped, int(np.count_nonzero(use.refused))
        weights = None if weights is None else weights[used]
        columns = columns[:, used]
    moments = RowMoments.of(columns, weights, is_joint)
    n_incomplete = skipped.n_missing
    if moments.joint is not None:
        n_incomplete += columns.shape[1] - moments.joint.n_rows
    return MomentsFound(moments, n_incomplete, skipped, n_refused)
