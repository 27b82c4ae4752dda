"""The components of a mixture over its data."""

from typing import Any

from matplotlib.axes import Axes

from streamgmm.errors import ParameterError
from streamgmm.plotting.colours import Palette
from streamgmm.plotting.components import (
    Components,
    component_handles,
    draw_densities,
    draw_ellipses,
    draw_numbers,
    list_components,
    sum_handle,
)
from streamgmm.plotting.density import draw_contours, draw_histogram, draw_rows
from streamgmm.plotting.figures import given_or_new, write_note
from streamgmm.plotting.rows import checked_data, some_rows
from streamgmm.plotting.views import Features, View, check_fitted


def plot_mixture(
    model: Any,
    data: Any = None,
    features: Features = None,
    ax: Axes | None = None,
    *,
    contours: bool = False,
) -> Axes:
    """Draw the components as ellipses of one and two standard deviations, over the data.

    By default the axes show the features if there are one or two, and otherwise the two
    combinations of features that separate the components best: the directions with the largest
    part of the variance between the means, or, where the means do not differ, along which the
    covariances differ most. The labels of the axes give the largest coefficients, of features in
    units of their standard deviation.

    With ``features`` the ellipses are those of the marginal distribution over two features. Of a
    single feature the weighted densities of the components and their sum are drawn over a
    histogram.

    Components are listed by their weight, with the label that ``predict`` gives. Of more than 20
    components the eight largest have colours and numbers. Noise is the box of dotted lines, or a
    dotted line of its own, where the axes show features; contours are those of the components.

    Parameters
    ----------
    model : GaussianMixture or OnlineGaussianMixture
        Fitted.
    data : array-like, path or Source of shape (n_samples, n_features), default=None
        Anything that :func:`streamgmm.open` takes. Of large data a few chunks are read.
    features : sequence of one or two int or str, int, or str, default=None
        Columns to show, by number or by name.
    ax : matplotlib.axes.Axes, default=None
        Where to draw; by default a new figure.
    contours : bool, default=False
        Whether to draw, instead of the ellipses, the smallest regions in which the mixture expects
        50, 80 and 95 % of the rows.

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
    Fisher (1936), The use of multiple measurements in taxonomic problems.
    Scrucca (2010), Dimension reduction for model-based clustering.
    Hyndman (1996), Computing and graphing highest density regions.

    Examples
    --------
    >>> import numpy as np
    >>> from streamgmm import GaussianMixture
    >>> from streamgmm.plotting import plot_mixture
    >>> X = np.random.default_rng(0).normal(size=(500, 3))
    >>> ax = plot_mixture(GaussianMixture().fit(X), X, features=(0, 2))
    >>> ax.get_ylabel()
    'feature 2'
    """
    check_fitted(model)
    view = View.of(model, features)
    if contours and len(view.labels) == 1:
        raise ParameterError("contours are lines in a plane; give two features")
    rows, note = None, ""
    if data is not None:
        rows, note = some_rows(checked_data(model, data), view.columns).complete()
    ax = given_or_new(ax, 6.0)
    components = Components.of(model, view, Palette.of(ax))
    points = None if rows is None else view.rows(rows.values)
    lower, upper = components.limits(points)
    ax.set_xlim(lower[0], upper[0])
    ax.set_xlabel(view.labels[0])
    write_note(ax, view.note, note)
    handles = component_handles(components)
    if len(view.labels) == 1:
        ax.set_ylabel("density")
        if rows is not None:
            draw_histogram(ax, view.rows(rows.values)[:, 0], rows.weights, components.palette)
        draw_densities(ax, components)
        list_components(ax, [*handles, sum_handle(components)])
        return ax
    ax.set_ylim(lower[1], upper[1])
    ax.set_ylabel(view.labels[1])
    if rows is not None:
        draw_rows(ax, view.rows(rows.values), rows.weights, components.palette)
    if contours:
        draw_contours(ax, components)
    else:
        draw_ellipses(ax, components)
    draw_numbers(ax, components)
    list_components(ax, handles)
    return ax
