"""Gaussian mixtures written down as in the textbook, in extended precision.

The oracle of the tests: slow, short, independent of the package, and accurate to about
``np.finfo(np.longdouble).eps`` because every sum is taken about its own mean.
"""

from collections.abc import Collection
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Real = NDArray[np.longdouble]


class Mixture(NamedTuple):
    """Σ_k = L_k L_kᵀ for all types: factors are stored as matrices (K, D, D)."""

    covariance_type: str
    weights: Real
    means: Real
    factors: Real

    @property
    def matrices(self) -> Real:
        """Covariances as matrices (K, D, D)."""
        return self.factors @ np.swapaxes(self.factors, 1, 2)

    @property
    def covariances(self) -> Real:
        """Covariances in the shape of the covariance type."""
        matrices = self.matrices
        if self.covariance_type == "full":
            return matrices
        if self.covariance_type == "tied":
            return matrices[0]
        variances = np.diagonal(matrices, axis1=1, axis2=2)
        return {
            "diag": variances,
            "spherical": variances[:, 0],
            "tied_diag": variances[0],
            "tied_spherical": variances[0, 0],
        }[self.covariance_type]


def mixture(
    covariance_type: str,
    weights: ArrayLike,
    means: ArrayLike,
    covariances: ArrayLike | None = None,
    factors: ArrayLike | None = None,
) -> Mixture:
    """Mixture from covariances or from their factors, in the shape of the covariance type."""
    means = extended(means)
    if factors is None:
        given = extended(covariances)
        factors = cholesky(given) if covariance_type in ("full", "tied") else np.sqrt(given)
    factors = extended(factors)
    return Mixture(
        covariance_type, extended(weights), means, as_matrices(factors, means, covariance_type)
    )


def as_matrices(stored: Real, means: Real, covariance_type: str) -> Real:
    """Covariances or factors of any type as matrices (K, D, D)."""
    k, d = means.shape
    if covariance_type == "full":
        return stored
    if covariance_type == "tied":
        return np.tile(stored, (k, 1, 1))
    scales = stored[:, np.newaxis] if covariance_type == "spherical" else stored
    return np.broadcast_to(scales, (k, d))[:, :, np.newaxis] * np.eye(d)


def of(parameters: Any) -> Mixture:
    """The same mixture as the package's parameters."""
    return mixture(
        parameters.covariance_type,
        parameters.weights,
        parameters.means,
        factors=parameters.factors,
    )


def extended(values: ArrayLike | None) -> Real:
    return np.asarray(values, dtype=np.longdouble)


def cholesky(covariances: Real) -> Real:
    """L with L Lᵀ = Σ, over the last two axes."""
    factors = np.zeros_like(covariances)
    for j in range(covariances.shape[-1]):
        done = factors[..., j, :j]
        factors[..., j, j] = np.sqrt(covariances[..., j, j] - (done**2).sum(axis=-1))
        for i in range(j + 1, covariances.shape[-1]):
            rest = covariances[..., i, j] - (factors[..., i, :j] * done).sum(axis=-1)
            factors[..., i, j] = rest / factors[..., j, j]
    return factors


def solve_lower(factor: Real, right: Real) -> Real:
    """Y with L Y = right, for right (D, n)."""
    solution = np.zeros_like(right)
    for i in range(len(factor)):
        solution[i] = (right[i] - factor[i, :i] @ solution[:i]) / factor[i, i]
    return solution


def factor_of_gram(rows: Real) -> Real:
    """L with L Lᵀ = rowsᵀ rows, without forming it, which would square the condition.

    Modified Gram-Schmidt: rows = Q R, L = Rᵀ.
    """
    columns = [column.copy() for column in rows.T]
    factor = np.zeros((len(columns), len(columns)), dtype=np.longdouble)
    for j, column in enumerate(columns):
        factor[j, j] = np.sqrt(column @ column)
        direction = column / factor[j, j]
        for i in range(j + 1, len(columns)):
            factor[i, j] = direction @ columns[i]
            columns[i] -= factor[i, j] * direction
    return factor


