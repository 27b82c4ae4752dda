"""The survey: what it says of the data, and whom its sample stands for."""

import functools
import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dask
import dask.array
import numpy as np
import pytest
import scipy.stats
import zarr
from numpy.typing import DTypeLike, NDArray

import streamgmm
from streamgmm.algorithms.reads.reader import Reader
from streamgmm.algorithms.sampling.pilot import Explanation, Pilot, take_pilot
from streamgmm.algorithms.sampling.survey import Survey, survey
from streamgmm.core.e_step import EStep
from streamgmm.core.frame import Frame
from streamgmm.core.parameters import Parameters
from streamgmm.errors import MemoryLimitError, NotFiniteError
from streamgmm.executors.dask import DaskExecutor
from streamgmm.executors.memory import process_bytes
from streamgmm.executors.threads import ThreadExecutor
from streamgmm.protocols import Chunk, GridSource, Region, Source, positions, region_shape
from streamgmm.sources.array import ArraySource
from streamgmm.sources.generated import GeneratedSource
from streamgmm.testing.chunked import ChunkedSource

N, D, K, SIZE = 200_000, 3, 4, 20_000


def surveyed(
    source: Source, size: int = SIZE, seed: int = 0, n_jobs: int = 2, **settings: Any
) -> Survey:
    with ThreadExecutor(n_jobs) as executor:
        reader = Reader(source, executor, lambda event: None)
        return survey(reader, size, seed, settings.pop("n_components", K), **settings)


def piloted(source: Source, seed: int = 0, n_components: int = K) -> tuple[Pilot | None, Reader]:
    with ThreadExecutor(2) as executor:
        reader = Reader(source, executor, lambda event: None)
        return take_pilot(reader, seed, n_components), reader


def mixture(k: int = K, d: int = D, spread: float = 5.0, seed: int = 0) -> Parameters:
    rng = np.random.default_rng(seed)
    roots = rng.normal(size=(k, d, d))
    covariances = roots @ np.swapaxes(roots, 1, 2) / d + 0.2 * np.eye(d)
    means = rng.normal(0.0, spread, (k, d))
    return Parameters.create("full", np.full(k, 1.0 / k), means, covariances)


@functools.lru_cache(maxsize=3)
def generated(n: int, dtype: DTypeLike) -> NDArray[Any]:
    return GeneratedSource(mixture(), n, dtype=dtype, chunk_rows=n).read(0).rows


def drawn(n: int = N, dtype: DTypeLike = np.float64) -> NDArray[Any]:
    return generated(n, dtype).copy()


def is_same(first: Survey, second: Survey) -> bool:
    names = ("index", "rows", "weights", "is_unexplained")
    return all(
        np.array_equal(getattr(first.sample, name), getattr(second.sample, name), equal_nan=True)
        for name in names[:1] + names[2:]
    ) and np.array_equal(first.sample.rows, second.sample.rows, equal_nan=True)


# Moments


@pytest.mark.parametrize("dtype", ["f8", "f4", "f2", "i4", "u1", "?"])
@pytest.mark.parametrize("chunk_rows", [777, N])
def test_moments_are_those_of_all_rows(dtype: str, chunk_rows: int) -> None:
    values = np.abs(drawn()) % 3 if dtype in "u1?" else drawn()
    rows = values.astype(dtype)
    found = surveyed(ChunkedSource(rows, chunk_rows)).moments
    exact = rows.astype(np.float64)
    np.testing.assert_allclose(found.means, exact.mean(axis=0), rtol=1e-10)
    np.testing.assert_allclose(found.variances, exact.var(axis=0), rtol=1e-10)
    np.testing.assert_array_equal(found.smallest, exact.min(axis=0))
    np.testing.assert_array_equal(found.largest, exact.max(axis=0))
    np.testing.assert_array_equal(found.weights, N)


