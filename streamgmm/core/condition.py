"""Find the components and columns of a fitted mixture that the data do not determine.

A component is degenerate if it has no weight, if no more rows belong to it than there are columns
(with low rank: two more than the rank), or if the ridge is more than half of one of its variances.
A column is narrow if its variance is so small that the ridge blurs what could distinguish
components in it.
"""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamgmm.core.feature_moments import FeatureMoments
from streamgmm.core.parameters import Parameters
from streamgmm.core.structures import Array

#: A variance is mostly ridge if the ridge is more than this part of it.
MOSTLY = 0.5
#: A column is narrow if its variance is below this multiple of the ridge.
NARROW = 100.0
# If the extremes of a column are unknown, the column counts as constant if its variance is below
# this part of its ridge, or below the variance of values that differ by this many roundings of
# their mean.
_CONSTANT, _ROUNDINGS = 1e-13, 8.0
# A direction is along the columns whose coefficients are at least this part of the largest one.
_SHARE = 0.1


@dataclass(frozen=True, eq=False)
class RidgeShare:
    """Variances of which the ridge is too large a part.

    Attributes
    ----------
    columns : ndarray of shape (n,), int
    variances, ridges : ndarray of shape (n,)
        One value for each column, in squared data units; for a direction (1,), one value for all
        its columns.
    """

    columns: NDArray[np.intp]
    variances: Array
    ridges: Array

    @property
    def is_direction(self) -> bool:
        """Whether the variance is that of a linear combination of the columns."""
        return self.variances.size < self.columns.size


@dataclass(frozen=True, eq=False)
class DegenerateComponent:
    """A component that the data do not determine.

    Attributes
    ----------
    number : int
    has_weight : bool
    n_rows : float or None
        Number of rows of the component, if these do not determine its covariance.
    ridge : RidgeShare or None
        Variances that are mostly ridge.
    was_lost : bool
        Whether the component lost all its rows, or collapsed, during the fit.
    """

    number: int
    has_weight: bool = True
    n_rows: float | None = None
    ridge: RidgeShare | None = None
    was_lost: bool = False

    @property
    def reasons(self) -> tuple[str, ...]:
        """Name the reasons."""
        named = {
            "weight": not self.has_weight,
            "rows": self.n_rows is not None,
            "ridge": self.ridge is not None,
            "lost": self.was_lost,
        }
        return tuple(name for name, holds in named.items() if holds)


@dataclass(frozen=True, eq=False)
class Condition:
    """The findings of :func:`examine` for a fitted mixture.

    Attributes
    ----------
    components : tuple of DegenerateComponent
    columns : RidgeShare
        Narrow columns: variances without the ridge, and ridges.
    most_undetermined_rows : int
        Largest number of rows that does not determine the covariance of a component.
    """

    components: tuple[DegenerateComponent, ...]
    columns: RidgeShare
    most_undetermined_rows: int

    @property
    def findings(self) -> frozenset[tuple[str, int]]:
        """Return the reasons, each with the number of its component or column."""
        of_components = (
            (reason, component.number)
            for component in self.components
            for reason in component.reasons
        )
        return frozenset(of_components) | {("column", int(j)) for j in self.columns.columns}


def examine(
    parameters: Parameters,
    counts: Array | None,
    ridge: Array,
    *,
    columns: FeatureMoments | None = None,
    lost: Collection[int] = (),
) -> Condition:
    """Return the condition of a fitted mixture.

    Parameters
    ----------
    parameters : Parameters
    counts : ndarray of shape (K,), optional
        Rows that belong to each component, N_k. A row counts by its weight: a row of weight 2 is
        two rows. None if the counts are not known.
    ridge : ndarray of shape (D,)
        Value that was added to each variance; 0 if covariances were held fixed.
    columns : FeatureMoments, optional
        Moments of the rows; by default those that the mixture implies.
    lost : collection of int
        Components that lost all their rows, or collapsed, during the fit.

    Returns
    -------
    Condition
    """
    if columns is None:
        spread, is_constant = _implied_spread(parameters, ridge)
    else:
        spread, is_constant = columns.variances, columns.smallest == columns.largest
    is_narrow = ~is_constant & (spread < NARROW * ridge)
    has_weight = parameters.weights > 0.0
    has_few_rows = np.zeros_like(has_weight)
    few = parameters.structure.most_undetermined_rows(parameters.n_features)
    if counts is not None:
        has_few_rows = has_weight & (counts <= few)
    shares = _ridge_shares(parameters, ridge, is_constant)
    # With few rows some directions never have a width, so components of few rows are skipped.
    wanted = np.flatnonzero(has_weight & ~has_few_rows)
    varying = np.flatnonzero(~is_constant & (ridge > 0.0))
    if varying.size:
        shares = _narrow_directions(parameters, ridge, varying, wanted) | shares
    is_degenerate = ~has_weight | has_few_rows
    is_degenerate[list(lost)] = True
    is_degenerate[list(shares)] = True
    components = tuple(
        DegenerateComponent(
            k,
            bool(has_weight[k]),
            float(counts[k]) if counts is not None and has_few_rows[k] else None,
            shares.get(k),
            k in lost,
        )
        for k in np.flatnonzero(is_degenerate).tolist()
    )
    narrow = np.flatnonzero(is_narrow)
    return Condition(components, RidgeShare(narrow, spread[narrow], ridge[narrow]), few)


