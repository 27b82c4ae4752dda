"""The E-step with hard assignment: a row counts wholly for its component of largest density.

Classification EM (Celeux & Govaert 1992). No exponential is needed, and a row is added to the
sums of one component instead of all.

References
----------
Celeux & Govaert (1992), A classification EM algorithm for clustering and two stochastic versions.
"""

from typing import NamedTuple

import numpy as np

from streamgmm.core.kernels.compilation import kernel, piece
from streamgmm.core.kernels.kinds import TIED
from streamgmm.core.kernels.log_joint import (
    NOISE,
    begin,
    evaluate,
    has_noise,
    load,
    load_in_data_units,
    residuals,
)
from streamgmm.core.kernels.mixture import (
    BLOCKS_IN_SUM,
    add_centred_moments,
    add_recent,
    add_scatter,
    count_in,
    gather_weighted,
)
from streamgmm.core.kernels.products import FIRST, add_moments_product, fill, lines, whole_panels
from streamgmm.core.kernels.screening import (
    FEW,
    MANY_FEATURES,
    SINGLE_OVER_DOUBLE,
    find_rows,
    fits_single,
    gather,
    narrow,
)
from streamgmm.core.kernels.tiles import (
    BLOCK,
    FORMS,
    PANEL,
    SPARE_FEATURES,
    STRIP,
    add_forms,
    compare_forms,
    form_rows,
)
from streamgmm.core.kernels.totals import N_SCREENED, N_SINGLE

# Number of following blocks that do not use float32, after one where it left many labels in doubt.
_BLOCKS_WITHOUT = 15


class Assignment(NamedTuple):
    """The assignment of the rows of a block to components."""

    labels: np.ndarray  #: (BLOCK,) int64, index of each row's component among the coefficients
    starts: np.ndarray  #: (K + 1,) int64, first index of each component in rows
    rows: np.ndarray  #: (BLOCK,) int64, rows by component
    ends: np.ndarray  #: (K,) int64, scratch
    margins: np.ndarray  #: (BLOCK,) float64, minus the lead of the largest density
    is_noise: np.ndarray  #: (BLOCK,) bool, rows that belong to no component


class Comparison(NamedTuple):
    """Scratch to compare densities of a block tile by tile, float64 or float32."""

    tile: np.ndarray  #: (FORMS, STRIDE) densities of some components
    best: np.ndarray  #: (BLOCK,) the largest density of each row
    second: np.ndarray  #: (BLOCK,) the second largest density of each row
    numbers: np.ndarray  #: (BLOCK,) index of the component of the largest


def assignment(n_components: int) -> Assignment:
    """Return scratch arrays for the blocks of a chunk."""
    return Assignment(
        np.zeros(BLOCK, np.int64),
        np.zeros(n_components + 1, np.int64),
        np.zeros(BLOCK, np.int64),
        np.zeros(n_components, np.int64),
        np.empty(BLOCK),
        np.zeros(BLOCK, np.bool_),
    )


def comparison(dtype: type[np.floating]) -> Comparison:
    """Return scratch arrays of a type for the blocks of a chunk."""
    return Comparison(
        lines(FORMS, dtype),
        np.empty(BLOCK, dtype),
        np.empty(BLOCK, dtype),
        np.empty(BLOCK, dtype),
    )


@piece
def choose(n, n_packed, order, work, labels):
    """Find the component of the largest density of each of n rows; densities into work.largest.

    Among equal densities the component of the lowest number in the model is taken. Components are
    in the order of their numbers within the expanded form and within the centred form.
    """
    best = work.largest
    for r in range(n):
        best[r] = work.log_joint[0, r]
        labels[r] = 0
    for k in range(1, work.log_joint.shape[0]):
        values = work.log_joint[k]
        if k < n_packed:
            for r in range(n):
                is_larger = values[r] > best[r]
                best[r] = values[r] if is_larger else best[r]
                labels[r] = k if is_larger else labels[r]
        else:
            for r in range(n):
                comes_first = values[r] == best[r] and order[k] < order[labels[r]]
                if values[r] > best[r] or comes_first:
                    best[r] = values[r]
                    labels[r] = k


