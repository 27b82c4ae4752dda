"""Generated data keep the promises of a source, and are drawn from the planted mixture."""

from pathlib import Path

import numpy as np
import pytest

from streamgmm.core.parameters import Parameters
from streamgmm.protocols import Source
from streamgmm.sources.generated import GeneratedSource
from streamgmm.testing.sources import SourceCase, SourceConformance
from tests.core.cases import random_parameters


def planted() -> Parameters:
    return random_parameters(np.random.default_rng(0), "full", 3, 2)


def all_rows(source: Source) -> np.ndarray:
    return np.concatenate([source.read(i).rows for i in range(len(source.boundaries) - 1)])


class TestGenerated(SourceConformance):
    @pytest.fixture(params=["f8", "f4"])
    def case(self, request: pytest.FixtureRequest, tmp_path: Path) -> SourceCase:
        first, second = (
            GeneratedSource(planted(), 10_500, seed=3, dtype=request.param, chunk_rows=1000)
            for _ in range(2)
        )
        return SourceCase(first, all_rows(second))


def test_seeds_and_chunks_differ() -> None:
    one, other = (GeneratedSource(planted(), 2000, seed=s, chunk_rows=1000) for s in (0, 1))
    assert not np.array_equal(one.read(0).rows, one.read(1).rows)
    assert not np.array_equal(one.read(0).rows, other.read(0).rows)


def test_rows_have_the_moments_of_the_mixture() -> None:
    parameters = planted()
    rows = all_rows(GeneratedSource(parameters, 200_000))
    mean = parameters.weights @ parameters.means
    between = (parameters.means - mean).T * parameters.weights @ (parameters.means - mean)
    covariance = np.einsum("k,kij->ij", parameters.weights, parameters.covariances) + between
    deviations = np.sqrt(np.diag(covariance))
    assert np.all(np.abs(rows.mean(axis=0) - mean) < 5 * deviations / np.sqrt(len(rows)))
    error = (np.cov(rows.T) - covariance) / np.outer(deviations, deviations)
    assert np.abs(error).max() < 0.02


def test_components_are_shuffled_within_a_chunk() -> None:
    parameters = Parameters.create("spherical", [0.5, 0.5], [[0.0], [100.0]], [1.0, 1.0])
    rows = GeneratedSource(parameters, 1000).read(0).rows[:, 0] > 50
    # Runs of one component are as many as chance makes them: 500 ± 16.
    assert 400 < np.count_nonzero(np.diff(rows)) < 600
