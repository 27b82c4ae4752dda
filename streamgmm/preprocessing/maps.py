"""Maps of rows: scaling, projection on principal components, and division by a norm.

Scaling and projection are affine, so the moments of mapped rows follow from those of the rows.
"""

import hashlib
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from streamgmm.core.feature_moments import FeatureMoments
from streamgmm.core.row_moments import RowMoments
from streamgmm.core.structures import Array
from streamgmm.errors import ParameterError
from streamgmm.executors.blas import single_threaded_blas
from streamgmm.sources.transformed import RowMap

Norm = Literal["l1", "l2", "max"]
NORMS: tuple[Norm, ...] = get_args(Norm)


class AffineMap(RowMap, Protocol):
    """A map of rows whose inverse is a sum of a vector and a product with a matrix."""

    def moments(self, given: RowMoments) -> RowMoments:
        """Return the moments of mapped rows from those of the rows."""

    def inverse(self, rows: Array) -> Array:
        """Return the rows (n, D) that mapped rows (n, R) stand for."""

    def inverse_directions(self, vectors: Array) -> Array:
        """Return the differences of rows (..., D) for differences of mapped rows (..., R)."""


def _digest(row_map: Any) -> bytes:
    """Return a digest of the fields of a map."""
    found = hashlib.sha256(type(row_map).__name__.encode())
    for field in fields(row_map):
        value = getattr(row_map, field.name)
        found.update(np.ascontiguousarray(value).tobytes() if np.ndim(value) else b"")
        found.update(repr(value).encode() if not np.ndim(value) else b"")
    return found.digest()


@dataclass(frozen=True, eq=False)
class Scaling:
    """Subtract a mean and divide by a scale, column by column.

    Attributes
    ----------
    mean, variance, scale : ndarray of shape (D,)
    counts : ndarray of shape (D,)
        Number of values of each column, or the sum of their weights.
    with_mean, with_std : bool
        Whether the mean is subtracted, and whether columns are divided by the scale.
    """

    mean: Array
    variance: Array
    scale: Array
    counts: Array
    with_mean: bool
    with_std: bool

    mixes_columns = False

    @classmethod
    def of(cls, columns: FeatureMoments, with_mean: bool, with_std: bool) -> "Scaling":
        """Return the scaling to mean 0 and variance 1 of columns with these moments."""
        variance, mean = columns.variances, columns.means
        is_constant = _are_constant(variance, mean, columns.weights)
        scale = np.where(is_constant, 1.0, np.sqrt(variance))
        return cls(mean, variance, scale, columns.weights, with_mean, with_std)

    @property
    def n_outputs(self) -> int:
        """Number of columns."""
        return len(self.mean)

    @property
    def _shift(self) -> Array:
        return self.mean if self.with_mean else np.zeros_like(self.mean)

    @property
    def _divisor(self) -> Array:
        return self.scale if self.with_std else np.ones_like(self.scale)

    def apply(self, rows: Array) -> Array:
        """Return the scaled rows; the array is changed."""
        if self.with_mean:
            rows -= self.mean
        if self.with_std:
            rows /= self.scale
        return rows

    def followed_by(self, other: RowMap) -> RowMap | None:
        """Return one map for the scaling and a projection; None for other maps."""
        if not isinstance(other, Projection):
            return None
        shift = self._shift + self._divisor * other.mean
        return Product(shift, other.matrix / self._divisor[:, np.newaxis])

    def digest(self) -> bytes:
        """Return a digest of the means, the scales and the flags."""
        return _digest(self)

    def moments(self, given: RowMoments) -> RowMoments:
        """Return the moments of scaled rows."""
        shift, divisor, columns = self._shift, self._divisor, given.columns
        scaled = FeatureMoments(
            columns.weights,
            (columns.means - shift) / divisor,
            columns.scatters / np.square(divisor),
            (columns.smallest - shift) / divisor,
            (columns.largest - shift) / divisor,
        )
        joint = given.joint
        if joint is not None:
            inverse = 1.0 / divisor
            joint = type(joint)(
                joint.n_rows,
                joint.weight,
                (joint.mean - shift) * inverse,
                joint.scatter * inverse * inverse[:, np.newaxis],
            )
        return RowMoments(scaled, joint)

    def inverse(self, rows: Array) -> Array:
        """Return the rows that scaled rows stand for."""
        return rows * self._divisor + self._shift

    def inverse_directions(self, vectors: Array) -> Array:
        """Return the differences of rows that differences of scaled rows stand for."""
        return vectors * self._divisor


def _are_constant(variances: Array, means: Array, counts: Array) -> NDArray[np.bool_]:
    """Return whether columns have no more variance than rounding makes of equal values.

    References
    ----------
    Chan, Golub & LeVeque (1983), Algorithms for computing the sample variance: the bound on the
    error of the corrected two-pass sum, as scikit-learn uses it.
    """
    precision = np.finfo(np.float64).eps
    bound = counts * precision * variances + np.square(counts * means * precision)
    found: NDArray[np.bool_] = variances <= bound
    return found


