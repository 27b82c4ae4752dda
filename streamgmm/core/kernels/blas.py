"""Matrix products inside kernels: SciPy's BLAS, called without Python.

The symbol is registered with LLVM by name, so that compiled code that refers to it can
be cached (a function pointer baked into the code could not).
"""

import ctypes

import llvmlite.binding
import numpy as np
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from scipy.linalg import cython_blas

from streamgmm.core.kernels.compilation import inline_kernel


def _register(name: str) -> str:
    """Make a function of SciPy's BLAS known to LLVM; return its symbol."""
    capsule = vars(cython_blas)["__pyx_capi__"][name]
    api = ctypes.pythonapi
    api.PyCapsule_GetName.restype = ctypes.c_char_p
    api.PyCapsule_GetName.argtypes = [ctypes.py_object]
    api.PyCapsule_GetPointer.restype = ctypes.c_void_p
    api.PyCapsule_GetPointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
    address = api.PyCapsule_GetPointer(capsule, api.PyCapsule_GetName(capsule))
    symbol = f"streamgmm_{name}"
    llvmlite.binding.add_symbol(symbol, address)
    return symbol


_char, _int, _real = (types.CPointer(t) for t in (types.uint8, types.int32, types.float64))

_dgemm = types.ExternalFunction(
    _register("dgemm"),
    types.void(_char, _char, _int, _int, _int, _real, _real, _int, _real, _int, _real, _real, _int),
)


@intrinsic
def _pointer_to(typing_context, value):
    """Address of a copy of a scalar on the stack: BLAS takes all arguments by reference."""

    def generate(context, builder, signature, arguments):
        return cgutils.alloca_once_value(builder, arguments[0])

    return types.CPointer(value)(value), generate


_N, _T = np.uint8(ord("N")), np.uint8(ord("T"))


@inline_kernel
def _gemm(transpose_a, transpose_b, m, n, k, a, lda, b, ldb, beta, c, ldc):
    _dgemm(
        _pointer_to(_T if transpose_a else _N),
        _pointer_to(_T if transpose_b else _N),
        _pointer_to(np.int32(m)),
        _pointer_to(np.int32(n)),
        _pointer_to(np.int32(k)),
        _pointer_to(1.0),
        a.ctypes,
        _pointer_to(np.int32(lda)),
        b.ctypes,
        _pointer_to(np.int32(ldb)),
        _pointer_to(beta),
        c.ctypes,
        _pointer_to(np.int32(ldc)),
    )


@inline_kernel
def product(a, b, beta, c):
    """``c = a @ b + beta * c`` for views whose last axis is contiguous.

    Shapes: a (m, k), b (k, n), c (m, n); float64. Row strides are free.
    """
    # Row-major c = a b is column-major cᵀ = bᵀ aᵀ.
    size = a.itemsize
    _gemm(
        False, False, b.shape[1], a.shape[0], a.shape[1],
        b, b.strides[0] // size, a, a.strides[0] // size, beta, c, c.strides[0] // size,
    )  # fmt: skip


@inline_kernel
def product_transposed(a, b, beta, c):
    """``c = a @ b.T + beta * c`` for views whose last axis is contiguous.

    Shapes: a (m, k), b (n, k), c (m, n); float64. Row strides are free.
    """
    size = a.itemsize
    _gemm(
        True, False, b.shape[0], a.shape[0], a.shape[1],
        b, b.strides[0] // size, a, a.strides[0] // size, beta, c, c.strides[0] // size,
    )  # fmt: skip
