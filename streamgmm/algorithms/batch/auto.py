"""The default way to fit: a survey, work in memory on its sample, then few passes over all rows.

If the data have many rows for each parameter, the mixture is fitted to a pilot sample first. The
survey collects its statistics beside the sample, so one more pass may be enough.

Where the start is given a sample without a survey is enough, as a rule from a small part of the
data. It shows where EM leads from there, and how far each step should go.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from streamgmm.algorithms.batch.accelerated_em import Leap, accelerated_em
from streamgmm.algorithms.batch.em import Fit, expectation_maximization
from streamgmm.algorithms.batch.sample_correction import SampleCorrection
from streamgmm.algorithms.batch.sample_fit import (
    FEWEST_INFORMING,
    Informant,
    Search,
    Settings,
    StageListener,
    improve,
)
from streamgmm.algorithms.batch.trust_region import MOST_PRODUCTS
from streamgmm.algorithms.reads.memory import EFFORTS, Effort, FitMemory
from streamgmm.algorithms.reads.reader import Reader
from streamgmm.algorithms.reads.usable_rows import require_weight
from streamgmm.algorithms.sampling.initialization import Start
from streamgmm.algorithms.sampling.pilot import (
    Pilot,
    draw_fitted_pilot,
    fitted_pilot_size,
    pilot_of,
    pilot_size,
)
from streamgmm.algorithms.sampling.row_sample import (
    RowSample,
    default_sample_size,
    expected_shortfall,
    sample_rows,
    sample_size,
)
from streamgmm.algorithms.sampling.survey import (
    Survey,
    refuse_unseen_features,
    report,
    sample_dtype,
    survey,
    survey_with_statistics,
    survey_work,
)
from streamgmm.algorithms.sampling.systematic_sample import SystematicSample, draw_systematic
from streamgmm.core.parameters import Parameters
from streamgmm.core.structures import STRUCTURES, Array
from streamgmm.events import Listener, StageStarted
from streamgmm.protocols import Source, Work

# Gain that may remain on the sample: as a part of the tolerance, and of the loss from sampling.
_PART_OF_TOLERANCE, _PART_OF_SHORTFALL = 0.1, 0.1
# A log-likelihood has no smaller error.
_LEAST_TOLERANCE = 1e-11
# Products with information that a pass is worth, at least; evaluations of all components for each
# row of the data that they may take, about.
_FEWEST_PRODUCTS, _PASSES_OF_PRODUCTS = 6, 2
# The sample for a given start takes at most one row in this many.
_PART_OF_DATA = 8
# With fewer ranges of rows, the sample may come from another mixture than the data.
_FEWEST_RANGES = 64


@dataclass(frozen=True, eq=False)
class PilotFit:
    """A mixture that was fitted to a pilot sample.

    Attributes
    ----------
    pilot : Pilot
        Which rows the mixture explains badly.
    parameters : Parameters
    """

    pilot: Pilot
    parameters: Parameters


def fit_to_pilot(
    reader: Reader,
    open_rows: Callable[[Array, Array, Listener], Reader],
    settings_for: Callable[[RowSample], Settings],
    known: Start,
    n_parameters: int,
    *,
    tol: float,
    random: np.random.RandomState,
    effort: Effort = EFFORTS[0],
) -> PilotFit | None:
    """Fit the mixture that is sought to a pilot sample.

    Parameters
    ----------
    reader : Reader
    open_rows : callable
        Gives a reader of rows in memory (m, D) and their weights (m,), with a listener.
    settings_for : callable
        Returns the settings of the fit, given a sample of the rows.
    known : Start
    n_parameters : int
        Free parameters of the mixture.
    tol : float
        What may remain to be gained, nats per row.
    random : numpy.random.RandomState
    effort : Effort
        How much memory the work may use.

    Returns
    -------
    PilotFit or None
        None if the pilot would have few rows for each parameter, or cannot be read alone.

    Raises
    ------
    StreamGMMError
        As the initialisation.
    """
    source = reader.source
    n_sample = _sample_size(reader, n_parameters, sample_dtype(source))
    size = fitted_pilot_size(source.n_rows, n_sample, n_parameters)
    if not size:
        return None
    seed = int(random.randint(2**31))
    # A search that is restored from a checkpoint draws nothing, so it has separate random numbers.
    own_random = np.random.RandomState(random.randint(2**31))
    found = reader.kept(PilotRows, lambda: PilotRows(draw_fitted_pilot(reader, seed, size))).found
    if found is None:
        return None
    settings = settings_for(found.sample)
    _, parameters = _searched(
        reader, open_rows, settings, known, found.sample, tol, own_random, effort
    )
    return PilotFit(pilot_of(parameters, found, source), parameters)


@dataclass(frozen=True, eq=False)
class PilotRows:
    """The result of drawing a pilot sample.

    Attributes
    ----------
    found : SystematicSample or None
        None if the pilot cannot be read alone.
    """

    found: SystematicSample | None


def survey_for_fit(
    reader: Reader,
    n_components: int,
    n_parameters: int,
    random: np.random.RandomState,
    survey_part: float = 1.0,
    begun: PilotFit | None = None,
) -> Survey:
    """Survey the data for a fit.

    Parameters
    ----------
    reader : Reader
    n_components : int
    n_parameters : int
        Free parameters of the mixture to fit.
    random : numpy.random.RandomState
    survey_part : float
        Part of the data that the survey reads.
    begun : PilotFit, optional
        A mixture of which the survey collects the statistics.

    Raises
    ------
    StreamGMMError
        As :func:`streamgmm.algorithms.sampling.survey.survey`.
    """
    source = reader.source
    size = _sample_size(reader, n_parameters, sample_dtype(source))
    # A large sample does not make the survey read more than was asked for.
    size = min(size, math.ceil(survey_part * source.n_rows))
    seed = int(random.randint(2**31))

    def find() -> Survey:
        if begun is None:
            return survey(reader, size, seed, n_components, survey_part)
        return survey_with_statistics(reader, size, seed, begun.pilot, begun.parameters)

    found = reader.kept(Survey, find)
    reader.notify(report(found, source, _shortfall(source, found.sample, n_parameters)))
    require_weight(float(found.sample.weights.sum()), source, found.skipped)
    refuse_unseen_features(found, source)
    return found


def fit_in_few_reads(
    reader: Reader,
    open_rows: Callable[[Array, Array, Listener], Reader],
    settings: Settings,
    known: Start,
    found: Survey,
    *,
    tol: float,
    max_iter: int,
    random: np.random.RandomState,
    effort: Effort = EFFORTS[0],
    start: Parameters | None = None,
) -> Fit:
    """Fit a mixture to all rows, from nothing or from what is known beforehand.

    Parameters
    ----------
    reader : Reader
    open_rows : callable
        Gives a reader of rows in memory (m, D) and their weights (m,), with a listener.
    settings : Settings
    known : Start
    found : Survey
    tol : float
        What may remain to be gained, nats per row.
    max_iter : int
        Bound on passes after the survey.
    random : numpy.random.RandomState
    effort : Effort
        How much memory the work may use.
    start : Parameters, optional
        The mixture of which the survey has collected the statistics.

    Returns
    -------
    Fit

    Raises
    ------
    StreamGMMError
        As the initialisation.
    """
    sample = found.sample
    leap: Leap | None = None
    if start is None:
        search, start = _searched(reader, open_rows, settings, known, sample, tol, random, effort)
    else:
        search = _search(reader, open_rows, settings, known, sample, random, effort)
        enough = sample_tolerance(reader, settings, sample, tol)

        def leap(proposal: Parameters, is_done: bool) -> Parameters | None:
            return search.better_than(proposal, sample, enough)

        # The survey is the first iteration.
        max_iter += 1
    fit = accelerated_em(
        reader,
        start,
        tol=tol,
        max_iter=max_iter,
        objective=settings.objective,
        informed_by=search.informant,
        order=effort.order,
        most_products=_most_products(reader.source, search.informant),
        leap=leap,
        evaluated=found.statistics,
        corrected=_correction(reader, open_rows, settings, sample, effort),
    )
    return replace(fit, columns=found.moments, sample=found.sample)


def fit_by_assignment(
    reader: Reader,
    open_rows: Callable[[Array, Array, Listener], Reader],
    settings: Settings,
    known: Start,
    found: Survey,
    *,
    tol: float,
    max_iter: int,
    random: np.random.RandomState,
    effort: Effort = EFFORTS[0],
) -> Fit:
    """Fit a mixture by classification EM, from a start that EM finds on the sample.

    Parameters and errors are those of :func:`fit_in_few_reads`; the reader assigns each row wholly
    to one component, and the fit ends when an iteration gains less than ``tol``.

    Returns
    -------
    Fit
    """
    _, start = _searched(reader, open_rows, settings, known, found.sample, tol, random, effort)
    fit = expectation_maximization(
        reader,
        start,
        tol=tol,
        max_iter=max_iter,
        objective=settings.objective,
    )
    return replace(fit, columns=found.moments, sample=found.sample)


def _searched(
    reader: Reader,
    open_rows: Callable[[Array, Array, Listener], Reader],
    settings: Settings,
    known: Start,
    sample: RowSample,
    tol: float,
    random: np.random.RandomState,
    effort: Effort,
) -> tuple[Search, Parameters]:
    """Search a sample; return the search and its result."""
    search = _search(reader, open_rows, settings, known, sample, random, effort)
    return search, search.run(sample, sample_tolerance(reader, settings, sample, tol))


def _search(
    reader: Reader,
    open_rows: Callable[[Array, Array, Listener], Reader],
    settings: Settings,
    known: Start,
    sample: RowSample,
    random: np.random.RandomState,
    effort: Effort,
) -> Search:
    """Return a search that is informed by a sample."""
    informant = informant_for(reader, settings, sample, effort)
    return Search(open_rows, settings, known, informant, random, reader, effort)


def _correction(
    reader: Reader,
    open_rows: Callable[[Array, Array, Listener], Reader],
    settings: Settings,
    sample: RowSample,
    effort: Effort,
) -> SampleCorrection | None:
    """Return what corrects steps of low rank with a sample; None if the sample has all rows."""
    n_rows, structure = reader.source.n_rows, STRUCTURES[settings.covariance_type]
    is_possible = structure.moments_depend_on_parameters and not settings.objective.fixed
    if not (is_possible and effort.corrects) or len(sample) == n_rows:
        return None
    in_memory = open_rows(sample.rows, sample.weights, StageListener("EM", reader.notify))
    most = min(MOST_PRODUCTS, _PASSES_OF_PRODUCTS * n_rows // len(sample))
    return SampleCorrection(in_memory, settings.objective, effort.order, most)


def _most_products(source: Source, informant: Informant) -> int:
    """Return how many products with the information of some rows a pass over all rows is worth."""
    n_rows = max(len(informant.rows), 1)
    return max(_FEWEST_PRODUCTS, min(MOST_PRODUCTS, _PASSES_OF_PRODUCTS * source.n_rows // n_rows))


def informant_for(
    reader: Reader, settings: Settings, sample: RowSample, effort: Effort
) -> Informant:
    """Return the rows of a sample that say how far each step should go."""
    if STRUCTURES[settings.covariance_type].moments_depend_on_parameters:
        return Informant(sample.rows[:0], sample.weights[:0])
    n_parameters = settings.n_parameters(reader.source.n_features)
    most_bytes = _informing_bytes(reader, effort)
    n_rows = reader.source.n_rows
    return Informant.among(sample.rows, sample.weights, n_parameters, most_bytes, n_rows)


def sample_tolerance(reader: Reader, settings: Settings, sample: RowSample, tol: float) -> float:
    """Return what may remain to be gained on a sample, nats per row."""
    n_parameters = settings.n_parameters(reader.source.n_features)
    return _tolerance(tol, _shortfall(reader.source, sample, n_parameters))


def fit_from(
    reader: Reader,
    open_rows: Callable[[Array, Array, Listener], Reader],
    settings: Settings,
    start: Parameters,
    sample: RowSample | None,
    *,
    tol: float,
    max_iter: int,
    effort: Effort = EFFORTS[0],
) -> Fit:
    """Fit a mixture to all rows, from given parameters.

    Parameters are those of :func:`fit_in_few_reads`, and where to start. The sample is that of
    :func:`sample_for_start`.

    Raises
    ------
    NotFiniteError
        If the rows hold NaN that is not to be skipped, or infinity.
    """
    informant: Informant | None = None
    leap: Leap | None = None
    corrected: SampleCorrection | None = None
    n_parameters = settings.n_parameters(reader.source.n_features)
    if sample is not None and _informs(_size_for_start(reader, n_parameters), n_parameters):
        informant = informant_for(reader, settings, sample, effort)
        corrected = _correction(reader, open_rows, settings, sample, effort)
        # By fitting these rows, and no others, each parameter gains a nat.
        overfit = n_parameters / max(len(sample), 1)
        reader.notify(StageStarted("EM", len(sample), settings.n_components))
        listener = StageListener("EM", reader.notify)
        in_memory = open_rows(sample.rows, sample.weights, listener)
        enough = _tolerance(tol, 0.5 * overfit)
        fit = improve(in_memory, start, settings, informant, enough, effort)
        if fit.value - fit.values[0] > overfit and not fit.degenerate:
            end = fit.parameters

            def leap(proposal: Parameters, is_done: bool) -> Parameters | None:
                return None if is_done else end

    fit = accelerated_em(
        reader,
        start,
        tol=tol,
        max_iter=max_iter,
        objective=settings.objective,
        informed_by=informant,
        order=effort.order,
        most_products=MOST_PRODUCTS
        if informant is None
        else _most_products(reader.source, informant),
        leap=leap,
        corrected=corrected,
    )
    return replace(fit, sample=sample)


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
    size = sample_size(n_rows, d, dtype.itemsize, n_parameters, most_bytes)
    n_pilot = pilot_size(n_rows) if size < n_rows else 0
    # The pilot of a fit has half as many rows, in float64, and so takes no more than the sample.
    missing = source.missing == "em"
    return settings.memory(n_rows, d, size, dtype.itemsize, missing, most_bytes, n_pilot)


def plain_memory(source: Source, settings: Settings) -> FitMemory:
    """Return what plain EM takes in the process that drives it."""
    d, n_rows = source.n_features, source.n_rows
    size = default_sample_size(n_rows, d)
    return settings.memory(n_rows, d, size, 8, source.missing == "em", 0)


def survey_memory(source: Source, settings: Settings, most_bytes: int) -> Work:
    """Return what a survey takes at most, whatever its pilot finds."""
    n_parameters = settings.n_parameters(source.n_features)
    itemsize = sample_dtype(source).itemsize
    size = sample_size(source.n_rows, source.n_features, itemsize, n_parameters, most_bytes)
    is_begun = fitted_pilot_size(source.n_rows, size, n_parameters) > 0
    return survey_work(source, size, settings.covariance_type, settings.n_components, is_begun)


def _informing_bytes(reader: Reader, effort: Effort) -> int:
    return reader.executor.sample_bytes // effort.informing_part


def sample_for_start(
    reader: Reader, n_parameters: int, random: np.random.RandomState, is_needed: bool
) -> RowSample | None:
    """Return rows from all over the data, for a fit from given parameters.

    Parameters
    ----------
    reader : Reader
    n_parameters : int
        Free parameters of the mixture.
    random : numpy.random.RandomState
    is_needed : bool
        Whether something has to be known of the rows before the first iteration; else there is no
        sample if it would be too small to say how far each step should go.

    Raises
    ------
    NotFiniteError
        If the rows hold NaN that is not to be skipped, or infinity.
    """
    seed = int(random.randint(2**31))
    size = _size_for_start(reader, n_parameters)
    if not (is_needed or _informs(size, n_parameters)):
        return None

    def look() -> RowSample:
        if size < FEWEST_INFORMING:
            return rows_at_hand(reader, seed)
        most_read = reader.source.n_rows // _PART_OF_DATA
        found = draw_systematic(reader, "sample", seed, size, most_read, _FEWEST_RANGES)
        return sample_rows(reader, seed, size) if found is None else found.sample

    return reader.kept(RowSample, look)


def _size_for_start(reader: Reader, n_parameters: int) -> int:
    # Chunks hold more rows than the sample uses.
    most = reader.source.n_rows // _PART_OF_DATA // 2
    return min(_sample_size(reader, n_parameters, np.dtype(np.float64)), most)


def rows_at_hand(reader: Reader, seed: int) -> RowSample:
    """Return sampled rows, all if there are few; rows in memory take no pass over the data."""
    if reader.source.read_bytes == 0:
        reader = Reader(reader.source, reader.executor, lambda event: None)
    return sample_rows(reader, seed)


def _informs(size: int, n_parameters: int) -> bool:
    """Return whether a sample of ``size`` rows determines the length of a step."""
    return size >= max(n_parameters, FEWEST_INFORMING)


def _shortfall(source: Source, sample: RowSample, n_parameters: int) -> float:
    return expected_shortfall(source.n_rows, max(len(sample), 1), n_parameters)


def _sample_size(reader: Reader, n_parameters: int, dtype: np.dtype[Any]) -> int:
    source = reader.source
    shape = source.n_rows, source.n_features
    return sample_size(*shape, dtype.itemsize, n_parameters, reader.executor.sample_bytes)


def _tolerance(tol: float, shortfall: float) -> float:
    """Return what may remain to be gained on a sample that is short of all rows."""
    return max(_PART_OF_TOLERANCE * tol, _PART_OF_SHORTFALL * shortfall, _LEAST_TOLERANCE)
