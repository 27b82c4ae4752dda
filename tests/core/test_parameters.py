"""Parameters are validated once, with messages that name what is wrong.

Precisions, their factors and parameter counts follow scikit-learn's conventions.
"""

import numpy as np
import pytest
from numpy.typing import ArrayLike
from sklearn.mixture import GaussianMixture

from streamgmm.core.parameters import Parameters, covariances_from_precisions
from streamgmm.core.structures import Array
from streamgmm.errors import ParameterError, StreamGMMError
from streamgmm.options import CovarianceType
from tests.core.cases import TYPES, random_parameters

SHAPES: dict[str, tuple[int, ...]] = {
    "full": (3, 2, 2),
    "tied": (2, 2),
    "diag": (3, 2),
    "spherical": (3,),
}


def some(covariance_type: CovarianceType) -> Parameters:
    return random_parameters(np.random.default_rng(0), covariance_type, 3, 2)


def changed(covariance_type: CovarianceType, **values: ArrayLike) -> Parameters:
    """Valid parameters, made anew with some values replaced."""
    good = some(covariance_type)
    arguments = {"weights": good.weights, "means": good.means, "covariances": good.covariances}
    return Parameters.create(covariance_type, **{**arguments, **values})  # type: ignore[arg-type]


@pytest.mark.parametrize("covariance_type", TYPES)
def test_shapes(covariance_type: CovarianceType) -> None:
    parameters = some(covariance_type)
    shape = SHAPES[covariance_type]
    assert (parameters.n_components, parameters.n_features) == (3, 2)
    assert parameters.weights.shape == (3,)
    assert parameters.means.shape == (3, 2)
    for name in ("covariances", "factors", "inverse_factors", "precisions", "precisions_cholesky"):
        assert getattr(parameters, name).shape == shape, name
    stacked = parameters.stacked(parameters.covariances)
    expected = {"full": (3, 2, 2), "tied": (1, 2, 2), "diag": (3, 2), "spherical": (3, 2)}
    assert stacked.shape == expected[covariance_type]


@pytest.mark.parametrize("covariance_type", TYPES)
def test_factors_are_those_of_the_covariances(covariance_type: CovarianceType) -> None:
    parameters = some(covariance_type)
    factors, covariances = parameters.factors, parameters.covariances
    if covariance_type in ("full", "tied"):
        assert np.array_equal(factors, np.tril(factors))
        product = factors @ np.swapaxes(factors, -1, -2)
        identity = parameters.inverse_factors @ factors
        np.testing.assert_allclose(identity, np.broadcast_to(np.eye(2), identity.shape), atol=1e-14)
    else:
        product = factors**2
        np.testing.assert_allclose(parameters.inverse_factors * factors, 1.0, rtol=1e-15)
    np.testing.assert_allclose(product, covariances, rtol=1e-14)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_lists_and_integers_are_accepted(covariance_type: CovarianceType) -> None:
    unit = {
        "full": [[[1, 0], [0, 1]]] * 2,
        "tied": [[1, 0], [0, 1]],
        "diag": [[1, 1], [1, 1]],
        "spherical": [1, 1],
    }
    parameters = Parameters.create(
        covariance_type, [0.5, 0.5], [[0, 1], [2, 3]], unit[covariance_type]
    )
    assert parameters.means.dtype == parameters.covariances.dtype == np.float64


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("name", ["weights", "means", "covariances"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_must_be_finite(covariance_type: CovarianceType, name: str, value: float) -> None:
    array = np.array(getattr(some(covariance_type), name))
    array.flat[0] = value
    with pytest.raises(ParameterError, match=f"{name} hold NaN or infinity"):
        changed(covariance_type, **{name: array})


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([0.5, 0.6, 0.0], r"sum to 1.*their sum 1\.1"),
        ([0.7, 0.7, -0.4], r"non-negative.*smallest is -0\.4"),
        ([[0.5, 0.25, 0.25]], r"weights have shape \(1, 3\); expected \(n_components,\)"),
        ([], r"weights have shape \(0,\)"),
        ([0.5, 0.5], r"means have shape \(3, 2\).*n_components = 2"),
    ],
)
def test_weights_must_be_a_distribution_over_the_components(
    weights: list[float], message: str
) -> None:
    with pytest.raises(ParameterError, match=message):
        changed("full", weights=weights)


