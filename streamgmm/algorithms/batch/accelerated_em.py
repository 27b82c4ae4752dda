"""Exact EM in few passes: each step goes further than EM's, and none may lower the objective.

A pass gives the log-likelihood and its gradient at the parameters it was made with. How far to go
along that gradient is asked of the information of some rows in memory (scoring); what this
leaves is extrapolated from the passes before (Anderson).
"""

import functools
import math
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace

import numpy as np

from streamgmm.algorithms.batch.anderson import Anderson
from streamgmm.algorithms.batch.em import Fit
from streamgmm.algorithms.batch.extrapolated_em import Correction, extrapolated_steps
from streamgmm.algorithms.batch.trust_region import MOST_PRODUCTS, Scoring, score
from streamgmm.algorithms.reads.reader import Reader, StatisticsRequest
from streamgmm.core.fitted_model import StopReason
from streamgmm.core.frame import Frame
from streamgmm.core.information import Information, Tangent
from streamgmm.core.maximization import Maximum, maximize
from streamgmm.core.objective import Objective
from streamgmm.core.parameters import Parameters
from streamgmm.core.statistics import Statistics
from streamgmm.core.structures import Array
from streamgmm.events import ComponentsDegenerate, StepScored

#: The steps of a fit; it asks for the statistics of each pass.
Ascent = Generator[StatisticsRequest, Statistics, Fit]

_ORDER = 8
# How far a component may move in a step, in its own standard deviations: at first, at most, and
# at least if EM's own step is not to be taken instead.
_RADIUS, _LARGEST_RADIUS, _SMALLEST_RADIUS = 0.5, 1.0, 0.02
# A step is as good as its model if it gains this part of what was predicted; bad below the other.
_GOOD, _BAD = 0.75, 0.25
# Remaining gain, nats per row, of which errors of information may hide as much again.
_SMALL_GAIN = 1e-4
# Smallest eigenvalue of a new covariance in units of the old one, and smallest part of its mass
# that a component may keep, in a step that is not EM's own.
_LEAST_COVARIANCE, _LEAST_MASS = 0.1, 0.1
# Largest ratio of the remaining gain to the predicted one.
_CAUTION = 2.0
# Largest gain of EM's own step, as a part of the tolerance, at which the fit counts as stationary.
_NEGLIGIBLE = 1e-6
# Number of passes that together gain less than the tolerance, after which the fit ends.
_PATIENCE = 5
# Part of an objective that counts as rounding.
_ROUNDING = 1e-12


@dataclass(frozen=True, eq=False)
class _Point:
    """Parameters that were read with, and what the pass said.

    Attributes
    ----------
    parameters : Parameters
    statistics : Statistics
    value : float
        Of the objective, nats per row.
    maximum : Maximum or None
        EM's own step; None where it is no longer kept, and made again if it is wanted.
    tangent : Tangent
    gradient : ndarray of shape (p,)
    step : ndarray of shape (p,)
        EM's own step in these coordinates.
    informed : callable
        Returns the information of some rows, or None, as :data:`InformedBy` for the tangent. It
        takes work the first time only.
    """

    parameters: Parameters
    statistics: Statistics
    value: float
    maximum: Maximum | None
    tangent: Tangent
    gradient: Array
    step: Array
    informed: Callable[[bool], Information | None]


@dataclass(frozen=True, eq=False)
class _Proposal:
    """Parameters to be read with next.

    Attributes
    ----------
    parameters : Parameters
    kind : {"em", "scoring", "anderson", "leap"}
    step : Scoring or None
        That it was made from.
    """

    parameters: Parameters
    kind: str
    step: Scoring | None = None


#: Returns the information of some rows about parameters, or the mean of their squared gradients if
#: that is asked for; None if they are too few.
InformedBy = Callable[[Tangent, bool], Information | None]

#: Returns parameters to continue from instead of a step; see :func:`accelerated_em`.
Leap = Callable[[Parameters, bool], Parameters | None]


