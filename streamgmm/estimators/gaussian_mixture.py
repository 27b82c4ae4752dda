"""The batch estimator: scikit-learn's GaussianMixture for data of any size."""

import copy
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, Self, cast, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning

from streamgmm.algorithms.batch.auto import (
    PilotFit,
    fit_by_assignment,
    fit_from,
    fit_in_few_reads,
    fit_to_pilot,
    rows_at_hand,
    sample_for_start,
    survey_for_fit,
)
from streamgmm.algorithms.batch.component_clusters import merge_components
from streamgmm.algorithms.batch.em import (
    Fit,
    expectation_maximization,
    with_mixture_evaluated,
)
from streamgmm.algorithms.batch.sample_fit import Settings
from streamgmm.algorithms.reads.memory import Effort, MixtureBytes
from streamgmm.algorithms.reads.reader import Reader
from streamgmm.algorithms.sampling.initialization import Start
from streamgmm.algorithms.sampling.row_sample import RowSample, sample_rows
from streamgmm.core.criteria import Criteria
from streamgmm.core.fit_objective import FitObjective
from streamgmm.core.fitted_model import FittedModel, StopReason
from streamgmm.core.mixtures.clusters import MergedComponents, require_clusters
from streamgmm.core.noise import Noise, NoiseSetting, check_noise
from streamgmm.core.objective import Objective
from streamgmm.core.parameters import (
    PARAMETER_NAMES,
    Fixed,
    Parameters,
    count_parameters,
    covariances_from_precisions,
    held_components,
    n_held_components,
)
from streamgmm.core.priors import PriorSetting, check_prior
from streamgmm.core.ridge import DEFAULT_RIDGE, FitRidge, RegCovar, given_ridge
from streamgmm.core.statistics import Statistics
from streamgmm.core.structures import STRUCTURES, Array
from streamgmm.core.structures.low_rank import LOW_RANK_TYPE, public_type
from streamgmm.errors import DataError, ParameterError
from streamgmm.estimators.base import NOISE_ATTRIBUTES, MixtureEstimator
from streamgmm.estimators.checkpoint_setting import CheckpointedMixin, check_resume
from streamgmm.estimators.condition import (
    condition_of,
    warn,
    warn_of_condition,
    warn_of_few_rows,
    warn_of_skipped_rows,
)
from streamgmm.estimators.data_types import PassRecord
from streamgmm.estimators.described_data import description_of
from streamgmm.estimators.fingerprint import fingerprint
from streamgmm.estimators.fit_needs import FitNeeds, fitting, log_effort
from streamgmm.estimators.kept_samples import forget_sample, keep_sample, kept_sample
from streamgmm.estimators.numeric_limits import check_finite, within_float64
from streamgmm.estimators.provenance import provenance_of
from streamgmm.estimators.records import (
    FITTED_ARRAYS,
    copy_fitted,
    stored_arrays,
    to_record,
)
from streamgmm.estimators.refusals import refuse_for_low_rank, refuse_inexact_covariances
from streamgmm.estimators.row_estimator import FitPredictMixin, notified
from streamgmm.estimators.summary import with_description
from streamgmm.estimators.validation import (
    PRIOR_CONSTRAINTS,
    HasMethods,
    Interval,
    StrOptions,
    check_is_fitted,
    check_settings,
)
from streamgmm.events import Event, FitStarted, Listener, SkippedRows, SurveyDone
from streamgmm.executors.blas import single_threaded_blas
from streamgmm.executors.select import open_executor, open_local_executor
from streamgmm.executors.threads import ThreadExecutor
from streamgmm.options import (
    Algorithm,
    Arithmetic,
    CovarianceType,
    ExecutorName,
    InitParams,
    NoiseName,
    ParameterName,
)
from streamgmm.persistence import Record
from streamgmm.protocols import Source, Work, data_bytes
from streamgmm.sources.sample import SampleSource
from streamgmm.sources.weighted import WeightedSource

_STARTS = ("weights_init", "means_init", "precisions_init")


if TYPE_CHECKING:
    from sklearn.mixture import GaussianMixture as SklearnMixture


