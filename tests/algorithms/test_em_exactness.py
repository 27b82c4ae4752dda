"""Whole EM runs against other implementations.

scikit-learn where its own arithmetic is good enough, the oracle where it is not; and what
theory promises: the likelihood never falls.
"""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

from streamgmm.algorithms.batch.em import expectation_maximization
from streamgmm.algorithms.reads.reader import Reader
from streamgmm.core.maximization import maximize
from streamgmm.core.objective import Objective
from streamgmm.core.parameters import Parameters
from streamgmm.core.structures import Array
from streamgmm.executors.threads import ThreadExecutor
from streamgmm.options import CovarianceType
from streamgmm.sources.array import ArraySource
from tests import naive
from tests.core.cases import (
    TYPES,
    covariances_for,
    draw,
    prepare,
    random_parameters,
    rotation,
)

ITERATIONS = (1, 5, 30)


def em(rows: Array, start: Parameters, n_iterations: int, reg_covar: float = 0.0) -> Parameters:
    with ThreadExecutor(n_jobs=1) as executor:
        reader = Reader(ArraySource(rows), executor, lambda event: None)
        settings = {"tol": 0.0, "max_iter": n_iterations, "objective": Objective(reg_covar)}
        return expectation_maximization(reader, start, **settings).parameters


def overlapping(
    covariance_type: CovarianceType, k: int = 3, d: int = 3, n: int = 400
) -> tuple[Parameters, Array]:
    """Rows from overlapping components, and a start that EM has to move far from."""
    rng = np.random.default_rng([k, d])
    truth = random_parameters(rng, covariance_type, k, d, spread=1.5)
    rows = draw(rng, truth, n)
    start = Parameters.create(
        covariance_type,
        np.full(k, 1.0 / k),
        rows[rng.choice(n, k, replace=False)],
        covariances_for(rng, covariance_type, k, d),
    )
    return start, rows


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("n_iterations", ITERATIONS)
@pytest.mark.parametrize("reg_covar", [0.0, 1e-6, 0.1])
@pytest.mark.parametrize(("k", "d"), [(3, 3), (6, 1), (1, 4)])
def test_iterates_are_those_of_sklearn(
    covariance_type: CovarianceType, n_iterations: int, reg_covar: float, k: int, d: int
) -> None:
    start, rows = overlapping(covariance_type, k, d)
    reference = GaussianMixture(
        k,
        covariance_type=covariance_type,
        tol=0.0,
        reg_covar=reg_covar,
        max_iter=n_iterations,
        weights_init=start.weights,
        means_init=start.means,
        precisions_init=start.precisions,
        init_params="random_from_data",
        random_state=0,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        reference.fit(rows)
    if k > 1:
        assert reference.n_iter_ == n_iterations
    found = em(rows, start, n_iterations, reg_covar)
    expected = naive.mixture(
        covariance_type, reference.weights_, reference.means_, reference.covariances_
    )
    assert naive.distance(found, expected) < 1e-9
    mean = prepare(found).statistics(rows).mean_log_likelihood
    assert mean == pytest.approx(reference.score(rows), abs=1e-10)


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("n_iterations", ITERATIONS)
def test_iterates_are_the_oracles_a_million_deviations_from_the_origin(
    covariance_type: CovarianceType, n_iterations: int
) -> None:
    near, rows = overlapping(covariance_type)
    place = np.array([1e6, -3e6, 2e6])
    start = Parameters.create(covariance_type, near.weights, near.means + place, near.covariances)
    rows = rows + place
    assert_oracles(rows, start, n_iterations)
    # It did move: what is compared is not just the start.
    assert naive.distance(em(rows, start, n_iterations), naive.of(start)) > 0.1


def assert_oracles(rows: Array, start: Parameters, n_iterations: int) -> None:
    expected = naive.of(start)
    for _ in range(n_iterations):
        expected = naive.em_step(rows, expected)
    found = em(rows, start, n_iterations)
    assert naive.distance(found, expected) < 1e-7
    mean = prepare(found).statistics(rows).mean_log_likelihood
    assert abs(mean - naive.mean_log_likelihood(rows, expected)) < 1e-7


def ridge(covariance_type: CovarianceType, d: int) -> tuple[Parameters, Array]:
    """Overlapping rotated Gaussians of standard deviations 1 and 1e-6, and a nearby start."""
    rng = np.random.default_rng(d)
    # One rotation for all: components with ridges of their own would not overlap.
    turn = rotation(d, rng) * np.where(np.arange(d) % 2 == 0, 1.0, 1e-6)
    count = 3 if covariance_type == "full" else 1

    def some_factors() -> Array:
        roots = turn @ (np.eye(d) + 0.3 * rng.normal(size=(count, d, d)))
        upper = np.linalg.qr(np.swapaxes(roots, 1, 2), mode="r")
        lower = np.swapaxes(upper, 1, 2)
        return lower * np.sign(np.diagonal(lower, axis1=1, axis2=2))[:, np.newaxis, :]

    def some_parameters() -> Parameters:
        factors = some_factors()
        factors = factors if covariance_type == "full" else factors[0]
        covariances = factors @ np.swapaxes(factors, -1, -2)
        means = rng.normal(size=(3, d)) @ turn.T
        return Parameters.create(covariance_type, [0.2, 0.3, 0.5], means, covariances, factors)

    rows = draw(rng, some_parameters(), 400)
    return some_parameters(), rows


@pytest.mark.parametrize("covariance_type", ["full", "tied"])
@pytest.mark.parametrize("n_iterations", ITERATIONS)
@pytest.mark.parametrize("d", [2, 3, 4])
def test_iterates_are_the_oracles_on_ridges_of_width_1e_6(
    covariance_type: CovarianceType, n_iterations: int, d: int
) -> None:
    start, rows = ridge(covariance_type, d)
    assert_oracles(rows, start, n_iterations)
    shares = naive.responsibilities(rows, naive.of(em(rows, start, n_iterations)))
    assert (np.sort(shares, axis=1)[:, -1] < 0.9).mean() > 0.2


@pytest.mark.parametrize("covariance_type", ["full", "tied"])
@pytest.mark.parametrize("n_iterations", ITERATIONS)
def test_iterates_are_the_oracles_on_ridges_from_a_round_start(
    covariance_type: CovarianceType, n_iterations: int
) -> None:
    # The frame of the first step knows nothing of the ridge that the step finds.
    good, rows = ridge(covariance_type, 2)
    covariances = np.tile(np.eye(2), (3, 1, 1)) if covariance_type == "full" else np.eye(2)
    start = Parameters.create(covariance_type, good.weights, good.means, covariances)
    assert_oracles(rows, start, n_iterations)


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("n_iterations", ITERATIONS)
def test_iterates_are_the_oracles_with_distant_groups(
    covariance_type: CovarianceType, n_iterations: int
) -> None:
    # Two pairs of overlapping components, 1e6 standard deviations apart.
    rng = np.random.default_rng(9)
    truth = random_parameters(rng, covariance_type, 4, 2, spread=1.0)
    means = truth.means + np.array([[0.0], [0.0], [1e6], [1e6]])
    truth = Parameters.create(covariance_type, truth.weights, means, truth.covariances)
    start = Parameters.create(
        covariance_type,
        np.full(4, 0.25),
        means + rng.normal(size=(4, 2)),
        covariances_for(rng, covariance_type, 4, 2),
    )
    assert_oracles(draw(rng, truth, 400), start, n_iterations)


# The worked example -------------------------------------------------------------------------------

POINTS = np.array([[1, 8], [2.5, 7.5], [2, 7], [8.5, 2.5], [9, 2], [8, 1]])


def worked_example() -> Parameters:
    return Parameters.create(
        "full", [0.6, 0.4], [[4.5, 2.5], [2.5, 5.0]], np.stack([np.eye(2), np.eye(2)])
    )


def test_worked_example_expectation() -> None:
    expectation = prepare(worked_example())
    statistics = expectation.statistics(POINTS)
    assert statistics.log_likelihood == pytest.approx(-51.683570338017404, rel=1e-15)
    posterior = expectation.posterior(POINTS, with_responsibilities=True)
    first = posterior.responsibilities[:, 0]
    np.testing.assert_allclose(first[:3], [2.456065e-7, 1.721805e-5, 2.210831e-5], rtol=5e-7)
    # Half a unit of the last digit that is given.
    assert np.all(np.abs(first[3:] - [0.9999987, 0.99999986, 0.999999915]) <= [5e-8, 5e-9, 5e-10])
    assert np.array_equal(posterior.labels, [1, 1, 1, 0, 0, 0])
    densities = np.exp(
        [
            prepare(one).posterior(POINTS[[0, 4]]).scores
            for one in (
                Parameters.create("full", [1.0], [mean], [np.eye(2)])
                for mean in worked_example().means
            )
        ]
    )
    expected = [[9.398583e-11, 5.627321e-6], [5.740024e-4, 1.183107e-12]]
    np.testing.assert_allclose(densities, expected, rtol=5e-7)


def test_worked_example_maximization() -> None:
    start = worked_example()
    statistics = prepare(start).statistics(POINTS)
    np.testing.assert_allclose(statistics.counts, [3.000038, 2.999962], rtol=0.0, atol=5e-7)
    found = maximize(statistics, start).parameters
    np.testing.assert_allclose(found.weights, [0.5, 0.5], rtol=0.0, atol=1e-5)
    np.testing.assert_allclose(
        found.means, [[8.499917, 1.833404], [1.833332, 7.500001]], rtol=0.0, atol=5e-7
    )
    np.testing.assert_allclose(
        found.covariances,
        [
            [[0.167187, 0.166218], [0.166218, 0.389268]],
            [[0.388914, -0.166686], [-0.166686, 0.166681]],
        ],
        rtol=0.0,
        atol=5e-7,
    )


# Theory -------------------------------------------------------------------------------------------


def datasets(rng: np.random.Generator) -> dict[str, Array]:
    return {
        "clusters": draw(rng, random_parameters(rng, "full", 3, 2), 150),
        "noise": rng.uniform(size=(100, 2)),
        "far": draw(rng, random_parameters(rng, "diag", 3, 2), 150) + 1e6,
        "heavy tails": rng.standard_t(1.5, size=(150, 2)),
        "units": rng.normal(size=(150, 2)) * [1e-9, 1e9],
        "groups apart": np.vstack([rng.normal(size=(80, 2)), rng.normal(size=(80, 2)) + 1e4]),
    }


@given(
    st.sampled_from(TYPES),
    st.sampled_from(["clusters", "noise", "far", "heavy tails", "units", "groups apart"]),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=100)
def test_the_likelihood_never_falls(
    covariance_type: CovarianceType, dataset: str, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    rows = datasets(rng)[dataset]
    spread = rows.var(axis=0)
    covariances: Array = {
        "full": np.tile(np.diag(spread), (3, 1, 1)),
        "tied": np.diag(spread),
        "diag": np.tile(spread, (3, 1)),
        "spherical": np.full(3, spread.mean()),
    }[covariance_type]
    parameters = Parameters.create(
        covariance_type, [0.2, 0.3, 0.5], rows[rng.choice(len(rows), 3, False)], covariances
    )
    weights = rng.uniform(0.5, 1.5, len(rows))
    previous = -np.inf
    for _ in range(15):
        statistics = prepare(parameters).statistics(rows, weights)
        assert statistics.log_likelihood >= previous - 1e-12 * abs(previous)
        previous = statistics.log_likelihood
        maximum = maximize(statistics, parameters)
        if maximum.collapsed:
            # Widening a component is a step away from the maximum.
            break
        parameters = maximum.parameters
