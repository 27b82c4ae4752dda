"""The E-step of covariances of low rank plus a diagonal, over one chunk of rows.

With residuals u = x - μ the log-joint density is c - ½ Σ u²/ψ + ½‖Vᵀu‖², by the identity of
Woodbury. The projections y = Vᵀu are computed once: the sums Σγ u yᵀ of an EM step use them too.
Sums along further directions A may follow those of V.
Both are the matrix products of :mod:`~streamgmm.core.kernels.products`, whose features are here the
residuals of one component. Where the difference would lose digits, because noise is small beside
the loadings, the density is c - ½ Σ (u - Λ E[z])²/ψ - ½‖E[z]‖² with the expected factors E[z]; both
sums are positive.

References
----------
Ghahramani & Hinton (1996), The EM algorithm for mixtures of factor analyzers.
"""

from typing import NamedTuple

import numpy as np

from streamgmm.core.kernels.compilation import allocating_piece, inlined_piece, kernel, piece
from streamgmm.core.kernels.log_joint import NOISE, has_noise, load_rows, normalise
from streamgmm.core.kernels.mixture import (
    BLOCKS_IN_SUM,
    count_in,
    describe_block,
    label_block,
    move,
    weigh,
)
from streamgmm.core.kernels.products import (
    FIRST,
    add_features_product,
    add_moments_product,
    fill,
    lines,
    whole_panels,
)
from streamgmm.core.kernels.screening import find_rows, gather
from streamgmm.core.kernels.tiles import BLOCK, PANEL, SPARE_FEATURES, STRIP
from streamgmm.core.kernels.totals import N_TOTALS

# Bytes of the residuals of a block, which stay in the cache of a core, and its fewest rows.
_BLOCK_BYTES, _FEWEST_ROWS = 1 << 20, 2 * PANEL


class LowRankCoefficients(NamedTuple):
    """A mixture prepared for evaluation, as the arrays that the kernel reads; R is the rank."""

    features: np.ndarray  #: (D + spare, 2) int64, the coordinates whose product 1 · u_d is
    squares: np.ndarray  #: (D + spare, 2) int64, the coordinates whose product u_d² is
    origin: np.ndarray  #: (D,) 0
    inverse_scale: np.ndarray  #: (D,) 1
    means: np.ndarray  #: (K, D)
    precisions: np.ndarray  #: (K, D) 1/ψ
    projections: np.ndarray  #: (K R, D) Vᵀ of one component after the other
    constants: np.ndarray  #: (K,) log-joint density at the mean
    positions: np.ndarray  #: (K,) int64, index among the components of little noise, or -1
    shrinkages: np.ndarray  #: (K, R) E[z] = shrinkage · y
    loadings: (
        np.ndarray
    )  #: (little noise · D, R) -Λ E[z] = loadings y, one component after the other
    origins: np.ndarray  #: (K, D) where moments are taken about
    bases: np.ndarray  #: (K W, D) directions of the moments, one component after the other
    has_own_basis: bool  #: whether moments are about the means, and projections come first in bases
    rank: int  #: R
    width: int  #: W
    limit: float  #: rows with a larger |x| would overflow when squared
    log_noise: float  #: log-joint density of the noise, -inf if there is none


class LowRankWorkspace(NamedTuple):
    """Scratch arrays of one block; those of two axes have a line of rows for each entry."""

    z: np.ndarray  #: (1 + D, STRIDE) 1, then rows
    residual: np.ndarray  #: (1 + D, STRIDE) 1, then residuals of one component
    gathered: np.ndarray  #: (D, STRIDE) some of the rows
    projected: np.ndarray  #: (K R, STRIDE) Vᵀu of all components
    shares: np.ndarray  #: (1 + W, STRIDE) responsibilities of one component, times 1 and Aᵀu
    log_joint: np.ndarray  #: (K, STRIDE); later responsibilities
    extent: np.ndarray  #: (1 + D,) bound on the rows of the block
    valid: np.ndarray  #: (BLOCK,) 1, or 0 for a row that is skipped
    largest: np.ndarray  #: (BLOCK,)
    total: np.ndarray  #: (BLOCK,)
    common: np.ndarray  #: (BLOCK,) 0
    best: np.ndarray  #: (BLOCK,)
    noise: np.ndarray  #: (BLOCK,) log-joint density of the noise
    some_rows: np.ndarray  #: (most rows that are gathered,) int64


class LowRankSums(NamedTuple):
    """Sums over rows, by component."""

    counts: np.ndarray  #: (K,) Σγ
    linear: np.ndarray  #: (K (1 + W), D + spare) Σγu, then Σγ (Aᵀu)_l u for each l
    squares: np.ndarray  #: (K, D + spare) Σγu²


