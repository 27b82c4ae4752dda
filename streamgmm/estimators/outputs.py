"""The form that what is said of rows comes in: its type, its names, its container, its place."""

import math
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamgmm.errors import OutputError, ParameterError
from streamgmm.paths import local_path
from streamgmm.protocols import (
    LabelledSource,
    Output,
    Source,
    locations_of,
    region_shape,
    regions_of,
    sample_shape,
)
from streamgmm.sources.open import is_path, is_paths
from streamgmm.sources.transformed import TransformedSource
from streamgmm.urls import is_url, split

#: Label of rows that cannot be labelled.
NO_LABEL = -1
# Bytes of predictions that a thread holds before they are written.
_PIECE_BYTES = 8 << 20


def labels_output(name: str, n_labels: int, dtype: Any, has_noise: bool = False) -> Output:
    """Return the description of labels from 0 to n_labels - 1, and -1 for rows without one.

    With noise -1 is its label, and -2 that of rows without one.

    Parameters
    ----------
    name : str
        What the labels are numbers of.
    n_labels : int
    dtype : dtype-like or None
        By default int64 in memory, and the smallest type that holds the labels at a path.
    has_noise : bool

    Raises
    ------
    ParameterError
        If the type cannot hold the labels.
    """
    no_label = NO_LABEL - has_noise
    smallest = np.min_scalar_type(min(-n_labels, no_label))
    meanings = [*(["noise"] if has_noise else []), *(f"{name}_{k}" for k in range(n_labels))]
    attributes = {
        "long_name": f"{name} of each sample",
        "flag_values": list(range(no_label + 1, n_labels)),
        "flag_meanings": " ".join(meanings),
    }
    described = Output(np.dtype(np.int64), None, (), smallest, name, attributes, no_label)
    if dtype is None:
        return described
    chosen = _dtype_of(dtype)
    if chosen.kind != "i" or chosen.itemsize < smallest.itemsize:
        raise ParameterError(
            f"dtype is {chosen}, which cannot hold the labels {no_label} to {n_labels - 1}; "
            f"choose a signed integer type of at least {8 * smallest.itemsize} bits, such as "
            f"{smallest}"
        )
    return replace(described, dtype=chosen, stored_dtype=chosen)


def numbers_output(
    name: str,
    attributes: Mapping[str, Any],
    dtype: Any,
    default: Any = np.float64,
    dim: str | None = None,
    length: int = 0,
) -> Output:
    """Return the description of real numbers.

    Parameters
    ----------
    name : str
    attributes : mapping of str to JSON values
        By the conventions for climate data.
    dtype : dtype-like or None
        float32 or float64.
    default : dtype-like
        Type without a choice.
    dim : str, optional
        Dimension along which a row has several of them.
    length : int
        Number of them.

    Raises
    ------
    ParameterError
        If there is no such type.
    """
    chosen = np.dtype(default) if dtype is None else _dtype_of(dtype)
    if dtype is not None and chosen not in (np.float32, np.float64):
        raise ParameterError(f"dtype is {chosen}; choose float32 or float64")
    return Output(chosen, dim, range(length), name=name, attributes=attributes)


def _dtype_of(dtype: Any) -> np.dtype[Any]:
    try:
        chosen: np.dtype[Any] = np.dtype(dtype)
    except TypeError:
        raise ParameterError(f"dtype is {dtype!r}; give a type of NumPy, such as int8") from None
    return chosen


def as_given(source: Source, values: NDArray[Any], output: Output) -> Any:
    """Return values of all rows in the kind of container that the rows came in."""
    if isinstance(source, LabelledSource):
        return source.labelled(values, output)
    return values


def description(source: Source) -> dict[str, Any]:
    """Return what the predictions of a source depend on, as far as its metadata say."""
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
            "a .npy or .zarr path to write them to, of labelled data also .nc"
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

    A group of the Zarr store that the data are in is no part of them.

    Raises
    ------
    OutputError
    """
    if is_path(out) and is_url(os.fspath(out)):
        return
    location, group = split(os.fspath(local_path(out, OutputError, "outputs")))
    written = Path(location, (group or "").strip("/")).resolve()
    for place in locations_of(source):
        read = place.resolve()
        is_inside = read in written.parents and group is None
        if written == read or written in read.parents or is_inside:
            raise OutputError(f"{out} overlaps the data that are read; write somewhere else")
