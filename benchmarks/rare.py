"""A component that holds few of all rows: its rows in the survey's sample, and its recovery.

``python -m benchmarks.rare [--rows 1e8] [--rare 1e-5] [--small] [--save]``

Rows are generated during the pass, which takes longer than the survey. Beside the large components
there is a rare one, beyond the outermost of their means. The benchmark counts its rows in the
sample, and compares the sum of their weights with the true number of rows. Then it fits a mixture
with default settings, and examines the fitted component that is nearest to the rare one.
"""

import argparse
from dataclasses import dataclass

import numpy as np

from benchmarks.planted import planted_mixture
from benchmarks.reporting import Table, report
from streamgmm import GaussianMixture
from streamgmm.algorithms.reads.reader import Reader
from streamgmm.algorithms.sampling.survey import survey
from streamgmm.core.parameters import Parameters
from streamgmm.executors.threads import ThreadExecutor
from streamgmm.sources.generated import GeneratedSource

_SIZE = 100_000
_SHRINK = 100
# Distance from the outermost mean, in standard deviations of the rare component.
_DISTANCE = 8.0


@dataclass(frozen=True)
class Rare:
    """The results of a survey and a fit for a rare component.

    Attributes
    ----------
    n_expected : float
        Number of its rows in the data.
    n_sampled : int
        Number of its rows in the sample.
    weight : float
        Sum of the weights of these rows.
    seconds : float
        Duration of pilot and survey.
    part : float
        Part of the data that the pilot read.
    distance : float
        Distance of the nearest fitted mean, in standard deviations.
    n_fitted : float
        Number of rows of the fitted component.
    n_reads : float
        Number of passes of the fit.
    """

    n_features: int
    n_components: int
    n_expected: float
    n_sampled: int
    weight: float
    seconds: float
    part: float
    distance: float
    n_fitted: float
    n_reads: float


def with_rare(common: Parameters, weight: float) -> Parameters:
    """Return a mixture with one more component, beyond the outermost of its means."""
    far = common.means.max(axis=0) + _DISTANCE
    covariance = np.eye(common.n_features)[np.newaxis]
    return Parameters.create(
        "full",
        np.append((1.0 - weight) * common.weights, weight),
        np.vstack([common.means, far]),
        np.concatenate([common.covariances, covariance]),
    )


def measured(n_rows: int, n_features: int, n_components: int, weight: float, size: int) -> Rare:
    """Survey rows of a mixture with a rare component."""
    mixture = with_rare(planted_mixture(n_features, n_components), weight)
    source = GeneratedSource(mixture, n_rows)
    with ThreadExecutor() as executor:
        reader = Reader(source, executor, lambda event: None)
        found = survey(reader, size, 0, n_components)
    distances = np.square(found.sample.rows - mixture.means[-1]).sum(axis=1)
    is_rare = distances < (np.sqrt(n_features) + 4.0) ** 2
    model = GaussianMixture(n_components + 1, random_state=0).fit(source)
    apart = np.linalg.norm(model.means_ - mixture.means[-1], axis=1)
    return Rare(
        n_features,
        n_components,
        n_rows * weight,
        int(is_rare.sum()),
        float(found.sample.weights[is_rare].sum()),
        sum(read.seconds for read in reader.history),
        reader.n_reads - 1.0,
        float(apart.min()),
        n_rows * float(model.weights_[np.argmin(apart)]),
        model.n_reads_,
    )


def table(found: list[Rare], n_rows: int, size: int) -> Table:
    """Return a table with a row for each mixture."""
    header = [
        "features",
        "components",
        "rare rows",
        "of a uniform sample",
        "in the sample",
        "stand for",
        "pilot, passes",
        "survey, s",
        "fitted mean off by, sd",
        "fitted rows",
        "passes",
    ]
    rows = [
        [
            str(one.n_features),
            str(one.n_components),
            f"{one.n_expected:.0f}",
            f"{one.n_expected * size / n_rows:.1f}",
            str(one.n_sampled),
            f"{one.weight:.0f}",
            f"{one.part:.3f}",
            f"{one.seconds:.1f}",
            f"{one.distance:.2f}",
            f"{one.n_fitted:.0f}",
            f"{one.n_reads:.2f}",
        ]
        for one in found
    ]
    return Table(header, rows, f"{n_rows:,} rows, of which a sample of {size:,} is taken.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=float, default=1e8)
    parser.add_argument("--rare", type=float, default=1e-5, help="weight of the component")
    parser.add_argument("--small", action="store_true", help="few rows, and a larger component")
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    shrink = _SHRINK if options.small else 1
    n_rows, weight, size = int(options.rows) // shrink, options.rare * shrink, _SIZE // shrink
    shapes = [(2, 8), (2, 32)] if options.small else [(2, 8), (2, 32), (8, 16)]
    found = [measured(n_rows, d, k, weight, size) for d, k in shapes]
    command = f"python -m benchmarks.rare --rows {options.rows:g} --rare {options.rare:g}"
    report("rare", command, [table(found, n_rows, size)], options.save and not options.small)


if __name__ == "__main__":
    main()
