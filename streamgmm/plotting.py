"""Pictures of a fitted mixture and its fit; needs matplotlib, which the extra ``plot`` installs.

Nothing here touches pyplot, so that neither its state nor a display matters.
"""

import os
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamgmm.core.mixtures.clusters import MergedComponents, elbow, elbow_lines
from streamgmm.core.structures import STRUCTURES, Array
from streamgmm.core.structures.low_rank import LOW_RANK_TYPE, joined, structure_name
from streamgmm.errors import NotFittedError, OutputError, ParameterError
from streamgmm.packages import needed_by
from streamgmm.paths import local_path, writing
from streamgmm.protocols import Source
from streamgmm.sources.columns import check_features
from streamgmm.sources.open import open_source

with needed_by("a picture"):
    from matplotlib import color_sequences, patheffects
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.patches import Ellipse
    from matplotlib.ticker import EngFormatter, MaxNLocator

# A picture needs no more than this, from anywhere in the data.
_MOST_CHUNKS = 8
_MOST_ROWS = 400_000
# Data are shown between these quantiles, so that one outlier does not shrink all else.
_SHOWN_QUANTILES = (0.0005, 0.9995)
_MOST_IN_LEGEND = 20
# Of so few passes each has its log-likelihood written beside it.
_MOST_WITH_VALUES = 12
# Of the rows of a stream, those that a mean is taken over.
_WINDOW = 0.01
# Differences of criteria up to which a scale is linear.
_LINEAR_UP_TO = 10.0
# The same for log-likelihoods, in nats per row.
_SCORES_LINEAR_UP_TO = 0.01
_BRIEF = EngFormatter(places=0, sep="")


