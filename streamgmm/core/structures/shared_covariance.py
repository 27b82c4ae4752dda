"""The operations of structures in which all components have the same covariance."""

from typing import TYPE_CHECKING

import numpy as np

from streamgmm.core.structures.matrices import Array
from streamgmm.core.structures.scale_structure import ScaleStructure
from streamgmm.core.structures.structure import (
    Components,
    CovarianceStructure,
    MergePairs,
)

if TYPE_CHECKING:
    from streamgmm.core.parameters import Parameters


class SharedCovariance(CovarianceStructure):
    """One covariance and one factor for all components."""

    def taken(self, stored: Array, components: Components) -> Array:
        return stored

    def replaced(self, stored: Array, components: Components, values: Array) -> Array:
        return np.array(stored)

    def without(self, stored: Array, component: int) -> Array:
        return stored

    def average(self, covariances: Array, weights: Array) -> Array:
        return covariances

    def n_own(self, n_features: int) -> int:
        return 1 + n_features

    def resolution(self, rounding: Array) -> Array:
        found: Array = rounding.min(axis=0, keepdims=True)
        return found

    def update_views(self, covariances: Array, factors: Array) -> tuple[Array, Array]:
        return covariances[np.newaxis], factors[np.newaxis]

    def updated_components(self, updated: list[int], alive: Components) -> list[int]:
        return alive.tolist() if updated else []

    def merging_costs(
        self, parameters: "Parameters", first: Components, second: Components, merged: MergePairs
    ) -> Array:
        # Merging widens the shared covariance: ½ π_i π_j / (π_i + π_j) d² to first order.
        weights = parameters.weights
        both = weights[first] + weights[second]
        apart = parameters.means[first] - parameters.means[second]
        moved = self.scaled_rows(apart, parameters.stacked(parameters.inverse_factors), 0)
        costs = 0.5 * weights[first] * weights[second] * np.square(moved).sum(axis=1)
        found: Array = np.divide(costs, both, out=np.zeros_like(costs), where=both > 0.0)
        return found

    def merged_pairs(
        self,
        parameters: "Parameters",
        share: Array,
        apart: Array,
        first: Components,
        second: Components,
    ) -> tuple[Array, Array]:
        return parameters.covariances, parameters.factors


class PooledScales(SharedCovariance, ScaleStructure):
    """Standard deviations that all components share.

    Statistics hold second moments by component. The M-step and the gradient use their sums.
    """

    def for_sklearn(self, stored: Array, n_components: int) -> Array:
        return self.repeated(stored, n_components)

    def to_coordinates(
        self, moments: Array, scatter: Array, n_features: int
    ) -> tuple[Array, Array]:
        first = 1 + n_features
        return moments[:, :first], moments[:, first:].sum(axis=0)

    def from_coordinates(
        self, own: Array, shared: Array, weights: Array, n_features: int
    ) -> tuple[Array, Array]:
        # Only the sums matter, so any division among the components is right.
        return np.hstack([own, weights[:, np.newaxis] * shared]), np.empty((0, 0))
