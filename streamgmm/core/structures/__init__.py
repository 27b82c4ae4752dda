"""Covariance structures: one file for each, with everything that is special about it.

``structure`` defines the interface, :data:`STRUCTURES` holds the registered structures, and
:func:`register` adds one, or refuses it if an operation is missing. ``matrix_structure``,
``scale_structure``, ``own_covariances`` and ``shared_covariance`` hold the code that several
structures share, ``covariance_update`` the M-step of covariances.
"""

from streamgmm.core.structures.matrices import (
    BLOCK_BYTES,
    Array,
    blocks,
    relative_ridge,
    solve,
    symmetric,
    triangular,
    upper_triangle,
)
from streamgmm.core.structures.registry import (
    STRUCTURES,
    register,
    require_structure,
)
from streamgmm.core.structures.structure import CovarianceStructure, Pooling

__all__ = [
    "BLOCK_BYTES",
    "STRUCTURES",
    "Array",
    "CovarianceStructure",
    "Pooling",
    "blocks",
    "register",
    "relative_ridge",
    "require_structure",
    "solve",
    "symmetric",
    "triangular",
    "upper_triangle",
]
