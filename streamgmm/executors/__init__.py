"""Where chunks are turned into statistics: local threads, Dask's schedulers, a Dask cluster.

Each executor merges by the same tree, whose shape depends on the number of chunks
alone, so all of them give the same bits. May import ``streamgmm.protocols`` and below; Dask
only in ``dask`` and ``cluster``.
"""
