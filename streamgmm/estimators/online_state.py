"""All that a model of a stream continues from, as a plain value."""

from dataclasses import dataclass, field

from streamgmm.algorithms.stream.stream_state import Progress
from streamgmm.events import SkippedRows
from streamgmm.ledger import Ledger


@dataclass(frozen=True, eq=False)
class OnlineState:
    """How far a model has learned a stream, and what of files and batches it has learned.

    Attributes
    ----------
    progress : Progress or None
        None if no row has been learned.
    ledger : Ledger
        What :func:`streamgmm.update` has learned.
    merging_loss : float or None
        Loss of the merge that the model began with, nats per row; None if it began otherwise.
    """

    progress: Progress | None = None
    ledger: Ledger = field(default_factory=Ledger)
    merging_loss: float | None = None

    @property
    def skipped(self) -> SkippedRows:
        """Rows that were skipped."""
        return SkippedRows() if self.progress is None else self.progress.skipped
