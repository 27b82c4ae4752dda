"""gmmx, on JAX; it has float32 only."""

import jax
import numpy as np
from gmmx import EMFitter, GaussianMixtureModelJax

from benchmarks.peers.libraries import Fitted
from benchmarks.planted import Problem

# With few cores a run that is dispatched asynchronously may wait for a thread for ever.
jax.config.update("jax_cpu_enable_async_dispatch", False)


def fit(problem: Problem, iterations: int, threads: int) -> Fitted:
    """EM; XLA takes the cores that there are."""
    start = problem.start
    model = GaussianMixtureModelJax.from_squeezed(
        means=start.means.astype(problem.dtype),
        covariances=start.covariances.astype(problem.dtype),
        weights=start.weights.astype(problem.dtype),
        covariance_type=problem.covariance_type,
    )
    result = EMFitter(max_iter=iterations, tol=0.0, reg_covar=0.0).fit(problem.rows, model)
    means = np.asarray(result.gmm.means_numpy)
    return Fitted(
        np.asarray(result.gmm.weights_numpy),
        means,
        np.asarray(result.gmm.covariances.values_numpy),
        int(result.n_iter),
        str(means.dtype),
    )
