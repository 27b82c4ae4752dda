"""Requirements on every source; tests of a source subclass :class:`SourceConformance`."""

import pickle
from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from streamgmm.protocols import Chunk, GridSource, Source, regions_of, sample_dims, sample_shape


@dataclass(frozen=True)
class SourceCase:
    """A source and the rows that it must return.

    Attributes
    ----------
    source : Source
    rows : ndarray of shape (n_rows, n_features)
    weights : ndarray of shape (n_rows,), default=None
        Row weights; None if the source has none.

    Examples
    --------
    >>> import streamgmm
    >>> from streamgmm.testing import SourceCase, table
    >>> rows = table(100, 2)
    >>> SourceCase(streamgmm.open(rows), rows).rows.shape
    (100, 2)
    """

    source: Source
    rows: NDArray[Any]
    weights: NDArray[np.float64] | None = None

    def places(self) -> list[NDArray[np.int64]]:
        """Return the positions of each chunk's rows, from the boxes that the source declares.

        Returns
        -------
        list of ndarray, int64

        Examples
        --------
        >>> import numpy as np
        >>> from streamgmm.testing import ChunkedSource, SourceCase
        >>> rows = np.zeros((3, 1))
        >>> SourceCase(ChunkedSource(rows, 2), rows).places()
        [array([0, 1]), array([2])]
        """
        grid = np.arange(len(self.rows)).reshape(sample_shape(self.source))
        region_of = regions_of(self.source)
        return [grid[region_of(i)].ravel() for i in range(len(self.source.boundaries) - 1)]


def table(n: int, d: int, dtype: Any = np.float64, seed: int = 0) -> NDArray[Any]:
    """Return values that a type holds exactly; in most types all rows differ.

    Parameters
    ----------
    n, d : int
        Numbers of rows and columns.
    dtype : dtype, default=float64
        A real type.
    seed : int, default=0

    Returns
    -------
    rows : ndarray of shape (n, d)

    Examples
    --------
    >>> from streamgmm.testing import table
    >>> table(100, 2, "int16").dtype
    dtype('int16')
    """
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
    """Tests of a source; subclasses make the source, or parametrize ``case`` for several.

    Examples
    --------
    >>> import pytest
    >>> import streamgmm
    >>> from streamgmm.testing import SourceCase, SourceConformance, table
    >>> class TestArrays(SourceConformance):
    ...     @pytest.fixture
    ...     def case(self):
    ...         rows = table(100, 2)
    ...         return SourceCase(streamgmm.open(rows), rows)
    """

    @pytest.fixture
    @abstractmethod
    def case(self, request: pytest.FixtureRequest, tmp_path: Path) -> SourceCase:
        """Return the source under test."""

    @staticmethod
    def chunks(source: Source) -> list[Chunk]:
        """Return all chunks of a source.

        Parameters
        ----------
        source : Source

        Returns
        -------
        list of Chunk

        Examples
        --------
        >>> from streamgmm.testing import ChunkedSource, SourceConformance
        >>> len(SourceConformance.chunks(ChunkedSource([[1.0], [2.0], [3.0]], 2)))
        2
        """
        return [source.read(i) for i in range(len(source.boundaries) - 1)]

    def test_it_says_what_it_is(self, case: SourceCase) -> None:
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

    def test_boundaries_cover_all_rows(self, case: SourceCase) -> None:
        boundaries = list(case.source.boundaries)
        assert boundaries[0] == 0
        assert boundaries[-1] == case.source.n_rows
        assert all(type(boundary) is int for boundary in boundaries)
        assert np.all(np.diff(boundaries) >= 0)

    def test_boxes_make_up_the_grid(self, case: SourceCase) -> None:
        source, places = case.source, case.places()
        assert [len(part) for part in places] == np.diff(source.boundaries).tolist()
        assert np.array_equal(np.sort(np.concatenate(places)), np.arange(source.n_rows))
        assert len(sample_dims(source)) == len(sample_shape(source))
        if not isinstance(source, GridSource):
            assert sample_shape(source) == (source.n_rows,)

    def test_chunks_are_the_rows_bit_for_bit(self, case: SourceCase) -> None:
        for chunk, places in zip(self.chunks(case.source), case.places(), strict=True):
            assert isinstance(chunk.rows, np.ndarray)
            assert chunk.rows.shape == (len(places), case.source.n_features)
            assert chunk.rows.dtype == case.rows.dtype
            assert isinstance(chunk.index, range) or chunk.index.dtype == np.int64
            np.testing.assert_array_equal(np.asarray(chunk.index), places)
            assert chunk.rows.tobytes() == case.rows[places].tobytes()

    def test_weights_are_those_of_the_rows(self, case: SourceCase) -> None:
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

    def test_it_can_be_read_again_in_any_order(self, case: SourceCase) -> None:
        boundaries = case.source.boundaries
        order = np.random.default_rng(1).permutation(np.repeat(np.arange(len(boundaries) - 1), 2))
        places = case.places()
        for i in order.tolist():
            rows = case.source.read(i).rows
            np.testing.assert_array_equal(rows, case.rows[places[i]])

    def test_threads_may_read_at_once(self, case: SourceCase) -> None:
        boundaries = case.source.boundaries
        order = np.random.default_rng(2).permutation(np.repeat(np.arange(len(boundaries) - 1), 3))
        with ThreadPoolExecutor(4) as threads:
            chunks = list(threads.map(case.source.read, order.tolist()))
        places = case.places()
        for i, chunk in zip(order, chunks, strict=True):
            np.testing.assert_array_equal(chunk.rows, case.rows[places[i]])

    def test_it_travels(self, case: SourceCase) -> None:
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

    def test_read_bytes_cover_what_is_copied(self, case: SourceCase) -> None:
        for i, chunk in enumerate(self.chunks(case.source)):
            again = case.source.read(i)
            copied = 0
            for one, other in ((chunk.rows, again.rows), (chunk.weights, again.weights)):
                # Data that are already in memory are returned as the same memory twice.
                if one is not None and not np.shares_memory(one, other):
                    copied += one.nbytes
            assert case.source.read_bytes >= copied
