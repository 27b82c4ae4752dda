"""What a fitted mixture says of each row of a chunk."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamgmm.algorithms.reads.usable_rows import is_left_out, is_refused
from streamgmm.core.e_step import EStep, Posterior
from streamgmm.core.incomplete import IncompleteExpectation
from streamgmm.errors import NotFiniteError
from streamgmm.options import Missing
from streamgmm.protocols import Chunk


@dataclass(frozen=True, eq=False)
class Question:
    """What rows are asked about.

    Attributes
    ----------
    expectation : EStep
        The mixture.
    missing : {"error", "drop", "em"}
        Rows with NaN are refused; or have the label -1, and NaN for a score and responsibilities;
        or are judged by their other values, if they have any.
    """

    expectation: EStep | IncompleteExpectation
    missing: Missing


def labels(question: Question, chunk: Chunk) -> NDArray[Any]:
    """Component of largest responsibility, (n,) int64."""
    return _posterior(question, chunk).labels


def scores(question: Question, chunk: Chunk) -> NDArray[Any]:
    """Log-density ln p(x), (n,) nats."""
    return _posterior(question, chunk).scores


def responsibilities(question: Question, chunk: Chunk) -> NDArray[Any]:
    """Posterior probabilities of the components, (n, K)."""
    return _posterior(question, chunk, with_responsibilities=True).responsibilities


def imputed(expectation: IncompleteExpectation, chunk: Chunk) -> NDArray[Any]:
    """Rows (n, D) with their missing values as expected, of :func:`imputed_type`."""
    _refuse(chunk, "em")
    return expectation.impute(chunk.rows).astype(imputed_type(chunk.rows.dtype), copy=False)


def imputed_type(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Type of rows of a type after :func:`imputed`: the same, if it is floating."""
    return dtype if dtype.kind == "f" else np.dtype(np.float64)


def _posterior(question: Question, chunk: Chunk, with_responsibilities: bool = False) -> Posterior:
    found = question.expectation.posterior(chunk.rows, with_responsibilities)
    if not found.n_not_finite:
        return found
    _refuse(chunk, question.missing)
    left_out = is_left_out(chunk.rows, question.missing)
    found.labels[left_out] = -1
    found.scores[left_out] = np.nan
    if with_responsibilities:
        found.responsibilities[left_out] = np.nan
    return found


def _refuse(chunk: Chunk, missing: Missing) -> None:
    """Raise an error if the chunk has values that cannot be used."""
    bad = np.flatnonzero(is_refused(chunk.rows, missing).any(axis=1))
    if bad.size:
        kind = "NaN or infinity" if missing == "error" else "infinity"
        first = np.asarray(chunk.index)[bad[0]]
        raise NotFiniteError(
            f"Input contains {kind} in {len(bad)} row(s) of a chunk of {len(chunk.rows)}, "
            f"the first of them row {first}. Drop or fill these rows first."
        )
