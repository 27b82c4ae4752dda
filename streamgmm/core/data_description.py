"""The description of data that a model remembers, so that new data need none."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from streamgmm.options import Missing


@dataclass(frozen=True)
class DataDescription:
    """How data were described when a model was fitted to them.

    Attributes
    ----------
    variables : tuple of str, or None
        Variables of labelled data that are the features, in their order.
    columns : tuple of str, or None
        Columns of a table that are the features.
    feature_dim : str or None
        Dimension that the features of labelled data lie along.
    levels : tuple of float or str, or None
        Labels along this dimension.
    units : mapping of str to str
        Units of variables and of the labels, by name, as far as the data say them.
    missing : {"error", "drop", "em"}
        Treatment of rows with missing values.
    """

    variables: tuple[str, ...] | None = None
    columns: tuple[str, ...] | None = None
    feature_dim: str | None = None
    levels: tuple[float | str, ...] | None = None
    units: Mapping[str, str] = field(default_factory=dict)
    missing: Missing = "error"
