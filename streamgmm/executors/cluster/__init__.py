"""A Dask cluster: its client, the executor, the tasks that run on workers."""
