"""Rates of sources that deliver chunks, compared with the library of each format.

``python -m benchmarks.sources [--threads 2] [--small] [--save]``

A source reads all of its chunks. The library of the format reads the same rows, chunk by chunk too,
into NumPy arrays in its own layout: a table if it stores one, else one array for each column.
Sources make one array of all columns, and this is included in the time. Files are in the page
cache. The source and the library take turns, on one thread and on several. NumPy's memory map keeps
all pages after the first round; with a file larger than memory it could not.
"""

import argparse
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask
import dask.array
import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xarray
import zarr
from numpy.typing import NDArray

import streamgmm
from benchmarks.machine import keep_to_cores
from benchmarks.planted import Problem
from benchmarks.reading import each_seconds
from benchmarks.reporting import Table, report
from streamgmm.protocols import Source

# Number of rows that are stored together: a chunk, a row group, or steps of a field.
STORED_ROWS = 65_536
_FIELD = (64, 64)
_STEP_ROWS = 64 * 64
_DIMS = ("time", "y", "x")
_ROWS, _SMALL_ROWS = 32 * STORED_ROWS, 2 * STORED_ROWS
_N_FEATURES, _N_COMPONENTS = 8, 8
_DIGITS = 3
_PART_OF_NULLS = 0.1
_ROUNDS, _SMALL_ROUNDS = 9, 1

Rows = NDArray[np.float64]
# Function that returns the rows from start to stop, whole or by columns.
Reader = Callable[[int, int], Sequence[NDArray[Any]]]


@dataclass(frozen=True)
class Storage:
    """A way to store rows.

    Attributes
    ----------
    name : str
    library : str
        Library of the format.
    suffix : str
        Suffix of the file or folder.
    write : callable
        Stores rows at a path.
    describe : callable
        Returns the arguments of :func:`streamgmm.open` for a path: the data, and keywords.
    read : callable
        Returns the library's reader for a path.
    part_of_nulls : float
    """

    name: str
    library: str
    suffix: str
    write: Callable[[Path, Rows], None]
    read: Callable[[Path], Reader]
    describe: Callable[[Path], tuple[Any, dict[str, Any]]] = lambda path: (path, {})
    part_of_nulls: float = 0.0

    def stored(self, folder: Path, rows: Rows) -> tuple[Source, Reader]:
        """Store rows in a folder, and return both ways to read them."""
        if self.part_of_nulls > 0.0:
            is_null = np.random.default_rng(3).random(rows.shape) < self.part_of_nulls
            rows = np.where(is_null, np.nan, rows)
        path = folder / f"rows{self.suffix}"
        self.write(path, rows)
        data, keywords = self.describe(path)
        return streamgmm.open(data, **keywords), self.read(path)


@dataclass(frozen=True)
class Comparison:
    """Seconds of each round for all chunks, by the number of threads."""

    storage: Storage
    n_rows: int
    own: dict[int, list[float]]
    library: dict[int, list[float]]

    def rate(self, threads: int) -> float:
        """Return the median rows per second of the source."""
        return self.n_rows / statistics.median(self.own[threads])

    def ratios(self, threads: int) -> list[float]:
        """Return the source's rate over the library's for each round."""
        pairs = zip(self.library[threads], self.own[threads], strict=True)
        return sorted(library / own for library, own in pairs)


# Arrays ---------------------------------------------------------------------------------


def _write_npy(path: Path, rows: Rows) -> None:
    np.save(path, rows)


def _npy_reader(path: Path) -> Reader:
    mapped = np.load(path, mmap_mode="r")
    return lambda start, stop: [np.array(mapped[start:stop])]


def _write_zarr(shard_rows: int | None = None) -> Callable[[Path, Rows], None]:
    def write(path: Path, rows: Rows) -> None:
        array = zarr.create_array(
            str(path),
            shape=rows.shape,
            chunks=(STORED_ROWS, rows.shape[1]),
            shards=None if shard_rows is None else (shard_rows, rows.shape[1]),
            dtype=rows.dtype,
        )
        array[:] = rows

    return write


