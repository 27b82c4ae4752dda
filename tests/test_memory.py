"""The memory limit as a contract: what fits is done, what does not is refused before a read."""

import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from streamgmm.core.parameters import Parameters
from streamgmm.errors import MemoryLimitError
from streamgmm.estimators import GaussianMixture
from streamgmm.events import ChunkDone
from streamgmm.executors import memory
from streamgmm.executors.memory import Budget
from streamgmm.executors.threads import ThreadExecutor
from streamgmm.protocols import Work
from streamgmm.sources.generated import GeneratedSource

MIB = 1 << 20


def generated(n_rows: int, d: int, chunk_rows: int | None = None) -> GeneratedSource:
    parameters = Parameters.create("diag", [1.0], np.zeros((1, d)), np.ones((1, d)))
    return GeneratedSource(parameters, n_rows, chunk_rows=chunk_rows)


def peak_of(code: str, *arguments: object) -> int:
    """Peak resident bytes of a process of its own that runs some code."""
    report = """
    from pathlib import Path
    status = Path("/proc/self/status").read_text()
    print(int(status.partition("VmHWM:")[2].split()[0]) * 1024)
    """
    script = textwrap.dedent(code) + textwrap.dedent(report)
    command = [sys.executable, "-W", "ignore", "-c", script, *map(str, arguments)]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return int(ended.stdout.split()[-1])


class _Enough(Exception):
    pass


def test_the_sample_of_a_wide_and_long_array_is_not_charged_once_a_level() -> None:
    def stop(event: object) -> None:
        if isinstance(event, ChunkDone):
            raise _Enough

    # 8 GB of 128 columns, of which a few chunks are read.
    model = GaussianMixture(
        4, memory_limit=memory.process_bytes() + 400 * MIB, n_jobs=2, callbacks=[stop]
    )
    with pytest.raises(_Enough):
        model.fit(generated(8_000_000, 128))


def test_too_many_components_are_refused_before_the_first_read() -> None:
    events: list[object] = []
    model = GaussianMixture(
        4000, memory_limit=memory.process_bytes() + 50 * MIB, callbacks=[events.append]
    )
    with pytest.raises(MemoryLimitError, match="covariance_type='diag'"):
        model.fit(generated(100_000, 60))
    assert events == []


def test_memory_that_was_freed_does_not_end_a_fit_half_way() -> None:
    source = generated(60_000, 4, chunk_rows=1000)
    with ThreadExecutor(1, memory.process_bytes() + 2 * MIB) as executor:
        first = executor.map_reduce(source, _rows, None, lambda event: None)
        held = np.ones(4 * MIB // 8)
        again = executor.map_reduce(source, _rows, None, lambda event: None)
    assert first.n == again.n == 60_000
    assert held.sum() == held.size


class _Count:
    def __init__(self, n: int) -> None:
        self.n = n

    def merge(self, other: "_Count") -> "_Count":
        return _Count(self.n + other.n)


def _rows(_: None, chunk: object) -> _Count:
    return _Count(len(chunk.rows))  # type: ignore[attr-defined]


def test_more_memory_never_means_fewer_chunks() -> None:
    source = generated(1_000_000, 8)
    found = [
        Budget(limit, 100 * MIB, 2).chunks_in_flight(source, Work(5 * MIB, MIB), 4, 6)
        for limit in range(100 * MIB, 300 * MIB, MIB)
    ]
    assert found == sorted(found)
    assert (found[0], found[-1]) == (0, 6)


def test_responsibilities_of_many_components_are_written_within_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    np.save(path, np.random.default_rng(0).normal(size=(300_000, 2)))
    code = """
    import sys
    import numpy as np
    from streamgmm import GaussianMixture
    path, out, limit = sys.argv[1], sys.argv[2], int(sys.argv[3])
    rows = np.random.default_rng(0).normal(size=(3000, 2))
    model = GaussianMixture(256, covariance_type="diag", max_iter=1, random_state=0, n_jobs=2)
    model.fit(rows).set_params(memory_limit=limit).predict_proba(path, out=out)
    """
    limit = 400 * MIB
    # The result, 600 MB, is on disk; Zarr because pages of a mapped file count as resident.
    assert peak_of(code, path, tmp_path / "r.zarr", limit) < 1.25 * limit


def test_moves_of_many_components_take_little_memory() -> None:
    code = """
    import sys
    import numpy as np
    from streamgmm.algorithms.em import expectation_maximization
    from streamgmm.algorithms.moves import Rows, move_components
    from streamgmm.algorithms.reading import Reader
    from streamgmm.core.parameters import Parameters
    from streamgmm.executors.threads import ThreadExecutor
    from streamgmm.sources.sample import SampleSource

    k, work = 256, sys.argv[1]
    rows = np.random.default_rng(0).normal(size=(40_000, 2))
    weights = np.ones(len(rows))
    start = Parameters.create("diag", np.full(k, 1 / k), rows[:k], np.full((k, 2), 0.01))
    with ThreadExecutor(2) as executor:
        reader = Reader(SampleSource(rows, weights), executor, lambda event: None)
        fit = expectation_maximization(reader, start, tol=0.0, max_iter=1, reg_covar=1e-6)
        if work == "moves":
            move_components(Rows(reader, rows, weights), fit, reg_covar=1e-6)
    """
    # Responsibilities of both halves of all components alone would be 160 MiB.
    assert peak_of(code, "moves") - peak_of(code, "nothing") < 120 * MIB


def test_a_start_with_many_components_takes_little_memory() -> None:
    code = """
    import numpy as np
    from streamgmm import GaussianMixture
    rows = np.random.default_rng(0).normal(size=(80_000, 4))
    GaussianMixture(
        512,
        covariance_type="diag",
        init_params="random_from_data",
        max_iter=1,
        random_state=0,
        algorithm="em",
    ).fit(rows)
    """
    # Distances of all sampled rows to all centres alone would be 256 MiB.
    assert peak_of(code) < peak_of("import streamgmm.estimators") + 200 * MIB


def test_cached_files_do_not_count_as_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "memory.max").write_text(f"{1000 * MIB}\n")
    (tmp_path / "memory.current").write_text(f"{990 * MIB}\n")
    (tmp_path / "memory.stat").write_text(f"anon {MIB}\ninactive_file {900 * MIB}\nslab 1\n")
    monkeypatch.setattr(memory, "_control_groups", lambda: [tmp_path])
    assert memory.free_bytes() == 910 * MIB
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.free_bytes() > 910 * MIB