@piece
def _is_packed(coefficients, work):
    """Return whether all components of a loaded block take the expanded form."""
    n_packed, n_features = coefficients.theta.shape
    packed = n_packed == coefficients.means.shape[0] and n_features < MANY_FEATURES
    for k in range(n_packed):
        packed &= work.bounds[k] <= coefficients.tolerance
    return packed


@piece
def _compare(theta, features, z, n, found):
    """Find the largest densities of n rows of z (E, STRIDE); all components are packed.

    Densities are not kept: a tile of them stays in the nearest cache until it is compared. Theta,
    z and found have one type; n is a multiple of PANEL.
    """
    n_components, n_map = theta.shape
    fill(found.best[:n], -np.inf)
    fill(found.second[:n], -np.inf)
    fill(found.numbers[:n], 0.0)
    for first in range(0, n, PANEL):
        last = first + PANEL
        for c in range(0, n_components, FORMS):
            size, tile = min(FORMS, n_components - c), found.tile
            for k in range(size):
                fill(tile[k, first:last], 0.0)
            for row in range(first, last, form_rows(z)):
                add_forms(theta[c : c + size], features, z, FIRST, size, FIRST, n_map, row, tile)
                compare_forms(tile, size, c, row, found.best, found.second, found.numbers)


@piece
def _choose_packed(coefficients, n_rows, work, found, double):
    """Do the work of :func:`choose` where all components take the expanded form."""
    theta, features = coefficients.theta, coefficients.features
    _compare(theta, features, work.z, whole_panels(n_rows), double)
    for r in range(n_rows):
        work.largest[r] = double.best[r]
        found.labels[r] = np.int64(double.numbers[r])


@piece
def _can_compare_single(coefficients, work):
    """Return whether to find labels in float32: it has coefficients, and it found most lately."""
    if coefficients.theta_single.shape[0] == 0 or coefficients.kind <= TIED:
        return False
    if work.unscreened[0] > 0:
        work.unscreened[0] -= 1
        return False
    return fits_single(work)


@piece
def _choose_by_single(coefficients, n_rows, work, found, double, single):
    """Find labels of a block in float32 if errors cannot change them, else in float64.

    Return False, and no labels, if errors may change many labels. Densities are not computed.
    """
    n, bound = whole_panels(n_rows), 0.0
    for k in range(work.bounds.size):
        bound = max(bound, SINGLE_OVER_DOUBLE * work.bounds[k])
    narrow(work, n)
    _compare(coefficients.theta_single, coefficients.features, work.z_single, n, single)
    for r in range(n_rows):
        margin = np.float64(single.second[r]) - np.float64(single.best[r])
        # A label is in doubt if its margin is NaN.
        found.margins[r] = margin if margin <= 0.0 else np.inf
        found.labels[r] = np.int64(single.numbers[r])
    fill(found.margins[n_rows:n], -np.inf)
    doubtful = work.some_rows[0]
    count = find_rows(found.margins, -2.0 * bound, n, doubtful)
    if count > FEW:
        work.unscreened[0] = _BLOCKS_WITHOUT
        return False
    if count:
        rows = doubtful[:count]
        some = whole_panels(count)
        gather(work.z[1:], rows, some, work.gathered[1:])
        _compare(coefficients.theta, coefficients.features, work.gathered, some, double)
        for i in range(count):
            found.labels[rows[i]] = np.int64(double.numbers[i])
    work.n_screened[0] += (n_rows - count) * coefficients.theta.shape[0]
    return True


@piece
def find_noise(coefficients, n, work, is_noise):
    """Mark the rows whose largest density in work.largest is below that of the noise.

    The density of the noise, less the common part, replaces it.
    """
    if has_noise(coefficients):
        for r in range(n):
            is_noise[r] = work.noise[r] > work.largest[r]
            work.largest[r] = max(work.largest[r], work.noise[r])


