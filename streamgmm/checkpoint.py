"""Checkpoints: what a fit has found is journalled, so that an interrupted fit goes on from there.

A fit follows from its settings and from what its reads find. So each result is kept as it comes, in
a file of its own: the survey, the parameters of each stage of the search, the statistics of
each read. A fit that goes on is the same fit from its beginning, which takes from the journal
what is there. Beside the results lie ``settings.json``, which says what fit they belong to, and
``model.gmm``, the best model so far.
"""

import copy
import json
import math
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
from filelock import FileLock, Timeout

from streamgmm.algorithms.em import Fit
from streamgmm.algorithms.reading import Reading
from streamgmm.core.parameters import Parameters
from streamgmm.errors import CheckpointError, ModelFileError, OutputError
from streamgmm.events import CheckpointWritten, Listener, ReadDone
from streamgmm.persistence import (
    UNFINISHED,
    Record,
    load_record,
    pack,
    save_record,
    unpack,
    write_whole,
)
from streamgmm.protocols import V
from streamgmm.sources.urls import is_url, without_credentials

_SETTINGS, _MODEL, _LOCK = "settings.json", "model.gmm", "lock"
_RESULT = re.compile(r"(\d{6,})\.npz")
_UNFINISHED = re.compile(
    rf"\.({re.escape(_SETTINGS)}|{re.escape(_MODEL)}|{_RESULT.pattern})\.[0-9a-f]{{8}}"
    + re.escape(UNFINISHED)
)


class Checkpoint:
    """The journal of a fit, see :class:`streamgmm.protocols.Journal`, and the best model so far.

    Made by :func:`open_checkpoint`.

    Parameters
    ----------
    place : _Place
    n_results : int
        Results that are there.
    random : numpy.random.RandomState
        As it was when the fit began.
    as_model : callable
        Makes a model's record of a fit.
    listener : callable
        Told of each result that is kept.
    """

    def __init__(
        self,
        place: "_Place",
        n_results: int,
        random: np.random.RandomState,
        as_model: Callable[[Fit], Record],
        listener: Listener,
    ) -> None:
        self.n_results, self.random = n_results, random
        self._place = place
        self._as_model, self._listener = as_model, listener
        self._n_taken = self._n_reads = 0
        self._best: Fit | None = None
        self._is_best_written = True

    def recall(
        self, kind: type[V], is_asked: Callable[[V], bool]
    ) -> tuple[V, Sequence[ReadDone]] | None:
        """The next result and the reads that it took; None if there are no more."""
        if self._n_taken == self.n_results:
            # The fit may have been killed before it wrote this.
            self._write_best()
            return None
        name = _result_name(self._n_taken + 1)
        try:
            with self._place.reading(name) as file:
                record = load_record(file, f"{self._place}/{name}")
            found = record.header["kind"]
            value = None
            if found == kind.__name__:
                value = unpack(kind, record.header["value"], record.arrays)
            reads = [ReadDone(**read) for read in record.header["reads"]]
        except (ModelFileError, AttributeError, KeyError, TypeError) as error:
            is_told = isinstance(error, ModelFileError)
            raise CheckpointError(
                f"{error if is_told else f'{self._place}/{name} is damaged ({error!r})'}; if it "
                "and those of higher numbers are removed, what they hold is found again"
            ) from error
        if value is None or not is_asked(value):
            raise CheckpointError(
                f"{self._place}/{name} holds a {found} that this fit does not come to, as may be "
                f"on another processor; {_way_out(self._place)}"
            )
        self._n_taken += 1
        self._note(value, reads)
        return value, reads

    def keep(self, value: Any, reads: Sequence[ReadDone]) -> None:
        """Keep a result and the reads that it took."""
        header, arrays = pack(value)
        described = {
            "kind": type(value).__name__,
            "value": header,
            "reads": [asdict(read) for read in reads],
        }
        n_bytes = self._write(_result_name(self.n_results + 1), Record(described, arrays))
        self._n_taken = self.n_results = self.n_results + 1
        self._note(value, reads)
        self._write_best()
        self._listener(CheckpointWritten(str(self._place), self._n_reads, n_bytes))

    def finish(self, model: Record) -> None:
        """Write the model that the fit has come to."""
        self._write(_MODEL, model)

    def _note(self, value: Any, reads: Sequence[ReadDone]) -> None:
        """See whether a result is a better model than those before."""
        self._n_reads += len(reads)
        found = None
        if isinstance(value, Parameters):
            found = Fit(value)
        elif isinstance(value, Reading) and reads[-1].accepted:
            likelihoods, iteration = [reads[-1].log_likelihood], reads[-1].iteration
            found = Fit(value.parameters, value.statistics, likelihoods, n_iterations=iteration)
        best = -math.inf if self._best is None else self._best.log_likelihood
        # Stages of the search have no likelihood of all rows; the last one is the best.
        if found is not None and (best == -math.inf or found.log_likelihood > best):
            self._best, self._is_best_written = found, False

    def _write_best(self) -> None:
        if self._best is not None and not self._is_best_written:
            self._write(_MODEL, self._as_model(self._best))
            self._is_best_written = True

    def _write(self, name: str, record: Record) -> int:
        return self._place.write(name, lambda file: save_record(file, record))


