"""The operations of structures whose factors are standard deviations of the features."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from streamgmm.core.structures.matrices import Array
from streamgmm.core.structures.structure import (
    CoefficientForm,
    Components,
    CovarianceStructure,
    Single,
)

if TYPE_CHECKING:
    from streamgmm.core.frame import Frame
    from streamgmm.core.parameters import Parameters


class ScaleStructure(CovarianceStructure):
    """Covariances without entries off the diagonal; stacked factors are scales (K, D)."""

    has_directions = False

    def n_factor_values(self, n_components: int, n_features: int) -> int:
        return n_components * n_features

    def n_mean_arrays(self) -> int:
        return 4

    def cholesky(self, covariances: Array) -> Array:
        if not np.all(covariances > 0.0):
            raise np.linalg.LinAlgError("a variance is not positive")
        return np.sqrt(covariances)

    def invert(self, factors: Array) -> Array:
        return 1.0 / factors

    def precisions(self, inverse_factors: Array) -> Array:
        return inverse_factors**2

    def transposed(self, factors: Array) -> Array:
        return factors

    def from_precisions(self, precisions: Array) -> tuple[Array, Array]:
        inverse = self.invert(self.cholesky(precisions))
        return inverse**2, inverse

    def widths(self, factors: Array) -> Array:
        return factors

    def symmetrized(self, values: Array, tolerance: float) -> Array | None:
        return values

    def variances(self, stacked_covariances: Array) -> Array:
        return stacked_covariances

    def log_determinants(self, stacked_factors: Array) -> Array:
        found: Array = np.log(stacked_factors).sum(axis=-1)
        return found

    def product(self, stacked_factors: Array, vectors: Array) -> Array:
        return stacked_factors * vectors

    def solved(self, stacked_factors: Array, vectors: Array) -> Array:
        return vectors / stacked_factors

    def composed(self, left: Array, right: Array) -> Array:
        return left * right

    def scaled_rows(self, rows: Array, stacked_factors: Array, component: int) -> Array:
        found: Array = rows * stacked_factors[component]
        return found

    def solved_rows(self, rows: Array, stacked_factors: Array, component: int) -> Array:
        found: Array = rows / stacked_factors[component]
        return found

    def deviations(self, stacked_factors: Array) -> Array:
        return stacked_factors

    def singular_values(self, left: Array, right: Array) -> Array:
        return left * right

    def merged_log_determinants(self, factors: Array, moved: Array) -> Array:
        found: Array = np.log(0.5 * (1.0 + factors**2) + moved**2).sum(axis=1)
        return found

    def dense(self, stacked_covariances: Array, columns: Sequence[int]) -> Array:
        chosen = list(columns)
        found: Array = stacked_covariances[:, chosen, np.newaxis] * np.eye(len(chosen))
        return found

    def mean_factor(self, stacked_factors: Array, weights: Array) -> Array:
        roots = np.sqrt(weights)[:, np.newaxis] * stacked_factors
        found: Array = np.linalg.norm(roots, axis=0, keepdims=True)
        return found

    def reordered(self, stacked_factors: Array, features: NDArray[np.intp]) -> Array:
        return stacked_factors[:, features]

    def conditioned(
        self, stacked_factors: Array, n_given: int, deviations: Array
    ) -> tuple[Array, Array, Array, Array]:
        own, rest = stacked_factors[:, :n_given], stacked_factors[:, n_given:]
        return own, deviations / own, np.zeros_like(rest), rest

    def covariances_of(self, stacked_factors: Array) -> Array:
        return np.square(stacked_factors)

    def frame_factor_shape(self, n_centred: int, n_features: int) -> tuple[int, ...]:
        return n_centred, n_features

    def displacements(self, frame: "Frame", u: Array) -> Array:
        moved = u * frame.scale
        moved[frame.centred] = frame.factors * u[frame.centred]
        return moved

    def coordinates(self, frame: "Frame", displacements: Array) -> Array:
        u = displacements / frame.scale
        u[frame.centred] = displacements[frame.centred] / frame.factors
        return u

    def relative_factors(self, frame: "Frame", stacked_factors: Array) -> Array:
        relative = stacked_factors / frame.scale
        relative[frame.centred] = stacked_factors[frame.centred] / frame.factors
        return relative

    def magnified(self, frame: "Frame", parameters: "Parameters", displacements: Array) -> Array:
        inverse = parameters.stacked(parameters.inverse_factors)
        # A diagonal basis cancels.
        own = parameters.stacked(parameters.covariances)
        return inverse * np.sqrt(own + np.square(displacements))

    def coefficients(
        self,
        constants: Array,
        stacked_inverse: Array,
        components: Components,
        scale: Array,
        centres: Array,
    ) -> CoefficientForm:
        scales = stacked_inverse[components] * scale
        offsets = constants - 0.5 * np.square(scales * centres).sum(axis=1)
        curvatures = np.square(scales)
        theta = np.hstack([offsets[:, np.newaxis], curvatures * centres, -0.5 * curvatures])
        return CoefficientForm(theta[:, : self.n_moments(len(scale))], np.empty((0, 0)))

    def kernel_factors(self, stacked: Array, components: Components | None) -> Array:
        chosen = stacked if components is None else stacked[components]
        return chosen[:, np.newaxis, :]

    def row_features(self, residuals: Single) -> Single:
        squares = self.row_squares(residuals)
        end = 1 + residuals.shape[1]
        found = np.empty((len(residuals), end + squares.shape[1]), dtype=np.float32)
        found[:, 0], found[:, 1:end], found[:, end:] = 1.0, residuals, squares
        return found

    def along(self, features: Single, own: Single, shared: Single, root: np.float32) -> Single:
        # With five columns, OpenBLAS 0.3.31 with AVX-512 also multiplies unused stack values. The
        # products are right, but such a value may be a signalling NaN.
        with np.errstate(invalid="ignore"):
            found: Single = features @ np.concatenate([own, shared * root])
        return found

    def gathered(
        self, features: Single, parts: Single, root: np.float32, n_own: int
    ) -> tuple[Single, Single]:
        sums = (parts @ features).astype(np.float32, copy=False)
        return sums[:n_own], sums[n_own:] * root

    @abstractmethod
    def row_squares(self, residuals: Single) -> Single:
        """Return centred squares of whitened residuals over their standard deviations, (n, m)."""

    def block_values(self, n_components: int, n_features: int) -> int:
        return 0


def own_scales(frame: "Frame", n_components: int) -> Array:
    """Return the scales (K, D) of the coordinates of a frame for each component."""
    scales = np.repeat(frame.scale[np.newaxis], n_components, axis=0)
    scales[frame.centred] = frame.factors
    return scales
