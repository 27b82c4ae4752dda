"""Steps of EM for few rows, in one call.

For few rows the arithmetic of a step takes less time than the calls that lead to it. Here a call
makes many steps. Densities and covariances are those of differences from the component's own mean,
so nothing cancels.

Where a step fails, the caller has to continue with the kernels that deal with any mixture: a
component has lost its rows, or a covariance is singular.
"""

import math
from typing import NamedTuple

import numpy as np

from streamgmm.core.kernels.compilation import kernel, piece
from streamgmm.core.kernels.elementary import exponential, logarithm

# Smallest mass of a component, in rows, and smallest pivot of a covariance, as a part of its
# diagonal element, with which a step does not fail.
_LEAST_MASS, _LEAST_PIVOT = 1e-3, 1e-10
# Smallest variance, in units in which all rows together have a variance of about 1.
_LEAST_VARIANCE = 1e-16
# Rows whose densities are computed at once, so that these stay in the cache of a core.
_BLOCK = 512
# What is taken for rounding in a log-likelihood, nats per row.
_ROUNDING = 1e-13


@piece
def _inverse(factor, inverse):
    """Write the inverse of a lower triangular matrix (D, D)."""
    n = factor.shape[0]
    for i in range(n):
        scale = 1.0 / factor[i, i]
        for j in range(n):
            inverse[i, j] = 0.0
        for m in range(i):
            part = factor[i, m] * scale
            for j in range(m + 1):
                inverse[i, j] -= part * inverse[m, j]
        inverse[i, i] = scale


@piece
def _invert(factor, inverse):
    """Write the inverse of a factor, or those of standard deviations (1, D)."""
    if factor.shape[0] == 1:
        for d in range(factor.shape[1]):
            inverse[0, d] = 1.0 / factor[0, d]
    else:
        _inverse(factor, inverse)


@piece
def _factorised(covariance, factor):
    """Write the Cholesky factor of a matrix (D, D); return whether it is well determined."""
    n = covariance.shape[0]
    for j in range(n):
        for i in range(j):
            factor[i, j] = 0.0
        pivot = covariance[j, j]
        for m in range(j):
            pivot -= factor[j, m] * factor[j, m]
        if not (pivot > _LEAST_PIVOT * covariance[j, j] and pivot > _LEAST_VARIANCE):
            return False
        factor[j, j] = math.sqrt(pivot)
        for i in range(j + 1, n):
            total = covariance[i, j]
            for m in range(j):
                total -= factor[i, m] * factor[j, m]
            factor[i, j] = total / factor[j, j]
    return True


@piece
def _all_factorised(covariances, factors, inverses):
    """Write factors and inverses of all covariances; matrices (K, D, D) or variances (K, 1, D)."""
    n_components, n_rows, n_features = covariances.shape
    for k in range(n_components):
        if n_rows == 1:
            for d in range(n_features):
                variance = covariances[k, 0, d]
                if not variance > _LEAST_VARIANCE:
                    return False
                factors[k, 0, d] = math.sqrt(variance)
        elif not _factorised(covariances[k], factors[k]):
            return False
        _invert(factors[k], inverses[k])
    return True


@piece
def _add_squares(columns, start, stop, mean, inverse, residual, out):
    """Subtract half the squared distances of some columns (D, n) from a mean."""
    for i in range(columns.shape[0]):
        # Two columns at a time, after one that has no partner.
        w, m, one = 0.0 if i % 2 else inverse[i, 0], mean[0], columns[0, start:stop]
        for r in range(out.size):
            residual[r] = w * (one[r] - m)
        for j in range((i + 1) % 2, i, 2):
            w, m, v, o = inverse[i, j], mean[j], inverse[i, j + 1], mean[j + 1]
            one, other = columns[j, start:stop], columns[j + 1, start:stop]
            for r in range(out.size):
                residual[r] += w * (one[r] - m) + v * (other[r] - o)
        for r in range(out.size):
            out[r] -= 0.5 * residual[r] * residual[r]


