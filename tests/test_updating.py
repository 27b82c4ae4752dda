"""Models in files that continue learning: each batch and each row once, whatever happens."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import date
from io import BytesIO
from pathlib import Path
from typing import Any

import fsspec
import h5py
import numpy as np
import pandas
import pytest
import xarray
import zarr
from numpy.typing import NDArray

import streamgmm
from streamgmm import GaussianMixture, OnlineGaussianMixture, ledger, persistence
from streamgmm.errors import (
    DataError,
    ModelFileError,
    NotFiniteError,
    OutputError,
    ParameterError,
)
from streamgmm.events import BatchKnown, Event, FilesSkipped, RowsLearned
from streamgmm.persistence import Record, read_record, write_record
from streamgmm.progress import describe_update
from streamgmm.protocols import Chunk
from streamgmm.sources.files import natural_order
from streamgmm.sources.pipe import tables_from
from streamgmm.updates import appended_rows as growing
from streamgmm.updates.row_digest import RowDigest
from tests.failures.checkpoint import STEPS, in_a_fork, kill_at

K, D = 2, 3
# Rows that are read at once.
CHUNK = 65_536
Rows = NDArray[np.float64]


def table(n_rows: int, seed: int = 0) -> Rows:
    random = np.random.default_rng(seed)
    rows: Rows = random.normal(size=(n_rows, D)) + 6.0 * random.integers(0, K, (n_rows, 1))
    return rows


def begun(path: Path, **settings: Any) -> Path:
    """A file of a model that has learned nothing yet, and soon has a mixture."""
    arguments: dict[str, Any] = {"init_size": 500, "random_state": 0, "n_jobs": 1}
    OnlineGaussianMixture(K, **{**arguments, **settings}).save(path)
    return path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return begun(tmp_path / "model.gmm")


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only three names are remembered."""
    monkeypatch.setattr(ledger, "_MOST_NAMES", 3)


def store(path: Path, rows: Rows) -> "zarr.Array[Any]":
    return zarr.create_array(path, data=rows, chunks=(min(CHUNK, len(rows)), D))


def appended(path: Path, rows: Rows) -> None:
    """Rows more at the end of an array."""
    array = zarr.open_array(path, mode="r+")
    n_rows = array.shape[0]
    array.resize((n_rows + len(rows), D))
    array[n_rows:] = rows


def learned(model: Path, data: Any, *arguments: Any, **options: Any) -> list[Event]:
    """What an update of a model tells."""
    events: list[Event] = []
    streamgmm.update(model, data, *arguments, callbacks=[events.append], **options)
    return [event for event in events if isinstance(event, RowsLearned | BatchKnown)]


def assert_refused(
    model: Path, error: type[Exception], message: str, *arguments: Any, **options: Any
) -> None:
    before = model.read_bytes()
    with pytest.raises(error, match=message):
        streamgmm.update(model, *arguments, **options)
    assert model.read_bytes() == before


# Batches


def test_a_batch_is_learned_once(model: Path, tmp_path: Path) -> None:
    rows = table(1000).astype(np.float32)
    (event,) = learned(model, rows, "2026-11-20")
    assert event == RowsLearned(str(model), "X", 1000, 1000.0, "2026-11-20")
    after = model.read_bytes()
    np.save(tmp_path / "rows.npy", rows)
    same = [
        rows,
        rows.astype(np.float64),
        np.asfortranarray(rows),
        tmp_path / "rows.npy",
        store(tmp_path / "rows.zarr", rows),
        streamgmm.open(rows, sample_weight=np.ones(1000)),
    ]
    for data in same:
        assert learned(model, data, date(2026, 11, 20)) == [BatchKnown(str(model), "2026-11-20")]
        assert model.read_bytes() == after
    other = rows.copy()
    other[-1, -1] += 1.0
    message = "X is not what .*model.gmm learned as batch '2026-11-20': .*new id"
    assert_refused(model, DataError, message, other, "2026-11-20")
    assert_refused(model, DataError, message, rows[:-1], "2026-11-20")
    weights = np.full(1000, 2.0)
    assert_refused(model, DataError, message, rows, "2026-11-20", sample_weight=weights)


