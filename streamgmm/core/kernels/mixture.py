"""The E-step over one chunk: what it says of each row, or the sums of that over rows.

The sums are a second matrix product, of responsibilities and features: R Φᵀ. Blocks of rows
begin at multiples of :func:`~streamgmm.core.kernels.log_joint.block_rows`, which depends on D and
K only: the same chunk gives the same bits on any number of threads.
"""

import math

import numpy as np

from streamgmm.core.kernels.blas import product_transposed
from streamgmm.core.kernels.compilation import inline_kernel, kernel
from streamgmm.core.kernels.elementary import logarithm
from streamgmm.core.kernels.log_joint import (
    DIAG,
    FULL,
    SLAB,
    SPHERICAL,
    TIED,
    evaluate,
    fill,
    fill_features,
    normalise,
    residuals,
    workspace,
)

_BLOCKS_IN_SUM = 16


@inline_kernel
def _move(part, total):
    """Add part (m, n) to total and begin it anew."""
    for i in range(part.shape[0]):
        for j in range(part.shape[1]):
            total[i, j] += part[i, j]
            part[i, j] = 0.0


@inline_kernel
def _rows_of(stacked, c, n_rows):
    """Matrix c of matrices of n_rows rows, stacked along the rows."""
    return stacked[c * n_rows : (c + 1) * n_rows]


@inline_kernel
def _add_packed_moments(coefficients, work, n, moments):
    """moments (packed, F) += R Φᵀ."""
    n_packed, n_map = coefficients.theta.shape
    responsibilities = work.log_joint[:n_packed, :n]
    for first in range(0, n_map, SLAB):
        last = min(first + SLAB, n_map)
        features = work.features[: last - first, :n]
        if n_map > SLAB or not coefficients.has_own_basis:
            fill_features(coefficients.kind, work.z[:, :n], first, last, features)
        product_transposed(responsibilities, features, 1.0, moments[:n_packed, first:last])


@inline_kernel
def _add_scatter(rows, weights, shifted, scatter):
    """scatter (D, D) += rows diag(weights) rowsᵀ for rows (D, n)."""
    for d in range(rows.shape[0]):
        for r in range(rows.shape[1]):
            shifted[d, r] = rows[d, r] * weights[r]
    product_transposed(shifted, rows, 1.0, scatter)


@inline_kernel
def _add_centred_moments(coefficients, c, work, n, moment, scatter):
    """Moments of u of centred component c: moment (1 + D ...); FULL and TIED, scatter (D, D)."""
    responsibility = work.log_joint[coefficients.theta.shape[0] + c, :n]
    count = 0.0
    for r in range(n):
        count += responsibility[r]
    if count == 0.0:
        return
    n_features = coefficients.origin.size
    residuals(coefficients.kind, coefficients.origins[c], coefficients.bases, c, work, n)
    y = work.residual[:, :n]
    moment[0] += count
    for d in range(n_features):
        first, second = 0.0, 0.0
        for r in range(n):
            first += responsibility[r] * y[d, r]
            second += responsibility[r] * y[d, r] ** 2
        moment[1 + d] += first
        if coefficients.kind == DIAG:
            moment[1 + n_features + d] += second
        elif coefficients.kind == SPHERICAL:
            moment[1 + n_features] += second
    if coefficients.kind <= TIED:
        _add_scatter(y, responsibility, work.shifted[:, :n], scatter)


@inline_kernel
def _pack(scatter, packed):
    """Upper triangle of scatter (D, D), by rows, into packed (D (D + 1) / 2,)."""
    f = 0
    for i in range(scatter.shape[0]):
        for j in range(i, scatter.shape[0]):
            packed[f] = scatter[i, j]
            f += 1


