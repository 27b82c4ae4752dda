"""Scaling and principal components on the command line."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import streamgmm
from streamgmm import GaussianMixture, cli
from streamgmm.preprocessing import PCA, StandardScaler


def run(*words: Any) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main([str(word) for word in words], prog_name="streamgmm")
    assert not stop.value.code


def fails(capsys: pytest.CaptureFixture[str], *words: Any) -> str:
    with pytest.raises(SystemExit) as stop:
        cli.main([str(word) for word in words], prog_name="streamgmm")
    assert stop.value.code == 2
    return capsys.readouterr().err


@pytest.fixture
def values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NDArray[np.float64]:
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    found = random.normal(size=(2000, 4)) * [1.0, 100.0, 1e4, 1e-3]
    found[:1000, 0] += 8.0
    found[:, 3] += 1e-3 * found[:, 0]
    np.save("rows.npy", found)
    return found


def test_a_fit_keeps_them_in_the_file(
    values: NDArray[np.float64], capsys: pytest.CaptureFixture[str]
) -> None:
    run("fit", "rows.npy", "-k", 2, "--scale", "--pca", "0.9", "--seed", 0, "-o", "model.gmm")
    shown = capsys.readouterr()
    assert "before the mixture: 4 columns scaled to mean 0 and variance 1" in shown.out
    assert "before the mixture: 3 principal components of 4 columns, 9" in shown.out
    assert shown.err.count("moments") == 1
    loaded = streamgmm.load("model.gmm")
    scaler = StandardScaler().fit(values)
    assert loaded[0].mean_ == pytest.approx(scaler.mean_)
    assert loaded[1].n_components_ == PCA(0.9).fit(scaler.transform(values)).n_components_

    run("predict", "model.gmm", "rows.npy", "-o", "labels.npy")
    assert np.array_equal(np.load("labels.npy"), loaded.predict(values))
    run("predict", "model.gmm", "rows.npy", "--proba", "-o", "proba.zarr")
    run("score", "model.gmm", "rows.npy")
    assert f"log-likelihood {loaded.score(values):.8g}" in capsys.readouterr().out
    run("score", "model.gmm", "rows.npy", "--samples", "-o", "scores.npy")
    assert np.load("scores.npy") == pytest.approx(loaded.score_samples(values), rel=1e-9)
    capsys.readouterr()
    run("info", "model.gmm")
    assert "before the mixture: 3 principal components" in capsys.readouterr().out
    run("info", "model.gmm", "--json")
    scaled, projected = json.loads(capsys.readouterr().out)["transformers"]
    assert scaled["mean_"] == loaded[0].mean_.tolist()
    assert projected["components_"] == loaded[1].components_.tolist()


def test_one_of_them_alone(values: NDArray[np.float64]) -> None:
    run("fit", "rows.npy", "-k", 2, "--pca", 2, "--seed", 0, "-o", "pca.gmm", "-q")
    assert [name for name, _ in streamgmm.load("pca.gmm").steps] == ["pca", "gaussianmixture"]
    run("select", "rows.npy", "-k", "1:2", "--types", "diag", "--scale", "-o", "best.gmm", "-q")
    assert streamgmm.load("best.gmm").steps[0][0] == "standardscaler"
    run("fit", "rows.npy", "-k", 2, "-o", "none.gmm", "-q")
    assert isinstance(streamgmm.load("none.gmm"), GaussianMixture)


def test_wrong_use_is_refused(
    values: NDArray[np.float64], capsys: pytest.CaptureFixture[str]
) -> None:
    for number in ("0", "1.0", "-1", "1.5", "many", "nan"):
        fit = ("fit", "rows.npy", "-k", 2, "-o", "model.gmm", "--pca", number)
        assert "give a number of components, or a part below 1" in fails(capsys, *fit)
    fit = ("fit", "rows.npy", "-k", 2, "-o", "model.gmm", "--pca", 5)
    assert "a PCA of 5 components needs as many rows and columns" in fails(capsys, *fit)
    run("fit", "rows.npy", "-k", 2, "--scale", "-o", "model.gmm", "-q")
    capsys.readouterr()
    for command in (
        ("impute", "model.gmm", "rows.npy", "-o", "filled.npy"),
        ("sample", "model.gmm", "-n", 5, "-o", "drawn.npy"),
        ("plot", "model.gmm", "-o", "picture.png"),
        ("update", "model.gmm", "rows.npy"),
        ("merge", "model.gmm", "model.gmm", "-o", "merged.gmm"),
        ("fit", "rows.npy", "--start", "model.gmm", "-o", "other.gmm"),
    ):
        assert "holds a Pipeline, but a mixture that stands alone" in fails(capsys, *command)
    np.save("narrow.npy", values[:, :3])
    shown = fails(capsys, "predict", "model.gmm", "narrow.npy", "-o", "labels.npy")
    assert "3 features, but StandardScaler is expecting 4" in shown
    streamgmm.save(StandardScaler().fit(values), "scaler.gmm")
    assert "no mixture" in fails(capsys, "predict", "scaler.gmm", "rows.npy", "-o", "labels.npy")
