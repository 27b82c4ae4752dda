"""Mixtures of some features: marginal over the other features, or conditional on them."""

import math

import numpy as np
import scipy.special
from numpy.typing import NDArray

from streamgmm.core.noise import Noise
from streamgmm.core.parameters import Parameters
from streamgmm.core.structures import Array
from streamgmm.errors import ParameterError


def marginal(parameters: Parameters, features: NDArray[np.intp]) -> Parameters:
    """Return the distribution of some features, in the order given.

    Parameters
    ----------
    parameters : Parameters
    features : ndarray of shape (d,), int

    Returns
    -------
    mixture : Parameters
        The mixture of these d features. Noise is uniform in the sides of its box.

    Raises
    ------
    ParameterError
        If the mixture has noise of which only the density is known.

    References
    ----------
    Bishop, Pattern Recognition and Machine Learning (2006), equation 2.98.
    """
    return _mixture(
        parameters,
        parameters.weights,
        parameters.means[:, features],
        _reordered_factors(parameters, features),
        None if parameters.noise is None else parameters.noise.of_features(features),
    )


def conditional(parameters: Parameters, given: NDArray[np.intp], values: Array) -> Parameters:
    """Return the distribution of the other features, in their order, given known values.

    Parameters
    ----------
    parameters : Parameters
    given : ndarray of shape (g,), int
    values : ndarray of shape (g,)

    Returns
    -------
    mixture : Parameters
        The mixture of D - g features. The weight of a component is its responsibility for the
        values.

    Raises
    ------
    ParameterError
        If the values are so far from all components that their squared distance overflows, or the
        mixture has noise of which only the density is known.

    References
    ----------
    Bishop, Pattern Recognition and Machine Learning (2006), equations 2.81, 2.82.
    """
    g = given.size
    rest = np.setdiff1d(np.arange(parameters.n_features), given)
    factors = _reordered_factors(parameters, np.concatenate([given, rest]))
    deviations = values - parameters.means[:, given]
    means = parameters.means[:, rest]
    own, y, shifts, factors = parameters.structure.conditioned(factors, g, deviations)
    means = means + shifts
    with np.errstate(divide="ignore", over="ignore"):
        log_joint = np.log(parameters.weights) - 0.5 * np.square(y).sum(axis=1)
    log_joint -= parameters.structure.log_determinants(own)
    noise = parameters.noise
    if noise is not None:
        # The noise has its place after the components.
        of_given = noise.of_features(given).log_joint + 0.5 * g * math.log(2.0 * math.pi)
        log_joint = np.append(log_joint, of_given)
    if not math.isfinite(log_joint.max()):
        raise ParameterError(
            "the given values are so far from all components that none explains them; "
            "check their units"
        )
    weights = scipy.special.softmax(log_joint)
    if noise is not None:
        noise = noise.of_features(rest).of_weight(float(weights[-1]))
        weights = weights[:-1]
    return _mixture(parameters, weights, means, factors, noise)


def _reordered_factors(parameters: Parameters, features: NDArray[np.intp]) -> Array:
    """Return the stacked factors of the covariances of some features, in the order given."""
    return parameters.structure.reordered(parameters.stacked(parameters.factors), features)


def _mixture(
    parameters: Parameters, weights: Array, means: Array, stacked: Array, noise: Noise | None
) -> Parameters:
    """Return a mixture from stacked factors, of the same covariance type if that can hold them."""
    structure = parameters.structure
    covariances = structure.stored(structure.covariances_of(stacked))
    factors = structure.stored(stacked)
    kind, covariances, factors = structure.reduced(parameters.covariance_type, covariances, factors)
    return Parameters.create(kind, weights, means, covariances, factors, noise)
