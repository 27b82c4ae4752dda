"""Models in files that go on learning: each batch, and each row of data that grow, once.

A file is locked, loaded, learned on and replaced by a whole one. What was learned stands in the
ledger that the same file holds, so a crash at any time leaves the file as it was before a batch or
as it is after it, and what is given again is known.
"""

import dataclasses
import inspect
import os
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date
from itertools import pairwise
from numbers import Integral
from pathlib import Path
from typing import Any, Self

from filelock import FileLock, Timeout

from streamgmm.errors import (
    DataError,
    ModelFileError,
    NotFiniteError,
    OutputError,
    ParameterError,
)
from streamgmm.estimators.digest import RowDigest
from streamgmm.estimators.gaussian_mixture import GaussianMixture
from streamgmm.estimators.ledger import Ledger, Position
from streamgmm.estimators.loading import load
from streamgmm.estimators.online_mixture import OnlineGaussianMixture
from streamgmm.events import BatchKnown, Event, Listener, RowsLearned
from streamgmm.persistence import discard_unfinished
from streamgmm.protocols import Chunk, Source, all_chunks
from streamgmm.sources.files import files_of
from streamgmm.sources.open import is_path, open_source
from streamgmm.sources.urls import is_url, split, without_credentials

# Of data that grow so much is learned between two saves.
_PIECE_BYTES = 64 << 20
# Rows before those that are new, which must be what they were.
_LATEST_ROWS = 64
_LONGEST_ID = 256
# What streamgmm.open is told of data; weights are an argument of their own.
_DESCRIPTION = inspect.signature(open_source).parameters.keys() - {"data", "sample_weight"}
# Settings that a machine decides, and that may be others each time.
_LOCAL = frozenset({"executor", "memory_limit", "n_jobs", "verbose", "verbose_interval"})
# Settings that a batch fit has decided.
_OF_BATCH = frozenset({"n_components", "covariance_type"})


def update(
    model: str | os.PathLike[str],
    data: Any,
    batch_id: str | int | date | None = None,
    *,
    sample_weight: Any = None,
    callbacks: Sequence[Listener] = (),
    **options: Any,
) -> OnlineGaussianMixture:
    """Have the model in a file learn some rows more, once, and save it.

    With a ``batch_id`` the data are one batch. A batch that was learned before is not learned
    again (:class:`streamgmm.events.BatchKnown` says so), and one of other content under the
    same id is refused. The ids of 1024 batches are remembered, of which the lowest is forgotten
    when there are more; from then on an id that is not above a forgotten one is refused, as it was
    learned already or comes too late. So ids have to rise in the long run, as dates, counters and
    ``"part-10"`` after ``"part-9"`` do.

    Without one, data that are named by a path or URL are tracked by it, and what is new is
    learned: of one file or array the rows after those that were learned before, whose last few must
    be what they were; of a folder or a pattern the files with new names, while those that
    were learned must stay as they were. All other data without an id are learned as they are
    given, as often as they are given.

    Parameters
    ----------
    model : path-like
        File of an :class:`OnlineGaussianMixture`, which may be saved before it has learned any
        row, or of a :class:`GaussianMixture`, which goes on as by
        :meth:`OnlineGaussianMixture.from_batch`. If there is no such file and ``n_components`` is
        given, it is begun.
    data : path-like, array-like, Source or iterator of batches
        Anything that :func:`streamgmm.open` takes, or a path to a folder or a pattern of such
        files. Of an iterator each batch is learned, and the model saved, as it comes.
    batch_id : str, int or date, default=None
        What the batch is known by.
    sample_weight : array-like or path, default=None
        Row weights; of an array that grows a path of one that grows with it.
    callbacks : sequence of callables, default=()
        Called with each event, :class:`streamgmm.events.RowsLearned` among them.
    **options
        Arguments of :func:`streamgmm.open` that describe the data, such as ``missing="drop"``; and
        settings of :class:`OnlineGaussianMixture`, for a model that is begun here or goes on from
        a batch fit. Of any other, settings that differ from its own are refused, but for those
        of the machine, such as ``n_jobs``.

    Returns
    -------
    OnlineGaussianMixture
        As it is in the file now.

    Raises
    ------
    DataError
        If the data cannot be used, have other columns, or are not what was learned under the same
        name. Then nothing of the batch, file or piece has been learned.
    ModelFileError
        If there is no such file, or it is damaged.
    OutputError
        If the file cannot be written, or another process is updating it.
    ParameterError
        If an option is not one, or is another one than the model's.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import numpy as np
    >>> import streamgmm
    >>> path = Path(tempfile.mkdtemp()) / "model.gmm"
    >>> streamgmm.OnlineGaussianMixture(n_components=2, random_state=0).save(path)
    >>> rows = np.random.default_rng(0).normal(size=(1000, 3))
    >>> for _ in range(2):
    ...     og = streamgmm.update(path, rows, batch_id="2026-11-20")
    >>> og.n_samples_seen_
    1000.0
    """
    description = {name: options.pop(name) for name in _DESCRIPTION & options.keys()}
    if sample_weight is not None:
        description["sample_weight"] = sample_weight
    known_id = None if batch_id is None else _checked_id(batch_id)
    if isinstance(data, Iterator) and (known_id is not None or sample_weight is not None):
        raise ParameterError(
            "batch_id and sample_weight are for one batch; update the model with each batch of "
            "the iterator by itself"
        )
    path = Path(model).resolve()
    with _held(path):
        updated = _Updated(path, options, callbacks)
        if isinstance(data, Iterator):
            for batch in data:
                updated.learn_batch(batch, description)
        elif known_id is not None or not is_path(data):
            updated.learn_batch(data, description, known_id)
        else:
            updated.learn_stored(os.fspath(data), description)
        return updated.model


