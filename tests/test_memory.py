"""The memory limit as a contract: what fits is done, what does not is refused before a read."""

import subprocess
import sys
import textwrap
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from streamgmm.algorithms.batch.accelerated_em import accelerated_em
from streamgmm.algorithms.batch.em import expectation_maximization
from streamgmm.algorithms.batch.sample_correction import SampleCorrection
from streamgmm.algorithms.batch.sample_fit import Settings
from streamgmm.algorithms.reads.memory import (
    _FIXED_BYTES,
    EFFORTS,
    Effort,
    MixtureBytes,
    affordable,
)
from streamgmm.algorithms.reads.reader import Reader
from streamgmm.core.e_step import scratch_bytes
from streamgmm.core.objective import Objective
from streamgmm.core.parameters import Parameters
from streamgmm.core.structures import STRUCTURES
from streamgmm.core.structures.low_rank import structure_name
from streamgmm.core.structures.low_rank_factors import joined
from streamgmm.errors import MemoryLimitError
from streamgmm.estimators import GaussianMixture
from streamgmm.estimators.fit_needs import FitNeeds
from streamgmm.executors import memory
from streamgmm.executors.memory import Budget
from streamgmm.executors.threads import ThreadExecutor
from streamgmm.options import CovarianceType
from streamgmm.protocols import Job, Work
from streamgmm.sources.generated import GeneratedSource
from streamgmm.sources.sample import SampleSource

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


def test_the_sample_of_a_wide_and_long_array_is_not_charged_once_a_level() -> None:
    # 8 GB of 128 columns, of which a few chunks are read.
    code = """
    import numpy as np
    from streamgmm import GaussianMixture
    from streamgmm.core.parameters import Parameters
    from streamgmm.events import ChunkDone
    from streamgmm.sources.generated import GeneratedSource

    class Enough(Exception):
        pass

    def stop(event):
        if isinstance(event, ChunkDone):
            raise Enough

    one = Parameters.create("diag", [1.0], np.zeros((1, 128)), np.ones((1, 128)))
    model = GaussianMixture(4, memory_limit="720MiB", n_jobs=2, callbacks=[stop])
    try:
        model.fit(GeneratedSource(one, 8_000_000))
    except Enough:
        pass
    else:
        raise SystemExit("no chunk was read")
    """
    assert peak_of(code) <= 720 * MIB