def plot_mixture(
    model: Any,
    data: Any = None,
    features: Sequence[int] = (0, 1),
    ax: Axes | None = None,
) -> Axes:
    """Draw the components as ellipses of one and two standard deviations, over the data.

    Ellipses are those of the marginal distribution over two features. Of a single feature, the
    weighted densities of the components and their sum are drawn over a histogram.

    Parameters
    ----------
    model : GaussianMixture
        Fitted.
    data : array-like, path or Source of shape (n_samples, n_features), default=None
        Anything that :func:`streamgmm.open` takes. Of large data a few chunks are read.
    features : sequence of one or two int, default=(0, 1)
        Columns to show; not used if the model has a single feature.
    ax : matplotlib.axes.Axes, default=None
        Where to draw; by default a new figure, outside pyplot.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    DataError
        If the data have other columns than those fitted.
    ParameterError
        If the features are not one or two columns of the model.

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
    _check_fitted(model)
    columns = _checked_features(features, model.means_.shape[1])
    means, covariances = _marginals(model, columns)
    rows = None if data is None else _some_rows(_checked_data(model, data), columns)
    lower, upper = _shown_range(means, covariances, rows)
    ax = _given_or_new(ax, 6.0)
    names = [_feature_name(model, column) for column in columns]
    ax.set_xlabel(names[0])
    ax.set_xlim(lower[0], upper[0])
    if len(columns) == 1:
        ax.set_ylabel("density")
        _draw_densities(ax, model.weights_, means[:, 0], covariances[:, 0, 0], rows)
    else:
        ax.set_ylabel(names[1])
        ax.set_ylim(lower[1], upper[1])
        _draw_ellipses(ax, model.weights_, means, covariances, rows)
    return ax


def plot_convergence(model: Any, ax: Axes | None = None) -> Axes:
    """Draw how far the log-likelihood was below the best, pass by pass; or that of a stream.

    Each pass is marked by its purpose, where it ended. Those that evaluate no log-likelihood of all
    the data are shaded bands as wide as the part that they read. Steps that were not accepted are
    crosses beside the line. The scale is logarithmic down to ``tol`` and linear from there to 0,
    where the best accepted pass lies.

    Of a model that learned a stream it is what rows scored before they were learned, entry by entry
    of its history, with the mean over a hundredth of these rows; lines stand where the stream was
    found to have changed.

    Parameters
    ----------
    model : GaussianMixture or OnlineGaussianMixture
        Fitted.
    ax : matplotlib.axes.Axes, default=None
        Where to draw; by default a new figure, outside pyplot.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ParameterError
        If no pass in the model's history evaluated a log-likelihood.

    Examples
    --------
    >>> import numpy as np
    >>> from streamgmm import GaussianMixture
    >>> from streamgmm.plotting import plot_convergence
    >>> X = np.random.default_rng(0).normal(size=(500, 3))
    >>> ax = plot_convergence(GaussianMixture(2, random_state=0, tol=1e-2).fit(X))
    >>> ax.get_xlabel()
    'passes over the data'
    """
    ax = _given_or_new(ax, 5.0)
    _check_fitted(model)
    if hasattr(model, "n_samples_seen_"):
        _draw_stream(ax, model)
        return ax
    reads = _Reads.of(model.history_)
    ax.set_yscale("symlog", linthresh=model.tol or reads.smallest_gap)
    ax.margins(0.08)
    _draw_reads(ax, reads)
    ax.set_xlabel("passes over the data")
    ax.set_xlim(left=0.0)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_ylabel(f"log-likelihood below the best, {reads.best:.6f}, nats per row")
    if model.tol:
        label = f"tol = {model.tol:g}"
        ax.axhline(model.tol, color="0.3", linestyle="--", linewidth=1.0, zorder=1, label=label)
    _legend_beside(ax)
    return ax


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
        Where to draw; by default a new figure, outside pyplot.

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
    ax = _given_or_new(ax, 5.0)
    results, criterion = search.cv_results_, search.criterion
    best = search.best_index_
    sizes, values = results["param_n_components"], results[criterion] - search.best_score_
    is_score = criterion == "held_out"
    if is_score:
        values = -values
    for kind, color in zip(
        dict.fromkeys(results["param_covariance_type"].tolist()),
        color_sequences["tab10"],
        strict=False,
    ):
        own = np.flatnonzero(results["param_covariance_type"] == kind)
        own = own[np.argsort(sizes[own])]
        ax.plot(sizes[own], values[own], color=color, linewidth=1.2, label=kind)
        for chosen, style in (
            (results["status"] != "pruned", {"marker": "o"}),
            (results["status"] == "pruned", {"marker": "o", "markerfacecolor": "white"}),
            (results["degenerate"], {"marker": "x", "markersize": 9}),
        ):
            marked = own[chosen[own]]
            ax.plot(sizes[marked], values[marked], color=color, linestyle="", **style)
    if np.any(results["status"] == "pruned"):
        ax.plot([], [], "o", color="0.3", markerfacecolor="white", label="forecast")
    unresolved = values[~results["resolved"]]
    if unresolved.size:
        low, high = values[best], unresolved.max()
        ax.axhspan(low, high, color="0.85", zorder=0, label="not resolved from the best")
    ax.plot(
        sizes[best],
        values[best],
        "o",
        markersize=14,
        markerfacecolor="none",
        markeredgecolor="black",
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
    _legend_beside(ax)
    return ax


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
        Where to draw; by default a new figure, outside pyplot.

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
        _check_fitted(merged)
        merged = merged.merged_components()
    ax = _given_or_new(ax, 5.0)
    entropies, chosen = merged.entropies, merged.n_clusters
    sizes = np.arange(1, len(entropies) + 1)
    colour, other, _ = _colours(3)
    ax.plot(sizes, entropies, "o-", color=colour, linewidth=1.2)
    if len(entropies) > 2:
        label = "two lines that fit best"
        for places, values in elbow_lines(entropies, elbow(entropies)):
            ax.plot(places, values, "--", color=other, linewidth=1.5, label=label)
            label = "_"
    ax.plot(
        chosen,
        entropies[chosen - 1],
        "o",
        markersize=14,
        markerfacecolor="none",
        markeredgecolor="black",
        label="choice",
    )
    ax.set_xlabel("clusters")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_ylabel("entropy of the assignment, nats")
    _legend_beside(ax)
    return ax


def save_picture(ax: Axes, path: str | os.PathLike[str]) -> None:
    """Write the figure of an axes; the file is whole or is not there.

    Parameters
    ----------
    ax : matplotlib.axes.Axes
    path : path-like
        Ends in ``.png``, ``.pdf`` or ``.svg``.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    target = local_path(path, OutputError, "pictures")
    if target.is_dir():
        raise OutputError(f"{target} cannot be written: it is a directory; name a file in it")
    unfinished = target.with_name(f".{uuid.uuid4().hex[:8]}.{target.name}")
    try:
        with writing(target):
            ax.get_figure(root=True).savefig(unfinished, dpi=150)  # type: ignore[union-attr]
            unfinished.replace(target)
    except ValueError as error:
        raise OutputError(
            f"{target}: {error}; name a file that ends in .png, .pdf or .svg"
        ) from None
    finally:
        unfinished.unlink(missing_ok=True)


