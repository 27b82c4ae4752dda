"""The E-step over rows with missing values, exact given their observed values.

A missing value moves the whitened residual y = W (x - μ) along its column of W. Let V hold an
orthonormal basis of the directions that the missing values of a row move in. For all missing values
ŷ = y - VᵀV y is the same: ½‖ŷ‖² and the volume that the columns span give the density of the
observed values. Given these, the whitened row has mean ŷ and covariance VᵀV, and the
sums need no more.

Rows with the same gaps, side by side, share the basis.

References
----------
Ghahramani & Jordan (1994), Supervised learning from incomplete data via an EM approach.
Delalleau, Courville & Bengio (2012), Efficient EM training of Gaussian mixtures with missing data.
"""

import math
from typing import NamedTuple

import numpy as np

from streamgmm.core.kernels.compilation import kernel, piece
from streamgmm.core.kernels.hard import harden
from streamgmm.core.kernels.kinds import DIAG, SPHERICAL, TIED
from streamgmm.core.kernels.log_joint import (
    add_square,
    begin,
    has_noise,
    normalise,
    residuals,
)
from streamgmm.core.kernels.mixture import (
    BLOCKS_IN_SUM,
    add_recent,
    describe_block,
    label_block,
    weigh,
)
from streamgmm.core.kernels.products import FIRST, add_moments_product, fill, lines, whole_panels
from streamgmm.core.kernels.tiles import BLOCK, PANEL
from streamgmm.core.kernels.totals import (
    CONDITIONAL_ENTROPY,
    LOG_LIKELIHOOD,
    N_OVERFLOWING,
    N_ROWS,
    WEIGHT,
)

_HALF_LOG_TWO_PI = 0.5 * math.log(2.0 * math.pi)
#: Number of residuals of a block that are kept in cache, unless a panel of rows has more.
KEPT = 1 << 17


class Gaps(NamedTuple):
    """The missing values of a block of rows, and scratch for one run of rows."""

    x: np.ndarray  #: (D, STRIDE) rows in data units, 0 where a value is missing
    seen: np.ndarray  #: (D, STRIDE) 1, or 0 where a value is missing
    shifted: np.ndarray  #: (D, STRIDE) x less a mean, 0 where a value is missing
    starts: np.ndarray  #: (BLOCK + 1,) int64 first row of each run of equal gaps, then n
    columns: np.ndarray  #: (D,) int64 the columns that a run lacks; m of them
    basis: np.ndarray  #: (D, D) V in its first m lines
    triangle: np.ndarray  #: (D, D) R: the columns of W that are lacking are Vᵀ R
    moves: np.ndarray  #: (D, STRIDE) V y in its first m lines
    log_volumes: np.ndarray  #: (BLOCK,) per run, ln of the volume of the columns less m ½ ln 2π
    kept: np.ndarray  #: (K, D, rows of a block) ŷ
    labels: np.ndarray  #: (BLOCK,) int64, index of each row's component, with hard assignment
    is_noise: np.ndarray  #: (BLOCK,) bool, rows that belong to no component


def gaps_workspace(n_components: int, n_features: int) -> Gaps:
    """Return scratch arrays for the blocks of a chunk."""
    n_rows = KEPT // (n_components * n_features) // PANEL * PANEL
    n_rows = min(max(n_rows, PANEL), BLOCK)
    return Gaps(
        x=lines(n_features),
        seen=lines(n_features),
        shifted=lines(n_features),
        starts=np.empty(BLOCK + 1, np.int64),
        columns=np.empty(n_features, np.int64),
        basis=np.empty((n_features, n_features)),
        triangle=np.zeros((n_features, n_features)),
        moves=lines(n_features),
        log_volumes=np.empty(BLOCK),
        kept=np.empty((n_components, n_features, n_rows)),
        labels=np.zeros(BLOCK, np.int64),
        is_noise=np.zeros(BLOCK, np.bool_),
    )


