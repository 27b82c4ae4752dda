"""Predictions of a fitted mixture for each row of a chunk."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import entr

from streamgmm.algorithms.reads.usable_rows import lacks_values, refuse_values
from streamgmm.core.e_step import EStep, Posterior
from streamgmm.core.expectation import Expectation
from streamgmm.core.incomplete import IncompleteExpectation
from streamgmm.core.kernels.log_joint import NOISE
from streamgmm.core.structures import Array
from streamgmm.options import Missing
from streamgmm.protocols import Chunk

# Rows whose distances or responsibilities are computed together, and the part of ‖x‖² + ‖c‖² below
# which ‖x - c‖² is computed from the differences.
_ROWS_AT_ONCE, _CLOSE = 1024, 1e-5


@dataclass(frozen=True, eq=False)
class Question:
    """A mixture, and the treatment of rows with missing values.

    Attributes
    ----------
    expectation : Expectation
        The mixture.
    missing : {"error", "drop", "em"}
        Treatment of rows with NaN. "error" refuses them. "drop" gives the label -1, or -2 if -1
        stands for noise, and NaN for the score and responsibilities. "em" uses their other values,
        if they have any.
    """

    expectation: Expectation
    missing: Missing


def posterior(question: Question, chunk: Chunk, with_responsibilities: bool = False) -> Posterior:
    """Return the log-density, label and, if asked for, responsibilities of each row.

    Skipped rows have NaN for a score and responsibilities. Their label is -1, or -2 if -1 stands
    for noise.
    """
    found = question.expectation.posterior(chunk.rows, with_responsibilities)
    if not found.n_not_finite:
        return found
    refuse_values(chunk, question.missing)
    skipped = lacks_values(chunk.rows, question.missing)
    found.labels[skipped] = NOISE - 1 if question.expectation.has_noise else -1
    found.scores[skipped] = np.nan
    if with_responsibilities:
        found.responsibilities[skipped] = np.nan
    return found


def labels(question: Question, chunk: Chunk) -> NDArray[Any]:
    """Return the component of largest responsibility, (n,) int64."""
    return posterior(question, chunk).labels


def scores(question: Question, chunk: Chunk) -> NDArray[Any]:
    """Return the log-density ln p(x), (n,) nats."""
    return posterior(question, chunk).scores


def responsibilities(question: Question, chunk: Chunk) -> NDArray[Any]:
    """Return the posterior probabilities of the components, (n, K)."""
    return posterior(question, chunk, with_responsibilities=True).responsibilities


def entropies(question: Question, chunk: Chunk) -> NDArray[Any]:
    """Return the entropy of the responsibilities, (n,) nats."""
    out = np.empty(len(chunk.rows))
    for start in range(0, len(out), _ROWS_AT_ONCE):
        block = slice(start, start + _ROWS_AT_ONCE)
        shares = responsibilities(question, chunk.part(start, start + _ROWS_AT_ONCE))
        out[block] = entr(shares).sum(axis=1)
    return out


def entropy_bytes(n_components: int) -> int:
    """Return the memory that :func:`entropies` takes in addition to its result."""
    return 2 * 8 * _ROWS_AT_ONCE * n_components


@dataclass(frozen=True, eq=False)
class Centres:
    """Centres for distances and nearest centres of rows.

    Attributes
    ----------
    expectation : EStep
        The mixture of these centres, with one variance for all and equal offsets.
    values : ndarray of shape (K, D)
    origin : ndarray of shape (D,)
        A point among the centres, about which distances keep their digits.
    missing : {"error", "drop"}
        Treatment of rows with NaN: "error" refuses them, "drop" gives the label -1, and NaN for
        distances.
    """

    expectation: EStep
    values: Array
    origin: Array
    missing: Missing


def nearest(centres: Centres, chunk: Chunk) -> NDArray[Any]:
    """Return the number of the nearest centre, (n,) int64."""
    found = centres.expectation.assignment(chunk.rows)
    if found.n_not_finite:
        refuse_values(chunk, centres.missing)
        found.labels[lacks_values(chunk.rows, centres.missing)] = -1
    return found.labels


def distances(centres: Centres, chunk: Chunk) -> NDArray[Any]:
    """Return the distance to each centre, (n, K), of :func:`imputed_type`."""
    refuse_values(chunk, centres.missing)
    dtype, c = imputed_type(chunk.rows.dtype), centres.values - centres.origin
    out = np.empty((len(chunk.rows), len(c)), dtype)
    squares = np.square(c).sum(axis=1)
    for start in range(0, len(out), _ROWS_AT_ONCE):
        block = slice(start, start + _ROWS_AT_ONCE)
        x = chunk.rows[block].astype(np.float64) - centres.origin
        found = x @ (-2.0 * c.T)
        sizes = squares + np.square(x).sum(axis=1, keepdims=True)
        found += sizes
        # For close rows, differences of squares have lost their digits.
        is_close = found <= _CLOSE * sizes
        for k in np.flatnonzero(is_close.any(axis=0)):
            own = is_close[:, k]
            found[own, k] = np.square(x[own] - c[k]).sum(axis=1)
        out[block] = np.sqrt(found, out=found)
    return out


def distance_bytes(n_clusters: int, n_features: int) -> int:
    """Return the memory that :func:`distances` takes in addition to its result."""
    rows = _ROWS_AT_ONCE * (3 * n_clusters + 5 * n_features)
    return 8 * (rows + n_clusters * (2 * n_features + 1))


def imputed(expectation: IncompleteExpectation, chunk: Chunk) -> NDArray[Any]:
    """Return rows (n, D) with expected values for missing ones, of :func:`imputed_type`."""
    refuse_values(chunk, "em")
    return expectation.impute(chunk.rows).astype(imputed_type(chunk.rows.dtype), copy=False)


def imputed_type(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the type of rows after :func:`imputed`: floating types do not change."""
    return dtype if dtype.kind == "f" else np.dtype(np.float64)
