"""The E-step of few rows, against the oracle and against that of the kernels for many rows."""

import numpy as np
import pytest

import tests.naive as naive
from streamgmm import GaussianMixture
from streamgmm.core.e_step import EStep
from streamgmm.core.expectation import prepare
from streamgmm.core.few_rows_e_step import FewRowsEStep, are_few_for, posterior_of
from streamgmm.core.frame import Frame
from streamgmm.core.kernels.compilation import Kernel
from streamgmm.core.kernels.mixture import e_step
from streamgmm.core.noise import NO_BOX, Noise
from streamgmm.core.parameters import Parameters
from streamgmm.core.structures import STRUCTURES
from streamgmm.errors import DataError
from streamgmm.options import CovarianceType
from tests.core.cases import ALL_TYPES, draw, random_parameters


def moved(parameters: Parameters, offset: float, unit: float) -> Parameters:
    """The same mixture in other units, far from the origin."""

    return Parameters(
        parameters.covariance_type,
        parameters.weights,
        parameters.means * unit + offset,
        parameters.covariances * unit**2,
        parameters.factors * unit,
    )


@pytest.mark.parametrize("covariance_type", ALL_TYPES)
@pytest.mark.parametrize("shape", [(1, 1), (3, 2), (2, 7)], ids=str)
@pytest.mark.parametrize(("offset", "unit"), [(0.0, 1.0), (1e6, 1e-2), (-1e-9, 1e-12), (1.0, 1e9)])
def test_posteriors_are_exact(
    covariance_type: CovarianceType, shape: tuple[int, int], offset: float, unit: float
) -> None:
    rng = np.random.default_rng(1)
    parameters = moved(random_parameters(rng, covariance_type, *shape), offset, unit)
    rows = draw(rng, random_parameters(rng, covariance_type, *shape), 100) * unit + offset
    found = FewRowsEStep(parameters, Frame.of(parameters)).posterior(rows, True)
    model = naive.of(parameters)
    # Standard deviations of the mixture are known to some roundings of the offset.
    np.testing.assert_allclose(
        found.scores, naive.scores(rows, model).astype(float), rtol=0.0, atol=1e-8
    )
    shares = naive.responsibilities(rows, model).astype(float)
    np.testing.assert_allclose(found.responsibilities, shares, rtol=0.0, atol=1e-8)
    np.testing.assert_array_equal(found.labels, shares.argmax(axis=1))
    assert found.labels.dtype == np.int64


def test_rows_without_a_density_are_seen() -> None:
    """The density of a row may be too small for a number; NaN is never taken for a number."""
    mixture = np.array([0.5, 0.5]), np.array([[0.0], [1.0]]), np.ones((2, 1, 1))
    columns = np.zeros((1, 1300))
    columns[0, [600, 1299]] = 1e200, np.nan
    found = posterior_of(mixture, columns, 1.0)
    assert found.scores[600] == -np.inf and np.isnan(found.scores[1299])
    assert np.isnan(found.responsibilities[[600, 1299]]).all()
    others = np.delete(np.arange(1300), [600, 1299])
    density = 0.5 * (1.0 + np.exp(-0.5)) / np.sqrt(2.0 * np.pi)
    np.testing.assert_allclose(found.scores[others], np.log(density) - 1.0, rtol=1e-14)
    np.testing.assert_allclose(
        found.responsibilities[others, 0], 1.0 / (1.0 + np.exp(-0.5)), rtol=1e-14
    )
    assert posterior_of(mixture, columns, 1.0, False).responsibilities.shape == (0, 2)


@pytest.mark.parametrize("covariance_type", ALL_TYPES)
@pytest.mark.parametrize("offset", [0.0, 1e6], ids=["expanded", "centred"])
def test_statistics_are_those_of_the_kernels(
    covariance_type: CovarianceType, offset: float
) -> None:
    """Components far from each other are centred; 9,000 rows are summed in several parts."""
    rng = np.random.default_rng(2)
    parameters = random_parameters(rng, covariance_type, 3, 4)
    means = parameters.means + offset * np.array([[0.0], [0.0], [1.0]])
    parameters = Parameters(
        covariance_type,
        parameters.weights,
        means,
        parameters.covariances,
        parameters.factors,
    )
    frame = Frame.of(parameters)
    assert bool(frame.centred.size) == bool(offset)
    rows, weights = draw(rng, parameters, 9000), rng.uniform(0.0, 2.0, 9000)
    own = FewRowsEStep(parameters, frame).statistics(rows, weights)
    other = EStep.prepare(parameters, frame).statistics(rows, weights)
    scale = np.abs(other.moments).max(axis=1, keepdims=True)
    np.testing.assert_allclose(own.moments / scale, other.moments / scale, rtol=0.0, atol=1e-12)
    np.testing.assert_allclose(
        own.scatter, other.scatter, rtol=0.0, atol=1e-12 * np.abs(other.scatter).max(initial=1.0)
    )
    np.testing.assert_allclose(own.log_likelihood, other.log_likelihood, rtol=1e-12)
    np.testing.assert_allclose(own.weight, other.weight, rtol=1e-13)
    assert own.n_rows == other.n_rows == 9000


def test_a_negligible_share_of_a_huge_row_is_none() -> None:
    """Its square would make up the covariance."""
    parameters = Parameters.create("diag", [0.5, 0.5], [[0.0], [1e30]], [[1e58], [1e58]])
    rows, frame = np.array([[0.0], [1e29], [1e30]]), Frame.of(parameters)
    own, other = (
        one.statistics(rows)
        for one in (FewRowsEStep(parameters, frame), EStep.prepare(parameters, frame))
    )
    assert own.counts[0] == other.counts[0] == 2.0
    np.testing.assert_allclose(own.moments, other.moments, rtol=1e-12)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e200], ids=str)
