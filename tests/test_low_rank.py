"""Covariances of low rank: the EM step, densities, factor analysis, bad input, and bits."""

import copy
import itertools
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask.array
import numpy as np
import pytest
import xarray
from click.testing import CliRunner
from numpy.typing import NDArray
from scipy.stats import multivariate_normal
from sklearn.base import clone
from sklearn.decomposition import FactorAnalysis
from sklearn.exceptions import ConvergenceWarning
from sklearn.pipeline import make_pipeline

import streamgmm
from streamgmm import GaussianMixture, GaussianMixtureSearch, OnlineGaussianMixture, Prior
from streamgmm.cli.commands import main
from streamgmm.core.condition import examine
from streamgmm.core.e_step import EStep
from streamgmm.core.frame import Frame
from streamgmm.core.incomplete import IncompleteExpectation
from streamgmm.core.maximization import maximize
from streamgmm.core.parameters import Parameters
from streamgmm.core.structures import STRUCTURES
from streamgmm.core.structures.low_rank import largest_rank, structure_name
from streamgmm.core.structures.low_rank_factors import dense_covariances, dense_precisions, joined
from streamgmm.core.structures.low_rank_update import SecondMoments
from streamgmm.errors import (
    DataError,
    DegenerateComponentWarning,
    FewRowsWarning,
    MemoryLimitError,
    ModelFileError,
    ParameterError,
    StreamGMMError,
)
from streamgmm.events import ReadDone
from streamgmm.options import Missing
from streamgmm.plotting import plot_criteria
from streamgmm.preprocessing import StandardScaler, in_data_units
from streamgmm.testing import ChunkedSource
from tests import naive

K, D, RANK, N = 3, 9, 2, 3000

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def mixture(rank: int = RANK, d: int = D, seed: int = 0) -> Parameters:
    rng = np.random.default_rng(seed)
    covariances = joined(rng.normal(size=(K, d, rank)), rng.uniform(0.2, 1.0, size=(K, d)))
    means = 2.0 * rng.normal(size=(K, d))
    return Parameters.create(
        structure_name("low_rank", rank, d), [0.2, 0.3, 0.5], means, covariances
    )


def draw(parameters: Parameters, n: int = N, seed: int = 1) -> NDArray[np.float64]:
    rows, _ = streamgmm.core.mixtures.sampling.draw(parameters, n, np.random.default_rng(seed))
    return np.random.default_rng(seed).permutation(rows)


def as_full(parameters: Parameters) -> naive.Mixture:
    covariances = naive.extended(parameters.covariances)
    loadings = covariances[:, :, :-1]
    matrices = loadings @ np.swapaxes(loadings, 1, 2)
    matrices += covariances[:, :, -1:] * np.eye(parameters.n_features, dtype=np.longdouble)
    return naive.mixture("full", parameters.weights, parameters.means, matrices)


def inverse(matrix: Any) -> Any:
    factor = naive.cholesky(matrix[np.newaxis])[0]
    root = naive.solve_lower(factor, np.eye(len(matrix), dtype=np.longdouble))
    return root.T @ root


def factor_analysis_step(
    rows: Any, weights: Any, parameters: Parameters, ridge: float, has_held_mean: Any = (False,) * K
) -> tuple[Any, Any, Any, Any]:
    """Weights, means, ΛΛᵀ and ψ after one EM step, from responsibilities and E[z], E[zzᵀ]."""
    x, model = naive.extended(rows), as_full(parameters)
    shares = naive.responsibilities(rows, model) * naive.extended(weights)[:, np.newaxis]
    stored = naive.extended(parameters.covariances)
    unit = np.eye(parameters.n_features, dtype=np.longdouble)
    products, noises, means = [], [], []
    for k, matrix in enumerate(model.matrices):
        own, count, loadings = shares[:, k], shares[:, k].sum(), stored[k, :, :-1]
        mean = model.means[k] if has_held_mean[k] else own @ x / count
        spread = (x - mean).T * own @ (x - mean) / count + ridge * unit
        beta = loadings.T @ inverse(matrix)
        small = np.eye(loadings.shape[1], dtype=np.longdouble)
        second = small - beta @ loadings + beta @ spread @ beta.T
        new = spread @ beta.T @ inverse(second)
        products.append(new @ new.T)
        noises.append(np.maximum(np.diagonal(spread - new @ beta @ spread), ridge))
        means.append(mean)
    return shares.sum(axis=0) / shares.sum(), np.array(means), np.array(products), np.array(noises)


@pytest.mark.parametrize("rank", [0, 1, 3])
@pytest.mark.parametrize("ridge", [0.0, 0.3])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_step_is_that_of_factor_analysis(rank: int, ridge: float, dtype: Any) -> None:
    parameters = mixture(rank)
    rows = (draw(parameters, 700) + 30.0).astype(dtype)
    parameters = Parameters.create(
        parameters.covariance_type,
        parameters.weights,
        parameters.means + 30.1,
        parameters.covariances,
    )
    weights = np.random.default_rng(2).uniform(0.5, 2.0, size=len(rows))
    statistics = EStep.prepare(parameters, Frame.of(parameters, dtype)).statistics(rows, weights)
    found = maximize(statistics, parameters, reg_covar=ridge).parameters
    shares, means, products, noises = factor_analysis_step(rows, weights, parameters, ridge)
    loadings = found.covariances[:, :, :-1]
    assert statistics.n_single == (K * len(rows) if dtype == np.float32 and rank < 3 else 0)
    error = 1e-5 if statistics.n_single else 1e-9
    np.testing.assert_allclose(found.weights, shares.astype(float), rtol=error)
    np.testing.assert_allclose(found.means, means.astype(float), rtol=error)
    np.testing.assert_allclose(
        loadings @ np.swapaxes(loadings, 1, 2), products.astype(float), rtol=error, atol=error
    )
    np.testing.assert_allclose(found.covariances[:, :, -1], noises.astype(float), rtol=error)


def wide_mixture(d: int, rank: int) -> Parameters:
    """Return components of unequal widths that overlap in many columns."""
    rng = np.random.default_rng(d)
    noise = rng.uniform(0.2, 1.0, size=d)
    loadings = rng.normal(scale=0.2, size=(d, rank)) * np.sqrt(noise)[:, np.newaxis]
    stacked = loadings * np.linspace(1.0, 1.05, K)[:, np.newaxis, np.newaxis]
    means = 20.0 + rng.normal(scale=0.7 / np.sqrt(d), size=(K, d))
    name = structure_name("low_rank", rank, d)
    covariances = joined(stacked, np.broadcast_to(noise, (K, d)))
    return Parameters.create(name, [0.2, 0.3, 0.5], means, covariances)


def solved(matrix: Any, values: Any) -> Any:
    """Return the inverse of a positive matrix of extended precision times values."""
    factor = naive.cholesky(matrix[np.newaxis])[0]
    return naive.solve_lower(factor.T[::-1, ::-1], naive.solve_lower(factor, values)[::-1])[::-1]


def step_of_many_columns(rows: Any, weights: Any, parameters: Parameters) -> tuple[Any, ...]:
    """Weights, means, ΛΛᵀ and ψ after an EM step by Woodbury's identity in extended precision."""
    x, stored = naive.extended(rows), naive.extended(parameters.covariances)
    betas, log_joint = [], []
    for k, own in enumerate(stored):
        loadings, noise = own[:, :-1], own[:, -1]
        inner = np.eye(loadings.shape[1], dtype=np.longdouble) + (loadings.T / noise) @ loadings
        betas.append(solved(inner, loadings.T / noise))
        u = x - naive.extended(parameters.means[k])
        squares = (u * u / noise).sum(axis=1) - ((u / noise @ loadings) * (u @ betas[k].T)).sum(1)
        log_size = 2.0 * np.log(np.diagonal(naive.cholesky(inner[np.newaxis])[0])).sum()
        size = log_size + np.log(noise).sum()
        log_joint.append(np.log(naive.extended(parameters.weights)[k]) - (squares + size) / 2)
    densities = np.exp(np.array(log_joint) - np.max(log_joint, axis=0))
    shares = densities / densities.sum(axis=0) * naive.extended(weights)
    means, products, noises = [], [], []
    for own, beta, old in zip(shares, betas, stored, strict=True):
        mean = own @ x / own.sum()
        u = x - mean
        across = (u.T * own) @ (u @ beta.T) / own.sum()
        second = np.eye(len(beta), dtype=np.longdouble) - beta @ old[:, :-1] + beta @ across
        new = solved(second, across.T).T
        means.append(mean)
        products.append(new @ new.T)
        noises.append((own @ (u * u)) / own.sum() - (new * across).sum(axis=1))
    counts = shares.sum(axis=1)
    return counts / counts.sum(), np.array(means), np.array(products), np.array(noises)


