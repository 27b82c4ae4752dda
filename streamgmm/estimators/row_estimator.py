"""The base of estimators that predict values of rows: opening data, and passes that write."""

import math
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from importlib.metadata import version
from numbers import Real
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import NDArray

from streamgmm.algorithms.reads.reader import announced, refuse_not_finite
from streamgmm.core.kernels.compilation import watched
from streamgmm.errors import NotFiniteError, ParameterError
from streamgmm.estimators.condition import warn
from streamgmm.estimators.data_types import InMemory, OutputPath, PandasFrame
from streamgmm.estimators.described_data import description_of, open_described
from streamgmm.estimators.outputs import (
    as_given,
    description,
    piece_shape_of,
    refuse_overlap,
    refuse_unnamed_output,
)
from streamgmm.estimators.validation import CheckedEstimator, check_callbacks
from streamgmm.events import Event, KernelCompiling, Listener
from streamgmm.executors.blas import single_threaded_blas
from streamgmm.executors.select import is_local, open_executor
from streamgmm.executors.threads import thread_count
from streamgmm.options import Missing
from streamgmm.progress import LineReporter, LogReporter
from streamgmm.protocols import (
    Chunk,
    CoordinateSource,
    Job,
    LazySource,
    Output,
    S,
    Source,
    Work,
    regions_of,
    sample_dims,
    sample_shape,
)
from streamgmm.sinks import ArraySink, load_library, open_sink
from streamgmm.sources.array import ArraySource
from streamgmm.sources.columns import check_features
from streamgmm.sources.named_weights import CosLatitude
from streamgmm.sources.open import is_source, open_source
from streamgmm.sources.transformed import TransformedSource

if TYPE_CHECKING:
    import pandas as pd

# Memory that work may take without a check of the free memory.
_LITTLE_BYTES = 64 << 20


class DataEstimator(CheckedEstimator):
    """An estimator that opens data, and knows the columns that it was fitted to.

    Its settings include ``memory_limit``, ``verbose``, ``verbose_interval`` and ``callbacks``.
    """

    memory_limit: Any
    #: Iterations between two lines with ``verbose=1``.
    verbose_interval: int = 1
    # Whether the maps of a transformed source are computed before they are needed. A transformer
    # leaves that to later steps, to share a pass with them.
    _settles_maps: bool = True
    # The step before it in a pipeline gives names to the columns of a source, and none to arrays.
    _has_names_of_pipeline: bool = False

    def _open(
        self, X: Any, sample_weight: Any, *, reset: bool, missing: Missing | None = None
    ) -> Source:
        """Describe data, and remember their columns or check them against those fitted."""
        # Text may name a part of the data, which is then no feature.
        is_named = isinstance(sample_weight, str | CosLatitude)
        named = sample_weight if is_named else None
        if reset:
            source = open_source(X, missing=missing, sample_weight=named)
        else:
            described = getattr(self, "data_description_", None)
            source = open_described(X, described, missing=missing, sample_weight=named)
        if self._settles_maps and isinstance(source, TransformedSource):
            source.settle()
        if reset:
            self._remember_features(source)
        else:
            require_fitted_columns(self, source, was_source=is_source(X))
        if sample_weight is None or is_named:
            return source
        if isinstance(sample_weight, Real):
            # As in scikit-learn, a single number is the weight of each row.
            sample_weight = np.full(source.n_rows, sample_weight, dtype=np.float64)
        return open_source(source, sample_weight=sample_weight)

    def _remember_features(self, source: Source) -> None:
        self.n_features_in_ = source.n_features
        self.data_description_ = description_of(source)
        self._has_names_of_pipeline = isinstance(source, TransformedSource)
        if source.feature_names is not None:
            self.feature_names_in_ = np.array(source.feature_names, dtype=object)
        elif hasattr(self, "feature_names_in_"):
            del self.feature_names_in_


