"""The location of a table, and its key in a ledger."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from streamgmm.ledger import Ledger, Position
from streamgmm.protocols import Source
from streamgmm.sources.open import open_source
from streamgmm.urls import is_url, split, without_credentials


@dataclass(frozen=True)
class TableKey:
    """The location of a table, and its key.

    Attributes
    ----------
    data : str
        Path or URL.
    description : mapping of str to object
        Arguments of :func:`streamgmm.open` that describe it.
    folder, name : str
    """

    data: str
    description: Mapping[str, Any]
    folder: str
    name: str

    @classmethod
    def of(cls, data: str, description: Mapping[str, Any]) -> Self:
        """Return the key of the table at a path or URL."""
        location, inner = split(data)
        inner = (description.get("path") or inner or "").strip("/")
        if is_url(location):
            folder, _, name = without_credentials(location).rstrip("/").rpartition("/")
        else:
            folder, name = os.path.split(Path(location).resolve())
        return cls(data, description, folder, f"{name}::/{inner}" if inner else name)

    def open(self) -> Source:
        """Return the table."""
        return open_source(self.data, **self.description)

    def is_below(self, ledger: Ledger) -> bool:
        """Return whether names of this order are not remembered any more."""
        files = ledger.files_in(self.folder)
        return ledger.folders.is_below(self.folder) or files.is_below(self.name)

    def position(self, ledger: Ledger) -> Position | None:
        """Return how far it has been learned; None if it is new."""
        return ledger.files_in(self.folder).get(self.name)

    def noted(self, ledger: Ledger, position: Position) -> Ledger:
        """Return a ledger that knows how far it has been learned."""
        return ledger.with_position(self.folder, self.name, position)
