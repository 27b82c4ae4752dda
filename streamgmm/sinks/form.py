"""The forms of outputs: how they grow on the disk, and how they get their name."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from streamgmm.errors import OutputError
from streamgmm.paths import refuse_special
from streamgmm.protocols import Region, Writer


class Stored(Protocol):
    """The values of an unfinished output on the disk."""

    def __setitem__(self, region: Region, values: NDArray[Any]) -> None:
        """Store the values of a box of samples."""

    def sync(self, regions: Sequence[Region]) -> None:
        """Force the values of boxes to the disk."""

    def digest(self, region: Region) -> bytes:
        """Return the digest of a box of samples, as it is stored."""

    def remove(self, region: Region) -> None:
        """Remove the values of a box, if it shares its stored chunks with no other box."""

    def writer(self) -> Writer | None:
        """Return a writer for other processes; None if only this process can write."""


class Form(ABC):
    """A kind of output, for one target.

    Parameters
    ----------
    target : Path
        Gets its name when the output is complete.

    Attributes
    ----------
    part_folder : Path
        Folder in which the output grows.
    grown_name : str
        Its name there.
    """

    def __init__(self, target: Path) -> None:
        self.target = target
        self.part_folder = target.with_name(f"{target.name}.part")
        self.grown_name = target.name

    def check_target(self) -> None:
        """Refuse a target that exists and must not be replaced.

        Raises
        ------
        OutputError
        """
        refuse_special(self.target)
        if self.target.is_dir():
            raise OutputError(
                f"{self.target} is a directory but no Zarr array; it will not be replaced"
            )

    @abstractmethod
    def create(self, path: Path, is_shared: bool) -> Stored:
        """Make the output, without values, and force it to the disk.

        Parameters
        ----------
        path : Path
        is_shared : bool
            Whether two boxes may share a stored chunk.
        """

    @abstractmethod
    def open(self, path: Path, is_shared: bool) -> Stored:
        """Open what :meth:`create` made, to continue writing."""

    @abstractmethod
    def layout_digest(self, path: Path) -> str:
        """Return the digest of everything in the output but the values; "" if it is damaged."""

    def finished(self, grown: Path) -> Path:
        """Return the file or folder that is to get the name, once all values are on the disk."""
        return grown

    def published(self) -> None:  # noqa: B027 - most forms have nothing to do
        """Announce the output, which has its name, where others look for it."""
