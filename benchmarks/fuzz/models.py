"""Model files with wrong content, of both classes and of all covariance structures."""

import copy
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import streamgmm
from benchmarks.fuzz.content import (
    Content,
    change_array,
    change_bytes,
    change_header,
    write_odd_archive,
)
from benchmarks.fuzz.trials import (
    ANOTHER_MODEL,
    MOST_BYTES,
    REFUSED,
    SAME,
    Fault,
    MemoryGrowth,
    attempted,
    files_in,
)
from streamgmm import GaussianMixture, OnlineGaussianMixture
from streamgmm.core.structures import STRUCTURES
from streamgmm.errors import StreamGMMError
from streamgmm.persistence import Record, write_record

_K, _D = 3, 4
# Settings that a file cannot choose.
_PLACES = ("checkpoint", "executor", "callbacks", "checkpoint_interval")


@dataclass(frozen=True)
class Original:
    """A valid file, and the answer of its model.

    Attributes
    ----------
    content : Content
    whole : bytes
        Of the file.
    answer : bytes
    """

    content: Content
    whole: bytes
    answer: bytes


def table(n_rows: int, seed: int = 0) -> NDArray[np.float64]:
    """Rows around three centres."""
    random = np.random.default_rng(seed)
    return random.normal(size=(n_rows, _D)) + 6.0 * random.integers(_K, size=(n_rows, 1))


def originals(folder: Path) -> list[Original]:
    """Write valid files of every kind."""
    rows, found = table(2000), []
    for kind in STRUCTURES:
        shared: dict[str, Any] = {
            "n_components": _K,
            "covariance_type": kind,
            "random_state": 0,
            "n_jobs": 1,
        }
        batch = GaussianMixture(**shared).fit(rows)
        narrow = GaussianMixture(**shared, reg_covar=0.0).fit(rows * [1.0, 1e-9, 1e9, 1.0] + 1e7)
        start = GaussianMixture(
            **shared,
            algorithm="em",
            max_iter=3,
            tol=10.0,
            reg_covar=[1e-6] * _D,
            weights_init=batch.weights_,
            means_init=batch.means_,
            precisions_init=batch.precisions_,
            fixed=("weights",),
        ).fit(rows)
        learning = {**shared, "init_size": 500}
        holding = OnlineGaussianMixture(**learning).fit(rows[:100])
        stream = OnlineGaussianMixture(**learning, learning_offset=600.0).fit(rows)
        forgetting = OnlineGaussianMixture(**learning, half_life=900.0).fit(rows)
        begun = OnlineGaussianMixture(**learning, reg_covar=[1e-6] * _D)
        for model in (batch, narrow, start, holding, stream, forgetting, begun):
            path = folder / "original.gmm"
            model.save(path)
            found.append(Original(Content.of(path), path.read_bytes(), answer(model)))
    streamgmm.update(folder / "update.gmm", rows, "batch", **learning)
    path = folder / "update.gmm"
    found.append(Original(Content.of(path), path.read_bytes(), answer(streamgmm.load(path))))
    return found


def answer(model: Any) -> bytes:
    """The labels and densities of some rows by a model, to the last bit."""
    if isinstance(model, OnlineGaussianMixture) and not hasattr(model, "weights_"):
        return b"nothing"
    rows = table(64, 1)
    scores, labels = model.score_samples(rows), model.predict(rows)
    return bytes(scores.tobytes() + labels.tobytes())


def trial(known: list[Original], folder: Path, random: np.random.Generator) -> tuple[str, str]:
    """Change a file, load it, and use the model."""
    original = known[random.integers(len(known))]
    path = folder / "model.gmm"
    how = random.choice(["header", "array", "both", "archive", "bytes", "places"], p=_SHARES)
    digest = str(random.choice(["kept", "made", "none"]))
    content, change = original.content, ""
    if how in ("header", "both"):
        content, change = change_header(content, random)
    if how in ("array", "both"):
        content, more = change_array(content, random)
        change = f"{change} {more}"
    if how == "places":
        content, change = _naming_a_place(content, folder, random)
    if how == "archive":
        change = write_odd_archive(content, path, random)
    elif how == "bytes":
        path.write_bytes(original.whole)
        change = change_bytes(path, random)
    else:
        _write(content, path, digest)
    change = f"{change} ({digest} digest)"
    before = files_in(folder)
    try:
        found = _used(path, original, how == "places", folder)
        if files_in(folder) != before:
            raise Fault(f"files were written: {sorted(files_in(folder) - before)}")
    except Fault as fault:
        return str(fault), change
    is_made = digest != "kept" and how in ("header", "array", "both", "places")
    if found == ANOTHER_MODEL and not is_made:
        return "another answer", change
    return found, change


_SHARES = (0.35, 0.35, 0.05, 0.1, 0.1, 0.05)


def _write(content: Content, path: Path, digest: str) -> None:
    if digest == "made":
        record = Record({k: v for k, v in content.header.items() if k != "digest"}, content.arrays)
        try:
            write_record(path, record)
        except (TypeError, ValueError):
            # Not every change can be written so.
            content.write(path)
    elif digest == "none":
        header = {name: value for name, value in content.header.items() if name != "digest"}
        Content(header, content.arrays).write(path)
    else:
        content.write(path)


def _naming_a_place(
    content: Content, folder: Path, random: np.random.Generator
) -> tuple[Content, str]:
    """Have a file name a place to write to, an executor or a function."""
    header = copy.deepcopy(content.header)
    name = str(random.choice(_PLACES))
    place = str(folder / "outside")
    value = [place, f"file://{place}", f"memory://{place}", [place], "os.system", 1e-9][
        random.integers(6)
    ]
    part = str(random.choice(["settings", "settings", "fitted"]))
    header[part][name] = value
    return Content(header, content.arrays), f"{part}.{name} = {value}"


def _used(path: Path, original: Original, is_fitted_again: bool, folder: Path) -> str:
    with MemoryGrowth() as growth:
        model = attempted(lambda: streamgmm.load(path))
    most = MOST_BYTES + 2 * original.content.n_bytes
    if growth.n_bytes > most:
        raise Fault(f"memory grew by {growth.n_bytes >> 20} MiB")
    if isinstance(model, StreamGMMError):
        if str(path) not in str(model):
            raise Fault(f"the error does not name the file: {model}")
        return REFUSED
    # What a file may ask for, and would take long.
    for name in ("n_init", "max_iter"):
        if getattr(model, name, 0) > 100:
            setattr(model, name, 100)
    os.chdir(folder)
    found = attempted(lambda: answer(model))
    if isinstance(found, StreamGMMError):
        # Such as a limit of memory that nothing fits in.
        return REFUSED
    attempted(lambda: model.save(path))
    if is_fitted_again:
        attempted(lambda: model.fit(table(200, 2)))
    elif isinstance(model, OnlineGaussianMixture):
        attempted(lambda: model.partial_fit(table(64, 2)))
        attempted(lambda: answer(model))
        attempted(lambda: model.save(path))
    return SAME if found == original.answer else ANOTHER_MODEL