def test_what_is_learned_is_what_partial_fit_learns(model: Path) -> None:
    expected = OnlineGaussianMixture(K, init_size=500, random_state=0)
    for seed in range(5):
        rows = table(300, seed)
        found = streamgmm.update(model, rows, seed)
        expected.partial_fit(rows)
        if seed > 0:
            np.testing.assert_array_equal(found.means_, expected.means_)
    loaded = streamgmm.load(model)
    assert isinstance(loaded, OnlineGaussianMixture)
    np.testing.assert_array_equal(loaded.covariances_, expected.covariances_)
    assert loaded.n_samples_seen_ == 1500


# A search among the first rows gives a component few of them.
@pytest.mark.filterwarnings("ignore::streamgmm.errors.DegenerateComponentWarning")
@pytest.mark.usefixtures("few")
def test_ids_that_are_forgotten_are_refused(model: Path) -> None:
    for number in (7, 8, 11, 9):
        assert isinstance(learned(model, table(100, number), f"part-{number}")[0], RowsLearned)
    for known in (8, 9, 11):
        assert isinstance(learned(model, table(100, known), f"part-{known}")[0], BatchKnown)
    message = r"batch 'part-{}' was learned already, or comes too late for .*up to 'part-7'"
    assert_refused(model, DataError, message.format(7), table(100, 7), "part-7")
    assert_refused(model, DataError, message.format(2), table(100, 2), "part-2")
    # Above those that were forgotten even what comes late is new.
    assert isinstance(learned(model, table(100, 10), "part-10")[0], RowsLearned)
    assert len(read_record(model).header["ledger"]["batches"]["entries"]) == 3


def test_numbers_in_names_count_as_numbers() -> None:
    names = ["9", "10", "1526919030474-9", "1526919030474-55", "a-2", "a-10", "a-10-b"]
    assert sorted(sorted(names), key=natural_order) == names


@pytest.mark.parametrize("batch_id", ["", "x" * 300, 1.5, b"1-0", ["a"], True, pandas.NaT])
def test_ids_are_texts_numbers_or_dates(batch_id: Any, model: Path) -> None:
    assert_refused(model, ParameterError, "batch_id is .*a text of 1 to 256", table(10), batch_id)


def test_without_an_id_rows_in_memory_are_learned_each_time(model: Path) -> None:
    for _ in range(2):
        (event,) = learned(model, table(300))
    assert isinstance(event, RowsLearned)
    assert event.n_samples == 600


def test_bad_batches_are_refused_and_the_file_stays(model: Path) -> None:
    streamgmm.update(model, table(1000), "first")
    gaps = table(100)
    gaps[17, 1] = np.nan
    for batch_id in (None, "second"):
        assert_refused(model, ValueError, "0 sample", np.empty((0, D)), batch_id)
        assert_refused(model, ValueError, "2 features.*expecting 3", table(10)[:, :2], batch_id)
        assert_refused(model, NotFiniteError, "row 17 column 1", gaps, batch_id)
    assert_refused(model, NotFiniteError, "^batch 'second': Input contains NaN", gaps, "second")
    (event,) = learned(model, gaps, "second", missing="drop")
    assert isinstance(event, RowsLearned)
    assert event.n_samples == 1099


def test_columns_keep_their_names(model: Path) -> None:
    frame = pandas.DataFrame(table(300), columns=["a", "b", "c"])
    streamgmm.update(model, frame, 1)
    other = frame.rename(columns={"c": "d"})
    assert_refused(model, ValueError, "feature names should match", other, 2)


def test_an_iterator_is_saved_as_it_comes(model: Path) -> None:
    seen = []

    def batches() -> Iterator[Rows]:
        for seed in range(4):
            yield table(200, seed)
            seen.append(streamgmm.load(model).n_samples_seen_)  # type: ignore[union-attr]
        yield np.full((5, D), np.nan)

    with pytest.raises(NotFiniteError):
        streamgmm.update(model, batches())
    assert seen == [200, 400, 600, 800]
    assert streamgmm.load(model).n_samples_seen_ == 800  # type: ignore[union-attr]
    assert_refused(model, ParameterError, "each batch of the iterator", iter([table(5)]), "id")


# Files of models


