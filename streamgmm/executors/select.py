"""Choose the executor, without importing the executors that are not used."""

import logging
import sys
from typing import Any, Literal

from streamgmm.errors import ParameterError
from streamgmm.executors.nesting import in_dask_task
from streamgmm.executors.threads import ThreadExecutor
from streamgmm.protocols import LazySource, Source

_logger = logging.getLogger("streamgmm")


def open_executor(
    executor: Any,
    source: Source,
    n_jobs: int | None = None,
    memory_limit: int | float | str | None = None,
) -> Any:
    """Return the executor for a source, as a context manager, and log the choice.

    Parameters
    ----------
    executor : "auto", "threads", "dask" or distributed.Client
        "dask" is the cluster of the active client or, without one, Dask's active scheduler. "auto"
        computes Dask arrays in the same way. It also uses a cluster for data that the workers can
        read by themselves, and local threads for all other data. Within a task of Dask, "auto" uses
        local threads, because tasks that wait for other tasks may occupy all threads of the pool;
        it uses a cluster there only for arrays that the cluster holds already. A task that uses its
        own cluster releases its thread until the work is done.
    source : Source
    n_jobs : int, optional
        Local threads; see :func:`streamgmm.executors.threads.thread_count`.
    memory_limit : int or str, optional
        Limit of this process.

    Returns
    -------
    Executor

    Raises
    ------
    ParameterError
        If the executor is none of these, or a client that is closed or asynchronous.
    """
    place, client, reason = _chosen(executor, source)
    _logger.info("%s is computed on %s: %s", source.name, place, reason)
    if place == "local threads":
        return ThreadExecutor(n_jobs, memory_limit)
    if place == "Dask's scheduler":
        from streamgmm.executors.dask import DaskExecutor

        return DaskExecutor(memory_limit)
    from streamgmm.executors.cluster.executor import DistributedExecutor

    return DistributedExecutor(client, memory_limit)


def open_local_executor(
    executor: Any,
    n_jobs: int | None = None,
    memory_limit: int | float | str | None = None,
) -> ThreadExecutor:
    """Return an executor for rows in memory, as a context manager.

    Parameters
    ----------
    executor : Executor
        That of :func:`open_executor`, which has checked that passes fit in memory.
    n_jobs, memory_limit
        As for :func:`open_executor`.
    """
    if isinstance(executor, ThreadExecutor):
        return executor.for_rows_in_memory()
    return ThreadExecutor(n_jobs, memory_limit, is_checked=True)


def is_local(executor: Any, source: Source) -> bool:
    """Return whether :func:`open_executor` chooses local threads.

    Raises
    ------
    ParameterError
        As :func:`open_executor`.
    """
    return _chosen(executor, source)[0] == "local threads"


def _chosen(
    executor: Any, source: Source
) -> tuple[Literal["local threads", "Dask's scheduler", "a Dask cluster"], Any, str]:
    """Return the kind of executor, the client of a cluster, and the reason."""
    if hasattr(executor, "scheduler_info") and hasattr(executor, "get"):
        return "a Dask cluster", _usable(executor), f"{executor} was given"
    if executor == "threads":
        return "local threads", None, "they were asked for"
    if executor not in ("auto", "dask"):
        raise ParameterError(
            f"executor is {executor!r}; choose 'auto', 'threads', 'dask' or a distributed.Client"
        )
    if executor == "auto" and in_dask_task() and not _is_on_a_cluster(source):
        return "local threads", None, "a task of Dask does not wait for other tasks"
    client = _active_client()
    if client is None:
        if executor == "dask" or isinstance(source, LazySource):
            return "Dask's scheduler", None, "no client of a cluster is active"
        return "local threads", None, "no client of a cluster is active"
    if executor == "auto" and client.asynchronous and not _is_on_a_cluster(source):
        return "local threads", None, f"{client} is asynchronous, and cannot be waited for here"
    if executor == "auto" and not _can_be_read_elsewhere(source):
        return "local threads", None, f"workers of {client} cannot read it by themselves"
    return "a Dask cluster", _usable(client), f"{client} is active"


def _usable(client: Any) -> Any:
    """Return a client if it is connected and the calling thread can wait for its results.

    Raises
    ------
    ParameterError
        If the client is not connected, or is asynchronous.
    """
    if client.status in ("closing", "closed"):
        raise ParameterError(f"{client} is closed; give a client that is connected")
    if client.asynchronous:
        raise ParameterError(
            f"{client} is asynchronous, so results cannot be waited for in the thread of its event "
            "loop; call the method in another thread: await asyncio.to_thread(model.fit, X)"
        )
    return client


def _active_client() -> Any:
    """Return the client of the cluster that Dask computes on by default; None if it does not."""
    # If the package is not loaded, there is no client.
    if "distributed" not in sys.modules:
        return None
    from streamgmm.executors.cluster.detection import active_client

    return active_client()


def _is_on_a_cluster(source: Source) -> bool:
    return isinstance(source, LazySource) and source.holds_futures()


def _can_be_read_elsewhere(source: Source) -> bool:
    from streamgmm.executors.cluster.detection import can_be_read_elsewhere

    return can_be_read_elsewhere(source)
