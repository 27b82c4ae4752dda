"""Second moments of low rank: against dense matrices, EM in NumPy, and rows in other frames."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from streamgmm.algorithms.stream.stepwise_em import Schedule, Stepwise
from streamgmm.core.data_moments import DataMoments
from streamgmm.core.e_step import EStep
from streamgmm.core.frame import Frame
from streamgmm.core.maximization import maximize
from streamgmm.core.mixtures.reduction import merged_pairs, merging_bounds, reduce_components
from streamgmm.core.mixtures.sampling import draw
from streamgmm.core.noise import Noise
from streamgmm.core.objective import Objective, PseudoRows
from streamgmm.core.parameters import Parameters
from streamgmm.core.priors import Prior
from streamgmm.core.structures.low_rank_factors import dense_covariances, joined
from streamgmm.core.structures.low_rank_moments import BasisMoments, condensed
from streamgmm.core.whitening import carried, expected
from streamgmm.errors import ParameterError
from streamgmm.protocols import Chunk
from tests import naive

K, D, RANK = 3, 9, 2
Array = NDArray[np.float64]


def mixture(d: int = D, rank: int = RANK, seed: int = 0, apart: float = 2.0) -> Parameters:
    rng = np.random.default_rng(seed)
    covariances = joined(rng.normal(size=(K, d, rank)), rng.uniform(0.2, 1.0, size=(K, d)))
    means = apart * rng.normal(size=(K, d))
    return Parameters.create(f"low_rank({rank})", [0.2, 0.3, 0.5], means, covariances)


def rows_of(parameters: Parameters, n: int = 1500, seed: int = 1) -> Array:
    rows, _ = draw(parameters, n, np.random.default_rng(seed))
    return np.random.default_rng(seed).permutation(rows)


def matrices_of(parameters: Parameters) -> Array:
    return dense_covariances(parameters.covariances)


def frame_of(parameters: Parameters) -> Frame:
    return Frame.of(parameters).with_directions(parameters)


def divergence(p: Array, q: Array) -> float:
    """The Kullback-Leibler divergence of two Gaussians of mean 0."""
    sizes = np.linalg.slogdet(q)[1] - np.linalg.slogdet(p)[1]
    return float(0.5 * (np.trace(np.linalg.solve(q, p)) - len(p) + sizes))


def factor_steps(spread: Array, loadings: Array, noise: Array, n: int) -> tuple[Array, Array]:
    """Loadings and noise variances after EM steps of factor analysis on a covariance."""
    for _ in range(n):
        beta = np.linalg.solve(loadings @ loadings.T + np.diag(noise), loadings).T
        second = np.eye(loadings.shape[1]) - beta @ loadings + beta @ spread @ beta.T
        loadings = spread @ beta.T @ np.linalg.inv(second)
        noise = np.diagonal(spread - loadings @ beta @ spread).copy()
    return loadings, noise


def test_second_moments_are_those_of_the_matrices() -> None:
    parameters, rng = mixture(), np.random.default_rng(3)
    frame = frame_of(parameters)
    n_values = parameters.structure.n_moments(D) - 1 - D
    own = BasisMoments.of(frame, RANK, n_values)
    left, right, diagonal = rng.normal(size=(3, K, D))
    for found, matrices in (
        (own.outer(left, right), left[:, :, np.newaxis] * right[:, np.newaxis]),
        (own.diagonal(diagonal), diagonal[:, :, np.newaxis] * np.eye(D)),
        (own.covariance(parameters.covariances), matrices_of(parameters)),
    ):
        np.testing.assert_allclose(found[:, :D], np.diagonal(matrices, axis1=1, axis2=2))
        products = np.swapaxes(matrices @ own.bases, 1, 2).reshape(K, -1)
        np.testing.assert_allclose(found[:, D:], products, atol=1e-12)


@pytest.mark.parametrize("rank", [0, 2])
def test_statistics_are_those_of_another_frame_where_a_basis_spans_all_columns(rank: int) -> None:
    parameters, other = mixture(rank=rank), mixture(rank=rank, seed=7)
    rows = rows_of(parameters)
    old = EStep.prepare(parameters, frame_of(parameters)).statistics(rows)
    wanted = EStep.prepare(parameters, frame_of(other)).statistics(rows)
    found = carried(old, other, frame_of(other))
    np.testing.assert_allclose(found.moments, wanted.moments, rtol=1e-8, atol=1e-7)
    assert found.frame.is_same_as(wanted.frame)
    assert found.log_likelihood == old.log_likelihood


def test_statistics_keep_what_the_old_directions_show() -> None:
    d = 40
    parameters, other = mixture(d), mixture(d, seed=7)
    rows = rows_of(parameters, 3000)
    known = EStep.prepare(parameters, frame_of(parameters)).statistics(rows)
    # Directions that the rows show, and a mixture whose loadings they nearly span.
    frame = Frame.of(parameters).with_directions(parameters, known)
    old = EStep.prepare(parameters, frame).statistics(rows)
    far = carried(old, other, frame_of(other))
    exact = EStep.prepare(parameters, frame_of(other)).statistics(rows)
    # Counts, means and squares are exact for any directions.
    n_exact = 1 + 2 * d
    np.testing.assert_allclose(far.moments[:, :n_exact], exact.moments[:, :n_exact], atol=1e-6)
    step = maximize(old, parameters).parameters
    near = carried(old, step, Frame.of(step).with_directions(step, old))
    wanted = EStep.prepare(parameters, near.frame).statistics(rows)
    one, two = (maximize(found, step).parameters for found in (near, wanted))
    np.testing.assert_allclose(one.means, two.means, atol=1e-9)
    np.testing.assert_allclose(matrices_of(one), matrices_of(two), atol=0.03)


def test_expected_statistics_are_a_fixed_point_of_em() -> None:
    parameters = mixture()
    counts = np.array([10.0, 20.0, 30.0])
    found = maximize(expected(parameters, frame_of(parameters), counts), parameters).parameters
    np.testing.assert_allclose(found.means, parameters.means, atol=1e-12)
    np.testing.assert_allclose(matrices_of(found), matrices_of(parameters), atol=1e-12)
    np.testing.assert_allclose(found.weights, counts / 60.0)


def truncated(spread: Array, loadings: Array, noise: Array, rank: int) -> Array:
    """The leading directions of loadings in units of the noise; the rest is noise."""
    units = np.sqrt(noise)[:, np.newaxis]
    left, sizes, _ = np.linalg.svd(loadings / units, full_matrices=False)
    kept = units * left[:, :rank] * sizes[:rank]
    return kept @ kept.T + np.diag(np.diagonal(spread) - np.square(kept).sum(axis=1))


@pytest.mark.parametrize("width", [1, 2, 5, 40])
def test_condensed_covariances_are_near(width: int) -> None:
    rng = np.random.default_rng(width)
    noise, few = rng.uniform(0.3, 1.0, D), rng.normal(size=(D, min(width, RANK)))
    # Loadings of a rank that is small enough are kept as they are.
    loadings = few @ rng.normal(size=(few.shape[1], width))
    spread = loadings @ loadings.T + np.diag(noise)
    found = dense_covariances(condensed(loadings, noise, RANK)[np.newaxis])[0]
    np.testing.assert_allclose(found, spread, atol=1e-9)
    loadings = rng.normal(size=(D, width))
    spread = loadings @ loadings.T + np.diag(noise)
    found = dense_covariances(condensed(loadings, noise, RANK)[np.newaxis])[0]
    start = truncated(spread, loadings, noise, RANK)
    assert divergence(spread, found) <= divergence(spread, start) + 1e-12
    if width > RANK:
        assert divergence(spread, found) < 0.8 * divergence(spread, start)


@pytest.mark.parametrize("rank", [0, 2])
def test_merging_costs_and_pairs_are_those_of_the_matrices(rank: int) -> None:
    parameters = mixture(rank=rank, apart=0.5)
    full = Parameters.create("full", parameters.weights, parameters.means, matrices_of(parameters))
    np.testing.assert_allclose(merging_bounds(parameters), merging_bounds(full), rtol=1e-10)
    first, second = np.array([0, 1]), np.array([2, 2])
    found, dense = (merged_pairs(own, first, second) for own in (parameters, full))
    np.testing.assert_allclose(found.means, dense.means, atol=1e-12)
    np.testing.assert_allclose(found.weights, dense.weights)
    for own, matrix in zip(matrices_of(found), dense.covariances, strict=True):
        np.testing.assert_allclose(np.diagonal(own), np.diagonal(matrix), rtol=1e-2)
        diagonal = np.diag(np.diagonal(matrix))
        assert divergence(matrix, own) <= (0.5 if rank else 1.001) * divergence(matrix, diagonal)


def test_equal_components_merge_for_nothing_into_one_of_them() -> None:
    one = mixture()
    twice = np.array([0, 0, 1, 2, 2])
    parameters = Parameters.create(
        one.covariance_type, np.full(5, 0.2), one.means[twice], one.covariances[twice]
    )
    bounds = merging_bounds(parameters)
    assert bounds[0, 1] == pytest.approx(0.0, abs=1e-12)
    assert bounds[3, 4] == pytest.approx(0.0, abs=1e-12)
    reduced, groups = reduce_components(parameters, 3)
    np.testing.assert_array_equal(groups, twice)
    np.testing.assert_allclose(reduced.weights, [0.4, 0.2, 0.4])
    np.testing.assert_allclose(matrices_of(reduced), matrices_of(one), atol=1e-9)


def test_the_mean_covariance_has_the_moments_of_all() -> None:
    parameters = mixture()
    structure = parameters.structure
    factor = structure.mean_factor(parameters.factors, parameters.weights)
    mean = np.average(matrices_of(parameters), axis=0, weights=parameters.weights)
    found = dense_covariances(structure.covariances_of(factor))[0]
    np.testing.assert_allclose(np.diagonal(found), np.diagonal(mean), rtol=1e-2)
    assert divergence(mean, found) < 0.6 * divergence(mean, np.diag(np.diagonal(mean)))


class OwnRows:
    """Pseudo-rows that differ between the components."""

    def pseudo_rows(self, parameters: Parameters) -> PseudoRows:
        k, d = parameters.means.shape
        rng = np.random.default_rng(8)
        return PseudoRows(
            weights=3.0,
            means=np.arange(1.0, k + 1.0),
            centres=rng.normal(size=(k, d)),
            covariances=10.0,
            scatter=rng.uniform(1.0, 5.0, size=(k, d)),
        )


@pytest.mark.parametrize("fixed", [frozenset[Any](), frozenset({"means"})])
def test_a_step_with_a_prior_is_that_of_factor_analysis_with_more_rows(fixed: Any) -> None:
    parameters = mixture()
    rows = rows_of(parameters, 400) + 0.3
    prior = OwnRows()
    pseudo: Any = prior.pseudo_rows(parameters)
    statistics = EStep.prepare(parameters, Frame.of(parameters)).statistics(rows)
    found = Objective(fixed=fixed, prior=prior).maximize(statistics, parameters).parameters
    model = naive.mixture("full", parameters.weights, parameters.means, matrices_of(parameters))
    shares = naive.responsibilities(rows, model).astype(float)
    counts = shares.sum(axis=0)
    np.testing.assert_allclose(found.weights, (counts + 3.0) / (len(rows) + 9.0))
    for k, matrix in enumerate(matrices_of(parameters)):
        kappa, centre = pseudo.means[k], pseudo.centres[k]
        mean = (shares[:, k] @ rows + kappa * centre) / (counts[k] + kappa)
        mean = parameters.means[k] if fixed else mean
        np.testing.assert_allclose(found.means[k], mean, atol=1e-10)
        apart = rows - mean
        scatter = (apart.T * shares[:, k]) @ apart + np.diag(pseudo.scatter[k])
        scatter += kappa * np.outer(mean - centre, mean - centre)
        own = parameters.covariances[k]
        step = factor_steps(scatter / (counts[k] + 10.0), own[:, :-1], own[:, -1], 1)
        assert np.allclose(own[:, :-1] @ own[:, :-1].T + np.diag(own[:, -1]), matrix)
        expected_matrix = step[0] @ step[0].T + np.diag(step[1])
        np.testing.assert_allclose(matrices_of(found)[k], expected_matrix, atol=1e-9)


@pytest.mark.parametrize("with_noise", [False, True])
def test_em_with_a_prior_never_lowers_the_objective(with_noise: bool) -> None:
    parameters = mixture(seed=2)
    rows = rows_of(mixture(), 500)
    if with_noise:
        box = np.stack([rows.min(axis=0), rows.max(axis=0)])
        parameters = parameters.with_noise(Noise.in_box(0.1, box))
    prior = Prior(mean_precision_prior=20.0).completed(
        DataMoments.of(rows, np.ones(len(rows)), parameters.covariance_type)
    )
    objective, values = Objective(prior=prior), []
    for _ in range(30):
        statistics = EStep.prepare(parameters, Frame.of(parameters)).statistics(rows)
        values.append(objective.value(statistics, parameters))
        parameters = objective.maximize(statistics, parameters).parameters
    assert np.diff(values).min() >= -1e-12
    assert values[-1] > values[0] + 0.1


def test_the_density_of_a_prior_is_that_of_the_matrices() -> None:
    parameters = mixture()
    statistics = EStep.prepare(parameters, Frame.of(parameters)).statistics(rows_of(parameters))
    prior = OwnRows()
    pseudo: Any = prior.pseudo_rows(parameters)
    found = Objective(prior=prior).value(statistics, parameters)
    total = 3.0 * np.log(parameters.weights).sum()
    for k, matrix in enumerate(matrices_of(parameters)):
        apart, inverse = parameters.means[k] - pseudo.centres[k], np.linalg.inv(matrix)
        total -= 0.5 * pseudo.means[k] * apart @ inverse @ apart
        total -= 0.5 * (10.0 * np.linalg.slogdet(matrix)[1])
        total -= 0.5 * np.diagonal(inverse) @ pseudo.scatter[k]
    wanted = statistics.mean_log_likelihood + total / statistics.weight
    assert found == pytest.approx(wanted, rel=1e-12)


def test_a_prior_with_matrices_is_refused() -> None:
    parameters = mixture()
    statistics = EStep.prepare(parameters, Frame.of(parameters)).statistics(rows_of(parameters))

    class Dense:
        def pseudo_rows(self, parameters: Parameters) -> PseudoRows:
            return PseudoRows(covariances=10.0, scatter=np.eye(D))

    with pytest.raises(ParameterError, match="give a diagonal"):
        Objective(prior=Dense()).maximize(statistics, parameters)


def test_a_step_of_a_stream_is_em_on_all_rows() -> None:
    """With directions that span all columns, beside factor analysis in NumPy on all rows."""
    start = mixture(seed=4)
    rows = rows_of(start, 3000)
    first, second = rows[:2000], rows[2000:]
    schedule = Schedule(1e9, 0.6)
    model = Stepwise.fitted(start, Chunk(first, range(2000)), schedule, Objective())
    shares = [naive.responsibilities(first, _naive(start)).astype(float)]
    shares.append(naive.responsibilities(second, _naive(model.parameters)).astype(float))
    after = model.joined(model.expectation("error").statistics(second)).stepped()
    together = np.concatenate(shares)
    counts = together.sum(axis=0)
    np.testing.assert_allclose(after.parameters.weights, counts / 3000.0, rtol=1e-9)
    for k in range(K):
        mean = together[:, k] @ rows / counts[k]
        apart = rows - mean
        spread = (apart.T * together[:, k]) @ apart / counts[k]
        own = model.parameters.covariances[k]
        # The first step of EM, and the sixty that follow on the same moments.
        loadings, noise = factor_steps(spread, own[:, :-1], own[:, -1], 60)
        wanted = loadings @ loadings.T + np.diag(noise)
        np.testing.assert_allclose(after.parameters.means[k], mean, atol=1e-8)
        np.testing.assert_allclose(matrices_of(after.parameters)[k], wanted, atol=1e-6)
    assert after.total.frame is after.recent.frame
    assert after.total.weight == 3000.0


def _naive(parameters: Parameters) -> naive.Mixture:
    return naive.mixture("full", parameters.weights, parameters.means, matrices_of(parameters))


def test_reseeded_components_are_where_they_are_put() -> None:
    parameters = mixture()
    rows = rows_of(parameters, 3000)
    chunk = Chunk(rows, range(3000))
    model = Stepwise.fitted(parameters, chunk, Schedule(1e9, 0.6), Objective())
    place = np.full(D, 30.0)
    found = model.reseeded({1: (place, 0.05)})
    np.testing.assert_allclose(found.parameters.means[1], place, atol=1e-9)
    rest = np.delete(model.total.counts, 1).sum()
    assert found.parameters.weights[1] == pytest.approx(150.0 / (150.0 + rest))
    own = model.parameters.structure.average(model.parameters.covariances, model.parameters.weights)
    np.testing.assert_allclose(
        matrices_of(found.parameters)[1], dense_covariances(own[np.newaxis])[0], atol=1e-6
    )
    assert found.total.counts[1] == pytest.approx(150.0)