def test_a_file_has_to_be_begun(tmp_path: Path) -> None:
    path = tmp_path / "m.gmm"
    with pytest.raises(ModelFileError, match=r"m\.gmm: no such file; give n_components"):
        streamgmm.update(path, table(100))
    found = streamgmm.update(path, table(100), n_components=K, half_life=1000, random_state=0)
    assert found.n_components == K
    assert found.half_life == 1000
    with pytest.raises(OutputError, match="cannot be updated: there is no directory"):
        streamgmm.update(tmp_path / "absent" / "m.gmm", table(100), n_components=K)


def test_a_model_that_has_learned_nothing_is_saved_whole(model: Path) -> None:
    loaded = streamgmm.load(model)
    assert isinstance(loaded, OnlineGaussianMixture)
    expected = OnlineGaussianMixture(K, init_size=500, random_state=0, n_jobs=1)
    assert loaded.get_params() == expected.get_params()
    assert not hasattr(loaded, "n_features_in_")
    np.testing.assert_array_equal(
        loaded.partial_fit(table(700)).means_, expected.partial_fit(table(700)).means_
    )
    with pytest.raises(ValueError, match="init_size"):
        OnlineGaussianMixture(init_size=0).save(model)


def test_settings_are_those_of_the_file(model: Path) -> None:
    found = streamgmm.update(model, table(100), n_components=K, n_jobs=2, memory_limit="8GiB")
    assert found.n_jobs == 2
    message = "n_components is 2 and not 3; its random_state is 0 and not 1. Remove these"
    settings = {"n_components": 3, "random_state": 1}
    assert_refused(model, ParameterError, message, table(10), **settings)
    assert_refused(model, ParameterError, "colour is neither", table(10), colour="red")


def test_a_batch_fit_goes_on(tmp_path: Path) -> None:
    path, rows = tmp_path / "m.gmm", table(2000)
    batch = GaussianMixture(K, random_state=0).fit(rows)
    batch.save(path)
    assert_refused(path, ParameterError, "n_components is 2 and not 3", rows, n_components=3)
    found = streamgmm.update(path, table(100, 1), "a", half_life=1000)
    assert found.n_samples_seen_ == 2100
    expected = OnlineGaussianMixture.from_batch(batch, half_life=1000).partial_fit(table(100, 1))
    np.testing.assert_array_equal(found.means_, expected.means_)
    assert isinstance(learned(path, table(100, 1), "a", half_life=1000)[0], BatchKnown)
    assert_refused(path, ParameterError, "half_life is 1000", rows, half_life=5)


def test_what_was_learned_stays_known_to_a_model_that_is_loaded_and_saved(model: Path) -> None:
    streamgmm.update(model, table(300), 1)
    loaded = streamgmm.load(model)
    assert isinstance(loaded, OnlineGaussianMixture)
    loaded.partial_fit(table(100, 1)).save(model)
    assert isinstance(learned(model, table(300), 1)[0], BatchKnown)
    # A model that forgets what it has learned forgets the batch too.
    loaded.fit(table(300, 2)).save(model)
    assert isinstance(learned(model, table(300), 1)[0], RowsLearned)


