"""Several files are one table, whatever their kind."""

import pickle
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xarray
import zarr
from click.testing import CliRunner

import streamgmm
from streamgmm import GaussianMixture
from streamgmm.cli import commands
from streamgmm.errors import DataError, OutputError, ParameterError
from streamgmm.testing.sources import SourceCase, SourceConformance, table

ROWS = table(1000, 3)
# Shards of unequal length; one has no rows.
CUTS = (0, 300, 300, 310, 1000)

Write = Callable[[Path, Any], None]


def npy(path: Path, rows: Any) -> None:
    np.save(path.with_suffix(".npy"), rows)


def hdf5(path: Path, rows: Any) -> None:
    with h5py.File(path.with_suffix(".h5"), "w") as file:
        file.create_dataset("x", data=rows)


def zarr_store(path: Path, rows: Any) -> None:
    zarr.create_array(path.with_suffix(".zarr"), data=rows)


def parquet(path: Path, rows: Any) -> None:
    pq.write_table(pa.table(dict(zip("abc", rows.T, strict=False))), path.with_suffix(".parquet"))


WRITERS: dict[str, Write] = {"npy": npy, "h5": hdf5, "zarr": zarr_store, "parquet": parquet}


def shards(folder: Path, write: Write) -> Path:
    folder.mkdir()
    for i, (start, stop) in enumerate(pairwise(CUTS)):
        write(folder / f"part-{i}", ROWS[start:stop])
    (folder / "README.txt").write_text("what these files are")
    return folder


class TestShards(SourceConformance):
    @pytest.fixture(params=WRITERS)
    def case(self, request: pytest.FixtureRequest, tmp_path: Path) -> SourceCase:
        folder = shards(tmp_path / "shards", WRITERS[request.param])
        return SourceCase(streamgmm.open(folder), ROWS)


@pytest.mark.parametrize("kind", WRITERS)
def test_folders_patterns_and_lists_are_one_table(kind: str, tmp_path: Path) -> None:
    folder = shards(tmp_path / "shards", WRITERS[kind])
    files = sorted(folder.glob("part-*"))
    expected = GaussianMixture(random_state=0).fit(ROWS).means_
    for data in (folder, str(folder / f"*.{kind}"), files, tuple(map(str, files))):
        source = streamgmm.open(data)
        assert source.n_rows == len(ROWS)
        np.testing.assert_allclose(GaussianMixture(random_state=0).fit(data).means_, expected)
    backwards = streamgmm.open(files[::-1])
    np.testing.assert_array_equal(backwards.read(0).rows[0], ROWS[310])


@pytest.mark.parametrize("kind", WRITERS)
def test_shards_that_do_not_go_together_are_named(kind: str, tmp_path: Path) -> None:
    for name, rows in {"width": ROWS[:, :2], "dtype": ROWS.astype("f4")}.items():
        folder = shards(tmp_path / name, WRITERS[kind])
        WRITERS[kind](folder / "part-9", rows)
        if (kind, name) == ("parquet", "dtype"):
            continue  # As before, files of Parquet have their common type.
        with pytest.raises(DataError, match="part-9"):
            streamgmm.open(folder)


def test_no_rows_and_no_files(tmp_path: Path) -> None:
    npy(tmp_path / "a", ROWS[:0])
    with pytest.raises(DataError, match=r"0 sample\(s\)"):
        streamgmm.open([tmp_path / "a.npy"])
    with pytest.raises(DataError, match="matches the pattern"):
        streamgmm.open(tmp_path / "*.h5")
    with pytest.raises(DataError, match="no such file"):
        streamgmm.open([tmp_path / "a.npy", tmp_path / "b.npy"])


def test_files_of_several_kinds_are_refused(tmp_path: Path) -> None:
    npy(tmp_path / "a", ROWS)
    hdf5(tmp_path / "b", ROWS)
    for data in (tmp_path, [tmp_path / "a.npy", tmp_path / "b.h5"]):
        with pytest.raises(DataError, match=r"a\.npy \(a \.npy file\).*b\.h5 \(an HDF5 file\)"):
            streamgmm.open(data)


