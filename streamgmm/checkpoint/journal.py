"""Checkpoints: the results of a fit are journalled, so that an interrupted fit can continue.

The settings of a fit and the results of its passes over the data determine the fit. Each result is
therefore kept in its own file: the pilot, the survey, the parameters of each stage of the search,
the statistics of each pass. A resumed fit starts at the beginning, and takes each result that is
available from the journal. Beside the results are ``settings.json``, which identifies the fit, and
``model.gmm``, the best model so far. On request an incomplete pass has a file too. This
file is removed when the result of the pass is kept.

Each file names itself and its fit, and contains a digest of its content. A file that is damaged,
edited, or copied from another checkpoint is refused.
"""

import copy
import json
import math
import os
import re
import reprlib
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields, is_dataclass
from types import MethodType
from typing import Any

import joblib
import numpy as np
import xxhash

from streamgmm.algorithms.batch.auto import PilotRows
from streamgmm.algorithms.batch.em import Fit
from streamgmm.algorithms.batch.held_out import HeldOutSums
from streamgmm.algorithms.batch.lloyd import Farthest
from streamgmm.algorithms.batch.sample_fit import Stage
from streamgmm.algorithms.reads.reader import Reading, SharedReading
from streamgmm.algorithms.sampling.row_sample import RowSample
from streamgmm.algorithms.sampling.survey import Survey
from streamgmm.checkpoint.storage import LOCK, Place, place_at
from streamgmm.core.parameters import Parameters
from streamgmm.errors import CheckpointError, ModelFileError, OutputError
from streamgmm.events import CheckpointWritten, Listener, ReadDone
from streamgmm.persistence import (
    UNFINISHED,
    WRONG_CONTENT,
    Record,
    load_record,
    pack,
    pack_all,
    refusing,
    save_record,
    unpack,
    unpack_all,
)
from streamgmm.protocols import M, PartialRead, V

_SETTINGS, _MODEL = "settings.json", "model.gmm"
# Names under which results are stored; they do not change with the names of the classes.
_KINDS: Mapping[type, str] = {
    Farthest: "Farthest",
    HeldOutSums: "HeldOutSums",
    Parameters: "Parameters",
    PilotRows: "PilotRows",
    Reading: "Reading",
    RowSample: "RowSample",
    SharedReading: "SharedReading",
    Stage: "Stage",
    Survey: "Survey",
}
_SEAL = "seal"
_RESULT = re.compile(r"(\d{6,})\.npz")
_READ = re.compile(r"read-[0-9a-f]{32}\.npz")
_UNFINISHED = re.compile(
    rf"\.({re.escape(_SETTINGS)}|{re.escape(_MODEL)}|{_RESULT.pattern}|{_READ.pattern})"
    rf"\.[0-9a-f]{{8}}{re.escape(UNFINISHED)}"
)


