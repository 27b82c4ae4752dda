"""EM with extrapolation, for covariances of low rank.

Their moments depend on the parameters, so moments of different passes cannot be combined. What is
extrapolated are the parameters: means, loadings, and the logarithms of noise variances and weights.
The objective guards each step: a point that lowers it is not kept. The complete M-step follows, and
then EM's own step.
"""

import math
from collections import deque
from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from streamgmm.algorithms.batch.em import Fit
from streamgmm.algorithms.reads.reader import Reader, StatisticsRequest
from streamgmm.core.fitted_model import StopReason
from streamgmm.core.frame import Frame
from streamgmm.core.maximization import Maximum
from streamgmm.core.objective import Objective
from streamgmm.core.parameters import Parameters
from streamgmm.core.statistics import Statistics
from streamgmm.core.structures import Array
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
# Factor by which an extrapolation may change a weight or a noise variance beyond EM's own step.
_LARGEST_FACTOR = 10.0
# Singular values of residual differences, over the largest, that are taken for noise.
_CUTOFF = 1e-6


@dataclass(frozen=True, eq=False)
class _Best:
    """The best parameters so far, what their pass has found, and the steps from them.

    Attributes
    ----------
    parameters : Parameters
    statistics : Statistics
    value : float
    steps : list of Parameters
        Where to go if a step is a loss, EM's own step first.
    """

    parameters: Parameters
    statistics: Statistics
    value: float
    steps: list[Parameters]


def extrapolated_steps(
    reader: Reader,
    start: Parameters,
    *,
    tol: float,
    max_iter: int,
    objective: Objective,
    order: int,
    leap: "Leap | None" = None,
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
    extrapolation = _Extrapolation(0 if objective.fixed else order, objective)
    log_likelihoods: list[float] = []
    values: list[float] = []
    gains: list[float] = []
    degenerate: set[int] = set()
    parameters = start
    best: _Best | None = None
    reason, n_iterations, remaining = StopReason.LIMIT, 0, math.inf
    while n_iterations < max_iter and reason is StopReason.LIMIT:
        n_iterations += 1
        statistics, maximum = yield from _pass(
            reader, parameters, best, objective, n_iterations, remaining
        )
        gain = _gain(objective, best, parameters, statistics)
        if best is not None and not _is_ascent(gain, best):
            if not best.steps:
                # EM's own step lowers the value only by rounding, or because of the ridge: the fit
                # ends.
                reason = StopReason.TOLERANCE if -gain < tol else StopReason.LOSS
                break
            extrapolation.clear()
            parameters = best.steps.pop()
            continue
        value = objective.value(statistics, parameters)
        log_likelihoods.append(statistics.mean_log_likelihood)
        values.append(value)
        gains.append(gain)
        remaining = _remaining(gains)
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
        complete = objective.maximize(statistics, parameters, is_complete=True).parameters
        best = _Best(parameters, statistics, value, [maximum.parameters, complete])
        other, leap = leap(complete, False) if leap else None, None
        if other is None and not lost:
            other = extrapolation.extrapolated(parameters, complete)
        parameters = best.steps.pop() if other is None else other
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
) -> Generator[StatisticsRequest, Statistics, tuple[Statistics, Maximum]]:
    """Ask for the statistics under some parameters; return them with EM's own step."""

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
        return statistics, maximum
    # Means far from the origins: the same step again, about origins that are close.
    again = yield request("refinement", Frame.of(maximum.parameters, dtype))
    return statistics, objective.maximize(again, parameters)


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


