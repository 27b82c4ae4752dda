"""Values and weights at the limits of float64: a finite model, or an error that says what to do."""

import warnings
from typing import Any

import numpy as np
import pytest

import streamgmm
from benchmarks.numeric_fuzz import drawn, outcome
from streamgmm import GaussianMixture, OnlineGaussianMixture
from streamgmm.core.structures import solve
from streamgmm.errors import DataError

ROWS = np.random.default_rng(0).normal(size=(300, 2))


def fits() -> dict[str, Any]:
    return {
        "em": GaussianMixture(2, algorithm="em", random_state=0),
        "auto": GaussianMixture(2, random_state=0),
        "online": OnlineGaussianMixture(2, init_size=100, random_state=0),
    }


@pytest.mark.parametrize("kind", fits())
@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("weight", [1e36, 1e100, 3e38])
def test_weights_that_are_too_large_are_refused(kind: str, dtype: str, weight: float) -> None:
    weights, rows = np.full(300, weight), ROWS.astype(dtype)
    with pytest.raises(DataError, match=r"above 1e\+30.*divide all weights by their mean"):
        fits()[kind].fit(rows, sample_weight=weights)
    # The remedy.
    assert np.isfinite(fits()[kind].fit(rows, sample_weight=weights / weights.mean()).means_).all()


@pytest.mark.filterwarnings("ignore::streamgmm.errors.FewRowsWarning")
@pytest.mark.parametrize("kind", fits())
@pytest.mark.parametrize("weight", [5e-324, 1e-200])
def test_weights_that_are_too_small_are_refused(kind: str, weight: float) -> None:
    weights = np.full(300, weight)
    with pytest.raises(DataError, match=r"sums to .*divide all weights by their mean"):
        fits()[kind].fit(ROWS, sample_weight=weights)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        scaled = np.ones(300)
        assert np.isfinite(fits()[kind].fit(ROWS, sample_weight=scaled).means_).all()


@pytest.mark.parametrize("kind", fits())
def test_tiny_weights_beside_others_are_taken(kind: str) -> None:
    weights = np.where(np.arange(300) % 3 == 0, 5e-324, 1.0)
    model = fits()[kind].fit(ROWS, sample_weight=weights)
    assert np.isfinite(model.means_).all()


@pytest.mark.parametrize("covariance_type", ["full", "tied", "diag", "spherical"])
@pytest.mark.parametrize("scale", [1e-120, 1e-100, 1e100, 1e125])
def test_values_of_any_scale_give_a_finite_model(covariance_type: Any, scale: float) -> None:
    model = GaussianMixture(2, covariance_type=covariance_type, reg_covar=0.0, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        model.fit(ROWS * scale)
    for values in (model.means_, model.covariances_, model.precisions_, model.score(ROWS * scale)):
        assert np.isfinite(values).all()


@pytest.mark.parametrize("covariance_type", ["full", "diag", "spherical"])
def test_values_whose_squares_vanish_are_refused(covariance_type: Any) -> None:
    rows = ROWS * 1e-160
    model = GaussianMixture(2, covariance_type=covariance_type, reg_covar=0.0, random_state=0)
    with pytest.raises(DataError, match="divide each column by its standard deviation"):
        model.fit(rows)
    # The remedy.
    assert np.isfinite(model.fit(rows / rows.std(axis=0)).means_).all()


def test_triangular_factors_of_any_range_are_solved() -> None:
    """Pivots of the usual solver underflow to 0."""
    factors = np.array([[1e-200, 0.0, 0.0], [1e150, 1e-200, 0.0], [1e150, 1e150, 1e-200]])
    with pytest.raises(np.linalg.LinAlgError):
        np.linalg.solve(factors, np.ones((3, 1)))
    with np.errstate(over="ignore", invalid="ignore"):
        found = solve(factors[np.newaxis], np.ones((1, 3, 1)))
    assert found[0, 0, 0] == 1e200


def test_solutions_are_those_of_the_usual_solver() -> None:
    rng = np.random.default_rng(0)
    factors = np.tril(rng.normal(size=(5, 4, 4))) + 3.0 * np.eye(4)
    values = rng.normal(size=(5, 4, 2))
    np.testing.assert_array_equal(solve(factors, values), np.linalg.solve(factors, values))


@pytest.mark.parametrize("seed", [9, 40, 45, 59, 73, 133, 166, 188, 216])
def test_fits_of_numbers_of_any_size_end_well(seed: int) -> None:
    """Cases of the fuzz that once ended in errors of NumPy."""
    assert outcome(drawn(seed))


def test_the_solver_by_substitution_is_right() -> None:
    from streamgmm.core.structures.matrices import _substituted

    rng = np.random.default_rng(0)
    factors = np.tril(rng.normal(size=(5, 4, 4))) + 3.0 * np.eye(4)
    values = rng.normal(size=(5, 4, 2))
    np.testing.assert_allclose(_substituted(factors, values), np.linalg.solve(factors, values))
    np.testing.assert_allclose(
        _substituted(factors[0], values), np.linalg.solve(factors[0], values)
    )


def test_a_stream_refuses_weights_and_learns_nothing_of_them() -> None:
    model = OnlineGaussianMixture(2, init_size=100, random_state=0).fit(ROWS)
    means = model.means_
    with pytest.raises(DataError, match="divide all weights"):
        model.partial_fit(ROWS, sample_weight=np.full(300, 1e36))
    with pytest.raises(DataError, match="divide all weights"):
        model.partial_fit(streamgmm.open(ROWS, sample_weight=np.full(300, 1e36)))
    np.testing.assert_array_equal(model.means_, means)