@piece
def _write_log_joint(columns, start, stop, shares, means, inverses, residual, out):
    """Write ln π_k p_k(x) of some columns (D, n) into these columns of out (K, n)."""
    n_features = columns.shape[0]
    for k in range(shares.size):
        constant = math.log(shares[k]) - 0.5 * n_features * math.log(2.0 * math.pi)
        for d in range(n_features):
            constant += math.log(inverses[k, d if inverses.shape[1] > 1 else 0, d])
        own = out[k, start:stop]
        for r in range(own.size):
            own[r] = constant
        if inverses.shape[1] > 1:
            _add_squares(columns, start, stop, means[k], inverses[k], residual, own)
    if inverses.shape[1] > 1:
        return
    # Two columns at a time, which are in the cache for all components; the last one may be alone.
    for i in range(0, n_features, 2):
        j = min(i + 1, n_features - 1)
        one, other = columns[i, start:stop], columns[j, start:stop]
        for k in range(shares.size):
            own, w, m = out[k, start:stop], inverses[k, 0, i], means[k, i]
            v, o = inverses[k, 0, j] if j > i else 0.0, means[k, j]
            for r in range(own.size):
                y, z = w * (one[r] - m), v * (other[r] - o)
                own[r] -= 0.5 * (y * y + z * z)


@piece
def _expect(weights, steps):
    """Write the responsibilities (K, n); return the mean log-likelihood, nats per row."""
    n = weights.size
    log_likelihood, weight = 0.0, 0.0
    for start in range(0, n, _BLOCK):
        stop = min(start + _BLOCK, n)
        log_likelihood += _expect_some(weights[start:stop], start, stop, steps)
    for r in range(n):
        weight += weights[r]
    return log_likelihood / weight


@piece
def _expect_some(weights, start, stop, steps):
    """Write the responsibilities of some rows; return the sum of their log-likelihoods."""
    responsibilities, largest, total = steps.responsibilities, steps.largest, steps.total
    n_components = responsibilities.shape[0]
    _write_log_joint(
        steps.columns,
        start,
        stop,
        steps.shares,
        steps.means,
        steps.inverses,
        total,
        responsibilities,
    )
    n = weights.size
    own = responsibilities[0, start:stop]
    for r in range(n):
        largest[r] = own[r]
        total[r] = 0.0
    for k in range(1, n_components):
        own = responsibilities[k, start:stop]
        for r in range(n):
            largest[r] = max(largest[r], own[r])
    for k in range(n_components):
        own = responsibilities[k, start:stop]
        for r in range(n):
            own[r] = exponential(own[r] - largest[r])
            total[r] += own[r]
    log_likelihood = 0.0
    for r in range(n):
        log_likelihood += weights[r] * (largest[r] + logarithm(total[r]))
        total[r] = weights[r] / total[r]
    for k in range(n_components):
        own = responsibilities[k, start:stop]
        for r in range(n):
            own[r] *= total[r]
    return log_likelihood


@piece
def _add_central_moments(columns, start, stop, shares, mean, weighted, covariance):
    """Add the second moments about the mean of some columns (D, n) with shares (stop - start,)."""
    for i in range(columns.shape[0]):
        m, column = mean[i], columns[i, start:stop]
        for r in range(shares.size):
            weighted[r] = shares[r] * (column[r] - m)
        for j in range(i + 1):
            total, other, column = 0.0, mean[j], columns[j, start:stop]
            for r in range(shares.size):
                total += weighted[r] * (column[r] - other)
            covariance[i, j] += total


