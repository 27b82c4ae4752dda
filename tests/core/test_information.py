"""Gradients and information, against differences of textbook log-likelihoods."""

from collections.abc import Collection
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamgmm.core.e_step import EStep
from streamgmm.core.frame import Frame
from streamgmm.core.incomplete import IncompleteExpectation
from streamgmm.core.information import Information, Tangent, kept_responsibilities
from streamgmm.core.maximization import maximize
from streamgmm.core.parameters import Parameters
from streamgmm.core.statistics import Statistics
from streamgmm.core.structures import Array, upper_triangle
from streamgmm.options import CovarianceType, ParameterName
from tests import naive
from tests.core.cases import TYPES, draw, prepare, random_parameters

FIXED: tuple[tuple[ParameterName, ...], ...] = (
    (),
    ("weights",),
    ("means",),
    ("covariances",),
    ("weights", "covariances"),
)


# Squared length from which residuals of two features are drawn in: D + 8 √(2 D).
LONGEST = 18.0


def moved_along(tangent: Tangent, step: Array) -> naive.Mixture:
    """The mixture a step away, to first order: its weights need not sum to 1.

    Weights move by √π c₀, means by L c₁ / √π, covariances to L (I + E) Lᵀ with E_ij = √2 c₂ / √π
    on the diagonal and c₂ / √π beside it. What is tied or spherical moves with the spread that it
    has of all rows, or all features.
    """
    model = naive.of(tangent.parameters)
    k, d = model.means.shape
    kind = tangent.parameters.covariance_type
    own, shared = (naive.extended(part) for part in tangent.split(step))
    roots = np.sqrt(model.weights)[:, np.newaxis]
    weights = model.weights + roots[:, 0] * own[:, 0]
    relative = np.divide(own[:, 1:], roots, out=np.zeros_like(own[:, 1:]), where=roots > 0.0)
    means = model.means + np.einsum("kij,kj->ki", model.factors, relative[:, :d])
    factors = np.empty_like(model.factors)
    for i in range(k):
        if kind in ("full", "tied"):
            upper = relative[i, d:] if kind == "full" else shared
            rows, columns = upper_triangle(d)
            upper = upper * np.where(rows == columns, np.sqrt(naive.extended(2)), 1)
            change = np.empty((d, d), dtype=np.longdouble)
            change[rows, columns] = change[columns, rows] = upper
        elif kind == "diag":
            change = np.diag(np.sqrt(naive.extended(2)) * relative[i, d:])
        else:
            change = np.sqrt(naive.extended(2) / d) * relative[i, d] * np.eye(d)
        factors[i] = model.factors[i] @ naive.cholesky(np.eye(d) + change)
    return naive.Mixture(kind, weights, means, factors)


def scores_along(tangent: Tangent, rows: Array, step: Array) -> Any:
    """Derivative (n,) of ln p(x) / Σπ along a step, by Richardson's differences."""

    def difference(h: float) -> Any:
        sides = [moved_along(tangent, side * h * step) for side in (1.0, -1.0)]
        one, other = (naive.scores(rows, m) - np.log(m.weights.sum()) for m in sides)
        return (one - other) / (2 * naive.extended(h))

    return (4 * difference(5e-4) - difference(1e-3)) / 3


def some_mixture(
    covariance_type: CovarianceType, rng: np.random.Generator, place: float = 0.0
) -> Parameters:
    """Overlapping components, the first of them two without weight; two lie at a place."""
    parameters = random_parameters(rng, covariance_type, 5, 2, spread=1.0)
    weights, means = parameters.weights.copy(), parameters.means.copy()
    weights[1] = 0.0
    means[3:] += place
    return Parameters.create(
        covariance_type, weights / weights.sum(), means, parameters.covariances
    )


def with_rows(
    covariance_type: CovarianceType, seed: int, place: float = 0.0, n: int = 120
) -> tuple[Tangent, Array, Array, Statistics]:
    """A tangent, rows that fit badly, their weights, and their statistics."""
    rng = np.random.default_rng(seed)
    parameters = some_mixture(covariance_type, rng, place)
    other = Parameters.create(
        covariance_type, parameters.weights, parameters.means + 0.3, parameters.covariances
    )
    rows, weights = draw(rng, other, n), rng.uniform(0.5, 2.0, n)
    expectation = prepare(parameters)
    tangent = Tangent(parameters, expectation.frame)
    return tangent, rows, weights, expectation.statistics(rows, weights)


