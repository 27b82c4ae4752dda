"""Steps with all rows from iterations with a sample, for mixtures of low rank.

Where components overlap, EM is slow: a step leaves most of what is still to be gained. A sample has
nearly the same map, and only its fixed point is another. The sample's map, moved so that it agrees
with that of all rows where a pass has evaluated both, is iterated in memory instead.

References
----------
Brandt (1977), Multi-level adaptive solutions to boundary-value problems.
"""

from dataclasses import dataclass

import numpy as np

from streamgmm.algorithms.batch.parameter_extrapolation import (
    Coordinates,
    Extrapolation,
    has_all_weights,
)
from streamgmm.algorithms.reads.reader import Reader
from streamgmm.core.objective import Objective
from streamgmm.core.parameters import Parameters

# Iterations end when a residual is this part of the first one.
_SETTLED = 0.005
# Growth of residuals, over the least, after which iterations begin again from the best point.
_LARGEST_GROWTH = 2.0


@dataclass(frozen=True, eq=False)
class SampleCorrection:
    """The map of EM with a sample, moved to agree with that of all rows at one point.

    Attributes
    ----------
    reader : Reader
        Reader of the sample in memory.
    objective : Objective
    order : int
        Earlier iterates that are extrapolated from.
    most_iterations : int
        Bound on the passes over the sample.
    """

    reader: Reader
    objective: Objective
    order: int
    most_iterations: int

    def __call__(self, parameters: Parameters, image: Parameters) -> Parameters | None:
        """Return the fixed point of the moved map, or None if it is not found.

        Parameters
        ----------
        parameters : Parameters
        image : Parameters
            The parameters after EM's step with all rows.
        """
        if not has_all_weights(parameters, image):
            return None
        own = self._image(parameters)
        if not has_all_weights(own):
            return None
        coordinates, ridge = Coordinates(parameters), self.objective.reg_covar
        reached = coordinates.of(image)
        shift = reached - coordinates.of(own)
        first = least = float(np.linalg.norm(reached - coordinates.of(parameters)))
        best = point = coordinates.parameters(reached, image, ridge)
        extrapolation = Extrapolation(self.order, self.objective)
        n_iterations = 0
        while point is not None and n_iterations < self.most_iterations:
            n_iterations += 1
            own = self._image(point)
            if not has_all_weights(own):
                break
            reached = coordinates.of(own) + shift
            residual = reached - coordinates.of(point)
            size = float(np.linalg.norm(residual))
            if size < least:
                best, least = point, size
            if size <= _SETTLED * first:
                break
            if size > _LARGEST_GROWTH * least:
                extrapolation.clear()
            following = extrapolation.accelerated(reached, residual)
            point = coordinates.parameters(following, own, ridge)
        return best

    def _image(self, parameters: Parameters) -> Parameters:
        """Return the parameters after EM's step with the sample."""
        # Iterations are of EM's own step. The complete one depends on the directions of a frame
        # too, so two points would have different maps.
        found = self.reader.statistics("correction", parameters)
        return self.objective.maximize(found, parameters).parameters
