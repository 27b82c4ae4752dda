"""The base of estimators with the settings ``checkpoint`` and ``checkpoint_interval``."""

import copy
import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Self

import numpy as np
from sklearn.utils import estimator_html_repr

from streamgmm.algorithms.batch.em import Fit
from streamgmm.algorithms.reads.reader import Reader
from streamgmm.checkpoint import open_checkpoint
from streamgmm.errors import ParameterError
from streamgmm.estimators.outputs import refuse_overlap
from streamgmm.estimators.validation import check_random_state
from streamgmm.persistence import Record
from streamgmm.urls import is_url, without_credentials


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
    checkpoint_interval: float | None = None
    random_state: Any

    @contextmanager
    def _open_checkpoint(
        self,
        reader: Reader,
        settings: Callable[[], Mapping[str, Any]],
        as_model: Callable[[Fit], Record] | None,
        final: Callable[[], Record],
        resume: bool,
    ) -> Iterator[np.random.RandomState]:
        """Keep the results of a fit if there is a checkpoint; yield the random state of the fit.

        Parameters
        ----------
        reader : Reader
            The reader of the fit; results are kept in its journal.
        settings : callable
            Returns everything that determines the result of the fit.
        as_model : callable or None
            Makes a model's record of a fit; None if there is no model before the end.
        final : callable
            Returns the record of the model when the fit has ended.
        resume : bool
            Whether to continue an existing checkpoint.
        """
        random = check_random_state(self.random_state)
        if self.checkpoint is None:
            yield random
            return
        if not is_url(os.fspath(self.checkpoint)):
            refuse_overlap(self.checkpoint, reader.source)
        interval = math.inf if self.checkpoint_interval is None else self.checkpoint_interval
        with open_checkpoint(
            self.checkpoint, settings(), random, resume, interval, as_model, reader.notify
        ) as checkpoint:
            reader.journal = checkpoint
            yield checkpoint.random
            checkpoint.finish(final())

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
