"""Settings and data that covariances of low rank do not support, refused before a fit begins."""

from typing import Any

from streamgmm.core.structures.low_rank import LOW_RANK_TYPE
from streamgmm.errors import ParameterError
from streamgmm.protocols import Source


def refuse_unsupported(model: Any, source: Source) -> None:
    """Refuse a fit that the covariance structure of a model does not support.

    Parameters
    ----------
    model : GaussianMixture
    source : Source

    Raises
    ------
    ParameterError
        With what to use instead.
    """
    if model.covariance_type != LOW_RANK_TYPE:
        return
    refusals = (
        (
            source.missing == "em",
            "missing='em'",
            "use missing='drop', fill the gaps first, or choose covariance_type='diag'",
        ),
        (
            model.prior is not None,
            f"prior={model.prior!r}",
            "leave prior at None, and give a reg_covar that keeps noise variances positive",
        ),
        (
            model.precisions_init is not None or "covariances" in model.fixed,
            "precisions_init and fixed covariances",
            "give means_init and weights_init, or continue from a fitted model with "
            "warm_start=True",
        ),
        (
            model.arithmetic == "float32",
            "arithmetic='float32'",
            "use arithmetic='auto', which computes in float64",
        ),
    )
    for is_asked, what, remedy in refusals:
        if is_asked:
            raise ParameterError(f"covariance_type='low_rank' does not support {what}; {remedy}")