class _Updated:
    """A model that is as its file says, whatever it learns.

    Parameters
    ----------
    path : Path
    settings : mapping of str to object
        That the model must have, or be given if it is one of a batch fit.
    callbacks : sequence of callables
    """

    def __init__(self, path: Path, settings: dict[str, Any], callbacks: Sequence[Listener]) -> None:
        self._path = path
        self.model = _going_on(path, settings)
        self.model.callbacks = callbacks

    def learn_batch(
        self, data: Any, description: Mapping[str, Any], batch_id: str | None = None
    ) -> None:
        """Learn a batch, unless one of the same id was learned before.

        Raises
        ------
        DataError
            If that had other rows, or is so long ago that it is not known.
        """
        if description:
            data = open_source(data, **description)
        if batch_id is None:
            source = self.model._next_source(data)
            self._learn(source, _chunks(source), source.n_rows, source.name)
            self._save(source, source.n_rows)
            return
        batches = self.model._ledger.batches
        if batches.is_below(batch_id):
            raise DataError(
                f"batch {batch_id!r} was learned already, or comes too late for {self._path}: ids "
                f"up to {batches.watermark!r} are not remembered singly any more; give batches "
                "ids that rise"
            )
        source, digest = self.model._next_source(data), RowDigest()
        chunks, known = digest.added(_chunks(source)), batches.get(batch_id)
        if known is None:
            self._learn(source, chunks, source.n_rows, f"batch {batch_id!r}")
            self.model._ledger = self.model._ledger.with_batch(batch_id, digest.text())
            self._save(source, source.n_rows, batch_id)
            return
        deque(chunks, maxlen=0)
        if digest.text() != known:
            raise DataError(
                f"{source.name} is not what {self._path} learned as batch {batch_id!r}: the id is "
                "the same, the rows are others; give new rows a new id"
            )
        self._tell(BatchKnown(str(self._path), batch_id))

    def learn_stored(self, data: str, description: Mapping[str, Any]) -> None:
        """Learn what is new of data that are named by a path, URL or pattern.

        Raises
        ------
        DataError
            If what was learned is not there any more as it was.
        """
        files = files_of(data)
        if files is None:
            self._learn_appended(_Place.of(data, description))
            return
        if "sample_weight" in description:
            raise ParameterError(
                f"{data} stands for several files, and sample_weight for the rows of one; update "
                "the model with each file"
            )
        for file in files:
            place = _Place.of(str(file), description)
            if file.is_dir():
                self._learn_appended(place)
            elif not place.is_below(self.model._ledger):
                self._learn_file(place, file)

    def _learn_file(self, place: "_Place", file: Path) -> None:
        """Learn one of several files, unless it was learned before.

        Raises
        ------
        DataError
            If it was, and has been changed since then.
        """
        found = file.stat()
        stamp = found.st_size, found.st_mtime_ns
        position = place.position(self.model._ledger)
        if position is None or position.stamp is None:
            self._learn_appended(place, stamp)
        elif stamp != position.stamp:
            source = self.model._next_source(place.open())
            if source.n_rows != position.n_rows or _content(source) != position.content:
                raise DataError(
                    f"{file} was changed since {self._path} learned it; restore it or take it "
                    "away, and put new rows into new files"
                )
            self.model._ledger = place.noted(
                self.model._ledger, dataclasses.replace(position, stamp=stamp)
            )

    def _learn_appended(self, place: "_Place", stamp: tuple[int, int] | None = None) -> None:
        """Learn the rows of a table that come after those that were learned.

        Each piece of them is in the file before the next one is begun. Where pieces end depends on
        the table alone.

        Parameters
        ----------
        place : _Place
        stamp : tuple of int, optional
            Of a file that does not grow.

        Raises
        ------
        DataError
            If the rows before are not what they were, or it is not known which they are.
        """
        if place.is_below(self.model._ledger):
            raise DataError(
                f"{place.data} was learned already, or comes too late for {self._path}, which does "
                "not remember names of so low an order any more; give new data names that rise"
            )
        source = self.model._next_source(place.open())
        rows = _Rows(source)
        position = place.position(self.model._ledger) or _NOTHING
        latest = self._checked_latest(rows, position)
        ends = _ends_of_pieces(source)
        while position.n_rows < source.n_rows:
            start = position.n_rows
            stop = ends[bisect_right(ends, start)]
            digest = RowDigest()
            chunks = latest.followed(digest.added(rows.between(start, stop)))
            self._learn(source, chunks, stop - start, f"{source.name}, rows {start} to {stop}")
            is_whole = stop == source.n_rows
            content = digest.text(position.content)
            position = Position(stop, content, latest.digest(), stamp if is_whole else None)
            self.model._ledger = place.noted(self.model._ledger, position)
            self._save(source, stop - start)

    def _checked_latest(self, rows: "_Rows", position: Position) -> "_LatestRows":
        """The last rows that were learned, which are to be there."""
        source, n_rows = rows.source, position.n_rows
        if source.n_rows < n_rows:
            raise DataError(
                f"{source.name} has {source.n_rows} rows, but {self._path} has learned {n_rows} of "
                "it: it has become shorter, or is another table; give other data another name"
            )
        latest = _LatestRows()
        deque(latest.followed(rows.between(latest.first(n_rows), n_rows)), maxlen=0)
        if latest.digest() != position.latest:
            raise DataError(
                f"{source.name} is not what {self._path} learned up to row {n_rows}: rows before "
                "it have changed; restore them, or give other data another name"
            )
        return latest

    def _learn(self, source: Source, chunks: Iterator[Chunk], n_rows: int, what: str) -> None:
        """Learn chunks of so many rows, all of them or none; messages call them what is said."""
        try:
            self.model._learn_chunks(source, chunks, n_rows)
        except NotFiniteError as error:
            raise NotFiniteError(f"{what}: {error}") from None

    def _save(self, source: Source, n_rows: int, batch_id: str | None = None) -> None:
        self.model.save(self._path)
        n_samples = self.model.n_samples_seen_
        self._tell(RowsLearned(str(self._path), source.name, n_rows, n_samples, batch_id))

    def _tell(self, event: Event) -> None:
        self.model._listener()(event)


