"""What must be settled before any test module is imported."""

import gc
import os
import signal
from collections.abc import Iterator

import hypothesis
import pytest

# SciPy reads it when it is first imported; scikit-learn's array API checks run only with it.
os.environ.setdefault("SCIPY_ARRAY_API", "1")

pytest.register_assert_rewrite("tests.sources.conformance", "streamgmm.testing")

# A job that a shell runs in the background ignores Ctrl-C, and so would the processes that
# tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes says nothing of its result.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")


@pytest.fixture(scope="module")
def several_passes() -> Iterator[None]:
    """Let a sample of few rows be a part of them, as one of many rows is.

    A fit whose sample is all rows makes two passes.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("streamgmm.algorithms.sampling.row_sample._FEW_VALUES", 0)
        yield


def pytest_sessionstart(session: pytest.Session) -> None:
    """Compile the kernels before the workers of a run of all tests start."""
    config = session.config
    is_whole = config.args_source is not pytest.Config.ArgsSource.ARGS
    # Workers do not start workers.
    if is_whole and config.getoption("numprocesses", None):
        from streamgmm.executors.warmup import compile_all

        compile_all()


def pytest_collection_finish() -> None:
    """Exclude the collected tests from garbage collections, of which each would take a second."""
    gc.collect()
    gc.freeze()
