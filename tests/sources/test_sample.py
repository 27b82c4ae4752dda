"""Rows in memory keep the promises of a source, in chunks that keep threads busy."""

from pathlib import Path

import numpy as np
import pytest

from streamgmm.sources.sample import SampleSource
from streamgmm.testing.sources import SourceCase, SourceConformance, table


class TestSample(SourceConformance):
    @pytest.fixture(params=[("f8", 1), ("f8", 600), ("f4", 10_001)])
    def case(self, request: pytest.FixtureRequest, tmp_path: Path) -> SourceCase:
        dtype, n = request.param
        rows, weights = table(n, 3, dtype), np.random.default_rng(1).uniform(size=n)
        return SourceCase(SampleSource(rows, weights), rows, weights)


@pytest.mark.parametrize(
    ("shape", "n_chunks"),
    [
        ((1, 8), 1),
        ((4095, 8), 1),
        ((4096, 8), 2),
        ((32_768, 8), 16),
        ((100_000, 8), 16),
        ((16_383, 2), 1),
        ((16_384, 2), 2),
        ((4096, 512), 4),
    ],
)
def test_chunks_are_sixteen_unless_they_would_be_too_small(
    shape: tuple[int, int], n_chunks: int
) -> None:
    source = SampleSource(np.zeros(shape), np.ones(shape[0]))
    assert len(source.boundaries) - 1 == n_chunks
    sizes = np.diff(source.boundaries)
    assert sizes.max() - sizes.min() <= n_chunks


def test_chunks_of_very_many_rows_are_no_larger_than_others() -> None:
    rows = np.broadcast_to(np.zeros((1, 512)), (400_000, 512))
    source = SampleSource(rows, np.broadcast_to(1.0, 400_000))
    assert len(source.boundaries) - 1 > 16
