"""Groups of consecutive chunks; one task of a cluster computes one group.

A group is a complete subtree of the tree by which values merge. Therefore neither the size of
groups nor the worker that computes them changes a bit of the result.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from streamgmm.executors.merge_tree import MergeTree
from streamgmm.protocols import Chunk, M, S, Source, StoredSource

T = TypeVar("T")

# Largest number of groups per thread; there are at least half as many. Threads then do not wait
# long for the last groups, and workers that join late find work.
_GROUPS_PER_THREAD = 16
_FEWEST_GROUPS = 64
# Bytes of small chunks that are read together, because switching threads takes longer than
# computing a small chunk.
_READ_AT_ONCE = 1 << 20
#: Most groups: enough for the largest cluster, and a small load for a scheduler.
MOST_GROUPS = 4096


def group_size(n_chunks: int, n_threads: int) -> int:
    """Return the chunks in a group, a power of two.

    Parameters
    ----------
    n_chunks : int
        Number of all chunks.
    n_threads : int
        Number of threads of all workers.
    """
    most = min(max(_FEWEST_GROUPS, _GROUPS_PER_THREAD * n_threads), MOST_GROUPS)
    return 1 << (-(-n_chunks // most) - 1).bit_length()


def groups_of(items: Sequence[T], size: int) -> list[Sequence[T]]:
    """Return the items in groups of a size; the last group may be smaller."""
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
        Whether the next chunk is read while one is computed; then two chunks are in memory.
    """
    tree: MergeTree[M] = MergeTree(len(chunks))
    # A loop over the chunks themselves would hold each chunk until the next one has been read.
    for index, value in enumerate(map(partial(function, state), chunks_of(source, chunks, ahead))):
        tree.add(index, value)
    return tree.result


def chunks_of(source: Source, chunks: Sequence[int], ahead: bool) -> Iterator[Chunk]:
    """Yield the chunks one after the other; if ``ahead``, read the next ones in the meantime."""
    # Tested once, because the test examines every attribute of the source.
    prefetch = source.prefetch if isinstance(source, StoredSource) else None

    def read(index: int) -> Chunk:
        # The disk fetches this chunk in the meantime.
        if prefetch is not None and index + 1 < len(chunks):
            prefetch(chunks[index + 1])
        return source.read(chunks[index])

    if not ahead:
        yield from map(read, range(len(chunks)))
        return
    batches = groups_of(range(len(chunks)), max(_READ_AT_ONCE // source.read_bytes, 1))

    def read_all(indices: Sequence[int]) -> deque[Chunk]:
        return deque(map(read, indices))

    with ThreadPoolExecutor(1, "streamgmm") as reader:
        following = reader.submit(read_all, batches[0])
        for batch in [*batches[1:], []]:
            ready = following.result()
            following = reader.submit(read_all, batch)
            while ready:
                # No variable here holds a chunk on which the caller works.
                yield ready.popleft()
