"""pomegranate, on PyTorch."""

import math

import numpy as np
import torch
from pomegranate.distributions import Normal
from pomegranate.gmm import GeneralMixtureModel

from benchmarks.peers.libraries import Fitted
from benchmarks.planted import Problem


def fit(problem: Problem, iterations: int, threads: int) -> Fitted:
    """EM in the precision of the rows, without checks of the data."""
    torch.set_num_threads(threads)
    start = problem.start
    distributions = [
        Normal(mean, covariance, covariance_type=problem.covariance_type, check_data=False)
        for mean, covariance in zip(
            start.means.astype(problem.dtype), start.covariances.astype(problem.dtype), strict=True
        )
    ]
    model = GeneralMixtureModel(
        distributions,
        priors=start.weights.astype(problem.dtype),
        max_iter=iterations,
        tol=-math.inf,
        check_data=False,
    )
    model.fit(torch.from_numpy(problem.rows))
    return Fitted(
        model.priors.numpy(),
        np.stack([distribution.means.numpy() for distribution in model.distributions]),
        np.stack([distribution.covs.numpy() for distribution in model.distributions]),
        iterations,
        str(model.priors.numpy().dtype),
    )