@piece
def harden(weights, coefficients, order, work, labels, is_noise, n):
    """Replace log-joint densities in work.log_joint by the weight of each row in its component.

    Return the sum of weights and of weighted largest densities.
    """
    choose(n, coefficients.theta.shape[0], order, work, labels)
    find_noise(coefficients, n, work, is_noise)
    weight, log_likelihood = 0.0, 0.0
    for r in range(n):
        w = work.valid[r] * weights[r] if weights.size else work.valid[r]
        weight += w
        log_likelihood += w * (work.largest[r] + work.common[r])
        work.valid[r] = work.total[r] = w
    for k in range(work.log_joint.shape[0]):
        fill(work.log_joint[k, : whole_panels(n)], 0.0)
    for r in range(n):
        work.log_joint[labels[r], r] = 0.0 if is_noise[r] else work.total[r]
    return weight, log_likelihood


@piece
def _sort(n, found):
    """List the rows of each component, in their order."""
    fill(found.starts, 0)
    for r in range(n):
        found.starts[1 + found.labels[r]] += 1
    for k in range(found.ends.size):
        found.starts[k + 1] += found.starts[k]
        found.ends[k] = found.starts[k]
    for r in range(n):
        k = found.labels[r]
        found.rows[found.ends[k]] = r
        found.ends[k] += 1


@piece
def _measure(rows, coefficients, work, labels):
    """Write the density of each row's own component, from its distance to the mean.

    The densities go into work.largest. For factors that are scales this costs little, and it keeps
    the digits that the expanded form loses where components lie far apart.
    """
    n_features = coefficients.origin.size
    for r in range(rows.shape[0]):
        if work.valid[r] == 0.0:
            continue
        k, squares = labels[r], 0.0
        for d in range(n_features):
            y = (rows[r, d] - coefficients.means[k, d]) * coefficients.factors[k, 0, d]
            squares += y * y
        work.largest[r] = coefficients.constants[k] - 0.5 * squares
        work.common[r] = 0.0


@piece
def _weigh(weights, work, is_noise, n):
    """Write weights of n rows into work.total; return their sum and that of weighted densities.

    Rows that are noise count in the sums, and have weight 0 in work.total.
    """
    weight, log_likelihood = 0.0, 0.0
    for r in range(n):
        w = work.valid[r] * weights[r] if weights.size else work.valid[r]
        weight += w
        # The density of a skipped row has no meaning, and may not be finite.
        log_likelihood += w * (work.largest[r] + work.common[r]) if w > 0.0 else 0.0
        work.total[r] = 0.0 if is_noise[r] else w
    return weight, log_likelihood


@piece
def _add_rows(features, z, rows, work, moments, k):
    """Add some rows of z (E, STRIDE) to the moments of component k."""
    if rows.size >= STRIP:
        few = gather_weighted(z[1:], work.total, rows, work)
        add_moments_product(work.some, features, work.gathered, few, FIRST, FIRST + 1, moments, k)
    else:
        for f in range(features.shape[0] - SPARE_FEATURES):
            left, right = z[features[f, 0]], z[features[f, 1]]
            total = 0.0
            for i in range(rows.size):
                total += work.total[rows[i]] * left[rows[i]] * right[rows[i]]
            moments[k, f] += total


@piece
def _add_moments(coefficients, n_rows, work, found, moments, scatter):
    """Add a block of rows to moments (K, F + spare) and, for TIED, scatter (1, S + spare)."""
    n, n_packed = whole_panels(n_rows), coefficients.theta.shape[0]
    _sort(n_rows, found)
    if n_packed:
        z = work.z
        if not coefficients.has_own_basis:
            origin, bases = coefficients.origin, coefficients.bases
            z = work.residual
            residuals(coefficients, work.x, origin, bases, FIRST, n_rows, work, z)
        for k in range(n_packed):
            own = found.rows[found.starts[k] : found.starts[k + 1]]
            _add_rows(coefficients.features, z, own, work, moments, k)
        if coefficients.kind == TIED:
            for r in range(n_rows):
                work.some[0, r] = work.total[r] if found.labels[r] < n_packed else 0.0
            fill(work.some[0, n_rows:n], 0.0)
            add_scatter(coefficients, z, n, work, scatter)
    for c in range(work.log_joint.shape[0] - n_packed):
        k = n_packed + c
        if found.starts[k] == found.starts[k + 1]:
            continue
        fill(work.log_joint[k, :n], 0.0)
        for i in range(found.starts[k], found.starts[k + 1]):
            work.log_joint[k, found.rows[i]] = work.total[found.rows[i]]
        add_centred_moments(coefficients, c, n_rows, work, moments, scatter)


