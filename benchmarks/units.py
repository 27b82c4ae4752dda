"""Columns in different units: compare mixtures with those of standardised columns.

``python -m benchmarks.units [--small] [--save]``

Each example is drawn from known classes, in the usual units of such data. Mixtures are fitted with
default settings, with one ridge for all columns, and to standardised columns. The components are
compared with the classes: 1 is perfect agreement, and 0 is agreement by chance.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import adjusted_rand_score

from benchmarks.reporting import Table, report
from streamgmm import GaussianMixture

Rows = NDArray[np.float64]
Labels = NDArray[np.int64]

_SEEDS, _FEW_SEEDS = range(5), range(1)


@dataclass(frozen=True, eq=False)
class Example:
    """Rows of known classes.

    Attributes
    ----------
    rows : ndarray of shape (n, D)
    labels : ndarray of shape (n,)
        The classes.
    """

    rows: Rows
    labels: Labels

    @property
    def n_classes(self) -> int:
        """The number of classes."""
        return int(self.labels.max()) + 1

    @property
    def standardised(self) -> Rows:
        """The rows with mean 0 and standard deviation 1 in each column."""
        standardised: Rows = (self.rows - self.rows.mean(axis=0)) / self.rows.std(axis=0)
        return standardised

    def agreement(self, model: GaussianMixture, rows: Rows) -> float:
        """Return the adjusted Rand index of a fit to the given rows."""
        found = model.set_params(n_components=self.n_classes).fit(rows).predict(rows)
        return float(adjusted_rand_score(self.labels, found))


def moisture_flux(seed: int = 0, n: int = 8000) -> Example:
    """Return temperature in K, and a flux in kg m⁻² s⁻¹ of variance 3e-9 with two classes."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, n)
    flux = np.where(labels, 1e-4, 0.0) + rng.normal(scale=2e-5, size=n)
    return Example(np.column_stack([rng.normal(285.0, 8.0, n), flux]), labels)


def particles(seed: int = 1) -> Example:
    """Return lengths of nanoparticles in metres."""
    return _classes(seed, 3, [3e-9, 1e-8, 2e-9], [2e-8, 5e-8, 2e-8])


def mole_fractions(seed: int = 2) -> Example:
    """Return trace gases as mole fractions."""
    return _classes(seed, 5, [1e-5, 4e-8, 2e-9, 1e-2], [4e-4, 1.9e-6, 3.3e-7, 2e-2])


def weather(seed: int = 3) -> Example:
    """Return longitude in degrees, temperature in K, and specific humidity in kg per kg."""
    return _classes(seed, 4, [60.0, 12.0, 1e-3], [0.0, 280.0, 5e-3])


def companies(seed: int = 4) -> Example:
    """Return turnover in units of money, a rate of interest, and a share."""
    return _classes(seed, 4, [1e9, 0.05, 1e-3], [3e9, 0.2, 0.0])


EXAMPLES: tuple[Callable[[], Example], ...] = (
    moisture_flux,
    particles,
    mole_fractions,
    weather,
    companies,
)


def _classes(
    seed: int, n_classes: int, scales: list[float], offsets: list[float], n: int = 8000
) -> Example:
    """Draw full Gaussian classes, with columns of these standard deviations and means."""
    rng = np.random.default_rng(seed)
    d = len(scales)
    means = rng.normal(scale=3.0, size=(n_classes, d))
    labels = rng.choice(n_classes, size=n, p=rng.dirichlet(np.full(n_classes, 5.0)))
    factors = np.eye(d) + 0.4 * rng.normal(size=(n_classes, d, d))
    rows = means[labels] + np.einsum("nij,nj->ni", factors[labels], rng.normal(size=(n, d)))
    rows = (rows - rows.mean(axis=0)) / rows.std(axis=0)
    return Example(rows * scales + offsets, labels)


def row(name: str, example: Example, seeds: range) -> list[str]:
    """Return the mean agreement of each way to fit."""
    found = np.mean(
        [
            [
                example.agreement(GaussianMixture(random_state=seed), example.rows),
                example.agreement(GaussianMixture(random_state=seed, reg_covar=1e-6), example.rows),
                example.agreement(GaussianMixture(random_state=seed), example.standardised),
            ]
            for seed in seeds
        ],
        axis=0,
    )
    smallest = example.rows.var(axis=0).min()
    return [name, str(example.n_classes), f"{smallest:.1e}", *(f"{value:.3f}" for value in found)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="one seed")
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    seeds = _FEW_SEEDS if options.small else _SEEDS
    header = ["data", "classes", "smallest variance", "default", "reg_covar=1e-6", "standardised"]
    rows = [row(draw.__name__.replace("_", " "), draw(), seeds) for draw in EXAMPLES]
    caption = f"Adjusted Rand index with the true classes, mean of {len(seeds)} seed(s)."
    table = Table(header, rows, caption)
    report("units", "python -m benchmarks.units", [table], options.save and not options.small)


if __name__ == "__main__":
    main()
