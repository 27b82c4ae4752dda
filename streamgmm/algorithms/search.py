"""The work in memory: from a sample of rows to parameters near the optimum of all of them.

Many short runs of EM on few rows, the best of them continued on more; moves out of poor optima; and
then convergence on the whole sample, where iterations cost next to nothing beside a read.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np

from streamgmm.algorithms.acceleration import accelerated_em
from streamgmm.algorithms.em import Fit, expectation_maximization
from streamgmm.algorithms.initialization import Start, initialize
from streamgmm.algorithms.moves import Rows, move_components
from streamgmm.algorithms.reading import Reader, prepare
from streamgmm.algorithms.survey import RowSample
from streamgmm.core.covariance import Array, CovarianceType
from streamgmm.core.information import Information, Tangent
from streamgmm.core.parameters import ParameterName, Parameters

# Short runs for each start that is asked for; of these, those that go on, and the steps of both.
_RUNS, _KEPT = 12, 4
_SHORT, _LONGER = 4, 8
# Rows of short runs: at least, and for each value of all means; moves use so many times as many.
_FEWEST_ROWS, _ROWS_PER_VALUE, _MORE = 4096, 4, 4
_MOST_ITERATIONS = 100
# Rows for each parameter from which information is estimated.
_ROWS_PER_PARAMETER, _FEWEST_INFORMING = 50, 4096


@dataclass(frozen=True)
class Settings:
    """What is to be fitted, and how.

    Attributes
    ----------
    n_components : int
    covariance_type : {"full", "tied", "diag", "spherical"}
    init_params : {"kmeans", "k-means++", "random_from_data", "random"}
    reg_covar : float
        Added to the diagonal of each covariance, in squared data units.
    fixed : collection of {"weights", "means", "covariances"}
        Held at their starting values.
    n_init : int
        Restarts; each is worth a number of short runs.
    """

    n_components: int
    covariance_type: CovarianceType
    init_params: str
    reg_covar: float
    fixed: Collection[ParameterName]
    n_init: int


def search(
    sample: RowSample,
    open_rows: Callable[[Array, Array], Reader],
    settings: Settings,
    known: Start,
    informed_by: Callable[[Tangent], Information | None],
    tol: float,
    random: np.random.RandomState,
) -> Parameters:
    """Parameters near the optimum, from a sample.

    Parameters
    ----------
    sample : RowSample
    open_rows : callable
        Gives a reader of rows in memory (m, D) and their weights (m,).
    settings : Settings
    known : Start
        Parameters that are known beforehand.
    informed_by : callable
        As for :func:`streamgmm.algorithms.acceleration.accelerated_em`.
    tol : float
        What may remain to be gained on the sample, nats a row.
    random : numpy.random.RandomState

    Returns
    -------
    found : Parameters
    """

    def part(size: int) -> Rows:
        chosen = np.arange(min(size, len(sample.rows))) * len(sample.rows)
        chosen //= max(min(size, len(sample.rows)), 1)
        rows, weights = sample.rows[chosen], sample.weights[chosen]
        return Rows(open_rows(rows, weights), rows, weights)

    k, d = settings.n_components, sample.rows.shape[1]
    few = max(_FEWEST_ROWS, _ROWS_PER_VALUE * k * d)
    fit = _best_start(part(few), settings, known, random)
    if not settings.fixed and k > 1:
        more = part(_MORE * few)
        fit = _run(more, fit.parameters, settings, _LONGER)
        fit = move_components(more, fit, reg_covar=settings.reg_covar, random=random)
    return accelerated_em(
        part(len(sample.rows)).reader,
        fit.parameters,
        tol=tol,
        max_iter=_MOST_ITERATIONS,
        reg_covar=settings.reg_covar,
        fixed=settings.fixed,
        informed_by=informed_by,
    ).parameters


def _best_start(rows: Rows, settings: Settings, known: Start, random: np.random.RandomState) -> Fit:
    """The best of many short runs, of which the better ones are continued."""
    starts = (
        initialize(
            rows.rows,
            rows.weights,
            settings.n_components,
            settings.covariance_type,
            settings.init_params,
            settings.reg_covar,
            known,
            random,
        )
        for _ in range(_RUNS * settings.n_init)
    )
    runs = sorted(
        (_run(rows, start, settings, _SHORT) for start in starts),
        key=lambda fit: fit.log_likelihood,
        reverse=True,
    )
    kept = (_run(rows, fit.parameters, settings, _LONGER) for fit in runs[:_KEPT])
    return max(kept, key=lambda fit: fit.log_likelihood)


def _run(rows: Rows, start: Parameters, settings: Settings, steps: int) -> Fit:
    return expectation_maximization(
        rows.reader,
        start,
        tol=0.0,
        max_iter=steps,
        reg_covar=settings.reg_covar,
        fixed=settings.fixed,
    )


@dataclass(frozen=True, eq=False)
class Informant:
    """Rows whose information is asked for.

    Attributes
    ----------
    rows : ndarray of shape (n, D)
        Without NaN.
    weights : ndarray of shape (n,)
    """

    rows: Array
    weights: Array

    @classmethod
    def of(cls, sample: RowSample, n_parameters: int) -> "Informant":
        """As many rows of a sample as that many parameters need."""
        complete = np.flatnonzero(~np.isnan(sample.rows).any(axis=1))
        size = min(len(complete), max(_FEWEST_INFORMING, _ROWS_PER_PARAMETER * n_parameters))
        chosen = complete[np.arange(size) * len(complete) // max(size, 1)]
        return cls(sample.rows[chosen], sample.weights[chosen])

    def __call__(self, tangent: Tangent) -> Information | None:
        """The information of the rows; None if they are too few to tell of all parameters."""
        if len(self.rows) < tangent.free.sum():
            return None
        found = prepare(tangent.parameters, tangent.frame, "error").posterior(self.rows, True)
        return Information.estimate(tangent, self.rows, self.weights, found.responsibilities)
