"""Events of fits, predictions and updates.

Progress bars, histories and the callbacks of users receive the same events.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Event:
    """Base of all events."""


@dataclass(frozen=True)
class SkippedRows:
    """Numbers of skipped rows by reason; a row is counted under the first reason that holds.

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
    """A fit begins; its size is known before the first pass.

    Attributes
    ----------
    n_rows, n_features, n_components : int
        N, D, K.
    n_parameters : int
        Number of free parameters.
    n_bytes : int
        Size in memory of the values that a pass reads.
    work_bytes : int
        Memory that each thread uses beside the chunk that it reads.
    n_operations : int
        Floating-point operations of a pass, 4 N K F with F moments of each component.
    tol : float
        Gain that may remain when the fit ends, nats per row; NaN if the fit ends otherwise.
    max_iter : int
        Largest number of iterations; 0 if it is not known.
    """

    n_rows: int
    n_features: int
    n_components: int
    n_parameters: int
    n_bytes: int
    work_bytes: int
    n_operations: int
    tol: float = math.nan
    max_iter: int = 0


@dataclass(frozen=True)
class KernelCompiling(Event):
    """A kernel is being compiled; it takes some seconds, once per machine.

    Attributes
    ----------
    name : str
        Name of the kernel.
    dtype : str
        Type of the rows that it is compiled for.
    is_kept : bool
        Whether the machine code is kept for later processes. It is False if no folder can be
        written.
    """

    name: str
    dtype: str
    is_kept: bool


@dataclass(frozen=True)
class ReadStarted(Event):
    """A pass over the data begins.

    Attributes
    ----------
    number : int
        1 for the first pass.
    purpose : str
        Purpose of the pass: "moments" (of rows that are scaled or projected), "sample", "pilot" (a
        sample of a few chunks), "survey", "iteration", "refinement" (the same iteration again, in
        coordinates that show how narrow a covariance is) or "score"; for predictions the name of
        the predicted values.
    n_rows, n_chunks : int
        Numbers of rows and chunks that the pass will read.
    n_bytes : int
        Size in memory of the values that the pass will read.
    """

    number: int
    purpose: str
    n_rows: int
    n_chunks: int
    n_bytes: int


@dataclass(frozen=True)
class ChunkDone(Event):
    """One or more chunks have been read and computed.

    Attributes
    ----------
    n_rows, n_bytes : int
        Numbers of their rows and bytes.
    """

    n_rows: int
    n_bytes: int


