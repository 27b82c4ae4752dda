"""Learning from a stream: a first search, then stepwise EM, with an eye on what it was made for.

The first rows are held in memory, and mixtures are searched for among them as they grow to twice
as many, until there are enough. Meanwhile, and from then on, every row is learned as it comes.
Components that starve begin anew among rows that are badly explained; and where rows are to be
forgotten, a change of the stream begins a new search among the rows that follow it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from streamgmm.algorithms.held_rows import HeldRows
from streamgmm.algorithms.moves import dense_places
from streamgmm.algorithms.prequential import ChangeTest, Score, ScoreRecord
from streamgmm.algorithms.reading import chunk_statistics, prepare
from streamgmm.algorithms.stepwise import Schedule, Stepwise
from streamgmm.algorithms.usable_rows import is_refused, skipped_rows
from streamgmm.core.covariance import Array
from streamgmm.core.frame import Frame
from streamgmm.core.merging import Fitted
from streamgmm.core.parameters import Parameters
from streamgmm.errors import NotFiniteError
from streamgmm.events import (
    ChangeDetected,
    ComponentsReseeded,
    Listener,
    MixtureFound,
    SkippedRows,
)
from streamgmm.protocols import Chunk, Missing

# Rows that are looked through for badly explained ones.
_LATEST_ROWS = 1024
# They fall short of the median score by so many times as much as a fifth of the rows do.
_BADLY, _FIFTH = 6.0, 0.2
# Of the rows of a search after a change, those of the first one.
_FIRST_PART = 0.25
# Changes that are remembered.
_MOST_CHANGES = 64

#: Finds a mixture for rows (n, D) of which values may be missing, with weights (n,), from a seed.
#: The second value is the ridge (D,) of the mixture.
SearchRows = Callable[[Array, Array, int], tuple[Parameters, Array]]


@dataclass(frozen=True)
class Plan:
    """How a stream is learned.

    Attributes
    ----------
    n_components : int
    schedule : Schedule
    init_size : int
        Rows of the first search, and of one after a change.
    seed : int
        Of the searches.
    """

    n_components: int
    schedule: Schedule
    init_size: int
    seed: int

    @property
    def fewest_rows(self) -> int:
        """Rows without which there is no search."""
        return max(2, self.n_components)

    @property
    def first_search_after_change(self) -> int:
        """Rows of the first of the searches after a change."""
        return max(int(_FIRST_PART * self.init_size), self.fewest_rows)


@dataclass(frozen=True, eq=False)
class Progress:
    """What has been learned of a stream so far; learning more gives another.

    Attributes
    ----------
    plan : Plan
    model : Stepwise or None
        None before the first search.
    held : HeldRows or None
        Rows among which mixtures are searched for; None if none is.
    next_search : int
        Rows held when the next search is due.
    latest : HeldRows
        The last rows.
    record : ScoreRecord
    test : ChangeTest
    changes : tuple of float
        Rows seen when a change was detected; the last few.
    n_seen : float
        In units of weight.
    n_searches : int
    skipped : SkippedRows
        Rows so far that were not learned.
    """

    plan: Plan
    model: Stepwise | None = None
    held: HeldRows | None = field(default_factory=HeldRows)
    next_search: int = 0
    latest: HeldRows = field(default_factory=HeldRows)
    record: ScoreRecord = field(default_factory=ScoreRecord)
    test: ChangeTest = field(default_factory=ChangeTest)
    changes: tuple[float, ...] = ()
    n_seen: float = 0.0
    n_searches: int = 0
    skipped: SkippedRows = field(default_factory=SkippedRows)

    @classmethod
    def start(cls, plan: Plan) -> "Progress":
        """Nothing learned."""
        return cls(plan, next_search=min(plan.fewest_rows, plan.init_size))

    @classmethod
    def going_on(cls, plan: Plan, fitted: Fitted, reg_covar: Array, n_seen: float) -> "Progress":
        """Continue from a mixture that was fitted elsewhere, to so many rows, with this ridge."""
        model = Stepwise.after(fitted.statistics, fitted.parameters, plan.schedule, reg_covar)
        return cls(plan, model, held=None, n_seen=n_seen)

    def learned(
        self, chunk: Chunk, missing: Missing, search: SearchRows, tell: Listener
    ) -> "Progress":
        """After some rows more.

        Parameters
        ----------
        chunk : Chunk
        missing : {"error", "drop", "em"}
            What is done with rows that hold NaN.
        search : callable
        tell : callable
            Told of every event.

        Raises
        ------
        NotFiniteError
            If a row holds a value that cannot be used.
        StreamGMMError
            As the search.
        """
        _refuse(chunk, missing)
        after, start, n_rows = self, 0, len(chunk.rows)
        while start < n_rows:
            stop = min(start + after.room(n_rows), n_rows)
            after = after._with_piece(chunk.part(start, stop), missing, search, tell)
            start = stop
        return after

    def room(self, most: int) -> int:
        """Rows of weight 1 before more is due than an E-step, at most so many."""
        room = most if self.model is None else min(most, self.model.room())
        return room if self.held is None else min(room, self.plan.init_size - self.held.n_rows)

    def _with_piece(
        self, piece: Chunk, missing: Missing, search: SearchRows, tell: Listener
    ) -> "Progress":
        tail = piece.part(max(len(piece.rows) - _LATEST_ROWS, 0), len(piece.rows))
        latest = self.latest.add(tail, missing).latest(_LATEST_ROWS)
        after = replace(self, latest=latest)
        if self.model is not None:
            after = after._with_rows(piece, missing, self.model, tell)
        else:
            after = replace(after, skipped=self.skipped + skipped_rows(piece, missing))
        if after.held is not None:
            held = after.held.add(piece, missing)
            after = replace(after, held=held)
            if self.model is None:
                after = replace(after, n_seen=float(held.weights.sum()))
            after = after._with_search(search, tell)
        return after

    def _with_rows(
        self, piece: Chunk, missing: Missing, model: Stepwise, tell: Listener
    ) -> "Progress":
        """The E-step of some rows and, if it is due, an M-step."""
        found = chunk_statistics(model.expectation(missing), piece)
        skipped = self.skipped
        if found.n_overflowing or found.n_missing or found.n_weightless:
            skipped += SkippedRows(found.n_overflowing, found.n_missing, found.n_weightless)
        if not found.weight > 0.0:
            return replace(self, skipped=skipped)
        model = model.joined(found)
        record = self.record.add(Score(found.weight, found.log_likelihood))
        after = replace(
            self, model=model, record=record, n_seen=self.n_seen + found.weight, skipped=skipped
        )
        if not model.is_due:
            return after
        after = after._with_block(Score(model.recent.weight, model.recent.log_likelihood), tell)
        return replace(after, model=after._fed(model.stepped(), tell))

    def _with_block(self, block: Score, tell: Listener) -> "Progress":
        """After the score of the rows of a step has been looked at."""
        test = self.test.add(block)
        if not test.is_change:
            return replace(self, test=test)
        tell(ChangeDetected(self.n_seen, block.mean, self.test.mean))
        changes = (*self.changes, self.n_seen)[-_MOST_CHANGES:]
        after = replace(self, test=ChangeTest(), changes=changes)
        if self.plan.schedule.half_life is None:
            return after
        return replace(after, held=HeldRows(), next_search=self.plan.first_search_after_change)

    def _fed(self, model: Stepwise, tell: Listener) -> Stepwise:
        """The mixture with starved components among rows that are badly explained."""
        starved = model.starved()
        if not starved.size or not self.latest.n_rows:
            return model
        rows = self.latest.rows
        scores = model.expectation("em").posterior(rows).scores
        lower, median = np.quantile(scores, (_FIFTH, 0.5))
        bad = np.flatnonzero(scores < median - _BADLY * (median - lower))
        groups = dense_places(rows[bad], model.parameters)
        places = {
            int(k): (np.nanmean(rows[bad[group]], axis=0), len(group) / len(rows))
            for k, group in zip(starved, groups, strict=False)
        }
        if not places:
            return model
        tell(ComponentsReseeded(self.n_seen, tuple(places)))
        return model.reseeded(places)

    def _with_search(self, search: SearchRows, tell: Listener) -> "Progress":
        """After a search among the rows held, if it is due."""
        held, plan = self.held, self.plan
        if held is None or held.n_rows < self.next_search:
            return self
        rows, weights = held.rows, held.weights
        parameters, reg_covar = search(rows, weights, plan.seed + self.n_searches)
        chunk = Chunk(rows, range(len(rows)), weights)
        after = replace(
            self,
            held=None if held.n_rows >= plan.init_size else held,
            next_search=min(2 * held.n_rows, plan.init_size),
            n_searches=self.n_searches + 1,
        )
        if self.changes and self.model is not None:
            price = parameters.n_parameters() / weights.sum()
            gain = _mean_score(parameters, chunk) - _mean_score(self.model.parameters, chunk)
            if gain <= price:
                return after
        tell(MixtureFound(self.n_seen, held.n_rows))
        model = Stepwise.fitted(parameters, chunk, plan.schedule, reg_covar)
        return replace(after, model=model, test=ChangeTest())


def _mean_score(parameters: Parameters, chunk: Chunk) -> float:
    expectation = prepare(parameters, Frame.of(parameters), "em")
    return expectation.statistics(chunk.rows, chunk.weights).mean_log_likelihood


def _refuse(chunk: Chunk, missing: Missing) -> None:
    """Raise an error if rows hold values that cannot be used."""
    if np.isfinite(chunk.rows).all():
        return
    bad = is_refused(chunk.rows, missing)
    if bad.any():
        row, column = np.argwhere(bad)[0]
        kind = "NaN or infinity" if missing == "error" else "infinity"
        remedy = (
            "drop or fill these rows first, or give streamgmm.open(batch, missing='drop') or 'em'"
            if missing == "error"
            else "set these values to NaN, or mend them"
        )
        raise NotFiniteError(
            f"Input contains {kind}: {int(bad.sum())} value(s) in {int(bad.any(axis=1).sum())} of "
            f"{len(bad)} rows, the first in row {chunk.index[row]} column {column}. Nothing of it "
            f"has been learned; {remedy}."
        )
