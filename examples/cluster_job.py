"""
A job on a Dask cluster
=======================

Fit a Zarr array on a Dask cluster, whose workers read it and write the labels of its rows.

Run it in an empty folder, with ``streamgmm[distributed]`` installed: ``python cluster_job.py``. It
writes ``measurements.zarr`` (60 MB before compression), ``model.gmm`` and ``labels.zarr``. The
cluster is two processes of this machine; a comment below says what to change for other clusters.
Their workers need this package, and the data under the same path (a file system that all share) or
URL (``s3://...``).
"""

import logging

import numpy as np
import zarr
from distributed import Client, LocalCluster

from streamgmm import GaussianMixture

CENTRES = np.array([[-4.0, 0.0, 0.0, 1.0], [0.0, 4.0, 0.0, -1.0], [4.0, 0.0, 4.0, 0.0]])


def open_cluster() -> LocalCluster:
    """The cluster that computes: one of the following."""
    # Machines that can be reached by SSH, the first of which runs the scheduler:
    #     from distributed import SSHCluster
    #     return SSHCluster(["head", "node1", "node2"], worker_options={"nthreads": 8})
    # Kubernetes, with dask-kubernetes and its operator installed:
    #     from dask_kubernetes.operator import KubeCluster
    #     return KubeCluster(name="gmm", image="your/image-with-streamgmm", n_workers=20)
    # SLURM, with dask-jobqueue; `scale(jobs=20)` puts twenty jobs into the queue:
    #     from dask_jobqueue import SLURMCluster
    #     cluster = SLURMCluster(cores=16, memory="64GB", processes=1, walltime="08:00:00")
    #     cluster.scale(jobs=20)
    #     return cluster
    # One that runs already is not made here: Client("tcp://scheduler:8786") in main.
    return LocalCluster(
        n_workers=2, threads_per_worker=1, memory_limit="2GiB", dashboard_address=":0"
    )


def write_measurements() -> None:
    """Two million rows of four features, about three centres, written a piece at a time."""
    random = np.random.default_rng(0)
    array = zarr.create_array(
        "measurements.zarr", shape=(2_000_000, 4), chunks=(65_536, 4), dtype="f8", overwrite=True
    )
    for start in range(0, array.shape[0], 65_536):
        n = min(65_536, array.shape[0] - start)
        rows = CENTRES[random.integers(3, size=n)] + random.normal(size=(n, 4))
        array[start : start + n] = rows.round(3)


def main() -> None:
    # It says where data are computed, and why there.
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("streamgmm").setLevel(logging.INFO)
    write_measurements()
    with open_cluster() as cluster, Client(cluster) as client:
        # Jobs in a queue take their time; those that start later join in.
        client.wait_for_workers(1)
        # The active client is found; executor=client names it.
        model = GaussianMixture(3, random_state=0).fit("measurements.zarr")
        print("means, each row a component:")
        print(model.means_[np.argsort(model.means_[:, 0])].round(2))
        for read in model.history_:
            print(f"read {read['number']}: {read['purpose']}, {read['n_rows']} rows")
        model.save("model.gmm")
        labels = zarr.open_array(model.predict("measurements.zarr", out="labels.zarr"), mode="r")
    print("rows of each component:", np.bincount(labels[:], minlength=3))


# Processes of a LocalCluster import this file.
if __name__ == "__main__":
    main()
