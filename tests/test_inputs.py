"""What ``open`` takes, refuses, and says about where the data are."""

import sys
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dask.array
import dask.bag
import dask.dataframe
import duckdb
import h5py
import narwhals
import numpy as np
import pandas
import polars
import pyarrow
import pyarrow.dataset
import pyarrow.parquet
import pytest
import scipy.sparse
import zarr
from numpy.typing import NDArray
from zarr.storage import LocalStore, MemoryStore

from streamgmm import GaussianMixture, OnlineGaussianMixture, update
from streamgmm import open as open_data
from streamgmm.errors import DataError, DataTypeError, ParameterError, StreamGMMError

ROWS = np.arange(12.0).reshape(6, 2)


def test_masked_values_are_refused() -> None:
    rows = np.ma.masked_greater(ROWS, 9.5)
    with pytest.raises(DataError, match=r"X has 2 masked value\(s\); fill them with X\.filled"):
        open_data(rows)
    weights = np.ma.masked_equal(np.arange(6.0), 0.0)
    with pytest.raises(DataError, match=r"sample_weight has 1 masked value\(s\)"):
        open_data(ROWS, sample_weight=weights)


@pytest.mark.parametrize("mask", [np.ma.nomask, np.zeros(ROWS.shape, dtype=bool)])
def test_masked_arrays_of_which_nothing_is_masked_are_arrays(mask: Any) -> None:
    source = open_data(np.ma.MaskedArray(ROWS, mask), sample_weight=np.ma.MaskedArray(np.ones(6)))
    chunk = source.read(0)
    assert type(chunk.rows) is np.ndarray
    assert type(chunk.weights) is np.ndarray
    np.testing.assert_array_equal(chunk.rows, ROWS)


def test_lists_are_tables() -> None:
    np.testing.assert_array_equal(open_data(ROWS.tolist()).read(0).rows, ROWS)


def _stored(folder: Path) -> Any:
    return zarr.create_array(folder / "x.zarr", data=ROWS)


def _within_a_group(folder: Path) -> Any:
    return zarr.create_group(folder / "g").create_array("a/b", data=ROWS)


def _saved(folder: Path) -> Path:
    np.save(folder / "x.npy", ROWS)
    return folder / "x.npy"


LOCATIONS: dict[str, tuple[Callable[[Path], Any], str | None]] = {
    "array": (lambda folder: ROWS, None),
    "npy": (_saved, "x.npy"),
    "mapped": (lambda folder: np.load(_saved(folder), mmap_mode="r"), "x.npy"),
    "part of a map": (lambda folder: np.load(_saved(folder), mmap_mode="r")[:, :1], "x.npy"),
    "zarr": (_stored, "x.zarr"),
    "zarr path": (lambda folder: str(_stored(folder).store.root), "x.zarr"),
    "zarr in a store": (
        lambda folder: zarr.create_array(LocalStore(folder), name="x", data=ROWS),
        "x",
    ),
    "zarr in a group": (_within_a_group, "g/a/b"),
    "zarr in memory": (lambda folder: zarr.create_array(MemoryStore(), data=ROWS), None),
    "dask": (lambda folder: dask.array.from_array(ROWS), None),
}


@pytest.mark.parametrize("weights", [None, np.ones(6)], ids=["plain", "weighted"])
@pytest.mark.parametrize("kind", LOCATIONS)
def test_sources_know_where_the_data_are(
    kind: str, weights: NDArray[Any] | None, tmp_path: Path
) -> None:
    make, place = LOCATIONS[kind]
    source = open_data(make(tmp_path), sample_weight=weights)
    assert source.location == (None if place is None else tmp_path / place)


