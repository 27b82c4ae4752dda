"""Fits during failures: killed workers, killed schedulers, and a killed process of the fit.

``python -m benchmarks.failures [--repeat 10] [--writes 25] [--small] [--save]``

Clusters consist of processes of this machine. A fit bears a failure if its result has the same bits
as without the failure. If no worker is left, the fit must end with an error that names the failure,
and continue from its checkpoint to the same bits. A write of a checkpoint is interrupted at each of
its steps.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from benchmarks.reporting import Table, report
from tests.failures.checkpoint import STEPS, fit, killed_in_a_write
from tests.failures.cluster import FAILURES, Outcome, cluster_of

_SAID = {
    "before": "before anything is written",
    "within": "within the file",
    "unnamed": "before the file takes its name",
    "renamed": "after that",
}


def row(name: str, provoked: Iterable[Callable[[Path], tuple[bool, bool]]]) -> list[str]:
    """Return a row of a table: how often a failure happened, and how often a fit bore it."""
    start, found = time.perf_counter(), []
    for provoke in provoked:
        with tempfile.TemporaryDirectory() as folder:
            found.append(provoke(Path(folder)))
    seconds = (time.perf_counter() - start) / len(found)
    n_struck = sum(has_struck for has_struck, _ in found)
    n_borne = sum(has_struck and is_borne for has_struck, is_borne in found)
    return [name, str(len(found)), str(n_struck), str(n_borne), f"{seconds:.1f}"]


def writes(n_writes: int) -> list[list[str]]:
    """Return rows of the table: fits killed in their first writes, at each step of a write."""
    with tempfile.TemporaryDirectory() as name:
        whole = Path(name) / "whole.gmm"
        fit(None, whole)

        def killed(step: str, count: int) -> Callable[[Path], tuple[bool, bool]]:
            return lambda folder: killed_in_a_write(folder, whole, step, count)

        return [
            row(f"killed {_SAID[step]}", [killed(step, count) for count in range(n_writes)])
            for step in STEPS
        ]


def on_a_cluster(provoke: Callable[[Path, Any], Outcome]) -> Callable[[Path], tuple[bool, bool]]:
    """Return a function that provokes a failure on a new cluster for each call."""

    def provoked(folder: Path) -> tuple[bool, bool]:
        with cluster_of(2, memory_limit="2GiB") as client:
            outcome = provoke(folder, client)
        return outcome.has_struck, outcome.is_borne

    return provoked


def clusters(repeat: int) -> list[list[str]]:
    """Return rows of the table: fits on clusters."""
    return [row(name, [on_a_cluster(provoke)] * repeat) for name, provoke in FAILURES.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=10, help="times each failure of a cluster")
    parser.add_argument("--writes", type=int, default=25, help="writes that are interrupted")
    parser.add_argument("--small", action="store_true", help="each failure once")
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    repeat, n_writes = (1, 2) if options.small else (options.repeat, options.writes)
    # This comes first, because processes must be forked before there are threads.
    of_writes = writes(n_writes)
    of_clusters = clusters(repeat)
    header = ["failure", "times", "happened", "borne", "seconds each"]
    tables = [
        Table(header, of_clusters, "Failures of a cluster in the middle of a fit."),
        Table(header, of_writes, "Fits killed while they write a file of their checkpoint."),
    ]
    command = f"python -m benchmarks.failures --repeat {repeat} --writes {n_writes}"
    report("failures", command, tables, options.save and not options.small)
    if any(row[1] != row[3] for row in of_clusters + of_writes):
        raise SystemExit("not every failure was borne")


if __name__ == "__main__":
    main()
