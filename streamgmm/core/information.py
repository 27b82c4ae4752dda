"""What rows tell of a mixture's parameters: the gradient, and how sure it is in each direction.

A small move of a mixture is told in the coordinates in which EM sees it. With y = L⁻¹ (x - μ)
the whitened residual of a row from a component, these are the changes of

    N_k,   Σγy,   Σγ(yyᵀ - I),

each over the standard deviation √N_k that it has when labels are known. There the information of
labelled rows is the identity. The gradient of the log-likelihood is what an EM step moves, and the
information of unlabelled rows is I - J, J the matrix of linear convergence of EM: close to 1
along directions that the data determine well, close to 0 where EM is slow. It is the mean of the
squared gradients of single rows, and a few rows a parameter are enough to estimate it.

References
----------
Louis (1982), Finding the observed information matrix when using the EM algorithm.
Dempster, Laird & Rubin (1977), section 3, the rate of convergence.
Meilijson (1989), A fast improvement to the EM algorithm on its own terms.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from streamgmm.core.covariance import Array, symmetric, upper_triangle
from streamgmm.core.frame import Frame
from streamgmm.core.parameters import ParameterName, Parameters
from streamgmm.core.ridge import relative_ridge
from streamgmm.core.statistics import Statistics
from streamgmm.core.whitening import Whitening

#: A row says nothing of components that have a smaller share in it.
LEAST_RESPONSIBILITY = 3e-3
# Of the squared length of a residual, beyond its mean.
_DEVIATIONS = 8.0

Single = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Tangent:
    """The coordinates of small moves of a mixture; vectors have p entries.

    Attributes
    ----------
    parameters : Parameters
        Where the moves begin.
    frame : Frame
        Of the statistics that moves are taken from and given as.
    fixed : collection of {"weights", "means", "covariances"}
        What does not move: its coordinates are 0.
    """

    parameters: Parameters
    frame: Frame
    fixed: Collection[ParameterName] = ()

    def gradient(self, statistics: Statistics, reg_covar: float | Array = 0.0) -> Array:
        """What one EM step moves: the gradient of the mean log-likelihood, (p,).

        Parameters
        ----------
        statistics : Statistics
            Under the parameters, in the frame.
        reg_covar : float or ndarray of shape (D,)
            As the M-step adds it to the diagonal of covariances, in squared units of the columns.
        """
        moments, scatter = self._whitening.of_statistics(statistics)
        ridge, tied_ridge = self._ridge(reg_covar)
        moments[:, 1 + self.frame.n_features :] += moments[:, :1] * ridge
        unit, unit_scatter = self._units
        weight = statistics.weight
        if self.frame.covariance_type == "tied":
            scatter = scatter / weight + tied_ridge - unit_scatter
        moments = moments / weight
        # Mean 0 and covariance I of the rows of a component, whatever their number.
        second = slice(1 + self.frame.n_features, None)
        moments[:, second] -= moments[:, :1] * unit[second]
        moments[:, 0] -= self.parameters.weights
        return self.coordinates(moments, scatter)

    def coordinates(self, moments: Array, scatter: Array) -> Array:
        """Return whitened moments (K, M) and scatter, a unit of weight, as coordinates (p,)."""
        scales, scatter_scales = self._scales
        upper = scatter[upper_triangle(self.frame.n_features)] if scatter.size else np.empty(0)
        return np.concatenate([(moments * scales).ravel(), upper * scatter_scales])

    def second_moments(self, stacked: Array) -> tuple[Array, Array]:
        """Return matrices (K or 1, D, D) or variances (K, D) as second moments.

        Returns
        -------
        own : ndarray of shape (K, M - 1 - D)
        shared : ndarray of shape (D, D), or (0, 0)
            Tied: the sum of the matrices.
        """
        kind = self.frame.covariance_type
        if kind == "tied":
            return np.empty((self.parameters.n_components, 0)), stacked.sum(axis=0)
        if kind == "full":
            rows, columns = upper_triangle(self.frame.n_features)
            stacked = stacked[:, rows, columns]
        elif kind == "spherical":
            stacked = stacked.sum(axis=1, keepdims=True)
        return stacked, np.empty((0, 0))

    def moved(self, step: Array, like: Statistics) -> Statistics:
        """Statistics of which the mixture that lies a step (p,) away is the maximum.

        Parameters
        ----------
        step : ndarray of shape (p,)
        like : Statistics
            Whose counts of rows they have.
        """
        moments, scatter = self._unpack(step)
        unit, unit_scatter = self._units
        moments[:, 0] += self.parameters.weights
        second = slice(1 + self.frame.n_features, None)
        moments[:, second] += moments[:, :1] * unit[second]
        if self.frame.covariance_type == "tied":
            scatter = like.weight * (scatter + unit_scatter)
        found = self._whitening.in_frame(like.weight * moments, scatter)
        return replace(like, moments=found.moments, scatter=found.scatter)

    def size(self, step: Array) -> float:
        """Largest move of a component, in its own standard deviations."""
        moments, scatter = self.split(step)
        alive = self.parameters.weights > 0.0
        norms = np.linalg.norm(moments[alive], axis=1) / np.sqrt(self.parameters.weights[alive])
        return float(max(norms.max(initial=0.0), np.linalg.norm(scatter)))

    @property
    def free(self) -> Array:
        """1 for the coordinates that may move, else 0, (p,)."""
        scales, scatter_scales = self._scales
        return np.concatenate([scales.ravel() > 0.0, scatter_scales > 0.0]).astype(np.float64)

    @property
    def _whitening(self) -> Whitening:
        return Whitening.of(self.parameters, self.frame)

    @property
    def _units(self) -> tuple[Array, Array]:
        """Moments (M,) of one row of a component, 1, E y and E yyᵀ; of tied, E yyᵀ (D, D)."""
        d = self.frame.n_features
        kind = self.frame.covariance_type
        second = {
            "full": np.eye(d)[upper_triangle(d)] if kind == "full" else np.empty(0),
            "tied": np.empty(0),
            "diag": np.ones(d),
            "spherical": np.full(1, float(d)),
        }[kind]
        scatter = np.eye(d) if kind == "tied" else np.empty((0, 0))
        return np.concatenate([[1.0], np.zeros(d), second]), scatter

    def _ridge(self, reg_covar: float | Array) -> tuple[Array, Array]:
        """Return L⁻¹ diag(reg_covar) L⁻ᵀ as second moments of a row.

        They have shape (K, M - 1 - D), or of tied covariances (D, D).
        """
        inverse = self.parameters.stacked(self.parameters.inverse_factors)
        if not self.parameters.structure.is_triangular:
            return self.second_moments(reg_covar * inverse**2)
        largest, relative = relative_ridge(reg_covar)
        roots = inverse * np.sqrt(relative)
        return self.second_moments(largest * (roots @ np.swapaxes(roots, 1, 2)))

    @property
    def _scales(self) -> tuple[Array, Array]:
        """What turns moments (K, M) and scatter, a unit of weight, into coordinates; 0 if fixed."""
        d = self.frame.n_features
        weights = self.parameters.weights[:, np.newaxis]
        kind = self.frame.covariance_type
        triangle = _triangle_scales(d) if kind in ("full", "tied") else np.empty(0)
        second = {
            "full": triangle,
            "tied": np.empty(0),
            "diag": np.full(d, np.sqrt(0.5)),
            "spherical": np.full(1, np.sqrt(0.5 / d)),
        }[kind]
        moves = [name not in self.fixed for name in ("weights", "means", "covariances")]
        own = np.concatenate([[moves[0]], np.full(d, moves[1]), moves[2] * second])
        scales = np.zeros((len(weights), len(own)))
        np.divide(own, np.sqrt(weights), out=scales, where=weights > 0.0)
        return scales, moves[2] * triangle[: len(triangle) if kind == "tied" else 0]

    @property
    def n_shared(self) -> int:
        """Coordinates that are no component's own: those of tied covariances."""
        d = self.frame.n_features
        return d * (d + 1) // 2 if self.frame.covariance_type == "tied" else 0

    def split(self, vector: Array) -> tuple[Array, Array]:
        """Coordinates of the components (K, M), and of the scatter of tied."""
        k = self.parameters.n_components
        n_moments = self.parameters.structure.n_moments(self.frame.n_features)
        return vector[: k * n_moments].reshape(k, n_moments), vector[k * n_moments :]

    def _unpack(self, vector: Array) -> tuple[Array, Array]:
        """Moments and scatter, a unit of weight, of coordinates."""
        own, shared = self.split(vector)
        scales, scatter_scales = self._scales
        moments = np.divide(own, scales, out=np.zeros_like(own), where=scales > 0.0)
        if self.frame.covariance_type != "tied":
            return moments, np.empty((0, 0))
        upper = np.divide(
            shared, scatter_scales, out=np.zeros_like(shared), where=scatter_scales > 0.0
        )
        return moments, symmetric(upper[np.newaxis], self.frame.n_features)[0]


