"""Scaling and principal components before a mixture: memory, and time of a pass.

``python -m benchmarks.pipelines [--gigabytes 4] [--limit 1GiB] [--directory DIR] [--small]
[--save]``

Rows of 32 columns that vary along 20 directions, and a little along the others, are stored in Zarr,
as float32. A pipeline of a scaler, a PCA of 99 % of the variance and a mixture of 8 components is
fitted to the store with a memory limit, in a process of its own. The peak is the figure of the
operating system for the process (ru_maxrss), with interpreter and imports. Another process measures
a pass of plain EM over the pipeline's rows, a pass that only reads the stored rows, and a pass of
plain EM over projected rows in memory, per row: the two matrix products. Medians of several passes
are compared with the larger of the latter two, which is the time if a disk is waited for while the
processor computes, and with their sum, which is the time if the processor also decodes.

With ``--small`` the store is small. The command fails if the limit is not kept.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import zarr

from benchmarks.reporting import Table, report
from streamgmm.executors.memory import parse_bytes

N_FEATURES, N_DIRECTIONS, N_COMPONENTS, CHUNK_ROWS = 32, 20, 8, 65536
N_DRAWN = 8

FIT = """
import json, resource, sys, time, warnings
from sklearn.pipeline import make_pipeline
from streamgmm import GaussianMixture
from streamgmm.preprocessing import PCA, StandardScaler
warnings.simplefilter("ignore")
path, limit = sys.argv[1:]
start = time.perf_counter()
mixture = GaussianMixture(8, random_state=0, memory_limit=limit)
pipeline = make_pipeline(
    StandardScaler(memory_limit=limit), PCA(0.99, memory_limit=limit), mixture
).fit(path)
print(json.dumps({
    "seconds": time.perf_counter() - start,
    "components": pipeline[1].n_components_,
    "passes": 1 + mixture.n_reads_,
    "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
}))
"""

TIME = """
import json, statistics, sys, time, warnings
import numpy as np
import streamgmm
from sklearn.pipeline import make_pipeline
from streamgmm import GaussianMixture
from streamgmm.executors.threads import ThreadExecutor
from streamgmm.preprocessing import PCA, StandardScaler
from streamgmm.protocols import Job
warnings.simplefilter("ignore")
path, passes = sys.argv[1], int(sys.argv[2])
source = streamgmm.open(path)
times = []
listener = lambda event: times.append(event.seconds) if type(event).__name__ == "ReadDone" else None
front = make_pipeline(StandardScaler(callbacks=[listener]), PCA(0.99, callbacks=[listener]))
mapped = front.fit_transform(source)
n_columns = mapped.n_features
held = np.concatenate([mapped.read(i).rows for i in range(min(len(mapped.boundaries) - 1, 8))])
held = np.ascontiguousarray(held)

class Nothing:
    def merge(self, other):
        return self

def nothing(state, chunk):
    return Nothing()

def seconds_a_row(data, n_rows):
    random = np.random.default_rng(0)
    model = GaussianMixture(
        8, algorithm="em", tol=0.0, max_iter=passes, weights_init=np.full(8, 1 / 8),
        means_init=held[random.integers(len(held), size=8)],
        precisions_init=np.tile(np.eye(n_columns), (8, 1, 1)),
    ).fit(data)
    reads = [read["seconds"] for read in model.history_ if read["iteration"]]
    return statistics.median(reads[1:]) / n_rows

def reading():
    start = time.perf_counter()
    with ThreadExecutor() as executor:
        executor.map_reduce(source, Job(nothing, None), lambda event: None)
    return time.perf_counter() - start

