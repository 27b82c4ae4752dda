"""The row sample: uniform, bounded, and the same however the rows are chunked."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from streamgmm.algorithms.reads.reader import Reader
from streamgmm.algorithms.sampling.row_sample import (
    Draw,
    RowSample,
    SampleDesign,
    expected_shortfall,
    sample_rows,
    sample_size,
)
from streamgmm.errors import NotFiniteError
from streamgmm.executors.threads import ThreadExecutor
from streamgmm.protocols import Source
from streamgmm.sources.array import ArraySource
from streamgmm.testing.chunked import ChunkedSource

SIZE = 1 << 16


def positions(n: int) -> NDArray[np.float64]:
    """A table that says which row each is."""
    return np.arange(n, dtype=np.float64)[:, np.newaxis]


def sample(source: Source, seed: int = 0, n_jobs: int = 2) -> RowSample:
    with ThreadExecutor(n_jobs) as executor:
        return sample_rows(Reader(source, executor, lambda event: None), seed)


@pytest.mark.parametrize("n", [1, 2, 1000, SIZE])
def test_few_rows_are_all_taken_in_order(n: int) -> None:
    found = sample(ChunkedSource(positions(n), max(1, n // 3)))
    np.testing.assert_array_equal(found.rows, positions(n))
    np.testing.assert_array_equal(found.weights, np.ones(n))


@pytest.mark.parametrize("n", [SIZE + 1, SIZE + 500, 2 * SIZE, 1_000_000])
def test_many_rows_are_bounded(n: int) -> None:
    found = sample(ArraySource(positions(n)))
    assert found.rows.shape == (SIZE, 1)
    assert found.rows.dtype == np.float64
    # Each row once, in the order of the data.
    assert np.all(np.diff(found.rows[:, 0]) > 0)


@pytest.mark.parametrize("n_features", [130, 1000, 20_000])
def test_wide_rows_are_bounded_in_bytes(n_features: int) -> None:
    n = 70_000
    wide = np.broadcast_to(positions(n), (n, n_features))
    found = sample(ArraySource(wide), n_jobs=1)
    assert len(found.rows) == max(1024, (32 << 20) // (8 * n_features))


def layouts(n: int) -> dict[str, Sequence[int]]:
    rng = np.random.default_rng(0)
    uneven = np.sort(rng.integers(0, n, 50)).tolist()
    return {
        "one chunk": [0, n],
        "small chunks": [*range(0, n, 999), n],
        "uneven and empty chunks": [0, 0, *uneven, n, n],
    }


def test_chunks_and_threads_do_not_matter() -> None:
    n = 150_000
    expected = sample(ArraySource(positions(n)))
    for name, boundaries in layouts(n).items():
        for n_jobs in (1, 3):
            source = ChunkedSource(positions(n), boundaries=boundaries)
            found = sample(source, n_jobs=n_jobs)
            np.testing.assert_array_equal(found.rows, expected.rows, err_msg=name)
            np.testing.assert_array_equal(found.weights, expected.weights)


def test_seeds_matter() -> None:
    source = ArraySource(positions(150_000))
    first, second, again = (sample(source, seed).rows for seed in (0, 1, 0))
    np.testing.assert_array_equal(first, again)
    shared = len(np.intersect1d(first, second)) / SIZE
    # Two independent samples share the sampled part of each other.
    assert shared == pytest.approx(SIZE / 150_000, abs=0.01)


@pytest.mark.parametrize("seed", [0, 1, 2**31 - 1])
@pytest.mark.parametrize("period", [2, 7, 64, 1000])
def test_samples_are_uniform(seed: int, period: int) -> None:
    n = 200_000
    chosen = sample(ArraySource(positions(n)), seed).rows[:, 0].astype(int)
    # By place in the data, and by place within a period.
    for cells, n_cells in ((chosen * 100 // n, 100), (chosen % period, period)):
        counts = np.bincount(cells, minlength=n_cells)
        available = np.bincount(
            np.arange(n) * 100 // n if n_cells == 100 else np.arange(n) % period,
            minlength=n_cells,
        )
        expected = available * SIZE / n
        # Drawn without replacement: the variance is less by what has been taken.
        statistic = float((np.square(counts - expected) / expected).sum() / (1 - SIZE / n))
        assert scipy.stats.chi2.sf(statistic, n_cells - 1) > 1e-4
        assert scipy.stats.chi2.cdf(statistic, n_cells - 1) > 1e-4


def test_rows_without_weight_are_left_out() -> None:
    n = 1000
    weights = np.random.default_rng(0).uniform(size=n)
    weights[::3] = 0.0
    found = sample(ChunkedSource(positions(n), 100, weights=weights))
    np.testing.assert_array_equal(found.rows[:, 0], np.flatnonzero(weights))
    np.testing.assert_array_equal(found.weights, weights[weights > 0])


def test_few_rows_with_weight_among_many_are_all_found() -> None:
    n = 400_000
    weights = np.zeros(n)
    weights[::4000] = 1.0
    found = sample(ChunkedSource(positions(n), 50_000, weights=weights))
    np.testing.assert_array_equal(found.rows[:, 0], np.flatnonzero(weights))


def test_not_finite_rows_are_refused() -> None:
    rows = positions(1000)
    rows[[5, 700]] = np.nan
    with pytest.raises(NotFiniteError, match=r"2 value\(s\) in 2 of 1000 rows; .* row 5 column 0"):
        sample(ChunkedSource(rows, 100))


def test_overflowing_rows_are_left_out() -> None:
    rows = positions(1000)
    rows[[5, 700]] = [[1e200], [-1e300]]
    found = sample(ChunkedSource(rows, 100))
    np.testing.assert_array_equal(found.rows, np.delete(positions(1000), [5, 700], axis=0))


@pytest.mark.parametrize("dtype", ["f4", "i2", "u1", "?"])
def test_rows_become_float64(dtype: str) -> None:
    rows = (positions(300) % 2).astype(dtype)
    found = sample(ArraySource(rows))
    assert found.rows.dtype == np.float64
    np.testing.assert_array_equal(found.rows, rows.astype(np.float64))


def test_merging_keeps_the_smallest_hashes() -> None:
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**63, 90).astype(np.uint64)
    parts = [drawn(40, part) for part in np.split(hashes, [20, 20, 55])]
    left = parts[0].merge(parts[1]).merge(parts[2]).merge(parts[3]).sample()
    right = parts[0].merge(parts[1].merge(parts[2].merge(parts[3]))).sample()
    np.testing.assert_array_equal(left.hashes, right.hashes)
    np.testing.assert_array_equal(np.sort(left.hashes), np.sort(hashes)[:40])


def drawn(
    size: int, hashes: NDArray[np.uint64], is_unexplained: NDArray[np.bool_] | None = None
) -> Draw:
    """What is taken of rows that say what their hashes are."""
    n = len(hashes)
    strata = np.zeros(n, dtype=np.bool_) if is_unexplained is None else is_unexplained
    rows = hashes[:, np.newaxis].astype(float)
    design = SampleDesign(0, size, np.dtype(np.float64))
    part = RowSample(hashes.astype(int), hashes, rows, np.ones(n), strata)
    return Draw(design, (part.take(design.kept(hashes, strata)),))


@given(
    st.integers(0, 60).flatmap(
        lambda n: st.tuples(
            st.permutations(range(n)),
            st.lists(st.booleans(), min_size=n, max_size=n),
            st.lists(st.integers(0, n), min_size=3, max_size=3),
        )
    ),
    st.integers(1, 60),
)
def test_any_grouping_keeps_the_same_rows(
    case: tuple[list[int], list[bool], list[int]], size: int
) -> None:
    order, flags, ends = case
    hashes, strata = np.array(order, dtype=np.uint64), np.array(flags, dtype=np.bool_)
    whole = drawn(size, hashes, strata).sample()
    a, b, c, d = (
        drawn(size, own, flags)
        for own, flags in zip(
            np.split(hashes, sorted(ends)), np.split(strata, sorted(ends)), strict=True
        )
    )
    for merged in (a.merge(b).merge(c).merge(d), a.merge(b).merge(c.merge(d))):
        found = merged.sample()
        np.testing.assert_array_equal(found.hashes, whole.hashes)
        np.testing.assert_array_equal(found.rows[:, 0], whole.hashes.astype(float))
        np.testing.assert_array_equal(found.is_unexplained, whole.is_unexplained)
    assert len(whole) == min(size, len(hashes))
    # Within a stratum the smallest hashes; badly explained rows have an eighth of the places.
    n_unexplained = int(whole.is_unexplained.sum())
    for flag in (False, True):
        own = np.sort(hashes[strata == flag])
        kept = np.sort(whole.hashes[whole.is_unexplained == flag])
        np.testing.assert_array_equal(kept, own[: len(kept)])
    assert n_unexplained >= min(size // 8, int(strata.sum()))


# Parts of a sample


def of_two_strata(n: int, n_unexplained: int) -> RowSample:
    """Rows that say where they are, with weights; those of the second stratum all over."""
    rng = np.random.default_rng(0)
    strata = np.zeros(n, dtype=np.bool_)
    strata[rng.choice(n, n_unexplained, replace=False)] = True
    weights = np.where(strata, 0.01, 1.0)
    index = np.arange(n)
    return RowSample(index, index.astype(np.uint64), positions(n), weights, strata)


@pytest.mark.parametrize(
    ("n_unexplained", "n_kept"), [(0, 0), (100, 100), (512, 512), (2000, 512), (7000, 512)]
)
def test_parts_take_their_rows_from_both_strata(n_unexplained: int, n_kept: int) -> None:
    whole = of_two_strata(10_000, n_unexplained)
    part = whole.part(1024)
    assert int((~part.is_unexplained).sum()) == 1024
    assert int(part.is_unexplained.sum()) == n_kept
    # Each row once, in order, as it is in the sample.
    assert np.all(np.diff(part.index) > 0)
    np.testing.assert_array_equal(part.rows[:, 0], part.index)
    np.testing.assert_array_equal(part.hashes, part.index.astype(np.uint64))
    np.testing.assert_array_equal(part.is_unexplained, whole.is_unexplained[part.index])


@pytest.mark.parametrize("n_unexplained", [0, 100, 2000, 9990, 10_000])
def test_parts_weigh_as_much_as_the_whole(n_unexplained: int) -> None:
    whole = of_two_strata(10_000, n_unexplained)
    part = whole.part(1024)
    for stratum in (False, True):
        expected = whole.weights[whole.is_unexplained == stratum].sum()
        assert part.weights[part.is_unexplained == stratum].sum() == pytest.approx(expected)


@pytest.mark.parametrize("stratum", [False, True])
def test_parts_are_from_all_over(stratum: bool) -> None:
    whole = of_two_strata(10_000, 4000)
    part = whole.part(1024)
    own = np.flatnonzero(whole.is_unexplained == stratum)
    places = np.searchsorted(own, part.index[part.is_unexplained == stratum])
    gaps = np.diff(places)
    assert places[0] == 0
    assert gaps.max() - gaps.min() <= 1
    assert len(own) - places[-1] <= gaps.max()


def test_a_part_that_has_room_for_all_is_the_whole() -> None:
    whole = of_two_strata(1000, 100)
    assert whole.part(900) is whole
    assert whole.part(10**6) is whole


# How many rows


def test_few_rows_are_the_sample() -> None:
    assert sample_size(1, 2, 8, 5, 1 << 30) == 1
    assert sample_size(16_384, 2, 8, 5, 1 << 30) == 16_384


def test_rows_of_few_values_are_as_many_as_the_parameters_need() -> None:
    assert sample_size(20_000, 2, 8, 5, 1 << 30) == 16_384
    assert sample_size(60_000, 8, 8, 15, 1 << 30) == 30_000
    assert sample_size(60_000, 8, 8, 100, 1 << 30) == 60_000
    assert sample_size(10**5, 8, 8, 30, 1 << 30) == 60_000
    assert sample_size(10**5, 8, 8, 100, 1 << 30) == 10**5
    assert sample_size(1 << 20, 8, 8, 1000, 1 << 30) == 1 << 20
    assert sample_size(1 << 20, 8, 4, 1000, 1 << 30) == 1 << 20


def test_many_rows_are_at_most_an_eighth() -> None:
    assert sample_size(10**7, 2, 8, 5, 1 << 30) == 16_384
    assert sample_size(10**7, 2, 8, 100, 1 << 30) == 200_000
    assert sample_size(10**6, 16, 8, 100, 1 << 30) == 125_000


def test_memory_bounds_the_sample() -> None:
    assert sample_size(10**9, 10, 8, 10**4, 80 * 12_345) == 12_345
    assert sample_size(10_000, 10, 8, 10, 80 * 500) == 500
    assert sample_size(10_000, 10, 8, 10, 1) == 1


def test_the_shortfall_is_what_is_found() -> None:
    """Means and variances of D features, by maximum likelihood on the first m of N rows."""
    n, m, d = 4000, 400, 20
    rng = np.random.default_rng(0)

    def shortfall() -> float:
        rows = rng.normal(size=(n, d))

        def mean_log_likelihood(size: int) -> float:
            mean, variance = rows[:size].mean(axis=0), rows[:size].var(axis=0)
            return float(scipy.stats.norm.logpdf(rows, mean, np.sqrt(variance)).sum(axis=1).mean())

        return mean_log_likelihood(n) - mean_log_likelihood(m)

    found = [shortfall() for _ in range(40)]
    expected = expected_shortfall(n, m, 2 * d)
    assert np.mean(found) == pytest.approx(expected, abs=4 * np.std(found) / math.sqrt(40))
    assert expected_shortfall(n, n, 7) == 0.0