def test_masked_values_are_refused_by_the_estimator() -> None:
    rows = np.random.default_rng(0).normal(size=(50, 2))
    masked = np.ma.masked_greater(rows, 1.0)
    with pytest.raises(ValueError, match=r"masked value\(s\)"):
        GaussianMixture().fit(masked)
    with pytest.raises(ValueError, match="sample_weight has 1 masked"):
        GaussianMixture().fit(rows, sample_weight=np.ma.masked_equal(np.arange(50.0), 7.0))
    np.testing.assert_array_equal(
        GaussianMixture().fit(np.ma.masked_array(rows)).means_, GaussianMixture().fit(rows).means_
    )


def test_one_name_is_not_a_sequence_of_letters() -> None:
    frame = pandas.DataFrame({"ab": [1.0, 2.0], "a": [3.0, 4.0], "b": [5.0, 6.0]})
    source = open_data(frame, columns="ab")
    assert source.feature_names == ["ab"]
    np.testing.assert_array_equal(source.read(0).rows, [[1.0], [2.0]])


def test_columns_that_a_frame_has_not_are_named() -> None:
    frame = pandas.DataFrame({"a": [1.0], "b": [2.0]})
    with pytest.raises(DataError, match="X has no column 'c'; it has \\['a', 'b'\\]"):
        open_data(frame, columns=["a", "c"])
    with pytest.raises(DataError, match=r"'a' \(str\)"):
        open_data(pandas.DataFrame({"a": ["x"]}))


@pytest.mark.parametrize("option", ["variables", "columns", "path", "feature_dim"])
def test_options_that_have_no_meaning_are_refused(option: str) -> None:
    value: Any = "x"
    with pytest.raises(ParameterError, match=f"{option} has no meaning for an array"):
        open_data(ROWS, **{option: value})


def test_an_array_within_a_store_is_named_in_either_way(tmp_path: Path) -> None:
    group = _within_a_group(tmp_path)
    for source in (
        open_data(tmp_path / "g", path="a/b"),
        open_data(f"{tmp_path / 'g'}::/a/b"),
        open_data(tmp_path / "g" / "a" / "b"),
        open_data(zarr.open_group(tmp_path / "g", mode="r"), path="a/b"),
    ):
        np.testing.assert_array_equal(source.read(0).rows, group[:])
    with pytest.raises(DataError, match=r"c in .* cannot be opened as a Zarr array"):
        open_data(tmp_path / "g", path="c")


def test_an_open_hdf5_group_is_searched_by_name(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["a/b"] = ROWS
        np.testing.assert_array_equal(open_data(file, path="a/b").read(0).rows, ROWS)
        with pytest.raises(DataError, match=r"x\.h5::/ holds no 'c'"):
            open_data(file, path="c")
        with pytest.raises(ParameterError, match="need the path of an HDF5 file"):
            open_data(file, variables=["a"])


@pytest.mark.parametrize(
    ("package", "name", "module"), [("h5py", "x.h5", "hdf5"), ("pyarrow", "x.parquet", "parquet")]
)
def test_what_is_not_installed_is_named(
    package: str, name: str, module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).touch()
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f"streamgmm.sources.{module}", raising=False)
    with pytest.raises(DataError, match=rf"needs {package}; .*pip install .*'{package}>="):
        open_data(tmp_path / name)


# What each method does with data of any kind, given models that were fitted to ROWS.
ENTRANCES: dict[str, Callable[[Any, Path], Any]] = {
    "open": lambda data, path: open_data(data),
    "fit": lambda data, path: GaussianMixture().fit(data),
    "fit_predict": lambda data, path: GaussianMixture().fit_predict(data),
    "online fit": lambda data, path: OnlineGaussianMixture().fit(data),
    "partial_fit": lambda data, path: OnlineGaussianMixture().fit(ROWS).partial_fit(data),
    "predict": lambda data, path: GaussianMixture().fit(ROWS).predict(data),
    "score": lambda data, path: GaussianMixture().fit(ROWS).score(data),
    "update": lambda data, path: update(path, data),
}

