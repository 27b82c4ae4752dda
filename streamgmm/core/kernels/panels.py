"""The inner loops of products with residuals x - o of one component, in LLVM's own vectors.

The rows of a block are there twice, so that vectors begin in memory one after the other. Both
arrays are cut into pieces as wide as two vectors, and residuals are made in registers:

- panels (rows / width, D, width): neighbours in memory are rows. A tile of Aᵀu, directions by rows,
  stays in registers while one loop runs over features.
- strips (D / width, rows, width): neighbours in memory are features. A tile of Σ w uᵀ, weights by
  features, stays in registers while one loop runs over some of the rows.

Coefficients of the same tile lie side by side: entry (f, c) of a tile of C directions, which begins
at a place, is at place + f C + c.
"""

from contextlib import contextmanager

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numba.np.arrayobj import make_array
from numpy.typing import DTypeLike

from streamgmm.core.kernels.compilation import cgutils, piece
from streamgmm.core.kernels.tiles import (
    REGISTERS,
    SINGLE_LANES,
    Vectors,
    add_to,
    element_of,
    for_size,
    int64,
)

# Numbers of directions in a tile, each with its own machine code. Sums fill most registers.
_SIZES = (12, 8, 4, 2, 1) if REGISTERS == 32 else (6, 4, 2, 1)
#: Most directions in a tile.
DIRECTIONS = _SIZES[0]
_VECTORS = 2
#: Features of arrays of coefficients are made up to a multiple of this.
WHOLE_FEATURES = _VECTORS * SINGLE_LANES


def rows_in_panel(dtype: DTypeLike) -> int:
    """Return the number of rows in a panel, and of features in a strip, of a type."""
    return _VECTORS * SINGLE_LANES * 4 // np.dtype(dtype).itemsize


def directions_in_tile(n: int) -> int:
    """Return how many of n directions that remain are in the next tile."""
    for size in _SIZES:
        if size <= n:
            return size
    return 0


tile_size = piece(directions_in_tile)


def in_tiles(directions: np.ndarray) -> np.ndarray:
    """Return directions (K, n, F) laid out in tiles, one component after the other: (K n F,)."""
    n_components, n, n_features = directions.shape
    found = np.empty((n_components, n * n_features), directions.dtype)
    first = 0
    while first < n:
        stop = first + directions_in_tile(n - first)
        tile = np.swapaxes(directions[:, first:stop], 1, 2)
        found[:, first * n_features : stop * n_features] = tile.reshape(
            n_components, (stop - first) * n_features
        )
        first = stop
    return found.reshape(-1)


class _Array:
    """The elements of an array whose last axes have these numbers of entries."""

    def __init__(self, context, builder, array_type, value):
        self.builder = builder
        self.data = make_array(array_type)(context, builder, value)
        self.sizes = cgutils.unpack_tuple(builder, self.data.shape, array_type.ndim)

    def at(self, *indices):
        """Return a pointer to the element at these indices of a C-contiguous array."""
        offset = indices[0]
        for size, index in zip(self.sizes[1:], indices[1:], strict=True):
            offset = self.builder.add(self.builder.mul(offset, size), index)
        return self.builder.gep(self.data.data, [offset])


def _arrays(context, builder, signature, arguments):
    """Return the arguments: arrays as objects that find elements, others as they are."""
    return [
        _Array(context, builder, kind, value) if isinstance(kind, types.Array) else value
        for kind, value in zip(signature.args, arguments, strict=True)
    ]


def _residuals(vectors, pointer, origins):
    """Return the residuals of the vectors that begin at a pointer."""
    return [
        vectors.builder.fsub(vectors.load(pointer, int64(v * vectors.lanes)), origin)
        for v, origin in enumerate(origins)
    ]


@intrinsic
def panel_width(typing_context, panels):
    """Return the number of rows in a panel, and of features in a strip, of this type."""

    def generate(context, builder, signature, arguments):
        return int64(_VECTORS * Vectors(builder, element_of(signature.args[0])).lanes)

    return types.int64(panels), generate


