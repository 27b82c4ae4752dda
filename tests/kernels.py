"""Kernels that tests call, compiled once before workers that would each compile them.

``python -m tests.kernels float64`` compiles those for rows of one type.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np

from streamgmm.core.e_step import EStep
from streamgmm.core.frame import Frame
from streamgmm.core.incomplete import IncompleteExpectation
from streamgmm.core.kernels.compilation import _content_key, cache_folder
from tests.core.cases import random_parameters

ROOT = Path(__file__).parents[1]
ROW_TYPES = ("float64", "float32")


def compile_missing() -> None:
    """Fill the cache folder, with one process for each type of rows that it holds nothing for."""
    folder = cache_folder()
    if folder is None:
        return
    processes = [
        subprocess.Popen([sys.executable, "-m", "tests.kernels", row_type], cwd=ROOT)
        for row_type in ROW_TYPES
        if not (folder / f"{_content_key()}-{row_type}").exists()
    ]
    for process in processes:
        if process.wait():
            raise subprocess.CalledProcessError(process.returncode, process.args)


def compile_kernels(row_type: str) -> None:
    """Call each kernel with rows of one type."""
    parameters = random_parameters(np.random.default_rng(0), "full", 2, 2)
    frame = Frame.of(parameters)
    rows = np.zeros((1, 2), row_type)
    single = EStep.prepare(parameters, frame, "float32")
    assert single.sums_single
    for expectation in (
        EStep.prepare(parameters, frame),
        EStep.prepare(parameters, frame, is_hard=True),
        single,
    ):
        expectation.statistics(rows)
    # Rows with gaps are float64, whatever they were.
    if row_type == "float64":
        rows[0, 0] = np.nan
        incomplete = IncompleteExpectation.prepare(parameters, frame)
        incomplete.statistics(rows)
        incomplete.posterior(rows)


if __name__ == "__main__":
    compile_kernels(sys.argv[1])
