"""Merge the components of a mixture into clusters, by the rows of a source.

A sample of the rows predicts the order of the merges. One pass over the data then finds how much
each of these merges, and each merge in its place, lowers the entropy. Where another merge lowers it
more the tree is corrected, and completed from there on: by the sample, and by another pass.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np

from streamgmm.algorithms.batch.auto import rows_at_hand
from streamgmm.algorithms.reads.prediction import Question, posterior
from streamgmm.algorithms.reads.reader import Reader, gap_bytes, refuse_not_finite
from streamgmm.algorithms.sampling.row_sample import default_sample_size
from streamgmm.core.e_step import scratch_bytes
from streamgmm.core.expectation import prepare
from streamgmm.core.frame import Frame
from streamgmm.core.mixtures.clusters import (
    Merge,
    MergedComponents,
    MergeGains,
    greedy_tree,
    merge_gains,
    merged_components,
)
from streamgmm.core.parameters import Parameters
from streamgmm.core.structures import Array
from streamgmm.errors import DataError, NotFiniteError
from streamgmm.protocols import Chunk, Source, Work

# Responsibilities that a thread holds at once, and arrays of their size; those of a sample.
_SHARES_AT_ONCE, _ARRAYS, _SAMPLED_SHARES = 1 << 18, 6, 1 << 21
# Decides the rows of the sample if the data have more.
_SEED = 0


def merge_components(
    reader: Reader, parameters: Parameters, n_clusters: int | None
) -> MergedComponents:
    """Merge components into clusters, each time the pair that lowers the entropy most.

    Parameters
    ----------
    reader : Reader
    parameters : Parameters
    n_clusters : int or None
        None for the elbow of the overlaps.

    Returns
    -------
    MergedComponents

    Raises
    ------
    NotFiniteError
        If the rows hold NaN that is not to be skipped, or infinity.
    DataError
        If no row can be used.
    MemoryLimitError
        If the sample does not fit in the memory limit.

    References
    ----------
    Baudry, Raftery, Celeux, Lo & Gottardo (2010), Combining mixture components for clustering.
    """
    source = reader.source
    reader.executor.check_memory(source, Work(driver=reader.driver_bytes + _sample_bytes(source)))
    frame = Frame.of(parameters, source.dtype)
    expectation = prepare(parameters, frame, source.missing, n_rows=source.n_rows)
    question = Question(expectation, source.missing)
    sample = rows_at_hand(reader, _SEED).part(_SAMPLED_SHARES // parameters.n_components)
    rows = _shares(question, Chunk(sample.rows, sample.index, sample.weights))
    is_whole, has_noise = len(sample) == source.n_rows, expectation.has_noise

    def gains_of(tree: Sequence[Merge], n_known: int) -> MergeGains:
        if is_whole:
            return merge_gains(*rows, tree, n_known, has_noise)
        return _read(reader, parameters, _State(question, tuple(tree), n_known))

    known: list[Merge] = []
    gains: list[float] = []
    while True:
        tree = greedy_tree(*rows, known)
        found = gains_of(tree, len(known))
        if not found.counts.sum() > 0.0:
            raise DataError(
                f"no row of {source.name} can be used: each has weight 0, lacks values or has "
                "squares that overflow; give rows that can be labelled"
            )
        known, own = found.followed(tree, len(known))
        gains += own
        if len(known) == len(tree):
            break
    entropies = np.maximum(found.entropy - np.cumsum([0.0, *gains])[::-1], 0.0)
    if not has_noise:
        # One cluster has all rows; what is left is rounding.
        entropies[0] = 0.0
    return merged_components(known, entropies, gains, found.counts, n_clusters)


@dataclass(frozen=True, eq=False)
class _State:
    """The question to each chunk: the mixture, a tree of merges, and the number of known merges."""

    question: Question
    tree: tuple[Merge, ...]
    n_known: int


def _read(reader: Reader, parameters: Parameters, state: _State) -> MergeGains:
    """Find the gains of merges by one pass over the data."""
    try:
        driver = reader.driver_bytes + _sample_bytes(reader.source)
        work = _work(reader.source, parameters, driver)
        return reader.reduce("merging", MergeGains, _chunk_gains, state, work)
    except NotFiniteError:
        refuse_not_finite(reader.source, reader.executor)


def _chunk_gains(state: _State, chunk: Chunk) -> MergeGains:
    n_components, has_noise = len(state.tree) + 1, state.question.expectation.has_noise
    step = _SHARES_AT_ONCE // n_components + 1
    parts = (chunk.part(start, start + step) for start in range(0, max(len(chunk.rows), 1), step))
    return reduce(
        MergeGains.merge,
        (
            merge_gains(*_shares(state.question, part), state.tree, state.n_known, has_noise)
            for part in parts
        ),
    )


def _shares(question: Question, rows: Chunk) -> tuple[Array, Array]:
    """Return the responsibilities (n, K) and weights (n,) of the rows that can be used."""
    found = posterior(question, rows, with_responsibilities=True)
    weights = np.ones(len(rows.rows)) if rows.weights is None else rows.weights
    used = np.isfinite(found.scores) & (weights > 0.0)
    return found.responsibilities[used], weights[used]


def _sample_bytes(source: Source) -> int:
    """Return the memory that a sample takes, with the shares of the components in its rows."""
    n_rows = default_sample_size(source.n_rows, source.n_features)
    return 8 * (4 * n_rows * source.n_features + _ARRAYS * _SAMPLED_SHARES)


def _work(source: Source, parameters: Parameters, driver: int) -> Work:
    """Return the memory that a pass for gains takes."""
    k, d = parameters.means.shape
    value = 8 * (2 * k - 1) ** 2
    scratch = scratch_bytes(parameters.covariance_type, k, d) + gap_bytes(source, k)
    shares = 8 * _ARRAYS * (_SHARES_AT_ONCE + k)
    return Work(scratch + shares + 3 * value, value, driver=driver)
