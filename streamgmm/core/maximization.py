"""The M-step: from sufficient statistics to the parameters that maximise the likelihood.

Covariances are formed in the frame's coordinates u = B⁻¹ (x - o) and carried back as
Σ = B T Bᵀ, their factors with them: in whitened coordinates T is close to the identity, so
that even a standard deviation 1e8 times smaller than another keeps its digits.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamgmm.core.covariance import Array
from streamgmm.core.frame import Frame
from streamgmm.core.parameters import ParameterName, Parameters
from streamgmm.core.statistics import Statistics

# Rounding leaves about this much of a second moment when the variance that is taken from it is 0.
_ROUNDING = 1e-13
# What a collapsed covariance is widened by, in squared scales of the frame: the first that
# makes it positive definite.
_FLOORS = (1e-12, 1e-8, 1e-4, 1.0)


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
    reg_covar: float = 0.0,
    fixed: Collection[ParameterName] = (),
) -> Maximum:
    """Parameters that maximise the expected log-likelihood of the statistics.

    Parameters
    ----------
    statistics : Statistics
    previous : Parameters
        Where held-fixed parameters, and those of components without mass, are taken from.
    reg_covar : float
        Added to the diagonal of each covariance, in squared data units.
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
    counts = statistics.counts
    alive = np.flatnonzero(counts > 0.0)
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
        update = _COVARIANCES[frame.covariance_type]
        covariances, factors, collapsed = update(
            statistics, alive, offsets, shifts, previous, reg_covar
        )
    empty = np.flatnonzero((counts <= 0.0) & (previous.weights > 0.0))
    return Maximum(
        Parameters(frame.covariance_type, weights, means, covariances, factors),
        tuple(empty.tolist()),
        tuple(collapsed),
    )


_Update = tuple[Array, Array]
_Covariances = tuple[Array, Array, list[int]]


def _widened(
    update: Callable[[Array], _Update], frame: Frame, reg_covar: float
) -> tuple[_Update, bool]:
    """Call update with the smallest ridge (D,) on the diagonal that it accepts."""
    for floor in (0.0, *_FLOORS):
        try:
            return update(reg_covar + floor * np.square(frame.scale)), floor > 0.0
        except np.linalg.LinAlgError:
            continue
    raise np.linalg.LinAlgError(  # pragma: no cover - only moments with NaN come here
        "a covariance cannot be made positive definite"
    )


def _require_spread(central: Array, raw: Array, ridge: Array) -> None:
    """Refuse variances that are nothing but rounding, where no ridge stands in for them."""
    if np.any((central <= _ROUNDING * raw) & (ridge == 0.0)):
        raise np.linalg.LinAlgError("a variance is 0 to rounding")


def _full(
    statistics: Statistics,
    alive: NDArray[np.intp],
    offsets: Array,
    shifts: Array,
    previous: Parameters,
    reg_covar: float,
) -> _Covariances:
    frame, d = statistics.frame, statistics.frame.n_features
    upper = np.triu_indices(d)
    raw = np.zeros((statistics.n_components, d, d))
    raw[:, upper[0], upper[1]] = statistics.moments[:, 1 + d :]
    raw[alive] /= statistics.counts[alive, np.newaxis, np.newaxis]
    raw[:, upper[1], upper[0]] = raw[:, upper[0], upper[1]]
    central = raw - _outer(offsets) + _outer(shifts)
    is_centred = np.isin(alive, frame.centred)
    place = np.searchsorted(frame.centred, alive[is_centred])

    covariances, factors = previous.covariances.copy(), previous.factors.copy()
    collapsed: list[int] = []

    def assign(components: NDArray[np.intp], update: Callable[..., _Update], bases: Array) -> None:
        arguments = central[components], raw[components], bases
        if not components.size:
            return
        try:
            covariances[components], factors[components] = update(*arguments, np.full(d, reg_covar))
        except np.linalg.LinAlgError:
            for i, k in enumerate(components):
                own = [a[i : i + 1] for a in arguments]
                (covariances[[k]], factors[[k]]), widened = _widened(
                    lambda ridge, own=own: update(*own, ridge), frame, reg_covar
                )
                if widened:
                    collapsed.append(int(k))

    packed = alive[~is_centred]
    assign(packed, _update_scaled, np.broadcast_to(frame.scale, (packed.size, d)))
    assign(alive[is_centred], _update_whitened, frame.factors[place])
    return covariances, factors, collapsed


