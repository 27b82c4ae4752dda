"""The entropy of the assignment of each row."""

from pathlib import Path

import numpy as np
import xarray
from scipy.stats import entropy

import streamgmm
from streamgmm import GaussianMixture, GaussianMixtureSearch


def test_it_is_the_entropy_of_the_responsibilities(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    rows = random.normal(size=(5000, 2)) + 4.0 * random.integers(0, 3, (5000, 1))
    gm = GaussianMixture(3, random_state=0).fit(rows)
    expected = entropy(gm.predict_proba(rows), axis=1)
    np.testing.assert_allclose(gm.entropy_samples(rows), expected, rtol=1e-9, atol=1e-12)
    criteria = gm.criteria(rows)
    np.testing.assert_allclose(gm.entropy_samples(rows).sum(), criteria.entropy, rtol=1e-9)
    search = GaussianMixtureSearch([3], random_state=0).fit(rows)
    own = search.best_estimator_.entropy_samples(rows)
    np.testing.assert_array_equal(search.entropy_samples(rows), own)
    rows[7, 1] = np.nan
    dims = ("time", "lat")
    data = xarray.Dataset({n: (dims, rows[:, d].reshape(100, 50)) for d, n in enumerate("ab")})
    named = GaussianMixture(3, random_state=0).fit(streamgmm.open(data, missing="drop"))
    out = named.entropy_samples(
        streamgmm.open(data, missing="drop"), out=tmp_path / "o.zarr", dtype="float32"
    )
    found = xarray.open_zarr(out)["entropy"]
    assert found.dtype == np.float32
    assert np.isnan(found.values[0, 7])
    assert int(found.isnull().sum()) == 1
    shares = named.predict_proba(streamgmm.open(data, missing="drop"))
    kept = shares.values.reshape(-1, 3)
    np.testing.assert_allclose(found.values.ravel(), entropy(kept, axis=1), rtol=1e-5, atol=1e-6)


def test_a_summary_lists_components_by_weight_under_their_labels() -> None:
    random = np.random.default_rng(0)
    rows = random.normal(size=(900, 1)) + np.repeat([0.0, 20.0, 40.0], [100, 500, 300])[:, None]
    gm = GaussianMixture(3, random_state=0).fit(rows)
    lines = gm.summary().splitlines()
    (labels,) = (line.split()[1:] for line in lines if line.startswith("component"))
    (weights,) = (line.split()[1:] for line in lines if line.startswith("weight"))
    assert [*map(float, weights)] == sorted(map(float, weights), reverse=True)
    for label, centre in zip(labels, (20.0, 40.0, 0.0), strict=True):
        assert gm.predict([[centre]]) == [int(label)]
