"""Whatever is raised on purpose is an error of streamgmm, and of the built-in type."""

import math
import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import sklearn.exceptions
import sklearn.mixture
from sklearn.utils._param_validation import InvalidParameterError

import streamgmm
from streamgmm import GaussianMixture, OnlineGaussianMixture, plotting
from streamgmm.errors import (
    DataError,
    MissingPackageError,
    ModelFileError,
    NotFittedError,
    OutputError,
    ParameterError,
    StreamGMMError,
)

ROWS = np.random.default_rng(0).normal(size=(60, 2))

# Values that are not valid, by setting: of a wrong value and of a wrong type.
SHARED: dict[str, list[Any]] = {
    "n_components": [0, -1, 1.5, "2", None],
    "covariance_type": ["round", None, 3],
    "reg_covar": [-1.0, math.nan],
    "n_init": [0, "x"],
    "init_params": ["x", None],
    "random_state": ["x", -1, 2**40, np.ones(3)],
    "verbose": [-1, "x"],
    "verbose_interval": [0, None],
    "executor": ["x", object(), None, np.ones(3)],
    "n_jobs": [0, 1.5, "x"],
    "memory_limit": ["x", -1, math.nan, [], "0", True],
    "callbacks": [5, None, "x", [5], [print, None]],
}
BATCH: dict[str, list[Any]] = {
    "tol": [-1, "x", None, math.nan],
    "max_iter": [-1, 0.5],
    "weights_init": ["x", [[1], [2, 3]], [1, 2, 3], [-1, 2], [None, 1]],
    "means_init": [object(), [[1]], [["a", "b"], ["c", "d"]]],
    "precisions_init": [[1.0], {}],
    "warm_start": ["x", None],
    "algorithm": ["x"],
    "arithmetic": ["float16"],
    "fixed": [5, "means", ["x"], [["means"]], ["means"]],
    "survey_part": [0, 2.0, "x"],
    "checkpoint": [5, ["a"], b"c"],
    "checkpoint_interval": [0, "x", 1.0],
}
ONLINE: dict[str, list[Any]] = {
    "half_life": [0, -1, "x", math.nan],
    "learning_decay": [0.5, 2, None],
    "learning_offset": [0, "x"],
    "init_size": [0, 1.5],
}


