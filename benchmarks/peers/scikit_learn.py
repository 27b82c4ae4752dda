"""scikit-learn."""

import time
from typing import Any

from sklearn.mixture import GaussianMixture

from benchmarks.peers.libraries import Fitted
from benchmarks.planted import Problem


class _Watched(GaussianMixture):
    """Notes when each M-step, and so each iteration, ends."""

    def _m_step(self, *arguments: Any, **keywords: Any) -> None:
        super()._m_step(*arguments, **keywords)
        self.ends_ = (*getattr(self, "ends_", ()), time.perf_counter())


def fit(problem: Problem, iterations: int, threads: int) -> Fitted:
    """EM through the estimator; its BLAS takes the cores that there are."""
    start = problem.start
    model = _Watched(
        problem.n_components,
        covariance_type=problem.covariance_type,
        weights_init=start.weights.astype(problem.dtype),
        means_init=start.means.astype(problem.dtype),
        precisions_init=start.precisions.astype(problem.dtype),
        # The cheapest: what it makes is not used.
        init_params="random_from_data",
        tol=0.0,
        reg_covar=0.0,
        max_iter=iterations,
    ).fit(problem.rows)
    parameters = model.weights_, model.means_, model.covariances_
    return Fitted(*parameters, model.n_iter_, str(model.means_.dtype), model.ends_)
