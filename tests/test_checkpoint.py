"""Interrupted fits continue where they were, and give the bits of uninterrupted ones."""

import copy
import itertools
import json
import math
import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask
import dask.array
import fsspec
import numpy as np
import pytest
import s3fs
import zarr

import streamgmm
from streamgmm import GaussianMixture
from streamgmm.errors import CheckpointError, DataError, OutputError, ParameterError
from streamgmm.events import CheckpointWritten, Event, ReadStarted
from streamgmm.persistence import Record, read_record, write_record
from streamgmm.protocols import Chunk, Source
from streamgmm.testing.chunked import ChunkedSource
from tests.failures.checkpoint import STEPS, content, in_a_fork, kill_at
from tests.object_store import object_store

pytestmark = pytest.mark.usefixtures("several_passes")

N, D, K = 20_000, 3, 4
CHUNK = 2500

CASES: dict[str, dict[str, Any]] = {
    "auto, full": {},
    "auto, few reads": {"tol": 1e-3},
    "auto, diag, missing": {"covariance_type": "diag", "n_init": 2},
    "auto, tied, no seed": {"covariance_type": "tied", "random_state": None},
    "auto, generator": {"covariance_type": "spherical", "random_state": np.random.RandomState(3)},
    "auto, weights": {"survey_part": 0.9},
    "em, full, no seed": {"algorithm": "em", "max_iter": 3, "n_init": 2, "random_state": None},
    "em, diag, missing": {"algorithm": "em", "max_iter": 3, "covariance_type": "diag"},
    "em, tied, weights": {"algorithm": "em", "max_iter": 2, "n_init": 3, "covariance_type": "tied"},
    "em, given start": {
        "algorithm": "em",
        "max_iter": 4,
        "weights_init": np.full(K, 0.25),
        "means_init": np.arange(K * D, dtype=float).reshape(K, D),
        "precisions_init": np.tile(np.eye(D), (K, 1, 1)),
    },
}


def table() -> np.ndarray:
    random = np.random.default_rng(0)
    means = 4.0 * random.normal(size=(K, D))
    rows: np.ndarray = means[random.integers(0, K, N)] + random.normal(size=(N, D))
    return rows


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    rows = table()
    zarr.create_array(folder / "x.zarr", data=rows, chunks=(CHUNK, D))
    rows[np.random.default_rng(1).random(rows.shape) < 0.1] = np.nan
    zarr.create_array(folder / "gaps.zarr", data=rows, chunks=(CHUNK, D))
    np.save(folder / "weights.npy", np.random.default_rng(2).random(N))
    return folder


def data_of(case: str, store: Path) -> Any:
    if case in ("auto, full", "auto, few reads"):
        return ChunkedSource(table(), CHUNK, read_bytes=0)
    if "missing" in case:
        return streamgmm.open(store / "gaps.zarr", missing="em")
    weights = store / "weights.npy" if "weights" in case else None
    return streamgmm.open(store / "x.zarr", sample_weight=weights)


def estimator(case: str, **settings: Any) -> GaussianMixture:
    own = copy.deepcopy(CASES[case])
    return GaussianMixture(K, **{"random_state": 0, "tol": 1e-7, "n_jobs": 1, **own, **settings})


# Fits in processes of their own, which are killed on the way. They are forked from one that has
# done a whole fit, and so has loaded the kernels and has no thread left.
PROGRAM = """
import sys
from pathlib import Path
from streamgmm.algorithms.sampling import row_sample
from tests.test_checkpoint import kill_and_resume, kill_within_reads

# As in this process.
row_sample._FEW_VALUES = 0
kill = kill_within_reads if sys.argv[4] == "within reads" else kill_and_resume
kill(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4])
"""


def kill_and_resume(case: str, store: Path, folder: Path, how: str) -> None:
    """Write the models of an uninterrupted fit and of others that were killed and continued."""
    np.random.seed(5)  # noqa: NPY002 - what random_state=None is about
    estimator(case).fit(data_of(case, store)).save(folder / "whole.gmm")

    def count_reads(event: Event) -> None:
        if isinstance(event, ReadStarted):
            with (folder / "reads.txt").open("a") as file:
                file.write(f"{event.purpose}\n")

    def fit(checkpoint: Path, resume: bool, seed: int, out: Path | None = None) -> None:
        np.random.seed(seed)  # noqa: NPY002
        model = estimator(case, checkpoint=checkpoint, callbacks=count_reads)
        if seed != 5 and isinstance(model.random_state, np.random.RandomState):
            model.random_state.seed(seed)
        model.fit(data_of(case, store), resume=resume)
        if out is not None:
            model.save(out)

    if how == "every step":
        for place in STEPS:
            for count in range(100):
                checkpoint = folder / f"{place} {count}"

                def killed(place: str = place, count: int = count, path: Path = checkpoint) -> None:
                    kill_at(place, count)
                    fit(path, False, 5)

                status = in_a_fork(killed)
                if status == 0:
                    break
                assert status == -signal.SIGKILL
                has_begun = (checkpoint / "settings.json").exists()
                if has_begun and (checkpoint / "model.gmm").exists():
                    assert streamgmm.load(checkpoint / "model.gmm").predict(np.zeros((1, D)))[0] < K
                out = folder / f"{place} {count}.gmm"
                assert in_a_fork(lambda path=checkpoint, out=out: fit(path, True, 5, out)) == 0
                assert not list(checkpoint.glob("*.part")) + list(checkpoint.glob(".*.part"))
        return
    # The same job is started again and again, and gets one result further each time.
    for count in range(100):

        def killed_after_one(is_first: bool = count == 0) -> None:
            kill_at("renamed", 0, r"\.npz")
            fit(folder / "checkpoint", True, 5 if is_first else 99, folder / "resumed.gmm")

        status = in_a_fork(killed_after_one)
        if status == 0:
            break
        assert status == -signal.SIGKILL
    assert count == len(list((folder / "checkpoint").glob("*.npz"))) > 3


