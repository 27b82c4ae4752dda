"""The E-step over one chunk: what it says of each row, or the sums of that over rows.

The sums are a second matrix product, of responsibilities and features: R Φᵀ. Blocks of rows
begin at multiples of :data:`~streamgmm.core.kernels.tiles.BLOCK`: the same chunk gives the
same bits on any number of threads.
"""

import math

import numpy as np

from streamgmm.core.kernels.compilation import inline_kernel, kernel
from streamgmm.core.kernels.elementary import logarithm
from streamgmm.core.kernels.log_joint import (
    TIED,
    evaluate,
    fill,
    normalise,
    residuals,
    workspace,
)
from streamgmm.core.kernels.products import add_moments_product, whole_panels
from streamgmm.core.kernels.tiles import BLOCK, SPARE_FEATURES

_BLOCKS_IN_SUM = 16


@inline_kernel
def _move(part, total):
    """Add part (F + spare, K) to total (K, F) and begin it anew."""
    for k in range(total.shape[0]):
        for f in range(total.shape[1]):
            total[k, f] += part[f, k]
    for f in range(part.shape[0]):
        fill(part[f], 0.0)


@inline_kernel
def _weigh(weights, work, n):
    """work.log_joint, of densities over the largest, becomes responsibilities times weight.

    Returns the sum of weights and of weighted log-densities.
    """
    # Not in the loop below: whether LLVM vectorises that one, and so the order of its sums,
    # must not hang on where an empty array happens to lie in memory.
    if weights.size:
        for r in range(n):
            work.valid[r] *= weights[r]
    weight, log_likelihood = 0.0, 0.0
    for r in range(n):
        w = work.valid[r]
        weight += w
        log_likelihood += w * (work.largest[r] + logarithm(work.total[r]) + work.common[r])
        work.total[r] = w / work.total[r]
    for k in range(work.log_joint.shape[0]):
        for r in range(n):
            work.log_joint[k, r] *= work.total[r]
        fill(work.log_joint[k, n : whole_panels(n)], 0.0)
    return weight, log_likelihood


@inline_kernel
def _add_moments(coefficients, rows, work, moments, scatter):
    """Add a block of rows to moments (F + spare, K) and, for TIED, scatter (S + spare, 1)."""
    n = whole_panels(rows.shape[0])
    n_packed, tied = coefficients.theta.shape[0], coefficients.kind == TIED
    features, responsibilities = coefficients.features, work.log_joint
    if n_packed:
        z = work.z
        if not coefficients.has_own_basis:
            residuals(coefficients, coefficients.origin, coefficients.bases, 0, rows, work)
            z = work.residual
        add_moments_product(responsibilities, features, z, n, 0, n_packed, moments)
        if tied:
            mass = work.mass
            fill(mass[0], 0.0)
            for k in range(n_packed):
                for r in range(n):
                    mass[0, r] += responsibilities[k, r]
            add_moments_product(mass, coefficients.scatter_features, z, n, 0, 1, scatter)
    for k in range(n_packed, responsibilities.shape[0]):
        c = k - n_packed
        residuals(coefficients, coefficients.origins[c], coefficients.bases, c, rows, work)
        add_moments_product(responsibilities, features, work.residual, n, k, k + 1, moments)
        if tied:
            mass = responsibilities[k : k + 1]
            table = coefficients.scatter_features
            add_moments_product(mass, table, work.residual, n, 0, 1, scatter)


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
    scatter : (D (D + 1) / 2,) float64, or (0,)
        TIED: Σ over rows and components of γ u uᵀ, its upper triangle by rows.
    totals : (5,) float64
        Log-likelihood Σ w log p(x), Σ w, rows counted in, rows overflowing, rows not finite.
    """
    n_components = coefficients.means.shape[0]
    # Sums of many blocks, and of the few blocks since they were last added to: in two levels
    # rounding errors stay small however long the chunk is.
    moments = np.zeros((n_components, coefficients.theta.shape[1]))
    n_scatter = coefficients.scatter_features.shape[0] - SPARE_FEATURES
    scatter = np.zeros((1, n_scatter))
    recent_moments = np.zeros((coefficients.features.shape[0], n_components))
    recent_scatter = np.zeros((coefficients.scatter_features.shape[0], 1))
    totals = np.zeros(5)
    work = workspace(coefficients)
    for start in range(0, rows.shape[0], BLOCK):
        stop = min(start + BLOCK, rows.shape[0])
        block = rows[start:stop]
        n_overflowing, n_not_finite = evaluate(block, coefficients, work)
        normalise(work, stop - start)
        weight, log_likelihood = _weigh(weights[start:stop], work, stop - start)
        _add_moments(coefficients, block, work, recent_moments, recent_scatter)
        if (start // BLOCK + 1) % _BLOCKS_IN_SUM == 0 or stop == rows.shape[0]:
            _move(recent_moments, moments)
            _move(recent_scatter, scatter)
        totals[0] += log_likelihood
        totals[1] += weight
        totals[2] += stop - start - n_overflowing - n_not_finite
        totals[3] += n_overflowing
        totals[4] += n_not_finite
    return moments, scatter[0], totals


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
    best = np.empty(BLOCK)
    for start in range(0, n_rows, BLOCK):
        n = min(BLOCK, n_rows - start)
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
