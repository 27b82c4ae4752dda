"""Information criteria of a mixture, from the statistics of one pass over the data."""

import math
from dataclasses import dataclass

import scipy.special

from streamgmm.core.parameters import Fixed, Parameters
from streamgmm.core.statistics import Statistics
from streamgmm.core.whitening import Whitening


@dataclass(frozen=True)
class Criteria:
    """The numbers from which information criteria are computed.

    Attributes
    ----------
    log_likelihood : float
        Σ w ln p(x), nats; -inf if the squares of a row overflow.
    n_rows : float
        Number of rows, or the sum of their weights.
    n_parameters : int
        Number of free parameters p.
    entropy : float
        Entropy of the assignment, -Σ w Σ_k γ ln γ, in nats; noise counts as a component.

    References
    ----------
    McLachlan & Peel (2000), Finite Mixture Models, chapter 6.
    """

    log_likelihood: float
    n_rows: float
    n_parameters: int
    entropy: float

    @classmethod
    def of(
        cls,
        statistics: Statistics,
        parameters: Parameters,
        fixed: Fixed = (),
    ) -> "Criteria":
        """Return the criteria of a mixture.

        Parameters
        ----------
        statistics : Statistics
            Statistics of all rows under the parameters.
        parameters : Parameters
        fixed : collection of {"weights", "means", "covariances"}, or mapping of these to masks
            Parameters that were held fixed and are not counted.
        """
        n_rows = statistics.weight + statistics.n_overflowing
        return cls(
            mean_score(statistics) * n_rows,
            n_rows,
            parameters.n_parameters(fixed),
            assignment_entropy(statistics, parameters),
        )

    @property
    def mean_log_likelihood(self) -> float:
        """Mean log-likelihood of the rows, nats per row."""
        return self.log_likelihood / self.n_rows

    @property
    def aic(self) -> float:
        """Akaike information criterion, -2 ln L + 2 p."""
        return -2.0 * self.log_likelihood + 2.0 * self.n_parameters

    @property
    def bic(self) -> float:
        """Bayesian information criterion, -2 ln L + p ln n."""
        return -2.0 * self.log_likelihood + self.n_parameters * math.log(self.n_rows)

    @property
    def icl(self) -> float:
        """Integrated completed likelihood, BIC + 2 H with the entropy H of the assignment."""
        return self.bic + 2.0 * self.entropy


def mean_score(statistics: Statistics) -> float:
    """Return the mean log-density of all rows, nats per unit of weight.

    It is -inf if the squares of a row overflow.
    """
    return -math.inf if statistics.n_overflowing else statistics.mean_log_likelihood


def assignment_entropy(statistics: Statistics, parameters: Parameters) -> float:
    """Return the entropy of the assignment of rows to components, in nats.

    H = -Σ w Σ_k γ ln γ = ln L - Σ w Σ_k γ ln(π_k p_k(x)). The last sum follows from the moments,
    because the logarithm of a Gaussian density is linear in them. Rows with missing values have
    expected moments, which lack the conditional entropy of the missing values.

    Parameters
    ----------
    statistics : Statistics
        Statistics under the parameters.
    parameters : Parameters
    """
    structure, d = parameters.structure, parameters.n_features
    squares = structure.squared_distances(
        statistics,
        parameters,
        lambda: Whitening.of(parameters, statistics.frame).of_statistics(statistics),
    )
    counts = statistics.counts
    log_factors = structure.log_determinants(parameters.stacked(parameters.factors))
    log_joint = (
        scipy.special.xlogy(counts, parameters.weights).sum()
        - (counts * (log_factors + 0.5 * d * math.log(2.0 * math.pi))).sum()
        - 0.5 * squares
        + statistics.conditional_entropy
    )
    noise = parameters.noise
    if noise is not None and noise.weight > 0.0:
        log_joint += max(statistics.weight - counts.sum(), 0.0) * noise.log_joint
    # Rounding may leave a negative number where the components are far apart.
    return max(0.0, float(statistics.log_likelihood - log_joint))
