"""streamgmm."""

from typing import Any

from benchmarks.peers.libraries import Fitted
from benchmarks.planted import Problem


def fit(problem: Problem, iterations: int, threads: int, **settings: Any) -> Fitted:
    """EM through the estimator."""
    model = problem.model(reg_covar=0.0, max_iter=iterations, n_jobs=threads, **settings)
    model.fit(problem.rows)
    arithmetic = model.history_[-1]["arithmetic"]
    return Fitted(model.weights_, model.means_, model.covariances_, model.n_iter_, arithmetic)
