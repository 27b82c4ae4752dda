"""Rows drawn from a known mixture, chunk by chunk and never stored."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from streamgmm.core.mixtures.sampling import draw
from streamgmm.core.parameters import Parameters
from streamgmm.options import Missing
from streamgmm.protocols import Chunk
from streamgmm.sources.described import Described
from streamgmm.sources.layout import regular_boundaries, rows_per_chunk


class GeneratedSource(Described):
    """N rows of a planted mixture; chunk i is drawn from (seed, i), so it is the same each time.

    Parameters
    ----------
    parameters : Parameters
        The mixture to draw from.
    n_rows : int
    seed : int
    dtype : dtype
        float64 or float32.
    chunk_rows : int, optional
        Rows in a chunk; by default as for arrays.
    """

    has_weights = False
    missing: Missing = "error"
    feature_names: Sequence[str] | None = None

    def __init__(
        self,
        parameters: Parameters,
        n_rows: int,
        seed: int = 0,
        dtype: DTypeLike = np.float64,
        chunk_rows: int | None = None,
    ) -> None:
        self.name = "generated data"
        self.location = None
        self.parameters = parameters
        self.n_rows, self.n_features = n_rows, parameters.n_features
        self.dtype: np.dtype[Any] = np.dtype(dtype)
        self._seed = seed
        self._chunk_rows = chunk_rows or rows_per_chunk(self.n_features)
        self.boundaries: Sequence[int] = regular_boundaries(n_rows, self._chunk_rows)

    @property
    def read_bytes(self) -> int:
        """Bytes of a chunk as drawn, shuffled and converted."""
        return 3 * 8 * self._chunk_rows * self.n_features

    def read(self, i: int) -> Chunk:
        """Return chunk i."""
        start, stop = self.boundaries[i], self.boundaries[i + 1]
        random = np.random.default_rng(np.random.SeedSequence(self._seed, spawn_key=(i,)))
        rows, _ = draw(self.parameters, stop - start, random)
        # Taking rows by a permutation is fifty times as fast as shuffling them in place.
        rows = rows[random.permutation(len(rows))]
        return Chunk(rows.astype(self.dtype, copy=False), range(start, stop))
