"""Mixtures and data that benchmarks share."""

import numpy as np
from numpy.typing import NDArray

from streamgmm.core.covariance import CovarianceType
from streamgmm.core.parameters import Parameters
from streamgmm.core.sampling import draw


def planted_mixture(
    n_features: int, n_components: int, covariance_type: CovarianceType = "full", seed: int = 0
) -> Parameters:
    """Equal weights, means from N(0, 3²), random covariances of moderate condition."""
    random = np.random.default_rng(seed)
    means = random.normal(0.0, 3.0, (n_components, n_features))
    roots = random.normal(size=(n_components, n_features, n_features))
    full = roots @ np.swapaxes(roots, 1, 2) / n_features + 0.1 * np.eye(n_features)
    covariances = {
        "full": full,
        "tied": full[0],
        "diag": np.diagonal(full, axis1=1, axis2=2),
        "spherical": full[:, 0, 0],
    }[covariance_type]
    weights = np.full(n_components, 1.0 / n_components)
    return Parameters.create(covariance_type, weights, means, covariances)


def planted_rows(
    n_rows: int, n_features: int, n_components: int, covariance_type: CovarianceType = "full"
) -> NDArray[np.float64]:
    """Shuffled rows of :func:`planted_mixture`."""
    random = np.random.default_rng(1)
    mixture = planted_mixture(n_features, n_components, covariance_type)
    rows, _ = draw(mixture, n_rows, random)
    random.shuffle(rows)
    return rows
