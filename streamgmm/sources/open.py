"""Choice of the source for data, without the import of unused packages."""

import os
import sys
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard, get_args

import numpy as np
from numpy.typing import NDArray

from streamgmm.core.data_description import DataDescription
from streamgmm.errors import DataError, ParameterError
from streamgmm.options import Format, Missing
from streamgmm.packages import needed_by
from streamgmm.paths import why_absent
from streamgmm.protocols import LazySource, Source, sample_shape
from streamgmm.sources.array import ArraySource, FileArray, FileSource
from streamgmm.sources.arraylike import as_array
from streamgmm.sources.beside import BesideSource
from streamgmm.sources.columns import refuse_duplicates
from streamgmm.sources.layout import name_of_several
from streamgmm.sources.named_weights import CosLatitude, NamingSource, unchanged
from streamgmm.sources.table_formats import (
    LOGS,
    folders_above,
    names_in_local,
    refuse_table_with_log,
)
from streamgmm.sources.transformed import TransformedSource
from streamgmm.sources.values import NO_RULES, ValueRules
from streamgmm.sources.weighted import WeightedSource
from streamgmm.urls import (
    PARQUET_SUFFIXES,
    is_pattern,
    is_url,
    split,
    suffix,
    without_credentials,
)

if TYPE_CHECKING:
    from streamgmm.sources.remote.filesystem import RemoteFile

_ZARR_METADATA = ("zarr.json", ".zarray", ".zgroup")
# First bytes of files of each kind. HDF5 may follow a block of another program, such as MATLAB.
_NPY_MAGIC, _PARQUET_MAGIC, _HDF5_MAGIC = b"\x93NUMPY", b"PAR1", b"\x89HDF\r\n\x1a\n"
_NETCDF3_MAGIC, _ZIP_MAGIC = b"CDF", b"PK\x03\x04"
_HDF5_STARTS = (0, 512, 1024, 2048)
_ICECHUNK_FOLDERS = ("snapshots", "manifests", "transactions")
_HDF5_SUFFIXES = (".h5", ".hdf5", ".he5", ".nc", ".nc4")
# Names that a message lists.
_MOST_NAMES = 10
#: Suffixes of the files and stores that can be read.
TABLE_SUFFIXES = (".npy", ".zarr", *_HDF5_SUFFIXES, *PARQUET_SUFFIXES)


def is_path(data: Any) -> TypeGuard[str | os.PathLike[str]]:
    """Return whether data are named by a path or URL rather than given."""
    return isinstance(data, (str, os.PathLike))


def is_paths(data: Any) -> TypeGuard[Sequence[str | os.PathLike[str]]]:
    """Return whether data are named by several paths or URLs."""
    return isinstance(data, list | tuple) and len(data) > 0 and all(map(is_path, data))


