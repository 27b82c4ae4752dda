"""Arrays of Python objects: real numbers among them become float64, None and NA become NaN."""

import math
from decimal import Decimal
from numbers import Real
from types import NoneType
from typing import Any

import numpy as np
from numpy.typing import NDArray


def index_of_other(objects: NDArray[np.object_]) -> tuple[int, ...] | None:
    """Return the index of the first object that is neither a real number nor missing.

    Parameters
    ----------
    objects : ndarray of objects, of any shape

    Returns
    -------
    tuple of int, or None
        None if there is no such object.
    """
    others = {kind for kind in set(map(type, objects.flat)) if not _is_real_or_missing(kind)}
    if not others:
        return None
    first = next(i for i, value in enumerate(objects.flat) if type(value) in others)
    return tuple(map(int, np.unravel_index(first, objects.shape)))


def as_floats(objects: NDArray[np.object_]) -> NDArray[np.float64]:
    """Convert real numbers to float64, and missing values to NaN.

    Parameters
    ----------
    objects : ndarray of objects, of any shape
        Real numbers, None or pandas.NA.

    Raises
    ------
    ValueError, OverflowError
        If a number has no float64 value.
    """
    values = (math.nan if _is_missing(type(value)) else float(value) for value in objects.flat)
    return np.fromiter(values, np.float64, objects.size).reshape(objects.shape)


def _is_real_or_missing(kind: type[Any]) -> bool:
    # NumPy derives timedelta64 from its integers.
    is_real = issubclass(kind, Real | Decimal | np.bool_) and not issubclass(kind, np.timedelta64)
    return is_real or _is_missing(kind)


def _is_missing(kind: type[Any]) -> bool:
    return kind is NoneType or (kind.__name__ == "NAType" and kind.__module__.startswith("pandas"))
