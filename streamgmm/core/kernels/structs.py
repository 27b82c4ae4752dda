"""Named arrays and numbers that compiled code reads at one address.

A tuple of arrays is some hundred arguments to compiled code, in each function that takes it and in
each call. A struct is one argument, and its fields are read where they are used.
"""

import ctypes
import functools
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core.typing.templates import AttributeTemplate
from numba.extending import (
    NativeValue,
    infer_getattr,
    lower_getattr_generic,
    models,
    register_model,
    typeof_impl,
    unbox,
)
from numba.np.arrayobj import make_array, populate_array
from numpy.typing import NDArray

from streamgmm.core.kernels.compilation import cgutils

_NUMBERS = {bool: types.boolean, float: types.float64, int: types.int64}


class Struct:
    """Arrays and numbers by name, for compiled code.

    Parameters
    ----------
    values : NamedTuple
        Its fields are C-contiguous writable arrays, and numbers of type int, float or bool. Arrays
        are shared with compiled code.

    Raises
    ------
    ValueError
        If an array has another layout.
    """

    def __init__(self, values: Any) -> None:
        self.values = values
        kinds: list[Any] = []
        words: list[int] = []
        for value in values:
            if isinstance(value, np.ndarray):
                if not value.flags.carray:
                    raise ValueError("an array of a struct is not C-contiguous and writable")
                kinds += (value.dtype.char, value.ndim)
                words += (_address(value), *value.shape)
            elif isinstance(value, float):
                kinds.append(float)
                words.append(_bits(value))
            else:
                kinds.append(bool if isinstance(value, (bool, np.bool_)) else int)
                words.append(int(value))
        self.type = _type_of(type(values).__name__, values._fields, tuple(kinds))
        self._words = np.array(words, dtype=np.int64)
        self.address = _address(self._words)

    def __reduce__(self) -> tuple[type["Struct"], tuple[Any]]:
        return Struct, (self.values,)


def _address(array: NDArray[Any]) -> int:
    if array.size:
        # NumPy's own attributes for this take several times as long.
        return ctypes.addressof(ctypes.c_char.from_buffer(array.data))
    address: int = array.__array_interface__["data"][0]
    return address


def _bits(value: float) -> int:
    return int(np.float64(value).view(np.int64))


@functools.lru_cache
def _type_of(name: str, fields: tuple[str, ...], kinds: tuple[Any, ...]) -> "StructType":
    """Return the type of a struct, from the types of its numbers, and types and axes of arrays."""
    found: list[tuple[str, Any]] = []
    remaining = iter(kinds)
    for field in fields:
        kind = next(remaining)
        if isinstance(kind, str):
            of_array = types.Array(numba.from_dtype(np.dtype(kind)), next(remaining), "C")
            found.append((field, of_array))
        else:
            found.append((field, _NUMBERS[kind]))
    return StructType(name, tuple(found))


class StructType(types.Type):
    """Numba's type of a :class:`Struct`.

    Parameters
    ----------
    name : str
    fields : tuple of (str, numba type)
    """

    def __init__(self, name: str, fields: tuple[tuple[str, Any], ...]) -> None:
        self.fields = fields
        super().__init__(f"Struct({name}, {fields})")


@typeof_impl.register(Struct)
def _typeof(struct: Struct, context: Any) -> StructType:
    return struct.type


@register_model(StructType)
class _StructModel(models.PrimitiveModel):
    """The address of the words of a struct."""

    def __init__(self, manager: Any, struct_type: StructType) -> None:
        super().__init__(manager, struct_type, _words_of(struct_type).as_pointer())


def _words_of(struct_type: StructType) -> ir.ArrayType:
    """Return LLVM's type of the words of a struct."""
    n = sum(1 + getattr(field_type, "ndim", 0) for _, field_type in struct_type.fields)
    return ir.ArrayType(ir.IntType(64), n)


@unbox(StructType)
def _unbox(struct_type: StructType, struct: Any, c: Any) -> NativeValue:
    number = c.pyapi.object_getattr_string(struct, "address")
    address = c.pyapi.long_as_longlong(number)
    c.pyapi.decref(number)
    return NativeValue(c.builder.inttoptr(address, _words_of(struct_type).as_pointer()))


@infer_getattr
class _StructAttributes(AttributeTemplate):
    key = StructType

    def generic_resolve(self, struct_type: Any, name: str) -> Any:  # type: ignore[override]
        return dict(struct_type.fields).get(name)


@lower_getattr_generic(StructType)
def _field(context: Any, builder: Any, struct_type: StructType, struct: Any, name: str) -> Any:
    first = 0
    for other, field_type in struct_type.fields:
        if other == name:
            break
        first += 1 + getattr(field_type, "ndim", 0)

    def word(number: int) -> Any:
        index = ir.Constant(ir.IntType(64), first + number)
        place = builder.gep(struct, [ir.Constant(ir.IntType(64), 0), index])
        loaded = builder.load(place)
        # Words never change, so that loops read them once.
        loaded.set_metadata("invariant.load", builder.module.add_metadata([]))
        return loaded

    if isinstance(field_type, types.Array):
        return _array(context, builder, field_type, word)
    if field_type == types.float64:
        return builder.bitcast(word(0), ir.DoubleType())
    if field_type == types.boolean:
        return builder.icmp_signed("!=", word(0), ir.Constant(ir.IntType(64), 0))
    return word(0)


def _array(context: Any, builder: Any, array_type: Any, word: Callable[[int], Any]) -> Any:
    """Return an array that owns nothing, from its address and its shape."""
    array = make_array(array_type)(context, builder)
    item = context.get_abi_sizeof(context.get_data_type(array_type.dtype))
    shape = [word(1 + axis) for axis in range(array_type.ndim)]
    strides = [ir.Constant(ir.IntType(64), item)]
    for size in reversed(shape[1:]):
        strides.insert(0, builder.mul(strides[0], size))
    populate_array(
        array,
        data=builder.inttoptr(word(0), context.get_data_type(array_type.dtype).as_pointer()),
        shape=cgutils.pack_array(builder, shape),
        strides=cgutils.pack_array(builder, strides),
        itemsize=ir.Constant(ir.IntType(64), item),
        meminfo=None,
    )
    return array._getvalue()
