"""Out of poor optima: one component is split where a mixture fits badly, two others merged.

EM never moves a component from a place where there are too many to one where there are too few.
Which move pays is estimated for all components at once, from rows in memory.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamgmm.algorithms.em import Fit, expectation_maximization
from streamgmm.algorithms.initialization import parameters_of_clusters, seed_clusters
from streamgmm.algorithms.reading import Reader, prepare
from streamgmm.core.covariance import Array
from streamgmm.core.expectation import Posterior
from streamgmm.core.frame import Frame
from streamgmm.core.parameters import Parameters
from streamgmm.core.reduction import merged_pairs, merging_bounds

# EM steps before the worth of halves is estimated, and before a new mixture is compared.
_STEPS_OF_PARTS, _STEPS = 4, 8
_ROUNDS = 8
# Of the rows, those explained worst, among which new components may begin; and how many of these.
_WORST, _BIRTHS = 1.0 / 32.0, 4


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows in memory, and a reader of them.

    Attributes
    ----------
    reader : Reader
    rows : ndarray of shape (m, D)
        NaN where a value is missing.
    weights : ndarray of shape (m,)
    """

    reader: Reader
    rows: Array
    weights: Array

    def posterior(self, parameters: Parameters) -> Posterior:
        """What a mixture says of each row."""
        frame = Frame.of(parameters, self.rows.dtype)
        prepared = prepare(parameters, frame, self.reader.source.missing)
        return prepared.posterior(self.rows, with_responsibilities=True)

    def mean(self, values: Array) -> Array:
        """Weighted means over rows of values (m, n): (n,)."""
        found: Array = self.weights @ values / self.weights.sum()
        return found


def move_components(
    rows: Rows, fit: Fit, *, reg_covar: float, random: np.random.RandomState
) -> Fit:
    """Split and merge components as long as this raises the log-likelihood of the rows.

    Parameters
    ----------
    rows : Rows
    fit : Fit
        Where to begin, after some steps of EM with these rows.
    reg_covar : float
    random : numpy.random.RandomState

    Returns
    -------
    Fit

    References
    ----------
    Ueda, Nakano, Ghahramani & Hinton (2000), SMEM algorithm for mixture models.
    """
    for _ in range(_ROUNDS):
        swaps = _promising_swaps(rows, fit.parameters, reg_covar, random)
        if not swaps.splits:
            break
        rival = _em(rows, fit.parameters, reg_covar)
        best = rival
        for n_swaps in sorted({len(swaps.splits), 1}, reverse=True):
            candidate = _em(rows, swaps.applied(fit.parameters, n_swaps), reg_covar)
            if candidate.log_likelihood > best.log_likelihood:
                best = candidate
                break
        fit = best
        if best is rival:
            break
    return fit


def _em(rows: Rows, start: Parameters, reg_covar: float, steps: int = _STEPS) -> Fit:
    return expectation_maximization(
        rows.reader, start, tol=0.0, max_iter=steps, reg_covar=reg_covar
    )


@dataclass(frozen=True, eq=False)
class _Swaps:
    """Moves that should pay, the best first.

    Attributes
    ----------
    parts : Parameters
        Components that others could be replaced by.
    splits : list of (component, replacing parts)
        A component without its own number is a new one.
    merges : list of (int, int)
        Pairs of components that make room.
    """

    parts: Parameters
    splits: list[tuple[int, tuple[int, ...]]]
    merges: list[tuple[int, int]]

    def applied(self, parameters: Parameters, n_swaps: int) -> Parameters:
        """The mixture after the first moves."""
        weights, means = parameters.weights.copy(), parameters.means.copy()
        covariances, factors = parameters.covariances.copy(), parameters.factors.copy()
        is_tied = parameters.covariance_type == "tied"
        for (k, parts), (i, j) in zip(self.splits[:n_swaps], self.merges[:n_swaps], strict=True):
            both = merged_pairs(parameters, np.array([i]), np.array([j]))
            replaced = [(i, both, 0, parameters.weights[i] + parameters.weights[j])]
            places = (k, j) if len(parts) == 2 else (j,)
            replaced += [
                (place, self.parts, part, self.parts.weights[part])
                for place, part in zip(places, parts, strict=True)
            ]
            for place, origin, part, weight in replaced:
                weights[place], means[place] = weight, origin.means[part]
                if not is_tied:
                    covariances[place] = origin.covariances[part]
                    factors[place] = origin.factors[part]
        return Parameters.create(
            parameters.covariance_type, weights / weights.sum(), means, covariances, factors
        )


