"""streamgmm."""

import time
from typing import Any

from benchmarks.peers.libraries import Fitted
from benchmarks.planted import Problem
from streamgmm.events import Event, ReadDone


def fit(problem: Problem, iterations: int, threads: int, **settings: Any) -> Fitted:
    """EM through the estimator."""
    ends: list[float] = []

    def note(event: Event) -> None:
        if isinstance(event, ReadDone):
            ends.append(time.perf_counter())

    settings |= {"reg_covar": 0.0, "n_jobs": threads, "callbacks": [note]}
    model = problem.model(max_iter=iterations, **settings).fit(problem.rows)
    parameters = model.weights_, model.means_, model.covariances_
    return Fitted(*parameters, model.n_iter_, model.history_[-1]["arithmetic"], tuple(ends))
