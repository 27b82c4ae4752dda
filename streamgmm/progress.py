"""Progress of the passes, for people: listeners of events.

On a terminal a bar shows the current pass; elsewhere each pass gets a line.
"""

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
    Listener,
    MixtureFound,
    ReadDone,
    ReadStarted,
    RowsLearned,
    SampleStage,
    SurveyDone,
)
from streamgmm.quantities import with_prefix

if TYPE_CHECKING:
    from rich.console import Console


# Number of columns that a line names.
_NAMED = 5


class LineReporter:
    """Writes a line for each pass over the data, and for each stage of the work in memory.

    Parameters
    ----------
    every : int
        Iterations between two lines; other passes always get a line.
    stream : text file, optional
        Output of the lines; standard error by default.
    """

    def __init__(self, every: int = 1, stream: TextIO | None = None) -> None:
        self._every = every
        self._stream = stream
        self._n_bytes = 0

    def __call__(self, event: Event) -> None:
        """Listen to an event."""
        if isinstance(event, FitStarted):
            self._write(describe_fit(event))
        elif isinstance(event, ReadStarted):
            self._n_bytes = event.n_bytes
        elif isinstance(event, ReadDone):
            if event.iteration == 0 or (event.iteration - 1) % self._every == 0:
                self._write(describe_read(event, self._n_bytes))
        elif isinstance(event, SurveyDone):
            self._write(describe_survey(event))
        elif isinstance(event, SampleStage):
            self._write(describe_stage(event))
        elif isinstance(event, ComponentsDegenerate):
            self._write(describe_degenerate(event))
        elif isinstance(event, MixtureFound | ComponentsReseeded | ChangeDetected):
            self._write(describe_stream(event))
        elif isinstance(event, RowsLearned | BatchKnown | FilesSkipped):
            self._write(describe_update(event))

    def _write(self, line: str) -> None:
        print(line, file=self._stream or sys.stderr, flush=True)


class ProgressBar:
    """Shows the current pass on a terminal; a context manager and a listener.

    Rows and bytes per second are those of this pass so far. The log-likelihood and its gain are
    those of the last finished iteration. Between passes the bar names the last finished stage of
    the work in memory.

    Parameters
    ----------
    console : rich.console.Console, optional
        Console of the bar; standard error by default.
    """

    def __init__(self, console: "Console | None" = None) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TaskProgressColumn(),
            TextColumn("{task.fields[rates]}"),
            TextColumn("{task.fields[likelihood]}"),
            console=console or Console(stderr=True),
            expand=True,
            transient=True,
        )
        self._task = self._progress.add_task("", total=None, visible=False, rates="", likelihood="")
        self._started = 0.0
        self._n_rows = self._n_bytes = 0

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    def __call__(self, event: Event) -> None:
        """Listen to an event."""
        if isinstance(event, FitStarted):
            self._progress.console.print(describe_fit(event), highlight=False)
        elif isinstance(event, ReadStarted):
            self._begin(event)
        elif isinstance(event, ChunkDone):
            self._advance(event)
        elif isinstance(event, ReadDone) and not math.isnan(event.log_likelihood):
            self._show(likelihood=describe_likelihood(event.log_likelihood, event.gain))
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

    def _rest(self, description: str, likelihood: str) -> None:
        self._progress.reset(
            self._task, total=None, description=description, rates="", likelihood=likelihood
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

    # The settings of rich can treat a file as a terminal, but bars do not belong in a file.
    return sys.stderr.isatty() and Console(stderr=True).is_interactive


def describe_fit(fit: FitStarted) -> str:
    """Return one line on the work that a fit needs."""
    sizes = f"{fit.n_rows:,} rows of {fit.n_features} features, {fit.n_components} components"
    return (
        f"{sizes}, {fit.n_parameters:,} parameters; {with_prefix(fit.n_bytes)}B and "
        f"{with_prefix(fit.n_operations)}flop a pass, {with_prefix(fit.work_bytes)}B a thread"
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
        text += f"; {survey.shortfall:.1e} nats per row short of all rows"
    constant = survey.constant_features
    if constant:
        names = ", ".join(constant[:_NAMED]) + ", ..." * (len(constant) > _NAMED)
        text += f"; the same value in all rows: column(s) {names}"
    return text


def describe_stage(stage: SampleStage) -> str:
    """Return one line on a stage of the work in memory."""
    likelihood = describe_likelihood(stage.log_likelihood, math.nan)
    visits = f"{with_prefix(stage.n_row_visits)}row visits"
    return f"sample, {stage.name}: {likelihood}, {visits}, {stage.seconds:.2f} s"


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
            f"{event.folder}: {len(event.names):,} files up to {event.names[-1]} skipped; names of "
            "so low an order are not remembered and count as learned, so give new files names "
            "that rise"
        )
    if isinstance(event, BatchKnown):
        return f"batch {event.batch_id} was learned before"
    batch = "" if event.batch_id is None else f" (batch {event.batch_id})"
    text = f"{event.data}{batch}: {event.n_rows:,} rows learned, {event.n_samples:,.10g} in all"
    return f"{text}; {event.skipped}" if event.skipped.n_rows else text
