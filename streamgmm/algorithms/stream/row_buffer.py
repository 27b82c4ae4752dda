"""Rows of a stream that are kept in memory for a while."""

from dataclasses import dataclass

import numpy as np

from streamgmm.core.structures import Array

# Parts are joined when there are more than this.
_MOST_PARTS = 128


@dataclass(frozen=True, eq=False)
class RowBuffer:
    """Rows in the order in which they came, as float64.

    Attributes
    ----------
    parts : tuple of (ndarray of shape (n, D), ndarray of shape (n,))
        Rows and their weights.
    n_rows : int
        Rows in all parts.
    """

    parts: tuple[tuple[Array, Array], ...] = ()
    n_rows: int = 0

    def add(self, rows: Array, weights: Array) -> "RowBuffer":
        """Return these rows and some more, whose arrays must not change afterwards."""
        held = RowBuffer((*self.parts, (rows, weights)), self.n_rows + len(rows))
        return held if len(held.parts) <= _MOST_PARTS else held.joined()

    def latest(self, most: int) -> "RowBuffer":
        """Return the last rows, at most ``most``."""
        parts, surplus = self.parts, self.n_rows - most
        while surplus > 0:
            rows, weights = parts[0]
            rest = () if len(rows) <= surplus else ((rows[surplus:], weights[surplus:]),)
            parts = (*rest, *parts[1:])
            surplus -= len(rows)
        return RowBuffer(parts, min(self.n_rows, most))

    def joined(self) -> "RowBuffer":
        """Return the same rows in one part."""
        return RowBuffer(((self.rows, self.weights),), self.n_rows)

    @property
    def rows(self) -> Array:
        """All rows, (n, D)."""
        return np.concatenate([rows for rows, _ in self.parts])

    @property
    def weights(self) -> Array:
        """Weights of all rows, (n,)."""
        return np.concatenate([weights for _, weights in self.parts])
