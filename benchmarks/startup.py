"""Time to start: imports, the first fits ever, which compile kernels, and that of a later process.

``python -m benchmarks.startup [--runs 7] [--save]``
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time

from benchmarks.reporting import Table, report

REFERENCE = "import numba, scipy.linalg, sklearn.base"
CONSTRUCT = "from streamgmm import GaussianMixture; GaussianMixture()"
SMALL_FIT = """
import numpy as np
from streamgmm import GaussianMixture
rows = np.random.default_rng(0).normal(size=(1000, 3))
GaussianMixture(2, random_state=0).fit(rows)
"""
LARGE_FIT = """
import numpy as np
from streamgmm import GaussianMixture
rows = np.random.default_rng(0).normal(size=(200_000, 8)).astype("float32")
GaussianMixture(2, random_state=0).fit(rows)
"""


def seconds(code: str, cache: str) -> float:
    """Return the wall time of a Python process that runs some code."""
    environment = {**os.environ, "NUMBA_CACHE_DIR": cache}
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as cache:
        first = seconds(SMALL_FIT, cache)
        with tempfile.TemporaryDirectory() as other:
            large = seconds(LARGE_FIT, other)
        runs = [
            [seconds(code, cache) for code in (REFERENCE, CONSTRUCT, SMALL_FIT)]
            for _ in range(options.runs)
        ]
    reference, construct, fit = (statistics.median(column) for column in zip(*runs, strict=True))
    construct_ratio = statistics.median(run[1] / run[0] for run in runs)
    fit_ratio = statistics.median(run[2] / run[0] for run in runs)
    table = [
        [f"`{REFERENCE}`", f"{reference:.2f}", "1"],
        [f"`{CONSTRUCT}`", f"{construct:.2f}", f"{construct_ratio:.2f}"],
        ["first fit of a later process, 1,000 × 3", f"{fit:.2f}", f"{fit_ratio:.2f}"],
        ["first fit ever, 1,000 × 3", f"{first:.1f}", f"{first / reference:.1f}"],
        ["first fit ever, 200,000 × 8, float32", f"{large:.1f}", f"{large / reference:.1f}"],
    ]
    command = f"python -m benchmarks.startup --runs {options.runs}"
    report("startup", command, [Table(["process", "s", "ratio"], table)], options.save)


if __name__ == "__main__":
    main()
