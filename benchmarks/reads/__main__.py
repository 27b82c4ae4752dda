"""The command of this package."""

import argparse
import re
import sys
import time
import warnings
from collections.abc import Callable
from functools import cache

from sklearn.exceptions import ConvergenceWarning

from benchmarks.machine import keep_to_cores
from benchmarks.reads.cells import (
    HELD_OUT_ROWS,
    Cell,
    Rows,
    fewer_rows_suite,
    small_suite,
    suite,
)
from benchmarks.reads.measure import find, time_defaults
from benchmarks.reads.records import Record, load, save
from benchmarks.reads.tables import plot, tables
from benchmarks.reads.ways import WAYS
from benchmarks.reporting import RESULTS, report
from streamgmm.errors import DegenerateComponentWarning

_TIMING = "timing"


def measure(
    cell: Cell, record: Record, wanted: str, restarts: int, threads: int, keep: Callable[[], None]
) -> None:
    """Find what is wanted and not known of a cell, and have each thing kept as soon as it is."""

    @cache
    def rows(held_out: bool) -> Rows:
        n_rows = min(HELD_OUT_ROWS, cell.n_rows) if held_out else cell.n_rows
        return cell.population.rows(n_rows, held_out)

    for way in WAYS:
        if way.name not in record.found and re.search(wanted, way.name):
            start = time.perf_counter()
            record.found[way.name] = find(
                way, rows(False), rows(True), cell.n_components, restarts, threads
            )
            keep()
            _notify(f"{cell.name}: {way.name}, {time.perf_counter() - start:.0f} s")
    if record.timing is None and re.search(wanted, _TIMING):
        record.timing = time_defaults(rows(False), cell.n_components, threads)
        keep()


def forget(record: Record, pattern: str) -> None:
    """Drop what the ways that match have found, and the timing if that matches."""
    record.found = {
        way: found for way, found in record.found.items() if not re.search(pattern, way)
    }
    if re.search(pattern, _TIMING):
        record.timing = None


def _notify(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", default="", metavar="PATTERN", help="those whose name matches")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--restarts", type=int, default=10, help="of scikit-learn")
    parser.add_argument(
        "--ways",
        default="",
        metavar="PATTERN",
        help=f'those that match, and "{_TIMING}" if it does',
    )
    parser.add_argument("--again", action="store_true", help="forget first what these found")
    parser.add_argument(
        "--fewer-rows", action="store_true", help="cells of 100 to 2,000 rows for each parameter"
    )
    parser.add_argument("--small", action="store_true", help="few cells, few rows")
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    keep_to_cores(options.threads)
    # Long fits end where they end, and components that collapse are counted.
    warnings.simplefilter("ignore", ConvergenceWarning)
    warnings.simplefilter("ignore", DegenerateComponentWarning)
    name = "reads_fewer_rows" if options.fewer_rows else "reads"
    kept = RESULTS / f"{name}.json"
    cells = fewer_rows_suite() if options.fewer_rows else suite()
    if options.small:
        cells = small_suite()
    records = {} if options.small else load(kept)
    results = [(cell, records.setdefault(cell.name, Record())) for cell in cells]

    def keep() -> None:
        if not options.small:
            save(records, kept)

    for cell, record in results:
        if re.search(options.cells, cell.name):
            if options.again:
                forget(record, options.ways)
            measure(cell, record, options.ways, options.restarts, options.threads, keep)
    settings = f"--threads {options.threads} --restarts {options.restarts}"
    command = f"python -m benchmarks.reads {'--fewer-rows ' * options.fewer_rows}{settings}"
    save_report = options.save and not options.small
    report(name, command, tables(results), save_report, plot(results))


if __name__ == "__main__":
    main()
