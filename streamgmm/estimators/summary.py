"""A fitted mixture as text."""

import html
import math
from collections.abc import Sequence

import numpy as np

from streamgmm.core.fitted_model import FittedModel
from streamgmm.quantities import printable

# Columns of a page, features that are listed, and characters of a name.
_WIDTH, _MOST_FEATURES, _LONGEST_NAME = 80, 30, 24


def describe(fitted: FittedModel) -> str:
    """Return one line: the size of the mixture, how it was fitted, and its criteria."""
    parameters = fitted.parameters
    facts = [
        f"{parameters.n_components} components ({parameters.covariance_type}) of "
        f"{parameters.n_features} features"
    ]
    if parameters.noise is not None:
        facts.append(f"noise {parameters.noise.weight:.4f}")
    if math.isfinite(fitted.log_likelihood):
        kind = "classification log-likelihood" if fitted.is_hard else "log-likelihood"
        facts.append(f"{kind} {fitted.log_likelihood:.6f} nats per row")
    if fitted.n_reads:
        outcome = "converged" if fitted.converged else "not converged"
        plural = "s" * (fitted.n_iterations != 1)
        facts.append(f"{outcome} after {fitted.n_iterations} iteration{plural}")
        facts.append(f"{round(fitted.n_reads, 2)} passes")
    if fitted.criteria is not None:
        facts.append(f"BIC {fitted.criteria.bic:.10g}")
        facts.append(f"AIC {fitted.criteria.aic:.10g}")
    return ", ".join(facts)


def with_description(page: str, fitted: FittedModel) -> str:
    """Return the HTML of an estimator, followed by the line that describes the fit."""
    return f"{page}<p>{html.escape(describe(fitted))}</p>"


def component_table(fitted: FittedModel, width: int = _WIDTH) -> str:
    """Return weights, means and standard deviations: a line for each feature.

    Components come in the order of their weights, the largest first, under their labels.

    Parameters
    ----------
    fitted : FittedModel
    width : int
        Characters in a line. Components that do not fit side by side follow in a block of their
        own; numbers are never cut.
    """
    names, columns = _cells(fitted)
    margin = max(map(len, names))
    blocks = [
        "\n".join(
            "  ".join([name.ljust(margin), *(cell.rjust(size) for cell, size in cells)]).rstrip()
            for name, cells in zip(names, lines, strict=True)
        )
        for lines in _side_by_side(columns, width - margin)
    ]
    return "\n\n".join(blocks)


def _cells(fitted: FittedModel) -> tuple[list[str], list[list[str]]]:
    """Return the names of the lines, and for each component its cells."""
    parameters = fitted.parameters
    d = parameters.n_features
    names = range(d) if fitted.feature_names is None else fitted.feature_names
    shown = min(d, _MOST_FEATURES)
    variances = parameters.structure.variances(parameters.stacked(parameters.covariances))
    deviations = np.broadcast_to(np.sqrt(variances), (parameters.n_components, d))
    labels = ["component", "weight", *(_shortened(str(name)) for name in names[:shown])]
    columns = []
    for k in np.argsort(-parameters.weights, kind="stable"):
        values = zip(parameters.means[k, :shown], deviations[k, :shown], strict=True)
        cells = [f"{m:.4g} ({s:.3g})" for m, s in values]
        columns.append([str(k), f"{parameters.weights[k]:.4f}", *cells])
    if d > shown:
        labels.append(f"({d - shown} more)")
        columns = [[*cells, ""] for cells in columns]
    return labels, columns


def _side_by_side(
    columns: Sequence[Sequence[str]], width: int
) -> list[list[list[tuple[str, int]]]]:
    """Return blocks of lines of cells with their widths; a block is no wider than a page."""
    blocks: list[list[tuple[Sequence[str], int]]] = [[]]
    free = width
    for cells in columns:
        size = max(map(len, cells))
        if blocks[-1] and size + 2 > free:
            blocks.append([])
            free = width
        blocks[-1].append((cells, size))
        free -= size + 2
    return [
        [[(cells[line], size) for cells, size in block] for line in range(len(columns[0]))]
        for block in blocks
    ]


def _shortened(name: str) -> str:
    text = printable(name)
    return text if len(text) <= _LONGEST_NAME else f"{text[: _LONGEST_NAME - 1]}…"
