"""The two matrix products over a block of rows, Θ Φ and R Φᵀ, tile by tile.

Φ holds the features of the rows, products of two coordinates each, and is never stored; see
:mod:`~streamgmm.core.kernels.tiles`.
"""

import numpy as np

from streamgmm.core.kernels.compilation import allocating_piece, inlined_piece, piece
from streamgmm.core.kernels.tiles import (
    FORMS,
    MOMENT_TILES,
    PANEL,
    SPARE_FEATURES,
    STRIDE,
    add_forms,
    add_moments,
    form_rows,
)

# Number of features that are summed over all rows of a block before the next features are. Their
# coefficients stay in the cache.
_FEATURES_AT_ONCE = 1024
#: Number of rows whose weights in a tile stay in the nearest cache during a loop over features.
ROWS_AT_ONCE = 512
_ALIGNMENT = 64
#: Typed, because a literal integer would compile the called function once more.
FIRST = np.int64(0)


@allocating_piece
def lines(n, dtype):
    """Return an uninitialised array (n, STRIDE) whose lines begin at cache lines."""
    memory = np.empty(n * STRIDE + _ALIGNMENT, dtype)
    first = (-memory.ctypes.data % _ALIGNMENT) // memory.itemsize
    return memory[first : first + n * STRIDE].reshape(n, STRIDE)


@inlined_piece
def whole_panels(n):
    """Return the number n of rows rounded up to whole panels."""
    return (n + PANEL - 1) // PANEL * PANEL


@piece
def fill(values, value):
    """Set all of values (n,) to a value."""
    # Loops, not array expressions: those take seconds more to compile.
    for i in range(values.size):
        values[i] = value


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
