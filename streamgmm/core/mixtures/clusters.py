"""Clusters of components: which components describe one cluster together.

A cluster that is not Gaussian takes several components. The entropy of the assignment of rows
measures how much components overlap. Components are merged pair by pair, each time the pair that
lowers the entropy most. The parameters of the mixture stay as they are.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import scipy.special
from numpy.typing import ArrayLike, NDArray

from streamgmm.core.structures import Array
from streamgmm.errors import ParameterError

#: The numbers of two clusters that are merged; the components are the first clusters.
Merge = tuple[int, int]

# A share that is smaller adds less than 1e-12 nats to any sum of a row.
_LEAST_SHARE = 1e-14
# Overlap of two halves of a component; clusters that overlap less than the other are apart.
_SAME, _APART = 1.0, 0.01


@dataclass(frozen=True, eq=False)
class MergedComponents:
    """Components that were merged into clusters, and how.

    Attributes
    ----------
    tree : ndarray of shape (K - 1, 2), int64
        The clusters that each step merges. Numbers below K are components; K + i is the cluster
        that step i made.
    entropies : ndarray of shape (K,)
        Entropy of the assignment of the rows to 1, 2, …, K clusters, in nats. Noise, if the mixture
        has any, counts as one more.
    overlaps : ndarray of shape (K - 1,)
        How much the two clusters that each step merges overlap: what the merge takes from the
        entropy, as a part of the entropy of their sizes. 0 if each row is certain to belong to one
        of the two, 1 if the rows do not tell the two apart.
    clusters : ndarray of shape (K,), int64
        Cluster of each component. Clusters are numbered by their first component.
    """

    tree: NDArray[np.int64]
    entropies: Array
    overlaps: Array
    clusters: NDArray[np.int64]

    @property
    def n_clusters(self) -> int:
        """Number of clusters."""
        return int(self.clusters.max()) + 1

    def cut(self, n_clusters: int) -> "MergedComponents":
        """Return the same tree with another number of clusters.

        Parameters
        ----------
        n_clusters : int
            From 1 to the number of components.

        Returns
        -------
        MergedComponents

        Raises
        ------
        ParameterError
            If the number of clusters is not possible.

        Examples
        --------
        >>> import numpy as np
        >>> from streamgmm import GaussianMixture
        >>> X = np.random.default_rng(0).normal(size=(300, 1)) + [[0], [9], [18]] * 100
        >>> merged = GaussianMixture(3, random_state=0).fit(X).merged_components()
        >>> merged.cut(1).clusters
        array([0, 0, 0])
        """
        require_clusters(n_clusters, len(self.entropies))
        return replace(self, clusters=_clusters(self.tree, n_clusters))

    def relabel(self, labels: ArrayLike) -> NDArray[np.int64]:
        """Return the cluster of each row from its component.

        Parameters
        ----------
        labels : array-like of int
            Components, as ``predict`` returns them. Negative labels, of rows without a component,
            stay.

        Returns
        -------
        clusters : ndarray of int64

        Examples
        --------
        >>> import numpy as np
        >>> from streamgmm import GaussianMixture
        >>> X = np.random.default_rng(0).normal(size=(300, 1)) + [[0], [9], [18]] * 100
        >>> gm = GaussianMixture(3, random_state=0).fit(X)
        >>> gm.merged_components(n_clusters=1).relabel([2, 0, -1])
        array([ 0,  0, -1])
        """
        given = np.asarray(labels, dtype=np.int64)
        return np.where(given < 0, given, self.clusters[np.maximum(given, 0)])


def require_clusters(n_clusters: int, n_components: int) -> None:
    """Refuse a number of clusters that components cannot be merged into.

    Raises
    ------
    ParameterError
    """
    is_number = isinstance(n_clusters, int | np.integer) and not isinstance(n_clusters, bool)
    if not is_number or not 1 <= n_clusters <= n_components:
        raise ParameterError(
            f"n_clusters is {n_clusters!r}; give an int from 1 to {n_components}, the number of "
            "components"
        )


def merged_components(
    tree: Sequence[Merge],
    entropies: Array,
    gains: Sequence[float],
    counts: Array,
    n_clusters: int | None,
) -> MergedComponents:
    """Return components with a tree of merges as clusters.

    Parameters
    ----------
    tree : sequence of (int, int)
    entropies : ndarray of shape (K,)
    gains : sequence of float
        What each merge takes from the entropy.
    counts : ndarray of shape (K,)
        Rows of the components, or the sums of their weights.
    n_clusters : int or None
        None for the elbow of the overlaps.
    """
    merges = np.array(tree, dtype=np.int64).reshape(-1, 2)
    overlaps = _overlaps(merges, np.array(gains), counts)
    if n_clusters is None:
        n_clusters = elbow(overlaps)
    return MergedComponents(merges, entropies, overlaps, _clusters(merges, n_clusters))


def _overlaps(tree: NDArray[np.int64], gains: Array, counts: Array) -> Array:
    """Return what each merge takes from the entropy, as a part of what it could take at most."""
    sizes = counts.tolist()
    most = np.empty(len(tree))
    for step, (i, j) in enumerate(tree.tolist()):
        sizes.append(sizes[i] + sizes[j])
        most[step] = float(
            _h(np.array(sizes[-1])) - _h(np.array(sizes[i])) - _h(np.array(sizes[j]))
        )
    # A component without rows overlaps with none.
    found = np.divide(gains, most, out=np.zeros_like(most), where=most > 0.0)
    return np.clip(found, 0.0, 1.0)


def elbow(overlaps: Array) -> int:
    """Return the number of clusters beyond which the clusters that are merged are apart.

    The entropy against what each merge could take from it at most is a curve whose slopes are the
    overlaps: two lines fit it, a steep one where merges join components of one cluster, and a flat
    one where they join clusters. The number of clusters is that for which two levels fit the
    logarithms of the overlaps best; they are bounded by 0.01 from below. Before the first overlap
    stands 1, which two halves of a component have, and after the last one 0.01: so that all
    components may be one cluster, or none may be merged.

    Parameters
    ----------
    overlaps : ndarray of shape (K - 1,)
        Of the merges into K - 1, K - 2, …, 1 clusters.

    Returns
    -------
    int
        From 1 to K.

    References
    ----------
    Baudry, Raftery, Celeux, Lo & Gottardo (2010), Combining mixture components for clustering:
    lines are fitted to the entropy against the number of clusters, or of rows that are merged.
    """
    return min(range(len(overlaps) + 1, 0, -1), key=lambda n: _residual(overlaps, n))


def _residual(overlaps: Array, n_clusters: int) -> float:
    """Return the sum of squares that two levels leave of the logarithms of the overlaps."""
    known = np.log(np.concatenate([[_SAME], np.maximum(overlaps, _APART), [_APART]]))
    joined, apart = np.split(known, [len(overlaps) + 2 - n_clusters])
    return float(sum(np.square(part - part.mean()).sum() for part in (joined, apart)))


def _clusters(tree: NDArray[np.int64], n_clusters: int) -> NDArray[np.int64]:
    """Return the cluster of each component, numbered by the first component."""
    n_components = len(tree) + 1
    members = {k: [k] for k in range(n_components)}
    for step, (i, j) in enumerate(tree[: n_components - n_clusters].tolist(), n_components):
        members[step] = members.pop(i) + members.pop(j)
    clusters = np.empty(n_components, dtype=np.int64)
    for number, own in enumerate(sorted(members.values(), key=min)):
        clusters[own] = number
    return clusters


@dataclass(frozen=True, eq=False)
class MergeGains:
    """Decrease of the entropy of some rows by merging pairs of clusters; a monoid.

    Attributes
    ----------
    gains : ndarray of shape (2 K - 1, 2 K - 1)
        Σ w [h(γ_i + γ_j) - h(γ_i) - h(γ_j)] with h(t) = t ln t, for the pairs of clusters that a
        tree has beside each other; in nats.
    entropy : float
        Of the assignment to components.
    counts : ndarray of shape (K,)
        Sums of the weights of the rows of each component.
    """

    gains: Array
    entropy: float
    counts: Array

    def merge(self, other: "MergeGains") -> "MergeGains":
        """Return the gains for the rows of both."""
        return MergeGains(
            self.gains + other.gains, self.entropy + other.entropy, self.counts + other.counts
        )

    def followed(self, tree: Sequence[Merge], n_known: int) -> tuple[list[Merge], list[float]]:
        """Follow a tree as long as each of its merges is that of the largest gain.

        Parameters
        ----------
        tree : sequence of (int, int)
            That the gains were found for.
        n_known : int
            Merges that were found before.

        Returns
        -------
        merges : list of (int, int)
            Those that are known now. The last one differs from that of the tree if the tree is
            left.
        gains : list of float
            Those of the merges that were not known before.
        """
        n_components = (len(self.gains) + 1) // 2
        numbers, merges = list(range(n_components)), list(tree[:n_known])
        for step, merge in enumerate(merges, n_components):
            numbers = [number for number in numbers if number not in merge] + [step]
        found: list[float] = []
        while len(numbers) > 1:
            own = self.gains[np.ix_(numbers, numbers)]
            i, j = _best_pair(own)
            merge = numbers[i], numbers[j]
            step = n_components + len(merges)
            numbers = [number for number in numbers if number not in merge] + [step]
            is_followed = merge == tree[len(merges)]
            merges.append(merge)
            found.append(float(own[i, j]))
            if not is_followed:
                break
        return merges, found


def merge_gains(
    responsibilities: Array,
    weights: Array,
    tree: Sequence[Merge],
    n_known: int,
    has_noise: bool = False,
) -> MergeGains:
    """Return what the merges of a tree, and all others beside them, take from the entropy of rows.

    Parameters
    ----------
    responsibilities : ndarray of shape (n, K)
    weights : ndarray of shape (n,)
    tree : sequence of (int, int)
        Merges of all components into one cluster.
    n_known : int
        Merges whose gains are not asked for.
    has_noise : bool
        Whether what responsibilities lack to 1 is that of noise. It is part of the entropy, and
        never merged.
    """
    n_components = responsibilities.shape[1]
    gains = np.zeros((2 * n_components - 1, 2 * n_components - 1))
    shares = _Shares(responsibilities, weights)
    entropy = shares.entropy
    if has_noise:
        entropy -= float(weights @ _h(np.clip(1.0 - responsibilities.sum(axis=1), 0.0, 1.0)))
    for merge in tree[:n_known]:
        shares.merge(merge)

    def keep(place: int) -> None:
        number, before = shares.numbers[place], shares.numbers[:place]
        gains[number, before] = gains[before, number] = shares.gains(place)

    for place in range(1, len(shares.numbers)):
        keep(place)
    for merge in tree[n_known:]:
        shares.merge(merge)
        keep(len(shares.numbers) - 1)
    return MergeGains(gains, entropy, weights @ responsibilities)


def greedy_tree(responsibilities: Array, weights: Array, begun: Sequence[Merge]) -> list[Merge]:
    """Complete a tree by merging, each time, the pair that lowers the entropy most.

    Parameters
    ----------
    responsibilities : ndarray of shape (n, K)
    weights : ndarray of shape (n,)
    begun : sequence of (int, int)
        The first merges.
    """
    shares = _Shares(responsibilities, weights)
    for merge in begun:
        shares.merge(merge)
    tree = list(begun)
    gains = np.zeros((len(shares.numbers), len(shares.numbers)))
    for place in range(1, len(gains)):
        gains[place, :place] = gains[:place, place] = shares.gains(place)
    while len(shares.numbers) > 1:
        i, j = _best_pair(gains)
        merge = shares.numbers[i], shares.numbers[j]
        shares.merge(merge)
        tree.append(merge)
        kept = np.delete(np.arange(len(gains)), [i, j])
        own = shares.gains(len(kept))
        gains = np.pad(gains[np.ix_(kept, kept)], (0, 1))
        gains[-1, :-1] = gains[:-1, -1] = own
    return tree


def _best_pair(gains: Array) -> tuple[int, int]:
    """Return the places of the two clusters of largest gain; of equal gains the first pair."""
    first, second = np.triu_indices(len(gains), 1)
    best = int(np.argmax(gains[first, second]))
    return int(first[best]), int(second[best])


class _Shares:
    """Shares of clusters in rows, while clusters are merged.

    Parameters
    ----------
    responsibilities : ndarray of shape (n, K)
    weights : ndarray of shape (n,)
    """

    def __init__(self, responsibilities: Array, weights: Array) -> None:
        #: Numbers of the clusters, in the order of the lines.
        self.numbers = list(range(responsibilities.shape[1]))
        self._n_made = len(self.numbers)
        self._weights = weights
        # Lines of memory, one for each cluster.
        self._shares = list(np.ascontiguousarray(responsibilities.T))
        self._terms = [_h(line) for line in self._shares]

    @property
    def entropy(self) -> float:
        """Entropy of the assignment of the rows."""
        return -float(sum(self._weights @ line for line in self._terms))

    def merge(self, merge: Merge) -> None:
        """Replace two clusters by one, which comes last."""
        i, j = sorted(self.numbers.index(number) for number in merge)
        own = self._shares[i] + self._shares[j]
        for lines, line in ((self._shares, own), (self._terms, _h(own))):
            del lines[j], lines[i]
            lines.append(line)
        del self.numbers[j], self.numbers[i]
        self.numbers.append(self._n_made)
        self._n_made += 1

    def gains(self, place: int) -> Array:
        """Return what merging a cluster with each one before it takes from the entropy."""
        rows = np.flatnonzero(self._shares[place] > _LEAST_SHARE)
        own, term = self._shares[place][rows], self._terms[place][rows]
        weights = self._weights[rows]
        return np.array(
            [
                weights @ (_h(own + share[rows]) - term - other[rows])
                for share, other in zip(self._shares[:place], self._terms[:place], strict=True)
            ]
        )


def _h(shares: Array) -> Array:
    return np.asarray(scipy.special.xlogy(shares, shares), dtype=np.float64)
