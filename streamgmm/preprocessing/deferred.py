"""Maps that are computed when they are first asked for, several of them from one pass.

A transformer that is fitted to a source waits. When its map is asked for, one pass over the rows
gives their moments. If the source is itself the output of affine maps, the pass is one over the
rows before these maps: it gives the maps that still wait, and the moments of mapped rows follow.
"""

import threading
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from streamgmm.algorithms.reads.moments import MomentsFound, read_moments
from streamgmm.algorithms.reads.reader import Reader, refuse_not_finite
from streamgmm.estimators.condition import warn_of_skipped_rows
from streamgmm.events import Listener, SkippedRows
from streamgmm.executors.blas import single_threaded_blas
from streamgmm.executors.select import open_executor
from streamgmm.protocols import Source
from streamgmm.sources.transformed import RowMap, Transform, TransformedSource, transformed

V = TypeVar("V", bound=RowMap)


@dataclass(frozen=True)
class PassSettings:
    """The executor and the resources of a pass over the data.

    Attributes
    ----------
    executor, n_jobs, memory_limit
        As for :class:`streamgmm.GaussianMixture`.
    listener : callable
        Called with every event.
    """

    executor: Any
    n_jobs: int | None
    memory_limit: int | str | None
    listener: Listener


@dataclass(frozen=True, eq=False)
class Question(Generic[V]):
    """The data of a fit, and the way from their moments to the map.

    Attributes
    ----------
    source : Source
    find : callable
        Returns the map from the source and what a pass found.
    is_joint : bool
        Whether it needs the moments of all columns together.
    settings : PassSettings
    """

    source: Source
    find: Callable[[Source, MomentsFound], V]
    is_joint: bool
    settings: PassSettings


class Deferred(Generic[V]):
    """A map that is known, or is computed when it is first asked for.

    Parameters
    ----------
    known : V or Question
        The map, or the question that it answers.
    n_outputs : int or None
        Number of mapped columns; None if the map has to be computed to know it.
    prefix : str, optional
        Mapped columns are named by it and their numbers; by default they keep their names.
    is_affine : bool
        Whether moments of mapped rows follow from the moments of the rows.
    """

    def __init__(
        self,
        known: V | Question[V],
        n_outputs: int | None,
        prefix: str | None = None,
        is_affine: bool = True,
    ) -> None:
        self._question = known if isinstance(known, Question) else None
        self._map = None if isinstance(known, Question) else known
        self._n_outputs, self._prefix, self.is_affine = n_outputs, prefix, is_affine
        self._lock = threading.RLock()

    def __getstate__(self) -> dict[str, Any]:
        # The data that it is computed from may be in this process only.
        return {
            "known": self.row_map,
            "n_outputs": self.n_outputs,
            "prefix": self._prefix,
            "is_affine": self.is_affine,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    @property
    def row_map(self) -> V:
        """The map."""
        with self._lock:
            if self._question is not None:
                self._answer(_moments(self._question))
            assert self._map is not None
            return self._map

    @property
    def n_outputs(self) -> int:
        """Number of columns of mapped rows."""
        return self.row_map.n_outputs if self._n_outputs is None else self._n_outputs

    def names(self, given: Sequence[str] | None) -> Sequence[str] | None:
        """Return the names of the columns of mapped rows."""
        if self._prefix is None:
            return given
        return [f"{self._prefix}{i}" for i in range(self.n_outputs)]

    def needs_joint(self, base: Source, before: Sequence[Transform]) -> bool:
        """Return whether moments of all columns together are needed to answer or to map them."""
        with self._lock:
            if self._waits_for(base, before):
                assert self._question is not None
                return self._question.is_joint
        return self.row_map.mixes_columns

    def mapped(
        self, base: Source, before: Sequence[Transform], found: MomentsFound
    ) -> MomentsFound:
        """Return the moments of mapped rows; if the map waits for these moments, compute it."""
        with self._lock:
            if self._waits_for(base, before):
                self._answer(found)
        row_map: Any = self.row_map
        return replace(found, moments=row_map.moments(found.moments))

    def _waits_for(self, base: Source, before: Sequence[Transform]) -> bool:
        """Return whether these rows, mapped by these maps, determine the map."""
        if self._question is None:
            return False
        own_base, own_before = _parts(self._question.source)
        return own_base is base and own_before == tuple(before)

    def _answer(self, found: MomentsFound) -> None:
        assert self._question is not None
        with single_threaded_blas():
            self._map = self._question.find(self._question.source, found)
        self._question = None


def _parts(source: Source) -> tuple[Source, tuple[Transform, ...]]:
    """Return the rows before all maps, and the maps."""
    if isinstance(source, TransformedSource):
        return source.base, source.transforms
    return source, ()


def _moments(question: Question[Any]) -> MomentsFound:
    """Return the moments of the rows of a source, and compute the maps that wait for them.

    Raises
    ------
    NotFiniteError
        If rows hold infinity.
    DataError, MemoryLimitError
        As :func:`streamgmm.algorithms.reads.moments.read_moments`.
    """
    base, transforms = _parts(question.source)
    steps: list[tuple[Deferred[Any], tuple[Transform, ...]]] = []
    for i, one in enumerate(transforms):
        if isinstance(one, Deferred) and one.is_affine:
            steps.append((one, transforms[:i]))
        else:
            # Moments do not follow through this map: its rows are read.
            steps = []
    n_applied = len(transforms) - len(steps)
    source: Any = transformed(base, transforms[:n_applied]) if n_applied else base
    if isinstance(source, TransformedSource):
        source.settle()
    is_joint = question.is_joint or any(one.needs_joint(base, before) for one, before in steps)
    found = _read(source, is_joint, question.settings)
    for one, before in steps:
        found = one.mapped(base, before, found)
    return found


def _read(source: Source, is_joint: bool, settings: PassSettings) -> MomentsFound:
    """Return the moments of all rows, from one pass."""
    with (
        open_executor(
            settings.executor, source, settings.n_jobs, settings.memory_limit
        ) as executor,
        single_threaded_blas(),
    ):
        found = read_moments(Reader(source, executor, settings.listener), is_joint)
        if found.n_refused:
            # NaN is no reason to refuse a row here.
            described = copy(source)
            described.missing = "em"
            refuse_not_finite(described, executor)
    warn_of_skipped_rows(SkippedRows(found.skipped.n_overflowing), source.n_rows)
    return found
