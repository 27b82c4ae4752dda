"""Checkpoints with wrong content: the fit that continues has to find the same bits, or refuse."""

import contextlib
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.fuzz.content import Content, change_array, change_bytes, change_header
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
from streamgmm.core.structures import STRUCTURES
from streamgmm.errors import StreamGMMError
from streamgmm.events import CheckpointWritten
from streamgmm.testing.chunked import ChunkedSource

_N_ROWS, _CHUNK_ROWS = 3000, 250


@dataclass(frozen=True)
class Original:
    """A checkpoint, and the result of its fit.

    Attributes
    ----------
    folder : Path
    settings : dict
    result : bytes
    """

    folder: Path
    settings: dict[str, Any]
    result: bytes


def originals(folder: Path) -> list[Original]:
    """Interrupt fits of every structure after some of their results, within passes too."""
    found = []
    for kind in STRUCTURES:
        for algorithm in ("auto", "em"):
            settings = {
                "n_components": 3,
                "covariance_type": kind,
                "algorithm": algorithm,
                "max_iter": 5,
                "tol": 1e-5,
                "random_state": 0,
                "n_jobs": 1,
            }
            result = _result(GaussianMixture(**settings).fit(_data()))
            for n_writes in (3, 9, 40):
                place = folder / f"{kind}-{algorithm}-{n_writes}"
                model = GaussianMixture(
                    **settings,
                    checkpoint=place,
                    checkpoint_interval=1e-9,
                    callbacks=stopping_after(CheckpointWritten, n_writes),
                )
                with contextlib.suppress(Stopped):
                    model.fit(_data())
                found.append(Original(place, settings, result))
                assert _result(_continued(found[-1], _copy(place))) == result
    return found


def _copy(place: Path) -> Path:
    """A copy of a checkpoint beside it."""
    return Path(shutil.copytree(place, place.with_name(f"copy of {place.name}")))


def _continued(original: Original, place: Path) -> GaussianMixture:
    model = GaussianMixture(**original.settings, checkpoint=place, checkpoint_interval=1e-9)
    return model.fit(_data(), resume=True)


def trial(known: list[Original], folder: Path, random: np.random.Generator) -> tuple[str, str]:
    """Change a file of a checkpoint, and continue the fit."""
    original = known[random.integers(len(known))]
    place = folder / "checkpoint"
    shutil.copytree(original.folder, place)
    change = _changed(place, known, random)
    try:
        found = attempted(lambda: _continued(original, place))
        others = files_in(folder) - {"checkpoint"}
        if any(not name.startswith("checkpoint/") for name in others):
            raise Fault(f"files were written: {sorted(others)}")
    except Fault as fault:
        return str(fault), change
    if isinstance(found, StreamGMMError):
        return REFUSED, change
    return (SAME if _result(found) == original.result else "another answer"), change


def _changed(place: Path, known: list[Original], random: np.random.Generator) -> str:
    path = place / str(random.choice(sorted(path.name for path in place.glob("*.*"))))
    how = str(random.choice(["bytes", "content", "swap", "other fit", "missing"]))
    pieces = sorted(place.glob("*.npz"))
    if how == "content" and path.suffix == ".npz":
        change = change_header if random.integers(2) else change_array
        content, what = change(Content.of(path), random)
        content.write(path)
        return f"{path.name}: {what}"
    if how == "swap" and len(pieces) > 1:
        first, second = random.choice(len(pieces), 2, replace=False)
        shutil.copy(pieces[first], pieces[second])
        return f"{pieces[first].name} as {pieces[second].name}"
    if how == "other fit":
        other = known[random.integers(len(known))].folder / path.name
        if other.exists():
            shutil.copy(other, path)
            return f"{path.name} of {other.parent.name}"
    if how == "missing":
        path.unlink()
        return f"{path.name} is missing"
    return change_bytes(path, random)


def _data() -> ChunkedSource:
    return ChunkedSource(table(_N_ROWS), _CHUNK_ROWS)


def _result(model: GaussianMixture) -> bytes:
    arrays = (model.weights_, model.means_, model.covariances_, model.precisions_cholesky_)
    return b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)
