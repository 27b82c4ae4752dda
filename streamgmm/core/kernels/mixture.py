"""The E-step over one chunk: posteriors of each row, or their sums over rows.

The sums are a second matrix product, of responsibilities and features: R Φᵀ. Blocks of rows
begin at multiples of :data:`~streamgmm.core.kernels.tiles.BLOCK`: the same chunk gives the
same bits on any number of threads.
"""

import math

import numpy as np

from streamgmm.core.kernels.compilation import kernel, piece
from streamgmm.core.kernels.elementary import logarithm
from streamgmm.core.kernels.kinds import FULL, TIED
from streamgmm.core.kernels.log_joint import (
    NOISE,
    begin,
    evaluate,
    has_noise,
    is_kept,
    load,
    load_in_data_units,
    load_noise,
    normalise,
    normalise_lists,
    normalise_shares,
    residual_lines,
    residuals,
)
from streamgmm.core.kernels.products import (
    FIRST,
    MANY_SQUARE_FEATURES,
    SQUARE_FEATURES,
    add_moments_product,
    add_squares,
    fill,
    whole_panels,
)
from streamgmm.core.kernels.screening import (
    FEW,
    MANY_FEATURES,
    NEGLIGIBLE,
    can_list,
    evaluate_lists,
    find_rows,
    gather,
    gather_rows,
    is_quadratic,
    list_shares,
)
from streamgmm.core.kernels.tiles import BLOCK, MOMENT_TILES, STRIP
from streamgmm.core.kernels.totals import (
    LOG_LIKELIHOOD,
    N_MISSING,
    N_NOT_FINITE,
    N_OVERFLOWING,
    N_PASSED_OVER,
    N_ROWS,
    N_SCREENED,
    N_SINGLE,
    WEIGHT,
)

#: Number of blocks that are summed apart before their sum is added to the sum of all.
BLOCKS_IN_SUM = 16
_GROUP = MOMENT_TILES[0][0]
# The responsibility at which densities are NEGLIGIBLE, but for a rounding error.
_NO_SHARE = 1.001 * math.exp(NEGLIGIBLE)


@piece
def move(part, total):
    """Add part (K, F + spare) to total (K, F), and set part to 0."""
    for k in range(total.shape[0]):
        for f in range(total.shape[1]):
            total[k, f] += part[k, f]
        fill(part[k], 0.0)


@piece
def add_recent(work, sums):
    """Add the sums of recent blocks to sums: moments (K, F) and scatter (1, S)."""
    move(work.recent_moments, sums[0])
    move(work.recent_scatter, sums[1])


@piece
def weigh(weights, work, n):
    """Replace densities over the largest, in work.log_joint, by responsibilities times weight.

    Return the sum of weights and of weighted log-densities.
    """
    weight, log_likelihood = _weigh_rows(weights, work, n)
    for k in range(work.log_joint.shape[0]):
        _weigh_line(work.log_joint[k], work, n)
    return weight, log_likelihood


@piece
def _weigh_lists(weights, work, n):
    """Do the work of :func:`weigh`, where work.lists has the rows of components."""
    weight, log_likelihood = _weigh_rows(weights, work, n)
    for k in range(work.log_joint.shape[0]):
        line = work.log_joint[k]
        if work.listed[k] > FEW:
            _weigh_line(line, work, n)
        else:
            for i in range(work.listed[k]):
                row = work.lists[k, i]
                line[row] = line[row] * work.total[row] if line[row] > _NO_SHARE else 0.0
    return weight, log_likelihood


@piece
def _weigh_line(line, work, n):
    """Replace densities of a component over the largest by responsibilities times weight."""
    for r in range(n):
        value = line[r]
        line[r] = value * work.total[r] if value > _NO_SHARE else 0.0
    fill(line[n : whole_panels(n)], 0.0)


@piece
def _weigh_rows(weights, work, n):
    """Write weights over totals into work.total; return what :func:`weigh` does."""
    # Not in the loop below: the address of an empty array must not decide whether LLVM's code for
    # that loop is vectorised, and so in which order it sums.
    if weights.size:
        for r in range(n):
            work.valid[r] *= weights[r]
    weight, log_likelihood = 0.0, 0.0
    for r in range(n):
        w = work.valid[r]
        weight += w
        log_likelihood += w * (work.largest[r] + logarithm(work.total[r]) + work.common[r])
        work.total[r] = w / work.total[r]
    return weight, log_likelihood


@piece
def gather_weights(responsibilities, share_rows, work):
    """Gather responsibilities of some rows into work.some; return their number, padded with 0."""
    count = share_rows.size
    n = (count + STRIP - 1) // STRIP * STRIP
    for i in range(count):
        work.some[0, i] = responsibilities[share_rows[i]]
    fill(work.some[0, count:n], 0.0)
    return n


