"""Requirements on every executor; tests of an executor subclass :class:`ExecutorConformance`."""

import functools
import operator
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pytest
from numpy.typing import NDArray

from streamgmm.events import ChunkDone, Event
from streamgmm.protocols import Chunk, Executor, Job
from streamgmm.sinks import ArraySink
from streamgmm.testing.chunked import ChunkedSource


@dataclass(frozen=True)
class Text:
    """A monoid that shows in which order it was merged."""

    value: str

    def merge(self, other: Self) -> "Text":
        return Text(f"({self.value}{other.value})")


@dataclass(frozen=True)
class Total:
    """A float sum: its last bits show in which order it was merged."""

    value: float

    def merge(self, other: Self) -> "Total":
        return Total(self.value + other.value)


def first_row(state: str, chunk: Chunk) -> Text:
    return Text(f"{state}{int(chunk.rows[0, 0])}")


def indices(_: None, chunk: Chunk) -> Text:
    assert np.array_equal(chunk.rows[:, 0], np.asarray(chunk.index))
    return Text(f"[{chunk.index[0]},{chunk.index[-1]}]")


def total(_: None, chunk: Chunk) -> Total:
    return Total(float(chunk.rows.sum()))


def weighted_total(_: None, chunk: Chunk) -> Total:
    assert chunk.weights is not None
    return Total(float(chunk.weights @ chunk.rows[:, 0]))


def fail_at_row_50(_: None, chunk: Chunk) -> Text:
    if 50 in chunk.rows[:, 0]:
        raise LookupError("the chunk with row 50")
    return Text("")


def doubled(factor: float, chunk: Chunk) -> NDArray[Any]:
    return factor * chunk.rows


def first_column(_: None, chunk: Chunk) -> NDArray[Any]:
    return chunk.rows[:, 0].astype(np.int64)


def fail_to_write(_: None, chunk: Chunk) -> NDArray[Any]:
    if 50 in chunk.rows[:, 0]:
        raise LookupError("the chunk with row 50")
    return chunk.rows[:, 0]


class HalfDoneSink(ArraySink):
    """A sink that holds every other chunk already."""

    def __init__(self, array: NDArray[Any]) -> None:
        super().__init__(array)
        self.finished: list[int] = []

    def has(self, i: int) -> bool:
        return i % 2 == 1

    def finish(self, i: int) -> None:
        self.finished.append(i)


class UnreadableSource(ChunkedSource):
    """A source whose sixth chunk is gone."""

    def read(self, i: int) -> Chunk:
        if i == 5:
            raise FileNotFoundError("chunk 5 is gone")
        return super().read(i)


def rows(n: int, d: int = 1) -> NDArray[np.float64]:
    return np.repeat(np.arange(n, dtype=np.float64)[:, np.newaxis], d, axis=1)


def bracketed(values: list[str]) -> str:
    """Return values with the brackets of the merge tree; an odd last value moves up."""
    while len(values) > 1:
        pairs = [f"({a}{b})" for a, b in zip(values[::2], values[1::2], strict=False)]
        values = pairs + ([values[-1]] if len(values) % 2 else [])
    return values[0]


def ignore(event: Event) -> None:
    pass


