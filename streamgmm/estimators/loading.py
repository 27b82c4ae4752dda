"""Models from files, of whichever class they were."""

import os
import reprlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from streamgmm.archive import Declared
from streamgmm.errors import ModelFileError, ParameterError
from streamgmm.estimators.gaussian_mixture import GaussianMixture
from streamgmm.estimators.model_layout import check_arrays
from streamgmm.estimators.online_mixture import OnlineGaussianMixture
from streamgmm.estimators.online_records import from_online_record
from streamgmm.estimators.records import from_record
from streamgmm.estimators.validation import check_settings
from streamgmm.model_files import content_of
from streamgmm.paths import local_path
from streamgmm.persistence import Record, read_record, refusing

# Settings that a machine decides, and that may be others each time.
_LOCAL = frozenset({"executor", "memory_limit", "n_jobs", "verbose", "verbose_interval"})
# Settings that a batch fit has decided.
_OF_BATCH = frozenset({"n_components", "covariance_type"})
_CLASSES: Mapping[str, Callable[[Record], GaussianMixture | OnlineGaussianMixture]] = {
    "GaussianMixture": lambda record: from_record(GaussianMixture, record),
    "OnlineGaussianMixture": lambda record: from_online_record(OnlineGaussianMixture, record),
}


def load(path: str | os.PathLike[str]) -> GaussianMixture | OnlineGaussianMixture:
    """Load a model that its method ``save`` wrote.

    Parameters
    ----------
    path : path-like

    Returns
    -------
    GaussianMixture or OnlineGaussianMixture
        Of the class that was saved.

    Raises
    ------
    ModelFileError
        If the file is missing, damaged, of another kind or written by a newer version.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import numpy as np
    >>> import streamgmm
    >>> path = Path(tempfile.mkdtemp()) / "model.gmm"
    >>> streamgmm.GaussianMixture().fit(np.arange(10.0).reshape(5, 2)).save(path)
    >>> streamgmm.load(path).means_
    array([[4., 5.]])
    """
    target = Path(os.path.realpath(local_path(path, ModelFileError, "model files")))
    # Before the file is read: a file that is replaced meanwhile counts as changed.
    content = content_of(target)
    record = read_record(path, _check)
    with refusing(str(path)):
        model = _CLASSES[record.header["estimator"]](record)
    model.known_files_ = {str(target): content}
    return model


def load_or_begin(path: Path, settings: Mapping[str, Any]) -> OnlineGaussianMixture:
    """Return the model in a file, if its settings are as they are asked for, or a new one.

    Raises
    ------
    ModelFileError
        If there is none, nor a number of components to begin one.
    ParameterError
        If a setting is another one, there is no such setting, or a batch model cannot continue.
    """
    asked = _asked(settings) if settings else None
    if not path.exists():
        if asked is None or "n_components" not in settings:
            raise ModelFileError(
                f"{path}: no such file; give n_components= to begin one, or save an "
                "OnlineGaussianMixture there"
            )
        return asked
    model = load(path)
    decided = _OF_BATCH if isinstance(model, GaussianMixture) else settings.keys() - _LOCAL
    known = model.get_params(deep=False) if settings else {}
    other = [
        f"{name} is {known[name]!r} and not {settings[name]!r}"
        for name in sorted(decided & settings.keys())
        if not np.array_equal(known[name], settings[name])
    ]
    if other:
        raise ParameterError(
            f"{path} is of other settings: its {'; its '.join(other)}. Leave these out to continue "
            "with it, or begin another model"
        )
    if isinstance(model, GaussianMixture):
        try:
            online = OnlineGaussianMixture.from_batch(model, **settings)
        except ParameterError as error:
            raise ParameterError(f"{path}: {error}") from None
        online.known_files_ = model.known_files_
        return online
    model.set_params(**{name: settings[name] for name in _LOCAL & settings.keys()})
    return model


def _asked(settings: Mapping[str, Any]) -> OnlineGaussianMixture:
    """Return a new model with these settings.

    Raises
    ------
    ParameterError
        If there is no such setting, or its value is not valid.
    """
    unknown = sorted(settings.keys() - OnlineGaussianMixture().get_params(deep=False).keys())
    if unknown:
        raise ParameterError(
            f"{', '.join(unknown)} is neither an argument of streamgmm.open nor a setting of "
            "OnlineGaussianMixture"
        )
    asked = OnlineGaussianMixture(**settings)
    check_settings(asked)
    return asked


def _check(header: Mapping[str, Any], declared: Mapping[str, Declared]) -> None:
    """Refuse a model of an unknown class, and arrays that its class does not have."""
    name = header.get("estimator")
    if not isinstance(name, str) or name not in _CLASSES:
        raise ValueError(f"it holds a {reprlib.repr(name)}, which this release does not know")
    check_arrays(header, declared)
