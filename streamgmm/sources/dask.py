"""Dask arrays: each block of rows is a chunk, and stays a task until a scheduler runs it."""

import sys
import uuid
from collections.abc import Sequence
from copy import copy
from functools import cached_property
from itertools import accumulate
from typing import Any

import dask.array
import dask.base
import numpy as np
from dask._task_spec import Task, TaskRef
from dask.delayed import Delayed
from dask.highlevelgraph import HighLevelGraph
from numpy.typing import NDArray

from streamgmm.errors import DataError
from streamgmm.protocols import Chunk, Missing
from streamgmm.sources.layout import check_table
from streamgmm.sources.weighted import check_weights, weighted, weighted_twice


class DaskSource:
    """Rows of a Dask array, block by block; blocks along columns are joined.

    Parameters
    ----------
    array : dask.array.Array of shape (N, D)

    Raises
    ------
    DataError
        If it is another collection of Dask's, no table of real numbers, or its chunk sizes are not
        known.

    Attributes
    ----------
    array : dask.array.Array of shape (N, D)
        In one block along the columns.
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
        self.array: Any = array.rechunk({1: -1})  # type: ignore[no-untyped-call]
        self.n_rows, self.n_features = (int(size) for size in array.shape)
        self.dtype: np.dtype[Any] = array.dtype
        self.boundaries: Sequence[int] = [0, *accumulate(self.array.chunks[0])]
        self._weights: Any = None

    def with_weights(self, weights: Any) -> "DaskSource":
        """The same rows with weights.

        Parameters
        ----------
        weights : array of shape (N,)
            A Dask array, or anything that slices to numbers.

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
        rows = self.array.chunks[:1]
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
        largest = int(max(self.array.chunks[0]))
        return 2 * largest * self.n_features * self.dtype.itemsize

    def holds_futures(self) -> bool:
        """Return whether a cluster holds some of the values, which only its client can get."""
        # Without the package there is no cluster.
        distributed = sys.modules.get("distributed")
        return distributed is not None and bool(distributed.futures_of(self._arrays))

    def lazy_chunks(self) -> list[Delayed]:
        """A task for each chunk."""
        # One graph for all of them: to join as many as there are chunks would take long.
        arrays = dask.base.optimize(*self._arrays)  # type: ignore[no-untyped-call]
        name = f"chunk-{uuid.uuid4().hex}"
        layer: dict[Any, Task] = {}
        for i, start in enumerate(self.boundaries[:-1]):
            blocks = (TaskRef((array.name, i, *[0] * (array.ndim - 1))) for array in arrays)
            layer[name, i] = Task((name, i), _chunk, start, *blocks)
        graph = HighLevelGraph.from_collections(name, layer, dependencies=arrays)
        return [Delayed(key, graph, layer=name) for key in layer]  # type: ignore[no-untyped-call]

    def read(self, i: int) -> Chunk:
        """Chunk i, computed in the thread that reads unless a cluster holds values of it."""
        blocks = [array.blocks[i] for array in self._arrays]
        computed = dask.base.compute(*blocks, **self._scheduler)  # type: ignore[no-untyped-call]
        return _chunk(self.boundaries[i], *computed)

    @property
    def _arrays(self) -> list[Any]:
        """The rows and, if there are any, their weights."""
        return [self.array] if self._weights is None else [self.array, self._weights]

    @cached_property
    def _scheduler(self) -> dict[str, str]:
        """What computes a chunk, as Dask takes it."""
        return {} if self.holds_futures() else {"scheduler": "synchronous"}


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
            f"DataFrame by {name}.to_dask_array(lengths=True), a Delayed by dask.array.from_delayed"
        )


def _chunk(start: int, block: NDArray[Any], weights: NDArray[Any] | None = None) -> Chunk:
    chunk = Chunk(np.asarray(block), range(start, start + len(block)))
    return chunk if weights is None else weighted(chunk, weights)
