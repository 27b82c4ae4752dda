"""The kernels' own exponential and logarithm against extended precision.

They run in a compiled loop, as in the kernels, so that what LLVM makes of them is tested.
"""

import numba
import numpy as np
import pytest

from streamgmm.core.kernels.compilation import FAST_SUMS
from streamgmm.core.kernels.elementary import (
    SMALLEST_EXPONENT,
    exponential,
    exponential_single,
    logarithm,
)
from streamgmm.core.structures import Array


@numba.njit(fastmath=FAST_SUMS)
def exponentials(x, out):
    for i in range(x.size):
        out[i] = exponential(x[i])


@numba.njit(fastmath=FAST_SUMS)
def exponentials_single(x, out):
    for i in range(x.size):
        out[i] = exponential_single(x[i])


@numba.njit(fastmath=FAST_SUMS)
def logarithms(x, out):
    for i in range(x.size):
        out[i] = logarithm(x[i])


def applied(function, x: Array) -> Array:
    out = np.full_like(x, np.nan)
    function(x, out)
    return out


@pytest.mark.parametrize(
    "x",
    [
        -np.linspace(0.0, 708.0, 200_001),
        -np.random.default_rng(0).uniform(0.0, 2.0, 100_000),
        -np.exp2(np.random.default_rng(1).uniform(-1074.0, 9.4, 100_000)),
    ],
    ids=["whole range", "near 0", "all magnitudes"],
)
def test_exponential_is_within_two_units_in_the_last_place(x: Array) -> None:
    exact = np.exp(x.astype(np.longdouble))
    error = np.abs(applied(exponentials, x) - exact) / np.spacing(exact.astype(np.float64))
    assert error.max() <= 2.0


def test_exponential_around_the_multiples_of_half_ln_2() -> None:
    # Where the rounding to the nearest exponent changes, the remainder is largest.
    middles = -np.arange(0.5, 1021.0) * np.log(2.0)
    x = np.concatenate([middles, np.nextafter(middles, 0.0), np.nextafter(middles, -np.inf)])
    exact = np.exp(x.astype(np.longdouble))
    error = np.abs(applied(exponentials, x) - exact) / np.spacing(exact.astype(np.float64))
    assert error.max() <= 2.0


def test_exponential_underflows_to_exactly_zero() -> None:
    below = np.nextafter(SMALLEST_EXPONENT, -np.inf)
    x = np.array([below, -709.0, -745.2, -1e4, -1e100, -np.finfo(float).max, -np.inf, np.nan])
    assert np.array_equal(applied(exponentials, x), np.zeros(x.size))


def test_exponential_is_positive_down_to_its_limit() -> None:
    found = applied(exponentials, np.array([SMALLEST_EXPONENT]))[0]
    assert found > 0.0
    assert found >= np.finfo(np.float64).tiny


def test_exponential_of_zero_is_exactly_one() -> None:
    # The largest component's share of a row must be 1 before it is normalised.
    assert np.array_equal(applied(exponentials, np.array([0.0, -0.0])), [1.0, 1.0])


@pytest.mark.parametrize(
    "x",
    [
        -np.linspace(0.0, 87.0, 200_001),
        -np.random.default_rng(0).uniform(0.0, 2.0, 100_000),
        -np.exp2(np.random.default_rng(1).uniform(-149.0, 6.4, 100_000)),
        -np.arange(0.5, 125.0) * np.log(2.0),
    ],
    ids=["whole range", "near 0", "all magnitudes", "multiples of half ln 2"],
)
def test_exponential_in_float32_is_within_two_units_in_the_last_place(x: Array) -> None:
    single = x.astype(np.float32)
    found = applied(exponentials_single, single)
    assert found.dtype == np.float32
    exact = np.exp(single.astype(np.float64))
    assert (np.abs(found - exact) / np.spacing(exact.astype(np.float32))).max() <= 2.0


def test_exponential_in_float32_at_the_ends_of_its_range() -> None:
    below = np.array([-87.01, -104.0, -1e30, -np.inf, np.nan], np.float32)
    np.testing.assert_array_equal(applied(exponentials_single, below), 0.0)
    nought = np.array([0.0, -0.0], np.float32)
    np.testing.assert_array_equal(applied(exponentials_single, nought), 1.0)


@pytest.mark.parametrize(
    "x",
    [
        np.linspace(1.0, 4096.0, 200_001),
        1.0 + np.exp2(np.random.default_rng(2).uniform(-52.0, 0.0, 100_000)),
        np.exp2(np.random.default_rng(3).uniform(0.0, 1023.9, 100_000)),
    ],
    ids=["sums of shares", "near 1", "all magnitudes"],
)
def test_logarithm_is_within_two_units_of_the_larger_of_1_and_itself(x: Array) -> None:
    exact = np.log(x.astype(np.longdouble))
    unit = np.spacing(np.maximum(1.0, exact.astype(np.float64)))
    assert (np.abs(applied(logarithms, x) - exact) / unit).max() <= 2.0


def test_logarithm_at_the_edges_of_its_range() -> None:
    half = np.sqrt(2.0)
    x = np.array([1.0, np.nextafter(half, 1.0), half, np.nextafter(half, 2.0), 2.0, 2.0**1023])
    x = np.append(x, np.finfo(np.float64).max)
    found = applied(logarithms, x)
    assert found[0] == 0.0
    exact = np.log(x.astype(np.longdouble))
    unit = np.spacing(np.maximum(1.0, exact.astype(np.float64)))
    assert (np.abs(found - exact) / unit).max() <= 2.0