def some_step(tangent: Tangent, seed: int) -> Array:
    """A random unit step among those that may be made, which keeps the sum of the weights."""
    step = np.random.default_rng(seed).normal(size=tangent.free.size) * tangent.free
    own = tangent.split(step)[0]
    if tangent.free[0]:
        roots = np.sqrt(tangent.parameters.weights)
        own[:, 0] -= roots * (roots @ own[:, 0])
    return step / np.linalg.norm(step)


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("fixed", FIXED)
def test_the_gradient_is_that_of_the_mean_log_likelihood(
    covariance_type: CovarianceType, fixed: tuple[ParameterName, ...]
) -> None:
    tangent, rows, weights, statistics = with_rows(covariance_type, 0)
    tangent = replace(tangent, fixed=fixed)
    gradient = tangent.gradient(statistics)
    np.testing.assert_array_equal(gradient * (1.0 - tangent.free), 0.0)
    steps = [some_step(tangent, seed) for seed in range(6)]
    expected = [weights @ scores_along(tangent, rows, step) / weights.sum() for step in steps]
    assert np.abs(expected).max() > 1e-2
    np.testing.assert_allclose(
        [gradient @ step for step in steps], np.array(expected, dtype=float), rtol=0.0, atol=1e-10
    )


@pytest.mark.parametrize("covariance_type", TYPES)
def test_the_gradient_of_components_far_away(covariance_type: CovarianceType) -> None:
    tangent, rows, weights, statistics = with_rows(covariance_type, 1, place=1e7)
    np.testing.assert_array_equal(tangent.frame.centred, [3, 4])
    gradient = tangent.gradient(statistics)
    for seed in range(6):
        step = some_step(tangent, seed)
        expected = weights @ scores_along(tangent, rows, step) / weights.sum()
        assert abs(gradient @ step - float(expected)) < 1e-7


@pytest.mark.parametrize("covariance_type", TYPES)
def test_the_gradient_of_rows_with_gaps(covariance_type: CovarianceType) -> None:
    tangent, rows, weights, _ = with_rows(covariance_type, 1, n=40)
    rows[::3, 0] = rows[1::4, 1] = np.nan
    rows = rows[~np.isnan(rows).all(axis=1)]
    weights = weights[: len(rows)]
    expectation = IncompleteExpectation.prepare(tangent.parameters, tangent.frame)
    gradient = tangent.gradient(expectation.statistics(rows, weights))

    def mean(model: naive.Mixture) -> Any:
        joint = naive.incomplete_log_joint(rows, model)
        return weights @ np.log(np.exp(joint).sum(axis=1)) / weights.sum()

    for seed in range(3):
        step, h = some_step(tangent, seed), 1e-4
        one, other = (mean(moved_along(tangent, side * h * step)) for side in (1.0, -1.0))
        assert gradient @ step == pytest.approx(float((one - other) / (2 * h)), abs=1e-6)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_fixed_parameters_have_no_coordinates(covariance_type: CovarianceType) -> None:
    tangent, *_ = with_rows(covariance_type, 0)
    k, d = 4, 2
    n_covariances = {"full": 3 * k, "tied": 3, "diag": 2 * k, "spherical": k}[covariance_type]
    sizes = {"weights": k, "means": k * d, "covariances": n_covariances}
    for fixed in FIXED:
        found = replace(tangent, fixed=fixed).free
        assert found.sum() == sum(size for name, size in sizes.items() if name not in fixed)


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("reg_covar", [0.0, 0.3])
@pytest.mark.parametrize("place", [0.0, 1e7])
@pytest.mark.parametrize("fixed", [(), ("means",), ("covariances",), ("means", "covariances")])
def test_the_gradient_is_the_step_of_em(
    covariance_type: CovarianceType,
    reg_covar: float,
    place: float,
    fixed: tuple[ParameterName, ...],
) -> None:
    tangent, _, _, statistics = with_rows(covariance_type, 2, place)
    tangent = replace(tangent, fixed=fixed)
    step = tangent.gradient(statistics, reg_covar)
    found = maximize(tangent.moved(step, statistics), tangent.parameters, fixed=fixed)
    expected = maximize(statistics, tangent.parameters, reg_covar=reg_covar, fixed=fixed)
    assert naive.distance(found.parameters, naive.of(expected.parameters)) < 1e-9
    assert naive.distance(found.parameters, naive.of(tangent.parameters)) > 1e-3


