"""Each message that names a remedy: the remedy helps.

A new message joins by an entry in ``REMEDIES``.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow.parquet
import pytest
import xarray
import zarr

import streamgmm
from streamgmm import GaussianMixture, OnlineGaussianMixture
from streamgmm.errors import StreamGMMError
from tests import tables

ROWS = np.random.default_rng(0).normal(size=(60, 2))


@dataclass(frozen=True)
class Remedy:
    """A request that fails in an empty folder, its message, and what the message advises.

    Attributes
    ----------
    name : str
    fail : callable
        Makes its input in the working directory, and fails.
    message : str
        A pattern that the message matches.
    follow : callable
        Does what the message says; its argument is the message.
    needs : str or None
        A package without which it is skipped.
    """

    name: str
    fail: Callable[[], object]
    message: str
    follow: Callable[[str], object]
    needs: str | None = None


def _n_rows(n_rows: int, data: Any, **options: Any) -> None:
    assert streamgmm.open(data, **options).n_rows == n_rows


def _open_as_told(data: str) -> Callable[[str], object]:
    """Open data with the arguments that a message names, written as Python."""

    def follow(message: str) -> None:
        advice = message.rpartition("as in ")[2]
        arguments = re.sub(r" and (?=\w+=)", ", ", advice.partition(";")[0])
        if "=" in arguments:
            source = eval(
                f"streamgmm.open(data, {arguments})", {}, {"streamgmm": streamgmm, "data": data}
            )
        else:
            source = streamgmm.open(arguments)
        assert source.n_rows > 0
        assert GaussianMixture(1).fit(source).n_features_in_ == source.n_features

    return follow


def _run_as_told(n_rows: int) -> Callable[[str], object]:
    """Run the Python that a message shows, which writes a folder that can be opened."""

    def follow(message: str) -> None:
        exec(message.partition("in Python: ")[2], {})
        source = streamgmm.open("current")
        assert (source.n_rows, source.feature_names) == (n_rows, ["a", "b"])

    return follow


def _open(make: Callable[[], object], data: str, **options: Any) -> Callable[[], object]:
    def fail() -> object:
        make()
        return streamgmm.open(data, **options)

    return fail


def _netcdf(
    dims: tuple[str, ...], names: str = "ab", group: str | None = None
) -> Callable[[], object]:
    def make() -> None:
        shape = tuple({"t": 8, "y": 5, "x": 3}[dim] for dim in dims)
        values = {name: (dims, np.random.default_rng(1).normal(size=shape)) for name in names}
        labels = {dim: np.arange(size) for dim, size in zip(dims, shape, strict=True)}
        xarray.Dataset(values, labels).to_netcdf("x.nc", engine="h5netcdf", group=group)

    return make


def _hdf5(path: str = "x.h5", /, **arrays: Any) -> Callable[[], object]:
    def make() -> None:
        with h5py.File(path, "w") as file:
            for name, values in arrays.items():
                file[name.replace("__", "/")] = values

    return make


def _zarr(dims: list[str] | None, **arrays: Any) -> Callable[[], object]:
    def make() -> None:
        group = zarr.create_group("x.zarr")
        for name, values in arrays.items():
            group.create_array(name.replace("__", "/"), data=values, dimension_names=dims)

    return make


def _labelled_zarr_2() -> None:
    values = dict.fromkeys("ab", ("t", ROWS[:, 0]))
    xarray.Dataset(values, {"t": np.arange(60)}).to_zarr("x.zarr", zarr_format=2)


def _parquet(**columns: Any) -> None:
    pyarrow.parquet.write_table(pyarrow.table(columns), "x.parquet")


def _two_in_open_file() -> object:
    _hdf5(a=ROWS[:, 0], b=ROWS[:, 1])()
    with h5py.File("x.h5") as file:
        return streamgmm.open(file)


def _checkpointed(**settings: Any) -> GaussianMixture:
    return GaussianMixture(random_state=0, checkpoint="c", **settings).fit(ROWS)


def _checkpointed_twice(**settings: Any) -> Callable[[], object]:
    def fail() -> object:
        _checkpointed(n_components=2)
        return GaussianMixture(
            **{"n_components": 2, "random_state": 0, **settings}, checkpoint="c"
        ).fit(ROWS, resume="n_components" in settings)

    return fail


def _begun_at_checkpoint(message: str) -> None:
    model = streamgmm.load(re.search(r"\S+model\.gmm", message)[0])
    assert isinstance(model, GaussianMixture)
    GaussianMixture(
        2,
        weights_init=model.weights_,
        means_init=model.means_,
        precisions_init=model.precisions_,
    ).fit(ROWS)


def _saved(name: str = "x.npy", rows: Any = ROWS) -> None:
    np.save(name, rows)


def _predicted_without_output() -> object:
    _saved()
    return GaussianMixture(1).fit(ROWS).predict("x.npy")


def _with_gap() -> object:
    rows = ROWS.copy()
    rows[3, 1] = np.nan
    _saved(rows=rows)
    return GaussianMixture(1).fit("x.npy")


def _last_word(message: str) -> str:
    return message.rpartition(" ")[2]


def _linked() -> object:
    Path("x.npy").symlink_to("y.npy")
    return streamgmm.open("x.npy")


REMEDIES = [
    Remedy(
        "a Delta table",
        _open(lambda: tables.write_delta(Path("t")), "t"),
        "t is a Delta table.*pip install deltalake pyarrow",
        _run_as_told(100),
    ),
    Remedy(
        "a Delta table with a deletion vector",
        _open(lambda: tables.delete_rows_of_delta(Path("t"), [3, 4, 7]), "t"),
        "t is a Delta table",
        _run_as_told(97),
    ),
    Remedy(
        "an Iceberg table",
        _open(lambda: tables.write_iceberg(Path("t").absolute()), "t"),
        r"t is an Iceberg table.*pip install 'pyiceberg\[pyarrow\]'",
        _run_as_told(100),
    ),
    Remedy(
        "a Hudi table",
        _open(lambda: tables.write_hudi(Path("t")), "t"),
        "t is a Hudi table.*pip install hudi pyarrow",
        _run_as_told(100),
        needs="hudi",
    ),
    Remedy(
        "a Lance dataset",
        _open(lambda: tables.write_lance(Path("t")), "t"),
        "t is a Lance dataset.*pip install pylance pyarrow",
        _run_as_told(100),
        needs="lance",
    ),
    Remedy(
        "netCDF, variables along one dimension",
        _open(_netcdf(("t",)), "x.nc"),
        r"as in variables=\['a', 'b'\]$",
        _open_as_told("x.nc"),
    ),
    Remedy(
        "netCDF, one of several variables",
        _open(_netcdf(("t", "y")), "x.nc"),
        r"as in .*/x\.nc::/a$",
        _open_as_told("x.nc"),
    ),
    Remedy(
        "netCDF, a variable along three dimensions",
        _open(_netcdf(("t", "y", "x"), "a"), "x.nc"),
        r"as in variables=\['a'\]$",
        _open_as_told("x.nc"),
    ),
    Remedy(
        "netCDF, variables of a group",
        _open(_netcdf(("t",), group="g"), "x.nc"),
        r"as in path='/g' and variables=\['a', 'b'\]$",
        _open_as_told("x.nc"),
    ),
    Remedy(
        "netCDF, a vector that is named",
        _open(_netcdf(("t",)), "x.nc::/a"),
        r"has shape \(8,\); .*as in variables=\['a'\]$",
        _open_as_told("x.nc"),
    ),
    Remedy(
        "netCDF, a group that is named",
        _open(_netcdf(("t", "y"), group="g"), "x.nc", path="/g"),
        r"as in .*/x\.nc::/g/a$",
        _open_as_told("x.nc"),
    ),
    Remedy(
        "HDF5, vectors without dimensions",
        _open(_hdf5(a=ROWS[:, 0], b=ROWS[:, 1], c=ROWS[:7, 0], s=b"text"), "x.h5"),
        r"as in variables=\['a', 'b'\]$",
        _open_as_told("x.h5"),
    ),
    Remedy(
        "HDF5, tables in groups",
        _open(_hdf5(g__a=ROWS, g__b=ROWS, c=ROWS[:, 0]), "x.h5"),
        r"as in .*/x\.h5::/g/a$",
        _open_as_told("x.h5"),
    ),
    Remedy(
        "HDF5, an open group of vectors",
        _two_in_open_file,
        r"as in variables=\['a', 'b'\]; close the file and open its path, x\.h5, with these$",
        _open_as_told("x.h5"),
    ),
    Remedy(
        "HDF5, nothing that can be features",
        _open(_hdf5(s=np.array([b"a", b"b"])), "x.h5"),
        r"none of them can be features; store the features as one array of numbers of shape",
        lambda message: (_hdf5("y.h5", a=ROWS)(), _n_rows(60, "y.h5")),
    ),
    Remedy(
        "Zarr, tables",
        _open(_zarr(None, a=ROWS, g__b=ROWS), "x.zarr"),
        r"as in path='a'$",
        _open_as_told("x.zarr"),
    ),
    Remedy(
        "Zarr, vectors with dimensions",
        _open(_zarr(["t"], a=ROWS[:, 0], b=ROWS[:, 1]), "x.zarr"),
        r"as in variables=\['a', 'b'\]$",
        _open_as_told("x.zarr"),
    ),
    Remedy(
        "Zarr, format 2 of xarray",
        _open(_labelled_zarr_2, "x.zarr"),
        r"as in variables=\['a', 'b'\]$",
        _open_as_told("x.zarr"),
    ),
    Remedy(
        "Zarr, vectors of a group",
        _open(_zarr(["t"], g__a=ROWS[:, 0], g__b=ROWS[:, 1]), "x.zarr"),
        r"as in path='g' and variables=\['a', 'b'\]$",
        _open_as_told("x.zarr"),
    ),
    Remedy(
        "Zarr, vectors without dimensions",
        _open(_zarr(None, a=ROWS[:, 0], b=ROWS[:, 1]), "x.zarr"),
        "none of them can be features",
        lambda message: (zarr.create_array("y.zarr", data=ROWS), _n_rows(60, "y.zarr")),
    ),
    Remedy(
        "Parquet, a column of text",
        _open(lambda: _parquet(a=ROWS[:, 0], s=["x"] * 60), "x.parquet"),
        r"naming the others: columns=\[\.\.\.\]",
        lambda message: _n_rows(60, "x.parquet", columns=["a"]),
    ),
    Remedy(
        "an option without a meaning",
        _open(_saved, "x.npy", columns=["a"]),
        r"columns has no meaning for a \.npy file; remove columns=",
        lambda message: _n_rows(60, "x.npy"),
    ),
    Remedy(
        "a path within a table",
        _open(_saved, "x.npy::/a"),
        r"x\.npy is a \.npy file, which holds one table; remove ::/a",
        lambda message: _n_rows(60, "x.npy"),
    ),
    Remedy(
        "predictions of a path",
        _predicted_without_output,
        "give out=, a .npy or .zarr path",
        lambda message: GaussianMixture(1).fit(ROWS).predict("x.npy", out="labels.npy"),
    ),
    Remedy(
        "a gap",
        _with_gap,
        r"streamgmm\.open\(\.\.\., missing='drop'\)",
        lambda message: GaussianMixture(1).fit(streamgmm.open("x.npy", missing="drop")),
    ),
    Remedy(
        "a checkpoint that is there",
        _checkpointed_twice(),
        "resume=True continues that fit",
        lambda message: GaussianMixture(2, random_state=0, checkpoint="c").fit(ROWS, resume=True),
    ),
    Remedy(
        "a checkpoint of another fit",
        _checkpointed_twice(n_components=3),
        "weights_init=, means_init= and precisions_init=",
        _begun_at_checkpoint,
    ),
    Remedy(
        "a model that is not there",
        lambda: streamgmm.update("m.gmm", ROWS),
        "give n_components= to begin one",
        lambda message: streamgmm.update("m.gmm", ROWS, n_components=2),
    ),
    Remedy(
        "a folder that is not there",
        lambda: GaussianMixture(1).fit(ROWS).save("no/m.gmm"),
        "no/m.gmm cannot be written: .*/no: no such file or directory; check the path",
        lambda message: (Path("no").mkdir(), GaussianMixture(1).fit(ROWS).save("no/m.gmm")),
    ),
    Remedy(
        "a home directory",
        lambda: streamgmm.open("~/x.npy"),
        r"~ is not replaced by a home directory here; write /\S+/x\.npy$",
        lambda message: (_saved(_last_word(message)), _n_rows(60, _last_word(message))),
    ),
    Remedy(
        "a link to nowhere",
        _linked,
        r"x\.npy: no such file or directory; it is a link to y\.npy.*restore that file",
        lambda message: (_saved("y.npy"), _n_rows(60, "x.npy")),
    ),
    Remedy(
        "a pattern without matches",
        lambda: streamgmm.open("x*.parquet"),
        r"x\*\.parquet holds no Parquet files .*; check the path",
        lambda message: (_parquet(a=ROWS[:, 0]), _n_rows(60, "x*.parquet")),
    ),
    Remedy(
        "files of several kinds",
        _open(lambda: (_saved("a.npy"), _hdf5("b.h5", x=ROWS)()), "*.*"),
        r"give a list or a pattern of files of one kind, such as 'folder/\*\.npy'",
        lambda message: (_n_rows(60, "*.npy"), _n_rows(60, ["a.npy"])),
    ),
    Remedy(
        "a folder that is no table",
        _open(lambda: Path("d").mkdir(), "d"),
        "d is neither a .npy file nor a Zarr array.*convert it to one of these",
        lambda message: (_saved("d/x.npy"), _n_rows(60, "d/x.npy")),
    ),
    Remedy(
        "no threads",
        lambda: GaussianMixture(1, n_jobs=0).fit(ROWS),
        "n_jobs is 0; give 1 or more, or remove it",
        lambda message: (GaussianMixture(1, n_jobs=1).fit(ROWS), GaussianMixture(1).fit(ROWS)),
    ),
    Remedy(
        "a model that cannot continue",
        lambda: OnlineGaussianMixture.from_batch(GaussianMixture(2).fit(ROWS), n_components=1),
        r"merged\(\[model\], n_components=\.\.\.\)",
        lambda message: OnlineGaussianMixture.merged(
            [GaussianMixture(2).fit(ROWS)], n_components=1
        ),
    ),
]


@pytest.mark.filterwarnings("ignore::streamgmm.errors.FewRowsWarning")
@pytest.mark.parametrize("remedy", REMEDIES, ids=lambda remedy: remedy.name)
def test_what_a_message_advises_helps(
    remedy: Remedy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if remedy.needs is not None:
        pytest.importorskip(remedy.needs)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(StreamGMMError, match=remedy.message) as caught:
        remedy.fail()
    assert "\n" not in str(caught.value)
    remedy.follow(str(caught.value))
