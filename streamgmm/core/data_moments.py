"""Number, mean and covariance of rows, in the form that a covariance structure needs."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamgmm.core.feature_moments import FeatureMoments
from streamgmm.core.parameters import Parameters
from streamgmm.core.structures import STRUCTURES, Array
from streamgmm.options import CovarianceType

_BLOCK_ROWS = 4096


@dataclass(frozen=True, eq=False)
class DataMoments:
    """Number, mean and covariance of the rows that complete a prior.

    Attributes
    ----------
    n_rows : float
        Number of rows, or the sum of their weights.
    mean : ndarray of shape (D,)
    covariance : ndarray of shape (D, D), or (D,)
        Matrix; variances for diagonal and spherical structures, and for low rank.
    """

    n_rows: float
    mean: Array
    covariance: Array

    @classmethod
    def of(
        cls, rows: NDArray[Any], weights: Array, covariance_type: CovarianceType
    ) -> "DataMoments":
        """Return the moments of rows; each moment uses the rows that have the values it needs.

        Parameters
        ----------
        rows : ndarray of shape (m, D)
            NaN where a value is missing.
        weights : ndarray of shape (m,)
        covariance_type : {"full", "tied", "diag", "spherical", "tied_diag", "tied_spherical"}
        """
        d = rows.shape[1]
        blocks = [slice(i, i + _BLOCK_ROWS) for i in range(0, len(rows), _BLOCK_ROWS)]
        of_blocks = (
            FeatureMoments.of(rows[block].astype(np.float64).T, weights[block]) for block in blocks
        )
        columns = functools.reduce(FeatureMoments.merge, of_blocks)
        n_rows, mean = float(weights.sum()), columns.means
        if not STRUCTURES[covariance_type].has_directions:
            return cls(n_rows, mean, np.nan_to_num(columns.variances))
        scatter, pairs = np.zeros((d, d)), np.zeros((d, d))
        for block in blocks:
            deviations = rows[block] - mean
            seen = (~np.isnan(deviations)).astype(np.float64)
            deviations = np.nan_to_num(deviations, nan=0.0)
            scatter += (deviations.T * weights[block]) @ deviations
            pairs += (seen.T * weights[block]) @ seen
        covariance = np.divide(scatter, pairs, out=np.zeros_like(scatter), where=pairs > 0.0)
        if np.isnan(rows).any():
            covariance = _positive_part(covariance)
        return cls(n_rows, mean, covariance)

    @classmethod
    def of_mixtures(cls, parts: Sequence[tuple[Parameters, float]]) -> "DataMoments":
        """Return the moments of several mixtures together.

        Parameters
        ----------
        parts : sequence of (Parameters, float)
            Each mixture and the number of its rows; of one covariance type.
        """
        structure, d = parts[0][0].structure, parts[0][0].n_features
        n_rows = sum(weight for _, weight in parts)
        mean = sum(w * (own.weights @ own.means) for own, w in parts) / n_rows
        covariance = np.zeros((d, d) if structure.has_directions else d)
        for own, weight in parts:
            shares = weight / n_rows * own.weights
            apart = own.means - mean
            stacked = own.stacked(own.covariances)
            if not structure.has_directions:
                stacked = structure.variances(stacked)
            shape = own.n_components, *stacked.shape[1:]
            covariance += np.tensordot(shares, np.broadcast_to(stacked, shape), axes=1)
            covariance += (
                (apart.T * shares) @ apart
                if structure.has_directions
                else shares @ np.square(apart)
            )
        return cls(n_rows, np.asarray(mean), covariance)


def _positive_part(matrix: Array) -> Array:
    """Return a symmetric matrix without its negative eigenvalues.

    Moments of different rows need not belong to one distribution.
    """
    values, vectors = np.linalg.eigh(matrix)
    found: Array = (vectors * np.maximum(values, 0.0)) @ vectors.T
    return found