def kill_within_reads(case: str, store: Path, folder: Path, _: str) -> None:
    """Write the models of an uninterrupted fit and of one killed whenever it kept a part of a read.

    The chunks that each of them read are in ``whole.txt`` and ``resumed.txt``.
    """

    class Logged(ChunkedSource):
        def read(self, i: int) -> Chunk:
            with (folder / log).open("a") as file:
                file.write(f"{i}\n")
            return super().read(i)

    def fit(name: str, **settings: Any) -> None:
        np.random.seed(5)  # noqa: NPY002 - what random_state=None is about
        source = Logged(table(), CHUNK // 2)
        model = estimator(case, **settings).fit(source, resume="checkpoint" in settings)
        model.save(folder / f"{name}.gmm")

    log = "whole.txt"
    fit("whole")
    log = "resumed.txt"

    def killed_after_one() -> None:
        kill_at("renamed", 0, r"read-")
        fit("resumed", checkpoint=folder / "checkpoint", checkpoint_interval=1e-9)

    kills = list(itertools.takewhile(bool, (in_a_fork(killed_after_one) for _ in range(300))))
    assert set(kills) == {-signal.SIGKILL}
    assert 20 < len(kills) < 300


def forked(case: str, store: Path, folder: Path, how: str) -> None:
    arguments = [case, str(store), str(folder), how]
    subprocess.run([sys.executable, "-c", PROGRAM, *arguments], cwd=Path.cwd(), check=True)


def assert_same_content(path: Path, other: Path) -> None:
    (header, arrays), (other_header, other_arrays) = content(path), content(other)
    # Some values are NaN.
    assert repr(header) == repr(other_header)
    assert arrays.keys() == other_arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, other_arrays[name], err_msg=name)


# These fits are killed within their passes, and one of them at every step of its writes.
WITHIN = ["em, given start", "auto, few reads"]


@pytest.mark.parametrize("case", [case for case in CASES if case not in WITHIN])
def test_a_fit_that_is_killed_again_and_again_ends_alike(
    case: str, store: Path, tmp_path: Path
) -> None:
    forked(case, store, tmp_path, "every result")
    assert_same_content(tmp_path / "resumed.gmm", tmp_path / "whole.gmm")
    assert_same_content(tmp_path / "checkpoint" / "model.gmm", tmp_path / "whole.gmm")
    # No read was made twice.
    reads = (tmp_path / "reads.txt").read_text().split()
    assert reads == [read["purpose"] for read in streamgmm.load(tmp_path / "whole.gmm").history_]


@pytest.mark.parametrize("case", WITHIN)
def test_a_fit_that_is_killed_within_its_reads_goes_on_there(
    case: str, store: Path, tmp_path: Path
) -> None:
    forked(case, store, tmp_path, "within reads")
    assert_same_content(tmp_path / "resumed.gmm", tmp_path / "whole.gmm")
    assert_same_content(tmp_path / "checkpoint" / "model.gmm", tmp_path / "whole.gmm")
    whole, resumed = (
        (tmp_path / f"{name}.txt").read_text().split() for name in ("whole", "resumed")
    )
    # No chunk was read twice for the same read.
    assert sorted(resumed) == sorted(whole)
    assert not list((tmp_path / "checkpoint").glob("read-*"))


def test_killed_at_any_step_of_any_write(store: Path, tmp_path: Path) -> None:
    forked("auto, few reads", store, tmp_path, "every step")
    resumed = [path for path in tmp_path.glob("*.gmm") if path.stem != "whole"]
    assert len(resumed) > 40
    for path in resumed:
        assert_same_content(path, tmp_path / "whole.gmm")


# In this process


class Stop(Exception):
    """Ends a fit from a callback."""


def stopping_after(n_results: int) -> Callable[[Event], None]:
    n_left = n_results

    def stop(event: Event) -> None:
        nonlocal n_left
        n_left -= isinstance(event, CheckpointWritten)
        if n_left == 0:
            raise Stop

    return stop


