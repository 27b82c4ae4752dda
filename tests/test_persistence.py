"""Model files: exact, whole or not there, and never trusted."""

import json
import subprocess
import sys
import textwrap
import zipfile
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
from numpy.typing import NDArray

import streamgmm
from streamgmm import GaussianMixture
from streamgmm.core.fitted_model import StopReason
from streamgmm.core.frame import Frame
from streamgmm.errors import ModelFileError, OutputError, ParameterError, StreamGMMError
from streamgmm.options import CovarianceType
from streamgmm.persistence import VERSION, Record, read_record, write_record
from tests.core.cases import TYPES, draw, random_parameters

K, D = 3, 2


def planted(covariance_type: CovarianceType = "full") -> NDArray[np.float64]:
    rng = np.random.default_rng(0)
    return draw(rng, random_parameters(rng, covariance_type, K, D), 500)


def fitted(covariance_type: CovarianceType = "full", **settings: Any) -> GaussianMixture:
    arguments = {"n_components": K, "random_state": 0, **settings}
    model = GaussianMixture(covariance_type=covariance_type, **arguments)
    return model.fit(planted(covariance_type))


def assert_same_model(left: GaussianMixture, right: GaussianMixture) -> None:
    """All attributes but the known files are equal, to the bit and in their types."""
    # A model that was converted has the values of its class where nothing was fitted.
    for name in {*vars(left), *vars(right)} - {"known_files_"}:
        value, other = getattr(left, name), getattr(right, name)
        if name == "_statistics" and value is not None:
            assert_same_fields(value, other)
        elif isinstance(value, np.ndarray):
            assert value.dtype == other.dtype, name
            assert value.shape == other.shape, name
            np.testing.assert_array_equal(value, other, err_msg=name)
        elif isinstance(value, list):
            # NaN equals itself in what repr says, and floats say all their digits.
            assert repr(value) == repr(other), name
        else:
            assert value == other, name


def assert_same_fields(left: Any, right: Any) -> None:
    for entry in fields(left):
        value, other = getattr(left, entry.name), getattr(right, entry.name)
        if isinstance(value, Frame):
            assert_same_fields(value, other)
        else:
            np.testing.assert_array_equal(value, other, err_msg=entry.name)
            assert type(value) is type(other)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_round_trip(covariance_type: CovarianceType, tmp_path: Path) -> None:
    model = fitted(
        covariance_type,
        tol=1e-4,
        n_init=2,
        memory_limit="4GiB",
        n_jobs=2,
        max_iter=np.int64(300),
        reg_covar=np.float64(1e-5),
    )
    model.save(tmp_path / "m.gmm")
    loaded = streamgmm.load(tmp_path / "m.gmm")
    assert_same_model(loaded, model)
    X = planted(covariance_type)
    for method in ("predict", "predict_proba", "score_samples", "score", "bic"):
        np.testing.assert_array_equal(getattr(loaded, method)(X), getattr(model, method)(X))
    np.testing.assert_array_equal(loaded.sample(10)[0], model.sample(10)[0])
    loaded.save(tmp_path / "again.gmm")
    assert_same_model(streamgmm.load(tmp_path / "again.gmm"), model)


def test_starts_fixed_values_and_names_come_back(tmp_path: Path) -> None:
    start = fitted()
    frame = pandas.DataFrame(planted(), columns=["α", "b c"])
    model = GaussianMixture(
        K,
        weights_init=start.weights_,
        means_init=start.means_.tolist(),
        precisions_init=start.precisions_,
        fixed=("weights", "covariances"),
    ).fit(frame)
    model.save(tmp_path / "m.gmm")
    loaded = streamgmm.load(tmp_path / "m.gmm")
    assert loaded.feature_names_in_.tolist() == ["α", "b c"]
    assert loaded.feature_names_in_.dtype == object
    assert loaded.fixed == ("weights", "covariances")
    np.testing.assert_array_equal(loaded.means_init, model.means_init)
    np.testing.assert_array_equal(loaded.precisions_init, model.precisions_init)
    assert loaded.bic(frame) == model.bic(frame)
    with pytest.raises(ValueError, match="feature names should match"):
        loaded.predict(pandas.DataFrame(planted(), columns=["a", "b"]))


