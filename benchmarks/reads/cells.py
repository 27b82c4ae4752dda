"""Data to fit: rows of known mixtures, rows of other distributions, and real data."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import sklearn.datasets
from numpy.typing import NDArray
from scipy.special import ndtr
from scipy.stats import ortho_group
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from streamgmm.core.mixtures.sampling import draw
from streamgmm.core.parameters import Parameters, count_parameters
from streamgmm.core.structures import STRUCTURES

Rows = NDArray[np.float64]

FEWEST_ROWS = 1_000_000
ROWS_A_PARAMETER = 2000
_FEWER_ROWS_A_PARAMETER = 100
HELD_OUT_ROWS = 100_000
_MOST_BYTES = 1 << 29
# Of the distribution that planted weights are from: nearly equal, and far from it.
_BALANCED, _UNBALANCED = 20.0, 0.3
_DEGREES_OF_FREEDOM = 3.0
# Standard deviation of the noise that makes rows of few originals, over that of a feature.
_NOISE = 0.25


class Population(Protocol):
    """The distribution of the rows."""

    @property
    def n_features(self) -> int:
        """D."""

    def rows(self, n_rows: int, held_out: bool = False) -> Rows:
        """Rows to fit, always the same ones, or others to score."""


@dataclass(frozen=True)
class Planted:
    """A mixture whose means are apart, and rows of it or of other shapes in its places.

    Attributes
    ----------
    separation : float
        c of ‖μ_i − μ_j‖ ≥ c √(D λ) for all pairs, with λ the largest variance of any component
        along any direction (Dasgupta 1999).
    concentration : float
        Of the symmetric Dirichlet distribution that the weights are from.
    shape : {"gaussian", "student", "cube"}
        Gaussian; Student's t with 3 degrees of freedom; or uniform in a cube.
    is_sorted : bool
        Whether rows of a component follow each other.
    """

    separation: float
    n_components: int
    n_features: int
    concentration: float = _BALANCED
    shape: Literal["gaussian", "student", "cube"] = "gaussian"
    is_sorted: bool = False

    @property
    def mixture(self) -> Parameters:
        """Variances from 0.1 to 1 along random axes; of cubes, along all of them the same."""
        random = np.random.default_rng(0)
        k, d = self.n_components, self.n_features
        weights = random.dirichlet(np.full(k, self.concentration))
        variances = np.exp(random.uniform(np.log(0.1), 0.0, (k, d)))
        if self.shape == "cube":
            variances[:] = variances[:, :1]
        axes = ortho_group.rvs(d, size=k, random_state=random)
        covariances = (axes * variances[:, np.newaxis]) @ np.swapaxes(axes, 1, 2)
        distance = self.separation * np.sqrt(d * variances.max())
        means = separated_points(k, d, distance, random)
        return Parameters.create("full", weights, means, covariances)

    def rows(self, n_rows: int, held_out: bool = False) -> Rows:
        random = np.random.default_rng([1, held_out])
        mixture = self.mixture
        rows, labels = draw(mixture, n_rows, random)
        if self.shape != "gaussian":
            means = mixture.means[labels]
            rows -= means
            if self.shape == "student":
                chisquare = random.chisquare(_DEGREES_OF_FREEDOM, n_rows)
                rows *= np.sqrt(_DEGREES_OF_FREEDOM / chisquare)[:, np.newaxis]
            else:
                deviations = np.sqrt(mixture.covariances[labels, 0, 0])[:, np.newaxis]
                rows = (ndtr(rows / deviations) - 0.5) * np.sqrt(12.0) * deviations
            rows += means
        return rows if self.is_sorted else rows[random.permutation(n_rows)]


def separated_points(
    n_points: int, n_features: int, distance: float, random: np.random.Generator
) -> Rows:
    """Points of which none is nearer to another than a distance, and some hardly farther.

    From a normal distribution that widens until there is room for all.
    """
    spread = distance / np.sqrt(2.0 * n_features)
    points = np.empty((0, n_features))
    while len(points) < n_points:
        candidate = random.normal(0.0, spread, n_features)
        if np.all(np.linalg.norm(points - candidate, axis=1) >= distance):
            points = np.vstack([points, candidate])
        else:
            spread *= 1.01
    return points


_DATASETS: dict[str, Callable[..., Any]] = {
    "digits": sklearn.datasets.load_digits,
    "breast cancer": sklearn.datasets.load_breast_cancer,
    "wine": sklearn.datasets.load_wine,
    "iris": sklearn.datasets.load_iris,
    "diabetes": sklearn.datasets.load_diabetes,
}


@dataclass(frozen=True)
class Tiled:
    """A data set of scikit-learn's, standardised: rows again and again, each time with other noise.

    Rows that are held out are of the same originals: with a few hundred of these, other originals
    would show by how much K is too large, not how well the components are fitted.

    Attributes
    ----------
    name : str
    n_features : int
        Number of principal components, if the data have more columns.
    """

    name: str
    n_features: int

    @property
    def originals(self) -> Rows:
        """Rows without noise."""
        data, _ = _DATASETS[self.name](return_X_y=True)
        components = [PCA(self.n_features)] if self.n_features < data.shape[1] else []
        standardised: Rows = make_pipeline(*components, StandardScaler()).fit_transform(data)
        return standardised

    def rows(self, n_rows: int, held_out: bool = False) -> Rows:
        random = np.random.default_rng([1, held_out])
        originals = self.originals
        rows = random.normal(0.0, _NOISE, (n_rows, self.n_features))
        rows += originals[random.integers(len(originals), size=n_rows)]
        return rows


@dataclass(frozen=True)
class Cell:
    """A population, a number of rows, and a number of components with full covariances.

    Attributes
    ----------
    counted_from : int
        Rows for each parameter from which on the summary counts the cell.
    """

    name: str
    population: Population
    n_components: int
    n_rows: int
    counted_from: int = ROWS_A_PARAMETER

    @classmethod
    def of(cls, kind: str, population: Population, n_components: int) -> "Cell":
        """With as many rows as the targets ask for, where memory has room for them."""
        d = population.n_features
        n_rows = max(FEWEST_ROWS, ROWS_A_PARAMETER * _parameter_count(n_components, d))
        if 8 * n_rows * d > _MOST_BYTES:
            n_rows = FEWEST_ROWS
        return cls(f"{kind}, K = {n_components}, D = {d}", population, n_components, n_rows)

    @property
    def n_parameters(self) -> int:
        """Free ones."""
        return _parameter_count(self.n_components, self.population.n_features)

    @property
    def is_counted(self) -> bool:
        """Whether there are enough rows for the summary."""
        return self.n_rows >= self.counted_from * self.n_parameters


def _parameter_count(n_components: int, n_features: int) -> int:
    return count_parameters(STRUCTURES["full"], n_components, n_features, ())


def suite() -> list[Cell]:
    """All cells."""
    separated = [
        Cell.of(f"c = {c}", Planted(c, k, d), k)
        for c in (1, 2, 3)
        for k in (8, 16, 32, 64)
        for d in (2, 8, 16, 32)
    ]
    kinds: dict[str, dict[str, Any]] = {
        "unbalanced": {"concentration": _UNBALANCED},
        "Student-t": {"shape": "student"},
        "cubes": {"shape": "cube"},
        "sorted": {"is_sorted": True},
    }
    others = [
        Cell.of(kind, Planted(2.0, k, d, **settings), k)
        for kind, settings in kinds.items()
        for k, d in ((8, 2), (16, 8), (32, 16))
    ]
    real = [
        Cell.of(name, Tiled(name, d), k)
        for name, k, d in (
            ("digits", 32, 16),
            ("breast cancer", 16, 30),
            ("wine", 8, 13),
            ("iris", 8, 4),
            ("diabetes", 8, 10),
        )
    ]
    return [*separated, *others, *real]


def fewer_rows_suite() -> list[Cell]:
    """Cells of 100 to 2,000 rows for each parameter."""
    kinds: list[tuple[str, dict[str, Any]]] = [
        ("c = 1", {"separation": 1.0}),
        ("c = 2", {"separation": 2.0}),
        ("Student-t", {"separation": 2.0, "shape": "student"}),
        ("cubes", {"separation": 2.0, "shape": "cube"}),
        ("unbalanced", {"separation": 1.0, "concentration": _UNBALANCED}),
    ]
    sizes = (
        (10, 5, 100_000),
        (32, 2, 200_000),
        (16, 8, 200_000),
        (16, 16, 300_000),
        (8, 8, 500_000),
    )
    return [
        Cell(
            f"{kind}, K = {k}, D = {d}",
            Planted(n_components=k, n_features=d, **settings),
            k,
            n_rows,
            _FEWER_ROWS_A_PARAMETER,
        )
        for kind, settings in kinds
        for k, d, n_rows in sizes
    ]


def small_suite() -> list[Cell]:
    """A few cells of few rows, each as large as the targets ask for."""
    return [
        Cell("c = 3", Planted(3.0, 3, 2), 3, 40_000),
        Cell("Student-t", Planted(2.0, 3, 2, shape="student"), 3, 40_000),
        Cell("iris", Tiled("iris", 2), 3, 40_000),
    ]
