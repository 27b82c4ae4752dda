"""The origin of a fitted mixture: data, versions, machine and date, as plain values."""

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from typing import Any

import llvmlite.binding

from streamgmm.estimators.fingerprint import data_fingerprint
from streamgmm.protocols import Source, locations_of
from streamgmm.urls import without_credentials

_LIBRARIES = ("streamgmm", "numpy", "scipy", "numba", "scikit-learn", "zarr", "dask")
# Number of files that are named; of further files only the number is given.
_MOST_NAMED = 100


def provenance_of(source: Source) -> dict[str, Any]:
    """Return where a mixture comes from that has just been fitted.

    Parameters
    ----------
    source : Source
        The data. Nothing of them is read.

    Returns
    -------
    provenance : dict of str to JSON values
        ``date`` (UTC), ``cpu``, ``versions`` of libraries by name, ``data`` (the locations, or a
        name, without credentials), and ``fingerprint``, a digest of what the metadata say of the
        data: names, shape, type, chunks and treatment of missing values.
    """
    places = [str(place) for place in locations_of(source)] or [source.name]
    named = [without_credentials(place) for place in places[:_MOST_NAMED]]
    if len(places) > _MOST_NAMED:
        named.append(f"and {len(places) - _MOST_NAMED} more")
    described = json.dumps(data_fingerprint(source), sort_keys=True, default=str)
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": _cpu(),
        "versions": dict(_versions()),
        "data": named,
        "fingerprint": hashlib.sha256(described.encode()).hexdigest()[:32],
    }


@cache
def _versions() -> Mapping[str, str]:
    return {name: version(name) for name in _LIBRARIES}


@cache
def _cpu() -> str:
    name: str = llvmlite.binding.get_host_cpu_name()
    return name
