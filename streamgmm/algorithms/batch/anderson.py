"""Anderson extrapolation of a fixed-point map over sufficient statistics."""

from collections import deque
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from streamgmm.core.statistics import Statistics
from streamgmm.core.structures import Array

# Singular values of residual differences, over the largest, that are taken for noise.
_CUTOFF = 1e-6


def mixing_coefficients(residual: Array, earlier: Sequence[Array]) -> Array:
    """Return the multiples of differences from earlier residuals that leave the least residual."""
    differences = np.stack([residual - other for other in earlier], axis=1)
    return np.asarray(np.linalg.lstsq(differences, residual, rcond=_CUTOFF)[0], np.float64)


class Anderson:
    """The last iterates of a map, and where they point to.

    An affine combination of statistics, of weights that sum to 1, keeps the sums that all of
    them share: count, mean and second moment of the data.

    Parameters
    ----------
    order : int
        Differences that are kept.

    References
    ----------
    Walker & Ni (2011), Anderson acceleration for fixed-point iterations, equation 2.1.
    Henderson & Varadhan (2019), Damped Anderson acceleration with restarts and monotonicity
    control for accelerating EM and EM-like algorithms.
    """

    def __init__(self, order: int) -> None:
        self._iterates: deque[tuple[Statistics, Array]] = deque(maxlen=order + 1)

    def __len__(self) -> int:
        return len(self._iterates)

    def clear(self) -> None:
        """Forget all iterates."""
        self._iterates.clear()

    def extrapolate(self, image: Statistics, residual: Array) -> Statistics:
        """Return where the residual would be least, if it were affine; include the iterate.

        Parameters
        ----------
        image : Statistics
            Of the map at the iterate.
        residual : ndarray of shape (p,)
            Image less iterate, in coordinates in which directions compare.

        Returns
        -------
        Statistics
            The image itself if it is the first.
        """
        earlier = list(self._iterates)
        self._iterates.append((image, residual))
        if not earlier:
            return image
        coefficients = mixing_coefficients(residual, [other for _, other in earlier])
        moments, scatter = image.moments.copy(), image.scatter.copy()
        for coefficient, (other, _) in zip(coefficients, earlier, strict=True):
            moments -= coefficient * (image.moments - other.moments)
            scatter -= coefficient * (image.scatter - other.scatter)
        return replace(image, moments=moments, scatter=scatter)
