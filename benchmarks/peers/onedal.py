"""oneDAL's C++ ``em_gmm``, through daal4py.

It cannot be kept from stopping: a threshold of 0 is the smallest, and in float32 a sum of
log-likelihoods soon stands still.
"""

import daal4py
import numpy as np

from benchmarks.peers.libraries import Fitted
from benchmarks.planted import Problem


def fit(problem: Problem, iterations: int, threads: int) -> Fitted:
    """EM in the precision of the rows."""
    daal4py.daalinit(threads)
    algorithm = daal4py.em_gmm(
        nComponents=problem.n_components,
        fptype={"float64": "double", "float32": "float"}[problem.dtype],
        maxIterations=iterations,
        accuracyThreshold=0.0,
        covarianceStorage={"full": "full", "diag": "diagonal"}[problem.covariance_type],
    )
    start = problem.start
    result = algorithm.compute(
        problem.rows,
        np.atleast_2d(start.weights).astype(problem.dtype),
        start.means.astype(problem.dtype),
        [np.atleast_2d(covariance).astype(problem.dtype) for covariance in start.covariances],
    )
    return Fitted(
        result.weights.ravel(),
        result.means,
        np.reshape(result.covariances, start.covariances.shape),
        int(result.nIterations[0, 0]),
        str(result.means.dtype),
    )
