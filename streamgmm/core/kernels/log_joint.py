"""Log-joint densities of a block of rows, by either of two routes.

A Gaussian's log-density is linear in the features φ(x) = (1, z, z zᵀ) of the row in the
frame, z = (x - origin) / scale: log-joint densities of all components are one matrix
product Θ Φ. Where the a-priori error bound says that this form cancels, a component takes the
centred route instead: residuals y = W (x - μ), log-density c - ½‖y‖².

Arrays within a block run feature by feature, (D, rows) or (K, rows), so that loops over
rows are contiguous and vectorise.
"""

import math
from typing import NamedTuple

import numpy as np

from streamgmm.core.kernels.blas import product
from streamgmm.core.kernels.compilation import inline_kernel
from streamgmm.core.kernels.elementary import SMALLEST_EXPONENT, exponential

# Those whose factors are matrices come first.
FULL, TIED, DIAG, SPHERICAL = range(4)

UNIT_ROUNDOFF = 2.0**-53
# Features are made and multiplied in slabs that stay in cache; making them twice, once
# for each product, is cheaper than storing them.
SLAB = 640


class Coefficients(NamedTuple):
    """A mixture prepared for evaluation in a frame, as the arrays that kernels read.

    Components are ordered: those on the packed route first, then those on the centred route.
    F is the number of features of the covariance type.
    """

    kind: int  #: FULL, TIED, DIAG or SPHERICAL
    origin: np.ndarray  #: (D,) data units
    inverse_scale: np.ndarray  #: (D,) powers of two
    whitener: np.ndarray  #: (D, D) for TIED: y = whitener z, lower triangular; else (0, 0)
    theta: np.ndarray  #: (packed, F) log-joint density = theta · φ
    means: np.ndarray  #: (K, D) data units
    factors: np.ndarray  #: y = factor (x - μ); FULL (K, D, D), TIED (1, D, D), else (K, 1, D)
    constants: np.ndarray  #: (K,) log-joint density at the mean
    origins: np.ndarray  #: (centred, D) data units, where their moments are taken about
    bases: np.ndarray  #: u = basis (x - origin): shaped like factors, for the centred components
    has_own_basis: bool  #: TIED: whether the basis is the factor
    limit: float  #: rows with |z| beyond it would overflow when squared
    tolerance: float  #: error in nats that the packed route may have


class Workspace(NamedTuple):
    """Scratch arrays of one block of B rows."""

    x: np.ndarray  #: (D, B) data units
    z: np.ndarray  #: (D, B) frame units; TIED: whitened
    shifted: np.ndarray  #: (D, B) x - μ, or rows times responsibilities
    residual: np.ndarray  #: (D, B)
    features: np.ndarray  #: (slab, B)
    log_joint: np.ndarray  #: (K, B); later responsibilities
    extent: np.ndarray  #: (D, 1) bound on |z| over the block
    rounding: np.ndarray  #: (D,) bound on the rounding error of whitened z over the block
    extent_features: np.ndarray  #: (F, 1) features of the extent
    bounds: np.ndarray  #: (packed,) error bound by component
    valid: np.ndarray  #: (B,) 1, or 0 for a row that is left out
    largest: np.ndarray  #: (B,)
    total: np.ndarray  #: (B,)
    common: np.ndarray  #: (B,) part of the log-joint density that all components share


def block_rows(n_features: int, n_components: int) -> int:
    """Rows in a block: many where products are thin, so that the calls to BLAS are few."""
    return 1024 if n_features * n_components <= 64 else 256


_block_rows = inline_kernel(block_rows)


@inline_kernel
def workspace(coefficients):
    """Scratch arrays for the blocks of a chunk."""
    n_components, n_features = coefficients.means.shape
    n_packed, n_map = coefficients.theta.shape
    rows = _block_rows(n_features, n_components)
    return Workspace(
        np.empty((n_features, rows)),
        np.empty((n_features, rows)),
        np.empty((n_features, rows)),
        np.empty((n_features, rows)),
        np.empty((min(n_map, SLAB), rows)),
        np.empty((n_components, rows)),
        np.empty((n_features, 1)),
        np.zeros(n_features),
        np.empty((n_map, 1)),
        np.empty(n_packed),
        np.empty(rows),
        np.empty(rows),
        np.empty(rows),
        np.empty(rows),
    )


@inline_kernel
def fill(values, value):
    """Set all of values (n,) to a value."""
    # Loops, not array expressions: those take seconds more to compile.
    for i in range(values.size):
        values[i] = value