@piece
def _load(rows, coefficients, work, gaps):
    """Write rows (n, D) into gaps.

    Rows that overflow lack all values there, and are marked in work.valid. Return their number.
    """
    n, n_features = rows.shape
    fill(work.valid, 1.0)
    for d in range(n_features):
        origin, inverse_scale = coefficients.origin[d], coefficients.inverse_scale[d]
        for r in range(n):
            value = rows[r, d]
            is_seen = not math.isnan(value)
            gaps.x[d, r] = value if is_seen else 0.0
            gaps.seen[d, r] = 1.0 if is_seen else 0.0
            within = abs((gaps.x[d, r] - origin) * inverse_scale) <= coefficients.limit
            work.valid[r] = work.valid[r] if within or not is_seen else 0.0
    n_overflowing = 0
    for r in range(n):
        if work.valid[r] == 0.0:
            n_overflowing += 1
            for d in range(n_features):
                gaps.x[d, r] = 0.0
                gaps.seen[d, r] = 0.0
    return n_overflowing


@piece
def _find_runs(n, gaps):
    """List, in gaps.starts, the first row of each run of equal gaps; return the number of runs."""
    n_runs = 0
    for r in range(n):
        is_same = r > 0
        for d in range(gaps.seen.shape[0]):
            is_same = is_same and gaps.seen[d, r] == gaps.seen[d, r - 1]
        if not is_same:
            gaps.starts[n_runs] = r
            n_runs += 1
    gaps.starts[n_runs] = n
    return n_runs


@piece
def _residuals(coefficients, k, n, work, gaps):
    """Write residuals y of n rows into work.residual; component k's mean fills missing values."""
    shifted = gaps.shifted
    for d in range(shifted.shape[0]):
        mean = coefficients.means[k, d]
        for r in range(n):
            shifted[d, r] = (gaps.x[d, r] - mean) * gaps.seen[d, r]
    factors = coefficients.factors
    residuals(coefficients, shifted, work.nought, factors, k, n, work, work.residual)


@piece
def _find_columns(r, gaps):
    """List, in gaps.columns, the columns that row r lacks; return their number."""
    m = 0
    for d in range(gaps.seen.shape[0]):
        if gaps.seen[d, r] == 0.0:
            gaps.columns[m] = d
            m += 1
    return m


@piece
def _span(factor, m, gaps):
    """Find an orthonormal basis of the first m of gaps.columns of a factor.

    Return ln of the volume that the columns span. The method is Gram-Schmidt, applied twice, which
    is enough (Giraud, Langou & Rozložník 2005).
    """
    log_volume = 0.0
    for j in range(m):
        v = gaps.basis[j]
        for d in range(v.size):
            v[d] = factor[d, gaps.columns[j]]
        for i in range(j):
            gaps.triangle[i, j] = 0.0
        for _ in range(2):
            for i in range(j):
                u, component = gaps.basis[i], 0.0
                for d in range(v.size):
                    component += u[d] * v[d]
                for d in range(v.size):
                    v[d] -= component * u[d]
                gaps.triangle[i, j] += component
        squares = 0.0
        for d in range(v.size):
            squares += v[d] ** 2
        length = math.sqrt(squares)
        gaps.triangle[j, j] = length
        log_volume += math.log(length)
        for d in range(v.size):
            v[d] /= length
    return log_volume


@piece
def _take_out(m, first, last, y, gaps):
    """Write V y of a run of rows of y (D, STRIDE) into gaps.moves; replace y by y - VᵀV y."""
    for j in range(m):
        v, along = gaps.basis[j], gaps.moves[j, first:last]
        fill(along, 0.0)
        for d in range(v.size):
            line = y[d, first:last]
            for r in range(line.size):
                along[r] += v[d] * line[r]
        for d in range(v.size):
            line = y[d, first:last]
            for r in range(line.size):
                line[r] -= v[d] * along[r]


