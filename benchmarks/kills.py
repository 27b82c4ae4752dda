"""Updates of a model in a file by processes that are killed at random moments.

``python -m benchmarks.kills [--kills 1000] [--seed 0] [--save]``

A job learns batches with ids, an array in pieces and a folder of files, and saves after each. The
process of the job is killed (SIGKILL) after a random time, and another process begins the same job.
When a process finishes the job, the file must have the same bytes as after an uninterrupted job,
and the next job begins. Processes are forked from one that has loaded all modules and computes
nothing.
"""

import argparse
import os
import signal
import tempfile
import time
from pathlib import Path

import numpy as np
import zarr

import streamgmm
from benchmarks.planted import planted_mixture
from benchmarks.reporting import Table, report
from streamgmm.core.mixtures.sampling import draw
from streamgmm.updates import appended_rows as growing
from tests.failures.checkpoint import exit_code, forked, in_a_fork

_N_FEATURES, _N_COMPONENTS = 4, 3
_BATCHES, _BATCH_ROWS = 30, 400
# Rows of the array and of a chunk: eight pieces.
_STORED_ROWS, _CHUNK_ROWS = 500_000, 65_536
_FILES, _FILE_ROWS = 10, 700
_N_ROWS = _BATCHES * _BATCH_ROWS + _STORED_ROWS + _FILES * _FILE_ROWS


def write_data(folder: Path) -> list[np.ndarray]:
    """Write the data on disk, and return the batches."""
    mixture = planted_mixture(_N_FEATURES, _N_COMPONENTS)
    random = np.random.default_rng(0)
    rows, _ = draw(mixture, _N_ROWS, random)
    rows = rows[random.permutation(_N_ROWS)]
    chunks = (_CHUNK_ROWS, _N_FEATURES)
    zarr.create_array(folder / "rows.zarr", data=rows[:_STORED_ROWS], chunks=chunks)
    (folder / "files").mkdir()
    stops = _STORED_ROWS + _FILE_ROWS * np.arange(1, _FILES + 1)
    *files, rest = np.split(rows[_STORED_ROWS:], stops - _STORED_ROWS)
    for number, part in enumerate(files):
        np.save(folder / "files" / f"part-{number}.npy", part)
    return np.split(rest, _BATCHES)


def job(model: Path, data: Path, batches: list[np.ndarray]) -> None:
    """Learn all data that the file of the model has not learned."""
    settings = {"n_components": _N_COMPONENTS, "init_size": 2000, "random_state": 0, "n_jobs": 1}
    half = len(batches) // 2
    for number, batch in enumerate(batches[:half]):
        streamgmm.update(model, batch, batch_id=number, **settings)
    streamgmm.update(model, data / "rows.zarr", **settings)
    for number, batch in enumerate(batches[half:], half):
        streamgmm.update(model, batch, batch_id=number, **settings)
    streamgmm.update(model, data / "files", **settings)


def killed_jobs(folder: Path, n_kills: int, seed: int) -> tuple[int, int, float]:
    """Return the number of finished jobs and of kills, and the seconds of an uninterrupted job.

    Raises
    ------
    AssertionError
        If a file differs from that of the uninterrupted job.
    """
    batches = write_data(folder)
    # Pieces of one chunk, so that there are many saves.
    growing._PIECE_BYTES = 1
    job(folder / "compiled.gmm", folder, batches)
    start = time.perf_counter()
    in_a_fork(lambda: job(folder / "whole.gmm", folder, batches))
    seconds = time.perf_counter() - start
    expected = (folder / "whole.gmm").read_bytes()
    assert streamgmm.load(folder / "whole.gmm").n_samples_seen_ == _N_ROWS
    random = np.random.default_rng(seed)
    model = folder / "model.gmm"
    done = kills = 0
    while kills < n_kills or model.exists():
        child = forked(lambda: job(model, folder, batches))
        # The last job is not killed.
        if kills < n_kills:
            time.sleep(random.uniform(0.0, 0.5 * seconds))
            os.kill(child, signal.SIGKILL)
        status = exit_code(child)
        assert status in (0, -signal.SIGKILL), status
        kills += status == -signal.SIGKILL
        if status == 0:
            assert model.read_bytes() == expected, f"another model after {kills} kills"
            assert not list(folder.glob(".*.part"))
            model.unlink()
            done += 1
    return done, kills, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        done, kills, seconds = killed_jobs(Path(folder), options.kills, options.seed)
    row = [f"{kills:,}", str(done), f"{_N_ROWS:,}", f"{seconds:.2f}", "all"]
    header = [
        "kills",
        "jobs",
        "rows of a job",
        "s, an uninterrupted job",
        "files with the same bytes",
    ]
    command = f"python -m benchmarks.kills --kills {options.kills} --seed {options.seed}"
    report("kills", command, [Table(header, [row])], options.save)


if __name__ == "__main__":
    main()
