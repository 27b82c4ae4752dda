"""Pictures that show how well a mixture describes its data."""

from typing import Any

import numpy as np
import scipy.special
import scipy.stats
from matplotlib.axes import Axes
from matplotlib.figure import FigureBase
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from streamgmm.core.structures import Array
from streamgmm.errors import ParameterError
from streamgmm.plotting.colours import N_COLOURS, Palette
from streamgmm.plotting.components import (
    Components,
    component_handles,
    draw_densities,
    noise_of,
    sum_handle,
)
from streamgmm.plotting.density import draw_histogram
from streamgmm.plotting.figures import given_or_new_figure, write_note
from streamgmm.plotting.rows import SomeRows, checked_data, responsibilities, some_rows
from streamgmm.plotting.views import Features, View, check_fitted, columns_of

_MOST_ROWS = 20_000
# Features that are shown, at most; rows by which the worst fitted ones are found.
_MOST_FEATURES, _RANKING_ROWS = 6, 2000
# Smallest share of a component in a row that counts for the component.
_LEAST_SHARE = 1e-3
# Probabilities at which quantiles are compared.
_N_QUANTILES = 201
# Rows beyond the outermost quantiles.
_OUTERMOST = 0.5
# End of the vertical axis, as a multiple of the largest expected quantile.
_MOST_BEYOND = 3.0
# Least number of rows of a component that has a separate line.
_FEWEST_ROWS = 30
# Part of the curves that are within the band at each probability.
_LEVEL = 0.95


