"""Common behaviour of all commands: exit codes, one-line messages, a clean stop."""

import os
import signal
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import click

from streamgmm.cli.vocabulary import in_options
from streamgmm.errors import OutputError, StreamGMMError
from streamgmm.paths import local_path
from streamgmm.quantities import printable
from streamgmm.urls import split

_BAD_INPUT = 2
# Seconds until a signal whose exception was lost is raised again.
_SOON = 0.01
# Bytes that are added to a name for the folder of an unfinished output.
_FOR_UNFINISHED = len(".part")


# Headings of options in the help of a command with many of them, by the names of the arguments.
# Other options come first.
_HEADINGS = {
    "Model and search": (
        "covariance_type",
        "rank",
        "noise",
        "tol",
        "reg_covar",
        "max_iter",
        "n_init",
        "init_params",
        "init_size",
        "algorithm",
        "survey_part",
        "arithmetic",
        "prior",
        "start",
        "fixed",
        "criterion",
        "held_out",
        "n_repeats",
        "half_life",
    ),
    "Description of DATA": (
        "variables",
        "feature_dim",
        "path",
        "columns",
        "missing",
        "format",
        "storage_options",
        "sample_weight",
    ),
    "Interrupted work": ("checkpoint", "checkpoint_interval", "resume"),
    "Computation": ("random_state", "n_jobs", "memory_limit", "executor"),
    "Other": ("quiet", "help"),
}
_FEW_OPTIONS = 10


class Command(click.Command):
    """A command whose messages name its own options."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options; if there are many, under headings."""
        parameters = [one for one in self.get_params(ctx) if isinstance(one, click.Option)]
        if len(parameters) <= _FEW_OPTIONS:
            super().format_options(ctx, formatter)
            return
        heading_of = {name: heading for heading, names in _HEADINGS.items() for name in names}
        sections: dict[str, list[tuple[str, str]]] = {"Options": [], **{h: [] for h in _HEADINGS}}
        for parameter in parameters:
            record = parameter.get_help_record(ctx)
            if record is not None:
                sections[heading_of.get(parameter.name or "", "Options")].append(record)
        for heading, records in sections.items():
            if records:
                with formatter.section(heading):
                    formatter.write_dl(records)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; turn errors of bad input into one line.

        Raises
        ------
        click.ClickException
            Instead of an error of the library.
        """
        try:
            with _one_line_warnings(ctx):
                return super().invoke(ctx)
        except EOFError as error:
            # Click would treat this error as Ctrl-D in a dialogue; here a file is too short.
            raise click.ClickException(f"a file ends too early: {error}") from error
        except BrokenPipeError:
            raise
        except (StreamGMMError, ValueError, OSError, MemoryError) as error:
            message = _with_notes(str(error) or "out of memory", error)
            raise click.ClickException(in_options(message, ctx)) from error
        except KeyboardInterrupt as error:
            error.__notes__ = [in_options(note, ctx) for note in getattr(error, "__notes__", ())]
            raise


class Program(click.Group):
    """A group of commands that ends with an exit code and at most one line about an error."""

    command_class = Command

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run a command and exit."""
        with _stopping_once():
            sys.exit(self._exit_code(*args, **{**extra, "standalone_mode": False}))

    def _exit_code(self, *args: Any, **extra: Any) -> int:
        try:
            result = super().main(*args, **extra)
        except click.Abort as error:
            _complain(_with_notes("interrupted", error.__cause__))
            return 128 + signal.SIGINT
        except click.UsageError as error:
            command = error.ctx.command_path if error.ctx else "streamgmm"
            message = error.format_message()
            end = "" if message.endswith((".", "?")) else "."
            _complain(f"error: {message}{end} See '{command} --help'.")
            return _BAD_INPUT
        except click.ClickException as error:
            _complain(f"error: {error.format_message()}")
            return _BAD_INPUT
        return result if isinstance(result, int) else 0


def _complain(message: str) -> None:
    """Write a message to standard error, in one line."""
    click.echo(printable(" ".join(message.split())), err=True)


