"""Sphinx settings: ``sphinx-build -W -n -b html docs docs/_build`` builds the site offline."""

import sys
from importlib import metadata
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from gallery import copy_examples
from inventories import MAPPING

project = "streamgmm"
author = "The streamgmm developers"
copyright = author  # noqa: A001 - Sphinx asks for this name
release = metadata.version("streamgmm")

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.doctest",
    "sphinx.ext.intersphinx",
    "sphinx_click",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build", "_templates", "inventories", "tutorials/GALLERY_HEADER.rst"]
templates_path = ["_templates"]
html_theme = "pydata_sphinx_theme"
html_theme_options = {"navigation_with_keys": False, "show_toc_level": 2}
html_copy_source = False

myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3

# Signatures name parameters; docstrings say their types.
autodoc_typehints = "none"
autosummary_generate = True
numpydoc_show_class_members = False

# Inventories are committed, so that the site builds without a network.
intersphinx_mapping = MAPPING

# Examples that need neither a server, a cluster nor a download run while the site is built.
copy_examples()
sphinx_gallery_conf = {
    "examples_dirs": "_build/examples",
    "gallery_dirs": "tutorials",
    "filename_pattern": "/(number_of_components|fit_zarr|live_stream|nightly_appends|pictures).py",
    "within_subsection_order": "FileNameSortKey",
    "image_scrapers": "gallery.take_pictures",
    "reset_modules": "gallery.remove_outputs",
    "abort_on_example_error": True,
    "download_all_examples": False,
    "show_signature": False,
    "min_reported_time": 1e9,
    "write_computation_times": False,
}
