"""
Tissues of a brain
==================

Tissues of a brain from a magnetic resonance image: a mixture of intensities, and volumes in ml.

Run it in an empty folder: ``python brain_tissue.py [VOLUME]``. It needs ``streamgmm[plot,xarray]``
and nibabel, and writes ``tissues.png``. VOLUME is a T1-weighted image in any format that nibabel
reads, with zero outside of the brain. By default it is the template ``ch2bet`` of Debian's package
mricron-data, which ``apt-get install mricron-data`` installs; with ``--download`` the package is
fetched (16 MB) and the template taken out of it.

The template is one man's brain, averaged over 27 scans (Holmes et al., J. Comput. Assist. Tomogr.
22, 1998). Experts have labelled the same brain on the same grid, for the BrainWeb phantom (Collins
et al., IEEE Trans. Med. Imaging 17, 1998): 903 ml of grey and 671 ml of white matter. Of the fluid,
most of which lies around the brain, the template keeps only a part.
"""

import argparse
import hashlib
import io
import sys
import tarfile
import urllib.request
from pathlib import Path

import matplotlib.style
import nibabel
import numpy as np
import xarray
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from scipy.stats import norm

import streamgmm
from streamgmm import GaussianMixture

TEMPLATE = Path("/usr/share/mricron/templates/ch2bet.nii.gz")
PACKAGE = (
    "https://deb.debian.org/debian/pool/main/m/mricron/mricron-data_1.2.20211006+dfsg-4_all.deb"
)
SHA256 = "d40aa0ed66cf89bf6cafa049ad3884703c9d975c2ee2737525b7196528df9d6f"


def downloaded() -> Path:
    """The template, taken out of Debian's package into the current folder."""
    with urllib.request.urlopen(PACKAGE, timeout=60) as response:
        package = response.read()
    if hashlib.sha256(package).hexdigest() != SHA256:
        sys.exit(f"{PACKAGE} is not what it was: its SHA-256 differs")
    # A package is an ar archive; before each member stand its name, its size and more, 60 bytes.
    start = len(b"!<arch>\n")
    while not package.startswith(b"data.tar.xz", start):
        size = int(package[start + 48 : start + 58])
        start += 60 + size + size % 2
    with tarfile.open(fileobj=io.BytesIO(package[start + 60 :]), mode="r:xz") as files:
        member = files.extractfile(f".{TEMPLATE}")
        Path(TEMPLATE.name).write_bytes(member.read())
    return Path(TEMPLATE.name)


parser = argparse.ArgumentParser(description="Volumes of the tissues of a brain")
parser.add_argument("volume", nargs="?", type=Path, default=TEMPLATE)
parser.add_argument("--download", action="store_true", help="fetch the template from Debian")
options = parser.parse_args()
path = downloaded() if options.download else options.volume
if not path.exists():
    sys.exit(
        f"{path} is not there; name another volume, install Debian's template by "
        "`apt-get install mricron-data`, or fetch it with --download"
    )

# Along x to the right, y to the front and z to the top. NaN is what does not belong to the brain.
image = nibabel.as_closest_canonical(nibabel.load(path))
intensity = image.get_fdata(dtype=np.float32)
intensity[intensity <= 0.0] = np.nan
scan = xarray.Dataset({"intensity": (("x", "y", "z"), intensity)})
voxel_ml = np.prod(image.header.get_zooms()[:3]) / 1000.0

# No tissue is one Gaussian: white matter is brighter in some places than in others, and voxels of
# thin fluid between the folds hold grey matter too. So these have two components each (as in
# Ashburner and Friston, NeuroImage 26, 2005), which follow one another by intensity.
TISSUES = {"fluid": (0, 1), "grey matter": (2,), "white matter": (3, 4)}
COLOURS = ["#4f7cc4", "#e0876f", "#f3e9d2"]
source = streamgmm.open(scan, missing="drop")
model = GaussianMixture(5, tol=1e-6, max_iter=1000, random_state=0).fit(source)
labels = model.predict(source)
by_intensity = np.argsort(model.means_[:, 0])

# Outside of the brain labels are -1, and tissues NaN.
tissues = xarray.full_like(scan["intensity"], np.nan)
for number, places in enumerate(TISSUES.values()):
    tissues = tissues.where(~labels.isin(by_intensity[list(places)]), number)

n_brain = model.history_[-1]["n_rows"]
print(f"{n_brain * voxel_ml:.0f} ml of {n_brain} voxels, in {round(model.n_reads_, 2)} reads")
for number, (tissue, places) in enumerate(TISSUES.items()):
    means = ", ".join(f"{mean:.1f}" for mean in model.means_[by_intensity[list(places)], 0])
    volume = int((tissues == number).sum()) * voxel_ml
    print(f"{tissue:12}  {volume:5.0f} ml, components at {means}")

# Three planes through the brain, each as it was scanned and as its tissues.
matplotlib.style.use("dark_background")
figure = Figure(figsize=(11.0, 9.0), layout="constrained")
upper, lower = figure.subfigures(2, 1, height_ratios=(2.3, 1.0))
brain = np.argwhere(np.isfinite(intensity))
first, last = brain.min(axis=0), brain.max(axis=0) + 1
box = {dim: slice(*ends) for dim, *ends in zip("xyz", first, last, strict=True)}
# Right through the middle from back to front there is a cleft; so a little to the left of it.
planes = {
    "axial": {"z": (first + last)[2] // 2},
    "coronal": {"y": (first + last)[1] // 2},
    "sagittal": {"x": (3 * first + 2 * last)[0] // 5},
}
widths = (last - first)[[0, 0, 1]]
for (scanned, segmented), (name, plane) in zip(
    upper.subplots(2, 3, width_ratios=widths).T, planes.items(), strict=True
):
    scanned.set_title(name)
    scanned.imshow(scan["intensity"].isel(box | plane).T, cmap="gray", origin="lower")
    segmented.imshow(
        tissues.isel(box | plane).T,
        cmap=ListedColormap(COLOURS),
        vmin=-0.5,
        vmax=2.5,
        interpolation="nearest",
        origin="lower",
    )
    scanned.set_axis_off()
    segmented.set_axis_off()

# The density of each component, as a part of the whole, over the histogram of the intensities.
axes = lower.subplots()
values = intensity[np.isfinite(intensity)]
top = int(np.ceil(values.max()))
axes.hist(values, np.linspace(-0.5, top + 0.5, min(top, 256) + 2), density=True, color="0.3")
x = np.linspace(0.0, top, 500)
total = np.zeros_like(x)
for (tissue, places), colour in zip(TISSUES.items(), COLOURS, strict=True):
    for k in by_intensity[list(places)]:
        deviation = np.sqrt(model.covariances_[k, 0, 0])
        part = model.weights_[k] * norm.pdf(x, model.means_[k, 0], deviation)
        axes.fill_between(x, part, color=colour, alpha=0.35)
        axes.plot(x, part, color=colour, label=tissue if k == by_intensity[places[0]] else None)
        total += part
axes.plot(x, total, "--", color="white", linewidth=1.0, label="mixture")
axes.set_xlabel("intensity")
axes.set_ylabel("density; voxels in gray")
axes.set_yticks([])
axes.set_xlim(0, top)
axes.legend(frameon=False, loc="upper left")
figure.savefig("tissues.png", dpi=100)
