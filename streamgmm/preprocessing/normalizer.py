"""Rows of norm 1: scikit-learn's Normalizer over every source."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

from sklearn.base import OneToOneFeatureMixin, TransformerMixin

from streamgmm.algorithms.reads.usable_rows import refuse_values
from streamgmm.estimators.row_estimator import DataEstimator
from streamgmm.estimators.validation import StrOptions, check_settings
from streamgmm.events import Event
from streamgmm.preprocessing.deferred import Deferred
from streamgmm.preprocessing.maps import NORMS, Normalization
from streamgmm.preprocessing.transformer import RESOURCES, LazyTransformer
from streamgmm.protocols import Source, all_chunks
from streamgmm.sources.open import open_source


class Normalizer(
    LazyTransformer,
    OneToOneFeatureMixin,  # type: ignore[misc]
    TransformerMixin,  # type: ignore[misc]
    DataEstimator,
):
    """Divide each row by its norm.

    Arguments and their meanings are those of :class:`sklearn.preprocessing.Normalizer`. Data may be
    an array, or anything that :func:`streamgmm.open` reads chunk by chunk: then the rows are
    divided as they are read, and nothing is stored. Rows of zeros stay as they are.

    Parameters
    ----------
    norm : {"l1", "l2", "max"}, default="l2"
        The sum of absolute values, the root of the sum of squares, or the largest absolute value.
    copy : bool, default=True
        Ignored, for compatibility with scikit-learn: data are never changed.
    executor, n_jobs, memory_limit, callbacks, verbose
        Ignored; all transformers have these settings, but a norm needs no pass over the data.

    Attributes
    ----------
    n_features_in_ : int
    feature_names_in_ : ndarray of shape (n_features,)
        Only if the data had column names that are all strings.

    See Also
    --------
    sklearn.preprocessing.Normalizer : The same for arrays in memory.

    Examples
    --------
    >>> from streamgmm.preprocessing import Normalizer
    >>> Normalizer().fit_transform([[3.0, 4.0], [0.0, 0.0]])
    array([[0.6, 0.8],
           [0. , 0. ]])
    """

    _parameter_constraints: dict[str, list[Any]] = {  # noqa: RUF012 - scikit-learn's own form
        "norm": [StrOptions(set(NORMS))],
        **RESOURCES,
    }

    def __init__(
        self,
        norm: Literal["l1", "l2", "max"] = "l2",
        *,
        copy: bool = True,
        executor: Any = "auto",
        n_jobs: int | None = None,
        memory_limit: int | str | None = None,
        callbacks: Sequence[Callable[[Event], None]] = (),
        verbose: int = 0,
    ) -> None:
        self.norm = norm
        self.copy = copy
        self.executor = executor
        self.n_jobs = n_jobs
        self.memory_limit = memory_limit
        self.callbacks = callbacks
        self.verbose = verbose

    def transform(self, X: Any) -> Any:
        """Divide each row of X by its norm; no fit is needed before.

        Parameters
        ----------
        X : array-like, path or Source of shape (n_samples, n_features)

        Returns
        -------
        rows : ndarray, data frame or Source
            For an array in memory an array: float32 if the data are float32 or float16, else
            float64. For a data frame an array too, or the container that ``set_output`` names. For
            all other data a source that divides its rows as they are read.

        Raises
        ------
        DataError
            If the data cannot be used or have other columns than those fitted.
        """
        if self.__sklearn_is_fitted__():
            return super().transform(X)
        check_settings(self)
        source = open_source(X)
        return self._output(X, source, self._fitted_to(source))

    def _fitted_to(self, source: Source) -> Deferred[Normalization]:
        n = source.n_features
        return Deferred(Normalization(self.norm, n), n, is_affine=False)

    def _settle(self, source: Source, deferred: Deferred[Any]) -> None:
        for i in all_chunks(source):
            refuse_values(source.read(i), "error")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags
