"""Keeps objects with threads or locks in the process that made them. A fork of that process has none of its threads.

Measured with ONNX Runtime 1.31 in a fork: a session with one thread runs; a session that runs operators in parallel
never ends; freeing a session that has threads ends the process with SIGSEGV.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from typing import NoReturn
from weakref import WeakSet

from adapter_export.errors import WrongProcess

_FORK = "make it after the fork (with gunicorn in `post_fork`, or without `preload_app`)"


class Home:
    """The process that an object belongs to.

    Make this the first attribute of the object. An attempt to pickle the object then fails with a clear message.
    """

    def __init__(self, what: str) -> None:
        """Takes the current process.

        Args:
            what: Name of the object in messages, such as `AdapterSession of bundle`.
        """
        self._what, self._process = what, os.getpid()

    @property
    def here(self) -> bool:
        """Whether the current process is the one that the object belongs to."""
        return os.getpid() == self._process

    def check(self) -> None:
        """Raises WrongProcess in any other process."""
        if not self.here:
            raise WrongProcess(
                f"{self._what}: made in process {self._process}, used in process {os.getpid()}, a fork of it; {_FORK}"
            )

    def only_here(self, action: Callable[[], None]) -> Callable[[], None]:
        """Returns a function that calls `action` in this process, and does nothing in any other.

        In a fork, a lock that `action` waits for may be held forever.
        """
        return lambda: action() if self.here else None

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"{self._what}: cannot be pickled, it belongs to process {self._process}; make another there")


# The ONNX Runtime sessions of this process.
_living: WeakSet[object] = WeakSet()


def never_freed_in_a_fork(session: object) -> None:
    """Keeps a fork of this process from freeing the session, which would crash the fork."""
    _living.add(session)


def _keep() -> None:
    """Runs in a fork, and keeps all sessions of its parent alive until the fork ends."""
    for session in list(_living):
        # One reference that is never released, not even when the interpreter ends.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(session))
    _living.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_keep)
