"""The E-step of few rows, for which a kernel would take longer to compile than to run.

Densities are those of differences from the component's own mean, as in the centred form.
"""

import functools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamgmm.core.accuracy import LARGEST_VALUE
from streamgmm.core.e_step import EStep, Posterior, require_shapes, writable
from streamgmm.core.frame import ACCUMULATION_LENGTH, Frame
from streamgmm.core.kernels.em_steps import posterior_of_few
from streamgmm.core.kernels.kinds import TIED
from streamgmm.core.kernels.screening import NEGLIGIBLE
from streamgmm.core.parameters import Parameters
from streamgmm.core.statistics import Statistics
from streamgmm.core.structures import Array, CovarianceStructure
from streamgmm.options import Arithmetic

# Products of a step of EM up to which calls take most of the time; products that take as long as
# the exponential of a density.
_MOST_PRODUCTS, _PRODUCTS_OF_DENSITY = 1 << 22, 8
# The same for variances of more columns than there are rows.
_MOST_PRODUCTS_IF_WIDE = 1 << 23
# Coordinates whose squares have no digits in common with 1.
_FARTHEST = 2.0**26
# Responsibility below which a component has no share in a row.
_LEAST_SHARE = math.exp(NEGLIGIBLE)
# Values of rows that are in memory at once.
_VALUES_AT_ONCE = 1 << 17


def n_products(shape: tuple[int, ...], n_components: int, has_matrices: bool) -> int:
    """Return the number of products of a step of EM with rows of a shape (n, D)."""
    n_rows, n_features = shape
    of_moments = n_features * (n_features + 3) // 2 if has_matrices else n_features
    return n_rows * n_components * (_PRODUCTS_OF_DENSITY + of_moments)


def are_few(shape: tuple[int, ...], n_components: int, has_matrices: bool) -> bool:
    """Return whether rows are so few that calls take most of the time of a step of EM."""
    n_rows, n_features = shape
    is_wide = n_features > n_rows and not has_matrices
    most = _MOST_PRODUCTS_IF_WIDE if is_wide else _MOST_PRODUCTS
    return n_products(shape, n_components, has_matrices) <= most


def are_few_for(structure: CovarianceStructure, shape: tuple[int, int], n_components: int) -> bool:
    """Return whether rows are few for a mixture that :class:`FewRowsEStep` may evaluate."""
    n_rows, n_features = shape
    # The inverse of a factor takes less time than a step with D rows.
    n_counted = max(n_rows, n_features) if structure.has_directions else n_rows
    return structure.pooling is not None and are_few(
        (n_counted, n_features), n_components, structure.has_directions
    )


def posterior_of(
    mixture: tuple[Array, Array, Array],
    columns: Array,
    log_volume: float,
    with_responsibilities: bool = True,
) -> Posterior:
    """Return the posterior of few rows.

    Parameters
    ----------
    mixture : (ndarray of shape (K,), ndarray of shape (K, D), ndarray)
        Weights, means, and the factors of :func:`factors_for_kernel`, in the units of the rows.
    columns : ndarray of shape (D, n)
        The rows, transposed, in units of which the logarithms sum to ``log_volume``.
    log_volume : float
    with_responsibilities : bool
    """
    n_rows, k = columns.shape[1], len(mixture[0])
    scores, labels = np.empty(n_rows), np.empty(n_rows, dtype=np.int64)
    shares = np.empty((n_rows if with_responsibilities else 0, k))
    posterior_of_few(*mixture, columns, log_volume, scores, labels, shares)
    return Posterior(scores, labels, shares, 0)


def factors_for_kernel(parameters: Parameters, scale: Array) -> Array:
    """Return factors in units of a scale (D,): matrices (K, D, D) or deviations (K, 1, D)."""
    k, d = parameters.means.shape
    stacked = parameters.stacked(parameters.factors)
    if parameters.structure.has_directions:
        return writable(np.broadcast_to(stacked / scale[:, np.newaxis], (k, d, d)))
    return writable((stacked / scale)[:, np.newaxis, :])


