"""Matrix products over a block of rows, tile by tile.

Θ Φ and R Φᵀ are the two of the expanded form. Φ holds the features of the rows, products of two
coordinates each, and is never stored; see :mod:`~streamgmm.core.kernels.tiles`. The centred form
multiplies a component's factor with the rows, and the residuals with each other.
"""

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from streamgmm.core.kernels.compilation import inlined_piece, piece
from streamgmm.core.kernels.tiles import (
    FORMS,
    MOMENT_TILES,
    PANEL,
    SPARE_FEATURES,
    SQUARE_TILE,
    STRIDE,
    TURNED,
    add_form,
    add_forms,
    add_moments,
    add_products,
    add_quadratic,
    add_tile,
    fetch,
    form_rows,
    multiply_lines,
    take_rows,
)

# Number of features that are summed over all rows of a block before the next features are. Their
# coefficients stay in the cache.
_FEATURES_AT_ONCE = 1024
#: Number of rows whose weights in a tile stay in the nearest cache during a loop over features.
ROWS_AT_ONCE = 512
#: Columns of a factor, and so coordinates of a tile of rows, that stay in the nearest cache.
PANEL_LINES = 21 * FORMS
# Lines that stay in the cache while all lines before them are multiplied with them.
_LINES_AT_ONCE = 96
#: Rows of which all coordinates stay in the cache.
FEW_ROWS = 128
#: Number of data features from which :func:`add_squares` is faster for one component ...
SQUARE_FEATURES = 16
#: ... and for many, and from which :func:`add_quadratic_product` is faster.
MANY_SQUARE_FEATURES = 256
QUADRATIC_FEATURES = 64
#: Bytes of a cache line.
ALIGNMENT = 64
#: Typed, because a literal integer would compile the called function once more.
FIRST = np.int64(0)


@piece
def fill(values, value):
    """Set all of values (n,) to a value."""
    # Loops, not array expressions: those take seconds more to compile.
    for i in range(values.size):
        values[i] = value


