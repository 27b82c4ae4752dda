"""Rows that a picture shows: some of the data, from a few chunks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamgmm.core.structures import Array
from streamgmm.errors import DataError
from streamgmm.options import Missing
from streamgmm.protocols import Source
from streamgmm.sources.columns import check_features
from streamgmm.sources.open import open_source
from streamgmm.sources.sample import SampleSource

# A picture needs no more than this, from anywhere in the data.
_MOST_CHUNKS = 8
_MOST_ROWS = 400_000
_MOST_VALUES = 1 << 23


@dataclass(frozen=True, eq=False)
class SomeRows:
    """Some rows of the data.

    Attributes
    ----------
    values : ndarray of shape (n, c)
        NaN for values that are missing, or not finite.
    weights : ndarray of shape (n,)
    name : str
        Name of the data in messages.
    """

    values: Array
    weights: Array
    name: str

    def __len__(self) -> int:
        return len(self.values)

    def _without_rows(self) -> DataError:
        return DataError(
            f"{self.name} has no row to draw: each of the {len(self):,} examined rows lacks a "
            "value that the picture needs, or has weight 0; give rows with these values, or "
            "choose features that have them"
        )

    def chosen(self, rows: NDArray[Any]) -> "SomeRows":
        """Return the rows of some indices or a mask."""
        return SomeRows(self.values[rows], self.weights[rows], self.name)

    def complete(self, places: Sequence[int] | None = None) -> tuple["SomeRows", str]:
        """Return the rows without gaps that have a weight, and a note on the other ones.

        Parameters
        ----------
        places : sequence of int, optional
            Places among the c columns in which there must be no gap; by default all.

        Raises
        ------
        DataError
            If there are none.
        """
        needed = self.values if places is None else self.values[:, list(places)]
        usable = np.isfinite(needed).all(axis=1) & (self.weights > 0.0)
        if not usable.any():
            raise self._without_rows()
        lacking = len(self) - int(usable.sum())
        note = f"{lacking / len(self):.1%} of the rows lack values, and are not shown"
        return self.chosen(usable), note if lacking else ""

    def observed(self) -> "SomeRows":
        """Return the rows that have a weight and any value.

        Raises
        ------
        DataError
            If there are none.
        """
        usable = np.isfinite(self.values).any(axis=1) & (self.weights > 0.0)
        if not usable.any():
            raise self._without_rows()
        return self.chosen(usable)

    def present(self, place: int) -> tuple[Array, Array]:
        """Return the values of a column that are present, and the weights of their rows.

        Raises
        ------
        DataError
            If there are none.
        """
        own, _ = SomeRows(self.values[:, [place]], self.weights, self.name).complete()
        return own.values[:, 0], own.weights

    def thinned(self, n_rows: int) -> "SomeRows":
        """Return at most ``n_rows`` rows, spread over all of these."""
        return self.chosen(np.arange(0, len(self), -(-len(self) // n_rows)))


def checked_data(model: Any, data: Any) -> Source:
    """Describe data that have the columns that the model was fitted to.

    Parameters
    ----------
    model : GaussianMixture or OnlineGaussianMixture
        Fitted.
    data : array-like, path or Source

    Returns
    -------
    Source

    Raises
    ------
    DataError
        If they have other columns, or no row.
    """
    source = open_source(data)
    names = getattr(model, "feature_names_in_", None)
    n_features = model.means_.shape[1]
    check_features(source, n_features, None if names is None else list(names), type(model).__name__)
    if not source.n_rows:
        raise DataError(f"{source.name} has no rows; give data with at least one row")
    return source


def some_rows(source: Source, columns: Sequence[int], most_rows: int = _MOST_ROWS) -> SomeRows:
    """Return the chosen columns of some rows, from a few chunks spread over the data.

    Parameters
    ----------
    source : Source
    columns : sequence of int
    most_rows : int

    Returns
    -------
    SomeRows
    """
    n_chunks = len(source.boundaries) - 1
    chosen = np.unique(np.linspace(0, n_chunks - 1, _MOST_CHUNKS).astype(int))
    most = max(min(most_rows, _MOST_VALUES // len(columns)) // len(chosen), 1)
    values, weights = [], []
    for i in chosen:
        chunk = source.read(int(i))
        step = max(-(-len(chunk.rows) // most), 1)
        part = chunk.rows[::step, list(columns)].astype(np.float64)
        values.append(np.where(np.isfinite(part), part, np.nan))
        weights.append(np.ones(len(part)) if chunk.weights is None else chunk.weights[::step])
    return SomeRows(np.concatenate(values), np.concatenate(weights), source.name)


def responsibilities(model: Any, rows: SomeRows, missing: Missing) -> Array:
    """Return the responsibilities (n, K) of a fitted model for rows of all its features.

    Parameters
    ----------
    model : GaussianMixture or OnlineGaussianMixture
    rows : SomeRows
    missing : {"error", "drop", "em"}
        Treatment of rows that hold NaN.
    """
    found: Array = model.predict_proba(SampleSource(rows.values, rows.weights, missing))
    return found
