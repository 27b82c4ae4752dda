"""Locks on files: one holder among all threads and processes of a machine."""

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Errors of a file system without locks.
_WITHOUT_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)
# Seconds between two attempts to take a lock that another process holds.
_PAUSE = 0.002


@contextmanager
def locked(path: Path, patience: float = 0.0) -> Iterator[None]:
    """Hold a lock while the block runs.

    The lock is an advisory lock (flock) on a file that exists only while a process holds or waits
    for the lock. The lock ends with its process, even if this is killed.

    Parameters
    ----------
    path : Path
        The file that stands for the lock. A symbolic link is refused.
    patience : float
        Seconds to wait for another holder.

    Raises
    ------
    TimeoutError
        If another thread or process still holds the lock.
    OSError
        If the file cannot be created or locked.
    """
    deadline = time.monotonic() + patience
    while (descriptor := _attempt(path)) is None:
        if time.monotonic() >= deadline:
            raise TimeoutError(f"another process has {path} locked")
        time.sleep(_PAUSE)
    try:
        yield
    finally:
        # The file is removed before the lock is released. A process that waits with this file open
        # finds that the file has no name.
        if _has_name(descriptor, path):
            path.unlink()
        # A forked process shares the lock, so closing the descriptor would not release it.
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


def _attempt(path: Path) -> int | None:
    """Return the descriptor of the locked file; None if another holder has it or just had it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        is_held = _has_name(descriptor, path)
    except BlockingIOError:
        is_held = False
    except BaseException as error:
        os.close(descriptor)
        if isinstance(error, OSError) and error.errno in _WITHOUT_LOCKS:
            path.unlink(missing_ok=True)
            raise OSError(
                error.errno,
                f"the file system of {path.parent} cannot lock files; write to a local disk, and "
                "copy the file from there",
            ) from None
        raise
    if is_held:
        return descriptor
    os.close(descriptor)
    return None


def _has_name(descriptor: int, path: Path) -> bool:
    """Return whether the open file is the one at the path."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat(follow_symlinks=False))
    except FileNotFoundError:
        return False
