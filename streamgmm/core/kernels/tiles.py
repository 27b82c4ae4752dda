"""The inner loops of matrix products, Θ Φ and R Φᵀ above all, written in LLVM's own vectors.

Feature f of a row is a product z[left_f] · z[right_f] of two coordinates of the row. It is made in
registers where it is used and never stored. A tile of the result stays in registers too,
while one loop runs over features (Θ Φ) or over rows of data (R Φᵀ).

Arrays have a line for each coordinate or component: element r of a line belongs to row r of a
block of data. Lines are ``STRIDE`` elements apart.
"""

import functools

import llvmlite.binding
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numba.np.arrayobj import make_array

from streamgmm.core.kernels.compilation import cgutils, cpu_features

#: Rows of data in a block.
BLOCK = 1024
#: Elements from one line to the next. With a power of two, all lines would compete for the same
#: few sets of the cache.
STRIDE = BLOCK + 16
#: Rows of a block are made up to a multiple of this, for Θ Φ ...
PANEL = 64
#: ... and of this for R Φᵀ.
STRIP = 16

_VECTOR_BITS = 512 if cpu_features().get("avx512f") else 256 if cpu_features().get("avx") else 128
#: Elements of float32 in a vector.
SINGLE_LANES = _VECTOR_BITS // 32
_IS_ARM = llvmlite.binding.get_default_triple().startswith(("aarch64", "arm64"))
REGISTERS = 32 if _VECTOR_BITS == 512 or _IS_ARM else 16
#: Rows that :func:`turn` and :func:`add_form` take.
TURNED = _VECTOR_BITS // 64

# Sums fill all but a few registers, which hold the summands: components by vectors of rows ...
#: Most components in a tile of Θ Φ.
FORMS = 6
_ROW_VECTORS = 4 if REGISTERS == 32 else 2
# ... and components by features.
#: (components, features) of the tiles of R Φᵀ.
MOMENT_TILES = ((8, 3), (4, 5), (2, 8), (1, 8)) if REGISTERS == 32 else ((4, 3), (2, 4), (1, 8))
#: Extra entries of tables of features and of sums: tiles of R Φᵀ are always computed whole.
SPARE_FEATURES = 8
#: (lines, lines) of the tiles of a product of lines with each other.
SQUARE_TILE = (6, 4) if REGISTERS == 32 else (3, 4)


def int64(value):
    """Return a constant of LLVM."""
    return ir.Constant(ir.IntType(64), value)


def element_of(array_type):
    """Return LLVM's type of the elements of an array."""
    return ir.DoubleType() if array_type.dtype == types.float64 else ir.FloatType()


