"""Scaling, principal components and norms: against scikit-learn, in one pass, over any source."""

import pickle
import threading
import warnings
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import pandas
import pytest
import sklearn.base
import sklearn.decomposition
import sklearn.mixture
import sklearn.preprocessing
import xarray
import zarr
from numpy.typing import NDArray
from sklearn.pipeline import make_pipeline

import streamgmm
from streamgmm import GaussianMixture
from streamgmm.errors import (
    CheckpointError,
    DataError,
    LeftOutRowsWarning,
    MemoryLimitError,
    NotFiniteError,
    NotFittedError,
    OutputError,
    ParameterError,
)
from streamgmm.preprocessing import PCA, Normalizer, StandardScaler, in_data_units
from streamgmm.protocols import Chunk
from streamgmm.sources.array import ArraySource
from streamgmm.sources.transformed import TransformedSource
from streamgmm.testing import SourceCase, SourceConformance

SCALED = ("mean_", "var_", "scale_", "n_samples_seen_")
PROJECTED = (
    "components_",
    "explained_variance_",
    "explained_variance_ratio_",
    "singular_values_",
    "mean_",
    "n_components_",
    "noise_variance_",
    "n_samples_",
)


def rows(n: int = 3000, d: int = 5, seed: int = 0) -> NDArray[np.float64]:
    """Two groups of rows, with columns of different means and deviations that depend on another."""
    random = np.random.default_rng(seed)
    mixing = random.normal(size=(d, d)) + 2.0 * np.eye(d)
    values = random.normal(size=(n, d)) @ mixing
    values[: n // 2] += 8.0
    return values * 10.0 ** np.arange(-1, d - 1) + np.linspace(-50.0, 100.0, d)


class CountingSource(ArraySource):
    """Rows in memory, in small chunks, that counts the rows that are read."""

    def __init__(self, array: NDArray[Any]) -> None:
        super().__init__(array)
        self.boundaries = [*range(0, len(array), 250), len(array)]
        self.n_read = 0

    def read(self, i: int) -> Chunk:
        chunk = super().read(i)
        self.n_read += len(chunk.rows)
        return chunk


def stored(folder: Path, values: NDArray[Any], chunk_rows: int = 256) -> str:
    """The path of a Zarr store with these rows."""
    path = str(folder / "rows.zarr")
    shape = (chunk_rows, values.shape[1])
    array = zarr.create_array(path, shape=values.shape, chunks=shape, dtype=values.dtype)
    array[:] = values
    return path


def assert_same(ours: Any, theirs: Any, names: tuple[str, ...], tolerance: float = 1e-9) -> None:
    for name in names:
        assert_close(getattr(ours, name), getattr(theirs, name), tolerance, name)


def assert_close(ours: Any, theirs: Any, tolerance: float = 1e-9, name: str = "") -> None:
    """Compare arrays, relative to the largest value; means of scaled columns are near 0."""
    largest = np.nanmax(np.abs(theirs), initial=0.0)
    bound = max(tolerance * float(largest), 1e-12)
    np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=bound, err_msg=name)


def test_scaler_and_projection_share_one_pass_and_wait_for_it() -> None:
    source = CountingSource(rows())
    scaler, pca = StandardScaler(), PCA(0.9)
    transformed = pca.fit_transform(scaler.fit_transform(source))
    assert isinstance(transformed, TransformedSource)
    assert source.n_read == 0
    assert scaler.n_features_in_ == pca.n_features_in_ == 5
    assert (
        pca.n_components_
        == sklearn.decomposition.PCA(0.9)
        .fit(sklearn.preprocessing.StandardScaler().fit_transform(rows()))
        .n_components_
    )
    assert source.n_read == source.n_rows
    assert scaler.mean_ is not None
    assert transformed.read(0).rows.shape == (250, pca.n_components_)
    assert source.n_read == source.n_rows + 250


