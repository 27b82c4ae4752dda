"""Components in a picture: colours, ellipses, densities, and their list beside it."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Ellipse, Rectangle

from streamgmm.core.noise import Noise
from streamgmm.core.structures import Array
from streamgmm.plotting.colours import N_COLOURS, Palette
from streamgmm.plotting.views import View

# Of more components than these only the largest have a colour, a number and a line in the list.
_MOST_LISTED = 20
# Colours that repeat differ in their lines.
_DASHES: tuple[Any, ...] = ("-", (0, (4, 1.5)), (0, (1, 1)))
# Widths of the ellipses of one and two standard deviations.
_WIDTHS, _THIN_WIDTHS, _FAINT_WIDTHS = (2.2, 1.2), (1.6, 0.8), (0.7, 0.4)
# Values at which densities are drawn: over the axes, and about each mean.
_N_PLACES, _N_NEAR = 501, 61
# Rows are shown between these quantiles, so that one outlier does not shrink all else.
_SHOWN_QUANTILES = (0.0005, 0.9995)


@dataclass(frozen=True)
class Style:
    """How a component is drawn.

    Attributes
    ----------
    colour : str
    dashes : str or tuple
        Line style of matplotlib.
    widths : tuple of float
        Line widths of its ellipses of one and two standard deviations.
    is_listed : bool
        Whether it has a number, and a line in the list of components.
    height : float
        Its place in the drawing order, from 0 to 1: larger components are above smaller ones.
    """

    colour: str
    dashes: Any
    widths: tuple[float, float]
    is_listed: bool
    height: float


@dataclass(frozen=True, eq=False)
class Components:
    """Components as they are drawn on the m axes of a view.

    Attributes
    ----------
    weights : ndarray of shape (K,)
    means : ndarray of shape (K, m)
    covariances : ndarray of shape (K, m, m)
    styles : list of Style
    palette : Palette
    noise : Noise or None
        Noise on these axes; None if there is none, or the axes combine features.
    """

    weights: Array
    means: Array
    covariances: Array
    styles: list[Style]
    palette: Palette
    noise: Noise | None = None

    @classmethod
    def of(cls, model: Any, view: View, palette: Palette) -> "Components":
        """Return the components of a fitted model.

        Raises
        ------
        ParameterError
            If the model has noise of which only the density of all features together is known.
        """
        weights = np.asarray(model.weights_)
        styles = _styles(weights, palette)
        return cls(weights, *view.components(model), styles, palette, noise_of(model, view))

    def along(self, *axes: int) -> "Components":
        """Return the same components on some of the axes."""
        chosen = list(axes)
        covariances = self.covariances[:, chosen][:, :, chosen]
        noise = self.noise
        if noise is not None and noise.has_box:
            noise = noise.of_features(np.array(chosen))
        return replace(self, means=self.means[:, chosen], covariances=covariances, noise=noise)

    def at(self, means: Array) -> "Components":
        """Return the same components at other places (K, m)."""
        return replace(self, means=means)

    @property
    def by_weight(self) -> list[int]:
        """Numbers of the components, the largest first."""
        return _by_weight(self.weights)

    def limits(self, points: Array | None) -> tuple[Array, Array]:
        """Return lower and upper limits of each axis: three standard deviations, and the rows."""
        reach = 3.0 * np.sqrt(np.diagonal(self.covariances, axis1=1, axis2=2))
        lower, upper = (self.means - reach).min(axis=0), (self.means + reach).max(axis=0)
        for j, values in enumerate([] if points is None else points.T):
            present = values[np.isfinite(values)]
            if present.size:
                first, last = np.quantile(present, _SHOWN_QUANTILES)
                lower[j], upper[j] = min(lower[j], first), max(upper[j], last)
        return lower, upper

    def in_ink(self) -> "Components":
        """Return the same components without colours, in thin lines."""
        ink = self.palette.ink
        styles = [
            replace(style, colour=ink, dashes="-", widths=_FAINT_WIDTHS) for style in self.styles
        ]
        return replace(self, styles=styles)


def noise_of(model: Any, view: View) -> Noise | None:
    """Return the noise of a fitted model on the axes of a view; None if these combine features.

    Raises
    ------
    ParameterError
        If only the density of all features together is known, and the view shows some of them.
    """
    noise: Noise | None = model.fitted_model_.parameters.noise
    if noise is None or not view.is_of_features:
        return None
    if len(view.columns) == model.means_.shape[1] and not noise.has_box:
        return noise
    return noise.of_features(np.array(view.columns))


def _styles(weights: Array, palette: Palette) -> list[Style]:
    """Return the style of each component (K,)."""
    found: list[Any] = [None] * len(weights)
    n_listed = len(weights) if len(weights) <= _MOST_LISTED else N_COLOURS
    widths = _WIDTHS if len(weights) <= N_COLOURS else _THIN_WIDTHS
    for order, k in enumerate(_by_weight(weights)):
        height = 1.0 - order / len(weights)
        if order < n_listed:
            colour, dashes = palette.colour(order), _DASHES[order // N_COLOURS]
            found[k] = Style(colour, dashes, widths, True, height)
        else:
            found[k] = Style(palette.ink, "-", _FAINT_WIDTHS, False, height)
    return found


def _by_weight(weights: Array) -> list[int]:
    found: list[int] = np.argsort(-weights, kind="stable").tolist()
    return found


def draw_ellipses(ax: Axes, components: Components) -> None:
    """Draw the ellipses of one and two standard deviations of each component, in two dimensions."""
    for mean, covariance, style in zip(
        components.means, components.covariances, components.styles, strict=True
    ):
        for deviations, width in zip((1, 2), style.widths, strict=True):
            ellipse = _ellipse(mean, covariance, deviations)
            ellipse.set(facecolor="none", edgecolor=style.colour, linewidth=width)
            ellipse.set(linestyle=style.dashes, zorder=3.0 + 0.9 * style.height)
            if style.is_listed:
                ellipse.set_path_effects(_halo(width + 1.5, components.palette))
            ax.add_patch(ellipse)
    if components.noise is not None and components.noise.has_box:
        low, high = components.noise.box
        width, height = (high - low).tolist()
        box = Rectangle((float(low[0]), float(low[1])), width, height, fill=False)
        box.set(edgecolor=components.palette.ink, linestyle=":", zorder=2.5)
        ax.add_patch(box)


def draw_numbers(ax: Axes, components: Components) -> None:
    """Write the number of each listed component, the label of its rows, at its mean."""
    for k, (mean, style) in enumerate(zip(components.means, components.styles, strict=True)):
        if style.is_listed:
            ax.annotate(
                str(k),
                (float(mean[0]), float(mean[1])),
                color=style.colour,
                weight="bold",
                ha="center",
                va="center",
                zorder=4.0 + 0.9 * style.height,
                path_effects=_halo(3.0, components.palette),
                annotation_clip=True,
            )


def draw_densities(ax: Axes, components: Components, n_coloured: int | None = None) -> None:
    """Draw the weighted densities of the components of one feature, and their sum.

    Parameters
    ----------
    ax : Axes
        Its limits along x are the values that are shown.
    components : Components
        In one dimension.
    n_coloured : int, optional
        Number of the largest components that have a line of their own; by default all.
    """
    means, variances = components.means[:, 0], components.covariances[:, 0, 0]
    lower, upper = ax.get_xlim()
    near = means + np.sqrt(variances) * np.linspace(-4.0, 4.0, _N_NEAR)[:, np.newaxis]
    places = np.union1d(np.linspace(lower, upper, _N_PLACES), near)
    x = places[(places >= lower) & (places <= upper)]
    total = np.zeros(len(x))
    for order, k in enumerate(components.by_weight):
        density = components.weights[k] * _density(x, means[k], variances[k])
        total += density
        style = components.styles[k]
        if n_coloured is None or order < n_coloured:
            ax.plot(
                x,
                density,
                color=style.colour,
                linestyle=style.dashes,
                linewidth=style.widths[0] * 0.7,
                zorder=2.0 + 0.9 * style.height,
            )
    ink = components.palette.ink
    if components.noise is not None:
        noise = _noise_density(x, components.noise)
        total += noise
        ax.plot(x, noise, color=ink, linewidth=1.0, linestyle=":", zorder=2.5)
    ax.plot(x, total, color=ink, linewidth=1.0, linestyle="--", zorder=3.0)
    ax.set_ylim(bottom=0.0)


def component_handles(components: Components) -> list[Line2D]:
    """Return the lines of the list of components: the largest first, with label and weight."""
    weights, styles = components.weights, components.styles
    listed = [k for k in components.by_weight if styles[k].is_listed]
    handles = [
        _line(styles[k].colour, f"{k}: {weights[k]:.3g}", linestyle=styles[k].dashes)
        for k in listed
    ]
    n_others = len(weights) - len(listed)
    if n_others:
        rest = max(float(weights.sum() - weights[listed].sum()), 0.0)
        label = f"{n_others} others: {rest:.3g}"
        handles.append(_line(components.palette.ink, label, linewidth=0.7))
    if components.noise is not None:
        label = f"noise: {components.noise.weight:.3g}"
        handles.append(_line(components.palette.ink, label, linestyle=":", linewidth=1.0))
    return handles


def sum_handle(components: Components) -> Line2D:
    """Return the line of the list for the sum of the densities."""
    return _line(components.palette.ink, "sum", linestyle="--", linewidth=1.0)


def list_components(ax: Axes, handles: list[Line2D]) -> None:
    """Write the list of components to the right of the axes."""
    ax.legend(
        handles=handles,
        title="component: weight",
        loc="upper left",
        bbox_to_anchor=(1.01, 1.0),
        borderaxespad=0.0,
        frameon=False,
    )


def _line(colour: str, label: str, linestyle: Any = "-", linewidth: float = 2.0) -> Line2D:
    return Line2D([], [], color=colour, label=label, linestyle=linestyle, linewidth=linewidth)


def _noise_density(x: Array, noise: Noise) -> Array:
    """Return the weighted density of the noise of one feature at some values."""
    found: Array = np.full(len(x), np.exp(noise.log_joint))
    if noise.has_box:
        found[(x < noise.box[0, 0]) | (x > noise.box[1, 0])] = 0.0
    return found


def _density(x: Array, mean: float, variance: float) -> Array:
    """Return the density of a Gaussian at some values."""
    found: Array = np.exp(-0.5 * (x - mean) ** 2 / variance) / np.sqrt(2.0 * np.pi * variance)
    return found


def _halo(width: float, palette: Palette) -> list[patheffects.AbstractPathEffect]:
    """Return an outline in the colour of the background."""
    return [patheffects.withStroke(linewidth=width, foreground=palette.background)]


def _ellipse(mean: Array, covariance: Array, deviations: float) -> Ellipse:
    """Return the ellipse of some standard deviations about a mean."""
    variances, axes = np.linalg.eigh(covariance)
    height, width = 2.0 * deviations * np.sqrt(np.maximum(variances, 0.0))
    angle = np.degrees(np.arctan2(axes[1, 1], axes[0, 1]))
    return Ellipse((float(mean[0]), float(mean[1])), width, height, angle=float(angle))