def test_what_a_file_cannot_hold_is_left_at_its_default(tmp_path: Path) -> None:
    model = fitted(random_state=np.random.RandomState(0), callbacks=[lambda event: None])
    model.executor = object()
    model.save(tmp_path / "m.gmm")
    loaded = streamgmm.load(tmp_path / "m.gmm")
    defaults = GaussianMixture()
    assert loaded.random_state is defaults.random_state
    assert loaded.callbacks == defaults.callbacks
    assert loaded.executor == defaults.executor
    np.testing.assert_array_equal(loaded.means_, model.means_)


def test_converted_models_can_be_saved(tmp_path: Path) -> None:
    model = GaussianMixture.from_sklearn(fitted().to_sklearn())
    model.save(tmp_path / "m.gmm")
    assert_same_model(streamgmm.load(tmp_path / "m.gmm"), model)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_a_loaded_model_goes_on(covariance_type: CovarianceType, tmp_path: Path) -> None:
    X = planted(covariance_type)
    model = fitted(covariance_type, warm_start=True)
    model.save(tmp_path / "m.gmm")
    loaded = streamgmm.load(tmp_path / "m.gmm")
    np.testing.assert_array_equal(loaded.fit(X).means_, model.fit(X).means_)


def test_a_narrow_direction_survives(tmp_path: Path) -> None:
    """A covariance does not tell the smaller of two very different deviations; its factor does."""
    rng = np.random.default_rng(0)
    rotation = np.linalg.qr(rng.normal(size=(2, 2)))[0]
    X = (rng.normal(size=(2000, 2)) * [1.0, 1e-9]) @ rotation.T
    model = GaussianMixture(1, reg_covar=0.0).fit(X)
    model.save(tmp_path / "m.gmm")
    loaded = streamgmm.load(tmp_path / "m.gmm")
    np.testing.assert_array_equal(loaded.score_samples(X), model.score_samples(X))


def test_only_fitted_models_are_saved(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not fitted"):
        GaussianMixture().save(tmp_path / "m.gmm")
    assert list(tmp_path.iterdir()) == []


def test_no_pickle(tmp_path: Path) -> None:
    fitted().save(tmp_path / "m.gmm")
    with zipfile.ZipFile(tmp_path / "m.gmm") as archive:
        for name in archive.namelist():
            with archive.open(name) as file:
                version = np.lib.format.read_magic(file)
                assert version == (1, 0)
                _, _, dtype = np.lib.format.read_array_header_1_0(file)
                assert not dtype.hasobject, name
        header = json.loads(np.load(tmp_path / "m.gmm")["header"].tobytes())
    assert header["format"] == "streamgmm"
    assert header["version"] == VERSION


def test_a_pickle_in_a_file_is_never_loaded(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return (pytest.fail, ("a pickle was loaded",))

    trap = np.empty(1, dtype=object)
    trap[0] = Trap()
    np.savez(tmp_path / "m", header=trap)
    with pytest.raises(ModelFileError, match=r"m\.npz"):
        streamgmm.load(tmp_path / "m.npz")


# Writing


def test_saving_replaces(tmp_path: Path) -> None:
    path = tmp_path / "m.gmm"
    fitted().save(path)
    fitted("diag").save(str(path))
    assert streamgmm.load(path).covariance_type == "diag"
    assert [p.name for p in tmp_path.iterdir()] == ["m.gmm"]


def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    """The system refuses to let the file grow, as on a full disk."""
    path = tmp_path / "m.gmm"
    fitted().save(path)
    before = path.read_bytes()
    script = f"""
        import resource, signal
        import streamgmm
        from streamgmm.errors import OutputError
        model = streamgmm.load({str(path)!r})
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, ({len(before) // 2}, resource.RLIM_INFINITY))
        try:
            model.save({str(path)!r})
        except OutputError as error:
            print(error)
    """
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True
    )
    assert "m.gmm cannot be written" in run.stdout
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["m.gmm"]


def test_an_interrupt_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "m.gmm"
    write_record(path, Record({"kept": True}, {}))

    class Interrupting:
        """An array that is interrupted when it is to be written."""

        def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_record(path, Record({}, {"a": np.ones(1000), "b": Interrupting()}))  # type: ignore[dict-item]
    assert read_record(path).header["kept"] is True
    assert [p.name for p in tmp_path.iterdir()] == ["m.gmm"]


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    model = fitted()
    with pytest.raises(OutputError, match=r"missing/m\.gmm cannot be written"):
        model.save(tmp_path / "missing" / "m.gmm")
    (tmp_path / "folder.gmm").mkdir()
    with pytest.raises(OutputError, match=r"folder\.gmm cannot be written"):
        model.save(tmp_path / "folder.gmm")
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"m\.gmm cannot be written"):
        model.save(tmp_path / "file" / "m.gmm")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder.gmm"]


