"""
How many components
===================

Choose the number of components by the Bayesian information criterion (BIC), and look at the
result.

Run it in an empty folder: ``python number_of_components.py``. It needs ``streamgmm[plot]`` and
writes ``components.png``.
"""

import numpy as np
from matplotlib.figure import Figure

from streamgmm import GaussianMixture
from streamgmm.plotting import plot_mixture

# %%
# The data are 20,000 rows of four components, which overlap.

random = np.random.default_rng(0)
centres = np.array([[-3.0, 0.0], [0.0, 3.0], [0.5, -2.0], [4.0, 1.0]])
rows = centres[random.integers(4, size=20_000)] + random.normal(size=(20_000, 2))

# %%
# A model with more components has a higher likelihood. The BIC adds a penalty for each parameter,
# so that its minimum says how many components the data support.

models = [GaussianMixture(k, random_state=0).fit(rows) for k in range(1, 8)]
criteria = [model.bic(rows) for model in models]
for model, criterion in zip(models, criteria, strict=True):
    print(f"{model.n_components} components: BIC {criterion:,.0f}")
best = models[int(np.argmin(criteria))]
print(f"best: {best.n_components} components")

# %%
# Left, the criterion; right, the best model over the rows.

figure = Figure(figsize=(12.0, 4.8), layout="constrained")
left, right = figure.subplots(1, 2, width_ratios=(1.0, 1.4))
left.plot(range(1, 8), criteria, marker="o")
left.set(xlabel="components", ylabel="BIC")
plot_mixture(best, rows, ax=right)
figure.savefig("components.png", dpi=100)