@inline_kernel
def fill_features(kind, z, first, last, out):
    """Features first to last of φ(z), z (D, n), into out (last - first, n).

    Order: 1, z, then the squares: upper triangle of z zᵀ by rows (FULL), z² (DIAG),
    ‖z‖² (SPHERICAL), nothing (TIED).
    """
    n_features, n = z.shape
    f = first
    while f < last and f <= n_features:
        for r in range(n):
            out[f - first, r] = 1.0 if f == 0 else z[f - 1, r]
        f += 1
    if kind == FULL:
        i, row_start = 0, 1 + n_features
        while f < last and row_start + n_features - i <= f:
            row_start += n_features - i
            i += 1
        j = i + f - row_start
        while f < last:
            for r in range(n):
                out[f - first, r] = z[i, r] * z[j, r]
            f += 1
            j += 1
            if j == n_features:
                i += 1
                j = i
    elif kind == DIAG:
        while f < last:
            for r in range(n):
                out[f - first, r] = z[f - 1 - n_features, r] ** 2
            f += 1
    elif kind == SPHERICAL and f < last:
        for r in range(n):
            out[f - first, r] = 0.0
        for d in range(n_features):
            for r in range(n):
                out[f - first, r] += z[d, r] ** 2


@inline_kernel
def _largest(values):
    """Largest magnitude; not finite if a value is not.

    The bits of a non-negative float64 order as the number does, NaN and infinity on top, and an
    integer maximum vectorises.
    """
    largest = np.int64(0)
    for r in range(values.size):
        bits = np.float64(values[r]).view(np.int64) & np.int64(0x7FFFFFFFFFFFFFFF)
        largest = max(largest, bits)
    return np.int64(largest).view(np.float64)


@inline_kernel
def _load(rows, coefficients, work):
    """Rows (n, D) of any dtype and layout into work.x and work.z.

    Rows that are not finite or would overflow are replaced by the origin and marked in
    work.valid. Returns how many (overflowing, not finite).
    """
    n, n_features = rows.shape
    origin, inverse_scale = coefficients.origin, coefficients.inverse_scale
    for r in range(n):
        for d in range(n_features):
            work.x[d, r] = rows[r, d]
    fill(work.valid, 1.0)
    suspicious = False
    for d in range(n_features):
        for r in range(n):
            work.z[d, r] = (work.x[d, r] - origin[d]) * inverse_scale[d]
        work.extent[d, 0] = _largest(work.z[d, :n])
        suspicious |= not (work.extent[d, 0] <= coefficients.limit)
    if not suspicious:
        return 0, 0
    return _set_aside(coefficients, work, n)


@inline_kernel
def _set_aside(coefficients, work, n):
    """Replace rows that cannot be evaluated by the origin; count (overflowing, not finite)."""
    n_features = coefficients.origin.size
    n_overflowing, n_not_finite = 0, 0
    for d in range(n_features):
        work.extent[d, 0] = 0.0
    for r in range(n):
        finite, within = True, True
        for d in range(n_features):
            finite &= math.isfinite(work.x[d, r])
            within &= abs(work.z[d, r]) <= coefficients.limit
        if not (finite and within):
            work.valid[r] = 0.0
            for d in range(n_features):
                work.z[d, r] = 0.0
                work.x[d, r] = coefficients.origin[d]
            if finite:
                n_overflowing += 1
            else:
                n_not_finite += 1
        for d in range(n_features):
            work.extent[d, 0] = max(work.extent[d, 0], abs(work.z[d, r]))
    return n_overflowing, n_not_finite


@inline_kernel
def _whiten(coefficients, work, n):
    """TIED: z becomes y = whitener z, and -½‖y‖², the same for all components, goes apart."""
    whitener = coefficients.whitener
    z, y = work.z[:, :n], work.residual[:, :n]
    product(whitener, z, 0.0, y)
    fill(work.common, 0.0)
    roundoff = UNIT_ROUNDOFF * math.sqrt(z.shape[0])
    for d in range(z.shape[0]):
        for r in range(n):
            z[d, r] = y[d, r]
            work.common[r] -= 0.5 * y[d, r] ** 2
        magnitude = 0.0
        for e in range(d + 1):
            magnitude += abs(whitener[d, e]) * work.extent[e, 0]
        work.rounding[d] = roundoff * magnitude
    for d in range(z.shape[0]):
        work.extent[d, 0] = _largest(z[d])


@inline_kernel
def residuals(kind, origin, factors, k, work, n):
    """y = factor_k (x - origin) for the rows of the block, into work.residual."""
    x, shifted, y = work.x[:, :n], work.shifted[:, :n], work.residual[:, :n]
    for d in range(x.shape[0]):
        for r in range(n):
            shifted[d, r] = x[d, r] - origin[d]
    if kind <= TIED:
        product(factors[min(k, factors.shape[0] - 1)], shifted, 0.0, y)
    else:
        for d in range(x.shape[0]):
            for r in range(n):
                y[d, r] = factors[k, 0, d] * shifted[d, r]


