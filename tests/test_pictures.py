"""Pictures of pairs, of uncertainty and of fit: right values, legible colours, clear errors."""

import matplotlib.style
import numpy as np
import pandas
import pytest
import scipy.stats
import sklearn.mixture
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.contour import QuadContourSet
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse, StepPatch

import streamgmm
from streamgmm import GaussianMixture, OnlineGaussianMixture
from streamgmm.core.structures import STRUCTURES
from streamgmm.errors import DataError, NotFittedError, ParameterError
from streamgmm.events import SampleStage
from streamgmm.plotting import (
    plot_convergence,
    plot_fit,
    plot_mixture,
    plot_pairs,
    plot_uncertainty,
    save_picture,
)
from streamgmm.plotting.colours import Palette
from streamgmm.sources.sample import SampleSource

NAMES = ["a", "b", "c"]


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    rng = np.random.default_rng(0)
    return (
        rng.normal(size=(2000, 3))
        + np.array([[0, 0, 0], [3, 1, 0], [0, 5, 2]])[rng.choice(3, 2000, p=[0.5, 0.3, 0.2])]
    )


@pytest.fixture(scope="module")
def model(rows: np.ndarray) -> GaussianMixture:
    return GaussianMixture(3, random_state=0).fit(pandas.DataFrame(rows, columns=NAMES))


def _own_rows(rows: np.ndarray) -> streamgmm.protocols.Source:
    return streamgmm.open(pandas.DataFrame(rows, columns=NAMES))


# Pairs


def test_pairs_show_each_marginal_distribution(model, rows):
    axes = plot_pairs(model, _own_rows(rows))
    assert axes.shape == (3, 3)
    assert all(axes[i, j] is None for i in range(3) for j in range(i + 1, 3))
    for i in range(3):
        for j in range(i):
            ellipses = [patch for patch in axes[i, j].patches if isinstance(patch, Ellipse)]
            assert len(ellipses) == 6
            for k, ellipse in enumerate(ellipses[::2]):
                np.testing.assert_allclose(ellipse.center, model.means_[k, [j, i]])
                semi = np.sort([ellipse.width / 2, ellipse.height / 2])
                variances = np.linalg.eigvalsh(model.covariances_[k][np.ix_([j, i], [j, i])])
                np.testing.assert_allclose(semi, np.sqrt(variances))
            assert axes[i, j].get_xlim() == axes[2, j].get_xlim()
        *densities, total = axes[i, i].lines
        x = total.get_xdata()
        assert len(densities) == 3
        expected = sum(
            weight * scipy.stats.norm.pdf(x, mean[i], np.sqrt(covariance[i, i]))
            for weight, mean, covariance in zip(
                model.weights_, model.means_, model.covariances_, strict=True
            )
        )
        np.testing.assert_allclose(total.get_ydata(), expected, rtol=1e-9)
        assert [isinstance(patch, StepPatch) for patch in axes[i, i].patches] == [True]
    assert [axes[2, j].get_xlabel() for j in range(3)] == NAMES
    assert [axes[i, 0].get_ylabel() for i in (1, 2)] == NAMES[1:]


def test_pairs_of_chosen_features_in_a_given_figure(model):
    figure = Figure().subfigures(1, 2)[1]
    axes = plot_pairs(model, features=("c", "a"), figure=figure)
    assert axes.shape == (2, 2)
    assert [axes[1, j].get_xlabel() for j in (0, 1)] == ["c", "a"]
    assert axes[0, 0].get_figure() is figure
    assert plot_pairs(model, features="b").shape == (1, 1)


def test_pairs_of_many_features_are_those_that_separate_best():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(600, 15))
    rows[:300, [2, 14]] += 9.0
    model = GaussianMixture(2, covariance_type="diag", random_state=0).fit(rows)
    axes = plot_pairs(model)
    shown = [axes[5, j].get_xlabel() for j in range(6)]
    assert {"feature 2", "feature 14"} < set(shown)
    with pytest.raises(ParameterError, match="a picture shows 12 at most"):
        plot_pairs(model, features=range(13))


def test_rows_with_gaps_are_drawn_where_they_have_values(model, rows):
    holes = rows.copy()
    holes[:, 0] = np.nan
    holes[:10, 1] = np.nan
    holes[::2, 2] = np.nan
    holes[:10, 2] = 1.0
    axes = plot_pairs(model, _own_rows(holes))
    drawn = {(i, j): len(axes[i, j].lines[0].get_xdata()) for i, j in [(2, 1)]}
    assert drawn == {(2, 1): 995}
    assert not [patch for patch in axes[0, 0].patches if isinstance(patch, StepPatch)]
    assert [patch for patch in axes[1, 1].patches if isinstance(patch, StepPatch)]


# Uncertainty


