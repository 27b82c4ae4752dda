"""Fits within tasks of Dask end, and clients that cannot be waited for are refused.

What could wait for ever runs in a process of its own, which is given up after some minutes.
"""

import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

MINUTES = 4.0

PREPARE = """
import asyncio, sys
import dask, dask.array, dask.bag
import numpy as np
from distributed import Client, LocalCluster, get_client, worker_client
from streamgmm import GaussianMixture, OnlineGaussianMixture
from streamgmm.errors import ParameterError

PATH, SIZES = sys.argv[1], [1, 2, 3]
SETTINGS = {"random_state": 0, "reg_covar": 1e-6}

def bic(k, **settings):
    return GaussianMixture(k, **SETTINGS, **settings).fit(PATH).bic(PATH)

def is_close(found, expected):
    assert np.allclose(found, expected, rtol=1e-9, atol=0.0), (found, expected)

def cluster(n_threads=2, **settings):
    return LocalCluster(
        n_workers=1, threads_per_worker=n_threads, dashboard_address=":0", **settings
    )
"""


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(3000, 2)) + np.repeat([[0, 0], [9, 9]], 1500, axis=0)
    found = tmp_path_factory.mktemp("rows") / "rows.npy"
    np.save(found, rows)
    return found


def run(script: str, path: Path) -> None:
    """Run a script after the preparation; its asserts are those of the test."""
    source = f"{PREPARE}\nif __name__ == '__main__':\n{textwrap.indent(script, '    ')}"
    file = path.parent / "script.py"
    file.write_text(source)
    found = subprocess.run(
        [sys.executable, file, path],
        capture_output=True,
        text=True,
        timeout=60.0 * MINUTES,
        check=False,
    )
    assert found.returncode == 0, found.stderr[-4000:]


def test_tasks_of_a_cluster_end(path: Path) -> None:
    """The tasks fill all places of the only worker, and each could wait for tasks of its own."""
    run(
        """
expected = [bic(k, executor="threads") for k in SIZES]

def by_explicit_client(k):
    return bic(k, executor=get_client())

def by_dask(k):
    return bic(k, executor="dask")

def by_worker_client(k):
    with worker_client() as client:
        return bic(k, executor=client)

def online(k):
    return OnlineGaussianMixture(k, **SETTINGS).fit(PATH).score(PATH)

def predicted(k):
    model = GaussianMixture(k, **SETTINGS).fit(PATH)
    return float(np.asarray(model.predict(np.load(PATH))).mean())

class Fitter:
    def bic(self, k):
        return bic(k)

online_expected = [online(k) for k in SIZES]
predicted_expected = [predicted(k) for k in SIZES]
with cluster(processes=False) as workers, Client(workers) as client:
    for task in (bic, by_explicit_client, by_dask, by_worker_client):
        is_close(client.gather(client.map(task, SIZES)), expected)
    is_close(client.gather(client.map(online, SIZES)), online_expected)
    is_close(client.gather(client.map(predicted, SIZES)), predicted_expected)
    is_close(dask.compute(*map(dask.delayed(bic), SIZES)), expected)
    is_close(dask.bag.from_sequence(SIZES, npartitions=3).map(bic).compute(), expected)
    fitter = client.submit(Fitter, actor=True).result()
    is_close([found.result() for found in [fitter.bic(k) for k in SIZES]], expected)
""",
        path,
    )


def test_tasks_of_a_worker_process_end(path: Path) -> None:
    run(
        """
expected = [bic(k, executor="threads") for k in SIZES]

def by_explicit_client(k):
    return bic(k, executor=get_client())

with cluster(1) as workers, Client(workers) as client:
    is_close(client.gather(client.map(bic, SIZES)), expected)
    is_close(client.gather(client.map(by_explicit_client, SIZES)), expected)
""",
        path,
    )


@pytest.mark.parametrize("scheduler", ["threads", "synchronous", "processes"])
def test_tasks_of_local_schedulers_end(scheduler: str, path: Path) -> None:
    """Lazy arrays within a task would wait for a place in the pool that the tasks fill."""
    run(
        f"""
def lazy(k):
    array = dask.array.from_array(np.load(PATH), chunks=(500, 2))
    model = GaussianMixture(k, **SETTINGS).fit(array)
    return model.bic(array)

expected = [lazy(k) for k in SIZES]
with dask.config.set(scheduler={scheduler!r}, num_workers=1):
    is_close(dask.compute(*map(dask.delayed(lazy), SIZES)), expected)
""",
        path,
    )


def test_a_search_of_settings_on_a_cluster_ends(path: Path) -> None:
    run(
        """
import joblib
from sklearn.model_selection import GridSearchCV

def search():
    model = GaussianMixture(**SETTINGS)
    return GridSearchCV(model, {"n_components": SIZES}, cv=3).fit(np.load(PATH))

expected = search().cv_results_["mean_test_score"]
with cluster(processes=False) as workers, Client(workers), joblib.parallel_config("dask"):
    is_close(search().cv_results_["mean_test_score"], expected)
""",
        path,
    )


def test_asynchronous_clients(path: Path) -> None:
    """An active one is left alone; a given one is refused, and the advice works."""
    run(
        """
async def main():
    expected = bic(2, executor="threads")
    async with cluster(processes=False, asynchronous=True) as workers:
        async with Client(workers, asynchronous=True) as client:
            is_close(bic(2), expected)
            try:
                bic(2, executor=client)
            except ParameterError as error:
                assert "asyncio.to_thread" in str(error), error
            else:
                raise AssertionError("an asynchronous client was taken")
            is_close(await asyncio.to_thread(bic, 2), expected)

asyncio.run(main())
""",
        path,
    )


def test_closed_clients(path: Path) -> None:
    run(
        """
with cluster(processes=False) as workers:
    client = Client(workers)
    client.close()
    try:
        bic(2, executor=client)
    except ParameterError as error:
        assert "is closed; give a client that is connected" in str(error), error
    else:
        raise AssertionError("a closed client was taken")
""",
        path,
    )
