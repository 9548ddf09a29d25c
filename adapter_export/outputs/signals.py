"""SIGTERM and SIGHUP end a command like SIGINT: by an exception, so that nothing half-done remains."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# SIGHUP is sent when a terminal is closed. Windows has none.
_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class Terminated(BaseException):
    """A signal asked this process to end.

    Like KeyboardInterrupt it is no Exception, so that `except Exception` does not take it for a failure.
    """


class _State:
    # The first signal that came to end the command.
    received: int | None = None
    # Whether the command has done its work, so that ending it early would change nothing.
    done = False


@contextmanager
def ending() -> Iterator[None]:
    """Within the `with` statement, these signals raise Terminated in the main thread.

    Signals that the process was started to ignore, and signals with another handler, are left as they are. For a
    command line, which is alone in its process.
    """
    _State.received, _State.done = None, False
    default = (signal.SIG_DFL, signal.default_int_handler)
    before = {number: handler for number in _SIGNALS if (handler := signal.getsignal(number)) in default}
    for number in before:
        signal.signal(number, _terminate)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def received() -> int | None:
    """Returns the signal that is to end the command of `ending`; None if none came."""
    return _State.received


def raise_if_received() -> None:
    """Raises Terminated if a signal came whose exception was lost.

    Python drops exceptions that are raised in a finalizer, and libraries may catch them.
    """
    if _State.received is not None:
        raise Terminated


def work_is_done() -> None:
    """Notes that the output is at its place. From here on a signal is too late, and the command ends as it would
    have anyway.
    """
    _State.done = True


@contextmanager
def deferred() -> Iterator[None]:
    """Holds signals back until the `with` statement ends, for short work that must not be interrupted."""
    if threading.current_thread() is not threading.main_thread():
        # Signals are handled in the main thread only.
        yield
        return
    waiting: list[int] = []
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    # None stands for a handler that Python did not install, and that cannot be restored.
    held = {number: handler for number, handler in before.items() if handler not in (None, signal.SIG_IGN)}
    for number in held:
        signal.signal(number, lambda number, frame: waiting.append(number))
    try:
        yield
    finally:
        for number, handler in held.items():
            signal.signal(number, handler)
        if waiting:
            signal.raise_signal(waiting[0])


def _terminate(number: int, frame: FrameType | None) -> None:
    if _State.done:
        # Only once: a second signal has its default effect.
        _State.done = False
        return
    if _State.received is None:
        _State.received = number
    raise Terminated
