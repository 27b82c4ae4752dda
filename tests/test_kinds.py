"""The same mixture, whatever the rows are stored in."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import dask.array
import h5py
import numpy as np
import pandas
import polars
import pyarrow
import pyarrow.parquet
import pytest
import s3fs
import xarray
import zarr
from click.testing import CliRunner
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning

import streamgmm
from streamgmm import GaussianMixture, OnlineGaussianMixture
from streamgmm.cli import commands
from streamgmm.errors import DataError, NotFiniteError
from streamgmm.plotting import plot_mixture
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
            of = "component" if method == "predict" else "responsibility"
            written = np.load(out) if suffix == ".npy" else zarr.open_array(out, path=of, mode="r")
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
            written = (
                np.load(out)
                if suffix == ".npy"
                else zarr.open_array(out, path="responsibility", mode="r")[...]
            )
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


# Whole numbers, halves and truth values, which all types below hold exactly.
COLUMNS = {
    "a": np.random.default_rng(1).integers(0, 40, 300),
    "b": np.random.default_rng(2).integers(0, 40, 300) / 2.0,
    "c": np.random.default_rng(3).integers(0, 2, 300).astype(bool),
}
FLOATS = np.column_stack([column.astype(np.float64) for column in COLUMNS.values()])


def nullable() -> pandas.DataFrame:
    return pandas.DataFrame({name: pandas.array(values) for name, values in COLUMNS.items()})


def table() -> pyarrow.Table:
    return pyarrow.table(COLUMNS)


FRAMES: dict[str, Callable[[], Any]] = {
    "pandas floats": lambda: pandas.DataFrame(FLOATS, columns=list(COLUMNS)),
    "pandas": lambda: pandas.DataFrame(COLUMNS),
    "pandas nullable": nullable,
    "pandas with Arrow": lambda: table().to_pandas(types_mapper=pandas.ArrowDtype),
    "pandas objects": lambda: pandas.DataFrame(COLUMNS).astype(object),
    "pandas decimals": lambda: pandas.DataFrame(FLOATS, columns=list(COLUMNS)).map(Decimal),
    "polars": lambda: polars.DataFrame(COLUMNS),
    "pyarrow": table,
    "record batch": lambda: table().to_batches()[0],
}
SMALL = {"n_components": 2, "random_state": 0, "reg_covar": 1e-6}


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
# The best mixture has one component for each of the two values of the third column.
@pytest.mark.filterwarnings("ignore::streamgmm.errors.DegenerateComponentWarning")
@pytest.mark.parametrize("kind", FRAMES)
def test_a_frame_gives_the_model_of_its_array_in_every_entrance(kind: str, tmp_path: Path) -> None:
    frame = FRAMES[kind]()
    weights = pandas.DataFrame(frame if kind.startswith("pandas") else COLUMNS)["b"] + 1

    def learned(data: Any, sample_weight: Any, name: str) -> list[Any]:
        settings = {**SMALL, "max_iter": 5}
        path = tmp_path / name
        OnlineGaussianMixture(**SMALL).save(path)
        return [
            GaussianMixture(**settings).fit(data),
            GaussianMixture(**settings).fit(streamgmm.open(data)),
            GaussianMixture(**settings).fit(data, sample_weight=sample_weight),
            OnlineGaussianMixture(**SMALL).fit(data),
            OnlineGaussianMixture(**SMALL).partial_fit(data, sample_weight=sample_weight),
            streamgmm.update(path, data),
        ]

    expected = learned(FLOATS, COLUMNS["b"] + 1, "array.gmm")
    for found, other in zip(learned(frame, weights, "frame.gmm"), expected, strict=True):
        assert found.feature_names_in_.tolist() == ["a", "b", "c"]
        for name in ("weights_", "means_", "covariances_"):
            np.testing.assert_array_equal(getattr(found, name), getattr(other, name))
    model, other = found.to_batch(), other.to_batch()
    for method in ("predict", "predict_proba", "score_samples", "score", "bic", "aic", "impute"):
        values = getattr(model, method)(frame)
        np.testing.assert_array_equal(values, getattr(other, method)(FLOATS))
        is_labelled = kind.startswith("pandas") and np.ndim(values) > 0
        assert isinstance(values, pandas.Series | pandas.DataFrame) == is_labelled


@pytest.mark.parametrize(
    "weights",
    [
        pandas.Series(COLUMNS["b"], index=np.arange(300) / 2.0),
        pandas.Series(COLUMNS["b"]).astype("Float64"),
        polars.Series(COLUMNS["b"]),
        pyarrow.chunked_array([COLUMNS["b"][:100], COLUMNS["b"][100:]]),
        pyarrow.array(COLUMNS["b"]),
        COLUMNS["b"].tolist(),
        COLUMNS["b"].astype(object),
    ],
    ids=[
        "index of floats",
        "nullable",
        "polars",
        "chunked array",
        "Arrow array",
        "list",
        "objects",
    ],
)
def test_vectors_of_all_kinds_are_weights(weights: Any) -> None:
    chunk = streamgmm.open(FLOATS, sample_weight=weights).read(0)
    np.testing.assert_array_equal(chunk.weights, COLUMNS["b"])


@pytest.mark.parametrize("kind", ["pandas nullable", "pandas with Arrow", "polars", "pyarrow"])
def test_null_is_refused_or_used_as_nan_is(kind: str) -> None:
    rows = FLOATS.copy()
    rows[7, 1] = np.nan
    columns = {**COLUMNS, "b": [None if i == 7 else b for i, b in enumerate(COLUMNS["b"])]}
    whole = pyarrow.table(columns)
    frame = {
        "pandas nullable": lambda: nullable().assign(b=pandas.array(columns["b"], "Float64")),
        "pandas with Arrow": lambda: whole.to_pandas(types_mapper=pandas.ArrowDtype),
        "polars": lambda: polars.DataFrame(columns),
        "pyarrow": lambda: whole,
    }[kind]()
    with pytest.raises(NotFiniteError, match="missing='drop'"):
        GaussianMixture().fit(frame)
    for missing in ("drop", "em"):
        found = GaussianMixture().fit(streamgmm.open(frame, missing=missing))
        other = GaussianMixture().fit(streamgmm.open(rows, missing=missing))
        np.testing.assert_array_equal(found.means_, other.means_)
        np.testing.assert_array_equal(found.covariances_, other.covariances_)


def in_parquet(frame: Any, folder: Path) -> Any:
    pyarrow.parquet.write_table(pyarrow.Table.from_pandas(frame), folder / "x.parquet")
    return folder / "x.parquet"


NAMED: dict[str, Callable[[pandas.DataFrame, Path], Any]] = {
    "pandas": lambda frame, folder: frame,
    "polars": lambda frame, folder: polars.DataFrame(frame.to_dict("list")),
    "pyarrow": lambda frame, folder: pyarrow.Table.from_pandas(frame),
    "source": lambda frame, folder: streamgmm.open(frame),
    "weighted": lambda frame, folder: streamgmm.open(frame, sample_weight=np.ones(len(frame))),
    "parquet": in_parquet,
    "xarray": lambda frame, folder: frame.to_xarray().drop_vars("index"),
}


@dataclass
class Fitted:
    """Models of named columns, one of each kind."""

    batch: GaussianMixture
    online: OnlineGaussianMixture
    path: Path


def labels_in_a_file(fitted: Fitted, data: Any) -> Any:
    return fitted.batch.predict(data, out=fitted.path.with_suffix(".npy"))


ENTRANCES: dict[str, Callable[[Fitted, Any], Any]] = {
    "predict": labels_in_a_file,
    **{
        name: lambda fitted, data, name=name: getattr(fitted.batch, name)(
            data, out=fitted.path.with_name(f"{name}.npy")
        )
        for name in ("predict_proba", "score_samples", "impute")
    },
    **{
        name: lambda fitted, data, name=name: getattr(fitted.batch, name)(data)
        for name in ("score", "bic", "aic")
    },
    "partial_fit": lambda fitted, data: fitted.online.partial_fit(data),
    "update": lambda fitted, data: streamgmm.update(fitted.path, data),
    "warm start": lambda fitted, data: fitted.batch.set_params(warm_start=True).fit(data),
    "plot": lambda fitted, data: plot_mixture(fitted.batch, data),
    "marginal": lambda fitted, data: fitted.batch.marginal([0, 1, 2]).score(data),
    "conditional": lambda fitted, data: fitted.batch.conditional({"d": 0.0}).score(data),
}


# Where a path is read with the columns of the fit, whatever their order.
BY_NAME = {
    *("predict", "score_samples", "predict_proba", "impute", "score", "aic", "bic"),
    *("partial_fit", "warm start"),
}


@pytest.mark.parametrize("entrance", ENTRANCES)
@pytest.mark.parametrize("kind", NAMED)
def test_columns_of_another_name_or_order_are_refused_in_every_entrance(
    kind: str, entrance: str, tmp_path: Path
) -> None:
    names = ["a", "b", "c"]
    if entrance == "conditional":
        names = ["a", "b", "c", "d"]
    random = np.random.default_rng(0)
    frame = pandas.DataFrame(random.normal(size=(60, len(names))), columns=names)
    path = tmp_path / "model.gmm"
    online = OnlineGaussianMixture().fit(frame)
    online.save(path)
    fitted = Fitted(GaussianMixture().fit(frame), online, path)
    seen = frame[["a", "b", "c"]]
    contents = path.read_bytes()
    is_by_name = kind == "parquet" and entrance in BY_NAME
    refusal = "has no column 'c'" if is_by_name else "(?s)feature names should match.*"
    for data, message in (
        (seen[["c", "b", "a"]], "in the same order as they were in fit"),
        (seen.rename(columns={"c": "x"}), "unseen at fit time:\n- x\n.*now missing:\n- c"),
        (seen[["a", "b"]], "yet now missing:\n- c"),
    ):
        if is_by_name and message.startswith("in the same order"):
            continue
        with pytest.raises(DataError, match=refusal if is_by_name else refusal + message):
            ENTRANCES[entrance](fitted, NAMED[kind](data, tmp_path))
        assert path.read_bytes() == contents
        assert fitted.online.n_samples_seen_ == 60.0
    # The message advises to select the fitted columns in their order.
    fitted_names = seen.columns if entrance == "conditional" else fitted.batch.feature_names_in_
    ENTRANCES[entrance](fitted, NAMED[kind](seen[["c", "b", "a"]][fitted_names], tmp_path))


def test_the_fitted_columns_are_selected_by_their_names(tmp_path: Path) -> None:
    frame = pandas.DataFrame(FLOATS, columns=list(COLUMNS))
    model = GaussianMixture().fit(frame)
    names, other = model.feature_names_in_, frame[["c", "b", "a"]]
    expected = model.score(frame)
    polars_frame = polars.DataFrame(other.to_dict("list"))
    for data in (
        streamgmm.open(other, columns=names),
        streamgmm.open(polars_frame, columns=names),
        streamgmm.open(in_parquet(other, tmp_path), columns=names),
        streamgmm.open(other.to_xarray(), variables=names),
        polars_frame.select(names),
    ):
        assert model.score(data) == pytest.approx(expected, rel=1e-12)


def test_the_command_line_refuses_to_plot_other_columns(tmp_path: Path) -> None:
    frame = pandas.DataFrame(FLOATS, columns=list(COLUMNS))
    GaussianMixture().fit(frame).save(tmp_path / "model.gmm")
    data = in_parquet(frame[["c", "b", "a"]], tmp_path)
    picture = tmp_path / "x.png"
    arguments = ["plot", str(tmp_path / "model.gmm"), "-o", str(picture), "--data", str(data)]
    result = CliRunner().invoke(commands.main, arguments)
    assert result.exit_code != 0
    assert "same order" in result.output + str(result.exception)
    assert not picture.exists()


@pytest.mark.parametrize(
    "make",
    [
        lambda frame: frame,
        lambda frame: polars.DataFrame(frame.to_dict("list")),
        pyarrow.Table.from_pandas,
    ],
    ids=["pandas", "polars", "pyarrow"],
)
def test_names_on_one_side_alone_cannot_be_compared(make: Callable[[Any], Any]) -> None:
    frame = pandas.DataFrame(FLOATS, columns=list(COLUMNS))
    named = GaussianMixture().fit(make(frame))
    with pytest.warns(UserWarning, match="X does not have valid feature names, but GaussianM"):
        scores = named.score_samples(FLOATS)
    np.testing.assert_array_equal(scores, named.score_samples(frame))
    unnamed = GaussianMixture().fit(FLOATS)
    with pytest.warns(UserWarning, match="X has feature names, but GaussianMixture was fitted"):
        unnamed.score(make(frame))
    with pytest.raises(DataError, match="X has 2 features, but GaussianMixture is expecting 3"):
        unnamed.score(make(frame[["a", "b"]]))


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
