"""The E-step of covariances of low rank plus a diagonal, over one chunk of rows.

With residuals u = x - μ the log-joint density is c - ½ Σ u²/ψ + ½‖Vᵀu‖², by the identity of
Woodbury. The projections y = Vᵀu are computed once: the sums Σγ u yᵀ of an EM step use them too.
Sums along further directions A may follow those of V. All are matrix products with residuals, by
the loops of :mod:`~streamgmm.core.kernels.panels`.

Where the difference would lose digits, because noise is small beside the loadings, the density is
c - ½ Σ (u - Λ E[z])²/ψ - ½‖E[z]‖² with the expected factors E[z]; both sums are positive.

Products are of the type of the coefficients. With float32, sums over a few features or the rows of
a block are float32, and sums of these are float64, as all of the rest. Rows for which this is not
accurate enough are left to the float64 kernel.

References
----------
Ghahramani & Hinton (1996), The EM algorithm for mixtures of factor analyzers.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from streamgmm.core.kernels.compilation import inlined_piece, kernel, piece
from streamgmm.core.kernels.log_joint import NOISE, has_noise, normalise
from streamgmm.core.kernels.mixture import (
    BLOCKS_IN_SUM,
    count_in,
    describe_block,
    label_block,
    move,
    weigh,
)
from streamgmm.core.kernels.panels import (
    DIRECTIONS,
    add_outer,
    add_projections,
    add_squares,
    add_sums_and_squares,
    panel_width,
    rows_in_panel,
    take_strip,
    tile_size,
    turn_strip,
)
from streamgmm.core.kernels.products import FIRST, aligned, fill, whole_panels
from streamgmm.core.kernels.screening import find_rows
from streamgmm.core.kernels.tiles import BLOCK, PANEL
from streamgmm.core.kernels.totals import N_SINGLE

# Bytes of the rows of a block, which stay in the cache of a core, and its fewest rows.
_BLOCK_BYTES, _FEWEST_ROWS = 3 << 19, 4 * PANEL
# Features whose projections, and whose squares, are summed in float32 before the sums are added in
# float64. Sums of squares grow with each summand, and so do their rounding errors.
_FEATURES_AT_ONCE, _SQUARES_AT_ONCE = 64, 16
# Entries of a line beyond its rows. With a power of two, all lines would compete for the same few
# sets of the cache.
_SPARE_ENTRIES = 16


class LowRankCoefficients(NamedTuple):
    """A mixture prepared for evaluation, as the arrays that the kernel reads; R is the rank.

    T is float64 or float32. D' is D made up to whole strips. Directions are laid out
    by :func:`~streamgmm.core.kernels.panels.in_tiles`, one component after the other.
    """

    centre: np.ndarray  #: (D,) float64 what coordinates are about
    means: np.ndarray  #: (K, D') T, in these coordinates
    precisions: np.ndarray  #: (K, D') T, 1/ψ
    projections: np.ndarray  #: (K R D,) T, V in tiles
    constants: np.ndarray  #: (K,) float64, log-joint density at the mean
    positions: np.ndarray  #: (K,) int64, index among the components of little noise, or -1
    shrinkages: np.ndarray  #: (K, R) float64, E[z] = shrinkage · y
    loadings: np.ndarray  #: (little noise · R D,) T, -Λ E[z] = loadings y, in tiles of columns
    origins: np.ndarray  #: (K, D') T where moments are taken about, in these coordinates
    leading: np.ndarray  #: (K R D,) T, the first directions of the moments, or (0,) if they are V
    spare: np.ndarray  #: (K (W - R) D,) T, the other directions of the moments
    rank: int  #: R
    width: int  #: W
    limit: float  #: rows with a larger |x - centre| would overflow when squared
    most_spread: float  #: Σ u²/ψ in the likeliest component, above which rows need float64
    log_noise: float  #: log-joint density of the noise, -inf if there is none


class LowRankWorkspace(NamedTuple):
    """Scratch arrays of one block; n is its number of rows, and in lines some more."""

    strips: np.ndarray  #: (D' / width, n, width) T rows
    panels: np.ndarray  #: (n / width, D', width) T the same rows
    no_origin: np.ndarray  #: (1, R') T 0
    factors: np.ndarray  #: (n / width, R', width) T projections of one component
    misfits: np.ndarray  #: (D, n) differences of residuals and what factors explain
    squares: np.ndarray  #: (K, n) Σ u²/ψ
    projected: np.ndarray  #: (K W, n) Vᵀu of all components, then Aᵀu
    tile: np.ndarray  #: (DIRECTIONS, width) projections of a panel
    weights: np.ndarray  #: (DIRECTIONS n,) T weights of a tile
    log_joint: np.ndarray  #: (K, n); later responsibilities
    valid: np.ndarray  #: (BLOCK,) 1, or 0 for a row that is skipped
    is_large: np.ndarray  #: (BLOCK,) bool, whether a row would overflow
    largest: np.ndarray  #: (BLOCK,)
    total: np.ndarray  #: (BLOCK,)
    common: np.ndarray  #: (BLOCK,) 0
    best: np.ndarray  #: (BLOCK,)
    noise: np.ndarray  #: (BLOCK,) log-joint density of the noise
    some_rows: np.ndarray  #: (n,) int64
    is_wanted: np.ndarray  #: (n / width,) bool, whether a panel has rows of interest
    recent_counts: np.ndarray  #: (K,) sums of a few blocks; 0 before and after a chunk
    recent_linear: np.ndarray  #: (K (1 + W), D') the same
    recent_squares: np.ndarray  #: (K, D') the same


class LowRankSums(NamedTuple):
    """Sums over rows, by component."""

    counts: np.ndarray  #: (K,) Σγ
    linear: np.ndarray  #: (K (1 + W), D) Σγu, then Σγ (Aᵀu)_l u for each l
    squares: np.ndarray  #: (K, D) Σγu²


def rows_in_block(n_features: int, item_bytes: int) -> int:
    """Return the number of rows in a block, from the number of bytes of a value."""
    n = _BLOCK_BYTES // (item_bytes * n_features) // PANEL * PANEL
    return min(max(n, _FEWEST_ROWS), BLOCK)


_block_rows = inlined_piece(rows_in_block)


def _cube(first: int, second: int, third: int, dtype: DTypeLike) -> NDArray[Any]:
    """Return an uninitialised array of three axes that begins at a cache line."""
    return aligned(first * second * third, dtype).reshape(first, second, third)


def low_rank_workspace(coefficients: LowRankCoefficients) -> LowRankWorkspace:
    """Return scratch arrays for the blocks of a chunk."""
    n_components, n_whole = coefficients.means.shape
    n_features, dtype = coefficients.centre.size, coefficients.means.dtype
    rank, n = coefficients.rank, rows_in_block(n_features, dtype.itemsize)
    width = rows_in_panel(dtype)
    n_little = n_features if coefficients.loadings.size else 0
    n_factors = rank if coefficients.loadings.size else 0
    n_line = n + _SPARE_ENTRIES
    return LowRankWorkspace(
        strips=_cube(n_whole // width, n, width, dtype),
        panels=_cube(n // width, n_whole, width, dtype),
        no_origin=np.zeros((1, n_factors), dtype),
        factors=_cube(n // width, n_factors, width, dtype),
        misfits=np.empty((n_little, n_line)),
        squares=np.empty((n_components, n_line)),
        projected=np.empty((n_components * coefficients.width, n_line)),
        tile=np.empty((DIRECTIONS, width)),
        weights=np.empty(DIRECTIONS * n, dtype),
        log_joint=np.empty((n_components, n_line)),
        valid=np.empty(BLOCK),
        is_large=np.empty(BLOCK, np.bool_),
        largest=np.empty(BLOCK),
        total=np.empty(BLOCK),
        common=np.zeros(BLOCK),
        best=np.empty(BLOCK),
        noise=np.full(BLOCK, coefficients.log_noise),
        some_rows=np.empty(n, np.int64),
        is_wanted=np.empty(n // width, np.bool_),
        recent_counts=np.zeros(n_components),
        recent_linear=np.zeros((n_components * (1 + coefficients.width), n_whole)),
        recent_squares=np.zeros((n_components, n_whole)),
    )


def low_rank_sums(n_components: int, width: int, n_features: int) -> LowRankSums:
    """Return sums of no rows."""
    return LowRankSums(
        np.zeros(n_components),
        np.zeros((n_components * (1 + width), n_features)),
        np.zeros((n_components, n_features)),
    )


@piece
def _take(rows, coefficients, work):
    """Write rows (n, D), less the centre, into work.strips, and 0 beside them."""
    n, n_features = rows.shape
    strips, centre = work.strips, coefficients.centre
    width = panel_width(strips)
    n_whole = n_features // width
    for r in range(n):
        for strip in range(n_whole):
            take_strip(rows, r, centre, strips, strip)
        if n_whole * width < n_features:
            fill(strips[n_whole, r], 0.0)
            for d in range(n_whole * width, n_features):
                strips[n_whole, r, d - n_whole * width] = rows[r, d] - centre[d]
    for strip in range((n_features + width - 1) // width):
        for r in range(n, whole_panels(n)):
            fill(strips[strip, r], 0.0)


@piece
def _largest(values, n):
    """Return the largest magnitude in the first n lines of values; it may not be finite.

    The bits of non-negative float64 numbers have the order of the numbers, with infinity and NaN at
    the top. An integer maximum vectorises.
    """
    largest = np.int64(0)
    for r in range(n):
        for q in range(values.shape[1]):
            bits = np.float64(values[r, q]).view(np.int64) & np.int64(0x7FFFFFFFFFFFFFFF)
            largest = max(largest, bits)
    return np.int64(largest).view(np.float64)


@piece
def _load(rows, coefficients, work):
    """Write rows (n, D) of any dtype and layout into work.strips and work.panels.

    Rows that are not finite or would overflow are replaced by the centre and marked in work.valid.
    Return three counts: overflowing rows, rows that are not finite, and among these the rows with
    NaN but no infinity.
    """
    n, n_features = rows.shape
    width = panel_width(work.strips)
    n_strips = (n_features + width - 1) // width
    _take(rows, coefficients, work)
    fill(work.valid, 1.0)
    suspicious = False
    for strip in range(n_strips):
        suspicious |= not (_largest(work.strips[strip], n) <= coefficients.limit)
    counts = (0, 0, 0)
    if suspicious:
        counts = _set_aside(rows, coefficients, work)
    for panel in range(whole_panels(n) // width):
        for strip in range(n_strips):
            turn_strip(work.strips, strip, work.panels, panel)
    return counts


@piece
def _set_aside(rows, coefficients, work):
    """Replace rows that cannot be evaluated by the centre; count as :func:`_load` does."""
    n, n_features = rows.shape
    n_overflowing, n_not_finite, n_missing = 0, 0, 0
    for r in range(n):
        is_within, has_nan, has_infinity = True, False, False
        for d in range(n_features):
            value = np.float64(rows[r, d])
            is_within &= abs(value - coefficients.centre[d]) <= coefficients.limit
            has_nan |= math.isnan(value)
            has_infinity |= math.isinf(value)
        work.is_large[r] = not (is_within or has_nan or has_infinity)
        if is_within:
            continue
        work.valid[r] = 0.0
        for strip in range(work.strips.shape[0]):
            fill(work.strips[strip, r], 0.0)
        if work.is_large[r]:
            n_overflowing += 1
        else:
            n_not_finite += 1
            n_missing += 0 if has_infinity else 1
    return n_overflowing, n_not_finite, n_missing


@piece
def _project(coefficients, origins, k, directions, n_directions, n, work, out):
    """Write products of directions with residuals about origins[k] into lines of out.

    Component k has n_directions of the directions. Panels that are not wanted are skipped.
    """
    place = k * n_directions * coefficients.centre.size
    for panel in range(whole_panels(n) // panel_width(work.panels)):
        line = 0
        while line < n_directions and work.is_wanted[panel]:
            size = tile_size(n_directions - line)
            own = place + line * coefficients.centre.size
            _project_panel(coefficients, origins, k, directions, own, size, panel, work)
            for c in range(size):
                for r in range(work.tile.shape[1]):
                    out[line + c, panel * work.tile.shape[1] + r] = work.tile[c, r]
            line += size


@piece
def _project_panel(coefficients, origins, k, directions, place, size, panel, work):
    """Write products of a tile of directions with residuals of a panel into work.tile."""
    for c in range(size):
        fill(work.tile[c], 0.0)
    n_features = coefficients.centre.size
    step = _FEATURES_AT_ONCE if directions.itemsize == 4 else n_features
    for first in range(0, n_features, step):
        last = min(first + step, n_features)
        add_projections(
            work.panels,
            panel,
            origins,
            k,
            directions,
            place,
            size,
            first,
            last,
            work.tile,
            FIRST,
            FIRST,
        )


@piece
def _square(coefficients, k, n, work, out):
    """Write Σ u²/ψ under component k into out."""
    n_features, width = coefficients.centre.size, panel_width(work.panels)
    fill(out[: whole_panels(n)], 0.0)
    step = _SQUARES_AT_ONCE if coefficients.means.itemsize == 4 else n_features
    for first in range(0, n_features, step):
        last = min(first + step, n_features)
        for panel in range(0, whole_panels(n) // width, 2):
            add_squares(
                work.panels,
                panel,
                coefficients.means,
                k,
                coefficients.precisions,
                first,
                last,
                out,
                panel * width,
            )


@piece
def _evaluate(coefficients, n, work):
    """Write log-joint densities of n rows into work.log_joint, and their projections.

    Those of component k are in the first R of its W lines of work.projected.
    """
    rank, width = coefficients.rank, coefficients.width
    fill(work.is_wanted, True)
    for k in range(coefficients.means.shape[0]):
        density, squares = work.log_joint[k], work.squares[k]
        projected = work.projected[k * width : k * width + rank]
        _square(coefficients, k, n, work, squares)
        _project(
            coefficients,
            coefficients.means,
            k,
            coefficients.projections,
            rank,
            n,
            work,
            projected,
        )
        if coefficients.positions[k] < 0:
            for r in range(n):
                density[r] = squares[r]
            for line in range(rank):
                for r in range(n):
                    density[r] -= projected[line, r] ** 2
        else:
            _square_misfits(coefficients, k, n, work, projected, density)
        for r in range(n):
            density[r] = coefficients.constants[k] - 0.5 * density[r]


@piece
def _square_misfits(coefficients, k, n, work, projected, out):
    """Write Σ (u - Λ E[z])²/ψ + ‖E[z]‖² of component k into out."""
    rank, n_features = coefficients.rank, coefficients.centre.size
    whole, width = whole_panels(n), panel_width(work.panels)
    fill(out[:whole], 0.0)
    for line in range(rank):
        shrinkage = coefficients.shrinkages[k, line]
        for r in range(whole):
            work.factors[r // width, line, r % width] = projected[line, r]
            out[r] += (shrinkage * projected[line, r]) ** 2
    for d in range(n_features):
        mean = coefficients.means[k, d]
        for r in range(whole):
            work.misfits[d, r] = work.panels[r // width, d, r % width] - mean
    place = coefficients.positions[k] * rank * n_features
    for panel in range(whole // width):
        d = 0
        while d < n_features:
            size = tile_size(n_features - d)
            add_projections(
                work.factors,
                panel,
                work.no_origin,
                FIRST,
                coefficients.loadings,
                place + d * rank,
                size,
                FIRST,
                rank,
                work.misfits,
                d,
                panel * width,
            )
            d += size
    for d in range(n_features):
        precision = coefficients.precisions[k, d]
        for r in range(n):
            out[r] += precision * work.misfits[d, r] ** 2


@piece
def _assign(weights, coefficients, work, n):
    """Replace log-joint densities by the weight of each row in its component of largest density.

    Among equal densities the first one is taken; rows whose density is largest in the noise have no
    weight. Return the sum of weights and of weighted log-densities.
    """
    if weights.size:
        for r in range(n):
            work.valid[r] *= weights[r]
    weight, log_likelihood, with_noise = 0.0, 0.0, has_noise(coefficients)
    for r in range(n):
        first = 0
        for k in range(1, work.log_joint.shape[0]):
            if work.log_joint[k, r] > work.log_joint[first, r]:
                first = k
        largest = work.log_joint[first, r]
        if with_noise and work.noise[r] > largest:
            first, largest = -1, work.noise[r]
        weight += work.valid[r]
        log_likelihood += work.valid[r] * largest
        for k in range(work.log_joint.shape[0]):
            work.log_joint[k, r] = work.valid[r] if k == first else 0.0
    for k in range(work.log_joint.shape[0]):
        fill(work.log_joint[k, n : whole_panels(n)], 0.0)
    return weight, log_likelihood


@piece
def _want_panels_of(rows, work):
    """Set work.is_wanted for the panels that hold some of the rows."""
    fill(work.is_wanted, False)
    for i in range(rows.size):
        work.is_wanted[rows[i] // panel_width(work.panels)] = True


@piece
def _project_on_bases(coefficients, n, work):
    """Write products of residuals with the directions of moments into work.projected.

    Those that :func:`_evaluate` has written there may be the first ones.
    """
    rank, width, origins = coefficients.rank, coefficients.width, coefficients.origins
    for k in range(coefficients.means.shape[0]):
        count = find_rows(work.log_joint[k], 0.0, whole_panels(n), work.some_rows)
        _want_panels_of(work.some_rows[:count], work)
        out = work.projected[k * width : (k + 1) * width]
        if coefficients.leading.size:
            _project(coefficients, origins, k, coefficients.leading, rank, n, work, out)
        if width > rank:
            spare = coefficients.spare
            _project(coefficients, origins, k, spare, width - rank, n, work, out[rank:])


@piece
def _add_sums(coefficients, n_rows, work):
    """Add a block of rows to recent sums; return how many pairs with a component were skipped."""
    linear = work.recent_linear
    _project_on_bases(coefficients, n_rows, work)
    passed_over, width = 0, coefficients.width
    n_strips = (coefficients.centre.size + panel_width(work.strips) - 1) // panel_width(work.strips)
    strips, origins, weights = work.strips, coefficients.origins, work.weights
    for k in range(coefficients.means.shape[0]):
        shares = work.log_joint[k]
        count = find_rows(shares, 0.0, whole_panels(n_rows), work.some_rows)
        passed_over += n_rows - count
        if count == 0:
            continue
        rows = work.some_rows[:count]
        for i in range(count):
            work.recent_counts[k] += shares[rows[i]]
            weights[i] = shares[rows[i]]
        line = k * (1 + width)
        for strip in range(n_strips):
            add_sums_and_squares(
                strips, strip, origins, k, rows, count, weights, linear, line, work.recent_squares
            )
        first = 0
        while first < width:
            size = tile_size(width - first)
            for c in range(size):
                projected = work.projected[k * width + first + c]
                for i in range(count):
                    weights[i * size + c] = shares[rows[i]] * projected[rows[i]]
            line = k * (1 + width) + 1 + first
            for strip in range(n_strips):
                add_outer(strips, strip, origins, k, rows, count, weights, size, linear, line)
            first += size
    return passed_over


@piece
def _describe(start, n, priors, order, coefficients, is_hard, work, posteriors):
    """Fill scores, labels and, if there is room for them, responsibilities of n rows."""
    scores, labels, responsibilities = posteriors
    label_block(start, n, order, coefficients, work, labels)
    if not is_hard:
        normalise(coefficients, work, n)
        describe_block(
            start, n, priors, order, coefficients, work, scores, labels, responsibilities
        )
        return
    skipped = NOISE if has_noise(coefficients) else np.argmax(priors)
    for r in range(n):
        is_valid = work.valid[r] == 1.0
        scores[start + r] = work.best[r] if is_valid else -np.inf
        labels[start + r] = labels[start + r] if is_valid else skipped


@piece
def _add_recent(work, sums):
    """Add the sums of recent blocks to sums, and set them to 0."""
    move(work.recent_linear, sums.linear)
    move(work.recent_squares, sums.squares)
    for k in range(sums.counts.size):
        sums.counts[k] += work.recent_counts[k]
    fill(work.recent_counts, 0.0)


@piece
def _visit_rows(
    rows, weights, priors, order, coefficients, is_hard, work, sums, totals, posteriors
):
    """Fill the arrays that :func:`low_rank_step` is given, block by block."""
    size = _block_rows(rows.shape[1], coefficients.means.itemsize)
    for start in range(0, rows.shape[0], size):
        stop = min(start + size, rows.shape[0])
        n = stop - start
        left_out = _load(rows[start:stop], coefficients, work)
        _evaluate(coefficients, n, work)
        weight, log_likelihood, passed_over = 0.0, 0.0, 0
        if posteriors[0].size:
            _describe(start, n, priors, order, coefficients, is_hard, work, posteriors)
        else:
            own_weights = weights[start:stop]
            if is_hard:
                weight, log_likelihood = _assign(own_weights, coefficients, work, n)
            else:
                normalise(coefficients, work, n)
                weight, log_likelihood = weigh(own_weights, work, n)
            passed_over = _add_sums(coefficients, n, work)
            if (start // size + 1) % BLOCKS_IN_SUM == 0 or stop == rows.shape[0]:
                _add_recent(work, sums)
        count_in(totals, n, left_out, weight, log_likelihood, passed_over)


@piece
def _leave_wide_rows(coefficients, n, work, is_left):
    """Mark rows that float32 is not accurate enough for, in is_left (n,), and skip them.

    Return their number.
    """
    spread = work.total
    fill(work.best, -np.inf)
    for k in range(work.log_joint.shape[0]):
        for r in range(n):
            is_better = work.log_joint[k, r] > work.best[r]
            work.best[r] = work.log_joint[k, r] if is_better else work.best[r]
            spread[r] = work.squares[k, r] if is_better else spread[r]
    count = 0
    for r in range(n):
        is_wide = work.valid[r] == 1.0 and not spread[r] <= coefficients.most_spread
        is_left[r] = is_wide or (work.valid[r] == 0.0 and work.is_large[r])
        work.valid[r] = 0.0 if is_left[r] else work.valid[r]
        count += is_left[r]
    return count


@piece
def _visit_rows_in_single(rows, weights, coefficients, work, sums, totals, is_left):
    """Fill the arrays that :func:`low_rank_single` is given, block by block."""
    size = _block_rows(rows.shape[1], coefficients.means.itemsize)
    for start in range(0, rows.shape[0], size):
        stop = min(start + size, rows.shape[0])
        n = stop - start
        _, n_not_finite, n_missing = _load(rows[start:stop], coefficients, work)
        _evaluate(coefficients, n, work)
        n_left = _leave_wide_rows(coefficients, n, work, is_left[start:stop])
        normalise(coefficients, work, n)
        weight, log_likelihood = weigh(weights[start:stop], work, n)
        passed_over = _add_sums(coefficients, n, work)
        if (start // size + 1) % BLOCKS_IN_SUM == 0 or stop == rows.shape[0]:
            _add_recent(work, sums)
        passed_over -= n_left * coefficients.means.shape[0]
        left_out = (0, n_not_finite, n_missing)
        count_in(totals, n - n_left, left_out, weight, log_likelihood, passed_over)
        totals[N_SINGLE] += (n - n_left - n_not_finite) * coefficients.means.shape[0]


@kernel
def low_rank_step(
    rows, weights, priors, order, coefficients, is_hard, work, sums, totals, posteriors
):
    """Run the E-step over a chunk: sufficient statistics, or posteriors of the rows.

    Parameters
    ----------
    rows : (n, D) float64 or float32
    weights : (n,) float64, or (0,) for weights of 1
    priors : (K',) float64
        Responsibilities given to rows that are skipped.
    order : (K,) int64
        Index of each component of the coefficients among the K' components of the model, rising.
    coefficients : struct of LowRankCoefficients
    is_hard : bool
        Whether a row counts wholly for its component of largest density.
    work : struct of LowRankWorkspace
    sums : LowRankSums, 0 before
    totals : (N_TOTALS,) float64, 0 before
        As for :func:`~streamgmm.core.kernels.mixture.e_step`.
    posteriors : tuple of arrays
        Scores (n,) float64: log p(x), with hard assignment the largest log-joint density; -inf for
        rows that overflow. Labels (n,) int64: NOISE if the density of the noise is larger than
        those of all components. Responsibilities (n, K') float64, 0 before: they sum to 1, less the
        responsibility of the noise. If all are without entries, sums are wanted, else posteriors.
    """
    _visit_rows(rows, weights, priors, order, coefficients, is_hard, work, sums, totals, posteriors)


@kernel
def low_rank_single(rows, weights, coefficients, work, sums, totals, is_left):
    """Run the E-step over a chunk in float32: sufficient statistics.

    Parameters
    ----------
    rows : (n, D) float64 or float32
    weights : (n,) float64, or (0,) for weights of 1
    coefficients : struct of LowRankCoefficients
        Of float32.
    work, sums, totals
        As for :func:`low_rank_step`.
    is_left : (n,) bool, False before
        Rows that take no part and are not counted, because float32 is not accurate enough.
    """
    _visit_rows_in_single(rows, weights, coefficients, work, sums, totals, is_left)