@piece
def _project(coefficients, k, run, work, gaps):
    """Replace residuals y of component k by ŷ for a run of rows; also fill gaps.log_volumes.

    Return m, the number of values that each row of the run lacks. Without correlations ŷ is y.
    """
    first, last = gaps.starts[run], gaps.starts[run + 1]
    m, log_volume = _find_columns(first, gaps), 0.0
    if coefficients.kind <= TIED:
        factor = coefficients.factors[min(k, coefficients.factors.shape[0] - 1)]
        log_volume = _span(factor, m, gaps)
        _take_out(m, first, last, work.residual[1:], gaps)
    else:
        for j in range(m):
            log_volume += math.log(coefficients.factors[k, 0, gaps.columns[j]])
    gaps.log_volumes[run] = log_volume - m * _HALF_LOG_TWO_PI
    return m


@piece
def _project_together(coefficients, n, n_runs, work, gaps):
    """Project residuals of all components, which share a factor and a basis, into gaps.kept."""
    for k in range(work.log_joint.shape[0]):
        _residuals(coefficients, k, n, work, gaps)
        for d in range(coefficients.origin.size):
            for r in range(n):
                gaps.kept[k, d, r] = work.residual[1 + d, r]
    for run in range(n_runs):
        first, last = gaps.starts[run], gaps.starts[run + 1]
        m = _find_columns(first, gaps)
        log_volume = _span(coefficients.factors[0], m, gaps)
        for k in range(work.log_joint.shape[0]):
            _take_out(m, first, last, gaps.kept[k], gaps)
        gaps.log_volumes[run] = log_volume - m * _HALF_LOG_TWO_PI


@piece
def _evaluate(rows, coefficients, work, gaps):
    """Write log-joint densities of the observed values of a block into work.log_joint.

    Return the number of rows that overflow, and the number of runs of equal gaps.
    """
    n = rows.shape[0]
    n_overflowing = _load(rows, coefficients, work, gaps)
    n_runs = _find_runs(n, gaps)
    fill(work.common, 0.0)
    if coefficients.kind == TIED:
        _project_together(coefficients, n, n_runs, work, gaps)
    for k in range(work.log_joint.shape[0]):
        if coefficients.kind == TIED:
            for d in range(coefficients.origin.size):
                for r in range(n):
                    work.residual[1 + d, r] = gaps.kept[k, d, r]
        else:
            _residuals(coefficients, k, n, work, gaps)
            for run in range(n_runs):
                _project(coefficients, k, run, work, gaps)
        out = work.log_joint[k]
        fill(out, 0.0)
        for d in range(coefficients.origin.size):
            for r in range(n):
                gaps.kept[k, d, r] = work.residual[1 + d, r]
                out[r] += work.residual[1 + d, r] ** 2
        for run in range(n_runs):
            constant = coefficients.constants[k] - gaps.log_volumes[run]
            for r in range(gaps.starts[run], gaps.starts[run + 1]):
                out[r] = constant - 0.5 * out[r]
    if has_noise(coefficients):
        for run in range(n_runs):
            value = coefficients.log_noise + _lacking_ranges(coefficients, run, gaps)
            fill(work.noise[gaps.starts[run] : gaps.starts[run + 1]], value)
    return n_overflowing, n_runs


@piece
def _lacking_ranges(coefficients, run, gaps):
    """Return the sum of the logarithms of the widths of the box in the columns that a run lacks."""
    total = 0.0
    for j in range(_find_columns(gaps.starts[run], gaps)):
        total += coefficients.log_ranges[gaps.columns[j]]
    return total


@piece
def _add_upper(m, mass, gaps, sums):
    """Add mass VᵀV, its upper triangle by rows, to sums (D (D + 1) / 2,)."""
    n_features = gaps.columns.size
    for j in range(m):
        start = 0
        for d in range(n_features):
            rest = gaps.basis[j, d:]
            line = sums[start : start + rest.size]
            scaled = mass * rest[0]
            for e in range(rest.size):
                line[e] += scaled * rest[e]
            start += rest.size


@piece
def _total(values):
    total = 0.0
    for i in range(values.size):
        total += values[i]
    return total


