"""The ledger of a model: it records learned data, so that nothing is learned twice.

A ledger records batches by their ids, and files and arrays by their names with the number of
learned rows. It is saved with the model, in the same write. Its size is bounded: if there are many
names, the lowest ones are forgotten, and every name up to the highest forgotten one counts as
learned.
"""

from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass, field, replace
from typing import Any, Generic, Self, TypeVar

from streamgmm.model_files import has_updates
from streamgmm.sources.files import natural_order

# Largest number of names that are remembered.
_MOST_NAMES = 1024
# Lengths of stamps in older and in present ledgers.
_STAMP_LENGTHS = (2, 4)

V = TypeVar("V")


@dataclass(frozen=True)
class Register(Generic[V]):
    """Values by name; only the highest names are remembered.

    Attributes
    ----------
    entries : dict of str to value
        Values in the order of their names.
    watermark : str or None
        The highest forgotten name; None if no name was forgotten.
    """

    entries: Mapping[str, V] = field(default_factory=dict)
    watermark: str | None = None

    def get(self, name: str) -> V | None:
        """Return the value of a name; None if it is not remembered."""
        return self.entries.get(name)

    def is_below(self, name: str) -> bool:
        """Return whether a name is not remembered, but may have been forgotten."""
        if self.watermark is None or name in self.entries:
            return False
        return natural_order(name) <= natural_order(self.watermark)

    def put(self, name: str, value: V) -> "Register[V]":
        """Return the register with a new or changed value."""
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
        """Return the register as JSON values; ``plain`` turns each value into one."""
        entries = {name: plain(value) for name, value in self.entries.items()}
        return {"entries": entries, "watermark": self.watermark}

    @classmethod
    def from_header(cls, header: Mapping[str, Any], value: Callable[[Any], V]) -> Self:
        """Return the register from the result of :meth:`to_header`.

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
    """The learned part of a file or array.

    Attributes
    ----------
    n_rows : int
    latest : str
        Digest of the last few of these rows.
    content : str or None
        Digest of all rows, for a file that is learned as one of several; None if it may grow.
    stamp : tuple of int, or None
        For a completely learned file of this kind: size, modification time, time of the last change
        of its metadata, and number in the file system. Older ledgers have the first two.
    """

    n_rows: int
    latest: str
    content: str | None = None
    stamp: tuple[int, ...] | None = None

    @property
    def may_grow(self) -> bool:
        """Whether appended rows count as new."""
        return self.content is None

    @property
    def is_unfinished(self) -> bool:
        """Whether only the first pieces of the file have been learned."""
        return self.content is not None and self.stamp is None

    def has_stamp(self, stamp: tuple[int, ...]) -> bool:
        """Return whether a file is unchanged, by the recorded part of its stamp."""
        return self.stamp is not None and stamp[: len(self.stamp)] == self.stamp

    @classmethod
    def from_header(cls, values: Any) -> Self:
        """Return the position from the result of ``astuple``."""
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
        Digests of their content.
    folders : Register of Register of Position
    has_updates : bool
        Whether updates have learned data, with or without a name.
    """

    batches: Register[str] = field(default_factory=Register)
    folders: Register[Register[Position]] = field(default_factory=Register)
    has_updates: bool = False

    def with_batch(self, batch_id: str, digest: str) -> "Ledger":
        """Return the ledger after one more batch."""
        return replace(self, batches=self.batches.put(batch_id, digest))

    def files_in(self, folder: str) -> Register[Position]:
        """Return the files and arrays of a folder."""
        return self.folders.get(folder) or Register()

    def with_position(self, folder: str, name: str, position: Position) -> "Ledger":
        """Return the ledger after more rows of a file or array."""
        files = self.files_in(folder).put(name, position)
        return replace(self, folders=self.folders.put(folder, files))

    def to_header(self) -> dict[str, Any]:
        """Return the ledger as JSON values."""
        return {
            "batches": self.batches.to_header(str),
            "folders": self.folders.to_header(lambda files: files.to_header(astuple)),
            "has_updates": self.has_updates,
        }

    @classmethod
    def from_header(cls, header: Mapping[str, Any]) -> Self:
        """Return the ledger from the result of :meth:`to_header`.

        Raises
        ------
        ValueError
            If the header is not such a result.
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
