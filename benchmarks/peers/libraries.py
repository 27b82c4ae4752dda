"""The libraries compared, and what each can do."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.planted import Problem
from streamgmm.options import CovarianceType

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Fitted:
    """The end point of a library.

    Attributes
    ----------
    weights : ndarray of shape (K,)
    means : ndarray of shape (K, D)
    covariances : ndarray
        In streamgmm's and scikit-learn's shapes.
    iterations : int
        That it says it did.
    arithmetic : {"float64", "float32"}
        What it computed in.
    ends : tuple of float
        When each iteration ended, by ``time.perf_counter``, if the library can be asked.
    """

    weights: Array
    means: Array
    covariances: Array
    iterations: int
    arithmetic: str
    ends: tuple[float, ...] = ()


Fit = Callable[..., Fitted]


@dataclass(frozen=True)
class Library:
    """One contestant.

    Attributes
    ----------
    name : str
    package : str
        What is imported.
    install : str
        What ``pip install`` takes.
    adapter : str
        Module beside this one, with ``fit(problem, iterations, threads, **options)``.
    covariance_types, dtypes : tuples of str
        That it can fit.
    options : dict
        For ``fit``.
    """

    name: str
    package: str
    install: str
    adapter: str
    covariance_types: tuple[CovarianceType, ...] = ("full", "diag")
    dtypes: tuple[str, ...] = ("float64", "float32")
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def is_installed(self) -> bool:
        """Whether its package is there to be imported."""
        return find_spec(self.package) is not None

    def can_fit(self, problem: Problem) -> bool:
        """Whether it has this covariance type in this precision."""
        return problem.covariance_type in self.covariance_types and problem.dtype in self.dtypes

    def fit(self, problem: Problem, iterations: int, threads: int) -> Fitted:
        """EM from the problem's start."""
        adapter = importlib.import_module(f"benchmarks.peers.{self.adapter}")
        fitted: Fitted = adapter.fit(problem, iterations, threads, **self.options)
        return fitted


_ALL: tuple[CovarianceType, ...] = ("full", "tied", "diag", "spherical")
_OURS = {"package": "streamgmm", "install": ".", "covariance_types": _ALL}

# On float32 rows streamgmm takes part twice, in either arithmetic; ratios are to the first of ours.
OURS = [
    Library("streamgmm", adapter="ours", dtypes=("float64",), **_OURS),
    *(
        Library(
            f"streamgmm, {arithmetic}",
            adapter="ours",
            dtypes=("float32",),
            options={"arithmetic": arithmetic},
            **_OURS,
        )
        for arithmetic in ("float32", "float64")
    ),
]
LIBRARIES = [
    Library("scikit-learn", "sklearn", "scikit-learn", "scikit_learn", _ALL),
    Library("oneDAL", "daal4py", "scikit-learn-intelex", "onedal"),
    Library("pomegranate", "pomegranate", "pomegranate torch", "pomegranate"),
    Library("gmmx", "gmmx", "gmmx jax", "gmmx", dtypes=("float32",)),
    Library("mlpack", "mlpack", "mlpack", "mlpack", dtypes=("float64",)),
    Library("Spark", "pyspark", "pyspark", "spark", ("full",), ("float64",)),
]
