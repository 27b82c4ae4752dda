"""The priors of mixtures that users choose, and how data complete them.

A prior may depend on the mean and the covariance of the data. A fit computes them once, before the
first M-step.
"""

import math
from dataclasses import dataclass, fields
from numbers import Real

import numpy as np
from numpy.typing import ArrayLike

from streamgmm.core.data_moments import DataMoments
from streamgmm.core.objective import Prior as MixturePrior
from streamgmm.core.objective import PseudoRows
from streamgmm.core.parameters import Parameters
from streamgmm.core.structures import STRUCTURES, Array, CovarianceStructure
from streamgmm.errors import ParameterError
from streamgmm.options import CovarianceType, PriorName


@dataclass(frozen=True, eq=False)
class Prior:
    """Conjugate prior of the means and covariances of a mixture.

    The mean of a component is normal about ``mean_prior`` with covariance Σ_k divided by
    ``mean_precision_prior``. The covariance is inverse Wishart, with a diagonal scale for
    "low_rank"; the variances of diagonal and spherical structures are inverse gamma. The fit finds
    the mode of the posterior (MAP). Weights have no prior.

    Parameters
    ----------
    mean_prior : array-like of shape (n_features,), default=None
        Centre of the means; None for the mean of the data.
    mean_precision_prior : float, default=0.01
        Number of rows that the prior of a mean counts as; 0 for no prior of the means.
    covariance_prior : array-like, default=None
        Scale of the prior of covariances, in squared units of the data: a matrix (n_features,
        n_features) for "full" and "tied", variances (n_features,) for "diag", "tied_diag" and
        "low_rank", a number for "spherical" and "tied_spherical". None for the covariance of the
        data over K^(2/D), for the variances of its columns over K^(2/D) with "low_rank", and for
        its mean variance over K^(2/D) with diagonal and spherical structures.
    degrees_of_freedom_prior : float, default=None
        Degrees of freedom, above n_features - 1; None for n_features + 2.

    References
    ----------
    Fraley & Raftery (2007), Bayesian regularization for normal mixture estimation and model-based
    clustering, Journal of Classification 24.

    Examples
    --------
    A prior keeps a component of equal rows from collapsing:

    >>> import numpy as np
    >>> from streamgmm import GaussianMixture, Prior
    >>> X = np.array([[0.0], [1], [2], [3], [4], [5], [50], [50], [50]])
    >>> gm = GaussianMixture(2, prior=Prior(), reg_covar=0.0, random_state=0).fit(X)
    >>> bool(gm.covariances_.min() > 0.1)
    True
    """

    mean_prior: ArrayLike | None = None
    mean_precision_prior: float = 0.01
    covariance_prior: ArrayLike | None = None
    degrees_of_freedom_prior: float | None = None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Prior):
            return NotImplemented
        return all(
            np.array_equal(getattr(self, field.name), getattr(other, field.name))
            for field in fields(self)
        )

    __hash__ = None  # type: ignore[assignment]

    def check(self, covariance_type: CovarianceType, n_features: int) -> None:
        """Refuse values that are not a prior for this kind of mixture.

        Parameters
        ----------
        covariance_type : str
            A structure of covariances.
        n_features : int

        Raises
        ------
        ParameterError
            If a value has the wrong shape or range.

        Examples
        --------
        >>> from streamgmm import Prior
        >>> Prior(covariance_prior=2.0).check("spherical", 5)
        """
        structure = STRUCTURES[covariance_type]
        shape = structure.prior_shape(n_features)
        _require_shape("mean_prior", self.mean_prior, (n_features,))
        scale = _require_shape("covariance_prior", self.covariance_prior, shape)
        if scale is not None and not _is_positive(scale, structure):
            raise ParameterError(
                "covariance_prior of the prior is not positive definite; give a symmetric matrix "
                "with positive eigenvalues, or positive variances"
            )
        if not _is_number(self.mean_precision_prior) or self.mean_precision_prior < 0.0:
            raise ParameterError(
                f"mean_precision_prior of the prior is {self.mean_precision_prior!r}; give a "
                "number of at least 0"
            )
        degrees = self.degrees_of_freedom_prior
        if degrees is not None and not (_is_number(degrees) and degrees > n_features - 1):
            raise ParameterError(
                f"degrees_of_freedom_prior of the prior is {degrees!r}; give a number above "
                f"{n_features - 1}, the number of features less 1"
            )

    def completed(self, moments: DataMoments) -> "ConjugatePrior":
        """Return the prior, completed by moments of the data.

        Parameters
        ----------
        moments : DataMoments
            Number, mean and covariance of the rows.

        Returns
        -------
        prior : ConjugatePrior

        Examples
        --------
        >>> import numpy as np
        >>> from streamgmm import Prior
        >>> from streamgmm.core.data_moments import DataMoments
        >>> moments = DataMoments(10.0, np.zeros(2), np.eye(2))
        >>> Prior().completed(moments).moments.n_rows
        10.0
        """
        return ConjugatePrior(self, moments)


