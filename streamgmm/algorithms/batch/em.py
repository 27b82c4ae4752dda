"""Plain exact EM, or classification EM: one pass over all the data an iteration."""

import math
from dataclasses import dataclass, field, replace

import numpy as np

from streamgmm.algorithms.reads.reader import Reader
from streamgmm.algorithms.sampling.row_sample import RowSample
from streamgmm.core.feature_moments import FeatureMoments
from streamgmm.core.fitted_model import StopReason
from streamgmm.core.frame import Frame
from streamgmm.core.objective import Objective
from streamgmm.core.parameters import Parameters
from streamgmm.core.statistics import Statistics
from streamgmm.events import ComponentsDegenerate


@dataclass(frozen=True, eq=False)
class Fit:
    """The result of a run of EM.

    Attributes
    ----------
    parameters : Parameters
        After the last M-step.
    statistics : Statistics or None
        Those of the last pass of EM; None if there was no iteration.
    log_likelihoods : list of float
        Mean log-likelihood, nats per row, of the parameters that each iteration began with; of
        accelerated EM, of those that were accepted.
    values : list of float
        The value of the objective, nats per row, for each of the log-likelihoods.
    reason : StopReason
    degenerate : frozenset of int
        Components that lost their mass or collapsed on the way.
    n_iterations : int
        Iterations, those that were not accepted too.
    columns : FeatureMoments or None
        Moments of the columns, if rows were surveyed for them.
    evaluated : Statistics or None
        Statistics under the parameters, with soft assignment; None if no pass has evaluated them.
    remaining : float
        Gain that was predicted to remain at the end, nats per row; inf if nothing is known.
    sample : RowSample or None
        Rows from all over the data that the fit began with, if it took a sample.
    """

    parameters: Parameters
    statistics: Statistics | None = None
    log_likelihoods: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    reason: StopReason = StopReason.LIMIT
    degenerate: frozenset[int] = frozenset()
    n_iterations: int = 0
    columns: FeatureMoments | None = None
    evaluated: Statistics | None = None
    remaining: float = math.inf
    sample: RowSample | None = None

    @property
    def log_likelihood(self) -> float:
        """The last of them; -inf if there is none."""
        return self.log_likelihoods[-1] if self.log_likelihoods else -math.inf

    @property
    def value(self) -> float:
        """The last value of the objective; -inf if there is none."""
        return self.values[-1] if self.values else -math.inf

    @property
    def converged(self) -> bool:
        """Whether little or nothing is left to be gained."""
        return self.reason not in (StopReason.LOSS, StopReason.LIMIT)

    def without_statistics(self) -> "Fit":
        """Return the fit without its statistics and the inverse factors of its parameters."""
        return replace(self, parameters=replace(self.parameters), statistics=None, evaluated=None)


def expectation_maximization(
    reader: Reader,
    start: Parameters,
    *,
    tol: float,
    max_iter: int,
    objective: Objective,
    previous: float = -math.inf,
    keeps_evaluated: bool = False,
) -> Fit:
    """Run EM from given parameters until the value of the objective changes by less than ``tol``.

    The value and the log-likelihood of an iteration are those of the parameters it began with, as
    in scikit-learn. With a reader that assigns rows wholly (``reader.is_hard``) this is
    classification EM: the log-likelihood is the mean of max_k ln π_k p_k(x), and the iteration also
    ends when no row has moved to another component.

    Parameters
    ----------
    reader : Reader
    start : Parameters
    tol : float
        Nats per row.
    max_iter : int
    objective : Objective
    previous : float
        Value of the objective that the first gain is counted from, for a fit that continues.
    keeps_evaluated : bool
        Whether a fit that ends for the tolerance keeps the parameters of its last pass, without
        another M-step.

    Returns
    -------
    Fit

    References
    ----------
    Dempster, Laird & Rubin (1977), Maximum likelihood from incomplete data via the EM algorithm.
    Celeux & Govaert (1992), A classification EM algorithm for clustering and two stochastic
    versions.
    """
    # Of the start, which the caller may keep, no inverse factors are kept.
    parameters = replace(start)
    statistics: Statistics | None = None
    log_likelihoods: list[float] = []
    values: list[float] = []
    degenerate: set[int] = set()
    reason = StopReason.LIMIT
    for iteration in range(1, max_iter + 1):
        before = log_likelihoods[-1] if log_likelihoods else previous
        last = statistics
        # In one frame the same assignment gives the same sums, to the last bit.
        keeps_frame = (
            reader.is_hard
            and last is not None
            and not parameters.structure.moments_depend_on_parameters
            and last.frame.resolves(parameters)
        )
        statistics = reader.statistics(
            "iteration",
            parameters,
            frame=last.frame if last is not None and keeps_frame else None,
            iteration=iteration,
            previous=before,
        )
        parameters = replace(parameters)
        value = objective.value(statistics, parameters)
        if keeps_evaluated and abs(value - previous) < tol:
            values.append(value)
            log_likelihoods.append(statistics.mean_log_likelihood)
            reason = StopReason.TOLERANCE
            break
        maximum = objective.maximize(statistics, parameters)
        if not statistics.frame.resolves(maximum.parameters):
            # Covariances far narrower than the parameters predicted: the same step, from
            # moments in coordinates that show them.
            frame = Frame.of(maximum.parameters, reader.source.dtype)
            statistics = reader.statistics(
                "refinement", parameters, frame=frame, iteration=iteration, previous=before
            )
            maximum = objective.maximize(statistics, parameters)
            value = objective.value(statistics, parameters)
        parameters = maximum.parameters
        if maximum.empty or maximum.collapsed:
            degenerate.update(maximum.empty, maximum.collapsed)
            reader.notify(
                ComponentsDegenerate(len(reader.history), maximum.empty, maximum.collapsed)
            )
        gain, previous = value - previous, value
        values.append(value)
        log_likelihoods.append(statistics.mean_log_likelihood)
        if abs(gain) < tol or (reader.is_hard and _has_same_sums(statistics, last)):
            reason = StopReason.TOLERANCE
            break
    return Fit(
        parameters,
        statistics,
        log_likelihoods,
        values,
        reason,
        frozenset(degenerate),
        len(log_likelihoods),
    )


def with_mixture_evaluated(reader: Reader, fit: Fit) -> Fit:
    """Return a fit by hard assignment with the statistics of the mixture under its parameters.

    Classification EM does not evaluate the mixture, and its last M-step has changed the parameters.
    One pass over the data does both.

    Parameters
    ----------
    reader : Reader
    fit : Fit
    """
    soft = replace(reader, is_hard=False)
    return replace(fit, evaluated=soft.statistics("criteria", fit.parameters))


def _has_same_sums(statistics: Statistics, last: Statistics | None) -> bool:
    """Return whether the sums are those of the iteration before: no row was assigned otherwise."""
    return (
        last is not None
        and statistics.frame.is_same_as(last.frame)
        and np.array_equal(statistics.moments, last.moments)
        and np.array_equal(statistics.scatter, last.scatter)
    )
