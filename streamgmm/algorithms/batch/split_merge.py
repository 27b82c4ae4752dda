"""Split and merge, to leave poor optima: split a component where the fit is bad, merge two others.

EM never moves a component from a region with too many components to one with too few. The gains of
splits and the costs of merges are estimated for all components at once, from rows in memory.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import scipy.special
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from streamgmm.algorithms.batch.em import Fit
from streamgmm.algorithms.batch.few_rows import ignore_run
from streamgmm.algorithms.batch.rows_in_memory import Part, Rows, taken_components
from streamgmm.algorithms.sampling.initialization import (
    empty_columns,
    ordered,
    parameters_of_clusters,
)
from streamgmm.core.e_step import Posterior
from streamgmm.core.frame import Frame
from streamgmm.core.mixtures.reduction import merged_pairs, merging_partners
from streamgmm.core.objective import Objective
from streamgmm.core.parameters import Parameters
from streamgmm.core.statistics import Statistics
from streamgmm.core.structures import Array, CovarianceStructure
from streamgmm.events import RoundDone, SampleStep

# EM steps before the gain of halves is estimated, and before a new mixture is compared; gain of a
# step of halves that is the last one, nats per row.
_STEPS_OF_PARTS, _STEPS, _SETTLED = 5, 5, 1e-6
#: Largest number of rounds.
MOST_ROUNDS = 32
# Number of swaps that are tried one by one, if all of them together do not pay.
_ALONE = 3
# New components begin among the worst explained rows: part of all rows, and largest number; then
# the number of new components, and least number of rows of one.
_WORST, _MOST_WORST, _BIRTHS, _ROWS_OF_BIRTH = 1.0 / 128.0, 1024, 4, 8
# Least number of rows per value that the rows have to determine.
_SUPPORT = 3.0
# Smaller shares in a row are negligible where components are compared; where new ones are fitted.
_SMALL_SHARE, _NO_SHARE = 1.0 / 64.0, 1e-6
# Rows to which halves of a component are fitted, and with which mergers are compared, for each
# moment, at most.
_ROWS_PER_MOMENT = 32
# Logarithms of ratios of densities, at least and at most; of densities, at least.
_LEAST_RATIO, _LARGEST_RATIO, _LEAST_SCORE = -690.0, 50.0, -1e300
# Largest number of features for which the longest axis is an eigenvector; number of power
# iterations for more features.
_MOST_EXACT_FEATURES, _POWER_ITERATIONS = 128, 16


@dataclass(frozen=True, eq=False)
class Moved:
    """A fit after rounds of splits and merges.

    Attributes
    ----------
    fit : Fit
    n_rounds : int
        Number of rounds that raised the objective.
    n_evaluations : int
        Evaluations of all components for each row.
    is_settled : bool
        Whether another round would not raise the objective.
    """

    fit: Fit
    n_rounds: int = 0
    n_evaluations: int = 0
    is_settled: bool = False


def split_and_merge(
    rows: Rows,
    moved: Moved,
    *,
    objective: Objective,
    most_evaluations: float = math.inf,
    most_rounds: int = MOST_ROUNDS,
) -> Moved:
    """Split and merge components as long as this raises the objective.

    Parameters
    ----------
    rows : Rows
    moved : Moved
        The fit to begin with, after some steps of EM with these rows, and the work that it has had.
    objective : Objective
        Without fixed parameters.
    most_evaluations : float
        Evaluations of all components for each row after which no other round begins.
    most_rounds : int
        Rounds after which no other begins.

    Returns
    -------
    moved : Moved

    References
    ----------
    Ueda, Nakano, Ghahramani & Hinton (2000), SMEM algorithm for mixture models.
    """
    while (
        not moved.is_settled
        and moved.n_rounds < most_rounds
        and moved.n_evaluations < most_evaluations
    ):
        moved = _after_round(rows, moved, objective)
    return moved


def _after_round(rows: Rows, moved: Moved, objective: Objective) -> Moved:
    """Return the fit after another round."""
    swaps = _promising_swaps(rows, moved.fit.parameters, objective)
    n_evaluations = moved.n_evaluations + 1
    if not swaps.splits:
        return replace(moved, n_evaluations=n_evaluations, is_settled=True)
    trials = _Trials(rows, moved.fit, objective)
    found = trials.best(swaps)
    fit = trials.rival if found is None else found
    n_evaluations += trials.n_evaluations
    rows.reader.notify(RoundDone(moved.n_rounds + 1, len(swaps.splits), fit.log_likelihood))
    if found is None:
        return Moved(fit, moved.n_rounds, n_evaluations, is_settled=True)
    return Moved(fit, moved.n_rounds + 1, n_evaluations)


class _Trials:
    """Mixtures after some swaps, each compared with more steps of EM without a swap.

    Parameters
    ----------
    rows : Rows
    fit : Fit
        The fit before the swaps.
    objective : Objective

    Attributes
    ----------
    n_evaluations : int
        Evaluations of all components for each row.
    """

    def __init__(self, rows: Rows, fit: Fit, objective: Objective) -> None:
        self._rows, self._fit, self._objective = rows, fit, objective
        self.n_evaluations = 0

    def best(self, swaps: "_Swaps") -> Fit | None:
        """Return the first mixture that is better than the one without a swap; None if none is."""
        least = self._worth(self._fit) + self._expected_gain
        for chosen in swaps.choices():
            start = swaps.applied(self._fit.parameters, chosen)
            found = self._counted(self._rows.short_run(start, _STEPS, objective=self._objective))
            worth = self._worth(found)
            # More steps of EM alone would hardly gain as much as expected.
            if worth > least or worth > self._worth_of_rival:
                return found
        return None

    @cached_property
    def rival(self) -> Fit:
        """The fit without a swap, after as many steps of EM."""
        return self._counted(self._rows.continued(self._fit, _STEPS, objective=self._objective))

    @cached_property
    def _worth_of_rival(self) -> float:
        return self._worth(self.rival)

    @property
    def _expected_gain(self) -> float:
        """What as many steps of EM would gain if each gained twice as much as the last step."""
        values = self._fit.values
        return 2.0 * _STEPS * (values[-1] - values[-2]) if len(values) > 1 else math.inf

    def _counted(self, fit: Fit) -> Fit:
        self.n_evaluations += fit.n_iterations
        return fit

    def _worth(self, fit: Fit) -> float:
        self.n_evaluations += 1
        return _worth(self._rows, fit)


def _worth(rows: Rows, fit: Fit) -> float:
    """Return the expected value of the objective on other rows, in nats per row."""
    weights = rows.weights
    if np.all(weights == weights[0]):
        shares = fit.parameters.weights
        masses = np.stack([shares, weights[0] * shares, shares])
    else:
        weights, found = rows.some_posterior(fit.parameters)
        masses = _masses(weights, found.responsibilities)
    return fit.value - float(_prices(rows, fit.parameters, masses).sum())


def _masses(weights: Array, responsibilities: Array) -> Array:
    """Return the sums over rows (n,), of weights w, of the components' γw, γw² and γ²w², (3, K)."""
    squares = np.square(weights)
    return np.stack(
        [
            weights @ responsibilities,
            squares @ responsibilities,
            squares @ np.square(responsibilities),
        ]
    )


