"""A lock on a file, by the operating system. It becomes free when the process that holds it ends in any way."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

# Seconds that a command waits for another one that writes the same bundle, unless told otherwise.
LOCK_TIMEOUT = 60.0
_UNSUPPORTED = frozenset({errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP})


class Unsupported(Exception):
    """The file system has no locks, like some network file systems of clusters."""


def acquire(path: Path) -> int | None:
    """Locks the file at `path`, which is made if it is missing.

    Returns:
        The descriptor that holds the lock, for `release`; None while another process or thread holds it.

    Raises:
        OSError: The file cannot be opened.
        Unsupported: The file system has no locks.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        try:
            if not _lock(descriptor):
                os.close(descriptor)
                return None
            if is_at(descriptor, path):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        # The last holder removed the file between the two calls, so this lock excludes no other process.
        os.close(descriptor)


def release(descriptor: int) -> None:
    """Frees the lock."""
    os.close(descriptor)


def is_at(descriptor: int, path: Path) -> bool:
    """Returns whether the locked file is still the one at `path`."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _lock(descriptor: int) -> bool:
    if sys.platform == "win32":
        import msvcrt

        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except PermissionError:
            return False
        return True
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in _UNSUPPORTED:
            raise Unsupported from None
        raise
    return True
