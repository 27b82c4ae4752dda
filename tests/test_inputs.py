"""What ``open`` takes, refuses, and says about where the data are."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask.array
import numpy as np
import pytest
import zarr
from numpy.typing import NDArray
from zarr.storage import LocalStore, MemoryStore

from streamgmm import GaussianMixture
from streamgmm import open as open_data
from streamgmm.errors import DataError

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
