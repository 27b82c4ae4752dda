"""What every source promises; a test module for each kind of data subclasses it."""

import pickle
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from streamgmm import GaussianMixture, OnlineGaussianMixture, update
from streamgmm import open as open_data
from streamgmm.errors import DataError
from streamgmm.protocols import Chunk, GridSource, Source, regions_of, sample_dims, sample_shape


@dataclass(frozen=True)
class Case:
    """A source and what it must give."""

    source: Source
    rows: NDArray[Any]
    weights: NDArray[np.float64] | None = None

    def places(self) -> list[NDArray[np.int64]]:
        """Positions of the rows of each chunk, by the boxes that the source declares."""
        grid = np.arange(len(self.rows)).reshape(sample_shape(self.source))
        region_of = regions_of(self.source)
        return [grid[region_of(i)].ravel() for i in range(len(self.source.boundaries) - 1)]


def table(n: int, d: int, dtype: Any = np.float64, seed: int = 0) -> NDArray[Any]:
    """Values that a type holds exactly, no two rows alike in most types."""
    dtype = np.dtype(dtype)
    rng = np.random.default_rng(seed)
    if dtype.kind == "f":
        return rng.normal(size=(n, d)).astype(dtype)
    if dtype.kind == "b":
        return rng.integers(0, 2, (n, d)).astype(dtype)
    bounds = np.iinfo(dtype)
    native = dtype.newbyteorder("=")
    values = rng.integers(bounds.min, bounds.max, (n, d), dtype=native.type, endpoint=True)
    return values.astype(dtype)


class SourceConformance(ABC):
    """Subclasses make a source; parametrize ``case`` for many of them."""

    @pytest.fixture
    @abstractmethod
    def case(self, request: pytest.FixtureRequest, tmp_path: Path) -> Case:
        """The source under test."""

    @staticmethod
    def chunks(source: Source) -> list[Chunk]:
        return [source.read(i) for i in range(len(source.boundaries) - 1)]

    def test_it_says_what_it_is(self, case: Case) -> None:
        source = case.source
        assert isinstance(source.name, str)
        assert source.name
        assert (source.n_rows, source.n_features) == case.rows.shape
        assert all(type(size) is int for size in (source.n_rows, source.n_features))
        assert isinstance(source.dtype, np.dtype)
        assert source.dtype == case.rows.dtype
        assert source.location is None or isinstance(source.location, Path)
        assert source.location is None or source.location.exists()
        assert source.has_weights == any(c.weights is not None for c in self.chunks(source))
        assert type(source.read_bytes) is int
        assert source.read_bytes >= 0

    def test_boundaries_cover_all_rows(self, case: Case) -> None:
        boundaries = list(case.source.boundaries)
        assert boundaries[0] == 0
        assert boundaries[-1] == case.source.n_rows
        assert all(type(boundary) is int for boundary in boundaries)
        assert np.all(np.diff(boundaries) >= 0)

    def test_boxes_make_up_the_grid(self, case: Case) -> None:
        source, places = case.source, case.places()
        assert [len(part) for part in places] == np.diff(source.boundaries).tolist()
        assert np.array_equal(np.sort(np.concatenate(places)), np.arange(source.n_rows))
        assert len(sample_dims(source)) == len(sample_shape(source))
        if not isinstance(source, GridSource):
            assert sample_shape(source) == (source.n_rows,)

    def test_chunks_are_the_rows_bit_for_bit(self, case: Case) -> None:
        for chunk, places in zip(self.chunks(case.source), case.places(), strict=True):
            assert isinstance(chunk.rows, np.ndarray)
            assert chunk.rows.shape == (len(places), case.source.n_features)
            assert chunk.rows.dtype == case.rows.dtype
            assert isinstance(chunk.index, range) or chunk.index.dtype == np.int64
            np.testing.assert_array_equal(np.asarray(chunk.index), places)
            assert chunk.rows.tobytes() == case.rows[places].tobytes()

    def test_weights_are_those_of_the_rows(self, case: Case) -> None:
        chunks = self.chunks(case.source)
        if case.weights is None:
            assert all(chunk.weights is None for chunk in chunks)
            return
        for chunk in chunks:
            assert isinstance(chunk.weights, np.ndarray)
            assert chunk.weights.shape == (len(chunk.rows),)
            assert chunk.weights.dtype == np.float64
        joined = np.concatenate([np.asarray(chunk.weights) for chunk in chunks])
        np.testing.assert_array_equal(joined, case.weights[np.concatenate(case.places())])

    def test_it_can_be_read_again_in_any_order(self, case: Case) -> None:
        boundaries = case.source.boundaries
        order = np.random.default_rng(1).permutation(np.repeat(np.arange(len(boundaries) - 1), 2))
        places = case.places()
        for i in order.tolist():
            rows = case.source.read(i).rows
            np.testing.assert_array_equal(rows, case.rows[places[i]])

    def test_threads_may_read_at_once(self, case: Case) -> None:
        boundaries = case.source.boundaries
        order = np.random.default_rng(2).permutation(np.repeat(np.arange(len(boundaries) - 1), 3))
        with ThreadPoolExecutor(4) as threads:
            chunks = list(threads.map(case.source.read, order.tolist()))
        places = case.places()
        for i, chunk in zip(order, chunks, strict=True):
            np.testing.assert_array_equal(chunk.rows, case.rows[places[i]])

    def test_it_travels(self, case: Case) -> None:
        copy = pickle.loads(pickle.dumps(case.source))
        assert list(copy.boundaries) == list(case.source.boundaries)
        assert (copy.n_rows, copy.n_features, copy.dtype) == (
            case.source.n_rows,
            case.source.n_features,
            case.source.dtype,
        )
        order = np.concatenate(case.places())
        joined = np.concatenate([chunk.rows for chunk in self.chunks(copy)])
        np.testing.assert_array_equal(joined, case.rows[order])
        if case.weights is not None:
            weights = np.concatenate([chunk.weights for chunk in self.chunks(copy)])
            np.testing.assert_array_equal(weights, case.weights[order])

    def test_read_bytes_cover_what_is_copied(self, case: Case) -> None:
        for i, chunk in enumerate(self.chunks(case.source)):
            again = case.source.read(i)
            copied = 0
            for one, other in ((chunk.rows, again.rows), (chunk.weights, again.weights)):
                # What is in memory anyway comes as the same memory twice.
                if one is not None and not np.shares_memory(one, other):
                    copied += one.nbytes
            assert case.source.read_bytes >= copied


