"""A mixture of low rank, prepared for the kernels that evaluate it."""

import math

import numpy as np
from numpy.typing import NDArray

from streamgmm.core.accuracy import DENSITY_TOLERANCE, LARGEST_VALUE, SINGLE_TOLERANCE
from streamgmm.core.frame import Frame
from streamgmm.core.kernels.log_joint import UNIT_ROUNDOFF
from streamgmm.core.kernels.low_rank import LowRankCoefficients, rows_in_block
from streamgmm.core.kernels.panels import WHOLE_FEATURES, in_tiles
from streamgmm.core.kernels.screening import (
    LARGEST_COEFFICIENT,
    LARGEST_COORDINATE,
    SINGLE_OVER_DOUBLE,
)
from streamgmm.core.parameters import Parameters
from streamgmm.core.structures import Array
from streamgmm.core.structures.low_rank import LowRank
from streamgmm.core.structures.low_rank_factors import projections_of
from streamgmm.core.structures.low_rank_update import bases_of, parted

# Low rank with rows of float32: roundings of a density as parts of Σ u²/ψ, the largest such sum for
# which they stay within the tolerance, ...
_SINGLE_ROUNDINGS = 2.0
_SINGLE_SPREAD = SINGLE_TOLERANCE / (_SINGLE_ROUNDINGS * SINGLE_OVER_DOUBLE * UNIT_ROUNDOFF)
# ... errors of a mean, as a part of the deviation, and of a noise variance, relative to itself:
# from sums, and from responsibilities of one row. The latter are independent for all rows.
_SINGLE_MEAN_TOLERANCE, _SINGLE_NOISE_TOLERANCE, _SINGLE_SHARE_TOLERANCE = 1e-5, 3e-5, 7e-4


def low_rank_coefficients(
    parameters: Parameters, frame: Frame, order: NDArray[np.intp], log_offsets: Array
) -> LowRankCoefficients:
    """Return the coefficients of some components of low rank."""
    structure = parameters.structure
    assert isinstance(structure, LowRank)
    d, rank = parameters.n_features, structure.rank
    # All components have an origin and a basis of their own.
    positions = np.searchsorted(frame.centred, order)
    own, means = parameters.factors[order], parameters.means[order]
    origins = frame.means[positions]
    bases = np.swapaxes(bases_of(frame.factors[positions], rank), 1, 2)
    is_own = np.array_equal(own, parted(frame.factors[positions], rank)[1])
    has_own_basis = is_own and np.array_equal(means, origins)
    constants = log_offsets[order] - structure.log_determinants(own)
    precisions = 1.0 / np.square(own[:, :, -1])
    steepest = math.sqrt(max(1.0, float(precisions.max(initial=1.0))))
    # E[z] = y / √(1 + s²) under loadings that are orthogonal in units of the noise.
    shrinkages = 1.0 / (1.0 + np.square(own[:, :, :-1]).sum(axis=1))
    is_doubtful = UNIT_ROUNDOFF * (4.0 + math.sqrt(d)) * _typical_spreads(own) > DENSITY_TOLERANCE
    chosen = own[is_doubtful]
    loadings = structure.covariances_of(chosen)[:, :, :-1] * shrinkages[is_doubtful, np.newaxis]
    return LowRankCoefficients(
        centre=np.zeros(d),
        means=_whole(means),
        precisions=_whole(precisions),
        projections=in_tiles(np.swapaxes(projections_of(own), 1, 2)),
        constants=constants - 0.5 * d * math.log(2.0 * math.pi),
        positions=np.where(is_doubtful, np.cumsum(is_doubtful) - 1, -1),
        shrinkages=shrinkages,
        loadings=in_tiles(-loadings),
        origins=_whole(origins),
        leading=in_tiles(bases[:, : 0 if has_own_basis else rank]),
        spare=in_tiles(bases[:, rank:]),
        rank=rank,
        width=bases.shape[1],
        limit=min(1e140 / (d * steepest), LARGEST_VALUE),
        most_spread=math.inf,
        log_noise=-math.inf if parameters.noise is None else parameters.noise.log_joint,
    )


def _typical_spreads(factors: Array) -> Array:
    """Return Σ u²/ψ of a typical row of each component, for stored factors (K, D, R + 1)."""
    gains = np.square(factors[:, :, :-1]).sum(axis=1)
    found: Array = factors.shape[1] + (np.square(1.0 + gains) - 1.0).sum(axis=1)
    return found


def _whole(values: Array) -> Array:
    """Return values (K, D) with columns of 0 that make up whole strips."""
    return np.pad(values, [(0, 0), (0, -values.shape[1] % WHOLE_FEATURES)])


def bears_single_products(
    parameters: Parameters, frame: Frame, coefficients: LowRankCoefficients
) -> bool:
    """Return whether products in float32 are accurate enough for most rows of a mixture.

    Rounding errors of the terms of a density are independent, and add in squares. Those of a sum
    of positive terms are at most a few roundings of the sum.
    """
    roundoff = SINGLE_OVER_DOUBLE * UNIT_ROUNDOFF
    noise = np.square(parameters.factors[:, :, -1])
    parts = parameters.structure.variances(parameters.covariances) / noise
    # Rows, and means, are rounded about the common origin.
    distances = np.square(parameters.means - frame.origin) / noise
    moved = roundoff * np.sqrt(distances)
    densities = np.sqrt((np.square(moved) * parts).sum(axis=1))
    spreads = _typical_spreads(parameters.factors)
    sums = roundoff * math.sqrt(rows_in_block(parameters.n_features, 4)) * parts
    # Errors of responsibilities, of rows that two components share, are larger in the noise.
    shares = roundoff * spreads[:, np.newaxis] * parts
    return bool(
        np.all(_SINGLE_ROUNDINGS * densities <= SINGLE_TOLERANCE)
        and np.all(2.0 * spreads <= _SINGLE_SPREAD)
        and np.all(moved <= _SINGLE_MEAN_TOLERANCE)
        and np.all(sums <= _SINGLE_NOISE_TOLERANCE)
        and np.all(shares <= _SINGLE_SHARE_TOLERANCE)
        and np.all(coefficients.precisions <= LARGEST_COEFFICIENT)
        and np.all(np.abs(parameters.means) <= LARGEST_COORDINATE)
    )


def single_low_rank(coefficients: LowRankCoefficients, centre: Array) -> LowRankCoefficients:
    """Return coefficients in float32, in coordinates about a centre."""
    about, steepest = _whole(centre[np.newaxis]), float(coefficients.precisions.max(initial=1.0))
    names = ("precisions", "projections", "loadings", "leading", "spare")
    arrays = {name: getattr(coefficients, name).astype(np.float32) for name in names}
    return coefficients._replace(
        centre=centre,
        means=(coefficients.means - about).astype(np.float32),
        origins=(coefficients.origins - about).astype(np.float32),
        limit=min(1e18 / math.sqrt(steepest * len(centre)), LARGEST_COORDINATE),
        most_spread=_SINGLE_SPREAD,
        **arrays,
    )
