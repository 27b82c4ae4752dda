"""Where figures belong: to pyplot in notebooks and where it is imported, else to the caller."""

import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

FITTED = """
import numpy as np
from streamgmm import GaussianMixture
from streamgmm.core.fitted_model import FittedModel
from streamgmm.core.parameters import Parameters
from streamgmm.plotting import plot_mixture, plot_pairs, save_picture
rows = np.random.default_rng(0).normal(size=(200, 2))
parameters = Parameters.create("spherical", [0.5, 0.5], [[-1.0, 0.0], [1.0, 0.0]], [1.0, 1.0])
model = GaussianMixture.from_fitted_model(FittedModel(parameters))
"""


def _run(code: str, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", *options, "-c", FITTED + code]
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )


def test_programs_that_do_not_use_pyplot_are_left_alone(tmp_path):
    code = """
import sys
pictures = [plot_mixture(model, rows) for _ in range(25)]
save_picture(pictures[-1], "a.png")
save_picture(plot_pairs(model, rows), "b.svg")
assert "matplotlib.pyplot" not in sys.modules
"""
    ended = _run(code, tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"a.png", "b.svg"}


def test_where_pyplot_is_imported_it_shows_the_figures(tmp_path):
    code = """
import matplotlib
matplotlib.use("agg")
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
axes = plot_mixture(model, rows), plot_mixture(model), plot_pairs(model)[0, 0]
assert plt.get_fignums() == [1, 2, 3]
assert [plt.figure(i) for i in (1, 2, 3)] == [ax.get_figure() for ax in axes]
_, given = plt.subplots()
plot_mixture(model, ax=given)
plot_mixture(model, ax=Figure().add_subplot())
plot_pairs(model, figure=Figure())
assert plt.get_fignums() == [1, 2, 3, 4]
"""
    ended = _run(code, tmp_path)
    assert ended.returncode == 0, ended.stderr


def test_at_the_prompt_pyplot_shows_the_figures(tmp_path):
    code = """
import sys
sys.ps1 = ">>> "
plot_mixture(model, rows)
from matplotlib import pyplot as plt
assert plt.get_fignums() == [1]
"""
    ended = _run(code, tmp_path)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_notebook_shows_figures_below_the_cell():
    """Each figure once: of the first call, as the last expression, and with ``plt.show()``."""
    cells = [
        FITTED,
        "plot_mixture(model, rows)",
        "axes = plot_pairs(model, rows)",
        "import matplotlib.pyplot as plt\nplot_mixture(model, features=0)\nplt.show()",
        "plt.get_fignums()",
    ]
    notebook = nbformat.v4.new_notebook(cells=list(map(nbformat.v4.new_code_cell, cells)))
    NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    pictures = [
        sum("image/png" in output.get("data", {}) for output in cell.outputs)
        for cell in notebook.cells
    ]
    assert pictures == [0, 1, 1, 1, 0]
    assert notebook.cells[-1].outputs[0]["data"]["text/plain"] == "[]"