@pytest.mark.parametrize(("dtype", "error"), [(np.float64, 1e-9), (np.float32, 1e-5)])
@pytest.mark.parametrize(("d", "rank"), [(768, 16), (75, 3)])
def test_step_of_many_columns(d: int, rank: int, dtype: Any, error: float) -> None:
    parameters = wide_mixture(d, rank)
    rows = draw(parameters, 600).astype(dtype)
    weights = np.random.default_rng(2).uniform(0.5, 2.0, size=len(rows))
    frame = Frame.of(parameters, dtype).with_directions(parameters)
    statistics = EStep.prepare(parameters, frame).statistics(rows, weights)
    # All products of rows of float32 are in float32, and no row belongs to one component alone.
    assert statistics.n_single == (K * len(rows) if dtype == np.float32 else 0)
    assert statistics.n_passed_over == 0
    found = maximize(statistics, parameters, reg_covar=0.0).parameters
    shares, means, products, noises = step_of_many_columns(rows, weights, parameters)
    loadings = found.covariances[:, :, :-1]
    np.testing.assert_allclose(found.weights, shares.astype(float), rtol=error)
    np.testing.assert_allclose(found.means, means.astype(float), rtol=error)
    # In units of the deviations.
    deviations = np.sqrt(np.diagonal(products, axis1=1, axis2=2) + noises).astype(float)
    scaled = loadings / deviations[:, :, np.newaxis]
    expected = products / (deviations[:, :, np.newaxis] * deviations[:, np.newaxis])
    np.testing.assert_allclose(
        scaled @ np.swapaxes(scaled, 1, 2), expected.astype(float), rtol=0.0, atol=error
    )
    np.testing.assert_allclose(found.covariances[:, :, -1], noises.astype(float), rtol=error)


def test_rows_of_float32_that_need_more_digits() -> None:
    parameters = wide_mixture(75, 3)
    rows = draw(parameters, 500).astype(np.float32)
    # Far outliers, values whose squares overflow in float32, infinity and NaN.
    rows[3], rows[40, 2], rows[77, 1], rows[78, 5], rows[79] = 3e3, 1e30, np.inf, np.nan, -1e4
    frame = Frame.of(parameters, np.float32).with_directions(parameters)
    found, exact = (
        EStep.prepare(parameters, frame, arithmetic).statistics(rows)
        for arithmetic in ("auto", "float64")
    )
    assert exact.n_single == 0
    assert found.n_single == K * (500 - 5)
    for name in ("n_rows", "n_overflowing", "n_not_finite", "n_missing", "weight"):
        assert getattr(found, name) == getattr(exact, name)
    assert found.log_likelihood == pytest.approx(exact.log_likelihood, rel=1e-7)
    np.testing.assert_allclose(found.counts, exact.counts, rtol=1e-5)
    moments = [one.moments / exact.counts[:, np.newaxis] for one in (found, exact)]
    scale = np.abs(moments[1]).max(axis=1, keepdims=True)
    np.testing.assert_allclose(moments[0] / scale, moments[1] / scale, atol=1e-6)


@pytest.mark.parametrize("change", ["far means", "strong loadings", "many factors"])
def test_float32_is_not_used_where_digits_would_be_lost(change: str) -> None:
    d = 75
    parameters = wide_mixture(d, 20 if change == "many factors" else 3)
    means, covariances = parameters.means.copy(), parameters.covariances.copy()
    if change == "far means":
        means[1] += 1e3
    covariances[:, :, :-1] *= {"far means": 1.0, "strong loadings": 30.0, "many factors": 4.0}[
        change
    ]
    parameters = Parameters.create(
        parameters.covariance_type, parameters.weights, means, covariances
    )
    rows = draw(parameters, 300).astype(np.float32)
    frame = Frame.of(parameters, np.float32)
    found, exact = (
        EStep.prepare(parameters, frame, arithmetic).statistics(rows)
        for arithmetic in ("auto", "float64")
    )
    assert found.n_single == 0
    assert found.moments.tobytes() == exact.moments.tobytes()


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_layout_of_rows_does_not_change_a_bit(dtype: Any) -> None:
    parameters = wide_mixture(75, 3)
    rows = draw(parameters, 300).astype(dtype)
    expectation = EStep.prepare(parameters, Frame.of(parameters, dtype))
    expected = expectation.statistics(rows).moments.tobytes()
    for layout in (np.asfortranarray(rows), np.repeat(rows, 2, axis=1)[:, ::2], rows[::-1][::-1]):
        assert expectation.statistics(layout).moments.tobytes() == expected


@pytest.mark.parametrize(("d", "rank"), [(9, 2), (40, 3)])
def test_complete_step_is_the_maximum_where_the_basis_shows_all(d: int, rank: int) -> None:
    parameters = mixture(rank, d, seed=3)
    rows = draw(mixture(rank, d, seed=4), 4000)
    frame = Frame.of(parameters).with_directions(parameters)
    statistics = EStep.prepare(parameters, frame).statistics(rows)
    once = maximize(statistics, parameters).parameters
    found = maximize(statistics, parameters, is_complete=True).parameters
    # The first step is that of a basis without directions to spare.
    plain = EStep.prepare(parameters, Frame.of(parameters)).statistics(rows)
    np.testing.assert_allclose(
        once.covariances, maximize(plain, parameters).parameters.covariances, rtol=1e-9, atol=1e-9
    )
    shares = naive.responsibilities(rows, as_full(parameters)).astype(float)

    def gain(one: Parameters) -> Any:
        # The expected log-likelihood of all responsibilities.
        densities = [
            multivariate_normal(mean, covariance).logpdf(rows)
            for mean, covariance in zip(one.means, dense_covariances(one.covariances), strict=True)
        ]
        return (shares * (np.stack(densities, axis=1) + np.log(one.weights))).sum() / len(rows)

    further = parameters
    # As many exact steps of factor analysis, with the same responsibilities.
    spreads = []
    for k in range(K):
        centred = rows - found.means[k]
        spreads.append((centred.T * shares[:, k]) @ centred / shares[:, k].sum())
    stored = once.covariances.copy()
    for k, spread in enumerate(spreads):
        for _ in range(60):
            loadings, noise = stored[k, :, :-1], stored[k, :, -1]
            across = np.linalg.solve(loadings @ loadings.T + np.diag(noise), loadings)
            inner = np.eye(rank) - across.T @ loadings + across.T @ spread @ across
            new = spread @ across @ np.linalg.inv(inner)
            stored[k, :, -1] = np.diagonal(spread - new @ across.T @ spread)
            stored[k, :, :-1] = new
    further = Parameters.create(once.covariance_type, once.weights, once.means, stored)
    whole, part = gain(further) - gain(once), gain(found) - gain(once)
    # All 9 directions of 9 columns are shown, 11 of 40 show most of it.
    assert part == pytest.approx(whole, rel=0.02) if d == 9 else 0.5 * whole < part <= whole


def test_rows_that_a_basis_shows_determine_their_second_moments() -> None:
    rng = np.random.default_rng(0)
    loadings, noise = rng.normal(size=(30, 3)), rng.uniform(0.5, 2.0, size=30)
    exact = loadings @ loadings.T + np.diag(noise)
    basis = np.concatenate([loadings / noise[:, np.newaxis], rng.normal(size=(30, 4))], axis=1)
    units = np.sqrt(noise)
    found = SecondMoments.of(basis, np.diagonal(exact), exact @ basis, units)
    np.testing.assert_allclose(found.times(basis), exact @ basis, atol=1e-9)
    # A mixture of factors and noise is recovered as a whole.
    np.testing.assert_allclose(found.times(np.eye(30)), exact, atol=1e-6)


def test_step_gains_no_less_than_that_of_ghahramani_and_hinton() -> None:
    parameters = mixture()
    rows = draw(parameters) + 0.3
    statistics = EStep.prepare(parameters, Frame.of(parameters)).statistics(rows)
    found = maximize(statistics, parameters).parameters
    # Theirs has the same loadings and noise; means are regressed together with the loadings.
    means = found.means.copy()
    for k, matrix in enumerate(dense_covariances(parameters.covariances)):
        old, new = parameters.covariances[k, :, :-1], found.covariances[k, :, :-1]
        factors = old.T @ np.linalg.solve(matrix, found.means[k] - parameters.means[k])
        means[k] -= new @ factors
    theirs = Parameters.create(found.covariance_type, found.weights, means, found.covariances)
    before, ours, other = (
        EStep.prepare(one, Frame.of(one)).statistics(rows).mean_log_likelihood
        for one in (parameters, found, theirs)
    )
    assert ours > other > before


