"""Fitted estimators as records of a file, and attributes that estimators copy."""

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from numbers import Integral
from typing import Any, get_type_hints

import numpy as np

from streamgmm.core.criteria import Criteria
from streamgmm.core.fitted_model import FittedModel, StopReason
from streamgmm.core.noise import NO_BOX, Noise
from streamgmm.core.parameters import (
    PARAMETER_NAMES,
    Parameters,
    require_covariances,
    require_values,
)
from streamgmm.core.priors import Prior, check_prior
from streamgmm.core.statistics import Statistics
from streamgmm.core.structures import STRUCTURES
from streamgmm.core.structures.low_rank import LOW_RANK_TYPE, public_type, structure_name
from streamgmm.core.structures.low_rank_factors import joined, loadings_of, noise_variances_of
from streamgmm.errors import ParameterError
from streamgmm.estimators.described_data import from_header, to_header
from streamgmm.estimators.header_values import (
    amount,
    any_number,
    entries,
    known,
    listed,
    number,
    positive,
    text,
    truth,
    whole,
)
from streamgmm.events import ReadDone, SampleStage
from streamgmm.persistence import (
    Record,
    pack_statistics,
    prefixed,
    unpack_statistics,
    without_prefix,
)

_logger = logging.getLogger("streamgmm")

_PARAMETERS = ("weights_", "means_", "covariances_", "precisions_", "precisions_cholesky_")
_LOW_RANK = ("weights_", "means_", "loadings_", "noise_variances_")
#: The arrays that a fit leaves; no model has all of them.
FITTED_ARRAYS = frozenset({*_PARAMETERS, *_LOW_RANK})
_INITIAL = ("weights_init", "means_init", "precisions_init")
_RIDGE, _REASON, _BOX = "reg_covar_", "reason", "noise_box_"


def _numbers(name: str, value: Any) -> None:
    for entry in listed(name, value):
        any_number(name, entry)


def _passes(name: str, value: Any) -> None:
    """Refuse what is no list of passes over the data."""
    for entry in listed(name, value):
        known(name, entry, _PASS)


def _stages(name: str, value: Any) -> None:
    """Refuse a value that is no list of stages of the work on a sample."""
    for entry in listed(name, value):
        known(name, entry, _STAGE)


def _check_of(kind: Any) -> Callable[[str, Any], Any]:
    """Return the check of a field of a pass over the data."""
    return {int: whole, float: any_number, bool: truth, str: text}[kind]


_STAGE = {
    **{
        name: _check_of(kind)
        for name, kind in get_type_hints(SampleStage).items()
        if kind in (int, float, str)
    },
    "log_likelihoods": _numbers,
}
_PASS = {name: _check_of(kind) for name, kind in get_type_hints(ReadDone).items()}
#: Fitted attributes that are plain values, each with a check of what a file says.
_VALUES: Mapping[str, Callable[[str, Any], Any]] = {
    "converged_": truth,
    "n_iter_": whole,
    "lower_bound_": any_number,
    "lower_bounds_": _numbers,
    "n_features_in_": whole,
    "history_": _passes,
    "sample_history_": _stages,
    "n_reads_": amount,
    "noise_weight_": amount,
    "noise_log_density_": number,
}
#: Settings that are not stored: a file cannot name a place to write to, an executor or a function.
_NOT_STORED = ("callbacks", "checkpoint", "checkpoint_interval", "executor")
_STATISTICS = "statistics."
_INFINITE = {"inf": math.inf, "-inf": -math.inf}
_PRIOR_ARRAYS = ("mean_prior", "covariance_prior")
_PRIOR_NUMBERS: Mapping[str, Callable[[str, Any], Any]] = {
    "mean_precision_prior": amount,
    "degrees_of_freedom_prior": lambda name, value: value is None or number(name, value),
}
_CRITERIA: Mapping[str, Callable[[str, Any], Any]] = {
    "log_likelihood": any_number,
    "n_rows": positive,
    "n_parameters": whole,
    "entropy": amount,
}