def test_predictions_are_those_of_the_rows_and_replace_no_shard(tmp_path: Path) -> None:
    folder = shards(tmp_path / "shards", npy)
    files = sorted(folder.glob("*.npy"))
    model = GaussianMixture(2, random_state=0).fit(ROWS)
    with pytest.raises(ParameterError, match="give out="):
        model.predict(files)
    model.predict(files, out=tmp_path / "labels.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "labels.npy"), model.predict(ROWS))
    with pytest.raises(OutputError, match="overlaps"):
        model.predict(files, out=files[2])
    weighted = streamgmm.open(files, sample_weight=np.ones(len(ROWS)))
    with pytest.raises(OutputError, match="overlaps"):
        model.predict(weighted, out=files[2])


def test_files_of_hdf5_are_closed_between_reads(tmp_path: Path) -> None:
    folder = shards(tmp_path / "shards", hdf5)
    source = streamgmm.open(folder)
    source.read(0)
    assert h5py.h5f.get_obj_count(h5py.h5f.OBJ_ALL, h5py.h5f.OBJ_FILE) == 0
    assert pickle.loads(pickle.dumps(source)).read(0).rows.shape == (300, 3)


def test_missing_values_hold_for_all_shards(tmp_path: Path) -> None:
    for i, value in enumerate((-9999.0, 1.0)):
        with h5py.File(tmp_path / f"{i}.h5", "w") as file:
            dataset = file.create_dataset("x", data=[[value, 2.0], [3.0, 4.0]])
            dataset.attrs["_FillValue"] = -9999.0
    with pytest.raises(DataError, match=r"0\.h5"):
        streamgmm.open(tmp_path).read(0)
    rows = streamgmm.open(tmp_path, missing="drop").read(0).rows
    np.testing.assert_array_equal(rows, [[np.nan, 2.0], [3.0, 4.0]])


def field(n: int, start: int = 0) -> xarray.Dataset:
    values = np.random.default_rng(start).normal(size=(2, n, 4))
    dims = ("time", "lat")
    coords = {"time": np.arange(start, start + n), "lat": [0.0, 10.0, 20.0, 30.0]}
    return xarray.Dataset({"t": (dims, values[0]), "q": (dims, values[1])}, coords)


@pytest.mark.parametrize("engine", ["h5netcdf", "scipy"])
def test_netcdf_files_follow_each_other_along_their_first_dimension(
    engine: Any, tmp_path: Path
) -> None:
    parts = [field(5), field(0, 5), field(7, 5)]
    for i, part in enumerate(parts):
        part.to_netcdf(tmp_path / f"{i}.nc", engine=engine)
    whole = xarray.concat(parts, dim="time")
    source = streamgmm.open(tmp_path / "*.nc", variables=["t", "q"])
    model = GaussianMixture(2, random_state=0).fit(source)
    expected = GaussianMixture(2, random_state=0).fit(whole)
    np.testing.assert_allclose(model.means_, expected.means_)
    xarray.testing.assert_identical(model.predict(source), expected.predict(whole))
    field(3, 12).rename(q="p").to_netcdf(tmp_path / "3.nc", engine=engine)
    with pytest.raises(DataError, match=r"3\.nc.*no variable 'q'"):
        streamgmm.open(tmp_path, variables=["t", "q"])
    field(3, 12).astype("f4").to_netcdf(tmp_path / "3.nc", engine=engine)
    with pytest.raises(DataError, match=r"3\.nc has dtype float32.*0\.nc has float64"):
        streamgmm.open(tmp_path, variables=["t", "q"])
    other = field(3, 12).assign_coords(lat=[5.0, 15.0, 25.0, 35.0])
    other.to_netcdf(tmp_path / "3.nc", engine=engine)
    with pytest.raises(DataError, match="cannot be joined along time"):
        streamgmm.open(tmp_path, variables=["t", "q"])
    field(3, 12).isel(lat=[0, 1]).to_netcdf(tmp_path / "3.nc", engine=engine)
    with pytest.raises(DataError, match=r"3\.nc has other dimensions of the sizes \(2,\)"):
        streamgmm.open(tmp_path, variables=["t", "q"])


def test_classic_netcdf(tmp_path: Path) -> None:
    data = field(6)
    data["one"] = "time", np.arange(6.0)
    path = tmp_path / "x.nc"
    data.to_netcdf(path, engine="scipy")
    assert path.read_bytes()[:3] == b"CDF"
    source = streamgmm.open(path, variables=["t", "q"])
    expected = np.column_stack([data.t.values.ravel(), data.q.values.ravel()])
    np.testing.assert_array_equal(source.read(0).rows, expected)
    np.testing.assert_array_equal(
        pickle.loads(pickle.dumps(source)).read(0).rows, source.read(0).rows
    )
    for one in (streamgmm.open(path, path="t"), streamgmm.open(f"{path}::/t")):
        np.testing.assert_array_equal(one.read(0).rows, data.t.values)
    with pytest.raises(DataError, match=r"holds 2 two-dimensional.*x\.nc::/t"):
        streamgmm.open(path)
    with pytest.raises(DataError, match="no variable 'p'; it has: t, q, one"):
        streamgmm.open(path, path="p")
    data[["t", "one"]].to_netcdf(tmp_path / "y.nc", engine="scipy")
    assert streamgmm.open(tmp_path / "y.nc").n_features == 4
    never = data.t.values.copy()
    never[0, 0] = 9.969209968386869e36
    xarray.Dataset({"t": (("a", "b"), never)}).to_netcdf(
        tmp_path / "z.nc", engine="scipy", encoding={"t": {"_FillValue": None}}
    )
    with pytest.raises(DataError, match="missing"):
        streamgmm.open(tmp_path / "z.nc").read(0)
    (tmp_path / "x.nc").write_bytes(path.read_bytes()[:20])
    with pytest.raises(DataError, match="cannot be opened as a netCDF file"):
        streamgmm.open(path, variables=["t"])


@pytest.mark.parametrize("kind", ["npy", "h5", "parquet"])
def test_content_says_what_a_file_is(kind: str, tmp_path: Path) -> None:
    WRITERS[kind](tmp_path / "x", ROWS)
    file = tmp_path / f"x.{kind}"
    for name in ("table", "table.dat", "table.h5ad", "table.csv", "table.npy"):
        other = file.with_name(name)
        other.write_bytes(file.read_bytes())
        np.testing.assert_array_equal(streamgmm.open(other).read(0).rows, ROWS)
        other.unlink()
    folder = tmp_path / "folder"
    folder.mkdir()
    for i in range(2):
        (folder / f"part-{i}").write_bytes(file.read_bytes())
    (folder / "notes").write_text("x")
    assert streamgmm.open(folder / "part-*").n_rows == 2 * len(ROWS)
    if kind != "parquet":
        assert streamgmm.open(folder).n_rows == 2 * len(ROWS)
    (folder / "notes").unlink()
    form = {"h5": "hdf5"}.get(kind, kind)
    assert streamgmm.open(folder, format=form).n_rows == 2 * len(ROWS)
    assert streamgmm.open(folder / "part-0", format=form).n_rows == len(ROWS)


def test_a_matrix_of_matlab_has_the_rows_that_it_has_there(tmp_path: Path) -> None:
    path = tmp_path / "x.mat"
    with h5py.File(path, "w", userblock_size=512) as file:
        file.create_dataset("X", data=ROWS.T, chunks=(3, 100)).attrs["MATLAB_class"] = b"double"
    with path.open("r+b") as stream:
        stream.write(b"MATLAB 7.3 MAT-file".ljust(512))
    source = streamgmm.open(path)
    np.testing.assert_array_equal(source.read(0).rows, ROWS)
    assert source.n_rows == len(ROWS)
    assert streamgmm.open(path, path="X", format="hdf5").n_features == 3


def test_a_format_that_does_not_hold(tmp_path: Path) -> None:
    npy(tmp_path / "x", ROWS)
    with pytest.raises(DataError, match="Parquet"):
        streamgmm.open(tmp_path / "x.npy", format="parquet")
    with pytest.raises(ParameterError, match="format is 'csv'; choose one of npy, zarr"):
        streamgmm.open(tmp_path / "x.npy", format="csv")  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="format has no meaning for an array"):
        streamgmm.open(ROWS, format="npy")