@intrinsic
def add_projections(
    typing_context, panels, panel, origins, k, directions, place, size, first, last, out, line, row
):
    """Add Σ_f directions[f, c] (panels[panel, f, r] - origins[k, f]) to out[line + c, row + r].

    Shapes: panels (P, D', width), origins (K, D'), directions (any,) of one type, out (lines, rows)
    float64. The tile: directions that begin at a place, as many as one of the sizes of tiles;
    features from ``first`` to ``last``.
    """
    integer = types.int64
    signature = types.void(
        panels, integer, origins, integer, directions, *[integer] * 4, out, integer, integer
    )

    def generate(context, builder, signature, arguments):
        panels, panel, origins, k, directions, place, size, first, last, out, line, row = _arrays(
            context, builder, signature, arguments
        )
        vectors = Vectors(builder, element_of(signature.args[0]))
        nought = int64(0)

        def emit(n):
            sums = [vectors.sums(_VECTORS) for _ in range(n)]
            with cgutils.for_range_slice(builder, first, last, int64(1)) as (f, _):
                origin = vectors.repeat(builder.load(origins.at(k, f)))
                values = _residuals(vectors, panels.at(panel, f, nought), [origin] * _VECTORS)
                start = directions.at(builder.add(place, builder.mul(f, int64(n))))
                for c, own in enumerate(sums):
                    coefficient = vectors.repeat(builder.load(builder.gep(start, [int64(c)])))
                    for variable, value in zip(own, values, strict=True):
                        vectors.accumulate(variable, coefficient, value)
            for c, own in enumerate(sums):
                for v, variable in enumerate(own):
                    column = builder.add(row, int64(v * vectors.lanes))
                    target = out.at(builder.add(line, int64(c)), column)
                    add_to(builder, target, builder.load(variable))

        for_size(builder, size, _SIZES, emit)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def add_squares(typing_context, panels, panel, origins, k, factors, first, last, out, row):
    """Add Σ_f factors[k, f] (panels[panel, f, r] - origins[k, f])² to out[row + r].

    Shapes: panels (P, D', width), origins and factors (K, D') of one type, out (rows,) float64. The
    tile: two panels, features from ``first`` to ``last``.
    """
    integer = types.int64
    signature = types.void(
        panels, integer, origins, integer, factors, integer, integer, out, integer
    )

    def generate(context, builder, signature, arguments):
        panels, panel, origins, k, factors, first, last, out, row = _arrays(
            context, builder, signature, arguments
        )
        vectors = Vectors(builder, element_of(signature.args[0]))
        both = [panel, builder.add(panel, int64(1))]
        sums = [vectors.sums(_VECTORS) for _ in both]
        with cgutils.for_range_slice(builder, first, last, int64(1)) as (f, _):
            origin = vectors.repeat(builder.load(origins.at(k, f)))
            factor = vectors.repeat(builder.load(factors.at(k, f)))
            for own, number in zip(sums, both, strict=True):
                start = panels.at(number, f, int64(0))
                values = _residuals(vectors, start, [origin] * _VECTORS)
                for variable, value in zip(own, values, strict=True):
                    vectors.accumulate(variable, builder.fmul(factor, value), value)
        for v, variable in enumerate(variable for own in sums for variable in own):
            target = out.at(builder.add(row, int64(v * vectors.lanes)))
            add_to(builder, target, builder.load(variable))
        return context.get_dummy_value()

    return signature, generate


@contextmanager
def _over_rows(vectors, strips, strip, origins, k, rows, n):
    """Yield the number of each chosen row and the vectors of its residuals in a strip."""
    builder, nought = vectors.builder, int64(0)
    first = builder.mul(strip, int64(_VECTORS * vectors.lanes))
    start = origins.at(k, first)
    own = [vectors.load(start, int64(v * vectors.lanes)) for v in range(_VECTORS)]
    with cgutils.for_range_slice(builder, nought, n, int64(1)) as (i, _):
        row = builder.load(rows.at(i))
        yield i, _residuals(vectors, strips.at(strip, row, nought), own)