def to_record(model: Any) -> Record:
    """Return a fitted estimator as what a file holds: settings, fitted values and arrays."""
    header, arrays = pack_settings(model)
    names = _LOW_RANK if hasattr(model, "loadings_") else _PARAMETERS
    arrays |= {name: np.asarray(getattr(model, name)) for name in names}
    if hasattr(model, _RIDGE):
        arrays[_RIDGE] = model.reg_covar_
    if hasattr(model, _BOX):
        arrays[_BOX] = model.noise_box_
    header["fitted"] |= {
        name: _jsonable(_plain(getattr(model, name))) for name in _VALUES if hasattr(model, name)
    }
    fitted: FittedModel = model.fitted_model_
    if fitted.provenance is not None:
        header["provenance"] = dict(fitted.provenance)
    if fitted.reason is not None:
        header["fitted"][_REASON] = fitted.reason.value
    if fitted.criteria is not None:
        header["criteria"] = _jsonable(asdict(fitted.criteria))
    if fitted.statistics is not None:
        header["statistics"], own = pack_statistics(fitted.statistics)
        arrays |= prefixed(_STATISTICS, own)
    return Record(header, arrays)


def from_record(estimator: Any, record: Record) -> Any:
    """Return the estimator that :func:`to_record` made a record of.

    Raises
    ------
    KeyError, TypeError, ValueError
        If something is missing, unknown, or of the wrong kind.
    """
    header, arrays = record.header, record.arrays
    settings = unpack_settings(record)
    stored = known("fitted values", header["fitted"], {**_VALUES, _REASON: _stop_reason})
    values = _restored(stored)
    n_features = header["fitted"]["n_features_in_"]
    names = feature_names(record, n_features)
    ridge = arrays.get(_RIDGE)
    if ridge is None and isinstance(settings["reg_covar"], int | float):
        # In older files the setting is one number, which is what was used.
        ridge = np.full(n_features, float(settings["reg_covar"]))
    if ridge is not None:
        require_ridge(ridge, n_features)
    parameters = _parameters(settings, arrays, n_features, _noise(values, arrays))
    fitted = FittedModel(
        parameters,
        _statistics(record, parameters),
        ridge,
        names,
        tuple(values.get("history_", ())),
        values.get("n_reads_", 0.0),
        StopReason(values[_REASON]) if _REASON in values else None,
        values.get("converged_", False),
        values.get("n_iter_", 0),
        values.get("lower_bound_", math.nan),
        tuple(values.get("lower_bounds_", ())),
        settings.get("algorithm") == "hard",
        _criteria(header),
        tuple(values.get("sample_history_", ())),
        from_header(header),
        _provenance(header),
    )
    # Values that are computed again differ from the saved ones by rounding.
    return estimator.from_fitted_model(fitted, arrays, **settings)


def _criteria(header: Mapping[str, Any]) -> Criteria | None:
    if "criteria" not in header:
        return None
    return Criteria(**_restored(known("criteria", header["criteria"], _CRITERIA)))


def _provenance(header: Mapping[str, Any]) -> Mapping[str, Any] | None:
    if "provenance" not in header:
        return None
    return known("provenance", header["provenance"], _PROVENANCE)


def _texts(name: str, value: Any) -> None:
    for entry in listed(name, value):
        text(name, entry)


def _texts_by_name(name: str, value: Any) -> None:
    for entry in entries(name, value).values():
        text(name, entry)


_PROVENANCE: Mapping[str, Callable[[str, Any], Any]] = {
    "date": text,
    "cpu": text,
    "versions": _texts_by_name,
    "data": _texts,
    "fingerprint": text,
}


def _stop_reason(name: str, value: Any) -> None:
    """Refuse what is no reason why a fit ended."""
    StopReason(text(name, value))


def _statistics(record: Record, parameters: Parameters) -> Statistics | None:
    """Return the statistics in a record, which must be of the type of the parameters."""
    if "statistics" not in record.header:
        return None
    found = unpack_statistics(
        record.header["statistics"], without_prefix(_STATISTICS, record.arrays)
    )
    if found.frame.covariance_type != parameters.covariance_type:
        raise ValueError("its statistics are of another covariance type")
    return found


def _noise(values: Mapping[str, Any], arrays: Mapping[str, Any]) -> Noise | None:
    """Return the noise of fitted values, which may have none.

    Raises
    ------
    KeyError, ParameterError
        If something is missing, or is no noise.
    """
    if "noise_weight_" not in values:
        return None
    box = np.asarray(arrays.get(_BOX, NO_BOX), dtype=np.float64)
    found = Noise(values["noise_weight_"], values["noise_log_density_"], box)
    found.check()
    return found


