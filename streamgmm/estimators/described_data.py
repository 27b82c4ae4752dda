"""The description of the data travels with a model: new data are opened and checked by it."""

from collections.abc import Mapping
from typing import Any, get_args

from streamgmm.core.data_description import DataDescription
from streamgmm.estimators.header_values import entries, known, listed, number, text
from streamgmm.options import Missing
from streamgmm.protocols import DescribingSource, Source
from streamgmm.sources.named_weights import NamingSource
from streamgmm.sources.open import open_source, options_by_name

# Lists in a header are no longer than this.
_MOST_ENTRIES = 1 << 20


def description_of(source: Source) -> DataDescription:
    """Return how data are described, as far as a later source can be described so."""
    if isinstance(source, DescribingSource):
        described = source.data_description()
        if described is not None:
            return described
    is_table = isinstance(source, NamingSource) and source.chosen_by == "columns"
    columns = tuple(source.chosen()) if is_table else ()  # type: ignore[attr-defined]
    are_names = bool(columns) and all(isinstance(name, str) for name in columns)
    return DataDescription(columns=columns if are_names else None, missing=source.missing)


def open_described(
    X: Any, description: DataDescription | None, *, missing: Missing | None, sample_weight: Any
) -> Source:
    """Open data by the description of a model, as far as they do not say it themselves.

    Parameters
    ----------
    X : array-like, path or Source
        Of a path, or of labelled data, features are found by the names in the description.
    description : DataDescription or None
        None if the model has none.
    missing : {"error", "drop", "em"}, optional
        Overrides the description.
    sample_weight : str or CosLatitude, optional

    Raises
    ------
    DataError
        If a variable is absent, or labels along the features or units differ.
    """
    if description is None:
        return open_source(X, missing=missing, sample_weight=sample_weight)
    options = options_by_name(X, description)
    if options is None:
        source = open_source(X, missing=missing, sample_weight=sample_weight)
    else:
        source = open_source(
            X, missing=missing or description.missing, sample_weight=sample_weight, **options
        )
    return source.like(description) if isinstance(source, DescribingSource) else source


def to_header(description: DataDescription) -> dict[str, Any]:
    """Return a description as JSON can say it."""
    known_values: dict[str, Any] = {
        name: _in_lists(values)
        for name in ("variables", "columns", "feature_dim", "levels")
        if (values := getattr(description, name)) is not None
    }
    return {**known_values, "units": dict(description.units), "missing": description.missing}


def from_header(header: Mapping[str, Any]) -> DataDescription | None:
    """Return the description that :func:`to_header` was given; None if a file has none.

    Raises
    ------
    TypeError, ValueError
        If an entry is unknown or of the wrong kind.
    """
    if "data" not in header:
        return None
    values = {
        name: _in_tuples(value) for name, value in known("data", header["data"], _ENTRIES).items()
    }
    description = DataDescription(**values)
    _check_levels(description)
    return description


def _in_lists(value: Any) -> Any:
    return [*map(_in_lists, value)] if isinstance(value, tuple) else value


def _in_tuples(value: Any) -> Any:
    return tuple(map(_in_tuples, value)) if isinstance(value, list) else value


def _check_levels(description: DataDescription) -> None:
    """Check that levels are those of as many dimensions as there are.

    Raises
    ------
    ValueError
    """
    levels, dims = description.levels or (), description.feature_dims
    is_nested = [isinstance(entry, tuple) for entry in levels]
    if isinstance(description.feature_dim, tuple):
        is_right = len(levels) == len({*dims}) == len(dims) > 1 and all(is_nested)
    else:
        is_right = not any(is_nested) and (len(dims) == 1 or description.levels is None)
    if not is_right:
        raise ValueError("its levels are not those of its feature_dim")


def _texts(name: str, value: Any) -> None:
    for entry in listed(name, value, _MOST_ENTRIES):
        text(name, entry)


def _dims(name: str, value: Any) -> None:
    if isinstance(value, list):
        _texts(name, value)
    else:
        text(name, value)


def _levels(name: str, value: Any) -> None:
    for entry in listed(name, value, _MOST_ENTRIES):
        for label in listed(name, entry, _MOST_ENTRIES) if isinstance(entry, list) else [entry]:
            if not isinstance(label, str):
                number(name, label)


def _units(name: str, value: Any) -> None:
    for unit in entries(name, value).values():
        text(name, unit)


def _missing(name: str, value: Any) -> None:
    if text(name, value) not in get_args(Missing):
        raise ValueError(f"its {name} is none of {', '.join(get_args(Missing))}")


_ENTRIES = {
    "variables": _texts,
    "columns": _texts,
    "feature_dim": _dims,
    "levels": _levels,
    "units": _units,
    "missing": _missing,
}
