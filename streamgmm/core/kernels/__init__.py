"""The compiled kernels: functions from arrays to arrays, without objects of the package.

May import NumPy, Numba and llvmlite. ``mixture`` holds the entry points that Python calls,
``log_joint`` evaluates a block of rows, ``screening`` finds evaluations that can be skipped,
``products``, ``tiles`` and ``elementary`` hold the inner loops, and ``compilation`` compiles all of
them.
"""