def _prices(rows: Rows, parameters: Parameters, masses: Array) -> Array:
    """Return the gain of components on these rows that other rows would not show, (K,).

    It is one nat for each parameter, divided by the number of rows. Rows of small weight cost less
    (Akaike 1974; with weights in the form of Takeuchi).
    """
    mass, squares, _ = masses
    mean_weights = np.divide(squares, mass, out=np.zeros_like(mass), where=mass > 0.0)
    n_own = parameters.structure.n_moments(parameters.n_features)
    prices: Array = n_own * mean_weights / rows.weights.sum()
    return prices


@dataclass(frozen=True, eq=False)
class _Swaps:
    """Pairs of a split and a merge that should gain, the best first.

    Attributes
    ----------
    halves : Parameters
        Both halves of each component; their weights are those of the components.
    born : Parameters or None
        New components, with their weights among the others.
    splits : list of int
        Component that is replaced by its halves; K and larger numbers are new components.
    merges : list of (int, int)
        Pairs of components that make room; a component that is split comes first in its pair.
    """

    halves: Parameters
    born: Parameters | None
    splits: list[int]
    merges: list[tuple[int, int]]

    def choices(self) -> list[range]:
        """Return the swaps to try together: all of them, then the best ones alone."""
        n_swaps = len(self.splits)
        alone = [range(i, i + 1) for i in range(min(n_swaps, _ALONE))]
        return [range(n_swaps), *alone] if n_swaps > 1 else alone

    def applied(self, parameters: Parameters, chosen: Iterable[int]) -> Parameters:
        """Return the mixture after some of the swaps."""
        weights, means = parameters.weights.copy(), parameters.means.copy()
        structure = parameters.structure
        covariances, factors = parameters.covariances, parameters.factors
        for swap in chosen:
            i, j = self.merges[swap]
            both = merged_pairs(parameters, np.array([i]), np.array([j]))
            both = replace(both, weights=parameters.weights[[i, j]].sum(keepdims=True))
            replaced = [(i, both, 0), *self._replacing(self.splits[swap], j)]
            for index, origin, part in replaced:
                weights[index], means[index] = origin.weights[part], origin.means[part]
                own, one = np.array([index]), np.array([part])
                values = structure.taken(origin.covariances, one)
                covariances = structure.replaced(covariances, own, values)
                factors = structure.replaced(factors, own, structure.taken(origin.factors, one))
        mixture = Parameters.create(
            parameters.covariance_type, weights / weights.sum(), means, covariances, factors
        )
        return mixture.with_noise(parameters.noise)

    def _replacing(self, split: int, free: int) -> list[tuple[int, Parameters, int]]:
        """Return which component is replaced by which part of a mixture, for a split or a birth."""
        k = self.halves.n_components // 2
        if self.born is not None and split >= k:
            return [(free, self.born, split - k)]
        return [(split, self.halves, 2 * split), (free, self.halves, 2 * split + 1)]


