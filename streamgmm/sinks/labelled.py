"""Write the variables of labelled data: Zarr groups and netCDF files, with their coordinates."""

import json
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xarray
import zarr
from zarr.abc.store import Store
from zarr.storage import LocalStore

from streamgmm.errors import OutputError
from streamgmm.packages import needed_by
from streamgmm.protocols import Layout, Variable
from streamgmm.sinks.digest import metadata_digest
from streamgmm.sinks.form import Form
from streamgmm.sinks.part import sync
from streamgmm.sinks.zarr import (
    METADATA,
    StoredArrays,
    SyncedStore,
    is_zarr_array,
    store_in,
)

#: Attribute that lists the variables of an output; by it a later output knows what it replaces.
MARK = "streamgmm_output"
# Parts of the encoding of a coordinate that belong to its meaning.
_KEPT_ENCODING = ("units", "calendar")


def labelled_form(
    location: Path,
    group: str | None,
    layout: Layout,
    dtype: np.dtype[Any],
    piece_shape: tuple[int, ...],
) -> Form:
    """Return the form of an output of labelled data.

    Parameters
    ----------
    location : Path
        Ends in ``.zarr`` or ``.nc``.
    group : str or None
        Group of an existing Zarr store that the output becomes.
    layout : Layout
    dtype : dtype
    piece_shape : tuple of int
        Sizes of the stored chunks along the samples.

    Raises
    ------
    OutputError
        If there is no such store.
    """
    if location.suffix == ".nc":
        if group is not None:
            raise OutputError(
                f"{location}::{group}: a netCDF file is written whole; give another path, or "
                "a group of a Zarr store"
            )
        return NetcdfForm(location, layout, dtype, piece_shape)
    name = "" if group is None else group.strip("/")
    store = location if name else None
    return GroupForm(location / name, store, layout, dtype, piece_shape)


class GroupForm(Form):
    """A Zarr group that xarray opens: a store, or a group of a store.

    Parameters
    ----------
    target : Path
    store : Path or None
        The store that will hold the group.
    layout, dtype, piece_shape
        As for :func:`labelled_form`.
    """

    def __init__(
        self,
        target: Path,
        store: Path | None,
        layout: Layout,
        dtype: np.dtype[Any],
        piece_shape: tuple[int, ...],
    ) -> None:
        super().__init__(target)
        self._store, self._layout = store, layout
        self._dtype, self._piece_shape = dtype, piece_shape
        self._zarr_format: Literal[2, 3] = 3
        if store is not None:
            # Not inside of the store, whose readers know nothing of unfinished groups.
            inner = ".".join(target.relative_to(store).parts)
            self.part_folder = store.with_name(f"{store.name}.{inner}.part")
            self._zarr_format = _format_of_store(store, target.parent)

    def check_target(self) -> None:
        """Refuse to replace anything but a Zarr array, or a group that is an output.

        Raises
        ------
        OutputError
        """
        if self.target.is_dir():
            if self._store is None and is_zarr_array(self.target):
                return
            refuse_other_group(LocalStore(self.target), str(self.target))
        elif self.target.exists() or self.target.is_symlink():
            raise OutputError(f"{self.target} is a file, not a Zarr group; it will not be replaced")
        if self._store is not None:
            folder = self.part_folder.parent
            if folder.stat().st_dev != self.target.parent.stat().st_dev:
                raise OutputError(
                    f"{self.target} is on another disk than {folder}, where it would grow; write "
                    "to a new store"
                )

    def create(self, path: Path, is_shared: bool) -> StoredArrays:
        """Make the group with its coordinates, and the arrays in boxes of samples."""
        path.parent.resolve(strict=True)
        store = store_in(path, is_shared)
        create_group(store, self._layout, self._dtype, self._piece_shape, self._zarr_format)
        if self._store is None:
            consolidate(store, self._zarr_format)
        for folder, _, names in os.walk(path):
            for name in names:
                sync(Path(folder) / name)
            sync(Path(folder))
        return self.open(path, is_shared)

    def open(self, path: Path, is_shared: bool) -> StoredArrays:
        """Open what :meth:`create` made, to continue writing."""
        store = store_in(path, is_shared)
        return StoredArrays(path, open_variables(store, self._layout, self._zarr_format), is_shared)

    def layout_digest(self, path: Path) -> str:
        """Return the digest of all files but the stored chunks of the variables."""
        if not any((path / name).exists() for name in METADATA):
            return ""
        return metadata_digest(path, sorted(self._described_by(path)))

    def published(self) -> None:
        """List the group in the metadata of its store, if those of all members are together."""
        if self._store is not None:
            store = SyncedStore(self._store)
            if is_consolidated(store, self._zarr_format):
                consolidate(store, self._zarr_format)

    def _described_by(self, path: Path) -> Iterator[str]:
        """Yield the names of the files that hold everything but values of samples."""
        names = {variable.name for variable in self._layout.variables}
        for folder, inner, files in os.walk(path):
            below = Path(folder).relative_to(path)
            is_values = bool(below.parts) and below.parts[0] in names
            if is_values:
                inner.clear()
            kept = (file for file in files if not is_values or file in (*METADATA, ".zattrs"))
            yield from (str(below / file) for file in kept)


