"""Progress of the passes, for people: listeners of events.

On a terminal a bar shows the current pass; elsewhere each pass gets a line.
"""

import logging
import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self, TextIO

from streamgmm.events import (
    BatchKnown,
    ChangeDetected,
    ChunkDone,
    ComponentsDegenerate,
    ComponentsReseeded,
    Event,
    FilesSkipped,
    FitStarted,
    KernelCompiling,
    Listener,
    MixtureFound,
    ReadDone,
    ReadStarted,
    RoundDone,
    RowsLearned,
    SampleStage,
    SampleStep,
    StageStarted,
    StartBegun,
    StartDone,
    StepScored,
    SurveyDone,
)
from streamgmm.quantities import with_prefix

if TYPE_CHECKING:
    from rich.console import Console


_logger = logging.getLogger("streamgmm")

# Number of columns that a line names.
_NAMED = 5
# Seconds without a line after which details of the work in memory get one.
_PATIENCE = 2.0
# Width of a terminal from which a bar has room for the predicted passes.
_WIDE = 110

#: Details of the work in memory.
Detail = StageStarted | StartBegun | StartDone | RoundDone | SampleStep


class Pace:
    """Predicts how many passes a fit has left, from the events of the fit.

    The gain that remains falls by about the same factor from pass to pass. The fit ends when it is
    below the tolerance.
    """

    def __init__(self) -> None:
        self._tol, self._max_iter = math.nan, 0
        self._remaining: list[float] = []
        self._is_scored = False
        self._n_iterations = 0

    def __call__(self, event: Event) -> None:
        """Listen to an event."""
        if isinstance(event, FitStarted):
            self._tol, self._max_iter = event.tol, event.max_iter
            self._remaining = []
            self._n_iterations = 0
        elif isinstance(event, StepScored):
            self._is_scored = True
            self._remaining.append(event.remaining)
        elif isinstance(event, ReadDone) and event.iteration:
            self._n_iterations = event.iteration
            if not self._is_scored:
                self._remaining.append(abs(event.gain))
            self._is_scored = False

    @property
    def n_passes(self) -> int | None:
        """Predicted number of further passes; None if nothing is known."""
        if len(self._remaining) < 2 or not self._tol > 0.0:
            return None
        before, now = self._remaining[-2:]
        if not 0.0 < now < before < math.inf:
            return None
        needed = math.log(max(now / self._tol, 1.0)) / math.log(before / now)
        return min(max(math.ceil(needed), 1), max(self._max_iter - self._n_iterations, 0))


class LogReporter:
    """Writes passes and stages to the logger ``streamgmm``, level INFO, and details as DEBUG."""

    def __init__(self) -> None:
        self._n_bytes = 0

    def __call__(self, event: Event) -> None:
        """Listen to an event."""
        if not _logger.isEnabledFor(logging.INFO):
            return
        if isinstance(event, ReadStarted):
            self._n_bytes = event.n_bytes
        if isinstance(event, Detail):
            _logger.debug("%s", describe_detail(event))
        else:
            line = describe(event, self._n_bytes)
            if line is not None:
                _logger.info("%s", line)


class LineReporter:
    """Writes a line for each pass over the data, and for each stage of the work in memory.

    Starts, rounds and iterations of the work in memory get a line only where none has been written
    for a while.

    Parameters
    ----------
    every : int
        Iterations between two lines; other passes always get a line.
    stream : text file, optional
        Output of the lines; standard error by default.
    patience : float
        Seconds without a line after which a detail gets one.
    """

    def __init__(
        self, every: int = 1, stream: TextIO | None = None, patience: float = _PATIENCE
    ) -> None:
        self._every = every
        self._stream = stream
        self._patience = patience
        self._n_bytes = 0
        self._pace = Pace()
        self._started: float | None = None
        self._last = time.perf_counter()
        self._is_compiling = False

    def __call__(self, event: Event) -> None:
        """Listen to an event."""
        self._pace(event)
        if isinstance(event, FitStarted):
            self._started = time.perf_counter()
        elif isinstance(event, ReadStarted):
            self._n_bytes = event.n_bytes
        if isinstance(event, Detail):
            if time.perf_counter() - self._last >= self._patience:
                self._write(describe_detail(event))
        elif self._is_due(event):
            line = describe(event, self._n_bytes)
            if line is not None:
                self._write(line + self._outlook(event))

    def _is_due(self, event: Event) -> bool:
        """Return whether an event gets a line, if it is one that can be described."""
        if isinstance(event, ReadDone) and event.iteration:
            return (event.iteration - 1) % self._every == 0
        if isinstance(event, KernelCompiling):
            is_first, self._is_compiling = not self._is_compiling, True
            return is_first
        return True

    def _outlook(self, event: Event) -> str:
        """Return the elapsed time and the predicted number of passes, after a pass of a fit."""
        if self._started is None or not isinstance(event, ReadDone):
            return ""
        elapsed = f"; {describe_seconds(time.perf_counter() - self._started)} elapsed"
        n_passes = self._pace.n_passes
        return elapsed if n_passes is None else f"{elapsed}, {describe_passes(n_passes)}"

    def _write(self, line: str) -> None:
        print(line, file=self._stream or sys.stderr, flush=True)
        self._last = time.perf_counter()


