"""Fit several mixtures at once: one sample, and passes over the data that all of them share.

Every candidate is fitted to the sample first. The sample forecasts the criterion of each candidate
on all rows, with an error; candidates that cannot win make no pass. Those that remain are fitted to
all rows together: each pass reads every chunk once and sums the statistics of every candidate.

Where the criterion is the likelihood of held-out rows, each candidate is also fitted to the other
rows of each split, in the same passes. One more pass evaluates the held-out rows.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from streamgmm.algorithms.batch.accelerated_em import Ascent, ascent_of
from streamgmm.algorithms.batch.auto import informant_for, sample_tolerance
from streamgmm.algorithms.batch.em import Fit
from streamgmm.algorithms.batch.held_out import (
    HeldOutSums,
    RowSplit,
    held_out_scores,
    sample_scores,
)
from streamgmm.algorithms.batch.sample_fit import Informant, Search, Settings, improve
from streamgmm.algorithms.reads.memory import EFFORTS, Effort
from streamgmm.algorithms.reads.reader import ChunkPart, Reader, StatisticsRequest
from streamgmm.algorithms.sampling.initialization import Start
from streamgmm.algorithms.sampling.row_sample import RowSample, expected_shortfall
from streamgmm.algorithms.sampling.survey import Survey
from streamgmm.core.criteria import Criteria
from streamgmm.core.expectation import prepare
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

# Standard errors by which the forecast of a candidate may be worse than that of the best.
_ERRORS = 3.0
# Largest ratio of the remaining gain to the predicted one.
_CAUTION = 3.0
# Nats per row by which a larger mixture may be worse before it is fitted again.
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
class HeldOut:
    """The score of a candidate on held-out rows.

    Attributes
    ----------
    mean : float
        Mean log-likelihood, nats per row.
    std_error : float
        Its standard error.
    difference_errors : ndarray of shape (C,)
        Standard errors of the differences to all candidates.
    """

    mean: float
    std_error: float
    difference_errors: Array


@dataclass(frozen=True, eq=False)
class Outcome:
    """The result of a candidate.

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
    held_out : HeldOut or None
        A forecast for a pruned candidate; None if no rows were held out.
    """

    settings: Settings
    fit: Fit
    criteria: Criteria
    std_error: float
    remaining: float
    smallest: float
    status: Status
    held_out: HeldOut | None = None


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
    #: The rows that it is fitted to; None for all.
    part: ChunkPart | None = None

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
    criterion : {"bic", "aic", "icl", "held_out"}
    tol : float
        Gain that may remain, nats per row. Where what one parameter costs in BIC is less, that may.
    max_iter : int
        Bound on the passes of each candidate.
    seed : int
        Of the starts; the same for each candidate.
    effort : Effort
    splits : tuple of RowSplit
        Those of the criterion "held_out".
    """

    reader: Reader
    open_rows: OpenRows
    survey: Survey
    criterion: Criterion
    tol: float
    max_iter: int
    seed: int
    effort: Effort = field(default=EFFORTS[0])
    splits: tuple[RowSplit, ...] = ()

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
        sampled = self._all_sampled(candidates, self.survey.sample)
        tested = [
            self._all_sampled(candidates, split.of_sample(self.survey.sample)[0])
            for split in self.splits
        ]
        unknown: list[HeldOut | None] = [None] * len(candidates)
        forecast = self._forecast(tested) if self.splits else unknown
        remaining = self._unpruned(sampled, forecast)
        runs = {i: self._begun(sampled[i], sampled[i].parameters) for i in remaining}
        tests = [
            [self._begun(own[i], own[i].parameters, split.fitted) for i in remaining]
            for split, own in zip(self.splits, tested, strict=True)
        ]
        self._complete([*runs.values(), *(run for own in tests for run in own)])
        for i, run in runs.items():
            smaller_runs = [
                runs[j] for j in remaining if _is_smaller(sampled[j].settings, candidates[i])
            ]
            runs[i] = self._no_worse(run, smaller_runs)
        held_out = self._held_out(tests, remaining, forecast) if self.splits else unknown
        best = min(runs, key=lambda i: self._loss(runs[i].criteria, held_out[i]))
        return [
            _outcome_of(runs[i], held_out[i])
            if i in runs
            else self._pruned(one, runs[best], held_out[i])
            for i, one in enumerate(sampled)
        ]

    def _all_sampled(self, candidates: Sequence[Settings], sample: RowSample) -> list[SampleFit]:
        """Fit the candidates to a sample."""
        sampled: list[SampleFit] = []
        for settings in candidates:
            smaller = [one for one in sampled if _is_smaller(one.settings, settings)]
            sampled.append(self._sampled(settings, smaller, sample))
        return sampled

    def _sampled(
        self, settings: Settings, smaller: Sequence[SampleFit], sample: RowSample
    ) -> SampleFit:
        """Fit a candidate to a sample; no worse than a smaller mixture of the structure."""
        tol = self._sample_tol(settings, sample)
        informant = self._informant(settings, sample)
        random = np.random.RandomState(self.seed)
        search = Search(
            self.open_rows, settings, _known(settings), informant, random, self.reader, self.effort
        )
        found = self._described(settings, search.run(sample, tol), sample)
        is_worse = smaller and _mean(found, sample) < _mean(smaller[-1], sample) - _ALIKE
        if is_worse and _is_nested(settings):
            rows = self.open_rows(sample.rows, sample.weights, _ignore)
            starts = _grown(smaller[-1].parameters, settings.n_components)
            fits = [improve(rows, start, settings, informant, tol, self.effort) for start in starts]
            best = max(fits, key=lambda fit: fit.value)
            other = self._described(settings, best.parameters, sample)
            found = max(found, other, key=lambda one: _mean(one, sample))
        return found

    def _described(
        self, settings: Settings, parameters: Parameters, sample: RowSample
    ) -> SampleFit:
        """Forecast the criteria of parameters that were fitted to a sample."""
        source = self.reader.source
        frame = Frame.of(parameters, sample.rows.dtype)
        prepared = prepare(parameters, frame, source.missing, n_rows=len(sample))
        found = prepared.statistics(sample.rows, sample.weights)
        scores = prepared.posterior(sample.rows).scores
        own = Criteria.of(found, parameters, settings.objective.fixed)
        # The maximum on m rows exceeds that on all N rows by p/2 (1/m - 1/N) per row.
        shortfall = expected_shortfall(source.n_rows, len(sample), own.n_parameters)
        loss = shortfall * found.weight
        forecast = replace(own, log_likelihood=own.log_likelihood - loss)
        return SampleFit(settings, parameters, scores, forecast, float(found.counts.min()))

    def _unpruned(
        self, sampled: Sequence[SampleFit], forecast: Sequence[HeldOut | None]
    ) -> list[int]:
        """Return the candidates that may have the best criterion on all rows."""
        values = [
            self._loss(one.criteria, held_out)
            for one, held_out in zip(sampled, forecast, strict=True)
        ]
        leader = int(np.argmin(values))

        def error(i: int) -> float:
            held_out = forecast[i]
            if held_out is not None:
                return float(held_out.difference_errors[leader])
            return 2.0 * self._error(sampled[i], sampled[leader])

        return [
            i
            for i, value in enumerate(values)
            if self._is_complete or value - values[leader] <= _ERRORS * error(i)
        ]

    @property
    def _is_complete(self) -> bool:
        """Whether the sample holds all rows that take part."""
        n_skipped = self.survey.skipped.n_rows
        return len(self.survey.sample) + n_skipped >= self.reader.source.n_rows

    def _forecast(self, tested: Sequence[Sequence[SampleFit]]) -> list[HeldOut | None]:
        """Forecast by the held-out rows of the sample how each candidate predicts such rows."""
        sample, source = self.survey.sample, self.reader.source
        mixtures = [[one.parameters for one in own] for own in tested]
        sums = sample_scores(self.splits, mixtures, sample, source)
        # Mixtures that are fitted to more rows predict better, by what those of few rows lack.
        one_parameter = expected_shortfall(source.n_rows, len(sample), 1)
        one_parameter /= 1.0 - self.splits[0].part
        sizes = np.array([one.criteria.n_parameters for one in tested[0]])
        return [*_held_out_of(sums, sums.means + one_parameter * sizes)]

    def _held_out(
        self,
        tests: Sequence[Sequence[_Run]],
        remaining: Sequence[int],
        forecast: Sequence[HeldOut | None],
    ) -> list[HeldOut | None]:
        """Evaluate the held-out rows; a forecast keeps its difference to the best."""
        mixtures = [[_parameters_of(run) for run in own] for own in tests]
        sums = held_out_scores(self.reader, self.splits, mixtures)
        exact = dict(zip(remaining, _held_out_of(sums, sums.means), strict=True))
        best = max(remaining, key=lambda i: exact[i].mean)
        found: list[HeldOut | None] = []
        for i, own in enumerate(forecast):
            assert own is not None
            errors = own.difference_errors.copy()
            if i in exact:
                errors[remaining] = exact[i].difference_errors
                found.append(replace(exact[i], difference_errors=errors))
                continue
            leader = forecast[best]
            assert leader is not None
            error = math.hypot(exact[best].std_error, errors[best])
            found.append(HeldOut(exact[best].mean + own.mean - leader.mean, error, errors))
        return found

    def _error(self, one: SampleFit, other: SampleFit) -> float:
        """Return the standard error of the difference of two forecast log-likelihoods."""
        if self._is_complete:
            return 0.0
        sample = self.survey.sample
        values = one.scores - other.scores
        usable = np.isfinite(values)
        weights, values = sample.weights[usable], values[usable]
        mean = np.average(values, weights=weights)
        return float(np.sqrt(np.square(weights * (values - mean)).sum()))

    def _begun(self, sampled: SampleFit, start: Parameters, part: ChunkPart | None = None) -> _Run:
        settings = sampled.settings
        steps = ascent_of(
            self.reader,
            start,
            tol=self._tol,
            max_iter=self.max_iter,
            objective=settings.objective,
            informed_by=self._informant(settings, self.survey.sample),
            order=self.effort.order,
        )
        return _Run(sampled, steps, next(steps), part=part)

    def _complete(self, runs: Iterable[_Run]) -> None:
        """Make passes for all runs together, until each has ended or cannot win."""
        runs = list(runs)
        while True:
            self._stop_losers(runs)
            active = [(run, run.request) for run in runs if run.request is not None]
            if not active:
                return
            found = self.reader.answered_together(
                [request for _, request in active], [run.part for run, _ in active]
            )
            for (run, _), statistics in zip(active, found, strict=True):
                run.receive(statistics)

    def _stop_losers(self, runs: Sequence[_Run]) -> None:
        """End the runs whose best possible criterion is worse than the best that is known."""
        evaluated = [run for run in runs if run.statistics is not None]
        if not evaluated or self.criterion == "held_out":
            return
        best = min(self._loss(run.criteria, None) for run in evaluated)
        for run in evaluated:
            if run.request is None:
                continue
            gain = _CAUTION * run.remaining * run.criteria.n_rows
            if self._loss(run.criteria, None) - 2.0 * gain > best:
                run.steps.close()
                run.request = None

    def _no_worse(self, run: _Run, smaller: Sequence[_Run]) -> _Run:
        """Fit again from a smaller mixture, if that is better than what was found."""
        better = [one for one in smaller if one.fit is not None and one.value > run.value + _ALIKE]
        if not better or run.fit is None or not _is_nested(run.sampled.settings):
            return run
        best = max(better, key=lambda one: one.value)
        assert best.best is not None
        start = best.best
        while start.n_components < run.sampled.settings.n_components:
            start = split_component(start, int(np.argmax(start.weights)), _CLOSE)
        again = self._begun(run.sampled, start)
        self._complete([again])
        return max(run, again, key=lambda one: one.value)

    def _loss(self, criteria: Criteria, held_out: HeldOut | None) -> float:
        """Return what the best candidate has the least of."""
        if held_out is not None:
            return -held_out.mean
        return float(getattr(criteria, self.criterion))

    def _pruned(self, one: SampleFit, best: _Run, held_out: HeldOut | None) -> Outcome:
        """Return the forecast of a candidate, by its difference from the best on the sample."""
        wrong = best.criteria.log_likelihood - best.sampled.criteria.log_likelihood
        forecast = one.criteria.log_likelihood + wrong
        criteria = replace(one.criteria, log_likelihood=forecast)
        error = self._error(one, best.sampled)
        fit = Fit(one.parameters)
        return Outcome(one.settings, fit, criteria, error, np.inf, one.smallest, "pruned", held_out)

    def _informant(self, settings: Settings, sample: RowSample) -> Informant:
        return informant_for(self.reader, settings, sample, self.effort)

    @property
    def _tol(self) -> float:
        """Gain that may remain, nats per row: differences of models are a few nats in all."""
        weight = float(self.survey.sample.weights.sum())
        return min(self.tol, 0.5 * math.log(max(weight, math.e)) / weight)

    def _sample_tol(self, settings: Settings, sample: RowSample) -> float:
        return sample_tolerance(self.reader, settings, sample, self._tol)


def _held_out_of(sums: HeldOutSums, means: Array) -> list[HeldOut]:
    """Return how each of some mixtures predicts held-out rows."""
    parts = zip(means.tolist(), sums.std_errors.tolist(), sums.difference_errors, strict=True)
    return [HeldOut(*part) for part in parts]


def _parameters_of(run: _Run) -> Parameters:
    """Return the best parameters that a run has found."""
    if run.fit is not None:
        return run.fit.parameters
    assert run.best is not None
    return run.best


def _outcome_of(run: _Run, held_out: HeldOut | None) -> Outcome:
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
        held_out,
    )


def _is_smaller(one: Settings, other: Settings) -> bool:
    """Return whether a candidate has the same structure and fewer components."""
    is_same = one.covariance_type == other.covariance_type
    return is_same and one.n_components < other.n_components


def _is_nested(settings: Settings) -> bool:
    """Return whether smaller mixtures of the structure are special cases of these.

    A component with its weight may be halved, unless all weights are equal.
    """
    return "weights" not in settings.objective.fixed


def _known(settings: Settings) -> Start:
    """Return what is known of a start: equal weights, if they are held."""
    k = settings.n_components
    return Start() if _is_nested(settings) else Start(weights=np.full(k, 1.0 / k))


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
