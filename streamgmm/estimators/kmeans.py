"""K-means for data of any size: scikit-learn's KMeans over every source."""

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, Self, cast, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import ClassNamePrefixFeaturesOutMixin, ClusterMixin, TransformerMixin
from sklearn.exceptions import ConvergenceWarning

from streamgmm.algorithms.batch.em import Fit
from streamgmm.algorithms.batch.lloyd import (
    Clustering,
    Metric,
    cluster_sample_size,
    lloyd,
    sample_for_clusters,
    search_bytes,
    search_centres,
    seeder,
)
from streamgmm.algorithms.reads import prediction
from streamgmm.algorithms.reads.reader import Reader, statistics_work
from streamgmm.algorithms.sampling.row_sample import RowSample
from streamgmm.core.e_step import scratch_bytes
from streamgmm.core.fitted_model import FittedModel
from streamgmm.core.parameters import Parameters
from streamgmm.core.structures import Array
from streamgmm.errors import DataError, ParameterError
from streamgmm.estimators.checkpoint_setting import CheckpointedMixin, check_resume
from streamgmm.estimators.condition import warn, warn_of_skipped_rows
from streamgmm.estimators.data_types import InMemory, OutputPath, PandasFrame, PassRecord
from streamgmm.estimators.fingerprint import clustering_fingerprint
from streamgmm.estimators.fit_needs import fitting
from streamgmm.estimators.gaussian_mixture import GaussianMixture
from streamgmm.estimators.numeric_limits import within_float64
from streamgmm.estimators.outputs import labels_output, numbers_output
from streamgmm.estimators.records import to_record
from streamgmm.estimators.row_estimator import FitPredictMixin, RowEstimator
from streamgmm.estimators.validation import (
    HasMethods,
    Interval,
    StrOptions,
    check_is_fitted,
    check_random_state,
    check_settings,
)
from streamgmm.events import Event, FitStarted, Listener, SkippedRows
from streamgmm.executors.blas import single_threaded_blas
from streamgmm.executors.select import open_executor, open_local_executor
from streamgmm.executors.threads import ThreadExecutor
from streamgmm.persistence import Record
from streamgmm.protocols import LazySource, Source, Work, data_bytes
from streamgmm.sources.sample import SampleSource

if TYPE_CHECKING:
    import pandas as pd

# Short runs of a search.
_RUNS = 9