def _implied_spread(parameters: Parameters, ridge: Array) -> tuple[Array, NDArray[np.bool_]]:
    """Return variances (D,) of columns without the ridge, and whether they are only rounding."""
    own = parameters.structure.variances(parameters.stacked(parameters.covariances)) - ridge
    mean = parameters.shares @ parameters.means
    own = np.broadcast_to(own, parameters.means.shape)
    spread = parameters.shares @ (own + np.square(parameters.means - mean))
    rounding = _ROUNDINGS * np.finfo(np.float64).eps * np.abs(mean)
    return np.maximum(spread, 0.0), spread <= _CONSTANT * ridge + np.square(rounding)


def _ridge_shares(
    parameters: Parameters, ridge: Array, is_constant: NDArray[np.bool_]
) -> dict[int, RidgeShare]:
    """Return, for each component with weight, the variances that are mostly ridge."""
    own = parameters.structure.variances(parameters.stacked(parameters.covariances))
    is_ridge = ~is_constant & (ridge > MOSTLY * own)
    alive = np.flatnonzero(parameters.weights > 0.0)
    found: dict[int, RidgeShare] = {}
    for k in alive.tolist():
        index = min(k, len(own) - 1)
        columns = np.flatnonzero(is_ridge[index])
        if columns.size:
            found[k] = RidgeShare(columns, own[index, columns], ridge[columns])
    return found


def _narrow_directions(
    parameters: Parameters, ridge: Array, columns: NDArray[np.intp], components: NDArray[np.intp]
) -> dict[int, RidgeShare]:
    """Return, for some components, a direction in which the variance is mostly ridge.

    Directions in which all the data are narrow are not counted.
    """
    structure = parameters.structure
    covariances = parameters.stacked(parameters.covariances)
    indices = np.minimum(components, len(covariances) - 1)
    # The trace of an inverse bounds its largest eigenvalue; few components are examined further.
    varying = np.zeros_like(ridge)
    varying[columns] = ridge[columns]
    bounds = structure.ridge_traces(parameters.stacked(parameters.inverse_factors), varying)
    found: dict[int, RidgeShare] = {}
    for index in np.unique(indices[bounds[indices] > MOSTLY]).tolist():
        chosen = structure.narrow_columns(covariances[index], ridge / MOSTLY, columns)
        if not chosen.size:
            continue
        roots = np.sqrt(ridge[chosen])
        matrix = structure.dense(covariances[index : index + 1], chosen.tolist())[0]
        eigenvalues, vectors = np.linalg.eigh(matrix / np.outer(roots, roots))
        if MOSTLY * eigenvalues[0] >= 1.0:
            continue
        direction = np.zeros(parameters.n_features)
        direction[chosen] = vectors[:, 0] / roots
        if _spread_along(parameters, direction) < 1.0 + NARROW:
            continue
        size = np.abs(vectors[:, 0])
        along = chosen[size >= _SHARE * size.max()]
        unit = 1.0 / float(direction @ direction)
        share = RidgeShare(along, np.array([eigenvalues[0] * unit]), np.array([unit]))
        found |= dict.fromkeys(components[indices == index].tolist(), share)
    return found


def _spread_along(parameters: Parameters, direction: Array) -> float:
    """Return the variance of the whole mixture, with the ridge, along a direction (D,)."""
    stacked = parameters.stacked(parameters.covariances)
    own = parameters.structure.variances_along(stacked, direction)
    centres = parameters.means @ direction
    deviations = centres - parameters.shares @ centres
    return float(parameters.shares @ (own + np.square(deviations)))
