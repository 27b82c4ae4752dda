"""Folders that are tables with a log of their own, at every entrance."""

from collections.abc import Callable
from pathlib import Path

import fsspec
import numpy as np
import pyarrow.parquet
import pytest

import streamgmm
from streamgmm import GaussianMixture, OnlineGaussianMixture
from streamgmm.errors import DataError, StreamGMMError
from streamgmm.sources.table_formats import folders_above
from tests import tables

FORMATS: dict[str, tuple[Callable[[Path], None], str]] = {
    "delta": (tables.write_delta, "a Delta table"),
    "iceberg": (tables.write_iceberg, "an Iceberg table"),
    "hudi": (tables.write_hudi, "a Hudi table"),
    "lance": (tables.lay_out_lance, "a Lance dataset"),
}


def entrances(folder: Path) -> dict[str, Callable[[object], object]]:
    """Functions of the data that read all of them, or learn them."""
    rows = np.random.default_rng(0).normal(size=(100, 2))
    fitted = GaussianMixture(2, random_state=0).fit(rows)
    model = folder / "model.gmm"
    OnlineGaussianMixture(2).save(model)
    return {
        "open": streamgmm.open,
        "fit": GaussianMixture(2).fit,
        "partial_fit": OnlineGaussianMixture(2).partial_fit,
        "predict": lambda data: fitted.predict(data, out=folder / "labels.npy"),
        "score": fitted.score,
        "update": lambda data: streamgmm.update(model, data),
    }


@pytest.mark.parametrize("kind", FORMATS)
def test_a_table_is_refused_at_every_entrance(kind: str, tmp_path: Path) -> None:
    write, named = FORMATS[kind]
    table = tmp_path / "lake" / "t"
    table.parent.mkdir()
    write(table)
    for name, entrance in entrances(tmp_path).items():
        for data in (table, str(table), f"{table}/", f"file://{table}"):
            with pytest.raises(DataError, match=rf"lake/t/? is {named}: its log") as caught:
                entrance(data)
            assert "\n" not in str(caught.value), name
    assert not (tmp_path / "labels.npy").exists()


@pytest.mark.parametrize("kind", ["delta", "iceberg", "hudi"])
def test_a_table_is_refused_by_a_pattern_and_from_above(kind: str, tmp_path: Path) -> None:
    write, named = FORMATS[kind]
    table = tmp_path / "lake" / "t"
    table.parent.mkdir()
    write(table)
    inner = "data/" if kind == "iceberg" else ""
    # A plain file beside the table does not hide it.
    pyarrow.parquet.write_table(tables.CURRENT, tmp_path / "lake" / "plain.parquet")
    for entrance in entrances(tmp_path).values():
        for data in (
            f"{table}/{inner}*.parquet",
            tmp_path / "lake",
            f"{tmp_path}/l*/**/*.parquet",
        ):
            with pytest.raises(DataError, match=rf"t is {named}"):
                entrance(data)


def test_a_partition_of_a_table_is_refused(tmp_path: Path) -> None:
    table = tmp_path / "t"
    tables.write_delta(table, partition_by="a")
    for data in (table / "a=1", f"{table}/a=*", f"{table}/a=1/*.parquet", f"{table}/*/*.parquet"):
        with pytest.raises(DataError, match=r"t is a Delta table"):
            streamgmm.open(data)
        if str(data) != f"{table}/a=*":
            with pytest.raises(DataError, match=r"t is a Delta table"):
                streamgmm.update(tmp_path / "m.gmm", data, n_components=2)
    # One file that is named is that file.
    file = next(table.rglob("a=1/*.parquet"))
    assert streamgmm.open(file).n_rows == 1


@pytest.mark.parametrize("kind", ["delta", "iceberg", "hudi"])
def test_a_table_at_a_url_is_refused(kind: str, tmp_path: Path) -> None:
    write, named = FORMATS[kind]
    write(tmp_path / "t")
    memory = fsspec.filesystem("memory")
    memory.put(f"{tmp_path}/t", "/lake/t.parquet", recursive=True)
    pyarrow.parquet.write_table(tables.CURRENT, tmp_path / "x.parquet")
    memory.put_file(str(tmp_path / "x.parquet"), "/lake/plain.parquet")
    memory.put_file(str(tmp_path / "x.parquet"), "/flat/plain.parquet")
    try:
        for url in ("lake/t.parquet", "lake/t.parquet/**/*.parquet", "lake/*.parquet"):
            with pytest.raises(DataError, match=rf"memory:///lake/t\.parquet is {named}"):
                streamgmm.open(f"memory://{url}")
        assert streamgmm.open("memory://lake/plain.parquet").n_rows == 100
        assert streamgmm.open("memory://flat/*.parquet").n_rows == 100
    finally:
        memory.rm("/lake", recursive=True)
        memory.rm("/flat", recursive=True)


def _file(folder: Path, name: str) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("{}")


NAMES = (
    "metadata",
    "metadata/readme.json",
    "metadata/schema.parquet",
    ".hoodie",
    ".hoodie/readme.txt",
    "_delta_log",
    "_delta_log/readme.txt",
    "_delta_log_old/0.json",
    "_versions/notes.txt",
    "_metadata",
    "x.metadata.json",
    "delta_log/0.json",
)


@pytest.mark.parametrize("name", NAMES)
def test_a_plain_folder_is_read_whatever_its_files_are_called(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "t"
    folder.mkdir()
    pyarrow.parquet.write_table(tables.CURRENT, folder / "x.parquet")
    pyarrow.parquet.write_table(tables.CURRENT, folder / "y.parquet")
    if name == "metadata/schema.parquet":
        (folder / "metadata").mkdir()
        pyarrow.parquet.write_table(tables.CURRENT, folder / name)
    else:
        _file(folder, name)
    n_rows = 300 if name == "metadata/schema.parquet" else 200
    assert streamgmm.open(folder).n_rows == n_rows
    assert streamgmm.open(f"{folder}/*.parquet").n_rows == 200
    model = streamgmm.update(tmp_path / "m.gmm", folder, n_components=2)
    assert model.n_samples_seen_ == n_rows


@pytest.mark.parametrize("name", [".hoodie", "_delta_log", "metadata", "_versions"])
def test_an_empty_folder_is_no_log(name: str, tmp_path: Path) -> None:
    pyarrow.parquet.write_table(tables.CURRENT, tmp_path / "x.parquet")
    (tmp_path / name).mkdir()
    assert streamgmm.open(tmp_path).n_rows == 100


def test_other_kinds_of_files_in_a_table_are_learned_by_a_pattern(tmp_path: Path) -> None:
    tables.write_delta(tmp_path / "t")
    np.save(tmp_path / "t" / "x.npy", np.random.default_rng(0).normal(size=(40, 2)))
    found = streamgmm.update(tmp_path / "m.gmm", f"{tmp_path}/t/*.npy", n_components=2)
    assert found.n_samples_seen_ == 40


def test_weights_from_a_table_are_refused(tmp_path: Path) -> None:
    tables.write_delta(tmp_path / "t")
    with pytest.raises(StreamGMMError):
        streamgmm.open(np.ones((100, 2)), sample_weight=tmp_path / "t")


def test_folders_above_a_path() -> None:
    assert [*folders_above("/a/b/c")] == ["/a/b", "/a", "/"]
    assert [*folders_above("bucket/a/")] == ["bucket"]
    assert [*folders_above("https://host/a/b")] == ["https://host/a", "https://host"]
