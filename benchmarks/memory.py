"""Peak memory of fits to arrays larger than the memory limit, in processes of their own.

``python -m benchmarks.memory [--gigabytes 8] [--limit 1GiB] [--directory DIR] [--save]``

The peak is the kernel's own figure for the process (ru_maxrss), interpreter and imports included.
The same rows are stored three times: as a Zarr array, as a ``.npy`` file, and as labelled variables
over (time, lat, lon) in a Zarr group, where 30 % of all positions hold NaN, as land does in ocean
data.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
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


def write_data(directory: Path, n_rows: int) -> dict[str, tuple[Path, dict[str, object]]]:
    """The same rows, rounded so that they compress, in each form: path and how it is opened."""
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
    """Bytes of a file or of all files below a directory."""
    if path.is_file():
        return path.stat().st_size
    return sum(member.stat().st_size for member in path.rglob("*") if member.is_file())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=8.0, help="size of the array, 10⁹ bytes")
    parser.add_argument("--limit", default="1GiB")
    parser.add_argument("--directory", default=None, help="where the data are put for a while")
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
    report("memory", command, [Table(header, table)], options.save)


if __name__ == "__main__":
    main()
