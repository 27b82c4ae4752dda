"""A mixture that learns a stream: right, whole, and the same however the stream is cut."""

import itertools
import math
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
from numpy.typing import NDArray
from sklearn.exceptions import NotFittedError

import streamgmm
from streamgmm import GaussianMixture, OnlineGaussianMixture
from streamgmm.core.e_step import EStep
from streamgmm.core.frame import Frame
from streamgmm.core.parameters import Parameters
from streamgmm.errors import (
    DataError,
    DegenerateComponentWarning,
    LeftOutRowsWarning,
    NotFiniteError,
    ParameterError,
)
from streamgmm.events import ChangeDetected, ComponentsReseeded, Event, MixtureFound
from streamgmm.options import CovarianceType
from tests.core.cases import TYPES, draw, random_parameters

K, D = 3, 2
Rows = NDArray[np.float64]
PARAMETERS = ("weights_", "means_", "covariances_", "precisions_", "precisions_cholesky_")


def mixture(covariance_type: CovarianceType = "full", seed: int = 0) -> Parameters:
    return random_parameters(np.random.default_rng(seed), covariance_type, K, D, spread=5.0)


def stream(n_rows: int, covariance_type: CovarianceType = "full", seed: int = 1) -> Rows:
    return draw(np.random.default_rng(seed), mixture(covariance_type), n_rows)


def small(**settings: Any) -> OnlineGaussianMixture:
    """A model that has soon been through all there is: searches, steps, averages."""
    arguments: dict[str, Any] = {"init_size": 500, "learning_offset": 1000, "random_state": 0}
    return OnlineGaussianMixture(K, **{**arguments, **settings})


def batches(rows: Rows, size: int) -> Iterator[Rows]:
    return (rows[start : start + size] for start in range(0, len(rows), size))


def moved(rows: Rows) -> Rows:
    """Rows of another place."""
    return rows + np.array([4.0, -4.0])


def learn(model: OnlineGaussianMixture, rows: Rows, size: int = 250) -> OnlineGaussianMixture:
    for batch in batches(rows, size):
        model.partial_fit(batch)
    return model


def optimum(parameters: Parameters, rows: Rows) -> float:
    prepared = EStep.prepare(parameters, Frame.of(parameters))
    return prepared.statistics(rows).mean_log_likelihood


def assert_same(left: OnlineGaussianMixture, right: OnlineGaussianMixture) -> None:
    """To the bit."""
    for name in PARAMETERS:
        np.testing.assert_array_equal(getattr(left, name), getattr(right, name), err_msg=name)
    assert left.history_ == right.history_
    assert left.changes_ == right.changes_
    assert left.n_samples_seen_ == right.n_samples_seen_


@pytest.mark.parametrize("covariance_type", TYPES)
def test_one_pass_is_as_good_as_a_batch_fit(covariance_type: CovarianceType) -> None:
    rows, held_out = stream(40_000, covariance_type), stream(20_000, covariance_type, seed=2)
    batch = GaussianMixture(K, covariance_type=covariance_type, random_state=0, tol=1e-7).fit(rows)
    model = learn(small(covariance_type=covariance_type), rows)
    assert model.score(held_out) == pytest.approx(batch.score(held_out), abs=5e-4)
    learn(model, rows)
    assert model.score(held_out) == pytest.approx(batch.score(held_out), abs=2e-4)


def test_averaged_steps_come_closer_than_the_last_one() -> None:
    rows, distances = stream(60_000), []
    batch = GaussianMixture(K, random_state=0, tol=1e-9).fit(rows)
    for half_life in (None, 500.0):
        model = learn(small(half_life=half_life), rows)
        distances.append(batch.score(rows) - model.score(rows))
    assert 0.0 < 20.0 * distances[0] < distances[1]