def _promising_swaps(rows: Rows, parameters: Parameters, objective: Objective) -> _Swaps:
    """Return the splits that gain more than the cost of the merges that make room for them."""
    shares = _shares(rows, parameters)
    # Noise has no part in rows that are weighted by their responsibilities.
    without_noise = replace(objective, noise=None)
    part = rows.parts(parameters.covariance_type, without_noise)
    halves, gains_of_halves = _halves(rows, parameters, shares, without_noise, part)
    born, gains_of_births = _births(rows, parameters, shares, without_noise)
    gains = np.concatenate([gains_of_halves, gains_of_births])
    pairs, costs = _merges(rows, parameters, shares, part)
    taken: set[int] = set()
    splits: list[int] = []
    merges: list[tuple[int, int]] = []
    cheapest = list(np.argsort(costs))
    k = parameters.n_components
    for split in np.argsort(-gains).tolist():
        if split < k and split in taken:
            continue
        own = {split} if split < k else set()
        # If no other pair is left, the component's halves may replace it and one that is alike.
        pair = next(
            (p for barred in (taken | own, taken) for p in cheapest if not {*pairs[p]} & barred),
            None,
        )
        if pair is None or not gains[split] > costs[pair]:
            # A later split may still pay: the cheapest merge here may contain the component itself.
            continue
        splits.append(split)
        i, j = pairs[pair]
        merges.append((j, i) if split == j else (i, j))
        taken |= own | {i, j}
    return _Swaps(halves, born, splits, merges)


