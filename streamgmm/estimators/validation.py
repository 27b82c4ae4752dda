"""scikit-learn's checks of settings and fitted models, with errors that are streamgmm's, too."""

from collections.abc import Callable, Iterable
from typing import Any, get_args

import numpy as np
import sklearn.exceptions
import sklearn.utils
import sklearn.utils.validation
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils import _param_validation

# The one module that uses scikit-learn's private checks of settings, and its private way to
# answer data frames.
from sklearn.utils._param_validation import HasMethods as HasMethods
from sklearn.utils._param_validation import Interval as Interval
from sklearn.utils._param_validation import RealNotInt as RealNotInt
from sklearn.utils._param_validation import StrOptions as StrOptions
from sklearn.utils._set_output import _wrap_data_with_container

from streamgmm import errors
from streamgmm.core.priors import Prior
from streamgmm.executors.memory import parse_bytes
from streamgmm.executors.threads import check_n_jobs
from streamgmm.options import PriorName

#: Values that scikit-learn's checks accept as the setting ``prior``.
PRIOR_CONSTRAINTS = [StrOptions(set(get_args(PriorName))), Prior, HasMethods("pseudo_rows"), None]


def in_container(method: str, rows: NDArray[Any], X: Any, transformer: Any) -> Any:
    """Return mapped rows as an array, or in the container that ``set_output`` has chosen.

    Parameters
    ----------
    method : str
        Name of the method that mapped them.
    rows : ndarray
    X : object
        The rows as they were given; a data frame also gives its index.
    transformer : estimator
    """
    return _wrap_data_with_container(method, rows, X, transformer)


class InvalidParameterError(errors.ParameterError, _param_validation.InvalidParameterError):  # type: ignore[misc]
    """A setting of an estimator has a value or a type that is not valid."""


class NotFittedError(errors.NotFittedError, sklearn.exceptions.NotFittedError):  # type: ignore[misc]
    """A model is asked for results before it is fitted."""


def check_is_fitted(model: BaseEstimator) -> None:
    """Refuse a model that is not fitted.

    Raises
    ------
    NotFittedError
    """
    try:
        sklearn.utils.validation.check_is_fitted(model)
    except sklearn.exceptions.NotFittedError as error:
        raise NotFittedError(str(error)) from None


def check_random_state(seed: Any) -> np.random.RandomState:
    """Return the generator that a seed stands for.

    Raises
    ------
    InvalidParameterError
        If it is neither a seed nor a generator.
    """
    try:
        random: np.random.RandomState = sklearn.utils.check_random_state(seed)
    except ValueError:
        raise InvalidParameterError(
            f"random_state is {seed!r}; give an int from 0 to 4294967295, a "
            "numpy.random.RandomState or None"
        ) from None
    return random


def check_callbacks(callbacks: Any) -> list[Callable[..., Any]]:
    """Return callbacks as a list, or refuse what cannot be called.

    Raises
    ------
    InvalidParameterError
    """
    given = [callbacks] if callable(callbacks) else callbacks
    if isinstance(given, Iterable) and not isinstance(given, str):
        functions = list(given)
        if all(map(callable, functions)):
            return functions
    raise InvalidParameterError(
        f"callbacks is {callbacks!r}; give a function, or a list of functions, that take an event"
    )


class CheckedEstimator(BaseEstimator):  # type: ignore[misc]
    """An estimator whose settings are refused by errors of streamgmm."""

    def set_params(self, **params: Any) -> Any:
        """Change settings.

        Parameters
        ----------
        **params
            Settings by their names.

        Returns
        -------
        self : estimator

        Raises
        ------
        ParameterError
            If there is no such setting.

        Examples
        --------
        >>> from streamgmm import GaussianMixture
        >>> GaussianMixture().set_params(n_components=3)
        GaussianMixture(n_components=3)
        """
        try:
            return super().set_params(**params)
        except ValueError as error:
            raise InvalidParameterError(str(error)) from None


def check_settings(model: CheckedEstimator) -> None:
    """Refuse settings of an estimator that are not valid.

    Raises
    ------
    InvalidParameterError
    """
    settings = model.get_params(deep=False)
    try:
        _param_validation.validate_parameter_constraints(
            model._parameter_constraints, settings, caller_name=type(model).__name__
        )
    except _param_validation.InvalidParameterError as error:
        raise InvalidParameterError(str(error)) from None
    check_callbacks(settings["callbacks"])
    check_n_jobs(settings["n_jobs"])
    if settings["memory_limit"] is not None:
        parse_bytes(settings["memory_limit"])