REFUSED: dict[str, tuple[Any, str]] = {
    "vector": (ROWS[:, 0], "Expected 2D array.*Reshape your data"),
    "list of numbers": ([1.0, 2.0], "Expected 2D array.*Reshape your data"),
    "number": (3.0, r"Expected 2D array.*shape \(\)"),
    "cube": (ROWS.reshape(3, 2, 2), r"Expected 2D array.*shape \(3, 2, 2\)"),
    "no rows": (ROWS[:0], r"0 sample\(s\)"),
    "no columns": (ROWS[:, :0], r"0 feature\(s\) \(shape=\(6, 0\)\) while a minimum of 1"),
    "complex": (ROWS + 1j, "Complex data not supported"),
    "complex objects": ((ROWS + 1j).astype(object), r"Complex data not supported: X\[0, 0\]"),
    "text": (ROWS.astype(str), "not real numbers"),
    "text as objects": (
        ROWS.astype(str).astype(object),
        r"X\[0, 0\] is the string '0.0'.*dtype=float",
    ),
    "time": (ROWS.astype("M8[s]"), "not real numbers"),
    "duration": (ROWS.astype("m8[s]").astype(object), r"X\[0, 0\] is an object of type"),
    "objects": ([[1.0, {}], [2.0, 3.0]], r"X\[0, 1\] is an object of type dict"),
    "large": ([[10**400, 1.0]], "no float64 value"),
    "ragged": ([[1.0], [2.0, 3.0]], "type list; NumPy cannot convert .*inhomogeneous"),
    "structured": (np.ones(3, [("a", "f8"), ("b", "f8")]), r"fields a, b; pandas\.DataFrame\(X\)"),
    "matrix": (np.asmatrix(ROWS), r"numpy\.matrix; convert it with numpy\.asarray\(X\)"),
    "sparse matrix": (scipy.sparse.csr_matrix(ROWS), r"Sparse data .* X\.toarray\(\)"),
    "sparse array": (scipy.sparse.coo_array(ROWS), r"Sparse data .* X\.toarray\(\)"),
    "nothing": (None, "X is None; give a table"),
    "object": (object(), "X is of type object, which cannot be read; give a table"),
    "set": ({1.0, 2.0}, "X is of type set, which cannot be read; give a table"),
    "bytes": (b"rows", r"Expected 2D array.*shape \(\)"),
    "dict": ({"a": [1.0], "b": [2.0]}, r"dict with the keys 'a', 'b'; .*DataFrame\(dict\(X\)\)"),
    "paths": (["a.npy", "b.npy"], r"a\.npy: no such file or directory|give out="),
    "path objects": ((Path("a.npy"),), r"a\.npy: no such file or directory|give out="),
    "paths among numbers": (["a.npy", 1.0], "type list and holds paths or text beside"),
    "text that is no path": ("no/such/path", "no such file or directory|give out="),
    "Series": (pandas.Series([1.0]), r"pandas.*Series, .*X\.to_frame\(\)"),
    "polars Series": (polars.Series([1.0]), r"polars.*Series, .*X\.to_frame\(\)"),
    "chunked array": (pyarrow.chunked_array([[1.0]]), "Expected 2D array.*Reshape your data"),
    "lazy polars": (polars.LazyFrame({"a": [1.0]}), r"not in memory; give X\.collect\(\).*sink_pa"),
    "lazy narwhals": (
        narwhals.from_native(polars.LazyFrame({"a": [1.0]})),
        r"not in memory; give X\.collect\(\).*sink_parquet",
    ),
    "arrow scanner": (
        pyarrow.dataset.dataset(pyarrow.table({"a": [1.0]})).scanner(),
        r"not in memory; give X\.to_table\(\)",
    ),
    "Dask DataFrame": (
        dask.dataframe.from_pandas(pandas.DataFrame({"a": [1.0]})),
        r"to_dask_array\(lengths=True\)",
    ),
    "Dask Bag": (dask.bag.from_sequence([[1.0]]), r"numpy\.array\(X\.compute\(\)\)"),
    "Dask Delayed": (dask.delayed(np.ones)((2, 2)), r"dask\.array\.from_delayed"),
}