class ProgressBar:
    """Shows the current pass on a terminal; a context manager and a listener.

    Rows and bytes per second are those of this pass so far. The log-likelihood and its gain are
    those of the last finished iteration. Between passes the bar names the present work in memory:
    its stage, start or round. The elapsed time moves on while nothing else does.

    Parameters
    ----------
    console : rich.console.Console, optional
        Console of the bar; standard error by default.
    """

    def __init__(self, console: "Console | None" = None) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
        from rich.text import Text

        bar = self

        class Elapsed(TextColumn):
            def render(self, task: Any) -> Text:
                return Text(describe_seconds(time.perf_counter() - bar._first))

        self._first = time.perf_counter()
        self._pace = Pace()
        self._progress = Progress(
            Elapsed(""),
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TaskProgressColumn(),
            TextColumn("{task.fields[rates]}"),
            TextColumn("{task.fields[likelihood]}"),
            TextColumn("{task.fields[outlook]}"),
            console=console or Console(stderr=True),
            expand=True,
            transient=True,
        )
        self._task = self._progress.add_task(
            "", total=None, visible=False, rates="", likelihood="", outlook=""
        )
        self._started = 0.0
        self._n_rows = self._n_bytes = 0

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    def __call__(self, event: Event) -> None:
        """Listen to an event."""
        self._pace(event)
        if isinstance(event, FitStarted):
            self._first = time.perf_counter()
            self._progress.console.print(describe_fit(event), highlight=False)
        elif isinstance(event, KernelCompiling):
            self._rest(describe_compiling(event), "")
        elif isinstance(event, ReadStarted):
            self._begin(event)
        elif isinstance(event, ChunkDone):
            self._advance(event)
        elif isinstance(event, ReadDone):
            self._end(event)
        elif isinstance(event, Detail):
            self._detail(event)
        elif isinstance(event, SurveyDone):
            self._progress.console.print(describe_survey(event), highlight=False)
            self._rest(f"sample of {event.n_sampled:,} rows", "")
        elif isinstance(event, SampleStage):
            likelihood = describe_likelihood(event.log_likelihood, math.nan)
            self._rest(f"sample, {event.name}", likelihood)
        elif isinstance(event, ComponentsDegenerate):
            self._progress.console.print(describe_degenerate(event), highlight=False)
        elif isinstance(event, RowsLearned | BatchKnown | FilesSkipped):
            self._progress.console.print(describe_update(event), highlight=False)

    def _begin(self, read: ReadStarted) -> None:
        self._started = time.perf_counter()
        self._n_rows = self._n_bytes = 0
        # A narrow terminal has room only for the numbers of iterations.
        description = f"pass {read.number}" if read.purpose == "iteration" else _title(read)
        self._progress.reset(self._task, total=read.n_rows, visible=True, description=description)

    def _end(self, read: ReadDone) -> None:
        if not math.isnan(read.log_likelihood):
            self._show(likelihood=describe_likelihood(read.log_likelihood, read.gain))
        n_passes = self._pace.n_passes
        if n_passes is not None and self._progress.console.width >= _WIDE:
            self._show(outlook=describe_passes(n_passes))

    def _detail(self, event: Detail) -> None:
        likelihood = getattr(event, "log_likelihood", math.nan)
        if not math.isnan(likelihood):
            self._show(likelihood=describe_likelihood(likelihood, math.nan))
        if not isinstance(event, SampleStep):
            self._show(total=None, visible=True, description=_activity(event), rates="")

    def _rest(self, description: str, likelihood: str) -> None:
        self._progress.reset(
            self._task,
            total=None,
            visible=True,
            description=description,
            rates="",
            likelihood=likelihood,
            outlook="",
        )

    def _advance(self, chunk: ChunkDone) -> None:
        self._n_rows += chunk.n_rows
        self._n_bytes += chunk.n_bytes
        seconds = time.perf_counter() - self._started
        rates = describe_rates(self._n_rows, self._n_bytes, seconds)
        self._show(completed=self._n_rows, rates=rates)

    def _show(self, **changes: Any) -> None:
        self._progress.update(self._task, **changes)


