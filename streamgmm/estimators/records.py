"""Fitted estimators as records of a file, and as each other."""

from numbers import Integral
from typing import Any

import numpy as np

from streamgmm.core.statistics import Statistics
from streamgmm.persistence import (
    Record,
    pack_statistics,
    prefixed,
    unpack_statistics,
    without_prefix,
)

_PARAMETERS = ("weights_", "means_", "covariances_", "precisions_", "precisions_cholesky_")
_INITIAL = ("weights_init", "means_init", "precisions_init")
_RIDGE = "reg_covar_"
_VALUES = (
    "converged_",
    "n_iter_",
    "lower_bound_",
    "lower_bounds_",
    "n_features_in_",
    "history_",
    "n_reads_",
)
_STATISTICS = "statistics."


def to_record(model: Any) -> Record:
    """A fitted estimator as what a file holds: settings, fitted values and arrays."""
    header, arrays = pack_settings(model)
    arrays |= {name: np.asarray(getattr(model, name)) for name in _PARAMETERS}
    if hasattr(model, _RIDGE):
        arrays[_RIDGE] = model.reg_covar_
    header["fitted"] |= {
        name: _plain(getattr(model, name)) for name in _VALUES if hasattr(model, name)
    }
    statistics: Statistics | None = getattr(model, "_statistics", None)
    if statistics is not None:
        header["statistics"], own = pack_statistics(statistics)
        arrays |= prefixed(_STATISTICS, own)
    return Record(header, arrays)


def from_record(estimator: type, record: Record) -> Any:
    """The estimator that :func:`to_record` made a record of.

    Raises
    ------
    KeyError, TypeError, ValueError
        If something is missing or of the wrong kind.
    """
    header, arrays = record.header, record.arrays
    model = unpack_settings(estimator, record)
    for name in _PARAMETERS:
        setattr(model, name, arrays[name])
    for name, value in header["fitted"].items():
        setattr(model, name, value)
    if _RIDGE in arrays:
        model.reg_covar_ = arrays[_RIDGE]
    elif not isinstance(model.reg_covar, str):
        # In older files the setting is one number, which is what was used.
        model.reg_covar_ = np.full(model.n_features_in_, float(model.reg_covar))
    if "statistics" in header:
        model._statistics = unpack_statistics(
            header["statistics"], without_prefix(_STATISTICS, arrays)
        )
    if model._parameters().means.shape != (model.n_components, model.n_features_in_):
        raise ValueError("the means do not have the shape that the settings say")
    return model


def pack_settings(model: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """What an estimator was told, and of which features if any: a header, and arrays beside it."""
    settings = model.get_params(deep=False)
    arrays = {
        name: np.asarray(value)
        for name in _INITIAL
        for value in [settings.pop(name, None)]
        if value is not None
    }
    if np.ndim(settings["reg_covar"]):
        arrays["reg_covar"] = np.asarray(settings.pop("reg_covar"), dtype=np.float64)
    del settings["callbacks"]
    for name in ("checkpoint", "checkpoint_interval"):
        settings.pop(name, None)
    if "fixed" in settings:
        settings["fixed"] = list(settings["fixed"])
    if not isinstance(settings["executor"], str):
        del settings["executor"]
    if not isinstance(settings["random_state"], Integral):
        del settings["random_state"]
    header: dict[str, Any] = {
        "estimator": type(model).__name__,
        "settings": {name: _plain(value) for name, value in settings.items()},
        "fitted": {},
    }
    if hasattr(model, "n_features_in_"):
        header["fitted"]["n_features_in_"] = model.n_features_in_
    if hasattr(model, "feature_names_in_"):
        header["feature_names"] = model.feature_names_in_.tolist()
    return header, arrays


def unpack_settings(estimator: type, record: Record) -> Any:
    """An estimator that was told as much as :func:`pack_settings` was given, not yet fitted."""
    header, arrays = record.header, record.arrays
    settings = dict(header["settings"])
    if "fixed" in settings:
        settings["fixed"] = tuple(settings["fixed"])
    stored = (*_INITIAL, "reg_covar")
    model = estimator(**settings, **{name: arrays[name] for name in stored if name in arrays})
    if "feature_names" in header:
        model.feature_names_in_ = np.array(list(header["feature_names"]), dtype=object)
    return model


def copy_fitted(origin: Any, target: Any) -> None:
    """Give an estimator copies of the fitted attributes of another of the same vocabulary."""
    for name in (*_PARAMETERS, *_VALUES, "feature_names_in_"):
        if hasattr(origin, name):
            value = getattr(origin, name)
            setattr(target, name, value.copy() if hasattr(value, "copy") else value)


def _plain(value: Any) -> Any:
    """A setting or attribute as JSON can say it."""
    return value.item() if isinstance(value, np.generic) else value