class Vectors:
    """Emits operations on vectors as wide as a register."""

    def __init__(self, builder, element):
        self.builder = builder
        self.bits = 64 if isinstance(element, ir.DoubleType) else 32
        self.lanes = _VECTOR_BITS // self.bits
        self.type = ir.VectorType(element, self.lanes)

    def sums(self, n):
        """Return vector variables that begin at zero."""
        variables = [cgutils.alloca_once(self.builder, self.type) for _ in range(n)]
        for variable in variables:
            self.builder.store(ir.Constant(self.type, None), variable)
        return variables

    def load(self, pointer, offset):
        """Return the vector that begins at an element of an array."""
        start = self.builder.gep(pointer, [offset])
        return self.builder.load(self.builder.bitcast(start, self.type.as_pointer()), align=4)

    def repeat(self, scalar):
        """Return a vector of equal elements."""
        nothing = ir.Constant(self.type, ir.Undefined)
        first = self.builder.insert_element(nothing, scalar, ir.Constant(ir.IntType(32), 0))
        return self.shuffle(first, nothing, [0] * self.lanes)

    def shuffle(self, a, b, places):
        """Return the elements of a, followed by b, at these indices."""
        mask = ir.Constant(ir.VectorType(ir.IntType(32), len(places)), places)
        return self.builder.shuffle_vector(a, b, mask)

    def accumulate(self, variable, a, b):
        """Add a b to a variable, fused where the processor can."""
        name = f"llvm.fmuladd.v{self.lanes}f{self.bits}"
        signature = ir.FunctionType(self.type, [self.type] * 3)
        fused = cgutils.get_or_insert_function(self.builder.module, signature, name)
        result = self.builder.call(fused, [a, b, self.builder.load(variable)])
        self.builder.store(result, variable)

    def totals(self, vectors):
        """Return a vector of the sums over lanes of several vectors, at most as many as lanes.

        Halves of two vectors are added side by side, then quarters, and so on: each step
        leaves half as many vectors, with partial sums of twice as many.
        """
        width = self.lanes
        while len(vectors) > 1:
            half = width // 2
            starts = range(0, self.lanes, width)
            places = [v + s + i for s in starts for v in (0, self.lanes) for i in range(half)]
            # Vectors far apart are added first, so the sums end in the order of the vectors.
            middle = len(vectors) // 2
            pairs = zip(vectors[:middle], vectors[middle:], strict=True)
            vectors = [self._add_halves(a, b, places, half) for a, b in pairs]
            width = half
        (vector,) = vectors
        while width > 1:
            half = width // 2
            count = vector.type.count
            places = [s + i for s in range(0, count, width) for i in range(half)]
            vector = self._add_halves(vector, vector, places, half)
            width = half
        return vector

    def _add_halves(self, a, b, places, half):
        upper = [place + half for place in places]
        return self.builder.fadd(self.shuffle(a, b, places), self.shuffle(a, b, upper))


def add_to(builder, pointer, vector):
    """Add a vector to as many elements, of its own type or float64, from a pointer on."""
    element = pointer.type.pointee
    stored = ir.VectorType(element, vector.type.count)
    if vector.type != stored:
        vector = builder.fpext(vector, stored)
    place = builder.bitcast(pointer, stored.as_pointer())
    align = 8 if isinstance(element, ir.DoubleType) else 4
    builder.store(builder.fadd(builder.load(place, align=align), vector), place, align=align)


def for_size(builder, size, sizes, emit):
    """Emit code for each of a few sizes, and code that chooses between them."""
    end = builder.append_basic_block("end")
    unreachable = builder.append_basic_block("other")
    choice = builder.switch(size, unreachable)
    for value in sizes:
        case = builder.append_basic_block(f"size{value}")
        choice.add_case(int64(value), case)
        builder.position_at_end(case)
        emit(value)
        builder.branch(end)
    builder.position_at_end(unreachable)
    builder.unreachable()
    builder.position_at_end(end)


def _coordinates(builder, features, f, z, row):
    """Return pointers to the two coordinates whose product is feature f, at a row of data."""
    pointers = []
    for side in range(2):
        place = builder.add(builder.mul(f, int64(2)), int64(side))
        coordinate = builder.load(builder.gep(features.data, [place]))
        offset = builder.add(builder.mul(coordinate, int64(STRIDE)), row)
        pointers.append(builder.gep(z.data, [offset]))
    return pointers