@dataclasses.dataclass(frozen=True)
class _Place:
    """Where a table is, and what it is known by.

    Attributes
    ----------
    data : str
        Path or URL.
    description : mapping of str to object
        What :func:`streamgmm.open` is told of it.
    folder, name : str
    """

    data: str
    description: Mapping[str, Any]
    folder: str
    name: str

    @classmethod
    def of(cls, data: str, description: Mapping[str, Any]) -> Self:
        """The place that a path or URL names."""
        location, inner = split(data)
        inner = description.get("path") or inner
        if is_url(location):
            folder, _, name = without_credentials(location).rstrip("/").rpartition("/")
        else:
            folder, name = os.path.split(Path(location).resolve())
        return cls(data, description, folder, name if inner is None else f"{name}::{inner}")

    def open(self) -> Source:
        """The table."""
        return open_source(self.data, **self.description)

    def is_below(self, ledger: Ledger) -> bool:
        """Whether names of this order are not remembered any more."""
        return ledger.folders.is_below(self.folder) or ledger.files_in(self.folder).is_below(
            self.name
        )

    def position(self, ledger: Ledger) -> Position | None:
        """How far it has been learned; None if it is new."""
        return ledger.files_in(self.folder).get(self.name)

    def noted(self, ledger: Ledger, position: Position) -> Ledger:
        """A ledger that knows how far it has been learned."""
        return ledger.with_position(self.folder, self.name, position)


