"""The M-step against the oracle, its symmetries, and components that die or collapse.

Statistics come from the E-step, so that each test also goes through the frame's coordinates.
"""

from collections.abc import Iterator
from itertools import combinations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from streamgmm.core.frame import Frame
from streamgmm.core.maximization import maximize
from streamgmm.core.parameters import PARAMETER_NAMES, Parameters
from streamgmm.core.statistics import Statistics
from streamgmm.core.structures import Array
from streamgmm.options import CovarianceType, ParameterName
from tests import naive
from tests.core.cases import (
    TYPES,
    covariances_for,
    draw,
    em_step,
    prepare,
    random_parameters,
    rotation,
)

SUBSETS: list[tuple[ParameterName, ...]] = [
    subset for size in range(4) for subset in combinations(PARAMETER_NAMES, size)
]


def a_start(
    covariance_type: CovarianceType, k: int, d: int, spread: float, seed: int = 0
) -> tuple[Parameters, Array]:
    """A start that is not the truth, and rows from the truth."""
    rng = np.random.default_rng([seed, k, d])
    truth = random_parameters(rng, covariance_type, k, d, spread)
    start = Parameters.create(
        covariance_type,
        rng.dirichlet(np.full(k, 5.0)),
        truth.means + rng.normal(size=(k, d)),
        covariances_for(rng, covariance_type, k, d),
    )
    return start, draw(rng, truth, 500)


def rounding(parameters: Parameters) -> float:
    """What a mean loses by being written in float64, in units of unit deviations."""
    return float(np.spacing(np.abs(parameters.means).max()))


# Against the oracle ---------------------------------------------------------------------------


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("spread", [1.0, 1e5], ids=["packed", "centred"])
@pytest.mark.parametrize("reg_covar", [0.0, 1e-6, 0.5])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("k", "d"), [(3, 1), (4, 3)])
def test_one_step_is_the_oracles(
    covariance_type: CovarianceType,
    spread: float,
    reg_covar: float,
    weighted: bool,
    k: int,
    d: int,
) -> None:
    start, rows = a_start(covariance_type, k, d, spread)
    weights = np.random.default_rng(1).uniform(0.0, 3.0, len(rows)) if weighted else None
    assert (Frame.of(start).centred.size > 0) == (spread > 1.0)
    found = em_step(rows, start, reg_covar=reg_covar, row_weights=weights)
    expected = naive.em_step(rows, naive.of(start), reg_covar, weights)
    assert naive.distance(found.parameters, expected) < 1e-11 + rounding(start)
    assert (found.empty, found.collapsed) == ((), ())


@pytest.mark.parametrize("covariance_type", ["full", "tied", "diag"])
@pytest.mark.parametrize("spread", [1.0, 1e5], ids=["packed", "centred"])
@pytest.mark.parametrize("ridge", [(1e-6, 0.5, 1e-12), (0.0, 0.5, 0.0)])
def test_a_ridge_for_each_column_is_the_oracles(
    covariance_type: CovarianceType, spread: float, ridge: tuple[float, ...]
) -> None:
    start, rows = a_start(covariance_type, 4, 3, spread)
    found = em_step(rows, start, reg_covar=np.array(ridge))
    expected = naive.em_step(rows, naive.of(start), ridge)
    assert naive.distance(found.parameters, expected) < 1e-11 + rounding(start)
    assert (found.empty, found.collapsed) == ((), ())


