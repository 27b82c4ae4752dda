"""The interface of covariance structures: all operations that depend on the kind of covariance.

Code outside this package and the kernels calls the object, and never branches on its name.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, NoReturn, Protocol

import numpy as np
from numpy.typing import NDArray

from streamgmm.core.structures.matrices import Array, weighted_sums
from streamgmm.errors import ParameterError
from streamgmm.options import CovarianceType

if TYPE_CHECKING:
    from streamgmm.core.frame import Frame
    from streamgmm.core.objective import PseudoRows
    from streamgmm.core.parameters import Parameters
    from streamgmm.core.statistics import Statistics
    from streamgmm.core.structures.covariance_update import CovarianceUpdate

Single = NDArray[np.float32]
Components = NDArray[np.intp]
MergePairs = Callable[[Components, Components], "Parameters"]


@dataclass(frozen=True)
class CoefficientForm:
    """The coefficients of the E-step in the expanded form, for some components.

    Attributes
    ----------
    theta : ndarray of shape (k, F)
        Coefficients of the features, for each component.
    whitener : ndarray of shape (D, D), or (0, 0)
        Matrix that whitens all rows before their features are taken.
    """

    theta: Array
    whitener: Array


def unsupported(covariance_type: str, what: str) -> Any:
    """Return a method that refuses an operation which a structure does not have.

    Parameters
    ----------
    covariance_type : str
        The structure, in the message.
    what : str
        What needs the operation, in the message.

    Examples
    --------
    >>> from streamgmm.core.structures.structure import unsupported
    >>> class Plain:
    ...     composed = unsupported("plain", "products of factors")
    >>> Plain().composed()
    Traceback (most recent call last):
    ...
    streamgmm.errors.ParameterError: covariance_type='plain' does not support products of \
