"""Rows behind the components, and lines of equal density."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm

from streamgmm.core.structures import Array
from streamgmm.plotting.colours import Palette
from streamgmm.plotting.components import Components

# Up to this number of rows, each is drawn as a point.
_MOST_POINTS = 3000
# Sizes of the points if there are many or few.
_SMALLEST, _LARGEST = 2.5, 6.0
_MOST_CELLS, _FEWEST_BINS, _MOST_BINS = 120, 10, 150
# Parts of all rows that the mixture expects within the contours.
_PARTS = (0.95, 0.8, 0.5)
_N_DRAWS, _N_GRID = 20_000, 201


def draw_rows(
    ax: Axes, points: Array, weights: Array, palette: Palette, most_cells: int = _MOST_CELLS
) -> None:
    """Draw rows (n, 2) within the limits of the axes: points, or grey cells if there are many."""
    if len(points) <= _MOST_POINTS:
        size = _SMALLEST + (_LARGEST - _SMALLEST) * (1.0 - len(points) / _MOST_POINTS)
        ax.plot(*points.T, ".", color=palette.dots, markersize=size, zorder=1)
        return
    (x0, x1), (y0, y1) = ax.get_xlim(), ax.get_ylim()
    ax.hexbin(
        points[:, 0],
        points[:, 1],
        C=weights,
        reduce_C_function=np.sum,
        gridsize=int(min(np.sqrt(len(points)) / 2, most_cells)),
        norm=LogNorm(),
        cmap=palette.densities,
        linewidths=0.1,
        extent=(x0, x1, y0, y1),
    )


def draw_histogram(ax: Axes, values: Array, weights: Array, palette: Palette) -> None:
    """Draw the density of the values (n,) of a feature between the limits of the axes."""
    n_bins = int(np.clip(2.0 * np.sqrt(len(values)), _FEWEST_BINS, _MOST_BINS))
    heights, edges = np.histogram(values, n_bins, ax.get_xlim(), weights=weights)
    # Values beyond the limits count, so that the area is the part of the rows within them.
    heights = heights / (weights.sum() * np.diff(edges))
    ax.stairs(heights, edges, fill=True, color=palette.faint, zorder=1)


def draw_contours(ax: Axes, components: Components) -> None:
    """Draw the smallest regions in which the mixture expects some parts of the rows.

    The density at the edge of such a region is a quantile of the density at draws of the mixture.

    References
    ----------
    Hyndman (1996), Computing and graphing highest density regions.
    """
    factors = np.asarray(np.linalg.cholesky(components.covariances), dtype=np.float64)
    random = np.random.default_rng(0)
    weights = components.weights / components.weights.sum()
    labels = random.choice(len(weights), size=_N_DRAWS, p=weights)
    noise = random.standard_normal((_N_DRAWS, 2, 1))
    draws = components.means[labels] + (factors[labels] @ noise)[:, :, 0]
    levels = np.quantile(_log_density(draws, components, factors), [1 - part for part in _PARTS])
    x, y = (np.linspace(*limits, _N_GRID) for limits in (ax.get_xlim(), ax.get_ylim()))
    grid = np.stack(np.meshgrid(x, y), axis=-1)
    heights = _log_density(grid.reshape(-1, 2), components, factors).reshape(grid.shape[:2])
    ink = components.palette.ink
    lines = ax.contour(x, y, heights, levels, colors=ink, linestyles="-", linewidths=1.2)
    names = {level: f"{part:.0%}" for level, part in zip(levels, _PARTS, strict=True)}
    ax.clabel(lines, fmt=names, fontsize="small")


def _log_density(points: Array, components: Components, factors: Array) -> Array:
    """Return the log-density (n,) of the mixture at some points (n, 2)."""
    found = np.full(len(points), -np.inf)
    for weight, mean, factor in zip(components.weights, components.means, factors, strict=True):
        if weight > 0.0:
            whitened = np.linalg.solve(factor, (points - mean).T)
            determinant = np.log(np.diagonal(factor)).sum()
            own = np.log(weight) - determinant - 0.5 * np.square(whitened).sum(axis=0)
            found = np.logaddexp(found, own)
    shifted: Array = found - np.log(2.0 * np.pi)
    return shifted
