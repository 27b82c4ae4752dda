"""What pictures show by default: the directions, and the features, that separate components."""

import numpy as np
import pandas
import pytest
import scipy.linalg
from matplotlib.patches import Ellipse

from streamgmm import GaussianMixture
from streamgmm.core.fitted_model import FittedModel
from streamgmm.core.parameters import Parameters
from streamgmm.core.structures import STRUCTURES
from streamgmm.errors import ParameterError
from streamgmm.plotting import plot_mixture, plot_pairs
from streamgmm.plotting.views import View

D = 5


def _of(parameters: Parameters, names: list[str] | None = None) -> GaussianMixture:
    feature_names = None if names is None else np.array(names, dtype=object)
    return GaussianMixture.from_fitted_model(FittedModel(parameters, feature_names=feature_names))


def _random(k: int, covariance_type: str = "full", seed: int = 0) -> Parameters:
    """A mixture with features of very different units."""
    rng = np.random.default_rng(seed)
    units = 10.0 ** np.arange(-2, D - 2)
    factors = (np.eye(D) + 0.3 * rng.normal(size=(k, D, D))) * units[:, None]
    covariances = {
        "full": factors @ factors.transpose(0, 2, 1),
        "tied": factors[0] @ factors[0].T,
        "diag": rng.uniform(0.5, 2.0, (k, D)) * units**2,
        "spherical": rng.uniform(0.5, 2.0, k),
        "tied_diag": rng.uniform(0.5, 2.0, D) * units**2,
        "tied_spherical": np.array(1.5),
    }[covariance_type]
    weights = rng.dirichlet(np.full(k, 5.0))
    return Parameters.create(
        covariance_type, weights, 2 * rng.normal(size=(k, D)) * units, covariances
    )


def _dense(parameters: Parameters) -> np.ndarray:
    """The covariances (K, D, D)."""
    k, covariances = len(parameters.weights), parameters.covariances
    return {
        "full": lambda: covariances,
        "tied": lambda: np.tile(covariances, (k, 1, 1)),
        "diag": lambda: covariances[:, :, None] * np.eye(D),
        "spherical": lambda: covariances[:, None, None] * np.eye(D),
        "tied_diag": lambda: np.tile(np.diag(covariances), (k, 1, 1)),
        "tied_spherical": lambda: np.tile(covariances * np.eye(D), (k, 1, 1)),
    }[parameters.covariance_type]()


def _moments(parameters: Parameters) -> tuple[np.ndarray, np.ndarray]:
    """The covariances within and between the components."""
    within = np.einsum("k,kij->ij", parameters.weights, _dense(parameters))
    centred = parameters.means - parameters.weights @ parameters.means
    return within, np.einsum("k,ki,kj->ij", parameters.weights, centred, centred)


def _is_parallel(a: np.ndarray, b: np.ndarray) -> bool:
    return abs(a @ b) / np.linalg.norm(a) / np.linalg.norm(b) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("covariance_type", STRUCTURES)
def test_directions_are_those_of_the_linear_discriminant_analysis(covariance_type):
    parameters = _random(4, covariance_type)
    within, between = _moments(parameters)
    _, vectors = scipy.linalg.eigh(between, within)
    view = View.of(_of(parameters), None)
    scale = np.sqrt(np.diag(within + between))[view.columns]
    for axis, expected in zip(view.axes, vectors.T[::-1], strict=False):
        # Features of very different units: compared in units of their standard deviation.
        assert _is_parallel(axis * scale, expected[view.columns] * scale)
        assert np.linalg.norm(axis * scale) == pytest.approx(1.0)


@pytest.mark.parametrize("covariance_type", STRUCTURES)
def test_components_are_projected_on_the_directions(covariance_type):
    parameters = _random(3, covariance_type)
    model = _of(parameters)
    view = View.of(model, None)
    means, covariances = view.components(model)
    axes = np.zeros((2, D))
    axes[:, view.columns] = view.axes
    expected = (parameters.means - parameters.weights @ parameters.means) @ axes.T
    np.testing.assert_allclose(means, expected, atol=1e-10)
    np.testing.assert_allclose(covariances, axes @ _dense(parameters) @ axes.T, rtol=1e-9)
    rows = parameters.means + 1.0
    np.testing.assert_allclose(
        view.rows(rows[:, view.columns]), (rows - parameters.weights @ parameters.means) @ axes.T
    )


