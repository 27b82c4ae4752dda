"""Updates of models in files: their cost, and the memory that they keep.

``python -m benchmarks.updates [--rows 1e5,1e6,1e7] [--stream 1e8] [--small] [--save]``

An update loads the model, learns, and saves the model on the disk before it returns. It is compared
with ``partial_fit`` alone. An array that has grown by a hundredth is learned by an update, and is
also fitted again. Seconds are those of the calls, and those of the two commands, which start a
process. A stream is drawn, learned batch by batch and not kept; resident memory is that of the
process.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import zarr

import streamgmm
from benchmarks.planted import planted_mixture
from benchmarks.reporting import Table, report
from benchmarks.streams import shuffled
from streamgmm import GaussianMixture, OnlineGaussianMixture
from streamgmm.protocols import Chunk
from streamgmm.sources.generated import GeneratedSource
from streamgmm.sources.zarr import ZarrSource

_N_FEATURES, _N_COMPONENTS = 8, 16
_CHUNK_ROWS = 65_536
_CALLS, _TIMES = 50, 5
# Number of ids that a ledger remembers.
_KNOWN = 1024
# Resident memory that may vary between two measurements.
_SLACK = 16 << 20


def seconds_of(call: Callable[..., object], *arguments: Any, **options: Any) -> float:
    """Return the seconds of one call."""
    start = time.perf_counter()
    call(*arguments, **options)
    return time.perf_counter() - start


def durable(folder: Path, sizes: list[int], n_known: int) -> Table:
    """Return a table on updates, with few ids in the ledger and with the largest number."""
    model = folder / "model.gmm"
    rows = shuffled(planted_mixture(_N_FEATURES, _N_COMPONENTS), 100_000 + max(sizes), 0)
    online = OnlineGaussianMixture(_N_COMPONENTS, random_state=0).partial_fit(rows[:100_000])
    batches = {size: rows[100_000 : 100_000 + size] for size in sizes}
    number, found = 0, []
    for n_before in (0, n_known):
        online.save(model)
        while number < n_before:
            streamgmm.update(model, rows[:1], batch_id=number)
            number += 1
        for size, batch in batches.items():
            alone = median(seconds_of(online.partial_fit, batch) for _ in range(_CALLS))
            ids = range(number, number + _CALLS)
            seconds = [seconds_of(streamgmm.update, model, batch, batch_id=i) for i in ids]
            number += _CALLS
            times = [f"{1e3 * value:.2f}" for value in (alone, median(seconds), max(seconds))]
            known = len(online_ledger(model))
            kilobytes = f"{model.stat().st_size / 1e3:.0f}"
            found.append([f"{size:,}", f"{known:,}", *times, kilobytes])
        # Saving over a model that updates have changed would be refused.
        model.unlink()
        online.save(model)
    header = [
        "rows per batch",
        "ids known",
        "partial_fit alone, ms",
        "update with durable write, ms",
    ]
    header += ["slowest, ms", "file, kB"]
    caption = f"{_N_FEATURES} features, K = {_N_COMPONENTS}; medians of {_CALLS} calls."
    return Table(header, found, caption)


def online_ledger(model: Path) -> Any:
    """Return the ledger in the file of a model."""
    loaded = streamgmm.load(model)
    assert isinstance(loaded, OnlineGaussianMixture)
    return loaded.state_.ledger.batches.entries


@contextmanager
def counted_rows() -> Iterator[list[int]]:
    """Yield a list to which each read of a Zarr chunk adds its number of rows."""
    counts: list[int] = []
    read = ZarrSource.read

    def counting(source: ZarrSource, i: int) -> Chunk:
        chunk = read(source, i)
        counts.append(len(chunk.rows))
        return chunk

    ZarrSource.read = counting  # type: ignore[method-assign]
    try:
        yield counts
    finally:
        ZarrSource.read = read  # type: ignore[method-assign]


def command_seconds(*words: object) -> float:
    """Return the seconds of a command, with the start of its process."""
    command = [sys.executable, "-m", "streamgmm", *map(str, words)]
    return seconds_of(subprocess.run, command, check=True, capture_output=True)


def appending(folder: Path, sizes: list[int]) -> Table:
    """Return a table on learning the last hundredth of an array, and on a fit to all of it."""
    found = []
    for n_rows in sizes:
        path, model = folder / f"{n_rows}.zarr", folder / f"{n_rows}.gmm"
        n_all = n_rows + n_rows // 100
        source = GeneratedSource(
            planted_mixture(_N_FEATURES, _N_COMPONENTS), n_all, chunk_rows=_CHUNK_ROWS
        )
        shape, chunks = (n_all, _N_FEATURES), (_CHUNK_ROWS, _N_FEATURES)
        array = zarr.create_array(path, shape=shape, chunks=chunks, dtype="f8")
        for i, start in enumerate(source.boundaries[:-1]):
            rows = source.read(i).rows
            array[start : start + len(rows)] = rows.round(3)
        rest = array[n_rows:]
        array.resize((n_rows, _N_FEATURES))
        settings = {"n_components": _N_COMPONENTS, "random_state": 0}
        for name in ("called", "command"):
            streamgmm.update(folder / f"{n_rows} {name}.gmm", path, **settings)
        array.resize((n_all, _N_FEATURES))
        array[n_rows:] = rest
        fit = ["fit", path, "-k", _N_COMPONENTS, "--seed", 0, "-o", model]
        called = folder / f"{n_rows} called.gmm"
        before, seconds = called.read_bytes(), []
        for _ in range(_TIMES):
            called.write_bytes(before)
            with counted_rows() as read:
                seconds.append(seconds_of(streamgmm.update, called, path))
        n_update, update = sum(read), median(seconds)
        batch = GaussianMixture(**settings)
        refit = seconds_of(batch.fit, path)
        n_refit = batch.n_reads_ * n_all
        started = command_seconds("update", folder / f"{n_rows} command.gmm", path)
        started_refit = command_seconds(*fit)
        found.append(
            [
                f"{n_rows:,}",
                f"{n_update / n_refit:.2%}",
                f"{update:.3f}",
                f"{refit:.2f}",
                f"{update / refit:.2%}",
                f"{started:.2f}",
                f"{started_refit:.2f}",
                f"{started / started_refit:.1%}",
            ]
        )
    header = ["rows before", "rows read, of a fit's", "update, s", "fit, s", "update / fit"]
    header += ["update command, s", "fit command, s", "of the commands"]
    caption = f"A Zarr array of {_N_FEATURES} features has grown by 1 %; K = {_N_COMPONENTS}."
    return Table(header, found, caption)


def resident(n_rows: int, batch_rows: int = 100_000) -> Table:
    """Return a table of memory after a hundredth of a stream, a tenth, and all of it.

    Raises
    ------
    AssertionError
        If the memory has grown.
    """
    mixture = planted_mixture(2, 2)
    source = GeneratedSource(mixture, n_rows, chunk_rows=batch_rows)
    model, process = OnlineGaussianMixture(2, random_state=0), psutil.Process()
    found, first, start = [], None, time.perf_counter()
    for i in range(len(source.boundaries) - 1):
        model.partial_fit(source.read(i).rows)
        seen = source.boundaries[i + 1]
        if seen in (n_rows // 100, n_rows // 10, n_rows):
            memory = process.memory_info().rss
            seconds = time.perf_counter() - start
            found.append([f"{seen:,}", f"{memory / 2**20:.0f}", f"{seconds:.1f}"])
            first = first or memory
            assert memory < first + _SLACK, f"{memory - first} bytes more after {seen} rows"
    caption = "A stream that is drawn and learned; 2 features, K = 2."
    return Table(["rows", "resident memory, MiB", "s"], found, caption)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", default="1e5,1e6,1e7", help="of the arrays that grow")
    parser.add_argument("--stream", type=float, default=1e8, help="rows of the stream")
    parser.add_argument("--small", action="store_true", help="few rows")
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    sizes = [20_000] if options.small else [int(float(size)) for size in options.rows.split(",")]
    n_stream = 10_000_000 if options.small else int(options.stream)
    with tempfile.TemporaryDirectory() as folder:
        tables = [
            resident(n_stream),
            durable(Path(folder), [100, 10_000], 20 if options.small else _KNOWN),
            appending(Path(folder), sizes),
        ]
    command = f"python -m benchmarks.updates --rows {options.rows} --stream {options.stream:g}"
    report("updates", command, tables, options.save and not options.small)


if __name__ == "__main__":
    main()