@dataclass(frozen=True, eq=False)
class _Members:
    """Rows in which a component has a share.

    Attributes
    ----------
    places : ndarray of shape (n_k,), int
    shares : ndarray of shape (n_k,), float32
        Responsibilities over √π_k.
    features : ndarray of shape (n_k, 1 + D), or of diag and spherical (n_k, M), float32
        1, y, and the centred squares of y in their coordinates.
    """

    places: NDArray[np.intp]
    shares: Single
    features: Single


@dataclass(frozen=True, eq=False)
class Information:
    """I - J, estimated from rows: products of it with vectors; build with :meth:`estimate`.

    Attributes
    ----------
    tangent : Tangent
    weights : ndarray of shape (n,), float32
        Of the rows; they sum to 1.
    members : list of _Members
        By component.
    damping : ndarray of shape (p,)
        Part of the information of labelled rows that is added, where rows are too few to tell of
        a component's parameters; all of it, and so EM's own step, where there are none.
    """

    tangent: Tangent
    weights: Single
    members: list[_Members]
    damping: Array

    @classmethod
    def estimate(
        cls,
        tangent: Tangent,
        rows: NDArray[np.floating],
        weights: Array,
        responsibilities: Array | scipy.sparse.csc_array,
    ) -> "Information":
        """The information that rows have.

        Parameters
        ----------
        tangent : Tangent
        rows : ndarray of shape (n, D)
            Without NaN.
        weights : ndarray of shape (n,)
        responsibilities : ndarray or csc_array of shape (n, K)
            Under the tangent's parameters; those below :data:`LEAST_RESPONSIBILITY` may be left
            out.
        """
        parameters = tangent.parameters
        columns = scipy.sparse.csc_array(responsibilities)
        inverse = parameters.stacked(parameters.inverse_factors)
        members = []
        for k, weight in enumerate(parameters.weights):
            own = slice(columns.indptr[k], columns.indptr[k + 1])
            shares = columns.data[own]
            is_member = shares > LEAST_RESPONSIBILITY
            places = columns.indices[own][is_member].astype(np.intp)
            shares = shares[is_member] / np.sqrt(weight) if places.size else np.empty(0)
            factor = inverse[k % len(inverse)]
            residuals = rows[places] - parameters.means[k]
            # Data may lie in any units; whitened they fit in float32.
            residuals = residuals @ factor.T if factor.ndim == 2 else residuals * factor
            _draw_in(residuals)
            features = _features(parameters.covariance_type, residuals.astype(np.float32))
            members.append(_Members(places, shares.astype(np.float32), features))
        counts = columns.sum(axis=0)
        n_own = parameters.structure.n_moments(parameters.n_features)
        ratios = n_own / np.maximum(counts, 1.0)
        damping = np.concatenate(
            [
                np.repeat(np.square(np.minimum(ratios, 1.0)), n_own),
                np.full(tangent.n_shared, min(parameters.n_features**2 / len(rows), 1.0) ** 2),
            ]
        )
        return cls(tangent, (weights / weights.sum()).astype(np.float32), members, damping)

    def product(self, vector: Array) -> Array:
        """(I - J) v, (p,): the gradients of single rows times their products with v, averaged."""
        free = self.tangent.free
        own, shared = (part.astype(np.float32) for part in self.tangent.split(vector * free))
        roots = np.sqrt(self.tangent.parameters.weights).astype(np.float32)
        along = np.zeros_like(self.weights)
        for k, members in enumerate(self.members):
            along[members.places] += self._project(members, own[k], shared, roots[k])
        along -= own[:, 0] @ roots
        along *= self.weights
        for k, members in enumerate(self.members):
            own[k], part = self._gather(members, along[members.places], roots[k])
            shared = part if k == 0 else shared + part
        own[:, 0] -= roots * along.sum()
        found: Array = (np.concatenate([own.ravel(), shared]) + self.damping * vector) * free
        return found

    def _project(self, members: _Members, own: Single, shared: Single, root: np.float32) -> Single:
        """Products (n_k,) of what a component adds to rows' gradients with a vector."""
        width = members.features.shape[1]
        # OpenBLAS 0.3.31 with AVX-512 multiplies what is left on the stack too if there are five
        # columns: products are right, but what was left may be a signalling NaN.
        with np.errstate(invalid="ignore"):
            found: Single = members.features @ own[:width]
        if self._is_quadratic:
            residuals = members.features[:, 1:]
            upper = own[width:] if width < len(own) else shared * root
            form = self._matrix(upper)
            found += np.einsum("ni,ni->n", residuals @ form, residuals) - np.trace(form)
        found *= members.shares
        return found

    def _gather(self, members: _Members, along: Single, root: np.float32) -> tuple[Single, Single]:
        """Sums over rows (n_k,) of what a component adds to their gradients: own, and shared."""
        parts = members.shares * along
        linear = (parts @ members.features).astype(np.float32, copy=False)
        nothing = np.empty(0, dtype=np.float32)
        if not self._is_quadratic:
            return linear, nothing
        residuals = members.features[:, 1:]
        d = residuals.shape[1]
        squares = (residuals * parts[:, np.newaxis]).T @ residuals
        squares -= parts.sum() * np.eye(d, dtype=np.float32)
        rows, columns = upper_triangle(d)
        upper: Single = squares[rows, columns] * _triangle_scales(d).astype(np.float32)
        if self.tangent.frame.covariance_type == "tied":
            return linear, (upper * root).astype(np.float32)
        return np.concatenate([linear, upper]).astype(np.float32), nothing

    @property
    def _is_quadratic(self) -> bool:
        return self.tangent.parameters.structure.is_triangular

    def _matrix(self, upper: Single) -> Single:
        """The matrix A of which yᵀ A y - tr A is the product of yyᵀ - I with coordinates."""
        d = self.tangent.frame.n_features
        rows, columns = upper_triangle(d)
        matrix = np.empty((d, d), dtype=np.float32)
        matrix[rows, columns] = matrix[columns, rows] = upper * np.where(
            rows == columns, np.sqrt(0.5), 0.5
        )
        return matrix


