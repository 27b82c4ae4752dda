"""A mixture of transformed rows in the units and along the axes of the data."""

import reprlib
from typing import Any, NamedTuple

import numpy as np
from sklearn.pipeline import Pipeline

from streamgmm.core.structures import STRUCTURES, Array
from streamgmm.errors import ParameterError
from streamgmm.executors.blas import single_threaded_blas
from streamgmm.preprocessing.chains import parts_of
from streamgmm.preprocessing.transformer import InvertibleTransformer


class DataUnits(NamedTuple):
    """Means and covariances of components in the units of the data.

    Attributes
    ----------
    means : ndarray of shape (n_components, n_features)
    covariances : ndarray of shape (n_components, n_features, n_features)
        After a projection on fewer columns they are singular.
    """

    means: Array
    covariances: Array


def in_data_units(pipeline: Pipeline) -> DataUnits:
    """Return the means and covariances of the components of a pipeline in units of the data.

    Parameters
    ----------
    pipeline : sklearn.pipeline.Pipeline
        Fitted: scalers and projections of ``streamgmm.preprocessing``, then a mixture.

    Returns
    -------
    units : DataUnits
        ``means`` (n_components, n_features) and ``covariances``
        (n_components, n_features, n_features), whatever the covariance type is. The covariance of a
        component has the rank of the mixture: after a projection on R components at most R.

    Raises
    ------
    ParameterError
        If a step has no inverse, as :class:`streamgmm.preprocessing.Normalizer`, or the last one is
        no mixture.
    NotFittedError
        If the pipeline is not fitted.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.pipeline import make_pipeline
    >>> from streamgmm import GaussianMixture
    >>> from streamgmm.preprocessing import StandardScaler, in_data_units
    >>> X = np.random.default_rng(0).normal(size=(500, 2)) * [1.0, 100.0] + [5.0, 300.0]
    >>> pipeline = make_pipeline(StandardScaler(), GaussianMixture(reg_covar=0)).fit(X)
    >>> means, covariances = in_data_units(pipeline)
    >>> np.allclose(means[0], X.mean(axis=0))
    True
    >>> np.allclose(covariances[0], np.cov(X.T, bias=True))
    True
    """
    if not isinstance(pipeline, Pipeline):
        raise ParameterError(
            f"pipeline is {reprlib.repr(pipeline)}; give a sklearn.pipeline.Pipeline"
        )
    transformers, mixture = parts_of(pipeline)
    for transformer in transformers:
        if not isinstance(transformer, InvertibleTransformer):
            raise ParameterError(
                f"the step {reprlib.repr(transformer)} of the pipeline has no inverse, so the "
                "mixture has no means and covariances in units of the data"
            )
    fitted = mixture.fitted_model_.parameters
    structure = STRUCTURES[fitted.covariance_type]
    k, r = fitted.means.shape
    with single_threaded_blas():
        dense = structure.dense(fitted.stacked(fitted.covariances), range(r))
        covariances = np.broadcast_to(dense, (k, r, r))
        means = fitted.means
        for transformer in reversed(transformers):
            row_map: Any = transformer._row_map
            means = row_map.inverse(means)
            directions = row_map.inverse_directions(np.eye(covariances.shape[-1]))
            covariances = directions.T @ covariances @ directions
        covariances = 0.5 * (covariances + np.swapaxes(covariances, 1, 2))
    return DataUnits(np.array(means), covariances)