def interrupted(path: Any, data: Any, n_results: int, case: str = "auto, full") -> BaseException:
    model = estimator(case, checkpoint=path, callbacks=stopping_after(n_results))
    with pytest.raises(Stop) as caught:
        model.fit(data)
    return caught.value


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "lock"}


def rewrite(
    path: Path,
    change: Callable[[dict[str, Any], dict[str, Any]], None],
    is_sealed: bool = False,
) -> None:
    """Change the header or arrays of a record, and its digest if it is to be sealed again."""
    if is_sealed:
        record = read_record(path)
        header, arrays = dict(record.header), dict(record.arrays)
        change(header, arrays)
        write_record(path, Record(header, arrays))
        return
    with np.load(path) as file:
        arrays = dict(file)
    header = json.loads(arrays.pop("header").tobytes())
    change(header, arrays)
    text = np.frombuffer(json.dumps(header).encode(), dtype=np.uint8)
    np.savez(path, header=text, **arrays)


def test_a_finished_fit_comes_back_without_a_read(store: Path, tmp_path: Path) -> None:
    events: list[Event] = []
    first = estimator("auto, full", checkpoint=tmp_path / "c", callbacks=events.append)
    data = data_of("auto, full", store)
    first.fit(data).save(tmp_path / "first.gmm")
    written = [event for event in events if isinstance(event, CheckpointWritten)]
    assert [event.n_bytes for event in written] == [
        (tmp_path / "c" / f"{i + 1:06d}.npz").stat().st_size for i in range(len(written))
    ]
    assert {event.path for event in written} == {str(tmp_path / "c")}
    # The survey, three stages of the search, then reads.
    n_reads = len(first.history_)
    assert [event.number for event in written] == [1, 1, 1, 1, *range(2, n_reads + 1)]
    events.clear()
    second = estimator("auto, full", checkpoint=tmp_path / "c", callbacks=events.append)
    second.fit(data, resume=True).save(tmp_path / "second.gmm")
    assert not any(isinstance(event, (ReadStarted, CheckpointWritten)) for event in events)
    assert_same_content(tmp_path / "second.gmm", tmp_path / "first.gmm")
    assert_same_content(tmp_path / "c" / "model.gmm", tmp_path / "first.gmm")
    estimator("auto, full").fit(data).save(tmp_path / "without.gmm")
    assert_same_content(tmp_path / "without.gmm", tmp_path / "first.gmm")


@pytest.mark.parametrize("settings", [{}, {"covariance_type": "low_rank", "rank": 1}])
def test_a_fit_that_begins_with_a_pilot_goes_on(settings: dict[str, Any], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(140_000, 3)) + 4.0 * rng.integers(2, size=(140_000, 1))

    def fit(resume: bool = False, **more: Any) -> GaussianMixture:
        model = GaussianMixture(2, random_state=0, **settings, **more)
        return model.fit(ChunkedSource(rows, 2000), resume=resume)

    whole = fit()
    assert [entry["purpose"] for entry in whole.history_][:2] == ["pilot", "survey"]
    assert whole.sample_history_[0]["n_rows"] <= 140_000 // 16
    for n_results in (1, 3, 5):
        path = tmp_path / str(n_results)
        with pytest.raises(Stop):
            fit(checkpoint=path, callbacks=[stopping_after(n_results)])
        resumed = fit(True, checkpoint=path)
        assert resumed.score(rows) == whole.score(rows)
        assert resumed.lower_bounds_ == whole.lower_bounds_


def test_the_best_model_so_far(store: Path, tmp_path: Path) -> None:
    path = tmp_path / "c" / "model.gmm"
    source = data_of("x", store)
    whole = estimator("auto, full").fit(source)
    for n_results, n_reads in ((2, 1), (4, 1), (5, 2)):
        interrupted(tmp_path / "c", source, n_results)
        model = streamgmm.load(path)
        assert not model.converged_
        assert len(model.history_) == n_reads
        assert model.score(source) > whole.lower_bound_ - (0.5 if n_reads == 1 else 0.01)
        if n_reads == 2:
            assert model.lower_bound_ == whole.lower_bounds_[0]
            assert model.score(source) == pytest.approx(model.lower_bound_, rel=1e-12)
        for file in (tmp_path / "c").iterdir():
            file.unlink()
    # Of a survey alone there is none.
    interrupted(tmp_path / "c", source, 1)
    assert not path.exists()


def test_the_best_of_several_starts(store: Path, tmp_path: Path) -> None:
    case, path = "em, full, no seed", tmp_path / "c"
    interrupted(path, data_of(case, store), 8, case)
    headers = [read_record(path / f"{i:06d}.npz").header for i in range(1, 9)]
    kinds = "RowSample Parameters Reading Reading Reading Parameters Reading Reading"
    assert [header["kind"] for header in headers] == kinds.split()
    found = [read["log_likelihood"] for header in headers[1:] for read in header["reads"]]
    assert streamgmm.load(path / "model.gmm").lower_bound_ == max(found)


