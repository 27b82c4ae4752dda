"""Files of anyone: settings that they name, arrays of any shape, and archives of any kind."""

import copy
import functools
import json
import logging
import os
import socket
import struct
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import streamgmm
from benchmarks.fuzz import checkpoints, models
from benchmarks.fuzz.content import Content, described, npy
from benchmarks.fuzz.trials import run
from streamgmm import GaussianMixture, OnlineGaussianMixture
from streamgmm.core.e_step import EStep
from streamgmm.core.fitted_model import FittedModel
from streamgmm.core.frame import Frame
from streamgmm.core.incomplete import IncompleteExpectation
from streamgmm.core.parameters import Parameters
from streamgmm.core.statistics import Statistics
from streamgmm.core.structures import STRUCTURES
from streamgmm.errors import CheckpointError, DataError, ModelFileError, ParameterError
from streamgmm.persistence import Record, read_record, write_record
from tests.core.cases import TYPES, random_parameters

K, D = 3, 2
MOST_BYTES = 64 << 20


def rows(n: int = 600, seed: int = 0) -> NDArray[np.float64]:
    random = np.random.default_rng(seed)
    return random.normal(size=(n, D)) + 8.0 * random.integers(K, size=(n, 1))


def batch(kind: Any = "full", **settings: Any) -> GaussianMixture:
    return GaussianMixture(K, covariance_type=kind, random_state=0, n_jobs=1, **settings).fit(
        rows()
    )


@functools.cache
def model_of(what: str, kind: str) -> Any:
    """A batch model, one that learned a stream, or one that still holds rows."""
    if what == "batch":
        return batch(kind)
    settings: dict[str, Any] = {"init_size": 200, "learning_offset": 250.0}
    model = OnlineGaussianMixture(K, covariance_type=kind, random_state=0, n_jobs=1, **settings)
    return model.fit(rows(600 if what == "stream" else 150))


def saved(folder: Path, what: str = "batch", kind: str = "full") -> Path:
    """The file of such a model."""
    model_of(what, kind).save(folder / "m.gmm")
    return folder / "m.gmm"


