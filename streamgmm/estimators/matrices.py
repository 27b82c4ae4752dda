"""Matrices of covariances of low rank, which are computed when they are asked for."""

from collections.abc import Callable
from typing import Any

from streamgmm.core.structures import Array
from streamgmm.core.structures.low_rank_factors import dense_covariances, dense_precisions, joined
from streamgmm.core.structures.registry import STRUCTURES
from streamgmm.errors import MemoryLimitError
from streamgmm.executors.memory import free_bytes, parse_bytes
from streamgmm.quantities import format_bytes

# Arrays of the size of the result that are held while it is computed.
_COPIES = 3


def matrices_on_access(name: str, description: str) -> Any:
    """Return a property of a model: the stored array, or matrices computed from the loadings.

    Parameters
    ----------
    name : {"covariances_", "precisions_", "precisions_cholesky_"}
    description : str
        The docstring of the property.
    """

    def stored_or_computed(self: Any) -> Array:
        if name in self.__dict__:
            found: Array = self.__dict__[name]
            return found
        if "loadings_" not in self.__dict__:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        covariances = joined(self.loadings_, self.noise_variances_)
        return computed_matrices(name, covariances, self.memory_limit)

    def store(self: Any, value: Array) -> None:
        self.__dict__[name] = value

    def delete(self: Any) -> None:
        del self.__dict__[name]

    return property(stored_or_computed, store, delete, description)


def computed_matrices(name: str, covariances: Array, limit: int | str | None) -> Array:
    """Return matrices (K, D, D) of stored covariances of low rank.

    Parameters
    ----------
    name : {"covariances_", "precisions_", "precisions_cholesky_"}
    covariances : ndarray of shape (K, D, R + 1)
    limit : int or str, optional
        Bytes that the process may hold; None for what is free.

    Raises
    ------
    MemoryLimitError
        If they do not fit in memory.
    """
    k, d, _ = covariances.shape
    needed = 8 * k * d * d
    room = free_bytes() if limit is None else parse_bytes(limit)
    if _COPIES * needed > room:
        raise MemoryLimitError(
            f"{name} of {k} component(s) in {d} columns would take {format_bytes(needed)}, and "
            f"{format_bytes(_COPIES * needed)} while they are computed, but there is room for "
            f"{format_bytes(room)}; use loadings_ and noise_variances_"
        )
    return _COMPUTED[name](covariances)


def _precisions(covariances: Array) -> Array:
    structure = STRUCTURES[f"low_rank({covariances.shape[2] - 1})"]
    return dense_precisions(structure.cholesky(covariances))


def _precisions_cholesky(covariances: Array) -> Array:
    full = STRUCTURES["full"]
    return full.transposed(full.invert(full.cholesky(dense_covariances(covariances))))


_COMPUTED: dict[str, Callable[[Array], Array]] = {
    "covariances_": dense_covariances,
    "precisions_": _precisions,
    "precisions_cholesky_": _precisions_cholesky,
}
