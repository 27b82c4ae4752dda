"""Processes that are killed as they write a checkpoint.

Fits run in forks of a process that has done a whole one: so it has loaded the kernels, and has no
thread left.
"""

import os
import re
import signal
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from streamgmm import GaussianMixture
from streamgmm.checkpoint import storage as places
from streamgmm.persistence import read_record
from streamgmm.testing.chunked import ChunkedSource

#: Steps of writing a file: before anything, half of it, whole but under its temporary name, done.
STEPS = ("before", "within", "unnamed", "renamed")


def forked(work: Callable[[], object]) -> int:
    """The number of a process that does some work."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:  # noqa: BLE001 - the process ends here
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return child


def exit_code(child: int) -> int:
    """How a process has ended, when it has; negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def in_a_fork(work: Callable[[], object]) -> int:
    """How a process ends that does some work."""
    return exit_code(forked(work))


def die() -> None:
    """Kill this process."""
    os.kill(os.getpid(), signal.SIGKILL)


def kill_at(step: str, count: int, pattern: str = "", writer: Any = places) -> None:
    """Have this process killed as a module writes a file: the one after so many that match."""
    write_whole, replace = writer.write_whole, os.replace
    n_left = count

    def writing(target: Path, write: Callable[[Any], object], **settings: Any) -> None:
        nonlocal n_left
        n_left -= bool(re.search(pattern, target.name))
        if n_left >= 0:
            write_whole(target, write, **settings)
            return
        if step == "before":
            die()

        def half(file: Any) -> None:
            write(file)
            file.flush()
            os.ftruncate(file.fileno(), file.tell() // 2)
            die()

        def replacing(origin: Any, final: Any) -> None:
            if step == "renamed":
                replace(origin, final)
            die()

        os.replace = replacing
        write_whole(target, half if step == "within" else write, **settings)

    writer.write_whole = writing


def content(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """All that a model's file says, but for how long passes and stages took."""
    record = read_record(path)
    fitted = dict(record.header["fitted"])
    for history in ("history_", "sample_history_"):
        fitted[history] = [
            {name: value for name, value in entry.items() if name != "seconds"}
            for entry in fitted.get(history, ())
        ]
    return {"fitted": fitted, "statistics": record.header.get("statistics")}, dict(record.arrays)


def is_same(path: Path, other: Path) -> bool:
    """Whether two files hold the same model, to the last bit."""
    (header, arrays), (other_header, other_arrays) = content(path), content(other)
    return (
        # Some values are NaN.
        repr(header) == repr(other_header)
        and arrays.keys() == other_arrays.keys()
        and all(array.tobytes() == other_arrays[name].tobytes() for name, array in arrays.items())
    )


def fit(checkpoint: Path | None, out: Path) -> None:
    """A fit of some rows in 16 chunks, which keeps each part of each read, and is resumed."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(16_000, 3)) + 5.0 * rng.integers(3, size=(16_000, 1))
    settings = {} if checkpoint is None else {"checkpoint_interval": 1e-9}
    model = GaussianMixture(
        3, tol=1e-3, random_state=0, n_jobs=1, checkpoint=checkpoint, **settings
    )
    model.fit(ChunkedSource(rows, 1000), resume=checkpoint is not None).save(out)


def killed_in_a_write(folder: Path, whole: Path, step: str, count: int) -> tuple[bool, bool]:
    """Whether a fit was killed in a write of its checkpoint, and whether it continued to its end.

    Parameters
    ----------
    folder : Path
        An empty one.
    whole : Path
        The model of a fit that was not killed.
    step : str
        One of STEPS.
    count : int
        Files that are written before.
    """
    checkpoint, out = folder / "checkpoint", folder / "model.gmm"

    def killed() -> None:
        kill_at(step, count)
        fit(checkpoint, out)

    has_struck = in_a_fork(killed) == -signal.SIGKILL
    return has_struck, (
        in_a_fork(lambda: fit(checkpoint, out)) == 0
        and is_same(out, whole)
        and is_same(checkpoint / "model.gmm", out)
        and not list(checkpoint.glob(".*.part"))
    )