@dataclass(frozen=True, eq=False)
class _Shares:
    """The responsibilities of consequence of rows under a mixture, by component.

    Attributes
    ----------
    scores : ndarray of shape (m,)
        ln p(x) of all rows, nats.
    starts : ndarray of shape (K + 1,), int
        Where the responsibilities of each component begin, and where the last ones end.
    places : ndarray of shape (n,), int
        Rows of the responsibilities above a small one, in order for each component.
    values : ndarray of shape (n,)
        These responsibilities.
    """

    scores: Array
    starts: NDArray[np.intp]
    places: NDArray[np.intp]
    values: Array

    def members(self, component: int) -> tuple[NDArray[np.intp], Array]:
        """Return the rows in which a component has a share, (n,), and these shares, (n,)."""
        own = slice(self.starts[component], self.starts[component + 1])
        return self.places[own], self.values[own]

    def masses(self, weights: Array) -> Array:
        """Return the means over rows of weights w of the sums γw, γw² and γ²w², (3, K)."""
        sizes = np.diff(self.starts)
        components, own = np.repeat(np.arange(len(sizes)), sizes), weights[self.places]
        first, second = own * self.values, np.square(own) * self.values
        summed = (first, second, second * self.values)
        found: Array = np.stack([np.bincount(components, each, len(sizes)) for each in summed])
        found /= weights.sum()
        return found


def _shares(rows: Rows, parameters: Parameters) -> _Shares:
    """Return the responsibilities of all rows that are of consequence."""

    def of_block(weights: Array, found: Posterior) -> tuple[NDArray[Any], ...]:
        shares = found.responsibilities
        is_own = (shares > _SMALL_SHARE) & np.isfinite(found.scores)[:, np.newaxis]
        sizes = is_own.sum(axis=1)
        return found.scores, sizes, np.nonzero(is_own)[1], shares[is_own]

    parts = zip(*rows.of_blocks(parameters, of_block), strict=True)
    scores, sizes, components, values = (np.concatenate(part) for part in parts)
    k = parameters.n_components
    order = ordered(components, k)
    starts = np.concatenate([[0], np.cumsum(np.bincount(components, minlength=k))])
    return _Shares(scores, starts, np.repeat(np.arange(len(scores)), sizes)[order], values[order])


def _halves(
    rows: Rows, parameters: Parameters, shares: _Shares, objective: Objective, part: Part
) -> tuple[Parameters, Array]:
    """Return both halves of all components after some steps of EM, and the gain of each split.

    Both halves of a component are fitted to the rows of the component alone, each row with its
    responsibility. The gain is a lower bound: rows that halves take from other components are not
    counted.
    """
    k = parameters.n_components
    members = [shares.members(component) for component in range(k)]
    thinned = [_thinned(parameters, *one) for one in members]
    own = [(places, rows.weights[places] * share) for places, share, _ in thinned]
    halves = _begun_halves(rows, parameters, own, objective)
    halves = _fitted_halves(rows, halves, own, objective, part)
    pairs = halves.weights.reshape(k, 2)
    sums = pairs.sum(axis=1, keepdims=True)
    parts = np.divide(pairs, sums, out=np.full_like(pairs, 0.5), where=sums > 0.0)
    halves = replace(halves, weights=(parameters.weights[:, np.newaxis] * parts).ravel())
    gains, masses = np.full(k, -np.inf), np.zeros((3, 2 * k))
    posterior = rows.posterior_of(halves, part)
    for component, (places, share) in enumerate(members):
        which = _halves_of([component])
        if not (places.size and halves.weights[which].any()):
            continue
        weights = rows.weights[places] * share
        found = posterior(which, places)
        gains[component] = weights @ _log_ratios(
            found.scores - np.log(share), shares.scores[places]
        )
        of_halves = found.responsibilities
        squares = rows.weights[places] * weights
        masses[:, which] = (
            weights @ of_halves,
            squares @ of_halves,
            (squares * share) @ np.square(of_halves),
        )
    total = rows.weights.sum()
    masses /= total
    prices, is_supported = _prices(rows, halves, masses), _supported(rows, halves, masses)
    gains = gains / total - prices.reshape(k, 2).max(axis=1)
    return halves, np.where(is_supported.reshape(k, 2).all(axis=1), gains, -np.inf)


