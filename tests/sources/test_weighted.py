"""Row weights of any kind beside data of any kind."""

import warnings
from pathlib import Path
from typing import Any

import dask
import dask.array
import numpy as np
import pytest
import xarray
import zarr
from numpy.typing import NDArray

from streamgmm import open as open_data
from streamgmm.errors import DataError
from streamgmm.protocols import LazySource
from streamgmm.testing.chunked import ChunkedSource
from streamgmm.testing.sources import SourceCase, SourceConformance, table

N, D = 5000, 3
KINDS = ("ndarray", "list", "npy", "npy mapped", "zarr", "zarr path", "dask")


def as_weights(values: NDArray[Any], kind: str, folder: Path) -> Any:
    if kind in ("ndarray", "list"):
        return values if kind == "ndarray" else values.tolist()
    if kind.startswith("npy"):
        path = folder / "w.npy"
        np.save(path, values)
        return path if kind == "npy" else np.load(path, mmap_mode="r")
    if kind.startswith("zarr"):
        array = zarr.create_array(folder / "w.zarr", data=values, chunks=(700, 1)[: values.ndim])
        return array if kind == "zarr" else str(folder / "w.zarr")
    return dask.array.from_array(values, chunks=700)


def as_rows(values: NDArray[Any], kind: str, folder: Path) -> Any:
    if kind == "zarr":
        return zarr.create_array(folder / "x.zarr", data=values, chunks=(1000, D))
    if kind == "dask":
        return dask.array.from_array(values, chunks=(1000, 1))
    return values


@pytest.mark.parametrize("data", ["ndarray", "zarr", "dask"])
class TestWeighted(SourceConformance):
    @pytest.fixture(params=KINDS)
    def case(self, request: pytest.FixtureRequest, tmp_path: Path, data: str) -> SourceCase:
        rows, weights = table(N, D), np.random.default_rng(4).uniform(size=N)
        weights[::7] = 0.0
        source = open_data(
            as_rows(rows, data, tmp_path),
            sample_weight=as_weights(weights, request.param, tmp_path),
        )
        return SourceCase(source, rows, weights)


class TestIntegerWeights(SourceConformance):
    @pytest.fixture(params=["u1", "i8", "?", "f4"])
    def case(self, request: pytest.FixtureRequest, tmp_path: Path) -> SourceCase:
        rows, weights = table(N, D), (np.arange(N) % 3).astype(request.param)
        return SourceCase(open_data(rows, sample_weight=weights), rows, weights.astype(float))


@pytest.mark.parametrize("data", ["ndarray", "zarr", "dask"])
@pytest.mark.parametrize("kind", KINDS)
class TestBadWeights:
    @pytest.mark.parametrize("shape", [(N - 1,), (N, 1), ()])
    def test_shape(self, data: str, kind: str, shape: tuple[int, ...], tmp_path: Path) -> None:
        rows, values = as_rows(table(N, D), data, tmp_path), np.ones(shape)
        if kind.startswith(("zarr", "dask")) and not shape:
            values = np.ones((1,))
        with pytest.raises(DataError, match=r"sample_weight has shape .* expected \(5000,\)"):
            open_data(rows, sample_weight=as_weights(values, kind, tmp_path))

    @pytest.mark.parametrize("value", [-1.0, np.nan, np.inf, 1.1e30])
    def test_value(self, data: str, kind: str, value: float, tmp_path: Path) -> None:
        values = np.ones(N)
        values[[3210, 3300]] = value
        source = open_data(
            as_rows(table(N, D), data, tmp_path), sample_weight=as_weights(values, kind, tmp_path)
        )
        with pytest.raises(DataError, match=r"sample_weight holds .* at row 3210"):
            for i in range(len(source.boundaries) - 1):
                source.read(i)


@pytest.mark.parametrize("kind", ["ndarray", "npy", "zarr", "dask"])
def test_weights_that_are_no_numbers(kind: str, tmp_path: Path) -> None:
    values = np.ones(N, dtype=complex)
    with pytest.raises(DataError, match="sample_weight has dtype complex128"):
        open_data(table(N, D), sample_weight=as_weights(values, kind, tmp_path))


def test_weights_by_a_bad_path(tmp_path: Path) -> None:
    rows = table(N, D)
    with pytest.raises(DataError, match=r"missing\.npy: no such file"):
        open_data(rows, sample_weight=tmp_path / "missing.npy")
    (tmp_path / "w.npy").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"w\.npy"):
        open_data(rows, sample_weight=tmp_path / "w.npy")
    (tmp_path / "w.csv").write_text("1\n")
    with pytest.raises(DataError, match=r"w\.csv is neither a \.npy file nor a Zarr array"):
        open_data(rows, sample_weight=tmp_path / "w.csv")
    (tmp_path / "w.zarr").mkdir()
    with pytest.raises(DataError, match=r"w\.zarr"):
        open_data(rows, sample_weight=tmp_path / "w.zarr")


def test_weights_may_be_given_to_a_source() -> None:
    rows, weights = table(N, D), np.linspace(0, 1, N)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        source = open_data(open_data(rows), sample_weight=weights)
    np.testing.assert_array_equal(source.read(0).weights, weights)


def test_weights_stay_beside_a_described_lazy_source() -> None:
    rows, weights = table(N, D), np.linspace(0, 1, N)
    described = open_data(dask.array.from_array(rows, chunks=(1000, 1)))
    source = open_data(described, sample_weight=weights)
    assert isinstance(source, LazySource)
    chunks = dask.compute(*source.lazy_chunks(), scheduler="synchronous")
    np.testing.assert_array_equal(np.concatenate([chunk.weights for chunk in chunks]), weights)
    assert described.read(0).weights is None


@pytest.mark.parametrize("data", ["ndarray", "zarr", "dask"])
def test_weights_are_given_once(data: str, tmp_path: Path) -> None:
    weights = np.ones(N)
    source = open_data(as_rows(table(N, D), data, tmp_path), sample_weight=weights)
    with pytest.raises(DataError, match="has weights already; give sample_weight once"):
        open_data(source, sample_weight=weights)


def test_weights_of_ones_own_source_are_not_replaced() -> None:
    weights = np.ones(N)
    source = open_data(ChunkedSource(table(N, D), weights=weights), sample_weight=weights)
    with pytest.raises(DataError, match="has weights already; give sample_weight once"):
        source.read(0)


def test_large_weights_are_taken() -> None:
    weights = np.full(N, 1e30)
    source = open_data(table(N, D), sample_weight=weights)
    np.testing.assert_array_equal(source.read(0).weights, weights)


@pytest.mark.parametrize("order", ["C", "F"])
def test_weights_of_a_grid_in_a_file(order: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    shape = (6, 5, 4)
    weights = rng.uniform(size=shape)
    np.save(tmp_path / "w.npy", np.asarray(weights, order=order))  # type: ignore[call-overload]
    np.save(tmp_path / "flat.npy", weights.ravel())
    dims = ("time", "lat", "lon")
    store = tmp_path / "x.zarr"
    dataset = xarray.Dataset({"t": (dims, rng.normal(size=shape))})
    dataset.to_zarr(store, encoding={"t": {"chunks": (6, 2, 4)}}, consolidated=False)
    for name in ("w.npy", "flat.npy"):
        source = open_data(store, variables=["t"], sample_weight=tmp_path / name)
        for i in range(len(source.boundaries) - 1):
            chunk = source.read(i)
            np.testing.assert_array_equal(chunk.weights, weights.ravel()[chunk.index])
