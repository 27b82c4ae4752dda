"""EM for few rows in memory, of which one call of a kernel makes many steps.

A step that goes through a reader takes about a millisecond, however few the rows are. Here it takes
what its arithmetic takes. Fits that the kernel has no place for (a prior, noise, fixed parameters,
rows with gaps), and those in which it fails, go through the reader.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamgmm.algorithms.batch.em import Fit
from streamgmm.core.e_step import Posterior, writable
from streamgmm.core.few_rows_e_step import (
    are_few,
    factors_for_kernel,
    n_products,
    posterior_of,
)
from streamgmm.core.fitted_model import StopReason
from streamgmm.core.kernels.em_steps import (
    Steps,
    arrays_for_steps,
    em_steps,
)
from streamgmm.core.kernels.structs import Struct
from streamgmm.core.objective import Objective
from streamgmm.core.parameters import Parameters
from streamgmm.core.structures import STRUCTURES, Array, Pooling
from streamgmm.options import CovarianceType

# Products of all steps of a fit to convergence: at most, and while the information of the rows,
# which tells what remains to be gained, would take longer than to gain it. Steps at most and at
# least.
_ALL_PRODUCTS, _CHEAP_PRODUCTS = 1 << 26, 1 << 23
_MOST_STEPS, _FEWEST_STEPS = 1000, 50
# Part of the tolerance that the last step of a fit gains at most, or that steps predict to remain.
# They see few directions. What is taken for rounding, nats per row.
_PART_OF_STEP, _PART_OF_REST, _ROUNDING = 1e-5, 1e-2, 1e-12
# Values of rows that are transposed at once.
_VALUES_AT_ONCE = 1 << 16
# Smaller variances may be those of squares that vanish.
_LEAST_VARIANCE = 1e-290
# Least standard deviation, in roundings of the data: differences from the centre have these errors.
_VISIBLE, _EPSILON = 2.0**20, float(np.finfo(np.float64).eps)

#: Receives the number of rows that a run has computed, and the log-likelihoods of its steps.
OnRun = Callable[[int, Sequence[float]], None]


def ignore_run(n_rows: int, log_likelihoods: Sequence[float]) -> None:
    """Do nothing."""


@dataclass(frozen=True, eq=False)
class FewRows:
    """Rows in memory, in units in which their variance is about 1.

    Build with :meth:`of`.

    Attributes
    ----------
    covariance_type : str
    pooling : Pooling
        That of the covariance type.
    columns : ndarray of shape (D, n)
        (x - centre) / scale of the rows, transposed.
    weights : ndarray of shape (n,)
    centre : ndarray of shape (D,)
    scale : ndarray of shape (D,)
        Powers of two; equal where columns share one variance.
    ridge : ndarray of shape (D,)
        In these units.
    """

    covariance_type: CovarianceType
    pooling: Pooling
    columns: Array
    weights: Array
    centre: Array
    scale: Array
    ridge: Array
    # Arrays for steps by the number of components, which runs use again.
    _arrays: dict[int, list[tuple[Steps, Struct]]] = field(default_factory=dict, repr=False)

    @classmethod
    def of(
        cls, rows: Array, weights: Array, covariance_type: CovarianceType, objective: Objective
    ) -> "FewRows | None":
        """Return rows (n, D) with weights (n,); None if they are many, or not for this kernel."""
        # Rows that are too many for one component are not copied.
        if not (
            _has_kernel(covariance_type, objective)
            and are_few(rows.shape, 1, STRUCTURES[covariance_type].has_directions)
        ):
            return None
        n_rows, n_features = rows.shape
        columns = np.empty((n_features, n_rows))
        centre, variances = np.empty(n_features), np.empty(n_features)
        step = max(1, _VALUES_AT_ONCE // n_rows)
        for start in range(0, n_features, step):
            block = slice(start, start + step)
            own = columns[block]
            own[:] = rows[:, block].T
            with np.errstate(over="ignore", invalid="ignore"):
                centre[block] = own.mean(axis=1)
                own -= centre[block, np.newaxis]
                variances[block] = np.einsum("dn,dn->d", own, own) / n_rows
        units = cls._in_units(centre, variances, covariance_type, objective)
        if units is None:
            return None
        columns /= units.scale[:, np.newaxis]
        return units._with(columns, writable(weights))

    @classmethod
    def none_of(
        cls, rows: Array, covariance_type: CovarianceType, objective: Objective
    ) -> "FewRows | None":
        """Return no rows, in units of these (n, D); None if they are not for this kernel."""
        if not _has_kernel(covariance_type, objective):
            return None
        # Sums depend on the order in memory.
        rows = np.ascontiguousarray(rows)
        with np.errstate(over="ignore", invalid="ignore"):
            centre = rows.mean(axis=0, dtype=np.float64)
            variances = np.square(rows - centre).mean(axis=0)
        return cls._in_units(centre, variances, covariance_type, objective)

    @classmethod
    def _in_units(
        cls, centre: Array, variances: Array, covariance_type: CovarianceType, objective: Objective
    ) -> "FewRows | None":
        """Return no rows, in units of rows of a mean (D,) and variances (D,)."""
        structure = STRUCTURES[covariance_type]
        pooling = structure.pooling
        # Variances are finite only if all values are.
        is_sound = np.all((variances > _LEAST_VARIANCE) & np.isfinite(variances))
        if pooling is None or not is_sound:
            return None
        scale = np.sqrt(variances)
        if pooling.columns:
            scale = np.full_like(scale, scale.max())
        scale = np.exp2(np.round(np.log2(scale)))
        ridge = np.broadcast_to(objective.reg_covar, scale.shape)
        with np.errstate(over="ignore", invalid="ignore"):
            ridge = structure.shared_ridge(ridge) / np.square(scale)
        if not np.isfinite(ridge).all():
            return None
        none = np.empty((len(scale), 0))
        return cls(covariance_type, pooling, none, none[0], centre, scale, ridge)

    def holding(self, rows: NDArray[Any], weights: Array) -> "FewRows | None":
        """Return other rows (n, D) with weights (n,) in these units; None if one is not finite."""
        columns = np.array(rows.T, dtype=np.float64, order="C")
        with np.errstate(over="ignore", invalid="ignore"):
            columns -= self.centre[:, np.newaxis]
            columns /= self.scale[:, np.newaxis]
        if not np.isfinite(columns).all():
            return None
        return self._with(columns, writable(weights))

    def is_for(self, n_components: int, n_rows: int | None = None) -> bool:
        """Return whether a step with this number of components takes less time here.

        Parameters
        ----------
        n_components : int
        n_rows : int, optional
            Number of rows, if not all of these.
        """
        shape = self._shape if n_rows is None else (n_rows, len(self.scale))
        return are_few(shape, n_components, self._has_matrices)

    def short_run(self, start: Parameters, n_steps: int, tol: float, on_run: OnRun) -> Fit | None:
        """Run EM until the log-likelihood changes by less than ``tol``; None if a step fails."""
        return self._run(start, n_steps, tol, 0, 0.0, on_run)

    def converged(self, start: Parameters, tol: float, on_run: OnRun) -> Fit | None:
        """Run EM with extrapolation until hardly anything remains to be gained.

        Parameters
        ----------
        start : Parameters
        tol : float
            What may remain to be gained, nats per row.
        on_run : callable

        Returns
        -------
        Fit or None
            A fit that has not converged needs another method. None if a step fails.
        """
        products = n_products(self._shape, start.n_components, self._has_matrices)
        n_steps = min(max(_ALL_PRODUCTS // products, _FEWEST_STEPS), _MOST_STEPS)
        n_cheap = 1 + _CHEAP_PRODUCTS // products
        settled = max(_PART_OF_STEP * tol, _ROUNDING)
        return self._run(start, n_steps, settled, n_cheap, _PART_OF_REST * tol, on_run)

    @property
    def _shape(self) -> tuple[int, ...]:
        """Shape of the rows, (n, D)."""
        return self.columns.shape[::-1]

    @cached_property
    def log_volume(self) -> float:
        """Sum of the logarithms of the units."""
        return float(np.log(self.scale).sum())

    @property
    def _has_matrices(self) -> bool:
        return STRUCTURES[self.covariance_type].has_directions

    def part(self, places: NDArray[np.intp], weights: Array) -> "FewRows":
        """Return some of the rows, with weights (n,) that these rows shall have."""
        if np.array_equal(places, np.arange(len(self.weights))):
            return self.weighted(weights)
        return self._with(np.take(self.columns, places, axis=1), weights)

    def _with(self, columns: Array, weights: Array) -> "FewRows":
        """Return other rows in these units."""
        return replace(self, columns=columns, weights=weights, _arrays={})

    def weighted(self, weights: Array) -> "FewRows":
        """Return these rows with other weights (n,)."""
        return replace(self, weights=weights)

    def posterior(self, parameters: Parameters) -> Posterior:
        """Return the posterior of each row, with responsibilities."""
        return posterior_of(self._scaled(parameters), self.columns, self.log_volume)

    def _run(
        self,
        start: Parameters,
        n_steps: int,
        settled: float,
        n_cheap: int,
        tol: float,
        on_run: OnRun,
    ) -> Fit | None:
        values = np.empty(n_steps)
        kept = self._arrays.setdefault(start.n_components, [])
        try:
            # Each thread that runs has its own.
            steps, struct = kept.pop()
        except IndexError:
            steps, struct = self._new_arrays(start.n_components)
        self._write(start, steps)
        n_values, n_evaluated, has_settled = em_steps(
            self.ridge,
            self.weights,
            np.array(self.pooling),
            n_steps,
            settled,
            n_cheap,
            tol,
            values,
            struct,
        )
        log_likelihoods = (values[:n_values] - self.log_volume).tolist()
        on_run(n_evaluated * len(self.weights), log_likelihoods)
        found = self._parameters(steps) if n_values else None
        kept.append((steps, struct))
        if found is None:
            return None
        reason = StopReason.TOLERANCE if has_settled else StopReason.LIMIT
        return Fit(found, None, log_likelihoods, log_likelihoods, reason, n_iterations=n_values)

    def _new_arrays(self, n_components: int) -> tuple[Steps, Struct]:
        steps = arrays_for_steps(self.columns, n_components, self._has_matrices)
        return steps, Struct(steps)

    @cached_property
    def _units_of_covariances(self) -> Array:
        """Of matrices, (D, D), or of variances, (1, D)."""
        if self._has_matrices:
            return np.outer(self.scale, self.scale)
        found: Array = np.square(self.scale)[np.newaxis]
        return found

    def _write(self, mixture: Parameters, steps: Steps) -> None:
        """Write a mixture in the units of the rows."""
        steps.shares[:] = mixture.weights
        np.subtract(mixture.means, self.centre, out=steps.means)
        np.divide(steps.means, self.scale, out=steps.means)
        covariances = mixture.stacked(mixture.covariances)
        if not self._has_matrices:
            covariances = covariances[:, np.newaxis]
        np.divide(covariances, self._units_of_covariances, out=steps.covariances)

    def _scaled(self, parameters: Parameters) -> tuple[Array, Array, Array]:
        """Return weights (K,), means (K, D) and factors in the units of the rows.

        Factors are matrices (K, D, D) or standard deviations (K, 1, D).
        """
        means = (parameters.means - self.centre) / self.scale
        return writable(parameters.weights), means, factors_for_kernel(parameters, self.scale)

    def _parameters(self, steps: Steps) -> Parameters | None:
        """Return the mixture in data units; None if a component is hardly wider than rounding."""
        structure = STRUCTURES[self.covariance_type]
        means = steps.means * self.scale
        means += self.centre
        covariances = steps.covariances * self._units_of_covariances
        if self._has_matrices:
            factors = steps.factors * self.scale[:, np.newaxis]
            widths = np.diagonal(factors, axis1=1, axis2=2)
        else:
            covariances = covariances[:, 0]
            widths = factors = steps.factors[:, 0] * self.scale
        rounding = _EPSILON * (np.abs(means) + self.scale)
        if not np.all(widths > _VISIBLE * rounding):
            return None
        stored, roots = (np.array(structure.stored(one)) for one in (covariances, factors))
        return Parameters(self.covariance_type, steps.shares.copy(), means, stored, roots)


def _has_kernel(covariance_type: CovarianceType, objective: Objective) -> bool:
    """Return whether kernels for few rows have a place for what is to be fitted."""
    is_plain = not objective.fixed and objective.prior is None and objective.noise is None
    return is_plain and STRUCTURES[covariance_type].pooling is not None


class LastFewRows:
    """Few rows that are kept for the next work on the same rows."""

    def __init__(self) -> None:
        self._given: tuple[Array, Array] | None = None
        self._found: FewRows | None = None

    def of(
        self, rows: Array, weights: Array, covariance_type: CovarianceType, objective: Objective
    ) -> FewRows | None:
        """Return what :meth:`FewRows.of` does; the covariance type and objective never change."""
        if self._given is None or self._given[0] is not rows or self._given[1] is not weights:
            self._found = FewRows.of(rows, weights, covariance_type, objective)
            self._given = rows, weights
        return self._found
