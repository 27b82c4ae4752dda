"""The two matrix products over a block of rows, Θ Φ and R Φᵀ, tile by tile.

Φ holds the features of the rows, products of two coordinates each, and is never stored; see
:mod:`~streamgmm.core.kernels.tiles`.
"""

import numpy as np

from streamgmm.core.kernels.compilation import inline_kernel
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

# So many coefficients serve all rows of a block before the next ones do: they stay in the cache.
_COEFFICIENTS_AT_ONCE = 32768
_ALIGNMENT = 64


@inline_kernel
def lines(n, dtype):
    """Uninitialised array (n, STRIDE) whose lines begin at cache lines."""
    memory = np.empty(n * STRIDE + _ALIGNMENT, dtype)
    first = (-memory.ctypes.data % _ALIGNMENT) // memory.itemsize
    return memory[first : first + n * STRIDE].reshape(n, STRIDE)


@inline_kernel
def whole_panels(n):
    """Rows n of a block, made up to whole panels."""
    return (n + PANEL - 1) // PANEL * PANEL


@inline_kernel
def add_features_product(theta, features, z, n, is_triangular, out):
    """Out (K, n) += Θ Φ.

    Shapes: theta (K, F), features (F, 2), z (E, STRIDE) of theta's type, out (K, STRIDE) float64;
    n is a multiple of PANEL. If triangular, only the first c + 1 features of component c have
    a coefficient.
    """
    n_components, n_features = theta.shape
    slab = max(_COEFFICIENTS_AT_ONCE // max(n_components, 1), PANEL)
    for first in range(0, n_features, slab):
        for row in range(0, n, form_rows(z)):
            component = 0
            while component < n_components:
                left = n_components - component
                n_tiles = (left + FORMS - 1) // FORMS
                size = (left + n_tiles - 1) // n_tiles
                last = min(first + slab, n_features)
                if is_triangular:
                    last = min(last, component + size)
                add_forms(theta, features, z, component, size, first, last, row, out)
                component += size


@inline_kernel
def add_moments_product(weights, features, z, n, component, last, out, line):
    """Out (lines, F) += R Φᵀ, R the lines of weights from a component to the last.

    Shapes: weights (K, STRIDE) and z (E, STRIDE) of one type, features (F + SPARE_FEATURES, 2),
    out (lines, F + SPARE_FEATURES) float64, added to from one line on; n is a multiple of
    ROWS_AT_ONCE.
    """
    n_features = features.shape[0] - SPARE_FEATURES
    for size, step in MOMENT_TILES:
        while last - component >= size:
            for first in range(0, n_features, step):
                add_moments(weights, features, z, component, size, first, n, out, line)
            component += size
            line += size