def test_weights_may_be_zero_or_off_by_rounding() -> None:
    assert changed("full", weights=[0.0, 0.5, 0.5]).weights[0] == 0.0
    changed("full", weights=[0.3 + 1e-12, 0.3, 0.4])


def test_means_must_be_two_dimensional() -> None:
    with pytest.raises(ParameterError, match=r"means have shape \(3,\); expected \(n_components"):
        changed("full", means=[0.0, 1.0, 2.0])


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("given", TYPES)
def test_covariances_must_have_the_shape_of_their_type(
    covariance_type: CovarianceType, given: CovarianceType
) -> None:
    if given == covariance_type:
        assert changed(covariance_type, covariances=some(given).covariances)
        return
    with pytest.raises(ParameterError) as caught:
        changed(covariance_type, covariances=some(given).covariances)
    message = str(caught.value)
    assert f"covariances have shape {SHAPES[given]}" in message
    assert f"expected {SHAPES[covariance_type]}" in message


@pytest.mark.parametrize("covariance_type", TYPES)
def test_covariances_must_be_positive_definite(covariance_type: CovarianceType) -> None:
    good = some(covariance_type).covariances
    for bad in (-good, 0.0 * good):
        with pytest.raises(ParameterError, match=r"not positive definite; increase reg_covar"):
            changed(covariance_type, covariances=bad)
        with pytest.raises(ParameterError, match="precision is not positive definite"):
            covariances_from_precisions(covariance_type, bad, (3, 2))


@pytest.mark.parametrize("covariance_type", ["full", "tied"])
def test_an_indefinite_covariance_with_a_positive_diagonal_is_refused(
    covariance_type: CovarianceType,
) -> None:
    matrix = np.array([[1.0, 2.0], [2.0, 1.0]])
    bad = np.tile(matrix, (3, 1, 1)) if covariance_type == "full" else matrix
    with pytest.raises(ParameterError, match="not positive definite"):
        changed(covariance_type, covariances=bad)


@pytest.mark.parametrize("covariance_type", ["full", "tied"])
def test_covariances_must_be_symmetric(covariance_type: CovarianceType) -> None:
    bad = some(covariance_type).covariances.copy()
    bad[..., 0, 1] += 1e-3
    with pytest.raises(ParameterError, match="covariances are not symmetric"):
        changed(covariance_type, covariances=bad)
    with pytest.raises(ParameterError, match="precisions are not symmetric"):
        covariances_from_precisions(covariance_type, bad, (3, 2))


@pytest.mark.parametrize("covariance_type", ["full", "tied"])
def test_asymmetry_that_is_only_rounding_is_accepted(covariance_type: CovarianceType) -> None:
    # A covariance of 0 between two features is hardly ever exactly 0, nor the same twice.
    matrix = np.array([[1.0, 1e-17], [-3e-17, 2.0]])
    rounded = np.tile(matrix, (3, 1, 1)) if covariance_type == "full" else matrix
    assert changed(covariance_type, covariances=rounded).n_features == 2
    covariances, _ = covariances_from_precisions(covariance_type, rounded, (3, 2))
    np.testing.assert_allclose(covariances[..., 1, 1], 0.5, rtol=1e-15)


def test_an_unknown_type_is_refused_with_the_choices() -> None:
    with pytest.raises(ParameterError, match="'banded'; choose one of full, tied, diag, spherical"):
        Parameters.create("banded", [1.0], [[0.0]], [1.0])  # type: ignore[arg-type]