def _add_line(vectors, out, line, strip, variables):
    """Add sums of a strip to a line of out."""
    builder = vectors.builder
    for v, variable in enumerate(variables):
        first = builder.mul(strip, int64(_VECTORS * vectors.lanes))
        target = out.at(line, builder.add(first, int64(v * vectors.lanes)))
        add_to(builder, target, builder.load(variable))


@intrinsic
def add_outer(typing_context, strips, strip, origins, k, rows, n, weights, size, out, line):
    """Add Σ_i weights[i, c] (strips[strip, rows_i, f] - origins[k, f]) to out[line + c, f].

    Shapes: strips (S, any, width), origins (K, D') and weights (any,) of one type, rows (any,)
    int64, of which the first n count, out (lines, D') float64. The tile: ``size`` weights of each
    row, one of the sizes of tiles; the features of the strip.
    """
    integer = types.int64
    signature = types.void(
        strips, integer, origins, integer, rows, integer, weights, integer, out, integer
    )

    def generate(context, builder, signature, arguments):
        strips, strip, origins, k, rows, n, weights, size, out, line = _arrays(
            context, builder, signature, arguments
        )
        vectors = Vectors(builder, element_of(signature.args[0]))

        def emit(n_weights):
            sums = [vectors.sums(_VECTORS) for _ in range(n_weights)]
            with _over_rows(vectors, strips, strip, origins, k, rows, n) as (i, values):
                start = weights.at(builder.mul(i, int64(n_weights)))
                for c, own in enumerate(sums):
                    weight = vectors.repeat(builder.load(builder.gep(start, [int64(c)])))
                    for variable, value in zip(own, values, strict=True):
                        vectors.accumulate(variable, weight, value)
            for c, own in enumerate(sums):
                _add_line(vectors, out, builder.add(line, int64(c)), strip, own)

        for_size(builder, size, _SIZES, emit)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def add_sums_and_squares(
    typing_context, strips, strip, origins, k, rows, n, weights, out, line, squares
):
    """Add Σ_i weights_i u_f to out[line, f] and Σ_i weights_i u_f² to squares[k, f].

    Here u_f is strips[strip, rows_i, f] - origins[k, f]; arrays are those of :func:`add_outer`.
    """
    integer = types.int64
    signature = types.void(
        strips, integer, origins, integer, rows, integer, weights, out, integer, squares
    )

    def generate(context, builder, signature, arguments):
        strips, strip, origins, k, rows, n, weights, out, line, squares = _arrays(
            context, builder, signature, arguments
        )
        vectors = Vectors(builder, element_of(signature.args[0]))
        sums, square_sums = vectors.sums(_VECTORS), vectors.sums(_VECTORS)
        with _over_rows(vectors, strips, strip, origins, k, rows, n) as (i, values):
            weight = vectors.repeat(builder.load(weights.at(i)))
            for linear, square, value in zip(sums, square_sums, values, strict=True):
                weighted = builder.fmul(weight, value)
                builder.store(builder.fadd(builder.load(linear), weighted), linear)
                vectors.accumulate(square, weighted, value)
        _add_line(vectors, out, line, strip, sums)
        _add_line(vectors, squares, k, strip, square_sums)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def take_strip(typing_context, rows, row, centre, strips, strip):
    """Set strips[strip, row, q] = rows[row, f + q] - centre[f + q], f the strip's first feature.

    Shapes: rows (n, D) float64 or float32 of any layout, centre (D,) float64, strips (S, any,
    width) of either type. Differences are taken in float64. All features of the strip exist.
    """
    signature = types.void(rows, types.int64, centre, strips, types.int64)

    def generate(context, builder, signature, arguments):
        _, row, centre, strips, strip = _arrays(context, builder, signature, arguments)
        given = make_array(signature.args[0])(context, builder, arguments[0])
        element = element_of(signature.args[0])
        vectors, doubles = Vectors(builder, element_of(signature.args[3])), ir.DoubleType()
        lanes, wide = vectors.lanes, ir.VectorType(doubles, vectors.lanes)
        to_row, to_feature = cgutils.unpack_tuple(builder, given.strides, 2)
        first = builder.mul(strip, int64(_VECTORS * lanes))
        size = 8 if element == doubles else 4
        offset = builder.add(builder.mul(row, to_row), builder.mul(first, to_feature))
        bytes_ = builder.bitcast(given.data, ir.IntType(8).as_pointer())
        start = builder.gep(bytes_, [offset])

        def store(v, values):
            values = values if element == doubles else builder.fpext(values, wide)
            place = builder.add(first, int64(v * lanes))
            own = builder.load(builder.bitcast(centre.at(place), wide.as_pointer()), align=8)
            shifted = builder.fsub(values, own)
            if vectors.bits == 32:
                shifted = builder.fptrunc(shifted, vectors.type)
            target = strips.at(strip, row, int64(v * lanes))
            builder.store(shifted, builder.bitcast(target, vectors.type.as_pointer()), align=4)

        source = ir.VectorType(element, lanes)
        is_dense = builder.icmp_signed("==", to_feature, int64(size))
        with builder.if_else(is_dense) as (dense, strided):
            with dense:
                for v in range(_VECTORS):
                    place = builder.gep(start, [int64(v * lanes * size)])
                    pointer = builder.bitcast(place, source.as_pointer())
                    store(v, builder.load(pointer, align=size))
            with strided:
                for v in range(_VECTORS):
                    values = ir.Constant(source, ir.Undefined)
                    for q in range(lanes):
                        far = builder.mul(to_feature, int64(v * lanes + q))
                        pointer = builder.bitcast(builder.gep(start, [far]), element.as_pointer())
                        value = builder.load(pointer, align=size)
                        values = builder.insert_element(
                            values, value, ir.Constant(ir.IntType(32), q)
                        )
                    store(v, values)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def turn_strip(typing_context, strips, strip, panels, panel):
    """Set panels[panel, f + q, r] = strips[strip, panel's first row + r, q] for a whole panel.

    Shapes: strips (S, any, width), panels (P, D', width) of one type; f is the strip's first
    feature. Squares of as many rows and features as a vector has lanes are turned in registers:
    halves of vectors that lie half a square apart change places, then quarters, and so on.
    """
    signature = types.void(strips, types.int64, panels, types.int64)

    def generate(context, builder, signature, arguments):
        strips, strip, panels, panel = _arrays(context, builder, signature, arguments)
        vectors = Vectors(builder, element_of(signature.args[0]))
        lanes = vectors.lanes
        width = int64(_VECTORS * lanes)
        row, feature = builder.mul(panel, width), builder.mul(strip, width)

        def square(upper, left):
            lines = [
                vectors.load(strips.at(strip, builder.add(row, int64(upper + i)), left), nought)
                for i in range(lanes)
            ]
            half = lanes // 2
            while half:
                for i in range(lanes):
                    if not i & half:
                        a, b = lines[i], lines[i + half]
                        low = [j if not j & half else lanes + j - half for j in range(lanes)]
                        high = [j + half if not j & half else lanes + j for j in range(lanes)]
                        lines[i] = vectors.shuffle(a, b, low)
                        lines[i + half] = vectors.shuffle(a, b, high)
                half //= 2
            for j, line in enumerate(lines):
                place = builder.add(builder.add(feature, left), int64(j))
                target = panels.at(panel, place, int64(upper))
                builder.store(line, builder.bitcast(target, vectors.type.as_pointer()), align=4)

        nought = int64(0)
        for upper in range(0, _VECTORS * lanes, lanes):
            with cgutils.for_range_slice(builder, nought, width, int64(lanes)) as (left, _):
                square(upper, left)
        return context.get_dummy_value()

    return signature, generate
