"""Coordinates in which sums of moments keep their digits.

Sums of x and x xᵀ about a far origin, or in badly scaled units, cancel when covariances are
taken from them. A :class:`Frame` states the coordinates instead: a common origin and scale,
and, for components that lose digits even so, their own mean and factor. A frame is fixed
before a pass over the data, and the statistics carry it.
"""

import math
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from streamgmm.core.kernels.log_joint import UNIT_ROUNDOFF
from streamgmm.core.parameters import Parameters, require_values
from streamgmm.core.structures import STRUCTURES, Array, CovarianceStructure, require_structure
from streamgmm.errors import ParameterError
from streamgmm.options import CovarianceType

if TYPE_CHECKING:
    from streamgmm.core.statistics import Statistics

# Rounding in a covariance, relative to the covariance itself in every direction, above which
# a component's moments are summed about its own mean.
_COVARIANCE_TOLERANCE = 1e-9
#: Number of terms of a sum that are added in sequence: rows of a block, then blocks of a group.
ACCUMULATION_LENGTH = 512


def frame_shapes(
    covariance_type: CovarianceType, n_centred: int, n_features: int
) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the arrays of a frame by name, for C centred components."""
    return {
        "origin": (n_features,),
        "scale": (n_features,),
        "centred": (n_centred,),
        "means": (n_centred, n_features),
        "factors": STRUCTURES[covariance_type].frame_factor_shape(n_centred, n_features),
    }


@dataclass(frozen=True, eq=False)
class Frame:
    """Coordinates of sufficient statistics: u = B⁻¹ (x - o).

    Attributes
    ----------
    covariance_type : {"full", "tied", "diag", "spherical", "tied_diag", "tied_spherical"}
    origin : ndarray of shape (D,)
        o of the components in the expanded form; exact in the data's own type.
    scale : ndarray of shape (D,)
        B = diag(scale) of these components; powers of two, all equal for spherical.
    centred : ndarray of shape (C,), int
        The components in the centred form: o is their own mean, B their own factor. Of low rank
        they are all components; B is I, and the factors say which moments are taken.
    means : ndarray of shape (C, D)
    factors : ndarray of shape (C, D, D) full, (1, D, D) tied, (C, D) diag and spherical
        For tied, B of all components, in the expanded and in the centred form.
    """

    covariance_type: CovarianceType
    origin: Array
    scale: Array
    centred: np.ndarray
    means: Array
    factors: Array

    @classmethod
    def of(cls, parameters: Parameters, dtype: DTypeLike = np.float64) -> "Frame":
        """Return the frame in which the moments of a mixture keep their digits.

        Origin and scale are weighted medians over components. One component far away, on an
        outlier, does not change them.

        Parameters
        ----------
        parameters : Parameters
        dtype : dtype
            Type of the data. The origin is exact in it.
        """
        structure = parameters.structure
        shape = parameters.means.shape
        component_variances = np.broadcast_to(
            structure.variances(parameters.stacked(parameters.covariances)), shape
        )
        stacked = parameters.stacked(parameters.factors)
        origin = structure.frame_origin(parameters, _weighted_median)
        if np.dtype(dtype).newbyteorder("=") == np.float32:
            largest = np.finfo(np.float32).max
            origin = np.clip(origin, -largest, largest).astype(np.float32).astype(np.float64)
        spread = np.hypot(np.sqrt(component_variances), parameters.means - origin)
        scale = structure.frame_scale(_weighted_median(spread, parameters.weights))
        scale = np.exp2(np.round(np.log2(scale)))
        nowhere = np.empty(0, dtype=np.intp)
        shared = cls(
            parameters.covariance_type,
            origin,
            scale,
            nowhere,
            parameters.means[nowhere],
            structure.frame_factors(stacked, nowhere),
        )
        shared._keep_inverse_of(parameters)
        centred = np.flatnonzero(~(shared.covariance_error(parameters) <= _COVARIANCE_TOLERANCE))
        factors = structure.frame_factors(stacked, centred)
        found = replace(shared, centred=centred, means=parameters.means[centred], factors=factors)
        found._keep_inverse_of(parameters)
        return found

    def with_directions(self, parameters: Parameters, known: "Statistics | None" = None) -> "Frame":
        """Return this frame of a mixture with bases that show more than EM's own step needs.

        Parameters
        ----------
        parameters : Parameters
        known : Statistics, optional
            Statistics of the same rows under other parameters.
        """
        factors = self._structure.with_directions(self.factors, parameters, known)
        return replace(self, factors=factors)

    def reordered(self, order: NDArray[np.intp]) -> "Frame":
        """Return the frame of the same mixture with its components in another order."""
        centred = np.argsort(order)[self.centred]
        by_number = np.argsort(centred)
        # What all components share is there once.
        is_shared = len(self.factors) != len(centred)
        return replace(
            self,
            centred=centred[by_number],
            means=self.means[by_number],
            factors=self.factors if is_shared else self.factors[by_number],
        )

    @cached_property
    def inverse_factors(self) -> Array:
        """B⁻¹ of the factors, in their shape."""
        return self._structure.invert(self.factors)

    def _keep_inverse_of(self, parameters: Parameters) -> None:
        """Take the inverse of matrices that are those of a mixture from this mixture."""
        if self._structure.has_directions:
            inverse = parameters.stacked(parameters.inverse_factors)
            self.__dict__["inverse_factors"] = self._structure.frame_factors(inverse, self.centred)

    def __getstate__(self) -> dict[str, Any]:
        # The inverse is computed again where it is needed.
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @property
    def n_features(self) -> int:
        """D."""
        return len(self.origin)

    @property
    def _structure(self) -> CovarianceStructure:
        return STRUCTURES[self.covariance_type]

    def check_for(self, n_components: int) -> None:
        """Refuse arrays that are not a frame of this many components, as a file may hold.

        Raises
        ------
        ParameterError
            If a shape or a type is wrong, or a value cannot be one of a frame.
        """
        require_structure(self.covariance_type)
        shapes = frame_shapes(self.covariance_type, len(self.centred), len(self.origin))
        for name, shape in shapes.items():
            require_values(f"{name} of the frame", getattr(self, name), shape)
        is_listed = np.isin(np.arange(n_components), self.centred)
        if not np.array_equal(self.centred, np.flatnonzero(is_listed)):
            raise ParameterError(
                f"the centred components of the frame are not numbers below {n_components} in order"
            )
        if self._structure.moments_depend_on_parameters and not is_listed.all():
            raise ParameterError("the frame lacks the origin of a component")
        widths = self._structure.widths(self.factors)
        if not (np.all(self.scale > 0.0) and np.all(widths > 0.0)):
            raise ParameterError("the scale or a factor of the frame is not positive")

    def gathered(self, components: NDArray[np.intp]) -> "Frame":
        """Return a frame whose component j has the coordinates of components[j] of this frame."""
        if not self.centred.size:
            return self
        is_centred = np.isin(components, self.centred)
        indices = np.searchsorted(self.centred, components[is_centred])
        return replace(
            self,
            centred=np.flatnonzero(is_centred),
            means=self.means[indices],
            factors=self._structure.taken_frame_factors(self.factors, indices),
        )

    def displacements(self, u: Array) -> Array:
        """Return B u in data units, for one point u of each component: (K, D) to (K, D)."""
        return self._structure.displacements(self, u)

    def points(self, u: Array) -> Array:
        """Return o + B u in data units, for one point u of each component: (K, D) to (K, D)."""
        return self._origins(len(u)) + self.displacements(u)

    def coordinates(self, points: Array) -> Array:
        """Return u = B⁻¹ (point - o) of one point of each component: (K, D) to (K, D)."""
        return self._structure.coordinates(self, points - self._origins(len(points)))

    def relative_factors(self, parameters: Parameters) -> Array:
        """Return B⁻¹ L, stacked: the factors of covariances in the coordinates of the frame."""
        return self._structure.relative_factors(self, parameters.stacked(parameters.factors))

    def _origins(self, n_components: int) -> Array:
        origins = np.repeat(self.origin[np.newaxis], n_components, axis=0)
        origins[self.centred] = self.means
        return origins

    def resolves(self, parameters: Parameters) -> bool:
        """Return whether moments in this frame determine the covariances of these parameters."""
        error = self.covariance_error(parameters)[parameters.weights > 0.0]
        return bool(np.all(error <= _COVARIANCE_TOLERANCE))

    def covariance_error(self, parameters: Parameters) -> Array:
        """Bound (K,) on the relative error of covariances from moments in this frame.

        The bound is √m u ‖|L⁻¹ B| s‖², with s_d² the second moment of u_d and m the accumulation
        length. It is probabilistic: rounding errors of a sum grow as √m.
        """
        displacements = parameters.means - self._origins(parameters.n_components)
        magnified = self._structure.magnified(self, parameters, displacements)
        # Far from the frame's origin the bound overflows: no covariance has an error below inf.
        with np.errstate(over="ignore"):
            bound: Array = np.square(magnified).sum(axis=1)
        return bound * (math.sqrt(ACCUMULATION_LENGTH) * UNIT_ROUNDOFF)

    def is_same_as(self, other: "Frame") -> bool:
        """Return whether statistics in the two frames may be added."""
        return self is other or (
            self.covariance_type == other.covariance_type
            and np.array_equal(self.origin, other.origin)
            and np.array_equal(self.scale, other.scale)
            and np.array_equal(self.centred, other.centred)
            and np.array_equal(self.means, other.means)
            and np.array_equal(self.factors, other.factors)
        )


def _weighted_median(values: Array, weights: Array) -> Array:
    """Return the lower weighted median of values (K, D) over components, by feature: (D,)."""
    order = np.argsort(values, axis=0, kind="stable")
    cumulative = np.cumsum(weights[order], axis=0)
    middle = np.argmax(cumulative >= 0.5 * cumulative[-1], axis=0)
    features = np.arange(values.shape[1])
    median: Array = values[order[middle, features], features]
    return median
