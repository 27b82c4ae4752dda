"""Mixtures and rows that the tests of the mathematics share."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from streamgmm.core.e_step import EStep
from streamgmm.core.frame import Frame
from streamgmm.core.kernels.log_joint import UNIT_ROUNDOFF
from streamgmm.core.kernels.tiles import BLOCK
from streamgmm.core.maximization import Maximum, maximize
from streamgmm.core.mixtures.sampling import draw as draw_rows
from streamgmm.core.parameters import Parameters
from streamgmm.core.structures import STRUCTURES, Array
from streamgmm.core.structures.low_rank_factors import joined
from streamgmm.options import CovarianceType

TYPES: tuple[CovarianceType, ...] = ("full", "tied", "diag", "spherical")
#: Types whose covariances are those of another one, shared by all components.
SHARED_TYPES: tuple[CovarianceType, ...] = ("tied_diag", "tied_spherical")
ALL_TYPES = (*TYPES, *SHARED_TYPES)
#: Loadings of rank 1, for tests of few columns.
LOW_RANK: CovarianceType = "low_rank(1)"  # type: ignore[assignment]


def covariances_for(rng: np.random.Generator, covariance_type: str, k: int, d: int) -> Array:
    """Well-conditioned covariances of standard deviations between 0.5 and 2."""
    if covariance_type == LOW_RANK:
        return joined(0.7 * rng.normal(size=(k, d, 1)), rng.uniform(0.25, 2.0, (k, d)))
    if covariance_type == "tied_spherical":
        return rng.uniform(0.25, 4.0, ())  # type: ignore[return-value]
    if covariance_type == "tied_diag":
        return rng.uniform(0.25, 4.0, d)
    if covariance_type == "spherical":
        return rng.uniform(0.25, 4.0, k)
    if covariance_type == "diag":
        return rng.uniform(0.25, 4.0, (k, d))
    count = k if covariance_type == "full" else 1
    rotations = np.linalg.qr(rng.normal(size=(count, d, d)))[0]
    roots = rotations * rng.uniform(0.5, 2.0, (count, 1, d))
    matrices = roots @ np.swapaxes(roots, 1, 2)
    matrices = 0.5 * (matrices + np.swapaxes(matrices, 1, 2))
    return matrices if covariance_type == "full" else matrices[0]


def unit_covariances(covariance_type: CovarianceType, k: int, d: int) -> Array:
    """Covariances I."""
    found: dict[str, Array] = {
        "full": np.tile(np.eye(d), (k, 1, 1)),
        "tied": np.eye(d),
        "diag": np.ones((k, d)),
        "spherical": np.ones(k),
        "tied_diag": np.ones(d),
        "tied_spherical": np.ones(()),
    }
    return found[covariance_type]


def random_parameters(
    rng: np.random.Generator,
    covariance_type: CovarianceType,
    k: int,
    d: int,
    spread: float = 3.0,
) -> Parameters:
    """A benign mixture: overlapping components about the origin."""
    weights = rng.dirichlet(np.full(k, 5.0))
    means = rng.normal(size=(k, d)) * spread
    return Parameters.create(
        covariance_type, weights, means, covariances_for(rng, covariance_type, k, d)
    )


def draw(rng: np.random.Generator, parameters: Parameters, n: int) -> Array:
    """Rows from the mixture."""
    labels = rng.choice(parameters.n_components, size=n, p=parameters.weights)
    if parameters.covariance_type == LOW_RANK:
        rows, _ = draw_rows(parameters, n, rng)
        return rng.permutation(rows)
    noise = rng.normal(size=(n, parameters.n_features))
    factors = parameters.stacked(parameters.factors)
    if parameters.structure.has_directions:
        factors = np.broadcast_to(factors, (parameters.n_components, *factors.shape[1:]))
        return parameters.means[labels] + np.einsum("nij,nj->ni", factors[labels], noise)
    return parameters.means[labels] + factors[labels] * noise


def rotation(d: int, rng: np.random.Generator) -> Array:
    """A random orthogonal matrix."""
    return np.linalg.qr(rng.normal(size=(d, d)))[0]


def prepare(parameters: Parameters, rows: NDArray[np.generic] | None = None) -> EStep:
    """The mixture in its own frame."""
    dtype = np.float64 if rows is None else rows.dtype
    return EStep.prepare(parameters, Frame.of(parameters, dtype))


def em_step(
    rows: NDArray[np.generic],
    parameters: Parameters,
    *,
    reg_covar: float | NDArray[np.float64] = 0.0,
    row_weights: Array | None = None,
    fixed: tuple[str, ...] = (),
) -> Maximum:
    """One EM iteration of the package."""
    statistics = prepare(parameters, rows).statistics(rows, row_weights)
    return maximize(statistics, parameters, reg_covar=reg_covar, fixed=fixed)  # type: ignore[arg-type]


def density_bounds(expectation: EStep, rows: Array) -> Iterator[Array]:
    """√F u |θ_k| φ(max |z|) of each block of rows: (packed components,), from the formula."""
    coefficients = expectation.coefficients
    d = coefficients.origin.size
    kind = expectation.frame.covariance_type
    for start in range(0, len(rows), BLOCK):
        block = rows[start : start + BLOCK]
        extent = np.abs((block - coefficients.origin) * coefficients.inverse_scale).max(axis=0)
        if kind == "tied":
            squares, extent = np.empty(0), np.abs(coefficients.whitener) @ extent
        elif kind == "full":
            upper = np.triu_indices(d)
            squares = extent[upper[0]] * extent[upper[1]]
        else:
            squares = extent**2 if kind == "diag" else np.array([(extent**2).sum()])
        features = np.concatenate([[1.0], extent, squares])
        assert features.size == STRUCTURES[kind].n_moments(d)
        yield np.sqrt(features.size) * UNIT_ROUNDOFF * (np.abs(coefficients.theta) @ features)