class Checkpoint:
    """The journal of a fit, see :class:`streamgmm.protocols.Journal`, and the best model so far.

    Made by :func:`open_checkpoint`.

    Parameters
    ----------
    place : Place
    identity : str
        Identity of the fit.
    n_results : int
        Number of kept results.
    partial : set of str
        Files of incomplete passes.
    random : numpy.random.RandomState
        State at the beginning of the fit.
    interval : float
        Seconds after which a pass that continues is kept.
    as_model : callable or None
        Makes a model's record of a fit; None if there is no model before the end.
    listener : callable
        Called with an event for each result that is kept.
    """

    def __init__(
        self,
        place: Place,
        identity: str,
        n_results: int,
        partial: set[str],
        random: np.random.RandomState,
        interval: float,
        as_model: Callable[[Fit], Record] | None,
        listener: Listener,
    ) -> None:
        self.n_results, self.random, self.interval = n_results, random, interval
        self._place, self._identity, self._partial = place, identity, partial
        self._as_model, self._listener = as_model, listener
        self._n_taken = self._n_reads = 0
        self._best: Fit | None = None
        self._is_best_written = True

    def recall(
        self, kind: type[V], is_asked: Callable[[V], bool]
    ) -> tuple[V, Sequence[ReadDone]] | None:
        """Return the next result and the passes that it took; None if there are no more."""
        if self._n_taken == self.n_results:
            # The fit may have been killed before it wrote the best model.
            self._write_best()
            return None
        name = _result_name(self._n_taken + 1)
        remedy = "remove it and all results of higher numbers, and the fit computes them again"
        with self._opened(name, remedy) as record:
            found = record.header["kind"]
            value = None
            if found == _KINDS[kind]:
                value = unpack(kind, record.header["value"], record.arrays)
            reads = [unpack(ReadDone, read, {}) for read in record.header["reads"]]
        if value is None or not is_asked(value):
            raise CheckpointError(
                f"{self._place}/{name} holds a {found} that differs from the one that this fit "
                f"needs, as can happen on another processor; {_way_out(self._place)}"
            )
        self._n_taken += 1
        self._note(value, reads)
        return value, reads

    def keep(self, value: Any, reads: Sequence[ReadDone]) -> None:
        """Keep a result and the passes that it took."""
        header, arrays = pack(value)
        described = {
            "kind": _KINDS[type(value)],
            "value": header,
            "reads": [asdict(read) for read in reads],
        }
        n_bytes = self._write(_result_name(self.n_results + 1), Record(described, arrays))
        self._n_taken = self.n_results = self.n_results + 1
        while self._partial:
            self._place.remove(self._partial.pop())
        self._note(value, reads)
        self._write_best()
        self._listener(CheckpointWritten(str(self._place), self._n_reads, n_bytes))

    def partial_read(
        self, number: int, kind: type[M], identity: Any
    ) -> tuple[PartialRead[M], Callable[[PartialRead[M]], None]]:
        """Return the kept part of an incomplete pass, and a function that keeps more of it."""
        # Computed once, because the objects in it may cache more values later.
        name = f"read-{_identity_digest(identity)}.npz"
        begun: PartialRead[M] = PartialRead()
        if name in self._partial:
            with self._opened(name, "if it is removed, the pass begins again") as record:
                header = record.header
                values = unpack_all(kind, header["values"], record.arrays)
                begun = _begun(header["n_chunks"], values, header["seconds"])

        def keep(read: PartialRead[M]) -> None:
            values, arrays = pack_all(read.values)
            header = {"n_chunks": read.n_chunks, "seconds": read.seconds, "values": values}
            n_bytes = self._write(name, Record(header, arrays))
            self._partial.add(name)
            self._listener(CheckpointWritten(str(self._place), number, n_bytes))

        return begun, keep

    @property
    def is_empty(self) -> bool:
        """Whether nothing has been found."""
        return not (self.n_results or self._partial)

    def finish(self, model: Record) -> None:
        """Write the final model of the fit."""
        self._write_model(model)

    def _note(self, value: Any, reads: Sequence[ReadDone]) -> None:
        """Remember a result if it is a better model than the earlier ones."""
        self._n_reads += len(reads)
        found = None
        if isinstance(value, Stage):
            found = Fit(value.found[0])
        elif isinstance(value, Parameters):
            found = Fit(value)
        elif isinstance(value, Reading) and reads and reads[-1].accepted:
            likelihoods, iteration = [reads[-1].log_likelihood], reads[-1].iteration
            found = Fit(value.parameters, value.statistics, likelihoods, n_iterations=iteration)
        best = -math.inf if self._best is None else self._best.log_likelihood
        # Stages of the search have no likelihood of all rows; the last one is the best.
        if found is not None and (best == -math.inf or found.log_likelihood > best):
            self._best, self._is_best_written = found, False

    def _write_best(self) -> None:
        if self._as_model is None:
            return
        if self._best is not None and not self._is_best_written:
            self._write_model(self._as_model(self._best))
            self._is_best_written = True

    def _write_model(self, model: Record) -> None:
        self._place.write_model(_MODEL, lambda file: save_record(file, model))

    def _write(self, name: str, record: Record) -> int:
        named = Record({**record.header, "file": name, "fit": self._identity}, record.arrays)
        return self._place.write(name, lambda file: save_record(file, named))

    @contextmanager
    def _opened(self, name: str, remedy: str) -> Iterator[Record]:
        """Yield the record in a file; raise errors that say what is wrong and what helps.

        Raises
        ------
        CheckpointError
            If the file cannot be read, or its content is wrong.
        """
        path = f"{self._place}/{name}"
        try:
            with self._place.reading(name) as file:
                record = load_record(file, path, needs_digest=True)
            with refusing(path):
                reason = self._why_foreign(name, record)
                if reason is not None:
                    raise ModelFileError(f"{path} {reason}")
                yield record
        except ModelFileError as error:
            raise CheckpointError(f"{error}; {remedy}") from error

    def _why_foreign(self, name: str, record: Record) -> str | None:
        """Return why this fit did not write a record into a file; None if it did."""
        header = record.header
        if header["fit"] != self._identity:
            return "was written by another fit"
        if header["file"] != name:
            return f"holds what belongs into {header['file']}"
        return None


