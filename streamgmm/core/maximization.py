"""The M-step: from sufficient statistics to the parameters that maximise the likelihood.

Covariances are formed in the frame's coordinates u = B⁻¹ (x - o) and carried back as
Σ = B T Bᵀ, their factors with them: in whitened coordinates T is close to the identity, so
that even a standard deviation 1e8 times smaller than another keeps its digits.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from streamgmm.core.covariance import BLOCK_BYTES, Array, symmetric, triangular, variances
from streamgmm.core.frame import Frame
from streamgmm.core.parameters import ParameterName, Parameters
from streamgmm.core.statistics import Statistics

# Rounding leaves about this much of a second moment when the variance that is taken from it is 0.
_ROUNDING = 1e-13
# A component with less mass than this, in rows, has none.
_FEWEST_ROWS = 10.0 * np.finfo(np.float64).eps
# What a collapsed covariance is widened by, in variances of all the data: the first that makes it
# positive definite.
_FLOORS = (1e-12, 1e-8, 1e-4, 1.0)
# Roundings of the data that such a covariance spans at least.
_VISIBLE = 16.0
# No rounding is smaller, so that where data are 0 neither precisions nor whitened rows overflow.
_LEAST_ROUNDING = 1e-130


@dataclass(frozen=True)
class Maximum:
    """What an M-step found.

    Attributes
    ----------
    parameters : Parameters
    empty : tuple of int
        Components without mass: weight 0 from now on, mean and covariance as they were.
    collapsed : tuple of int
        Components whose covariance was singular and was widened (all of them for tied).
    """

    parameters: Parameters
    empty: tuple[int, ...] = ()
    collapsed: tuple[int, ...] = ()


def maximize(
    statistics: Statistics,
    previous: Parameters,
    *,
    reg_covar: float | Array = 0.0,
    fixed: Collection[ParameterName] = (),
) -> Maximum:
    """Parameters that maximise the expected log-likelihood of the statistics.

    Parameters
    ----------
    statistics : Statistics
    previous : Parameters
        Where held-fixed parameters, and those of components without mass, are taken from.
    reg_covar : float or ndarray of shape (D,)
        Added to the diagonal of each covariance, in squared units of the columns.
    fixed : collection of {"weights", "means", "covariances"}
        What keeps its previous value.

    Returns
    -------
    Maximum

    References
    ----------
    Bishop, Pattern Recognition and Machine Learning (2006), equations 9.24 to 9.27.
    """
    frame = statistics.frame
    counts = np.where(_has_mass(statistics), statistics.counts, 0.0)
    alive = np.flatnonzero(counts)
    offsets = np.zeros_like(previous.means)
    offsets[alive] = statistics.moments[alive, 1 : 1 + frame.n_features]
    offsets[alive] /= counts[alive, np.newaxis]

    weights, means = previous.weights, previous.means
    if "weights" not in fixed and alive.size:
        weights = counts / counts.sum()
    # From the mean that the covariance is taken about to the mean of the rows.
    shifts = np.zeros_like(offsets)
    if "means" in fixed:
        shifts = offsets - frame.coordinates(means)
    else:
        means = means.copy()
        means[alive] = frame.points(offsets)[alive]
    covariances, factors = previous.covariances, previous.factors
    collapsed: list[int] = []
    if "covariances" not in fixed and alive.size:
        covariances, factors = covariances.copy(), factors.copy()
        is_tied = frame.covariance_type == "tied"
        spread = _overall_variances(previous)
        places = (
            (covariances[np.newaxis], factors[np.newaxis]) if is_tied else (covariances, factors)
        )
        for update in _UPDATES[frame.covariance_type](statistics, alive, offsets, shifts):
            widened = update.apply(frame, means, reg_covar, spread, *places)
            collapsed += alive.tolist() if is_tied and widened else widened
    empty = np.flatnonzero((counts <= 0.0) & (previous.weights > 0.0))
    return Maximum(
        Parameters(frame.covariance_type, weights, means, covariances, factors),
        tuple(empty.tolist()),
        tuple(collapsed),
    )


def _has_mass(statistics: Statistics) -> NDArray[np.bool_]:
    """Whether a component has more than a few roundoffs of a row, (K,).

    With less its mean and covariance would be those of the one row that is nearest, and the
    component would be reborn on it. scikit-learn's M-step draws the line at the same mass.
    """
    row = statistics.weight / max(statistics.n_rows, 1)
    mass: NDArray[np.bool_] = statistics.counts > _FEWEST_ROWS * row
    return mass


@dataclass(frozen=True)
class _Update:
    """How the covariances of some components follow from their central moments.

    Attributes
    ----------
    components : ndarray of shape (k,), int
    routes : sequence of callables
        Functions of (places among the components, ridge (D,)) that return covariances and factors,
        the ridge added to the diagonals. A function raises LinAlgError if one is not positive
        definite; then all components take the next route, if the ridge is positive.
    """

    components: NDArray[np.intp]
    routes: Sequence[Callable[[slice, Array], tuple[Array, Array]]]

    def apply(
        self,
        frame: Frame,
        means: Array,
        reg_covar: float | Array,
        spread: Array,
        covariances: Array,
        factors: Array,
    ) -> list[int]:
        """Write stacked covariances and factors; return the components that had to be widened.

        Whose own width is no measure of what is narrow, nor are those of others if they collapse
        one after the other: that is the spread of all the data, variances (D,).
        """
        ridge = np.full(frame.n_features, reg_covar)
        resolution = _resolution(frame, means)[self.components]
        n, size = self.components.size, _rows_of_block(covariances)
        try:
            self._write(range(0, n, size), size, ridge, resolution, covariances, factors)
        except np.linalg.LinAlgError:
            return [
                int(k)
                for i, k in enumerate(self.components)
                if self._widen(i, spread, ridge, resolution, covariances, factors)
            ]
        return []

    def _write(
        self,
        starts: range,
        size: int,
        ridge: Array,
        resolution: Array,
        covariances: Array,
        factors: Array,
    ) -> None:
        """Write the components of some blocks, unless they are narrower than the data can be."""
        for route in self.routes:
            try:
                for start in starts:
                    block = slice(start, start + size)
                    own = self.components[block]
                    covariances[own], factors[own] = route(block, ridge)
                break
            except np.linalg.LinAlgError:
                if route is self.routes[-1] or not np.all(ridge > 0.0):
                    raise
        chosen = slice(starts.start, starts.stop)
        widths = _diagonals(factors) if factors.ndim == 3 else factors
        if np.any(widths[self.components[chosen]] <= resolution[chosen]):
            raise np.linalg.LinAlgError("a standard deviation is below the data's rounding")

    def _widen(
        self,
        i: int,
        spread: Array,
        ridge: Array,
        resolution: Array,
        covariances: Array,
        factors: Array,
    ) -> bool:
        """Write one component, with the smallest floor that makes it positive definite."""
        visible = np.square(_VISIBLE * resolution[i])
        floors = [floor * spread + visible for floor in _FLOORS]
        for added in (np.zeros_like(ridge), *floors):
            try:
                self._write(range(i, i + 1), 1, ridge + added, resolution, covariances, factors)
            except np.linalg.LinAlgError:
                continue
            return bool(np.any(added > 0.0))
        raise np.linalg.LinAlgError("a covariance is not finite")


def _rows_of_block(covariances: Array) -> int:
    """Return how many components are updated at once."""
    return max(1, BLOCK_BYTES // covariances[:1].nbytes)


def _full(
    statistics: Statistics, alive: NDArray[np.intp], offsets: Array, shifts: Array
) -> list[_Update]:
    frame, d = statistics.frame, statistics.frame.n_features
    is_centred = np.isin(alive, frame.centred)
    packed, centred = alive[~is_centred], alive[is_centred]

    def moments(components: NDArray[np.intp]) -> tuple[Array, Array]:
        """Second moments of a row of each component, about the origin and about the mean."""
        raw = symmetric(statistics.moments[components, 1 + d :], d)
        raw /= statistics.counts[components, np.newaxis, np.newaxis]
        return raw, raw - _outer(offsets[components]) + _outer(shifts[components])

    def scaled(k: slice, ridge: Array) -> tuple[Array, Array]:
        return _scaled(*moments(packed[k]), frame.scale, ridge)

    def whitened(
        k: slice, ridge: Array, root: Callable[[Array], Array], is_packed: bool
    ) -> tuple[Array, Array]:
        components = (packed if is_packed else centred)[k]
        raw, central = moments(components)
        if is_packed:
            bases = np.broadcast_to(np.diag(frame.scale), central.shape)
        else:
            bases = frame.factors[np.searchsorted(frame.centred, components)]
        return _whitened(raw, central, bases, ridge, root)

    # Where rounding has made T indefinite by more than the ridge, roots of T do without that part.
    of_packed, of_centred = (
        [partial(whitened, root=root, is_packed=is_packed) for root in (_cholesky, _spectral_roots)]
        for is_packed in (True, False)
    )
    updates = [_Update(packed, [scaled, *of_packed]), _Update(centred, of_centred)]
    return [update for update in updates if update.components.size]


def _tied(
    statistics: Statistics, alive: NDArray[np.intp], offsets: Array, shifts: Array
) -> list[_Update]:
    counts, bases = statistics.counts, statistics.frame.factors
    raw = statistics.scatter
    central = raw - (offsets.T * counts) @ offsets + (shifts.T * counts) @ shifts
    raw, central = (a[np.newaxis] / counts.sum() for a in (raw, central))
    roots = _cholesky, _spectral_roots
    routes = [lambda _, ridge, r=root: _whitened(raw, central, bases, ridge, r) for root in roots]
    return [_Update(np.array([0]), routes)]


def _diagonal(
    statistics: Statistics, alive: NDArray[np.intp], offsets: Array, shifts: Array
) -> list[_Update]:
    frame, d = statistics.frame, statistics.frame.n_features
    raw = statistics.moments[alive, 1 + d :] / statistics.counts[alive, np.newaxis]
    central = raw - np.square(offsets[alive]) + np.square(shifts[alive])
    scales = _own_scales(frame, statistics.n_components)[alive]
    return [_Update(alive, [lambda k, ridge: _separate(raw[k], central[k], scales[k], ridge)])]


def _spherical(
    statistics: Statistics, alive: NDArray[np.intp], offsets: Array, shifts: Array
) -> list[_Update]:
    frame, d = statistics.frame, statistics.frame.n_features
    raw = statistics.moments[alive, 1 + d] / (d * statistics.counts[alive])
    moved = np.square(shifts[alive]) - np.square(offsets[alive])
    central = raw + moved.mean(axis=1)
    scales = _own_scales(frame, statistics.n_components)[alive, 0]
    return [_Update(alive, [lambda k, ridge: _separate(raw[k], central[k], scales[k], ridge[0])])]


_UPDATES: dict[str, Callable[..., list[_Update]]] = {
    "full": _full,
    "tied": _tied,
    "diag": _diagonal,
    "spherical": _spherical,
}


def _overall_variances(parameters: Parameters) -> Array:
    """Variances (D,) of the whole mixture; of spherical ones their mean."""
    structure, weights = parameters.structure, parameters.weights
    own = variances(structure, parameters.stacked(parameters.covariances))
    deviations = parameters.means - weights @ parameters.means
    found: Array = weights @ (own + np.square(deviations))
    if parameters.covariance_type == "spherical":
        found[:] = found.mean()
    return found


def _resolution(frame: Frame, means: Array) -> Array:
    """Rounding of the data about the means: full and diag (K, D), tied (1, D), spherical (K,)."""
    eps = np.finfo(np.float64).eps
    rounding: Array = np.maximum(eps * (np.abs(means) + frame.scale), _LEAST_ROUNDING)
    if frame.covariance_type == "tied":
        rounding = rounding.min(axis=0, keepdims=True)
    elif frame.covariance_type == "spherical":
        rounding = rounding.min(axis=1)
    return rounding


def _outer(vectors: Array) -> Array:
    return vectors[:, :, np.newaxis] * vectors[:, np.newaxis, :]


def _own_scales(frame: Frame, n_components: int) -> Array:
    """Scales (K, D) of the frame's coordinates, component by component."""
    scales = np.repeat(frame.scale[np.newaxis], n_components, axis=0)
    scales[frame.centred] = frame.factors
    return scales


