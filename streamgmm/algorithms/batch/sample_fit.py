"""The work in memory: from a sample of rows to parameters near the optimum of all of them.

Short runs of EM on few rows; from the better ones, splits and merges on more rows; and then
convergence of the best on the whole sample, where iterations cost next to nothing beside a pass.
"""

import math
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import scipy.sparse

from streamgmm.algorithms.batch.accelerated_em import accelerated_em
from streamgmm.algorithms.batch.budget import (
    KMEANS_ITERATIONS,
    LONGER,
    SHORT,
    Budget,
    Convergence,
    Starts,
)
from streamgmm.algorithms.batch.em import Fit
from streamgmm.algorithms.batch.few_rows import LastFewRows
from streamgmm.algorithms.batch.rows_in_memory import PartDone, Rows, StepsDone
from streamgmm.algorithms.batch.split_merge import (
    MOST_ROUNDS,
    Moved,
    split_and_merge,
    supporting_rows,
)
from streamgmm.algorithms.reads.memory import EFFORTS, Effort, FitMemory, MixtureBytes
from streamgmm.algorithms.reads.reader import Reader
from streamgmm.algorithms.sampling.initialization import (
    MOST_ITERATIONS,
    VARIED_METHODS,
    Start,
    initialize,
)
from streamgmm.algorithms.sampling.row_sample import RowSample
from streamgmm.core.condition import examine
from streamgmm.core.e_step import Posterior, scratch_bytes, statistics_bytes
from streamgmm.core.expectation import prepare
from streamgmm.core.few_rows_e_step import n_products
from streamgmm.core.incomplete import gap_bytes
from streamgmm.core.information import Information, Tangent, kept_responsibilities
from streamgmm.core.objective import Objective
from streamgmm.core.parameters import Parameters, count_parameters
from streamgmm.core.structures import STRUCTURES, Array
from streamgmm.events import (
    ChunkDone,
    Event,
    Listener,
    ReadDone,
    RoundDone,
    SampleStage,
    SampleStep,
    StageStarted,
    StartBegun,
    StartDone,
    StepScored,
)
from streamgmm.options import CovarianceType
from streamgmm.protocols import LocalExecutor, Work

# From this number of components on, splits and merges need as many rows as parameters.
_MANY_COMPONENTS = 512
# Largest difference of two fits at the same optimum, nats per row.
_ALIKE = 1e-4
# Number of values of the rows from which on a start that comes to the best one again is the last
# one. Starts from the same clusters differ by rounding errors.
_MANY_VALUES, _SAME = 1 << 14, 1e-9
# Gain on a sample, in units of the gain by chance, that shows that the start fits other rows.
_UNLIKE = 4.0
_MOST_ITERATIONS = 100
# Seconds after which a stage reports that an iteration goes on.
_SECONDS = 1.0
# Starts that have more than one round of splits and merges, besides one for each restart.
_OTHER_STARTS = 2
# Products of a step of EM from which on starts are worth threads of their own, and from which on a
# pass over the rows is worth several threads.
_LEAST_APART, _LEAST_SPREAD = 1 << 20, 1 << 23
# A pass over the sample takes about as long as a product of information with a vector.
_MOST_PRODUCTS = 6
#: Rows from which information is estimated, at least; for each parameter at least and at most; and
#: one in how many rows of the data between these bounds.
FEWEST_INFORMING = 4096
_INFORMING_PER_PARAMETER, _PART_INFORMING = (2, 50), 16
# Least part of rows without gaps. Rows with gaps carry less information, so that few rows without
# gaps would overstate the information of all rows.
_LEAST_COMPLETE = 0.25
# Responsibilities that are in memory at once; bytes for each value of a row and for each component
# that has a share in the row.
_SHARES_AT_ONCE, _BYTES_PER_VALUE = 1 << 22, 8


