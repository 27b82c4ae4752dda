"""Dask arrays keep the promises of a source."""

from pathlib import Path
from typing import Any

import dask
import dask.array
import dask.bag
import numpy as np
import pytest
from numpy.typing import NDArray

from streamgmm import open as open_data
from streamgmm.errors import DataError
from streamgmm.protocols import LazySource
from streamgmm.testing.sources import SourceCase, SourceConformance, table

N, D = 5000, 3

CHUNKS: dict[str, Any] = {
    "rows": (1000, D),
    "uneven rows": ((1, 999, 3000, 1000), (D,)),
    "columns": (1500, 1),
    "one block": (N, D),
    "empty blocks": ((0, 1000, 0, 0, 4000, 0), (1, 2)),
}


@pytest.fixture(autouse=True)
def synchronous() -> Any:
    with dask.config.set(scheduler="synchronous"):
        yield


class TestDask(SourceConformance):
    @pytest.fixture(params=CHUNKS)
    def case(self, request: pytest.FixtureRequest, tmp_path: Path) -> SourceCase:
        rows = table(N, D)
        return SourceCase(
            open_data(dask.array.from_array(rows, chunks=CHUNKS[request.param])), rows
        )


class TestDaskTypes(SourceConformance):
    @pytest.fixture(params=["f4", "i2", "u1", "?", "f2"])
    def case(self, request: pytest.FixtureRequest, tmp_path: Path) -> SourceCase:
        rows = table(N, D, request.param)
        return SourceCase(open_data(dask.array.from_array(rows, chunks=(1000, D))), rows)


class TestDaskExpression(SourceConformance):
    @pytest.fixture
    def case(self, request: pytest.FixtureRequest, tmp_path: Path) -> SourceCase:
        rows = table(N, D)
        lazy = (dask.array.from_array(rows, chunks=(1000, 2)) * 2.0)[::-1]
        return SourceCase(open_data(lazy), np.ascontiguousarray((rows * 2.0)[::-1]))


def refuse(block: NDArray[Any]) -> NDArray[Any]:
    raise AssertionError("computed")


def test_opening_computes_nothing() -> None:
    lazy = dask.array.from_array(table(N, D), chunks=(1000, 1))
    source = open_data(lazy.map_blocks(refuse, dtype="f8", meta=np.empty((0, 0))))
    assert list(source.boundaries) == [0, 1000, 2000, 3000, 4000, 5000]
    assert isinstance(source, LazySource)
    assert len(source.lazy_chunks()) == 5
    with pytest.raises(AssertionError, match="computed"):
        source.read(0)


def test_lazy_chunks_are_the_chunks() -> None:
    rows, weights = table(N, D), np.linspace(0, 1, N)
    source = open_data(
        dask.array.from_array(rows, chunks=(1000, 1)),
        sample_weight=dask.array.from_array(weights, chunks=333),
    )
    assert isinstance(source, LazySource)
    for i, chunk in enumerate(dask.compute(*source.lazy_chunks())):
        own = source.read(i)
        np.testing.assert_array_equal(chunk.rows, own.rows)
        np.testing.assert_array_equal(chunk.weights, own.weights)
        np.testing.assert_array_equal(np.asarray(chunk.index), np.asarray(own.index))


def test_unknown_chunk_sizes_are_refused() -> None:
    lazy = dask.array.from_array(table(N, D), chunks=(1000, D))
    with pytest.raises(DataError, match=r"X\.compute_chunk_sizes\(\).*to_dask_array"):
        open_data(lazy[lazy[:, 0] > 0])


def test_the_array_has_its_columns_joined() -> None:
    rows = table(N, D)
    source = open_data(dask.array.from_array(rows, chunks=(1000, 1)))
    assert source.array.chunks == ((1000,) * 5, (D,))
    np.testing.assert_array_equal(source.array.compute(), rows)


# As the type of Dask's DataFrames is called, which are not installed everywhere.
DataFrame = type("DataFrame", (), {"__module__": "dask.dataframe.dask_expr._collection"})


@pytest.mark.parametrize(
    ("collection", "message"),
    [
        (dask.bag.from_sequence([[1.0, 2.0]]), "is a Dask Bag, not a Dask array"),
        (dask.delayed(np.ones)((N, D)), "is a Dask Delayed, not .* by dask.array.from_delayed"),
        (DataFrame(), r"is a Dask DataFrame, not .* by \w+\.to_dask_array\(lengths=True\)"),
    ],
    ids=["Bag", "Delayed", "DataFrame"],
)
def test_other_collections_are_refused(collection: Any, message: str) -> None:
    with pytest.raises(DataError, match=f"^X {message}"):
        open_data(collection)
    with pytest.raises(DataError, match=f"^sample_weight {message}"):
        open_data(table(N, D), sample_weight=collection)
