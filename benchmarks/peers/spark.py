"""Spark's mllib, in local mode; it needs a Java of 17 or later.

It adds 2e-16 to every density, so that with many features, where densities are smaller than that,
its responsibilities are nearly equal and it ends elsewhere.
"""

import functools
from types import SimpleNamespace

import numpy as np
from pyspark import RDD, SparkConf, SparkContext
from pyspark.mllib.clustering import GaussianMixture
from pyspark.mllib.linalg import DenseMatrix, Vector, Vectors
from pyspark.mllib.stat.distribution import MultivariateGaussian

from benchmarks.peers.libraries import Fitted
from benchmarks.planted import Problem


@functools.cache
def _context(threads: int) -> SparkContext:
    settings = {
        "spark.ui.enabled": "false",
        "spark.driver.memory": "4g",
        "spark.log.level": "ERROR",
    }
    configuration = SparkConf().setMaster(f"local[{threads}]").setAppName("peers")
    return SparkContext(conf=configuration.setAll(list(settings.items())))


@functools.cache
def _vectors(problem: Problem, threads: int) -> RDD[Vector]:
    rows = _context(threads).parallelize(map(Vectors.dense, problem.rows), threads).cache()
    rows.count()
    return rows


def fit(problem: Problem, iterations: int, threads: int) -> Fitted:
    """EM from a given model."""
    start = problem.start
    d = problem.n_features
    gaussians = [
        MultivariateGaussian(Vectors.dense(mean), DenseMatrix(d, d, covariance.ravel()))
        for mean, covariance in zip(start.means, start.covariances, strict=True)
    ]
    # Of a model that only the JVM can build, these attributes are looked at.
    initial = SimpleNamespace(
        k=problem.n_components, weights=start.weights.tolist(), gaussians=gaussians
    )
    model = GaussianMixture.train(
        _vectors(problem, threads),
        problem.n_components,
        convergenceTol=0.0,
        maxIterations=iterations,
        initialModel=initial,
    )
    return Fitted(
        np.asarray(model.weights),
        np.stack([gaussian.mu.toArray() for gaussian in model.gaussians]),
        np.stack([gaussian.sigma.toArray() for gaussian in model.gaussians]),
        iterations,
        "float64",
    )
