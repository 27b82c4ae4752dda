"""One chunk layout gives one model, to the last bit, wherever it is computed."""

import functools
import gc
import itertools
import multiprocessing
import os
import signal
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dask.array
import numpy as np
import pytest
import zarr
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_info, threadpool_limits

from streamgmm import GaussianMixture
from streamgmm import open as open_data
from streamgmm.errors import NotFiniteError
from streamgmm.events import Event, ReadStarted
from streamgmm.options import CovarianceType
from streamgmm.testing.chunked import ChunkedSource
from tests.core.cases import TYPES, draw, random_parameters
from tests.executors.processes import own_threads

# Three stored chunks make a chunk of the source.
STORED_ROWS = 20_000
N, D = 200_000, 2

both_algorithms = pytest.mark.parametrize("algorithm", ["auto", "em"])


@functools.cache
def planted() -> NDArray[np.float64]:
    rng = np.random.default_rng(0)
    return draw(rng, random_parameters(rng, "full", 3, D, spread=1.0), N)


def fit(data: Any, covariance_type: CovarianceType, **settings: Any) -> GaussianMixture:
    arguments = {"random_state": 0, "max_iter": 5, "tol": 0.0, **settings}
    with pytest.warns(ConvergenceWarning):
        return GaussianMixture(3, covariance_type=covariance_type, **arguments).fit(data)


def bits(model: GaussianMixture) -> tuple[Any, ...]:
    arrays = (model.weights_, model.means_, model.covariances_, model.precisions_cholesky_)
    return *(array.tobytes() for array in arrays), *model.lower_bounds_


@pytest.fixture(scope="module")
def processes() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        yield pool


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bitwise") / "x.zarr"
    array = zarr.create_array(path, shape=(N, D), chunks=(STORED_ROWS, D), dtype="f8")
    array[:] = planted()
    return path


def lazy(path: Path) -> dask.array.Array:
    """The same rows in Dask blocks that are the chunks of the Zarr source."""
    rows = np.diff(open_data(path).boundaries).tolist()
    assert rows == [3 * STORED_ROWS] * 3 + [STORED_ROWS]
    return dask.array.from_array(zarr.open_array(path, mode="r"), chunks=(tuple(rows), D))


@both_algorithms
@pytest.mark.parametrize("covariance_type", TYPES)
def test_threads_and_schedulers_give_the_same_bits(
    covariance_type: CovarianceType, algorithm: str, stored: Path, processes: ProcessPoolExecutor
) -> None:
    expected = bits(fit(stored, covariance_type, algorithm=algorithm, n_jobs=1))
    for n_jobs in (2, 8):
        assert bits(fit(stored, covariance_type, algorithm=algorithm, n_jobs=n_jobs)) == expected, (
            n_jobs
        )
    array = lazy(stored)
    for scheduler in ("synchronous", "threads"):
        with dask.config.set(scheduler=scheduler):
            assert bits(fit(array, covariance_type, algorithm=algorithm)) == expected, scheduler
    with dask.config.set(scheduler="processes", pool=processes):
        assert bits(fit(array, covariance_type, algorithm=algorithm)) == expected
    with dask.config.set(scheduler="synchronous"):
        assert bits(fit(stored, covariance_type, algorithm=algorithm, executor="dask")) == expected
    assert (
        bits(fit(array, covariance_type, algorithm=algorithm, executor="threads", n_jobs=2))
        == expected
    )


@both_algorithms
def test_the_distributed_scheduler_gives_the_same_bits(stored: Path, algorithm: str) -> None:
    import distributed

    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=2, processes=True, dashboard_address=":0"
        ) as cluster,
        distributed.Client(cluster),
    ):
        # The active client is found without being named.
        found = {kind: bits(fit(lazy(stored), kind, algorithm=algorithm)) for kind in TYPES}
    for kind in TYPES:
        assert found[kind] == bits(fit(stored, kind, algorithm=algorithm, n_jobs=2)), kind


@both_algorithms
@pytest.mark.parametrize("covariance_type", TYPES)
def test_rows_with_gaps_give_the_same_bits(
    covariance_type: CovarianceType, algorithm: str, processes: ProcessPoolExecutor
) -> None:
    source = open_data(ChunkedSource(rows_with_gaps(), 1_500), missing="em")
    settings = {"covariance_type": covariance_type, "algorithm": algorithm}
    expected = bits(fit(source, **settings, n_jobs=1))
    for n_jobs in (2, 8):
        assert bits(fit(source, **settings, n_jobs=n_jobs)) == expected, n_jobs
    with dask.config.set(scheduler="processes", pool=processes):
        assert bits(fit(source, **settings, executor="dask")) == expected


