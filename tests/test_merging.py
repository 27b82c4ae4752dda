"""Models that were trained apart, on rows of their own, as one that continues learning."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
from numpy.typing import NDArray
from sklearn.exceptions import NotFittedError

import streamgmm
from streamgmm import GaussianMixture, OnlineGaussianMixture
from streamgmm.core.parameters import Parameters
from streamgmm.errors import DegenerateComponentWarning, ParameterError
from streamgmm.options import CovarianceType
from tests.core.cases import TYPES, draw, random_parameters

K, D = 4, 2
Rows = NDArray[np.float64]


def mixture(covariance_type: CovarianceType = "full") -> Parameters:
    return random_parameters(np.random.default_rng(1), covariance_type, K, D, spread=8.0)


def rows_of(
    n_rows: int,
    seed: int,
    covariance_type: CovarianceType = "full",
    components: Sequence[int] = range(K),
) -> Rows:
    """Rows of some components of the mixture."""
    whole = mixture(covariance_type)
    own = list(components)
    is_tied = covariance_type == "tied"
    part = Parameters.create(
        covariance_type,
        whole.weights[own] / whole.weights[own].sum(),
        whole.means[own],
        whole.covariances if is_tied else whole.covariances[own],
    )
    return draw(np.random.default_rng(seed), part, n_rows)


def batch(rows: Rows, **settings: Any) -> GaussianMixture:
    return GaussianMixture(**{"n_components": K, "random_state": 0, "tol": 1e-6, **settings}).fit(
        rows
    )


def online(rows: Rows, **settings: Any) -> OnlineGaussianMixture:
    model = OnlineGaussianMixture(K, init_size=500, random_state=0, **settings)
    for start in range(0, len(rows), 250):
        model.partial_fit(rows[start : start + 250])
    return model


def distances(model: Any, means: Rows) -> Rows:
    """From each of some means to the nearest of the model."""
    return np.linalg.norm(model.means_[:, np.newaxis] - means, axis=2).min(axis=0)


# The first mixture of a stream has 125 rows, and may have a component of two of them.
@pytest.mark.filterwarnings("ignore::streamgmm.errors.DegenerateComponentWarning")
@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("n_models", [2, 8])
def test_models_of_parts_are_as_good_as_one_of_all(
    covariance_type: CovarianceType, n_models: int
) -> None:
    parts = [rows_of(2000, seed, covariance_type) for seed in range(n_models)]
    settings = {"covariance_type": covariance_type}
    models = [(batch, online)[i % 2](rows, **settings) for i, rows in enumerate(parts)]
    merged = OnlineGaussianMixture.merged(models)
    whole = batch(np.concatenate(parts), **settings)
    held_out = rows_of(20_000, 99, covariance_type)
    assert merged.score(held_out) == pytest.approx(whole.score(held_out), abs=1e-3)
    assert merged.score(held_out) > max(model.score(held_out) for model in models)
    assert merged.n_samples_seen_ == 2000 * n_models
    assert 0.0 <= merged.merging_loss_ < 0.01


def test_components_that_some_have_not_seen_are_kept() -> None:
    first, second = rows_of(3000, 1, components=[0, 1, 2]), rows_of(3000, 2, components=[1, 2, 3])
    models = [batch(first), online(second)]
    merged = OnlineGaussianMixture.merged(models)
    assert distances(merged, mixture().means).max() < 0.3
    both = np.vstack([first, second])
    assert merged.score(both) > batch(both).score(both) - 0.01
    for model in models:
        assert distances(model, mixture().means).max() > 1.0


def test_the_loss_says_when_components_are_too_few() -> None:
    first, second = rows_of(3000, 1, components=[0, 1]), rows_of(3000, 2, components=[2, 3])
    models = [batch(first, n_components=2), batch(second, n_components=2)]
    poor = OnlineGaussianMixture.merged(models)
    good = OnlineGaussianMixture.merged(models, n_components=4)
    assert poor.n_components == 2 and good.n_components == 4
    assert good.merging_loss_ == pytest.approx(0.0, abs=1e-3)
    both = np.vstack([first, second])
    assert poor.merging_loss_ == pytest.approx(good.score(both) - poor.score(both), rel=0.1)
    assert poor.merging_loss_ > 0.2


def test_it_goes_on_learning_from_all_rows_so_far(tmp_path: Path) -> None:
    halves = [rows_of(5000, seed) for seed in range(2)]
    for i, rows in enumerate(halves):
        online(rows).save(tmp_path / f"{i}.gmm")
    models = [streamgmm.load(tmp_path / f"{i}.gmm") for i in range(2)]
    merged = OnlineGaussianMixture.merged(models)
    moved = rows_of(100, 3) + 1.0
    before = merged.weights_ @ merged.means_
    merged.save(tmp_path / "merged.gmm")
    loaded = streamgmm.load(tmp_path / "merged.gmm")
    assert loaded.merging_loss_ == merged.merging_loss_  # type: ignore[union-attr]
    for model in (merged, loaded):
        model.partial_fit(moved)  # type: ignore[union-attr]
        shift = model.weights_ @ model.means_ - before
        everything = np.vstack([*halves, moved])
        expected = everything.mean(axis=0) - np.vstack(halves).mean(axis=0)
        np.testing.assert_allclose(shift, expected, atol=1e-4)
        assert model.n_samples_seen_ == 10_100  # type: ignore[union-attr]
    np.testing.assert_array_equal(merged.means_, loaded.means_)
    assert merged.to_batch().score(moved) == merged.score(moved)


def test_a_long_stream_stands_for_all_its_rows() -> None:
    """Its statistics are an average, of fewer."""
    long, short = (online(rows_of(n, n), learning_offset=1000) for n in (30_000, 3000))
    merged = OnlineGaussianMixture.merged([long, short])
    expected = (
        30_000 * long.weights_ @ long.means_ + 3000 * short.weights_ @ short.means_
    ) / 33_000
    np.testing.assert_allclose(merged.weights_ @ merged.means_, expected, rtol=1e-9)
    again = OnlineGaussianMixture.from_batch(long.to_batch())
    assert again.n_samples_seen_ == pytest.approx(30_000)


def test_what_is_forgotten_does_not_come_back() -> None:
    models = [online(rows_of(6000, seed), half_life=1000.0) for seed in range(2)]
    merged = OnlineGaussianMixture.merged(models)
    assert merged.half_life == 1000.0
    assert merged.n_samples_seen_ == 12_000
    stand_for = sum(model.fitted_model_.statistics.weight for model in models)
    assert merged.fitted_model_.statistics.weight == pytest.approx(stand_for)
    assert stand_for == pytest.approx(2 * 1000.0 / np.log(2.0), rel=0.1)


def test_settings_are_the_first_models_but_for_those_given() -> None:
    models = [batch(rows_of(1000, 1), reg_covar=1e-3), batch(rows_of(1000, 2))]
    merged = OnlineGaussianMixture.merged(iter(models), half_life=500.0)
    assert (merged.reg_covar, merged.half_life, merged.random_state) == (1e-3, 500.0, 0)
    assert merged.history_ == [] and merged.changes_ == []


def test_a_new_fit_forgets_the_merger() -> None:
    rows = rows_of(1000, 1)
    merged = OnlineGaussianMixture.merged([batch(rows), batch(rows_of(1000, 2))])
    merged.fit(rows)
    assert not hasattr(merged, "merging_loss_")
    assert merged.n_samples_seen_ == 1000


def test_a_model_alone_is_reduced() -> None:
    model = batch(rows_of(2000, 1))
    reduced = OnlineGaussianMixture.merged([model], n_components=2)
    assert reduced.means_.shape == (2, D)
    np.testing.assert_allclose(
        reduced.weights_ @ reduced.means_, model.weights_ @ model.means_, atol=1e-4
    )
    with pytest.raises(ParameterError, match=r"n_components is 2, but the model has 4.*merged"):
        OnlineGaussianMixture.from_batch(model, n_components=2)


def test_components_without_rows_make_room() -> None:
    parts = [rows_of(3000, seed, components=own) for seed, own in enumerate(([0, 1, 2], [3]))]
    start = mixture()
    means = np.vstack([start.means[:3], [[1e4, 1e4]]])
    dead = GaussianMixture(
        K,
        algorithm="em",
        weights_init=np.full(K, 0.25),
        means_init=means,
        precisions_init=np.tile(np.eye(D), (K, 1, 1)),
    )
    with pytest.warns(DegenerateComponentWarning):
        dead.fit(parts[0])
    assert np.count_nonzero(dead.weights_) == 3
    merged = OnlineGaussianMixture.merged([dead, batch(parts[1], n_components=1)], n_components=K)
    assert np.count_nonzero(merged.weights_) == K
    assert distances(merged, start.means).max() < 0.5


def refusals() -> dict[str, tuple[list[Any], dict[str, Any], type[Exception], str]]:
    rows = rows_of(500, 1)
    one = batch(rows)
    framed = batch(pandas.DataFrame(rows, columns=["a", "b"]))  # type: ignore[arg-type]
    other = batch(pandas.DataFrame(rows, columns=["a", "c"]))  # type: ignore[arg-type]
    return {
        "none": ([], {}, ParameterError, "no model to merge"),
        "no model": ([one, rows], {}, ParameterError, "model 1 is a ndarray; give a Gaussian"),
        "not fitted": ([one, GaussianMixture(K)], {}, NotFittedError, "not fitted"),
        "not begun": ([OnlineGaussianMixture(K)], {}, NotFittedError, "not fitted"),
        "no statistics": (
            [one, GaussianMixture.from_sklearn(one.to_sklearn())],
            {},
            ParameterError,
            "model 1 has no statistics to continue from: it was converted",
        ),
        "other type": (
            [one, batch(rows, covariance_type="diag")],
            {},
            ParameterError,
            "model 1 is of diag covariances and 2 features, model 0 of full covariances and 2",
        ),
        "other columns": (
            [one, batch(rows[:, :1])],
            {},
            ParameterError,
            "1 is of full.*1 features",
        ),
        "other names": ([framed, other], {}, ParameterError, "features: a, c, model 0 .*: a, b;"),
        "other size": (
            [one, batch(rows, n_components=3)],
            {},
            ParameterError,
            "have 4, 3 components; say how many.*n_components=, at most 7",
        ),
        "too many": ([one, one], {"n_components": 9}, ParameterError, "is 9, but.*8 in all"),
        "setting": ([one, one], {"reg_covar": -1.0}, ValueError, "reg_covar"),
        "new type": ([one], {"covariance_type": "diag"}, ParameterError, "cannot be chosen anew"),
    }


@pytest.mark.parametrize("name", refusals())
def test_models_that_do_not_go_together_are_refused(name: str) -> None:
    models, settings, error, message = refusals()[name]
    with pytest.raises(error, match=message):
        OnlineGaussianMixture.merged(models, **settings)
