"""The work in memory: from a sample of rows to parameters near the optimum of all of them.

Many short runs of EM on few rows, the best of them continued on more; moves out of poor optima; and
then convergence on the whole sample, where iterations cost next to nothing beside a read.
"""

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np

from streamgmm.algorithms.acceleration import accelerated_em
from streamgmm.algorithms.em import Fit, expectation_maximization
from streamgmm.algorithms.initialization import Start, initialize
from streamgmm.algorithms.moves import Rows, move_components
from streamgmm.algorithms.reading import Reader, prepare
from streamgmm.algorithms.row_sample import RowSample
from streamgmm.core.covariance import Array, CovarianceType
from streamgmm.core.information import Information, Tangent
from streamgmm.core.parameters import ParameterName, Parameters
from streamgmm.protocols import Listener, SampleStage

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


@dataclass(frozen=True, eq=False)
class Search:
    """A search for the optimum of a sample.

    Attributes
    ----------
    open_rows : callable
        Gives a reader of rows in memory (m, D) and their weights (m,).
    settings : Settings
    known : Start
        Parameters that are known beforehand.
    informant : Informant
    random : numpy.random.RandomState
    listener : callable
        Told of each stage.
    """

    open_rows: Callable[[Array, Array], Reader]
    settings: Settings
    known: Start
    informant: Informant
    random: np.random.RandomState
    listener: Listener

    def run(self, sample: RowSample, tol: float) -> Parameters:
        """Parameters near the optimum.

        Parameters
        ----------
        sample : RowSample
        tol : float
            What may remain to be gained on the sample, nats a row.

        Raises
        ------
        DataError
            If the sample has fewer rows than there are components, or no value of a feature.
        """
        settings = self.settings
        few = max(_FEWEST_ROWS, _ROWS_PER_VALUE * settings.n_components * sample.rows.shape[1])
        parameters = self._stage("starts", self._part(sample, few), self._best_start).parameters
        if not settings.fixed and settings.n_components > 1:
            more = self._part(sample, _MORE * few)
            parameters = self._stage(
                "moves", more, lambda rows: self._moved(rows, parameters)
            ).parameters
        everything = Rows(self.open_rows(sample.rows, sample.weights), sample.rows, sample.weights)
        return self._stage(
            "EM", everything, lambda rows: self._converged(rows, parameters, tol)
        ).parameters

    def _part(self, sample: RowSample, size: int) -> Rows:
        """Rows from all over the sample."""
        size = min(size, len(sample))
        chosen = np.arange(size) * len(sample) // max(size, 1)
        rows = sample.rows[chosen].astype(np.float64, copy=False)
        weights = sample.weights[chosen]
        return Rows(self.open_rows(rows, weights), rows, weights)

    def _stage(self, name: str, rows: Rows, work: Callable[[Rows], Fit]) -> Fit:
        """Do some work and tell of it."""
        start = time.perf_counter()
        fit = work(rows)
        visits = sum(read.n_rows for read in rows.reader.history) + fit.n_scored_rows
        seconds = time.perf_counter() - start
        self.listener(SampleStage(name, len(rows.rows), visits, fit.log_likelihood, seconds))
        return fit

    def _best_start(self, rows: Rows) -> Fit:
        """The best of many short runs, of which the better ones are continued."""
        starts = (self._start(rows) for _ in range(_RUNS * self.settings.n_init))
        runs = sorted(
            (self._em(rows, start, _SHORT) for start in starts),
            key=lambda fit: fit.log_likelihood,
            reverse=True,
        )
        kept = (self._em(rows, fit.parameters, _LONGER) for fit in runs[:_KEPT])
        return max(kept, key=lambda fit: fit.log_likelihood)

    def _start(self, rows: Rows) -> Parameters:
        settings = self.settings
        return initialize(
            rows.rows,
            rows.weights,
            settings.n_components,
            settings.covariance_type,
            settings.init_params,
            settings.reg_covar,
            self.known,
            self.random,
        )

    def _moved(self, rows: Rows, parameters: Parameters) -> Fit:
        fit = self._em(rows, parameters, _LONGER)
        return move_components(rows, fit, reg_covar=self.settings.reg_covar, random=self.random)

    def _converged(self, rows: Rows, parameters: Parameters, tol: float) -> Fit:
        settings = self.settings
        return accelerated_em(
            rows.reader,
            parameters,
            tol=tol,
            max_iter=_MOST_ITERATIONS,
            reg_covar=settings.reg_covar,
            fixed=settings.fixed,
            informed_by=self.informant,
        )

    def _em(self, rows: Rows, start: Parameters, steps: int) -> Fit:
        return expectation_maximization(
            rows.reader,
            start,
            tol=0.0,
            max_iter=steps,
            reg_covar=self.settings.reg_covar,
            fixed=self.settings.fixed,
        )