def _identity_digest(identity: Any) -> str:
    """Return a digest of the values that determine a pass, wherever they come from.

    The fields of dataclasses count, and not what is kept beside these.
    """
    digest = xxhash.xxh3_128()
    for part in _identity_parts(identity):
        digest.update(part)
    return digest.hexdigest()


def _identity_parts(value: Any) -> Iterator[bytes]:
    if isinstance(value, np.ndarray):
        # The layout of arrays in memory makes no difference.
        yield f"{value.dtype.str} {value.shape}".encode()
        yield np.ascontiguousarray(value).tobytes()
    elif is_dataclass(value) and not isinstance(value, type):
        yield type(value).__qualname__.encode()
        for field in fields(value):
            yield field.name.encode()
            yield from _identity_parts(getattr(value, field.name))
    elif isinstance(value, tuple | list):
        yield f"{len(value)} values".encode()
        for entry in value:
            yield from _identity_parts(entry)
    elif isinstance(value, MethodType):
        yield value.__func__.__qualname__.encode()
        yield from _identity_parts(value.__self__)
    else:
        yield joblib.hash(value).encode()


def _begun(n_chunks: Any, values: tuple[M, ...], seconds: Any) -> PartialRead[M]:
    """Return the part of a pass that was kept.

    Raises
    ------
    ValueError
        If the number of values does not fit the number of chunks.
    """
    is_counted = type(n_chunks) is int and n_chunks >= 0 and n_chunks.bit_count() == len(values)
    if not is_counted or type(seconds) not in (int, float):
        raise ValueError(f"{len(values)} values are not those of {reprlib.repr(n_chunks)} chunks")
    return PartialRead(n_chunks, values, seconds)


def _result_name(number: int) -> str:
    return f"{number:06d}.npz"


def _partial_reads(names: set[str]) -> set[str]:
    return {name for name in names if _READ.fullmatch(name)}


def _way_out(place: Place) -> str:
    another = "name another checkpoint for a new fit"
    if _MODEL not in place.names():
        return another
    return (
        f"{another}, which may begin at the parameters of the model in {place}/{_MODEL}: "
        "weights_init=, means_init= and precisions_init="
    )