@piece
def _add_spread(coefficients, run, work, gaps, moments, scatter):
    """Add the scatter of the missing values of a run about their means: Σγ VᵀV.

    Return the conditional entropy of these values, Σγ (m ½ ln 2πe - ln of their volume).
    """
    first, last = gaps.starts[run], gaps.starts[run + 1]
    m, n_features = _find_columns(first, gaps), coefficients.origin.size
    shared, entropy, log_volume = 0.0, 0.0, 0.0
    for k in range(work.log_joint.shape[0]):
        mass = _total(work.log_joint[k, first:last])
        shared += mass
        if mass == 0.0:
            continue
        second = moments[k, 1 + n_features :]
        if coefficients.kind < TIED:
            log_volume = _span(coefficients.factors[k], m, gaps)
            _add_upper(m, mass, gaps, second)
            entropy -= mass * log_volume
        elif coefficients.kind == DIAG:
            for j in range(m):
                second[gaps.columns[j]] += mass
                entropy -= mass * math.log(coefficients.factors[k, 0, gaps.columns[j]])
        elif coefficients.kind == SPHERICAL:
            second[0] += mass * m
            entropy -= mass * m * math.log(coefficients.factors[k, 0, 0])
    if coefficients.kind == TIED:
        log_volume = _span(coefficients.factors[0], m, gaps)
        _add_upper(m, shared, gaps, scatter[0])
        entropy -= shared * log_volume
    return entropy + shared * m * (_HALF_LOG_TWO_PI + 0.5)


@piece
def _add_moments(coefficients, n, n_runs, work, gaps, moments, scatter):
    """Add a block of rows to moments (K, F + spare) and, for TIED, scatter (1, S + spare).

    Return the conditional entropy of their missing values. Work.valid holds the rows' weights.
    """
    whole, y = whole_panels(n), work.residual
    entropy = 0.0
    for k in range(work.log_joint.shape[0]):
        for d in range(coefficients.origin.size):
            for r in range(n):
                y[1 + d, r] = gaps.kept[k, d, r]
        if coefficients.kind == SPHERICAL:
            add_square(y, n)
        table = coefficients.features
        add_moments_product(work.log_joint, table, y, whole, k, k + 1, moments, k)
        if coefficients.kind == TIED:
            table = coefficients.scatter_features
            add_moments_product(work.log_joint, table, y, whole, k, k + 1, scatter, FIRST)
    for run in range(n_runs):
        entropy += _add_spread(coefficients, run, work, gaps, moments, scatter)
        if has_noise(coefficients):
            first, last = gaps.starts[run], gaps.starts[run + 1]
            rest = _total(work.valid[first:last])
            for k in range(work.log_joint.shape[0]):
                rest -= _total(work.log_joint[k, first:last])
            entropy += rest * _lacking_ranges(coefficients, run, gaps)
    return entropy