class _LatestRows:
    """The last few of rows that pass."""

    def __init__(self) -> None:
        self._chunks: list[Chunk] = []

    @staticmethod
    def first(n_rows: int) -> int:
        """The first of them, after so many rows."""
        return max(n_rows - _LATEST_ROWS, 0)

    def followed(self, chunks: Iterator[Chunk]) -> Iterator[Chunk]:
        """The chunks, of which copies of the last rows are kept."""
        for chunk in chunks:
            yield chunk
            self._chunks.append(_copied(chunk, self.first(len(chunk.rows))))
            surplus = sum(len(kept.rows) for kept in self._chunks) - _LATEST_ROWS
            while surplus > 0:
                oldest = self._chunks.pop(0)
                if len(oldest.rows) > surplus:
                    self._chunks.insert(0, _copied(oldest, surplus))
                surplus -= len(oldest.rows)

    def digest(self) -> str:
        """Of these rows."""
        digest = RowDigest()
        for chunk in self._chunks:
            digest.add(chunk)
        return digest.text()


def _copied(chunk: Chunk, start: int) -> Chunk:
    """The rows of a chunk from start, without the memory of the others."""
    part = chunk.part(start, len(chunk.rows))
    weights = None if part.weights is None else part.weights.copy()
    return Chunk(part.rows.copy(), part.index, weights)


_NOTHING = Position(0, "", _LatestRows().digest())


def _chunks(source: Source) -> Iterator[Chunk]:
    """The chunks of a source, one after the other."""
    return (source.read(i) for i in all_chunks(source))


