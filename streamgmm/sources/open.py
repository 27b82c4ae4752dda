"""Which source reads which data, decided without importing what is not used."""

import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard, get_args

import numpy as np
from numpy.typing import NDArray

from streamgmm.errors import DataError, ParameterError
from streamgmm.options import Missing
from streamgmm.packages import needed_by
from streamgmm.paths import why_absent
from streamgmm.protocols import LazySource, Source
from streamgmm.sources.array import ArraySource, FileArray, FileSource
from streamgmm.sources.arraylike import as_array
from streamgmm.sources.columns import refuse_duplicates
from streamgmm.sources.table_formats import (
    LOGS,
    folders_above,
    names_in_local,
    refuse_table_with_log,
)
from streamgmm.sources.urls import (
    PARQUET_SUFFIXES,
    is_pattern,
    is_url,
    split,
    suffix,
    without_credentials,
)
from streamgmm.sources.values import NO_RULES, ValueRules
from streamgmm.sources.weighted import WeightedSource

if TYPE_CHECKING:
    from streamgmm.sources.remote.filesystem import RemoteFile

_ZARR_METADATA = ("zarr.json", ".zarray", ".zgroup")
_HDF5_SUFFIXES = (".h5", ".hdf5", ".he5", ".nc", ".nc4")
#: Suffixes of the files and stores that can be read.
TABLE_SUFFIXES = (".npy", ".zarr", *_HDF5_SUFFIXES, *PARQUET_SUFFIXES)


def is_path(data: Any) -> TypeGuard[str | os.PathLike[str]]:
    """Return whether data are named by a path or URL rather than given."""
    return isinstance(data, (str, os.PathLike))


def is_source(data: Any) -> TypeGuard[Source]:
    """Return whether data are described already."""
    # The class is asked, because a DataFrame may have columns with these names.
    return callable(getattr(type(data), "read", None)) and hasattr(data, "boundaries")


def is_stored_table(path: Path) -> bool:
    """Whether a path looks like one table: a Zarr store, or a file of a suffix that is known."""
    if path.is_dir():
        return any((path / name).exists() for name in _ZARR_METADATA)
    return path.suffix.lower() in (".npy", *_HDF5_SUFFIXES, *PARQUET_SUFFIXES) and path.is_file()


def is_from(data: Any, package: str) -> bool:
    """Return whether an object's type is defined in a package, without importing the package."""
    return type(data).__module__.partition(".")[0] == package


def open_source(
    data: Any,
    *,
    variables: Sequence[str] | None = None,
    feature_dim: str | None = None,
    path: str | None = None,
    columns: Sequence[str] | None = None,
    missing: Missing | None = None,
    sample_weight: Any = None,
    storage_options: Mapping[str, Any] | None = None,
) -> Source:
    """Describe data once, for every method that reads them.

    Parameters
    ----------
    data : str, path-like, array-like or Source
        A table of shape (N, D): an array-like, memory map or data frame (pandas, polars, pyarrow
        and other Arrow tables, whose null values are NaN); a pyarrow.dataset.Dataset; an
        open Zarr array or group, HDF5 dataset, Dask array, xarray Dataset or DataArray; or the path or URL of a ``.npy`` file, a Zarr store, an HDF5
        file, a Parquet file, a folder or glob pattern of Parquet files. Reading from a URL is
        tried again if it fails now and then.
    variables : sequence of str, optional
        Arrays of an xarray Dataset, Zarr group or netCDF file that are the features; they share
        their dimensions, which are the samples.
    feature_dim : str, optional
        The dimension of labelled arrays that the features lie along.
    path : str, optional
        The array within a Zarr store or HDF5 file; ``"file.h5::/group/data"`` says the same.
    columns : sequence of str, optional
        Columns of a data frame, of a data set or of Parquet files, each once.
    missing : {"error", "drop", "em"}, optional
        What is done with rows that hold NaN, or values that the data mask or mark as missing
        (``_FillValue`` and its kin). "error" refuses them. "drop" excludes their rows from a fit
        and says how many there were; predictions keep their places, with the label -1 and NaN.
        "em" uses the values that they have: maximum likelihood with incomplete rows, exact if
        values are missing at random; rows without any value are skipped. By default what the
        source says, and "error" for other data.
    sample_weight : array or path, optional
        Weights of shape (N,), as an array of any of these kinds or the path or URL of one; of
        xarray data also of the shape of the samples, or a DataArray along some of their dimensions.
    storage_options : mapping, optional
        What URLs need, of the data and of weights, credentials for instance; fsspec's options for
        their protocol.

    Returns
    -------
    Source
        What ``fit``, ``predict`` and their kin take. Nothing has been read but metadata.

    Raises
    ------
    DataError
        If there are no such data, they are no table of real numbers or have masked values, two
        columns have the same name, or weights are given to a source that has them.
    ParameterError
        If an option has no meaning for these data.

    Examples
    --------
    >>> import numpy as np
    >>> import streamgmm
    >>> source = streamgmm.open(np.zeros((1000, 3), dtype="float32"), missing="drop")
    >>> source.n_rows, source.n_features, source.dtype
    (1000, 3, dtype('float32'))
    """
    weights = None if sample_weight is None else _open_weights(sample_weight, storage_options)
    options = {
        "variables": _names(variables),
        "feature_dim": feature_dim,
        "path": path,
        "columns": _names(columns),
        "storage_options": storage_options,
    }
    given = {name: value for name, value in options.items() if value is not None}
    for name in ("columns", "variables"):
        refuse_duplicates(name, given.get(name, ()))
    if is_path(sample_weight) and "storage_options" not in _kind_of(data).options:
        given.pop("storage_options", None)
    source = _open(data if missing in ("drop", "em") else unmasked(data, "X"), given)
    if missing is not None:
        source = _with_missing(source, missing)
    return source if weights is None else _with_weights(source, weights)


