"""Criteria of the candidates of a search."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from streamgmm.errors import NotFittedError
from streamgmm.plotting.colours import Palette
from streamgmm.plotting.figures import given_or_new, legend_beside

# Differences of criteria up to which a scale is linear.
_LINEAR_UP_TO = 10.0
# The same for log-likelihoods, in nats per row.
_SCORES_LINEAR_UP_TO = 0.01


def plot_criteria(search: Any, ax: Axes | None = None) -> Axes:
    """Draw how much worse the criterion of each candidate is than that of the chosen one.

    There is a curve for each covariance structure, against the number of components. Open circles
    are forecasts, of pruned candidates. Crosses are degenerate candidates, which cannot be chosen.
    A band holds the values that are not resolved from the best. The scale is linear up to 10, of
    the likelihood of held-out rows up to 0.01 nats per row, and logarithmic beyond.

    Parameters
    ----------
    search : GaussianMixtureSearch
        Fitted.
    ax : matplotlib.axes.Axes, default=None
        Where to draw; by default a new figure.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    NotFittedError
        If the search is not fitted.

    Examples
    --------
    >>> import numpy as np
    >>> from streamgmm import GaussianMixtureSearch
    >>> from streamgmm.plotting import plot_criteria
    >>> X = np.random.default_rng(0).normal(size=(300, 2)) + [[0, 0], [9, 9]] * 150
    >>> ax = plot_criteria(GaussianMixtureSearch(range(1, 4), random_state=0).fit(X))
    >>> ax.get_xlabel()
    'components'
    """
    if not hasattr(search, "cv_results_"):
        raise NotFittedError("the search is not fitted; call fit first")
    ax = given_or_new(ax, 5.0)
    palette = Palette.of(ax)
    results, criterion = search.cv_results_, search.criterion
    best = search.best_index_
    sizes, values = results["param_n_components"], results[criterion] - search.best_score_
    is_score = criterion == "held_out"
    if is_score:
        values = -values
    types = results["param_covariance_type"].tolist()
    kinds = np.array(
        [
            f"{kind} {rank}" if rank else kind
            for kind, rank in zip(types, results["param_rank"].tolist(), strict=True)
        ]
    )
    for i, kind in enumerate(dict.fromkeys(kinds.tolist())):
        color = palette.colour(i)
        own = np.flatnonzero(kinds == kind)
        own = own[np.argsort(sizes[own])]
        ax.plot(sizes[own], values[own], color=color, linewidth=1.2, label=kind)
        for chosen, style in (
            (results["status"] != "pruned", {"marker": "o"}),
            (results["status"] == "pruned", {"marker": "o", "markerfacecolor": palette.background}),
            (results["degenerate"], {"marker": "x", "markersize": 9}),
        ):
            marked = own[chosen[own]]
            ax.plot(sizes[marked], values[marked], color=color, linestyle="", **style)
    if np.any(results["status"] == "pruned"):
        ax.plot(
            [], [], "o", color=palette.ink, markerfacecolor=palette.background, label="forecast"
        )
    unresolved = values[~results["resolved"]]
    if unresolved.size:
        low, high = values[best], unresolved.max()
        ax.axhspan(
            low, high, color=palette.faint, alpha=0.5, zorder=0, label="not resolved from the best"
        )
    ax.plot(
        sizes[best],
        values[best],
        "o",
        markersize=14,
        markerfacecolor="none",
        markeredgecolor=palette.ink,
        label="choice",
    )
    ax.set_xlabel("components")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_yscale("symlog", linthresh=_SCORES_LINEAR_UP_TO if is_score else _LINEAR_UP_TO)
    ax.set_ylabel(
        f"held-out log-likelihood below the best, {search.best_score_:.6f}, nats per row"
        if is_score
        else f"{criterion.upper()} above the chosen one, {search.best_score_:.2f}"
    )
    legend_beside(ax)
    return ax