def test_rows_that_are_skipped_are_left_to_the_kernels(value: float) -> None:
    rng = np.random.default_rng(3)
    parameters = random_parameters(rng, "full", 2, 3)
    rows = draw(rng, parameters, 50)
    rows[7, 1] = value
    frame = Frame.of(parameters)
    few, many = FewRowsEStep(parameters, frame), EStep.prepare(parameters, frame)
    own, other = few.statistics(rows), many.statistics(rows)
    assert own.n_rows == 49
    np.testing.assert_array_equal(own.moments, other.moments)
    np.testing.assert_array_equal(few.posterior(rows).labels, many.posterior(rows).labels)


def test_a_row_that_no_component_explains_is_scored_like_by_the_kernels() -> None:
    parameters = Parameters.create("diag", [0.5, 0.5], [[0.0], [1.0]], [[1e-200], [1e-200]])
    rows, frame = np.array([[0.0], [1e120]]), Frame.of(parameters)
    found = FewRowsEStep(parameters, frame).posterior(rows)
    np.testing.assert_array_equal(
        found.scores, EStep.prepare(parameters, frame).posterior(rows).scores
    )


def test_components_without_weight_have_no_share() -> None:
    rng = np.random.default_rng(4)
    parameters = random_parameters(rng, "full", 3, 2)
    rows = draw(rng, parameters, 60)
    parameters = Parameters(
        "full",
        np.array([0.4, 0.0, 0.6]),
        parameters.means,
        parameters.covariances,
        parameters.factors,
    )
    few = FewRowsEStep(parameters, Frame.of(parameters))
    assert not few.posterior(rows, True).responsibilities[:, 1].any()
    assert not few.statistics(rows).moments[1].any()


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8", "uint64", ">f8", "bool"])
def test_any_type_and_layout_of_rows(dtype: str) -> None:
    rng = np.random.default_rng(5)
    parameters = random_parameters(rng, "tied", 2, 3)
    rows = np.asfortranarray(rng.integers(0, 2, (40, 3)).astype(dtype))
    few = FewRowsEStep(parameters, Frame.of(parameters))
    plain = np.ascontiguousarray(rows.astype(np.float64))
    np.testing.assert_array_equal(few.posterior(rows).scores, few.posterior(plain).scores)
    np.testing.assert_array_equal(
        few.statistics(rows[::-2]).moments, few.statistics(plain[::-2]).moments
    )


@pytest.mark.parametrize("rows", [np.zeros(3), np.zeros((4, 2))], ids=["vector", "columns"])
def test_rows_of_another_shape_are_refused(rows: np.ndarray) -> None:
    parameters = random_parameters(np.random.default_rng(6), "full", 2, 3)
    with pytest.raises(DataError, match="shape"):
        FewRowsEStep(parameters, Frame.of(parameters)).statistics(rows)


@pytest.mark.parametrize("weights", [np.ones(1), np.ones(3), np.ones((4, 1))], ids=str)
def test_weights_of_another_shape_are_refused(weights: np.ndarray) -> None:
    parameters = random_parameters(np.random.default_rng(6), "full", 2, 3)
    with pytest.raises(DataError, match="weights have shape"):
        FewRowsEStep(parameters, Frame.of(parameters)).statistics(np.zeros((4, 3)), weights)


def test_only_plain_mixtures_of_few_rows_are_prepared_for_them() -> None:
    rng = np.random.default_rng(7)
    parameters = random_parameters(rng, "full", 2, 3)
    frame = Frame.of(parameters)
    assert isinstance(prepare(parameters, frame, "error", n_rows=100), FewRowsEStep)
    assert isinstance(prepare(parameters, frame, "error"), EStep)
    assert isinstance(prepare(parameters, frame, "error", n_rows=10**6), EStep)
    assert isinstance(prepare(parameters, frame, "error", "float32", n_rows=100), EStep)
    assert isinstance(prepare(parameters, frame, "error", is_hard=True, n_rows=100), EStep)
    offsets = np.zeros(2)
    assert isinstance(prepare(parameters, frame, "error", "auto", offsets, n_rows=100), EStep)
    noisy = Parameters(
        "full",
        parameters.weights,
        parameters.means,
        parameters.covariances,
        parameters.factors,
        Noise(0.1, -3.0, NO_BOX),
    )
    assert isinstance(prepare(noisy, frame, "error", n_rows=100), EStep)


def test_one_row_of_many_columns_is_not_few() -> None:
    """The inverses of the factors would take longer than the row."""
    assert are_few_for(STRUCTURES["full"], (1, 50), 4)
    assert not are_few_for(STRUCTURES["full"], (1, 500), 4)
    assert are_few_for(STRUCTURES["diag"], (1, 5000), 4)


def test_a_small_fit_and_its_predictions_need_no_kernel_for_many_rows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """That kernel takes most of the time of all compilation."""

    def refuse(self: Kernel, rows: np.ndarray, *arguments: object) -> object:
        assert self is not e_step
        return called(self, rows, *arguments)

    called = Kernel.__call__
    monkeypatch.setattr(Kernel, "__call__", refuse)
    rng = np.random.default_rng(8)
    X = np.vstack([rng.normal(size=(300, 2)), rng.normal(size=(300, 2)) + 6.0])
    for covariance_type in ALL_TYPES:
        model = GaussianMixture(2, covariance_type=covariance_type, random_state=0).fit(X)
        assert (model.predict(X) == model.predict(X)[0]).sum() in range(295, 306)
        model.score(X)
        model.predict_proba(X)
