"""Dask arrays: each block of rows is a chunk, and stays a task until a scheduler runs it."""

import sys
import uuid
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any

import dask.array
import dask.base
import numpy as np
from dask.delayed import Delayed
from dask.highlevelgraph import HighLevelGraph, MaterializedLayer
from numpy.typing import NDArray

from streamgmm.dask_graph import Task, TaskRef
from streamgmm.errors import DataError
from streamgmm.options import Missing
from streamgmm.protocols import Chunk
from streamgmm.sources.described import Described
from streamgmm.sources.layout import check_table
from streamgmm.sources.transformed import Mapping, mapped_dtype, mapped_rows
from streamgmm.sources.values import (
    NO_RULES,
    ROW_REMEDY,
    WEIGHT_REMEDY,
    ValueRules,
    check_block,
    usable,
)
from streamgmm.sources.weighted import check_weights, weighted, weighted_twice


class DaskSource(Described):
    """Rows of a Dask array, block by block; blocks along columns are joined.

    Parameters
    ----------
    array : dask.array.Array of shape (N, D)

    Raises
    ------
    DataError
        If it is another collection of Dask's, no table of real numbers, or its chunk sizes are not
        known. When blocks are computed, if one has another shape or kind of type than announced,
        is no NumPy array, or holds masked values that may not be missing.
    """

    location = None
    missing: Missing = "error"
    feature_names: Sequence[str] | None = None

    def __init__(self, array: dask.array.Array) -> None:
        check_array(array, "X")
        self.name = f"the Dask array {array.name}"
        if any(np.isnan(size) for size in array.shape):
            raise DataError(
                f"{self.name} has unknown chunk sizes; call X.compute_chunk_sizes() first "
                "(for a DataFrame, X.to_dask_array(lengths=True))"
            )
        check_table(self.name, array.shape, array.dtype)
        self._array: Any = guarded_graph(array)
        self._rules = rules_of(array)
        self.n_rows, self.n_features = (int(size) for size in array.shape)
        self.boundaries: Sequence[int] = [0, *accumulate(array.chunks[0])]
        self._weights: Any = None
        self._weight_rules = NO_RULES

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values, as chunks hold them."""
        return self._rules.dtype(self._array.dtype, self.missing)

    @property
    def array(self) -> Any:
        """Array of the usable values (N, D), in one block along the columns."""
        return self._usable(self._array, 0)

    def with_weights(self, weights: Any, rules: ValueRules = NO_RULES) -> "DaskSource":
        """Return the same rows with weights.

        Parameters
        ----------
        weights : array of shape (N,)
            A Dask array of :func:`usable_weights`, or anything that slices to numbers.
        rules : ValueRules
            Rules by which weights are missing.

        Raises
        ------
        DataError
            If there are weights already, or the shape is not (N,).
        """
        if self._weights is not None:
            raise weighted_twice(self.name)
        source = copy(self)
        vars(source).pop("_scheduler", None)
        weights = check_weights(weights, self)
        rows = self._array.chunks[:1]
        source._weight_rules = rules
        source._weights = (
            weights.rechunk(rows)  # type: ignore[no-untyped-call]
            if isinstance(weights, dask.array.Array)
            else dask.array.from_array(  # type: ignore[no-untyped-call]
                weights, rows, name=False, meta=np.empty(0, weights.dtype)
            )
        )
        return source

    @property
    def has_weights(self) -> bool:
        """Whether chunks carry row weights."""
        return self._weights is not None

    @property
    def read_bytes(self) -> int:
        """Bytes of the largest block, and as much again to compute it."""
        n_values = int(max(self._array.chunks[0])) * self.n_features
        stored_bytes: int = 2 * n_values * self._array.dtype.itemsize
        return stored_bytes + self._rules.work_bytes(n_values, self.dtype)

    def holds_futures(self) -> bool:
        """Return whether a cluster holds some of the values, which only its client can get."""
        # Without the package there is no cluster.
        distributed = sys.modules.get("distributed")
        return distributed is not None and bool(distributed.futures_of(self._arrays))

    def lazy_chunks(self) -> list[Delayed]:
        """Return a task for each chunk."""
        # One graph for all of them, because joining one graph per chunk would take long.
        arrays = dask.base.optimize(*self._arrays)  # type: ignore[no-untyped-call]
        name = f"chunk-{uuid.uuid4().hex}"
        layer: dict[Any, Task] = {}
        for i, start in enumerate(self.boundaries[:-1]):
            blocks = (TaskRef((array.name, i, *[0] * (array.ndim - 1))) for array in arrays)
            layer[name, i] = Task(
                (name, i), _chunk, start, self._weight_rules, self.missing, *blocks
            )
        graph = HighLevelGraph.from_collections(name, layer, dependencies=arrays)
        return [Delayed(key, graph, layer=name) for key in layer]  # type: ignore[no-untyped-call]

    def read(self, i: int) -> Chunk:
        """Return chunk i, computed in the thread that reads unless a cluster holds values of it."""
        blocks = [self._usable(self._array.blocks[i], self.boundaries[i])]
        if self._weights is not None:
            blocks.append(self._weights.blocks[i])
        computed = dask.base.compute(*blocks, **self._scheduler)  # type: ignore[no-untyped-call]
        return _chunk(self.boundaries[i], self._weight_rules, self.missing, *computed)

    def _usable(self, array: Any, first_row: int) -> Any:
        """Return the usable values of some blocks of rows, in one block along the columns."""
        blocks = _Blocks(self.name, array.dtype, self._rules, self.missing, first_row)
        return _checked(array, blocks).rechunk({1: -1})

    @property
    def _arrays(self) -> list[Any]:
        """The rows and, if there are any, their weights."""
        return [self.array] if self._weights is None else [self.array, self._weights]

    @cached_property
    def _scheduler(self) -> dict[str, str]:
        """Arguments that choose the scheduler of Dask for a chunk."""
        return {} if self.holds_futures() else {"scheduler": "synchronous"}


def mapped(source: DaskSource, mapping: Mapping) -> DaskSource:
    """Return the same rows and weights, with each block of rows mapped where it is computed."""
    found = copy(source)
    vars(found).pop("_scheduler", None)
    dtype = mapped_dtype(source.dtype)
    found._array = source.array.map_blocks(
        mapped_rows,
        mapping,
        dtype=dtype,
        meta=np.empty((0, 0), dtype),
        chunks=(source._array.chunks[0], (mapping.n_outputs,)),
    )
    found._rules = NO_RULES
    found.n_features = mapping.n_outputs
    return found


def check_array(data: Any, name: str) -> None:
    """Refuse Dask's other collections.

    Raises
    ------
    DataError
        If the data are a DataFrame, a Bag, a Delayed.
    """
    if not isinstance(data, dask.array.Array):
        raise DataError(
            f"{name} is a Dask {type(data).__name__}, not a Dask array; make it one first, a "
            f"DataFrame by {name}.to_dask_array(lengths=True), a Delayed by "
            f"dask.array.from_delayed, a Bag that fits in memory by numpy.array({name}.compute())"
        )


def rules_of(array: dask.array.Array) -> ValueRules:
    """Return the rules by which values of an array are missing: its blocks may be masked."""
    return ValueRules(may_be_masked=isinstance(array._meta, np.ma.MaskedArray))


def usable_weights(weights: Any) -> Any:
    """Return a Dask array of weights whose blocks are checked where they are computed.

    Raises
    ------
    DataError
        If it is another collection of Dask's; when a block is computed, if it cannot be used.
    """
    check_array(weights, "sample_weight")
    blocks = _Blocks("sample_weight", weights.dtype, remedy=WEIGHT_REMEDY)
    return _checked(guarded_graph(weights), blocks)


def guarded_graph(array: Any) -> Any:
    """Return the same Dask array, reading from guarded Zarr arrays where it reads from Zarr."""
    if "zarr" not in sys.modules:
        return array
    from streamgmm.sources.guarded import guarded

    graph, replaced = array.dask, {}
    for name, layer in graph.layers.items():
        # Data that tasks share are a separate layer.
        if isinstance(layer, MaterializedLayer) and len(layer) == 1:
            ((key, value),) = layer.items()
            found = guarded(value)
            if found is not value:
                replaced[name] = MaterializedLayer({key: found})
    if not replaced:
        return array
    graph = HighLevelGraph({**graph.layers, **replaced}, graph.dependencies)
    return type(array)(graph, array.name, array.chunks, meta=array._meta)


def lazy_rows(
    parts: Sequence[tuple[str, Any, ValueRules]], missing: Missing, dtype: np.dtype[Any]
) -> Any:
    """Return the features of all samples of a grid, in one lazy array and one block along them.

    Parameters
    ----------
    parts : sequence of tuple of str, dask.array.Array and ValueRules
        The name of each variable, its values of shape (*sample_shape, width), and its rules.
    missing : {"error", "drop", "em"}
    dtype : dtype
        Type of all features together.

    Returns
    -------
    dask.array.Array of shape (*sample_shape, D)
        Its blocks are refused, where they are computed, if they hold values that cannot be used.
    """
    checked = [
        _checked(array, _Blocks(name, array.dtype, rules, missing)).astype(dtype)
        for name, array, rules in parts
    ]
    features = dask.array.concatenate(checked, axis=-1)  # type: ignore[no-untyped-call]
    return features.rechunk({features.ndim - 1: -1})


def computed(arrays: Sequence[Any]) -> tuple[Any, ...]:
    """Return the values of arrays, of which some are lazy, computed in the calling thread."""
    found: tuple[Any, ...] = dask.base.compute(*arrays, scheduler="synchronous")  # type: ignore[no-untyped-call]
    return found


@dataclass(frozen=True)
class _Blocks:
    """Properties of the blocks of an array, which each task knows.

    Attributes
    ----------
    name : str
        Name of the array, for messages.
    dtype : dtype
        Announced type.
    rules : ValueRules
    missing : {"error", "drop", "em"}
    first_row : int
        Number of the first row of the array.
    remedy : str, optional
        Advice for those who have missing values.
    """

    name: str
    dtype: np.dtype[Any]
    rules: ValueRules = NO_RULES
    missing: Missing = "error"
    first_row: int = 0
    remedy: str = ROW_REMEDY


def _checked(array: Any, blocks: _Blocks) -> Any:
    """Return the usable values of an array, each block checked where it is computed."""
    dtype = blocks.rules.dtype(array.dtype, blocks.missing)
    meta = np.empty((0,) * array.ndim, dtype)
    return array.map_blocks(_usable_block, blocks, dtype=dtype, meta=meta)


def _usable_block(block: Any, blocks: _Blocks, block_info: Any = None) -> NDArray[Any]:
    # Dask fills in block_info, by its name; 0 stands for the first argument.
    location = block_info[0]["array-location"]
    start, stop = (blocks.first_row + row for row in location[0])
    rows = range(start, stop)
    shape = tuple(last - first for first, last in location)
    check_block(block, shape, blocks.dtype, blocks.name, rows)
    return usable(block, blocks.rules, blocks.missing, blocks.name, rows, blocks.remedy)


def _chunk(
    start: int,
    rules: ValueRules,
    missing: Missing,
    block: NDArray[Any],
    weights: NDArray[Any] | None = None,
) -> Chunk:
    chunk = Chunk(block, range(start, start + len(block)))
    return chunk if weights is None else weighted(chunk, weights, rules, missing)
