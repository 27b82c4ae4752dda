"""Stepwise EM: a mixture that follows a stream of rows, in statistics of bounded memory.

An E-step adds the statistics of new rows to those of earlier rows, of which a part is forgotten.
An M-step computes parameters from the statistics, as in EM. The forgotten part is counted in rows,
not in batches.
"""

import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from streamgmm.core.expectation import Expectation, prepare
from streamgmm.core.frame import Frame
from streamgmm.core.objective import Objective
from streamgmm.core.parameters import Parameters
from streamgmm.core.statistics import Statistics
from streamgmm.core.structures import Array
from streamgmm.core.whitening import carried, expected
from streamgmm.options import Missing
from streamgmm.protocols import Chunk

# Rows of a step, as a part of the rows that statistics stand for ...
_PART, _MOST_PART = 1.0 / 16.0, 1.0 / 8.0
# ... but at least this many if possible: an M-step takes about as long as the E-step of this many
# rows.
_STEP_ROWS = 8192.0
# Least number of rows of a component, for each value that a row has to determine.
_FEWEST_ROWS = 1.0


@dataclass(frozen=True)
class Schedule:
    """The schedule of forgetting: the number of rows that statistics stand for.

    All rows count equally until their number reaches the offset. Afterwards, after n rows,
    statistics stand for offset (n / offset)^decay of them. A step of ``offset`` rows then has the
    size (n / offset)^-decay.

    Attributes
    ----------
    offset : float
        Rows, in units of weight.
    decay : float
        Above 0.5, at most 1.
    half_life : float or None
        Number of rows after which a row counts half; None for no forgetting.

    References
    ----------
    Cappé & Moulines (2009), On-line expectation-maximization algorithm for latent data models.
    Liang & Klein (2009), Online EM for unsupervised models.
    """

    offset: float
    decay: float
    half_life: float | None = None

    def memory(self, n_rows: float) -> float:
        """Return the number of rows that statistics stand for after ``n_rows`` rows."""
        grown = self._grown(n_rows)
        return grown if self.half_life is None else min(grown, self.half_life / math.log(2.0))

    def step_rows(self, n_rows: float) -> float:
        """Return the number of rows until the next M-step."""
        memory = self.memory(n_rows)
        return max(_PART * memory, min(_STEP_ROWS, _MOST_PART * memory))

    def kept(self, weight: float, n_rows: float, new: float) -> float:
        """Return the part of statistics of some weight that is kept when new rows join them."""
        kept = max(self._grown(n_rows + new) - new, 0.0) / weight
        if self.half_life is not None:
            kept = min(kept, 0.5 ** (new / self.half_life))
        return min(kept, 1.0)

    def averages(self, n_rows: float) -> bool:
        """Return whether averaging reduces the noise of statistics."""
        return self.half_life is None and n_rows > self.offset

    def _grown(self, n_rows: float) -> float:
        if n_rows <= self.offset:
            return n_rows
        grown: float = self.offset * (n_rows / self.offset) ** self.decay
        return grown


