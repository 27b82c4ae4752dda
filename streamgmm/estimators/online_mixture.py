"""The estimator for data that keep coming: learned batch by batch, never read again."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from itertools import chain
from numbers import Integral, Real
from typing import Any, Self, get_args

import numpy as np

from streamgmm.algorithms.batch.sample_fit import Informant, Search, Settings
from streamgmm.algorithms.reads.reader import Reader
from streamgmm.algorithms.sampling.initialization import Start
from streamgmm.algorithms.sampling.row_sample import RowSample, expected_shortfall
from streamgmm.algorithms.stream.stepwise_em import Schedule, Stepwise
from streamgmm.algorithms.stream.stream_state import Plan, Progress
from streamgmm.core.data_moments import DataMoments
from streamgmm.core.fit_objective import FitObjective
from streamgmm.core.fitted_model import FittedModel
from streamgmm.core.mixtures.merging import merge_mixtures, merging_loss
from streamgmm.core.objective import Objective
from streamgmm.core.parameters import Parameters, count_parameters
from streamgmm.core.priors import PriorSetting, check_prior, completed_prior
from streamgmm.core.ridge import FitRidge, RegCovar, given_ridge
from streamgmm.core.statistics import Statistics
from streamgmm.core.structures import STRUCTURES, Array
from streamgmm.core.structures.low_rank import LOW_RANK_TYPE
from streamgmm.core.structures.low_rank_factors import loadings_of, noise_variances_of
from streamgmm.errors import DataError, ParameterError
from streamgmm.estimators.base import MixtureEstimator
from streamgmm.estimators.condition import (
    condition_of,
    warn_of_condition,
    warn_of_few_rows,
    warn_of_skipped_rows,
)
from streamgmm.estimators.fit_needs import (
    StreamNeeds,
    fitting,
    log_effort,
    refuse_merging,
    search_effort,
)
from streamgmm.estimators.gaussian_mixture import GaussianMixture
from streamgmm.estimators.matrices import computed_matrices
from streamgmm.estimators.merging import fitted_part, fitted_parts, refuse_size
from streamgmm.estimators.numeric_limits import check_finite, within_float64
from streamgmm.estimators.online_records import to_online_record
from streamgmm.estimators.online_state import OnlineState
from streamgmm.estimators.row_estimator import listener_of, notified
from streamgmm.estimators.summary import with_description
from streamgmm.estimators.validation import (
    PRIOR_CONSTRAINTS,
    HasMethods,
    Interval,
    NotFittedError,
    StrOptions,
    check_random_state,
    check_settings,
)
from streamgmm.events import Event, Listener, SkippedRows
from streamgmm.executors.blas import single_threaded_blas
from streamgmm.executors.memory import parse_bytes
from streamgmm.executors.threads import ThreadExecutor
from streamgmm.options import CovarianceType, ExecutorName, InitParams, Missing
from streamgmm.persistence import Record
from streamgmm.protocols import Chunk, Source, chunks_of
from streamgmm.sources.open import is_stream
from streamgmm.sources.sample import SampleSource

# Rows of the first search: for each parameter, at least, and at most in bytes.
_ROWS_PER_PARAMETER, _FEWEST_ROWS, _MOST_BYTES = 20, 1 << 14, 32 << 20
# Number of rows up to which all rows count alike: at least, and as a multiple of the rows that a
# search uses.
_OFFSET, _OFFSET_SEARCHES = 65536.0, 4.0
# After a batch fit, all rows count alike up to this multiple of its rows.
_OFFSET_BATCHES = 2.0
# Gain that may remain on the searched rows, as a part of their loss from sampling.
_PART_OF_SHORTFALL = 0.01
# The memory is computed for the longest possible stream.
_ENDLESS = 2**62


class OnlineGaussianMixture(MixtureEstimator):
    """Gaussian mixture that learns rows as they come, in bounded time and memory.

    The first rows are buffered until there are enough to search for a mixture among them, as
    :class:`GaussianMixture` does. From then on each row is used once (stepwise EM). Up to rounding,
    the result does not depend on the division of the stream into batches.

    Parameters
    ----------
    n_components : int, default=1
        Number of components K.
    covariance_type : str, default="full"
        "full": each component has its own covariance matrix; "tied": all have the same one;
        "diag": each has a variance for each column; "spherical": each has one variance;
        "tied_diag" and "tied_spherical": all have the same variances, or the same one; "low_rank":
        each has loadings of a low rank and a noise variance for each column.
    rank : int, default=None
        With "low_rank" the number of columns of the loadings, as for :class:`GaussianMixture`.
    half_life : float, default=None
        Number of further rows after which a row has half its weight, for streams that change; None
        for streams that do not change.
    reg_covar : float, array-like of shape (n_features,) or "auto", default="auto"
        Added to the diagonal of covariances, in squared units of the data: one number for all
        columns, or one for each. With "auto" each column gets a millionth of its variance, but
        never more than 1e-6; the variance is that of a Gaussian with the interquartile range of
        the rows that are searched. The value of a search is kept until another search replaces
        the mixture: among the first ``init_size`` rows, or after a change of the stream.
        Components with one variance ("spherical") get the smallest.
    learning_decay : float, default=0.6
        Decay of the step size, between 0.5, exclusive, and 1: after n rows a step has the size
        that belongs to ``learning_offset`` (n / ``learning_offset``)^``learning_decay`` rows.
        Without a half-life, the model is made from the average of the later steps.
    learning_offset : float, default=None
        Number of rows up to which all rows count alike; None for 65536, or 4 ``init_size`` if that
        is more.
    init_size : int, default=None
        Number of rows that are buffered for the search; None for 20 per parameter, at least 16384,
        and at most 32 MiB or the half-life.
    n_init : int, default=1
        Number of restarts of a search, as for :class:`GaussianMixture`.
    init_params : {"kmeans", "k-means++", "random", "random_from_data"}, default="kmeans"
        Method of the starts; with "kmeans" that of the first restart.
    random_state : int, RandomState instance or None, default=None
        Decides the starts, and what :meth:`sample` draws.
    prior : None, "fraley-raftery", "chen-tan" or :class:`streamgmm.Prior`, default=None
        Prior of the means and covariances, as for :class:`GaussianMixture`. The values that it
        takes from the data come from the rows of the last search, and are then held; after
        :meth:`from_batch` and :meth:`merged` they come from the mixtures. A model with a prior of
        another class, which has a method ``pseudo_rows``, can learn but cannot be saved.
    verbose : int, default=0
        1 writes lines on the progress to standard error.
    verbose_interval : int, default=10
        As for :class:`GaussianMixture`.
    executor : "auto", "threads", "dask" or distributed.Client, default="auto"
        Where predictions are computed. Learning is done by the calling thread.
    n_jobs : int, default=None
        Local threads of searches and predictions; None for all cores.
    memory_limit : int or str, default=None
        Bytes that the process may hold ("4GiB"), as for :class:`GaussianMixture`. A stream whose
        largest search needs more is refused before its first row. None for most of what is free.
    callbacks : sequence of callables, default=()
        Called with each :class:`streamgmm.events.Event`, when what a call learned is kept.

    Attributes
    ----------
    weights_, means_, covariances_, precisions_, precisions_cholesky_ : ndarray
        As of :class:`GaussianMixture`, after all rows so far.
    loadings_, noise_variances_ : ndarray
    rank_ : int
        Only with "low_rank", as of :class:`GaussianMixture`.
    reg_covar_ : ndarray of shape (n_features,)
        The number that is added to the diagonal entry of each column; with "spherical" all are
        equal.
    n_samples_seen_ : float
        Rows so far, in units of weight.
    n_steps_ : int
        M-steps since the last search.
    history_ : list of dict
        Scores of rows before they were learned (``n_samples``, mean ``log_likelihood`` in nats per
        row), in the order of the stream. There are at most 1024 entries; the longer the stream is,
        the more rows each has.
    changes_ : list of float
        ``n_samples_seen_`` when the stream was found to have changed: scores had fallen by more
        than chance explains. The last 64. With a half-life, the next ``init_size`` rows are then
        searched for a new mixture, which replaces the old one if it explains them better.
    merging_loss_ : float
        Only of a merged model: the loss of merging, nats per row; see :meth:`merged`.
    skipped_rows_ : dict of str to int
        Rows so far that were not learned: "n_overflowing" because their squares overflow,
        "n_missing" for lack of values, "n_weightless" because their weight is 0.
    n_features_in_ : int
    feature_names_in_ : ndarray of shape (n_features,)
        Only if the data had column names that are all strings.
    data_description_ : streamgmm.core.data_description.DataDescription
        Variables, columns, units and treatment of missing values of the data; by it predictions
        find the features of other data, and refuse other units.

    See Also
    --------
    GaussianMixture : For stored data, which can be read again.

    References
    ----------
    Cappé & Moulines (2009), On-line expectation-maximization algorithm for latent data models.
    Liang & Klein (2009), Online EM for unsupervised models.
    Polyak & Juditsky (1992), Acceleration of stochastic approximation by averaging.

    Examples
    --------
    >>> import numpy as np
    >>> from streamgmm import OnlineGaussianMixture
    >>> random = np.random.default_rng(0)
    >>> og = OnlineGaussianMixture(n_components=2, random_state=0)
    >>> for _ in range(20):
    ...     rows = random.normal(size=(100, 1)) + random.choice([-5, 5], size=(100, 1))
    ...     og = og.partial_fit(rows)
    >>> np.sort(og.means_[:, 0]).round()
    array([-5.,  5.])
    >>> og.n_samples_seen_
    2000.0
    """

    _parameter_constraints: dict[str, list[Any]] = {  # noqa: RUF012 - scikit-learn's own form
        "n_components": [Interval(Integral, 1, None, closed="left")],
        "covariance_type": [StrOptions(STRUCTURES.keys()), StrOptions({LOW_RANK_TYPE})],
        "rank": [Interval(Integral, 0, None, closed="left"), None],
        "half_life": [Interval(Real, 0.0, None, closed="neither"), None],
        "reg_covar": [Interval(Real, 0.0, None, closed="left"), "array-like", StrOptions({"auto"})],
        "learning_decay": [Interval(Real, 0.5, 1.0, closed="right")],
        "learning_offset": [Interval(Real, 0.0, None, closed="neither"), None],
        "init_size": [Interval(Integral, 1, None, closed="left"), None],
        "n_init": [Interval(Integral, 1, None, closed="left")],
        "init_params": [StrOptions(set(get_args(InitParams)))],
        "random_state": ["random_state"],
        "prior": PRIOR_CONSTRAINTS,
        "verbose": ["verbose"],
        "verbose_interval": [Interval(Integral, 1, None, closed="left")],
        "executor": [StrOptions(set(get_args(ExecutorName))), HasMethods("scheduler_info")],
        "n_jobs": [Integral, None],
        "memory_limit": [Real, str, None],
        "callbacks": ["array-like", callable],
    }

    #: No parameter is held.
    fixed: tuple[str, ...] = ()
    #: All that the model continues from; saved with it.
    state_ = OnlineState()
    #: The parameters whose condition was examined last, and what was reported of them.
    _examined: Parameters | None = None
    _reported: frozenset[tuple[str, int]] = frozenset()
    #: Weights of the rows of a search that :meth:`_report_few_rows` has not examined.
    _searched: Array | None = None
    #: Whether it was reported that a search had fewer rows than free parameters.
    _has_reported_few_rows = False

    def __init__(
        self,
        n_components: int = 1,
        *,
        covariance_type: CovarianceType = "full",
        rank: int | None = None,
        half_life: float | None = None,
        reg_covar: RegCovar = "auto",
        learning_decay: float = 0.6,
        learning_offset: float | None = None,
        init_size: int | None = None,
        n_init: int = 1,
        init_params: str = "kmeans",
        random_state: Any = None,
        prior: PriorSetting = None,
        verbose: int = 0,
        verbose_interval: int = 10,
        executor: Any = "auto",
        n_jobs: int | None = None,
        memory_limit: int | str | None = None,
        callbacks: Sequence[Callable[[Event], None]] = (),
    ) -> None:
        self.n_components = n_components
        self.covariance_type = covariance_type
        self.rank = rank
        self.half_life = half_life
        self.reg_covar = reg_covar
        self.learning_decay = learning_decay
        self.learning_offset = learning_offset
        self.init_size = init_size
        self.n_init = n_init
        self.init_params = init_params
        self.random_state = random_state
        self.prior = prior
        self.verbose = verbose
        self.verbose_interval = verbose_interval
        self.executor = executor
        self.n_jobs = n_jobs
        self.memory_limit = memory_limit
        self.callbacks = callbacks

    @classmethod
    def from_batch(cls, model: GaussianMixture, **settings: Any) -> Self:
        """Continue from a batch fit: from its statistics, and the number of its rows.

        After a fit to N rows, the next N / 100 rows change the model by about a hundredth of the
        change that they would cause alone.

        Parameters
        ----------
        model : GaussianMixture
            Fitted.
        **settings
            Arguments of this class; what is not given is as in the model. With ``reg_covar="auto"``
            the model's ``reg_covar_`` stays in use.

        Returns
        -------
        OnlineGaussianMixture

        Raises
        ------
        ParameterError
            If the model has no statistics, having been converted or derived from another one.

        Examples
        --------
        >>> import numpy as np
        >>> from streamgmm import GaussianMixture, OnlineGaussianMixture
        >>> X = np.random.default_rng(0).normal(size=(100, 2))
        >>> gm = OnlineGaussianMixture.from_batch(GaussianMixture().fit(X))
        >>> gm.partial_fit(X + 1.0).means_.shape
        (1, 2)
        """
        fitted = fitted_part(model, "the model")
        online = cls._with_settings_of(model, settings)
        if online.n_components != model.n_components:
            raise ParameterError(
                f"n_components is {online.n_components}, but the model has {model.n_components}, "
                "with which it continues; merged([model], n_components=...) makes fewer of them"
            )
        objective = online._objective_after([model], [fitted])
        online._continue(fitted, objective, fitted.require_statistics("the model").weight)
        return online

    @classmethod
    def merged(
        cls, models: Iterable["GaussianMixture | OnlineGaussianMixture"], **settings: Any
    ) -> Self:
        """Continue from models that were trained separately, each on other rows.

        Statistics of equal components are added. Among the components of all models, the two that
        cost least to merge are merged, until ``n_components`` remain. So a component of only one
        model is kept as long as the number allows, and the order of the models does not matter.

        Parameters
        ----------
        models : iterable of GaussianMixture or OnlineGaussianMixture
            Fitted, from files too; of the same features and covariance type.
        **settings
            Arguments of this class; what is not given is as in the first model.
            ``n_components`` may be anything up to the number that the models have in all. With
            ``reg_covar="auto"`` each column gets the smallest of the models' ``reg_covar_``.

        Returns
        -------
        OnlineGaussianMixture
            Model of all rows that the models have learned. Its ``merging_loss_`` estimates the
            loss, in nats per row: the difference by which the components of all models before the
            merge explain rows drawn from them better. Near 0 the models agree. Otherwise more
            components are needed, or one of the models is poor or has learned few rows.

        Raises
        ------
        ParameterError
            If the models do not match, or one has no statistics because it was converted or
            derived from another one.
        MemoryLimitError
            If merging takes more than ``memory_limit``.

        References
        ----------
        Runnalls (2007), Kullback-Leibler approach to Gaussian mixture reduction.

        Examples
        --------
        >>> import numpy as np
        >>> from streamgmm import GaussianMixture, OnlineGaussianMixture
        >>> X = np.random.default_rng(0).normal(size=(2000, 1)) + [[-5], [5]] * 1000
        >>> halves = [GaussianMixture(2, random_state=0).fit(half) for half in (X[:1000], X[1000:])]
        >>> og = OnlineGaussianMixture.merged(halves)
        >>> np.sort(og.means_[:, 0]).round()
        array([-5.,  5.])
        >>> og.n_samples_seen_
        2000.0
        """
        chosen = _listed(models)
        parts = fitted_parts(chosen)
        online = cls._with_settings_of(chosen[0], settings)
        refuse_size(parts, online.n_components, "n_components" in settings)
        objective = online._objective_after(chosen, parts)
        if online.memory_limit is not None:
            refuse_merging(parts, online.memory_limit)
        with single_threaded_blas():
            fitted = merge_mixtures(parts, online.n_components, objective)
            loss = merging_loss(parts, fitted.parameters)
        n_rows = (
            getattr(model, "n_samples_seen_", part.require_statistics("a model").weight)
            for model, part in zip(chosen, parts, strict=True)
        )
        online._continue(fitted, objective, math.fsum(n_rows), loss)
        return online

    @classmethod
    def _with_settings_of(cls, model: MixtureEstimator, settings: Mapping[str, Any]) -> Self:
        """Return a model of the same columns, with settings of its own where they are given."""
        online = cls()
        known = model.get_params(deep=False)
        shared = {name: known[name] for name in online.get_params(deep=False) if name in known}
        online.set_params(**{**shared, **settings})
        check_settings(online)
        if online.covariance_type != model.covariance_type:
            raise ParameterError(
                f"covariance_type is {online.covariance_type!r}, but the model is "
                f"{model.covariance_type!r}; it cannot be chosen anew"
            )
        rank = model.fitted_model_.parameters.structure.rank
        if online.rank not in (None, rank):
            raise ParameterError(
                f"rank is {online.rank}, but the model has rank {rank}; it cannot be chosen anew"
            )
        online.n_features_in_ = model.n_features_in_
        if hasattr(model, "feature_names_in_"):
            online.feature_names_in_ = model.feature_names_in_
        if hasattr(model, "data_description_"):
            online.data_description_ = model.data_description_
        return online

    def _ridge_of(self, models: Sequence[MixtureEstimator]) -> Array:
        """Return the ridge that the setting gives, or for each column the models' smallest."""
        given = self._given_ridge()
        if given is not None:
            return given
        found = [model.reg_covar_ for model in models]
        smallest: Array = np.min(found, axis=0)
        return smallest

    def _objective_after(
        self, models: Sequence[MixtureEstimator], parts: Sequence[FittedModel]
    ) -> Objective:
        """Return the objective of a model that continues from others, by their mixtures."""
        structure = self._asked_structure(self.n_features_in_)
        check_prior(self.prior, structure, self.n_features_in_)
        prior = None
        if self.prior is not None:
            weighted = [
                (part.parameters, part.require_statistics("a model").weight) for part in parts
            ]
            prior = completed_prior(self.prior, DataMoments.of_mixtures(weighted))
        return Objective(self._ridge_of(models), prior=prior)

    def _given_ridge(self) -> Array | None:
        """Return the ridge that the setting gives; None for "auto"."""
        names = getattr(self, "feature_names_in_", None)
        structure = self._asked_structure(self.n_features_in_)
        return given_ridge(self.reg_covar, structure, self.n_features_in_, names)

    def _continue(
        self,
        fitted: FittedModel,
        objective: Objective,
        n_seen: float,
        merging_loss: float | None = None,
    ) -> None:
        """Continue from a mixture that was fitted to ``n_seen`` rows."""
        weight = fitted.require_statistics("the mixture").weight
        plan = self._plan(self.n_features_in_, _OFFSET_BATCHES * weight)
        progress = Progress.continued(plan, fitted, objective, n_seen)
        self.state_ = OnlineState(progress, merging_loss=merging_loss)
        self._report_condition()

    def to_batch(self, **settings: Any) -> GaussianMixture:
        """Return the present mixture as a fitted batch model.

        With ``warm_start=True`` its ``fit`` continues from this mixture, and refines it on all rows
        of the stream, if they have been stored.

        Parameters
        ----------
        **settings
            Arguments of :class:`GaussianMixture`; what is not given is as here.

        Returns
        -------
        GaussianMixture
            With the statistics that it would continue from; without passes in its history.

        Raises
        ------
        ParameterError
            If a setting is not valid, or is a number of components or a covariance type other
            than that of this model.

        Examples
        --------
        >>> import numpy as np
        >>> from streamgmm import OnlineGaussianMixture
        >>> X = np.random.default_rng(0).normal(size=(2000, 1)) + [[-5], [5]] * 1000
        >>> og = OnlineGaussianMixture(2, random_state=0)
        >>> for start in range(0, 2000, 100):
        ...     og = og.partial_fit(X[start : start + 100])
        >>> gm = og.to_batch(warm_start=True).fit(X)
        >>> bool(gm.score(X) >= og.score(X))
        True
        """
        fitted = replace(self.fitted_model_, history=())
        return GaussianMixture.from_fitted_model(fitted, **{**self._batch_settings(), **settings})

    def _as_batch(self, fitted: FittedModel) -> GaussianMixture:
        return GaussianMixture.from_fitted_model(fitted, **self._batch_settings())

    def _batch_settings(self) -> dict[str, Any]:
        """Return the settings that a batch model has too."""
        known = self.get_params(deep=False)
        return {name: known[name] for name in GaussianMixture().get_params() if name in known}

    def partial_fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Learn more rows.

        Parameters
        ----------
        X : array-like, path or Source of shape (n_samples, n_features)
            Anything that :func:`streamgmm.open` takes; read once, chunk by chunk. So it may also be
            an Arrow stream whose rows come once: a pyarrow.RecordBatchReader, or a relation of
            DuckDB.
        y : Ignored
        sample_weight : array-like of shape (n_samples,) or str, default=None
            Row weights; a weight of 2 counts a row twice.

        Returns
        -------
        self : OnlineGaussianMixture

        Raises
        ------
        DataError
            If the data cannot be used or have other columns than the rows before. Then none of
            their rows has been learned.
        ParameterError
            If a setting is not valid.

        Examples
        --------
        >>> import numpy as np
        >>> from streamgmm import OnlineGaussianMixture
        >>> gm = OnlineGaussianMixture(random_state=0)
        >>> for batch in np.random.default_rng(0).normal(size=(5, 100, 2)):
        ...     gm = gm.partial_fit(batch)
        >>> gm.n_samples_seen_
        500.0
        """
        progress = self.state_.progress
        if progress is not None and sample_weight is None and self._is_plain(X):
            n_rows = len(X)
            # For a few more rows only kernels run, and limiting the threads of BLAS would take as
            # long.
            with nullcontext() if progress.has_room(n_rows) else single_threaded_blas():
                return self._learn(progress, [Chunk(X, range(n_rows))], "error")
        if progress is None:
            check_settings(self)
        if is_stream(X):
            return self._learn_stream(X, sample_weight)
        source = self._open(X, sample_weight, reset=progress is None)
        return self.learn_chunks(source, chunks_of(source))

    def _learn_stream(self, stream: Any, sample_weight: Any) -> Self:
        """Learn the rows of an Arrow stream as they come: all of them or none."""
        if sample_weight is not None:
            raise ParameterError(
                "sample_weight is for a table, but X is an Arrow stream; learn each batch of it "
                "with its own weights, or give X as a table in memory"
            )
        from streamgmm.sources.arrow_stream import joined_chunks, tables_of

        tables = tables_of(stream)
        first = next(tables, None)
        if first is None:
            raise DataError(
                "X has 0 sample(s) while a minimum of 1 is required: the stream is empty, or its "
                "rows were taken before"
            )
        source = self._open(first, None, reset=self.state_.progress is None)
        return self.learn_chunks(source, joined_chunks(chain([first], tables)))

    def learn_chunks(self, source: Source, chunks: Iterable[Chunk]) -> Self:
        """Learn some chunks of a source: all of them or none.

        Parameters
        ----------
        source : Source
            Its columns are those of the rows before.
        chunks : iterable of Chunk
            In the order of learning.

        Returns
        -------
        self : OnlineGaussianMixture

        Raises
        ------
        DataError
            If a chunk cannot be used.

        Examples
        --------
        >>> import numpy as np
        >>> import streamgmm
        >>> source = streamgmm.open(np.random.default_rng(0).normal(size=(100, 2)))
        >>> gm = streamgmm.OnlineGaussianMixture(random_state=0)
        >>> gm.learn_chunks(source, [source.read(0)]).n_samples_seen_
        100.0
        """
        progress = self.state_.progress
        if progress is None:
            check_settings(self)
            self._remember_features(source)
            progress = self._start(source)
        with single_threaded_blas():
            return self._learn(progress, chunks, source.missing)

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Forget what was learned, and learn a whole stream.

        Parameters
        ----------
        X : iterator of batches; or array-like, path or Source of shape (n_samples, n_features)
            A batch is anything that :meth:`partial_fit` takes. An Arrow stream is an iterator of
            its record batches. What an iterator gave before it failed or was interrupted stays
            learned.
        y : Ignored
        sample_weight : array-like of shape (n_samples,) or str, default=None
            Row weights; not for an iterator.

        Returns
        -------
        self : OnlineGaussianMixture

        Raises
        ------
        DataError
            If the data cannot be used, or there are fewer rows than components.
        ParameterError
            If a setting is not valid.

        Examples
        --------
        >>> import numpy as np
        >>> from streamgmm import OnlineGaussianMixture
        >>> batches = np.random.default_rng(0).normal(size=(5, 100, 2))
        >>> OnlineGaussianMixture(random_state=0).fit(iter(batches)).means_.shape
        (1, 2)
        """
        check_settings(self)
        if is_stream(X) or isinstance(X, Iterator):
            if sample_weight is not None:
                raise ParameterError(
                    "sample_weight is for one table; of an iterator of batches give each its own: "
                    "streamgmm.open(batch, sample_weight=...)"
                )
            self._forget("state_")
            for batch in _batches(X):
                self.partial_fit(batch)
            self._require_fitted()
        else:
            source = self._open(X, sample_weight, reset=True)
            if source.n_rows < max(2, self.n_components):
                raise DataError(
                    "Expected n_samples >= n_components and a minimum of 2 is required, but got "
                    f"n_components = {self.n_components}, n_samples = {source.n_rows}"
                )
            self._forget()
            start = self._start(source)
            with single_threaded_blas():
                self._advance(start, chunks_of(source), source.missing)
            self.state_ = OnlineState(self.state_.progress)
            self._require_fitted()
            self._warn(start.skipped, source.n_rows)
        return self

    def _require_fitted(self) -> None:
        if not self.__sklearn_is_fitted__():
            raise DataError(
                "fewer rows that can be used, with a weight above zero, than "
                f"n_components = {self.n_components}"
            )

    @property
    def weights_(self) -> Array:
        """Weights of the components, (n_components,)."""
        return self._parameters().weights

    @property
    def means_(self) -> Array:
        """Means, (n_components, n_features)."""
        return self._parameters().means

    @property
    def covariances_(self) -> Array:
        """Covariances, in the shape of their type; those of low rank are computed each time."""
        return self._matrices("covariances_", lambda own: own.covariances)

    @property
    def precisions_(self) -> Array:
        """Inverse covariances, in the shape of these."""
        return self._matrices("precisions_", lambda own: own.precisions)

    @property
    def precisions_cholesky_(self) -> Array:
        """Upper factors U of the precisions, P = U Uᵀ."""
        return self._matrices("precisions_cholesky_", lambda own: own.precisions_cholesky)

    @property
    def loadings_(self) -> Array:
        """Only with "low_rank": loadings, (n_components, n_features, rank)."""
        return loadings_of(self._low_rank("loadings_").covariances)

    @property
    def noise_variances_(self) -> Array:
        """Only with "low_rank": noise variances, (n_components, n_features)."""
        return noise_variances_of(self._low_rank("noise_variances_").covariances)

    @property
    def rank_(self) -> int:
        """Only with "low_rank": the rank that is used."""
        return self._low_rank("rank_").structure.rank

    def _low_rank(self, name: str) -> Parameters:
        """Return the mixture; refuse an attribute that only low rank has."""
        if self.covariance_type != LOW_RANK_TYPE:
            raise AttributeError(
                f"{type(self).__name__} has {name} only with covariance_type='low_rank'"
            )
        return self._parameters()

    def _matrices(self, name: str, stored: Callable[[Parameters], Array]) -> Array:
        """Return an array of the mixture, as it is stored or, of low rank, as matrices."""
        parameters = self._parameters()
        if self.covariance_type == LOW_RANK_TYPE:
            return computed_matrices(name, parameters.covariances, self.memory_limit)
        return stored(parameters)

    @property
    def reg_covar_(self) -> Array:
        """Ridge that is added to the diagonal entry of each column, (n_features,)."""
        # Rows of a block that has not ended do not change it.
        model = self._begun.model or self._stepwise
        return np.full(self.n_features_in_, model.objective.reg_covar)

    @property
    def n_samples_seen_(self) -> float:
        """Rows so far, in units of weight."""
        return self._begun.n_seen_with_pending

    @property
    def n_steps_(self) -> int:
        """M-steps since the last search."""
        return self._stepwise.n_steps

    @property
    def history_(self) -> list[dict[str, float]]:
        """Scores of rows before they were learned."""
        return [
            {"n_samples": score.weight, "log_likelihood": score.mean}
            for score in self._current.record.all_entries
        ]

    @property
    def changes_(self) -> list[float]:
        """Rows seen when the stream was found to have changed."""
        return list(self._begun.changes)

    @property
    def skipped_rows_(self) -> dict[str, int]:
        """Rows that were not learned, by reason."""
        return asdict(self._current.skipped)

    @property
    def merging_loss_(self) -> float:
        """Loss of the merge that the model began with, nats per row."""
        if self.state_.merging_loss is None:
            raise AttributeError(f"this {type(self).__name__} does not come from merged models")
        return self.state_.merging_loss

    @property
    def fitted_model_(self) -> FittedModel:
        """The present mixture as a plain value."""
        return FittedModel(
            self._parameters(),
            self._statistics,
            self.reg_covar_,
            getattr(self, "feature_names_in_", None),
            tuple(self.history_),
            n_iterations=self.n_steps_,
            data=getattr(self, "data_description_", None),
        )

    def __sklearn_is_fitted__(self) -> bool:
        progress = self.state_.progress
        return progress is not None and progress.model is not None

    @property
    def _begun(self) -> Progress:
        if self.state_.progress is None:
            raise NotFittedError(f"this {type(self).__name__} has learned nothing yet")
        return self.state_.progress

    @property
    def _current(self) -> Progress:
        """State after all rows so far, with those of the block that has not ended."""
        with single_threaded_blas(), within_float64():
            return self._begun.provisional

    @property
    def _stepwise(self) -> Stepwise:
        progress = self._current
        if progress.model is None:
            raise NotFittedError(
                f"this {type(self).__name__} has seen {progress.n_seen:g} row(s), too few for a "
                f"mixture of {self.n_components} component(s): give it "
                f"{progress.plan.fewest_rows} or more by partial_fit"
            )
        return progress.model

    def _parameters(self) -> Parameters:
        with single_threaded_blas(), within_float64():
            return self._stepwise.estimate

    @property
    def _statistics(self) -> Statistics:
        with single_threaded_blas(), within_float64():
            return self._stepwise.basis

    def _is_plain(self, X: Any) -> bool:
        """Return whether X is known to be a batch, as rows before it were, without validation."""
        return (
            type(X) is np.ndarray
            and X.dtype in (np.float64, np.float32)
            and X.ndim == 2
            and len(X) > 0
            and X.shape[1] == self.n_features_in_
            and not hasattr(self, "feature_names_in_")
        )

    def _start(self, source: Source) -> Progress:
        # An error is raised before any row is buffered.
        self._given_ridge()
        structure = self._asked_structure(source.n_features)
        check_prior(self.prior, structure, source.n_features)
        plan = self._plan(source.n_features)
        if self.memory_limit is not None:
            with (
                fitting(self, source, [structure]),
                ThreadExecutor(self.n_jobs, self.memory_limit) as local,
            ):
                # What a search needs does not depend on the ridge.
                settings = self._settings(source.n_features, Objective())
                needs = StreamNeeds(source, settings, plan.init_size)
                for work in needs.works(parse_bytes(self.memory_limit)):
                    local.check_memory(source, work, needs.works)
        return Progress.start(plan)

    def _plan(self, n_features: int, offset: float = 0.0) -> Plan:
        k = self.n_components
        structure = STRUCTURES[self._asked_structure(n_features)]
        n_parameters = count_parameters(structure, k, n_features)
        size = self.init_size
        if size is None:
            size = max(_FEWEST_ROWS, _ROWS_PER_PARAMETER * n_parameters)
            size = min(size, max(_FEWEST_ROWS, _MOST_BYTES // (8 * n_features)))
            if self.half_life is not None:
                size = min(size, math.ceil(self.half_life))
        size = max(int(size), k, 2)
        if self.learning_offset is not None:
            offset = max(offset, float(self.learning_offset))
        else:
            offset = max(offset, _OFFSET, _OFFSET_SEARCHES * size)
        half_life = None if self.half_life is None else float(self.half_life)
        schedule = Schedule(offset, float(self.learning_decay), half_life)
        seed = int(check_random_state(self.random_state).randint(2**31 - 2**16))
        return Plan(k, schedule, size, seed)

    def _learn(self, progress: Progress, chunks: Iterable[Chunk], missing: Missing) -> Self:
        """Learn chunks: all of them or none."""
        before = progress.skipped
        n_rows = self._advance(progress, chunks, missing)
        self._warn(before, n_rows)
        return self

    def _advance(self, progress: Progress, chunks: Iterable[Chunk], missing: Missing) -> int:
        """Learn chunks, and return how many rows they have."""
        events: list[Event] = []
        n_rows = 0
        with within_float64():
            for chunk in chunks:
                progress = progress.learned(chunk, missing, self._search, events.append)
                n_rows += len(chunk.rows)
        model = progress.model
        if model is not None and model.parameters is not self._examined:
            check_finite(model.parameters)
        self.state_ = replace(self.state_, progress=progress)
        if events:
            notify = listener_of(self)
            for event in events:
                notify(event)
        return n_rows

    def _warn(self, before: SkippedRows, n_rows: int) -> None:
        """Warn of rows that were skipped and of the condition of the mixture, if it is another."""
        progress = self._begun
        if progress.skipped != before:
            warn_of_skipped_rows(progress.skipped - before, n_rows)
        if progress.model is not None and progress.model.parameters is not self._examined:
            self._report_few_rows()
            self._report_condition()

    def _report_few_rows(self) -> None:
        """Warn once if a mixture was found among fewer rows than it has parameters.

        Until the last of the first searches, these are all rows so far.
        """
        weights, self._searched = self._searched, None
        if weights is None or self._has_reported_few_rows:
            return
        weight = float(weights.sum())
        if self._begun.held is not None:
            weight = max(weight, self._begun.n_seen)
        is_weighted = bool(np.any(weights != 1.0))
        self._has_reported_few_rows = warn_of_few_rows(
            self, self.n_features_in_, weight, is_weighted
        )

    def _report_condition(self) -> None:
        """Warn of components and columns of which little is known, after a search or a step.

        What was reported is not repeated until something is added to it.
        """
        model = self._begun.model
        if model is None:
            return
        self._examined = model.parameters
        condition = condition_of(self, model.parameters, model.total.counts)
        is_new = not condition.findings <= self._reported
        # Components of a new search have other numbers.
        known = frozenset() if model.n_steps == 0 else self._reported
        self._reported = known | condition.findings
        if is_new:
            warn_of_condition(condition, self)

    def _forget(self, *names: str) -> None:
        """Delete what was kept of rows before, and what was reported of them."""
        for name in ("_examined", "_reported", "_searched", "_has_reported_few_rows", *names):
            self.__dict__.pop(name, None)

    def _settings(
        self, n_features: int, objective: Objective, scales: Array | None = None
    ) -> Settings:
        """Return what is searched for, and how."""
        return Settings(
            self.n_components,
            self._asked_structure(n_features),
            self.init_params,
            objective,
            self.n_init,
            scales,
        )

    def _search(self, rows: Array, weights: Array, seed: int) -> tuple[Parameters, Objective]:
        """Return a mixture for rows in memory, and its objective."""
        self._searched = weights
        missing: Missing = "em" if np.isnan(rows).any() else "error"
        n_rows, n_features = rows.shape
        ridge = FitRidge(self._asked_structure(n_features), self._given_ridge())
        objective = FitObjective(ridge, prior=self.prior).settle(rows, weights)
        settings = self._settings(n_features, objective, ridge.scales)
        n_parameters = settings.n_parameters(n_features)
        sample = RowSample(
            np.arange(n_rows),
            np.zeros(n_rows, dtype=np.uint64),
            rows,
            weights,
            np.zeros(n_rows, dtype=np.bool_),
        )
        with (
            notified(self) as listener,
            ThreadExecutor(self.n_jobs, self.memory_limit, is_checked=True) as local,
        ):
            effort, held = search_effort(settings, rows, local.memory_limit)
            log_effort(effort)
            most_bytes = local.sample_bytes // effort.informing_part

            def open_rows(rows: Array, weights: Array, listener: Listener) -> Reader:
                sample = SampleSource(rows, weights, missing)
                return Reader(sample, local, listener, driver_bytes=held)

            search = Search(
                open_rows,
                settings,
                Start(),
                Informant.among(rows, weights, n_parameters, most_bytes),
                np.random.RandomState(seed),
                open_rows(rows, weights, listener),
                effort,
            )
            tol = _PART_OF_SHORTFALL * expected_shortfall(_ENDLESS, n_rows, n_parameters)
            return search.run(sample, tol), objective

    def _html_repr(self) -> str:
        page: str = super()._html_repr()
        is_fitted = self.__sklearn_is_fitted__()
        return with_description(page, self.fitted_model_) if is_fitted else page

    def _record(self) -> Record:
        if self.state_.progress is None:
            check_settings(self)
        return to_online_record(self)


def _batches(stream: Any) -> Iterator[Any]:
    """Return an iterator over the batches of a stream."""
    if not is_stream(stream):
        return iter(stream)
    from streamgmm.sources.arrow_stream import batches_of

    return batches_of(stream)


def _listed(models: Any) -> list[Any]:
    """Return models as a list, or refuse what is not several."""
    if not isinstance(models, Iterable):
        raise ParameterError(f"models is {models!r}; give a list of fitted models")
    return list(models)
