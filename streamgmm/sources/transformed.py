"""A source whose rows are mapped as they are read: scaled, projected, normalized."""

import hashlib
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from streamgmm.errors import DataError
from streamgmm.options import Missing
from streamgmm.protocols import (
    Chunk,
    CoordinateSource,
    GridSource,
    LabelledSource,
    Layout,
    LazySource,
    Output,
    Region,
    Source,
    StoredSource,
    locations_of,
    sample_dims,
    sample_shape,
)
from streamgmm.sources.described import Described

# Bytes of the blocks in which rows are mapped, as float64; they stay in the cache.
_BLOCK_BYTES = 1 << 18
# Arrays of a block that are in memory at once.
_BLOCKS = 4


class RowMap(Protocol):
    """A map of rows to rows; picklable."""

    @property
    def mixes_columns(self) -> bool:
        """Whether one missing value makes all values of the mapped row missing."""

    @property
    def n_outputs(self) -> int:
        """Number R of columns of mapped rows."""

    def apply(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the mapped rows (n, R) of rows (n, D), whose array may be changed."""

    def followed_by(self, other: "RowMap") -> "RowMap | None":
        """Return one map for this map and another after it; None if they stay two."""

    def digest(self) -> bytes:
        """Return a digest of all that the mapped rows depend on."""


class Transform(Protocol):
    """A map of rows that is known, or is computed when it is first asked for."""

    @property
    def row_map(self) -> RowMap:
        """The map itself."""

    @property
    def n_outputs(self) -> int:
        """Number of columns of mapped rows."""

    def names(self, given: Sequence[str] | None) -> Sequence[str] | None:
        """Return the names of the columns of mapped rows."""


@dataclass(frozen=True, eq=False)
class KnownTransform:
    """A map that is known, with the names of its columns.

    Attributes
    ----------
    row_map : RowMap
    output_names : sequence of str, or None
    """

    row_map: RowMap
    output_names: Sequence[str] | None

    @property
    def n_outputs(self) -> int:
        """Number of columns of mapped rows."""
        return self.row_map.n_outputs

    def names(self, given: Sequence[str] | None) -> Sequence[str] | None:
        """Return the names of the columns of mapped rows."""
        return self.output_names


@dataclass(frozen=True, eq=False)
class Mapping:
    """Maps that are applied to rows one after the other; picklable.

    Attributes
    ----------
    maps : tuple of RowMap
    n_outputs : int
        Number of columns of mapped rows.
    missing : {"error", "drop", "em"}
        Treatment of rows that hold NaN.
    name : str
        Name of the data in messages.
    """

    maps: tuple[RowMap, ...]
    n_outputs: int
    missing: Missing
    name: str

    @property
    def mixes_columns(self) -> bool:
        """Whether a value that is missing makes all values of the mapped row missing."""
        return any(one.mixes_columns for one in self.maps)


class TransformedSource(Described):
    """Rows of another source, mapped as they are read.

    It has the chunks, the weights and the samples of the other source. Nothing is stored.

    Parameters
    ----------
    base : Source
    transforms : sequence of Transform
        Applied one after the other. Maps that are not known yet are computed when the number of
        columns is asked for and depends on them, or when a chunk is read.
    """

    def __init__(self, base: Source, transforms: Sequence[Transform]) -> None:
        self.base, self.transforms = base, tuple(transforms)
        self._stored = base if isinstance(base, StoredSource) else None
        self._grid = base if isinstance(base, GridSource) else None
        self.name: str = base.name
        self.n_rows, self.boundaries = base.n_rows, base.boundaries
        self.has_weights: bool = base.has_weights
        self.sample_dims, self.sample_shape = sample_dims(base), sample_shape(base)
        # No cached_property: before Python 3.12 it has one lock for all sources, and a map may be
        # computed by threads that read another one.
        self._joined: tuple[RowMap, ...] | None = None
        self._lazy: Any = None

    def __getstate__(self) -> dict[str, Any]:
        # Another process gets the maps, and not the data that they are computed from.
        return {**self.__dict__, "transforms": self._known(), "_joined": None, "_lazy": None}

    def __copy__(self) -> "TransformedSource":
        return self.over(self.base)

    def _known(self) -> tuple[Transform, ...]:
        known, names = [], self.base.feature_names
        for row_map, transform in zip(self._maps(), self.transforms, strict=True):
            names = transform.names(names)
            known.append(KnownTransform(row_map, names))
        return tuple(known)

    def _maps(self) -> tuple[RowMap, ...]:
        """Return the maps; one pass for the last that waits may answer those before it, too."""
        return tuple(reversed([transform.row_map for transform in reversed(self.transforms)]))

    def settle(self) -> None:
        """Compute maps that are not known yet, in the calling thread."""
        self._maps()

    def over(self, base: Source) -> "TransformedSource":
        """Return a source of the rows of another source, mapped in the same way."""
        return transformed(base, self.transforms)

    @property
    def missing(self) -> Missing:
        """Treatment of rows that hold NaN, as the source of the rows says."""
        return self.base.missing

    @missing.setter
    def missing(self, missing: Missing) -> None:
        # Others may use the same source.
        self.base = copy(self.base)
        self.base.missing = missing
        self._lazy = None

    @property
    def n_features(self) -> int:
        """Number of columns of mapped rows."""
        return self.transforms[-1].n_outputs

    @property
    def shape(self) -> tuple[int, int]:
        """Shape (N, R) of the array of all mapped rows."""
        return self.n_rows, self.n_features

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        """Return all mapped rows, in memory, in the order of the data."""
        if copy is False:
            raise ValueError("the mapped rows are no array yet; give copy=None")
        rows = np.empty(self.shape, self.dtype if dtype is None else dtype)
        for chunk in map(self.read, range(len(self.boundaries) - 1)):
            rows[np.asarray(chunk.index)] = chunk.rows
        return rows

    @property
    def feature_names(self) -> Sequence[str] | None:
        """Names of the columns of mapped rows."""
        names = self.base.feature_names
        for transform in self.transforms:
            names = transform.names(names)
        return names

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of mapped rows: float32 if the rows are float32 or float16, else float64."""
        return mapped_dtype(self.base.dtype)

    @property
    def location(self) -> Path | None:
        """Location of the rows on disk; None if they are not on disk."""
        return self.base.location

    @property
    def locations(self) -> Sequence[Path]:
        """Locations of the files of the rows on disk."""
        return locations_of(self.base)

    @property
    def read_bytes(self) -> int:
        """Bytes of a chunk, and of its mapped rows."""
        widest = max(self.base.n_features, *(one.n_outputs for one in self.transforms))
        mapped = int(max(np.diff(self.boundaries))) * self.n_features * self.dtype.itemsize
        return self.base.read_bytes + mapped + _BLOCKS * max(_BLOCK_BYTES, 8 * widest)

    @property
    def digest(self) -> str:
        """Digest of the maps."""
        found = hashlib.sha256()
        for row_map in self._maps():
            found.update(row_map.digest())
        return found.hexdigest()[:16]

    def region(self, i: int) -> Region:
        """Return the box of chunk i along the sample dimensions."""
        if self._grid is not None:
            return self._grid.region(i)
        return (slice(self.boundaries[i], self.boundaries[i + 1]),)

    def prefetch(self, i: int) -> None:
        """Begin to fetch the rows of chunk i from disk, if they are on one."""
        if self._stored is not None:
            self._stored.prefetch(i)

    def labelled(self, values: NDArray[Any], output: Output) -> Any:
        """Return values of all samples, in the container of the data."""
        base = self.base
        return base.labelled(values, output) if isinstance(base, LabelledSource) else values

    def layout(self, output: Output) -> Layout | None:
        """Return the variables of a written output; None if the data have no coordinates."""
        base = self.base
        return base.layout(output) if isinstance(base, CoordinateSource) else None

    def lazy_rows(self) -> None:
        """Return None: the maps are applied to rows as they are read."""

    def read(self, i: int) -> Chunk:
        """Return chunk i.

        Raises
        ------
        DataError
            If rows lack some of their values, ``missing`` is "em", and the maps mix columns.
        """
        chunk = self.base.read(i)
        rows = mapped_rows(chunk.rows, self.mapping)
        return Chunk(rows, chunk.index, chunk.weights)

    @property
    def mapping(self) -> "Mapping":
        """The maps, with all that is needed to apply them to rows."""
        if self._joined is None:
            self._joined = _joined(self._maps())
        return Mapping(self._joined, self.n_features, self.missing, self.name)


class LazyTransformedSource(TransformedSource):
    """Mapped rows of a source whose chunks are tasks of a scheduler."""

    @property
    def array(self) -> Any:
        """Lazy array of the mapped rows (N, R)."""
        return self._mapped.array

    def holds_futures(self) -> bool:
        """Return whether a cluster holds some of the values, which only its client can get."""
        base: Any = self.base
        return bool(base.holds_futures())

    def lazy_chunks(self) -> Sequence[Any]:
        """Return a task for each chunk."""
        chunks: Sequence[Any] = self._mapped.lazy_chunks()
        return chunks

    @property
    def _mapped(self) -> Any:
        from streamgmm.sources.dask import mapped

        if self._lazy is None:
            base: Any = self.base
            self._lazy = mapped(base, self.mapping)
        return self._lazy


def _joined(maps: Sequence[RowMap]) -> tuple[RowMap, ...]:
    """Return maps in as few steps as they can be joined to."""
    joined: list[RowMap] = []
    for row_map in maps:
        both = joined[-1].followed_by(row_map) if joined else None
        if both is None:
            joined.append(row_map)
        else:
            joined[-1] = both
    return tuple(joined)


def transformed(source: Source, transforms: Sequence[Transform]) -> TransformedSource:
    """Return a source of mapped rows; maps of mapped rows join the maps before them."""
    base = source
    if isinstance(source, TransformedSource):
        base, transforms = source.base, (*source.transforms, *transforms)
    is_lazy = isinstance(base, LazySource)
    return (LazyTransformedSource if is_lazy else TransformedSource)(base, transforms)


def mapped_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the type of mapped rows: float32 for float32 and float16, else float64."""
    is_small = dtype.kind == "f" and dtype.itemsize <= 4
    return np.dtype(np.float32 if is_small else np.float64)


def mapped_rows(rows: NDArray[Any], mapping: Mapping) -> NDArray[Any]:
    """Return the mapped rows (n, R) of rows (n, D), block by block in float64.

    Raises
    ------
    DataError
        If rows lack some of their values, ``missing`` is "em", and the maps mix columns.
    """
    (n, d), n_outputs = rows.shape, mapping.n_outputs
    out = np.empty((n, n_outputs), mapped_dtype(rows.dtype))
    step = max(_BLOCK_BYTES // (8 * max(d, n_outputs)), 1)
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, n, step):
            block = slice(start, start + step)
            values = rows[block].astype(np.float64)
            for one in mapping.maps:
                values = one.apply(values)
            if mapping.mixes_columns and not np.isfinite(values).all():
                _mark_not_finite(rows[block].astype(np.float64), values, mapping)
            out[block] = values
    return out


def _mark_not_finite(
    rows: NDArray[np.float64], values: NDArray[np.float64], mapping: Mapping
) -> None:
    """Make mapped rows infinite where the rows hold infinity, which may have become NaN.

    Raises
    ------
    DataError
        As :func:`mapped_rows`.
    """
    values[np.isinf(rows).any(axis=1)] = np.inf
    missing = np.isnan(rows)
    is_partial = missing.any(axis=1) & ~missing.all(axis=1)
    if mapping.missing == "em" and is_partial.any():
        raise DataError(
            f"{mapping.name} has rows that lack some of their values, {int(is_partial.sum())} of "
            f"{len(rows)} in one block; such a row has no principal components and no norm, so "
            "missing='em' cannot use its other values: open the data with missing='drop', or fill "
            "the values first"
        )