@dataclass(frozen=True, eq=False)
class FewRowsEStep:
    """A mixture prepared for few rows.

    Rows that are not finite, or so far from the origin of the frame that the squares of others are
    lost in sums, are left to the kernels for many rows, and so are the rows beside them.

    Attributes
    ----------
    parameters : Parameters
    frame : Frame
        Coordinates of the statistics.
    arithmetic : {"auto", "float64"}
        That of the kernels for many rows; here it is float64.
    """

    parameters: Parameters
    frame: Frame
    arithmetic: Arithmetic = "auto"
    has_noise = False

    @functools.cached_property
    def for_any_rows(self) -> EStep:
        """The same mixture, prepared for any rows."""
        return EStep.prepare(self.parameters, self.frame, self.arithmetic)

    def posterior(
        self, rows: NDArray[np.generic], with_responsibilities: bool = False
    ) -> Posterior:
        """Return the posterior of each row, as :meth:`EStep.posterior` does."""
        require_shapes(self.frame, rows)
        values = rows.astype(np.float64, copy=False)
        found = self._posterior(values, with_responsibilities)
        if found is None:
            return self.for_any_rows.posterior(rows, with_responsibilities)
        return found

    def statistics(self, rows: NDArray[np.generic], weights: Array | None = None) -> Statistics:
        """Return the sufficient statistics of rows, as :meth:`EStep.statistics` does."""
        own = np.ones(len(rows)) if weights is None else np.asarray(weights, dtype=np.float64)
        require_shapes(self.frame, rows, own)
        # Sums depend on the order in memory.
        values = np.ascontiguousarray(rows, dtype=np.float64)
        found = self._posterior(values, True)
        if found is None:
            return self.for_any_rows.statistics(rows, weights)
        # The kernels see no smaller share. Its square may be large all the same.
        has_share = found.responsibilities > _LEAST_SHARE
        shares = (found.responsibilities * has_share * own[:, np.newaxis]).T
        d = self.frame.n_features
        step = min(ACCUMULATION_LENGTH, max(1, _VALUES_AT_ONCE // d))
        # The memory of one array for all blocks need not be mapped again and again.
        moved = np.empty((min(step, len(values)), d))
        sums = [
            self._sums(values[start : start + step], shares[:, start : start + step], moved)
            for start in range(0, len(values), step)
        ]
        moments, scatter = (sum(parts[1:], parts[0]) for parts in zip(*sums, strict=True))
        return Statistics(
            self.frame,
            moments,
            scatter,
            log_likelihood=float(own @ found.scores),
            weight=float(own.sum()),
            n_rows=len(values),
        )

    def _posterior(self, rows: Array, with_responsibilities: bool) -> Posterior | None:
        """Return the posterior of each row (n, D); None if some rows are not for this E-step."""
        if not len(rows):
            return None
        frame = self.frame
        columns = np.array(rows.T, dtype=np.float64, order="C")
        # Extremes are NaN if a value is, and comparisons with NaN are false.
        ends = np.stack([columns.min(axis=1), columns.max(axis=1)])
        with np.errstate(invalid="ignore"):
            distances = np.abs(ends - frame.origin) / frame.scale
        if not (np.all(np.abs(ends) <= LARGEST_VALUE) and np.all(distances <= _FARTHEST)):
            return None
        columns /= frame.scale[:, np.newaxis]
        mixture = self._scaled_mixture
        found = posterior_of(mixture, columns, self._log_volume, with_responsibilities)
        # A density may be too small for a number.
        return found if np.isfinite(found.scores).all() else None

    @functools.cached_property
    def _scaled_mixture(self) -> tuple[Array, Array, Array]:
        """Weights (K,), means (K, D) and factors in units of the frame's scale."""
        scale = self.frame.scale
        factors = factors_for_kernel(self.parameters, scale)
        return writable(self.parameters.weights), self.parameters.means / scale, factors

    @functools.cached_property
    def _log_volume(self) -> float:
        return float(np.log(self.frame.scale).sum())

    def _sums(self, rows: Array, shares: Array, moved: Array) -> tuple[Array, Array]:
        """Return moments (K, M) and scatter of rows (n, D) with responsibilities (K, n).

        The values of ``moved``, of n rows or more, are lost.
        """
        structure, frame = self.parameters.structure, self.frame
        moments = np.zeros((len(shares), structure.n_moments(frame.n_features)))
        scatter = np.zeros((structure.n_scatter(frame.n_features),) * 2)
        packed = np.setdiff1d(np.arange(len(shares)), frame.centred)
        groups = [(packed, self._shared_coordinates(rows, moved))] if packed.size else []
        for c, k in enumerate(frame.centred.tolist()):
            u = structure.solved_rows(rows - frame.means[c], frame.factors, c)
            groups.append((np.array([k]), u))
        for components, u in groups:
            own = shares[components]
            moments[components] = structure.moments_of(u, own)
            if scatter.size:
                weighted = own.sum(axis=0) * u.T
                scatter += np.einsum("in,jn->ij", weighted, u.T)
        return moments, scatter

    def _shared_coordinates(self, rows: Array, moved: Array) -> Array:
        """Return rows (n, D) in the coordinates of all components that are not centred."""
        frame = self.frame
        moved = np.subtract(rows, frame.origin, out=moved[: len(rows)])
        if self.parameters.structure.code == TIED:
            return self.parameters.structure.solved_rows(moved, frame.factors, 0)
        moved /= frame.scale
        return moved