@contextmanager
def reporting(quiet: bool = False) -> Iterator[Listener]:
    """Yield a listener for a command: a bar on a terminal, lines elsewhere, nothing if quiet."""
    if quiet:
        yield lambda event: None
    elif _is_interactive():
        with ProgressBar() as bar:
            yield bar
    else:
        yield LineReporter()


def _is_interactive() -> bool:
    from rich.console import Console

    # The settings of rich can treat a file as a terminal, but a file should not contain bars.
    return sys.stderr.isatty() and Console(stderr=True).is_interactive


def describe(event: Event, n_bytes: int) -> str | None:
    """Return one line on an event; None for one that gets no line of its own.

    Parameters
    ----------
    event : Event
    n_bytes : int
        Size of the values of the present pass.

    Returns
    -------
    str or None
    """
    match event:
        case FitStarted():
            return describe_fit(event)
        case KernelCompiling():
            return describe_compiling(event)
        case ReadDone():
            return describe_read(event, n_bytes)
        case SurveyDone():
            return describe_survey(event)
        case SampleStage():
            return describe_stage(event)
        case ComponentsDegenerate():
            return describe_degenerate(event)
        case MixtureFound() | ComponentsReseeded() | ChangeDetected():
            return describe_stream(event)
        case RowsLearned() | BatchKnown() | FilesSkipped():
            return describe_update(event)
        case _:
            return None


def describe_compiling(event: KernelCompiling) -> str:
    """Return one line on a kernel that is being compiled."""
    how_often = "once per machine" if event.is_kept else "again, as no folder can keep them"
    return f"compiling kernels, {how_often}"


def describe_detail(event: Detail) -> str:
    """Return one line on a detail of the work in memory."""
    text = _activity(event)
    if isinstance(event, StageStarted | StartBegun):
        return f"{text} begins"
    if math.isfinite(event.log_likelihood):
        text += f", {describe_likelihood(event.log_likelihood, math.nan)}"
    inertia = getattr(event, "inertia", math.nan)
    return f"{text}, inertia {inertia:.6g}" if math.isfinite(inertia) else text


def _activity(event: Detail) -> str:
    """Return the present work in memory."""
    match event:
        case StageStarted():
            return f"sample, {event.name} on {event.n_rows:,} rows"
        case StartBegun() | StartDone():
            return f"sample, start {event.number} of {event.n_starts}"
        case RoundDone():
            return f"sample, round {event.number}"
        case SampleStep():
            return f"sample, {event.stage}, iteration {event.number}"


def describe_passes(n_passes: int) -> str:
    """Return a predicted number of passes."""
    return f"about {n_passes} pass{'es' * (n_passes != 1)} left"


