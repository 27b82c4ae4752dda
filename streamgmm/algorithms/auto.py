"""The default way to fit: a survey, work in memory on its sample, then few reads of all rows."""

from collections.abc import Callable

import numpy as np

from streamgmm.algorithms.acceleration import accelerated_em
from streamgmm.algorithms.em import Fit
from streamgmm.algorithms.initialization import Start
from streamgmm.algorithms.reading import Reader
from streamgmm.algorithms.row_sample import expected_shortfall, sample_size
from streamgmm.algorithms.search import Informant, Search, Settings
from streamgmm.algorithms.survey import Survey, sample_dtype, survey
from streamgmm.core.covariance import STRUCTURES, Array
from streamgmm.core.parameters import count_parameters
from streamgmm.protocols import Listener, SampleTaken

# What remains to be gained on the sample: of the tolerance, and of what the sample is short anyway.
_PART_OF_TOLERANCE, _PART_OF_SHORTFALL = 0.1, 0.01
# No log-likelihood is known better.
_LEAST_TOLERANCE = 1e-11


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

    Returns
    -------
    Fit

    Raises
    ------
    StreamGMMError
        As :func:`streamgmm.algorithms.survey.survey` and the initialisation.
    """
    source = reader.source
    structure = STRUCTURES[settings.covariance_type]
    n_parameters = count_parameters(
        structure, settings.n_components, source.n_features, settings.fixed
    )
    most_bytes = reader.executor.sample_bytes
    size = sample_size(
        source.n_rows,
        source.n_features * sample_dtype(source).itemsize,
        n_parameters,
        most_bytes,
    )
    seed = int(random.randint(2**31))
    found = reader.kept(
        Survey, lambda: survey(reader, size, seed, settings.n_components, survey_part)
    )
    sample = found.sample
    shortfall = expected_shortfall(source.n_rows, max(len(sample), 1), n_parameters)
    reader.tell(SampleTaken(len(sample), int(sample.is_unexplained.sum()), shortfall))
    informant = Informant.among(sample.rows, sample.weights, n_parameters, most_bytes)
    start = Search(open_rows, settings, known, informant, random, reader).run(
        sample,
        max(_PART_OF_TOLERANCE * tol, _PART_OF_SHORTFALL * shortfall, _LEAST_TOLERANCE),
    )
    return accelerated_em(
        reader,
        start,
        tol=tol,
        max_iter=max_iter,
        reg_covar=settings.reg_covar,
        fixed=settings.fixed,
        informed_by=informant,
    )