def _require_spread(raw: Array, central: Array, ridge: Array | float) -> None:
    """Refuse variances that are nothing but rounding, where no ridge stands in for them."""
    if np.any((central <= _ROUNDING * raw) & (np.asarray(ridge) == 0.0)):
        raise np.linalg.LinAlgError("a variance is 0 to rounding")


def _diagonals(matrices: Array) -> Array:
    return np.diagonal(matrices, axis1=-2, axis2=-1)


def _separate(
    raw: Array, central: Array, scales: Array, ridge: Array | float
) -> tuple[Array, Array]:
    """Variances s² T + ridge and their roots."""
    _require_spread(raw, central, ridge)
    variances: Array = np.maximum(central, 0.0) * np.square(scales) + ridge
    return variances, np.sqrt(variances)


def _scaled(raw: Array, central: Array, scale: Array, ridge: Array) -> tuple[Array, Array]:
    """Σ = diag(s) T diag(s) + diag(ridge) and its factor; T (k, D, D), s (D,)."""
    _require_spread(_diagonals(raw), _diagonals(central), ridge)
    covariances: Array = central * np.outer(scale, scale) + np.diag(ridge)
    return covariances, _cholesky(covariances)


def _cholesky(matrices: Array) -> Array:
    return np.linalg.cholesky(matrices).astype(np.float64, copy=False)


