"""Log-joint densities of a block of rows, in the expanded form or in the centred form.

A Gaussian's log-density is linear in the features φ(x) = (1, z, z zᵀ) of the row in the
frame, z = (x - origin) / scale: log-joint densities of all components are one matrix
product Θ Φ. Where the a-priori error bound says that this form cancels, a component takes the
centred form instead: residuals y = W (x - μ), log-density c - ½‖y‖².

Every feature is a product of two coordinates, of which the first is always 1: coordinates
are (1, z), and for spherical covariances (1, z, ‖z‖²).
"""

import math
from typing import NamedTuple

import numpy as np

from streamgmm.core.kernels.compilation import inlined_piece, piece, view_piece
from streamgmm.core.kernels.elementary import SMALLEST_EXPONENT, exponential
from streamgmm.core.kernels.kinds import DIAG, SPHERICAL, TIED
from streamgmm.core.kernels.products import (
    FEW_ROWS,
    FIRST,
    SQUARE_FEATURES,
    fill,
    lines,
    multiply_triangular,
    panel_of_rows,
    square_tile,
    whole_panels,
)
from streamgmm.core.kernels.screening import (
    FEW,
    NEGLIGIBLE,
    TOGETHER,
    add_expanded,
    can_screen,
    find_rows,
    gather,
    screened_log_joint,
)
from streamgmm.core.kernels.tiles import BLOCK, STRIP, TURNED, any_near, clear_strip, turn

UNIT_ROUNDOFF = 2.0**-53
# Most strips of rows of which each is looked at before exponentials are computed.
_FEW_STRIPS = 6
# Most lines of residuals that are kept.
_MOST_KEPT = 1 << 13
#: The label of rows that are noise.
NOISE = -1