@intrinsic
def turn(typing_context, rows, first, feature, origin, scale, out, line):
    """Set out[line, r] = (rows[r, feature] - origin) scale, for TURNED rows from the first on.

    Shapes: rows (n, D) float64 or float32 of any layout, out (E, STRIDE) float64. Neighbours in
    a line lie far apart in the rows; loops over either are slower than this by half and more.
    """
    integer, real = types.int64, types.float64
    signature = types.void(rows, integer, integer, real, real, out, integer)

    def generate(context, builder, signature, arguments):
        rows, out = (make_array(signature.args[i])(context, builder, arguments[i]) for i in (0, 5))
        _, first, feature, origin, scale, _, line = arguments
        element = element_of(signature.args[0])
        to_row, to_feature = cgutils.unpack_tuple(builder, rows.strides, 2)
        bytes_ = builder.bitcast(rows.data, ir.IntType(8).as_pointer())
        offset = builder.add(builder.mul(first, to_row), builder.mul(feature, to_feature))
        start = builder.gep(bytes_, [offset])
        vectors = Vectors(builder, ir.DoubleType())
        values = ir.Constant(vectors.type, ir.Undefined)
        for r in range(TURNED):
            place = builder.gep(start, [builder.mul(to_row, int64(r))])
            value = builder.load(builder.bitcast(place, element.as_pointer()), align=4)
            if element != ir.DoubleType():
                value = builder.fpext(value, ir.DoubleType())
            values = builder.insert_element(values, value, ir.Constant(ir.IntType(32), r))
        shifted = builder.fsub(values, vectors.repeat(origin))
        scaled = builder.fmul(shifted, vectors.repeat(scale))
        place = builder.gep(out.data, [builder.add(builder.mul(line, int64(STRIDE)), first)])
        builder.store(scaled, builder.bitcast(place, vectors.type.as_pointer()), align=8)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def add_forms(typing_context, theta, features, z, component, size, first, last, row, out):
    """Add Σ_f theta[c, f] z[left_f, r] z[right_f, r] to out[c, r] for one tile.

    Shapes: theta (K, F) float64 or float32, features (F, 2) int64, z (E, STRIDE) of theta's type,
    out (K, STRIDE) of that type or float64. The tile: components from ``component`` on, ``size`` of
    them, at most FORMS; features from ``first`` to ``last``; form_rows(z) rows from ``row`` on.
    """
    signature = types.void(theta, features, z, *[types.int64] * 5, out)

    def generate(context, builder, signature, arguments):
        theta, features, z, out = (
            make_array(signature.args[i])(context, builder, arguments[i]) for i in (0, 1, 2, 8)
        )
        component, size, first, last, row = arguments[3:8]
        vectors = Vectors(builder, element_of(signature.args[0]))
        n_features = builder.extract_value(theta.shape, 1)
        offsets = [int64(v * vectors.lanes) for v in range(_ROW_VECTORS)]

        def emit(n):
            sums = [vectors.sums(_ROW_VECTORS) for _ in range(n)]
            components = [builder.add(component, int64(c)) for c in range(n)]
            lines = [builder.gep(theta.data, [builder.mul(c, n_features)]) for c in components]
            with cgutils.for_range_slice(builder, first, last, int64(1)) as (f, _):
                left, right = _coordinates(builder, features, f, z, row)
                values = [
                    builder.fmul(vectors.load(left, offset), vectors.load(right, offset))
                    for offset in offsets
                ]
                for line, line_sums in zip(lines, sums, strict=True):
                    coefficient = vectors.repeat(builder.load(builder.gep(line, [f])))
                    for variable, value in zip(line_sums, values, strict=True):
                        vectors.accumulate(variable, coefficient, value)
            for c, line_sums in zip(components, sums, strict=True):
                start = builder.add(builder.mul(c, int64(STRIDE)), row)
                for variable, offset in zip(line_sums, offsets, strict=True):
                    place = builder.gep(out.data, [builder.add(start, offset)])
                    add_to(builder, place, builder.load(variable))

        for_size(builder, size, range(1, FORMS + 1), emit)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def add_form(typing_context, theta, features, z, component, first, last, row, out):
    """Add the sum of :func:`add_forms` for one component and TURNED rows to the first line of out.

    Shapes: as those of :func:`add_forms`, all float64. The sum is the same to the last bit.
    """
    signature = types.void(theta, features, z, *[types.int64] * 4, out)

    def generate(context, builder, signature, arguments):
        theta, features, z, out = (
            make_array(signature.args[i])(context, builder, arguments[i]) for i in (0, 1, 2, 7)
        )
        component, first, last, row = arguments[3:7]
        vectors = Vectors(builder, ir.DoubleType())
        n_features = builder.extract_value(theta.shape, 1)
        line = builder.gep(theta.data, [builder.mul(component, n_features)])
        (total,) = vectors.sums(1)
        with cgutils.for_range_slice(builder, first, last, int64(1)) as (f, _):
            left, right = _coordinates(builder, features, f, z, row)
            value = builder.fmul(vectors.load(left, int64(0)), vectors.load(right, int64(0)))
            coefficient = vectors.repeat(builder.load(builder.gep(line, [f])))
            vectors.accumulate(total, coefficient, value)
        add_to(builder, builder.gep(out.data, [row]), builder.load(total))
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def compare_forms(typing_context, values, size, label, row, best, second, labels):
    """Compare densities of one tile of :func:`add_forms` with the largest two so far.

    Shapes: values (size, STRIDE), best, second and labels (BLOCK,), all of one type. Of each of
    form_rows(values) rows from ``row`` on, best becomes the largest, second the one after it, and
    labels ``label`` plus the index of the largest. Among equal values the first one stays.
    """
    signature = types.void(values, *[types.int64] * 3, best, second, labels)

    def generate(context, builder, signature, arguments):
        values, best, second, labels = (
            make_array(signature.args[i])(context, builder, arguments[i]) for i in (0, 4, 5, 6)
        )
        size, label, row = arguments[1:4]
        element = element_of(signature.args[0])
        vectors = Vectors(builder, element)
        first = builder.sitofp(label, element)

        def emit(n):
            numbers = [
                vectors.repeat(builder.fadd(first, ir.Constant(element, float(c))))
                for c in range(n)
            ]
            for v in range(_ROW_VECTORS):
                place = builder.add(row, int64(v * vectors.lanes))
                targets = [builder.gep(array.data, [place]) for array in (best, second, labels)]
                largest, after, number = (vectors.load(t, int64(0)) for t in targets)
                for c in range(n):
                    offset = builder.add(place, int64(c * STRIDE))
                    value = vectors.load(values.data, offset)
                    is_larger = builder.fcmp_ordered(">", value, largest)
                    lower = builder.select(is_larger, largest, value)
                    is_after = builder.fcmp_ordered(">", lower, after)
                    after = builder.select(is_after, lower, after)
                    largest = builder.select(is_larger, value, largest)
                    number = builder.select(is_larger, numbers[c], number)
                for target, vector in zip(targets, (largest, after, number), strict=True):
                    place_of = builder.bitcast(target, vectors.type.as_pointer())
                    builder.store(vector, place_of, align=4)

        for_size(builder, size, range(1, FORMS + 1), emit)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def take_rows(typing_context, z, line, row, origin, panel, start):
    """Set panel[start + r] = z[line, row + r] - origin, for form_rows(z) rows r.

    Shapes, all float64: z (E, STRIDE), panel (n,).
    """
    integer = types.int64
    signature = types.void(z, integer, integer, types.float64, panel, integer)

    def generate(context, builder, signature, arguments):
        z, panel = (make_array(signature.args[i])(context, builder, arguments[i]) for i in (0, 4))
        _, line, row, origin, _, start = arguments
        vectors = Vectors(builder, ir.DoubleType())
        first = builder.add(builder.mul(line, int64(STRIDE)), row)
        origins = vectors.repeat(origin)
        for v in range(_ROW_VECTORS):
            offset = int64(v * vectors.lanes)
            values = builder.fsub(vectors.load(z.data, builder.add(first, offset)), origins)
            place = builder.gep(panel.data, [builder.add(start, offset)])
            builder.store(values, builder.bitcast(place, vectors.type.as_pointer()), align=8)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def add_products(typing_context, factor, panel, component, size, first, last, row, out):
    """Add Σ_e factor[c, e] panel[(e - first) rows + r] to out[c, row + r] for one tile.

    The sums replace what out holds if ``first`` is 0. Shapes, all float64: factor (D, D), panel
    (E · rows,) for form_rows(out) rows, whose first entry belongs to ``first``; out (D, STRIDE).
    The tile: lines from ``component`` on, ``size`` of them, at most FORMS; columns from ``first``
    to ``last``; all rows of the panel.
    """
    signature = types.void(factor, panel, *[types.int64] * 5, out)

    def generate(context, builder, signature, arguments):
        factor, panel, out = (
            make_array(signature.args[i])(context, builder, arguments[i]) for i in (0, 1, 7)
        )
        component, size, first, last, row = arguments[2:7]
        vectors = Vectors(builder, ir.DoubleType())
        n_columns = builder.extract_value(factor.shape, 1)
        offsets = [int64(v * vectors.lanes) for v in range(_ROW_VECTORS)]
        width = int64(_ROW_VECTORS * vectors.lanes)

        def emit(n):
            sums = [vectors.sums(_ROW_VECTORS) for _ in range(n)]
            components = [builder.add(component, int64(c)) for c in range(n)]
            lines = [builder.gep(factor.data, [builder.mul(c, n_columns)]) for c in components]
            with cgutils.for_range_slice(builder, first, last, int64(1)) as (e, _):
                start = builder.mul(builder.sub(e, first), width)
                values = [vectors.load(panel.data, builder.add(start, o)) for o in offsets]
                for line, line_sums in zip(lines, sums, strict=True):
                    coefficient = vectors.repeat(builder.load(builder.gep(line, [e])))
                    for variable, value in zip(line_sums, values, strict=True):
                        vectors.accumulate(variable, coefficient, value)
            is_first = builder.icmp_signed("==", first, int64(0))
            for c, line_sums in zip(components, sums, strict=True):
                start = builder.add(builder.mul(c, int64(STRIDE)), row)
                for variable, offset in zip(line_sums, offsets, strict=True):
                    place = builder.gep(out.data, [builder.add(start, offset)])
                    place = builder.bitcast(place, vectors.type.as_pointer())
                    total = builder.load(variable)
                    both = builder.fadd(builder.load(place, align=8), total)
                    builder.store(builder.select(is_first, total, both), place, align=8)

        for_size(builder, size, range(1, FORMS + 1), emit)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def add_quadratic(typing_context, theta, panel, z, component, line, size, first, last, row, out):
    """Add Σ_a z[line + a, r] Σ_e T[line + a, e] z[e, r] to out[component, r] for one tile.

    T is the upper triangle whose rows are in theta[component]. Shapes, all float64: theta (K, F),
    z (E, STRIDE), out (K, STRIDE), panel with the lines from ``first`` to ``last`` of the rows side
    by side, as :func:`add_products` takes it. The tile: lines from ``line`` on, ``size`` of them,
    at most FORMS; columns from ``first`` to ``last``, among which are the diagonal's or only later
    ones; form_rows(z) rows from ``row`` on.
    """
    signature = types.void(theta, panel, z, *[types.int64] * 6, out)

    def generate(context, builder, signature, arguments):
        theta, panel, z, out = (
            make_array(signature.args[i])(context, builder, arguments[i]) for i in (0, 1, 2, 9)
        )
        component, line, size, first, last, row = arguments[3:9]
        vectors = Vectors(builder, ir.DoubleType())
        n_lines = builder.extract_value(z.shape, 0)
        offsets = [int64(v * vectors.lanes) for v in range(_ROW_VECTORS)]
        width = int64(_ROW_VECTORS * vectors.lanes)
        length = builder.extract_value(theta.shape, 1)
        coefficients = builder.gep(theta.data, [builder.mul(component, length)])

        def emit(n):
            sums = [vectors.sums(_ROW_VECTORS) for _ in range(n)]
            starts = []
            for a in range(n):
                # The entry (i, e) has index i (2 E - i - 1) / 2 + e.
                i = builder.add(line, int64(a))
                twice = builder.sub(builder.shl(n_lines, int64(1)), builder.add(i, int64(1)))
                before = builder.ashr(builder.mul(i, twice), int64(1))
                starts.append(builder.gep(coefficients, [before]))

            def add_column(e, n_above):
                start = builder.mul(builder.sub(e, first), width)
                values = [vectors.load(panel.data, builder.add(start, o)) for o in offsets]
                for start, line_sums in zip(starts[:n_above], sums[:n_above], strict=True):
                    coefficient = vectors.repeat(builder.load(builder.gep(start, [e])))
                    for variable, value in zip(line_sums, values, strict=True):
                        vectors.accumulate(variable, coefficient, value)

            after = builder.add(line, int64(n))
            has_diagonal = builder.icmp_signed(">=", line, first)
            with builder.if_then(has_diagonal):
                for a in range(n):
                    add_column(builder.add(line, int64(a)), a + 1)
            begin = builder.select(has_diagonal, after, first)
            with cgutils.for_range_slice(builder, begin, last, int64(1)) as (e, _):
                add_column(e, n)
            totals = vectors.sums(_ROW_VECTORS)
            for a, line_sums in enumerate(sums):
                place = builder.mul(builder.add(line, int64(a)), int64(STRIDE))
                place = builder.add(place, row)
                for variable, total, offset in zip(line_sums, totals, offsets, strict=True):
                    value = vectors.load(z.data, builder.add(place, offset))
                    vectors.accumulate(total, builder.load(variable), value)
            start = builder.add(builder.mul(component, int64(STRIDE)), row)
            for total, offset in zip(totals, offsets, strict=True):
                place = builder.gep(out.data, [builder.add(start, offset)])
                add_to(builder, place, builder.load(total))

        for_size(builder, size, range(1, FORMS + 1), emit)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def fetch(typing_context, values, index):
    """Ask for an element of values (n,) to be in the cache soon; any index will do."""
    signature = types.void(values, types.int64)

    def generate(context, builder, signature, arguments):
        values = make_array(signature.args[0])(context, builder, arguments[0])
        byte = ir.IntType(8).as_pointer()
        place = builder.bitcast(builder.gep(values.data, [arguments[1]]), byte)
        number = ir.IntType(32)
        prefetch = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(ir.VoidType(), [byte, *[number] * 3]), "llvm.prefetch"
        )
        builder.call(prefetch, [place, *(ir.Constant(number, n) for n in (1, 3, 1))])
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def multiply_lines(typing_context, left, right, j, row, last_row, out):
    """Write Σ_r left[a, r] right[j + b, r] to out[a, b] for one tile.

    Shapes, all float64: out SQUARE_TILE, left (its lines, STRIDE), right (E, STRIDE), of which the
    last line stands for lines beyond it. The rows are those from ``row`` to ``last_row``, multiples
    of STRIP.
    """
    signature = types.void(left, right, *[types.int64] * 3, out)

    def generate(context, builder, signature, arguments):
        left, right, out = (
            make_array(signature.args[i])(context, builder, arguments[i]) for i in (0, 1, 5)
        )
        j, row, last_row = arguments[2:5]
        vectors = Vectors(builder, ir.DoubleType())
        lefts = [builder.gep(left.data, [int64(a * STRIDE)]) for a in range(SQUARE_TILE[0])]
        last_line = builder.sub(builder.extract_value(right.shape, 0), int64(1))
        rights = []
        for b in range(SQUARE_TILE[1]):
            line = builder.add(j, int64(b))
            is_within = builder.icmp_signed("<", line, last_line)
            line = builder.select(is_within, line, last_line)
            rights.append(builder.gep(right.data, [builder.mul(line, int64(STRIDE))]))
        sums = [vectors.sums(len(rights)) for _ in lefts]
        step = int64(vectors.lanes)
        with cgutils.for_range_slice(builder, row, last_row, step) as (r, _):
            factors = [vectors.load(pointer, r) for pointer in lefts]
            for b, pointer in enumerate(rights):
                value = vectors.load(pointer, r)
                for factor, line_sums in zip(factors, sums, strict=True):
                    vectors.accumulate(line_sums[b], factor, value)
        entries = [variable for line_sums in sums for variable in line_sums]
        for first in range(0, len(entries), vectors.lanes):
            parts = [builder.load(variable) for variable in entries[first : first + vectors.lanes]]
            place = builder.gep(out.data, [int64(first)])
            place = builder.bitcast(place, vectors.type.as_pointer())
            builder.store(vectors.totals(parts), place, align=8)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def add_tile(typing_context, tile, i, j, n_lines, out):
    """Add a tile of :func:`multiply_lines` to the upper triangle by rows of a matrix of n lines.

    Shapes, both float64: tile SQUARE_TILE, out (n (n + 1) / 2 or more,). All entries of the tile
    lie in the triangle.
    """
    signature = types.void(tile, *[types.int64] * 3, out)

    def generate(context, builder, signature, arguments):
        tile, out = (make_array(signature.args[i])(context, builder, arguments[i]) for i in (0, 4))
        _, i, j, n_lines, _ = arguments
        n, width = SQUARE_TILE
        row_type = ir.VectorType(ir.DoubleType(), width).as_pointer()
        # The entry (i, j) has index i (2 n - i - 1) / 2 + j.
        twice = builder.mul(i, builder.sub(builder.shl(n_lines, int64(1)), i))
        start = builder.add(builder.ashr(builder.sub(twice, i), int64(1)), j)
        for a in range(n):
            values = builder.bitcast(builder.gep(tile.data, [int64(a * width)]), row_type)
            add_to(builder, builder.gep(out.data, [start]), builder.load(values, align=8))
            below = builder.add(i, int64(a + 1))
            start = builder.add(start, builder.sub(n_lines, below))
        return context.get_dummy_value()

    return signature, generate