class GaussianMixture(CheckpointedMixin, FitPredictMixin, MixtureEstimator):
    """Gaussian mixture fitted by maximum likelihood to data of any size.

    Arguments, attributes and their meanings are those of
    :class:`sklearn.mixture.GaussianMixture` wherever it has them. Data may be an array, or anything
    that :func:`streamgmm.open` reads chunk by chunk: a ``.npy`` file, a Zarr array, a Dask
    array. Each iteration is a pass over the data; work on a sample in memory keeps their number
    small.

    Parameters
    ----------
    n_components : int, default=1
        Number of components K.
    covariance_type : str, default="full"
        "full": each component has its own covariance matrix; "tied": all have the same one;
        "diag": each has a variance for each column; "spherical": each has one variance;
        "tied_diag" and "tied_spherical": all have the same variances, or the same one;
        "low_rank": each has Λ Λᵀ + diag(ψ), loadings Λ of a low rank and a noise variance for each
        column, for many columns.
    rank : int, default=None
        With "low_rank" the number of columns of the loadings, 0 for a diagonal. None for 8, or for
        the largest rank that the columns allow if that is smaller: the largest integer that is at
        most (2 D + 1 - √(8 D + 1)) / 2.
    tol : float, default=1e-3
        Tolerance of the mean log-likelihood, in nats per row. "auto" stops when the predicted
        remaining gain is below it, or when five passes together have gained less. "em" stops when
        an iteration changes the log-likelihood by less. "hard" stops when an iteration changes its
        objective by less, or assigns no row to another component.
    reg_covar : float, array-like of shape (n_features,) or "auto", default="auto"
        Added to the diagonal of covariances, in squared units of the data: one number for all
        columns, or one for each. With "auto" each column gets a millionth of its variance, but
        never more than 1e-6; the variance is that of a Gaussian with the interquartile range of
        the sampled rows. Plain EM (``algorithm="em"``) adds 1e-6 with "auto". A warm start keeps
        ``reg_covar_`` with "auto". Components with one variance ("spherical") get the smallest.
    max_iter : int, default=100
        Largest number of iterations: with "auto" and "hard" of passes after the survey, with "em"
        of iterations of each start.
    n_init : int, default=1
        Number of restarts. With "em" each restart makes its own passes over the data, and the one
        with the highest log-likelihood is kept. With "auto" and "hard" each restart is a group of
        starts on the sample, and the one with the highest log-likelihood on the sample is kept. A
        restart with a degenerate component is kept only if all restarts have one.
    init_params : {"kmeans", "k-means++", "random", "random_from_data"}, default="kmeans"
        Method of the starts, which use sampled rows; with "em" at most 65536. k-means finds the
        same clusters in most starts. With "kmeans", restarts after the first therefore alternate
        between k-means++ alone, random rows, k-means on a few rows, and random labels.
    weights_init : array-like of shape (n_components,), default=None
        Starting weights. If weights, means and precisions are all given, there are no other starts.
        "em" begins with this start. "auto" first runs EM from it on a sample, which is usually read
        in a small part of a pass.
    means_init : array-like of shape (n_components, n_features), default=None
        Starting means.
    precisions_init : array-like, default=None
        Starting inverse covariances, in the shape of ``covariances_``. With "low_rank" the fit
        begins with the covariances of this rank whose divergence from the given ones is smallest.
    random_state : int, RandomState instance or None, default=None
        Decides the sample, the starts, and what :meth:`sample` draws.
    warm_start : bool, default=False
        Whether a second call of ``fit`` continues from the result of the first, as from a start
        that is given.
    verbose : int, default=0
        1 writes a line for each pass over the data to standard error.
    verbose_interval : int, default=10
        With ``verbose=1``, iterations between two lines; with ``verbose=2`` every one is written.
    algorithm : {"auto", "em", "hard"}, default="auto"
        "auto" surveys the data in one pass and takes a sample of rows. It searches for a start on
        the sample, in memory, and converges there. Then it makes passes over all rows, with longer
        steps than those of EM, until the predicted gain is small. It returns the parameters that
        its last accepted pass has evaluated. With covariances of low rank it neither splits nor
        merges components, and extrapolates the steps of EM. "em" is plain EM, with scikit-learn's
        conventions: from the same start it gives scikit-learn's iterates. "hard" is classification
        EM: each row counts wholly for the component of the largest π_k p_k(x) (of equal ones, for
        the first), and the iterations maximise the mean of max_k ln π_k p_k(x). Its start is that
        of "auto", and every iteration is one pass. Means and covariances are those of the assigned
        rows; where components overlap, they are narrower than those of maximum likelihood.
    arithmetic : {"auto", "float64", "float32"}, default="auto"
        "auto" computes densities and sums in float64, and uses float32 only to exclude components
        without a share in a row. The result has the same bits as with "float64", in less time.
        "float32" computes densities in float32 where the bound on their error is below 0.001 nats.
        It also sums some hundred rows in float32, where the bound on the error of covariances is
        below a part in 10,000 and there is no ``noise``. Elsewhere it does the same as "auto".
        ``history_`` says what was used. With hard assignment "float32" is the same as "auto".
        "low_rank" refuses "float32", but "auto" computes statistics of rows of float32 in float32
        where errors of densities stay below 0.001 nats and those of an EM step below 1e-5.
    fixed : collection of {"weights", "means", "covariances"}, or dict, default=()
        Parameters held at their ``*_init`` values (``precisions_init`` for covariances); with
        ``warm_start=True`` at those of the last fit. Covariances that "low_rank" is to hold must
        be of its rank plus a diagonal. A dict has, for a name, True or False for each component:
        ``{"means": [True, False, False]}`` holds the first mean. Weights that are not held sum to 1
        minus the held weights. Weights that are all held and not given are equal:
        ``fixed={"weights"}``.
    prior : None, "fraley-raftery", "chen-tan" or :class:`streamgmm.Prior`, default=None
        Prior of the means and covariances: the fit maximises the log-likelihood and the log density
        of the prior, so no component collapses. "fraley-raftery" is ``Prior()``. "chen-tan"
        penalises covariances that are narrow beside that of the data; its share of the objective
        vanishes as the number of rows grows. Values that a prior takes from the data are computed
        from the surveyed sample, or with a given start from a sample of up to 65536 rows.
        ``lower_bound_`` and the criteria hold the log-likelihood alone. Any object with a method
        ``pseudo_rows`` (``streamgmm.core.objective.Prior``) is a prior too, but files do not hold
        it.
    noise : None, "uniform" or float, default=None
        A further component of constant density, for rows that belong to no component. "uniform":
        the density is 1/V everywhere, with the volume V of a box with sides along the columns,
        between the quantiles 0.001 and 0.999 of each column among the sampled rows, of which the
        outermost row at each side is always excluded. A number is the log density, -ln V, in units
        of the data. The weight of the noise is fitted: one more free parameter. It begins at 0.05,
        and ``weights_init``, which sums to 1, shares the rest. V counts as given, also in the
        criteria. With noise no weight can be held fixed.
    executor : "auto", "threads", "dask" or distributed.Client, default="auto"
        Where chunks are computed. "auto" takes the cluster of an active client for what its workers
        can read by themselves, Dask for Dask arrays, and local threads otherwise.
    n_jobs : int, default=None
        Local threads; None for all cores.
    memory_limit : int or str, default=None
        Bytes that the process may hold ("4GiB"), its interpreter, libraries and all parameters
        included; on a cluster those of the process that drives it. A fit that needs more is refused
        before its first pass. With a tight limit "auto" extrapolates from fewer passes, then uses
        fewer rows in memory, and then does not split and merge components. With a limit the C
        library returns freed memory to the system, for the rest of the process. None for most of
        the free memory, where parameters and the sample are not counted.
    survey_part : float, default=1.0
        Part of the chunks that "auto" surveys, spread over the data, but no fewer rows than it
        samples. The sample does not show what only the other chunks hold.
    checkpoint : path-like or URL, default=None
        Folder in which :meth:`fit` keeps what it finds: the survey's sample, the stages of the
        search, the statistics of each pass, so that an interrupted fit can continue, and
        ``model.gmm``, the best model so far. A URL is written by fsspec, with the credentials of
        its configuration; the caller has to ensure that no two fits write to the same URL.
    checkpoint_interval : float, default=None
        Number of seconds after which a running pass saves its state in the checkpoint. With None
        only the results of whole passes are saved.
    callbacks : sequence of callables, default=()
        Called with each :class:`streamgmm.events.Event` of a fit.

    Attributes
    ----------
    weights_ : ndarray of shape (n_components,)
        Their sum is 1; with ``noise`` it is 1 - ``noise_weight_``.
    noise_weight_ : float
        Part of the rows that are noise. This and the next two attributes are there only with
        ``noise``.
    noise_log_density_ : float
        ln(1/V), nats in units of the data. It influences the likelihood and the criteria.
    noise_box_ : ndarray of shape (2, n_features)
        Lower and upper limits of the box; only with ``noise="uniform"``.
    means_ : ndarray of shape (n_components, n_features)
    covariances_ : ndarray
        ================  =======================================
        covariance_type   shape
        ================  =======================================
        "full"            (n_components, n_features, n_features)
        "tied"            (n_features, n_features)
        "diag"            (n_components, n_features)
        "spherical"       (n_components,)
        "tied_diag"       (n_features,)
        "tied_spherical"  ()
        "low_rank"        (n_components, n_features, n_features)
        ================  =======================================

        With "low_rank" these, ``precisions_`` and ``precisions_cholesky_`` are computed from the
        loadings each time; if they do not fit in memory, a MemoryLimitError says their size.
    precisions_ : ndarray, shape of ``covariances_``
        Inverse covariances.
    precisions_cholesky_ : ndarray, shape of ``covariances_``
        Upper factors U of the precisions, P = U Uᵀ.
    loadings_ : ndarray of shape (n_components, n_features, rank)
        Only with "low_rank": Λ. Loadings times an orthogonal matrix are the same covariance.
    noise_variances_ : ndarray of shape (n_components, n_features)
        Only with "low_rank": ψ, never below ``reg_covar_``.
    rank_ : int
        Only with "low_rank": the rank that was used.
    converged_ : bool
        Whether ``tol`` ended the fit; with "em" that of the best start.
    n_iter_ : int
        Number of iterations: with "auto" those after the survey, including steps that were not
        accepted; with "em" those of the best start; with "hard" those after the survey.
    lower_bound_ : float
        Mean log-likelihood, nats per row: with "auto" that of the parameters; with "em" that of
        the parameters at the start of the last iteration; with "hard" the mean of
        max_k ln π_k p_k(x) with the latter. With any algorithm, :meth:`score` is the log-likelihood
        of the mixture.
    lower_bounds_ : list of float
        Mean log-likelihood of each iteration; with "auto" of the accepted ones.
    n_reads_ : float
        Number of passes over the data, over all starts; partial passes count as fractions.
    history_ : list of dict
        One entry for each pass; the keys are the fields of :class:`streamgmm.events.ReadDone`.
        "auto" begins with a "survey". If its sample is not all of the data, a "pilot" comes before,
        which is a fraction of a pass. From a given start, "auto" begins with a "sample", a fraction
        of a pass, or a whole one if the data have few chunks.
    sample_history_ : list of dict
        One entry for each stage of the work on the sample in memory; the keys are the fields of
        :class:`streamgmm.events.SampleStage`.
    reg_covar_ : ndarray of shape (n_features,)
        The number that was added to the diagonal entry of each column; with "spherical" all are
        equal. Not set by "auto" where a given start was kept without iterations.
    bic_, aic_, icl_ : float
        The information criteria of the parameters on the fitted rows: :meth:`bic`, :meth:`aic` and
        :meth:`icl` without a pass over the data. With ``arithmetic="float32"`` they have the
        accuracy of float32. "hard" ends with a pass that evaluates the mixture for them. After
        "em", and where a given start was kept without iterations, no pass has evaluated the
        parameters: there these attributes raise an AttributeError, and ``bic(X)`` makes the pass.
    n_parameters_ : int
        Number of free parameters; available when the criteria are.
    n_features_in_ : int
    feature_names_in_ : ndarray of shape (n_features,)
        Only if the data had column names that are all strings.
    data_description_ : streamgmm.core.data_description.DataDescription
        Variables, columns, units and treatment of missing values of the data; by it predictions
        find the features of other data, and refuse other units.
    provenance_ : dict
        Date (UTC), processor, versions of libraries, locations of the data without credentials, and
        a fingerprint of their metadata; not for mixtures that were derived or converted.

    See Also
    --------
    sklearn.mixture.GaussianMixture : The same for arrays in memory.

    References
    ----------
    Dempster, Laird & Rubin (1977), Maximum likelihood from incomplete data via the EM algorithm.
    Le Cam (1956), On the asymptotic theory of estimation and testing hypotheses.
    Celeux & Govaert (1992), A classification EM algorithm for clustering and two stochastic
    versions.
    Ghahramani & Hinton (1996), The EM algorithm for mixtures of factor analyzers.

    Examples
    --------
    >>> import numpy as np
    >>> from streamgmm import GaussianMixture
    >>> X = np.random.default_rng(0).normal(size=(1000, 2)) + [[1, 2], [10, 2]] * 500
    >>> gm = GaussianMixture(n_components=2, random_state=0).fit(X)
    >>> np.sort(gm.means_[:, 0]).round()
    array([ 1., 10.])
    >>> bool(gm.predict([[0.0, 0]])[0] == gm.predict([[2.0, 1]])[0])
    True
    """

    #: Statistics that the parameters were made from, if there are any.
    _statistics: Statistics | None = None
    #: Why the last fit ended, if there was one.
    _reason: StopReason | None = None
    #: Whether ``lower_bound_`` is that of hard assignment.
    _is_hard_fit = False
    #: Criteria of the fitted parameters on the fitted rows; None if no pass has evaluated them.
    _criteria: Criteria | None = None

    rank_: int
    _parameter_constraints: dict[str, list[Any]] = {  # noqa: RUF012 - scikit-learn's own form
        "n_components": [Interval(Integral, 1, None, closed="left")],
        "covariance_type": [StrOptions(STRUCTURES.keys()), StrOptions({LOW_RANK_TYPE})],
        "rank": [Interval(Integral, 0, None, closed="left"), None],
        "tol": [Interval(Real, 0.0, None, closed="left")],
        "reg_covar": [Interval(Real, 0.0, None, closed="left"), "array-like", StrOptions({"auto"})],
        "max_iter": [Interval(Integral, 0, None, closed="left")],
        "n_init": [Interval(Integral, 1, None, closed="left")],
        "init_params": [StrOptions(set(get_args(InitParams)))],
        "weights_init": ["array-like", None],
        "means_init": ["array-like", None],
        "precisions_init": ["array-like", Real, None],
        "random_state": ["random_state"],
        "warm_start": ["boolean"],
        "verbose": ["verbose"],
        "verbose_interval": [Interval(Integral, 1, None, closed="left")],
        "algorithm": [StrOptions(set(get_args(Algorithm)))],
        "arithmetic": [StrOptions(set(get_args(Arithmetic)))],
        "fixed": ["array-like", set, frozenset, dict],
        "prior": PRIOR_CONSTRAINTS,
        "noise": [StrOptions(set(get_args(NoiseName))), Real, None],
        "executor": [StrOptions(set(get_args(ExecutorName))), HasMethods("scheduler_info")],
        "n_jobs": [Integral, None],
        "memory_limit": [Real, str, None],
        "survey_part": [Interval(Real, 0.0, 1.0, closed="right")],
        "checkpoint": [str, os.PathLike, None],
        "checkpoint_interval": [Interval(Real, 0.0, None, closed="neither"), None],
        "callbacks": ["array-like", callable],
    }

    def __init__(
        self,
        n_components: int = 1,
        *,
        covariance_type: CovarianceType = "full",
        rank: int | None = None,
        tol: float = 1e-3,
        reg_covar: RegCovar = "auto",
        max_iter: int = 100,
        n_init: int = 1,
        init_params: str = "kmeans",
        weights_init: ArrayLike | None = None,
        means_init: ArrayLike | None = None,
        precisions_init: ArrayLike | None = None,
        random_state: Any = None,
        warm_start: bool = False,
        verbose: int = 0,
        verbose_interval: int = 10,
        algorithm: str = "auto",
        arithmetic: Arithmetic = "auto",
        fixed: Collection[ParameterName] | Mapping[ParameterName, ArrayLike] = (),
        prior: PriorSetting = None,
        noise: NoiseSetting = None,
        executor: Any = "auto",
        n_jobs: int | None = None,
        memory_limit: int | str | None = None,
        survey_part: float = 1.0,
        checkpoint: str | os.PathLike[str] | None = None,
        checkpoint_interval: float | None = None,
        callbacks: Sequence[Callable[[Event], None]] = (),
    ) -> None:
        self.n_components = n_components
        self.covariance_type = covariance_type
        self.rank = rank
        self.tol = tol
        self.reg_covar = reg_covar
        self.max_iter = max_iter
        self.n_init = n_init
        self.init_params = init_params
        self.weights_init = weights_init
        self.means_init = means_init
        self.precisions_init = precisions_init
        self.random_state = random_state
        self.warm_start = warm_start
        self.verbose = verbose
        self.verbose_interval = verbose_interval
        self.algorithm = algorithm
        self.arithmetic = arithmetic
        self.fixed = fixed
        self.prior = prior
        self.noise = noise
        self.executor = executor
        self.n_jobs = n_jobs
        self.memory_limit = memory_limit
        self.survey_part = survey_part
        self.checkpoint = checkpoint
        self.checkpoint_interval = checkpoint_interval
        self.callbacks = callbacks

    def fit(
        self, X: Any, y: Any = None, sample_weight: Any = None, *, resume: bool = False
    ) -> Self:
        """Estimate the parameters.

        Parameters
        ----------
        X : array-like, path or Source of shape (n_samples, n_features)
            Anything that :func:`streamgmm.open` takes.
        y : Ignored
        sample_weight : array-like of shape (n_samples,) or str, default=None
            Row weights; a weight of 2 counts a row twice.
        resume : bool, default=False
            Whether to continue with what an interrupted call of the same settings and data left in
            ``checkpoint``; if there is nothing, the fit begins. Earlier passes are in
            ``history_``, but no event reports them again.

        Returns
        -------
        self : GaussianMixture
            A resumed fit gives the same bits as an uninterrupted one.

        Raises
        ------
        DataError
            If the data cannot be used: NaN, infinity, wrong shape or type, too few rows.
        ParameterError
            If a setting is not valid.
        MemoryLimitError
            If the fit does not fit in the memory limit, with one chunk and on one thread.
        CheckpointError
            If the checkpoint exists and ``resume`` is False, or it belongs to another fit: other
            data, settings or versions.
        OutputError
            If the checkpoint cannot be written; its content stays.

        Examples
        --------
        >>> import numpy as np
        >>> from streamgmm import GaussianMixture
        >>> GaussianMixture().fit(np.arange(10.0).reshape(5, 2)).means_
        array([[4., 5.]])
        """
        check_settings(self)
        check_resume(self.checkpoint, self.checkpoint_interval, resume)
        source = self._open(X, sample_weight, reset=not self._goes_on())
        if source.n_rows < max(2, self.n_components):
            raise DataError(
                "Expected n_samples >= n_components and a minimum of 2 is required, but got "
                f"n_components = {self.n_components}, n_samples = {source.n_rows}"
            )
        structure = self._asked_structure(source.n_features)
        if self.covariance_type == LOW_RANK_TYPE:
            refuse_for_low_rank(self)
        fixed = self._held_parameters(source.n_features)
        known = self._known_start(source.n_features, fixed)
        check_prior(self.prior, structure, source.n_features)
        refuse_noise(self.noise, source, fixed)
        names = getattr(self, "feature_names_in_", None)
        noise = Noise.begun(self.noise)
        objective = FitObjective(self._ridge(source), fixed, self.prior, noise, names)
        rows = _RowCheck(self, source)
        with (
            fitting(self, source, [structure]) as listener,
            open_executor(self.executor, source, self.n_jobs, self.memory_limit) as executor,
            open_local_executor(executor, self.n_jobs, self.memory_limit) as local,
            single_threaded_blas(),
            within_float64(),
        ):
            # What a fit needs does not depend on the ridge, the prior and the volume of noise.
            needs = FitNeeds(
                source,
                self._settings(source.n_features, Objective(fixed=fixed, noise=noise)),
                self.algorithm == "em",
            )
            works = needs.works(executor.memory_limit)
            for work in works:
                executor.check_memory(source, work, needs.works)
            work, effort = works[0], needs.effort(executor.memory_limit)
            log_effort(effort)
            reader = Reader(
                source,
                executor,
                rows.before(listener),
                self.arithmetic,
                driver_bytes=work.driver,
                is_hard=self.algorithm == "hard",
            )
            start = self._given_start(reader, known)
            if start is not None and start.noise is not None:
                # A warm start keeps its box, too.
                objective.noise = start.noise
            with self._checkpointed(reader, start, objective, resume) as random:
                reader.notify(self._size(source, work))
                best = self._best_fit(reader, known, start, objective, local, random, effort)
                if reader.is_hard:
                    best = with_mixture_evaluated(reader, best)
                self._keep(best, reader, objective.ridge)
                keep_sample(self, best.sample, source.missing)
        self._warn(best, reader, rows)
        return self

    def _size(self, source: Source, work: Work) -> FitStarted:
        """Return what the fit will take."""
        k, d = self.n_components, source.n_features
        structure = STRUCTURES[self._asked_structure(d)]
        return FitStarted(
            source.n_rows,
            d,
            k,
            count_parameters(structure, k, d, self.fixed, self.noise is not None),
            data_bytes(source),
            work.thread,
            4 * source.n_rows * k * structure.n_moments(d),
            self.tol,
            self.max_iter,
        )

    def _checkpointed(
        self, reader: Reader, start: Parameters | None, objective: FitObjective, resume: bool
    ) -> AbstractContextManager[np.random.RandomState]:
        """Return a context in which results of the fit are kept; it gives the random state."""

        def settings() -> Mapping[str, Any]:
            entries = objective.ridge.entries
            return fingerprint(self, reader.source, start, entries, reader.executor.sample_bytes)

        def as_model(fit: Fit) -> Record:
            model = copy.copy(self)
            model._keep(fit, reader, objective.ridge)
            return to_record(model)

        return self._open_checkpoint(reader, settings, as_model, lambda: to_record(self), resume)

    def _given_start(self, reader: Reader, known: Start) -> Parameters | None:
        """Return what reads begin with, if that need not be found."""
        if self._goes_on():
            return self._unchanged_parameters(reader)
        return known.complete(self._asked_structure(reader.source.n_features))

    def _goes_on(self) -> bool:
        return bool(self.warm_start) and hasattr(self, "converged_")

    def _best_fit(
        self,
        reader: Reader,
        known: Start,
        start: Parameters | None,
        objective: FitObjective,
        local: ThreadExecutor,
        random: np.random.RandomState,
        effort: Effort,
    ) -> Fit:
        if self.algorithm != "em":
            return self._fit_in_few_reads(reader, known, start, objective, local, random, effort)
        if start is not None:
            # The bound of a hard fit is that of another objective, and has no part of a prior.
            is_bound = self._goes_on() and not self._is_hard_fit and self.prior is None
            self._complete(reader, objective)
            start = start.with_noise(objective.noise)
            previous = self.lower_bound_ if is_bound else -np.inf
            return self._run(reader, start, objective.known, previous)
        seed = int(random.randint(2**31))
        sample = reader.kept(RowSample, lambda: sample_rows(reader, seed))
        d = reader.source.n_features
        settings = self._settings(d, objective.settle(sample.rows, sample.weights))
        starts = (
            settings.start(sample.rows, sample.weights, known, random, restart)
            for restart in range(self.n_init)
        )
        best = max(
            (self._run(reader, start, settings.objective) for start in starts),
            key=lambda fit: fit.value,
        )
        return replace(best, sample=sample)

    def _fit_in_few_reads(
        self,
        reader: Reader,
        known: Start,
        start: Parameters | None,
        objective: FitObjective,
        local: ThreadExecutor,
        random: np.random.RandomState,
        effort: Effort,
    ) -> Fit:
        missing = reader.source.missing

        def open_rows(rows: Array, weights: Array, listener: Listener) -> Reader:
            sample = SampleSource(rows, weights, missing)
            held = reader.driver_bytes
            return Reader(sample, local, listener, self.arithmetic, driver_bytes=held)

        k, n_features = self.n_components, reader.source.n_features
        n_parameters = self._settings(
            n_features, Objective(fixed=objective.fixed, noise=objective.noise)
        ).n_parameters(n_features)
        if start is not None:
            # With a given start, only the rows that determine the steps are random.
            random = np.random.RandomState(0) if self.random_state is None else random
            return self._fit_from(reader, open_rows, start, objective, n_parameters, random, effort)

        def settings_for(sample: RowSample, objective: FitObjective) -> Settings:
            settled = objective.settle(sample.rows, sample.weights)
            return self._settings(n_features, settled, objective.ridge.scales)

        begun: PilotFit | None = None
        # The box of the noise is that of the survey's sample, and its statistics need it.
        if self.survey_part == 1.0 and not reader.is_hard and not objective.lacks_noise:
            # The sample of the survey decides what the objective takes from the data.
            for_pilot = replace(objective, ridge=replace(objective.ridge))
            begun = fit_to_pilot(
                reader,
                open_rows,
                lambda sample: settings_for(sample, for_pilot),
                known,
                n_parameters,
                tol=self.tol,
                random=random,
                effort=effort,
            )
        found = survey_for_fit(reader, k, n_parameters, random, self.survey_part, begun)
        settings = settings_for(found.sample, objective)
        begun_at = None if begun is None else begun.parameters
        # The pilot holds a mixture that is prepared for rows.
        del begun
        fit = fit_by_assignment if reader.is_hard else partial(fit_in_few_reads, start=begun_at)
        return fit(
            reader,
            open_rows,
            settings,
            known,
            found,
            tol=self.tol,
            max_iter=self.max_iter,
            random=random,
            effort=effort,
        )

    def _fit_from(
        self,
        reader: Reader,
        open_rows: Callable[[Array, Array, Listener], Reader],
        start: Parameters,
        objective: FitObjective,
        n_parameters: int,
        random: np.random.RandomState,
        effort: Effort,
    ) -> Fit:
        """Fit from parameters that are known, with a sample if there are iterations."""
        if objective.lacks_noise:
            self._complete(reader, objective)
        start = start.with_noise(objective.noise)
        kept = reader.kept(Parameters, lambda: start)
        if not self.max_iter:
            return Fit(kept)
        sample = None
        self._complete(reader, objective)
        lacks_ridge = objective.ridge.entries is None
        if lacks_ridge or not reader.is_hard:
            sample = sample_for_start(reader, n_parameters, random, lacks_ridge)
        if sample is not None:
            objective.settle(sample.rows, sample.weights)
        if reader.is_hard:
            return self._iterated(reader, kept, objective.known)
        return fit_from(
            reader,
            open_rows,
            self._settings(reader.source.n_features, objective.known),
            kept,
            sample,
            tol=self.tol,
            max_iter=self.max_iter,
            effort=effort,
        )

    def _ridge(self, source: Source) -> FitRidge:
        """Return the ridge of a fit, as far as it is known before rows are read."""
        d = source.n_features
        kind = self._asked_structure(d)
        names = getattr(self, "feature_names_in_", None)
        entries = given_ridge(self.reg_covar, kind, d, names)
        if entries is None and self._goes_on():
            entries = getattr(self, "reg_covar_", None)
        if entries is None and self.algorithm == "em":
            entries = np.full(d, DEFAULT_RIDGE)
        return FitRidge(kind, entries)

    def _complete(self, reader: Reader, objective: FitObjective) -> None:
        """Complete prior and noise from sampled rows where a given start makes no other sample."""
        if objective.lacks_rows:
            sample = reader.kept(RowSample, lambda: rows_at_hand(reader, 0))
            objective.complete(sample.rows, sample.weights)

    def _settings(
        self, n_features: int, objective: Objective, scales: Array | None = None
    ) -> Settings:
        """Return the settings of the fit."""
        return Settings(
            self.n_components,
            self._asked_structure(n_features),
            self.init_params,
            objective,
            self.n_init,
            scales,
        )

    def _unchanged_parameters(self, reader: Reader) -> Parameters:
        """Return those of the last fit, if the settings and the data still have their shape."""
        shape = self.n_components, reader.source.n_features
        expected = STRUCTURES[self._asked_structure(shape[1])].shape(*shape)
        covariances = self._stored_arrays()[2]
        if self.means_.shape != shape or covariances.shape != expected:
            raise ParameterError(
                "warm_start continues from a model with means (components, features) of shape "
                f"{self.means_.shape} and covariances of shape {covariances.shape}, but "
                f"{shape} and {expected} are asked for now; set warm_start=False to start anew"
            )
        parameters = self._parameters()
        fitted = None if parameters.noise is None else parameters.noise.setting
        if fitted != self.noise:
            raise ParameterError(
                f"warm_start continues from a model with noise={fitted!r}, but noise="
                f"{self.noise!r} is asked for now; set warm_start=False to start anew"
            )
        return parameters

    def _run(
        self, reader: Reader, start: Parameters, objective: Objective, previous: float = -np.inf
    ) -> Fit:
        """Run plain EM on all rows from given parameters."""
        kept = reader.kept(Parameters, lambda: start)
        return self._iterated(reader, kept, objective, previous)

    def _iterated(
        self, reader: Reader, start: Parameters, objective: Objective, previous: float = -np.inf
    ) -> Fit:
        """Run iterations on all rows."""
        return expectation_maximization(
            reader,
            start,
            tol=self.tol,
            max_iter=self.max_iter,
            objective=objective,
            previous=previous,
        )

    def _held_parameters(self, n_features: int) -> Fixed:
        """Return the parameters that are held: names, or masks if some components are free.

        Raises
        ------
        ParameterError
            If a name is unknown, or a mask is none that the mixture can have.
        """
        unknown = [name for name in self.fixed if name not in PARAMETER_NAMES]
        if unknown:
            raise ParameterError(
                f"fixed names {', '.join(sorted(map(str, unknown)))}; "
                f"choose among {', '.join(PARAMETER_NAMES)}"
            )
        if not isinstance(self.fixed, Mapping):
            return frozenset(self.fixed)
        k = self.n_components
        masks: dict[ParameterName, NDArray[np.bool_]] = {}
        for name, given in self.fixed.items():
            mask = np.asarray(given)
            if mask.dtype != np.bool_ or mask.shape != (k,):
                raise ParameterError(
                    f"fixed[{name!r}] is {given!r}; give True or False for each of the {k} "
                    "component(s)"
                )
            is_shared = STRUCTURES[self._asked_structure(n_features)].n_shared(n_features) > 0
            if name == "covariances" and is_shared and 0 < mask.sum() < k:
                raise ParameterError(
                    f"fixed['covariances'] is {given!r}, but with covariance_type="
                    f"{self.covariance_type!r} all components share one covariance; hold it for "
                    "all of them or for none"
                )
            if name == "weights" and mask.sum() == k - 1:
                # The last one is 1 minus the others.
                mask = np.ones(k, dtype=np.bool_)
            if mask.any():
                masks[name] = mask
        return frozenset(masks) if all(map(np.all, masks.values())) else masks

    def _known_start(self, n_features: int, fixed: Fixed) -> Start:
        initial = {name: _as_numbers(name, getattr(self, name)) for name in _STARTS}
        if n_held_components(fixed, "weights", self.n_components) == self.n_components:
            equal = np.full(self.n_components, 1.0 / self.n_components)
            if self.weights_init is None:
                initial["weights_init"] = equal
        for held, needed in zip(PARAMETER_NAMES, _STARTS, strict=True):
            if held in fixed and initial[needed] is None and not self._goes_on():
                raise ParameterError(f"fixed holds {held!r}, so {needed} must be given")
        shape = self.n_components, n_features
        kind = self._asked_structure(n_features)
        shapes = (shape[:1], shape, STRUCTURES[kind].precision_form.shape(*shape))
        expected = dict(zip(_STARTS, shapes, strict=True))
        for name, array in initial.items():
            if array is not None and array.shape != expected[name]:
                raise ParameterError(
                    f"The parameter {name!r} should have the shape of {expected[name]}, "
                    f"but got {array.shape}"
                )
        weights, means, precisions = initial.values()
        if precisions is None or self._goes_on():
            return Start(weights, means)
        with single_threaded_blas(), within_float64():
            covariances, factors = covariances_from_precisions(kind, precisions, shape)
            is_held = held_components(fixed, "covariances", self.n_components)
            refuse_inexact_covariances(kind, precisions, factors, is_held)
            if self.max_iter:
                structure = STRUCTURES[kind]
                covariances, factors = structure.start_of_fit(covariances, factors, ~is_held)
        return Start(weights, means, covariances, factors)

    def _keep(self, fit: Fit, reader: Reader, ridge: FitRidge) -> None:
        names = getattr(self, "feature_names_in_", None)
        fitted = fitted_model(fit, reader, ridge, names, self.fixed)
        stages = tuple(
            {**vars(stage), "log_likelihoods": [*stage.log_likelihoods]} for stage in reader.stages
        )
        self._set_fitted(replace(fitted, sample_history=stages))

    def _set_fitted(self, fitted: FittedModel, stored: Mapping[str, Array] | None = None) -> None:
        """Set the fitted attributes."""
        parameters = fitted.parameters
        if stored is None:
            check_finite(parameters)
            stored = stored_arrays(parameters)
        for name in FITTED_ARRAYS:
            self.__dict__.pop(name, None)
        for name in stored.keys() & FITTED_ARRAYS:
            setattr(self, name, stored[name])
        self.__dict__.pop("rank_", None)
        if hasattr(self, "loadings_"):
            self.rank_ = self.loadings_.shape[2]
        self._set_noise(parameters.noise)
        self.__dict__.pop("reg_covar_", None)
        if fitted.reg_covar is not None:
            self.reg_covar_ = fitted.reg_covar
        self._statistics, self._reason = fitted.statistics, fitted.reason
        self._is_hard_fit, self._criteria = fitted.is_hard, fitted.criteria
        forget_sample(self)
        self.converged_, self.n_iter_ = fitted.converged, fitted.n_iterations
        self.lower_bound_, self.lower_bounds_ = fitted.log_likelihood, [*fitted.log_likelihoods]
        self.history_ = [cast(PassRecord, dict(entry)) for entry in fitted.history]
        self.n_reads_ = fitted.n_reads
        self.sample_history_ = [*map(dict, fitted.sample_history)]
        self.n_features_in_ = parameters.n_features
        self.__dict__.pop("feature_names_in_", None)
        if fitted.feature_names is not None:
            self.feature_names_in_ = fitted.feature_names
        self.__dict__.pop("data_description_", None)
        if fitted.data is not None:
            self.data_description_ = fitted.data
        self.__dict__.pop("provenance_", None)
        if fitted.provenance is not None:
            self.provenance_ = dict(fitted.provenance)

    def _set_noise(self, noise: Noise | None) -> None:
        """Set the attributes of the noise, as far as there are any."""
        for name in NOISE_ATTRIBUTES:
            self.__dict__.pop(name, None)
        if noise is not None:
            self.noise_weight_, self.noise_log_density_ = noise.weight, noise.log_density
            if noise.has_box:
                self.noise_box_ = noise.box

    @property
    def fitted_model_(self) -> FittedModel:
        """The fitted mixture as a plain value."""
        check_is_fitted(self)
        return FittedModel(
            self._parameters(),
            self._statistics,
            getattr(self, "reg_covar_", None),
            getattr(self, "feature_names_in_", None),
            tuple(map(dict, self.history_)),
            self.n_reads_,
            self._reason,
            self.converged_,
            self.n_iter_,
            self.lower_bound_,
            # scikit-learn's models of old releases do not have these.
            tuple(getattr(self, "lower_bounds_", ())),
            self._is_hard_fit,
            self._criteria,
            tuple(self.sample_history_),
            getattr(self, "data_description_", None),
            getattr(self, "provenance_", None),
        )

    @classmethod
    def from_fitted_model(
        cls, fitted: FittedModel, stored: Mapping[str, Array] | None = None, **settings: Any
    ) -> Self:
        """Return a model of a fitted mixture.

        Parameters
        ----------
        fitted : FittedModel
            Such as ``fitted_model_`` of any model.
        stored : mapping of str to ndarray, optional
            The attributes ``weights_``, ``means_``, ``covariances_``, ``precisions_`` and
            ``precisions_cholesky_`` to the last bit as they were; by default they are computed
            from the parameters.
        **settings
            Arguments of this class.

        Returns
        -------
        GaussianMixture

        Raises
        ------
        ParameterError
            If a setting is not valid, or is a number of components, a covariance type or noise
            other than that of the mixture.

        Examples
        --------
        >>> import numpy as np
        >>> from streamgmm import GaussianMixture
        >>> gm = GaussianMixture().fit(np.arange(10.0).reshape(5, 2))
        >>> GaussianMixture.from_fitted_model(gm.fitted_model_, tol=1e-6).means_
        array([[4., 5.]])
        """
        parameters = fitted.parameters
        own: dict[str, Any] = {
            "n_components": parameters.n_components,
            "covariance_type": public_type(parameters.covariance_type),
            "noise": None if parameters.noise is None else parameters.noise.setting,
        }
        if own["covariance_type"] == LOW_RANK_TYPE:
            own["rank"] = parameters.covariances.shape[2] - 1
        model = cls()
        model.set_params(**{**own, **settings})
        check_settings(model)
        for name, value in own.items():
            # Without a rank that is asked for, the rank is what the columns allow.
            if getattr(model, name) != value and not (name == "rank" and model.rank is None):
                raise ParameterError(
                    f"{name} is {getattr(model, name)!r}, but this model has {value!r}, "
                    "which cannot be chosen anew"
                )
        model._set_fitted(fitted, stored)
        return model

    def _as_batch(self, fitted: FittedModel) -> Self:
        settings = clone(self).get_params(deep=False)
        # Few features have full covariances in place of low rank.
        settings["covariance_type"] = public_type(fitted.parameters.covariance_type)
        if settings["covariance_type"] != LOW_RANK_TYPE:
            settings["rank"] = None
        return type(self).from_fitted_model(fitted, **settings)

    @property
    def bic_(self) -> float:
        """BIC on the fitted rows, as :meth:`bic` gives it, without a pass over the data."""
        return self._known_criteria("bic").bic

    @property
    def aic_(self) -> float:
        """AIC on the fitted rows, as :meth:`aic` gives it, without a pass over the data."""
        return self._known_criteria("aic").aic

    @property
    def icl_(self) -> float:
        """ICL on the fitted rows, as :meth:`icl` gives it, without a pass over the data."""
        return self._known_criteria("icl").icl

    @property
    def n_parameters_(self) -> int:
        """Number of free parameters, as the criteria count them."""
        return self._known_criteria("n_parameters").n_parameters

    def _known_criteria(self, name: str) -> Criteria:
        """Return the criteria of the fit.

        Raises
        ------
        AttributeError
            If no pass over the data has evaluated the fitted parameters.
        """
        if self._criteria is None:
            raise AttributeError(
                f"this {type(self).__name__} has no {name}_: no pass over the data has evaluated "
                "its parameters, as after algorithm='em', which ends with an M-step; call "
                f"{name if name != 'n_parameters' else 'bic'}(X)"
            )
        return self._criteria

    def merged_components(self, X: Any = None, n_clusters: int | None = None) -> MergedComponents:
        """Merge components that overlap into clusters.

        A cluster that is not Gaussian is described by several components. The entropy of the
        assignment of rows to components measures how much these overlap. The pair whose merge
        lowers the entropy most is merged, again and again. The mixture itself does not change.

        Parameters
        ----------
        X : array-like, path or Source of shape (n_samples, n_features), default=None
            Rows that the entropy is taken of; anything that :func:`streamgmm.open` takes. One pass
            samples them; as a rule one more pass finds the tree, at most one for each component.
            None for the rows that the fit has sampled, up to 8 MiB of them, and no pass. Files do
            not hold these.
        n_clusters : int, default=None
            Number of clusters, from 1 to the number of components. None for the elbow: the number
            at which the overlap of the clusters that are merged falls from the level of components
            of one cluster to that of clusters that are apart. It is 1 if all overlap, and the
            number of components if these hardly overlap.

        Returns
        -------
        merged : MergedComponents
            With ``clusters``, the cluster of each component, the ``tree`` of merges, the
            ``entropies`` with 1, 2, … clusters, in nats, the ``overlaps`` of the clusters of each
            merge, and the methods ``cut`` for other numbers of clusters and ``relabel`` for the
            labels of rows.

        Raises
        ------
        ParameterError
            If ``n_clusters`` is not possible, or X is not given and the model has no sample.
        DataError
            If the data cannot be used or have other columns than those fitted.

        References
        ----------
        Baudry, Raftery, Celeux, Lo & Gottardo (2010), Combining mixture components for clustering.

        Examples
        --------
        >>> import numpy as np
        >>> from streamgmm import GaussianMixture
        >>> rng = np.random.default_rng(0)
        >>> ring = rng.normal(size=(2000, 2))
        >>> ring *= 5.0 / np.linalg.norm(ring, axis=1, keepdims=True)
        >>> X = np.vstack([ring, rng.normal(size=(2000, 2))]) + 0.3 * rng.normal(size=(4000, 2))
        >>> gm = GaussianMixture(7, random_state=0).fit(X)
        >>> merged = gm.merged_components(n_clusters=2)
        >>> np.bincount(merged.clusters[gm.predict(X)]).round(-2)
        array([2000, 2000])
        """
        check_is_fitted(self)
        if n_clusters is not None:
            require_clusters(n_clusters, len(self.weights_))
        if X is not None:
            source = self._open(X, None, reset=False)
            with notified(self) as listener:
                return self._merged(source, listener, self.executor, n_clusters)
        sample = kept_sample(self)
        if sample is None:
            raise ParameterError(
                "this model has no sample of rows, because it was loaded, copied, converted or "
                "fitted from a given start; give rows: merged_components(X)"
            )
        return self._merged(sample, lambda event: None, "threads", n_clusters)

    def _merged(
        self, source: Source, listener: Listener, executor: Any, n_clusters: int | None
    ) -> MergedComponents:
        """Merge components by the rows of a source."""
        k, d = self.means_.shape
        sizes = MixtureBytes(self._structure_name, k, d, source.missing == "em")
        with (
            open_executor(executor, source, self.n_jobs, self.memory_limit) as opened,
            single_threaded_blas(),
        ):
            reader = Reader(source, opened, listener, driver_bytes=sizes.scoring)
            return merge_components(reader, self._parameters(), n_clusters)

    def _warn(self, fit: Fit, reader: Reader, rows: "_RowCheck") -> None:
        """Report what the fit is worth."""
        counts = None
        if fit.statistics is not None:
            counts = fit.statistics.counts
            rows.examine(fit.statistics.weight)
        elif rows.weight is not None:
            counts = rows.weight * fit.parameters.weights
        warn_of_condition(
            condition_of(self, fit.parameters, counts, columns=fit.columns, lost=fit.degenerate),
            self,
        )
        n_overflowing = max((read.n_overflowing for read in reader.history), default=0)
        warn_of_skipped_rows(SkippedRows(n_overflowing), reader.source.n_rows)
        if not fit.converged and self.max_iter > 0:
            warn(
                f"the best start did not converge in {fit.n_iterations} iterations; increase "
                "max_iter or tol, try other init_params, or check for degenerate data",
                ConvergenceWarning,
            )

    def _html_repr(self) -> str:
        page: str = super()._html_repr()
        is_fitted = hasattr(self, "converged_")
        return with_description(page, self.fitted_model_) if is_fitted else page

    def to_sklearn(self) -> "SklearnMixture":
        """Return the same fitted model as a :class:`sklearn.mixture.GaussianMixture`.

        Returns
        -------
        sklearn.mixture.GaussianMixture
            Its ``reg_covar`` is one number, the smallest entry of ``reg_covar_``. "tied_diag" is
            given as "diag", "tied_spherical" as "spherical", and "low_rank" as "full".

        Raises
        ------
        ParameterError
            If the model has noise, which scikit-learn's cannot hold.

        Examples
        --------
        >>> import numpy as np
        >>> from streamgmm import GaussianMixture
        >>> GaussianMixture().fit(np.arange(10.0).reshape(5, 2)).to_sklearn().means_
        array([[4., 5.]])
        """
        check_is_fitted(self)
        if self._noise() is not None:
            raise ParameterError(
                "this model has noise, which a mixture of scikit-learn cannot hold; fit without "
                "noise, or convert a mixture of its weights_, means_ and covariances_ by hand"
            )
        from sklearn.mixture import GaussianMixture as SklearnGaussianMixture

        shared = SklearnGaussianMixture().get_params()
        settings = {name: value for name, value in self.get_params().items() if name in shared}
        del settings["reg_covar"]
        if hasattr(self, "reg_covar_"):
            settings["reg_covar"] = float(self.reg_covar_.min())
        structure = STRUCTURES[self._structure_name]
        settings["covariance_type"] = structure.sklearn_type
        if self.precisions_init is not None:
            initial = np.asarray(self.precisions_init, dtype=np.float64)
            settings["precisions_init"] = structure.for_sklearn(initial, self.n_components)
        converted = SklearnGaussianMixture(**settings)
        copy_fitted(self, converted)
        for name in ("covariances_", "precisions_", "precisions_cholesky_"):
            stored = structure.for_sklearn(getattr(converted, name), self.n_components)
            setattr(converted, name, stored)
        return converted

    @classmethod
    def from_sklearn(cls, model: Any) -> Self:
        """Return a fitted :class:`sklearn.mixture.GaussianMixture` as a model of this class.

        Parameters
        ----------
        model : sklearn.mixture.GaussianMixture
            Fitted.

        Returns
        -------
        GaussianMixture
            Without passes in its history.

        Raises
        ------
        ParameterError
            If it is another kind of model.

        Examples
        --------
        >>> import numpy as np
        >>> from sklearn.mixture import GaussianMixture as SklearnMixture
        >>> from streamgmm import GaussianMixture
        >>> X = np.array([[0.0], [1], [2], [10], [11], [12]])
        >>> theirs = SklearnMixture(2, random_state=0).fit(X)
        >>> bool((GaussianMixture.from_sklearn(theirs).predict(X) == theirs.predict(X)).all())
        True
        """
        from sklearn.mixture import GaussianMixture as SklearnGaussianMixture

        if not isinstance(model, SklearnGaussianMixture):
            raise ParameterError(
                f"{type(model).__name__} is not a sklearn.mixture.GaussianMixture; only its fitted "
                "models can be converted"
            )
        check_is_fitted(model)
        converted = cls(**model.get_params())
        copy_fitted(model, converted)
        converted.reg_covar_ = np.full(converted.means_.shape[1], float(model.reg_covar))
        converted.history_, converted.n_reads_ = [], 0
        converted.sample_history_ = []
        return converted


