"""The compiled kernels: arrays in, arrays out, no object of ours.

May import NumPy, Numba and llvmlite. ``mixture`` holds the entry points that Python calls,
``log_joint`` the evaluation of a block of rows, ``screening`` what of it need not be done,
``products`` (in ``tiles``) and ``elementary`` what they are made of, ``compilation`` how they are
compiled.
"""