class RowEstimator(DataEstimator, ABC):
    """An estimator that maps rows of any source to values.

    Its settings include ``executor``, ``n_jobs``, ``memory_limit``, ``verbose``,
    ``verbose_interval`` and ``callbacks``. A subclass says what predictions depend on.
    """

    @abstractmethod
    def _scratch_bytes(self, source: Source) -> int:
        """Return the memory that a thread takes for the predictions of a chunk."""

    @abstractmethod
    def _digest(self) -> str:
        """Return a digest of what predictions depend on."""

    def _map_rows(
        self,
        X: Any,
        source: Source,
        function: Callable[[S, Chunk], NDArray[Any]],
        question: S,
        output: Output,
        out: str | os.PathLike[str] | None,
        resume: bool,
    ) -> Any:
        if resume and out is None:
            raise ParameterError("resume=True needs out=, the path of the interrupted output")
        if out is not None:
            refuse_overlap(out, source)
        elif self._is_computed_at_once(source, output):
            # Refused rows are read again below, where an error names all of them.
            with suppress(NotFiniteError), single_threaded_blas():
                values = function(question, source.read(0)).astype(output.dtype, copy=False)
                return as_given(source, values, output)
        elif isinstance(source, LazySource):
            from streamgmm.executors.dask import map_rows

            return map_rows(source.array, function, question, output.dtype, output.length)
        elif isinstance(source, CoordinateSource) and (rows := source.lazy_rows()) is not None:
            from streamgmm.executors.dask import map_rows

            found = map_rows(rows, function, question, output.dtype, output.length)
            return as_given(source, found, output)
        else:
            refuse_unnamed_output(X)
        found = self._computed_rows(source, function, question, output, out, resume)
        return found if out is not None else as_given(source, found, output)

    def _is_computed_at_once(self, source: Source, output: Output) -> bool:
        """Return whether the calling thread computes all rows in one step.

        It does if they are one chunk in memory, the work takes little memory, no memory limit has
        to be kept, no event is waited for, and no cluster computes.
        """
        if not (isinstance(source, ArraySource) and source.read_bytes == 0):
            return False
        is_one_chunk = len(source.boundaries) == 2
        has_listener = bool(check_callbacks(self.callbacks)) or bool(self.verbose)
        if not is_one_chunk or has_listener or self.memory_limit is not None:
            return False
        if self.n_jobs is not None:
            thread_count(self.n_jobs)
        row_bytes = (output.length or 1) * output.dtype.itemsize
        n_bytes = self._scratch_bytes(source) + source.n_rows * row_bytes
        return n_bytes <= _LITTLE_BYTES and is_local(self.executor, source)

    def _computed_rows(
        self,
        source: Source,
        function: Callable[[S, Chunk], NDArray[Any]],
        question: S,
        output: Output,
        out: str | os.PathLike[str] | None,
        resume: bool,
    ) -> Any:
        """Return the predictions as an array in memory or, piece by piece, at a path."""
        shape, dims = sample_shape(source), sample_dims(source)
        if output.dim is not None:
            shape, dims = (*shape, len(output.names)), (*dims, output.dim)
        dtype = output.dtype
        row_bytes = (output.length or 1) * dtype.itemsize
        piece_shape = piece_shape_of(source, row_bytes)
        regions = map(regions_of(source), range(len(source.boundaries) - 1))
        opened: AbstractContextManager[Any]
        if out is None:
            opened = nullcontext(ArraySink(np.empty(shape, dtype)))
        else:
            layout = source.layout(output) if isinstance(source, CoordinateSource) else None
            fingerprint = {
                "streamgmm": version("streamgmm"),
                "what is computed": function.__name__,
                "model": self._digest(),
                **description(source),
            }
            load_library(out, layout)
            opened = open_sink(
                out,
                shape,
                output.stored_dtype or dtype,
                regions,
                piece_shape,
                dims,
                fingerprint,
                resume,
                layout,
            )
        work = Work(self._scratch_bytes(source) + 2 * math.prod(piece_shape) * row_bytes)
        with (
            notified(self) as listener,
            open_executor(self.executor, source, self.n_jobs, self.memory_limit) as executor,
            opened as sink,
        ):
            try:
                with announced(listener, function.__name__, source, sink):
                    executor.map_write(
                        source, Job(function, question, work), sink, listener, piece_shape
                    )
            except NotFiniteError:
                refuse_not_finite(source, executor)
        return sink.array if out is None else out


