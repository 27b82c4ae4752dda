"""What a fitted mixture says of each row of a chunk."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamgmm.core.expectation import Expectation, Posterior
from streamgmm.errors import NotFiniteError
from streamgmm.protocols import Chunk


def labels(expectation: Expectation, chunk: Chunk) -> NDArray[Any]:
    """Component of largest responsibility, (n,) int64."""
    return _posterior(expectation, chunk).labels


def scores(expectation: Expectation, chunk: Chunk) -> NDArray[Any]:
    """Log-density ln p(x), (n,) nats."""
    return _posterior(expectation, chunk).scores


def responsibilities(expectation: Expectation, chunk: Chunk) -> NDArray[Any]:
    """Posterior probabilities of the components, (n, K)."""
    return _posterior(expectation, chunk, with_responsibilities=True).responsibilities


def _posterior(
    expectation: Expectation, chunk: Chunk, with_responsibilities: bool = False
) -> Posterior:
    found = expectation.posterior(chunk.rows, with_responsibilities)
    if found.n_not_finite:
        bad = np.flatnonzero(~np.isfinite(chunk.rows.astype(np.float64, copy=False)).all(axis=1))
        first = np.asarray(chunk.index)[bad[0]]
        raise NotFiniteError(
            f"Input contains NaN or infinity in {len(bad)} row(s) of a chunk of {len(chunk.rows)}, "
            f"the first of them row {first}. Drop or fill these rows first."
        )
    return found
