"""A Dask cluster keeps the promises of an executor, and more: what it sends, bears and says."""

import warnings
from collections.abc import Iterator
from typing import Any

import dask
import dask.array
import distributed
import numpy as np
import pytest

from streamgmm import GaussianMixture
from streamgmm import open as open_data
from streamgmm.errors import ParameterError
from streamgmm.executors.dask import DaskExecutor
from streamgmm.executors.distributed import DistributedExecutor
from streamgmm.executors.select import open_executor
from streamgmm.executors.threads import ThreadExecutor
from streamgmm.protocols import Executor
from tests.executors.conformance import ExecutorConformance, ignore, rows, total
from tests.sources.chunked import ChunkedSource


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    """A cluster of two processes, without the dashboard's port."""
    with warnings.catch_warnings():
        # How distributed starts and ends its processes is its own affair.
        warnings.simplefilter("ignore")
        with (
            distributed.LocalCluster(
                n_workers=2,
                threads_per_worker=1,
                processes=True,
                dashboard_address=None,
                silence_logs=40,
            ) as cluster,
            distributed.Client(cluster, set_as_default=False) as client,
        ):
            yield client


class TestDistributed(ExecutorConformance):
    @pytest.fixture
    def executor(self, client: Any) -> Iterator[Executor]:
        with DistributedExecutor(client) as executor:
            yield executor


def test_the_executor_follows_the_data(client: Any) -> None:
    table = ChunkedSource(rows(10), 5)
    lazy = dask.array.from_array(rows(10), chunks=(5, 1))

    with open_executor("auto", table) as chosen:
        assert isinstance(chosen, ThreadExecutor)
    with open_executor("auto", open_data(lazy)) as chosen:
        assert isinstance(chosen, DaskExecutor)
    with open_executor("dask", table) as chosen:
        assert isinstance(chosen, DaskExecutor)
        with dask.config.set(scheduler="synchronous"):
            assert chosen.map_reduce(table, total, None, ignore).value == 45.0
    with open_executor(client, table) as chosen:
        assert isinstance(chosen, DistributedExecutor)
        assert chosen.map_reduce(table, total, None, ignore).value == 45.0
    with pytest.raises(ParameterError, match="executor is 'spark'"):
        open_executor("spark", table)


@pytest.mark.parametrize("algorithm", ["auto", "em"])
def test_a_client_is_a_setting_of_the_estimator(client: Any, algorithm: str) -> None:
    X = np.random.default_rng(0).normal(size=(3000, 2)) + np.repeat([[0, 0], [9, 9]], 1500, axis=0)
    lazy = dask.array.from_array(X, chunks=(1000, 2))
    remote = GaussianMixture(2, random_state=0, executor=client, algorithm=algorithm).fit(lazy)
    with dask.config.set(scheduler="synchronous"):
        local = GaussianMixture(2, random_state=0, algorithm=algorithm).fit(lazy)
    np.testing.assert_array_equal(remote.means_, local.means_)
    np.testing.assert_array_equal(remote.covariances_, local.covariances_)
    assert remote.lower_bounds_ == local.lower_bounds_
    in_memory = GaussianMixture(
        2, random_state=0, executor=client, max_iter=2, tol=9e9, algorithm=algorithm
    ).fit(X)
    # A gain takes two iterations, what is foretold to remain one.
    assert in_memory.n_reads_ == {"em": 3, "auto": 2}[algorithm]