def log_joint(x: ArrayLike, model: Mixture) -> Real:
    """ln π_k N(x_n | μ_k, Σ_k), (n, K)."""
    x = extended(x)
    two_pi = 8 * np.arctan(np.longdouble(1))
    columns = []
    for weight, mean, factor in zip(model.weights, model.means, model.factors, strict=True):
        y = solve_lower(factor, (x - mean).T)
        with np.errstate(divide="ignore"):
            constant = np.log(weight) - np.log(np.diagonal(factor)).sum()
        columns.append(constant - (x.shape[1] * np.log(two_pi) + (y**2).sum(axis=0)) / 2)
    return np.stack(columns, axis=1)


def scores(x: ArrayLike, model: Mixture) -> Real:
    """ln p(x_n), (n,)."""
    joint = log_joint(x, model)
    largest = joint.max(axis=1)
    return largest + np.log(np.exp(joint - largest[:, np.newaxis]).sum(axis=1))


def responsibilities(x: ArrayLike, model: Mixture) -> Real:
    """γ_nk, (n, K)."""
    return np.exp(log_joint(x, model) - scores(x, model)[:, np.newaxis])


def assignments(x: ArrayLike, model: Mixture) -> Real:
    """1 for the component of largest log-joint density, of equal ones the first, else 0, (n, K)."""
    return np.eye(len(model.weights), dtype=np.longdouble)[log_joint(x, model).argmax(axis=1)]


def mean_log_likelihood(
    x: ArrayLike, model: Mixture, row_weights: ArrayLike | None = None
) -> np.longdouble:
    """Nats a unit of row weight."""
    w = np.ones(len(extended(x)), np.longdouble) if row_weights is None else extended(row_weights)
    return (w * scores(x, model)).sum() / w.sum()


def em_step(
    x: ArrayLike,
    model: Mixture,
    reg_covar: ArrayLike = 0.0,
    row_weights: ArrayLike | None = None,
    fixed: Collection[str] = (),
    is_hard: bool = False,
) -> Mixture:
    """One EM iteration; the parameters named in fixed stay, the others maximise given them."""
    x = extended(x)
    d = x.shape[1]
    gamma = assignments(x, model) if is_hard else responsibilities(x, model)
    if row_weights is not None:
        gamma = gamma * extended(row_weights)[:, np.newaxis]
    counts = gamma.sum(axis=0)
    weights = model.weights if "weights" in fixed else counts / counts.sum()
    if "means" in fixed:
        means = model.means
    else:
        # About the previous means first, so that a far origin costs no digits.
        moves = [g @ (x - m) / n for g, m, n in zip(gamma.T, model.means, counts, strict=True)]
        means = model.means + np.stack(moves)
    if "covariances" in fixed:
        return Mixture(model.covariance_type, weights, means, model.factors)
    # Rows whose Gram matrix is the covariance of a component.
    spreads = [
        np.sqrt(g / n)[:, np.newaxis] * (x - m)
        for g, m, n in zip(gamma.T, means, counts, strict=True)
    ]
    ridge = np.sqrt(extended(reg_covar)) * np.eye(d)
    if model.covariance_type == "full":
        factors = np.stack([factor_of_gram(np.vstack([s, ridge])) for s in spreads])
    elif model.covariance_type == "tied":
        shares = np.sqrt(counts / counts.sum())
        stacked = [share * s for share, s in zip(shares, spreads, strict=True)]
        factors = np.tile(factor_of_gram(np.vstack([*stacked, ridge])), (len(counts), 1, 1))
    else:
        variances = np.stack([(s**2).sum(axis=0) for s in spreads]) + extended(reg_covar)
        variances = averaged(variances, counts, model.covariance_type)
        factors = np.sqrt(variances)[:, :, np.newaxis] * np.eye(d)
    return Mixture(model.covariance_type, weights, means, factors)


def averaged(variances: Real, counts: Real, covariance_type: str) -> Real:
    """Variances (K, D), averaged over features and components as the type asks."""
    if covariance_type.startswith("tied"):
        variances = np.tile(counts / counts.sum() @ variances, (len(counts), 1))
    if covariance_type.endswith("spherical"):
        variances = np.tile(variances.mean(axis=1, keepdims=True), (1, variances.shape[1]))
    return variances


