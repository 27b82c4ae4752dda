"""Pictures: the right ellipses, from a few chunks, and the passes of a fit, without pyplot."""

from dataclasses import asdict

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse

from streamgmm import GaussianMixture, GaussianMixtureSearch, OnlineGaussianMixture
from streamgmm.core.fitted_model import FittedModel
from streamgmm.core.parameters import Parameters
from streamgmm.errors import DataError, NotFittedError, OutputError, ParameterError
from streamgmm.events import ReadDone
from streamgmm.plotting import plot_convergence, plot_criteria, plot_mixture, save_picture
from streamgmm.sources.generated import GeneratedSource

WEIGHTS = np.array([0.3, 0.7])
MEANS = np.array([[0.0, 1.0, 2.0], [5.0, -1.0, 3.0]])
FULL = np.array(
    [
        [[2.0, 0.5, 0.1], [0.5, 1.0, 0.2], [0.1, 0.2, 3.0]],
        [[1.0, -0.4, 0.0], [-0.4, 0.5, 0.1], [0.0, 0.1, 0.7]],
    ]
)
COVARIANCES = {
    "full": FULL,
    "tied": FULL[0],
    "diag": np.array([[2.0, 1.0, 3.0], [1.0, 0.5, 0.7]]),
    "spherical": np.array([2.0, 0.5]),
}


def _model(covariance_type: str = "full") -> GaussianMixture:
    parameters = Parameters.create(covariance_type, WEIGHTS, MEANS, COVARIANCES[covariance_type])
    return _fitted(parameters)


def _fitted(parameters: Parameters) -> GaussianMixture:
    return GaussianMixture.from_fitted_model(FittedModel(parameters))


def _dense(covariance_type: str, k: int) -> np.ndarray:
    covariances = COVARIANCES[covariance_type]
    return {
        "full": lambda: covariances[k],
        "tied": lambda: covariances,
        "diag": lambda: np.diag(covariances[k]),
        "spherical": lambda: covariances[k] * np.eye(3),
    }[covariance_type]()


def _covariance(ellipse: Ellipse) -> np.ndarray:
    """The covariance whose one standard deviation the ellipse shows."""
    angle = np.deg2rad(ellipse.angle)
    axes = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return axes @ np.diag([ellipse.width / 2, ellipse.height / 2]) ** 2 @ axes.T


@pytest.mark.parametrize("covariance_type", COVARIANCES)
def test_ellipses_are_those_of_the_marginal(covariance_type):
    columns = [2, 0]
    ax = plot_mixture(_model(covariance_type), features=columns)
    ellipses = [patch for patch in ax.patches if isinstance(patch, Ellipse)]
    assert len(ellipses) == 4
    for i, ellipse in enumerate(ellipses):
        k, deviations = divmod(i, 2)
        expected = _dense(covariance_type, k)[np.ix_(columns, columns)] * (deviations + 1) ** 2
        np.testing.assert_allclose(ellipse.center, MEANS[k, columns])
        np.testing.assert_allclose(_covariance(ellipse), expected, atol=1e-12)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("feature 2", "feature 0")


def test_all_ellipses_are_within_the_limits():
    ax = plot_mixture(_model(), np.array([[100.0, 0.0, 0.0]] * 10), (0, 1))
    for ellipse in ax.patches:
        (x0, y0), (x1, y1) = ellipse.get_extents().transformed(ax.transData.inverted()).get_points()
        assert ax.get_xlim()[0] <= x0 <= x1 <= ax.get_xlim()[1]
        assert ax.get_ylim()[0] <= y0 <= y1 <= ax.get_ylim()[1]
    assert ax.get_xlim()[1] >= 100.0


def test_axes_are_given_back_and_named_by_the_features():
    model = _model()
    model.feature_names_in_ = np.array(["t", "q", "p"], dtype=object)
    ax = Figure().add_subplot()
    assert plot_mixture(model, features=(1, 2), ax=ax) is ax
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("q", "p")