@piece
def gather_weighted(values, responsibilities, share_rows, work):
    """Gather some rows of values (n, STRIDE) and of a component's responsibilities.

    Values go into the lines of work.gathered after the first one, responsibilities into work.some.
    Return the number of rows, padded with repetitions that have no weight.
    """
    n = gather_weights(responsibilities, share_rows, work)
    gather(values, share_rows, n, work.gathered[1:])
    return n


@piece
def _add_weighted(coefficients, z, n, work, moments, k):
    """Add rows of z (E, STRIDE), whose weights are in work.some, to the moments of component k."""
    if coefficients.kind == FULL and coefficients.origin.size >= SQUARE_FEATURES:
        add_squares(work.some[0], z, n, work.scaled, work.tile, moments[k])
    else:
        table = coefficients.features
        add_moments_product(work.some, table, z, n, FIRST, FIRST + 1, moments, k)


@piece
def _add_packed_moments(coefficients, z, n_rows, work, moments):
    """Add a block of rows to the moments of packed components, (K, F + spare).

    Return how many pairs of row and component were skipped, the component having no
    share in the row.
    """
    n_packed, passed_over = coefficients.theta.shape[0], 0
    for first in range(0, n_packed, _GROUP):
        last = min(first + _GROUP, n_packed)
        passed_over += _add_group(coefficients, first, last, z, n_rows, work, moments)
    return passed_over


@piece
def _add_group(coefficients, first, last, z, n_rows, work, moments):
    """Add a block of rows to the moments of the components of a tile; return as above."""
    n_features = coefficients.theta.shape[1]
    features, responsibilities = coefficients.features, work.log_joint
    is_wide = coefficients.kind == FULL and coefficients.origin.size >= MANY_SQUARE_FEATURES
    n, passed_over = whole_panels(n_rows), 0
    most = 0 if n_features >= MANY_FEATURES else BLOCK
    for k in range(first, last):
        if most <= FEW:
            count = find_rows(responsibilities[k], 0.0, n, work.some_rows[k - first])
            work.counts[k - first] = count
            most = max(most, count)
    if most > FEW and is_wide:
        for k in range(first, last):
            add_squares(responsibilities[k], z, n, work.scaled, work.tile, moments[k])
    elif most > FEW:
        add_moments_product(responsibilities, features, z, n, first, last, moments, first)
    else:
        for k in range(first, last):
            count = work.counts[k - first]
            passed_over += n_rows - count
            if count:
                rows = work.some_rows[k - first, :count]
                _add_few(coefficients, k, rows, z, n_rows, work, moments)
    return passed_over


@piece
def _add_few(coefficients, k, share_rows, z, n_rows, work, moments):
    """Add some rows of a block to the moments of packed component k."""
    responsibilities = work.log_joint[k]
    if coefficients.has_own_basis:
        few = gather_weights(responsibilities, share_rows, work)
        gather_rows(coefficients, share_rows, n_rows, work)
    else:
        few = gather_weighted(z[1:], responsibilities, share_rows, work)
    if is_quadratic(coefficients):
        add_squares(work.some[0], work.gathered, few, work.scaled, work.tile, moments[k])
    else:
        table = coefficients.features
        add_moments_product(work.some, table, work.gathered, few, FIRST, FIRST + 1, moments, k)


@piece
def _add_listed_moments(coefficients, z, n_rows, work, moments):
    """Do the work of :func:`_add_packed_moments`, where work.lists has the rows of components."""
    n_packed, passed_over = coefficients.theta.shape[0], 0
    for first in range(0, n_packed, _GROUP):
        last = min(first + _GROUP, n_packed)
        all_listed = True
        for k in range(first, last):
            all_listed &= work.listed[k] <= FEW
        if not all_listed:
            for k in range(first, last):
                if work.listed[k] <= FEW:
                    _expand(k, whole_panels(n_rows), work)
            passed_over += _add_group(coefficients, first, last, z, n_rows, work, moments)
            continue
        for k in range(first, last):
            count = 0
            for i in range(work.listed[k]):
                row = work.lists[k, i]
                if work.log_joint[k, row] > 0.0:
                    work.some_rows[0, count] = row
                    count += 1
            passed_over += n_rows - count
            if count:
                rows = work.some_rows[0, :count]
                _add_few(coefficients, k, rows, z, n_rows, work, moments)
    return passed_over


@piece
def _expand(k, n, work):
    """Write 0 into the entries of a line of work.log_joint whose rows are not listed."""
    line, rows, kept = work.log_joint[k], work.lists[k], work.some[0]
    for i in range(work.listed[k]):
        kept[i] = line[rows[i]]
    fill(line[:n], 0.0)
    for i in range(work.listed[k]):
        line[rows[i]] = kept[i]