def _with_notes(message: str, error: BaseException | None) -> str:
    """Return a message with the notes that were added to an error."""
    return "; ".join([message, *getattr(error, "__notes__", ())])


@contextmanager
def _one_line_warnings(context: click.Context) -> Iterator[None]:
    """Write each warning as one line, in the words of a command."""

    def show(message: Warning | str, *details: Any, **more: Any) -> None:
        _complain(in_options(f"warning: {message}", context))

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


@contextmanager
def _stopping_once() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM unwind the program once; ignore more of them during the cleanup."""
    raised: dict[BaseException, int] = {}

    def stop(number: int, frame: FrameType | None) -> None:
        if raised.keys().isdisjoint(_handled_exceptions()):
            error = KeyboardInterrupt() if number == signal.SIGINT else SystemExit(128 + number)
            raised[error] = number
            raise error

    def try_again(lost: Any) -> None:
        """Raise a signal again if its exception was lost while an object was destroyed."""
        if lost.exc_value not in raised:
            unraisable(lost)
            return
        again = threading.Timer(_SOON, os.kill, (os.getpid(), raised[lost.exc_value]))
        again.daemon = True
        again.start()

    # A signal that is ignored on purpose, as under nohup, stays ignored.
    handled = {
        name: previous
        for name in (signal.SIGINT, signal.SIGTERM)
        if (previous := signal.getsignal(name)) != signal.SIG_IGN
    }
    for name in handled:
        signal.signal(name, stop)
    unraisable, sys.unraisablehook = sys.unraisablehook, try_again
    try:
        yield
    finally:
        sys.unraisablehook = unraisable
        for name, previous in handled.items():
            signal.signal(name, signal.SIG_IGN if raised else previous)


def _handled_exceptions() -> Iterator[BaseException]:
    """Yield the exceptions that are being handled while this is called."""
    error = sys.exception()
    while error is not None:
        yield error
        error = error.__context__


def check_output(path: Path, suffixes: tuple[str, ...], *inputs: str | Path | None) -> None:
    """Refuse, before any work, an output that cannot be written or would overwrite an input.

    Raises
    ------
    OutputError
    """
    text, (location, group) = str(path), split(str(path))
    path = Path(location)
    if path.suffix not in suffixes or (group is not None and ".nc" not in suffixes):
        raise OutputError(f"{text}: the output must end in {' or '.join(suffixes)}")
    folder = path.resolve().parent
    if not folder.is_dir():
        raise OutputError(
            f"{path} cannot be written: there is no directory {folder}; make it first"
        )
    longest = os.pathconf(folder, "PC_NAME_MAX") - _FOR_UNFINISHED
    if len(os.fsencode(path.name)) > longest:
        raise OutputError(
            f"{path} cannot be written: its name is longer than the {longest} bytes that an output "
            "may have there; choose a shorter one"
        )
    if path.is_dir() and path.suffix != ".zarr":
        raise OutputError(f"{path} is a directory; name a file to write to")
    from streamgmm.sinks import check_target

    check_target(text)
    local = [str(source) for source in inputs if source and "://" not in str(source)]
    for source in local:
        file, _, _ = source.partition("::/")
        # A group is compared with the data more closely when it is opened.
        if group is None and _overlap(path.resolve(), Path(file).resolve()):
            raise OutputError(f"{path} and {source} overlap; write somewhere else")
    # Permissions are not enough: root has all of them, and some file systems accept no files.
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".streamgmm-"):
            pass
    except OSError as error:
        raise OutputError(
            f"{path} cannot be written: no file can be created in {folder} ({error.strerror})"
        ) from error


class LocalPath(click.Path):
    """A path on a local disk."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Return the path, or refuse text that is not a path."""
        try:
            return local_path(value, OutputError, "models, outputs and pictures")
        except OutputError as error:
            self.fail(str(error), param, ctx)


def _overlap(a: Path, b: Path) -> bool:
    return a == b or a in b.parents or b in a.parents