def rows_with_gaps() -> NDArray[np.float64]:
    rng = np.random.default_rng(1)
    rows = draw(rng, random_parameters(rng, "full", 3, 4), 20_000)
    rows[rng.random(rows.shape) < 0.2] = np.nan
    return rows


def assert_same_fit(found: GaussianMixture, expected: GaussianMixture) -> None:
    for name in ("weights_", "means_", "covariances_"):
        np.testing.assert_allclose(
            getattr(found, name), getattr(expected, name), rtol=1e-10, atol=1e-10
        )
    np.testing.assert_allclose(found.lower_bounds_, expected.lower_bounds_, rtol=0, atol=1e-10)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_other_layouts_of_rows_with_gaps_agree(covariance_type: CovarianceType) -> None:
    rows = rows_with_gaps()
    found = [
        fit(open_data(ChunkedSource(rows, n), missing="em"), covariance_type, algorithm="em")
        for n in (1_500, 101, 999, 20_000)
    ]
    for other in found[1:]:
        assert_same_fit(other, found[0])


@pytest.mark.parametrize("covariance_type", TYPES)
def test_other_layouts_agree(covariance_type: CovarianceType) -> None:
    X = planted()[:5000]
    reference = fit(ChunkedSource(X), covariance_type, algorithm="em")
    for chunk_rows in (7, 256, 1000, 4999):
        other = fit(ChunkedSource(X, chunk_rows), covariance_type, algorithm="em")
        assert_same_fit(other, reference)
    few = [fit(ChunkedSource(X[:300], n), covariance_type, algorithm="em") for n in (300, 1)]
    assert_same_fit(*few)


def test_other_layouts_agree_to_the_tolerance() -> None:
    X = planted()[:20_000]
    found = [
        GaussianMixture(3, random_state=0, tol=1e-5).fit(ChunkedSource(X, chunk_rows))
        for chunk_rows in (20_000, 7, 256, 19_999)
    ]
    bounds = [model.lower_bound_ for model in found]
    assert max(bounds) - min(bounds) < 2e-5


@both_algorithms
@pytest.mark.parametrize("threads", [1, 2])
def test_the_callers_blas_threads_do_not_matter(stored: Path, threads: int, algorithm: str) -> None:
    expected = bits(fit(stored, "full", algorithm=algorithm))
    with threadpool_limits(threads, user_api="blas"):
        assert bits(fit(stored, "full", algorithm=algorithm)) == expected


def blas_threads() -> list[int]:
    return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]


def test_blas_threads_are_given_back() -> None:
    X = planted()[:1000].copy()
    with threadpool_limits(2, user_api="blas"):
        before = blas_threads()
        assert set(before) == {2}
        during: list[list[int]] = []

        def watch(event: Event) -> None:
            during.append(blas_threads())

        fit(X, "full", callbacks=[watch])
        assert all(set(threads) == {1} for threads in during)
        assert blas_threads() == before
        X[3, 1] = np.nan
        with pytest.raises(NotFiniteError):
            GaussianMixture(3).fit(X)
        assert blas_threads() == before
        with pytest.raises(NotFiniteError):
            fit_started(X).score(X)
        assert blas_threads() == before


def fit_started(X: NDArray[np.float64]) -> GaussianMixture:
    """A model whose fit ignores rows with NaN because the caller drops them."""
    return GaussianMixture(3, random_state=0).fit(X[np.isfinite(X).all(axis=1)])


def test_fits_in_several_threads_do_not_disturb_each_other() -> None:
    X = planted()[:30_000]
    sources = [ChunkedSource(X, 1000), ChunkedSource(X[::-1], 700), ChunkedSource(X[::2], 333)]

    def run(source: ChunkedSource) -> tuple[Any, ...]:
        model = GaussianMixture(3, random_state=0, max_iter=8, tol=1e9, n_jobs=2, n_init=3)
        return bits(model.fit(source))

    alone = [run(source) for source in sources]
    before = blas_threads()
    with ThreadPoolExecutor(3) as threads:
        together = list(threads.map(run, sources))
    assert together == alone
    assert blas_threads() == before


def test_an_interrupt_leaves_nothing_running() -> None:
    source = ChunkedSource(planted()[:50_000], 500)
    seen: list[int] = []

    def interrupt(event: Event) -> None:
        if isinstance(event, ReadStarted):
            seen.append(event.number)
            if event.number == 3:
                os.kill(os.getpid(), signal.SIGINT)

    before = blas_threads(), threading.active_count()
    model = GaussianMixture(3, random_state=0, tol=0.0, n_jobs=2, callbacks=[interrupt])
    with pytest.raises(KeyboardInterrupt):
        model.fit(source)
    assert seen == [1, 2, 3]
    assert own_threads() == []
    assert (blas_threads(), threading.active_count()) == before
    assert not hasattr(model, "means_")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.set_params(callbacks=(), tol=1e-3).fit(source)
    assert model.converged_


