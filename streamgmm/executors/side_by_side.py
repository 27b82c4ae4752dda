"""Independent work side by side on threads, with reports in the order of the work."""

import contextvars
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from queue import SimpleQueue

from streamgmm.events import Event, Listener
from streamgmm.executors.blas import single_threaded_blas
from streamgmm.protocols import V


class _Unneeded(BaseException):
    """Ends work whose result is not needed any more."""


@contextmanager
def side_by_side(
    functions: Sequence[Callable[[Listener], V]], listener: Listener, n_threads: int
) -> Iterator[Sequence[Callable[[], V]]]:
    """Give a function for each of some functions, which waits once for its result.

    Threads take the functions in their order. While a result is waited for, the reports of its
    function go to the listener, in the calling thread, as they come. Reports and errors of
    functions whose results are never asked for are dropped; when the context ends, these functions
    end with their next report.

    Parameters
    ----------
    functions : sequence of callable
        Each takes a listener.
    listener : callable
    n_threads : int
        With one, each function runs when its result is asked for, in the calling thread.
    """
    is_over = threading.Event()

    def begun(pool: ThreadPoolExecutor, function: Callable[[Listener], V]) -> Callable[[], V]:
        events: SimpleQueue[Event | None] = SimpleQueue()

        def report(event: Event) -> None:
            if is_over.is_set():
                raise _Unneeded
            events.put(event)

        def run() -> V:
            try:
                return function(report)
            finally:
                events.put(None)

        # NumPy's treatment of overflows is that of the calling thread.
        future = pool.submit(contextvars.copy_context().run, run)

        def result() -> V:
            for event in iter(events.get, None):
                listener(event)
            return future.result()

        return result

    with single_threaded_blas():
        if n_threads == 1:
            yield [partial(function, listener) for function in functions]
            return
        with ThreadPoolExecutor(n_threads, "streamgmm") as pool:
            try:
                yield [begun(pool, function) for function in functions]
            finally:
                is_over.set()
                pool.shutdown(wait=True, cancel_futures=True)
