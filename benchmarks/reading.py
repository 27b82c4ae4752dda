"""The limits of a fit to data in storage: reading files, decoding them, or the E-step.

Each is measured separately, on the same number of threads, in rows per second:

- files: all bytes of the stored files, by plain reads;
- decode: all chunks of the source, files in the page cache;
- compute: the same rows in memory;
- fetch: the processor time of reading files from the disk, beyond that of cached files;
- fit: one EM iteration from storage.

Decoding and computing share the processor, and reading files runs in parallel. A fit can reach at
most min(files, 1 / (1 / decode + 1 / compute)). Files are either in the page cache, or dropped
from it before each read. In the second case fetching takes processor time too, and the fit can
reach min(files, 1 / (1 / fetch + 1 / decode + 1 / compute)).
"""

import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import zarr
from matplotlib.axes import Axes
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, ZstdCodec

import streamgmm
from benchmarks.planted import Problem
from benchmarks.reporting import Table
from streamgmm.protocols import Source

State = Literal["in the cache", "dropped from the cache"]
STATES: tuple[State, ...] = ("in the cache", "dropped from the cache")
_ROWS, _SMALL_ROWS = 4_000_000, 200_000
_CHUNK_ROWS, _N_FEATURES, _N_COMPONENTS = 65_536, 8, 8
_DIGITS = 3
_ROUNDS = 5
_READ_BYTES = 4 << 20

Rows = NDArray[np.float64]


@dataclass(frozen=True)
class Reading:
    """Rates of one kind of storage, rows per second; infinite if there is no work.

    Attributes
    ----------
    state : str
        State of the files, if there are any.
    """

    name: str
    state: State | Literal[""]
    files: float
    decode: float
    compute: float
    fetch: float
    fit: float

    @property
    def bound(self) -> float:
        """The largest rate of a fit, if fetching files took no processor time."""
        return min(self.files, 1.0 / (1.0 / self.decode + 1.0 / self.compute))

    @property
    def reachable(self) -> float:
        """The largest rate of a fit."""
        return min(self.files, 1.0 / (1.0 / self.fetch + 1.0 / self.decode + 1.0 / self.compute))


def _zarr(compressor: Any = None, columns: int = _N_FEATURES) -> Callable[[Path, Rows], None]:
    def write(path: Path, rows: Rows) -> None:
        array = zarr.create_array(
            str(path),
            shape=rows.shape,
            chunks=(_CHUNK_ROWS, columns),
            dtype=rows.dtype,
            compressors=compressor,
        )
        array[:] = rows

    return write


def _npy(order: Literal["C", "F"]) -> Callable[[Path, Rows], None]:
    def write(path: Path, rows: Rows) -> None:
        np.save(path, np.asarray(rows, order=order))

    return write


# Name, suffix, and the function that writes the files.
FORMATS: list[tuple[str, str, Callable[[Path, Rows], None]]] = [
    (".npy", ".npy", _npy("C")),
    (".npy, Fortran order", ".npy", _npy("F")),
    ("Zarr, uncompressed", ".zarr", _zarr()),
    ("Zarr, zstd", ".zarr", _zarr(ZstdCodec())),
    ("Zarr, Blosc lz4", ".zarr", _zarr(BloscCodec(cname="lz4"))),
    ("Zarr, zstd, 2-column chunks", ".zarr", _zarr(ZstdCodec(), columns=2)),
]


def measure(threads: int, small: bool) -> list[Reading]:
    """Measure data in memory in both orders, then all formats in both states."""
    n_rows = _SMALL_ROWS if small else _ROWS
    problem = Problem("full", n_rows, _N_FEATURES, _N_COMPONENTS)
    rows = np.round(problem.rows, _DIGITS)
    compute = _rate(n_rows, lambda: _fit_seconds(problem, rows, threads))
    fortran = np.asfortranarray(rows)
    transposed = _rate(n_rows, lambda: _fit_seconds(problem, fortran, threads))
    found = [
        Reading("memory", "", math.inf, math.inf, compute, math.inf, compute),
        Reading("memory, Fortran order", "", math.inf, math.inf, compute, math.inf, transposed),
    ]
    with tempfile.TemporaryDirectory() as directory:
        for i, (name, suffix, write) in enumerate(FORMATS):
            path = Path(directory) / f"{i}{suffix}"
            write(path, rows)
            source = streamgmm.open(path)
            decode = _rate(n_rows, lambda source=source: _decode_seconds(source, threads))
            fetch = dict(zip(STATES, (math.inf, _fetch_rate(n_rows, path, threads)), strict=True))
            for state in STATES:
                files = _rate(n_rows, lambda path=path: _file_seconds(path, threads), path, state)
                fit = _rate(
                    n_rows,
                    lambda source=source: _fit_seconds(problem, source, threads),
                    path,
                    state,
                )
                found.append(Reading(name, state, files, decode, compute, fetch[state], fit))
    return found