def _spectral_roots(matrices: Array) -> Array:
    """Roots R (k, D, D), R Rᵀ = T, of symmetric matrices T without their negative part."""
    eigenvalues, vectors = np.linalg.eigh(matrices)
    roots: Array = vectors * np.sqrt(np.maximum(eigenvalues, 0.0))[:, np.newaxis, :]
    return roots


def _whitened(
    raw: Array, central: Array, bases: Array, ridge: Array, root: Callable[[Array], Array]
) -> tuple[Array, Array]:
    """Σ = B T Bᵀ + diag(ridge) and its factor, which keeps the digits of B; T, B (k, D, D).

    The factor is that of (B root(T), diag(√ridge)).
    """
    # Each coordinate may be of several columns.
    _require_spread(_diagonals(raw), _diagonals(central), ridge.min())
    spread = bases @ root(central)
    ridges = np.broadcast_to(np.diag(np.sqrt(ridge)), spread.shape)
    stacked = np.concatenate([np.swapaxes(spread, 1, 2), ridges], axis=1)
    factors = triangular(stacked)
    if not np.all(_diagonals(factors) > 0.0):
        raise np.linalg.LinAlgError("a covariance factor is singular")
    covariances = factors @ np.swapaxes(factors, 1, 2)
    return 0.5 * (covariances + np.swapaxes(covariances, 1, 2)), factors
