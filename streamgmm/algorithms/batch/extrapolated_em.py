"""EM with extrapolation, for covariances of low rank.

Their moments depend on the parameters, so moments of different passes cannot be combined. What is
extrapolated are the parameters: means, loadings, and the logarithms of noise variances and weights.
The objective guards each step: a point that lowers it is not kept. The complete M-step follows, and
then EM's own step.
"""

import math
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from streamgmm.algorithms.batch.em import Fit
from streamgmm.algorithms.batch.parameter_extrapolation import Extrapolation
from streamgmm.algorithms.reads.reader import Reader, StatisticsRequest
from streamgmm.core.fitted_model import StopReason
from streamgmm.core.frame import Frame
from streamgmm.core.objective import Objective
from streamgmm.core.parameters import Parameters
from streamgmm.core.statistics import Statistics
from streamgmm.events import ComponentsDegenerate

if TYPE_CHECKING:
    from streamgmm.algorithms.batch.accelerated_em import Ascent, Leap

# Part of an objective that counts as rounding.
_ROUNDING = 1e-12
# Number of passes that together gain less than the tolerance, after which the fit ends.
_PATIENCE = 5
# Largest ratio of successive gains that is believed, and the multiple of what is predicted that may
# remain.
_LARGEST_RATIO, _CAUTION = 0.95, 2.0


#: Function that returns parameters to go to, from parameters and the image of EM's own step.
Correction = Callable[[Parameters, Parameters], Parameters | None]


@dataclass(frozen=True, eq=False)
class _Best:
    """The best parameters so far, what their pass has found, and the steps from them.

    Steps are computed where they are asked for, because a mixture can be large.

    Attributes
    ----------
    parameters : Parameters
    statistics : Statistics
    value : float
    steps : list of callables
        Return where to go if a step is a loss. The last one is the next, EM's own step the first.
    """

    parameters: Parameters
    statistics: Statistics
    value: float
    steps: list[Callable[[], Parameters]]


def extrapolated_steps(
    reader: Reader,
    start: Parameters,
    *,
    tol: float,
    max_iter: int,
    objective: Objective,
    order: int,
    leap: "Leap | None" = None,
    corrected: Correction | None = None,
) -> "Ascent":
    """Make the steps of EM with extrapolation, and leave the passes over the data to the caller.

    Parameters
    ----------
    reader : Reader
        It is not read.
    start : Parameters
    tol : float
        Gain that may remain, nats per row, as the gains of the last passes predict it.
    max_iter : int
        Bound on passes.
    objective : Objective
    order : int
        Earlier passes that are extrapolated from.
    leap : callable, optional
        Given EM's own step from the start, and whether the fit continues, it returns parameters to
        try instead, or None. They are not kept if they lower the value.
    corrected : callable, optional
        Given parameters, and those after EM's own step, it returns parameters to go to, or None.
        They are not kept if they lower the value; the pass after that does without.

    Returns
    -------
    generator of StatisticsRequest
        It expects the statistics of each request, and returns the Fit.

    References
    ----------
    Walker & Ni (2011), Anderson acceleration for fixed-point iterations.
    Henderson & Varadhan (2019), Damped Anderson acceleration with restarts and monotonicity
    control for accelerating EM and EM-like algorithms.
    """
    extrapolation = Extrapolation(0 if objective.fixed else order, objective)
    log_likelihoods: list[float] = []
    values: list[float] = []
    gains: list[float] = []
    degenerate: set[int] = set()
    parameters = start
    best: _Best | None = None
    reason, n_iterations, remaining = StopReason.LIMIT, 0, math.inf
    has_lost = is_corrected = False
    while n_iterations < max_iter:
        n_iterations += 1
        statistics, informing = yield from _pass(
            reader, parameters, best, objective, n_iterations, remaining
        )
        gain = _gain(objective, best, parameters, statistics)
        if best is not None and not _is_ascent(gain, best):
            if not best.steps:
                # EM's own step lowers the value only by rounding, or because of the ridge: the fit
                # ends.
                reason = StopReason.TOLERANCE if -gain < tol else StopReason.LOSS
                break
            del statistics, informing
            extrapolation.clear()
            has_lost = True
            parameters = best.steps.pop()()
            continue
        value = objective.value(statistics, parameters)
        log_likelihoods.append(statistics.mean_log_likelihood)
        values.append(value)
        gains.append(gain)
        remaining = _remaining(gains)
        maximum = objective.maximize(informing, parameters)
        lost = {*maximum.empty, *maximum.collapsed}
        if lost:
            degenerate |= lost
            number = len(reader.history)
            reader.notify(ComponentsDegenerate(number, maximum.empty, maximum.collapsed))
            extrapolation.clear()
        if _CAUTION * remaining < tol:
            reason = StopReason.TOLERANCE
        elif len(gains) > _PATIENCE and sum(gains[-_PATIENCE:]) < tol:
            reason = StopReason.STALLED
        # Without inverse factors, which would be in memory during the next pass.
        parameters = replace(parameters)
        steps = _steps(objective, parameters, statistics, informing)
        best = _Best(parameters, statistics, value, steps)
        if reason is not StopReason.LIMIT:
            break
        complete = best.steps[-1]()
        other, leap = leap(complete, False) if leap else None, None
        image: Parameters | None = None
        if other is None and not lost:
            if corrected and not has_lost:
                image = corrected(parameters, maximum.parameters)
            if (image is None) == is_corrected:
                # Images of two maps cannot be combined.
                extrapolation.clear()
                is_corrected = image is not None
            other = extrapolation.extrapolated(parameters, image or complete) or image
        if other is None:
            best.steps.pop()
        parameters, has_lost = complete if other is None else other, False
        del statistics, informing, maximum, complete, other, image
    if best is None:
        return Fit(start)
    return Fit(
        best.parameters,
        best.statistics,
        log_likelihoods,
        values,
        reason,
        frozenset(degenerate),
        n_iterations,
        evaluated=best.statistics,
        remaining=remaining,
    )


