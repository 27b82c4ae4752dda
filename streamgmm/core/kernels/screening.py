"""Densities in float64 where they can matter, found by float32 where they cannot.

Of many well separated components one or two have a share in a row. Log-joint densities in
float32, at twice the speed, come with a bound on their error: a component that lies so far below
another that its responsibility is negligible whatever the errors needs no more digits. The
other components are evaluated in float64, for these rows alone, and sums are the same to the last
bit; or the densities stay in float32, if the caller accepts the error.
"""

import numpy as np

from streamgmm.core.kernels.compilation import piece
from streamgmm.core.kernels.kinds import FULL
from streamgmm.core.kernels.products import (
    FIRST,
    QUADRATIC_FEATURES,
    add_features_product,
    add_few_features_product,
    add_quadratic_product,
    fill,
    whole_panels,
)
from streamgmm.core.kernels.tiles import (
    BLOCK,
    FORMS,
    MOMENT_TILES,
    PANEL,
    STRIP,
    TURNED,
    any_above,
    any_near,
    form_rows,
)

#: A component with a log-joint density so far below another's, in nats, has no share in a row: a
#: trillion of such responsibilities do not change the last digit of sums that have any mass.
NEGLIGIBLE = -100.0
#: A component that can matter to at most this many rows of a block is evaluated, or summed, over
#: these rows alone, if this holds for all components of its tile.
FEW = BLOCK // 8
#: Number of features from which it pays to find the rows to which a component matters.
MANY_FEATURES = 128
#: Most components in a tile.
TOGETHER = max(FORMS, MOMENT_TILES[0][0])
#: Ratio of the unit roundoffs of float32 and float64.
SINGLE_OVER_DOUBLE = 2.0**29
# Up to these, products of two coordinates and a coefficient do not overflow in float32.
LARGEST_COORDINATE, LARGEST_COEFFICIENT = 1e9, 1e20
# Bound on the error of a density in float64, above which float32 gives no information on it.
_LARGEST_BOUND = 1e-5
# Typed like FIRST.
_PANEL = np.int64(PANEL)
# Rows of a panel, of which a component that matters to FEW rows of a block has about as many.
_FEW_OF_PANEL = FEW * PANEL // BLOCK
# Number of following blocks that are not screened, after one where most components matter.
_BLOCKS_WITHOUT = 15


@piece
def all_single(coefficients, work):
    """Return whether densities in float32 are accurate enough for all packed components."""
    enough = True
    for k in range(work.single_bounds.size):
        enough &= SINGLE_OVER_DOUBLE * work.single_bounds[k] <= coefficients.single_tolerance
    return enough


@piece
def fits_single(work):
    """Return whether no value of a block overflows in float32."""
    fits = True
    for e in range(work.extent.size):
        fits &= work.extent[e] <= LARGEST_COORDINATE
    return fits


@piece
def can_screen(coefficients, work):
    """Return whether to begin a block in float32: no value overflows, and it was useful lately."""
    if coefficients.theta_single.shape[0] == 0:
        return False
    if work.unscreened[0] > 0:
        work.unscreened[0] -= 1
        return False
    safe = fits_single(work)
    for k in range(work.single_bounds.size):
        safe &= work.single_bounds[k] <= _LARGEST_BOUND
    pays = coefficients.theta.shape[1] >= MANY_FEATURES
    return safe and (pays or all_single(coefficients, work))


@piece
def is_quadratic(coefficients):
    """Return whether densities in the expanded form are sums by lines, not by features."""
    return coefficients.kind == FULL and coefficients.origin.size >= QUADRATIC_FEATURES


@piece
def add_expanded(coefficients, theta, z, n, component, stop, work, out):
    """Add Θ Φ in float64 to out (K, n), for the components of theta (K, F) from one to a stop."""
    n_map = theta.shape[1]
    if is_quadratic(coefficients):
        add_quadratic_product(theta, z, n, work.nought, component, stop, work.panel, out)
    else:
        features = coefficients.features[:n_map]
        add_features_product(theta, features, z, n, component, stop, n_map, out)


@piece
def narrow(work, n):
    """Write the coordinates of n rows in float32 into work.z_single."""
    for e in range(work.z.shape[0]):
        for r in range(n):
            work.z_single[e, r] = work.z[e, r]


