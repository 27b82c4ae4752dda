"""Merge mixtures that were fitted to different rows into one mixture of all rows.

Statistics of disjoint rows add, once equal components are matched. All components of all mixtures,
each weighted by its rows, form a mixture too: the pool. Merging the pairs of least cost joins equal
components, and keeps components that only one of the mixtures has.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from streamgmm.core.e_step import EStep
from streamgmm.core.fitted_model import FittedModel
from streamgmm.core.frame import Frame
from streamgmm.core.mixtures.reduction import reduce_components
from streamgmm.core.mixtures.sampling import draw
from streamgmm.core.objective import Objective
from streamgmm.core.parameters import Parameters
from streamgmm.core.statistics import Statistics
from streamgmm.core.structures import Array
from streamgmm.core.whitening import carried

# Rows drawn from the pool to measure the cost of merging.
_DRAWN_ROWS = 1 << 13
# A mixture that is merged with others, in a message.
_PART = "a mixture"


def merge_mixtures(
    parts: Sequence[FittedModel], n_components: int, objective: Objective
) -> FittedModel:
    """Merge mixtures of the same features and covariance type into one.

    The order of the mixtures changes the result by rounding only.

    Parameters
    ----------
    parts : sequence of FittedModel
        Mixtures with statistics.
    n_components : int
        At least 1, and no more than the mixtures have in all.
    objective : Objective

    Returns
    -------
    FittedModel
        Its statistics are the sums of those of the parts. Its parameters are the M-step's for these
        statistics.
    """
    pool = pooled(parts)
    own = parts[0].parameters
    covariances, factors = own.structure.pooled(pool)
    shared = Parameters.create(own.covariance_type, pool.weights, pool.means, covariances, factors)
    reduced, groups = reduce_components(shared, n_components)
    frame = Frame.of(reduced)
    ends = np.cumsum([part.parameters.n_components for part in parts])
    grouped = (
        _grouped(part, own_groups, frame, n_components)
        for part, own_groups in zip(parts, np.split(groups, ends[:-1]), strict=True)
    )
    statistics = reduce(Statistics.merge, grouped)
    parameters = objective.maximize(statistics, reduced).parameters
    return FittedModel(parameters, statistics)


def merging_loss(parts: Sequence[FittedModel], merged: Parameters) -> float:
    """Return the log-likelihood that merging loses on rows of the pool, in nats per row.

    This estimates the Kullback-Leibler divergence from the pool to the merged mixture. The rows are
    drawn from the pool with a fixed seed.
    """
    pool = pooled(parts)
    rows, _ = draw(pool, _DRAWN_ROWS, np.random.RandomState(0))
    own, other = (
        EStep.prepare(mixture, Frame.of(mixture)).statistics(rows).mean_log_likelihood
        for mixture in (pool, merged)
    )
    return max(own - other, 0.0)


def pooled(parts: Sequence[FittedModel]) -> Parameters:
    """Return all components of some mixtures, each with its own covariance."""
    mixtures = [part.parameters for part in parts]
    counts = np.concatenate([part.require_statistics(_PART).counts for part in parts])
    structure = mixtures[0].structure

    def joined(arrays: Sequence[Array]) -> Array:
        return np.concatenate(
            [
                structure.repeated(stored, mixture.n_components)
                for stored, mixture in zip(arrays, mixtures, strict=True)
            ]
        )

    return Parameters.create(
        structure.pooled_type(mixtures[0].covariance_type),
        counts / counts.sum(),
        np.concatenate([mixture.means for mixture in mixtures]),
        joined([mixture.covariances for mixture in mixtures]),
        joined([mixture.factors for mixture in mixtures]),
    )


def _grouped(
    part: FittedModel, groups: NDArray[np.intp], frame: Frame, n_components: int
) -> Statistics:
    """Return statistics of a part, summed by group of components, in the frame of the groups."""
    statistics = part.require_statistics(_PART)
    own = carried(statistics, part.parameters, frame.gathered(groups))
    moments = np.zeros((n_components, own.moments.shape[1]))
    np.add.at(moments, groups, own.moments)
    return replace(own, frame=frame, moments=moments)