def test_a_mixture_after_both_takes_one_pass_more_than_alone() -> None:
    source = CountingSource(rows())
    mixture = GaussianMixture(2, algorithm="em", random_state=0, max_iter=3, tol=0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipeline = make_pipeline(StandardScaler(), PCA(2), mixture).fit(source)
    assert source.n_read == round((1 + pipeline[-1].n_reads_) * source.n_rows)


def test_the_pass_is_made_in_the_thread_of_the_fit() -> None:
    source, threads = CountingSource(rows()), set()
    scaler = StandardScaler(callbacks=[lambda event: threads.add(threading.current_thread())])
    make_pipeline(scaler, GaussianMixture(1, algorithm="em")).fit(source)
    assert threads == {threading.current_thread()}


@pytest.mark.parametrize(
    "last",
    [
        streamgmm.KMeans(2, random_state=0),
        streamgmm.GaussianMixtureSearch((1, 2), covariance_type="diag", random_state=0),
        streamgmm.OnlineGaussianMixture(2, random_state=0, init_size=500),
    ],
)
def test_other_models_may_come_last(last: Any, tmp_path: Path) -> None:
    values = rows()
    lazy = make_pipeline(StandardScaler(), PCA(2), last).fit(streamgmm.open(values))
    scaled = make_pipeline(StandardScaler(), PCA(2)).fit_transform(values)
    eager = sklearn.base.clone(last).fit(streamgmm.open(scaled))
    assert np.mean(lazy.predict(values) == eager.predict(scaled)) in (0.0, 1.0)


def test_moments_do_not_follow_through_a_norm() -> None:
    source = CountingSource(rows())
    pipeline = make_pipeline(StandardScaler(), Normalizer(), StandardScaler(), PCA(2))
    found = np.asarray(pipeline.fit_transform(source))
    theirs = make_pipeline(
        sklearn.preprocessing.StandardScaler(),
        sklearn.preprocessing.Normalizer(),
        sklearn.preprocessing.StandardScaler(),
        sklearn.decomposition.PCA(2),
    )
    assert_close(found, theirs.fit_transform(rows()))
    assert source.n_read == 3 * source.n_rows  # two passes for moments, and the one here


def test_a_scaler_after_a_projection_follows_from_the_same_pass() -> None:
    source = CountingSource(rows())
    pipeline = make_pipeline(StandardScaler(), PCA(3), StandardScaler())
    found = np.asarray(pipeline.fit_transform(source))
    assert_close(found.std(axis=0), np.ones(3))
    assert source.n_read == 2 * source.n_rows


def test_settings_are_those_of_the_fit() -> None:
    pca = PCA(1).fit(CountingSource(rows()))
    pca.set_params(n_components=3, whiten=True)
    assert pca.n_components_ == 1
    assert not pca._row_map.whiten


@pytest.mark.parametrize("chunk_rows", [256, 3000])
def test_the_pipeline_on_a_store_is_that_of_scikit_learn(tmp_path: Path, chunk_rows: int) -> None:
    values = rows()
    theirs = make_pipeline(sklearn.preprocessing.StandardScaler(), sklearn.decomposition.PCA(0.95))
    projected = theirs.fit_transform(values)
    r = projected.shape[1]
    start = {
        "weights_init": [0.4, 0.6],
        "means_init": projected[[0, -1]],
        "precisions_init": [np.eye(r)] * 2,
        "tol": 0.0,
        "max_iter": 10,
        "reg_covar": 1e-6,
    }
    path = stored(tmp_path, values, chunk_rows)
    ours = make_pipeline(StandardScaler(), PCA(0.95), GaussianMixture(2, algorithm="em", **start))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ten iterations do not converge
        ours.fit(path)
        mixture = sklearn.mixture.GaussianMixture(2, **start).fit(projected)
    assert_same(ours[0], theirs[0], SCALED)
    assert_same(ours[1], theirs[1], PROJECTED)
    assert_same(ours[2], mixture, ("weights_", "means_", "covariances_", "lower_bound_"))
    assert ours.score(path) == pytest.approx(mixture.score(projected), rel=1e-9)
    ours.predict(path, out=tmp_path / "labels.npy")
    assert np.array_equal(np.load(tmp_path / "labels.npy"), mixture.predict(projected))
    new = values[:100] + 1.0
    assert ours.score_samples(new) == pytest.approx(
        mixture.score_samples(theirs.transform(new)), rel=1e-9
    )


@pytest.mark.parametrize("settings", [{}, {"with_mean": False}, {"with_std": False}])
def test_scaler_is_that_of_scikit_learn(settings: dict[str, Any]) -> None:
    values = rows()
    values[::7, 1] = np.nan
    values[:, 2] = 3.25
    weights = np.random.default_rng(1).uniform(0.0, 3.0, len(values))
    for given in (None, weights):
        ours = StandardScaler(**settings).fit(values, sample_weight=given)
        theirs = sklearn.preprocessing.StandardScaler(**settings).fit(values, sample_weight=given)
        present = tuple(name for name in SCALED if getattr(theirs, name) is not None)
        assert [getattr(ours, name) is None for name in SCALED] == [
            getattr(theirs, name) is None for name in SCALED
        ]
        assert_same(ours, theirs, present)
        assert_close(ours.transform(values), theirs.transform(values))
        assert_close(ours.inverse_transform(ours.transform(values)), values)
    neither = StandardScaler(with_mean=False, with_std=False).fit(values)
    assert neither.mean_ is neither.var_ is neither.scale_ is None
    assert np.array_equal(neither.transform(values), values, equal_nan=True)


@pytest.mark.parametrize("number", [None, 2, 0.5, 0.999])
@pytest.mark.parametrize("whiten", [False, True])
def test_projection_is_that_of_scikit_learn(number: Any, whiten: bool) -> None:
    values = rows(400)
    ours = PCA(number, whiten=whiten).fit(values)
    theirs = sklearn.decomposition.PCA(number, whiten=whiten, svd_solver="full").fit(values)
    assert_same(ours, theirs, PROJECTED, 1e-7)
    assert ours.transform(values) == pytest.approx(theirs.transform(values), rel=1e-6, abs=1e-6)
    assert list(ours.get_feature_names_out()) == list(theirs.get_feature_names_out())
    assert ours.inverse_transform(ours.transform(values)) == pytest.approx(
        theirs.inverse_transform(theirs.transform(values)), rel=1e-6, abs=1e-6
    )


def test_fewer_rows_than_columns() -> None:
    values = np.random.default_rng(0).normal(size=(4, 7))
    assert_same(PCA().fit(values), sklearn.decomposition.PCA().fit(values), ("n_components_",))
    few = PCA(2).fit(values)
    expected = sklearn.decomposition.PCA(2, svd_solver="full").fit(values)
    assert_same(few, expected, PROJECTED)
    with pytest.raises(ParameterError, match=r"PCA of 5 components.* ask for at most 4"):
        PCA(5).fit(values)


@pytest.mark.parametrize("norm", ["l1", "l2", "max"])
def test_normalizer_is_that_of_scikit_learn(norm: Any, tmp_path: Path) -> None:
    values = np.concatenate([np.zeros((1, 5)), rows(50)])
    expected = sklearn.preprocessing.Normalizer(norm).transform(values)
    assert Normalizer(norm).transform(values) == pytest.approx(expected, rel=1e-15)
    lazy = Normalizer(norm).fit_transform(stored(tmp_path, values))
    assert np.array_equal(np.asarray(lazy), Normalizer(norm).fit_transform(values))


def test_far_from_the_origin_no_digits_are_lost(tmp_path: Path) -> None:
    deviations = np.random.default_rng(0).normal(size=(4000, 3)) @ [
        [1, 0.5, 0],
        [0, 1, 0],
        [0, 0, 1],
    ]
    values = np.round(deviations * 2**20) / 2**20 + 2.0**30  # exact
    exact = values - 2.0**30
    scaler, pca = StandardScaler(), PCA(whiten=True)
    found = pca.fit_transform(scaler.fit_transform(stored(tmp_path, values)))
    assert scaler.var_ == pytest.approx(exact.var(axis=0), rel=1e-12)
    expected = sklearn.preprocessing.StandardScaler().fit_transform(exact)
    theirs = sklearn.decomposition.PCA(whiten=True).fit(expected)
    assert_same(pca, theirs, ("explained_variance_", "components_"))
    # The mean itself has the digits of a number of its size, so all rows are shifted alike.
    projected, exactly = np.asarray(found), theirs.transform(expected)
    assert_close(projected - projected[0], exactly - exactly[0])


def test_weights_count_rows(tmp_path: Path) -> None:
    values = rows(500)
    weights = np.random.default_rng(0).integers(0, 4, len(values)).astype(np.float64)
    source = streamgmm.open(stored(tmp_path, values), sample_weight=weights)
    repeated = np.repeat(values, weights.astype(int), axis=0)
    scaler, pca = StandardScaler(), PCA(3)
    transformed = pca.fit_transform(scaler.fit_transform(source))
    assert_same(scaler, sklearn.preprocessing.StandardScaler().fit(repeated), SCALED)
    expected = sklearn.decomposition.PCA(3).fit(
        sklearn.preprocessing.StandardScaler().fit_transform(repeated)
    )
    assert_same(pca, expected, PROJECTED[:-1])
    assert transformed.has_weights
    assert np.array_equal(transformed.read(0).weights, weights)
    later = streamgmm.open(
        scaler.transform(stored(tmp_path / "again", values)), sample_weight=weights
    )
    assert np.array_equal(later.read(0).weights, weights)
    with pytest.raises(DataError, match="sum to 1, but a variance needs more"):
        _ = PCA(1).fit(streamgmm.open(values, sample_weight=weights / weights.sum())).mean_


def test_the_same_bits_on_any_number_of_threads(tmp_path: Path) -> None:
    path = stored(tmp_path, np.tile(rows(), (40, 1)), 1000)
    settings: list[dict[str, Any]] = [{"n_jobs": 1}, {"n_jobs": 3}, {"executor": "dask"}]
    found = []
    for setting in settings:
        scaler, pca = StandardScaler(**setting), PCA(0.99, **setting)
        source = pca.fit_transform(scaler.fit_transform(path))
        found.append((source.digest, source.read(1).rows.tobytes()))
    assert len(set(found)) == 1


class TestMissing:
    @pytest.fixture
    def values(self) -> NDArray[np.float64]:
        values = rows(600)
        values[::5, 1] = np.nan
        return values

    def test_scaling_passes_it_on_to_the_mixture(self, values: NDArray[Any]) -> None:
        source = streamgmm.open(values, missing="em")
        settings: dict[str, Any] = {"random_state": 0, "algorithm": "em", "reg_covar": 0.0}
        pipeline = make_pipeline(StandardScaler(), GaussianMixture(2, **settings)).fit(source)
        scaled = sklearn.preprocessing.StandardScaler().fit_transform(values)
        direct = GaussianMixture(2, **settings).fit(streamgmm.open(scaled, missing="em"))
        assert pipeline[-1].means_ == pytest.approx(direct.means_, rel=1e-8, abs=1e-8)
        with pytest.raises(NotFiniteError, match="contains NaN"):
            make_pipeline(StandardScaler(), GaussianMixture(2)).fit(streamgmm.open(values))

    def test_projection_skips_rows_where_that_is_asked(self, values: NDArray[Any]) -> None:
        complete = values[~np.isnan(values).any(axis=1)]
        scaler, pca = StandardScaler(), PCA(2)
        source = CountingSource(values)
        source.missing = "drop"
        found = pca.fit_transform(scaler.fit_transform(source))
        assert pca.n_samples_ == 480
        # Each column is scaled by all of its values, and components are those of whole rows.
        theirs = sklearn.preprocessing.StandardScaler().fit(values)
        assert_same(scaler, theirs, SCALED)
        expected = sklearn.decomposition.PCA(2).fit(theirs.transform(complete))
        assert_same(pca, expected, PROJECTED)
        assert source.n_read == len(values)
        projected = np.asarray(found)
        assert np.array_equal(np.isnan(projected).all(axis=1), np.isnan(values).any(axis=1))
        assert projected[1] == pytest.approx(expected.transform(theirs.transform(values[1:2]))[0])

    @pytest.mark.parametrize("missing", ["error", "em"])
    def test_projection_refuses_it_otherwise(self, values: NDArray[Any], missing: Any) -> None:
        source = streamgmm.open(values, missing=missing)
        with pytest.raises(NotFiniteError, match=r"NaN in 120 of 600 rows; .*missing='drop'"):
            _ = PCA(2).fit(source).components_
        with pytest.raises(NotFiniteError, match=r"NaN in 120 of 600 rows; .*missing='drop'"):
            make_pipeline(StandardScaler(), PCA(2), GaussianMixture(1)).fit(source)

    def test_a_fitted_projection_refuses_rows_that_lack_some_values(
        self, values: NDArray[Any]
    ) -> None:
        pca = PCA(2).fit(rows(600))
        source = pca.transform(streamgmm.open(values, missing="em"))
        with pytest.raises(DataError, match=r"lack some of their values.*missing='drop'"):
            source.read(0)
        with pytest.raises(NotFiniteError, match="NaN"):
            pca.transform(values)

    def test_infinity_stays(self) -> None:
        values = rows(600)
        pca = PCA(2).fit(values)
        values[3, :2] = np.inf, -np.inf
        source = pca.transform(streamgmm.open(values, missing="drop"))
        assert np.isinf(source.read(0).rows[3]).all()
        with pytest.raises(NotFiniteError, match="infinity"):
            GaussianMixture(1).fit(source)
        for transformer in (StandardScaler(), PCA(2)):
            with pytest.raises(NotFiniteError, match="infinity: 2 value"):
                transformer.fit(values)
            with pytest.raises(NotFiniteError, match="infinity: 2 value"):
                make_pipeline(transformer, GaussianMixture(1)).fit(streamgmm.open(values))

    def test_columns_without_values_are_refused(self) -> None:
        frame = pandas.DataFrame({"a": [1.0, 2.0], "b": [np.nan, np.nan]})
        with pytest.raises(DataError, match=r"no value in 2 rows of column\(s\) b"):
            StandardScaler().fit(frame)
        with pytest.raises(DataError, match="no row of X that can be used"):
            StandardScaler().fit(np.full((3, 2), np.nan))

    def test_rows_that_overflow_are_skipped_with_a_warning(self) -> None:
        values = rows(600)
        values[7, 0] = 1e200
        with pytest.warns(LeftOutRowsWarning, match="1 row"):
            scaler = StandardScaler().fit(values)
        assert_same(scaler, StandardScaler().fit(np.delete(values, 7, axis=0)), SCALED)


class TestSmallData:
    def test_one_row(self) -> None:
        scaler = StandardScaler().fit([[3.0, 4.0]])
        assert scaler.scale_.tolist() == [1.0, 1.0]
        assert scaler.transform([[3.0, 5.0]]).tolist() == [[0.0, 1.0]]
        with pytest.raises(DataError, match="1 usable row"):
            PCA(1).fit([[3.0, 4.0]])

    def test_one_column(self) -> None:
        values = rows()[:, :1]
        pipeline = make_pipeline(StandardScaler(), PCA()).fit(streamgmm.open(values))
        expected = sklearn.preprocessing.StandardScaler().fit_transform(values)
        assert np.asarray(pipeline.transform(streamgmm.open(values))) == pytest.approx(expected)

    def test_constant_columns(self) -> None:
        values = np.full((100, 3), 0.1)
        values[:, 0] = np.arange(100)
        scaler = StandardScaler().fit(streamgmm.open(values))
        assert_same(scaler, sklearn.preprocessing.StandardScaler().fit(values), SCALED)
        assert scaler.scale_[1:].tolist() == [1.0, 1.0]
        constant = np.ones((10, 2))
        pca = PCA(2).fit(constant)
        assert pca.explained_variance_.tolist() == pca.explained_variance_ratio_.tolist() == [0, 0]
        with pytest.raises(DataError, match="are equal, so no number of components explains"):
            PCA(0.9).fit(constant)

    @pytest.mark.parametrize("number", [0, -1, 0.0, 1.0, 1.5, "mle"])
    def test_wrong_numbers_of_components(self, number: Any) -> None:
        with pytest.raises(ParameterError, match="n_components"):
            PCA(number).fit(rows(20))

    def test_types(self, tmp_path: Path) -> None:
        values = rows(300)
        for dtype, expected in (
            ("f4", "f4"),
            (">f4", "f4"),
            ("f2", "f4"),
            ("f8", "f8"),
            ("i2", "f8"),
        ):
            source = StandardScaler().fit_transform(streamgmm.open(values.astype(dtype)))
            assert source.dtype == source.read(0).rows.dtype == np.dtype(expected)
            assert StandardScaler().fit_transform(values.astype(dtype)).dtype == np.dtype(expected)

    def test_memory_limit(self, tmp_path: Path) -> None:
        wide = np.zeros((2, 2000), dtype=np.float32)
        with pytest.raises(MemoryLimitError, match="memory_limit"):
            PCA(1, memory_limit="100MB").fit(wide)


class TestNames:
    @pytest.fixture
    def frame(self) -> pandas.DataFrame:
        return pandas.DataFrame(rows(300), columns=list("abcde"), index=range(5, 305))

    def test_scaled_columns_keep_theirs_and_components_get_their_own(
        self, frame: pandas.DataFrame, tmp_path: Path
    ) -> None:
        frame.to_parquet(tmp_path / "rows.parquet")
        scaler, pca = StandardScaler(), PCA(2)
        scaled = scaler.fit_transform(tmp_path / "rows.parquet")
        assert scaled.feature_names == list("abcde")
        projected = pca.fit_transform(scaled)
        assert projected.feature_names == ["pca0", "pca1"] == list(pca.get_feature_names_out())
        assert list(pca.feature_names_in_) == list(scaler.get_feature_names_out()) == list("abcde")

    def test_other_columns_are_refused(self, frame: pandas.DataFrame, tmp_path: Path) -> None:
        pipeline = make_pipeline(StandardScaler(), PCA(2), GaussianMixture(1)).fit(frame)
        other = frame.rename(columns={"a": "z"})
        with pytest.raises(DataError, match="feature names should match"):
            pipeline.predict(other)
        other.to_parquet(tmp_path / "rows.parquet")
        with pytest.raises(DataError, match="has no column 'a'"):
            pipeline.predict(tmp_path / "rows.parquet")
        with pytest.raises(DataError, match="4 features, but StandardScaler is expecting 5"):
            pipeline[0].transform(streamgmm.open(rows(300)[:, :4]))
        with pytest.raises(DataError, match="3 features, but the output of PCA is expecting 2"):
            pipeline[1].inverse_transform(rows(300)[:, :3])

    def test_data_frames_give_what_scikit_learn_gives(self, frame: pandas.DataFrame) -> None:
        scaler = StandardScaler().fit(frame)
        assert isinstance(scaler.transform(frame), np.ndarray)
        found = scaler.set_output(transform="pandas").transform(frame)
        expected = sklearn.preprocessing.StandardScaler().set_output(transform="pandas")
        pandas.testing.assert_frame_equal(found, expected.fit_transform(frame))
        # A source stays a source.
        assert isinstance(scaler.transform(streamgmm.open(frame)), TransformedSource)

    def test_a_fitted_pipeline_takes_arrays_and_frames_alike(
        self, frame: pandas.DataFrame, tmp_path: Path
    ) -> None:
        frame.to_parquet(tmp_path / "rows.parquet")
        pipeline = make_pipeline(StandardScaler(), PCA(2), GaussianMixture(2, random_state=0))
        pipeline.fit(tmp_path / "rows.parquet")
        streamgmm.save(pipeline, tmp_path / "model.gmm")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            labels = pipeline.predict(frame)
            assert np.array_equal(streamgmm.load(tmp_path / "model.gmm").predict(frame), labels)
        with pytest.warns(UserWarning, match="does not have valid feature names, but StandardSc"):
            assert np.array_equal(pipeline.predict(frame.to_numpy()), labels)


def test_labelled_data_give_labelled_predictions() -> None:
    values = rows(600).reshape(20, 30, 5)
    data = xarray.DataArray(
        values, dims=("y", "x", "band"), coords={"y": np.arange(20.0), "band": list("abcde")}
    )
    source = streamgmm.open(data.chunk({"y": 7, "x": 11}), feature_dim="band")
    pipeline = make_pipeline(StandardScaler(), PCA(3), GaussianMixture(2, random_state=0))
    pipeline.fit(source)
    labels = pipeline.predict(source)
    assert isinstance(labels, xarray.DataArray)
    assert labels.dims == ("y", "x")
    assert labels.y.equals(data.y)
    flat = pipeline.predict(streamgmm.open(values.reshape(-1, 5)))
    assert np.array_equal(labels.values.ravel(), flat)
    proba = pipeline.predict_proba(source)
    assert proba.dims == ("y", "x", "component")


class TestDask:
    def test_rows_stay_lazy(self) -> None:
        values = rows(2000)
        array = da.from_array(values, chunks=(300, 2))
        pipeline = make_pipeline(StandardScaler(), PCA(3), GaussianMixture(2, random_state=0))
        pipeline.fit(array)
        labels = pipeline.predict(array)
        assert isinstance(labels, da.Array)
        assert np.array_equal(labels.compute(), pipeline.predict(values))
        assert pipeline.score(array) == pytest.approx(pipeline.score(values), rel=1e-12)

    def test_weights_go_with_it(self) -> None:
        values = rows(2000)
        weights = np.random.default_rng(0).uniform(0.5, 2.0, len(values))
        source = StandardScaler().fit_transform(da.from_array(values, chunks=(300, 5)))
        weighted = streamgmm.open(source, sample_weight=weights)
        found = GaussianMixture(1, algorithm="em").fit(weighted)
        scaled = StandardScaler().fit_transform(values)
        assert found.means_[0] == pytest.approx(np.average(scaled, 0, weights), abs=1e-12)

    def test_rows_that_lack_some_values_are_refused(self) -> None:
        values = rows(2000)
        pca = PCA(2).fit(values)
        values[5, 1] = np.nan
        source = streamgmm.open(da.from_array(values, chunks=(300, 5)), missing="em")
        with pytest.raises(DataError, match="lack some of their values"):
            GaussianMixture(1).fit(pca.transform(source))

    def test_a_source_that_waits_can_be_sent(self, tmp_path: Path) -> None:
        source = CountingSource(rows())
        transformed = PCA(2).fit_transform(StandardScaler().fit_transform(source))
        received = pickle.loads(pickle.dumps(transformed))
        assert np.array_equal(received.read(2).rows, transformed.read(2).rows)
        assert received.feature_names == ["pca0", "pca1"]
        assert received.digest == transformed.digest
        assert source.n_read == source.n_rows + 250

    def test_the_same_on_its_scheduler(self, tmp_path: Path) -> None:
        path = stored(tmp_path, np.tile(rows(), (40, 1)), 1000)
        fitted = []
        for executor in ("threads", "dask"):
            pipeline = make_pipeline(
                StandardScaler(executor=executor),
                PCA(3, executor=executor),
                GaussianMixture(2, random_state=0, executor=executor, max_iter=2),
            )
            with dask.config.set(scheduler="threads"), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                fitted.append(pipeline.fit(path)[-1].means_)
        assert np.array_equal(*fitted)


def test_a_fit_is_not_resumed_with_another_scaler(tmp_path: Path) -> None:
    values = rows()
    path = stored(tmp_path, values)

    def fit(transformer: Any, resume: bool) -> None:
        source = transformer.transform(path)
        model = GaussianMixture(2, random_state=0, checkpoint=tmp_path / "checkpoint")
        model.fit(source, resume=resume)

    scaler = StandardScaler().fit(values)
    fit(scaler, False)
    fit(scaler, True)
    with pytest.raises(CheckpointError, match="maps of the rows"):
        fit(StandardScaler().fit(values[:1000]), True)


def test_predictions_are_not_resumed_with_another_scaler(tmp_path: Path) -> None:
    path = stored(tmp_path, rows())
    scaler = StandardScaler().fit(rows())
    model = GaussianMixture(2, random_state=0).fit(scaler.transform(rows()))

    class Interrupted(Exception):
        pass

    def interrupt(event: Any) -> None:
        if isinstance(event, streamgmm.events.ChunkDone):
            raise Interrupted

    model.set_params(callbacks=[interrupt])
    with pytest.raises(Interrupted):
        model.predict(scaler.transform(path), out=tmp_path / "labels.npy")
    model.set_params(callbacks=())
    other = StandardScaler().fit(rows(1000))
    with pytest.raises(OutputError, match="maps of the rows"):
        model.predict(other.transform(path), out=tmp_path / "labels.npy", resume=True)
    model.predict(scaler.transform(path), out=tmp_path / "labels.npy", resume=True)
    assert len(np.load(tmp_path / "labels.npy")) == 3000


class TestDataUnits:
    @pytest.mark.parametrize("kind", ["full", "tied", "diag", "spherical", "tied_diag"])
    def test_mean_and_covariance_of_the_mixture_are_those_of_the_rows(self, kind: Any) -> None:
        values = rows()
        pipeline = make_pipeline(
            StandardScaler(),
            PCA(),
            GaussianMixture(2, covariance_type=kind, random_state=0, reg_covar=0.0, tol=1e-9),
        ).fit(values)
        means, covariances = in_data_units(pipeline)
        assert means.shape == (2, 5)
        assert covariances.shape == (2, 5, 5)
        scores = pipeline.score_samples(values)
        weights = pipeline[-1].weights_
        assert weights @ means == pytest.approx(values.mean(axis=0), rel=1e-8)
        from scipy.stats import multivariate_normal

        densities = [
            w * multivariate_normal(m, c).pdf(values)
            for w, m, c in zip(weights, means, covariances, strict=True)
        ]
        jacobian = np.log(pipeline[0].scale_).sum()
        assert np.log(sum(densities)) == pytest.approx(scores - jacobian, rel=1e-8)

    @pytest.mark.parametrize("whiten", [False, True])
    def test_after_a_projection_the_rank_is_that_of_the_components(self, whiten: bool) -> None:
        values = rows()
        pipeline = make_pipeline(
            StandardScaler(), PCA(2, whiten=whiten), GaussianMixture(2, random_state=0)
        ).fit(values)
        means, covariances = in_data_units(pipeline)
        assert [np.linalg.matrix_rank(c) for c in covariances] == [2, 2]
        back = pipeline[:-1].transform(means)
        assert back == pytest.approx(pipeline[-1].means_, rel=1e-9, abs=1e-9)
        # A draw of the mixture, mapped back, has this covariance.
        r = pipeline[1].components_ / pipeline[0].scale_
        if whiten:
            r = r / np.sqrt(pipeline[1].explained_variance_)[:, np.newaxis]
        assert r @ covariances[0] @ r.T == pytest.approx(pipeline[-1].covariances_[0], rel=1e-9)

    def test_what_has_no_units_is_refused(self) -> None:
        values = rows(300)
        normalized = make_pipeline(Normalizer(), GaussianMixture(1)).fit(values)
        with pytest.raises(ParameterError, match=r"Normalizer.*has no inverse"):
            in_data_units(normalized)
        with pytest.raises(ParameterError, match="no mixture"):
            in_data_units(make_pipeline(StandardScaler(), PCA()).fit(values))
        with pytest.raises(ParameterError, match="give a sklearn"):
            in_data_units(GaussianMixture(1).fit(values))
        with pytest.raises(NotFittedError):
            in_data_units(make_pipeline(StandardScaler(), GaussianMixture(1)))


def test_not_fitted() -> None:
    for transformer in (StandardScaler(), PCA()):
        with pytest.raises(NotFittedError):
            transformer.transform(rows(10))
        assert not hasattr(transformer, "mean_")


class TestTransformedSource(SourceConformance):
    @pytest.fixture(params=["scaled", "projected", "weighted", "grid"])
    def case(self, request: pytest.FixtureRequest, tmp_path: Path) -> SourceCase:
        values = rows(600)
        pipeline = make_pipeline(StandardScaler(), PCA(2)).fit(values)
        if request.param == "scaled":
            scaler = pipeline[0]
            return SourceCase(scaler.transform(stored(tmp_path, values)), scaler.transform(values))
        source: Any = stored(tmp_path, values)
        weights = None
        if request.param == "weighted":
            weights = np.linspace(0.0, 2.0, len(values))
            source = streamgmm.open(source, sample_weight=weights)
        if request.param == "grid":
            data = xarray.DataArray(values.reshape(20, 30, 5), dims=("y", "x", "band"))
            source = streamgmm.open(data.chunk({"y": 7, "x": 11}), feature_dim="band")
        expected = np.asarray(pipeline.transform(streamgmm.open(values)))
        return SourceCase(pipeline.transform(source), expected, weights)
