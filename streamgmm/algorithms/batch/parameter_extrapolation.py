"""Anderson extrapolation over the parameters of mixtures of low rank.

Moments of different passes cannot be combined, because they depend on the parameters. What is
extrapolated are means, loadings, and the logarithms of noise variances and weights.
"""

import math
from collections import deque

import numpy as np

from streamgmm.algorithms.batch.anderson import mixing_coefficients
from streamgmm.core.objective import Objective
from streamgmm.core.parameters import Parameters
from streamgmm.core.structures import Array

# Factor by which an extrapolation may change a weight or a noise variance beyond EM's own step.
_LARGEST_FACTOR = 10.0


class Extrapolation:
    """Anderson extrapolation of a fixed-point map of the parameters of a mixture of low rank.

    Parameters
    ----------
    order : int
        Earlier iterates that are kept; 0 for none.
    objective : Objective
        No noise variance is extrapolated below its ridge.

    References
    ----------
    Walker & Ni (2011), Anderson acceleration for fixed-point iterations.
    """

    def __init__(self, order: int, objective: Objective) -> None:
        self._objective = objective
        self._order = order
        self._iterates: deque[tuple[Array, Array]] = deque(maxlen=order + 1)
        self._coordinates: Coordinates | None = None

    def clear(self) -> None:
        """Forget all iterates."""
        self._iterates.clear()
        self._coordinates = None

    def extrapolated(self, parameters: Parameters, image: Parameters) -> Parameters | None:
        """Return where EM's steps point to, from parameters and the image of EM; None for EM's own.

        Parameters
        ----------
        parameters, image : Parameters
        """
        if self._order == 0 or not has_all_weights(parameters, image):
            return None
        if self._coordinates is None:
            self._coordinates = Coordinates(parameters)
        coordinates = self._coordinates
        reached = coordinates.of(image)
        residual = reached - coordinates.of(parameters)
        is_first = not self._iterates
        found = self.accelerated(reached, residual)
        ridge = self._objective.reg_covar
        return None if is_first else coordinates.parameters(found, image, ridge)

    def accelerated(self, reached: Array, residual: Array) -> Array:
        """Return where residuals would be least, if they were affine; include this iterate.

        Parameters
        ----------
        reached : ndarray of shape (p,)
            The image of an iterate.
        residual : ndarray of shape (p,)
            The image less the iterate.
        """
        earlier = list(self._iterates)
        self._iterates.append((reached, residual))
        if not earlier:
            return reached
        parts = mixing_coefficients(residual, [other for _, other in earlier])
        found = reached.copy()
        for part, (other, _) in zip(parts, earlier, strict=True):
            found -= part * (reached - other)
        return found


class Coordinates:
    """The parameters of a mixture as one vector, in units in which directions compare.

    Loadings are turned towards those of the reference, because all rotations are the same mixture.

    Parameters
    ----------
    reference : Parameters
    """

    def __init__(self, reference: Parameters) -> None:
        self._loadings = reference.structure.covariances_of(reference.factors)[:, :, :-1]
        self._shape = reference.covariances.shape
        noise = reference.covariances[:, :, -1:]
        roots = np.sqrt(reference.weights)[:, np.newaxis, np.newaxis]
        self._units = roots / np.sqrt(noise)
        self._root = roots
        self._weight_roots = np.sqrt(all_weights(reference))

    def of(self, parameters: Parameters) -> Array:
        """Return the vector of some parameters."""
        loadings = parameters.covariances[:, :, :-1]
        noise = parameters.covariances[:, :, -1:]
        inner = np.swapaxes(loadings / noise, 1, 2) @ self._loadings
        left, _, right = np.linalg.svd(inner)
        parts = (
            parameters.means[:, :, np.newaxis] * self._units,
            (loadings @ (left @ right)) * self._units,
            np.log(noise) * self._root,
        )
        weights = np.log(all_weights(parameters)) * self._weight_roots
        return np.concatenate([np.concatenate(parts, axis=2).ravel(), weights])

    def parameters(
        self, vector: Array, image: Parameters, ridge: float | Array
    ) -> Parameters | None:
        """Return the parameters of a vector; None if they are far from those of EM's own step."""
        k, d, width = self._shape
        n_weights = len(self._weight_roots)
        parts = vector[:-n_weights].reshape(k, d, width + 1)
        noise = np.exp(parts[:, :, -1] / self._root[:, :, 0])
        weights = np.exp(vector[-n_weights:] / self._weight_roots)
        weights /= weights.sum()
        for own, other in ((noise, image.covariances[:, :, -1]), (weights, all_weights(image))):
            if not np.all(np.abs(np.log(own / other)) <= math.log(_LARGEST_FACTOR)):
                return None
        covariances = np.concatenate(
            [parts[:, :, 1:-1] / self._units, np.maximum(noise, ridge)[:, :, np.newaxis]], axis=2
        )
        means = parts[:, :, 0] / self._units[:, :, 0]
        of_noise = image.noise
        if of_noise is not None:
            of_noise = of_noise.of_weight(float(weights[-1]))
        return Parameters.create(
            image.covariance_type, weights[:k], means, covariances, noise=of_noise
        )


def all_weights(parameters: Parameters) -> Array:
    """Return the weights of the components and, last, of the noise if there is any."""
    if parameters.noise is None:
        return parameters.weights
    return np.append(parameters.weights, parameters.noise.weight)


def has_all_weights(*mixtures: Parameters) -> bool:
    """Return whether all components of some mixtures, and the noise, have weight."""
    return all(all_weights(one).min() > 0.0 for one in mixtures)
