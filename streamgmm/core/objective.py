"""The objective that a fit maximises: log-likelihood, ridge, fixed parameters, and a prior.

The objective provides the M-step, the value of parameters, the gain of a step and the gradient. A
prior changes all four, so it is implemented once, here.
"""

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import scipy.special
from numpy.typing import NDArray

from streamgmm.core.information import Information, Tangent
from streamgmm.core.maximization import Maximum, maximize
from streamgmm.core.noise import Noise
from streamgmm.core.parameters import Fixed, Parameters, held_components
from streamgmm.core.statistics import Statistics
from streamgmm.core.structures import Array, CovarianceStructure, relative_ridge
from streamgmm.core.structures.structure import PriorRows
from streamgmm.core.whitening import Whitening
from streamgmm.errors import ParameterError


@dataclass(frozen=True, eq=False)
class PseudoRows:
    """The rows that a conjugate prior adds to those of the data.

    Up to a constant, the log density of a mixture is

        Σ_k [a_k ln π_k - ½ κ_k (μ_k - m_k)ᵀ Σ_k⁻¹ (μ_k - m_k)]
            - ½ Σ_k [ν_k ln|Σ_k| + tr(Σ_k⁻¹ Λ_k)]

    A covariance that all components share has one term in the second sum. Each value holds for all
    components, or has one entry for each of them.

    Attributes
    ----------
    weights : float or ndarray of shape (K,)
        a: number of rows that are added to the counts of the weights. Not negative.
    means : float or ndarray of shape (K,)
        κ: number of rows that are added to those of the means. Not negative.
    centres : ndarray of shape (D,) or (K, D), or 0.0
        m: the mean of these rows.
    covariances : float or ndarray of shape (K,)
        ν: number of rows that are added to those of the covariances. Not negative.
    scatter : ndarray, or 0.0
        Λ: the scatter of these rows about the mean of the component. Matrices (D, D) or (K, D, D)
        for full, a matrix (D, D) for tied, diagonals (D,) or (K, D) for diag, spherical and
        low_rank, a diagonal (D,) for tied_diag and tied_spherical.
    """

    weights: float | Array = 0.0
    means: float | Array = 0.0
    centres: float | Array = 0.0
    covariances: float | Array = 0.0
    scatter: float | Array = 0.0


class Prior(Protocol):
    """A conjugate prior of mixtures."""

    def pseudo_rows(self, parameters: Parameters) -> PseudoRows:
        """Return the rows that the prior adds to a mixture of this shape.

        The rows must not depend on the values of the parameters, because they are the same
        throughout a fit. The search for a start also passes mixtures of other numbers of
        components.
        """
        ...