@pytest.mark.parametrize("features", [None, ("a", "c"), "b"])
def test_uncertainty_is_one_minus_the_largest_responsibility(model, rows, features):
    ax = plot_uncertainty(model, _own_rows(rows), features)
    (points,) = ax.collections
    densities = np.stack(
        [
            weight * scipy.stats.multivariate_normal(mean, covariance).pdf(rows)
            for weight, mean, covariance in zip(
                model.weights_, model.means_, model.covariances_, strict=True
            )
        ],
        axis=1,
    )
    expected = 1.0 - (densities / densities.sum(axis=1, keepdims=True)).max(axis=1)
    order = np.argsort(expected)
    np.testing.assert_allclose(points.get_array(), expected[order], atol=1e-9)
    assert np.all(np.diff(points.get_sizes()) >= 0.0)
    if features == ("a", "c"):
        drawn = {tuple(place) for place in np.asarray(points.get_offsets()).round(9)}
        assert drawn == {tuple(row) for row in rows[:, [0, 2]].round(9)}
    if features == "b":
        np.testing.assert_allclose(
            np.asarray(points.get_offsets())[:, 1], expected[order], atol=1e-9
        )


def test_rows_with_gaps_are_uncertain_if_the_model_takes_them(rows):
    holes = rows.copy()
    holes[::4, 2] = np.nan
    source = streamgmm.open(holes, missing="em")
    model = GaussianMixture(3, random_state=0).fit(source)
    (points,) = plot_uncertainty(model, source, (0, 1)).collections
    expected = np.sort(1.0 - model.predict_proba(source).max(axis=1))
    np.testing.assert_allclose(points.get_array(), expected, atol=1e-12)
    (complete,) = plot_uncertainty(model, holes, (0, 1)).collections
    assert len(complete.get_array()) == 1500


# Fit


@pytest.mark.parametrize("covariance_type", STRUCTURES)
def test_distances_are_compared_with_those_that_the_mixture_expects(rows, covariance_type):
    model = GaussianMixture(3, covariance_type=covariance_type, random_state=0).fit(rows)
    ax = plot_fit(model, rows)[0]
    peer = model.to_sklearn()
    shares = peer.predict_proba(rows)
    full = sklearn.mixture.GaussianMixture(3, covariance_type=peer.covariance_type)
    distances = []
    for k in range(3):
        factor = {
            "full": lambda k=k: peer.precisions_cholesky_[k],
            "tied": lambda k=k: peer.precisions_cholesky_,
            "diag": lambda k=k: np.diag(peer.precisions_cholesky_[k]),
            "spherical": lambda k=k: peer.precisions_cholesky_[k] * np.eye(3),
        }[full.covariance_type]()
        distances.append(np.square((rows - peer.means_[k]) @ factor).sum(axis=1))
    values, weights = np.concatenate(distances), shares.T.ravel()
    (line,) = (line for line in ax.lines if line.get_label() == "all rows")
    expected, found = line.get_data()
    for quantile, value in zip(expected[20:-20:20], found[20:-20:20], strict=True):
        part = weights[values <= value].sum() / weights.sum()
        assert part == pytest.approx(scipy.stats.chi2.cdf(quantile, 3), abs=2e-3)


def _distance_curve(ax: Axes) -> tuple[np.ndarray, np.ndarray]:
    (line,) = (line for line in ax.lines if line.get_label() == "all rows")
    return line.get_data()


def test_rows_of_the_mixture_itself_are_on_the_diagonal(model):
    # Components overlap: the labels of rows alone would give distances that are too small.
    drawn, _ = model.sample(20_000)
    ax, *features = plot_fit(model, _own_rows(drawn))
    expected, found = _distance_curve(ax)
    inner = slice(20, -20)
    np.testing.assert_allclose(found[inner], expected[inner], rtol=0.08, atol=0.02)
    assert all(float(panel.get_title(loc="left").split()[1]) < 0.012 for panel in features)


def test_heavy_tails_are_above_the_diagonal():
    rows = np.random.default_rng(0).standard_t(3, size=(5000, 2))
    ax, *_ = plot_fit(GaussianMixture(1).fit(rows), rows)
    expected, found = _distance_curve(ax)
    assert found[-1] > 3 * expected[-1]
    assert f"distances reach {found[-1]:.3g}" in ax.get_title(loc="left")
    assert ax.get_ylim()[1] < 4 * expected[-1]


def test_gaps_are_those_of_kolmogorov_and_smirnov():
    rows = np.random.default_rng(0).exponential(size=(1000, 2))
    model = GaussianMixture(1).fit(rows)
    _, *features = plot_fit(model, rows)
    for j, panel in enumerate(features):
        spread = np.sqrt(model.covariances_[0, j, j])
        found = scipy.stats.kstest(rows[:, j], "norm", (model.means_[0, j], spread)).statistic
        assert panel.get_title(loc="left") == f"gap {found:.3f}"


