"""Labels of large labelled data are written within the memory limit, each file read once."""

import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray

from streamgmm import GaussianMixture

# A year of hourly data at 0.25 degrees has 8760 x 721 x 1440 positions; these are a hundredth.
YEAR = """
import sys
from pathlib import Path
import dask.array
import numpy as np
import pandas
import xarray
import streamgmm
from streamgmm import GaussianMixture

shape = 8760, 72, 144
times = np.arange(shape[0], dtype="f4")[:, None, None]
lat = np.linspace(-89.0, 89.0, shape[1], dtype="f4")


def field(phase):
    # Drawn from a few numbers where it is read: nothing of the year is stored anywhere.
    hours = dask.array.from_array(times, chunks=(48, 1, 1))
    noise = np.random.default_rng(0).normal(size=(1, *shape[1:])).astype("f4")

    def drawn(hour):
        season = np.sin(hour * np.float32(2.0 * np.pi / 8760) + np.float32(phase))
        return noise + season + np.where(lat > 0, np.float32(9.0), np.float32(0.0))[:, None]

    return hours.map_blocks(drawn, dtype="f4", chunks=((48,) * 182 + (24,), 72, 144))


dims = "time", "lat", "lon"
data = xarray.Dataset(
    {"t": (dims, field(0.0)), "q": (dims, field(1.0))},
    {"time": pandas.date_range("2020", periods=shape[0], freq="h"), "lat": lat},
)
model = GaussianMixture(2, random_state=0, memory_limit="600MiB", n_jobs=2)
model.fit(data.isel(time=slice(0, 8760, 730)).compute())
model.predict(data.isel(time=slice(None, int(sys.argv[2]))), out=sys.argv[1])
# Not ru_maxrss, which begins with the peak of the process that started this one.
status = Path("/proc/self/status").read_text()
print(int(status.partition("VmHWM:")[2].split()[0]) // 1024)
"""


def test_a_hundredth_of_a_year_is_labelled_within_the_limit(tmp_path: Path) -> None:
    out = tmp_path / "labels.zarr"
    command = [sys.executable, "-c", YEAR, str(out)]
    # The first process may compile the kernels, which takes memory; the second one loads them.
    subprocess.run([*command, "48"], capture_output=True, check=True)
    ended = subprocess.run([*command, "8760"], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert int(ended.stdout) < 600 < 8760 * 72 * 144 * 8 >> 20
    labels = xarray.open_zarr(out, mask_and_scale=False)["component"]
    assert labels.shape == (8760, 72, 144)
    assert labels.dtype == np.int8
    # Both hemispheres are regimes of their own at all times.
    some = labels.isel(time=slice(0, None, 876)).values
    assert (some[:, :36] == some[0, 0, 0]).all()
    assert (some[:, 36:] == 1 - some[0, 0, 0]).all()


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_files_of_years_and_months_are_read_once_a_pass(tmp_path: Path) -> None:
    paths = []
    for year in (2019, 2020):
        for number in range(1, 7):
            times = xarray.date_range(f"{year}-{number:02}-01", periods=20, freq="D")
            random = np.random.default_rng(year + number)
            values = random.normal(size=(20, 12, 10)) + 6.0 * (np.arange(12) > 5)[:, np.newaxis]
            dims = "time", "lat", "lon"
            month = xarray.Dataset({"t": (dims, values), "q": (dims, 2.0 * values + 1.0)})
            (tmp_path / str(year)).mkdir(exist_ok=True)
            paths.append(tmp_path / str(year) / f"{number:02}.nc")
            month.assign_coords(time=times).to_netcdf(paths[-1], engine="h5netcdf")
    n_read: Counter[tuple[str, str]] = Counter()

    def counted(month: xarray.Dataset) -> xarray.Dataset:
        path = Path(month.encoding["source"])

        def count(block: Any, name: str) -> Any:
            n_read[f"{path.parent.name}/{path.name}", name] += 1
            return block

        for name in ("t", "q"):
            meta = np.empty((0, 0, 0))
            month[name] = month[name].copy(
                data=month[name].data.map_blocks(count, name, dtype="f8", meta=meta)
            )
        return month

    with xarray.open_mfdataset(
        sorted(paths), engine="h5netcdf", preprocess=counted, combine="nested", concat_dim="time"
    ) as data:
        start = [[0.0, 1.0], [6.0, 13.0]]
        model = GaussianMixture(
            2, algorithm="em", means_init=start, max_iter=3, tol=0.0, covariance_type="diag"
        )
        n_read.clear()
        model.fit(data)
        assert len(n_read) == 24
        assert {*n_read.values()} == {model.n_reads_}
        n_read.clear()
        model.predict(data, out=tmp_path / "labels.zarr")
        assert {*n_read.values()} == {1}
        found = xarray.open_zarr(tmp_path / "labels.zarr")["component"]
        xarray.testing.assert_equal(found.load(), model.predict(data).compute())
        xarray.testing.assert_equal(found["time"], data["time"])
