"""Starts: from every method and whatever is known already, a valid mixture near the data."""

from typing import Any

import numpy as np
import pytest
import sklearn.cluster
import sklearn.mixture
from numpy.typing import NDArray

from streamgmm.algorithms.batch.sample_fit import Settings
from streamgmm.algorithms.sampling.initialization import VARIED_METHODS, Start, initialize
from streamgmm.algorithms.sampling.row_sample import RowSample
from streamgmm.core.objective import Objective
from streamgmm.core.parameters import Parameters
from streamgmm.core.structures import STRUCTURES
from streamgmm.errors import DataError, ParameterError
from streamgmm.options import CovarianceType
from tests.core.cases import TYPES, covariances_for

METHODS = ("kmeans", *VARIED_METHODS)
NOTHING = Start()


def sample_of(rows: NDArray[np.float64], weights: NDArray[np.float64] | None = None) -> RowSample:
    n = len(rows)
    hashes = np.arange(n, dtype=np.uint64)
    weights = np.ones(n) if weights is None else weights
    return RowSample(np.arange(n), hashes, rows, weights, np.zeros(n, dtype=np.bool_))


def start(
    rows: NDArray[np.float64],
    k: int,
    covariance_type: CovarianceType = "full",
    method: str = "kmeans",
    *,
    reg_covar: float = 1e-6,
    known: Start = NOTHING,
    weights: NDArray[np.float64] | None = None,
    seed: int = 0,
) -> Parameters:
    random = np.random.RandomState(seed)
    sample = sample_of(rows, weights)
    return initialize(
        sample.rows, sample.weights, k, covariance_type, method, Objective(reg_covar), known, random
    )


