"""Peak memory of fits with a memory limit, each in its own process.

``python -m benchmarks.memory [--gigabytes 8] [--limit 1GiB] [--directory DIR] [--small] [--save]``

The peak is the figure of the operating system for the process (ru_maxrss), with interpreter and
imports.
The same rows are stored three times: as a Zarr array, as a ``.npy`` file, and as labelled variables
over (time, lat, lon) in a Zarr group, where 30 % of all positions hold NaN, as land does in ocean
data.

The second table is on mixtures whose parameters, and the algebra with them, take more memory than
the data. If a limit is refused, the fit uses the smallest limit that the error names. With
``--small`` the shapes are small. The command fails if one of these limits is not kept.
"""

import argparse
import json
import math
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import zarr
from numpy.typing import NDArray

from benchmarks.planted import planted_mixture
from benchmarks.reporting import Table, report
from streamgmm.executors.memory import parse_bytes
from streamgmm.sources.generated import GeneratedSource

N_FEATURES, N_COMPONENTS, CHUNK_ROWS = 8, 8, 65536
LAND = 0.3

FIT = """
import json, resource, sys, time, warnings
import streamgmm
warnings.simplefilter("ignore")
source = streamgmm.open(sys.argv[1], **json.loads(sys.argv[3]))
model = streamgmm.GaussianMixture(
    {k}, algorithm="em", random_state=0, memory_limit=sys.argv[2], max_iter=3, tol=0.0
).fit(source)
reads = [read["n_rows"] / read["seconds"] for read in model.history_ if read["iteration"]]
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, sum(reads) / len(reads))
"""