@pytest.mark.parametrize("columns", [(1,), (0, 1)])
def test_a_few_chunks_are_read(columns):
    source = GeneratedSource(_model()._parameters(), 100_000, chunk_rows=1000)
    read, read_chunk = [], source.read
    source.read = lambda i: (read.append(i), read_chunk(i))[1]
    ax = plot_mixture(_model(), source, columns)
    assert len(read) <= 10
    assert min(read) == 0
    assert max(read) == 99
    drawn = ax.collections if len(columns) == 2 else ax.patches
    assert drawn


def test_one_feature_is_a_histogram_with_densities():
    variances = np.array([0.25, 1.0])
    model = _fitted(Parameters.create("full", WEIGHTS, [[0.0], [3.0]], variances[:, None, None]))
    rows = np.random.default_rng(0).normal(size=(1000, 1))
    rows[3] = np.nan
    ax = plot_mixture(model, rows)
    (histogram,) = ax.patches
    heights, edges, _ = histogram.get_data()
    present = rows[np.isfinite(rows)]
    counts, _ = np.histogram(present, edges)
    np.testing.assert_allclose(heights, counts / present.size / np.diff(edges))
    assert heights @ np.diff(edges) == pytest.approx(1.0, abs=0.01)
    assert ax.get_ylabel() == "density"
    *components, total = ax.lines
    for k, line in zip((1, 0), components, strict=True):
        x, density = line.get_data()
        assert np.trapezoid(density, x) == pytest.approx(WEIGHTS[k], rel=0.01)
        assert density.max() == pytest.approx(WEIGHTS[k] / np.sqrt(2 * np.pi * variances[k]))
    np.testing.assert_allclose(
        total.get_ydata(), sum(line.get_ydata() for line in components), rtol=1e-12
    )


@pytest.mark.parametrize("features", [(0, 3), (-1, 0), (1, 1), (), (0, 1, 2)])
def test_features_that_are_none(features):
    with pytest.raises(ParameterError, match="features"):
        plot_mixture(_model(), features=features)


def test_data_of_other_columns():
    with pytest.raises(DataError, match=r"X has 2 features, but .* is expecting 3 features"):
        plot_mixture(_model(), np.zeros((5, 2)))


# A fit with a read of some rows, one that evaluates nothing, and a step that is taken back.
READS = [
    ReadDone(1, "pilot", 10, 1.0, log_likelihood=-1.0, part=0.1),
    ReadDone(2, "survey", 100, 1.0),
    ReadDone(3, "iteration", 100, 1.0, 1, log_likelihood=-5.0),
    ReadDone(4, "iteration", 100, 1.0, 2, log_likelihood=-4.9, gain=0.1),
    ReadDone(5, "iteration", 100, 1.0, 3, log_likelihood=-5.5, gain=-0.6, accepted=False),
    ReadDone(6, "iteration", 100, 1.0, 4, log_likelihood=-4.875, gain=0.025),
]


def _with_history(reads: list[ReadDone]) -> GaussianMixture:
    model = _model().set_params(tol=0.01)
    model.history_ = [asdict(read) for read in reads]
    return model


def _drawn(ax: Axes) -> dict[str, np.ndarray]:
    """Places (reads, 2) of what stands in the legend, by label."""
    return {line.get_label(): line.get_xydata() for line in ax.lines if line.get_label()[0] != "_"}


def _paths(ax: Axes) -> list[list[list[float]]]:
    """Places that are joined, start by start."""
    paths = [line.get_xydata() for line in ax.lines if line.get_label()[0] == "_"]
    return [path.tolist() for path in paths if len(path)]


def test_reads_are_marked_where_they_end_by_what_they_lack():
    ax = plot_convergence(_with_history(READS))
    drawn = _drawn(ax)
    kept = [[2.1, 0.125], [3.1, 0.025], [5.1, 0.0]]
    np.testing.assert_allclose(drawn["iteration"], kept)
    np.testing.assert_allclose(drawn["not accepted"], [[4.1, 0.625]])
    np.testing.assert_allclose(drawn["tol = 0.01"][:, 1], 0.01)
    (path,) = _paths(ax)
    np.testing.assert_allclose(path, kept)
    assert "-4.875" in ax.get_ylabel()
    assert [text.get_text() for text in ax.texts] == [
        "-5.000000",
        "-4.900000",
        "-5.500000",
        "-4.875000",
    ]