@piece
def _write_central_moments(steps):
    """Write the second moments of all components about their means."""
    columns, covariances = steps.columns, steps.covariances
    n_features, n = columns.shape
    n_components = covariances.shape[0]
    for k in range(n_components):
        for i in range(n_features):
            for j in range(n_features):
                covariances[k, i, j] = 0.0
    for start in range(0, n, _BLOCK):
        stop = min(start + _BLOCK, n)
        for k in range(n_components):
            own = steps.responsibilities[k, start:stop]
            _add_central_moments(
                columns, start, stop, own, steps.means[k], steps.total, covariances[k]
            )
    for k in range(n_components):
        for i in range(n_features):
            for j in range(i):
                covariances[k, j, i] = covariances[k, i, j]


@piece
def _pool(covariances, counts, is_shared, is_isotropic):
    """Replace second moments by those of all components, or all columns, where these are shared."""
    n_components, n_rows, n_features = covariances.shape
    if is_isotropic:
        for k in range(n_components):
            total = 0.0
            for d in range(n_features):
                total += covariances[k, 0, d]
            for d in range(n_features):
                covariances[k, 0, d] = total / n_features
    if is_shared:
        for i in range(n_rows):
            for j in range(n_features):
                total, count = 0.0, 0.0
                for k in range(n_components):
                    total += covariances[k, i, j]
                    count += counts[k]
                for k in range(n_components):
                    covariances[k, i, j] = total * (counts[k] / count)


@piece
def _maximize(ridge, form, steps):
    """Write the parameters of the M-step; return whether each component has rows."""
    columns, counts, means, covariances = (
        steps.columns,
        steps.counts,
        steps.means,
        steps.covariances,
    )
    n_features, n = columns.shape
    n_components = counts.size
    weight = 0.0
    for k in range(n_components):
        own = steps.responsibilities[k]
        count = 0.0
        for r in range(n):
            count += own[r]
        counts[k] = count
        weight += count
        if not count > _LEAST_MASS:
            return False
    has_matrices = covariances.shape[1] > 1
    # Two columns at a time; the last one may be twice the same.
    for i in range(0, n_features, 2):
        j = min(i + 1, n_features - 1)
        one, other = columns[i], columns[j]
        for k in range(n_components):
            own = steps.responsibilities[k]
            first, second = 0.0, 0.0
            for r in range(n):
                first += own[r] * one[r]
                second += own[r] * other[r]
            m, o = first / counts[k], second / counts[k]
            means[k, i], means[k, j] = m, o
            if not has_matrices:
                first, second = 0.0, 0.0
                for r in range(n):
                    first += own[r] * (one[r] - m) * (one[r] - m)
                    second += own[r] * (other[r] - o) * (other[r] - o)
                covariances[k, 0, i], covariances[k, 0, j] = first, second
    if has_matrices:
        _write_central_moments(steps)
    _pool(covariances, counts, form[0], form[1])
    for k in range(n_components):
        steps.shares[k] = counts[k] / weight
        for i in range(covariances.shape[1]):
            for j in range(n_features):
                covariances[k, i, j] /= counts[k]
        for d in range(n_features):
            covariances[k, d if covariances.shape[1] > 1 else 0, d] += ridge[d]
    return True


@piece
def _extrapolate(state, first, second, out):
    """Write the point that two steps of EM from a state lead towards, and return its distance.

    The distance, in steps, is that of Varadhan & Roland (2008), scheme S3. If it is not above 1,
    there is no such point, and it is returned as 1.
    """
    squares, curvature = 0.0, 0.0
    for i in range(state.size):
        step = first[i] - state[i]
        bend = second[i] - first[i] - step
        squares += step * step
        curvature += bend * bend
    if not squares > curvature > 0.0:
        return 1.0
    length = math.sqrt(squares / curvature)
    for i in range(state.size):
        step = first[i] - state[i]
        bend = second[i] - first[i] - step
        out[i] = state[i] + 2.0 * length * step + length * length * bend
    return length


@piece
def _normalised(shares):
    """Divide weights by their sum, which extrapolation may change; return if all are positive."""
    smallest, total = shares[0], 0.0
    for k in range(shares.size):
        smallest = min(smallest, shares[k])
        total += shares[k]
    for k in range(shares.size):
        shares[k] /= total
    return smallest > 0.0


