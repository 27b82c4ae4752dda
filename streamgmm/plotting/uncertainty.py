"""Rows by how uncertain their component is."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes

from streamgmm.core.structures import Array
from streamgmm.plotting.colours import Palette
from streamgmm.plotting.components import Components, draw_ellipses, draw_numbers
from streamgmm.plotting.figures import given_or_new, write_note
from streamgmm.plotting.rows import checked_data, responsibilities, some_rows
from streamgmm.plotting.views import Features, View, check_fitted

_MOST_ROWS = 5000
# Areas of the points of certain rows, and of the most uncertain ones, in square points.
_SMALLEST, _LARGEST = 6.0, 40.0
# The scale reaches the uncertainty between two components.
_LEAST_SCALE = 0.5


def plot_uncertainty(
    model: Any, data: Any, features: Features = None, ax: Axes | None = None
) -> Axes:
    """Draw rows by how uncertain their component is: 1 minus the largest responsibility.

    Rows that belong to one component are small and grey; rows between components are large and
    dark. Beneath them are the ellipses of one and two standard deviations. The responsibilities
    are those of all features, whichever features the axes show. Of a single feature the
    uncertainty is drawn along the vertical axis.

    Parameters
    ----------
    model : GaussianMixture or OnlineGaussianMixture
        Fitted.
    data : array-like, path or Source of shape (n_samples, n_features)
        Anything that :func:`streamgmm.open` takes. Up to 5000 rows of a few chunks are drawn.
        Rows that lack values are drawn with ``missing="em"`` only.
    features : sequence of one or two int or str, int, or str, default=None
        Columns to show, by number or by name; by default as in :func:`plot_mixture`.
    ax : matplotlib.axes.Axes, default=None
        Where to draw; by default a new figure.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    DataError
        If the data have other columns than those fitted, or no row that can be drawn.
    ParameterError
        If the features are not one or two columns of the model.
    NotFittedError
        If the model is not fitted.

    References
    ----------
    Fraley & Raftery (2002), Model-based clustering, discriminant analysis, and density estimation.

    Examples
    --------
    >>> import numpy as np
    >>> from streamgmm import GaussianMixture
    >>> from streamgmm.plotting import plot_uncertainty
    >>> X = np.random.default_rng(0).normal(size=(500, 2)) + [[0, 0], [3, 0]] * 250
    >>> ax = plot_uncertainty(GaussianMixture(2, random_state=0).fit(X), X)
    >>> ax.get_xlabel()
    'feature 0'
    """
    check_fitted(model)
    view = View.of(model, features)
    source = checked_data(model, data)
    rows, note = some_rows(source, range(source.n_features), _MOST_ROWS).complete(
        view.columns if source.missing == "em" else None
    )
    found = responsibilities(model, rows, source.missing)
    # The noise has the rest.
    uncertainties = 1.0 - np.maximum(found.max(axis=1), 1.0 - found.sum(axis=1))
    ax = given_or_new(ax, 6.5)
    palette = Palette.of(ax)
    components = Components.of(model, view, palette).in_ink()
    points = view.rows(rows.values[:, view.columns])
    lower, upper = components.limits(points)
    most = max(float(uncertainties.max()), _LEAST_SCALE)
    ax.set_xlim(lower[0], upper[0])
    ax.set_xlabel(view.labels[0])
    write_note(ax, view.note, note)
    if len(view.labels) == 1:
        places = np.column_stack([points[:, 0], uncertainties])
        ax.set_ylabel("uncertainty")
        ax.set_ylim(-0.03 * most, 1.06 * most)
        numbers = np.column_stack([components.means[:, 0], np.full(len(components.means), most)])
    else:
        places, numbers = points, components.means
        ax.set_ylim(lower[1], upper[1])
        ax.set_ylabel(view.labels[1])
        draw_ellipses(ax, components)
    _draw_uncertain(ax, places, uncertainties, most, palette)
    draw_numbers(ax, components.at(numbers))
    return ax


def _draw_uncertain(
    ax: Axes, places: Array, uncertainties: Array, most: float, palette: Palette
) -> None:
    """Draw rows at some places (n, 2), the most uncertain ones above the others."""
    order = np.argsort(uncertainties, kind="stable")
    sizes = _SMALLEST + (_LARGEST - _SMALLEST) * uncertainties / most
    drawn = ax.scatter(
        places[order, 0],
        places[order, 1],
        s=sizes[order],
        c=uncertainties[order],
        cmap=palette.doubts,
        vmin=0.0,
        vmax=most,
        linewidths=0.0,
        zorder=2,
    )
    figure = ax.get_figure()
    if figure is not None:
        label = "uncertainty: 1 − largest responsibility"
        figure.colorbar(drawn, ax=ax, label=label, fraction=0.06, pad=0.02)
