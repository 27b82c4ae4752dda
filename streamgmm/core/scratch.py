"""Scratch that kernels use again for the next chunk."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

T = TypeVar("T")


class Scratch(Generic[T]):
    """Pieces of scratch, one for each thread that needs one at the same time.

    Memory that is new has to be made by the operating system, page by page, at its first use. This
    takes up to a fifth of the time of a chunk.

    Parameters
    ----------
    make : callable
        Allocates a piece.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._free: list[T] = []

    @contextmanager
    def lent(self) -> Iterator[T]:
        """Give a piece that no other thread has until the block ends."""
        # Threads may take and give back at once: a list does each in one step.
        try:
            piece = self._free.pop()
        except IndexError:
            piece = self._make()
        yield piece
        self._free.append(piece)