def _draw_in(residuals: Array) -> None:
    """Move residuals (n, D) that are no Gaussian's to where the last of a Gaussian's are.

    One row far away has so large a gradient that its square would pass for certainty.
    """
    d = residuals.shape[1]
    lengths = np.linalg.norm(residuals, axis=1)
    # Squared lengths have mean D and variance 2 D.
    longest = np.sqrt(d + _DEVIATIONS * np.sqrt(2.0 * d))
    far = lengths > longest
    residuals[far] *= (longest / lengths[far])[:, np.newaxis]


def _features(covariance_type: str, residuals: Single) -> Single:
    """1, y and, of diag and spherical, centred squares, over their standard deviations."""
    d = residuals.shape[1]
    columns = [np.ones((len(residuals), 1), dtype=np.float32), residuals]
    squares = residuals**2
    if covariance_type == "diag":
        columns.append((squares - 1.0) * np.sqrt(0.5, dtype=np.float32))
    elif covariance_type == "spherical":
        norms = squares.sum(axis=1, keepdims=True)
        columns.append((norms - d) * np.sqrt(0.5 / d, dtype=np.float32))
    found: Single = np.concatenate(columns, axis=1)
    return found


def _triangle_scales(n_features: int) -> Array:
    """Over the standard deviations of the upper triangle of yyᵀ: √2 on the diagonal, else 1."""
    rows, columns = upper_triangle(n_features)
    return np.where(rows == columns, np.sqrt(0.5), 1.0)
