"""Which cluster computes, and whether its workers get data without their being sent."""

from typing import Any

import cloudpickle
import dask.base
from distributed import Client, get_client

from streamgmm.protocols import LazySource, Source, data_bytes


def active_client() -> Any:
    """Return the client of the cluster that Dask computes on by default; None if it does not."""
    if dask.config.get("scheduler", None) in (None, "distributed", "dask.distributed"):
        # Dask refuses asynchronous clients without a word of what else could be done.
        try:
            return get_client()
        except ValueError:
            return None
    scheduler = dask.base.get_scheduler()  # type: ignore[no-untyped-call]
    owner = getattr(scheduler, "__self__", None)
    return owner if isinstance(owner, Client) else None


class _Scale:
    """Weighs what is written to it, and refuses more than it bears; a file for a pickler."""

    def __init__(self, limit: float) -> None:
        self._left = limit

    def write(self, part: Any) -> int:
        n_bytes = memoryview(part).nbytes
        self._left -= n_bytes
        if self._left < 0.0:
            raise OverflowError
        return n_bytes


def can_be_read_elsewhere(source: Source) -> bool:
    """Return whether workers get the data of a source without their being sent.

    It is pickled for the answer until that has taken half of what the data do; arrays are not
    copied.
    """
    if isinstance(source, LazySource):
        return True
    scale = _Scale(0.5 * data_bytes(source))
    try:
        cloudpickle.Pickler(scale, protocol=5, buffer_callback=scale.write).dump(source)
    except Exception:  # noqa: BLE001 - whatever cannot be pickled cannot be sent
        return False
    return True
