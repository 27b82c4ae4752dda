"""What a model in a file has learned, so that nothing is learned twice.

A ledger knows batches by their ids, and files and arrays by their names with how far they have been
read. It is saved with the model, in the same write. It does not grow for ever: of many names the
lowest are forgotten, and from then on what is not above them counts as learned.
"""

from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass, field, replace
from typing import Any, Generic, Self, TypeVar

from streamgmm.model_files import has_updates
from streamgmm.sources.files import natural_order

# Names that are remembered, at most.
_MOST_NAMES = 1024
# Of older ledgers and of those that are written now.
_STAMP_LENGTHS = (2, 4)

V = TypeVar("V")


@dataclass(frozen=True)
class Register(Generic[V]):
    """Values by name, of which those of the highest names are remembered.

    Attributes
    ----------
    entries : dict of str to value
        By the order of their names.
    watermark : str or None
        The highest name that was forgotten; None if none was.
    """

    entries: Mapping[str, V] = field(default_factory=dict)
    watermark: str | None = None

    def get(self, name: str) -> V | None:
        """Return the value of a name; None if it is not remembered."""
        return self.entries.get(name)

    def is_below(self, name: str) -> bool:
        """Return whether a name that is not remembered may be one that was forgotten."""
        if self.watermark is None or name in self.entries:
            return False
        return natural_order(name) <= natural_order(self.watermark)

    def put(self, name: str, value: V) -> "Register[V]":
        """With a value more, or another one."""
        entries = {**self.entries, name: value}
        highest = next(reversed([*self.entries]), name)
        if natural_order(name) < natural_order(highest):
            entries = {known: entries[known] for known in sorted(entries, key=natural_order)}
        if len(entries) <= _MOST_NAMES:
            return Register(entries, self.watermark)
        lowest = next(iter(entries))
        del entries[lowest]
        return Register(entries, lowest)

    def to_header(self, plain: Callable[[V], Any]) -> dict[str, Any]:
        """As JSON can say it, if it can say what is made of the values."""
        entries = {name: plain(value) for name, value in self.entries.items()}
        return {"entries": entries, "watermark": self.watermark}

    @classmethod
    def from_header(cls, header: Mapping[str, Any], value: Callable[[Any], V]) -> Self:
        """Return what :meth:`to_header` made a part of a header of.

        Raises
        ------
        AttributeError, KeyError, TypeError, ValueError
            If something is missing or of the wrong kind.
        """
        entries = {name: value(content) for name, content in header["entries"].items()}
        watermark = header["watermark"]
        return cls(entries, None if watermark is None else _text(watermark))


@dataclass(frozen=True)
class Position:
    """How far a file or array has been learned.

    Attributes
    ----------
    n_rows : int
    latest : str
        Digest of the last few of these rows.
    content : str or None
        Digest of all of them, of a file that is learned as one of several; None of what may grow.
    stamp : tuple of int, or None
        Of such a file, when all of it has been learned: its size, the time of its content, the
        time of the last change of anything, its number in the file system. Older ledgers have
        the first two.
    """

    n_rows: int
    latest: str
    content: str | None = None
    stamp: tuple[int, ...] | None = None

    @property
    def may_grow(self) -> bool:
        """Whether rows that are appended are new."""
        return self.content is None

    @property
    def is_unfinished(self) -> bool:
        """Whether it is a file of which the first pieces have been learned."""
        return self.content is not None and self.stamp is None

    def has_stamp(self, stamp: tuple[int, ...]) -> bool:
        """Return whether a file is as it was, by as much as is known of it."""
        return self.stamp is not None and stamp[: len(self.stamp)] == self.stamp

    @classmethod
    def from_header(cls, values: Any) -> Self:
        """Return what ``astuple`` made plain values of."""
        n_rows, latest, content, stamp = values
        if stamp is not None:
            if len(stamp) not in _STAMP_LENGTHS:
                raise ValueError(f"{stamp!r} is no stamp of a file")
            stamp = tuple(map(int, stamp))
        content = None if content is None else _text(content)
        if not 0 <= n_rows < 2**63:
            raise ValueError(f"{n_rows} is no number of rows")
        return cls(int(n_rows), _text(latest), content, stamp)


@dataclass(frozen=True)
class Ledger:
    """Batches by their ids, and positions in files and arrays by folder and name.

    Attributes
    ----------
    batches : Register of str
        Digests of what they held.
    folders : Register of Register of Position
    has_updates : bool
        Whether updates have learned anything, which need not have a name.
    """

    batches: Register[str] = field(default_factory=Register)
    folders: Register[Register[Position]] = field(default_factory=Register)
    has_updates: bool = False

    def with_batch(self, batch_id: str, digest: str) -> "Ledger":
        """Return the state after a batch more."""
        return replace(self, batches=self.batches.put(batch_id, digest))

    def files_in(self, folder: str) -> Register[Position]:
        """Return the files and arrays of a folder."""
        return self.folders.get(folder) or Register()

    def with_position(self, folder: str, name: str, position: Position) -> "Ledger":
        """Return the state after more rows of a file or array."""
        files = self.files_in(folder).put(name, position)
        return replace(self, folders=self.folders.put(folder, files))

    def to_header(self) -> dict[str, Any]:
        """As a part of a header."""
        return {
            "batches": self.batches.to_header(str),
            "folders": self.folders.to_header(lambda files: files.to_header(astuple)),
            "has_updates": self.has_updates,
        }

    @classmethod
    def from_header(cls, header: Mapping[str, Any]) -> Self:
        """Return what :meth:`to_header` made a part of a header of.

        Raises
        ------
        ValueError
            If it is not.
        """
        try:
            batches = Register.from_header(header["batches"], _text)
            folders = Register.from_header(
                header["folders"], lambda files: Register.from_header(files, _position)
            )
            return cls(batches, folders, has_updates(header))
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
            raise ValueError(f"its ledger of what it learned is not one ({error!r})") from error


def _position(values: Any) -> Position:
    return Position.from_header(values)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value