def _promising_swaps(
    rows: Rows, parameters: Parameters, reg_covar: float, random: np.random.RandomState
) -> _Swaps:
    """Splits that gain more than the merges which make room for them cost."""
    posterior = rows.posterior(parameters)
    parts, gains = _splits(rows, parameters, posterior, reg_covar, random)
    pairs, costs = _merges(rows, parameters, posterior)
    taken: set[int] = set()
    splits: list[tuple[int, tuple[int, ...]]] = []
    merges: list[tuple[int, int]] = []
    cheapest = list(np.argsort(costs))
    k = parameters.n_components
    for split in np.argsort(-gains):
        if split < k and int(split) in taken:
            continue
        own = {int(split)} if split < k else set()
        pair = next(
            (p for p in cheapest if not {*pairs[p]} & (taken | own)),
            None,
        )
        if pair is None or not gains[split] > costs[pair]:
            # Another may still pay: the cheapest merge may be of the very component.
            continue
        replacing = (2 * int(split), 2 * int(split) + 1) if split < k else (k + int(split),)
        splits.append((int(split), replacing))
        merges.append(pairs[pair])
        taken |= own | {*pairs[pair]}
    return _Swaps(parts, splits, merges)


def _splits(
    rows: Rows,
    parameters: Parameters,
    posterior: Posterior,
    reg_covar: float,
    random: np.random.RandomState,
) -> tuple[Parameters, Array]:
    """Both halves of all components, then some new ones; and what each split or birth gains."""
    k = parameters.n_components
    labels = 2 * posterior.labels + _far_side(rows.rows, parameters, posterior.labels)
    n_births = min(_BIRTHS, len(rows.rows) // 64)
    if n_births:
        worst = np.argsort(posterior.scores)[: max(n_births, int(_WORST * len(rows.rows)))]
        labels[worst] = 2 * k + seed_clusters(
            rows.rows[worst], np.ones(len(worst)), n_births, random
        )
    start = parameters_of_clusters(
        rows.rows, rows.weights, labels, 2 * k + n_births, parameters.covariance_type, reg_covar
    )
    parts = _em(rows, start, reg_covar, _STEPS_OF_PARTS).parameters
    found = rows.posterior(parts)
    relative = np.exp(np.minimum(found.scores - posterior.scores, 50.0))[:, np.newaxis]
    densities = found.responsibilities * relative
    halves = densities[:, : 2 * k].reshape(-1, k, 2).sum(axis=2) - posterior.responsibilities
    changes = np.hstack([halves, densities[:, 2 * k :]])
    return parts, rows.mean(np.log1p(np.maximum(changes, -1.0 + 1e-12)))


def _merges(
    rows: Rows, parameters: Parameters, posterior: Posterior
) -> tuple[list[tuple[int, int]], Array]:
    """Each component with the one that it is merged with at least cost, and the costs."""
    bounds = merging_bounds(parameters)
    partners = np.argmin(bounds, axis=1)
    pairs = sorted({(min(i, j), max(i, j)) for i, j in enumerate(partners.tolist()) if i != j})
    if not pairs:
        return [], np.empty(0)
    first, second = (np.array(side) for side in zip(*pairs, strict=True))
    merged = merged_pairs(parameters, first, second)
    found = rows.posterior(merged)
    weight = (parameters.weights[first] + parameters.weights[second]).sum()
    relative = weight * np.exp(np.minimum(found.scores - posterior.scores, 50.0))[:, np.newaxis]
    shares = posterior.responsibilities
    changes = found.responsibilities * relative - shares[:, first] - shares[:, second]
    return pairs, -rows.mean(np.log1p(np.maximum(changes, -1.0 + 1e-12)))


def _far_side(rows: Array, parameters: Parameters, labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Whether rows lie above their component's mean along the longest axis of its rows, (m,)."""
    spread = np.nanstd(rows, axis=0)
    scales = np.where(spread > 0.0, spread, 1.0)
    residuals = np.nan_to_num((rows - parameters.means[labels]) / scales)
    sides = np.zeros(len(rows), dtype=np.int64)
    order = np.argsort(labels, kind="stable")
    stops = np.cumsum(np.bincount(labels, minlength=parameters.n_components))
    for own in np.split(order, stops[:-1]):
        members = residuals[own]
        axis = np.linalg.eigh(members.T @ members)[1][:, -1]
        sides[own] = members @ axis > 0.0
    return sides
