"""Parameters as labelled arrays: each number has the name of its component and feature."""

from typing import Any, get_args

import numpy as np
import pytest
import xarray

import streamgmm
from streamgmm import GaussianMixture, OnlineGaussianMixture
from streamgmm.options import CovarianceType

SHAPE = 30, 8
DIMS = "time", "lat"


def field(seed: int, **attributes: str) -> Any:
    return DIMS, np.random.default_rng(seed).normal(seed, 1.0 + seed, SHAPE), attributes


def levels(seed: int, **attributes: str) -> Any:
    values = np.random.default_rng(seed).normal(size=(3, *SHAPE))
    return ("level", *DIMS), values + np.arange(3)[:, None, None], attributes


LEVEL = {"level": ("level", [850.0, 500.0, 200.0], {"units": "hPa"})}


@pytest.mark.parametrize("kind", get_args(CovarianceType))
def test_each_number_has_its_names(kind: CovarianceType) -> None:
    data = xarray.Dataset({"t": field(1, units="K"), "q": field(2)})
    gm = GaussianMixture(3, covariance_type=kind, random_state=0, tol=0.1).fit(data)
    found = gm.to_xarray()
    assert found.attrs == {"covariance_type": kind}
    assert found["means"].dims == ("component", "variable")
    assert found["units"].values.tolist() == ["K", ""]
    assert found["label"].values.tolist() == gm.predict(data).attrs["flag_meanings"].split()
    np.testing.assert_array_equal(found["weights"], gm.weights_)
    if kind == "low_rank":
        np.testing.assert_array_equal(found["loadings"], gm.loadings_)
        np.testing.assert_array_equal(found["noise_variances"], gm.noise_variances_)
    else:
        np.testing.assert_array_equal(found["covariances"], gm.covariances_)
    for k in range(3):
        for d, name in enumerate(("t", "q")):
            assert found["means"].sel(component=k, variable=name) == gm.means_[k, d]
    if kind == "full":
        one = found["covariances"].sel(component=2, variable="t", variable_2="q")
        assert one == gm.covariances_[2, 0, 1]
    # As any Dataset, it can be written and read.
    assert found.identical(xarray.Dataset.from_dict(found.to_dict()))


def test_levels_are_a_dimension_of_their_own() -> None:
    data = xarray.Dataset({"t": levels(1, units="K"), "u": levels(2, units="K")}, LEVEL)
    gm = GaussianMixture(2, random_state=0).fit(streamgmm.open(data, feature_dim="level"))
    found = gm.to_xarray()
    assert found["means"].dims == ("component", "variable", "level")
    assert found["means"].attrs["units"] == "K"
    assert found["level"].attrs["units"] == "hPa"
    np.testing.assert_array_equal(found["means"].sel(variable="u"), gm.means_[:, 3:])
    cell = {"variable": "t", "level": 500.0, "variable_2": "u", "level_2": 200.0}
    np.testing.assert_array_equal(found["covariances"].sel(cell), gm.covariances_[:, 1, 5])
    alone = GaussianMixture().fit(streamgmm.open(data["t"], feature_dim="level")).to_xarray()
    assert alone["means"].dims == ("component", "level")
    assert alone["means"].attrs["units"] == "K"


def test_variables_with_and_without_levels_share_one_dimension() -> None:
    data = xarray.Dataset({"t": levels(1, units="K"), "p": field(2, units="Pa")}, LEVEL)
    gm = GaussianMixture().fit(streamgmm.open(data, feature_dim="level"))
    found = gm.to_xarray()
    assert found["means"].dims == ("component", "feature")
    assert found["variable"].values.tolist() == ["t", "t", "t", "p"]
    assert found["units"].values.tolist() == ["K", "K", "K", "Pa"]
    assert found["means"].sel(feature="p").item() == gm.means_[0, 3]


def test_models_of_rows_have_numbered_features() -> None:
    rows = np.random.default_rng(0).normal(size=(300, 2))
    for model in (GaussianMixture(2).fit(rows), OnlineGaussianMixture(2, init_size=100).fit(rows)):
        found = model.to_xarray()
        np.testing.assert_array_equal(found["means"], model.means_)
        assert found["means"].dims == ("component", "feature")
        assert found["feature"].values.tolist() == [0, 1]
        assert found["covariances"].dims == ("component", "feature", "feature_2")