def test_an_interrupt_in_the_middle_of_a_read_leaves_nothing_running() -> None:
    main = threading.main_thread().ident
    assert main is not None

    visits = itertools.count()

    class InterruptingSource(ChunkedSource):
        def read(self, i: int) -> Any:
            if next(visits) == 70:
                # From a reading thread, while the main thread waits for results.
                signal.pthread_kill(main, signal.SIGINT)
            return super().read(i)

    source = InterruptingSource(planted()[:50_000], 1000)
    with pytest.raises(KeyboardInterrupt):
        GaussianMixture(3, random_state=0, n_jobs=2).fit(source)
    assert own_threads() == []
    # The traceback may hold chunks in a cycle.
    gc.collect()
    assert source.n_live == 0


# Containers


#: Rows in each chunk of an array of so many features, wherever it is kept.
CHUNK_ROWS = {3: 65_536, 64: 4_096}
#: Few chunks, of which a pilot would read a large part; and chunks enough for a pilot.
FEW_CHUNKS, MANY_CHUNKS = (70_000, 3), (50_000, 64)


def fortran(X: NDArray[np.float64], folder: Path) -> Any:
    return np.asfortranarray(X)


def every_other(X: NDArray[np.float64], folder: Path) -> Any:
    doubled = np.repeat(np.repeat(X, 2, axis=0), 2, axis=1)
    return doubled[::2, ::2]


def reversed_twice(X: NDArray[np.float64], folder: Path) -> Any:
    return X[::-1].copy()[::-1]


def big_endian(X: NDArray[np.float64], folder: Path) -> Any:
    return X.astype(">f8")


def npy(X: NDArray[np.float64], folder: Path) -> Any:
    np.save(folder / "x.npy", X)
    return folder / "x.npy"


def big_endian_npy(X: NDArray[np.float64], folder: Path) -> Any:
    np.save(folder / "x.npy", np.asfortranarray(X.astype(">f8")))
    return folder / "x.npy"


def memory_map(X: NDArray[np.float64], folder: Path) -> Any:
    return np.load(npy(X, folder), mmap_mode="r")


def part_of_a_memory_map(X: NDArray[np.float64], folder: Path) -> Any:
    np.save(folder / "x.npy", np.concatenate([X, X]))
    return np.load(folder / "x.npy", mmap_mode="r")[len(X) :]


def zarr_store(X: NDArray[np.float64], folder: Path, dtype: str = "<f8") -> Any:
    chunks = CHUNK_ROWS[X.shape[1]], X.shape[1]
    array = zarr.create_array(folder / "x.zarr", shape=X.shape, chunks=chunks, dtype=dtype)
    array[:] = X
    return folder / "x.zarr"


def zarr_tiles(X: NDArray[np.float64], folder: Path) -> Any:
    chunks = CHUNK_ROWS[X.shape[1]] // 4, 1
    array = zarr.create_array(folder / "x.zarr", shape=X.shape, chunks=chunks, dtype="f8")
    array[:] = X
    return folder / "x.zarr"


def big_endian_zarr(X: NDArray[np.float64], folder: Path) -> Any:
    return zarr_store(X, folder, ">f8")


def hdf5(X: NDArray[np.float64], folder: Path, dtype: str = "<f8") -> Any:
    h5py = pytest.importorskip("h5py")
    with h5py.File(folder / "x.h5", "w") as file:
        chunks = CHUNK_ROWS[X.shape[1]], X.shape[1]
        file.create_dataset("x", data=X, dtype=dtype, chunks=chunks)
    return f"{folder / 'x.h5'}::/x"


def big_endian_hdf5(X: NDArray[np.float64], folder: Path) -> Any:
    return hdf5(X, folder, ">f8")


def parquet(X: NDArray[np.float64], folder: Path) -> Any:
    pyarrow = pytest.importorskip("pyarrow")
    parquet_module = pytest.importorskip("pyarrow.parquet")
    table = pyarrow.table({f"x{d}": column for d, column in enumerate(X.T)})
    parquet_module.write_table(table, folder / "x.parquet", row_group_size=CHUNK_ROWS[X.shape[1]])
    return folder / "x.parquet"