def _pass(
    reader: Reader,
    parameters: Parameters,
    best: _Best | None,
    objective: Objective,
    iteration: int,
    remaining: float,
) -> Generator[StatisticsRequest, Statistics, tuple[Statistics, Statistics]]:
    """Ask for the statistics under some parameters; return them, and those of EM's own step."""

    def request(purpose: str, frame: Frame) -> StatisticsRequest:
        return StatisticsRequest(
            purpose,
            parameters,
            frame,
            iteration,
            math.nan if best is None else best.statistics.mean_log_likelihood,
            lambda found: (
                best is None or _is_ascent(_gain(objective, best, parameters, found), best)
            ),
            remaining,
        )

    dtype = reader.source.dtype
    known = None if best is None else best.statistics
    frame = Frame.of(parameters, dtype).with_directions(parameters, known)
    statistics = yield request("iteration", frame)
    maximum = objective.maximize(statistics, parameters)
    if statistics.frame.resolves(maximum.parameters):
        return statistics, statistics
    # Means far from the origins: the same step again, about origins that are close.
    again = yield request("refinement", Frame.of(maximum.parameters, dtype))
    return statistics, again


def _steps(
    objective: Objective, parameters: Parameters, statistics: Statistics, own: Statistics
) -> list[Callable[[], Parameters]]:
    """Return functions that make EM's own step, from its statistics, and the complete one."""
    return [
        lambda: objective.maximize(own, parameters).parameters,
        lambda: objective.maximize(statistics, parameters, is_complete=True).parameters,
    ]


def _gain(
    objective: Objective, best: _Best | None, parameters: Parameters, statistics: Statistics
) -> float:
    """Return the gain over the best parameters, in nats per row; inf for the first ones."""
    if best is None:
        return math.inf
    return objective.gain(best.statistics, best.parameters, statistics, parameters)


def _is_ascent(gain: float, best: _Best) -> bool:
    """Return whether a step has not lost more than rounding."""
    return gain >= -_ROUNDING * max(1.0, abs(best.value))


def _remaining(gains: list[float]) -> float:
    """Return the gain that is predicted to remain if gains fall at the rate of the last ones."""
    if len(gains) < 3:
        return math.inf
    if gains[-2] <= 0.0:
        # Two steps in succession: the first one was rounding.
        return max(gains[-1], 0.0)
    ratio = min(max(gains[-1], 0.0) / gains[-2], _LARGEST_RATIO)
    return max(gains[-1], 0.0) * max(1.0, ratio / (1.0 - ratio))
