"""Triangular systems and factors of covariances with many columns."""

import numpy as np
import pytest
import scipy.linalg

from streamgmm.core.structures.covariance_update import spectral_factor, whitened_factor
from streamgmm.core.structures.matrices import (
    cholesky,
    inverse_triangular,
    product,
    products_with_transposed,
    solve,
    symmetric,
    triangles,
)

WIDTHS = (3, 31, 32, 70, 150)


def lower(n: int, d: int) -> np.ndarray:
    rng = np.random.default_rng(d)
    return np.tril(rng.normal(size=(n, d, d)), -1) / d + np.eye(d) * rng.uniform(0.5, 2.0, d)


@pytest.mark.parametrize("d", WIDTHS)
def test_solutions_and_inverses_are_those_of_scipy(d: int) -> None:
    factors = lower(3, d)
    values = np.random.default_rng(0).normal(size=(3, d, 5))
    found, inverse = solve(factors, values), inverse_triangular(factors)
    for k in range(3):
        expected = scipy.linalg.solve_triangular(factors[k], values[k], lower=True)
        np.testing.assert_allclose(found[k], expected, rtol=1e-12, atol=1e-13)
        np.testing.assert_allclose(inverse[k] @ factors[k], np.eye(d), atol=1e-12)
        assert np.all(np.triu(inverse[k], 1) == 0.0)


@pytest.mark.parametrize("d", WIDTHS)
def test_one_factor_for_many_values(d: int) -> None:
    factors, values = lower(1, d), np.random.default_rng(0).normal(size=(4, d, 2))
    found = solve(factors, values)
    assert found.shape == values.shape
    np.testing.assert_allclose(factors @ found, values, atol=1e-12)
    np.testing.assert_allclose(factors[0] @ solve(factors[0], values[0]), values[0], atol=1e-12)


@pytest.mark.parametrize("d", WIDTHS)
@pytest.mark.parametrize("n_rows", [2, 400])
def test_factors_are_those_of_moments_and_ridge(d: int, n_rows: int) -> None:
    rng = np.random.default_rng(1)
    whitened = rng.normal(size=(2, n_rows, d))
    central = np.swapaxes(whitened, 1, 2) @ whitened / n_rows
    bases, ridge = lower(2, d), rng.uniform(1e-3, 1e-2, d)
    factors = whitened_factor(central, bases, inverse_triangular(bases), ridge)
    expected = bases @ central @ np.swapaxes(bases, 1, 2) + np.diag(ridge)
    np.testing.assert_allclose(
        factors @ np.swapaxes(factors, 1, 2), expected, rtol=1e-9, atol=1e-12
    )
    assert np.all(np.triu(factors, 1) == 0.0)


def test_a_small_ridge_on_singular_moments_keeps_its_digits() -> None:
    d = 40
    rows = np.random.default_rng(2).normal(size=(3, d))
    central = (rows.T @ rows / 3.0)[np.newaxis]
    bases, ridge = np.eye(d)[np.newaxis], np.full(d, 1e-11)
    # The sum has pivots of 1e-11 of its diagonal, and moments alone have no Cholesky factor.
    with pytest.raises(np.linalg.LinAlgError):
        whitened_factor(central, bases, bases, ridge)
    factor = spectral_factor(central, bases, bases, ridge)[0]
    eigenvalues = np.linalg.svd(factor, compute_uv=False) ** 2
    np.testing.assert_allclose(eigenvalues[3:], 1e-11, rtol=1e-2)


def test_a_ridge_that_overflows_in_whitened_coordinates() -> None:
    bases, ridge = 1e-160 * np.eye(2)[np.newaxis], np.full(2, 1e-6)
    inverse = inverse_triangular(bases)
    factor = whitened_factor(np.eye(2)[np.newaxis], bases, inverse, ridge)[0]
    np.testing.assert_allclose(factor, 1e-3 * np.eye(2), rtol=1e-12)


@pytest.mark.parametrize("d", WIDTHS)
def test_factors_and_products_are_those_of_numpy(d: int) -> None:
    factors = lower(3, d)
    values = np.random.default_rng(3).normal(size=(3, d, 4))
    np.testing.assert_allclose(product(factors, values), factors @ values, atol=1e-13)
    np.testing.assert_allclose(product(factors[:1], values), factors[0] @ values, atol=1e-13)
    squared = products_with_transposed(factors)
    assert np.array_equal(squared, np.swapaxes(squared, 1, 2))
    np.testing.assert_allclose(squared, factors @ np.swapaxes(factors, 1, 2), atol=1e-13)
    np.testing.assert_allclose(cholesky(squared), factors, atol=1e-12)
    with pytest.raises(np.linalg.LinAlgError):
        cholesky(-squared)


@pytest.mark.parametrize("d", [1, 40, 520])
def test_triangles_hold_the_values_of_symmetric_matrices(d: int) -> None:
    matrices = products_with_transposed(np.random.default_rng(d).normal(size=(2, d, d)))
    upper = triangles(matrices)
    assert np.array_equal(upper, matrices[:, *np.triu_indices(d)])
    assert np.array_equal(symmetric(upper, d), matrices)