def accelerated_em(
    reader: Reader,
    start: Parameters,
    *,
    tol: float,
    max_iter: int,
    objective: Objective,
    informed_by: InformedBy | None = None,
    order: int = _ORDER,
    most_products: int = MOST_PRODUCTS,
    leap: Leap | None = None,
    evaluated: Statistics | None = None,
    corrected: Correction | None = None,
) -> Fit:
    """Run accelerated EM until the predicted remaining gain is below ``tol``.

    The parameters that are returned are the best that were read with, and the last log-likelihood
    is theirs.

    Parameters
    ----------
    reader : Reader
    start : Parameters
    tol : float
        Nats per row.
    max_iter : int
        Bound on passes.
    objective : Objective
    informed_by : callable, optional
        An :data:`InformedBy`. Without it Anderson extrapolation has to do alone.
    order : int
        Reads before that are extrapolated from.
    most_products : int
        Work on these rows that a pass is worth, in passes over them.
    leap : callable, optional
        Given the first step, and whether the fit would end before it, it returns parameters for the
        next pass instead of that step, or None. They are not kept if they are a loss.
    evaluated : Statistics, optional
        Statistics of all rows under the start, if a pass has collected them already.
    corrected : callable, optional
        For covariances of low rank; see :func:`extrapolated_steps`.

    Returns
    -------
    Fit

    References
    ----------
    Le Cam (1956): one step of scoring with all data, from an estimate that is good to the order of
    1/√N, is as good as the maximum likelihood estimate. van der Vaart, Asymptotic Statistics
    (1998), section 5.7.
    """
    steps = ascent_of(
        reader,
        start,
        tol=tol,
        max_iter=max_iter,
        objective=objective,
        informed_by=informed_by,
        order=order,
        most_products=most_products,
        leap=leap,
        corrected=corrected,
    )
    try:
        request = next(steps)
        if evaluated is not None:
            request = steps.send(evaluated)
        while True:
            statistics = [reader.answered(request)]
            # The request holds what the pass before has found.
            del request
            request = steps.send(statistics.pop())
    except StopIteration as end:
        fit: Fit = end.value
        return fit


def ascent_of(
    reader: Reader,
    start: Parameters,
    *,
    tol: float,
    max_iter: int,
    objective: Objective,
    informed_by: InformedBy | None = None,
    order: int = _ORDER,
    most_products: int = MOST_PRODUCTS,
    leap: Leap | None = None,
    corrected: Correction | None = None,
) -> Ascent:
    """Make the steps of :func:`accelerated_em`, and leave the passes over the data to the caller.

    Parameters are those of :func:`accelerated_em`; the reader is not read. The generator yields a
    request for each pass, and expects the statistics that answer it. So several fits can share each
    pass.

    Returns
    -------
    generator of StatisticsRequest
        It returns the Fit.
    """
    if start.structure.moments_depend_on_parameters:
        fit = yield from extrapolated_steps(
            reader,
            start,
            tol=tol,
            max_iter=max_iter,
            objective=objective,
            order=order,
            leap=leap,
            corrected=corrected,
        )
        return fit
    ascent = _Ascent(reader, start, tol, objective, informed_by, order, most_products)
    log_likelihoods: list[float] = []
    values: list[float] = []
    gains: list[float] = []
    degenerate: set[int] = set()
    proposal = _Proposal(start, "em")
    best: _Point | None = None
    reason = StopReason.LIMIT
    n_iterations = 0
    while n_iterations < max_iter and reason is StopReason.LIMIT:
        n_iterations += 1
        point = yield from ascent.read(proposal.parameters, best, n_iterations)
        gain = ascent.gain(best, point.parameters, point.statistics)
        if best is not None and not _is_ascent(gain, best):
            if proposal.kind == "em":
                # EM's own step lowers the value only by rounding, or because of the ridge: the fit
                # ends.
                reason = StopReason.TOLERANCE if -gain < tol else StopReason.LOSS
                break
            proposal = ascent.retreat(best, proposal)
            gains.append(0.0)
            if _has_stalled(gains, tol):
                reason = StopReason.STALLED
            del point
            continue
        ascent.learn(proposal, gain)
        best = None
        log_likelihoods.append(point.statistics.mean_log_likelihood)
        values.append(point.value)
        maximum = ascent.maximum(point)
        lost = {*maximum.empty, *maximum.collapsed}
        if lost:
            degenerate |= lost
            proposal = ascent.restart(maximum)
            if gain < tol:
                reason = StopReason.TOLERANCE
        else:
            next_gain = 0.5 * float(point.gradient @ point.step)
            if next_gain < _NEGLIGIBLE * tol:
                ascent.remaining = max(next_gain, 0.0)
                reason = StopReason.STATIONARY
            else:
                proposal, ascent.remaining = ascent.advance(point, gain)
                if _CAUTION * ascent.remaining < tol:
                    reason = StopReason.TOLERANCE
            other = leap(proposal.parameters, reason is not StopReason.LIMIT) if leap else None
            leap = None
            if other is not None:
                proposal, reason = ascent.leap(other), StopReason.LIMIT
        best = replace(point, maximum=None)
        del point, maximum
        gains.append(gain)
        if reason is StopReason.LIMIT and _has_stalled(gains, tol):
            reason = StopReason.STALLED
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
        remaining=ascent.remaining,
    )


