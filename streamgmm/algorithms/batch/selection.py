"""Fit several mixtures at once: one sample, and passes over the data that all of them share.

Every candidate is fitted to the sample first. The sample forecasts the criterion of each candidate
on all rows, with an error; candidates that cannot win make no pass. Those that remain are fitted to
all rows together: each pass reads every chunk once and sums the statistics of every candidate.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from streamgmm.algorithms.batch.accelerated_em import Ascent, ascent_of
from streamgmm.algorithms.batch.auto import informant_for, sample_tolerance
from streamgmm.algorithms.batch.em import Fit
from streamgmm.algorithms.batch.sample_fit import Informant, Search, Settings, improve
from streamgmm.algorithms.reads.memory import EFFORTS, Effort
from streamgmm.algorithms.reads.reader import Reader, StatisticsRequest, prepare
from streamgmm.algorithms.sampling.initialization import Start
from streamgmm.algorithms.sampling.row_sample import RowSample, expected_shortfall
from streamgmm.algorithms.sampling.survey import Survey
from streamgmm.core.criteria import Criteria
from streamgmm.core.frame import Frame
from streamgmm.core.mixtures.splitting import split_component
from streamgmm.core.parameters import Parameters
from streamgmm.core.statistics import Statistics
from streamgmm.core.structures import Array
from streamgmm.events import Listener
from streamgmm.options import Criterion

Status = Literal["complete", "stopped", "pruned"]
#: Gives a reader of rows in memory (m, D) and their weights (m,), with a listener.
OpenRows = Callable[[Array, Array, Listener], Reader]

# A candidate is out of the running if its forecast is worse by so many standard errors.
_ERRORS = 3.0
# What remains to be gained may be so many times what is predicted.
_CAUTION = 3.0
# A larger mixture may be worse by so many nats per row before it is fitted again.
_ALIKE = 1e-7
# Distance of halves of a component, in standard deviations, that hardly changes the log-likelihood.
_CLOSE = 0.02


@dataclass(frozen=True, eq=False)
class SampleFit:
    """A candidate that was fitted to the sample.

    Attributes
    ----------
    settings : Settings
    parameters : Parameters
    scores : ndarray of shape (m,)
        ln p(x) of each row of the sample.
    criteria : Criteria
        Forecast for all rows.
    smallest : float
        Rows of the smallest component.
    """

    settings: Settings
    parameters: Parameters
    scores: Array
    criteria: Criteria
    smallest: float


@dataclass(frozen=True, eq=False)
class Outcome:
    """What is known of a candidate in the end.

    Attributes
    ----------
    settings : Settings
    fit : Fit
        Its statistics are of all rows, None for a pruned candidate.
    criteria : Criteria
        Exact for the parameters of the fit; a forecast for a pruned candidate.
    std_error : float
        Standard error of the log-likelihood: 0 where it is exact.
    remaining : float
        Gain of the log-likelihood that is predicted to remain, in nats.
    smallest : float
        Rows of the smallest component.
    status : {"complete", "stopped", "pruned"}
    """

    settings: Settings
    fit: Fit
    criteria: Criteria
    std_error: float
    remaining: float
    smallest: float
    status: Status


@dataclass(eq=False)
class _Run:
    """A candidate that is being fitted to all rows."""

    sampled: SampleFit
    steps: Ascent
    request: StatisticsRequest | None
    best: Parameters | None = None
    statistics: Statistics | None = None
    value: float = -np.inf
    remaining: float = np.inf
    fit: Fit | None = None

    @property
    def criteria(self) -> Criteria:
        """Criteria of the best parameters so far."""
        assert self.statistics is not None
        assert self.best is not None
        return Criteria.of(self.statistics, self.best, self.sampled.settings.objective.fixed)

    def receive(self, statistics: Statistics) -> None:
        """Take the answer to the request, and ask for the next pass unless the fit has ended."""
        assert self.request is not None
        parameters = self.request.parameters
        value = self.sampled.settings.objective.value(statistics, parameters)
        if value > self.value:
            self.best, self.statistics, self.value = parameters, statistics, value
        try:
            self.request = self.steps.send(statistics)
            self.remaining = self.request.remaining
        except StopIteration as end:
            self.request, self.fit = None, end.value
            self.remaining = end.value.remaining


@dataclass(frozen=True, eq=False)
class Selection:
    """A search among mixtures of several sizes and structures.

    Attributes
    ----------
    reader : Reader
        Of all rows.
    open_rows : callable
    survey : Survey
    criterion : {"bic", "aic", "icl"}
    tol : float
        Gain that may remain, nats per row. Where what one parameter costs in BIC is less, that may.
    max_iter : int
        Bound on the passes of each candidate.
    seed : int
        Of the starts; the same for each candidate.
    effort : Effort
    """

    reader: Reader
    open_rows: OpenRows
    survey: Survey
    criterion: Criterion
    tol: float
    max_iter: int
    seed: int
    effort: Effort = field(default=EFFORTS[0])

    def run(self, candidates: Sequence[Settings]) -> list[Outcome]:
        """Fit the candidates, as far as they may win.

        Parameters
        ----------
        candidates : sequence of Settings
            Those of one structure by rising number of components.

        Returns
        -------
        list of Outcome
            In the order of the candidates.
        """
        sampled: list[SampleFit] = []
        for settings in candidates:
            smaller = [one for one in sampled if _is_smaller(one.settings, settings)]
            sampled.append(self._sampled(settings, smaller))
        remaining = self._unpruned(sampled)
        runs = {i: self._begun(sampled[i], sampled[i].parameters) for i in remaining}
        self._complete(runs.values())
        for i, run in runs.items():
            smaller_runs = [
                runs[j] for j in remaining if _is_smaller(sampled[j].settings, candidates[i])
            ]
            runs[i] = self._no_worse(run, smaller_runs)
        best = min(runs.values(), key=lambda run: self._value(run.criteria))
        return [
            _outcome_of(runs[i]) if i in runs else self._pruned(one, best)
            for i, one in enumerate(sampled)
        ]

    def _sampled(self, settings: Settings, smaller: Sequence[SampleFit]) -> SampleFit:
        """Fit a candidate to the sample; no worse than a smaller mixture of the structure."""
        sample = self.survey.sample
        tol = self._sample_tol(settings)
        informant = self._informant(settings)
        random = np.random.RandomState(self.seed)
        search = Search(
            self.open_rows, settings, Start(), informant, random, self.reader, self.effort
        )
        found = self._described(settings, search.run(sample, tol))
        if smaller and _mean(found, sample) < _mean(smaller[-1], sample) - _ALIKE:
            rows = self.open_rows(sample.rows, sample.weights, _ignore)
            starts = _grown(smaller[-1].parameters, settings.n_components)
            fits = [improve(rows, start, settings, informant, tol, self.effort) for start in starts]
            best = max(fits, key=lambda fit: fit.value)
            other = self._described(settings, best.parameters)
            found = max(found, other, key=lambda one: _mean(one, sample))
        return found

    def _described(self, settings: Settings, parameters: Parameters) -> SampleFit:
        """Forecast the criteria of parameters that were fitted to the sample."""
        sample, source = self.survey.sample, self.reader.source
        frame = Frame.of(parameters, sample.rows.dtype)
        prepared = prepare(parameters, frame, source.missing)
        found = prepared.statistics(sample.rows, sample.weights)
        scores = prepared.posterior(sample.rows).scores
        own = Criteria.of(found, parameters, settings.objective.fixed)
        # The maximum on m rows exceeds that on all N rows by p/2 (1/m - 1/N) per row.
        shortfall = expected_shortfall(source.n_rows, len(sample), own.n_parameters)
        loss = shortfall * found.weight
        forecast = replace(own, log_likelihood=own.log_likelihood - loss)
        return SampleFit(settings, parameters, scores, forecast, float(found.counts.min()))

    def _unpruned(self, sampled: Sequence[SampleFit]) -> list[int]:
        """Return the candidates that may have the best criterion on all rows."""
        values = [self._value(one.criteria) for one in sampled]
        leader = int(np.argmin(values))
        return [
            i
            for i, value in enumerate(values)
            if value - values[leader] <= 2.0 * _ERRORS * self._error(sampled[i], sampled[leader])
            or len(self.survey.sample) >= self.reader.source.n_rows
        ]

    def _error(self, one: SampleFit, other: SampleFit) -> float:
        """Return the standard error of the difference of two forecast log-likelihoods."""
        sample = self.survey.sample
        if len(sample) >= self.reader.source.n_rows:
            return 0.0
        values = one.scores - other.scores
        usable = np.isfinite(values)
        weights, values = sample.weights[usable], values[usable]
        mean = np.average(values, weights=weights)
        return float(np.sqrt(np.square(weights * (values - mean)).sum()))

    def _begun(self, sampled: SampleFit, start: Parameters) -> _Run:
        settings = sampled.settings
        steps = ascent_of(
            self.reader,
            start,
            tol=self._tol,
            max_iter=self.max_iter,
            objective=settings.objective,
            informed_by=self._informant(settings),
            order=self.effort.order,
        )
        return _Run(sampled, steps, next(steps))

    def _complete(self, runs: Iterable[_Run]) -> None:
        """Make passes for all runs together, until each has ended or cannot win."""
        runs = list(runs)
        while True:
            self._stop_losers(runs)
            active = [(run, run.request) for run in runs if run.request is not None]
            if not active:
                return
            found = self.reader.answered_together([request for _, request in active])
            for (run, _), statistics in zip(active, found, strict=True):
                run.receive(statistics)

    def _stop_losers(self, runs: Sequence[_Run]) -> None:
        """End the runs whose best possible criterion is worse than the best that is known."""
        evaluated = [run for run in runs if run.statistics is not None]
        if not evaluated:
            return
        best = min(self._value(run.criteria) for run in evaluated)
        for run in evaluated:
            if run.request is None:
                continue
            gain = _CAUTION * run.remaining * run.criteria.n_rows
            if self._value(run.criteria) - 2.0 * gain > best:
                run.steps.close()
                run.request = None

    def _no_worse(self, run: _Run, smaller: Sequence[_Run]) -> _Run:
        """Fit again from a smaller mixture, if that is better than what was found."""
        better = [one for one in smaller if one.fit is not None and one.value > run.value + _ALIKE]
        if not better or run.fit is None:
            return run
        best = max(better, key=lambda one: one.value)
        assert best.best is not None
        start = best.best
        while start.n_components < run.sampled.settings.n_components:
            start = split_component(start, int(np.argmax(start.weights)), _CLOSE)
        again = self._begun(run.sampled, start)
        self._complete([again])
        return max(run, again, key=lambda one: one.value)

    def _value(self, criteria: Criteria) -> float:
        return float(getattr(criteria, self.criterion))

    def _pruned(self, one: SampleFit, best: _Run) -> Outcome:
        """Return the forecast of a candidate, by its difference from the best on the sample."""
        wrong = best.criteria.log_likelihood - best.sampled.criteria.log_likelihood
        forecast = one.criteria.log_likelihood + wrong
        criteria = replace(one.criteria, log_likelihood=forecast)
        error = self._error(one, best.sampled)
        return Outcome(
            one.settings, Fit(one.parameters), criteria, error, np.inf, one.smallest, "pruned"
        )

    def _informant(self, settings: Settings) -> Informant:
        return informant_for(self.reader, settings, self.survey.sample, self.effort)

    @property
    def _tol(self) -> float:
        """Gain that may remain, nats per row: differences of models are a few nats in all."""
        weight = float(self.survey.sample.weights.sum())
        return min(self.tol, 0.5 * math.log(max(weight, math.e)) / weight)

    def _sample_tol(self, settings: Settings) -> float:
        return sample_tolerance(self.reader, settings, self.survey.sample, self._tol)


def _outcome_of(run: _Run) -> Outcome:
    assert run.statistics is not None
    assert run.best is not None
    is_complete = run.fit is not None
    fit = run.fit or Fit(run.best, run.statistics, evaluated=run.statistics)
    return Outcome(
        run.sampled.settings,
        fit,
        run.criteria,
        0.0,
        run.remaining * run.statistics.weight,
        float(run.statistics.counts.min()),
        "complete" if is_complete else "stopped",
    )


def _is_smaller(one: Settings, other: Settings) -> bool:
    """Return whether a candidate has the same structure and fewer components."""
    is_same = one.covariance_type == other.covariance_type
    return is_same and one.n_components < other.n_components


def _grown(parameters: Parameters, n_components: int) -> list[Parameters]:
    """Return starts with more components: each component is split in turn, then the heaviest."""
    starts = []
    for k in range(parameters.n_components):
        grown = split_component(parameters, k)
        while grown.n_components < n_components:
            grown = split_component(grown, int(np.argmax(grown.weights)))
        starts.append(grown)
    return starts


def _mean(one: SampleFit, sample: RowSample) -> float:
    """Return the mean log density of the sample, in nats per row."""
    return float(np.average(one.scores, weights=sample.weights))


def _ignore(_: object) -> None:
    pass