@kernel
def sufficient_statistics(rows, weights, coefficients):
    """E-step over a chunk, reduced to sufficient statistics.

    Parameters
    ----------
    rows : (n, D) float64 or float32
    weights : (n,) float64, or (0,) for weights of 1
    coefficients : Coefficients

    Returns
    -------
    moments : (K, F) float64
        Σ γ φ by component: of z (packed route), or of u (centred route).
    scatter : (D, D) float64, or (0, 0)
        TIED: Σ over rows and components of γ u uᵀ.
    totals : (5,) float64
        Log-likelihood Σ w log p(x), Σ w, rows counted in, rows overflowing, rows not finite.
    """
    kind = coefficients.kind
    n_components, n_features = coefficients.means.shape
    n_packed = coefficients.theta.shape[0]
    # Sums of many blocks, and of the few blocks since they were last added to: in two levels
    # rounding errors stay small however long the chunk is.
    all_moments = np.zeros((n_components, coefficients.theta.shape[1]))
    all_scatter = np.zeros((n_features, n_features) if kind == TIED else (0, 0))
    n_scatters = n_components - n_packed if kind == FULL else 0
    all_scatters = np.zeros((n_scatters * n_features, n_features))
    moments, scatter = np.zeros(all_moments.shape), np.zeros(all_scatter.shape)
    scatters = np.zeros(all_scatters.shape)
    totals = np.zeros(5)
    work = workspace(coefficients)
    block = work.valid.size
    for start in range(0, rows.shape[0], block):
        n = min(block, rows.shape[0] - start)
        n_overflowing, n_not_finite = evaluate(rows[start : start + n], coefficients, work)
        normalise(work, n)
        # Not in the loop below: whether LLVM vectorises that one, and so the order of its sums,
        # must not hang on where an empty array happens to lie in memory.
        if weights.size:
            for r in range(n):
                work.valid[r] *= weights[start + r]
        weight, log_likelihood = 0.0, 0.0
        for r in range(n):
            w = work.valid[r]
            weight += w
            log_likelihood += w * (work.largest[r] + logarithm(work.total[r]) + work.common[r])
            work.total[r] = w / work.total[r]
        for k in range(n_components):
            for r in range(n):
                work.log_joint[k, r] *= work.total[r]
        if not coefficients.has_own_basis:
            residuals(kind, coefficients.origin, coefficients.bases, 0, work, n)
            for d in range(n_features):
                for r in range(n):
                    work.z[d, r] = work.residual[d, r]
        if n_packed:
            _add_packed_moments(coefficients, work, n, moments)
            if kind == TIED:
                fill(work.total, 0.0)
                for k in range(n_packed):
                    for r in range(n):
                        work.total[r] += work.log_joint[k, r]
                _add_scatter(work.z[:, :n], work.total, work.shifted[:, :n], scatter)
        for c in range(n_components - n_packed):
            own = _rows_of(scatters, c, n_features) if kind == FULL else scatter
            _add_centred_moments(coefficients, c, work, n, moments[n_packed + c], own)
        if (start // block + 1) % _BLOCKS_IN_SUM == 0 or start + n == rows.shape[0]:
            _move(moments, all_moments)
            _move(scatter, all_scatter)
            _move(scatters, all_scatters)
        totals[0] += log_likelihood
        totals[1] += weight
        totals[2] += n - n_overflowing - n_not_finite
        totals[3] += n_overflowing
        totals[4] += n_not_finite
    for k in range(n_scatters):
        _pack(_rows_of(all_scatters, k, n_features), all_moments[n_packed + k, 1 + n_features :])
    return all_moments, all_scatter, totals


@kernel
def row_posteriors(rows, priors, order, coefficients, with_responsibilities):
    """Log-density, label and (if asked for) responsibilities of each row of a chunk.

    Parameters
    ----------
    rows : (n, D) float64 or float32
    priors : (K,) float64
        Responsibilities given to rows that are left out.
    order : (K,) int64
        Place among the model's components of each component of the coefficients.
    coefficients : Coefficients
    with_responsibilities : bool

    Returns
    -------
    scores : (n,) float64
        log p(x); -inf for rows that overflow.
    labels : (n,) int64
        Component with the largest responsibility.
    responsibilities : (n, K) float64, or (0, K)
    n_not_finite : int
    """
    n_components = coefficients.means.shape[0]
    n_rows = rows.shape[0]
    scores, labels = np.empty(n_rows), np.empty(n_rows, np.int64)
    # Components that are not among the coefficients have weight 0.
    responsibilities = np.zeros((n_rows if with_responsibilities else 0, priors.size))
    fallback = np.argmax(priors)
    bad = 0
    work = workspace(coefficients)
    block = work.valid.size
    best = np.empty(block)
    for start in range(0, n_rows, block):
        n = min(block, n_rows - start)
        _, n_not_finite = evaluate(rows[start : start + n], coefficients, work)
        bad += n_not_finite
        fill(best, -np.inf)
        for k in range(n_components):
            for r in range(n):
                if work.log_joint[k, r] > best[r]:
                    best[r] = work.log_joint[k, r]
                    labels[start + r] = order[k]
        normalise(work, n)
        for r in range(n):
            scores[start + r] = work.largest[r] + math.log(work.total[r]) + work.common[r]
            if work.valid[r] == 0.0:
                scores[start + r] = -np.inf
                labels[start + r] = fallback
        if with_responsibilities:
            for r in range(n):
                keep = work.valid[r] == 1.0
                for k in range(n_components):
                    value = work.log_joint[k, r] / work.total[r]
                    responsibilities[start + r, order[k]] = value if keep else priors[order[k]]
    return scores, labels, responsibilities, bad