def _rate(
    n_rows: int,
    seconds: Callable[[], float],
    path: Path | None = None,
    state: State = "in the cache",
) -> float:
    """Return the median rows per second; the first run is not counted."""
    found = []
    for _ in range(_ROUNDS + 1):
        if path is not None and state == "dropped from the cache":
            _drop(path)
        found.append(seconds())
    return n_rows / statistics.median(found[1:])


def _files(path: Path) -> list[Path]:
    return [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]


def _drop(path: Path) -> None:
    """Write files to the disk, and drop them from the page cache."""
    for file in _files(path):
        descriptor = os.open(file, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def _file_seconds(path: Path, threads: int) -> float:
    pieces = [
        (file, offset)
        for file in _files(path)
        for offset in range(0, file.stat().st_size, _READ_BYTES)
    ]

    def read(piece: tuple[Path, int]) -> None:
        with piece[0].open("rb", buffering=0) as file:
            file.seek(piece[1])
            file.read(_READ_BYTES)

    return each_seconds(read, pieces, threads)


def _fetch_rate(n_rows: int, path: Path, threads: int) -> float:
    """Return the rows per second that all threads could fetch from a disk without waiting."""

    def processor_seconds() -> float:
        start = time.process_time()
        _file_seconds(path, threads)
        return (time.process_time() - start) / threads

    cold, cached = (_rate(n_rows, processor_seconds, path, state) for state in reversed(STATES))
    return 1.0 / max(1.0 / cold - 1.0 / cached, 1e-12)


def _decode_seconds(source: Source, threads: int) -> float:
    def decode(i: int) -> None:
        source.read(i)

    return each_seconds(decode, range(len(source.boundaries) - 1), threads)


def each_seconds(function: Callable[[Any], None], items: Iterable[Any], threads: int) -> float:
    """Return the seconds to call a function with each of some items."""
    with ThreadPoolExecutor(threads) as pool:
        start = time.perf_counter()
        for _ in pool.map(function, items):
            pass
        return time.perf_counter() - start


def _fit_seconds(problem: Problem, data: Any, threads: int) -> float:
    model = problem.model(max_iter=1, n_jobs=threads).fit(data)
    seconds: float = model.history_[0]["seconds"]
    return seconds


def table(readings: Sequence[Reading]) -> Table:
    """Return a table of millions of rows per second."""
    header = ["storage", "files", "files alone", "decode", "compute", "fetch", "fit", "bound"]
    rows = [
        [
            one.name,
            one.state or "–",
            *(
                f"{rate / 1e6:.1f}" if math.isfinite(rate) else "–"
                for rate in (one.files, one.decode, one.compute, one.fetch, one.fit, one.bound)
            ),
            f"{one.fit / one.bound:.0%}",
            f"{one.fit / one.reachable:.0%}",
        ]
        for one in readings
    ]
    caption = (
        f"Reading: {_N_FEATURES} features of float64 rounded to {_DIGITS} decimals, "
        f"K = {_N_COMPONENTS}, full; Zarr chunks of {_CHUNK_ROWS:,} rows. Million rows per second."
    )
    return Table([*header, "fit / bound", "fit / bound with fetching"], rows, caption)


def plot(axes: Axes, readings: Sequence[Reading]) -> None:
    """Plot the rate of each fit beside its bound."""
    places = np.arange(len(readings))
    bounds = [one.bound / 1e6 for one in readings]
    axes.barh(places, bounds, color="lightgray", label="bound")
    axes.barh(places, [one.fit / 1e6 for one in readings], height=0.4, label="fit")
    axes.set_yticks(places, [one.name for one in readings])
    axes.set_xlabel("million rows per second")