@pytest.mark.parametrize("covariance_type", ["full", "tied", "diag"])
@pytest.mark.parametrize("ridge", [(0.3, 1e-4), (0.0, 0.5)])
def test_the_gradient_is_the_step_of_em_with_a_ridge_for_each_column(
    covariance_type: CovarianceType, ridge: tuple[float, ...]
) -> None:
    tangent, _, _, statistics = with_rows(covariance_type, 2)
    reg_covar = np.array(ridge)
    step = tangent.gradient(statistics, reg_covar)
    found = maximize(tangent.moved(step, statistics), tangent.parameters)
    expected = maximize(statistics, tangent.parameters, reg_covar=reg_covar)
    other = maximize(statistics, tangent.parameters, reg_covar=reg_covar[::-1])
    assert naive.distance(found.parameters, naive.of(expected.parameters)) < 1e-9
    assert naive.distance(found.parameters, naive.of(other.parameters)) > 1e-3


@pytest.mark.parametrize("covariance_type", TYPES)
def test_a_ridge_of_equal_entries_is_one_number(covariance_type: CovarianceType) -> None:
    tangent, _, _, statistics = with_rows(covariance_type, 2)
    for value in (0.0, 1e-6, 0.3):
        ridge = np.full(2, value)
        np.testing.assert_array_equal(
            tangent.gradient(statistics, ridge), tangent.gradient(statistics, value)
        )
        found = maximize(statistics, tangent.parameters, reg_covar=ridge).parameters
        expected = maximize(statistics, tangent.parameters, reg_covar=value).parameters
        np.testing.assert_array_equal(found.factors, expected.factors)
        np.testing.assert_array_equal(found.covariances, expected.covariances)


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("place", [0.0, 1e7])
@pytest.mark.parametrize("fixed", [(), ("weights",), ("means",), ("covariances",)])
def test_no_step_leaves_the_parameters(
    covariance_type: CovarianceType, place: float, fixed: tuple[ParameterName, ...]
) -> None:
    tangent, _, _, statistics = with_rows(covariance_type, 3, place)
    tangent = replace(tangent, fixed=fixed)
    image = tangent.moved(np.zeros(tangent.free.size), statistics)
    found = maximize(image, tangent.parameters, fixed=fixed)
    assert not found.empty
    assert naive.distance(found.parameters, naive.of(tangent.parameters)) < 1e-12
    assert image.weight == statistics.weight
    assert image.n_rows == statistics.n_rows


@given(st.sampled_from(TYPES), st.sampled_from(FIXED), st.integers(0, 2**32 - 1))
@settings(max_examples=40)
def test_steps_are_read_back(covariance_type: Any, fixed: Any, seed: int) -> None:
    tangent, _, _, statistics = with_rows(covariance_type, 4)
    tangent = replace(tangent, fixed=fixed)
    # Any step, along the total of the weights too.
    step = np.random.default_rng(seed).normal(size=tangent.free.size)
    found = tangent.gradient(tangent.moved(step, statistics))
    np.testing.assert_allclose(found, step * tangent.free, rtol=0.0, atol=1e-11)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_small_steps_lead_where_they_point(covariance_type: CovarianceType) -> None:
    tangent, _, _, statistics = with_rows(covariance_type, 5)
    for seed in range(4):
        step = some_step(tangent, seed)
        errors = []
        for h in (1e-2, 1e-3):
            found = maximize(tangent.moved(h * step, statistics), tangent.parameters).parameters
            errors.append(naive.distance(found, moved_along(tangent, h * step)))
        # What differs is of second order.
        assert errors[0] < 1e-2
        assert errors[1] < 2e-2 * errors[0]


@pytest.mark.parametrize("covariance_type", TYPES)
def test_sizes_are_standard_deviations(covariance_type: CovarianceType) -> None:
    tangent, *_ = with_rows(covariance_type, 6)
    for component in (0, 2, 4):
        step = np.zeros(tangent.free.size)
        root = np.sqrt(tangent.parameters.weights[component])
        tangent.split(step)[0][component, 1:3] = root * np.array([0.06, 0.08])
        moved = moved_along(tangent, step)
        shift = (moved.means - naive.of(tangent.parameters).means)[component]
        own = moved.factors[component]
        assert float(np.linalg.norm(naive.solve_lower(own, shift[:, np.newaxis]))) == pytest.approx(
            0.1
        )
        assert tangent.size(step) == pytest.approx(0.1)
        assert tangent.size(-2.0 * step) == pytest.approx(0.2)
    assert tangent.size(np.zeros(tangent.free.size)) == 0.0