@dataclass(frozen=True, eq=False)
class Projection:
    """Subtract a mean and project on principal components.

    Attributes
    ----------
    mean : ndarray of shape (D,)
    components : ndarray of shape (R, D)
        Orthonormal.
    explained_variance, explained_variance_ratio, singular_values : ndarray of shape (R,)
    noise_variance : float
        Mean variance along the other components.
    n_rows : int
        Number of rows that it was computed from.
    whiten : bool
        Whether the projected columns are divided by their standard deviations.
    """

    mean: Array
    components: Array
    explained_variance: Array
    explained_variance_ratio: Array
    singular_values: Array
    noise_variance: float
    n_rows: int
    whiten: bool

    mixes_columns = True

    @property
    def n_outputs(self) -> int:
        """Number of components R."""
        return len(self.components)

    @cached_property
    def _deviations(self) -> Array:
        """Divisors of the projected columns."""
        if not self.whiten:
            return np.ones(len(self.components))
        smallest = np.finfo(np.float64).eps
        return np.maximum(np.sqrt(self.explained_variance), smallest)

    @cached_property
    def matrix(self) -> Array:
        """The components as columns (D, R), divided by the deviations if they are whitened."""
        return np.ascontiguousarray(self.components.T / self._deviations)

    def apply(self, rows: Array) -> Array:
        """Return the projected rows; the array of the rows is changed."""
        return Product(self.mean, self.matrix).apply(rows)

    def followed_by(self, other: RowMap) -> RowMap | None:
        """Return None: no map is joined with a projection before it."""
        return None

    def digest(self) -> bytes:
        """Return a digest of the mean, the components and the deviations."""
        return _digest(self)

    def moments(self, given: RowMoments) -> RowMoments:
        """Return the moments of projected rows, which are the rows that lack no value."""
        assert given.joint is not None
        joint = given.joint.mapped(self.mean, self.matrix)
        return RowMoments(joint.columns, joint)

    def inverse(self, rows: Array) -> Array:
        """Return the rows that projected rows stand for, in the space of the components."""
        return self.inverse_directions(rows) + self.mean

    def inverse_directions(self, vectors: Array) -> Array:
        """Return the differences of rows that differences of projected rows stand for."""
        with single_threaded_blas():
            found: Array = (vectors * self._deviations) @ self.components
        return found


@dataclass(frozen=True, eq=False)
class Product:
    """Subtract a vector and multiply with a matrix.

    Attributes
    ----------
    shift : ndarray of shape (D,)
    matrix : ndarray of shape (D, R)
    """

    shift: Array
    matrix: Array

    mixes_columns = True

    @property
    def n_outputs(self) -> int:
        """Number of columns of the products."""
        return len(self.matrix.T)

    def apply(self, rows: Array) -> Array:
        """Return the products (n, R); the array of the rows is changed."""
        rows -= self.shift
        with single_threaded_blas():
            found: Array = rows @ self.matrix
        return found

    def followed_by(self, other: RowMap) -> RowMap | None:
        """Return None: no map is joined with a product before it."""
        return None

    def digest(self) -> bytes:
        """Return a digest of the vector and the matrix."""
        return _digest(self)


@dataclass(frozen=True, eq=False)
class Normalization:
    """Divide each row by its norm; rows of zeros stay as they are.

    Attributes
    ----------
    norm : {"l1", "l2", "max"}
    n_outputs : int
        Number of columns.
    """

    norm: Norm
    n_outputs: int

    mixes_columns = True

    @classmethod
    def checked(cls, norm: str, n_outputs: int) -> "Normalization":
        """Return the division by a norm that a file names.

        Raises
        ------
        ParameterError
            If there is no such norm.
        """
        for known in NORMS:
            if norm == known:
                return cls(known, n_outputs)
        raise ParameterError(f"norm is {norm!r}; choose one of {', '.join(NORMS)}")

    def apply(self, rows: Array) -> Array:
        """Return the rows with a norm of 1; the array is changed."""
        if self.norm == "l2":
            norms = np.sqrt(np.einsum("nd,nd->n", rows, rows))
        elif self.norm == "l1":
            norms = np.abs(rows).sum(axis=1)
        else:
            norms = np.abs(rows).max(axis=1)
        rows /= np.where(norms == 0.0, 1.0, norms)[:, np.newaxis]
        return rows

    def followed_by(self, other: RowMap) -> RowMap | None:
        """Return None: no map is joined with a norm before it."""
        return None

    def digest(self) -> bytes:
        """Return a digest of the norm."""
        return _digest(self)


@dataclass(frozen=True, eq=False)
class Inverse:
    """The map from mapped rows back to rows.

    Attributes
    ----------
    forward : AffineMap
    n_outputs : int
        Number of columns of the rows.
    """

    forward: AffineMap
    n_outputs: int

    @property
    def mixes_columns(self) -> bool:
        """As for the map itself."""
        return self.forward.mixes_columns

    def apply(self, rows: Array) -> Array:
        """Return the rows that mapped rows stand for."""
        return self.forward.inverse(rows)

    def followed_by(self, other: RowMap) -> RowMap | None:
        """Return None: no map is joined with an inverse before it."""
        return None

    def digest(self) -> bytes:
        """Return a digest of the map."""
        return hashlib.sha256(b"inverse" + self.forward.digest()).digest()
