"""Uniform noise in planted mixtures: its weight and the means, with and without a noise component.

``python -m benchmarks.noise [--rows 1e5] [--small] [--save]``

A tenth of the rows is uniform in a box around the clusters. Errors of the means are in standard
errors of the mean of a cluster's rows. The last column has the change of ln V, in nats, when one
row holds the fill value 1e30 in all columns.
"""

import argparse
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from sklearn.exceptions import ConvergenceWarning

from benchmarks.reads.cells import Planted
from benchmarks.reporting import Table, report
from streamgmm import GaussianMixture
from streamgmm.core.structures import STRUCTURES
from streamgmm.options import CovarianceType

Rows = NDArray[np.float64]

_PART = 0.1
_FILL_VALUE = 1e30
# Distance of the box from the outermost means, in largest standard deviations.
_AROUND = 10.0
# Components, features.
_SHAPES, _FEW_SHAPES = [(3, 2), (5, 3), (8, 8)], [(3, 2)]


@dataclass(frozen=True, eq=False)
class Noisy:
    """Rows of planted spheres and uniform noise.

    Attributes
    ----------
    rows : ndarray of shape (n, D)
    labels : ndarray of shape (n,)
        The sphere of each row, -1 for noise.
    means : ndarray of shape (K, D)
    """

    rows: Rows
    labels: NDArray[np.int64]
    means: Rows

    @classmethod
    def drawn(cls, k: int, d: int, n_rows: int) -> "Noisy":
        """Draw rows around separated means, with standard deviation 1."""
        means = Planted(6.0 / np.sqrt(d), k, d).mixture.means
        random = np.random.default_rng(0)
        labels = random.integers(0, k, n_rows)
        rows = means[labels] + random.normal(size=(n_rows, d))
        is_noise = random.random(n_rows) < _PART
        low, high = means.min(axis=0) - _AROUND, means.max(axis=0) + _AROUND
        rows[is_noise] = random.uniform(low, high, size=(int(is_noise.sum()), d))
        return cls(rows, np.where(is_noise, -1, labels), means)

    def error(self, model: GaussianMixture) -> float:
        """Return the largest error of a coordinate of a mean, in standard errors."""
        own, found = linear_sum_assignment(cdist(self.means, model.means_))
        counts = np.bincount(self.labels[self.labels >= 0])[own]
        errors = np.abs(model.means_[found] - self.means[own])
        return float((errors * np.sqrt(counts)[:, np.newaxis]).max())


def row(noisy: Noisy, covariance_type: CovarianceType) -> list[str]:
    """Return the row of a structure."""
    k, d = noisy.means.shape
    settings: dict[str, Any] = {
        "covariance_type": covariance_type,
        "random_state": 0,
        "tol": 1e-6,
    }
    model = GaussianMixture(k, noise="uniform", **settings).fit(noisy.rows)
    plain = GaussianMixture(k, **settings).fit(noisy.rows)
    rows = noisy.rows.copy()
    rows[len(rows) // 2] = _FILL_VALUE
    filled = GaussianMixture(k, noise="uniform", **settings).fit(rows)
    part = float((noisy.labels == -1).mean())
    change = model.noise_log_density_ - filled.noise_log_density_
    return [
        f"{covariance_type}, {len(rows):,} × {d}, K = {k}",
        f"{part:.4f}",
        f"{model.noise_weight_:.4f}",
        f"{noisy.error(model):.1f}",
        f"{noisy.error(plain):.1f}",
        f"{abs(filled.noise_weight_ - part):.4f}",
        f"{change:.4f}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=float, default=1e5)
    parser.add_argument("--small", action="store_true", help="few rows, one shape")
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    # Without noise some mixtures have no good fit.
    warnings.simplefilter("ignore", ConvergenceWarning)
    n_rows = 5000 if options.small else int(options.rows)
    problems = [Noisy.drawn(k, d, n_rows) for k, d in (_FEW_SHAPES if options.small else _SHAPES)]
    header = [
        "data",
        "planted noise",
        "noise_weight_",
        "error of means, standard errors",
        "without noise",
        "error of the weight with a fill value",
        "change of ln V",
    ]
    table = Table(
        header,
        [row(noisy, kind) for noisy in problems for kind in STRUCTURES],
        'Largest error of a coordinate of a mean, with `noise="uniform"` and without noise.',
    )
    command = f"python -m benchmarks.noise --rows {options.rows:g}"
    report("noise", command, [table], options.save and not options.small)


if __name__ == "__main__":
    main()