@pytest.fixture
def model_file(tmp_path: Path) -> Path:
    OnlineGaussianMixture().fit(ROWS).save(tmp_path / "model.gmm")
    return tmp_path / "model.gmm"


@pytest.mark.parametrize("entrance", ENTRANCES)
@pytest.mark.parametrize("kind", REFUSED)
def test_data_in_memory_that_are_no_table_are_refused_in_every_entrance(
    kind: str, entrance: str, model_file: Path
) -> None:
    data, message = REFUSED[kind]
    with pytest.raises(StreamGMMError, match=f"(?s){message}") as raised:
        ENTRANCES[entrance](data, model_file)
    assert isinstance(raised.value, ValueError)


@pytest.mark.parametrize("entrance", ["partial_fit", "predict", "score", "update"])
def test_other_numbers_of_columns_are_refused(entrance: str, model_file: Path) -> None:
    with pytest.raises(DataError, match=r"X has 1 features, but \w+ is expecting 2 features"):
        ENTRANCES[entrance](ROWS[:, :1], model_file)


WEIGHTS: dict[str, tuple[Any, str]] = {
    "length": (np.ones(5), r"sample_weight has shape \(5,\); expected \(6,\)"),
    "matrix": (np.ones((6, 2)), r"sample_weight has shape \(6, 2\)"),
    "negative": ([1.0, -1.0, 1.0, 1.0, 1.0, 1.0], "-1.0 at row 1"),
    "NaN": ([1.0, None, 1.0, 1.0, 1.0, 1.0], "nan at row 1"),
    "null": (polars.Series([1, None, 1, 1, 1, 1]), "nan at row 1"),
    "complex": (np.ones(6) + 1j, "sample_weight has dtype complex"),
    "text": (np.full(6, "x"), "sample_weight has dtype"),
    "text as objects": (np.full(6, "x", object), r"sample_weight\[0\] is the string"),
    "text of polars": (polars.Series(["x"] * 6), "sample_weight has type String"),
    "category": (pandas.Series([1] * 6, dtype="category"), "sample_weight has type category"),
    "nothing but a path": ("no/such/path", "no such file or directory"),
}


# A few rows are enough for what is tested.
@pytest.mark.filterwarnings("ignore::streamgmm.errors.FewRowsWarning")
@pytest.mark.parametrize("kind", WEIGHTS)
def test_weights_in_memory_that_cannot_be_used_are_refused(kind: str, model_file: Path) -> None:
    weights, message = WEIGHTS[kind]
    fitted = GaussianMixture().fit(ROWS)
    for use in (
        lambda: GaussianMixture().fit(ROWS, sample_weight=weights),
        lambda: GaussianMixture().fit_predict(ROWS, sample_weight=weights),
        lambda: fitted.score(ROWS, sample_weight=weights),
        lambda: OnlineGaussianMixture().fit(ROWS, sample_weight=weights),
        lambda: OnlineGaussianMixture().partial_fit(ROWS, sample_weight=weights),
        lambda: update(model_file, ROWS, sample_weight=weights),
        lambda: open_data(ROWS, sample_weight=weights).read(0),
    ):
        with pytest.raises(StreamGMMError, match=message) as raised:
            use()
        assert isinstance(raised.value, ValueError)


@pytest.mark.parametrize("algorithm", ["auto", "em"])
@pytest.mark.parametrize(
    "container", [np.asarray, list, polars.Series, zarr.array, dask.array.from_array]
)
def test_a_fit_to_rows_of_no_weight_is_refused(container: Any, algorithm: str) -> None:
    weights = container(np.zeros(6))
    with pytest.raises(DataError, match="a weight above zero"):
        GaussianMixture(algorithm=algorithm).fit(ROWS, sample_weight=weights)


