"""The merge tree and the arithmetic of memory."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamgmm.errors import ParameterError
from streamgmm.executors.memory import Budget, free_bytes, parse_bytes, process_bytes
from streamgmm.executors.merge_tree import MergeTree, tree_depth
from streamgmm.quantities import format_bytes
from streamgmm.testing.executors import Text, bracketed


@given(st.permutations(range(13)) | st.integers(1, 40).flatmap(lambda n: st.permutations(range(n))))
def test_any_order_of_arrival_gives_the_same_expression(order: list[int]) -> None:
    tree: MergeTree[Text] = MergeTree(len(order))
    for index in order:
        tree.add(index, Text(f"c{index} "))
    assert tree.result.value == bracketed([f"c{i} " for i in range(len(order))])


@given(st.integers(1, 300), st.integers(1, 8), st.randoms(use_true_random=False))
def test_few_values_wait(n_values: int, in_the_air: int, random: object) -> None:
    tree: MergeTree[Text] = MergeTree(n_values)
    waiting = list(range(min(in_the_air, n_values)))
    following = len(waiting)
    most = 0
    while waiting:
        # One of those in the air ends, and the next in order begins.
        tree.add(waiting.pop(random.randrange(len(waiting))), Text(""))  # type: ignore[attr-defined]
        if following < n_values:
            waiting.append(following)
            following += 1
        most = max(most, len(tree._waiting))
    assert tree_depth(n_values) == int(np.ceil(np.log2(n_values)))
    if in_the_air == 1:
        assert most <= tree_depth(n_values) + 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (1000, 1000),
        (1.5e6, 1_500_000),
        ("2000", 2000),
        ("2e9", 2_000_000_000),
        ("1GiB", 2**30),
        ("1 gib", 2**30),
        ("500 MB", 500_000_000),
        ("500MB", 500_000_000),
        ("1.5 GB", 1_500_000_000),
        ("0.5MiB", 2**19),
        ("3k", 3000),
        ("3KiB", 3072),
        ("2TiB", 2**41),
        (" 7 b ", 7),
        (2**40, 2**40),
        (np.int64(5000), 5000),
        (1e22, 10**22),
    ],
)
def test_sizes_are_parsed(text: object, expected: int) -> None:
    assert parse_bytes(text) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text", ["", "GiB", "-1GB", "1 XB", "1.2.3", "iB", "0", 0, -5, "nan", "inf", "1ib", "1e", True]
)
def test_what_is_no_size_is_refused(text: object) -> None:
    with pytest.raises(ParameterError, match="memory_limit is"):
        parse_bytes(text)  # type: ignore[arg-type]


def test_sizes_are_for_people() -> None:
    assert format_bytes(0) == "0 B"
    assert format_bytes(1.25 * 2**30) == "1.25 GiB"
    assert format_bytes(1500) == "1.465 KiB"
    assert format_bytes(5 * 2**40) == "5 TiB"


def test_the_default_limit_is_between_what_is_held_and_what_there_is() -> None:
    held, free = process_bytes(), free_bytes()
    assert held > 1 << 20
    assert free > 1 << 20
    limit = Budget.of(None, 1).limit
    assert held < limit < held + free
    assert Budget.of("1GiB", 1).limit == 2**30
