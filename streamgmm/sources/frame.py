"""pandas DataFrames: columns are features, and what is said of rows keeps their index."""

from collections.abc import Sequence
from typing import Any

import pandas
from numpy.typing import NDArray

from streamgmm.errors import DataError
from streamgmm.sources.array import ArraySource


class FrameSource(ArraySource):
    """Rows of a DataFrame, or of some of its columns.

    Parameters
    ----------
    frame : pandas.DataFrame
    columns : sequence of str, optional

    Raises
    ------
    DataError
        If there is no such column, or columns are no real numbers.
    """

    def __init__(self, frame: "pandas.DataFrame", columns: Sequence[str] | None = None) -> None:
        chosen = list(frame.columns if columns is None else columns)
        absent = [name for name in chosen if name not in frame.columns]
        if absent:
            raise DataError(
                f"X has no column {', '.join(map(repr, absent))}; it has {[*frame.columns]}"
            )
        super().__init__(frame[chosen].to_numpy())
        self._index = frame.index
        if all(isinstance(name, str) for name in chosen):
            self.feature_names = chosen

    def labelled(self, values: NDArray[Any], dim: str | None, names: Sequence[int | str]) -> Any:
        """Values of the rows, (N,) or (N, M), as a Series or DataFrame with their index."""
        return with_index(self._index, values, names)


def with_index(index: "pandas.Index", values: NDArray[Any], names: Sequence[int | str]) -> Any:
    """Values (N,) or (N, M) of rows with an index; M names are those of columns."""
    if values.ndim == 1:
        return pandas.Series(values, index=index)
    return pandas.DataFrame(values, index=index, columns=list(names))