def _begun_halves(
    rows: Rows,
    parameters: Parameters,
    own: Sequence[tuple[NDArray[np.intp], Array]],
    objective: Objective,
) -> Parameters:
    """Return both halves of all components, which lie beside each other on its longest axis.

    Parameters
    ----------
    rows : Rows
    parameters : Parameters
    own : sequence of (ndarray of shape (n,), ndarray of shape (n,))
        The rows of each component, and their weights.
    objective : Objective
    """
    scales = parameters.structure.deviations(_mean_factor(parameters))
    places, weights = (np.concatenate(parts) for parts in zip(*own, strict=True))
    if not len(places) or rows.may_lack_values:
        # Rows without weight tell of columns of which these rows have no value.
        lacking = empty_columns(rows.rows[places])
        others = np.flatnonzero(~np.isnan(rows.rows[:, lacking]).all(axis=1))
        places = np.concatenate([places, others])
        weights = np.concatenate([weights, np.zeros(len(others))])
    # Halves are those of differences from the component's mean: beside rows far away, values that
    # are near each other would be lost in rounding.
    labels, stop = np.zeros(len(places), dtype=np.intp), 0
    values = rows.rows[places]
    for component, (_, own_weights) in enumerate(own):
        rows.on_part()
        start, stop = stop, stop + len(own_weights)
        values[start:stop] -= parameters.means[component]
        residuals = values[start:stop] / scales
        residuals *= np.sqrt(own_weights)[:, np.newaxis]
        if rows.may_lack_values:
            residuals[np.isnan(residuals)] = 0.0
        labels[start:stop] = 2 * component + (residuals @ longest_axis(residuals) > 0.0)
    values[stop:] -= parameters.means[0]
    k, covariance_type = parameters.n_components, parameters.covariance_type
    found = parameters_of_clusters(
        values,
        weights,
        labels,
        2 * k,
        covariance_type,
        objective,
        is_centred=True,
        spread=lambda: rows.rows[places],
    )
    return replace(found, means=found.means + np.repeat(parameters.means, 2, axis=0))


def _fitted_halves(
    rows: Rows,
    halves: Parameters,
    own: Sequence[tuple[NDArray[np.intp], Array]],
    objective: Objective,
    part: Part,
) -> Parameters:
    """Return the halves after some steps of EM, each pair with rows and weights of its component.

    Parameters
    ----------
    rows : Rows
    halves : Parameters
    own : sequence of (ndarray of shape (n,), ndarray of shape (n,))
        The rows of each component, and their weights.
    objective : Objective
    part : callable
        That of :meth:`Rows.parts`.
    """
    pooling = halves.structure.pooling
    if pooling is None or pooling.components:
        return _stepped(rows, halves, own, objective)
    fitted: list[int] = []
    fits: list[Parameters] = []
    others: list[int] = []
    for component, (places, weights) in enumerate(own):
        which = _halves_of([component])
        if not (len(places) and halves.weights[which].min() > 0.0):
            continue
        pair = taken_components(halves, which)
        few = part(places, weights, pair.n_components)
        if few is None:
            others.append(component)
            continue
        pair = replace(pair, weights=pair.weights / pair.weights.sum())
        fit = few.short_run(pair, _STEPS_OF_PARTS, _SETTLED, ignore_run)
        if fit is not None:
            fitted.append(component)
            fits.append(fit.parameters)
    rows.reader.notify(SampleStep("split and merge", 0))
    found = _replaced(halves, fitted, fits)
    if not others:
        return found
    pairs = taken_components(halves, _halves_of(others))
    stepped = _stepped(rows, pairs, [own[component] for component in others], objective)
    return _replaced(found, others, [stepped])


def _halves_of(components: Sequence[int]) -> NDArray[np.intp]:
    """Return the numbers of both halves of some components (n,), (2 n,)."""
    first = 2 * np.asarray(components, dtype=np.intp)
    return np.column_stack([first, first + 1]).ravel()