@piece
def _visit_rows(
    rows,
    weights,
    priors,
    order,
    coefficients,
    work,
    found,
    double,
    single,
    sums,
    totals,
    posteriors,
):
    """Fill the arrays that :func:`hard_step` is given, block by block; skip those without entries.

    Sums have two levels, as in the soft E-step.
    """
    scores, labels = posteriors
    with_posteriors, with_sums = scores.shape[0] > 0, sums[0].shape[0] > 0
    n_packed, n_components = coefficients.theta.shape[0], work.log_joint.shape[0]
    for start in range(0, rows.shape[0], BLOCK):
        stop = min(start + BLOCK, rows.shape[0])
        part, n = rows[start:stop], stop - start
        left_out = load(part, coefficients, work)
        if _is_packed(coefficients, work):
            is_found = _can_compare_single(coefficients, work)
            if is_found:
                is_found = _choose_by_single(coefficients, n, work, found, double, single)
            if not is_found:
                _choose_packed(coefficients, n, work, found, double)
            if not coefficients.has_own_basis:
                load_in_data_units(part, coefficients, work)
        else:
            evaluate(part, coefficients, work)
            choose(n, n_packed, order, work, found.labels)
        if coefficients.kind > TIED:
            _measure(part, coefficients, work, found.labels)
        if has_noise(coefficients):
            for r in range(n):
                work.noise[r] = coefficients.log_noise - work.common[r]
            find_noise(coefficients, n, work, found.is_noise)
        if with_posteriors:
            for r in range(n):
                is_valid = work.valid[r] > 0.0
                scores[start + r] = work.largest[r] + work.common[r] if is_valid else -np.inf
                labels[start + r] = order[found.labels[r]] if is_valid else np.argmax(priors)
                if found.is_noise[r]:
                    labels[start + r] = NOISE
        weight, log_likelihood = 0.0, 0.0
        if with_sums:
            weight, log_likelihood = _weigh(weights[start:stop], work, found.is_noise, n)
            moments, scatter = work.recent_moments, work.recent_scatter
            _add_moments(coefficients, n, work, found, moments, scatter)
            if (start // BLOCK + 1) % BLOCKS_IN_SUM == 0 or stop == rows.shape[0]:
                add_recent(work, sums)
        count_in(totals, n, left_out, weight, log_likelihood, n * (n_components - 1))
    totals[N_SCREENED], totals[N_SINGLE] = work.n_screened[0], work.n_single[0]


@kernel
def hard_step(
    rows,
    weights,
    priors,
    order,
    coefficients,
    work,
    found,
    double,
    single,
    sums,
    totals,
    posteriors,
):
    """Run the E-step over a chunk with hard assignment: statistics, labels, or both.

    Parameters
    ----------
    rows, weights, priors, order, coefficients, work
        As for :func:`~streamgmm.core.kernels.mixture.e_step`; no density may come from float32.
    found : struct of Assignment
    double, single : structs of Comparison
        Float64 and float32.
    sums, totals
        As for :func:`~streamgmm.core.kernels.mixture.e_step`, with responsibilities of 0 and 1; the
        log-likelihood is Σ w max_k ln π_k p_k(x).
    posteriors : tuple of arrays
        Scores (n,) float64: max_k ln π_k p_k(x); -inf for rows that overflow. Labels (n,) int64:
        component of that density; of equal ones the first. NOISE if that of the noise is larger.
    """
    begin(work)
    _visit_rows(
        rows,
        weights,
        priors,
        order,
        coefficients,
        work,
        found,
        double,
        single,
        sums,
        totals,
        posteriors,
    )
