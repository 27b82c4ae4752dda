"""The mathematics of Gaussian mixtures, pure: nothing here reads data or starts a thread.

One sentence holds it together: :class:`~streamgmm.core.parameters.Parameters` are
prepared as an :class:`~streamgmm.core.e_step.EStep`, which turns rows into
:class:`~streamgmm.core.statistics.Statistics`, from which
:func:`~streamgmm.core.maximization.maximize` makes new parameters.

May import ``streamgmm.errors``, NumPy, SciPy and Numba.
"""