@dataclass(frozen=True)
class Settings:
    """What is to be fitted, and how.

    Attributes
    ----------
    n_components : int
    covariance_type : {"full", "tied", "diag", "spherical", "tied_diag", "tied_spherical"}
    init_params : {"kmeans", "k-means++", "random_from_data", "random"}
    objective : Objective
    n_init : int
        Restarts; each is worth some starts.
    scales : ndarray of shape (D,), or None
        Units of the columns in which starts measure distances; None for those of the data.
    """

    n_components: int
    covariance_type: CovarianceType
    init_params: str
    objective: Objective
    n_init: int
    scales: Array | None = None

    def n_parameters(self, n_features: int) -> int:
        """Return the number of free parameters for that many features."""
        structure = STRUCTURES[self.covariance_type]
        fixed, has_noise = self.objective.fixed, self.objective.noise is not None
        return count_parameters(structure, self.n_components, n_features, fixed, has_noise)

    def budget(self, n_rows: int, n_features: int) -> Budget:
        """Return how much work in memory a fit to that many rows may take."""
        structure = STRUCTURES[self.covariance_type]
        return Budget(
            n_rows,
            self.n_components,
            self.n_parameters(n_features),
            structure.n_moments(n_features),
            n_features,
            structure.moments_depend_on_parameters,
        )

    def memory(
        self,
        n_rows: int,
        n_features: int,
        n_sample: int,
        itemsize: int,
        missing: bool,
        most_bytes: int,
        n_pilot: int = 0,
    ) -> FitMemory:
        """Return what a fit takes in memory.

        Parameters
        ----------
        n_rows : int
            Rows of the data.
        n_features : int
        n_sample : int
            Rows of the sample.
        itemsize : int
            Of a sampled value.
        missing : bool
            Whether rows may lack values.
        most_bytes : int
            Of what is kept of rows in information.
        n_pilot : int
            Rows of the pilot sample.
        """
        shape = self.covariance_type, self.n_components, n_features
        n_parameters, budget = self.n_parameters(n_features), self.budget(n_rows, n_features)
        gaps = gap_bytes(*shape[1:], n_sample // 8) if missing else 0
        structure = STRUCTURES[self.covariance_type]
        n_informing = min(n_sample, informing_rows(n_parameters, n_rows))
        if structure.moments_depend_on_parameters:
            n_informing = 0
        return FitMemory(
            MixtureBytes(*shape, missing),
            n_sample,
            itemsize,
            self.n_init,
            budget.starts(False).n_starts * self.n_init + _OTHER_STARTS,
            budget.most_starting_rows,
            budget.splitting_rows(1),
            n_informing,
            n_informing >= n_parameters,
            most_bytes,
            scratch_bytes(*shape) + gaps + structure.n_sums() * statistics_bytes(*shape),
            n_pilot,
        )

    def start(
        self,
        rows: Array,
        weights: Array,
        known: Start,
        random: np.random.RandomState,
        restart: int = 0,
        most_iterations: int = MOST_ITERATIONS,
        on_step: Callable[[], None] = lambda: None,
    ) -> Parameters:
        """Return starting parameters from a sample; see :func:`initialize`.

        k-means comes to the same clusters again and again: further restarts take turns at other
        methods.
        """
        method = self.init_params
        if method == "kmeans" and restart:
            method = VARIED_METHODS[(restart - 1) % len(VARIED_METHODS)]
        return initialize(
            rows,
            weights,
            self.n_components,
            self.covariance_type,
            method,
            self.objective,
            known,
            random,
            self.scales,
            most_iterations,
            on_step,
        )


@dataclass(frozen=True, eq=False)
class Informant:
    """Rows whose information is asked for.

    Attributes
    ----------
    rows : ndarray of shape (n, D)
        Without NaN.
    weights : ndarray of shape (n,)
    most_bytes : int
        Of what is kept of the rows in information; where that is more, as many rows as fit.
    """

    rows: Array
    weights: Array
    most_bytes: int = 1 << 30

    @classmethod
    def among(
        cls,
        rows: Array,
        weights: Array,
        n_parameters: int,
        most_bytes: int = 1 << 30,
        n_rows: float = math.inf,
    ) -> "Informant":
        """Choose as many of the rows as the parameters need, or none if most rows have gaps.

        Parameters
        ----------
        rows : ndarray of shape (m, D)
        weights : ndarray of shape (m,)
        n_parameters : int
        most_bytes : int
            Of what is kept of the rows in information.
        n_rows : float
            Rows of the data, or inf. The fewer they are, the fewer are chosen.
        """
        complete = np.flatnonzero(~np.isnan(rows).any(axis=1))
        if len(complete) < _LEAST_COMPLETE * len(rows):
            complete = complete[:0]
        size = min(len(complete), informing_rows(n_parameters, n_rows))
        if size == len(rows):
            return cls(rows, weights, most_bytes)
        chosen = complete[np.arange(size) * len(complete) // max(size, 1)]
        return cls(rows[chosen], weights[chosen], most_bytes)

    def thinned(self, size: int) -> "Informant":
        """Return the informant of fewer rows, from all over these; 0 rows inform of nothing."""
        if size >= len(self.rows):
            return self
        chosen = np.arange(size) * len(self.rows) // max(size, 1)
        return Informant(self.rows[chosen], self.weights[chosen], self.most_bytes)

    def __call__(self, tangent: Tangent, is_squared: bool) -> Information | None:
        """Return the information of the rows; None if they are too few to tell of all parameters.

        A single component is found by one step of EM, without.

        Parameters
        ----------
        tangent : Tangent
        is_squared : bool
            Whether it is to be the mean of squared gradients.
        """
        if len(self.rows) < tangent.free.sum() or tangent.parameters.n_components == 1:
            return None
        prepared = prepare(tangent.parameters, tangent.frame, "error", n_rows=len(self.rows))
        n_shares = len(self.rows) * tangent.parameters.n_components
        n_blocks = -(-n_shares // _SHARES_AT_ONCE)
        # Each block holds rows from all over.
        blocks = [slice(first, None, n_blocks) for first in range(n_blocks)]
        shares: list[scipy.sparse.csr_array] = []
        n_bytes = 0
        for block in blocks:
            found = prepared.posterior(self.rows[block], with_responsibilities=True)
            own = _shares(found, prepared.has_noise, is_squared)
            own_bytes = own.nnz * _BYTES_PER_VALUE * (tangent.parameters.n_features + 2)
            n_bytes += own_bytes
            if n_bytes > self.most_bytes:
                if not shares:
                    step = -(-own_bytes // self.most_bytes)
                    shares, blocks = [own[::step]], [slice(block.start, None, n_blocks * step)]
                break
            shares.append(own)
        rows, weights = (
            np.concatenate([values[block] for block in blocks[: len(shares)]])
            for values in (self.rows, self.weights)
        )
        kept = scipy.sparse.vstack(shares, "csr")
        return Information.estimate(tangent, rows, weights, kept, is_squared)


def informing_rows(n_parameters: int, n_rows: float) -> int:
    """Return how many rows of the data (n_rows) estimate the information about parameters."""
    least, most = (max(FEWEST_INFORMING, part * n_parameters) for part in _INFORMING_PER_PARAMETER)
    return int(min(max(least, n_rows / _PART_INFORMING), most))


def _shares(found: Posterior, has_noise: bool, is_squared: bool) -> scipy.sparse.csr_array:
    """Return the responsibilities (n, K) that information needs; those of noise come last."""
    shares = found.responsibilities
    # A row that no component explains says nothing of any.
    shares[~np.isfinite(found.scores)] = 0.0
    if has_noise:
        shares = np.column_stack([shares, 1.0 - shares.sum(axis=1)])
    return kept_responsibilities(shares, is_squared)


@dataclass(frozen=True, eq=False)
class Stage:
    """What a stage of the search has come to.

    Attributes
    ----------
    found : tuple of Parameters
        The best first.
    report : SampleStage
    """

    found: tuple[Parameters, ...]
    report: SampleStage


class StageListener:
    """Counts the rows that a stage computes, and reports each of its iterations.

    Where an iteration takes long, the listener reports about each second that it goes on.

    Parameters
    ----------
    name : str
        Name of the stage.
    listener : callable
        Receives the reports.

    Attributes
    ----------
    n_rows : int
        Number of rows so far; a row counts each time.
    log_likelihoods : list of float
        Those of the iterations, nats per row.
    """

    def __init__(self, name: str, listener: Listener) -> None:
        self._name, self._listener = name, listener
        self._n_steps = self.n_rows = 0
        self._last_report = time.monotonic()
        self.log_likelihoods: list[float] = []

    def __call__(self, event: Event) -> None:
        """Listen to an event of the work on the rows."""
        if isinstance(event, ReadDone):
            self.n_rows += event.n_rows
            if math.isfinite(event.log_likelihood):
                self.log_likelihoods.append(event.log_likelihood)
            self._step(event.log_likelihood)
        elif isinstance(event, StepsDone):
            self._steps(event)
        elif isinstance(event, SampleStep):
            self._step(event.log_likelihood)
        elif isinstance(event, StepScored):
            self.n_rows += event.n_row_visits
        elif isinstance(event, StartBegun | StartDone | RoundDone):
            self._listener(event)
        elif isinstance(event, ChunkDone | PartDone) and self._is_silent():
            self._report(math.nan)

    def _steps(self, event: StepsDone) -> None:
        """Count the rows of several steps, and report the last of these."""
        self.n_rows += event.n_rows
        if event.log_likelihoods:
            self.log_likelihoods.extend(event.log_likelihoods)
            self._n_steps += len(event.log_likelihoods) - 1
            self._step(event.log_likelihoods[-1])

    def _step(self, log_likelihood: float) -> None:
        self._n_steps += 1
        self._report(log_likelihood)

    def _is_silent(self) -> bool:
        return time.monotonic() - self._last_report >= _SECONDS

    def _report(self, log_likelihood: float) -> None:
        self._last_report = time.monotonic()
        self._listener(SampleStep(self._name, self._n_steps, log_likelihood))


@dataclass(frozen=True, eq=False)
class Search:
    """A search for the optimum of a sample.

    Attributes
    ----------
    open_rows : callable
        Gives a reader of rows in memory (m, D) and their weights (m,), with a listener.
    settings : Settings
    known : Start
        Parameters that are known beforehand.
    informant : Informant
    random : numpy.random.RandomState
    reader : Reader
        Reader of all rows. It reports each stage, and keeps its result.
    effort : Effort
        How much memory the search may use.
    few_rows : LastFewRows
        Keeps the few rows of a stage for the next one.
    """

    open_rows: Callable[[Array, Array, Listener], Reader]
    settings: Settings
    known: Start
    informant: Informant
    random: np.random.RandomState
    reader: Reader
    effort: Effort = EFFORTS[0]
    few_rows: LastFewRows = field(default_factory=LastFewRows)

    def run(self, sample: RowSample, tol: float) -> Parameters:
        """Return the parameters near the optimum.

        Parameters
        ----------
        sample : RowSample
        tol : float
            What may remain to be gained on the sample, nats per row.

        Raises
        ------
        DataError
            If the sample has fewer rows than there are components, or no value of a feature.
        """
        is_supported = self._is_supported()
        starts = self._budget.starts(not is_supported)
        size = self._size(sample, starts.n_rows)
        splits = self._can_split and is_supported
        # Splits and merges begin with as many steps.
        steps = 0 if splits and starts.n_starts == 1 else LONGER
        found = self._stage("starts", sample, size, self._started, starts, steps)
        if splits:
            size = self._size(sample, self._budget.splitting_rows(starts.n_starts))
            found = self._stage("split and merge", sample, size, self._split_and_merged, found)
        found = found[: self.settings.n_init]
        size = self._budget.subsample_rows(len(sample))
        if size:
            work = self._budget.subsample_convergence(size)
            found = self._stage("EM", sample, size, self._converged, found, tol, work)
        return self._stage("EM", sample, len(sample), self._converged, found, tol)[0]

    def better_than(self, proposal: Parameters, sample: RowSample, tol: float) -> Parameters | None:
        """Return an optimum of the sample that all rows should prefer to a proposal.

        Parameters
        ----------
        proposal : Parameters
            A step from parameters that were fitted to other rows.
        sample : RowSample
        tol : float
            What may remain to be gained on the sample, nats per row.

        Returns
        -------
        Parameters or None
            None if the sample shows nothing that is significantly better than the proposal.
        """
        n_parameters = self.settings.n_parameters(sample.rows.shape[1])
        size = self._size(sample, self._budget.splitting_rows(1))
        found = self._stage("split and merge", sample, size, self._continued, proposal)
        ends = [
            self._stage("EM", sample, len(sample), self._converged, (one,), tol)[0] for one in found
        ]
        reader = self.open_rows(sample.rows, sample.weights, lambda event: None)
        values = [self._value(reader, parameters) for parameters in ends]
        # An optimum of the sample gains half a nat for each parameter on it, and lacks as much on
        # all rows.
        overfit = (n_parameters + math.sqrt(2.0 * n_parameters)) / len(sample)
        gain = values[-1] - self._value(reader, proposal)
        if gain <= overfit and values[0] <= values[-1] + _ALIKE:
            return None
        if gain > _UNLIKE * overfit:
            # The rows of the start were not like all others.
            ends.append(self.run(sample, tol))
            values.append(self._value(reader, ends[-1]))
        return ends[int(np.argmax(values))]

    @property
    def _can_split(self) -> bool:
        """Whether components may be split and merged."""
        settings = self.settings
        # Moves combine moments, which have to be the same under all parameters.
        if STRUCTURES[settings.covariance_type].moments_depend_on_parameters:
            return False
        return self.effort.splits and not settings.objective.fixed and settings.n_components > 1

    def _value(self, reader: Reader, parameters: Parameters) -> float:
        """Return the value of the objective on rows in memory, nats per row."""
        statistics = reader.statistics("value", parameters)
        return self.settings.objective.value(statistics, parameters)

    @property
    def _budget(self) -> Budget:
        source = self.reader.source
        return self.settings.budget(source.n_rows, source.n_features)

    def _is_supported(self) -> bool:
        """Return whether the data have rows enough to choose among starts, and to split and merge.

        Where they do not, the likelihood tells little of which mixture is better. Of many
        components the search takes most of the time, so more rows are asked for.
        """
        source, k = self.reader.source, self.settings.n_components
        structure = STRUCTURES[self.settings.covariance_type]
        if source.n_rows < k * supporting_rows(structure, source.n_features):
            return False
        n_parameters = self.settings.n_parameters(source.n_features)
        return k < _MANY_COMPONENTS or source.n_rows >= n_parameters

    def _size(self, sample: RowSample, wanted: int) -> int:
        """Return how many rows a stage uses."""
        part = self.effort.starting_part
        if part == 1:
            return wanted
        fewest = min(wanted, 2 * self.settings.n_components)
        return max(min(wanted, len(sample)) // part, fewest)

    def _stage(
        self,
        name: str,
        sample: RowSample,
        size: int,
        work: Callable[..., list[Fit]],
        *arguments: Any,
    ) -> tuple[Parameters, ...]:
        """Return what some work comes to with rows from all over the sample, the best first."""

        def find() -> Stage:
            listener = StageListener(name, self.reader.notify)
            start = time.perf_counter()
            part = _part(sample, size)
            self.reader.notify(StageStarted(name, len(part), self.settings.n_components))
            reader = self._opened(part, listener)
            rows = part.rows, part.weights
            few = self.few_rows.of(*rows, self.settings.covariance_type, self.settings.objective)
            fits = work(Rows(reader, *rows, few), *arguments)
            seconds = time.perf_counter() - start
            best = fits[0].log_likelihood
            path = tuple(listener.log_likelihoods)
            report = SampleStage(name, len(part), listener.n_rows, best, seconds, path)
            return Stage(tuple(fit.parameters for fit in fits), report)

        stage = self.reader.kept(Stage, find)
        self.reader.notify(stage.report)
        return stage.found

    def _opened(self, part: RowSample, listener: Listener) -> Reader:
        """Return a reader of some rows, whose passes use threads if that saves time."""
        reader = self.open_rows(part.rows, part.weights, listener)
        is_small = self._products(part.rows.shape) < _LEAST_SPREAD
        if is_small and isinstance(reader.executor, LocalExecutor):
            reader.executor = reader.executor.in_calling_thread()
        return reader

    def _started(self, rows: Rows, starts: Starts, steps: int) -> list[Fit]:
        """Return the fits that each continue with some steps from the best of some short runs."""
        n_starts, n_runs = starts.n_starts, starts.n_runs
        n_each = n_starts * n_runs
        n_all = self.settings.n_init * n_each
        # Each run has random numbers of its own, so that those of one do not depend on the others.
        seeds = self.random.randint(2**31, size=(self.settings.n_init, n_each))
        best, found = -math.inf, []
        for restart, own_seeds in enumerate(seeds):
            runs: list[Fit] = []
            begun = [partial(self._short_run, restart=restart, seed=seed) for seed in own_seeds]
            with self._side_by_side(rows, begun) as results:
                for number, result in enumerate(results, restart * n_each + 1):
                    rows.reader.notify(StartBegun(number, n_all))
                    runs.append(result())
                    best = max(best, runs[-1].log_likelihood)
                    rows.reader.notify(StartDone(number, n_all, best))
                    if rows.rows.size >= _MANY_VALUES and _is_best_again(runs):
                        break
            chosen = [_best_first(runs[i : i + n_runs])[0] for i in range(0, len(runs), n_runs)]
            if not steps:
                found += chosen
                continue
            longer = [partial(self._longer_run, fit=fit, steps=steps) for fit in chosen]
            with self._side_by_side(rows, longer) as results:
                found += [result() for result in results]
        return _best_first(found)

    def _short_run(self, rows: Rows, restart: int, seed: int) -> Fit:
        start = self.settings.start(
            rows.rows,
            rows.weights,
            self.known,
            np.random.RandomState(seed),
            restart,
            KMEANS_ITERATIONS,
            lambda: rows.reader.notify(SampleStep("starts", 0)),
        )
        return self._em(rows, start, SHORT)

    def _longer_run(self, rows: Rows, fit: Fit, steps: int) -> Fit:
        return rows.continued(fit, steps, objective=self.settings.objective)

    def _split_and_merged(self, rows: Rows, starts: Sequence[Parameters]) -> list[Fit]:
        """Return the ends of splits and merges, the best first, one for each restart at most.

        All starts have one round. Others follow for the best one, and then for the next best, as
        far as the work allows. A start that has come to where another is, or ends, by itself is not
        moved again.
        """
        n_init, rank = self.settings.n_init, self._rank(rows)
        most = n_init * self._budget.splitting_evaluations(len(rows.weights))
        begun: list[Fit] = []
        runs = [partial(self._em, start=start, steps=LONGER) for start in starts]
        with self._side_by_side(rows, runs) as results:
            for result in results:
                fit = result()
                most -= fit.n_iterations
                if not _is_alike(fit, [other.value for other in begun]):
                    begun.append(fit)
        best: list[Moved] = []
        ends: list[float] = []
        for fit in begun:
            if _is_alike(fit, ends):
                continue
            moved = self._after_splits(rows, Moved(fit), math.inf, 1)
            most -= moved.n_evaluations
            ends.append(moved.fit.value)
            best = sorted([*best, moved], key=lambda moved: rank(moved.fit), reverse=True)
            best = best[: n_init + _OTHER_STARTS]
        fits = []
        for moved in best:
            end = self._after_splits(rows, moved, moved.n_evaluations + most)
            most -= end.n_evaluations - moved.n_evaluations
            fits.append(end.fit)
        return sorted(fits, key=rank, reverse=True)[:n_init]

    def _side_by_side(
        self, rows: Rows, runs: Sequence[Callable[[Rows], Fit]]
    ) -> AbstractContextManager[Sequence[Callable[[], Fit]]]:
        """Begin independent runs of EM with the rows, side by side if that saves time.

        Returns
        -------
        context manager
            Gives a function for each of the runs, which waits for its result.
        """
        reader, executor = rows.reader, rows.reader.executor
        # Where passes use several threads, runs would wait for each other.
        pays = _LEAST_APART <= self._products(rows.stored.shape) < _LEAST_SPREAD
        if len(runs) == 1 or not pays or not isinstance(executor, LocalExecutor):
            return nullcontext([partial(run, rows) for run in runs])

        def apart(run: Callable[[Rows], Fit], listener: Listener) -> Fit:
            return run(rows.with_listener(listener))

        work = Work(thread=self._bytes_of_start(rows), driver=reader.driver_bytes)
        begun = [partial(apart, run) for run in runs]
        return executor.side_by_side(begun, reader.source, reader.listener, work)

    def _products(self, shape: tuple[int, ...]) -> int:
        """Return the number of products of a step of EM with rows of a shape (n, D)."""
        structure = STRUCTURES[self.settings.covariance_type]
        return n_products(shape, self.settings.n_components, structure.has_directions)

    def _bytes_of_start(self, rows: Rows) -> int:
        """Return the memory that a start from these rows takes, beside them."""
        n_rows, n_features = rows.stored.shape
        source, itemsize = self.reader.source, rows.stored.dtype.itemsize
        shape = source.n_rows, n_features, n_rows
        memory = self.settings.memory(*shape, itemsize, source.missing == "em", 0)
        return memory.start(n_rows, self.effort)

    def _continued(self, rows: Rows, start: Parameters) -> list[Fit]:
        """Return the end of EM, and before it that of splits and merges if they gained."""
        fit = self._em(rows, start, LONGER)
        if not self._can_split:
            return [fit]
        most = self._budget.splitting_evaluations(len(rows.weights)) - LONGER
        moved = self._after_splits(rows, Moved(fit), most)
        return [moved.fit, fit] if moved.n_rounds else [fit]

    def _after_splits(
        self, rows: Rows, moved: Moved, most_evaluations: float, most_rounds: int = MOST_ROUNDS
    ) -> Moved:
        """Return the end of splits and merges."""
        return split_and_merge(
            rows,
            moved,
            objective=self.settings.objective,
            most_evaluations=most_evaluations,
            most_rounds=most_rounds,
        )

    def _converged(
        self,
        rows: Rows,
        starts: Sequence[Parameters],
        tol: float,
        work: Convergence | None = None,
    ) -> list[Fit]:
        best: list[Fit] = []
        work = work or self._budget.convergence(len(rows.weights))
        informant, rank = self.informant.thinned(work.n_informing), self._rank(rows)
        for start in starts:
            fit = self._converged_from(rows, start, tol, informant, work.n_iterations)
            best = sorted([*best, fit.without_statistics()], key=rank, reverse=True)[:1]
        return best

    def _converged_from(
        self,
        rows: Rows,
        start: Parameters,
        tol: float,
        informant: Informant,
        n_iterations: int,
    ) -> Fit:
        if rows.few is not None and rows.few.is_for(start.n_components):
            fit = rows.few.converged(start, tol, rows.on_run)
            if fit is not None and fit.converged:
                return fit
            start = start if fit is None else fit.parameters
        reader, settings = rows.reader, self.settings
        return improve(reader, start, settings, informant, tol, self.effort, n_iterations)

    def _rank(self, rows: Rows) -> Callable[[Fit], tuple[bool, float]]:
        """Return the key by which fits to some rows are ranked, largest for the best.

        Among those of several restarts a fit with a degenerate component comes after all others,
        because its likelihood has no bound but the ridge.
        """
        weight = rows.weights.sum()
        is_one = self.settings.n_init == 1
        return lambda fit: (is_one or not self._is_degenerate(fit, weight), fit.value)

    def _is_degenerate(self, fit: Fit, weight: float) -> bool:
        parameters = fit.parameters
        ridge = np.full(parameters.n_features, self.settings.objective.reg_covar)
        counts = weight * parameters.weights
        return bool(examine(parameters, counts, ridge, lost=fit.degenerate).components)

    def _em(self, rows: Rows, start: Parameters, steps: int) -> Fit:
        return rows.short_run(start, steps, objective=self.settings.objective)


def _best_first(fits: Iterable[Fit]) -> list[Fit]:
    return sorted(fits, key=lambda fit: fit.value, reverse=True)


def _is_alike(fit: Fit, ends: Sequence[float]) -> bool:
    """Return whether a fit has come to one of some values."""
    return not all(abs(fit.value - end) > _ALIKE for end in ends)


def _is_best_again(fits: Sequence[Fit]) -> bool:
    """Return whether the last fit came to the best value of those before it."""
    *others, last = (fit.value for fit in fits)
    return bool(others) and abs(last - max(others)) <= _SAME


def _part(sample: RowSample, size: int) -> RowSample:
    """Return some of the rows, or more if these had no value of a feature that others have."""
    part = sample.part(size)
    if len(part) and not np.isnan(part.rows[0]).any():
        return part
    has_values = ~np.isnan(sample.rows).all(axis=0)
    while np.isnan(part.rows[:, has_values]).all(axis=0).any():
        size *= 2
        part = sample.part(size)
    return part


def improve(
    reader: Reader,
    start: Parameters,
    settings: Settings,
    informant: Informant,
    tol: float,
    effort: Effort = EFFORTS[0],
    most_iterations: int = _MOST_ITERATIONS,
) -> Fit:
    """Run EM with rows in memory, until ``tol`` nats per row remain to be gained on them."""
    return accelerated_em(
        reader,
        start,
        tol=tol,
        max_iter=most_iterations,
        objective=settings.objective,
        informed_by=informant,
        order=effort.order,
        most_products=_MOST_PRODUCTS,
    )
