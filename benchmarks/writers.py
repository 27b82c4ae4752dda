"""Concurrent writers of the file of one model; some of them are killed.

``python -m benchmarks.writers [--seconds 60] [--kills 20] [--seed 0] [--small] [--save]``

Six processes work on one file, which is also the model of a checkpoint. Three update it with their
own batches, two load it, learn a row and save it, and one overwrites it: with the fit of the
checkpoint, with a new fit, and with ``streamgmm fit -o``. At times one of them is killed (SIGKILL)
and another takes its role. Each process records a write after the call has returned. At the end the
file must contain all recorded writes: each batch is in the ledger, and the number of rows is that
of the batches and of the saves.
"""

import argparse
import os
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from itertools import cycle
from pathlib import Path

import numpy as np
from click.testing import CliRunner

import streamgmm
from benchmarks.reporting import Table, report
from streamgmm.cli import main as command_line
from streamgmm.errors import OutputError
from tests.failures.checkpoint import exit_code, forked

_BATCH_ROWS, _N_FEATURES = 3, 2
_UPDATERS, _SAVERS = 3, 2


class Writer:
    """The work of a process until it is killed, or the time is over.

    Parameters
    ----------
    folder : Path
    number : int
        Number of the process.
    """

    def __init__(self, folder: Path, number: int) -> None:
        self.folder, self.number = folder, number
        self.model = folder / "checkpoint" / "model.gmm"
        self.random = np.random.default_rng(number)
        self.overwrites = cycle(
            [
                lambda: checkpointed(folder, resume=True),
                lambda: batch_model().fit(rows_of_fit()).save(self.model),
                lambda: fit_command(folder / "rows.npy", self.model),
            ]
        )

    def work(self, attempt: Callable[[str], None], deadline: float) -> None:
        """Attempt to write repeatedly, and record how each attempt ended."""
        while time.monotonic() < deadline:
            # Ids have to increase in the long run, because a ledger forgets the lowest ids.
            name = f"{time.monotonic_ns()}-{self.number}"
            self.note("begun", name)
            try:
                attempt(name)
            except OutputError:
                self.note("refused", name)
            else:
                self.note("written", name)

    def note(self, what: str, name: str) -> None:
        """Write a line to a file, which remains when the process is killed."""
        with (self.folder / f"{self.number}.log").open("a") as log:
            log.write(f"{what} {name}\n")

    def update(self, name: str) -> None:
        """Learn a batch that no other process has."""
        rows = self.random.normal(size=(_BATCH_ROWS, _N_FEATURES))
        streamgmm.update(self.model, rows, batch_id=name)

    def save(self, name: str) -> None:
        """Learn a row in memory, and save the model to its file."""
        model = streamgmm.load(self.model)
        model.partial_fit(self.random.normal(size=(1, _N_FEATURES)))
        model.save(self.model)

    def overwrite(self, name: str) -> None:
        """Write a model that has not learned the data of the model in the file."""
        next(self.overwrites)()


def fit_command(data: Path, out: Path) -> None:
    """Fit and save from the command line."""
    found = CliRunner().invoke(command_line, ["fit", str(data), "-k", "2", "-q", "-o", str(out)])
    if found.exit_code:
        raise OutputError(found.output)


def rows_of_fit() -> np.ndarray:
    random = np.random.default_rng(0)
    return random.normal(size=(300, _N_FEATURES)) + 8.0 * random.integers(0, 2, (300, 1))


def batch_model(**settings: object) -> streamgmm.GaussianMixture:
    return streamgmm.GaussianMixture(2, random_state=0, n_jobs=1, **settings)


def checkpointed(folder: Path, resume: bool = False) -> None:
    """Run the fit of the checkpoint."""
    batch_model(checkpoint=folder / "checkpoint").fit(rows_of_fit(), resume=resume)


def mixed_writers(folder: Path, seconds: float, n_kills: int, seed: int) -> Counter[str]:
    """Return how often writers began, wrote and were refused, after checking the file.

    Raises
    ------
    AssertionError
        If the file lacks a recorded write.
    """
    np.save(folder / "rows.npy", rows_of_fit())
    checkpointed(folder)
    model = folder / "checkpoint" / "model.gmm"
    streamgmm.update(model, rows_of_fit()[:_BATCH_ROWS], batch_id="0-0")
    n_before = streamgmm.load(model).n_samples_seen_
    random, start = np.random.default_rng(seed), time.monotonic()
    deadline = start + seconds
    roles = ["update"] * _UPDATERS + ["save"] * _SAVERS + ["overwrite"]
    n_started = 0

    def started(role: str) -> int:
        nonlocal n_started
        n_started += 1
        writer = Writer(folder, n_started)
        return forked(lambda: writer.work(getattr(writer, role), deadline))

    children = [(role, started(role)) for role in roles]
    kind_of = dict(zip(range(1, n_started + 1), roles, strict=True))
    for moment in np.sort(random.uniform(0.0, seconds, n_kills)):
        time.sleep(max(start + moment - time.monotonic(), 0.0))
        place = int(random.integers(len(children)))
        role, child = children[place]
        os.kill(child, signal.SIGKILL)
        assert exit_code(child) == -signal.SIGKILL
        children[place] = role, started(role)
        kind_of[n_started] = role
    for _, child in children:
        assert exit_code(child) == 0
    # The result of an attempt that was neither written nor refused is unknown.
    outcome = {kind: lines_of(folder, kind_of, kind) for kind in ("begun", "written", "refused")}
    found = streamgmm.load(model)
    batches = {name: role for name, role in outcome["written"].items() if role == "update"}
    known = found.state_.ledger.batches
    lost = [name for name in batches if known.get(name) is None and not known.is_below(name)]
    assert not lost, f"updates that are lost: {lost}"
    rows = {"update": _BATCH_ROWS, "save": 1, "overwrite": 0}
    unknown = outcome["begun"].keys() - outcome["written"].keys() - outcome["refused"].keys()
    least = n_before + sum(rows[role] for role in outcome["written"].values())
    most = least + sum(rows[outcome["begun"][name]] for name in unknown)
    assert least <= found.n_samples_seen_ <= most, (least, found.n_samples_seen_, most)
    assert "overwrite" not in outcome["written"].values()
    streamgmm.update(model, rows_of_fit()[:1])
    left = {path.name for path in model.parent.iterdir() if path.name.startswith(".")}
    assert not left, left
    return Counter({kind: len(lines) for kind, lines in outcome.items()})


def lines_of(folder: Path, kind_of: dict[int, str], kind: str) -> dict[str, str]:
    """Return names of attempts that ended in one way, and the roles of their processes."""
    found = {}
    for number, role in kind_of.items():
        log = folder / f"{number}.log"
        for line in log.read_text().splitlines() if log.exists() else ():
            if line.startswith(f"{kind} "):
                found[line.removeprefix(f"{kind} ")] = role
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--small", action="store_true", help="6 seconds and 4 kills")
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    if options.small:
        options.seconds, options.kills = 6.0, 4
    with tempfile.TemporaryDirectory() as folder:
        counts = mixed_writers(Path(folder), options.seconds, options.kills, options.seed)
    row = [str(options.kills), *(f"{counts[kind]:,}" for kind in ("begun", "written", "refused"))]
    header = ["kills", "writes begun", "acknowledged, and in the file", "refused with an error"]
    command = f"python -m benchmarks.writers --seconds {options.seconds:g} --kills {options.kills}"
    report("writers", f"{command} --seed {options.seed}", [Table(header, [row])], options.save)


if __name__ == "__main__":
    main()
