"""Which source reads which data, decided without importing what is not used."""

import os
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from streamgmm.errors import DataError
from streamgmm.protocols import Source
from streamgmm.sources.array import ArraySource, FileSource
from streamgmm.sources.weighted import WeightedSource

_ZARR_METADATA = ("zarr.json", ".zarray", ".zgroup")


def is_path(data: Any) -> TypeGuard[str | os.PathLike[str]]:
    """Whether data are named by a path rather than given."""
    return isinstance(data, (str, os.PathLike))


def is_source(data: Any) -> TypeGuard[Source]:
    """Whether data are described already."""
    return hasattr(data, "boundaries") and hasattr(data, "read")


def is_from(data: Any, package: str) -> bool:
    """Whether an object's type is defined in a package, without importing the package."""
    return type(data).__module__.partition(".")[0] == package


def open_source(data: Any, *, sample_weight: Any = None) -> Source:
    """Describe data once, for every method that reads them.

    Parameters
    ----------
    data : str, path-like, ndarray, memmap, zarr.Array, dask.array.Array or Source
        A path is that of a ``.npy`` file or of a Zarr array. A table of shape (N, D).
    sample_weight : array or path, optional
        Weights of shape (N,), as an array of any of these kinds or the path of one.

    Returns
    -------
    Source
        What ``fit``, ``predict`` and their kin take. Nothing has been read but metadata.

    Raises
    ------
    DataError
        If there are no such data, or they are no table of real numbers.

    Examples
    --------
    >>> import numpy as np
    >>> import streamgmm
    >>> source = streamgmm.open(np.zeros((1000, 3), dtype="float32"))
    >>> source.n_rows, source.n_features, source.dtype
    (1000, 3, dtype('float32'))
    """
    weights = None if sample_weight is None else _open_weights(sample_weight)
    if is_from(data, "dask"):
        from streamgmm.sources.dask import DaskSource

        return DaskSource(data, weights)
    source = _open_unweighted(data)
    return source if weights is None else WeightedSource(source, weights)


def _open_unweighted(data: Any) -> Source:
    if is_source(data):
        return data
    if is_path(data):
        return _open_path(data)
    if is_from(data, "zarr"):
        from streamgmm.sources.zarr import ZarrSource

        return ZarrSource(data)
    file = FileSource.from_memmap(data) if isinstance(data, np.memmap) else None
    return file or ArraySource(np.asanyarray(data))


def _open_path(data: str | os.PathLike[str]) -> Source:
    path = Path(data)
    if not path.exists():
        raise DataError(f"{path}: no such file or directory")
    if path.suffix == ".npy":
        return FileSource.from_npy(path)
    if path.suffix == ".zarr" or any((path / name).exists() for name in _ZARR_METADATA):
        from streamgmm.sources.zarr import ZarrSource

        return ZarrSource.from_path(path)
    raise DataError(
        f"{path} is neither a .npy file nor a Zarr array (a directory with zarr.json or .zarray); "
        "these can be read"
    )


def _open_weights(weights: Any) -> Any:
    if not is_path(weights):
        sliceable = hasattr(weights, "shape") and hasattr(weights, "dtype")
        return weights if sliceable else np.asarray(weights)
    path = Path(weights)
    if not path.exists():
        raise DataError(f"{path}: no such file or directory")
    if path.suffix == ".npy":
        try:
            return np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, OSError, EOFError) as error:
            raise DataError(f"{path} is not a .npy file that can be read: {error}") from None
    from streamgmm.sources.zarr import open_array

    return open_array(path)