def test_reads_without_a_log_likelihood_of_all_data_are_bands():
    ax = plot_convergence(_with_history(READS))
    bands = {bars.get_label(): bars.get_paths() for bars in ax.collections}
    assert bands.keys() == {"pilot", "survey"}
    for purpose, limits in (("pilot", [0.0, 0.1]), ("survey", [0.1, 1.1])):
        (band,) = bands[purpose]
        assert [band.vertices[:, 0].min(), band.vertices[:, 0].max()] == pytest.approx(limits)


def test_all_that_is_drawn_of_a_fit_is_within_the_limits():
    ax = plot_convergence(_with_history(READS))
    for places in _drawn(ax).values():
        assert ax.get_xlim()[0] <= places[:, 0].min() <= places[:, 0].max() <= ax.get_xlim()[1]
        assert ax.get_ylim()[0] <= places[:, 1].min() <= places[:, 1].max() <= ax.get_ylim()[1]
    assert ax.get_ylim()[0] > -0.01


def test_each_start_of_a_fit_is_a_line_of_its_own():
    rows = np.random.default_rng(0).normal(size=(500, 2))
    model = GaussianMixture(
        2, n_init=3, random_state=0, tol=1e-2, init_params="random", algorithm="em"
    ).fit(rows)
    ax = plot_convergence(model)
    paths = _paths(ax)
    assert len(paths) == 3
    assert [place for path in paths for place in path] == _drawn(ax)["iteration"].tolist()
    assert max(len(path) for path in paths) == model.n_iter_
    assert min(gap for path in paths for _, gap in path) == 0.0


def test_a_single_read_without_tolerance_is_drawn():
    model = _with_history(READS[2:3]).set_params(tol=0.0)
    ax = plot_convergence(model)
    assert _drawn(ax).keys() == {"iteration"}
    ax.get_figure().canvas.draw()


def test_a_model_that_was_not_fitted_shows_no_convergence():
    with pytest.raises(ParameterError, match="max_iter of at least 1"):
        plot_convergence(_with_history(READS[:2]))


def _of_a_stream() -> OnlineGaussianMixture:
    """Learned from rows that are somewhere else in the end."""
    rows = np.random.default_rng(0).normal(size=(30_000, 2))
    rows[20_000:] += 4.0
    model = OnlineGaussianMixture(2, half_life=1000, init_size=500, random_state=0)
    for start in range(0, len(rows), 50):
        model.partial_fit(rows[start : start + 50])
    return model


def test_scores_of_a_stream_are_drawn_where_its_rows_are():
    model = _of_a_stream()
    ax = plot_convergence(model)
    (stairs,) = ax.patches
    values, edges, _ = stairs.get_data()
    assert values.tolist() == [entry["log_likelihood"] for entry in model.history_]
    # The rows before the first search were not scored.
    n_rows = [entry["n_samples"] for entry in model.history_]
    assert edges[0] == 30_000 - sum(n_rows) == 2
    np.testing.assert_allclose(np.diff(edges), n_rows)
    mean, *changes = ax.lines
    assert [line.get_xdata()[0] for line in changes] == model.changes_
    assert 20_000 < model.changes_[0] < 21_000
    places, means = mean.get_data()
    before = int(np.argmin(np.abs(edges - 10_050)))
    first = int(np.argmin(np.abs(edges - (edges[before] - 300))))
    expected = np.average(values[first:before], weights=n_rows[first:before])
    assert np.interp(edges[before], places, means) == pytest.approx(expected, abs=0.03)
    assert ax.get_xlabel() == "rows learned"
    ax.get_figure().canvas.draw()