def test_a_warm_start(store: Path, tmp_path: Path) -> None:
    source = data_of("x", store)
    for algorithm in ("auto", "em"):

        def model(**settings: Any) -> GaussianMixture:
            model = streamgmm.load(tmp_path / "first.gmm")
            return model.set_params(warm_start=True, max_iter=5, tol=0.0, **settings)

        path = tmp_path / algorithm
        first = estimator("auto, full", algorithm=algorithm, max_iter=2)
        with pytest.warns(UserWarning, match="did not converge"):
            first.fit(source).save(tmp_path / "first.gmm")
        with pytest.raises(Stop):
            model(checkpoint=path, callbacks=stopping_after(3)).fit(source)
        resumed, whole = model(checkpoint=path), model()
        with pytest.warns(UserWarning, match="did not converge"):
            resumed.fit(source, resume=True)
        with pytest.warns(UserWarning, match="did not converge"):
            whole.fit(source)
        resumed.save(tmp_path / "resumed.gmm")
        whole.save(tmp_path / "whole.gmm")
        assert_same_content(tmp_path / "resumed.gmm", tmp_path / "whole.gmm")
        # What has been fitted since is another start.
        with pytest.raises(CheckpointError, match="start was"):
            resumed.fit(source, resume=True)


def test_an_error_says_how_to_go_on(store: Path, tmp_path: Path) -> None:
    error = interrupted(tmp_path / "c", data_of("x", store), 2)
    assert [re.search(r"kept in .*/c; .*resume=True", note) for note in error.__notes__] != [None]


def test_nothing_is_overwritten(store: Path, tmp_path: Path) -> None:
    interrupted(tmp_path / "c", data_of("x", store), 3)
    before = files(tmp_path / "c")
    with pytest.raises(CheckpointError, match=r"/c holds the checkpoint .*resume=True"):
        estimator("auto, full", checkpoint=tmp_path / "c").fit(data_of("x", store))
    assert files(tmp_path / "c") == before


def test_where_nothing_was_found_a_fit_begins(store: Path, tmp_path: Path) -> None:
    bad = table()
    bad[17, 1] = np.nan
    model = estimator("auto, full", checkpoint=tmp_path / "c")
    with pytest.raises(DataError, match="NaN") as caught:
        model.fit(bad)
    assert not hasattr(caught.value, "__notes__")
    model.fit(data_of("x", store))
    other = estimator("auto, full", checkpoint=str(tmp_path / "d"))
    assert np.array_equal(other.fit(data_of("x", store), resume=True).means_, model.means_)
    with pytest.raises(ParameterError, match="resume=True needs checkpoint="):
        estimator("auto, full").fit(data_of("x", store), resume=True)
    with pytest.raises(ParameterError, match="checkpoint_interval= needs checkpoint="):
        estimator("auto, full", checkpoint_interval=60).fit(data_of("x", store))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tol": 1e-6}, "tol was 1e-07 and is 1e-06"),
        ({"n_components": 3}, "n_components was 4 and is 3"),
        ({"covariance_type": "tied"}, "covariance_type was 'full' and is 'tied'"),
        ({"random_state": 1}, "random_state was 0 and is 1"),
        ({"random_state": None}, "random_state was 0 and is 'NoneType'"),
        ({"reg_covar": 0}, "reg_covar was 'auto' and is 0"),
        ({"means_init": np.zeros((K, D))}, "means_init was None and is '"),
        ({"algorithm": "em"}, "algorithm was 'auto' and is 'em'; .*sample, by memory_limit was"),
        (
            {"memory_limit": "6GiB"},
            "bytes of the sample, by memory_limit was [0-9]+ and is 536870912",
        ),
    ],
)
def test_other_settings_are_refused(
    settings: dict[str, Any], message: str, store: Path, tmp_path: Path
) -> None:
    interrupted(tmp_path / "c", data_of("x", store), 2)
    before = files(tmp_path / "c")
    model = estimator("auto, full", checkpoint=tmp_path / "c").set_params(**settings)
    with pytest.raises(CheckpointError, match=f"/c is the checkpoint of another fit: {message}"):
        model.fit(data_of("x", store), resume=True)
    assert files(tmp_path / "c") == before


def test_settings_that_decide_nothing_may_change(store: Path, tmp_path: Path) -> None:
    interrupted(tmp_path / "c", data_of("x", store), 3)
    estimator(
        "auto, full",
        checkpoint=os.path.relpath(tmp_path / "c"),
        n_jobs=2,
        verbose=1,
        verbose_interval=3,
        executor="threads",
    ).fit(data_of("x", store), resume=True).save(tmp_path / "resumed.gmm")
    estimator("auto, full").fit(data_of("x", store)).save(tmp_path / "whole.gmm")
    assert_same_content(tmp_path / "resumed.gmm", tmp_path / "whole.gmm")


