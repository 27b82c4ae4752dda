"""Tables that come one after the other through a pipe: Arrow's stream, or ``.npy`` arrays."""

from collections.abc import Iterator, Sequence
from io import BufferedReader
from itertools import count
from types import SimpleNamespace

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
    """Yield the tables of a stream, as they come.

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
            raise DataError(f"{name}: .npy arrays have no columns by name; remove columns=")
        tables = _arrays(stream, name)
    else:
        tables = _record_batches(stream, name, columns)
    for number in count(1):
        with naming_place(name, f"table {number}", _ADVICE):
            table = next(tables, None)
        if table is None:
            return
        yield table


def _arrays(stream: BufferedReader, name: str) -> Iterator[ArraySource]:
    # NumPy asks a file where it stands, which a pipe cannot say.
    readable = SimpleNamespace(read=stream.read)
    for number in count(1):
        if not stream.peek(1):
            return
        rows = np.lib.format.read_array(readable, allow_pickle=False)
        yield ArraySource(rows, f"{name}, table {number}")


def _record_batches(
    stream: BufferedReader, name: str, columns: Sequence[str] | None
) -> Iterator[ArraySource]:
    """Yield a source for each record batch that is not empty."""
    with needed_by(f"{name} holds no .npy arrays, and an Arrow stream"):
        import pyarrow
    from streamgmm.sources.frame import FrameSource

    with pyarrow.ipc.open_stream(stream) as reader:
        batches = (batch for batch in reader if len(batch))
        for number, batch in enumerate(batches, 1):
            yield FrameSource(batch, columns, f"{name}, table {number}")
