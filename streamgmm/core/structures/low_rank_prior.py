"""Conjugate priors of mixtures of low rank: pseudo-rows in the coordinates of a frame.

Pseudo-rows of a covariance are rows whose factors are not observed either, so an EM step of factor
analysis on the moments of all rows together increases the likelihood times the prior.

References
----------
Fraley & Raftery (2007), Bayesian regularization for normal mixture estimation and model-based
clustering, Journal of Classification 24.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import scipy.special
from numpy.typing import NDArray

from streamgmm.core.structures.low_rank_factors import joined, loadings_of, noise_variances_of
from streamgmm.core.structures.low_rank_moments import BasisMoments
from streamgmm.core.structures.matrices import Array
from streamgmm.errors import ParameterError

if TYPE_CHECKING:
    from streamgmm.core.objective import PseudoRows
    from streamgmm.core.parameters import Parameters
    from streamgmm.core.statistics import Statistics


@dataclass(frozen=True, eq=False)
class LowRankPriorRows:
    """The pseudo-rows of a prior for a mixture of low rank.

    Attributes
    ----------
    parameters : Parameters
    weights, means : ndarray of shape (K,)
    centres : ndarray of shape (K, D)
    covariances : ndarray of shape (K,)
    scatter : ndarray of shape (K, D)
        Diagonals of the scatter.
    """

    parameters: "Parameters"
    weights: Array
    means: Array
    centres: Array
    covariances: Array
    scatter: Array

    @classmethod
    def of(cls, rows: "PseudoRows", parameters: "Parameters") -> "LowRankPriorRows":
        """Return the pseudo-rows of a prior for a mixture.

        Raises
        ------
        ParameterError
            If the scatter is not a diagonal, or one for each component.
        """
        k, d = parameters.means.shape
        shape = np.shape(rows.scatter)
        if shape not in ((d,), (k, d)) and np.any(rows.scatter):
            raise ParameterError(
                f"the scatter of the prior has shape {shape}; with covariance_type='low_rank' give "
                f"a diagonal of shape {(d,)}, or one for each component: {(k, d)}"
            )
        return cls(
            parameters,
            np.full(k, rows.weights, dtype=np.float64),
            np.full(k, rows.means, dtype=np.float64),
            np.broadcast_to(np.asarray(rows.centres, dtype=np.float64), (k, d)),
            np.full(k, rows.covariances, dtype=np.float64),
            np.broadcast_to(np.asarray(rows.scatter, dtype=np.float64), (k, d)),
        )

    def log_density(self) -> float:
        """Return the log density of the parameters, in nats."""
        own, structure = self.parameters, self.parameters.structure
        inverse = own.inverse_factors
        apart = structure.product(inverse, self.centres - own.means)
        return float(
            scipy.special.xlogy(self.weights, own.weights).sum()
            - 0.5 * self.means @ np.square(apart).sum(axis=1)
            - self.covariances @ structure.log_determinants(own.factors)
            - 0.5 * structure.ridge_traces(inverse, self.scatter).sum()
        )

    def widened(self, counts: Array) -> "Parameters":
        """Return the mixture with the covariances of its rows (K,) and the pseudo-rows together.

        EM hardly leaves noise variances of nearly 0, so a start must not have them.
        """
        own = self.parameters
        rows = counts + self.covariances
        parts = np.divide(counts, rows, out=np.ones_like(counts), where=rows > 0.0)
        noise = parts[:, np.newaxis] * noise_variances_of(own.covariances)
        of_prior = np.divide(
            1.0 - parts, self.covariances, out=np.zeros_like(parts), where=rows > counts
        )
        noise += of_prior[:, np.newaxis] * self.scatter
        # A column that is constant has no prior variance.
        noise = np.where(noise > 0.0, noise, noise_variances_of(own.covariances))
        loadings = np.sqrt(parts)[:, np.newaxis, np.newaxis] * loadings_of(own.covariances)
        covariances = joined(loadings, noise)
        return replace(own, covariances=covariances, factors=own.structure.cholesky(covariances))

    def posterior(
        self, statistics: "Statistics", is_held: NDArray[np.bool_], weight: float | None = None
    ) -> "Statistics":
        """Return statistics whose M-step gives the maximum with the prior.

        Each component gets the count, mean and second moments of its rows and pseudo-rows together.
        """
        frame, d = statistics.frame, statistics.frame.n_features
        counts, first = statistics.counts, statistics.moments[:, 1 : 1 + d]
        second = statistics.moments[:, 1 + d :]
        own = BasisMoments.of(frame, self.parameters.structure.rank, second.shape[1])
        total = counts.sum() if weight is None else weight
        new_counts = (counts + self.weights) * (total / (total + self.weights.sum()))
        means, centres = frame.coordinates(self.parameters.means), frame.coordinates(self.centres)
        # A fixed mean, and that of a component without rows, does not change.
        rows = np.where(~is_held & (new_counts > 0.0), counts + self.means, 0.0)[:, np.newaxis]
        sums = first + self.means[:, np.newaxis] * centres
        np.divide(sums, rows, out=means, where=rows > 0.0)
        # Second moments about the new means, and of the new means about the origins.
        away, half = means - centres, first - 0.5 * counts[:, np.newaxis] * means
        about = own.outer(self.means[:, np.newaxis] * away, away)
        about -= own.outer(half, means) + own.outer(means, half)
        of_covariances = counts + self.covariances
        parts = np.divide(
            new_counts, of_covariances, out=np.zeros_like(counts), where=of_covariances > 0.0
        )[:, np.newaxis]
        second = parts * (second + about + own.diagonal(self.scatter))
        second += own.outer(new_counts[:, np.newaxis] * means, means)
        new_first = new_counts[:, np.newaxis] * means
        moments = np.concatenate([new_counts[:, np.newaxis], new_first, second], axis=1)
        return replace(statistics, moments=moments)
