"""Checks whether the values of a block can be used: missing-value marks, masks, packing, ranges.

Every source, and weights of every kind, describe an array once by :func:`value_rules` and pass each
block through :func:`usable`.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamgmm.errors import DataError
from streamgmm.options import Missing

# Attributes that name numbers which stand for missing values (CF conventions, section 2.5.1).
_MARKS = ("_FillValue", "missing_value")
# Attributes of packing (CF conventions, section 8.1), with the number that changes nothing.
_PACKING = {"scale_factor": 1.0, "add_offset": 0.0}
# zarr.zeros and zarr.ones write these fill values; they say nothing of missing values.
_COMMON_FILL_VALUES = (0, 1)
#: Advice for those whose rows have missing values.
ROW_REMEDY = (
    "fill them first, or give streamgmm.open(..., missing='drop') to skip their rows or "
    "missing='em' to use the other values of their rows"
)
#: Advice for those whose weights are missing.
WEIGHT_REMEDY = "a weight may not be missing; give a number, 0 for rows that are not to count"


@dataclass(frozen=True)
class ValueRules:
    """Rules by which values of an array are missing.

    Attributes
    ----------
    marks : tuple of (str, scalar)
        Numbers of the array's type that stand for missing values, each with the name of the
        attribute that says so.
    valid_min, valid_max : scalar or None
        Values below or above are missing.
    may_be_masked : bool
        Whether blocks may be masked arrays.
    """

    marks: tuple[tuple[str, Any], ...] = ()
    valid_min: Any = None
    valid_max: Any = None
    may_be_masked: bool = False

    @property
    def is_empty(self) -> bool:
        """Whether no value can be missing by these rules."""
        return self == NO_RULES

    def dtype(self, stored: np.dtype[Any], missing: Missing) -> np.dtype[Any]:
        """Return the type of usable values: float64 for integers among which some may be NaN."""
        has_nan = missing != "error" and not self.is_empty
        return np.dtype(np.float64) if has_nan and stored.kind != "f" else stored

    def work_bytes(self, n_values: int, dtype: np.dtype[Any]) -> int:
        """Return the memory in bytes that :func:`usable` takes for values of a type."""
        return 0 if self.is_empty else n_values * (dtype.itemsize + 2)

    def found(self, values: NDArray[Any]) -> Iterator[tuple[str, NDArray[np.bool_]]]:
        """Yield how values are missing, and which, for each rule."""
        if np.ma.getmask(values) is not np.ma.nomask:
            yield "masked", np.ma.getmaskarray(values)
        plain = np.asarray(values)
        for attribute, mark in self.marks:
            yield f"marked by {attribute} {mark}", plain == mark
        if self.valid_min is not None:
            yield f"below valid_min {self.valid_min}", plain < self.valid_min
        if self.valid_max is not None:
            yield f"above valid_max {self.valid_max}", plain > self.valid_max


#: The rules of an array of which nothing is known but its values.
NO_RULES = ValueRules()


def value_rules(
    name: str,
    dtype: np.dtype[Any],
    attributes: Mapping[str, Any],
    fill_value: Any = None,
    *,
    is_decoded: bool = False,
) -> ValueRules:
    """Return the rules that the attributes of an array give.

    Parameters
    ----------
    name : str
        Name of the array, for messages.
    dtype : dtype
        Boolean, integer or floating.
    attributes : mapping
        CF attributes. ``_FillValue`` and ``missing_value`` may hold several marks. A valid range
        counts only if it has the kind of the data; otherwise it belongs to packed values.
    fill_value : scalar, optional
        Number in chunks that were never written, if it stands for missing values.
    is_decoded : bool
        Whether values were packed and have been unpacked, so that the valid range is not in
        their units.

    Raises
    ------
    DataError
        If values are packed.
    """
    _refuse_packed(name, dtype, attributes)
    if dtype.kind not in "iuf":
        return NO_RULES
    given = [(key, attributes[key]) for key in _MARKS if key in attributes]
    if fill_value is not None:
        given.append(("fill_value", fill_value))
    marks: dict[Any, str] = {}
    for key, value in given:
        for number in _numbers(value):
            mark = _as_type(number, dtype)
            if mark is not None:
                marks.setdefault(mark, key)
    low, high = (None, None) if is_decoded else _valid_range(dtype, attributes)
    return ValueRules(tuple((key, mark) for mark, key in marks.items()), low, high)


def marking_fill_value(value: Any) -> Any:
    """Return the fill value of an array if it stands for missing values, else None.

    A fill value of 0 or 1, NaN or infinity says nothing of the values that were written.
    """
    if value is None or isinstance(value, (bool, np.bool_)):
        return None
    number = np.asarray(value)
    is_number = number.dtype.kind in "iuf" and number.ndim == 0 and np.isfinite(number)
    return value if is_number and number not in _COMMON_FILL_VALUES else None


def usable(
    values: Any,
    rules: ValueRules,
    missing: Missing,
    name: str,
    place: "str | range | NDArray[np.int64]",
    remedy: str = ROW_REMEDY,
) -> NDArray[Any]:
    """Return the values of a block as kernels may see them, with NaN for missing ones.

    Parameters
    ----------
    values : array
        As they are stored.
    rules : ValueRules
    missing : {"error", "drop", "em"}
        Missing values are refused by "error".
    name : str
        Name of the array, for messages.
    place : str, range or ndarray
        Place of the block, in words or as the numbers of its rows.
    remedy : str
        Advice for those who have missing values.

    Returns
    -------
    ndarray
        The same memory if there is no rule and no mask.

    Raises
    ------
    DataError
        If the block is no NumPy array, or values are missing and may not be.
    """
    if not isinstance(values, np.ndarray):
        raise _no_array(values, name, place)
    dtype = rules.dtype(values.dtype, missing)
    ways = [(how, is_missing) for how, is_missing in rules.found(values) if is_missing.any()]
    if not ways:
        return np.asarray(values, dtype)
    all_missing: NDArray[np.bool_] = np.logical_or.reduce([is_missing for _, is_missing in ways])
    if missing == "error":
        found = ", ".join(f"{np.count_nonzero(some)} {how}" for how, some in ways)
        row = int(np.argmax(all_missing.reshape(len(values), -1).any(axis=1)))
        first = "" if isinstance(place, str) else f", the first in row {place[row]}"
        raise DataError(
            f"{name}: {_in_words(place)} hold {np.count_nonzero(all_missing)} missing value(s) "
            f"({found}){first}; {remedy}"
        )
    if dtype.kind != "f":
        raise DataError(
            f"{name}: {_in_words(place)} hold masked values of type {dtype}, though nothing said "
            "that values may be masked; convert them first, as in X.astype(float)"
        )
    result = np.array(values, dtype, subok=False)
    result[all_missing] = np.nan
    return result


def check_block(
    values: Any, shape: tuple[int, ...], dtype: np.dtype[Any], name: str, place: str | range
) -> None:
    """Refuse a block that is not of the shape and kind of type that its collection announced.

    Raises
    ------
    DataError
        If it is not.
    """
    if not isinstance(values, np.ndarray):
        raise _no_array(values, name, place)
    if values.shape != shape or values.dtype.kind != dtype.kind:
        raise DataError(
            f"{name}: the block of {_in_words(place)} has shape {values.shape} and dtype "
            f"{values.dtype}, but {shape} and {dtype} were announced; correct the chunks or dtype "
            "where the collection is made"
        )


def _in_words(place: "str | range | NDArray[np.int64]") -> str:
    return place if isinstance(place, str) else f"rows {place[0]} to {place[-1] + 1}"


def _no_array(values: Any, name: str, place: "str | range | NDArray[np.int64]") -> DataError:
    ways = {"toarray": "toarray()", "todense": "todense()", "get": "get()"}
    way = next((call for method, call in ways.items() if hasattr(values, method)), None)
    convert = f"block.{way}" if way else "numpy.asarray(block)"
    kind = f"{type(values).__module__}.{type(values).__qualname__}"
    return DataError(
        f"{name}: {_in_words(place)} come as {kind}, not as a NumPy array; convert the blocks "
        f"first, as in X.map_blocks(lambda block: {convert}, dtype=X.dtype)"
    )


def _refuse_packed(name: str, dtype: np.dtype[Any], attributes: Mapping[str, Any]) -> None:
    packed = [
        key
        for key, identity in _PACKING.items()
        if attributes.get(key) is not None and {*_numbers(attributes[key])} != {identity}
    ]
    unsigned = attributes.get("_Unsigned", "")
    unsigned = unsigned.decode() if isinstance(unsigned, bytes) else str(unsigned)
    if (unsigned.lower(), dtype.kind) in (("true", "i"), ("false", "u")):
        packed.append("_Unsigned")
    if packed:
        raise DataError(
            f"{name} holds packed values (attributes {', '.join(packed)}); "
            "decode them first, for example with xarray"
        )


def _valid_range(dtype: np.dtype[Any], attributes: Mapping[str, Any]) -> tuple[Any, Any]:
    """Return the least and the largest valid value, None for each that is not given."""
    given = {
        key: attributes[key]
        for key in ("valid_min", "valid_max", "valid_range")
        # Text is not of the type of the data.
        if not isinstance(attributes.get(key, ""), (str, bytes))
    }
    pair = [*_numbers(given.get("valid_range"))]
    pairs = [[bound] for bound in pair] if len(pair) == 2 else [[], []]
    bounds: list[Any] = []
    for key, own in zip(("valid_min", "valid_max"), pairs, strict=True):
        numbers = [*_numbers(given[key])] if key in given else own
        is_of_kind = [isinstance(bound, float) == (dtype.kind == "f") for bound in numbers]
        is_bound = is_of_kind == [True] and not math.isnan(numbers[0])
        bounds.append(_clipped(numbers[0], dtype) if is_bound else None)
    return bounds[0], bounds[1]


def _clipped(bound: int | float, dtype: np.dtype[Any]) -> Any:
    """Return a bound as a scalar of a type; the nearest one if it is out of its range."""
    if dtype.kind == "f":
        return dtype.type(bound)
    limits = np.iinfo(dtype)
    return dtype.type(min(max(int(bound), int(limits.min)), int(limits.max)))


def _as_type(number: int | float, dtype: np.dtype[Any]) -> Any:
    """Return a number as a scalar of a type; None if no value of the type can equal it."""
    if math.isnan(number):
        # NaN is missing without a mark.
        return None
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            return dtype.type(number)
    limits = np.iinfo(dtype)
    is_held = number == number // 1 and limits.min <= number <= limits.max
    return dtype.type(int(number)) if is_held else None


def _numbers(value: Any) -> Iterator[int | float]:
    """Yield the numbers of an attribute, those written as text too; nothing else is a number."""
    for item in np.ravel(np.asarray(value, dtype=object)).tolist():
        number = item.item() if isinstance(item, np.generic) else item
        if isinstance(number, (str, bytes)):
            with suppress(ValueError):
                yield float(number)
        elif isinstance(number, (int, float)) and not isinstance(number, bool):
            yield number