class _Extrapolation:
    """Anderson extrapolation of EM over the parameters of a mixture of low rank.

    Parameters
    ----------
    order : int
        Earlier iterates that are kept; 0 for none.
    objective : Objective
        No noise variance is extrapolated below its ridge.
    """

    def __init__(self, order: int, objective: Objective) -> None:
        self._objective = objective
        self._order = order
        self._iterates: deque[tuple[Array, Array]] = deque(maxlen=order + 1)
        self._coordinates: _Coordinates | None = None

    def clear(self) -> None:
        """Forget all iterates."""
        self._iterates.clear()
        self._coordinates = None

    def extrapolated(self, parameters: Parameters, image: Parameters) -> Parameters | None:
        """Return where EM's steps point to, from parameters and the image of EM; None for EM's own.

        Parameters
        ----------
        parameters, image : Parameters
        """
        least = min(_weights(parameters).min(), _weights(image).min())
        if self._order == 0 or not least > 0.0:
            return None
        if self._coordinates is None:
            self._coordinates = _Coordinates(parameters)
        coordinates = self._coordinates
        reached = coordinates.of(image)
        residual = reached - coordinates.of(parameters)
        earlier = list(self._iterates)
        self._iterates.append((reached, residual))
        if not earlier:
            return None
        differences = np.stack([residual - other for _, other in earlier], axis=1)
        parts = np.linalg.lstsq(differences, residual, rcond=_CUTOFF)[0]
        found = reached.copy()
        for part, (other, _) in zip(parts, earlier, strict=True):
            found -= part * (reached - other)
        return coordinates.parameters(found, image, self._objective.reg_covar)


class _Coordinates:
    """The parameters of a mixture as one vector, in units in which directions compare.

    Loadings are turned towards those of the reference, because all rotations are the same mixture.

    Parameters
    ----------
    reference : Parameters
    """

    def __init__(self, reference: Parameters) -> None:
        self._loadings = reference.structure.covariances_of(reference.factors)[:, :, :-1]
        self._shape = reference.covariances.shape
        noise = reference.covariances[:, :, -1:]
        roots = np.sqrt(reference.weights)[:, np.newaxis, np.newaxis]
        self._units = roots / np.sqrt(noise)
        self._root = roots
        self._weight_roots = np.sqrt(_weights(reference))

    def of(self, parameters: Parameters) -> Array:
        """Return the vector of some parameters."""
        loadings = parameters.covariances[:, :, :-1]
        noise = parameters.covariances[:, :, -1:]
        inner = np.swapaxes(loadings / noise, 1, 2) @ self._loadings
        left, _, right = np.linalg.svd(inner)
        parts = (
            parameters.means[:, :, np.newaxis] * self._units,
            (loadings @ (left @ right)) * self._units,
            np.log(noise) * self._root,
        )
        weights = np.log(_weights(parameters)) * self._weight_roots
        return np.concatenate([np.concatenate(parts, axis=2).ravel(), weights])

    def parameters(
        self, vector: Array, image: Parameters, ridge: float | Array
    ) -> Parameters | None:
        """Return the parameters of a vector; None if they are far from those of EM's own step."""
        k, d, width = self._shape
        n_weights = len(self._weight_roots)
        parts = vector[:-n_weights].reshape(k, d, width + 1)
        noise = np.exp(parts[:, :, -1] / self._root[:, :, 0])
        weights = np.exp(vector[-n_weights:] / self._weight_roots)
        weights /= weights.sum()
        for own, other in ((noise, image.covariances[:, :, -1]), (weights, _weights(image))):
            if not np.all(np.abs(np.log(own / other)) <= math.log(_LARGEST_FACTOR)):
                return None
        covariances = np.concatenate(
            [parts[:, :, 1:-1] / self._units, np.maximum(noise, ridge)[:, :, np.newaxis]], axis=2
        )
        means = parts[:, :, 0] / self._units[:, :, 0]
        of_noise = image.noise
        if of_noise is not None:
            of_noise = of_noise.of_weight(float(weights[-1]))
        return Parameters.create(
            image.covariance_type, weights[:k], means, covariances, noise=of_noise
        )


def _weights(parameters: Parameters) -> Array:
    """Return the weights of the components and, last, of the noise if there is any."""
    if parameters.noise is None:
        return parameters.weights
    return np.append(parameters.weights, parameters.noise.weight)
