"""A pilot sample, drawn before the survey: a rough mixture of it explains few rows badly.

A component that holds a hundred-thousandth of all rows has next to none of a uniform sample. But
its rows are among those that a mixture of the large components explains badly. Few rows are. A few
thousand rows from all over the data show what "badly" means.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamgmm.algorithms.reads.reader import Reader, prepare
from streamgmm.algorithms.sampling.initialization import Start, initialize
from streamgmm.algorithms.sampling.row_sample import RowSample
from streamgmm.algorithms.sampling.systematic_sample import draw_systematic
from streamgmm.core.e_step import EStep
from streamgmm.core.frame import Frame
from streamgmm.core.objective import Objective
from streamgmm.core.parameters import Parameters
from streamgmm.core.structures import Array
from streamgmm.options import Missing
from streamgmm.protocols import Source

_MOST_ROWS, _FEWEST_ROWS = 4096, 512
# At most so much of the data is read for a pilot: one part in so many.
_PART = 12
# Part of the pilot that lies below the threshold: one row in so many.
_BELOW = 512
# A component has so many of the pilot's rows, or explains nothing.
_ROWS_PER_COMPONENT = 16
_ITERATIONS = 10
# Scores of one row that is read in different company differ by less, relative to their size or 1.
_SCORE_MARGIN = 1e-6


@dataclass(frozen=True, eq=False)
class Explanation:
    """A rough mixture, and the score below which it explains a row badly.

    Attributes
    ----------
    expectation : EStep
    threshold : float
        Nats.
    """

    expectation: EStep
    threshold: float

    def is_unexplained(self, rows: NDArray[np.generic]) -> NDArray[np.bool_]:
        """Return whether each row (n, D) is badly explained; rows with gaps are not.

        Which rows go by which route through the kernels, and so the last digits of a score, depend
        on the rows of the same block. What lies near the threshold is decided row by row.
        """
        found = self.expectation.posterior(rows)
        distances = found.scores - self.threshold
        unexplained: NDArray[np.bool_] = distances < 0.0
        for i in np.flatnonzero(np.abs(distances) <= _margin(self.threshold)):
            alone = self.expectation.posterior(rows[[i]].astype(np.float64))
            unexplained[i] = alone.scores[0] < self.threshold
        if found.n_not_finite:
            # Densities of fewer values are of another unit.
            unexplained &= ~np.isnan(rows).any(axis=1)
        return unexplained


@dataclass(frozen=True)
class Pilot:
    """The result of a pilot sample.

    Attributes
    ----------
    usable : float
        Part of the rows that can be used: those with weight and without what is skipped.
    explanation : Explanation or None
        None if the rows do not tell which ones are badly explained.
    """

    usable: float
    explanation: Explanation | None


def pilot_size(n_rows: int) -> int:
    """Return how many rows are looked at of so many; 0 if these are too few for a pilot."""
    most = n_rows // _PART
    return min(_MOST_ROWS, most) if most >= _FEWEST_ROWS else 0


def take_pilot(reader: Reader, seed: int, n_components: int) -> Pilot | None:
    """Look at ranges of rows from all over the data.

    Parameters
    ----------
    reader : Reader
    seed : int
        Below 2**32.
    n_components : int
        Most components of the rough mixture.

    Returns
    -------
    Pilot or None
        None if even one range would take too much, or the data have too few rows.

    Raises
    ------
    NotFiniteError
        If the rows hold NaN that is not to be skipped, or infinity.
    """
    source = reader.source
    size = pilot_size(source.n_rows)
    if not size:
        return None
    found = draw_systematic(reader, "pilot", seed, size, source.n_rows // _PART)
    if found is None:
        return None
    return Pilot(found.usable, _explain(found.sample, n_components, seed, source))


def _explain(sample: RowSample, n_components: int, seed: int, source: Source) -> Explanation | None:
    """Return what a rough mixture of the rows explains; None if there are too few."""
    has_gaps = np.isnan(sample.rows).any(axis=1)
    if len(sample) - has_gaps.sum() < _FEWEST_ROWS or np.isnan(sample.rows).all(axis=0).any():
        return None
    mixture = _rough_mixture(sample, n_components, seed, source.missing)
    expectation = EStep.prepare(mixture, Frame.of(mixture, source.dtype))
    threshold = _low_score(expectation.posterior(sample.rows[~has_gaps]).scores)
    return None if threshold is None else Explanation(expectation, threshold)


def _rough_mixture(sample: RowSample, n_components: int, seed: int, missing: Missing) -> Parameters:
    """Return the components of diagonal covariances that have more than a few rows."""
    k = max(1, min(n_components, len(sample) // _ROWS_PER_COMPONENT))
    random = np.random.RandomState(seed)
    objective = Objective()
    parameters = initialize(
        sample.rows, sample.weights, k, "diag", "k-means++", objective, Start(), random
    )
    for _ in range(_ITERATIONS):
        expectation = prepare(parameters, Frame.of(parameters), missing)
        found = expectation.statistics(sample.rows, sample.weights)
        parameters = objective.maximize(found, parameters).parameters
    kept = parameters.weights >= min(_ROWS_PER_COMPONENT / len(sample), parameters.weights.max())
    weights = parameters.weights[kept]
    return Parameters.create(
        "diag", weights / weights.sum(), parameters.means[kept], parameters.covariances[kept]
    )


def _low_score(scores: Array) -> float | None:
    """A score below which few rows lie, in a gap between two of them; None if there is no gap.

    Were it the score of a row, all rows that are equal would lie on the threshold.
    """
    ordered = np.sort(scores)[: len(scores) // _BELOW + 1]
    upper = ordered[1:]
    # What overflows has no score.
    lower = np.maximum(ordered[:-1], upper - 1.0)
    gaps = np.flatnonzero(upper - lower > 4.0 * _margin(upper))
    return float(0.5 * (lower + upper)[gaps[-1]]) if gaps.size else None


def _margin(score: Array | float) -> Array | float:
    return _SCORE_MARGIN * np.maximum(np.abs(score), 1.0)
