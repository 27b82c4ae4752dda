"""Gradient and information: what rows determine of the parameters, direction by direction.

A small step of a mixture is expressed in the coordinates of EM. With y = L⁻¹ (x - μ)
the whitened residual of a row from a component, the coordinates are the changes of

    N_k,   Σγy,   Σγ(yyᵀ - I),

each divided by the standard deviation √N_k that it has when labels are known. Noise adds the change
of N_0 as the last coordinate. In these coordinates the information of labelled rows is the
identity. The gradient of the log-likelihood is the EM step, and the information of unlabelled rows
is I - J, with J the matrix of linear convergence of EM. This information is close to 1 along
directions that the data determine well, and close to 0 where EM is slow.

J is the mean over rows of the covariance that the gradient of a labelled row has if its label is
drawn from the responsibilities. It is 0 for rows that belong to one component, so that only the
other ones are kept. The mean of squared gradients of unlabelled rows is I - J too, but only if rows
have the distribution of the mixture, which those of real data do not have. Along directions of
little information it has the smaller error: it is never negative.

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
    """Rows in which a component has a share, among those that are kept.

    Attributes
    ----------
    places : ndarray of shape (n_k,), int
    shares : ndarray of shape (n_k,), float32
        Responsibilities over √π_k.
    features : ndarray of shape (n_k, m), float32
        1, y, and the other quantities in which the gradient is linear.
    root : float32
        √π_k.
    """

    places: NDArray[np.intp]
    shares: Single
    features: Single
    root: np.float32


@dataclass(frozen=True, eq=False)
class Information:
    """I - J, estimated from rows: products of it with vectors; build with :meth:`estimate`.

    Attributes
    ----------
    tangent : Tangent
    weights : ndarray of shape (n,), float32
        Weights of the rows that are kept; those of all rows sum to 1.
    members : list of _Members
        Rows of each component.
    certainty : ndarray of shape (p,)
        Factors of the lines and columns of J. They are less than 1 where a component has few rows,
        and 0 where it has none; this gives EM's own step.
    added : ndarray of shape (p,)
        Diagonal of the information that is not from rows.
    noise : _Members or None
        Rows of the noise, if it has weight; their features are 1.
    is_squared : bool
        Whether it is the mean of squared gradients, of all rows.
    """

    tangent: Tangent
    weights: Single
    members: list[_Members]
    certainty: Array
    added: Array
    noise: _Members | None = None
    is_squared: bool = False

    @classmethod
    def estimate(
        cls,
        tangent: Tangent,
        rows: NDArray[np.floating],
        weights: Array,
        responsibilities: Array | scipy.sparse.csr_array,
        is_squared: bool = False,
    ) -> "Information":
        """Return the information that rows have.

        Parameters
        ----------
        tangent : Tangent
        rows : ndarray of shape (n, D)
            Without NaN.
        weights : ndarray of shape (n,)
        responsibilities : ndarray or csr_array of shape (n, K)
            Responsibilities under the tangent's parameters; the result of
            :func:`kept_responsibilities` is enough. A mixture with noise has one more column,
            for the noise.
        is_squared : bool
            Whether it is to be the mean of squared gradients.
        """
        parameters, structure = tangent.parameters, tangent.parameters.structure
        if not isinstance(responsibilities, scipy.sparse.csr_array):
            responsibilities = kept_responsibilities(responsibilities, is_squared)
        is_kept = np.diff(responsibilities.indptr) > 0
        columns = responsibilities[is_kept].tocsc()
        kept = rows.take(np.flatnonzero(is_kept), axis=0)
        inverse = parameters.stacked(parameters.inverse_factors)
        members = []
        for k, weight in enumerate(parameters.weights):
            places, shares = _column(columns, k)
            residuals = kept.take(places, axis=0).astype(np.float64, copy=False)
            residuals -= parameters.means[k]
            # Data may have any units; whitened residuals fit in float32.
            residuals = structure.scaled_rows(residuals, inverse, k)
            _draw_in(residuals)
            features = structure.row_features(residuals.astype(np.float32))
            members.append(_members(places, shares, features, weight))
        noise = None
        if parameters.noise is not None and parameters.noise.weight > 0.0:
            places, shares = _column(columns, parameters.n_components)
            ones = np.ones((len(places), 1), dtype=np.float32)
            noise = _members(places, shares, ones, parameters.noise.weight)
        return cls(
            tangent,
            (weights[is_kept] / weights.sum()).astype(np.float32),
            members,
            _certainty(tangent, len(rows)),
            np.zeros(len(tangent.free)),
            noise,
            is_squared,
        )

    def product(self, vector: Array) -> Array:
        """Return (I - J) v, (p,)."""
        feasible = self.tangent.feasible
        moving = self._balanced(feasible(vector))
        if self.is_squared:
            damping = 1.0 - np.square(self.certainty)
            found = self._balanced(self._of_rows(moving)) + damping * vector
        else:
            lost = self.certainty * self._of_rows(self.certainty * moving)
            found = self._balanced(moving - lost)
        return feasible(found + self.added * vector)

    def _of_rows(self, moving: Array) -> Array:
        """Return the mean over rows of their part of the product with a vector, (p,).

        It is J v, what rows do not say because their labels are not known, or the mean of each
        row's gradient times its product with v.
        """
        structure, tangent = self.tangent.parameters.structure, self.tangent
        n_own = structure.n_own(tangent.frame.n_features)
        own, shared = (part.astype(np.float32) for part in tangent.split(moving))
        noise = tangent.noise_of(moving).astype(np.float32)
        shared_root = np.float32(tangent.shared_root)
        shared *= shared_root
        # The gradient of a row along the vector, if the row belongs to a component; their mean.
        of_labelled = [
            structure.along(members.features, own[k], shared, members.root) / members.root
            for k, members in enumerate(self.members)
        ]
        of_rows = np.zeros_like(self.weights)
        for members, along in zip(self.members, of_labelled, strict=True):
            of_rows[members.places] += members.shares * members.root * along
        of_noise = np.float32(0.0)
        if self.noise is not None:
            of_noise = noise[0] / self.noise.root
            of_rows[self.noise.places] += self.noise.shares * self.noise.root * of_noise
        shared_sums = np.zeros_like(shared)
        for k, (members, along) in enumerate(zip(self.members, of_labelled, strict=True)):
            of_members = of_rows[members.places]
            along = of_members if self.is_squared else along - of_members
            along *= self.weights[members.places] * members.shares
            own[k], part = structure.gathered(members.features, along, members.root, n_own)
            shared_sums += part
        if self.noise is not None:
            places = self.noise.places
            parts = self.weights[places] * self.noise.shares
            noise[:] = parts @ (of_rows[places] if self.is_squared else of_noise - of_rows[places])
        return np.concatenate([own.ravel(), shared_sums * shared_root, noise], dtype=np.float64)

    def _balanced(self, vector: Array) -> Array:
        """Return a vector (p,) without the change of all weights together, which is no change."""
        tangent = self.tangent
        found = vector.copy()
        own, noise = tangent.split(found)[0], tangent.noise_of(found)
        roots = np.sqrt(tangent.parameters.weights)
        noise_roots = np.sqrt([1.0 - np.square(roots).sum()] if len(noise) else [])
        excess = roots @ own[:, 0] + noise_roots @ noise
        own[:, 0] -= excess * roots
        noise -= excess * noise_roots
        return found


def kept_responsibilities(
    responsibilities: Array, is_squared: bool = False
) -> scipy.sparse.csr_array:
    """Return the responsibilities (n, K) in rows of which information is estimated.

    Components with a small share in a row are ignored for this row; the others' shares sum to 1.
    Rows of no component have no entries. Nor have rows of one component, which lose nothing, but
    for squared gradients.

    Parameters
    ----------
    responsibilities : ndarray of shape (n, K)
        C-contiguous.
    is_squared : bool
    """
    n, k = responsibilities.shape
    has_share = responsibilities > LEAST_RESPONSIBILITY
    counts = np.count_nonzero(has_share, axis=1)
    is_certain = counts < (1 if is_squared else 2)
    has_share[is_certain] = False
    counts[is_certain] = 0
    entries = np.flatnonzero(has_share)
    shares = responsibilities.reshape(-1)[entries]
    ends = np.concatenate([[0], np.cumsum(counts)])
    found = scipy.sparse.csr_array((shares, entries % k, ends), shape=(n, k))
    found.data /= np.repeat(found.sum(axis=1), counts)
    return found


def _column(columns: scipy.sparse.csc_array, k: int) -> tuple[NDArray[np.intp], Array]:
    """Return the indices and the values of the entries of a column."""
    own = slice(columns.indptr[k], columns.indptr[k + 1])
    return columns.indices[own].astype(np.intp), columns.data[own]


def _members(places: NDArray[np.intp], shares: Array, features: Single, weight: float) -> _Members:
    root = np.sqrt(weight) if weight > 0.0 else 1.0
    return _Members(places, (shares / root).astype(np.float32), features, np.float32(root))


def _certainty(tangent: Tangent, n_rows: int) -> Array:
    """Return the factors (p,) of the lines and columns of J that is estimated from some rows."""
    parameters, structure = tangent.parameters, tangent.parameters.structure
    n_own = structure.n_own(parameters.n_features)
    n_together = max(structure.n_scatter(parameters.n_features) ** 2, tangent.n_shared)
    ratios = [
        np.repeat(n_own / np.maximum(n_rows * parameters.weights, 1.0), n_own),
        np.full(tangent.n_shared, n_together / n_rows),
    ]
    if parameters.noise is not None:
        ratios.append(np.array([1.0 / max(n_rows * parameters.noise.weight, 1.0)]))
    found: Array = np.sqrt(1.0 - np.square(np.minimum(np.concatenate(ratios), 1.0)))
    return found


def _draw_in(residuals: Array) -> None:
    """Shorten residuals (n, D) that are longer than almost all residuals of a Gaussian.

    The covariance of the gradient of one row far away would otherwise be that of many rows.
    """
    d = residuals.shape[1]
    squared = np.einsum("nd,nd->n", residuals, residuals)
    # Squared lengths have mean D and variance 2 D.
    most = d + _DEVIATIONS * np.sqrt(2.0 * d)
    far = squared > most
    residuals[far] *= np.sqrt(most / squared[far])[:, np.newaxis]
