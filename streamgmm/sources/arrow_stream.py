"""Tables that come as an Arrow stream, whose rows are learned as they come."""

from collections.abc import Iterable, Iterator
from itertools import count
from typing import Any

from streamgmm.protocols import Chunk, chunks_of
from streamgmm.sources.frame import FrameSource, arrow_reader
from streamgmm.sources.layout import naming_place, rows_per_chunk


def batches_of(stream: Any, name: str = "X") -> Iterator[Any]:
    """Yield the record batches of a stream that hold rows, as they come.

    Parameters
    ----------
    stream : object with the method ``__arrow_c_stream__``
        A pyarrow.RecordBatchReader or a relation of DuckDB, for instance.
    name : str
        What messages call it.

    Raises
    ------
    DataError
        If the stream does not consist of columns, or fails.
    """
    yield from _batches(arrow_reader(stream, name), name)


def tables_of(stream: Any, name: str = "X") -> Iterator[FrameSource]:
    """Yield the rows of a stream in tables of the size of a chunk.

    The sizes depend on the number of columns alone, so that a model has the same bits, whether it
    learns a stream or its rows in memory.

    Parameters
    ----------
    stream, name
        As for :func:`batches_of`.

    Raises
    ------
    DataError
        If the stream does not consist of columns of numbers, or fails.
    """
    reader = arrow_reader(stream, name)
    import pyarrow

    n_columns = max(len(reader.schema.names), 1)
    most_rows = rows_per_chunk(n_columns)
    batches = _batches(reader, name)
    held: list[Any] = []
    n_held = 0
    for batch in batches:
        held.append(batch)
        n_held += len(batch)
        while n_held >= most_rows:
            table = pyarrow.Table.from_batches(held)
            yield FrameSource(table.slice(0, most_rows), name=name)
            held = table.slice(most_rows).to_batches()
            n_held -= most_rows
    if n_held:
        yield FrameSource(pyarrow.Table.from_batches(held), name=name)


def joined_chunks(tables: Iterable[FrameSource]) -> Iterator[Chunk]:
    """Yield the chunks of tables, numbered as the rows of one table."""
    start = 0
    for table in tables:
        for chunk in chunks_of(table):
            yield Chunk(chunk.rows, range(start, start + len(chunk.rows)))
            start += len(chunk.rows)


def _batches(reader: Any, name: str) -> Iterator[Any]:
    """Yield the record batches of a reader that hold rows."""
    for number in count(1):
        with naming_place(name, f"batch {number} of its Arrow stream"):
            batch = next(reader, None)
        if batch is None:
            return
        if len(batch):
            yield batch
