"""KMeans beside scikit-learn's, and over sources that it does not know."""

from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pandas as pd
import pytest
import zarr
from sklearn.base import clone
from sklearn.cluster import KMeans as SklearnKMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.estimator_checks import parametrize_with_checks

import streamgmm
from streamgmm import KMeans
from streamgmm.core.structures import Array
from streamgmm.errors import (
    CheckpointError,
    DataError,
    NotFiniteError,
    NotFittedError,
    ParameterError,
)
from streamgmm.events import ReadDone


def blobs(n: int = 3000, d: int = 4, k: int = 6, offset: float = 0.0) -> Array:
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, d)) + rng.integers(0, k, (n, 1)) * 3.0 + offset


def both(
    rows: Array, start: Array, weights: Array | None = None, **settings: Any
) -> tuple[Any, Any]:
    k = len(start)
    theirs = SklearnKMeans(k, init=start, n_init=1, algorithm="lloyd", **settings)
    own = KMeans(k, init=start, **settings)
    return own.fit(rows, sample_weight=weights), theirs.fit(rows, sample_weight=weights)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_each_iteration_is_that_of_scikit_learn(weighted: bool, offset: float) -> None:
    rows = blobs(offset=offset)
    weights = np.random.default_rng(1).uniform(0.0, 3.0, len(rows)) if weighted else None
    for n in (*range(1, 12), 300):
        own, theirs = both(rows, rows[:12], weights, max_iter=n, tol=0.0)
        assert own.inertia_ == pytest.approx(theirs.inertia_, rel=1e-12)
        np.testing.assert_allclose(own.cluster_centers_, theirs.cluster_centers_, rtol=1e-12)
        np.testing.assert_array_equal(own.labels_, theirs.labels_)
        assert own.n_iter_ == theirs.n_iter_
    assert own.n_iter_ > 11


@pytest.mark.parametrize("tol", [1e-4, 1e-2])
def test_tolerance_is_relative_to_the_variance(tol: float) -> None:
    rows = blobs() * 1e-5
    own, theirs = both(rows, rows[:12], tol=tol)
    assert own.n_iter_ == theirs.n_iter_
    assert own.inertia_ == pytest.approx(theirs.inertia_, rel=1e-12)


def test_clusters_far_apart_keep_their_digits() -> None:
    """Widths are a part in 1e6 of the distances, and lie far from the origin."""
    rng = np.random.default_rng(2)
    centres = rng.normal(size=(5, 3)) * 1e3 + 1e6
    labels = rng.integers(0, 5, 2000)
    rows = centres[labels] + 1e-3 * rng.normal(size=(2000, 3))
    found = KMeans(5, random_state=0).fit(rows)
    exact = found.cluster_centers_.astype(np.longdouble)[found.labels_]
    expected = float(np.square(rows.astype(np.longdouble) - exact).sum())
    assert found.inertia_ == pytest.approx(expected, rel=1e-12)
    assert len({(a, b) for a, b in zip(labels, found.labels_, strict=True)}) == 5


def test_search_is_as_good_as_ten_starts() -> None:
    rng = np.random.default_rng(3)
    centres = rng.normal(size=(20, 3)) * 10.0
    rows = centres[rng.integers(0, 20, 4000)] + rng.normal(size=(4000, 3))
    found = KMeans(20, random_state=0).fit(rows)
    theirs = SklearnKMeans(20, n_init=10, random_state=0).fit(rows)
    assert found.inertia_ <= 1.001 * theirs.inertia_
    assert found.n_iter_ <= 5


def test_empty_clusters_move_as_in_scikit_learn() -> None:
    rows = blobs(500, 2, 3)
    start = np.vstack([rows[:3], [[1e4, 1e4], [-1e4, 0.0]]])
    own, theirs = both(rows, start, max_iter=2, tol=0.0)
    np.testing.assert_allclose(own.cluster_centers_, theirs.cluster_centers_, rtol=1e-10)
    assert own.inertia_ == pytest.approx(theirs.inertia_, rel=1e-12)
    assert "relocation" in [read["purpose"] for read in own.history_]