@inline_kernel
def _centred_log_joint(coefficients, k, work, n):
    residuals(coefficients.kind, coefficients.means[k], coefficients.factors, k, work, n)
    out = work.log_joint[k]
    for r in range(n):
        out[r] = 0.0
    for d in range(coefficients.origin.size):
        for r in range(n):
            out[r] += work.residual[d, r] ** 2
    for r in range(n):
        out[r] = coefficients.constants[k] - 0.5 * out[r]


@inline_kernel
def _fold_common(coefficients, work, n):
    """Give back to the packed components what they share: centred ones do not share it."""
    for k in range(coefficients.theta.shape[0]):
        for r in range(n):
            work.log_joint[k, r] += work.common[r]
    fill(work.common, 0.0)


@inline_kernel
def _packed_log_joint(coefficients, work, n):
    """Θ Φ for the components on the packed route, slab by slab."""
    n_packed, n_map = coefficients.theta.shape
    out = work.log_joint[:n_packed, :n]
    for first in range(0, n_map, SLAB):
        last = min(first + SLAB, n_map)
        features = work.features[: last - first, :n]
        fill_features(coefficients.kind, work.z[:, :n], first, last, features)
        product(coefficients.theta[:, first:last], features, 0.0 if first == 0 else 1.0, out)


@inline_kernel
def _recompute_doubtful(coefficients, work, n):
    """Take the centred route, in this block, for packed components whose bound is too large.

    The bound on the error of component k is (4 + √F) u |θ_k| φ(|z|), at the block's extent; for
    TIED with what ½‖y‖² and the rounding of y add. A component whose density underflows beside
    another's whatever the error is left alone.
    """
    n_packed, n_map = coefficients.theta.shape
    features = work.extent_features
    fill_features(coefficients.kind, work.extent, 0, n_map, features)
    roundoff = UNIT_ROUNDOFF * (4.0 + math.sqrt(n_map))
    tied = coefficients.kind == TIED
    doubtful = False
    for k in range(n_packed):
        magnitude, carried = 0.0, 0.0
        for f in range(n_map):
            magnitude += abs(coefficients.theta[k, f]) * features[f, 0]
        if tied:
            for d in range(work.rounding.size):
                magnitude += 0.5 * work.extent[d, 0] ** 2
                distance = work.extent[d, 0] + abs(coefficients.theta[k, 1 + d])
                carried += work.rounding[d] * distance
        work.bounds[k] = roundoff * magnitude + carried
        doubtful |= not (work.bounds[k] <= coefficients.tolerance)
    if not doubtful:
        return
    _fold_common(coefficients, work, n)
    sure = work.largest
    fill(sure, -np.inf)
    for k in range(n_packed):
        for r in range(n):
            sure[r] = max(sure[r], work.log_joint[k, r] - work.bounds[k])
    for k in range(n_packed):
        if work.bounds[k] <= coefficients.tolerance:
            continue
        matters = False
        for r in range(n):
            highest = work.log_joint[k, r] + work.bounds[k]
            matters |= not (highest < sure[r] + SMALLEST_EXPONENT)
        if matters:
            _centred_log_joint(coefficients, k, work, n)


@inline_kernel
def evaluate(rows, coefficients, work):
    """Log-joint densities of a block of rows, into work.log_joint.

    Returns how many rows were left out (overflowing, not finite).
    """
    n = rows.shape[0]
    left_out = _load(rows, coefficients, work)
    if coefficients.kind == TIED:
        _whiten(coefficients, work, n)
    else:
        fill(work.common, 0.0)
    n_packed = coefficients.theta.shape[0]
    if n_packed:
        _packed_log_joint(coefficients, work, n)
        _recompute_doubtful(coefficients, work, n)
    if n_packed < coefficients.means.shape[0]:
        _fold_common(coefficients, work, n)
    for k in range(n_packed, coefficients.means.shape[0]):
        _centred_log_joint(coefficients, k, work, n)
    return left_out


@inline_kernel
def normalise(work, n):
    """Log-sum-exp over components.

    work.log_joint becomes exp(log_joint - largest), work.total its sum over components.
    """
    largest, total, log_joint = work.largest, work.total, work.log_joint
    for r in range(n):
        largest[r] = log_joint[0, r]
    for k in range(1, log_joint.shape[0]):
        for r in range(n):
            value = log_joint[k, r]
            largest[r] = value if value > largest[r] else largest[r]
    for r in range(n):
        total[r] = 0.0
    for k in range(log_joint.shape[0]):
        for r in range(n):
            value = exponential(log_joint[k, r] - largest[r])
            log_joint[k, r] = value
            total[r] += value
