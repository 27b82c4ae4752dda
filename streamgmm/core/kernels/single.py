"""The E-step in float32, for blocks of rows where its error is small enough.

Densities, responsibilities and their sums over some hundreds of rows are float32, at twice the
elements in a register; sums of more rows, and the log-likelihood, are float64.
"""

from typing import NamedTuple

import numpy as np

from streamgmm.core.kernels.compilation import kernel, piece
from streamgmm.core.kernels.elementary import exponential_single, logarithm
from streamgmm.core.kernels.kinds import TIED
from streamgmm.core.kernels.log_joint import begin, evaluate, load, normalise
from streamgmm.core.kernels.mixture import BLOCKS_IN_SUM, add_moments, add_recent, count_in, weigh
from streamgmm.core.kernels.products import (
    FIRST,
    add_features_product,
    add_moments_product,
    fill,
    lines,
    whole_panels,
)
from streamgmm.core.kernels.screening import MANY_FEATURES, all_single, fits_single, narrow
from streamgmm.core.kernels.tiles import BLOCK
from streamgmm.core.kernels.totals import N_SCREENED, N_SINGLE


class Single(NamedTuple):
    """Scratch arrays of one block, float32."""

    log_joint: np.ndarray  #: (K, STRIDE); later responsibilities
    largest: np.ndarray  #: (BLOCK,)
    total: np.ndarray  #: (BLOCK,)
    shares: np.ndarray  #: (1, STRIDE) weights of rows


def single_workspace(n_components: int) -> Single:
    """Return scratch arrays for the blocks of a chunk."""
    return Single(
        lines(n_components, np.float32),
        np.empty(BLOCK, np.float32),
        np.empty(BLOCK, np.float32),
        lines(1, np.float32),
    )


@piece
def _suits(coefficients, work):
    """Return whether float32 is accurate enough for a loaded block, and saves time."""
    n_packed, n_features = coefficients.theta.shape
    all_packed = n_packed == coefficients.means.shape[0] and coefficients.has_own_basis
    has_single = coefficients.theta_single.shape[0] == n_packed and n_features < MANY_FEATURES
    return all_packed and has_single and fits_single(work) and all_single(coefficients, work)


@piece
def _normalise(single, n):
    """Compute the log-sum-exp as :func:`~streamgmm.core.kernels.log_joint.normalise` does."""
    largest, total, log_joint = single.largest, single.total, single.log_joint
    for r in range(n):
        largest[r] = log_joint[0, r]
        total[r] = np.float32(0.0)
    for k in range(1, log_joint.shape[0]):
        for r in range(n):
            value = log_joint[k, r]
            largest[r] = value if value > largest[r] else largest[r]
    for k in range(log_joint.shape[0]):
        for r in range(n):
            value = exponential_single(log_joint[k, r] - largest[r])
            log_joint[k, r] = value
            total[r] += value


@piece
def _weigh(weights, work, single, n):
    """Replace densities over the largest, in single.log_joint, by responsibilities times weight.

    Return the sum of weights and of weighted log-densities.
    """
    if weights.size:
        for r in range(n):
            work.valid[r] *= weights[r]
    weight, log_likelihood = 0.0, 0.0
    for r in range(n):
        w, total = work.valid[r], np.float64(single.total[r])
        weight += w
        log_likelihood += w * (single.largest[r] + logarithm(total) + work.common[r])
        single.total[r] = np.float32(w / total)
    for k in range(single.log_joint.shape[0]):
        for r in range(n):
            single.log_joint[k, r] *= single.total[r]
        fill(single.log_joint[k, n : whole_panels(n)], np.float32(0.0))
    return weight, log_likelihood


@piece
def _add_block(weights, coefficients, n_rows, work, single, moments, scatter):
    """Add a block of rows to moments (K, F + spare) and, for TIED, scatter (1, S + spare).

    Return the sum of weights and of weighted log-densities.
    """
    n, n_components = whole_panels(n_rows), single.log_joint.shape[0]
    n_map = coefficients.theta.shape[1]
    theta, features = coefficients.theta_single, coefficients.features
    for k in range(n_components):
        fill(single.log_joint[k, :n], np.float32(0.0))
    narrow(work, n)
    add_features_product(
        theta,
        features[:n_map],
        work.z_single,
        n,
        FIRST,
        n_components,
        n_map,
        single.log_joint,
    )
    work.n_single[0] += n_rows * n_components
    _normalise(single, n_rows)
    weight, log_likelihood = _weigh(weights, work, single, n_rows)
    add_moments_product(
        single.log_joint, features, work.z_single, n, FIRST, n_components, moments, FIRST
    )
    if coefficients.kind == TIED:
        fill(single.shares[0], np.float32(0.0))
        for r in range(n_rows):
            single.shares[0, r] = np.float32(work.valid[r])
        table = coefficients.scatter_features
        add_moments_product(
            single.shares, table, work.z_single, n, FIRST, FIRST + 1, scatter, FIRST
        )
    return weight, log_likelihood


@piece
def _add_rows(rows, weights, coefficients, work, single, sums, totals):
    """Add rows, block by block, to sums and totals."""
    moments, scatter = work.recent_moments, work.recent_scatter
    for start in range(0, rows.shape[0], BLOCK):
        stop = min(start + BLOCK, rows.shape[0])
        part, own_weights = rows[start:stop], weights[start:stop]
        left_out = load(part, coefficients, work)
        passed_over = 0
        if _suits(coefficients, work):
            weight, log_likelihood = _add_block(
                own_weights, coefficients, stop - start, work, single, moments, scatter
            )
        else:
            evaluate(part, coefficients, work)
            normalise(coefficients, work, stop - start)
            weight, log_likelihood = weigh(own_weights, work, stop - start)
            passed_over = add_moments(coefficients, stop - start, work, moments, scatter, False)
        count_in(totals, stop - start, left_out, weight, log_likelihood, passed_over)
        if (start // BLOCK + 1) % BLOCKS_IN_SUM == 0 or stop == rows.shape[0]:
            add_recent(work, sums)
    totals[N_SCREENED], totals[N_SINGLE] = work.n_screened[0], work.n_single[0]


@kernel
def single_statistics(rows, weights, coefficients, work, single, sums, totals):
    """Run the E-step over a chunk in float32: sufficient statistics.

    Parameters are those of :func:`~streamgmm.core.kernels.mixture.e_step`, and a struct of Single.
    """
    begin(work)
    _add_rows(rows, weights, coefficients, work, single, sums, totals)