@dataclass(frozen=True, eq=False)
class ConjugatePrior:
    """A conjugate prior that data have completed.

    Attributes
    ----------
    settings : Prior
    moments : DataMoments

    References
    ----------
    Fraley & Raftery (2007), Bayesian regularization for normal mixture estimation and model-based
    clustering, Journal of Classification 24.
    """

    settings: Prior
    moments: DataMoments

    def pseudo_rows(self, parameters: Parameters) -> PseudoRows:
        """Return the rows that the prior adds to a mixture of this shape."""
        structure, (k, d) = parameters.structure, parameters.means.shape
        own = self.settings
        degrees = d + 2.0 if own.degrees_of_freedom_prior is None else own.degrees_of_freedom_prior
        centre = self.moments.mean if own.mean_prior is None else np.asarray(own.mean_prior, float)
        # The prior of each mean counts as a row of its covariance.
        n_means = k if structure.n_shared(d) else 1
        if structure.has_dependent_columns:
            rows, part = degrees + d + 1.0, 1.0
        else:
            # One variance for D columns counts each of its rows D times.
            part = structure.n_parameters(1, d) / d
            rows = (degrees + 2.0) * part
        if own.covariance_prior is not None:
            scale = np.asarray(own.covariance_prior, dtype=np.float64)
        else:
            scale = self.moments.covariance / k ** (2.0 / d)
            scale = scale if structure.has_dependent_columns else scale.mean()
        shape = (d, d) if structure.has_directions else (d,)
        return PseudoRows(
            means=own.mean_precision_prior,
            centres=centre,
            covariances=rows + n_means,
            scatter=np.broadcast_to(part * scale, shape),
        )


@dataclass(frozen=True)
class ChenTan:
    """Penalty of Chen & Tan: it bounds the likelihood, and vanishes as the rows increase."""

    def check(self, covariance_type: CovarianceType, n_features: int) -> None:
        """Do nothing: there are no settings."""

    def completed(self, moments: DataMoments) -> "ChenTanPenalty":
        """Return the penalty for data with these moments."""
        return ChenTanPenalty(moments)


@dataclass(frozen=True, eq=False)
class ChenTanPenalty:
    """The penalty -a Σ_k (tr(Cov Σ_k⁻¹) + ln|Σ_k|) with a = 1/√n.

    Attributes
    ----------
    moments : DataMoments

    References
    ----------
    Chen & Tan (2009), Inference for multivariate normal mixtures, Journal of Multivariate Analysis
    100.
    """

    moments: DataMoments

    def pseudo_rows(self, parameters: Parameters) -> PseudoRows:
        """Return the rows that the penalty adds to a mixture of this shape."""
        rows = 2.0 / np.sqrt(self.moments.n_rows)
        return PseudoRows(covariances=float(rows), scatter=rows * self.moments.covariance)


#: A setting of an estimator: None for maximum likelihood, or any object with ``pseudo_rows``.
PriorSetting = PriorName | Prior | MixturePrior | None
#: Priors by their names.
_NAMED: dict[PriorName, Prior | ChenTan] = {"fraley-raftery": Prior(), "chen-tan": ChenTan()}


def prior_of(setting: PriorSetting) -> Prior | ChenTan | MixturePrior | None:
    """Return the prior that a setting of an estimator names or is."""
    return _NAMED[setting] if isinstance(setting, str) else setting


def completed_prior(setting: PriorSetting, moments: DataMoments) -> MixturePrior | None:
    """Return the prior of a setting for data with these moments."""
    prior = prior_of(setting)
    return prior.completed(moments) if isinstance(prior, Prior | ChenTan) else prior


def check_prior(setting: PriorSetting, covariance_type: CovarianceType, n_features: int) -> None:
    """Refuse a prior that does not suit a mixture.

    Raises
    ------
    ParameterError
        If a value of a prior has the wrong shape or range.
    """
    prior = prior_of(setting)
    if isinstance(prior, Prior | ChenTan):
        prior.check(covariance_type, n_features)


def _require_shape(name: str, value: ArrayLike | None, shape: tuple[int, ...]) -> Array | None:
    """Return a value of a prior as an array; refuse one that is not finite or has another shape."""
    if value is None:
        return None
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ParameterError(f"{name} of the prior holds no real numbers: {error}") from None
    if array.shape != shape or not np.isfinite(array).all():
        raise ParameterError(
            f"{name} of the prior has shape {array.shape}; give finite numbers of shape {shape}"
        )
    return array


def _is_positive(scale: Array, structure: CovarianceStructure) -> bool:
    if not structure.has_directions:
        return bool(np.all(scale > 0.0))
    is_symmetric = np.allclose(scale, scale.T, rtol=1e-10, atol=0.0)
    return bool(is_symmetric and np.linalg.eigvalsh(scale).min() > 0.0)


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
