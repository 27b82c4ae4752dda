"""Streams, model files and merging of mixtures of low rank: as good as batch fits, to the bit."""

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray

import streamgmm
from streamgmm import GaussianMixture, OnlineGaussianMixture
from streamgmm.cli.commands import main
from streamgmm.core.mixtures.sampling import draw
from streamgmm.core.parameters import Parameters
from streamgmm.core.structures.low_rank_factors import dense_covariances, joined
from streamgmm.errors import MemoryLimitError, ModelFileError, ParameterError
from streamgmm.events import ChangeDetected, Event

K, D, RANK = 3, 20, 2
Rows = NDArray[np.float64]

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def mixture(seed: int = 0) -> Parameters:
    rng = np.random.default_rng(seed)
    covariances = joined(rng.normal(size=(K, D, RANK)), rng.uniform(0.2, 1.0, size=(K, D)))
    return Parameters.create(
        f"low_rank({RANK})", [0.2, 0.3, 0.5], 1.5 * rng.normal(size=(K, D)), covariances
    )


def crowded() -> Parameters:
    """Full covariances of slowly falling eigenvalues, which no loadings of low rank describe."""
    rng, matrices = np.random.default_rng(0), []
    for _ in range(K):
        rotation = np.linalg.qr(rng.normal(size=(D, D)))[0]
        matrices.append((rotation * (4.0 * np.arange(1.0, D + 1.0) ** -1.4)) @ rotation.T)
    matrices = [own + 0.05 * np.diag(rng.uniform(0.5, 2.0, D)) for own in matrices]
    return Parameters.create("full", [0.2, 0.3, 0.5], rng.normal(size=(K, D)), matrices)


def stream(n: int, seed: int = 1, of: Parameters | None = None) -> Rows:
    rows, _ = draw(mixture() if of is None else of, n, np.random.default_rng(seed))
    return np.random.default_rng(seed).permutation(rows)


def online(**settings: Any) -> OnlineGaussianMixture:
    arguments: dict[str, Any] = {
        "covariance_type": "low_rank",
        "rank": RANK,
        "init_size": 2000,
        "learning_offset": 4000,
        "random_state": 0,
    }
    return OnlineGaussianMixture(K, **{**arguments, **settings})


