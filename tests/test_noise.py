"""Fits with noise: against EM in NumPy, and what every method does with the noise."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
from click.testing import CliRunner
from numpy.typing import NDArray

import streamgmm
from streamgmm import GaussianMixture, GaussianMixtureSearch, OnlineGaussianMixture
from streamgmm.cli import main
from streamgmm.errors import ParameterError
from tests.core.cases import ALL_TYPES

MEANS = np.array([[0.0, 0.0], [8.0, 0.0], [0.0, 9.0]])
PART, LOW, HIGH = 0.1, -20.0, 28.0
Rows = NDArray[Any]


def rows_with_noise(n: int = 6000, seed: int = 0) -> tuple[Rows, NDArray[np.int64]]:
    """Return three clusters and uniform noise, with the cluster of each row; -1 for noise."""
    rng = np.random.default_rng(seed)
    labels = rng.choice([-1, 0, 1, 2], size=n, p=[PART, 0.3, 0.3, 0.3])
    rows = MEANS[labels] + rng.normal(size=(n, 2))
    rows[labels == -1] = rng.uniform(LOW, HIGH, size=((labels == -1).sum(), 2))
    return rows, labels


def fitted(**settings: Any) -> GaussianMixture:
    model = GaussianMixture(3, noise="uniform", random_state=0).set_params(**settings)
    return model.fit(rows_with_noise()[0])


def in_numpy(rows: Rows, means: Rows, log_density: float, steps: int) -> tuple[Rows, Rows, Rows]:
    """Return weights (noise last), means and covariances after steps of EM from unit spheres."""
    k, d = means.shape
    covariances = np.tile(np.eye(d), (k, 1, 1))
    weights = np.append(np.full(k, 0.95 / k), 0.05)
    for _ in range(steps):
        joint = np.column_stack(
            [
                *(
                    weights[j] * scipy.stats.multivariate_normal(means[j], covariances[j]).pdf(rows)
                    for j in range(k)
                ),
                np.full(len(rows), weights[k] * np.exp(log_density)),
            ]
        )
        shares = joint / joint.sum(axis=1, keepdims=True)
        counts = shares.sum(axis=0)
        weights = counts / len(rows)
        means = shares[:, :k].T @ rows / counts[:k, np.newaxis]
        covariances = np.array(
            [(shares[:, j] * (rows - means[j]).T) @ (rows - means[j]) / counts[j] for j in range(k)]
        )
    return weights, means, covariances


def test_iterations_are_those_of_em_in_numpy() -> None:
    rows, _ = rows_with_noise(2000)
    start, log_density = MEANS + 0.5, -7.0
    model = GaussianMixture(
        3,
        algorithm="em",
        noise=log_density,
        weights_init=np.full(3, 1.0 / 3.0),
        means_init=start,
        precisions_init=np.tile(np.eye(2), (3, 1, 1)),
        tol=0.0,
        reg_covar=0.0,
        max_iter=7,
    )
    with pytest.warns(UserWarning, match="converge"):
        model.fit(rows)
    weights, means, covariances = in_numpy(rows, start, log_density, 7)
    np.testing.assert_allclose(model.weights_, weights[:3], rtol=1e-9)
    assert model.noise_weight_ == pytest.approx(weights[3], rel=1e-9)
    assert model.noise_log_density_ == log_density
    assert not hasattr(model, "noise_box_")
    np.testing.assert_allclose(model.means_, means, atol=1e-9)
    np.testing.assert_allclose(model.covariances_, covariances, atol=1e-9)
    assert np.all(np.diff(model.lower_bounds_) > 0.0)


@pytest.mark.parametrize("covariance_type", [*ALL_TYPES, "low_rank"])
def test_planted_noise_is_found_and_leaves_the_clusters_alone(covariance_type: str) -> None:
    rows, labels = rows_with_noise()
    model = fitted(covariance_type=covariance_type, tol=1e-6)
    assert model.noise_weight_ == pytest.approx((labels == -1).mean(), abs=0.005)
    assert model.weights_.sum() + model.noise_weight_ == pytest.approx(1.0)
    error = 1.0 / np.sqrt(0.3 * len(rows))
    order = np.argsort(model.means_ @ [1.0, 2.0])
    np.testing.assert_allclose(model.means_[order], MEANS, atol=3.5 * error)
    assert model.converged_
    plain = GaussianMixture(3, covariance_type=covariance_type, random_state=0).fit(rows)
    order = np.argsort(plain.means_ @ [1.0, 2.0])
    spread = np.sqrt(np.mean(np.square(plain.covariances_)))
    off = np.abs(plain.means_[order] - MEANS).max()
    # Without noise a mean moves, or the covariances hold the noise.
    assert off > 3.0 * error or spread > 1.5
    assert model.n_parameters_ == plain.n_parameters_ + 1


def test_few_passes_end_where_plain_em_ends() -> None:
    one, other = fitted(tol=1e-9), fitted(tol=1e-12, algorithm="em", max_iter=2000)
    assert one.lower_bound_ == pytest.approx(other.score(rows_with_noise()[0]), abs=1e-7)
    np.testing.assert_allclose(
        np.sort(one.means_, axis=0), np.sort(other.means_, axis=0), atol=1e-3
    )
    assert one.noise_weight_ == pytest.approx(other.noise_weight_, abs=1e-4)
    assert one.bic_ == pytest.approx(one.bic(rows_with_noise()[0]))


def test_a_fill_value_does_not_set_the_volume() -> None:
    rows, labels = rows_with_noise()
    before = fitted()
    rows[1234] = 1e30
    model = GaussianMixture(3, noise="uniform", random_state=0).fit(rows)
    assert model.noise_log_density_ == pytest.approx(before.noise_log_density_, abs=0.02)
    assert model.noise_weight_ == pytest.approx((labels == -1).mean(), abs=0.005)
    np.testing.assert_allclose(
        np.sort(model.means_, axis=0), np.sort(before.means_, axis=0), atol=0.01
    )
    assert model.predict(rows[1234:1235])[0] == -1
    expected = np.log(model.noise_weight_) + model.noise_log_density_
    assert model.score_samples(rows[1234:1235])[0] == pytest.approx(expected)


def test_labels_and_probabilities_tell_noise_from_rows_without_values() -> None:
    rows, labels = rows_with_noise()
    model = fitted()
    found = model.predict(rows)
    assert (found == -1).mean() == pytest.approx((labels == -1).mean(), abs=0.01)
    probabilities = model.predict_proba(rows)
    assert probabilities.shape == (len(rows), 3)
    of_noise = 1.0 - probabilities.sum(axis=1)
    np.testing.assert_array_equal(found == -1, of_noise > probabilities.max(axis=1))
    gaps = np.array([[np.nan, 1.0], [0.0, 0.0], [20.0, 20.0], [1e200, 0.0]])
    source = streamgmm.open(gaps, missing="drop")
    assert model.predict(source)[[0, 2, 3]].tolist() == [-2, -1, -1]
    assert model.predict(streamgmm.open(gaps[:1], missing="em"))[0] >= -1
    plain = GaussianMixture(3, random_state=0).fit(rows)
    assert plain.predict(source)[0] == -1


def test_incomplete_rows_take_part() -> None:
    rows, labels = rows_with_noise()
    rows[np.random.default_rng(1).random(rows.shape) < 0.2] = np.nan
    source = streamgmm.open(rows, missing="em")
    model = GaussianMixture(3, noise="uniform", random_state=0, tol=1e-6).fit(source)
    assert model.noise_weight_ == pytest.approx((labels == -1).mean(), abs=0.02)
    assert np.isfinite(model.impute(rows)).all()
    assert model.criteria(source).entropy > 0.0


@pytest.mark.parametrize("algorithm", ["em", "hard"])
def test_other_algorithms_find_the_noise(algorithm: str) -> None:
    labels = rows_with_noise()[1]
    model = fitted(algorithm=algorithm)
    assert model.noise_weight_ == pytest.approx((labels == -1).mean(), abs=0.005)
    assert np.all(np.diff(model.lower_bounds_) > -1e-9)


def test_drawn_rows_have_the_mixture() -> None:
    model = fitted()
    rows, labels = model.sample(20_000)
    assert np.all(np.diff(labels) >= 0)
    assert (labels == -1).mean() == pytest.approx(model.noise_weight_, abs=0.01)
    own = rows[labels == -1]
    assert np.all((own >= model.noise_box_[0]) & (own <= model.noise_box_[1]))
    np.testing.assert_allclose(own.mean(axis=0), model.noise_box_.mean(axis=0), atol=1.5)
    one = int(np.argmax(model.weights_))
    np.testing.assert_allclose(rows[labels == one].mean(axis=0), model.means_[one], atol=0.1)


def test_files_and_copies_keep_the_noise(tmp_path: Path) -> None:
    rows, _ = rows_with_noise()
    for noise in ("uniform", -7.5):
        model = fitted(noise=noise)
        model.save(tmp_path / "model.gmm")
        loaded = GaussianMixture.load(tmp_path / "model.gmm")
        assert loaded.noise == noise
        assert loaded.noise_weight_ == model.noise_weight_
        np.testing.assert_array_equal(loaded.predict(rows), model.predict(rows))
        np.testing.assert_array_equal(loaded.score_samples(rows), model.score_samples(rows))
        assert loaded.bic_ == model.bic_
        copied = GaussianMixture.from_fitted_model(model.fitted_model_)
        assert copied.noise == noise
        assert copied.score(rows) == model.score(rows)
    with pytest.raises(ParameterError, match="noise"):
        GaussianMixture.from_fitted_model(model.fitted_model_, noise=None)


def test_a_fit_that_was_interrupted_continues_to_the_same_bits(tmp_path: Path) -> None:
    rows, _ = rows_with_noise()
    settings: dict[str, Any] = {"noise": "uniform", "random_state": 0, "tol": 1e-9}
    whole = GaussianMixture(3, **settings).fit(rows)
    n_seen = 0

    def stop(event: Any) -> None:
        nonlocal n_seen
        n_seen += type(event).__name__ == "CheckpointWritten"
        if n_seen == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        GaussianMixture(3, **settings, checkpoint=tmp_path / "c", callbacks=[stop]).fit(rows)
    again = GaussianMixture(3, **settings, checkpoint=tmp_path / "c").fit(rows, resume=True)
    np.testing.assert_array_equal(again.means_, whole.means_)
    assert again.noise_weight_ == whole.noise_weight_
    assert streamgmm.load(tmp_path / "c" / "model.gmm").noise_weight_ == whole.noise_weight_
    with pytest.raises(streamgmm.errors.CheckpointError, match="noise"):
        GaussianMixture(3, **{**settings, "noise": -5.0}, checkpoint=tmp_path / "c").fit(
            rows, resume=True
        )


def test_a_warm_start_keeps_the_box() -> None:
    rows, _ = rows_with_noise()
    model = fitted(warm_start=True)
    box, bound = model.noise_box_, model.lower_bound_
    model.fit(rows + 0.01)
    np.testing.assert_array_equal(model.noise_box_, box)
    assert model.lower_bound_ == pytest.approx(bound, abs=0.01)
    with pytest.raises(ParameterError, match="warm_start"):
        model.set_params(noise=None).fit(rows)


def test_marginal_and_conditional_models_have_noise() -> None:
    rows, _ = rows_with_noise()
    model = fitted()
    own = model.marginal([1])
    assert own.noise_weight_ == model.noise_weight_
    assert own.noise_log_density_ == pytest.approx(-np.log(np.ptp(model.noise_box_[:, 1])))
    rest = model.conditional({1: 25.0})
    assert rest.noise_weight_ == pytest.approx(1.0, abs=1e-6)
    assert np.isfinite(rest.score(rows[:, :1]))


def test_aligned_and_merged_components_keep_the_noise() -> None:
    rows, _ = rows_with_noise()
    model = fitted()
    assert model.aligned(fitted(random_state=3)).noise_weight_ == model.noise_weight_
    five = GaussianMixture(5, noise="uniform", random_state=0).fit(rows)
    merged = five.merged_components(rows, n_clusters=3)
    shares = five.predict_proba(rows)
    shares = np.column_stack([shares, np.clip(1.0 - shares.sum(axis=1), 0.0, 1.0)])
    entropy = -np.sum(shares * np.log(np.maximum(shares, 1e-300)))
    assert merged.entropies[-1] == pytest.approx(entropy)
    clusters = np.column_stack(
        [shares[:, :5] @ (merged.clusters == cluster) for cluster in range(3)] + [shares[:, 5]]
    )
    entropy = -np.sum(clusters * np.log(np.maximum(clusters, 1e-300)))
    assert merged.entropies[2] == pytest.approx(entropy)
    assert set(merged.relabel(five.predict(rows))) == {-1, 0, 1, 2}


def test_a_search_chooses_among_mixtures_with_noise() -> None:
    rows, labels = rows_with_noise()
    search = GaussianMixtureSearch(
        range(1, 6), covariance_type="spherical", noise="uniform", random_state=0
    ).fit(rows)
    assert search.best_params_["n_components"] == 3
    best = search.best_estimator_
    assert best.noise_weight_ == pytest.approx((labels == -1).mean(), abs=0.005)
    sizes = search.cv_results_["param_n_components"]
    np.testing.assert_array_equal(search.cv_results_["n_parameters"], 4 * sizes)
    assert search.best_score_ == pytest.approx(best.bic(rows))
    assert {model.noise_log_density_ for model in search.estimators_} == {best.noise_log_density_}
    held_out = GaussianMixtureSearch(
        [1, 3], covariance_type="tied", noise="uniform", criterion="held_out", random_state=0
    ).fit(rows)
    assert held_out.best_params_["n_components"] == 3


def test_a_search_with_equal_weights() -> None:
    rows, labels = rows_with_noise()
    rows = rows[labels >= 0]
    search = GaussianMixtureSearch(
        range(1, 6), covariance_type="spherical", fixed=["weights"], random_state=0
    ).fit(rows)
    assert search.best_params_["n_components"] == 3
    for model in search.estimators_:
        np.testing.assert_allclose(model.weights_, 1.0 / model.n_components)
    sizes = search.cv_results_["param_n_components"]
    np.testing.assert_array_equal(search.cv_results_["n_parameters"], 3 * sizes)
    assert search.best_score_ == pytest.approx(search.best_estimator_.bic(rows))
    for wrong in (["means"], {"weights": [True]}):
        with pytest.raises(ParameterError, match="equal weights"):
            GaussianMixtureSearch(3, fixed=wrong).fit(rows)


def test_what_cannot_have_noise_is_refused(tmp_path: Path) -> None:
    rows, _ = rows_with_noise(500)
    for wrong, match in (("box", "noise"), (np.nan, "finite"), (True, "noise")):
        with pytest.raises(ParameterError, match=match):
            GaussianMixture(2, noise=wrong).fit(rows)
    with pytest.raises(ParameterError, match="weights"):
        GaussianMixture(3, noise="uniform", fixed={"weights"}).fit(rows)
    gaps = streamgmm.open(np.where(rows > 27.0, np.nan, rows), missing="em")
    with pytest.raises(ParameterError, match="missing='em'"):
        GaussianMixture(3, noise=-7.0).fit(gaps)
    model, number = fitted(), fitted(noise=-7.0)
    with pytest.raises(ParameterError, match="scikit-learn"):
        model.to_sklearn()
    with pytest.raises(ParameterError, match="noise"):
        OnlineGaussianMixture.from_batch(model)
    with pytest.raises(ParameterError, match="noise"):
        OnlineGaussianMixture.merged([model, model])
    model.save(tmp_path / "model.gmm")
    with pytest.raises(ParameterError, match="noise"):
        streamgmm.update(tmp_path / "model.gmm", rows)
    for ask in (
        lambda: number.sample(3),
        lambda: number.marginal([0]),
        lambda: number.conditional({0: 1.0}),
        lambda: number.impute([[np.nan, 0.0]]),
        lambda: number.predict(gaps),
    ):
        with pytest.raises(ParameterError, match="without a box"):
            ask()


def test_pictures_show_the_noise() -> None:
    plotting = pytest.importorskip("streamgmm.plotting")
    model, (rows, _) = fitted(), rows_with_noise()
    listed = f"noise: {model.noise_weight_:.3g}"
    ax = plotting.plot_mixture(model)
    assert listed in [text.get_text() for text in ax.get_legend().get_texts()]
    low, high = model.noise_box_
    boxes = [patch.get_bbox() for patch in ax.patches if hasattr(patch, "get_bbox")]
    np.testing.assert_allclose([box.extents for box in boxes], [[*low, *high]])
    ax = plotting.plot_mixture(model, features=(0,))
    *_, noise, total = (line.get_xydata() for line in ax.lines)
    inside = (noise[:, 0] > low[0]) & (noise[:, 0] < high[0])
    expected = model.noise_weight_ / (high[0] - low[0])
    np.testing.assert_allclose(noise[inside, 1], expected)
    assert np.all(total[inside, 1] >= expected)
    *_, first, second = plotting.plot_fit(model, rows)
    assert [float(ax.get_title(loc="left").removeprefix("gap ")) < 0.02 for ax in (first, second)]
    plotting.plot_uncertainty(model, rows)
    plotting.plot_pairs(model, rows)
    with pytest.raises(ParameterError, match="without a box"):
        plotting.plot_mixture(fitted(noise=-7.0), features=(0,))


def test_the_command_line_fits_noise(tmp_path: Path) -> None:
    data, model = tmp_path / "x.npy", tmp_path / "m.gmm"
    np.save(data, rows_with_noise()[0])
    run = CliRunner().invoke
    fit = ["fit", str(data), "-o", str(model), "-k", "3", "--seed", "0"]
    assert run(main, [*fit, "--noise", "uniform"]).exit_code == 0
    assert ", noise 0.1" in run(main, ["info", str(model)]).output
    shown = json.loads(run(main, ["info", str(model), "--json"]).output)
    assert shown["noise_weight"] == pytest.approx(0.1, abs=0.02)
    again = ["fit", str(data), "-o", str(tmp_path / "b.gmm"), "--start", str(model), "-q"]
    assert run(main, again).exit_code == 0
    assert streamgmm.load(tmp_path / "b.gmm").noise_weight_ == pytest.approx(
        shown["noise_weight"], abs=1e-3
    )
    select = ["select", str(data), "-k", "2:3", "--types", "diag", "-o", str(tmp_path / "c.gmm")]
    assert run(main, [*select, "--fixed", "weights"]).exit_code == 0
    np.testing.assert_allclose(streamgmm.load(tmp_path / "c.gmm").weights_, 1.0 / 3.0)
    found = run(main, [*fit, "--noise", "much"])
    assert found.exit_code != 0
    assert "give uniform, or a number" in found.output
