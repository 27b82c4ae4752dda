"""Colours that stand out from the background and from each other."""

from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, LinearSegmentedColormap, to_rgb
from numpy.typing import NDArray

# Each palette was searched for the largest difference between any two colours (CIELAB), as people
# with full colour vision, protanopia and deuteranopia see them, among the colours whose contrast
# with a white or a black background is at least 3 to 1.
_ON_LIGHT = (
    "#0f69ff", "#e10000", "#0fa54b", "#692d78", "#ff4b96", "#0096e1", "#781e1e", "#0000ff",
)  # fmt: skip
_ON_DARK = (
    "#4b96ff", "#ff0000", "#3cf087", "#a50f96", "#ffd200", "#2de1f0", "#b45a5a", "#690fff",
)  # fmt: skip
#: Number of colours that can be distinguished.
N_COLOURS = len(_ON_LIGHT)
# Below this relative luminance white stands out more than black.
_DARK = 0.18


@dataclass(frozen=True)
class Palette:
    """Colours for one background.

    Attributes
    ----------
    background, ink : str or tuple
        Colour of the background, and colour of what has no colour of its own.
    faint, dots : str
        Colours of areas, and of single points, that stand behind all else.
    colours : tuple of str
    """

    background: tuple[float, float, float]
    ink: str
    faint: str
    dots: str
    colours: tuple[str, ...]

    @classmethod
    def of(cls, ax: Axes) -> "Palette":
        """Return the colours for the background of some axes."""
        background = to_rgb(ax.get_facecolor())
        if ax.get_facecolor() == (0.0, 0.0, 0.0, 0.0):
            background = (1.0, 1.0, 1.0)
        if relative_luminance(background) < _DARK:
            return cls(background, "0.85", "0.4", "0.55", _ON_DARK)
        return cls(background, "0.25", "0.75", "0.6", _ON_LIGHT)

    def colour(self, i: int) -> str:
        """Return colour i; they repeat."""
        return self.colours[i % N_COLOURS]

    @property
    def densities(self) -> Colormap:
        """Greys of few to many rows, none of which hides a line."""
        ends = ("0.25", "0.5") if self.ink == "0.85" else ("0.8", "0.4")
        return LinearSegmentedColormap.from_list("densities", ends)

    @property
    def doubts(self) -> Colormap:
        """Colours from certain to uncertain; lightness alone gives the order."""
        if self.ink == "0.85":
            return LinearSegmentedColormap.from_list("doubts", ["0.4", "#c46a1e", "#ffe08a"])
        return LinearSegmentedColormap.from_list("doubts", ["0.65", "#d0661a", "#5c0a3c"])


def relative_luminance(colour: tuple[float, float, float]) -> float:
    """Return the relative luminance of a colour, from 0 to 1.

    References
    ----------
    Web Content Accessibility Guidelines 2.2, W3C (2023), section 1.4.11 and its definitions.
    """
    values: NDArray[np.float64] = np.asarray(colour, dtype=np.float64)
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    return float(linear @ (0.2126, 0.7152, 0.0722))
