"""A sink for arrays in memory, and for objects that slice like them."""

from typing import Any

from numpy.typing import NDArray

from streamgmm.protocols import Region, region_shape


class ArraySink:
    """Writes into an array that slices like NumPy's, of the samples' shape or this and (M,)."""

    def __init__(self, array: Any) -> None:
        self.array = array

    def has(self, i: int) -> bool:
        """Return False: an array in memory keeps no chunk from an earlier call."""
        return False

    def write(self, region: Region, values: NDArray[Any]) -> None:
        """Store the values of a box of samples, (n,) or (n, M), in C order over the box."""
        self.array[region] = values.reshape(region_shape(region) + values.shape[1:])

    def finish(self, i: int) -> None:
        """Do nothing: an array in memory records no chunks."""