# Information --------------------------------------------------------------------------------------


def information(
    tangent: Tangent, rows: Array, weights: Array, *, damped: bool = False
) -> Information:
    expectation = EStep.prepare(tangent.parameters, tangent.frame)
    shares = expectation.posterior(rows, with_responsibilities=True).responsibilities
    found = Information.estimate(tangent, rows, weights, shares)
    return found if damped else replace(found, certainty=np.ones_like(found.certainty))


def dense(found: Information) -> Array:
    """Its matrix, from products with unit vectors."""
    return np.stack([found.product(unit) for unit in np.eye(found.tangent.free.size)], axis=1)


def labelled_scores_along(tangent: Tangent, rows: Array, step: Array) -> Any:
    """Derivatives (n, K) of ln π_k p_k(x) along a step, but for what all components share."""

    def difference(h: float) -> Any:
        sides = [moved_along(tangent, side * h * step) for side in (1.0, -1.0)]
        one, other = (
            naive.scores(rows, m)[:, np.newaxis] + np.log(naive.responsibilities(rows, m))
            for m in sides
        )
        return (one - other) / (2 * naive.extended(h))

    return (4 * difference(5e-4) - difference(1e-3)) / 3


def without_labels(tangent: Tangent, rows: Array, weights: Array) -> Array:
    """The information of labelled rows, less the mean covariance of scores given a row."""
    is_free = tangent.free > 0.0
    alive = tangent.parameters.weights > 0.0
    shares = naive.responsibilities(rows, naive.of(tangent.parameters))[:, alive].astype(float)
    scores = np.zeros((tangent.free.size, len(rows), alive.sum()))
    with np.errstate(divide="ignore", invalid="ignore"):
        scores[is_free] = [
            labelled_scores_along(tangent, rows, unit)[:, alive].astype(float)
            for unit in np.eye(tangent.free.size)[is_free]
        ]
    scores[:, shares == 0.0] = 0.0
    scores -= (scores * shares).sum(axis=2, keepdims=True)
    parts = shares * (weights / weights.sum())[:, np.newaxis]
    lost = np.einsum("ank,nk,bnk->ab", scores, parts, scores)
    # Weights have one degree of freedom less.
    all_weights = np.zeros(tangent.free.size)
    tangent.split(all_weights)[0][:, 0] = np.sqrt(tangent.parameters.weights)
    all_weights *= tangent.free
    return np.diag(tangent.free) - np.outer(all_weights, all_weights) - lost


def crowded(covariance_type: CovarianceType, seed: int = 0) -> Parameters:
    """Components so close that each has a share in every row that is likely."""
    rng = np.random.default_rng(seed)
    parameters = random_parameters(rng, covariance_type, 3, 2, spread=0.3)
    covariances = (
        parameters.covariances
        + {
            "full": np.eye(2),
            "tied": np.eye(2),
            "diag": 1.0,
            "spherical": 1.0,
        }[covariance_type]
    )
    return Parameters.create(covariance_type, [0.3, 0.3, 0.4], parameters.means, covariances)


