"""Datasets in HDF5 files, open or by path or URL."""

import atexit
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from streamgmm.errors import DataError
from streamgmm.options import Missing
from streamgmm.packages import needed_by
from streamgmm.protocols import Chunk
from streamgmm.sources.choosing import StoredArray, how_to_choose
from streamgmm.sources.described import Described
from streamgmm.sources.layout import (
    check_table,
    naming_rows,
    regular_boundaries,
    rows_per_chunk,
)
from streamgmm.sources.values import ValueRules, marking_fill_value, usable, value_rules
from streamgmm.urls import FetchError

if TYPE_CHECKING:
    from streamgmm.sources.remote.filesystem import RemoteFile

# Small pieces that follow one another, as metadata and chunks do, are fetched at once.
_READ_AHEAD_BYTES = 1 << 18


class Hdf5Source(Described):
    """Rows of a two-dimensional HDF5 dataset, in groups of whole stored chunks.

    Parameters
    ----------
    dataset : h5py.Dataset of shape (N, D)
        Contiguous, or chunked in any way, along columns too. Of a matrix that MATLAB wrote the rows
        are those that it has in MATLAB.
    remote : RemoteFile, optional
        Its file, if that is at a URL.

    Raises
    ------
    DataError
        If the dataset is closed, is no table of real numbers or holds packed values. Of a group,
        the message says which datasets it holds. On reading, if values are missing and may not
        be. On pickling, if its file is in memory or open for writing.

    Attributes
    ----------
    location : Path or None
        The file; None if it is in memory or at a URL.
    """

    has_weights = False
    missing: Missing = "error"
    feature_names: Sequence[str] | None = None

    def __init__(
        self, dataset: "h5py.Dataset | h5py.Group", remote: "RemoteFile | None" = None
    ) -> None:
        if not dataset:
            raise DataError("the HDF5 dataset is closed; open its file again")
        self.name = _name(dataset)
        with _explained(self.name):
            if isinstance(dataset, h5py.Group):
                raise _not_one_dataset(f"{self.name} is a group, not a dataset", dataset, True)
            # MATLAB stores the transpose of a matrix.
            self._is_transposed = "MATLAB_class" in dataset.attrs and dataset.ndim == 2
            shape = _in_order(dataset.shape or (), self._is_transposed)
            check_table(self.name, shape, dataset.dtype)
            self._rules = rules_of(dataset)
            _refuse_unknown_filters(dataset)
            self._handle = _Handle(dataset, remote)
        self.location = self._handle.location
        self.n_rows: int = shape[0]
        self.n_features: int = shape[1]
        self._stored_dtype: np.dtype[Any] = dataset.dtype
        stored_shape = _in_order(dataset.chunks, self._is_transposed) if dataset.chunks else (1, 0)
        chunk_rows = rows_per_chunk(self.n_features, min(stored_shape[0], self.n_rows))
        self.boundaries: Sequence[int] = regular_boundaries(self.n_rows, chunk_rows)
        self._chunk_values = chunk_rows * self.n_features
        self._n_read = self._chunk_values + 2 * math.prod(stored_shape)
        if remote is not None:
            # What a request gives, and what it gave to the one before.
            self._n_read += 2 * (math.prod(dataset.chunks or (chunk_rows, self.n_features)))

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values, as chunks hold them."""
        return self._rules.dtype(self._stored_dtype, self.missing)

    @property
    def read_bytes(self) -> int:
        """Bytes of a chunk as assembled, and of a stored chunk before and after it is decoded.

        From a URL also of what was fetched; where values may be missing also of finding them.
        """
        stored_bytes: int = self._n_read * self._stored_dtype.itemsize
        return stored_bytes + self._rules.work_bytes(self._chunk_values, self.dtype)

    @classmethod
    def from_path(cls, file: "str | Path | RemoteFile", name: str | None) -> "Hdf5Source":
        """Open a dataset by the path of its file, or its URL, and its name within it.

        Parameters
        ----------
        file : path-like or RemoteFile
        name : str or None
            None for the only two-dimensional dataset of numbers.

        Raises
        ------
        DataError
            If there is no such dataset, the file cannot be read, or as in the class.
        """
        remote = None if isinstance(file, (str, Path)) else file
        dataset = _open_dataset(file, name)
        if dataset.ndim not in (0, 2) and _is_number(dataset):
            raise _no_table(dataset)
        return cls(dataset, remote)

    def release(self) -> None:
        """Close the file until a chunk is read again, unless it is open in other hands too."""
        self._handle.release()

    def read(self, i: int) -> Chunk:
        """Return chunk i."""
        start, stop = self.boundaries[i], self.boundaries[i + 1]
        with naming_rows(self.name, start, stop, "; the file may be damaged"):
            dataset = self._handle.dataset()
            stored = dataset[:, start:stop].T if self._is_transposed else dataset[start:stop]
            self._handle.check_length()
        index = range(start, stop)
        return Chunk(usable(stored, self._rules, self.missing, self.name, index), index)


def _in_order(shape: tuple[int, ...], is_transposed: bool) -> tuple[int, ...]:
    return shape[::-1] if is_transposed else shape


def rules_of(dataset: "h5py.Dataset") -> ValueRules:
    """Return the rules by which values of a dataset are missing.

    A fill value that its writer chose is a mark unless it is 0, 1, NaN or infinity.

    Raises
    ------
    DataError
        If the dataset holds packed values.
    """
    settings = dataset.id.get_create_plist()
    is_chosen = settings.fill_value_defined() == h5py.h5d.FILL_VALUE_USER_DEFINED
    fill_value = marking_fill_value(dataset.fillvalue) if is_chosen else None
    # The netCDF library uses these fill values for bytes, but treats all values of bytes as data.
    if (dataset.dtype.str, fill_value) in (("|i1", -127), ("|u1", 255)):
        fill_value = None
    return value_rules(_name(dataset), dataset.dtype, dataset.attrs, fill_value)


class _Handle:
    """A dataset that each process opens for itself.

    It is pickled as the names of the file and of the dataset.

    Parameters
    ----------
    dataset : h5py.Dataset
    remote : RemoteFile or None
        Its file, if that is at a URL.

    Attributes
    ----------
    location : Path or None
        The file; None if it is in memory or at a URL.
    """

    def __init__(self, dataset: "h5py.Dataset", remote: "RemoteFile | None") -> None:
        file = dataset.file
        path = Path(file.filename).absolute()
        self.location = path if path.is_file() else None
        self._name = _name(dataset)
        # A name that leads to the dataset through links may not exist in the file of the dataset.
        self._own_name: str | None = file[dataset.ref].name
        # The file, if another process finds the same rows in it.
        is_shared = file.mode == "r" and self._own_name is not None
        self._file = (remote or self.location) if is_shared else None
        self._n_bytes = path.stat().st_size if self.location else 0
        self._shape, self._dtype = dataset.shape, dataset.dtype
        self._opened: tuple[int, Any] = os.getpid(), dataset

    def __getstate__(self) -> dict[str, Any]:
        if self._file is None:
            raise self._bound()
        return {**self.__dict__, "_opened": (0, None)}

    def dataset(self) -> Any:
        """Return the dataset, open in this process; two threads at once may both open it.

        Raises
        ------
        DataError
            If it cannot be opened again, or is another one by now.
        """
        process, dataset = self._opened
        if process == os.getpid() and dataset:
            return dataset
        if self._file is None:
            raise self._bound()
        # While a handle from before a fork is open, HDF5 reads through that handle.
        del dataset
        self._opened = 0, None
        dataset = _open_dataset(self._file, self._own_name)
        _refuse_unknown_filters(dataset)
        if (dataset.shape, dataset.dtype) != (self._shape, self._dtype):
            raise DataError(f"{self._name} was replaced by another table while it was read")
        self._opened = os.getpid(), dataset
        return dataset

    def release(self) -> None:
        """Let go of the dataset, if it can be opened again."""
        if self._file is not None:
            self._opened = 0, None

    def check_length(self) -> None:
        """Refuse a file that was cut: HDF5 gives zeros for what is missing at its end."""
        path = self._file
        if isinstance(path, Path) and path.stat().st_size < self._n_bytes:
            raise DataError(f"{path} became shorter while it was read")

    def _bound(self) -> DataError:
        return DataError(
            f"{self._name} can be read only while it is open and only by the process that opened "
            "it, because its file is in memory or open for writing; close the file and give its "
            "path"
        )


def file_object(file: "RemoteFile") -> Any:
    """Return what HDF5 reads a file at a URL through, with some bytes more each time."""
    return file.open(read_ahead=_READ_AHEAD_BYTES, in_thread=True)


@atexit.register
def _close_file_objects() -> None:
    """Close files that are read through file objects, while there is an interpreter to run these.

    HDF5 closes at the very end what is open, and would crash then.
    """
    kinds = h5py.h5f.OBJ_FILE | h5py.h5f.OBJ_GROUP | h5py.h5f.OBJ_DATASET
    for node in h5py.h5f.get_obj_ids(h5py.h5f.OBJ_ALL, kinds):
        if node.valid:
            file = h5py.File(h5py.h5i.get_file_id(node))
            if file.driver == "fileobj":
                file.close()


def _open_dataset(path: "str | Path | RemoteFile", name: str | None) -> Any:
    """Open a dataset to read it; without a name, the only one that may be a table."""
    with _explained(str(path)):
        file = h5py.File(path if isinstance(path, (str, Path)) else file_object(path), "r")
        if name is None:
            tables = [dataset for dataset in _datasets(file) if _is_table(dataset)]
            if len(tables) == 1:
                return tables[0]
            trouble = f"{path} holds {len(tables)} two-dimensional datasets of numbers"
        else:
            node = file.get(name)
            if isinstance(node, h5py.Dataset):
                return node
            trouble = f"{path}::{name} is not a dataset"
        raise _not_one_dataset(trouble, file)


def _not_one_dataset(trouble: str, group: "h5py.Group", is_open: bool = False) -> DataError:
    """Return the error for a group of which no dataset was chosen.

    Parameters
    ----------
    trouble : str
        What was found instead of a dataset.
    group : h5py.Group
    is_open : bool
        Whether the caller gave the open group rather than the path of its file.
    """
    datasets = _datasets(group)
    if not datasets:
        return DataError(f"{trouble}; there are no datasets in it")
    held = ", ".join(f"{dataset.name} {dataset.shape}" for dataset in datasets)
    advice = how_to_choose(
        [_described(dataset) for dataset in datasets], f"{group.file.filename}::{{}}".format
    )
    if is_open and "variables=" in advice:
        advice += f"; close the file and open its path, {group.file.filename}, with these"
    return DataError(f"{trouble}; there are {held}; {advice}")


def _no_table(dataset: "h5py.Dataset") -> DataError:
    """Return the error for a dataset of numbers that is not two-dimensional."""
    reshaped = "reshape(-1, 1) makes one feature of a vector; " if dataset.ndim == 1 else ""
    folder, _, name = dataset.name.rpartition("/")
    path = f"path={folder!r} and " if folder else ""
    return DataError(
        f"Expected 2D array (n_samples, n_features), but {_name(dataset)} has shape "
        f"{dataset.shape}; {reshaped}for one feature, or several of this shape, name them as in "
        f"{path}variables={[name]}"
    )


def _described(dataset: "h5py.Dataset") -> StoredArray:
    """Return what the metadata of a dataset say of it."""
    scales = tuple(dim[0].name if len(dim) else None for dim in dataset.dims)
    # Dimensions without a name are those of datasets of the same sizes.
    dims = tuple(zip(scales, dataset.shape or (), strict=True))
    return StoredArray(
        dataset.name, dataset.shape or (), dataset.dtype, dims, h5py.h5ds.is_scale(dataset.id)
    )


def _datasets(group: "h5py.Group") -> list[Any]:
    """Return all datasets in a group and below."""
    nodes: list[Any] = []
    group.visititems(lambda _, node: nodes.append(node))
    return [node for node in nodes if isinstance(node, h5py.Dataset)]


def _is_table(dataset: "h5py.Dataset") -> bool:
    return dataset.ndim == 2 and _is_number(dataset)


def _is_number(dataset: "h5py.Dataset") -> bool:
    return dataset.dtype.kind in "buif"


def _name(node: "h5py.Dataset | h5py.Group") -> str:
    return f"{node.file.filename}::{node.name}"


def _refuse_unknown_filters(dataset: "h5py.Dataset") -> None:
    """Refuse a dataset that cannot be decoded here; HDF5's own message does not say why."""
    settings = dataset.id.get_create_plist()
    for i in range(settings.get_nfilters()):
        number = settings.get_filter(i)[0]
        if h5py.h5z.filter_avail(number):
            continue
        stored = f"{_name(dataset)} is stored by the HDF5 filter {number}, which"
        with needed_by(stored):
            # The import registers its filters with HDF5.
            import hdf5plugin  # noqa: F401
        if not h5py.h5z.filter_avail(number):
            raise DataError(
                f"{stored} neither HDF5 nor hdf5plugin has; copy the file by: h5repack -f NONE, "
                "where the filter is installed"
            )


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Turn what h5py raises as it opens a file into errors that name the file."""
    try:
        yield
    except (DataError, MemoryError):
        raise
    except FetchError as error:
        raise DataError(f"{name} cannot be opened: {error}") from error
    except Exception as error:
        if "unable to lock file" in str(error):
            raise DataError(
                f"{name} is locked, most likely by a process that writes to it; wait until the "
                "file is closed, or set HDF5_USE_FILE_LOCKING=FALSE if its disk knows no locks"
            ) from error
        raise DataError(f"{name} cannot be opened as an HDF5 file: {error}") from error