def _check_fitted(model: Any) -> None:
    """Refuse to draw what is no mixture, or is not fitted.

    Raises
    ------
    NotFittedError
    ParameterError
    """
    name = type(model).__name__
    if not hasattr(model, "covariance_type"):
        raise ParameterError(
            f"model is a {name}; give a fitted GaussianMixture or OnlineGaussianMixture"
        )
    if not hasattr(model, "means_"):
        raise NotFittedError(f"this {name} is not fitted yet; fit it to data before it is drawn")


def _checked_features(features: Sequence[int], n_features: int) -> list[int]:
    if n_features == 1:
        return [0]
    columns = list(features) if isinstance(features, Iterable) else [features]
    if len(columns) not in (1, 2) or len(set(columns)) < len(columns):
        raise ParameterError(f"features are {tuple(columns)}; give one or two different columns")
    for column in columns:
        if not isinstance(column, Integral) or not 0 <= column < n_features:
            raise ParameterError(
                f"features name column {column!r}, but the model has columns 0 to {n_features - 1}"
            )
    return columns


def _feature_name(model: Any, column: int) -> str:
    names = getattr(model, "feature_names_in_", None)
    return f"feature {column}" if names is None else str(names[column])


def _marginals(model: Any, columns: list[int]) -> tuple[Array, Array]:
    """Return the means (K, m) and covariances (K, m, m) over m features."""
    if hasattr(model, "loadings_"):
        stored = joined(model.loadings_, model.noise_variances_)
        structure = STRUCTURES[structure_name(LOW_RANK_TYPE, model.rank_, model.means_.shape[1])]
    else:
        stored, structure = model.covariances_, STRUCTURES[model.covariance_type]
    stacked = structure.stacked(stored, *model.means_.shape)
    covariances = structure.dense(stacked, columns)
    means = model.means_[:, columns]
    return means, np.broadcast_to(covariances, (len(means), *covariances.shape[1:]))


def _checked_data(model: Any, data: Any) -> Source:
    """Describe data that have the columns that the model was fitted to.

    Raises
    ------
    DataError
        If they have others.
    """
    source = open_source(data)
    names = getattr(model, "feature_names_in_", None)
    n_features = model.means_.shape[1]
    check_features(source, n_features, None if names is None else list(names), type(model).__name__)
    return source


def _given_or_new(ax: Axes | None, height: float) -> Axes:
    """Return the given axes, or those of a new figure of some height, in inches."""
    if ax is not None:
        return ax
    return Figure(figsize=(8.0, height), layout="constrained").add_subplot()