def squared_lengths(rows: Array, parameters: Parameters) -> Array:
    """Of the whitened residuals of rows from each component, (n, K)."""
    model = naive.of(parameters)
    residuals = (rows[:, np.newaxis] - parameters.means).astype(np.float64)
    inverse = np.linalg.inv(model.matrices.astype(np.float64))
    return np.einsum("nki,kij,nkj->nk", residuals, inverse, residuals)


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("fixed", FIXED)
def test_products_are_those_of_labelled_rows_less_what_labels_tell(
    covariance_type: CovarianceType, fixed: Collection[ParameterName]
) -> None:
    parameters = crowded(covariance_type)
    tangent = Tangent(parameters, Frame.of(parameters), fixed)
    rng = np.random.default_rng(1)
    rows, weights = draw(rng, parameters, 200), rng.uniform(0.5, 2.0, 200)
    # Of smaller shares nothing is said, and rows further away are drawn in.
    plain = naive.responsibilities(rows, naive.of(parameters)).min(axis=1) > 0.01
    plain &= squared_lengths(rows, parameters).max(axis=1) < LONGEST
    assert plain.mean() > 0.9
    rows, weights = rows[plain], weights[plain]
    found = dense(information(tangent, rows, weights))
    expected = without_labels(tangent, rows, weights)
    assert np.abs(expected).max() > 0.2
    np.testing.assert_allclose(found, expected, rtol=0.0, atol=1e-5)


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("distance", [10.0, 1e3, 1e9])
def test_a_row_far_away_hardly_changes_what_the_others_say(
    covariance_type: CovarianceType, distance: float
) -> None:
    parameters = crowded(covariance_type)
    tangent = Tangent(parameters, Frame.of(parameters))
    n = 20_000
    rows = draw(np.random.default_rng(1), parameters, n)
    others = dense(information(tangent, rows, np.ones(n)))
    with_far = np.concatenate([rows, [[distance, -distance]]])
    found = dense(information(tangent, with_far, np.ones(n + 1)))
    # The squared gradient of a row at the rim, which is 1, y and (yyᵀ - I) / √2 over √π.
    most = (1.0 + LONGEST + 0.5 * ((LONGEST - 1.0) ** 2 + 1.0)) / parameters.weights.min()
    changed = np.linalg.norm(found - n / (n + 1) * others, 2)
    assert changed < 2.0 * most / n
    assert changed < 0.05 * np.linalg.norm(others, 2)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_rows_far_away_count_as_rows_at_the_rim(covariance_type: CovarianceType) -> None:
    rng = np.random.default_rng(2)
    one = random_parameters(rng, covariance_type, 1, 2)
    # Two equal components: no row tells which of them it belongs to.
    stacked = np.repeat(one.stacked(one.covariances), 2, axis=0)
    covariances = one.covariances if covariance_type == "tied" else stacked
    if covariance_type == "spherical":
        covariances = np.repeat(one.covariances, 2)
    parameters = Parameters.create(
        covariance_type, [0.4, 0.6], np.repeat(one.means, 2, axis=0), covariances
    )
    tangent = Tangent(parameters, Frame.of(parameters))
    rows = draw(rng, parameters, 50)
    factor = naive.of(parameters).factors[0].astype(np.float64)

    def with_row_at(squared_length: float) -> Array:
        row = parameters.means[0] + factor @ (np.sqrt(squared_length) * np.array([0.6, -0.8]))
        return dense(information(tangent, np.concatenate([rows, [row]]), np.ones(51)))

    at_the_rim = with_row_at(LONGEST)
    for further in (1.01, 100.0, 1e6):
        np.testing.assert_allclose(with_row_at(further * LONGEST), at_the_rim, atol=1e-5)
    # Rows within count as they are.
    within = with_row_at(0.9 * LONGEST)
    assert np.linalg.norm(at_the_rim - within, 2) > 0.02 * np.linalg.norm(within, 2)


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("place", [0.0, 1e7])
def test_small_shares_add_next_to_nothing(covariance_type: CovarianceType, place: float) -> None:
    tangent, rows, weights, _ = with_rows(covariance_type, 7, place, n=300)
    found = dense(information(tangent, rows, weights))
    expected = without_labels(tangent, rows, weights)
    assert np.linalg.norm(found - expected, 2) < 0.05 * np.linalg.norm(expected, 2)


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("fixed", [(), ("weights",), ("means",)])
def test_information_is_symmetric_and_at_most_that_of_labelled_rows(
    covariance_type: CovarianceType, fixed: Collection[ParameterName]
) -> None:
    tangent, rows, weights, _ = with_rows(covariance_type, 8)
    matrix = dense(information(replace(tangent, fixed=fixed), rows, weights))
    largest = np.linalg.norm(matrix, 2)
    np.testing.assert_allclose(matrix, matrix.T, rtol=0.0, atol=1e-6 * largest)
    assert np.linalg.eigvalsh(0.5 * (matrix + matrix.T)).max() < 1.0 + 1e-6


