"""Gradient and information: what rows determine of the parameters, direction by direction.

A small step of a mixture is expressed in the coordinates of EM. With y = L⁻¹ (x - μ)
the whitened residual of a row from a component, the coordinates are the changes of

    N_k,   Σγy,   Σγ(yyᵀ - I),

each divided by the standard deviation √N_k that it has when labels are known. Noise adds the change
of N_0 as the last coordinate. In these coordinates the information of labelled rows is the
identity. The gradient of the log-likelihood is the EM step, and the information of unlabelled rows
is I - J, with J the matrix of linear convergence of EM. This information is close to 1 along
directions that the data determine well, and close to 0 where EM is slow. It is the mean of the
squared gradients of single rows. A few rows per parameter are enough to estimate it.

References
----------
Louis (1982), Finding the observed information matrix when using the EM algorithm.
Dempster, Laird & Rubin (1977), section 3, the rate of convergence.
Meilijson (1989), A fast improvement to the EM algorithm on its own terms.
"""

from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from streamgmm.core.frame import Frame
from streamgmm.core.parameters import PARAMETER_NAMES, Fixed, Parameters, held_components
from streamgmm.core.statistics import Statistics
from streamgmm.core.structures import Array, CovarianceStructure
from streamgmm.core.whitening import Whitening

#: Components with a smaller share in a row are ignored for this row.
LEAST_RESPONSIBILITY = 3e-3
# Least sum of weights that a division is made by.
_LEAST_WEIGHT = 1e-300
# Largest excess of the squared length of a residual over its mean, in standard deviations.
_DEVIATIONS = 8.0