def test_other_data_are_refused(store: Path, tmp_path: Path) -> None:
    path, target = tmp_path / "c", tmp_path / "x.zarr"
    rows = table()

    def stored(rows: np.ndarray) -> Source:
        zarr.create_array(target, data=rows, chunks=(CHUNK, D), overwrite=True)
        return streamgmm.open(target)

    def named(source: Source) -> Source:
        source.feature_names = ["a", "b", "c"]
        return source

    interrupted(path, stored(rows), 2)
    weights = np.ones(N)
    others: list[tuple[Callable[[], Source], str]] = [
        (lambda: data_of("x", store), r"data was '.*/x\.zarr' and is '.*/data.*/x\.zarr'"),
        (lambda: stored(rows[:-1]), r"data shape was \[20000, 3\] and is \[19999, 3\]"),
        (lambda: stored(rows.astype("f4")), "data dtype was '<f8' and is '<f4'"),
        (lambda: stored(rows + 1.0), "digest of some rows was"),
        (lambda: streamgmm.open(stored(rows), missing="em"), "missing was 'error' and is 'em'"),
        (lambda: streamgmm.open(stored(rows), sample_weight=weights), "data weights was False"),
        (lambda: named(stored(rows)), r"column names was None and is \['a', 'b', 'c'\]"),
    ]
    for other, message in others:
        with pytest.raises(CheckpointError, match=f"of another fit: {message}"):
            estimator("auto, full", checkpoint=path).fit(other(), resume=True)
    estimator("auto, full", checkpoint=path).fit(stored(rows), resume=True)


def test_other_chunks_are_refused(store: Path, tmp_path: Path) -> None:
    interrupted(tmp_path / "c", data_of("auto, full", store), 2)
    model = estimator("auto, full", checkpoint=tmp_path / "c")
    with pytest.raises(CheckpointError, match="of another fit: digest of the chunks was"):
        model.fit(ChunkedSource(table(), 1000, read_bytes=0), resume=True)


@pytest.mark.parametrize("name", ["streamgmm", "numpy", "scipy", "numba"])
def test_other_versions_are_refused(name: str, store: Path, tmp_path: Path) -> None:
    interrupted(tmp_path / "c", data_of("x", store), 2)
    settings = tmp_path / "c" / "settings.json"
    content = json.loads(settings.read_text())
    content["fit"][f"version of {name}"] = "0.0.1"
    settings.write_text(json.dumps(content))
    with pytest.raises(
        CheckpointError, match=rf"version of {name} was '0.0.1' and is .*model\.gmm"
    ):
        estimator("auto, full", checkpoint=tmp_path / "c").fit(data_of("x", store), resume=True)


