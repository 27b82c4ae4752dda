"""The folder in which an output grows, and its journal of what is done.

Beside the target ``out.npy`` lies, as long as that is unfinished, ``out.npy.part/``: the array
under its final name, a ``lock``, and ``journal.jsonl``. The first line of the journal says what is
written, each later one which chunks are. They are journalled only when they are on the disk, so
that the journal can be believed after a power cut too.
"""

import json
import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from streamgmm.errors import OutputError
from streamgmm.locks import locked

_LOCK, _JOURNAL, _FORMER = "lock", "journal.jsonl", "former"
_LAYOUT = "layout"


class Part:
    """The folder of an unfinished output, which only one process may have open.

    Made by :func:`open_part`.

    Parameters
    ----------
    target : Path
        What the output is to become.

    Attributes
    ----------
    folder : Path
    unfinished : Path
        Where the output grows.
    layout : str or None
        Digest of what the output says of its values, when it was created.
    digests : dict of int to bytes
        Digests of the chunks that are journalled.
    """

    def __init__(self, target: Path) -> None:
        self.target = target
        self.folder = target.with_name(f"{target.name}.part")
        self.unfinished = self.folder / target.name
        self.layout: str | None = None
        self.digests: dict[int, bytes] = {}
        self._former = self.folder / _FORMER

    def begin(self, fingerprint: Mapping[str, Any], layout: str) -> None:
        """Begin the journal of an output that has been created."""
        self._append({**fingerprint, _LAYOUT: layout})
        sync(self.folder)
        sync(self.folder.parent)

    def resume(self, fingerprint: Mapping[str, Any]) -> bool:
        """Take up what is there, if anything is.

        A last line that was not written to its end counts for nothing.

        Raises
        ------
        OutputError
            If it is the beginning of something else.
        """
        journal = self.folder / _JOURNAL
        if not self.unfinished.exists() or not journal.exists():
            return False
        lines = list(_whole_lines(journal.read_bytes()))
        if not lines:
            return False
        begun = json.loads(lines[0])
        self.layout = begun.pop(_LAYOUT, None)
        for key in {**begun, **fingerprint}:
            if begun.get(key) != fingerprint.get(key):
                raise OutputError(
                    f"{self.folder} is the beginning of something else: {key} was "
                    f"{begun.get(key)!r} and is {fingerprint.get(key)!r}; without "
                    "resume=True it is discarded, and another out= leaves it as it is"
                )
        os.truncate(journal, sum(map(len, lines)))
        for line in lines[1:]:
            self.digests |= _chunks_of(json.loads(line))
        return True

    def add(self, digests: Mapping[int, bytes]) -> None:
        """Journal chunks, which are on the disk, with their digests."""
        if digests:
            texts = [digest.hex() for digest in digests.values()]
            self._append({"chunks": [*digests], "digests": texts})
            self.digests.update(digests)

    def publish(self) -> None:
        """Give the output, which is on the disk, its name; what had it before goes last.

        The output takes over the mode of what it replaces and, where the system permits it, the
        owner.
        """
        if self.target.exists():
            former = self.target.stat()
            with suppress(PermissionError):
                os.chown(self.unfinished, former.st_uid, former.st_gid)
            self.unfinished.chmod(stat.S_IMODE(former.st_mode))
        if self.target.is_dir():
            self.target.rename(self._former)
        try:
            self.unfinished.replace(self.target)
        except BaseException:
            self.restore()
            raise
        sync(self.target.parent)
        self.clear()

    def restore(self) -> None:
        """Give back its name to what had it before, if only that was taken away."""
        if self._former.exists() and not self.target.exists():
            self._former.rename(self.target)

    def clear(self) -> None:
        """Discard what is there, but for the lock."""
        # The journal goes first: it must not speak of what is not there.
        (self.folder / _JOURNAL).unlink(missing_ok=True)
        for path in (self.unfinished, self._former):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def _append(self, line: Mapping[str, Any]) -> None:
        with (self.folder / _JOURNAL).open("a") as journal:
            journal.write(json.dumps(line) + "\n")
            journal.flush()
            os.fsync(journal.fileno())


@contextmanager
def open_part(target: Path) -> Iterator[Part]:
    """Yield the folder of a target, locked; removed at the end if nothing in it is worth keeping.

    Raises
    ------
    OutputError
        If another process is writing the target, or the folder holds anything else.
    """
    part = Part(target)
    ours = {_LOCK, _JOURNAL, _FORMER, target.name}
    part.folder.mkdir(_folder_mode(target), exist_ok=True)
    foreign = sorted(path.name for path in part.folder.iterdir() if path.name not in ours)
    if foreign:
        raise OutputError(
            f"{part.folder} is where {target.name} would grow, but holds {', '.join(foreign)}; "
            "move it, or write somewhere else"
        )
    lock = part.folder / _LOCK
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(lock))
        except TimeoutError:
            raise OutputError(
                f"{target} is being written by another process, which has {lock} locked; "
                "wait for it, or write somewhere else"
            ) from None
        try:
            part.restore()
            yield part
        finally:
            if not (part.folder / _JOURNAL).exists():
                shutil.rmtree(part.folder, ignore_errors=True)


def _folder_mode(target: Path) -> int:
    """Return the mode of the folder: those who may not read what is replaced may not look in."""
    if not target.exists():
        return 0o777
    readable = target.stat().st_mode & 0o444
    return 0o700 | readable | readable >> 2


def _whole_lines(content: bytes) -> Iterator[bytes]:
    """Return the lines up to the first one that is damaged or was not written to its end."""
    for line in content.splitlines(keepends=True):
        try:
            is_whole = isinstance(json.loads(line), dict) and line.endswith(b"\n")
        except (ValueError, RecursionError):
            is_whole = False
        if not is_whole:
            return
        yield line


def _chunks_of(line: Mapping[str, Any]) -> dict[int, bytes]:
    """Return the chunks of a line with their digests; none of a damaged line.

    Journals of older releases have no digests, so none of their chunks counts.
    """
    try:
        digests = map(bytes.fromhex, line["digests"])
        return dict(zip(line["chunks"], digests, strict=True))
    except (KeyError, TypeError, ValueError):
        return {}


def sync(path: Path) -> None:
    """Have a file, or the names in a folder, on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
