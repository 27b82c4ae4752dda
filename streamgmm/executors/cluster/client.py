"""Compute a graph of tasks on a cluster, and explain the failures of the cluster.

Dask recomputes tasks whose worker died. If the whole cluster is lost, Dask reports little, and it
waits for workers without end; this module raises clear errors instead.
"""

import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from typing import Any

import dask
from dask.utils import parse_timedelta
from distributed import KilledWorker
from distributed.scheduler import NoWorkerError

from streamgmm.errors import ClusterError, ParameterError, StreamGMMError
from streamgmm.executors.cluster.tasks import Graph, Key, given
from streamgmm.executors.cluster.worker_memory import WorkerMemory
from streamgmm.protocols import Source

# Number of retries of a task that failed with an error.
_RETRIES = 2
# Time to wait for a worker when there is none.
_PATIENCE = "5 minutes"
# Time between two checks of a cluster that sends no results.
_SECONDS_BETWEEN_LOOKS = 5.0


class Cluster:
    """A cluster that computes graphs of tasks.

    Parameters
    ----------
    client : distributed.Client

    Notes
    -----
    If there is no worker, the cluster waits for one. Dask's own setting
    ``distributed.scheduler.no-workers-timeout`` limits the wait; the default is five minutes.
    """

    def __init__(self, client: Any) -> None:
        self._client = client
        self._address = client.scheduler.address
        setting = dask.config.get("distributed.scheduler.no-workers-timeout", None)
        self._patience: float = parse_timedelta(setting or _PATIENCE)

    @property
    def memory(self) -> WorkerMemory:
        """Memory budgets of its workers."""
        return WorkerMemory.of(self._client)

    def hold(self, source: Source) -> Any:
        """Return a source as a task, which stays on the cluster as long as the returned object.

        Raises
        ------
        ParameterError
            If the source cannot be pickled.
        """
        key = f"streamgmm-source-{uuid.uuid4().hex}"
        try:
            with _graphs_of_any_size():
                return self._client.submit(given, source, key=key)
        except TypeError as error:
            raise ParameterError(
                f"{source.name} cannot be sent to workers ({error}); give its path or URL, or "
                "read it with executor='threads'"
            ) from error

    @contextmanager
    def computing(
        self, source: Source, graph: Graph, keys: Sequence[Key]
    ) -> Iterator[Iterator[Any]]:
        """Yield futures of tasks as they finish; drop unfinished ones at the end."""
        with _graphs_of_any_size():
            futures = self._client.get(graph.tasks, list(keys), sync=False, retries=_RETRIES)
        pending = {future.key: future for future in futures}
        del futures
        try:
            yield self._done(source, pending)
        finally:
            # The scheduler drops released futures. A request to cancel them would drop our
            # connection.
            for future in pending.values():
                future.release()

    @contextmanager
    def explained(self, source: Source) -> Iterator[None]:
        """Raise failures of the cluster as errors that say what happened and what to do.

        Raises
        ------
        ClusterError
            If the cluster is lost, or workers die again and again.
        """
        try:
            yield
        except KilledWorker as error:
            raise ClusterError(
                f"{error.allowed_failures + 1} workers died one after the other while they "
                f"computed the same part of {source.name}; they may have been out of memory: see "
                "their logs, and give them more memory or fewer threads, or store the array in "
                "smaller chunks"
            ) from error
        except NoWorkerError as error:
            raise self._without_workers(source, error.args[1]) from error
        except Exception as error:
            is_ours = isinstance(error, StreamGMMError)
            if is_ours or not (isinstance(error, CancelledError) or self._is_lost()):
                raise
            raise ClusterError(
                f"the connection to the scheduler {self._address} was lost while {source.name} "
                "was read; see its log, and begin again with another cluster"
            ) from error

    def _done(self, source: Source, pending: dict[Key, Any]) -> Iterator[Any]:
        """Take futures from the pending ones as they finish."""
        done: SimpleQueue[Any] = SimpleQueue()
        for future in pending.values():
            future.add_done_callback(done.put)
        last_seen = time.monotonic()
        while pending:
            try:
                future = done.get(timeout=min(_SECONDS_BETWEEN_LOOKS, self._patience))
            except Empty:
                if self._client.nthreads():
                    last_seen = time.monotonic()
                if time.monotonic() - last_seen > self._patience:
                    raise self._without_workers(source, self._patience) from None
                continue
            last_seen = time.monotonic()
            if not future.done():
                # The result was lost with its worker in the meantime, and is computed again.
                future.add_done_callback(done.put)
                continue
            if future.status != "finished":
                # Raises the error of the task.
                future.result()
            yield future
            # Workers free a merged value as soon as no future refers to it.
            pending.pop(future.key).release()

    def _without_workers(self, source: Source, seconds: float) -> ClusterError:
        return ClusterError(
            f"the cluster of {self._address} has had no worker for {seconds:g} s while "
            f"{source.name} was read; start workers, and begin again"
        )

    def _is_lost(self) -> bool:
        return bool(self._client.status != "running")


@contextmanager
def _graphs_of_any_size() -> Iterator[None]:
    """Silence Dask's warning about large graphs: states of many components are large."""
    with dask.config.set({"distributed.admin.large-graph-warning-threshold": sys.maxsize}):
        yield