Single = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Tangent:
    """The coordinates of small steps of a mixture; vectors have p entries.

    Attributes
    ----------
    parameters : Parameters
        The parameters at which steps begin.
    frame : Frame
        Frame of the statistics that are converted to coordinates and back.
    fixed : collection of {"weights", "means", "covariances"}, or mapping of these to masks
        Parameters that are held fixed: their coordinates are 0.
    """

    parameters: Parameters
    frame: Frame
    fixed: Fixed = ()

    def gradient(self, statistics: Statistics, reg_covar: float | Array = 0.0) -> Array:
        """Return the step of EM, which is the gradient of the mean log-likelihood, (p,).

        Parameters
        ----------
        statistics : Statistics
            Statistics under the parameters, in the frame.
        reg_covar : float or ndarray of shape (D,)
            Ridge that the M-step adds to the diagonal of covariances, in squared units of the
            columns.
        """
        moments, scatter = self._whitening.of_statistics(statistics)
        inverse = self.parameters.stacked(self.parameters.inverse_factors)
        ridge, scatter_ridge = self._structure.ridge_moments(inverse, reg_covar)
        moments[:, 1 + self.frame.n_features :] += moments[:, :1] * ridge
        unit, unit_scatter = self._units
        weight = statistics.weight
        if self.parameters.noise is not None:
            part = statistics.counts.sum() / weight
            scatter_ridge, unit_scatter = part * scatter_ridge, part * unit_scatter
        scatter = scatter / weight + scatter_ridge - unit_scatter
        moments = moments / weight
        # Subtract the moments of rows with mean 0 and covariance I.
        second = slice(1 + self.frame.n_features, None)
        moments[:, second] -= moments[:, :1] * unit[second]
        moments[:, 0] -= self.parameters.weights
        return self.coordinates(moments, scatter)

    def coordinates(self, moments: Array, scatter: Array) -> Array:
        """Return whitened moments (K, M) and scatter, per unit of weight, as coordinates (p,)."""
        own, shared = self._structure.to_coordinates(moments, scatter, self.frame.n_features)
        scales, shared_scales = self._scales
        own = own * scales
        self._balance(own)
        # All changes of weights together are 0.
        noise = -moments[:, 0].sum() * self._noise_scale
        return np.concatenate([own.ravel(), shared * shared_scales, noise])

    def feasible(self, vector: Array) -> Array:
        """Return the part of a vector (p,) along which the mixture may move."""
        found: Array = vector * self.free
        self._balance(self.split(found)[0])
        return found

    def _balance(self, own: Array) -> None:
        """Take from moves of some weights, if others are held, what would change their sum.

        Where none is held the sum of all responsibilities of a row sees to it.

        Parameters
        ----------
        own : ndarray of shape (K, m)
            Coordinates of the components; changed in place.
        """
        is_held = held_components(self.fixed, "weights", len(own))
        if is_held.any() and not is_held.all():
            roots = np.where(is_held, 0.0, np.sqrt(self.parameters.weights))
            length = max(float(roots @ roots), _LEAST_WEIGHT)
            own[:, 0] -= roots * (float(own[:, 0] @ roots) / length)

    def moved(self, step: Array, like: Statistics) -> Statistics:
        """Return statistics whose M-step gives the mixture that lies a step (p,) away.

        Parameters
        ----------
        step : ndarray of shape (p,)
        like : Statistics
            Statistics whose counts of rows are copied.
        """
        moments, scatter = self._unpack(step)
        unit, unit_scatter = self._units
        moments[:, 0] += self.parameters.weights
        second = slice(1 + self.frame.n_features, None)
        moments[:, second] += moments[:, :1] * unit[second]
        if self.parameters.noise is not None:
            unit_scatter = moments[:, 0].sum() * unit_scatter
        scatter = like.weight * (scatter + unit_scatter)
        found = self._whitening.in_frame(like.weight * moments, scatter)
        return replace(like, moments=found.moments, scatter=found.scatter)

    def size(self, step: Array) -> float:
        """Return the largest change of a component, in its own standard deviations."""
        own, shared = self.split(step)
        alive = self.parameters.weights > 0.0
        norms = np.linalg.norm(own[alive], axis=1) / np.sqrt(self.parameters.weights[alive])
        widening = np.linalg.norm(shared * self.shared_root)
        noise = np.abs(self.noise_of(step) * self._noise_scale)
        return float(max(norms.max(initial=0.0), widening, noise.max(initial=0.0)))

    @property
    def free(self) -> Array:
        """1 for the coordinates that may change, else 0, (p,)."""
        scales, shared_scales = self._scales
        moves = [scales.ravel() > 0.0, shared_scales > 0.0, self._noise_scale > 0.0]
        return np.concatenate(moves).astype(np.float64)

    @property
    def _whitening(self) -> Whitening:
        return Whitening.of(self.parameters, self.frame)

    @property
    def _structure(self) -> CovarianceStructure:
        return self.parameters.structure

    @property
    def _units(self) -> tuple[Array, Array]:
        """Moments (M,) of one row of a component, 1, E y and second ones, and its scatter."""
        d = self.frame.n_features
        second, scatter = self._structure.unit_moments(d)
        return np.concatenate([[1.0], np.zeros(d), second]), scatter

    @property
    def _scales(self) -> tuple[Array, Array]:
        """Factors that turn own (K, m) and shared (s,) moments per unit of weight into coordinates.

        The factors are 0 for fixed parameters.
        """
        d = self.frame.n_features
        weights = self.parameters.weights[:, np.newaxis]
        second, shared = self._structure.tangent_scales(d)
        free = [~held_components(self.fixed, name, len(weights)) for name in PARAMETER_NAMES]
        own = np.column_stack(
            [free[0], np.repeat(free[1][:, None], d, 1), np.outer(free[2], second)]
        )
        scales = np.zeros(own.shape)
        np.divide(own, np.sqrt(weights), out=scales, where=weights > 0.0)
        return scales, free[2].any() * self.shared_root * shared

    @property
    def shared_root(self) -> float:
        """1/√(1 - π_0): a shared covariance is that of the rows that are no noise."""
        if self.parameters.noise is None:
            return 1.0
        return float(1.0 / np.sqrt(self.parameters.weights.sum()))

    @property
    def n_shared(self) -> int:
        """Number of coordinates that no component has of its own: those of a shared covariance."""
        return self._structure.n_shared(self.frame.n_features)

    def split(self, vector: Array) -> tuple[Array, Array]:
        """Return the coordinates of the components (K, m), and the shared ones."""
        k = self.parameters.n_components
        n_own = self._structure.n_own(self.frame.n_features)
        end = len(vector) - len(self._noise_scale)
        return vector[: k * n_own].reshape(k, n_own), vector[k * n_own : end]

    def noise_of(self, vector: Array) -> Array:
        """Return the coordinate of the weight of the noise, (1,), or (0,) without noise."""
        return vector[len(vector) - len(self._noise_scale) :]

    @property
    def _noise_scale(self) -> Array:
        """The factor that turns a change of the weight of the noise into a coordinate, (1,).

        It is 0 if the noise has no weight; without noise there is none, (0,).
        """
        noise = self.parameters.noise
        if noise is None:
            return np.empty(0)
        is_free = noise.weight > 0.0 and "weights" not in self.fixed
        return np.array([1.0 / np.sqrt(noise.weight) if is_free else 0.0])

    def _unpack(self, vector: Array) -> tuple[Array, Array]:
        """Return moments and scatter, per unit of weight, from coordinates."""
        own, shared = (
            np.divide(part, scales, out=np.zeros_like(part), where=scales > 0.0)
            for part, scales in zip(self.split(vector), self._scales, strict=True)
        )
        return self._structure.from_coordinates(
            own, shared, self.parameters.shares, self.frame.n_features
        )


