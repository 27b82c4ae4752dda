"""
A density of image patches
==========================

A density of image patches: 8 × 8 pixels of three colours, 192 numbers that depend on each other.

Run it in an empty folder: ``python image_patches.py``. It needs ``streamgmm[plot]``. It writes
``patches.png``: patches of two photographs beside patches that the fitted mixtures have drawn.

The photographs are those that scikit-learn brings. Patches of their left two thirds are fitted, and
patches of the right third are held out. Full covariances would have 75,000 parameters here.
"""

import numpy as np
from matplotlib.figure import Figure
from sklearn.datasets import load_sample_images

from streamgmm import GaussianMixture

SIDE, N_COMPONENTS, RANK = 8, 4, 12
N_FITTED, N_HELD_OUT, N_SHOWN = 16_000, 4_000, 12

random = np.random.default_rng(0)
photographs = [image.astype("float32") / 255.0 for image in load_sample_images().images]


def patches(first, last, n):
    """Return patches from a part of the width of both photographs, in random order."""
    found = []
    for image in photographs:
        width = image.shape[1]
        part = image[:, int(first * width) : int(last * width)]
        windows = np.lib.stride_tricks.sliding_window_view(part, (SIDE, SIDE), axis=(0, 1))
        lines, columns = (random.integers(size, size=n // 2) for size in windows.shape[:2])
        found.append(windows[lines, columns].transpose(0, 2, 3, 1).reshape(n // 2, -1))
    return random.permutation(np.concatenate(found))


fitted, held_out = patches(0.0, 2.0 / 3.0, N_FITTED), patches(2.0 / 3.0, 1.0, N_HELD_OUT)
models = {
    "diagonal": GaussianMixture(N_COMPONENTS, covariance_type="diag", random_state=0),
    f"low rank, {RANK}": GaussianMixture(
        N_COMPONENTS, covariance_type="low_rank", rank=RANK, tol=0.05, random_state=0
    ),
}
shown = {"photographs": held_out}
for name, model in models.items():
    model.fit(fitted)
    print(
        f"{name}: {model.n_parameters_:,} parameters, {model.n_reads_:.3g} passes, held out "
        f"{model.score(held_out):.1f} nats per patch"
    )
    shown[f"drawn, {name}"] = model.sample(N_SHOWN**2)[0]

figure = Figure(figsize=(12.0, 4.4), layout="constrained")
for axes, (title, rows) in zip(figure.subplots(1, len(shown)), shown.items(), strict=True):
    tiles = rows[: N_SHOWN**2].reshape(N_SHOWN, N_SHOWN, SIDE, SIDE, 3)
    # A line of pixels between patches.
    tiles = np.pad(tiles, ((0, 0), (0, 0), (0, 1), (0, 1), (0, 0)), constant_values=1.0)
    picture = tiles.transpose(0, 2, 1, 3, 4).reshape(N_SHOWN * (SIDE + 1), -1, 3)
    axes.imshow(np.clip(picture, 0.0, 1.0))
    axes.set_title(title)
    axes.set_axis_off()
figure.savefig("patches.png", dpi=100)