@pytest.mark.filterwarnings("ignore::streamgmm.errors.FewRowsWarning")
@pytest.mark.parametrize("measure", ["score", "bic", "aic"])
def test_no_measure_of_rows_of_no_weight(measure: str) -> None:
    with pytest.raises(DataError, match="a weight above zero"):
        getattr(GaussianMixture().fit(ROWS), measure)(ROWS, sample_weight=np.zeros(6))


def test_a_single_number_is_the_weight_of_each_row() -> None:
    found = GaussianMixture().fit(ROWS, sample_weight=2)
    expected = GaussianMixture().fit(ROWS, sample_weight=np.full(6, 2.0))
    np.testing.assert_array_equal(found.covariances_, expected.covariances_)


class NotAnArray:
    """Rows that NumPy gets from a method."""

    def __init__(self, rows: Any) -> None:
        self.rows = rows

    def __array__(self, dtype: Any = None, copy: Any = None) -> NDArray[Any]:
        return np.asarray(self.rows, dtype)


class Interface:
    """Rows that NumPy finds in memory."""

    def __init__(self, rows: NDArray[Any]) -> None:
        self.rows = rows
        self.__array_interface__ = rows.__array_interface__


@pytest.mark.parametrize(
    "data",
    [
        ROWS.tolist(),
        tuple(map(tuple, ROWS.tolist())),
        list(ROWS),
        NotAnArray(ROWS),
        Interface(ROWS),
        memoryview(ROWS),
        ROWS.astype(object),
        [[Decimal(value) for value in row] for row in ROWS.tolist()],
        [[Fraction(value) for value in row] for row in ROWS.tolist()],
    ],
    ids=lambda data: type(data).__name__,
)
def test_array_likes_are_tables(data: Any) -> None:
    source = open_data(data)
    assert source.dtype == np.float64
    np.testing.assert_array_equal(source.read(0).rows, ROWS)
    np.testing.assert_array_equal(
        GaussianMixture().fit(data).covariances_, GaussianMixture().fit(ROWS).covariances_
    )


def test_none_among_numbers_is_missing() -> None:
    rows = open_data([[1, None], [True, 2.5], [pandas.NA, np.float32(3.0)]]).read(0).rows
    np.testing.assert_array_equal(rows, [[1.0, np.nan], [1.0, 2.5], [np.nan, 3.0]])


# The remedies that messages name


class Tensor(NotAnArray):
    """The part of a tensor that matters: it converts to NumPy once it is detached."""

    def __array__(self, dtype: Any = None, copy: Any = None) -> NDArray[Any]:
        raise RuntimeError("Can't call numpy() on Tensor that requires grad.")

    def detach(self) -> "Tensor":
        return self

    def cpu(self) -> "Tensor":
        return self

    def numpy(self) -> NDArray[Any]:
        return np.asarray(self.rows)


def batches() -> Any:
    return (part for part in (ROWS[:3], ROWS[3:]))


def fields() -> NDArray[Any]:
    return np.array([(0.0, 1.0), (2.0, 3.0)], [("a", "f8"), ("b", "f8")])


class Lazy:
    """A table that some engine computes, with its methods for rows in memory and in a file."""

    def to_pyarrow(self) -> pyarrow.Table:
        return pyarrow.table({"a": ROWS[:, 0], "b": ROWS[:, 1]})

    def to_parquet(self, path: Path) -> None:
        pyarrow.parquet.write_table(self.to_pyarrow(), path)


class IbisTable(Lazy):
    """The part of an Ibis table that matters here."""

    __module__ = "ibis.expr.types.relations"


class SparkFrame(Lazy):
    """The part of a Spark DataFrame that matters here."""

    __module__ = "pyspark.sql.dataframe"

    def toPandas(self) -> pandas.DataFrame:
        return self.to_pyarrow().to_pandas()

    @property
    def write(self) -> Any:
        return SimpleNamespace(parquet=self.to_parquet)