def n_kept_lines(n_centred: int, n_features: int) -> int:
    """Return how many lines of residuals are kept from the densities of a block to its moments.

    They are those of whole components whose factors are matrices.
    """
    if n_features < SQUARE_FEATURES:
        return 0
    n_lines = 1 + n_features
    return min(n_centred, _MOST_KEPT // n_lines) * n_lines


class Coefficients(NamedTuple):
    """A mixture prepared for evaluation in a frame, as the arrays that kernels read.

    Components are ordered: those in the expanded form first, then those in the centred form.
    F is the number of features of the covariance type, E of coordinates: 1 + D, spherical 2 + D.
    """

    kind: int  #: FULL, TIED, DIAG or SPHERICAL
    features: np.ndarray  #: (F + spare, 2) int64, the coordinates whose product each feature is
    scatter_features: np.ndarray  #: (D (D + 1) / 2 + spare, 2) int64 for TIED: of z zᵀ
    origin: np.ndarray  #: (D,) data units
    inverse_scale: np.ndarray  #: (D,) powers of two
    whitener: np.ndarray  #: (D, D) for TIED: y = whitener z, lower triangular; else (0, 0)
    theta: np.ndarray  #: (packed, F) log-joint density = theta · φ
    theta_single: np.ndarray  #: the same in float32, or (0, F) if float32 is not to be used
    single_tolerance: float  #: error in nats that a density from float32 may have
    means: np.ndarray  #: (K, D) data units
    factors: np.ndarray  #: y = factor (x - μ); FULL (K, D, D), TIED (1, D, D), else (K, 1, D)
    constants: np.ndarray  #: (K,) log-joint density at the mean
    origins: np.ndarray  #: (centred, D) data units, where their moments are taken about
    bases: np.ndarray  #: u = basis (x - origin): shaped like factors, for the centred components
    has_own_basis: bool  #: TIED: whether the basis is the factor
    limit: float  #: rows with |z| beyond it would overflow when squared
    tolerance: float  #: error in nats that the expanded form may have
    log_noise: float  #: log-joint density of the noise, -inf if there is none
    log_ranges: np.ndarray  #: (D,) logarithms of the widths of its box, or (0,)


class Workspace(NamedTuple):
    """Scratch arrays of one block; those of two axes have a line of rows for each entry."""

    z: np.ndarray  #: (E, STRIDE) coordinates in the frame; TIED: whitened
    x: np.ndarray  #: (D, STRIDE) rows in data units, if a component needs them
    nought: np.ndarray  #: (1 + D,) 0
    unit: np.ndarray  #: (D,) 1
    scaled: np.ndarray  #: scratch of products of lines with each other: weighted lines
    tile: np.ndarray  #: ... and a tile
    panel: np.ndarray  #: scratch of triangular products
    kept: np.ndarray  #: (n E, STRIDE) residuals of the first n centred components
    residual: np.ndarray  #: (E, STRIDE) coordinates about a component's own origin, in its basis
    log_joint: np.ndarray  #: (K, STRIDE); later responsibilities
    extent: np.ndarray  #: (E,) bound on the coordinates over the block
    rounding: np.ndarray  #: (D,) bound on the rounding error of whitened z over the block
    extent_features: np.ndarray  #: (F,) features of the extent
    bounds: np.ndarray  #: (packed,) error bound by component
    single_bounds: np.ndarray  #: (packed,) the same in float32, over SINGLE_OVER_DOUBLE
    is_centred: np.ndarray  #: (K,) bool, whether a component uses the centred form
    valid: np.ndarray  #: (BLOCK,) 1, or 0 for a row that is skipped
    largest: np.ndarray  #: (BLOCK,)
    total: np.ndarray  #: (BLOCK,)
    common: np.ndarray  #: (BLOCK,) part of the log-joint density that all components share
    noise: np.ndarray  #: (BLOCK,) log-joint density of the noise, less the common part
    best: np.ndarray  #: (BLOCK,) largest density that a label has so far
    gathered: np.ndarray  #: (E, STRIDE) 1, then some rows of z or x
    turned: np.ndarray  #: (BLOCK, E) the transpose of z ...
    is_turned: np.ndarray  #: (1,) int64, ... which is there if this is 1
    some: np.ndarray  #: (1, STRIDE) of rows: weights, or densities of a component
    some_rows: np.ndarray  #: (TOGETHER, FEW) int64, rows in which components matter
    counts: np.ndarray  #: (TOGETHER,) int64, their number
    lists: np.ndarray  #: (K, FEW) int64, rows in which components may have a share; or (0, FEW)
    listed: np.ndarray  #: (K,) int64, their number; more than FEW if there is no list
    z_single: np.ndarray  #: (E, STRIDE) float32, if blocks are screened
    unscreened: np.ndarray  #: (1,) int64, blocks that are not screened from here on
    n_screened: np.ndarray  #: (1,) int64, pairs of row and component that float32 ruled out
    n_single: np.ndarray  #: (1,) int64, pairs whose density is that from float32
    recent_moments: np.ndarray  #: (K, F + spare) sums of a few blocks; 0 before and after a chunk
    recent_scatter: np.ndarray  #: (1, S + spare) the same


def workspace(coefficients: Coefficients, n_kept: int = 0) -> Workspace:
    """Return scratch arrays for the blocks of a chunk.

    Parameters
    ----------
    coefficients : Coefficients
    n_kept : int
        Number of lines for the residuals of some components, the first of the centred ones, as
        :func:`n_kept_lines` returns it.
    """
    n_components, n_features = coefficients.means.shape
    n_packed, n_moments = coefficients.theta.shape
    n_scatter = coefficients.scatter_features.shape[0]
    n_coordinates = n_features + (2 if coefficients.kind == SPHERICAL else 1)
    scaled, tile = square_tile()
    sizes = (n_coordinates, n_features, n_coordinates, n_coordinates, n_components, n_kept)
    # Memory that is allocated as a whole may have pages of its own size. Of small pages each line
    # has two or three, more than a processor finds at once.
    whole = lines(sum(sizes))
    z, x, residual, gathered, log_joint, kept = np.split(whole, np.cumsum(sizes)[:-1])
    # Entries that no row has yet are multiplied with weights of 0.
    gathered[:] = 1.0
    z[0] = residual[0] = 1.0
    kept[::n_coordinates] = 1.0
    extent = np.empty(n_coordinates)
    extent[0] = 1.0
    return Workspace(
        z=z,
        x=x,
        nought=np.zeros(1 + n_features),
        unit=np.ones(n_features),
        scaled=scaled,
        tile=tile,
        panel=panel_of_rows(),
        kept=kept,
        residual=residual,
        log_joint=log_joint,
        extent=extent,
        rounding=np.zeros(n_features),
        extent_features=np.empty(n_moments),
        bounds=np.empty(n_packed),
        single_bounds=np.empty(n_packed),
        is_centred=np.empty(n_components, np.bool_),
        valid=np.empty(BLOCK),
        largest=np.empty(BLOCK),
        total=np.empty(BLOCK),
        common=np.empty(BLOCK),
        noise=np.empty(BLOCK),
        best=np.empty(BLOCK),
        gathered=gathered,
        turned=np.empty((BLOCK, n_coordinates)),
        is_turned=np.zeros(1, np.int64),
        some=lines(1),
        some_rows=np.empty((TOGETHER, FEW), np.int64),
        counts=np.empty(TOGETHER, np.int64),
        lists=np.empty((n_components if len(coefficients.theta_single) else 0, FEW), np.int64),
        listed=np.empty(n_components, np.int64),
        z_single=lines(n_coordinates if len(coefficients.theta_single) else 0, np.float32),
        unscreened=np.zeros(1, np.int64),
        n_screened=np.zeros(1, np.int64),
        n_single=np.zeros(1, np.int64),
        recent_moments=np.zeros((n_components, coefficients.features.shape[0])),
        recent_scatter=np.zeros((1, n_scatter)),
    )


@piece
def begin(work):
    """Prepare scratch arrays for a chunk."""
    work.unscreened[0] = work.n_screened[0] = work.n_single[0] = 0


@inlined_piece
def is_kept(c, work):
    """Return whether the residuals of centred component c are kept."""
    size = work.residual.shape[0]
    return c >= 0 and (c + 1) * size <= work.kept.shape[0]


@view_piece
def residual_lines(c, work):
    """Return the lines for the residuals of centred component c, (E, STRIDE)."""
    size = work.residual.shape[0]
    return work.kept[c * size : (c + 1) * size] if is_kept(c, work) else work.residual


@piece
def _largest(values):
    """Return the largest magnitude; it is not finite if a value is not.

    The bits of non-negative float64 numbers have the order of the numbers, with infinity and NaN at
    the top. An integer maximum vectorises.
    """
    largest = np.int64(0)
    for r in range(values.size):
        bits = np.float64(values[r]).view(np.int64) & np.int64(0x7FFFFFFFFFFFFFFF)
        largest = max(largest, bits)
    return np.int64(largest).view(np.float64)


@piece
def _turn(rows, origin, scale, out):
    """Write (rows - origin) scale into out (D, STRIDE), a line per feature; pad panels with 0."""
    n, n_features = rows.shape
    whole = n // TURNED * TURNED
    for first in range(0, whole, TURNED):
        for d in range(n_features):
            turn(rows, first, d, origin[d], scale[d], out, d)
    for d in range(n_features):
        for r in range(whole, n):
            out[d, r] = (rows[r, d] - origin[d]) * scale[d]
        fill(out[d, n : whole_panels(n)], 0.0)


@piece
def load_rows(rows, coefficients, work):
    """Write the coordinates of rows (n, D) of any dtype and layout into work.z.

    Rows that are not finite or would overflow are replaced by the origin and marked in
    work.valid. Return three counts: overflowing rows, rows that are not finite, and among these the
    rows with NaN but no infinity.
    """
    n, n_features = rows.shape
    z = work.z[1:]
    _turn(rows, coefficients.origin, coefficients.inverse_scale, z)
    fill(work.valid, 1.0)
    suspicious = False
    for d in range(n_features):
        work.extent[1 + d] = _largest(z[d, :n])
        suspicious |= not (work.extent[1 + d] <= coefficients.limit)
    if not suspicious:
        return 0, 0, 0
    return _set_aside(rows, coefficients, work)


@piece
def _set_aside(rows, coefficients, work):
    """Replace rows that cannot be evaluated by the origin; count as :func:`load_rows` does."""
    n, n_features = rows.shape
    n_overflowing, n_not_finite, n_missing = 0, 0, 0
    for d in range(n_features):
        for r in range(n):
            within = abs(work.z[1 + d, r]) <= coefficients.limit
            work.valid[r] = work.valid[r] if within else 0.0
    for r in range(n):
        if work.valid[r] == 0.0:
            has_nan, has_infinity = False, False
            for d in range(n_features):
                has_nan |= math.isnan(np.float64(rows[r, d]))
                has_infinity |= math.isinf(np.float64(rows[r, d]))
            if not (has_nan or has_infinity):
                n_overflowing += 1
            else:
                n_not_finite += 1
                n_missing += 0 if has_infinity else 1
    for d in range(n_features):
        for r in range(n):
            work.z[1 + d, r] = work.z[1 + d, r] if work.valid[r] == 1.0 else 0.0
        work.extent[1 + d] = _largest(work.z[1 + d, :n])
    return n_overflowing, n_not_finite, n_missing


@piece
def _whiten(coefficients, work, n):
    """Replace z by y = whitener z (TIED), and store -½‖y‖², which all components share, apart."""
    whitener = coefficients.whitener
    z, y = work.z[1:], work.residual[1:]
    for row in range(0, n, FEW_ROWS):
        last = min(row + FEW_ROWS, n)
        multiply_triangular(whitener, z, work.nought, row, last, work.panel, y)
    fill(work.common, 0.0)
    roundoff = UNIT_ROUNDOFF * math.sqrt(z.shape[0])
    for d in range(z.shape[0]):
        for r in range(n):
            z[d, r] = y[d, r]
            work.common[r] -= 0.5 * y[d, r] ** 2
        magnitude = 0.0
        for e in range(d + 1):
            magnitude += abs(whitener[d, e]) * work.extent[1 + e]
        work.rounding[d] = roundoff * magnitude
    for d in range(z.shape[0]):
        work.extent[1 + d] = _largest(z[d, :n])


@piece
def add_square(coordinates, n):
    """Set the last coordinate to ‖z‖² (SPHERICAL)."""
    square = coordinates[-1]
    fill(square[: whole_panels(n)], 0.0)
    for d in range(1, coordinates.shape[0] - 1):
        _add_squares(coordinates[d, :n], square[:n])


@piece
def residuals(coefficients, x, origin, factors, k, n, work, out):
    """Write y = factor_k (x - origin) for n rows of x (D, STRIDE) into out (E, STRIDE).

    The first line of out holds 1. Whole panels are padded with 0.
    """
    for row in range(0, n, FEW_ROWS):
        _few_residuals(coefficients, x, origin, factors, k, row, min(row + FEW_ROWS, n), work, out)


@piece
def _few_residuals(coefficients, x, origin, factors, k, row, stop, work, out):
    """Write residuals as :func:`residuals` does, for the rows from one on."""
    y, whole = out[1:], whole_panels(stop)
    if coefficients.kind <= TIED:
        factor = factors[min(k, factors.shape[0] - 1)]
        multiply_triangular(factor, x, origin, row, stop, work.panel, y)
    else:
        for d in range(x.shape[0]):
            _scale(x[d, row:stop], origin[d], factors[k, 0, d], y[d, row:stop])
            fill(y[d, stop:whole], 0.0)
    if coefficients.kind == SPHERICAL:
        fill(out[-1, row:whole], 0.0)
        for d in range(x.shape[0]):
            _add_squares(y[d, row:stop], out[-1, row:stop])


@piece
def _scale(values, origin, factor, out):
    """Write factor (values - origin) into out (n,)."""
    for r in range(values.size):
        out[r] = factor * (values[r] - origin)


@piece
def _add_squares(values, out):
    """Add the squares of values (n,) to out."""
    for r in range(values.size):
        out[r] += values[r] ** 2


@piece
def _centred_densities(coefficients, x, k, n, work, y, out):
    """Write log-joint densities of component k for n rows of x (D, STRIDE) into out (STRIDE,).

    Their residuals go into y (E, STRIDE).
    """
    mean, factors = coefficients.means[k], coefficients.factors
    fill(out, 0.0)
    for row in range(0, n, FEW_ROWS):
        stop = min(row + FEW_ROWS, n)
        _few_residuals(coefficients, x, mean, factors, k, row, stop, work, y)
        for d in range(mean.size):
            _add_squares(y[1 + d, row:stop], out[row:stop])
    for r in range(n):
        out[r] = coefficients.constants[k] - 0.5 * out[r]


@piece
def _centred_log_joint(coefficients, k, n, work):
    """Write densities of component k in the centred form, for rows where they may matter."""
    is_packed = k < coefficients.theta.shape[0] and math.isfinite(work.bounds[k])
    count = _find_doubtful(k, n, work) if is_packed else FEW + 1
    if count > FEW:
        y = residual_lines(k - coefficients.theta.shape[0], work)
        _centred_densities(coefficients, work.x, k, n, work, y, work.log_joint[k])
    elif count > 0:
        rows = work.some_rows[0, :count]
        x = work.gathered[1 : 1 + work.x.shape[0]]
        gather(work.x, rows, whole_panels(count), x)
        _centred_densities(coefficients, x, k, count, work, work.residual, work.some[0])
        for i in range(count):
            work.log_joint[k, rows[i]] = work.some[0, i]


@piece
def _find_doubtful(k, n, work):
    """List, in work.some_rows, the rows where a packed component does not surely underflow.

    Return their number, or more than FEW. work.largest holds a lower bound on the largest density.
    """
    margins = work.some[0]
    for r in range(n):
        margins[r] = work.log_joint[k, r] - work.largest[r]
    fill(margins[n : whole_panels(n)], -np.inf)
    threshold = SMALLEST_EXPONENT - work.bounds[k]
    return find_rows(margins, threshold, whole_panels(n), work.some_rows[0])


@piece
def load_in_data_units(rows, coefficients, work):
    """Write rows (n, D) into work.x; the origin replaces skipped rows and fills the last panel."""
    n, n_features = rows.shape
    _turn(rows, work.nought, work.unit, work.x)
    for d in range(n_features):
        fill(work.x[d, n : whole_panels(n)], coefficients.origin[d])
    for r in range(n):
        if work.valid[r] == 0.0:
            for d in range(n_features):
                work.x[d, r] = coefficients.origin[d]


@piece
def _fold_common(coefficients, work, n):
    """Add the shared part back to packed components, because centred ones do not share it."""
    for k in range(coefficients.theta.shape[0]):
        for r in range(n):
            work.log_joint[k, r] += work.common[r]
    fill(work.common, 0.0)


@piece
def _packed_log_joint(coefficients, work, n_rows):
    """Compute Θ Φ for the components in the expanded form."""
    n = whole_panels(n_rows)
    n_packed = coefficients.theta.shape[0]
    for k in range(n_packed):
        fill(work.log_joint[k, :n], 0.0)
    if can_screen(coefficients, work):
        screened_log_joint(coefficients, work, n_rows)
    else:
        theta = coefficients.theta
        add_expanded(coefficients, theta, work.z, n, FIRST, n_packed, work, work.log_joint)


@piece
def _bound_errors(coefficients, work):
    """Write bounds on the errors of packed components in this block into work.bounds.

    (4 + √F) u |θ_k| φ(|z|), at the block's extent; for TIED the bound includes ½‖y‖² and the
    rounding of y. Errors of the coordinates of y are independent, and add in squares.
    """
    n_packed, n_map = coefficients.theta.shape
    extent, features = work.extent, work.extent_features
    if coefficients.kind == SPHERICAL:
        extent[-1] = 0.0
        for d in range(1, extent.size - 1):
            extent[-1] += extent[d] ** 2
    for f in range(n_map):
        left, right = coefficients.features[f, 0], coefficients.features[f, 1]
        features[f] = extent[left] * extent[right]
    roundoff = UNIT_ROUNDOFF * (4.0 + math.sqrt(n_map))
    for k in range(n_packed):
        magnitude, carried = 0.0, 0.0
        for f in range(n_map):
            magnitude += abs(coefficients.theta[k, f]) * features[f]
        if coefficients.kind == TIED:
            for d in range(work.rounding.size):
                magnitude += 0.5 * extent[1 + d] ** 2
                distance = extent[1 + d] + abs(coefficients.theta[k, 1 + d])
                carried += (work.rounding[d] * distance) ** 2
        work.bounds[k] = roundoff * magnitude + 4.0 * math.sqrt(carried)


@piece
def _bound_single_errors(coefficients, work, n):
    """Write bounds on the errors in float32, over SINGLE_OVER_DOUBLE, into work.single_bounds.

    They are work.bounds or, where rows do not have all coordinates of the extent at once, less. For
    all rows with ‖z‖² ≤ R, Σ |θ| φ ≤ |c| + ‖b‖ √R + max |q| R by the inequality of Cauchy and
    Schwarz, where c, b and q are the coefficients of 1, z and the squares.
    """
    n_packed, n_map = coefficients.theta.shape
    for k in range(n_packed):
        work.single_bounds[k] = work.bounds[k]
    if coefficients.kind != DIAG and coefficients.kind != SPHERICAL:
        return
    square = work.some[0, :n]
    fill(square, 0.0)
    for d in range(coefficients.origin.size):
        _add_squares(work.z[1 + d, :n], square)
    radius = _largest(square)
    roundoff = UNIT_ROUNDOFF * (4.0 + math.sqrt(n_map))
    for k in range(n_packed):
        theta, n_linear = coefficients.theta[k], 1 + coefficients.origin.size
        linear, steepest = 0.0, 0.0
        for f in range(1, n_linear):
            linear += theta[f] ** 2
        for f in range(n_linear, n_map):
            steepest = max(steepest, abs(theta[f]))
        magnitude = abs(theta[0]) + math.sqrt(linear * radius) + steepest * radius
        # Rounding in the radius is less than one part in a million.
        bound = roundoff * 1.000001 * magnitude
        work.single_bounds[k] = min(work.single_bounds[k], bound)


@piece
def _find_centred(coefficients, work, n):
    """Mark, in work.is_centred, the components that use the centred form in this block.

    These are the components that always use it, and the packed ones whose error bound is too large.
    If there are such packed ones, a lower bound on the largest density of each row goes into
    work.largest. Return whether any component uses the centred form.
    """
    n_components, n_packed = work.is_centred.size, coefficients.theta.shape[0]
    doubtful = False
    for k in range(n_components):
        work.is_centred[k] = k >= n_packed or not (work.bounds[k] <= coefficients.tolerance)
        doubtful |= k < n_packed and work.is_centred[k]
    any_centred = n_packed < n_components or doubtful
    if any_centred:
        _fold_common(coefficients, work, n)
    if doubtful:
        sure = work.largest
        fill(sure, -np.inf)
        for k in range(n_packed):
            for r in range(n):
                sure[r] = max(sure[r], work.log_joint[k, r] - work.bounds[k])
    return any_centred


@piece
def load(rows, coefficients, work):
    """Write the coordinates of a block of rows into work.z, and find the bounds of their errors.

    Return the counts of skipped rows, as :func:`load_rows` does.
    """
    left_out = load_rows(rows, coefficients, work)
    work.is_turned[0] = 0
    fill(work.common, 0.0)
    if coefficients.kind == TIED:
        _whiten(coefficients, work, rows.shape[0])
    elif coefficients.kind == SPHERICAL:
        add_square(work.z, rows.shape[0])
    _bound_errors(coefficients, work)
    is_wanted = work.unscreened[0] == 0 or coefficients.single_tolerance > 0.0
    if coefficients.theta_single.shape[0] and is_wanted:
        _bound_single_errors(coefficients, work, rows.shape[0])
    return left_out


@piece
def evaluate(rows, coefficients, work):
    """Write log-joint densities of a loaded block of rows into work.log_joint."""
    n = rows.shape[0]
    _packed_log_joint(coefficients, work, n)
    any_centred = _find_centred(coefficients, work, n)
    if any_centred or not coefficients.has_own_basis:
        load_in_data_units(rows, coefficients, work)
    for k in range(work.is_centred.size):
        if work.is_centred[k]:
            _centred_log_joint(coefficients, k, n, work)
    load_noise(coefficients, n, work)


@piece
def load_noise(coefficients, n, work):
    """Write the log-joint density of the noise, less the common part, into work.noise."""
    if has_noise(coefficients):
        for r in range(n):
            work.noise[r] = coefficients.log_noise - work.common[r]


@inlined_piece
def has_noise(coefficients):
    """Return whether the mixture has a component of constant density."""
    return coefficients.log_noise > -np.inf


@piece
def normalise(coefficients, work, n):
    """Compute the log-sum-exp over components, and the noise.

    work.log_joint becomes exp(log_joint - largest). work.total becomes the sum over components and
    the noise.
    """
    _begin_total(coefficients, work, n)
    largest, total, log_joint = work.largest, work.total, work.log_joint
    for k in range(log_joint.shape[0]):
        for r in range(n):
            value = exponential(log_joint[k, r] - largest[r])
            log_joint[k, r] = value
            total[r] += value


@piece
def normalise_shares(coefficients, work, n):
    """Compute what :func:`normalise` does, with 0 for many components without a share in a row.

    Their part of the total is too small to change its last bit.
    """
    _begin_total(coefficients, work, n)
    largest, total, log_joint = work.largest, work.total, work.log_joint
    for k in range(log_joint.shape[0]):
        line = log_joint[k]
        fill(line[n : whole_panels(n)], -np.inf)
        if _has_few_shares(line, largest, n):
            _take_few_exponentials(line, largest, total, n)
        else:
            for r in range(n):
                value = exponential(log_joint[k, r] - largest[r])
                log_joint[k, r] = value
                total[r] += value


@piece
def normalise_lists(coefficients, work, n):
    """Compute what :func:`normalise_shares` does, where work.lists has the rows of components."""
    largest, total, log_joint = work.largest, work.total, work.log_joint
    fill(largest[:n], -np.inf)
    for k in range(log_joint.shape[0]):
        line = log_joint[k]
        if work.listed[k] > FEW:
            for r in range(n):
                largest[r] = line[r] if line[r] > largest[r] else largest[r]
        else:
            for i in range(work.listed[k]):
                row = work.lists[k, i]
                largest[row] = max(largest[row], line[row])
    _begin_with_noise(coefficients, work, n)
    for k in range(log_joint.shape[0]):
        line = log_joint[k]
        if work.listed[k] > FEW:
            fill(line[n : whole_panels(n)], -np.inf)
            _take_few_exponentials(line, largest, total, n)
        else:
            for i in range(work.listed[k]):
                row = work.lists[k, i]
                value = exponential(line[row] - largest[row])
                line[row] = value
                total[row] += value


@piece
def _has_few_shares(line, largest, n):
    """Return whether few strips of n rows have a row in which a component has a share."""
    count = 0
    for first in range(0, n, STRIP):
        count += any_near(line, largest, first, NEGLIGIBLE)
        if count > _FEW_STRIPS:
            return False
    return True


@piece
def _take_few_exponentials(line, largest, total, n):
    """Replace densities by exponentials as :func:`normalise` does, in strips with a share alone."""
    for first in range(0, n, STRIP):
        if any_near(line, largest, first, NEGLIGIBLE):
            for r in range(first, min(first + STRIP, n)):
                value = exponential(line[r] - largest[r])
                line[r] = value
                total[r] += value
        else:
            clear_strip(line, first)


@piece
def _begin_total(coefficients, work, n):
    """Find the largest density of each row, and begin the total with the noise."""
    largest, log_joint = work.largest, work.log_joint
    for r in range(n):
        largest[r] = log_joint[0, r]
    for k in range(1, log_joint.shape[0]):
        for r in range(n):
            value = log_joint[k, r]
            largest[r] = value if value > largest[r] else largest[r]
    _begin_with_noise(coefficients, work, n)


@piece
def _begin_with_noise(coefficients, work, n):
    """Begin the total of each row with the noise, and compare its density with the largest."""
    largest, total = work.largest, work.total
    for r in range(n):
        total[r] = 0.0
    if has_noise(coefficients):
        for r in range(n):
            largest[r] = max(largest[r], work.noise[r])
            total[r] = exponential(work.noise[r] - largest[r])