def _result_name(number: int) -> str:
    return f"{number:06d}.npz"


def _way_out(place: "_Place") -> str:
    return (
        "name another checkpoint for a new fit; by warm_start=True, or with its parameters as "
        f"weights_init, means_init and precisions_init, it may go on from {place}/{_MODEL}"
    )


@contextmanager
def open_checkpoint(
    location: str | os.PathLike[str],
    settings: Mapping[str, Any],
    random: np.random.RandomState,
    resume: bool,
    as_model: Callable[[Fit], Record],
    listener: Listener,
) -> Iterator[Checkpoint]:
    """The checkpoint of a fit: a new one, or that of the same fit to go on with.

    Parameters
    ----------
    location : path-like
        A folder, which only one process at a time may have open; or a URL, for which that is the
        caller's duty.
    settings : mapping of str to what JSON can say
        Everything that decides what the fit finds.
    random : numpy.random.RandomState
        Its state is kept, and taken up again.
    resume : bool
        Whether to go on with what is there, if anything is.
    as_model : callable
        Makes a model's record of a fit.
    listener : callable
        Told of each result that is kept.

    Raises
    ------
    CheckpointError
        If a checkpoint is there that is not to be resumed, is of another fit, or lacks results.
    OutputError
        If the place cannot be written, holds other things, or another process has it.
    """
    path = os.fspath(location)
    place = _Prefix(path) if is_url(path) else _Folder(Path(path.removeprefix("file://")))
    names = place.names()
    # What a checkpoint leaves that was killed as it began.
    foreign = sorted(name for name in names if name != _LOCK and not _UNFINISHED.fullmatch(name))
    if _SETTINGS not in names and foreign:
        raise OutputError(
            f"{place} is no checkpoint, but holds {', '.join(foreign[:3])}"
            f"{', ...' * (len(foreign) > 3)}; name a folder that is new or empty"
        )
    with place.held():
        names = place.names()
        n_results = _count_results(place, names)
        if _SETTINGS in names and resume:
            random = _taken_up(place, settings, random)
        elif n_results:
            raise CheckpointError(
                f"{place} holds the checkpoint of a fit, which is not overwritten; pass "
                "resume=True (--resume) to go on with it, or remove it, or name another"
            )
        else:
            _begin(place, settings, random)
        checkpoint = Checkpoint(place, n_results, random, as_model, listener)
        try:
            yield checkpoint
        except BaseException as error:
            if checkpoint.n_results:
                error.add_note(
                    f"What the fit has found is kept in {place}; the same fit with resume=True "
                    "(--resume) goes on from there."
                )
            raise


def _begin(place: "_Place", settings: Mapping[str, Any], random: np.random.RandomState) -> None:
    content = {"fit": settings, "random_state": random.get_state(legacy=False)}
    text = json.dumps(content, default=lambda array: array.tolist())
    place.write(_SETTINGS, lambda file: file.write(text.encode()))


