"""Which executor does the work, decided without importing the one that is not used."""

from typing import Any

from streamgmm.errors import ParameterError
from streamgmm.executors.threads import ThreadExecutor
from streamgmm.protocols import LazySource, Source


def open_executor(
    executor: Any,
    source: Source,
    n_jobs: int | None = None,
    memory_limit: int | float | str | None = None,
) -> Any:
    """The executor for a source, as a context manager.

    Parameters
    ----------
    executor : "auto", "threads", "dask" or distributed.Client
        "auto" computes Dask arrays with Dask and all else on local threads.
    source : Source
    n_jobs : int, optional
        Local threads.
    memory_limit : int or str, optional
        Of this process, for local threads.

    Returns
    -------
    Executor

    Raises
    ------
    ParameterError
        If it is none of these.
    """
    if executor == "auto":
        executor = "dask" if isinstance(source, LazySource) else "threads"
    if executor == "threads":
        return ThreadExecutor(n_jobs, memory_limit)
    is_client = hasattr(executor, "scheduler_info") and hasattr(executor, "get")
    if executor != "dask" and not is_client:
        raise ParameterError(
            f"executor is {executor!r}; choose 'auto', 'threads', 'dask' or a distributed.Client"
        )
    from streamgmm.executors.dask import DaskExecutor

    return DaskExecutor(executor if is_client else None)
