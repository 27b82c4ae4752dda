"""
From a Zarr array to labels
===========================

Fit a Zarr array in a bounded amount of memory, label it, and continue from the saved model.

Run it in an empty folder: ``python fit_zarr.py``. It writes ``measurements.zarr`` (60 MB before
compression), ``model.gmm`` and ``labels.zarr``.
"""

import numpy as np
import zarr

import streamgmm
from streamgmm import GaussianMixture

# %%
# Write two million rows of four features around three centres, one chunk at a time.

random = np.random.default_rng(0)
centres = np.array([[-4.0, 0.0, 0.0, 1.0], [0.0, 4.0, 0.0, -1.0], [4.0, 0.0, 4.0, 0.0]])
array = zarr.create_array(
    "measurements.zarr", shape=(2_000_000, 4), chunks=(65_536, 4), dtype="f8", overwrite=True
)
for start in range(0, array.shape[0], 65_536):
    n = min(65_536, array.shape[0] - start)
    rows = centres[random.integers(3, size=n)] + random.normal(size=(n, 4))
    array[start : start + n] = rows.round(3)

# %%
# Fit them within a memory limit. The history has one entry for each pass over the data.

model = GaussianMixture(3, memory_limit="2GiB", random_state=0).fit("measurements.zarr")
print("means, each row a component:")
print(model.means_[np.argsort(model.means_[:, 0])].round(2))
for read in model.history_:
    print(f"read {read['number']}: {read['purpose']}, {read['n_rows']} rows")
model.save("model.gmm")

# %%
# Later, load the model and write the component of each row to a Zarr array.

later = streamgmm.load("model.gmm")
labels = zarr.open_array(later.predict("measurements.zarr", out="labels.zarr"), mode="r")
print("rows of each component:", np.bincount(labels[:], minlength=3))