@dataclass(frozen=True, eq=False)
class Objective:
    """The function of the parameters that a fit maximises.

    Attributes
    ----------
    reg_covar : float or ndarray of shape (D,)
        The ridge: it is added to the diagonal of each covariance, in squared units of the columns.
    fixed : collection of {"weights", "means", "covariances"}, or mapping of these to masks
        Parameters that are held at their starting values.
    prior : Prior or None
        None for maximum likelihood.
    noise : Noise or None
        The noise that a start of the fit begins with. Later mixtures hold their own.
    """

    reg_covar: float | Array = 0.0
    fixed: Fixed = frozenset()
    prior: Prior | None = None
    noise: Noise | None = None

    def maximize(
        self, statistics: Statistics, previous: Parameters, is_complete: bool = False
    ) -> Maximum:
        """Return the maximum of an M-step.

        Parameters
        ----------
        statistics : Statistics
            Statistics under the previous parameters.
        previous : Parameters
            Fixed parameters, and those of components without mass, keep these values.
        is_complete : bool
            Whether covariances go further than EM's own step, where the statistics show the way;
            the value may fall then.
        """
        return maximize(
            self._posterior(statistics, previous),
            previous,
            reg_covar=self.reg_covar,
            fixed=self.fixed,
            is_complete=is_complete,
        )

    def begun(self, start: Parameters, counts: Array) -> Parameters:
        """Return a start that a prior widens, where the M-step depends on the start.

        Parameters
        ----------
        start : Parameters
            Means and covariances of clusters of rows.
        counts : ndarray of shape (K,)
            Rows of each cluster.
        """
        if self.prior is None:
            return start
        return start.structure.widened_start(self.prior.pseudo_rows(start), start, counts)

    def value(self, statistics: Statistics, parameters: Parameters) -> float:
        """Return the log-likelihood and the log density of the prior, in nats per row.

        The density is known up to a constant. The ridge has no part in the value.

        Parameters
        ----------
        statistics : Statistics
            Statistics under the parameters.
        parameters : Parameters
        """
        if self.prior is None:
            return statistics.mean_log_likelihood
        density = self._rows(parameters).log_density()
        return statistics.mean_log_likelihood + density / statistics.weight

    def gain(
        self, before: Statistics, old: Parameters, after: Statistics, new: Parameters
    ) -> float:
        """Return the gain of a step in the function that EM increases, in nats per row.

        EM with a ridge increases the value minus ½ Σ n_k tr(R Σ_k⁻¹) / n with R = diag(reg_covar),
        with constant rows n_k of the components: the E-step does not depend on the ridge, so a
        change of the weights does not change this term.

        Parameters
        ----------
        before, after : Statistics
            Statistics under the old and the new parameters.
        old, new : Parameters
        """
        largest, relative = relative_ridge(self.reg_covar)
        narrower = _narrowness(new, relative) - _narrowness(old, relative)
        weights = 0.5 * (old.weights + new.weights)
        if self.prior is not None:
            # With pseudo-rows the weights are not the components' parts of the rows.
            weights = 0.5 * (before.counts + after.counts) / after.weight
        held = 0.5 * largest * float(np.sum(weights * narrower))
        if self.prior is not None:
            pseudo = self._rows(new).covariances
            held += 0.5 * largest * float(pseudo @ narrower) / after.weight
        return self.value(after, new) - self.value(before, old) - held

    def gradient(self, tangent: Tangent, statistics: Statistics) -> Array:
        """Return the gradient, (p,), of the function that EM with this objective increases.

        Parameters
        ----------
        tangent : Tangent
        statistics : Statistics
            Statistics under the parameters of the tangent, in its frame.
        """
        gradient = tangent.gradient(statistics, self.reg_covar)
        if self.prior is None:
            return gradient
        own = _Whitened.of(
            self.prior.pseudo_rows(tangent.parameters), tangent.parameters, self.reg_covar
        )
        return gradient + own.gradient(tangent) / statistics.weight

    def step(self, tangent: Tangent, statistics: Statistics, gradient: Array) -> Array:
        """Return the step of EM, (p,): the gradient, or with a prior a shorter step.

        The arguments are those of :meth:`gradient`, and the gradient.
        """
        if self.prior is None:
            return gradient
        posterior = self._posterior(statistics, tangent.parameters)
        return tangent.gradient(posterior, self.reg_covar)

    def informed(self, information: Information, statistics: Statistics) -> Information:
        """Return the information of rows plus the information of the prior.

        Parameters
        ----------
        information : Information
            Information of some of the rows.
        statistics : Statistics
            Statistics of all rows, under the parameters of the information, in its frame.
        """
        if self.prior is None:
            return information
        rows = self.prior.pseudo_rows(information.tangent.parameters)
        own = _Whitened.of(rows, information.tangent.parameters)
        added = own.information(information.tangent, statistics)
        return replace(information, added=information.added + added)

    def _posterior(self, statistics: Statistics, previous: Parameters) -> Statistics:
        """Return statistics whose maximum likelihood is the maximum with the prior."""
        if self.prior is None:
            return statistics
        is_held = held_components(self.fixed, "means", previous.n_components)
        weight = statistics.weight if previous.noise is not None else None
        return self._rows(previous).posterior(statistics, is_held, weight)

    def _rows(self, parameters: Parameters) -> PriorRows:
        """Return the pseudo-rows of the prior, in coordinates of the structure."""
        assert self.prior is not None
        rows = self.prior.pseudo_rows(parameters)
        own = parameters.structure.prior_rows(rows, parameters)
        return _Whitened.of(rows, parameters) if own is None else own