def _zarr_reader(path: Path) -> Reader:
    array: Any = zarr.open_array(str(path), mode="r")
    return lambda start, stop: [array[start:stop]]


def _write_hdf5(**layout: Any) -> Callable[[Path, Rows], None]:
    def write(path: Path, rows: Rows) -> None:
        with h5py.File(path, "w") as file:
            file.create_dataset("rows", data=rows, **layout)

    return write


def _hdf5_reader(path: Path) -> Reader:
    dataset = h5py.File(path)["rows"]
    return lambda start, stop: [dataset[start:stop]]


def _dask_array(path: Path) -> Any:
    return dask.array.from_zarr(str(path))


def _dask_reader(path: Path) -> Reader:
    array = _dask_array(path)
    return lambda start, stop: [array[start:stop].compute()]


# Tables ---------------------------------------------------------------------------------


def _write_columns(path: Path, rows: Rows) -> None:
    columns = {f"c{j}": pa.array(column, from_pandas=True) for j, column in enumerate(rows.T)}
    pq.write_table(pa.table(columns), path, row_group_size=STORED_ROWS)


def _write_lists(path: Path, rows: Rows) -> None:
    offsets = np.arange(0, rows.size + 1, rows.shape[1], dtype=np.int32)
    lists = pa.ListArray.from_arrays(offsets, pa.array(rows.ravel()))
    pq.write_table(pa.table({"rows": lists}), path, row_group_size=STORED_ROWS)