def cuts(rows: Rows) -> dict[str, list[Any]]:
    """Return the same rows in batches of many kinds."""
    n, rng = len(rows), np.random.default_rng(5)
    random = np.split(rows, np.sort(rng.choice(np.arange(1, n), 60, replace=False)))
    pieces = np.array_split(rows, 12)
    types: list[Any] = [np.float32, np.float64, ">f8", np.longdouble]
    return {
        "one batch": [rows],
        "single rows": list(batches(rows, 1)),
        "7": list(batches(rows, 7)),
        "173": list(batches(rows, 173)),
        "1023": list(batches(rows, 1023)),
        "1024": list(batches(rows, 1024)),
        "random": random,
        "types": [piece.astype(types[i % 4]) for i, piece in enumerate(pieces)],
        "lists": [piece.tolist() for piece in pieces],
        "columns first": [np.asfortranarray(piece) for piece in pieces],
        "frames": [pandas.DataFrame(piece).to_numpy() for piece in pieces],
        "sources": [streamgmm.open(piece) for piece in pieces],
    }


# The first searches of a stream have few rows.
@pytest.mark.filterwarnings("ignore::streamgmm.errors.FewRowsWarning")
@pytest.mark.filterwarnings("ignore::streamgmm.errors.DegenerateComponentWarning")
def test_the_cut_of_the_stream_does_not_matter(tmp_path: Path) -> None:
    """To the bit, in the middle of a block too, and in the file."""
    rows = np.vstack([stream(2600), stream(1303, seed=4) + 30.0]).astype(np.float32)
    rows = rows.astype(np.float64)
    files, first = set(), None
    for kind, parts in cuts(rows).items():
        model = small(half_life=300)
        for part in parts:
            model.partial_fit(part)
        model.save(tmp_path / "m.gmm")
        files.add((tmp_path / "m.gmm").read_bytes())
        assert len(files) == 1, kind
        first = first or model
        assert_same(model, first)
        assert model.score(rows) == first.score(rows)
    assert first is not None
    assert first.state_.progress.n_pending > 0
    assert bool(first.changes_)


# The first searches of a stream have few rows.
@pytest.mark.filterwarnings("ignore::streamgmm.errors.FewRowsWarning")
@pytest.mark.filterwarnings("ignore::streamgmm.errors.DegenerateComponentWarning")
@pytest.mark.parametrize("read_every", [1, 40])
def test_what_is_read_or_saved_meanwhile_does_not_matter(read_every: int, tmp_path: Path) -> None:
    rows = stream(900)
    model, through = small(), small().partial_fit(rows)
    for i, batch in enumerate(batches(rows, 18)):
        model.partial_fit(batch)
        if i % read_every == 0:
            model.save(tmp_path / "m.gmm")
            model = streamgmm.load(tmp_path / "m.gmm")  # type: ignore[assignment]
            assert model.means_.shape == (K, D)
            assert model.n_samples_seen_ == 18 * (i + 1)
    assert_same(model, through)


# The first searches of a stream have few rows.
@pytest.mark.filterwarnings("ignore::streamgmm.errors.FewRowsWarning")
@pytest.mark.filterwarnings("ignore::streamgmm.errors.DegenerateComponentWarning")
@pytest.mark.filterwarnings("ignore::streamgmm.errors.LeftOutRowsWarning")
@pytest.mark.parametrize("weights", ["whole", "fractions", "zeros", "large"])
def test_the_cut_of_rows_with_weights_does_not_matter(weights: str) -> None:
    rows, rng = stream(3000), np.random.default_rng(2)
    own = {
        "whole": rng.integers(1, 4, 3000).astype(float),
        "fractions": rng.random(3000),
        "zeros": rng.random(3000) * rng.integers(0, 2, 3000),
        "large": np.where(np.arange(3000) % 700 == 699, 1e4, 1.0),
    }[weights]
    first = None
    for size in (3000, 500, 171):
        model = small()
        for start in range(0, 3000, size):
            part = slice(start, start + size)
            # Weights of 1 may be skipped.
            given = None if np.all(own[part] == 1.0) else own[part]
            model.partial_fit(rows[part], sample_weight=given)
        first = first or model
        assert_same(model, first)
    assert first is not None
    assert first.n_samples_seen_ == pytest.approx(own.sum(), rel=1e-12)


