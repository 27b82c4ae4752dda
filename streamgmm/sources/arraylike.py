"""Array-likes in memory: NumPy arrays, lists, vectors of data frames, and what converts itself."""

from collections.abc import Iterable, Iterator, Mapping
from io import IOBase
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamgmm.errors import DataError, DataTypeError
from streamgmm.sources.objects import as_floats, index_of_other

# Methods of tables whose rows are not in memory, by the package that defines them: one that
# gives the rows, and one that writes them to a Parquet file.
_LAZY_METHODS: dict[str, list[tuple[str, str | None]]] = {
    "duckdb": [("df", "write_parquet")],
    "_duckdb": [("df", "write_parquet")],
    "ibis": [("to_pyarrow", "to_parquet")],
    "narwhals": [("collect", "sink_parquet")],
    "polars": [("collect", "sink_parquet")],
    "pyarrow": [("read_all", None), ("to_table", None), ("read", None)],
    "pyspark": [("toPandas", "write.parquet")],
}
_TAKEN = (
    "give a table of numbers with the shape (n_samples, n_features): a NumPy array, a pandas, "
    "polars or pyarrow table, a Dask, Zarr, HDF5 or xarray object, or the path or URL of a file"
)


def as_array(data: Any, name: str) -> NDArray[Any]:
    """Convert an array-like to a NumPy array, without a copy where possible.

    Parameters
    ----------
    data : array-like
        A NumPy array or memory map, which stays what it is; nested lists or tuples; or an object
        that NumPy can convert. Objects that are real numbers become float64.
    name : str
        What messages call the data.

    Raises
    ------
    DataError
        If the data are no array-like, or hold objects that are no real numbers.
    """
    if not isinstance(data, np.ndarray):
        _refuse_other_kinds(data, name)
    elif isinstance(data, np.matrix):
        raise DataTypeError(f"{name} is a numpy.matrix; convert it with numpy.asarray({name})")
    elif data.dtype.names is not None:
        raise DataTypeError(
            f"{name} is a structured array with the fields {', '.join(data.dtype.names)}; "
            f"pandas.DataFrame({name}) makes a table of them"
        )
    array = data if isinstance(data, np.memmap) else _converted(data, name)
    return array if array.dtype != object else _numbers(array, data, name)


def is_lazy_table(data: Any) -> bool:
    """Return whether data are a table of a known library whose rows are not in memory."""
    return any(hasattr(data, rows) for rows, _ in _lazy_methods(data))


def _lazy_methods(data: Any) -> list[tuple[str, str | None]]:
    """Return the methods of such tables in the library that defines the type of the data."""
    return _LAZY_METHODS.get(type(data).__module__.partition(".")[0], [])


def _converted(data: Any, name: str) -> NDArray[Any]:
    try:
        return np.asarray(data)
    except MemoryError:
        raise
    except Exception as error:
        way_out = "convert it to a NumPy array first"
        if hasattr(data, "detach") and hasattr(data, "numpy"):
            way_out = f"give {name}.detach().cpu().numpy()"
        raise DataTypeError(
            f"{name} is of type {_type_name(data)}; NumPy cannot convert it to an array "
            f"({type(error).__name__}: {error}); {way_out}"
        ) from error


def _numbers(objects: NDArray[np.object_], data: Any, name: str) -> NDArray[np.float64]:
    """Convert objects that are real numbers.

    Raises
    ------
    DataTypeError
        If an object is no number.
    """
    if objects.ndim == 0:
        raise DataTypeError(f"{name} is of type {_type_name(data)}, which cannot be read; {_TAKEN}")
    index = index_of_other(objects)
    if index is not None:
        value = objects[index]
        place = f"{name}[{', '.join(map(str, index))}]"
        if isinstance(value, str | bytes):
            raise DataTypeError(
                f"{place} is the string {value!r}, not a real number; convert strings first, for "
                f"example with numpy.asarray({name}, dtype=float)"
            )
        if isinstance(value, complex | np.complexfloating):
            raise DataTypeError(
                f"Complex data not supported: {place} is {value}; give real numbers"
            )
        raise DataTypeError(
            f"{place} is an object of type {type(value).__name__}; an argument must be a real "
            "number, or a string that has been converted to a number"
        )
    try:
        return as_floats(objects)
    except (ValueError, OverflowError) as error:
        raise DataError(f"{name} holds a number that has no float64 value: {error}") from error


def _refuse_other_kinds(data: Any, name: str) -> None:
    """Refuse objects that are no array-likes, and say how to give their rows.

    Raises
    ------
    DataTypeError
    """
    if data is None:
        raise DataTypeError(f"{name} is None; {_TAKEN}")
    reason = _reason_by_package(data, name) or _reason_by_interface(data, name)
    if reason is not None:
        raise DataTypeError(f"{name} is of type {_type_name(data)}{reason}")


def _reason_by_package(data: Any, name: str) -> str | None:
    """Return why a table of some library is refused, and the remedy."""
    for rows, writer in _lazy_methods(data):
        if hasattr(data, rows):
            reason = f", whose rows are not in memory; give {name}.{rows}()"
            if writer is not None:
                reason += (
                    f"; if the rows do not fit in memory, write them with {name}.{writer}"
                    "('rows.parquet') and give that path"
                )
            return reason
    is_of_sparse = type(data).__module__.partition(".")[0] == "sparse" and hasattr(data, "todense")
    if hasattr(data, "tocsr") or is_of_sparse:
        dense = "todense" if is_of_sparse else "toarray"
        return f". Sparse data was passed, but dense data is required; give {name}.{dense}()"
    return None


def _reason_by_interface(data: Any, name: str) -> str | None:
    """Return why an object is refused whose methods show its kind, and the remedy."""
    if hasattr(data, "to_frame"):
        return f", not a table: Expected 2D array; {name}.to_frame() makes a table of one feature"
    if isinstance(data, Mapping):
        return (
            f" with the keys {_listed(data)}; give one of its arrays, or make a table of its "
            f"columns with pandas.DataFrame(dict({name}))"
        )
    if isinstance(data, IOBase):
        return ", an open file; give its path"
    if isinstance(data, Iterator):
        return (
            ", which can be read only once; give all rows as one table, for example "
            f"numpy.concatenate(list({name})) of batches; OnlineGaussianMixture.fit and "
            "streamgmm.update take an iterator of batches"
        )
    if isinstance(data, list | tuple) and data and isinstance(data[0], str | PathLike):
        return (
            " and holds paths or text beside other objects; give a list of paths alone, or of "
            "numbers alone"
        )
    return None


def _type_name(data: Any) -> str:
    kind = type(data)
    is_built_in = kind.__module__ == "builtins"
    return kind.__qualname__ if is_built_in else f"{kind.__module__}.{kind.__qualname__}"


def _listed(keys: Iterable[object], most: int = 10) -> str:
    shown = [repr(key) for key in keys]
    return ", ".join(shown[:most]) + (", ..." if len(shown) > most else "")
