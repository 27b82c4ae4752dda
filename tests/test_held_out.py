"""The search by the likelihood of held-out rows, against fits to the other rows."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

import streamgmm
from streamgmm import GaussianMixture, GaussianMixtureSearch
from streamgmm.algorithms.batch.held_out import HeldOutSums, RowSplit
from streamgmm.core.structures import Array
from streamgmm.errors import DataError, ParameterError
from streamgmm.plotting import plot_criteria
from streamgmm.protocols import Chunk
from streamgmm.sources.array import ArraySource


@pytest.fixture(scope="module")
def rows() -> Array:
    rng = np.random.default_rng(0)
    return rng.normal(size=(1500, 2)) + np.array([[0.0, 0.0], [6.0, 0.0], [0.0, 6.0]] * 500)


def splits_of(search: GaussianMixtureSearch) -> list[RowSplit]:
    """The splits that a search with a seed draws, after the sample and before the starts."""
    random = np.random.RandomState(search.random_state)
    random.randint(2**31)
    seed = int(random.randint(2**31))
    return [RowSplit(seed, search.held_out, number) for number in range(search.n_repeats)]


@pytest.mark.parametrize("has_weights", [False, True])
def test_the_table_holds_what_models_of_the_other_rows_score(
    rows: Array, has_weights: bool
) -> None:
    weights = np.random.default_rng(1).integers(1, 4, len(rows)) if has_weights else None
    search = GaussianMixtureSearch(
        [1, 3], covariance_type="diag", criterion="held_out", held_out=0.2, n_repeats=2, tol=1e-9
    )
    search.set_params(random_state=0).fit(rows, sample_weight=weights)
    own = np.ones(len(rows)) if weights is None else weights.astype(float)
    for i, k in enumerate([1, 3]):
        scores, counted = [], []
        for split in splits_of(search):
            out = split.is_held_out(range(len(rows)))
            model = GaussianMixture(k, covariance_type="diag", random_state=0, tol=1e-9)
            model.fit(rows[~out], sample_weight=own[~out])
            scores.append(model.score_samples(rows[out]))
            counted.append(own[out])
        s, w = np.concatenate(scores), np.concatenate(counted)
        mean = np.average(s, weights=w)
        error = np.sqrt((w**2 * (s - mean) ** 2).sum()) / w.sum()
        assert search.cv_results_["held_out"][i] == pytest.approx(mean, rel=1e-6)
        assert search.cv_results_["held_out_std_error"][i] == pytest.approx(error, rel=1e-4)
    assert search.best_index_ == 1
    assert search.best_score_ == search.cv_results_["held_out"].max()
    # The models are those of all rows.
    best = search.best_estimator_
    alone = GaussianMixture(3, covariance_type="diag", random_state=0, tol=1e-9)
    alone.fit(rows, sample_weight=weights)
    assert best.lower_bound_ == pytest.approx(alone.lower_bound_, rel=1e-9)
    assert search.cv_results_["bic"][1] == pytest.approx(best.bic(rows, weights), rel=1e-10)
    # One pass more than what candidates share: that of the held-out rows.
    purposes = [read["purpose"] for read in search.history_]
    assert purposes.count("held out") == 1
    assert purposes[-1] == "held out"


def test_the_split_follows_positions_alone(rows: Array, tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "covariance_type": "diag",
        "criterion": "held_out",
        "random_state": 0,
    }
    source = ArraySource(rows)
    source.boundaries = np.array([0, 100, 900, 1500])
    stored = zarr.create_array(tmp_path / "x.zarr", shape=rows.shape, chunks=(400, 2), dtype="f8")
    stored[:] = rows
    whole = GaussianMixtureSearch([2, 3], **settings).fit(rows)
    for other, n_jobs in ((source, None), (source, 1), (tmp_path / "x.zarr", None)):
        found = GaussianMixtureSearch([2, 3], n_jobs=n_jobs, **settings).fit(other)
        for name in ("held_out", "held_out_std_error"):
            np.testing.assert_allclose(found.cv_results_[name], whole.cv_results_[name], rtol=1e-5)
        if n_jobs is None and other is source:
            threads = found
        elif n_jobs == 1:
            np.testing.assert_array_equal(
                found.cv_results_["held_out"], threads.cv_results_["held_out"]
            )


def test_repeats_hold_out_each_row_once() -> None:
    index = range(10_000)
    for part, n in ((0.1, 10), (0.25, 4), (0.5, 2)):
        held = np.array([RowSplit(7, part, number).is_held_out(index) for number in range(n)])
        # But for rounding at the edges.
        assert np.mean(held.sum(axis=0) == 1) > 0.9995
        np.testing.assert_allclose(held.mean(axis=1), part, atol=5 * np.sqrt(part / 10_000))
    again = RowSplit(7, 0.1, 13).is_held_out(index)
    assert np.mean(again == RowSplit(7, 0.1, 3).is_held_out(index)) > 0.9995
    assert np.any(RowSplit(8, 0.1, 0).is_held_out(index) != RowSplit(7, 0.1, 0).is_held_out(index))
    places = np.array([5, 3, 9999])
    np.testing.assert_array_equal(
        RowSplit(7, 0.5, 1).is_held_out(places), RowSplit(7, 0.5, 1).is_held_out(index)[places]
    )


def test_a_chunk_is_split_in_two() -> None:
    rng = np.random.default_rng(2)
    chunk = Chunk(rng.normal(size=(50, 2)), range(10, 60), rng.random(50))
    split = RowSplit(3, 0.4, 1)
    out = split.is_held_out(chunk.index)
    np.testing.assert_array_equal(split.held_out(chunk).rows, chunk.rows[out])
    np.testing.assert_array_equal(split.held_out(chunk).weights, chunk.weights[out])
    np.testing.assert_array_equal(split.fitted(chunk).weights, np.where(out, 0.0, chunk.weights))
    bare = Chunk(chunk.rows, chunk.index)
    np.testing.assert_array_equal(split.fitted(bare).weights, np.where(out, 0.0, 1.0))
    assert split.held_out(bare).weights is None


def test_errors_of_differences_are_those_of_paired_rows() -> None:
    rng = np.random.default_rng(3)
    scores, weights = rng.normal(size=(200, 3)) - 5.0, rng.random(200)
    sums = HeldOutSums.of(scores[:80], weights[:80]).merge(
        HeldOutSums.of(scores[80:], weights[80:])
    )
    np.testing.assert_allclose(sums.means, np.average(scores, axis=0, weights=weights))
    gap = scores[:, 0] - scores[:, 2]
    mean = np.average(gap, weights=weights)
    expected = np.sqrt((weights**2 * (gap - mean) ** 2).sum()) / weights.sum()
    assert sums.difference_errors[0, 2] == pytest.approx(expected)
    assert sums.difference_errors[1, 1] == 0.0


def test_hopeless_candidates_make_no_pass() -> None:
    rng = np.random.default_rng(4)
    n = 300_000
    rows = (rng.normal(size=(n, 2)) + 12.0 * rng.integers(0, 2, (n, 2))).astype(np.float32)
    search = GaussianMixtureSearch(
        [1, 4], covariance_type="spherical", criterion="held_out", random_state=0
    ).fit(ArraySource(rows))
    table = search.cv_results_
    assert table["status"].tolist() == ["pruned", "complete"]
    assert table["resolved"].all()
    assert search.best_params_["n_components"] == 4
    (split,) = splits_of(search)
    out = split.is_held_out(range(n))
    exact = GaussianMixture(1, covariance_type="spherical").fit(rows[~out]).score(rows[out])
    assert abs(table["held_out"][0] - exact) < 5.0 * table["held_out_std_error"][0]


def test_missing_values(rows: Array) -> None:
    gaps = rows.copy()
    gaps[np.random.default_rng(5).random(rows.shape) < 0.1] = np.nan
    for missing in ("em", "drop"):
        source = streamgmm.open(gaps, missing=missing)  # type: ignore[arg-type]
        search = GaussianMixtureSearch(
            [1, 3], covariance_type="diag", criterion="held_out", random_state=0
        ).fit(source)
        assert search.best_params_["n_components"] == 3
        assert np.isfinite(search.cv_results_["held_out"]).all()


def test_other_criteria_hold_nothing_out(rows: Array) -> None:
    search = GaussianMixtureSearch([2], covariance_type="diag", random_state=0).fit(rows)
    assert np.isnan(search.cv_results_["held_out"]).all()
    assert np.isnan(search.cv_results_["held_out_std_error"]).all()
    assert "held out" not in [read["purpose"] for read in search.history_]


def test_bad_input(rows: Array) -> None:
    settings: dict[str, Any]
    for settings, name in (
        ({"held_out": 0.0}, "held_out"),
        ({"held_out": 1.0}, "held_out"),
        ({"n_repeats": 0}, "n_repeats"),
    ):
        with pytest.raises(ParameterError, match=name):
            GaussianMixtureSearch([1], **settings).fit(rows)
    settings = {"criterion": "held_out", "random_state": 0}
    with pytest.raises(DataError, match=r"held_out = 0.01 leaves .* to hold out, among 20"):
        GaussianMixtureSearch([1], held_out=0.01, **settings).fit(rows[:20])
    with pytest.raises(DataError, match=r"held_out = 0.9 leaves .* to fit to"):
        GaussianMixtureSearch([12], held_out=0.9, **settings).fit(rows[:20])


def test_a_picture_shows_losses(rows: Array) -> None:
    search = GaussianMixtureSearch(
        [1, 2, 3], covariance_type="diag", criterion="held_out", random_state=0
    ).fit(rows)
    curve = plot_criteria(search).get_lines()[0]
    expected = search.best_score_ - search.cv_results_["held_out"]
    np.testing.assert_allclose(curve.get_ydata(), expected)
    assert np.all(np.asarray(curve.get_ydata()) >= 0.0)
