"""Labelled arrays of any number of dimensions, as xarray has them."""

import hashlib
import logging
from collections.abc import Hashable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import replace
from functools import reduce
from itertools import accumulate, product
from math import prod
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray
import zarr
from numpy.typing import NDArray
from xarray.backends.zarr import ZarrArrayWrapper

# The one module that uses private interfaces of xarray.
from xarray.core.indexing import LazilyIndexedArray
from zarr.abc.store import Store
from zarr.storage import LocalStore

from streamgmm.core.data_description import DataDescription, Level
from streamgmm.errors import DataError, OutputError
from streamgmm.options import Missing
from streamgmm.packages import needed_by
from streamgmm.protocols import (
    Chunk,
    Layout,
    Output,
    Region,
    Variable,
    has_contiguous_chunks,
    positions,
    region_shape,
)
from streamgmm.sources.choosing import StoredArray, how_to_choose
from streamgmm.sources.dask import computed, guarded_graph, lazy_rows
from streamgmm.sources.described import Described
from streamgmm.sources.guarded import ArrayV3Metadata, guarded
from streamgmm.sources.layout import (
    NoRowsError,
    check_table,
    name_of_several,
    naming_place,
    rows_per_chunk,
)
from streamgmm.sources.named_weights import Convert, unchanged
from streamgmm.sources.values import (
    ValueRules,
    check_block,
    marking_fill_value,
    usable,
    value_rules,
)
from streamgmm.sources.zarr import decoded_attributes, open_node
from streamgmm.urls import FetchError, without_credentials

if TYPE_CHECKING:
    from streamgmm.sources.remote.filesystem import RemoteFile

_logger = logging.getLogger("streamgmm")
# Value of numbers that were never written, where a netCDF file does not choose another.
_NETCDF_FILL_VALUE = 9.969209968386869e36
# Attributes of values as they are stored, or that name other variables.
_OF_STORED_VALUES = frozenset(
    (
        "_FillValue",
        "missing_value",
        "valid_min",
        "valid_max",
        "valid_range",
        "_Unsigned",
        "ancillary_variables",
        "cell_measures",
        "coordinates",
        "grid_mapping",
        "flag_values",
        "flag_masks",
        "flag_meanings",
    )
)
# Labels that a message lists.
_MOST_SHOWN = 10
# Greatest ratio of the length of a box to that of the longest chunk. Boxes are joined so that no
# chunk is read twice.
_MOST_JOINED = 4