@piece
def screened_log_joint(coefficients, work, n_rows):
    """Add Θ Φ for the packed components to work.log_joint, whose elements are 0."""
    n = whole_panels(n_rows)
    theta, log_joint, sure = coefficients.theta, work.log_joint, work.largest
    n_packed, n_map = theta.shape
    features = coefficients.features[:n_map]
    narrow(work, n)
    add_features_product(
        coefficients.theta_single, features, work.z_single, n, FIRST, n_packed, n_map, log_joint
    )
    if all_single(coefficients, work):
        work.n_single[0] += n_rows * n_packed
        return
    fill(sure, -np.inf)
    for k in range(n_packed):
        bound = SINGLE_OVER_DOUBLE * work.single_bounds[k]
        for r in range(n):
            sure[r] = max(sure[r], log_joint[k, r] - bound)
    # No component has a share in the entries after the last row.
    fill(sure[n_rows:n], np.inf)
    n_dense = 0
    for first in range(0, n_packed, FORMS):
        last = min(first + FORMS, n_packed)
        if _list_candidates(coefficients, first, last, n_rows, work):
            for k in range(first, last):
                rows = work.some_rows[k - first, : work.counts[k - first]]
                _evaluate_some(coefficients, k, rows, n_rows, work)
        else:
            n_dense += last - first
            for k in range(first, last):
                fill(log_joint[k, :n], 0.0)
            add_expanded(coefficients, theta, work.z, n, first, last, work, log_joint)
    if 2 * n_dense > n_packed:
        work.unscreened[0] = _BLOCKS_WITHOUT


@piece
def _list_candidates(coefficients, first, last, n_rows, work):
    """List, in work.some_rows, the rows for which components need more digits.

    Return False if a component needs them for many rows.
    """
    n, n_single, n_screened = whole_panels(n_rows), 0, 0
    for k in range(first, last):
        bound = SINGLE_OVER_DOUBLE * work.single_bounds[k]
        count = 0
        if bound <= coefficients.single_tolerance:
            n_single += n_rows
        else:
            rows = work.some_rows[k - first]
            count = find_near(work.log_joint[k], work.largest, NEGLIGIBLE - bound, n, rows)
            if count > FEW:
                return False
            n_screened += n_rows - count
        work.counts[k - first] = count
    work.n_single[0] += n_single
    work.n_screened[0] += n_screened
    return True


@piece
def can_list(coefficients, work):
    """Return whether lists of rows may take the place of densities of a block."""
    n_packed, n_map = coefficients.theta.shape
    has_lists = 0 < work.lists.shape[0] == n_packed
    if not has_lists or work.unscreened[0] > 0:
        return False
    fits = n_map >= MANY_FEATURES and coefficients.single_tolerance == 0.0 and fits_single(work)
    for k in range(n_packed):
        fits &= work.single_bounds[k] <= _LARGEST_BOUND
        fits &= work.bounds[k] <= coefficients.tolerance
    return fits


