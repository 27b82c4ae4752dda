"""Models into files and from files, of whichever class they are."""

import os
import reprlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from streamgmm.archive import Declared
from streamgmm.errors import ModelFileError, OutputError, ParameterError
from streamgmm.estimators.gaussian_mixture import GaussianMixture
from streamgmm.estimators.model_layout import check_arrays
from streamgmm.estimators.online_mixture import OnlineGaussianMixture
from streamgmm.estimators.online_records import from_online_record
from streamgmm.estimators.records import from_record
from streamgmm.estimators.validation import check_settings
from streamgmm.model_files import content_of, held, replace_model
from streamgmm.paths import local_path
from streamgmm.persistence import Record, read_record, refusing

# Settings that a machine decides, and that may be others each time.
_LOCAL = frozenset({"executor", "memory_limit", "n_jobs", "verbose", "verbose_interval"})
# Settings that a batch fit has decided.
_OF_BATCH = frozenset({"n_components", "covariance_type"})
_MIXTURES: Mapping[str, Callable[[Record], GaussianMixture | OnlineGaussianMixture]] = {
    "GaussianMixture": lambda record: from_record(GaussianMixture, record),
    "OnlineGaussianMixture": lambda record: from_online_record(OnlineGaussianMixture, record),
}


def save(model: Any, path: str | os.PathLike[str]) -> None:
    """Write a fitted model to one ``.gmm`` file, atomically.

    Settings that a file cannot hold (an executor, callbacks) are left at their defaults. Nothing is
    pickled.

    Parameters
    ----------
    model : GaussianMixture, OnlineGaussianMixture, transformer or sklearn.pipeline.Pipeline
        A pipeline has transformers of ``streamgmm.preprocessing`` and, as its last step, a
        mixture or another transformer.
    path : path-like
        An existing file is replaced, except in two cases: it was changed after this model was
        loaded from it or saved to it, or :func:`streamgmm.update` has learned rows in it that this
        model has not.

    Raises
    ------
    OutputError
        If the file cannot be written, or must not be replaced.
    ParameterError
        If a file cannot hold the model, or a step of the pipeline.
    NotFittedError
        If the model is not fitted.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import numpy as np
    >>> import streamgmm
    >>> from sklearn.pipeline import make_pipeline
    >>> from streamgmm import GaussianMixture
    >>> from streamgmm.preprocessing import StandardScaler
    >>> X = np.arange(10.0).reshape(5, 2)
    >>> pipeline = make_pipeline(StandardScaler(), GaussianMixture()).fit(X)
    >>> path = Path(tempfile.mkdtemp()) / "model.gmm"
    >>> streamgmm.save(pipeline, path)
    >>> streamgmm.load(path).predict(X)
    array([0, 0, 0, 0, 0])
    """
    target = Path(os.path.realpath(local_path(path, OutputError, "model files")))
    record = _record_of(model)
    with held(target):
        replace_model(target, record, model)


def load(path: str | os.PathLike[str]) -> GaussianMixture | OnlineGaussianMixture:
    """Load a model that :func:`streamgmm.save` or its method ``save`` wrote.

    Type checkers take it for a mixture; for a transformer or a pipeline use :func:`typing.cast`.

    Parameters
    ----------
    path : path-like

    Returns
    -------
    GaussianMixture, OnlineGaussianMixture, transformer or sklearn.pipeline.Pipeline
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
        found = _model_from(record.header["estimator"], record)
    found.known_files_ = {str(target): content}
    model: GaussianMixture | OnlineGaussianMixture = found
    return model


def load_mixture(path: str | os.PathLike[str]) -> GaussianMixture | OnlineGaussianMixture:
    """Load a mixture that stands alone, and refuse a file of a pipeline or a transformer.

    Raises
    ------
    ModelFileError
        As :func:`load`, or if the file holds another kind of model.
    """
    model: Any = load(path)
    if not isinstance(model, GaussianMixture | OnlineGaussianMixture):
        raise ModelFileError(
            f"{path} holds a {type(model).__name__}, but a mixture that stands alone is needed here"
        )
    return model


def _record_of(model: Any) -> Record:
    """Return a model as the content of a file.

    Raises
    ------
    ParameterError
        If a file cannot hold it.
    """
    from sklearn.pipeline import Pipeline

    if isinstance(model, GaussianMixture | OnlineGaussianMixture):
        return model._record()
    from streamgmm.preprocessing import files

    if isinstance(model, Pipeline):
        return files.pipeline_record(model, _record_of)
    if type(model) in files.TRANSFORMERS.values():
        return files.transformer_record(model)
    raise ParameterError(
        f"a model file cannot hold {reprlib.repr(model)}; save a GaussianMixture, an "
        "OnlineGaussianMixture, a transformer of streamgmm.preprocessing, or a pipeline of them"
    )


def _model_from(kind: str, record: Record) -> Any:
    """Return the model of a class from its record."""
    if kind in _MIXTURES:
        return _MIXTURES[kind](record)
    from streamgmm.preprocessing import files

    if kind == files.PIPELINE:
        return files.pipeline_from(record, _model_from)
    return files.transformer_from(record)


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
    model = load_mixture(path)
    decided = _OF_BATCH if isinstance(model, GaussianMixture) else settings.keys() - _LOCAL
    known = model.get_params(deep=False) if settings else {}
    other = [
        f"{name} is {known[name]!r} and not {settings[name]!r}"
        for name in sorted(decided & settings.keys())
        if not np.array_equal(known[name], settings[name])
    ]
    if other:
        raise ParameterError(
            f"{path} is of other settings: its {'; its '.join(other)}. Remove these to continue "
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
    if name in _MIXTURES:
        check_arrays(header, declared)
        return
    from streamgmm.preprocessing import files

    if name == files.PIPELINE:
        files.check_pipeline(header, declared, _check)
    elif isinstance(name, str) and name in files.TRANSFORMERS:
        files.check_transformer(header, declared)
    else:
        raise ValueError(f"it holds a {reprlib.repr(name)}, which this release does not know")
