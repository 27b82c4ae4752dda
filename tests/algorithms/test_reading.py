"""Reads of a part of the data: what is told of them, and how they count."""

from dataclasses import dataclass

import numpy as np
import pytest

from streamgmm.algorithms.reads.reader import Reader
from streamgmm.events import ChunkDone, Event, ReadDone, ReadStarted
from streamgmm.executors.threads import ThreadExecutor
from streamgmm.protocols import Chunk, Work
from streamgmm.testing.chunked import ChunkedSource


@dataclass(frozen=True)
class Count:
    n_rows: int

    def merge(self, other: "Count") -> "Count":
        return Count(self.n_rows + other.n_rows)


def count(most: int, chunk: Chunk) -> Count:
    return Count(min(most, len(chunk.rows)))


def test_partial_reads_count_as_parts() -> None:
    events: list[Event] = []
    source = ChunkedSource(np.zeros((100, 3)), 8)
    with ThreadExecutor(1) as executor:
        reader = Reader(source, executor, events.append)
        assert reader.n_reads == 0
        assert reader.reduce("all", Count, count, 8, Work()).n_rows == 100
        assert reader.n_reads == 1
        assert isinstance(reader.n_reads, int)
        # Of the chunks the last one is half as long as the others.
        assert reader.reduce("some", Count, count, 8, Work(), chunks=[0, 3, 12]).n_rows == 20
        assert reader.n_reads == pytest.approx(1.2)
    assert [read.part for read in reader.history] == [1.0, 0.2]
    assert source.n_reads == 13 + 3

    told = {"all": (100, 13), "some": (20, 3)}
    started = [event for event in events if isinstance(event, ReadStarted)]
    assert {e.purpose: (e.n_rows, e.n_chunks) for e in started} == told
    assert all(event.n_bytes == 24 * event.n_rows for event in started)
    done = [event for event in events if isinstance(event, ReadDone)]
    assert {e.purpose: e.n_rows for e in done} == {"all": 100, "some": 20}
    chunks = [event for event in events if isinstance(event, ChunkDone)]
    assert sum(event.n_rows for event in chunks) == 120
    assert sum(event.n_bytes for event in chunks) == 24 * 120