@contextmanager
def open_checkpoint(
    location: str | os.PathLike[str],
    settings: Mapping[str, Any],
    random: np.random.RandomState,
    resume: bool,
    interval: float,
    as_model: Callable[[Fit], Record] | None,
    listener: Listener,
) -> Iterator[Checkpoint]:
    """Yield the checkpoint of a fit: a new one, or an earlier one of the same fit.

    Parameters
    ----------
    location : path-like
        A folder or a URL. Only one process at a time may use it; a folder is locked, but for a URL
        the caller has to ensure this.
    settings : mapping of str to JSON values
        Everything that determines the result of the fit.
    random : numpy.random.RandomState
        Its state is kept, and restored when the fit is resumed.
    resume : bool
        Whether to continue an existing checkpoint, if there is one.
    interval : float
        Seconds after which a pass that continues is kept.
    as_model : callable or None
        Makes a model's record of a fit; None if there is no model before the end.
    listener : callable
        Called with an event for each result that is kept.

    Raises
    ------
    CheckpointError
        If there is a checkpoint that must not be resumed, belongs to another fit, or lacks results.
    OutputError
        If the location cannot be written, holds other files, or is in use by another process.
    """
    place = place_at(location)
    names = place.names()
    # A checkpoint that was killed at its beginning leaves unfinished files.
    foreign = sorted(name for name in names if name != LOCK and not _UNFINISHED.fullmatch(name))
    if _SETTINGS not in names and foreign:
        raise OutputError(
            f"{place} is no checkpoint, but holds {', '.join(foreign[:3])}"
            f"{', ...' * (len(foreign) > 3)}; name a folder that is new or empty"
        )
    with place.held():
        names = place.names()
        for name in filter(_UNFINISHED.fullmatch, names):
            # Other processes may be writing the file of the model.
            if not name.startswith(f".{_MODEL}."):
                place.remove(name)
        n_results, partial = _count_results(place, names), _partial_reads(names)
        if _SETTINGS in names and resume:
            random, identity = _taken_up(place, settings, random)
        elif n_results or partial:
            raise CheckpointError(
                f"{place} holds the checkpoint of a fit, which is not overwritten; resume=True "
                "continues that fit; otherwise remove the checkpoint, or name another"
            )
        else:
            identity = _begin(place, settings, random)
        checkpoint = Checkpoint(
            place, identity, n_results, partial, random, interval, as_model, listener
        )
        try:
            yield checkpoint
        except BaseException as error:
            if not checkpoint.is_empty:
                error.add_note(
                    f"What the fit has found is kept in {place}; the same fit with resume=True "
                    "continues from there."
                )
            raise


def _begin(place: Place, settings: Mapping[str, Any], random: np.random.RandomState) -> str:
    """Write the settings of a new fit, and return its identity."""
    identity = uuid.uuid4().hex
    state = random.get_state(legacy=False)
    content = {"fit": settings, "identity": identity, "random_state": state}
    text = json.dumps(content, default=lambda array: array.tolist())
    sealed = json.dumps({**json.loads(text), _SEAL: _text_digest(text)})
    place.write(_SETTINGS, lambda file: file.write(sealed.encode()))
    return identity


def _text_digest(text: str) -> str:
    return xxhash.xxh3_128_hexdigest(text.encode())


def _taken_up(
    place: Place, settings: Mapping[str, Any], random: np.random.RandomState
) -> tuple[np.random.RandomState, str]:
    """Return the random state and the identity of the fit of the same settings."""
    with place.reading(_SETTINGS) as file:
        text = file.read()
    # The given generator may be NumPy's global one, which other code uses too.
    taken = copy.deepcopy(random)
    try:
        content = json.loads(text)
        is_sealed = content.pop(_SEAL, None) == _text_digest(json.dumps(content))
        begun, identity = dict(content["fit"]), str(content.get("identity"))
        state = content["random_state"]
        # NumPy reads the key at any position.
        if state["state"]["pos"] not in range(len(state["state"]["key"]) + 1):
            raise ValueError("the position in the random state is not valid")
        taken.set_state(state)
    except WRONG_CONTENT as error:
        raise _damaged(place, str(error)) from error
    now = json.loads(json.dumps(settings))
    differences = [
        f"{name} was {begun.get(name)!r} and is {now.get(name)!r}"
        for name in {**begun, **now}
        if begun.get(name) != now.get(name)
    ]
    if not is_sealed:
        reason = "its digest is missing, as in older releases, or is another"
        raise _damaged(place, "; ".join([reason, *differences]))
    if differences:
        raise CheckpointError(
            f"{place} is the checkpoint of another fit: {'; '.join(differences)}. Ask for the same "
            f"fit to continue, or {_way_out(place)}"
        )
    return taken, identity


def _damaged(place: Place, reason: str) -> CheckpointError:
    return CheckpointError(
        f"{place}/{_SETTINGS} is damaged ({reason}); restore it, or {_way_out(place)}"
    )


def _count_results(place: Place, names: set[str]) -> int:
    numbers = sorted(int(match[1]) for name in names if (match := _RESULT.fullmatch(name)))
    missing = sorted(set(range(1, len(numbers) + 1)) - set(numbers))
    if missing:
        raise CheckpointError(
            f"{place} lacks {_result_name(missing[0])}, but has results of higher numbers; restore "
            "it, or remove these, and the fit computes them again"
        )
    return len(numbers)