def _is_ascent(gain: float, best: _Point) -> bool:
    """Return whether a step from a point has not lost more than rounding."""
    return gain >= -_ROUNDING * max(1.0, abs(best.value))


def _has_stalled(gains: list[float], tol: float) -> bool:
    """Return whether the last passes together have gained less than the tolerance.

    Along a curved valley what is predicted may stay large for ever.
    """
    return len(gains) > _PATIENCE and sum(gains[-_PATIENCE:]) < tol


class _Ascent:
    """State that is kept between passes: the frame, the trust region, the iterates.

    Parameters are those of :func:`accelerated_em`.
    """

    def __init__(
        self,
        reader: Reader,
        start: Parameters,
        tol: float,
        objective: Objective,
        informed_by: InformedBy | None,
        order: int,
        most_products: int,
    ) -> None:
        self._reader, self._tol, self._objective = reader, tol, objective
        self._informed_by, self._most_products = informed_by, most_products
        self._anderson = Anderson(order)
        self._radius = _RADIUS
        self._origin: Tangent | None = None
        #: Gain that is predicted to remain, nats per row.
        self.remaining = math.inf
        self._frame: Frame
        self._rebase(start)

    def read(
        self, parameters: Parameters, best: _Point | None, iteration: int
    ) -> Generator[StatisticsRequest, Statistics, _Point]:
        """Read with parameters."""
        if not self._frame.resolves(parameters):
            self._rebase(parameters)
        statistics, maximum = yield from self._read("iteration", parameters, best, iteration)
        if not self._frame.resolves(maximum.parameters):
            # Covariances are far narrower than predicted: repeat the pass in coordinates that show
            # them.
            self._rebase(maximum.parameters)
            statistics, maximum = yield from self._read("refinement", parameters, best, iteration)
        objective = self._objective
        tangent = Tangent(parameters, self._frame, objective.fixed)
        gradient = objective.gradient(tangent, statistics)

        @functools.cache
        def informed(is_squared: bool) -> Information | None:
            found = self._informed_by(tangent, is_squared) if self._informed_by else None
            return None if found is None else objective.informed(found, statistics)

        return _Point(
            parameters,
            statistics,
            objective.value(statistics, parameters),
            maximum,
            tangent,
            gradient,
            objective.step(tangent, statistics, gradient),
            informed,
        )

    def gain(self, best: _Point | None, parameters: Parameters, statistics: Statistics) -> float:
        """Return the gain of a step, in nats per row; inf for the first."""
        if best is None:
            return math.inf
        return self._objective.gain(best.statistics, best.parameters, statistics, parameters)

    def advance(self, point: _Point, gain: float) -> tuple[_Proposal, float]:
        """Return where to read next, and what remains to be gained, nats per row.

        Parameters
        ----------
        point : _Point
        gain : float
            Of the last step.
        """
        proposal, step, image = self._by_scoring(point)
        if self._origin is None:
            self._origin = point.tangent
        still = point.tangent.moved(np.zeros_like(step.step), point.statistics)
        residual = self._origin.gradient(image) - self._origin.gradient(still)
        is_first = len(self._anderson) == 0
        extrapolated = self._anderson.extrapolate(image, residual)
        if is_first:
            return proposal, step.remaining
        ascent = float(point.gradient @ point.tangent.gradient(extrapolated))
        parameters = _admissible(point, extrapolated) if ascent > 0.0 else None
        if parameters is None:
            self._anderson.clear()
            return proposal, step.remaining
        remaining = step.remaining
        if point.informed(False) is None:
            # The passes before show only some directions; along others as much again may remain.
            remaining = max(0.5 * ascent, gain)
        return _Proposal(parameters, "anderson", step), remaining

    def leap(self, parameters: Parameters) -> _Proposal:
        """Continue from other parameters, which are no step from the present ones."""
        self._anderson.clear()
        return _Proposal(parameters, "leap")

    def retreat(self, best: _Point, rejected: _Proposal) -> _Proposal:
        """Return where to read next after a step from the best point has been rejected."""
        self._anderson.clear()
        if rejected.kind == "scoring" and rejected.step is not None:
            self._radius = 0.25 * min(self._radius, best.tangent.size(rejected.step.step))
        return self._by_scoring(best)[0]

    def _by_scoring(self, point: _Point) -> tuple[_Proposal, Scoring, Statistics]:
        """Return the step of scoring, or that of EM where there is no information of use.

        Also what it was made from: the move, and the statistics that it leads to.
        Far from an optimum EM, which needs no trust region, goes further.
        """
        least = max(_SMALLEST_RADIUS, point.tangent.size(point.step))
        while self._radius >= least:
            step = self._scored(point)
            if step is None:
                break
            image = point.tangent.moved(step.step, point.statistics)
            parameters = _admissible(point, image)
            if parameters is not None:
                return _Proposal(parameters, "scoring", step), step, image
            self._radius = 0.5 * min(self._radius, point.tangent.size(step.step))
        self._radius = _RADIUS
        step = Scoring(point.step)
        image = point.tangent.moved(step.step, point.statistics)
        return _Proposal(self.maximum(point).parameters, "em"), step, image

    def _scored(self, point: _Point) -> Scoring | None:
        """Return the step that information asks for; None if there is none.

        Where little seems to remain, errors of information may hide as much along directions of
        hardly any. Squared gradients are asked too: if the step ends at such a direction, they
        replace it, and else the step is that for which more remains.
        """
        step = self._score(point, False)
        if step is None or step.remaining >= max(self._tol / _CAUTION, _SMALL_GAIN):
            return step
        other = self._score(point, True)
        if other is not None and (step.is_flat or other.remaining > step.remaining):
            return other
        return step

    def _score(self, point: _Point, is_squared: bool) -> Scoring | None:
        information = point.informed(is_squared)
        if information is None:
            return None
        step = score(information, point.gradient, self._radius, self._tol, self._most_products)
        n_visits = step.n_products * len(information.weights)
        self._reader.notify(StepScored(n_visits, step.remaining))
        return step

    def maximum(self, point: _Point) -> Maximum:
        """Return EM's own step from a point."""
        return point.maximum or self._maximized(point.statistics, point.parameters)

    def restart(self, lost: Maximum) -> _Proposal:
        """Return EM's own step, after components have lost their mass or collapsed."""
        self._reader.notify(
            ComponentsDegenerate(len(self._reader.history), lost.empty, lost.collapsed)
        )
        self._anderson.clear()
        return _Proposal(lost.parameters, "em")

    def learn(self, proposal: _Proposal, gain: float) -> None:
        """Widen or narrow the trust region by what a step has gained."""
        if proposal.kind != "scoring" or proposal.step is None:
            return
        part = gain / proposal.step.predicted if proposal.step.predicted > 0.0 else 0.0
        if part < _BAD:
            self._radius *= 0.5
        elif part > _GOOD and proposal.step.is_cut:
            self._radius = min(2.0 * self._radius, _LARGEST_RADIUS)

    def _read(
        self, purpose: str, parameters: Parameters, best: _Point | None, iteration: int
    ) -> Generator[StatisticsRequest, Statistics, tuple[Statistics, Maximum]]:
        statistics = yield StatisticsRequest(
            purpose,
            parameters,
            self._frame,
            iteration,
            math.nan if best is None else best.statistics.mean_log_likelihood,
            lambda found: best is None or _is_ascent(self.gain(best, parameters, found), best),
            self.remaining,
        )
        # Of a pass that is recalled from a journal it may differ by rounding.
        self._frame = statistics.frame
        return statistics, self._maximized(statistics, parameters)

    def _maximized(self, statistics: Statistics, parameters: Parameters) -> Maximum:
        return self._objective.maximize(statistics, parameters)

    def _rebase(self, parameters: Parameters) -> None:
        self._frame = Frame.of(parameters, self._reader.source.dtype)
        self._origin = None
        self._anderson.clear()


def _admissible(point: _Point, statistics: Statistics) -> Parameters | None:
    """Return parameters of extrapolated statistics, if they are those of a mixture not far away.

    Every component, and the noise, keeps some of its mass. Components keep some of their width in
    every direction.
    """
    old = point.parameters
    alive = old.weights > 0.0
    least = _LEAST_MASS * old.weights[alive] * statistics.weight
    if not np.all(statistics.counts[alive] >= least):
        return None
    if old.noise is not None:
        n_noise = statistics.weight - statistics.counts.sum()
        if n_noise < _LEAST_MASS * old.noise.weight * statistics.weight:
            return None
    maximum = maximize(statistics, old, fixed=point.tangent.fixed)
    if maximum.empty or maximum.collapsed:
        return None
    new = maximum.parameters
    widths = old.structure.singular_values(
        old.stacked(old.inverse_factors), new.stacked(new.factors)
    )
    return new if np.all(np.square(widths) >= _LEAST_COVARIANCE) else None