def _taken_up(
    place: "_Place", settings: Mapping[str, Any], random: np.random.RandomState
) -> np.random.RandomState:
    """The random state that a fit of the same settings began with."""
    with place.reading(_SETTINGS) as file:
        text = file.read()
    # The generator that is given may be NumPy's own, which is others' too.
    taken = copy.deepcopy(random)
    try:
        content = json.loads(text)
        begun = dict(content["fit"])
        taken.set_state(content["random_state"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{place}/{_SETTINGS} is damaged ({error}); restore it, or {_way_out(place)}"
        ) from error
    now = json.loads(json.dumps(settings))
    differences = [
        f"{name} was {begun.get(name)!r} and is {now.get(name)!r}"
        for name in {**begun, **now}
        if begun.get(name) != now.get(name)
    ]
    if differences:
        raise CheckpointError(
            f"{place} is the checkpoint of another fit: {'; '.join(differences)}. Ask for the same "
            f"fit to go on, or {_way_out(place)}"
        )
    return taken


def _count_results(place: "_Place", names: set[str]) -> int:
    numbers = sorted(int(match[1]) for name in names if (match := _RESULT.fullmatch(name)))
    missing = sorted(set(range(1, len(numbers) + 1)) - set(numbers))
    if missing:
        raise CheckpointError(
            f"{place} lacks {_result_name(missing[0])}, but has results of higher numbers; restore "
            "it, or remove these, and what they hold is found again"
        )
    return len(numbers)


class _Place(Protocol):
    """Where files are, by name."""

    def names(self) -> set[str]:
        """The files that are there."""

    def held(self) -> AbstractContextManager[object]:
        """The place for this process alone, ready to be written."""

    def write(self, name: str, write: Callable[[IO[bytes]], object]) -> int:
        """Write a file, and give its size."""

    def reading(self, name: str) -> AbstractContextManager[IO[bytes]]:
        """A file, open for reading."""


class _Folder:
    """A folder on this machine."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __str__(self) -> str:
        return str(self._path)

    def names(self) -> set[str]:
        try:
            return {path.name for path in self._path.iterdir()}
        except FileNotFoundError:
            return set()
        except OSError as error:
            raise OutputError(f"{self} cannot be a checkpoint: {error}") from error

    @contextmanager
    def held(self) -> Iterator[None]:
        lock = FileLock(self._path / _LOCK, timeout=0)
        try:
            self._path.mkdir(exist_ok=True)
            lock.acquire()
        except Timeout:
            raise OutputError(
                f"{self} is the checkpoint of another process that runs, which has "
                f"{lock.lock_file} locked; wait for it, or name another"
            ) from None
        except OSError as error:
            raise OutputError(f"{self} cannot be written: {error}") from error
        try:
            for name in self.names():
                if _UNFINISHED.fullmatch(name):
                    (self._path / name).unlink(missing_ok=True)
            yield
        finally:
            lock.release()

    def write(self, name: str, write: Callable[[IO[bytes]], object]) -> int:
        write_whole(self._path / name, write)
        return (self._path / name).stat().st_size

    def reading(self, name: str) -> AbstractContextManager[IO[bytes]]:
        try:
            return (self._path / name).open("rb")
        except OSError as error:
            raise OutputError(f"{self._path / name} cannot be read: {error}") from error


class _Prefix:
    """A prefix of URLs, by whatever fsspec writes them; files go there and come whole."""

    def __init__(self, url: str) -> None:
        self._url = without_credentials(url.rstrip("/"))
        try:
            from fsspec.core import url_to_fs

            from streamgmm.sources.retrying import told, tries
        except ModuleNotFoundError as error:
            raise OutputError(
                f"{self} needs {error.name}; install it with: pip install 'streamgmm[remote]'"
            ) from error
        self._told = told
        self._tries = tries(self._url, told)
        self._filesystem, self._path = self._tried(url_to_fs, url.rstrip("/"))

    def __str__(self) -> str:
        return self._url

    def names(self) -> set[str]:
        return {path.rpartition("/")[2] for path in self._tried(self._paths)}

    def _paths(self) -> list[str]:
        self._filesystem.invalidate_cache()
        try:
            paths: list[str] = self._filesystem.ls(self._path, detail=False)
        except FileNotFoundError:
            return []
        return paths

    def held(self) -> AbstractContextManager[object]:
        return nullcontext()

    def write(self, name: str, write: Callable[[IO[bytes]], object]) -> int:
        with tempfile.NamedTemporaryFile() as file:
            write(file)
            file.flush()
            self._tried(self._filesystem.put_file, file.name, f"{self._path}/{name}")
            return Path(file.name).stat().st_size

    @contextmanager
    def reading(self, name: str) -> Iterator[IO[bytes]]:
        with tempfile.NamedTemporaryFile() as file:
            self._tried(self._filesystem.get_file, f"{self._path}/{name}", file.name)
            with Path(file.name).open("rb") as copied:
                yield copied

    def _tried(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        try:
            return self._tries(function, *args, **kwargs)
        except Exception as error:  # noqa: BLE001 - whatever a backend raises is explained
            reason = self._told(error)
        # Outside: tracebacks of what was raised before would show what the message leaves out.
        raise OutputError(f"{self} cannot be used as a checkpoint ({reason})")
