"""The same mixture, whatever the rows are stored in."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask.array
import h5py
import numpy as np
import pandas
import pyarrow
import pyarrow.parquet
import pytest
import s3fs
import xarray
import zarr
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning

import streamgmm
from streamgmm import GaussianMixture
from tests.object_store import object_store

N, D, CHUNK = 200_000, 4, 50_000
NAMES = [f"v{d}" for d in range(D)]
KEYS = {"key": "test", "secret": "test"}

Rows = NDArray[np.float64]


def rows() -> Rows:
    random = np.random.default_rng(0)
    return random.normal(size=(N, D)) + 8.0 * random.integers(0, 2, (N, 1))


def fit(data: Any) -> GaussianMixture:
    """Five iterations from a given start."""
    settings = GaussianMixture(
        2,
        weights_init=[0.5, 0.5],
        means_init=[[0.0] * D, [8.0] * D],
        precisions_init=np.tile(np.eye(D), (2, 1, 1)),
        tol=0.0,
        max_iter=5,
        algorithm="em",
    )
    with pytest.warns(ConvergenceWarning):
        return settings.fit(data)


def npy(values: Rows, folder: Path) -> Any:
    np.save(folder / "x.npy", values)
    return folder / "x.npy"


def zarr_store(**settings: Any) -> Callable[[Rows, Path], Any]:
    def write(values: Rows, folder: Path) -> Any:
        zarr.create_array(folder / "x.zarr", data=values, **settings)
        return folder / "x.zarr"

    return write


def zarr_variables(values: Rows, folder: Path) -> Any:
    group = zarr.create_group(folder / "x.zarr")
    for name, column in zip(NAMES, values.T, strict=True):
        group.create_array(name, data=column.copy(), chunks=(CHUNK,), dimension_names=["sample"])
    return streamgmm.open(folder / "x.zarr", variables=NAMES)


def hdf5(values: Rows, folder: Path) -> Any:
    with h5py.File(folder / "x.h5", "w") as file:
        file.create_dataset("group/data", data=values, chunks=(CHUNK, D), compression="gzip")
    return f"{folder / 'x.h5'}::/group/data"


def parquet(values: Rows, folder: Path) -> Any:
    table = pyarrow.table(dict(zip(NAMES, values.T, strict=True)))
    pyarrow.parquet.write_table(table, folder / "x.parquet", row_group_size=CHUNK)
    return folder / "x.parquet"


def embeddings(values: Rows, folder: Path) -> Any:
    flat = pyarrow.array(values.ravel())
    column = pyarrow.FixedSizeListArray.from_arrays(flat, D)
    for i in range(2):
        part = pyarrow.table({"embedding": column.slice(i * N // 2, N // 2)})
        pyarrow.parquet.write_table(part, folder / f"{i}.parquet", row_group_size=CHUNK)
    return folder


def labelled(values: Rows, folder: Path) -> Any:
    cube = values.reshape(20, 10, N // 200, D)
    dims = ("time", "lat", "lon")
    return xarray.Dataset({name: (dims, cube[..., d]) for d, name in enumerate(NAMES)})


KINDS: dict[str, Callable[[Rows, Path], Any]] = {
    "npy": npy,
    "zarr": zarr_store(chunks=(CHUNK, D)),
    "sharded zarr": zarr_store(chunks=(CHUNK // 2, D), shards=(CHUNK, D)),
    "zarr variables": zarr_variables,
    "hdf5": hdf5,
    "parquet": parquet,
    "embeddings": embeddings,
    "dask": lambda values, folder: dask.array.from_array(values, chunks=(CHUNK, D)),
    "frame": lambda values, folder: pandas.DataFrame(values, columns=NAMES),
    "xarray": labelled,
    "xarray array": lambda values, folder: xarray.DataArray(values),
}


@pytest.fixture(scope="module")
def fitted() -> GaussianMixture:
    return fit(rows())


def assert_same_model(one: GaussianMixture, other: GaussianMixture) -> None:
    for name in ("weights_", "means_", "covariances_"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=1e-10, atol=1e-10)
    assert one.lower_bound_ == pytest.approx(other.lower_bound_, rel=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_data_give_the_same_model(
    kind: str, fitted: GaussianMixture, tmp_path: Path
) -> None:
    data = KINDS[kind](rows(), tmp_path)
    found = fit(data)
    assert_same_model(found, fitted)
    labels = np.ravel(found.predict(streamgmm.open(data)))
    np.testing.assert_array_equal(labels, fitted.predict(rows()))


def test_predictions_of_labelled_data_are_labelled(fitted: GaussianMixture, tmp_path: Path) -> None:
    data = labelled(rows(), tmp_path).assign_coords(
        lat=np.linspace(-80.0, 80.0, 10), season=("time", np.arange(20) % 4)
    )
    labels = fitted.predict(data)
    assert labels.dims == ("time", "lat", "lon")
    assert set(labels.coords) == {"lat", "season"}
    np.testing.assert_array_equal(labels.values.ravel(), fitted.predict(rows()))
    shares = fitted.predict_proba(streamgmm.open(data, missing="drop"))
    assert shares.dims == ("time", "lat", "lon", "component")
    np.testing.assert_allclose(shares.sum("component"), 1.0)
    xarray.testing.assert_equal(data["season"], labels["season"])
    weighted = streamgmm.open(data, sample_weight=np.ones(N))
    xarray.testing.assert_equal(fitted.predict(weighted), labels)
    assert type(fitted.predict(streamgmm.open(rows(), sample_weight=np.ones(N)))) is np.ndarray


@pytest.mark.parametrize("weight", [None, np.ones(N)], ids=["rows", "weighted"])
def test_predictions_of_labelled_data_are_written_in_their_shape(
    weight: Any, fitted: GaussianMixture, tmp_path: Path
) -> None:
    source = streamgmm.open(labelled(rows(), tmp_path), sample_weight=weight)
    shape = (20, 10, N // 200)
    for method, expected, dims in (
        ("predict", fitted.predict(rows()).reshape(shape), ["time", "lat", "lon"]),
        (
            "predict_proba",
            fitted.predict_proba(rows()).reshape(*shape, 2),
            ["time", "lat", "lon", "component"],
        ),
    ):
        for suffix in (".npy", ".zarr"):
            out = getattr(fitted, method)(source, out=tmp_path / f"{method}{suffix}")
            written = np.load(out) if suffix == ".npy" else zarr.open_array(out, mode="r")
            np.testing.assert_array_equal(written[...], expected)
        assert list(written.metadata.dimension_names) == dims


def test_pieces_of_predictions_are_those_of_whole_chunks(
    fitted: GaussianMixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = labelled(rows(), tmp_path)[{"time": slice(3), "lon": slice(26)}]
    expected = fitted.predict_proba(data)
    # A row, some rows, a line of them and more, all.
    for n_bytes in (16, 16 * 7, 16 * 26, 16 * 100, 16 * N):
        monkeypatch.setattr("streamgmm.estimators.outputs._PIECE_BYTES", n_bytes)
        for suffix in (".npy", ".zarr"):
            out = fitted.predict_proba(data, out=tmp_path / f"out{suffix}")
            written = np.load(out) if suffix == ".npy" else zarr.open_array(out, mode="r")[...]
            np.testing.assert_allclose(written, expected, rtol=1e-12)


def test_predictions_of_a_frame_keep_its_index(fitted: GaussianMixture) -> None:
    index = pandas.Index(np.arange(N)[::-1], name="when")
    frame = pandas.DataFrame(rows(), columns=NAMES, index=index)
    named = fit(frame)
    scores = named.score_samples(frame)
    assert scores.index.equals(index)
    np.testing.assert_array_equal(scores, named.score_samples(streamgmm.open(rows())))
    assert named.predict_proba(frame).shape == (N, 2)
    assert type(fitted.predict(rows())) is np.ndarray


@pytest.mark.parametrize(
    "kinds", [("zarr", "sharded zarr"), ("zarr", "hdf5"), ("zarr", "dask"), ("zarr", "parquet")]
)
def test_the_same_chunks_give_the_same_bits(kinds: tuple[str, str], tmp_path: Path) -> None:
    found = []
    for i, kind in enumerate(kinds):
        (tmp_path / str(i)).mkdir()
        source = streamgmm.open(KINDS[kind](rows(), tmp_path / str(i)))
        found.append((list(source.boundaries), fit(source)))
    (boundaries, one), (others, other) = found
    assert boundaries == others
    assert np.array_equal(one.covariances_, other.covariances_)
    assert one.lower_bounds_ == other.lower_bounds_


@pytest.mark.parametrize("kind", ["zarr variables", "parquet", "frame", "xarray"])
def test_columns_keep_their_names(kind: str, tmp_path: Path) -> None:
    found = fit(KINDS[kind](rows(), tmp_path))
    assert found.feature_names_in_.tolist() == NAMES


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The address of an S3-compatible server on this machine, with one bucket."""
    with object_store("kinds", KEYS) as address:
        yield address


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
class TestObjectStore:
    def test_zarr(self, server: str, fitted: GaussianMixture) -> None:
        options = {**KEYS, "endpoint_url": server}
        url = "s3://kinds/x.zarr"
        zarr.create_array(url, data=rows(), chunks=(CHUNK, D), storage_options=options)
        found = fit(streamgmm.open(url, storage_options=options))
        assert_same_model(found, fitted)

    def test_parquet(self, server: str, fitted: GaussianMixture, tmp_path: Path) -> None:
        options = {**KEYS, "endpoint_url": server}
        file = parquet(rows(), tmp_path)
        s3fs.S3FileSystem(**options).put(str(file), "kinds/x.parquet")
        source = streamgmm.open("s3://kinds/x.parquet", storage_options=options)
        assert "test" not in source.name
        assert_same_model(fit(source), fitted)
