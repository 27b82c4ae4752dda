"""Pictures of a fitted mixture, its data and its fit; the extra ``plot`` installs matplotlib.

In a notebook, in an interactive session and wherever pyplot has been imported, new figures belong
to pyplot: a notebook shows them below the cell, and ``plt.show()`` shows them elsewhere. In other
programs nothing imports pyplot, so that neither its state nor a display matters, and
:func:`save_picture` writes a figure. With ``ax=`` or ``figure=`` the caller decides.
"""

from streamgmm.packages import needed_by

with needed_by("a picture"):
    import matplotlib as matplotlib

    from streamgmm.plotting.convergence import plot_convergence
    from streamgmm.plotting.criteria import plot_criteria
    from streamgmm.plotting.entropy import plot_entropy
    from streamgmm.plotting.figures import save_picture
    from streamgmm.plotting.goodness import plot_fit
    from streamgmm.plotting.mixture import plot_mixture
    from streamgmm.plotting.pairs import plot_pairs
    from streamgmm.plotting.uncertainty import plot_uncertainty

__all__ = [
    "plot_convergence",
    "plot_criteria",
    "plot_entropy",
    "plot_fit",
    "plot_mixture",
    "plot_pairs",
    "plot_uncertainty",
    "save_picture",
]
