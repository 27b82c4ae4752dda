"""Executors compute chunks: local threads, Dask's schedulers, a Dask cluster.

All executors merge values by the same tree. Its shape depends on the number of chunks
alone, so all executors return the same bits. May import ``streamgmm.protocols`` and below; Dask
only in ``dask`` and ``cluster``.
"""