@dataclass(frozen=True)
class MarkedCase:
    """Data of which the container says that some values are missing.

    Attributes
    ----------
    data : object
        What ``open`` takes, with ``options``.
    rows : ndarray of shape (N, D)
        What there is, with NaN for missing values.
    said : str
        How messages say that values are missing, as a pattern.
    """

    data: Any
    rows: NDArray[np.float64]
    said: str
    options: dict[str, Any] = field(default_factory=dict)

    def open(self, **settings: Any) -> Source:
        return open_data(self.data, **self.options, **settings)

    @property
    def is_complete(self) -> NDArray[np.bool_]:
        return ~np.isnan(self.rows).any(axis=1)


class MissingValuesConformance(ABC):
    """Missing values are refused, or are NaN where they are allowed; subclasses make a case."""

    @pytest.fixture
    @abstractmethod
    def case(self, request: pytest.FixtureRequest, tmp_path: Path) -> MarkedCase:
        """The data under test."""

    @staticmethod
    def model(case: MarkedCase) -> GaussianMixture:
        return GaussianMixture(2, random_state=0).fit(case.rows[case.is_complete])

    def test_each_method_refuses_them(self, case: MarkedCase, tmp_path: Path) -> None:
        model, said = self.model(case), rf"(missing value\(s\) \(|X has ){case.said}"
        path = tmp_path / "model.gmm"
        OnlineGaussianMixture(2, random_state=0).fit(case.rows[case.is_complete]).save(path)
        calls: list[Callable[[Any], Any]] = [
            GaussianMixture(2).fit,
            lambda data: np.asarray(model.predict(data)),
            lambda data: np.asarray(model.predict_proba(data)),
            lambda data: np.asarray(model.score_samples(data)),
            model.score,
            OnlineGaussianMixture(2).partial_fit,
            lambda data: update(path, data, batch_id="a"),
        ]
        for call in calls:
            with pytest.raises(DataError, match=said):
                call(case.open())

    def test_chunks_hold_nan_where_missing_values_are_allowed(self, case: MarkedCase) -> None:
        for missing in ("drop", "em"):
            source = case.open(missing=missing)
            assert source.dtype.kind == "f"
            for i in range(len(source.boundaries) - 1):
                chunk = source.read(i)
                assert type(chunk.rows) is np.ndarray
                assert chunk.rows.dtype == source.dtype
                np.testing.assert_array_equal(chunk.rows, case.rows[chunk.index])
            copy = pickle.loads(pickle.dumps(source))
            np.testing.assert_array_equal(copy.read(0).rows, source.read(0).rows)

    def test_a_mean_leaves_them_out(self, case: MarkedCase) -> None:
        mean = case.rows[case.is_complete].mean(axis=0)
        fitted = GaussianMixture(1).fit(case.open(missing="drop"))
        np.testing.assert_allclose(fitted.means_[0], mean, rtol=1e-6)
        online = OnlineGaussianMixture(1).partial_fit(case.open(missing="drop"))
        np.testing.assert_allclose(online.means_[0], mean, rtol=1e-6)

    def test_their_rows_are_used_as_those_with_nan_are(self, case: MarkedCase) -> None:
        own = GaussianMixture(1).fit(case.open(missing="em"))
        other = GaussianMixture(1).fit(open_data(case.rows, missing="em"))
        np.testing.assert_allclose(own.means_, other.means_, rtol=1e-6)
        np.testing.assert_allclose(own.covariances_, other.covariances_, rtol=1e-5)

    def test_predictions_and_scores_leave_them_out(self, case: MarkedCase) -> None:
        model, kept = self.model(case), case.is_complete
        labels = np.asarray(model.predict(case.open(missing="drop"))).ravel()
        np.testing.assert_array_equal(labels[kept], model.predict(case.rows[kept]))
        assert (labels[~kept] == -1).all()
        score = model.score(case.open(missing="drop"))
        np.testing.assert_allclose(score, model.score(case.rows[kept]), rtol=1e-6)

    def test_weights_change_nothing_of_it(self, case: MarkedCase) -> None:
        weights = np.linspace(1.0, 2.0, len(case.rows))
        kept = case.is_complete
        mean = np.average(case.rows[kept], axis=0, weights=weights[kept])
        fitted = GaussianMixture(1).fit(case.open(missing="drop", sample_weight=weights))
        np.testing.assert_allclose(fitted.means_[0], mean, rtol=1e-6)
        described = open_data(case.open(sample_weight=weights, missing="em"), missing="drop")
        np.testing.assert_allclose(GaussianMixture(1).fit(described).means_[0], mean, rtol=1e-6)
