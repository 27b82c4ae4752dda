"""Pictures of a mixture: the right ellipses, from a few chunks, without pyplot."""

import subprocess
import sys

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse

from streamgmm import GaussianMixture
from streamgmm.core.parameters import Parameters
from streamgmm.errors import DataError, OutputError, ParameterError
from streamgmm.plotting import plot_mixture, save_picture
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
    model = GaussianMixture(2, covariance_type=covariance_type)
    parameters = Parameters.create(covariance_type, WEIGHTS, MEANS, COVARIANCES[covariance_type])
    model._set_parameters(parameters)
    return model


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
    ax = plot_mixture(_model(), np.array([[100.0, 0.0, 0.0]] * 10))
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
    model = GaussianMixture(2)
    variances = np.array([0.25, 1.0])
    model._set_parameters(
        Parameters.create("full", WEIGHTS, [[0.0], [3.0]], variances[:, None, None])
    )
    rows = np.random.default_rng(0).normal(size=(1000, 1))
    rows[3] = np.nan
    ax = plot_mixture(model, rows)
    assert sum(patch.get_height() * patch.get_width() for patch in ax.patches) == pytest.approx(1.0)
    assert ax.get_ylabel() == "density"
    *components, total = ax.lines
    for k, line in enumerate(components):
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
    with pytest.raises(DataError, match="2 features, but the model has 3"):
        plot_mixture(_model(), np.zeros((5, 2)))


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


def test_many_components_are_drawn_without_a_legend():
    model = GaussianMixture(30, covariance_type="spherical")
    means = np.random.default_rng(0).normal(size=(30, 2))
    model._set_parameters(
        Parameters.create("spherical", np.full(30, 1 / 30), means, np.full(30, 0.1))
    )
    ax = plot_mixture(model)
    assert len(ax.patches) == 60
    assert ax.get_legend() is None


def test_pyplot_is_left_alone():
    code = "import sys, streamgmm.plotting; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
