"""The folder of an unfinished output, and its journal of finished chunks.

While the target ``out.npy`` is unfinished, ``out.npy.part/`` lies beside it; for a group of a Zarr
store, the folder lies beside the store. It holds the output, a ``lock``, and ``journal.jsonl``. The
first line of the journal identifies the output, and each later line lists finished chunks. Chunks
are journalled only when they are on the disk, so the journal is valid even after a power cut.
"""

import json
import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streamgmm.errors import OutputError
from streamgmm.locks import locked

if TYPE_CHECKING:
    from streamgmm.sinks.form import Form

_LOCK, _JOURNAL, _FORMER = "lock", "journal.jsonl", "former"
_LAYOUT = "layout"


class Part:
    """The folder of an unfinished output, which only one process may have open.

    Made by :func:`open_part`.

    Parameters
    ----------
    form : Form

    Attributes
    ----------
    target : Path
        Final path of the output.
    folder : Path
    unfinished : Path
        Path of the unfinished output.
    layout : str or None
        Digest of the metadata of the output, when it was created.
    digests : dict of int to bytes
        Digests of the chunks that are journalled.
    """

    def __init__(self, form: "Form") -> None:
        self.target = form.target
        self.folder = form.part_folder
        self.unfinished = self.folder / form.grown_name
        self.layout: str | None = None
        self.digests: dict[int, bytes] = {}
        self._former = self.folder / _FORMER

    def begin(self, fingerprint: Mapping[str, Any], layout: str) -> None:
        """Begin the journal of a new output."""
        self._append({**fingerprint, _LAYOUT: layout})
        sync(self.folder)
        sync(self.folder.parent)

    def resume(self, fingerprint: Mapping[str, Any]) -> bool:
        """Read the journal of an unfinished output; return whether there is one.

        A last line that was not written to its end is ignored.

        Raises
        ------
        OutputError
            If the unfinished output has another fingerprint.
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
                    f"{self.folder} is the beginning of another output: {key} was "
                    f"{begun.get(key)!r} and is {fingerprint.get(key)!r}; without "
                    "resume=True it is discarded, and another out= leaves it as it is"
                )
        os.truncate(journal, sum(map(len, lines)))
        for line in lines[1:]:
            self.digests |= _chunks_of(json.loads(line))
        return True

    def add(self, digests: Mapping[int, bytes]) -> None:
        """Add chunks, which must be on the disk, with their digests to the journal."""
        if digests:
            texts = [digest.hex() for digest in digests.values()]
            self._append({"chunks": [*digests], "digests": texts})
            self.digests.update(digests)

    def publish(self, finished: Path) -> None:
        """Give the output, which must be on the disk, its final name; then remove the old target.

        The output gets the mode of the old target and, if the system permits it, the owner.

        Parameters
        ----------
        finished : Path
            The output, in the folder.
        """
        if self.target.exists():
            former = self.target.stat()
            with suppress(PermissionError):
                os.chown(finished, former.st_uid, former.st_gid)
            finished.chmod(stat.S_IMODE(former.st_mode))
        if self.target.is_dir():
            self.target.rename(self._former)
        try:
            finished.replace(self.target)
        except BaseException:
            self.restore()
            raise
        sync(self.target.parent)
        self.clear()

    def restore(self) -> None:
        """Give the old target its name back, if the new output did not get it."""
        if self._former.exists() and not self.target.exists():
            self._former.rename(self.target)

    def clear(self) -> None:
        """Remove everything in the folder except the lock."""
        self.digests = {}
        # The journal is removed first, because it must not list missing chunks.
        (self.folder / _JOURNAL).unlink(missing_ok=True)
        for path in (self.unfinished, self.folder / self.target.name, self._former):
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
def open_part(form: "Form") -> Iterator[Part]:
    """Yield the locked folder of an output; remove it at the end if it holds nothing to keep.

    Raises
    ------
    OutputError
        If another process is writing the target, or the folder holds other files.
    """
    target, part = form.target, Part(form)
    ours = {_LOCK, _JOURNAL, _FORMER, target.name, form.grown_name}
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
    """Return the mode of the folder: only users who may read the old target may open it."""
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
    """Return the chunks of a line with their digests; a damaged line has no chunks.

    Journals of older releases have no digests, so their chunks are written again.
    """
    try:
        digests = map(bytes.fromhex, line["digests"])
        return dict(zip(line["chunks"], digests, strict=True))
    except (KeyError, TypeError, ValueError):
        return {}


def sync(path: Path) -> None:
    """Force a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