def test_other_things_are_left_alone(store: Path, tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.tex").write_text("precious")
    (tmp_path / "file").write_text("precious")
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / ".film.part").write_text("precious")
    for name, message in (
        ("precious", r"precious is no checkpoint, but holds thesis\.tex"),
        ("parts", r"parts is no checkpoint, but holds \.film\.part"),
        ("file", "file cannot be a checkpoint"),
        ("missing/c", "missing/c cannot be written"),
    ):
        for resume in (False, True):
            with pytest.raises(OutputError, match=message):
                model = estimator("auto, full", checkpoint=tmp_path / name)
                model.fit(data_of("x", store), resume=resume)
    with pytest.raises(OutputError, match="overlaps the data"):
        estimator("auto, full", checkpoint=store / "x.zarr" / "c").fit(data_of("x", store))
    left = [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")]
    assert sorted(left) == ["file", "parts", "parts/.film.part", "precious", "precious/thesis.tex"]


def damage(path: Path, how: str) -> None:
    whole = path.read_bytes()
    if how == "truncated":
        path.write_bytes(whole[: len(whole) // 2])
    if how == "empty":
        path.write_bytes(b"")
    if how == "flipped":
        # A byte of the last array. Some bytes between arrays mean nothing.
        place = whole.rindex(b"\x93NUMPY") + 128
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    if how == "missing":
        path.unlink()
    if how == "foreign":
        np.savez(path, a=np.ones(3))
    if how == "lacking":
        rewrite(path, lambda header, arrays: arrays.popitem())


@pytest.mark.parametrize("how", ["truncated", "empty", "flipped", "missing", "foreign", "lacking"])
def test_damaged_results_are_named(how: str, store: Path, tmp_path: Path) -> None:
    path = tmp_path / "c"
    interrupted(path, data_of("x", store), 6)
    damage(path / "000003.npz", how)
    model = estimator("auto, full", checkpoint=path)
    with pytest.raises(CheckpointError, match=r"000003\.npz.* remove .* computes them again"):
        model.fit(data_of("x", store), resume=True)
    # As the message says:
    for number in range(3, 7):
        (path / f"{number:06d}.npz").unlink(missing_ok=True)
    model.fit(data_of("x", store), resume=True).save(tmp_path / "resumed.gmm")
    estimator("auto, full").fit(data_of("x", store)).save(tmp_path / "whole.gmm")
    assert_same_content(tmp_path / "resumed.gmm", tmp_path / "whole.gmm")


def stopped_within_a_read(path: Path, store: Path) -> None:
    """Interrupt a fit that keeps parts of its reads, between two chunks of the second read."""

    def stop(event: Event) -> None:
        names = files(path).keys() if isinstance(event, CheckpointWritten) else ()
        if "000004.npz" in names and any(name.startswith("read-") for name in names):
            raise Stop

    model = estimator("auto, full", checkpoint=path, checkpoint_interval=1e-9, callbacks=stop)
    with pytest.raises(Stop):
        model.fit(data_of("auto, full", store))


def restore(path: Path, content: dict[str, bytes]) -> None:
    """Have in a folder what was there before."""
    for file in path.iterdir():
        file.unlink()
    for name, whole in content.items():
        (path / name).write_bytes(whole)


def test_any_damaged_byte_of_any_file_is_found(store: Path, tmp_path: Path) -> None:
    path, source = tmp_path / "c", data_of("auto, full", store)
    estimator("auto, full").fit(source).save(tmp_path / "whole.gmm")
    stopped_within_a_read(path, store)
    before, random = files(path), np.random.default_rng(0)
    assert {"settings.json", "model.gmm", "000001.npz", "000004.npz"} <= before.keys()
    outcomes = dict.fromkeys(before, 0)
    for name, whole in before.items():
        for place in random.choice(len(whole), 12, replace=False).tolist():
            damaged = bytearray(whole)
            damaged[place] ^= int(random.integers(1, 256))
            restore(path, {**before, name: bytes(damaged)})
            model = estimator("auto, full", checkpoint=path, checkpoint_interval=1e9)
            try:
                model.fit(source, resume=True).save(tmp_path / "resumed.gmm")
            except CheckpointError as error:
                message = str(error)
                outcomes[name] += 1
            else:
                assert_same_content(tmp_path / "resumed.gmm", tmp_path / "whole.gmm")
                message = name
            assert name in message
    # The model is written again; in the other files few bytes carry nothing.
    assert outcomes.pop("model.gmm") == 0
    assert min(outcomes.values()) >= 6


def test_results_belong_to_their_number_and_their_fit(store: Path, tmp_path: Path) -> None:
    path, other, whole = tmp_path / "c", tmp_path / "d", tmp_path / "whole.gmm"
    estimator("auto, full").fit(data_of("x", store)).save(whole)
    for folder in (path, other):
        interrupted(folder, data_of("x", store), 6)
    before = files(path)

    def edited(header: dict[str, Any], arrays: dict[str, Any]) -> None:
        name = next(name for name in arrays if name.endswith("means"))
        arrays[name] = np.nextafter(arrays[name], np.inf)

    def unsealed(header: dict[str, Any], arrays: dict[str, Any]) -> None:
        edited(header, arrays)
        del header["digest"]

    def swap() -> None:
        (path / "000005.npz").write_bytes(before["000006.npz"])
        (path / "000006.npz").write_bytes(before["000005.npz"])

    for damaging, message in (
        (swap, r"000005\.npz holds what belongs into 000006\.npz"),
        (
            lambda: (path / "000005.npz").write_bytes((other / "000005.npz").read_bytes()),
            r"000005\.npz was written by another fit",
        ),
        (
            lambda: rewrite(path / "000005.npz", edited),
            r"000005\.npz is damaged or was changed: .*digest",
        ),
        (
            lambda: rewrite(path / "000005.npz", unsealed),
            r"000005\.npz is damaged or was changed: .*digest",
        ),
    ):
        damaging()
        model = estimator("auto, full", checkpoint=path)
        with pytest.raises(CheckpointError, match=rf"{message}; .*remove .* computes them again"):
            model.fit(data_of("x", store), resume=True)
        # As the message says:
        for name in ("000005.npz", "000006.npz"):
            (path / name).unlink()
        model.fit(data_of("x", store), resume=True).save(tmp_path / "resumed.gmm")
        assert_same_content(tmp_path / "resumed.gmm", whole)
        restore(path, before)


def test_a_checkpoint_without_digests_is_refused(store: Path, tmp_path: Path) -> None:
    interrupted(tmp_path / "c", data_of("x", store), 3)
    settings = tmp_path / "c" / "settings.json"
    content = json.loads(settings.read_bytes())
    del content["seal"], content["identity"]
    settings.write_text(json.dumps(content))
    model = estimator("auto, full", checkpoint=tmp_path / "c")
    with pytest.raises(CheckpointError, match=r"as in older releases.*name another checkpoint"):
        model.fit(data_of("x", store), resume=True)


def test_the_model_of_a_checkpoint_that_others_teach_is_kept(store: Path, tmp_path: Path) -> None:
    path = tmp_path / "c" / "model.gmm"
    interrupted(tmp_path / "c", data_of("x", store), 5)
    streamgmm.update(path, table()[:100], "a")
    before = path.read_bytes()
    unfinished = path.with_name(".model.gmm.01234567.part")
    unfinished.write_text("of another process that is writing")
    model = estimator("auto, full", checkpoint=tmp_path / "c")
    with pytest.raises(OutputError, match=r"model\.gmm would lose what streamgmm\.update has"):
        model.fit(data_of("x", store), resume=True)
    assert path.read_bytes() == before
    # As the message says:
    path.unlink()
    model.fit(data_of("x", store), resume=True)
    assert streamgmm.load(path).converged_


@pytest.mark.parametrize("how", ["truncated", "foreign", "lacking"])
def test_a_damaged_part_of_a_read_is_named(how: str, store: Path, tmp_path: Path) -> None:
    path, source = tmp_path / "c", data_of("auto, full", store)
    model = estimator("auto, full", checkpoint=path, checkpoint_interval=1e-9)
    # In the survey, before there is any result.
    with pytest.raises(Stop) as caught:
        model.set_params(callbacks=stopping_after(3)).fit(source)
    assert "resume=True" in caught.value.__notes__[0]
    (partial,) = path.glob("read-*")
    with pytest.raises(CheckpointError, match=r"/c holds the checkpoint .*resume=True"):
        model.fit(source)
    damage(partial, how)
    model.set_params(callbacks=())
    with pytest.raises(CheckpointError, match=rf"{partial.name}.* if it is removed, the pass begi"):
        model.fit(source, resume=True)
    # As the message says:
    partial.unlink()
    model.fit(source, resume=True).save(tmp_path / "resumed.gmm")
    estimator("auto, full").fit(source).save(tmp_path / "whole.gmm")
    assert_same_content(tmp_path / "resumed.gmm", tmp_path / "whole.gmm")


def test_damaged_settings_are_named(store: Path, tmp_path: Path) -> None:
    interrupted(tmp_path / "c", data_of("x", store), 3)
    for text in ("", "{}", '{"fit": 3, "random_state": {}}', "\xff"):
        (tmp_path / "c" / "settings.json").write_text(text)
        with pytest.raises(CheckpointError, match=r"settings\.json is damaged"):
            estimator("auto, full", checkpoint=tmp_path / "c").fit(data_of("x", store), resume=True)


@pytest.mark.parametrize("covariance_type", ["full", "tied", "diag", "spherical"])
@pytest.mark.parametrize("algorithm", ["auto", "em"])
def test_rounding_of_another_processor(
    covariance_type: str, algorithm: str, store: Path, tmp_path: Path
) -> None:
    """The start is that of a processor that rounds otherwise, and so reads are of others."""
    settings = {"covariance_type": covariance_type, "algorithm": algorithm, "tol": 1e-4}
    source, path = data_of("x", store), tmp_path / "c"
    model = estimator("auto, full", checkpoint=path, **settings)
    n_results = 6 if algorithm == "auto" else 4
    with pytest.raises(Stop):
        model.set_params(callbacks=stopping_after(n_results)).fit(source)
    # Of the results before the reads the last one is the start.
    start = path / f"{n_results - 2:06d}.npz"
    whole = estimator("auto, full", **settings).fit(source)

    def moved(part: float) -> Callable[[dict[str, Any], dict[str, Any]], None]:
        def change(header: dict[str, Any], arrays: dict[str, Any]) -> None:
            assert header["kind"] == {"auto": "Stage", "em": "Parameters"}[algorithm]
            names = [name for name in arrays if name.endswith(("means", "factors"))]
            assert len(names) == 2
            for name in names:
                arrays[name] = arrays[name] * (1.0 + part)

        return change

    rewrite(start, moved(1e-11), is_sealed=True)
    before = files(path)
    resumed = estimator("auto, full", checkpoint=path, **settings).fit(source, resume=True)
    assert resumed.n_reads_ == whole.n_reads_
    assert resumed.lower_bound_ == pytest.approx(whole.lower_bound_, abs=1e-9)
    np.testing.assert_allclose(resumed.means_, whole.means_, rtol=0.0, atol=1e-6)
    np.testing.assert_allclose(resumed.covariances_, whole.covariances_, rtol=0.0, atol=1e-6)
    for name, whole_file in before.items():
        (path / name).write_bytes(whole_file)
    for new in set(files(path)) - set(before):
        (path / new).unlink()
    rewrite(start, moved(1e-4), is_sealed=True)
    with pytest.raises(CheckpointError, match=rf"{n_results - 1:06d}\.npz holds a Reading .*model"):
        estimator("auto, full", checkpoint=path, **settings).fit(source, resume=True)


def test_a_disk_that_becomes_full(store: Path, tmp_path: Path) -> None:
    """The system refuses to let files grow, after the second result."""
    path = tmp_path / "c"

    def fit() -> None:
        def fill(event: Event) -> None:
            if isinstance(event, CheckpointWritten) and (path / "000002.npz").exists():
                resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        model = estimator("auto, full", checkpoint=path, callbacks=fill)
        with pytest.raises(OutputError, match=r"000003\.npz cannot be written.*large") as caught:
            model.fit(data_of("x", store))
        assert "resume=True" in caught.value.__notes__[0]

    whole = estimator("auto, full").fit(data_of("x", store))
    assert in_a_fork(fit) == 0
    assert set(files(path)) == {"settings.json", "000001.npz", "000002.npz", "model.gmm"}
    resumed = estimator("auto, full", checkpoint=path).fit(data_of("x", store), resume=True)
    np.testing.assert_array_equal(resumed.covariances_, whole.covariances_)


HOLDING = """
import os, signal, sys
from pathlib import Path
from streamgmm.events import CheckpointWritten
from tests.test_checkpoint import data_of, estimator

def hold(event):
    if isinstance(event, CheckpointWritten):
        print("held", flush=True)
        signal.pause()

model = estimator("auto, full", checkpoint=sys.argv[2], callbacks=hold)
model.fit(data_of("x", Path(sys.argv[1])))
"""


def test_one_process_at_a_time(store: Path, tmp_path: Path) -> None:
    path = tmp_path / "c"
    command = [sys.executable, "-c", HOLDING, str(store), str(path)]
    model = estimator("auto, full", checkpoint=path)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        before = files(path)
        for resume in (False, True):
            with pytest.raises(OutputError, match=r"/c is the checkpoint of another process"):
                model.fit(data_of("x", store), resume=resume)
        assert files(path) == before
        process.kill()
    # The lock dies with its process.
    model.fit(data_of("x", store), resume=True)


def test_dask(store: Path, tmp_path: Path) -> None:
    def data() -> dask.array.Array:
        # In each process its name may be another.
        return dask.array.from_array(table(), chunks=(CHUNK, D), name=False)

    with dask.config.set(scheduler="synchronous"):
        interrupted(tmp_path / "c", data(), 5)
        resumed = estimator("auto, full", checkpoint=tmp_path / "c").fit(data(), resume=True)
        whole = estimator("auto, full").fit(data())
    np.testing.assert_array_equal(resumed.covariances_, whole.covariances_)
    assert resumed.n_reads_ == whole.n_reads_


# URLs

KEYS = {"key": "test-name", "secret": "hidden-word"}


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The address of an S3-compatible server on this machine, with one bucket."""
    with object_store("checkpoints", KEYS) as address:
        yield address


def assert_goes_on(url: str, store: Path, shown: str) -> None:
    """Interrupt and resume a fit with a checkpoint at a URL, which messages call as is said."""
    error = interrupted(url, data_of("x", store), 5)
    assert f"kept in {shown};" in error.__notes__[0]
    with pytest.raises(
        CheckpointError, match=f"^{re.escape(shown)} holds the checkpoint"
    ) as caught:
        estimator("auto, full", checkpoint=url).fit(data_of("x", store))
    events: list[Event] = []
    resumed = estimator("auto, full", checkpoint=url, callbacks=events.append)
    resumed.fit(data_of("x", store), resume=True)
    written = [event for event in events if isinstance(event, CheckpointWritten)]
    assert {event.path for event in written} == {shown}
    whole = estimator("auto, full").fit(data_of("x", store))
    assert math.isclose(resumed.n_reads_, whole.n_reads_)
    np.testing.assert_array_equal(resumed.covariances_, whole.covariances_)
    assert sum(isinstance(event, ReadStarted) for event in events) == len(whole.history_) - 2
    assert "hidden" not in f"{error.__notes__} {caught.value} {events}"


def test_a_url(store: Path, tmp_path: Path) -> None:
    assert_goes_on("memory://me:hidden@host/fit/", store, "memory://host/fit")
    filesystem = fsspec.filesystem("memory")
    names = [Path(path).name for path in filesystem.ls("/me:hidden@host/fit", detail=False)]
    assert {"settings.json", "000001.npz", "model.gmm"} < set(names)
    for path in filesystem.ls("/me:hidden@host/fit", detail=False):
        assert b"hidden" not in filesystem.cat(path)
    filesystem.get("/me:hidden@host/fit/model.gmm", str(tmp_path / "model.gmm"))
    assert streamgmm.load(tmp_path / "model.gmm").converged_
    filesystem.pipe("/other/thesis.tex", b"precious")
    with pytest.raises(OutputError, match=r"memory://other is no checkpoint, but holds thesis"):
        estimator("auto, full", checkpoint="memory://other").fit(data_of("x", store))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_an_object_store(server: str, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {**KEYS, "endpoint_url": server}
    monkeypatch.setitem(fsspec.config.conf, "s3", options)
    assert_goes_on("s3://checkpoints/fit", store, "s3://checkpoints/fit")
    s3 = s3fs.S3FileSystem(**options)
    for path in s3.ls("checkpoints/fit"):
        assert not any(word.encode() in s3.cat(path) for word in KEYS.values())
    with pytest.raises(OutputError, match=r"s3://nowhere/fit cannot be used as a checkpoint"):
        estimator("auto, full", checkpoint="s3://nowhere/fit").fit(data_of("x", store))