@piece
def _copy(values, out):
    for i in range(values.size):
        out[i] = values[i]


@piece
def _write_posterior(joint, log_volume, total, scores, labels, responsibilities):
    """Write what log-joint densities (K, n) say of each row; these are lost."""
    n_components, n = joint.shape
    for r in range(n):
        scores[r] = joint[0, r]
        labels[r] = 0
        total[r] = 0.0
    for k in range(1, n_components):
        own = joint[k]
        for r in range(n):
            is_larger = own[r] > scores[r]
            scores[r] = own[r] if is_larger else scores[r]
            labels[r] = k if is_larger else labels[r]
    for k in range(n_components):
        own = joint[k]
        for r in range(n):
            # Differences from an infinite density are NaN.
            below = own[r] - scores[r]
            own[r] = exponential(below) if below <= 0.0 else math.nan
            total[r] += own[r]
    for r in range(n):
        is_finite = total[r] >= 1.0
        is_zero = scores[r] == -math.inf
        other = scores[r] if is_zero else math.nan
        scores[r] = scores[r] + logarithm(total[r]) - log_volume if is_finite else other
    if responsibilities.shape[0]:
        for k in range(n_components):
            for r in range(n):
                responsibilities[r, k] = joint[k, r] / total[r]


@kernel
def posterior_of_few(shares, means, factors, columns, log_volume, scores, labels, responsibilities):
    """Write the density, label and responsibilities of each row.

    Parameters
    ----------
    shares : ndarray of shape (K,)
    means : ndarray of shape (K, D)
    factors : ndarray of shape (K, D, D) or (K, 1, D)
        Cholesky factors, or standard deviations.
    columns : ndarray of shape (D, n)
        The rows, transposed.
    log_volume : float
        Is subtracted from ln p(x): that of the units of the rows.
    scores : ndarray of shape (n,)
        Is given ln p(x), nats.
    labels : ndarray of shape (n,), int64
        Is given the component of largest density.
    responsibilities : ndarray of shape (n, K), or (0, K) if not asked for
    """
    n = columns.shape[1]
    inverses = np.empty(factors.shape)
    joint, total = np.empty((shares.size, n)), np.empty(n)
    for k in range(shares.size):
        _invert(factors[k], inverses[k])
    for start in range(0, n, _BLOCK):
        stop = min(start + _BLOCK, n)
        _write_log_joint(columns, start, stop, shares, means, inverses, total, joint)
    _write_posterior(joint, log_volume, total, scores, labels, responsibilities)


class Steps(NamedTuple):
    """Arrays that steps of EM work on, from :func:`arrays_for_steps`.

    A factor is a matrix (D, D), or standard deviations (1, D): all of them are (K, D or 1, D).
    """

    state: np.ndarray  #: (size,) the mixture; these three are parts of it:
    shares: np.ndarray  #: (K,) weights of the components
    means: np.ndarray  #: (K, D)
    covariances: np.ndarray  #: like factors
    factors: np.ndarray  #: of the covariances
    inverses: np.ndarray  #: of the factors
    before: np.ndarray  #: (size,) the mixture that a cycle began with, ...
    first: np.ndarray  #: (size,) after its first step, ...
    second: np.ndarray  #: (size,) after its second one, ...
    ahead: np.ndarray  #: (size,) and where these lead
    columns: np.ndarray  #: (D, n) the rows
    responsibilities: np.ndarray  #: (K, n)
    largest: np.ndarray  #: (n,) this and the next one are for some rows at a time
    total: np.ndarray  #: (n,)
    counts: np.ndarray  #: (K,)