@pytest.mark.parametrize("covariance_type", TYPES)
def test_rows_of_one_component_each_have_all_information(covariance_type: CovarianceType) -> None:
    """Whatever their distribution: here that of no mixture."""
    covariances = {"full": np.tile(np.eye(2), (2, 1, 1)), "tied": np.eye(2)}.get(
        covariance_type, np.ones((2, 2) if covariance_type == "diag" else 2)
    )
    means = np.array([[0.0, 0.0], [50.0, 0.0]])
    parameters = Parameters.create(covariance_type, [0.5, 0.5], means, covariances)
    tangent = Tangent(parameters, Frame.of(parameters))
    rows = np.repeat(means, 500, axis=0)
    rows += np.random.default_rng(0).standard_t(3.0, rows.shape) * [2.0, 0.1]
    found = information(tangent, rows, np.ones(len(rows)), damped=True)
    for seed in range(3):
        step = some_step(tangent, seed)
        np.testing.assert_allclose(found.product(step), step, rtol=0.0, atol=1e-6)


def test_only_shares_in_rows_of_several_components_are_kept() -> None:
    responsibilities = np.array(
        [
            [1.0, 0.0, 0.0],
            [0.5, 0.0, 0.5],
            [0.999, 0.001, 0.0],
            [0.0, 0.0, 0.0],
            [0.75, 0.248, 0.002],
        ]
    )
    expected = np.zeros_like(responsibilities)
    expected[1] = responsibilities[1]
    expected[4, :2] = responsibilities[4, :2] / 0.998
    found = kept_responsibilities(responsibilities)
    assert found.nnz == 4
    np.testing.assert_allclose(found.toarray(), expected)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_the_total_of_the_weights_is_not_informed_of(covariance_type: CovarianceType) -> None:
    tangent, rows, weights, _ = with_rows(covariance_type, 9)
    step = np.zeros(tangent.free.size)
    tangent.split(step)[0][:, 0] = np.sqrt(tangent.parameters.weights)
    found = information(tangent, rows, weights).product(step)
    # A row's shares of less than 0.003 are skipped.
    assert np.linalg.norm(found) < 0.01


@pytest.mark.parametrize("covariance_type", TYPES)
def test_information_is_what_em_leaves_of_a_step(covariance_type: CovarianceType) -> None:
    rng = np.random.default_rng(10)
    parameters = random_parameters(rng, covariance_type, 3, 2, spread=1.5)
    rows = draw(rng, parameters, 100_000)
    frame = Frame.of(parameters)
    tangent = Tangent(parameters, frame)
    found = information(tangent, rows, np.ones(len(rows)))
    statistics = EStep.prepare(parameters, frame).statistics(rows)

    def image(step: Array) -> Array:
        """Where EM leads from a step away."""
        start = maximize(tangent.moved(step, statistics), parameters).parameters
        return tangent.gradient(EStep.prepare(start, frame).statistics(rows))

    h = 1e-4
    for seed in range(6):
        step = some_step(tangent, seed)
        lost = (image(h * step) - image(-h * step)) / (2.0 * h)
        np.testing.assert_allclose(found.product(step), step - lost, rtol=0.0, atol=0.03)
        assert np.linalg.norm(lost) > 0.1


@pytest.mark.parametrize("covariance_type", TYPES)
def test_damping_holds_back_components_of_few_rows(covariance_type: CovarianceType) -> None:
    tangent, rows, weights, _ = with_rows(covariance_type, 11)
    plain = information(tangent, rows, weights)
    damped = information(tangent, rows, weights, damped=True)
    step = some_step(tangent, 0)
    certainty = damped.certainty
    still = plain.product(certainty * step)
    lost = certainty * (certainty * step - still)
    np.testing.assert_allclose(damped.product(step), step - lost, rtol=0.0, atol=0.02)
    # Of a component without rows labelled rows are assumed.
    own, shared = tangent.split(certainty)
    assert np.all(own[1] == 0.0)
    assert np.all(own[[0, 2, 3, 4]] > 0.0)
    many = np.tile(rows, (100, 1))
    less = information(tangent, many, np.ones(len(many)), damped=True).certainty
    alive = tangent.parameters.weights > 0.0
    np.testing.assert_allclose(
        1.0 - np.square(tangent.split(less)[0][alive]), 1e-4 * (1.0 - np.square(own[alive]))
    )
    np.testing.assert_allclose(
        1.0 - np.square(tangent.split(less)[1]), 1e-4 * (1.0 - np.square(shared))
    )
