import argparse
import functools
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import benchmarks.fuzz
from benchmarks.fuzz import checkpoints, models, outputs
from benchmarks.fuzz.trials import ANOTHER_MODEL, REFUSED, SAME, Outcomes, run
from benchmarks.reporting import Table, report

#: Subjects by name: what makes the originals, and what makes a trial of one of them.
_SUBJECTS: dict[str, tuple[Callable[[Path], Any], Callable[..., tuple[str, str]]]] = {
    "models": (models.originals, models.trial),
    "checkpoints": (checkpoints.originals, checkpoints.trial),
    "outputs": (outputs.originals, outputs.trial),
}
_SMALL = {"models": 300, "checkpoints": 40, "outputs": 40}


def tried(subject: str, n_trials: int, first: int, seed: int) -> tuple[Outcomes, float]:
    """Run trials of a subject, and say how they ended and how long they took."""
    make, trial = _SUBJECTS[subject]
    with tempfile.TemporaryDirectory() as folder:
        originals = make(Path(folder))
        start = time.perf_counter()
        numbers = range(first, first + n_trials)
        outcomes = run(functools.partial(trial, originals), numbers, seed)
    return outcomes, time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=benchmarks.fuzz.__doc__)
    parser.add_argument("--models", type=int, default=5000)
    parser.add_argument("--checkpoints", type=int, default=2000)
    parser.add_argument("--outputs", type=int, default=1000)
    parser.add_argument("--only", choices=_SUBJECTS, help="try nothing else")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first trial")
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    rows, faults = [], []
    for subject in [options.only] if options.only else _SUBJECTS:
        n_trials = _SMALL[subject] if options.small else getattr(options, subject)
        outcomes, seconds = tried(subject, n_trials, options.first, options.seed)
        counts = [outcomes.counts[name] for name in (REFUSED, SAME, ANOTHER_MODEL, "fault")]
        rows.append([subject, *(f"{n:,}" for n in (n_trials, *counts)), f"{seconds:.0f}"])
        faults += [f"{subject}, {fault}" for fault in outcomes.faults]
    header = ["files", "trials", REFUSED, SAME, ANOTHER_MODEL, "faults", "seconds"]
    command = "python -m benchmarks.fuzz" + f" --seed {options.seed}" * bool(options.seed)
    report("fuzz", command, [Table(header, rows)], options.save and not options.small)
    if faults:
        raise SystemExit("\n".join(faults))


if __name__ == "__main__":
    main()
