"""Data sets of pyarrow, Delta and Lance keep the promises of a source."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.fs
import pyarrow.parquet as pq
import pytest

import streamgmm
from streamgmm import GaussianMixture, OnlineGaussianMixture
from streamgmm.errors import DataError, NotFiniteError
from streamgmm.testing.sources import SourceCase, SourceConformance

N = 1000
RNG = np.random.default_rng(0)
TABLE = pa.table(
    {
        "a": RNG.normal(size=N),
        "b": RNG.normal(size=N),
        "year": np.repeat([2019, 2020, 2021, 2022], N // 4),
    }
)
FEATURES = ["a", "b"]


def hive(folder: Path) -> ds.Dataset:
    parts = ds.partitioning(pa.schema([("year", pa.int64())]), flavor="hive")
    ds.write_dataset(TABLE, folder / "hive", format="parquet", partitioning=parts)
    return ds.dataset(folder / "hive", partitioning=parts)


def row_groups(folder: Path) -> ds.Dataset:
    pq.write_table(TABLE, folder / "x.parquet", row_group_size=100)
    return ds.dataset(folder / "x.parquet")


def ipc(folder: Path) -> ds.Dataset:
    ds.write_dataset(
        TABLE, folder / "ipc", format="ipc", max_rows_per_file=300, max_rows_per_group=300
    )
    return ds.dataset(folder / "ipc", format="ipc")


def csv(folder: Path) -> ds.Dataset:
    ds.write_dataset(
        TABLE, folder / "csv", format="csv", max_rows_per_file=300, max_rows_per_group=300
    )
    return ds.dataset(folder / "csv", format="csv")


def delta(folder: Path) -> ds.Dataset:
    """A table of which an overwrite and a deletion left other files behind."""
    deltalake = pytest.importorskip("deltalake")
    deltalake.write_deltalake(str(folder / "delta"), TABLE.slice(0, 300), partition_by=["year"])
    deltalake.write_deltalake(str(folder / "delta"), TABLE, mode="overwrite", partition_by=["year"])
    table = deltalake.DeltaTable(str(folder / "delta"))
    table.delete("year = 2021")
    return table.to_pyarrow_dataset()


def lance(folder: Path) -> Any:
    module = pytest.importorskip("lance")
    dataset = module.write_dataset(TABLE, str(folder / "lance"), max_rows_per_file=300)
    dataset.delete("year = 2020")
    return dataset


DATASETS: dict[str, Callable[[Path], Any]] = {
    "hive": hive,
    "filtered": lambda folder: row_groups(folder).filter(ds.field("a") > 0.5),
    "filtered by key": lambda folder: (
        hive(folder).filter(ds.field("year") >= 2020).filter(ds.field("b") < 1.0)
    ),
    "row groups": row_groups,
    "ipc": ipc,
    "filtered ipc": lambda folder: ipc(folder).filter(ds.field("a") > 0.5),
    "csv": csv,
    "union": lambda folder: ds.dataset([row_groups(folder), hive(folder)]),
    "delta": delta,
    "lance": lance,
    "in memory": lambda folder: ds.dataset(TABLE).filter(ds.field("a") > 0.5),
}


class TestDatasets(SourceConformance):
    @pytest.fixture(params=DATASETS)
    def case(self, request: pytest.FixtureRequest, tmp_path: Path) -> SourceCase:
        dataset = DATASETS[request.param](tmp_path)
        table = dataset.to_table()
        expected = [table.column(name).to_numpy().astype(float) for name in dataset.schema.names]
        return SourceCase(streamgmm.open(dataset), np.column_stack(expected))


def test_what_is_current_alone_is_read(tmp_path: Path) -> None:
    assert streamgmm.open(delta(tmp_path)).n_rows == 750


def test_keys_of_partitions_are_columns(tmp_path: Path) -> None:
    dataset = hive(tmp_path)
    source = streamgmm.open(dataset)
    assert source.feature_names == ["a", "b", "year"]
    by_name = streamgmm.open(dataset, columns=["year", "a"])
    np.testing.assert_array_equal(by_name.read(0).rows, source.read(0).rows[:, [2, 0]])


def test_the_bits_are_those_of_the_files_and_of_the_rows_in_memory(tmp_path: Path) -> None:
    dataset = row_groups(tmp_path)
    model = GaussianMixture(2, random_state=0)
    expected = model.fit(streamgmm.open(tmp_path / "x.parquet", columns=FEATURES)).means_
    found = model.fit(streamgmm.open(dataset, columns=FEATURES)).means_
    np.testing.assert_array_equal(found, expected)
    found = model.fit(dataset.to_table(columns=FEATURES)).means_
    np.testing.assert_array_equal(found, expected)


def test_it_is_taken_at_every_entrance(tmp_path: Path) -> None:
    dataset = hive(tmp_path).filter(ds.field("a") > 0.0)
    table = dataset.to_table()
    model = GaussianMixture(2, random_state=0).fit(dataset)
    labels = model.predict(dataset)
    assert isinstance(labels, pa.ChunkedArray)
    assert labels == model.predict(table)
    assert model.score(dataset) == pytest.approx(model.score(table), rel=1e-12)
    online = OnlineGaussianMixture(2, init_size=100, random_state=0).partial_fit(dataset)
    assert online.n_samples_seen_ == len(table)
    updated = streamgmm.update(tmp_path / "model.gmm", dataset, n_components=1)
    assert updated.n_samples_seen_ == len(table)
    assert updated.feature_names_in_.tolist() == ["a", "b", "year"]


def test_small_row_groups_are_read_together(tmp_path: Path) -> None:
    assert streamgmm.open(row_groups(tmp_path)).boundaries == [0, N]
    large = pa.concat_tables([TABLE] * 60)
    pq.write_table(large, tmp_path / "large.parquet", row_group_size=25_000)
    dataset = ds.dataset(tmp_path / "large.parquet")
    from_file = streamgmm.open(tmp_path / "large.parquet")
    assert streamgmm.open(dataset).boundaries == from_file.boundaries
    only_some = dataset.filter(ds.field("year") == 2019)
    assert streamgmm.open(only_some).n_rows == 60 * N // 4


@pytest.mark.filterwarnings("ignore::streamgmm.errors.FewRowsWarning")
def test_a_schema_that_evolved(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": pa.array([1, 2], pa.int32())}), tmp_path / "0.parquet")
    pq.write_table(pa.table({"b": [5.0], "a": pa.array([3], pa.int64())}), tmp_path / "1.parquet")
    schema = pa.schema([("a", pa.int64()), ("b", pa.float64())])
    source = streamgmm.open(ds.dataset(tmp_path, schema=schema), missing="drop")
    rows = np.concatenate([source.read(i).rows for i in range(2)])
    np.testing.assert_array_equal(rows, [[1.0, np.nan], [2.0, np.nan], [3.0, 5.0]])
    with pytest.raises(NotFiniteError):
        GaussianMixture().fit(ds.dataset(tmp_path, schema=schema))


def test_integers_that_are_never_null_keep_their_type(tmp_path: Path) -> None:
    schema = pa.schema([pa.field("a", pa.int16(), nullable=False)])
    pq.write_table(pa.table({"a": [1, 2]}, schema=schema), tmp_path / "x.parquet")
    source = streamgmm.open(ds.dataset(tmp_path / "x.parquet"))
    assert source.dtype == np.int16
    np.testing.assert_array_equal(source.read(0).rows, [[1], [2]])


def test_other_columns_are_named(tmp_path: Path) -> None:
    table = TABLE.append_column("place", pa.array(["x"] * N))
    parts = ds.partitioning(pa.schema([("place", pa.string())]), flavor="hive")
    ds.write_dataset(table, tmp_path / "t", format="parquet", partitioning=parts)
    dataset = ds.dataset(tmp_path / "t", partitioning="hive")
    with pytest.raises(DataError, match=r"'place' \(.*string.*\).*columns=\['a', 'b', 'year'\]"):
        GaussianMixture().fit(dataset)
    assert streamgmm.open(dataset, columns=["a", "b", "year"]).n_features == 3
    with pytest.raises(DataError, match="no column 'x'"):
        streamgmm.open(dataset, columns=["x"])


def test_nothing_that_the_filter_keeps(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"0 sample\(s\)"):
        streamgmm.open(row_groups(tmp_path).filter(ds.field("a") > 1e9))


def from_paths(path: Path, schema: pa.Schema) -> ds.Dataset:
    return ds.FileSystemDataset.from_paths(
        [str(path)],
        schema=schema,
        format=ds.ParquetFileFormat(),
        filesystem=pyarrow.fs.LocalFileSystem(),
    )


def test_duplicate_names(tmp_path: Path) -> None:
    schema = pa.schema([("a", pa.float64()), ("a", pa.float64())])
    with pytest.raises(DataError, match="more than one column with the name 'a'"):
        streamgmm.open(from_paths(tmp_path / "x.parquet", schema))


def test_files_that_vanish_or_change(tmp_path: Path) -> None:
    source = streamgmm.open(row_groups(tmp_path))
    whole = (tmp_path / "x.parquet").read_bytes()
    (tmp_path / "x.parquet").unlink()
    with pytest.raises(DataError, match=r"rows 0 to 1000 cannot be read.*x\.parquet"):
        source.read(0)
    (tmp_path / "x.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="rows 0 to 1000 cannot be read"):
        source.read(0)
    with pytest.raises(DataError, match="its files cannot be read"):
        streamgmm.open(from_paths(tmp_path / "absent.parquet", TABLE.schema))


def test_options_of_lance_that_choose_rows_are_refused(tmp_path: Path) -> None:
    dataset = lance(tmp_path)
    module = pytest.importorskip("lance")
    chosen = module.dataset(dataset.uri, default_scan_options={"filter": "a > 0"})
    with pytest.raises(DataError, match=r"default_scan_options.*X\.to_table\(\)"):
        streamgmm.open(chosen)
    assert streamgmm.open(chosen.to_table()).n_rows == len(chosen.to_table())


def test_it_shows_itself(tmp_path: Path) -> None:
    source = streamgmm.open(hive(tmp_path))
    assert "3 more files: 1,000 rows × 3 columns" in repr(source)
    assert source.location is None
    assert streamgmm.open(row_groups(tmp_path)).location == tmp_path / "x.parquet"
    assert len(pickle.dumps(source)) < 100_000
