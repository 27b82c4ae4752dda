"""Reads that are cut anywhere merge by the tree that all reads merge by."""

import math
from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamgmm.algorithms.reads.partial_reads import complete
from streamgmm.protocols import PartialRead
from streamgmm.testing.executors import Text, bracketed


def merged(chunks: list[int] | range) -> Text:
    """What an executor makes of some chunks."""
    return Text(bracketed([f"{i}," for i in chunks]))


def ignore(_: object) -> None:
    pass


@given(
    n_chunks=st.integers(1, 1500),
    interval=st.sampled_from([1e-9, 1e-4, 1e9, math.inf]),
    at=st.data(),
)
def test_wherever_a_read_is_cut_and_begun_again_the_tree_is_the_same(
    n_chunks: int, interval: float, at: st.DataObject
) -> None:
    chunks = range(1000, 1000 + n_chunks)
    kept: list[PartialRead[Text]] = [PartialRead()]
    value, _ = complete(PartialRead(), chunks, merged, kept.append, interval)
    assert value == merged(chunks)
    # As if it had been killed once it had kept something, and asked for another interval.
    begun = at.draw(st.sampled_from(kept))
    n_read = 0

    def read(segment: range) -> Text:
        nonlocal n_read
        n_read += len(segment)
        return merged(segment)

    again = at.draw(st.sampled_from([1e-9, 1e9, math.inf]))
    assert complete(begun, chunks, read, ignore, again)[0] == value
    assert n_read == n_chunks - begun.n_chunks


@pytest.mark.parametrize(
    ("interval", "n_chunks", "lengths"),
    [
        (math.inf, 300, [300]),
        (math.inf, 256, [256]),
        # As long as it is soon done, segments grow.
        (1e9, 600, [2, 2, 4, 8, 16, 32, 64, 128, 256, 88]),
        (1e9, 5, [1, 1, 2, 1]),
        (1e-9, 6, [1, 1, 1, 1, 1, 1]),
        # If it takes too long, they shrink.
        (1e-9, 1000, [4, 2, *994 * [1]]),
    ],
)
def test_segments_are_as_long_as_there_is_time(
    interval: float, n_chunks: int, lengths: list[int]
) -> None:
    found: list[int] = []
    kept: list[int] = []

    def read(segment: range) -> Text:
        found.append(len(segment))
        return merged(segment)

    def keep(partial: PartialRead[Text]) -> None:
        kept.append(partial.n_chunks)

    complete(PartialRead(), range(n_chunks), read, keep, interval)
    assert found == lengths
    # All but the end, which is a result.
    assert kept == (list(accumulate(lengths))[:-1] if interval == 1e-9 else [])


def test_seconds_add_up() -> None:
    begun = PartialRead(2, (merged([0, 1]),), 100.0)
    _, seconds = complete(begun, range(3), merged, ignore, math.inf)
    assert 100.0 < seconds < 160.0
