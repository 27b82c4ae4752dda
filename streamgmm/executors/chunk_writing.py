"""Compute and write a chunk in pieces, which take less memory than the whole chunk."""

from collections.abc import Callable, Iterator
from itertools import product
from math import prod
from typing import Any

from numpy.typing import NDArray

from streamgmm.protocols import Chunk, Region, S, region_shape


def write_chunk(
    function: Callable[[S, Chunk], NDArray[Any]],
    state: S,
    chunk: Chunk,
    region: Region,
    piece_shape: tuple[int, ...] | None,
    write: Callable[[Region, NDArray[Any]], None],
) -> None:
    """Write function(state, piece) for all pieces of a chunk.

    Parameters
    ----------
    function, state, piece_shape
        As for :meth:`streamgmm.protocols.Executor.map_write`.
    chunk : Chunk
    region : tuple of slice
        Box of the chunk.
    write : callable
        Function of a box and its values.
    """
    start = 0
    for piece in _pieces(region, piece_shape):
        stop = start + prod(region_shape(piece))
        write(piece, function(state, chunk.part(start, stop)))
        start = stop


def _pieces(region: Region, shape: tuple[int, ...] | None) -> Iterator[Region]:
    """Split a box into boxes of a shape, in C order; without a shape yield the box itself."""
    if shape is None:
        return iter([region])
    cuts = (
        [
            slice(first, min(first + size, along.stop))
            for first in range(along.start, along.stop, size)
        ]
        for along, size in zip(region, shape, strict=True)
    )
    return product(*cuts)