def _tied(
    statistics: Statistics,
    alive: NDArray[np.intp],
    offsets: Array,
    shifts: Array,
    previous: Parameters,
    reg_covar: float,
) -> _Covariances:
    counts, frame = statistics.counts, statistics.frame
    raw = statistics.scatter
    between = (offsets.T * counts) @ offsets
    central = (raw - between + (shifts.T * counts) @ shifts) / counts.sum()
    (covariances, factors), widened = _widened(
        lambda ridge: _update_whitened(
            central[np.newaxis], raw[np.newaxis] / counts.sum(), frame.factors, ridge
        ),
        frame,
        reg_covar,
    )
    return covariances[0], factors[0], alive.tolist() if widened else []


def _scales(
    statistics: Statistics,
    alive: NDArray[np.intp],
    offsets: Array,
    shifts: Array,
    previous: Parameters,
    reg_covar: float,
) -> _Covariances:
    """Diagonal and spherical covariances."""
    frame, d = statistics.frame, statistics.frame.n_features
    raw = statistics.moments[alive, 1 + d :] / statistics.counts[alive, np.newaxis]
    squares = np.square(shifts[alive]) - np.square(offsets[alive])
    bases = np.tile(frame.scale, (statistics.n_components, 1))
    bases[frame.centred] = frame.factors
    bases = bases[alive]
    is_spherical = frame.covariance_type == "spherical"
    if is_spherical:
        raw, bases = raw / d, bases[:, :1]
        squares = squares.mean(axis=1, keepdims=True)
    central = raw + squares
    covariances = previous.covariances.copy()
    collapsed: list[int] = []

    def update(k: slice | int, ridge: Array) -> _Update:
        ridge = ridge[: raw.shape[1]]
        _require_spread(central[k], raw[k], ridge)
        found = np.maximum(central[k], 0.0) * np.square(bases[k]) + ridge
        return found, np.sqrt(found)

    try:
        found, _ = update(slice(None), np.full(d, reg_covar))
    except np.linalg.LinAlgError:
        found = np.empty_like(central)
        for i, k in enumerate(alive):
            (found[i], _), widened = _widened(lambda ridge, i=i: update(i, ridge), frame, reg_covar)
            if widened:
                collapsed.append(int(k))
    covariances[alive] = found[:, 0] if is_spherical else found
    return covariances, np.sqrt(covariances), collapsed


_COVARIANCES: dict[str, Callable[..., _Covariances]] = {
    "full": _full,
    "tied": _tied,
    "diag": _scales,
    "spherical": _scales,
}


def _outer(vectors: Array) -> Array:
    return vectors[:, :, np.newaxis] * vectors[:, np.newaxis, :]


def _update_scaled(central: Array, raw: Array, scales: Array, ridge: Array) -> _Update:
    """Σ = diag(s) T diag(s) + diag(ridge) and its factor; T (k, D, D), s (k, D)."""
    _require_spread(
        np.diagonal(central, axis1=1, axis2=2), np.diagonal(raw, axis1=1, axis2=2), ridge
    )
    covariances = central * _outer(scales) + np.diag(ridge)
    return covariances, np.linalg.cholesky(covariances)


def _update_whitened(central: Array, raw: Array, bases: Array, ridge: Array) -> _Update:
    """Σ = B T Bᵀ + diag(ridge) and its factor, which keeps the digits of B; T, B (k, D, D).

    The factor is Rᵀ of the QR decomposition of (B root(T), diag(√ridge))ᵀ.
    """
    _require_spread(
        np.diagonal(central, axis1=1, axis2=2), np.diagonal(raw, axis1=1, axis2=2), ridge
    )
    try:
        roots = np.linalg.cholesky(central)
    except np.linalg.LinAlgError:
        if not np.all(ridge > 0.0):
            raise
        eigenvalues, vectors = np.linalg.eigh(central)
        roots = vectors * np.sqrt(np.maximum(eigenvalues, 0.0))[:, np.newaxis, :]
    spread = bases @ roots
    ridges = np.broadcast_to(np.diag(np.sqrt(ridge)), spread.shape)
    upper = np.linalg.qr(np.concatenate([np.swapaxes(spread, 1, 2), ridges], axis=1), mode="r")
    factors = np.swapaxes(upper, 1, 2)
    diagonals = np.diagonal(factors, axis1=1, axis2=2)
    if not np.all(np.abs(diagonals) > 0.0):
        raise np.linalg.LinAlgError("a covariance factor is singular")
    factors = np.ascontiguousarray(factors * np.sign(diagonals)[:, np.newaxis, :])
    covariances = factors @ np.swapaxes(factors, 1, 2)
    return 0.5 * (covariances + np.swapaxes(covariances, 1, 2)), factors