def clusters(n: int = 600, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    rng = np.random.default_rng(seed)
    labels = rng.choice(3, n, p=[0.5, 0.3, 0.2])
    centres = np.array([[0.0, 0.0], [40.0, 0.0], [0.0, 40.0]])
    return centres[labels] + rng.normal(size=(n, 2)) * [1.0, 2.0], labels


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("covariance_type", TYPES)
def test_starts_are_valid_and_repeatable(method: str, covariance_type: CovarianceType) -> None:
    rows, _ = clusters()
    found, again = (start(rows, 4, covariance_type, method) for _ in range(2))
    # Creating them anew validates them.
    Parameters.create(covariance_type, found.weights, found.means, found.covariances)
    assert found.covariances.shape == STRUCTURES[covariance_type].shape(4, 2)
    np.testing.assert_array_equal(found.means, again.means)
    assert np.all(found.means >= rows.min(axis=0))
    assert np.all(found.means <= rows.max(axis=0))
    # k-means mostly ends in one and the same place, but not from every seed.
    others = [start(rows, 4, covariance_type, method, seed=seed).means for seed in range(1, 6)]
    assert any(not np.array_equal(found.means, other) for other in others)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_separate_clusters_are_found_exactly(covariance_type: CovarianceType) -> None:
    rows, labels = clusters()
    found = start(rows, 3, covariance_type, reg_covar=1e-3)
    order = np.argsort(found.weights)[::-1]
    responsibilities = np.eye(3)[labels]
    counts, means, covariances = sklearn.mixture._gaussian_mixture._estimate_gaussian_parameters(
        rows, responsibilities, 1e-3, covariance_type
    )
    np.testing.assert_allclose(found.weights[order], counts / len(rows), rtol=1e-12)
    np.testing.assert_allclose(found.means[order], means, rtol=1e-10, atol=1e-12)
    own = found.covariances if covariance_type == "tied" else found.covariances[order]
    np.testing.assert_allclose(own, covariances, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(("n_rows", "n_components"), [(2_000, 8), (40_000, 20)])
def test_kmeans_is_as_good_as_scikit_learns(n_rows: int, n_components: int) -> None:
    rng = np.random.default_rng(5)
    rows = rng.normal(size=(n_rows, 2))

    def inertia(centres: NDArray[np.float64]) -> float:
        return float(np.square(rows[:, np.newaxis] - centres).sum(axis=2).min(axis=1).sum())

    ours = [inertia(start(rows, n_components, seed=seed).means) for seed in range(8)]
    theirs = [
        sklearn.cluster.KMeans(n_components, n_init=1, random_state=seed).fit(rows).inertia_
        for seed in range(8)
    ]
    assert np.mean(ours) < 1.05 * np.mean(theirs)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("covariance_type", TYPES)
def test_what_is_known_replaces_what_is_found(method: str, covariance_type: CovarianceType) -> None:
    rows, _ = clusters()
    rng = np.random.default_rng(1)
    values: dict[str, Any] = {
        "weights": np.array([0.2, 0.3, 0.5]),
        "means": rng.normal(size=(3, 2)),
        "covariances": covariances_for(rng, covariance_type, 3, 2),
    }
    without = start(rows, 3, covariance_type, method)
    for name, value in values.items():
        found = start(rows, 3, covariance_type, method, known=Start(**{name: value}))
        np.testing.assert_allclose(getattr(found, name), value, rtol=1e-12, atol=1e-14)
        for other in set(values) - {name}:
            np.testing.assert_array_equal(getattr(found, other), getattr(without, other))


def test_a_complete_start_needs_no_data() -> None:
    known = Start(np.array([1.0]), np.zeros((1, 2)), 4 * np.eye(2)[np.newaxis])
    found = known.complete("full")
    assert found is not None
    np.testing.assert_allclose(found.covariances, 4 * np.eye(2)[np.newaxis], rtol=1e-15)
    assert Start(known.weights, known.means).complete("full") is None
    assert Start(known.weights, None, known.covariances).complete("full") is None
    assert Start(None, known.means, known.covariances).complete("full") is None


@pytest.mark.parametrize("method", METHODS)
def test_fewer_rows_than_components(method: str) -> None:
    with pytest.raises(DataError, match=r"only 2 row\(s\).* n_components = 3"):
        start(np.eye(2), 3, method=method)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("reg_covar", [0.0, 1e-6])
@pytest.mark.parametrize(
    "rows",
    [
        pytest.param(np.ones((20, 2)), id="one point"),
        pytest.param(np.repeat(np.eye(2), 10, axis=0), id="two points"),
        pytest.param(np.c_[np.arange(20.0), np.zeros(20)], id="a constant column"),
        pytest.param(np.arange(8.0).reshape(4, 2), id="as many rows as components"),
        pytest.param(np.full((20, 2), 1e12) + np.eye(20, 2), id="far away"),
        pytest.param(np.eye(20, 2) * 1e-12, id="small"),
        pytest.param(np.eye(20, 2) * 1e12, id="large"),
    ],
)
def test_duplicates_and_degenerate_rows(
    method: str, covariance_type: CovarianceType, reg_covar: float, rows: NDArray[np.float64]
) -> None:
    found = start(rows, 4, covariance_type, method, reg_covar=reg_covar)
    # Creating refuses what is singular or not finite.
    again = Parameters.create(covariance_type, found.weights, found.means, found.covariances)
    assert again.n_components == 4
    assert np.isfinite(again.precisions).all()


@pytest.mark.parametrize("method", METHODS)
def test_integer_weights_count(method: str) -> None:
    """From the same responsibilities, weighted rows give the moments of repeated ones."""
    rows, _ = clusters(60)
    weights = np.random.default_rng(0).integers(1, 4, 60).astype(float)
    found = start(rows, 1, method=method, weights=weights, reg_covar=0.0)
    repeated = np.repeat(rows, weights.astype(int), axis=0)
    np.testing.assert_allclose(found.means[0], repeated.mean(axis=0), rtol=1e-12)
    expected = np.cov(repeated.T, bias=True)
    floor = found.covariances[0] - expected
    assert np.abs(floor).max() < 1e-5 * np.trace(expected)


@pytest.mark.parametrize("n_features", [1, 2, 5])
def test_gaps_take_no_part(n_features: int) -> None:
    rng = np.random.default_rng(2)
    rows = rng.normal(1e3, 2.0, (3000, n_features))
    rows[rng.random(rows.shape) < 0.3] = np.nan
    found = start(rows, 1, "diag")
    np.testing.assert_allclose(found.means[0], np.nanmean(rows, axis=0), rtol=1e-12)
    np.testing.assert_allclose(found.covariances[0], np.nanvar(rows, axis=0), rtol=1e-6)


@pytest.mark.parametrize("n_light", [500, 20_000])
def test_heavy_rows_draw_centres(n_light: int) -> None:
    rows = np.r_[np.zeros((n_light, 1)), np.ones((n_light, 1)), np.full((2, 1), 50.0)]
    weights = np.r_[np.ones(2 * n_light), np.full(2, 1e6)]
    means = [
        start(rows, 2, "spherical", "k-means++", weights=weights, seed=seed).means.max()
        for seed in range(10)
    ]
    np.testing.assert_allclose(means, 50.0)


@pytest.mark.parametrize(
    ("known", "message"),
    [
        (Start(means=np.zeros((2, 2))), "means"),
        (Start(weights=np.array([0.5, 0.5])), "weights"),
        (Start(weights=np.array([0.5, 0.5, 0.5])), "sum"),
        (Start(covariances=-np.tile(np.eye(2), (3, 1, 1))), "positive definite"),
    ],
)
def test_what_is_known_must_fit(known: Start, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        start(clusters()[0], 3, known=known)


def test_restarts_of_kmeans_differ_and_those_of_another_method_do_not() -> None:
    rows, _ = clusters()
    by_kmeans, by_random_rows = (
        Settings(3, "diag", method, Objective(1e-6), 9) for method in ("kmeans", "random_from_data")
    )

    def means(settings: Settings, restart: int) -> NDArray[np.float64]:
        random = np.random.RandomState(0)
        return settings.start(rows, np.ones(len(rows)), NOTHING, random, restart).means

    np.testing.assert_array_equal(means(by_kmeans, 0), start(rows, 3, "diag", "kmeans").means)
    for restart, method in enumerate(VARIED_METHODS, 1):
        expected = start(rows, 3, "diag", method).means
        np.testing.assert_array_equal(means(by_kmeans, restart), expected)
        again = restart + len(VARIED_METHODS)
        np.testing.assert_array_equal(means(by_kmeans, again), expected)
        np.testing.assert_array_equal(means(by_random_rows, restart), means(by_random_rows, 0))
