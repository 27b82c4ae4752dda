"""Moments and extremes of features agree with NumPy's, in whatever pieces rows come."""

import numpy as np
import pytest
from numpy.typing import NDArray

from streamgmm.core.feature_moments import FeatureMoments

N, D = 5000, 3


def in_pieces(
    rows: NDArray[np.float64], weights: NDArray[np.float64] | None, n_pieces: int
) -> FeatureMoments:
    found = FeatureMoments.of(np.empty((rows.shape[1], 0)))
    for places in np.array_split(np.arange(len(rows)), n_pieces):
        columns = np.ascontiguousarray(rows[places].T)
        found = found.merge(
            FeatureMoments.of(columns, None if weights is None else weights[places])
        )
    return found


def table(offset: float = 0.0, scale: float = 1.0) -> NDArray[np.float64]:
    rng = np.random.default_rng(0)
    return offset + scale * rng.standard_t(3, size=(N, D)) * np.array([1.0, 1e-3, 1e3])


@pytest.mark.parametrize("n_pieces", [1, 7, N])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("offset", "scale"), [(0.0, 1.0), (1e9, 1.0), (-1e14, 1e6), (0.0, 1e100)])
def test_moments_are_those_of_numpy(
    offset: float, scale: float, weighted: bool, n_pieces: int
) -> None:
    rows = table(offset, scale)
    weights = np.random.default_rng(1).exponential(size=N) if weighted else None
    found = in_pieces(rows, weights, n_pieces)
    # About the offset, where NumPy loses nothing.
    near = rows - offset
    means = np.average(near, axis=0, weights=weights)
    variances = np.average(np.square(near - means), axis=0, weights=weights)
    spread = np.sqrt(variances)
    rounding = np.abs(offset) * 1e-14
    assert np.all(np.abs(found.means - offset - means) < 1e-12 * spread + rounding)
    # Means of pieces are as good as numbers of their size are.
    assert np.all(np.abs(found.variances - variances) < 1e-11 * variances + rounding * spread)
    np.testing.assert_array_equal(found.smallest, rows.min(axis=0))
    np.testing.assert_array_equal(found.largest, rows.max(axis=0))
    np.testing.assert_allclose(found.weights, N if weights is None else weights.sum(), rtol=1e-12)


@pytest.mark.parametrize("n_pieces", [1, 7, N])
@pytest.mark.parametrize("weighted", [False, True])
def test_missing_values_are_passed_over(weighted: bool, n_pieces: int) -> None:
    rng = np.random.default_rng(2)
    rows = table(1e6)
    weights = rng.exponential(size=N) if weighted else None
    rows[rng.uniform(size=(N, D)) < [0.0, 0.3, 0.99]] = np.nan
    found = in_pieces(rows, weights, n_pieces)
    seen = ~np.isnan(rows)
    for d in range(D):
        own = rows[seen[:, d], d] - 1e6
        own_weights = np.ones(len(own)) if weights is None else weights[seen[:, d]]
        mean = np.average(own, weights=own_weights)
        variance = np.average(np.square(own - mean), weights=own_weights)
        assert found.weights[d] == pytest.approx(own_weights.sum(), rel=1e-12)
        assert found.means[d] - 1e6 == pytest.approx(mean, abs=1e-8)
        assert found.variances[d] == pytest.approx(variance, rel=1e-9)
    np.testing.assert_array_equal(found.smallest, np.nanmin(rows, axis=0))
    np.testing.assert_array_equal(found.largest, np.nanmax(rows, axis=0))


def test_a_feature_without_values_has_no_variance() -> None:
    found = in_pieces(np.array([[1.0, np.nan], [3.0, np.nan]]), None, 2)
    np.testing.assert_array_equal(found.variances, [1.0, np.nan])
    np.testing.assert_array_equal(found.weights, [2.0, 0.0])
    assert (found.smallest[1], found.largest[1]) == (np.inf, -np.inf)


def test_a_constant_has_no_variance() -> None:
    found = in_pieces(np.full((N, 1), 1e9 + 1 / 3), None, 13)
    assert found.means[0] == 1e9 + 1 / 3
    assert found.variances[0] == 0.0
