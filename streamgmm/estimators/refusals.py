"""Settings and values that covariances of low rank do not support, refused before a fit begins."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamgmm.core.structures import STRUCTURES, Array
from streamgmm.errors import ParameterError
from streamgmm.options import CovarianceType

# Divergence in nats per row that rounding explains.
_ROUNDING = 1e-6


def refuse_for_low_rank(model: Any) -> None:
    """Refuse a fit of covariances of low rank that the settings do not allow.

    Parameters
    ----------
    model : GaussianMixture or GaussianMixtureSearch

    Raises
    ------
    ParameterError
        With what to use instead.
    """
    if model.arithmetic == "float32":
        raise ParameterError(
            "covariance_type='low_rank' does not support arithmetic='float32'; use "
            "arithmetic='auto', which uses float32 for rows of float32 where it can"
        )


def refuse_inexact_covariances(
    covariance_type: CovarianceType, precisions: Array, factors: Array, is_held: NDArray[np.bool_]
) -> None:
    """Refuse to hold covariances that the structure does not hold exactly.

    Parameters
    ----------
    covariance_type : str
    precisions : ndarray
        The given inverse covariances, in the form in which the structure takes them.
    factors : ndarray
        Factors of the covariances in their place.
    is_held : ndarray of shape (K,), bool
        Whether the covariance of a component is fixed.

    Raises
    ------
    ParameterError
        If a covariance that is held differs from the given one by more than rounding.
    """
    structure = STRUCTURES[covariance_type]
    if structure.precision_form is structure:
        return
    apart = {
        k: _divergence(precisions[k], structure.scaled_rows(np.eye(len(precisions[k])), factors, k))
        for k in np.flatnonzero(is_held).tolist()
    }
    inexact = [k for k, divergence in apart.items() if not divergence <= _ROUNDING]
    if inexact:
        worst = max(inexact, key=lambda k: apart[k])
        raise ParameterError(
            f"fixed holds 'covariances', but the covariance(s) of component(s) "
            f"{', '.join(map(str, inexact))} in precisions_init are not of rank {structure.rank} "
            f"plus a diagonal: the nearest such covariance of component {worst} is "
            f"{apart[worst]:.3g} nats per row apart; use a larger rank or "
            "covariance_type='full', or do not fix these covariances"
        )


def _divergence(precision: Array, root: Array) -> float:
    """Return the divergence (Kullback & Leibler) of N(0, P⁻¹) from N(0, Rᵀ R), in nats."""
    ratios = np.linalg.eigvalsh(root @ precision @ root.T)
    return float(0.5 * (1.0 / ratios - 1.0 + np.log(ratios)).sum())
