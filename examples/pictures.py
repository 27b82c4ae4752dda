"""
Pictures of a mixture
=====================

Draw a fitted mixture: the directions that separate its components, pairs of features, rows between
components, how well it describes the data, and how it was found.

Run it in an empty folder: ``python pictures.py``. It needs ``streamgmm[plot]`` and pandas, and
writes one file for each picture. In a notebook the call alone shows the picture.
"""

import numpy as np
from sklearn.datasets import load_iris

from streamgmm import GaussianMixture
from streamgmm.plotting import (
    plot_convergence,
    plot_fit,
    plot_mixture,
    plot_pairs,
    plot_uncertainty,
    save_picture,
)

# %%
# The data are 150 iris flowers of three species, with four measured lengths. Columns of a data
# frame have names, which the pictures use.

flowers = load_iris(as_frame=True).data.rename(columns=lambda name: name.removesuffix(" (cm)"))
model = GaussianMixture(3, random_state=0).fit(flowers)
print(model.summary())

# %%
# With more than two features the picture shows the two directions that separate the components
# best. The axes name the largest coefficients, of features in units of their standard deviation.
# The list has the largest component first, with the label that ``predict`` gives.

save_picture(plot_mixture(model, flowers), "directions.png")

# %%
# Features are chosen by name or number. Contours hold the smallest regions in which the mixture
# expects 50, 80 and 95 % of the rows: they say where rows are, the ellipses where components are.

features = ("petal length", "petal width")
save_picture(plot_mixture(model, flowers, features), "features.png")
save_picture(plot_mixture(model, flowers, features, contours=True), "features_contours.png")

# %%
# All pairs of features, with the density of each feature on the diagonal.

save_picture(plot_pairs(model, flowers), "pairs.png")

# %%
# Rows between components are uncertain: no component has a responsibility close to 1.

save_picture(plot_uncertainty(model, flowers), "uncertainty.png")
uncertain = 1.0 - model.predict_proba(flowers).max(axis=1)
print(f"{np.sum(uncertain > 0.1)} of {len(flowers)} flowers are uncertain by more than 0.1")

# %%
# Does the mixture describe the data? Left, the distances of rows to their component are on the
# diagonal if the components are Gaussian. Right, single features with the mixture's densities.

save_picture(plot_fit(model, flowers), "fit.png")

# %%
# Rows with heavy tails are no Gaussians, and the curve leaves the band.

tails = np.random.default_rng(0).standard_t(4, size=(10_000, 2))
save_picture(plot_fit(GaussianMixture().fit(tails), tails), "tails.png")

# %%
# How the fit found its mixture: the work on the sample in memory, and then the passes over all
# rows.

rows = np.random.default_rng(0).normal(size=(100_000, 2))
rows += np.random.default_rng(1).normal(scale=3.0, size=(12, 2))[np.arange(100_000) % 12]
save_picture(plot_convergence(GaussianMixture(12, random_state=0).fit(rows)), "convergence.png")
