"""Settings and data that covariances of low rank do not support, refused before a fit begins."""

from typing import Any

from streamgmm.errors import ParameterError
from streamgmm.protocols import Source


def refuse_for_low_rank(model: Any, source: Source) -> None:
    """Refuse a fit of covariances of low rank that the settings or the data do not allow.

    Parameters
    ----------
    model : GaussianMixture or GaussianMixtureSearch
    source : Source

    Raises
    ------
    ParameterError
        With what to use instead.
    """
    refusals = (
        (
            model.prior is not None,
            f"prior={model.prior!r}",
            "leave prior at None, and give a reg_covar that keeps noise variances positive",
        ),
        (
            model.noise is not None,
            f"noise={model.noise!r}",
            "leave noise at None, or use covariance_type='full'",
        ),
        (
            getattr(model, "precisions_init", None) is not None
            or "covariances" in getattr(model, "fixed", ()),
            "precisions_init and fixed covariances",
            "give means_init and weights_init, or continue from a fitted model with "
            "warm_start=True",
        ),
        (
            model.arithmetic == "float32",
            "arithmetic='float32'",
            "use arithmetic='auto', which uses float32 for rows of float32 where it can",
        ),
    )
    for is_asked, what, remedy in refusals:
        if is_asked:
            raise ParameterError(f"covariance_type='low_rank' does not support {what}; {remedy}")