def _replaced(
    halves: Parameters, components: Sequence[int], found: Sequence[Parameters]
) -> Parameters:
    """Return the halves of all components, those of some replaced by others, in their order."""
    if not found:
        return halves
    which, structure = _halves_of(components), halves.structure
    weights, means = halves.weights.copy(), halves.means.copy()
    weights[which] = np.concatenate([one.weights for one in found])
    means[which] = np.concatenate([one.means for one in found])
    covariances = np.concatenate([one.covariances for one in found])
    factors = np.concatenate([one.factors for one in found])
    return Parameters(
        halves.covariance_type,
        weights,
        means,
        structure.replaced(halves.covariances, which, covariances),
        structure.replaced(halves.factors, which, factors),
    )


def _stepped(
    rows: Rows,
    halves: Parameters,
    own: Sequence[tuple[NDArray[np.intp], Array]],
    objective: Objective,
) -> Parameters:
    """Return the halves after some steps of EM with the kernels for many rows."""
    for _ in range(_STEPS_OF_PARTS):
        halves = _half_step(rows, halves, own, objective)
        rows.reader.notify(SampleStep("split and merge", 0))
    return halves


def _half_step(
    rows: Rows,
    halves: Parameters,
    own: Sequence[tuple[NDArray[np.intp], Array]],
    objective: Objective,
) -> Parameters:
    """Return the halves after a step of EM, each pair with rows and weights of its component.

    Components have different parts of their rows here, but only their halves share these.
    """
    frame = Frame.of(halves, rows.stored.dtype)
    prepared = rows.components_of(halves, frame)
    total = Statistics.zero(frame, halves.n_components)
    moments, scatter, weight, n_rows = total.moments, total.scatter, 0.0, 0
    for component, (places, weights) in enumerate(own):
        which = _halves_of([component])
        if len(places) and halves.weights[which].any():
            found = prepared(which).statistics(rows.stored[places], weights)
            moments[which] = found.moments
            scatter = scatter + found.scatter
            weight, n_rows = weight + found.weight, n_rows + found.n_rows
    found = replace(total, scatter=scatter, weight=weight, n_rows=n_rows)
    return objective.maximize(found, halves).parameters


def _births(
    rows: Rows, parameters: Parameters, shares: _Shares, objective: Objective
) -> tuple[Parameters | None, Array]:
    """Return new components among the worst explained rows, and the gain of each.

    They are fitted beside the mixture, which does not change.
    """
    n_worst = min(int(_WORST * len(rows.stored)), _MOST_WORST)
    if n_worst < _ROWS_OF_BIRTH:
        return None, np.empty(0)
    worst = np.argsort(shares.scores)[:n_worst]
    groups = dense_places(rows.rows[worst], parameters)
    if not groups:
        return None, np.empty(0)
    chosen = worst[np.concatenate(groups)]
    if rows.may_lack_values and empty_columns(rows.rows[chosen]).size:
        # These rows say nothing of a column.
        return None, np.empty(0)
    labels = np.repeat(np.arange(len(groups)), [len(own) for own in groups])
    born = parameters_of_clusters(
        rows.rows[chosen],
        rows.weights[chosen],
        labels,
        len(groups),
        parameters.covariance_type,
        objective,
    )
    total = rows.weights.sum()
    part = float(rows.weights[chosen].sum() / total)
    stored, weights, scores = rows.stored, rows.weights, shares.scores
    few = rows.few_for(len(groups))
    prepared = lru_cache(maxsize=1)(rows.prepared)
    for step in range(_STEPS_OF_PARTS):
        found = prepared(born).posterior(stored) if few is None else few.posterior(born)
        taken = weights * _taken(part, found.scores, scores)
        if step == 0:
            # Rows far from all new components are not evaluated again before the end.
            near = np.flatnonzero(taken > _NO_SHARE * weights)
            stored, weights, scores, taken = (
                values[near] for values in (stored, weights, scores, taken)
            )
            few = None if few is None else few.part(near, taken)
        fit = None if few is None else few.weighted(taken).short_run(born, 1, 0.0, ignore_run)
        if fit is not None:
            born = fit.parameters
        else:
            born = objective.maximize(prepared(born).statistics(stored, taken), born).parameters
        part = float(taken.sum() / total)
    few = rows.few_for(len(groups))
    if few is None:
        found = prepared(born).posterior(rows.stored, with_responsibilities=True)
    else:
        found = few.posterior(born)
    relative = part * np.exp(_log_ratios(found.scores, shares.scores))
    densities = found.responsibilities * relative[:, np.newaxis]
    weights = part * born.weights
    # The weights of the other components shrink to make room for the new weight.
    gains = rows.weights @ np.log1p(densities - weights) / total
    own = found.responsibilities * _taken(part, found.scores, shares.scores)[:, np.newaxis]
    masses = _masses(rows.weights, own) / total
    is_supported = _supported(rows, born, masses)
    gains = np.where(is_supported, gains - _prices(rows, born, masses), -np.inf)
    return replace(born, weights=weights), gains