def _any(builder, masks):
    """Return whether any element of vectors of truth values is true."""
    both = functools.reduce(builder.or_, masks)
    bits = ir.IntType(both.type.count)
    return builder.icmp_unsigned("!=", builder.bitcast(both, bits), ir.Constant(bits, 0))


@intrinsic
def any_above(typing_context, values, first, threshold):
    """Return whether one of STRIP values (n,), float64, from the first on exceeds a threshold."""
    signature = types.boolean(values, types.int64, types.float64)

    def generate(context, builder, signature, arguments):
        values = make_array(signature.args[0])(context, builder, arguments[0])
        vectors = Vectors(builder, ir.DoubleType())
        least = vectors.repeat(arguments[2])
        places = [builder.add(arguments[1], int64(v)) for v in range(0, STRIP, vectors.lanes)]
        loaded = [vectors.load(values.data, place) for place in places]
        return _any(builder, [builder.fcmp_ordered(">", value, least) for value in loaded])

    return signature, generate


@intrinsic
def any_near(typing_context, values, largest, first, threshold):
    """Return whether one of STRIP values less the largest, both (n,), exceeds a threshold."""
    signature = types.boolean(values, largest, types.int64, types.float64)

    def generate(context, builder, signature, arguments):
        values, largest = (
            make_array(signature.args[i])(context, builder, arguments[i]) for i in (0, 1)
        )
        vectors = Vectors(builder, ir.DoubleType())
        least = vectors.repeat(arguments[3])
        places = [builder.add(arguments[2], int64(v)) for v in range(0, STRIP, vectors.lanes)]
        margins = [
            builder.fsub(vectors.load(values.data, place), vectors.load(largest.data, place))
            for place in places
        ]
        return _any(builder, [builder.fcmp_ordered(">", margin, least) for margin in margins])

    return signature, generate


