"""The ridge: the variance that is added to each column's diagonal entry of all covariances.

It is in squared units of the column. A ridge that is small beside a variance of 1 swamps a column
of much smaller values, so without a setting each column gets a ridge that is small beside its own
variance.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from streamgmm.core.structures import STRUCTURES, Array
from streamgmm.errors import ParameterError
from streamgmm.options import CovarianceType

#: The setting of estimators: one number, one for each column, or "auto".
RegCovar = float | ArrayLike | Literal["auto"]

#: The largest ridge that "auto" chooses, and the ridge of plain EM.
DEFAULT_RIDGE = 1e-6
# The interquartile range of a Gaussian, in standard deviations.
_QUARTILES, _IQR = (0.25, 0.75), 1.349
# Columns that are sorted at once, at least, and values of these if there are few rows.
_COLUMNS_AT_ONCE, _VALUES_AT_ONCE = 64, 1 << 16
# This many rows determine quartiles to about one percent.
_MOST_ROWS = 1 << 16
# A column counts as constant if its values differ by fewer roundings than this.
_FEWEST_ROUNDINGS = 16.0
# Squares of smaller numbers may underflow.
_LEAST_DEVIATION = 1e-130
# Smallest unit of weight in quantiles, as a part of the weight of all rows.
_LEAST_WEIGHT = 1e-12
# k-means nearly ignores a column whose standard deviation is smaller than another one by this
# factor. Columns of similar units may differ by this factor, but seldom if a deviation is below 1.
_MIXED, _MIXED_IF_SMALL = 100.0, 10.0


def given_ridge(
    setting: RegCovar,
    covariance_type: CovarianceType,
    n_features: int,
    feature_names: Sequence[str] | None = None,
) -> Array | None:
    """Return the ridge that a setting gives.

    Parameters
    ----------
    setting : float, array-like of shape (D,) or "auto"
    covariance_type : {"full", "tied", "diag", "spherical", "tied_diag", "tied_spherical"}
    n_features : int
        D.
    feature_names : sequence of str, optional
        Names of the columns, for messages.

    Returns
    -------
    ndarray of shape (D,), or None
        None for "auto". Spherical covariances have one variance, so all entries are the smallest.

    Raises
    ------
    ParameterError
        If the setting has another shape, or an entry is negative or not finite.
    """
    if isinstance(setting, str):
        if setting == "auto":
            return None
        raise ParameterError(f'reg_covar is {setting!r}; give a number, an array or "auto"')
    try:
        entries = np.asarray(setting, dtype=np.float64)
    except (TypeError, ValueError):
        raise ParameterError(
            f'reg_covar is {setting!r}; give a number, an array of numbers or "auto"'
        ) from None
    if entries.shape not in ((), (n_features,)):
        raise ParameterError(
            f"reg_covar has shape {entries.shape}, but the data have {n_features} features; give "
            f'a number, an array of shape ({n_features},) or "auto"'
        )
    ridge: Array = np.full(n_features, entries)
    wrong = np.flatnonzero(~(np.isfinite(ridge) & (ridge >= 0.0)))
    if wrong.size:
        names: Sequence[Any] = range(n_features) if feature_names is None else feature_names
        named = ", ".join(f"{names[j]} ({ridge[j]:g})" for j in wrong.tolist())
        raise ParameterError(
            f"reg_covar is negative or not finite for column(s) {named}; give numbers that are 0 "
            'or larger, or "auto"'
        )
    return _shared(covariance_type, ridge)


@dataclass(eq=False)
class FitRidge:
    """The ridge of one fit: given, or found once among sampled rows.

    Attributes
    ----------
    covariance_type : {"full", "tied", "diag", "spherical", "tied_diag", "tied_spherical"}
    entries : ndarray of shape (D,), or None
        None until rows are sampled.
    scales : ndarray of shape (D,), or None
        Standard deviations of the columns, if they differ so much that k-means in units of the data
        ignores some columns. None if they do not, or if the ridge was given.
    """

    covariance_type: CovarianceType
    entries: Array | None
    scales: Array | None = None

    @property
    def known(self) -> Array:
        """The entries, which must have been given or found."""
        if self.entries is None:
            raise RuntimeError("the ridge is used before rows were sampled")
        return self.entries

    def settle(self, rows: NDArray[Any], weights: Array) -> Array:
        """Return the entries; sampled rows determine them unless they are known.

        Parameters
        ----------
        rows : ndarray of shape (m, D)
            NaN where a value is missing.
        weights : ndarray of shape (m,)
            Positive.
        """
        if self.entries is None:
            variances = robust_variances(rows, weights)
            self.entries = ridge_of(variances, self.covariance_type)
            self.scales = _mixed_scales(variances)
        return self.entries


def ridge_of(variances: Array, covariance_type: CovarianceType) -> Array:
    """Return the ridge (D,) for columns with these variances (D,), 0 for constant columns.

    The ridge is a millionth of the variance, and at most 1e-6.
    """
    typical = np.where(variances > 0.0, variances, 1.0)
    return _shared(covariance_type, DEFAULT_RIDGE * np.minimum(typical, 1.0))


def robust_variances(rows: NDArray[Any], weights: Array) -> Array:
    """Return variances (D,) of columns that a few outliers do not change.

    Each is the variance of a Gaussian with the column's interquartile range, or the column's own
    variance if this range is 0.

    Parameters
    ----------
    rows : ndarray of shape (m, D)
        NaN where a value is missing. If there are many rows, a part of them is used, evenly spaced.
    weights : ndarray of shape (m,)
        Positive.

    Returns
    -------
    ndarray of shape (D,)
        0 for a column that is constant, but for rounding, or has no values.
    """
    size = min(len(rows), _MOST_ROWS)
    chosen = np.arange(size) * len(rows) // max(size, 1)
    if size < len(rows):
        rows, weights = rows[chosen], weights[chosen]
    found = np.full(rows.shape[1], np.nan)
    if size and np.all(weights == weights[0]):
        step = max(_COLUMNS_AT_ONCE, _VALUES_AT_ONCE // size)
        for first in range(0, len(found), step):
            block = slice(first, first + step)
            found[block] = _simple_variances(rows[:, block])
    for column in np.flatnonzero(np.isnan(found)):
        found[column] = _robust_variance(rows[:, column], weights)
    return found


def _simple_variances(rows: NDArray[Any]) -> Array:
    """Return robust variances (D,) for equal weights; NaN for columns that need more care.

    These are columns with NaN, and those whose interquartile range is 0 or rounding.
    """
    values = np.array(rows.T, dtype=np.float64, order="C")
    # Sorting along contiguous memory is faster.
    values.sort(axis=1)
    values = values.T
    position = np.asarray(_QUARTILES) * (len(values) - 1.0)
    before = np.floor(position).astype(np.intp)
    below, above = values[before], values[np.minimum(before + 1, len(values) - 1)]
    with np.errstate(invalid="ignore", over="ignore"):
        lower, upper = below + (position - before)[:, np.newaxis] * (above - below)
        deviations = (upper - lower) / _IQR
    rounding = np.finfo(np.float64).eps * np.maximum(np.abs(lower), np.abs(upper))
    # NaN is sorted to the end.
    is_simple = (deviations > _FEWEST_ROUNDINGS * rounding) & ~np.isnan(values[-1])
    squares: Array = np.square(np.maximum(deviations, _LEAST_DEVIATION))
    return np.where(is_simple, squares, np.nan)


def _robust_variance(column: NDArray[Any], weights: Array) -> float:
    values = column.astype(np.float64)
    has_value = ~np.isnan(values)
    values, weights = values[has_value], weights[has_value]
    if not values.size:
        return 0.0
    lower, upper = _quantiles(values, weights, _QUARTILES)
    rounding = np.finfo(np.float64).eps * max(abs(lower), abs(upper))
    deviation = (upper - lower) / _IQR
    if deviation == 0.0:
        # Subtract a value that many rows have, so that these rows deviate by exactly 0.
        offsets = values - lower
        mean = np.average(offsets, weights=weights)
        deviation = np.sqrt(np.average(np.square(offsets - mean), weights=weights))
    if deviation <= _FEWEST_ROUNDINGS * rounding:
        return 0.0
    return float(max(deviation, _LEAST_DEVIATION) ** 2)


def _quantiles(values: Array, weights: Array, parts: Sequence[float]) -> Array:
    """Return quantiles of weighted values.

    Each value is repeated in proportion to its weight, in units of the smallest weight. For equal
    weights the quantiles are those of :func:`numpy.quantile`.
    """
    order = np.argsort(values)
    values = values[order]
    unit = max(weights.min(), _LEAST_WEIGHT * weights.sum())
    ends = np.cumsum(weights[order]) / unit
    positions = np.asarray(parts) * max(ends[-1] - 1.0, 0.0)
    before = np.floor(positions)
    # The middle of a repetition lies within the value's own range.
    indices = np.searchsorted(ends, np.stack([before, before + 1.0]) + 0.5, side="right")
    below, above = values[np.minimum(indices, len(values) - 1)]
    found: Array = below + (positions - before) * (above - below)
    return found


def _mixed_scales(variances: Array) -> Array | None:
    """Return the columns' standard deviations if k-means ignores some columns, else None."""
    scales = np.sqrt(np.where(variances > 0.0, variances, 1.0))
    varying = scales[variances > 0.0]
    smallest = varying.min(initial=np.inf)
    factor = _MIXED_IF_SMALL if smallest < 1.0 else _MIXED
    return scales if varying.max(initial=0.0) > factor * smallest else None


def _shared(covariance_type: CovarianceType, ridge: Array) -> Array:
    """Return the ridge; if components have one variance, all entries are the smallest one."""
    return STRUCTURES[covariance_type].shared_ridge(ridge)