def paths_of(data: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> list[str]:
    """Return the paths or URLs that data are named by, as text."""
    paths = [data] if isinstance(data, str | os.PathLike) else data
    return [os.fspath(path) for path in paths]


def is_source(data: Any) -> TypeGuard[Source]:
    """Return whether data are described already."""
    # The class is asked, because a DataFrame may have columns with these names.
    return callable(getattr(type(data), "read", None)) and hasattr(data, "boundaries")


def is_in_memory(data: Any) -> bool:
    """Return whether data are an array or a data frame, and neither named nor described."""
    is_named = is_path(data) or is_paths(data)
    return not is_named and _kind_of_object(data) in (_ARRAY, _FRAME)


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
    feature_dim: str | Sequence[str] | None = None,
    path: str | None = None,
    columns: Sequence[str] | None = None,
    missing: Missing | None = None,
    sample_weight: Any = None,
    storage_options: Mapping[str, Any] | None = None,
    format: Format | None = None,  # noqa: A002 - the word that users of stores expect
) -> Source:
    """Describe data once, for every method that reads them.

    Parameters
    ----------
    data : str, path-like, array-like or Source
        A table of shape (N, D): an array-like, memory map or data frame (pandas, polars, pyarrow
        and other Arrow tables, whose null values are NaN); a pyarrow.dataset.Dataset; an open Zarr
        array, group or store, Icechunk session, HDF5 dataset, Dask array, xarray Dataset or
        DataArray; or the path or URL of a ``.npy`` file, a Zarr store or references to one, an HDF5
        or netCDF file, or a Parquet file. A list of paths, a folder or a glob pattern is one table
        of all its files, in the order of the list or of their names. Requests to URLs that fail
        with a temporary error are repeated.
    variables : sequence of str, optional
        Arrays of an xarray Dataset, Zarr group or netCDF file that are the features; they share
        their dimensions, which are the samples.
    feature_dim : str or sequence of str, optional
        The dimension of labelled arrays that the features lie along. Of several dimensions, each
        combination of their entries is a feature.
    path : str, optional
        The array within a Zarr store or HDF5 file; ``"file.h5::/group/data"`` says the same.
    columns : sequence of str, optional
        Columns of a data frame, of a data set or of Parquet files, each once.
    missing : {"error", "drop", "em"}, optional
        Treatment of rows that hold NaN, or values that the data mask or mark as missing
        (``_FillValue``, ``missing_value`` and others). "error" refuses them. "drop" excludes their
        rows from a fit and reports their number; predictions have NaN or the label -1 at their
        positions, or -2 if the mixture has noise. "em" uses the values that they have: maximum
        likelihood with incomplete rows, exact if values are missing at random; rows without any
        value are skipped.
        The default is the treatment that the source has, and "error" for other data.
    sample_weight : array, str or path, optional
        Weights of shape (N,), as an array of any of these kinds or the path or URL of one; of
        xarray data also of the shape of the samples, or a DataArray along some of their dimensions.
        A text may name a column, variable or coordinate of the data, which is then no feature
        unless the features were chosen; :func:`streamgmm.cos_latitude` makes weights of a latitude.
    storage_options : mapping, optional
        Options of fsspec for the URLs of the data and of weights, such as credentials.
    format : {"npy", "zarr", "hdf5", "netcdf", "parquet"}, optional
        The kind of the files. By default the content of local files and the suffix of URLs show it.

    Returns
    -------
    Source
        Takes the place of the data in ``fit``, ``predict`` and other methods. Only metadata have
        been read.

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
    is_named = isinstance(sample_weight, str | CosLatitude)
    if sample_weight is None or is_named:
        weights = None
    else:
        weights = _open_weights(sample_weight, storage_options)
    options = {
        "variables": _names(variables),
        "feature_dim": _names(feature_dim),
        "path": path,
        "columns": _names(columns),
        "storage_options": storage_options,
    }
    given = {name: value for name, value in options.items() if value is not None}
    for name in ("columns", "variables", "feature_dim"):
        refuse_duplicates(name, given.get(name, ()))
    if is_path(sample_weight) and "storage_options" not in _kind_of(data, format).options:
        given.pop("storage_options", None)
    data = data if missing in ("drop", "em") else unmasked(data, "X")
    source = _open(data, given, format)
    if is_named and _holds_weights(source, sample_weight):
        source = _without_weights(source, data, given, format, _name_of_weights(sample_weight))
        weights = _named_weights(source, sample_weight)
    elif is_named:
        weights = _open_weights(sample_weight, storage_options)
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


def options_by_name(
    data: Any,
    description: DataDescription,
    storage_options: Mapping[str, Any] | None = None,
) -> dict[str, Any] | None:
    """Return the options that find the features of a description in data, by their names.

    Parameters
    ----------
    data : str, path-like or array-like
    description : DataDescription
    storage_options : mapping, optional
        For a URL.

    Returns
    -------
    options : dict, or None
        None for data that are described already, or hold their features in their order.
    """
    kind = _kind_of(data)
    if not (is_path(data) or is_paths(data) or kind in (_XARRAY, _ZARR)):
        return None
    if kind in (_PARQUET, _DATASET):
        return {} if description.columns is None else {"columns": list(description.columns)}
    if description.variables is None and description.feature_dim is None:
        return {}
    is_labelled = kind in (_NETCDF3, _FILES, _HDF5) or (
        kind is _ZARR and _is_group(data, storage_options)
    )
    if kind is _XARRAY:
        is_labelled = hasattr(data, "data_vars")
    chosen: dict[str, Any] = {}
    if is_labelled and description.variables is not None:
        chosen["variables"] = list(description.variables)
    dims = getattr(data, "dims", None) if kind is _XARRAY else None
    wanted = description.feature_dims
    if wanted and (dims is None or {*wanted} <= {*dims}):
        chosen["feature_dim"] = list(wanted)
    return chosen


def _is_group(data: Any, storage_options: Mapping[str, Any] | None) -> bool:
    """Return whether a path or URL, or what is open, is a group of Zarr arrays."""
    import zarr

    if isinstance(data, zarr.Array | zarr.Group):
        return isinstance(data, zarr.Group)
    from streamgmm.sources.zarr import open_node

    location, inner = split(os.fspath(data)) if is_path(data) else (data, None)
    return isinstance(open_node(location, inner, storage_options, "a Zarr store"), zarr.Group)


def _names(names: str | Sequence[str] | None) -> Sequence[str] | None:
    """Return the names; a string is one, not a sequence of letters."""
    return [names] if isinstance(names, str) else names


@dataclass(frozen=True)
class _Kind:
    """A kind of data, what opens it, and the options that it takes."""

    name: str
    open: Callable[..., Source]
    options: frozenset[str] = frozenset()


def _open(data: Any, options: dict[str, Any], known: Format | None) -> Source:
    kind = _kind_of(data, known)
    _refuse_other_options(kind, options)
    if known is not None and kind in (_FILES, _PARQUET):
        options = {**options, "known": known}
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


def _refuse_other_options(kind: _Kind, options: Iterable[str]) -> None:
    """Refuse options that a kind of data does not take.

    Raises
    ------
    ParameterError
    """
    unused = sorted({*options} - kind.options)
    if unused:
        taken = f"; {kind.name} takes {_arguments(kind.options)}" if kind.options else ""
        raise ParameterError(
            f"{', '.join(unused)} has no meaning for {kind.name}; "
            f"remove {_arguments(unused)}{taken}"
        )


def _arguments(names: Iterable[str]) -> str:
    """Return names of arguments for a message, as they are written in a call."""
    return ", ".join(f"{name}=" for name in sorted(names))


def _kind_of(data: Any, known: Format | None = None) -> _Kind:
    """Return the kind of data, of which the format of the files may be known.

    Raises
    ------
    DataError
        If a path names nothing that can be read.
    ParameterError
        If a format is given that there is not, or for data that are not in files.
    """
    if is_paths(data):
        kinds = {_kind_of_path(os.fspath(path), known) for path in data}
        return _PARQUET if kinds == {_PARQUET} else _FILES
    if is_path(data):
        return _kind_of_path(os.fspath(data), known)
    kind = _kind_of_object(data)
    if known is not None:
        raise ParameterError(f"format has no meaning for {kind.name}; remove format=")
    return kind


def _kind_of_object(data: Any) -> _Kind:
    # First of all, because a Delayed claims to have any attribute, those of a source too.
    if is_from(data, "dask"):
        return _DASK
    if is_source(data):
        return _SOURCE
    if isinstance(data, np.ndarray | list | tuple):
        return _ARRAY
    if is_from(data, "icechunk") or _is_zarr_store(data):
        return _ZARR
    for package, kind in _KINDS.items():
        if is_from(data, package):
            return kind
    if _is_dataset(data) or is_from(data, "deltalake"):
        return _DATASET
    from streamgmm.sources.frame import is_frame

    return _FRAME if is_frame(data) else _ARRAY


def _is_dataset(data: Any) -> bool:
    """Return whether data are a data set of pyarrow, or of a library that derives its own."""
    module = sys.modules.get("pyarrow.dataset")
    return module is not None and isinstance(data, module.Dataset)


def _is_zarr_store(data: Any) -> bool:
    """Return whether data are a store of Zarr, or of a library that derives its own."""
    module = sys.modules.get("zarr.abc.store")
    return module is not None and isinstance(data, module.Store)


def is_stream(data: Any) -> bool:
    """Return whether data are an Arrow stream of rows that come once, and no table in memory."""
    if not hasattr(type(data), "__arrow_c_stream__"):
        return False
    from streamgmm.sources.frame import is_arrow_stream

    return is_arrow_stream(data)


def _kind_of_path(text: str, known: Format | None) -> _Kind:
    """Return the kind of the data at a path or URL, of which the format may be known.

    Raises
    ------
    DataError
        If there is nothing, or nothing that can be read.
    ParameterError
        If there is no such format.
    """
    if known is not None and known not in get_args(Format):
        raise ParameterError(f"format is {known!r}; choose one of {', '.join(get_args(Format))}")
    location, _ = split(text)
    if not location:
        raise DataError("the path of the data is empty; name a file, a folder or a URL")
    kind = _kind_of_suffix(location) if known is None else _FORMATS[known]
    if not is_url(location):
        kind = _kind_of_local(location, kind, known)
    if kind is None:
        remedy = (
            "a URL has to end in .npy, .zarr, .h5 or .parquet, or to be given with format="
            if is_url(location)
            else "convert it to one of these, CSV for example by pandas.read_csv and to_parquet"
        )
        raise DataError(
            f"{without_credentials(location)} is neither a .npy file nor a Zarr array (a directory "
            "with zarr.json or .zarray), nor an HDF5, netCDF or Parquet file, nor a folder of such "
            f"files; {remedy}"
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


def _kind_of_local(location: str, kind: _Kind | None, known: Format | None) -> _Kind | None:
    """Return the kind of the data at a local path, whose suffix or format says the given kind."""
    path = Path(location)
    reason = why_absent(path)
    if reason is not None and is_pattern(location):
        if kind is not _PARQUET:
            for folder in folders_above(str(path.absolute())):
                refuse_table_with_log(folder, LOGS, names_in_local)
        return kind if kind is _PARQUET else _FILES
    if reason is not None:
        raise DataError(reason)
    if not path.is_dir():
        _refuse_numpy_archive(path)
        is_said = known is not None and known != "netcdf"
        return kind if is_said else _kind_of_content(path) or kind
    if known in ("zarr", "parquet"):
        return kind
    if any((path / name).exists() for name in _ZARR_METADATA):
        return _ZARR
    if known is None and any(next(path.rglob(f"*{s}"), None) for s in PARQUET_SUFFIXES):
        return _PARQUET
    refuse_table_with_log(location, LOGS, names_in_local)
    _refuse_icechunk_folder(path)
    has_files = known is not None or any(map(_is_readable, path.rglob("*")))
    return _FILES if has_files else kind


def _refuse_icechunk_folder(path: Path) -> None:
    """Refuse a folder that is a repository of Icechunk, of which a session says the version.

    Raises
    ------
    DataError
    """
    if all((path / name).is_dir() for name in _ICECHUNK_FOLDERS):
        raise DataError(
            f"{path} is an Icechunk repository; give a session of it, which says the version: "
            "import icechunk; repository = icechunk.Repository.open("
            f"icechunk.local_filesystem_storage({str(path.absolute())!r})); "
            "repository.readonly_session('main')"
        )


def _is_readable(path: Path) -> bool:
    """Return whether a local path is one table, by its suffix or its content."""
    return is_stored_table(path) or _kind_of_content(path) is not None


def _kind_of_content(path: Path) -> _Kind | None:
    """Return the kind that a local file says by its first bytes; None if they are not known."""
    if not path.is_file():
        return None
    try:
        with path.open("rb") as file:
            start = file.read(_HDF5_STARTS[-1] + len(_HDF5_MAGIC))
    except OSError:
        # Its reader says why it cannot be opened.
        return None
    if start.startswith(_NPY_MAGIC):
        return _NPY
    if start.startswith(_PARQUET_MAGIC):
        return _PARQUET
    if start.startswith(_NETCDF3_MAGIC) and start[3:4] in (b"\x01", b"\x02", b"\x05"):
        return _NETCDF3
    if _is_zarr_in_zip(path, start) or _are_references(start):
        return _ZARR
    return _HDF5 if any(start.startswith(_HDF5_MAGIC, n) for n in _HDF5_STARTS) else None


def _is_zarr_in_zip(path: Path, start: bytes) -> bool:
    """Return whether a file is an archive that holds a Zarr store."""
    if not (start.startswith(_ZIP_MAGIC) and zipfile.is_zipfile(path)):
        return False
    with zipfile.ZipFile(path) as archive:
        return not {*archive.namelist()}.isdisjoint(_ZARR_METADATA)


def _refuse_numpy_archive(path: Path) -> None:
    """Refuse an archive of NumPy, whose arrays are read whole or not at all.

    Raises
    ------
    DataError
    """
    if not (path.suffix.lower() == ".npz" and zipfile.is_zipfile(path)):
        return
    with zipfile.ZipFile(path) as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist()]
    raise DataError(
        f"{path} is an archive of the arrays {', '.join(names[:_MOST_NAMES]) or 'none'}; load one "
        f"of them, as in numpy.load({str(path)!r})[{(names or ['x'])[0]!r}], or save it by "
        "numpy.save as a .npy file, which is read in parts"
    )


def _are_references(start: bytes) -> bool:
    """Return whether a file says where the chunks of a Zarr store are, as kerchunk writes it."""
    names = (b'"refs"', *(f'"{name}"'.encode() for name in _ZARR_METADATA))
    return start.lstrip().startswith(b"{") and any(name in start for name in names)


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
    from streamgmm.sources.dataset import DatasetSource, of_delta_table, rows_in_memory

    if is_from(dataset, "deltalake"):
        dataset = of_delta_table(dataset)
    rows = rows_in_memory(dataset)
    return DatasetSource(dataset, columns) if rows is None else _open_frame(rows, columns)


def _open_zarr(
    data: Any,
    path: str | None = None,
    variables: Sequence[str] | None = None,
    feature_dim: Sequence[str] | None = None,
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
    feature_dim: Sequence[str] | None = None,
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
        from streamgmm.sources.xarray import XarraySource

        dataset = _labelled_file(_HDF5, data, path, variables, feature_dim, storage_options)
        return XarraySource(dataset, variables, feature_dim)
    return Hdf5Source.from_path(file, path)


def _open_parquet(
    data: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    columns: Sequence[str] | None = None,
    storage_options: Mapping[str, Any] | None = None,
    known: Format | None = None,
) -> Source:
    from streamgmm.sources.parquet import ParquetSource

    return ParquetSource(paths_of(data), columns, storage_options, is_any_suffix=known is not None)


def _open_netcdf3(
    data: str | os.PathLike[str],
    path: str | None = None,
    variables: Sequence[str] | None = None,
    feature_dim: Sequence[str] | None = None,
) -> Source:
    from streamgmm.sources.xarray import XarraySource

    dataset = _labelled_file(_NETCDF3, data, path, variables, feature_dim, None)
    return XarraySource(dataset, variables, feature_dim)


def _labelled_file(
    kind: _Kind,
    data: str | os.PathLike[str],
    path: str | None,
    variables: Sequence[str] | None,
    feature_dim: Sequence[str] | None,
    storage_options: Mapping[str, Any] | None,
) -> Any:
    """Return the labelled arrays in a file, of which the features are some."""
    from streamgmm.sources import xarray

    location, inner = split(os.fspath(data))
    path = path or inner
    if kind is _ZARR:
        return xarray.open_zarr(location, path, storage_options, variables)
    file = _file(location, storage_options)
    if kind is _HDF5:
        return xarray.open_netcdf(location if isinstance(file, Path) else file, path, variables)
    dataset = xarray.open_netcdf3(Path(location).absolute(), path, variables)
    is_chosen = path is not None or variables is not None or feature_dim is not None
    return dataset if is_chosen else xarray.only_table(dataset, location)


def _open_files(
    data: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    known: Format | None = None,
    **options: Any,
) -> Source:
    """Open several files as one table.

    Raises
    ------
    DataError
        If there are none, they are of several kinds, or have different columns.
    """
    from streamgmm.sources.files import listed
    from streamgmm.sources.joined import joined

    given = paths_of(data)
    is_table = _is_readable if known is None else Path.is_file
    files = [file for path in given for file in listed(path, is_table=is_table)]
    kinds: dict[_Kind, str] = {}
    for file in files:
        kinds.setdefault(_kind_of_path(file, known), file)
    name = name_of_several([without_credentials(path) for path in given])
    if len(kinds) > 1:
        found = ", ".join(f"{file} ({kind.name})" for kind, file in kinds.items())
        raise DataError(
            f"{name}: files of one table are of one kind, but there are {found}; give a list or a "
            "pattern of files of one kind, such as 'folder/*.npy'"
        )
    (kind,) = kinds
    _refuse_other_options(kind, options)
    if kind is _PARQUET:
        return _open_parquet(files, **options, known=known)
    chosen = {key: options.get(key) for key in ("variables", "feature_dim")}
    if kind is _NETCDF3 or any(value is not None for value in chosen.values()):
        from streamgmm.sources.xarray import XarraySource, join_files

        opening = {"path": None, "storage_options": None, **chosen, **options}
        opened = {file: _labelled_file(kind, file, **opening) for file in files}
        return XarraySource(join_files(opened, **chosen), **chosen, is_lazy=False)
    return joined(name, files, lambda file: kind.open(file, **options))


def _open_xarray(
    data: Any, variables: Sequence[str] | None = None, feature_dim: Sequence[str] | None = None
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
_NETCDF3 = _Kind("a netCDF file", _open_netcdf3, _LABELLED | {"path"})
_FILES = _Kind("several files", _open_files, _LABELLED | {"path", "columns", "storage_options"})
_XARRAY = _Kind("xarray data", _open_xarray, _LABELLED)
_DATASET = _Kind("a data set of pyarrow", _open_dataset, frozenset({"columns"}))
_FRAME = _Kind("a DataFrame", _open_frame, frozenset({"columns"}))
_FORMATS: dict[Format, _Kind] = {
    "npy": _NPY,
    "zarr": _ZARR,
    "hdf5": _HDF5,
    "netcdf": _HDF5,
    "parquet": _PARQUET,
}
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
    if isinstance(source, TransformedSource):
        return source.over(_with_weights(source.base, weights))
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


def open_beside(source: Source, others: Any) -> tuple[list[str], BesideSource]:
    """Return rows with other variables of the same samples beside them, and their names.

    Parameters
    ----------
    source : Source
    others : str, sequence of str, or array
        Variables, coordinates or columns that the data hold by these names; or values of shape
        (N,), (N, M) or of the shape of the samples.

    Raises
    ------
    DataError
        If the data hold no such variable, or there is not one value for each row.
    """
    rows = source.unweighted if isinstance(source, WeightedSource) else source
    if isinstance(others, str) or (is_paths(others)):
        names = [others] if isinstance(others, str) else [str(name) for name in others]
        known = [str(name) for name in rows.names()] if isinstance(rows, NamingSource) else []
        absent = [name for name in names if name not in known]
        if absent:
            raise DataError(
                f"{source.name} holds no {', '.join(map(repr, absent))}; it holds "
                f"{', '.join(known[:_MOST_NAMES]) or 'no names'}"
            )
        assert isinstance(rows, NamingSource)
        arrays = [rows.weights_named(name, unchanged) for name in names]
    else:
        values = _open_weights(others, None)
        arrays = [values[:, j] for j in range(values.shape[1])] if _is_matrix(values, rows) else []
        arrays = arrays or [values]
        names = [str(j) for j in range(len(arrays))]
    columns = []
    for name, array in zip(names, arrays, strict=True):
        rules = _weight_rules(array)
        columns.append((name, _along_samples(rows, array), rules))
    return names, BesideSource(source, columns)


def _is_matrix(values: Any, source: Source) -> bool:
    """Return whether an array has several values for each row."""
    return len(values.shape) == 2 and values.shape != sample_shape(source)


def _along_samples(source: Source, array: Any) -> Any:
    """Return an array that slices along the rows or the samples of a source."""
    if not is_from(array, "xarray"):
        return array
    from streamgmm.sources.xarray import XarraySource, weights_of

    return weights_of(source, array) if isinstance(source, XarraySource) else array.values


def _name_of_weights(sample_weight: str | CosLatitude) -> str:
    return sample_weight if isinstance(sample_weight, str) else sample_weight.name


def _holds_weights(source: Source, sample_weight: str | CosLatitude) -> bool:
    """Return whether data hold what weights are named by, so that text is not a path.

    Raises
    ------
    ParameterError
        If the text names a file, too.
    DataError
        If it names nothing.
    """
    name = _name_of_weights(sample_weight)
    known = list(source.names()) if isinstance(source, NamingSource) else []
    is_path_only = isinstance(sample_weight, str) and (is_url(name) or not known)
    location = split(name)[0]
    is_file = not is_path_only and bool(location) and why_absent(Path(location)) is None
    if name in known and is_file and isinstance(sample_weight, str):
        raise ParameterError(
            f"sample_weight is {name!r}, which names both a part of {source.name} and a file; give "
            f"{'./' + name!r} for the file, or the values of the other as an array"
        )
    if name in known or is_path_only or (is_file and isinstance(sample_weight, str)):
        return name in known
    listed = ", ".join(map(str, known[:_MOST_NAMES])) + (
        ", ..." if len(known) > _MOST_NAMES else ""
    )
    end = " and no such path" if isinstance(sample_weight, str) else ""
    raise DataError(
        f"sample_weight: {source.name} holds no {name!r}{end}; it holds {listed or 'no names'}"
    )


def _without_weights(
    source: Source, data: Any, options: dict[str, Any], known: Format | None, name: str
) -> Source:
    """Return data without what the weights are, where features were not chosen.

    Raises
    ------
    ParameterError
        If it was chosen as a feature.
    """
    assert isinstance(source, NamingSource)
    chosen = source.chosen()
    if name not in chosen:
        return source
    option = source.chosen_by
    if option in options or is_source(data):
        raise ParameterError(
            f"{name} is a feature of {source.name} and its weights, too; open the data with the "
            f"other {option}, {option}={[other for other in chosen if other != name]}"
        )
    others = [other for other in chosen if other != name]
    return _open(data, {**options, option: others}, known)


def _named_weights(source: Source, sample_weight: str | CosLatitude) -> Any:
    """Return the weights that data hold by a name."""
    assert isinstance(source, NamingSource)
    convert = unchanged if isinstance(sample_weight, str) else sample_weight
    return source.weights_named(_name_of_weights(sample_weight), convert)


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
    kind = _kind_of_path(path, None)
    location, inner = split(path)
    if kind is _NPY:
        return FileArray.from_npy(_file(location, storage_options))
    if kind is not _ZARR:
        named = without_credentials(path)
        raise DataError(
            f"weights are read from .npy files and Zarr arrays, not from {named}; name one of these"
        )
    from streamgmm.sources.zarr import open_array

    return open_array(location, inner, storage_options)