def require_fitted_columns(model: DataEstimator, source: Source, *, was_source: bool) -> None:
    """Refuse data whose columns are not those that a model was fitted to.

    As in scikit-learn, it warns if only the model or only the data have column names.

    Parameters
    ----------
    model : DataEstimator
        Fitted.
    source : Source
    was_source : bool
        Whether a source was given, which gives no warning. Other data than arrays and data frames
        in memory give none either.

    Raises
    ------
    DataError
    """
    fitted, kind = getattr(model, "feature_names_in_", None), type(model).__name__
    check_features(source, model.n_features_in_, None if fitted is None else fitted.tolist(), kind)
    has_names = source.feature_names is not None
    is_in_memory = isinstance(source, ArraySource) and not was_source
    if not is_in_memory or has_names == (fitted is not None) or model._has_names_of_pipeline:
        return
    warn(
        f"X has feature names, but {kind} was fitted without feature names"
        if has_names
        else f"X does not have valid feature names, but {kind} was fitted with feature names",
        UserWarning,
    )


def listener_of(model: DataEstimator) -> Listener:
    """Return a listener that passes events to callbacks, progress lines and the log."""
    callbacks: list[Listener] = check_callbacks(model.callbacks)
    if model.verbose:
        every = model.verbose_interval if model.verbose == 1 else 1
        callbacks.append(LineReporter(every=every))

    callbacks.append(LogReporter())
    one_at_a_time = threading.RLock()

    def notify(event: Event) -> None:
        # Threads that compile kernels report that.
        with one_at_a_time:
            for callback in callbacks:
                callback(event)

    return notify


@contextmanager
def notified(model: DataEstimator) -> Iterator[Listener]:
    """Yield the listener of :func:`listener_of`, which also hears of kernels being compiled."""
    listener = listener_of(model)

    def compiling(name: str, dtype: str, is_kept: bool) -> None:
        listener(KernelCompiling(name, dtype, is_kept))

    with watched(compiling):
        yield listener


class FitPredictMixin:
    """Fit to data, then label them."""

    @overload
    def fit_predict(
        self: Any, X: Any, y: Any = None, sample_weight: Any = None, *, out: OutputPath
    ) -> OutputPath: ...

    @overload
    def fit_predict(
        self: Any, X: InMemory, y: Any = None, sample_weight: Any = None
    ) -> NDArray[np.int64]: ...

    @overload
    def fit_predict(
        self: Any, X: PandasFrame, y: Any = None, sample_weight: Any = None
    ) -> "pd.Series[int]": ...

    @overload
    def fit_predict(
        self: Any, X: Any, y: Any = None, sample_weight: Any = None, *, out: None = None
    ) -> Any: ...

    def fit_predict(
        self: Any,
        X: Any,
        y: Any = None,
        sample_weight: Any = None,
        *,
        out: str | os.PathLike[str] | None = None,
    ) -> Any:
        """Fit, then label the same data.

        Parameters
        ----------
        X : array-like, path or Source of shape (n_samples, n_features)
        y : Ignored
        sample_weight : array-like of shape (n_samples,) or str, default=None
        out : path-like, default=None
            As for :meth:`predict`.

        Returns
        -------
        labels : as for :meth:`predict`

        Raises
        ------
        StreamGMMError
            As :meth:`fit` and :meth:`predict`.

        Examples
        --------
        >>> import numpy as np
        >>> from streamgmm import KMeans
        >>> labels = KMeans(2, random_state=0).fit_predict(np.array([[0.0], [1], [9], [10]]))
        >>> bool(labels[0] == labels[1] != labels[2])
        True
        """
        if out is None:
            refuse_unnamed_output(X)
        return self.fit(X, y, sample_weight).predict(X, out=out)
