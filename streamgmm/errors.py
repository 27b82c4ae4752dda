"""Errors and warnings of streamgmm.

Every message names the problem, its location and a remedy. Errors derive from the
built-in type that a caller would expect as well as from :class:`StreamGMMError`.
"""


class StreamGMMError(Exception):
    """Base of all errors that streamgmm raises on purpose."""


class DataError(StreamGMMError, ValueError):
    """The data cannot be used as they are: shape, type, missing or infinite values."""


class DataTypeError(DataError, TypeError):
    """The data are of a type that cannot be used: no table, or no real numbers."""


class NotFiniteError(DataError):
    """The data hold NaN or infinity where they are not allowed."""


class MissingPackageError(ImportError, DataError):
    """A package that is needed for the data or the request is not installed."""


class ParameterError(StreamGMMError, ValueError, TypeError):
    """An argument, a setting or a parameter of a mixture has a value or a type that is not valid.

    It is a TypeError as well, as scikit-learn's error for the same purpose is.
    """


class NotFittedError(StreamGMMError, ValueError, AttributeError):
    """A model is asked for results before it is fitted.

    The estimators raise it as scikit-learn's error of the same name, too.
    """


class ModelFileError(StreamGMMError, ValueError):
    """A file is not a model that this version can load."""


class CheckpointError(StreamGMMError, ValueError):
    """A checkpoint exists already, is damaged, or belongs to another fit."""


class MemoryLimitError(StreamGMMError, MemoryError):
    """The work cannot be done within the memory limit."""


class ClusterError(StreamGMMError, RuntimeError):
    """A Dask cluster was lost while it computed."""


class OutputError(StreamGMMError, OSError):
    """A result cannot be written where it was asked for."""


class DegenerateComponentWarning(UserWarning):
    """A component is degenerate: no weight, few rows, mostly ridge, or collapsed."""


class RidgeWarning(UserWarning):
    """The variance of a column is so small that the ridge determines its result."""


class FewRowsWarning(UserWarning):
    """The data have fewer rows than the mixture has free parameters."""


class MemoryLimitWarning(UserWarning):
    """Candidates of a search were skipped because memory cannot hold them."""


class LeftOutRowsWarning(UserWarning):
    """Rows were skipped because their squares overflow, or all rows were skipped."""
