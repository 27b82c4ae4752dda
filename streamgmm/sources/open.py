"""Which source reads which data, decided without importing what is not used."""

import os
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from streamgmm.errors import DataError
from streamgmm.protocols import LazySource, Source
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
    data : str, path-like, array-like, memmap, zarr.Array, dask.array.Array or Source
        A table of shape (N, D). A path is that of a ``.npy`` file or of a Zarr array; lists and
        DataFrames are array-like.
    sample_weight : array or path, optional
        Weights of shape (N,), as an array of any of these kinds or the path of one.

    Returns
    -------
    Source
        What ``fit``, ``predict`` and their kin take. Nothing has been read but metadata.

    Raises
    ------
    DataError
        If there are no such data, they are no table of real numbers or have masked values, or
        weights are given to a source that has them.

    Examples
    --------
    >>> import numpy as np
    >>> import streamgmm
    >>> source = streamgmm.open(np.zeros((1000, 3), dtype="float32"))
    >>> source.n_rows, source.n_features, source.dtype
    (1000, 3, dtype('float32'))
    """
    weights = None if sample_weight is None else _open_weights(sample_weight)
    source = _open_unweighted(data)
    return source if weights is None else _with_weights(source, weights)


def unmasked(data: Any, name: str) -> Any:
    """Data as they are, or the values of a masked array of which nothing is masked.

    Raises
    ------
    DataError
        If a value is masked.
    """
    if not isinstance(data, np.ma.MaskedArray):
        return data
    n_masked = np.count_nonzero(np.ma.getmask(data))
    if n_masked:
        raise DataError(
            f"{name} has {n_masked} masked value(s); fill them with {name}.filled(...) or drop "
            "their rows first"
        )
    return data.data


def _open_unweighted(data: Any) -> Source:
    # First of all, because a Delayed claims to have any attribute, those of a source too.
    if is_from(data, "dask"):
        from streamgmm.sources.dask import DaskSource

        return DaskSource(data)
    if is_source(data):
        return data
    if is_path(data):
        return _open_path(data)
    if is_from(data, "zarr"):
        from streamgmm.sources.zarr import ZarrSource

        return ZarrSource(data)
    data = unmasked(data, "X")
    file = FileSource.from_memmap(data) if isinstance(data, np.memmap) else None
    return file or ArraySource(np.asanyarray(data))


def _open_path(data: str | os.PathLike[str]) -> Source:
    path = Path(data)
    if _is_npy(path):
        return FileSource.from_npy(path)
    from streamgmm.sources.zarr import ZarrSource

    return ZarrSource.from_path(path)


def _is_npy(path: Path) -> bool:
    """Whether a path is that of a ``.npy`` file; else it is that of a Zarr array."""
    if not path.exists():
        raise DataError(f"{path}: no such file or directory")
    if path.suffix == ".npy":
        return True
    if path.suffix == ".zarr" or any((path / name).exists() for name in _ZARR_METADATA):
        return False
    raise DataError(
        f"{path} is neither a .npy file nor a Zarr array (a directory with zarr.json or .zarray); "
        "these can be read"
    )


def _with_weights(source: Source, weights: Any) -> Source:
    if isinstance(source, LazySource):
        from streamgmm.sources.dask import DaskSource

        if isinstance(source, DaskSource):
            return source.with_weights(weights)
    return WeightedSource(source, weights)


def _open_weights(weights: Any) -> Any:
    if is_path(weights):
        return _open_weights_path(Path(weights))
    if is_from(weights, "dask"):
        from streamgmm.sources.dask import check_array

        check_array(weights, "sample_weight")
    weights = unmasked(weights, "sample_weight")
    sliceable = hasattr(weights, "shape") and hasattr(weights, "dtype")
    return weights if sliceable else np.asarray(weights)


def _open_weights_path(path: Path) -> Any:
    if _is_npy(path):
        try:
            return np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, OSError, EOFError) as error:
            raise DataError(f"{path} is not a .npy file that can be read: {error}") from None
    from streamgmm.sources.zarr import open_array

    return open_array(path)
