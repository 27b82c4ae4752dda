"""Learn a stream: searches among its first rows, then stepwise EM, and a test for change.

The first rows are kept in memory. Each time that their number has grown by a factor, mixtures are
searched for among them, until there are enough rows. At the same time, and afterwards, every row is
learned in a block of rows. Components with too few rows begin again among rows that are badly
explained. With a half-life, a change of the stream begins new searches among the rows
that follow it.

Blocks, steps and searches end at numbers of rows that follow from the plan and the rows, so the
sizes of batches do not matter. Rows of an unfinished block are kept. A mixture that is requested
before the end of the block includes these rows, but does not change the state.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from streamgmm.algorithms.batch.split_merge import dense_places
from streamgmm.algorithms.reads.usable_rows import refuse_values, usable_part
from streamgmm.algorithms.stream.change_detection import ChangeTest, Score, ScoreRecord
from streamgmm.algorithms.stream.row_buffer import RowBuffer
from streamgmm.algorithms.stream.stepwise_em import Schedule, Stepwise
from streamgmm.core.expectation import prepare
from streamgmm.core.fitted_model import FittedModel
from streamgmm.core.frame import Frame
from streamgmm.core.mixtures.alignment import aligned, by_first_rows
from streamgmm.core.objective import Objective
from streamgmm.core.parameters import Parameters
from streamgmm.core.structures import Array
from streamgmm.events import (
    ChangeDetected,
    ComponentsReseeded,
    Listener,
    MixtureFound,
    SkippedRows,
)
from streamgmm.options import Missing
from streamgmm.protocols import Chunk

# Least and largest number of rows of a block, and number of its values. The last rows of one block
# are kept.
_FEWEST_ROWS, _MOST_ROWS, _BLOCK_VALUES = 1 << 10, 1 << 12, 1 << 15
# Largest number of rows in which the next step is searched at once.
_SEGMENT_ROWS = 4 * _MOST_ROWS
# Counts of rows up to this number are exact in float64.
_EXACT = 2.0**52
# A search counts as early if there are fewer rows per component.
_EARLY = 8
# Rows are badly explained if they fall short of the median score by this multiple of the shortfall
# that a fifth of the rows exceeds.
_BADLY, _FIFTH = 6.0, 0.2
# Rows of the first search after a change, as a part of the rows of the last one.
_FIRST_PART = 0.25
# Number of changes that are remembered.
_MOST_CHANGES = 64

#: Function of rows (n, D), whose values may be missing, weights (n,) and a seed. It returns a
#: mixture and the objective of the mixture.
SearchRows = Callable[[Array, Array, int], tuple[Parameters, Objective]]


def block_rows(n_features: int) -> int:
    """Return the number of rows of a block: fewer if there are many features."""
    return min(max(_BLOCK_VALUES // n_features, _FEWEST_ROWS), _MOST_ROWS)


@dataclass(frozen=True)
class Plan:
    """The settings of learning a stream.

    Attributes
    ----------
    n_components : int
    schedule : Schedule
    init_size : int
        Rows of the first search, and of one after a change.
    seed : int
        Seed of the searches.
    """

    n_components: int
    schedule: Schedule
    init_size: int
    seed: int

    @property
    def fewest_rows(self) -> int:
        """Least number of rows for a search."""
        return max(2, self.n_components)

    @property
    def first_search_after_change(self) -> int:
        """Number of rows of the first search after a change."""
        return max(int(_FIRST_PART * self.init_size), self.fewest_rows)

    @property
    def n_early(self) -> int:
        """Number of rows below which a search may miss a component."""
        return _EARLY * self.n_components

    def next_search(self, n_rows: int) -> int:
        """Return the number of rows of the search that follows one among ``n_rows`` first rows.

        The number doubles at first, and then grows by four, so that it reaches ``init_size``.
        """
        size = self.init_size
        if n_rows < self.n_early:
            return min(2 * n_rows, size)
        while size >= 8 * n_rows:
            size //= 4
        return size

    def next_search_after_change(self, n_rows: int) -> int:
        """Return the number of rows of the search that follows one after a change."""
        return min(2 * n_rows, self.init_size)


@dataclass(frozen=True, eq=False)
class Progress:
    """The state of learning a stream; it does not change, and learning more returns another one.

    Attributes
    ----------
    plan : Plan
    model : Stepwise or None
        None before the first search. It has learned the rows up to the end of the last block.
    held : RowBuffer or None
        Rows, up to the end of the last block, among which mixtures are searched for; None if there
        is no search.
    next_search : int
        Number of buffered rows at which the next search is due.
    latest : RowBuffer
        The last rows, at most one block.
    n_pending : int
        Number of the latest rows that came after the end of the last block.
    step_weight : float
        Weight of the rows since the last step or search; it decides when a step is due.
    record : ScoreRecord
    test : ChangeTest
    reference : Parameters or None
        The mixture before the scores began to fall. It gives the labels to the mixture of a search
        after a change; None if the model gives them.
    changes : tuple of float
        Rows seen when a change was detected; the last few.
    n_seen : float
        Rows up to the end of the last block, in units of weight.
    n_searches : int
    skipped : SkippedRows
        Rows so far that were skipped.
    """

    plan: Plan
    model: Stepwise | None = None
    held: RowBuffer | None = field(default_factory=RowBuffer)
    next_search: int = 0
    latest: RowBuffer = field(default_factory=RowBuffer)
    n_pending: int = 0
    step_weight: float = 0.0
    record: ScoreRecord = field(default_factory=ScoreRecord)
    test: ChangeTest = field(default_factory=ChangeTest)
    reference: Parameters | None = None
    changes: tuple[float, ...] = ()
    n_seen: float = 0.0
    n_searches: int = 0
    skipped: SkippedRows = field(default_factory=SkippedRows)

    @classmethod
    def start(cls, plan: Plan) -> "Progress":
        """Return the progress before the first row."""
        return cls(plan, next_search=min(plan.fewest_rows, plan.init_size))

    @classmethod
    def continued(
        cls, plan: Plan, fitted: FittedModel, objective: Objective, n_seen: float
    ) -> "Progress":
        """Continue from a mixture with statistics, which was fitted to ``n_seen`` rows."""
        statistics = fitted.require_statistics("the mixture")
        model = Stepwise.after(statistics, fitted.parameters, plan.schedule, objective)
        return cls(plan, model, held=None, n_seen=n_seen)

    def learned(
        self, chunk: Chunk, missing: Missing, search: SearchRows, notify: Listener
    ) -> "Progress":
        """Return the progress after some more rows.

        Parameters
        ----------
        chunk : Chunk
        missing : {"error", "drop", "em"}
            Treatment of rows that hold NaN.
        search : callable
        notify : callable
            Called with every event.

        Raises
        ------
        NotFiniteError
            If a row holds a value that cannot be used.
        StreamGMMError
            As the search.
        """
        refuse_values(chunk, missing, "Nothing of it has been learned.")
        part, skipped = usable_part(chunk, missing)
        after = self if not skipped.n_rows else replace(self, skipped=self.skipped + skipped)
        start, n_rows = 0, len(part.rows)
        while start < n_rows:
            segment = after._segment(part.weights, start, n_rows)
            after = after._with_segment(part, segment, notify)
            if segment.is_search_due:
                after = after._with_search(search, notify)
            start = segment.stop
        return after

    def has_room(self, n_rows: int) -> bool:
        """Return whether no step or search is due after ``n_rows`` more rows of weight 1."""
        return (
            self.held is None
            and self.model is not None
            and self.step_weight + n_rows < self.model.step_rows
        )

    @cached_property
    def provisional(self) -> "Progress":
        """Progress as if a block had ended with the last row, without a step or a search."""
        if not self.n_pending:
            return self
        return replace(self, n_pending=0)._with_blocks([self._pending])

    @property
    def n_seen_with_pending(self) -> float:
        """Rows so far, in units of weight.

        Pending rows that overflow in an E-step count until the end of their block.
        """
        if not self.n_pending:
            return self.n_seen
        return self.n_seen + float(self._pending[1].sum())

    @property
    def _pending(self) -> tuple[Array, Array]:
        """Rows that came after the end of the last block, and their weights."""
        pending = self.latest.latest(self.n_pending)
        return pending.rows, pending.weights

    def _segment(self, weights: Array | None, start: int, n_rows: int) -> "_Segment":
        """Return the rows of a chunk from ``start`` up to the next step or search."""
        stop = min(n_rows, start + _SEGMENT_ROWS)
        search = stop + 1
        if self.held is not None:
            search = start + self.next_search - self.held.n_rows - self.n_pending
            stop = min(stop, search)
        if self.model is None:
            return _Segment(start, stop, 0.0, False, stop == search)
        reached = _until(weights, start, stop, self.step_weight, self.model.step_rows)
        stop, step_weight, is_step_due = reached
        return _Segment(start, stop, step_weight, is_step_due, stop == search)

    def _with_segment(self, part: Chunk, segment: "_Segment", notify: Listener) -> "Progress":
        """Return the progress after a segment: its finished blocks, and its step."""
        size = block_rows(part.rows.shape[1])
        n_rows = self.n_pending + segment.stop - segment.start
        n_pending = n_rows % size if not segment.ends_block else 0
        tail = part.part(max(segment.start, segment.stop - size), segment.stop)
        after = replace(
            self,
            latest=self.latest.add(*_copied(tail)).latest(size),
            n_pending=n_pending,
            step_weight=segment.step_weight,
        )
        if n_pending < n_rows:
            ended = part.part(segment.start, segment.stop - n_pending)
            after = after._with_blocks(self._blocks(ended))
        return after._with_step(notify) if segment.is_step_due else after

    def _blocks(self, part: Chunk) -> Iterator[tuple[Array, Array | None]]:
        """Yield rows and weights of the blocks of pending rows and the rows of a chunk."""
        start, n_rows = 0, len(part.rows)
        size = block_rows(part.rows.shape[1])
        if self.n_pending:
            start = min(size - self.n_pending, n_rows)
            rows, weights = self._pending
            new_rows, new_weights = _copied(part.part(0, start))
            yield np.concatenate([rows, new_rows]), np.concatenate([weights, new_weights])
        for first in range(start, n_rows, size):
            block = part.part(first, min(first + size, n_rows))
            yield np.ascontiguousarray(block.rows, np.float64), block.weights

    def _with_blocks(self, blocks: Iterable[tuple[Array, Array | None]]) -> "Progress":
        """Return the progress after an E-step of some blocks."""
        model, held, record, n_seen = self.model, self.held, self.record, self.n_seen
        n_overflowing = 0
        for rows, weights in blocks:
            if held is not None:
                held = held.add(*_copied(Chunk(rows, range(len(rows)), weights)))
            if model is None:
                n_seen += len(rows) if weights is None else float(weights.sum())
                continue
            missing: Missing = "em" if np.isnan(rows).any() else "error"
            found = model.expectation(missing).statistics(rows, weights)
            n_overflowing += found.n_overflowing
            if found.weight > 0.0:
                model = model.joined(found)
                record = record.add(Score(found.weight, found.log_likelihood))
                n_seen += found.weight
        skipped = self.skipped
        if n_overflowing:
            skipped += SkippedRows(n_overflowing)
        return replace(self, model=model, held=held, record=record, n_seen=n_seen, skipped=skipped)

    def _with_step(self, notify: Listener) -> "Progress":
        """Return the progress after an M-step."""
        after = replace(self, step_weight=0.0)
        if self.model is None or not self.model.recent.weight > 0.0:
            return after
        recent = self.model.recent
        after = after._with_score(Score(recent.weight, recent.log_likelihood), self.model, notify)
        return replace(after, model=after._fed(self.model.stepped(), notify))

    def _with_score(self, score: Score, model: Stepwise, notify: Listener) -> "Progress":
        """Return the progress after a test of the score of a step's rows under a model."""
        test = self.test.add(score)
        reference = self.reference
        if self.held is None:
            reference = None if test.excess == 0.0 else self.reference or model.parameters
        if not test.is_change:
            return replace(self, test=test, reference=reference)
        notify(ChangeDetected(self.n_seen, score.mean, self.test.mean))
        changes = (*self.changes, self.n_seen)[-_MOST_CHANGES:]
        after = replace(self, test=ChangeTest(), changes=changes, reference=None)
        if self.plan.schedule.half_life is None:
            return after
        return replace(
            after,
            held=RowBuffer(),
            next_search=self.plan.first_search_after_change,
            reference=reference or model.parameters,
        )

    def _fed(self, model: Stepwise, notify: Listener) -> Stepwise:
        """Return the mixture with starved components moved to badly explained rows.

        If a search is due later, starved components wait for it.
        """
        starved = model.starved()
        if not starved.size or self.held is not None:
            return model
        rows = self.latest.rows
        scores = model.expectation("em").posterior(rows).scores
        lower, median = np.quantile(scores, (_FIFTH, 0.5))
        bad = np.flatnonzero(scores < median - _BADLY * (median - lower))
        groups = dense_places(rows[bad], model.parameters)
        places = {
            int(k): (_centre(rows[bad[group]], model.parameters), len(group) / len(rows))
            for k, group in zip(starved, groups, strict=False)
        }
        if not places:
            return model
        notify(ComponentsReseeded(self.n_seen, tuple(places)))
        return model.reseeded(places)

    def _with_search(self, search: SearchRows, notify: Listener) -> "Progress":
        """Return the progress after a search among the rows that are held."""
        held, plan = self.held, self.plan
        if held is None:
            raise RuntimeError("a search is due, but no rows are held")
        rows, weights = held.rows, held.weights
        parameters, objective = search(rows, weights, plan.seed + self.n_searches)
        chunk = Chunk(rows, range(len(rows)), weights)
        is_last = held.n_rows >= plan.init_size
        next_search = plan.next_search_after_change if self.changes else plan.next_search
        after = replace(
            self,
            held=None if is_last else held,
            next_search=next_search(held.n_rows),
            n_searches=self.n_searches + 1,
            reference=None if is_last else self.reference,
        )
        if self.changes and self.model is not None:
            price = parameters.n_parameters() / weights.sum()
            gain = _value(objective, parameters, chunk) - _value(
                objective, self.model.parameters, chunk
            )
            if gain <= price:
                return after
        notify(MixtureFound(self.n_seen, held.n_rows))
        if self.model is None or (held.n_rows <= plan.n_early and not self.changes):
            parameters = by_first_rows(parameters, _labels(parameters, rows))
        else:
            parameters = aligned(parameters, self.reference or self.model.parameters)
        model = Stepwise.fitted(parameters, chunk, plan.schedule, objective)
        return replace(after, model=model, test=ChangeTest(), reference=None, step_weight=0.0)