def _row_groups(path: Path) -> Callable[[int, int], Any]:
    metadata = pq.read_metadata(path)

    def read(start: int, stop: int) -> Any:
        groups = range(start // STORED_ROWS, -(-stop // STORED_ROWS))
        # Threads must not share an open file.
        with pq.ParquetFile(path, metadata=metadata) as file:
            return file.read_row_groups(groups, use_threads=False)

    return read


def _columns_reader(path: Path) -> Reader:
    read = _row_groups(path)
    return lambda start, stop: [column.to_numpy() for column in read(start, stop).columns]


def _lists_reader(path: Path) -> Reader:
    read = _row_groups(path)

    def values(start: int, stop: int) -> list[NDArray[Any]]:
        lists = read(start, stop).column("rows").combine_chunks()
        return [lists.flatten().to_numpy().reshape(stop - start, -1)]

    return values


# Fields ---------------------------------------------------------------------------------


def _fields(rows: Rows) -> xarray.Dataset:
    """Return each feature as a variable over (time, y, x)."""
    return xarray.Dataset(
        {f"v{j}": (_DIMS, column.reshape(-1, *_FIELD)) for j, column in enumerate(rows.T)}
    )


def _write_netcdf(path: Path, rows: Rows) -> None:
    _fields(rows).to_netcdf(path, engine="h5netcdf")


def _write_group(path: Path, rows: Rows) -> None:
    fields = _fields(rows)
    chunks = (STORED_ROWS // _STEP_ROWS, *_FIELD)
    fields.to_zarr(path, encoding={name: {"chunks": chunks} for name in fields}, consolidated=False)


def _all_variables(path: Path) -> tuple[Any, dict[str, Any]]:
    return path, {"variables": [f"v{j}" for j in range(_N_FEATURES)]}


def _fields_reader(**how: Any) -> Callable[[Path], Reader]:
    def reader(path: Path) -> Reader:
        dataset = xarray.open_dataset(path, **how)

        def read(start: int, stop: int) -> list[NDArray[Any]]:
            steps = slice(start // _STEP_ROWS, stop // _STEP_ROWS)
            loaded = dataset.isel(time=steps).load()
            return [loaded[name].values.ravel() for name in sorted(dataset)]

        return read

    return reader


STORAGES = [
    Storage(".npy", "NumPy, mapped", ".npy", _write_npy, _npy_reader),
    Storage("Zarr", "zarr", ".zarr", _write_zarr(), _zarr_reader),
    Storage(
        "Zarr, 2 chunks in a shard", "zarr", ".zarr", _write_zarr(2 * STORED_ROWS), _zarr_reader
    ),
    Storage("HDF5, contiguous", "h5py", ".h5", _write_hdf5(), _hdf5_reader),
    Storage(
        "HDF5, chunks", "h5py", ".h5", _write_hdf5(chunks=(STORED_ROWS, _N_FEATURES)), _hdf5_reader
    ),
    Storage(
        "HDF5, chunks, gzip",
        "h5py",
        ".h5",
        _write_hdf5(chunks=(STORED_ROWS, _N_FEATURES), compression="gzip"),
        _hdf5_reader,
    ),
    Storage("Parquet, columns", "pyarrow", ".parquet", _write_columns, _columns_reader),
    Storage(
        "Parquet, columns with nulls",
        "pyarrow",
        ".parquet",
        _write_columns,
        _columns_reader,
        part_of_nulls=_PART_OF_NULLS,
    ),
    Storage("Parquet, lists", "pyarrow", ".parquet", _write_lists, _lists_reader),
    Storage(
        "netCDF, variables",
        "xarray",
        ".nc",
        _write_netcdf,
        _fields_reader(engine="h5netcdf"),
        _all_variables,
    ),
    Storage(
        "Zarr group, variables",
        "xarray",
        ".zarr",
        _write_group,
        _fields_reader(engine="zarr", chunks=None, consolidated=False),
        _all_variables,
    ),
    Storage(
        "Dask array of a Zarr one",
        "dask",
        ".zarr",
        _write_zarr(),
        _dask_reader,
        lambda path: (_dask_array(path), {}),
    ),
]


def sample_rows(n_rows: int) -> Rows:
    """Return rounded rows, as measurements are."""
    return np.round(Problem("full", n_rows, _N_FEATURES, _N_COMPONENTS).rows, _DIGITS)


def compare(storage: Storage, rows: Rows, counts: Sequence[int], rounds: int) -> Comparison:
    """Read all chunks both ways, in turns; the first round is not counted."""
    with tempfile.TemporaryDirectory() as folder, dask.config.set(scheduler="synchronous"):
        source, reader = storage.stored(Path(folder), rows)
        ends = source.boundaries
        chunks = range(len(ends) - 1)

        def read_own(i: int) -> None:
            source.read(i)

        def read_as_library(i: int) -> None:
            reader(ends[i], ends[i + 1])

        own: dict[int, list[float]] = {}
        library: dict[int, list[float]] = {}
        for n in counts:
            seconds = [
                (each_seconds(read_own, chunks, n), each_seconds(read_as_library, chunks, n))
                for _ in range(rounds + 1)
            ]
            own[n], library[n] = (list(side) for side in zip(*seconds[1:], strict=True))
        return Comparison(storage, source.n_rows, own, library)


def table(found: Sequence[Comparison], counts: Sequence[int]) -> Table:
    """Return a table with a row for each way to store rows."""
    header = ["storage", "library"]
    for n in counts:
        threads = f"{n} thread{'s' if n > 1 else ''}"
        header += [f"million rows/s, {threads}", f"of the library's, {threads}", "range"]
    rows = []
    for one in found:
        row = [one.storage.name, one.storage.library]
        for n in counts:
            ratios = one.ratios(n)
            row += [
                f"{one.rate(n) / 1e6:.1f}",
                f"{statistics.median(ratios):.0%}",
                f"{ratios[0]:.0%} to {ratios[-1]:.0%}",
            ]
        rows.append(row)
    caption = (
        f"{_N_FEATURES} features of float64 rounded to {_DIGITS} decimals; chunks and row groups "
        f"of {STORED_ROWS:,} rows."
    )
    return Table(header, rows, caption)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--small", action="store_true", help="few rows, one round")
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    keep_to_cores(options.threads)
    counts = sorted({1, options.threads})
    rows = sample_rows(_SMALL_ROWS if options.small else _ROWS)
    rounds = _SMALL_ROUNDS if options.small else _ROUNDS
    found = [compare(storage, rows, counts, rounds) for storage in STORAGES]
    command = f"python -m benchmarks.sources --threads {options.threads}"
    report("sources", command, [table(found, counts)], options.save and not options.small)


if __name__ == "__main__":
    main()
