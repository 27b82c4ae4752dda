"""Work side by side: results, reports and errors are those of one after the other."""

import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
from threadpoolctl import threadpool_info

from streamgmm.events import Event, Listener
from streamgmm.executors.side_by_side import side_by_side
from streamgmm.executors.threads import ThreadExecutor
from streamgmm.protocols import LocalExecutor, Work
from streamgmm.sources.sample import SampleSource
from tests.executors.processes import own_threads

N_THREADS = pytest.mark.parametrize("n_threads", [1, 2, 8])


@dataclass(frozen=True)
class Report(Event):
    """Step of some work."""

    number: int
    step: int


def counted(number: int, listener: Listener) -> int:
    for step in range(3):
        listener(Report(number, step))
    return number * number


def failing(number: int, listener: Listener) -> int:
    counted(number, listener)
    raise ZeroDivisionError(f"work {number}")


@N_THREADS
def test_results_and_reports_come_in_order_from_the_calling_thread(n_threads: int) -> None:
    events: list[Event] = []
    threads: set[int] = set()

    def listener(event: Event) -> None:
        events.append(event)
        threads.add(threading.get_ident())

    work = [partial(counted, number) for number in range(20)]
    with side_by_side(work, listener, n_threads) as results:
        assert [result() for result in results] == [number * number for number in range(20)]
    assert events == [Report(number, step) for number in range(20) for step in range(3)]
    assert threads == {threading.get_ident()}
    assert own_threads() == []


@N_THREADS
def test_reports_and_errors_of_results_that_nobody_asks_for_are_dropped(n_threads: int) -> None:
    events: list[Event] = []
    work: list[Callable[[Listener], int]] = [partial(counted, 0), partial(failing, 1)] * 5
    with side_by_side(work, events.append, n_threads) as results:
        assert [results[i]() for i in (0, 4)] == [0, 0]
    assert events == [Report(0, step) for step in range(3)] * 2
    assert own_threads() == []


@N_THREADS
def test_the_first_error_in_order_is_raised_with_the_line_that_raised_it(n_threads: int) -> None:
    events: list[Event] = []
    work: list[Callable[[Listener], int]] = [partial(counted, 0), partial(failing, 1)]
    with (
        pytest.raises(ZeroDivisionError, match="work 1") as raised,
        side_by_side([*work, partial(failing, 2)], events.append, n_threads) as results,
    ):
        for result in results:
            result()
    assert "failing" in [frame.name for frame in traceback.extract_tb(raised.value.__traceback__)]
    assert events == [Report(number, step) for number in (0, 1) for step in range(3)]
    assert own_threads() == []


class Enough(BaseException):
    """Raised by a listener, as an interrupt is."""


def test_an_interrupt_ends_work_that_would_never_end() -> None:
    def endless(listener: Listener) -> None:
        while True:
            listener(Report(0, 0))

    def stop(event: Event) -> None:
        raise Enough

    with pytest.raises(Enough), side_by_side([endless] * 3, stop, 2) as results:
        results[0]()
    assert own_threads() == []


def test_work_runs_at_the_same_time_with_one_thread_for_blas() -> None:
    both = threading.Barrier(2)

    def meet(listener: Listener) -> list[int]:
        both.wait(30)
        infos = threadpool_info()
        return [info["num_threads"] for info in infos if info["user_api"] == "blas"]

    with side_by_side([meet, meet], lambda event: None, 2) as results:
        assert set(results[0]() + results[1]()) == {1}


@N_THREADS
def test_the_treatment_of_overflows_is_that_of_the_calling_thread(n_threads: int) -> None:
    def overflow(listener: Listener) -> float:
        return float(np.float64(1e300) * np.float64(1e300))

    with (
        np.errstate(over="raise"),
        pytest.raises(FloatingPointError),
        side_by_side([overflow, overflow], lambda event: None, n_threads) as results,
    ):
        results[0]()


@pytest.mark.parametrize(("n_fitting", "n_expected"), [(3, 3), (2, 2), (0, 1)])
def test_as_many_run_at_once_as_fit_in_memory(n_fitting: int, n_expected: int) -> None:
    source = SampleSource(np.zeros((1, 1)), np.ones(1))
    with ThreadExecutor(8, "1TiB") as executor:
        assert isinstance(executor, LocalExecutor)
        free = executor._budget.limit - executor._budget.held
        work = Work(thread=free // max(n_fitting, 1) + (not n_fitting))
        counter = threading.Lock()
        running, most = 0, 0
        meeting = threading.Barrier(n_expected)

        def run(listener: Listener) -> None:
            nonlocal running, most
            with counter:
                running += 1
                most = max(most, running)
            meeting.wait(30)
            with counter:
                running -= 1
            meeting.wait(30)

        work_of = [run] * (3 * n_expected)
        with executor.side_by_side(work_of, source, lambda event: None, work) as results:
            for result in results:
                result()
    assert most == n_expected


def test_passes_in_the_calling_thread_leave_threads_for_other_work() -> None:
    source = SampleSource(np.zeros((1, 1)), np.ones(1))
    both = threading.Barrier(2)
    with ThreadExecutor(2) as executor:
        own = executor.in_calling_thread()
        meet = [lambda listener: both.wait(30)] * 2
        with own.side_by_side(meet, source, lambda event: None, Work()) as results:
            assert sorted(result() for result in results) == [0, 1]