factors; use 'full' or 'diag' for it
    """

    def refuse(self: "CovarianceStructure", *arguments: Any, **named: Any) -> NoReturn:
        raise ParameterError(
            f"covariance_type={covariance_type!r} does not support {what}; use 'full' or 'diag' "
            "for it"
        )

    return refuse


class Pooling(NamedTuple):
    """What the M-step takes the mean of second moments over."""

    components: bool
    columns: bool


class PriorRows(Protocol):
    """The pseudo-rows of a prior, in coordinates of a mixture."""

    @property
    def covariances(self) -> Array:
        """Numbers of pseudo-rows of the covariances: of each, or of the shared one."""
        ...

    def log_density(self) -> float:
        """Return the log density of the mixture, in nats."""
        ...

    def posterior(
        self, statistics: "Statistics", is_held: NDArray[np.bool_], weight: float | None = None
    ) -> "Statistics":
        """Return statistics whose M-step gives the maximum with the prior.

        Parameters
        ----------
        statistics : Statistics
            Statistics under the mixture.
        is_held : ndarray of shape (K,), bool
            Whether the mean of a component is fixed.
        weight : float, optional
            Weight of all rows, if some of them are noise.
        """
        ...


class CovarianceStructure(ABC):
    """One kind of covariance, for mixtures of K components in D features.

    Σ_k = L_k L_kᵀ with a factor L_k that is stored like the covariances. In stacked form factors
    are matrices (K or 1, D, D) or scales (K, D), of which the first axis has one entry if all
    components share it.

    Statistics hold, by component, N_k, Σγu (D) and second moments; ``scatter`` holds second moments
    of all components together, for structures that need no others.
    """

    code: ClassVar[int]
    """The number of the form that kernels evaluate: FULL, TIED, DIAG, SPHERICAL or LOW_RANK."""
    sklearn_type: ClassVar[str]
    """The covariance type of scikit-learn that can hold these covariances."""
    moments_depend_on_parameters: ClassVar[bool] = False
    """Whether moments are those of features that depend on the parameters of the E-step."""
    pooling: ClassVar[Pooling | None] = None
    """How the M-step averages second moments about the means; None if it does more than that.

    A structure with an M-step of its own does not inherit it.
    """
    has_dependent_columns: ClassVar[bool] = False
    """Whether the columns of a component may depend on each other."""
    rank: int = 0
    """Rank of the loadings; 0 for covariances without loadings."""

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        if "updates" in vars(cls) and "pooling" not in vars(cls):
            cls.pooling = None

    # Storage

    @abstractmethod
    def shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        """Return the shape of covariances and factors as they are stored."""

    def prior_shape(self, n_features: int) -> tuple[int, ...]:
        """Return the shape of the scale of a prior of one covariance."""
        return self.one_shape(n_features)

    def one_shape(self, n_features: int) -> tuple[int, ...]:
        """Return the shape of one covariance: of a component, or of all if they share it."""
        shape = self.shape(1, n_features)
        return shape if self.n_shared(n_features) else shape[1:]

    @abstractmethod
    def n_parameters(self, n_components: int, n_features: int) -> int:
        """Return the number of free parameters in the covariances."""

    @abstractmethod
    def n_factor_values(self, n_components: int, n_features: int) -> int:
        """Return the number of values in the factors of all components, in stacked form."""

    @abstractmethod
    def stacked(self, stored: Array, n_components: int, n_features: int) -> Array:
        """Return covariances or factors in stacked form."""

    @abstractmethod
    def stored(self, stacked: Array) -> Array:
        """Return stacked covariances or factors as they are stored."""

    @abstractmethod
    def taken(self, stored: Array, components: Components) -> Array:
        """Return the covariances or factors of some components, or the shared ones."""

    @abstractmethod
    def replaced(self, stored: Array, components: Components, values: Array) -> Array:
        """Return a copy with new values of some components; shared values do not change.

        Parameters
        ----------
        stored : ndarray
        components : ndarray of shape (k,), int
        values : ndarray
            Covariances or factors of k components, as they are stored.
        """

    @abstractmethod
    def without(self, stored: Array, component: int) -> Array:
        """Return the values without those of one component; shared values do not change."""

    def for_sklearn(self, stored: Array, n_components: int) -> Array:
        """Return stored covariances, factors or precisions as ``sklearn_type`` stores them."""
        return stored

    @abstractmethod
    def pooled_type(self, covariance_type: CovarianceType) -> CovarianceType:
        """Return the type that holds components of several mixtures, each with its own covariance.

        Parameters
        ----------
        covariance_type : str
            The name of this structure.
        """

    @abstractmethod
    def repeated(self, stored: Array, n_components: int) -> Array:
        """Return the values as ``pooled_type`` stores them, for this number of components."""

    @abstractmethod
    def pooled(self, parameters: "Parameters") -> tuple[Array, Array]:
        """Return stored covariances and factors from a mixture of ``pooled_type``.

        A shared covariance is the mean of the covariances.
        """

    # Algebra

    @abstractmethod
    def cholesky(self, covariances: Array) -> Array:
        """Return the factors of stored covariances, or of one of them.

        Raises
        ------
        numpy.linalg.LinAlgError
            If a covariance is not positive definite.
        """

    @abstractmethod
    def invert(self, factors: Array) -> Array:
        """Return W = L⁻¹ of stored factors.

        Raises
        ------
        numpy.linalg.LinAlgError
            If a factor is singular.
        """

    def factors_from_stored(self, covariances: Array, precisions_cholesky: Array) -> Array:
        """Return stored factors from covariances and the upper factors of their inverses.

        Raises
        ------
        numpy.linalg.LinAlgError
            If a factor is singular.
        """
        return self.invert(self.transposed(precisions_cholesky))

    @abstractmethod
    def precisions(self, inverse_factors: Array) -> Array:
        """Return the inverse covariances Wᵀ W, stored."""

    @abstractmethod
    def transposed(self, factors: Array) -> Array:
        """Return stored factors transposed: lower triangles become upper ones."""

    @property
    def precision_form(self) -> "CovarianceStructure":
        """The structure that stores the precisions of :meth:`from_precisions`."""
        return self

    @abstractmethod
    def from_precisions(self, precisions: Array) -> tuple[Array, Array]:
        """Return stored covariances and factors of inverse covariances.

        If the structure cannot hold a covariance, the nearest one takes its place.

        Raises
        ------
        numpy.linalg.LinAlgError
            If a precision is not positive definite.
        """

    def start_of_fit(
        self, covariances: Array, factors: Array, is_free: NDArray[np.bool_]
    ) -> tuple[Array, Array]:
        """Return stored covariances and factors from which EM leads to all others.

        Parameters
        ----------
        covariances, factors : ndarray
        is_free : ndarray of shape (K,), bool
            Which components may get other covariances.
        """
        return covariances, factors

    @abstractmethod
    def widths(self, factors: Array) -> Array:
        """Return the numbers that are positive if, and only if, stored factors are regular."""

    @abstractmethod
    def symmetrized(self, values: Array, tolerance: float) -> Array | None:
        """Return stored values without the asymmetry that rounding leaves.

        Return None if the asymmetry exceeds the tolerance, as a part of the diagonals.
        """

    @abstractmethod
    def variances(self, stacked_covariances: Array) -> Array:
        """Return marginal variances (K or 1, D) of stacked covariances."""

    @abstractmethod
    def log_determinants(self, stacked_factors: Array) -> Array:
        """Return ln |L_k|, (K,) or (1,), of stacked factors."""

    @abstractmethod
    def product(self, stacked_factors: Array, vectors: Array) -> Array:
        """Return L_k v_k (K, D) of vectors (K, D)."""

    @abstractmethod
    def solved(self, stacked_factors: Array, vectors: Array) -> Array:
        """Return L_k⁻¹ v_k (K, D) of vectors (K, D)."""

    @abstractmethod
    def composed(self, left: Array, right: Array) -> Array:
        """Return the products of stacked factors, stacked."""

    @abstractmethod
    def scaled_rows(self, rows: Array, stacked_factors: Array, component: int) -> Array:
        """Return L_k x (n, D) of rows (n, D) for one component."""

    @abstractmethod
    def solved_rows(self, rows: Array, stacked_factors: Array, component: int) -> Array:
        """Return L⁻¹ x (n, D) of rows (n, D) for one component."""

    @abstractmethod
    def deviations(self, stacked_factors: Array) -> Array:
        """Return marginal standard deviations (K or 1, D) from stacked factors."""

    @abstractmethod
    def singular_values(self, left: Array, right: Array) -> Array:
        """Return the singular values of products of stacked factors."""

    @abstractmethod
    def merged_log_determinants(self, factors: Array, moved: Array) -> Array:
        """Return ln |½ (I + L Lᵀ) + m mᵀ| (k,) of stacked factors L and vectors m (k, D)."""

    def pair_log_determinants(
        self, first: "Parameters", i: int, second: "Parameters", components: slice
    ) -> Array:
        """Return ln |½ (Σ_i + Σ_j) + ¼ d dᵀ| - ln |Σ_i| of components of two mixtures, (k,).

        Parameters
        ----------
        first, second : Parameters
        i : int
            Component of the first mixture.
        components : slice
            Components j of the second mixture; d is the difference of the means.
        """
        k = first.n_components
        inverse, factors = first.stacked(first.inverse_factors), second.stacked(second.factors)
        # Arrays that all components share have one entry.
        inverse = np.broadcast_to(inverse, (k, *inverse.shape[1:]))
        factors = np.broadcast_to(factors, (k, *factors.shape[1:]))
        # In coordinates in which component i of the first mixture has covariance I.
        moved = second.means[components] - first.means[i]
        own = self.composed(inverse[i : i + 1], factors[components])
        return self.merged_log_determinants(own, 0.5 * self.scaled_rows(moved, inverse, i))

    @abstractmethod
    def dense(self, stacked_covariances: Array, columns: Sequence[int]) -> Array:
        """Return covariances (K or 1, m, m) of some columns."""

    def longest_axis(self, stacked_factors: Array, component: int) -> Array:
        """Return a standard deviation of a component in its direction of largest variance, (D,)."""
        factor = stacked_factors[min(component, len(stacked_factors) - 1)]
        if factor.ndim == 2:
            directions, lengths, _ = np.linalg.svd(factor)
            along: Array = lengths[0] * directions[:, 0]
            return along
        axis = np.zeros(factor.size)
        longest = int(np.argmax(factor))
        axis[longest] = factor[longest]
        return axis

    @abstractmethod
    def mean_factor(self, stacked_factors: Array, weights: Array) -> Array:
        """Return the factor of the weighted mean of covariances, stacked, with one entry."""

    # Marginal and conditional distributions

    @abstractmethod
    def reordered(self, stacked_factors: Array, features: NDArray[np.intp]) -> Array:
        """Return stacked factors of the covariances of some features, in the order given."""

    @abstractmethod
    def conditioned(
        self, stacked_factors: Array, n_given: int, deviations: Array
    ) -> tuple[Array, Array, Array, Array]:
        """Condition on the first features.

        Parameters
        ----------
        stacked_factors : ndarray
        n_given : int
            g, the number of features whose values are known.
        deviations : ndarray of shape (K, g)
            Deviations of these values from the means.

        Returns
        -------
        own : ndarray
            Stacked factors of these features.
        whitened : ndarray of shape (K, g)
            Deviations in units of these factors.
        shifts : ndarray of shape (K, D - g)
            Shifts of the means of the other features.
        rest : ndarray
            Stacked factors of the other features.
        """

    def reduced(
        self, covariance_type: CovarianceType, covariances: Array, factors: Array
    ) -> tuple[CovarianceType, Array, Array]:
        """Return the type that can hold covariances of fewer features, with stored values."""
        return covariance_type, covariances, factors

    @abstractmethod
    def covariances_of(self, stacked_factors: Array) -> Array:
        """Return L Lᵀ of stacked factors, stacked."""

    # Moments

    @abstractmethod
    def n_moments(self, n_features: int) -> int:
        """Return M, the number of moments of a component, its features in the E-step."""

    @abstractmethod
    def features(self, n_features: int) -> NDArray[np.int64]:
        """Return the coordinates whose products the features are, (M, 2).

        Coordinates are (1, z_1, ... z_D), and for SPHERICAL ‖z‖² as well.
        """

    def moments_of(self, rows: Array, shares: Array) -> Array:
        """Return the moments (K, M) of coordinates z (n, D) with responsibilities (K, n).

        The order of the sums does not depend on the number of threads, as that of BLAS may.
        """
        sides = self.features(rows.shape[1]).T
        norms = np.square(rows).sum(axis=1, keepdims=True)
        coordinates = np.hstack([np.ones((len(rows), 1)), rows, norms])
        first, second = (np.take(coordinates, side, axis=1) for side in sides)
        return weighted_sums(shares, first * second)

    def scratch_lines(self, n_components: int, n_features: int) -> int:
        """Return the number of lines of a block of rows that a kernel works on."""
        # Lists of rows by component are an eighth of a line each.
        return 7 * (2 + n_features) + n_components + n_components // 8 + 8

    def n_sums(self) -> int:
        """Return the number of statistics that a thread holds beside the memory of a kernel.

        A kernel sums in two levels. The statistics of a chunk, and those they merge with, are both
        in memory.
        """
        return 4

    def n_scatter(self, n_features: int) -> int:
        """Return the number of lines of the scatter: D, or 0 if there is none."""
        return 0

    def scatter_from(self, upper: Array, n_features: int) -> Array:
        """Return the scatter from its upper triangle, as kernels sum it."""
        return np.empty((0, 0))

    # Frame

    def frame_origin(
        self, parameters: "Parameters", median: Callable[[Array, Array], Array]
    ) -> Array:
        """Return the origin (D,) of a frame for a mixture.

        Parameters
        ----------
        parameters : Parameters
        median : callable
            Weighted median of values (K, D) with weights (K,), (D,).
        """
        return median(parameters.means, parameters.weights)

    def frame_scale(self, scale: Array) -> Array:
        """Return the scale (D,) of a frame, equal for all columns that share one variance."""
        return scale

    @abstractmethod
    def frame_factor_shape(self, n_centred: int, n_features: int) -> tuple[int, ...]:
        """Return the shape of the bases of a frame with this number of centred components."""

    def frame_factors(self, stacked_factors: Array, centred: Components) -> Array:
        """Return the bases of a frame from stacked factors."""
        return stacked_factors[centred]

    def taken_frame_factors(self, factors: Array, indices: Components) -> Array:
        """Return the bases of some centred components of a frame."""
        return factors[indices]

    def with_directions(
        self, frame_factors: Array, parameters: "Parameters", known: "Statistics | None"
    ) -> Array:
        """Return the bases of a frame with directions for :meth:`complete_updates`.

        Parameters
        ----------
        frame_factors : ndarray
            Bases of the frame of the parameters.
        parameters : Parameters
        known : Statistics or None
            Statistics of the same rows under other parameters.
        """
        return frame_factors

    def expected_moments(
        self, parameters: "Parameters", frame: "Frame", counts: Array
    ) -> Array | None:
        """Return the expected moments of counts (K,) of rows from each component of a mixture.

        None if whitened coordinates serve.
        """
        return None

    def carried_moments(self, statistics: "Statistics", frame: "Frame") -> Array | None:
        """Return moments of statistics in another frame; None if whitened coordinates serve."""
        return None

    @abstractmethod
    def displacements(self, frame: "Frame", u: Array) -> Array:
        """Return B u in data units (K, D) of coordinates (K, D)."""

    @abstractmethod
    def coordinates(self, frame: "Frame", displacements: Array) -> Array:
        """Return B⁻¹ d (K, D) of displacements (K, D) in data units."""

    @abstractmethod
    def relative_factors(self, frame: "Frame", stacked_factors: Array) -> Array:
        """Return B⁻¹ L, stacked."""

    @abstractmethod
    def magnified(self, frame: "Frame", parameters: "Parameters", displacements: Array) -> Array:
        """Return |L⁻¹ B| s (K, D), with s_d² the second moment of u_d.

        Displacements (K, D) are those of the means from the origins of the frame.
        """

    # E-step

    @abstractmethod
    def coefficients(
        self,
        constants: Array,
        stacked_inverse: Array,
        components: Components,
        scale: Array,
        centres: Array,
    ) -> CoefficientForm:
        """Return the coefficients of c - ½‖W (z - m)‖² in the features.

        Parameters
        ----------
        constants : ndarray of shape (k,)
        stacked_inverse : ndarray
            W of all components, in data units.
        components : ndarray of shape (k,), int
            Components that are evaluated.
        scale : ndarray of shape (D,)
            Units of z.
        centres : ndarray of shape (k, D)
        """

    @abstractmethod
    def kernel_factors(self, stacked: Array, components: Components | None) -> Array:
        """Return stacked factors as kernels read them, (k or 1, D or 1, D).

        Parameters
        ----------
        stacked : ndarray
        components : ndarray of shape (k,), int, or None
            None for all of them, in their order.
        """

    def is_own_basis(self, bases: Array, factors: Array) -> bool:
        """Return whether rows that kernels whiten are also in the coordinates of the frame."""
        return True

    # M-step

    @abstractmethod
    def updates(
        self, statistics: "Statistics", alive: Components, offsets: Array, shifts: Array
    ) -> "list[CovarianceUpdate]":
        """Return the computations of covariances from statistics.

        Parameters
        ----------
        statistics : Statistics
        alive : ndarray of shape (k,), int
            Components that have mass.
        offsets : ndarray of shape (K, D)
            Means of the rows in the coordinates of the frame.
        shifts : ndarray of shape (K, D)
            Differences of the rows' means from the means about which covariances are taken.
        """

    def complete_updates(
        self, statistics: "Statistics", alive: Components, offsets: Array, shifts: Array
    ) -> "list[CovarianceUpdate]":
        """Return computations that go further than an EM step, as far as the statistics show.

        The objective may fall, so a caller has to compare. By default they are :meth:`updates`,
        which these arguments describe.
        """
        return self.updates(statistics, alive, offsets, shifts)

    @abstractmethod
    def update_views(self, covariances: Array, factors: Array) -> tuple[Array, Array]:
        """Return views of stored arrays whose first axis is the one that updates index."""

    @abstractmethod
    def updated_components(self, updated: list[int], alive: Components) -> list[int]:
        """Return the components whose covariances have the indices of an update."""

    def resolution(self, rounding: Array) -> Array:
        """Return the least widths that are allowed, from the rounding of the data (K, D)."""
        return rounding

    def joint_variances(self, variances: Array) -> Array:
        """Return variances (D,) or a ridge's measure, equal where columns share one variance."""
        return variances

    def shared_ridge(self, ridge: Array) -> Array:
        """Return a ridge (D,), its smallest entry for all where columns share one variance."""
        return ridge

    # Whitened coordinates

    @abstractmethod
    def whitened_moments(
        self,
        factors: Array,
        means: Array,
        counts: Array,
        shifted: Array,
        raw: Array,
        scatter: Array,
    ) -> tuple[Array, Array]:
        """Return second moments and scatter of y from those of u = a + T y.

        Parameters
        ----------
        factors : ndarray
            T, stacked.
        means : ndarray of shape (K, D)
            a.
        counts : ndarray of shape (K, 1)
        shifted : ndarray of shape (K, D)
            Σγ(u - a).
        raw : ndarray of shape (K, M - 1 - D)
            Second moments of u.
        scatter : ndarray
        """

    @abstractmethod
    def framed_moments(
        self, factors: Array, means: Array, counts: Array, moved: Array, own: Array, scatter: Array
    ) -> tuple[Array, Array]:
        """Return second moments and scatter of u = a + T y from those of y.

        Parameters are those of :meth:`whitened_moments`; ``moved`` is Σγ T y, ``own`` and
        ``scatter`` are of y.
        """

    @abstractmethod
    def as_moments(self, stacked: Array, n_components: int) -> tuple[Array, Array]:
        """Return second moments (K, M - 1 - D) and scatter of stacked sums of yyᵀ.

        If components share the scatter, it is the sum of the matrices of all components.
        """

    @abstractmethod
    def unit_moments(self, n_features: int) -> tuple[Array, Array]:
        """Return expected second moments of one row of y, (M - 1 - D,), and its scatter."""

    def squared_distances(
        self,
        statistics: "Statistics",
        parameters: "Parameters",
        whitened: Callable[[], tuple[Array, Array]],
    ) -> float:
        """Return Σ w Σ_k γ ‖L⁻¹ (x - μ)‖² from statistics under the parameters.

        Parameters
        ----------
        statistics : Statistics
        parameters : Parameters
        whitened : callable
            Returns the moments (K, M) and the scatter of whitened residuals.
        """
        moments, scatter = whitened()
        d = parameters.n_features
        unit, unit_scatter = self.unit_moments(d)
        squares = (moments[:, 1 + d :] @ unit).sum() + (scatter * unit_scatter).sum()
        return float(squares * d / (np.square(unit).sum() + np.square(unit_scatter).sum()))

    # Gradient and information

    def ridge_traces(self, stacked_inverse: Array, ridge: float | Array) -> Array:
        """Return tr(diag(ridge) Σ⁻¹) of each component, (K,), or of a shared covariance, (1,)."""
        if stacked_inverse.ndim == 2:
            traces: Array = (np.square(stacked_inverse) * ridge).sum(axis=1)
            return traces
        return np.array([(np.square(one) * ridge).ravel().sum() for one in stacked_inverse])

    def relative_changes(self, parameters: "Parameters", factors: Array) -> Array:
        """Return the changes of stored factors to others, relative to the covariances."""
        inverse = parameters.stacked(parameters.inverse_factors)
        return self.composed(inverse, parameters.stacked(factors - parameters.factors))

    @abstractmethod
    def ridge_moments(self, stacked_inverse: Array, ridge: float | Array) -> tuple[Array, Array]:
        """Return L⁻¹ diag(ridge) L⁻ᵀ as second moments of a row, (K, M - 1 - D), and scatter."""

    @abstractmethod
    def tangent_scales(self, n_features: int) -> tuple[Array, Array]:
        """Return factors that turn second moments into coordinates of unit information.

        The first factors are for own coordinates of a component, the second for shared ones.
        """

    @abstractmethod
    def to_coordinates(
        self, moments: Array, scatter: Array, n_features: int
    ) -> tuple[Array, Array]:
        """Return moments (K, M) and scatter as own coordinates (K, m) and shared ones (s,)."""

    @abstractmethod
    def from_coordinates(
        self, own: Array, shared: Array, weights: Array, n_features: int
    ) -> tuple[Array, Array]:
        """Return moments (K, M) and scatter from coordinates; undo :meth:`to_coordinates`."""

    @abstractmethod
    def n_own(self, n_features: int) -> int:
        """Return m, the number of coordinates that each component has of its own."""

    @abstractmethod
    def n_shared(self, n_features: int) -> int:
        """Return s, the number of coordinates that no component has of its own."""

    @abstractmethod
    def row_features(self, residuals: Single) -> Single:
        """Return 1, y and further features of whitened residuals y (n, D) for :meth:`along`."""

    @abstractmethod
    def along(self, features: Single, own: Single, shared: Single, root: np.float32) -> Single:
        """Return products (n,) of rows' gradients for one component with a vector.

        Parameters
        ----------
        features : ndarray of shape (n, m)
            Result of :meth:`row_features`.
        own, shared : ndarray
            Coordinates of the vector: the component's and the shared ones.
        root : float
            √π_k of the component.
        """

    @abstractmethod
    def gathered(
        self, features: Single, parts: Single, root: np.float32, n_own: int
    ) -> tuple[Single, Single]:
        """Return sums of rows' gradients for one component: ``n_own`` coordinates, and shared ones.

        This is the adjoint of :meth:`along`. Parts (n,) are the weights of the rows.
        """

    # Reduction

    @abstractmethod
    def merging_costs(
        self,
        parameters: "Parameters",
        first: Components,
        second: Components,
        merged: "MergePairs",
    ) -> Array:
        """Return bounds on the cost of merging the components of each pair, (n,).

        Parameters
        ----------
        parameters : Parameters
        first, second : ndarray of shape (n,), int
        merged : callable
            Returns the mixture of pairs of components, given the first ones and the second ones.
        """

    @abstractmethod
    def merged_pairs(
        self,
        parameters: "Parameters",
        share: Array,
        apart: Array,
        first: Components,
        second: Components,
    ) -> tuple[Array, Array]:
        """Return covariances and factors of pairs of components, each as one Gaussian.

        Parameters
        ----------
        parameters : Parameters
        share : ndarray of shape (n, 1)
            Share of the first component in the weight of the pair.
        apart : ndarray of shape (n, D)
            Distance of the means, times the root of the product of both parts.
        first, second : ndarray of shape (n,), int
        """

    @abstractmethod
    def average(self, covariances: Array, weights: Array) -> Array:
        """Return the weighted mean of stored covariances, as one component stores it."""

    # Initialization

    @abstractmethod
    def add_cluster(
        self,
        covariances: Array,
        k: int,
        weighted: Array,
        deviations: Array,
        count: float,
        unseen: Array,
        total: float,
    ) -> None:
        """Add the covariance of the rows of one cluster to stored covariances, in place.

        Parameters
        ----------
        covariances : ndarray
            Zero before the first cluster.
        k : int
        weighted, deviations : ndarray of shape (n, D)
            Deviations of the rows from their mean, with weights and without.
        count, total : float
            Weight of the rows of the cluster, and of all rows.
        unseen : ndarray of shape (D,)
            Variances of columns that have no value in the cluster.
        """

    @abstractmethod
    def with_ridge(self, covariances: Array, values: Array) -> Array:
        """Return stored covariances with values (D,) added to their diagonals."""

    def with_rounding(self, covariances: Array, part: float) -> Array:
        """Return covariances with a part of their diagonals added, so that they can be factored."""
        return covariances

    # Priors

    def prior_rows(self, rows: "PseudoRows", parameters: "Parameters") -> PriorRows | None:
        """Return the pseudo-rows of a prior for a mixture; None if whitened coordinates serve.

        Parameters
        ----------
        rows : PseudoRows
        parameters : Parameters

        Raises
        ------
        ParameterError
            If the scatter does not have a shape that these covariances allow.
        """
        return None

    def widened_start(self, rows: "PseudoRows", start: "Parameters", counts: Array) -> "Parameters":
        """Return a start from clusters of counts (K,) of rows, with the pseudo-rows of a prior.

        An M-step that does not depend on the covariances of the start adds these rows itself.
        """
        return start

    # Condition

    def most_undetermined_rows(self, n_features: int) -> int:
        """Return the largest number of rows that does not determine a component's covariance."""
        return n_features

    has_directions: ClassVar[bool]
    """Whether data of these covariances need all their second moments, not only variances."""

    def narrow_columns(
        self, stacked_covariance: Array, limits: Array, columns: NDArray[np.intp]
    ) -> NDArray[np.intp]:
        """Return columns whose combinations may have a small variance; none where none can.

        Parameters
        ----------
        stacked_covariance : ndarray
            One covariance in stacked form.
        limits : ndarray of shape (D,)
            Variances of columns that count as small.
        columns : ndarray of shape (n,), int
            The columns to choose from.
        """
        return columns if self.has_directions else columns[:0]

    def variances_along(self, stacked_covariances: Array, direction: Array) -> Array:
        """Return the variances dᵀ Σ d (K or 1,) of stacked covariances along a direction (D,)."""
        if stacked_covariances.ndim == 2:
            return stacked_covariances @ np.square(direction)
        return stacked_covariances @ direction @ direction

    @abstractmethod
    def block_values(self, n_components: int, n_features: int) -> int:
        """Return the number of matrix entries that an operation on covariances holds at once.

        The number is 0 if there are no matrices.
        """

    @abstractmethod
    def n_mean_arrays(self) -> int:
        """Return the number of arrays of all factors that :meth:`mean_factor` allocates."""
