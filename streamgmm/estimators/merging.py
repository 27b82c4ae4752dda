"""Checks of models to merge, and their mixtures."""

from collections.abc import Sequence
from typing import Any

from streamgmm.core.fitted_model import FittedModel
from streamgmm.errors import ParameterError
from streamgmm.estimators.base import MixtureEstimator
from streamgmm.estimators.validation import check_is_fitted


def fitted_part(model: Any, name: str) -> FittedModel:
    """Return the fitted mixture of a model, which must have statistics.

    Parameters
    ----------
    model : GaussianMixture or OnlineGaussianMixture
    name : str
        What a message calls it.

    Raises
    ------
    NotFittedError
        If it is not fitted.
    ParameterError
        If it is something else, has no statistics, or has noise.
    """
    if not isinstance(model, MixtureEstimator):
        raise ParameterError(
            f"{name} is a {type(model).__name__}; give a GaussianMixture or OnlineGaussianMixture"
        )
    check_is_fitted(model)
    fitted = model.fitted_model_
    fitted.require_statistics(name)
    if fitted.parameters.noise is not None:
        raise ParameterError(
            f"{name} has noise; a stream and a merged mixture cannot have noise: fit without it"
        )
    return fitted


def fitted_parts(models: Sequence[Any]) -> list[FittedModel]:
    """Return the mixtures of some models, of the same covariance type and columns.

    Raises
    ------
    NotFittedError
        If a model is not fitted.
    ParameterError
        If there is none, one has no statistics, or they do not go together.
    """
    if not models:
        raise ParameterError("there is no model to merge; give one or more")
    parts = [fitted_part(model, f"model {i}") for i, model in enumerate(models)]
    for i, model in enumerate(models[1:], 1):
        if _kind(model) != _kind(models[0]):
            raise ParameterError(
                f"model {i} is of {_kind(model)}, model 0 of {_kind(models[0])}; models that were "
                "fitted to the same columns, with the same covariance_type and rank, can be merged"
            )
    return parts


def _kind(model: MixtureEstimator) -> str:
    """Return the covariance type and columns, in words."""
    names = getattr(model, "feature_names_in_", None)
    columns = "" if names is None else f": {', '.join(names)}"
    kind = model.fitted_model_.parameters.covariance_type
    return f"{kind} covariances and {model.n_features_in_} features{columns}"


def refuse_size(parts: Sequence[FittedModel], n_components: int, is_chosen: bool) -> None:
    """Raise an error if merged mixtures cannot have ``n_components`` components.

    Raises
    ------
    ParameterError
        If the mixtures have fewer components together, or their numbers differ and the caller has
        chosen none.
    """
    sizes = [part.parameters.n_components for part in parts]
    if not is_chosen and len(set(sizes)) > 1:
        raise ParameterError(
            f"the models have {', '.join(map(str, sizes))} components; say how many they are to "
            f"have together: n_components=, at most {sum(sizes)}"
        )
    if n_components > sum(sizes):
        raise ParameterError(
            f"n_components is {n_components}, but the models have {sum(sizes)} in all; choose no "
            "more than these"
        )