def test_damaged_files_are_named(model: Path) -> None:
    streamgmm.update(model, table(1000), "a")
    whole, record = model.read_bytes(), read_record(model)
    model.write_bytes(whole[: len(whole) // 2])
    assert_refused(model, ModelFileError, "model.gmm is damaged", table(10), "b")
    for part in ({}, [], {"batches": {"entries": {"a": 1}, "watermark": None}, "folders": {}}):
        write_record(model, Record({**record.header, "ledger": part}, record.arrays))
        message = "model.gmm is damaged: its ledger of what it learned"
        assert_refused(model, ModelFileError, message, table(10), "b")


def test_a_link_stays_a_link_to_the_model(model: Path, tmp_path: Path) -> None:
    link, loop = tmp_path / "link.gmm", tmp_path / "loop.gmm"
    link.symlink_to(model.name)
    assert streamgmm.update(link, table(300), 1).n_samples_seen_ == 300
    assert link.is_symlink()
    assert streamgmm.load(model).n_samples_seen_ == 300  # type: ignore[union-attr]
    loop.symlink_to(loop.name)
    with pytest.raises(ModelFileError, match=r"loop\.gmm: no such file"):
        streamgmm.update(loop, table(300))


def test_a_batch_model_that_cannot_go_on_is_named(tmp_path: Path) -> None:
    path = tmp_path / "m.gmm"
    fitted = GaussianMixture(K, random_state=0).fit(table(300))
    GaussianMixture.from_sklearn(fitted.to_sklearn()).save(path)
    assert_refused(path, ParameterError, r"m\.gmm: the model has no statistics", table(10), 1)


def npy(rows: Rows) -> bytes:
    """A ``.npy`` file."""
    file = BytesIO()
    np.save(file, rows)
    return file.getvalue()


def test_two_processes_do_not_write_at_once(model: Path) -> None:
    command = [sys.executable, "-m", "streamgmm", "update", str(model), "-", "-q"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as first:
        assert first.stdin is not None
        before = model.stat().st_mtime_ns
        first.stdin.write(npy(table(700)))
        first.stdin.flush()
        while model.stat().st_mtime_ns == before:
            assert first.poll() is None
            time.sleep(0.01)
        message = r"model\.gmm is being updated by another process, .*\.model\.gmm\.lock locked"
        assert_refused(model, OutputError, message, table(10))
        # The lock ends with its process, however that ends.
        first.kill()
        first.stdin.close()
    assert streamgmm.update(model, table(10)).n_samples_seen_ == 710


# Data that grow


def test_of_an_array_that_grows_only_new_rows_are_learned(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "rows.zarr"
    store(path, table(1100))
    assert learned(model, path)[0].n_rows == 1100  # type: ignore[union-attr]
    assert learned(model, path) == []
    for n_rows in (1, 10, 600):
        appended(path, table(n_rows, n_rows))
        (event,) = learned(model, str(path))
        assert isinstance(event, RowsLearned)
        assert event.n_rows == n_rows
    assert event.n_samples == 1711
    # Whatever it is called.
    monkeypatch.chdir(tmp_path)
    assert learned(model, "rows.zarr") == learned(model, Path("../x/../") / path) == []


def test_an_array_is_learned_piece_by_piece(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(growing, "_PIECE_BYTES", 2 * 8 * CHUNK * D)
    store(tmp_path / "rows.zarr", table(4 * CHUNK + 100))
    sizes = []

    def look(event: Event) -> None:
        if isinstance(event, RowsLearned):
            sizes.append((event.n_rows, streamgmm.load(model).n_samples_seen_))  # type: ignore[union-attr]

    streamgmm.update(model, tmp_path / "rows.zarr", callbacks=[look])
    assert sizes == [(2 * CHUNK, 2 * CHUNK), (2 * CHUNK, 4 * CHUNK), (100, 4 * CHUNK + 100)]
    appended(tmp_path / "rows.zarr", table(3 * CHUNK, 1))
    sizes.clear()
    streamgmm.update(model, tmp_path / "rows.zarr", callbacks=[look])
    assert sizes == [(2 * CHUNK - 100, 6 * CHUNK), (CHUNK + 100, 7 * CHUNK + 100)]


def test_the_past_of_an_array_must_not_change(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "rows.zarr"
    array = store(path, table(1000))
    streamgmm.update(model, path)
    last = array[-1]
    array[-1] = 0.0
    message = r"rows\.zarr is not what .*model\.gmm learned up to row 1000: rows before it have"
    assert_refused(model, DataError, message, path)
    array[-1] = last
    appended(path, table(100, 1))
    gaps = zarr.open_array(path, mode="r+")
    gaps[1050, 2] = np.nan
    message = r"rows\.zarr, rows 1000 to 1100: .*NaN.*row 1050 column 2"
    assert_refused(model, NotFiniteError, message, path)
    (event,) = learned(model, path, missing="drop")
    assert isinstance(event, RowsLearned)
    assert (event.n_rows, event.skipped.n_missing) == (99, 1)
    gaps.resize((900, D))
    assert_refused(model, DataError, r"has 900 rows, but .*model\.gmm has learned 1100", path)
    zarr.create_array(path, data=table(2000, 5), overwrite=True)
    assert_refused(model, DataError, r"is not what .* learned up to row 1100", path)
    zarr.create_array(path, data=table(2000)[:, :2], overwrite=True)
    assert_refused(model, DataError, "2 features", path)


def test_weights_grow_with_their_rows(model: Path, tmp_path: Path) -> None:
    path, weights = tmp_path / "rows.npy", tmp_path / "weights.npy"
    for n_rows in (700, 1000):
        np.save(path, table(1000)[:n_rows])
        np.save(weights, np.full(n_rows, 2.0))
        (event,) = learned(model, path, sample_weight=weights)
        assert isinstance(event, RowsLearned)
        assert event.n_samples == 2 * n_rows
    np.save(weights, np.full(1000, 3.0))
    assert_refused(model, DataError, "rows before it have", path, sample_weight=weights)
    assert_refused(model, DataError, "rows before it have", path)


def write_parquet(path: Path, rows: Rows) -> None:
    pandas.DataFrame(rows, columns=["a", "b", "c"]).to_parquet(path)


def write_hdf5(path: Path, rows: Rows) -> None:
    with h5py.File(path, "w") as file:
        file["table"] = rows


KINDS: dict[str, Callable[[Path, Rows], object]] = {
    ".npy": np.save,
    ".parquet": write_parquet,
    ".h5": write_hdf5,
}


@pytest.mark.parametrize("kind", KINDS)
def test_files_that_grow(kind: str, model: Path, tmp_path: Path) -> None:
    path, write = tmp_path / f"rows{kind}", KINDS[kind]
    for n_rows, n_new in ((600, 600), (601, 1), (601, 0), (2000, 1399)):
        write(path, table(2000)[:n_rows])
        assert [event.n_rows for event in learned(model, path)] == [n_new] * (n_new > 0)  # type: ignore[union-attr]
    write(path, table(2000, 1))
    assert_refused(model, DataError, "learned up to row 2000", path)


def test_arrays_of_one_file_are_known_apart(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "rows.h5"
    with h5py.File(path, "w") as file:
        file["first"], file["second"] = table(300), table(400, 1)
    for name, n_rows in (("first", 300), ("second", 400)):
        assert learned(model, path, path=f"/{name}/")[0].n_rows == n_rows  # type: ignore[union-attr]
        assert learned(model, f"{path}::/{name}") == learned(model, path, path=name) == []


def test_an_array_at_a_url(model: Path) -> None:
    url = "memory://updating/rows.npy"
    for n_rows in (300, 500):
        with fsspec.open(url, "wb") as file:
            np.save(file, table(500)[:n_rows])
        assert learned(model, url)[0].n_samples == n_rows  # type: ignore[union-attr]
        assert learned(model, url) == []


# All rows are 0.
@pytest.mark.filterwarnings("ignore::streamgmm.errors.DegenerateComponentWarning")
def test_boxes_of_labelled_data_are_not_followed(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "maps.zarr"
    names = ("time", "lat", "lon")
    variables = {
        name: xarray.DataArray(np.zeros((2, 600, 600)), dims=names).chunk(time=1, lat=300, lon=300)
        for name in "abc"
    }
    xarray.Dataset(variables).to_zarr(path, zarr_format=2, consolidated=False)
    message = "boxes of rows that do not follow each other.*batch_id"
    assert_refused(model, DataError, message, path, variables=["a", "b", "c"])
    assert isinstance(learned(model, path, 1, variables=["a", "b", "c"])[0], RowsLearned)


@pytest.mark.parametrize("kind", KINDS)
def test_of_a_folder_each_file_is_learned_once(kind: str, model: Path, tmp_path: Path) -> None:
    folder, write = tmp_path / "nights", KINDS[kind]
    folder.mkdir()
    assert_refused(model, DataError, "nights holds no files that can be read", folder)
    (folder / "README.txt").write_text("nothing")
    write(folder / f"_hidden{kind}", table(50))
    pattern = str(folder / f"*{kind}")
    # The last one comes out of order, and is new all the same.
    for number, data in ((9, folder), (10, pattern), (2, folder)):
        write(folder / f"part-{number}{kind}", table(200 + number, number))
        (event,) = learned(model, data)
        assert isinstance(event, RowsLearned)
        assert event.n_rows == 200 + number
        assert learned(model, folder) == learned(model, pattern) == []
    assert event.n_samples == 621
    path = folder / f"part-9{kind}"
    os.utime(path)
    assert learned(model, folder) == []
    changed = table(209, 9)
    changed[0, 0] = 0.5
    write(path, changed)
    message = f"part-9{kind} was changed since .*model.gmm learned it"
    assert_refused(model, DataError, message, folder)
    write(path, table(300, 9))
    assert_refused(model, DataError, message, folder)
    path.unlink()
    assert learned(model, folder) == []


def test_files_are_learned_in_the_order_of_their_numbers(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "nights"
    (folder / "a" / "deep").mkdir(parents=True)
    for name in ("10.npy", "9.npy", "a/2.npy", "a/deep/1.npy"):
        np.save(folder / name, table(100))
    store(folder / "a" / "rows.zarr", table(100))
    events = learned(model, folder)
    names = [event.data.rpartition("nights/")[2] for event in events]  # type: ignore[union-attr]
    assert names == ["9.npy", "10.npy", "a/2.npy", "a/rows.zarr", "a/deep/1.npy"]
    # An array within a folder may grow.
    appended(folder / "a" / "rows.zarr", table(7))
    (event,) = learned(model, f"{folder}/**/*")
    assert isinstance(event, RowsLearned)
    assert event.n_rows == 7
    with pytest.raises(ParameterError, match="several files"):
        streamgmm.update(model, folder, sample_weight=folder / "9.npy")


def test_a_file_that_was_tracked_by_itself_may_grow_in_its_folder(
    model: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "nights"
    folder.mkdir()
    path = folder / "1.npy"
    for n_rows, data, n_new in ((100, path, 100), (250, folder, 150), (300, path, 50)):
        np.save(path, table(300)[:n_rows])
        (event,) = learned(model, data)
        assert isinstance(event, RowsLearned)
        assert event.n_rows == n_new
        os.utime(path)
        assert learned(model, folder) == learned(model, path) == []


def test_a_file_that_is_being_written_is_not_learned(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "nights"
    folder.mkdir()
    path = folder / "1.npy"
    path.write_bytes(npy(table(200))[:-100])
    assert_refused(model, DataError, r"1\.npy is truncated.*write or copy it again", folder)
    # All of it seems to be there, but some rows are written between two pieces.
    monkeypatch.setattr(growing, "_PIECE_BYTES", 1)
    rows = table(CHUNK + 100)
    np.save(path, np.vstack([rows[:CHUNK], np.zeros((100, D))]))

    def finish(event: Event) -> None:
        if isinstance(event, RowsLearned):
            np.save(path, rows)

    message = rf"1\.npy was changed while it was read, and rows {CHUNK} to {CHUNK + 100}"
    with pytest.raises(DataError, match=message):
        streamgmm.update(model, folder, callbacks=[finish])
    assert streamgmm.load(model).n_samples_seen_ == CHUNK  # type: ignore[union-attr]
    assert learned(model, folder)[0].n_rows == 100  # type: ignore[union-attr]
    expected = OnlineGaussianMixture(K, init_size=500, random_state=0).partial_fit(rows)
    found = streamgmm.load(model)
    np.testing.assert_allclose(found.means_, expected.means_)


def test_a_file_that_is_touched_is_read_again_once(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "nights"
    folder.mkdir()
    np.save(folder / "1.npy", table(200))
    learned(model, folder)
    os.utime(folder / "1.npy")
    for is_saved in (True, False):
        before = model.read_bytes()
        assert learned(model, folder) == []
        assert (model.read_bytes() != before) == is_saved


def test_folders_that_link_to_each_other_are_listed_once(model: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "nights" / name).mkdir(parents=True)
        np.save(tmp_path / "nights" / name / "1.npy", table(100))
    for name, other in (("a", "b"), ("b", "a")):
        (tmp_path / "nights" / name / "up").symlink_to("..")
        (tmp_path / "nights" / name / "other").symlink_to(f"../{other}")
    assert len(learned(model, tmp_path / "nights")) == 2
    assert_refused(model, DataError, "path of the data is empty", "")


def test_a_file_that_is_rewritten_with_the_same_size_and_time_is_read_again(
    model: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "nights"
    folder.mkdir()
    path = folder / "1.npy"
    rows = table(200)
    np.save(path, rows)
    learned(model, folder)
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    for is_replaced in (False, True):
        changed = rows.copy()
        changed[0, 0] += 1.0
        for content in (changed, rows):
            if is_replaced:
                path.unlink()
            np.save(path, content)
            os.utime(path, ns=times)
            if content is changed:
                assert_refused(model, DataError, "1.npy was changed since", folder)
            else:
                # What it was, whatever its number in the file system is.
                assert learned(model, folder) == []


# Many rows share one value of a column, and a component is theirs.
@pytest.mark.filterwarnings("ignore::streamgmm.errors.DegenerateComponentWarning")
def test_ledgers_of_older_releases_keep_their_rules(model: Path, tmp_path: Path) -> None:
    """Stamps of two numbers, and digests in which the bits of numbers count."""
    folder, single = tmp_path / "nights", tmp_path / "single.npy"
    folder.mkdir()
    rows = table(200)
    rows[:100, 0] = -0.0
    np.save(folder / "1.npy", rows)
    np.save(single, rows)
    for data, batch_id in ((rows, "a"), (folder, None), (single, None)):
        learned(model, data, batch_id)
    chunk = Chunk(rows, range(200))
    old, latest = RowDigest(version=1), RowDigest(version=1)
    old.add(chunk)
    latest.add(chunk.part(136, 200))
    assert ":" not in old.text()
    record = read_record(model)
    stored = json.loads(json.dumps(record.header["ledger"]))
    stored["batches"]["entries"]["a"] = old.text()
    for where in stored["folders"]["entries"].values():
        for position in where["entries"].values():
            position[1] = latest.text()
            if position[2] is not None:
                position[2], position[3] = old.text(), position[3][:2]
    write_record(model, Record({**record.header, "ledger": stored}, record.arrays))
    before = model.read_bytes()
    assert isinstance(learned(model, rows, "a")[0], BatchKnown)
    assert learned(model, folder) == learned(model, single) == []
    assert model.read_bytes() == before
    # By the old rule the bits count.
    assert_refused(model, DataError, "the rows are others", rows + 0.0, "a")
    os.utime(folder / "1.npy")
    assert learned(model, folder) == []
    np.save(single, np.vstack([rows, rows]))
    assert learned(model, single)[0].n_rows == 200  # type: ignore[union-attr]


# Many rows share one value of a column, and a component is theirs.
@pytest.mark.filterwarnings("ignore::streamgmm.errors.DegenerateComponentWarning")
def test_equal_numbers_are_the_same_rows(model: Path, tmp_path: Path) -> None:
    rows = table(300)
    rows[::3, 1], rows[::5, 2] = 0.0, np.nan
    other = rows.copy()
    other[::6, 1] = -0.0
    # Another sign and another payload; the third is a signalling NaN.
    for start, bits in ((0, 0xFFF8000000000000), (5, 0x7FF8000000000123), (10, 0x7FF0000000000001)):
        other.view(np.uint64)[start::30, 2] = bits
    assert other.tobytes() != rows.tobytes()
    path = tmp_path / "rows.npy"
    np.save(path, rows)
    for data, batch_id in ((rows, "a"), (path, None)):
        assert isinstance(learned(model, data, batch_id, missing="em")[0], RowsLearned)
    np.save(path, other)
    assert isinstance(learned(model, other, "a", missing="em")[0], BatchKnown)
    with np.errstate(invalid="ignore"):
        wide = other.astype(np.longdouble)
    assert isinstance(learned(model, wide, "a", missing="em")[0], BatchKnown)
    assert learned(model, path, missing="em") == []
    other[7, 1] = 5e-324
    assert_refused(model, DataError, "the rows are others", other, "a", missing="em")


@pytest.mark.usefixtures("few")
def test_of_more_folders_than_are_remembered_all_are_learned(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "nights"
    for number in range(1, 6):
        (folder / f"{number}").mkdir(parents=True)
        np.save(folder / f"{number}" / "rows.npy", table(100, number))
    # What lies above them is lower in order than they are, whatever it is called.
    np.save(folder / "z.npy", table(100))
    assert len(learned(model, folder)) == 6
    assert learned(model, folder) == []


@pytest.mark.usefixtures("few")
def test_files_that_are_forgotten_count_as_learned(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "nights"
    folder.mkdir()
    for number in range(1, 6):
        np.save(folder / f"{number}.npy", table(100, number))
        assert len(learned(model, folder)) == 1
    assert learned(model, folder) == []
    np.save(folder / "0.npy", table(100, 0))
    events: list[Event] = []
    before = model.read_bytes()
    streamgmm.update(model, folder, callbacks=[events.append])
    assert events == [FilesSkipped(str(model), str(folder), ("0.npy", "1.npy", "2.npy"))]
    assert "3 files up to 2.npy skipped; names below the remembered" in describe_update(events[0])
    assert model.read_bytes() == before
    # As the message says:
    (folder / "0.npy").rename(folder / "6.npy")
    assert learned(model, folder)[0].n_rows == 100  # type: ignore[union-attr]
    message = "1.npy was learned already, or comes too late"
    assert_refused(model, DataError, message, folder / "1.npy")
    # What may have grown is not skipped.
    store(folder / "0.zarr", table(100))
    assert_refused(model, DataError, "0.zarr was learned already, or comes too late", folder)


@pytest.mark.parametrize("sizes", [[1] * 200, [200], [63, 1, 136], [3, 64, 133], [150, 20, 30]])
def test_the_last_rows_are_known_however_they_come(sizes: list[int]) -> None:
    rows, latest, start = table(200), growing.LatestRows(), 0
    chunks = []
    for size in sizes:
        chunks.append(Chunk(rows[start : start + size], range(start, start + size)))
        start += size
    assert list(latest.followed(iter(chunks))) == chunks
    expected = growing.LatestRows()
    list(expected.followed(iter([Chunk(rows[-64:].astype(np.longdouble), range(64))])))
    assert latest.digest() == expected.digest()


# Crashes


def small_job(folder: Path, path: Path) -> None:
    """Learn batches, an array in pieces and files, from wherever the model's file is."""
    growing._PIECE_BYTES = 1
    settings = {"n_components": K, "init_size": 300, "random_state": 0, "n_jobs": 1}
    for number in range(2):
        streamgmm.update(path, table(200, number), number, **settings)
    streamgmm.update(path, folder / "rows.zarr", **settings)
    streamgmm.update(path, folder / "files", **settings)


def kill_at_every_step(folder: Path) -> None:
    """Kill a job at each step of each of its writes, have it done again, and compare."""
    small_job(folder, folder / "whole.gmm")
    expected = (folder / "whole.gmm").read_bytes()
    n_done = 0
    for step in STEPS:
        for count in range(100):
            path = folder / f"{step} {count}.gmm"

            def killed(step: str = step, count: int = count, path: Path = path) -> None:
                kill_at(step, count, writer=persistence)
                small_job(folder, path)

            status = in_a_fork(killed)
            if status == 0:
                break
            assert status == -signal.SIGKILL
            assert in_a_fork(lambda path=path: small_job(folder, path)) == 0
            assert path.read_bytes() == expected, path
            assert not list(folder.glob(".*.part"))
            n_done += 1
    # Two batches, two pieces, two files.
    assert n_done == 4 * 6


def test_killed_at_any_step_of_any_write_nothing_is_lost_or_learned_twice(tmp_path: Path) -> None:
    store(tmp_path / "rows.zarr", table(CHUNK + 100, 7))
    (tmp_path / "files").mkdir()
    for number in range(2):
        np.save(tmp_path / "files" / f"{number}.npy", table(150, 20 + number))
    program = "import sys; from pathlib import Path; from tests.test_updating import *; "
    program += "kill_at_every_step(Path(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], cwd=Path.cwd(), check=True)


# Standard input


def test_tables_of_another_kind_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "stream"
    for content, message in ((b"", "pipe is empty"), (b"hello", "Arrow IPC stream, or .npy")):
        path.write_bytes(content)
        with path.open("rb") as file, pytest.raises(DataError, match=message):
            list(tables_from(file, "pipe"))
