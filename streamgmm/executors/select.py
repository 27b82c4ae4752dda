"""Which executor does the work, decided without importing the one that is not used."""

import logging
import sys
from typing import Any, Literal

from streamgmm.errors import ParameterError
from streamgmm.executors.threads import ThreadExecutor
from streamgmm.protocols import LazySource, Source

_logger = logging.getLogger("streamgmm")


def open_executor(
    executor: Any,
    source: Source,
    n_jobs: int | None = None,
    memory_limit: int | float | str | None = None,
) -> Any:
    """The executor for a source, as a context manager; the log says which one, and why.

    Parameters
    ----------
    executor : "auto", "threads", "dask" or distributed.Client
        "dask" is the cluster of the active client or, without one, Dask's active scheduler. "auto"
        computes Dask arrays there too, and on a cluster whatever its workers can read without
        its being sent to them; all else on local threads.
    source : Source
    n_jobs : int, optional
        Local threads.
    memory_limit : int or str, optional
        Of this process.

    Returns
    -------
    Executor

    Raises
    ------
    ParameterError
        If it is none of these.
    """
    place, client, reason = _chosen(executor, source)
    _logger.info("%s is computed on %s: %s", source.name, place, reason)
    if place == "local threads":
        return ThreadExecutor(n_jobs, memory_limit)
    if place == "Dask's scheduler":
        from streamgmm.executors.dask import DaskExecutor

        return DaskExecutor(memory_limit)
    from streamgmm.executors.distributed import DistributedExecutor

    return DistributedExecutor(client, memory_limit)


def _chosen(
    executor: Any, source: Source
) -> tuple[Literal["local threads", "Dask's scheduler", "a Dask cluster"], Any, str]:
    """Where to compute, the client of a cluster, and why."""
    if hasattr(executor, "scheduler_info") and hasattr(executor, "get"):
        return "a Dask cluster", executor, f"{executor} was given"
    if executor == "threads":
        return "local threads", None, "they were asked for"
    if executor not in ("auto", "dask"):
        raise ParameterError(
            f"executor is {executor!r}; choose 'auto', 'threads', 'dask' or a distributed.Client"
        )
    client = _active_client()
    if client is None:
        if executor == "dask" or isinstance(source, LazySource):
            return "Dask's scheduler", None, "no client of a cluster is active"
        return "local threads", None, "no client of a cluster is active"
    if executor == "auto" and not _can_be_read_elsewhere(source):
        return "local threads", None, f"workers of {client} cannot read it by themselves"
    return "a Dask cluster", client, f"{client} is active"


def _active_client() -> Any:
    """The client of the cluster that Dask computes on by default; None if it does not."""
    # Without the package nobody has made one.
    if "distributed" not in sys.modules:
        return None
    from streamgmm.executors.placement import active_client

    return active_client()


def _can_be_read_elsewhere(source: Source) -> bool:
    from streamgmm.executors.placement import can_be_read_elsewhere

    return can_be_read_elsewhere(source)