def test_of_many_features_those_that_fit_worst_are_shown():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(800, 9))
    rows[:, [1, 7]] = rng.exponential(size=(800, 2))
    model = GaussianMixture(1, covariance_type="diag").fit(rows)
    _, *features = plot_fit(model, rows)
    shown = [panel.get_xlabel() for panel in features]
    assert len(shown) == 6
    assert {"feature 1", "feature 7"} < set(shown)
    with pytest.raises(ParameterError, match="shows 6 at most"):
        plot_fit(model, rows, features=range(7))
    assert len(plot_fit(model, rows, features=7)) == 2


def test_weights_count_in_all_pictures(rows):
    weights = np.where(rows[:, 1] > 3.0, 3.0, 1.0)
    weights[:50] = 0.0
    repeated = np.repeat(rows, weights.astype(int), axis=0)
    model = GaussianMixture(2, random_state=0).fit(repeated)
    weighted = streamgmm.open(rows, sample_weight=weights)
    for function in (plot_pairs, plot_fit):
        one, other = (
            [ax for ax in function(model, data).flat if ax is not None]
            for data in (weighted, repeated)
        )
        for a, b in zip(one, other, strict=True):
            for p, q in zip(a.patches, b.patches, strict=True):
                if isinstance(p, StepPatch):
                    heights, edges, _ = p.get_data()
                    more, others, _ = q.get_data()
                    cumulated = np.cumsum(heights * np.diff(edges))
                    again = np.interp(edges[1:], others[1:], np.cumsum(more * np.diff(others)))
                    np.testing.assert_allclose(cumulated, again, atol=0.05)
    found = plot_fit(model, weighted), plot_fit(model, repeated)
    assert [ax.get_title(loc="left") for ax in found[0][1:]] == [
        ax.get_title(loc="left") for ax in found[1][1:]
    ]


# Contours


def test_contours_hold_the_parts_of_rows_that_they_name(model):
    ax = plot_mixture(model, features=("a", "b"), contours=True)
    (lines,) = (child for child in ax.get_children() if isinstance(child, QuadContourSet))
    assert not [patch for patch in ax.patches if isinstance(patch, Ellipse)]
    drawn, _ = model.sample(20_000)
    density = sum(
        weight * scipy.stats.multivariate_normal(mean[:2], covariance[:2, :2]).pdf(drawn[:, :2])
        for weight, mean, covariance in zip(
            model.weights_, model.means_, model.covariances_, strict=True
        )
    )
    for level, part in zip(lines.levels, (0.95, 0.8, 0.5), strict=True):
        assert np.mean(np.log(density) > level) == pytest.approx(part, abs=0.01)
    texts = {text.get_text() for text in ax.texts}
    assert {"50%", "80%", "95%"} <= texts


# Convergence


def test_the_work_on_the_sample_is_drawn_beside_the_passes(rows):
    seen: list[SampleStage] = []
    model = GaussianMixture(
        3,
        random_state=0,
        callbacks=[lambda e: seen.append(e) if isinstance(e, SampleStage) else None],
    ).fit(rows)
    assert [stage["name"] for stage in model.sample_history_] == [stage.name for stage in seen]
    ax = plot_convergence(model)
    sample, passes = ax.get_figure().axes
    assert passes is ax
    lines = [line for line in sample.lines if not line.get_label().startswith("_")]
    assert [line.get_label() for line in lines] == [f"{s.name}, {s.n_rows:,} rows" for s in seen]
    first = 1
    for line, stage in zip(lines, seen, strict=True):
        values = np.array(stage.log_likelihoods)
        assert values.max() >= stage.log_likelihood >= values.min()
        numbers, gaps = line.get_data()
        assert numbers.tolist() == [*range(first, first + len(values))]
        np.testing.assert_allclose(gaps, values.max() - np.maximum.accumulate(values))
        first += len(values)
    alone = plot_convergence(model, ax=Figure().add_subplot())
    assert alone.get_figure().axes == [alone]


def test_a_model_without_work_on_a_sample_shows_its_passes_alone(rows):
    em = GaussianMixture(2, algorithm="em", random_state=0).fit(rows)
    assert em.sample_history_ == []
    ax = plot_convergence(em)
    assert ax.get_figure().axes == [ax]


def test_files_hold_the_work_on_the_sample(rows, tmp_path):
    fitted = GaussianMixture(2, random_state=0).fit(rows)
    fitted.save(tmp_path / "m.gmm")
    loaded = streamgmm.load(tmp_path / "m.gmm")
    assert loaded.sample_history_ == fitted.sample_history_
    assert len(plot_convergence(loaded).get_figure().axes) == 2


# Colours

# Machado, Oliveira & Fernandes (2009), severity 1.
DEFICIENCIES = {
    "none": np.eye(3),
    "protanopia": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "deuteranopia": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.01182, 0.04294, 0.968881],
        ]
    ),
}