def test_lists_beside_an_identifier_are_to_be_chosen(tmp_path: Path) -> None:
    lists = pa.FixedSizeListArray.from_arrays(pa.array(ROWS.ravel()), 3)
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"id": np.arange(len(ROWS)), "embedding": lists}), path)
    with pytest.raises(DataError, match=r"\(id\), which may be.*columns=\['embedding'\]"):
        streamgmm.open(path)
    np.testing.assert_array_equal(streamgmm.open(path, columns=["embedding"]).read(0).rows, ROWS)
    assert streamgmm.open(path, columns=["id", "embedding"]).n_features == 4


def test_the_command_line_takes_folders_patterns_and_formats(tmp_path: Path) -> None:
    folder = shards(tmp_path / "shards", npy)
    model = str(tmp_path / "m.gmm")

    def run(*words: str) -> Any:
        return CliRunner().invoke(commands.main, [*words], catch_exceptions=False)

    for data in (str(folder), str(folder / "*.npy")):
        assert run("fit", data, "-k", "1", "-o", model, "-q").exit_code == 0
    (folder / "part-0.npy").rename(tmp_path / "rows.bin")
    words = ["score", model, str(tmp_path / "rows.bin"), "--format", "npy"]
    assert run(*words).exit_code == 0


def test_update_learns_a_list_of_files_one_by_one(tmp_path: Path) -> None:
    folder = shards(tmp_path / "shards", npy)
    files = [path for path in sorted(folder.glob("*.npy")) if len(np.load(path))]
    for _ in range(2):
        model = streamgmm.update(tmp_path / "m.gmm", files, n_components=1)
        assert model.n_samples_seen_ == len(ROWS)
    with pytest.raises(ParameterError, match="stands for several files"):
        streamgmm.update(tmp_path / "m.gmm", files, sample_weight=np.ones(1000))