def describe_seconds(seconds: float) -> str:
    """Return a duration."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, seconds = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02} min"


def describe_fit(fit: FitStarted) -> str:
    """Return one line on the work that a fit needs."""
    sizes = f"{fit.n_rows:,} rows of {fit.n_features} features, {fit.n_components} components"
    return (
        f"{sizes}, {fit.n_parameters:,} parameters; {with_prefix(fit.n_bytes)}B and "
        f"{with_prefix(fit.n_operations)}flop per pass, {with_prefix(fit.work_bytes)}B per thread"
    )


def describe_read(read: ReadDone, n_bytes: int) -> str:
    """Return one line on a pass over ``n_bytes`` bytes."""
    parts = [_title(read) + (f" {read.iteration}" if read.iteration else "")]
    if not math.isnan(read.log_likelihood):
        parts.append(describe_likelihood(read.log_likelihood, read.gain))
    parts.append(describe_rates(read.n_rows, n_bytes, read.seconds))
    parts.append(f"{read.seconds:.2f} s")
    if read.skipped.n_rows:
        parts.append(str(read.skipped))
    if not read.accepted:
        parts.append("not accepted")
    return ", ".join(parts)


def describe_survey(survey: SurveyDone) -> str:
    """Return one line on the rows, their sample, and columns that are most often a mistake."""
    text = f"{survey.n_rows:,} rows surveyed"
    if survey.skipped.n_rows:
        text += f", {survey.skipped}"
    text += f"; sample of {survey.n_sampled:,}"
    if survey.n_unexplained:
        text += f", {survey.n_unexplained:,} of rare kinds"
    if survey.shortfall > 0.0:
        text += f"; expected loss from sampling {survey.shortfall:.1e} nats per row"
    constant = survey.constant_features
    if constant:
        names = ", ".join(constant[:_NAMED]) + ", ..." * (len(constant) > _NAMED)
        text += f"; the same value in all rows: column(s) {names}"
    return text


def describe_stage(stage: SampleStage) -> str:
    """Return one line on a stage of the work in memory."""
    likelihood = describe_likelihood(stage.log_likelihood, math.nan)
    rows = f"{with_prefix(stage.n_row_visits)}rows computed"
    return f"sample, {stage.name}: {likelihood}, {rows}, {stage.seconds:.2f} s"


def _title(read: ReadStarted | ReadDone) -> str:
    return f"pass {read.number}, {read.purpose}" if read.number else read.purpose


def describe_likelihood(log_likelihood: float, gain: float) -> str:
    """Return a mean log-likelihood, and its gain if there is one."""
    text = f"log-likelihood {log_likelihood:.6f}"
    return f"{text} ({gain:+.1e})" if math.isfinite(gain) else text


def describe_rates(n_rows: int, n_bytes: int, seconds: float) -> str:
    """Return the rows and bytes per second."""
    seconds = max(seconds, 1e-9)
    return f"{with_prefix(n_rows / seconds)}rows/s {with_prefix(n_bytes / seconds)}B/s"


def describe_degenerate(event: ComponentsDegenerate) -> str:
    """Return one line on components that lost their mass or collapsed."""
    parts = []
    if event.empty:
        parts.append(f"without mass: {', '.join(map(str, event.empty))}")
    if event.collapsed:
        parts.append(f"collapsed and widened: {', '.join(map(str, event.collapsed))}")
    return f"pass {event.number}, components {'; '.join(parts)}"


def describe_stream(event: MixtureFound | ComponentsReseeded | ChangeDetected) -> str:
    """Return one line on an event of learning a stream."""
    place = f"row {event.n_samples:.10g}"
    if isinstance(event, MixtureFound):
        return f"{place}, mixture found among {event.n_rows:,} rows"
    if isinstance(event, ComponentsReseeded):
        return f"{place}, components begin anew: {', '.join(map(str, event.components))}"
    likelihood = f"{event.log_likelihood:.6f} where {event.expected:.6f} was expected"
    return f"{place}, the stream has changed: log-likelihood {likelihood}"


def describe_update(event: RowsLearned | BatchKnown | FilesSkipped) -> str:
    """Return one line on rows that were learned, or were already known."""
    if isinstance(event, FilesSkipped):
        return (
            f"{event.folder}: {len(event.names):,} files up to {event.names[-1]} skipped; names "
            "below the remembered ones count as learned, so give new files names that come later "
            "in the order of text"
        )
    if isinstance(event, BatchKnown):
        return f"batch {event.batch_id} was learned before"
    batch = "" if event.batch_id is None else f" (batch {event.batch_id})"
    text = f"{event.data}{batch}: {event.n_rows:,} rows learned, {event.n_samples:,.10g} in all"
    return f"{text}; {event.skipped}" if event.skipped.n_rows else text
