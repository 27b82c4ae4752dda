"""Seconds per EM iteration beside other libraries: same data, same start, in turn.

``python -m benchmarks.peers [--pairs 5] [--threads 2] [--small] [--save] [--peers a,b]``

:data:`benchmarks.peers.libraries.LIBRARIES` lists them, each with the command that installs it;
one that is not installed is named in the output. All of these can be installed together.

Each library runs in a process of its own, on as many cores as there are threads, so that its thread
pools and its BLAS are its own. In each pair all libraries are timed one after the other,
and ratios are taken within a pair. Seconds per iteration are those from the end of one to the
end of the next, the median of a few, where the library can be watched: streamgmm and scikit-learn.
Of the others they are the difference of a run of :data:`benchmarks.peers.measure.MANY` iterations
and a run of one, divided by the iterations between: conversion of the data, start-up and a last
E-step, which no iteration needs, cancel. All EM is unregularised. A library that takes a minute to
warm up is timed in one pair only.

That all did the same work is checked: SciPy evaluates the parameters that each ends with on some of
the rows, and a library whose log-likelihood is another one is marked.

Left out: bob.learn.em needs NumPy 1; Armadillo's ``gmm_diag`` and ``gmm_full`` come to Python with
PyArmadillo, which PyPI has as C++ sources only; spark.ml takes no start, so Spark is represented by
spark.mllib.
"""
