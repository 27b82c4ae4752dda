"""What models and sources say of themselves."""

import re
from pathlib import Path

import numpy as np
import pandas
import pytest
import zarr

import streamgmm
from streamgmm import GaussianMixture, OnlineGaussianMixture
from streamgmm.core.fitted_model import FittedModel
from streamgmm.core.parameters import Parameters
from streamgmm.errors import ModelFileError
from streamgmm.options import CovarianceType
from tests.core.cases import ALL_TYPES, random_parameters


@pytest.mark.parametrize("covariance_type", ALL_TYPES)
def test_a_summary_has_all_numbers_in_lines_of_80_characters(covariance_type: CovarianceType):
    parameters = random_parameters(np.random.default_rng(0), covariance_type, 9, 4)
    large = Parameters.create(
        covariance_type,
        parameters.weights,
        parameters.means * -1.2345e100,
        parameters.covariances * 1e200,
    )
    text = GaussianMixture.from_fitted_model(FittedModel(large)).summary()
    assert max(map(len, text.splitlines())) <= 80
    variances = large.structure.variances(large.stacked(large.covariances))
    deviations = np.broadcast_to(np.sqrt(variances), large.means.shape)
    for mean, deviation in zip(large.means.ravel(), deviations.ravel(), strict=True):
        assert f"{mean:.4g} ({deviation:.3g})" in text
    for weight in large.weights:
        assert f"{weight:.4f}" in text


def test_names_are_shown_and_cannot_steer_a_terminal() -> None:
    names = ["plain", "a name that is longer than the table has room for", "\x1b[2J"]
    rows = pandas.DataFrame(np.random.default_rng(0).normal(size=(100, 3)), columns=names)
    model = GaussianMixture(algorithm="em", random_state=0).fit(rows)
    text = model.summary()
    assert "plain " in text
    assert "a name that is longer t…" in text
    assert r"\x1b[2J" in text
    assert "\x1b" not in text


def test_features_beyond_the_page_are_counted() -> None:
    rows = np.random.default_rng(0).normal(size=(100, 35))
    model = GaussianMixture(covariance_type="diag", algorithm="em", random_state=0).fit(rows)
    assert "(5 more)" in model.summary()


def test_a_class_loads_its_own_models(tmp_path: Path) -> None:
    model = GaussianMixture(algorithm="em").fit(np.arange(10.0).reshape(5, 2))
    model.save(tmp_path / "m.gmm")
    np.testing.assert_array_equal(GaussianMixture.load(tmp_path / "m.gmm").means_, model.means_)
    with pytest.raises(ModelFileError, match="class GaussianMixture; load it by GaussianMixture"):
        OnlineGaussianMixture.load(tmp_path / "m.gmm")


def test_sources_say_their_size_without_reading(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "x.zarr", data=np.zeros((3000, 2), "f4"), chunks=(1000, 2))
    source = streamgmm.open(tmp_path / "x.zarr", missing="drop")
    # Chunks that are gone cannot be read.
    for chunk in (tmp_path / "x.zarr" / "c").rglob("*"):
        if chunk.is_file():
            chunk.unlink()
    text = repr(source)
    assert re.match(r"<ZarrSource .*x\.zarr: 3,000 rows × 2 columns, float32, ", text)
    assert "23.44 KiB" in text
    assert "missing='drop'" in text
    page = source._repr_html_()
    assert "<td>3,000</td>" in page
    frame = streamgmm.open(pandas.DataFrame({"<b>": [1.0, 2.0]}), sample_weight=[1.0, 2.0])
    assert "&lt;b&gt;" in frame._repr_html_()
    assert "each row has a weight" in frame._repr_html_()


def test_a_notebook_shows_what_was_fitted():
    rows = np.random.default_rng(0).normal(size=(500, 2))
    for model in (GaussianMixture(random_state=0), OnlineGaussianMixture(random_state=0)):
        assert "1 components (full) of 2 features" not in model._repr_html_()
        page = model.fit(rows)._repr_html_()
        assert "1 components (full) of 2 features" in page
        assert page.endswith("features</p>") or "log-likelihood" in page