# The first searches of a stream have few rows.
@pytest.mark.filterwarnings("ignore::streamgmm.errors.FewRowsWarning")
@pytest.mark.filterwarnings("ignore::streamgmm.errors.DegenerateComponentWarning")
@pytest.mark.filterwarnings("ignore::streamgmm.errors.LeftOutRowsWarning")
@pytest.mark.parametrize("missing", ["drop", "em"])
def test_the_cut_of_rows_with_gaps_does_not_matter(missing: Any) -> None:
    rows = stream(2500)
    rows[np.random.default_rng(0).random(rows.shape) < 0.1] = np.nan
    rows[700] = 1e200
    first = None
    for size in (2500, 777, 100):
        model = small()
        for batch in batches(rows, size):
            model.partial_fit(streamgmm.open(batch, missing=missing))
        first = first or model
        assert_same(model, first)
        assert model.skipped_rows_ == first.skipped_rows_
    assert first is not None
    assert first.skipped_rows_["n_overflowing"] == 1


# The first searches of a stream have few rows.
@pytest.mark.filterwarnings("ignore::streamgmm.errors.FewRowsWarning")
@pytest.mark.filterwarnings("ignore::streamgmm.errors.DegenerateComponentWarning")
@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("n_blobs", [3, 5])
def test_labels_of_separated_blobs_keep_their_meaning(
    covariance_type: CovarianceType, n_blobs: int
) -> None:
    rng = np.random.default_rng(n_blobs)
    places = 30.0 * np.stack([np.arange(n_blobs), np.arange(n_blobs) ** 2 % 5], axis=1)
    rows = places[rng.integers(n_blobs, size=20_000)] + rng.normal(size=(20_000, 2))
    model = OnlineGaussianMixture(n_blobs, covariance_type=covariance_type, random_state=0)
    seen, first = 0, None
    counts = [12 * n_blobs, 90, 130, 250, 300, 600, 1000, 1025, 2400, 4100, 9000, 16384, 16400]
    for stop in [*counts, 20_000]:
        model.partial_fit(rows[seen:stop])
        seen, labels = stop, model.predict(places).tolist()
        first = first or labels
        assert labels == first, stop
    assert sorted(labels) == list(range(n_blobs))


@pytest.mark.parametrize("moving", [0, 1, 2])
def test_a_search_after_a_change_leaves_labels_of_other_blobs(moving: int) -> None:
    """The blob moves beside another one, which explains its rows until the search."""
    rng = np.random.default_rng(moving)
    before = np.array([[0.0, 0.0], [30.0, 0.0], [0.0, 30.0]])
    after = before.copy()
    after[moving] = before[moving - 1] + [12.0, 12.0]
    events: list[Event] = []
    model = small(half_life=2000, init_size=1000, callbacks=[events.append])

    def rows(places: Rows, n: int) -> Rows:
        return places[rng.integers(3, size=n)] + rng.normal(size=(n, 2))

    learn(model, rows(before, 10_000))
    labels = model.predict(before).tolist()
    events.clear()
    learn(model, rows(after, 6000), 100)
    kinds = [type(event) for event in events]
    assert ChangeDetected in kinds
    assert MixtureFound in kinds
    assert model.predict(after).tolist() == labels


def test_a_batch_model_goes_on_from_all_its_rows() -> None:
    rows = stream(20_000)
    batch = GaussianMixture(K, random_state=0, tol=1e-8).fit(rows)
    model = OnlineGaussianMixture.from_batch(batch)
    np.testing.assert_array_equal(model.means_, batch.means_)
    assert model.n_samples_seen_ == 20_000
    assert model.covariance_type == batch.covariance_type
    moved = stream(200, seed=3) + 1.0
    model.partial_fit(moved)
    shift = model.weights_ @ model.means_ - batch.weights_ @ batch.means_
    # The mean of all rows is that of 20,200, to EM's own tolerance.
    expected = np.vstack([rows, moved]).mean(axis=0) - rows.mean(axis=0)
    np.testing.assert_allclose(shift, expected, atol=1e-4)
    assert 0.005 < np.linalg.norm(shift) < 0.02


