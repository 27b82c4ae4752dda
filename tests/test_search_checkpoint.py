"""Searches that are interrupted and resumed, against one that is not."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import streamgmm
from streamgmm import GaussianMixture, GaussianMixtureSearch, KMeans
from streamgmm.errors import CheckpointError, OutputError, ParameterError
from streamgmm.events import CheckpointWritten, ChunkDone, Event, ReadStarted
from streamgmm.testing.chunked import ChunkedSource

pytestmark = pytest.mark.usefixtures("several_passes")

CRITERIA = ["bic", "held_out"]


class Interrupted(Exception):
    pass


@pytest.fixture(scope="module")
def store() -> ChunkedSource:
    """More rows than the sample has, in chunks."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(48_000, 2)) + np.array([[0.0, 0], [5, 0], [0, 5]] * 16_000)
    return ChunkedSource(rows, 4000)


def settings_of(criterion: str) -> dict[str, Any]:
    return {
        "n_components": [2, 3],
        "covariance_type": ["diag", "tied"],
        "criterion": criterion,
        "random_state": 0,
    }


@pytest.fixture(scope="module", params=CRITERIA)
def whole(
    request: pytest.FixtureRequest, store: ChunkedSource, several_passes: None
) -> GaussianMixtureSearch:
    return GaussianMixtureSearch(**settings_of(request.param)).fit(store)


def assert_same(found: GaussianMixtureSearch, expected: GaussianMixtureSearch) -> None:
    for name, column in expected.cv_results_.items():
        np.testing.assert_array_equal(found.cv_results_[name], column, err_msg=name)
    assert found.best_index_ == expected.best_index_
    for own, other in zip(found.estimators_, expected.estimators_, strict=True):
        for name in ("weights_", "means_", "covariances_", "precisions_cholesky_"):
            np.testing.assert_array_equal(getattr(own, name), getattr(other, name))
    assert found.n_reads_ == expected.n_reads_
    for read, other_read in zip(found.history_, expected.history_, strict=True):
        assert read | {"seconds": 0} == pytest.approx(other_read | {"seconds": 0}, nan_ok=True)


def test_a_search_that_is_interrupted_after_each_result(
    whole: GaussianMixtureSearch, store: ChunkedSource, tmp_path: Path
) -> None:
    n_interruptions = 0

    def stop(event: Event) -> None:
        if isinstance(event, CheckpointWritten):
            raise Interrupted

    settings = {**settings_of(whole.criterion), "checkpoint": tmp_path / "c"}
    while True:
        search = GaussianMixtureSearch(**settings, callbacks=stop)
        try:
            search.fit(store, resume=True)
        except Interrupted as error:
            n_interruptions += 1
            assert "is kept in" in str(error.__notes__)
            continue
        break
    # The survey, three stages of each candidate, and the passes.
    assert n_interruptions > 12
    assert_same(search, whole)
    best = streamgmm.load(tmp_path / "c" / "model.gmm")
    np.testing.assert_array_equal(best.means_, whole.best_estimator_.means_)


def test_a_finished_search_comes_back_without_a_pass(
    whole: GaussianMixtureSearch, store: ChunkedSource, tmp_path: Path
) -> None:
    settings = {**settings_of(whole.criterion), "checkpoint": tmp_path / "c"}
    assert_same(GaussianMixtureSearch(**settings).fit(store), whole)
    started: list[Event] = []
    again = GaussianMixtureSearch(
        **settings,
        n_jobs=1,
        callbacks=lambda event: started.append(event) if isinstance(event, ReadStarted) else None,
    ).fit(store, resume=True)
    assert_same(again, whole)
    assert not started
    assert again.best_estimator_.merged_components().clusters.size == 3


def test_a_pass_continues_where_it_was(
    whole: GaussianMixtureSearch, store: ChunkedSource, tmp_path: Path
) -> None:
    """The second shared pass is interrupted after half of its chunks."""
    purposes: list[str] = []
    chunks = [0]

    def stop(event: Event) -> None:
        if isinstance(event, ReadStarted):
            purposes.append(event.purpose)
            chunks[0] = 0
        if isinstance(event, ChunkDone) and purposes.count("shared") == 2:
            chunks[0] += 1
            if chunks[0] == 6:
                raise Interrupted

    settings = {
        **settings_of(whole.criterion),
        "checkpoint": tmp_path / "c",
        "checkpoint_interval": 1e-9,
        "n_jobs": 1,
    }
    with pytest.raises(Interrupted):
        GaussianMixtureSearch(**settings, callbacks=stop).fit(store)
    assert list((tmp_path / "c").glob("read-*.npz"))
    rows: list[int] = []
    resumed = GaussianMixtureSearch(
        **settings,
        callbacks=lambda event: rows.append(event.n_rows) if isinstance(event, ChunkDone) else None,
    ).fit(store, resume=True)
    assert_same(resumed, whole)
    # What was kept of the pass is reported at once, and not computed again.
    assert max(rows) > 4000


def test_other_searches_are_refused(store: ChunkedSource, tmp_path: Path) -> None:
    settings = {**settings_of("bic"), "n_components": [1, 2], "checkpoint": tmp_path / "c"}
    GaussianMixtureSearch(**settings).fit(store)
    changes: list[tuple[dict[str, Any], str]] = [
        ({"n_components": [1, 3]}, r"n_components was \[1, 2\] and is \[1, 3\]"),
        ({"covariance_type": "diag"}, r"covariance_type was \['diag', 'tied'\]"),
        ({"criterion": "icl"}, "criterion was 'bic'"),
        ({"held_out": 0.2}, "held_out was 0.1"),
        ({"tol": 1e-2}, "tol was"),
    ]
    for change, message in changes:
        with pytest.raises(CheckpointError, match=message):
            GaussianMixtureSearch(**{**settings, **change}).fit(store, resume=True)
    with pytest.raises(CheckpointError, match="estimator"):
        GaussianMixture(checkpoint=tmp_path / "c").fit(store, resume=True)
    with pytest.raises(CheckpointError, match="resume=True"):
        GaussianMixtureSearch(**settings).fit(store)


def test_bad_input(store: ChunkedSource, tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="resume=True needs checkpoint="):
        GaussianMixtureSearch([1]).fit(store, resume=True)
    with pytest.raises(ParameterError, match="checkpoint_interval= needs checkpoint="):
        GaussianMixtureSearch([1], checkpoint_interval=1.0).fit(store)
    np.save(tmp_path / "x.npy", np.zeros((10, 2)))
    with pytest.raises(OutputError):
        GaussianMixtureSearch([1], checkpoint=tmp_path / "x.npy").fit(tmp_path / "x.npy")


def test_what_is_shown_holds_no_password() -> None:
    url = "s3://user:secret@bucket/c"
    for model in (GaussianMixtureSearch([1], checkpoint=url), KMeans(2, checkpoint=url)):
        assert "secret" not in repr(model)
        assert "secret" not in model._repr_html_()
        assert "bucket/c" in repr(model)