class NetcdfForm(GroupForm):
    """A netCDF file, which grows as a Zarr group and is made from it at the end.

    A group can be continued after a power cut, a netCDF file cannot.

    Parameters
    ----------
    target : Path
    layout, dtype, piece_shape
        As for :func:`labelled_form`.
    """

    def __init__(
        self, target: Path, layout: Layout, dtype: np.dtype[Any], piece_shape: tuple[int, ...]
    ) -> None:
        super().__init__(target, None, layout, dtype, piece_shape)
        self.grown_name = "variables.zarr"
        with needed_by(str(target)):
            import h5netcdf  # noqa: F401

    def check_target(self) -> None:
        """Refuse to replace anything but a netCDF file that is an output.

        Raises
        ------
        OutputError
        """
        Form.check_target(self)
        if not self.target.exists():
            return
        import h5netcdf

        try:
            with h5netcdf.File(self.target, "r") as file:
                is_ours = MARK in file.attrs
        except Exception:  # noqa: BLE001 - whatever it is, it is no output
            is_ours = False
        if not is_ours:
            raise OutputError(
                f"{self.target} holds other data than the output of a prediction; it will not be "
                "replaced; write somewhere else, or remove it first"
            )

    def finished(self, grown: Path) -> Path:
        """Make the file, box by box, and force it to the disk."""
        import h5netcdf

        path = grown.with_name(self.target.name)
        path.unlink(missing_ok=True)
        described = _writable(self._layout)
        described.to_netcdf(path, engine="h5netcdf")
        arrays = open_variables(LocalStore(grown), self._layout, self._zarr_format)
        with h5netcdf.File(path, "a") as file:
            for variable, (array, _) in zip(self._layout.variables, arrays, strict=True):
                _copy_variable(file, variable, array, self._layout.no_value)
        sync(path)
        return path


def _copy_variable(file: Any, variable: Variable, array: Any, no_value: int | None) -> None:
    """Copy the values and the description of a variable into an open netCDF file."""
    for dim, size in zip(variable.dims, variable.shape, strict=True):
        if dim not in file.dimensions:
            file.dimensions[dim] = size
    fill = {} if no_value is None else {"fillvalue": array.dtype.type(no_value)}
    stored = file.create_variable(
        variable.name,
        variable.dims,
        array.dtype,
        chunks=tuple(map(min, array.chunks, array.shape)),
        compression="gzip",
        compression_opts=1,
        shuffle=True,
        **fill,
    )
    for key, value in variable.attributes.items():
        # By the conventions, flags have the type of the variable.
        stored.attrs[key] = np.asarray(value, array.dtype) if key == "flag_values" else value
    for box in _boxes(array.shape, array.chunks):
        stored[box] = array[box]


def _boxes(shape: Sequence[int], sizes: Sequence[int]) -> Iterator[tuple[slice, ...]]:
    return product(
        *(
            [slice(start, min(start + size, length)) for start in range(0, length, size)]
            for length, size in zip(shape, sizes, strict=True)
        )
    )


def create_group(
    store: Store,
    layout: Layout,
    dtype: np.dtype[Any],
    piece_shape: tuple[int, ...],
    zarr_format: Literal[2, 3],
) -> None:
    """Make a group with the coordinates and the arrays of a layout.

    Raises
    ------
    OutputError
        If Zarr or xarray cannot write the coordinates or attributes.
    """
    described = _writable(layout)
    try:
        described.to_zarr(store, mode="w-", zarr_format=zarr_format, consolidated=False)
    except (TypeError, ValueError, NotImplementedError) as error:
        raise OutputError(
            f"the coordinates or attributes of the data cannot be written ({error}); remove or "
            "convert them first, by drop_vars or reset_index for instance"
        ) from error
    for variable in layout.variables:
        attributes = dict(variable.attributes)
        # Format 2 keeps the names in an attribute, and its fill value marks missing values.
        if zarr_format == 2:
            attributes["_ARRAY_DIMENSIONS"] = list(variable.dims)
        elif layout.no_value is not None:
            attributes["_FillValue"] = layout.no_value
        zarr.create_array(
            store,
            name=variable.name,
            shape=variable.shape,
            dtype=dtype,
            chunks=piece_shape + variable.shape[len(piece_shape) :],
            fill_value=np.nan if layout.no_value is None else layout.no_value,
            dimension_names=variable.dims if zarr_format == 3 else None,
            attributes=attributes,
            zarr_format=zarr_format,
        )