def _parameters(
    settings: Mapping[str, Any], arrays: Mapping[str, Any], n_features: int, noise: Noise | None
) -> Parameters:
    """Return the mixture of some arrays, of the size that the settings name."""
    shape = settings["n_components"], n_features
    if settings["covariance_type"] == LOW_RANK_TYPE:
        return _low_rank_parameters(arrays, shape, noise)
    covariance_type = settings["covariance_type"]
    structure = STRUCTURES[covariance_type]
    for name in ("covariances_", "precisions_", "precisions_cholesky_"):
        require_values(name, arrays[name], structure.shape(*shape))
    for name in ("covariances_", "precisions_"):
        require_covariances(structure, name, arrays[name])
    # Parameters refuse a factor whose inverse overflows.
    with np.errstate(all="ignore"):
        upper = np.asarray(arrays["precisions_cholesky_"], dtype=np.float64, order="C")
        parameters = Parameters.from_precisions_cholesky(
            covariance_type,
            arrays["weights_"],
            arrays["means_"],
            arrays["covariances_"],
            upper,
            noise,
        )
    if parameters.means.shape != shape:
        raise ValueError("the means do not have the shape that the settings say")
    return parameters


def _low_rank_parameters(
    arrays: Mapping[str, Any], shape: tuple[int, int], noise: Noise | None
) -> Parameters:
    """Return the mixture of low rank of some arrays, of a number of components and features."""
    loadings = arrays["loadings_"]
    if np.ndim(loadings) != 3:
        raise ValueError("loadings_ do not have three axes")
    name = structure_name(LOW_RANK_TYPE, loadings.shape[2], shape[1])
    require_values("loadings_", loadings, (*shape, loadings.shape[2]))
    require_values("noise_variances_", arrays["noise_variances_"], shape)
    covariances = joined(loadings, arrays["noise_variances_"])
    parameters = Parameters.create(
        name, arrays["weights_"], arrays["means_"], covariances, noise=noise
    )
    if parameters.means.shape != shape:
        raise ValueError("the means do not have the shape that the settings say")
    return parameters


def stored_arrays(parameters: Parameters) -> dict[str, Any]:
    """Return the arrays of a mixture by the names of fitted attributes."""
    found = {"weights_": parameters.weights, "means_": parameters.means}
    if public_type(parameters.covariance_type) == LOW_RANK_TYPE:
        return found | {
            "loadings_": loadings_of(parameters.covariances),
            "noise_variances_": noise_variances_of(parameters.covariances),
        }
    return found | {
        "covariances_": parameters.covariances,
        "precisions_": parameters.precisions,
        "precisions_cholesky_": parameters.precisions_cholesky,
    }


def require_ridge(entries: Any, n_features: int) -> None:
    """Refuse what cannot be added to the diagonals of covariances.

    Raises
    ------
    ParameterError
    """
    require_values("reg_covar_", entries, (n_features,))
    if np.any(entries < 0.0):
        raise ParameterError("reg_covar_ is negative")


