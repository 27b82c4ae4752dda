"""Which rows take part, and the reasons why others do not."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from streamgmm.algorithms.reads.usable_rows import RowUse, refuse_values, usable_part
from streamgmm.core.accuracy import LARGEST_VALUE
from streamgmm.errors import NotFiniteError
from streamgmm.options import Missing
from streamgmm.protocols import Chunk

VALUES = st.sampled_from([0.0, 1.5, -2.0, np.nan, np.inf, -np.inf, 1e200, -1e140])
MISSING = st.sampled_from(["error", "drop", "em"])


def reason(row: np.ndarray, weight: float, missing: Missing) -> str:
    """The rule of the documentation, row by row."""
    absent = np.isnan(row)
    if np.isinf(row).any() or (missing == "error" and absent.any()):
        return "refused"
    if (missing == "drop" and absent.any()) or (missing == "em" and absent.all()):
        return "lacking"
    if (np.abs(row[~absent]) > LARGEST_VALUE).any():
        return "overflowing"
    return "weightless" if weight == 0.0 else "used"


@hypothesis.given(
    rows=st.lists(st.lists(VALUES, min_size=2, max_size=2), max_size=6),
    zeros=st.lists(st.booleans(), min_size=6, max_size=6),
    missing=MISSING,
)
def test_each_row_has_one_reason(rows: list[list[float]], zeros: list[bool], missing: Missing):
    values = np.array(rows, dtype=np.float64).reshape(-1, 2)
    weights = np.where(zeros[: len(values)], 0.0, 2.0)
    expected = [reason(row, weight, missing) for row, weight in zip(values, weights, strict=True)]
    use = RowUse.of(values, weights, missing)
    if use is None:
        assert set(expected) <= {"used"}
        return
    for name in ("refused", "lacking", "overflowing", "weightless", "used"):
        assert getattr(use, name).tolist() == [found == name for found in expected], name
    part, skipped = usable_part(Chunk(values, range(len(values)), weights), missing)
    assert part.index.tolist() == [i for i, found in enumerate(expected) if found == "used"]
    counts = [expected.count(name) for name in ("overflowing", "lacking", "weightless")]
    assert [skipped.n_overflowing, skipped.n_missing, skipped.n_weightless] == counts


def test_an_error_locates_the_values() -> None:
    rows = np.zeros((10, 3))
    rows[4, 1], rows[7] = np.nan, np.inf
    chunk = Chunk(rows, range(100, 110))
    with pytest.raises(NotFiniteError, match=r"4 value\(s\) in 2 of 10 rows; .*row 104 column 1"):
        refuse_values(chunk, "error")
    with pytest.raises(NotFiniteError, match=r"infinity: 3 value\(s\) in 1 .*Nothing is learned\."):
        refuse_values(chunk, "em", "Nothing is learned.")
    rows[7] = 1e200
    refuse_values(chunk, "em")
