"""
Regimes of a climate store on object storage
============================================

Ocean and air regimes of a climate store on object storage, with land masked and area weights.

Run it in an empty folder: ``python climate_store.py``. It needs ``streamgmm[plot,xarray]``, s3fs
and moto[server]: an S3-compatible server on this machine stands in for the object store. It writes
``regimes.png``.

The store is made up, but has the form of a real one: three float32 variables over (time, lat, lon)
in a Zarr group, with NaN over land. It is read chunk by chunk; each variable is a feature, each
position that holds data a row.
"""

import logging

import fsspec
import numpy as np
import s3fs
import xarray
from matplotlib.figure import Figure
from moto.server import ThreadedMotoServer

import streamgmm
from streamgmm import GaussianMixture

logging.getLogger("werkzeug").setLevel(logging.ERROR)
server = ThreadedMotoServer(port=0, verbose=False)
server.start()
host, port = server.get_host_and_port()
options = {"key": "none", "secret": "none", "endpoint_url": f"http://{host}:{port}"}
s3fs.S3FileSystem(**options).mkdir("climate")

# Forty steps of a field of 90 x 180 positions: temperature falls towards the poles, humidity
# follows it, and wind is strong in a belt on each side of the equator that moves with the season.
random = np.random.default_rng(0)
n_times, lat, lon = 40, np.linspace(-89.0, 89.0, 90), np.arange(1.0, 361.0, 2.0)
season = np.sin(2.0 * np.pi * np.arange(n_times) / n_times)[:, np.newaxis, np.newaxis]
shape = (n_times, lat.size, lon.size)
latitude = np.broadcast_to(lat[np.newaxis, :, np.newaxis], shape)
warmth = np.cos(np.radians(latitude - 10.0 * season))
is_polar = warmth < 0.45
belt = np.abs(np.abs(latitude - 5.0 * season) - 45.0) < 12.0
noise = random.normal(size=(3, *shape))
fields = {
    "temperature": np.where(is_polar, -12.0, 10.0 + 18.0 * warmth) + 2.0 * noise[0],
    "humidity": np.where(is_polar, 1.0, 14.0 * warmth**2) + 0.8 * noise[1],
    "wind": np.where(belt, 14.0, 3.0) + 2.0 * noise[2],
}
waves = np.sin(np.radians(2.0 * lon)) * 25.0 + 15.0 * np.cos(np.radians(lon))
is_land = np.abs(lat[:, np.newaxis] - waves) < 14.0
dataset = xarray.Dataset(
    {
        name: (("time", "lat", "lon"), np.where(is_land, np.nan, field).astype("float32"))
        for name, field in fields.items()
    },
    coords={"lat": lat, "lon": lon},
)
chunks = {name: {"chunks": (10, 90, 90)} for name in fields}
dataset.to_zarr(
    "s3://climate/store.zarr", storage_options=options, encoding=chunks, consolidated=False
)

# From here on as with any store: say what the features are, and that land is skipped. A position
# counts by the area that it stands for.
area = xarray.DataArray(np.cos(np.radians(lat)), coords={"lat": lat})
described = {"variables": list(fields), "missing": "drop", "storage_options": options}
source = streamgmm.open("s3://climate/store.zarr", sample_weight=area, **described)
model = GaussianMixture(4, random_state=0, n_init=3, tol=1e-4).fit(source)

n_missing = model.history_[-1]["n_missing"]
print(f"{round(model.n_reads_, 2)} reads; {n_missing} positions over land skipped")
print("share of the area, " + ", ".join(model.feature_names_in_))
for k in np.argsort(-model.weights_):
    print(f"{model.weights_[k]:.2f}  ", *(f"{mean:8.2f}" for mean in model.means_[k]))

# Labels are written beside the data, a group of the same store, with its coordinates. fsspec's own
# configuration holds what the store asks for.
fsspec.config.conf["s3"] = options
model.predict(source, out="s3://climate/store.zarr::/regimes")
labels = xarray.open_zarr("s3://climate/store.zarr", group="regimes", consolidated=False)
labels = labels["component"].load()
server.stop()
print("labels have the dimensions", *labels.dims)

figure = Figure(figsize=(9.0, 6.0), layout="constrained")
for axes, step in zip(figure.subplots(2, 1), (10, 30), strict=True):
    regimes = labels.isel(time=step)
    regimes.plot(ax=axes, cmap="viridis", vmin=0, vmax=3, add_colorbar=False)
    axes.set_facecolor("lightgray")
    axes.set_title(f"regimes at step {step}; land is gray")
figure.savefig("regimes.png", dpi=100)
