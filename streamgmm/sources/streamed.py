"""Tables that come one after the other through a pipe: Arrow's stream, or ``.npy`` arrays."""

from collections.abc import Iterator, Sequence
from io import BufferedReader
from types import SimpleNamespace
from typing import Any

import numpy as np

from streamgmm.errors import DataError
from streamgmm.packages import needed_by
from streamgmm.sources.array import ArraySource
from streamgmm.sources.layout import naming_place

_NPY_BEGINS = np.lib.format.MAGIC_PREFIX[:1]
_ADVICE = "; what is read is an Arrow IPC stream, or .npy arrays one after the other"


def tables_from(
    stream: BufferedReader, name: str, columns: Sequence[str] | None = None
) -> Iterator[ArraySource]:
    """The tables of a stream, as they come.

    Parameters
    ----------
    stream : buffered file
        Arrow's IPC stream format, whose record batches are the tables, or ``.npy`` files that
        follow each other.
    name : str
        What messages call it.
    columns : sequence of str, optional
        Columns of an Arrow stream that are the features; all by default.

    Raises
    ------
    DataError
        If it is neither, ends within a table, or a table cannot be used.
    """
    first = stream.peek(1)[:1]
    if not first:
        raise DataError(f"{name} is empty")
    if first == _NPY_BEGINS:
        if columns is not None:
            raise DataError(f"{name}: .npy arrays have no columns by name; leave out columns=")
        tables = _arrays(stream)
    else:
        tables = _record_batches(stream, name, columns)
    number = 1
    while True:
        with naming_place(name, f"table {number}", _ADVICE):
            table = next(tables, None)
        if table is None:
            return
        rows, names = table
        source = ArraySource(rows, f"{name}, table {number}")
        source.feature_names = names
        yield source
        number += 1


_Table = tuple[np.ndarray[Any, Any], Sequence[str] | None]


def _arrays(stream: BufferedReader) -> Iterator[_Table]:
    # NumPy asks a file where it stands, which a pipe cannot say.
    readable = SimpleNamespace(read=stream.read)
    while stream.peek(1):
        yield np.lib.format.read_array(readable, allow_pickle=False), None


def _record_batches(
    stream: BufferedReader, name: str, columns: Sequence[str] | None
) -> Iterator[_Table]:
    """Record batches that are not empty."""
    with needed_by(f"{name} holds no .npy arrays, and an Arrow stream"):
        import pyarrow
    with pyarrow.ipc.open_stream(stream) as reader:
        for batch in reader:
            chosen = batch if columns is None else batch.select(list(columns))
            if len(chosen):
                # Null is NaN.
                rows = chosen.to_tensor(null_to_nan=True).to_numpy()
                yield rows, chosen.schema.names
