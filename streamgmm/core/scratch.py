"""Scratch that kernels use again for the next chunk."""

import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")


class _Kept(threading.local):
    """What a thread keeps, and for whom."""

    owner: Callable[[], "Scratch | None"] | None = None
    pieces: dict[str, Any]


_kept = _Kept()


class Scratch:
    """The scratch of all threads that run kernels for one mixture.

    Memory that is new has to be made by the operating system, page by page, at its first use. This
    takes up to a fifth of the time of a chunk. So each thread keeps its scratch, but only that of
    the mixture it computed last: passes for many mixtures take the memory of one.
    """

    @contextmanager
    def lent(self, name: str, make: Callable[[], T]) -> Iterator[T]:
        """Give this thread a piece of scratch until the block ends.

        Parameters
        ----------
        name : str
            What the piece is for.
        make : callable
            Allocates it.

        Yields
        ------
        object
            What ``make`` returned, now or before.
        """
        pieces = self._pieces()
        piece = pieces.pop(name) if name in pieces else make()
        yield piece
        pieces[name] = piece

    def _pieces(self) -> dict[str, Any]:
        """Return the pieces of this thread, and free those for another mixture."""
        if _kept.owner is None or _kept.owner() is not self:
            pieces: dict[str, Any] = {}
            _kept.pieces = pieces
            _kept.owner = weakref.ref(self, lambda _: pieces.clear())
        return _kept.pieces
