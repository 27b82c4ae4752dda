"""Functions that all sources share: types of values, and boundaries of chunks."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np

from streamgmm.errors import DataError
from streamgmm.urls import FetchError

# Bytes of a chunk as float64, and bounds on its rows. A chunk is large enough that its computation
# takes longer than handing it to a thread, and small enough that there are many chunks.
_CHUNK_BYTES = 2 << 20
_FEWEST_ROWS, _MOST_ROWS = 1024, 65536


def rows_per_chunk(n_features: int, stored_rows: int = 1) -> int:
    """Return the rows in a chunk of D features, a multiple of the rows that are stored together.

    It depends on the layout of the data alone, never on the machine: where chunks begin
    decides the last bits of every result.
    """
    rows = _CHUNK_BYTES // (8 * n_features) // _FEWEST_ROWS * _FEWEST_ROWS
    rows = min(max(rows, _FEWEST_ROWS), _MOST_ROWS)
    return stored_rows * max(1, rows // stored_rows)


def regular_boundaries(n_rows: int, chunk_rows: int) -> Sequence[int]:
    """Return 0, then every multiple of ``chunk_rows``, then ``n_rows``."""
    return [*range(0, n_rows, chunk_rows), n_rows]


def name_of_several(names: Sequence[str]) -> str:
    """Return what messages call several files: the first one, and how many there are."""
    more = len(names) - 1
    return names[0] if not more else f"{names[0]} and {more} more file{'s' * (more > 1)}"


class NoRowsError(DataError):
    """A table has no rows."""


def check_table(name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Refuse what is no table of real numbers.

    Raises
    ------
    DataError
        Unless the shape is (N, D) with at least one row and one feature, and the type boolean,
        integer or floating.
    """
    if len(shape) != 2:
        hint = (
            "; reshape(-1, 1) makes one feature of a vector, reshape(1, -1) one row. Reshape your "
            "data in one of these ways"
            if len(shape) == 1
            else ""
        )
        raise DataError(
            f"Expected 2D array (n_samples, n_features), but {name} has shape {shape}{hint}"
        )
    if shape[0] == 0:
        raise NoRowsError(
            f"{name} has 0 sample(s) (shape={shape}) while a minimum of 1 is required."
        )
    if shape[1] == 0:
        raise DataError(f"0 feature(s) (shape={shape}) while a minimum of 1 is required: {name}")
    if dtype.kind not in "buif":
        kinds = {"c": "Complex data not supported", "O": "Python objects are not numbers"}
        raise DataError(
            f"{kinds.get(dtype.kind, 'These are not real numbers')}: {name} has dtype {dtype}; "
            "convert it to a real type first"
        )


def naming_rows(name: str, start: int, stop: int, advice: str = "") -> AbstractContextManager[None]:
    """Name the rows and the data in each error that is raised while they are read."""
    return naming_place(name, f"rows {start} to {stop}", advice)


@contextmanager
def naming_place(name: str, place: str, advice: str = "") -> Iterator[None]:
    """Name the data and the part of them in each error that is raised while they are read."""
    try:
        yield
    except (DataError, MemoryError):
        raise
    except FetchError as error:
        raise DataError(f"{name}: {place} cannot be read: {error}") from error
    except Exception as error:
        raise DataError(
            f"{name}: {place} cannot be read or decoded ({type(error).__name__}: {error}){advice}"
        ) from error
