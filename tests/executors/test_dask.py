"""Dask on each of the schedulers of one machine keeps the promises of an executor."""

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

import dask
import dask.array
import pytest

from streamgmm.executors.dask import DaskExecutor
from streamgmm.protocols import Executor
from streamgmm.testing.executors import ExecutorConformance


class TestDask(ExecutorConformance):
    @pytest.fixture(params=["synchronous", "threads"])
    def executor(self, request: pytest.FixtureRequest) -> Iterator[Executor]:
        with dask.config.set(scheduler=request.param), DaskExecutor() as executor:
            yield executor


@pytest.fixture(scope="module")
def processes() -> Iterator[ProcessPoolExecutor]:
    """Two processes that stay, or every computation would wait for their imports."""
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        yield pool


class TestDaskProcesses(ExecutorConformance):
    @pytest.fixture
    def executor(self, processes: ProcessPoolExecutor) -> Iterator[Executor]:
        with dask.config.set(scheduler="processes", pool=processes), DaskExecutor() as executor:
            yield executor
