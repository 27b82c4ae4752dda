"""Transformers, and pipelines of them with a mixture at the end, as records of a file."""

import reprlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from sklearn.pipeline import Pipeline

from streamgmm.archive import Declared
from streamgmm.core.parameters import require_values
from streamgmm.core.structures import Array
from streamgmm.errors import ParameterError
from streamgmm.estimators.described_data import from_header, to_header
from streamgmm.estimators.header_values import amount, entries, known, listed, text, truth, whole
from streamgmm.estimators.records import feature_names
from streamgmm.estimators.validation import check_is_fitted, check_settings
from streamgmm.persistence import Record, prefixed, without_prefix
from streamgmm.preprocessing.deferred import Deferred
from streamgmm.preprocessing.maps import Normalization, Projection, Scaling
from streamgmm.preprocessing.normalizer import Normalizer
from streamgmm.preprocessing.pca import PCA, PREFIX
from streamgmm.preprocessing.scaler import StandardScaler
from streamgmm.preprocessing.transformer import LazyTransformer

#: Transformers that a file may hold, by the names of their classes.
TRANSFORMERS: Mapping[str, type[Any]] = {
    kind.__name__: kind for kind in (StandardScaler, PCA, Normalizer)
}
PIPELINE = "Pipeline"
# Settings that are not stored: a file cannot name an executor or a function.
_NOT_STORED = ("callbacks", "executor")
_MOST_STEPS = 64
#: Fitted values of each transformer, each with a check of a file's value.
_FITTED: Mapping[str, Mapping[str, Callable[[str, Any], Any]]] = {
    "StandardScaler": {"n_features_in_": whole, "with_mean": truth, "with_std": truth},
    "PCA": {
        "n_features_in_": whole,
        "n_samples_": whole,
        "noise_variance_": amount,
        "whiten": truth,
    },
    "Normalizer": {"n_features_in_": whole, "norm": text},
}

#: Function that refuses a header and the arrays that a file declares.
Check = Callable[[Mapping[str, Any], Mapping[str, Declared]], None]


def transformer_record(model: Any) -> Record:
    """Return a fitted transformer as the content of a file."""
    check_is_fitted(model)
    settings = {
        name: value.item() if isinstance(value, np.generic) else value
        for name, value in model.get_params(deep=False).items()
        if name not in _NOT_STORED
    }
    values, arrays = _packed(model._deferred.row_map)
    header: dict[str, Any] = {
        "estimator": type(model).__name__,
        "settings": settings,
        "fitted": {"n_features_in_": model.n_features_in_, **values},
    }
    if hasattr(model, "feature_names_in_"):
        header["feature_names"] = model.feature_names_in_.tolist()
    if hasattr(model, "data_description_"):
        header["data"] = to_header(model.data_description_)
    return Record(header, arrays)


def _packed(row_map: Any) -> tuple[dict[str, Any], dict[str, Array]]:
    """Return a map as values of a header and arrays."""
    if isinstance(row_map, Scaling):
        return {"with_mean": row_map.with_mean, "with_std": row_map.with_std}, {
            "mean_": row_map.mean,
            "var_": row_map.variance,
            "scale_": row_map.scale,
            "n_samples_seen_": row_map.counts,
        }
    if isinstance(row_map, Projection):
        values = {
            "noise_variance_": row_map.noise_variance,
            "n_samples_": row_map.n_rows,
            "whiten": row_map.whiten,
        }
        return values, {
            "mean_": row_map.mean,
            "components_": row_map.components,
            "explained_variance_": row_map.explained_variance,
            "explained_variance_ratio_": row_map.explained_variance_ratio,
            "singular_values_": row_map.singular_values,
        }
    assert isinstance(row_map, Normalization)
    return {"norm": row_map.norm}, {}


