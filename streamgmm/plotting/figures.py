"""Figures: where they belong, what stands beside their axes, and files of them."""

import os
import sys
import uuid
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure, FigureBase
from numpy.typing import NDArray

from streamgmm.errors import OutputError, ParameterError
from streamgmm.paths import local_path, writing

_DOTS_PER_INCH = 150
_WIDTH = 8.0


def given_or_new(ax: Axes | None, height: float) -> Axes:
    """Return the given axes, or those of a new figure of some height, in inches.

    Raises
    ------
    ParameterError
        If something else than axes is given.
    """
    if ax is None:
        return new_figure(_WIDTH, height).add_subplot()
    if not isinstance(ax, Axes):
        raise ParameterError(f"ax is a {type(ax).__name__}; give axes of matplotlib, or None")
    return ax


def given_or_new_figure(figure: FigureBase | None, width: float, height: float) -> FigureBase:
    """Return the given figure, or a new one of some size, in inches.

    Raises
    ------
    ParameterError
        If something else than a figure is given.
    """
    if figure is None:
        return new_figure(width, height)
    if not isinstance(figure, FigureBase):
        raise ParameterError(
            f"figure is a {type(figure).__name__}; give a Figure or SubFigure of matplotlib, or "
            "None"
        )
    return figure


def new_figure(width: float, height: float) -> Figure:
    """Return a figure of some size in inches, which belongs to pyplot if pyplot is used."""
    if not _is_pyplot_used():
        return Figure(figsize=(width, height), layout="constrained")
    from matplotlib import pyplot

    return pyplot.figure(figsize=(width, height), layout="constrained")


def _is_pyplot_used() -> bool:
    """Return whether pyplot shows the figures of this session.

    It does where it has been imported, and where a person types: in IPython, in a notebook, and at
    Python's prompt.
    """
    if "matplotlib.pyplot" in sys.modules or hasattr(sys, "ps1"):
        return True
    ipython = sys.modules.get("IPython")
    return ipython is not None and ipython.get_ipython() is not None


def legend_beside(ax: Axes, title: str | None = None) -> None:
    """Draw a legend to the right of the axes."""
    place: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.01, 1.0)}
    ax.legend(title=title, borderaxespad=0.0, frameon=False, **place)


def write_note(ax: Axes, *notes: str) -> None:
    """Write sentences above the axes, those that are not empty."""
    text = "\n".join(note for note in notes if note)
    if text:
        ax.set_title(text, loc="left", fontsize="small")


def save_picture(ax: Axes | NDArray[Any], path: str | os.PathLike[str]) -> None:
    """Write the figure of some axes; the file is whole or is not there.

    Parameters
    ----------
    ax : matplotlib.axes.Axes, or ndarray of these
        The value that a function of this module returned.
    path : path-like
        Ends in ``.png``, ``.pdf`` or ``.svg``.

    Raises
    ------
    OutputError
        If the file cannot be written.
    ParameterError
        If the axes are in no figure.

    Examples
    --------
    >>> import numpy as np
    >>> from streamgmm import GaussianMixture
    >>> from streamgmm.plotting import plot_mixture, save_picture
    >>> X = np.random.default_rng(0).normal(size=(500, 2))
    >>> save_picture(plot_mixture(GaussianMixture().fit(X)), "picture.png")  # doctest: +SKIP
    """
    target = local_path(path, OutputError, "pictures")
    if target.is_dir():
        raise OutputError(f"{target} cannot be written: it is a directory; name a file in it")
    figure = _figure_of(ax)
    unfinished = target.with_name(f".{uuid.uuid4().hex[:8]}.{target.name}")
    try:
        with writing(target):
            figure.savefig(unfinished, dpi=_DOTS_PER_INCH)
            unfinished.replace(target)
    except ValueError as error:
        raise OutputError(
            f"{target}: {error}; name a file that ends in .png, .pdf or .svg"
        ) from None
    finally:
        unfinished.unlink(missing_ok=True)


def _figure_of(ax: Axes | NDArray[Any]) -> Figure:
    """Return the figure that some axes are in.

    Raises
    ------
    ParameterError
        If there are no axes.
    """
    some = ax if isinstance(ax, Axes) else next((one for one in ax.flat if one is not None), None)
    figure = None if some is None else some.get_figure(root=True)
    if figure is None:
        raise ParameterError("ax is in no figure; give the value that a plot function returned")
    return figure