def test_weights_count_in_moments_and_rows_without_them_do_not() -> None:
    rng = np.random.default_rng(1)
    rows, weights = drawn(), rng.exponential(size=N)
    weights[rng.uniform(size=N) < 0.3] = 0.0
    rows[weights == 0.0] += 1000.0
    found = surveyed(ChunkedSource(rows, 5000, weights=weights))
    means = np.average(rows, axis=0, weights=weights)
    variances = np.average(np.square(rows - means), axis=0, weights=weights)
    np.testing.assert_allclose(found.moments.means, means, rtol=1e-10)
    np.testing.assert_allclose(found.moments.variances, variances, rtol=1e-10)
    np.testing.assert_array_equal(found.moments.largest, rows[weights > 0].max(axis=0))
    np.testing.assert_allclose(found.moments.weights, weights.sum(), rtol=1e-12)
    assert found.n_rows == N
    assert found.skipped.n_weightless == np.sum(weights == 0.0)
    # Own weight, times what the row stands for.
    ratios = found.sample.weights / weights[found.sample.index]
    assert len(np.unique(np.round(ratios, 9))) <= 2
    assert found.sample.weights.sum() == pytest.approx(weights.sum(), rel=0.02)


@pytest.mark.parametrize("missing", ["drop", "em"])
def test_gaps(missing: Any) -> None:
    rng = np.random.default_rng(2)
    rows = drawn()
    rows[rng.uniform(size=(N, D)) < [0.0, 0.1, 0.2]] = np.nan
    rows[::1000] = np.nan
    source = ChunkedSource(rows, 5000)
    source.missing = missing
    found = surveyed(source)
    lacking = np.isnan(rows)
    left_out = lacking.all(axis=1) if missing == "em" else lacking.any(axis=1)
    used = rows[~left_out]
    assert found.skipped.n_missing == left_out.sum()
    assert found.skipped.n_weightless == 0
    np.testing.assert_allclose(found.moments.means, np.nanmean(used, axis=0), rtol=1e-9)
    np.testing.assert_allclose(found.moments.variances, np.nanvar(used, axis=0), rtol=1e-9)
    np.testing.assert_array_equal(found.moments.smallest, np.nanmin(used, axis=0))
    np.testing.assert_array_equal(found.moments.weights, np.isfinite(used).sum(axis=0))
    assert len(found.sample) == SIZE
    np.testing.assert_array_equal(found.sample.rows, rows[found.sample.index])
    assert not left_out[found.sample.index].any()
    assert found.sample.weights.sum() == pytest.approx(len(used), rel=1e-12)
    # Rows with gaps are not compared with those without.
    assert found.n_unexplained > 0
    assert not np.isnan(found.sample.rows[found.sample.is_unexplained]).any()


def test_rows_that_overflow_are_counted_and_left_out() -> None:
    rows = drawn()
    rows[7::1000, 1] = 1e200
    rows[9, 0] = -1e300
    found = surveyed(ChunkedSource(rows, 5000))
    used = np.abs(rows).max(axis=1) < 1e100
    assert found.skipped.n_overflowing == N // 1000 + 1
    np.testing.assert_array_equal(found.moments.weights, used.sum())
    assert found.skipped.n_weightless == 0
    assert used[found.sample.index].all()
    np.testing.assert_allclose(found.moments.means, rows[used].mean(axis=0), rtol=1e-9)
    assert found.sample.weights.sum() == pytest.approx(used.sum(), rel=1e-12)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused_wherever_it_is(bad: float) -> None:
    rows = drawn()
    rows[123_456, 2] = bad
    with pytest.raises(NotFiniteError, match=r"1 value\(s\) in 1 of 200000 rows; .* row 123456"):
        surveyed(ChunkedSource(rows, 5000))


# Strata


