"""The E-step that rows need: of few rows, of many, or of rows with gaps."""

from streamgmm.core.e_step import EStep
from streamgmm.core.few_rows_e_step import FewRowsEStep, are_few_for
from streamgmm.core.frame import Frame
from streamgmm.core.incomplete import IncompleteExpectation
from streamgmm.core.parameters import Parameters
from streamgmm.core.structures import Array
from streamgmm.options import Arithmetic, Missing

#: A mixture prepared for rows.
Expectation = EStep | FewRowsEStep | IncompleteExpectation


def prepare(
    parameters: Parameters,
    frame: Frame,
    missing: Missing,
    arithmetic: Arithmetic = "auto",
    log_offsets: Array | None = None,
    is_hard: bool = False,
    n_rows: int | None = None,
) -> Expectation:
    """Return a mixture prepared for rows, with a treatment of rows that hold NaN.

    Parameters
    ----------
    parameters : Parameters
    frame : Frame
    missing : {"error", "drop", "em"}
    arithmetic, log_offsets, is_hard
        As for :meth:`streamgmm.core.e_step.EStep.prepare`.
    n_rows : int, optional
        All rows that will be evaluated; many if not given.
    """
    if missing == "em":
        return IncompleteExpectation.prepare(parameters, frame, arithmetic, log_offsets, is_hard)
    is_plain = parameters.noise is None and log_offsets is None and not is_hard
    if n_rows is not None and is_plain and arithmetic != "float32":
        shape = n_rows, parameters.n_features
        if are_few_for(parameters.structure, shape, parameters.n_components):
            return FewRowsEStep(parameters, frame, arithmetic)
    return EStep.prepare(parameters, frame, arithmetic, log_offsets, is_hard)