def _shown(value: object) -> str:
    """Return a text of a value that is the same in every process."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


def _each(settings: dict[str, list[Any]]) -> list[tuple[str, Any]]:
    return [(name, value) for name, values in settings.items() for value in values]


def is_parameter_error(function: Callable[[], object]) -> None:
    with pytest.raises(ParameterError) as caught:
        function()
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, TypeError)
    assert str(caught.value)


@pytest.mark.parametrize(("name", "value"), _each(SHARED | BATCH), ids=_shown)
def test_settings_of_a_fit(name: str, value: Any) -> None:
    is_parameter_error(lambda: GaussianMixture(**{"n_components": 2, name: value}).fit(ROWS))


@pytest.mark.parametrize(("name", "value"), _each(SHARED | ONLINE), ids=_shown)
def test_settings_of_a_stream(name: str, value: Any, tmp_path: Path) -> None:
    settings = {"n_components": 2, name: value}
    batch = GaussianMixture(2, random_state=0).fit(ROWS)
    for function in (
        lambda: OnlineGaussianMixture(**settings).fit(ROWS),
        lambda: OnlineGaussianMixture(**settings).partial_fit(ROWS),
        lambda: OnlineGaussianMixture(**settings).save(tmp_path / "m.gmm"),
        lambda: streamgmm.update(tmp_path / "m.gmm", ROWS, **settings),
        lambda: OnlineGaussianMixture.from_batch(batch, **{name: value}),
        lambda: OnlineGaussianMixture.merged([batch, batch], **settings),
    ):
        is_parameter_error(function)
    assert not (tmp_path / "m.gmm").exists()


@pytest.mark.parametrize(("name", "value"), _each(SHARED), ids=_shown)
def test_settings_of_a_model_that_is_updated(name: str, value: Any, tmp_path: Path) -> None:
    OnlineGaussianMixture(2).partial_fit(ROWS).save(tmp_path / "m.gmm")
    before = (tmp_path / "m.gmm").read_bytes()
    is_parameter_error(lambda: streamgmm.update(tmp_path / "m.gmm", ROWS, **{name: value}))
    assert (tmp_path / "m.gmm").read_bytes() == before


# Settings whose value depends on the data or on each other are checked by fit.
ALONE = {
    name: values
    for name, values in BATCH.items()
    if not name.endswith("_init") and name not in ("fixed", "checkpoint_interval")
}


@pytest.mark.parametrize(("name", "value"), _each(ALONE), ids=_shown)
def test_settings_of_a_batch_model_from_a_stream(name: str, value: Any) -> None:
    online = OnlineGaussianMixture(2, random_state=0).partial_fit(ROWS)
    is_parameter_error(lambda: online.to_batch(**{name: value}))


def test_what_decides_the_shape_of_a_model_cannot_be_chosen_anew() -> None:
    online = OnlineGaussianMixture(2, random_state=0).partial_fit(ROWS)
    for settings in ({"n_components": 3}, {"covariance_type": "diag"}):
        is_parameter_error(lambda settings=settings: online.to_batch(**settings))
        is_parameter_error(
            lambda settings=settings: OnlineGaussianMixture.from_batch(online, **settings)
        )


def test_settings_that_there_are_not(tmp_path: Path) -> None:
    batch, online = GaussianMixture(2).fit(ROWS), OnlineGaussianMixture(2).partial_fit(ROWS)
    for function in (
        lambda: batch.set_params(unheard=1),
        lambda: online.set_params(unheard__of=1),
        lambda: OnlineGaussianMixture.from_batch(batch, unheard=1),
        lambda: OnlineGaussianMixture.merged([batch], unheard=1),
        lambda: online.to_batch(unheard=1),
        lambda: streamgmm.update(tmp_path / "m.gmm", ROWS, unheard=1),
    ):
        is_parameter_error(function)


def test_the_sentence_and_the_type_are_those_of_scikit_learn() -> None:
    ours, theirs = GaussianMixture(tol=-1), sklearn.mixture.GaussianMixture(tol=-1)
    with pytest.raises(InvalidParameterError) as expected:
        theirs.fit(ROWS)
    with pytest.raises(InvalidParameterError) as found:
        ours.fit(ROWS)
    assert str(found.value) == str(expected.value)
    assert isinstance(found.value, ParameterError)


UNFITTED: dict[str, Callable[[Any], object]] = {
    "predict": lambda model: model.predict(ROWS),
    "predict_proba": lambda model: model.predict_proba(ROWS),
    "score_samples": lambda model: model.score_samples(ROWS),
    "score": lambda model: model.score(ROWS),
    "bic": lambda model: model.bic(ROWS),
    "aic": lambda model: model.aic(ROWS),
    "impute": lambda model: model.impute(ROWS),
    "sample": lambda model: model.sample(),
    "marginal": lambda model: model.marginal([0]),
    "conditional": lambda model: model.conditional({0: 1.0}),
    "from_batch": OnlineGaussianMixture.from_batch,
    "merged": lambda model: OnlineGaussianMixture.merged([model]),
    "plot_mixture": plotting.plot_mixture,
    "plot_convergence": plotting.plot_convergence,
}


@pytest.mark.parametrize("model", [GaussianMixture(), OnlineGaussianMixture()], ids=repr)
@pytest.mark.parametrize("name", UNFITTED)
def test_a_model_that_is_not_fitted(name: str, model: Any) -> None:
    with pytest.raises(NotFittedError) as caught:
        UNFITTED[name](model)
    assert isinstance(caught.value, (ValueError, AttributeError))
    if not name.startswith("plot"):
        assert isinstance(caught.value, sklearn.exceptions.NotFittedError)


def test_models_of_one_class_that_are_not_fitted(tmp_path: Path) -> None:
    for function in (
        lambda: GaussianMixture().save(tmp_path / "m.gmm"),
        lambda: GaussianMixture().to_sklearn(),
        lambda: GaussianMixture.from_sklearn(sklearn.mixture.GaussianMixture()),
        lambda: OnlineGaussianMixture().to_batch(),
        lambda: OnlineGaussianMixture().means_,
        lambda: OnlineGaussianMixture().n_samples_seen_,
    ):
        with pytest.raises(sklearn.exceptions.NotFittedError) as caught:
            function()
        assert isinstance(caught.value, NotFittedError)


def test_arguments_of_methods(tmp_path: Path) -> None:
    model = GaussianMixture(2, random_state=0).fit(ROWS)
    wrong: list[Callable[[], object]] = [
        *(lambda n=n: model.sample(n) for n in (0, -1, 1.5, "x", None, True)),
        *(
            lambda columns=columns: model.marginal(columns)
            for columns in (5, None, "x", [], [9], [0, 0], [None], [[0]], object())
        ),
        *(
            lambda given=given: model.conditional(given)
            for given in (5, None, [0], {9: 1}, {0: "x"}, {0: None}, {0: [1, 2]}, {0: math.nan})
        ),
        lambda: model.conditional({0: 1.0, 1: 1.0}),
        lambda: OnlineGaussianMixture.merged(5),
        lambda: OnlineGaussianMixture.merged([]),
        lambda: OnlineGaussianMixture.merged([5]),
        lambda: OnlineGaussianMixture.from_batch(5),
        lambda: GaussianMixture.from_sklearn(5),
        lambda: streamgmm.update(tmp_path / "m.gmm", ROWS, callbacks=5),
        lambda: streamgmm.update(tmp_path / "m.gmm", ROWS, callbacks=[5]),
        lambda: streamgmm.update(tmp_path / "m.gmm", ROWS, batch_id=1.5),
        lambda: streamgmm.update(None, ROWS),
        lambda: streamgmm.load(5),
        lambda: model.save(None),
        lambda: model.predict(ROWS, out=5),
        lambda: plotting.plot_mixture(5),
        lambda: plotting.plot_convergence(5),
        *(
            lambda features=features: plotting.plot_mixture(model, features=features)
            for features in (5, "x", [0, 0], [9], [-1], [0, 1, 2], [1.5], ["a"], [None])
        ),
        lambda: plotting.save_picture(plotting.plot_mixture(model), 5),
        lambda: streamgmm.open(ROWS, missing="x"),
        lambda: streamgmm.open(ROWS, columns=["a"]),
    ]
    for function in wrong:
        is_parameter_error(function)


def test_a_seed_that_was_assigned_later() -> None:
    model = GaussianMixture(2).fit(ROWS)
    model.random_state = "x"
    is_parameter_error(model.sample)


# Paths


def _entrances(folder: Path) -> dict[str, Callable[[str], object]]:
    OnlineGaussianMixture(2).save(folder / "m.gmm")
    return {
        "open": streamgmm.open,
        "fit": GaussianMixture(2).fit,
        "weights": lambda path: streamgmm.open(ROWS, sample_weight=path),
        "update": lambda path: streamgmm.update(folder / "m.gmm", path),
        "plot": lambda path: plotting.plot_mixture(GaussianMixture(2).fit(ROWS), path),
    }


PATHS = {
    "": "the path of the data is empty; name a file",
    "absent": r"absent: no such file or directory; check the path",
    "absent.npy": r"absent\.npy: no such file or directory; check the path",
    "x.npy/y": r"x\.npy/y: no such file or directory",
    "dangling.npy": r"dangling\.npy: no such file or directory; it is a link to nowhere, which",
    "loop": r"loop cannot be opened \(Too many levels of symbolic links\)",
    "a\0b": r"'a\\x00b' cannot be a path: it holds a NUL character",
    "a\0*.npy": r"holds a NUL character",
    "x" * 5000: r"cannot be opened \(File name too long\)",
    "~/x.npy": r"~ is not replaced by a home directory here; write /",
    "~nobody-of-this-name/x.npy": "~ is not replaced by .*; write the whole path",
    "folder": r"folder (is neither|holds no files that can be read)",
    "table.csv": r"table\.csv is neither a \.npy file .*convert it to one of these",
    "none*.npy": r"none\*\.npy(; name one of these|; check it)",
    "none*.parquet": r"none\*\.parquet holds no Parquet files|the pattern none\*",
    "unheard://b/x.npy": r"unheard://b/x\.npy .*not known: unheard\); check it, or",
    "memory://absent.npy": r"there is no file memory:///absent\.npy",
    "memory://absent.parquet": r"there is no file memory:///absent\.parquet",
    "memory://*.parquet": r"memory://\*\.parquet holds no Parquet files .*; check",
    "s3://bucket/folder": "a URL has to end in .npy, .zarr, .h5 or .parquet",
}


@pytest.mark.parametrize("path", PATHS, ids=lambda path: repr(path[:30]))
def test_paths_of_data(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    entrances = _entrances(tmp_path)
    np.save("x.npy", ROWS)
    Path("dangling.npy").symlink_to("nowhere")
    Path("loop").symlink_to("loop")
    Path("folder").mkdir()
    Path("table.csv").touch()
    if path.endswith(".parquet"):
        del entrances["weights"]
    for entrance in entrances.values():
        with pytest.raises(DataError, match=PATHS[path]) as caught:
            entrance(path)
        assert "\n" not in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_path_without_permission(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0)
    for entrance in _entrances(tmp_path).values():
        with pytest.raises(DataError, match="permission denied; ask its owner"):
            entrance(str(tmp_path / "closed" / "x.npy"))


def test_permission_that_is_denied_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entrances = _entrances(tmp_path)
    stat = Path.stat

    def denied(path: Path, **options: Any) -> Any:
        if path.name == "x.npy":
            raise PermissionError(13, "Permission denied", str(path))
        return stat(path, **options)

    monkeypatch.setattr(Path, "stat", denied)
    for entrance in entrances.values():
        with pytest.raises(DataError, match="permission denied; ask its owner"):
            entrance(str(tmp_path / "x.npy"))


LOCAL = {
    "": "the path is empty",
    "a\0b": "NUL character",
    "s3://bucket/x": "a URL",
    "no/x": r"no: no such file or directory",
    "~/none/x": "no such file or directory",
}


@pytest.mark.parametrize("path", LOCAL)
def test_paths_that_are_written(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = GaussianMixture(2).fit(ROWS)
    for suffix, write in (
        (".gmm", model.save),
        (".npy", lambda path: model.predict(ROWS, out=path)),
        (".png", lambda path: plotting.save_picture(plotting.plot_mixture(model), path)),
    ):
        with pytest.raises(OutputError, match=LOCAL[path]):
            write(path and path + suffix)
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("path", ["", "a\0b.gmm", "s3://bucket/m.gmm", "no/m.gmm", ".", "x.npy"])
def test_paths_of_models(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", ROWS)
    with pytest.raises(ModelFileError):
        streamgmm.load(path)
    with pytest.raises((ModelFileError, OutputError)):
        streamgmm.update(path, ROWS)


def test_a_picture_of_an_unknown_kind(tmp_path: Path) -> None:
    axes = plotting.plot_mixture(GaussianMixture(2).fit(ROWS))
    with pytest.raises(OutputError, match=r"name a file that ends in \.png, \.pdf or \.svg"):
        plotting.save_picture(axes, tmp_path / "x.unheard")
    assert matplotlib.__version__
    assert [*tmp_path.iterdir()] == []


def test_errors_survive_pickling() -> None:
    with pytest.raises(StreamGMMError) as settings:
        GaussianMixture(tol=-1).fit(ROWS)
    with pytest.raises(StreamGMMError) as fitted:
        GaussianMixture().predict(ROWS)
    package = MissingPackageError("x needs y", name="y")
    for error in (settings.value, fitted.value, package):
        copied = pickle.loads(pickle.dumps(error))
        assert (type(copied), str(copied)) == (type(error), str(error))
    assert pickle.loads(pickle.dumps(package)).name == "y"