def _log_ratios(own: Array, other: Array) -> Array:
    """Return logarithms of ratios of densities, within bounds, from logarithms of densities."""
    differences = np.maximum(own, _LEAST_SCORE) - np.maximum(other, _LEAST_SCORE)
    found: Array = np.clip(differences, _LEAST_RATIO, _LARGEST_RATIO)
    return found


def _taken(part: float, own: Array, other: Array) -> Array:
    """Return the responsibilities (m,) of new components with a part of all weight.

    Parameters
    ----------
    part : float
    own, other : ndarray of shape (m,)
        Logarithms of the density of the new components, and of that of the mixture.
    """
    odds = _log_ratios(own, other)
    with np.errstate(divide="ignore"):
        found: Array = scipy.special.expit(odds + np.log(part) - np.log1p(-part))
    return found


def dense_places(rows: Array, parameters: Parameters) -> list[NDArray[np.intp]]:
    """Return groups of rows (n, D) that lie as near to each other as those of one component do."""
    d = parameters.n_features
    centred = np.nan_to_num(rows - parameters.shares @ parameters.means)
    whitened = parameters.structure.solved_rows(centred, _mean_factor(parameters), 0)
    # Squared distances of two rows of a Gaussian: mean 2 D, variance 8 D.
    is_near = cdist(whitened, whitened, "sqeuclidean") < 2.0 * d + np.sqrt(8.0 * d)
    groups: list[NDArray[np.intp]] = []
    while len(groups) < _BIRTHS and is_near.size:
        counts = is_near.sum(axis=0)
        own_rows = np.flatnonzero(is_near[np.argmax(counts)])
        if len(own_rows) < _ROWS_OF_BIRTH:
            break
        groups.append(own_rows)
        is_near[own_rows] = is_near[:, own_rows] = False
    return groups


def _supported(rows: Rows, parameters: Parameters, masses: Array) -> NDArray[np.bool_]:
    """Return whether components have more rows than they could fit exactly, (K,).

    The number of rows is the effective number for unequal weights (Kish).
    """
    mass, _, squares = masses * rows.weights.sum()
    n_rows = np.divide(np.square(mass), squares, out=np.zeros_like(mass), where=squares > 0.0)
    supported: NDArray[np.bool_] = n_rows >= supporting_rows(
        parameters.structure, parameters.n_features
    )
    return supported


def supporting_rows(structure: CovarianceStructure, n_features: int) -> float:
    """Return the number of rows that a component needs for splits and merges to be of use.

    Each row has D values; a component of fewer rows can be fitted to whatever these are.
    """
    return _SUPPORT * structure.n_moments(n_features) / n_features


