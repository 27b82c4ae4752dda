"""Components merged into clusters, against the formulas of Baudry et al. in NumPy."""

import copy
import itertools
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.special
import zarr
from numpy.typing import NDArray

import streamgmm
from streamgmm import GaussianMixture, GaussianMixtureSearch, OnlineGaussianMixture
from streamgmm.core.mixtures.clusters import (
    MergedComponents,
    elbow,
    greedy_tree,
    merged_components,
)
from streamgmm.core.structures import Array
from streamgmm.errors import DataError, NotFiniteError, NotFittedError, ParameterError
from streamgmm.events import ReadDone
from streamgmm.plotting import plot_entropy
from streamgmm.testing.chunked import ChunkedSource


@pytest.fixture(scope="module")
def rows() -> Array:
    """Three clusters that are not Gaussian."""
    rng = np.random.default_rng(0)
    return rng.standard_t(4, size=(9000, 2)) + np.array([[0.0, 0], [12, 0], [0, 12]] * 3000)


@pytest.fixture(scope="module")
def model(rows: Array) -> GaussianMixture:
    return GaussianMixture(6, random_state=0).fit(rows)


def entropy(shares: Array, weights: Array) -> float:
    return float(-weights @ scipy.special.xlogy(shares, shares).sum(axis=1))


def reference(shares: Array, weights: Array) -> tuple[list[list[int]], list[float]]:
    """The clusters of each step, from one to all components, and their entropies: by trying all."""
    clusters = [[k] for k in range(shares.shape[1])]
    steps, entropies = [clusters], [entropy(shares, weights)]
    while len(clusters) > 1:
        tried = []
        for pair in itertools.combinations(range(len(clusters)), 2):
            others = [own for i, own in enumerate(clusters) if i not in pair]
            merged = [*others, clusters[pair[0]] + clusters[pair[1]]]
            columns = np.column_stack([shares[:, own].sum(axis=1) for own in merged])
            tried.append((entropy(columns, weights), merged))
        best, clusters = min(tried, key=lambda one: one[0])
        steps.append(clusters)
        entropies.append(best)
    return [sorted(map(sorted, step)) for step in steps[::-1]], entropies[::-1]


def groups(clusters: NDArray[np.int64]) -> list[list[int]]:
    return [np.flatnonzero(clusters == i).tolist() for i in range(clusters.max() + 1)]


def assert_is_reference(merged: Any, shares: Array, weights: Array) -> None:
    steps, entropies = reference(shares, weights)
    np.testing.assert_allclose(merged.entropies, entropies, rtol=1e-9, atol=1e-7)
    assert merged.entropies[0] == 0.0
    for n_clusters, expected in enumerate(steps, 1):
        cut = merged.cut(n_clusters)
        assert sorted(groups(cut.clusters)) == expected
        assert cut.n_clusters == n_clusters


def test_the_tree_is_that_of_all_pairs(model: GaussianMixture, rows: Array) -> None:
    merged = model.merged_components(rows)
    assert_is_reference(merged, model.predict_proba(rows), np.ones(len(rows)))
    assert merged.n_clusters == elbow(merged.overlaps) == 3
    # Each cluster of the data has one cluster of components.
    labels = model.merged_components(rows, 3).clusters[model.predict(rows)]
    for i in range(3):
        counts = np.bincount(labels[i::3], minlength=3)
        assert counts.max() > 0.97 * counts.sum()
    assert groups(merged.clusters) == sorted(groups(merged.clusters))
    assert merged.tree.shape == (5, 2)
    assert sorted(merged.tree.ravel().tolist()) == list(range(10))


def test_the_sample_of_the_fit_is_enough(model: GaussianMixture, rows: Array) -> None:
    found, expected = model.merged_components(), model.merged_components(rows)
    np.testing.assert_array_equal(found.tree, expected.tree)
    np.testing.assert_allclose(found.entropies, expected.entropies, rtol=1e-9)
    np.testing.assert_array_equal(found.clusters, expected.clusters)


@pytest.mark.parametrize("algorithm", ["em", "hard"])
def test_each_algorithm_keeps_a_sample(algorithm: str, rows: Array) -> None:
    model = GaussianMixture(4, algorithm=algorithm, random_state=0, tol=0.1).fit(rows)
    assert_is_reference(model.merged_components(), model.predict_proba(rows), np.ones(len(rows)))


def test_the_models_of_a_search_have_the_sample(rows: Array) -> None:
    search = GaussianMixtureSearch([4], covariance_type="diag", random_state=0).fit(rows)
    merged = search.best_estimator_.merged_components(n_clusters=2)
    assert merged.n_clusters == 2


