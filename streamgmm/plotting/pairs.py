"""Marginal distributions of several features, one by one and pair by pair."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import FigureBase
from numpy.typing import NDArray

from streamgmm.core.structures import Array
from streamgmm.errors import ParameterError
from streamgmm.plotting.colours import Palette
from streamgmm.plotting.components import (
    Components,
    component_handles,
    draw_densities,
    draw_ellipses,
    sum_handle,
)
from streamgmm.plotting.density import draw_histogram, draw_rows
from streamgmm.plotting.figures import given_or_new_figure
from streamgmm.plotting.rows import SomeRows, checked_data, some_rows
from streamgmm.plotting.views import (
    Features,
    View,
    check_fitted,
    columns_of,
    most_separating,
)

# Features that are shown if none are given, and at most.
_SHOWN, _MOST = 6, 12
# A longer list of components has two columns.
_MOST_LINES = 10
# Width and height of the axes of a pair, and of the smallest figure, in inches.
_CELL, _SMALLEST = 2.1, 5.0
# Cells across a pair, and rows that are drawn.
_CELLS, _MOST_ROWS = 45, 50_000


def plot_pairs(
    model: Any,
    data: Any = None,
    features: Features = None,
    figure: FigureBase | None = None,
) -> NDArray[Any]:
    """Draw the marginal distributions of several features, one by one and pair by pair.

    On the diagonal are the weighted densities of the components and their sum, over a histogram of
    the data; below it the ellipses of one and two standard deviations, over the data.

    Parameters
    ----------
    model : GaussianMixture or OnlineGaussianMixture
        Fitted.
    data : array-like, path or Source of shape (n_samples, n_features), default=None
        Anything that :func:`streamgmm.open` takes. Of large data a few chunks are read. A row
        that lacks values is drawn wherever it has the values shown.
    features : sequence of int or str, default=None
        Up to 12 columns to show, by number or by name. By default all, or the six that separate
        the components best: with the largest part of their variance between the means.
    figure : matplotlib.figure.Figure or SubFigure, default=None
        Where to draw; by default a new figure.

    Returns
    -------
    ndarray of matplotlib.axes.Axes of shape (m, m)
        Without axes (None) above the diagonal.

    Raises
    ------
    DataError
        If the data have other columns than those fitted, or no row that can be drawn.
    ParameterError
        If the features are not columns of the model, or are too many.
    NotFittedError
        If the model is not fitted.

    Examples
    --------
    >>> import numpy as np
    >>> from streamgmm import GaussianMixture
    >>> from streamgmm.plotting import plot_pairs
    >>> X = np.random.default_rng(0).normal(size=(500, 3))
    >>> axes = plot_pairs(GaussianMixture().fit(X), X)
    >>> axes.shape
    (3, 3)
    """
    check_fitted(model)
    view, note = _view(model, features)
    rows = None
    if data is not None:
        rows = some_rows(checked_data(model, data), view.columns, _MOST_ROWS).observed()
    m = len(view.labels)
    size = max(_CELL * m, _SMALLEST)
    figure = given_or_new_figure(figure, size + (1.5 if m == 1 else 0.0), size)
    axes = np.full((m, m), None, dtype=object)
    grid = figure.add_gridspec(m, m)
    for i in range(m):
        for j in range(i + 1):
            axes[i, j] = figure.add_subplot(grid[i, j])
    components = Components.of(model, view, Palette.of(axes[0, 0]))
    limits = np.column_stack(components.limits(None if rows is None else rows.values))
    for i in range(m):
        for j in range(i + 1):
            _draw_pair(axes[i, j], components, rows, (j, i), limits)
            _label(axes[i, j], view, i, j)
    handles = [*component_handles(components), sum_handle(components)]
    is_long = len(handles) > _MOST_LINES
    figure.legend(
        handles=handles,
        title="component: weight",
        frameon=False,
        fontsize="x-small" if is_long else "small",
        ncols=2 if is_long else 1,
        loc="upper right" if m > 1 else "outside right upper",
    )
    if note:
        figure.suptitle(note, fontsize="small", x=0.01, ha="left")
    return axes


def _view(model: Any, features: Features) -> tuple[View, str]:
    """Return the features to show as a view, and how they were chosen."""
    d = model.means_.shape[1]
    note = ""
    if features is None and d > _SHOWN:
        chosen = most_separating(model.fitted_model_.parameters, _SHOWN)
        note = f"{_SHOWN} of {d} features: those that separate the components best"
    else:
        chosen = [*range(d)] if features is None else columns_of(model, features)
    if len(chosen) > _MOST:
        raise ParameterError(
            f"features name {len(chosen)} columns, and a picture shows {_MOST} at most; choose "
            "among them"
        )
    return View.of(model, chosen, most=_MOST), note


def _draw_pair(
    ax: Axes,
    components: Components,
    rows: SomeRows | None,
    pair: tuple[int, int],
    limits: Array,
) -> None:
    """Draw the distribution of one feature, or of two different ones."""
    x, y = pair
    ax.set_xlim(*limits[x])
    values, weights = None, None
    if rows is not None:
        present = np.isfinite(rows.values[:, [x, y]]).all(axis=1)
        values, weights = rows.values[present], rows.weights[present]
    if x == y:
        if values is not None and weights is not None and len(values):
            draw_histogram(ax, values[:, x], weights, components.palette)
        draw_densities(ax, components.along(x))
        return
    ax.set_ylim(*limits[y])
    if values is not None and weights is not None and len(values):
        draw_rows(ax, values[:, [x, y]], weights, components.palette, _CELLS)
    draw_ellipses(ax, components.along(x, y))


def _label(ax: Axes, view: View, i: int, j: int) -> None:
    """Name the features at the outer axes, and hide the numbers at the others."""
    last = len(view.labels) - 1
    if i == last:
        ax.set_xlabel(view.labels[j])
    if i == j:
        # The height of a density is no value of the feature.
        ax.set_yticks([])
        ax.set_ylabel(view.labels[0] if i == last == 0 else "density" if i == 0 else "")
    elif j == 0:
        ax.set_ylabel(view.labels[i])
    ax.tick_params(labelbottom=i == last, labelleft=j == 0, labelsize="small")
