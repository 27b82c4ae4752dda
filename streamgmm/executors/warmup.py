"""Compile all kernels ahead of their first use.

``python -m streamgmm.executors.warmup float64`` compiles kernels for rows of one type.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np

from streamgmm.core.e_step import EStep
from streamgmm.core.frame import Frame
from streamgmm.core.incomplete import IncompleteExpectation
from streamgmm.core.kernels.compilation import cache_folder
from streamgmm.core.kernels.em_steps import arrays_for_steps, em_steps, posterior_of_few
from streamgmm.core.kernels.lloyd import lloyd_iterations
from streamgmm.core.kernels.structs import Struct
from streamgmm.core.parameters import Parameters
from streamgmm.core.structures.low_rank import LOW_RANK_TYPE, structure_name

#: Types of rows that kernels are compiled for.
ROW_TYPES = ("float64", "float32")


def compile_all() -> Path | None:
    """Compile kernels that the cache folder lacks, in one process for each type of rows.

    Returns
    -------
    Path or None
        The folder that holds the machine code for later processes; None if no folder can be
        written, and then nothing is compiled.

    Raises
    ------
    subprocess.CalledProcessError
        If a process fails.
    """
    folder = cache_folder()
    if folder is None:
        return None
    processes = [
        subprocess.Popen([sys.executable, "-m", __name__, row_type]) for row_type in ROW_TYPES
    ]
    for process in processes:
        if process.wait():
            raise subprocess.CalledProcessError(process.returncode, process.args)
    return folder


def compile_kernels(row_type: str) -> None:
    """Call each kernel with rows of one type."""
    parameters = Parameters.create(
        "full", [0.5, 0.5], [[-1.0, 0.0], [1.0, 0.0]], np.tile(np.eye(2), (2, 1, 1))
    )
    frame = Frame.of(parameters)
    # A diagonal is low rank with no loadings.
    low_rank = Parameters.create(
        structure_name(LOW_RANK_TYPE, 0, 2), [1.0], np.zeros((1, 2)), np.ones((1, 2, 1))
    )
    rows = np.zeros((1, 2), row_type)
    for expectation in (
        EStep.prepare(parameters, frame),
        EStep.prepare(parameters, frame, is_hard=True),
        EStep.prepare(parameters, frame, "float32"),
        EStep.prepare(low_rank, Frame.of(low_rank)),
        EStep.prepare(low_rank, Frame.of(low_rank), "float64"),
    ):
        expectation.statistics(rows)
    # Rows with gaps are always converted to float64.
    if row_type == "float64":
        rows[0, 0] = np.nan
        incomplete = IncompleteExpectation.prepare(parameters, frame)
        incomplete.statistics(rows)
        incomplete.posterior(rows)
        call_kernels_for_few_rows()


def call_kernels_for_few_rows() -> None:
    """Call each kernel for few rows, which are always in float64."""
    rows, ones, factors = np.eye(2), np.ones(2), np.tile(np.eye(2), (2, 1, 1))
    mixture = 0.5 * ones, np.eye(2), factors
    form = np.zeros(2, dtype=np.bool_)
    steps = arrays_for_steps(rows, 2, has_matrices=True)
    for own, value in zip((steps.shares, steps.means, steps.covariances), mixture, strict=True):
        own[:] = value
    em_steps(ones, ones, form, 1, 0.0, 0, 0.0, np.empty(1), Struct(steps))
    labels = np.empty(2, dtype=np.int64)
    posterior_of_few(*mixture, rows, 0.0, ones.copy(), labels, np.empty((2, 2)))
    lloyd_iterations(rows, ones, np.eye(2), 1, 0.0)


if __name__ == "__main__":
    compile_kernels(sys.argv[1])
