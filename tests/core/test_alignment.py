"""Mixtures in the order of another: what is paired with what."""

import numpy as np
import pytest
import scipy.stats

from streamgmm.core.mixtures.alignment import aligned, by_first_rows, merging_costs
from streamgmm.core.parameters import Parameters
from streamgmm.options import CovarianceType
from tests.core.cases import TYPES, random_parameters


def shuffled(parameters: Parameters, order: list[int]) -> Parameters:
    is_tied = parameters.covariance_type == "tied"
    covariances = parameters.covariances if is_tied else parameters.covariances[order]
    return Parameters.create(
        parameters.covariance_type, parameters.weights[order], parameters.means[order], covariances
    )


@pytest.mark.parametrize("covariance_type", TYPES)
def test_a_mixture_in_another_order_comes_back(covariance_type: CovarianceType) -> None:
    parameters = random_parameters(np.random.default_rng(0), covariance_type, 5, 3)
    found = aligned(shuffled(parameters, [3, 0, 4, 1, 2]), parameters)
    np.testing.assert_array_equal(found.weights, parameters.weights)
    np.testing.assert_array_equal(found.means, parameters.means)
    np.testing.assert_array_equal(found.covariances, parameters.covariances)


def test_components_at_one_place_are_known_by_their_shape() -> None:
    crossed = np.array([[[1.0, 0.9], [0.9, 1.0]], [[1.0, -0.9], [-0.9, 1.0]]])
    parameters = Parameters.create("full", [0.5, 0.5], np.zeros((2, 2)), crossed)
    found = aligned(shuffled(parameters, [1, 0]), parameters)
    np.testing.assert_array_equal(found.covariances, crossed)


def test_what_stayed_keeps_its_place_beside_what_moved_past_it() -> None:
    """On a line: the first component jumps over the second, and is nearer to it than to itself."""
    unit = np.ones((3, 1))
    before = Parameters.create("diag", [0.4, 0.3, 0.3], [[0.0], [10.0], [500.0]], unit)
    after = Parameters.create("diag", [0.3, 0.3, 0.4], [[10.0], [500.0], [20.0]], unit)
    np.testing.assert_array_equal(aligned(after, before).means[:, 0], [20.0, 10.0, 500.0])


@pytest.mark.parametrize("covariance_type", TYPES)
def test_costs_are_entropies_gained(covariance_type: CovarianceType) -> None:
    rng = np.random.default_rng(1)
    first, second = (random_parameters(rng, covariance_type, 4, 3) for _ in range(2))
    costs = merging_costs(first, second)

    def matrix(parameters: Parameters, k: int) -> np.ndarray:
        own = parameters.stacked(parameters.covariances)[k % len(parameters.covariances)]
        return own if parameters.structure.has_directions else np.diag(own)

    for i in range(4):
        for j in range(4):
            a = matrix(first, i if covariance_type != "tied" else 0)
            b = matrix(second, j if covariance_type != "tied" else 0)
            apart = first.means[i] - second.means[j]
            both = 0.5 * (a + b) + 0.25 * np.outer(apart, apart)
            if not first.structure.has_directions:
                both = np.diag(np.diagonal(both))
            entropies = [scipy.stats.multivariate_normal(cov=c).entropy() for c in (both, a, b)]
            expected = entropies[0] - 0.5 * (entropies[1] + entropies[2])
            assert costs[i, j] == pytest.approx(expected, abs=1e-9)


def test_mixtures_too_far_apart_to_be_compared_are_aligned_all_the_same() -> None:
    near = Parameters.create("full", [0.5, 0.5], [[0.0], [1.0]], np.full((2, 1, 1), 1e-200))
    far = Parameters.create("full", [0.5, 0.5], [[1e150], [-1e150]], np.full((2, 1, 1), 1e250))
    assert sorted(aligned(far, near).means[:, 0]) == [-1e150, 1e150]


def test_components_come_in_the_order_of_their_first_rows() -> None:
    parameters = random_parameters(np.random.default_rng(0), "full", 4, 2)
    found = by_first_rows(parameters, np.array([2, 2, 0, 2, 3, 0]))
    np.testing.assert_array_equal(found.means, parameters.means[[2, 0, 3, 1]])