def test_fewer_different_rows_than_clusters() -> None:
    rows = np.repeat([[0.0, 1.0], [5.0, 5.0]], 10, axis=0)
    for init in ("k-means++", "random", rows[:3]):
        with pytest.warns(ConvergenceWarning, match="only 2 of 3 clusters"):
            found = KMeans(3, init=init, random_state=0).fit(rows)
        assert found.inertia_ == 0.0


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_predictions(dtype: type) -> None:
    rows = blobs().astype(dtype)
    found = KMeans(6, random_state=0).fit(rows)
    differences = rows[:, np.newaxis].astype(float) - found.cluster_centers_
    distances = np.sqrt(np.square(differences).sum(axis=2))
    np.testing.assert_array_equal(found.predict(rows), distances.argmin(axis=1))
    transformed = found.transform(rows)
    assert transformed.dtype == dtype
    np.testing.assert_allclose(transformed, distances, rtol=1e-12 if dtype == np.float64 else 1e-6)
    weights = np.arange(len(rows)) % 3.0
    expected = -float(weights @ np.square(distances.min(axis=1)))
    assert found.score(rows, sample_weight=weights) == pytest.approx(expected, rel=1e-10)
    assert found.score(rows) == pytest.approx(-found.inertia_, rel=1e-12)
    np.testing.assert_array_equal(clone(found).fit_predict(rows), found.labels_)
    np.testing.assert_array_equal(clone(found).fit_transform(rows), transformed)


def test_ties_go_to_the_lowest_number() -> None:
    rows = np.array([[0.0], [1.0], [2.0], [10.0]])
    found = KMeans(3, init=np.array([[0.0], [2.0], [2.0]]), max_iter=1).fit(rows)
    assert found.predict([[1e3]]).tolist() == [int(np.argmax(found.cluster_centers_))]
    found.cluster_centers_ = np.array([[0.0], [2.0], [2.0]])
    assert found.predict(rows).tolist() == [0, 0, 1, 1]


def test_sources_give_the_same_bits(tmp_path: Path) -> None:
    rows = blobs(70_000)
    stored = zarr.create_array(tmp_path / "x.zarr", shape=rows.shape, chunks=(9000, 4), dtype="f8")
    stored[:] = rows
    settings = {"random_state": 0, "max_iter": 20}
    found = KMeans(5, n_jobs=2, **settings).fit(stored)
    again = KMeans(5, n_jobs=1, **settings).fit(tmp_path / "x.zarr")
    np.testing.assert_array_equal(found.cluster_centers_, again.cluster_centers_)
    assert found.inertia_ == again.inertia_
    assert not hasattr(found, "labels_")
    lazy = KMeans(5, **settings).fit(da.from_array(rows, chunks=(9000, 4)))
    in_memory = KMeans(5, **settings).fit(rows)
    for other in (lazy, in_memory):
        np.testing.assert_allclose(other.cluster_centers_, found.cluster_centers_, rtol=1e-9)
    out = found.predict(tmp_path / "x.zarr", out=tmp_path / "labels.npy")
    np.testing.assert_array_equal(np.load(out), in_memory.predict(rows))
    labels = lazy.predict(da.from_array(rows, chunks=(9000, 4)))
    np.testing.assert_array_equal(labels.compute(), in_memory.labels_)


def test_data_frames_and_names() -> None:
    frame = pd.DataFrame(blobs(200, 2), columns=["a", "b"], index=np.arange(200) + 7)
    found = KMeans(3, random_state=0).fit(frame)
    assert found.feature_names_in_.tolist() == ["a", "b"]
    assert found.predict(frame).index.equals(frame.index)
    assert found.get_feature_names_out().tolist() == ["kmeans0", "kmeans1", "kmeans2"]
    with pytest.raises(DataError):
        found.predict(frame.rename(columns={"a": "c"}))


def test_rows_that_lack_values() -> None:
    rows = blobs(300)
    gaps = rows.copy()
    gaps[::10, 1] = np.nan
    with pytest.raises(NotFiniteError):
        KMeans(3).fit(gaps)
    source = streamgmm.open(gaps, missing="drop")
    found = KMeans(3, random_state=0).fit(source)
    complete = np.delete(rows, np.arange(0, 300, 10), axis=0)
    start = found.cluster_centers_
    expected = SklearnKMeans(3, init=start, n_init=1, max_iter=1, tol=0.0).fit(complete)
    assert found.inertia_ == pytest.approx(expected.inertia_, rel=1e-9)
    labels = found.predict(source)
    assert np.all(labels[::10] == -1)
    assert np.isnan(found.transform(source)[::10]).all()
    with pytest.raises(DataError, match="missing='drop'"):
        KMeans(3).fit(streamgmm.open(gaps, missing="em"))