def refuse_noise(noise: NoiseSetting, source: Source, fixed: Fixed) -> None:
    """Refuse noise that a fit cannot have.

    Parameters
    ----------
    noise : None, "uniform" or float
    source : Source
    fixed : collection of {"weights", "means", "covariances"}, or mapping of these to masks

    Raises
    ------
    ParameterError
        If it is not valid, or does not go with the data or the fixed parameters.
    """
    check_noise(noise)
    if noise is None:
        return
    if "weights" in fixed:
        raise ParameterError(
            "fixed holds weights, but with noise all weights are free; remove fixed weights or "
            "noise"
        )
    if source.missing == "em" and not isinstance(noise, str):
        raise ParameterError(
            f"noise is {noise!r}, the log density of all columns together, but with missing='em' "
            "rows may have values in some columns only; give noise='uniform'"
        )


def fitted_model(
    fit: Fit,
    reader: Reader,
    ridge: FitRidge,
    feature_names: Any,
    fixed: Fixed = (),
) -> FittedModel:
    """Return what a fit found as a plain value.

    Parameters
    ----------
    fit : Fit
    reader : Reader
        It made the passes of the fit.
    ridge : FitRidge
    feature_names : ndarray of str, or None
    fixed : collection of {"weights", "means", "covariances"}, or mapping of these to masks
        Parameters that were held fixed.
    """
    criteria = None
    if fit.evaluated is not None:
        criteria = Criteria.of(fit.evaluated, fit.parameters, fixed)
    return FittedModel(
        fit.parameters,
        fit.statistics,
        ridge.entries,
        feature_names,
        tuple(dict(vars(read)) for read in reader.history),
        reader.n_reads,
        fit.reason,
        fit.converged,
        fit.n_iterations,
        fit.log_likelihood,
        tuple(fit.log_likelihoods),
        reader.is_hard,
        criteria,
        data=description_of(reader.source),
        provenance=provenance_of(reader.source),
    )


