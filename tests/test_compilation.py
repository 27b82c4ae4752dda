"""Compiled code is kept between processes, wherever that is possible, and safely."""

import ctypes
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import streamgmm
from streamgmm.core.kernels import hard, incomplete, mixture, single
from streamgmm.executors.warmup import ROW_TYPES, compile_kernels

# The kernel that is compiled fastest.
IMPUTATION = """
    import numpy as np
    from concurrent.futures import ThreadPoolExecutor
    from streamgmm.core.frame import Frame
    from streamgmm.core.incomplete import IncompleteExpectation
    from streamgmm.core.parameters import Parameters
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(2000, 3)) + rng.integers(0, 2, (2000, 1)) * 9
    rows[np.arange(2000), np.arange(2000) % 3] = np.nan
    parameters = Parameters.create(
        "full", [0.4, 0.6], [[0, 0, 0], [9, 9, 9]], [np.eye(3) + 0.5, 2 * np.eye(3)]
    )
    expectation = IncompleteExpectation.prepare(parameters, Frame.of(parameters))
    def impute(_=None):
        return expectation.impute(rows).tobytes().hex()
"""
IN_ONE_THREAD = f"{IMPUTATION}    print(impute())\n"
IN_THREADS = f"""{IMPUTATION}
    with ThreadPoolExecutor(4) as threads:
        results = list(threads.map(impute, range(4)))
    assert all(result == results[0] for result in results)
    print(results[0])
"""
ALL_KERNELS = """
    import numpy as np
    from streamgmm.core.e_step import EStep
    from streamgmm.core.frame import Frame
    from streamgmm.core.incomplete import IncompleteExpectation
    from streamgmm.core.parameters import Parameters
    from tests.core.cases import draw, random_parameters
    for covariance_type in ("full", "diag"):
        rng = np.random.default_rng(0)
        parameters = random_parameters(rng, covariance_type, 3, 4, 1.0)
        rows = draw(rng, parameters, 20_000)
        gaps = np.where(rng.random(rows.shape) < 0.3, np.nan, rows)
        frame = Frame.of(parameters)
        prepared = IncompleteExpectation.prepare(parameters, frame)
        single = EStep.prepare(parameters, frame, "float32")
        assert single.sums_single
        statistics = [prepared.statistics(rows), prepared.statistics(gaps), single.statistics(rows)]
        for found in statistics:
            print(found.moments.tobytes().hex(), found.scatter.tobytes().hex())
            print(found.log_likelihood.hex())
        for r in (rows, gaps):
            posterior = prepared.posterior(r, with_responsibilities=True)
            print(posterior.scores.tobytes().hex(), posterior.responsibilities.tobytes().hex())
        print(prepared.impute(gaps).tobytes().hex())
"""
A_PIECE_BESIDE_A_KERNEL = """
    import numba
    import numpy as np
    from streamgmm import GaussianMixture
    from streamgmm.core.kernels.compilation import FAST_SUMS
    from streamgmm.core.kernels.products import add_features_product, lines
    rng = np.random.default_rng(0)
    GaussianMixture(2, random_state=0, algorithm="em").fit(rng.normal(size=(2000, 3)))
    @numba.njit(fastmath=FAST_SUMS, error_model="numpy")
    def product(theta, features, z, n, first, stop, reach, out):
        add_features_product(theta, features, z, n, first, stop, reach, out)
    z, out = lines(3), lines(2)
    z[:], out[:] = rng.normal(size=z.shape), 0.0
    features = np.array([[0, 0], [0, 1], [1, 1], [1, 2]])
    theta = rng.normal(size=(2, 4))
    product(theta, features, z, 64, 0, 2, 4, out)
    expected = theta @ (z[features[:, 0]] * z[features[:, 1]])
    assert np.abs(out - expected)[:, :64].max() < 1e-12
"""
# One worker fills the cache for all of these tests.
pytestmark = pytest.mark.xdist_group("compilation")

PACKAGE = Path(streamgmm.__file__).parent


def run(script: str, **environment: str) -> str:
    """Standard output of a new interpreter."""
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def kept(folder: Path) -> dict[str, tuple[int, int]]:
    """Files in a cache, with time and size."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.stat().st_size)
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A cache that processes filled at once, one of them from several threads; what they found."""
    folder = tmp_path_factory.mktemp("cache")
    with ThreadPoolExecutor(2) as threads:
        scripts = [IN_ONE_THREAD, IN_THREADS]
        found = list(threads.map(lambda s: run(s, NUMBA_CACHE_DIR=str(folder)), scripts))
    return folder, found


