"""Progress of a fit, for people: listeners of events."""

import math
import sys
from typing import TextIO

from streamgmm.protocols import ComponentsDegenerate, Event, ReadDone


class LineReporter:
    """Writes a line for each read of the data.

    Parameters
    ----------
    every : int
        Iterations between two lines; other reads always get theirs.
    stream : text file, optional
        By default standard error.
    """

    def __init__(self, every: int = 1, stream: TextIO | None = None) -> None:
        self._every = every
        self._stream = stream

    def __call__(self, event: Event) -> None:
        """Listen to an event."""
        if isinstance(event, ReadDone):
            if event.iteration == 0 or (event.iteration - 1) % self._every == 0:
                self._write(describe_read(event))
        elif isinstance(event, ComponentsDegenerate):
            self._write(describe_degenerate(event))

    def _write(self, line: str) -> None:
        print(line, file=self._stream or sys.stderr, flush=True)


def describe_read(read: ReadDone) -> str:
    """One line on a read."""
    parts = [f"read {read.number}", read.purpose + (f" {read.iteration}" if read.iteration else "")]
    if not math.isnan(read.log_likelihood):
        parts.append(f"log-likelihood {read.log_likelihood:.6f}")
        if math.isfinite(read.gain):
            parts.append(f"gain {read.gain:+.2e}")
    parts.append(f"{read.n_rows / max(read.seconds, 1e-9):.3g} rows/s")
    parts.append(f"{read.seconds:.2f} s")
    return ", ".join(parts)


def describe_degenerate(event: ComponentsDegenerate) -> str:
    """One line on components that lost their mass or collapsed."""
    parts = []
    if event.empty:
        parts.append(f"without mass: {', '.join(map(str, event.empty))}")
    if event.collapsed:
        parts.append(f"collapsed and widened: {', '.join(map(str, event.collapsed))}")
    return f"read {event.number}, components {'; '.join(parts)}"