def test_errors_are_value_errors_of_the_package() -> None:
    with pytest.raises(ParameterError) as caught:
        changed("full", weights=[1.0])
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, StreamGMMError)


def test_parameters_are_frozen() -> None:
    with pytest.raises(AttributeError):
        some("full").weights = np.ones(3)  # type: ignore[misc]


@pytest.mark.parametrize("covariance_type", TYPES)
def test_precisions_round_trip(covariance_type: CovarianceType) -> None:
    parameters = some(covariance_type)
    again = Parameters.from_precisions(
        covariance_type, parameters.weights, parameters.means, parameters.precisions
    )
    np.testing.assert_allclose(again.covariances, parameters.covariances, rtol=1e-13)
    np.testing.assert_allclose(again.factors, parameters.factors, rtol=1e-13)
    np.testing.assert_allclose(again.precisions, parameters.precisions, rtol=1e-13)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_precisions_are_inverse_covariances(covariance_type: CovarianceType) -> None:
    parameters = some(covariance_type)
    if covariance_type in ("full", "tied"):
        expected = np.linalg.inv(parameters.covariances)
    else:
        expected = 1.0 / parameters.covariances
    np.testing.assert_allclose(parameters.precisions, expected, rtol=1e-12)


def as_in_sklearn(parameters: Parameters) -> GaussianMixture:
    """A scikit-learn model that holds these parameters, by its own initialisation."""
    model = GaussianMixture(
        parameters.n_components,
        covariance_type=parameters.covariance_type,
        weights_init=parameters.weights,
        means_init=parameters.means,
        precisions_init=parameters.precisions,
    )
    rows: Array = np.zeros((1, parameters.n_features))
    model._initialize(rows, np.full((1, parameters.n_components), 1.0))
    return model


@pytest.mark.parametrize("covariance_type", TYPES)
def test_factors_of_precisions_follow_sklearn(covariance_type: CovarianceType) -> None:
    parameters = some(covariance_type)
    upper = parameters.precisions_cholesky
    if covariance_type in ("full", "tied"):
        assert np.array_equal(upper, np.triu(upper))
    # scikit-learn's own function of covariances is what its M-step uses.
    from sklearn.mixture._gaussian_mixture import _compute_precision_cholesky

    expected = _compute_precision_cholesky(parameters.covariances, covariance_type)
    np.testing.assert_allclose(upper, expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize(("k", "d"), [(1, 1), (3, 2), (4, 5)])
def test_number_of_parameters_is_sklearns(covariance_type: CovarianceType, k: int, d: int) -> None:
    parameters = random_parameters(np.random.default_rng(1), covariance_type, k, d)
    assert parameters.n_parameters() == as_in_sklearn(parameters)._n_parameters()


@pytest.mark.parametrize(
    ("covariance_type", "expected"), [("full", 9), ("tied", 3), ("diag", 6), ("spherical", 3)]
)
def test_fixed_parameters_are_not_counted(covariance_type: CovarianceType, expected: int) -> None:
    parameters = some(covariance_type)
    assert parameters.n_parameters() == 2 + 6 + expected
    assert parameters.n_parameters(["weights"]) == 6 + expected
    assert parameters.n_parameters(["means"]) == 2 + expected
    assert parameters.n_parameters(["covariances"]) == 2 + 6
    assert parameters.n_parameters(["weights", "means", "covariances"]) == 0


def test_narrow_standard_deviations_keep_their_digits_in_the_factors() -> None:
    # Σ rounds 1 + 1e-16 to 1: it would be singular if its factor were taken from it.
    factor = np.array([[[1.0, 0.0], [1.0, 1e-8]]])
    parameters = Parameters.create(
        "full", [1.0], [[0.0, 0.0]], factor @ np.swapaxes(factor, 1, 2), factor
    )
    assert parameters.inverse_factors[0, 1, 1] == pytest.approx(1e8, rel=1e-15)
