"""Peak memory of fits to arrays larger than the memory limit, in processes of their own.

``python -m benchmarks.memory [--gigabytes 8] [--limit 1GiB] [--directory DIR] [--save]``

The peak is the kernel's own figure for the process (ru_maxrss), interpreter and imports included.
"""

import argparse
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

FIT = """
import resource, sys, time, warnings
import streamgmm
warnings.simplefilter("ignore")
model = streamgmm.GaussianMixture(
    {k}, random_state=0, memory_limit=sys.argv[2], max_iter=3, tol=0.0
).fit(sys.argv[1])
reads = [read["n_rows"] / read["seconds"] for read in model.history_ if read["iteration"]]
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, sum(reads) / len(reads))
"""


def write_data(directory: Path, n_rows: int) -> tuple[Path, Path]:
    """The same rows, rounded so that they compress, as a Zarr array and as a ``.npy`` file."""
    mixture = planted_mixture(N_FEATURES, N_COMPONENTS)
    source = GeneratedSource(mixture, n_rows, chunk_rows=CHUNK_ROWS)
    shape = (n_rows, N_FEATURES)
    store = zarr.create_array(
        str(directory / "rows.zarr"), shape=shape, chunks=(CHUNK_ROWS, N_FEATURES), dtype="f8"
    )
    file = directory / "rows.npy"
    with file.open("wb") as stream:
        header = {"descr": "<f8", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(stream, header)
        for i, start in enumerate(source.boundaries[:-1]):
            rows: NDArray[np.float64] = np.round(source.read(i).rows, 3)
            store[start : start + len(rows)] = rows
            rows.tofile(stream)
    return directory / "rows.zarr", file


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
    n_rows = int(options.gigabytes * 1e9) // (8 * N_FEATURES)
    limit = parse_bytes(options.limit)
    table = []
    with tempfile.TemporaryDirectory(dir=options.directory) as directory:
        for path in write_data(Path(directory), n_rows):
            command = [sys.executable, "-c", FIT.format(k=N_COMPONENTS), str(path), options.limit]
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            peak, rate = map(float, output.split())
            table.append(
                [
                    path.suffix,
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
    command = f"python -m benchmarks.memory --gigabytes {options.gigabytes} --limit {options.limit}"
    report("memory", command, [Table(header, table)], options.save)


if __name__ == "__main__":
    main()
