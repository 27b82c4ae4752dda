"""Tables in several files as one: the rows of one file follow those of the file before."""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from streamgmm.errors import DataError
from streamgmm.options import Missing
from streamgmm.protocols import Chunk, Source, StoredSource
from streamgmm.sources.described import Described
from streamgmm.sources.layout import NoRowsError


@runtime_checkable
class ReleasableSource(Source, Protocol):
    """A source that keeps a file open between two reads."""

    def release(self) -> None:
        """Close the file until a chunk is read again."""


class JoinedSource(Described):
    """Rows of several sources, one after the other; each chunk is one of theirs.

    Parameters
    ----------
    name : str
        What messages call the table.
    parts : sequence of Source
        One or more, each with chunks of consecutive rows.

    Raises
    ------
    DataError
        If a part has another number of columns or another type than the first one.

    Attributes
    ----------
    location : Path or None
        The file of the first part; None if it is at a URL.
    locations : list of Path
        The files of all parts.
    """

    has_weights = False
    feature_names: Sequence[str] | None = None

    def __init__(self, name: str, parts: Sequence[Source]) -> None:
        self.name = name
        first = parts[0]
        for part in parts[1:]:
            _refuse_other_shard(part, first)
        self._parts = parts
        self.location: Path | None = first.location
        self.locations = [part.location for part in parts if part.location is not None]
        self.n_features = first.n_features
        # Rows before each part, and chunks before it.
        self._first_rows = [0, *accumulate(part.n_rows for part in parts)]
        self._first_chunks = [0, *accumulate(len(part.boundaries) - 1 for part in parts)]
        self.n_rows: int = self._first_rows[-1]
        self.boundaries: Sequence[int] = [
            *(
                start + boundary
                for start, part in zip(self._first_rows, parts, strict=False)
                for boundary in part.boundaries[:-1]
            ),
            self.n_rows,
        ]

    @property
    def missing(self) -> Missing:
        """Treatment of rows that hold NaN, as the parts say."""
        return self._parts[0].missing

    @missing.setter
    def missing(self, missing: Missing) -> None:
        # Others may use the same parts.
        self._parts = [copy(part) for part in self._parts]
        for part in self._parts:
            part.missing = missing

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values of all parts together, as chunks hold them."""
        return np.result_type(*(part.dtype for part in self._parts))

    @property
    def read_bytes(self) -> int:
        """Largest memory in bytes to read and hold a chunk of a part."""
        return max(part.read_bytes for part in self._parts)

    def read(self, i: int) -> Chunk:
        """Return chunk i."""
        part, number, start = self._part(i)
        rows = part.read(number).rows.astype(self.dtype, copy=False)
        _release(part)
        return Chunk(rows, range(start, start + len(rows)))

    def prefetch(self, i: int) -> None:
        """Begin to fetch the file of chunk i from disk, if its part can do that."""
        part, number, _ = self._part(i)
        if isinstance(part, StoredSource):
            part.prefetch(number)

    def _part(self, i: int) -> tuple[Source, int, int]:
        """Return the part that holds a chunk, the number of the chunk in it, and its first row."""
        k = bisect_right(self._first_chunks, i) - 1
        return self._parts[k], i - self._first_chunks[k], self.boundaries[i]


def joined(name: str, files: Iterable[Any], open_file: Callable[[Any], Source]) -> Source:
    """Return the tables in several files as one; files without rows are skipped.

    Parameters
    ----------
    name : str
        What messages call them together.
    files : iterable
        What the function takes, in the order of the rows.
    open_file : callable
        Opens one of them.

    Raises
    ------
    DataError
        If a file cannot be opened or has other columns than the first one, or none has rows.
    """

    def opened(file: Any) -> Source | NoRowsError:
        try:
            part = open_file(file)
        except NoRowsError as error:
            return error
        _release(part)
        return part

    with ThreadPoolExecutor() as threads:
        found = list(threads.map(opened, files))
    parts = [part for part in found if not isinstance(part, NoRowsError)]
    if not parts:
        raise DataError(
            f"{name} has 0 sample(s) while a minimum of 1 is required: no file has rows"
        )
    return JoinedSource(name, parts)


def _release(part: Source) -> None:
    """Close the file of a part until it is read again: a process may hold few files open."""
    if isinstance(part, ReleasableSource):
        part.release()


def _refuse_other_shard(part: Source, first: Source) -> None:
    """Refuse a part that does not go together with the first one."""
    if part.n_features != first.n_features:
        raise DataError(
            f"{part.name} has {part.n_features} columns, but {first.name} has {first.n_features}; "
            "files of one table have the same columns"
        )
    if part.dtype != first.dtype:
        raise DataError(
            f"{part.name} has dtype {part.dtype}, but {first.name} has {first.dtype}; convert one "
            "of them, as files of one table have the same type"
        )
