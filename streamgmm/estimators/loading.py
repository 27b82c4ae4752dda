"""Models from files, of whichever class they were."""

import os
from collections.abc import Callable, Mapping

from streamgmm.errors import ModelFileError
from streamgmm.estimators.gaussian_mixture import GaussianMixture
from streamgmm.estimators.online_mixture import OnlineGaussianMixture
from streamgmm.estimators.online_records import from_online_record
from streamgmm.estimators.records import from_record
from streamgmm.persistence import Record, read_record

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
    record = read_record(path)
    name = str(record.header.get("estimator"))
    if name not in _CLASSES:
        raise ModelFileError(f"{path} holds a {name}, which this release does not know")
    try:
        return _CLASSES[name](record)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ModelFileError(f"{path} is damaged: {error}") from error