LAZY = polars.DataFrame(ROWS, schema=["a", "b"]).lazy()
REMEDIES: dict[str, tuple[Callable[[], Any], str, Callable[[Any, Path], Any], Any]] = {
    "sparse": (
        lambda: scipy.sparse.csr_array(ROWS),
        r"X\.toarray\(\)",
        lambda X, folder: X.toarray(),
        ROWS,
    ),
    "collect": (lambda: LAZY, r"X\.collect\(\)", lambda X, folder: X.collect(), ROWS),
    "sink_parquet": (
        lambda: LAZY,
        r"X\.sink_parquet\('rows\.parquet'\)",
        lambda X, folder: X.sink_parquet(folder / "rows.parquet") or folder / "rows.parquet",
        ROWS,
    ),
    "DuckDB": (
        lambda: duckdb.sql("select 0.0::double as a, 1.0::double as b"),
        r"X\.df\(\)",
        lambda X, folder: X.df(),
        ROWS[:1],
    ),
    "DuckDB in Parquet": (
        lambda: duckdb.sql("select 0.0::double as a, 1.0::double as b"),
        r"X\.write_parquet\('rows\.parquet'\)",
        lambda X, folder: X.write_parquet(str(folder / "rows.parquet")) or folder / "rows.parquet",
        ROWS[:1],
    ),
    "Ibis": (IbisTable, r"X\.to_pyarrow\(\)", lambda X, folder: X.to_pyarrow(), ROWS),
    "Ibis in Parquet": (
        IbisTable,
        r"X\.to_parquet\('rows\.parquet'\)",
        lambda X, folder: X.to_parquet(folder / "rows.parquet") or folder / "rows.parquet",
        ROWS,
    ),
    "Spark": (SparkFrame, r"X\.toPandas\(\)", lambda X, folder: X.toPandas(), ROWS),
    "Spark in Parquet": (
        SparkFrame,
        r"X\.write\.parquet\('rows\.parquet'\)",
        lambda X, folder: X.write.parquet(folder / "rows.parquet") or folder / "rows.parquet",
        ROWS,
    ),
    "scanner": (
        lambda: pyarrow.dataset.dataset(LAZY.collect().to_arrow()).scanner(),
        r"X\.to_table\(\)",
        lambda X, folder: X.to_table(),
        ROWS,
    ),
    "reader": (
        lambda: LAZY.collect().to_arrow().to_reader(),
        r"X\.read_all\(\)",
        lambda X, folder: X.read_all(),
        ROWS,
    ),
    "series": (
        lambda: pandas.Series(ROWS[:, 0]),
        r"X\.to_frame\(\)",
        lambda X, folder: X.to_frame(),
        ROWS[:, :1],
    ),
    "polars series": (
        lambda: polars.Series(ROWS[:, 0]),
        r"X\.to_frame\(\)",
        lambda X, folder: X.to_frame(),
        ROWS[:, :1],
    ),
    "vector": (
        lambda: ROWS[:, 0],
        r"reshape\(-1, 1\) makes one feature",
        lambda X, folder: X.reshape(-1, 1),
        ROWS[:, :1],
    ),
    "row": (
        lambda: ROWS[0],
        r"reshape\(1, -1\) one row",
        lambda X, folder: X.reshape(1, -1),
        ROWS[:1],
    ),
    "dict": (
        lambda: {"a": ROWS[:, 0], "b": ROWS[:, 1]},
        r"pandas\.DataFrame\(dict\(X\)\)",
        lambda X, folder: pandas.DataFrame(dict(X)),
        ROWS,
    ),
    "fields": (
        fields,
        r"pandas\.DataFrame\(X\)",
        lambda X, folder: pandas.DataFrame(X),
        ROWS[:2],
    ),
    "matrix": (
        lambda: np.asmatrix(ROWS),
        r"numpy\.asarray\(X\)",
        lambda X, folder: np.asarray(X),
        ROWS,
    ),
    "text": (
        lambda: ROWS.astype(str).astype(object),
        r"numpy\.asarray\(X, dtype=float\)",
        lambda X, folder: np.asarray(X, dtype=float),
        ROWS,
    ),
    "tensor": (
        lambda: Tensor(ROWS),
        r"X\.detach\(\)\.cpu\(\)\.numpy\(\)",
        lambda X, folder: X.detach().cpu().numpy(),
        ROWS,
    ),
    "batches": (
        batches,
        r"numpy\.concatenate\(list\(X\)\)",
        lambda X, folder: np.concatenate(list(X)),
        ROWS,
    ),
    "Dask DataFrame": (
        lambda: dask.dataframe.from_pandas(pandas.DataFrame(ROWS), npartitions=1),
        r"X\.to_dask_array\(lengths=True\)",
        lambda X, folder: X.to_dask_array(lengths=True),
        ROWS,
    ),
    "Dask Bag": (
        lambda: dask.bag.from_sequence(ROWS.tolist()),
        r"numpy\.array\(X\.compute\(\)\)",
        lambda X, folder: np.array(X.compute(scheduler="sync")),
        ROWS,
    ),
    "Dask Delayed": (
        lambda: dask.delayed(np.asarray)(ROWS),
        r"dask\.array\.from_delayed",
        lambda X, folder: dask.array.from_delayed(X, ROWS.shape, ROWS.dtype),
        ROWS,
    ),
}