def unmasked(data: Any, name: str) -> Any:
    """Return the data as they are, or the values of a masked array of which nothing is masked.

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


def _names(names: str | Sequence[str] | None) -> Sequence[str] | None:
    """Return the names; a string is one, not a sequence of letters."""
    return [names] if isinstance(names, str) else names


@dataclass(frozen=True)
class _Kind:
    """A kind of data, what opens it, and the options that it takes."""

    name: str
    open: Callable[..., Source]
    options: frozenset[str] = frozenset()


def _open(data: Any, options: dict[str, Any]) -> Source:
    kind = _kind_of(data)
    unused = sorted(options.keys() - kind.options)
    if unused:
        taken = f"; {kind.name} takes {_arguments(kind.options)}" if kind.options else ""
        raise ParameterError(
            f"{', '.join(unused)} has no meaning for {kind.name}; "
            f"remove {_arguments(unused)}{taken}"
        )
    if is_path(data) and "path" not in kind.options:
        location, inner = split(os.fspath(data))
        if inner is not None:
            raise ParameterError(
                f"{without_credentials(location)} is {kind.name}, which holds one table; remove "
                f"::{inner}"
            )
    with needed_by(kind.name):
        source = kind.open(data, **options)
    refuse_duplicates(source.name, source.feature_names or ())
    return source


def _arguments(names: Iterable[str]) -> str:
    """Return names of arguments for a message, as they are written in a call."""
    return ", ".join(f"{name}=" for name in sorted(names))


def _kind_of(data: Any) -> _Kind:
    # First of all, because a Delayed claims to have any attribute, those of a source too.
    if is_from(data, "dask"):
        return _DASK
    if is_source(data):
        return _SOURCE
    if is_path(data):
        return _kind_of_path(os.fspath(data))
    if isinstance(data, np.ndarray | list | tuple):
        return _ARRAY
    for package, kind in _KINDS.items():
        if is_from(data, package):
            return kind
    if _is_dataset(data):
        return _DATASET
    from streamgmm.sources.frame import is_frame

    return _FRAME if is_frame(data) else _ARRAY


def _is_dataset(data: Any) -> bool:
    """Return whether data are a data set of pyarrow, or of a library that derives its own."""
    module = sys.modules.get("pyarrow.dataset")
    return module is not None and isinstance(data, module.Dataset)


def is_stream(data: Any) -> bool:
    """Return whether data are an Arrow stream of rows that come once, and no table in memory."""
    if not hasattr(type(data), "__arrow_c_stream__"):
        return False
    from streamgmm.sources.frame import is_arrow_stream

    return is_arrow_stream(data)


def _kind_of_path(text: str) -> _Kind:
    """Return the kind of the data at a path or URL.

    Raises
    ------
    DataError
        If there is nothing, or nothing that can be read.
    """
    location, _ = split(text)
    if not location:
        raise DataError("the path of the data is empty; name a file, a folder or a URL")
    kind = _kind_of_suffix(location)
    if not is_url(location):
        kind = _kind_of_local(location, kind)
    if kind is None:
        raise DataError(
            f"{without_credentials(location)} is neither a .npy file nor a Zarr array (a directory "
            "with zarr.json or .zarray), nor an HDF5 file (.h5), nor a Parquet file (.parquet) or "
            "a folder of them; convert it to one of these; a URL has to end in .npy, .zarr, .h5 or "
            ".parquet"
        )
    return kind


def _kind_of_suffix(location: str) -> _Kind | None:
    # A file that says where the chunks of a Zarr store are, in files of any kind.
    if location.startswith(("reference://", "reference::")):
        return _ZARR
    ending = suffix(location)
    if ending in _HDF5_SUFFIXES:
        return _HDF5
    if ending in PARQUET_SUFFIXES:
        return _PARQUET
    return {".npy": _NPY, ".zarr": _ZARR}.get(ending)


def _kind_of_local(location: str, kind: _Kind | None) -> _Kind | None:
    """Return the kind of the data at a local path, whose suffix says the given kind."""
    path = Path(location)
    reason = why_absent(path)
    if reason is not None and is_pattern(location):
        if kind is not _PARQUET:
            for folder in folders_above(str(path.absolute())):
                refuse_table_with_log(folder, LOGS, names_in_local)
            raise DataError(_not_a_pattern(path))
        return kind
    if reason is not None:
        raise DataError(reason)
    if not path.is_dir():
        return kind
    if any((path / name).exists() for name in _ZARR_METADATA):
        return _ZARR
    if any(next(path.rglob(f"*{s}"), None) for s in PARQUET_SUFFIXES):
        return _PARQUET
    refuse_table_with_log(location, LOGS, names_in_local)
    return kind


def _not_a_pattern(pattern: Path) -> str:
    """Return the message for a pattern that is not one of Parquet files."""
    return (
        f"{pattern} is a pattern, and patterns stand for Parquet files alone: let it end in "
        ".parquet, or name one file; streamgmm.update learns files of other kinds one by one"
    )


def _file(location: str, storage_options: Mapping[str, Any] | None = None) -> "Path | RemoteFile":
    """Return the file at a path or URL."""
    if not is_url(location):
        # Another process, or this one later, may be in another folder.
        return Path(location).absolute()
    with needed_by(without_credentials(location)):
        from streamgmm.sources.remote.filesystem import RemoteFile

    return RemoteFile.at(location, storage_options)


def _open_dask(array: Any) -> Source:
    from streamgmm.sources.dask import DaskSource

    return DaskSource(array)


def _open_npy(
    path: str | os.PathLike[str], storage_options: Mapping[str, Any] | None = None
) -> Source:
    location, _ = split(os.fspath(path))
    return FileSource.from_npy(_file(location, storage_options))


def _open_array(data: Any) -> Source:
    if np.ma.is_masked(data):
        return ArraySource(data)
    data = unmasked(data, "X")
    file = FileSource.from_memmap(data) if isinstance(data, np.memmap) else None
    return file or ArraySource(as_array(data, "X"))


def _open_frame(frame: Any, columns: Sequence[str] | None = None) -> Source:
    from streamgmm.sources.frame import FrameSource

    return FrameSource(frame, columns)


def _open_dataset(dataset: Any, columns: Sequence[str] | None = None) -> Source:
    from streamgmm.sources.dataset import DatasetSource, rows_in_memory

    rows = rows_in_memory(dataset)
    return DatasetSource(dataset, columns) if rows is None else _open_frame(rows, columns)


def _open_zarr(
    data: Any,
    path: str | None = None,
    variables: Sequence[str] | None = None,
    feature_dim: str | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> Source:
    if is_path(data):
        data, inner = split(os.fspath(data))
        path = path or inner
    if variables is not None or feature_dim is not None:
        from streamgmm.sources.xarray import XarraySource, open_zarr

        dataset = open_zarr(data, path, storage_options, variables)
        return XarraySource(dataset, variables, feature_dim)
    from streamgmm.sources.zarr import ZarrSource, open_array

    return ZarrSource(open_array(data, path, storage_options))


def _open_hdf5(
    data: Any,
    path: str | None = None,
    variables: Sequence[str] | None = None,
    feature_dim: str | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> Source:
    from streamgmm.sources.hdf5 import Hdf5Source

    is_labelled = variables is not None or feature_dim is not None
    if not is_path(data):
        if is_labelled:
            raise ParameterError(
                "variables= and feature_dim= need the path of an HDF5 file, but X is open already; "
                "close it and give its path"
            )
        if path is not None and path not in data:
            raise DataError(f"{data.file.filename}::{data.name} holds no {path!r}")
        return Hdf5Source(data if path is None else data[path])
    location, inner = split(os.fspath(data))
    path = path or inner
    file = _file(location, storage_options)
    if is_labelled:
        from streamgmm.sources.xarray import XarraySource, open_netcdf

        dataset = open_netcdf(location if isinstance(file, Path) else file, path, variables)
        return XarraySource(dataset, variables, feature_dim)
    return Hdf5Source.from_path(file, path)


def _open_parquet(
    data: str | os.PathLike[str],
    columns: Sequence[str] | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> Source:
    from streamgmm.sources.parquet import ParquetSource

    return ParquetSource(os.fspath(data), columns, storage_options)


def _open_xarray(
    data: Any, variables: Sequence[str] | None = None, feature_dim: str | None = None
) -> Source:
    from streamgmm.sources.xarray import XarraySource

    return XarraySource(data, variables, feature_dim)


_LABELLED = frozenset({"variables", "feature_dim"})
_SOURCE = _Kind("a source", lambda source: source)
_ARRAY = _Kind("an array", _open_array)
_NPY = _Kind("a .npy file", _open_npy, frozenset({"storage_options"}))
_DASK = _Kind("a Dask collection", _open_dask)
_ZARR = _Kind("a Zarr store", _open_zarr, _LABELLED | {"path", "storage_options"})
_HDF5 = _Kind("an HDF5 file", _open_hdf5, _LABELLED | {"path", "storage_options"})
_PARQUET = _Kind("Parquet", _open_parquet, frozenset({"columns", "storage_options"}))
_XARRAY = _Kind("xarray data", _open_xarray, _LABELLED)
_DATASET = _Kind("a data set of pyarrow", _open_dataset, frozenset({"columns"}))
_FRAME = _Kind("a DataFrame", _open_frame, frozenset({"columns"}))
# By the package that defines the type of what is given.
_KINDS = {"zarr": _ZARR, "h5py": _HDF5, "xarray": _XARRAY}


def _with_missing(source: Source, missing: Missing) -> Source:
    if missing not in get_args(Missing):
        raise ParameterError(
            f"missing is {missing!r}; choose one of {', '.join(get_args(Missing))}"
        )
    described = copy(source)
    described.missing = missing
    return described


def _with_weights(source: Source, weights: Any) -> Source:
    rules = _weight_rules(weights)
    if is_from(weights, "xarray"):
        from streamgmm.sources.xarray import XarraySource, weights_of

        if isinstance(source, XarraySource):
            weights = weights_of(source, weights)
        elif weights.chunks is None:
            weights = weights.values
        else:
            weights = _open_weights(weights.data, None)
    if isinstance(source, LazySource):
        from streamgmm.sources.dask import DaskSource

        if isinstance(source, DaskSource):
            return source.with_weights(weights, rules)
    return WeightedSource(source, weights, rules)


def _open_weights(weights: Any, storage_options: Mapping[str, Any] | None) -> Any:
    if is_path(weights):
        weights = _open_weights_path(os.fspath(weights), storage_options)
    if is_from(weights, "zarr"):
        from streamgmm.sources.guarded import guarded_array
        from streamgmm.sources.zarr import open_array

        return guarded_array(open_array(weights))
    if is_from(weights, "dask"):
        from streamgmm.sources.dask import usable_weights

        return usable_weights(weights)
    weights = unmasked(weights, "sample_weight")
    return weights if _slices_to_numbers(weights) else _weights_in_memory(weights)


def _slices_to_numbers(data: Any) -> bool:
    """Return whether an array need not be converted, and may be read in parts."""
    dtype = getattr(data, "dtype", None)
    is_array = hasattr(data, "shape") and isinstance(dtype, np.dtype) and dtype.kind != "O"
    return is_array and not is_from(data, "pandas")


def _weights_in_memory(weights: Any) -> NDArray[Any]:
    from streamgmm.sources.frame import is_series, series_values

    if is_series(weights):
        return series_values(weights, "sample_weight")
    return as_array(weights, "sample_weight")


def _weight_rules(weights: Any) -> ValueRules:
    """Return the rules by which weights that were opened are missing."""
    if is_from(weights, "zarr"):
        from streamgmm.sources import zarr

        return zarr.rules_of(weights)
    if is_from(weights, "h5py"):
        from streamgmm.sources import hdf5

        return hdf5.rules_of(weights)
    if is_from(weights, "xarray"):
        from streamgmm.sources import xarray

        return xarray.rules_of("sample_weight", weights.variable)
    return NO_RULES


def _open_weights_path(path: str, storage_options: Mapping[str, Any] | None) -> Any:
    kind = _kind_of_path(path)
    location, inner = split(path)
    if kind is _NPY:
        return FileArray.from_npy(_file(location, storage_options))
    if kind is not _ZARR:
        named = without_credentials(path)
        raise DataError(f"weights are read from .npy files and Zarr arrays, not from {named}")
    from streamgmm.sources.zarr import open_array

    return open_array(location, inner, storage_options)
