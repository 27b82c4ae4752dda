"""What happens on the way, told as events.

Progress bars, histories and callers' callbacks listen to the same ones.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Event:
    """Something that happened; subclasses say what."""


@dataclass(frozen=True)
class SkippedRows:
    """Rows that take no part, by reason; a row is counted under the first reason that holds.

    Attributes
    ----------
    n_overflowing : int
        Rows whose squares overflow.
    n_missing : int
        Rows that hold NaN; with ``missing="em"``, rows that hold nothing else.
    n_weightless : int
        Rows of weight 0.
    """

    n_overflowing: int = 0
    n_missing: int = 0
    n_weightless: int = 0

    @property
    def n_rows(self) -> int:
        """Number of rows, for all reasons together."""
        return self.n_overflowing + self.n_missing + self.n_weightless

    def __add__(self, other: "SkippedRows") -> "SkippedRows":
        return SkippedRows(
            self.n_overflowing + other.n_overflowing,
            self.n_missing + other.n_missing,
            self.n_weightless + other.n_weightless,
        )

    def __sub__(self, other: "SkippedRows") -> "SkippedRows":
        return SkippedRows(
            self.n_overflowing - other.n_overflowing,
            self.n_missing - other.n_missing,
            self.n_weightless - other.n_weightless,
        )

    def __str__(self) -> str:
        reasons = (
            (self.n_overflowing, "whose squares overflow"),
            (self.n_missing, "for lack of values"),
            (self.n_weightless, "of weight 0"),
        )
        counts = ", ".join(f"{count:,} {reason}" for count, reason in reasons if count)
        return f"{self.n_rows:,} row(s) skipped" + f": {counts}" * bool(counts)


@dataclass(frozen=True)
class FitStarted(Event):
    """What a fit will take, before its first pass.

    Attributes
    ----------
    n_rows, n_features, n_components : int
        N, D, K.
    n_parameters : int
        Free ones.
    n_bytes : int
        Size of the values that a pass takes in, as stored in memory.
    work_bytes : int
        Memory that each thread works in, beside the chunk that it reads.
    n_operations : int
        Floating-point operations of a pass, 4 N K F with F moments of each component.
    """

    n_rows: int
    n_features: int
    n_components: int
    n_parameters: int
    n_bytes: int
    work_bytes: int
    n_operations: int


@dataclass(frozen=True)
class ReadStarted(Event):
    """A pass over the data begins.

    Attributes
    ----------
    number : int
        1 for the first pass.
    purpose : str
        What the pass is for: "sample", "pilot" (a sample of a few chunks), "survey", "iteration",
        "refinement" (the same iteration again, in coordinates that show how narrow a covariance
        is) or "score"; of predictions, what is predicted.
    n_rows, n_chunks : int
        To be read.
    n_bytes : int
        Size of the values to be read, as stored in memory.
    """

    number: int
    purpose: str
    n_rows: int
    n_chunks: int
    n_bytes: int


@dataclass(frozen=True)
class ChunkDone(Event):
    """A chunk has been read and computed, or some chunks have."""

    n_rows: int
    n_bytes: int


@dataclass(frozen=True)
class ReadDone(Event):
    """A pass over the data has ended; the fields are those of the history.

    Attributes
    ----------
    number, purpose : as in :class:`ReadStarted`
    n_rows : int
        Rows counted in.
    seconds : float
    iteration : int
        Of EM within the start; 0 if the pass is no iteration.
    log_likelihood : float
        Mean log-likelihood of the parameters that were read with, nats per row; NaN if the pass
        evaluates none.
    gain : float
        Its difference to the iteration before; NaN if there is none.
    n_overflowing : int
        Rows skipped because their squares overflow.
    n_centred : int
        Components whose moments were summed about their own mean.
    arithmetic : {"float64", "float32", ""}
        "float32" if densities are from float32; "" if the pass evaluates none.
    screened : float
        Part of all pairs of row and component in which float32 showed that the component's
        responsibility is negligible.
    passed_over : float
        Part of all pairs that were not summed, the responsibility being negligible.
    n_missing : int
        Rows skipped because they hold NaN; with ``missing="em"``, because they hold nothing else.
    part : float
        Part of the data's rows that were read.
    accepted : bool
        Whether the fit continued from the parameters that were read with.
    n_weightless : int
        Of the rows counted in, those of weight 0, which take no part.
    """

    number: int
    purpose: str
    n_rows: int
    seconds: float
    iteration: int = 0
    log_likelihood: float = math.nan
    gain: float = math.nan
    n_overflowing: int = 0
    n_centred: int = 0
    arithmetic: str = ""
    screened: float = 0.0
    passed_over: float = 0.0
    n_missing: int = 0
    part: float = 1.0
    accepted: bool = True
    n_weightless: int = 0

    @property
    def skipped(self) -> SkippedRows:
        """The rows that took no part."""
        return SkippedRows(self.n_overflowing, self.n_missing, self.n_weightless)


@dataclass(frozen=True, eq=False)
class SurveyDone(Event):
    """What the survey found; a sample of the rows is in memory.

    Attributes
    ----------
    n_rows : int
        Rows that were read.
    n_overflowing, n_missing, n_weightless : int
        Of these, rows skipped because their squares overflow, because they hold NaN (with
        ``missing="em"``, nothing else), or because their weight is 0.
    n_sampled, n_unexplained : int
        Rows in the sample; of these, rows of a kind that is rare.
    shortfall : float
        What the best parameters for the sample are expected to lack on all rows, nats per row.
    feature_names : sequence of str
        Names of the D columns, or their numbers.
    smallest, largest, means, deviations : ndarray of shape (D,)
        Extremes, weighted mean and standard deviation of each feature, over the rows that take
        part.
    weight : float
        Sum of the weights of all rows that take part, by the surveyed ones. Where weighted rows
        lack values, that of the column with fewest gaps.
    """

    n_rows: int
    n_overflowing: int
    n_missing: int
    n_weightless: int
    n_sampled: int
    n_unexplained: int
    shortfall: float
    feature_names: Sequence[str]
    smallest: NDArray[np.float64]
    largest: NDArray[np.float64]
    means: NDArray[np.float64]
    deviations: NDArray[np.float64]
    weight: float = math.nan

    @property
    def skipped(self) -> SkippedRows:
        """The rows that take no part."""
        return SkippedRows(self.n_overflowing, self.n_missing, self.n_weightless)

    @property
    def constant_features(self) -> list[str]:
        """Names of the features that have the same value in all rows."""
        places: list[int] = np.flatnonzero(self.smallest == self.largest).tolist()
        return [self.feature_names[place] for place in places]


@dataclass(frozen=True)
class SampleStage(Event):
    """A stage of the work on rows in memory has ended.

    Attributes
    ----------
    name : str
        "starts", "moves" or "EM".
    n_rows : int
        Rows that it was done with.
    n_row_visits : int
        Rows that were computed, each counted every time.
    log_likelihood : float
        Mean over these rows, nats per row.
    seconds : float
    """

    name: str
    n_rows: int
    n_row_visits: int
    log_likelihood: float
    seconds: float


@dataclass(frozen=True)
class StepScored(Event):
    """Rows in memory have said how far to go from the parameters of a pass.

    Attributes
    ----------
    n_row_visits : int
        Rows that were computed for it, each counted every time.
    remaining : float
        What remains to be gained, nats per row, or as much of it as was found.
    """

    n_row_visits: int
    remaining: float


@dataclass(frozen=True)
class ComponentsDegenerate(Event):
    """Components lost their mass, or their covariance collapsed and was widened.

    Attributes
    ----------
    number : int
        The pass in which it was seen.
    empty, collapsed : tuple of int
    """

    number: int
    empty: tuple[int, ...]
    collapsed: tuple[int, ...]


@dataclass(frozen=True)
class CheckpointWritten(Event):
    """A result of the fit is in its checkpoint.

    Attributes
    ----------
    path : str
        Folder or URL of the checkpoint.
    number : int
        The last pass that it speaks of.
    n_bytes : int
        Size of what was written.
    """

    path: str
    number: int
    n_bytes: int


@dataclass(frozen=True)
class ComponentsReseeded(Event):
    """Components that had next to no rows left begin anew among rows that are badly explained.

    Attributes
    ----------
    n_samples : float
        Rows learned so far, in units of weight.
    components : tuple of int
    """

    n_samples: float
    components: tuple[int, ...]


@dataclass(frozen=True)
class MixtureFound(Event):
    """A search among rows in memory has ended, and the mixture that it found is learned on.

    Attributes
    ----------
    n_samples : float
        Rows seen so far, in units of weight.
    n_rows : int
        Rows in memory.
    """

    n_samples: float
    n_rows: int


@dataclass(frozen=True)
class ChangeDetected(Event):
    """Rows are explained worse than rows before them were, by more than chance explains.

    Attributes
    ----------
    n_samples : float
        Rows seen so far, in units of weight.
    log_likelihood : float
        Of the last rows before they were learned, nats per row.
    expected : float
        Of rows before the change.
    """

    n_samples: float
    log_likelihood: float
    expected: float


@dataclass(frozen=True)
class RowsLearned(Event):
    """Rows have been learned, and the file of the model says so.

    Attributes
    ----------
    path : str
        File of the model.
    data : str
        What the rows are called.
    n_rows : int
        Rows that were learned; skipped rows are not among them.
    n_samples : float
        Rows learned in all, in units of weight.
    batch_id : str or None
    skipped : SkippedRows
        Rows of the data that were not learned.
    """

    path: str
    data: str
    n_rows: int
    n_samples: float
    batch_id: str | None = None
    skipped: SkippedRows = SkippedRows()


@dataclass(frozen=True)
class BatchKnown(Event):
    """A batch was learned before, and has not been learned again.

    Attributes
    ----------
    path : str
        File of the model.
    batch_id : str
    """

    path: str
    batch_id: str


@dataclass(frozen=True)
class FilesSkipped(Event):
    """Files of a folder were not read, as the model does not remember names of so low an order.

    They count as learned. A new file among them is not learned, unless it gets a name that rises.

    Attributes
    ----------
    path : str
        File of the model.
    folder : str
    names : tuple of str
        In their order.
    """

    path: str
    folder: str
    names: tuple[str, ...]


#: A listener is told of every event.
Listener = Callable[[Event], None]