def batch(rows: Any, **settings: Any) -> GaussianMixture:
    arguments: dict[str, Any] = {
        "n_components": K,
        "covariance_type": "low_rank",
        "rank": RANK,
        "random_state": 0,
        "tol": 1e-6,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return GaussianMixture(**{**arguments, **settings}).fit(rows)


def batches(rows: Rows, size: int = 500) -> Iterator[Rows]:
    return (rows[start : start + size] for start in range(0, len(rows), size))


def learn(model: OnlineGaussianMixture, rows: Rows, size: int = 500) -> OnlineGaussianMixture:
    for part in batches(rows, size):
        model.partial_fit(part)
    return model


def bits(model: Any) -> list[bytes]:
    arrays = (model.weights_, model.means_, model.loadings_, model.noise_variances_)
    return [array.tobytes() for array in arrays]


@pytest.mark.parametrize("kind", ["low rank", "crowded"])
def test_one_pass_is_as_good_as_a_batch_fit(kind: str) -> None:
    of = mixture() if kind == "low rank" else crowded()
    rows, held_out = stream(40_000, of=of), stream(20_000, seed=2, of=of)
    best = batch(rows).score(held_out)
    model = learn(online(), rows)
    assert abs(model.score(held_out) - best) < 1e-3
    assert model.n_samples_seen_ == 40_000.0


def test_the_cut_of_the_stream_and_files_do_not_matter(tmp_path: Path) -> None:
    rows = np.vstack([stream(2000), stream(1003, seed=4) + 3.0])
    settings: dict[str, Any] = {"half_life": 1500, "init_size": 500}
    first = learn(online(**settings), rows, len(rows))
    model = learn(online(**settings), rows, 173)
    assert bits(model) == bits(first)
    assert model.history_ == first.history_
    model = online(**settings)
    for i, part in enumerate(batches(rows, 1000)):
        model.save(tmp_path / f"{i}.gmm")
        loaded = OnlineGaussianMixture.load(tmp_path / f"{i}.gmm")
        assert loaded.rank == RANK
        model = loaded.partial_fit(part)
    assert bits(model) == bits(first)
    described = CliRunner().invoke(main, ["info", str(tmp_path / "3.gmm"), "--json"])
    assert np.shape(json.loads(described.output)["loadings"]) == (K, D, RANK)


def test_weights_and_gaps_of_rows_count(tmp_path: Path) -> None:
    rows = stream(4000)
    weights = np.random.default_rng(0).integers(1, 3, len(rows)).astype(float)
    # All rows are searched at once, and so in the same order.
    settings: dict[str, Any] = {"init_size": 20_000, "learning_offset": 30_000}
    weighted = online(**settings).partial_fit(rows, sample_weight=weights)
    assert weighted.n_samples_seen_ == weights.sum()
    repeated = batch(np.repeat(rows, weights.astype(int), axis=0))
    assert weighted.score(rows, sample_weight=weights) == pytest.approx(
        repeated.score(rows, sample_weight=weights), abs=5e-3
    )
    gaps = np.where(np.random.default_rng(1).uniform(size=rows.shape) < 0.05, np.nan, rows)
    model = online(init_size=500)
    for part in batches(gaps[:2000], 1000):
        model.partial_fit(streamgmm.open(part, missing="em"))
    assert model.score(rows) > weighted.score(rows) - 0.1


def test_a_stream_that_changes_is_followed() -> None:
    events: list[Event] = []
    model = online(half_life=2000, init_size=1000, callbacks=[events.append])
    learn(model, stream(20_000))
    other = mixture(seed=9)
    learn(model, stream(12_000, seed=3, of=other))
    assert any(isinstance(event, ChangeDetected) for event in events)
    held_out = stream(10_000, seed=5, of=other)
    assert batch(stream(3000, seed=3, of=other)).score(held_out) - model.score(held_out) < 0.02


def test_starved_components_begin_again() -> None:
    rows = stream(9000)
    places = np.full((K, D), 1e3)
    start = batch(rows, max_iter=1, algorithm="em")
    start.means_[2] = places[2]
    model = OnlineGaussianMixture.from_batch(start, learning_offset=1.0, half_life=2000)
    model.partial_fit(rows)
    assert np.isfinite(model.score(rows))
    assert np.abs(model.means_).max() < 50.0


def test_batch_fits_continue_as_streams_and_back() -> None:
    rows, more = stream(10_000), stream(10_000, seed=6)
    first = batch(rows)
    model = OnlineGaussianMixture.from_batch(first)
    np.testing.assert_allclose(model.covariances_, first.covariances_, atol=1e-12)
    assert (model.rank_, model.rank) == (RANK, RANK)
    learn(model, more)
    together = batch(np.vstack([rows, more]))
    held_out = stream(20_000, seed=8)
    assert abs(together.score(held_out) - model.score(held_out)) < 1e-3
    back = model.to_batch(warm_start=True)
    assert bits(back) == bits(model)
    assert back.fit(np.vstack([rows, more])).score(held_out) == pytest.approx(
        together.score(held_out), abs=1e-4
    )
    for own in (model, model.to_batch()):
        assert own.aligned(first).means_.shape == (K, D)
        assert own.marginal([0, 3, 4, 6, 7, 9]).covariance_type == "low_rank"


def test_a_model_file_learns_each_row_once(tmp_path: Path) -> None:
    file, rows = tmp_path / "model.gmm", stream(2000)
    settings: dict[str, Any] = {
        "n_components": K,
        "covariance_type": "low_rank",
        "rank": RANK,
        "random_state": 0,
        "init_size": 500,
    }
    for i in (0, 1, 1, 0):
        found = streamgmm.update(file, rows[1000 * i : 1000 * (i + 1)], i, **settings)
    assert found.n_samples_seen_ == 2000.0
    whole = learn(OnlineGaussianMixture(**settings), rows, 1000)
    assert bits(found) == bits(streamgmm.load(file)) == bits(whole)
    with pytest.raises(ParameterError, match="rank"):
        streamgmm.update(file, rows, 7, rank=RANK + 1)
    of_batch = tmp_path / "batch.gmm"
    batch(rows).save(of_batch)
    assert streamgmm.update(of_batch, rows, 1).n_samples_seen_ == 4000.0
    np.save(tmp_path / "rows.npy", rows)
    command = f"update {tmp_path}/cli.gmm {tmp_path}/rows.npy -k 3 -t low_rank --rank 2"
    result = CliRunner().invoke(main, command.split())
    assert result.exit_code == 0, result.output
    assert streamgmm.load(tmp_path / "cli.gmm").rank_ == 2


def test_a_file_of_another_rank_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.gmm"
    learn(online(), stream(3000)).save(path)
    with np.load(path) as archive:
        arrays = dict(archive)
    arrays["model.covariances"] = arrays["model.covariances"][:, :, :-1]
    with path.open("wb") as file:
        np.savez(file, **arrays)
    with pytest.raises(ModelFileError):
        streamgmm.load(path)


@pytest.mark.parametrize("kind", ["low rank", "crowded"])
def test_halves_merge_into_the_whole(kind: str) -> None:
    of = mixture() if kind == "low rank" else crowded()
    rows, held_out = stream(40_000, of=of), stream(20_000, seed=2, of=of)
    best = batch(rows).score(held_out)
    halves: list[Any] = [batch(rows[::2], random_state=1), learn(online(), rows[1::2])]
    merged = OnlineGaussianMixture.merged(halves)
    assert abs(merged.score(held_out) - best) < 1e-3
    assert merged.merging_loss_ < 1e-3
    assert merged.n_samples_seen_ == 40_000.0
    assert bits(merged) != bits(halves[0])
    other = OnlineGaussianMixture.merged(halves[::-1])
    assert other.score(held_out) == pytest.approx(merged.score(held_out), abs=1e-6)
    # What is merged continues to learn.
    assert abs(learn(merged, rows[:4000]).score(held_out) - best) < 2e-3


def test_components_of_one_model_alone_are_kept() -> None:
    whole = mixture()
    parts = []
    for chosen in ([0, 1], [1, 2]):
        own = Parameters.create(
            whole.covariance_type, [0.5, 0.5], whole.means[chosen], whole.covariances[chosen]
        )
        parts.append(batch(stream(8000, of=own), n_components=2))
    merged = OnlineGaussianMixture.merged(parts, n_components=K)
    order = [int(np.argmin(np.linalg.norm(merged.means_ - mean, axis=1))) for mean in whole.means]
    assert sorted(order) == [0, 1, 2]
    np.testing.assert_allclose(merged.means_[order], whole.means, atol=0.15)
    np.testing.assert_allclose(merged.weights_[order], [0.25, 0.5, 0.25], atol=0.02)
    wanted = dense_covariances(whole.covariances)
    np.testing.assert_allclose(merged.covariances_[order], wanted, atol=0.5)
    assert merged.merging_loss_ < 0.01
    two = OnlineGaussianMixture.merged(parts, n_components=2)
    assert two.merging_loss_ > 0.1
    with pytest.raises(ParameterError, match="rank"):
        OnlineGaussianMixture.merged([parts[0], batch(stream(2000), rank=3, n_components=2)])
    with pytest.raises(MemoryLimitError):
        OnlineGaussianMixture.merged(parts, n_components=K, memory_limit="1KiB")


@pytest.mark.parametrize("prior", ["fraley-raftery", "chen-tan"])
def test_streams_have_priors(prior: Any, tmp_path: Path) -> None:
    rows = stream(4000)
    # A prior is as strong as its rows are beside those that the stream stands for.
    model = learn(online(prior=prior, init_size=1000, learning_offset=30_000), rows)
    model.save(tmp_path / "model.gmm")
    loaded = OnlineGaussianMixture.load(tmp_path / "model.gmm")
    more = stream(2000, seed=7)
    assert bits(learn(loaded, more)) == bits(learn(model, more))
    whole = batch(np.vstack([rows, more]), prior=prior)
    held_out = stream(20_000, seed=2)
    assert abs(whole.score(held_out) - model.score(held_out)) < 1e-3
    continued = OnlineGaussianMixture.from_batch(whole)
    assert np.isfinite(learn(continued, more).score(held_out))


def test_attributes_of_streams() -> None:
    model = online(init_size=100).partial_fit(stream(600))
    dense = dense_covariances(joined(model.loadings_, model.noise_variances_))
    np.testing.assert_allclose(model.covariances_, dense)
    np.testing.assert_allclose(model.precisions_ @ dense, [np.eye(D)] * K, atol=1e-8)
    upper = model.precisions_cholesky_
    np.testing.assert_allclose(upper @ np.swapaxes(upper, 1, 2), model.precisions_, atol=1e-8)
    model.set_params(memory_limit="1KiB")
    with pytest.raises(MemoryLimitError, match="use loadings_"):
        _ = model.covariances_
    diag = OnlineGaussianMixture(2, covariance_type="diag", random_state=0).partial_fit(stream(600))
    assert not hasattr(diag, "loadings_")
    assert not hasattr(diag, "rank_")
    assert online(rank=None).partial_fit(stream(600)).rank_ == 8