@pytest.mark.parametrize("missing", ["drop", "em"])
def test_weights_gaps_and_data_on_disk(
    missing: Any, model: GaussianMixture, rows: Array, tmp_path: Path
) -> None:
    rng = np.random.default_rng(1)
    gaps = rows.copy()
    gaps[rng.random(rows.shape) < 0.05] = np.nan
    stored = zarr.create_array(tmp_path / "x.zarr", shape=rows.shape, chunks=(700, 2), dtype="f8")
    stored[:] = gaps
    weights = rng.integers(0, 4, len(rows)).astype(float)
    source = streamgmm.open(tmp_path / "x.zarr", missing=missing, sample_weight=weights)
    merged = model.merged_components(source)
    shares = model.predict_proba(streamgmm.open(gaps, missing=missing))
    used = ~np.isnan(shares).any(axis=1)
    assert used.sum() < len(rows)
    assert_is_reference(merged, shares[used], weights[used])


def test_rows_beyond_the_sample_take_one_more_pass(model: GaussianMixture, rows: Array) -> None:
    many = np.concatenate([rows + shift for shift in np.linspace(0.0, 1e-3, 9)])
    source = ChunkedSource(many, 5000)
    reads: list[ReadDone] = []
    listening = copy.copy(model).set_params(
        callbacks=lambda event: reads.append(event) if isinstance(event, ReadDone) else None
    )
    merged = listening.merged_components(source)
    assert [read.purpose for read in reads] == ["sample", "merging"]
    assert_is_reference(merged, model.predict_proba(many), np.ones(len(many)))
    one_thread = copy.copy(model).set_params(n_jobs=1).merged_components(source)
    np.testing.assert_array_equal(merged.entropies, one_thread.entropies)


