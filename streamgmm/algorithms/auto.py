"""The default way to fit: a survey, work in memory on its sample, then few reads of all rows.

Where the start is given a sample without a survey is enough, as a rule from a glance at the data.
It says where EM leads from there, and how far each step should go.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from streamgmm.algorithms.acceleration import accelerated_em
from streamgmm.algorithms.driver_memory import EFFORTS, Effort, FitMemory
from streamgmm.algorithms.em import Fit
from streamgmm.algorithms.glance import glance
from streamgmm.algorithms.initialization import Start
from streamgmm.algorithms.pilot import pilot_size
from streamgmm.algorithms.reading import Reader
from streamgmm.algorithms.row_sample import (
    RowSample,
    default_sample_size,
    expected_shortfall,
    sample_rows,
    sample_size,
)
from streamgmm.algorithms.search import (
    FEWEST_INFORMING,
    Informant,
    Search,
    Settings,
    improve,
)
from streamgmm.algorithms.survey import (
    Survey,
    refuse_unseen_features,
    report,
    sample_dtype,
    survey,
    survey_work,
)
from streamgmm.core.covariance import Array
from streamgmm.core.parameters import Parameters
from streamgmm.events import Listener
from streamgmm.protocols import Source, Work

# What remains to be gained on the sample: of the tolerance, and of what the sample is short anyway.
_PART_OF_TOLERANCE, _PART_OF_SHORTFALL = 0.1, 0.01
# No log-likelihood is known better.
_LEAST_TOLERANCE = 1e-11
# At most so much of the data is read to go on from a given start: one part in so many.
_PART_OF_DATA = 8
# From fewer places all over the data rows may be of another mixture.
_FEWEST_RANGES = 64


def fit_in_few_reads(
    reader: Reader,
    open_rows: Callable[[Array, Array, Listener], Reader],
    settings: Settings,
    known: Start,
    *,
    tol: float,
    max_iter: int,
    random: np.random.RandomState,
    survey_part: float = 1.0,
    effort: Effort = EFFORTS[0],
) -> Fit:
    """Fit a mixture to all rows, from nothing or from what is known beforehand.

    Parameters
    ----------
    reader : Reader
    open_rows : callable
        Gives a reader of rows in memory (m, D) and their weights (m,), with a listener.
    settings : Settings
    known : Start
    tol : float
        What may remain to be gained, nats a row.
    max_iter : int
        Bound on reads after the survey.
    random : numpy.random.RandomState
    survey_part : float
        Part of the data that the survey reads.
    effort : Effort
        How much memory the work may use.

    Returns
    -------
    Fit

    Raises
    ------
    StreamGMMError
        As :func:`streamgmm.algorithms.survey.survey` and the initialisation.
    """
    source = reader.source
    n_parameters = settings.n_parameters(source.n_features)
    size = _sample_size(reader, n_parameters, sample_dtype(source))
    seed = int(random.randint(2**31))
    found = reader.kept(
        Survey, lambda: survey(reader, size, seed, settings.n_components, survey_part)
    )
    sample = found.sample
    shortfall = expected_shortfall(source.n_rows, max(len(sample), 1), n_parameters)
    reader.tell(report(found, source, shortfall))
    refuse_unseen_features(found, source)
    informant = Informant.among(
        sample.rows, sample.weights, n_parameters, _informing_bytes(reader, effort)
    )
    search = Search(open_rows, settings, known, informant, random, reader, effort)
    start = search.run(sample, _tolerance(tol, shortfall))
    return accelerated_em(
        reader,
        start,
        tol=tol,
        max_iter=max_iter,
        reg_covar=settings.reg_covar,
        fixed=settings.fixed,
        informed_by=informant,
        order=effort.order,
    )


def fit_from(
    reader: Reader,
    open_rows: Callable[[Array, Array, Listener], Reader],
    settings: Settings,
    start: Parameters,
    *,
    tol: float,
    max_iter: int,
    random: np.random.RandomState,
    effort: Effort = EFFORTS[0],
) -> Fit:
    """Fit a mixture to all rows, from given parameters.

    Parameters are those of :func:`fit_in_few_reads`, and where to start.

    Raises
    ------
    NotFiniteError
        If the rows hold NaN that is not to be left out, or infinity.
    """
    start = reader.kept(Parameters, lambda: start)
    informant, leap = None, None
    n_parameters = settings.n_parameters(reader.source.n_features)
    sample = _glimpse(reader, n_parameters, int(random.randint(2**31))) if max_iter else None
    if sample is not None:
        most_bytes = _informing_bytes(reader, effort)
        informant = Informant.among(sample.rows, sample.weights, n_parameters, most_bytes)
        # By fitting these rows, and no others, each parameter gains a nat.
        overfit = n_parameters / max(len(sample), 1)
        in_memory = open_rows(sample.rows, sample.weights, lambda event: None)
        enough = _tolerance(tol, 0.5 * overfit)
        fit = improve(in_memory, start, settings, informant, enough, effort)
        if fit.log_likelihood - fit.log_likelihoods[0] > overfit and not fit.degenerate:
            leap = fit.parameters
    return accelerated_em(
        reader,
        start,
        tol=tol,
        max_iter=max_iter,
        reg_covar=settings.reg_covar,
        fixed=settings.fixed,
        informed_by=informant,
        order=effort.order,
        leap=leap,
    )


def fit_memory(source: Source, settings: Settings, most_bytes: int) -> FitMemory:
    """Return what a fit takes in the process that drives it, if samples may have that many bytes.

    Parameters
    ----------
    source : Source
    settings : Settings
    most_bytes : int
    """
    d, n_rows = source.n_features, source.n_rows
    dtype = sample_dtype(source)
    n_parameters = settings.n_parameters(d)
    size = sample_size(n_rows, d * dtype.itemsize, n_parameters, most_bytes)
    n_pilot = pilot_size(n_rows) if size < n_rows else 0
    missing = source.missing == "em"
    return settings.memory(d, size, dtype.itemsize, missing, most_bytes, n_pilot)


def plain_memory(source: Source, settings: Settings) -> FitMemory:
    """Return what plain EM takes in the process that drives it."""
    d = source.n_features
    size = default_sample_size(source.n_rows, d)
    return settings.memory(d, size, 8, source.missing == "em", 0)


def survey_memory(source: Source, settings: Settings, most_bytes: int) -> Work:
    """Return what a survey takes at most, whatever its pilot finds."""
    n_parameters = settings.n_parameters(source.n_features)
    row_bytes = source.n_features * sample_dtype(source).itemsize
    size = sample_size(source.n_rows, row_bytes, n_parameters, most_bytes)
    return survey_work(source, size, settings.n_components)


def _informing_bytes(reader: Reader, effort: Effort) -> int:
    return reader.executor.sample_bytes // effort.informing_part


def _glimpse(reader: Reader, n_parameters: int, seed: int) -> RowSample | None:
    """Rows from all over the data that tell of parameters; None if these would be too few."""
    source = reader.source
    most_read = source.n_rows // _PART_OF_DATA
    # Chunks hold more than the rows that are looked at.
    size = min(_sample_size(reader, n_parameters, np.dtype(np.float64)), most_read // 2)
    if size < max(n_parameters, FEWEST_INFORMING):
        return None

    def look() -> RowSample:
        found = glance(reader, "sample", seed, size, most_read, _FEWEST_RANGES)
        return sample_rows(reader, seed, size) if found is None else found.sample

    return reader.kept(RowSample, look)


def _sample_size(reader: Reader, n_parameters: int, dtype: np.dtype[Any]) -> int:
    source = reader.source
    row_bytes = source.n_features * dtype.itemsize
    return sample_size(source.n_rows, row_bytes, n_parameters, reader.executor.sample_bytes)


def _tolerance(tol: float, shortfall: float) -> float:
    """What may remain to be gained on a sample that is short of all rows."""
    return max(_PART_OF_TOLERANCE * tol, _PART_OF_SHORTFALL * shortfall, _LEAST_TOLERANCE)
