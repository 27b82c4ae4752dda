"""A pilot sample, drawn before the survey: a rough mixture of it explains few rows badly.

A component that holds a hundred-thousandth of all rows has almost no rows in a uniform sample. But
its rows are among the few that a mixture of the large components explains badly. A few thousand
rows from all over the data give the threshold for "badly".
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
# A pilot reads at most one of this many parts of the data.
_PART = 12
# One of this many rows of the pilot lies below the threshold.
_BELOW = 512
# A component with fewer rows of the pilot is dropped from the rough mixture.
_ROWS_PER_COMPONENT = 16
_ITERATIONS = 10
# Largest difference between scores of a row in different blocks, relative to their size or 1.
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

        The other rows of a block decide whether a row is evaluated in the expanded or in the
        centred form, and so the last digits of its score. Rows near the threshold are therefore
        evaluated one by one.
        """
        found = self.expectation.posterior(rows)
        distances = found.scores - self.threshold
        unexplained: NDArray[np.bool_] = distances < 0.0
        for i in np.flatnonzero(np.abs(distances) <= _margin(self.threshold)):
            alone = self.expectation.posterior(rows[[i]].astype(np.float64))
            unexplained[i] = alone.scores[0] < self.threshold
        if found.n_not_finite:
            # Densities of fewer values have other units.
            unexplained &= ~np.isnan(rows).any(axis=1)
        return unexplained


@dataclass(frozen=True)
class Pilot:
    """The result of a pilot sample.

    Attributes
    ----------
    usable : float
        Part of the rows that can be used: rows with weight that are not skipped.
    explanation : Explanation or None
        None if the rows do not determine which rows are badly explained.
    """

    usable: float
    explanation: Explanation | None


def pilot_size(n_rows: int) -> int:
    """Return the size of the pilot for ``n_rows`` rows; 0 if they are too few for a pilot."""
    most = n_rows // _PART
    return min(_MOST_ROWS, most) if most >= _FEWEST_ROWS else 0


def take_pilot(reader: Reader, seed: int, n_components: int) -> Pilot | None:
    """Draw a pilot sample: ranges of rows from all over the data.

    Parameters
    ----------
    reader : Reader
    seed : int
        Below 2**32.
    n_components : int
        Largest number of components of the rough mixture.

    Returns
    -------
    Pilot or None
        None if even one range reads too many rows, or the data have too few rows.

    Raises
    ------
    NotFiniteError
        If the rows hold infinity, or NaN that is not skipped.
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
    """Return a rough mixture of the rows and its threshold; None if there are too few rows."""
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
    """Return a score below which few rows lie, in a gap between two rows; None without a gap.

    If it were the score of a row, all equal rows would lie on the threshold.
    """
    ordered = np.sort(scores)[: len(scores) // _BELOW + 1]
    upper = ordered[1:]
    # Rows that overflow have no score.
    lower = np.maximum(ordered[:-1], upper - 1.0)
    gaps = np.flatnonzero(upper - lower > 4.0 * _margin(upper))
    return float(0.5 * (lower + upper)[gaps[-1]]) if gaps.size else None


def _margin(score: Array | float) -> Array | float:
    return _SCORE_MARGIN * np.maximum(np.abs(score), 1.0)