def pack_settings(model: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the settings and columns of an estimator: a header, and arrays beside it."""
    settings = model.get_params(deep=False)
    arrays = {
        name: np.asarray(value)
        for name in _INITIAL
        for value in [settings.pop(name, None)]
        if value is not None
    }
    if np.ndim(settings["reg_covar"]):
        arrays["reg_covar"] = np.asarray(settings.pop("reg_covar"), dtype=np.float64)
    for name in _NOT_STORED:
        settings.pop(name, None)
    prior = settings.get("prior")
    if isinstance(prior, Prior):
        settings["prior"], own = _packed_prior(prior)
        arrays |= own
    elif not (prior is None or isinstance(prior, str)):
        # A file holds no code of others.
        del settings["prior"]
    if "fixed" in settings:
        settings["fixed"] = plain_fixed(settings["fixed"])
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
    if hasattr(model, "data_description_"):
        header["data"] = to_header(model.data_description_)
    return header, arrays


def unpack_settings(record: Record) -> dict[str, Any]:
    """Return the settings that :func:`pack_settings` was given; values are not checked.

    Raises
    ------
    KeyError, TypeError, ValueError
        If something is missing or of the wrong kind.
    """
    settings = dict(entries("settings", record.header["settings"]))
    for name in _NOT_STORED:
        # Old files name the executor.
        if settings.pop(name, None) not in (None, "auto"):
            _logger.warning(
                "the setting %s of a model file is ignored: a file cannot choose it", name
            )
    if "fixed" in settings:
        settings["fixed"] = _unpacked_fixed(settings["fixed"], settings["n_components"])
    if isinstance(settings.get("prior"), Mapping):
        settings["prior"] = _unpacked_prior(settings["prior"], record.arrays)
    n_features = record.header["fitted"].get("n_features_in_")
    if "prior" in settings and n_features is not None:
        own = structure_name(settings["covariance_type"], settings.get("rank"), n_features)
        check_prior(settings["prior"], own, n_features)
    stored = (*_INITIAL, "reg_covar")
    return settings | {name: record.arrays[name] for name in stored if name in record.arrays}


def plain_fixed(fixed: Any) -> list[str] | dict[str, list[bool]]:
    """Return the setting ``fixed`` as JSON can say it: names, or lists by name."""
    if not isinstance(fixed, Mapping):
        return list(fixed)
    return {name: np.asarray(mask).tolist() for name, mask in sorted(fixed.items())}


def _unpacked_fixed(fixed: Any, n_components: Any) -> Any:
    """Return the setting that :func:`plain_fixed` was given.

    Raises
    ------
    ValueError
        If a name is unknown, or a list is no mask of the components.
    """
    found = fixed if isinstance(fixed, Mapping) else tuple(listed("fixed", fixed))
    if not set(found) <= set(PARAMETER_NAMES):
        raise ValueError("its fixed parameters are unknown")
    if not isinstance(fixed, Mapping):
        return found
    for name, mask in fixed.items():
        if len([truth(name, entry) for entry in listed(name, mask)]) != n_components:
            raise ValueError(f"its fixed {name} are not of {n_components} component(s)")
    return dict(fixed)


def feature_names(record: Record, n_features: int) -> Any:
    """Return the names of the columns as an array of str, or None.

    Raises
    ------
    ValueError
        If they are not one name per column.
    """
    names = record.header.get("feature_names")
    if names is None:
        return None
    for name in listed("feature_names", names):
        text("feature_names", name)
    if len(names) != n_features:
        raise ValueError(f"it names {len(names)} features")
    return np.array(names, dtype=object)


def _packed_prior(prior: Prior) -> tuple[dict[str, float | None], dict[str, Any]]:
    """Return a prior as numbers of a header and arrays."""
    numbers = {name: _plain(getattr(prior, name)) for name in _PRIOR_NUMBERS}
    arrays = {
        f"prior.{name}": np.asarray(value, dtype=np.float64)
        for name in _PRIOR_ARRAYS
        for value in [getattr(prior, name)]
        if value is not None
    }
    return numbers, arrays


def _unpacked_prior(numbers: Mapping[str, Any], arrays: Mapping[str, Any]) -> Prior:
    """Return the prior that :func:`_packed_prior` was given.

    Raises
    ------
    ValueError
        If a number is unknown or has the wrong type.
    """
    own: dict[str, Any] = {name: arrays.get(f"prior.{name}") for name in _PRIOR_ARRAYS}
    return Prior(**own, **known("prior", numbers, _PRIOR_NUMBERS))


def copy_fitted(origin: Any, target: Any) -> None:
    """Give an estimator copies of the fitted attributes of another of the same vocabulary."""
    for name in (*_PARAMETERS, *_VALUES, "feature_names_in_", "data_description_", "provenance_"):
        if hasattr(origin, name):
            value = getattr(origin, name)
            setattr(target, name, value.copy() if hasattr(value, "copy") else value)


def _jsonable(value: Any) -> Any:
    """Return a value with null for NaN and text for infinity, which JSON has no numbers for."""
    if isinstance(value, Mapping):
        return {key: _jsonable(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value


def _restored(value: Any) -> Any:
    """Return the value that :func:`_jsonable` was given."""
    if isinstance(value, Mapping):
        return {key: _restored(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_restored(entry) for entry in value]
    if value is None:
        return math.nan
    return _INFINITE.get(value, value) if isinstance(value, str) else value


def _plain(value: Any) -> Any:
    """Return a setting or attribute as JSON can say it."""
    return value.item() if isinstance(value, np.generic) else value
