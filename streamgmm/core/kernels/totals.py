"""Names of the entries of the totals that kernels return."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Entries of totals, by the names of the fields of statistics.
TOTALS = (
    "log_likelihood",
    "weight",
    "n_rows",
    "n_overflowing",
    "n_not_finite",
    "n_passed_over",
    "n_screened",
    "n_single",
    "n_missing",
)
LOG_LIKELIHOOD, WEIGHT, N_ROWS, N_OVERFLOWING = range(4)
N_NOT_FINITE, N_PASSED_OVER, N_SCREENED, N_SINGLE, N_MISSING = range(4, len(TOTALS))
N_TOTALS = len(TOTALS)
#: Entry of the totals of incomplete rows, whose first entries are those above.
CONDITIONAL_ENTROPY = N_NOT_FINITE


def named(totals: NDArray[np.float64]) -> dict[str, Any]:
    """Return totals by their names: sums as float, counts as int."""
    numbers = zip(TOTALS, totals.tolist(), strict=False)
    return {name: int(value) if name.startswith("n_") else value for name, value in numbers}