@pytest.mark.parametrize("rank", [0, 2])
def test_densities_are_those_of_the_matrices(rank: int) -> None:
    parameters = mixture(rank)
    rows = draw(parameters, 400)
    model = as_full(parameters)
    expectation = EStep.prepare(parameters, Frame.of(parameters))
    found = expectation.posterior(rows, with_responsibilities=True)
    shares = naive.responsibilities(rows, model).astype(float)
    np.testing.assert_allclose(found.scores, naive.scores(rows, model).astype(float), rtol=1e-12)
    np.testing.assert_allclose(found.responsibilities, shares, atol=1e-12)
    np.testing.assert_array_equal(found.labels, shares.argmax(axis=1))
    assigned = expectation.assignment(rows)
    largest = naive.log_joint(rows, model).max(axis=1).astype(float)
    np.testing.assert_allclose(assigned.scores, largest, rtol=1e-12)


@pytest.mark.parametrize(("noise", "error"), [(1e-3, 1e-9), (1e-5, 1e-6)])
def test_densities_keep_their_digits_where_noise_is_small(noise: float, error: float) -> None:
    parameters = mixture()
    covariances = parameters.covariances.copy()
    covariances[:, :, -1] *= noise**2
    small = Parameters.create(
        parameters.covariance_type, parameters.weights, parameters.means, covariances
    )
    rows = draw(small, 300)
    found = EStep.prepare(small, Frame.of(small)).posterior(rows).scores
    expected = naive.scores(rows, as_full(small)).astype(float)
    # What remains is the rounding of the rows: 1e-16 over the noise.
    np.testing.assert_allclose(found, expected, atol=error)


def test_algebra_of_factors() -> None:
    parameters = mixture()
    structure, factors = parameters.structure, parameters.factors
    inverse_factors, unit = parameters.inverse_factors, np.eye(D)
    matrices = dense_covariances(parameters.covariances)
    for k, matrix in enumerate(matrices):
        root = structure.scaled_rows(unit, factors, k)
        np.testing.assert_allclose(root.T @ root, matrix, atol=1e-12)
        back = structure.solved_rows(root, factors, k)
        np.testing.assert_allclose(back, unit, atol=1e-12)
    np.testing.assert_allclose(dense_precisions(factors) @ matrices, [unit] * K, atol=1e-12)
    logs = 0.5 * np.linalg.slogdet(matrices)[1]
    np.testing.assert_allclose(structure.log_determinants(factors), logs)
    np.testing.assert_allclose(structure.log_determinants(inverse_factors), -logs)
    np.testing.assert_allclose(structure.invert(inverse_factors), factors, atol=1e-12)
    np.testing.assert_allclose(
        structure.deviations(factors), np.sqrt(np.diagonal(matrices, axis1=1, axis2=2))
    )
    ridge = np.linspace(0.1, 1.0, D)
    traces = [np.trace(np.diag(ridge) @ np.linalg.inv(matrix)) for matrix in matrices]
    np.testing.assert_allclose(structure.ridge_traces(inverse_factors, ridge), traces)
    np.testing.assert_allclose(
        dense_covariances(structure.covariances_of(factors)), matrices, atol=1e-12
    )


def fitted(rows: Any, n_components: int = K, **settings: Any) -> GaussianMixture:
    arguments = {"rank": RANK, "algorithm": "em", "random_state": 0, **settings}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return GaussianMixture(n_components, covariance_type="low_rank", **arguments).fit(rows)


def test_one_component_is_factor_analysis() -> None:
    rows = draw(mixture(), 500)
    expected = FactorAnalysis(RANK, tol=1e-12, max_iter=20_000, svd_method="lapack").fit(rows)
    model = fitted(rows, 1, tol=1e-13, max_iter=20_000, reg_covar=0.0)
    assert abs(model.score(rows) - expected.score(rows)) < 1e-6
    np.testing.assert_allclose(model.covariances_[0], expected.get_covariance(), atol=1e-3)


@pytest.mark.parametrize("ridge", [0.0, 0.2])
def test_objective_falls_by_no_more_than_the_ridge_allows(ridge: float) -> None:
    rows = draw(mixture(), 800)
    model = fitted(rows, max_iter=1, reg_covar=ridge, init_params="random")
    model.set_params(warm_start=True)
    old, values = model, []
    for _ in range(15):
        new = copy.deepcopy(old)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            new.fit(rows)
        traces = [np.trace(own.precisions_, axis1=1, axis2=2)[:, np.newaxis] for own in (old, new)]
        shares = old.predict_proba(rows).mean(axis=0)
        allowed = 0.5 * ridge * float(shares @ (traces[0] - traces[1])[:, 0])
        values.append(new.score(rows) - old.score(rows) + 1e-12 + allowed)
        old = new
    assert min(values) >= 0.0


def bits(model: GaussianMixture) -> tuple[Any, ...]:
    arrays = (model.weights_, model.means_, model.loadings_, model.noise_variances_)
    return *(array.tobytes() for array in arrays), *model.lower_bounds_


def test_bits_are_the_same_on_threads_and_on_dask(tmp_path: Path) -> None:
    rows = draw(mixture(), 40_000)
    path = tmp_path / "rows.zarr"
    dask.array.from_array(rows, chunks=(10_000, -1)).to_zarr(path)
    # Blocks that are the chunks of the source.
    sizes = tuple(np.diff(streamgmm.open(path).boundaries).tolist())
    chunked = dask.array.from_array(rows, chunks=(sizes, -1))
    settings: dict[str, Any] = {"max_iter": 4, "tol": 0.0}
    first, second = (fitted(path, n_jobs=n, **settings) for n in (1, 2))
    third = fitted(chunked, **settings)
    assert bits(first) == bits(second) == bits(third)
    scores = [
        model.score_samples(path, out=tmp_path / f"{i}.npy")
        for i, model in enumerate((first, second))
    ]
    assert np.array_equal(*map(np.load, scores))


def test_attributes_files_and_copies(tmp_path: Path) -> None:
    rows = draw(mixture())
    model = fitted(rows)
    assert model.loadings_.shape == (K, D, RANK)
    assert model.noise_variances_.shape == (K, D)
    assert model.rank_ == RANK
    expected = K * (D + D * RANK - RANK * (RANK - 1) // 2 + D) + K - 1
    assert model.criteria(rows).n_parameters == expected
    np.testing.assert_allclose(model.precisions_ @ model.covariances_, [np.eye(D)] * K, atol=1e-9)
    converted = model.to_sklearn()
    np.testing.assert_allclose(converted.score_samples(rows), model.score_samples(rows))
    model.save(tmp_path / "model.gmm")
    for other in (
        streamgmm.load(tmp_path / "model.gmm"),
        pickle.loads(pickle.dumps(model)),
        copy.copy(model),
    ):
        assert bits(other)[:4] == bits(model)[:4]
        assert np.array_equal(other.predict_proba(rows), model.predict_proba(rows))
        assert other.rank_ == RANK
    assert not hasattr(clone(model), "covariances_")
    drawn, labels = model.sample(20_000)
    own = drawn[labels == 0]
    np.testing.assert_allclose(np.cov(own.T), model.covariances_[0], atol=0.35)
    # A model of another type leaves nothing of the loadings.
    model.set_params(covariance_type="diag", rank=None).fit(rows)
    assert not hasattr(model, "loadings_")
    assert model.covariances_.shape == (K, D)


@pytest.mark.parametrize("shape", [(), (K, D), (K, D, RANK + 5), (K + 1, D, RANK)])
def test_a_file_with_loadings_of_another_shape_is_refused(
    shape: tuple[int, ...], tmp_path: Path
) -> None:
    path = tmp_path / "model.gmm"
    fitted(draw(mixture(), 300), max_iter=2).save(path)
    with np.load(path) as archive:
        arrays = dict(archive)
    arrays["loadings_"] = np.full(shape, 0.5)
    with path.open("wb") as file:
        np.savez(file, **arrays)
    with pytest.raises(ModelFileError):
        streamgmm.load(path)


def test_default_rank() -> None:
    assert [largest_rank(d) for d in (1, 2, 3, 4, 5, 6, 7, 8, 9, 100)] == [
        0, 0, 1, 1, 2, 3, 3, 4, 5, 86,
    ]  # fmt: skip
    assert structure_name("low_rank", None, 6) == "low_rank(3)"
    assert structure_name("low_rank", None, 100) == "low_rank(8)"
    model = fitted(draw(mixture())[:, :2], rank=None)
    assert model.rank_ == 0
    assert model.loadings_.shape == (K, 2, 0)
    # The type itself is not a structure, its ranks are.
    assert "low_rank" not in STRUCTURES
    assert STRUCTURES["low_rank(3)"] is STRUCTURES["low_rank(3)"]
    with pytest.raises(KeyError):
        STRUCTURES["low_rank(03)"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": D}, "up to rank 5"),
        ({"rank": 6}, "at most 5"),
        ({"rank": 2, "covariance_type": "diag"}, "only covariance_type='low_rank' has a rank"),
        ({"rank": -1}, "rank"),
        ({"rank": 1.5}, "rank"),
        ({"arithmetic": "float32"}, "arithmetic='auto'"),
        ({"fixed": {"covariances"}}, "precisions_init must be given"),
        ({"precisions_init": np.ones((K, D, 1))}, rf"should have the shape of \({K}, {D}, {D}\)"),
        ({"precisions_init": -np.tile(np.eye(D), (K, 1, 1))}, "not positive definite"),
        ({"precisions_init": np.tile(np.eye(D, k=1) + np.eye(D), (K, 1, 1))}, "not symmetric"),
        ({"precisions_init": np.full((K, D, D), np.nan)}, "NaN"),
    ],
)
def test_settings_that_are_refused(settings: dict[str, Any], message: str) -> None:
    rows = np.random.default_rng(0).normal(size=(50, D))
    arguments = {"covariance_type": "low_rank", "algorithm": "em", **settings}
    with pytest.raises(ParameterError, match=message):
        GaussianMixture(K, **arguments).fit(rows)


