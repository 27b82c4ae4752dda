"""Fitted transformers and a mixture as one pipeline, and the parts of a pipeline."""

import reprlib
from collections.abc import Sequence
from typing import Any

from sklearn.pipeline import Pipeline, make_pipeline

from streamgmm.errors import ParameterError
from streamgmm.estimators.base import MixtureEstimator
from streamgmm.preprocessing.pca import PCA
from streamgmm.preprocessing.scaler import StandardScaler
from streamgmm.preprocessing.transformer import LazyTransformer


def chained(transformers: Sequence[LazyTransformer], mixture: Any) -> Any:
    """Return a pipeline of fitted transformers and a fitted mixture."""
    return make_pipeline(*transformers, mixture)


def parts_of(model: Any) -> tuple[list[LazyTransformer], Any]:
    """Return the transformers and the mixture of a fitted model.

    Parameters
    ----------
    model : sklearn.pipeline.Pipeline or a mixture

    Raises
    ------
    ParameterError
        If it does not end in a mixture.
    """
    *transformers, mixture = (
        [step for _, step in model.steps] if isinstance(model, Pipeline) else [model]
    )
    if not isinstance(mixture, MixtureEstimator):
        raise ParameterError(
            f"the last step of the pipeline is {reprlib.repr(mixture)}, which is no mixture; give "
            "a pipeline that ends in a GaussianMixture or an OnlineGaussianMixture"
        )
    return transformers, mixture


def describe(transformer: LazyTransformer) -> str:
    """Return in words what a fitted transformer does to rows."""
    if isinstance(transformer, StandardScaler):
        return f"{transformer.n_features_in_} columns scaled to mean 0 and variance 1"
    if isinstance(transformer, PCA):
        part = float(transformer.explained_variance_ratio_.sum())
        return (
            f"{transformer.n_components_} principal components of {transformer.n_features_in_} "
            f"columns, {part:.2%} of the variance"
        )
    return f"rows of {type(transformer).__name__}"