class _Rows:
    """The rows of a table, which lie one after the other.

    The chunk that was read last is kept: new rows begin where it ended.

    Parameters
    ----------
    source : Source
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self._kept: tuple[int, Chunk] | None = None

    def between(self, start: int, stop: int) -> Iterator[Chunk]:
        """The rows from start to stop.

        Raises
        ------
        DataError
            If chunks are boxes of rows that do not follow each other.
        """
        boundaries = self.source.boundaries
        i = bisect_right(boundaries, start) - 1
        while i < len(boundaries) - 1 and boundaries[i] < stop:
            first, last = boundaries[i], boundaries[i + 1]
            yield self._chunk(i).part(max(start - first, 0), min(stop, last) - first)
            i += 1

    def _chunk(self, i: int) -> Chunk:
        if self._kept is not None and self._kept[0] == i:
            return self._kept[1]
        self._kept = None
        chunk = self.source.read(i)
        boundaries, index = self.source.boundaries, chunk.index
        if not isinstance(index, range) or index != range(boundaries[i], boundaries[i + 1]):
            raise DataError(
                f"{self.source.name} is stored in boxes of rows that do not follow each other, so "
                "what is new cannot be told from what was there; give it in batches with a batch_id"
            )
        self._kept = i, chunk
        return chunk


def _ends_of_pieces(source: Source) -> list[int]:
    """Rows before the end of each piece, which is some whole chunks."""
    boundaries = source.boundaries
    largest = max(after - before for before, after in pairwise(boundaries))
    n_chunks = max(1, _PIECE_BYTES // (8 * source.n_features * largest))
    return [*boundaries[n_chunks:-1:n_chunks], source.n_rows]


def _content(source: Source) -> str:
    """The digest of all rows of a table, as if it had been learned from its beginning."""
    rows, text = _Rows(source), ""
    for start, stop in pairwise([0, *_ends_of_pieces(source)]):
        digest = RowDigest()
        deque(digest.added(rows.between(start, stop)), maxlen=0)
        text = digest.text(text)
    return text


def _checked_id(batch_id: Any) -> str:
    text = str(batch_id)
    if not isinstance(batch_id, str | Integral | date) or not 0 < len(text) <= _LONGEST_ID:
        raise ParameterError(
            f"batch_id is {batch_id!r}; it is to be a text of 1 to {_LONGEST_ID} characters, a "
            "whole number or a date"
        )
    return text


def _going_on(path: Path, settings: Mapping[str, Any]) -> OnlineGaussianMixture:
    """The model in a file, if its settings are as they are asked for, or a new one.

    Raises
    ------
    ModelFileError
        If there is none, nor a number of components to begin one.
    ParameterError
        If a setting is another one, or there is no such setting.
    """
    unknown = sorted(settings.keys() - OnlineGaussianMixture().get_params(deep=False).keys())
    if unknown:
        raise ParameterError(
            f"{', '.join(unknown)} is neither an argument of streamgmm.open nor a setting of "
            "OnlineGaussianMixture"
        )
    if not path.exists():
        if "n_components" not in settings:
            raise ModelFileError(
                f"{path}: no such file; give n_components (-k) to begin one, or save an "
                "OnlineGaussianMixture there"
            )
        return OnlineGaussianMixture(**settings)
    model = load(path)
    is_batch = isinstance(model, GaussianMixture)
    decided = _OF_BATCH if is_batch else settings.keys() - _LOCAL
    known = model.get_params(deep=False)
    other = [
        f"{name} is {known[name]!r} and not {settings[name]!r}"
        for name in sorted(decided & settings.keys())
        if known[name] != settings[name]
    ]
    if other:
        raise ParameterError(
            f"{path} is of other settings: its {'; its '.join(other)}. Leave these out to go on "
            "with it, or begin another model"
        )
    if isinstance(model, GaussianMixture):
        return OnlineGaussianMixture.from_batch(model, **settings)
    model.set_params(**{name: settings[name] for name in _LOCAL & settings.keys()})
    return model


@contextmanager
def _held(path: Path) -> Iterator[None]:
    """A model's file for this process alone; the lock ends with the process.

    Raises
    ------
    OutputError
        If another process has it, or nothing can be written there.
    """
    if not path.parent.is_dir():
        raise OutputError(f"{path} cannot be updated: there is no directory {path.parent}")
    lock = FileLock(path.with_name(f".{path.name}.lock"), timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise OutputError(
            f"{path} is being updated by another process, which has {lock.lock_file} locked; wait "
            "for it"
        ) from None
    except OSError as error:
        raise OutputError(f"{path} cannot be updated: {error}") from error
    try:
        discard_unfinished(path)
        yield
    finally:
        lock.release()