def _some_rows(source: Source, columns: list[int]) -> Array:
    """Return the chosen columns of some rows, from a few chunks spread over the data."""
    n_chunks = len(source.boundaries) - 1
    chosen = np.unique(np.linspace(0, n_chunks - 1, _MOST_CHUNKS).astype(int))
    most = _MOST_ROWS // len(chosen)
    parts = []
    for i in chosen:
        rows = source.read(int(i)).rows
        step = -(-len(rows) // most)
        parts.append(rows[::step, columns].astype(np.float64))
    sample: Array = np.concatenate(parts)
    return sample[np.isfinite(sample).all(axis=1)]


def _shown_range(means: Array, covariances: Array, rows: Array | None) -> tuple[Array, Array]:
    """Return lower and upper limits of each feature: three standard deviations, and the data."""
    reach = 3.0 * np.sqrt(np.diagonal(covariances, axis1=1, axis2=2))
    lower, upper = (means - reach).min(axis=0), (means + reach).max(axis=0)
    if rows is not None and len(rows):
        first, last = np.quantile(rows, _SHOWN_QUANTILES, axis=0)
        lower, upper = np.minimum(lower, first), np.maximum(upper, last)
    return lower, upper


def _colours(n: int) -> list[Any]:
    # Those of petroff10 are told apart by people who do not see all colours.
    colours = color_sequences["petroff10" if n <= 10 else "tab20"]
    return [colours[k % len(colours)] for k in range(n)]


def _draw_ellipses(
    ax: Axes,
    weights: NDArray[Any],
    means: Array,
    covariances: Array,
    rows: Array | None,
) -> None:
    if rows is not None and len(rows):
        (x0, x1), (y0, y1) = ax.get_xlim(), ax.get_ylim()
        ax.hexbin(
            *rows.T,
            gridsize=120,
            bins="log",
            cmap="Greys",
            mincnt=1,
            vmin=0.1,  # a single row is to be seen
            linewidths=0.1,
            extent=(x0, x1, y0, y1),
        )
    outline = [patheffects.withStroke(linewidth=3, foreground="white")]
    components = zip(weights, means, covariances, _colours(len(means)), strict=True)
    for k, (weight, mean, covariance, colour) in enumerate(components):
        for deviations, width in ((1, 2.2), (2, 1.2)):
            ellipse = _ellipse(mean, covariance, deviations)
            ellipse.set(facecolor="none", edgecolor=colour, linewidth=width, zorder=3)
            ellipse.set_path_effects(
                [patheffects.withStroke(linewidth=width + 1.5, foreground="white")]
            )
            if deviations == 1:
                ellipse.set_label(f"{k}: {weight:.3g}")
            ax.add_patch(ellipse)
        ax.annotate(
            str(k),
            (float(mean[0]), float(mean[1])),
            color=colour,
            weight="bold",
            ha="center",
            va="center",
            zorder=4,
            path_effects=outline,
            annotation_clip=True,
        )
    _draw_legend(ax, len(means))


def _ellipse(mean: Array, covariance: Array, deviations: float) -> Ellipse:
    variances, axes = np.linalg.eigh(covariance)
    height, width = 2.0 * deviations * np.sqrt(np.maximum(variances, 0.0))
    angle = np.degrees(np.arctan2(axes[1, 1], axes[0, 1]))
    return Ellipse((float(mean[0]), float(mean[1])), width, height, angle=float(angle))


@dataclass(frozen=True, eq=False)
class _Reads:
    """The history of a fit, column by column; each array is of shape (reads,).

    Attributes
    ----------
    purposes : ndarray of str
    parts, ends : ndarray
        Part of the data that was read, and the sum of these up to the end of the pass.
    log_likelihoods, gaps : ndarray
        Nats per row, and how much is lacking to the best that was kept.
    is_first : ndarray of bool
        Whether nothing comes before it that it continues from.
    is_evaluated, is_kept : ndarray of bool
        Whether there is a log-likelihood of all the data, and whether the fit continued from there.
    best : float
    """

    purposes: NDArray[np.str_]
    parts: Array
    ends: Array
    log_likelihoods: Array
    gaps: Array
    is_first: NDArray[np.bool_]
    is_evaluated: NDArray[np.bool_]
    is_kept: NDArray[np.bool_]
    best: float

    @classmethod
    def of(cls, history: Sequence[Mapping[str, Any]]) -> "_Reads":
        def column(name: str) -> NDArray[Any]:
            return np.array([read[name] for read in history])

        parts, log_likelihoods = column("part"), column("log_likelihood")
        is_evaluated = np.isfinite(log_likelihoods) & (parts == 1.0)
        is_kept = is_evaluated & column("accepted").astype(bool)
        if not is_kept.any():
            raise ParameterError(
                "no read in the model's history evaluated a log-likelihood; fit it to data, with "
                "max_iter of at least 1"
            )
        best = float(log_likelihoods[is_kept].max())
        return cls(
            column("purpose"),
            parts,
            np.cumsum(parts),
            log_likelihoods,
            best - log_likelihoods,
            np.isnan(column("gain")),
            is_evaluated,
            is_kept,
            best,
        )

    @property
    def smallest_gap(self) -> float:
        """That is not 0; 1 if all are."""
        gaps = self.gaps[self.is_evaluated]
        return float(gaps[gaps > 0.0].min(initial=1.0))


def _draw_reads(ax: Axes, reads: _Reads) -> None:
    """Draw a line for each start, and a mark or band for each pass in the colour of its purpose."""
    places = np.arange(len(reads.ends))
    for start in np.split(places, np.flatnonzero(reads.is_first)):
        kept = start[reads.is_kept[start]]
        ax.plot(reads.ends[kept], reads.gaps[kept], color="0.6", linewidth=1.2, zorder=1)
    size = 6.0 if len(places) <= _MOST_WITH_VALUES else 3.5
    purposes = list(dict.fromkeys(reads.purposes.tolist()))
    for purpose, colour in zip(purposes, _colours(len(purposes)), strict=True):
        is_own = reads.purposes == purpose
        style = {"color": colour, "label": purpose}
        bands = is_own & ~reads.is_evaluated
        if bands.any():
            starts, widths = reads.ends - reads.parts, reads.parts
            spans = list(zip(starts[bands].tolist(), widths[bands].tolist(), strict=True))
            height = ax.get_xaxis_transform()
            ax.broken_barh(spans, (0.0, 1.0), transform=height, alpha=0.2, linewidth=0.0, **style)
        marks = is_own & reads.is_kept
        if marks.any():
            ax.plot(reads.ends[marks], reads.gaps[marks], "o", markersize=size, **style)
    rejected = reads.is_evaluated & ~reads.is_kept
    if rejected.any():
        ax.plot(reads.ends[rejected], reads.gaps[rejected], "kx", label="not accepted")
    if len(places) <= _MOST_WITH_VALUES:
        _write_values(ax, reads)


def _write_values(ax: Axes, reads: _Reads) -> None:
    outline = [patheffects.withStroke(linewidth=3, foreground="white")]
    for i in np.flatnonzero(reads.is_evaluated):
        ax.annotate(
            f"{reads.log_likelihoods[i]:.6f}",
            (float(reads.ends[i]), float(reads.gaps[i])),
            xytext=(0, 8),
            textcoords="offset points",
            ha="center",
            path_effects=outline,
        )


def _draw_stream(ax: Axes, model: Any) -> None:
    """Draw the scores of rows before they were learned, and the changes of the stream."""
    if not model.history_:
        raise ParameterError(
            "no rows in the model's history were scored before they were learned; give it more by "
            "partial_fit"
        )
    n_rows, scores = (
        np.array([entry[name] for entry in model.history_])
        for name in ("n_samples", "log_likelihood")
    )
    # Rows before the first mixture was found have no score.
    first = model.n_samples_seen_ - n_rows.sum()
    edges = first + np.concatenate([[0.0], np.cumsum(n_rows)])
    width = _WINDOW * n_rows.sum()
    places = np.linspace(edges[0] + width, edges[-1], 1001)
    sums = np.concatenate([[0.0], np.cumsum(n_rows * scores)])
    means = (np.interp(places, edges, sums) - np.interp(places - width, edges, sums)) / width
    ax.stairs(scores, edges, baseline=None, color="0.7", label="entry of the history")
    colour, _, other = _colours(3)
    ax.plot(places, means, color=colour, linewidth=2.0, label=f"mean of {_BRIEF(width)} rows")
    for i, change in enumerate(model.changes_):
        label = "change found" if i == 0 else None
        ax.axvline(change, color=other, linestyle="--", linewidth=1.5, label=label)
    ax.set_xlabel("rows learned")
    ax.set_xlim(edges[0], edges[-1])
    ax.xaxis.set_major_formatter(_BRIEF)
    ax.set_ylabel("log-likelihood before learning, nats per row")
    # What was found among the very first rows scores beyond all others.
    settled = scores[edges[1:] > edges[0] + width]
    margin = 0.05 * np.ptp(settled) or 1.0
    ax.set_ylim(settled.min() - margin, scores.max() + margin)
    _legend_beside(ax)


def _draw_densities(
    ax: Axes, weights: NDArray[Any], means: Array, variances: Array, rows: Array | None
) -> None:
    lower, upper = ax.get_xlim()
    if rows is not None and len(rows):
        bins = np.linspace(lower, upper, 151).tolist()
        ax.hist(rows[:, 0], bins=bins, density=True, color="0.85")
    # Enough points between the limits, and enough across the narrowest component.
    near = (means + np.sqrt(variances) * np.linspace(-4.0, 4.0, 201)[:, np.newaxis]).ravel()
    x = np.union1d(np.linspace(lower, upper, 1001), near)
    distances = (x[:, np.newaxis] - means) ** 2 / variances
    densities = weights * np.exp(-0.5 * distances) / np.sqrt(2.0 * np.pi * variances)
    for k, colour in enumerate(_colours(len(means))):
        ax.plot(x, densities[:, k], color=colour, label=f"{k}: {weights[k]:.3g}")
    ax.plot(x, densities.sum(axis=1), color="black", linewidth=1.0, linestyle="--", label="sum")
    ax.set_ylim(bottom=0.0)
    _draw_legend(ax, len(means))


def _draw_legend(ax: Axes, n_components: int) -> None:
    if n_components <= _MOST_IN_LEGEND:
        _legend_beside(ax, title="component: weight")


def _legend_beside(ax: Axes, title: str | None = None) -> None:
    place: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.01, 1.0)}
    ax.legend(title=title, borderaxespad=0.0, frameon=False, **place)