def aligned(n: int, dtype: DTypeLike = np.float64) -> NDArray[Any]:
    """Return an uninitialised array (n,) that begins at a cache line.

    Vectors that lie across two cache lines take twice as long to load.
    """
    item = np.dtype(dtype).itemsize
    memory = np.empty(n + ALIGNMENT // item, dtype)
    first = -memory.__array_interface__["data"][0] % ALIGNMENT // item
    return memory[first : first + n]


def lines(n: int, dtype: DTypeLike = np.float64) -> NDArray[Any]:
    """Return an uninitialised array (n, STRIDE) whose lines begin at cache lines."""
    return aligned(n * STRIDE, dtype).reshape(n, STRIDE)


def panel_of_rows() -> NDArray[np.float64]:
    """Return scratch for :func:`multiply_triangular`."""
    return aligned(PANEL_LINES * PANEL)


def square_tile() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return scratch for :func:`add_squares`: weighted lines, and a tile."""
    scaled = lines(SQUARE_TILE[0])
    scaled[:] = 0.0
    return scaled, aligned(SQUARE_TILE[0] * SQUARE_TILE[1]).reshape(SQUARE_TILE)


@inlined_piece
def whole_panels(n):
    """Return the number n of rows rounded up to whole panels."""
    return (n + PANEL - 1) // PANEL * PANEL


@piece
def add_features_product(theta, features, z, n, component, stop, reach, out):
    """Add Θ Φ to out (K, n), for the components from one to a stop.

    Shapes: theta (K, F), features (F, 2), z (E, STRIDE) of theta's type, out (K, STRIDE) of this
    type or float64;
    n is a multiple of form_rows(z). Component c has coefficients for the first reach + c
    features, or all: factors are triangular. The value of an element does not depend on the
    other elements.
    """
    n_features = features.shape[0]
    for first in range(0, n_features, _FEATURES_AT_ONCE):
        for row in range(0, n, form_rows(z)):
            c = component
            while c < stop:
                n_tiles = (stop - c + FORMS - 1) // FORMS
                size = (stop - c + n_tiles - 1) // n_tiles
                last = min(first + _FEATURES_AT_ONCE, n_features, reach + c + size - 1)
                add_forms(theta, features, z, c, size, first, last, row, out)
                c += size


@piece
def add_few_features_product(theta, features, z, start, stop, component, out):
    """Add Θ Φ of one component to the first line of out, for a multiple of TURNED rows.

    Shapes, all float64, and sums are those of :func:`add_features_product`.
    """
    n_features = features.shape[0]
    for first in range(0, n_features, _FEATURES_AT_ONCE):
        last = min(first + _FEATURES_AT_ONCE, n_features)
        for row in range(start, stop, TURNED):
            add_form(theta, features, z, component, first, last, row, out)


@piece
def add_moments_product(weights, features, z, n, component, stop, out, line):
    """Add R Φᵀ to out (lines, F), where R is the weights of components up to a stop.

    Shapes: weights (K, STRIDE) and z (E, STRIDE) of one type, features (F + SPARE_FEATURES, 2),
    out (lines, F + SPARE_FEATURES) float64, added to from one line on; n is a multiple of
    STRIP.
    """
    n_features = features.shape[0] - SPARE_FEATURES
    for size, step in MOMENT_TILES:
        while stop - component >= size:
            for row in range(0, n, ROWS_AT_ONCE):
                last = min(row + ROWS_AT_ONCE, n)
                for first in range(0, n_features, step):
                    add_moments(weights, features, z, component, size, first, row, last, out, line)
            component += size
            line += size


@piece
def multiply_triangular(factor, x, origin, first_row, n, panel, out):
    """Write L (x - origin) into out (D, STRIDE) for rows up to n, and 0 up to whole panels.

    Shapes: L is the lower triangle of factor (D, D), whose other entries are 0; x (D, STRIDE),
    origin (D,), panel that of :func:`panel_of_rows`, all float64; first_row is a multiple of PANEL.
    The value of an element does not depend on the other rows.
    """
    n_lines, width = factor.shape[0], form_rows(x)
    for first in range(0, n_lines, PANEL_LINES):
        last = min(first + PANEL_LINES, n_lines)
        for row in range(first_row, whole_panels(n), width):
            _pack(x, origin, first, last, row, min(row + width, n), width, panel)
            line = first
            while line < n_lines:
                size = _tile_size(line, n_lines)
                reach = min(last, line + size)
                add_products(factor, panel, line, size, first, reach, row, out)
                line += size


@piece
def add_quadratic_product(theta, z, n, nought, component, stop, panel, out):
    """Add Σ_ij T_ij z_i z_j to out (K, n), for the components from one to a stop.

    Shapes: theta (K, E (E + 1) / 2) holds the rows of upper triangles T; z (E, STRIDE), nought (E,)
    zeros, panel that of :func:`panel_of_rows`, all float64; n is a multiple of form_rows(z). The
    value of an element does not depend on the other elements.
    """
    n_lines, width = z.shape[0], form_rows(z)
    for first in range(0, n_lines, PANEL_LINES):
        last = min(first + PANEL_LINES, n_lines)
        for row in range(0, n, width):
            _pack(z, nought, first, last, row, row + width, width, panel)
            for k in range(component, stop):
                for line in range(0, last, FORMS):
                    size = min(FORMS, n_lines - line)
                    add_quadratic(theta, panel, z, k, line, size, first, last, row, out)


@piece
def _tile_size(line, n_lines):
    """Return the size of the next tile, where tiles are about equal."""
    n_tiles = (n_lines - line + FORMS - 1) // FORMS
    return (n_lines - line + n_tiles - 1) // n_tiles


@piece
def _pack(x, origin, first, last, row, stop, width, panel):
    """Write x - origin side by side into panel, for some coordinates and rows; pad rows with 0."""
    for e in range(first, last):
        start = (e - first) * width
        if stop == row + width:
            take_rows(x, e, row, origin[e], panel, start)
        else:
            for i in range(stop - row):
                panel[start + i] = x[e, row + i] - origin[e]
            fill(panel[start + max(stop - row, 0) : start + width], 0.0)


@piece
def add_squares(weights, z, n, scaled, tile, out):
    """Add the upper triangle, by rows, of Σ_r w_r z_r z_rᵀ to out (E (E + 1) / 2 + spare,).

    Shapes: weights (STRIDE,), z (E, STRIDE), scratch scaled (lines of a tile, STRIDE) and tile
    SQUARE_TILE, all float64; n is a multiple of STRIP.
    """
    n_lines = z.shape[0]
    for row in range(0, n, ROWS_AT_ONCE):
        last_row = min(row + ROWS_AT_ONCE, n)
        for panel in range(0, n_lines, _LINES_AT_ONCE):
            stop = min(panel + _LINES_AT_ONCE, n_lines)
            for i in range(0, stop, SQUARE_TILE[0]):
                for a in range(min(SQUARE_TILE[0], n_lines - i)):
                    part = z[i + a, row:last_row]
                    _multiply(weights[row:last_row], part, scaled[a, row:last_row])
                first = panel + max(i - panel, 0) // SQUARE_TILE[1] * SQUARE_TILE[1]
                for j in range(first, stop, SQUARE_TILE[1]):
                    for a in range(i, i + SQUARE_TILE[0]):
                        fetch(out, a * n_lines - a * (a + 1) // 2 + j)
                    multiply_lines(scaled, z, j, row, last_row, tile)
                    _add_upper(tile, i, j, n_lines, stop, out)


@piece
def _multiply(a, b, out):
    """Write the products of the elements of a and b (n,) to out."""
    for i in range(out.size):
        out[i] = a[i] * b[i]


@piece
def _add_upper(tile, i, j, n_lines, stop, out):
    """Add the entries of a tile, from (i, j) on, that are in the upper triangle to out."""
    if i + tile.shape[0] <= min(j + 1, n_lines) and j + tile.shape[1] <= stop:
        add_tile(tile, i, j, n_lines, out)
        return
    for a in range(i, min(i + tile.shape[0], n_lines)):
        start = a * n_lines - a * (a + 1) // 2
        for b in range(max(a, j), min(j + tile.shape[1], stop)):
            out[start + b] += tile[a - i, b - j]