@pytest.fixture(params=["batch", "stream", "holding"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A file of each kind."""
    return saved(tmp_path, request.param)


def changed(path: Path, change: Callable[[dict[str, Any], dict[str, Any]], object]) -> None:
    """Change the header or the arrays of a file, and give it the digest of the new content."""
    record = read_record(path)
    header, arrays = copy.deepcopy(dict(record.header)), dict(record.arrays)
    change(header, arrays)
    write_record(path, Record(header, arrays))


@contextmanager
def bounded_memory(declared: int = 0) -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < MOST_BYTES + 2 * declared
    finally:
        tracemalloc.stop()


# Settings and attributes


@pytest.mark.parametrize("path", ["batch", "stream"], indirect=True)
@pytest.mark.parametrize(
    ("name", "value", "is_old"),
    [
        ("checkpoint", "{folder}/rows", False),
        ("checkpoint", "{folder}/rows", True),
        ("checkpoint", "file://{folder}/rows", False),
        ("checkpoint", "memory://rows", True),
        ("checkpoint_interval", 1e-9, False),
        ("checkpoint_interval", 1e-9, True),
        ("executor", "dask", False),
        ("executor", "tcp://127.0.0.1:8786", True),
        ("callbacks", ["os.system"], False),
        ("callbacks", "print", True),
    ],
)
def test_a_file_names_no_place_no_executor_and_no_function(
    name: str, value: Any, is_old: bool, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    if isinstance(value, str):
        value = value.format(folder=path.parent)
    if is_old:
        # Without a digest.
        content = Content.of(path)
        del content.header["digest"]
        content.header["settings"][name] = value
        content.write(path)
    else:
        changed(path, lambda header, arrays: header["settings"].update({name: value}))
    with caplog.at_level(logging.WARNING, "streamgmm"):
        model: Any = streamgmm.load(path)
    assert name in caplog.text
    assert "rows" not in caplog.text
    defaults = type(model)().get_params()
    assert model.get_params().get(name) == defaults.get(name)
    model.fit(rows())
    assert [file.name for file in path.parent.iterdir()] == ["m.gmm"]


def test_such_settings_are_not_saved(tmp_path: Path) -> None:
    model = batch(
        checkpoint=tmp_path / "c", executor="threads", callbacks=[print], checkpoint_interval=9.0
    )
    model.save(tmp_path / "m.gmm")
    text = json.dumps(read_record(tmp_path / "m.gmm").header)
    assert not any(f'"{name}"' in text for name in ("checkpoint", "executor", "callbacks"))
    assert str(tmp_path) not in text


@pytest.mark.parametrize(
    "name",
    ["fit", "predict", "_progress", "_statistics", "weights_", "checkpoint", "__class__", "x"],
)
def test_a_file_sets_no_other_attributes(name: str, path: Path) -> None:
    changed(path, lambda header, arrays: header["fitted"].update({name: "x"}))
    with pytest.raises(ModelFileError, match=r"m\.gmm is damaged: .*unknown"):
        streamgmm.load(path)


WRONG_SETTINGS = [
    ("unheard_of", 1),
    ("n_components", 0),
    ("n_components", True),
    ("n_components", 3.0),
    ("n_components", 10**30),
    ("n_components", None),
    ("covariance_type", "round"),
    ("covariance_type", ["full"]),
    ("covariance_type", "diag"),
    ("reg_covar", -1.0),
    ("reg_covar", float("nan")),
    ("reg_covar", "best"),
    ("n_init", 0),
    ("init_params", "/etc/passwd"),
    ("random_state", -1),
    ("random_state", "x"),
    ("verbose_interval", 0.5),
    ("n_jobs", 0),
    ("n_jobs", 10**30),
    ("n_jobs", -(10**30)),
    ("n_jobs", "all"),
    ("memory_limit", "much"),
    ("memory_limit", []),
]


@pytest.mark.parametrize(("name", "value"), WRONG_SETTINGS)
def test_settings_have_types_and_ranges(name: str, value: Any, path: Path) -> None:
    changed(path, lambda header, arrays: header["settings"].update({name: value}))
    with pytest.raises(ModelFileError, match=r"m\.gmm is damaged"):
        streamgmm.load(path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tol", -1.0),
        ("fixed", ["weights", "rows"]),
        ("fixed", "weights"),
        ("fixed", {"rows": [True, False]}),
        ("fixed", {"means": [True]}),
        ("fixed", {"means": [1, 0]}),
        ("fixed", {"means": True}),
        ("warm_start", "yes"),
        ("algorithm", "best"),
        ("arithmetic", 32),
        ("survey_part", 0.0),
        ("max_iter", 1.5),
    ],
)
def test_settings_of_a_batch_model(name: str, value: Any, tmp_path: Path) -> None:
    path = saved(tmp_path)
    changed(path, lambda header, arrays: header["settings"].update({name: value}))
    with pytest.raises(ModelFileError, match=r"m\.gmm is damaged"):
        streamgmm.load(path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("converged_", 1),
        ("n_iter_", -1),
        ("n_iter_", 1.5),
        ("lower_bound_", "high"),
        ("lower_bounds_", [0.0, "none"]),
        ("lower_bounds_", 0.0),
        ("n_features_in_", 0),
        ("n_features_in_", "2"),
        ("n_reads_", -1.0),
        ("n_reads_", float("nan")),
        ("history_", {}),
        ("history_", [3]),
        ("history_", [{"unknown": 1}]),
        ("history_", [{"n_rows": "many"}]),
    ],
)
def test_attributes_have_types_and_ranges(name: str, value: Any, tmp_path: Path) -> None:
    path = saved(tmp_path)
    changed(path, lambda header, arrays: header["fitted"].update({name: value}))
    with pytest.raises(ModelFileError, match=r"m\.gmm is damaged"):
        streamgmm.load(tmp_path / "m.gmm")


@pytest.mark.parametrize("names", [["a"], ["a", "b", "c"], ["a", 1], "ab", {"a": "b"}])
def test_names_of_features_are_texts_one_for_each(names: Any, path: Path) -> None:
    changed(path, lambda header, arrays: header.update({"feature_names": names}))
    with pytest.raises(ModelFileError, match=r"m\.gmm is damaged"):
        streamgmm.load(path)


# Progress of a model that learns


STREAM_CHANGES: list[tuple[str, list[Any]]] = [
    ("plan.init_size", [0, 1, -1, 2.5, None, "x"]),
    ("plan.seed", [-1, 2**32, 1.5, None]),
    ("plan.n_components", [2, 0, None]),
    ("plan.schedule", [None, [], [1.0], [0.0, 0.6, None], [1.0, 0.4, None], [1.0, 2.0, None]]),
    ("plan.schedule", [[float("inf"), 0.6, None], [1.0, 0.6, -1.0], [1.0, 0.6, "x"]]),
    ("progress.next_search", [-1, None, 1.5, "x"]),
    ("progress.n_seen", [-1.0, float("nan"), float("inf"), "x", 10**400]),
    ("progress.n_searches", [-1, 2**40, 0.5]),
    ("progress.changes", [3, ["x"], [float("nan")], None]),
    ("progress.test", [[], [1, 2], [-1, 0.0, 0.0, 0.0], [1, float("nan"), 0.0, 0.0], None]),
    ("progress.skipped", [[-1], [0, 0, 0, 0, 0], ["x"], 3]),
    ("progress.record", [[], [0.0], [-1.0, None], [0.0, [0.0, 1.0]], [0.0, None, [1.0]], 3]),
    ("progress.is_holding", [None, 1, "yes"]),
    ("model.n_rows", [-1.0, float("nan"), None, 10**400]),
    ("model.n_steps", [-1, 0.5, None]),
    ("model.total", [None, {}, []]),
    ("model.total.weight", [0.0, -1.0, float("inf"), "x"]),
    ("model.total.covariance_type", ["diag", "round", None, []]),
    ("model.total.n_rows", [-1, None, float("nan")]),
    ("model.recent.log_likelihood", [float("nan"), "x", None]),
    ("ledger", [[], {}, None, {"batches": {"entries": {}, "watermark": 3}, "folders": {}}]),
]


@pytest.mark.parametrize(("place", "values"), STREAM_CHANGES)
@pytest.mark.parametrize("what", ["stream", "holding"])
def test_progress_has_types_and_ranges(
    place: str, values: list[Any], what: str, tmp_path: Path
) -> None:
    path = saved(tmp_path, what)
    whole = path.read_bytes()
    for value in values:
        path.write_bytes(whole)

        def change(header: dict[str, Any], arrays: dict[str, Any], value: Any = value) -> None:
            *parents, last = place.split(".")
            for name in parents:
                header = header[name]
            header[last] = value

        changed(path, change)
        with pytest.raises(ModelFileError, match=r"m\.gmm is damaged"):
            streamgmm.load(path)


def test_a_search_that_is_never_due_is_refused(tmp_path: Path) -> None:
    """Rows would be held for it without an end."""
    path = saved(tmp_path, "holding")
    for name, value in (("next_search", 201), ("next_search", 2)):
        record = read_record(path)
        progress = {**record.header["progress"], name: value}
        write_record(path, Record({**record.header, "progress": progress}, record.arrays))
        with pytest.raises(ModelFileError, match="next search is due"):
            streamgmm.load(path)


@pytest.mark.parametrize("n_rows", [float("inf"), -1, 1e300])
def test_positions_in_a_ledger_are_numbers_of_rows(n_rows: float, tmp_path: Path) -> None:
    path = tmp_path / "m.gmm"
    np.save(tmp_path / "x.npy", rows())
    streamgmm.update(path, tmp_path / "x.npy", n_components=K, init_size=200)

    def change(header: dict[str, Any], arrays: dict[str, Any]) -> None:
        (files,) = header["ledger"]["folders"]["entries"].values()
        (position,) = files["entries"].values()
        position[0] = n_rows

    changed(path, change)
    with pytest.raises(ModelFileError, match="its ledger"):
        streamgmm.load(path)


# Arrays


ARRAY_CHANGES: dict[str, Callable[[NDArray[Any]], NDArray[Any]]] = {
    "one row more": lambda array: np.concatenate([array, array[:1]]),
    "flat": lambda array: array.ravel()[np.newaxis, np.newaxis, np.newaxis, np.newaxis],
    "no axis": lambda array: np.zeros(()),
    "complex": lambda array: array.astype(np.complex128),
    "text": lambda array: array.astype("U8"),
    "float32": lambda array: array.astype(np.float32),
    "infinite": lambda array: np.where(np.ones_like(array, bool), np.inf, array),
    "of 2^40": lambda array: np.full_like(array, 2**40),
}


@pytest.mark.parametrize("how", ARRAY_CHANGES)
@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("what", ["batch", "stream", "holding"])
def test_every_array_has_its_type_and_shape(how: str, kind: str, what: str, tmp_path: Path) -> None:
    path = saved(tmp_path, what, kind)
    whole, names = path.read_bytes(), sorted(read_record(path).arrays)
    for name in names:
        path.write_bytes(whole)
        before = read_record(path).arrays[name]
        if not before.size:
            continue
        after = ARRAY_CHANGES[how](before)
        if how == "of 2^40" and not name.endswith(("centred", "weights", "weights_")):
            continue
        # Weights of rows may be large.
        if how == "of 2^40" and name in ("held.weights", "latest.weights"):
            continue
        changed(path, lambda header, arrays: arrays.update({name: after}))  # noqa: B023
        with pytest.raises(ModelFileError, match=r"m\.gmm is damaged"):
            streamgmm.load(path)


def test_centred_components_of_a_frame_are_components(tmp_path: Path) -> None:
    """One component is far from the others and narrow, and so its moments are about its mean."""
    path = tmp_path / "m.gmm"
    narrow = 1e-7 * np.random.default_rng(0).normal(size=(300, D)) + 1e3
    model = GaussianMixture(2, random_state=0, reg_covar=0.0).fit(np.concatenate([rows(), narrow]))
    assert model.fitted_model_.statistics is not None
    assert model.fitted_model_.statistics.frame.centred.size
    model.save(path)
    whole = path.read_bytes()
    for value in (-1, 2, 2**40):
        path.write_bytes(whole)
        name = "statistics.frame.centred"
        changed(path, lambda header, arrays: arrays[name].fill(value))  # noqa: B023
        with pytest.raises(ModelFileError, match="centred components"):
            streamgmm.load(path)


def test_covariances_are_symmetric_and_positive(tmp_path: Path) -> None:
    path = saved(tmp_path)
    whole = path.read_bytes()
    for name in ("covariances_", "precisions_"):
        for change in (lambda a: a.__setitem__((0, 0, 1), 9.0), lambda a: a.fill(-1.0)):
            path.write_bytes(whole)
            changed(path, lambda header, arrays: change(arrays[name]))  # noqa: B023
            with pytest.raises(ModelFileError, match=name):
                streamgmm.load(path)


def test_rows_and_statistics_of_another_size_are_refused(tmp_path: Path) -> None:
    """All arrays of a model agree with each other, but not with the size that it names."""
    path, other = tmp_path / "m.gmm", tmp_path / "other.gmm"
    settings: dict[str, Any] = {"random_state": 0, "init_size": 200}
    OnlineGaussianMixture(K, **settings).fit(rows()).save(path)
    OnlineGaussianMixture(2, **settings).fit(np.tile(rows(), 3)).save(other)
    record, foreign = read_record(path), read_record(other)
    for prefix in ("model.total.", "model.recent.", "model.", "latest."):
        arrays = {
            **record.arrays,
            **{n: a for n, a in foreign.arrays.items() if n.startswith(prefix)},
        }
        write_record(path, Record(record.header, arrays))
        with pytest.raises(ModelFileError, match="shape"):
            streamgmm.load(path)


def test_statistics_check_themselves() -> None:
    parameters = random_parameters(np.random.default_rng(0), "full", K, D)
    frame = Frame.of(parameters)
    found = EStep.prepare(parameters, frame).statistics(rows())
    found.check()
    for wrong in (
        replace(found, moments=found.moments[:, :-1]),
        replace(found, moments=-found.moments),
        replace(found, scatter=np.zeros((D, D))),
        replace(found, weight=-1.0),
        replace(found, n_rows=-1),
        replace(found, log_likelihood=np.nan),
        replace(found, frame=replace(frame, scale=-frame.scale)),
        replace(found, frame=replace(frame, origin=np.zeros(D + 1))),
        replace(found, frame=replace(frame, centred=np.array([0]))),
    ):
        with pytest.raises(ParameterError):
            wrong.check()


# Kernels


@pytest.mark.parametrize("prepared", [EStep, IncompleteExpectation])
def test_kernels_get_rows_and_weights_that_fit(prepared: Any) -> None:
    parameters = random_parameters(np.random.default_rng(0), "full", K, D)
    expectation = prepared.prepare(parameters, Frame.of(parameters))
    X = rows()
    for weights in (np.ones(len(X) - 1), np.ones((len(X), 1)), np.ones(1)):
        with pytest.raises(DataError, match="weights have shape"):
            expectation.statistics(X, weights)
    for wrong in (X[:, :1], X.ravel(), np.zeros((3, D + 1))):
        with pytest.raises(DataError, match="rows have shape"):
            expectation.statistics(wrong)
        with pytest.raises(DataError, match="rows have shape"):
            expectation.posterior(wrong)
        if prepared is IncompleteExpectation:
            with pytest.raises(DataError, match="rows have shape"):
                expectation.impute(wrong)


@pytest.mark.parametrize("kind", TYPES)
def test_kernels_get_coefficients_that_agree(kind: Any) -> None:
    parameters = random_parameters(np.random.default_rng(0), kind, K, D)
    whole = EStep.prepare(parameters, Frame.of(parameters))
    whole.statistics(rows())
    for name, value in whole.coefficients._asdict().items():
        if not isinstance(value, np.ndarray) or name == "scatter_features":
            continue
        longer = np.concatenate([value, np.zeros_like(value, shape=(1, *value.shape[1:]))])
        wrong = replace(whole, coefficients=whole.coefficients._replace(**{name: longer}))
        with pytest.raises(ParameterError, match="other shapes"):
            wrong.statistics(rows())
    for order in (np.arange(K - 1), np.arange(K) + 1, np.arange(K) - 1):
        with pytest.raises(ParameterError, match="other shapes"):
            replace(whole, order=order).statistics(rows())


# Digests


def test_what_was_changed_without_its_digest_is_refused(path: Path) -> None:
    content = Content.of(path)
    name = max(content.arrays, key=lambda name: content.arrays[name].size)
    content.arrays[name] = content.arrays[name] * (1.0 + 1e-15)
    content.write(path)
    with pytest.raises(ModelFileError, match=r"m\.gmm is damaged or was changed: .*digest"):
        streamgmm.load(path)


@pytest.mark.parametrize("place", ["progress.n_seen", "model.n_rows", "plan.seed"])
def test_numbers_of_the_header_belong_to_the_digest(place: str, tmp_path: Path) -> None:
    path = saved(tmp_path, "stream")
    content = Content.of(path)
    part, name = place.split(".")
    content.header[part][name] += 1
    content.write(path)
    with pytest.raises(ModelFileError, match="digest"):
        streamgmm.load(path)


def test_files_without_a_digest_are_loaded(path: Path) -> None:
    expected: Any = streamgmm.load(path)
    content = Content.of(path)
    del content.header["digest"]
    content.write(path)
    found: Any = streamgmm.load(path)
    np.testing.assert_array_equal(found.means_, expected.means_)
    assert vars(found).keys() == vars(expected).keys()


# Archives


def archive(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> None:
    with zipfile.ZipFile(path, "w", method) as file:
        for name, values in members.items():
            file.writestr(f"{name}.npy", values)


def members_of(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as file:
        return {name.removesuffix(".npy"): file.read(name) for name in file.namelist()}


def test_compressed_members_take_what_the_header_declares(tmp_path: Path) -> None:
    path = saved(tmp_path)
    whole = members_of(path)
    large = npy(np.zeros((250, 1000, 1000), np.uint8))
    for name, values, method in (
        ("means_", large, zipfile.ZIP_DEFLATED),
        ("unknown", large, zipfile.ZIP_DEFLATED),
        ("header", large, zipfile.ZIP_DEFLATED),
        ("means_", whole["means_"] + bytes(250_000_000), zipfile.ZIP_DEFLATED),
        ("means_", whole["means_"] + bytes(250_000_000), zipfile.ZIP_BZIP2),
        ("means_", whole["means_"] + bytes(100_000_000), zipfile.ZIP_LZMA),
    ):
        archive(path, {**whole, name: values}, method)
        assert path.stat().st_size < 2_000_000
        with bounded_memory(), pytest.raises(ModelFileError, match=r"m\.gmm"):
            streamgmm.load(path)


def test_a_large_model_is_no_bomb_because_its_header_agrees(tmp_path: Path) -> None:
    """The header names as many components as the compressed arrays have."""
    path, k = tmp_path / "m.gmm", 20_000_000
    GaussianMixture(2, covariance_type="spherical").fit(rows()[:, :1]).save(path)
    whole, content = members_of(path), Content.of(path)
    del content.header["digest"]
    content.header["settings"]["n_components"] = k
    content.header["fitted"]["n_features_in_"] = 1
    text = npy(np.frombuffer(json.dumps(content.header).encode(), np.uint8))
    zeros = {name: npy(np.zeros(k)) for name in ("weights_", "covariances_")}
    archive(path, {**whole, **zeros, "header": text})
    with bounded_memory(), pytest.raises(ModelFileError, match="declare arrays of"):
        streamgmm.load(path)


def test_loading_takes_twice_the_arrays_at_most(tmp_path: Path) -> None:
    parameters = random_parameters(np.random.default_rng(0), "full", 40, 150)
    fitted = FittedModel(parameters, reg_covar=np.zeros(150))
    model = GaussianMixture.from_fitted_model(fitted)
    model.save(tmp_path / "m.gmm")
    declared = sum(array.nbytes for array in read_record(tmp_path / "m.gmm").arrays.values())
    tracemalloc.start()
    streamgmm.load(tmp_path / "m.gmm")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert declared > 20_000_000
    assert peak < 2 * declared


@pytest.mark.parametrize(
    "values",
    [
        described("<f8", (2**40, 2**20)) + bytes(64),
        described("<f8", (-1, 2)),
        described("|O", (1,)) + b"\x80\x04N.",
        described([("a", "<f8"), ("b", "|O")], (1,)) + bytes(16),
        described([("a", "<f8")], (1,)) + bytes(8),
        described("<f8", (K, D)) + bytes(8 * K * D - 1),
        described("<f8", (K, D)) + bytes(8 * K * D + 1),
        b"\x93NUMPY\x03\x00\xff\xff\xff\xff",
        b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 0xFFFF,
        b"\x93NUMPY\x01\x00\xff\x0f" + b"[" * 0x0FFF,
        b"",
        b"no array",
    ],
)
def test_members_are_arrays_of_numbers(values: bytes, tmp_path: Path) -> None:
    path = saved(tmp_path)
    archive(path, {**members_of(path), "means_": values})
    with bounded_memory(), pytest.raises(ModelFileError, match=r"m\.gmm is damaged"):
        streamgmm.load(path)


def test_headers_of_any_depth_and_length(tmp_path: Path) -> None:
    path = saved(tmp_path)
    whole = members_of(path)
    for text in (
        b"[" * 100_000 + b"]" * 100_000,
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        b'{"format": "streamgmm", "version": 1, "a": ' + b"[" * 50 + b"]" * 50 + b"}",
        b"[" + b"[]," * 5_000_000 + b"[]]",
        b"[" + b"{}," * 5_000_000 + b"{}]",
        b'{"format": "streamgmm", "version": 1' + b"0" * 5000 + b"}",
        b'{"format": "streamgmm", "version": 1',
        b"\xff\xfe\x00",
        b"",
        b" " * (65 << 20),
    ):
        archive(path, {**whole, "header": npy(np.frombuffer(text, np.uint8))})
        with bounded_memory(len(text)), pytest.raises(ModelFileError, match=r"m\.gmm"):
            streamgmm.load(path)


@pytest.mark.parametrize("header", [np.float64(3.0), np.zeros(4), np.zeros(4, np.int8)])
def test_headers_are_bytes(header: Any, tmp_path: Path) -> None:
    path = saved(tmp_path)
    archive(path, {**members_of(path), "header": npy(np.asarray(header))})
    with pytest.raises(ModelFileError, match=r"m\.gmm is not a streamgmm model file"):
        streamgmm.load(path)


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
def test_members_that_are_there_twice(tmp_path: Path) -> None:
    path = saved(tmp_path)
    whole = path.read_bytes()
    for name in ("means_.npy", "header.npy", "means_"):
        path.write_bytes(whole)
        with zipfile.ZipFile(path, "a") as file:
            file.writestr(name, npy(np.zeros((K, D))))
        with pytest.raises(ModelFileError, match="is no array, or is there twice"):
            streamgmm.load(path)


@pytest.mark.parametrize(("offset", "value"), [(8, 1), (10, 97), (10, 12), (6, 99)])
def test_encrypted_members_and_unknown_compression(offset: int, value: int, tmp_path: Path) -> None:
    path = saved(tmp_path)
    whole = bytearray(path.read_bytes())
    place = whole.rindex(b"PK\x01\x02") + offset
    whole[place : place + 2] = struct.pack("<H", value)
    path.write_bytes(whole)
    with pytest.raises(ModelFileError, match=r"m\.gmm is damaged"):
        streamgmm.load(path)


def test_a_long_list_of_members(tmp_path: Path) -> None:
    path = tmp_path / "m.gmm"
    archive(path, {f"{number:0100d}": b"" for number in range(20_000)}, zipfile.ZIP_STORED)
    with bounded_memory(), pytest.raises(ModelFileError, match="list of members is too long"):
        streamgmm.load(path)


def test_arrays_of_another_byte_order_are_read(path: Path) -> None:
    """As a machine of that order would write them."""
    expected: Any = streamgmm.load(path)
    content = Content.of(path)
    del content.header["digest"]
    swapped = {
        name: array.astype(array.dtype.newbyteorder(">")) for name, array in content.arrays.items()
    }
    Content(content.header, swapped).write(path)
    found: Any = streamgmm.load(path)
    np.testing.assert_array_equal(found.predict(rows()), expected.predict(rows()))


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        for path in (*tmp_path.iterdir(), Path("/dev/zero"), Path("/dev/null")):
            with pytest.raises(ModelFileError, match=str(path)):
                streamgmm.load(path)
    with pytest.raises(ModelFileError, match="NUL character"):
        streamgmm.load("m\0.gmm")


# Checkpoints


def test_a_random_state_reads_no_memory_beyond_its_key(tmp_path: Path) -> None:
    place = tmp_path / "c"
    settings: dict[str, Any] = {"random_state": 0, "n_jobs": 1, "checkpoint": place}
    GaussianMixture(K, **settings).fit(rows())
    content = json.loads((place / "settings.json").read_text())
    for position in (-1, 625, 2**31 - 1, None, "0"):
        content["random_state"]["state"]["pos"] = position
        (place / "settings.json").write_text(json.dumps(content))
        with pytest.raises(CheckpointError, match=r"settings\.json is damaged"):
            GaussianMixture(K, **settings).fit(rows(), resume=True)


def test_settings_of_a_checkpoint_of_any_depth(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"random_state": 0, "checkpoint": tmp_path / "c"}
    GaussianMixture(K, **settings).fit(rows())
    (tmp_path / "c" / "settings.json").write_text("[" * 100_000 + "]" * 100_000)
    with pytest.raises(CheckpointError, match=r"settings\.json is damaged"):
        GaussianMixture(K, **settings).fit(rows(), resume=True)


def test_each_part_of_a_result_is_checked(tmp_path: Path) -> None:
    """Whatever is changed in a result, its digest is right."""
    place = tmp_path / "c"
    settings: dict[str, Any] = {"random_state": 0, "n_jobs": 1, "checkpoint": place}
    GaussianMixture(K, **settings).fit(rows())
    changes: list[Callable[[dict[str, Any], dict[str, Any]], object]] = [
        lambda header, arrays: header.update(value=None),
        lambda header, arrays: header.update(reads=[{}]),
        lambda header, arrays: header.update(reads=3),
        lambda header, arrays: header["reads"].append({"number": "x"}),
        lambda header, arrays: arrays.clear(),
        lambda header, arrays: arrays.update({n: a[:-1] for n, a in [*arrays.items()][:1]}),
        lambda header, arrays: arrays.update({n: a.astype("f4") for n, a in arrays.items()}),
        lambda header, arrays: arrays.update({n: a + np.inf for n, a in arrays.items()}),
    ]
    n_tried = 0
    for piece in sorted(place.glob("*.npz")):
        whole = piece.read_bytes()
        for change in changes:
            changed(piece, change)
            with pytest.raises(CheckpointError, match=piece.name):
                GaussianMixture(K, **settings).fit(rows(), resume=True)
            piece.write_bytes(whole)
            n_tried += 1
    assert n_tried > 20
    GaussianMixture(K, **settings).fit(rows(), resume=True)


def test_results_of_another_size_are_not_those_of_this_fit() -> None:
    from streamgmm.algorithms.reads.reader import Reading

    random = np.random.default_rng(0)
    own = random_parameters(random, "full", K, D)
    nothing = Statistics.zero(Frame.of(own), K)
    reading = Reading(own, nothing)
    assert reading.is_of(own)
    for other in (("full", K + 1, D), ("full", K, D + 1), ("diag", K, D)):
        parameters: Parameters = random_parameters(random, *other)  # type: ignore[arg-type]
        assert not reading.is_of(parameters)


# At random


@pytest.mark.filterwarnings("ignore")
def test_model_files_at_random(tmp_path: Path) -> None:
    known = models.originals(tmp_path)
    found = run(lambda *arguments: models.trial(known, *arguments), range(60), 1)
    assert found.faults == []
    assert found.counts["refused"] > 20
    assert found.counts["the same answer"] > 3


@pytest.mark.filterwarnings("ignore")
def test_checkpoints_are_continued_before_they_are_changed(tmp_path: Path) -> None:
    """The checkpoints that are changed at random are valid ones, of each structure."""
    assert len(checkpoints.originals(tmp_path)) == 6 * len(STRUCTURES)