def test_files_may_be_read_by_whom_the_mask_says(tmp_path: Path) -> None:
    fitted().save(tmp_path / "m.gmm")
    (tmp_path / "plain").touch()
    assert (tmp_path / "m.gmm").stat().st_mode == (tmp_path / "plain").stat().st_mode


# Reading


def test_truncated_files(tmp_path: Path) -> None:
    fitted().save(tmp_path / "m.gmm")
    content = (tmp_path / "m.gmm").read_bytes()
    cut = tmp_path / "cut.gmm"
    for size in [*range(0, len(content), 97), len(content) - 1]:
        cut.write_bytes(content[:size])
        with pytest.raises(ModelFileError, match=r"cut\.gmm"):
            streamgmm.load(cut)


def test_flipped_bytes(tmp_path: Path) -> None:
    model = fitted()
    model.save(tmp_path / "m.gmm")
    content = (tmp_path / "m.gmm").read_bytes()
    flipped = tmp_path / "flipped.gmm"
    rng = np.random.default_rng(0)
    n_refused = 0
    for place in rng.choice(len(content), 400, replace=False).tolist():
        for mask in (0xFF, 0x01):
            changed = bytearray(content)
            changed[place] ^= mask
            flipped.write_bytes(changed)
            try:
                loaded = streamgmm.load(flipped)
            except ModelFileError as error:
                assert "flipped.gmm" in str(error)
                n_refused += 1
            else:
                # Bytes that carry nothing, such as dates.
                assert_same_model(loaded, model)
    assert n_refused > 400


def rewrite(path: Path, changes: dict[str, Any], arrays: dict[str, Any] | None = None) -> None:
    """Change a whole file's header or arrays."""
    with np.load(path) as archive:
        content = {name: archive[name] for name in archive.files}
    header = {**json.loads(content["header"].tobytes()), **changes}
    content["header"] = np.frombuffer(json.dumps(header).encode(), dtype=np.uint8)
    for name, value in (arrays or {}).items():
        content.pop(name)
        if value is not None:
            content[name] = value
    with path.open("wb") as file:
        np.savez(file, **content)


@pytest.mark.parametrize("version", [VERSION + 1, 99, "1", None, 1.5])
def test_newer_versions_are_refused(version: Any, tmp_path: Path) -> None:
    fitted().save(tmp_path / "m.gmm")
    rewrite(tmp_path / "m.gmm", {"version": version})
    with pytest.raises(ModelFileError, match=rf"m\.gmm is in format version {version}"):
        streamgmm.load(tmp_path / "m.gmm")