def incomplete_log_joint(x: ArrayLike, model: Mixture) -> Real:
    """ln π_k N(x_no | μ_ko, Σ_koo) of the values x_no that are not NaN, (n, K)."""
    found = []
    for row in extended(x):
        seen = np.flatnonzero(~np.isnan(row))
        factors = cholesky(model.matrices[:, seen[:, np.newaxis], seen])
        marginal = Mixture("full", model.weights, model.means[:, seen], factors)
        found.append(log_joint(row[np.newaxis, seen], marginal)[0])
    return np.stack(found)


def completed(row: Real, mean: Real, matrix: Real) -> tuple[Real, Real]:
    """Conditional mean and covariance, (D,) and (D, D), of a row given the values it has."""
    seen, missing = np.flatnonzero(~np.isnan(row)), np.flatnonzero(np.isnan(row))
    filled, spread = row.copy(), np.zeros_like(matrix)
    factor = cholesky(matrix[np.ix_(seen, seen)])
    across = solve_lower(factor, matrix[np.ix_(seen, missing)])
    filled[missing] = (
        mean[missing] + across.T @ solve_lower(factor, (row - mean)[seen, np.newaxis]).ravel()
    )
    spread[np.ix_(missing, missing)] = matrix[np.ix_(missing, missing)] - across.T @ across
    return filled, spread


def incomplete_em_step(
    x: ArrayLike, model: Mixture, row_weights: ArrayLike | None = None, is_hard: bool = False
) -> tuple[Mixture, np.longdouble]:
    """One EM iteration over rows with NaN, and Σ w ln p(observed) before it.

    With hard assignment Σ w max_k ln π_k p_k(observed).

    Ghahramani & Jordan (1994), section 3: full covariances, then averaged as the type asks.
    """
    x = extended(x)
    w = np.ones(len(x), np.longdouble) if row_weights is None else extended(row_weights)
    joint = incomplete_log_joint(x, model)
    largest = joint.max(axis=1)
    log_density = largest + np.log(np.exp(joint - largest[:, np.newaxis]).sum(axis=1))
    gamma = np.exp(joint - log_density[:, np.newaxis]) * w[:, np.newaxis]
    if is_hard:
        log_density = largest
        gamma = np.eye(len(model.weights))[joint.argmax(axis=1)] * w[:, np.newaxis]
    counts = gamma.sum(axis=0)
    means, matrices = [], []
    for k, (mean, matrix) in enumerate(zip(model.means, model.matrices, strict=True)):
        pairs = [completed(row, mean, matrix) for row in x]
        filled, spreads = np.stack([a for a, _ in pairs]), np.stack([b for _, b in pairs])
        g = gamma[:, k]
        moved = mean + g @ (filled - mean) / counts[k]
        deviations = filled - moved
        scatter = (g[:, np.newaxis] * deviations).T @ deviations + np.tensordot(g, spreads, 1)
        means.append(moved)
        matrices.append(scatter / counts[k])
    covariances = np.stack(matrices)
    d = x.shape[1]
    if model.covariance_type == "tied":
        shared = np.tensordot(counts / counts.sum(), covariances, 1)
        covariances = np.tile(shared, (len(counts), 1, 1))
    elif model.covariance_type != "full":
        variances = np.diagonal(covariances, axis1=1, axis2=2)
        variances = averaged(variances, counts, model.covariance_type)
        covariances = variances[:, :, np.newaxis] * np.eye(d)
    step = Mixture(
        model.covariance_type, counts / counts.sum(), np.stack(means), cholesky(covariances)
    )
    return step, (w * log_density).sum()


def distance(parameters: Any, model: Mixture) -> float:
    """Largest of |δπ|, |δμ_d| / √Σ_dd and |δΣ_ij| / √(Σ_ii Σ_jj)."""
    own = of(parameters)._replace(factors=model.factors)
    deviations = np.sqrt(np.diagonal(model.matrices, axis1=1, axis2=2))
    units = deviations[:, :, np.newaxis] * deviations[:, np.newaxis, :]
    # Of the covariances themselves, not of the product of the package's factors.
    covariances = as_matrices(extended(parameters.covariances), own.means, model.covariance_type)
    return float(
        max(
            np.abs(own.weights - model.weights).max(),
            (np.abs(own.means - model.means) / deviations).max(),
            (np.abs(covariances - model.matrices) / units).max(),
        )
    )
