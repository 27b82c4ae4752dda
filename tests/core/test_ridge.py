"""The ridge that "auto" finds: small beside the variance of each column, never more than 1e-6."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from streamgmm.core.ridge import FitRidge, given_ridge, ridge_of, robust_variances
from streamgmm.core.structures import relative_ridge
from streamgmm.errors import ParameterError

Rows = NDArray[np.float64]


def normal(n: int = 1001, scales: Any = (1.0,), seed: int = 0) -> Rows:
    scales = np.asarray(scales)
    return np.random.default_rng(seed).normal(size=(n, scales.size)) * scales


def found(rows: Any, weights: Any = None) -> Rows:
    weights = np.ones(len(rows)) if weights is None else np.asarray(weights, dtype=np.float64)
    return robust_variances(np.asarray(rows), weights)


def of_quartiles(rows: Rows) -> Rows:
    """The rule, by NumPy."""
    lower, upper = np.nanquantile(rows, [0.25, 0.75], axis=0)
    variances: Rows = np.square((upper - lower) / 1.349)
    return variances


@pytest.mark.parametrize("n", [2, 3, 4, 1000, 1001])
@pytest.mark.parametrize("weight", [1.0, 0.1, 1e-9, 3e7])
def test_variances_are_those_of_the_quartiles(n: int, weight: float) -> None:
    rows = normal(n, [1.0, 5e-5, 1e9]) + np.array([0.0, 1e-3, 1e10])
    np.testing.assert_allclose(found(rows, np.full(n, weight)), of_quartiles(rows), rtol=1e-9)


@pytest.mark.parametrize("dtype", [np.float32, np.int16, np.uint8])
def test_any_type_of_rows(dtype: Any) -> None:
    rows = np.random.default_rng(0).integers(0, 100, (500, 2)).astype(dtype)
    np.testing.assert_allclose(found(rows), of_quartiles(rows.astype(np.float64)), rtol=1e-12)


def test_a_weight_is_a_number_of_rows() -> None:
    rows = normal(500, [1.0, 1e-6])
    weights = np.random.default_rng(1).integers(1, 5, 500)
    repeated = np.repeat(rows, weights, axis=0)
    np.testing.assert_allclose(found(rows, weights), of_quartiles(repeated), rtol=1e-12)
    # Of any unit.
    np.testing.assert_allclose(found(rows, 1e-7 * weights), found(rows, weights), rtol=1e-9)


def test_weights_far_apart() -> None:
    rows = np.array([[0.0], [5.0], [10.0], [5.0]])
    assert found(rows, [1e-300, 1.0, 1e-300, 1.0])[0] == 0.0
    rows[0, 0] = 1e30
    assert found(rows, [1e-300, 1.0, 1.0, 2.0])[0] < 25.0


def test_missing_values_do_not_count() -> None:
    rows = normal(2000, [1e-4, 1.0, 1.0])
    rows[np.random.default_rng(1).random(rows.shape) < 0.3] = np.nan
    rows[:, 2] = np.nan
    np.testing.assert_allclose(found(rows)[:2], of_quartiles(rows[:, :2]), rtol=1e-12)
    assert found(rows)[2] == 0.0


@pytest.mark.parametrize("outlier", [1e30, -1e30, 1e140])
def test_one_value_changes_nothing_of_consequence(outlier: float) -> None:
    rows = normal(1001, [1e-5, 1e-9])
    before = found(rows)
    rows[17] = outlier
    np.testing.assert_allclose(found(rows), before, rtol=0.05)


def test_a_column_of_mostly_one_value_has_its_variance() -> None:
    rng = np.random.default_rng(0)
    rain = np.where(rng.random(4000) < 0.1, rng.exponential(1e-5, 4000), 0.0)
    rows = np.column_stack([rain, 7.0 + rain])
    np.testing.assert_allclose(found(rows), rain.var(), rtol=1e-6)
    weights = rng.uniform(0.5, 2.0, 4000)
    mean = np.average(rain, weights=weights)
    expected = np.average(np.square(rain - mean), weights=weights)
    np.testing.assert_allclose(found(rows, weights), expected, rtol=1e-6)


@pytest.mark.parametrize("value", [0.0, 0.1, -1e9, 1e-300])
def test_a_constant_column_has_no_variance(value: float) -> None:
    assert found(np.full((1000, 1), value))[0] == 0.0
    assert found(np.full((1000, 1), value), np.random.default_rng(0).random(1000) + 0.1)[0] == 0.0


def test_rounding_is_no_variance() -> None:
    rows = 1e9 + normal(1000, [1e-7, 1e-3])
    assert found(rows)[0] == 0.0
    np.testing.assert_allclose(found(rows)[1], 1e-6, rtol=0.2)


@pytest.mark.parametrize("n", [0, 1])
def test_next_to_no_rows(n: int) -> None:
    assert found(np.full((n, 2), 3.0)).tolist() == [0.0, 0.0]


def test_squares_that_underflow() -> None:
    variance = found(normal(100, [1e-200]))[0]
    assert 0.0 < 1e-6 * variance < 1e-250


def test_of_many_rows_some_are_used() -> None:
    rows = np.sort(normal(300_000, [1e-3]), axis=0)
    np.testing.assert_allclose(found(rows), of_quartiles(rows), rtol=1e-3)


def test_the_ridge_is_a_millionth_and_no_more() -> None:
    variances = np.array([3e-9, 0.25, 1.0, 1e18, 0.0])
    expected = [3e-15, 0.25e-6, 1e-6, 1e-6, 1e-6]
    for kind in ("full", "tied", "diag"):
        np.testing.assert_allclose(ridge_of(variances, kind), expected, rtol=1e-12)
    # Bit for bit, so that such data are fitted as with reg_covar=1e-6.
    assert ridge_of(variances, "full")[[2, 3, 4]].tolist() == [1e-6] * 3
    assert ridge_of(variances, "spherical").tolist() == [3e-9 * 1e-6] * 5


def test_k_means_has_scales_where_columns_differ_much() -> None:
    def scales(deviations: list[float]) -> Any:
        ridge = FitRidge("full", None)
        ridge.settle(normal(1000, deviations), np.ones(1000))
        return ridge.scales

    assert scales([1.0, 50.0]) is None
    assert scales([0.5, 2.0]) is None
    assert scales([1e-9, 4e-9]) is None
    np.testing.assert_allclose(scales([2.0, 500.0]), [2.0, 500.0], rtol=0.1)
    np.testing.assert_allclose(scales([8.0, 0.2]), [8.0, 0.2], rtol=0.1)
    # A constant column has no scale.
    assert scales([0.0, 5000.0]) is None
    np.testing.assert_allclose(scales([0.0, 1e-5, 1.0]), [1.0, 1e-5, 1.0], rtol=0.1)


def test_a_ridge_is_found_once() -> None:
    ridge = FitRidge("full", None)
    first = ridge.settle(normal(100, [1e-3]), np.ones(100))
    assert ridge.settle(normal(100, [1e-5]), np.ones(100)) is first
    given = FitRidge("full", np.array([0.5]))
    assert given.settle(normal(100, [1e-3]), np.ones(100)).tolist() == [0.5]
    assert given.scales is None


@pytest.mark.parametrize("setting", [1e-3, np.float32(0.5), 0, np.array(1e-3), [1e-3, 2.0]])
def test_settings_that_are_given(setting: Any) -> None:
    expected = np.broadcast_to(np.asarray(setting, dtype=np.float64), 2)
    np.testing.assert_array_equal(given_ridge(setting, "full", 2), expected)
    np.testing.assert_array_equal(given_ridge(setting, "spherical", 2), np.full(2, expected.min()))


def test_auto_is_not_given() -> None:
    assert given_ridge("auto", "full", 2) is None


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ([1e-6], r"reg_covar has shape \(1,\), but the data have 2 features; .* shape \(2,\)"),
        ([[1e-6, 1e-6]], r"reg_covar has shape \(1, 2\)"),
        ([1e-6, -1.0], r"negative or not finite for column\(s\) b \(-1\);"),
        ([np.nan, np.inf], r"column\(s\) a \(nan\), b \(inf\);"),
        ("automatic", "reg_covar is 'automatic'; give a number"),
        (["a", "b"], "give a number, an array of numbers"),
        ([None, {}], "give a number, an array of numbers"),
    ],
)
def test_settings_that_are_refused(setting: Any, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        given_ridge(setting, "full", 2, ["a", "b"])


def test_relative_entries() -> None:
    assert relative_ridge(0.0) == (0.0, 1.0)
    assert relative_ridge(0.3) == (0.3, 1.0)
    assert relative_ridge(np.zeros(3)) == (0.0, 1.0)
    largest, relative = relative_ridge(np.array([1e-6, 4e-6, 0.0]))
    assert largest == 4e-6
    np.testing.assert_array_equal(relative, [0.25, 1.0, 0.0])
