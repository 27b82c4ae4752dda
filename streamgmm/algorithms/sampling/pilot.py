"""A pilot sample, drawn before the survey: a mixture of it explains few rows badly.

A component that holds a hundred-thousandth of all rows has almost no rows in a uniform sample. But
its rows are among the few that a mixture of the large components explains badly. A few thousand
rows from all over the data give the threshold for "badly".

If the data have many rows for each parameter, the pilot is larger, and the mixture that is sought
is fitted to it. The survey can then collect the statistics of this mixture.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from streamgmm.algorithms.reads.reader import Reader
from streamgmm.algorithms.sampling.initialization import Start, initialize
from streamgmm.algorithms.sampling.row_sample import FEWEST_SAMPLED, RowSample
from streamgmm.algorithms.sampling.systematic_sample import (
    SystematicSample,
    draw_from_chunks,
    draw_systematic,
    spread_chunks,
)
from streamgmm.core.e_step import EStep
from streamgmm.core.expectation import prepare
from streamgmm.core.frame import Frame
from streamgmm.core.objective import Objective
from streamgmm.core.parameters import Parameters
from streamgmm.core.structures import Array
from streamgmm.options import Missing
from streamgmm.protocols import Source, all_chunks, row_count

_MOST_ROWS, _FEWEST_ROWS = 4096, 512
# Rows that are evaluated at once, where all rows are sampled.
_ROWS_AT_ONCE = 1 << 14
# A pilot reads at most one of this many parts of the data.
_PART = 12
# One of this many rows of the pilot lies below the threshold.
_BELOW = 512
# A component with fewer rows of the pilot is dropped from the rough mixture.
_ROWS_PER_COMPONENT = 16
_ITERATIONS = 10
# Largest difference between scores of a row in different blocks, relative to their size or 1.
_SCORE_MARGIN = 1e-6
# A pilot that a mixture is fitted to: part of the data, part of the sample of the survey, and rows
# that it needs at least, for each parameter too.
_PART_OF_DATA, _PART_OF_SAMPLE = 16, 2
_FEWEST_FITTED, _FITTED_PER_PARAMETER = 1 << 13, 50
# With fewer chunks than the first number, the rows may come from another mixture than the data;
# with as many as the second, this is unlikely.
_FEWEST_CHUNKS, _MANY_CHUNKS = 4, 64


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
    sample = found.sample
    explanation = None
    if _determines_explanation(sample):
        mixture = _rough_mixture(sample, n_components, seed, source.missing)
        explanation = _explanation(mixture, sample, source)
    return Pilot(found.usable, explanation)


def explained(sample: RowSample, source: Source, seed: int, n_components: int) -> RowSample:
    """Return a sample of all rows in which the badly explained ones are marked.

    Parts of the sample then hold enough of them. A part of the sample stands for a pilot.

    Parameters
    ----------
    sample : RowSample
    source : Source
    seed : int
        Below 2**32.
    n_components : int
        Largest number of components of the rough mixture.
    """
    pilot = sample.part(_MOST_ROWS)
    if len(sample) <= FEWEST_SAMPLED or not _determines_explanation(pilot):
        return sample
    mixture = _rough_mixture(pilot, n_components, seed, source.missing)
    explanation = _explanation(mixture, pilot, source)
    if explanation is None:
        return sample
    marks = [
        explanation.is_unexplained(sample.rows[start : start + _ROWS_AT_ONCE])
        for start in range(0, len(sample), _ROWS_AT_ONCE)
    ]
    return replace(sample, is_unexplained=np.concatenate(marks))


def fitted_pilot_size(n_rows: int, n_sample: int, n_parameters: int) -> int:
    """Return the size of a pilot to which the mixture that is sought is fitted.

    Parameters
    ----------
    n_rows : int
        Rows of the data.
    n_sample : int
        Rows of the sample of the survey.
    n_parameters : int
        Free parameters of the mixture.

    Returns
    -------
    int
        0 if the pilot would have too few rows.
    """
    size = min(n_rows // _PART_OF_DATA, n_sample // _PART_OF_SAMPLE)
    return size if size >= max(_FEWEST_FITTED, _FITTED_PER_PARAMETER * n_parameters) else 0


def draw_fitted_pilot(reader: Reader, seed: int, size: int) -> SystematicSample | None:
    """Draw a pilot to which the mixture that is sought is fitted, from chunks all over the data.

    Parameters
    ----------
    reader : Reader
    seed : int
        Below 2**32.
    size : int
        As :func:`fitted_pilot_size` gives it.

    Returns
    -------
    SystematicSample or None
        None if chunks are too large a part of the data, or too few rows can be used.

    Raises
    ------
    NotFiniteError
        If the rows hold infinity, or NaN that is not skipped.
    """
    source = reader.source
    n_chunks = len(all_chunks(source))
    most = n_chunks // _PART_OF_DATA
    wanted = max(math.ceil(n_chunks * size / source.n_rows), _MANY_CHUNKS)
    n_chosen = min(wanted, most)
    if n_chosen < _FEWEST_CHUNKS:
        return None
    chunks = spread_chunks(source, n_chosen, seed)
    if row_count(source, chunks) > source.n_rows // _PART:
        return None
    found = draw_from_chunks(reader, "pilot", seed, size, chunks)
    return found if _determines_explanation(found.sample) else None


def pilot_of(mixture: Parameters, found: SystematicSample, source: Source) -> Pilot:
    """Return the pilot whose mixture was fitted to the rows of a systematic sample."""
    return Pilot(found.usable, _explanation(mixture, found.sample, source))


def _determines_explanation(sample: RowSample) -> bool:
    """Return whether there are enough rows, with values of each feature."""
    has_gaps = np.isnan(sample.rows).any(axis=1)
    n_complete = len(sample) - has_gaps.sum()
    return bool(n_complete >= _FEWEST_ROWS and not np.isnan(sample.rows).all(axis=0).any())


def _explanation(mixture: Parameters, sample: RowSample, source: Source) -> Explanation | None:
    """Return a mixture with the score below which few rows lie; None if there is no such score."""
    expectation = EStep.prepare(mixture, Frame.of(mixture, source.dtype))
    is_complete = ~np.isnan(sample.rows).any(axis=1)
    threshold = _low_score(expectation.posterior(sample.rows[is_complete]).scores)
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
