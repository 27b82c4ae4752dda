"""Scratch that kernels use again for the next chunk."""

import threading
import weakref
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")


# Scratch of so few bytes is kept for the next mixture.
_FEW_BYTES = 4 << 20


class _Kept(threading.local):
    """What a thread keeps, and for whom: mixtures of a shape, or the one in ``owner``."""

    shape: Hashable = None
    owner: Callable[[], "Scratch | None"] | None = None
    pieces: dict[str, Any]


_kept = _Kept()


class Scratch:
    """The scratch of all threads that run kernels for one mixture.

    Memory that is new has to be made by the operating system, page by page, at its first use. This
    takes up to a fifth of the time of a chunk. So each thread keeps its scratch, but only that of
    the mixture it computed last: passes for many mixtures take the memory of one. What takes much
    memory is freed with its mixture. What takes little is used for the next mixture of the same
    shape too, because with few rows it takes as long to make as a step of EM.

    Parameters
    ----------
    shape : hashable
        All that pieces depend on.
    n_bytes : int
        About the size of all pieces of a thread.
    """

    def __init__(self, shape: Hashable, n_bytes: int) -> None:
        self._shape = shape if n_bytes <= _FEW_BYTES else None

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
        """Return the pieces of this thread, and free those for mixtures of other shapes."""
        if self._shape is not None and _kept.shape == self._shape:
            return _kept.pieces
        if self._shape is not None:
            _kept.shape, _kept.owner, _kept.pieces = self._shape, None, {}
        elif _kept.owner is None or _kept.owner() is not self:
            pieces: dict[str, Any] = {}
            _kept.shape, _kept.pieces = None, pieces
            _kept.owner = weakref.ref(self, lambda _: pieces.clear())
        return _kept.pieces