@intrinsic
def clear_strip(typing_context, values, first):
    """Set STRIP values (n,), float64, from the first on to 0."""
    signature = types.void(values, types.int64)

    def generate(context, builder, signature, arguments):
        values = make_array(signature.args[0])(context, builder, arguments[0])
        vectors = Vectors(builder, ir.DoubleType())
        for v in range(0, STRIP, vectors.lanes):
            place = builder.gep(values.data, [builder.add(arguments[1], int64(v))])
            place = builder.bitcast(place, vectors.type.as_pointer())
            builder.store(ir.Constant(vectors.type, None), place, align=8)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def form_rows(typing_context, z):
    """Return the number of rows of data in a tile of :func:`add_forms`, for z of this type."""

    def generate(context, builder, signature, arguments):
        vectors = Vectors(builder, element_of(signature.args[0]))
        return int64(_ROW_VECTORS * vectors.lanes)

    return types.int64(z), generate


@intrinsic
def add_moments(
    typing_context, weights, features, z, component, size, first, row, last_row, out, line
):
    """Add Σ_r weights[component + c, r] z[left_f, r] z[right_f, r] to out[line + c, f].

    Shapes: weights (K, STRIDE) float64 or float32, features (F + SPARE_FEATURES, 2) int64, z
    (E, STRIDE) of the weights' type, out (lines, F + SPARE_FEATURES) float64. The tile: one of
    MOMENT_TILES, that with ``size`` components; features from ``first`` on; rows from ``row`` to
    ``last_row``, multiples of STRIP.
    """
    signature = types.void(weights, features, z, *[types.int64] * 5, out, types.int64)

    def generate(context, builder, signature, arguments):
        weights, features, z, out = (
            make_array(signature.args[i])(context, builder, arguments[i]) for i in (0, 1, 2, 8)
        )
        component, size, first, row, last_row = arguments[3:8]
        line = arguments[9]
        vectors = Vectors(builder, element_of(signature.args[0]))
        line_length = builder.extract_value(out.shape, 1)

        def emit(n):
            n_features = dict(MOMENT_TILES)[n]
            sums = [vectors.sums(n) for _ in range(n_features)]
            places = [builder.add(first, int64(f)) for f in range(n_features)]
            sides = [_coordinates(builder, features, f, z, int64(0)) for f in places]
            start = builder.gep(weights.data, [builder.mul(component, int64(STRIDE))])
            weight_lines = [builder.gep(start, [int64(c * STRIDE)]) for c in range(n)]
            step = int64(vectors.lanes)
            with cgutils.for_range_slice(builder, row, last_row, step) as (r, _):
                values = [
                    builder.fmul(vectors.load(left, r), vectors.load(right, r))
                    for left, right in sides
                ]
                for c, weights_line in enumerate(weight_lines):
                    weight = vectors.load(weights_line, r)
                    for value, feature_sums in zip(values, sums, strict=True):
                        vectors.accumulate(feature_sums[c], weight, value)
            lines = [builder.add(line, int64(c)) for c in range(n)]
            starts = [builder.add(builder.mul(line, line_length), first) for line in lines]
            if n_features % vectors.lanes == 0:
                for c, start in enumerate(starts):
                    for f in range(0, n_features, vectors.lanes):
                        parts = [builder.load(s[c]) for s in sums[f : f + vectors.lanes]]
                        place = builder.gep(out.data, [builder.add(start, int64(f))])
                        add_to(builder, place, vectors.totals(parts))
                return
            for f, feature_sums in enumerate(sums):
                for c in range(0, n, vectors.lanes):
                    parts = [builder.load(s) for s in feature_sums[c : c + vectors.lanes]]
                    totals = vectors.totals(parts)
                    for i in range(len(parts)):
                        place = builder.gep(out.data, [builder.add(starts[c + i], int64(f))])
                        part = vectors.shuffle(totals, totals, [i])
                        add_to(builder, place, part)

        for_size(builder, size, [n for n, _ in MOMENT_TILES], emit)
        return context.get_dummy_value()

    return signature, generate