def test_init_may_be_a_function() -> None:
    rows = blobs(500)

    def first(X: Array, n_clusters: int, random_state: np.random.RandomState) -> Array:
        assert isinstance(random_state, np.random.RandomState)
        return X[:n_clusters]

    found = KMeans(4, init=first, tol=0.0).fit(rows)
    expected = SklearnKMeans(4, init=rows[:4], n_init=1, tol=0.0).fit(rows)
    assert found.inertia_ == pytest.approx(expected.inertia_, rel=1e-12)


def test_streams() -> None:
    rows = np.random.default_rng(4).permutation(blobs(6000, 3, 3))
    model = KMeans(3, random_state=0)
    for batch in np.split(rows, 12):
        model.partial_fit(batch)
    whole = KMeans(3, random_state=0).fit(rows)
    assert -model.score(rows) < 1.01 * whole.inertia_
    assert model.n_iter_ == 12
    whole.partial_fit(rows[:10])
    assert not hasattr(whole, "labels_")
    with pytest.raises(DataError, match="n_clusters=3"):
        KMeans(3).partial_fit(rows[:2])


def test_mean_of_a_stream_is_exact() -> None:
    """With one cluster the centre is the weighted mean of all rows so far."""
    rows = blobs(90, 2)
    weights = np.arange(90) % 4.0
    model = KMeans(1)
    for part in (slice(0, 20), slice(20, 50), slice(50, 90)):
        model.partial_fit(rows[part], sample_weight=weights[part])
    expected = np.average(rows, axis=0, weights=weights)
    np.testing.assert_allclose(model.cluster_centers_[0], expected, rtol=1e-13)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"n_clusters": 0}, "n_clusters"),
        ({"init": "best"}, "init"),
        ({"init": np.zeros((2, 3))}, "shape"),
        ({"init": np.full((8, 4), np.nan)}, "finite"),
        ({"max_iter": 0}, "max_iter"),
        ({"tol": -1.0}, "tol"),
        ({"n_init": 0}, "n_init"),
        ({"executor": "gpu"}, "executor"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], match: str) -> None:
    with pytest.raises(ParameterError, match=match):
        KMeans(**settings).fit(blobs(50))


def test_wrong_data_are_refused() -> None:
    with pytest.raises(DataError, match="n_samples=5 should be >= n_clusters=8"):
        KMeans().fit(blobs(5))
    with pytest.raises(NotFittedError):
        KMeans().predict(blobs(5))
    with pytest.raises(DataError):
        KMeans(2).fit(blobs(50)).predict(np.zeros((3, 2)))
    with pytest.raises(DataError, match="only 1 row"):
        KMeans(2).fit(blobs(50), sample_weight=np.eye(50)[3])
    with pytest.raises(ParameterError, match="checkpoint="):
        KMeans(2).fit(blobs(50), resume=True)


def test_checkpoint_continues_with_the_same_bits(tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def interrupt(event: object) -> None:
        if isinstance(event, ReadDone) and event.iteration == 3:
            raise Stop

    rows = blobs(2000)
    settings = {"init": rows[:9], "tol": 0.0, "random_state": 0}
    whole = KMeans(9, **settings).fit(rows)
    model = KMeans(9, **settings, checkpoint=tmp_path / "c")
    assert whole.n_iter_ > 3
    with pytest.raises(Stop):
        model.set_params(callbacks=[interrupt]).fit(rows)
    with pytest.raises(CheckpointError, match="tol was"):
        clone(model).set_params(callbacks=(), tol=1e-3).fit(rows, resume=True)
    model.set_params(callbacks=()).fit(rows, resume=True)
    np.testing.assert_array_equal(model.cluster_centers_, whole.cluster_centers_)
    assert model.inertia_ == whole.inertia_
    mixture = streamgmm.load(tmp_path / "c" / "model.gmm")
    np.testing.assert_array_equal(mixture.means_, whole.cluster_centers_)


def test_memory_limit() -> None:
    found = KMeans(3, random_state=0, memory_limit="3GiB").fit(blobs())
    free = KMeans(3, random_state=0).fit(blobs())
    np.testing.assert_allclose(found.cluster_centers_, free.cluster_centers_, rtol=1e-12)
    with pytest.raises(streamgmm.errors.MemoryLimitError):  # type: ignore[attr-defined]
        KMeans(3, memory_limit="1MiB").fit(blobs())


@parametrize_with_checks([KMeans(n_clusters=3, random_state=0)])
def test_estimator_checks(estimator: KMeans, check: Any) -> None:
    check(estimator)
