"""Find out whether the calling code runs in a task of Dask, whose thread other tasks may need."""

import sys


def in_dask_task() -> bool:
    """Return whether the calling thread computes a task of Dask, on a cluster or in this process.

    Threads that a task has started for itself do not count.
    """
    return in_worker_task() or in_local_task()


def in_worker_task() -> bool:
    """Return whether this thread computes a task, or an actor's method, of a cluster's worker."""
    # If the module is not loaded, this process has no worker.
    worker = sys.modules.get("distributed.worker")
    if worker is None:
        return False
    try:
        worker.get_worker()
    except ValueError:
        return False
    return True


def in_local_task() -> bool:
    """Return whether this thread computes a task of a Dask scheduler without a cluster.

    Dask has no function for this test. All of these schedulers compute tasks in one function, so
    the call stack is searched for it.
    """
    local = sys.modules.get("dask.local")
    if local is None:
        return False
    computing, frame = local.execute_task.__code__, sys._getframe()
    while frame.f_back is not None:
        if frame.f_code is computing:
            return True
        frame = frame.f_back
    return False
