"""Benchmarks of the package; each is one command.

- ``python -m benchmarks.peers``: seconds per EM iteration, compared with other libraries
- ``python -m benchmarks.reads``: passes over the data until the result is right
- ``python -m benchmarks.search_cost``: the search in memory, in passes over the data, by stage
- ``python -m benchmarks.small_data``: fits to small and to wide data beside scikit-learn's
- ``python -m benchmarks.roofline``: the E-step relative to the matrix product, and reading
  relative to storage and decoding
- ``python -m benchmarks.sources``: chunks of every kind of storage, compared with the library
  of the format
- ``python -m benchmarks.arithmetic``: float32 compared with float64
- ``python -m benchmarks.scale``: time and memory against rows, components, features and threads
- ``python -m benchmarks.memory``: peak memory of fits to arrays larger than the memory limit, and
  of fits whose parameters take more than their data
- ``python -m benchmarks.pipelines``: scaling and principal components before a mixture: peak
  memory, and time of a pass
- ``python -m benchmarks.missing``: rows with missing values: cost, and information
- ``python -m benchmarks.rare``: a component that holds few of all rows: the rows that are sampled
- ``python -m benchmarks.noise``: planted noise: its weight and the means, with and without noise
- ``python -m benchmarks.selection``: the search among mixtures: passes, choices, shared passes
- ``python -m benchmarks.cluster``: cost of a Dask cluster, compared with local threads
- ``python -m benchmarks.streams``: learning from streams, and detection of changes
- ``python -m benchmarks.updates``: updates of models in files: cost and memory
- ``python -m benchmarks.kills``: updates that are killed at random moments
- ``python -m benchmarks.kmeans``: k-means compared with scikit-learn, by pass and by fit
- ``python -m benchmarks.low_rank``: covariances of low rank compared with other types
- ``python -m benchmarks.startup``: imports and first fits
- ``python -m pytest benchmarks --benchmark-only``: kernels on one chunk, to compare over time

Every module prints its tables and, with ``--save``, writes them to ``benchmarks/results``, some
with a plot. Timings are noisy: compare only ratios of timings from one run.
"""