def test_weights_make_up_for_the_strata() -> None:
    rows = drawn()
    found = surveyed(ChunkedSource(rows, 200))
    sample = found.sample
    assert len(sample) == SIZE
    np.testing.assert_array_equal(sample.rows, rows[sample.index])
    assert np.all(np.diff(sample.index) > 0)
    # About 1 row in 512 of the pilot lies below its threshold.
    assert N / 2048 < found.n_unexplained < N / 128
    assert sample.is_unexplained.sum() == found.n_unexplained
    np.testing.assert_array_equal(sample.weights[sample.is_unexplained], 1.0)
    n_explained = N - found.n_unexplained
    n_sampled = (~sample.is_unexplained).sum()
    np.testing.assert_allclose(sample.weights[~sample.is_unexplained], n_explained / n_sampled)
    assert sample.weights.sum() == pytest.approx(N, rel=1e-12)


def test_badly_explained_rows_have_an_eighth_of_the_places() -> None:
    rows = drawn(1_000_000)
    found = surveyed(ChunkedSource(rows, 1000), size=1000)
    assert found.n_unexplained > 500
    assert len(found.sample) == 1000
    assert found.sample.is_unexplained.sum() == 125
    np.testing.assert_allclose(
        found.sample.weights[found.sample.is_unexplained], found.n_unexplained / 125
    )