def check_transformer(header: Mapping[str, Any], declared: Mapping[str, Declared]) -> None:
    """Refuse the header of no transformer, and arrays that it does not have.

    Raises
    ------
    KeyError, TypeError, ValueError
        If something is missing, unknown, or has the wrong type or shape.
    """
    fitted = entries("fitted values", header["fitted"])
    d = whole("n_features_in_", fitted["n_features_in_"], 1)
    shapes: dict[str, tuple[int, ...]] = {}
    if header["estimator"] == "StandardScaler":
        shapes = dict.fromkeys(("mean_", "var_", "scale_", "n_samples_seen_"), (d,))
    elif header["estimator"] == "PCA":
        components = declared["components_"].shape
        r = components[0] if len(components) == 2 else 0
        if not 1 <= r <= d:
            raise ValueError(f"components_ has shape {components}, for {d} column(s)")
        vectors = ("explained_variance_", "explained_variance_ratio_", "singular_values_")
        shapes = {"mean_": (d,), "components_": (r, d), **dict.fromkeys(vectors, (r,))}
    if declared.keys() != shapes.keys():
        names = reprlib.repr(sorted(declared))
        raise ValueError(f"it holds the arrays {names}; expected {sorted(shapes)}")
    for name, array in declared.items():
        if array.shape != shapes[name]:
            raise ValueError(f"{name} has shape {array.shape}; expected {shapes[name]}")
        if array.dtype.newbyteorder("=") != np.float64:
            raise ValueError(f"{name} holds {array.dtype}")


def transformer_from(record: Record) -> Any:
    """Return the transformer that :func:`transformer_record` made a record of.

    Raises
    ------
    KeyError, TypeError, ValueError
        If something is missing, unknown, or of the wrong kind.
    """
    kind = TRANSFORMERS[record.header["estimator"]]
    settings = entries("settings", record.header["settings"])
    allowed = set(kind().get_params(deep=False)) - set(_NOT_STORED)
    unknown = sorted(settings.keys() - allowed)
    if unknown:
        raise ValueError(f"its settings have an unknown entry {reprlib.repr(unknown[0])}")
    model = kind(**settings)
    check_settings(model)
    model._deferred = _unpacked(record)
    n_features = record.header["fitted"]["n_features_in_"]
    model.n_features_in_ = n_features
    names = feature_names(record, n_features)
    if names is not None:
        model.feature_names_in_ = names
    described = from_header(record.header)
    if described is not None:
        model.data_description_ = described
    return model


def _unpacked(record: Record) -> Deferred[Any]:
    """Return the map that :func:`_packed` was given."""
    kind, fitted = record.header["estimator"], record.header["fitted"]
    d = known("fitted values", fitted, _FITTED[kind])["n_features_in_"]
    arrays = {name: np.asarray(array, order="C") for name, array in record.arrays.items()}
    for name, array in arrays.items():
        require_values(name, array, array.shape)
        if name not in ("mean_", "components_") and np.any(array < 0.0):
            raise ValueError(f"{name} is negative")
    if kind == "StandardScaler":
        if not (np.all(arrays["scale_"] > 0.0) and np.all(arrays["n_samples_seen_"] > 0.0)):
            raise ValueError("a scale or a number of values is not positive")
        scaling = Scaling(
            arrays["mean_"],
            arrays["var_"],
            arrays["scale_"],
            arrays["n_samples_seen_"],
            fitted["with_mean"],
            fitted["with_std"],
        )
        return Deferred(scaling, d)
    if kind == "PCA":
        projection = Projection(
            arrays["mean_"],
            arrays["components_"],
            arrays["explained_variance_"],
            arrays["explained_variance_ratio_"],
            arrays["singular_values_"],
            fitted["noise_variance_"],
            fitted["n_samples_"],
            fitted["whiten"],
        )
        return Deferred(projection, projection.n_outputs, PREFIX)
    return Deferred(Normalization.checked(fitted["norm"], d), d, is_affine=False)


