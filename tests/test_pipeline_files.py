"""Files of transformers and pipelines: what was saved comes back, and damage is refused."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sklearn.preprocessing
import xarray
from numpy.typing import NDArray
from sklearn.pipeline import Pipeline, make_pipeline

import streamgmm
from streamgmm import GaussianMixture, OnlineGaussianMixture
from streamgmm.errors import ModelFileError, NotFittedError, OutputError, ParameterError
from streamgmm.persistence import Record, read_record, write_record
from streamgmm.preprocessing import PCA, Normalizer, StandardScaler

Change = Callable[[dict[str, Any], dict[str, Any]], object]


def rows(n: int = 400) -> NDArray[np.float64]:
    random = np.random.default_rng(0)
    return random.normal(size=(n, 4)) * [1.0, 10.0, 100.0, 0.1] + random.integers(2, size=(n, 1))


def pipeline() -> Pipeline:
    mixture = GaussianMixture(2, covariance_type="diag", random_state=0)
    return make_pipeline(StandardScaler(), PCA(3), mixture).fit(rows())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    streamgmm.save(pipeline(), tmp_path / "model.gmm")
    return tmp_path / "model.gmm"


def changed(path: Path, change: Change) -> None:
    """Change the header or the arrays of a file, and give it the digest of the new content."""
    record = read_record(path)
    header, arrays = copy.deepcopy(dict(record.header)), dict(record.arrays)
    change(header, arrays)
    write_record(path, Record(header, arrays))


def test_a_loaded_pipeline_finds_the_variables_by_name(tmp_path: Path) -> None:
    columns = dict(zip("abcd", rows().reshape(20, 20, 4).transpose(2, 0, 1), strict=True))
    data = xarray.Dataset({name: (("time", "lat"), x) for name, x in columns.items()})
    described = streamgmm.open(data, variables=["c", "a", "b"])
    mixture = GaussianMixture(2, covariance_type="diag", random_state=0)
    fitted = make_pipeline(StandardScaler(), PCA(2), mixture).fit(described)
    streamgmm.save(fitted, tmp_path / "model.gmm")
    data.to_netcdf(tmp_path / "next.nc", engine="h5netcdf")
    loaded = streamgmm.load(tmp_path / "model.gmm")
    assert loaded[0].data_description_ == fitted[0].data_description_
    loaded.predict(tmp_path / "next.nc", out=tmp_path / "labels.nc")
    with xarray.open_dataset(tmp_path / "labels.nc") as labels:
        np.testing.assert_array_equal(labels["component"], fitted.predict(described))

    def change(header: dict[str, Any], arrays: dict[str, Any]) -> None:
        header["steps"][0]["header"]["data"]["units"] = ["K"]

    changed(tmp_path / "model.gmm", change)
    with pytest.raises(ModelFileError, match="units"):
        streamgmm.load(tmp_path / "model.gmm")


@pytest.mark.parametrize(
    "transformer",
    [
        StandardScaler(),
        StandardScaler(with_mean=False, memory_limit="2GiB"),
        StandardScaler(with_std=False),
        PCA(),
        PCA(0.5, whiten=True),
        Normalizer("l1"),
    ],
)
def test_a_transformer_comes_back(transformer: Any, tmp_path: Path) -> None:
    values = rows()
    transformer.fit(values)
    streamgmm.save(transformer, tmp_path / "model.gmm")
    loaded = streamgmm.load(tmp_path / "model.gmm")
    assert type(loaded) is type(transformer)
    assert loaded.get_params() == transformer.get_params()
    assert np.array_equal(loaded.transform(values), transformer.transform(values))
    assert list(loaded.get_feature_names_out()) == list(transformer.get_feature_names_out())
    for name in dir(type(transformer)):
        if name.endswith("_") and not name.startswith("_"):
            assert np.array_equal(getattr(loaded, name), getattr(transformer, name)), name


@pytest.mark.parametrize(
    "last", [None, GaussianMixture(2, random_state=0), OnlineGaussianMixture(2, random_state=0)]
)
def test_a_pipeline_comes_back(last: Any, tmp_path: Path) -> None:
    values = rows(600)
    steps = [StandardScaler(), PCA(0.9), Normalizer()][: 2 if last else 3]
    saved = make_pipeline(*steps, *([last] if last else [])).fit(values)
    streamgmm.save(saved, tmp_path / "model.gmm")
    loaded = streamgmm.load(tmp_path / "model.gmm")
    assert [name for name, _ in loaded.steps] == [name for name, _ in saved.steps]
    method = "score_samples" if last else "transform"
    assert np.array_equal(getattr(loaded, method)(values), getattr(saved, method)(values))


def test_a_fit_that_waits_is_saved(tmp_path: Path) -> None:
    scaler = StandardScaler().fit(streamgmm.open(rows()))
    streamgmm.save(scaler, tmp_path / "model.gmm")
    assert np.array_equal(streamgmm.load(tmp_path / "model.gmm").mean_, scaler.mean_)


def test_a_mixture_is_saved_as_by_its_method(tmp_path: Path) -> None:
    mixture = GaussianMixture(2, random_state=0).fit(rows())
    streamgmm.save(mixture, tmp_path / "a.gmm")
    mixture.save(tmp_path / "b.gmm")
    assert np.array_equal(streamgmm.load(tmp_path / "a.gmm").means_, mixture.means_)
    a, b = read_record(tmp_path / "a.gmm"), read_record(tmp_path / "b.gmm")
    assert a.header == b.header


def test_a_file_that_was_changed_is_not_replaced(path: Path) -> None:
    loaded = streamgmm.load(path)
    streamgmm.save(loaded, path)
    streamgmm.save(pipeline(), path)
    with pytest.raises(OutputError, match="was changed after this model was loaded"):
        streamgmm.save(loaded, path)


def test_what_a_file_cannot_hold_is_refused(tmp_path: Path) -> None:
    values = rows()
    target = tmp_path / "model.gmm"
    other = make_pipeline(sklearn.preprocessing.StandardScaler(), GaussianMixture(1)).fit(values)
    with pytest.raises(ParameterError, match=r"step 'standardscaler' .*streamgmm\.preprocessing"):
        streamgmm.save(other, target)
    with pytest.raises(ParameterError, match="a model file cannot hold"):
        streamgmm.save(make_pipeline(StandardScaler(), streamgmm.KMeans(2)).fit(values), target)
    with pytest.raises(ParameterError, match="a model file cannot hold 'a model'"):
        streamgmm.save("a model", target)
    with pytest.raises(NotFittedError):
        streamgmm.save(make_pipeline(StandardScaler(), GaussianMixture(1)), target)
    assert not target.exists()


def test_where_a_mixture_is_needed_a_pipeline_is_refused(path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"class Pipeline; load it by streamgmm\.load"):
        GaussianMixture.load(path)
    with pytest.raises(ModelFileError, match="holds a Pipeline, but a mixture that stands alone"):
        streamgmm.update(path, rows())


def test_a_cut_file_is_refused(path: Path) -> None:
    content = path.read_bytes()
    for length in (0, 10, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(ModelFileError):
            streamgmm.load(path)


def test_changed_bytes_are_refused_or_harmless(path: Path) -> None:
    content, random = bytearray(path.read_bytes()), np.random.default_rng(0)
    expected = streamgmm.load(path).predict(rows())
    for position in random.integers(len(content), size=60):
        damaged = content.copy()
        damaged[position] ^= 1 << int(random.integers(8))
        path.write_bytes(damaged)
        try:
            found = streamgmm.load(path).predict(rows())
        except ModelFileError:
            continue
        assert np.array_equal(found, expected)


def _step(header: dict[str, Any], i: int) -> dict[str, Any]:
    found: dict[str, Any] = header["steps"][i]["header"]
    return found


_DAMAGE: dict[str, tuple[Change, str]] = {
    "no steps": (lambda h, a: h.pop("steps"), "steps"),
    "an empty list": (lambda h, a: h.update(steps=[]), "no step"),
    "steps that are no list": (lambda h, a: h.update(steps={"a": 1}), "list"),
    "too many steps": (lambda h, a: h.update(steps=h["steps"] * 40), "list of at most 64"),
    "a step without a header": (lambda h, a: h["steps"][0].pop("header"), "header"),
    "another entry": (lambda h, a: h["steps"][0].update(code="x"), "unknown entry 'code'"),
    "two names that are equal": (lambda h, a: h["steps"][0].update(name="pca"), "names of its"),
    "a name that is none": (lambda h, a: h["steps"][0].update(name="a__b"), "names of its steps"),
    "an unknown class": (lambda h, a: _step(h, 0).update(estimator="os.system"), "step 0"),
    "a pipeline in it": (lambda h, a: _step(h, 0).update(estimator="Pipeline"), "step 0"),
    "a mixture first": (lambda h, a: h["steps"].reverse(), "step 0"),
    "a class that is a list": (lambda h, a: _step(h, 0).update(estimator=["PCA"]), "estimator"),
    "an unknown setting": (lambda h, a: _step(h, 0)["settings"].update(x=1), "unknown entry 'x'"),
    "an executor": (lambda h, a: _step(h, 0)["settings"].update(executor="dask"), "unknown entry"),
    "a setting of another type": (
        lambda h, a: _step(h, 0)["settings"].update(with_mean="yes"),
        "with_mean",
    ),
    "no number of columns": (lambda h, a: _step(h, 0)["fitted"].pop("n_features_in_"), "n_feat"),
    "another number of columns": (
        lambda h, a: _step(h, 0)["fitted"].update(n_features_in_=9),
        "mean_ has shape",
    ),
    "names of other columns": (lambda h, a: _step(h, 0).update(feature_names=["a"]), "names 1"),
    "a flag that is none": (lambda h, a: _step(h, 1)["fitted"].update(whiten=1), "whiten"),
    "a negative variance": (lambda h, a: _step(h, 1)["fitted"].update(noise_variance_=-1), "noise"),
    "an array too few": (lambda h, a: a.pop("0.scale_"), "it holds the arrays"),
    "an array too many": (lambda h, a: a.update({"1.extra": np.ones(3)}), "it holds the arrays"),
    "an array of no step": (lambda h, a: a.update({"7.mean_": np.ones(3)}), "unknown array"),
    "an array of another shape": (lambda h, a: a.update({"0.mean_": np.ones(3)}), "has shape"),
    "an array of another type": (
        lambda h, a: a.update({"0.mean_": np.ones(4, dtype="f4")}),
        "float32",
    ),
    "a scale of zero": (lambda h, a: a.update({"0.scale_": np.zeros(4)}), "not positive"),
    "NaN": (lambda h, a: a.update({"0.mean_": np.full(4, np.nan)}), "mean_"),
    "a negative scale": (lambda h, a: a.update({"0.scale_": -np.ones(4)}), "negative"),
    "components of no matrix": (lambda h, a: a.update({"1.components_": np.ones(4)}), "shape"),
    "more components than columns": (
        lambda h, a: a.update({"1.components_": np.ones((5, 4))}),
        "shape",
    ),
    "fewer components than the mixture has columns": (
        lambda h, a: a.update(
            {
                name: array[:2]
                for name, array in a.items()
                if name.startswith("1.") and "mean" not in name
            }
        ),
        "takes 3 columns, but gets 2",
    ),
}


@pytest.mark.parametrize("what", _DAMAGE)
def test_wrong_content_is_refused(path: Path, what: str) -> None:
    change, message = _DAMAGE[what]
    changed(path, change)
    with pytest.raises(ModelFileError, match=message):
        streamgmm.load(path)


def test_a_norm_that_there_is_not_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.gmm"
    streamgmm.save(Normalizer().fit(rows()), path)
    changed(path, lambda header, arrays: header["fitted"].update(norm="l3"))
    with pytest.raises(ModelFileError, match="norm is 'l3'"):
        streamgmm.load(path)


def test_random_headers_are_refused_or_harmless(path: Path) -> None:
    """Replace each value of the header by others, one at a time."""
    record = read_record(path)

    def places(value: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        members = value.items() if isinstance(value, dict) else enumerate(value)
        found = []
        for key, member in members:
            found.append((*place, key))
            if isinstance(member, dict | list):
                found += places(member, (*place, key))
        return found

    everywhere = [place for place in places(dict(record.header)) if "history_" not in place]
    for n, place in enumerate(everywhere):
        header = json.loads(json.dumps(dict(record.header)))
        parent = header
        for key in place[:-1]:
            parent = parent[key]
        parent[place[-1]] = [None, -1, 1e308, "x", [], {}][n % 6]
        write_record(path, Record(header, record.arrays))
        try:
            streamgmm.load(path).predict(rows())
        except ModelFileError:
            continue
