"""A cluster whose workers read an object store, and write to it."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask.array
import numpy as np
import pytest
import zarr

import streamgmm
from streamgmm.estimators import GaussianMixture
from tests.failures.cluster import bits, cluster_of, fit
from tests.object_store import object_store

SECRET = "hidden-word"
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:botocore")


@pytest.fixture(scope="module")
def options() -> Iterator[dict[str, Any]]:
    """What opens an S3-compatible server on this machine, with one bucket."""
    keys = {"key": "test-name", "secret": SECRET}
    with object_store("clusters", keys) as address:
        yield {**keys, "endpoint_url": address}


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    with cluster_of(2, memory_limit="2GiB") as client:
        yield client


def table() -> np.ndarray:
    rng = np.random.default_rng(0)
    rows: np.ndarray = rng.normal(size=(200_000, 2)) + 5.0 * rng.integers(3, size=(200_000, 1))
    return rows


@pytest.fixture(scope="module")
def url(options: dict[str, Any]) -> str:
    zarr.create_array(
        "s3://clusters/x.zarr", data=table(), chunks=(10_000, 2), storage_options=options
    )
    return "s3://clusters/x.zarr"


def all_that_is_shown(client: Any) -> str:
    """Names of tasks that there were, and logs of the scheduler and its workers."""

    def story(dask_scheduler: Any) -> str:
        return str(list(dask_scheduler.transition_log))

    logs = client.get_scheduler_logs(), client.get_worker_logs()
    return f"{client.run_on_scheduler(story)} {logs}"


def test_workers_read_an_object_store_and_show_no_credentials(
    client: Any,
    url: str,
    options: dict[str, Any],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "streamgmm")
    caplog.set_level(logging.DEBUG, "distributed")
    source = streamgmm.open(url, storage_options=options)
    kept = tmp_path / "checkpoint"
    with client.as_current():
        # Nothing names the cluster: its workers can read the URL by themselves.
        found = fit(source, checkpoint=kept, checkpoint_interval=1e-9)
    assert "s3://clusters/x.zarr is computed on a Dask cluster" in caplog.text
    assert bits(found) == bits(fit(source, n_jobs=2, executor="threads"))
    found.save(tmp_path / "model.gmm")
    shown = all_that_is_shown(client)
    assert "streamgmm-" in shown
    for text in (shown, caplog.text):
        assert SECRET not in text
    for path in [*kept.iterdir(), tmp_path / "model.gmm"]:
        assert SECRET.encode() not in path.read_bytes()


def test_workers_write_lazy_predictions_to_an_object_store(
    client: Any, url: str, options: dict[str, Any]
) -> None:
    model = GaussianMixture(3, random_state=0, max_iter=2, tol=1.0, executor="threads")
    model.fit(table())
    lazy = dask.array.from_zarr(url, storage_options=options)
    with client.as_current():
        model.predict(lazy).to_zarr("s3://clusters/labels.zarr", storage_options=options)
    written = zarr.open_array("s3://clusters/labels.zarr", mode="r", storage_options=options)
    np.testing.assert_array_equal(written[:], model.predict(table()))
    assert SECRET not in all_that_is_shown(client)