def pipeline_record(pipeline: Pipeline, record_of: Callable[[Any], Record]) -> Record:
    """Return a fitted pipeline as the content of a file.

    Parameters
    ----------
    pipeline : sklearn.pipeline.Pipeline
        Transformers of this package, and perhaps a mixture at the end.
    record_of : callable
        Returns the record of a step.

    Raises
    ------
    ParameterError
        If a step is something else.
    """
    steps: list[dict[str, Any]] = []
    arrays: dict[str, Any] = {}
    for i, (name, model) in enumerate(pipeline.steps):
        is_last = i == len(pipeline.steps) - 1
        if not (is_last or isinstance(model, LazyTransformer)):
            raise ParameterError(
                f"step {name!r} of the pipeline is {reprlib.repr(model)}; a model file holds the "
                "transformers of streamgmm.preprocessing, and a mixture as the last step"
            )
        own = record_of(model)
        steps.append({"name": name, "header": dict(own.header)})
        arrays |= prefixed(f"{i}.", own.arrays)
    return Record({"estimator": PIPELINE, "steps": steps}, arrays)


def check_pipeline(
    header: Mapping[str, Any],
    declared: Mapping[str, Declared],
    check_step: Check,
) -> None:
    """Refuse the header of no pipeline, and arrays that its steps do not have.

    Parameters
    ----------
    header, declared : mapping
    check_step : callable
        Refuses the header of a step and its arrays.

    Raises
    ------
    KeyError, TypeError, ValueError
        If something is missing, unknown, or has the wrong type or shape.
    """
    steps = _steps(header)
    for i, (_, own) in enumerate(steps):
        kind = text("estimator", own["estimator"])
        is_last = i == len(steps) - 1
        if kind == PIPELINE or not (is_last or kind in TRANSFORMERS):
            raise ValueError(f"step {i} of its pipeline is a {reprlib.repr(kind)}")
        check_step(own, without_prefix(f"{i}.", declared))
    prefixes = tuple(f"{i}." for i in range(len(steps)))
    unknown = [name for name in declared if not name.startswith(prefixes)]
    if unknown:
        raise ValueError(f"it holds an unknown array {unknown[0][:80]!r}")


def _steps(header: Mapping[str, Any]) -> Sequence[tuple[str, Mapping[str, Any]]]:
    """Return the names and the headers of the steps of a pipeline."""
    steps = listed("steps", header["steps"], _MOST_STEPS)
    if not steps:
        raise ValueError("its pipeline has no step")
    checks: Mapping[str, Callable[[str, Any], Any]] = {"name": text, "header": entries}
    for step in steps:
        known("steps", step, checks)
    names = [step["name"] for step in steps]
    if len(set(names)) < len(names) or any("__" in name or not name for name in names):
        raise ValueError(f"the names of its steps are {reprlib.repr(names)}")
    return [(step["name"], step["header"]) for step in steps]


def pipeline_from(record: Record, model_from: Callable[[str, Record], Any]) -> Pipeline:
    """Return the pipeline that :func:`pipeline_record` made a record of.

    Parameters
    ----------
    record : Record
    model_from : callable
        Returns the model of a class from its record.

    Raises
    ------
    KeyError, TypeError, ValueError
        If something is missing, unknown, or of the wrong kind.
    """
    steps: list[tuple[str, Any]] = []
    n_columns = None
    for i, (name, header) in enumerate(_steps(record.header)):
        own = Record(header, without_prefix(f"{i}.", record.arrays))
        model = model_from(header["estimator"], own)
        expected = getattr(model, "n_features_in_", n_columns)
        if n_columns is not None and expected != n_columns:
            raise ValueError(f"step {name!r} takes {expected} columns, but gets {n_columns}")
        if isinstance(model, LazyTransformer):
            n_columns = model._deferred.n_outputs
        model._has_names_of_pipeline = bool(steps)
        steps.append((name, model))
    return Pipeline(steps)