@dataclass(frozen=True)
class ReadDone(Event):
    """A pass over the data has ended; the fields are those of the history.

    Attributes
    ----------
    number, purpose : as in :class:`ReadStarted`
    n_rows : int
        Number of rows that the pass used.
    seconds : float
        Duration of the pass.
    iteration : int
        Number of the EM iteration within the start; 0 if the pass is not an iteration.
    log_likelihood : float
        Mean log-likelihood of the evaluated parameters, nats per row; NaN if the pass evaluates
        none.
    gain : float
        Difference of the log-likelihood to the previous iteration; NaN if there is none.
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
        Whether the fit continued from the evaluated parameters.
    n_weightless : int
        Number of rows of weight 0 among the used rows; they have no influence.
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
        """The rows that were skipped."""
        return SkippedRows(self.n_overflowing, self.n_missing, self.n_weightless)


@dataclass(frozen=True, eq=False)
class SurveyDone(Event):
    """The survey has ended; a sample of the rows is in memory.

    Attributes
    ----------
    n_rows : int
        Number of rows that the survey read.
    n_overflowing, n_missing, n_weightless : int
        Numbers of rows that were skipped because their squares overflow, because they hold NaN
        (with ``missing="em"``, nothing else), or because their weight is 0.
    n_sampled, n_unexplained : int
        Number of rows in the sample, and number of rare rows among them.
    shortfall : float
        Expected loss on all rows, nats per row, of the best parameters for the sample.
    feature_names : sequence of str
        Names of the D columns, or their numbers.
    smallest, largest, means, deviations : ndarray of shape (D,)
        Extremes, weighted mean and standard deviation of each feature, over the used rows.
    weight : float
        Sum of the weights of all used rows, estimated from the surveyed ones. If weighted rows
        lack values, the sum for the column with the fewest gaps.
    """

    n_rows: int
    n_overflowing: int
    n_missing: int
    n_weightless: int
    n_sampled: int
    n_unexplained: int
    shortfall: float
    feature_names: Sequence[str]
    smallest: "NDArray[np.float64]"
    largest: "NDArray[np.float64]"
    means: "NDArray[np.float64]"
    deviations: "NDArray[np.float64]"
    weight: float = math.nan

    @property
    def skipped(self) -> SkippedRows:
        """The rows that were skipped."""
        return SkippedRows(self.n_overflowing, self.n_missing, self.n_weightless)

    @property
    def constant_features(self) -> list[str]:
        """Names of the features that have the same value in all rows."""
        places: list[int] = (self.smallest == self.largest).nonzero()[0].tolist()
        return [self.feature_names[place] for place in places]


@dataclass(frozen=True)
class StageStarted(Event):
    """A stage of the work on rows in memory begins.

    Attributes
    ----------
    name : str
        As in :class:`SampleStage`; "clusters" for a search for clusters of k-means.
    n_rows : int
        Number of rows that the stage will use.
    n_components : int
        Number of components, or of clusters.
    """

    name: str
    n_rows: int
    n_components: int


@dataclass(frozen=True)
class StartBegun(Event):
    """A start of the search in memory begins: first centres are chosen among the rows.

    Attributes
    ----------
    number : int
        1 for the first start.
    n_starts : int
        Number of all starts.
    """

    number: int
    n_starts: int


@dataclass(frozen=True)
class StartDone(Event):
    """A start of the search in memory has ended, after some iterations.

    Attributes
    ----------
    number, n_starts : as in :class:`StartBegun`
    log_likelihood : float
        Mean log-likelihood of the best start so far, nats per row; NaN for k-means.
    inertia : float
        For k-means, the sum of squared distances of the best start so far; NaN otherwise.
    """

    number: int
    n_starts: int
    log_likelihood: float = math.nan
    inertia: float = math.nan


@dataclass(frozen=True)
class RoundDone(Event):
    """A round of the search in memory has ended.

    In a round the search splits some components and merges others, or k-means moves some centres
    to other clusters.

    Attributes
    ----------
    number : int
        1 for the first round after a start.
    n_tried : int
        Number of splits, or of moved centres, that promised a gain.
    log_likelihood : float
        Mean log-likelihood so far, nats per row; NaN for k-means.
    inertia : float
        For k-means, the sum of squared distances so far; NaN otherwise.
    """

    number: int
    n_tried: int
    log_likelihood: float = math.nan
    inertia: float = math.nan


@dataclass(frozen=True)
class SampleStep(Event):
    """An iteration on rows in memory has ended, or has gone on for another second.

    Attributes
    ----------
    stage : str
        Name of the stage, as in :class:`StageStarted`.
    number : int
        Number of the iterations of this stage that have ended.
    log_likelihood : float
        Mean log-likelihood of the parameters that the iteration began with, nats per row; NaN for
        k-means, and where it has not ended.
    """

    stage: str
    number: int
    log_likelihood: float = math.nan


@dataclass(frozen=True)
class SampleStage(Event):
    """A stage of the work on rows in memory has ended.

    Attributes
    ----------
    name : str
        "starts", "split and merge" or "EM".
    n_rows : int
        Number of rows that the stage used.
    n_row_visits : int
        Number of rows that were computed; a row counts each time.
    log_likelihood : float
        Mean log-likelihood of these rows, nats per row.
    seconds : float
    log_likelihoods : tuple of float
        Mean log-likelihood of these rows at each iteration, in order, nats per row. Each start,
        and each attempt to split and merge components, begins with a value of its own.
    """

    name: str
    n_rows: int
    n_row_visits: int
    log_likelihood: float
    seconds: float
    log_likelihoods: tuple[float, ...] = ()


@dataclass(frozen=True)
class StepScored(Event):
    """The rows in memory have determined the next step from the parameters of a pass.

    Attributes
    ----------
    n_row_visits : int
        Number of rows that were computed for it; a row counts each time.
    remaining : float
        Predicted remaining gain, nats per row, or a lower bound of it.
    """

    n_row_visits: int
    remaining: float


@dataclass(frozen=True)
class ComponentsDegenerate(Event):
    """Components lost their mass, or their covariance collapsed and was widened.

    Attributes
    ----------
    number : int
        Number of the pass that found it.
    empty, collapsed : tuple of int
        Components without mass, and components whose covariance was widened.
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
        Number of the last pass that the checkpoint holds.
    n_bytes : int
        Size of what was written.
    """

    path: str
    number: int
    n_bytes: int


@dataclass(frozen=True)
class ComponentsReseeded(Event):
    """Components with almost no rows were placed anew among badly explained rows.

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
    """A search among the rows in memory has ended; the stream continues with its mixture.

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
    """The stream has changed: new rows have a lower log-likelihood than chance explains.

    Attributes
    ----------
    n_samples : float
        Rows seen so far, in units of weight.
    log_likelihood : float
        Mean log-likelihood of the last rows before they were learned, nats per row.
    expected : float
        Mean log-likelihood of the rows before the change, nats per row.
    """

    n_samples: float
    log_likelihood: float
    expected: float


@dataclass(frozen=True)
class RowsLearned(Event):
    """Rows have been learned, and the model file has been saved.

    Attributes
    ----------
    path : str
        File of the model.
    data : str
        Name of the data.
    n_rows : int
        Number of rows that were learned, without skipped rows.
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
    """A batch was learned before and was not learned again.

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
    """Files of a folder were skipped: the model no longer remembers names that sort so low.

    They count as learned. To have a new file learned, give it a name that sorts later.

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


#: A function that is called with every event.
Listener = Callable[[Event], None]
