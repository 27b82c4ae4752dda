"""Whether the calling code is itself a task of Dask, whose place other tasks may need."""

import sys


def in_dask_task() -> bool:
    """Return whether the calling thread computes a task of Dask, on a cluster or in this process.

    Threads that a task has started for itself do not count.
    """
    return in_worker_task() or in_local_task()


def in_worker_task() -> bool:
    """Return whether a worker of a cluster computes a task, or an actor's method, right here."""
    # Without the module there is no worker in this process.
    worker = sys.modules.get("distributed.worker")
    if worker is None:
        return False
    try:
        worker.get_worker()
    except ValueError:
        return False
    return True


def in_local_task() -> bool:
    """Return whether one of Dask's schedulers without a cluster computes a task right here.

    Dask has no function that says so, and all of these schedulers compute tasks in one function.
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