def _as_numbers(name: str, value: Any) -> Array | None:
    """Return a start as an array of numbers; None if it is not given."""
    if value is None:
        return None
    try:
        return np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ParameterError(f"{name} is not an array of real numbers: {error}") from None


class _RowCheck:
    """Compare the rows of a fit with its free parameters, as soon as their number is known.

    Parameters
    ----------
    model : GaussianMixture
    source : Source
        Rows are counted before anything is read, if none has a weight, or all weights are in
        memory.
    """

    def __init__(self, model: GaussianMixture, source: Source) -> None:
        self._model, self._source = model, source
        self._is_reported = False
        #: Rows, in units of weight; None as long as it is not known.
        self.weight: float | None = None
        weight: float | None = source.n_rows
        if isinstance(source, WeightedSource):
            weight = source.total_weight
        elif source.has_weights:
            weight = None
        if weight is not None:
            self.examine(weight)

    def examine(self, weight: float) -> None:
        """Warn, once, if there are fewer rows than free parameters."""
        self.weight = weight
        if not self._is_reported:
            self._is_reported = warn_of_few_rows(
                self._model, self._source.n_features, weight, self._source.has_weights
            )

    def before(self, listener: Listener) -> Listener:
        """Return a listener that looks at the survey first."""

        def listen(event: Event) -> None:
            if isinstance(event, SurveyDone):
                self.examine(event.weight)
            listener(event)

        return listen
