"""Find the active cluster, and test whether its workers can read data by themselves."""

from typing import Any

import cloudpickle
import dask.base
from distributed import Client, get_client

from streamgmm.protocols import LazySource, Source, data_bytes


def active_client() -> Any:
    """Return the client of the cluster that Dask computes on by default; None if it does not."""
    if dask.config.get("scheduler", None) in (None, "distributed", "dask.distributed"):
        # Dask refuses asynchronous clients without naming an alternative.
        try:
            return get_client()
        except ValueError:
            return None
    scheduler = dask.base.get_scheduler()  # type: ignore[no-untyped-call]
    owner = getattr(scheduler, "__self__", None)
    return owner if isinstance(owner, Client) else None


class _Scale:
    """A file for a pickler that counts bytes and refuses more than a limit."""

    def __init__(self, limit: float) -> None:
        self._left = limit

    def write(self, part: Any) -> int:
        n_bytes = memoryview(part).nbytes
        self._left -= n_bytes
        if self._left < 0.0:
            raise OverflowError
        return n_bytes


def can_be_read_elsewhere(source: Source) -> bool:
    """Return whether workers can read the data of a source without receiving them.

    The test pickles the source, until the pickle reaches half of the size of the data. Arrays are
    not copied.
    """
    if isinstance(source, LazySource):
        return True
    scale = _Scale(0.5 * data_bytes(source))
    try:
        cloudpickle.Pickler(scale, protocol=5, buffer_callback=scale.write).dump(source)
    except Exception:  # noqa: BLE001 - a source that cannot be pickled cannot be sent
        return False
    return True