def test_concurrent_first_use_gives_the_same_bits(cache: tuple[Path, list[str]]) -> None:
    _, found = cache
    assert found[0]
    assert set(found) == {found[0]}


def test_later_processes_compile_nothing(cache: tuple[Path, list[str]]) -> None:
    folder, found = cache
    before = kept(folder)
    assert any(name.endswith(".nbc") for name in before)
    assert run(IN_ONE_THREAD, NUMBA_CACHE_DIR=str(folder)) == found[0]
    assert kept(folder) == before


def test_a_damaged_cache_is_no_error(cache: tuple[Path, list[str]]) -> None:
    """An interrupted or full disk leaves files cut off; they are compiled anew."""
    folder, found = cache
    for path in folder.rglob("*.nbc"):
        path.write_bytes(path.read_bytes()[:1000])
    assert run(IN_ONE_THREAD, NUMBA_CACHE_DIR=str(folder)) == found[0]


def give_up_override() -> None:
    """Let permissions bind root too, as they bind everybody else."""
    bounding_set_drop, override, read_search = 24, 1, 2
    libc = ctypes.CDLL(None, use_errno=True)
    for capability in (override, read_search):
        if libc.prctl(bounding_set_drop, capability, 0, 0, 0):
            raise OSError(ctypes.get_errno(), "prctl")


@pytest.fixture
def read_only_install(tmp_path: Path) -> Iterator[Path]:
    """A copy of the package in a folder that may not be written to; that folder."""
    folder = tmp_path / "site"
    for path in PACKAGE.rglob("*.py"):
        target = folder / "streamgmm" / path.relative_to(PACKAGE)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    folders = [folder, *(path for path in folder.rglob("*") if path.is_dir())]
    for path in folders:
        path.chmod(0o555)
    yield folder
    for path in folders:
        path.chmod(0o755)


def test_a_read_only_install_works(read_only_install: Path, cache: tuple[Path, list[str]]) -> None:
    head = f"""
        import sys
        sys.path.insert(0, {str(read_only_install)!r})
        import streamgmm
        assert streamgmm.__file__.startswith({str(read_only_install)!r})
        from streamgmm.core.kernels.compilation import cache_folder
        assert cache_folder() is None, cache_folder()
    """
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("NUMBA_CACHE_DIR", "XDG_CACHE_HOME")
    }
    # The home cannot be written to either.
    environment["HOME"] = str(read_only_install)
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(head) + textwrap.dedent(IN_ONE_THREAD)],
        capture_output=True,
        text=True,
        env=environment,
        cwd=read_only_install,
        preexec_fn=give_up_override if os.getuid() == 0 else None,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == cache[1][0]
    assert not list(read_only_install.rglob("__pycache__"))


@pytest.fixture(scope="module")
def whole_cache(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A cache that one process filled with many kernels; what it found."""
    folder = tmp_path_factory.mktemp("cache")
    return folder, run(ALL_KERNELS, NUMBA_CACHE_DIR=str(folder))


def test_what_is_compiled_gives_the_bits_of_what_is_kept(
    cache: tuple[Path, list[str]], whole_cache: tuple[Path, str]
) -> None:
    """Whichever kernels a process compiles or loads, or has compiled or loaded before."""
    folder, compiled = whole_cache
    assert run(ALL_KERNELS, NUMBA_CACHE_DIR=str(folder)) == compiled
    assert run(IN_ONE_THREAD, NUMBA_CACHE_DIR=str(folder)) == cache[1][0]


def test_other_compiled_code_does_not_find_the_pieces_of_a_kernel(
    whole_cache: tuple[Path, str],
) -> None:
    # They are made for their kernel, down to how they are called: a stray call would crash.
    run(A_PIECE_BESIDE_A_KERNEL, NUMBA_CACHE_DIR=str(whole_cache[0]))


@pytest.mark.parametrize("row_type", ROW_TYPES)
def test_all_kernels_are_compiled_ahead(row_type: str) -> None:
    compile_kernels(row_type)
    kernels = [mixture.e_step, hard.hard_step, single.single_statistics]
    if row_type == "float64":
        kernels += [incomplete.incomplete_statistics, incomplete.incomplete_posteriors]
    for kernel in kernels:
        assert np.dtype(row_type) in kernel._compiled, kernel.__name__
