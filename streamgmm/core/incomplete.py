"""The E-step over chunks in which rows may lack values: NaN stands for a missing one.

A row counts by the values that it has, which is maximum likelihood if values are missing at
random: that one is missing may depend on the values that are there, not on the missing one.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from streamgmm.core.covariance import Array, upper_triangle
from streamgmm.core.expectation import Arithmetic, Expectation, Posterior
from streamgmm.core.frame import Frame
from streamgmm.core.kernels.incomplete import incomplete_posteriors, incomplete_statistics
from streamgmm.core.parameters import Parameters
from streamgmm.core.statistics import Statistics


@dataclass(frozen=True, eq=False)
class IncompleteExpectation:
    """A mixture prepared for rows with and without gaps; build with :meth:`prepare`.

    Attributes
    ----------
    complete : Expectation
        For the rows without gaps.
    places : ndarray of shape (K, D)
        The means, in the coordinates of the frame.
    factors : ndarray, stacked (K or 1, D, D) or (K, D)
        The covariances' factors, in these coordinates.

    References
    ----------
    Ghahramani & Jordan (1994), Supervised learning from incomplete data via an EM approach.
    """

    complete: Expectation
    places: Array
    factors: Array

    @classmethod
    def prepare(
        cls, parameters: Parameters, frame: Frame, arithmetic: Arithmetic = "auto"
    ) -> "IncompleteExpectation":
        """Prepare a mixture; as :meth:`streamgmm.core.expectation.Expectation.prepare`."""
        return cls(
            Expectation.prepare(parameters, frame, arithmetic),
            frame.coordinates(parameters.means),
            frame.relative_factors(parameters),
        )

    def statistics(self, rows: NDArray[np.generic], weights: Array | None = None) -> Statistics:
        """Sufficient statistics of a chunk of rows, expected given the values that are there.

        Parameters
        ----------
        rows : ndarray of shape (n, D)
            Any real type and memory layout; NaN where a value is missing.
        weights : ndarray of shape (n,), optional

        Returns
        -------
        Statistics
            Rows without any value are counted in ``n_missing`` and take no part.
        """
        found = self.complete.statistics(rows, weights)
        if not found.n_missing:
            return found
        chosen = _by_gaps(rows)
        row_weights = np.empty(0) if weights is None else np.asarray(weights, np.float64)[chosen]
        moments, scatter, totals = incomplete_statistics(
            rows[chosen].astype(np.float64), row_weights, self.complete.writable_coefficients()
        )
        log_likelihood, weight, n_rows, n_overflowing = totals.tolist()
        incomplete = replace(
            self._in_frame(moments, scatter),
            log_likelihood=log_likelihood,
            weight=weight,
            n_rows=int(n_rows),
            n_overflowing=int(n_overflowing),
            n_not_finite=-chosen.size,
            n_missing=-chosen.size,
        )
        return found.merge(incomplete)

    def posterior(
        self, rows: NDArray[np.generic], with_responsibilities: bool = False
    ) -> Posterior:
        """Log-density of the observed values, label and, if asked for, responsibilities.

        Parameters
        ----------
        rows : ndarray of shape (n, D)
            Any real type and memory layout; NaN where a value is missing.
        with_responsibilities : bool

        Returns
        -------
        Posterior
            Rows without any value are among those that are not finite.
        """
        found = self.complete.posterior(rows, with_responsibilities)
        if not found.n_not_finite:
            return found
        chosen = _by_gaps(rows)
        scores, labels, responsibilities, _ = self._incomplete(rows[chosen], with_responsibilities)
        found.scores[chosen] = scores
        found.labels[chosen] = labels
        if with_responsibilities:
            found.responsibilities[chosen] = responsibilities
        return replace(found, n_not_finite=found.n_not_finite - chosen.size)

    def impute(self, rows: NDArray[np.generic]) -> Array:
        """Rows with their missing values replaced by what is expected given the others.

        Parameters
        ----------
        rows : ndarray of shape (n, D)
            Any real type and memory layout; NaN where a value is missing.

        Returns
        -------
        ndarray of shape (n, D), float64
            In rows without any value, and in those that overflow, the mean of the mixture.
        """
        filled = rows.astype(np.float64)
        chosen = _by_gaps(rows)
        scores, _, _, expected = self._incomplete(rows[chosen], with_missing_values=True)
        is_sound = np.isfinite(scores)
        chosen, expected = chosen[is_sound], expected[is_sound]
        filled[chosen] = np.where(np.isnan(filled[chosen]), expected, filled[chosen])
        rest = np.flatnonzero(np.isnan(filled).any(axis=1))
        mean = self.complete.weights[self.complete.order] @ self.complete.coefficients.means
        filled[rest] = np.where(np.isnan(filled[rest]), mean, filled[rest])
        return filled

    def _incomplete(
        self,
        rows: NDArray[np.generic],
        with_responsibilities: bool = False,
        with_missing_values: bool = False,
    ) -> tuple[Array, NDArray[np.int64], Array, Array]:
        found: tuple[Array, NDArray[np.int64], Array, Array] = incomplete_posteriors(
            rows.astype(np.float64),
            np.require(self.complete.weights, requirements=["C", "W"]),
            np.require(self.complete.order, requirements=["C", "W"]),
            self.complete.writable_coefficients(),
            with_responsibilities,
            with_missing_values,
        )
        return found

    def _in_frame(self, whitened: Array, whitened_scatter: Array) -> Statistics:
        """Statistics, from moments of whitened residuals y; rows of the frame are a + T y."""
        frame, order = self.complete.frame, self.complete.order
        found = Statistics.zero(frame, len(self.complete.weights))
        d, covariance_type = frame.n_features, frame.covariance_type
        counts, first = whitened[:, :1], whitened[:, 1 : 1 + d]
        a = self.places[order]
        t = self.factors if covariance_type == "tied" else self.factors[order]
        moved = (t @ first[:, :, np.newaxis])[:, :, 0] if t.ndim == 3 else t * first
        found.moments[order, :1] = counts
        found.moments[order, 1 : 1 + d] = counts * a + moved
        own = found.moments[:, 1 + d :]
        if covariance_type == "full":
            rows, columns = upper_triangle(d)
            second = t @ _symmetric(whitened[:, 1 + d :], d) @ np.swapaxes(t, 1, 2)
            second += _about(counts, a, moved)
            own[order] = second[:, rows, columns]
        elif covariance_type == "tied":
            second = t[0] @ _symmetric(whitened_scatter[np.newaxis], d)[0] @ t[0].T
            found.scatter[:] = second + _about(counts, a, moved).sum(axis=0)
        elif covariance_type == "diag":
            own[order] = counts * a**2 + 2.0 * a * moved + t**2 * whitened[:, 1 + d :]
        else:
            along = (counts * a**2 + 2.0 * a * moved).sum(axis=1, keepdims=True)
            own[order] = along + t[:, :1] ** 2 * whitened[:, 1 + d :]
        return found


def _about(counts: Array, a: Array, moved: Array) -> Array:
    """N a aᵀ + a bᵀ + b aᵀ (k, D, D) for the sums b of what is added to a."""
    half = 0.5 * counts * a + moved
    product = a[:, :, np.newaxis] * half[:, np.newaxis, :]
    return product + np.swapaxes(product, 1, 2)


def _symmetric(upper: Array, n_features: int) -> Array:
    """Matrices (k, D, D) from their upper triangles (k, D (D + 1) / 2)."""
    matrices = np.empty((len(upper), n_features, n_features))
    rows, columns = upper_triangle(n_features)
    matrices[:, rows, columns] = upper
    matrices[:, columns, rows] = upper
    return matrices


def _by_gaps(rows: NDArray[np.generic]) -> NDArray[np.intp]:
    """Places of the rows that lack some of their values, those with the same gaps together."""
    with np.errstate(over="ignore", invalid="ignore"):
        # NaN wherever a row has a NaN, and in few others.
        doubtful = np.flatnonzero(np.isnan(rows @ np.ones(rows.shape[1], rows.dtype)))
    values = rows[doubtful].astype(np.float64)
    gaps = _as_words(np.isnan(values))
    nothing = _as_words(np.ones((1, rows.shape[1]), dtype=np.bool_))
    lacks_some = gaps.any(axis=1) & (gaps != nothing).any(axis=1) & ~np.isinf(values).any(axis=1)
    order = np.lexsort(gaps[lacks_some].T)
    return np.asarray(doubtful[lacks_some][order], dtype=np.intp)


def _as_words(flags: NDArray[np.bool_]) -> NDArray[np.uint64]:
    """Flags (n, D) as bits of whole words (n, D / 64)."""
    packed = np.packbits(flags, axis=1)
    padding = -packed.shape[1] % 8
    return np.pad(packed, [(0, 0), (0, padding)]).view(np.uint64)
