"""Inventories of the projects that the documentation links to, so that the site builds offline.

``python docs/inventories.py`` downloads the whole inventories into ``docs/inventories``;
``python docs/inventories.py --offline`` writes small ones with the names below.
"""

import sys
import urllib.request
import zlib
from pathlib import Path

FOLDER = Path(__file__).parent / "inventories"

# The address of each project's documentation, and pages of some of its names. A role follows a
# name that is no class; "$" stands for the name.
PROJECTS = {
    "dask": ("https://docs.dask.org/en/stable/", {"dask.array.Array": "generated/$.html#$"}),
    "distributed": (
        "https://distributed.dask.org/en/stable/",
        {"distributed.Client": "api.html#$", "distributed.LocalCluster": "api.html#$"},
    ),
    "matplotlib": (
        "https://matplotlib.org/stable/",
        {
            "matplotlib.axes.Axes": "api/_as_gen/$.html#$",
            "matplotlib.figure.Figure": "api/_as_gen/$.html#$",
        },
    ),
    "numpy": (
        "https://numpy.org/doc/stable/",
        {
            "numpy.memmap": "reference/generated/$.html#$",
            "numpy.ndarray": "reference/generated/$.html#$",
            "numpy.random.RandomState": "reference/random/legacy.html#$",
        },
    ),
    "pandas": (
        "https://pandas.pydata.org/docs/",
        {
            "pandas.DataFrame": "reference/api/$.html#$",
            "pandas.Series": "reference/api/$.html#$",
        },
    ),
    "python": (
        "https://docs.python.org/3/",
        {
            "logging.Logger": "library/logging.html#$",
            "pathlib.Path": "library/pathlib.html#$",
            "typing.cast function": "library/typing.html#$",
            "ValueError exception": "library/exceptions.html#$",
        },
    ),
    "scipy": (
        "https://docs.scipy.org/doc/scipy/",
        {"scipy.sparse.csr_array": "reference/generated/$.html#$"},
    ),
    "sklearn": (
        "https://scikit-learn.org/stable/",
        {
            "sklearn.cluster.KMeans": "modules/generated/$.html#$",
            "sklearn.decomposition.PCA": "modules/generated/$.html#$",
            "sklearn.mixture.GaussianMixture": "modules/generated/$.html#$",
            "sklearn.preprocessing.Normalizer": "modules/generated/$.html#$",
            "sklearn.preprocessing.StandardScaler": "modules/generated/$.html#$",
        },
    ),
    "xarray": (
        "https://docs.xarray.dev/en/stable/",
        {
            "xarray.DataArray": "generated/$.html#$",
            "xarray.Dataset": "generated/$.html#$",
        },
    ),
    "zarr": (
        "https://zarr.readthedocs.io/en/stable/",
        {"zarr.Array": "api/zarr/array/#$", "zarr.Group": "api/zarr/group/#$"},
    ),
}

#: For ``intersphinx_mapping``.
MAPPING = {name: (url, f"inventories/{name}.inv") for name, (url, _) in PROJECTS.items()}


def small_inventory(project: str, pages: dict[str, str]) -> bytes:
    """Return an inventory of some names, in the format of Sphinx (version 2)."""
    head = f"# Sphinx inventory version 2\n# Project: {project}\n# Version: \n"
    head += "# The remainder of this file is compressed using zlib.\n"
    lines = []
    for entry, page in sorted(pages.items()):
        name, _, role = entry.partition(" ")
        location = page.replace("$", name, 1) if page.count("$") > 1 else page
        lines.append(f"{name} py:{role or 'class'} 1 {location} -\n")
    return head.encode() + zlib.compress("".join(lines).encode(), 9)


def downloaded(url: str) -> bytes:
    """Return the inventory of a project's documentation."""
    with urllib.request.urlopen(f"{url}objects.inv", timeout=30) as response:
        content: bytes = response.read()
    return content


def main(is_offline: bool) -> None:
    """Write an inventory for each project."""
    FOLDER.mkdir(exist_ok=True)
    for project, (url, pages) in PROJECTS.items():
        content = small_inventory(project, pages) if is_offline else downloaded(url)
        (FOLDER / f"{project}.inv").write_bytes(content)


if __name__ == "__main__":
    main("--offline" in sys.argv[1:])