@piece
def _add_rows(rows, weights, order, coefficients, is_hard, work, gaps, sums, totals):
    """Add rows, block by block, to sums and totals."""
    labels, is_noise = gaps.labels, gaps.is_noise
    moments, scatter = work.recent_moments, work.recent_scatter
    n_together = gaps.kept.shape[2]
    for start in range(0, rows.shape[0], n_together):
        stop = min(start + n_together, rows.shape[0])
        n_overflowing, n_runs = _evaluate(rows[start:stop], coefficients, work, gaps)
        if is_hard:
            weight, log_likelihood = harden(
                weights[start:stop], coefficients, order, work, labels, is_noise, stop - start
            )
        else:
            normalise(coefficients, work, stop - start)
            weight, log_likelihood = weigh(weights[start:stop], work, stop - start)
        entropy = _add_moments(coefficients, stop - start, n_runs, work, gaps, moments, scatter)
        if (start // n_together + 1) % BLOCKS_IN_SUM == 0 or stop == rows.shape[0]:
            add_recent(work, sums)
        totals[LOG_LIKELIHOOD] += log_likelihood
        totals[WEIGHT] += weight
        totals[N_ROWS] += stop - start - n_overflowing
        totals[N_OVERFLOWING] += n_overflowing
        totals[CONDITIONAL_ENTROPY] += entropy


@kernel
def incomplete_statistics(rows, weights, order, coefficients, is_hard, work, gaps, sums, totals):
    """Run the E-step over rows with gaps: moments of whitened residuals.

    Parameters
    ----------
    rows : (n, D) float64
        NaN where a value is missing; no infinity. Rows with the same gaps are best side by side.
    weights : (n,) float64, or (0,) for weights of 1
    order, coefficients, work
        As for :func:`~streamgmm.core.kernels.mixture.e_step`.
    is_hard : bool
        Whether a row counts wholly for its component of largest density.
    gaps : struct of Gaps
    sums : tuple of arrays, 0 before
        Moments (K, F) float64, Σ γ E[φ(y)] by component, y = W (x - μ) given the observed values.
        Scatter (1, D (D + 1) / 2) float64, or (1, 0): TIED, Σ over rows and components of
        γ E[y yᵀ], its upper triangle by rows.
    totals : (5,) float64, 0 before
        Is given the log-likelihood Σ w log p(observed), or with hard assignment that of the largest
        density; Σ w, rows counted in, rows overflowing, conditional entropy of the missing values.
    """
    begin(work)
    _add_rows(rows, weights, order, coefficients, is_hard, work, gaps, sums, totals)


@piece
def _solve(m, first, last, gaps):
    """Replace gaps.moves by R⁻¹ V y for a run of rows."""
    for backwards in range(m):
        j = m - 1 - backwards
        own = gaps.moves[j, first:last]
        for i in range(j + 1, m):
            other, factor = gaps.moves[i, first:last], gaps.triangle[j, i]
            for r in range(own.size):
                own[r] -= factor * other[r]
        for r in range(own.size):
            own[r] /= gaps.triangle[j, j]


@piece
def _add_conditional_means(coefficients, n, n_runs, work, gaps, imputed):
    """Add Σ γ E[x | observed] to imputed (n, D) where values are missing.

    work.log_joint holds densities over the largest, and work.total the inverse of their sum.
    """
    shares = work.some[0]
    for k in range(work.log_joint.shape[0]):
        for r in range(n):
            shares[r] = work.valid[r] * work.log_joint[k, r] * work.total[r]
        _residuals(coefficients, k, n, work, gaps)
        for run in range(n_runs):
            first, last = gaps.starts[run], gaps.starts[run + 1]
            if _total(shares[first:last]) == 0.0:
                continue
            m = _project(coefficients, k, run, work, gaps)
            if coefficients.kind <= TIED:
                _solve(m, first, last, gaps)
            else:
                for j in range(m):
                    fill(gaps.moves[j, first:last], 0.0)
            for j in range(m):
                d = gaps.columns[j]
                for r in range(first, last):
                    mean = coefficients.means[k, d] - gaps.moves[j, r]
                    imputed[r, d] += shares[r] * mean


@piece
def _describe_rows(rows, priors, order, coefficients, work, gaps, posteriors, imputed):
    """Fill the arrays that :func:`incomplete_posteriors` is given, block by block."""
    scores, labels, responsibilities = posteriors
    n_together = gaps.kept.shape[2]
    for start in range(0, rows.shape[0], n_together):
        n = min(n_together, rows.shape[0] - start)
        _, n_runs = _evaluate(rows[start : start + n], coefficients, work, gaps)
        label_block(start, n, order, coefficients, work, labels)
        normalise(coefficients, work, n)
        describe_block(
            start, n, priors, order, coefficients, work, scores, labels, responsibilities
        )
        if imputed.shape[0]:
            part = imputed[start : start + n]
            _add_conditional_means(coefficients, n, n_runs, work, gaps, part)


@kernel
def incomplete_posteriors(rows, priors, order, coefficients, work, gaps, posteriors, imputed):
    """Find scores, labels, responsibilities and imputed values of rows with gaps.

    Parameters
    ----------
    rows : (n, D) float64
        NaN where a value is missing; no infinity. Rows with the same gaps are best side by side.
    priors, order, coefficients, work, posteriors
        As for :func:`~streamgmm.core.kernels.mixture.e_step`.
    gaps : struct of Gaps
    imputed : (n, D) float64, 0 before, or (0, D)
        Is given the expectation of the missing values given the others; 0 elsewhere and in rows
        that overflow.
    """
    begin(work)
    _describe_rows(rows, priors, order, coefficients, work, gaps, posteriors, imputed)
