"""The log-likelihood of a fit, pass by pass, and of a stream."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter, MaxNLocator
from numpy.typing import NDArray

from streamgmm.core.structures import Array
from streamgmm.errors import ParameterError
from streamgmm.plotting.colours import Palette
from streamgmm.plotting.figures import given_or_new, legend_beside, new_figure
from streamgmm.plotting.views import check_fitted

# Up to this number of passes, each has its log-likelihood written beside it.
_MOST_WITH_VALUES = 12
# Smaller gaps on a sample are of no interest, in nats per row.
_LEAST_GAP = 1e-6
# Part of the rows of a stream that a mean is taken over.
_WINDOW = 0.01
_BRIEF = EngFormatter(places=0, sep="")


def plot_convergence(model: Any, ax: Axes | None = None) -> Axes:
    """Draw how far the log-likelihood was below the best, pass by pass; or that of a stream.

    Each pass is marked by its purpose, where it ended. Those that evaluate no log-likelihood of all
    the data are shaded bands as wide as the part of the data that they use. Steps that were not
    accepted are crosses beside the line. The scale is logarithmic down to ``tol`` and linear from
    there to 0, where the best accepted pass lies.

    Of a default fit a second axes to the left shows the work on the sample in memory. Each
    iteration of the starts, of split and merge and of the final EM is a dot, as far as it is below
    the best of its stage; a line shows the best so far. Stages use different rows, so that their
    values are not compared.

    Of a model that learned a stream it is what rows scored before they were learned, entry by entry
    of its history, with the mean over a hundredth of these rows; lines stand where the stream was
    found to have changed.

    Parameters
    ----------
    model : GaussianMixture or OnlineGaussianMixture
        Fitted.
    ax : matplotlib.axes.Axes, default=None
        Where to draw; by default a new figure. With given axes the work on the sample is not
        drawn.

    Returns
    -------
    matplotlib.axes.Axes
        The axes of the passes, or of the stream.

    Raises
    ------
    NotFittedError
        If the model is not fitted.
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
    check_fitted(model)
    if hasattr(model, "n_samples_seen_"):
        return _draw_stream(given_or_new(ax, 5.0), model)
    reads = _Reads.of(model.history_)
    stages = [stage for stage in getattr(model, "sample_history_", ()) if stage["log_likelihoods"]]
    if ax is None and stages:
        figure = new_figure(11.0, 5.0)
        sample, ax = figure.subplots(1, 2, width_ratios=(1.0, 1.2))
        _draw_sample(sample, stages)
    ax = given_or_new(ax, 5.0)
    ax.set_yscale("symlog", linthresh=model.tol or reads.smallest_gap)
    # The last log-likelihood is written beside its mark.
    ax.margins(0.15, 0.08)
    _draw_reads(ax, reads)
    ax.set_xlabel("passes over the data")
    ax.set_xlim(left=0.0)
    # Without a gap the scale would be symmetric about 0.
    if not (reads.gaps[reads.is_evaluated] > 0.0).any():
        ax.set_ylim(bottom=-(model.tol or 1.0))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_ylabel(f"log-likelihood below the best, {reads.best:.6f}, nats per row")
    if model.tol:
        label = f"tol = {model.tol:g}"
        ax.axhline(
            model.tol,
            color=Palette.of(ax).ink,
            linestyle="--",
            linewidth=1.0,
            zorder=1,
            label=label,
        )
    legend_beside(ax)
    return ax


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
                "no pass in the model's history evaluated a log-likelihood; fit it to data, with "
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
        """Smallest gap that is not 0; 1 if all are 0."""
        gaps = self.gaps[self.is_evaluated]
        return float(gaps[gaps > 0.0].min(initial=1.0))


def _draw_sample(ax: Axes, stages: Sequence[Mapping[str, Any]]) -> None:
    """Draw how far iterations on the sample are below the best of their stage."""
    palette = Palette.of(ax)
    gaps = [max(stage["log_likelihoods"]) - np.array(stage["log_likelihoods"]) for stage in stages]
    smallest = min((own[own > 0.0].min() for own in gaps if own.any()), default=1.0)
    ax.set_yscale("symlog", linthresh=max(smallest, _LEAST_GAP))
    ax.margins(0.08)
    first = 1
    for i, (stage, own) in enumerate(zip(stages, gaps, strict=True)):
        numbers = np.arange(first, first + len(own))
        colour = palette.colour(i)
        ax.plot(numbers, own, ".", color=colour, markersize=4.0)
        label = f"{stage['name']}, {stage['n_rows']:,} rows"
        ax.plot(numbers, np.minimum.accumulate(own), color=colour, linewidth=1.5, label=label)
        first += len(own)
    ax.set_xlabel("iterations on the sample")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_ylabel("log-likelihood below the best of the stage, nats per row")
    ax.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=2, frameon=False, fontsize="small")


def _draw_reads(ax: Axes, reads: _Reads) -> None:
    """Draw a line for each start, and a mark or band for each pass in the colour of its purpose."""
    places, palette = np.arange(len(reads.ends)), Palette.of(ax)
    for start in np.split(places, np.flatnonzero(reads.is_first)):
        kept = start[reads.is_kept[start]]
        ax.plot(reads.ends[kept], reads.gaps[kept], color=palette.faint, linewidth=1.2, zorder=1)
    size = 6.0 if len(places) <= _MOST_WITH_VALUES else 3.5
    purposes = list(dict.fromkeys(reads.purposes.tolist()))
    for i, purpose in enumerate(purposes):
        is_own = reads.purposes == purpose
        style = {"color": palette.colour(i), "label": purpose}
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
        ax.plot(
            reads.ends[rejected], reads.gaps[rejected], "x", color=palette.ink, label="not accepted"
        )
    if len(places) <= _MOST_WITH_VALUES:
        _write_values(ax, reads)


def _write_values(ax: Axes, reads: _Reads) -> None:
    background = Palette.of(ax).background
    outline = [patheffects.withStroke(linewidth=3, foreground=background)]
    for i in np.flatnonzero(reads.is_evaluated):
        ax.annotate(
            f"{reads.log_likelihoods[i]:.6f}",
            (float(reads.ends[i]), float(reads.gaps[i])),
            xytext=(0, 8),
            textcoords="offset points",
            ha="center",
            path_effects=outline,
        )


def _draw_stream(ax: Axes, model: Any) -> Axes:
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
    # Scores of the very first rows are far from all others.
    settled = scores[edges[1:] > edges[0] + width]
    margin = 0.05 * np.ptp(settled) or 1.0
    lowest = settled.min() - margin
    means[means < lowest] = np.nan
    palette = Palette.of(ax)
    ax.stairs(scores, edges, baseline=None, color=palette.faint, label="entry of the history")
    ax.plot(
        places, means, color=palette.colour(0), linewidth=2.0, label=f"mean of {_BRIEF(width)} rows"
    )
    for i, change in enumerate(model.changes_):
        label = "change found" if i == 0 else None
        ax.axvline(change, color=palette.colour(1), linestyle="--", linewidth=1.5, label=label)
    ax.set_xlabel("rows learned")
    ax.set_xlim(edges[0], edges[-1])
    ax.xaxis.set_major_formatter(_BRIEF)
    ax.set_ylabel("log-likelihood before learning, nats per row")
    ax.set_ylim(lowest, scores.max() + margin)
    legend_beside(ax)
    return ax
