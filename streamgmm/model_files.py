"""The file of a model: one writer at a time, and none that undoes what others have written.

Every writer of a model's file holds the lock of the file: ``save``, ``update``, the command line
and a checkpoint. A writer knows the content of the file that its model was loaded from or saved
to. A file is not replaced if it holds anything else by now, nor if it holds what
:func:`streamgmm.update` has learned and the writer does not know it.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import xxhash

from streamgmm.errors import ModelFileError, OutputError
from streamgmm.locks import locked
from streamgmm.paths import refuse_special, writing
from streamgmm.persistence import Record, discard_unfinished, read_header, stem, write_record

# Seconds that a writer waits for another one.
_PATIENCE = 5.0
# At the end of an archive; its table of contents takes some hundred bytes for each member.
_TABLE_BYTES = 1 << 16
_WAY_OUT = (
    "load the file again and continue with that model, save under another name, or remove the file "
    "first"
)


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold the file of a model for one writer, and remove what killed writers left beside it.

    Raises
    ------
    OutputError
        If another writer keeps the file, it is no file, or nothing can be written there.
    """
    refuse_special(path)
    lock = path.with_name(f".{stem(path)}.lock")
    with ExitStack() as stack:
        with writing(path):
            try:
                stack.enter_context(locked(lock, _PATIENCE))
            except TimeoutError:
                raise OutputError(
                    f"{path} is being updated by another process, which has {lock} locked; wait "
                    "for it"
                ) from None
            discard_unfinished(path)
        yield


def replace_model(path: Path, record: Record, model: Any) -> None:
    """Write the record of a model to a file that the caller holds.

    Parameters
    ----------
    path : Path
    record : Record
    model : estimator
        It then knows what the file holds: its ``known_files_`` gives by file what
        :func:`content_of` returned.

    Raises
    ------
    OutputError
        If the file cannot be written, or something that the writer does not know would be lost.
    """
    # A pipeline of scikit-learn knows no files before it is saved.
    known: Mapping[str, str | None] = getattr(model, "known_files_", {})
    refuse_loss(path, known.get(str(path)))
    write_record(path, record)
    model.known_files_ = {**known, str(path): content_of(path)}


def refuse_loss(path: Path, known: str | None) -> None:
    """Refuse to replace a file if something that the writer does not know would be lost.

    Raises
    ------
    OutputError
    """
    found = content_of(path)
    if found is None or found == known:
        return
    if known is not None:
        raise OutputError(
            f"{path} was changed after this model was loaded from it or saved to it, and would "
            f"lose what it holds now; {_WAY_OUT}"
        )
    if _has_updates(path):
        raise OutputError(
            f"{path} would lose what streamgmm.update has learned there, which this model does "
            f"not know; {_WAY_OUT}"
        )


def content_of(path: Path) -> str | None:
    """Return a digest of the content of a model's file; None if there is no file.

    The last bytes of an archive are its table of contents, with the checksum of each member. So the
    digest of these takes no time for large models either.
    """
    if not path.is_file():
        return None
    try:
        with path.open("rb") as file:
            file.seek(-min(file.seek(0, os.SEEK_END), _TABLE_BYTES), os.SEEK_END)
            return xxhash.xxh3_128_hexdigest(file.read())
    except OSError as error:
        raise OutputError(f"{path} cannot be read: {error}") from error


def _has_updates(path: Path) -> bool:
    """Return whether a file holds a model that has learned by updates."""
    try:
        ledger = read_header(path).get("ledger")
    except ModelFileError:
        return False
    return isinstance(ledger, dict) and has_updates(ledger)


def has_updates(ledger: Mapping[str, Any]) -> bool:
    """Return whether the ledger in a header is that of a model that has learned by updates."""
    # Older files do not say it, but remember the names of what was learned.
    names = [part.get("entries") for part in ledger.values() if isinstance(part, dict)]
    return bool(ledger.get("has_updates", any(names)))