@dataclass(frozen=True, eq=False)
class _Whitened:
    """The pseudo-rows of a prior, in the whitened coordinates of the components.

    J is the number of covariances in stacked form: 1 for tied, else K.

    Attributes
    ----------
    parameters : Parameters
    weights, means : ndarray of shape (K,)
    centres : ndarray of shape (K, D)
    covariances : ndarray of shape (J,)
    scatter : ndarray of shape (J, D, D), or (J, D) for diag and spherical
    """

    parameters: Parameters
    weights: Array
    means: Array
    centres: Array
    covariances: Array
    scatter: Array

    @classmethod
    def of(
        cls, rows: PseudoRows, parameters: Parameters, reg_covar: float | Array = 0.0
    ) -> "_Whitened":
        """Return the pseudo-rows of a prior, widened by a ridge as all rows are.

        Raises
        ------
        ParameterError
            If the scatter does not have a shape that :class:`PseudoRows` allows.
        """
        k, d = parameters.means.shape
        inverse = parameters.stacked(parameters.inverse_factors)
        shape = np.shape(rows.scatter)
        if shape not in (inverse.shape, inverse.shape[1:]) and np.any(rows.scatter):
            raise ParameterError(
                f"the scatter of the prior has shape {shape}; expected {inverse.shape[1:]} or "
                f"{inverse.shape}"
            )
        structure = parameters.structure
        # A shared value is divided among the components, if each of them has an entry.
        n_parts = len(inverse) if structure.n_shared(d) else 1
        counts = np.full(len(inverse), rows.covariances, dtype=np.float64) / n_parts
        ridge = np.full(d, reg_covar)
        if inverse.ndim == 3:
            scatter = rows.scatter / n_parts + counts[:, np.newaxis, np.newaxis] * np.diag(ridge)
            scatter = inverse @ scatter @ np.swapaxes(inverse, 1, 2)
        else:
            scatter = inverse**2 * (rows.scatter / n_parts + counts[:, np.newaxis] * ridge)
        centres = structure.product(inverse, rows.centres - parameters.means)
        weights, means = (np.full(k, own, dtype=np.float64) for own in (rows.weights, rows.means))
        return cls(parameters, weights, means, centres, counts, scatter)

    @property
    def structure(self) -> CovarianceStructure:
        """The structure of the parameters."""
        return self.parameters.structure

    def log_density(self) -> float:
        """Return the log density of the parameters, in nats."""
        factors = self.parameters.stacked(self.parameters.factors)
        return float(
            scipy.special.xlogy(self.weights, self.parameters.weights).sum()
            - 0.5 * self.means @ np.square(self.centres).sum(axis=1)
            - self.covariances @ self.structure.log_determinants(factors)
            - 0.5 * self.structure.variances(self.scatter).sum()
        )

    def gradient(self, tangent: Tangent) -> Array:
        """Return the gradient of the log density, (p,)."""
        beyond = self.scatter - _times(self.covariances, self._unit)
        own, shared = self._moments(beyond)
        squares, shared_squares = self._moments(
            _times(self.means, self._products(self.centres, self.centres))
        )
        counts = self.weights - self.weights.sum() * tangent.parameters.weights
        first = _times(self.means, self.centres)
        moments = np.column_stack([counts, first, own + squares])
        return tangent.coordinates(moments, shared + shared_squares)

    def information(self, tangent: Tangent, statistics: Statistics) -> Array:
        """Return the diagonal of the information of the pseudo-rows, (p,).

        Labelled rows have the information I, and pseudo-rows are labelled.
        """
        counts = np.zeros_like(tangent.split(tangent.free)[0])
        means_end = 1 + tangent.parameters.n_features
        counts[:, 0] = self.weights
        counts[:, 1:means_end] = self.means[:, np.newaxis]
        # Of covariances that are shared a component has no coordinates.
        counts[:, means_end:] = self.covariances[:, np.newaxis]
        of_shared = np.full(tangent.n_shared, self.covariances.sum())
        weights = statistics.weight * tangent.parameters.weights[:, np.newaxis]
        parts = np.divide(counts, weights, out=np.zeros_like(counts), where=weights > 0.0)
        of_shared = of_shared * tangent.shared_root**2 / statistics.weight
        # Priors say nothing of noise.
        of_noise = np.zeros(len(tangent.free) - parts.size - of_shared.size)
        return np.concatenate([parts.ravel(), of_shared, of_noise])

    def posterior(
        self, statistics: Statistics, is_held: NDArray[np.bool_], weight: float | None = None
    ) -> Statistics:
        """Return statistics whose M-step gives the maximum with the prior.

        Each component gets the count, mean and covariance of its rows and pseudo-rows together. The
        moments follow from these. The weight of all rows is that of the components, unless it is
        given because some rows are noise.
        """
        whitening = Whitening.of(self.parameters, statistics.frame)
        moments, scatter = whitening.of_statistics(statistics)
        d = statistics.frame.n_features
        counts, first, second = moments[:, 0], moments[:, 1 : 1 + d], moments[:, 1 + d :]
        mixed = counts.sum()
        total = mixed if weight is None else weight
        new_counts = (counts + self.weights) * (total / (total + self.weights.sum()))
        means = np.zeros_like(first)
        # A fixed mean, and that of a component without rows, does not change.
        moves = ~is_held & (new_counts > 0.0)
        rows = np.where(moves, counts + self.means, 0.0)[:, np.newaxis]
        sums = first + _times(self.means, self.centres)
        np.divide(sums, rows, out=means, where=rows > 0.0)
        # Second moments about the new means, and of the new means about the origin.
        away = means - self.centres
        half = first - 0.5 * _times(counts, means)
        about = _times(self.means, self._products(away, away))
        about -= self._products(half, means) + self._products(means, half)
        own, shared = self._moments(about)
        pseudo, shared_pseudo = self._moments(self.scatter)
        squares, shared_squares = self._moments(_times(new_counts, self._products(means, means)))
        # A shared covariance follows from the rows of all components.
        held = total if weight is None else new_counts.sum()
        part = held / (mixed + self.covariances.sum())
        if self.structure.n_shared(d):
            parts = np.full_like(counts, part)
        else:
            rows = counts + self.covariances
            parts = np.divide(new_counts, rows, out=np.zeros_like(counts), where=rows > 0.0)
        second = _times(parts, second + own + pseudo) + squares
        found = whitening.in_frame(
            np.column_stack([new_counts, _times(new_counts, means), second]),
            part * (scatter + shared + shared_pseudo) + shared_squares,
        )
        return replace(statistics, moments=found.moments, scatter=found.scatter)

    def _moments(self, stacked: Array) -> tuple[Array, Array]:
        """Return matrices or diagonals, stacked, as second moments and scatter."""
        return self.structure.as_moments(stacked, len(self.means))

    @property
    def _unit(self) -> Array:
        """Covariances I, in the shape of the scatter."""
        unit = np.eye(self.scatter.shape[1]) if self.scatter.ndim == 3 else np.ones(1)
        return np.broadcast_to(unit, self.scatter.shape)

    def _products(self, a: Array, b: Array) -> Array:
        """Return the outer products of vectors (K, D), or those of their entries, (K, D)."""
        if self.scatter.ndim == 2:
            return a * b
        products: Array = a[:, :, np.newaxis] * b[:, np.newaxis, :]
        return products


def _times(factors: Array, arrays: Array) -> Array:
    """Return arrays (k, ...), each multiplied by its own factor (k,)."""
    return factors.reshape(-1, *[1] * (arrays.ndim - 1)) * arrays


def _narrowness(parameters: Parameters, ridge: float | Array) -> Array:
    """Return tr(diag(ridge) Σ⁻¹) of each component, (K,), or of tied, (1,)."""
    inverse = parameters.stacked(parameters.inverse_factors)
    return parameters.structure.ridge_traces(inverse, ridge)
