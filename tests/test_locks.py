"""Locks: one holder among threads and processes, and no file that stays."""

import errno
import fcntl
import multiprocessing
import os
import shutil
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import streamgmm
from streamgmm import GaussianMixture
from streamgmm.errors import OutputError
from streamgmm.locks import locked
from tests.failures.checkpoint import exit_code, forked


def test_a_lock_has_one_holder_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with locked(path):
        with pytest.raises(TimeoutError, match=r"another process has .*lock locked"), locked(path):
            pytest.fail("two holders")
        with pytest.raises(TimeoutError), locked(path, patience=0.05):
            pytest.fail("two holders")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(LookupError), locked(path):
        raise LookupError
    with locked(path):
        pass


def test_who_waits_gets_the_lock_when_it_is_released(tmp_path: Path) -> None:
    path, order = tmp_path / "lock", []

    def wait() -> None:
        with locked(path, patience=60.0):
            order.append("second")

    with locked(path):
        thread = threading.Thread(target=wait)
        thread.start()
        time.sleep(0.05)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]
    assert list(tmp_path.iterdir()) == []


def count_up(folder: Path, n_steps: int) -> None:
    """Add to a number in a file, which is lost if two do so at once."""
    for _ in range(n_steps):
        with locked(folder / "lock", patience=60.0):
            number = int((folder / "number").read_text())
            (folder / "number").write_text(str(number + 1))


def test_no_two_processes_hold_a_lock(tmp_path: Path) -> None:
    """Each release removes the file that the others wait for."""
    (tmp_path / "number").write_text("0")
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=count_up, args=(tmp_path, 300)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert (tmp_path / "number").read_text() == "1200"
    assert [path.name for path in tmp_path.iterdir()] == ["number"]


def test_a_lock_ends_with_its_process(tmp_path: Path) -> None:
    path = tmp_path / "lock"

    def hold() -> None:
        with locked(path):
            (tmp_path / "held").touch()
            signal.pause()

    child = forked(hold)
    while not (tmp_path / "held").exists():
        time.sleep(0.01)
    with pytest.raises(TimeoutError), locked(path):
        pytest.fail("two holders")
    os.kill(child, signal.SIGKILL)
    assert exit_code(child) == -signal.SIGKILL
    with locked(path):
        pass
    assert not path.exists()


def test_a_lock_ends_although_a_forked_process_runs(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with locked(path):
        child = forked(signal.pause)
    with locked(path):
        pass
    os.kill(child, signal.SIGKILL)
    exit_code(child)


def test_the_lock_of_another_is_not_removed(tmp_path: Path) -> None:
    """Someone has removed the folder of a lock, and another process has made it again."""
    path = tmp_path / "lock"
    with locked(path):
        path.unlink()
        path.write_text("of another process")
    assert path.read_text() == "of another process"


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "lock").symlink_to("precious")
    with pytest.raises(OSError, match="symbolic links"), locked(tmp_path / "lock"):
        pytest.fail("locked")
    assert (tmp_path / "precious").read_text() == "precious"


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK])
def test_a_file_system_without_locks_is_named(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a parallel file system that was mounted without them."""
    path, rows = tmp_path / "parallel" / "m.gmm", np.random.default_rng(0).normal(size=(50, 2))
    path.parent.mkdir()
    flock = fcntl.flock

    def refuse(descriptor: int, operation: int) -> None:
        if "parallel" in str(Path(f"/proc/self/fd/{descriptor}").readlink()):
            raise OSError(number, os.strerror(number))
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", refuse)
    model = GaussianMixture(1).fit(rows)
    message = r"cannot be written: .*parallel.* cannot lock files; write to a local disk, and copy"
    with pytest.raises(OutputError, match=message):
        model.save(path)
    with pytest.raises(OutputError, match=message):
        model.predict(rows, out=path.with_name("labels.npy"))
    with pytest.raises(OutputError, match=message):
        GaussianMixture(1, checkpoint=path.with_name("c")).fit(rows)
    assert not list(path.parent.glob("**/*lock"))
    # As the message says:
    model.save(tmp_path / "m.gmm")
    shutil.copy(tmp_path / "m.gmm", path)
    assert streamgmm.load(path).n_components == 1
