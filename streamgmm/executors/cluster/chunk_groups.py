"""Groups of consecutive chunks: what one task of a cluster computes.

A group is a complete subtree of the tree by which values merge, so that neither what groups there
are nor where they are computed changes a bit of the result.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from streamgmm.executors.merge_tree import MergeTree
from streamgmm.protocols import Chunk, M, S, Source, StoredSource

T = TypeVar("T")

# For each thread there are at least half as many groups, so that none waits long for the last
# ones, and so that workers that join late find work.
_GROUPS_PER_THREAD = 16
_FEWEST_GROUPS = 64
# Small chunks are read some at a time: to change threads for each takes longer than to compute it.
_READ_AT_ONCE = 1 << 20
#: Enough for the largest cluster, and no burden for a scheduler.
MOST_GROUPS = 4096


def group_size(n_chunks: int, n_threads: int) -> int:
    """Return the chunks in a group, a power of two.

    Parameters
    ----------
    n_chunks : int
        In all.
    n_threads : int
        Of all workers.
    """
    most = min(max(_FEWEST_GROUPS, _GROUPS_PER_THREAD * n_threads), MOST_GROUPS)
    return 1 << (-(-n_chunks // most) - 1).bit_length()


def groups_of(items: Sequence[T], size: int) -> list[Sequence[T]]:
    """Return the items, so many at a time; fewer in the last group."""
    return [items[first : first + size] for first in range(0, len(items), size)]


def reduce_group(
    function: Callable[[S, Chunk], M],
    state: S,
    source: Source,
    chunks: Sequence[int],
    ahead: bool,
) -> M:
    """Merge function(state, chunk) over the chunks of a group.

    Parameters
    ----------
    function, state, source, chunks
        As for :meth:`streamgmm.protocols.Executor.map_reduce`.
    ahead : bool
        Whether the next chunk is read while one is computed, so that two are in memory.
    """
    tree: MergeTree[M] = MergeTree(len(chunks))
    # A loop over the chunks themselves would hold each until the next one is there.
    for place, value in enumerate(map(partial(function, state), chunks_of(source, chunks, ahead))):
        tree.add(place, value)
    return tree.result


def chunks_of(source: Source, chunks: Sequence[int], ahead: bool) -> Iterator[Chunk]:
    """Yield the chunks one after the other, the next ones being read meanwhile if ``ahead``."""
    # Asked once: the answer takes a look at every attribute of the source.
    prefetch = source.prefetch if isinstance(source, StoredSource) else None

    def read(place: int) -> Chunk:
        # The disk is at work on that one meanwhile.
        if prefetch is not None and place + 1 < len(chunks):
            prefetch(chunks[place + 1])
        return source.read(chunks[place])

    if not ahead:
        yield from map(read, range(len(chunks)))
        return
    batches = groups_of(range(len(chunks)), max(_READ_AT_ONCE // source.read_bytes, 1))

    def read_all(places: Sequence[int]) -> deque[Chunk]:
        return deque(map(read, places))

    with ThreadPoolExecutor(1, "streamgmm") as reader:
        following = reader.submit(read_all, batches[0])
        for batch in [*batches[1:], []]:
            ready = following.result()
            following = reader.submit(read_all, batch)
            while ready:
                # Nothing here holds a chunk on which the caller works.
                yield ready.popleft()