def open_variables(
    store: Store, layout: Layout, zarr_format: Literal[2, 3]
) -> "list[tuple[zarr.Array[Any], int | slice | None]]":
    """Open the arrays that :func:`create_group` made, with the values of a sample that each holds.

    The arrays are opened one by one, because metadata of the group may not be there yet.
    """
    return [
        (
            zarr.open_array(store, path=variable.name, mode="r+", zarr_format=zarr_format),
            variable.part,
        )
        for variable in layout.variables
    ]


def _writable(layout: Layout) -> Any:
    """Return coordinates and attributes without the encoding of the store that they came from.

    The attributes list all variables, so that a later output knows what it replaces. Times keep
    their units and calendar, unless they are no whole numbers of these units.
    """
    described, coords = layout.described, {}
    variables = [variable.name for variable in layout.variables]
    for name, coord in described.coords.items():
        variable = coord.variable.copy(deep=False)
        kept = {key: variable.encoding[key] for key in _KEPT_ENCODING if key in variable.encoding}
        variable.encoding = kept if _is_exact(variable, kept) else {}
        if variable.dtype.kind == "f":
            variable.encoding["_FillValue"] = None
        coords[name] = variable
    names = json.dumps([*variables, *map(str, coords)])
    return xarray.Dataset(coords=coords, attrs={**described.attrs, MARK: names})


def _is_exact(variable: xarray.Variable, encoding: Mapping[str, Any]) -> bool:
    """Return whether times can be encoded like this without rounding."""
    if not encoding:
        return True
    tried = variable.copy(deep=False)
    tried.encoding = dict(encoding)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            xarray.conventions.encode_cf_variable(tried)
        except Exception:  # noqa: BLE001 - then xarray chooses the units
            return False
    return True


def refuse_other_group(store: Store, name: str) -> None:
    """Refuse to replace a group that is no output, or holds other variables by now.

    Raises
    ------
    OutputError
    """
    advice = "it will not be replaced; write somewhere else, or remove it first"
    try:
        group = zarr.open_group(store, mode="r", use_consolidated=False)
        listed = group.attrs.get(MARK)
        members = {key for key, _ in group.members()}
    except Exception as error:
        raise OutputError(f"{name} is a directory but no Zarr array or group; {advice}") from error
    if listed is None:
        raise OutputError(
            f"{name} is a Zarr group or array that holds other data than a prediction; {advice}; "
            f"{name}::/labels would be a group in it"
        )
    foreign = sorted(members - {*json.loads(str(listed))})
    if foreign:
        raise OutputError(
            f"{name} is the output of a prediction, but holds {', '.join(foreign)} by now; {advice}"
        )


def is_consolidated(store: Store, zarr_format: Literal[2, 3]) -> bool:
    """Return whether the metadata of all members of a store are together in one place."""
    try:
        zarr.open_consolidated(store, zarr_format=zarr_format)
    except Exception:  # noqa: BLE001 - a store without such metadata raises several kinds
        return False
    return True


def consolidate(store: Store, zarr_format: Literal[2, 3]) -> None:
    """Put the metadata of all members of a store together, as xarray does."""
    with warnings.catch_warnings():
        # The format does not name it yet; xarray and zarr-python both read and write it.
        warnings.filterwarnings("ignore", "Consolidated metadata")
        zarr.consolidate_metadata(store, zarr_format=zarr_format)


def _format_of_store(store: Path, parent: Path) -> Literal[2, 3]:
    """Return the format of Zarr of an existing store that will hold a folder as a group.

    Raises
    ------
    OutputError
        If there is no such store or group.
    """
    for folder in (store, parent):
        try:
            group = zarr.open_group(LocalStore(folder), mode="r", use_consolidated=False)
        except Exception as error:
            raise OutputError(
                f"{folder} is no Zarr group, so nothing can be added to it ({error}); name a store "
                "that exists, or write to a new store"
            ) from error
    zarr_format: Literal[2, 3] = group.metadata.zarr_format
    return zarr_format
