"""Entropy of the assignment of rows to merged components."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from streamgmm.core.mixtures.clusters import MergedComponents, elbow, elbow_lines
from streamgmm.errors import ParameterError
from streamgmm.plotting.colours import Palette
from streamgmm.plotting.figures import given_or_new, legend_beside
from streamgmm.plotting.views import check_fitted


def plot_entropy(merged: Any, ax: Axes | None = None) -> Axes:
    """Draw the entropy of the assignment of rows against the number of clusters.

    Where the curve rises steeply components overlap, and merging them loses little. The dashed
    lines are the two that fit the entropies best; they meet at the elbow. A circle marks the number
    of clusters that was chosen.

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
    ax.plot(sizes, entropies, "o-", color=palette.colour(0), linewidth=1.2)
    if len(entropies) > 2:
        label = "two lines that fit best"
        for places, values in elbow_lines(entropies, elbow(entropies)):
            ax.plot(places, values, "--", color=palette.colour(1), linewidth=1.5, label=label)
            label = "_"
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
    legend_beside(ax)
    return ax