@pytest.mark.filterwarnings(
    "ignore::streamgmm.errors.FewRowsWarning",
    "ignore::streamgmm.errors.DegenerateComponentWarning",
)
def test_a_stream_that_was_not_scored_shows_nothing():
    # All rows so far are those of the first search.
    rows = np.random.default_rng(0).normal(size=(2, 2))
    model = OnlineGaussianMixture(random_state=0).partial_fit(rows)
    with pytest.raises(ParameterError, match=r"scored before they were learned; .* partial_fit"):
        plot_convergence(model)


@pytest.mark.parametrize("suffix", [".png", ".pdf", ".svg"])
def test_pictures_are_written_whole(tmp_path, suffix):
    path = tmp_path / f"picture{suffix}"
    path.write_text("old")
    save_picture(plot_mixture(_model()), path)
    start = path.read_bytes()[:8]
    assert start.startswith((b"\x89PNG", b"%PDF", b"<?xml"))
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    with pytest.raises(OutputError, match="cannot be written"):
        save_picture(plot_mixture(_model()), tmp_path / "nowhere" / f"picture{suffix}")


def _listed(ax: Axes) -> list[str]:
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_components_are_listed_by_weight_with_the_label_that_predict_gives():
    rows = np.random.default_rng(0).normal(size=(1000, 2))
    rows[:700, 0] += 9.0
    model = GaussianMixture(2, random_state=0).fit(rows)
    ax = plot_mixture(model, rows)
    largest = int(np.argmax(np.bincount(model.predict(rows))))
    assert _listed(ax) == [f"{largest}: 0.7", f"{1 - largest}: 0.3"]
    for text in ax.texts:
        assert model.predict([text.xy]) == [int(text.get_text())]


def test_of_many_components_the_largest_have_numbers():
    rng = np.random.default_rng(0)
    weights = rng.permutation(np.arange(1, 61)) / 1830
    means = rng.normal(size=(60, 2))
    model = _fitted(Parameters.create("spherical", weights, means, np.full(60, 0.1)))
    ax = plot_mixture(model)
    assert len(ax.patches) == 120
    largest = np.argsort(-weights)[:8].tolist()
    assert sorted(int(text.get_text()) for text in ax.texts) == sorted(largest)
    *listed, others = _listed(ax)
    assert [int(line.partition(":")[0]) for line in listed] == largest
    assert others == f"52 others: {1 - weights[largest].sum():.3g}"
    assert max(patch.get_linewidth() for patch in ax.patches) < 2.0


def test_twenty_components_differ_in_colour_or_line():
    means = np.random.default_rng(0).normal(size=(20, 2))
    model = _fitted(Parameters.create("spherical", np.full(20, 0.05), means, np.full(20, 0.1)))
    ax = plot_mixture(model)
    assert len(_listed(ax)) == 20
    styles = {(patch.get_edgecolor(), str(patch.get_linestyle())) for patch in ax.patches}
    assert len(styles) == 20


def test_the_criteria_of_a_search_are_drawn_with_the_choice() -> None:
    rows = np.random.default_rng(0).normal(size=(300, 2)) + [[0, 0], [9, 9]] * 150
    search = GaussianMixtureSearch(range(1, 4), covariance_type=("full", "diag"), random_state=0)
    with pytest.raises(NotFittedError, match="call fit first"):
        plot_criteria(search)
    search.fit(rows)
    ax = plot_criteria(search)
    results, best = search.cv_results_, search.best_index_
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels[:2] == list(dict.fromkeys(results["param_covariance_type"].tolist()))
    (choice,) = (line for line in ax.lines if line.get_label() == "choice")
    assert [*choice.get_xdata()] == [results["param_n_components"][best]]
    assert [*choice.get_ydata()] == [0.0]
    drawn = {tuple(point) for line in ax.lines[:1] for point in zip(*line.get_data(), strict=True)}
    own = results["param_covariance_type"] == labels[0]
    values = results["bic"] - search.best_score_
    assert drawn == set(zip(results["param_n_components"][own], values[own], strict=True))