@piece
def add_centred_moments(coefficients, c, n_rows, work, moments, scatter):
    """Add a block of rows to the moments of centred component c, as far as it has a share.

    Return how many rows were skipped.
    """
    n, k = whole_panels(n_rows), coefficients.theta.shape[0] + c
    responsibilities = work.log_joint[k]
    count = find_rows(responsibilities, 0.0, n, work.some_rows[0])
    if count == 0:
        return n_rows
    z = residual_lines(c, work)
    if count <= FEW:
        share_rows, x = work.some_rows[0, :count], work.gathered[1 : 1 + work.x.shape[0]]
        if is_kept(c, work):
            few = gather_weighted(z[1:], responsibilities, share_rows, work)
            z = work.gathered
        else:
            few = gather_weighted(work.x, responsibilities, share_rows, work)
    else:
        count, few, x = n_rows, n, work.x
        for r in range(n):
            work.some[0, r] = responsibilities[r]
    if not is_kept(c, work):
        residuals(coefficients, x, coefficients.origins[c], coefficients.bases, c, few, work, z)
    _add_weighted(coefficients, z, few, work, moments, k)
    if coefficients.kind == TIED:
        add_scatter(coefficients, z, few, work, scatter)
    return n_rows - count


@piece
def add_scatter(coefficients, z, n, work, scatter):
    """Add the upper triangle of Σ w z zᵀ to scatter (1, S + spare); w is in work.some."""
    if coefficients.origin.size >= SQUARE_FEATURES:
        add_squares(work.some[0], z[1:], n, work.scaled, work.tile, scatter[0])
    else:
        table = coefficients.scatter_features
        add_moments_product(work.some, table, z, n, FIRST, FIRST + 1, scatter, FIRST)


@piece
def add_moments(coefficients, n_rows, work, moments, scatter, is_listed):
    """Add a block of rows to moments (K, F + spare) and, for TIED, scatter (1, S + spare).

    Work.lists may have the rows of components. Return how many pairs of row and component were
    skipped.
    """
    n, n_packed = whole_panels(n_rows), coefficients.theta.shape[0]
    passed_over = 0
    if n_packed:
        z = work.z
        if not coefficients.has_own_basis:
            origin, bases = coefficients.origin, coefficients.bases
            z = work.residual
            residuals(coefficients, work.x, origin, bases, FIRST, n_rows, work, z)
        if is_listed:
            passed_over += _add_listed_moments(coefficients, z, n_rows, work, moments)
        else:
            passed_over += _add_packed_moments(coefficients, z, n_rows, work, moments)
        if coefficients.kind == TIED:
            weights = work.some[0]
            fill(weights, 0.0)
            for k in range(n_packed):
                if is_listed and work.listed[k] <= FEW:
                    for i in range(work.listed[k]):
                        row = work.lists[k, i]
                        weights[row] += work.log_joint[k, row]
                else:
                    for r in range(n):
                        weights[r] += work.log_joint[k, r]
            add_scatter(coefficients, z, n, work, scatter)
    for c in range(work.log_joint.shape[0] - n_packed):
        passed_over += add_centred_moments(coefficients, c, n_rows, work, moments, scatter)
    return passed_over


@piece
def count_in(totals, n, left_out, weight, log_likelihood, passed_over):
    """Add the counts and sums of n rows, some of them skipped, to totals."""
    n_overflowing, n_not_finite, n_missing = left_out
    totals[LOG_LIKELIHOOD] += log_likelihood
    totals[WEIGHT] += weight
    totals[N_ROWS] += n - n_overflowing - n_not_finite
    totals[N_OVERFLOWING] += n_overflowing
    totals[N_NOT_FINITE] += n_not_finite
    totals[N_PASSED_OVER] += passed_over
    totals[N_MISSING] += n_missing


@piece
def label_block(start, n, order, coefficients, work, labels):
    """Label n rows, that begin at start, by their largest density in work.log_joint or as noise."""
    best = work.best
    fill(best, -np.inf)
    if has_noise(coefficients):
        for r in range(n):
            best[r] = work.noise[r]
            labels[start + r] = NOISE
    for k in range(work.log_joint.shape[0]):
        for r in range(n):
            if work.log_joint[k, r] > best[r]:
                best[r] = work.log_joint[k, r]
                labels[start + r] = order[k]


