"""What estimators share that have the settings ``checkpoint`` and ``checkpoint_interval``."""

import copy
from typing import Any, Self

from sklearn.utils import estimator_html_repr

from streamgmm.errors import ParameterError
from streamgmm.sources.urls import without_credentials


def check_resume(checkpoint: Any, interval: Any, resume: bool) -> None:
    """Refuse to resume, or to save parts of passes, without a checkpoint.

    Raises
    ------
    ParameterError
    """
    if checkpoint is not None:
        return
    if resume:
        raise ParameterError("resume=True needs checkpoint=, the folder of what was interrupted")
    if interval is not None:
        raise ParameterError("checkpoint_interval= needs checkpoint=, where passes are saved")


class CheckpointedMixin:
    """An estimator with a setting ``checkpoint``, which may be a URL with credentials."""

    checkpoint: Any

    def __repr__(self, N_CHAR_MAX: int = 700) -> str:
        shown: Any = super(CheckpointedMixin, self._without_credentials())
        text: str = shown.__repr__(N_CHAR_MAX)
        return text

    def _html_repr(self) -> str:
        html: str = estimator_html_repr(self._without_credentials())
        return html

    def _without_credentials(self) -> Self:
        """Return a copy for display: the URL of a checkpoint may hold a password or signature."""
        if not isinstance(self.checkpoint, str):
            return self
        shown = copy.copy(self)
        shown.checkpoint = without_credentials(self.checkpoint)
        return shown
