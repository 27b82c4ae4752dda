"""Measurements of what the package promises; each is one command.

- ``python -m benchmarks.peers``: seconds per EM iteration beside other libraries
- ``python -m benchmarks.reads``: reads of the data until the answer is right
- ``python -m benchmarks.roofline``: how close the E-step comes to the matrix product, and reading
  to what storage and decoding allow
- ``python -m benchmarks.sources``: chunks of every kind of storage, beside its own library
- ``python -m benchmarks.arithmetic``: float32 beside float64
- ``python -m benchmarks.scale``: time and memory against rows, components, features and threads
- ``python -m benchmarks.memory``: peak memory of fits to arrays larger than the memory limit, and
  of fits whose parameters take more than their data
- ``python -m benchmarks.missing``: rows with missing values, what they cost and what they are worth
- ``python -m benchmarks.rare``: of a component that holds few of all rows, how many are sampled
- ``python -m benchmarks.cluster``: what a Dask cluster costs beside local threads
- ``python -m benchmarks.streams``: rows learned as they come, and what a change of them does
- ``python -m benchmarks.updates``: models in files that continue learning, their cost and memory
- ``python -m benchmarks.kills``: the same, killed at random moments
- ``python -m benchmarks.kmeans``: k-means beside scikit-learn, by pass and by fit
- ``python -m benchmarks.startup``: imports and first fits
- ``python -m pytest benchmarks --benchmark-only``: kernels on one chunk, to follow over time

Every module prints its tables and, with ``--save``, writes them to ``benchmarks/results``, some
with a plot. Timings are noisy: what counts are ratios of things measured side by side in one run.
"""