@piece
def list_shares(coefficients, work, n_rows):
    """List, in work.lists, the rows of a block in which each component may have a share.

    Densities in float32 decide, panel by panel, so that they stay in the cache. A component that
    matters to more than FEW rows counts FEW + 1. Return False, after as few panels as it takes, if
    many components matter to many rows.
    """
    theta, log_joint, sure = coefficients.theta_single, work.log_joint, work.total
    n_packed, n_map = theta.shape
    features = coefficients.features[:n_map]
    for k in range(n_packed):
        work.listed[k] = 0
    for start in range(0, n_rows, PANEL):
        for e in range(work.z.shape[0]):
            for r in range(PANEL):
                work.z_single[e, r] = work.z[e, start + r]
        for k in range(n_packed):
            fill(log_joint[k, :PANEL], 0.0)
        z = work.z_single
        add_features_product(theta, features, z, _PANEL, FIRST, n_packed, n_map, log_joint)
        fill(sure[:PANEL], -np.inf)
        for k in range(n_packed):
            bound = SINGLE_OVER_DOUBLE * work.single_bounds[k]
            for r in range(PANEL):
                sure[r] = max(sure[r], log_joint[k, r] - bound)
        # No component has a share in the entries after the last row.
        fill(sure[min(n_rows - start, PANEL) : PANEL], np.inf)
        for k in range(n_packed):
            _list_near(k, start, work)
        few = (start // PANEL + 1) * _FEW_OF_PANEL
        if 8 * _count_dense(n_packed, few, work) > 3 * n_packed:
            work.unscreened[0] = _BLOCKS_WITHOUT
            return False
    return True


@piece
def _count_dense(n_packed, few, work):
    """Count components of tiles in which a list has more than a few rows."""
    n_dense = 0
    for first in range(0, n_packed, FORMS):
        last = min(first + FORMS, n_packed)
        n_dense += last - first if _is_dense(first, last, few, work) else 0
    return n_dense


@piece
def _is_dense(first, last, few, work):
    """Return whether a list of one of some components has more than a few rows."""
    is_dense = False
    for k in range(first, last):
        is_dense |= work.listed[k] > few
    return is_dense


@piece
def _list_near(k, start, work):
    """Add the rows of a panel in which component k may have a share to its list.

    Densities are in the first entries of work.log_joint, and lower bounds on the largest in those
    of work.total.
    """
    values, sure, rows = work.log_joint[k], work.total, work.lists[k]
    threshold = NEGLIGIBLE - SINGLE_OVER_DOUBLE * work.single_bounds[k]
    count = work.listed[k]
    for first in range(0, PANEL, STRIP):
        if any_near(values, sure, first, threshold):
            for r in range(first, first + STRIP):
                if values[r] - sure[r] > threshold:
                    if count < FEW:
                        rows[count] = start + r
                    count += 1
    work.listed[k] = min(count, FEW + 1)


@piece
def evaluate_lists(coefficients, work, n_rows):
    """Write log-joint densities in float64 for the listed rows, or for all rows of a component.

    Components of a tile are treated alike.
    """
    n, n_packed = whole_panels(n_rows), coefficients.theta.shape[0]
    for first in range(0, n_packed, FORMS):
        last = min(first + FORMS, n_packed)
        is_dense = _is_dense(first, last, FEW, work)
        for k in range(first, last):
            if is_dense:
                work.listed[k] = FEW + 1
                fill(work.log_joint[k, :n], 0.0)
            else:
                work.n_screened[0] += n_rows - work.listed[k]
                _evaluate_some(coefficients, k, work.lists[k, : work.listed[k]], n_rows, work)
        if is_dense:
            theta = coefficients.theta
            add_expanded(coefficients, theta, work.z, n, first, last, work, work.log_joint)


@piece
def find_rows(values, threshold, n, rows):
    """List the rows of a block whose value lies above a threshold.

    Return their number, or one more than the list has room for.
    """
    count = 0
    for first in range(0, n, STRIP):
        if any_above(values, first, threshold):
            for r in range(first, first + STRIP):
                if values[r] > threshold:
                    if count == rows.size:
                        return count + 1
                    rows[count] = r
                    count += 1
    return count


@piece
def _evaluate_some(coefficients, k, rows, n_rows, work):
    """Evaluate log-joint densities of component k in some rows, in float64."""
    if rows.size == 0:
        return
    tile = form_rows(work.z) if is_quadratic(coefficients) else TURNED
    n = (rows.size + tile - 1) // tile * tile
    gather_rows(coefficients, rows, n_rows, work)
    exact = work.some
    fill(exact[0, :n], 0.0)
    if is_quadratic(coefficients):
        theta = coefficients.theta[k : k + 1]
        add_expanded(coefficients, theta, work.gathered, n, FIRST, FIRST + 1, work, exact)
    else:
        n_map = coefficients.theta.shape[1]
        features, z = coefficients.features[:n_map], work.gathered
        whole = rows.size // form_rows(z) * form_rows(z)
        if whole:
            theta = coefficients.theta[k : k + 1]
            add_features_product(theta, features, z, whole, FIRST, FIRST + 1, n_map, exact)
        add_few_features_product(coefficients.theta, features, z, whole, n, k, exact)
    for i in range(rows.size):
        work.log_joint[k, rows[i]] = exact[0, i]


@piece
def find_near(values, largest, threshold, n, rows):
    """List rows as :func:`find_rows` does, by their values less the largest values."""
    count = 0
    for first in range(0, n, STRIP):
        if any_near(values, largest, first, threshold):
            for r in range(first, first + STRIP):
                if values[r] - largest[r] > threshold:
                    if count == rows.size:
                        return count + 1
                    rows[count] = r
                    count += 1
    return count


@piece
def gather_rows(coefficients, rows, n_rows, work):
    """Copy the coordinates of some rows of a block of n_rows into the lines of work.gathered.

    Neighbours in work.z lie far apart. Unless the products take most of the time, all coordinates
    of the block are therefore first turned, once, into lines that belong to rows. What stands after
    these rows in work.gathered is finite.
    """
    if coefficients.kind == FULL:
        n = (rows.size + STRIP - 1) // STRIP * STRIP
        gather(work.z[1:], rows, n, work.gathered[1:])
        return
    n_lines = work.z.shape[0]
    if work.is_turned[0] == 0:
        work.is_turned[0] = 1
        for first in range(0, n_rows, TURNED):
            for e in range(n_lines):
                for i in range(TURNED):
                    work.turned[first + i, e] = work.z[e, first + i]
    for i in range(rows.size):
        line = work.turned[rows[i]]
        for e in range(n_lines):
            work.gathered[e, i] = line[e]


@piece
def gather(values, rows, n, out):
    """Copy some rows of all lines of values into out, and repeat the first of them up to n."""
    for e in range(values.shape[0]):
        for i in range(rows.size):
            out[e, i] = values[e, rows[i]]
        fill(out[e, rows.size : n], out[e, 0])
