"""Mixtures, their rows and starting points for all benchmarks."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamgmm import GaussianMixture
from streamgmm.core.mixtures.sampling import draw
from streamgmm.core.parameters import Parameters
from streamgmm.core.structures import STRUCTURES
from streamgmm.options import CovarianceType

SPREAD = 3.0


@dataclass(frozen=True)
class Problem:
    """Rows drawn from a planted mixture, and a start close to it.

    Attributes
    ----------
    dtype : {"float64", "float32"}
        Type of the rows.
    spread : float
        Standard deviation of the means; variances are near 1.
    """

    covariance_type: CovarianceType
    n_rows: int
    n_features: int
    n_components: int
    dtype: str = "float64"
    spread: float = SPREAD

    def __str__(self) -> str:
        return (
            f"{self.covariance_type}, {self.n_rows:,} × {self.n_features}, K = {self.n_components}"
        )

    @property
    def flops(self) -> int:
        """4 N K F: flops of the two matrix products of an E-step, with F moments per component."""
        n_moments = STRUCTURES[self.covariance_type].n_moments(self.n_features)
        return 4 * self.n_rows * self.n_components * n_moments

    @property
    def planted(self) -> Parameters:
        """The mixture from which rows are drawn."""
        return planted_mixture(
            self.n_features, self.n_components, self.covariance_type, spread=self.spread
        )

    @property
    def start(self) -> Parameters:
        """The planted mixture with shifted means."""
        planted = self.planted
        noise = np.random.default_rng(2).normal(0.0, 0.3, planted.means.shape)
        return Parameters.create(
            self.covariance_type, planted.weights, planted.means + noise, planted.covariances
        )

    @property
    def rows(self) -> NDArray[Any]:
        """Shuffled rows, drawn once."""
        return _rows(self)

    def model(self, **settings: Any) -> GaussianMixture:
        """Return an estimator that begins at the start and never converges."""
        start = self.start
        return GaussianMixture(
            self.n_components,
            covariance_type=self.covariance_type,
            weights_init=start.weights,
            means_init=start.means,
            precisions_init=start.precisions,
            algorithm="em",
            tol=0.0,
            **settings,
        )


def planted_mixture(
    n_features: int,
    n_components: int,
    covariance_type: CovarianceType = "full",
    seed: int = 0,
    spread: float = SPREAD,
) -> Parameters:
    """Return a mixture: equal weights, means from N(0, spread²), random covariances."""
    random = np.random.default_rng(seed)
    means = random.normal(0.0, spread, (n_components, n_features))
    weights = np.full(n_components, 1.0 / n_components)
    covariances = _covariances(covariance_type, n_components, n_features, random)
    return Parameters.create(covariance_type, weights, means, covariances)


def _covariances(
    covariance_type: CovarianceType, k: int, d: int, random: np.random.Generator
) -> NDArray[np.float64]:
    """Return W + 0.1 I with W from a Wishart distribution of mean I, or its diagonal."""
    structure = STRUCTURES[covariance_type]
    shape = structure.shape(k, d)
    if not structure.has_directions:
        return np.asarray(random.chisquare(d, shape) / d + 0.1)
    roots = random.normal(size=shape)
    return roots @ np.swapaxes(roots, -1, -2) / d + 0.1 * np.eye(d)


@lru_cache(maxsize=1)
def _rows(problem: Problem) -> NDArray[Any]:
    random = np.random.default_rng(1)
    rows, _ = draw(problem.planted, problem.n_rows, random)
    # Indexing rows by a permutation is fifty times as fast as shuffling them in place.
    return rows[random.permutation(len(rows))].astype(problem.dtype, copy=False)
