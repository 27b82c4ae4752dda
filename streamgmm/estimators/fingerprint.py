"""Data, settings and versions, which decide the result of a fit, as plain values to compare."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import fields
from importlib.metadata import version
from numbers import Integral
from typing import Any

import numpy as np

from streamgmm.core.parameters import Parameters
from streamgmm.core.priors import Prior
from streamgmm.core.structures import Array
from streamgmm.estimators.outputs import description
from streamgmm.estimators.records import plain_fixed
from streamgmm.options import CovarianceType
from streamgmm.protocols import LazySource, Source, all_chunks, regions_of

# Settings that do not change the result, or that the fingerprint holds in another form.
_INDIFFERENT = (
    "callbacks",
    "checkpoint",
    "checkpoint_interval",
    "executor",
    "fixed",
    "memory_limit",
    "n_jobs",
    "random_state",
    "verbose",
    "verbose_interval",
)
_VERSIONS = ("streamgmm", "numpy", "scipy", "numba")
# Largest chunk that is read for the fingerprint, and the number of rows that it takes from each.
_MOST_BYTES, _ROWS = 64 << 20, 64


def fingerprint(
    model: Any,
    source: Source,
    start: Parameters | None,
    ridge: Array | None,
    sample_bytes: int,
) -> dict[str, Any]:
    """Return what decides the result of fitting a model to data, as JSON can say it.

    Parameters
    ----------
    model : estimator
    source : Source
        Some rows are read if it is in memory or on a disk, and its chunks are not large.
    start : Parameters or None
        What reads begin with; None if it is found on a sample.
    ridge : ndarray of shape (n_features,), or None
        What is added to variances; None if it is found on a sample.
    sample_bytes : int
        Memory that this sample may take.
    """
    known = _settings(model)
    fixed = plain_fixed(model.fixed)
    known["fixed"] = sorted(fixed) if isinstance(fixed, list) else fixed
    if start is not None:
        values: list[Any] = [start.weights, start.means, start.covariances]
        if start.noise is not None:
            values += [start.noise.weight, start.noise.log_density, start.noise.box]
        known["start"] = _digest(values)
        if isinstance(model.reg_covar, str) and ridge is not None:
            known["reg_covar of the start"] = _digest([ridge])
    elif model.algorithm != "em":
        known["bytes of the sample, by memory_limit"] = sample_bytes
    return {**known, **_data(source), **_versions()}


def clustering_fingerprint(model: Any, source: Source, sample_bytes: int) -> dict[str, Any]:
    """Return what decides the result of clustering data, as JSON can say it.

    Parameters
    ----------
    model : KMeans
    source : Source
    sample_bytes : int
        Memory that the sample may take.
    """
    known = {**_settings(model), "bytes of the sample, by memory_limit": sample_bytes}
    return {"estimator": type(model).__name__, **known, **_data(source), **_versions()}


def search_fingerprint(
    model: Any,
    source: Source,
    sizes: Sequence[int],
    kinds: Sequence[CovarianceType],
    sample_bytes: int,
) -> dict[str, Any]:
    """Return what decides the result of a search among mixtures, as JSON can say it.

    Parameters
    ----------
    model : GaussianMixtureSearch
    source : Source
    sizes : sequence of int
        Numbers of components.
    kinds : sequence of str
        Covariance structures.
    sample_bytes : int
        Memory that the sample may take.
    """
    known = {
        **_settings(model, ("n_components", "covariance_type")),
        "n_components": [*sizes],
        "covariance_type": [*kinds],
        "fixed": sorted(model.fixed),
        "bytes of the sample, by memory_limit": sample_bytes,
    }
    return {"estimator": type(model).__name__, **known, **_data(source), **_versions()}


def _settings(model: Any, others: Sequence[str] = ()) -> dict[str, Any]:
    """Return the settings that decide what is found, without those that are said otherwise."""
    known: dict[str, Any] = {
        name: _plain(value)
        for name, value in model.get_params(deep=False).items()
        if name not in (*_INDIFFERENT, *others)
    }
    seed = model.random_state
    known["random_state"] = int(seed) if isinstance(seed, Integral) else type(seed).__name__
    return known


def _versions() -> dict[str, str]:
    return {f"version of {name}": version(name) for name in _VERSIONS}


def _digest(arrays: Iterable[Any]) -> str:
    """Return a digest of the values of some arrays."""
    found = hashlib.sha256()
    for array in arrays:
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()[:16]


def data_fingerprint(source: Source) -> dict[str, Any]:
    """Return what the metadata say of data; nothing of them is read."""
    region_of = regions_of(source)
    boxes = ([(along.start, along.stop) for along in region_of(i)] for i in all_chunks(source))
    known = {
        **description(source),
        "data weights": source.has_weights,
        "digest of the chunks": _digest(np.array(box) for box in boxes),
    }
    if isinstance(source, LazySource):
        # Dask gives some arrays another name in each process.
        del known["data"]
    return known


def _data(source: Source) -> dict[str, Any]:
    """Return what is known of data before they are read, and of some rows at hand."""
    rows = _digest(_some_rows(source)) if _is_at_hand(source) else None
    return {**data_fingerprint(source), "digest of some rows": rows}


def _is_at_hand(source: Source) -> bool:
    is_near = source.read_bytes == 0 or source.location is not None
    return is_near and source.read_bytes <= _MOST_BYTES and not isinstance(source, LazySource)


def _some_rows(source: Source) -> Iterable[Any]:
    """Return the rows, and weights, of the first chunk, the middle one and the last."""
    n_chunks = len(all_chunks(source))
    for i in sorted({0, n_chunks // 2, n_chunks - 1}):
        chunk = source.read(i)
        step = max(1, len(chunk.rows) // _ROWS)
        yield chunk.rows[::step]
        if chunk.weights is not None:
            yield chunk.weights[::step]


def _plain(value: Any) -> Any:
    """Return a setting as a JSON value: arrays as digests, functions and objects as names."""
    if isinstance(value, Prior):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if hasattr(value, "pseudo_rows"):
        return type(value).__qualname__
    if callable(value):
        return getattr(value, "__qualname__", type(value).__qualname__)
    if value is None or isinstance(value, (str, bool, int)):
        return value
    array = np.asarray(value, dtype=np.float64)
    return array.item() if array.ndim == 0 else _digest([array])
