"""Counts the bytes that several threads have done."""

from __future__ import annotations

import threading
from collections.abc import Callable

# Called with the bytes done and the bytes in all; never by two threads at the same time.
Progress = Callable[[int, int], None]


class Stopped(Exception):
    """Raised in a thread whose result is not needed any more."""


class Meter:
    """Adds up bytes, reports the sum, and ends the threads that report to it after an error."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self._total = total
        self._progress = progress
        self._done = 0
        self._stopped = False
        self._lock = threading.Lock()

    def tick(self, size: int) -> None:
        """Adds `size` bytes. Raises Stopped after `stop`."""
        with self._lock:
            if self._stopped:
                raise Stopped
            self._done += size
            if self._progress is not None:
                self._progress(self._done, self._total)

    def stop(self) -> None:
        with self._lock:
            self._stopped = True
