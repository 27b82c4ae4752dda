"""The form that what is said of rows comes in: its type, its names, its container, its place."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamgmm.errors import OutputError, ParameterError
from streamgmm.paths import local_path
from streamgmm.protocols import (
    LabelledSource,
    Source,
    locations_of,
    region_shape,
    regions_of,
    sample_shape,
)
from streamgmm.sources.open import is_path, is_paths
from streamgmm.sources.transformed import TransformedSource
from streamgmm.sources.urls import is_url

# Of predictions that a thread holds before they are written.
_PIECE_BYTES = 8 << 20


@dataclass(frozen=True)
class Output:
    """What is found of each row.

    Attributes
    ----------
    dtype : dtype
    dim : str or None
        Name of the dimension that several values of a row lie along.
    names : sequence
        Their labels along it.
    """

    dtype: np.dtype[Any]
    dim: str | None = None
    names: Sequence[int | str] = ()

    @property
    def length(self) -> int | None:
        """Number of values of a row; None for a single one without a dimension of its own."""
        return None if self.dim is None else len(self.names)


def as_given(source: Source, values: NDArray[Any], output: Output) -> Any:
    """Return values of all rows in the kind of container that the rows came in."""
    if isinstance(source, LabelledSource):
        return source.labelled(values, output.dim, output.names)
    return values


def description(source: Source) -> dict[str, Any]:
    """Return what predictions of a source depend on, as far as its metadata tell."""
    known = {
        "data": source.name,
        "data shape": [*sample_shape(source), source.n_features],
        "data dtype": source.dtype.str,
        "missing": source.missing,
        "column names": None if source.feature_names is None else [*source.feature_names],
    }
    if isinstance(source, TransformedSource):
        known["maps of the rows"] = source.digest
    return known


def refuse_unnamed_output(X: Any) -> None:
    """Refuse to predict data that are named by a path without a path to write to.

    Raises
    ------
    ParameterError
    """
    if is_path(X) or is_paths(X):
        raise ParameterError(
            "predictions of data named by a path are not held in memory; give out=, "
            "a .npy or .zarr path to write them to"
        )


def piece_shape_of(source: Source, row_bytes: int) -> tuple[int, ...]:
    """Return the sizes of the boxes whose predictions are computed at once.

    Rows of such a box follow each other in their chunk. Sizes are halved as long as they are
    even, because boxes that divide the chunks share no chunk of a Zarr array.
    """
    region_of = regions_of(source)
    shapes = (region_shape(region_of(i)) for i in range(len(source.boundaries) - 1))
    sizes = [max(lengths) for lengths in zip(*shapes, strict=True)]
    most = max(_PIECE_BYTES // row_bytes, 1)
    for d in range(len(sizes)):
        within = math.prod(sizes[d + 1 :])
        while sizes[d] * within > most and sizes[d] % 2 == 0:
            sizes[d] //= 2
        sizes[d] = min(sizes[d], max(most // within, 1))
        if within <= most:
            break
    return tuple(sizes)


def refuse_overlap(out: str | os.PathLike[str], source: Source) -> None:
    """Refuse to write over the data that are read, or into or around them.

    Raises
    ------
    OutputError
    """
    if is_path(out) and is_url(os.fspath(out)):
        return
    path = local_path(out, OutputError, "outputs")
    written = path.resolve()
    for location in locations_of(source):
        read = location.resolve()
        if written == read or written in read.parents or read in written.parents:
            raise OutputError(f"{out} overlaps the data that are read; write somewhere else")
