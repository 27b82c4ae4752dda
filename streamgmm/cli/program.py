"""What holds for every command: exit codes, one-line messages, a clean stop."""

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

from streamgmm.errors import OutputError, StreamGMMError

_BAD_INPUT = 2
# Seconds until what a signal raised in vain is raised again.
_SOON = 0.01
# Bytes that the name of a folder for an unfinished output has more.
_FOR_UNFINISHED = len(".part")


class Program(click.Group):
    """A group of commands that ends with an exit code and at most one line about what is wrong."""

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run a command and exit."""
        with _one_line_warnings(), _stopping_once():
            sys.exit(self._exit_code(*args, **{**extra, "standalone_mode": False}))

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command within its context."""
        try:
            return super().invoke(ctx)
        except EOFError as error:
            # Click would take it for Ctrl-D in a dialogue; here a file is too short.
            raise click.ClickException(f"a file ends too early: {error}") from error

    def _exit_code(self, *args: Any, **extra: Any) -> int:
        try:
            result = super().main(*args, **extra)
        except click.Abort as error:
            _complain("interrupted", error.__cause__)
            return 128 + signal.SIGINT
        except click.UsageError as error:
            command = error.ctx.command_path if error.ctx else "streamgmm"
            _complain(f"error: {error.format_message()} See '{command} --help'.")
            return _BAD_INPUT
        except click.ClickException as error:
            _complain(f"error: {error.format_message()}")
            return _BAD_INPUT
        except MemoryError as error:
            _complain(f"error: {str(error) or 'out of memory'}", error)
            return _BAD_INPUT
        except (StreamGMMError, ValueError, OSError) as error:
            _complain(f"error: {error}", error)
            return _BAD_INPUT
        return result if isinstance(result, int) else 0


def _complain(message: str, error: BaseException | None = None) -> None:
    """One line: the message, and what was noted of the error on its way."""
    text = "; ".join([message, *getattr(error, "__notes__", ())])
    click.echo(printable(" ".join(text.split())), err=True)


def printable(text: str) -> str:
    """Return a text with its control characters escaped, so that it cannot steer a terminal."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


@contextmanager
def _one_line_warnings() -> Iterator[None]:
    def show(message: Warning | str, *details: Any, **more: Any) -> None:
        _complain(f"warning: {message}")

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


@contextmanager
def _stopping_once() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM unwind the program once; more of them do not disturb the tidying."""
    raised: dict[BaseException, int] = {}

    def stop(number: int, frame: FrameType | None) -> None:
        if raised.keys().isdisjoint(_handled_exceptions()):
            error = KeyboardInterrupt() if number == signal.SIGINT else SystemExit(128 + number)
            raised[error] = number
            raise error

    def try_again(lost: Any) -> None:
        """What is raised while an object is destroyed ends there."""
        if lost.exc_value not in raised:
            unraisable(lost)
            return
        again = threading.Timer(_SOON, os.kill, (os.getpid(), raised[lost.exc_value]))
        again.daemon = True
        again.start()

    # A signal that is ignored on purpose, as under nohup, stays so.
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
    """Exceptions that are being handled while this is called."""
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
    if path.suffix not in suffixes:
        raise OutputError(f"{path}: the output must end in {' or '.join(suffixes)}")
    folder = path.resolve().parent
    if not folder.is_dir():
        raise OutputError(f"{path} cannot be written: there is no directory {folder}")
    longest = os.pathconf(folder, "PC_NAME_MAX") - _FOR_UNFINISHED
    if len(os.fsencode(path.name)) > longest:
        raise OutputError(
            f"{path} cannot be written: its name is longer than the {longest} bytes that an output "
            "may have there; choose a shorter one"
        )
    if path.is_dir() and path.suffix != ".zarr":
        raise OutputError(f"{path} is a directory; name a file to write to")
    from streamgmm.sinks import check_target

    check_target(path)
    local = [str(source) for source in inputs if source is not None and "://" not in str(source)]
    for source in local:
        file, _, _ = source.partition("::/")
        if _overlap(path.resolve(), Path(file).resolve()):
            raise OutputError(f"{path} and {source} overlap; write somewhere else")
    # Permissions do not tell: root has all of them, and some file systems take no files.
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".streamgmm-"):
            pass
    except OSError as error:
        raise OutputError(
            f"{path} cannot be written: no file can be created in {folder} ({error.strerror})"
        ) from error


def _overlap(a: Path, b: Path) -> bool:
    return a == b or a in b.parents or b in a.parents
