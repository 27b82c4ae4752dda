"""mlpack.

Its Python binding looks at nothing of a given model but the shape, and begins with k-means: it does
as many iterations as the others, of the same cost, from a start of its own.
"""

import mlpack
import numpy as np

from benchmarks.peers.libraries import Fitted
from benchmarks.planted import Problem


def fit(problem: Problem, iterations: int, threads: int) -> Fitted:
    """EM; OpenMP takes the cores that there are."""
    is_diagonal = problem.covariance_type == "diag"
    found = mlpack.gmm_train(
        problem.n_components,
        problem.rows,
        diagonal_covariance=is_diagonal,
        kmeans_max_iterations=1,
        # It counts from 1.
        max_iterations=iterations + 1,
        tolerance=0.0,
        seed=1,
    )
    (model,) = found["output_model"].get_cpp_params().values()
    covariances = np.stack([component["covariance"] for component in model["dists"]])
    return Fitted(
        model["weights"].ravel(),
        np.concatenate([component["mean"] for component in model["dists"]]),
        np.diagonal(covariances, axis1=1, axis2=2) if is_diagonal else covariances,
        iterations,
        "float64",
    )
