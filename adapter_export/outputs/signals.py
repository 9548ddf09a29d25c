"""SIGTERM and SIGHUP end a command as SIGINT does: by an exception that leaves nothing half-done behind."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# SIGHUP is what closing a terminal sends; Windows has none.
_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class Terminated(BaseException):
    """A signal asked this process to end. Like KeyboardInterrupt no Exception, which somebody might take for a
    failure."""


class _State:
    # The first signal that came and was to end the command.
    received: int | None = None
    # Whether the command has done its work, so that ending it would undo nothing.
    done = False


@contextmanager
def ending() -> Iterator[None]:
    """In the block, these signals raise Terminated in the main thread, except those that whoever started this process
    had it ignore, or that have a handler of somebody else's. For a command line, which is alone in its process."""
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
    """The signal that is to end the command of `ending`, if one came."""
    return _State.received


def raise_if_received() -> None:
    """Raise Terminated where a signal came whose exception got lost: Python drops those raised in a finalizer, and
    libraries may catch them."""
    if _State.received is not None:
        raise Terminated


def work_is_done() -> None:
    """The output is in its place: the next signal comes too late, and the command ends as it would have anyway."""
    _State.done = True


@contextmanager
def deferred() -> Iterator[None]:
    """Hold signals back until the end of the block, for work that is short and must not be cut in two."""
    if threading.current_thread() is not threading.main_thread():
        # Signals are handled in the main thread alone.
        yield
        return
    waiting: list[int] = []
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    # None: a handler that was not installed by Python, which cannot be put back.
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
        # Once only: whoever insists is heard.
        _State.done = False
        return
    if _State.received is None:
        _State.received = number
    raise Terminated