ALGEBRA = """
import json, resource, sys, warnings
import numpy as np
import streamgmm
from streamgmm.errors import MemoryLimitError
warnings.simplefilter("ignore")
case, limit = json.loads(sys.argv[1]), sys.argv[2]
random = np.random.default_rng(0)
n, d, k = case["n_rows"], case["n_features"], case["n_components"]
X = (3 * random.normal(size=(k, d)))[random.integers(0, k, n)]
X += random.normal(size=(n, d))
if case["kind"] == "gaps":
    X[random.random(X.shape) < 0.01] = np.nan
    X = streamgmm.open(X, missing="em")
if case["kind"] == "Dask":
    import dask.array
    X = dask.array.from_array(X, chunks=(-(-n // 8), d))
settings = dict(covariance_type=case["covariance_type"], random_state=0, memory_limit=limit)
try:
    if case["kind"] == "stream":
        streamgmm.OnlineGaussianMixture(k, init_size=n, **settings).fit(X)
    elif case["kind"] == "merged":
        parts = [
            streamgmm.GaussianMixture(k, algorithm="em", max_iter=1, random_state=seed).fit(X)
            for seed in range(3)
        ]
        streamgmm.OnlineGaussianMixture.merged(parts, memory_limit=limit)
    else:
        algorithm = "em" if case["kind"] == "plain EM" else "auto"
        streamgmm.GaussianMixture(k, algorithm=algorithm, max_iter=20, **settings).fit(X)
except MemoryLimitError as error:
    print("refused:", error)
else:
    print("peak:", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


@dataclass(frozen=True)
class Case:
    """A fit in which the algebra takes much memory."""

    kind: str
    covariance_type: str
    n_rows: int
    n_features: int
    n_components: int
    limit: str


CASES = [
    Case("fit", "full", 1500, 192, 24, "340MiB"),
    Case("fit", "full", 6000, 768, 8, "1.5GiB"),
    Case("fit", "diag", 20_000, 64, 512, "512MiB"),
    Case("fit", "tied", 6000, 768, 8, "1GiB"),
    Case("fit", "spherical", 4000, 4096, 8, "1.5GiB"),
    Case("gaps", "full", 6000, 96, 8, "512MiB"),
    Case("plain EM", "full", 6000, 384, 8, "1GiB"),
    Case("Dask", "full", 6000, 192, 8, "1GiB"),
    Case("stream", "full", 6000, 192, 8, "1GiB"),
    Case("merged", "full", 3000, 256, 8, "1GiB"),
]
SMALL_CASES = [
    Case("fit", "full", 900, 192, 4, "280MiB"),
    Case("fit", "diag", 4000, 32, 64, "512MiB"),
    Case("fit", "tied", 900, 192, 4, "512MiB"),
    Case("plain EM", "full", 900, 192, 4, "512MiB"),
]


def run_case(case: Case) -> tuple[str, float]:
    """Return the limit under which a case ran, and its peak in bytes."""
    limit = case.limit
    for _ in range(2):
        command = [sys.executable, "-c", ALGEBRA, json.dumps(case.__dict__), limit]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        kind, _, text = output.strip().splitlines()[-1].partition(": ")
        if kind == "peak":
            return limit, float(text)
        named = re.search(r"smallest limit that works is '(\w+)'", text)
        if named is None:
            raise RuntimeError(text)
        limit = named[1]
    raise RuntimeError(f"{case} is refused under the limit that its refusal names, {limit}")


def algebra_table(cases: list[Case]) -> tuple[Table, bool]:
    """Return the table of cases, and whether all of them kept their limit."""
    rows, kept = [], True
    for case in cases:
        limit, peak = run_case(case)
        n_bytes = parse_bytes(limit)
        kept = kept and peak <= n_bytes
        rows.append(
            [
                case.kind,
                case.covariance_type,
                f"{case.n_rows} x {case.n_features}",
                str(case.n_components),
                case.limit,
                "accepted" if limit == case.limit else f"refused; {limit} works",
                f"{peak / 2**20:.0f}",
                f"{peak / n_bytes:.2f}",
            ]
        )
    header = ["what", "covariances", "rows", "components", "limit", "answer"]
    return Table([*header, "peak RSS, MiB", "peak / limit"], rows), kept


def write_data(directory: Path, n_rows: int) -> dict[str, tuple[Path, dict[str, object]]]:
    """Write the same rounded rows in each format; return paths, and arguments to open them."""
    mixture = planted_mixture(N_FEATURES, N_COMPONENTS)
    source = GeneratedSource(mixture, n_rows, chunk_rows=CHUNK_ROWS)
    shape = (n_rows, N_FEATURES)
    store = zarr.create_array(
        str(directory / "rows.zarr"), shape=shape, chunks=(CHUNK_ROWS, N_FEATURES), dtype="f8"
    )
    names = [f"v{d}" for d in range(N_FEATURES)]
    group = zarr.create_group(str(directory / "variables.zarr"))
    n_steps, side = n_rows // CHUNK_ROWS, math.isqrt(CHUNK_ROWS)
    variables = [
        group.create_array(
            name,
            shape=(n_steps, side, side),
            chunks=(1, side, side),
            dtype="f8",
            dimension_names=["time", "lat", "lon"],
        )
        for name in names
    ]
    is_land = np.random.default_rng(0).random((side, side)) < LAND
    file = directory / "rows.npy"
    with file.open("wb") as stream:
        header = {"descr": "<f8", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(stream, header)
        for i, start in enumerate(source.boundaries[:-1]):
            rows: NDArray[np.float64] = np.round(source.read(i).rows, 3)
            store[start : start + len(rows)] = rows
            rows.tofile(stream)
            for variable, column in zip(variables, rows.T, strict=True):
                variable[i] = np.where(is_land, np.nan, column.reshape(side, side))
    return {
        "Zarr array": (directory / "rows.zarr", {}),
        ".npy": (file, {}),
        "Zarr variables, 30 % masked": (
            directory / "variables.zarr",
            {"variables": names, "missing": "drop"},
        ),
    }


def size_on_disk(path: Path) -> int:
    """Return the bytes of a file or of all files below a directory."""
    if path.is_file():
        return path.stat().st_size
    return sum(member.stat().st_size for member in path.rglob("*") if member.is_file())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=8.0, help="size of the array, 10⁹ bytes")
    parser.add_argument("--limit", default="1GiB")
    parser.add_argument("--directory", default=None, help="where the data are put for a while")
    parser.add_argument("--small", action="store_true", help="small shapes in the second table")
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    n_rows = max(1, int(options.gigabytes * 1e9) // (8 * N_FEATURES * CHUNK_ROWS)) * CHUNK_ROWS
    limit = parse_bytes(options.limit)
    table = []
    with tempfile.TemporaryDirectory(dir=options.directory) as directory:
        for name, (path, opening) in write_data(Path(directory), n_rows).items():
            script = FIT.format(k=N_COMPONENTS)
            command = [sys.executable, "-c", script, path, options.limit, json.dumps(opening)]
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            peak, rate = map(float, output.split())
            table.append(
                [
                    name,
                    f"{n_rows * N_FEATURES * 8 / 1e9:.2f}",
                    f"{size_on_disk(path) / 1e9:.2f}",
                    f"{limit / 2**30:.2f}",
                    f"{peak / 2**30:.2f}",
                    f"{peak / limit:.2f}",
                    f"{rate / 1e6:.1f}",
                ]
            )
    sizes = ["GB", "GB on disk", "limit, GiB", "peak RSS, GiB", "peak / limit"]
    header = ["input", *sizes, "million rows/s"]
    command = (
        f"python -m benchmarks.memory --gigabytes {options.gigabytes:g} --limit {options.limit}"
    )
    algebra, kept = algebra_table(SMALL_CASES if options.small else CASES)
    report("memory", command, [Table(header, table), algebra], options.save)
    if not kept:
        sys.exit("a memory limit was not kept")


if __name__ == "__main__":
    main()
