"""EM of which one call makes many steps, against EM in extended precision and through readers."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

import tests.naive as naive
from streamgmm import GaussianMixture
from streamgmm.algorithms.batch.few_rows import FewRows, ignore_run
from streamgmm.core.fitted_model import StopReason
from streamgmm.core.kernels.lloyd import lloyd_iterations
from streamgmm.core.noise import Noise
from streamgmm.core.objective import Objective
from streamgmm.core.parameters import Parameters
from streamgmm.options import CovarianceType
from tests.core.cases import ALL_TYPES, draw, random_parameters


def few_rows(rows: np.ndarray, covariance_type: CovarianceType, reg_covar: float = 0.0) -> FewRows:
    found = FewRows.of(rows, np.ones(len(rows)), covariance_type, Objective(reg_covar))
    assert found is not None
    return found


@pytest.mark.parametrize("covariance_type", ALL_TYPES)
@pytest.mark.parametrize("shape", [(1, 1), (3, 2), (2, 5)], ids=str)
def test_steps_are_those_of_em(covariance_type: CovarianceType, shape: tuple[int, int]) -> None:
    """Ridge, row weights, an offset of 1e4 and columns of other units change nothing of that."""
    rng = np.random.default_rng(0)
    k, d = shape
    model = random_parameters(rng, covariance_type, k, d)
    start = random_parameters(rng, covariance_type, k, d)
    units = np.ones(d) if "spherical" in covariance_type else np.geomspace(1e-3, 1e3, d)
    # More rows than the kernel computes at once.
    rows, weights = draw(rng, model, 600), rng.uniform(0.1, 3.0, 600)
    ridge = 1e-2
    moved = rows * units + 1e4 * units
    few = FewRows.of(moved, weights, covariance_type, Objective(ridge * np.square(units)))
    assert few is not None
    stacked = start.stacked(start.factors)
    scaled = stacked * (units[:, np.newaxis] if start.structure.has_directions else units)
    structure = start.structure
    begun = Parameters(
        covariance_type,
        start.weights,
        start.means * units + 1e4 * units,
        np.asarray(structure.stored(structure.covariances_of(scaled))),
        np.asarray(structure.stored(scaled)),
    )
    seen: list[tuple[int, int]] = []

    def on_run(n_rows: int, log_likelihoods: Sequence[float]) -> None:
        seen.append((n_rows, len(log_likelihoods)))

    fit = few.short_run(begun, 3, 0.0, on_run)
    assert fit is not None and seen == [(1800, 3)] and fit.n_iterations == 3
    expected = naive.of(begun)
    for value in fit.log_likelihoods:
        right = naive.mean_log_likelihood(moved, expected, weights)
        assert abs(value - right) < 1e-9 * max(1.0, abs(float(right)))
        expected = naive.em_step(moved, expected, ridge * np.square(units), weights)
    assert naive.distance(fit.parameters, expected) < 1e-9


@pytest.mark.parametrize("covariance_type", ALL_TYPES)
def test_extrapolated_steps_end_where_em_ends(covariance_type: CovarianceType) -> None:
    """The log-likelihood never falls, and the end is a fixed point of EM."""
    rng = np.random.default_rng(1)
    rows = draw(rng, random_parameters(rng, covariance_type, 3, 2, spread=1.5), 400)
    start = random_parameters(rng, covariance_type, 3, 2, spread=1.5)
    few = few_rows(rows, covariance_type)
    fit = few.converged(start, 1e-6, ignore_run)
    assert fit is not None and fit.converged
    assert np.all(np.diff(fit.log_likelihoods) > -1e-12)
    plain = few.short_run(fit.parameters, 2, 0.0, ignore_run)
    assert plain is not None
    assert abs(plain.log_likelihoods[1] - plain.log_likelihoods[0]) < 1e-7


def test_extrapolation_takes_a_part_of_the_steps() -> None:
    rng = np.random.default_rng(2)
    rows = draw(rng, random_parameters(rng, "full", 3, 2, spread=1.0), 500)
    start = random_parameters(rng, "full", 3, 2, spread=1.0)
    few = few_rows(rows, "full")
    n_rows: list[int] = []
    fit = few.converged(start, 1e-6, lambda n, values: n_rows.append(n))
    plain = few.short_run(start, 5000, 1e-11, ignore_run)
    assert fit is not None and plain is not None and fit.converged
    assert sum(n_rows) // len(rows) < 0.5 * plain.n_iterations
    assert fit.value > plain.value - 1e-6


@pytest.mark.parametrize("covariance_type", ALL_TYPES)
def test_run_that_has_settled_ends_at_the_mixture_of_its_last_value(
    covariance_type: CovarianceType,
) -> None:
    """Runs one after another use the same arrays, and leave the mixtures of those before alone."""
    rng = np.random.default_rng(4)
    rows = draw(rng, random_parameters(rng, covariance_type, 2, 3), 150)
    starts = [random_parameters(rng, covariance_type, 2, 3) for _ in range(2)]
    few = few_rows(rows, covariance_type, 1e-3)
    fits = [few.short_run(start, 1000, 1e-7, ignore_run) for start in starts]
    for fit in fits:
        assert fit is not None and fit.converged
        right = naive.mean_log_likelihood(rows, naive.of(fit.parameters), np.ones(len(rows)))
        assert abs(fit.value - float(right)) < 1e-11 * max(1.0, abs(fit.value))


def test_run_that_reaches_its_limit_has_not_converged() -> None:
    rng = np.random.default_rng(3)
    rows = draw(rng, random_parameters(rng, "full", 2, 2), 100)
    fit = few_rows(rows, "full").short_run(random_parameters(rng, "full", 2, 2), 2, 0.0, ignore_run)
    assert fit is not None and fit.reason is StopReason.LIMIT and not fit.converged


def test_fits_of_other_kinds_are_declined() -> None:
    rows, weights = np.random.default_rng(4).normal(size=(50, 2)), np.ones(50)
    for objective in (
        Objective(fixed=frozenset({"means"})),
        Objective(noise=Noise(0.1, -3.0, np.array([[0.0, 0.0], [1.0, 1.0]]))),
    ):
        assert FewRows.of(rows, weights, "full", objective) is None
    assert FewRows.of(rows, weights, "low_rank(0)", Objective()) is None


@pytest.mark.parametrize(
    "spoiled", [math.nan, math.inf, 1e300], ids=["NaN", "infinity", "squares overflow"]
)
def test_rows_that_cannot_be_scaled_are_declined(spoiled: float) -> None:
    rows = np.random.default_rng(5).normal(size=(50, 2))
    rows[3, 1] = spoiled
    assert FewRows.of(rows, np.ones(50), "full", Objective()) is None
    rows[:, 1] = 7.0
    assert FewRows.of(rows, np.ones(50), "diag", Objective()) is None


def test_run_fails_where_a_component_is_lost_or_singular() -> None:
    rng = np.random.default_rng(6)
    rows = rng.normal(size=(60, 2))
    few = few_rows(rows, "full")
    means = np.array([[0.0, 0.0], [1e3, 1e3]])
    far = Parameters.create("full", [0.5, 0.5], means, np.tile(np.eye(2), (2, 1, 1)))
    assert few.short_run(far, 5, 0.0, ignore_run) is None
    rows[:5] = rows[0]
    narrow = np.stack([np.eye(2), 1e-4 * np.eye(2)])
    twins = Parameters.create("full", [0.5, 0.5], np.stack([rows[20], rows[0]]), narrow)
    assert few_rows(rows, "full").short_run(twins, 50, 0.0, ignore_run) is None


def test_run_fails_where_components_are_hardly_wider_than_rounding() -> None:
    rng = np.random.default_rng(7)
    rows = 1e6 + 1e-9 * rng.normal(size=(60, 1))
    few = few_rows(rows, "diag")
    start = Parameters.create("diag", [1.0], [[1e6]], [[1e-18]])
    assert few.short_run(start, 5, 0.0, ignore_run) is None


def test_arrays_that_cannot_be_written_give_the_same() -> None:
    rng = np.random.default_rng(11)
    rows, start = rng.normal(size=(60, 2)), random_parameters(rng, "full", 2, 2)
    expected = few_rows(rows, "full").short_run(start, 3, 0.0, ignore_run)
    weights = np.ones(60)
    for array in (rows, weights, start.weights, start.means, start.factors):
        array.flags.writeable = False
    few = FewRows.of(rows, weights, "full", Objective())
    assert few is not None and expected is not None
    found = few.short_run(start, 3, 0.0, ignore_run)
    assert found is not None and found.values == expected.values
    assert lloyd_iterations(rows, np.ones(60), rows[:2].copy(), 9, 0.0).max() == 1


def test_posterior_is_that_of_the_mixture() -> None:
    rng = np.random.default_rng(12)
    for covariance_type in ALL_TYPES:
        model = random_parameters(rng, covariance_type, 3, 2)
        rows = 50.0 + draw(rng, model, 40)
        moved = replace(model, means=model.means + 50.0)
        found = few_rows(rows, covariance_type).posterior(moved)
        expected = naive.responsibilities(rows, naive.of(moved))
        np.testing.assert_allclose(found.responsibilities, expected.astype(float), atol=1e-12)
        np.testing.assert_allclose(
            found.scores, naive.scores(rows, naive.of(moved)).astype(float), rtol=1e-12
        )
        assert np.array_equal(found.labels, expected.argmax(axis=1))


def test_rows_in_float32_are_computed_in_float64() -> None:
    rng = np.random.default_rng(13)
    rows, start = rng.normal(size=(60, 2)).astype(np.float32), random_parameters(rng, "full", 2, 2)
    found = few_rows(rows, "full").short_run(start, 3, 0.0, ignore_run)
    expected = few_rows(rows.astype(np.float64), "full").short_run(start, 3, 0.0, ignore_run)
    assert found is not None and expected is not None and found.values == expected.values


def test_only_small_steps_are_made_in_one_call() -> None:
    few = few_rows(np.random.default_rng(8).normal(size=(5000, 4)), "full")
    assert few.is_for(4) and not few.is_for(400)
    many = np.zeros((1 << 22, 3))
    assert FewRows.of(many, np.ones(len(many)), "full", Objective()) is None


def test_result_of_a_fit_is_near_that_through_readers(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(9)
    rows = draw(rng, random_parameters(rng, "full", 4, 2), 600)
    here = GaussianMixture(4, random_state=0).fit(rows)
    monkeypatch.setattr(FewRows, "of", lambda *arguments: None)
    there = GaussianMixture(4, random_state=0).fit(rows)
    assert here.score(rows) == pytest.approx(there.score(rows), abs=1e-3)


def test_lloyd_ends_at_the_means_of_the_nearest_rows() -> None:
    rng = np.random.default_rng(10)
    rows, weights = rng.normal(size=(200, 3)), rng.uniform(0.5, 2.0, 200)
    labels = lloyd_iterations(rows, weights, rows[:4].copy(), 1000, 0.0)
    centres = np.stack(
        [np.average(rows[labels == k], axis=0, weights=weights[labels == k]) for k in range(4)]
    )
    squares = np.square(rows[:, np.newaxis] - centres).sum(axis=2)
    assert np.array_equal(labels, squares.argmin(axis=1))


def test_lloyd_gives_a_cluster_without_rows_the_farthest_row() -> None:
    rows = np.array([[0.0], [1.0], [2.0], [50.0]])
    labels = lloyd_iterations(rows, np.ones(4), np.array([[1.0], [1e3]]), 10, 0.0)
    assert labels.tolist() == [0, 0, 0, 1]