@pytest.mark.filterwarnings("ignore:the matrix subclass")
@pytest.mark.parametrize("kind", REMEDIES)
def test_the_remedy_that_a_message_names_helps(kind: str, tmp_path: Path) -> None:
    make, message, remedy, expected = REMEDIES[kind]
    data = make()
    with pytest.raises(DataError, match=message):
        open_data(data)
    with pytest.raises(DataError, match=message):
        GaussianMixture().fit(data)
    rows = open_data(remedy(data, tmp_path)).read(0).rows
    np.testing.assert_array_equal(rows, expected)


@pytest.mark.parametrize("names", [str, Path])
def test_several_files_are_named_by_a_list_their_folder_or_a_pattern(
    names: Any, tmp_path: Path
) -> None:
    paths = [names(tmp_path / f"{i}.parquet") for i in range(2)]
    for path, part in zip(paths, (ROWS[:3], ROWS[3:]), strict=True):
        pyarrow.parquet.write_table(pyarrow.table({"a": part[:, 0], "b": part[:, 1]}), path)
    expected = GaussianMixture().fit(ROWS).means_
    for data in (paths, tmp_path, tmp_path / "*.parquet"):
        np.testing.assert_allclose(GaussianMixture().fit(data).means_, expected)
    np.save(tmp_path / "2.npy", ROWS)
    learned = update(tmp_path / "model.gmm", tmp_path / "*.npy", n_components=1)
    assert learned.n_samples_seen_ == 6.0


# A few rows are enough for what is tested.
@pytest.mark.filterwarnings("ignore::streamgmm.errors.FewRowsWarning")
def test_an_iterator_of_batches_is_learned_online(tmp_path: Path) -> None:
    with pytest.raises(DataTypeError, match=r"generator.*OnlineGaussianMixture\.fit"):
        GaussianMixture().fit(batches())
    assert OnlineGaussianMixture().fit(batches()).n_samples_seen_ == 6.0
    OnlineGaussianMixture().save(tmp_path / "model.gmm")
    assert update(tmp_path / "model.gmm", batches()).n_samples_seen_ == 6.0


def test_an_open_file_is_named_by_its_path(tmp_path: Path) -> None:
    with _saved(tmp_path).open("rb") as file, pytest.raises(DataTypeError, match="give its path"):
        open_data(file)
    np.testing.assert_array_equal(open_data(_saved(tmp_path)).read(0).rows, ROWS)
