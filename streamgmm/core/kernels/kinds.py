"""The forms of covariances that kernels evaluate."""

# Kinds whose factors are matrices come first. LOW_RANK has a kernel of its own.
FULL, TIED, DIAG, SPHERICAL, LOW_RANK = range(5)
