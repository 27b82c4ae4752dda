"""Tables that give their rows by the Arrow PyCapsule interface."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas
import polars
import pyarrow as pa
import pytest

import streamgmm
from streamgmm import GaussianMixture, OnlineGaussianMixture
from streamgmm.errors import DataError, DataTypeError, NotFiniteError, ParameterError

N = 150_000
RNG = np.random.default_rng(0)
ROWS = RNG.normal(size=(N, 2)) + 6.0 * RNG.integers(0, 2, (N, 1))
TABLE = pa.table({"a": ROWS[:, 0], "b": ROWS[:, 1]})


class Producer:
    """A table of an unknown library, of which the interface alone is known."""

    def __init__(self, table: pa.Table) -> None:
        self.table_of_others = table

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        return self.table_of_others.__arrow_c_stream__(requested_schema)


def relation(table: pa.Table = TABLE) -> Any:
    return duckdb.from_arrow(table)


def nanoarrow_stream(table: pa.Table = TABLE) -> Any:
    return pytest.importorskip("nanoarrow").ArrayStream(table)


def hugging_face(table: pa.Table = TABLE) -> Any:
    return pytest.importorskip("datasets").Dataset(table)


STREAMS: dict[str, Callable[..., Any]] = {
    "reader": lambda table=TABLE: table.to_reader(max_chunksize=7_000),
    "DuckDB": relation,
    "producer": lambda table=TABLE: Producer(table),
    "nanoarrow": nanoarrow_stream,
}
TABLES: dict[str, Callable[..., Any]] = {
    "producer": lambda table=TABLE: Producer(table),
    "nanoarrow": nanoarrow_stream,
    "Hugging Face": hugging_face,
    "table of Hugging Face": lambda table=TABLE: hugging_face(table).data,
}


def online() -> OnlineGaussianMixture:
    return OnlineGaussianMixture(2, init_size=5000, random_state=0)


@pytest.fixture(scope="module")
def learned() -> OnlineGaussianMixture:
    return online().partial_fit(TABLE)


@pytest.mark.parametrize("kind", TABLES)
def test_rows_in_memory_are_those_of_an_arrow_table(kind: str) -> None:
    source = streamgmm.open(TABLES[kind]())
    assert source.feature_names == ["a", "b"]
    rows = np.concatenate([source.read(i).rows for i in range(len(source.boundaries) - 1)])
    np.testing.assert_array_equal(rows, ROWS)
    few = TABLE.slice(0, 500)
    model = GaussianMixture(random_state=0).fit(TABLES[kind](few))
    np.testing.assert_array_equal(model.means_, GaussianMixture(random_state=0).fit(few).means_)
    labels = model.predict(TABLES[kind](few))
    assert isinstance(labels, pa.ChunkedArray)
    assert labels == model.predict(few)


def test_rows_that_hugging_face_chose_are_taken_in_their_order() -> None:
    chosen = hugging_face(TABLE.slice(0, 10)).select([7, 2, 2])
    np.testing.assert_array_equal(streamgmm.open(chosen).read(0).rows, ROWS[[7, 2, 2]])


@pytest.mark.parametrize("kind", STREAMS)
def test_a_stream_is_learned_with_the_bits_of_its_rows_in_memory(
    kind: str, learned: OnlineGaussianMixture
) -> None:
    found = online().partial_fit(STREAMS[kind]())
    assert found.n_samples_seen_ == N
    assert found.feature_names_in_.tolist() == ["a", "b"]
    np.testing.assert_array_equal(found.means_, learned.means_)
    np.testing.assert_array_equal(found.covariances_, learned.covariances_)


@pytest.mark.parametrize("kind", STREAMS)
def test_update_and_fit_learn_a_stream_batch_by_batch(
    kind: str, learned: OnlineGaussianMixture, tmp_path: Path
) -> None:
    fitted = online().fit(STREAMS[kind]())
    np.testing.assert_allclose(fitted.means_, learned.means_, rtol=1e-9)
    online().save(tmp_path / "model.gmm")
    updated = streamgmm.update(tmp_path / "model.gmm", STREAMS[kind]())
    assert updated.n_samples_seen_ == N
    np.testing.assert_array_equal(updated.means_, fitted.means_)


def test_rows_that_come_once_are_refused_where_they_are_read_again() -> None:
    for kind, remedy in (("reader", r"X\.read_all\(\)"), ("DuckDB", r"X\.df\(\)")):
        for entrance in (streamgmm.open, GaussianMixture().fit):
            with pytest.raises(DataTypeError, match=remedy):
                entrance(STREAMS[kind]())


@pytest.mark.parametrize("kind", STREAMS)
def test_what_cannot_be_used_is_named_and_nothing_is_learned(kind: str) -> None:
    model = online().partial_fit(TABLE.slice(0, 6000))
    last = pa.table({"a": [None], "b": [1.0]}, schema=TABLE.schema)
    for table, message in (
        (TABLE.append_column("c", pa.array(["x"] * N)), r"'c' \(.*columns=\['a', 'b'\]"),
        (pa.Table.from_arrays([TABLE["a"]] * 2, names=["a", "a"]), "same name"),
        (TABLE.select(["b", "a"]), "same order"),
        (TABLE.slice(0, 0), r"0 sample\(s\)"),
        (pa.concat_tables([TABLE, last]), "row 150000"),
    ):
        if kind == "DuckDB" and "a" in table.column_names[1:]:
            continue  # It renames the second column itself.
        with pytest.raises(DataError, match=message):
            model.partial_fit(STREAMS[kind](table))
        assert model.n_samples_seen_ == 6000


def test_null_of_integers_is_nan(tmp_path: Path) -> None:
    table = pa.table({"a": [1, None, 3]})
    np.testing.assert_array_equal(streamgmm.open(Producer(table)).read(0).rows.T, [[1, np.nan, 3]])
    with pytest.raises(NotFiniteError):
        online().partial_fit(table.to_reader())
    updated = streamgmm.update(
        tmp_path / "m.gmm", table.to_reader(), missing="drop", n_components=1
    )
    assert updated.n_samples_seen_ == 2


def test_streams_that_fail_or_are_no_tables() -> None:
    def batches() -> Any:
        yield TABLE.slice(0, 6000).to_batches()[0]
        raise RuntimeError("the engine died")

    model = online()
    with pytest.raises(DataError, match=r"batch 2 of its Arrow stream.*the engine died"):
        model.partial_fit(pa.RecordBatchReader.from_batches(TABLE.schema, batches()))
    assert model.state_.progress is None
    column = Producer(TABLE["a"])  # type: ignore[arg-type]
    for entrance in (streamgmm.open, model.partial_fit):
        with pytest.raises(DataTypeError, match=r"cannot be read as a table.*pyarrow"):
            entrance(column)
    taken = TABLE.to_reader()
    taken.read_all()
    with pytest.raises(DataError, match="taken before"):
        model.partial_fit(taken)


def test_a_record_batch_is_a_table() -> None:
    batch = TABLE.combine_chunks().to_batches()[0]
    model = online().partial_fit(batch, sample_weight=np.full(N, 2.0))
    assert model.n_samples_seen_ == 2 * N
    with pytest.raises(DataError, match="same order"):
        model.partial_fit(batch.select(["b", "a"]))


def test_weights_and_ids_are_for_batches(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="sample_weight"):
        online().partial_fit(TABLE.to_reader(), sample_weight=np.ones(N))
    with pytest.raises(ParameterError, match="sample_weight"):
        online().fit(relation(), sample_weight=np.ones(N))
    with pytest.raises(ParameterError, match="batch_id"):
        streamgmm.update(tmp_path / "m.gmm", relation(), batch_id=1, n_components=1)


FRAMES: dict[str, tuple[Callable[[pa.Table], Any], type, type]] = {
    "pandas": (lambda table: table.to_pandas(), pandas.Series, pandas.DataFrame),
    "polars": (polars.from_arrow, polars.Series, polars.DataFrame),
    "pyarrow": (lambda table: table, pa.ChunkedArray, pa.Table),
    "record batch": (
        lambda table: table.combine_chunks().to_batches()[0],
        pa.ChunkedArray,
        pa.Table,
    ),
}


@pytest.mark.parametrize("kind", FRAMES)
def test_predictions_come_in_the_library_of_the_data(kind: str) -> None:
    make, series, frame = FRAMES[kind]
    # One chunk is predicted at once, several are mapped.
    for n in (100, 70_000):
        rows = ROWS[:n]
        data = make(TABLE.slice(0, n))
        model = GaussianMixture(2, random_state=0).fit(data)
        bare = GaussianMixture(2, random_state=0).fit(rows)
        for method in ("predict", "score_samples"):
            found = getattr(model, method)(data)
            assert isinstance(found, series)
            np.testing.assert_array_equal(np.asarray(found), getattr(bare, method)(rows))
        shares = model.predict_proba(data)
        assert isinstance(shares, frame)
        names = shares.column_names if kind in ("pyarrow", "record batch") else [*shares.columns]
        assert [str(name) for name in names] == ["0", "1"]
        values = shares.to_pandas() if frame is pa.Table else shares
        np.testing.assert_array_equal(values, bare.predict_proba(rows))
        filled = model.impute(data)
        assert isinstance(filled, frame)
        names = filled.column_names if frame is pa.Table else [*filled.columns]
        assert names == ["a", "b"]
