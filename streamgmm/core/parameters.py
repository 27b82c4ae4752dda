"""The parameters of a Gaussian mixture: validated once, and never changed afterwards."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from streamgmm.core.noise import Noise
from streamgmm.core.structures import STRUCTURES, Array, CovarianceStructure, require_structure
from streamgmm.errors import ParameterError
from streamgmm.options import CovarianceType, ParameterName

PARAMETER_NAMES: tuple[ParameterName, ...] = get_args(ParameterName)

#: Fixed parameters: their names, or a mask over components (K,) for each name.
Fixed = Collection[ParameterName] | Mapping[ParameterName, NDArray[np.bool_]]

# Largest asymmetry, as a part of √(Σ_ii Σ_jj); the tolerance of scikit-learn is similar.
_ASYMMETRY = 1e-5
# Largest difference of the sum of weights from 1.
_LARGEST_EXCESS = 1e-5


@dataclass(frozen=True, eq=False)
class Parameters:
    """Weights, means and covariances of a mixture of K Gaussians in D dimensions.

    Build with :meth:`create` or :meth:`from_precisions`, which validate.

    Attributes
    ----------
    covariance_type : {"full", "tied", "diag", "spherical", "tied_diag", "tied_spherical"}
    weights : ndarray of shape (K,)
        Non-negative, with sum 1 less the weight of the noise. A component of weight 0 is skipped.
    means : ndarray of shape (K, D)
    covariances : ndarray
        (K, D, D) full, (D, D) tied, (K, D) diag, (K,) spherical; of low rank (K, D, R + 1), the
        loadings and the noise variances.
    factors : ndarray, shape of ``covariances``
        Cholesky factors L, Σ = L Lᵀ (standard deviations for diag and spherical). They are
        stored because a covariance rounded to float64 does not determine a standard deviation that
        is 1e8 times smaller than another one; its factor does.
    noise : Noise or None
        A further component, of constant density.
    """

    covariance_type: CovarianceType
    weights: Array
    means: Array
    covariances: Array
    factors: Array
    noise: Noise | None = None

    @classmethod
    def create(
        cls,
        covariance_type: CovarianceType,
        weights: ArrayLike,
        means: ArrayLike,
        covariances: ArrayLike,
        factors: ArrayLike | None = None,
        noise: Noise | None = None,
    ) -> "Parameters":
        """Return the parameters from arrays of the shapes given in the class.

        Raises
        ------
        ParameterError
            If a shape is wrong, a value is not finite, the weights are negative or do not sum
            to 1 with that of the noise, or a covariance is not symmetric and positive definite.
        """
        structure = require_structure(covariance_type)
        weights, means = _weights(weights, noise), _finite("means", means)
        if means.ndim != 2 or len(means) != len(weights):
            raise ParameterError(
                f"means have shape {means.shape}; expected (n_components, n_features) with "
                f"n_components = {len(weights)}, the number of weights"
            )
        covariances = _matching(structure, "covariances", covariances, means.shape)
        if factors is None:
            covariances = _symmetric(structure, "covariances", covariances)
            try:
                factors = structure.cholesky(covariances)
            except np.linalg.LinAlgError:
                raise ParameterError(
                    f"a {covariance_type} covariance is not positive definite; "
                    "increase reg_covar, or reduce the number of components"
                ) from None
        factors = _matching(structure, "factors", factors, means.shape)
        if not np.all(structure.widths(factors) > 0.0):
            raise ParameterError(f"a {covariance_type} covariance factor is singular")
        if noise is not None and noise.has_box and noise.box.shape[1] != means.shape[1]:
            raise ParameterError(
                f"the box of the noise has {noise.box.shape[1]} columns, the means {means.shape[1]}"
            )
        return cls(covariance_type, weights, means, covariances, factors, noise)

    @classmethod
    def from_precisions(
        cls,
        covariance_type: CovarianceType,
        weights: ArrayLike,
        means: ArrayLike,
        precisions: ArrayLike,
    ) -> "Parameters":
        """Return the parameters from inverse covariances, as ``precision_form`` stores them.

        Raises
        ------
        ParameterError
            As :meth:`create`.
        """
        means = _finite("means", means)
        covariances, factors = covariances_from_precisions(covariance_type, precisions, means.shape)
        return cls.create(covariance_type, weights, means, covariances, factors)

    @classmethod
    def from_precisions_cholesky(
        cls,
        covariance_type: CovarianceType,
        weights: ArrayLike,
        means: ArrayLike,
        covariances: ArrayLike,
        precisions_cholesky: Array,
        noise: Noise | None = None,
    ) -> "Parameters":
        """Return parameters from covariances and the upper factors U of their inverses, P = U Uᵀ.

        Raises
        ------
        ParameterError
            As :meth:`create`.
        """
        structure = require_structure(covariance_type)
        factors = structure.factors_from_stored(
            np.asarray(covariances, dtype=np.float64), precisions_cholesky
        )
        return cls.create(covariance_type, weights, means, covariances, factors, noise)

    def check(self) -> None:
        """Refuse arrays that are not a mixture; a file may hold such arrays.

        Raises
        ------
        ParameterError
            As :meth:`create`.
        """
        Parameters.create(
            self.covariance_type,
            self.weights,
            self.means,
            self.covariances,
            self.factors,
            self.noise,
        )
        require_covariances(self.structure, "covariances", self.covariances)

    @property
    def structure(self) -> CovarianceStructure:
        """The table entry of the covariance type."""
        return STRUCTURES[self.covariance_type]

    @property
    def n_components(self) -> int:
        """K."""
        return len(self.means)

    @property
    def n_features(self) -> int:
        """D."""
        return int(self.means.shape[1])

    @property
    def shares(self) -> Array:
        """Weights (K,) of the components among themselves, with sum 1."""
        return self.weights if self.noise is None else self.weights / self.weights.sum()

    def with_noise(self, noise: Noise | None) -> "Parameters":
        """Return the mixture with noise, unless there is none or the mixture has its own."""
        if noise is None or self.noise is not None:
            return self
        return replace(self, weights=self.weights * (1.0 - noise.weight), noise=noise)

    @cached_property
    def inverse_factors(self) -> Array:
        """W = L⁻¹, stored like the factors; ‖W (x - μ)‖ is the Mahalanobis distance."""
        return np.asarray(self.structure.invert(self.factors))

    @property
    def precisions_cholesky(self) -> Array:
        """Upper factors U = Wᵀ of the precisions, P = U Uᵀ (scikit-learn's convention)."""
        return self.structure.transposed(self.inverse_factors)

    @property
    def precisions(self) -> Array:
        """Inverse covariances, stored like the covariances."""
        return np.asarray(self.structure.precisions(self.inverse_factors))

    def stacked(self, array: Array) -> Array:
        """Return the covariances or factors as matrices (K or 1, D, D) or scales (K, D)."""
        return self.structure.stacked(array, self.n_components, self.n_features)

    def n_parameters(self, fixed: Fixed = ()) -> int:
        """Return the number of free parameters.

        Parameters
        ----------
        fixed : collection of {"weights", "means", "covariances"}, or mapping of these to masks
            Parameters that were held fixed and are not counted.
        """
        shape = self.n_components, self.n_features
        return count_parameters(self.structure, *shape, fixed, self.noise is not None)


def count_parameters(
    structure: CovarianceStructure,
    n_components: int,
    n_features: int,
    fixed: Fixed = (),
    has_noise: bool = False,
) -> int:
    """Return the number of free parameters of a mixture of this size.

    Parameters
    ----------
    structure : CovarianceStructure
    n_components, n_features : int
    fixed : collection of {"weights", "means", "covariances"}, or mapping of these to masks
        Parameters that are held fixed and are not counted.
    has_noise : bool
        Whether the mixture has noise; its weight is one parameter, its density is given.
    """
    n_free = {
        name: n_components - n_held_components(fixed, name, n_components)
        for name in PARAMETER_NAMES
    }
    # Free weights sum to what the others leave.
    found = max(n_free["weights"] - 1, 0) + n_free["means"] * n_features
    if n_free["covariances"]:
        found += structure.n_parameters(n_free["covariances"], n_features)
    return found + has_noise


def held_components(fixed: Fixed, name: ParameterName, n_components: int) -> NDArray[np.bool_]:
    """Return whether a parameter is held for each component, (K,)."""
    if isinstance(fixed, Mapping) and name in fixed:
        return np.asarray(fixed[name], dtype=np.bool_)
    return np.full(n_components, name in fixed)


def n_held_components(fixed: Fixed, name: ParameterName, n_components: int) -> int:
    """Return for how many of ``n_components`` components a parameter is held."""
    if not fixed:
        return 0
    return min(int(held_components(fixed, name, n_components).sum()), n_components)


def covariances_from_precisions(
    covariance_type: CovarianceType, precisions: ArrayLike, shape: tuple[int, ...]
) -> tuple[Array, Array]:
    """Return the covariances and their factors from precisions, for means of a given shape (K, D).

    Raises
    ------
    ParameterError
        If the precisions have the wrong shape or are not symmetric and positive definite.
    """
    structure = require_structure(covariance_type)
    form = structure.precision_form
    precisions = _matching(form, "precisions", precisions, shape)
    precisions = _symmetric(form, "precisions", precisions)
    try:
        return structure.from_precisions(precisions)
    except np.linalg.LinAlgError:
        raise ParameterError(f"a {covariance_type} precision is not positive definite") from None


def require_values(name: str, values: object, shape: tuple[int, ...]) -> None:
    """Refuse values that are not an array of finite numbers of a shape.

    Raises
    ------
    ParameterError
    """
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "iuf":
        raise ParameterError(f"{name} is no array of numbers")
    if values.shape != shape:
        raise ParameterError(f"{name} has shape {values.shape}; expected {shape}")
    if not np.isfinite(values).all():
        raise ParameterError(f"{name} holds NaN or infinity")


def _finite(name: str, values: ArrayLike) -> Array:
    array = np.asarray(values, dtype=np.float64, order="C")
    if not np.isfinite(array).all():
        raise ParameterError(f"{name} hold NaN or infinity")
    return array


def _weights(values: ArrayLike, noise: Noise | None) -> Array:
    weights = _finite("weights", values)
    if weights.ndim != 1 or weights.size == 0:
        raise ParameterError(f"weights have shape {weights.shape}; expected (n_components,)")
    total = weights.sum() + (0.0 if noise is None else noise.weight)
    if np.any(weights < 0.0) or not abs(total - 1.0) <= _LARGEST_EXCESS:
        with_noise = "" if noise is None else ", with that of the noise"
        raise ParameterError(
            f"weights must be non-negative and sum to 1{with_noise}; "
            f"the smallest is {weights.min():.6g}, their sum {total:.10g}"
        )
    return weights


def _matching(
    structure: CovarianceStructure, name: str, values: ArrayLike, shape: tuple[int, ...]
) -> Array:
    array = _finite(name, values)
    expected = structure.shape(*shape)
    if array.shape != expected:
        raise ParameterError(f"{name} have shape {array.shape}; expected {expected}")
    return array


def require_covariances(structure: CovarianceStructure, name: str, values: Array) -> None:
    """Refuse matrices that are not symmetric, or variances that are not positive.

    Parameters
    ----------
    structure : CovarianceStructure
    name : str
        The name of the values in messages.
    values : ndarray, in the shape of covariances

    Raises
    ------
    ParameterError
    """
    # Most matrices are symmetric to the last bit, and this test is fast.
    if not np.array_equal(values, structure.transposed(values)):
        _symmetric(structure, name, values)
    if not np.all(structure.widths(values) > 0.0):
        raise ParameterError(f"the diagonals of {name} are not positive")


def _symmetric(structure: CovarianceStructure, name: str, values: Array) -> Array:
    """Return the values without the asymmetry that rounding leaves in products and inverses."""
    symmetric = structure.symmetrized(values, _ASYMMETRY)
    if symmetric is None:
        raise ParameterError(f"{name} are not symmetric")
    return symmetric