@pytest.mark.parametrize("seed", [0, 1, 2**31 - 1])
def test_both_strata_are_sampled_alike_all_over_the_data(seed: int) -> None:
    n, size, n_cells = 1_000_000, 4000, 50
    rows = drawn(n)
    found = surveyed(ChunkedSource(rows, 1000), size=size, seed=seed)
    pilot, _ = piloted(ChunkedSource(rows, 1000), seed=seed)
    assert pilot is not None
    assert pilot.explanation is not None
    strata = pilot.explanation.is_unexplained(rows)
    assert strata.sum() == found.n_unexplained
    for stratum in (False, True):
        own = np.flatnonzero(strata == stratum)
        chosen = found.sample.index[found.sample.is_unexplained == stratum]
        np.testing.assert_array_equal(strata[chosen], stratum)
        available = np.bincount(own * n_cells // n, minlength=n_cells)
        counts = np.bincount(chosen * n_cells // n, minlength=n_cells)
        expected = available * len(chosen) / len(own)
        # Drawn without replacement: the variance is less by what has been taken.
        rest = 1 - len(chosen) / len(own)
        statistic = float((np.square(counts - expected) / expected).sum() / rest)
        assert 1e-4 < scipy.stats.chi2.sf(statistic, n_cells - 1) < 1 - 1e-4


def test_weighted_means_of_samples_are_unbiased() -> None:
    """Of what depends most on the stratum, too: squares of values far from all means."""
    rows = drawn(400_000)
    scores = np.square(rows).sum(axis=1)
    source = ChunkedSource(rows, 400)
    estimates = []
    for seed in range(12):
        sample = surveyed(source, size=2000, seed=seed).sample
        estimates.append(np.average(scores[sample.index], weights=sample.weights))
    error = np.std(estimates, ddof=1) / np.sqrt(len(estimates))
    assert abs(np.mean(estimates) - scores.mean()) < 4 * error


@pytest.mark.parametrize("is_sorted", [False, True])
@pytest.mark.parametrize("d", [2, 8])
def test_a_rare_component_has_rows_in_the_sample(d: int, is_sorted: bool) -> None:
    n, n_rare, k, size = 1_000_000, 100, 8, 16_384
    common = mixture(k, d, spread=4.0)
    rows = GeneratedSource(common, n, chunk_rows=n).read(0).rows
    rng = np.random.default_rng(3)
    # As far from all others as means are from each other.
    far = common.means.max(axis=0) + 8.0
    places = rng.choice(n, n_rare, replace=False)
    rows[places] = far + rng.normal(size=(n_rare, d))
    if is_sorted:
        rows = rows[np.argsort(rows[:, 0])]
    found = surveyed(ChunkedSource(rows, 1000), size=size, n_components=k)
    is_rare = np.square(found.sample.rows - far).sum(axis=1) < 9.0 * d
    # A uniform sample has one or two of them.
    assert is_rare.sum() >= 30
    # And what they stand for is what they are.
    assert found.sample.weights[is_rare].sum() == pytest.approx(n_rare, rel=0.5)


@pytest.mark.parametrize("order", ["component", "value"])
def test_sorted_rows_are_sampled_as_shuffled_ones(order: str, tmp_path: Path) -> None:
    """Few chunks leave room for one range of the pilot, which sees one component."""
    rows = drawn(600_000)
    key = rows[:, 0] if order == "value" else np.square(rows[:, None] - mixture().means).sum(2)
    rows = rows[np.argsort(key if order == "value" else np.argmin(key, axis=1), kind="stable")]
    np.save(tmp_path / "x.npy", rows)
    source = streamgmm.open(tmp_path / "x.npy")
    found = surveyed(source, size=8000)
    sample = found.sample
    assert len(sample) == 8000
    assert sample.weights.sum() == pytest.approx(len(rows), rel=1e-9)
    # Mean by mean within four standard errors of a uniform sample of as many rows.
    means = np.average(sample.rows, axis=0, weights=sample.weights)
    errors = rows.std(axis=0) / np.sqrt(8000)
    assert np.all(np.abs(means - rows.mean(axis=0)) < 4.5 * errors)


# The same anywhere


def layouts(n: int) -> dict[str, Sequence[int]]:
    uneven = np.sort(np.random.default_rng(0).integers(0, n, 3000)).tolist()
    return {
        "small chunks": [*range(0, n, 333), n],
        "larger chunks": [*range(0, n, 999), n],
        "uneven and empty chunks": [0, 0, *uneven, n, n],
    }


@pytest.mark.parametrize("missing", ["error", "em"])
def test_chunks_and_threads_do_not_matter(missing: Any) -> None:
    n = 1_000_000
    rows = drawn(n)
    if missing == "em":
        rows[::7, 1] = np.nan
    whole = ChunkedSource(rows, 200)
    whole.missing = missing
    expected = surveyed(whole, size=5000)
    assert expected.sample.is_unexplained.sum() >= 5000 // 8
    for (name, boundaries), n_jobs in zip(layouts(n).items(), (1, 2, 3), strict=True):
        source = ChunkedSource(rows, boundaries=boundaries)
        source.missing = missing
        found = surveyed(source, size=5000, n_jobs=n_jobs)
        assert is_same(found, expected), name
        np.testing.assert_allclose(found.moments.variances, expected.moments.variances)


@pytest.mark.parametrize("scheduler", ["synchronous", "threads"])
def test_dask_gives_the_same(scheduler: str) -> None:
    rows = drawn(400_000)
    expected = surveyed(ChunkedSource(rows, 200), size=5000)
    lazy = streamgmm.open(dask.array.from_array(rows, chunks=(400, D)))
    with dask.config.set(scheduler=scheduler), DaskExecutor() as executor:
        reader = Reader(lazy, executor, lambda event: None)
        found = survey(reader, 5000, 0, K)
    assert is_same(found, expected)
    assert reader.n_reads == pytest.approx(1.0 + 64 * 400 / 400_000, abs=0.02)


class BoxedSource(ChunkedSource):
    """Samples on a grid; chunks are boxes of it, in the order of their numbers."""

    def __init__(
        self, array: NDArray[Any], sample_shape: tuple[int, int], box: tuple[int, int]
    ) -> None:
        super().__init__(array)
        self.sample_dims = ("y", "x")
        self.sample_shape = sample_shape
        edges = [[*range(0, n, size), n] for n, size in zip(sample_shape, box, strict=True)]
        self._regions = [
            (slice(top, bottom), slice(left, right))
            for left, right in itertools.pairwise(edges[1])
            for top, bottom in itertools.pairwise(edges[0])
        ]
        sizes = [math.prod(region_shape(region)) for region in self._regions]
        self.boundaries = [0, *itertools.accumulate(sizes)]

    def region(self, i: int) -> Region:
        return self._regions[i]

    def read(self, i: int) -> Chunk:
        index = positions(self._regions[i], self.sample_shape)
        self.n_reads += 1
        return Chunk(self._array[np.asarray(index)], index)


@pytest.mark.parametrize("box", [(1, 200), (3, 100), (1, 250)])
def test_boxes_of_a_grid_give_the_same(box: tuple[int, int]) -> None:
    shape = 800, 500
    rows = drawn(400_000)
    expected = surveyed(ChunkedSource(rows, 200), size=5000)
    source = BoxedSource(rows, shape, box)
    assert isinstance(source, GridSource)
    found = surveyed(source, size=5000)
    np.testing.assert_array_equal(found.sample.rows, rows[found.sample.index])
    assert len(found.sample) == 5000
    assert is_same(found, expected)


def test_boxes_across_the_rows_leave_no_room_for_a_pilot() -> None:
    rows = drawn(400_000)
    found = surveyed(BoxedSource(rows, (800, 500), (200, 7)), size=5000)
    np.testing.assert_array_equal(found.sample.rows, rows[found.sample.index])
    np.testing.assert_array_equal(found.sample.weights, 400_000 / 5000)


@pytest.mark.parametrize("box", [(1, 200), (3, 100), (50, 10)])
def test_the_pilot_reads_the_boxes_that_hold_its_rows(box: tuple[int, int]) -> None:
    rows = np.arange(400_000.0)[:, np.newaxis]
    source = BoxedSource(rows, (800, 500), box)
    pilot, reader = piloted(source)
    assert pilot is not None
    # No position was in a box that was not read.
    assert pilot.usable == 1.0
    assert reader.history[0].n_rows <= 400_000 / 12


def test_seeds_matter() -> None:
    source = ChunkedSource(drawn(), 200)
    first, second, again = (surveyed(source, seed=seed).sample.index for seed in (0, 1, 0))
    np.testing.assert_array_equal(first, again)
    assert len(np.intersect1d(first, second)) < 0.2 * SIZE


def test_company_does_not_decide_near_the_threshold() -> None:
    """Whether a component uses the centred form depends on the rows beside."""
    parameters = Parameters.create(
        "diag", np.full(2, 0.5), np.array([[0.0, 0.0], [1.0, 1.0]]), np.full((2, 2), 1e-4)
    )
    expectation = EStep.prepare(parameters, Frame.of(parameters))
    rows = np.random.default_rng(0).normal(0.0, 0.02, size=(500, 2))
    alone = np.array([expectation.posterior(rows[[i]]).scores[0] for i in range(len(rows))])
    outlier = np.full((1, 2), 1e6)
    beside = expectation.posterior(np.concatenate([rows, outlier])).scores[:-1]
    # Otherwise there is nothing to show.
    assert np.any(alone != beside)
    np.testing.assert_allclose(alone, beside, rtol=0, atol=1e-7)
    for threshold in alone[:50]:
        explanation = Explanation(expectation, float(threshold))
        expected = alone < threshold
        np.testing.assert_array_equal(explanation.is_unexplained(rows), expected)
        found = explanation.is_unexplained(np.concatenate([outlier, rows]))
        np.testing.assert_array_equal(found[1:], expected)


# The pilot


@pytest.mark.parametrize("n", [100_000, 1_000_000])
def test_rows_in_memory_have_the_pilot_that_their_chunks_allow(n: int) -> None:
    rows = drawn(n)
    in_memory = ArraySource(rows)
    stored = ChunkedSource(rows, boundaries=in_memory.boundaries)
    (found, reader), (expected, _) = piloted(in_memory), piloted(stored)
    # A chunk of 65,536 rows is more than a twelfth of the shorter array.
    assert (found is None) == (expected is None) == (n == 100_000)
    assert [read.part for read in reader.history] == ([] if n == 100_000 else [65_536 / n])


@pytest.mark.parametrize(
    ("chunk_rows", "n_ranges"), [(1000, 64), (5000, 16), (40_000, 1), (60_000, 1)]
)
def test_a_pilot_reads_a_small_part_of_the_chunks(chunk_rows: int, n_ranges: int) -> None:
    n = 1_000_000
    source = ChunkedSource(drawn(n), chunk_rows)
    pilot, reader = piloted(source)
    assert pilot is not None
    (read,) = reader.history
    assert read.part == read.n_rows / n <= 1 / 12
    # Each range in a chunk, or two.
    assert n_ranges <= source.n_reads <= 2 * n_ranges
    assert reader.n_reads == read.part


def test_without_room_for_a_pilot_the_sample_is_uniform() -> None:
    rows = drawn(300_000)
    source = ChunkedSource(rows, 60_000)
    pilot, reader = piloted(source)
    assert pilot is None
    assert reader.history == []
    found = surveyed(source)
    assert len(found.sample) == SIZE
    assert not found.sample.is_unexplained.any()
    np.testing.assert_allclose(found.sample.weights, 300_000 / SIZE)


def test_data_that_fit_in_the_sample_need_no_pilot() -> None:
    rows = drawn(50_000)
    with ThreadExecutor(2) as executor:
        reader = Reader(ArraySource(rows), executor, lambda event: None)
        found = survey(reader, 50_000, 0, K)
    assert [read.purpose for read in reader.history] == ["survey"]
    assert reader.n_reads == 1
    np.testing.assert_array_equal(found.sample.rows, rows)
    np.testing.assert_array_equal(found.sample.weights, 1.0)


# A part of the data


def test_a_sample_of_all_rows_knows_which_are_badly_explained() -> None:
    rows = generated(N, "float64")[:50_000].copy()
    rare = np.arange(7, len(rows), 2000)
    rows[rare] = 1000.0
    found = surveyed(ArraySource(rows), len(rows)).sample
    assert len(found) == len(rows)
    assert found.is_unexplained[rare].all()
    assert found.is_unexplained.mean() < 1 / 64
    np.testing.assert_array_equal(found.weights, 1.0)
    part = found.part(2000)
    assert (part.rows == 1000.0).all(axis=1).sum() == len(rare)
    assert part.weights.sum() == pytest.approx(len(rows))
    few = surveyed(ArraySource(rows[:16_384]), 16_384).sample
    assert not few.is_unexplained.any()


@pytest.mark.parametrize("part", [0.1, 0.25, 0.9])
def test_a_part_stands_for_all(part: float) -> None:
    n = 1_000_000
    rows = np.concatenate([drawn(n), np.linspace(0.0, 1.0, n)[:, np.newaxis]], axis=1)
    source = ChunkedSource(rows, 1000)
    with ThreadExecutor(2) as executor:
        reader = Reader(source, executor, lambda event: None)
        found = survey(reader, 5000, 0, K, part=part)
    read = reader.history[1]
    assert (read.purpose, read.part) == ("survey", part)
    assert found.n_rows == n * part
    assert reader.n_reads == pytest.approx(part + reader.history[0].part)
    assert len(found.sample) == 5000
    np.testing.assert_allclose(found.moments.weights, n * part, rtol=1e-9)
    assert found.sample.weights.sum() == pytest.approx(n, rel=1e-9)
    # Chunks lie in even segments.
    chunks = np.unique(found.sample.index // 1000)
    assert np.diff(chunks).max() <= 2 / part + 1
    assert found.moments.means[-1] == pytest.approx(0.5, abs=2e-3)


def test_a_part_holds_as_many_rows_as_the_sample() -> None:
    source = ChunkedSource(drawn(), 1000)
    found = surveyed(source, size=30_000, part=0.01)
    assert found.n_rows == 30_000
    assert len(found.sample) == 30_000
    np.testing.assert_allclose(found.sample.weights, N / 30_000)


# Data of any kind


@pytest.mark.parametrize("n", [1, 2, 100])
@pytest.mark.parametrize("size", [1, 50, 16_384])
def test_few_rows(n: int, size: int) -> None:
    rows = drawn(100)[:n]
    found = surveyed(ChunkedSource(rows, max(1, n // 3)), size=size)
    assert len(found.sample) == min(n, size)
    assert found.sample.weights.sum() == pytest.approx(n)
    np.testing.assert_allclose(found.moments.variances, rows.var(axis=0), atol=1e-14)


def awkward(n: int) -> dict[str, NDArray[np.float64]]:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(n, 3))
    constant = rows.copy()
    constant[:, 1] = 7.0
    return {
        "heavy tails": rng.standard_t(3, size=(n, 3)),
        "heavier tails": rng.standard_t(1, size=(n, 3)),
        "a constant column": constant,
        "all rows equal": np.full((n, 3), 0.1),
        "a few values": rng.integers(0, 3, size=(n, 3)).astype(float),
        "one column": rows[:, :1],
        "a huge offset": rows + 1e12,
        "very different scales": rows * [1e-30, 1.0, 1e30],
        "mostly equal": np.where(rng.uniform(size=(n, 1)) < 0.99, 0.0, rows),
    }


@pytest.mark.parametrize("name", awkward(1))
@pytest.mark.parametrize("dtype", ["f8", "f4"])
def test_awkward_data(name: str, dtype: str) -> None:
    n, size = 200_000, 16_384
    rows = awkward(n)[name].astype(dtype)
    found = surveyed(ChunkedSource(rows, 200), size=size, n_components=8)
    assert len(found.sample) == size
    assert found.sample.rows.dtype == dtype
    np.testing.assert_array_equal(found.sample.rows, rows[found.sample.index])
    assert found.sample.weights.sum() == pytest.approx(n, rel=1e-9)
    # Few rows lie so low, unless the pilot is misled.
    assert found.n_unexplained < n / 50
    small = ChunkedSource(rows, 200)
    assert is_same(surveyed(small, size=size, n_components=8), found)


def test_weights_that_are_mostly_0() -> None:
    n = 400_000
    weights = np.zeros(n)
    weights[::50] = 2.0
    rows = drawn(n)
    for source in (
        ChunkedSource(rows, 2000, weights=weights),
        ChunkedSource(rows, 2000, weights=weights, read_bytes=0),
    ):
        found = surveyed(source, size=2000)
        assert len(found.sample) == 2000
        assert np.all(found.sample.index % 50 == 0)
        assert found.skipped.n_weightless == n - n / 50
        np.testing.assert_array_equal(found.moments.weights, 2.0 * n / 50)
        assert found.sample.weights.sum() == pytest.approx(2.0 * n / 50, rel=1e-9)


def test_no_weight_at_all_is_no_sample() -> None:
    found = surveyed(ChunkedSource(drawn(), 1000, weights=np.zeros(N)))
    assert len(found.sample) == 0
    assert found.skipped.n_weightless == N


@pytest.mark.parametrize("dtype", ["f8", "f4", "f2", "i2", "i8"])
def test_sampled_rows_are_no_wider_than_they_need_be(dtype: str) -> None:
    rows = (10 * drawn()).astype(dtype)
    found = surveyed(ArraySource(rows)).sample.rows
    assert found.dtype == (np.float32 if dtype in ("f4", "f2") else np.float64)


# Memory


def test_a_sample_that_does_not_fit_is_told_before_the_read() -> None:
    n, d = 400_000, 500
    source = ArraySource(np.broadcast_to(drawn(n)[:, :1], (n, d)))
    with ThreadExecutor(2, process_bytes() + (300 << 20)) as executor:
        reader = Reader(source, executor, lambda event: None)
        with pytest.raises(MemoryLimitError):
            survey(reader, 100_000, 0, K)
        assert [read.purpose for read in reader.history] == ["pilot"]


def test_stored_floats_are_surveyed_as_they_are(tmp_path: Path) -> None:
    rows = drawn(dtype=np.float32)
    array = zarr.create_array(
        tmp_path / "x.zarr", shape=rows.shape, chunks=(2000, D), dtype=rows.dtype
    )
    array[:] = rows
    found = surveyed(streamgmm.open(tmp_path / "x.zarr"))
    np.testing.assert_array_equal(found.sample.rows, rows[found.sample.index])
