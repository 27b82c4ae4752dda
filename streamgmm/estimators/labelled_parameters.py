"""Parameters of a mixture as labelled arrays."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import xarray

from streamgmm.core.data_description import DataDescription, Level
from streamgmm.core.fitted_model import FittedModel
from streamgmm.core.parameters import Parameters
from streamgmm.core.structures.low_rank import LOW_RANK_TYPE, public_type
from streamgmm.core.structures.low_rank_factors import loadings_of, noise_variances_of

# Different sizes, by which the dimensions of covariances are recognised.
_COMPONENTS, _FEATURES = 3, 5


@dataclass(frozen=True)
class _Axes:
    """The dimensions that stand for the features.

    Attributes
    ----------
    sizes : dict of str to int
    coords : dict of str to tuple
        As xarray takes them: dimension, values, attributes.
    """

    sizes: dict[str, int]
    coords: dict[str, Any]

    def repeated(self) -> "_Axes":
        """Return the same dimensions under other names, for the columns of matrices."""
        coords = {
            f"{name}_2": (f"{dim}_2", values, attributes)
            for name, (dim, values, attributes) in self.coords.items()
        }
        return _Axes({f"{name}_2": size for name, size in self.sizes.items()}, coords)


def parameters_dataset(fitted: FittedModel) -> xarray.Dataset:
    """Return weights, means and covariances with labels and units.

    Covariances of low rank are given as loadings and noise variances.

    Parameters
    ----------
    fitted : FittedModel

    Returns
    -------
    parameters : xarray.Dataset
    """
    parameters = fitted.parameters
    k = parameters.n_components
    axes = _axes_of(fitted)
    means = parameters.means.reshape(k, *axes.sizes.values())
    kind = public_type(parameters.covariance_type)
    covariances = _loadings if kind == LOW_RANK_TYPE else _matrices
    variables, coords = covariances(parameters, axes)
    return xarray.Dataset(
        {
            "weights": ("component", parameters.weights, {"units": "1"}),
            "means": (("component", *axes.sizes), means, _units_of_all(fitted.data)),
            **variables,
        },
        {
            "component": np.arange(k),
            "label": ("component", [f"component_{i}" for i in range(k)]),
            **axes.coords,
            **coords,
        },
        {"covariance_type": kind},
    )


def _matrices(parameters: Parameters, axes: _Axes) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the covariances as a variable, and coordinates of its further dimensions."""
    dims, coords, shape = list[str](), dict[str, Any](), list[int]()
    for size in parameters.structure.shape(_COMPONENTS, _FEATURES):
        if size == _COMPONENTS:
            dims.append("component")
            shape.append(parameters.n_components)
            continue
        own = axes.repeated() if set(axes.sizes) <= {*dims} else axes
        dims += own.sizes
        shape += own.sizes.values()
        coords |= own.coords
    return {"covariances": (tuple(dims), np.reshape(parameters.covariances, shape))}, coords


def _loadings(parameters: Parameters, axes: _Axes) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the loadings and noise variances as variables, and coordinates of the factors."""
    dims = ("component", *axes.sizes)
    shape = parameters.n_components, *axes.sizes.values()
    loadings = loadings_of(parameters.covariances)
    rank = loadings.shape[2]
    variables = {
        "loadings": ((*dims, "factor"), loadings.reshape(*shape, rank)),
        "noise_variances": (dims, noise_variances_of(parameters.covariances).reshape(shape)),
    }
    return variables, {"factor": np.arange(rank)}


def _axes_of(fitted: FittedModel) -> _Axes:
    """Return the dimensions of the features: variables, labels along them, or both."""
    names = None if fitted.feature_names is None else [*map(str, fitted.feature_names)]
    d, data = fitted.parameters.n_features, fitted.data or DataDescription()
    dims, variables = data.feature_dims, data.variables
    along = {dim: _labels(dim, labels, data) for dim, labels in data.labels.items()}
    if dims and variables is None:
        return _Axes(_sizes(dims, d, data), along)
    if names is None or variables is None:
        return _Axes({"feature": d}, {"feature": ("feature", names or np.arange(d), {})})
    owners = [_variable_of(name, variables) for name in names]
    if not dims:
        coords = {"variable": ("variable", names, {}), "units": _units(names, "variable", data)}
        return _Axes({"variable": d}, coords)
    n_levels = d // len(variables)
    sizes = _sizes(dims, n_levels, data)
    is_product = prod(sizes.values()) == n_levels
    if is_product and owners == [name for name in variables for _ in range(n_levels)]:
        units = _units(variables, "variable", data)
        coords = {"variable": ("variable", list(variables), {}), "units": units}
        return _Axes({"variable": len(variables), **sizes}, {**coords, **along})
    coords = {
        "feature": ("feature", names, {}),
        "variable": ("feature", owners, {}),
        "units": _units(owners, "feature", data),
    }
    return _Axes({"feature": d}, coords)


def _variable_of(feature: str, variables: Sequence[str]) -> str:
    """Return the variable that a feature is of: ``t[850]`` is of ``t``."""
    return feature if feature in variables else feature.rpartition("[")[0]


def _sizes(dims: Sequence[str], n_levels: int, data: DataDescription) -> dict[str, int]:
    """Return the sizes of the feature dimensions of a variable that has ``n_levels`` features."""
    if len(dims) == 1:
        return {dims[0]: n_levels}
    return {dim: len(labels) for dim, labels in data.labels.items()}


def _labels(
    dim: str, labels: Sequence[Level], data: DataDescription
) -> tuple[str, list[Level], Mapping[str, str]]:
    unit = data.units.get(dim)
    return dim, list(labels), {} if unit is None else {"units": unit}


def _units(names: Sequence[str], dim: str, data: DataDescription) -> tuple[str, list[str], Any]:
    return dim, [data.units.get(name, "") for name in names], {}


def _units_of_all(data: DataDescription | None) -> dict[str, str]:
    """Return the units of the means, if all have the same."""
    if data is None:
        return {}
    named = data.variables or [name for name in data.units if name not in data.feature_dims]
    found = {data.units.get(name) for name in named}
    return {"units": str(*found)} if len(found) == 1 and None not in found else {}