def test_the_second_direction_of_two_components_is_where_their_covariances_differ():
    covariances = np.tile(np.eye(D), (2, 1, 1))
    covariances[1, 3, 3] = 25.0
    means = np.zeros((2, D))
    means[1, 1] = 6.0
    model = _of(Parameters.create("full", [0.5, 0.5], means, covariances))
    view = View.of(model, None)
    assert [int(np.argmax(np.abs(axis))) for axis in view.axes] == [1, 3]
    total = np.add(*_moments(model.fitted_model_.parameters))[np.ix_(view.columns, view.columns)]
    assert view.axes[0] @ total @ view.axes[1] == pytest.approx(0.0, abs=1e-9)
    assert view.note.startswith("directions that separate the components best")


def test_where_nothing_separates_the_directions_have_the_largest_variance():
    parameters = _random(1)
    view = View.of(_of(parameters), None)
    (covariance,) = _dense(parameters)
    scale = np.sqrt(np.diag(covariance))
    _, vectors = np.linalg.eigh(covariance / np.outer(scale, scale))
    assert _is_parallel(view.axes[0] * scale, vectors[:, -1])
    assert view.note.startswith("directions of largest variance")
    two = Parameters.create("tied", [0.4, 0.6], [np.zeros(D), np.ones(D)], covariance)
    note = "direction 1 separates the components best, 2 has the largest variance"
    assert View.of(_of(two), None).note.startswith(note)


def test_the_axes_say_which_combination_they_show():
    means = np.zeros((3, D))
    means[1, 0], means[2, 2] = 30.0, 9.0
    model = _of(
        Parameters.create("tied_spherical", [0.3, 0.4, 0.3], means, 1.0),
        ["width", "a", "height", "b", "c"],
    )
    ax = plot_mixture(model)
    assert "width" in ax.get_xlabel()
    assert "height" in ax.get_ylabel()
    assert ax.get_xlabel().startswith("direction 1: ")
    assert "standard deviation" in ax.get_title(loc="left")


def test_a_default_picture_separates_what_the_first_features_do_not():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(900, 6))
    rows[:, 4:] += np.array([[0, 0], [8, 0], [0, 8]])[np.arange(900) % 3]
    model = GaussianMixture(3, random_state=0).fit(rows)
    drawn = [patch for patch in plot_mixture(model, rows).patches if isinstance(patch, Ellipse)]
    centres = np.array([patch.center for patch in drawn[::2]])
    widest = max(max(patch.width, patch.height) / 2 for patch in drawn[::2])
    distances = np.linalg.norm(centres[:, None] - centres, axis=2)[np.triu_indices(3, 1)]
    assert distances.min() > 4 * widest


FRAME = pandas.DataFrame(
    np.random.default_rng(0).normal(size=(200, 4)),
    columns=["sepal length", "sepal width", "petal length", "price in $ and $"],
)


@pytest.fixture(scope="module")
def named() -> GaussianMixture:
    return GaussianMixture(2, random_state=0).fit(FRAME)


@pytest.mark.parametrize(
    ("features", "labels"),
    [
        (("petal length", "sepal width"), ("petal length", "sepal width")),
        (("petal length", 0), ("petal length", "sepal length")),
        ([np.int64(1), 2], ("sepal width", "petal length")),
        ("petal length", ("petal length", "density")),
        (3, (r"price in \$ and \$", "density")),
    ],
)
def test_features_are_given_by_name_or_number(named, features, labels):
    ax = plot_mixture(named, FRAME, features)
    assert (ax.get_xlabel(), ax.get_ylabel()) == labels
    ax.get_figure().canvas.draw()


@pytest.mark.parametrize(
    "features", ["petal", ("petal length", "petal length"), (2, "petal length")]
)
def test_a_name_that_does_not_exist_is_refused_with_those_that_do(named, features):
    with pytest.raises(ParameterError, match="or names: sepal length, sepal width, petal length"):
        plot_mixture(named, features=features)
    with pytest.raises(ParameterError, match="or names: sepal length"):
        plot_pairs(named, features=features)


def test_long_names_are_shortened():
    model = _of(_random(3), [f"a name that is much too long for an axis {i}" for i in range(D)])
    label = plot_mixture(model).get_xlabel()
    assert "a name that is much too…" in label.replace("\N{NO-BREAK SPACE}", " ")
    assert max(map(len, label.splitlines())) <= 60


def test_a_model_of_many_features_combines_those_that_separate_best():
    rng = np.random.default_rng(0)
    means = 0.01 * rng.normal(size=(3, 600))
    means[1, 500], means[2, 590] = 9.0, 9.0
    model = _of(Parameters.create("diag", np.full(3, 1 / 3), means, np.ones((3, 600))))
    view = View.of(model, None)
    assert len(view.columns) == 256
    assert {500, 590} <= set(view.columns)
    assert "feature 500" in plot_mixture(model).get_xlabel().replace("\N{NO-BREAK SPACE}", " ")
