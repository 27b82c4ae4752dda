"""Weights that data hold themselves: a column, a variable or a coordinate, named by text."""

from bisect import bisect_right
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from streamgmm.errors import DataError, ParameterError
from streamgmm.protocols import Source

#: A function from the values of a column to weights.
Convert = Callable[[NDArray[Any]], NDArray[Any]]

# Degrees beyond a pole that are rounding.
_TOLERANCE = 1e-3


@dataclass(frozen=True)
class CosLatitude:
    """Weights that are the cosine of the latitude, in degrees, that data hold by a name.

    Made by :func:`cos_latitude`.

    Attributes
    ----------
    name : str
    """

    name: str

    def __call__(self, degrees: NDArray[Any]) -> NDArray[Any]:
        """Return the weights of latitudes.

        Raises
        ------
        DataError
            If a value is no latitude in degrees.
        """
        latitudes = np.asarray(degrees, dtype=np.float64)
        outside = np.abs(latitudes) > 90.0 + _TOLERANCE
        if outside.any():
            raise DataError(
                f"{self.name} holds {latitudes[outside][0]}, which is no latitude in degrees; name "
                "a latitude from -90 to 90"
            )
        return np.asarray(np.maximum(np.cos(np.deg2rad(latitudes)), 0.0))


def cos_latitude(name: str) -> CosLatitude:
    """Return row weights for a grid of latitudes: each cell counts by its area.

    Parameters
    ----------
    name : str
        The coordinate, variable or column that holds the latitude in degrees.

    Returns
    -------
    weights : CosLatitude
        What ``sample_weight`` takes. At a pole the weight is 0, also where the cosine of the
        rounded angle is a little below.

    Raises
    ------
    ParameterError
        If the name is not text.

    Examples
    --------
    >>> import numpy as np
    >>> import pandas
    >>> import streamgmm
    >>> frame = pandas.DataFrame({"lat": [0.0, 60.0, 90.0], "t": [1.0, 4.0, 9.0]})
    >>> source = streamgmm.open(frame, sample_weight=streamgmm.cos_latitude("lat"))
    >>> source.read(0).weights.round(3)
    array([1. , 0.5, 0. ])
    >>> source.feature_names
    ['t']
    """
    if not isinstance(name, str):
        raise ParameterError(f"the name of the latitude is {name!r}; give it as text")
    return CosLatitude(name)


def unchanged(values: NDArray[Any]) -> NDArray[Any]:
    """Return the values of a column, which are weights already."""
    return values


@runtime_checkable
class NamingSource(Source, Protocol):
    """A source whose rows have values beside the features, each by a name.

    Attributes
    ----------
    chosen_by : str
        The argument of :func:`streamgmm.open` that chooses the features.
    """

    chosen_by: str

    def names(self) -> Collection[Any]:
        """Return the names of all columns, variables or coordinates."""

    def chosen(self) -> Sequence[Any]:
        """Return the names of those that are features."""

    def weights_named(self, name: str, convert: Convert) -> Any:
        """Return what a name holds, converted, as weights of the rows.

        Raises
        ------
        DataError
            If they are no real numbers.
        """


class ColumnWeights:
    """Weights in a column of stored data, read beside the rows.

    Parameters
    ----------
    column : Source
        It has one feature and the chunks of the rows.
    convert : callable
        Makes weights of its values.

    Attributes
    ----------
    shape : tuple of int
    dtype : dtype
    read_bytes : int
        Largest memory in bytes to read a chunk of it.
    """

    def __init__(self, column: Source, convert: Convert) -> None:
        self._column, self._name, self._convert = column, column.name, convert
        self.shape = (column.n_rows,)
        self.dtype: np.dtype[Any] = np.dtype(np.float64)
        self.read_bytes: int = column.read_bytes

    def __getitem__(self, region: tuple[slice, ...] | slice) -> NDArray[Any]:
        """Return the weights of consecutive rows."""
        rows = region[0] if isinstance(region, tuple) else region
        start, stop, _ = rows.indices(self.shape[0])
        boundaries, parts = self._column.boundaries, []
        i = bisect_right(boundaries, start) - 1
        while i < len(boundaries) - 1 and boundaries[i] < stop:
            first = boundaries[i]
            values = self._column.read(i).rows[max(start - first, 0) : stop - first, 0]
            parts.append(self._convert(values))
            i += 1
        return parts[0] if len(parts) == 1 else np.concatenate([np.empty(0), *parts])