@piece
def describe_block(start, n, priors, order, coefficients, work, scores, labels, responsibilities):
    """Fill scores and, if there is room for them, responsibilities of n rows that begin at start.

    Work.log_joint holds densities over the largest, work.total becomes the inverse of their sum.
    Rows that are skipped are labelled anew; a mixture with noise calls them noise.
    """
    with_noise = has_noise(coefficients)
    for r in range(n):
        scores[start + r] = work.largest[r] + logarithm(work.total[r]) + work.common[r]
        work.total[r] = 1.0 / work.total[r]
    if responsibilities.shape[0]:
        for k in range(work.log_joint.shape[0]):
            for r in range(n):
                responsibilities[start + r, order[k]] = work.log_joint[k, r] * work.total[r]
    for r in range(n):
        if work.valid[r] == 0.0:
            scores[start + r] = -np.inf
            labels[start + r] = NOISE if with_noise else np.argmax(priors)
            if responsibilities.shape[0]:
                for k in range(priors.size):
                    responsibilities[start + r, k] = 0.0 if with_noise else priors[k]


@piece
def _visit_rows(rows, weights, priors, order, coefficients, work, sums, totals, posteriors):
    """Fill the arrays that :func:`e_step` is given, block by block.

    There are sums of many blocks, and of the few blocks since they were last added to: in two
    levels rounding errors stay small however long the chunk is.
    """
    scores, labels, responsibilities = posteriors
    with_posteriors = scores.shape[0] > 0
    for start in range(0, rows.shape[0], BLOCK):
        stop = min(start + BLOCK, rows.shape[0])
        n, part = stop - start, rows[start:stop]
        left_out = load(part, coefficients, work)
        weight, log_likelihood, passed_over = 0.0, 0.0, 0
        if with_posteriors:
            evaluate(part, coefficients, work)
            label_block(start, n, order, coefficients, work, labels)
            normalise(coefficients, work, n)
            describe_block(
                start, n, priors, order, coefficients, work, scores, labels, responsibilities
            )
        else:
            is_listed = can_list(coefficients, work) and list_shares(coefficients, work, n)
            if is_listed:
                evaluate_lists(coefficients, work, n)
                if not coefficients.has_own_basis:
                    load_in_data_units(part, coefficients, work)
                load_noise(coefficients, n, work)
                normalise_lists(coefficients, work, n)
                weight, log_likelihood = _weigh_lists(weights[start:stop], work, n)
            else:
                evaluate(part, coefficients, work)
                if coefficients.theta.shape[1] >= MANY_FEATURES:
                    normalise_shares(coefficients, work, n)
                else:
                    normalise(coefficients, work, n)
                weight, log_likelihood = weigh(weights[start:stop], work, n)
            moments, scatter = work.recent_moments, work.recent_scatter
            passed_over = add_moments(coefficients, n, work, moments, scatter, is_listed)
        if (start // BLOCK + 1) % BLOCKS_IN_SUM == 0 or stop == rows.shape[0]:
            add_recent(work, sums)
        count_in(totals, n, left_out, weight, log_likelihood, passed_over)
    totals[N_SCREENED], totals[N_SINGLE] = work.n_screened[0], work.n_single[0]


@kernel
def e_step(rows, weights, priors, order, coefficients, work, sums, totals, posteriors):
    """Run the E-step over a chunk: sufficient statistics, or posteriors of the rows.

    One entry point, because its parts are compiled again for each. Posteriors are wanted if there
    is room for them; sums have no components then.

    Parameters
    ----------
    rows : (n, D) float64 or float32
    weights : (n,) float64, or (0,) for weights of 1
    priors : (K',) float64
        Responsibilities given to rows that are skipped.
    order : (K,) int64
        Index of each component of the coefficients among the K' components of the model.
    coefficients : struct of Coefficients
    work : struct of Workspace
    sums : tuple of arrays, 0 before
        Moments (K, F) float64, Σ γ φ by component: of z (expanded form), or of u (centred form).
        Scatter (1, D (D + 1) / 2) float64, or (1, 0): TIED, Σ over rows and components of γ u uᵀ,
        its upper triangle by rows.
    totals : (N_TOTALS,) float64, 0 before
        Is given the log-likelihood Σ w log p(x), Σ w, rows counted in, rows overflowing, rows not
        finite. Then pairs of row and component: skipped in the sums, the component having no share
        in the row; ruled out by float32; of density from float32. Then rows with NaN but no
        infinity.
    posteriors : tuple of arrays
        Scores (n,) float64: log p(x); -inf for rows that overflow. Labels (n,) int64: component
        with the largest responsibility; NOISE if that of the noise is larger. Responsibilities
        (n, K') float64, 0 before: they sum to 1, less the responsibility of the noise.
    """
    begin(work)
    _visit_rows(rows, weights, priors, order, coefficients, work, sums, totals, posteriors)
