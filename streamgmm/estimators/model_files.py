"""The file of a model that goes on learning: for one process at a time, loaded or begun."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from streamgmm.errors import ModelFileError, OutputError, ParameterError
from streamgmm.estimators.gaussian_mixture import GaussianMixture
from streamgmm.estimators.loading import load
from streamgmm.estimators.online_mixture import OnlineGaussianMixture
from streamgmm.persistence import discard_unfinished, stem

# Settings that a machine decides, and that may be others each time.
_LOCAL = frozenset({"executor", "memory_limit", "n_jobs", "verbose", "verbose_interval"})
# Settings that a batch fit has decided.
_OF_BATCH = frozenset({"n_components", "covariance_type"})


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """A model's file for this process alone; the lock ends with the process.

    Raises
    ------
    OutputError
        If another process has it, or nothing can be written there.
    """
    if not path.parent.is_dir():
        raise OutputError(f"{path} cannot be updated: there is no directory {path.parent}")
    lock = FileLock(path.with_name(f".{stem(path)}.lock"), timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise OutputError(
            f"{path} is being updated by another process, which has {lock.lock_file} locked; wait "
            "for it"
        ) from None
    except OSError as error:
        raise OutputError(f"{path} cannot be updated: {error}") from error
    try:
        discard_unfinished(path)
        yield
    finally:
        lock.release()


def load_or_begin(path: Path, settings: Mapping[str, Any]) -> OnlineGaussianMixture:
    """The model in a file, if its settings are as they are asked for, or a new one.

    Raises
    ------
    ModelFileError
        If there is none, nor a number of components to begin one.
    ParameterError
        If a setting is another one, there is no such setting, or a batch model cannot go on.
    """
    unknown = sorted(settings.keys() - OnlineGaussianMixture().get_params(deep=False).keys())
    if unknown:
        raise ParameterError(
            f"{', '.join(unknown)} is neither an argument of streamgmm.open nor a setting of "
            "OnlineGaussianMixture"
        )
    asked = OnlineGaussianMixture(**settings)
    asked._validate_params()
    if not path.exists():
        if "n_components" not in settings:
            raise ModelFileError(
                f"{path}: no such file; give n_components= to begin one, or save an "
                "OnlineGaussianMixture there"
            )
        return asked
    model = load(path)
    is_batch = isinstance(model, GaussianMixture)
    decided = _OF_BATCH if is_batch else settings.keys() - _LOCAL
    known = model.get_params(deep=False)
    other = [
        f"{name} is {known[name]!r} and not {settings[name]!r}"
        for name in sorted(decided & settings.keys())
        if not np.array_equal(known[name], settings[name])
    ]
    if other:
        raise ParameterError(
            f"{path} is of other settings: its {'; its '.join(other)}. Leave these out to go on "
            "with it, or begin another model"
        )
    if isinstance(model, GaussianMixture):
        try:
            return OnlineGaussianMixture.from_batch(model, **settings)
        except ParameterError as error:
            raise ParameterError(f"{path}: {error}") from None
    model.set_params(**{name: settings[name] for name in _LOCAL & settings.keys()})
    return model