def test_operations_that_are_refused(tmp_path: Path) -> None:
    rows = draw(mixture(), 500)
    model = fitted(rows)
    for refused in (
        lambda: OnlineGaussianMixture.from_batch(model, rank=RANK + 1),
        lambda: OnlineGaussianMixture(2, covariance_type="low_rank", rank=D).partial_fit(rows),
        lambda: OnlineGaussianMixture(2, rank=1).partial_fit(rows),
        lambda: GaussianMixtureSearch(2, covariance_type="diag", rank=2).fit(rows),
        lambda: GaussianMixtureSearch(2, covariance_type="low_rank", rank=D).fit(rows),
        lambda: OnlineGaussianMixture.merged([model, fitted(rows, rank=RANK + 1)]),
    ):
        with pytest.raises(StreamGMMError):
            refused()


def test_search_chooses_the_components_and_the_structure() -> None:
    rows = draw(mixture(), 2000)
    search = GaussianMixtureSearch(
        range(2, 5), covariance_type=("diag", "low_rank"), rank=RANK, random_state=0
    ).fit(rows)
    assert search.best_params_ == {
        "n_components": K,
        "covariance_type": "low_rank",
        "rank": RANK,
    }
    assert search.best_estimator_.bic(rows) == pytest.approx(search.best_score_)
    is_low_rank = search.cv_results_["param_covariance_type"] == "low_rank"
    is_exact = is_low_rank & (search.cv_results_["status"] != "pruned")
    assert (np.diff(search.cv_results_["log_likelihood"][is_exact]) > 0.0).all()


@pytest.mark.parametrize("features", [[3, 1, 0, 7, 5, 8], [1, 4, 5, 6], [2]])
def test_marginal_is_that_of_the_matrices(features: list[int]) -> None:
    rows = draw(mixture(), 400)
    model = fitted(rows, max_iter=5)
    dense = GaussianMixture.from_sklearn(model.to_sklearn())
    own, other = model.marginal(features), dense.marginal(features)
    # Few columns determine no loadings of this rank.
    expected = "low_rank" if largest_rank(len(features)) >= RANK else "full"
    assert own.covariance_type == expected
    np.testing.assert_allclose(own.covariances_, other.covariances_, atol=1e-12)
    chosen = rows[:, features]
    np.testing.assert_allclose(own.score_samples(chosen), other.score_samples(chosen))


@pytest.mark.parametrize("given", [{0: 1.0, 5: -1.0}, {3: 0.5}, {i: 0.3 * i for i in range(7)}])
def test_conditional_is_that_of_the_matrices(given: dict[int, float]) -> None:
    model = fitted(draw(mixture(), 400), max_iter=5)
    dense = GaussianMixture.from_sklearn(model.to_sklearn())
    own, other = model.conditional(given), dense.conditional(given)
    np.testing.assert_allclose(own.covariances_, other.covariances_, atol=1e-12)
    np.testing.assert_allclose(own.means_, other.means_, atol=1e-12)
    np.testing.assert_allclose(own.weights_, other.weights_, atol=1e-12)


def gapped(n: int = 500) -> NDArray[np.float64]:
    rows = draw(mixture(), n)
    is_missing = np.random.default_rng(5).uniform(size=rows.shape) < 0.3
    is_missing[:50], is_missing[60] = False, True
    return np.where(is_missing, np.nan, rows)


@pytest.mark.parametrize("is_hard", [False, True])
def test_rows_with_gaps_count_as_under_the_matrices(is_hard: bool) -> None:
    parameters, rows = mixture(), gapped()
    weights = np.random.default_rng(6).uniform(0.5, 2.0, size=len(rows))
    matrices = dense_covariances(parameters.covariances)
    full = Parameters.create("full", parameters.weights, parameters.means, matrices)
    own, other = (
        IncompleteExpectation.prepare(one, Frame.of(one), is_hard=is_hard)
        for one in (parameters, full)
    )
    found, expected = (one.statistics(rows, weights) for one in (own, other))
    for name in ("log_likelihood", "weight", "n_rows", "n_not_finite", "n_missing"):
        assert getattr(found, name) == pytest.approx(getattr(expected, name), rel=1e-12)
    assert found.conditional_entropy == pytest.approx(expected.conditional_entropy, rel=1e-10)
    np.testing.assert_allclose(found.counts, expected.counts)
    step, dense_step = maximize(found, parameters).parameters, maximize(expected, full).parameters
    np.testing.assert_allclose(step.means, dense_step.means)
    for k, spread in enumerate(dense_step.covariances):
        # One step of factor analysis from the expected covariance of the rows.
        loadings = parameters.covariances[k, :, :-1]
        beta = loadings.T @ np.linalg.inv(matrices[k])
        second = np.eye(RANK) - beta @ loadings + beta @ spread @ beta.T
        new = spread @ beta.T @ np.linalg.inv(second)
        noise = np.diagonal(spread - new @ beta @ spread)
        np.testing.assert_allclose(step.covariances[k, :, -1], noise, rtol=1e-9)
        found_loadings = step.covariances[k, :, :-1]
        np.testing.assert_allclose(found_loadings @ found_loadings.T, new @ new.T, atol=1e-9)
    posterior, dense_posterior = (one.posterior(rows, True) for one in (own, other))
    has_values = ~np.isnan(rows).all(axis=1)
    for name in ("scores", "responsibilities", "labels"):
        values = (getattr(one, name)[has_values] for one in (posterior, dense_posterior))
        np.testing.assert_allclose(*values, atol=1e-12)
    np.testing.assert_allclose(own.impute(rows), other.impute(rows), atol=1e-12)


@pytest.mark.parametrize("algorithm", ["auto", "em", "hard"])
def test_fits_of_rows_with_gaps(algorithm: str) -> None:
    source = streamgmm.open(gapped(1000), missing="em")
    model = fitted(source, algorithm=algorithm, reg_covar=0.0, max_iter=40, tol=1e-6)
    assert np.diff(model.lower_bounds_).min() >= -1e-12
    assert not np.isnan(model.impute(source)).any()
    if algorithm == "auto":
        assert model.icl_ == pytest.approx(model.icl(source))
    assert fitted(streamgmm.open(gapped(), missing="drop"), max_iter=3).n_features_in_ == D


def test_alignment_pairs_the_same_components() -> None:
    rows = draw(mixture(), 1000)
    model, other = fitted(rows), fitted(rows[:500], random_state=5)
    found = other.aligned(model)
    assert np.abs(found.means_ - model.means_).max() < 1.0
    dense, other_dense = (GaussianMixture.from_sklearn(one.to_sklearn()) for one in (model, other))
    np.testing.assert_array_equal(found.means_, other_dense.aligned(dense).means_)


def test_pictures_need_the_shown_columns_only() -> None:
    rows = draw(mixture(), 300)
    model = fitted(rows, max_iter=3)
    model.set_params(memory_limit="1KiB")
    axes = streamgmm.plotting.plot_mixture(model, rows, features=(0, 1))
    assert axes.has_data()


def test_matrices_that_do_not_fit_are_refused() -> None:
    model = fitted(draw(mixture(), 500), memory_limit=None)
    model.set_params(memory_limit="1KiB")
    with pytest.raises(MemoryLimitError, match="use loadings_ and noise_variances_"):
        _ = model.covariances_
    with pytest.raises(MemoryLimitError):
        model.to_sklearn()


