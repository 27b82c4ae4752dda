"""Models in files that continue learning: each batch, and each row of data that grow, once.

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
from datetime import date
from numbers import Integral
from pathlib import Path
from types import MappingProxyType
from typing import Any

from streamgmm.errors import (
    DataError,
    ModelFileError,
    NotFiniteError,
    OutputError,
    ParameterError,
)
from streamgmm.estimators.loading import load_or_begin
from streamgmm.estimators.online_mixture import OnlineGaussianMixture
from streamgmm.estimators.online_records import to_online_record
from streamgmm.estimators.row_estimator import listener_of, require_fitted_columns
from streamgmm.estimators.validation import check_callbacks
from streamgmm.events import (
    BatchKnown,
    Event,
    FilesSkipped,
    Listener,
    RowsLearned,
    SkippedRows,
)
from streamgmm.ledger import Ledger, Position
from streamgmm.model_files import held, replace_model
from streamgmm.paths import local_path
from streamgmm.protocols import Chunk, Source, chunks_of
from streamgmm.sources.files import files_of
from streamgmm.sources.layout import name_of_several
from streamgmm.sources.open import is_path, is_paths, is_source, is_stream, open_source, paths_of
from streamgmm.updates.appended_rows import (
    LatestRows,
    OrderedRows,
    content_digest,
    ends_of_pieces,
)
from streamgmm.updates.row_digest import RowDigest, version_of
from streamgmm.updates.table_key import TableKey

_LONGEST_ID = 256
# Arguments of streamgmm.open that describe data; weights are a separate argument.
_DESCRIPTION = inspect.signature(open_source).parameters.keys() - {"data", "sample_weight"}
_NOTHING = Position(0, LatestRows().digest())


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
    same id is refused. The ids of 1024 batches are remembered. If there are more, the lowest id is
    forgotten; from then on an id that is not above a forgotten one is refused, because its batch
    may have been learned. So ids have to rise in the long run, as dates, counters and
    ``"part-10"`` after ``"part-9"`` do.

    Without an id, data that are named by a path or URL are tracked by it, and new rows are learned.
    In one file or array these are the rows after those that were learned before, whose last few
    must not have changed. In a folder or a pattern these are the files with new names; the known
    files must not have changed. All other data without an id are learned in every call.

    Parameters
    ----------
    model : path-like
        File of an :class:`OnlineGaussianMixture`, which may be saved before it has learned any
        row, or of a :class:`GaussianMixture`, which continues as by
        :meth:`OnlineGaussianMixture.from_batch`. If there is no such file and ``n_components`` is
        given, the call creates it.
    data : path-like, array-like, Source or iterator of batches
        Anything that :func:`streamgmm.open` takes. Without an id, a path to a folder, a pattern or
        a list of paths stands for files that are learned one by one. Of an iterator each batch is
        learned, and the model saved, as it comes; an Arrow stream, such as a
        pyarrow.RecordBatchReader or a relation of DuckDB, is an iterator of its record batches.
    batch_id : str, int or date, default=None
        The id of the batch. Ids are compared as text, so 7 and ``"7"`` are one id.
    sample_weight : array-like or path, default=None
        Row weights; of an array that grows a path of one that grows with it.
    callbacks : sequence of callables, default=()
        Called with each event, :class:`streamgmm.events.RowsLearned` among them, and
        :class:`streamgmm.events.FilesSkipped` if files are not read because their names are
        below the remembered ones.
    **options
        Arguments of :func:`streamgmm.open` that describe the data, such as ``missing="drop"``; and
        settings of :class:`OnlineGaussianMixture`, for a new model or one that continues from a
        batch fit. For any other model, settings that differ from those in the file are refused,
        except settings of the machine, such as ``n_jobs``.

    Returns
    -------
    OnlineGaussianMixture
        The model that the file now holds.

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
    if is_stream(data):
        from streamgmm.sources.arrow_stream import batches_of

        data = batches_of(data)
    if isinstance(data, Iterator) and (known_id is not None or sample_weight is not None):
        raise ParameterError(
            "batch_id and sample_weight are for one batch; update the model with each batch of "
            "the iterator by itself"
        )
    check_callbacks(callbacks)
    path = Path(os.path.realpath(local_path(model, ModelFileError, "model files")))
    if not path.parent.is_dir():
        raise OutputError(f"{path} cannot be updated: there is no directory {path.parent}")
    with held(path):
        stored = _StoredModel(path, options, callbacks)
        if isinstance(data, Iterator):
            for batch in data:
                stored.learn_batch(batch, description)
        elif known_id is not None or not (is_path(data) or is_paths(data)):
            stored.learn_batch(data, description, known_id)
        else:
            if is_paths(data) and sample_weight is not None:
                raise _weights_of_several(name_of_several(paths_of(data)))
            for file in paths_of(data):
                stored.learn_stored(file, description)
        return stored.model


class _StoredModel:
    """A model whose file is written anew after all that it learns.

    Parameters
    ----------
    path : Path
    settings : mapping of str to object
        That the model must have, or be given if it is one of a batch fit.
    callbacks : sequence of callables
    """

    def __init__(self, path: Path, settings: dict[str, Any], callbacks: Sequence[Listener]) -> None:
        self._path = path
        self.model = load_or_begin(path, settings)
        self.model.callbacks = callbacks

    @property
    def _ledger(self) -> Ledger:
        return self.model.state_.ledger

    @_ledger.setter
    def _ledger(self, ledger: Ledger) -> None:
        self.model.state_ = dataclasses.replace(self.model.state_, ledger=ledger)

    def _opened(self, data: Any, description: Mapping[str, Any] = MappingProxyType({})) -> Source:
        """Open data, whose columns must be those that were learned before."""
        source = open_source(data, **description)
        if self.model.state_.progress is not None:
            was_source = bool(description) or is_source(data)
            require_fitted_columns(self.model, source, was_source=was_source)
        return source

    def learn_batch(
        self, data: Any, description: Mapping[str, Any], batch_id: str | None = None
    ) -> None:
        """Learn a batch, unless one of the same id was learned before.

        Raises
        ------
        DataError
            If that had other rows, or is so long ago that it is not known.
        """
        source = self._opened(data, description)
        if batch_id is None:
            learned = self._learn(source, chunks_of(source), source.n_rows, source.name)
            self._save(source, learned)
            return
        batches = self._ledger.batches
        if batches.is_below(batch_id):
            raise DataError(
                f"batch {batch_id!r} was learned already, or comes too late for {self._path}: ids "
                f"up to {batches.watermark!r} are not remembered singly any more; give batches "
                "ids that rise"
            )
        known = batches.get(batch_id)
        digest = RowDigest(version_of(known))
        chunks = digest.added(chunks_of(source))
        if known is None:
            learned = self._learn(source, chunks, source.n_rows, f"batch {batch_id!r}")
            self._ledger = self._ledger.with_batch(batch_id, digest.text())
            self._save(source, learned, batch_id)
            return
        deque(chunks, maxlen=0)
        if digest.text() != known:
            raise DataError(
                f"{source.name} is not what {self._path} learned as batch {batch_id!r}: the id is "
                "the same, the rows are others; give new rows a new id"
            )
        self._notify(BatchKnown(str(self._path), batch_id))

    def learn_stored(self, data: str, description: Mapping[str, Any]) -> None:
        """Learn what is new of data that are named by a path, URL or pattern.

        Raises
        ------
        DataError
            If what was learned is not there any more as it was.
        """
        files = files_of(data)
        if files is None:
            self._learn_appended(TableKey.of(data, description))
            return
        if "sample_weight" in description:
            raise _weights_of_several(data)
        skipped: dict[str, list[str]] = {}
        for file in files:
            key = TableKey.of(str(file), description)
            if file.is_dir():
                self._learn_appended(key)
            elif key.is_below(self._ledger):
                skipped.setdefault(key.folder, []).append(key.name)
            else:
                self._learn_file(key, file)
        for folder, names in skipped.items():
            self._notify(FilesSkipped(str(self._path), folder, tuple(names)))

    def _learn_file(self, key: TableKey, file: Path) -> None:
        """Learn one of several files, unless it was learned before.

        Raises
        ------
        DataError
            If it was, and has been changed since then.
        """
        position = key.position(self._ledger)
        if position is None or position.is_unfinished:
            self._learn_appended(key, file)
        elif position.may_grow:
            self._learn_appended(key)
        elif not position.has_stamp(stamp := _stamp(file)):
            source = self._opened(key.open())
            version = version_of(position.content)
            is_same_size = source.n_rows == position.n_rows
            if not is_same_size or content_digest(source, version) != position.content:
                raise DataError(
                    f"{file} was changed since {self._path} learned it; restore it or take it "
                    "away, and put new rows into new files"
                )
            # In the next call the comparison of its stamp is enough.
            self._ledger = key.noted(self._ledger, dataclasses.replace(position, stamp=stamp))
            self._write()

    def _learn_appended(self, key: TableKey, file: Path | None = None) -> None:
        """Learn the rows of a table that come after those that were learned.

        Each piece of them is in the file of the model before the next one is begun. Where pieces
        end depends on the table alone.

        Parameters
        ----------
        key : TableKey
        file : Path, optional
            That the table is in, if it is one of several, which do not grow.

        Raises
        ------
        DataError
            If the rows before have changed, or are not known; or the file changes meanwhile.
        """
        if key.is_below(self._ledger):
            raise DataError(
                f"{key.data} was learned already, or comes too late: its name is below those that "
                f"{self._path} remembers; give new data names that come later in the order of text"
            )
        stamp = None if file is None else _stamp(file)
        source = self._opened(key.open())
        rows = OrderedRows(source)
        position = key.position(self._ledger) or _NOTHING
        latest = self._checked_latest(rows, position)
        ends = ends_of_pieces(source)
        while position.n_rows < source.n_rows:
            start = position.n_rows
            stop = ends[bisect_right(ends, start)]
            digest = RowDigest(version_of(position.content))
            chunks = rows.between(start, stop)
            chunks = latest.followed(chunks if file is None else digest.added(chunks))
            what = f"{source.name}, rows {start} to {stop}"
            learned = self._learn(source, chunks, stop - start, what)
            if file is None:
                position = Position(stop, latest.digest())
            elif _stamp(file) != stamp:
                raise DataError(
                    f"{file} was changed while it was read, and rows {start} to {stop} of it were "
                    "not learned; update again when it is whole"
                )
            else:
                content = digest.text(position.content or "")
                is_whole = stop == source.n_rows
                position = Position(stop, latest.digest(), content, stamp if is_whole else None)
            self._ledger = key.noted(self._ledger, position)
            self._save(source, learned)

    def _checked_latest(self, rows: OrderedRows, position: Position) -> LatestRows:
        """Return the last rows that were learned; refuse a source that lacks them."""
        source, n_rows = rows.source, position.n_rows
        if source.n_rows < n_rows:
            raise DataError(
                f"{source.name} has {source.n_rows} rows, but {self._path} has learned {n_rows} of "
                "it: it has become shorter, or is another table; give other data another name"
            )
        latest = LatestRows()
        deque(latest.followed(rows.between(latest.first(n_rows), n_rows)), maxlen=0)
        if latest.digest(version_of(position.latest)) != position.latest:
            raise DataError(
                f"{source.name} is not what {self._path} learned up to row {n_rows}: rows before "
                "it have changed; restore them, or give other data another name"
            )
        return latest

    def _learn(self, source: Source, chunks: Iterator[Chunk], n_rows: int, what: str) -> "_Learned":
        """Learn chunks of ``n_rows`` rows, all of them or none; messages call them ``what``."""
        before = self.model.state_.skipped
        try:
            self.model.learn_chunks(source, chunks)
        except NotFiniteError as error:
            raise NotFiniteError(f"{what}: {error}") from None
        skipped = self.model.state_.skipped - before
        return _Learned(n_rows - skipped.n_rows, skipped)

    def _save(self, source: Source, learned: "_Learned", batch_id: str | None = None) -> None:
        self._write()
        self._notify(
            RowsLearned(
                str(self._path),
                source.name,
                learned.n_rows,
                self.model.n_samples_seen_,
                batch_id,
                learned.skipped,
            )
        )

    def _write(self) -> None:
        self._ledger = dataclasses.replace(self._ledger, has_updates=True)
        replace_model(self._path, to_online_record(self.model), self.model)

    def _notify(self, event: Event) -> None:
        listener_of(self.model)(event)


@dataclasses.dataclass(frozen=True)
class _Learned:
    """Rows that were learned, and rows beside them that were skipped."""

    n_rows: int
    skipped: SkippedRows


def _weights_of_several(data: str) -> ParameterError:
    return ParameterError(
        f"{data} stands for several files, and sample_weight for the rows of one; update the model "
        "with each file"
    )


def _stamp(file: Path) -> tuple[int, ...]:
    """Return what changes with a file: its size, its times and its number in the file system.

    The second time is that of the last change of anything, which no program can set.
    """
    found = file.stat()
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino


def _checked_id(batch_id: Any) -> str:
    """Return the text of an id."""
    text = str(batch_id)
    is_id = isinstance(batch_id, str | Integral | date) and not isinstance(batch_id, bool)
    # A date that is missing (pandas.NaT) is not equal to itself.
    if not is_id or batch_id != batch_id or not 0 < len(text) <= _LONGEST_ID:
        raise ParameterError(
            f"batch_id is {batch_id!r}; give a text of 1 to {_LONGEST_ID} characters, a "
            "whole number or a date"
        )
    return text
