"""The limits of float64: numbers too large or too small for a fit are refused in plain words."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from streamgmm.core.parameters import Parameters
from streamgmm.errors import DataError

_ADVICE = (
    "the values or weights of the data are too large, too small or too far apart for float64; "
    "divide each column by its standard deviation, and the weights by their mean, or give a larger "
    "reg_covar"
)


@contextmanager
def within_float64() -> Iterator[None]:
    """Compute without NumPy's warnings; raise an error of this package where the algebra fails.

    Raises
    ------
    DataError
        If a matrix cannot be factored. Check parameters by :func:`check_finite`.
    """
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        try:
            yield
        except np.linalg.LinAlgError as error:
            raise DataError(f"the fit cannot be computed ({error}): {_ADVICE}") from error


def check_finite(parameters: Parameters) -> None:
    """Raise an error if a mixture holds NaN or infinity.

    Raises
    ------
    DataError
        If it does.
    """
    found = (parameters.weights, parameters.means, parameters.covariances, parameters.factors)
    if not all(np.isfinite(array).all() for array in found):
        raise DataError(f"the mixture that was found holds NaN or infinity: {_ADVICE}")
