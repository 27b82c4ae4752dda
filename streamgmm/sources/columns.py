"""Names of columns: each is there once, and data have those that a model was fitted to."""

from collections import Counter
from collections.abc import Iterable, Sequence
from numbers import Integral
from typing import Any

from streamgmm.errors import DataError, DataTypeError, ParameterError
from streamgmm.protocols import Source

_MOST_SHOWN = 5
# Names that an error offers.
_MOST_CHOICES = 20


def refuse_duplicates(name: str, columns: Iterable[object]) -> None:
    """Refuse columns of which two have the same name.

    Raises
    ------
    DataError
    """
    repeated = [column for column, n in Counter(columns).items() if n > 1]
    if repeated:
        raise DataError(
            f"{name} has more than one column with the name {', '.join(map(repr, repeated))}; "
            "rename the columns, or name each one once"
        )


def feature_names(name: str, columns: Sequence[object]) -> list[str] | None:
    """Return the names of columns if all are strings, and None if none is.

    Raises
    ------
    DataTypeError
        If only some are strings.
    """
    names = [column for column in columns if isinstance(column, str)]
    if not names:
        return None
    if len(names) < len(columns):
        kinds = sorted({type(column).__qualname__ for column in columns})
        raise DataTypeError(
            "Feature names are only supported if all input features have string names, but "
            f"{name} has {kinds} as feature name / column name types; convert all names to "
            "strings, for example with X.columns = X.columns.astype(str)"
        )
    return names


def chosen_columns(
    features: Iterable[object], n_features: int, names: Sequence[str] | None
) -> list[int]:
    """Return the numbers of columns that are given by number or name.

    Parameters
    ----------
    features : iterable of int or str
    n_features : int
        Number of columns.
    names : sequence of str, or None
        Their names.

    Raises
    ------
    ParameterError
        If there is no such column, one is given twice, or there is none.
    """
    given, known = list(features), [] if names is None else list(names)
    numbers: list[Any] = [known.index(f) if isinstance(f, str) and f in known else f for f in given]
    are_known = all(isinstance(f, Integral) and f in range(n_features) for f in numbers)
    if not are_known or not numbers or len(set(numbers)) < len(numbers):
        shown = ", ".join([*known[:_MOST_CHOICES], *["..."] * (len(known) > _MOST_CHOICES)])
        raise ParameterError(
            f"features {', '.join(map(str, given))} are not columns of the model, or one is "
            f"repeated; choose numbers from 0 to {n_features - 1}"
            + (f", or names: {shown}" if known else "")
        )
    return [int(number) for number in numbers]


def check_features(
    source: Source, n_features: int, names: Sequence[str] | None, model: str
) -> None:
    """Refuse data whose columns are not those that a model was fitted to.

    Parameters
    ----------
    source : Source
    n_features : int
        Number of columns that the model was fitted to.
    names : sequence of str, or None
        Their names.
    model : str
        What messages call the model.

    Raises
    ------
    DataError
        If the names or the number of columns differ. Names are compared where both sides have
        them.
    """
    given = source.feature_names
    if names is not None and given is not None and list(given) != list(names):
        raise DataError(
            "The feature names should match those that were passed during fit.\n"
            f"{_differences(given, names)}"
            f"{source.name} is to have the columns in feature_names_in_ of the {model}, in that "
            "order; select them first"
        )
    if source.n_features != n_features:
        raise DataError(
            f"{source.name} has {source.n_features} features, but {model} is expecting "
            f"{n_features} features as input"
        )


def _differences(given: Sequence[str], fitted: Sequence[str]) -> str:
    """Return in which names data differ from a model, in scikit-learn's words."""
    unseen, missing = sorted({*given} - {*fitted}), sorted({*fitted} - {*given})
    if not unseen and not missing:
        return "Feature names must be in the same order as they were in fit.\n"
    found = ""
    if unseen:
        found += f"Feature names unseen at fit time:\n{_bullets(unseen)}"
    if missing:
        found += f"Feature names seen at fit time, yet now missing:\n{_bullets(missing)}"
    return found


def _bullets(names: Sequence[str]) -> str:
    shown = [*names[:_MOST_SHOWN], *(["..."] if len(names) > _MOST_SHOWN else [])]
    return "".join(f"- {name}\n" for name in shown)