@inlined_piece
def block_rows(n_features):
    """Return the number of rows of a block."""
    n = _BLOCK_BYTES // (8 * (1 + n_features)) // PANEL * PANEL
    return min(max(n, _FEWEST_ROWS), BLOCK)


@allocating_piece
def _workspace(coefficients):
    """Allocate scratch arrays for the blocks of a chunk."""
    n_components, n_features = coefficients.means.shape
    rank = coefficients.rank
    z, residual = lines(1 + n_features, np.float64), lines(1 + n_features, np.float64)
    fill(z[0], 1.0)
    fill(residual[0], 1.0)
    noise = np.empty(BLOCK)
    fill(noise, coefficients.log_noise)
    return LowRankWorkspace(
        z,
        residual,
        lines(n_features, np.float64),
        lines(n_components * rank, np.float64),
        lines(1 + coefficients.width, np.float64),
        lines(n_components, np.float64),
        np.empty(1 + n_features),
        np.empty(BLOCK),
        np.empty(BLOCK),
        np.empty(BLOCK),
        np.zeros(BLOCK),
        np.empty(BLOCK),
        noise,
        np.empty(block_rows(n_features) // 2, np.int64),
    )


@piece
def _project(coefficients, directions, n, work, out):
    """Write products of directions with residuals in work.residual into lines of out.

    The number of rows n is in whole panels.
    """
    n_lines, n_features = directions.shape
    for line in range(n_lines):
        fill(out[line, :n], 0.0)
    add_features_product(
        directions,
        coefficients.features[:n_features],
        work.residual,
        n,
        FIRST,
        n_lines,
        n_features,
        out,
    )


@piece
def _take_residuals(x, origin, n, work):
    """Write x - origin for n rows of x (D, STRIDE) into work.residual, and pad it with 0."""
    for d in range(x.shape[0]):
        for r in range(n):
            work.residual[1 + d, r] = x[d, r] - origin[d]
        fill(work.residual[1 + d, n : whole_panels(n)], 0.0)


@piece
def _evaluate(coefficients, n, work):
    """Write log-joint densities of n rows into work.log_joint, and their projections."""
    rank = coefficients.rank
    for k in range(coefficients.means.shape[0]):
        _take_residuals(work.z[1:], coefficients.means[k], n, work)
        density = work.log_joint[k]
        fill(density[: whole_panels(n)], 0.0)
        for d in range(coefficients.origin.size):
            precision = coefficients.precisions[k, d]
            for r in range(n):
                density[r] += precision * work.residual[1 + d, r] ** 2
        projected = work.projected[k * rank : (k + 1) * rank]
        directions = coefficients.projections[k * rank : (k + 1) * rank]
        _project(coefficients, directions, whole_panels(n), work, projected)
        if coefficients.positions[k] < 0:
            for line in range(rank):
                for r in range(n):
                    density[r] -= projected[line, r] ** 2
        else:
            _square_sums(coefficients, k, n, work, projected, density)
        for r in range(n):
            density[r] = coefficients.constants[k] - 0.5 * density[r]


@piece
def _square_sums(coefficients, k, n, work, projected, out):
    """Write Σ (u - Λ E[z])²/ψ + ‖E[z]‖² of residuals in work.residual into out."""
    rank, n_features, whole = coefficients.rank, coefficients.origin.size, whole_panels(n)
    first = coefficients.positions[k] * n_features
    fill(work.shares[0, :whole], 1.0)
    fill(out[:whole], 0.0)
    for line in range(rank):
        shrinkage = coefficients.shrinkages[k, line]
        for r in range(whole):
            work.shares[1 + line, r] = projected[line, r]
            out[r] += (shrinkage * projected[line, r]) ** 2
    add_features_product(
        coefficients.loadings[first : first + n_features],
        coefficients.features[:rank],
        work.shares,
        whole,
        FIRST,
        n_features,
        rank,
        work.residual[1:],
    )
    for d in range(n_features):
        precision = coefficients.precisions[k, d]
        for r in range(n):
            out[r] += precision * work.residual[1 + d, r] ** 2


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
def _gather_shares(coefficients, k, n_rows, work):
    """Write the residuals of rows in which component k has a share, and these shares.

    Return the number of rows that were written, with padding, and of those that were skipped.
    """
    responsibilities, rank = work.log_joint[k], coefficients.rank
    n = whole_panels(n_rows)
    projected = work.projected[k * rank : (k + 1) * rank]
    count = find_rows(responsibilities, 0.0, n, work.some_rows)
    if count == 0:
        return 0, n_rows
    if count > work.some_rows.size:
        _take_residuals(work.z[1:], coefficients.origins[k], n_rows, work)
        for r in range(n):
            work.shares[0, r] = responsibilities[r]
            for line in range(rank):
                work.shares[1 + line, r] = projected[line, r]
        return n, 0
    chosen = work.some_rows[:count]
    whole = whole_panels(count)
    gather(work.z[1:], chosen, count, work.gathered)
    _take_residuals(work.gathered, coefficients.origins[k], count, work)
    gather(projected, chosen, whole, work.shares[1:])
    for i in range(count):
        work.shares[0, i] = responsibilities[chosen[i]]
    fill(work.shares[0, count:whole], 0.0)
    return (count + STRIP - 1) // STRIP * STRIP, n_rows - count


@piece
def _add_sums(coefficients, n_rows, work, sums):
    """Add a block of rows to sums; return how many pairs of row and component were skipped."""
    passed_over, width = 0, coefficients.width
    first = coefficients.rank if coefficients.has_own_basis else 0
    for k in range(coefficients.means.shape[0]):
        n, skipped = _gather_shares(coefficients, k, n_rows, work)
        passed_over += skipped
        if n == 0:
            continue
        if first < width:
            directions = coefficients.bases[k * width + first : (k + 1) * width]
            _project(coefficients, directions, whole_panels(n), work, work.shares[1 + first :])
        count = 0.0
        for r in range(n):
            count += work.shares[0, r]
        sums.counts[k] += count
        for line in range(width):
            for r in range(n):
                work.shares[1 + line, r] *= work.shares[0, r]
        add_moments_product(
            work.shares,
            coefficients.features,
            work.residual,
            n,
            FIRST,
            1 + width,
            sums.linear,
            k * (1 + width),
        )
        add_moments_product(
            work.shares, coefficients.squares, work.residual, n, FIRST, FIRST + 1, sums.squares, k
        )
    return passed_over


@piece
def _describe(start, n, priors, order, coefficients, is_hard, work, posteriors):
    """Fill scores, labels and, if there is room for them, responsibilities of n rows."""
    scores, labels, responsibilities = posteriors
    label_block(start, n, order, coefficients, work, work.best, labels)
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
def _visit_rows(
    rows, weights, priors, order, coefficients, is_hard, work, sums, recent, totals, posteriors
):
    """Fill the arrays that :func:`low_rank_step` returns, block by block.

    Recent, 0 before and after, holds the sums of the few blocks since sums were last added to.
    """
    size, n_blocks = block_rows(rows.shape[1]), 0
    for start in range(0, rows.shape[0], size):
        stop = min(start + size, rows.shape[0])
        n = stop - start
        left_out = load_rows(rows[start:stop], coefficients, work)
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
            passed_over = _add_sums(coefficients, n, work, recent)
            n_blocks += 1
            if n_blocks % BLOCKS_IN_SUM == 0 or stop == rows.shape[0]:
                move(recent.linear, sums.linear)
                move(recent.squares, sums.squares)
                for k in range(sums.counts.size):
                    sums.counts[k] += recent.counts[k]
                fill(recent.counts, 0.0)
        count_in(totals, n, left_out, weight, log_likelihood, passed_over)


@allocating_piece
def _sums(n_components, width, n_features):
    return LowRankSums(
        np.zeros(n_components),
        np.zeros((n_components * (1 + width), n_features)),
        np.zeros((n_components, n_features)),
    )


@kernel
def low_rank_step(
    rows, weights, priors, order, coefficients, with_posteriors, with_responsibilities, is_hard
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
    coefficients : LowRankCoefficients
    with_posteriors, with_responsibilities : bool
        Whether posteriors are wanted in place of sums, and whether responsibilities are.
    is_hard : bool
        Whether a row counts wholly for its component of largest density.

    Returns
    -------
    sums : LowRankSums
        Without spare entries.
    totals : (N_TOTALS,) float64
        As :func:`~streamgmm.core.kernels.mixture.e_step` returns them.
    scores : (n,) float64
        log p(x), with hard assignment the largest log-joint density; -inf for rows that overflow.
    labels : (n,) int64
        NOISE if the density of the noise is larger than those of all components.
    responsibilities : (n, K') float64
        They sum to 1, less the responsibility of the noise.
    """
    n_components, n_features = coefficients.means.shape
    width = coefficients.width
    n_rows = rows.shape[0] if with_posteriors else 0
    responsibilities = np.zeros((n_rows if with_responsibilities else 0, priors.size))
    posteriors = np.empty(n_rows), np.empty(n_rows, np.int64), responsibilities
    n_summed = 0 if with_posteriors else n_components
    sums = _sums(n_summed, width, n_features)
    recent = _sums(n_summed, width, n_features + SPARE_FEATURES)
    totals = np.zeros(N_TOTALS)
    _visit_rows(
        rows,
        weights,
        priors,
        order,
        coefficients,
        is_hard,
        _workspace(coefficients),
        sums,
        recent,
        totals,
        posteriors,
    )
    return sums, totals, posteriors