@pytest.mark.filterwarnings("ignore::streamgmm.errors.FewRowsWarning")
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
        first = executor.map_reduce(source, Job(_rows, None), lambda event: None)
        held = np.ones(4 * MIB // 8)
        again = executor.map_reduce(source, Job(_rows, None), lambda event: None)
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
    # Interpreter and libraries take 250 to 390 MiB, by how the system maps their files.
    limit = 460 * MIB
    # The result, 600 MB, is on disk; Zarr because pages of a mapped file count as resident.
    assert peak_of(code, path, tmp_path / "r.zarr", limit) <= limit


def test_split_and_merge_of_many_components_takes_little_memory() -> None:
    code = """
    import sys
    import numpy as np
    from streamgmm.algorithms.batch.em import expectation_maximization
    from streamgmm.algorithms.batch.rows_in_memory import Rows
    from streamgmm.algorithms.batch.split_merge import Moved, split_and_merge
    from streamgmm.algorithms.reads.reader import Reader
    from streamgmm.core.objective import Objective
    from streamgmm.core.parameters import Parameters
    from streamgmm.executors.threads import ThreadExecutor
    from streamgmm.sources.sample import SampleSource

    k, work = 256, sys.argv[1]
    rows = np.random.default_rng(0).normal(size=(40_000, 2))
    weights = np.ones(len(rows))
    start = Parameters.create("diag", np.full(k, 1 / k), rows[:k], np.full((k, 2), 0.01))
    with ThreadExecutor(2) as executor:
        reader = Reader(SampleSource(rows, weights), executor, lambda event: None)
        settings = {"objective": Objective(1e-6)}
        fit = expectation_maximization(reader, start, tol=0.0, max_iter=1, **settings)
        if work == "split and merge":
            split_and_merge(Rows(reader, rows, weights), Moved(fit), **settings)
    """
    # Responsibilities of both halves of all components alone would be 160 MiB.
    assert peak_of(code, "split and merge") - peak_of(code, "nothing") < 120 * MIB


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


KEPT = """
import re, sys
import numpy as np
import streamgmm
from streamgmm import GaussianMixture, OnlineGaussianMixture
from streamgmm.errors import MemoryLimitError

random = np.random.default_rng(0)

def rows_of(n, d, k):
    centres = random.normal(size=(k, d)) * 3
    return centres[random.integers(0, k, n)] + random.normal(size=(n, d))

CASE

try:
    fit("64MiB")
    raise SystemExit("nothing was refused")
except MemoryLimitError as error:
    limit = re.search(r"smallest limit that works is '([0-9]+)MiB'", str(error))[1]
fit(limit + "MiB")
print("limit", int(limit) * 2**20)
"""

FITS = {
    "full": """
X = rows_of(900, 256, 4)
def fit(limit):
    GaussianMixture(4, random_state=0, memory_limit=limit).fit(X)
""",
    "diag": """
X = rows_of(6000, 32, 128)
def fit(limit):
    GaussianMixture(128, covariance_type="diag", random_state=0, memory_limit=limit).fit(X)
""",
    "low rank": """
X = rows_of(1500, 192, 4)
def fit(limit):
    model = GaussianMixture(12, covariance_type="low_rank", rank=8, max_iter=2, random_state=0)
    model.set_params(memory_limit=limit).fit(X)
""",
    "plain EM": """
X = rows_of(900, 256, 4)
def fit(limit):
    model = GaussianMixture(4, algorithm="em", random_state=0, max_iter=3, memory_limit=limit)
    model.fit(X)
""",
    "missing values": """
X = rows_of(1500, 96, 4)
X[random.random(X.shape) < 0.01] = np.nan
data = streamgmm.open(X, missing="em")
def fit(limit):
    GaussianMixture(4, random_state=0, max_iter=3, memory_limit=limit).fit(data)
""",
    "stream": """
X = rows_of(3000, 128, 4)
def fit(limit):
    model = OnlineGaussianMixture(4, init_size=2000, random_state=0, memory_limit=limit)
    for start in range(0, len(X), 1000):
        model.partial_fit(X[start : start + 1000])
""",
    "merging": """
X = rows_of(900, 256, 3)
parts = [
    GaussianMixture(3, algorithm="em", max_iter=1, random_state=seed).fit(X) for seed in range(3)
]
def fit(limit):
    OnlineGaussianMixture.merged(parts, n_components=3, memory_limit=limit)
""",
    "Dask threads": """
import dask.array
X = dask.array.from_array(rows_of(4000, 192, 3), chunks=(1000, 192))
def fit(limit):
    GaussianMixture(3, algorithm="em", random_state=0, max_iter=3, memory_limit=limit).fit(X)
""",
}


@pytest.mark.parametrize("name", FITS)
def test_the_smallest_limit_that_a_refusal_names_is_kept(name: str) -> None:
    script = textwrap.dedent(KEPT).replace("CASE", FITS[name])
    report = 'print("peak", int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]))'
    command = [sys.executable, "-W", "ignore", "-c", script + report]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    limit, peak = (int(line.split()[1]) for line in ended.stdout.splitlines()[-2:])
    assert peak * 1024 <= limit


@pytest.mark.filterwarnings("ignore::streamgmm.errors.FewRowsWarning")
def test_what_is_refused_is_refused_before_the_first_pass_and_with_its_size() -> None:
    events: list[object] = []
    limit = memory.process_bytes() + 64 * MIB
    model = GaussianMixture(24, memory_limit=limit, callbacks=[events.append])
    with pytest.raises(MemoryLimitError, match=r"it takes .* smallest limit that works is '\d+MiB"):
        model.fit(np.zeros((1500, 192)))
    assert events == []


def test_a_limit_that_is_ample_leaves_every_bit() -> None:
    rows = np.random.default_rng(0).normal(size=(5000, 4)) + [[4.0], [-4.0]] * 2500
    free, bounded = (
        GaussianMixture(3, random_state=0, memory_limit=limit).fit(rows) for limit in (None, "8GiB")
    )
    np.testing.assert_array_equal(free.means_, bounded.means_)
    np.testing.assert_array_equal(free.covariances_, bounded.covariances_)


SHAPES: list[tuple[CovarianceType, int, int]] = [
    ("full", 4, 96),
    ("full", 40, 32),
    ("full", 3, 256),
    ("tied", 8, 256),
    ("diag", 256, 64),
    ("spherical", 8, 2048),
]


@pytest.mark.parametrize(("covariance_type", "k", "d"), SHAPES)
def test_em_takes_no_more_than_is_accounted_for(
    covariance_type: CovarianceType, k: int, d: int
) -> None:
    random = np.random.default_rng(0)
    rows = random.normal(size=(600, d))
    sizes = MixtureBytes(covariance_type, k, d)
    structure = STRUCTURES[covariance_type]
    eye = np.eye(d) if structure.has_directions else np.ones(1)
    covariances = np.broadcast_to(eye, structure.shape(k, d)).copy()
    start = Parameters.create(covariance_type, np.full(k, 1 / k), rows[:k], covariances)
    source = SampleSource(rows, np.ones(len(rows)))
    with ThreadExecutor(1) as executor:
        reader = Reader(source, executor, lambda event: None)
        # The first run loads the kernels.
        expectation_maximization(reader, start, tol=0.0, max_iter=1, objective=Objective(1e-3))
        tracemalloc.start()
        expectation_maximization(reader, start, tol=0.0, max_iter=3, objective=Objective(1e-3))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    bound = sizes.em(scratch_bytes(covariance_type, k, d) + 4 * sizes.statistics)
    assert peak <= bound <= 5 * peak


@pytest.mark.parametrize("order", [3, 0])
def test_fits_of_low_rank_take_no_more_than_is_accounted_for(order: int) -> None:
    k, d, rank = 4, 1024, 4
    random = np.random.default_rng(0)
    rows = random.normal(size=(200, d))
    covariances = joined(random.normal(size=(k, d, rank)), np.ones((k, d)))
    start = Parameters.create(
        structure_name("low_rank", rank, d), np.full(k, 1 / k), rows[:k], covariances
    )
    settings = Settings(k, start.covariance_type, "kmeans", Objective(1e-3), 1)
    effort = Effort(order)
    sizes = settings.memory(100, d, 100, 8, False, 1 << 30)
    with ThreadExecutor(1) as executor:
        everything, sample = (
            Reader(SampleSource(own, np.ones(len(own))), executor, lambda event: None)
            for own in (rows, rows[::2])
        )

        def fit(n_passes: int) -> None:
            corrected = SampleCorrection(sample, settings.objective, order, 5)
            accelerated_em(
                everything,
                start,
                tol=0.0,
                max_iter=n_passes,
                objective=settings.objective,
                order=order,
                corrected=corrected if effort.corrects else None,
            )

        # The first run loads the kernels.
        fit(1)
        tracemalloc.start()
        fit(5)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    scratch = scratch_bytes(start.covariance_type, k, d)
    work = scratch + 8 * sizes.mixture.statistics
    bound = max(sizes.during_passes(effort) + work, sizes.between_passes(effort))
    # The sample, and blocks of other work, are in the account too.
    bound -= _FIXED_BYTES + 100 * 8 * d
    assert peak <= bound <= 5 * peak


def test_a_million_wide_rows_fit_in_a_gibibyte_with_low_rank() -> None:
    source = generated(1_000_000, 1536)
    source.dtype = np.dtype(np.float32)
    settings = Settings(64, structure_name("low_rank", 16, 1536), "kmeans", Objective(), 1)
    needs = FitNeeds(source, settings, False)
    assert needs.effort(1 << 30).order == 0
    budget = Budget(1 << 30, 400 * MIB, 1, drives=True)
    # As many statistics as the tree of the chunks has levels wait to be merged.
    assert all(budget.holds(source, work, 10, 1) for work in needs.works(1 << 30))


def test_less_memory_means_less_effort_and_nothing_else_does() -> None:
    needs = {effort: (len(EFFORTS) - i) * MIB for i, effort in enumerate(EFFORTS)}
    limits = range(396 * MIB, 496 * MIB, MIB)
    found = [EFFORTS.index(affordable(limit, needs.__getitem__)) for limit in limits]
    assert found == sorted(found, reverse=True)
    assert (found[0], found[-1]) == (len(EFFORTS) - 1, 0)
    assert affordable(None, needs.__getitem__) == EFFORTS[0]
