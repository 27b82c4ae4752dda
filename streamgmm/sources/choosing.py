"""Advice for a file or store of several arrays: which arguments choose the features."""

from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class StoredArray:
    """An array in a file or store, as its metadata describe it.

    Attributes
    ----------
    path : str
        Its path within the file or store.
    shape : tuple of int
    dtype : dtype
    dims : hashable or None
        Equal for two arrays of the same dimensions; None if the dimensions have no names.
    is_coordinate : bool
        Whether it holds the labels of a dimension.
    """

    path: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    dims: Hashable
    is_coordinate: bool = False

    @property
    def is_numeric(self) -> bool:
        """Whether its values may be features."""
        return self.dtype.kind in "buif" and len(self.shape) > 0 and not self.is_coordinate


def how_to_choose(arrays: Sequence[StoredArray], example: Callable[[str], str]) -> str:
    """Return how to choose features among arrays.

    A two-dimensional array is a table by itself. Other arrays that share their dimensions are the
    columns of one.

    Parameters
    ----------
    arrays : sequence of StoredArray
    example : callable
        Writes the path of a table as a caller would give it.
    """
    numeric = [array for array in arrays if array.is_numeric]
    tables = [array for array in numeric if len(array.shape) == 2]
    if tables:
        return f"name one of them, as in {example(tables[0].path)}"
    columns = _most_columns(numeric)
    if columns:
        folder = columns[0].path.rpartition("/")[0]
        names = [array.path.rpartition("/")[2] for array in columns]
        path = f"path={folder!r} and " if folder else ""
        return f"name those that are the features, as in {path}variables={names}"
    return (
        "none of them can be features; store the features as one array of numbers of shape "
        "(rows, features)"
    )


def _most_columns(arrays: Sequence[StoredArray]) -> list[StoredArray]:
    """Return the most arrays of one group that share their dimensions."""
    groups: dict[Hashable, list[StoredArray]] = defaultdict(list)
    for array in arrays:
        if array.dims is not None:
            groups[array.path.rpartition("/")[0], array.dims].append(array)
    return max(groups.values(), key=len, default=[])
