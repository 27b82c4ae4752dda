"""
From monthly files to a map of water masses
===========================================

Files of ocean profiles, with land and profiles that end at the bottom, become a map of regimes: BIC
curve, scaling, missing values by depth, and PCA for comparison.

Run it in an empty folder: ``python ocean_profiles.py``. It needs ``streamgmm[plot,xarray]`` and
writes ``criteria.png``, ``profiles.png`` and ``map.png``.
"""

import numpy as np
import xarray
from matplotlib.figure import Figure
from sklearn.pipeline import make_pipeline

import streamgmm
from streamgmm import GaussianMixture, GaussianMixtureSearch
from streamgmm.plotting import plot_criteria
from streamgmm.preprocessing import PCA, StandardScaler, in_data_units

# %%
# The data are made up, but have the form of an archive: one file for each month, with temperature
# and salinity by depth. Land has no values, and where the sea is shallow a profile ends early.
# Three water masses meet at fronts: warm, temperate and polar.

random = np.random.default_rng(0)
depth = np.array([5.0, 50.0, 150.0, 400.0, 1000.0])
lat, lon = np.linspace(-75.0, 75.0, 16), np.arange(0.0, 360.0, 10.0)
shape = depth.size, lat.size, lon.size
front = 4.0 * np.sin(np.radians(3.0 * lon))
mass = np.digitize(np.abs(lat[:, np.newaxis] + front), [25.0, 52.0])
surface = np.array([26.0, 14.0, 1.0])[mass]
salty = np.array([36.2, 35.0, 33.8])[mass]
warmth = np.exp(-depth / 300.0)[:, np.newaxis, np.newaxis]
slopes = 1500.0 * np.sin(np.radians(2.0 * lon)) * np.cos(np.radians(lat))[:, np.newaxis]
bottom = 900.0 - slopes
for month in range(1, 7):
    season = 2.0 * np.cos(2.0 * np.pi * month / 12.0) * np.sign(lat)[:, np.newaxis] * warmth
    eddies = random.normal(size=(2, 1, *shape[1:]))
    noise = random.normal(size=(2, *shape))
    fields = {
        "temperature": 3.0 + (surface - 3.0) * warmth - season + eddies[0] + 0.4 * noise[0],
        "salinity": 34.7 + (salty - 34.7) * warmth + 0.2 * eddies[1] + 0.1 * noise[1],
    }
    below = depth[:, np.newaxis, np.newaxis] > bottom
    xarray.Dataset(
        {
            name: (("time", "depth", "lat", "lon"), np.where(below, np.nan, field)[np.newaxis])
            for name, field in fields.items()
        },
        {"time": [month], "depth": ("depth", depth, {"units": "m"}), "lat": lat, "lon": lon},
    ).to_netcdf(f"ocean-{month:02}.nc", engine="h5netcdf")

# %%
# All files are one table. Each level of each variable is a feature, each profile a row, and a
# profile counts by the area that it stands for. With ``missing="em"`` profiles that end at the
# bottom count with the levels that they have; those without any, over land, are skipped. Other
# variables could be features along further dimensions: ``feature_dim`` takes several.

source = streamgmm.open(
    "ocean-??.nc",
    variables=["temperature", "salinity"],
    feature_dim="depth",
    missing="em",
    sample_weight=streamgmm.cos_latitude("lat"),
)
rows = np.concatenate([source.read(i).rows for i in range(len(source.boundaries) - 1)])
is_land, is_whole = np.isnan(rows).all(axis=1), ~np.isnan(rows).any(axis=1)
print(f"{source.n_rows:,} profiles of {source.n_features} features; {is_land.mean():.0%} over land")
print(f"{1.0 - is_whole.sum() / (~is_land).sum():.0%} of the others end at the bottom")

# %%
# Degrees and salinities are scaled first, as they are read. The search compares mixtures of one to
# five components in the same passes; the minimum of the BIC says how many the profiles support.
# Incomplete profiles have their cost: a pass with ``missing="em"`` takes as long as 1.6 to 2.2
# passes over complete profiles where one in twenty to one in seven ends early, and as long as 3.6
# where almost half of them do, as here.

scaler = StandardScaler()
scaled = scaler.fit_transform(source)
search = GaussianMixtureSearch(range(1, 6), random_state=0).fit(scaled)
model = search.best_estimator_
print(f"{model.n_components} components, after {search.n_reads_:.1f} passes")

figure = Figure(figsize=(6.0, 4.0), layout="constrained")
plot_criteria(search, ax=figure.subplots())
figure.savefig("criteria.png", dpi=100)

# %%
# The means of the components in the units of the data are the profiles of the water masses.

pipeline = make_pipeline(scaler, model)
means = in_data_units(pipeline).means.reshape(model.n_components, 2, depth.size)
order = np.argsort(-means[:, 0, 0])
figure = Figure(figsize=(8.0, 4.5), layout="constrained")
titles = ("temperature, °C", "salinity, g/kg")
for variable, (axes, title) in enumerate(zip(figure.subplots(1, 2), titles, strict=True)):
    for k in order:
        axes.plot(means[k, variable], depth, marker="o", label=f"component {k}")
    axes.set(xlabel=title, ylabel="depth, m", yscale="log")
    axes.invert_yaxis()
    axes.legend()
figure.savefig("profiles.png", dpi=100)
for k in order:
    print(f"component {k}: {model.weights_[k]:.0%} of the area, {means[k, 0, 0]:.1f} °C at 5 m")

# %%
# The labels are written with the coordinates of the files, and xarray opens them. For comparison,
# principal components need whole profiles, so that a projection skips all shallow seas. Labels are
# numbers without an order; on the maps, the colours follow the temperature at 5 m.

model.predict(scaled, out="regimes.zarr")
labels = xarray.open_zarr("regimes.zarr")["component"].load()

whole = streamgmm.open(
    "ocean-??.nc", variables=["temperature", "salinity"], feature_dim="depth", missing="drop"
)
projected = make_pipeline(
    StandardScaler(), PCA(0.95), GaussianMixture(model.n_components, random_state=0)
).fit(whole)
deep = projected.predict(whole)
deep = deep.where(deep >= 0)
deep_means = in_data_units(projected).means[:, 0]
print(f"PCA keeps {projected[1].n_components_} of {source.n_features} columns")
print(
    f"labelled profiles: {labels.notnull().mean():.0%} by 'em', {deep.notnull().mean():.0%} by PCA"
)

figure = Figure(figsize=(8.0, 7.0), layout="constrained")
for axes, found, temperatures, title in zip(
    figure.subplots(2, 1),
    (labels, deep),
    (means[:, 0, 0], deep_means),
    ("missing='em': all profiles", "PCA of the whole profiles"),
    strict=True,
):
    january = found.isel(time=0)
    warmth_of = temperatures[january.fillna(0).astype(int)]
    january.copy(data=np.where(january.notnull(), warmth_of, np.nan)).plot(
        ax=axes, cmap="viridis", vmin=0.0, vmax=26.0, cbar_kwargs={"label": "°C at 5 m"}
    )
    axes.set_facecolor("lightgray")
    axes.set_title(f"{title}, in January; gray is skipped")
figure.savefig("map.png", dpi=100)

# %%
# Scaling and mixture are one file, which knows the variables, their levels and ``missing``. The
# next month needs none of it again.

streamgmm.save(pipeline, "water-masses.gmm")
path = streamgmm.load("water-masses.gmm").predict("ocean-01.nc", out="january.zarr")
found = xarray.open_zarr(path)["component"]
print(f"{path} has the dimensions", *found.dims)
