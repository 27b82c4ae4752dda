"""The description of data that a model remembers, so that new data need none."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from streamgmm.options import Missing

#: A label along a dimension; numbers are compared as numbers.
Level = float | str


@dataclass(frozen=True)
class DataDescription:
    """How data were described when a model was fitted to them.

    Attributes
    ----------
    variables : tuple of str, or None
        Variables of labelled data that are the features, in their order.
    columns : tuple of str, or None
        Columns of a table that are the features.
    feature_dim : str, tuple of str, or None
        Dimension, or several, that the features of labelled data lie along.
    levels : tuple of float or str, tuple of such tuples, or None
        Labels along this dimension; of several dimensions a tuple for each, which holds positions
        where a dimension has no labels.
    units : mapping of str to str
        Units of variables and of the labels, by name, as far as the data say them.
    missing : {"error", "drop", "em"}
        Treatment of rows with missing values.
    """

    variables: tuple[str, ...] | None = None
    columns: tuple[str, ...] | None = None
    feature_dim: str | tuple[str, ...] | None = None
    levels: tuple[Level, ...] | tuple[tuple[Level, ...], ...] | None = None
    units: Mapping[str, str] = field(default_factory=dict)
    missing: Missing = "error"

    @property
    def feature_dims(self) -> tuple[str, ...]:
        """The dimensions that the features lie along, of which there may be none."""
        if self.feature_dim is None:
            return ()
        return (self.feature_dim,) if isinstance(self.feature_dim, str) else self.feature_dim

    @property
    def labels(self) -> dict[str, tuple[Level, ...]]:
        """The labels along each of these dimensions that has any."""
        levels: Any = self.levels
        if levels is None:
            return {}
        along = [levels] if isinstance(self.feature_dim, str) else levels
        return dict(zip(self.feature_dims, along, strict=True))
