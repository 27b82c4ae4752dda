"""Make a long pass segment by segment, so that intermediate results can be kept.

A segment is a complete subtree of the tree by which values of chunks merge. Therefore neither the
boundaries of segments nor an interruption changes a bit of the result.
"""

import functools
import math
import time
from collections.abc import Callable, Sequence

from streamgmm.protocols import M, PartialRead

# The first segment is one of this many parts of a pass; it measures the time of a chunk.
_FIRST_PART = 256


def complete(
    begun: PartialRead[M],
    chunks: Sequence[int],
    read: Callable[[Sequence[int]], M],
    keep: Callable[[PartialRead[M]], None],
    interval: float,
) -> tuple[M, float]:
    """Complete a pass.

    Parameters
    ----------
    begun : PartialRead
        Merged values of the first chunks.
    chunks : sequence of int
        All chunks of the pass.
    read : callable
        Returns the merged value of some chunks.
    keep : callable
        Keeps the intermediate result of the pass.
    interval : float
        Approximate seconds between two calls of ``keep``; infinity for a pass in one piece.

    Returns
    -------
    value : Monoid
        Merged value of all chunks.
    seconds : float
        Duration of the whole pass.
    """
    n_chunks, start = len(chunks), time.perf_counter()
    length = n_chunks if math.isinf(interval) else max(n_chunks // _FIRST_PART, 1)
    length, last_kept, partial = _power_of_two(length), start, begun
    while partial.n_chunks < n_chunks:
        first, segment_start = partial.n_chunks, time.perf_counter()
        # With this length the segment is a complete subtree.
        length = min(length, first & -first) if first else length
        segment = chunks[first : first + length]
        values = _joined(partial, read(segment), length)
        now = time.perf_counter()
        partial = PartialRead(first + len(segment), values, begun.seconds + now - start)
        if partial.n_chunks < n_chunks and now - last_kept >= interval / 2:
            keep(partial)
            last_kept = now
        if now - segment_start <= interval / 2:
            length *= 2
        elif now - segment_start > interval:
            length = max(length // 2, 1)
    return functools.reduce(lambda value, before: before.merge(value), partial.values[::-1]), (
        partial.seconds
    )


def _power_of_two(n: int) -> int:
    """Return the smallest one that is not below a number."""
    return 1 << (n - 1).bit_length()


def _joined(partial: PartialRead[M], value: M, length: int) -> tuple[M, ...]:
    """Return the values of complete subtrees, after one more subtree of ``length`` chunks."""
    values = list(partial.values)
    while partial.n_chunks & length:
        value = values.pop().merge(value)
        length *= 2
    return *values, value
