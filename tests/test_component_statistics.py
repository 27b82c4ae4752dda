"""Means and quantiles of other variables within each component."""

from typing import Any

import numpy as np
import pandas
import pytest
import xarray

import streamgmm
from streamgmm import GaussianMixture
from streamgmm.errors import DataError, NotFiniteError, ParameterError
from streamgmm.events import Event, ReadDone

N = 40_000
RANDOM = np.random.default_rng(0)
LABELS = RANDOM.integers(0, 3, N)
ROWS = RANDOM.normal(size=(N, 2)) + 2.5 * LABELS[:, np.newaxis]
RAIN = np.where(RANDOM.random(N) < 0.3, 0.0, RANDOM.gamma(2.0, 3.0, N) * (1 + LABELS))
HEAT = RANDOM.normal(0.0, 1e4, N) * (LABELS - 1)
PROBABILITIES = (0.0, 0.1, 0.5, 0.9, 1.0)


@pytest.fixture(scope="module")
def fitted() -> GaussianMixture:
    return GaussianMixture(3, random_state=0).fit(ROWS)


def exact(values: Any, weights: Any, probability: float) -> float:
    """The smallest value that at least this part of the weight does not exceed."""
    order = np.argsort(values)
    below = np.cumsum(weights[order])
    place = np.searchsorted(below, probability * below[-1])
    return float(values[order][min(place, len(order) - 1)])


@pytest.mark.parametrize("error", [1e-4, 1e-3, 0.02])
def test_they_are_those_of_weighted_rows(error: float, fitted: GaussianMixture) -> None:
    shares = fitted.predict_proba(ROWS)
    others = np.column_stack([RAIN, HEAT])
    weights = RANDOM.random(N)
    for given, factors in ((None, np.ones(N)), (weights, weights)):
        found = fitted.component_statistics(
            ROWS, others, quantiles=PROBABILITIES, relative_error=error, sample_weight=given
        )
        own = shares * factors[:, np.newaxis]
        np.testing.assert_allclose(found.weights, np.repeat(own.sum(axis=0)[:, None], 2, axis=1))
        np.testing.assert_allclose(found.means, own.T @ others / own.sum(axis=0)[:, None])
        assert found.relative_error == error
        for q, probability in enumerate(PROBABILITIES):
            for k in range(3):
                for m in range(2):
                    # A weight that is rounded may move a quantile to the next value.
                    near = [
                        exact(others[:, m], own[:, k], min(max(probability + move, 0.0), 1.0))
                        for move in (-1e-9, 1e-9)
                    ]
                    bounds = [x * (1 + sign * 1.001 * error) for x in near for sign in (-1, 1)]
                    assert min(bounds) <= found.quantiles[q, k, m] <= max(bounds)


def test_variables_are_found_by_their_names(fitted: GaussianMixture) -> None:
    rain = RAIN.copy()
    rain[::7] = np.nan
    dims = ("time", "lat")
    shape = 400, 100
    data = xarray.Dataset(
        {
            "a": (dims, ROWS[:, 0].reshape(shape)),
            "b": (dims, ROWS[:, 1].reshape(shape)),
            "rain": (dims, rain.reshape(shape)),
        },
        {"lat": np.linspace(-50.0, 50.0, 100)},
    )
    events: list[Event] = []
    named = GaussianMixture(3, random_state=0, callbacks=[events.append])
    named.fit(streamgmm.open(data, variables=["a", "b"]))
    events.clear()
    found = named.component_statistics(data, ["rain", "lat"])
    assert sum(isinstance(event, ReadDone) for event in events) == 1
    shares = named.predict_proba(streamgmm.open(data, variables=["a", "b"])).values.reshape(-1, 3)
    has_rain = ~np.isnan(rain)
    own = shares[has_rain]
    np.testing.assert_allclose(found.means[:, 0], own.T @ rain[has_rain] / own.sum(axis=0))
    latitudes = np.tile(data["lat"].values, 400)
    np.testing.assert_allclose(found.means[:, 1], shares.T @ latitudes / shares.sum(axis=0))
    assert list(found.names) == ["rain", "lat"]
    lazy = named.component_statistics(data.chunk(time=90), "rain")
    np.testing.assert_allclose(lazy.means[:, 0], found.means[:, 0], rtol=1e-12)
    frame = pandas.DataFrame({"a": ROWS[:, 0], "b": ROWS[:, 1], "rain": rain})
    source = streamgmm.open(frame, columns=["a", "b"])
    again = named.component_statistics(source, ["rain"])
    np.testing.assert_allclose(again.quantiles[..., 0], found.quantiles[..., 0], rtol=1e-9)


def test_skipped_rows_count_for_no_component() -> None:
    rows = ROWS[:1000].copy()
    rows[3, 0] = np.nan
    source = streamgmm.open(rows, missing="drop")
    gm = GaussianMixture(random_state=0).fit(source)
    found = gm.component_statistics(source, np.arange(1000.0))
    assert found.weights[0, 0] == 999
    np.testing.assert_allclose(found.means, (np.arange(1000.0).sum() - 3.0) / 999)
    with pytest.raises(NotFiniteError):
        gm.component_statistics(rows, np.arange(1000.0))
    empty = gm.component_statistics(source, np.full(1000, np.nan))
    assert np.isnan(empty.means).all()
    assert np.isnan(empty.quantiles).all()


def test_what_cannot_be_used_is_refused(fitted: GaussianMixture) -> None:
    for of, message in (
        ("rain", "holds no 'rain'"),
        (np.ones(3), "one value for each row"),
        (np.array(["x"] * N), "give real numbers"),
    ):
        with pytest.raises(DataError, match=message):
            fitted.component_statistics(ROWS, of)
    for settings in ({"quantiles": [1.5]}, {"relative_error": 0.0}, {"relative_error": 0.9}):
        with pytest.raises(ParameterError, match="give"):
            fitted.component_statistics(ROWS, RAIN, **settings)