@dataclass(frozen=True, eq=False)
class Stepwise:
    """A mixture and the statistics that it continues from.

    Attributes
    ----------
    schedule : Schedule
    objective : Objective
    parameters : Parameters
        Parameters for the E-step of new rows.
    total : Statistics
        Statistics of the rows up to the last step that are not forgotten.
    recent : Statistics
        Statistics of the rows since the last step, in the same frame.
    average : Statistics or None
        Mean of the totals of the latter half of the steps, weighted by their rows (Polyak &
        Juditsky 1992); None if averaging is not needed.
    n_rows : float
        Rows up to the last step, in units of weight.
    n_steps : int
    """

    schedule: Schedule
    objective: Objective
    parameters: Parameters
    total: Statistics
    recent: Statistics
    average: Statistics | None
    n_rows: float
    n_steps: int = 0

    @classmethod
    def after(
        cls,
        statistics: Statistics,
        parameters: Parameters,
        schedule: Schedule,
        objective: Objective,
    ) -> "Stepwise":
        """Return the state that continues from a mixture and the statistics of its rows."""
        nothing = Statistics.zero(statistics.frame, parameters.n_components)
        return cls(
            schedule, objective, parameters, statistics, nothing, None, float(statistics.weight)
        )._resolved()

    @classmethod
    def fitted(
        cls, parameters: Parameters, chunk: Chunk, schedule: Schedule, objective: Objective
    ) -> "Stepwise":
        """Return the state that continues from a mixture fitted to rows; NaN is a missing value."""
        frame = Frame.of(parameters)
        if parameters.structure.moments_depend_on_parameters:
            # Directions that the rows show determine more than others.
            frame = frame.with_directions(parameters)
            known = prepare(parameters, frame, "em").statistics(chunk.rows, chunk.weights)
            frame = frame.with_directions(parameters, known)
        found = prepare(parameters, frame, "em").statistics(chunk.rows, chunk.weights)
        maximum = objective.maximize(found, parameters, is_complete=True).parameters
        return cls.after(found, maximum, schedule, objective)

    @cached_property
    def _complete(self) -> Expectation:
        return prepare(self.parameters, self.total.frame, "error")

    @cached_property
    def _incomplete(self) -> Expectation:
        return prepare(self.parameters, self.total.frame, "em")

    def expectation(self, missing: Missing) -> Expectation:
        """Return the mixture for the E-step of new rows."""
        return self._incomplete if missing == "em" else self._complete

    @property
    def step_rows(self) -> float:
        """Rows from the last step to the next one, in units of weight."""
        return self.schedule.step_rows(self.n_rows)

    def joined(self, found: Statistics) -> "Stepwise":
        """Return the state after an E-step of some more rows."""
        following = replace(self, recent=self.recent.merge(found))
        # Prepared mixtures stay valid until the parameters change.
        for name in ("_complete", "_incomplete"):
            if name in self.__dict__:
                following.__dict__[name] = self.__dict__[name]
        return following

    def stepped(self) -> "Stepwise":
        """Return the state after an M-step."""
        new, before = self.recent.weight, self.total.weight
        if not new > 0.0:
            return self
        kept = self.schedule.kept(before, self.n_rows, new)
        total = self.total.scale(kept).merge(self.recent)
        maximum = self.objective.maximize(total, self.parameters, is_complete=True)
        return replace(
            self,
            parameters=maximum.parameters,
            total=total,
            recent=Statistics.zero(total.frame, total.n_components),
            average=self._averaged(total, new),
            n_rows=self.n_rows + new,
            n_steps=self.n_steps + 1,
        )._resolved()

    def _averaged(self, total: Statistics, new: float) -> Statistics | None:
        n_rows = self.n_rows + new
        if not self.schedule.averages(n_rows):
            return None
        own = total.scale(new / total.weight)
        if self.average is None:
            return own
        # Weighted by the rows before them, the earlier half of the totals counts for a quarter.
        wanted = 0.5 * (n_rows - self.schedule.offset) - new
        kept = min(max(wanted, 0.0) / self.average.weight, 1.0)
        return self.average.scale(kept).merge(own)

    def _resolved(self) -> "Stepwise":
        """Return the state in a frame that shows the moments which the next step needs.

        That is another one if this one does not resolve narrow covariances, or if moments depend on
        the parameters.
        """
        frame = self.total.frame
        if self.parameters.structure.moments_depend_on_parameters:
            # The directions of the moments follow the mixture.
            frame = Frame.of(self.parameters).with_directions(self.parameters, self.total)
        elif not frame.resolves(self.parameters):
            frame = Frame.of(self.parameters)
        if frame is self.total.frame:
            return self
        total, recent = (carried(s, self.parameters, frame) for s in (self.total, self.recent))
        average = None if self.average is None else carried(self.average, self.parameters, frame)
        return replace(self, total=total, recent=recent, average=average)

    @cached_property
    def _latest(self) -> "Stepwise":
        return self.stepped()

    @property
    def basis(self) -> Statistics:
        """Statistics of the estimate, scaled to the number of rows that it stands for."""
        latest = self._latest
        if latest.average is None:
            return latest.total
        return latest.average.scale(latest.n_rows / latest.average.weight)

    @cached_property
    def estimate(self) -> Parameters:
        """The mixture, after all rows so far."""
        latest = self._latest
        if latest.average is None:
            return latest.parameters
        maximum = self.objective.maximize(latest.average, latest.parameters, is_complete=True)
        return maximum.parameters

    def starved(self) -> NDArray[np.intp]:
        """Return the components that have next to no rows."""
        n_values = self.parameters.structure.n_moments(self.parameters.n_features)
        fewest = _FEWEST_ROWS * n_values / self.parameters.n_features
        return np.flatnonzero(self.total.counts < fewest)

    def reseeded(self, places: dict[int, tuple[Array, float]]) -> "Stepwise":
        """Return the state with some components moved, with the mean covariance of all components.

        Parameters
        ----------
        places : dict of int to (ndarray of shape (D,), float)
            New mean of each such component, and its part of all rows. There must be no rows since
            the last step.
        """
        chosen = np.array(list(places))
        means = self.parameters.means.copy()
        means[chosen] = [mean for mean, _ in places.values()]
        structure = self.parameters.structure
        mean = structure.average(self.parameters.covariances, self.parameters.weights)
        moved = replace(
            self.parameters,
            means=means,
            covariances=structure.replaced(self.parameters.covariances, chosen, mean),
            factors=structure.replaced(self.parameters.factors, chosen, structure.cholesky(mean)),
        )
        parts = np.zeros(self.parameters.n_components)
        parts[chosen] = [part for _, part in places.values()]
        here = replace(self, parameters=moved)._resolved()
        frame = here.total.frame

        def replaced(statistics: Statistics) -> Statistics:
            own = expected(moved, frame, parts * statistics.weight)
            moments = statistics.moments.copy()
            moments[chosen] = own.moments[chosen]
            # Starved components have few rows, so their part of the shared scatter is negligible.
            return replace(statistics, moments=moments, scatter=statistics.scatter + own.scatter)

        total = replaced(here.total)
        maximum = self.objective.maximize(total, moved, is_complete=True)
        average = None if here.average is None else replaced(here.average)
        return replace(
            here, parameters=maximum.parameters, total=total, average=average
        )._resolved()
