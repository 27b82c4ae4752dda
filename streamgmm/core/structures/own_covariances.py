"""The operations of structures in which each component has its own covariance."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from streamgmm.core.structures.matrices import Array
from streamgmm.core.structures.structure import Components, CovarianceStructure, MergePairs
from streamgmm.options import CovarianceType

if TYPE_CHECKING:
    from streamgmm.core.parameters import Parameters


class OwnCovariances(CovarianceStructure):
    """Covariances, factors and bases of frames have an entry for each component."""

    def stacked(self, stored: Array, n_components: int, n_features: int) -> Array:
        return stored

    def stored(self, stacked: Array) -> Array:
        return stacked

    def taken(self, stored: Array, components: Components) -> Array:
        return stored[components]

    def replaced(self, stored: Array, components: Components, values: Array) -> Array:
        found = stored.copy()
        found[components] = values
        return found

    def without(self, stored: Array, component: int) -> Array:
        return np.delete(stored, component, axis=0)

    def pooled_type(self, covariance_type: CovarianceType) -> CovarianceType:
        return covariance_type

    def repeated(self, stored: Array, n_components: int) -> Array:
        return stored

    def pooled(self, parameters: "Parameters") -> tuple[Array, Array]:
        return parameters.covariances, parameters.factors

    def update_views(self, covariances: Array, factors: Array) -> tuple[Array, Array]:
        return covariances, factors

    def updated_components(self, updated: list[int], alive: Components) -> list[int]:
        return updated

    def to_coordinates(
        self, moments: Array, scatter: Array, n_features: int
    ) -> tuple[Array, Array]:
        return moments, np.empty(0)

    def from_coordinates(
        self, own: Array, shared: Array, weights: Array, n_features: int
    ) -> tuple[Array, Array]:
        return own, np.empty((0, 0))

    def n_own(self, n_features: int) -> int:
        return self.n_moments(n_features)

    def n_shared(self, n_features: int) -> int:
        return 0

    def average(self, covariances: Array, weights: Array) -> Array:
        found: Array = np.average(covariances, axis=0, weights=weights)
        return found

    def merging_costs(
        self, parameters: "Parameters", first: Components, second: Components, merged: MergePairs
    ) -> Array:
        weights = parameters.weights
        both = weights[first] + weights[second]
        own = 2.0 * self.log_determinants(parameters.stacked(parameters.factors))
        sizes = []
        for block in self.blocks_of_pairs(len(first), parameters.n_features):
            pairs = merged(first[block], second[block])
            sizes.append(2.0 * self.log_determinants(pairs.stacked(pairs.factors)))
        wide = np.concatenate(sizes)
        apart = weights[first] * own[first], weights[second] * own[second]
        found: Array = 0.5 * (both * wide - apart[0] - apart[1])
        return found

    def blocks_of_pairs(self, n_pairs: int, n_features: int) -> Iterable[slice]:
        """Split pairs of components into blocks of bounded memory."""
        return [slice(None)]