def bad_rows() -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(3)
    rows = rng.normal(size=(200, D)) @ rng.normal(size=(D, D))
    directions = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    constant = rows.copy()
    constant[:, [0, 4]] = 5.0, 0.0
    return {
        "constant columns": constant,
        "duplicates": np.repeat(rows[:1], 200, axis=0),
        "unit vectors": directions,
        "float16": rows.astype(np.float16),
        "float32": rows.astype(np.float32),
        "integers": (10.0 * rows).astype(np.int16),
        "scales": rows * 10.0 ** np.arange(-8, 2 * D - 8, 2),
        "offsets": rows + 1e9,
        "few rows": rows[:3],
        "exact rank": rows[:, :2] @ rng.normal(size=(2, D)),
        "one outlier": np.concatenate([rows, np.full((1, D), 1e6)]),
        "rare values": np.where(np.arange(D) < 3, np.eye(200, D), rows),
        "binary": (rng.uniform(size=(200, D)) < 0.05).astype(np.uint8),
        "equal columns": rows[:, [*range(D - 1), 0]],
        "three rows beside others": np.concatenate([rows, 50.0 + np.repeat(rows[:3], 10, axis=0)]),
    }


@pytest.mark.parametrize("what", bad_rows())
@pytest.mark.parametrize(
    ("ridge", "algorithm"), [("auto", "em"), (0.0, "em"), ("auto", "auto"), (0.0, "auto")]
)
def test_unusual_rows_give_a_mixture(what: str, ridge: Any, algorithm: str) -> None:
    rows = bad_rows()[what]
    model = fitted(rows, 2, max_iter=20, reg_covar=ridge, algorithm=algorithm)
    scores = model.score_samples(rows)
    assert np.isfinite(scores).all()
    assert (model.noise_variances_ > 0.0).all()
    # Densities by the identity of Woodbury are those of the matrices, as far as these can be told.
    if what not in ("duplicates", "scales", "exact rank", "few rows") and ridge == "auto":
        logs = [
            np.log(weight)
            + multivariate_normal(mean, covariance).logpdf(np.asarray(rows, dtype=np.float64))
            for weight, mean, covariance in zip(
                model.weights_, model.means_, model.covariances_, strict=True
            )
        ]
        np.testing.assert_allclose(scores, np.logaddexp(*logs), atol=1e-4, rtol=1e-6)


def warnings_of(fit: Callable[[], Any]) -> dict[type[Warning], str]:
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        fit()
    return {one.category: str(one.message) for one in found}


@pytest.mark.parametrize(
    ("n_rows", "d", "n_components", "rank"),
    [(4, 9, 1, 5), (5, 9, 2, 5), (2, 9, 2, 2), (2, 9, 1, 1), (6, 9, 1, 5), (20, 50, 2, 8)],
)
@pytest.mark.parametrize("algorithm", ["em", "auto", "hard"])
def test_few_rows_give_a_mixture_and_warnings(
    n_rows: int, d: int, n_components: int, rank: int, algorithm: str
) -> None:
    rows = np.random.default_rng(7).normal(size=(n_rows, d))
    variances = rows.var(axis=0)
    for ridge, prior in ((0.0, None), ("auto", None), (0.0, "chen-tan"), (0.0, "fraley-raftery")):
        model = GaussianMixture(
            n_components,
            covariance_type="low_rank",
            rank=rank,
            algorithm=algorithm,  # type: ignore[arg-type]
            reg_covar=ridge,
            prior=prior,
            max_iter=20,
            random_state=0,
        )
        found = warnings_of(lambda model=model: model.fit(rows))  # type: ignore[misc]
        assert {FewRowsWarning, DegenerateComponentWarning} <= found.keys()
        assert np.isfinite(model.score_samples(rows)).all()
        assert (model.noise_variances_ > 1e-13 * variances).all()
        if prior is not None:
            # No direction is as narrow as single rows would make it.
            scaled = model.covariances_ / np.sqrt(np.outer(variances, variances))
            assert np.linalg.eigvalsh(scaled).min() > 1e-4


@pytest.mark.parametrize("ridge", ["auto", 0.0])
@pytest.mark.parametrize("algorithm", ["em", "auto", "hard"])
def test_a_component_of_repeated_rows_is_reported(ridge: Any, algorithm: Any) -> None:
    rng = np.random.default_rng(5)
    # 40 rows of a component are enough for rank 4, but only three of them differ.
    rows = np.concatenate([rng.normal(size=(600, 30)), 50 + rng.normal(size=(3, 30)).repeat(14, 0)])
    model = GaussianMixture(
        2,
        covariance_type="low_rank",
        rank=4,
        algorithm=algorithm,
        reg_covar=ridge,
        random_state=0,
    )
    message = warnings_of(lambda: model.fit(rows))[DegenerateComponentWarning]
    own = int(model.predict(rows[-1:])[0])
    assert f"component(s) {own} of the mixture say little of the data" in message
    assert ("along a combination of columns" in message) == (ridge == "auto")


def test_narrow_directions_are_those_of_the_matrices() -> None:
    ridge = np.full(D, 1e-6)
    narrow, twins, high = 1, 2, 0
    covariances = mixture().covariances.copy()
    # All noise is the ridge; two columns are nearly equal; two noise variances alone are small.
    covariances[narrow, :, -1] = 1.1 * ridge
    covariances[twins, 4] = covariances[twins, 3]
    covariances[twins, 3:5, -1] = 1.1 * ridge[3:5]
    covariances[high, :2, -1] = ridge[:2]
    low = Parameters.create(
        mixture().covariance_type, mixture().weights, mixture().means, covariances
    )
    dense = Parameters.create("full", low.weights, low.means, dense_covariances(low.covariances))
    counts = np.full(K, 1000.0)
    found, expected = (examine(one, counts, ridge) for one in (low, dense))
    assert found.findings == expected.findings == {("ridge", narrow), ("ridge", twins)}
    (share,) = (own.ridge for own in found.components if own.number == twins)
    assert share is not None
    np.testing.assert_array_equal(share.columns, [3, 4])


def test_search_chooses_the_rank(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(2000, 2)) @ rng.normal(size=(2, 7)) + 0.3 * rng.normal(size=(2000, 7))
    search = GaussianMixtureSearch(
        1, covariance_type=["low_rank", "diag"], rank=[1, 2, 3], random_state=0
    ).fit(rows)
    assert search.best_params_ == {"n_components": 1, "covariance_type": "low_rank", "rank": 2}
    assert search.best_estimator_.rank == 2
    np.testing.assert_array_equal(search.cv_results_["param_rank"], [1, 2, 3, 0])
    bics = [
        GaussianMixture(1, covariance_type="low_rank", rank=rank, random_state=0).fit(rows).bic_
        for rank in (1, 2, 3)
    ]
    # A rank that cannot win is not fitted further, to the tolerance of 1e-3 nats per row.
    np.testing.assert_allclose(search.cv_results_["bic"][:3], bics, atol=2.0 * 2000 * 1e-3)
    labels = plot_criteria(search).get_legend_handles_labels()[1]
    assert labels[:4] == ["low_rank 1", "low_rank 2", "low_rank 3", "diag"]
    for rank in ([], [1.5], [1, 6]):
        with pytest.raises(ParameterError, match="rank"):
            search.set_params(rank=rank).fit(rows)
    np.save(tmp_path / "rows.npy", rows)
    command = f"select {tmp_path}/rows.npy -k 1 --types low_rank --rank 1:2 -o {tmp_path}/best.gmm"
    found = CliRunner().invoke(main, command.split())
    assert found.exit_code == 0, found.output
    assert "low_rank 2" in found.output
    assert streamgmm.load(tmp_path / "best.gmm").rank_ == 2


def test_warnings_say_which_rank_the_rows_support() -> None:
    rng = np.random.default_rng(0)
    rows = np.concatenate([rng.normal(size=(400, 30)), 50.0 + rng.normal(size=(12, 30))])

    def warned(rows: NDArray[np.float64], rank: int) -> dict[type[Warning], str]:
        model = GaussianMixture(
            2, covariance_type="low_rank", rank=rank, algorithm="em", random_state=0
        )
        return warnings_of(lambda: model.fit(rows))

    # 12 rows are fewer than the columns, but enough for rank 3.
    assert DegenerateComponentWarning not in warned(rows, 3)
    message = warned(rows, 12)[DegenerateComponentWarning]
    assert "no more rows than rank + 2, which is 14: component(s)" in message
    assert "use rank=9, which all of these rows support, or fit more rows" in message
    # 2 components of rank 1 have 2 (30 + 60) + 1 parameters, those of rank 2 have 58 more.
    message = warned(rng.normal(size=(200, 30)), 5)[FewRowsWarning]
    assert "Use rank=1 (181 parameters), covariance_type='diag' (121 parameters)" in message
    # Fewer rows support no factor.
    message = warned(rng.normal(size=(130, 30)), 5)[FewRowsWarning]
    assert "Use covariance_type='diag' (121 parameters)" in message
    assert "rank=" not in message
    message = warned(np.concatenate([rows[:400], rows[-3:]]), 3)[DegenerateComponentWarning]
    assert "use rank=0 (diagonal covariances), which all of these rows support" in message