def arrays_for_steps(columns: np.ndarray, n_components: int, has_matrices: bool) -> Steps:
    """Return arrays for steps of EM, of which the mixture is to be written.

    Parameters
    ----------
    columns : ndarray of shape (D, n)
        The rows, transposed: finite, in units in which their variance is about 1.
    n_components : int
    has_matrices : bool
        Whether factors are matrices (K, D, D), else (K, 1, D).
    """
    (d, n_rows), k = columns.shape, n_components
    form = k, d if has_matrices else 1, d
    n_means = k + k * d
    state = np.empty(n_means + math.prod(form))
    return Steps(
        state,
        state[:k],
        state[k:n_means].reshape(k, d),
        state[n_means:].reshape(form),
        np.empty(form),
        np.empty(form),
        np.empty(state.size),
        np.empty(state.size),
        np.empty(state.size),
        np.empty(state.size),
        columns,
        np.empty((k, n_rows)),
        np.empty(n_rows),
        np.empty(n_rows),
        np.empty(k),
    )


@piece
def _is_factorised(steps):
    """Write factors and inverses of the present covariances; return whether all are sound."""
    return _all_factorised(steps.covariances, steps.factors, steps.inverses)


@kernel
def em_steps(ridge, weights, form, n_steps, settled, n_cheap, tolerance, values, steps):
    """Make steps of EM until one gains hardly anything, or little remains to be gained.

    If ``n_cheap`` is above 0, steps are extrapolated (squared iteration; Varadhan & Roland 2008).
    What is a loss is not kept. The mixture is that in ``steps``, before and after. After steps that
    are not extrapolated and end for a tolerance, it is the one that the last log-likelihood is of.

    Parameters
    ----------
    ridge : ndarray of shape (D,)
    weights : ndarray of shape (n,)
    form : ndarray of shape (2,), bool
        Whether all components share the covariance, and whether all columns share the variance.
    n_steps : int
        Bound on the steps.
    settled : float
        Gain of the last step, nats per row.
    n_cheap : int
        Steps after which the tolerance decides, too.
    tolerance : float
        What may remain to be gained if steps shrink as the last ones did, nats per row.
    values : ndarray of shape (n_steps,)
        Is given the mean log-likelihoods of the parameters that steps began with.
    steps : Struct of Steps
        Holds the rows and the mixture.

    Returns
    -------
    n_values : int
        Steps that were kept; 0 if a step failed, and the mixture has no meaning.
    n_evaluated : int
        All steps.
    has_settled : bool
        Whether steps ended for one of the tolerances.
    """
    state, before, first, second = steps.state, steps.before, steps.first, steps.second
    is_good = _is_factorised(steps)
    _copy(state, before)
    n_values, n_evaluated, n_in_cycle = 0, 0, 0
    has_settled, is_ahead, length = False, False, math.inf
    while is_good and n_evaluated < n_steps and not has_settled:
        value = _expect(weights, steps)
        n_evaluated += 1
        if is_ahead and value < values[n_values - 1] - _ROUNDING * abs(value):
            _copy(second, state)
            _copy(second, before)
            is_good = _is_factorised(steps)
            is_ahead = False
            continue
        if n_values and not is_ahead:
            gain = abs(value - values[n_values - 1])
            # Gains shrink by the square of what steps shrink by: this is more than remains.
            has_settled = gain < settled or (
                n_evaluated > n_cheap > 0 and gain * length * length < tolerance
            )
        is_ahead = False
        values[n_values] = value
        n_values += 1
        if has_settled and not n_cheap:
            continue
        is_good = _maximize(ridge, form, steps) and _is_factorised(steps)
        if not (n_cheap and is_good) or has_settled:
            continue
        n_in_cycle += 1
        if n_in_cycle == 1:
            _copy(state, first)
            continue
        n_in_cycle = 0
        _copy(state, second)
        length = _extrapolate(before, first, second, steps.ahead)
        if length > 1.0:
            _copy(steps.ahead, state)
            is_ahead = _normalised(steps.shares) and _is_factorised(steps)
            if not is_ahead:
                _copy(second, state)
                is_good = _is_factorised(steps)
        _copy(state, before)
    return n_values if is_good else 0, n_evaluated, has_settled