class ExecutorConformance(ABC):
    """Tests of an executor; subclasses make the executor.

    Examples
    --------
    >>> import pytest
    >>> from streamgmm.executors.threads import ThreadExecutor
    >>> from streamgmm.testing import ExecutorConformance
    >>> class TestThreads(ExecutorConformance):
    ...     @pytest.fixture
    ...     def executor(self):
    ...         with ThreadExecutor(2) as executor:
    ...             yield executor
    """

    @pytest.fixture
    @abstractmethod
    def executor(self) -> Executor:
        """Return the executor under test, open."""

    @pytest.mark.parametrize("n_chunks", [1, 2, 3, 7, 16, 33])
    def test_values_merge_by_the_fixed_tree(self, executor: Executor, n_chunks: int) -> None:
        source = ChunkedSource(rows(n_chunks), 1)
        merged = executor.map_reduce(source, Job(first_row, "c"), ignore)
        assert merged.value == bracketed([f"c{i}" for i in range(n_chunks)])

    @pytest.mark.parametrize("chunks", [[4], [0, 3, 4], [5, 1, 6, 2, 0], range(7)])
    def test_some_chunks_merge_in_the_order_given(
        self, executor: Executor, chunks: Sequence[int]
    ) -> None:
        source = ChunkedSource(rows(67), 10)
        events: list[Event] = []
        merged = executor.map_reduce(source, Job(first_row, "c"), events.append, chunks=chunks)
        assert merged.value == bracketed([f"c{10 * i}" for i in chunks])
        n_rows = sum(7 if i == 6 else 10 for i in chunks)
        assert sum(event.n_rows for event in events if isinstance(event, ChunkDone)) == n_rows

    def test_chunks_that_are_not_asked_for_are_not_read(self, executor: Executor) -> None:
        source = UnreadableSource(rows(100), 10)
        found = executor.map_reduce(source, Job(total, None), ignore, chunks=[4, 6])
        assert found.value == sum(range(40, 50)) + sum(range(60, 70))

    def test_chunks_know_their_place(self, executor: Executor) -> None:
        source = ChunkedSource(rows(103), 10)
        expected = [f"[{start},{min(start + 9, 102)}]" for start in range(0, 103, 10)]
        assert executor.map_reduce(source, Job(indices, None), ignore).value == bracketed(expected)

    def test_sums_have_the_same_bits_everywhere(self, executor: Executor) -> None:
        rng = np.random.default_rng(0)
        values = rng.normal(size=(3000, 2)) * 10.0 ** rng.uniform(-8, 8, (3000, 1))
        source = ChunkedSource(values, 70)
        expected = [float(values[start : start + 70].sum()) for start in source.boundaries[:-1]]
        # Otherwise the sum would not depend on the order.
        assert functools.reduce(operator.add, expected) != self.tree_sum(expected)
        found = executor.map_reduce(source, Job(total, None), ignore)
        assert found.value == self.tree_sum(expected)

    @staticmethod
    def tree_sum(values: list[float]) -> float:
        """Return the sum of numbers by the tree in which chunks are merged.

        Parameters
        ----------
        values : list of float

        Returns
        -------
        total : float

        Examples
        --------
        >>> from streamgmm.testing import ExecutorConformance
        >>> ExecutorConformance.tree_sum([1.0, 2.0, 3.0])
        6.0
        """
        while len(values) > 1:
            pairs = [a + b for a, b in zip(values[::2], values[1::2], strict=False)]
            values = pairs + ([values[-1]] if len(values) % 2 else [])
        return values[0]

    def test_empty_chunks_count(self, executor: Executor) -> None:
        source = ChunkedSource(rows(10), boundaries=[0, 0, 4, 4, 10, 10])
        assert executor.map_reduce(source, Job(total, None), ignore).value == 45.0
        written = np.full((10, 1), np.nan)
        executor.map_write(source, Job(doubled, 2.0), ArraySink(written), ignore)
        np.testing.assert_array_equal(written, 2 * rows(10))

    def test_weights_arrive(self, executor: Executor) -> None:
        source = ChunkedSource(rows(10), 3, weights=np.arange(10.0))
        assert executor.map_reduce(source, Job(weighted_total, None), ignore).value == 285.0

    @pytest.mark.parametrize("d", [1, 3])
    def test_every_row_is_written(self, executor: Executor, d: int) -> None:
        source = ChunkedSource(rows(1003, d), 10)
        written = np.full((1003, d), np.nan)
        executor.map_write(source, Job(doubled, 3.0), ArraySink(written), ignore)
        np.testing.assert_array_equal(written, 3 * rows(1003, d))
        labels = np.full(1003, -1)
        executor.map_write(source, Job(first_column, None), ArraySink(labels), ignore)
        np.testing.assert_array_equal(labels, np.arange(1003))

    def test_what_a_sink_has_is_not_computed(self, executor: Executor) -> None:
        source = ChunkedSource(rows(103), 10)
        written = np.full((103, 1), -1.0)
        sink = HalfDoneSink(written)
        events: list[Event] = []
        # Row 50 is the first row of chunk 5, which the sink holds.
        executor.map_write(source, Job(fail_to_write, None), HalfDoneSink(np.empty(103)), ignore)
        executor.map_write(source, Job(doubled, 2.0), sink, events.append)
        expected = np.where(rows(103) // 10 % 2, -1.0, 2.0 * rows(103))
        np.testing.assert_array_equal(written, expected)
        assert sorted(sink.finished) == [0, 2, 4, 6, 8, 10]
        assert sum(e.n_rows for e in events if isinstance(e, ChunkDone)) == 5 * 10 + 3

    def test_all_rows_are_told_of(self, executor: Executor) -> None:
        source = ChunkedSource(rows(103, 2), 10)
        events: list[Event] = []
        executor.map_reduce(source, Job(total, None), events.append)
        executor.map_write(source, Job(doubled, 1.0), ArraySink(np.empty((103, 2))), events.append)
        assert all(isinstance(event, ChunkDone) for event in events)
        done = [event for event in events if isinstance(event, ChunkDone)]
        assert sum(event.n_rows for event in done) == 2 * 103
        assert sum(event.n_bytes for event in done) == 2 * 103 * 16

    def test_errors_of_the_function_arrive_as_they_are(self, executor: Executor) -> None:
        source = ChunkedSource(rows(100), 10)
        with pytest.raises(LookupError, match="row 50"):
            executor.map_reduce(source, Job(fail_at_row_50, None), ignore)
        with pytest.raises(LookupError, match="row 50"):
            executor.map_write(source, Job(fail_to_write, None), ArraySink(np.empty(100)), ignore)
        # The executor can still be used.
        assert executor.map_reduce(source, Job(total, None), ignore).value == 4950.0

    def test_errors_of_the_source_arrive_as_they_are(self, executor: Executor) -> None:
        with pytest.raises(FileNotFoundError, match="chunk 5"):
            executor.map_reduce(UnreadableSource(rows(100), 10), Job(total, None), ignore)

    def test_errors_of_the_listener_arrive_as_they_are(self, executor: Executor) -> None:
        def refuse(event: Event) -> None:
            raise LookupError("enough")

        source = ChunkedSource(rows(100), 10)
        with pytest.raises(LookupError, match="enough"):
            executor.map_reduce(source, Job(total, None), refuse)
        assert executor.map_reduce(source, Job(total, None), ignore).value == 4950.0