@pytest.mark.parametrize(
    ("changes", "arrays"),
    [
        ({"estimator": "OtherMixture"}, {}),
        ({"estimator": None}, {}),
        ({"settings": {}}, {}),
        ({"settings": None}, {}),
        ({"settings": {"fixed": [], "unheard_of": 1}}, {}),
        ({"fitted": None}, {}),
        ({"statistics": {}}, {}),
        ({"statistics": None}, {}),
        ({"feature_names": 3}, {}),
        ({}, {"weights_": None}),
        ({}, {"weights_": np.array([1.0, 1.0, 1.0])}),
        ({}, {"weights_": np.array(["a", "b", "c"])}),
        ({}, {"means_": np.zeros(3)}),
        ({}, {"means_": np.full((K, D), np.nan)}),
        ({}, {"means_": np.zeros((K, D + 1))}),
        ({}, {"covariances_": np.zeros((K, D))}),
        ({}, {"precisions_cholesky_": np.zeros((K, D, D))}),
        ({}, {"precisions_cholesky_": np.full((K, D, D), np.inf)}),
        ({}, {"statistics.moments": None}),
        ({}, {"statistics.frame.origin": None}),
    ],
)
def test_content_that_makes_no_model(
    changes: dict[str, Any], arrays: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "m.gmm"
    fitted().save(path)
    rewrite(path, changes, arrays)
    with pytest.raises(ModelFileError, match=r"m\.gmm"):
        streamgmm.load(path)


def test_foreign_files(tmp_path: Path) -> None:
    np.savez(tmp_path / "foreign.npz", a=np.ones(3))
    np.save(tmp_path / "array.npy", np.ones(3))
    (tmp_path / "text.gmm").write_text("weights: 0.5\n")
    (tmp_path / "empty.gmm").touch()
    (tmp_path / "folder.gmm").mkdir()
    header = np.frombuffer(b'["streamgmm"]', dtype=np.uint8)
    np.savez(tmp_path / "list.npz", header=header)
    np.savez(tmp_path / "number.npz", header=np.float64(3.0))
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("header", "{}")
    for path in tmp_path.iterdir():
        with pytest.raises(ModelFileError, match=path.name):
            streamgmm.load(path)
    with pytest.raises(ModelFileError, match=r"missing\.gmm: no such file"):
        streamgmm.load(tmp_path / "missing.gmm")
    assert issubclass(ModelFileError, StreamGMMError)


def test_old_bytes_stay_readable(tmp_path: Path) -> None:
    """Loading must not depend on how NumPy compresses or orders an archive."""
    model = fitted()
    model.save(tmp_path / "m.gmm")
    with np.load(tmp_path / "m.gmm") as archive:
        content = {name: archive[name] for name in reversed(archive.files)}
    with (tmp_path / "m.gmm").open("wb") as file:
        np.savez_compressed(file, **content)
    assert_same_model(streamgmm.load(tmp_path / "m.gmm"), model)


def test_nothing_stays_open(tmp_path: Path) -> None:
    fitted().save(tmp_path / "m.gmm")
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        streamgmm.load(tmp_path / "m.gmm")
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_file_says_why_the_fit_ended(tmp_path: Path) -> None:
    model = fitted(max_iter=1, algorithm="em", tol=0.0)
    reason = model.fitted_model_.reason
    assert reason is StopReason.LIMIT
    model.save(tmp_path / "m.gmm")
    assert streamgmm.load(tmp_path / "m.gmm").fitted_model_.reason is reason
    assert model.marginal([0]).fitted_model_.reason is None


def test_a_fitted_model_is_all_that_a_model_is_made_of() -> None:
    model = fitted()
    again = GaussianMixture.from_fitted_model(model.fitted_model_, random_state=0)
    assert again.fitted_model_.statistics is model.fitted_model_.statistics
    assert (again.lower_bound_, again.history_) == (model.lower_bound_, model.history_)
    np.testing.assert_array_equal(again.covariances_, model.covariances_)
    np.testing.assert_allclose(again.precisions_, model.precisions_, rtol=1e-13)
    with pytest.raises(ParameterError, match="n_components is 7"):
        GaussianMixture.from_fitted_model(model.fitted_model_, n_components=7)
