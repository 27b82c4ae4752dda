"""Check values of a header: each has the type and the range of what it stands for."""

import math
import reprlib
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

V = TypeVar("V")


def whole(name: str, value: Any, least: int = 0) -> int:
    """Return an integer that is not below a bound.

    Raises
    ------
    ValueError
        If the value is none.
    """
    if type(value) is not int or value < least:
        raise _wrong(name, value, f"an integer of at least {least}")
    return value


def number(name: str, value: Any, least: float = -math.inf) -> float:
    """Return a finite number that is not below a bound.

    Raises
    ------
    ValueError
        If the value is none.
    """
    if type(value) not in (int, float) or not (least <= value < math.inf) or value == -math.inf:
        raise _wrong(name, value, f"a number of at least {least}")
    return float(value)


def amount(name: str, value: Any) -> float:
    """Return a finite number that is not below 0.

    Raises
    ------
    ValueError
        If the value is none.
    """
    return number(name, value, 0.0)


def positive(name: str, value: Any) -> float:
    """Return a finite number above 0.

    Raises
    ------
    ValueError
        If the value is none.
    """
    if number(name, value) <= 0.0:
        raise _wrong(name, value, "a number above 0")
    return float(value)


def any_number(name: str, value: Any) -> float:
    """Return a number, which may be NaN or infinite: null, "inf" or "-inf" in JSON.

    Raises
    ------
    ValueError
        If the value is none.
    """
    if value is None or (type(value) is str and value in ("inf", "-inf")):
        return math.nan if value is None else float(value)
    if type(value) not in (int, float):
        raise _wrong(name, value, "a number")
    return value  # type: ignore[no-any-return]


def truth(name: str, value: Any) -> bool:
    """Return True or False.

    Raises
    ------
    ValueError
        If the value is neither.
    """
    return _of_type(bool, name, value, "true or false")


def text(name: str, value: Any) -> str:
    """Return a text.

    Raises
    ------
    ValueError
        If the value is none.
    """
    return _of_type(str, name, value, "a text")


def listed(name: str, value: Any, most: float = math.inf) -> list[Any]:
    """Return a list of a bounded number of entries.

    Raises
    ------
    ValueError
        If the value is none.
    """
    if type(value) is not list or len(value) > most:
        raise _wrong(name, value, f"a list of at most {most} entries")
    return value


def entries(name: str, value: Any) -> Mapping[str, Any]:
    """Return named values.

    Raises
    ------
    ValueError
        If the value is no mapping of names.
    """
    return _of_type(dict, name, value, "a set of named values")


def known(
    name: str, value: Any, checks: Mapping[str, Callable[[str, Any], Any]]
) -> Mapping[str, Any]:
    """Return named values, each of which has a check.

    Raises
    ------
    ValueError
        If there is another name, or a check fails.
    """
    for entry, content in entries(name, value).items():
        if entry not in checks:
            raise ValueError(f"its {name} have an unknown entry {reprlib.repr(entry)}")
        checks[entry](entry, content)
    return value  # type: ignore[no-any-return]


def _of_type(kind: type[V], name: str, value: Any, expected: str) -> V:
    if type(value) is not kind:
        raise _wrong(name, value, expected)
    return value


def _wrong(name: str, value: Any, expected: str) -> ValueError:
    return ValueError(f"its {name} is {reprlib.repr(value)}, not {expected}")
