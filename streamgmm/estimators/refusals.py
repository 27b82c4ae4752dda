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
    continues = getattr(model, "warm_start", False) and hasattr(model, "converged_")
    refusals = (
        (
            getattr(model, "precisions_init", None) is not None,
            "precisions_init",
            "give means_init and weights_init, or continue from a fitted model with "
            "warm_start=True",
        ),
        (
            "covariances" in getattr(model, "fixed", ()) and not continues,
            "fixed covariances in a first fit",
            "fit without them, and then hold those of the fit: set_params(warm_start=True, "
            "fixed={'covariances'})",
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