def test_all_rows_correct_the_tree_of_a_sample(
    model: GaussianMixture, rows: Array, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sample of a few rows predicts another tree."""
    from streamgmm.algorithms.batch import component_clusters

    monkeypatch.setattr(component_clusters, "_SAMPLED_SHARES", 6 * 12)
    reads: list[str] = []
    listening = copy.copy(model).set_params(
        callbacks=lambda event: reads.append(event.purpose) if isinstance(event, ReadDone) else None
    )
    merged = listening.merged_components(rows)
    assert 2 <= reads.count("merging") <= 5
    assert_is_reference(merged, model.predict_proba(rows), np.ones(len(rows)))


def test_overlaps_are_parts_of_the_entropy_of_the_sizes(
    model: GaussianMixture, rows: Array
) -> None:
    """1 less the mutual information of the row and the cluster, as a part of its entropy."""
    merged, shares = model.merged_components(rows), model.predict_proba(rows)
    for overlap, (i, j) in zip(merged.overlaps, merged.tree, strict=True):
        one, two = shares[:, members(merged, i)].sum(axis=1), shares[:, members(merged, j)].sum(1)
        of_rows = entropy(np.column_stack([one, two]) / (one + two)[:, np.newaxis], one + two)
        sizes = np.array([one.sum(), two.sum()])
        of_sizes = entropy(sizes[np.newaxis] / sizes.sum(), sizes.sum(keepdims=True))
        assert overlap == pytest.approx(of_rows / of_sizes, abs=1e-9)
    halves = np.full((500, 2), 0.5)
    tree = greedy_tree(halves, np.ones(500), [])
    gains = [float(entropy(halves, np.ones(500)))]
    same = merged_components(tree, np.array([0.0, *gains]), gains, halves.sum(axis=0), None)
    assert same.overlaps.tolist() == [pytest.approx(1.0)]


def members(merged: MergedComponents, number: int) -> list[int]:
    """The components of a cluster of the tree."""
    n_components = len(merged.tree) + 1
    if number < n_components:
        return [number]
    i, j = merged.tree[number - n_components]
    return members(merged, i) + members(merged, j)


def test_the_elbow_is_where_two_levels_of_the_overlaps_meet() -> None:
    assert elbow(np.array([0.8, 0.7, 0.75, 0.3, 0.01, 0.003])) == 3
    # Pieces of a curve overlap little, and curves that are apart not at all.
    assert elbow(np.array([0.19, 0.13, 0.2, 0.12, 0.0, 0.0])) == 3
    # Gaussians that are close to each other.
    assert elbow(np.array([0.05, 0.03, 0.02])) == 4
    assert elbow(np.zeros(5)) == 6
    assert elbow(np.full(5, 0.6)) == 1
    assert [elbow(np.array(overlaps)) for overlaps in ([], [0.5], [0.02], [0.0])] == [1, 1, 2, 2]


def test_all_components_may_be_one_cluster() -> None:
    rows = np.random.default_rng(4).standard_t(4, size=(3000, 2))
    assert GaussianMixture(3, random_state=0).fit(rows).merged_components().n_clusters == 1


def test_the_elbow_does_not_depend_on_the_number_of_rows() -> None:
    """Of three clusters of Student-t rows; a mixture of more components fits more rows."""
    for n_rows, n_components in ((1000, 4), (10_000, 6), (100_000, 7)):
        rng = np.random.default_rng(0)
        heavy = np.sqrt(6.0 / rng.chisquare(6.0, n_rows))[:, np.newaxis]
        rows = rng.normal(size=(n_rows, 2)) * heavy
        rows += np.array([[0.0, 0.0], [12.0, 0.0], [0.0, 12.0]])[rng.integers(0, 3, n_rows)]
        model = GaussianMixture(n_components, random_state=0).fit(rows)
        assert model.merged_components().n_clusters == 3


@pytest.mark.parametrize(
    ("shape", "n_components", "distance"),
    [("disc", 9, 7.0), ("curve", 8, 9.0), ("normal", 3, 4.0)],
)
def test_the_elbow_finds_clusters_of_other_shapes(
    shape: str, n_components: int, distance: float
) -> None:
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(3000, 2))
    if shape == "disc":
        rows *= (2.0 * np.sqrt(rng.random(3000)) / np.linalg.norm(rows, axis=1))[:, np.newaxis]
    elif shape == "curve":
        rows = np.column_stack([1.2 * rows[:, 0], 0.4 * rows[:, 1] + 0.6 * rows[:, 0] ** 2])
    rows += distance * np.array([[0.0, 0.0], [1.0, 0.0], [0.5, 1.0]])[np.arange(3000) % 3]
    model = GaussianMixture(n_components, random_state=0).fit(rows)
    merged = model.merged_components()
    assert merged.n_clusters == 3
    clusters = merged.clusters[model.predict(rows)]
    for i in range(3):
        assert np.bincount(clusters[i::3], minlength=3).max() > 950


def test_components_that_do_not_overlap_stay(rows: Array) -> None:
    rng = np.random.default_rng(3)
    apart = rng.normal(size=(400, 1)) + np.array([[0.0], [50], [100], [150]] * 100)
    merged = GaussianMixture(4, random_state=0).fit(apart).merged_components()
    assert merged.n_clusters == 4
    one = GaussianMixture().fit(rows).merged_components()
    assert (one.clusters.tolist(), one.entropies.tolist(), len(one.tree)) == ([0], [0.0], 0)


def test_labels_without_a_component_stay(model: GaussianMixture) -> None:
    merged = model.merged_components(n_clusters=2)
    assert merged.relabel([-1, 0, -2]).tolist() == [-1, merged.clusters[0], -2]


def test_copies_and_files_have_no_sample(
    model: GaussianMixture, rows: Array, tmp_path: Path
) -> None:
    model.save(tmp_path / "model.gmm")
    loaded = GaussianMixture.load(tmp_path / "model.gmm")
    pickled = pickle.dumps(model)
    assert len(pickled) < 0.5 * rows.nbytes
    given = GaussianMixture(
        6,
        weights_init=model.weights_,
        means_init=model.means_,
        precisions_init=model.precisions_,
        algorithm="em",
        max_iter=0,
    ).fit(rows)
    for other in (loaded, pickle.loads(pickled), given):
        with pytest.raises(ParameterError, match=r"no sample of rows.*merged_components\(X\)"):
            other.merged_components()
        found = other.merged_components(rows)
        np.testing.assert_array_equal(found.clusters, model.merged_components().clusters)


def test_bad_input(model: GaussianMixture, rows: Array) -> None:
    for wrong in (0, 7, 2.0, True, "2"):
        with pytest.raises(ParameterError, match=r"n_clusters is .* from 1 to 6"):
            model.merged_components(n_clusters=wrong)  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="n_clusters"):
        model.merged_components().cut(7)
    with pytest.raises(NotFittedError):
        GaussianMixture().merged_components(rows)
    with pytest.raises(DataError, match="features"):
        model.merged_components(rows[:, :1])
    broken = rows.copy()
    broken[2500, 1] = np.inf
    with pytest.raises(NotFiniteError, match=r"row 2500 column 1"):
        model.merged_components(broken)
    with pytest.raises(DataError, match=r"no row of .* can be used"):
        model.merged_components(streamgmm.open(rows, sample_weight=np.zeros(len(rows))))


def test_a_picture_of_the_entropies(model: GaussianMixture, rows: Array) -> None:
    merged = model.merged_components()
    for ax in (plot_entropy(merged), plot_entropy(model)):
        curve, choice = ax.get_lines()
        np.testing.assert_allclose(curve.get_ydata(), merged.entropies)
        np.testing.assert_allclose(curve.get_xdata(), np.arange(1, 7))
        assert choice.get_xdata()[0] == merged.n_clusters == 3
        right = ax.figure.axes[1]
        hollow, filled = right.get_lines()
        assert (hollow.get_xdata().tolist(), filled.get_xdata().tolist()) == ([2, 1], [5, 4, 3])
        np.testing.assert_allclose(filled.get_ydata(), merged.overlaps[:3])
        assert [text.get_text() for text in ax.get_legend().get_texts()] == [
            "entropy", "choice", "overlap",
        ]  # fmt: skip
    assert not plot_entropy(merged.cut(1)).figure.axes[1].get_lines()[0].get_xdata().size
    one = GaussianMixture(random_state=0).fit(rows)
    assert len(plot_entropy(one).figure.axes) == 1
    with pytest.raises(NotFittedError):
        plot_entropy(GaussianMixture())
    stream = OnlineGaussianMixture(2)
    with pytest.raises(ParameterError, match="OnlineGaussianMixture"):
        plot_entropy(stream)
