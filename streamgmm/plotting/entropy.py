"""Entropy of the assignment of rows to merged components."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from streamgmm.core.mixtures.clusters import MergedComponents
from streamgmm.errors import ParameterError
from streamgmm.plotting.colours import Palette
from streamgmm.plotting.figures import given_or_new
from streamgmm.plotting.views import check_fitted

# Overlaps that are smaller stand at the lower edge.
_LEAST = 1e-3


def plot_entropy(merged: Any, ax: Axes | None = None) -> Axes:
    """Draw the entropy of the assignment of rows against the number of clusters.

    A circle marks the number of clusters that was chosen. Squares, with the axis on the right, show
    how much the two clusters overlap whose merge leaves this number of clusters; they are filled if
    the two are merged. Components that describe one cluster together overlap far more than clusters
    that are apart.

    Parameters
    ----------
    merged : MergedComponents or GaussianMixture
        What ``merged_components`` returned; of a fitted model, what it returns without rows.
    ax : matplotlib.axes.Axes, default=None
        Where to draw; by default a new figure.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    NotFittedError
        If the model is not fitted.
    ParameterError
        If the model has no sample of rows, or ``merged`` is something else.

    References
    ----------
    Baudry, Raftery, Celeux, Lo & Gottardo (2010), Combining mixture components for clustering.

    Examples
    --------
    >>> import numpy as np
    >>> from streamgmm import GaussianMixture
    >>> from streamgmm.plotting import plot_entropy
    >>> X = np.random.default_rng(0).standard_t(5, size=(500, 2)) + [[0, 0], [9, 9]] * 250
    >>> ax = plot_entropy(GaussianMixture(4, random_state=0).fit(X).merged_components())
    >>> ax.get_xlabel()
    'clusters'
    """
    if not isinstance(merged, MergedComponents):
        if not hasattr(merged, "merged_components"):
            raise ParameterError(
                f"merged is a {type(merged).__name__}; give a fitted GaussianMixture, or what its "
                "merged_components returned"
            )
        check_fitted(merged)
        merged = merged.merged_components()
    ax = given_or_new(ax, 5.0)
    entropies, chosen = merged.entropies, merged.n_clusters
    sizes = np.arange(1, len(entropies) + 1)
    palette = Palette.of(ax)
    ax.plot(sizes, entropies, "o-", color=palette.colour(0), linewidth=1.2, label="entropy")
    ax.plot(
        chosen,
        entropies[chosen - 1],
        "o",
        markersize=14,
        markerfacecolor="none",
        markeredgecolor=palette.ink,
        label="choice",
    )
    ax.set_xlabel("clusters")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_ylabel("entropy of the assignment, nats")
    handles, labels = ax.get_legend_handles_labels()
    if len(sizes) > 1:
        squares = _draw_overlaps(ax, merged, palette)
        handles, labels = [*handles, squares], [*labels, "overlap"]
    # The curve rises from the left to the right.
    ax.legend(handles, labels, loc="upper left", frameon=False)
    return ax


def _draw_overlaps(ax: Axes, merged: MergedComponents, palette: Palette) -> Line2D:
    """Draw the overlap of the clusters of each merge on an axis of its own; return the squares."""
    right = ax.twinx()
    n_clusters = np.arange(len(merged.overlaps), 0, -1)
    overlaps = np.maximum(merged.overlaps, _LEAST)
    colour = palette.colour(1)
    is_merged = n_clusters >= merged.n_clusters
    for part, fill in ((~is_merged, "none"), (is_merged, colour)):
        squares = right.plot(
            n_clusters[part], overlaps[part], "s", color=colour, markersize=6, markerfacecolor=fill
        )
    right.set_yscale("log")
    right.set_ylim(0.8 * _LEAST, 1.3)
    right.set_ylabel("overlap of the clusters that are merged", color=colour)
    right.tick_params(axis="y", colors=colour)
    return squares[0]