@pytest.mark.parametrize("covariance_type", ["full", "tied", "diag"])
def test_a_column_without_a_ridge_may_not_be_constant(covariance_type: CovarianceType) -> None:
    start, rows = a_start(covariance_type, 1, 3, 1.0)
    rows[:, 1] = 2.0
    found = em_step(rows, start, reg_covar=np.array([1e-6, 0.0, 1e-6]))
    assert found.collapsed == (0,)
    assert np.all(np.isfinite(found.parameters.inverse_factors))


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("fixed", SUBSETS, ids=lambda names: "+".join(names) or "nothing")
@pytest.mark.parametrize("spread", [1.0, 1e5], ids=["packed", "centred"])
@pytest.mark.parametrize("reg_covar", [0.0, 0.5])
def test_what_is_free_maximises_given_what_is_fixed(
    covariance_type: CovarianceType,
    fixed: tuple[ParameterName, ...],
    spread: float,
    reg_covar: float,
) -> None:
    start, rows = a_start(covariance_type, 3, 3, spread)
    found = em_step(rows, start, reg_covar=reg_covar, fixed=fixed).parameters
    expected = naive.em_step(rows, naive.of(start), reg_covar, fixed=fixed)
    assert naive.distance(found, expected) < 1e-11 + rounding(start)
    for name in PARAMETER_NAMES:
        assert np.array_equal(getattr(found, name), getattr(start, name)) == (name in fixed)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_factors_belong_to_the_covariances(covariance_type: CovarianceType) -> None:
    start, rows = a_start(covariance_type, 3, 3, 1.0)
    for reg_covar in (0.0, 0.5):
        found = em_step(rows, start, reg_covar=reg_covar).parameters
        checked = Parameters.create(covariance_type, found.weights, found.means, found.covariances)
        np.testing.assert_allclose(found.factors, checked.factors, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("covariance_type", ["full", "tied"])
def test_factors_are_lower_triangular_with_a_positive_diagonal(
    covariance_type: CovarianceType,
) -> None:
    for spread in (1.0, 1e5):
        start, rows = a_start(covariance_type, 3, 3, spread)
        factors = em_step(rows, start, reg_covar=1e-3).parameters.factors
        assert np.array_equal(factors, np.tril(factors))
        assert np.all(np.diagonal(factors, axis1=-2, axis2=-1) > 0.0)


def test_the_previous_parameters_are_not_changed() -> None:
    start, rows = a_start("full", 3, 3, 1.0)
    before = [np.array(a) for a in (start.weights, start.means, start.covariances, start.factors)]
    em_step(rows, start)
    after = (start.weights, start.means, start.covariances, start.factors)
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("covariance_type", TYPES)
def test_packed_moments_of_many_rows_just_inside_their_bound(
    covariance_type: CovarianceType,
) -> None:
    # Sums of large squares of one sign, whose rounding adds up, less nearly as large a square.
    rng = np.random.default_rng(6)
    unit = np.ones((1, 1)) if covariance_type == "tied" else np.ones(2)
    if covariance_type == "full":
        unit = np.ones((2, 1, 1))
    elif covariance_type == "diag":
        unit = np.ones((2, 1))
    distance, n_centred = 1e5, 1
    while n_centred:
        distance *= 0.95
        start = Parameters.create(covariance_type, [0.6, 0.4], [[0.0], [distance]], unit)
        n_centred = Frame.of(start).centred.size
    rows = np.append(rng.normal(size=300), distance + rng.normal(size=2**19))[:, np.newaxis]
    found = em_step(rows, start).parameters
    expected = naive.em_step(rows, naive.of(start))
    assert naive.distance(found, expected) < 1e-9


# Symmetries -----------------------------------------------------------------------------------


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("spread", [1.0, 1e5], ids=["packed", "centred"])
def test_components_may_be_permuted(covariance_type: CovarianceType, spread: float) -> None:
    start, rows = a_start(covariance_type, 4, 3, spread)
    order = np.array([2, 0, 3, 1])
    permuted = Parameters.create(
        covariance_type,
        start.weights[order],
        start.means[order],
        start.covariances if covariance_type == "tied" else start.covariances[order],
    )
    found = naive.of(em_step(rows, start).parameters)
    expected = naive.Mixture(
        covariance_type, found.weights[order], found.means[order], found.factors[order]
    )
    again = em_step(rows, permuted).parameters
    assert naive.distance(again, expected) < 1e-12 + rounding(start)


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("shift", [0.0, 1024.0])
def test_units_and_origin_of_the_data_do_not_matter(
    covariance_type: CovarianceType, shift: float
) -> None:
    start, rows = a_start(covariance_type, 3, 3, 1.0)
    # On a grid coarse enough that shifting and scaling by powers of two are exact.
    rows, means = np.round(rows * 2.0**20) / 2.0**20, np.round(start.means * 2.0**20) / 2.0**20
    units = np.array([2.0**-30, 1.0, 2.0**20])
    if covariance_type == "spherical":
        units[:] = 2.0**-30
    squares = {
        "full": np.outer(units, units),
        "tied": np.outer(units, units),
        "diag": units**2,
        "spherical": units[0] ** 2,
    }[covariance_type]
    start = Parameters.create(covariance_type, start.weights, means, start.covariances)
    moved = Parameters.create(
        covariance_type, start.weights, (means + shift) * units, start.covariances * squares
    )
    statistics = prepare(start).statistics(rows)
    moved_statistics = prepare(moved).statistics((rows + shift) * units)
    jacobian = len(rows) * np.log(units).sum()
    assert moved_statistics.log_likelihood == pytest.approx(
        statistics.log_likelihood - jacobian, rel=1e-12
    )
    found = naive.of(maximize(statistics, start).parameters)
    expected = naive.Mixture(
        covariance_type,
        found.weights,
        (found.means + shift) * units,
        found.factors * units[:, np.newaxis],
    )
    again = maximize(moved_statistics, moved).parameters
    assert naive.distance(again, expected) < 1e-11


@pytest.mark.parametrize("covariance_type", ["full", "tied", "spherical"])
def test_rotation_of_the_data_rotates_the_parameters(covariance_type: CovarianceType) -> None:
    start, rows = a_start(covariance_type, 3, 4, 1.0)
    turn = rotation(4, np.random.default_rng(5))

    def turned(covariances: Array) -> Array:
        if covariance_type == "spherical":
            return covariances
        product = turn @ covariances @ turn.T
        return 0.5 * (product + np.swapaxes(product, -1, -2))

    rotated = Parameters.create(
        covariance_type, start.weights, start.means @ turn.T, turned(start.covariances)
    )
    found = em_step(rows, start).parameters
    again = em_step(rows @ turn.T, rotated).parameters
    expected = naive.mixture(
        covariance_type, found.weights, found.means @ turn.T, turned(found.covariances)
    )
    assert naive.distance(again, expected) < 1e-11


@pytest.mark.parametrize("covariance_type", TYPES)
def test_multiplying_all_row_weights_changes_nothing(covariance_type: CovarianceType) -> None:
    start, rows = a_start(covariance_type, 3, 3, 1.0)
    statistics = prepare(start).statistics(rows)
    found = naive.of(maximize(statistics, start).parameters)
    for factor in (1e-9, 1e9):
        again = maximize(statistics.scale(factor), start).parameters
        assert naive.distance(again, found) < 1e-13


# Components that die ----------------------------------------------------------------------------


def with_an_unreachable_component(
    covariance_type: CovarianceType,
) -> tuple[Parameters, Array]:
    start, rows = a_start(covariance_type, 3, 2, 1.0)
    means = start.means.copy()
    means[1] = 1e4
    return Parameters.create(covariance_type, start.weights, means, start.covariances), rows


@pytest.mark.parametrize("covariance_type", TYPES)
def test_an_empty_component_stays_where_it_was_with_weight_zero(
    covariance_type: CovarianceType,
) -> None:
    start, rows = with_an_unreachable_component(covariance_type)
    maximum = em_step(rows, start)
    found = maximum.parameters
    assert (maximum.empty, maximum.collapsed) == ((1,), ())
    assert found.weights[1] == 0.0
    assert found.weights.sum() == pytest.approx(1.0, rel=1e-15)
    assert np.array_equal(found.means[1], start.means[1])
    if covariance_type != "tied":
        assert np.array_equal(found.covariances[1], start.covariances[1])
        assert np.array_equal(found.factors[1], start.factors[1])
    # The others are what they would have been without it.
    others = [0, 2]
    remaining = Parameters.create(
        covariance_type,
        start.weights[others] / start.weights[others].sum(),
        start.means[others],
        start.covariances if covariance_type == "tied" else start.covariances[others],
    )
    expected = naive.em_step(rows, naive.of(remaining))
    kept = Parameters(
        covariance_type,
        found.weights[others],
        found.means[others],
        found.covariances if covariance_type == "tied" else found.covariances[others],
        found.factors if covariance_type == "tied" else found.factors[others],
    )
    assert naive.distance(kept, expected) < 1e-11
    # From now on it takes no part, and its death is not news any more.
    again = em_step(rows, found)
    assert again.empty == ()
    assert again.parameters.weights[1] == 0.0
    assert np.array_equal(again.parameters.means[1], start.means[1])


@pytest.mark.parametrize("covariance_type", TYPES)
def test_an_empty_component_of_fixed_weight_is_reported_and_keeps_it(
    covariance_type: CovarianceType,
) -> None:
    start, rows = with_an_unreachable_component(covariance_type)
    maximum = em_step(rows, start, fixed=("weights",))
    assert maximum.empty == (1,)
    assert np.array_equal(maximum.parameters.weights, start.weights)


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("reg_covar", [0.0, 1e-6])
def test_no_rows_at_all_leave_a_model_as_it_is(
    covariance_type: CovarianceType, reg_covar: float
) -> None:
    start, _ = a_start(covariance_type, 3, 2, 1.0)
    nothing = Statistics.zero(Frame.of(start), 3)
    maximum = maximize(nothing, start, reg_covar=reg_covar)
    assert maximum.empty == (0, 1, 2)
    for name in ("weights", "means", "covariances", "factors"):
        assert np.array_equal(getattr(maximum.parameters, name), getattr(start, name))


# Components that collapse ------------------------------------------------------------------------


def assert_usable(parameters: Parameters, rows: Array) -> None:
    """Finite, positive definite, and of finite density everywhere."""
    for name in ("weights", "means", "covariances", "factors", "inverse_factors"):
        assert np.isfinite(getattr(parameters, name)).all(), name
    factors = parameters.stacked(parameters.factors)
    if parameters.structure.has_directions:
        factors = np.diagonal(factors, axis1=1, axis2=2)
    assert np.all(factors > 0.0)
    posterior = prepare(parameters).posterior(rows, with_responsibilities=True)
    assert np.isfinite(posterior.scores).all()
    np.testing.assert_allclose(posterior.responsibilities.sum(axis=1), 1.0, rtol=1e-12)


def one_point_and_a_cloud(covariance_type: CovarianceType) -> tuple[Parameters, Array]:
    """Fifty identical rows far from a cloud, a component on each."""
    rng = np.random.default_rng(3)
    rows = np.vstack([rng.normal(size=(200, 2)), np.full((50, 2), 100.0 / 3.0)])
    covariances = covariances_for(rng, covariance_type, 2, 2)
    means = [[0.0, 0.0], [33.0, 33.0]]
    return Parameters.create(covariance_type, [0.8, 0.2], means, covariances), rows


@pytest.mark.parametrize("covariance_type", ["full", "diag", "spherical"])
def test_a_component_on_one_point_is_widened_and_reported(
    covariance_type: CovarianceType,
) -> None:
    start, rows = one_point_and_a_cloud(covariance_type)
    maximum = em_step(rows, start)
    found = maximum.parameters
    assert (maximum.empty, maximum.collapsed) == ((), (1,))
    np.testing.assert_allclose(found.means[1], rows[-1], rtol=1e-14)
    np.testing.assert_allclose(found.weights, [0.8, 0.2], rtol=1e-12)
    assert_usable(found, rows)
    # Small beside the data, and the other component is none the worse for it.
    assert np.abs(found.covariances[1]).max() < 1e-3
    cloud = naive.em_step(rows, naive.of(start)).covariances[0].astype(np.float64)
    np.testing.assert_allclose(found.covariances[0], cloud, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_a_tied_or_only_covariance_on_one_point_is_widened_and_reported(
    covariance_type: CovarianceType,
) -> None:
    rows = np.full((20, 2), 1.0 / 3.0)
    covariances = covariances_for(np.random.default_rng(0), covariance_type, 2, 2)
    means = [[0.0, 0.0], [1.0, 1.0]]
    start = Parameters.create(covariance_type, [0.5, 0.5], means, covariances)
    maximum = em_step(rows, start)
    assert maximum.collapsed == (0, 1)
    assert_usable(maximum.parameters, rows)
    np.testing.assert_allclose(maximum.parameters.means, 1.0 / 3.0, rtol=1e-14)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_reg_covar_is_the_covariance_of_one_point(covariance_type: CovarianceType) -> None:
    rows = np.full((20, 2), 1.0 / 3.0)
    covariances = covariances_for(np.random.default_rng(0), covariance_type, 2, 2)
    start = Parameters.create(covariance_type, [0.5, 0.5], np.eye(2), covariances)
    maximum = em_step(rows, start, reg_covar=1e-3)
    assert maximum.collapsed == ()
    stacked = maximum.parameters.stacked(maximum.parameters.covariances)
    expected = np.eye(2) if covariance_type in ("full", "tied") else np.ones(2)
    np.testing.assert_allclose(
        stacked, np.broadcast_to(1e-3 * expected, stacked.shape), rtol=1e-9, atol=1e-12
    )


@pytest.mark.parametrize("covariance_type", ["full", "tied", "diag"])
def test_a_constant_feature_is_widened_and_the_others_are_kept(
    covariance_type: CovarianceType,
) -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(200, 3))
    rows[:, 1] = 1.0 / 3.0
    start = Parameters.create(
        covariance_type, [1.0], [[0.1, 0.2, 0.3]], covariances_for(rng, covariance_type, 1, 3)
    )
    maximum = em_step(rows, start)
    assert maximum.collapsed == (0,)
    assert_usable(maximum.parameters, rows)
    stacked = maximum.parameters.stacked(maximum.parameters.covariances)[0]
    variances = np.diagonal(stacked) if stacked.ndim == 2 else stacked
    np.testing.assert_allclose(variances[[0, 2]], rows[:, [0, 2]].var(axis=0), rtol=1e-3)
    assert 0.0 < variances[1] < 1e-3


def degenerate_rows(rng: np.random.Generator) -> Iterator[Array]:
    """Rows without spread in some direction, of all kinds."""
    yield np.tile(rng.normal(size=2), (30, 1))
    yield np.outer(rng.normal(size=30), rng.normal(size=2)) + rng.normal(size=2) * 10.0
    yield np.repeat(rng.normal(size=(3, 2)), 10, axis=0)
    yield rng.normal(size=(2, 2))
    yield rng.normal(size=(1, 2))
    yield np.vstack([rng.normal(size=(30, 2)), np.full((5, 2), 1e6 / 3.0)])
    yield rng.normal(size=(30, 2)) * [1.0, 1e-14] + 1.0
    yield rng.integers(0, 2, size=(30, 2)).astype(float)


@given(st.sampled_from(TYPES), st.integers(0, 2**32 - 1), st.sampled_from([0.0, 1e-6]))
# Here rounding is larger than the first floor.
@example("full", 462800625, 0.0)
@settings(max_examples=40)
def test_em_on_degenerate_rows_goes_on(
    covariance_type: CovarianceType, seed: int, reg_covar: float
) -> None:
    rng = np.random.default_rng(seed)
    for rows in degenerate_rows(rng):
        means = rows[rng.integers(0, len(rows), 3)] + rng.normal(size=(3, 2))
        covariances = covariances_for(rng, covariance_type, 3, 2)
        parameters = Parameters.create(covariance_type, [0.2, 0.3, 0.5], means, covariances)
        for _ in range(12):
            parameters = em_step(rows, parameters, reg_covar=reg_covar).parameters
            assert_usable(parameters, rows)
