"""Tables and stores that look well and are not: one clear error for each, never other values."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import zarr
from sklearn.pipeline import make_pipeline

import streamgmm
from streamgmm import GaussianMixture
from streamgmm.errors import DataError
from streamgmm.preprocessing import PCA, StandardScaler

RNG = np.random.default_rng(0)
TABLE = pa.table({"a": RNG.normal(size=50), "b": RNG.normal(size=50)})
TEXT = TABLE.set_column(1, "b", pa.array(["x"] * 50))


def lists(width: int, n: int = 50) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(RNG.normal(size=n * width)), width)


def files(*tables: pa.Table) -> Callable[[Path], Path]:
    def written(folder: Path) -> Path:
        for i, table in enumerate(tables):
            pq.write_table(table, folder / f"{i}.parquet")
        return folder

    return written


def arrays(*shapes: tuple[int, ...]) -> Callable[[Path], Path]:
    def written(folder: Path) -> Path:
        for i, shape in enumerate(shapes):
            np.save(folder / f"{i}.npy", RNG.normal(size=shape))
        return folder

    return written


def cut_short(folder: Path) -> Path:
    np.save(folder / "0.npy", RNG.normal(size=(5, 2)))
    (folder / "1.npy").write_bytes(b"")
    return folder


def keys_in_files(folder: Path) -> ds.Dataset:
    for key in (1, 2):
        (folder / f"a={key}").mkdir()
        inner = pa.table({"a": np.arange(5) + 10 * key, "b": np.arange(5.0)})
        pq.write_table(inner, folder / f"a={key}" / "x.parquet")
    keys = ds.partitioning(pa.schema([("a", pa.int64())]), flavor="hive")
    return ds.dataset(folder, partitioning=keys)


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "a column that is absent": (files(TABLE, TABLE.select(["a"])), r"1\.parquet has no column 'b'"),
    "a column that is added": (
        files(TABLE, TABLE.append_column("z", TABLE["a"])),
        r"0\.parquet has no column 'z'",
    ),
    "text in one file": (files(TABLE, TEXT), r"1\.parquet: column 'b' has type string"),
    "text in all files": (files(TEXT), r"column 'b' has type string.*columns="),
    "two lists": (
        files(pa.table({"e": lists(3), "f": lists(2)})),
        r"different lengths: 3 in e, 2 in f.*columns=\['e'\]",
    ),
    "lists of another length in a file": (
        files(pa.table({"e": lists(3)}), pa.table({"e": lists(2)})),
        r"1\.parquet: column 'e' .* lists of 3 numbers",
    ),
    "a shard of another width": (arrays((50, 3), (50, 2)), r"1\.npy has 2 columns, but .* has 3"),
    "shards without rows": (arrays((0, 3), (0, 3)), "no file has rows"),
    "a shard that is being written": (cut_short, r"1\.npy is not a \.npy file that can be read"),
    "keys in files": (keys_in_files, r"column 'a', which is also a partition key.*columns="),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_tables_are_refused(name: str, tmp_path: Path) -> None:
    make, message = BAD[name]
    with pytest.raises(DataError, match=message):
        streamgmm.open(make(tmp_path)).read(0)


def test_what_is_chosen_is_read(tmp_path: Path) -> None:
    (tmp_path / "lists").mkdir()
    both = pa.table({"e": lists(3), "f": lists(2)})
    path = files(both)(tmp_path / "lists")
    assert streamgmm.open(path, columns=["e", "f"]).n_features == 5
    (tmp_path / "hive").mkdir()
    data = keys_in_files(tmp_path / "hive")
    np.testing.assert_array_equal(streamgmm.open(data, columns=["b"]).read(0).rows[:, 0], range(5))


def test_an_empty_shard_has_no_rows(tmp_path: Path) -> None:
    source = streamgmm.open(arrays((50, 3), (0, 3), (20, 3))(tmp_path))
    assert source.n_rows == 70


def test_steps_refuse_other_features(tmp_path: Path) -> None:
    rows = RNG.normal(size=(200, 3))
    frame = pandas.DataFrame(rows, columns=["a", "b", "c"])
    scaler = StandardScaler().fit(frame)
    pipeline = make_pipeline(StandardScaler(), PCA(2), GaussianMixture()).fit(frame)
    other = frame.rename(columns={"c": "d"})
    np.save(tmp_path / "narrow.npy", rows[:, :2])
    for step in (scaler.transform, pipeline.predict):
        for data, message in (
            (other, "now missing:\n- c"),
            (frame[["c", "b", "a"]], "in the same order"),
            (streamgmm.open(rows[:, :2]), "X has 2 features"),
        ):
            with pytest.raises(DataError, match=message):
                step(data)
    with pytest.raises(DataError, match="2 features, but StandardScaler is expecting 3"):
        pipeline.score(tmp_path / "narrow.npy")


def test_columns_without_variance_are_scaled_by_one() -> None:
    rows = RNG.normal(size=(200, 3))
    rows[:, 1] = 3.1
    pipeline = make_pipeline(StandardScaler(), PCA(0.99), GaussianMixture()).fit(rows)
    assert pipeline[0].scale_[1] == 1.0
    assert pipeline[1].n_components_ == 2
    assert np.isfinite(pipeline.score_samples(rows)).all()


@pytest.mark.parametrize("fill_value", [0.0, np.nan])
def test_chunks_that_are_not_stored_are_reported_once(
    fill_value: float, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    array = zarr.create_array(
        tmp_path / "x.zarr", shape=(40, 2), chunks=(10, 2), dtype="f8", fill_value=fill_value
    )
    array[:10] = RNG.normal(size=(10, 2))
    source = streamgmm.open(tmp_path / "x.zarr", missing="drop")
    for _ in range(2):
        source.read(0)
    found = [line for line in caplog.messages if "chunks that are not stored" in line]
    # Values of a mark for missing ones are missing.
    assert len(found) == (fill_value == 0.0)
    assert all("still being written" in line for line in found)
