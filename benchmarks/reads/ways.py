"""Ways to fit: each gives the log-likelihood after every read of the data."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
from sklearn.cluster import KMeans

from benchmarks.reads.cells import Rows
from streamgmm import GaussianMixture
from streamgmm.algorithms.batch.accelerated_em import accelerated_em
from streamgmm.algorithms.batch.sample_fit import Informant
from streamgmm.algorithms.reads.reader import Reader
from streamgmm.core.objective import Objective
from streamgmm.core.parameters import Parameters, count_parameters
from streamgmm.core.structures import STRUCTURES
from streamgmm.events import Event, ReadDone, SampleStage, StepScored
from streamgmm.executors.blas import single_threaded_blas
from streamgmm.executors.threads import ThreadExecutor
from streamgmm.sources.array import ArraySource

# scikit-learn's default, and ours.
REG_COVAR = 1e-6
# Where fits end that are to show how they converge.
_SMALLEST_GAIN, _MOST_READS = 1e-7, 100


@dataclass(frozen=True, eq=False)
class Run:
    """A fit, read by read.

    Attributes
    ----------
    reads : list of float
        Reads of the data up to each one that evaluated the log-likelihood of all of it, that one
        included.
    log_likelihoods : list of float
        What these found, nats per row.
    n_reads : float
        All of them.
    row_visits : int
        How often a row was read or, if it is in the sample, worked on.
    parameters : Parameters
        The result.
    """

    reads: Sequence[float]
    log_likelihoods: Sequence[float]
    n_reads: float
    row_visits: int
    parameters: Parameters


@dataclass(frozen=True)
class Way:
    """A way to fit.

    Attributes
    ----------
    name : str
    fit : callable
        Gives the :class:`Run` of rows, number of components, seed and number of threads.
    is_restarted : bool
        Whether the best of several seeds is its result; its reads are those of the first.
    """

    name: str
    fit: Callable[[Rows, int, int, int], Run]
    is_restarted: bool = False


class VisitCount:
    """Listens to a fit and counts the rows that it has worked on."""

    def __init__(self) -> None:
        self.n_rows = 0

    def __call__(self, event: Event) -> None:
        if isinstance(event, ReadDone):
            self.n_rows += event.n_rows
        elif isinstance(event, SampleStage | StepScored):
            self.n_rows += event.n_row_visits


def evaluations(history: Sequence[Mapping[str, Any]]) -> tuple[list[float], list[float]]:
    """Reads up to each accepted one of all the data, and what log-likelihood it found."""
    reads, log_likelihoods = [], []
    n_reads = 0.0
    for read in history:
        n_reads += read["part"]
        is_whole = read["part"] == 1.0 and math.isfinite(read["log_likelihood"])
        if is_whole and read["accepted"]:
            reads.append(n_reads)
            log_likelihoods.append(read["log_likelihood"])
    return reads, log_likelihoods


def ours(rows: Rows, n_components: int, seed: int, threads: int, **settings: Any) -> Run:
    """This package's estimator with some settings."""
    visits = VisitCount()
    model = GaussianMixture(
        n_components,
        random_state=seed,
        reg_covar=REG_COVAR,
        n_jobs=threads,
        callbacks=[visits],
        **settings,
    )
    model.fit(rows)
    reads, log_likelihoods = evaluations(model.history_)
    return Run(reads, log_likelihoods, model.n_reads_, visits.n_rows, result(model))


def scikit_learn(rows: Rows, n_components: int, seed: int, threads: int) -> Run:
    """scikit-learn's default fit: its k-means, then plain EM from the clusters."""
    kmeans = KMeans(n_components, n_init=1, random_state=seed).fit(rows)
    start = clusters(rows, kmeans.labels_, n_components)
    run = ours(rows, n_components, seed, threads, algorithm="em", **beginning_at(start))
    # One read for each centre, one for each iteration, and one for the clusters' moments.
    before = n_components + kmeans.n_iter_ + 1
    return Run(
        [before + n for n in run.reads],
        run.log_likelihoods,
        before + run.n_reads,
        before * len(rows) + run.row_visits,
        run.parameters,
    )


def clusters(rows: Rows, labels: Any, n_components: int) -> Parameters:
    """Weights, means and covariances of labelled rows."""
    means = np.empty((n_components, rows.shape[1]))
    covariances = np.empty((n_components, *rows.shape[1:], *rows.shape[1:]))
    for k in range(n_components):
        own = rows[labels == k]
        means[k] = own.mean(axis=0)
        covariances[k] = np.cov(own, rowvar=False, bias=True)
    covariances += REG_COVAR * np.eye(rows.shape[1])
    weights = np.bincount(labels, minlength=n_components) / len(rows)
    return Parameters.create("full", weights, means, covariances)


def beginning_at(start: Parameters) -> dict[str, Any]:
    """Settings of an estimator that begins at some parameters."""
    return {
        "weights_init": start.weights,
        "means_init": start.means,
        "precisions_init": start.precisions,
    }


def result(model: GaussianMixture) -> Parameters:
    """The parameters that a fit has found."""
    return Parameters.create("full", model.weights_, model.means_, model.covariances_)


def accelerated(
    rows: Rows, n_components: int, seed: int, threads: int, is_informed: bool, order: int
) -> Run:
    """From the start of plain EM on: Anderson extrapolation, Fisher scoring, or both.

    The rows that inform scoring are an eighth of all, as many as the sample would be.
    """
    model = GaussianMixture(
        n_components,
        algorithm="em",
        max_iter=0,
        reg_covar=REG_COVAR,
        random_state=seed,
        n_jobs=threads,
    ).fit(rows)
    visits = VisitCount()
    sample = rows[::8]
    informant = Informant.among(sample, np.ones(len(sample)), count_of(model))
    with ThreadExecutor(threads) as executor, single_threaded_blas():
        reader = Reader(ArraySource(rows), executor, visits)
        fit = accelerated_em(
            reader,
            result(model),
            tol=_SMALLEST_GAIN,
            max_iter=_MOST_READS,
            objective=Objective(REG_COVAR),
            informed_by=informant if is_informed else None,
            order=order,
        )
    reads, log_likelihoods = evaluations([asdict(read) for read in reader.history])
    return Run(
        [1 + n for n in reads],
        log_likelihoods,
        1 + reader.n_reads,
        len(rows) + visits.n_rows,
        fit.parameters,
    )


def count_of(model: GaussianMixture) -> int:
    """Free parameters of a fitted model with full covariances."""
    return count_parameters(STRUCTURES["full"], *model.means_.shape, ())


#: What is compared: another way to fit is another entry.
WAYS = (
    Way("plain EM", partial(ours, algorithm="em", tol=_SMALLEST_GAIN, max_iter=_MOST_READS)),
    Way("Anderson alone", partial(accelerated, is_informed=False, order=8)),
    Way("scoring alone", partial(accelerated, is_informed=True, order=0)),
    Way("scikit-learn", scikit_learn, is_restarted=True),
    Way("auto", partial(ours, algorithm="auto")),
    Way("auto, tol=1e-6", partial(ours, algorithm="auto", tol=1e-6)),
)
