"""Models from files, of whichever class they were."""

import os
import reprlib
from collections.abc import Callable, Mapping
from typing import Any

from streamgmm.archive import Declared
from streamgmm.estimators.gaussian_mixture import GaussianMixture
from streamgmm.estimators.model_layout import check_arrays
from streamgmm.estimators.online_mixture import OnlineGaussianMixture
from streamgmm.estimators.online_records import from_online_record
from streamgmm.estimators.records import from_record
from streamgmm.persistence import Record, read_record, refusing

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
    """
    record = read_record(path, _check)
    with refusing(str(path)):
        return _CLASSES[record.header["estimator"]](record)


def _check(header: Mapping[str, Any], declared: Mapping[str, Declared]) -> None:
    """Refuse a model of an unknown class, and arrays that its class does not have."""
    name = header.get("estimator")
    if not isinstance(name, str) or name not in _CLASSES:
        raise ValueError(f"it holds a {reprlib.repr(name)}, which this release does not know")
    check_arrays(header, declared)