def _linear(colour: str) -> np.ndarray:
    values = np.array(to_rgb(colour))
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def _lab(linear: np.ndarray) -> np.ndarray:
    """CIELAB of linear sRGB, white D65."""
    matrix = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    x, y, z = np.array(matrix) @ linear / np.array([0.9505, 1.0, 1.089])
    f = [np.cbrt(v) if v > 216 / 24389 else (24389 / 27 * v + 16) / 116 for v in (x, y, z)]
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("background", ["white", "black"])
def test_colours_stand_out_from_the_background_and_from_each_other(background):
    ax = Figure().add_subplot(facecolor=background)
    palette = Palette.of(ax)
    luminance = np.array([0.2126, 0.7152, 0.0722])
    for colour in (*palette.colours, palette.ink):
        pair = sorted(luminance @ _linear(c) + 0.05 for c in (colour, background))
        assert pair[1] / pair[0] >= 3.0
    for matrix in DEFICIENCIES.values():
        seen = [_lab(np.clip(matrix @ _linear(colour), 0.0, 1.0)) for colour in palette.colours]
        gaps = [np.linalg.norm(a - b) for i, a in enumerate(seen) for b in seen[:i]]
        assert min(gaps) > 20.0


def test_pictures_follow_a_dark_style(model, rows, tmp_path):
    with matplotlib.rc_context(matplotlib.style.library["dark_background"]):
        for draw in (plot_mixture, plot_uncertainty, plot_pairs, plot_fit):
            axes = draw(model, _own_rows(rows))
            save_picture(axes, tmp_path / "p.png")
            first = axes if isinstance(axes, Axes) else axes.flat[0]
            assert Palette.of(first).ink == "0.85"


# What cannot be drawn

DRAWING = {
    "mixture": plot_mixture,
    "pairs": plot_pairs,
    "uncertainty": plot_uncertainty,
    "fit": plot_fit,
}


@pytest.mark.parametrize("kind", DRAWING)
def test_bad_input_says_what_is_wrong(model, rows, kind, tmp_path):
    draw = DRAWING[kind]
    own = _own_rows(rows)
    with pytest.raises(NotFittedError, match="not fitted yet"):
        draw(GaussianMixture(2), rows)
    with pytest.raises(NotFittedError, match="not fitted yet"):
        draw(OnlineGaussianMixture(2), rows)
    with pytest.raises(ParameterError, match="give a fitted GaussianMixture"):
        draw(rows, rows)
    for features in ((0, 9), "d", ("a", "a"), (), [None], [1.5], [True, [0]]):
        with pytest.raises(ParameterError, match="not columns of the model"):
            draw(model, own, features)
    with pytest.raises(DataError, match="2 features, but GaussianMixture is expecting 3"):
        draw(model, rows[:, :2])
    with pytest.raises(DataError, match="names should match"):
        draw(model, pandas.DataFrame(rows, columns=["a", "c", "b"]))
    with pytest.raises(DataError, match=r"X has 0 sample\(s\)"):
        draw(model, rows[:0])
    with pytest.raises(DataError, match="has no rows; give data with at least one row"):
        draw(model, SampleSource(rows[:0], np.ones(0)))
    with pytest.raises(DataError, match=r"no row to draw: each of the 7 examined rows lacks"):
        draw(model, np.full((7, 3), np.nan))
    with pytest.raises(DataError, match="no row to draw"):
        draw(model, streamgmm.open(rows[:4], sample_weight=np.zeros(4)))
    save_picture(draw(model, rows[:1]), tmp_path / "one.png")
    infinite = rows[:5].copy()
    infinite[0] = np.inf
    save_picture(draw(model, infinite), tmp_path / "five.png")


def test_bad_places_say_what_is_wrong(model, rows):
    for draw in (plot_mixture, plot_uncertainty):
        with pytest.raises(ParameterError, match="ax is a str; give axes"):
            draw(model, rows, ax="here")
        with pytest.raises(ParameterError, match="plot_pairs shows more"):
            draw(model, rows, features=(0, 1, 2))
    for draw in (plot_pairs, plot_fit):
        with pytest.raises(ParameterError, match="figure is a str; give a Figure"):
            draw(model, rows, figure="here")
    with pytest.raises(ParameterError, match="give two features"):
        plot_mixture(model, features="a", contours=True)
    with pytest.raises(ParameterError, match="ax is in no figure"):
        save_picture(np.array([None]), "p.png")


@pytest.mark.parametrize("kind", DRAWING)
def test_models_of_streams_are_drawn(rows, kind, tmp_path):
    stream = OnlineGaussianMixture(3, init_size=500, random_state=0).fit(rows)
    save_picture(DRAWING[kind](stream, rows), tmp_path / "p.png")