@pytest.mark.parametrize("covariance_type", TYPES)
def test_a_hundredth_of_the_rows_moves_a_batch_model_by_a_hundredth(
    covariance_type: CovarianceType,
) -> None:
    """Of what they say alone, where rows leave no doubt whose they are."""
    rng = np.random.default_rng(0)
    places = np.array([[0.0, 0.0], [100.0, 0.0], [0.0, 100.0]])
    rows = np.repeat(places, [5000, 6000, 9000], axis=0) + rng.normal(size=(20_000, 2))
    sizes = np.array([100, 70, 30])
    new = np.repeat(places + 0.5, sizes, axis=0) + rng.normal(size=(200, 2))
    settings: dict[str, Any] = {"covariance_type": covariance_type, "random_state": 0}
    batch = GaussianMixture(K, algorithm="em", **settings).fit(rows)
    model = OnlineGaussianMixture.from_batch(batch).partial_fit(new)
    order = np.linalg.norm(batch.means_ - places[:, np.newaxis], axis=2).argmin(axis=1)
    old_sizes = 20_000 * batch.weights_[order]
    parts = sizes / (old_sizes + sizes)
    alone = np.stack([own.mean(axis=0) for own in np.split(new, np.cumsum(sizes)[:-1])])
    np.testing.assert_allclose(
        model.weights_[order], (100 * batch.weights_[order] + sizes / 200) / 101, rtol=1e-9
    )
    moved = model.means_[order] - batch.means_[order]
    expected = parts[:, np.newaxis] * (alone - batch.means_[order])
    np.testing.assert_allclose(moved, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("algorithm", ["auto", "em"])
def test_what_a_stream_taught_is_polished_on_stored_rows(
    covariance_type: CovarianceType, algorithm: str
) -> None:
    rows, tol = stream(40_000, covariance_type), 1e-6
    model = learn(small(covariance_type=covariance_type), rows)
    polished = model.to_batch(warm_start=True, algorithm=algorithm, tol=tol).fit(rows)
    best = GaussianMixture(K, covariance_type=covariance_type, random_state=0, tol=1e-9).fit(rows)
    assert model.score(rows) < polished.score(rows)
    assert polished.score(rows) == pytest.approx(best.score(rows), abs=tol)
    # There is no survey and no search.
    assert polished.n_reads_ <= 10
    assert {read["purpose"] for read in polished.history_} == {"iteration"}


def test_a_half_life_comes_with_a_batch_model_too() -> None:
    batch = GaussianMixture(K, random_state=0).fit(stream(5000))
    model = OnlineGaussianMixture.from_batch(batch, half_life=100)
    weight = model._stepwise.total.weight
    learn(model, stream(100, seed=3), 10)
    old = weight / 2
    assert model._stepwise.stepped().total.weight == pytest.approx(old + 100, rel=0.01)


def test_models_without_statistics_do_not_go_on() -> None:
    batch = GaussianMixture(K, random_state=0).fit(stream(500))
    with pytest.raises(ParameterError, match="no statistics to continue from"):
        OnlineGaussianMixture.from_batch(batch.marginal([0]))
    with pytest.raises(NotFittedError):
        OnlineGaussianMixture.from_batch(GaussianMixture())


def test_there_and_back_to_a_batch_model() -> None:
    model = learn(small(covariance_type="diag"), stream(3000, "diag"))
    batch = model.to_batch()
    for name in PARAMETERS:
        np.testing.assert_array_equal(getattr(batch, name), getattr(model, name))
    again = OnlineGaussianMixture.from_batch(batch)
    np.testing.assert_array_equal(again.means_, model.means_)
    assert isinstance(model.marginal([0]), GaussianMixture)
    np.testing.assert_array_equal(model.marginal([1]).means_[:, 0], model.means_[:, 1])


def test_it_is_there_as_soon_as_there_are_rows_enough() -> None:
    model = small()
    with pytest.raises(NotFittedError):
        model.predict(stream(5))
    model.partial_fit(stream(2))
    with pytest.raises(NotFittedError, match="not fitted"):
        model.predict(stream(5))
    with pytest.raises(NotFittedError, match=r"seen 2 row\(s\).*give it 3 or more"):
        model.means_  # noqa: B018 - to be asked is enough
    model.partial_fit(stream(40, seed=5))
    assert model.predict(stream(5)).shape == (5,)
    assert model.n_samples_seen_ == 42
    assert model.means_.shape == (K, D)


def test_the_next_rows_are_part_of_the_model_at_once() -> None:
    model = learn(small(), stream(3000))
    before = model.means_
    model.partial_fit(stream(1, seed=5) + 100.0)
    assert not np.array_equal(model.means_, before)
    assert model.n_samples_seen_ == 3001


@pytest.mark.parametrize("seen", [2, 60, 600, 5000])
@pytest.mark.parametrize("half_life", [None, 800])
def test_stop_save_load_and_go_on(seen: int, half_life: float | None, tmp_path: Path) -> None:
    rows = np.vstack([stream(6000), moved(stream(6000, seed=4))])
    through = learn(small(half_life=half_life), rows[:seen], 50)
    through.save(tmp_path / "m.gmm")
    stopped = streamgmm.load(tmp_path / "m.gmm")
    assert isinstance(stopped, OnlineGaussianMixture)
    assert stopped.n_samples_seen_ == seen
    if seen > 2:
        assert_same(stopped, through)
    assert stopped.get_params() == through.get_params()
    for model in (through, stopped):
        learn(model, rows[seen:], 75)
    assert_same(stopped, through)
    assert (len(through.changes_) > 0) or half_life is None
    stopped.save(tmp_path / "again.gmm")
    assert_same(streamgmm.load(tmp_path / "again.gmm"), through)  # type: ignore[arg-type]


def test_a_stop_between_a_change_and_the_search_after_it(tmp_path: Path) -> None:
    model = learn(small(half_life=2000), stream(10_000))
    changed = moved(stream(4000, seed=4))
    seen = 0
    while not model.changes_:
        model.partial_fit(changed[seen : seen + 20])
        seen += 20
    model.partial_fit(changed[seen : seen + 20])
    assert model.state_.progress.held is not None
    model.save(tmp_path / "m.gmm")
    stopped = streamgmm.load(tmp_path / "m.gmm")
    for one in (model, stopped):
        learn(one, changed[seen + 20 :])  # type: ignore[arg-type]
    assert_same(stopped, model)  # type: ignore[arg-type]
    assert model.state_.progress.held is None


def test_names_of_columns_stay(tmp_path: Path) -> None:
    frame = pandas.DataFrame(stream(300), columns=["α", "b"])
    model = small().partial_fit(frame).partial_fit(frame)
    model.save(tmp_path / "m.gmm")
    loaded = streamgmm.load(tmp_path / "m.gmm")
    assert loaded.feature_names_in_.tolist() == ["α", "b"]
    with pytest.raises(ValueError, match="feature names should match"):
        loaded.partial_fit(frame.rename(columns={"b": "c"}))  # type: ignore[union-attr]


def bad_inputs() -> dict[str, tuple[Callable[[], Any], type[Exception], str]]:
    nan = stream(500)
    nan[400, 1] = np.nan
    infinite = stream(500)
    infinite[3, 0] = np.inf
    return {
        "empty": (lambda: np.empty((0, D)), ValueError, "0 sample"),
        "empty source": (lambda: streamgmm.open(np.empty((0, D))), DataError, "0 sample"),
        "columns": (lambda: np.zeros((5, D + 1)), ValueError, "3 features.*expecting 2"),
        "NaN": (lambda: nan, NotFiniteError, "NaN or infinity: 1 value.*row 400 column 1.*drop"),
        "infinity": (
            lambda: streamgmm.open(infinite, missing="drop"),
            NotFiniteError,
            r"infinity: 1 value\(s\) in 1 of 500 rows; the first: row 3 column 0",
        ),
        "text": (lambda: np.array([["a", "b"]]), ValueError, "could not convert|dtype"),
        "complex": (lambda: np.ones((5, D), dtype=complex), ValueError, "[Cc]omplex"),
        "one dimension": (lambda: np.ones(5), ValueError, "Expected 2D"),
    }


@pytest.mark.parametrize("seen", [30, 3000])
def test_bad_input_is_refused_and_nothing_of_it_learned(seen: int) -> None:
    model, other = (learn(small(), stream(seen)) for _ in range(2))
    for batch, error, message in bad_inputs().values():
        with pytest.raises(error, match=message):
            model.partial_fit(batch())
        assert_same(model, other)
    more = stream(700, seed=7)
    assert_same(model.partial_fit(more), other.partial_fit(more))


def test_bad_weights_are_refused() -> None:
    model = learn(small(), stream(3000))
    before = model.means_
    with pytest.raises(ValueError, match=r"[Nn]egative"):
        model.partial_fit(stream(5), sample_weight=[1, 1, -1, 1, 1])
    with pytest.raises(ValueError, match="shape"):
        model.partial_fit(stream(5), sample_weight=[1, 1])
    np.testing.assert_array_equal(model.means_, before)


def test_a_source_is_learned_whole_or_not_at_all() -> None:
    rows = stream(200_000)
    rows[-1, 0] = np.nan
    model = learn(small(), stream(3000))
    before, seen = model.means_, model.n_samples_seen_
    with pytest.raises(NotFiniteError, match="row 199999 column 0"):
        model.partial_fit(streamgmm.open(rows))
    np.testing.assert_array_equal(model.means_, before)
    assert model.n_samples_seen_ == seen


def test_rows_with_gaps() -> None:
    rows = stream(8000)
    gaps = rows.copy()
    gaps[np.random.default_rng(0).random(rows.shape) < 0.1] = np.nan
    whole = gaps[~np.isnan(gaps).any(axis=1)]
    models = {}
    for missing in ("drop", "em"):
        model = models[missing] = small()
        for batch in batches(gaps, 500):
            model.partial_fit(streamgmm.open(batch, missing=missing))
    assert models["drop"].n_samples_seen_ == len(whole)
    assert models["em"].n_samples_seen_ > 0.98 * len(rows)
    plain = learn(small(), whole)
    held_out = stream(20_000, seed=2)
    for model in models.values():
        assert model.score(held_out) == pytest.approx(plain.score(held_out), abs=5e-3)


def test_weights_count_rows() -> None:
    rows = stream(2000)
    weights = np.random.default_rng(0).integers(0, 3, len(rows)).astype(float)
    model = OnlineGaussianMixture(1, init_size=100, learning_offset=1e6)
    for start in range(0, len(rows), 100):
        part = slice(start, start + 100)
        model.partial_fit(rows[part], sample_weight=weights[part])
    assert model.n_samples_seen_ == weights.sum()
    mean = np.average(rows, axis=0, weights=weights)
    np.testing.assert_allclose(model.means_[0], mean, rtol=1e-12)
    covariance = np.cov(rows.T, aweights=weights, bias=True) + 1e-6 * np.eye(D)
    np.testing.assert_allclose(model.covariances_[0], covariance, rtol=1e-9)


@pytest.mark.parametrize("dtype", ["float32", "float16", "int16", ">f8", "longdouble"])
def test_rows_of_any_real_type(dtype: str) -> None:
    rows = (10.0 * stream(2000)).astype(dtype)
    model = learn(small(), rows)
    same = learn(small(), rows.astype(np.float64))
    np.testing.assert_allclose(model.means_, same.means_, rtol=1e-9)
    assert model.n_samples_seen_ == 2000


def test_rows_that_overflow_are_left_out() -> None:
    model = learn(small(), stream(3000))
    overflow = r"3 row\(s\) skipped: 3 whose squares overflow"
    with pytest.warns(LeftOutRowsWarning, match=overflow):
        model.partial_fit(np.full((3, D), 1e200))
    assert model.n_samples_seen_ == 3000
    with pytest.warns(LeftOutRowsWarning, match=overflow):
        other = small().partial_fit(np.vstack([stream(300), np.full((3, D), 1e200)]))
    assert other.means_.max() < 1e3


def test_fit_takes_iterators_and_whatever_can_be_opened(tmp_path: Path) -> None:
    rows = stream(5000)
    np.save(tmp_path / "rows.npy", rows)
    by_batches = small().fit(batches(rows, 200))
    by_file = small().fit(tmp_path / "rows.npy")
    by_array = small().fit(rows)
    assert_same(by_file, by_array)
    assert by_batches.n_samples_seen_ == by_file.n_samples_seen_ == 5000
    assert by_batches.score(rows) == pytest.approx(by_file.score(rows), abs=2e-3)
    # Whatever was learned before is forgotten.
    assert_same(by_batches.fit(rows), by_array)
    with pytest.raises(ParameterError, match="give each its own"):
        small().fit(batches(rows, 200), sample_weight=np.ones(5000))
    with pytest.raises(DataError, match="fewer rows"):
        small().fit(iter([rows[:2]]))
    with pytest.raises(DataError, match="n_samples = 2"):
        small().fit(rows[:2])


def test_an_endless_stream_that_is_interrupted_stays_learned() -> None:
    def endless() -> Iterator[Rows]:
        for seed in itertools.count():
            if seed == 20:
                raise KeyboardInterrupt
            yield stream(100, seed=seed)

    model = small()
    with pytest.raises(KeyboardInterrupt):
        model.fit(endless())
    assert model.n_samples_seen_ == 2000


def test_the_history_says_what_rows_scored_before_they_were_learned() -> None:
    model, rows = small(), stream(3000)
    learn(model, rows[:1000])
    seen = 1000
    # Up to the end of a block.
    while model.state_.progress.n_pending:
        model.partial_fit(rows[seen : seen + 1])
        seen += 1
    n_entries = len(model.history_)
    predicted = model.state_.progress.model
    assert predicted is not None
    # Until the next step; the rows after it are scored by what they find.
    following = rows[seen : seen + math.ceil(predicted.step_rows)]
    model.partial_fit(following)
    history = model.history_
    assert history[-1]["n_samples"] == len(following) > 10
    assert len(history) == n_entries + 1
    score = optimum(predicted.parameters, following)
    assert history[-1]["log_likelihood"] == pytest.approx(score)


# The first search of a stream in batches of ten rows has few rows.
@pytest.mark.filterwarnings("ignore::streamgmm.errors.FewRowsWarning")
@pytest.mark.filterwarnings("ignore::streamgmm.errors.DegenerateComponentWarning")
def test_what_is_kept_does_not_grow(tmp_path: Path) -> None:
    sizes = []
    model = small(half_life=500)
    for n_rows in (15_000, 45_000):
        learn(model, stream(n_rows, seed=n_rows), 10)
        model.save(tmp_path / "m.gmm")
        sizes.append((tmp_path / "m.gmm").stat().st_size)
    assert len(model.history_) <= 1024
    assert sum(entry["n_samples"] for entry in model.history_) == model.n_samples_seen_ - K
    assert sizes[1] < 1.5 * sizes[0]


def test_a_change_is_told_and_recovered_from() -> None:
    half_life = 5000
    events: list[Event] = []
    model = small(half_life=half_life, init_size=2000, callbacks=[events.append])
    learn(model, stream(40_000))
    assert not model.changes_
    other = mixture(seed=5)
    rows = draw(np.random.default_rng(6), other, 5 * half_life)
    events.clear()
    learn(model, rows)
    changes = [event for event in events if isinstance(event, ChangeDetected)]
    assert len(changes) == len(model.changes_) == 1
    assert 40_000 < model.changes_[0] <= 40_000 + half_life
    assert changes[0].log_likelihood < changes[0].expected
    assert any(isinstance(event, MixtureFound) for event in events)
    held_out = draw(np.random.default_rng(7), other, 20_000)
    assert model.score(held_out) > optimum(other, held_out) - 0.02


def test_without_a_half_life_a_change_is_told_and_the_model_goes_on() -> None:
    events: list[Event] = []
    model = learn(small(callbacks=[events.append]), stream(40_000))
    events.clear()
    learn(model, moved(stream(10_000, seed=5)))
    assert model.changes_
    assert not any(isinstance(event, MixtureFound) for event in events)


def test_no_false_alarms() -> None:
    model = small(half_life=4000)
    for seed in range(4):
        model.partial_fit(stream(200_000, seed=100 + seed))
    assert model.changes_ == []


def test_starved_components_begin_anew_among_badly_explained_rows() -> None:
    """A cluster dies out slowly, and another one is born, too small for an alarm."""
    rng = np.random.default_rng(0)
    places = np.array([[0.0, 0.0], [20.0, 0.0], [0.0, 20.0], [20.0, 20.0]])
    events: list[Event] = []
    model = small(half_life=500, init_size=600, callbacks=[events.append])

    def rows(weights: list[float], n: int = 100) -> Rows:
        return places[rng.choice(4, n, p=weights)] + rng.normal(size=(n, 2))

    learn(model, rows([0.5, 0.3, 0.2, 0.0], 5000))
    with pytest.warns(DegenerateComponentWarning, match=r"no more rows than the 2 column\(s\)"):
        for _ in range(80):
            model.partial_fit(rows([0.6, 0.4, 0.0, 0.0]))
    # It has not left its place: none of the rows that come is unlike the others.
    assert np.linalg.norm(model.means_ - places[2], axis=1).min() < 1.0
    for _ in range(100):
        model.partial_fit(rows([0.59, 0.39, 0.0, 0.02]))
    assert any(isinstance(event, ComponentsReseeded) for event in events)
    assert np.linalg.norm(model.means_ - places[3], axis=1).min() < 0.5
    held_out = rows([0.59, 0.39, 0.0, 0.02], 20_000)
    best = GaussianMixture(K, random_state=0).fit(held_out)
    assert model.score(held_out) > best.score(held_out) - 0.05


@pytest.mark.filterwarnings("ignore::streamgmm.errors.DegenerateComponentWarning")
def test_a_component_begins_anew_among_rows_that_all_lack_a_column() -> None:
    rng = np.random.default_rng(0)
    places = np.array([[0.0, 0.0], [20.0, 0.0], [0.0, 20.0], [60.0, np.nan]])
    events: list[Event] = []
    model = small(half_life=500, init_size=600, callbacks=[events.append])

    def rows(weights: list[float], n: int = 100) -> Any:
        drawn = places[rng.choice(4, n, p=weights)] + rng.normal(size=(n, 2))
        return streamgmm.open(drawn, missing="em")

    model.partial_fit(rows([0.5, 0.3, 0.2, 0.0], 5000))
    for _ in range(80):
        model.partial_fit(rows([0.6, 0.4, 0.0, 0.0]))
    for _ in range(100):
        model.partial_fit(rows([0.59, 0.39, 0.0, 0.02]))
    assert any(isinstance(event, ComponentsReseeded) for event in events)
    assert np.isfinite(model.means_).all()
    assert np.abs(model.means_[:, 0] - 60.0).min() < 0.5


def test_lines_are_written_on_what_happens(capsys: pytest.CaptureFixture[str]) -> None:
    learn(small(verbose=1), np.vstack([stream(40_000), stream(10_000) + 9.0]))
    written = capsys.readouterr().err
    assert "row 500, mixture found among 500 rows" in written
    assert "the stream has changed: log-likelihood -" in written


def test_settings_are_checked() -> None:
    for name, value in {"half_life": 0.0, "learning_decay": 0.5, "init_size": 0}.items():
        with pytest.raises(ValueError, match=name):
            OnlineGaussianMixture(**{name: value}).partial_fit(stream(10))


def test_an_interrupt_at_any_time_is_one_and_nothing_is_learned() -> None:
    rows = np.tile(stream(50_000), (100, 1))
    model = small().partial_fit(rows[:10_000])
    previous = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        for milliseconds in range(1, 31):
            # Most of them come while a kernel computes.
            signal.setitimer(signal.ITIMER_REAL, milliseconds / 1000)
            with pytest.raises(KeyboardInterrupt):
                model.partial_fit(rows)
            assert model.n_samples_seen_ == 10_000
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
