"""The estimator that chooses the number of components and the covariance structure."""

import math
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, Self, cast, get_args

import numpy as np
from numpy.typing import NDArray
from sklearn.base import DensityMixin
from sklearn.exceptions import ConvergenceWarning

from streamgmm.algorithms.batch.auto import survey_for_fit
from streamgmm.algorithms.batch.held_out import RowSplit
from streamgmm.algorithms.batch.sample_fit import Settings
from streamgmm.algorithms.batch.selection import Outcome, Selection
from streamgmm.algorithms.reads.reader import Reader, shared_work
from streamgmm.algorithms.sampling.row_sample import RowSample
from streamgmm.core.fit_objective import FitObjective
from streamgmm.core.noise import Noise, NoiseSetting
from streamgmm.core.objective import Objective
from streamgmm.core.parameters import count_parameters
from streamgmm.core.priors import PriorSetting, check_prior
from streamgmm.core.ridge import FitRidge, RegCovar, given_ridge
from streamgmm.core.structures import STRUCTURES, Array
from streamgmm.core.structures.low_rank import LOW_RANK_TYPE, public_type, structure_name
from streamgmm.errors import (
    DataError,
    DegenerateComponentWarning,
    FewRowsWarning,
    MemoryLimitError,
    MemoryLimitWarning,
    ParameterError,
)
from streamgmm.estimators.checkpoint_setting import CheckpointedMixin, check_resume
from streamgmm.estimators.condition import condition_of, warn
from streamgmm.estimators.data_types import PassRecord
from streamgmm.estimators.fingerprint import search_fingerprint
from streamgmm.estimators.fit_needs import FitNeeds, fitting
from streamgmm.estimators.gaussian_mixture import GaussianMixture, fitted_model, refuse_noise
from streamgmm.estimators.kept_samples import keep_sample
from streamgmm.estimators.numeric_limits import within_float64
from streamgmm.estimators.predictions import MixturePredictions
from streamgmm.estimators.records import to_record
from streamgmm.estimators.refusals import refuse_for_low_rank
from streamgmm.estimators.row_estimator import DataEstimator, FitPredictMixin
from streamgmm.estimators.validation import (
    Interval,
    StrOptions,
    check_is_fitted,
    check_settings,
)
from streamgmm.events import Event, Listener
from streamgmm.executors.blas import single_threaded_blas
from streamgmm.executors.select import open_executor, open_local_executor
from streamgmm.options import Arithmetic, CovarianceType, Criterion, ParameterName
from streamgmm.persistence import Record
from streamgmm.protocols import Executor, Source
from streamgmm.sources.sample import SampleSource

_MOST_BY_DEFAULT = 12
_VALUE = 8
if TYPE_CHECKING:
    pass

# Settings of a mixture that a search has too, with the same meaning and check.
_SHARED = (
    "tol",
    "reg_covar",
    "max_iter",
    "n_init",
    "init_params",
    "verbose",
    "verbose_interval",
    "arithmetic",
    "prior",
    "noise",
    "executor",
    "n_jobs",
    "memory_limit",
    "survey_part",
    "callbacks",
)


