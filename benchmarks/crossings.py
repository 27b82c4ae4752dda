"""Calls between the folders of the package while a model in a file is updated.

``python -m benchmarks.crossings [CHECKOUT] [--save]``

CHECKOUT is the folder of another version's files, to count its calls too. A call crosses if the
caller and the called function are in different top-level folders of the package. The call may go
through other libraries. Two updates are counted: one with a batch of 1,000
rows in memory, and one with a Zarr array of four chunks.
"""

import argparse
import functools
import json
import os
import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

_ROOT = Path(__file__).parent.parent
_MOST_SHOWN = 12


def crossings(function: Callable[[], object]) -> Counter[tuple[str, str]]:
    """Count the calls between folders of the package while a function runs."""
    import streamgmm

    package = Path(streamgmm.__file__).parent
    found: Counter[tuple[str, str]] = Counter()

    def folder(frame: FrameType | None) -> str | None:
        while frame is not None:
            path = Path(frame.f_code.co_filename)
            if path.is_relative_to(package):
                parts = path.relative_to(package).parts
                return parts[0] if len(parts) > 1 else "."
            frame = frame.f_back
        return None

    def count(frame: FrameType, event: str, _: Any) -> None:
        if event != "call" or not Path(frame.f_code.co_filename).is_relative_to(package):
            return
        caller, called = folder(frame.f_back), folder(frame)
        if caller is not None and called is not None and caller != called:
            found[caller, called] += 1

    sys.setprofile(count)
    try:
        function()
    finally:
        sys.setprofile(None)
    return found


def counted() -> dict[str, Any]:
    """Return the total crossings of both updates, and the most frequent pairs of folders."""
    import zarr

    import streamgmm

    warnings.simplefilter("ignore")
    random = np.random.default_rng(0)
    rows = random.normal(size=(5000, 4)) + 6.0 * random.integers(3, size=(5000, 1))
    totals, pairs = {}, Counter[tuple[str, str]]()
    with tempfile.TemporaryDirectory() as folder:
        path, store = Path(folder) / "model.gmm", Path(folder) / "rows.zarr"
        array = zarr.create_array(store, shape=(4000, 4), chunks=(1000, 4), dtype="float64")
        array[:] = rows[:4000]
        model = streamgmm.OnlineGaussianMixture(3, random_state=0).partial_fit(rows)
        model.save(path)
        # The first update does all work that is done once per process.
        streamgmm.update(path, rows[:10], batch_id=0)
        for name, data, batch_id in (
            ("a batch in memory", rows[:1000], 1),
            ("a Zarr array", store, None),
        ):
            found = crossings(functools.partial(streamgmm.update, path, data, batch_id))
            totals[name] = found.total()
            pairs += found
    most = [[f"{a} → {b}", n] for (a, b), n in pairs.most_common(_MOST_SHOWN)]
    return {"totals": totals, "most": most}


def of_checkout(checkout: Path) -> dict[str, Any]:
    """Return the result of :func:`counted` in a process with the package of a checkout."""
    command = [sys.executable, str(Path(__file__).resolve()), "--count"]
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    environment.pop("NUMBA_CACHE_DIR", None)
    done = subprocess.run(
        command, cwd=checkout, env=environment, check=True, capture_output=True, text=True
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkout", type=Path, nargs="?")
    parser.add_argument("--save", action="store_true")
    parser.add_argument("--count", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.count:
        print(json.dumps(counted()))
        return
    from benchmarks.reporting import Table, report

    own = of_checkout(_ROOT)
    other = None if options.checkout is None else of_checkout(options.checkout.resolve())
    rows = [
        [name, str(n), "-" if other is None else str(other["totals"][name])]
        for name, n in own["totals"].items()
    ]
    versions = {"this version": own} | ({} if other is None else {"the other version": other})
    tables = [Table(["update with", "calls that cross", "of the other version"], rows)]
    tables += [
        Table(
            ["from and to", "calls"], [[pair, str(n)] for pair, n in found["most"]], f"In {name}:"
        )
        for name, found in versions.items()
    ]
    report("crossings", "python -m benchmarks.crossings CHECKOUT", tables, options.save)


if __name__ == "__main__":
    main()