def test_rows_that_cannot_be_used() -> None:
    rows = np.random.default_rng(0).normal(size=(50, D))
    rows[7, 3] = np.inf
    with pytest.raises(DataError):
        fitted(rows)


def test_weights_count_rows() -> None:
    rows = draw(mixture(), 600)
    weights = np.random.default_rng(0).integers(1, 4, size=len(rows))
    start: dict[str, Any] = {"means_init": mixture().means, "max_iter": 30, "tol": 1e-9}
    once = fitted(np.repeat(rows, weights, axis=0), init_params="random", **start)
    arguments = {"rank": RANK, "algorithm": "em", "random_state": 0, "init_params": "random"}
    weighted = GaussianMixture(K, covariance_type="low_rank", **{**arguments, **start})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        weighted.fit(rows, sample_weight=weights)
    assert weighted.score(rows, sample_weight=weights) == pytest.approx(
        once.score(np.repeat(rows, weights, axis=0)), abs=0.05
    )


def test_few_passes_reach_what_em_reaches() -> None:
    rows = draw(mixture(seed=4), 4000)
    plain = fitted(rows, tol=1e-9, max_iter=500)
    found = fitted(rows, algorithm="auto", tol=1e-6)
    assert found.converged_
    assert found.score(rows) >= plain.score(rows) - 1e-5
    assert found.n_reads_ <= 0.3 * plain.n_reads_
    # The criteria are those of the pass that evaluated the parameters.
    assert found.bic_ == pytest.approx(found.bic(rows))
    assert found.icl_ == pytest.approx(found.icl(rows))
    matrices = [
        np.log(weight) + multivariate_normal(mean, covariance).logpdf(rows)
        for weight, mean, covariance in zip(
            found.weights_, found.means_, found.covariances_, strict=True
        )
    ]
    shares = np.exp(np.stack(matrices, axis=1) - found.score_samples(rows)[:, np.newaxis])
    entropy = -np.sum(shares * np.log(np.maximum(shares, 1e-300)))
    assert found.icl_ - found.bic_ == pytest.approx(2.0 * entropy, rel=1e-6)


@pytest.mark.parametrize("missing", ["error", "em"])
def test_statistics_of_the_survey_are_those_of_a_pass_of_their_own(missing: Missing) -> None:
    rows = draw(mixture(1, 5), 140_000)
    if missing == "em":
        rows[np.random.default_rng(2).random(rows.shape) < 0.02] = np.nan

    def fit(survey_part: float) -> GaussianMixture:
        source = ChunkedSource(rows, 1400)
        source.missing = missing
        return fitted(source, rank=1, algorithm="auto", tol=1e-6, survey_part=survey_part)

    found, apart = fit(1.0), fit(0.9)
    purposes = [entry["purpose"] for entry in found.history_]
    assert purposes[:2] == ["pilot", "survey"]
    # Had the statistics of the survey been of no use, there would be one iteration more.
    assert purposes.count("iteration") == found.n_iter_ - 1
    assert found.lower_bound_ == pytest.approx(apart.lower_bound_, abs=1e-5)
    first, *others = found.lower_bounds_
    assert first == next(e["log_likelihood"] for e in found.history_ if e["purpose"] == "survey")
    assert first < min(others)


def test_parameters_as_labelled_arrays() -> None:
    data = xarray.DataArray(
        draw(mixture(d=6), 600).reshape(20, 30, 6), dims=("y", "x", "band"), name="radiance"
    )
    source = streamgmm.open(data, feature_dim="band")
    model = fitted(source)
    found = model.to_xarray()
    assert found["loadings"].dims == ("component", "band", "factor")
    assert found["noise_variances"].dims == ("component", "band")
    assert "covariances" not in found
    assert found.attrs["covariance_type"] == "low_rank"
    dense = xarray.dot(found["loadings"], found["loadings"].rename(band="band_2"), dim="factor")
    covariances = dense.values + np.eye(6) * found["noise_variances"].values[:, np.newaxis]
    np.testing.assert_allclose(covariances, model.covariances_, rtol=1e-12, atol=1e-12)
    assert model.predict(source).dims == ("y", "x")


def test_statistics_and_units_are_those_of_the_matrices() -> None:
    rows = draw(mixture(), 1000)
    model = fitted(rows)
    dense = GaussianMixture.from_sklearn(model.to_sklearn())
    np.testing.assert_allclose(
        model.entropy_samples(rows), dense.entropy_samples(rows), rtol=1e-9, atol=1e-12
    )
    of = rows[:, 0] ** 2
    means = [one.component_statistics(rows, of=of).means for one in (model, dense)]
    np.testing.assert_allclose(means[0], means[1], rtol=1e-9)
    pipeline = make_pipeline(StandardScaler(), clone(model)).fit(rows)
    scale, fit_of_scaled = pipeline[0].scale_, pipeline[1]
    np.testing.assert_allclose(
        in_data_units(pipeline).covariances,
        fit_of_scaled.covariances_ * np.outer(scale, scale),
        rtol=1e-9,
        atol=1e-12,
    )