def _merges(
    rows: Rows, parameters: Parameters, shares: _Shares, part: Part
) -> tuple[list[tuple[int, int]], Array]:
    """Return each component with its partner of least merging cost, and the costs.

    A cost is an upper bound: it is of the rows in which one of the pair has a share.
    """
    partners = merging_partners(parameters)
    pairs = sorted({(min(i, j), max(i, j)) for i, j in enumerate(partners.tolist()) if i != j})
    if not pairs:
        return [], np.empty(0)
    first, second = (np.array(side) for side in zip(*pairs, strict=True))
    merged = merged_pairs(parameters, first, second)
    log_weight = math.log((parameters.weights[first] + parameters.weights[second]).sum() or 1.0)
    posterior = rows.posterior_of(merged, part)
    total = rows.weights.sum()
    costs = np.zeros(len(pairs))
    for number, (i, j) in enumerate(pairs):
        joint = _joint_share(shares.members(i), shares.members(j))
        places, own, step = _thinned(parameters, *joint)
        if not (places.size and merged.weights[number] > 0.0):
            continue
        scores = posterior(np.array([number]), places).scores
        ratios = _log_ratios(scores + log_weight, shares.scores[places])
        changes = np.maximum(np.exp(ratios) - own, -1.0 + 1e-12)
        costs[number] = -step * (rows.weights[places] @ np.log1p(changes)) / total
    prices = _prices(rows, parameters, shares.masses(rows.weights))
    return pairs, costs - np.minimum(prices[first], prices[second])


def _thinned(
    parameters: Parameters, places: NDArray[np.intp], shares: Array
) -> tuple[NDArray[np.intp], Array, int]:
    """Return rows enough for a component, from all over its own, and of how many each is one.

    Parameters
    ----------
    parameters : Parameters
    places : ndarray of shape (n,)
        The rows of a component.
    shares : ndarray of shape (n,)
        Its shares in them.
    """
    most = _ROWS_PER_MOMENT * parameters.structure.n_moments(parameters.n_features)
    step = max(-(-len(places) // most), 1)
    if step == 1:
        return places, shares, step
    return places[::step], shares[::step], step


def _joint_share(
    one: tuple[NDArray[np.intp], Array], other: tuple[NDArray[np.intp], Array]
) -> tuple[NDArray[np.intp], Array]:
    """Return the rows in which one of two components has a share, and the shares of both."""
    both = np.sort(np.concatenate([one[0], other[0]]))
    places = both[np.concatenate([[True], both[1:] != both[:-1]])[: len(both)]]
    share = np.zeros(len(places))
    for own, values in (one, other):
        share[np.searchsorted(places, own)] += values
    return places, share


def longest_axis(rows: Array) -> Array:
    """Return the direction (D,) in which rows (n, D) about the origin spread most.

    For many features it is the result of some power iterations, which need no matrix of features.
    If several directions are about equally long, it is a combination of them.
    """
    n_rows, n_features = rows.shape
    if n_features <= _MOST_EXACT_FEATURES:
        longest: Array = np.linalg.eigh(rows.T @ rows)[1][:, -1]
        return longest
    if not n_rows:
        return np.zeros(n_features)
    if n_rows < n_features:
        return _longest_combination(rows)
    axis: Array = rows[np.argmax(np.linalg.norm(rows, axis=1))]
    for _ in range(_POWER_ITERATIONS):
        length = np.linalg.norm(axis)
        if length == 0.0:
            break
        axis = (rows @ (axis / length)) @ rows
    return axis


def _longest_combination(rows: Array) -> Array:
    """Return the result of power iterations from products of all pairs of rows (n, D)."""
    products = rows @ rows.T
    parts = np.zeros(len(rows))
    parts[np.argmax(np.diagonal(products))] = 1.0
    for _ in range(_POWER_ITERATIONS):
        following = products @ parts
        length = np.linalg.norm(following)
        if length == 0.0:
            break
        parts = following / length
    axis: Array = parts @ rows
    return axis


def _mean_factor(parameters: Parameters) -> Array:
    """Return the factor of the covariance that components have on average, stacked."""
    stacked = parameters.stacked(parameters.factors)
    return parameters.structure.mean_factor(stacked, parameters.shares)
