"""The order in which the values of chunks are merged."""

import threading
from typing import Generic

from streamgmm.protocols import M


def tree_depth(n_values: int) -> int:
    """Return the number of levels above the leaves of the tree for ``n_values`` values."""
    return (n_values - 1).bit_length()


class MergeTree(Generic[M]):
    """Merges values that arrive in any order, by a binary tree over their indices.

    Node i of a level merges nodes 2i and 2i + 1 of the level below; the last one of an odd
    level moves up unchanged. The tree depends on the number of values alone. It holds one value
    for each unfinished subtree: about as many as are computed at once, and one per level.

    Parameters
    ----------
    n_values : int
        One or more.
    """

    def __init__(self, n_values: int) -> None:
        self._sizes = [n_values]
        while self._sizes[-1] > 1:
            self._sizes.append((self._sizes[-1] + 1) // 2)
        self._waiting: dict[tuple[int, int], M] = {}
        self._lock = threading.Lock()

    def add(self, index: int, value: M) -> None:
        """Add the value of an index, and merge it in the calling thread as far as possible."""
        for level, size in enumerate(self._sizes[:-1]):
            sibling = index ^ 1
            if sibling < size:
                with self._lock:
                    if (level, sibling) not in self._waiting:
                        self._waiting[level, index] = value
                        return
                    other = self._waiting.pop((level, sibling))
                value = value.merge(other) if index < sibling else other.merge(value)
            index //= 2
        with self._lock:
            self._waiting[len(self._sizes) - 1, 0] = value

    @property
    def result(self) -> M:
        """The merged value, once every index has been added."""
        return self._waiting[len(self._sizes) - 1, 0]