def plot_fit(
    model: Any,
    data: Any,
    features: Features = None,
    figure: FigureBase | None = None,
) -> NDArray[Any]:
    """Draw how well the mixture describes rows: distances to components, and single features.

    Left, quantiles of the squared Mahalanobis distances of rows to their component, against those
    of the chi-square distribution with D degrees of freedom, which the mixture expects. A row
    counts for each component by its responsibility: the distances then have that distribution
    exactly if the mixture is right, also where components overlap. Curves above the diagonal show
    tails heavier than those of a Gaussian, with the component whose tails they are. The band holds
    95 % of the curves of rows drawn from the mixture, point by point.

    Right, the weighted densities of the components and their sum over histograms of single
    features. ``gap`` is the largest difference of the distribution functions of the rows and the
    mixture.

    Parameters
    ----------
    model : GaussianMixture or OnlineGaussianMixture
        Fitted.
    data : array-like, path or Source of shape (n_samples, n_features)
        Anything that :func:`streamgmm.open` takes. Up to 20,000 rows of a few chunks are used.
        Distances are those of rows without gaps.
    features : sequence of int or str, default=None
        Up to 6 columns whose densities are shown, by number or by name. By default all, or the
        six with the largest gaps.
    figure : matplotlib.figure.Figure or SubFigure, default=None
        Where to draw; by default a new figure.

    Returns
    -------
    ndarray of matplotlib.axes.Axes of shape (1 + m,)
        The axes of the distances, and those of m features.

    Raises
    ------
    DataError
        If the data have other columns than those fitted, or no row without gaps.
    ParameterError
        If the features are not columns of the model, or are too many.
    NotFittedError
        If the model is not fitted.

    References
    ----------
    Wilk & Gnanadesikan (1968), Probability plotting methods for the analysis of data.
    Mardia (1980), Tests of univariate and multivariate normality.

    Examples
    --------
    >>> import numpy as np
    >>> from streamgmm import GaussianMixture
    >>> from streamgmm.plotting import plot_fit
    >>> X = np.random.default_rng(0).normal(size=(500, 3))
    >>> axes = plot_fit(GaussianMixture().fit(X), X)
    >>> len(axes)
    4
    """
    check_fitted(model)
    source = checked_data(model, data)
    rows = some_rows(source, range(source.n_features), _MOST_ROWS)
    complete, note = rows.complete()
    columns, chosen_by = _columns(model, rows, features)
    view = View.of(model, columns, most=_MOST_FEATURES)
    n_across = -(-len(columns) // 2)
    figure = given_or_new_figure(figure, 6.5 + 2.8 * n_across, 5.5)
    grid = figure.add_gridspec(min(len(columns), 2), 2 + n_across)
    first = figure.add_subplot(grid[:, :2])
    components = Components.of(model, view, Palette.of(first))
    _draw_distances(first, model, complete, components, note)
    axes = [first]
    for j, column in enumerate(columns):
        axes.append(figure.add_subplot(grid[j // n_across, 2 + j % n_across]))
        _draw_feature(axes[-1], components.along(j), *rows.present(column))
        axes[-1].set_xlabel(view.labels[j])
        axes[-1].set_title(f"gap {_gap(model, rows, column):.3f}", fontsize="small", loc="left")
    if chosen_by:
        figure.suptitle(chosen_by, fontsize="small", x=0.99, ha="right")
    return np.array(axes, dtype=object)


def _columns(model: Any, rows: SomeRows, features: Features) -> tuple[list[int], str]:
    """Return the columns to show, and how they were chosen.

    Raises
    ------
    ParameterError
        If they are not columns of the model, or are too many.
    """
    d = rows.values.shape[1]
    if features is None and d > _MOST_FEATURES:
        few = rows.thinned(_RANKING_ROWS)
        gaps = [_gap(model, few, column) for column in range(d)]
        chosen = np.argsort(gaps)[::-1][:_MOST_FEATURES]
        return sorted(chosen.tolist()), f"{_MOST_FEATURES} of {d} features, with the largest gaps"
    columns = [*range(d)] if features is None else columns_of(model, features)
    if len(columns) > _MOST_FEATURES:
        raise ParameterError(
            f"features name {len(columns)} columns, and this picture shows {_MOST_FEATURES} at "
            "most; choose among them"
        )
    return columns, ""


def _gap(model: Any, rows: SomeRows, column: int) -> float:
    """Return the largest difference of the distribution functions of a feature."""
    values, weights = rows.present(column)
    order = np.argsort(values)
    view = View.of(model, column)
    means, covariances = view.components(model)
    scores = (values[order, np.newaxis] - means[:, 0]) / np.sqrt(covariances[:, 0, 0])
    expected = scipy.special.ndtr(scores) @ model.weights_
    noise = noise_of(model, view)
    if noise is not None:
        noise.require_box("has no distribution of a feature")
        low, high = noise.box[:, 0]
        expected = expected + noise.weight * np.clip((values[order] - low) / (high - low), 0.0, 1.0)
    up_to = np.cumsum(weights[order]) / weights.sum()
    before = np.concatenate([[0.0], up_to[:-1]])
    return float(np.maximum(up_to - expected, expected - before).max())


def _draw_feature(ax: Axes, components: Components, values: Array, weights: Array) -> None:
    """Draw the densities of a feature over a histogram of its values."""
    lower, upper = components.limits(values[:, np.newaxis])
    ax.set_xlim(lower[0], upper[0])
    ax.set_yticks([])
    draw_histogram(ax, values, weights, components.palette)
    draw_densities(ax, components)


def _draw_distances(
    ax: Axes, model: Any, rows: SomeRows, components: Components, note: str
) -> None:
    """Draw quantiles of the distances of rows to their components against those expected."""
    palette, d = components.palette, rows.values.shape[1]
    n_rows = rows.weights.sum() ** 2 / np.square(rows.weights).sum()
    reach = scipy.special.logit(1.0 - _OUTERMOST / n_rows)
    probabilities: Array = scipy.special.expit(np.linspace(-reach, reach, _N_QUANTILES))
    expected = scipy.stats.chi2.ppf(probabilities, d)
    diagonal = _draw_band(ax, expected, probabilities, n_rows, d, palette)
    distances, shares = _distances(model, rows)
    for k in components.by_weight[:N_COLOURS]:
        n_own = n_rows * shares[k].sum() / rows.weights.sum()
        if n_own < _FEWEST_ROWS:
            continue
        # A component has fewer rows than all together, and no quantiles so far out.
        outermost = _OUTERMOST / n_own
        own = (probabilities >= outermost) & (probabilities <= 1.0 - outermost)
        found, style = _quantiles(distances[k], shares[k], probabilities[own]), components.styles[k]
        ax.plot(expected[own], found, color=style.colour, linestyle=style.dashes, linewidth=1.2)
    overall = _quantiles(np.concatenate(distances), np.concatenate(shares), probabilities)
    (line,) = ax.plot(expected, overall, color=palette.ink, linewidth=2.5, label="all rows")
    highest = 1.05 * float(np.clip(overall[-1], expected[-1], _MOST_BEYOND * expected[-1]))
    beyond = f"distances reach {overall[-1]:.3g}" if overall[-1] > highest else ""
    write_note(ax, note, beyond)
    ax.set_xlim(0.0, expected[-1])
    ax.set_ylim(0.0, highest)
    ax.set_xlabel(f"quantile of chi-square, {d} degree{'s' * (d > 1)} of freedom")
    ax.set_ylabel("squared Mahalanobis distance to the component")
    ax.legend(
        handles=[diagonal, line, *component_handles(components), sum_handle(components)],
        title="component: weight",
        loc="upper left",
        frameon=False,
        fontsize="small",
    )


def _draw_band(
    ax: Axes, expected: Array, probabilities: Array, n_rows: float, d: int, palette: Palette
) -> Line2D:
    """Draw a band for the quantiles of rows of the mixture; draw and return the diagonal."""
    ranks, tail = probabilities * n_rows, (1.0 - _LEVEL) / 2.0
    edges = (scipy.stats.beta.ppf(p, ranks, n_rows - ranks) for p in (tail, 1.0 - tail))
    low, high = (scipy.stats.chi2.ppf(edge, d) for edge in edges)
    ax.fill_between(expected, low, high, color=palette.faint, alpha=0.5, linewidth=0.0, zorder=1)
    label = f"expected, {_LEVEL:.0%} band"
    (diagonal,) = ax.plot(
        expected, expected, color=palette.ink, linewidth=1.2, linestyle=":", zorder=2, label=label
    )
    return diagonal


def _distances(model: Any, rows: SomeRows) -> tuple[list[Array], list[Array]]:
    """Return squared distances of rows to each component, and the weights of these rows in it."""
    parameters = model.fitted_model_.parameters
    structure, factors = parameters.structure, parameters.stacked(parameters.factors)
    found = responsibilities(model, rows, "error")
    distances, shares = [], []
    for k, mean in enumerate(parameters.means):
        is_own = found[:, k] > _LEAST_SHARE
        whitened = structure.solved_rows(rows.values[is_own] - mean, factors, k)
        distances.append(np.square(whitened).sum(axis=1))
        shares.append(found[is_own, k] * rows.weights[is_own])
    return distances, shares


def _quantiles(values: Array, weights: Array, probabilities: Array) -> Array:
    """Return quantiles of weighted values."""
    order = np.argsort(values)
    own = weights[order]
    middles = (np.cumsum(own) - 0.5 * own) / own.sum()
    found: Array = np.interp(probabilities, middles, values[order])
    return found
