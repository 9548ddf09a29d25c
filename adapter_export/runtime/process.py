"""What is made in one process is used in that process: ONNX Runtime's threads, ours, and whoever held a lock are not
there in a fork of it.

Measured with ONNX Runtime 1.31: in a fork, a session with one thread runs, one that runs operators side by side never
ends, and freeing one that has threads ends the process with SIGSEGV.
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
    """The process that something belongs to. Make it the first attribute of that: pickling then says what is wrong."""

    def __init__(self, what: str) -> None:
        """what: for messages, `AdapterSession of bundle`."""
        self._what, self._process = what, os.getpid()

    @property
    def here(self) -> bool:
        """Whether this is that process."""
        return os.getpid() == self._process

    def check(self) -> None:
        """Raise WrongProcess in any other."""
        if not self.here:
            raise WrongProcess(
                f"{self._what}: made in process {self._process}, used in process {os.getpid()}, a fork of it; {_FORK}"
            )

    def only_here(self, action: Callable[[], None]) -> Callable[[], None]:
        """`action`, which does nothing in any other process: a lock that it waits for may be held there forever."""
        return lambda: action() if self.here else None

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"{self._what}: cannot be pickled, it belongs to process {self._process}; make another there")


# ONNX Runtime's sessions of this process.
_living: WeakSet[object] = WeakSet()


def never_freed_in_a_fork(session: object) -> None:
    """A fork of this process keeps the session to its end: freeing it there crashes."""
    _living.add(session)


def _keep() -> None:
    for session in list(_living):
        # One reference more than anybody gives back, not even the interpreter at its end.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(session))
    _living.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_keep)
