"""Split and merge, to leave poor optima: split a component where the fit is bad, merge two others.

EM never moves a component from a region with too many components to one with too few. The gains of
splits and the costs of merges are estimated for all components at once, from rows in memory.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from streamgmm.algorithms.batch.em import Fit, expectation_maximization
from streamgmm.algorithms.batch.few_rows import FewRows, OnRun, ignore_run
from streamgmm.algorithms.reads.reader import Reader, prepare
from streamgmm.algorithms.sampling.initialization import parameters_of_clusters
from streamgmm.core.e_step import EStep, Posterior
from streamgmm.core.frame import Frame
from streamgmm.core.incomplete import IncompleteExpectation
from streamgmm.core.kernels.log_joint import NOISE
from streamgmm.core.mixtures.reduction import merged_pairs, merging_partners
from streamgmm.core.objective import Objective
from streamgmm.core.parameters import Parameters
from streamgmm.core.structures import Array, CovarianceStructure
from streamgmm.events import RoundDone
from streamgmm.protocols import Chunk, Job, Work

# A short run of EM ends with a step that gains less, in nats per row.
_SETTLED = 1e-6
# EM steps before the gain of halves is estimated, and before a new mixture is compared.
_STEPS_OF_PARTS, _STEPS = 8, 8
_ROUNDS = 8
# Number of swaps that are tried one by one, if all of them together do not pay.
_ALONE = 3
# New components begin among the worst explained rows: part of all rows, and largest number; then
# the number of new components, and least number of rows of one.
_WORST, _MOST_WORST, _BIRTHS, _ROWS_OF_BIRTH = 1.0 / 128.0, 1024, 4, 8
# Least number of rows per value that the rows have to determine.
_SUPPORT = 3.0
# Smaller shares in a row, and logarithms of smaller numbers, are negligible.
_SMALL_SHARE, _TINY = 1e-8, 1e-300
# Bytes of a block of responsibilities in a thread, with the arrays made from it; number of arrays
# of this size that are in memory at once.
_BLOCK_BYTES, _ARRAYS = 1 << 23, 6
# Largest number of features for which the longest axis is an eigenvector; number of power
# iterations for more features.
_MOST_EXACT_FEATURES, _POWER_ITERATIONS = 128, 16


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows in memory, and a reader of them.

    Attributes
    ----------
    reader : Reader
    stored : ndarray of shape (m, D)
        Rows in the type of the sample. NaN where a value is missing.
    weights : ndarray of shape (m,)
    few : FewRows, optional
        The rows again, if they are few.
    on_run : callable
        Is told of the runs of EM with few rows.
    """

    reader: Reader
    stored: NDArray[Any]
    weights: Array
    few: FewRows | None = None
    on_run: OnRun = ignore_run

    @cached_property
    def rows(self) -> Array:
        """The rows in float64."""
        return self.stored.astype(np.float64, copy=False)

    def prepared(self, parameters: Parameters) -> EStep | IncompleteExpectation:
        """Return a mixture prepared for these rows."""
        frame = Frame.of(parameters, self.stored.dtype)
        return prepare(parameters, frame, self.reader.source.missing)

    def short_run(self, start: Parameters, n_steps: int, *, objective: Objective) -> Fit:
        """Run EM with these rows for ``n_steps`` steps, or until the gain is negligible."""
        if self.few is not None and self.few.is_for(start.n_components):
            found = self.few.short_run(start, n_steps, _SETTLED, self.on_run)
            if found is not None:
                return found
        fit = expectation_maximization(
            self.reader, start, tol=_SETTLED, max_iter=n_steps, objective=objective
        )
        return fit.without_statistics()

    def means(
        self, mixtures: Sequence[Parameters], values: Callable[..., tuple[Array, ...]]
    ) -> list[Array]:
        """Return the weighted means over all rows.

        Parameters
        ----------
        mixtures : sequence of Parameters
        values : callable
            Takes the weights of some rows, (n,), and their posterior under each mixture. Returns
            weighted sums over these rows.
        """
        prepared = [self.prepared(parameters) for parameters in mixtures]
        n_components = sum(parameters.n_components for parameters in mixtures)
        size = max(1, _BLOCK_BYTES // (8 * _ARRAYS * n_components))

        def of_chunk(_: None, chunk: Chunk) -> _Sums:
            blocks = (chunk.part(start, start + size) for start in range(0, len(chunk.rows), size))
            return reduce(_Sums.merge, map(of_block, blocks))

        def of_block(block: Chunk) -> _Sums:
            found = (one.posterior(block.rows, with_responsibilities=True) for one in prepared)
            return _Sums(values(block.weights, *found))

        reader = self.reader
        work = Work(thread=_BLOCK_BYTES * 3 // 2, driver=reader.driver_bytes)
        sums = reader.executor.map_reduce(
            reader.source, Job(of_chunk, None, work), lambda event: None
        )
        total = self.weights.sum()
        return [one / total for one in sums.arrays]


@dataclass(frozen=True, eq=False)
class _Sums:
    """Sums over some rows.

    Attributes
    ----------
    arrays : tuple of ndarray
    """

    arrays: tuple[Array, ...]

    def merge(self, other: "_Sums") -> "_Sums":
        """Return the sums over the rows of both operands."""
        return _Sums(tuple(a + b for a, b in zip(self.arrays, other.arrays, strict=True)))


def move_components(rows: Rows, fit: Fit, *, objective: Objective) -> tuple[Fit, int]:
    """Split and merge components as long as this raises the objective.

    Parameters
    ----------
    rows : Rows
    fit : Fit
        The fit to begin with, after some steps of EM with these rows.
    objective : Objective
        Without fixed parameters.

    Returns
    -------
    fit : Fit
    n_rounds : int
        Number of rounds that raised the objective.

    References
    ----------
    Ueda, Nakano, Ghahramani & Hinton (2000), SMEM algorithm for mixture models.
    """
    for number in range(1, _ROUNDS + 1):
        swaps = _promising_swaps(rows, fit.parameters, objective)
        if not swaps.splits:
            return fit, number - 1
        rival = rows.short_run(fit.parameters, _STEPS, objective=objective)
        worth = _worth(rows, rival)
        candidates = (
            rows.short_run(swaps.applied(fit.parameters, chosen), _STEPS, objective=objective)
            for chosen in swaps.choices()
        )
        found = next((one for one in candidates if _worth(rows, one) > worth), None)
        fit = rival if found is None else found
        rows.reader.notify(RoundDone(number, len(swaps.splits), fit.log_likelihood))
        if found is None:
            return fit, number - 1
    return fit, _ROUNDS


def _worth(rows: Rows, fit: Fit) -> float:
    """Return the expected value of the objective on other rows, in nats per row."""
    (masses,) = rows.means(
        [fit.parameters], lambda weights, found: (_masses(weights, found.responsibilities),)
    )
    return fit.value - float(_prices(rows, fit.parameters, masses).sum())


def _masses(weights: Array, responsibilities: Array) -> Array:
    """Return the sums over rows (n,), of weights w, of the components' γw, γw² and γ²w², (3, K)."""
    squares = np.square(weights)
    return np.stack(
        [
            weights @ responsibilities,
            squares @ responsibilities,
            np.einsum("n,nk,nk->k", squares, responsibilities, responsibilities),
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
            (k, parts), (i, j) = self.splits[swap], self.merges[swap]
            both = merged_pairs(parameters, np.array([i]), np.array([j]))
            replaced = [(i, both, 0, parameters.weights[i] + parameters.weights[j])]
            indices = (k, j) if len(parts) == 2 else (j,)
            replaced += [
                (index, self.parts, part, self.parts.weights[part])
                for index, part in zip(indices, parts, strict=True)
            ]
            for index, origin, part, weight in replaced:
                weights[index], means[index] = weight, origin.means[part]
                own, one = np.array([index]), np.array([part])
                values = structure.taken(origin.covariances, one)
                covariances = structure.replaced(covariances, own, values)
                factors = structure.replaced(factors, own, structure.taken(origin.factors, one))
        mixture = Parameters.create(
            parameters.covariance_type, weights / weights.sum(), means, covariances, factors
        )
        return mixture.with_noise(parameters.noise)


def _promising_swaps(rows: Rows, parameters: Parameters, objective: Objective) -> _Swaps:
    """Return the splits that gain more than the cost of the merges that make room for them."""
    parts, gains = _splits(rows, parameters, objective)
    pairs, costs = _merges(rows, parameters)
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
            # A later split may still pay: the cheapest merge here may contain the component itself.
            continue
        replacing = (2 * int(split), 2 * int(split) + 1) if split < k else (k + int(split),)
        splits.append((int(split), replacing))
        merges.append(pairs[pair])
        taken |= own | {*pairs[pair]}
    return _Swaps(parts, splits, merges)


def _splits(rows: Rows, parameters: Parameters, objective: Objective) -> tuple[Parameters, Array]:
    """Return the halves of all components and some new ones, and each split's or birth's gain."""
    k = parameters.n_components
    parts = _parts(rows, parameters, objective)
    halves, births = slice(2 * k), slice(2 * k, None)
    own_weights = parts.weights[halves].reshape(k, 2).sum(axis=1)
    factors = np.divide(parameters.weights, own_weights, out=np.ones(k), where=own_weights > 0.0)

    def values(weights: Array, one: Posterior, found: Posterior) -> tuple[Array, ...]:
        relative = _relative_densities(found, one)
        halves_of = found.responsibilities[:, halves].reshape(-1, k, 2)
        born = found.responsibilities[:, births] * relative
        return (
            _gains_of_halves(weights, one.responsibilities, factors, halves_of, relative[:, 0]),
            # The weights of the other components shrink to make room for the new weight.
            weights @ np.log1p(born - parts.weights[births]),
            _masses(weights, found.responsibilities),
        )

    gains_of_halves, gains_of_births, masses = rows.means([parameters, parts], values)
    prices, is_supported = _prices(rows, parts, masses), _supported(rows, parts, masses)
    gains = np.concatenate(
        [
            gains_of_halves - prices[halves].reshape(k, 2).max(axis=1),
            gains_of_births - prices[births],
        ]
    )
    can_be = np.concatenate([is_supported[halves].reshape(k, 2).all(axis=1), is_supported[births]])
    return parts, np.where(can_be, gains, -np.inf)


def _parts(rows: Rows, parameters: Parameters, objective: Objective) -> Parameters:
    """Return both halves of all components, then some new ones, after some steps of EM."""
    k = parameters.n_components
    posterior = rows.prepared(parameters).posterior(rows.stored)
    is_in_half = posterior.labels != NOISE
    labels = np.full(len(posterior.labels), NOISE)
    own_labels = posterior.labels[is_in_half]
    labels[is_in_half] = 2 * own_labels + _far_side(rows.rows[is_in_half], parameters, own_labels)
    worst = np.argsort(posterior.scores)[: min(int(_WORST * len(labels)), _MOST_WORST)]
    dense = dense_places(rows.rows[worst], parameters)
    for birth, own in enumerate(dense):
        labels[worst[own]] = 2 * k + birth
    used = labels != NOISE
    start = parameters_of_clusters(
        rows.rows[used],
        rows.weights[used],
        labels[used],
        2 * k + len(dense),
        parameters.covariance_type,
        objective,
    )
    return rows.short_run(start, _STEPS_OF_PARTS, objective=objective).parameters


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


def _gains_of_halves(
    weights: Array, shares: Array, factors: Array, halves: Array, relative: Array
) -> Array:
    """Return a lower bound on the gain of replacing each component by its halves, (K,).

    It is the expected gain, summed over rows, with unchanged responsibilities, as in EM: rows that
    halves take from other components are not counted.

    Parameters
    ----------
    weights : ndarray of shape (n,)
    shares : ndarray of shape (n, K)
        Responsibilities of components.
    factors : ndarray of shape (K,)
        Weights of components over those of both halves.
    halves : ndarray of shape (n, K, 2)
        Responsibilities in the mixture of halves.
    relative : ndarray of shape (n,)
        Densities under that mixture over those under the components' mixture.
    """
    # Only shares that matter: logarithms of all would take most of the time.
    rows, components = np.nonzero(shares > _SMALL_SHARE)
    own = shares[rows, components]
    replaced = halves[rows, components].sum(axis=1) * relative[rows] * factors[components]
    gains = own * np.log(np.maximum(replaced, _TINY) / own)
    summed: Array = np.bincount(components, weights[rows] * gains, len(factors)).astype(np.float64)
    return summed


def _merges(rows: Rows, parameters: Parameters) -> tuple[list[tuple[int, int]], Array]:
    """Return each component with its partner of least merging cost, and the costs."""
    partners = merging_partners(parameters)
    pairs = sorted({(min(i, j), max(i, j)) for i, j in enumerate(partners.tolist()) if i != j})
    if not pairs:
        return [], np.empty(0)
    first, second = (np.array(side) for side in zip(*pairs, strict=True))
    merged = merged_pairs(parameters, first, second)
    weight = (parameters.weights[first] + parameters.weights[second]).sum()

    def values(weights: Array, one: Posterior, found: Posterior) -> tuple[Array, ...]:
        relative = weight * _relative_densities(found, one)
        shares = one.responsibilities
        changes = found.responsibilities * relative - shares[:, first] - shares[:, second]
        gains = np.log1p(np.maximum(changes, -1.0 + 1e-12))
        return weights @ gains, _masses(weights, shares)

    gains, masses = rows.means([parameters, merged], values)
    prices = _prices(rows, parameters, masses)
    return pairs, -gains - np.minimum(prices[first], prices[second])


def _relative_densities(one: Posterior, other: Posterior) -> Array:
    """Return densities of rows over those under another mixture, (m, 1); 1 where both are 0."""
    differences = np.maximum(one.scores, -1e300) - np.maximum(other.scores, -1e300)
    found: Array = np.exp(np.minimum(differences, 50.0))[:, np.newaxis]
    return found


def _far_side(rows: Array, parameters: Parameters, labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return whether rows lie above their component's mean along its longest axis, (m,)."""
    scales = parameters.structure.deviations(_mean_factor(parameters))
    residuals = np.nan_to_num((rows - parameters.means[labels]) / scales)
    sides = np.zeros(len(rows), dtype=np.int64)
    order = np.argsort(labels, kind="stable")
    stops = np.cumsum(np.bincount(labels, minlength=parameters.n_components))
    for own in np.split(order, stops[:-1]):
        members = residuals[own]
        sides[own] = members @ longest_axis(members) > 0.0
    return sides


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
    axis: Array = rows[np.argmax(np.linalg.norm(rows, axis=1))]
    for _ in range(_POWER_ITERATIONS):
        length = np.linalg.norm(axis)
        if length == 0.0:
            break
        axis = (rows @ (axis / length)) @ rows
    return axis


def _mean_factor(parameters: Parameters) -> Array:
    """Return the factor of the covariance that components have on average, stacked."""
    stacked = parameters.stacked(parameters.factors)
    return parameters.structure.mean_factor(stacked, parameters.shares)