@dataclass(frozen=True)
class _Segment:
    """Rows of a chunk, up to a step or a search.

    Attributes
    ----------
    start, stop : int
    step_weight : float
        Weight of the rows since the last step, these included.
    is_step_due, is_search_due : bool
    """

    start: int
    stop: int
    step_weight: float
    is_step_due: bool
    is_search_due: bool

    @property
    def ends_block(self) -> bool:
        """Whether a block ends with the last row of the segment, even if the block is short."""
        return self.is_step_due or self.is_search_due


def _until(
    weights: Array | None, start: int, stop: int, before: float, wanted: float
) -> tuple[int, float, bool]:
    """Return the row at which a sum of weights that begins with ``before`` reaches a target.

    Returns
    -------
    end : int
        Index after this row; ``stop`` if the sum does not reach the target.
    total : float
        The sum up to ``end``. It is added row by row, so that batches do not matter.
    is_reached : bool
    """
    if weights is None and before.is_integer() and before < _EXACT:
        end = min(start + max(math.ceil(wanted) - int(before), 1), stop)
        total = before + (end - start)
        return end, total, total >= wanted
    own = np.ones(stop - start) if weights is None else weights[start:stop]
    totals = np.cumsum(np.concatenate([[before], own]))[1:]
    index = min(int(np.searchsorted(totals, wanted)), len(own) - 1)
    return start + index + 1, float(totals[index]), bool(totals[index] >= wanted)


def _copied(chunk: Chunk) -> tuple[Array, Array]:
    """Return copies of the rows and weights of a chunk, which callers cannot change."""
    rows = np.array(chunk.rows, dtype=np.float64, order="C")
    weights = np.ones(len(rows)) if chunk.weights is None else chunk.weights.copy()
    return rows, weights


def _value(objective: Objective, parameters: Parameters, chunk: Chunk) -> float:
    expectation = prepare(parameters, Frame.of(parameters), "em")
    return objective.value(expectation.statistics(chunk.rows, chunk.weights), parameters)


def _labels(parameters: Parameters, rows: Array) -> NDArray[np.int64]:
    return prepare(parameters, Frame.of(parameters), "em").posterior(rows).labels


def _centre(rows: Array, parameters: Parameters) -> Array:
    """Return the mean (D,) of some rows; in columns without a value, that of the mixture."""
    has_value = ~np.isnan(rows)
    counts = has_value.sum(axis=0)
    sums = np.where(has_value, rows, 0.0).sum(axis=0)
    overall = parameters.weights @ parameters.means
    return np.where(counts > 0, sums / np.maximum(counts, 1), overall)