def data_frame(X: NDArray[np.float64], folder: Path) -> Any:
    return pytest.importorskip("pandas").DataFrame(X)


def labelled(X: NDArray[np.float64], folder: Path) -> Any:
    return pytest.importorskip("xarray").DataArray(X, dims=("row", "feature"))


def dask_array(X: NDArray[np.float64], folder: Path) -> Any:
    return dask.array.from_array(X, chunks=(CHUNK_ROWS[X.shape[1]], 1))


CONTAINERS = [
    fortran,
    every_other,
    reversed_twice,
    big_endian,
    npy,
    big_endian_npy,
    memory_map,
    part_of_a_memory_map,
    zarr_store,
    zarr_tiles,
    big_endian_zarr,
    hdf5,
    big_endian_hdf5,
    parquet,
    data_frame,
    labelled,
    dask_array,
]


def fit_kept_in(container: Any, how: str, shape: tuple[int, int], folder: Path) -> tuple[Any, ...]:
    """The bits of a fit of the same rows, whatever they are kept in."""
    n, d = shape
    rng = np.random.default_rng(2)
    X = draw(rng, random_parameters(rng, "diag", 3, d, spread=1.0), n)
    settings: dict[str, Any] = {"algorithm": "em" if how == "em" else "auto", "max_iter": 2}
    options: dict[str, Any] = {}
    if how == "start":
        start = random_parameters(np.random.default_rng(3), "diag", 3, d)
        settings |= {
            "weights_init": start.weights,
            "means_init": start.means,
            "precisions_init": 1.0 / start.covariances,
        }
    if how == "weights":
        options["sample_weight"] = rng.integers(0, 3, n).astype(np.float64)
    if how in ("drop", "gaps"):
        X[rng.random(n) < 0.1, 0] = np.nan
        options["missing"] = "drop" if how == "drop" else "em"
    data = open_data(X if container is None else container(X, folder), **options)
    sizes = [CHUNK_ROWS[d]] * (n // CHUNK_ROWS[d]) + [n % CHUNK_ROWS[d]]
    assert np.diff(data.boundaries).tolist() == sizes
    model = fit(data, "diag", **settings)
    return *bits(model), model.converged_, model.n_iter_, model.n_reads_


@pytest.fixture(scope="module")
def of_arrays() -> Any:
    """What fits of an array in C order give, each found once."""
    return functools.cache(lambda how, shape: fit_kept_in(None, how, shape, Path()))


WAYS = [
    ("em", FEW_CHUNKS),
    ("start", FEW_CHUNKS),
    ("weights", FEW_CHUNKS),
    ("drop", FEW_CHUNKS),
    ("gaps", FEW_CHUNKS),
    ("auto", MANY_CHUNKS),
]


def cases() -> Iterator[Any]:
    """Each container in three ways: the plain one, and two that take turns."""
    for i, container in enumerate(CONTAINERS):
        for how, shape in (("auto", FEW_CHUNKS), WAYS[i % 6], WAYS[(i + 3) % 6]):
            yield pytest.param(container, how, shape, id=f"{container.__name__}-{how}-{shape}")


@pytest.mark.parametrize(("container", "how", "shape"), list(cases()))
def test_the_container_of_rows_does_not_matter(
    container: Any, how: str, shape: tuple[int, int], of_arrays: Any, tmp_path: Path
) -> None:
    assert fit_kept_in(container, how, shape, tmp_path) == of_arrays(how, shape)


@pytest.mark.parametrize("scheduler", ["synchronous", "threads"])
def test_the_scheduler_of_a_dask_array_does_not_matter(
    scheduler: str, of_arrays: Any, tmp_path: Path
) -> None:
    with dask.config.set(scheduler=scheduler):
        found = fit_kept_in(dask_array, "auto", FEW_CHUNKS, tmp_path)
    assert found == of_arrays("auto", FEW_CHUNKS)


@pytest.mark.parametrize("container", [lambda X, folder: X, npy], ids=["array", "file"])
@pytest.mark.parametrize(
    ("shape", "purposes"),
    [(FEW_CHUNKS, ["survey"]), ((900_000, 1), ["pilot", "survey"])],
    ids=str,
)
def test_the_layout_decides_whether_there_is_a_pilot(
    shape: tuple[int, int], purposes: list[str], container: Any, tmp_path: Path
) -> None:
    rng = np.random.default_rng(4)
    X = draw(rng, random_parameters(rng, "diag", 3, shape[1]), shape[0])
    model = fit(container(X, tmp_path), "diag", max_iter=1)
    assert [read["purpose"] for read in model.history_][: len(purposes)] == purposes