class XarraySource(Described):
    """Rows of labelled arrays: each position along the sample dimensions is a row.

    Rows are in C order of the sample dimensions. A chunk is a box of whole stored chunks, the
    longest ones where variables are stored in different ones: as many of them along the last
    dimension as make a chunk, if that are all of it then along the dimension before, and so on.
    Values in memory, and stored chunks that hold all of the last dimensions, so make slabs.

    Where the chunks along a dimension have different lengths, as those of files that Dask joins
    have, boxes end where chunks end, so that each chunk is read once in a pass. If the chunks of
    variables end at different places, boxes end where most of them do, and are made up to four
    times as long as the longest chunk to end where all of them do.

    Parameters
    ----------
    data : xarray.Dataset or xarray.DataArray
        In memory, opened from a store, or of Dask arrays, which the thread that reads computes.
    variables : sequence of str, optional
        Variables of a Dataset that are the features; by default all data variables. They have
        the same dimensions, in any order; those of the first one are the sample dimensions.
    feature_dim : str or sequence of str, optional
        Dimension along which a DataArray has its features; by default the last one of two.
        Variables of a Dataset may have it too, and then are a feature for each of its entries.
        Along several dimensions there is a feature for each combination of their entries, those
        of the last dimension beside each other.
    is_lazy : bool
        Whether predictions of Dask arrays are lazy.

    Raises
    ------
    DataError
        If there are no such variables or dimensions, variables have different ones, or one holds
        no real numbers or packed values; on reading also if values are missing and may not be.

    Attributes
    ----------
    sample_dims : tuple of str
        The dimensions along which samples are.
    sample_shape : tuple of int
        Their sizes, of which N is the product.
    box_shape : tuple of int
        The largest sizes of chunks along them.
    feature_names : list of str, or None
        Names of the variables, those with ``feature_dim`` followed by its labels: ``t[850]``, of
        several dimensions ``t[level=850, band=2]``, by position where a dimension has no labels.
        Of a DataArray the labels alone; None if it has none.
    location : Path or None
        The file or directory of all variables; None if they come from anywhere else.
    """

    chosen_by = "variables"
    has_weights = False
    missing: Missing = "error"

    def __init__(
        self,
        data: xarray.Dataset | xarray.DataArray,
        variables: Sequence[str] | None = None,
        feature_dim: str | Sequence[str] | None = None,
        *,
        is_lazy: bool = True,
    ) -> None:
        arrays = _arrays(data, variables)
        names = [str(array.name or "unnamed") for array in arrays]
        self.name = f"xarray {type(data).__name__} ({', '.join(names)})"
        self._feature_dims = _dims_of_features(feature_dim, data, self.name)
        self.sample_dims = _sample_dims(arrays, self._feature_dims, self.name)
        self.sample_shape = tuple(arrays[0].sizes[dim] for dim in self.sample_dims)
        self.n_rows = prod(self.sample_shape)

        self._widths = [
            prod(array.sizes[dim] for dim in self._feature_dims if dim in array.dims)
            for array in arrays
        ]
        for name, array, width in zip(names, arrays, self._widths, strict=True):
            if not isinstance(array.dtype, np.dtype):
                raise DataError(
                    f"{name} of {self.name} has dtype {array.dtype}, which is not one of NumPy's; "
                    "convert it by astype first"
                )
            check_table(f"{name} of {self.name}", (self.n_rows, width), array.dtype)
            _refuse_other_chunks(f"{name} of {self.name}", array)
        self.n_features = sum(self._widths)
        self.feature_names: Sequence[str] | None = _feature_names(data, arrays, self._feature_dims)
        self._names = [f"{name} of {self.name}" for name in names]
        # An array within a store is named by its path.
        self._variable_names = [Path(name).stem if "/" in name else name for name in names]
        self._data: xarray.Dataset | xarray.DataArray | None = data
        self._chosen = names if isinstance(data, xarray.Dataset) else []
        attributes = data.attrs if isinstance(data, xarray.Dataset) else {}
        self._attributes = {key: x for key, x in attributes.items() if key != "coordinates"}
        # Without their coordinates, which would be sliced and computed too.
        self._variables = [_guarded(array.variable) for array in arrays]
        self._rules = [*map(rules_of, self._names, self._variables)]
        is_dask = [variable.chunks is not None for variable in self._variables]
        self._is_dask, self._is_lazy = any(is_dask), is_lazy and all(is_dask)
        self.location = _location(data, self._variables)
        # Coordinates that describe samples; predictions keep them.
        self._coords = {
            name: coord
            for name, coord in data.coords.items()
            if set(coord.dims) <= set(self.sample_dims)
        }
        self._feature_labels = {
            dim: data.coords[dim] for dim in self._feature_dims if dim in data.coords
        }
        self._feature_sizes = {dim: data.sizes[dim] for dim in self._feature_dims}
        self._indexes = {
            dim: index for dim, index in data.xindexes.items() if dim in self.sample_dims
        }
        chunk_ends = [
            [ends for variable in self._variables if (ends := _chunk_ends(variable, dim))]
            for dim in self.sample_dims
        ]
        self._edges = _box_edges(self.sample_shape, chunk_ends, self.n_features)
        lengths = [np.diff(edges) for edges in self._edges]
        self.box_shape = tuple(int(max(along)) for along in lengths)
        n_rows_of_boxes = reduce(np.multiply.outer, lengths)
        self.boundaries: Sequence[int] = [0, *np.cumsum(n_rows_of_boxes).tolist()]

    def __copy__(self) -> "XarraySource":
        # In this process all data remain available; pickling drops them.
        found = type(self).__new__(type(self))
        found.__dict__.update(self.__dict__)
        return found

    def __getstate__(self) -> dict[str, Any]:
        # Another process gets the features alone.
        return {**self.__dict__, "_data": None}

    def names(self) -> list[Hashable]:
        """Return the names of all variables and coordinates."""
        if isinstance(self._data, xarray.Dataset):
            return [*self._data.variables]
        return [] if self._data is None else [*self._data.coords]

    def chosen(self) -> list[str]:
        """Return the names of the variables that are features."""
        return self._chosen

    def weights_named(self, name: str, convert: Convert) -> xarray.DataArray:
        """Return a variable or coordinate, or what is made of its values, as weights."""
        assert self._data is not None
        array: xarray.DataArray = self._data[name]
        if convert is unchanged:
            return array
        with naming_place("sample_weight", f"values of {name}"):
            return xarray.DataArray(convert(array.values), array.coords, array.dims)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of all values together, as chunks hold them."""
        return np.result_type(
            *(
                rules.dtype(variable.dtype, self.missing)
                for rules, variable in zip(self._rules, self._variables, strict=True)
            )
        )

    @property
    def read_bytes(self) -> int:
        """Bytes of a chunk, and of what it is put together from unless that is in memory."""
        n_rows = int(max(np.diff(self.boundaries)))
        chunk_bytes = n_rows * self.n_features * self.dtype.itemsize
        work_bytes = max(
            rules.work_bytes(n_rows * width, self.dtype)
            for rules, width in zip(self._rules, self._widths, strict=True)
        )
        if all(variable._in_memory for variable in self._variables):
            first = self._variables[0]
            is_view = self._is_table and first.values.flags.c_contiguous
            is_view = is_view and first.dtype == self.dtype
            return (0 if is_view else chunk_bytes) + work_bytes
        parts = [
            n_rows * width * variable.dtype.itemsize
            for variable, width in zip(self._variables, self._widths, strict=True)
        ]
        # Values, and two forms that they have before: of all variables at once by Dask, else of
        # one after the other.
        working: int = 3 * (sum(parts) if self._is_dask else max(parts))
        index_bytes = 0 if has_contiguous_chunks(self) else 8 * n_rows
        return chunk_bytes + working + work_bytes + index_bytes

    def region(self, i: int) -> Region:
        """Return the box of chunk i along the sample dimensions."""
        place = np.unravel_index(i, [len(edges) - 1 for edges in self._edges])
        return tuple(
            slice(edges[k], edges[k + 1]) for edges, k in zip(self._edges, place, strict=True)
        )

    def read(self, i: int) -> Chunk:
        """Return chunk i."""
        region = self.region(i)
        slab = dict(zip(self.sample_dims, region, strict=True))
        with naming_place(self.name, _place(slab)):
            rows = self._read_rows(slab)
        return Chunk(rows, positions(region, self.sample_shape))

    def labelled(self, values: Any, output: Output) -> xarray.DataArray | xarray.Dataset:
        """Return what was found of all samples, of their shape or theirs and (M,).

        Coordinates along their dimensions are kept. Values of features get the names, dimensions
        and attributes of the variables of the data.
        """
        self._refuse_taken(output)
        coords = {**self._coords, **self._labels_along(output)}
        if not output.is_rows:
            dims = self.sample_dims if output.dim is None else (*self.sample_dims, output.dim)
            return xarray.DataArray(values, coords, dims, output.name, output.attributes)
        found = {
            variable.name: xarray.Variable(
                variable.dims, variable.values_of(values), variable.attributes
            )
            for variable in self._feature_variables()
        }
        filled = xarray.Dataset(found, coords, self._attributes)
        return filled if self._chosen else filled[self._variable_names[0]]

    def layout(self, output: Output) -> Layout:
        """Return the variables of a written output, with the coordinates and attributes.

        Raises
        ------
        OutputError
            If a coordinate has the name of a variable of the output.
        """
        self._refuse_taken(output)
        coords = {**self._coords, **self._labels_along(output)}
        described = xarray.Dataset(coords=coords, attrs=self._attributes)
        if output.is_rows:
            variables = self._feature_variables()
        else:
            length = () if output.length is None else (output.length,)
            dims = self.sample_dims if output.dim is None else (*self.sample_dims, output.dim)
            shape = (*self.sample_shape, *length)
            variables = [Variable(output.name, dims, shape, None, output.attributes)]
        taken = sorted({variable.name for variable in variables} & {*map(str, coords)})
        if taken:
            raise OutputError(
                f"{self.name} has a coordinate with the name of a variable that is written: "
                f"{', '.join(taken)}; rename it, as in data.rename({taken[0]}=...)"
            )
        variables = [_with_coordinates(variable, described) for variable in variables]
        return Layout(described, variables, output.no_value, _digest_of(described, variables))

    def data_description(self) -> DataDescription:
        """Return the variables, the labels along the feature dimension, and the units."""
        units = {
            name: str(variable.attrs["units"])
            for name, variable in zip(self._variable_names, self._variables, strict=True)
            if "units" in variable.attrs
        }
        for dim, labels in self._feature_labels.items():
            if "units" in labels.attrs:
                units[str(dim)] = str(labels.attrs["units"])
        dims = tuple(map(str, self._feature_dims))
        return DataDescription(
            variables=tuple(self._chosen) or None,
            feature_dim=dims if len(dims) > 1 else next(iter(dims), None),
            levels=self._levels(),
            units=units,
            missing=self.missing,
        )

    def _levels(self) -> tuple[Level, ...] | tuple[tuple[Level, ...], ...] | None:
        """Return the labels along the features; of several dimensions, positions where none are."""
        known = {
            dim: tuple(map(_plain, labels.values.tolist()))
            for dim, labels in self._feature_labels.items()
        }
        if len(self._feature_dims) < 2:
            return next(iter(known.values()), None)
        return tuple(
            known.get(dim) or tuple(map(float, range(size)))
            for dim, size in self._feature_sizes.items()
        )

    def like(self, description: DataDescription) -> "XarraySource":
        """Return the same data with the features in the order of a description.

        Raises
        ------
        DataError
            If variables or labels along the features are others, or units differ.
        """
        source, wanted = self, description.variables
        if wanted is not None and self._chosen and {*wanted} == {*self._chosen}:
            source = self._in_order_of([self._chosen.index(name) for name in wanted])
        own = source.data_description()
        for name, unit in own.units.items():
            fitted = description.units.get(name)
            if fitted is not None and fitted.strip() != unit.strip():
                raise DataError(
                    f"{name} of {self.name} is in {unit}, but the model was fitted to {fitted}; "
                    f"convert the values, or, if the two are one unit, give it the name {fitted} "
                    "in the attribute units"
                )
        dims, fitted_dims = own.feature_dims, description.feature_dims
        if dims != fitted_dims and {*dims} == {*fitted_dims}:
            raise DataError(
                f"features of {self.name} lie along {', '.join(dims)}, but the model was fitted to "
                f"{', '.join(fitted_dims)}, in this order; open the data with "
                f"feature_dim={[*fitted_dims]}"
            )
        if len(dims) == len(fitted_dims) and own.labels and description.labels:
            for dim, fitted_dim in zip(dims, fitted_dims, strict=True):
                self._refuse_other_labels(dim, own.labels[dim], description.labels[fitted_dim])
        return source

    def _refuse_other_labels(
        self, dim: str, labels: Sequence[Level], fitted: Sequence[Level]
    ) -> None:
        """Refuse labels along a dimension of features that are others than those fitted.

        Raises
        ------
        DataError
        """
        if labels != fitted:
            raise DataError(
                f"{dim} of {self.name} is {_shown(labels)}, but the model was "
                f"fitted to {_shown(fitted)}, in this order; select these by "
                f"sel({dim}=[{_shown(fitted)}])"
            )

    def _in_order_of(self, order: Sequence[int]) -> "XarraySource":
        """Return the same data with the variables in another order."""
        if order == [*range(len(order))]:
            return self
        source = copy(self)
        starts = [0, *accumulate(self._widths)]
        for name in ("_variables", "_widths", "_rules", "_names", "_variable_names", "_chosen"):
            setattr(source, name, [getattr(self, name)[i] for i in order])
        if self.feature_names is not None:
            source.feature_names = [
                name for i in order for name in self.feature_names[starts[i] : starts[i + 1]]
            ]
        return source

    def lazy_rows(self) -> Any:
        """Return the features of all samples as a Dask array, (*sample_shape, D).

        None if predictions are not lazy.
        """
        if not self._is_lazy:
            return None
        parts = []
        for name, variable, rules in zip(self._names, self._variables, self._rules, strict=True):
            inner = [dim for dim in self._feature_dims if dim in variable.dims]
            array = variable.transpose(*self.sample_dims, *inner).data
            if len(inner) != 1:
                # In one block along the features, so that blocks of samples stay as they are.
                array = array.rechunk(dict.fromkeys(range(len(self.sample_dims), array.ndim), -1))
                array = array.reshape(*self.sample_shape, -1)
            parts.append((name, array, rules))
        return lazy_rows(parts, self.missing, self.dtype)

    def _feature_variables(self) -> list[Variable]:
        """Return the variables that hold the features, in the order of the features."""
        found, start = [], 0
        for name, variable, width in zip(
            self._variable_names, self._variables, self._widths, strict=True
        ):
            inner = [dim for dim in self._feature_dims if dim in variable.dims]
            dims = (*self.sample_dims, *map(str, inner))
            shape = (*self.sample_shape, *(variable.sizes[dim] for dim in inner))
            part = slice(start, start + width) if inner else start
            kept = {key: x for key, x in variable.attrs.items() if key not in _OF_STORED_VALUES}
            found.append(Variable(name, dims, shape, part, kept))
            start += width
        return found

    def _labels_along(self, output: Output) -> dict[Any, Any]:
        """Return the coordinates along the last dimensions of an output that have any."""
        if output.is_rows:
            return {**self._feature_labels}
        if output.dim is None:
            return {}
        return {output.dim: xarray.DataArray(list(output.names), dims=output.dim)}

    def _refuse_taken(self, output: Output) -> None:
        """Refuse data one of whose dimensions has the name of one of the output.

        Raises
        ------
        DataError
        """
        if output.dim in self.sample_dims and not output.is_rows:
            raise DataError(
                f"{self.name} has a dimension {output.dim!r}, which is the name of the dimension "
                f"of what is found; rename it, as in data.rename({output.dim}=...)"
            )

    @property
    def _is_table(self) -> bool:
        """Whether there is one variable, with all features of a row beside each other."""
        dims = self._variables[0].dims[-len(self._feature_dims) :]
        return len(self._variables) == 1 and dims == self._feature_dims

    def _read_rows(self, slab: Mapping[str, slice]) -> NDArray[Any]:
        parts = self._parts(slab)
        if len(self._variables) == 1:
            columns = np.asarray(next(parts), self.dtype)
        else:
            sizes = [along.stop - along.start for along in slab.values()]
            columns = np.empty((self.n_features, *sizes), self.dtype)
            for stop, width in zip(accumulate(self._widths), self._widths, strict=True):
                # No name holds these values while those of the next variable are read.
                _fill(columns[stop - width : stop], next(parts))
        if self._is_table:
            n_dims = len(self._feature_dims)
            last = np.moveaxis(columns, range(n_dims), range(-n_dims, 0))
            return last.reshape(-1, self.n_features)
        return columns.reshape(self.n_features, -1).T

    def _parts(self, slab: Mapping[str, slice]) -> Iterator[NDArray[Any]]:
        """Yield the usable values of a box of each variable, features first."""
        if self._is_dask:
            boxes = [variable.isel(slab) for variable in self._variables]
            # Dask itself does this, because xarray would change the type of masked integers.
            loaded = computed([box.data for box in boxes])
            for number, (box, stored) in enumerate(zip(boxes, loaded, strict=True)):
                yield self._in_order(_place(slab), number, box, stored)
            return
        for number, variable in enumerate(self._variables):
            box = variable.isel(slab)
            # Loaded first: transposed while lazy, values would be fetched one by one. No tuple
            # holds these values while those of the next variable are read.
            yield self._in_order(_place(slab), number, box, box.load().values)

    def _in_order(self, place: str, number: int, box: xarray.Variable, stored: Any) -> NDArray[Any]:
        """Return usable values, along the features first and then along the sample dimensions."""
        name, dtype = self._names[number], self._variables[number].dtype
        check_block(stored, box.shape, dtype, name, place)
        values = usable(stored, self._rules[number], self.missing, name, place)
        order = (*self._feature_dims, *self.sample_dims)
        return values.transpose([box.get_axis_num(dim) for dim in order if dim in box.dims])


def _fill(columns: NDArray[Any], values: NDArray[Any]) -> None:
    """Put values along dimensions of features into columns of their product."""
    columns.reshape(values.shape)[...] = values


def _plain(label: Any) -> Level:
    """Return a label as a number or text; 850 and 850.0 are the same."""
    is_number = isinstance(label, int | float) and not isinstance(label, bool)
    return float(label) if is_number else str(label)


def _shown(labels: Sequence[Level]) -> str:
    """Return the first of some labels, for a message."""
    shown = [f"{label:g}" if isinstance(label, float) else label for label in labels]
    return ", ".join(shown[:_MOST_SHOWN]) + (", ..." if len(shown) > _MOST_SHOWN else "")


def _with_coordinates(variable: Variable, described: xarray.Dataset) -> Variable:
    """Return a variable whose attributes name its coordinates, as readers by CF expect it."""
    names = [
        str(name)
        for name, coord in described.coords.items()
        if name not in described.dims and {*coord.dims} <= {*variable.dims}
    ]
    if not names or any(" " in name for name in names):
        return variable
    return replace(variable, attributes={**variable.attributes, "coordinates": " ".join(names)})


def _digest_of(described: xarray.Dataset, variables: Sequence[Variable]) -> str:
    """Return a digest of coordinates and attributes.

    Coordinates with several dimensions may be large; their values are no part of it.
    """
    digest = hashlib.sha256(repr([described.attrs, *variables]).encode())
    for name, coord in described.coords.items():
        digest.update(repr((name, coord.dims, coord.shape, coord.dtype, coord.attrs)).encode())
        if coord.ndim <= 1:
            digest.update(repr(coord.values.tolist()).encode())
    return digest.hexdigest()


def rules_of(name: str, variable: xarray.Variable) -> ValueRules:
    """Return the rules by which values of a variable are missing.

    Marks that xarray has decoded are in ``encoding``, not among the attributes. Values that a
    computation gave have no encoding; a valid range that they inherited is not theirs.

    Raises
    ------
    DataError
        If the variable holds packed values.
    """
    encoding = variable.encoding
    is_decoded = not encoding or "scale_factor" in encoding or "add_offset" in encoding
    fill_value = None if is_decoded else marking_fill_value(encoding.get("fill_value"))
    # Only files of netCDF leave their shape in encoding.
    is_netcdf = "original_shape" in encoding and variable.dtype.kind == "f" and not is_decoded
    if is_netcdf and "_FillValue" not in {**encoding, **variable.attrs}:
        fill_value = _NETCDF_FILL_VALUE
    rules = value_rules(name, variable.dtype, variable.attrs, fill_value, is_decoded=is_decoded)
    meta = getattr(variable._data, "_meta", None)
    return replace(rules, may_be_masked=isinstance(meta, np.ma.MaskedArray))


def _guarded(variable: xarray.Variable) -> xarray.Variable:
    """Return the same variable, reading from guarded Zarr arrays where it reads from Zarr."""
    is_dask = variable.chunks is not None
    data = guarded_graph(variable.data) if is_dask else guarded(variable._data)
    return variable._replace(data=data)


class BroadcastWeights:
    """Weights along some of the sample dimensions, the same along all others.

    Made by :func:`weights_of`.

    Parameters
    ----------
    weights : xarray.Variable
    sample_dims : tuple of str
    sample_shape : tuple of int

    Attributes
    ----------
    shape : tuple of int
        Of the samples.
    dtype : dtype
    """

    def __init__(
        self, weights: xarray.Variable, sample_dims: tuple[str, ...], sample_shape: tuple[int, ...]
    ) -> None:
        self._weights, self._sample_dims = weights, sample_dims
        self.ndim, self.shape = len(sample_shape), sample_shape
        self.dtype: np.dtype[Any] = weights.dtype

    def __getitem__(self, region: Region) -> NDArray[Any]:
        """Return the weights of a box of samples.

        Raises
        ------
        DataError
            If they cannot be read.
        """
        slab = dict(zip(self._sample_dims, region, strict=True))
        with naming_place("sample_weight", _place(slab)):
            part = self._weights.isel(slab, missing_dims="ignore").load(scheduler="synchronous")
        sizes = dict(zip(self._sample_dims, region_shape(region), strict=True))
        values: NDArray[Any] = part.set_dims(sizes).values  # type: ignore[no-untyped-call]
        return values


def weights_of(source: XarraySource, weights: xarray.DataArray) -> BroadcastWeights:
    """Return the row weights, read with each chunk, or at once if several chunks share them.

    Parameters
    ----------
    source : XarraySource
    weights : xarray.DataArray
        Along some of the sample dimensions or all, in any order.

    Returns
    -------
    BroadcastWeights of the shape of the samples

    Raises
    ------
    DataError
        If they have other dimensions, sizes or labels than the samples, or cannot be read.
    """
    sizes = dict(zip(source.sample_dims, source.sample_shape, strict=True))
    if not weights.sizes.items() <= sizes.items():
        raise DataError(
            f"sample_weight has dimensions {_listed(weights.sizes)}; expected some of "
            f"{_listed(sizes)}, those of the samples of {source.name}"
        )
    for dim, index in weights.xindexes.items():
        if dim in source._indexes and not index.equals(source._indexes[dim]):
            raise DataError(
                f"sample_weight and {source.name} have different labels along {dim}; select "
                f"weights by the labels of the data, or drop theirs by drop_vars({dim!r})"
            )
    # Labels of a dimension have no lazy values.
    variable = _guarded(weights.variable.to_base_variable())
    lengths = zip(source.sample_dims, source.sample_shape, source.box_shape, strict=True)
    if any(length < size and dim not in weights.dims for dim, size, length in lengths):
        with naming_place("sample_weight", "values"):
            variable = variable.compute()
    return BroadcastWeights(variable, source.sample_dims, source.sample_shape)


def open_zarr(
    data: "str | zarr.Array[Any] | zarr.Group | Store",
    path: str | None = None,
    storage_options: Mapping[str, Any] | None = None,
    variables: Sequence[str] | None = None,
) -> xarray.Dataset | xarray.DataArray:
    """Open the arrays of a Zarr group, or one array; values are decoded as they are read.

    Parameters
    ----------
    data : str, zarr.Array, zarr.Group or zarr.abc.store.Store
        A path or URL of a store, of a group or array within one, or what is open already.
    path : str, optional
        The group or array within it.
    storage_options : mapping, optional
        For a URL.
    variables : sequence of str, optional
        The features; by default all data variables.

    Returns
    -------
    xarray.Dataset, or xarray.DataArray if there is an array

    Raises
    ------
    DataError
        If there is neither, arrays do not name their dimensions, or a feature cannot be decoded.
    """
    expected = "a group of Zarr arrays"
    node = (
        data if isinstance(data, zarr.Array) else open_node(data, path, storage_options, expected)
    )
    if isinstance(node, zarr.Array):
        return _labelled(node)
    try:
        stored: xarray.Dataset = xarray.open_zarr(
            node.store,
            group=node.path,
            chunks=None,
            # xarray searches for consolidated metadata only at the root of a store.
            consolidated=not node.path and node.metadata.consolidated_metadata is not None,
            decode_cf=False,
        )
    except Exception as error:
        named = without_credentials(str(node.store_path))
        raise DataError(f"{named} cannot be opened as {expected}: {error}") from error
    dataset = _decoded(stored, without_credentials(str(node.store_path)), variables)
    if isinstance(node.store, LocalStore):
        dataset.encoding["source"] = str(node.store.root / node.path)
    return dataset


def _labelled(array: "zarr.Array[Any]") -> xarray.DataArray:
    """Return a Zarr array with the names of its dimensions, decoded as arrays of a group are."""
    named = without_credentials(str(array.store_path))
    names = array.metadata.dimension_names if isinstance(array.metadata, ArrayV3Metadata) else None
    if names is None or None in names:
        raise DataError(
            f"{named} does not name its dimensions {array.shape}, so features cannot be found by "
            "feature_dim=; write it with dimension_names (Zarr format 3), or open it as an xarray "
            "DataArray"
        )
    encoding: dict[str, Any] = {
        "chunks": array.chunks,
        "preferred_chunks": dict(zip(names, array.chunks, strict=True)),
        "shards": array.shards,
        "fill_value": array.fill_value,
    }
    if isinstance(array.store, LocalStore):
        encoding["source"] = str(array.store.root / array.path)
    values = LazilyIndexedArray(ZarrArrayWrapper(array))  # type: ignore[no-untyped-call]
    stored = xarray.Dataset({named: (names, values, decoded_attributes(array), encoding)})
    return xarray.decode_cf(stored, decode_timedelta=False)[named]


def open_netcdf(
    file: "str | RemoteFile", path: str | None = None, variables: Sequence[str] | None = None
) -> xarray.Dataset:
    """Open the variables of a netCDF or HDF5 file; values are decoded as they are read.

    Parameters
    ----------
    file : str or RemoteFile
    path : str, optional
        The group within it.
    variables : sequence of str, optional
        The features; by default all data variables.

    Raises
    ------
    DataError
        If there is no such file or group, or a feature cannot be decoded.
    """
    named = str(file) if path is None else f"{path} in {file}"
    # xarray's own error does not say which package is missing.
    with needed_by(named):
        import h5netcdf  # noqa: F401

        from streamgmm.sources.hdf5 import file_object
    try:
        # Datasets that name no dimensions share those that have the same size.
        stored = xarray.open_dataset(
            file if isinstance(file, str) else file_object(file),
            engine="h5netcdf",
            group=path,
            chunks=None,
            decode_cf=False,
            phony_dims="sort",
        )
    except FetchError as error:
        raise DataError(f"{named} cannot be opened: {error}") from error
    except Exception as error:
        raise DataError(f"{named} cannot be opened as variables of a file: {error}") from error
    return _decoded(stored, named, variables)


def open_netcdf3(file: Path, path: str | None, variables: Sequence[str] | None) -> Any:
    """Open the variables of a file of the classic netCDF format, which is not HDF5.

    Parameters
    ----------
    file : Path
    path : str, optional
        The one variable that is a table.
    variables : sequence of str, optional
        The features; by default all data variables.

    Returns
    -------
    xarray.Dataset, or xarray.DataArray if there is a path

    Raises
    ------
    DataError
        If there is no such variable, or the file cannot be read.
    """
    try:
        stored = xarray.open_dataset(file, engine="scipy", chunks=None, decode_cf=False)
    except Exception as error:
        raise DataError(f"{file} cannot be opened as a netCDF file: {error}") from error
    for variable in stored.variables.values():
        # Other netCDF files have it too; it marks values that were never written.
        variable.encoding.setdefault("original_shape", variable.shape)
    if path is None:
        return _decoded(stored, str(file), variables)
    name = path.strip("/")
    if name not in stored.data_vars:
        raise DataError(f"{file} has no variable {name!r}; it has: {_names_of(stored)}")
    return _decoded(stored, str(file), [name])[name]


def _names_of(dataset: xarray.Dataset) -> str:
    return ", ".join(map(str, dataset.data_vars)) or "none"


def only_table(dataset: xarray.Dataset, name: str) -> xarray.DataArray:
    """Return the only variable that may be a table, with two dimensions.

    Raises
    ------
    DataError
        If there is none, or there are several.
    """
    arrays = [
        StoredArray(str(key), array.shape, array.dtype, array.dims)
        for key, array in dataset.data_vars.items()
    ]
    tables = [array.path for array in arrays if array.is_numeric and len(array.shape) == 2]
    if len(tables) == 1:
        return dataset[tables[0]]
    advice = how_to_choose(arrays, f"{name}::/{{}}".format)
    held = ", ".join(f"{array.path} {array.shape}" for array in arrays) or "no variables"
    raise DataError(
        f"{name} holds {len(tables)} two-dimensional variables of numbers; there are {held}; "
        f"{advice}"
    )


def join_files(
    opened: Mapping[str, xarray.Dataset | xarray.DataArray],
    variables: Sequence[str] | None,
    feature_dim: str | Sequence[str] | None,
) -> Any:
    """Join the labelled arrays of several files along their first sample dimension.

    Parameters
    ----------
    opened : mapping of str to xarray.Dataset or xarray.DataArray
        What each file holds, in the order of the samples; files without samples are skipped.
    variables, feature_dim
        As for :class:`XarraySource`.

    Returns
    -------
    xarray.Dataset or xarray.DataArray
        Of Dask arrays.

    Raises
    ------
    DataError
        If a file has other variables, dimensions, labels or types than the first one.
    """
    sources = {}
    for name, data in opened.items():
        try:
            sources[name] = XarraySource(data, variables, feature_dim)
        except NoRowsError:
            continue
        except DataError as error:
            raise DataError(f"{name}: {error}") from None
    if not sources:
        raise DataError(f"{name_of_several([*opened])}: 0 sample(s): no file has any")
    first_name, first = next(iter(sources.items()))
    for name, source in sources.items():
        _refuse_other_layout(name, source, first_name, first)
    dim = first.sample_dims[0]
    length = max(1, rows_per_chunk(first.n_features) // max(prod(first.sample_shape[1:]), 1))
    parts = [_in_chunks(opened[name], dim, length) for name in sources]
    try:
        return xarray.concat(
            parts,
            dim=dim,
            data_vars="minimal",
            coords="minimal",
            compat="override",
            join="exact",
            combine_attrs="override",
        )
    except Exception as error:
        raise DataError(
            f"{name_of_several([*sources])} cannot be joined along {dim} ({error}); give files "
            "with the same labels along the other dimensions"
        ) from error


def _refuse_other_layout(
    name: str, source: XarraySource, first_name: str, first: XarraySource
) -> None:
    """Refuse a file whose arrays cannot follow those of the first file."""
    for what, own, other in (
        ("dimensions", source.sample_dims, first.sample_dims),
        ("features", source.feature_names, first.feature_names),
        ("dtype", source.dtype, first.dtype),
        ("a number of features of", source.n_features, first.n_features),
        ("other dimensions of the sizes", source.sample_shape[1:], first.sample_shape[1:]),
    ):
        if own != other:
            raise DataError(
                f"{name} has {what} {own}, but {first_name} has {other}; files of one table have "
                "the same"
            )


def _in_chunks(data: Any, dim: str, length: int) -> Any:
    """Return labelled arrays as Dask arrays, in their stored chunks or in slabs."""
    arrays = data.data_vars.values() if isinstance(data, xarray.Dataset) else [data]
    has_chunks = any(array.encoding.get("preferred_chunks") for array in arrays)
    return data.chunk({} if has_chunks else {dim: length})


def _decoded(stored: xarray.Dataset, name: str, variables: Sequence[str] | None) -> xarray.Dataset:
    """Decode the features of a stored dataset, and its coordinates as far as they can be decoded.

    Nothing is asked of other variables. Coordinates are the labels of predictions and no more; so
    those that cannot be decoded, for want of their calendar for instance, stay as they are stored.

    Raises
    ------
    DataError
        If a feature cannot be decoded.
    """
    # Attributes say which variables are coordinates; a dimension says which characters make a text.
    described = xarray.decode_cf(
        stored, mask_and_scale=False, decode_times=False, decode_timedelta=False
    )
    features = {}
    for feature in described.data_vars if variables is None else variables:
        if feature in described.data_vars:
            try:
                features[feature] = decoded = _decoded_variable(described, feature)
                # Values are decoded as they are read: those of an empty box show whether they can.
                decoded.isel(dict.fromkeys(decoded.dims, slice(0))).load()
            except Exception as error:
                raise DataError(
                    f"{feature} of {name} cannot be decoded ({type(error).__name__}: {error}); "
                    "choose other variables by variables=, or open the data by xarray and give them"
                ) from error
    labels = {label: _decoded_labels(described, label, name) for label in described.coords}
    return described.assign(features).assign_coords(labels)


def _decoded_variable(described: xarray.Dataset, name: Hashable, **how: Any) -> xarray.Variable:
    """Decode one variable by the conventions for climate data."""
    alone = xarray.Dataset({name: described.variables[name]})
    return xarray.decode_cf(alone, decode_timedelta=False, **how).variables[name]


def _decoded_labels(described: xarray.Dataset, label: Hashable, name: str) -> xarray.Variable:
    """Decode a coordinate; if that fails, all but its times; if that fails, nothing of it."""
    for how in ({}, {"decode_times": False}):
        try:
            decoded = _decoded_variable(described, label, **how)
            # Times are decoded as they are read.
            return decoded.load() if decoded.ndim == 1 else decoded
        except Exception as error:  # noqa: BLE001 - whatever it is, there are labels without it
            _logger.info("labels %s of %s are not decoded (%s)", label, name, error)
    return described.variables[label]


def _refuse_other_chunks(name: str, array: xarray.DataArray) -> None:
    """Refuse values in chunks of another library than Dask.

    Raises
    ------
    DataError
    """
    kind = type(array.variable._data)
    package = kind.__module__.partition(".")[0]
    if array.chunks is None or package == "dask":
        return
    advice = "convert it to an array of Dask"
    if package == "virtualizarr":
        advice = (
            "it says where values are and holds none; write the references, as in "
            "data.vz.to_kerchunk('references.json', format='json'), and give their path"
        )
    raise DataError(f"{name} is of type {kind.__qualname__} of {package}; {advice}")


def _arrays(
    data: xarray.Dataset | xarray.DataArray, variables: Sequence[str] | None
) -> list[xarray.DataArray]:
    """Return the arrays that hold the features."""
    if isinstance(data, xarray.DataArray):
        if variables is not None:
            raise DataError(
                "variables= chooses from an xarray Dataset; this is a DataArray; remove variables="
            )
        return [data]
    chosen: list[Hashable] = [*data.data_vars] if variables is None else [*variables]
    absent = [repr(name) for name in chosen if name not in data.variables]
    if absent or not chosen:
        held = ", ".join(map(str, data.data_vars)) or "none"
        raise DataError(
            f"the xarray Dataset has no variable {' or '.join(absent)}; it has: {held}"
            if absent
            else f"no variables are chosen; the xarray Dataset has: {held}"
        )
    return [data[name] for name in chosen]


def _dims_of_features(
    feature_dim: str | Sequence[str] | None, data: xarray.Dataset | xarray.DataArray, name: str
) -> tuple[Hashable, ...]:
    """Return the dimensions along which there are features.

    Raises
    ------
    DataError
        If there is no such dimension, or it has to be said which one it is.
    """
    if feature_dim is None:
        return (_feature_dim(data, name),) if isinstance(data, xarray.DataArray) else ()
    return (feature_dim,) if isinstance(feature_dim, str) else tuple(feature_dim)


def _feature_dim(array: xarray.DataArray, name: str) -> Hashable:
    """Return the dimension along which an array has its features, if that needs no saying."""
    if array.ndim < 2:
        raise DataError(
            f"{name} has dimensions {_listed(array.sizes)}; expected one of features beside those "
            "of samples; expand_dims('feature', axis=-1) makes one feature of it"
        )
    if array.ndim > 2:
        raise DataError(
            f"{name} has dimensions {_listed(array.sizes)}; say by feature_dim= along which of "
            "them the features are"
        )
    return array.dims[1]


def _sample_dims(
    arrays: Sequence[xarray.DataArray], feature_dims: Sequence[Hashable], name: str
) -> tuple[str, ...]:
    """Return the dimensions that arrays share, in the order of the first one.

    Raises
    ------
    DataError
        If there are none, arrays have different ones, or no array has a dimension of features.
    """
    sizes = {dim: size for array in arrays for dim, size in array.sizes.items()}
    for dim in feature_dims:
        if dim not in sizes:
            raise DataError(f"{name} has no dimension {dim!r}; it has {_listed(sizes)}")
    dims: tuple[Any, ...] = tuple(dim for dim in arrays[0].dims if dim not in feature_dims)
    for array in arrays:
        if {*array.dims} - {*feature_dims} != {*dims}:
            raise DataError(
                f"variables of {name} have different dimensions: {arrays[0].name} has "
                f"{_listed(arrays[0].sizes)}, {array.name} has {_listed(array.sizes)}; choose "
                "some that share theirs by variables=, or say by feature_dim= which dimension is "
                "one of features"
            )
    if not dims:
        raise DataError(f"{name} has no dimension along which there are samples")
    return dims


def _feature_names(
    data: xarray.Dataset | xarray.DataArray,
    arrays: Sequence[xarray.DataArray],
    feature_dims: Sequence[Hashable],
) -> list[str] | None:
    """Return a name for each feature; None if those of a DataArray have no labels."""
    labels = {
        dim: data.coords[dim].values if dim in data.coords else range(data.sizes[dim])
        for dim in feature_dims
    }
    # Labels of one dimension are known without its name.
    prefixes = {dim: f"{dim}=" if len(feature_dims) > 1 else "" for dim in feature_dims}

    def names_along(array: xarray.DataArray) -> list[str]:
        inner = [dim for dim in feature_dims if dim in array.dims]
        texts = ([f"{prefixes[dim]}{label}" for label in labels[dim]] for dim in inner)
        return [", ".join(combination) for combination in product(*texts)]

    if isinstance(data, xarray.DataArray):
        has_labels = any(dim in data.coords for dim in feature_dims)
        return names_along(data) if has_labels else None
    return [
        f"{array.name}[{name}]" if name else str(array.name)
        for array in arrays
        for name in names_along(array)
    ]


def _location(
    data: xarray.Dataset | xarray.DataArray, variables: Sequence[xarray.Variable]
) -> Path | None:
    """Return the local path from which all variables come, if there is one."""
    # Some backends give it for each variable, others for the whole dataset.
    paths = {variable.encoding.get("source", data.encoding.get("source")) for variable in variables}
    path = paths.pop() if len(paths) == 1 else None
    return Path(path) if path is not None and Path(path).exists() else None


def _chunk_ends(variable: xarray.Variable, dim: Hashable) -> list[int]:
    """Return where stored chunks, or those of Dask, end along a dimension; none if not known."""
    if variable._in_memory or dim not in variable.dims:
        return []
    lengths = variable.chunksizes or variable.encoding.get("preferred_chunks", {})
    length, size = lengths.get(dim, ()), variable.sizes[dim]
    if isinstance(length, Integral):
        return [*range(int(length), size, int(length)), size]
    return [int(end) for end in accumulate(length)]


def _box_edges(
    sizes: Sequence[int], chunk_ends: Sequence[Sequence[Sequence[int]]], n_features: int
) -> tuple[list[int], ...]:
    """Return where boxes of whole stored chunks begin and end along each dimension.

    Parameters
    ----------
    sizes : sequence of int
        Of the sample dimensions.
    chunk_ends : sequence of sequence of sequence of int
        Where the chunks of each variable end, along each of the dimensions.
    n_features : int
    """
    longest = [
        max((length for ends in along for length in np.diff([0, *ends]).tolist()), default=1)
        for along in chunk_ends
    ]
    shape = _box_shape(sizes, longest, n_features)
    return tuple(
        [*range(0, size, length), size]
        if all(map(_is_regular, along))
        else _edges_at(along, length, _MOST_JOINED * own)
        for size, along, length, own in zip(sizes, chunk_ends, shape, longest, strict=True)
    )


def _is_regular(ends: Sequence[int]) -> bool:
    """Return whether all chunks but the last one have one length, and the last is no longer."""
    lengths = np.diff([0, *ends])
    return bool(np.all(lengths[:-1] == lengths[0]) and lengths[-1] <= lengths[0])


def _edges_at(chunk_ends: Sequence[Sequence[int]], length: int, longest: int) -> list[int]:
    """Return edges that are ends of chunks of as many variables as possible.

    Parameters
    ----------
    chunk_ends : sequence of sequence of int
        Of each variable, along one dimension.
    length : int
        Length that a box should have at most; no chunk is longer.
    longest : int
        Length that a box may have to end where chunks of all variables end.
    """
    ends, n_variables = np.unique(np.concatenate(chunk_ends), return_counts=True)
    common = ends[n_variables == len(chunk_ends)]
    edges = [0]
    while edges[-1] < ends[-1]:
        start = edges[-1]
        within = slice(*np.searchsorted(ends, [start, start + length], side="right"))
        most = n_variables[within].max()
        following = int(common[np.searchsorted(common, start, side="right")])
        if most < len(chunk_ends) and following - start <= longest:
            edges.append(following)
        else:
            edges.append(int(ends[within][n_variables[within] == most][-1]))
    return edges


def _box_shape(sizes: Sequence[int], stored: Sequence[int], n_features: int) -> tuple[int, ...]:
    """Return the sizes of a box of whole stored chunks that makes a chunk.

    Parameters
    ----------
    sizes : sequence of int
        Of the sample dimensions.
    stored : sequence of int
        Lengths of stored chunks along them, no longer than they are.
    n_features : int
    """
    shape = list(stored)
    for d in reversed(range(len(sizes))):
        n_rows = prod(shape)
        # Dimensions that are not much longer than a chunk are not divided, except the first one.
        is_chunk = n_rows // shape[d] * sizes[d] < 2 * rows_per_chunk(n_features)
        n_stored = rows_per_chunk(n_features, n_rows) // n_rows
        shape[d] = sizes[d] if d and is_chunk else min(stored[d] * n_stored, sizes[d])
        if shape[d] < sizes[d]:
            break
    return tuple(shape)


def _place(slab: Mapping[str, slice]) -> str:
    """Return where a box is, for a message."""
    return ", ".join(f"{dim} {along.start} to {along.stop}" for dim, along in slab.items())


def _listed(sizes: Mapping[Any, int]) -> str:
    """Return the dimensions and their sizes, for a message."""
    return f"({', '.join(f'{dim}: {size}' for dim, size in sizes.items())})"
