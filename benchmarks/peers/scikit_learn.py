"""scikit-learn."""

from sklearn.mixture import GaussianMixture

from benchmarks.peers.libraries import Fitted
from benchmarks.planted import Problem


def fit(problem: Problem, iterations: int, threads: int) -> Fitted:
    """EM through the estimator; its BLAS takes the cores that there are."""
    start = problem.start
    model = GaussianMixture(
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
    arithmetic = str(model.means_.dtype)
    return Fitted(model.weights_, model.means_, model.covariances_, model.n_iter_, arithmetic)