class GaussianMixtureSearch(
    CheckpointedMixin,
    MixturePredictions,
    DensityMixin,  # type: ignore[misc]
    FitPredictMixin,
    DataEstimator,
):
    """Choose the number of components and the covariance structure of a Gaussian mixture.

    One survey serves all candidates. Each is fitted to the surveyed sample in memory. Candidates
    whose forecast is worse than that of the best by more than three standard errors make no pass
    over the data. The others share every pass: each chunk is read once, and the statistics of all
    candidates are summed. A candidate that cannot win any more takes no further pass. The best
    mixture predicts and scores rows.

    Parameters
    ----------
    n_components : int or iterable of int, default=None
        Numbers of components to choose from; None for 1 to 12.
    covariance_type : str or iterable of str, default=("full", "diag")
        Covariance structures to choose from, as of :class:`GaussianMixture`.
    rank : int or iterable of int, default=None
        Ranks of the candidates of "low_rank" to choose from; one as of :class:`GaussianMixture`.
    criterion : {"bic", "aic", "icl", "held_out"}, default="bic"
        What decides. BIC answers how many Gaussians describe the density; its choice grows with
        the number of rows if clusters are not Gaussian. ICL answers how many clusters there are.
        The best mixture has the least of BIC, AIC or ICL. "held_out" chooses the mixture that
        predicts rows best that it was not fitted to: each candidate is also fitted without some
        rows, and the mean log-likelihood of these rows decides.
    held_out : float, default=0.1
        With ``criterion="held_out"`` about this part of the rows is held out. A hash of their
        positions chooses them, so it depends on ``random_state`` and on no chunks or threads.
    n_repeats : int, default=1
        Number of times that rows are held out, each time others as far as there are enough: 10
        times with ``held_out=0.1`` holds out each row once. All repeats share the passes over the
        data.
    random_state : int, RandomState instance or None, default=None
        Decides the sample and the starts.
    tol : float, default=1e-3
        Gain that may remain, in nats per row. A candidate converges further where ``tol`` of all
        rows is more than one parameter costs, ½ ln n nats.
    reg_covar, max_iter, n_init, init_params, verbose, verbose_interval, arithmetic, \
prior : as for :class:`GaussianMixture`
        Of each candidate; ``max_iter``, at least 1, bounds its passes.
    fixed : collection of {"weights"}, default=()
        With "weights" the components of each candidate have equal weights. Means and covariances
        cannot be held, because no values suit all numbers of components.
    noise, executor, n_jobs, memory_limit, survey_part : as for :class:`GaussianMixture`
        With ``noise`` all candidates have noise, with the same volume.
    checkpoint : path-like or URL, default=None
        Folder in which :meth:`fit` keeps what it finds, so that an interrupted search can
        continue; in the end also ``model.gmm``, the best mixture.
    checkpoint_interval : float, default=None
        As for :class:`GaussianMixture`.
    callbacks : callable or sequence of callables, default=()
        As for :class:`GaussianMixture`.

    Attributes
    ----------
    best_estimator_ : GaussianMixture
        Fitted to all rows.
    best_params_ : dict
        ``n_components`` and ``covariance_type`` of it, and of "low_rank" its ``rank``.
    best_index_ : int
        Its row in ``cv_results_``.
    best_score_ : float
        Its criterion, in its own sign: lower is better, but of "held_out" higher.
    cv_results_ : dict of ndarray
        A row for each candidate: ``param_n_components``, ``param_covariance_type``;
        ``log_likelihood``, in nats, and ``log_likelihood_std_error``, 0 where it is exact;
        ``n_parameters``, ``bic``, ``aic``, ``icl``, ``entropy``; ``held_out``, the mean
        log-likelihood of held-out rows in nats per row, and ``held_out_std_error``, both NaN with
        another criterion; ``predicted_remaining_gain`` of the log-likelihood, in nats, inf without
        a pass; ``smallest_component_rows``; ``degenerate``; ``resolved``, whether the difference
        from the best is larger than what both may still gain, than the error of a forecast, or
        than two standard errors of held-out rows; ``rank_criterion``, 1 for the best,
        the same last rank for all that are not eligible; ``status``: "complete", "stopped" after
        some passes because it could not win, or "pruned" on the sample; and ``param_rank``, the
        rank of the loadings, 0 for other types than "low_rank". Only complete rows
        hold exact values of converged fits; pruned rows hold forecasts. Structures that coincide,
        as all that are not tied do for one column, have one row.
    estimators_ : list of GaussianMixture
        One for each row; those of pruned candidates are fitted to the sample.
    n_reads_ : float
        Number of passes over the data.
    history_ : list of dict
        One entry for each pass, as of :class:`GaussianMixture`.
    n_features_in_ : int
    feature_names_in_ : ndarray of shape (n_features,)
        Only if the data had column names that are all strings.
    data_description_ : streamgmm.core.data_description.DataDescription
        Variables, columns, units and treatment of missing values of the data; by it predictions
        find the features of other data, and refuse other units.

    References
    ----------
    McLachlan & Peel (2000), Finite Mixture Models, chapter 6. Biernacki, Celeux & Govaert (2000),
    Assessing a mixture model for clustering with the integrated completed likelihood.

    Examples
    --------
    >>> import numpy as np
    >>> from streamgmm import GaussianMixtureSearch
    >>> X = np.random.default_rng(0).normal(size=(600, 2)) + [[0, 0], [8, 0], [0, 8]] * 200
    >>> search = GaussianMixtureSearch(range(1, 6), random_state=0).fit(X)
    >>> search.best_params_
    {'n_components': 3, 'covariance_type': 'diag'}
    """

    _parameter_constraints: dict[str, list[Any]] = {  # noqa: RUF012 - scikit-learn's own form
        "n_components": [Interval(Integral, 1, None, closed="left"), "array-like", range, None],
        "covariance_type": [str, "array-like"],
        "rank": [*GaussianMixture._parameter_constraints["rank"], "array-like", range],
        "criterion": [StrOptions(set(get_args(Criterion)))],
        "held_out": [Interval(Real, 0.0, 1.0, closed="neither")],
        "n_repeats": [Interval(Integral, 1, None, closed="left")],
        "random_state": ["random_state"],
        "fixed": ["array-like", set, frozenset, dict],
        **{
            name: GaussianMixture._parameter_constraints[name]
            for name in (*_SHARED, "checkpoint", "checkpoint_interval")
        },
        # Criteria come from passes over the data.
        "max_iter": [Interval(Integral, 1, None, closed="left")],
    }

    def __init__(
        self,
        n_components: int | Iterable[int] | None = None,
        *,
        covariance_type: CovarianceType | Iterable[CovarianceType] = ("full", "diag"),
        rank: int | Iterable[int] | None = None,
        criterion: Criterion = "bic",
        held_out: float = 0.1,
        n_repeats: int = 1,
        random_state: Any = None,
        tol: float = 1e-3,
        reg_covar: RegCovar = "auto",
        max_iter: int = 100,
        n_init: int = 1,
        init_params: str = "kmeans",
        verbose: int = 0,
        verbose_interval: int = 10,
        arithmetic: Arithmetic = "auto",
        prior: PriorSetting = None,
        fixed: Collection[ParameterName] = (),
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
        self.criterion = criterion
        self.held_out = held_out
        self.n_repeats = n_repeats
        self.random_state = random_state
        self.tol = tol
        self.reg_covar = reg_covar
        self.max_iter = max_iter
        self.n_init = n_init
        self.init_params = init_params
        self.verbose = verbose
        self.verbose_interval = verbose_interval
        self.arithmetic = arithmetic
        self.prior = prior
        self.fixed = fixed
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
        """Fit the candidates and choose the best.

        Parameters
        ----------
        X : array-like, path or Source of shape (n_samples, n_features)
            Anything that :func:`streamgmm.open` takes.
        y : Ignored
        sample_weight : array-like of shape (n_samples,) or str, default=None
            Row weights; a weight of 2 counts a row twice.
        resume : bool, default=False
            Whether to continue with what an interrupted call of the same settings and data left in
            ``checkpoint``; if there is nothing, the search begins.

        Returns
        -------
        self : GaussianMixtureSearch
            Of a search that continued, to the last bit that of one that was not interrupted.

        Raises
        ------
        DataError
            If the data cannot be used, or have fewer rows than every number of components.
        ParameterError
            If a setting is not valid, or there is no candidate.
        MemoryLimitError
            If not even the least number of components fits in the memory limit. Larger ones that
            do not fit are skipped, with a :class:`streamgmm.errors.MemoryLimitWarning`.
        CheckpointError
            If the checkpoint is there and not to be resumed, or is that of another search.
        OutputError
            If the checkpoint cannot be written.

        Examples
        --------
        >>> import numpy as np
        >>> from streamgmm import GaussianMixtureSearch
        >>> X = np.random.default_rng(0).normal(size=(400, 1)) + [[-9.0], [9.0]] * 200
        >>> search = GaussianMixtureSearch([1, 2], random_state=0).fit(X)
        >>> search.best_estimator_.n_components
        2
        """
        check_settings(self)
        check_resume(self.checkpoint, self.checkpoint_interval, resume)
        sizes, types = self._sizes(), self._types()
        source = self._open(X, sample_weight, reset=True)
        kinds = self._structures(types, source)
        for kind in kinds:
            check_prior(self.prior, kind, source.n_features)
        fixed = self._held()
        refuse_noise(self.noise, source, fixed)
        sizes = _possible_sizes(sizes, source, self.n_components is not None)
        with (
            fitting(self, source, kinds) as listener,
            open_executor(self.executor, source, self.n_jobs, self.memory_limit) as executor,
            open_local_executor(executor, self.n_jobs, self.memory_limit) as local,
            single_threaded_blas(),
            within_float64(),
        ):
            names = getattr(self, "feature_names_in_", None)
            noise = Noise.begun(self.noise)
            objectives = {
                kind: FitObjective(self._ridge(kind), fixed, self.prior, noise, names)
                for kind in kinds
            }
            sizes, needs, held = self._room(executor, source, sizes, kinds)
            distinct = _distinct(kinds, sizes, source.n_features)
            reader = Reader(source, executor, listener, self.arithmetic, driver_bytes=held)

            def open_rows(rows: Array, weights: Array, listener: Listener) -> Reader:
                sample = SampleSource(rows, weights, source.missing)
                return Reader(sample, local, listener, self.arithmetic, driver_bytes=held)

            with self._checkpointed(reader, sizes, kinds, resume) as random:
                n_parameters = needs.settings.n_parameters(source.n_features)
                survey = survey_for_fit(reader, sizes[-1], n_parameters, random, self.survey_part)
                sample = survey.sample
                for objective in objectives.values():
                    objective.settle(sample.rows, sample.weights)
                splits = self._splits(self._n_splits, random)
                _require_rows(splits, sample, source, sizes[-1])
                candidates = [
                    self._settings(k, kind, objectives[kind].known, objectives[kind].ridge.scales)
                    for kind, k in distinct
                ]
                selection = Selection(
                    reader,
                    open_rows,
                    survey,
                    self.criterion,
                    self.tol,
                    self.max_iter,
                    int(random.randint(2**31)),
                    needs.effort(executor.memory_limit),
                    splits,
                )
                outcomes = selection.run(candidates)
                self._keep(outcomes, reader, objectives)
                for model in self.estimators_:
                    keep_sample(model, sample, source.missing)
        return self

    def _checkpointed(
        self, reader: Reader, sizes: Sequence[int], kinds: Sequence[CovarianceType], resume: bool
    ) -> AbstractContextManager[np.random.RandomState]:
        """Return a context in which results of the search are kept; it gives the random state.

        The best mixture is written at the end.
        """

        def settings() -> Mapping[str, Any]:
            most_bytes = reader.executor.sample_bytes
            return search_fingerprint(self, reader.source, sizes, kinds, most_bytes)

        def final() -> Record:
            return to_record(self.best_estimator_)

        return self._open_checkpoint(reader, settings, None, final, resume)

    def _mixture(self) -> GaussianMixture:
        check_is_fitted(self)
        best: GaussianMixture = self.best_estimator_
        return best

    def _sizes(self) -> list[int]:
        """Return the numbers of components to choose from, in order, each once.

        Raises
        ------
        ParameterError
            If there is none, or one is not a positive integer.
        """
        given = range(1, _MOST_BY_DEFAULT + 1) if self.n_components is None else self.n_components
        sizes = list(given) if isinstance(given, Iterable) else [given]
        is_sound = [isinstance(k, Integral) and not isinstance(k, bool) and k >= 1 for k in sizes]
        if not sizes or not all(is_sound):
            raise ParameterError(
                f"n_components is {self.n_components!r}; give an int of at least 1, or several of "
                "them"
            )
        return sorted({int(k) for k in sizes})

    def _types(self) -> list[CovarianceType]:
        """Return the covariance structures to choose from, each once.

        Raises
        ------
        ParameterError
            If there is none, or one is unknown.
        """
        given: Any = self.covariance_type
        kinds: list[Any] = [given] if isinstance(given, str) else list(given)
        known = (*STRUCTURES, LOW_RANK_TYPE)
        unknown = [kind for kind in kinds if kind not in known]
        if not kinds or unknown:
            raise ParameterError(
                f"covariance_type is {self.covariance_type!r}; choose among "
                f"{', '.join(known)}, one or more"
            )
        return list(dict.fromkeys(kinds))

    def _held(self) -> frozenset[ParameterName]:
        """Return the parameters that are held: the weights, or none.

        Raises
        ------
        ParameterError
            If others are named.
        """
        names = set(self.fixed)
        if isinstance(self.fixed, Mapping) or not names <= {"weights"}:
            raise ParameterError(
                f"fixed is {self.fixed!r}; a search can hold equal weights, fixed=['weights']. "
                "Means, covariances and single components have no values that suit all numbers "
                "of components: use GaussianMixture for these"
            )
        return frozenset(self.fixed)

    def _structures(self, types: Sequence[CovarianceType], source: Source) -> list[CovarianceType]:
        """Return the names of the structures of some covariance types.

        Raises
        ------
        ParameterError
            If low rank does not support the settings, or the columns do not allow the rank.
        """
        ranks: list[Any] = [self.rank]
        if isinstance(self.rank, Iterable):
            ranks = list(dict.fromkeys(self.rank))
            if not ranks or not all(isinstance(rank, Integral) for rank in ranks):
                raise ParameterError(f"rank is {self.rank!r}; give one or more whole numbers")
        if LOW_RANK_TYPE in types:
            refuse_for_low_rank(self)
        elif self.rank is not None:
            structure_name(types[0], ranks[0], source.n_features)
        return [
            structure_name(kind, rank, source.n_features)
            for kind in types
            for rank in (ranks if kind == LOW_RANK_TYPE else [None])
        ]

    def _ridge(self, kind: CovarianceType) -> FitRidge:
        names = getattr(self, "feature_names_in_", None)
        return FitRidge(kind, given_ridge(self.reg_covar, kind, self.n_features_in_, names))

    @property
    def _n_splits(self) -> int:
        return self.n_repeats if self.criterion == "held_out" else 0

    def _room(
        self,
        executor: Executor,
        source: Source,
        sizes: Sequence[int],
        kinds: Sequence[CovarianceType],
    ) -> tuple[list[int], FitNeeds, int]:
        """Return the numbers of components that memory can hold; report the others.

        Returns
        -------
        sizes : list of int
        needs : FitNeeds
            Of the candidate with the most parameters.
        held : int
            Bytes that the fits take in the process that drives the work.

        Raises
        ------
        MemoryLimitError
            If not even the least number fits.
        """
        possible, skipped = list(sizes), ""
        while True:
            try:
                needs, held = self._needs(executor, source, possible, kinds)
                break
            except MemoryLimitError:
                if len(possible) == 1:
                    raise
                skipped = ", ".join(filter(None, [str(possible.pop()), skipped]))
        if skipped:
            warn(
                f"n_components {skipped} skipped: memory cannot hold them together with the "
                "others; raise memory_limit, or search among fewer candidates",
                MemoryLimitWarning,
            )
        return possible, needs, held

    def _needs(
        self,
        executor: Executor,
        source: Source,
        sizes: Sequence[int],
        kinds: Sequence[CovarianceType],
    ) -> tuple[FitNeeds, int]:
        """Return the memory of the largest candidate, and bytes that the fits of all take.

        Raises
        ------
        MemoryLimitError
            If they do not fit in the memory limit.
        """
        needs = FitNeeds(source, self._largest(sizes, kinds, source.n_features), is_plain=False)
        works = needs.works(executor.memory_limit)
        for work in works:
            executor.check_memory(source, work, needs.works)
        distinct = _distinct(kinds, sizes, source.n_features)
        shared = shared_work(source, distinct * (1 + self._n_splits))
        if self._n_splits:
            # Weights of the rows of a chunk, and whether they are held out.
            weights = 4 * _VALUE * int(max(np.diff(source.boundaries)))
            shared = replace(shared, thread=shared.thread + weights)
        # Each fit keeps its best statistics and those of its last step.
        held = max(work.driver for work in works[:2]) + 4 * shared.value
        executor.check_memory(source, replace(shared, driver=held))
        return needs, held

    def _largest(
        self, sizes: Sequence[int], kinds: Sequence[CovarianceType], n_features: int
    ) -> Settings:
        """Return the candidate with the most parameters."""

        def n_parameters(kind: CovarianceType) -> int:
            return count_parameters(STRUCTURES[kind], sizes[-1], n_features)

        kind = max(kinds, key=n_parameters)
        objective = Objective(fixed=self._held(), noise=Noise.begun(self.noise))
        return self._settings(sizes[-1], kind, objective)

    def _settings(
        self, k: int, kind: CovarianceType, objective: Objective, scales: Array | None = None
    ) -> Settings:
        return Settings(k, kind, self.init_params, objective, self.n_init, scales)

    def _splits(self, n_splits: int, random: np.random.RandomState) -> tuple[RowSplit, ...]:
        """Return the splits of the rows; none draw nothing from the random state."""
        if not n_splits:
            return ()
        seed = int(random.randint(2**31))
        return tuple(RowSplit(seed, float(self.held_out), number) for number in range(n_splits))

    def _keep(
        self,
        outcomes: Sequence[Outcome],
        reader: Reader,
        objectives: dict[CovarianceType, FitObjective],
    ) -> None:
        """Set the fitted attributes."""
        self.estimators_ = [
            self._estimator(one, reader, objectives[one.settings.covariance_type].ridge)
            for one in outcomes
        ]
        degenerate = np.array(
            [
                bool(_condition(model, one).components)
                for model, one in zip(self.estimators_, outcomes, strict=True)
            ]
        )
        self.cv_results_ = _table(outcomes, degenerate, self.criterion)
        self.best_index_ = int(np.argmin(self.cv_results_["rank_criterion"]))
        if degenerate[self.best_index_]:
            warn(
                "every candidate has degenerate components, so the best of all was chosen; give "
                "fewer components or simpler structures",
                DegenerateComponentWarning,
            )
        if not outcomes[self.best_index_].fit.converged:
            warn(
                f"the best mixture did not converge in {self.max_iter} passes; increase max_iter "
                "or tol",
                ConvergenceWarning,
            )
        best = outcomes[self.best_index_].settings
        for model in self.estimators_:
            model._has_names_of_pipeline = self._has_names_of_pipeline
        self.best_estimator_ = self.estimators_[self.best_index_]
        self.best_params_ = {
            "n_components": best.n_components,
            "covariance_type": public_type(best.covariance_type),
        }
        if hasattr(self.best_estimator_, "rank_"):
            self.best_params_["rank"] = self.best_estimator_.rank_
        self.best_score_ = float(self.cv_results_[self.criterion][self.best_index_])
        self.history_ = [cast(PassRecord, asdict(read)) for read in reader.history]
        self.n_reads_ = reader.n_reads

    def _estimator(self, one: Outcome, reader: Reader, ridge: FitRidge) -> GaussianMixture:
        """Return a candidate as a fitted model."""
        settings = {name: getattr(self, name) for name in (*_SHARED, "fixed")}
        names = getattr(self, "feature_names_in_", None)
        fitted = fitted_model(one.fit, reader, ridge, names, self._held())
        if public_type(one.settings.covariance_type) == LOW_RANK_TYPE:
            rank = STRUCTURES[one.settings.covariance_type].rank
            settings["rank"] = self.rank if self.rank is None else rank
        return GaussianMixture.from_fitted_model(fitted, random_state=self.random_state, **settings)


def _possible_sizes(sizes: Sequence[int], source: Source, is_chosen: bool) -> list[int]:
    """Return the numbers of components that the rows allow; report the others if chosen.

    Raises
    ------
    DataError
        If there is none.
    """
    possible = [k for k in sizes if k <= source.n_rows]
    if source.n_rows < 2 or not possible:
        raise DataError(
            "Expected n_samples >= n_components and a minimum of 2 is required, but got "
            f"n_components = {sizes[0]}, n_samples = {source.n_rows}"
        )
    if is_chosen and len(possible) < len(sizes):
        skipped = ", ".join(str(k) for k in sizes if k > source.n_rows)
        warn(
            f"n_components {skipped} skipped: the data have {source.n_rows} row(s)", FewRowsWarning
        )
    return possible


def _require_rows(
    splits: Sequence[RowSplit], sample: RowSample, source: Source, n_components: int
) -> None:
    """Refuse splits that leave too few rows to fit to, or to hold out.

    Raises
    ------
    DataError
    """
    for split in splits:
        n_fitted, n_held_out = map(len, split.of_sample(sample))
        if n_held_out < 2 or n_fitted < max(2, n_components):
            raise DataError(
                f"held_out = {split.part:g} leaves {n_fitted} row(s) of {source.name} to fit to "
                f"and {n_held_out} to hold out, among {len(sample)} that can be used; "
                f"{max(2, n_components)} and 2 are needed; give more rows, another held_out, fewer "
                "components or another criterion"
            )


def _distinct(
    kinds: Sequence[CovarianceType], sizes: Sequence[int], n_features: int
) -> list[tuple[CovarianceType, int]]:
    """Return the candidates, without those that are another one by another name."""
    found: dict[Any, tuple[CovarianceType, int]] = {}
    for kind in kinds:
        structure = STRUCTURES[kind]
        for k in sizes:
            # One column has one variance; one component shares its covariance with no other.
            is_shared = bool(structure.n_shared(n_features)) and k > 1
            size = structure.n_parameters(1, n_features)
            found.setdefault((k, is_shared, size, structure.rank), (kind, k))
    return list(found.values())


def _condition(model: GaussianMixture, one: Outcome) -> Any:
    statistics = one.fit.statistics
    counts = None if statistics is None else statistics.counts
    return condition_of(model, one.fit.parameters, counts, lost=one.fit.degenerate)


def _table(
    outcomes: Sequence[Outcome], degenerate: NDArray[np.bool_], criterion: Criterion
) -> dict[str, NDArray[Any]]:
    """Return the table of the candidates."""
    criteria = [one.criteria for one in outcomes]
    status = np.array([one.status for one in outcomes])
    held_out, errors = _held_out_columns(outcomes)
    # Value that is smallest for the best candidate.
    values = -held_out
    if criterion != "held_out":
        values = np.array([getattr(one, criterion) for one in criteria])
    is_eligible = (status == "complete") & ~degenerate
    if not is_eligible.any():
        is_eligible = status == "complete"
    ranks = np.full(len(outcomes), int(is_eligible.sum()) + 1)
    order = np.flatnonzero(is_eligible)[np.argsort(values[is_eligible], kind="stable")]
    ranks[order] = 1 + np.arange(len(order))
    best = order[0]
    remaining = np.array([one.remaining for one in outcomes])
    resolved = np.abs(values - values[best]) > 2.0 * (remaining + remaining[best])
    if criterion == "held_out":
        resolved = np.abs(values - values[best]) > 2.0 * np.array(
            [one.held_out.difference_errors[best] for one in outcomes if one.held_out is not None]
        )
    # A pruned candidate is worse by more than the errors of the forecasts.
    resolved |= status == "pruned"
    resolved[best] = True
    return {
        "param_n_components": np.array([one.settings.n_components for one in outcomes]),
        "param_covariance_type": np.array(
            [public_type(one.settings.covariance_type) for one in outcomes]
        ),
        "log_likelihood": np.array([one.log_likelihood for one in criteria]),
        "log_likelihood_std_error": np.array([one.std_error for one in outcomes]),
        "n_parameters": np.array([one.n_parameters for one in criteria]),
        "bic": np.array([one.bic for one in criteria]),
        "aic": np.array([one.aic for one in criteria]),
        "icl": np.array([one.icl for one in criteria]),
        "entropy": np.array([one.entropy for one in criteria]),
        "held_out": held_out,
        "held_out_std_error": errors,
        "predicted_remaining_gain": remaining,
        "smallest_component_rows": np.array([one.smallest for one in outcomes]),
        "degenerate": degenerate,
        "resolved": resolved,
        "rank_criterion": ranks,
        "status": status,
        "param_rank": np.array([STRUCTURES[one.settings.covariance_type].rank for one in outcomes]),
    }


def _held_out_columns(outcomes: Sequence[Outcome]) -> tuple[Array, Array]:
    """Return the mean log-likelihoods of held-out rows and their standard errors, NaN if none."""
    pairs = [
        (math.nan, math.nan)
        if one.held_out is None
        else (one.held_out.mean, one.held_out.std_error)
        for one in outcomes
    ]
    means, errors = np.array(pairs).T
    return means, errors
