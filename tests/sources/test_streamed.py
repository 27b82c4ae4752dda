"""Tables on a pipe are converted as tables in memory are."""

from io import BufferedReader, BytesIO

import numpy as np
import pyarrow
import pytest

from streamgmm.errors import DataError
from streamgmm.sources.open import open_source
from streamgmm.sources.pipe import tables_from

TABLE = pyarrow.table(
    {
        "count": pyarrow.array([1, None, 3, 4]),
        "half": pyarrow.array([0.5, 1.5, None, 2.5], pyarrow.float32()),
        "flag": [True, False, None, True],
    }
)


def stream(table: pyarrow.Table, rows_per_batch: int) -> BufferedReader:
    content = BytesIO()
    with pyarrow.ipc.new_stream(content, table.schema) as writer:
        writer.write_batch(table.to_batches()[0].slice(0, 0))
        writer.write_table(table, max_chunksize=rows_per_batch)
    return BufferedReader(BytesIO(content.getvalue()))


def test_record_batches_are_converted_as_tables_are() -> None:
    sources = list(tables_from(stream(TABLE, 2), "pipe"))
    assert [source.name for source in sources] == ["pipe, table 1", "pipe, table 2"]
    assert all(source.feature_names == ["count", "half", "flag"] for source in sources)
    rows = np.vstack([source.read(0).rows for source in sources])
    np.testing.assert_array_equal(rows, open_source(TABLE).read(0).rows)


def test_columns_of_a_stream_are_chosen_by_name() -> None:
    (source,) = tables_from(stream(TABLE, 4), "pipe", ["flag", "count"])
    assert source.feature_names == ["flag", "count"]
    np.testing.assert_array_equal(
        source.read(0).rows, [[1.0, 1.0], [0.0, np.nan], [np.nan, 3.0], [1.0, 4.0]]
    )
    with pytest.raises(DataError, match=r"pipe, table 1 has no column 'x'; it has .*'count'"):
        list(tables_from(stream(TABLE, 4), "pipe", ["x"]))


def test_columns_of_a_stream_that_hold_no_numbers_are_named() -> None:
    table = TABLE.append_column("who", pyarrow.array(list("abcd")))
    with pytest.raises(DataError, match=r"pipe, table 1 has columns .* 'who' \(string\)"):
        list(tables_from(stream(table, 4), "pipe"))
    (source,) = tables_from(stream(table, 4), "pipe", TABLE.column_names)
    assert source.n_features == 3