reading()
print(json.dumps({
    "moments": times[0] / source.n_rows,
    "reading": statistics.median(reading() for _ in range(passes)) / source.n_rows,
    "products": seconds_a_row(held, len(held)),
    "pipeline": seconds_a_row(mapped, source.n_rows),
}))
"""


def write_rows(path: Path, n_rows: int) -> None:
    """Write rows of a few groups that vary along some directions, chunk by chunk.

    A few chunks of drawn rows are repeated, each time shifted a little.
    """
    random = np.random.default_rng(0)
    loadings = random.normal(size=(N_DIRECTIONS, N_FEATURES))
    centres = 3.0 * random.normal(size=(N_COMPONENTS, N_DIRECTIONS))
    scales = np.exp(random.normal(size=N_FEATURES))
    drawn = []
    for _ in range(N_DRAWN):
        latent = random.normal(size=(CHUNK_ROWS, N_DIRECTIONS))
        latent += centres[random.integers(N_COMPONENTS, size=CHUNK_ROWS)]
        noise = 0.1 * random.normal(size=(CHUNK_ROWS, N_FEATURES))
        drawn.append((100.0 + scales * (latent @ loadings + noise)).astype(np.float32))
    store = zarr.create_array(
        str(path), shape=(n_rows, N_FEATURES), chunks=(CHUNK_ROWS, N_FEATURES), dtype="f4"
    )
    for i, start in enumerate(range(0, n_rows, CHUNK_ROWS)):
        shift = 0.01 * scales * random.normal(size=N_FEATURES)
        store[start : start + CHUNK_ROWS] = drawn[i % N_DRAWN] + shift.astype(np.float32)


def run(script: str, *arguments: str) -> dict[str, float]:
    """Return what a script prints."""
    command = [sys.executable, "-c", script, *arguments]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    found: dict[str, float] = json.loads(output)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=4.0, help="size of the array, 10⁹ bytes")
    parser.add_argument("--limit", default="1GiB")
    parser.add_argument("--directory", default=None, help="where the data are put for a while")
    parser.add_argument("--small", action="store_true", help="a small store and few passes")
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    if options.small:
        options.gigabytes, options.limit = 0.1, "640MiB"
    n_rows = max(1, int(options.gigabytes * 1e9) // (4 * N_FEATURES * CHUNK_ROWS)) * CHUNK_ROWS
    limit = parse_bytes(options.limit)
    with tempfile.TemporaryDirectory(dir=options.directory) as directory:
        path = Path(directory) / "rows.zarr"
        write_rows(path, n_rows)
        fit = run(FIT, str(path), options.limit)
        seconds = run(TIME, str(path), "3" if options.small else "5")
    memory = Table(
        ["GB", "components kept", "passes", "fit, s", "limit, MiB", "peak RSS, MiB"],
        [
            [
                f"{n_rows * N_FEATURES * 4 / 1e9:.2f}",
                f"{fit['components']} of {N_FEATURES}",
                f"{fit['passes']:.2f}",
                f"{fit['seconds']:.1f}",
                f"{limit / 2**20:.0f}",
                f"{fit['peak'] / 2**20:.0f}",
            ]
        ],
        "A fit of the whole pipeline. One pass gives the scaling and the components.",
    )
    larger = max(seconds["reading"], seconds["products"])
    total = seconds["reading"] + seconds["products"]
    time = Table(
        ["pass", "ns per row", "relative to the larger of the first two", "to their sum"],
        [
            [
                name,
                f"{1e9 * seconds[key]:.0f}",
                f"{seconds[key] / larger:.2f}",
                f"{seconds[key] / total:.2f}",
            ]
            for key, name in (
                ("reading", "reading alone"),
                ("products", "both products, rows in memory"),
                ("pipeline", "EM over the pipeline's rows"),
                ("moments", "moments for scaler and PCA"),
            )
        ],
        "Time of a pass over all rows, divided by their number.",
    )
    command = f"python -m benchmarks.pipelines --gigabytes {options.gigabytes:g} "
    report("pipelines", f"{command}--limit {options.limit}", [memory, time], options.save)
    if fit["peak"] > limit:
        sys.exit("the memory limit was not kept")


if __name__ == "__main__":
    main()
