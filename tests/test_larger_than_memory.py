"""Data larger than the memory limit are fitted within it, interpreter and imports included."""

import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import zarr
from zarr.codecs import ZstdCodec

N_CHUNKS, CHUNK_ROWS, D = 144, 65536, 8
N = N_CHUNKS * CHUNK_ROWS
LIMIT = 450 << 20

FIT = """
    import sys
    import warnings
    from pathlib import Path
    from sklearn.exceptions import ConvergenceWarning
    from streamgmm import GaussianMixture
    path, limit, n_rows = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    warnings.simplefilter("ignore", ConvergenceWarning)
    model = GaussianMixture(3, random_state=0, max_iter=1, n_jobs=2, memory_limit=limit).fit(path)
    assert model.history_[-1]["n_rows"] == n_rows
    # Not ru_maxrss, which begins with the peak of the process that started this one.
    status = Path("/proc/self/status").read_text()
    print(int(status.partition("VmHWM:")[2].split()[0]) * 1024)
    print(*sorted(model.means_[:, 0].tolist()))
"""


def chunk(i: int) -> np.ndarray:
    """Rows about -20, 0 and 20, in few digits, so that they compress."""
    rng = np.random.default_rng(i)
    centres = 20.0 * rng.integers(-1, 2, (CHUNK_ROWS, 1))
    return centres + rng.integers(-128, 128, (CHUNK_ROWS, D), dtype=np.int8) / 64.0


def store_zarr(path: Path) -> None:
    array = zarr.create_array(
        path, shape=(N, D), chunks=(CHUNK_ROWS, D), dtype="f8", compressors=ZstdCodec(level=1)
    )
    for i in range(N_CHUNKS):
        array[i * CHUNK_ROWS : (i + 1) * CHUNK_ROWS] = chunk(i)


def store_npy(path: Path) -> None:
    array = np.lib.format.open_memmap(path, mode="w+", dtype="f8", shape=(N, D))
    for i in range(N_CHUNKS):
        array[i * CHUNK_ROWS : (i + 1) * CHUNK_ROWS] = chunk(i)
    array.flush()


@pytest.mark.parametrize("suffix", [".zarr", ".npy"])
def test_peak_memory_is_within_the_limit(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"x{suffix}"
    (store_zarr if suffix == ".zarr" else store_npy)(path)
    assert N * D * 8 > 1.25 * LIMIT
    command = [sys.executable, "-c", textwrap.dedent(FIT), str(path)]
    # The first process may compile the kernels, which takes memory; the second one loads them.
    subprocess.run([*command, str(4 * LIMIT), str(N)], capture_output=True, check=True)
    # A process of its own: the peak of this one has been higher.
    ended = subprocess.run([*command, str(LIMIT), str(N)], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    peak, means = ended.stdout.splitlines()
    assert int(peak) <= LIMIT
    found = [float(mean) for mean in means.split()]
    np.testing.assert_allclose(found, [-20.0, 0.0, 20.0], atol=0.1)
