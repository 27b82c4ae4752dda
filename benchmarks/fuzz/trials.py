"""Run trials in processes of their own, and find out how each of them ended."""

import json
import resource
import signal
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from streamgmm.errors import StreamGMMError
from streamgmm.events import Event
from tests.failures.checkpoint import in_a_fork

# Memory by which a file may grow a process, beside twice its arrays.
MOST_BYTES = 64 << 20
# Trials of one process, and the seconds after which a trial counts as one without an end.
_BATCH, _SECONDS = 100, 120

#: How a trial may end.
REFUSED, SAME, ANOTHER_MODEL = "refused", "the same answer", "another valid model"
_ALLOWED = {REFUSED, SAME, ANOTHER_MODEL}

#: Changes something in a folder by a generator, uses it, and says how: (outcome, change).
Trial = Callable[[Path, np.random.Generator], tuple[str, str]]


class Fault(Exception):
    """A trial ended as none may."""


class Stopped(Exception):
    """Ends work from a callback."""


def stopping_after(kind: type[Event], n_events: int) -> Callable[[Event], None]:
    """Return a callback that raises :class:`Stopped` at an event of a kind, counted from 1."""
    n_left = n_events

    def stop(event: Event) -> None:
        nonlocal n_left
        n_left -= isinstance(event, kind)
        if n_left == 0:
            raise Stopped

    return stop


@dataclass
class Outcomes:
    """Counts of the outcomes of trials.

    Attributes
    ----------
    counts : Counter
    faults : list of str
    """

    counts: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    def add(self, number: int, outcome: str, change: str) -> None:
        """Count the outcome of a trial."""
        self.counts[outcome if outcome in _ALLOWED else "fault"] += 1
        if outcome not in _ALLOWED:
            self.faults.append(f"trial {number}: {change}: {outcome}")


def run(trial: Trial, numbers: Sequence[int], seed: int) -> Outcomes:
    """Run trials by their numbers; each has a folder and a random generator of its own."""
    outcomes = Outcomes()
    left = list(numbers)
    with tempfile.TemporaryDirectory() as name:
        log = Path(name) / "log.jsonl"
        while left:
            batch = left[:_BATCH]
            log.write_text("")
            status = in_a_fork(lambda: _run_batch(trial, batch, seed, Path(name), log))  # noqa: B023
            lines = [json.loads(line) for line in log.read_text().splitlines()]
            for number, (outcome, change) in zip(batch, lines, strict=False):
                outcomes.add(number, outcome, change)
            left = left[len(lines) :]
            if status != 0:
                outcomes.add(left[0], f"the process ended with {status}", "unknown")
                left = left[1:]
    return outcomes


def _run_batch(trial: Trial, numbers: Sequence[int], seed: int, folder: Path, log: Path) -> None:
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with log.open("a") as file:
        for number in numbers:
            signal.alarm(_SECONDS)
            with tempfile.TemporaryDirectory(dir=folder) as own:
                outcome, change = _judged(trial, Path(own), np.random.default_rng([seed, number]))
            file.write(json.dumps([outcome, change]) + "\n")
            file.flush()
        signal.alarm(0)


def _judged(trial: Trial, folder: Path, random: np.random.Generator) -> tuple[str, str]:
    try:
        return trial(folder, random)
    except Fault as fault:
        return str(fault), str(fault.__cause__ or "")


def attempted(use: Callable[[], Any]) -> Any:
    """The result of a function, or the error of streamgmm that it raised.

    Raises
    ------
    Fault
        If it raised any other error.
    """
    try:
        return use()
    except StreamGMMError as error:
        return error
    except Exception as error:
        raise Fault(f"a foreign {type(error).__name__}: {str(error)[:200]}") from error


class MemoryGrowth:
    """The most memory that a process takes more than it did at the beginning."""

    def __enter__(self) -> "MemoryGrowth":
        # The high-water mark begins anew.
        Path("/proc/self/clear_refs").write_text("5")
        self._before = _status("VmRSS")
        self.n_bytes = 0
        return self

    def __exit__(self, *_: object) -> None:
        self.n_bytes = _status("VmHWM") - self._before


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise LookupError(name)


def files_in(folder: Path) -> set[str]:
    """All files and folders in a folder, at any depth."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}