class KMeans(
    CheckpointedMixin,
    FitPredictMixin,
    ClassNamePrefixFeaturesOutMixin,  # type: ignore[misc]
    TransformerMixin,  # type: ignore[misc]
    ClusterMixin,  # type: ignore[misc]
    RowEstimator,
):
    """Clusters around means, found by Lloyd's algorithm in data of any size.

    Arguments, attributes and their meanings are those of :class:`sklearn.cluster.KMeans` wherever
    it has them. Data may be an array, or anything that :func:`streamgmm.open` reads chunk by chunk.
    The model is the limit of a Gaussian mixture with equal weights and one small variance: each row
    belongs to its nearest centre. Each iteration reads all rows once; a search on a sample in
    memory keeps the iterations few.

    Parameters
    ----------
    n_clusters : int, default=8
        Number of clusters K.
    init : {"k-means++", "random"}, callable or array-like of shape (n_clusters, n_features), \
default="k-means++"
        Where the search on the sample begins: greedy k-means++, or rows drawn at random. Lloyd's
        algorithm on all rows begins at given centres, or those that a callable returns, without a
        search. A callable takes rows (a sample of the data), ``n_clusters`` and a ``RandomState``.
    n_init : "auto" or int, default="auto"
        Number of runs on the sample, of which the best three are improved; "auto" is 9. Passes
        over all rows are made for one start only.
    max_iter : int, default=300
        Largest number of iterations over all rows.
    tol : float, default=1e-4
        The iterations end when the sum of the squared shifts of the centres is at most this part of
        the mean variance of the columns, rows counted by their weights. They always end when no
        row is assigned to another centre.
    random_state : int, RandomState instance or None, default=None
        Decides the sample and the starts.
    executor : "auto", "threads", "dask" or distributed.Client, default="auto"
        Where chunks are computed; as for :class:`streamgmm.GaussianMixture`.
    n_jobs : int, default=None
        Local threads; None for all cores.
    memory_limit : int or str, default=None
        Bytes that the process may hold ("4GiB"). A fit that needs more is refused before its first
        pass.
    checkpoint : path-like or URL, default=None
        Folder in which :meth:`fit` keeps what it finds, so that an interrupted fit can continue.
        ``model.gmm`` in it holds the clusters so far as a spherical mixture.
    callbacks : sequence of callables, default=()
        Called with each :class:`streamgmm.events.Event` of a fit. Log-likelihoods in events are
        negative mean squared distances, in a unit that the fit chooses.
    verbose : int, default=0
        1 writes a line for each pass over the data to standard error.

    Attributes
    ----------
    cluster_centers_ : ndarray of shape (n_clusters, n_features)
    labels_ : ndarray of shape (n_samples,), int64
        Cluster of each row; only for data in memory. :meth:`predict` labels all others.
    inertia_ : float
        Sum of squared distances of rows to their nearest centre, times their weights.
    n_iter_ : int
        Iterations over all rows.
    n_reads_ : float
        Passes over the data, parts of them as fractions.
    history_ : list of dict
        One entry per pass; the keys are the fields of :class:`streamgmm.events.ReadDone`.
    n_features_in_ : int
    feature_names_in_ : ndarray of shape (n_features,)
        Only if the data had column names that are all strings.
    data_description_ : streamgmm.core.data_description.DataDescription
        Variables, columns, units and treatment of missing values of the data; by it predictions
        find the features of other data, and refuse other units.

    See Also
    --------
    sklearn.cluster.KMeans : The same for arrays in memory.

    Notes
    -----
    A centre that loses all rows moves to the row that is farthest from its own centre, as in
    scikit-learn; this takes one more pass.

    References
    ----------
    Lloyd (1982), Least squares quantization in PCM.
    Arthur & Vassilvitskii (2007), k-means++: the advantages of careful seeding.
    Celeux & Govaert (1992), A classification EM algorithm for clustering and two stochastic
    versions.

    Examples
    --------
    >>> import numpy as np
    >>> from streamgmm import KMeans
    >>> X = np.array([[1.0, 2], [1, 4], [1, 0], [10, 2], [10, 4], [10, 0]])
    >>> kmeans = KMeans(n_clusters=2, random_state=0).fit(X)
    >>> kmeans.cluster_centers_[np.argsort(kmeans.cluster_centers_[:, 0])]
    array([[ 1.,  2.],
           [10.,  2.]])
    >>> kmeans.inertia_
    16.0
    """

    _parameter_constraints: dict[str, list[Any]] = {  # noqa: RUF012 - scikit-learn's own form
        "n_clusters": [Interval(Integral, 1, None, closed="left")],
        "init": [StrOptions({"k-means++", "random"}), callable, "array-like"],
        "n_init": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "tol": [Interval(Real, 0.0, None, closed="left")],
        "random_state": ["random_state"],
        "executor": [StrOptions({"auto", "threads", "dask"}), HasMethods("scheduler_info")],
        "n_jobs": [Integral, None],
        "memory_limit": [Real, str, None],
        "checkpoint": [str, os.PathLike, None],
        "callbacks": ["array-like", callable],
        "verbose": ["verbose"],
    }

    def __init__(
        self,
        n_clusters: int = 8,
        *,
        init: str | Callable[..., ArrayLike] | ArrayLike = "k-means++",
        n_init: str | int = "auto",
        max_iter: int = 300,
        tol: float = 1e-4,
        random_state: Any = None,
        executor: Any = "auto",
        n_jobs: int | None = None,
        memory_limit: int | str | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
        callbacks: Sequence[Callable[[Event], None]] = (),
        verbose: int = 0,
    ) -> None:
        self.n_clusters = n_clusters
        self.init = init
        self.n_init = n_init
        self.max_iter = max_iter
        self.tol = tol
        self.random_state = random_state
        self.executor = executor
        self.n_jobs = n_jobs
        self.memory_limit = memory_limit
        self.checkpoint = checkpoint
        self.callbacks = callbacks
        self.verbose = verbose

    def fit(
        self, X: Any, y: Any = None, sample_weight: Any = None, *, resume: bool = False
    ) -> Self:
        """Find the clusters.

        Parameters
        ----------
        X : array-like, path or Source of shape (n_samples, n_features)
            Anything that :func:`streamgmm.open` takes.
        y : Ignored
        sample_weight : array-like of shape (n_samples,) or str, default=None
            Row weights; a weight of 2 counts a row twice.
        resume : bool, default=False
            Whether to continue with what an interrupted call of the same settings and data left in
            ``checkpoint``; if there is nothing, the fit begins.

        Returns
        -------
        self : KMeans

        Raises
        ------
        DataError
            If the data cannot be used: NaN, infinity, wrong shape or type, too few rows.
        ParameterError
            If a setting is not valid.
        MemoryLimitError
            If the fit does not fit in the memory limit.
        CheckpointError
            If the checkpoint is there and not to be resumed, or is that of another fit.
        OutputError
            If the checkpoint cannot be written.

        Examples
        --------
        >>> import numpy as np
        >>> from streamgmm import KMeans
        >>> X = np.array([[0.0], [1], [9], [10]])
        >>> KMeans(2, random_state=0).fit(X).cluster_centers_
        array([[0.5],
               [9.5]])
        """
        check_settings(self)
        check_resume(self.checkpoint, None, resume)
        source = self._opened(X, sample_weight, reset=True)
        given = self._given_centres(source.n_features)
        with (
            self._reading(source) as (reader, local, work),
            self._checkpointed(reader, resume) as random,
        ):
            reader.notify(self._size(source, work))
            found, metric = self._clustered(reader, local, given, random)
            self._keep(found, metric, reader)
        self._counts = found.counts
        if source.read_bytes == 0 and not isinstance(source, LazySource):
            self.labels_ = self._labels_of(source)
        n_overflowing = max((read["n_overflowing"] for read in self.history_), default=0)
        warn_of_skipped_rows(SkippedRows(n_overflowing), source.n_rows)
        n_used = int(np.count_nonzero(found.counts))
        if n_used < self.n_clusters:
            warn(
                f"only {n_used} of {self.n_clusters} clusters have rows; reduce n_clusters, or "
                "increase max_iter",
                ConvergenceWarning,
            )
        return self

    def partial_fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Move the centres by a batch of rows of a stream.

        The first batch is searched for centres. Each batch then moves a centre to the mean of all
        rows that were ever assigned to it, by weights (MacQueen's rule, by batches). After
        :meth:`fit` the stream continues from its clusters.

        Parameters
        ----------
        X : array-like, path or Source of shape (n_samples, n_features)
            The first batch needs as many rows as there are clusters.
        y : Ignored
        sample_weight : array-like of shape (n_samples,) or str, default=None

        Returns
        -------
        self : KMeans
            ``inertia_`` is that of the batch, with the centres before it.

        Raises
        ------
        DataError
            If the data cannot be used.
        ParameterError
            If a setting is not valid.

        References
        ----------
        MacQueen (1967), Some methods for classification and analysis of multivariate observations.
        Sculley (2010), Web-scale k-means clustering.

        Examples
        --------
        >>> import numpy as np
        >>> from streamgmm import KMeans
        >>> X = np.array([[0.0], [1], [9], [10]])
        >>> km = KMeans(2, random_state=0).partial_fit(X)
        >>> km.partial_fit([[2.0], [8.0]]).cluster_centers_
        array([[1.],
               [9.]])
        """
        check_settings(self)
        is_first = not hasattr(self, "cluster_centers_")
        source = self._opened(X, sample_weight, reset=is_first, fewest=self.n_clusters * is_first)
        given = self._given_centres(source.n_features)
        with self._reading(source) as (reader, local, _):
            if is_first:
                random = check_random_state(self.random_state)
                centres, self._metric = self._start(reader, local, given, random)
                self._counts = np.zeros(self.n_clusters)
                self.n_iter_ = 0
            else:
                centres = self._centres()
            reader.log_offsets = self._metric.offsets_of(centres)
            found = reader.statistics(
                "batch", self._metric.parameters(centres), frame=self._metric.frame
            )
        means, _ = self._metric.means(found, centres)
        total = self._counts + found.counts
        share = found.counts / np.where(total > 0.0, total, 1.0)
        self.inertia_ = self._metric.inertia(found, centres)
        self.cluster_centers_ = centres + share[:, np.newaxis] * (means - centres)
        self._counts = total
        self.n_iter_ += 1
        self.__dict__.pop("labels_", None)
        return self

    @overload
    def predict(self, X: Any, *, out: OutputPath, resume: bool = False) -> OutputPath: ...

    @overload
    def predict(self, X: InMemory, *, resume: bool = False) -> NDArray[np.int64]: ...

    @overload
    def predict(self, X: PandasFrame, *, resume: bool = False) -> "pd.Series[int]": ...

    @overload
    def predict(self, X: Any, *, out: None = None, resume: bool = False) -> Any: ...

    def predict(
        self,
        X: Any,
        *,
        out: str | os.PathLike[str] | None = None,
        resume: bool = False,
        dtype: Any = None,
    ) -> Any:
        """Return the number of the nearest centre of each row.

        Parameters
        ----------
        X : array-like, path or Source of shape (n_samples, n_features)
        out : path-like, default=None
            A ``.npy`` or ``.zarr`` path to write to, chunk by chunk; needed if X is a path. Of
            labelled data also as for :meth:`GaussianMixture.predict`; the variable is ``cluster``.
        resume : bool, default=False
            Whether to continue with what an interrupted call of the same model and data left.
        dtype : dtype-like, default=None
            A signed integer type for the labels. By default int64 in memory, and at a path the
            smallest one that holds them.

        Returns
        -------
        labels : ndarray or lazy dask.array.Array of shape (n_samples,), or the path ``out``
            Of a data frame a Series of its library, of xarray data a DataArray. -1 for rows with
            NaN of data that were opened with ``missing="drop"``.

        Raises
        ------
        DataError
            If the data cannot be used or have other columns than those fitted.
        OutputError
            If ``out`` cannot be written.

        Examples
        --------
        >>> import numpy as np
        >>> from streamgmm import KMeans
        >>> X = np.array([[0.0], [1], [9], [10]])
        >>> KMeans(2, random_state=0).fit(X).predict([[3.0], [8.0]])
        array([0, 1])
        """
        check_is_fitted(self)
        source = self._opened(X, None, reset=False, fewest=0)
        question, output = self._question(source), labels_output("cluster", self.n_clusters, dtype)
        return self._map_rows(X, source, prediction.nearest, question, output, out, resume)

    @overload
    def transform(self, X: Any, *, out: OutputPath, resume: bool = False) -> OutputPath: ...

    @overload
    def transform(self, X: InMemory, *, resume: bool = False) -> NDArray[Any]: ...

    @overload
    def transform(self, X: PandasFrame, *, resume: bool = False) -> "pd.DataFrame": ...

    @overload
    def transform(self, X: Any, *, out: None = None, resume: bool = False) -> Any: ...

    def transform(
        self,
        X: Any,
        *,
        out: str | os.PathLike[str] | None = None,
        resume: bool = False,
        dtype: Any = None,
    ) -> Any:
        """Return the distance of each row to each centre.

        Parameters
        ----------
        X : array-like, path or Source of shape (n_samples, n_features)
        out : path-like, default=None
            As for :meth:`predict`.
        resume : bool, default=False
            As for :meth:`predict`.
        dtype : dtype-like, default=None
            float32 or float64; by default the type of the data if that is floating.

        Returns
        -------
        distances : ndarray or lazy dask.array.Array of shape (n_samples, n_clusters), or the path \
``out``
            In the type of the data if that is floating.

        Raises
        ------
        DataError
            If the data cannot be used or have other columns than those fitted.
        OutputError
            If ``out`` cannot be written.

        Examples
        --------
        >>> import numpy as np
        >>> from streamgmm import KMeans
        >>> X = np.array([[0.0], [1], [9], [10]])
        >>> KMeans(2, random_state=0).fit(X).transform([[3.0]])
        array([[2.5, 6.5]])
        """
        check_is_fitted(self)
        source = self._opened(X, None, reset=False, fewest=0)
        output = numbers_output(
            "distance",
            {"long_name": "distance to the centre of each cluster"},
            dtype,
            prediction.imputed_type(source.dtype),
            "cluster",
            self.n_clusters,
        )
        question = self._question(source)
        return self._map_rows(X, source, prediction.distances, question, output, out, resume)

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """Return the negative inertia of rows.

        Parameters
        ----------
        X : array-like, path or Source of shape (n_samples, n_features)
        y : Ignored
        sample_weight : array-like of shape (n_samples,) or str, default=None

        Returns
        -------
        score : float
            Minus the sum of squared distances to the nearest centre, times the weights.

        Raises
        ------
        DataError
            If the data cannot be used or have other columns than those fitted.

        Examples
        --------
        >>> import numpy as np
        >>> from streamgmm import KMeans
        >>> X = np.array([[0.0], [1], [9], [10]])
        >>> KMeans(2, random_state=0).fit(X).score(X)
        -1.0
        """
        check_is_fitted(self)
        source = self._opened(X, sample_weight, reset=False, fewest=0)
        centres = self._centres()
        with self._reading(source) as (reader, _, _):
            reader.log_offsets = self._metric.offsets_of(centres)
            parameters = self._metric.parameters(centres)
            found = reader.statistics("score", parameters, frame=self._metric.frame)
        warn_of_skipped_rows(SkippedRows(found.n_overflowing), source.n_rows)
        return -self._metric.inertia(found, centres)

    @property
    def _n_features_out(self) -> int:
        """Number of columns of :meth:`transform`."""
        return len(self.cluster_centers_)

    def _scratch_bytes(self, source: Source) -> int:
        shape = self.n_clusters, source.n_features
        return scratch_bytes("spherical", *shape) + prediction.distance_bytes(*shape)

    def _digest(self) -> str:
        return hashlib.sha256(self._centres().tobytes()).hexdigest()

    def _centres(self) -> Array:
        """Return the centres; they may have been assigned by hand."""
        centres: Array = np.ascontiguousarray(self.cluster_centers_, dtype=np.float64)
        return centres

    def _opened(
        self, X: Any, sample_weight: Any, *, reset: bool, fewest: int | None = None
    ) -> Source:
        """Open data; refuse what clusters cannot be made of."""
        source = self._open(X, sample_weight, reset=reset)
        if source.missing == "em":
            raise DataError(
                f"{source.name} was opened with missing='em', but distances need all values of a "
                "row; open it with missing='drop', or fill the values by GaussianMixture.impute"
            )
        fewest = self.n_clusters if fewest is None else fewest
        if source.n_rows < fewest:
            raise DataError(
                f"n_samples={source.n_rows} should be >= n_clusters={self.n_clusters}; give more "
                "rows, or reduce n_clusters"
            )
        return source

    def _given_centres(self, n_features: int) -> Array | None:
        """Return the centres that are given as ``init``."""
        if isinstance(self.init, str) or callable(self.init):
            return None
        return self._checked_centres(self.init, n_features)

    def _checked_centres(self, values: Any, n_features: int) -> Array:
        try:
            centres = np.array(values, dtype=np.float64, order="C")
        except (TypeError, ValueError) as error:
            raise ParameterError(f"init is not an array of real numbers: {error}") from None
        if centres.shape != (self.n_clusters, n_features) or not np.isfinite(centres).all():
            raise ParameterError(
                f"init gives centres of shape {centres.shape}; give finite numbers of shape "
                f"{(self.n_clusters, n_features)}, one row for each cluster"
            )
        return centres

    @contextmanager
    def _reading(self, source: Source) -> Iterator[tuple[Reader, ThreadExecutor, Work]]:
        """Open executors, and check that passes and a search fit in memory."""
        shape = self.n_clusters, source.n_features
        with (
            fitting(self, source) as listener,
            open_executor(self.executor, source, self.n_jobs, self.memory_limit) as executor,
            open_local_executor(executor, self.n_jobs, self.memory_limit) as local,
            single_threaded_blas(),
            within_float64(),
        ):
            driver = 0
            if executor.memory_limit is not None:
                n_sample = cluster_sample_size(source, shape[0], executor.sample_bytes)
                driver = search_bytes(n_sample, *shape)
            passes = statistics_work(source, "spherical", self.n_clusters)
            work = Work(passes.thread, passes.value, passes.together, driver)
            executor.check_memory(source, work)
            yield (
                Reader(source, executor, listener, driver_bytes=driver, is_hard=True),
                local,
                work,
            )

    def _size(self, source: Source, work: Work) -> FitStarted:
        """Return what the fit will take."""
        k, d = self.n_clusters, source.n_features
        n_operations = 4 * source.n_rows * k * (d + 2)
        return FitStarted(source.n_rows, d, k, k * d, data_bytes(source), work.thread, n_operations)

    def _start(
        self,
        reader: Reader,
        local: ThreadExecutor,
        given: Array | None,
        random: np.random.RandomState,
    ) -> tuple[Array, Metric]:
        """Return the centres to begin with, and the metric for them."""
        source = reader.source
        sample = sample_for_clusters(reader, self.n_clusters, random, given is None)
        if given is None and len(sample) < self.n_clusters:
            raise DataError(
                f"only {len(sample)} row(s) of {source.name} have a weight above zero and values "
                f"that can be used, fewer than n_clusters={self.n_clusters}; reduce n_clusters"
            )
        if not len(sample):
            raise DataError(f"no row of {source.name} can be used; give rows a positive weight")

        def find() -> Array:
            if given is not None:
                return given
            if callable(self.init):
                rows = sample.rows
                centres = self.init(rows, self.n_clusters, random_state=random)
                return self._checked_centres(centres, source.n_features)
            return self._searched(reader, local, sample, str(self.init), random)

        def unit_mixture() -> Parameters:
            k = self.n_clusters
            return Parameters.create("spherical", np.full(k, 1.0 / k), find(), np.ones(k))

        centres = reader.kept(Parameters, unit_mixture).means
        return centres, Metric.of(sample.rows, sample.weights, centres, source.dtype)

    def _searched(
        self,
        reader: Reader,
        local: ThreadExecutor,
        sample: RowSample,
        method: str,
        random: np.random.RandomState,
    ) -> Array:
        """Return the centres of small inertia on the sample."""

        def open_rows(rows: Array, weights: Array, metric: Metric, listener: Listener) -> Reader:
            return Reader(
                SampleSource(rows, weights),
                local,
                listener,
                driver_bytes=reader.driver_bytes,
                is_hard=True,
                log_offsets=np.full(self.n_clusters, metric.offset),
            )

        return search_centres(
            sample,
            open_rows,
            self.n_clusters,
            seeder(self.n_clusters, method, random),
            _RUNS if isinstance(self.n_init, str) else self.n_init,
            random,
            reader.source.dtype,
            self.tol,
            reader.notify,
        )

    def _clustered(
        self,
        reader: Reader,
        local: ThreadExecutor,
        given: Array | None,
        random: np.random.RandomState,
    ) -> tuple[Clustering, Metric]:
        """Run Lloyd's algorithm on all rows."""
        start, metric = self._start(reader, local, given, random)
        reader.log_offsets = metric.offsets_of(start)
        found = lloyd(reader, start, metric, tol=self.tol, max_iter=self.max_iter)
        return found, metric

    def _checkpointed(
        self, reader: Reader, resume: bool
    ) -> AbstractContextManager[np.random.RandomState]:
        """Return a context in which results of the fit are kept; it gives the random state."""

        def settings() -> Mapping[str, Any]:
            return clustering_fingerprint(self, reader.source, reader.executor.sample_bytes)

        def as_model(fit: Fit) -> Record:
            return self._as_mixture(fit.parameters, reader)

        def final() -> Record:
            return self._as_mixture(self._metric.parameters(self.cluster_centers_), reader)

        return self._open_checkpoint(reader, settings, as_model, final, resume)

    def _as_mixture(self, parameters: Parameters, reader: Reader) -> Record:
        """Return the mixture that has these clusters, as what a file holds."""
        fitted = FittedModel(
            parameters,
            feature_names=getattr(self, "feature_names_in_", None),
            history=tuple(asdict(read) for read in reader.history),
            n_reads=reader.n_reads,
            is_hard=True,
        )
        return to_record(GaussianMixture.from_fitted_model(fitted, algorithm="hard"))

    def _keep(self, found: Clustering, metric: Metric, reader: Reader) -> None:
        self.cluster_centers_ = found.centres
        self.inertia_ = found.inertia
        self.n_iter_ = found.n_iterations
        self.history_ = [cast(PassRecord, asdict(read)) for read in reader.history]
        self.n_reads_ = reader.n_reads
        self._metric = metric
        self.__dict__.pop("labels_", None)

    def _question(self, source: Source) -> prediction.Centres:
        centres = self._centres()
        return prediction.Centres(
            self._metric.expectation(centres), centres, self._metric.frame.origin, source.missing
        )

    def _labels_of(self, source: Source) -> NDArray[np.int64]:
        found: NDArray[np.int64] = self._computed_rows(
            source,
            prediction.nearest,
            self._question(source),
            labels_output("cluster", self.n_clusters, None),
            None,
            False,
        )
        return found
