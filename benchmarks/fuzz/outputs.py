"""Unfinished outputs with wrong content: what continues has to write the same rows, or refuse."""

import contextlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from benchmarks.fuzz.content import change_bytes
from benchmarks.fuzz.models import table
from benchmarks.fuzz.trials import (
    REFUSED,
    SAME,
    Fault,
    Stopped,
    attempted,
    files_in,
    stopping_after,
)
from streamgmm import GaussianMixture
from streamgmm.errors import StreamGMMError
from streamgmm.events import ChunkDone
from streamgmm.sinks import file
from streamgmm.testing.chunked import ChunkedSource

_N_ROWS, _CHUNK_ROWS = 4000, 500
_JOURNAL = "journal.jsonl"
_ODD_LINES = (
    "null",
    "[]",
    "3",
    '{"chunks": null}',
    '{"chunks": [null]}',
    '{"chunks": [-1]}',
    '{"chunks": [1000000]}',
    '{"chunks": ["0"]}',
    '{"chunks": [[0]]}',
    '{"chunks": [1e400]}',
    '{"chunks": {"0": 1}}',
    "{}",
    "[" * 100_000 + "]" * 100_000,
    "\x1b",
)


@dataclass(frozen=True)
class Original:
    """An unfinished output, and what it becomes.

    Attributes
    ----------
    folder : Path
        Holds nothing but the folder of the unfinished output.
    name : str
        Of the output.
    model : GaussianMixture
    rows : bytes
        Of the whole output.
    """

    folder: Path
    name: str
    model: GaussianMixture
    rows: bytes


def originals(folder: Path) -> list[Original]:
    """Interrupt predictions after some chunks."""
    # Each chunk is journalled.
    file._SYNC_SECONDS = 0.0
    model = GaussianMixture(3, random_state=0, n_jobs=1).fit(table(2000))
    found = []
    for name in ("out.npy", "out.zarr"):
        whole = folder / name
        model.predict_proba(_data(), out=whole)
        for n_chunks in (1, 4, 7):
            place = folder / f"{name}-{n_chunks}"
            place.mkdir()
            model.callbacks = [stopping_after(ChunkDone, n_chunks)]
            with contextlib.suppress(Stopped):
                model.predict_proba(_data(), out=place / name)
            model.callbacks = ()
            assert (place / f"{name}.part").is_dir()
            found.append(Original(place, name, model, _content(whole).tobytes()))
    return found


def trial(known: list[Original], folder: Path, random: np.random.Generator) -> tuple[str, str]:
    """Change an unfinished output, and continue it."""
    original = known[random.integers(len(known))]
    own = folder / "own"
    shutil.copytree(original.folder, own)
    change = _changed(own / f"{original.name}.part", random)
    out = own / original.name
    try:
        found = attempted(lambda: original.model.predict_proba(_data(), out=out, resume=True))
        outside = {name for name in files_in(folder) if not name.startswith("own")}
        if outside:
            raise Fault(f"files were written: {sorted(outside)}")
        if isinstance(found, StreamGMMError):
            return REFUSED, change
        same = attempted(lambda: _content(out).tobytes()) == original.rows
    except Fault as fault:
        return str(fault), change
    return (SAME if same else "another answer"), change


def _changed(part: Path, random: np.random.Generator) -> str:
    paths = sorted(path for path in part.rglob("*") if path.is_file() and path.name != "lock")
    path = paths[random.integers(len(paths))]
    how = str(random.choice(["bytes", "missing", "line", "fingerprint"]))
    journal = part / _JOURNAL
    lines = journal.read_text().splitlines()
    if how == "missing":
        path.unlink()
        return f"{path.relative_to(part)} is missing"
    if how == "line":
        line = str(random.choice(_ODD_LINES))
        place = int(random.integers(len(lines) + 1))
        lines.insert(place, line)
        journal.write_text("\n".join(lines) + "\n")
        return f"line {place} is {line[:40]}"
    if how == "fingerprint":
        begun: dict[str, Any] = json.loads(lines[0])
        key = str(random.choice(sorted(begun)))
        begun[key] = [None, 3, "x", [1], {}][random.integers(5)]
        journal.write_text("\n".join([json.dumps(begun), *lines[1:]]) + "\n")
        return f"{key} is {begun[key]!r}"
    return change_bytes(path, random)


def _content(path: Path) -> NDArray[Any]:
    if path.suffix == ".npy":
        return np.asarray(np.load(path))
    return np.asarray(zarr.open_array(path, mode="r")[:])


def _data() -> ChunkedSource:
    return ChunkedSource(table(_N_ROWS), _CHUNK_ROWS)
