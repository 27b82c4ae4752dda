"""The covariance structures that are known, by name."""

import inspect

from streamgmm.core.structures.diag import Diag
from streamgmm.core.structures.full import Full
from streamgmm.core.structures.low_rank import LOW_RANK_TYPE, structure_of_name
from streamgmm.core.structures.spherical import Spherical
from streamgmm.core.structures.structure import CovarianceStructure
from streamgmm.core.structures.tied import Tied
from streamgmm.core.structures.tied_diag import TiedDiag
from streamgmm.core.structures.tied_spherical import TiedSpherical
from streamgmm.errors import ParameterError


class _Structures(dict[str, CovarianceStructure]):
    """The structures by name; those of low rank are made for each rank that is asked for."""

    def __missing__(self, name: str) -> CovarianceStructure:
        found = structure_of_name(name)
        if found is None:
            raise KeyError(name)
        return found


#: The structures by the name that ``covariance_type`` gives them; "low_rank(8)" for rank 8.
STRUCTURES: dict[str, CovarianceStructure] = _Structures()


def register(name: str, structure: type[CovarianceStructure] | CovarianceStructure) -> None:
    """Add a covariance structure.

    Parameters
    ----------
    name : str
        The value of ``covariance_type``.
    structure : class or CovarianceStructure
        A class is called without arguments.

    Raises
    ------
    ParameterError
        If the name is taken, or operations are missing; the error names them.

    Examples
    --------
    >>> from streamgmm.core.structures import STRUCTURES, register
    >>> from streamgmm.core.structures.diag import Diag
    >>> class Separable(Diag):
    ...     "Diagonal covariances under another name."
    >>> register("separable", Separable)
    >>> del STRUCTURES["separable"]
    """
    if name in STRUCTURES:
        raise ParameterError(f"there is a covariance structure {name!r} already; choose a new name")
    kind = structure if isinstance(structure, type) else type(structure)
    operations = CovarianceStructure.__abstractmethods__ | getattr(
        kind, "__abstractmethods__", frozenset()
    )
    missing = [
        operation for operation in (*operations, *_ATTRIBUTES) if not _is_provided(kind, operation)
    ]
    if missing:
        raise ParameterError(
            f"the covariance structure {name!r} lacks {', '.join(sorted(missing))}; see "
            "streamgmm.core.structures.CovarianceStructure"
        )
    STRUCTURES[name] = structure() if isinstance(structure, type) else structure


# Attributes that each structure has to set.
_ATTRIBUTES = ("code", "sklearn_type", "has_directions")


def _is_provided(kind: type, operation: str) -> bool:
    value = inspect.getattr_static(kind, operation, None)
    return value is not None and not getattr(value, "__isabstractmethod__", False)


def require_structure(covariance_type: str) -> CovarianceStructure:
    """Return the structure of a name.

    Raises
    ------
    ParameterError
        If there is no such structure.
    """
    if isinstance(covariance_type, str):
        found = STRUCTURES.get(covariance_type) or structure_of_name(covariance_type)
        if found is not None:
            return found
    raise ParameterError(
        f"covariance_type is {covariance_type!r}; choose one of "
        f"{', '.join((*STRUCTURES, LOW_RANK_TYPE))}"
    )


register("full", Full)
register("tied", Tied)
register("diag", Diag)
register("spherical", Spherical)
register("tied_diag", TiedDiag)
register("tied_spherical", TiedSpherical)