@dataclass(frozen=True, eq=False)
class _Members:
    """Rows in which a component has a share.

    Attributes
    ----------
    places : ndarray of shape (n_k,), int
    shares : ndarray of shape (n_k,), float32
        Responsibilities over √π_k.
    features : ndarray of shape (n_k, m), float32
        1, y, and the other quantities in which the gradient is linear.
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
        Weights of the rows; they sum to 1.
    members : list of _Members
        Rows of each component.
    noise : _Members or None
        Rows of the noise, if it has weight; their features are 1.
    damping : ndarray of shape (p,)
        Part of the information of labelled rows that is added where a component has few rows. It
        is 1 where a component has none; this gives EM's own step.
    """

    tangent: Tangent
    weights: Single
    members: list[_Members]
    damping: Array
    noise: _Members | None = None

    @classmethod
    def estimate(
        cls,
        tangent: Tangent,
        rows: NDArray[np.floating],
        weights: Array,
        responsibilities: Array | scipy.sparse.csc_array,
    ) -> "Information":
        """Return the information that rows have.

        Parameters
        ----------
        tangent : Tangent
        rows : ndarray of shape (n, D)
            Without NaN.
        weights : ndarray of shape (n,)
        responsibilities : ndarray or csc_array of shape (n, K)
            Responsibilities under the tangent's parameters; entries below
            :data:`LEAST_RESPONSIBILITY` may be missing. A mixture with noise has one more column,
            for the noise.
        """
        parameters, structure = tangent.parameters, tangent.parameters.structure
        columns = scipy.sparse.csc_array(responsibilities)
        inverse = parameters.stacked(parameters.inverse_factors)
        members = []
        for k, weight in enumerate(parameters.weights):
            own = slice(columns.indptr[k], columns.indptr[k + 1])
            shares = columns.data[own]
            is_member = shares > LEAST_RESPONSIBILITY
            places = columns.indices[own][is_member].astype(np.intp)
            shares = shares[is_member] / np.sqrt(weight) if places.size else np.empty(0)
            residuals = rows[places] - parameters.means[k]
            # Data may have any units; whitened residuals fit in float32.
            residuals = structure.scaled_rows(residuals, inverse, k)
            _draw_in(residuals)
            features = structure.row_features(residuals.astype(np.float32))
            members.append(_Members(places, shares.astype(np.float32), features))
        counts = columns.sum(axis=0)
        n_own = structure.n_own(parameters.n_features)
        n_together = max(structure.n_scatter(parameters.n_features) ** 2, tangent.n_shared)
        ratios = n_own / np.maximum(counts[: parameters.n_components], 1.0)
        damping = np.concatenate(
            [
                np.repeat(np.square(np.minimum(ratios, 1.0)), n_own),
                np.full(tangent.n_shared, min(n_together / len(rows), 1.0) ** 2),
            ]
        )
        noise = None
        if parameters.noise is not None:
            noise = _members_of_noise(columns, parameters.noise.weight)
            part = min(1.0 / max(counts[-1], 1.0), 1.0) ** 2
            damping = np.append(damping, part)
        return cls(tangent, (weights / weights.sum()).astype(np.float32), members, damping, noise)

    def product(self, vector: Array) -> Array:
        """Return (I - J) v, (p,): the mean over rows of their gradient times its product with v."""
        feasible = self.tangent.feasible
        moving = feasible(vector)
        own, shared = (part.astype(np.float32) for part in self.tangent.split(moving))
        noise = self.tangent.noise_of(moving).astype(np.float32)
        shared_root = np.float32(self.tangent.shared_root)
        shared *= shared_root
        roots = np.sqrt(self.tangent.parameters.weights).astype(np.float32)
        along = np.zeros_like(self.weights)
        for k, members in enumerate(self.members):
            along[members.places] += self._project(members, own[k], shared, roots[k])
        along -= own[:, 0] @ roots
        if self.noise is not None:
            along[self.noise.places] += self.noise.shares * noise
            along -= noise * self._noise_root
        along *= self.weights
        for k, members in enumerate(self.members):
            own[k], part = self._gather(members, along[members.places], roots[k])
            shared = part if k == 0 else shared + part
        shared = shared * shared_root
        own[:, 0] -= roots * along.sum()
        if self.noise is not None:
            noise[:] = self.noise.shares @ along[self.noise.places] - self._noise_root * along.sum()
        return feasible(np.concatenate([own.ravel(), shared, noise]) + self.damping * vector)

    @property
    def _noise_root(self) -> np.float32:
        noise = self.tangent.parameters.noise
        return np.float32(0.0 if noise is None else np.sqrt(noise.weight))

    def _project(self, members: _Members, own: Single, shared: Single, root: np.float32) -> Single:
        """Return products (n_k,) of a vector with a component's parts of the rows' gradients."""
        structure = self.tangent.parameters.structure
        found = structure.along(members.features, own, shared, root)
        found *= members.shares
        return found

    def _gather(self, members: _Members, along: Single, root: np.float32) -> tuple[Single, Single]:
        """Return own and shared sums over rows of a component's parts of the rows' gradients."""
        parts, structure = members.shares * along, self.tangent.parameters.structure
        n_own = structure.n_own(self.tangent.frame.n_features)
        return structure.gathered(members.features, parts, root, n_own)


def _members_of_noise(columns: scipy.sparse.csc_array, weight: float) -> _Members | None:
    """Return the rows of the noise, from the last column of responsibilities."""
    own = slice(columns.indptr[-2], columns.indptr[-1])
    shares = columns.data[own]
    if weight <= 0.0:
        return None
    is_member = shares > LEAST_RESPONSIBILITY
    shares = (shares[is_member] / np.sqrt(weight)).astype(np.float32)
    places = columns.indices[own][is_member].astype(np.intp)
    return _Members(places, shares, np.ones((len(places), 1), dtype=np.float32))


def _draw_in(residuals: Array) -> None:
    """Shorten residuals (n, D) that are longer than almost all residuals of a Gaussian.

    The squared gradient of one row far away would otherwise count as much information.
    """
    d = residuals.shape[1]
    lengths = np.linalg.norm(residuals, axis=1)
    # Squared lengths have mean D and variance 2 D.
    longest = np.sqrt(d + _DEVIATIONS * np.sqrt(2.0 * d))
    far = lengths > longest
    residuals[far] *= (longest / lengths[far])[:, np.newaxis]