def rows_with_noise(n: int = 3000) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Rows of which one in eight is uniform noise in a box."""
    rows, rng = draw(mixture(), n), np.random.default_rng(11)
    is_noise = rng.uniform(size=n) < 0.125
    rows[is_noise] = rng.uniform(-15.0, 15.0, size=(int(is_noise.sum()), D))
    return rows, is_noise


def test_noise_weights_are_those_of_em_in_numpy() -> None:
    rows, _ = rows_with_noise(800)
    n_steps, log_density = 4, -30.0
    start = fitted(rows, algorithm="em", max_iter=1, noise=log_density, init_params="random")
    start.set_params(warm_start=True, reg_covar=0.0)
    weights, of_noise = start.weights_, start.noise_weight_
    means, covariances = start.means_, start.covariances_
    loadings = start.loadings_
    for _ in range(n_steps):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            start.fit(rows)
        densities = [
            weight * multivariate_normal(mean, covariance).pdf(rows)
            for weight, mean, covariance in zip(weights, means, covariances, strict=True)
        ]
        joint = np.column_stack([*densities, np.full(len(rows), of_noise * np.exp(log_density))])
        shares = joint / joint.sum(axis=1, keepdims=True)
        counts = shares[:, :K].sum(axis=0)
        weights, of_noise = counts / len(rows), 1.0 - counts.sum() / len(rows)
        means = shares[:, :K].T @ rows / counts[:, np.newaxis]
        new, new_loadings = [], []
        for k, old in enumerate(covariances):
            apart = rows - means[k]
            spread = (apart.T * shares[:, k]) @ apart / counts[k]
            beta = np.linalg.solve(old, loadings[k]).T
            second = np.eye(RANK) - beta @ loadings[k] + beta @ spread @ beta.T
            own = spread @ beta.T @ np.linalg.inv(second)
            new.append(own @ own.T + np.diag(np.diagonal(spread - own @ beta @ spread)))
            new_loadings.append(own)
        covariances, loadings = np.array(new), np.array(new_loadings)
    np.testing.assert_allclose(start.weights_, weights, rtol=1e-8)
    assert start.noise_weight_ == pytest.approx(of_noise, rel=1e-8)
    np.testing.assert_allclose(start.means_, means, atol=1e-8)
    np.testing.assert_allclose(start.covariances_, covariances, atol=1e-7)


@pytest.mark.parametrize("algorithm", ["auto", "em", "hard"])
def test_planted_noise_is_found(algorithm: str, tmp_path: Path) -> None:
    rows, is_noise = rows_with_noise()
    model = fitted(rows, algorithm=algorithm, noise="uniform", reg_covar=0.0)
    assert model.noise_weight_ == pytest.approx(is_noise.mean(), abs=0.005)
    assert np.mean((model.predict(rows) == -1) == is_noise) > 0.99
    if algorithm != "hard":
        assert np.diff(model.lower_bounds_).min() >= -1e-12
    proba = model.predict_proba(rows)
    np.testing.assert_array_equal(1.0 - proba.sum(axis=1) > 0.5, model.predict(rows) == -1)
    model.save(tmp_path / "model.gmm")
    loaded: Any = streamgmm.load(tmp_path / "model.gmm")
    np.testing.assert_array_equal(loaded.score_samples(rows), model.score_samples(rows))
    free = K * (D + D * RANK - RANK * (RANK - 1) // 2 + D) + K
    assert model.criteria(rows).n_parameters == free
    _, labels = model.sample(4000)
    assert np.mean(labels == -1) == pytest.approx(model.noise_weight_, abs=0.03)
    for own in (model.marginal([0, 1, 2, 3, 4]), model.conditional({3: 0.5})):
        assert own.noise_weight_ > 0.0
    gaps = np.where(np.random.default_rng(0).uniform(size=rows.shape) < 0.1, np.nan, rows)
    source = streamgmm.open(gaps[:1000], missing="em")
    again = fitted(source, algorithm=algorithm, noise="uniform", max_iter=30)
    assert again.noise_weight_ == pytest.approx(is_noise[:1000].mean(), abs=0.02)


def test_noise_without_rows_loses_its_weight() -> None:
    rows = bad_rows()["exact rank"]
    model = fitted(rows, 2, algorithm="auto", noise=-5.0, tol=1e-9, max_iter=30)
    assert np.isfinite(model.score_samples(rows)).all()
    assert model.noise_weight_ == pytest.approx(0.0, abs=1e-9)


def test_few_passes_with_noise_reach_what_em_reaches() -> None:
    rows, _ = rows_with_noise()
    plain = fitted(rows, noise="uniform", tol=1e-10, max_iter=1000, reg_covar=0.0)
    found = fitted(rows, algorithm="auto", noise="uniform", tol=1e-8, reg_covar=0.0)
    assert found.converged_
    # The box of few passes is that of the survey's rows, which here are all rows.
    assert found.noise_log_density_ == pytest.approx(plain.noise_log_density_)
    assert found.score(rows) == pytest.approx(plain.score(rows), abs=1e-6)
    assert found.n_reads_ < 0.5 * plain.n_reads_


@pytest.mark.parametrize("prior", ["fraley-raftery", "chen-tan", Prior(np.zeros(D), 0.1)])
def test_priors_keep_components_of_few_rows_wide(prior: Any, tmp_path: Path) -> None:
    rows = draw(mixture(), 1500)
    rows[:3] = 40.0
    settings: dict[str, Any] = {"prior": prior, "reg_covar": 0.0}
    plain = fitted(rows, 4, max_iter=30, **settings)
    found = fitted(rows, 4, algorithm="auto", tol=1e-4, **settings)
    without = fitted(rows, 4, algorithm="auto", tol=1e-4, reg_covar=0.0)
    assert found.converged_
    for model in (plain, found):
        assert np.abs(model.means_ - 40.0).max(axis=1).min() < 5.0
        assert model.noise_variances_.min() > 0.01
    assert np.linalg.eigvalsh(without.covariances_).min() < 1e-6
    found.save(tmp_path / "model.gmm")
    loaded: Any = streamgmm.load(tmp_path / "model.gmm")
    assert loaded.prior == prior
    assert bits(loaded)[:4] == bits(found)[:4]
    wrong = Prior(covariance_prior=np.eye(D))
    with pytest.raises(ParameterError, match="covariance_prior"):
        fitted(rows, prior=wrong)


def test_covariances_of_a_fit_can_be_held() -> None:
    rows = draw(mixture(), 1500)
    for fixed in ({"covariances"}, {"covariances": [True, False, False]}):
        for algorithm in ("em", "auto", "hard"):
            model = fitted(rows, algorithm=algorithm, max_iter=4, reg_covar=0.0)
            before = model.loadings_.copy(), model.noise_variances_.copy()
            model.set_params(warm_start=True, fixed=fixed, max_iter=20)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                model.fit(rows + 0.2)
            n_held = 1 if isinstance(fixed, dict) else K
            np.testing.assert_array_equal(model.loadings_[:n_held], before[0][:n_held])
            np.testing.assert_array_equal(model.noise_variances_[:n_held], before[1][:n_held])
            if isinstance(fixed, dict):
                assert np.abs(model.noise_variances_[1:] - before[1][1:]).max() > 0.0
            assert np.diff(model.lower_bounds_).min() >= -1e-12


def test_clusters_of_components_are_those_of_the_matrices() -> None:
    rows = draw(mixture(), 1500)
    model = fitted(rows, 5)
    dense = GaussianMixture.from_sklearn(model.to_sklearn())
    own, other = (one.merged_components(rows, n_clusters=3) for one in (model, dense))
    np.testing.assert_array_equal(own.clusters, other.clusters)
    np.testing.assert_allclose(own.entropies, other.entropies, rtol=1e-6, atol=1e-6)
    fit = fitted(rows, 5, algorithm="auto")
    assert len(fit.merged_components().clusters) == 5


def test_hard_assignment_never_falls() -> None:
    rows = draw(mixture(), 1500)
    model = fitted(rows, algorithm="hard", tol=1e-10, max_iter=200, reg_covar=0.0)
    assert model.converged_
    assert np.diff(model.lower_bounds_).min() >= -1e-12
    labels = model.predict(rows)
    own = [
        (np.log(weight) + multivariate_normal(mean, covariance).logpdf(rows))
        for weight, mean, covariance in zip(
            model.weights_, model.means_, model.covariances_, strict=True
        )
    ]
    np.testing.assert_array_equal(labels, np.argmax(own, axis=0))
    assert model.lower_bound_ == pytest.approx(np.max(own, axis=0).mean(), abs=1e-6)


@pytest.mark.parametrize("algorithm", ["auto", "em", "hard"])
def test_an_interrupted_fit_continues_with_the_same_bits(algorithm: str, tmp_path: Path) -> None:
    rows = draw(mixture(), 1000)
    settings: dict[str, Any] = {"algorithm": algorithm, "max_iter": 5, "tol": 0.0}
    whole = fitted(rows, **settings)

    def interrupt(event: Any) -> None:
        if isinstance(event, ReadDone) and event.iteration == 3:
            raise KeyboardInterrupt

    folder = tmp_path / "checkpoint"
    with pytest.raises(KeyboardInterrupt):
        fitted(rows, **settings, checkpoint=folder, callbacks=[interrupt])
    model = GaussianMixture(
        K,
        covariance_type="low_rank",
        rank=RANK,
        random_state=0,
        checkpoint=folder,
        **settings,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(rows, resume=True)
    assert bits(model) == bits(whole)


@pytest.mark.parametrize(("d", "rank"), [(3, 1), (9, 5), (13, 8), (60, 8)])
@pytest.mark.parametrize("true_rank", ["whole", "less"])
def test_precisions_of_low_rank_give_their_covariances(d: int, rank: int, true_rank: str) -> None:
    rng = np.random.default_rng(d)
    n_factors = rank if true_rank == "whole" else rank // 2
    loadings = rng.normal(size=(K, d, n_factors)) * 10.0 ** rng.uniform(-3, 3, size=(K, d, 1))
    own = np.square(loadings).sum(axis=2) + 1e-3
    matrices = dense_covariances(joined(loadings, own * 10.0 ** rng.uniform(-2, 1, size=(K, d))))
    name = structure_name("low_rank", rank, d)
    found = Parameters.from_precisions(
        name, np.full(K, 1.0 / K), np.zeros((K, d)), np.linalg.inv(matrices)
    )
    roots = np.sqrt(np.diagonal(matrices, axis1=1, axis2=2))
    scales = roots[:, :, np.newaxis] * roots[:, np.newaxis]
    np.testing.assert_allclose(
        dense_covariances(found.covariances) / scales, matrices / scales, rtol=0.0, atol=1e-6
    )


@pytest.mark.parametrize("rank", [0, 2, 5])
def test_precisions_of_other_matrices_give_the_factor_analysis(rank: int) -> None:
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(200, D)) @ rng.normal(size=(D, D)) + rng.normal(size=(200, D))
    covariance = np.cov(rows.T, bias=True)
    model = fitted(
        rows,
        1,
        rank=rank,
        algorithm="auto",
        weights_init=[1.0],
        means_init=[rows.mean(axis=0)],
        precisions_init=[np.linalg.inv(covariance)],
        max_iter=0,
    )
    if rank == 0:
        np.testing.assert_allclose(model.noise_variances_[0], np.diag(covariance))
        return
    expected = FactorAnalysis(rank, tol=1e-10, max_iter=5000, svd_method="lapack").fit(rows)
    assert model.score(rows) > expected.score(rows) - 1e-6


@pytest.mark.parametrize("algorithm", ["em", "auto", "hard"])
def test_a_fit_begins_with_precisions(algorithm: str, tmp_path: Path) -> None:
    rows = draw(mixture(), 1500)
    dense = np.linalg.inv(dense_covariances(mixture().covariances))
    start = {"means_init": mixture().means + 0.2, "precisions_init": dense}
    model = fitted(rows, algorithm=algorithm, tol=1e-9, max_iter=200, reg_covar=0.0, **start)
    alone = fitted(rows, algorithm=algorithm, precisions_init=dense)
    assert model.score(rows) == pytest.approx(alone.score(rows), abs=0.01)
    # As with other types, a start that is given is a setting, and a file holds it.
    model.save(tmp_path / "model.gmm")
    loaded: Any = streamgmm.load(tmp_path / "model.gmm")
    np.testing.assert_array_equal(loaded.precisions_init, dense)
    assert model.to_sklearn().precisions_init.shape == (K, D, D)
    again = fitted(
        rows,
        weights_init=model.weights_,
        means_init=model.means_,
        reg_covar=0.0,
        precisions_init=model.precisions_,
        algorithm="auto",
        max_iter=0,
    )
    assert again.score(rows) == pytest.approx(model.score(rows), abs=1e-9)


@pytest.mark.parametrize("algorithm", ["em", "auto", "hard"])
@pytest.mark.parametrize("scale", [1e-2, 1.0, 30.0])
def test_factors_that_the_precisions_lack_are_found(algorithm: str, scale: float) -> None:
    rows = draw(mixture(), 1500)
    without = fitted(rows, rank=0, algorithm=algorithm)
    usual = fitted(rows, algorithm=algorithm)
    # EM never changes loadings of 0, which a diagonal matrix has.
    found = fitted(rows, algorithm=algorithm, precisions_init=np.tile(scale * np.eye(D), (K, 1, 1)))
    assert found.score(rows) > without.score(rows) + 0.5
    assert found.score(rows) == pytest.approx(usual.score(rows), abs=0.02)
    exact = fitted(
        rows,
        algorithm="auto",
        precisions_init=[np.eye(D)] * K,
        max_iter=0,
        weights_init=usual.weights_,
        means_init=usual.means_,
    )
    np.testing.assert_allclose(exact.covariances_, np.tile(np.eye(D), (K, 1, 1)), atol=1e-12)


MASKS: dict[str, list[bool]] = {
    "weights": [True, False, False],
    "means": [False, True, True],
    "covariances": [False, False, True],
}


@pytest.mark.parametrize(
    "names", [names for n in (1, 2, 3) for names in itertools.combinations(MASKS, n)]
)
def test_fixed_parameters_of_a_first_fit_stay(names: tuple[str, ...]) -> None:
    truth = mixture()
    rows = draw(truth, 600)
    matrices = dense_covariances(truth.covariances)
    settings: dict[str, Any] = {
        "weights_init": truth.weights,
        "means_init": truth.means + 0.2,
        "precisions_init": np.linalg.inv(matrices),
        "reg_covar": 0.0,
    }
    start = Parameters.create(
        truth.covariance_type, truth.weights, truth.means + 0.2, truth.covariances
    )
    fixed = {name: MASKS[name] for name in names}
    held = {name: np.array(fixed.get(name, [False] * K)) for name in MASKS}
    once = fitted(rows, **settings, fixed=fixed, max_iter=1, tol=0.0)
    counts, means, products, noises = factor_analysis_step(
        rows, np.ones(len(rows)), start, 0.0, held["means"]
    )
    free = ~held["weights"]
    weights = np.array(truth.weights)
    left = 1.0 - weights[~free].sum()
    weights[free] = left * (counts[free] / counts[free].sum()).astype(float)
    covariances = products + noises[:, :, np.newaxis] * np.eye(D)
    covariances = np.where(held["covariances"][:, np.newaxis, np.newaxis], matrices, covariances)
    np.testing.assert_allclose(once.weights_, weights, rtol=1e-7)
    np.testing.assert_allclose(once.means_, means.astype(float), rtol=1e-7, atol=1e-7)
    np.testing.assert_allclose(once.covariances_, covariances.astype(float), atol=1e-6)
    for algorithm in ("auto", "hard"):
        model = fitted(rows, algorithm=algorithm, **settings, fixed=fixed, max_iter=10)
        np.testing.assert_allclose(model.weights_[~free], truth.weights[~free])
        np.testing.assert_array_equal(model.means_[held["means"]], start.means[held["means"]])
        own = held["covariances"]
        np.testing.assert_allclose(model.covariances_[own], matrices[own], atol=1e-7)
        assert np.diff(model.lower_bounds_).min(initial=0.0) >= -1e-12
        whole = {name: [True] * K for name in names}
        everything = fitted(rows, algorithm=algorithm, **settings, fixed=whole, max_iter=2)
        if "covariances" in names:
            np.testing.assert_allclose(everything.covariances_, matrices, atol=1e-7)


@pytest.mark.parametrize("noise", [None, "uniform"])
def test_the_search_holds_covariances(noise: Any) -> None:
    rows = gapped()
    matrices = dense_covariances(mixture().covariances)
    model = fitted(
        streamgmm.open(rows, missing="em"),
        algorithm="auto",
        precisions_init=np.linalg.inv(matrices),
        fixed={"covariances"},
        noise=noise,
        prior="fraley-raftery",
    )
    np.testing.assert_allclose(model.covariances_, matrices, atol=1e-7)


def test_covariances_that_the_rank_cannot_hold_are_not_fixed() -> None:
    rows = draw(mixture(), 300)
    matrices = dense_covariances(mixture().covariances)
    matrices[1] += dense_covariances(mixture(RANK, seed=5).covariances)[1]
    settings: dict[str, Any] = {"precisions_init": np.linalg.inv(matrices), "max_iter": 3}
    for fixed in ({"covariances"}, {"covariances": [False, True, True]}):
        with pytest.raises(ParameterError, match=r"component\(s\) 1 in .* not of rank 2 plus a"):
            fitted(rows, fixed=fixed, **settings)
    fitted(rows, fixed={"covariances": [True, False, True]}, **settings)
    # The remedy of the message.
    found = fitted(rows, fixed={"covariances"}, **{**settings, "rank": 2 * RANK})
    np.testing.assert_allclose(found.covariances_, matrices, atol=1e-7)
    # A fit that continues holds its own.
    model = fitted(rows, **settings)
    before = model.loadings_.copy()
    model.set_params(warm_start=True, fixed={"covariances"})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(rows)
    np.testing.assert_array_equal(model.loadings_, before)


def test_a_fit_continues_from_a_fitted_model() -> None:
    rows = draw(mixture(), 2000)
    model = fitted(rows, algorithm="auto", max_iter=1, tol=1e-9)
    before = model.score(rows)
    model.set_params(warm_start=True, max_iter=50)
    assert model.fit(rows).score(rows) >= before - 1e-12
    assert model.converged_
    # At the optimum three passes show that nothing is left to gain.
    assert model.fit(rows).n_reads_ <= 4
    model.set_params(rank=RANK + 1)
    with pytest.raises(ParameterError, match="warm_start"):
        model.fit(rows)


def test_fixed_means_and_weights_stay() -> None:
    rows = draw(mixture(), 1500)
    means = mixture().means + 0.1
    for algorithm in ("auto", "em"):
        model = fitted(
            rows, algorithm=algorithm, means_init=means, fixed={"means", "weights"}, reg_covar=0.0
        )
        np.testing.assert_array_equal(model.means_, means)
        np.testing.assert_array_equal(model.weights_, np.full(K, 1.0 / K))
    assert np.diff(model.lower_bounds_).min() >= -1e-12


def test_command_line(tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", draw(mixture(), 500))
    model = tmp_path / "model.gmm"
    command = ["fit", str(tmp_path / "rows.npy"), "-k", "2", "-o", str(model)]
    found = CliRunner().invoke(main, [*command, "-t", "low_rank", "--rank", "3"])
    assert found.exit_code == 0, found.output
    assert streamgmm.load(model).rank_ == 3
    again = ["fit", str(tmp_path / "rows.npy"), "-o", str(tmp_path / "b.gmm"), "--start"]
    found = CliRunner().invoke(main, [*again, str(model), "--fixed", "covariances"])
    assert found.exit_code == 0, found.output
    begun, held = streamgmm.load(model), streamgmm.load(tmp_path / "b.gmm")
    np.testing.assert_array_equal(held.loadings_, begun.loadings_)
    assert not held.warm_start
    found = CliRunner().invoke(main, [*again, str(model), "--rank", "2"])
    assert found.exit_code != 0
    assert "rank" in found.output
    described = CliRunner().invoke(main, ["info", str(model), "--json"])
    assert '"loadings"' in described.output
    refused = CliRunner().invoke(main, [*command, "-t", "diag", "--rank", "3"])
    assert refused.exit_code != 0
    assert "only" in refused.output
