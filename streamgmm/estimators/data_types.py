"""Types of data and of their predictions, for type checkers."""

import os
from collections.abc import Sequence
from typing import Any, Protocol, TypedDict, TypeVar

from numpy.typing import NDArray

#: The path of an output, in the type in which it was given.
OutputPath = TypeVar("OutputPath", bound=str | os.PathLike[str])
#: Data whose predictions are NumPy arrays.
InMemory = NDArray[Any] | Sequence[Sequence[float]]


class PandasFrame(Protocol):
    """A data frame of pandas, by members that no other library's data frame has together."""

    @property
    def iat(self) -> Any:
        """Single values by position."""

    @property
    def columns(self) -> Any:
        """Names of the columns."""


class PassRecord(TypedDict):
    """An entry of the history of a fit; see :class:`streamgmm.events.ReadDone`."""

    number: int
    purpose: str
    n_rows: int
    seconds: float
    iteration: int
    log_likelihood: float
    gain: float
    n_overflowing: int
    n_centred: int
    arithmetic: str
    screened: float
    passed_over: float
    n_missing: int
    part: float
    accepted: bool
    n_weightless: int
